//! A small file system for tests of a full disk.

use std::path::Path;
use std::process::Command;

/// A tmpfs of a few megabytes, unmounted with the test.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts it.
    ///
    /// # Panics
    /// When it cannot be mounted: the tests run as root.
    #[must_use]
    pub fn new(megabytes: u32) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).status();
        assert!(mounted.expect("mount is installed").success(), "the tests mount file systems, as root");
        Self(directory)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Uses all its space until the file is removed again.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path().join("filler")).expect("created");
        for size in [1 << 20, 4096, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
