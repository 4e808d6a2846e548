//! Blobs: is it there, can it be mounted, else one streamed upload.
//!
//! The file is hashed while it is sent; when its digest is wrong the last chunk is never sent, so the registry
//! cannot have a whole blob of ours that is damaged. A broken upload starts again from its first byte: partial
//! uploads are kept by few registries, and what matters is bounded here.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use provenance::digest::{Sha256Digest, Sha256Hasher};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::io::AsyncRead as _;
use tokio::io::ReadBuf;

use super::client::{Attempts, Call, Failure, Registry, header, network_failure};
use super::error::PushError;
use crate::publish::oci::Descriptor;

/// Bytes read from the file at a time.
const CHUNK: usize = 256 << 10;

/// How a blob came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was there.
    Present,
    /// Another repository of the registry had it.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Registry {
    /// Makes sure that a blob is in a repository. `from` is a repository of this registry that has it.
    pub(super) async fn ensure_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        file: &Path,
        from: Option<&str>,
    ) -> Result<Arrival, PushError> {
        let mut attempts = Attempts::new(&self.settings.config);
        loop {
            match self.ensure_blob_once(repository, blob, file, from).await {
                Ok(arrival) => return Ok(arrival),
                Err(failure) => attempts.pause_after(failure).await?,
            }
        }
    }

    async fn ensure_blob_once(
        &self,
        repository: &str,
        blob: &Descriptor,
        file: &Path,
        from: Option<&str>,
    ) -> Result<Arrival, Failure> {
        let digest = &blob.digest;
        let head = self
            .attempt(&Call {
                method: Method::HEAD,
                url: self.url(repository, &format!("blobs/{digest}")),
                repository,
                action: format!("the question for blob {digest}"),
                accept: None,
                condition: None,
                content: None,
                wanted: &[StatusCode::OK, StatusCode::NOT_FOUND],
            })
            .await?;
        if head.status() == StatusCode::OK {
            return Ok(Arrival::Present);
        }
        let action = format!("the upload of blob {digest}");
        let mut url = self.url(repository, "blobs/uploads/");
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        }
        let begin = Call {
            method: Method::POST,
            url,
            repository,
            action,
            accept: None,
            condition: None,
            content: None,
            wanted: &[StatusCode::ACCEPTED, StatusCode::CREATED],
        };
        let begun = self.attempt(&begin).await?;
        if begun.status() == StatusCode::CREATED {
            return Ok(Arrival::Mounted);
        }
        let mut location = self.location(&begin.action, &begin.url, begun.headers())?;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        self.upload(repository, blob, file, &begin.action, location).await?;
        Ok(Arrival::Uploaded)
    }

    /// `PUT` of the whole blob to its upload session.
    async fn upload(
        &self,
        repository: &str,
        blob: &Descriptor,
        file: &Path,
        action: &str,
        location: Url,
    ) -> Result<(), Failure> {
        let mut renewed = false;
        loop {
            let grant = self.grant_for(&location, repository).await;
            let opened = tokio::fs::File::open(file)
                .await
                .map_err(|source| Failure::last(PushError::LocalRead { digest: blob.digest, source }))?;
            let watch = Arc::new(Watch::default());
            let stream = Checked::new(opened, blob, Arc::clone(&watch));
            let mut request = self
                .settings
                .http
                .put(location.clone())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(Body::wrap_stream(stream));
            if let Some(grant) = &grant {
                request = request.header(AUTHORIZATION, grant.header.clone());
            }
            let answer = self.sent(request, action, &watch).await?;
            if answer.status() == StatusCode::CREATED {
                return self.same_digest(action, &blob.digest, &answer);
            }
            let own = answer.url().origin() == self.url(repository, "").origin();
            if answer.status() == StatusCode::UNAUTHORIZED && own && !renewed {
                renewed = true;
                self.renew(repository, action, grant.as_ref(), answer.headers()).await?;
                continue;
            }
            return Err(self.refusal(repository, action, answer).await);
        }
    }

    /// Sends, and gives up when nothing moves for as long as the configuration says.
    async fn sent(
        &self,
        request: reqwest::RequestBuilder,
        action: &str,
        watch: &Watch,
    ) -> Result<Response, Failure> {
        let stall = self.settings.config.stall;
        let mut sending = std::pin::pin!(request.send());
        let mut seen = watch.moved.load(Ordering::Relaxed);
        let result = loop {
            match tokio::time::timeout(stall, &mut sending).await {
                Ok(result) => break result,
                Err(_) => {
                    let moved = watch.moved.load(Ordering::Relaxed);
                    if moved == seen {
                        return Err(Failure::again(PushError::Stalled {
                            registry: self.host.clone(),
                            action: action.to_owned(),
                            seconds: stall.as_secs(),
                            attempts: 1,
                        }));
                    }
                    seen = moved;
                }
            }
        };
        if let Some(error) = watch.fault.lock().ok().and_then(|mut fault| fault.take()) {
            return Err(Failure::last(error));
        }
        result.map_err(|error| network_failure(&self.host, action, error))
    }

    /// Checks the registry's word for what it stored, where it gives one.
    pub(super) fn same_digest(
        &self,
        action: &str,
        expected: &Sha256Digest,
        answer: &Response,
    ) -> Result<(), Failure> {
        match header(answer.headers(), "docker-content-digest") {
            Some(got) if got != expected.to_string() => Err(Failure::last(PushError::OtherDigest {
                registry: self.host.clone(),
                action: action.to_owned(),
                expected: *expected,
                got: got.chars().take(100).collect(),
            })),
            _ => Ok(()),
        }
    }
}

/// What the sending side of an upload tells the waiting side.
#[derive(Default)]
struct Watch {
    moved: AtomicU64,
    /// A fault of our own storage, which ends the upload.
    fault: Mutex<Option<PushError>>,
}

/// A file as a stream of chunks that ends in an error when its bytes do not have the blob's size and digest.
struct Checked {
    file: tokio::fs::File,
    buffer: Box<[u8]>,
    hasher: Option<Sha256Hasher>,
    left: u64,
    digest: Sha256Digest,
    watch: Arc<Watch>,
}

impl Checked {
    fn new(mut file: tokio::fs::File, blob: &Descriptor, watch: Arc<Watch>) -> Self {
        file.set_max_buf_size(CHUNK);
        Self {
            file,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            hasher: Some(Sha256Hasher::new()),
            left: blob.size,
            digest: blob.digest,
            watch,
        }
    }

    fn fail(&mut self, error: PushError) -> Poll<Option<Result<Bytes, std::io::Error>>> {
        self.hasher = None;
        let message = error.to_string();
        if let Ok(mut fault) = self.watch.fault.lock() {
            *fault = Some(error);
        }
        Poll::Ready(Some(Err(std::io::Error::other(message))))
    }
}

impl Stream for Checked {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.hasher.is_none() || this.left == 0 {
            return Poll::Ready(None);
        }
        let mut buffer = ReadBuf::new(&mut this.buffer);
        match Pin::new(&mut this.file).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(source)) => {
                let digest = this.digest;
                return this.fail(PushError::LocalRead { digest, source });
            }
            Poll::Ready(Ok(())) => {}
        }
        let chunk = Bytes::copy_from_slice(buffer.filled());
        let (expected, length) = (this.digest, chunk.len() as u64);
        if length == 0 || length > this.left {
            return this.fail(PushError::LocalBlob { expected, got: "another length".to_owned() });
        }
        this.left -= length;
        if let Some(hasher) = &mut this.hasher {
            hasher.update(&chunk);
        }
        if this.left == 0
            && let Some(got) = this.hasher.take().map(Sha256Hasher::finish)
            && got != expected
        {
            return this.fail(PushError::LocalBlob { expected, got: format!("digest {got}") });
        }
        this.watch.moved.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(chunk)))
    }
}
