//! Space for the day on which the disk is full: a file that is given up then, and made again when there is plenty.
//!
//! Without a byte free no build is accepted, the end of none is stored, the server does not start, and BuildKit cannot
//! delete what filled the disk, because its database grows before it shrinks. A few megabytes let all of them go on.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio_util::sync::CancellationToken;

/// Name of the file in the state directory.
const NAME: &str = "reserve";
/// Its length in bytes.
const LENGTH: u64 = 32 << 20;
/// With fewer bytes free it is given up.
const SHORT: u64 = 4 << 20;
/// It is made where so many are free.
const PLENTY: u64 = 16 * LENGTH;
/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(5);

/// The file, which may be there or not.
#[derive(Debug, Clone)]
pub(crate) struct Reserve {
    directory: PathBuf,
}

impl Reserve {
    pub(crate) fn of(state_directory: &Path) -> Self {
        Self { directory: state_directory.to_owned() }
    }

    /// Gives the file up where the disk is full, makes it where there is plenty. That it fails changes nothing else.
    pub(crate) fn look(&self) {
        if let Err(error) = self.adjust(SHORT, PLENTY) {
            tracing::debug!(%error, "space for the day on which the disk is full is not kept");
        }
    }

    fn adjust(&self, short: u64, plenty: u64) -> io::Result<()> {
        let file = self.directory.join(NAME);
        let disk = statvfs(&self.directory)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let there = file.symlink_metadata().is_ok();
        if there && free < short {
            std::fs::remove_file(&file)?;
            tracing::warn!(free, "the disk is full: what was kept for this is given up; free more space");
        } else if !there && free >= plenty {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
            fallocate(&made, FallocateFlags::empty(), 0, LENGTH).inspect_err(|_| {
                let _ = std::fs::remove_file(&file);
            })?;
        }
        Ok(())
    }

    /// Looks now and then until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.look();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_with_plenty_free_and_given_up_when_short() {
        let directory = tempfile::tempdir().expect("a directory");
        let reserve = Reserve::of(directory.path());
        let length = || directory.path().join(NAME).metadata().map(|file| file.len()).ok();
        reserve.adjust(0, u64::MAX).expect("looked");
        assert_eq!(length(), None, "there is not plenty");
        reserve.adjust(0, 0).expect("looked");
        assert_eq!(length(), Some(LENGTH));
        reserve.adjust(0, 0).expect("looked");
        assert_eq!(length(), Some(LENGTH), "kept");
        reserve.adjust(u64::MAX, u64::MAX).expect("looked");
        assert_eq!(length(), None, "given up");
        reserve.adjust(u64::MAX, u64::MAX).expect("looked");
    }
}
