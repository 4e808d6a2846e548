//! Upload of trees: one round trip when the store has them, else only the blobs that it lacks. What is sent is
//! checked again on the way (small blobs by digest, large files by their stat data), so a file that changed since
//! the scan is named here and not by the server.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::v1;
use proto::v1::context_service_client::ContextServiceClient;
use provenance::digest::{Sha256Digest, Sha256Hasher};
use provenance::project::ProjectId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Blob, BlobSource, ContextError, Tree};
use crate::channel::AttestedService;

/// Most bytes of one upload message (the server accepts 3 MiB).
const MAX_MESSAGE: usize = 3 << 20;
/// Bytes of one chunk of a large blob: what the server holds several of at a time.
const CHUNK: usize = 512 << 10;
/// Blobs above this size are sent in chunks and can be resumed.
const LARGE: u64 = 1 << 20;
/// Room for tag, length and digest of each blob of a batch.
const PER_BLOB: usize = 16;
/// Most digests of one question.
const MAX_DIGESTS: usize = 50_000;
/// Most blobs of one batch.
const MAX_BATCH: usize = 10_000;

/// What an upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uploaded {
    /// Blobs that were sent.
    pub blobs: u64,
    /// Bytes that were sent.
    pub bytes: u64,
}

type Client = ContextServiceClient<AttestedService>;

/// Stores all blobs of `trees` and `blobs` in the project's store. `sent` counts bytes while it runs.
///
/// Cancel safe: what the server has received is kept, and a later upload goes on from there.
pub async fn upload(
    mut client: Client,
    project: ProjectId,
    trees: &[&Tree],
    loose: &HashMap<Sha256Digest, Blob>,
    sent: Arc<AtomicU64>,
) -> Result<Uploaded, ContextError> {
    let mut wanted = loose.clone();
    wanted.extend(unknown(&client, project, trees).await?);
    let missing = missing(&client, project, wanted).await?;
    if missing.is_empty() {
        return Ok(Uploaded::default());
    }
    let parent = format!("projects/{project}");
    let (mut small, large): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, blob)| blob.size <= LARGE);
    // Files of one directory lie near each other on disk; digests order says nothing, paths do.
    small.sort_by(|a, b| a.1.order().cmp(b.1.order()));
    let mut resumed = Vec::with_capacity(large.len());
    for (digest, blob) in large {
        let request =
            v1::GetUploadRequest { parent: parent.clone(), digest: digest.as_bytes().to_vec().into() };
        let state = client.get_upload(request).await.map(tonic::Response::into_inner);
        let offset = match state {
            Ok(state) if state.complete => continue,
            Ok(state) if state.committed_size < blob.size => state.committed_size,
            Ok(_) => 0,
            Err(status) if status.code() == tonic::Code::NotFound => 0,
            Err(status) => return Err(status.into()),
        };
        resumed.push((digest, blob, offset));
    }
    let (sender, receiver) = mpsc::channel(4);
    let producer = tokio::task::spawn_blocking(move || {
        Producer { sender, parent: Some(parent), sent, result: Uploaded::default() }.run(&small, &resumed)
    });
    let answer = client.upload_blobs(ReceiverStream::new(receiver)).await;
    let produced = producer.await.expect("the producer does not panic");
    // A file that cannot be read explains why the stream ended early, so it comes first.
    match (produced, answer) {
        (Err(Stop::Context(error)), _) => Err(error),
        (_, Err(status)) => Err(status.into()),
        (Err(Stop::StreamEnded), Ok(_)) => {
            Err(tonic::Status::internal("the server ended the upload before it was complete").into())
        }
        (Ok(uploaded), Ok(_)) => Ok(uploaded),
    }
}

/// Blobs of trees that the store may lack: none of a tree that it has whole, and of a tree that has changed not those
/// that were in it when the store had it whole.
async fn unknown(
    client: &Client,
    project: ProjectId,
    trees: &[&Tree],
) -> Result<HashMap<Sha256Digest, Blob>, ContextError> {
    let roots: HashSet<Sha256Digest> = trees
        .iter()
        .flat_map(|tree| std::iter::once(tree.root).chain(tree.previous.iter().map(|previous| previous.root)))
        .collect();
    let questions = roots.into_iter().map(|root| {
        let mut client = client.clone();
        async move {
            let name = format!("projects/{project}/contexts/{}", root.hex());
            match client.get_context(v1::GetContextRequest { name }).await {
                Ok(answer) => Ok(answer.into_inner().complete.then_some(root)),
                Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
                Err(status) => Err(status),
            }
        }
    });
    let complete: HashSet<Sha256Digest> =
        futures_util::future::try_join_all(questions).await?.into_iter().flatten().collect();
    let mut unknown = HashMap::new();
    for tree in trees.iter().filter(|tree| !complete.contains(&tree.root)) {
        let previous = tree.previous.as_ref().filter(|previous| complete.contains(&previous.root));
        let stored = |digest: &Sha256Digest| previous.is_some_and(|previous| previous.files.contains(digest));
        let blobs = tree.blobs.iter().filter(|(digest, _)| !stored(digest));
        unknown.extend(blobs.map(|(digest, blob)| (*digest, blob.clone())));
    }
    Ok(unknown)
}

/// Blobs that the store lacks.
async fn missing(
    client: &Client,
    project: ProjectId,
    mut wanted: HashMap<Sha256Digest, Blob>,
) -> Result<Vec<(Sha256Digest, Blob)>, ContextError> {
    let digests: Vec<Sha256Digest> = wanted.keys().copied().collect();
    let mut missing = Vec::new();
    for batch in digests.chunks(MAX_DIGESTS) {
        let request = v1::FindMissingBlobsRequest {
            parent: format!("projects/{project}"),
            digests: batch.iter().map(|digest| Bytes::copy_from_slice(digest.as_bytes())).collect(),
        };
        let answer = client.clone().find_missing_blobs(request).await?.into_inner();
        for bytes in answer.missing {
            let digest = <[u8; 32]>::try_from(bytes.as_ref()).ok().map(Sha256Digest::from_bytes);
            // An answer about something that was not asked would make us send what we did not mean to.
            let blob = digest.and_then(|digest| Some((digest, wanted.remove(&digest)?)));
            missing.push(
                blob.ok_or_else(|| {
                    tonic::Status::internal("the server misses a blob that was not asked for")
                })?,
            );
        }
    }
    Ok(missing)
}

enum Stop {
    Context(ContextError),
    StreamEnded,
}

impl From<ContextError> for Stop {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

struct Producer {
    sender: mpsc::Sender<v1::UploadBlobsRequest>,
    parent: Option<String>,
    sent: Arc<AtomicU64>,
    result: Uploaded,
}

impl Producer {
    fn run(
        mut self,
        small: &[(Sha256Digest, Blob)],
        large: &[(Sha256Digest, Blob, u64)],
    ) -> Result<Uploaded, Stop> {
        let mut batch = Vec::new();
        let mut batch_size = 0;
        for (digest, blob) in small {
            let data = blob.read_whole(digest)?;
            if batch_size + data.len() + PER_BLOB > MAX_MESSAGE || batch.len() >= MAX_BATCH {
                self.send(std::mem::take(&mut batch), None)?;
                batch_size = 0;
            }
            batch_size += data.len() + PER_BLOB;
            batch.push(data);
        }
        if !batch.is_empty() {
            self.send(batch, None)?;
        }
        for (digest, blob, offset) in large {
            self.chunks(digest, blob, *offset)?;
        }
        Ok(self.result)
    }

    fn chunks(&mut self, digest: &Sha256Digest, blob: &Blob, start: u64) -> Result<(), Stop> {
        let (mut file, shown) = blob.open()?;
        let read = |source| ContextError::Read { path: shown.clone(), source };
        let changed = || ContextError::Changed { path: shown.clone() };
        // The server hashes what it gets. A file of the context changes its stat data when it is written to, so hashing
        // a gigabyte once more to name the file is not worth it.
        let mut hasher = match &blob.source {
            BlobSource::File(_) => None,
            BlobSource::Memory(_) | BlobSource::Path(_) => Some(Sha256Hasher::new()),
        };
        let mut offset = 0_u64;
        while offset < blob.size {
            let wanted = usize::try_from((blob.size - offset).min(CHUNK as u64)).expect("fits");
            let mut data = Vec::with_capacity(wanted);
            file.by_ref().take(wanted as u64).read_to_end(&mut data).map_err(read)?;
            if data.len() < wanted {
                return Err(changed().into());
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&data);
            }
            let end = offset + data.len() as u64;
            if end == blob.size {
                if let BlobSource::File(source) = &blob.source {
                    // Fails when it is not the file that was hashed any more.
                    source.open()?;
                }
                if hasher.take().is_some_and(|hasher| hasher.finish() != *digest) {
                    return Err(changed().into());
                }
            }
            if end > start {
                let skip = usize::try_from(start.saturating_sub(offset)).expect("below the chunk's length");
                let data = Bytes::from(data).slice(skip..);
                let chunk = v1::Chunk {
                    digest: Bytes::copy_from_slice(digest.as_bytes()),
                    size: blob.size,
                    offset: offset + skip as u64,
                    data,
                };
                self.send(Vec::new(), Some(chunk))?;
            }
            offset = end;
        }
        self.result.blobs += 1;
        Ok(())
    }

    fn send(&mut self, blobs: Vec<Bytes>, chunk: Option<v1::Chunk>) -> Result<(), Stop> {
        let bytes: u64 =
            blobs.iter().chain(chunk.as_ref().map(|c| &c.data)).map(|data| data.len() as u64).sum();
        self.result.blobs += blobs.len() as u64;
        self.result.bytes += bytes;
        let parent = self.parent.take().unwrap_or_default();
        self.sender
            .blocking_send(v1::UploadBlobsRequest { parent, blobs, chunk })
            .map_err(|_| Stop::StreamEnded)?;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Blob {
    /// Bytes to sort by, so that neighbours on disk are read together.
    fn order(&self) -> &[u8] {
        match &self.source {
            BlobSource::File(file) => &file.path,
            BlobSource::Memory(_) | BlobSource::Path(_) => &[],
        }
    }

    fn open(&self) -> Result<(Box<dyn Read>, std::path::PathBuf), ContextError> {
        match &self.source {
            BlobSource::Memory(bytes) => {
                let bytes: Arc<Vec<u8>> = bytes.clone();
                Ok((Box::new(std::io::Cursor::new(SharedBytes(bytes))), "(directory)".into()))
            }
            BlobSource::File(file) => Ok((Box::new(file.open()?), file.shown())),
            BlobSource::Path(path) => {
                let file = File::open(path.as_ref())
                    .map_err(|source| ContextError::Read { path: path.to_path_buf(), source })?;
                Ok((Box::new(file), path.to_path_buf()))
            }
        }
    }

    fn read_whole(&self, digest: &Sha256Digest) -> Result<Bytes, ContextError> {
        if let BlobSource::Memory(bytes) = &self.source {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        let (mut file, shown) = self.open()?;
        let mut data = Vec::with_capacity(usize::try_from(self.size).expect("small") + 1);
        file.by_ref()
            .take(self.size + 1)
            .read_to_end(&mut data)
            .map_err(|source| ContextError::Read { path: shown.clone(), source })?;
        if Sha256Digest::of(&data) != *digest {
            return Err(ContextError::Changed { path: shown });
        }
        Ok(data.into())
    }
}

struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
