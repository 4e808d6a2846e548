//! The queue: one task per build, which waits for the build's contexts, then for a slot, then runs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proto::v1;
use provenance::key::PublicKey;
use provenance::request::{SignedRequest, authenticate_request};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contexts::JobContexts;
use super::record::{BuildRecord, Created, NewBuild, State, Volatile};
use super::store::{JobError, JobStore};
use super::{BuildRunner, EventSink, Job, stored_contexts};
use crate::api::names::BuildName;
use crate::context_store::{ContextStore, ProjectStore};
use crate::jobs::AgentHub;
use crate::secrets::{RegistryCredentials, SecretValues};

/// How often a build may be begun: one that takes the server down with it must not do so for ever.
const MAX_ATTEMPTS: u32 = 3;
/// How long a runner may take to end after it was told to.
const CANCEL_GRACE: Duration = Duration::from_secs(60);

/// Sizes and times of the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Builds that run at the same time.
    pub parallel: usize,
    /// Builds that wait, of all projects.
    pub queued: u64,
    /// Builds that wait, of one project.
    pub queued_per_project: u64,
    /// Longest run of one build.
    pub deadline: Duration,
    /// Longest wait for a build's contexts to be uploaded.
    pub context_deadline: Duration,
    /// Most bytes of logs and progress kept per build.
    pub log_bytes: u64,
}

/// A build as it comes from a caller.
pub struct Submission {
    /// What the caller signed.
    pub signed: SignedRequest,
    /// The caller's key.
    pub caller: PublicKey,
    /// Checked against the commitment.
    pub secrets: SecretValues,
    /// Registry logins.
    pub credentials: RegistryCredentials,
}

/// Why a build was not queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The id belongs to another request.
    #[error("build id `{build}` is taken by another request")]
    Taken {
        /// The id.
        build: String,
    },
    /// The queue is full.
    #[error("{queued} builds are waiting{}, at most {limit} may", if *.of_project { " in this project" } else { "" })]
    QueueFull {
        /// Builds that wait.
        queued: u64,
        /// The limit.
        limit: u64,
        /// Whether it is the project's own limit.
        of_project: bool,
    },
    /// The server is going down.
    #[error("the server is stopping")]
    Stopping,
    /// The job store failed.
    #[error(transparent)]
    Store(#[from] JobError),
}

/// Why a build was told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// Somebody asked.
    Asked,
    /// It ran too long.
    Deadline,
    /// The server goes down.
    Draining,
    /// The job store failed.
    Store(String),
}

/// A build with a task.
#[derive(Clone)]
struct Active {
    cancel: CancellationToken,
    stop: Arc<OnceLock<Stop>>,
    agents: Option<AgentHub>,
    /// Fires when the build's task has ended.
    ended: CancellationToken,
}

impl Active {
    fn stop(&self, why: Stop) {
        let _ = self.stop.set(why);
        self.cancel.cancel();
    }
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<JobStore>,
    contexts: ContextStore,
    runner: Arc<dyn BuildRunner>,
    limits: QueueLimits,
    results: PathBuf,
    scratch: PathBuf,
    slots: Arc<Semaphore>,
    active: Mutex<HashMap<BuildName, Active>>,
    /// Held from the storing of a build until it stands in `active`, so that who finds the one finds the other.
    creating: Mutex<()>,
    /// How many builds have ended since the start.
    ended: AtomicU64,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl Queue {
    /// A queue over `store`, whose results and scratch files lie under `state`. Nothing runs before
    /// [`Queue::recover`] or [`Queue::submit`].
    #[must_use]
    pub fn new(
        store: Arc<JobStore>,
        contexts: ContextStore,
        runner: Arc<dyn BuildRunner>,
        limits: QueueLimits,
        state: &Path,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                contexts,
                runner,
                limits,
                results: state.join("results"),
                scratch: state.join("scratch"),
                slots: Arc::new(Semaphore::new(limits.parallel)),
                active: Mutex::default(),
                creating: Mutex::default(),
                ended: AtomicU64::default(),
                tasks: TaskTracker::new(),
                draining: CancellationToken::new(),
            }),
        }
    }

    /// The job store.
    #[must_use]
    pub fn store(&self) -> &Arc<JobStore> {
        &self.inner.store
    }

    /// Directory of a build's result.
    #[must_use]
    pub fn result_directory(&self, name: &BuildName) -> PathBuf {
        self.inner.results.join(name.project.to_string()).join(name.build.to_string())
    }

    /// Takes up what an earlier process left: builds go on from the start, or fail when what they need was in
    /// that process's memory only. Gives how many were resumed and how many failed.
    pub fn recover(&self) -> Result<(usize, usize), JobError> {
        // Scratch files belong to builds of the earlier process, none of which runs any more.
        if let Err(error) = std::fs::remove_dir_all(&self.inner.scratch)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "scratch files of earlier builds cannot be removed");
        }
        let (mut resumed, mut failed) = (0, 0);
        for (record, envelope) in self.inner.store.unfinished()? {
            let signed = match recoverable(&record, &envelope) {
                Ok(signed) => signed,
                Err(failure) => {
                    self.inner.store.fail(record.row, State::Failed, &failure)?;
                    remove_directory(&self.result_directory(&record.name));
                    failed += 1;
                    continue;
                }
            };
            let record = match record.state {
                State::Running => self
                    .inner
                    .store
                    .requeue(record.row, "the server was restarted; the build begins again")?,
                _ => record,
            };
            self.spawn(record, signed, SecretValues::default(), RegistryCredentials::default());
            resumed += 1;
        }
        Ok((resumed, failed))
    }

    /// Stores and queues a build, or gives the one that is there already. Not cancel safe: once stored, the
    /// build must get its task; call it from a task that is not dropped with the connection.
    pub async fn submit(&self, submission: Submission) -> Result<BuildRecord, SubmitError> {
        if self.inner.draining.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let Submission { signed, caller, secrets, credentials } = submission;
        let request = signed.request();
        let new = NewBuild {
            name: BuildName { project: request.project.id(), build: request.build_id.clone() },
            project: request.project.clone(),
            request_sha256: signed.request_sha256(),
            envelope: signed.envelope().to_vec(),
            caller,
            volatile: Volatile {
                secrets: !secrets.is_empty(),
                credentials: !credentials.is_empty(),
                agents: !request.ssh.is_empty(),
            },
            names: image_names(request),
        };
        let queue = self.clone();
        let build = new.name.build.to_string();
        let submitted = tokio::task::spawn_blocking(move || {
            let (queued, own) = (queue.inner.limits.queued, queue.inner.limits.queued_per_project);
            let _creating = queue.inner.creating.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.inner.store.create(&new, queued, own)? {
                Created::New(record) => {
                    queue.spawn(record.clone(), signed, secrets, credentials);
                    Ok(record)
                }
                Created::Same(record) => Ok(record),
                Created::Taken => Err(SubmitError::Taken { build }),
                Created::QueueFull { queued, limit, of_project } => {
                    Err(SubmitError::QueueFull { queued, limit, of_project })
                }
            }
        });
        match submitted.await {
            Ok(outcome) => outcome,
            Err(_) => Err(SubmitError::Stopping),
        }
    }

    /// Tells a build to end; does nothing to one that has ended.
    pub fn cancel(&self, name: &BuildName) {
        if let Some(active) = self.active(name) {
            active.stop(Stop::Asked);
        }
    }

    /// The agent hub of a build that has not ended and asked for agents, and what fires at the build's end.
    #[must_use]
    pub fn agents(&self, name: &BuildName) -> Option<(AgentHub, CancellationToken)> {
        let active = self.active(name)?;
        Some((active.agents?, active.ended))
    }

    /// How many builds have ended since the start; none while there are others.
    pub(crate) fn ended_when_idle(&self) -> Option<u64> {
        let active = self.inner.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.is_empty().then(|| self.inner.ended.load(Ordering::Relaxed))
    }

    fn active(&self, name: &BuildName) -> Option<Active> {
        let _creating = self.inner.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.active.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Begins nothing new, gives running builds `limit` to end, then ends them. Builds that can be taken up
    /// by the next process stay as they are; the others fail.
    pub async fn drain(&self, limit: Duration) {
        self.inner.draining.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(limit, self.inner.tasks.wait()).await.is_err() {
            let active: Vec<_> = {
                let active = self.inner.active.lock().unwrap_or_else(PoisonError::into_inner);
                active.values().cloned().collect()
            };
            active.iter().for_each(|build| build.stop(Stop::Draining));
            self.inner.tasks.wait().await;
        }
        self.inner.runner.shutdown().await;
    }

    fn spawn(
        &self,
        record: BuildRecord,
        signed: SignedRequest,
        secrets: SecretValues,
        credentials: RegistryCredentials,
    ) {
        let request = signed.request();
        let agents = (!request.ssh.is_empty()).then(|| AgentHub::new(request.ssh.clone()));
        let active = Active {
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            agents: agents.clone(),
            ended: CancellationToken::new(),
        };
        self.inner
            .active
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(record.name.clone(), active.clone());
        let store = self.inner.contexts.project(&record.name.project);
        let job = Job {
            name: record.name.clone(),
            project: record.name.project,
            caller: record.caller.clone(),
            secrets: Arc::new(secrets),
            credentials: Arc::new(credentials),
            agents,
            result_directory: self.result_directory(&record.name),
            scratch: self.inner.scratch.join(record.row.to_string()),
            contexts: JobContexts::new(signed.request(), &store, self.inner.limits.context_deadline),
            store: store.clone(),
            signed,
        };
        let queue = self.clone();
        self.inner.tasks.spawn(async move {
            let name = record.name.clone();
            let _ended = active.ended.clone().drop_guard();
            queue.attend(record, job, active, store).await;
            queue.inner.ended.fetch_add(1, Ordering::Relaxed);
            queue.inner.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        });
    }

    /// A build from queued to ended.
    async fn attend(&self, record: BuildRecord, job: Job, active: Active, store: ProjectStore) {
        let _pin = store.pin(stored_contexts(job.signed.request()));
        let (result, scratch) = (job.result_directory.clone(), job.scratch.clone());
        let row = record.row;
        let ended = match self.wait_for_turn(&job, &active).await {
            Ok(Some(_slot)) => match self.run(&record, job, &active).await {
                Some(ended) => ended,
                None => return,
            },
            Ok(None) => return,
            Err(failure) => Err(failure),
        };
        self.finish(row, ended, &active, &result).await;
        let _ = tokio::task::spawn_blocking(move || remove_directory(&scratch)).await;
    }

    /// Waits for contexts and a slot. `Ok(None)` when the server stops first: the build stays queued.
    async fn wait_for_turn(
        &self,
        job: &Job,
        active: &Active,
    ) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, v1::Failure> {
        let turn = async {
            job.contexts.walkable().await?;
            Ok(self.inner.slots.clone().acquire_owned().await.ok())
        };
        tokio::select! {
            biased;
            () = active.cancel.cancelled() => match active.stop.get() {
                Some(Stop::Draining) => Ok(None),
                _ => Err(cancelled()),
            },
            () = self.inner.draining.cancelled() => Ok(None),
            turn = turn => turn,
        }
    }

    /// Runs the build. `None` when it must stay as it is for the next process.
    async fn run(
        &self,
        record: &BuildRecord,
        job: Job,
        active: &Active,
    ) -> Option<Result<v1::Result, v1::Failure>> {
        let store = self.inner.store.clone();
        let row = record.row;
        let (result, scratch) = (job.result_directory.clone(), job.scratch.clone());
        let begun = tokio::task::spawn_blocking(move || {
            store.begin(row).map_err(|e| store_failure(&e))?;
            for directory in [&result, &scratch] {
                remove_directory(directory);
                std::fs::create_dir_all(directory).map_err(|e| {
                    failure(
                        "STATE_STORE",
                        format!("create a build's directory: {e}"),
                        "ask the operator to free space",
                    )
                })?;
            }
            Ok(())
        });
        match begun.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Some(Err(failure)),
            Err(panic) => return Some(Err(internal(&panic.to_string()))),
        }
        let on_failure = active.clone();
        let sink = EventSink::new(self.inner.store.clone(), row, self.inner.limits.log_bytes, move |error| {
            on_failure.stop(Stop::Store(error.to_string()));
        });
        let runner = self.inner.runner.clone();
        let (events, cancel) = (sink.clone(), active.cancel.clone());
        // A task of its own, so that a panic ends one build and not the queue.
        let mut running = tokio::spawn(async move { runner.run(job, events, cancel).await });
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = stopped(active, self.inner.limits.deadline) => {
                match tokio::time::timeout(CANCEL_GRACE, &mut running).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        tracing::error!(build = %record.name, "build did not end when told to; its task is dropped");
                        running.abort();
                        running.await
                    }
                }
            }
        };
        let ended = ended.unwrap_or_else(|error| Err(internal(&error.to_string())));
        if let Err(problem) = sink.flush().await {
            active.stop(Stop::Store(problem));
        }
        match (ended, active.stop.get()) {
            // What is done is done: a result is kept even when the cancellation came at the last moment.
            (Ok(result), _) => Some(Ok(result)),
            (Err(failure), None) => Some(Err(failure)),
            (Err(_), Some(Stop::Asked)) => Some(Err(cancelled())),
            (Err(_), Some(Stop::Deadline)) => Some(Err(failure(
                "DEADLINE_EXCEEDED",
                format!("the build ran longer than {} s", self.inner.limits.deadline.as_secs()),
                "make the build shorter, or ask the operator for a longer deadline",
            ))),
            (Err(_), Some(Stop::Store(problem))) => Some(Err(failure(
                "STATE_STORE",
                format!("the build's events could not be stored: {problem}"),
                "ask the operator to free space, then submit the build again under a new id",
            ))),
            (Err(_), Some(Stop::Draining)) if record.volatile.is_none() => None,
            (Err(_), Some(Stop::Draining)) => Some(Err(lost(record.volatile, "the server was stopped"))),
        }
    }

    /// Writes how the build ended, for as long as it takes: a result must not be lost to a full disk.
    async fn finish(
        &self,
        row: i64,
        ended: Result<v1::Result, v1::Failure>,
        active: &Active,
        directory: &Path,
    ) {
        let ended = Arc::new(ended);
        let mut pause = Duration::from_millis(200);
        loop {
            let (store, ended, stop) = (self.inner.store.clone(), ended.clone(), active.stop.get().cloned());
            let directory = directory.to_owned();
            let written = tokio::task::spawn_blocking(move || match &*ended {
                Ok(result) => {
                    let bytes = result.blobs.iter().chain(&result.files).map(|blob| blob.size).sum();
                    store.succeed(row, result, bytes)
                }
                Err(failure) => {
                    remove_directory(&directory);
                    let state = if stop == Some(Stop::Asked) && failure.reason == CANCELLED {
                        State::Cancelled
                    } else {
                        State::Failed
                    };
                    store.fail(row, state, failure)
                }
            });
            let error = match written.await {
                Ok(Ok(_) | Err(JobError::Ended | JobError::Gone)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            tracing::error!(row, error, "the end of a build could not be stored; trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
                // The next process finds the build unfinished and takes it up.
                () = self.inner.draining.cancelled() => return,
            }
        }
    }
}

const CANCELLED: &str = "CANCELLED";

/// Returns when the build is to end; at its deadline it is told so here.
async fn stopped(active: &Active, deadline: Duration) {
    if tokio::time::timeout(deadline, active.cancel.cancelled()).await.is_err() {
        active.stop(Stop::Deadline);
    }
}

fn recoverable(record: &BuildRecord, envelope: &[u8]) -> Result<SignedRequest, v1::Failure> {
    if !record.volatile.is_none() {
        return Err(lost(record.volatile, "the server was restarted"));
    }
    if record.attempts >= MAX_ATTEMPTS {
        return Err(failure(
            "TOO_MANY_RESTARTS",
            format!("the server ended {} times while it ran this build", record.attempts),
            "ask the operator for the server's log before you submit the build again",
        ));
    }
    // Our own disk is not trusted: what runs is what the caller signed.
    let signed = authenticate_request(envelope, &record.caller).map_err(|error| {
        failure(
            "STATE_STORE",
            format!("the stored request is damaged: {error}"),
            "submit the build again under a new id",
        )
    })?;
    let request = signed.request();
    if request.build_id != record.name.build || request.project.id() != record.name.project {
        return Err(failure(
            "STATE_STORE",
            "the stored request belongs to another build",
            "submit the build again under a new id",
        ));
    }
    Ok(signed)
}

fn image_names(request: &provenance::request::Request) -> Vec<String> {
    match &request.output {
        provenance::request::Output::Image { names, .. } => names.clone(),
        provenance::request::Output::Files {} => Vec::new(),
    }
}

pub(super) fn failure(reason: &str, message: impl Into<String>, advice: &str) -> v1::Failure {
    v1::Failure {
        reason: reason.into(),
        message: message.into(),
        advice: advice.into(),
        ..Default::default()
    }
}

fn cancelled() -> v1::Failure {
    failure(CANCELLED, "the build was cancelled", "submit it again under a new id to build it after all")
}

fn lost(volatile: Volatile, what: &str) -> v1::Failure {
    failure(
        "SECRETS_LOST",
        format!("{what}, and the build's {} were in its memory only", volatile.names()),
        "submit the build again under a new id",
    )
}

pub(super) fn internal(what: &str) -> v1::Failure {
    tracing::error!(what, "a build's task panicked");
    failure(
        "INTERNAL",
        "the server failed while it ran the build",
        "tell the operator; the server's log says more",
    )
}

fn store_failure(error: &JobError) -> v1::Failure {
    failure(
        "STATE_STORE",
        error.to_string(),
        "ask the operator to free space, then submit the build again under a new id",
    )
}

fn remove_directory(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a build's directory cannot be removed");
    }
}
