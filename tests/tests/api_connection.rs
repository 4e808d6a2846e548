//! Connections: TLS 1.3 only, nothing resumed, callers by key, Evidence of this very connection, other tools.

mod api_support;

use std::sync::Arc;
use std::time::Duration;

use api_support::{Caller, TestServer, client_builder, connect, reason, state};
use proto::v1;
use proto::v1::attestation_service_client::AttestationServiceClient;
use provenance::binding::{Leaf, LeafBody, Nonce, SESSION_EXPORTER_LABEL};
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::instance::InstanceDocument;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sealwright_tests::software_tee::{ScriptedTee, SoftwareTee};
use sealwright_tests::tools::tool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;

async fn handshake(
    server: &TestServer,
    config: rustls::ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("sealwright").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn session_leaf(evidence: &[u8]) -> (Leaf, EvidenceBundle) {
    let bundle = EvidenceBundle::parse(evidence).expect("a collection");
    (Leaf::parse(&bundle.leaf).expect("a leaf"), bundle)
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_names_this_connection_its_certificate_and_the_nonce() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let mut config = client_builder(&[&rustls::version::TLS13]).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = handshake(&server, config).await.expect("TLS 1.3");
    let nonce = Nonce([42; 32]);
    let session = &tls.get_ref().1;
    let exporter =
        session.export_keying_material([0; 32], SESSION_EXPORTER_LABEL, Some(&nonce.0)).expect("exports");
    let certificate = session.peer_certificates().expect("a certificate")[0].clone();
    let parsed = rustls::server::ParsedCertificate::try_from(&certificate).expect("parses");
    let spki = parsed.subject_public_key_info().to_vec();
    // The gRPC client speaks on this very connection.
    let mut once = Some(hyper_util::rt::TokioIo::new(tls));
    let channel = tonic::transport::Endpoint::from_static("http://sealwright")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = once.take();
            async move { stream.ok_or_else(|| std::io::Error::other("connected once already")) }
        }))
        .await
        .expect("connects");
    let mut client = AttestationServiceClient::new(channel);
    let answer = client
        .get_evidence(v1::GetEvidenceRequest { nonce: nonce.0.to_vec().into(), ..Default::default() })
        .await
        .expect("Evidence");
    let (leaf, bundle) = session_leaf(&answer.into_inner().evidence);
    let wanted =
        LeafBody::Session { tls_spki_sha256: Sha256Digest::of(&spki), tls_exporter: exporter, nonce };
    assert_eq!(leaf.body, wanted);
    let instance = client
        .get_instance(v1::GetInstanceRequest { name: "instance".to_owned(), ..Default::default() })
        .await
        .expect("an instance");
    assert_eq!(instance.into_inner().document, bundle.instance);
    assert_eq!(leaf.instance_sha256, Sha256Digest::of(&bundle.instance));
    let document = InstanceDocument::parse(&bundle.instance).expect("canonical");
    assert_eq!(document.trust_configuration["admit_any_project"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_get_different_evidence_for_the_same_nonce() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let mut exporters = Vec::new();
    for _ in 0..2 {
        let mut client = AttestationServiceClient::new(server.anonymous().await);
        let answer = client
            .get_evidence(v1::GetEvidenceRequest { nonce: vec![1; 32].into(), ..Default::default() })
            .await
            .expect("Evidence");
        let (leaf, _) = session_leaf(&answer.into_inner().evidence);
        let LeafBody::Session { tls_exporter, .. } = leaf.body else { panic!("not a session leaf") };
        exporters.push(tls_exporter);
    }
    assert_ne!(exporters[0], exporters[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_request_is_refused_where_the_hardware_signs_and_where_it_is_none() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let mut client = AttestationServiceClient::new(server.anonymous().await);
    let words = [0x100, 0x40 + 7, 0, 0, 7, 0x40, 64, 0, 64, 0, 0, 0, 0, 0];
    let whole = [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), b"request"].concat();
    for (request, wanted) in [
        (whole.clone(), (Code::FailedPrecondition, "ATTESTATION_REQUEST_UNEXPECTED")),
        (whole[1..].to_vec(), (Code::InvalidArgument, "INVALID_FIELD")),
        ([whole, vec![0; 32 << 10]].concat(), (Code::InvalidArgument, "INVALID_FIELD")),
    ] {
        let refused = client
            .get_evidence(v1::GetEvidenceRequest {
                nonce: vec![0; 32].into(),
                attestation_request: request.into(),
            })
            .await
            .expect_err("refused");
        assert_eq!((refused.code(), reason(&refused).as_str()), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_another_length_and_too_many_requests_are_refused() {
    use tonic_types::StatusExt as _;
    let directory = state();
    let server = TestServer::with(directory.path(), "[connections]\nevidence_burst = 2\n");
    let mut client = AttestationServiceClient::new(server.anonymous().await);
    for length in [0, 31, 33] {
        let refused = client
            .get_evidence(v1::GetEvidenceRequest { nonce: vec![0; length].into(), ..Default::default() })
            .await
            .expect_err("length");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
    // Two at once; then at most one for each second that passed, and these twenty take far less.
    let mut refused = None;
    for _ in 0..20 {
        match client
            .get_evidence(v1::GetEvidenceRequest { nonce: vec![0; 32].into(), ..Default::default() })
            .await
        {
            Ok(_) => {}
            Err(status) => refused = Some(status),
        }
    }
    let refused = refused.expect("twenty are too many");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "EVIDENCE_RATE"));
    assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_certificate_only_attestation_answers() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client =
        api_support::Client { channel: server.anonymous().await, document: caller.project.document() };
    let refusals = [
        client.create(caller.create(&caller.request("ok-1"))).await.map(drop),
        client.cancel(&caller.build("ok-1")).await.map(drop),
        client
            .upload(vec![v1::UploadBlobsRequest { parent: caller.parent(), ..Default::default() }])
            .await
            .map(drop),
        client
            .attestation()
            .get_instance(client.ask(v1::GetInstanceRequest {
                name: format!("{}/instance", caller.parent()),
                ..Default::default()
            }))
            .await
            .map(drop),
    ];
    for refused in refusals {
        let refused = refused.expect_err("anonymous");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unauthenticated, "CLIENT_CERTIFICATE_REQUIRED")
        );
    }
    client
        .attestation()
        .get_instance(v1::GetInstanceRequest { name: "instance".to_owned(), ..Default::default() })
        .await
        .expect("public");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ed25519_caller_builds_too_and_gets_its_projects_key() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::with_algorithm(&rcgen::PKCS_ED25519);
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("ok-1"))).await.expect("created");
    let request = client
        .ask(v1::GetInstanceRequest { name: format!("{}/instance", caller.parent()), ..Default::default() });
    let instance = client.attestation().get_instance(request).await.expect("a member").into_inner();
    let (leaf, _) = session_leaf(&instance.key_evidence);
    let LeafBody::Key { scope_sha256, spki_sha256, .. } = leaf.body else { panic!("not a key leaf") };
    assert_eq!(scope_sha256, caller.project.id().0);
    assert_eq!(spki_sha256, Sha256Digest::of(&instance.signing_key));

    let spki = |certificate: &[u8]| {
        use der::{Decode as _, Encode as _};
        let certificate = x509_cert::Certificate::from_der(certificate).expect("a certificate");
        Sha256Digest::of(&certificate.tbs_certificate().subject_public_key_info().to_der().expect("encoded"))
    };
    assert_eq!(spki(&instance.certificate), spki_sha256);
    let (leaf, _) = session_leaf(&instance.authority_evidence);
    let LeafBody::Key { spki_sha256: authority, .. } = leaf.body else { panic!("not a key leaf") };
    assert_eq!(spki(&instance.authority_certificate), authority);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_refused() {
    // rustls is built with TLS 1.3 only here; openssl offers 1.2 and tells what it got.
    let directory = state();
    let server = TestServer::start(directory.path());
    let said = openssl(&server, &["-tls1_2"]).await;
    assert!(said.contains("alert protocol version"), "{said}");
    let said = openssl(&server, &["-tls1_3"]).await;
    assert!(said.contains("TLSv1.3"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_offered_for_resumption() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let mut config = client_builder(&[&rustls::version::TLS13]).with_no_client_auth();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut tls = handshake(&server, rustls::ClientConfig::clone(&config)).await.expect("TLS 1.3");
        // The HTTP/2 preface and an empty SETTINGS frame, so that the server answers and a ticket would have come.
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sends");
        let mut answer = [0; 9];
        tls.read_exact(&mut answer).await.expect("SETTINGS");
        let session = tls.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
}

async fn openssl(server: &TestServer, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &server.address.to_string(), "-alpn", "h2"])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("openssl runs; install it");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_key_that_the_client_does_not_hold_is_refused() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let (caller, thief) = (Caller::new(), Caller::new());
    // rustls itself would notice that key and certificate do not fit: hand it a resolver that does not look.
    #[derive(Debug)]
    struct Stolen(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Stolen {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let key = PrivateKeyDer::try_from(thief.key.serialize_der()).expect("a key");
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a signing key");
    let stolen = rustls::sign::CertifiedKey::new(vec![caller.certificate.clone()], key);
    let config = client_builder(&[&rustls::version::TLS13])
        .with_client_cert_resolver(Arc::new(Stolen(Arc::new(stolen))));
    assert_eq!(alert(&server, config).await, rustls::AlertDescription::DecryptError);
}

/// The alert that ends the connection. In TLS 1.3 the client has finished its handshake before the server looks at
/// its certificate, so the alert may also come with the first read.
async fn alert(server: &TestServer, config: rustls::ClientConfig) -> rustls::AlertDescription {
    let error = match handshake(server, config).await {
        Ok(mut tls) => tls.read(&mut [0; 1]).await.expect_err("the server must not answer"),
        Err(error) => error,
    };
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_other_kinds_are_refused() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let certificate =
        rcgen::CertificateParams::new(vec!["caller".to_owned()]).expect("a name").self_signed(&key);
    let certificate: CertificateDer<'static> = certificate.expect("a certificate").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = client_builder(&[&rustls::version::TLS13])
        .with_client_auth_cert(vec![certificate], key)
        .expect("fits");
    let mut client = AttestationServiceClient::new(connect(server.address, config).await.expect("connects"));
    // A P-384 key cannot sign under an offered scheme, so that rustls may send no certificate: then it is
    // anonymous, never a caller.
    let name = format!("projects/{}/instance", Sha256Digest::of(b"x").hex());
    let refused = client
        .get_instance(v1::GetInstanceRequest { name, ..Default::default() })
        .await
        .expect_err("no caller");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "CLIENT_CERTIFICATE_REQUIRED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_handshake_is_dropped_and_others_are_served() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[connections]\nhandshake = 1\nlimit = 2\n");
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.address).await.expect("connects"));
    }
    // Both places are taken; the first gives way, the second ends when its handshake times out.
    let channel = tokio::time::timeout(Duration::from_secs(30), server.anonymous()).await.expect("served");
    let mut client = AttestationServiceClient::new(channel);
    client
        .get_instance(v1::GetInstanceRequest { name: "instance".to_owned(), ..Default::default() })
        .await
        .expect("served");
    for mut stream in silent {
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}

/// Whether the connection still answers.
async fn answers(channel: &tonic::transport::Channel) -> bool {
    let request = v1::GetInstanceRequest { name: "instance".to_owned(), ..Default::default() };
    AttestationServiceClient::new(channel.clone()).get_instance(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_hold_every_connection_do_not_keep_members_out() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[connections]\nlimit = 2\n");
    let caller = Caller::new();
    let config = client_builder(&[&rustls::version::TLS13]).with_no_client_auth();
    let mut silent = Vec::new();
    for _ in 0..2 {
        // Not a byte after the handshake, so that the HTTP/2 server has nothing to measure either.
        silent.push(handshake(&server, config.clone()).await.expect("a connection"));
    }
    let member = tokio::time::timeout(Duration::from_secs(10), server.client(&caller)).await.expect("served");
    let list = v1::ListBuildsRequest { parent: caller.parent(), ..Default::default() };
    member.builds().list_builds(member.ask(list.clone())).await.expect("listed");
    let mut byte = [0; 1];
    // The first gave way: what its socket still holds is the end of the connection.
    let ended = async { while matches!(silent[0].read(&mut byte).await, Ok(1..)) {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the oldest stranger gives way");
    // Newer strangers take each other's places, never the member's.
    for _ in 0..3 {
        let channel =
            tokio::time::timeout(Duration::from_secs(10), server.anonymous()).await.expect("served");
        assert!(answers(&channel).await);
    }
    member.builds().list_builds(member.ask(list)).await.expect("the member's connection is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_with_a_client_certificate_lists_describes_calls_and_prints_error_details() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("certificate.pem"));
    std::fs::write(&key, caller.key.serialize_pem()).expect("writable");
    std::fs::write(&certificate, pem(&caller.certificate)).expect("writable");
    let grpcurl = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(tool("grpcurl"));
        command.args(["-insecure", "-cert"]).arg(&certificate).arg("-key").arg(&key);
        let output = command.args(arguments).output().await.expect("grpcurl runs");
        (
            output.status.success(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    let address = server.address.to_string();
    let (listed, services) = grpcurl(&[&address, "list"]).await;
    assert!(listed, "{services}");
    for service in [
        "sealwright.v1.AttestationService",
        "sealwright.v1.BuildService",
        "sealwright.v1.ContextService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.contains(service), "{services}");
    }
    let (described, text) = grpcurl(&[&address, "describe", "sealwright.v1.BuildService.CreateBuild"]).await;
    assert!(described && text.contains("CreateBuildRequest"), "{text}");
    let (healthy, text) = grpcurl(&[
        "-d",
        r#"{"service":"sealwright.v1.BuildService"}"#,
        &address,
        "grpc.health.v1.Health/Check",
    ])
    .await;
    assert!(healthy && text.contains("SERVING"), "{text}");

    // Its own project, whose document the first call shows.
    use base64::Engine as _;
    let document = base64::engine::general_purpose::STANDARD_NO_PAD.encode(caller.project.document());
    let header = format!("sealwright-project-bin: {document}");
    let list = format!(r#"{{"parent":"{}"}}"#, caller.parent());
    let (found, text) =
        grpcurl(&["-H", &header, "-d", &list, &address, "sealwright.v1.BuildService/ListBuilds"]).await;
    assert!(found && text.trim() == "{}", "{text}");
    let get = format!(r#"{{"name":"{}"}}"#, caller.build("none"));
    let (found, text) = grpcurl(&["-d", &get, &address, "sealwright.v1.BuildService/GetBuild"]).await;
    assert!(!found, "{text}");
    for part in
        ["NotFound", "google.rpc.ErrorInfo", "NOT_FOUND", "sealwright.dev", "google.rpc.LocalizedMessage"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_header_list_is_refused_and_a_large_project_is_not() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let members = (0..255_u8).map(|n| Sha256Digest::of(&[n])).chain([caller.public.spki_sha256()]);
    let project = provenance::project::Project::new("many", members).expect("a project");
    let client = api_support::Client { channel: server.channel(&caller).await, document: project.document() };
    let list = |project: &provenance::project::Project| v1::ListBuildsRequest {
        parent: format!("projects/{}", project.id()),
        ..Default::default()
    };
    client.builds().list_builds(client.ask(list(&project))).await.expect("a member of a large project");
    let other = api_support::Client { document: b"{}".to_vec(), ..client.clone() };
    let refused =
        other.builds().list_builds(other.ask(list(&project))).await.expect_err("no project document");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_PROJECT"));
    let other = api_support::Client { document: caller.project.document(), ..client.clone() };
    let refused =
        other.builds().list_builds(other.ask(list(&project))).await.expect_err("another project's document");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_PROJECT"));
    let huge = api_support::Client { document: vec![b'x'; 200 << 10], ..client };
    let refused = huge.builds().list_builds(huge.ask(list(&project))).await.expect_err("too large");
    assert!(refused.message().contains("HTTP status code 431"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_the_key_process_has_ended_health_says_that_nothing_is_served() {
    let directory = state();
    let server = TestServer::start(directory.path());
    stops_serving(&server, async || server.end_keys()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_the_device_has_lost_its_key_health_says_that_nothing_is_served() {
    let directory = state();
    let tee = ScriptedTee::new(SoftwareTee::shared().expect("a software TEE"));
    let options = api_support::Options { tee: Some(tee.clone()), ..Default::default() };
    let server = TestServer::try_start(directory.path(), &options).expect("the server starts");
    stops_serving(&server, async || {
        let by = enclave_keys::WipedBy::Firmware { code: 0x16 };
        tee.script(move |_| {
            let path = "/dev/sev-guest".into();
            Err(enclave_keys::AttesterError::KeyWiped { path, by })
        });
        let client = server.client(&Caller::new()).await;
        let request = v1::GetEvidenceRequest { nonce: vec![7; 32].into(), ..Default::default() };
        client.attestation().get_evidence(request).await.expect_err("no Evidence");
    })
    .await;
}

/// Health of the build service goes from serving to not serving by what happens.
async fn stops_serving(server: &TestServer, happens: impl AsyncFnOnce()) {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut health = HealthClient::new(server.channel(&Caller::new()).await);
    let request = HealthCheckRequest { service: "sealwright.v1.BuildService".to_owned() };
    let mut watch = health.watch(request).await.expect("watched").into_inner();
    let first = watch.message().await.expect("an answer").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    happens().await;
    let second = watch.message().await.expect("an answer").expect("a status");
    assert_eq!(second.status(), ServingStatus::NotServing);
}
