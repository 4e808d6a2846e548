//! On whose word an Attestation Result rests. Reports and quotes are signed by the hardware and convince everybody; an
//! answer of Secure Execution convinces the one who made the attestation request, and others only through a Verifier.

use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::timestamp::Timestamp;

use crate::secure_execution::OwnRequest;

/// A kind of Evidence, as policies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvidenceKind {
    /// A report or quote that the hardware signed.
    Hardware,
    /// An answer to an attestation request of one's own.
    OwnRequest,
    /// What a named Verifier says about an answer to its request.
    AttestationResult,
}

impl EvidenceKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Hardware, Self::OwnRequest, Self::AttestationResult];

    /// Its spelling in policies and verdicts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::OwnRequest => "own-request",
            Self::AttestationResult => "attestation-result",
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reliance {
    /// The hardware's own signature.
    Hardware,
    /// One's own attestation request: whoever holds its key could have made the answer.
    OwnRequest {
        /// SHA-256 of the request.
        request: Sha256Digest,
    },
    /// The word of a Verifier.
    AttestationResult(Box<VerifierStatement>),
}

impl Reliance {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match self {
            Self::Hardware => EvidenceKind::Hardware,
            Self::OwnRequest { .. } => EvidenceKind::OwnRequest,
            Self::AttestationResult(_) => EvidenceKind::AttestationResult,
        }
    }

    /// The Verifier's statement, where there is one.
    #[must_use]
    pub fn statement(&self) -> Option<&VerifierStatement> {
        match self {
            Self::AttestationResult(statement) => Some(statement),
            Self::Hardware | Self::OwnRequest { .. } => None,
        }
    }
}

impl fmt::Display for Reliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware => f.write_str("relies on the hardware's signature"),
            Self::OwnRequest { request } => {
                write!(
                    f,
                    "relies on your own attestation request {}: it convinces nobody else",
                    request.short()
                )
            }
            Self::AttestationResult(it) => write!(
                f,
                "relies on the Verifier \"{}\" ({}), which judged under policy {} at {}; valid until {}",
                it.verifier,
                it.key.short(),
                it.policy_sha256.short(),
                it.issued_at,
                it.expires_at
            ),
        }
    }
}

/// Who made an Attestation Result, under which policy and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierStatement {
    /// The Verifier's name in the policy.
    pub verifier: String,
    /// SHA-256 of the SPKI of its key.
    pub key: Sha256Digest,
    /// SHA-256 of the policy that it judged under.
    pub policy_sha256: Sha256Digest,
    /// When it made the Result.
    pub issued_at: Timestamp,
    /// When the Result expires.
    pub expires_at: Timestamp,
}

/// A Verifier whose Attestation Results may be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVerifier {
    /// Name for messages.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
}

/// What a Relying Party has that can make Secure Execution Evidence convincing.
#[derive(Clone, Copy, Default)]
pub struct Grounds<'a> {
    /// Attestation requests that it made itself, with their keys.
    pub own_requests: &'a [OwnRequest],
    /// Attestation Result that came with the Evidence (DSSE JSON).
    pub attestation_result: Option<&'a [u8]>,
}
