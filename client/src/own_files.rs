//! What a build writes on this machine itself, which therefore is no part of the contexts that it sends.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::download;
use crate::spec::{Destination, OutputSpec};

/// What lies in a context and is written by the build itself: the result of the build before, which would otherwise be
/// sent with the next. Paths from the context's root.
pub(crate) fn own_files(folder: &Path, output: &OutputSpec) -> BTreeSet<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut written = download::written(&output.destination);
    written.extend(attestation_request_files(&output.destination).into_iter().flatten());
    written.extend(output.beside.iter().cloned());
    let Ok(root) = folder.canonicalize() else { return BTreeSet::new() };
    // What cannot be resolved is not there, and so not in the context.
    let inside = |path: &PathBuf| Some(path.canonicalize().ok()?.strip_prefix(&root).ok()?.to_owned());
    let paths = written.iter().filter_map(inside).map(|path| path.as_os_str().as_bytes().to_owned());
    // A destination that is the context itself, or holds it, leaves nothing out.
    paths.filter(|path| !path.is_empty()).collect()
}

/// Where the attestation request of a build on Secure Execution and its key are kept: beside a layout.
#[must_use]
pub fn attestation_request_files(destination: &Destination) -> Option<[PathBuf; 2]> {
    match destination {
        Destination::LayoutDirectory(path) | Destination::LayoutTar(path) if path.as_os_str() != "-" => {
            Some(attestation_request_names(path.components().as_path().as_os_str()))
        }
        _ => None,
    }
}

/// Names of the files of an attestation request and of its key.
#[must_use]
pub fn attestation_request_names(base: &OsStr) -> [PathBuf; 2] {
    [".attestation-request", ".attestation-request-key"].map(|suffix| {
        let mut name = base.to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}
