//! Builds from request to end: stored in SQLite, queued, run by a [`BuildRunner`], watched event by event.
//!
//! A build's state and events are on disk before anybody is told of them. Secrets, registry logins and agent
//! streams are not: they live in the [`Job`] alone, so a build that had some cannot go on after a restart and
//! fails with that reason.

mod contexts;
mod events;
mod queue;
mod record;
mod retention;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use proto::v1;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use provenance::request::{Request, SignedRequest, Source};
use tokio_util::sync::CancellationToken;

use crate::api::names::BuildName;

use crate::context_store::{PinnedRoot, ProjectStore};
use crate::secrets::{RegistryCredentials, SecretValues};

pub use crate::buildkit::AgentHub;
pub use contexts::JobContexts;
pub use events::EventSink;
pub use queue::{Queue, QueueLimits, Submission, SubmitError};
pub use record::{BuildRecord, Created, EventPage, NewBuild, State, Volatile};
pub use retention::{JobLimits, Retired};
pub use store::{JobError, JobStore, StateLock};

/// One build to run.
pub struct Job {
    /// Its resource name.
    pub name: BuildName,
    /// The project that owns it.
    pub project: ProjectId,
    /// What the caller signed.
    pub signed: SignedRequest,
    /// The key that signed it.
    pub caller: PublicKey,
    /// Values of the build secrets; empty when there are none.
    pub secrets: Arc<SecretValues>,
    /// The caller's registry logins; empty when there are none.
    pub credentials: Arc<RegistryCredentials>,
    /// Forwarded SSH agents, when the request names some.
    pub agents: Option<AgentHub>,
    /// The project's contexts. Those of this build stay until it ends.
    pub store: ProjectStore,
    /// Its contexts: all directories are stored, files may still be arriving. A result may be released only when
    /// [`JobContexts::complete`] has returned.
    pub contexts: JobContexts,
    /// An empty directory for this build's result. The runner leaves an OCI layout in `layout/`; every blob
    /// that the result names is there under `blobs/sha256/`. Removed when the build does not succeed.
    pub result_directory: PathBuf,
    /// An empty directory for everything else; removed when the build ends.
    pub scratch: PathBuf,
}

/// Runs builds: the pipeline in the service, a stand-in in the tests of this module.
#[tonic::async_trait]
pub trait BuildRunner: Send + Sync + 'static {
    /// Runs one build to its end. When `cancel` fires, it ends the build's processes and returns; what it
    /// returns then is replaced by the reason of the cancellation, unless the build had succeeded already.
    async fn run(
        &self,
        job: Job,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<v1::Result, v1::Failure>;

    /// Ends whatever the runner keeps between builds (daemons). No build runs any more.
    async fn shutdown(&self) {}
}

/// The contexts that a request needs from the store.
#[must_use]
pub fn stored_contexts(request: &Request) -> Vec<PinnedRoot> {
    let sources = std::iter::once(&request.context).chain(request.named_contexts.values());
    let mut roots: Vec<PinnedRoot> = sources
        .filter_map(|source| match source {
            Source::Tree { root } => Some(PinnedRoot::Tree(*root)),
            Source::OciLayout { manifest, .. } => Some(PinnedRoot::Layout(*manifest)),
            Source::Git { .. } | Source::Image { .. } => None,
        })
        .chain(request.dockerfile.root.map(PinnedRoot::Tree))
        .collect();
    roots.sort_by_key(|root| *root.digest());
    roots.dedup();
    roots
}
