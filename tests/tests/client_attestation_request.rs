//! Attestation requests that the client makes: for whom, what an Ultravisor and the verifier say of them, and how they are
//! kept.

#[path = "../src/policy_text.rs"]
mod policy_text;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use client::attestation_request::{AttestationRequestError, NewAttestationRequest};
use client::session::now;
use enclave_keys::{InstanceInputs, KeyService, SecureExecutionHeader};
use policy_text::PolicyText;
use provenance::binding::Nonce;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use sealwright_tests::reference_values::SoftwareRelease;
use sealwright_tests::release_fixture::{FixtureKey, instance_inputs};
use sealwright_tests::software_tee::se::SoftwareSe;
use verifier::evidence::AuthenticationError;
use verifier::policy::{PolicyTemplate, policy_from_reference_values};
use verifier::secure_execution::request::flag;
use verifier::secure_execution::{
    HostKeyError, NoHostKey, OwnRequest, ProtectionKey, SeError, authenticate_own_request, exchange,
};
use verifier::session::SessionError;
use verifier::{
    Endorsements, Policy, ProjectCertificates, Reason, SessionGrounds, appraise_certificates,
    appraise_session_with,
};

fn machine() -> SoftwareSe {
    SoftwareSe::shared().expect("a machine")
}

fn policy_text(machine: &SoftwareSe, accepted: &Sha256Digest) -> PolicyText {
    let image = machine.ultravisor().host_key().hash();
    PolicyText::of_own_requests(&machine.documents.root, &image, accepted, "21")
}

fn policy(machine: &SoftwareSe) -> Policy {
    policy_text(machine, &machine.ultravisor().host_key().hash()).parse()
}

/// What IBM would say about the machine.
fn given(machine: &SoftwareSe) -> Endorsements {
    let documents = &machine.documents;
    let document = documents.document.clone();
    Endorsements {
        certificates: [document].into_iter().chain(documents.certificates.clone()).collect(),
        crls: documents.crls.to_vec(),
        ..Endorsements::default()
    }
}

fn refused(policy: &Policy, given: &Endorsements) -> NoHostKey {
    match NewAttestationRequest::make(policy, given, now()).map(|_| ()) {
        Err(AttestationRequestError::NoHostKey(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_machine_opens_the_request_and_its_answer_convinces_the_requester() {
    let machine = machine();
    let (policy, given) = (policy(&machine), given(&machine));
    let made = NewAttestationRequest::make(&policy, &given, now()).expect("a request");
    let other = NewAttestationRequest::make(&policy, &given, now()).expect("another");
    assert_ne!(made.request(), other.request(), "nothing of it is used twice");
    let request = made.request().parts();
    let answer = machine.ultravisor().attest(request.request(), &[7; 64]).expect("it opens");
    assert_eq!(answer.measurement.len(), request.measurement_length() as usize);
    assert_eq!(answer.additional_data.len(), request.additional_data_length() as usize);
    let own = made.own();
    assert_eq!(own.flags(), flag::NONCE | flag::IMAGE_HOST_KEY_HASH | flag::ATTESTATION_HOST_KEY_HASH);
    assert_eq!(own.host_key_hashes(), [machine.ultravisor().host_key().hash()]);
    let response = answer.exchange(request.request(), &[7; 64]);
    let judge = |own: &OwnRequest| {
        let roots = verifier::secure_execution::HostKeyAnchors::vendor()
            .dangerous_with_roots(&[machine.documents.root]);
        let documents = [machine.documents.document.clone()];
        authenticate_own_request(&response, machine.header(), own, &documents, &given, &roots, now())
    };
    assert_eq!(judge(&own).expect("authentic").claims().user_data(), [7; 64]);
    judge(&other.own()).expect_err("it convinces nobody else");
}

#[test]
fn request_and_key_are_kept_for_their_owner_alone() {
    let machine = machine();
    let made = NewAttestationRequest::make(&policy(&machine), &given(&machine), now()).expect("a request");
    let directory = tempfile::tempdir().expect("a directory");
    let (request, key) = (directory.path().join("request"), directory.path().join("key"));
    // Files of an earlier build that everybody could read.
    std::fs::write(&key, b"earlier").expect("written");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("set");
    made.save(&request, &key).expect("saved");
    for file in [&request, &key] {
        assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
    }
    let (request, key) = (std::fs::read(&request).expect("read"), std::fs::read(&key).expect("read"));
    let request = exchange::ExchangeRequest::parse(&request).expect("exchange format").request().to_vec();
    let key = ProtectionKey::new(key.try_into().expect("32 bytes"));
    assert_eq!(OwnRequest::open(&request, &key).expect("it opens").bytes(), made.own().bytes());
    let nowhere = directory.path().join("no-such-directory/file");
    let failed = made.save(&nowhere, &nowhere).expect_err("not written");
    assert!(matches!(failed, AttestationRequestError::Write { .. }), "{failed}");
}

#[test]
fn no_request_is_made_for_host_keys_that_the_policy_does_not_accept() {
    let machine = machine();
    let own = machine.ultravisor().host_key().hash();
    let (good, whole) = (policy(&machine), given(&machine));
    let without = |drop: &[u8]| Endorsements {
        certificates: whole.certificates.iter().filter(|der| *der != drop).cloned().collect(),
        ..whole.clone()
    };
    assert_eq!(refused(&good, &without(&machine.documents.document)), NoHostKey::NoDocument { got: 3 });
    let many = Endorsements { certificates: vec![machine.documents.document.clone(); 257], ..whole.clone() };
    assert_eq!(refused(&good, &many), NoHostKey::TooMany { got: 257 });
    // The chain above it, and what says that it was not revoked.
    for missing in [without(&machine.documents.certificates[0]), without(&machine.documents.certificates[2])]
    {
        let reason = refused(&good, &missing);
        assert!(matches!(reason, NoHostKey::HostKey(HostKeyError::MissingCertificate { .. })), "{reason}");
    }
    let reason = refused(&good, &Endorsements { crls: vec![], ..whole.clone() });
    assert!(matches!(reason, NoHostKey::HostKey(HostKeyError::CrlMissing { .. })), "{reason}");
    // What the policy accepts: other host keys, another root, no answers to own requests.
    let other = Sha256Digest::of(b"another host key");
    let text = policy_text(&machine, &other);
    let line = text.line_of("attestation_host_keys");
    assert_eq!(
        refused(&text.parse(), &whole),
        NoHostKey::OtherHostKeys { got: vec![own], wanted: vec![other], line }
    );
    let text = policy_text(&machine, &own).with(&machine.documents.root.to_string(), &other.to_string());
    let root = HostKeyError::UnknownRoot { got: machine.documents.root };
    assert_eq!(refused(&text.parse(), &whole), NoHostKey::HostKey(root));
    let auditor = FixtureKey::new();
    let public = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(auditor.public.spki_der())
    };
    let text = policy_text(&machine, &own)
        .with("evidence = [\"own-request\"]", "evidence = [\"attestation-result\"]")
        .with(
            "verifiers = []",
            &format!("verifiers = [{{ name = \"a\", public_key = \"{public}\", policies = [\"{other}\"] }}]"),
        );
    assert_eq!(refused(&text.parse(), &whole), NoHostKey::NotAccepted);
}

/// A key service in the machine's guest, and a policy that accepts it.
fn guest(machine: SoftwareSe) -> (KeyService, Policy) {
    let release = SoftwareRelease::se(&machine);
    let header = SecureExecutionHeader::parse(machine.header()).expect("a header");
    let inputs =
        InstanceInputs { secure_execution_header: Some(header), started_at: now(), ..instance_inputs() };
    let keys = KeyService::start(Box::new(machine), inputs, None).expect("started");
    let callers = vec![("ci".to_owned(), FixtureKey::new().public)];
    let template = PolicyTemplate { callers, ..PolicyTemplate::default() };
    let text = policy_from_reference_values(&release.values(keys.instance()), &template);
    (keys, Policy::parse(&text, "guest.toml").expect("a complete policy"))
}

fn spki(certificate: &[u8]) -> Sha256Digest {
    use der::{Decode as _, Encode as _};
    let certificate = x509_cert::Certificate::from_der(certificate).expect("a certificate");
    Sha256Digest::of(&certificate.tbs_certificate().subject_public_key_info().to_der().expect("encoded"))
}

#[test]
fn a_session_is_accepted_by_whoever_made_its_request_for_its_own_connection_only() {
    let machine = machine();
    let given = given(&machine);
    let (keys, policy) = guest(machine);
    let made = NewAttestationRequest::make(&policy, &given, now()).expect("a request");
    let stranger = NewAttestationRequest::make(&policy, &given, now()).expect("another");
    let (exporter, nonce) = ([3; 32], Nonce([4; 32]));
    let challenge = Challenge::AttestationRequest(made.request().clone());
    let evidence = keys.session_evidence(exporter, nonce, challenge).expect("Evidence");
    let judge = |own: &[OwnRequest], tls, exporter, nonce| {
        let grounds = SessionGrounds { own_requests: own, endorsements: &given };
        appraise_session_with(&policy, &evidence, grounds, tls, exporter, nonce, now())
            .map_err(|rejection| rejection.reason().clone())
    };
    let (own, tls) = ([made.own()], spki(&keys.tls_certificate()));
    let accepted = judge(&own, tls, exporter, nonce).expect("accepted");
    assert!(!accepted.is_hardware());
    assert_eq!(accepted.instance(), keys.instance());
    // Replayed to others, whatever they asked with, a relay's key, another connection, an old answer.
    let request = Sha256Digest::of(made.request().parts().request());
    let unconvincing =
        Reason::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { request }));
    for others in [vec![stranger.own()], vec![]] {
        assert_eq!(judge(&others, tls, exporter, nonce).expect_err("refused"), unconvincing);
    }
    let relay = Sha256Digest::of(b"a relay");
    for (got, wanted) in [
        (judge(&own, relay, exporter, nonce), SessionError::TlsKey { got: tls, wanted: relay }),
        (judge(&own, tls, [9; 32], nonce), SessionError::Exporter { got: exporter, wanted: [9; 32] }),
        (
            judge(&own, tls, exporter, Nonce([9; 32])),
            SessionError::Nonce { got: nonce, wanted: Nonce([9; 32]) },
        ),
    ] {
        assert_eq!(got.expect_err("refused"), Reason::Session(wanted));
    }
}

#[test]
fn certificates_of_a_project_convince_whoever_asked_for_them() {
    let machine = machine();
    let given = given(&machine);
    let (keys, policy) = guest(machine);
    let project = FixtureKey::new().project("one").id();
    let made = NewAttestationRequest::make(&policy, &given, now()).expect("a request");
    let challenge = Challenge::AttestationRequest(made.request().clone());
    let key = keys.project_key(&project, challenge).expect("a key");
    let certificates = ProjectCertificates {
        certificate: &key.certificate,
        key_evidence: &key.evidence,
        authority_certificate: &key.authority.certificate,
        authority_evidence: &key.authority.evidence,
    };
    let own = [made.own()];
    let judge = |grounds| appraise_certificates(&policy, certificates, &project, grounds, now());
    let refused = judge((&given).into()).expect_err("refused").reason().clone();
    assert!(
        matches!(
            &refused,
            Reason::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { .. }))
        ),
        "{refused:?}"
    );
    let grounds = SessionGrounds { own_requests: &own, endorsements: &given };
    assert_eq!(judge(grounds).expect("accepted").public(), &key.public);
}
