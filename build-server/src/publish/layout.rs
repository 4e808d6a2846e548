//! The result as an OCI image layout (image-spec 1.1, "Image Layout").
//!
//! `index.json` lists the image first, so that tools that expect one image still work; everything else is
//! found by its tag (`org.opencontainers.image.ref.name`) or as a referrer (`subject`).
//!
//! A layout is made in a directory beside its destination and renamed: after a crash of the process there is
//! a whole layout or none. It is not synced to disk, because the guest's state does not survive a reboot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;
use provenance::evidence::MAX_COLLECTION;
use provenance::sigstore::MAX_BUNDLE;
use provenance::statement::MAX_SUBJECTS;

use super::artefacts::{Artefact, Artefacts, artefacts};
use super::name::ImageName;
use super::oci::{
    CONTAINERD_IMAGE_NAME, Descriptor, IMAGE_INDEX, Index, MAX_MANIFEST, Manifest, REF_NAME, is_index,
    is_manifest, to_json,
};

/// Contents of the file `oci-layout`.
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Most entries of `index.json`: five artefacts per digest, and the image.
const MAX_ENTRIES: usize = 5 * (MAX_SUBJECTS + 1) + 1;
/// Most layers of one manifest.
const MAX_LAYERS: usize = 1024;

/// Why a layout could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The file system refused (environment).
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A blob that a manifest names is not there (untrusted input: the export or the layout).
    #[error("blob {digest} ({media_type}) is named but not in the layout")]
    MissingBlob {
        /// Digest of the blob.
        digest: Sha256Digest,
        /// Its media type.
        media_type: String,
    },
    /// A blob has another size than its descriptor says.
    #[error("blob {digest} has {got} bytes, its descriptor says {expected}")]
    BlobSize {
        /// Digest of the blob.
        digest: Sha256Digest,
        /// Size on disk.
        got: u64,
        /// Size in the descriptor.
        expected: u64,
    },
    /// A manifest's bytes have another digest than the one it stands under.
    #[error("manifest {expected} has digest {got}")]
    BlobDigest {
        /// Digest of the bytes.
        got: Sha256Digest,
        /// Digest it stands under.
        expected: Sha256Digest,
    },
    /// A manifest is larger than registries take.
    #[error("manifest {digest} has {got} bytes, at most {MAX_MANIFEST} are allowed")]
    ManifestTooLarge {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Its size.
        got: u64,
    },
    /// A manifest, index or `index.json` is no JSON of its shape.
    #[error("{what} does not parse: {problem}")]
    Shape {
        /// Which document.
        what: String,
        /// What the parser says.
        problem: String,
    },
    /// A manifest has a media type that is no image's or index's, or an index inside an index.
    #[error("{digest} has media type `{got}`; wanted an image manifest or, for the root, an index")]
    MediaType {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// The media type seen.
        got: String,
    },
    /// More of something than allowed.
    #[error("{what}: {got}, at most {limit} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many were seen.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing to publish.
    #[error("{what} lists no manifest")]
    Empty {
        /// Which index.
        what: String,
    },
    /// The root or a platform manifest has no signature (our bug: the release step signs every digest).
    #[error("nothing signs {digest}; an image is published only with a signature over each of its manifests")]
    Unsigned {
        /// The digest without signature.
        digest: Sha256Digest,
    },
    /// A signature is over a digest that is not part of this image (our bug).
    #[error("a signature is over {digest}, which is not part of this image")]
    ForeignSignature {
        /// The foreign digest.
        digest: Sha256Digest,
    },
    /// A part that verifiers would refuse to read.
    #[error("{what} has {got} bytes, verifiers read at most {limit}")]
    PartTooLarge {
        /// Which part.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
}

/// A manifest of a layout with the bytes it was read as.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its descriptor as its index lists it.
    pub descriptor: Descriptor,
    /// Its exact bytes; their digest was checked.
    pub bytes: Vec<u8>,
    /// Configuration and layers, or for an index nothing.
    pub blobs: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
}

/// A layout that was read whole: every manifest's digest checked, every other blob there with its size.
///
/// Digests of layers are checked by whoever reads them: the push hashes while it sends.
#[derive(Debug, Clone)]
pub struct ResultLayout {
    directory: PathBuf,
    index_json: Vec<u8>,
    image: StoredManifest,
    platforms: Vec<StoredManifest>,
    attached: Vec<StoredManifest>,
}

impl ResultLayout {
    /// Directory of the layout.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The exact `index.json`.
    #[must_use]
    pub fn index_json(&self) -> &[u8] {
        &self.index_json
    }

    /// The image: a manifest or an index.
    #[must_use]
    pub fn image(&self) -> &StoredManifest {
        &self.image
    }

    /// Manifests of the image when it is an index; else none.
    #[must_use]
    pub fn platforms(&self) -> &[StoredManifest] {
        &self.platforms
    }

    /// Signatures, provenance, Evidence, in the order of `index.json`.
    #[must_use]
    pub fn attached(&self) -> &[StoredManifest] {
        &self.attached
    }

    /// Digest of the image configuration (Docker's image id); none when the image is an index.
    #[must_use]
    pub fn config_digest(&self) -> Option<Sha256Digest> {
        self.image.blobs.first().map(|config| config.digest)
    }

    /// Every blob of the layout once, manifests included, ascending by digest.
    #[must_use]
    pub fn blobs(&self) -> Vec<Descriptor> {
        let manifests = [&self.image].into_iter().chain(&self.platforms).chain(&self.attached);
        let mut all = BTreeMap::new();
        for manifest in manifests {
            for descriptor in std::iter::once(&manifest.descriptor).chain(&manifest.blobs) {
                all.entry(descriptor.digest).or_insert_with(|| descriptor.bare());
            }
        }
        all.into_values().collect()
    }

    /// Path of a blob's file.
    #[must_use]
    pub fn blob_path(&self, digest: &Sha256Digest) -> PathBuf {
        blob_path(&self.directory, digest)
    }
}

fn blob_path(directory: &Path, digest: &Sha256Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LayoutError + 'a {
    move |source| LayoutError::Io { operation, path: path.to_owned(), source }
}

/// Writes the result: the image of `export` and all artefacts, at `destination`, which must not exist.
///
/// `export` is an OCI layout whose blobs were hashed while they were written; its files are linked, not
/// copied, where the file system allows. `root` is the image in it. `names` are the image's names in the
/// order of the request. Errors leave no destination.
pub fn write_layout(
    export: &Path,
    root: &Descriptor,
    parts: &Artefacts,
    names: &[ImageName],
    destination: &Path,
) -> Result<ResultLayout, LayoutError> {
    let image = read_manifest(export, root)?;
    let platforms = read_platforms(export, &image)?;
    let targets: Vec<Descriptor> =
        [&image].into_iter().chain(&platforms).map(|m| m.descriptor.clone()).collect();
    check_parts(parts, &targets)?;
    let attached = artefacts(parts, &targets);

    let parent = destination.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".layout-")
        .tempdir_in(parent)
        .map_err(io_error("create a directory in", parent))?;
    let blobs = temporary.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;

    let mut linked = BTreeSet::new();
    for manifest in [&image].into_iter().chain(&platforms) {
        for descriptor in std::iter::once(&manifest.descriptor).chain(&manifest.blobs) {
            if linked.insert(descriptor.digest) {
                link(
                    &blob_path(export, &descriptor.digest),
                    &blob_path(temporary.path(), &descriptor.digest),
                )?;
            }
        }
    }
    for artefact in &attached {
        write_artefact(temporary.path(), artefact)?;
    }

    let mut first = root.bare().annotated(REF_NAME, names.first().map_or("latest", ImageName::tag));
    if let Some(name) = names.first() {
        first = first.annotated(CONTAINERD_IMAGE_NAME, name.to_string());
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(IMAGE_INDEX.to_owned()),
        manifests: std::iter::once(first).chain(attached.iter().map(|a| a.descriptor.clone())).collect(),
        annotations: BTreeMap::new(),
    };
    write(&temporary.path().join("index.json"), &to_json(&index))?;
    write(&temporary.path().join("oci-layout"), OCI_LAYOUT)?;

    // Read back through the door that pushes and downloads use, before anyone can see it.
    let mut layout = read_layout(temporary.path())?;
    let made = temporary.keep();
    fs::rename(&made, destination).map_err(|source| {
        let _ = fs::remove_dir_all(&made);
        LayoutError::Io { operation: "rename to", path: destination.to_owned(), source }
    })?;
    layout.directory = destination.to_owned();
    Ok(layout)
}

/// Every digest of the image has a signature, no signature is over anything else, no part is too large.
fn check_parts(parts: &Artefacts, targets: &[Descriptor]) -> Result<(), LayoutError> {
    for target in targets {
        if !parts.images.iter().any(|image| image.digest == target.digest) {
            return Err(LayoutError::Unsigned { digest: target.digest });
        }
    }
    for image in &parts.images {
        if !targets.iter().any(|target| target.digest == image.digest) {
            return Err(LayoutError::ForeignSignature { digest: image.digest });
        }
    }
    // Base64 in JSON in base64 never grows beyond this factor; the bundle's own bytes are below 1 KiB.
    let bundle = parts.provenance.payload.len().div_ceil(3) * 4 + 1024;
    for (what, got, limit) in [
        ("the provenance bundle", bundle, MAX_BUNDLE),
        ("the Evidence", parts.evidence.len(), MAX_COLLECTION),
    ] {
        if got > limit {
            return Err(LayoutError::PartTooLarge { what, got, limit });
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> Result<(), LayoutError> {
    match fs::hard_link(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(from, to).map_err(io_error("copy to", to))?;
            Ok(())
        }
        other => other.map_err(io_error("link to", to)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    fs::write(path, bytes).map_err(io_error("write", path))
}

fn write_artefact(directory: &Path, artefact: &Artefact) -> Result<(), LayoutError> {
    write(&blob_path(directory, &artefact.descriptor.digest), &artefact.manifest)?;
    artefact
        .blobs
        .iter()
        .try_for_each(|(descriptor, bytes)| write(&blob_path(directory, &descriptor.digest), bytes))
}

/// Reads a layout: `index.json`, then every manifest it leads to. The image is its first entry.
pub fn read_layout(directory: &Path) -> Result<ResultLayout, LayoutError> {
    let path = directory.join("index.json");
    let index_json = read_bounded(&path, MAX_MANIFEST)?;
    let index: Index = parse("index.json", &index_json)?;
    if index.manifests.len() > MAX_ENTRIES {
        return Err(LayoutError::TooMany {
            what: "entries of index.json",
            got: index.manifests.len(),
            limit: MAX_ENTRIES,
        });
    }
    let (first, rest) =
        index.manifests.split_first().ok_or_else(|| LayoutError::Empty { what: "index.json".to_owned() })?;
    let image = read_manifest(directory, first)?;
    let platforms = read_platforms(directory, &image)?;
    let attached = rest
        .iter()
        .map(|descriptor| {
            if is_manifest(&descriptor.media_type) {
                read_manifest(directory, descriptor)
            } else {
                Err(LayoutError::MediaType { digest: descriptor.digest, got: descriptor.media_type.clone() })
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(ResultLayout { directory: directory.to_owned(), index_json, image, platforms, attached })
}

/// The manifests that an index lists; none for a manifest.
fn read_platforms(directory: &Path, image: &StoredManifest) -> Result<Vec<StoredManifest>, LayoutError> {
    if !is_index(&image.descriptor.media_type) {
        return Ok(Vec::new());
    }
    let what = image.descriptor.digest.to_string();
    let index: Index = parse(&what, &image.bytes)?;
    if index.manifests.is_empty() {
        return Err(LayoutError::Empty { what });
    }
    // One subject is the index itself.
    if index.manifests.len() >= MAX_SUBJECTS {
        return Err(LayoutError::TooMany {
            what: "manifests of an index",
            got: index.manifests.len(),
            limit: MAX_SUBJECTS - 1,
        });
    }
    index
        .manifests
        .iter()
        .map(|descriptor| {
            if is_manifest(&descriptor.media_type) {
                read_manifest(directory, descriptor)
            } else {
                Err(LayoutError::MediaType { digest: descriptor.digest, got: descriptor.media_type.clone() })
            }
        })
        .collect()
}

/// Reads one manifest or index, checks size and digest, and checks that its blobs are there with their size.
fn read_manifest(directory: &Path, descriptor: &Descriptor) -> Result<StoredManifest, LayoutError> {
    if descriptor.size > MAX_MANIFEST {
        return Err(LayoutError::ManifestTooLarge { digest: descriptor.digest, got: descriptor.size });
    }
    check_blob(directory, descriptor)?;
    let bytes = read_bounded(&blob_path(directory, &descriptor.digest), MAX_MANIFEST)?;
    let got = Sha256Digest::of(&bytes);
    if got != descriptor.digest {
        return Err(LayoutError::BlobDigest { got, expected: descriptor.digest });
    }
    let (blobs, subject) = if is_index(&descriptor.media_type) {
        (Vec::new(), None)
    } else if is_manifest(&descriptor.media_type) {
        let manifest: Manifest = parse(&descriptor.digest.to_string(), &bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(LayoutError::TooMany {
                what: "layers of a manifest",
                got: manifest.layers.len(),
                limit: MAX_LAYERS,
            });
        }
        (std::iter::once(manifest.config).chain(manifest.layers).collect(), manifest.subject)
    } else {
        return Err(LayoutError::MediaType { digest: descriptor.digest, got: descriptor.media_type.clone() });
    };
    for blob in &blobs {
        check_blob(directory, blob)?;
    }
    Ok(StoredManifest { descriptor: descriptor.clone(), bytes, blobs, subject })
}

fn check_blob(directory: &Path, descriptor: &Descriptor) -> Result<(), LayoutError> {
    let path = blob_path(directory, &descriptor.digest);
    // Not followed: a link in a layout could lead out of it.
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Err(LayoutError::MissingBlob {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
        }),
        Ok(found) if found.len() != descriptor.size => Err(LayoutError::BlobSize {
            digest: descriptor.digest,
            got: found.len(),
            expected: descriptor.size,
        }),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(LayoutError::MissingBlob {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
        }),
        Err(source) => Err(LayoutError::Io { operation: "look at", path, source }),
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io_error("open", path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::Shape {
            what: path.display().to_string(),
            problem: format!("more than {limit} bytes"),
        });
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes)
        .map_err(|e| LayoutError::Shape { what: what.to_owned(), problem: e.to_string() })
}
