//! Copies of built layouts, to be altered in ways that somebody who holds them can think of.

use std::path::Path;

use serde_json::Value;

use super::cases::sha256;
use super::layout::{Layout, text};

/// Media type of Evidence.
pub const EVIDENCE: &str = "application/cmw+json";

/// A copy of a layout; gone with the value.
pub struct Altered {
    directory: tempfile::TempDir,
}

impl Altered {
    /// Copies a layout into a new directory below `work`.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copy_of(layout: &Layout, work: &Path) -> Self {
        let directory = tempfile::tempdir_in(work).expect("a directory");
        for file in layout.all_files() {
            let target = directory.path().join(file.strip_prefix(layout.root()).expect("below the root"));
            std::fs::create_dir_all(target.parent().expect("has a parent")).expect("directory");
            std::fs::copy(file, target).expect("copy");
        }
        Self { directory }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The copy as it is now.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::at(self.path())
    }

    /// Stores a blob and gives its descriptor's digest and size.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn store(&self, bytes: &[u8]) -> (Value, Value) {
        let digest = format!("sha256:{}", sha256(bytes));
        std::fs::write(self.layout().blob_path(&digest), bytes).expect("blob");
        (digest.into(), bytes.len().into())
    }

    /// Alters the entries of `index.json`.
    ///
    /// # Panics
    /// When the index is none.
    pub fn index(&self, alter: impl FnOnce(&mut Vec<Value>)) {
        let mut index = self.layout().index();
        alter(index["manifests"].as_array_mut().expect("manifests"));
        std::fs::write(self.path().join("index.json"), index.to_string()).expect("index");
    }

    /// Alters the artefacts that stand beside the image, given by media type, with all digests as they then must be.
    ///
    /// # Panics
    /// When a blob is not there.
    pub fn artefacts(&self, mut alter: impl FnMut(&str, &mut Vec<u8>)) {
        let layout = self.layout();
        self.index(|manifests| {
            for entry in manifests.iter_mut().skip(1) {
                let mut manifest = layout.json(&text(&entry["digest"]));
                for layer in manifest["layers"].as_array_mut().expect("layers") {
                    let mut bytes = layout.blob(&text(&layer["digest"]));
                    alter(&text(&layer["mediaType"]), &mut bytes);
                    (layer["digest"], layer["size"]) = self.store(&bytes);
                }
                (entry["digest"], entry["size"]) = self.store(manifest.to_string().as_bytes());
            }
        });
    }
}
