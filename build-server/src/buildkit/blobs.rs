//! The stored trees and blobs that a build may read.

use std::io::Read;

use provenance::context::Directory;
use provenance::digest::Sha256Digest;

use crate::context_store::{BlobSource, Gone, ProjectStore, StoreError};

/// Read access to one project's context store. Calls block.
pub trait ContextBlobs: Send + Sync + 'static {
    /// A directory blob, hashed and parsed.
    fn directory(&self, digest: &Sha256Digest) -> Result<Directory, BlobError>;
    /// A blob to read; the reader fails with `InvalidData` at its end when the bytes do not have the digest.
    fn open_blob(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send>, BlobError>;
    /// Size of a stored blob in bytes.
    fn blob_size(&self, digest: &Sha256Digest) -> Result<Option<u64>, BlobError>;
    /// Like [`Self::open_blob`], and where the blob may still arrive, the reader waits until it has come or `gone`
    /// says that nobody wants it any more.
    fn open_arriving(
        &self,
        digest: &Sha256Digest,
        size: u64,
        gone: Gone,
    ) -> Result<Box<dyn BlobSource>, BlobError>;
}

impl ContextBlobs for ProjectStore {
    fn directory(&self, digest: &Sha256Digest) -> Result<Directory, BlobError> {
        Self::directory(self, digest).map_err(|e| BlobError::new(digest, e))
    }

    fn open_blob(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        Self::open_blob(self, digest)
            .map(|reader| Box::new(reader) as Box<dyn Read + Send>)
            .map_err(|e| BlobError::new(digest, e))
    }

    fn blob_size(&self, digest: &Sha256Digest) -> Result<Option<u64>, BlobError> {
        Self::blob_size(self, digest).map_err(|e| BlobError::new(digest, e))
    }

    fn open_arriving(
        &self,
        digest: &Sha256Digest,
        size: u64,
        gone: Gone,
    ) -> Result<Box<dyn BlobSource>, BlobError> {
        match Self::open_blob(self, digest) {
            Ok(reader) => Ok(Box::new(reader)),
            Err(StoreError::NotStored { .. }) => Ok(Box::new(Self::open_arriving(self, digest, size, gone))),
            Err(error) => Err(BlobError::new(digest, error)),
        }
    }
}

/// Why a blob cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("blob {digest}: {problem}")]
pub struct BlobError {
    /// The blob.
    pub digest: Sha256Digest,
    /// What is wrong.
    pub problem: String,
}

impl BlobError {
    pub(super) fn new(digest: &Sha256Digest, problem: impl ToString) -> Self {
        Self { digest: *digest, problem: problem.to_string() }
    }
}
