//! The pipeline: one build from request to published image. This file is the table of contents of the guest.
//!
//! [`Pipeline::run`] calls the steps in order. Each consumes the former's type, so none can be left out:
//! `SignedRequest` → `PermittedBuild` → `BuiltImage` + `Capture` → `Materials` → `ReleasableImage` →
//! `Statement` → `Released` (Evidence and signatures) → result layout → registries.

use std::sync::Arc;

use enclave_keys::process::{KeyClient, KeyFailure};
use enclave_keys::{ImageName as SignedName, ProjectKey, ReleaseRequest, Released};
use proto::v1;
use provenance::evidence::Platform;
use provenance::request::{Output, Request};
use provenance::statement::Statement;
use provenance::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::build_files::{BuildFile, build_files};
use crate::buildkit::{
    self, Capture, ContextBlobs, Engine, EngineEvent, Export, FilesDescriptor, SolveInputs, Solved,
};
use crate::clock;
use crate::endorsements::TdxEndorsementsFile;
use crate::failure::BuildError;
use crate::jobs::{BuildRunner, EventSink, Job};
use crate::materials;
use crate::policy::{BuildPolicy, BuiltImage, PermittedBuild, ReleasableImage};
use crate::publish::registry::{Credential, CredentialSource, Publisher};
use crate::publish::{Artefacts, ImageName, ResultLayout, SignedImageParts, write_layout};
use crate::result;
use crate::secrets::RegistryCredentials;
use crate::statement::{Run, state};

/// Engine events that may wait to be stored; the engine waits when there are more.
const WAITING_EVENTS: usize = 256;

/// What every build needs and no build owns.
pub struct Pipeline {
    /// The engine's daemons.
    pub engine: Engine,
    /// Keys and Evidence.
    pub keys: KeyClient,
    /// What may be built and released.
    pub policy: BuildPolicy,
    /// Pushes to registries.
    pub publisher: Publisher,
    /// Endorsements for Evidence without any.
    pub endorsements: TdxEndorsementsFile,
    /// Called after each step; the development server stops the process here in crash tests.
    pub boundary: Boundary,
}

/// What happens between two steps: nothing in the shipped server.
pub type Boundary = Arc<dyn Fn(Step) + Send + Sync>;

/// The steps of the pipeline, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The build is stored and its turn has come; nothing has been done.
    Created,
    /// The build policy permits the request.
    Permit,
    /// The engine has built and exported; every blob is checked.
    Build,
    /// The materials are accounted for.
    Materials,
    /// The build policy releases the image.
    Release,
    /// Evidence binds the statement; everything is signed.
    Sign,
    /// The result layout is complete on disk.
    Layout,
    /// Registries have blobs, artefacts and tags.
    Push,
}

impl Pipeline {
    async fn build(
        &self,
        job: &Job,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<v1::Result, BuildError> {
        self.done(Step::Created);
        let started = clock::now();
        let permitted = self.policy.permit(job.signed.clone())?;
        let names = image_names(permitted.request())?;
        self.done(Step::Permit);

        let solved = self.solve_arriving(job, &permitted, events, cancel).await?;
        self.done(Step::Build);
        let (layout, image) = match solved.export {
            Export::Files { tar, descriptor } => return keep_files(job, &tar, &descriptor),
            Export::Image { layout, root, platform_manifests } => {
                (layout, BuiltImage { root, platform_manifests })
            }
        };

        let files = self.files(job, &permitted).await?;
        let materials =
            materials::account(permitted.request(), &files, &solved.capture, self.keys.instance())?;
        events.milestone("materials", materials::describe(&materials)).await;
        self.done(Step::Materials);

        let releasable = self.policy.release(permitted, image, materials)?;
        self.done(Step::Release);

        let key = self.project_key(job).await?;
        let statement = self.state(job, &releasable, &solved.capture, &key, started);
        let released = self.sign(&releasable, &statement).await?;
        events.milestone("evidence", self.describe_evidence(&released)).await;
        events
            .milestone(
                "signed",
                format!("key {} of project {}", key.public.spki_sha256().short(), job.name.project),
            )
            .await;
        self.done(Step::Sign);

        let parts = artefacts(released, key, &statement);
        let result = write_result(layout, &releasable, parts, names.clone(), job).await?;
        self.done(Step::Layout);

        let pushed = self.push(job, &releasable, &result, &names, events, cancel).await?;
        self.done(Step::Push);
        Ok(result::image(&result, &releasable, &statement, pushed))
    }

    fn done(&self, step: Step) {
        (self.boundary)(step);
    }

    /// Builds while files of the context may still be arriving; returns when both are done.
    async fn solve_arriving(
        &self,
        job: &Job,
        permitted: &PermittedBuild,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Solved, BuildError> {
        let ends = cancel.child_token();
        let complete = job.contexts.complete();
        let solve = self.solve(job, permitted, events, &ends);
        tokio::pin!(complete, solve);
        tokio::select! {
            context = &mut complete => {
                if let Err(failure) = context {
                    // The steps have ended before this returns; why they did is the context's failure.
                    ends.cancel();
                    let _ = solve.await;
                    return Err(BuildError::Context(Box::new(failure)));
                }
                solve.await
            }
            solved = &mut solve => {
                let solved = solved?;
                tokio::select! {
                    context = complete => context.map_err(|failure| BuildError::Context(Box::new(failure)))?,
                    () = cancel.cancelled() => return Err(buildkit::EngineError::Cancelled.into()),
                }
                Ok(solved)
            }
        }
    }

    /// The engine's events reach the job store in order, and all of them before this returns.
    async fn solve(
        &self,
        job: &Job,
        permitted: &PermittedBuild,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Solved, BuildError> {
        let daemon = self.engine.daemon(&job.name.project).await?;
        let inputs = SolveInputs {
            request: permitted.request().clone(),
            store: Arc::new(job.store.clone()),
            secrets: job.secrets.clone(),
            credentials: job.credentials.clone(),
            agents: job.agents.clone(),
            policy: Arc::new(buildkit::AllowAllSources),
            scratch: job.scratch.clone(),
        };
        let (sender, mut receiver) = mpsc::channel(WAITING_EVENTS);
        let forward = async {
            while let Some(event) = receiver.recv().await {
                events.send(stored(event)).await;
            }
        };
        let (solved, ()) = tokio::join!(buildkit::solve(&daemon, inputs, sender, cancel.clone()), forward);
        Ok(solved?)
    }

    async fn files(&self, job: &Job, permitted: &PermittedBuild) -> Result<Vec<BuildFile>, BuildError> {
        let store: Arc<dyn ContextBlobs> = Arc::new(job.store.clone());
        let request = permitted.request().clone();
        let files = blocking(move || build_files(&request, &store)).await?;
        files.map_err(|error| BuildError::Trees { problem: error.to_string() })
    }

    async fn project_key(&self, job: &Job) -> Result<ProjectKey, BuildError> {
        let (keys, project) = (self.keys.clone(), job.name.project);
        let challenge = job.signed.request().attestation_request.clone().into();
        Ok(blocking(move || keys.project_key(&project, challenge)).await??)
    }

    fn state(
        &self,
        job: &Job,
        image: &ReleasableImage,
        capture: &Capture,
        key: &ProjectKey,
        started: Timestamp,
    ) -> Statement {
        let engine_provenance = provenance::canonical::to_canonical_json(&capture.provenance);
        state(
            image,
            &Run {
                instance: (self.keys.instance(), self.keys.instance_document()),
                key_evidence: &key.evidence,
                engine_provenance: &engine_provenance,
                build_name: &job.name.to_string(),
                started,
                finished: clock::now(),
            },
        )
    }

    async fn sign(&self, image: &ReleasableImage, statement: &Statement) -> Result<Released, BuildError> {
        let signed = image.signed_request();
        let request = ReleaseRequest {
            project: signed.request().project.id(),
            nonce: signed.request().nonce,
            statement: statement.document(),
            signed_request: signed.envelope().to_vec(),
            caller_key: signed.caller_key().spki_der().to_vec(),
            images: image
                .subjects()
                .into_iter()
                .map(|(repository, digest)| SignedName { repository, digest })
                .collect(),
        };
        let (keys, endorsements) = (self.keys.clone(), self.endorsements.clone());
        let released = blocking(move || -> Result<Released, KeyFailure> {
            let released = keys.release(request)?;
            Ok(Released { evidence: endorsements.complete(released.evidence), ..released })
        });
        Ok(released.await??)
    }

    fn describe_evidence(&self, released: &Released) -> String {
        let leaves =
            provenance::evidence::EvidenceBundle::parse(&released.evidence).map_or(1, |b| b.proof.tree_size);
        let hardware = match self.keys.instance().key_origin {
            provenance::instance::KeyOrigin::DangerousSoftware => "NOT HARDWARE: software TEE",
            _ => "hardware",
        };
        let platform = self.keys.instance().platform;
        if platform == Platform::SecureExecution {
            return format!(
                "{platform} answers the caller's attestation request about this build, {hardware}"
            );
        }
        format!("{platform} report covers this build (batch of {leaves}), {hardware}")
    }

    async fn push(
        &self,
        job: &Job,
        image: &ReleasableImage,
        result: &ResultLayout,
        names: &[ImageName],
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<String>, BuildError> {
        let Output::Image { push: true, .. } = &image.signed_request().request().output else {
            return Ok(Vec::new());
        };
        let push = self.publisher.push(result, names, job.credentials.as_ref());
        tokio::select! {
            pushed = push => { pushed?; }
            () = cancel.cancelled() => return Err(buildkit::EngineError::Cancelled.into()),
        };
        for name in names {
            events.milestone("pushed", name.to_string()).await;
        }
        Ok(names.iter().map(ToString::to_string).collect())
    }
}

#[tonic::async_trait]
impl BuildRunner for Pipeline {
    async fn run(
        &self,
        job: Job,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<v1::Result, v1::Failure> {
        self.build(&job, &events, &cancel).await.map_err(|error| {
            tracing::info!(build = %job.name, reason = error.reason(), "build failed");
            error.into_failure()
        })
    }

    async fn shutdown(&self) {
        self.engine.shutdown().await;
    }
}

fn stored(event: EngineEvent) -> v1::build_event::Event {
    use v1::build_event::Event;
    match event {
        EngineEvent::Vertex(vertex) => Event::Vertex(vertex),
        EngineEvent::Status(status) => Event::VertexStatus(status),
        EngineEvent::Log(log) => Event::VertexLog(log),
        EngineEvent::Warning(warning) => Event::VertexWarning(warning),
    }
}

fn artefacts(released: Released, key: ProjectKey, statement: &Statement) -> Artefacts {
    let images = released.images.into_iter().map(|image| SignedImageParts {
        repository: image.repository,
        digest: image.digest,
        simple_signing_payload: image.simple_signing.0,
        simple_signing_signature: image.simple_signing.1,
        cosign_sign: image.cosign_sign,
    });
    Artefacts {
        images: images.collect(),
        provenance: released.provenance,
        evidence: released.evidence,
        signing_key: key.public,
        created: statement.predicate.run_details.metadata.finished_on,
    }
}

/// The names, before anything is built for them.
fn image_names(request: &Request) -> Result<Vec<ImageName>, BuildError> {
    let Output::Image { names, .. } = &request.output else {
        return Ok(Vec::new());
    };
    names.iter().map(|name| Ok(ImageName::parse(name)?)).collect()
}

async fn write_result(
    export: std::path::PathBuf,
    image: &ReleasableImage,
    parts: Artefacts,
    names: Vec<ImageName>,
    job: &Job,
) -> Result<ResultLayout, BuildError> {
    let root = &image.image().root;
    let root = crate::publish::oci::Descriptor::new(&root.media_type, root.digest, root.size);
    let destination = job.result_directory.join("layout");
    Ok(blocking(move || write_layout(&export, &root, &parts, &names, &destination)).await??)
}

/// Keeps the archive of the files of the last stage as the one blob of the result.
fn keep_files(
    job: &Job,
    tar: &std::path::Path,
    descriptor: &FilesDescriptor,
) -> Result<v1::Result, BuildError> {
    let blobs = job.result_directory.join("layout/blobs/sha256");
    let path = blobs.join(descriptor.digest.hex());
    std::fs::create_dir_all(&blobs)
        .and_then(|()| std::fs::rename(tar, &path))
        .map_err(|error| BuildError::Keep { path: path.display().to_string(), problem: error.to_string() })?;
    Ok(result::files(descriptor))
}

/// Runs what blocks (keys wait for the device, layouts for the disk) beside the asynchronous threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BuildError::Bug { problem: error.to_string() })
}

impl CredentialSource for RegistryCredentials {
    fn credential(&self, host: &str) -> Option<Credential> {
        let login = self.for_host(host)?;
        Some(if login.identity_token.is_empty() {
            Credential::Password { username: login.username.clone(), password: login.password.clone() }
        } else {
            Credential::IdentityToken(login.identity_token.clone())
        })
    }
}
