//! Images on this machine: an OCI layout as a directory or as an uncompressed tar file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;

use super::archive::Archive;
use super::selection::{looks_attached, select};
use super::{
    AnyManifest, Attached, Blobs, Descriptor, ImageError, MAX_ATTACHED, MAX_ATTACHED_BYTES, MAX_MANIFEST,
    parse_manifest,
};
use crate::regular_file;

/// What `docker load` and others read of an archive before `index.json`, or instead of it: its images need not be ours.
const OTHER_INDEXES: [&str; 2] = ["manifest.json", "repositories"];

/// An image of a layout on this machine.
pub struct LocalImage {
    store: Store,
    /// The image's descriptor, as the layout's index has it.
    pub image: Descriptor,
    /// Everything else that the layout holds.
    pub attached: Vec<Attached>,
}

enum Store {
    Directory(PathBuf),
    Tar(Archive),
}

/// Opens a layout directory or tar file. `selector` is a tag or digest; without one the layout must hold a
/// single image.
pub fn open_local(path: &Path, selector: Option<&str>) -> Result<LocalImage, ImageError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    let store =
        if metadata.is_dir() { Store::Directory(path.to_owned()) } else { Store::Tar(Archive::open(path)?) };
    for name in OTHER_INDEXES {
        if store.has(name) {
            return Err(ImageError::OtherIndex { path: path.to_owned(), name });
        }
    }
    let not_a_layout = |problem: String| ImageError::NotALayout { path: path.to_owned(), problem };
    let layout =
        store.named("oci-layout").map_err(|_| not_a_layout("it has no file `oci-layout`".to_owned()))?;
    if !String::from_utf8_lossy(&layout).contains("imageLayoutVersion") {
        return Err(not_a_layout("its file `oci-layout` names no imageLayoutVersion".to_owned()));
    }
    let index =
        store.named("index.json").map_err(|_| not_a_layout("it has no readable `index.json`".to_owned()))?;
    let damaged = |e: serde_json::Error| ImageError::Index { path: path.to_owned(), problem: e.to_string() };
    check_spelling(&serde_json::from_slice(&index).map_err(damaged)?)
        .map_err(|problem| not_a_layout(format!("index.json: {problem}")))?;
    let index: AnyManifest = serde_json::from_slice(&index).map_err(damaged)?;
    let (image, attached) = select(path, selector, index.manifests, &store)?;
    Ok(LocalImage { store, image, attached })
}

/// Refuses two spellings of one key. Other readers, those written in Go first of all, take `Digest` for `digest`: such
/// an index would show them another image than us.
fn check_spelling(value: &serde_json::Value) -> Result<(), String> {
    match value {
        serde_json::Value::Object(map) => {
            let mut seen = HashSet::new();
            map.iter().try_for_each(|(key, value)| {
                // Both, because two characters outside ASCII fold to `s` and `k`.
                match seen.insert(key.to_uppercase().to_lowercase()) {
                    true => check_spelling(value),
                    false => Err(format!("holds the key `{key}` in two spellings")),
                }
            })
        }
        serde_json::Value::Array(items) => items.iter().try_for_each(check_spelling),
        _ => Ok(()),
    }
}

impl LocalImage {
    /// What is damaged of all that the layout says stands beside the image: its index lists it, so it was whole once.
    /// Strangers can put damaged things beside an image of a registry; into a layout they cannot.
    #[must_use]
    pub fn damage(&self) -> Vec<ImageError> {
        let root = self
            .document(&self.image.digest, MAX_MANIFEST)
            .and_then(|bytes| parse_manifest(self.image.digest, &bytes));
        let children = root.map_or_else(|_| Vec::new(), |root| root.manifests);
        let targets: Vec<Sha256Digest> =
            std::iter::once(self.image.digest).chain(children.iter().map(|child| child.digest)).collect();
        // The same document stands beside an image in several forms, and a hostile manifest may name it without end.
        let mut checked = HashSet::new();
        let attached = self.attached.iter().take(MAX_ATTACHED);
        attached.filter_map(|item| self.check_attached(item, &targets, &mut checked).err()).collect()
    }

    /// Checks one thing that stands beside one of `targets`.
    fn check_attached(
        &self,
        item: &Attached,
        targets: &[Sha256Digest],
        checked: &mut HashSet<(Sha256Digest, u64)>,
    ) -> Result<(), ImageError> {
        let digest = item.descriptor.digest;
        let read = self.document(&digest, MAX_MANIFEST).and_then(|bytes| parse_manifest(digest, &bytes));
        let manifest = match read {
            // Of several images in a layout not all need be whole.
            Err(_) if !looks_attached(&item.descriptor) => return Ok(()),
            read => read?,
        };
        let tag = item.tag.as_deref().and_then(|tag| tag.strip_prefix("sha256-"));
        let tagged = tag.is_some_and(|tag| targets.iter().any(|target| tag.starts_with(&target.hex())));
        if !tagged && manifest.subject.as_ref().is_none_or(|subject| !targets.contains(&subject.digest)) {
            return Ok(());
        }
        for part in manifest.config.iter().chain(&manifest.layers) {
            if checked.contains(&(part.digest, part.size)) {
                continue;
            }
            let size = self.document(&part.digest, MAX_ATTACHED_BYTES)?.len() as u64;
            if size != part.size {
                let problem = format!("has {size} bytes, its manifest says {}", part.size);
                return Err(ImageError::BadBlob { digest: part.digest, problem });
            }
            checked.insert((part.digest, part.size));
        }
        Ok(())
    }
}

impl Store {
    /// A file of the layout by name, at most [`MAX_MANIFEST`] bytes.
    fn named(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let path = match self {
            Self::Directory(folder) => folder.join(name),
            Self::Tar(tar) => tar.path.join(name),
        };
        let read = |source| ImageError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        self.reader(name).map_err(read)?.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(read(io::Error::other(format!("more than {MAX_MANIFEST} bytes"))));
        }
        Ok(bytes)
    }

    /// Whether there is anything of that name at the top.
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(folder) => folder.join(name).symlink_metadata().is_ok(),
            Self::Tar(tar) => tar.entries.contains_key(name),
        }
    }

    fn reader(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        match self {
            Self::Directory(folder) => Ok(Box::new(regular_file::open(&folder.join(name))?)),
            Self::Tar(tar) => {
                let (offset, size) = *tar.entries.get(name).ok_or(io::ErrorKind::NotFound)?;
                Ok(Box::new(Section { file: &tar.file, offset, end: offset + size }))
            }
        }
    }
}

impl Blobs for LocalImage {
    fn open(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        self.store.open(digest)
    }
}

impl Blobs for Store {
    fn open(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        self.reader(&format!("blobs/sha256/{}", digest.hex())).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ImageError::MissingBlob { digest: *digest },
            _ => ImageError::BadBlob { digest: *digest, problem: e.to_string() },
        })
    }
}

/// A part of a file, read without moving a shared position.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
