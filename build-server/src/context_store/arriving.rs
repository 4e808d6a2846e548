//! Reading a blob while it is being uploaded.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provenance::digest::{Sha256Digest, Sha256Hasher};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::live::Live;
use super::project::ProjectStore;
use super::{StoreError, io_error};

/// How often a waiting reader looks whether anybody still wants its bytes.
const LOOK: Duration = Duration::from_millis(500);

/// Tells whether nobody wants the bytes any more.
pub type Gone = Box<dyn Fn() -> bool + Send>;

/// A blob's bytes, piece by piece from its beginning.
pub trait BlobSource: Send {
    /// The next bytes, at most `most` of them; none at the end. Fails with `InvalidData` at the end when the bytes
    /// do not have the digest: use no byte for good before. Blocks.
    fn next(&mut self, most: usize) -> io::Result<Bytes>;
}

/// What a file has to give, at most `most` bytes and at most `left`.
pub(super) fn read_some(file: &mut File, most: usize, left: u64) -> io::Result<Bytes> {
    let most = usize::try_from(left).unwrap_or(most).min(most);
    let mut bytes = Vec::with_capacity(most);
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

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
    /// Of all bytes up to the end of `chunk`. Gone when the end was reached and the digest held.
    hasher: Option<Sha256Hasher>,
    live: Arc<Live>,
    /// What is left of the chunk from memory.
    chunk: Bytes,
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
            live: self.inner.live.listen(digest),
            chunk: Bytes::new(),
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

    /// Bytes that the upload passes on, which it has hashed; empty when it has not those that come next.
    fn take_live(&mut self, most: usize) -> Bytes {
        if self.chunk.is_empty()
            && let Some(hasher) = &mut self.hasher
            && let Some(next) = self.live.following(self.position, hasher)
        {
            *hasher = next.after;
            self.chunk = next.data;
            // It stands where the chunk begins.
            self.file = None;
        }
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX);
        self.chunk.split_to(most.min(left).min(self.chunk.len()))
    }

    /// Bytes that were written; empty when the next have not come.
    fn read_written(&mut self, most: usize) -> io::Result<Bytes> {
        if self.file.is_none() {
            self.file = self.open().map_err(io::Error::other)?;
        }
        let Some(file) = &mut self.file else { return Ok(Bytes::new()) };
        let end = self.live.next_offset(self.position).unwrap_or(self.size).min(self.size);
        let bytes = read_some(file, most, end.saturating_sub(self.position))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        Ok(bytes)
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

impl BlobSource for ArrivingReader {
    fn next(&mut self, most: usize) -> io::Result<Bytes> {
        loop {
            if self.position == self.size {
                self.check()?;
                return Ok(Bytes::new());
            }
            // Before anything is looked at, so that no change in between is missed.
            self.changes.mark_unchanged();
            let mut bytes = self.take_live(most);
            if bytes.is_empty() {
                bytes = self.read_written(most)?;
            }
            if !bytes.is_empty() {
                self.position += bytes.len() as u64;
                return Ok(bytes);
            }
            self.file = None;
            self.wait()?;
        }
    }
}
