//! The API under test: a real server (TLS, gRPC, SQLite, context store, keys with the software TEE) in this
//! process, with a stand-in for the pipeline whose builds do what their ids say.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use build_server::config::{Operations, Trust};
use build_server::jobs::{BuildRunner, EventSink, Job};
use build_server::service::{Server, StartError, State};
use enclave_keys::process::{KeyClient, KeyProcess};
use enclave_keys::{Attester, InstanceInputs};
use hyper_util::rt::TokioIo;
use proto::v1;
use proto::v1::build_event::Event;
use provenance::binding::Nonce;
use provenance::commitment::commit_to_secrets;
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, REQUEST_PAYLOAD_TYPE, pre_authentication_encoding};
use provenance::instance::Program;
use provenance::key::PublicKey;
use provenance::project::Project;
use provenance::request::{
    BuildId, Compression, Dockerfile, Output, REQUEST_TYPE, Request, SecretsCommitment, Source,
};
use provenance::timestamp::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sealwright_tests::software_tee::{ScriptedTee, SoftwareTee};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// A caller: key, self-signed certificate and project.
pub struct Caller {
    pub key: rcgen::KeyPair,
    pub public: PublicKey,
    pub certificate: CertificateDer<'static>,
    pub project: Project,
}

impl Caller {
    pub fn new() -> Self {
        Self::with_algorithm(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn with_algorithm(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["caller".to_owned()])
            .expect("a name")
            .self_signed(&key)
            .expect("a certificate");
        use rcgen::PublicKeyData as _;
        let public = PublicKey::from_spki_der(&key.subject_public_key_info()).expect("a key of ours");
        let project = Project::new("acme/app", [public.spki_sha256()]).expect("a project");
        Self { key, public, certificate: certificate.der().clone(), project }
    }

    pub fn parent(&self) -> String {
        format!("projects/{}", self.project.id())
    }

    pub fn build(&self, id: &str) -> String {
        format!("{}/builds/{id}", self.parent())
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        use rcgen::SigningKey as _;
        self.key.sign(message).expect("signs")
    }

    /// The DSSE JSON of a request.
    pub fn seal(&self, request: &Request) -> Vec<u8> {
        self.seal_document(&request.document())
    }

    pub fn seal_document(&self, document: &[u8]) -> Vec<u8> {
        Envelope {
            payload_type: REQUEST_PAYLOAD_TYPE.to_owned(),
            payload: document.to_vec(),
            signature: self.sign(&pre_authentication_encoding(REQUEST_PAYLOAD_TYPE, document)),
        }
        .to_json()
    }

    /// A request that needs no context.
    pub fn request(&self, id: &str) -> Request {
        Request {
            add_hosts: Vec::new(),
            annotations: BTreeMap::new(),
            attestation_request: None,
            build_args: BTreeMap::new(),
            build_id: BuildId::try_from(id.to_owned()).expect("a build id"),
            context: Source::Git { url: "https://git.example/app.git".to_owned() },
            dockerfile: Dockerfile { path: "Dockerfile".to_owned(), root: None },
            issued_at: now(0),
            labels: BTreeMap::new(),
            named_contexts: BTreeMap::new(),
            no_cache: false,
            nonce: Nonce([7; 32]),
            output: Output::Image {
                compression: Compression::Gzip,
                names: vec!["registry.example/app:1".to_owned()],
                push: false,
                rewrite_timestamp: false,
            },
            platforms: Vec::new(),
            project: self.project.clone(),
            pull: false,
            secrets: None,
            ssh: Vec::new(),
            target: None,
            document_type: REQUEST_TYPE.to_owned(),
        }
    }

    pub fn create(&self, request: &Request) -> v1::CreateBuildRequest {
        v1::CreateBuildRequest {
            parent: self.parent(),
            build_id: request.build_id.to_string(),
            signed_request: self.seal(request).into(),
            secrets: None,
            registry_credentials: Vec::new(),
        }
    }

    /// A request with one secret, and its values.
    pub fn create_with_secret(&self, id: &str, value: &[u8]) -> v1::CreateBuildRequest {
        let r = [9; 32];
        let commitment = commit_to_secrets(&r, &BTreeMap::from([("token".to_owned(), value.to_vec())]));
        let mut request = self.request(id);
        request.secrets = Some(SecretsCommitment { commitment, ids: vec!["token".to_owned()] });
        let mut create = self.create(&request);
        let secret = v1::Secret { id: "token".to_owned(), value: value.to_vec().into() };
        create.secrets = Some(v1::Secrets { commitment_key: r.to_vec().into(), secrets: vec![secret] });
        create
    }

    pub fn client_config(&self) -> rustls::ClientConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        client_builder(&[&rustls::version::TLS13])
            .with_client_auth_cert(vec![self.certificate.clone()], key)
            .expect("key and certificate fit")
    }
}

/// The time now, or some seconds from now.
pub fn now(plus: i64) -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_unix(i64::try_from(since.as_secs()).expect("a time") + plus).expect("in range")
}

pub fn client_builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
}

/// Appraisal of the server is another part's test.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// The stand-in for the pipeline. What a build does is the first part of its id:
/// `ok` succeeds, `fail` fails, `panic` panics, `wait` runs until it is cancelled, `logs` writes many lines,
/// `gate` runs until [`Runner::open`].
pub struct Runner {
    pub started: Arc<AtomicUsize>,
    gate: CancellationToken,
}

impl Runner {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { started: Arc::default(), gate: CancellationToken::new() })
    }

    pub fn open(&self) {
        self.gate.cancel();
    }
}

/// How many log events a `logs` build writes.
pub const LOG_EVENTS: u64 = 2000;

#[tonic::async_trait]
impl BuildRunner for Runner {
    async fn run(
        &self,
        job: Job,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<v1::Result, v1::Failure> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let failure = |reason: &str| v1::Failure { reason: reason.to_owned(), ..Default::default() };
        let id = job.name.build.to_string();
        match id.split('-').next().unwrap_or_default() {
            "fail" => return Err(failure("STEP_FAILED")),
            "panic" => panic!("a bug in the pipeline"),
            "wait" => {
                cancel.cancelled().await;
                return Err(failure("ENGINE_CANCELLED"));
            }
            "gate" => tokio::select! {
                () = self.gate.cancelled() => {}
                () = cancel.cancelled() => return Err(failure("ENGINE_CANCELLED")),
            },
            "logs" => {
                for line in 0..LOG_EVENTS {
                    let data = format!("line {line}\n").into_bytes().into();
                    let log = v1::VertexLog { vertex: "v".to_owned(), stream: 1, data };
                    events.send(Event::VertexLog(log)).await;
                }
            }
            _ => {}
        }
        events.milestone("signed", "by a stand-in").await;
        let blob = result_blob(&id);
        let digest = Sha256Digest::of(&blob);
        let directory = job.result_directory.join("layout/blobs/sha256");
        std::fs::create_dir_all(&directory).expect("the result directory is writable");
        std::fs::write(directory.join(digest.hex()), &blob).expect("the result directory is writable");
        let descriptor = v1::Descriptor {
            media_type: "application/octet-stream".to_owned(),
            digest: digest.to_string(),
            size: blob.len() as u64,
            ..Default::default()
        };
        Ok(v1::Result { image: Some(descriptor.clone()), blobs: vec![descriptor], ..Default::default() })
    }
}

/// The blob that a successful build leaves: 2.5 MiB, different for each id.
pub fn result_blob(id: &str) -> Vec<u8> {
    id.bytes().cycle().take(5 << 19).collect()
}

/// A server with its own runtime, so that it can be killed.
pub struct TestServer {
    pub address: std::net::SocketAddr,
    pub state: PathBuf,
    pub runner: Arc<Runner>,
    pub recovered: (usize, usize),
    keys: UnixStream,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<Result<(), build_server::service::EndedByItself>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What a test changes in the configuration.
#[derive(Clone)]
pub struct Options {
    pub operations: String,
    pub trust: String,
    /// The device, where it is not a software TEE that always answers.
    pub tee: Option<ScriptedTee>,
}

impl Default for Options {
    fn default() -> Self {
        Self { operations: String::new(), trust: "admit_any_project = true\n".to_owned(), tee: None }
    }
}

impl TestServer {
    /// A server on `state` with the default configuration.
    pub fn start(state: &Path) -> Self {
        Self::try_start(state, &Options::default()).expect("the server starts")
    }

    pub fn with(state: &Path, operations: &str) -> Self {
        let options = Options { operations: operations.to_owned(), ..Options::default() };
        Self::try_start(state, &options).expect("the server starts")
    }

    pub fn try_start(state: &Path, options: &Options) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let runner = Runner::new();
        let (state, options, running) = (state.to_owned(), options.clone(), runner.clone());
        let directory = state.clone();
        let started = std::thread::scope(|scope| {
            let start = scope.spawn(|| runtime.block_on(start(&directory, &options, running)));
            start.join().expect("the server starts without a panic")
        });
        let (server, keys) = match started {
            Ok(started) => started,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let (address, recovered) = (server.local_addr(), server.recovered());
        let stop = CancellationToken::new();
        let running = runtime.spawn(server.run_until(stop.clone().cancelled_owned()));
        Ok(Self {
            address,
            state,
            runner,
            recovered,
            keys,
            stop,
            running: Some(running),
            runtime: Some(runtime),
        })
    }

    /// The key process ends.
    pub fn end_keys(&self) {
        self.keys.shutdown(std::net::Shutdown::Both).expect("a socket");
    }

    /// SIGTERM.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.expect("the server ends without a panic").expect("it ends because it was asked to");
        }
    }

    /// kill -9, as far as one process can do that to itself: every task is gone, nothing is written any more.
    pub async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5)))
                .await
                .expect("joins");
        }
    }

    /// A channel with the caller's certificate.
    pub async fn channel(&self, caller: &Caller) -> Channel {
        connect(self.address, caller.client_config()).await.expect("connects")
    }

    pub async fn anonymous(&self) -> Channel {
        connect(self.address, client_builder(&[&rustls::version::TLS13]).with_no_client_auth())
            .await
            .expect("connects")
    }

    pub async fn client(&self, caller: &Caller) -> Client {
        Client { channel: self.channel(caller).await, document: caller.project.document() }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The server, and the key process's end of their connection.
async fn start(
    state: &Path,
    options: &Options,
    runner: Arc<Runner>,
) -> Result<(Server, UnixStream), StartError> {
    let operations = format!(
        "listen = \"127.0.0.1:0\"\nstate_directory = \"{}\"\ndrain = \"2s\"\n{}\n[engine]\nbuildkitd = \"/b\"\nrunc = \"/r\"\n",
        state.display(),
        options.operations,
    );
    let operations = Operations::parse(&operations, "operations.toml").expect("valid operations");
    let trust = format!("builder_id = \"https://builder.example/test\"\n{}", options.trust);
    let trust = Trust::parse(&trust, "trust.toml").expect("valid trust");
    let state = State::open(&operations)?;
    let program = || Program { sha256: Sha256Digest::of(b"program"), version: "1".to_owned() };
    let inputs = InstanceInputs {
        version: "0.1.0".to_owned(),
        builder_id: trust.builder_id.clone(),
        buildkitd: program(),
        runc: program(),
        trust_configuration: trust.document(),
        build_policy_sha256: Sha256Digest::of(b"policy"),
        started_at: now(0),
        secure_execution_header: None,
    };
    let tee: Box<dyn Attester> = match &options.tee {
        Some(tee) => Box::new(tee.clone()),
        None => Box::new(SoftwareTee::shared().expect("the software TEE opens")),
    };
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let process = KeyProcess::new(tee, None);
    let end_of_keys = theirs.try_clone().expect("a descriptor");
    std::thread::spawn(move || process.answer(theirs));
    let keys_ended = CancellationToken::new();
    let ended = keys_ended.clone();
    let keys = KeyClient::connect(ours, &inputs, move || ended.cancel()).expect("the instance starts");
    Server::start(state, &operations, &trust, keys, keys_ended, runner)
        .await
        .map(|server| (server, end_of_keys))
}

pub async fn connect(
    address: std::net::SocketAddr,
    mut config: rustls::ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Endpoint::from_static("http://sealwright")
        .connect_with_connector(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("sealwright").expect("a name");
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        }))
        .await
}

/// Clients of all services that send the caller's project document.
#[derive(Clone)]
pub struct Client {
    pub channel: Channel,
    pub document: Vec<u8>,
}

impl Client {
    /// A request with the project document in its metadata.
    pub fn ask<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let document = tonic::metadata::MetadataValue::from_bytes(&self.document);
        request.metadata_mut().insert_bin("sealwright-project-bin", document);
        request
    }

    pub fn builds(&self) -> v1::build_service_client::BuildServiceClient<Channel> {
        v1::build_service_client::BuildServiceClient::new(self.channel.clone())
    }

    pub fn contexts(&self) -> v1::context_service_client::ContextServiceClient<Channel> {
        v1::context_service_client::ContextServiceClient::new(self.channel.clone())
    }

    pub fn attestation(&self) -> v1::attestation_service_client::AttestationServiceClient<Channel> {
        v1::attestation_service_client::AttestationServiceClient::new(self.channel.clone())
    }

    pub async fn create(&self, create: v1::CreateBuildRequest) -> Result<v1::Build, tonic::Status> {
        Ok(self.builds().create_build(self.ask(create)).await?.into_inner())
    }

    pub async fn state(&self, name: &str) -> v1::Build {
        let request = self.ask(v1::GetBuildRequest { name: name.to_owned() });
        self.builds().get_build(request).await.expect("the build exists").into_inner()
    }

    /// All events after a number, until the build ends.
    pub async fn watch(&self, name: &str, after: u64) -> Vec<v1::BuildEvent> {
        let request = self.ask(v1::WatchBuildRequest { name: name.to_owned(), after });
        let mut stream = self.builds().watch_build(request).await.expect("the build exists").into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.expect("the stream goes on") {
            events.push(event);
        }
        events
    }

    /// Waits for the build's end and gives it.
    pub async fn end(&self, name: &str) -> v1::Build {
        self.watch(name, 0).await;
        self.state(name).await
    }

    pub async fn cancel(&self, name: &str) -> Result<v1::Build, tonic::Status> {
        let request = self.ask(v1::CancelBuildRequest { name: name.to_owned() });
        Ok(self.builds().cancel_build(request).await?.into_inner())
    }

    pub async fn read(&self, name: &str, digest: &str, offset: u64) -> Result<Vec<u8>, tonic::Status> {
        let request = v1::ReadBlobRequest { name: name.to_owned(), digest: digest.to_owned(), offset };
        let mut stream = self.builds().read_blob(self.ask(request)).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await? {
            bytes.extend_from_slice(&message.data);
        }
        Ok(bytes)
    }

    pub async fn upload(
        &self,
        messages: Vec<v1::UploadBlobsRequest>,
    ) -> Result<v1::UploadBlobsResponse, tonic::Status> {
        let request = self.ask(tokio_stream::iter(messages));
        Ok(self.contexts().upload_blobs(request).await?.into_inner())
    }
}

/// The stable reason of a refusal.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The advice of a refusal.
pub fn advice(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_localized_message().map(|message| message.message).unwrap_or_default()
}

/// A directory that goes with the test.
pub fn state() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}
