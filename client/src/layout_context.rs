//! An image of an OCI layout as a named context (`--build-context NAME=oci-layout://PATH[:tag|@digest]`): the
//! selected manifest and everything below it becomes blobs for the project's store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use provenance::digest::Sha256Digest;

use crate::context::{Blob, BlobSource};
use crate::image::{AnyManifest, Descriptor, MAX_MANIFEST, REF_NAME, looks_attached};

/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 8;

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
    let index = parse(&index_path, &read_limited(&index_path)?)?;
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
            let images: Vec<&Descriptor> = index.manifests.iter().filter(|d| !looks_attached(d)).collect();
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
    descriptor.annotations.get(REF_NAME).map(String::as_str)
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
    let manifest = parse(&path, &bytes)?;
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
    for leaf in manifest.config.iter().chain(&manifest.layers) {
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

fn parse(path: &Path, bytes: &[u8]) -> Result<AnyManifest, LayoutError> {
    serde_json::from_slice(bytes)
        .map_err(|e| LayoutError::Shape { path: path.to_owned(), problem: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_an_image_is_no_second_image() {
        let layout = tempfile::tempdir().expect("a directory");
        let blobs = layout.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("created");
        let manifest = br#"{"schemaVersion":2,"layers":null}"#;
        let digest = Sha256Digest::of(manifest);
        std::fs::write(blobs.join(digest.hex()), manifest).expect("written");
        let other = Sha256Digest::of(b"a bundle");
        let image = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "annotations": {REF_NAME: "1.4"},
        });
        let beside = [
            serde_json::json!({"digest": other, "size": 1, "artifactType": "application/x"}),
            serde_json::json!({"digest": other, "size": 1, "annotations": {REF_NAME: format!("sha256-{}.sig", digest.hex())}}),
        ];
        let write = |manifests: &[&serde_json::Value]| {
            let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
            std::fs::write(layout.path().join("index.json"), index).expect("written");
        };
        write(&[&image, &beside[0], &beside[1]]);
        assert_eq!(select(layout.path(), None).expect("one image").0.digest, digest);
        let second = serde_json::json!({"digest": other, "size": 1, "annotations": {REF_NAME: "1.5"}});
        write(&[&image, &second]);
        assert!(matches!(select(layout.path(), None), Err(LayoutError::Ambiguous { .. })));
    }
}
