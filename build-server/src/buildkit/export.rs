//! FileSend: the result, received as one tar stream. Blobs of an OCI archive are hashed while they are
//! written; afterwards the image is walked from its index, and nothing may be missing, extra or of another size.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use proto::buildkit::moby::filesync::v1::{BytesMessage, file_send_server::FileSend};
use provenance::digest::{Sha256Digest, Sha256Hasher};
use serde::Deserialize;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::capture::{FilesDescriptor, ImageDescriptor};
use super::error::EngineError;
use super::layer_cache::LayerCache;
use super::layers::{BLOCK, Layers, is_tar};
use crate::publish::oci::null_is_empty;

/// Largest manifest, index or index.json in bytes (registries take no larger ones).
const MAX_MANIFEST: u64 = 4 << 20;
/// Most blobs of one export.
const MAX_BLOBS: usize = 100_000;
/// Deepest nesting of indexes.
pub(super) const MAX_NESTING: usize = 3;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// What a solve gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// An image as an OCI layout directory (`oci-layout`, `index.json`, `blobs/sha256`).
    Image {
        /// The directory.
        layout: PathBuf,
        /// The manifest, or the index of several platforms.
        root: ImageDescriptor,
        /// The manifests of an index; empty when `root` is a manifest.
        platform_manifests: Vec<ImageDescriptor>,
    },
    /// The files of the last stage as a tar archive.
    Files {
        /// The archive.
        tar: PathBuf,
        /// Its digest and size.
        descriptor: FilesDescriptor,
    },
}

/// What is expected on FileSend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    OciLayout {
        /// New layers come uncompressed and are kept compressed.
        compress: bool,
    },
    Tar,
}

/// The receiving end of one build. The first stream is the export; a second is refused.
pub(super) struct FileSendService {
    pub(super) expected: Expected,
    pub(super) scratch: PathBuf,
    pub(super) layers: Arc<LayerCache>,
    pub(super) outcome: Arc<Mutex<Option<Result<Export, EngineError>>>>,
}

pub(super) fn inconsistent(problem: impl Into<String>) -> EngineError {
    EngineError::Export { problem: problem.into() }
}

/// Bytes of the stream, for code that blocks.
struct StreamReader {
    parts: mpsc::Receiver<Result<Bytes, io::Error>>,
    current: Bytes,
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.current = part?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[tonic::async_trait]
impl FileSend for FileSendService {
    type DiffCopyStream = tokio_stream::Empty<Result<BytesMessage, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, parts) = mpsc::channel(8);
        let (expected, scratch, cache) = (self.expected, self.scratch.clone(), self.layers.clone());
        let receiver = tokio::task::spawn_blocking(move || {
            let reader = StreamReader { parts, current: Bytes::new() };
            match expected {
                Expected::OciLayout { compress } => {
                    receive_layout(reader, &scratch.join("image"), compress.then_some(&*cache))
                }
                Expected::Tar => receive_tar(reader, scratch.join("files.tar")),
            }
        });
        loop {
            let (part, last) = match messages.message().await {
                Ok(Some(message)) => (Ok(message.data), false),
                Ok(None) => break,
                // Without this the end of a cut stream would look like the end of the archive.
                Err(status) => (Err(io::Error::other(status.message().to_owned())), true),
            };
            if sender.send(part).await.is_err() || last {
                break;
            }
        }
        drop(sender);
        let result = receiver.await.unwrap_or_else(|e| Err(inconsistent(format!("receiver failed: {e}"))));
        let answer = match &result {
            Ok(_) => Ok(Response::new(tokio_stream::empty())),
            Err(error) => Err(Status::aborted(error.to_string())),
        };
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_some() {
            *outcome = Some(Err(inconsistent("BuildKit sent two exports")));
            return Err(Status::already_exists("one export only"));
        }
        *outcome = Some(result);
        answer
    }
}

/// Copies `reader` to a new file; gives digest and size.
pub(super) fn copy_hashed(reader: &mut impl Read, path: &Path) -> Result<(Sha256Digest, u64), EngineError> {
    let mut file = File::create_new(path).map_err(EngineError::io("create", path))?;
    let mut hasher = Sha256Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count =
            reader.read(&mut buffer).map_err(|e| inconsistent(format!("the stream broke off: {e}")))?;
        if count == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(EngineError::io("write", path))?;
        size += count as u64;
    }
}

fn receive_tar(mut reader: impl Read, path: PathBuf) -> Result<Export, EngineError> {
    let (digest, size) = copy_hashed(&mut reader, &path)?;
    if size == 0 {
        return Err(inconsistent("the archive is empty"));
    }
    Ok(Export::Files { tar: path, descriptor: FilesDescriptor { digest, size } })
}

/// With a cache of compressed layers, new layers are compressed.
fn receive_layout(
    reader: impl Read,
    layout: &Path,
    cache: Option<&LayerCache>,
) -> Result<Export, EngineError> {
    let blobs_dir = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs_dir).map_err(EngineError::io("create", &blobs_dir))?;
    let mut blobs = BTreeMap::new();
    let mut layers = cache.map(|cache| Layers::new(&blobs_dir, cache));
    let mut index = None;
    let mut archive = tar::Archive::new(reader);
    let broken = |e: io::Error| inconsistent(format!("the archive does not parse: {e}"));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() && matches!(path.as_str(), "blobs/" | "blobs/sha256/") {
            continue;
        }
        if !kind.is_file() {
            return Err(inconsistent(format!("the archive holds `{path}`, which is no plain file")));
        }
        match path.as_str() {
            "oci-layout" => {
                small(&mut entry, &path)?;
            }
            "index.json" if index.is_none() => index = Some(small(&mut entry, &path)?),
            _ => {
                let hex = path.strip_prefix("blobs/sha256/").and_then(|hex| Sha256Digest::from_hex(hex).ok());
                let digest = hex.ok_or_else(|| inconsistent(format!("the archive holds `{path}`")))?;
                if blobs.len() >= MAX_BLOBS {
                    return Err(inconsistent(format!("more than {MAX_BLOBS} blobs")));
                }
                if blobs.contains_key(&digest) {
                    return Err(inconsistent(format!("the archive holds blob {digest} twice")));
                }
                let mut beginning = Vec::with_capacity(BLOCK);
                entry.by_ref().take(BLOCK as u64).read_to_end(&mut beginning).map_err(broken)?;
                let mut whole = Read::chain(beginning.as_slice(), entry);
                let size = match &mut layers {
                    Some(layers) if is_tar(&beginning) => layers.receive(digest, &mut whole)?,
                    _ => {
                        let (got, size) = copy_hashed(&mut whole, &blobs_dir.join(digest.hex()))?;
                        if got != digest {
                            return Err(inconsistent(format!("blob {digest} has digest {got}")));
                        }
                        size
                    }
                };
                blobs.insert(digest, size);
            }
        }
    }
    // The sender goes on until it is read to the end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    let index = index.ok_or_else(|| inconsistent("the archive has no index.json"))?;
    let (mut root, mut platform_manifests) = check_image(&index, &blobs, &blobs_dir)?;
    if let Some(layers) = layers {
        (root, platform_manifests) = layers.finish(&root, &platform_manifests)?;
    }
    write_layout_files(layout, &root)?;
    Ok(Export::Image { layout: layout.to_owned(), root, platform_manifests })
}

fn small(reader: &mut impl Read, path: &str) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    let broken = |e: io::Error| inconsistent(format!("`{path}`: {e}"));
    reader.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(inconsistent(format!("`{path}` is larger than {MAX_MANIFEST} bytes")));
    }
    Ok(bytes)
}

/// The fields of OCI descriptors, manifests and indexes (image-spec 1.1) that tie blobs together.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    config: Option<Descriptor>,
    // BuildKit writes `null` for an image without layers.
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Export {
    /// Whether it is an image of which no platform has a layer.
    pub(super) fn has_no_layers(&self) -> bool {
        let Self::Image { layout, root, platform_manifests } = self else { return false };
        let images =
            if platform_manifests.is_empty() { std::slice::from_ref(root) } else { platform_manifests };
        images.iter().all(|image| {
            let bytes = fs::read(layout.join("blobs/sha256").join(image.digest.hex()));
            let manifest = bytes.ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
            manifest.is_some_and(|manifest| manifest.config.is_some() && manifest.layers.is_empty())
        })
    }
}

impl Descriptor {
    fn checked(&self, blobs: &BTreeMap<Sha256Digest, u64>) -> Result<ImageDescriptor, EngineError> {
        let digest: Sha256Digest = self.digest.parse().map_err(|e| inconsistent(format!("{e}")))?;
        let got = blobs
            .get(&digest)
            .ok_or_else(|| inconsistent(format!("blob {digest} is named but not there")))?;
        if *got != self.size {
            return Err(inconsistent(format!(
                "blob {digest} has {got} bytes, its descriptor says {}",
                self.size
            )));
        }
        let platform = self.platform.as_ref().map(|p| {
            let variant = p.variant.as_ref().map(|v| format!("/{v}")).unwrap_or_default();
            format!("{}/{}{variant}", p.os, p.architecture)
        });
        Ok(ImageDescriptor { media_type: self.media_type.clone(), digest, size: self.size, platform })
    }
}

pub(super) fn is_index(media_type: &str) -> bool {
    media_type == "application/vnd.oci.image.index.v1+json"
}

/// Walks index.json → image → config and layers; every blob must be reached, with the size its descriptor says.
fn check_image(
    index: &[u8],
    blobs: &BTreeMap<Sha256Digest, u64>,
    blobs_dir: &Path,
) -> Result<(ImageDescriptor, Vec<ImageDescriptor>), EngineError> {
    let parse = |bytes: &[u8], what: &str| {
        serde_json::from_slice::<Manifest>(bytes).map_err(|e| inconsistent(format!("{what}: {e}")))
    };
    let top = parse(index, "index.json")?.manifests;
    // One entry per image name, all the same image.
    let first = top.first().ok_or_else(|| inconsistent("index.json names no image"))?;
    if top.iter().any(|other| other.digest != first.digest) {
        return Err(inconsistent("index.json names several images"));
    }
    let root = first.checked(blobs)?;
    let mut reached = BTreeSet::from([root.digest]);
    let mut platform_manifests = Vec::new();
    let mut queue = vec![(root.clone(), 0)];
    while let Some((manifest, depth)) = queue.pop() {
        if depth > MAX_NESTING {
            return Err(inconsistent(format!("indexes nest deeper than {MAX_NESTING}")));
        }
        let path = blobs_dir.join(manifest.digest.hex());
        let mut file = File::open(&path).map_err(EngineError::io("open", &path))?;
        let document = parse(&small(&mut file, &manifest.digest.to_string())?, &manifest.digest.to_string())?;
        let shaped = if is_index(&manifest.media_type) {
            document.config.is_none() && document.layers.is_empty()
        } else {
            document.config.is_some() && document.manifests.is_empty()
        };
        if !shaped {
            return Err(inconsistent(format!(
                "{} is not what its media type {} says",
                manifest.digest, manifest.media_type
            )));
        }
        for inner in &document.manifests {
            let inner = inner.checked(blobs)?;
            if reached.insert(inner.digest) {
                if !is_index(&inner.media_type) {
                    platform_manifests.push(inner.clone());
                }
                queue.push((inner, depth + 1));
            }
        }
        for part in document.config.iter().chain(&document.layers) {
            reached.insert(part.checked(blobs)?.digest);
        }
    }
    if let Some(extra) = blobs.keys().find(|digest| !reached.contains(digest)) {
        return Err(inconsistent(format!("blob {extra} belongs to nothing")));
    }
    Ok((root, platform_manifests))
}

fn write_layout_files(layout: &Path, root: &ImageDescriptor) -> Result<(), EngineError> {
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": root.media_type, "digest": root.digest, "size": root.size }],
    });
    for (name, contents) in
        [("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}".to_owned()), ("index.json", index.to_string())]
    {
        let path = layout.join(name);
        fs::write(&path, contents).map_err(EngineError::io("write", &path))?;
    }
    Ok(())
}
