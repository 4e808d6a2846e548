//! Which earlier transfer of a tree BuildKit may update in place.
//!
//! BuildKit keeps a received tree and compares the next list of files with it by size, time and mode: a file
//! whose contents changed and these did not is **not** asked for again, and the old contents are built. The
//! request names contents by digest, so that must not happen. Trees share a transfer only under one key, and
//! this module gives two trees the same key only when no path has other contents under the same attributes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use provenance::context::{Directory, Entry, Kind, MAX_DEPTH};
use provenance::digest::Sha256Digest;

use super::blobs::{BlobError, ContextBlobs};
use super::session::random_hex;

/// Keys that are remembered; more only cost a full transfer.
const MAX_KEYS: usize = 16;
/// Trees that are compared with under one key.
const MAX_TREES: usize = 8;

/// What was transferred under which key, oldest first. Keys are random: nothing of an earlier process is used.
#[derive(Clone, Default)]
pub(super) struct Transfers(Arc<Mutex<Vec<Key>>>);

#[derive(Clone)]
struct Key {
    key: String,
    /// Per transfer: the root of every tree by name.
    sets: Vec<Vec<(String, Sha256Digest)>>,
}

impl Transfers {
    /// A key for these trees (name and root, ascending by name), remembered as used for them. Blocks.
    pub(super) fn key_for(
        &self,
        store: &Arc<dyn ContextBlobs>,
        trees: &[(String, Sha256Digest)],
    ) -> Result<String, BlobError> {
        let mut refused = Vec::new();
        let mut keys = loop {
            let candidate = {
                let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                keys.iter().rev().find(|key| !refused.contains(&key.key)).cloned()
            };
            let Some(candidate) = candidate else {
                break self.0.lock().unwrap_or_else(PoisonError::into_inner);
            };
            if !fits(store, &candidate, trees)? {
                refused.push(candidate.key);
                continue;
            }
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(key) = keys.iter_mut().find(|key| key.key == candidate.key) else { continue };
            // Another build may have used the key meanwhile; then its trees are to be compared too.
            if key.sets.len() == candidate.sets.len() {
                if !key.sets.iter().any(|set| set == trees) {
                    key.sets.push(trees.to_vec());
                }
                return Ok(candidate.key);
            }
        };
        if keys.len() >= MAX_KEYS {
            keys.remove(0);
        }
        let key = random_hex::<16>();
        keys.push(Key { key: key.clone(), sets: vec![trees.to_vec()] });
        Ok(key)
    }
}

fn fits(
    store: &Arc<dyn ContextBlobs>,
    key: &Key,
    trees: &[(String, Sha256Digest)],
) -> Result<bool, BlobError> {
    if key.sets.iter().any(|set| set == trees) {
        return Ok(true);
    }
    if key.sets.len() >= MAX_TREES {
        return Ok(false);
    }
    let mut seen = HashSet::new();
    for set in &key.sets {
        for (name, root) in trees {
            let Some((_, other)) = set.iter().find(|(other, _)| other == name) else { continue };
            if !compatible(store, other, root, 0, &mut seen)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether every file of both trees that looks the same is the same. Equal directories are not opened, and a
/// pair of directories only once, however often it stands in the trees.
fn compatible(
    store: &Arc<dyn ContextBlobs>,
    one: &Sha256Digest,
    two: &Sha256Digest,
    depth: usize,
    seen: &mut HashSet<(Sha256Digest, Sha256Digest)>,
) -> Result<bool, BlobError> {
    if one == two || !seen.insert((*one, *two)) {
        return Ok(true);
    }
    if depth > MAX_DEPTH {
        return Ok(false);
    }
    // A tree of an earlier build may have been removed since; then nothing is known about it.
    let Ok(first) = store.directory(one) else { return Ok(false) };
    let second = store.directory(two)?;
    for (left, right) in same_names(&first, &second) {
        match (&left.kind, &right.kind) {
            (Kind::Directory { digest: one }, Kind::Directory { digest: two }) => {
                if !compatible(store, one, two, depth + 1, seen)? {
                    return Ok(false);
                }
            }
            (Kind::File { .. } | Kind::HardLink { .. }, Kind::File { .. } | Kind::HardLink { .. }) => {
                let looks_same =
                    left.mtime_ns == right.mtime_ns && left.mode == right.mode && size(left) == size(right);
                if looks_same && contents(left) != contents(right) {
                    return Ok(false);
                }
                // Extended attributes are not compared by BuildKit either.
                if looks_same && left.xattrs != right.xattrs {
                    return Ok(false);
                }
            }
            _ if left.xattrs != right.xattrs => return Ok(false),
            _ => {}
        }
        if matches!(left.kind, Kind::Directory { .. }) && left.xattrs != right.xattrs {
            return Ok(false);
        }
    }
    Ok(true)
}

fn size(entry: &Entry) -> Option<u64> {
    contents(entry).map(|(size, _)| size)
}

fn contents(entry: &Entry) -> Option<(u64, Sha256Digest)> {
    match &entry.kind {
        Kind::File { size, digest } | Kind::HardLink { size, digest, .. } => Some((*size, *digest)),
        _ => None,
    }
}

fn same_names<'a>(one: &'a Directory, two: &'a Directory) -> impl Iterator<Item = (&'a Entry, &'a Entry)> {
    one.entries().iter().filter_map(|left| {
        let at = two.entries().binary_search_by(|right| right.name.cmp(&left.name)).ok()?;
        Some((left, &two.entries()[at]))
    })
}
