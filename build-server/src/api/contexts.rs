//! ContextService: uploads of build contexts, each project for itself.

use bytes::Bytes;
use proto::v1;
use proto::v1::context_service_server::ContextService;
use provenance::digest::Sha256Digest;
use tonic::{Request, Response, Status, Streaming};

use super::access::{Access, Member};
use super::errors::ApiError;
use super::names;
use crate::context_store::{Chunk, Completeness, ContextStore, PinnedRoot, ProjectStore, UploadSession};

/// Most digests of one FindMissingBlobs.
const MAX_DIGESTS: usize = 50_000;
/// Most bytes of data in one message of an upload.
const MAX_DATA: usize = 3 << 20;

/// The service.
pub struct Contexts {
    /// The contexts of all projects.
    pub store: ContextStore,
    /// Who may call.
    pub access: Access,
}

impl Contexts {
    async fn parent<T>(
        &self,
        request: &Request<T>,
        parent: &str,
    ) -> Result<(Member, ProjectStore), ApiError> {
        let project =
            names::parse_project(parent).map_err(|name| ApiError::Name { field: "parent", name })?;
        let member = self.access.member(request, project, parent).await?;
        let store = self.store.project(&project);
        Ok((member, store))
    }
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Sha256Digest, ApiError> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
        ApiError::field(field, format!("a digest has {} bytes, wanted exactly 32", bytes.len()))
    })?;
    Ok(Sha256Digest::from_bytes(bytes))
}

#[tonic::async_trait]
impl ContextService for Contexts {
    async fn get_context(
        &self,
        request: Request<v1::GetContextRequest>,
    ) -> Result<Response<v1::Context>, Status> {
        let name = request.get_ref().name.clone();
        let (project, root) =
            names::parse_context(&name).map_err(|name| ApiError::Name { field: "name", name })?;
        self.access.member(&request, project, &name).await?;
        let store = self.store.project(&project);
        let completeness = super::blocking(move || Ok(store.completeness(&PinnedRoot::Tree(root))?)).await?;
        Ok(Response::new(v1::Context { name, complete: completeness == Completeness::Complete }))
    }

    async fn find_missing_blobs(
        &self,
        request: Request<v1::FindMissingBlobsRequest>,
    ) -> Result<Response<v1::FindMissingBlobsResponse>, Status> {
        let (_, store) = self.parent(&request, &request.get_ref().parent).await?;
        let digests = request.into_inner().digests;
        if digests.len() > MAX_DIGESTS {
            let problem = format!("has {} digests, at most {MAX_DIGESTS} are allowed", digests.len());
            return Err(ApiError::field("digests", problem).into());
        }
        let digests = digests.iter().map(|bytes| digest("digests", bytes)).collect::<Result<Vec<_>, _>>()?;
        let missing = super::blocking(move || Ok(store.missing(&digests)?)).await?;
        let missing = missing.iter().map(|digest| Bytes::copy_from_slice(digest.as_bytes())).collect();
        Ok(Response::new(v1::FindMissingBlobsResponse { missing }))
    }

    async fn upload_blobs(
        &self,
        mut request: Request<Streaming<v1::UploadBlobsRequest>>,
    ) -> Result<Response<v1::UploadBlobsResponse>, Status> {
        let Some(first) = request.get_mut().message().await? else {
            return Err(ApiError::field("parent", "the stream ended before its first message").into());
        };
        let (_, store) = self.parent(&request, &first.parent).await?;
        let mut session = store.upload_session();
        let mut summary = v1::UploadBlobsResponse::default();
        let mut next = Some(first);
        let mut stream = request.into_inner();
        while let Some(message) = next {
            let store = store.clone();
            let written = tokio::task::spawn_blocking(move || {
                let written = write(&store, &mut session, &message);
                (session, written)
            });
            // The next message is received while this one is written.
            let received = stream.message().await;
            let written = written.await.map_err(|e| ApiError::Internal(e.to_string()))?;
            session = written.0;
            let (stored, bytes) = written.1?;
            summary.blobs_stored += stored;
            summary.bytes_received += bytes;
            next = received?;
            if next.as_ref().is_some_and(|message| !message.parent.is_empty()) {
                return Err(ApiError::field("parent", "belongs into the first message only").into());
            }
        }
        Ok(Response::new(summary))
    }

    async fn get_upload(
        &self,
        request: Request<v1::GetUploadRequest>,
    ) -> Result<Response<v1::Upload>, Status> {
        let (_, store) = self.parent(&request, &request.get_ref().parent).await?;
        let digest = digest("digest", &request.get_ref().digest)?;
        let (committed_size, complete) = super::blocking(move || Ok(store.upload_state(&digest)?)).await?;
        Ok(Response::new(v1::Upload { committed_size, complete }))
    }
}

/// Writes one message; gives blobs stored and bytes received.
fn write(
    store: &ProjectStore,
    session: &mut UploadSession,
    message: &v1::UploadBlobsRequest,
) -> Result<(u64, u64), ApiError> {
    let small: usize = message.blobs.iter().map(Bytes::len).sum();
    if small > MAX_DATA {
        return Err(ApiError::field("blobs", format!("hold {small} bytes, at most {MAX_DATA} are allowed")));
    }
    let mut stored = if message.blobs.is_empty() { 0 } else { store.put_small(&message.blobs)? };
    let mut bytes = small;
    if let Some(chunk) = &message.chunk {
        if chunk.data.len() > MAX_DATA {
            let problem = format!("holds {} bytes, at most {MAX_DATA} are allowed", chunk.data.len());
            return Err(ApiError::field("chunk.data", problem));
        }
        let digest = digest("chunk.digest", &chunk.digest)?;
        let complete = session.add(Chunk {
            digest,
            size: chunk.size,
            offset: chunk.offset,
            data: chunk.data.clone(),
        })?;
        stored += u64::from(complete);
        bytes += chunk.data.len();
    }
    Ok((stored, bytes as u64))
}
