//! SSH agent streams: frames between a caller's agent and the hub of its build. No key and no agent protocol
//! is known here.

use std::pin::Pin;

use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::errors::ApiError;
use crate::buildkit::{AgentAttachment, AgentFrame, AgentHub};

/// Largest frame of a client in bytes.
const MAX_FRAME: usize = 1 << 20;
/// Frames that wait for a slow client.
const AHEAD: usize = 16;

/// What a client reads.
type Frames = Pin<Box<dyn Stream<Item = Result<v1::ForwardAgentResponse, Status>> + Send>>;
type Outbound = mpsc::Sender<Result<v1::ForwardAgentResponse, Status>>;

/// Attaches a client's agent to a build; `first` names build and ssh id. `ended` fires with the build's end.
pub(super) fn attach(
    hub: Option<(AgentHub, CancellationToken)>,
    first: &v1::ForwardAgentRequest,
    inbound: Streaming<v1::ForwardAgentRequest>,
) -> Result<Frames, ApiError> {
    let refused = |problem: String| ApiError::Agent {
        name: first.name.clone(),
        id: first.ssh_id.chars().take(100).collect(),
        problem,
    };
    let (hub, ended) = hub.ok_or_else(|| refused(String::new()))?;
    let attachment = hub.attach(&first.ssh_id).map_err(|error| refused(error.to_string()))?;
    let (outbound, responses) = mpsc::channel(AHEAD);
    tokio::spawn(forward(attachment, inbound, outbound, ended));
    Ok(Box::pin(ReceiverStream::new(responses)))
}

/// Carries frames until the client goes, which fails the build with that reason, or the build ends.
async fn forward(
    mut attachment: AgentAttachment,
    mut inbound: Streaming<v1::ForwardAgentRequest>,
    outbound: Outbound,
    ended: CancellationToken,
) {
    let reason = loop {
        tokio::select! {
            () = ended.cancelled() => break "the build has ended".to_owned(),
            () = outbound.closed() => break "the client's connection ended".to_owned(),
            frame = attachment.next() => {
                let AgentFrame { connection, data, closed } = frame;
                let response = v1::ForwardAgentResponse { connection, data, closed };
                if outbound.send(Ok(response)).await.is_err() {
                    break "the client's connection ended".to_owned();
                }
            }
            message = inbound.message() => match frame(message) {
                Ok(frame) => attachment.deliver(frame).await,
                Err(reason) => break reason,
            },
        }
    };
    attachment.detach(&reason);
}

fn frame(message: Result<Option<v1::ForwardAgentRequest>, Status>) -> Result<AgentFrame, String> {
    let v1::ForwardAgentRequest { name, ssh_id, connection, data, closed } = match message {
        Ok(Some(message)) => message,
        Ok(None) => return Err("the client closed its agent stream".to_owned()),
        Err(status) => return Err(format!("the client's agent stream failed: {}", status.message())),
    };
    if !name.is_empty() || !ssh_id.is_empty() {
        return Err("the client named a build or ssh id again after its first message".to_owned());
    }
    if data.len() > MAX_FRAME {
        return Err(format!(
            "the client sent a frame of {} bytes, at most {MAX_FRAME} are allowed",
            data.len()
        ));
    }
    Ok(AgentFrame { connection, data, closed })
}
