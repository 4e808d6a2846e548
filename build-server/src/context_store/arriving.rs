//! Reading a blob while it is being uploaded.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::time::Duration;

use provenance::digest::{Sha256Digest, Sha256Hasher};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::project::ProjectStore;
use super::{StoreError, io_error};

/// How often a waiting reader looks whether anybody still wants its bytes.
const LOOK: Duration = Duration::from_millis(500);

/// Tells whether nobody wants the bytes any more.
pub type Gone = Box<dyn Fn() -> bool + Send>;

/// Reads a blob from its beginning and waits where its bytes have not come yet. The digest is checked at the end,
/// as with every blob: use no byte for good before.
///
/// Must be read on a thread of a Tokio runtime that may block.
pub struct ArrivingReader {
    store: ProjectStore,
    digest: Sha256Digest,
    size: u64,
    file: Option<File>,
    position: u64,
    /// Gone when the end was reached and the digest held.
    hasher: Option<Sha256Hasher>,
    changes: watch::Receiver<u64>,
    gone: Gone,
}

impl ProjectStore {
    /// Opens a blob of `size` bytes that is stored, being uploaded or yet to come. Waiting ends with an error of
    /// kind `BrokenPipe` once `gone` says so.
    pub fn open_arriving(&self, digest: &Sha256Digest, size: u64, gone: Gone) -> ArrivingReader {
        ArrivingReader {
            store: self.clone(),
            digest: *digest,
            size,
            file: None,
            position: 0,
            hasher: Some(Sha256Hasher::new()),
            changes: self.changes(),
            gone,
        }
    }
}

impl ArrivingReader {
    /// The file as it is now; none when not a byte has come. An upload that began anew has a new one.
    fn open(&self) -> Result<Option<File>, StoreError> {
        let inner = &self.store.inner;
        // In this order: a finished upload moves from the second to the first.
        for path in
            [inner.blob_path(&self.digest), inner.upload_path(&self.digest), inner.blob_path(&self.digest)]
        {
            let opened = File::open(&path).and_then(|mut file| {
                file.seek(SeekFrom::Start(self.position))?;
                Ok(file)
            });
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other.map(Some).map_err(io_error(format!("open blob {}", self.digest))),
            }
        }
        Ok(None)
    }

    fn wait(&mut self) -> io::Result<()> {
        if (self.gone)() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody waits for this blob any more"));
        }
        // Running out of time is no error: then the file and the reader are looked at again.
        let _ = Handle::current().block_on(tokio::time::timeout(LOOK, self.changes.changed()));
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let got = hasher.finish();
        if got == self.digest {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, StoreError::Corrupt { digest: self.digest, got }))
    }
}

impl Read for ArrivingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.position == self.size {
                self.check()?;
                return Ok(0);
            }
            // Before the file is looked at, so that no change in between is missed.
            self.changes.mark_unchanged();
            if self.file.is_none() {
                self.file = self.open().map_err(io::Error::other)?;
            }
            if let Some(file) = &mut self.file {
                let wanted =
                    buffer.len().min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
                let count = file.read(&mut buffer[..wanted])?;
                if count > 0 {
                    self.position += count as u64;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer[..count]);
                    }
                    return Ok(count);
                }
            }
            self.file = None;
            self.wait()?;
        }
    }
}
