//! Where the recorded Evidence lies.

#![allow(unreachable_pub, reason = "also included by tests that export nothing")]

use std::path::{Path, PathBuf};

/// The folder that `SEALWRIGHT_VECTORS` names, by default `../shared/vectors` beside the repository; `None` with a
/// message when there is none.
///
/// # Panics
///
/// In CI, when there is none.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let dir = std::env::var_os("SEALWRIGHT_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    if dir.join("index.json").is_file() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no vectors at {}; set SEALWRIGHT_VECTORS to the directory that holds index.json",
        dir.display()
    );
    eprintln!("SKIPPED: no vectors at {}; set SEALWRIGHT_VECTORS", dir.display());
    None
}
