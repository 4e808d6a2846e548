//! Envelopes beside an image. Strangers may attach as much as a registry lets them, and each of many Evidence collections
//! is held against each envelope: so payloads are hashed once, and what remains is counted.

use std::cell::Cell;

use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, Envelope};
use provenance::key::PublicKey;

/// Longest signature in bytes; ECDSA P-256 in ASN.1 DER, which project keys make, has at most 72. Envelopes with longer
/// ones are passed over.
pub const MAX_SIGNATURE: usize = 1024;
/// Most work for one image, in bytes hashed to check signatures.
pub const MAX_WORK: u64 = 1 << 30;
/// What the check of a signature takes beside hashing, in bytes that could be hashed meanwhile.
const PER_SIGNATURE: u64 = 64 << 10;

/// A DSSE envelope and the SHA-256 of its payload, hashed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedEnvelope {
    envelope: Envelope,
    payload_sha256: Sha256Digest,
}

impl From<Envelope> for HashedEnvelope {
    fn from(envelope: Envelope) -> Self {
        Self { payload_sha256: Sha256Digest::of(&envelope.payload), envelope }
    }
}

impl HashedEnvelope {
    /// The envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// SHA-256 of its payload.
    #[must_use]
    pub fn payload_sha256(&self) -> Sha256Digest {
        self.payload_sha256
    }

    /// [`Envelope::authenticate`], counted. `None` once there has been too much work.
    pub(crate) fn authenticate(
        &self,
        payload_type: &'static str,
        key: &PublicKey,
        work: &Work,
    ) -> Option<Result<&[u8], DsseError>> {
        work.spend(self.envelope.payload.len())?;
        Some(self.envelope.authenticate(payload_type, key))
    }
}

/// What is left of the work for one image.
pub(crate) struct Work(Cell<u64>);

impl Default for Work {
    fn default() -> Self {
        Self(Cell::new(MAX_WORK))
    }
}

impl Work {
    /// Takes what checking a signature over `bytes` costs; `None` when that is not left, and from then on.
    pub(crate) fn spend(&self, bytes: usize) -> Option<()> {
        let left = self.0.get().checked_sub(PER_SIGNATURE + bytes as u64);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ())
    }

    /// Whether nothing is left, so that not everything was looked at.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() < PER_SIGNATURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_is_just_enough_is_not_spent() {
        let work = Work(Cell::new(PER_SIGNATURE));
        assert!(!work.is_spent());
        assert_eq!(work.spend(0), Some(()));
        assert!(work.is_spent());
    }

    #[test]
    fn work_is_spent_by_bytes_and_by_signatures() {
        let work = Work::default();
        for _ in 0..3 {
            assert_eq!(work.spend(256 << 20), Some(()));
        }
        assert!(!work.is_spent());
        assert_eq!(work.spend(256 << 20), None, "the signatures cost something too");
        assert!(work.is_spent());
        assert_eq!(work.spend(0), None, "nothing more is done");

        let work = Work::default();
        let signatures = (0..).take_while(|_| work.spend(0).is_some()).count() as u64;
        assert_eq!(signatures, MAX_WORK / PER_SIGNATURE);
    }
}
