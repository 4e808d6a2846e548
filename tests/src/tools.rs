//! Where the tests find the real tools (buildkitd, buildctl, runc, crane, registry, cosign, cosign2, grpcurl) and a header
//! of the kernel.

use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a directory of the repository")
}

fn configured(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| repository().join(default), PathBuf::from)
}

/// Path of a tool, in `$SEALWRIGHT_TOOLS` or `target/tools/bin`.
///
/// # Panics
/// When it is not there: a test without its tool fails, it does not pass silently.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = configured("SEALWRIGHT_TOOLS", "target/tools/bin").join(name);
    assert!(path.is_file(), "no {name} at {}; run make tools", path.display());
    path
}

/// The Debian base image: an OCI layout with tag `bookworm`, at `$SEALWRIGHT_BASE_IMAGE` or `target/base-image`.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn base_image() -> PathBuf {
    let path = configured("SEALWRIGHT_BASE_IMAGE", "target/base-image");
    assert!(path.join("index.json").is_file(), "no OCI layout at {}; run make tools", path.display());
    path
}
