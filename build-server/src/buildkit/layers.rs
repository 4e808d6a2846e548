//! Layers of an export: the engine sends new ones uncompressed, and they are compressed while they arrive, on all
//! cores and hashed on both sides of it. Afterwards the manifests name the compressed ones.
//!
//! The engine would compress with one thread and hand over what it has written; the configuration, and so the
//! diffIDs, are the same in both ways.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use provenance::digest::Sha256Digest;
use serde_json::Value;

use super::capture::ImageDescriptor;
use super::error::EngineError;
use super::export::{copy_hashed, inconsistent, is_index};
use super::layer_cache::LayerCache;
use crate::compress::{CompressedLayer, compress_layer};

/// Media type of an uncompressed layer (image-spec 1.1).
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Of one that gzip compressed.
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// More threads than this need more memory than the time is worth.
const MAX_THREADS: usize = 8;
/// Where `ustar` stands in the first block of an archive (POSIX.1-2024, pax).
const MAGIC: std::ops::Range<usize> = 257..262;
pub(super) const BLOCK: usize = 512;

/// Whether a blob that begins like this is an archive without compression. A manifest or configuration is none,
/// whatever word a label puts in that place.
pub(super) fn is_tar(beginning: &[u8]) -> bool {
    beginning.get(MAGIC) == Some(b"ustar") && beginning.first() != Some(&b'{')
}

/// The layers of one export.
pub(super) struct Layers<'a> {
    blobs: PathBuf,
    cache: &'a LayerCache,
    compressed: BTreeMap<Sha256Digest, CompressedLayer>,
}

impl<'a> Layers<'a> {
    /// `blobs` is the directory of the export's blobs.
    pub(super) fn new(blobs: &Path, cache: &'a LayerCache) -> Self {
        Self { blobs: blobs.to_owned(), cache, compressed: BTreeMap::new() }
    }

    fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Receives an uncompressed layer and keeps it compressed. Gives its size before.
    pub(super) fn receive(
        &mut self,
        diff_id: Sha256Digest,
        reader: &mut impl Read,
    ) -> Result<u64, EngineError> {
        let layer = match self.cache.find(&diff_id, &self.blobs) {
            Some(layer) => {
                let (got, size) = drain(reader)?;
                if got != diff_id || size != layer.uncompressed_size {
                    return Err(inconsistent(format!("blob {diff_id} has digest {got}")));
                }
                layer
            }
            None => self.compress(diff_id, reader)?,
        };
        self.compressed.insert(diff_id, layer);
        Ok(layer.uncompressed_size)
    }

    fn compress(
        &self,
        diff_id: Sha256Digest,
        reader: &mut impl Read,
    ) -> Result<CompressedLayer, EngineError> {
        let path = self.blobs.with_file_name(format!("layer-{}", diff_id.hex()));
        let file = File::create_new(&path).map_err(EngineError::io("create", &path))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let layer = compress_layer(reader, BufWriter::with_capacity(256 << 10, file), threads)
            .map_err(EngineError::io("compress a layer to", &path))?;
        if layer.diff_id != diff_id {
            return Err(inconsistent(format!("blob {diff_id} has digest {}", layer.diff_id)));
        }
        let target = self.path(&layer.digest);
        fs::rename(&path, &target).map_err(EngineError::io("rename to", &target))?;
        self.cache.keep(&layer, &target);
        Ok(layer)
    }

    /// Rewrites the manifests of an image, all of whose blobs are known to be there, to name compressed layers.
    pub(super) fn finish(
        mut self,
        root: &ImageDescriptor,
        manifests: &[ImageDescriptor],
    ) -> Result<(ImageDescriptor, Vec<ImageDescriptor>), EngineError> {
        let mut rewritten = BTreeMap::new();
        let mut platforms = Vec::new();
        for manifest in manifests {
            platforms.push(self.manifest(manifest, &mut rewritten)?);
        }
        let root = match is_index(&root.media_type) {
            true => self.index(root, &rewritten, 0)?,
            false => self.manifest(root, &mut rewritten)?,
        };
        Ok((root, platforms))
    }

    /// One manifest; its new descriptor is remembered by the old digest.
    fn manifest(
        &mut self,
        manifest: &ImageDescriptor,
        rewritten: &mut BTreeMap<Sha256Digest, ImageDescriptor>,
    ) -> Result<ImageDescriptor, EngineError> {
        if let Some(known) = rewritten.get(&manifest.digest) {
            return Ok(known.clone());
        }
        let mut document = self.read(&manifest.digest)?;
        let mut changed = false;
        for layer in document["layers"].as_array_mut().into_iter().flatten() {
            let digest = digest_of(layer)?;
            if layer["mediaType"] != TAR {
                self.restore(digest)?;
                continue;
            }
            let compressed = match self.compressed.get(&digest) {
                Some(known) => *known,
                // An empty archive has no header that gives it away.
                None => {
                    let path = self.path(&digest);
                    let mut file = File::open(&path).map_err(EngineError::io("open", &path))?;
                    let compressed = self.compress(digest, &mut file)?;
                    fs::remove_file(&path).map_err(EngineError::io("remove", &path))?;
                    self.compressed.insert(digest, compressed);
                    compressed
                }
            };
            layer["mediaType"] = TAR_GZIP.into();
            layer["digest"] = compressed.digest.to_string().into();
            layer["size"] = compressed.size.into();
            changed = true;
        }
        let new = if changed { self.replace(manifest, &document)? } else { manifest.clone() };
        rewritten.insert(manifest.digest, new.clone());
        Ok(new)
    }

    fn index(
        &self,
        index: &ImageDescriptor,
        rewritten: &BTreeMap<Sha256Digest, ImageDescriptor>,
        depth: usize,
    ) -> Result<ImageDescriptor, EngineError> {
        let mut document = self.read(&index.digest)?;
        let mut changed = false;
        for entry in document["manifests"].as_array_mut().into_iter().flatten() {
            let digest = digest_of(entry)?;
            let media_type = entry["mediaType"].as_str().unwrap_or_default();
            let new = if let Some(known) = rewritten.get(&digest) {
                known.clone()
            } else if is_index(media_type) && depth < super::export::MAX_NESTING {
                let size = entry["size"].as_u64().unwrap_or_default();
                let inner =
                    ImageDescriptor { media_type: media_type.to_owned(), digest, size, platform: None };
                self.index(&inner, rewritten, depth + 1)?
            } else {
                continue;
            };
            if new.digest != digest {
                entry["digest"] = new.digest.to_string().into();
                entry["size"] = new.size.into();
                changed = true;
            }
        }
        if changed { self.replace(index, &document) } else { Ok(index.clone()) }
    }

    fn read(&self, digest: &Sha256Digest) -> Result<Value, EngineError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(EngineError::io("read", &path))?;
        // Only an object: what is looked up by name below panics in a list.
        serde_json::from_slice(&bytes).map(Value::Object).map_err(|e| inconsistent(format!("{digest}: {e}")))
    }

    fn replace(&self, old: &ImageDescriptor, document: &Value) -> Result<ImageDescriptor, EngineError> {
        let bytes = document.to_string().into_bytes();
        let digest = Sha256Digest::of(&bytes);
        let (from, to) = (self.path(&old.digest), self.path(&digest));
        let mut file = File::create(&to).map_err(EngineError::io("create", &to))?;
        file.write_all(&bytes).map_err(EngineError::io("write", &to))?;
        match fs::remove_file(&from) {
            // Two indexes may list the same manifest.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("remove", &from)(error))
            }
            _ => Ok(ImageDescriptor { digest, size: bytes.len() as u64, ..old.clone() }),
        }
    }

    /// A blob that begins like an archive and is no layer of ours stays as it came.
    fn restore(&self, digest: Sha256Digest) -> Result<(), EngineError> {
        let (Some(layer), path) = (self.compressed.get(&digest), self.path(&digest)) else { return Ok(()) };
        if path.exists() {
            return Ok(());
        }
        let compressed = self.path(&layer.digest);
        let file = File::open(&compressed).map_err(EngineError::io("open", &compressed))?;
        let (got, _) = copy_hashed(&mut MultiGzDecoder::new(file), &path)?;
        if got == digest { Ok(()) } else { Err(inconsistent(format!("blob {digest} has digest {got}"))) }
    }
}

fn digest_of(descriptor: &Value) -> Result<Sha256Digest, EngineError> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    text.parse().map_err(|e| inconsistent(format!("{e}")))
}

/// Digest and number of the bytes that are left.
fn drain(reader: &mut impl Read) -> Result<(Sha256Digest, u64), EngineError> {
    let mut hasher = provenance::digest::Sha256Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer).map_err(|e| inconsistent(format!("the stream broke off: {e}")))? {
            0 => return Ok((hasher.finish(), size)),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}
