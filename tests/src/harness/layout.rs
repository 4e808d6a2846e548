//! Reading OCI image layouts, independently of the code under test.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// An OCI image layout on disk.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// One file of an image, as its layers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type flag of the tar header.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Target of a link.
    pub link: Option<Vec<u8>>,
    /// Content of a regular file.
    pub content: Vec<u8>,
}

impl Layout {
    /// The layout at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "/"))
    }

    /// A blob.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let path = self.blob_path(digest);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A blob that is JSON.
    ///
    /// # Panics
    /// When it is not there or not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.blob(digest)).expect("JSON")
    }

    /// `index.json`.
    ///
    /// # Panics
    /// When it is not there or not JSON.
    #[must_use]
    #[track_caller]
    pub fn index(&self) -> Value {
        let path = self.root.join("index.json");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Digest of the image: the first entry of the index.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn image_digest(&self) -> String {
        text(&self.index()["manifests"][0]["digest"])
    }

    /// The image's manifests by platform `os/arch`.
    ///
    /// # Panics
    /// When a blob is missing.
    #[must_use]
    #[track_caller]
    pub fn manifests(&self) -> BTreeMap<String, Value> {
        let root = self.json(&self.image_digest());
        let manifests: Vec<Value> = match root["manifests"].as_array() {
            Some(list) => list.iter().map(|entry| self.json(&text(&entry["digest"]))).collect(),
            None => vec![root],
        };
        let platform = |manifest: &Value| {
            let config = self.config(manifest);
            format!("{}/{}", text(&config["os"]), text(&config["architecture"]))
        };
        manifests.into_iter().map(|manifest| (platform(&manifest), manifest)).collect()
    }

    /// The config of a manifest.
    ///
    /// # Panics
    /// When a blob is missing.
    #[must_use]
    #[track_caller]
    pub fn config(&self, manifest: &Value) -> Value {
        self.json(&text(&manifest["config"]["digest"]))
    }

    /// The files of a manifest's image, by path without `/` at either end.
    ///
    /// # Panics
    /// When a layer is missing, or not tar or gzipped tar.
    #[must_use]
    #[track_caller]
    pub fn files(&self, manifest: &Value) -> BTreeMap<Vec<u8>, Entry> {
        let mut files = BTreeMap::new();
        for layer in manifest["layers"].as_array().expect("layers") {
            let file = std::fs::File::open(self.blob_path(&text(&layer["digest"]))).expect("layer");
            let reader: Box<dyn Read> = match text(&layer["mediaType"]).as_str() {
                kind if kind.ends_with("+gzip") => Box::new(flate2::read::MultiGzDecoder::new(file)),
                _ => Box::new(file),
            };
            apply(&mut files, reader);
        }
        files
    }

    /// Every file of the layout, `index.json` and `oci-layout` among them.
    ///
    /// # Panics
    /// When a directory cannot be read.
    #[must_use]
    pub fn all_files(&self) -> Vec<PathBuf> {
        files_below(&self.root)
    }
}

/// Puts one layer over the files (image-spec, layer.md: whiteouts).
fn apply(files: &mut BTreeMap<Vec<u8>, Entry>, layer: impl Read) {
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries().expect("tar") {
        let mut entry = entry.expect("tar entry");
        let path = trimmed(&entry.path_bytes());
        let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(name_at);
        if name == b".wh..wh..opq" {
            files.retain(|file, _| !file.starts_with(parent) || file.len() == parent.len());
            continue;
        }
        if let Some(removed) = name.strip_prefix(b".wh.") {
            let gone = [parent, removed].concat();
            let below = [gone.as_slice(), b"/"].concat();
            files.retain(|file, _| *file != gone && !file.starts_with(&below));
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let header = entry.header();
        files.insert(
            path,
            Entry {
                kind: header.entry_type().as_byte(),
                mode: header.mode().expect("mode"),
                uid: header.uid().expect("uid"),
                gid: header.gid().expect("gid"),
                link: entry.link_name_bytes().map(|link| link.into_owned()),
                content,
            },
        );
    }
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path).to_vec()
}

/// All regular files below a directory; links are not followed.
///
/// # Panics
/// When a directory cannot be read.
#[must_use]
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in
            std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        {
            let entry = entry.expect("entry");
            let kind = entry.file_type().expect("type");
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The text of a JSON value.
///
/// # Panics
/// When it is not text.
#[must_use]
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}
