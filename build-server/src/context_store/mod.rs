//! The context store: every project's blobs by SHA-256, as its clients uploaded them.
//!
//! One directory per project, so that an answer about what is missing never depends on another project:
//! ```text
//! <root>/<project>/blobs/ab/cdef…   a blob under its digest
//!                  uploads/<digest> what came so far of a large blob
//!                  roots/<digest>   marker: everything below this root was stored, in the boot that it names
//!                  tmp/             files being written
//! ```
//! The disk is the operator's: every blob is hashed again when it is read, so a changed or torn file is an
//! error ([`StoreError::Corrupt`]) and never source. A crash may lose blobs that no marker covers; it cannot
//! make a wrong blob count as a right one.
//!
//! The API blocks; call it from `spawn_blocking`.

mod arriving;
mod closure;
mod live;
mod project;
mod retention;
mod upload;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use provenance::context::InvalidDirectory;
use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;

pub use arriving::{ArrivingReader, BlobSource, Gone};
pub use closure::Completeness;
pub use project::{BlobReader, ProjectStore};
pub use retention::{Pin, PinnedRoot, Swept};
pub use upload::{Chunk, UploadSession};

/// What a project may store, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Most bytes of blobs and partial uploads per project.
    pub project_bytes: u64,
    /// Largest blob in bytes.
    pub blob_bytes: u64,
    /// Most entries of one tree, over all its directories.
    pub tree_entries: u64,
    /// Contexts that no build used for this long are removed.
    pub max_age: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            project_bytes: 50 << 30,
            blob_bytes: 20 << 30,
            tree_entries: 5_000_000,
            max_age: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    // Untrusted input.
    /// The bytes do not have the digest they were announced with.
    #[error("uploaded bytes have digest {got}, announced was {wanted}")]
    HashMismatch {
        /// Digest announced.
        wanted: Sha256Digest,
        /// Digest of the bytes.
        got: Sha256Digest,
    },
    /// A blob beyond the limit.
    #[error("blob {digest} has {got} bytes, at most {limit} are allowed")]
    BlobTooLarge {
        /// The blob.
        digest: Sha256Digest,
        /// Bytes announced.
        got: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The project has used up its share.
    #[error("the project stores {used} bytes of contexts and {wanted} more would exceed its {limit}")]
    ProjectFull {
        /// Bytes stored.
        used: u64,
        /// Bytes of the refused write.
        wanted: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A chunk that does not follow what is stored.
    #[error("chunk of {digest} starts at {got}, the upload stands at {wanted}")]
    ChunkOffset {
        /// The blob.
        digest: Sha256Digest,
        /// Offset of the chunk.
        got: u64,
        /// Offset that is expected next.
        wanted: u64,
    },
    /// A chunk that goes beyond the announced size.
    #[error("chunk of {digest} ends at {got}, its announced size is {size}")]
    ChunkOverrun {
        /// The blob.
        digest: Sha256Digest,
        /// End of the chunk.
        got: u64,
        /// Announced size.
        size: u64,
    },
    /// Chunks of one blob announce different sizes.
    #[error("blob {digest} was announced with {wanted} bytes, now with {got}")]
    SizeChanged {
        /// The blob.
        digest: Sha256Digest,
        /// Size of this chunk's announcement.
        got: u64,
        /// Size of the first announcement.
        wanted: u64,
    },
    /// Another stream uploads the same blob at this moment.
    #[error("blob {digest} is being uploaded by another stream")]
    UploadBusy {
        /// The blob.
        digest: Sha256Digest,
    },
    /// A directory blob that does not parse.
    #[error("directory {digest}: {problem}")]
    Directory {
        /// The blob.
        digest: Sha256Digest,
        /// What is wrong.
        problem: InvalidDirectory,
    },
    /// A directory names a size that the blob does not have.
    #[error("directory {directory} says that {blob} has {wanted} bytes, it has {got}")]
    EntrySize {
        /// The directory blob.
        directory: Sha256Digest,
        /// The blob that the entry names.
        blob: Sha256Digest,
        /// Size in the entry.
        wanted: u64,
        /// Size of the blob.
        got: u64,
    },
    /// A tree nested too deeply.
    #[error("the tree is nested deeper than {limit} directories")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A tree of too many entries.
    #[error("the tree has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// The manifest of an OCI layout is no manifest or index.
    #[error("OCI layout manifest {digest}: {problem}")]
    Manifest {
        /// The manifest.
        digest: Sha256Digest,
        /// What is wrong.
        problem: String,
    },
    // Environment.
    /// The blob is not stored.
    #[error("blob {digest} is not stored")]
    NotStored {
        /// The blob.
        digest: Sha256Digest,
    },
    /// The stored file does not have its name's digest: the disk was changed or damaged.
    #[error("stored blob {digest} is damaged: its bytes have digest {got}")]
    Corrupt {
        /// Digest by its name.
        digest: Sha256Digest,
        /// Digest of its bytes.
        got: Sha256Digest,
    },
    /// No space left on the state directory's file system.
    #[error("no space left on the disk of the build server to {what}")]
    DiskFull {
        /// What was being written.
        what: String,
    },
    /// Any other failure of the file system.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The failure.
        source: io::Error,
    },
}

/// Turns a file system failure into an error that says what was being done.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { what: what.into() }
        }
        _ => StoreError::Io { what: what.into(), source },
    }
}

/// The contexts of all projects. Cheap to clone.
#[derive(Clone)]
pub struct ContextStore {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    limits: StoreLimits,
    /// Open projects: they hold the byte count, pins and locks, so that there must be one of each at most.
    projects: Mutex<HashMap<ProjectId, ProjectStore>>,
}

impl ContextStore {
    /// Opens (and creates) the store under `root`.
    pub fn open(root: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        std::fs::create_dir_all(root).map_err(io_error("create the context store"))?;
        let shared = Shared { root: root.to_owned(), limits, projects: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store of one project. Nothing is created before the first write.
    #[must_use]
    pub fn project(&self, id: &ProjectId) -> ProjectStore {
        let mut projects = self.shared.projects.lock().unwrap_or_else(PoisonError::into_inner);
        projects
            .entry(*id)
            .or_insert_with(|| ProjectStore::new(self.shared.root.join(id.to_string()), self.shared.limits))
            .clone()
    }

    /// Removes what retention says from every project on disk. `now` is the file system's clock.
    pub fn sweep(&self, now: std::time::SystemTime) -> Result<Swept, StoreError> {
        let mut total = Swept::default();
        let listing = std::fs::read_dir(&self.shared.root).map_err(io_error("list the context store"))?;
        for entry in listing {
            let entry = entry.map_err(io_error("list the context store"))?;
            let id = entry.file_name().to_str().and_then(|name| Sha256Digest::from_hex(name).ok());
            if let Some(id) = id {
                total += self.project(&ProjectId(id)).sweep(now)?;
            }
        }
        Ok(total)
    }
}
