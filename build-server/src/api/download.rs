//! Result blobs: read from the offset on, hashed again as a whole, and never complete when they are damaged.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::v1;
use provenance::digest::{Sha256Digest, Sha256Hasher};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::errors::ApiError;
use crate::jobs::{BuildRecord, State};

/// Bytes of one message.
const CHUNK: usize = 1 << 20;
/// Messages that wait for a slow reader.
const AHEAD: usize = 2;

type Chunks = mpsc::Sender<Result<v1::ReadBlobResponse, Status>>;

/// Opens a blob of a build's result, to be read from `offset` on. `directory` is the result's. Blocks.
pub(super) fn open(
    record: &BuildRecord,
    directory: &Path,
    digest: Sha256Digest,
    offset: u64,
) -> Result<Blob, ApiError> {
    let name = || record.name.to_string();
    let Some(result) = &record.result else {
        return Err(ApiError::NoResult { name: name(), state: state_name(record.state) });
    };
    let text = digest.to_string();
    // Only what the result lists is served; nothing else of the directory can be named.
    let listed = result.blobs.iter().chain(&result.files).chain(&result.image).chain(&result.attached);
    let Some(descriptor) = listed.into_iter().find(|descriptor| descriptor.digest == text) else {
        return Err(ApiError::NoSuchBlob { name: name(), digest });
    };
    let file = match File::open(blob_path(directory, &digest)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ApiError::ResultExpired { name: name() });
        }
        other => other.map_err(|error| ApiError::Internal(format!("open result blob {digest}: {error}")))?,
    };
    let size = descriptor.size;
    if offset > size {
        return Err(ApiError::Offset { digest, offset, size });
    }
    Ok(Blob { file, digest, size, offset })
}

/// An open result blob and where in it to begin.
pub(super) struct Blob {
    file: File,
    digest: Sha256Digest,
    size: u64,
    offset: u64,
}

impl Blob {
    /// Streams it. A slow reader keeps no thread: each piece is read by itself.
    pub(super) fn stream(self) -> ReceiverStream<Result<v1::ReadBlobResponse, Status>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            if let Err(error) = self.send(&sender).await {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Reads the whole file, sends what lies at or behind the offset, and holds back the last piece until the digest
    /// has been compared: who got all bytes got the right ones.
    async fn send(self, sender: &Chunks) -> Result<(), ApiError> {
        let Self { file, digest, size, offset } = self;
        let mut reading = (file, Sha256Hasher::new());
        let mut position: u64 = 0;
        let mut held: Option<Bytes> = None;
        loop {
            let (mut piece, next) = super::blocking(move || read_piece(reading, digest)).await?;
            reading = next;
            if piece.is_empty() {
                break;
            }
            let start = position;
            position += piece.len() as u64;
            if position <= offset {
                continue;
            }
            let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(0);
            piece.drain(..skip);
            if let Some(data) = held.replace(piece.into())
                && sender.send(Ok(v1::ReadBlobResponse { data })).await.is_err()
            {
                return Ok(());
            }
        }
        let got = reading.1.finish();
        if got != digest || position != size {
            return Err(ApiError::ResultDamaged { digest, got });
        }
        if let Some(data) = held {
            let _ = sender.send(Ok(v1::ReadBlobResponse { data })).await;
        }
        Ok(())
    }
}

/// The next piece of a file, hashed; empty at its end.
fn read_piece(
    (mut file, mut hasher): (File, Sha256Hasher),
    digest: Sha256Digest,
) -> Result<(Vec<u8>, (File, Sha256Hasher)), ApiError> {
    let mut piece = Vec::with_capacity(CHUNK);
    (&mut file)
        .take(CHUNK as u64)
        .read_to_end(&mut piece)
        .map_err(|error| ApiError::Internal(format!("read result blob {digest}: {error}")))?;
    hasher.update(&piece);
    Ok((piece, (file, hasher)))
}

/// Where a result keeps a blob.
fn blob_path(directory: &Path, digest: &Sha256Digest) -> PathBuf {
    directory.join("layout").join("blobs").join("sha256").join(digest.hex())
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Queued => "QUEUED",
        State::Running => "RUNNING",
        State::Succeeded => "SUCCEEDED",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
    }
}
