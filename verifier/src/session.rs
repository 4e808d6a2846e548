//! Attested TLS from the client's side: is the other end of this very connection a guest that the policy accepts?

use provenance::binding::{LeafBody, Nonce};
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::instance::InstanceDocument;
use provenance::timestamp::Timestamp;

use crate::bound::{self, BindingError, BoundLeaf};
use crate::evidence::{self, AttestationResult, short_hex};
use crate::policy::Policy;
use crate::rejection::{Reason, Rejection};
use crate::reliance::Grounds;
use crate::secure_execution::OwnRequest;
use crate::snp::Endorsements;

/// Why session Evidence is not about this connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The leaf names another TLS key.
    #[error(
        "Evidence names TLS key {got}, this connection's certificate has {wanted}: somebody may be in between"
    )]
    TlsKey {
        /// Key in the leaf.
        got: Sha256Digest,
        /// Key of the connection.
        wanted: Sha256Digest,
    },
    /// The leaf names another connection.
    #[error("Evidence is of another TLS connection (exporter {}, wanted {}): somebody may be in between", hex::encode(.got), hex::encode(.wanted))]
    Exporter {
        /// Exporter in the leaf.
        got: [u8; 32],
        /// Exporter of the connection.
        wanted: [u8; 32],
    },
    /// The leaf holds another nonce.
    #[error("Evidence holds nonce {}, asked for {}: it may be old", hex::encode(.got.0), hex::encode(.wanted.0))]
    Nonce {
        /// Nonce in the leaf.
        got: Nonce,
        /// Nonce asked for.
        wanted: Nonce,
    },
}

/// An accepted guest at the other end of one connection. Made only by [`appraise_session`].
#[derive(Debug, Clone)]
pub struct SessionResult(BoundLeaf);

impl SessionResult {
    /// Which guest on which hardware.
    #[must_use]
    pub fn attestation(&self) -> &AttestationResult {
        self.0.result()
    }

    /// What the guest says about itself, covered by the report.
    #[must_use]
    pub fn instance(&self) -> &InstanceDocument {
        self.0.instance()
    }

    /// Whether a vendor's root stands behind it. If not, every output must say NOT HARDWARE.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.attestation().root().is_hardware()
    }

    /// `SEV-SNP Milan, launch 5feee30d…fca1, TCB 04.00.18.db`, with NOT HARDWARE in front where that is so.
    #[must_use]
    pub fn summary(&self) -> String {
        let result = self.attestation();
        let mark = if self.is_hardware() { "" } else { "NOT HARDWARE " };
        format!(
            "{mark}{}, launch {}, TCB {}",
            result.hardware_name(),
            short_hex(&result.measurement()),
            result.tcb()
        )
    }
}

/// What a client has beside the Evidence of a session or of keys.
#[derive(Clone, Copy)]
pub struct SessionGrounds<'a> {
    /// The attestation request that the Evidence was asked to answer: Secure Execution.
    pub own_requests: &'a [OwnRequest],
    /// Endorsements from elsewhere, such as host key documents.
    pub endorsements: &'a Endorsements,
}

impl<'a> From<&'a Endorsements> for SessionGrounds<'a> {
    /// No own request.
    fn from(endorsements: &'a Endorsements) -> Self {
        Self { own_requests: &[], endorsements }
    }
}

/// Parses, authenticates, appraises and binds a collection, up to a [`BoundLeaf`].
pub(crate) fn bound_leaf(
    policy: &Policy,
    bundle: &EvidenceBundle,
    given: SessionGrounds<'_>,
    now: Timestamp,
) -> Result<BoundLeaf, Reason> {
    let SessionGrounds { own_requests, endorsements: extra } = given;
    let grounds = Grounds { own_requests, attestation_result: bundle.attestation_result.as_deref() };
    let authentic =
        evidence::authenticate_with_grounds(&bundle.evidence, extra, grounds, policy.anchors(), now)?;
    let result = evidence::appraise(authentic, policy)?;
    Ok(bound::bind(result, bundle)?)
}

/// One TLS connection, as this end of it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// SHA-256 of the SubjectPublicKeyInfo of the server's certificate.
    pub tls_spki_sha256: Sha256Digest,
    /// TLS exporter, label [`provenance::binding::SESSION_EXPORTER_LABEL`], context = nonce.
    pub exporter: [u8; 32],
    /// What was asked with, fresh for this connection.
    pub nonce: Nonce,
}

/// Checks that a leaf names this very connection.
pub(crate) fn check_connection(bound: &BoundLeaf, connection: &Connection) -> Result<(), Reason> {
    let wanted = connection;
    match bound.leaf().body {
        LeafBody::Session { tls_spki_sha256: got, .. } if got != wanted.tls_spki_sha256 => {
            Err(SessionError::TlsKey { got, wanted: wanted.tls_spki_sha256 }.into())
        }
        LeafBody::Session { nonce: got, .. } if got != wanted.nonce => {
            Err(SessionError::Nonce { got, wanted: wanted.nonce }.into())
        }
        LeafBody::Session { tls_exporter: got, .. } if got != wanted.exporter => {
            Err(SessionError::Exporter { got, wanted: wanted.exporter }.into())
        }
        LeafBody::Session { .. } => Ok(()),
        ref other => Err(BindingError::LeafKind { got: bound::kind(other), wanted: "session" }.into()),
    }
}

/// Appraises session Evidence for one TLS connection.
///
/// * `evidence_cmw`: the collection as the server sent it.
/// * `tls_spki_sha256`: SHA-256 of the SubjectPublicKeyInfo of the server's certificate.
/// * `exporter`: TLS exporter of the connection, label [`provenance::binding::SESSION_EXPORTER_LABEL`], context = nonce.
/// * `nonce`: what was asked for, fresh for this connection.
pub fn appraise_session(
    policy: &Policy,
    evidence_cmw: &[u8],
    tls_spki_sha256: Sha256Digest,
    exporter: [u8; 32],
    nonce: Nonce,
    now: Timestamp,
) -> Result<SessionResult, Rejection> {
    let none = Endorsements::default();
    appraise_session_with(policy, evidence_cmw, (&none).into(), tls_spki_sha256, exporter, nonce, now)
}

/// The same with what the client has beside the Evidence.
pub fn appraise_session_with(
    policy: &Policy,
    evidence_cmw: &[u8],
    grounds: SessionGrounds<'_>,
    tls_spki_sha256: Sha256Digest,
    exporter: [u8; 32],
    nonce: Nonce,
    now: Timestamp,
) -> Result<SessionResult, Rejection> {
    let judge = || -> Result<SessionResult, Reason> {
        let bundle = EvidenceBundle::parse(evidence_cmw)?;
        let bound = bound_leaf(policy, &bundle, grounds, now)?;
        check_connection(&bound, &Connection { tls_spki_sha256, exporter, nonce })?;
        bound::appraise_rules(bound.instance(), policy)?;
        Ok(SessionResult(bound))
    };
    judge().map_err(|reason| Rejection::new(reason, policy))
}
