//! What callers are told when something goes wrong: one function, [`status`], turns errors into gRPC status
//! with `google.rpc` details. `ErrorInfo` carries a stable reason, `BadRequest` the field, `RetryInfo` when to
//! try again, `LocalizedMessage` what to do. Details of our own failures are logged, not told.

use std::time::Duration;

use enclave_keys::process::KeyFailure;
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::project::{InvalidProject, ProjectId};
use provenance::request::InvalidRequest;
use provenance::timestamp::Timestamp;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::names::InvalidName;
use crate::context_store::StoreError;
use crate::jobs::{JobError, SubmitError};
use crate::secrets::{InvalidCredentials, InvalidSecrets};

/// Domain of the reasons in `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "sealwright.dev";

/// Why a call is refused or fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    // Untrusted input.
    /// No client certificate.
    #[error("this method needs a caller, and the connection has no client certificate")]
    Unauthenticated,
    /// A malformed resource name.
    #[error("{name}")]
    Name {
        /// The field that holds it.
        field: &'static str,
        /// What is wrong.
        name: InvalidName,
    },
    /// A field holds what it must not.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: &'static str,
        /// What was seen and what is wanted.
        problem: String,
    },
    /// There is no such thing, or not for this caller; the two look the same.
    #[error("{name} does not exist, or caller {caller} is not a member of its project")]
    NotFound {
        /// The name asked for.
        name: String,
        /// The caller.
        caller: Sha256Digest,
    },
    /// The project document of the call does not parse.
    #[error("request metadata `{PROJECT_METADATA}`: {0}")]
    ProjectDocument(InvalidProject),
    /// The project document of the call is of another project.
    #[error(
        "request metadata `{PROJECT_METADATA}` is the document of project {got}, the call names {wanted}"
    )]
    OtherProject {
        /// Id of the document.
        got: ProjectId,
        /// Id that the call names.
        wanted: ProjectId,
    },
    /// The signed request is refused.
    #[error(transparent)]
    Request(InvalidRequest),
    /// The signed request is too old or from the future.
    #[error("the request was issued at {issued}, the server's clock says {now}; at most {} s of difference are allowed", window.as_secs())]
    IssuedAt {
        /// Time in the request.
        issued: Timestamp,
        /// The guest's clock.
        now: Timestamp,
        /// Allowed difference.
        window: Duration,
    },
    /// No attestation request where Evidence is the answer to one.
    #[error(
        "this server runs in a Secure Execution guest, whose Evidence answers an attestation request; there is none"
    )]
    AttestationRequestMissing,
    /// An attestation request where nobody answers one.
    #[error("this server runs on {platform}, where nobody answers an attestation request")]
    AttestationRequestUnexpected {
        /// The server's platform.
        platform: Platform,
    },
    /// The secrets do not belong to the signed request.
    #[error(transparent)]
    Secrets(#[from] InvalidSecrets),
    /// The registry logins are malformed.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// The build has no such blob.
    #[error("the result of {name} has no blob {digest}")]
    NoSuchBlob {
        /// The build.
        name: String,
        /// The blob.
        digest: Sha256Digest,
    },
    /// The build has no result (yet).
    #[error("{name} has no result: its state is {state}")]
    NoResult {
        /// The build.
        name: String,
        /// Its state.
        state: &'static str,
    },
    /// An offset beyond the blob.
    #[error("offset {offset} is beyond the {size} bytes of {digest}")]
    Offset {
        /// The blob.
        digest: Sha256Digest,
        /// Offset asked for.
        offset: u64,
        /// Size of the blob.
        size: u64,
    },
    /// The build takes no agent under this id.
    #[error("{name} forwards no SSH agent `{id}` now{}", if .problem.is_empty() { String::new() } else { format!(": {}", .problem) })]
    Agent {
        /// The build.
        name: String,
        /// The ssh id.
        id: String,
        /// Why not, or empty.
        problem: String,
    },
    // Policy.
    /// The operator admits other projects only.
    #[error("this server does not admit project {project}")]
    NotAdmitted {
        /// The project.
        project: ProjectId,
    },
    /// Too many requests for Evidence on this connection.
    #[error("this connection asked for Evidence too often")]
    EvidenceRate {
        /// When to try again.
        retry_after: Duration,
    },
    /// The build was not queued.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    // Environment.
    /// The job store failed.
    #[error(transparent)]
    Jobs(#[from] JobError),
    /// The context store refused or failed.
    #[error(transparent)]
    Contexts(#[from] StoreError),
    /// No Evidence.
    #[error(transparent)]
    Keys(#[from] KeyFailure),
    /// The result's files were removed by retention.
    #[error("the result of {name} is not kept any more")]
    ResultExpired {
        /// The build.
        name: String,
    },
    /// A stored result blob does not have its digest.
    #[error("stored result blob {digest} is damaged: its bytes have digest {got}")]
    ResultDamaged {
        /// Digest by its name.
        digest: Sha256Digest,
        /// Digest of its bytes.
        got: Sha256Digest,
    },
    /// The server is going down.
    #[error("the server is stopping")]
    Stopping,
    // Our bug.
    /// Something that must not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Metadata key under which a client sends its project's canonical document on every call.
pub const PROJECT_METADATA: &str = "sealwright-project-bin";

impl ApiError {
    /// A field violation.
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }

    /// Code, stable reason, and what to do.
    fn verdict(&self) -> (Code, &'static str, &'static str) {
        match self {
            Self::Unauthenticated => (
                Code::Unauthenticated,
                "CLIENT_CERTIFICATE_REQUIRED",
                "connect with a client certificate (self-signed, P-256 or Ed25519) of a member's key; \
                 `sealwright key new` makes one",
            ),
            Self::Name { .. } => (Code::InvalidArgument, "INVALID_NAME", "use the form shown"),
            Self::Field { .. } => {
                (Code::InvalidArgument, "INVALID_FIELD", "correct the field and call again")
            }
            Self::NotFound { .. } => (
                Code::NotFound,
                "NOT_FOUND",
                "check the name; on the first call for a project, send its document (the `sealwright` command \
                 does, see `--project`)",
            ),
            Self::ProjectDocument(_) | Self::OtherProject { .. } => (
                Code::InvalidArgument,
                "INVALID_PROJECT",
                "send the canonical document of the project that the call names",
            ),
            Self::Request(error) => request_verdict(error),
            Self::IssuedAt { .. } => (
                Code::FailedPrecondition,
                "REQUEST_EXPIRED",
                "set this machine's clock, then sign and submit a new request",
            ),
            Self::AttestationRequestMissing => (
                Code::FailedPrecondition,
                "ATTESTATION_REQUEST_REQUIRED",
                "give the host key documents of the server's machine (--host-key-documents), so that a request can be \
                 made for it; none is made under a policy that does not accept Secure Execution with \"own-request\"",
            ),
            Self::AttestationRequestUnexpected { .. } => (
                Code::FailedPrecondition,
                "ATTESTATION_REQUEST_UNEXPECTED",
                "call without an attestation request",
            ),
            Self::Secrets(_) => (
                Code::InvalidArgument,
                "INVALID_SECRETS",
                "send exactly the secrets that the request was signed with, and the commitment key",
            ),
            Self::Credentials(_) => {
                (Code::InvalidArgument, "INVALID_CREDENTIALS", "correct the registry logins")
            }
            Self::NoSuchBlob { .. } => {
                (Code::NotFound, "BLOB_NOT_FOUND", "ask for a digest that the build's result lists")
            }
            Self::NoResult { .. } => {
                (Code::FailedPrecondition, "NO_RESULT", "wait until the build has succeeded (WatchBuild)")
            }
            Self::Offset { .. } => {
                (Code::OutOfRange, "OFFSET_BEYOND_END", "ask for an offset within the blob")
            }
            Self::Agent { .. } => (
                Code::FailedPrecondition,
                "AGENT_NOT_WANTED",
                "forward an id that the signed request names, while the build has not ended, once",
            ),
            Self::NotAdmitted { .. } => (
                Code::PermissionDenied,
                "PROJECT_NOT_ADMITTED",
                "ask the operator to admit the project in the trust configuration",
            ),
            Self::EvidenceRate { .. } => (Code::ResourceExhausted, "EVIDENCE_RATE", "wait, then ask again"),
            Self::Submit(error) => match error {
                SubmitError::Taken { .. } => {
                    (Code::AlreadyExists, "BUILD_ID_TAKEN", "choose another build id, sign again and submit")
                }
                SubmitError::QueueFull { .. } => {
                    (Code::ResourceExhausted, "QUEUE_FULL", "wait, then submit again")
                }
                SubmitError::Stopping => stopping(),
                SubmitError::Store(error) => job_verdict(error),
            },
            Self::Jobs(error) => job_verdict(error),
            Self::Contexts(error) => context_verdict(error),
            Self::Keys(error) => match error {
                KeyFailure::Busy { .. } => (Code::ResourceExhausted, "EVIDENCE_BUSY", "wait, then ask again"),
                KeyFailure::Challenge { .. } => (
                    Code::FailedPrecondition,
                    "ATTESTATION_REQUEST_REFUSED",
                    "make the attestation request with the host key document of the machine that the server runs on",
                ),
                KeyFailure::Stopped {} => {
                    (Code::Unavailable, "KEYS_ENDED", "tell the operator: the guest must be started anew")
                }
                _ => (Code::Unavailable, "NO_EVIDENCE", "tell the operator; the server's log says more"),
            },
            Self::ResultExpired { .. } => {
                (Code::NotFound, "RESULT_EXPIRED", "build again, or pull the image from where it was pushed")
            }
            Self::ResultDamaged { .. } => {
                (Code::DataLoss, "RESULT_DAMAGED", "discard what was downloaded, and build again")
            }
            Self::Stopping => stopping(),
            Self::Internal(_) => {
                (Code::Internal, "INTERNAL", "tell the operator; the server's log says more")
            }
        }
    }

    /// When to try again, where that helps.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::EvidenceRate { retry_after } => Some(*retry_after),
            Self::Keys(failure) => failure.retry_after(),
            Self::Submit(SubmitError::QueueFull { .. }) => Some(Duration::from_secs(10)),
            Self::Submit(SubmitError::Stopping) | Self::Stopping => Some(Duration::from_secs(5)),
            Self::Contexts(StoreError::UploadBusy { .. }) => Some(Duration::from_secs(2)),
            _ => None,
        }
    }

    /// The field that is wrong.
    fn field_violation(&self) -> Option<&'static str> {
        match self {
            Self::Name { field, .. } | Self::Field { field, .. } => Some(field),
            Self::Request(_) | Self::IssuedAt { .. } => Some("signed_request"),
            Self::Secrets(_) => Some("secrets"),
            Self::Credentials(_) => Some("registry_credentials"),
            Self::Submit(SubmitError::Taken { .. }) => Some("build_id"),
            Self::Offset { .. } => Some("offset"),
            Self::NoSuchBlob { .. } => Some("digest"),
            Self::Contexts(error) => match error {
                StoreError::HashMismatch { .. } | StoreError::BlobTooLarge { .. } => Some("digest"),
                StoreError::ChunkOffset { .. } | StoreError::ChunkOverrun { .. } => Some("chunk.offset"),
                StoreError::SizeChanged { .. } => Some("chunk.size"),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the caller may read: our own failures in full only in the log.
    fn told(&self) -> String {
        match self {
            Self::Internal(_)
            | Self::Jobs(JobError::Sqlite(_))
            | Self::Submit(SubmitError::Store(JobError::Sqlite(_))) => "the server failed".to_owned(),
            Self::Contexts(StoreError::Io { what, .. }) => format!("the server failed to {what}"),
            Self::Keys(KeyFailure::NoEvidence { .. }) => "the server obtains no Evidence now".to_owned(),
            other => other.to_string(),
        }
    }
}

const fn stopping() -> (Code, &'static str, &'static str) {
    (Code::Unavailable, "STOPPING", "connect again in a while; builds that were queued go on")
}

fn request_verdict(error: &InvalidRequest) -> (Code, &'static str, &'static str) {
    match error {
        InvalidRequest::Envelope(_) => (
            Code::InvalidArgument,
            "INVALID_SIGNED_REQUEST",
            "send one DSSE envelope signed with the key of the client certificate",
        ),
        _ => (Code::InvalidArgument, "INVALID_REQUEST", "correct the field, then sign and submit again"),
    }
}

fn job_verdict(error: &JobError) -> (Code, &'static str, &'static str) {
    match error {
        JobError::DiskFull => {
            (Code::Unavailable, "DISK_FULL", "ask the operator to free space, then call again")
        }
        JobError::Damaged { .. } => {
            (Code::DataLoss, "STATE_DAMAGED", "tell the operator; the server's log says more")
        }
        JobError::Gone => {
            (Code::NotFound, "BUILD_EXPIRED", "the build is older than the server keeps builds")
        }
        _ => (Code::Internal, "STATE_STORE", "tell the operator; the server's log says more"),
    }
}

fn context_verdict(error: &StoreError) -> (Code, &'static str, &'static str) {
    match error {
        StoreError::HashMismatch { .. } => (
            Code::InvalidArgument,
            "HASH_MISMATCH",
            "the file changed while it was sent: read, hash and send it again",
        ),
        StoreError::BlobTooLarge { .. } => (
            Code::InvalidArgument,
            "BLOB_TOO_LARGE",
            "leave the file out (.dockerignore), or ask the operator for a larger limit",
        ),
        StoreError::ProjectFull { .. } => (
            Code::ResourceExhausted,
            "PROJECT_FULL",
            "send a smaller context (.dockerignore); contexts that no build uses any more are removed with time",
        ),
        StoreError::ChunkOffset { .. } | StoreError::ChunkOverrun { .. } | StoreError::SizeChanged { .. } => {
            (
                Code::InvalidArgument,
                "INVALID_CHUNK",
                "send chunks in order without gaps, from where GetUpload says",
            )
        }
        StoreError::UploadBusy { .. } => {
            (Code::Aborted, "UPLOAD_BUSY", "wait, then ask GetUpload how far it is")
        }
        StoreError::Directory { .. }
        | StoreError::EntrySize { .. }
        | StoreError::TooDeep { .. }
        | StoreError::Manifest { .. } => {
            (Code::InvalidArgument, "CONTEXT_INVALID", "upload a well-formed context; see docs/formats.md")
        }
        StoreError::TooManyEntries { .. } => (
            Code::InvalidArgument,
            "CONTEXT_INVALID",
            "leave files out (.dockerignore), or ask the operator for a larger limit",
        ),
        StoreError::NotStored { .. } => (Code::NotFound, "BLOB_NOT_FOUND", "upload the blob"),
        StoreError::Corrupt { .. } => (Code::DataLoss, "CONTEXT_DAMAGED", "upload the context again"),
        StoreError::DiskFull { .. } => {
            (Code::Unavailable, "DISK_FULL", "ask the operator to free space, then call again")
        }
        StoreError::Io { .. } => {
            (Code::Internal, "STATE_STORE", "tell the operator; the server's log says more")
        }
    }
}

/// The gRPC status of an error.
#[must_use]
pub fn status(error: &ApiError) -> Status {
    let (code, reason, advice) = error.verdict();
    match code {
        Code::Internal | Code::DataLoss => tracing::error!(%error, reason, "call failed"),
        Code::Unavailable => tracing::warn!(%error, reason, "call failed"),
        _ => tracing::debug!(%error, reason, "call refused"),
    }
    let message = error.told();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, ERROR_DOMAIN, std::collections::HashMap::<String, String>::new());
    if let Some(field) = error.field_violation() {
        details.add_bad_request_violation(field, message.as_str());
    }
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    details.set_localized_message("en", advice);
    Status::with_error_details(code, message, details)
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        status(&error)
    }
}

impl From<JobError> for Status {
    fn from(error: JobError) -> Self {
        status(&ApiError::Jobs(error))
    }
}
