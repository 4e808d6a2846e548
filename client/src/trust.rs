//! The seam to `verifier`: this crate gathers bytes and time, the verifier decides.

use provenance::binding::Nonce;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;

/// The appraisal policy under which a build server is accepted.
pub struct SessionPolicy {
    _name: String,
}

/// A build server that the verifier refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SessionRejected {
    /// What was seen and wanted.
    pub message: String,
}

/// What was accepted, in words.
#[derive(Debug, Clone)]
pub struct SessionSummary {
    /// One line, such as `SEV-SNP Milan, launch 5feee3…0fca1, TCB …`.
    pub line: String,
}

impl SessionPolicy {
    /// Parses a policy file.
    pub fn parse(_text: &str, name: &str) -> Result<Self, String> {
        Ok(Self { _name: name.to_owned() })
    }

    pub(crate) fn appraise_session(
        &self,
        _evidence: &[u8],
        _tls_spki_sha256: Sha256Digest,
        _exporter: [u8; 32],
        _nonce: Nonce,
        _now: Timestamp,
    ) -> Result<SessionSummary, SessionRejected> {
        Err(SessionRejected { message: "the verifier is not built in yet".to_owned() })
    }
}
