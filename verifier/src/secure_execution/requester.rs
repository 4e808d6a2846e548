//! Whom an own attestation request may be made for. Whoever holds the private key of a host key that a request has a slot
//! for could forge the answer, so a request is made only for host keys that the policy accepts and that were traced to an
//! accepted root.

use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;

use super::host_key;
use super::{AuthenticHostKey, HostKeyAnchors, HostKeyError, MAX_HOST_KEYS};
use crate::policy::Policy;
use crate::reliance::EvidenceKind;
use crate::snp::Endorsements;

/// Why no request can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoHostKey {
    /// Nothing in the policy accepts the answer.
    #[error("the policy does not accept answers of Secure Execution to an own attestation request")]
    NotAccepted,
    /// No certificate at hand is a host key document.
    #[error("no host key document is among the {got} certificates given")]
    NoDocument {
        /// Certificates given.
        got: usize,
    },
    /// Too many host key documents.
    #[error("{got} host key documents are given, at most {MAX_HOST_KEYS} are read")]
    TooMany {
        /// How many there are.
        got: usize,
    },
    /// A host key document is refused.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// IBM's root, which the policy does not accept.
    #[error("root is the one above IBM's signing keys, which the policy does not accept")]
    RootNotAccepted,
    /// The documents are of host keys that the policy does not accept.
    #[error(
        "host key documents are of {}; the policy accepts answers from {}", list(.got), list(.wanted)
    )]
    OtherHostKeys {
        /// Hashes of the host keys given.
        got: Vec<Sha256Digest>,
        /// Hashes that the policy accepts.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
}

fn list(hashes: &[Sha256Digest]) -> String {
    hashes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The host keys that a request may be made for under this policy, at least one: those of the documents in
/// `given.certificates` that the policy accepts. Certificates above them and revocation lists must be given too. A document
/// of an accepted host key that is refused refuses the whole.
pub fn host_keys_for_request(
    policy: &Policy,
    given: &Endorsements,
    now: Timestamp,
) -> Result<Vec<AuthenticHostKey>, NoHostKey> {
    let kinds = policy.evidence_kinds();
    let rules = policy.secure_execution().filter(|_| kinds.value.contains(&EvidenceKind::OwnRequest));
    let accepted = &rules.ok_or(NoHostKey::NotAccepted)?.attestation_host_keys;
    let documents: Vec<&Vec<u8>> =
        given.certificates.iter().filter(|der| host_key::is_document(der)).collect();
    match documents.len() {
        0 => return Err(NoHostKey::NoDocument { got: given.certificates.len() }),
        got if got > MAX_HOST_KEYS => return Err(NoHostKey::TooMany { got }),
        _ => {}
    }
    let anchors = HostKeyAnchors::vendor().dangerous_with_roots(policy.anchors().dangerous());
    // What is no list of this kind is of other vendors, or a certificate.
    let given = &Endorsements {
        certificates: given.certificates.clone(),
        crls: given.crls.iter().filter(|der| host_key::is_list(der)).cloned().collect(),
        ..Endorsements::default()
    };
    let mut host_keys: Vec<AuthenticHostKey> = Vec::new();
    let mut others = Vec::new();
    for document in documents {
        let hash = host_key::hash(document)?;
        if !accepted.value.contains(&hash) {
            others.push(hash);
            continue;
        }
        // Documents are renewed: two may be of one key.
        if host_keys.iter().any(|known| known.hash() == hash) {
            continue;
        }
        let host_key = host_key::authenticate(document, given, &anchors, now)?;
        if !host_key::is_accepted(host_key.root(), policy.anchors()) {
            return Err(NoHostKey::RootNotAccepted);
        }
        host_keys.push(host_key);
    }
    if host_keys.is_empty() {
        let (wanted, line) = (accepted.value.clone(), accepted.line);
        return Err(NoHostKey::OtherHostKeys { got: others, wanted, line });
    }
    Ok(host_keys)
}
