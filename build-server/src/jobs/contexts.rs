//! A build's contexts, which may still be arriving while it runs.

use std::time::Duration;

use proto::v1;
use provenance::digest::Sha256Digest;
use provenance::request::{Request, Source};
use tokio::time::Instant;

use super::queue::{failure, internal};
use super::stored_contexts;
use crate::context_store::{Completeness, PinnedRoot, ProjectStore, StoreError};

/// The contexts that one build needs from its project's store.
#[derive(Clone)]
pub struct JobContexts {
    store: ProjectStore,
    roots: Vec<PinnedRoot>,
    /// Those whose directories are enough to begin with: the engine waits for a file when it wants it.
    trees: Vec<Sha256Digest>,
    limit: Duration,
    deadline: Instant,
}

impl JobContexts {
    pub(super) fn new(request: &Request, store: &ProjectStore, limit: Duration) -> Self {
        let sources = std::iter::once(&request.context).chain(request.named_contexts.values());
        let mut trees: Vec<_> = sources
            .filter_map(|source| match source {
                Source::Tree { root } => Some(*root),
                Source::OciLayout { .. } | Source::Git { .. } | Source::Image { .. } => None,
            })
            .collect();
        // The Dockerfile is read before anything else.
        trees.retain(|root| request.dockerfile.root != Some(*root));
        let deadline = Instant::now() + limit;
        Self { store: store.clone(), roots: stored_contexts(request), trees, limit, deadline }
    }

    /// Returns when a build may begin: directories of trees, the Dockerfile and layouts are stored.
    pub async fn walkable(&self) -> Result<(), v1::Failure> {
        self.wait(true).await
    }

    /// Returns when every blob is stored.
    pub async fn complete(&self) -> Result<(), v1::Failure> {
        self.wait(false).await
    }

    async fn wait(&self, structure: bool) -> Result<(), v1::Failure> {
        let mut changes = self.store.changes();
        for root in &self.roots {
            let structure = structure && self.trees.contains(root.digest());
            loop {
                changes.mark_unchanged();
                let missing = match self.look(*root, structure).await? {
                    Completeness::Complete => break,
                    Completeness::Missing(blob) => blob,
                };
                // A look goes through the whole tree, so not every blob that comes is a reason for one.
                while self.store.blob_size(&missing).map_err(|e| context_failure(&e))?.is_none() {
                    if tokio::time::timeout_at(self.deadline, changes.changed()).await.is_err() {
                        return Err(self.incomplete(root, &missing));
                    }
                }
            }
        }
        Ok(())
    }

    async fn look(&self, root: PinnedRoot, structure: bool) -> Result<Completeness, v1::Failure> {
        let store = self.store.clone();
        let look = move || if structure { store.structure(root.digest()) } else { store.completeness(&root) };
        match tokio::task::spawn_blocking(look).await {
            Ok(looked) => looked.map_err(|error| context_failure(&error)),
            Err(panic) => Err(internal(&panic.to_string())),
        }
    }

    fn incomplete(&self, root: &PinnedRoot, missing: &Sha256Digest) -> v1::Failure {
        failure(
            "CONTEXT_INCOMPLETE",
            format!(
                "context {} is not complete after {} s: blob {missing} is missing",
                root.digest(),
                self.limit.as_secs()
            ),
            "upload what FindMissingBlobs names, then submit the build again under a new id",
        )
    }
}

fn context_failure(error: &StoreError) -> v1::Failure {
    let (reason, advice) = match error {
        StoreError::Corrupt { .. } => {
            ("CONTEXT_DAMAGED", "submit the build again under a new id; what is missing is uploaded again")
        }
        StoreError::DiskFull { .. } | StoreError::Io { .. } => {
            ("STATE_STORE", "ask the operator to look at the state directory")
        }
        StoreError::TooManyEntries { .. } => {
            ("CONTEXT_INVALID", "leave files out (.dockerignore), or ask the operator for a larger limit")
        }
        _ => ("CONTEXT_INVALID", "upload a well-formed context; see docs/formats.md"),
    };
    failure(reason, error.to_string(), advice)
}
