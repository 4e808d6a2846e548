//! Attested TLS from the client's side, against servers that are not what they seem: each ends in its one error, and
//! nothing but a nonce has reached them. That the shipped server resumes nothing and refuses TLS 1.2 is in
//! `api_connection.rs`. NOT HARDWARE.

mod api_support;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use client::channel::{ChannelError, UnappraisedChannel};
use client::key::CallerKey;
use client::session::{Connector, Session, SessionError, Watcher};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::v1;
use proto::v1::attestation_service_client::AttestationServiceClient;
use proto::v1::attestation_service_server::{AttestationService, AttestationServiceServer};
use provenance::binding::{LeafBody, Nonce, SESSION_EXPORTER_LABEL};
use provenance::digest::Sha256Digest;
use provenance::key::KeyAlgorithm;
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;
use verifier::evidence::AppraisalError;
use verifier::session::SessionError as Unfit;
use verifier::snp::SnpRefusal;
use verifier::{Reason, SessionResult};
use world::World;

const GET_EVIDENCE: &str = "/sealwright.v1.AttestationService/GetEvidence";

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TLS key with its certificate.
struct TlsKey {
    certificate: CertificateDer<'static>,
    private: Vec<u8>,
    spki: Sha256Digest,
}

impl TlsKey {
    fn new() -> Self {
        use rcgen::PublicKeyData as _;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["sealwright".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let spki = Sha256Digest::of(&key.subject_public_key_info());
        Self { certificate, private: key.serialize_der(), spki }
    }

    /// A server that offers all it can: tickets, resumption, early data.
    fn server_config(&self) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::try_from(self.private.clone()).expect("a key");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], private)
            .expect("key and certificate fit");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.max_early_data_size = 1 << 14;
        config.send_tls13_tickets = 4;
        config
    }
}

/// What a guest knows when it is asked for Evidence.
#[derive(Clone, Copy)]
struct Asked {
    tls_spki: Sha256Digest,
    exporter: [u8; 32],
    nonce: Nonce,
}

/// What a machine answers.
type Answer = dyn Fn(Asked) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync;

/// Evidence of a guest whose leaf names what it was asked with.
fn honest(world: &World, asked: Asked) -> Vec<u8> {
    evidence(world, asked, |_| ())
}

fn evidence(
    world: &World,
    asked: Asked,
    alter: impl FnOnce(&mut sealwright_tests::software_tee::ReportFields),
) -> Vec<u8> {
    let Asked { tls_spki, exporter, nonce } = asked;
    let session = LeafBody::Session { tls_spki_sha256: tls_spki, tls_exporter: exporter, nonce };
    world.make_of(world.statement(), |leaf| leaf.body = session, alter).bundle.to_json()
}

/// An address at which now this and now that machine answers.
struct Address {
    address: SocketAddr,
    machine: Arc<Mutex<Arc<Machine>>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    listener: JoinHandle<()>,
}

struct Machine {
    tls: TlsKey,
    config: Arc<rustls::ServerConfig>,
    answer: Box<Answer>,
    /// Paths of all calls that reached it.
    calls: Mutex<Vec<String>>,
    handshakes: Mutex<Vec<(Option<HandshakeKind>, bool)>>,
}

impl Machine {
    fn new(tls: TlsKey, answer: impl Fn(Asked) -> Vec<u8> + Send + Sync + 'static) -> Arc<Self> {
        Self::asking(tls, move |asked| {
            let evidence = answer(asked);
            Box::pin(async move { evidence })
        })
    }

    fn asking(
        tls: TlsKey,
        answer: impl Fn(Asked) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let config = Arc::new(tls.server_config());
        let answer = Box::new(answer);
        Arc::new(Self { tls, config, answer, calls: Mutex::default(), handshakes: Mutex::default() })
    }

    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        let Ok(tls) = TlsAcceptor::from(self.config.clone()).accept(tcp).await else { return };
        let mut stream = Shared(Arc::new(Mutex::new(tls)));
        {
            let mut tls = locked(&stream.0);
            let session = tls.get_mut().1;
            let early = session.early_data().is_some();
            locked(&self.handshakes).push((session.handshake_kind(), early));
        }
        let service = Evidence { machine: self.clone(), stream: stream.clone() };
        let routes = tonic::service::Routes::new(AttestationServiceServer::new(service)).prepare();
        let machine = self.clone();
        let recorded = routes.map_request(move |request: http::Request<hyper::body::Incoming>| {
            locked(&machine.calls).push(request.uri().path().to_owned());
            request.map(tonic::body::Body::new)
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(&mut stream), TowerToHyperService::new(recorded))
            .await;
    }

    fn calls(&self) -> Vec<String> {
        locked(&self.calls).clone()
    }
}

impl Address {
    async fn of(machine: &Arc<Machine>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let machine = Arc::new(Mutex::new(machine.clone()));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (current, all) = (machine.clone(), connections.clone());
        let listener = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let machine = locked(&current).clone();
                locked(&all).push(tokio::spawn(machine.serve(tcp)));
            }
        });
        Self { address, machine, connections, listener }
    }

    /// From now on another machine answers here, and every connection is cut.
    fn lead_to(&self, machine: &Arc<Machine>) {
        *locked(&self.machine) = machine.clone();
        for connection in locked(&self.connections).drain(..) {
            connection.abort();
        }
    }

    fn connector(&self, world: &World) -> Connector {
        let key = CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256).expect("a key");
        Connector {
            endpoint: self.address.to_string().parse().expect("an endpoint"),
            key: Arc::new(key),
            project: world.request.project.clone(),
            policy: Arc::new(world.policy().parse()),
            host_keys: None,
        }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The service of one connection.
struct Evidence {
    machine: Arc<Machine>,
    stream: Shared,
}

#[tonic::async_trait]
impl AttestationService for Evidence {
    async fn get_evidence(
        &self,
        request: tonic::Request<v1::GetEvidenceRequest>,
    ) -> Result<tonic::Response<v1::GetEvidenceResponse>, tonic::Status> {
        let nonce = Nonce(request.into_inner().nonce.as_ref().try_into().expect("32 bytes"));
        let exporter = {
            let tls = locked(&self.stream.0);
            let session = tls.get_ref().1;
            session.export_keying_material([0; 32], SESSION_EXPORTER_LABEL, Some(&nonce.0)).expect("exports")
        };
        let evidence =
            (self.machine.answer)(Asked { tls_spki: self.machine.tls.spki, exporter, nonce }).await;
        Ok(tonic::Response::new(v1::GetEvidenceResponse { evidence: evidence.into() }))
    }

    async fn get_instance(
        &self,
        _: tonic::Request<v1::GetInstanceRequest>,
    ) -> Result<tonic::Response<v1::Instance>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for here"))
    }
}

/// A TLS stream that gives its exporter while HTTP/2 runs over it.
#[derive(Clone)]
struct Shared(Arc<Mutex<TlsStream<TcpStream>>>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *locked(&self.0)).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_shutdown(cx)
    }
}

/// Why the client refused, after it had asked for Evidence and nothing else.
async fn refused(world: &World, machine: &Arc<Machine>) -> Reason {
    let address = Address::of(machine).await;
    let error = address.connector(world).attest().await.map(|_| ()).expect_err("not the guest");
    assert_eq!(machine.calls(), [GET_EVIDENCE]);
    match error {
        ChannelError::Rejected { rejection, .. } => rejection.reason().clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_itself_is_accepted_and_named() {
    let world = Arc::new(World::new());
    let guest = world.clone();
    let machine = Machine::new(TlsKey::new(), move |asked| honest(&guest, asked));
    let address = Address::of(&machine).await;
    let channel = address.connector(&world).attest().await.expect("the guest");
    let accepted: &SessionResult = channel.accepted();
    assert!(
        !accepted.is_hardware() && accepted.summary().starts_with("NOT HARDWARE"),
        "{}",
        accepted.summary()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_stolen_the_tls_key_is_told_by_the_exporter() {
    let world = Arc::new(World::new());
    let key = TlsKey::new();
    let stolen =
        TlsKey { certificate: key.certificate.clone(), private: key.private.clone(), spki: key.spki };
    let inner = world.clone();
    let guest = Machine::new(key, move |asked| honest(&inner, asked));
    let behind = Address::of(&guest).await;
    // The relay asks the guest over a connection of its own, with the client's nonce.
    let address = behind.address;
    let relay = Machine::asking(stolen, move |asked| {
        Box::pin(async move {
            let config = api_support::client_builder(&[&rustls::version::TLS13]).with_no_client_auth();
            let channel = api_support::connect(address, config).await.expect("the guest answers");
            let nonce = asked.nonce.0.to_vec().into();
            let asked = v1::GetEvidenceRequest { nonce, ..Default::default() };
            let answer = AttestationServiceClient::new(channel).get_evidence(asked).await.expect("Evidence");
            answer.into_inner().evidence.to_vec()
        })
    });
    let reason = refused(&world, &relay).await;
    assert!(matches!(reason, Reason::Session(Unfit::Exporter { .. })), "{reason}");
    assert_eq!(guest.calls(), [GET_EVIDENCE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_a_key_of_its_own_is_told_by_the_key() {
    let world = Arc::new(World::new());
    let (guest, spki) = (world.clone(), TlsKey::new().spki);
    let own = TlsKey::new();
    let wanted = own.spki;
    let relay = Machine::new(own, move |asked| honest(&guest, Asked { tls_spki: spki, ..asked }));
    let reason = refused(&world, &relay).await;
    assert_eq!(reason, Reason::Session(Unfit::TlsKey { got: spki, wanted }));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_an_earlier_connection_to_the_same_guest_is_told_by_the_nonce() {
    let world = Arc::new(World::new());
    let (guest, kept) = (world.clone(), Mutex::new(None::<Vec<u8>>));
    // The second time what was said the first time.
    let machine = Machine::new(TlsKey::new(), move |asked| {
        locked(&kept).get_or_insert_with(|| honest(&guest, asked)).clone()
    });
    let address = Address::of(&machine).await;
    let connector = address.connector(&world);
    connector.attest().await.expect("the guest");
    match connector.attest().await.map(|_| ()).expect_err("old Evidence") {
        ChannelError::Rejected { rejection, .. } => {
            assert!(matches!(rejection.reason(), Reason::Session(Unfit::Nonce { .. })), "{rejection}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(machine.calls(), [GET_EVIDENCE, GET_EVIDENCE]);
}

struct Cuts(usize);

impl Watcher for Cuts {
    fn event(&mut self, _: &v1::BuildEvent) {}

    fn cut(&mut self, _: &SessionError) {
        self.0 += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_to_another_machine_ends_before_anything_is_sent() {
    let world = Arc::new(World::new());
    let genuine = || {
        let guest = world.clone();
        Machine::new(TlsKey::new(), move |asked| honest(&guest, asked))
    };
    let (other_world, spki) = (world.clone(), TlsKey::new().spki);
    // Another guest on the same kind of machine, and a machine with no guest that passes on somebody else's Evidence.
    let other_guest = Machine::new(TlsKey::new(), move |asked| {
        evidence(&other_world, asked, |report| report.measurement[0] ^= 1)
    });
    let passes_on = world.clone();
    let no_guest =
        Machine::new(TlsKey::new(), move |asked| honest(&passes_on, Asked { tls_spki: spki, ..asked }));
    for (other, is_guest) in [(other_guest, true), (no_guest, false)] {
        let first = genuine();
        let address = Address::of(&first).await;
        let mut session = Session::open(address.connector(&world)).await.expect("the guest");
        address.lead_to(&other);
        let mut cuts = Cuts(0);
        let error = session.watch("projects/p/builds/b", 0, &mut cuts).await.expect_err("another machine");
        assert_eq!(cuts.0, 1, "the connection was cut once: {error:?}");
        let SessionError::Channel(ChannelError::Rejected { rejection, .. }) = &error else {
            panic!("{error}")
        };
        match rejection.reason() {
            Reason::Appraisal(AppraisalError::Snp(SnpRefusal::Measurement { .. })) => assert!(is_guest),
            Reason::Session(Unfit::TlsKey { .. }) => assert!(!is_guest),
            reason => panic!("{reason}"),
        }
        assert_eq!(other.calls(), [GET_EVIDENCE], "neither the build's name nor the project was sent");
        // Asking once more does not help.
        assert!(session.reconnect().await.is_err());
        // The same guest program on another machine with a key of its own is attested anew and goes on.
        let moved = genuine();
        address.lead_to(&moved);
        session.reconnect().await.expect("an accepted guest");
        assert_eq!(moved.calls(), [GET_EVIDENCE]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offered_resumption_and_early_data_are_not_taken() {
    let world = Arc::new(World::new());
    let guest = world.clone();
    let machine = Machine::new(TlsKey::new(), move |asked| honest(&guest, asked));
    let address = Address::of(&machine).await;
    let connector = address.connector(&world);
    for _ in 0..3 {
        // Evidence was read, so the tickets that came before it were too.
        connector.attest().await.expect("the guest");
    }
    assert_eq!(*locked(&machine.handshakes), [(Some(HandshakeKind::Full), false); 3]);

    // A client that takes what it is offered resumes.
    let config = api_support::client_builder(&[&rustls::version::TLS13]).with_no_client_auth();
    for _ in 0..2 {
        let channel = api_support::connect(address.address, config.clone()).await.expect("connects");
        let asked = v1::GetEvidenceRequest { nonce: vec![1; 32].into(), ..Default::default() };
        AttestationServiceClient::new(channel).get_evidence(asked).await.expect("Evidence");
    }
    let last = locked(&machine.handshakes).last().copied();
    assert_eq!(last, Some((Some(HandshakeKind::Resumed), false)), "the offer was real");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_no_tls_1_3_gets_no_connection() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = TlsKey::new();
    std::fs::write(path("key.der"), &key.private).expect("written");
    std::fs::write(path("certificate.der"), &key.certificate).expect("written");
    // rustls is built with TLS 1.3 only here; openssl speaks 1.2. Port 0 is told on stdout.
    let mut server = tokio::process::Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-tls1_2",
            "-alpn",
            "h2",
            "-keyform",
            "DER",
            "-certform",
            "DER",
        ])
        .args(["-key", &path("key.der"), "-cert", &path("certificate.der")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl runs; install it");
    let mut lines = tokio::io::BufReader::new(server.stdout.take().expect("a pipe"));
    let port = loop {
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.expect("a line");
        assert!(!line.is_empty(), "openssl ended");
        if let Some(address) = line.trim().strip_prefix("ACCEPT ") {
            break address.rsplit(':').next().expect("a port").to_owned();
        }
    };
    let endpoint = format!("127.0.0.1:{port}").parse().expect("an endpoint");
    let key = CallerKey::generate(KeyAlgorithm::Ed25519).expect("a key");
    match UnappraisedChannel::connect(&endpoint, &key).await.map(|_| ()).expect_err("TLS 1.2") {
        ChannelError::Tls { problem, .. } => assert_eq!(problem, "received fatal alert: ProtocolVersion"),
        other => panic!("{other}"),
    }
}
