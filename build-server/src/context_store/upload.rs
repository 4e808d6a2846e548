//! Uploads of large blobs in chunks; what came so far survives the stream and the server.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::PoisonError;

use bytes::Bytes;
use provenance::digest::{Sha256Digest, Sha256Hasher};

use super::live::LiveChunk;
use super::project::ProjectStore;
use super::{StoreError, io_error};

/// One chunk of a large blob.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// SHA-256 of the whole blob.
    pub digest: Sha256Digest,
    /// Size of the whole blob in bytes.
    pub size: u64,
    /// Offset of `data`.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// The large blobs of one upload stream. Dropping it keeps what came, for a later stream.
pub struct UploadSession {
    store: ProjectStore,
    open: HashMap<Sha256Digest, Partial>,
}

/// Most blobs that one stream may have begun and not finished.
const MAX_OPEN: usize = 16;

enum Partial {
    /// The blob is stored already: its chunks are read and forgotten.
    Stored {
        size: u64,
        at: u64,
    },
    Open(OpenUpload),
}

struct OpenUpload {
    file: File,
    size: u64,
    written: u64,
    hasher: Sha256Hasher,
}

impl ProjectStore {
    /// How much of a blob is kept: its size and `true` when it is stored whole.
    pub fn upload_state(&self, digest: &Sha256Digest) -> Result<(u64, bool), StoreError> {
        let _guard = self.inner.in_use();
        if let Some(size) = self.blob_size(digest)? {
            return Ok((size, true));
        }
        match fs::metadata(self.inner.upload_path(digest)) {
            Ok(metadata) => Ok((metadata.len(), false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, false)),
            Err(error) => Err(io_error(format!("look up the upload of {digest}"))(error)),
        }
    }

    /// Begins a stream of chunks.
    #[must_use]
    pub fn upload_session(&self) -> UploadSession {
        UploadSession { store: self.clone(), open: HashMap::new() }
    }
}

impl UploadSession {
    /// Adds a chunk; gives `true` when it completed the blob and the blob was new.
    ///
    /// The first chunk of a blob may start where the last stream stopped ([`ProjectStore::upload_state`]) or
    /// at 0, which begins anew.
    pub fn add(&mut self, chunk: Chunk) -> Result<bool, StoreError> {
        let Chunk { digest, size, offset, data } = chunk;
        if !self.open.contains_key(&digest) {
            if self.open.len() >= MAX_OPEN {
                return Err(StoreError::UploadBusy { digest });
            }
            let partial = self.begin(digest, size, offset)?;
            self.open.insert(digest, partial);
        }
        let partial = self.open.get_mut(&digest).expect("just inserted");
        let (announced, at) = match partial {
            Partial::Stored { size, at } => (*size, *at),
            Partial::Open(upload) => (upload.size, upload.written),
        };
        if size != announced {
            return Err(StoreError::SizeChanged { digest, got: size, wanted: announced });
        }
        if offset != at {
            return Err(StoreError::ChunkOffset { digest, got: offset, wanted: at });
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > size {
            return Err(StoreError::ChunkOverrun { digest, got: end, size });
        }
        match partial {
            Partial::Stored { at, .. } => *at = end,
            Partial::Open(upload) => {
                // Before they are written, so that a reader who keeps up never looks for them on the disk.
                let before = upload.hasher.clone();
                upload.hasher.update(&data);
                let after = &upload.hasher;
                let inner = &self.store.inner;
                inner.live.offer(&digest, || LiveChunk {
                    offset,
                    data: data.clone(),
                    before,
                    after: after.clone(),
                });
                inner.notify();
                if let Err(error) = upload.file.write_all(&data) {
                    let error = io_error(format!("write the upload of {digest}"))(error);
                    if matches!(error, StoreError::DiskFull { .. }) {
                        self.discard(&digest);
                    }
                    return Err(error);
                }
                upload.written = end;
                self.store.inner.notify();
            }
        }
        if end < size {
            return Ok(false);
        }
        match self.open.remove(&digest) {
            Some(Partial::Open(upload)) => {
                let finished = self.finish(digest, upload);
                self.leave(&digest);
                finished.map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn begin(&self, digest: Sha256Digest, size: u64, offset: u64) -> Result<Partial, StoreError> {
        let inner = &self.store.inner;
        inner.create()?;
        let _guard = inner.in_use();
        if size > inner.limits.blob_bytes {
            return Err(StoreError::BlobTooLarge { digest, got: size, limit: inner.limits.blob_bytes });
        }
        if self.store.blob_size(&digest)? == Some(size) {
            return Ok(Partial::Stored { size, at: offset });
        }
        if !inner.uploading.lock().unwrap_or_else(PoisonError::into_inner).insert(digest) {
            return Err(StoreError::UploadBusy { digest });
        }
        self.open_partial(digest, size, offset).map(Partial::Open).inspect_err(|_| self.leave(&digest))
    }

    fn open_partial(&self, digest: Sha256Digest, size: u64, offset: u64) -> Result<OpenUpload, StoreError> {
        let inner = &self.store.inner;
        let what = || io_error(format!("open the upload of {digest}"));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(inner.upload_path(&digest))
            .map_err(what())?;
        let mut kept = file.metadata().map_err(what())?.len();
        if offset == 0 || kept > size {
            file.set_len(0).map_err(what())?;
            inner.release(kept);
            kept = 0;
        }
        if offset != kept {
            return Err(StoreError::ChunkOffset { digest, got: offset, wanted: kept });
        }
        // The whole blob is reserved at once: better refused before than after a gigabyte was sent.
        inner.reserve(&digest, size - kept)?;
        let mut hasher = Sha256Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut left = kept;
        while left > 0 {
            let count = file.read(&mut buffer).map_err(what())?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            left = left.saturating_sub(count as u64);
        }
        Ok(OpenUpload { file, size, written: kept, hasher })
    }

    fn finish(&self, digest: Sha256Digest, upload: OpenUpload) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let path = inner.upload_path(&digest);
        let got = upload.hasher.finish();
        drop(upload.file);
        if got != digest {
            // Nothing of it can be right: keeping it would make every later try fail too.
            let _ = fs::remove_file(&path);
            inner.release(upload.size);
            return Err(StoreError::HashMismatch { wanted: digest, got });
        }
        let _guard = inner.in_use();
        inner.adopt(&path, &digest)?;
        inner.notify();
        Ok(())
    }

    /// Forgets what came of a blob: kept for a later try, it would fill the disk for everybody until then.
    fn discard(&mut self, digest: &Sha256Digest) {
        if let Some(Partial::Open(upload)) = self.open.remove(digest) {
            let inner = &self.store.inner;
            drop(upload.file);
            let _ = fs::remove_file(inner.upload_path(digest));
            inner.release(upload.size);
            self.leave(digest);
        }
    }

    fn leave(&self, digest: &Sha256Digest) {
        self.store.inner.uploading.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

impl Drop for UploadSession {
    fn drop(&mut self) {
        for (digest, partial) in std::mem::take(&mut self.open) {
            if let Partial::Open(upload) = partial {
                // What was reserved and did not come is free again.
                self.store.inner.release(upload.size - upload.written);
                drop(upload.file);
                self.leave(&digest);
            }
        }
    }
}
