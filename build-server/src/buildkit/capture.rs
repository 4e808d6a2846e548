//! What the engine saw while it built: the raw stuff of the materials manifest.

use std::collections::BTreeMap;

use provenance::digest::Sha256Digest;

/// Everything observed during one solve.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    /// Every source that went in, each once, with its digest.
    pub sources: Vec<CapturedSource>,
    /// Every step, in the order in which BuildKit announced them.
    pub vertices: Vec<CapturedVertex>,
    /// BuildKit's own SLSA v1 provenance (mode max) from the build history; one per platform.
    pub provenance: Vec<serde_json::Value>,
    /// Committer time of the commit of a git context, in seconds since 1970.
    pub git_commit_time: Option<i64>,
    /// Attributes that we gave the frontend, without build arguments and labels (the request holds those).
    pub frontend_attributes: BTreeMap<String, String>,
    /// The `# syntax=` directive of the Dockerfile as written; served by the built-in frontend.
    pub syntax_directive: Option<String>,
    /// Whether the build has a RUN step, cached or not.
    pub has_run_steps: bool,
    /// Whether a RUN step has a cache mount.
    pub has_cache_mounts: bool,
}

/// Kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// An image of a registry.
    Image,
    /// A git repository.
    Git,
    /// An http or https download.
    Http,
    /// An image that we served from an uploaded OCI layout.
    OciLayout,
    /// A tree that we served.
    Local,
}

/// A digest of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceDigest {
    /// `sha256` or `gitCommit`.
    pub algorithm: String,
    /// Lower-case hex.
    pub hex: String,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CapturedSource {
    /// Its kind.
    pub kind: SourceKind,
    /// What was asked for (`docker.io/library/debian:bookworm`, a URL, a local name).
    pub requested: String,
    /// What it resolved to, as in SLSA resolvedDependencies (`pkg:docker/…`, `https://…#ref`).
    pub uri: String,
    /// Its digest; absent for local trees, which the request names by digest.
    pub digest: Option<SourceDigest>,
    /// Platform of an image, like `linux/amd64`.
    pub platform: Option<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedVertex {
    /// `sha256:…` of the operation.
    pub digest: String,
    /// Name as shown to people.
    pub name: String,
    /// Its result came from the cache.
    pub cached: bool,
    /// It is a RUN step.
    pub is_run: bool,
}

/// A manifest or index of the exported image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDescriptor {
    /// Media type.
    pub media_type: String,
    /// Digest; the bytes were hashed while they arrived.
    pub digest: Sha256Digest,
    /// Size in bytes.
    pub size: u64,
    /// Platform `os/arch[/variant]` of a manifest in an index.
    pub platform: Option<String>,
}

/// The archive of the files of the last stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesDescriptor {
    /// SHA-256 of the tar archive.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
}
