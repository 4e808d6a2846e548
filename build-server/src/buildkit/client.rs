//! BuildKit's control API over the daemon's private unix socket.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use proto::buildkit::containerd::services::content::v1::ReadContentRequest;
use proto::buildkit::containerd::services::content::v1::content_client::ContentClient;
use proto::buildkit::moby::buildkit::v1 as api;
use proto::buildkit::moby::buildkit::v1::control_client::ControlClient;
use provenance::digest::Sha256Digest;
use tonic::transport::{Channel, Endpoint};

use super::error::EngineError;

/// Largest message that is accepted from the daemon, in bytes (its own limit is 16 MiB).
const MAX_MESSAGE: usize = 32 << 20;
/// HTTP/2 flow control windows: one build moves gigabytes over a local socket.
const WINDOW: u32 = 8 << 20;

/// A connection to one daemon; cheap to clone.
#[derive(Clone)]
pub struct ControlChannel(Channel);

impl ControlChannel {
    /// Connects. Fails when nobody listens on `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let socket: PathBuf = socket.to_owned();
        // The address is not used; HTTP/2 wants an authority, and BuildKit does not look at it.
        let channel = Endpoint::from_static("http://buildkitd.invalid")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await?;
        Ok(Self(channel))
    }

    /// The control service.
    #[must_use]
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The plain channel, for services outside the control API (reflection).
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.0.clone()
    }

    /// Reads a blob of at most `limit` bytes from the daemon's content store and checks its digest.
    pub async fn read_blob(&self, descriptor: &api::Descriptor, limit: usize) -> Result<Bytes, EngineError> {
        let record = |problem: String| EngineError::Record { problem };
        let size =
            usize::try_from(descriptor.size).map_err(|_| record(format!("blob size {}", descriptor.size)))?;
        if size > limit {
            return Err(record(format!(
                "blob {} has {size} bytes, at most {limit} are read",
                descriptor.digest
            )));
        }
        let digest: Sha256Digest = descriptor.digest.parse().map_err(|e| record(format!("{e}")))?;
        let request = ReadContentRequest { digest: descriptor.digest.clone(), offset: 0, size: 0 };
        let failed = |status: tonic::Status| record(format!("blob {digest}: {}", status.message()));
        let mut client = ContentClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut stream = client.read(request).await.map_err(failed)?.into_inner();
        let mut bytes = BytesMut::with_capacity(size);
        while let Some(part) = stream.message().await.map_err(failed)? {
            if bytes.len() + part.data.len() > size {
                return Err(record(format!("blob {digest} is longer than its {size} bytes")));
            }
            bytes.extend_from_slice(&part.data);
        }
        let got = Sha256Digest::of(&bytes);
        if got != digest {
            return Err(record(format!("blob {digest} has digest {got}")));
        }
        Ok(bytes.freeze())
    }
}
