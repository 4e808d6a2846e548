//! The last step: every blob of the image is hashed and compared, by the client that reads them, in any order and in
//! parallel. Only when all are checked is there a [`TrustedImage`].

use std::collections::BTreeMap;

use serde::Serialize;

use provenance::digest::{Sha256Digest, Sha256Hasher};

use crate::rejection::{Reason, Rejection};
use crate::verdict::{Link, Outcome, Report};

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blob {
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type as the manifest says it.
    pub media_type: String,
    /// Whether it is a configuration; otherwise a layer.
    pub is_config: bool,
}

/// Why a blob is not what the manifest names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// More bytes than the manifest says.
    #[error("blob {digest} has more than the {wanted} bytes that the manifest says")]
    TooLong {
        /// Digest in the manifest.
        digest: Sha256Digest,
        /// Size in the manifest.
        wanted: u64,
    },
    /// Fewer bytes than the manifest says.
    #[error("blob {digest} has {got} bytes, the manifest says {wanted}")]
    Size {
        /// Digest in the manifest.
        digest: Sha256Digest,
        /// Bytes seen.
        got: u64,
        /// Size in the manifest.
        wanted: u64,
    },
    /// Other bytes.
    #[error("blob hashes to {got}, the manifest says {wanted}")]
    Digest {
        /// Digest of the bytes seen.
        got: Sha256Digest,
        /// Digest in the manifest.
        wanted: Sha256Digest,
    },
    /// The blob is not there or could not be read.
    #[error("blob {digest} could not be read: {problem}")]
    Missing {
        /// Digest in the manifest.
        digest: Sha256Digest,
        /// What the reader saw.
        problem: String,
    },
    /// The blob was checked against another manifest, which states another size.
    #[error("blob {digest} was checked to have {got} bytes, this image's manifest says {wanted}")]
    OtherSize {
        /// Its digest.
        digest: Sha256Digest,
        /// Bytes checked.
        got: u64,
        /// Size in the manifest.
        wanted: u64,
    },
    /// Blobs are left that nobody checked.
    #[error("{left} blobs of the image were not checked, the first is {first}")]
    Unchecked {
        /// Number of blobs left.
        left: usize,
        /// Digest of the first.
        first: Sha256Digest,
    },
}

/// Hashes one blob while it is read. Independent of all others, so that blobs can be read in parallel.
pub struct BlobHasher {
    blob: Blob,
    hasher: Sha256Hasher,
    seen: u64,
}

impl BlobHasher {
    /// Adds the next bytes. Fails as soon as there are more than the manifest says.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.blob.size {
            return Err(BlobError::TooLong { digest: self.blob.digest, wanted: self.blob.size });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Compares size and digest once all bytes were seen.
    pub fn finish(self) -> Result<CheckedBlob, BlobError> {
        let Blob { digest, size, .. } = self.blob;
        if self.seen != size {
            return Err(BlobError::Size { digest, got: self.seen, wanted: size });
        }
        let got = self.hasher.finish();
        if got == digest {
            Ok(CheckedBlob { digest, size })
        } else {
            Err(BlobError::Digest { got, wanted: digest })
        }
    }
}

/// Proof that the bytes of one blob were seen and are right. Made only by [`BlobHasher::finish`], and used once: neither
/// `Copy` nor `Clone`, so that nobody keeps one for another image.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckedBlob {
    digest: Sha256Digest,
    size: u64,
}

/// An image about which everything but its blobs is accepted.
#[derive(Debug)]
pub struct BlobChecks {
    pending: BTreeMap<Sha256Digest, Blob>,
    report: Report,
}

impl BlobChecks {
    pub(crate) fn new(blobs: Vec<Blob>, report: Report) -> Self {
        Self { pending: blobs.into_iter().map(|blob| (blob.digest, blob)).collect(), report }
    }

    /// The blobs that are still to be checked.
    pub fn pending(&self) -> impl Iterator<Item = &Blob> {
        self.pending.values()
    }

    /// A hasher for a pending blob; `None` for any other digest.
    #[must_use]
    pub fn hasher(&self, digest: &Sha256Digest) -> Option<BlobHasher> {
        let blob = self.pending.get(digest)?.clone();
        Some(BlobHasher { blob, hasher: Sha256Hasher::new(), seen: 0 })
    }

    /// Takes note of a checked blob. One that is not pending changes nothing.
    pub fn accept(&mut self, checked: CheckedBlob) -> Result<(), BlobError> {
        let CheckedBlob { digest, size: got } = checked;
        match self.pending.get(&digest).map(|blob| blob.size) {
            Some(wanted) if wanted != got => Err(BlobError::OtherSize { digest, got, wanted }),
            _ => {
                self.pending.remove(&digest);
                Ok(())
            }
        }
    }

    /// Ends with a refusal because of one blob.
    #[must_use]
    pub fn refuse(self, error: BlobError) -> Report {
        let rejection = Rejection::without_policy(Reason::Blob(error));
        self.report.refused_at(Link::Image, &rejection)
    }

    /// The trusted image, or the refusal when blobs are left unchecked.
    pub fn finish(self) -> Result<TrustedImage, Box<Report>> {
        match self.pending.keys().next().copied() {
            None => Ok(TrustedImage { report: self.report.with_outcome(Outcome::Trusted) }),
            Some(first) => {
                let left = self.pending.len();
                Err(Box::new(self.refuse(BlobError::Unchecked { left, first })))
            }
        }
    }
}

/// An image of which every link holds and every byte was seen. Made only by [`BlobChecks::finish`].
#[derive(Debug)]
pub struct TrustedImage {
    report: Report,
}

impl TrustedImage {
    /// Digest of the manifest or index that was judged.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.report.target()
    }

    /// The whole verdict.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}
