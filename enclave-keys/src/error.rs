//! Errors of the key service, sorted by fault.

use std::time::Duration;

use provenance::binding::Nonce;
use provenance::digest::Sha256Digest;
use provenance::evidence::{MAX_COLLECTION, Platform};
use provenance::instance::InvalidInstance;
use provenance::key::InvalidPublicKey;
use provenance::request::InvalidRequest;
use provenance::statement::{InvalidStatement, MAX_SUBJECTS};
use provenance::timestamp::Timestamp;

use crate::attester::{AttesterError, ChallengeKind};
use crate::certificates::CertificateError;
use crate::own_report::OwnReportError;
use crate::releases::MAX_RELEASES;
use crate::sealing::EpochError;
use crate::secret::NoRandom;
use crate::tls::NotCertificateVerify;

/// Why the service does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Environment: the device gave no first Evidence.
    #[error("first Evidence: {0}")]
    Attester(#[from] AttesterError),
    /// Environment: the first report is not about what was asked.
    #[error("first Evidence: {0}")]
    OwnReport(#[from] OwnReportError),
    /// Configuration: Secure Execution without the header of the image.
    #[error(
        "this is a Secure Execution guest, and the header of its image is not known: Evidence could not be judged; name \
         the file in `secure_execution_header` of the operations configuration"
    )]
    NoHeader,
    /// Environment: no epoch to sign in.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// Environment: no random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// Configuration: the instance document would be one that verifiers refuse.
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
    /// Environment or bug: no TLS identity.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Environment: no thread.
    #[error("could not start the thread that talks to the device: {0}")]
    Thread(String),
}

/// Why a request to the key service is refused or fails. Nothing has been signed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    // What was handed in is wrong.
    /// The statement does not parse or contradicts itself.
    #[error(transparent)]
    Statement(#[from] InvalidStatement),
    /// The signed request does not parse, or its signature is not of the caller.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The caller's key is malformed.
    #[error("caller's key: {0}")]
    CallerKey(#[from] InvalidPublicKey),
    /// The statement is of another instance.
    #[error("statement names instance {got}, this instance is {expected}")]
    Instance {
        /// This instance.
        expected: Sha256Digest,
        /// The instance stated.
        got: Sha256Digest,
    },
    /// The statement names another builder.
    #[error("statement names builder `{got}`, this instance is `{expected}`")]
    BuilderId {
        /// This instance's builder id.
        expected: String,
        /// The builder id stated.
        got: String,
    },
    /// The statement names another caller than the one whose key signed the request.
    #[error("statement names caller {got}, the request is signed by {expected}")]
    Caller {
        /// The key that signed the request.
        expected: Sha256Digest,
        /// The caller stated.
        got: Sha256Digest,
    },
    /// The statement is about another request than the signed one.
    #[error("statement is about request {got}, the signed request is {expected}")]
    RequestDigest {
        /// SHA-256 of the signed request document.
        expected: Sha256Digest,
        /// The digest stated.
        got: Sha256Digest,
    },
    /// The nonce is not the request's.
    #[error("nonce is {}, the signed request says {}", hex::encode(got.0), hex::encode(expected.0))]
    Nonce {
        /// The nonce of the signed request.
        expected: Nonce,
        /// The nonce handed in.
        got: Nonce,
    },
    /// The project is not the request's.
    #[error("project is {got}, the signed request says {expected}")]
    Project {
        /// The project of the signed request.
        expected: Sha256Digest,
        /// The project handed in.
        got: Sha256Digest,
    },
    /// The statement's invocation id is not that of the requested build.
    #[error("statement's invocation id is `{got}`, wanted `{expected}`")]
    Invocation {
        /// `projects/{project}/builds/{build}` of the signed request.
        expected: String,
        /// The id stated.
        got: String,
    },
    /// A subject of the statement is in a repository that the signed request does not name.
    #[error("statement names a subject `{got}`, the signed request asks for {expected:?}")]
    SubjectName {
        /// Repositories of the names in the signed request.
        expected: Vec<String>,
        /// Name of the subject.
        got: String,
    },
    /// The request was signed long before this instance began.
    #[error(
        "request was issued at {got}, and this instance signs none from before {oldest}; sign it again, or start the \
         guest anew if its clock was ahead when it started"
    )]
    IssuedBefore {
        /// The earliest time accepted.
        oldest: Timestamp,
        /// When it was issued, by the caller's clock.
        got: Timestamp,
    },
    /// The request was signed before others that are no longer remembered, of which it may be one.
    #[error(
        "request was issued at {got}; the last {limit} released ones are remembered, none of {at} or before: sign it again"
    )]
    Forgotten {
        /// Requests remembered.
        limit: usize,
        /// When the last one that was forgotten was issued.
        at: Timestamp,
        /// When this one was issued.
        got: Timestamp,
    },
    /// The request has been released too often.
    #[error(
        "request {request} has been released {MAX_RELEASES} times in this boot; sign it again for another build"
    )]
    ReleasedTooOften {
        /// SHA-256 of the request document.
        request: Sha256Digest,
    },
    /// More images than a statement has subjects.
    #[error("{got} images to sign, at most {MAX_SUBJECTS} are allowed")]
    TooManyImages {
        /// Images seen.
        got: usize,
    },
    /// An image is not a subject of the statement.
    #[error("image {digest} is not a subject of the statement")]
    NotASubject {
        /// Digest of the image.
        digest: Sha256Digest,
    },
    /// An image is a subject, under another name.
    #[error("image {digest} is to be signed for `{got}`, the statement names it {expected:?}")]
    Repository {
        /// Digest of the image.
        digest: Sha256Digest,
        /// Names the statement gives it.
        expected: Vec<String>,
        /// The repository handed in.
        got: String,
    },
    /// The Evidence with all that belongs to it is longer than verifiers read.
    #[error(
        "Evidence with endorsements, request and instance document has {got} bytes, verifiers read {MAX_COLLECTION}: \
         shorten what the request or the trust configuration says"
    )]
    CollectionTooLong {
        /// Bytes of the collection.
        got: usize,
    },
    /// The platform answers a challenge of another kind.
    #[error(
        "this guest runs on {platform}, whose Evidence answers {wanted}{}",
        match wanted { ChallengeKind::Nonce => "", ChallengeKind::AttestationRequest => "; there was none" }
    )]
    Challenge {
        /// This guest's platform.
        platform: Platform,
        /// What its Evidence answers.
        wanted: ChallengeKind,
    },
    /// The Ultravisor does not take the attestation request.
    #[error(
        "attestation request: {0}; a request is for the host keys that it was made with, and for no others"
    )]
    AttestationRequest(AttesterError),
    /// The message is not for the TLS key.
    #[error(transparent)]
    NotCertificateVerify(#[from] NotCertificateVerify),

    // The environment.
    /// Too many wait already.
    #[error("too many wait for Evidence; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The device gave no Evidence.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// The device gave Evidence of something else.
    #[error(transparent)]
    OwnReport(#[from] OwnReportError),
    /// The device did not answer in time.
    #[error("the device gave no Evidence within {} s", after.as_secs())]
    DeviceTimeout {
        /// How long was waited.
        after: Duration,
    },
    /// No random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// No certificate for a project's key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The service has ended.
    #[error("the key service has stopped")]
    Stopped,
}
