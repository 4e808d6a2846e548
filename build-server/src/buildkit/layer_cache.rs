//! Compressed layers by diffID, so that a layer that a project's builds share is compressed once.
//!
//! What is known is in memory; files are hard links to blobs of exports, hashed again before they are used. The
//! cache ends with the daemon, whose own cache it goes with.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use provenance::digest::{Sha256Digest, Sha256Hasher};

use crate::compress::CompressedLayer;

/// The layers of one project.
pub(super) struct LayerCache {
    directory: PathBuf,
    limit: u64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    layers: HashMap<Sha256Digest, CompressedLayer>,
    /// DiffIDs, oldest first.
    order: VecDeque<Sha256Digest>,
    bytes: u64,
}

impl LayerCache {
    /// An empty cache of at most `limit` bytes; removes what an earlier daemon left in `directory`.
    pub(super) fn new(directory: PathBuf, limit: u64) -> io::Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&directory)?;
        Ok(Self { directory, limit, known: Mutex::default() })
    }

    fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Puts the layer with this diffID into `blobs`, under its digest, if it is here and undamaged.
    pub(super) fn find(&self, diff_id: &Sha256Digest, blobs: &Path) -> Option<CompressedLayer> {
        let layer = *self.known.lock().unwrap_or_else(PoisonError::into_inner).layers.get(diff_id)?;
        let path = self.path(&layer.digest);
        if hash(&path).is_ok_and(|got| got == layer.digest) {
            return fs::hard_link(&path, blobs.join(layer.digest.hex())).ok().map(|()| layer);
        }
        tracing::warn!(digest = %layer.digest, "a compressed layer in the cache is damaged");
        self.known.lock().unwrap_or_else(PoisonError::into_inner).drop_layer(diff_id);
        let _ = fs::remove_file(path);
        None
    }

    /// Keeps a layer that lies at `path`. A layer that cannot be kept costs time, nothing else.
    pub(super) fn keep(&self, layer: &CompressedLayer, path: &Path) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if layer.size > self.limit || known.layers.contains_key(&layer.diff_id) {
            return;
        }
        match fs::hard_link(path, self.path(&layer.digest)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return,
            _ => {}
        }
        known.layers.insert(layer.diff_id, *layer);
        known.order.push_back(layer.diff_id);
        known.bytes += layer.size;
        while known.bytes > self.limit
            && let Some(oldest) = known.order.front().copied()
            && let Some(dropped) = known.drop_layer(&oldest)
        {
            let _ = fs::remove_file(self.path(&dropped.digest));
        }
    }
}

impl Known {
    fn drop_layer(&mut self, diff_id: &Sha256Digest) -> Option<CompressedLayer> {
        let layer = self.layers.remove(diff_id)?;
        self.order.retain(|other| other != diff_id);
        self.bytes -= layer.size;
        Some(layer)
    }
}

fn hash(path: &Path) -> io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(directory: &Path, contents: &[u8]) -> (CompressedLayer, PathBuf) {
        let digest = Sha256Digest::of(contents);
        let path = directory.join(digest.hex());
        fs::write(&path, contents).expect("writable");
        let size = contents.len() as u64;
        let diff_id = Sha256Digest::of(&[contents, b"uncompressed"].concat());
        (CompressedLayer { digest, size, diff_id, uncompressed_size: size }, path)
    }

    #[test]
    fn layers_are_found_until_they_are_damaged_or_pushed_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, blobs) = (directory.path().join("from"), directory.path().join("blobs"));
        fs::create_dir_all(&from).and_then(|()| fs::create_dir(&blobs)).expect("writable");
        let cache = LayerCache::new(directory.path().join("layers"), 10).expect("opens");
        let layers: Vec<_> = [b"one!", b"two!", b"six!"].map(|contents| layer(&from, contents)).into();
        for (layer, path) in &layers {
            cache.keep(layer, path);
        }
        // 12 bytes are too many for a limit of 10.
        assert_eq!(cache.find(&layers[0].0.diff_id, &blobs), None);
        assert_eq!(cache.find(&layers[1].0.diff_id, &blobs), Some(layers[1].0));
        assert_eq!(fs::read(blobs.join(layers[1].0.digest.hex())).expect("linked"), b"two!");
        fs::write(cache.path(&layers[2].0.digest), b"bad!").expect("writable");
        assert_eq!(cache.find(&layers[2].0.diff_id, &blobs), None);
        assert!(!cache.path(&layers[2].0.digest).exists());
    }
}
