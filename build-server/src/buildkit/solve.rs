//! One build in a daemon.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::buildkit::moby::buildkit::v1 as api;
use provenance::context::Kind;
use provenance::request::Request as BuildRequest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status};

use super::attributes::{Translated, translate};
use super::auth::{AuthService, SecretsService};
use super::blobs::ContextBlobs;
use super::capture::Capture;
use super::client::ControlChannel;
use super::content::ContentService;
use super::daemon::Daemon;
use super::error::EngineError;
use super::export::{Export, FileSendService};
use super::failure::{FailedStep, solve_error};
use super::filesync::{Faults, FileSyncService, Trees};
use super::mask::Masks;
use super::progress::{EngineEvent, Progress};
use super::record;
use super::session::{Services, Session, random_hex};
use super::source_policy::{PolicyService, Questions, SourcePolicy};
use super::ssh::{AgentHub, SshService};
use super::syntax::{MAX_LOOKED_AT, check_syntax};
use super::tree::{Tree, TreeError};
use crate::secrets::{RegistryCredentials, SecretValues};

/// How long a cancelled build's steps may take to end before it is reported as cancelled anyway.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);
/// How long the receiver of a tree may take to say why it gave up.
const CAUSE_LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the progress may take after the result.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// What one build needs.
pub struct SolveInputs {
    /// The authenticated request.
    pub request: BuildRequest,
    /// The project's stored trees and blobs.
    pub store: Arc<dyn ContextBlobs>,
    /// Values of the secrets.
    pub secrets: Arc<SecretValues>,
    /// Registry logins.
    pub credentials: Arc<RegistryCredentials>,
    /// Forwarded agents, when the request has ssh ids.
    pub agents: Option<AgentHub>,
    /// Decides about sources.
    pub policy: Arc<dyn SourcePolicy>,
    /// An empty directory for the export, on the file system of the results.
    pub scratch: PathBuf,
}

/// A finished solve.
#[derive(Debug)]
pub struct Solved {
    /// The result.
    pub export: Export,
    /// What was observed.
    pub capture: Capture,
}

/// Builds. Ends early when `cancel` is cancelled: then the steps' processes have ended before this returns.
/// Dropping the future ends the build as well, without waiting for the steps.
pub async fn solve(
    daemon: &Daemon,
    inputs: SolveInputs,
    events: mpsc::Sender<EngineEvent>,
    cancel: CancellationToken,
) -> Result<Solved, EngineError> {
    let trees: BTreeMap<String, Arc<Tree>>;
    let (translated, syntax, shared_key) = {
        let request = inputs.request.clone();
        let store = inputs.store.clone();
        let (translated, syntax) = blocking(move || prepare(&request, &store)).await??;
        trees = translated
            .trees
            .iter()
            .map(|(name, root)| (name.clone(), Arc::new(Tree::new(inputs.store.clone(), *root))))
            .collect();
        let named: Vec<_> = translated.trees.iter().map(|(name, root)| (name.clone(), *root)).collect();
        let store = inputs.store.clone();
        let transfers = daemon.transfers.clone();
        let key = blocking(move || transfers.key_for(&store, &named)).await?;
        (translated, syntax, key.map_err(|e| EngineError::Context { digest: e.digest, problem: e.problem })?)
    };
    let masks = Masks::new(&inputs.secrets);
    let shared = Shared::default();
    let services = Services {
        file_sync: FileSyncService::new(Trees(Arc::new(trees)), shared.faults.clone()),
        file_send: FileSendService {
            expected: translated.expected,
            scratch: inputs.scratch.clone(),
            layers: daemon.layers.clone(),
            outcome: shared.export.clone(),
        },
        auth: AuthService(inputs.credentials.clone()),
        secrets: SecretsService(inputs.secrets.clone()),
        ssh: SshService(inputs.agents.clone()),
        policy: PolicyService {
            policy: inputs.policy.clone(),
            questions: shared.questions.clone(),
            git_context: translated.git_context,
        },
        content: ContentService { store: inputs.store.clone(), names: translated.stores.clone() },
    };
    let session = match Session::open(daemon.channel(), &shared_key, services).await {
        Ok(session) => session,
        Err(status) if daemon.ended_with(&status).await => return Err(daemon.died()),
        Err(status) => {
            let message = format!("session: {}", status.message());
            return Err(EngineError::Other { message, source_excerpts: Vec::new() });
        }
    };
    let reference = random_hex::<16>();
    let progress = watch_progress(daemon.channel(), &reference, masks.clone(), events);
    let run = Run { daemon, inputs: &inputs, translated: &translated, shared: &shared, masks: &masks };
    let (outcome, progress) = run.build(&session, &reference, progress, &cancel).await;
    let solved = match outcome {
        Ok(export) => {
            let captured = run.capture(&reference, export.has_no_layers(), syntax, progress).await;
            captured.map(|capture| Solved { export, capture })
        }
        Err(failure) => Err(run.explain(failure, progress.as_ref()).await),
    };
    let channel = daemon.channel().clone();
    // The build does not wait: BuildKit collects garbage before it answers, which takes longer than a cached build.
    // A daemon that is stopped first forgets all its builds then, and at its next start.
    tokio::spawn(async move { record::forget(&channel, &reference).await });
    solved
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    let failed =
        |e: tokio::task::JoinError| EngineError::Other { message: e.to_string(), source_excerpts: vec![] };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Reads the directive and translates the request.
fn prepare(
    request: &BuildRequest,
    store: &Arc<dyn ContextBlobs>,
) -> Result<(Translated, Option<String>), EngineError> {
    let mut syntax = None;
    if let Some(root) = request.dockerfile.root {
        let unreadable =
            |e: super::blobs::BlobError| EngineError::Context { digest: e.digest, problem: e.problem };
        let tree = Tree::new(store.clone(), root);
        let path = request.dockerfile.path.as_bytes();
        let mut entry = tree.resolve(path).map_err(unreadable)?;
        if entry.is_none()
            && let Some(directory) = path.strip_suffix(b"Dockerfile")
        {
            // Docker takes `dockerfile` too.
            entry = tree.resolve(&[directory, b"dockerfile"].concat()).map_err(unreadable)?;
        }
        let missing = || EngineError::DockerfileMissing { path: request.dockerfile.path.clone() };
        let (Kind::File { digest, .. } | Kind::HardLink { digest, .. }) = entry.ok_or_else(missing)?.kind
        else {
            return Err(missing());
        };
        let mut text = Vec::new();
        let reader = store.open_blob(&digest).map_err(unreadable)?;
        reader
            .take(MAX_LOOKED_AT)
            .read_to_end(&mut text)
            .map_err(|e| EngineError::Context { digest, problem: e.to_string() })?;
        syntax = check_syntax(&text)?;
    }
    Ok((translate(request, syntax.as_deref())?, syntax))
}

/// What the session's services leave behind.
#[derive(Default)]
struct Shared {
    faults: Faults,
    export: Arc<Mutex<Option<Result<Export, EngineError>>>>,
    questions: Arc<Mutex<Questions>>,
}

/// Why a run ended without a result.
enum Failure {
    Refused(Status),
    Known(EngineError),
}

struct Run<'a> {
    daemon: &'a Daemon,
    inputs: &'a SolveInputs,
    translated: &'a Translated,
    shared: &'a Shared,
    masks: &'a Masks,
}

type Watched = AbortOnDropHandle<Progress>;

/// Passes progress on until the solve with this reference is over.
fn watch_progress(
    channel: &ControlChannel,
    reference: &str,
    masks: Arc<Masks>,
    events: mpsc::Sender<EngineEvent>,
) -> Watched {
    let mut control = channel.control();
    let request = api::StatusRequest { reference: reference.to_owned() };
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut progress = Progress::new(masks);
        if let Ok(stream) = control.status(request).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                for event in progress.events(message) {
                    // Nobody has to watch.
                    let _ = events.send(event).await;
                }
            }
        }
        for event in progress.finish() {
            let _ = events.send(event).await;
        }
        progress
    }))
}

impl Run<'_> {
    async fn build(
        &self,
        session: &Session,
        reference: &str,
        mut progress: Watched,
        cancel: &CancellationToken,
    ) -> (Result<Export, Failure>, Option<Progress>) {
        let mut control = self.daemon.channel().control();
        let solve = control.solve(self.request(session, reference));
        let agents = async {
            match &self.inputs.agents {
                Some(agents) => agents.lost().await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::Known(EngineError::Cancelled)),
            (id, reason) = agents => Err(Failure::Known(EngineError::AgentGone { id, reason })),
            () = self.daemon.ended() => Err(Failure::Known(self.daemon.died())),
            answer = solve => match answer {
                Ok(_) => Ok(()),
                Err(status) => Err(Failure::Refused(status)),
            },
        };
        let (outcome, limit) = match outcome {
            Ok(()) => (self.exported(), STATUS_LIMIT),
            // The call's end has told the daemon to end the steps; the progress ends when they have.
            Err(failure) => (Err(failure), CANCEL_LIMIT),
        };
        let ended = tokio::time::timeout(limit, &mut progress).await.ok().and_then(Result::ok);
        if let Err(Failure::Refused(status)) = &outcome
            && self.daemon.ended_with(status).await
        {
            return (Err(Failure::Known(self.daemon.died())), ended);
        }
        (outcome, ended)
    }

    fn request(&self, session: &Session, reference: &str) -> Request<api::SolveRequest> {
        let mut frontend_attrs = self.translated.attributes.clone();
        frontend_attrs.extend(self.translated.values.clone());
        let mut request = Request::new(api::SolveRequest {
            reference: reference.to_owned(),
            session: session.id().to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs,
            entitlements: Vec::new(),
            exporters: vec![self.translated.exporter.clone()],
            source_policy_session: session.id().to_owned(),
        });
        // W3C Trace Context, sampled: the runtime shim will know a step's build by it.
        let trace = format!("00-{}-{}-01", random_hex::<16>(), random_hex::<8>());
        request.metadata_mut().insert("traceparent", trace.parse().expect("hex digits are ASCII"));
        request
    }

    fn exported(&self) -> Result<Export, Failure> {
        let taken = self.shared.export.lock().unwrap_or_else(PoisonError::into_inner).take();
        let missing =
            || EngineError::Export { problem: "BuildKit finished without sending a result".to_owned() };
        taken.unwrap_or_else(|| Err(missing())).map_err(Failure::Known)
    }

    /// The error to report: what we saw ourselves says more than what BuildKit made of it.
    async fn explain(&self, failure: Failure, progress: Option<&Progress>) -> EngineError {
        let status = match failure {
            Failure::Known(error) => return error,
            Failure::Refused(status) => status,
        };
        if let Some((source_identifier, reason)) =
            self.shared.questions.lock().unwrap_or_else(PoisonError::into_inner).denied.take()
        {
            return EngineError::SourceDenied { source_identifier, reason };
        }
        // What the solve says then is a consequence; the receiver of a tree tells the cause, on its own way.
        let given_up = status.message().contains("walker is closed");
        let mut faults = self.shared.faults.subscribe();
        if given_up {
            let _ = tokio::time::timeout(CAUSE_LIMIT, faults.wait_for(|faults| !faults.is_empty())).await;
        }
        let (receiver, ours): (Vec<_>, Vec<_>) = faults
            .borrow_and_update()
            .iter()
            .cloned()
            .partition(|fault| matches!(fault, TreeError::Receiver { .. }));
        let status = match receiver.into_iter().next() {
            Some(TreeError::Receiver { problem }) if given_up => Status::unknown(problem),
            _ => status,
        };
        if let Some(fault) = ours.into_iter().last() {
            return match fault {
                TreeError::Blob(blob) => EngineError::Context { digest: blob.digest, problem: blob.problem },
                other => EngineError::Request { problem: other.to_string() },
            };
        }
        if let Some(Err(error)) = self.shared.export.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return error;
        }
        let step = |digest: &str| {
            let progress = progress?;
            Some(FailedStep {
                name: progress.vertex_name(digest)?.to_owned(),
                foreign: progress.is_foreign(digest),
            })
        };
        solve_error(&status, self.masks, &self.translated.dockerfile, step)
    }

    async fn capture(
        &self,
        reference: &str,
        is_empty: bool,
        syntax: Option<String>,
        progress: Option<Progress>,
    ) -> Result<Capture, EngineError> {
        let channel = self.daemon.channel();
        let provenance = record::provenance(channel, reference, is_empty).await?;
        let questions =
            std::mem::take(&mut *self.shared.questions.lock().unwrap_or_else(PoisonError::into_inner));
        let mut capture = Capture {
            vertices: progress.map(Progress::into_vertices).unwrap_or_default(),
            git_commit_time: questions.git_context.as_ref().and_then(|commit| commit.time),
            frontend_attributes: self.translated.attributes.clone(),
            syntax_directive: syntax,
            ..Capture::default()
        };
        record::account(&provenance, &questions, &mut capture)?;
        if capture.syntax_directive.is_none() && self.inputs.request.dockerfile.root.is_none() {
            // The Dockerfile came with the git context, so it can only be looked at now; a result that the
            // wrong frontend made is not given out.
            capture.syntax_directive = record::syntax(&provenance, &self.translated.dockerfile)?;
        }
        capture.provenance = provenance;
        Ok(capture)
    }
}
