//! Which blobs stay: those of contexts that a build needs or used lately. The rest goes after a while.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use provenance::digest::Sha256Digest;

use super::project::ProjectStore;
use super::{StoreError, io_error};

/// A project that was used within this time is left alone: its client may just have been told that a blob is
/// here and need not be sent.
const QUIET: Duration = Duration::from_secs(600);
/// Blobs and partial uploads younger than this stay, whoever refers to them.
const YOUNG: Duration = Duration::from_secs(3600);

/// What a build reads from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinnedRoot {
    /// A tree, by its root directory blob.
    Tree(Sha256Digest),
    /// An image of an OCI layout, by its manifest or index.
    Layout(Sha256Digest),
}

impl PinnedRoot {
    /// Digest of the root directory or manifest.
    #[must_use]
    pub fn digest(&self) -> &Sha256Digest {
        match self {
            Self::Tree(digest) | Self::Layout(digest) => digest,
        }
    }

    /// Prefix of the marker's name.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Tree(_) => "",
            Self::Layout(_) => "oci-",
        }
    }

    fn from_marker(name: &str) -> Option<Self> {
        match name.strip_prefix("oci-") {
            Some(hex) => Sha256Digest::from_hex(hex).ok().map(Self::Layout),
            None => Sha256Digest::from_hex(name).ok().map(Self::Tree),
        }
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs and partial uploads.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AddAssign for Swept {
    fn add_assign(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

/// Keeps the blobs of some roots while it lives.
#[must_use = "the roots are kept only while this lives"]
pub struct Pin {
    store: ProjectStore,
    roots: Vec<PinnedRoot>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.store.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for root in &self.roots {
            if let Some(count) = pins.get_mut(root) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(root);
                }
            }
        }
    }
}

impl ProjectStore {
    /// Keeps what is and will be stored of these roots until the pin is dropped.
    pub fn pin(&self, roots: Vec<PinnedRoot>) -> Pin {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for root in &roots {
            *pins.entry(*root).or_insert(0) += 1;
        }
        drop(pins);
        Pin { store: self.clone(), roots }
    }

    /// Removes blobs that no recent context needs, and stale partial uploads.
    pub fn sweep(&self, now: SystemTime) -> Result<Swept, StoreError> {
        let inner = &self.inner;
        let recently_used = || {
            let last_use = inner.last_use.lock().unwrap_or_else(PoisonError::into_inner);
            last_use.is_some_and(|t| age(now, t) < QUIET)
        };
        if recently_used() {
            return Ok(Swept::default());
        }
        let _guard = inner.retention.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever was told a moment ago what is stored must find it.
        if recently_used() {
            return Ok(Swept::default());
        }
        let keep = self.kept_blobs(now)?;
        let mut swept = Swept::default();
        let old = |modified: SystemTime| age(now, modified) >= YOUNG.min(inner.limits.max_age);
        let blobs = inner.directory.join("blobs");
        for fan_out in list(&blobs)? {
            for name in list(&blobs.join(&fan_out))? {
                let digest = Sha256Digest::from_hex(&format!("{fan_out}{name}")).ok();
                if digest.is_some_and(|digest| keep.contains(&digest)) {
                    continue;
                }
                remove_if(&blobs.join(&fan_out).join(&name), old, &mut swept)?;
            }
        }
        let uploads = inner.directory.join("uploads");
        for name in list(&uploads)? {
            remove_if(&uploads.join(&name), old, &mut swept)?;
        }
        inner.release(swept.bytes);
        Ok(swept)
    }

    /// Blobs of pinned roots and of contexts used within the age limit. Markers of the others are removed
    /// before any blob is, so that a crash in between leaves no marker without its blobs.
    fn kept_blobs(&self, now: SystemTime) -> Result<HashSet<Sha256Digest>, StoreError> {
        let inner = &self.inner;
        let mut roots: HashSet<PinnedRoot> =
            inner.pins.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let markers = inner.directory.join("roots");
        for name in list(&markers)? {
            let path = markers.join(&name);
            let modified =
                fs::metadata(&path).and_then(|m| m.modified()).map_err(io_error("read a marker's time"))?;
            let root = PinnedRoot::from_marker(&name);
            match root {
                Some(root) if age(now, modified) < inner.limits.max_age || roots.contains(&root) => {
                    roots.insert(root);
                }
                _ => fs::remove_file(&path).map_err(io_error("remove a marker"))?,
            }
        }
        let mut keep = HashSet::new();
        for root in roots {
            let mut seen = HashSet::new();
            match self.walk(&root, &mut seen) {
                Ok(_) => {}
                // Its damaged blob and the markers are gone already; its client uploads it again.
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::warn!(root = %root.digest(), %error, "context is damaged");
                }
                // The context of a build that is about to fail for this very reason.
                Err(
                    error @ (StoreError::Directory { .. }
                    | StoreError::EntrySize { .. }
                    | StoreError::Manifest { .. }),
                ) => {
                    tracing::warn!(root = %root.digest(), %error, "context is malformed");
                }
                Err(error) => return Err(error),
            }
            keep.extend(seen);
        }
        Ok(keep)
    }
}

fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

fn list(directory: &Path) -> Result<Vec<String>, StoreError> {
    let what = || io_error(format!("list {}", directory.file_name().unwrap_or_default().to_string_lossy()));
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(what()(error)),
        Ok(listing) => listing
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(what()))
            .collect(),
    }
}

fn remove_if(path: &Path, old: impl Fn(SystemTime) -> bool, swept: &mut Swept) -> Result<(), StoreError> {
    let what = || io_error("remove an unused blob");
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(what())?,
    };
    if old(metadata.modified().map_err(what())?) {
        fs::remove_file(path).map_err(what())?;
        *swept += Swept { blobs: 1, bytes: metadata.len() };
    }
    Ok(())
}
