//! Where the sealed file lies, and how it is replaced: a crash at any byte or operation leaves the old file or the
//! new one, whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::format::MAX_SEALED_FILE;

/// The sealed file.
pub(super) const SEALED: &str = "epoch.sealed";
/// The same while it is written.
const TEMPORARY: &str = "epoch.sealed.new";
/// Held by the one process that uses the directory.
const LOCK: &str = "lock";

/// The few operations that writing needs, so that a test can stop between any two of them.
pub(super) trait Files {
    /// An open file.
    type File;
    /// Makes a file that is not there yet, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Appends all bytes.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Returns once the content is on the disk.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Puts one file in the place of another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns once the names in the directory are on the disk.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's.
pub(super) struct SystemFiles;

impl Files for SystemFiles {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// Puts `bytes` at `directory/name`, whatever was there. When it returns, a crash of the machine does not undo it; when
/// it fails or does not return, the old file or the new one is there, whole.
pub(super) fn replace<F: Files>(files: &F, directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    // What an earlier crash left.
    files.remove(&temporary)?;
    let mut file = files.create(&temporary)?;
    files.write(&mut file, bytes)?;
    files.sync(&file)?;
    files.rename(&temporary, &directory.join(name))?;
    files.sync_directory(directory)
}

/// Why a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("could not {operation} {}: {detail}", path.display())]
    Io {
        /// What was tried: `make`, `lock`, `read`, `write`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Kind of the operating system's error.
        kind: io::ErrorKind,
        /// The operating system's words.
        detail: String,
    },
    /// Another process has it.
    #[error("{} is in use by another process; one key service may run on it", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// Something else than a file is there.
    #[error("{} is no regular file; remove it, or put the sealed epoch back in its place", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Io {
        operation,
        path: path.to_owned(),
        kind: error.kind(),
        detail: error.to_string(),
    }
}

/// Path of the sealed file if anything is there, for a boot that cannot open it anyway.
pub(super) fn sealed_file_in(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(SEALED);
    fs::symlink_metadata(&path).is_ok().then_some(path)
}

/// The directory of the sealed file, held by this process as long as this lives.
pub(super) struct Store {
    directory: PathBuf,
    // Locked; the kernel lets go when it is closed, whatever ends the process.
    _lock: File,
}

impl Store {
    /// Makes the directory (mode 0700) when it is not there, and takes its lock.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make", directory))?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("make", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { directory: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Path of the sealed file.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(SEALED)
    }

    /// The sealed file, at most one byte more than any has; `None` when there is none.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path();
        // Looked at before it is opened: opening a FIFO waits for its other end.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(StoreError::NoFile { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        }
        let mut bytes = Vec::new();
        let limit = MAX_SEALED_FILE as u64 + 1;
        File::open(&path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(failed("read", &path))?;
        Ok(Some(bytes))
    }

    /// Puts a sealed file in place of the one that is there, if any.
    pub(super) fn replace(&self, bytes: &[u8]) -> Result<(), StoreError> {
        replace(&SystemFiles, &self.directory, SEALED, bytes).map_err(failed("write", &self.path()))
    }

    /// Keeps the file of an epoch that has ended under another name, which nothing here reads again.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        replace(&SystemFiles, &self.directory, name, bytes)
            .map_err(failed("write", &self.directory.join(name)))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
