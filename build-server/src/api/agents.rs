//! SSH agent streams: from the call to the build's agent hub.

use std::pin::Pin;

use proto::v1;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::errors::ApiError;
use crate::jobs::AgentHub;

/// Attaches a client's agent to a build; `first` names build and ssh id.
pub(super) fn attach(
    hub: Option<AgentHub>,
    first: &v1::ForwardAgentRequest,
    _inbound: Streaming<v1::ForwardAgentRequest>,
) -> Result<Pin<Box<dyn Stream<Item = Result<v1::ForwardAgentResponse, Status>> + Send>>, ApiError> {
    let refused = |problem: &str| ApiError::Agent {
        name: first.name.clone(),
        id: first.ssh_id.chars().take(100).collect(),
        problem: problem.to_owned(),
    };
    let _hub = hub.ok_or_else(|| refused(""))?;
    Err(refused("not available yet"))
}
