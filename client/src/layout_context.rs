//! An image of an OCI layout as a named context (`--build-context NAME=oci-layout://PATH[:tag|@digest]`): the
//! selected manifest and everything below it becomes blobs for the project's store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use provenance::digest::Sha256Digest;
use serde::Deserialize;

use crate::context::{Blob, BlobSource};

/// Largest index or manifest in bytes.
const MAX_MANIFEST: u64 = 4 << 20;
/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 8;

/// An OCI descriptor, as far as it is needed here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Annotations.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct AnyManifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// Why an image of a layout cannot be a context. Fault: the caller's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the JSON that should be there.
    #[error("{} is no OCI index or manifest: {problem}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Size or digest are not those of the descriptor.
    #[error("{}: its descriptor says {wanted}, the file has {got}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Digest and size wanted.
        wanted: String,
        /// Digest and size seen.
        got: String,
    },
    /// No image has this tag or digest, or there is none at all.
    #[error("layout {} has no image `{selector}`; it has {has}", path.display())]
    NotFound {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        selector: String,
        /// What there is.
        has: String,
    },
    /// Nothing was selected and there are several.
    #[error("layout {} has several images: {has}", path.display())]
    Ambiguous {
        /// The layout.
        path: PathBuf,
        /// What there is.
        has: String,
    },
    /// Indexes nested too deeply.
    #[error("layout {}: indexes are nested deeper than {MAX_DEPTH}", path.display())]
    TooDeep {
        /// The layout.
        path: PathBuf,
    },
}

/// The selected image: its descriptor, and all blobs below it that are there.
pub fn select(
    layout: &Path,
    selector: Option<&str>,
) -> Result<(Descriptor, HashMap<Sha256Digest, Blob>), LayoutError> {
    let index_path = layout.join("index.json");
    let index: Index = parse(&index_path, &read_limited(&index_path)?)?;
    let names = |manifests: &[Descriptor]| {
        let list: Vec<String> = manifests
            .iter()
            .map(|d| {
                reference_name(d)
                    .map_or_else(|| d.digest.to_string(), |name| format!("{name} ({})", d.digest.short()))
            })
            .collect();
        if list.is_empty() { "none".to_owned() } else { list.join(", ") }
    };
    let descriptor = match selector {
        Some(selector) => {
            let by_digest = selector.parse::<Sha256Digest>().ok();
            let fits = |d: &&Descriptor| match by_digest {
                Some(digest) => d.digest == digest,
                None => reference_name(d) == Some(selector),
            };
            index.manifests.iter().find(fits).cloned().ok_or_else(|| LayoutError::NotFound {
                path: layout.to_owned(),
                selector: selector.to_owned(),
                has: names(&index.manifests),
            })?
        }
        None => {
            let images: Vec<&Descriptor> = index.manifests.iter().filter(|d| !is_attached(d)).collect();
            match images.as_slice() {
                [one] => (*one).clone(),
                [] => {
                    let (path, has) = (layout.to_owned(), names(&index.manifests));
                    return Err(LayoutError::NotFound { path, selector: "latest".to_owned(), has });
                }
                several => match several.iter().find(|d| reference_name(d) == Some("latest")) {
                    Some(latest) => (**latest).clone(),
                    None => {
                        return Err(LayoutError::Ambiguous {
                            path: layout.to_owned(),
                            has: names(&index.manifests),
                        });
                    }
                },
            }
        }
    };
    let mut blobs = HashMap::new();
    collect(layout, &descriptor, 0, &mut blobs)?;
    Ok((descriptor, blobs))
}

fn reference_name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get("org.opencontainers.image.ref.name").map(String::as_str)
}

/// Signatures and other artefacts that stand beside an image under cosign's tag scheme.
fn is_attached(descriptor: &Descriptor) -> bool {
    reference_name(descriptor).is_some_and(|name| name.starts_with("sha256-"))
}

fn blob_path(layout: &Path, digest: &Sha256Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn collect(
    layout: &Path,
    descriptor: &Descriptor,
    depth: usize,
    blobs: &mut HashMap<Sha256Digest, Blob>,
) -> Result<(), LayoutError> {
    if depth > MAX_DEPTH {
        return Err(LayoutError::TooDeep { path: layout.to_owned() });
    }
    let path = blob_path(layout, &descriptor.digest);
    let bytes = read_limited(&path)?;
    let got = Sha256Digest::of(&bytes);
    if got != descriptor.digest || bytes.len() as u64 != descriptor.size {
        return Err(LayoutError::Mismatch {
            path,
            wanted: format!("{}, {} bytes", descriptor.digest, descriptor.size),
            got: format!("{got}, {} bytes", bytes.len()),
        });
    }
    let manifest: AnyManifest = parse(&path, &bytes)?;
    blobs.insert(
        descriptor.digest,
        Blob { size: descriptor.size, source: BlobSource::Memory(Arc::new(bytes)) },
    );
    for child in &manifest.manifests {
        // A layout may hold only some platforms of an index; the engine says so when it needs another.
        if blob_path(layout, &child.digest).exists() {
            collect(layout, child, depth + 1, blobs)?;
        }
    }
    for leaf in manifest.config.iter().chain(manifest.layers.iter().flatten()) {
        let path = blob_path(layout, &leaf.digest);
        let metadata =
            std::fs::metadata(&path).map_err(|source| LayoutError::Read { path: path.clone(), source })?;
        if metadata.len() != leaf.size {
            let wanted = format!("{} bytes", leaf.size);
            return Err(LayoutError::Mismatch { path, wanted, got: format!("{} bytes", metadata.len()) });
        }
        blobs.insert(leaf.digest, Blob { size: leaf.size, source: BlobSource::Path(Arc::new(path)) });
    }
    Ok(())
}

fn read_limited(path: &Path) -> Result<Vec<u8>, LayoutError> {
    use std::io::Read as _;
    let read = |source| LayoutError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(read)?.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(LayoutError::Shape {
            path: path.to_owned(),
            problem: format!("more than {MAX_MANIFEST} bytes"),
        });
    }
    Ok(bytes)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes)
        .map_err(|e| LayoutError::Shape { path: path.to_owned(), problem: e.to_string() })
}
