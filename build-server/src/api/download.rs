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

/// Opens a blob of a build's result and streams it from `offset` on. `directory` is the result's.
pub(super) fn open(
    record: &BuildRecord,
    directory: &Path,
    digest: Sha256Digest,
    offset: u64,
) -> Result<ReceiverStream<Result<v1::ReadBlobResponse, Status>>, ApiError> {
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
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(file, digest, size, offset, &sender) {
            let _ = sender.blocking_send(Err(error.into()));
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Where a result keeps a blob.
fn blob_path(directory: &Path, digest: &Sha256Digest) -> PathBuf {
    directory.join("layout").join("blobs").join("sha256").join(digest.hex())
}

/// Reads the whole file, sends what lies at or behind `offset`, and holds back the last piece until the digest
/// has been compared: who got all bytes got the right ones.
fn send(
    mut file: File,
    digest: Sha256Digest,
    size: u64,
    offset: u64,
    sender: &Chunks,
) -> Result<(), ApiError> {
    let mut hasher = Sha256Hasher::new();
    let mut position: u64 = 0;
    let mut held: Option<Bytes> = None;
    loop {
        let mut piece = Vec::with_capacity(CHUNK);
        (&mut file)
            .take(CHUNK as u64)
            .read_to_end(&mut piece)
            .map_err(|error| ApiError::Internal(format!("read result blob {digest}: {error}")))?;
        if piece.is_empty() {
            break;
        }
        hasher.update(&piece);
        let start = position;
        position += piece.len() as u64;
        if position <= offset {
            continue;
        }
        let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(0);
        piece.drain(..skip);
        if let Some(data) = held.replace(piece.into())
            && sender.blocking_send(Ok(v1::ReadBlobResponse { data })).is_err()
        {
            return Ok(());
        }
    }
    let got = hasher.finish();
    if got != digest || position != size {
        return Err(ApiError::ResultDamaged { digest, got });
    }
    if let Some(data) = held {
        let _ = sender.blocking_send(Ok(v1::ReadBlobResponse { data }));
    }
    Ok(())
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
