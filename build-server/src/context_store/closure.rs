//! Whether everything below a root is stored, with a marker so that an unchanged context costs one look-up.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _};
use std::sync::OnceLock;
use std::time::SystemTime;

use provenance::context::MAX_DEPTH;
use provenance::digest::Sha256Digest;
use serde::Deserialize;

use super::project::ProjectStore;
use super::retention::PinnedRoot;
use super::{StoreError, io_error};
use crate::publish::oci::null_is_empty;

/// Largest manifest or index of an OCI layout in bytes.
const MAX_MANIFEST: u64 = 4 << 20;

/// Whether a context is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// Every blob is stored.
    Complete,
    /// At least this blob is missing.
    Missing(Sha256Digest),
}

/// What a manifest or index refers to (OCI image-spec 1.1, manifest.md and image-index.md).
#[derive(Deserialize)]
struct Manifest {
    config: Option<Reference>,
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Vec<Reference>,
    #[serde(default)]
    manifests: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    digest: Sha256Digest,
}

impl ProjectStore {
    /// Whether every blob of the tree under `root` is stored with the size its entry says.
    pub fn is_complete(&self, root: &Sha256Digest) -> Result<Completeness, StoreError> {
        self.completeness(&PinnedRoot::Tree(*root))
    }

    /// Whether a context is complete: a tree, or an image of an OCI layout.
    pub fn completeness(&self, root: &PinnedRoot) -> Result<Completeness, StoreError> {
        let _guard = self.inner.in_use();
        let marker = self.inner.marker_path(root.kind(), root.digest());
        if refresh(&marker).map_err(io_error("look up a context's marker"))? {
            return Ok(Completeness::Complete);
        }
        let mut seen = HashSet::new();
        let outcome = self.walk(root, &mut seen)?;
        if outcome == Completeness::Complete {
            self.inner.create()?;
            fs::write(&marker, boot()).map_err(io_error("mark a context complete"))?;
        }
        Ok(outcome)
    }

    /// Adds every stored blob below `root` to `seen` and stops at the first that is missing.
    pub(super) fn walk(
        &self,
        root: &PinnedRoot,
        seen: &mut HashSet<Sha256Digest>,
    ) -> Result<Completeness, StoreError> {
        match root {
            PinnedRoot::Tree(digest) => self.walk_tree(digest, seen, true),
            PinnedRoot::Layout(digest) => self.walk_layout(digest, seen, 0),
        }
    }

    /// Whether every directory of the tree under `root` is stored: enough to walk it, while files still arrive.
    pub fn structure(&self, root: &Sha256Digest) -> Result<Completeness, StoreError> {
        let _guard = self.inner.in_use();
        if refresh(&self.inner.marker_path("", root)).map_err(io_error("look up a context's marker"))? {
            return Ok(Completeness::Complete);
        }
        self.walk_tree(root, &mut HashSet::new(), false)
    }

    /// Names the missing blob that comes last on the way: uploads go the same way, so it is likely to come last.
    fn walk_tree(
        &self,
        root: &Sha256Digest,
        seen: &mut HashSet<Sha256Digest>,
        with_files: bool,
    ) -> Result<Completeness, StoreError> {
        let mut missing = None;
        let mut entries = 0;
        let mut level = vec![*root];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for digest in std::mem::take(&mut level) {
                if !seen.insert(digest) {
                    continue;
                }
                let directory = match self.directory(&digest) {
                    Err(StoreError::NotStored { digest }) => {
                        missing = Some(digest);
                        continue;
                    }
                    other => other?,
                };
                entries += directory.entries().len() as u64;
                if entries > self.inner.limits.tree_entries {
                    return Err(StoreError::TooManyEntries { limit: self.inner.limits.tree_entries });
                }
                let (directories, files) = directory.references();
                for (blob, wanted) in files.into_iter().filter(|_| with_files) {
                    if !seen.insert(blob) {
                        continue;
                    }
                    match self.blob_size(&blob)? {
                        None => missing = Some(blob),
                        Some(got) if got != wanted => {
                            return Err(StoreError::EntrySize { directory: digest, blob, wanted, got });
                        }
                        Some(_) => {}
                    }
                }
                next.extend(directories);
            }
            if next.is_empty() {
                return Ok(missing.map_or(Completeness::Complete, Completeness::Missing));
            }
            level = next;
        }
        Err(StoreError::TooDeep { limit: MAX_DEPTH })
    }

    /// An index counts as complete when at least one of its manifests is stored and each stored one is whole:
    /// a layout may hold fewer platforms than its index names.
    fn walk_layout(
        &self,
        digest: &Sha256Digest,
        seen: &mut HashSet<Sha256Digest>,
        depth: usize,
    ) -> Result<Completeness, StoreError> {
        if depth > 4 {
            return Err(StoreError::TooDeep { limit: 4 });
        }
        if !seen.insert(*digest) {
            return Ok(Completeness::Complete);
        }
        let bytes = match self.read_blob(digest, MAX_MANIFEST) {
            Err(StoreError::NotStored { digest }) => return Ok(Completeness::Missing(digest)),
            other => other?,
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Manifest { digest: *digest, problem: e.to_string() })?;
        let mut missing = None;
        for reference in manifest.config.iter().chain(&manifest.layers) {
            match self.blob_size(&reference.digest)? {
                Some(_) => {
                    seen.insert(reference.digest);
                }
                None => {
                    missing.get_or_insert(reference.digest);
                }
            }
        }
        let mut stored_children = 0;
        for child in &manifest.manifests {
            if self.blob_size(&child.digest)?.is_some() {
                stored_children += 1;
                if let Completeness::Missing(blob) = self.walk_layout(&child.digest, seen, depth + 1)? {
                    missing.get_or_insert(blob);
                }
            }
        }
        if stored_children == 0
            && let Some(first) = manifest.manifests.first()
        {
            missing.get_or_insert(first.digest);
        }
        Ok(missing.map_or(Completeness::Complete, Completeness::Missing))
    }
}

/// Whether the marker is of this boot; its time says when the context was last used.
fn refresh(marker: &std::path::Path) -> io::Result<bool> {
    match fs::OpenOptions::new().read(true).write(true).open(marker) {
        Ok(mut file) => {
            let mut written = Vec::new();
            (&mut file).take(BOOT_LIMIT).read_to_end(&mut written)?;
            file.set_modified(SystemTime::now())?;
            Ok(written == boot())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Longest marker that is looked at, in bytes.
const BOOT_LIMIT: u64 = 256;

/// Names this boot of the machine. Blobs are not synced: that would cost a first build more than all the rest of
/// the upload. A process that ends loses no written byte; a machine that ends may, so a marker of another boot
/// counts for nothing and the tree is looked through again.
fn boot() -> &'static [u8] {
    static BOOT: OnceLock<Vec<u8>> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
            // Without it, markers hold for this process only.
            let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("{} {}", std::process::id(), started.as_nanos()).into_bytes()
        })
    })
}
