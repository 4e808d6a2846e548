//! containerd's content service for images that the caller uploaded as OCI layouts.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use proto::buildkit::containerd::services::content::v1 as content;
use provenance::digest::Sha256Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::blobs::ContextBlobs;

/// Bytes of one message.
const CHUNK: usize = 1 << 20;
/// Metadata key that names the store.
const STORE_KEY: &str = "buildkit-attachable-store-id";

pub(super) struct ContentService {
    pub(super) store: Arc<dyn ContextBlobs>,
    /// Store names that the request's named contexts use.
    pub(super) names: BTreeSet<String>,
}

impl ContentService {
    /// The digest asked for, when the store named in the metadata is one of this build's.
    fn asked<T>(&self, request: &Request<T>, digest: &str) -> Result<Sha256Digest, Status> {
        let name = request.metadata().get(STORE_KEY).and_then(|name| name.to_str().ok()).unwrap_or_default();
        let name = name.strip_prefix("oci:").unwrap_or(name);
        if !self.names.contains(name) {
            return Err(Status::not_found(format!("unknown store {name}")));
        }
        digest.parse().map_err(|e| Status::invalid_argument(format!("{e}")))
    }
}

#[tonic::async_trait]
impl content::content_server::Content for ContentService {
    type ReadStream = ReceiverStream<Result<content::ReadContentResponse, Status>>;

    async fn info(
        &self,
        request: Request<content::InfoRequest>,
    ) -> Result<Response<content::InfoResponse>, Status> {
        let digest = self.asked(&request, &request.get_ref().digest)?;
        let store = self.store.clone();
        let size = tokio::task::spawn_blocking(move || store.blob_size(&digest))
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::unavailable(e.to_string()))?
            .ok_or_else(|| Status::not_found(format!("content {digest}: not found")))?;
        let size = i64::try_from(size).map_err(|_| Status::out_of_range("size"))?;
        let info = content::Info { digest: digest.to_string(), size, ..Default::default() };
        Ok(Response::new(content::InfoResponse { info: Some(info) }))
    }

    async fn read(
        &self,
        request: Request<content::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let digest = self.asked(&request, &request.get_ref().digest)?;
        let range = request.into_inner();
        let skip = u64::try_from(range.offset).unwrap_or(0);
        let limit = u64::try_from(range.size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX);
        let store = self.store.clone();
        let (out, parts) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let failed = |problem: String| Status::data_loss(format!("content {digest}: {problem}"));
            let result = store.open_blob(&digest).map_err(|e| failed(e.to_string())).and_then(|mut blob| {
                // Read from the start also for a range: the digest can only be checked over all bytes.
                std::io::copy(&mut blob.by_ref().take(skip), &mut std::io::sink())
                    .map_err(|e| failed(e.to_string()))?;
                let (mut offset, mut left) = (skip, limit);
                loop {
                    let mut buffer = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)).max(1)];
                    let count = blob.read(&mut buffer).map_err(|e| failed(e.to_string()))?;
                    if count == 0 || left == 0 {
                        return Ok(());
                    }
                    buffer.truncate(count);
                    let at = i64::try_from(offset).map_err(|_| failed("offset".to_owned()))?;
                    let part = content::ReadContentResponse { offset: at, data: Bytes::from(buffer) };
                    if out.blocking_send(Ok(part)).is_err() {
                        return Ok(());
                    }
                    offset += count as u64;
                    left -= count as u64;
                }
            });
            if let Err(status) = result {
                let _ = out.blocking_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(parts)))
    }
}
