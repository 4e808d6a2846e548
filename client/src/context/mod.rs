//! The build context on the client's side: a directory becomes a Merkle tree of directory blobs and files
//! ([`provenance::context`]), and only what the project's store lacks is uploaded.
//!
//! Symbolic links are never followed. Files are opened beneath the root only, so a directory that is swapped
//! for a link while the walk runs cannot lead outside.

mod cache;
mod dockerfile;
mod filter;
mod scan;
mod upload;
mod walk;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use provenance::context::InvalidDirectory;
use provenance::digest::Sha256Digest;

pub use cache::StatCache;
pub use dockerfile::{DockerfileSource, DockerfileTree, read_context_ignore, read_dockerfile};
pub use filter::{IgnoreError, IgnoreFilter};
pub use scan::{empty_tree, scan};
pub use upload::{Uploaded, upload};

/// Most entries of one context.
pub const MAX_ENTRIES: usize = 2_000_000;

/// Where the bytes of a file blob come from.
#[derive(Clone)]
pub enum BlobSource {
    /// In memory: directory blobs, Dockerfiles.
    Memory(Arc<Vec<u8>>),
    /// A file beneath a context's root.
    File(FileSource),
    /// A blob of an OCI layout, or another file by its path.
    Path(Arc<PathBuf>),
}

/// A regular file beneath the root of a context, and what it looked like when it was hashed.
#[derive(Clone)]
pub struct FileSource {
    /// The root directory.
    pub(crate) root: Arc<OwnedFd>,
    /// Path of the root as the user gave it, for messages.
    pub(crate) root_path: Arc<PathBuf>,
    /// Path from the root, `/` between components.
    pub(crate) path: Arc<Vec<u8>>,
    /// State when it was hashed.
    pub(crate) stamp: walk::Stamp,
}

/// One blob to be stored.
#[derive(Clone)]
pub struct Blob {
    /// Length in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub source: BlobSource,
}

/// A tree of blobs, ready for upload.
#[derive(Clone)]
pub struct Tree {
    /// Digest of the root directory blob.
    pub root: Sha256Digest,
    /// All blobs by digest: directory blobs and files.
    pub blobs: HashMap<Sha256Digest, Blob>,
    /// Regular files (hard links not counted again).
    pub files: u64,
    /// Sum of the sizes of those files.
    pub bytes: u64,
    /// The tree of the scan before, when a cache told of it.
    pub previous: Option<Previous>,
    /// What [`IgnoreFilter::leaving_out`] kept out of it, from the root.
    pub left_out: Vec<Vec<u8>>,
}

impl Tree {
    /// A tree without files.
    pub(crate) fn new(root: Sha256Digest, blobs: HashMap<Sha256Digest, Blob>) -> Self {
        Self { root, blobs, files: 0, bytes: 0, previous: None, left_out: Vec::new() }
    }
}

/// An earlier tree of the same directory: a store that has it whole needs not be asked for what is still the same.
#[derive(Clone)]
pub struct Previous {
    /// Digest of its root directory blob.
    pub root: Sha256Digest,
    /// Files of it that are as they were.
    pub files: Arc<HashSet<Sha256Digest>>,
}

/// Why a directory cannot be a context. Fault: the caller's files, or the environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A file or directory cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was written to while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// More entries than allowed.
    #[error("context {} has more than {MAX_ENTRIES} entries", path.display())]
    TooMany {
        /// The context.
        path: PathBuf,
    },
    /// Directories nested too deeply.
    #[error("{} lies deeper than {limit} directories", path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A directory breaks a rule of the tree's format.
    #[error("directory {}: {problem}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Which rule.
        problem: InvalidDirectory,
    },
    /// A pattern of an ignore file is malformed.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
    /// There is no Dockerfile.
    #[error("no Dockerfile at {}", path.display())]
    NoDockerfile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The Dockerfile is too large to be one.
    #[error("{} has more than {limit} bytes, too many for a Dockerfile", path.display())]
    LargeDockerfile {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The server refused or the connection broke.
    #[error("upload: {}", crate::session::said(.0))]
    Service(#[from] Box<tonic::Status>),
}

impl From<tonic::Status> for ContextError {
    fn from(status: tonic::Status) -> Self {
        Self::Service(Box::new(status))
    }
}
