//! Putting a timestamp into the Evidence collection of an image in a layout directory.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::evidence::{CMW_MEDIA_TYPE, EvidenceBundle, MAX_COLLECTION};
use provenance::sigstore::{MAX_BUNDLE, parse_bundle};
use serde_json::{Value, json};

use super::{Blobs as _, ImageError, LocalImage, MAX_ATTACHED_BYTES, MAX_MANIFEST, gather, parse_manifest};

/// An Evidence collection of an image with the statement that its leaf names, for a timestamp over both.
pub struct Stampable {
    /// The collection.
    pub bundle: EvidenceBundle,
    /// The statement and its signature.
    pub statement: Envelope,
    /// Digest of the artefact's manifest.
    manifest: Sha256Digest,
    /// Digest of the collection.
    layer: Sha256Digest,
}

/// Why a timestamp is not put into a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestampError {
    /// The layout does not read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file cannot be written. Fault: environment.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No verifier would read the collection with the timestamp in it.
    #[error("Evidence with the timestamp has {got} bytes, verifiers read {MAX_COLLECTION}")]
    TooLong {
        /// Bytes of the collection.
        got: usize,
    },
    /// A manifest or the index is not of the shape that was read. Our bug, or somebody changes the layout meanwhile.
    #[error("{what} has no entry {digest} any more")]
    Changed {
        /// `index.json` or the artefact's manifest.
        what: &'static str,
        /// The entry.
        digest: Sha256Digest,
    },
}

impl Stampable {
    /// SHA-256 of what a timestamp of it is over.
    #[must_use]
    pub fn imprint(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bundle.timestamp_message(&self.statement))
    }
}

/// The collections attached to an image whose statement is attached too. Nothing about them is judged.
pub fn stampable(image: &LocalImage) -> Result<Vec<Stampable>, ImageError> {
    let (input, _) = gather(image, image.image.digest, &image.attached)?;
    let envelopes: Vec<Envelope> = input
        .envelopes
        .iter()
        .filter_map(|bytes| {
            parse_bundle(bytes)
                .ok()
                .map(|bundle| bundle.envelope)
                .or_else(|| Envelope::parse(bytes, MAX_BUNDLE).ok())
        })
        .collect();
    let mut found = Vec::new();
    for item in &image.attached {
        let manifest = item.descriptor.digest;
        let Ok(bytes) = image.document(&manifest, MAX_MANIFEST) else { continue };
        for layer in parse_manifest(manifest, &bytes)?.layers {
            if layer.media_type != CMW_MEDIA_TYPE {
                continue;
            }
            let collection = image.document(&layer.digest, MAX_ATTACHED_BYTES)?;
            let Ok(bundle) = EvidenceBundle::parse(&collection) else { continue };
            let statement = verifier::time::statement_of(&bundle, &envelopes, image.image.digest).cloned();
            if let Some(statement) = statement {
                found.push(Stampable { bundle, statement, manifest, layer: layer.digest });
            }
        }
    }
    Ok(found)
}

/// Writes the collection with the timestamp into the layout directory, and lists it in place of the one without. The
/// timestamp is not judged here. What was there before stays as an unlisted blob; a crash leaves the layout as it was.
pub fn put_timestamp(layout: &Path, place: &Stampable, timestamp: Vec<u8>) -> Result<(), RestampError> {
    let bundle = EvidenceBundle { timestamp: Some(timestamp), ..place.bundle.clone() };
    let collection = bundle.to_json();
    if collection.len() > MAX_COLLECTION {
        return Err(RestampError::TooLong { got: collection.len() });
    }
    write_blob(layout, &collection)?;
    let manifest = edit(&blob_path(layout, &place.manifest), "manifest", "layers", place.layer, &collection)?;
    write_blob(layout, &manifest)?;
    let path = layout.join("index.json");
    let index = edit(&path, "index.json", "manifests", place.manifest, &manifest)?;
    replace(&path, &index)
}

fn blob_path(layout: &Path, digest: &Sha256Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// A JSON file with the descriptor of `old` in its list `key` made one of `new`.
fn edit(
    path: &Path,
    what: &'static str,
    key: &str,
    old: Sha256Digest,
    new: &[u8],
) -> Result<Vec<u8>, RestampError> {
    let changed = || RestampError::Changed { what, digest: old };
    let text = fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    let mut document: Value = serde_json::from_slice(&text).map_err(|_| changed())?;
    let entries = document.get_mut(key).and_then(Value::as_array_mut).ok_or_else(changed)?;
    let mut found = false;
    for entry in entries.iter_mut().filter(|entry| entry["digest"] == old.to_string()) {
        entry["digest"] = json!(Sha256Digest::of(new).to_string());
        entry["size"] = json!(new.len());
        found = true;
    }
    if found { Ok(serde_json::to_vec(&document).expect("a JSON value serialises")) } else { Err(changed()) }
}

fn write_blob(layout: &Path, bytes: &[u8]) -> Result<(), RestampError> {
    replace(&blob_path(layout, &Sha256Digest::of(bytes)), bytes)
}

/// Writes beside the file and renames.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), RestampError> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        // A temporary file is for its owner alone; a layout is for whoever could read it before.
        let mode = fs::metadata(path).map_or(0o644, |known| known.permissions().mode());
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| RestampError::Write { path: path.to_owned(), source })
}
