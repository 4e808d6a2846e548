//! Why a build failed, one variant per step of the pipeline, and what its owner is told: a stable reason, the
//! message with the values seen and wanted, and what to do.

use enclave_keys::process::KeyFailure;
use proto::v1;

use crate::buildkit::EngineError;
use crate::materials::MaterialsError;
use crate::policy::Refusal;
use crate::publish::registry::PushError;
use crate::publish::{InvalidImageName, LayoutError};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The build policy refuses the request or its result.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An image name of the request is malformed.
    #[error(transparent)]
    Name(#[from] InvalidImageName),
    /// The engine could not build it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The trees that the request pins cannot be read.
    #[error("the build context cannot be read again: {problem}")]
    Trees {
        /// What was seen.
        problem: String,
    },
    /// A context did not arrive, or is none.
    #[error("{}", .0.message)]
    Context(Box<v1::Failure>),
    /// The materials cannot be accounted for.
    #[error(transparent)]
    Materials(#[from] MaterialsError),
    /// No Evidence, so no signature.
    #[error("nothing was signed: {0}")]
    Keys(#[from] KeyFailure),
    /// The result could not be written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The result could not be kept.
    #[error("cannot keep the result at {path}: {problem}")]
    Keep {
        /// Path in the state directory.
        path: String,
        /// What the operating system says.
        problem: String,
    },
    /// A registry refused the result.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A task of ours ended without an answer: a bug.
    #[error("a task of the build server ended unexpectedly: {problem}")]
    Bug {
        /// What is known.
        problem: String,
    },
}

impl BuildError {
    /// What the owner of the build is told.
    #[must_use]
    pub fn into_failure(self) -> v1::Failure {
        if let Self::Context(failure) = self {
            return *failure;
        }
        let (step, exit_code) = match &self {
            Self::Engine(EngineError::Step { step, exit_code, .. }) => (step.clone(), *exit_code),
            _ => (String::new(), 0),
        };
        let source = match &self {
            Self::Engine(error) => error.source_excerpts().to_vec(),
            _ => Vec::new(),
        };
        v1::Failure {
            reason: self.reason().to_owned(),
            message: self.to_string(),
            advice: self.advice(),
            step,
            exit_code,
            source,
        }
    }

    /// Stable name of the failure, upper snake case.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Context(failure) => &failure.reason,
            Self::Refused(_) => "REFUSED_BY_BUILD_POLICY",
            Self::Name(_) => "INVALID_IMAGE_NAME",
            Self::Engine(error) => engine_reason(error),
            Self::Trees { .. } => "CONTEXT_DAMAGED",
            Self::Materials(_) => "MATERIALS_UNACCOUNTED",
            Self::Keys(KeyFailure::Challenge { .. }) => "ATTESTATION_REQUEST_REFUSED",
            Self::Keys(_) => "NO_EVIDENCE",
            Self::Keep { .. } | Self::Layout(LayoutError::Io { .. }) => "RESULT_NOT_KEPT",
            Self::Layout(_) => "RESULT_INCONSISTENT",
            Self::Push(error) => error.reason(),
            Self::Bug { .. } => "INTERNAL",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Refused(_) => {
                "change the request, or ask the operator for another build policy; the one in force stands in the \
                 instance document of every image of this server (sealwright inspect --json)"
            }
            Self::Name(_) => "give the image a name like registry.example/team/app:1.0",
            Self::Engine(EngineError::SecretMissing { id, .. }) => {
                return format!("give it with --secret id={id},src=FILE or --secret id={id},env=NAME");
            }
            Self::Engine(error) => engine_advice(error),
            Self::Keys(KeyFailure::Challenge { .. }) => {
                "make the attestation request with the host key document of the machine that the server runs on"
            }
            Self::Keys(_) => "submit the build again; if it stays, the server's TEE device does not answer as it should",
            Self::Keep { .. } | Self::Layout(_) => {
                "the server's storage is damaged or full; tell its operator, then submit the build again"
            }
            Self::Push(error) => return error.advice(),
            Self::Trees { .. } => "submit the build again: what is damaged is uploaded anew",
            Self::Context(failure) => return failure.advice.clone(),
            Self::Materials(_) | Self::Bug { .. } => "this is a defect of the server; report it with the build's log",
        }
        .to_owned()
    }
}

fn engine_reason(error: &EngineError) -> &'static str {
    match error {
        EngineError::Frontend { .. } => "INVALID_DOCKERFILE",
        EngineError::Step { .. } => "STEP_FAILED",
        EngineError::ForeignStep { .. } => "PLATFORM_CANNOT_RUN",
        EngineError::Privilege { .. } => "PRIVILEGE_REFUSED",
        EngineError::ContextFileMissing { .. } => "CONTEXT_FILE_MISSING",
        EngineError::SecretMissing { .. } => "SECRET_MISSING",
        EngineError::DockerfileMissing { .. } => "DOCKERFILE_MISSING",
        EngineError::UnsupportedSyntax { .. } => "UNSUPPORTED_SYNTAX",
        EngineError::BaseImageMissing { .. } => "BASE_IMAGE_MISSING",
        EngineError::UnrecordedSource { .. } => "SOURCE_UNRECORDED",
        EngineError::Request { .. } => "INVALID_REQUEST",
        EngineError::AgentGone { .. } => "SSH_AGENT_GONE",
        EngineError::SourceDenied { .. } => "SOURCE_REFUSED",
        EngineError::RegistryAuth { .. } => "REGISTRY_UNAUTHORIZED",
        EngineError::Remote { .. } => "REMOTE_SOURCE_FAILED",
        EngineError::Configuration { .. } => "ENGINE_CONFIGURATION",
        EngineError::DaemonStart { .. } => "ENGINE_NOT_STARTED",
        EngineError::DaemonDied { .. } | EngineError::Process { .. } => "ENGINE_DIED",
        EngineError::DiskFull { .. } => "DISK_FULL",
        EngineError::Io { .. } => "STATE_STORE",
        EngineError::Context { .. } => "CONTEXT_DAMAGED",
        EngineError::Cancelled => "CANCELLED",
        EngineError::Export { .. } => "EXPORT_INCONSISTENT",
        EngineError::Record { .. } => "BUILD_RECORD_MISSING",
        _ => "BUILD_FAILED",
    }
}

fn engine_advice(error: &EngineError) -> &'static str {
    match error {
        EngineError::Frontend { source_excerpts, .. } | EngineError::Other { source_excerpts, .. }
            if source_excerpts.is_empty() =>
        {
            "correct the Dockerfile, or the flag that it does not fit (--target, --build-arg, --platform)"
        }
        EngineError::Frontend { .. } | EngineError::Other { .. } => {
            "correct the Dockerfile at the place shown"
        }
        EngineError::Step { .. } => "see the step's output in the build's log",
        EngineError::ForeignStep { .. } => {
            "build this platform on a server of it, or let the step run on the server's own: FROM --platform=$BUILDPLATFORM"
        }
        EngineError::Privilege { .. } => "remove `--security=insecure` or `--network=host` from the RUN step",
        EngineError::ContextFileMissing { .. } => {
            "add the file to the context, or take it out of the ignore file, and build again"
        }
        EngineError::DockerfileMissing { .. } => "name the Dockerfile with -f",
        EngineError::UnsupportedSyntax { .. } => "use `# syntax=docker/dockerfile:1`, or remove the line",
        EngineError::BaseImageMissing { .. } => {
            "check name and tag, or supply the image with --build-context NAME=oci-layout://…"
        }
        EngineError::UnrecordedSource { .. } => {
            "add a step that writes a file (COPY, ADD or RUN), or begin with `FROM scratch`"
        }
        EngineError::Request { .. } => "change the request",
        EngineError::AgentGone { .. } => "keep the client running until the build ends, and build again",
        EngineError::SourceDenied { .. } => "use a source that the build policy of the server allows",
        EngineError::RegistryAuth { .. } => {
            "log in to that registry on the machine that submits the build, and build again"
        }
        EngineError::Remote { .. } => {
            "check that the source exists and can be reached from the server, and build again"
        }
        EngineError::DiskFull { .. } => "ask the operator to free space; build again afterwards",
        EngineError::DaemonDied { .. } | EngineError::Process { .. } => {
            "build again: a new engine is started; if it stays, ask the operator about memory"
        }
        EngineError::Cancelled => "submit the build again when you want it",
        EngineError::Context { .. } => "submit the build again: what is damaged is uploaded anew",
        _ => "ask the operator of the server; its log tells more",
    }
}
