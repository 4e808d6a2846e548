//! Attestation Results of Verifiers: what somebody else saw who made the attestation request.
//!
//! Steps, each with its own error:
//! 1. the envelope is signed by a Verifier that the policy names, and holds an Attestation Result;
//! 2. it is about exactly this Evidence;
//! 3. it is valid at `now`;
//! 4. its host keys were traced to an accepted root.

use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, Envelope};
use provenance::secure_execution::{
    ATTESTATION_RESULT_PAYLOAD_TYPE, AttestationResult, InvalidAttestationResult, MAX_ATTESTATION_RESULT,
};
use provenance::timestamp::Timestamp;

use super::host_key::{HostKeyError, HostKeyRoot, is_vendor_root};
use super::measurement::AdditionalData;
use super::{AuthenticMeasurement, Claims, ImageTags};
use crate::reliance::{NamedVerifier, Reliance, VerifierStatement};
use crate::roots::Anchors;

/// Why an Attestation Result is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The envelope is malformed or of another type.
    #[error("Attestation Result: {0}")]
    Envelope(DsseError),
    /// Signed by none of the Verifiers that the policy names.
    #[error("Attestation Result is signed by none of the Verifiers that the policy names: {}", names(.wanted))]
    UnknownVerifier {
        /// Names of those accepted.
        wanted: Vec<String>,
    },
    /// The document is malformed.
    #[error(transparent)]
    Invalid(#[from] InvalidAttestationResult),
    /// About other Evidence.
    #[error("Attestation Result is about Evidence {got}, at hand is {wanted}")]
    OtherEvidence {
        /// Digest in the Result.
        got: Sha256Digest,
        /// Digest of the Evidence.
        wanted: Sha256Digest,
    },
    /// From the future.
    #[error("Attestation Result was issued at {issued_at}, judged at {now}")]
    NotYetValid {
        /// When it was issued.
        issued_at: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
    /// Too old.
    #[error("Attestation Result expired at {expires_at}, judged at {now}")]
    Expired {
        /// When it expired.
        expires_at: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
}

fn names(wanted: &[String]) -> String {
    if wanted.is_empty() { "it names none".to_owned() } else { wanted.join(", ") }
}

impl ResultError {
    /// Whether a newer Result could heal it.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }
}

/// Authenticates an Attestation Result about these Evidence bytes, as of `now`.
pub(super) fn authenticate(
    evidence: &[u8],
    user_data_offset: usize,
    envelope: &[u8],
    anchors: &Anchors,
    now: Timestamp,
) -> Result<AuthenticMeasurement, super::SeError> {
    // Step 1.
    let envelope = Envelope::parse(envelope, MAX_ATTESTATION_RESULT).map_err(ResultError::Envelope)?;
    let (verifier, document) = signed_by(&envelope, anchors.verifiers())?;
    let result = AttestationResult::parse(document).map_err(ResultError::Invalid)?;

    // Step 2.
    let wanted = Sha256Digest::of(evidence);
    if result.evidence_sha256 != wanted {
        return Err(ResultError::OtherEvidence { got: result.evidence_sha256, wanted }.into());
    }

    // Step 3.
    if now < result.issued_at {
        return Err(ResultError::NotYetValid { issued_at: result.issued_at, now }.into());
    }
    if now >= result.expires_at {
        return Err(ResultError::Expired { expires_at: result.expires_at, now }.into());
    }

    // Step 4.
    let root = match result.host_key_root {
        got if is_vendor_root(&got) => HostKeyRoot::DigiCertTrustedRootG4,
        got if anchors.dangerous().contains(&got) => HostKeyRoot::Dangerous(got),
        got => return Err(HostKeyError::UnknownRoot { got }.into()),
    };
    let reliance = Reliance::AttestationResult(Box::new(VerifierStatement {
        verifier: verifier.name.clone(),
        key: verifier.key.spki_sha256(),
        policy_sha256: result.policy_sha256,
        issued_at: result.issued_at,
        expires_at: result.expires_at,
    }));
    let claims = Claims {
        request: result.request_sha256,
        nonce: None,
        slots: Vec::new(),
        image: ImageTags::from_bytes(result.image),
        config_uid: result.config_uid,
        user_data: result.user_data,
        user_data_offset,
        additional: AdditionalData {
            image_host_key: result.image_host_key,
            attestation_host_key: result.attestation_host_key,
            secret_store_hash: None,
            firmware_state: None,
        },
    };
    Ok(AuthenticMeasurement { claims, root, reliance })
}

fn signed_by<'a, 'b>(
    envelope: &'a Envelope,
    verifiers: &'b [NamedVerifier],
) -> Result<(&'b NamedVerifier, &'a [u8]), ResultError> {
    for verifier in verifiers {
        match envelope.authenticate(ATTESTATION_RESULT_PAYLOAD_TYPE, &verifier.key) {
            Ok(document) => return Ok((verifier, document)),
            // An envelope does not name its key: the next may be the one.
            Err(DsseError::Signature(_)) => {}
            Err(error) => return Err(ResultError::Envelope(error)),
        }
    }
    let wanted = verifiers.iter().map(|verifier| verifier.name.clone()).collect();
    Err(ResultError::UnknownVerifier { wanted })
}
