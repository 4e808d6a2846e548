//! The session: a tunnel in a control call, on which we are the gRPC server that BuildKit asks for trees,
//! logins, secrets, agents, decisions and blobs, and to which it sends the result.

use bytes::BytesMut;
use futures_util::StreamExt as _;
use proto::buildkit::containerd::services::content::v1::content_server::ContentServer;
use proto::buildkit::moby::buildkit::secrets::v1::secrets_server::SecretsServer;
use proto::buildkit::moby::buildkit::v1::BytesMessage;
use proto::buildkit::moby::buildkit::v1::sourcepolicy::policysession::policy_verifier_server::PolicyVerifierServer;
use proto::buildkit::moby::filesync::v1::auth_server::AuthServer;
use proto::buildkit::moby::filesync::v1::file_send_server::FileSendServer;
use proto::buildkit::moby::filesync::v1::file_sync_server::FileSyncServer;
use proto::buildkit::moby::sshforward::v1::ssh_server::SshServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Server;
use tonic::{Request, Status};

use super::auth::{AuthService, SecretsService};
use super::client::ControlChannel;
use super::content::ContentService;
use super::export::FileSendService;
use super::filesync::FileSyncService;
use super::source_policy::PolicyService;
use super::ssh::SshService;

/// Bytes of the tunnel in memory, per direction.
const PIPE: usize = 1 << 20;
/// Bytes of one tunnel message.
const MESSAGE: usize = 128 << 10;
/// HTTP/2 windows inside the tunnel.
const WINDOW: u32 = 8 << 20;
/// Largest message that is accepted from BuildKit.
const MAX_MESSAGE: usize = 16 << 20;
/// Pattern lists travel in request headers, so these are larger than usual.
const MAX_HEADERS: u32 = 16 << 20;

/// The methods that we serve, told to BuildKit when the session opens.
const METHODS: &[&str] = &[
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy",
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Read",
];

/// What the session serves.
pub(super) struct Services {
    pub(super) file_sync: FileSyncService,
    pub(super) file_send: FileSendService,
    pub(super) auth: AuthService,
    pub(super) secrets: SecretsService,
    pub(super) ssh: SshService,
    pub(super) policy: PolicyService,
    pub(super) content: ContentService,
}

/// An open session; ends when dropped.
pub(super) struct Session {
    id: String,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl Session {
    /// Opens a session. `shared_key` tells BuildKit which earlier transfer of a tree it may update in place.
    pub(super) async fn open(
        channel: &ControlChannel,
        shared_key: &str,
        services: Services,
    ) -> Result<Self, Status> {
        let id = random_hex::<16>();
        let (near, far) = tokio::io::duplex(PIPE);
        let (mut from_server, mut to_server) = tokio::io::split(near);
        let (outgoing, messages) = mpsc::channel::<BytesMessage>(16);

        let serve = tokio::spawn(async move {
            let incoming = futures_util::stream::once(async { Ok::<_, std::io::Error>(far) });
            // Without an end of the stream of connections the server would stop after the first.
            let incoming = incoming.chain(futures_util::stream::pending());
            if let Err(error) = router(services).serve_with_incoming(incoming).await {
                tracing::debug!(%error, "session server ended");
            }
        });
        let read = tokio::spawn(async move {
            let mut buffer = BytesMut::with_capacity(MESSAGE);
            while let Ok(count) = from_server.read_buf(&mut buffer).await {
                let message = BytesMessage { data: buffer.split().freeze() };
                if count == 0 || outgoing.send(message).await.is_err() {
                    return;
                }
                buffer.reserve(MESSAGE);
            }
        });

        let mut request = Request::new(ReceiverStream::new(messages));
        let metadata = request.metadata_mut();
        let ascii =
            |text: &str| AsciiMetadataValue::try_from(text).expect("hex digits and method names are ASCII");
        metadata.insert("x-docker-expose-session-uuid", ascii(&id));
        metadata.insert("x-docker-expose-session-sharedkey", ascii(shared_key));
        for method in METHODS {
            metadata.append("x-docker-expose-session-grpc-method", ascii(method));
        }
        let mut incoming = channel.control().session(request).await?.into_inner();
        let write = tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if to_server.write_all(&message.data).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { id, _tasks: [serve, read, write].map(AbortOnDropHandle::new) })
    }

    /// The session's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

fn router(services: Services) -> tonic::transport::server::Router {
    let (_, health) = tonic_health::server::health_reporter();
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(1 << 20)
        .http2_max_header_list_size(MAX_HEADERS)
        .add_service(health)
        .add_service(FileSyncServer::new(services.file_sync).max_decoding_message_size(MAX_MESSAGE))
        .add_service(FileSendServer::new(services.file_send).max_decoding_message_size(MAX_MESSAGE))
        .add_service(AuthServer::new(services.auth))
        .add_service(SecretsServer::new(services.secrets))
        .add_service(SshServer::new(services.ssh))
        .add_service(PolicyVerifierServer::new(services.policy).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ContentServer::new(services.content))
}

/// `N` random bytes as lower-case hex.
pub(super) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the system's random generator works once it has been seeded");
    hex::encode(bytes)
}
