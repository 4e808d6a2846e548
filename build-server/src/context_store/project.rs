//! One project's blobs: look-up, reading, and writing of small ones.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use bytes::Bytes;
use provenance::context::{Directory, MAX_DIRECTORY};
use provenance::digest::{Sha256Digest, Sha256Hasher};
use tokio::sync::watch;

use super::arriving::{BlobSource, read_some};
use super::live::LiveBlobs;
use super::retention::PinnedRoot;
use super::{StoreError, StoreLimits, io_error};

/// One project's part of the context store. Cheap to clone.
#[derive(Clone)]
pub struct ProjectStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) directory: PathBuf,
    pub(super) limits: StoreLimits,
    /// Writers of blobs, walks of trees and answers about what is stored read-lock it; retention write-locks it, so that
    /// it never removes a blob between a walk that saw it and the marker that says so.
    pub(super) retention: RwLock<()>,
    /// Bytes of blobs and partial uploads; counted at the first write.
    used: OnceLock<AtomicU64>,
    /// Which of the 256 `blobs/xx` directories exist.
    fan_out: [AtomicBool; 256],
    created: AtomicBool,
    temporary: AtomicU64,
    /// Digests with an upload stream.
    pub(super) uploading: Mutex<HashSet<Sha256Digest>>,
    /// Roots that a queued or running build needs, with how many need it.
    pub(super) pins: Mutex<HashMap<PinnedRoot, usize>>,
    /// When a client last asked or wrote: retention leaves a project alone while it is being used.
    pub(super) last_use: Mutex<Option<SystemTime>>,
    changed: watch::Sender<u64>,
    pub(super) live: LiveBlobs,
}

impl ProjectStore {
    pub(super) fn new(directory: PathBuf, limits: StoreLimits) -> Self {
        Self {
            inner: Arc::new(Inner {
                directory,
                limits,
                retention: RwLock::default(),
                used: OnceLock::new(),
                fan_out: [const { AtomicBool::new(false) }; 256],
                created: AtomicBool::new(false),
                temporary: AtomicU64::new(0),
                uploading: Mutex::default(),
                pins: Mutex::default(),
                last_use: Mutex::default(),
                changed: watch::Sender::new(0),
                live: LiveBlobs::default(),
            }),
        }
    }

    /// The size of a stored blob in bytes; `None` when it is not stored. Only the name is looked up, the
    /// contents are hashed when they are read.
    pub fn blob_size(&self, digest: &Sha256Digest) -> Result<Option<u64>, StoreError> {
        match fs::metadata(self.inner.blob_path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(format!("look up blob {digest}"))(error)),
        }
    }

    /// Opens a blob for reading. The reader fails with `InvalidData` at the end when the bytes do not have
    /// the digest; use no byte for good before the end was reached.
    pub fn open_blob(&self, digest: &Sha256Digest) -> Result<BlobReader, StoreError> {
        let file = File::open(self.inner.blob_path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NotStored { digest: *digest },
            _ => io_error(format!("open blob {digest}"))(error),
        })?;
        let size = file.metadata().map_err(io_error(format!("look up blob {digest}")))?.len();
        Ok(BlobReader { store: self.clone(), file, size, digest: *digest, hasher: Some(Sha256Hasher::new()) })
    }

    /// The whole of a blob of at most `limit` bytes, hashed.
    pub fn read_blob(&self, digest: &Sha256Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.open_blob(digest)?;
        if reader.size > limit {
            return Err(StoreError::BlobTooLarge { digest: *digest, got: reader.size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(reader.size).unwrap_or(0));
        (&mut reader.file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error(format!("read blob {digest}")))?;
        let got = Sha256Digest::of(&bytes);
        if got != *digest {
            self.inner.discard(digest);
            return Err(StoreError::Corrupt { digest: *digest, got });
        }
        Ok(bytes)
    }

    /// A directory blob, hashed and parsed.
    pub fn directory(&self, digest: &Sha256Digest) -> Result<Directory, StoreError> {
        let blob = self.read_blob(digest, MAX_DIRECTORY as u64)?;
        Directory::parse(&blob).map_err(|problem| StoreError::Directory { digest: *digest, problem })
    }

    /// Those of `digests` that are not stored, in their order.
    pub fn missing(&self, digests: &[Sha256Digest]) -> Result<Vec<Sha256Digest>, StoreError> {
        let _guard = self.inner.in_use();
        let mut missing = Vec::new();
        for digest in digests {
            if self.blob_size(digest)?.is_none() {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    /// Stores small blobs under the digests of their bytes; gives how many were new. Nothing is synced: what a
    /// crash of the machine tears or loses is found when the tree is looked through again, or when it is read.
    pub fn put_small<B: AsRef<[u8]>>(&self, blobs: &[B]) -> Result<u64, StoreError> {
        let inner = &self.inner;
        inner.create()?;
        let _guard = inner.in_use();
        let mut stored = 0;
        for blob in blobs {
            let blob = blob.as_ref();
            let digest = Sha256Digest::of(blob);
            let size = blob.len() as u64;
            // A file of another size is damaged (torn by a crash of the machine): write it again.
            if self.blob_size(&digest)? == Some(size) {
                continue;
            }
            inner.reserve(&digest, size)?;
            let written = inner.write_temporary(blob).and_then(|path| inner.adopt(&path, &digest));
            if let Err(error) = written {
                inner.release(size);
                return Err(error);
            }
            stored += 1;
        }
        inner.notify();
        Ok(stored)
    }

    /// Changes whenever blobs were stored, so that a build that waits for its context can look again.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Bytes of blobs and partial uploads.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.inner.used()?.load(Ordering::Relaxed))
    }
}

impl Inner {
    pub(super) fn blob_path(&self, digest: &Sha256Digest) -> PathBuf {
        let hex = digest.hex();
        self.directory.join("blobs").join(&hex[..2]).join(&hex[2..])
    }

    pub(super) fn upload_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.directory.join("uploads").join(digest.hex())
    }

    pub(super) fn marker_path(&self, kind: &str, root: &Sha256Digest) -> PathBuf {
        self.directory.join("roots").join(format!("{kind}{}", root.hex()))
    }

    /// Keeps retention out while the result lives, and for a while after.
    pub(super) fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        self.retention.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Creates the project's directories once, and removes what an earlier process left half-written.
    pub(super) fn create(&self) -> Result<(), StoreError> {
        if self.created.load(Ordering::Acquire) {
            return Ok(());
        }
        // The lock makes the first of several writers clean `tmp` before any of them writes there.
        let _guard = self.uploading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.created.load(Ordering::Acquire) {
            return Ok(());
        }
        let temporary = self.directory.join("tmp");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("clean the context store's temporary files")(error));
            }
            _ => {}
        }
        for name in ["blobs", "uploads", "roots", "tmp"] {
            fs::create_dir_all(self.directory.join(name))
                .map_err(io_error("create a project's context store"))?;
        }
        self.created.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join("tmp").join(number.to_string());
        let written = File::create_new(&path).and_then(|mut file| file.write_all(bytes));
        written.map_err(|error| {
            let _ = fs::remove_file(&path);
            io_error("write a blob")(error)
        })?;
        Ok(path)
    }

    /// Moves a file whose bytes have `digest` to its place.
    pub(super) fn adopt(&self, path: &Path, digest: &Sha256Digest) -> Result<(), StoreError> {
        let target = self.blob_path(digest);
        let fan_out = &self.fan_out[usize::from(digest.as_bytes()[0])];
        if !fan_out.load(Ordering::Relaxed) {
            let parent = target.parent().expect("a blob's path has a parent");
            fs::create_dir_all(parent).map_err(io_error("create a blob directory"))?;
            fan_out.store(true, Ordering::Relaxed);
        }
        fs::rename(path, &target).map_err(|error| {
            let _ = fs::remove_file(path);
            io_error(format!("store blob {digest}"))(error)
        })
    }

    /// Removes a damaged blob, and the markers that vouch for it, so that a client is asked for it again.
    pub(super) fn discard(&self, digest: &Sha256Digest) {
        tracing::error!(%digest, "stored blob is damaged and was removed");
        if let Ok(markers) = fs::read_dir(self.directory.join("roots")) {
            for marker in markers.flatten() {
                let _ = fs::remove_file(marker.path());
            }
        }
        let path = self.blob_path(digest);
        if let Ok(metadata) = fs::metadata(&path)
            && fs::remove_file(&path).is_ok()
        {
            self.release(metadata.len());
        }
    }

    pub(super) fn used(&self) -> Result<&AtomicU64, StoreError> {
        if let Some(used) = self.used.get() {
            return Ok(used);
        }
        let mut total = 0;
        for top in ["blobs", "uploads"] {
            total +=
                directory_bytes(&self.directory.join(top), 1).map_err(io_error("count a project's blobs"))?;
        }
        Ok(self.used.get_or_init(|| AtomicU64::new(total)))
    }

    /// Counts `bytes` more, or refuses.
    pub(super) fn reserve(&self, digest: &Sha256Digest, bytes: u64) -> Result<(), StoreError> {
        if bytes > self.limits.blob_bytes {
            return Err(StoreError::BlobTooLarge {
                digest: *digest,
                got: bytes,
                limit: self.limits.blob_bytes,
            });
        }
        let limit = self.limits.project_bytes;
        self.used()?
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= limit)
            })
            .map(|_| ())
            .map_err(|used| StoreError::ProjectFull { used, wanted: bytes, limit })
    }

    pub(super) fn release(&self, bytes: u64) {
        if let Some(used) = self.used.get() {
            let _ = used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
        }
    }
}

/// Sum of file sizes below `path`, going `depth` directories down; 0 when it is not there.
fn directory_bytes(path: &Path, depth: usize) -> io::Result<u64> {
    let listing = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut total = 0;
    for entry in listing {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            total += metadata.len();
        } else if metadata.is_dir() && depth > 0 {
            total += directory_bytes(&entry.path(), depth - 1)?;
        }
    }
    Ok(total)
}

/// Reads one blob and checks its digest at the end.
pub struct BlobReader {
    store: ProjectStore,
    file: File,
    size: u64,
    digest: Sha256Digest,
    /// Gone when the end was reached and the digest held.
    hasher: Option<Sha256Hasher>,
}

impl BlobReader {
    /// Size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl BlobReader {
    /// Counts bytes that were read; none is the end.
    fn seen(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
        } else if let Some(hasher) = self.hasher.take() {
            let got = hasher.finish();
            if got != self.digest {
                self.store.inner.discard(&self.digest);
                let damaged = StoreError::Corrupt { digest: self.digest, got };
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
        }
        Ok(())
    }
}

impl BlobSource for BlobReader {
    fn next(&mut self, most: usize) -> io::Result<Bytes> {
        let bytes = read_some(&mut self.file, most, u64::MAX)?;
        self.seen(&bytes)?;
        Ok(bytes)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if !buffer.is_empty() {
            self.seen(&buffer[..count])?;
        }
        Ok(count)
    }
}
