//! What the key service signs, and everything it refuses to sign.

use enclave_keys::{
    AttesterError, ImageName, KeyError, KeyRequest, KeyResponse, KeyService, MAX_AGE_AT_START, MAX_RELEASES,
    Measurement, OwnReportError, StartError,
};
use provenance::binding::{KeyRole, Leaf, LeafBody, Nonce};
use provenance::canonical::CanonicalError;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, IN_TOTO_PAYLOAD_TYPE, REQUEST_PAYLOAD_TYPE};
use provenance::evidence::{Evidence, EvidenceBundle, MAX_COLLECTION, Platform};
use provenance::key::SignatureInvalid;
use provenance::repository::UNNAMED;
use provenance::request::{InvalidRequest, MAX_REQUEST, MAX_TEXT, Request, authenticate_request};
use provenance::sigstore::{cosign_sign_statement, simple_signing_payload};
use provenance::statement::{InvalidStatement, Statement, Subject};
use provenance::timestamp::Timestamp;
use sealwright_tests::release_fixture::{self, FixtureKey, REPOSITORY, Release, instance_inputs, statement};
use sealwright_tests::software_tee::{
    DANGEROUS_SOFTWARE_MEASUREMENT, Product, ScriptedTee, SoftwareTee, Tcb,
};

fn tee() -> SoftwareTee {
    SoftwareTee::shared().expect("a software TEE")
}

fn service() -> KeyService {
    KeyService::start(Box::new(tee()), instance_inputs(), None).expect("started")
}

fn scripted() -> (ScriptedTee, KeyService) {
    let tee = ScriptedTee::new(tee());
    let keys = KeyService::start(Box::new(tee.clone()), instance_inputs(), None).expect("started");
    (tee, keys)
}

/// The bundle's leaf, after checking that its report is over it.
fn bound_leaf(bundle: &EvidenceBundle) -> Leaf {
    let leaf = Leaf::parse(&bundle.leaf).expect("a leaf");
    let wanted = bundle.proof.report_data(&leaf).expect("a proof");
    assert_eq!(bundle.evidence.report[0x50..0x90], wanted.0);
    leaf
}

fn refusal(change: impl FnOnce(&KeyService, &mut Release)) -> KeyError {
    let keys = service();
    let mut release = Release::of(&keys, "build");
    change(&keys, &mut release);
    keys.release(release.to_request()).expect_err("refused")
}

#[test]
fn a_release_carries_evidence_over_key_nonce_and_statement_and_signatures_of_that_key() {
    let keys = service();
    let release = Release::of(&keys, "build");
    let request = release.to_request();
    let key = keys.project_key(&request.project, Challenge::Nonce).expect("a key").public;
    let released = keys.release(request.clone()).expect("released");

    let bundle = EvidenceBundle::parse(&released.evidence).expect("a bundle");
    let leaf = bound_leaf(&bundle);
    assert_eq!(leaf.instance_sha256, Sha256Digest::of(keys.instance_document()));
    let wanted = LeafBody::Build {
        spki_sha256: key.spki_sha256(),
        nonce: request.nonce,
        statement_sha256: Sha256Digest::of(&request.statement),
    };
    assert_eq!(leaf.body, wanted);
    assert_eq!(bundle.instance, keys.instance_document());
    assert_eq!(bundle.request, Some(request.signed_request));
    assert_eq!(bundle.signing_key, Some(key.spki_der().to_vec()));
    assert_eq!(bundle.caller_key, Some(request.caller_key));

    assert_eq!(released.provenance.authenticate(IN_TOTO_PAYLOAD_TYPE, &key), Ok(&request.statement[..]));
    let [image] = &released.images[..] else { panic!("one image") };
    assert_eq!((image.repository.as_str(), image.digest), (REPOSITORY, release.image));
    let (payload, signature) = &image.simple_signing;
    assert_eq!(*payload, simple_signing_payload(REPOSITORY, &release.image));
    assert_eq!(key.check_signature(payload, signature), Ok(()));
    let sign = cosign_sign_statement(&release.image);
    assert_eq!(image.cosign_sign.authenticate(IN_TOTO_PAYLOAD_TYPE, &key), Ok(&sign[..]));
}

#[test]
fn a_result_that_is_no_image_gets_provenance_only() {
    let keys = service();
    let mut request = Release::of(&keys, "build").to_request();
    request.images.clear();
    assert_eq!(keys.release(request).expect("released").images, []);
}

#[test]
fn a_projects_key_is_bound_to_the_project_and_its_evidence_is_obtained_once() {
    let (tee, keys) = scripted();
    let project = FixtureKey::new().project("one").id();
    let first = keys.project_key(&project, Challenge::Nonce).expect("a key");
    let calls = tee.calls();
    assert_eq!(keys.project_key(&project, Challenge::Nonce).expect("the same"), first);
    assert_eq!(tee.calls(), calls, "remembered, not asked again");

    let leaf = bound_leaf(&EvidenceBundle::parse(&first.evidence).expect("a bundle"));
    let spki_sha256 = first.public.spki_sha256();
    let wanted = LeafBody::Key { role: KeyRole::ProjectSigning, scope_sha256: project.0, spki_sha256 };
    assert_eq!(leaf.body, wanted);

    let other = keys.project_key(&FixtureKey::new().project("two").id(), Challenge::Nonce).expect("a key");
    assert_ne!(other.public, first.public);
    assert_eq!(keys.project_key(&project, Challenge::Nonce).expect("the same"), first, "beside the other");
    assert_ne!(
        service().project_key(&project, Challenge::Nonce).expect("a key").public,
        first.public,
        "another boot, another key"
    );
}

#[test]
fn session_evidence_names_the_key_of_the_tls_certificate_the_exporter_and_the_nonce() {
    let keys = service();
    let bundle = EvidenceBundle::parse(
        &keys.session_evidence([3; 32], Nonce([4; 32]), Challenge::Nonce).expect("Evidence"),
    );
    let leaf = bound_leaf(&bundle.expect("a bundle"));
    let LeafBody::Session { tls_spki_sha256, tls_exporter, nonce } = leaf.body else {
        panic!("a session leaf")
    };
    use der::{Decode as _, Encode as _};
    let certificate = x509_cert::Certificate::from_der(&keys.tls_certificate()).expect("a certificate");
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().expect("encoded");
    assert_eq!((tls_spki_sha256, tls_exporter, nonce), (Sha256Digest::of(&spki), [3; 32], Nonce([4; 32])));
}

#[test]
fn each_boot_has_its_own_boot_id_and_states_where_its_keys_come_from() {
    let (first, second) = (service(), service());
    assert_ne!(first.instance().boot_id, second.instance().boot_id);
    assert_eq!(first.instance().key_origin, provenance::instance::KeyOrigin::DangerousSoftware);
    assert_eq!(first.instance().platform, Platform::SevSnp);
    assert_eq!(first.health().launch_measurement, Some(hex::encode(DANGEROUS_SOFTWARE_MEASUREMENT)));
}

#[test]
fn requests_and_answers_survive_the_way_between_processes() {
    let keys = service();
    let project = FixtureKey::new().project("one").id();
    for request in [
        KeyRequest::Instance {},
        KeyRequest::ProjectKey { project, challenge: Challenge::Nonce },
        KeyRequest::Release(Release::of(&keys, "build").to_request()),
        KeyRequest::SessionEvidence { exporter: [1; 32], nonce: Nonce([2; 32]), challenge: Challenge::Nonce },
        KeyRequest::TlsCertificate {},
        KeyRequest::Health {},
    ] {
        let text = serde_json::to_string(&request).expect("serialises");
        assert_eq!(serde_json::from_str::<KeyRequest>(&text).expect("parses"), request);
        let response = keys.handle(request).expect("answered");
        let text = serde_json::to_string(&response).expect("serialises");
        assert_eq!(serde_json::from_str::<KeyResponse>(&text).expect("parses"), response);
    }
    for unknown in [
        r#"{"health":{"verbose":true}}"#,
        r#"{"session_evidence":{"exporter":"AAAA","nonce":"AAAA"}}"#,
        r#"{"sign_digest":{"digest":"AAAA"}}"#,
    ] {
        assert!(serde_json::from_str::<KeyRequest>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn a_statement_of_another_instance_is_refused() {
    let other = service();
    let keys = service();
    let statement = Release::of(&other, "build").to_request();
    let got = Sha256Digest::of(other.instance_document());
    let expected = Sha256Digest::of(keys.instance_document());
    assert_eq!(keys.release(statement), Err(KeyError::Instance { expected, got }));
}

#[test]
fn a_statement_of_another_builder_is_refused() {
    let got = refusal(|_, release| release.statement.predicate.run_details.builder.id = "other".to_owned());
    let expected = instance_inputs().builder_id;
    assert_eq!(got, KeyError::BuilderId { expected, got: "other".to_owned() });
}

#[test]
fn a_statement_that_is_not_canonical_is_refused() {
    let keys = service();
    let mut request = Release::of(&keys, "build").to_request();
    request.statement.push(b' ');
    let refused = keys.release(request).expect_err("refused");
    assert!(matches!(refused, KeyError::Statement(InvalidStatement::Canonical(_))), "{refused}");
}

#[test]
fn a_request_that_another_key_signed_is_refused() {
    let keys = service();
    let release = Release::of(&keys, "build");
    let mut request = release.to_request();
    let other = FixtureKey::new();
    request.caller_key = other.public.spki_der().to_vec();
    let key = other.public.spki_sha256();
    let wanted = InvalidRequest::Envelope(DsseError::Signature(SignatureInvalid { key }));
    assert_eq!(keys.release(request), Err(KeyError::Request(wanted)));
}

#[test]
fn a_callers_key_that_is_none_is_refused() {
    let keys = service();
    let mut request = Release::of(&keys, "build").to_request();
    request.caller_key.pop();
    assert!(matches!(keys.release(request), Err(KeyError::CallerKey(_))));
}

#[test]
fn a_statement_that_names_another_caller_is_refused() {
    let other = Sha256Digest::of(b"another caller");
    let mut expected = other;
    let refused = refusal(|_, release| {
        release.statement.predicate.build_definition.external_parameters.caller = other;
        expected = release.caller.public.spki_sha256();
    });
    assert_eq!(refused, KeyError::Caller { expected, got: other });
}

#[test]
fn a_statement_about_another_request_is_refused() {
    let (mut expected, mut got) = (Sha256Digest::of(b""), Sha256Digest::of(b""));
    let refused = refusal(|_, release| {
        got = Sha256Digest::of(&release.request.document());
        release.request.no_cache = true;
        expected = Sha256Digest::of(&release.request.document());
    });
    assert_eq!(refused, KeyError::RequestDigest { expected, got });
}

#[test]
fn another_nonce_than_the_requests_is_refused() {
    let keys = service();
    let release = Release::of(&keys, "build");
    let mut request = release.to_request();
    request.nonce = Nonce([0; 32]);
    let expected = release.request.nonce;
    assert_eq!(keys.release(request), Err(KeyError::Nonce { expected, got: Nonce([0; 32]) }));
}

#[test]
fn another_project_than_the_requests_is_refused() {
    let keys = service();
    let release = Release::of(&keys, "build");
    let mut request = release.to_request();
    let other = release.caller.project("other").id();
    request.project = other;
    let expected = release.request.project.id().0;
    assert_eq!(keys.release(request), Err(KeyError::Project { expected, got: other.0 }));
}

#[test]
fn a_statement_of_another_builds_invocation_is_refused() {
    let mut expected = String::new();
    let refused = refusal(|_, release| {
        let invocation = &mut release.statement.predicate.run_details.metadata.invocation_id;
        expected = std::mem::replace(invocation, "projects/x/builds/y".to_owned());
    });
    assert_eq!(refused, KeyError::Invocation { expected, got: "projects/x/builds/y".to_owned() });
}

#[test]
fn an_image_that_the_statement_does_not_name_is_refused() {
    let digest = Sha256Digest::of(b"another image");
    assert_eq!(refusal(|_, release| release.image = digest), KeyError::NotASubject { digest });
}

#[test]
fn an_image_under_another_repository_is_refused() {
    let keys = service();
    let release = Release::of(&keys, "build");
    let mut request = release.to_request();
    request.images[0].repository = "registry.example/other".to_owned();
    let wanted = KeyError::Repository {
        digest: release.image,
        expected: vec![REPOSITORY.to_owned()],
        got: "registry.example/other".to_owned(),
    };
    assert_eq!(keys.release(request), Err(wanted));
}

#[test]
fn an_image_in_two_repositories_is_signed_for_each() {
    let keys = service();
    let mut release = Release::of_names(&keys, "build", &[REPOSITORY, "registry.example/second"]);
    release.statement.subject.push(Subject::new("registry.example/second", &release.image));
    let mut request = release.to_request();
    request
        .images
        .push(ImageName { repository: "registry.example/second".to_owned(), digest: release.image });
    let images = keys.release(request).expect("released").images;
    let repositories: Vec<_> = images.iter().map(|image| image.repository.as_str()).collect();
    assert_eq!(repositories, [REPOSITORY, "registry.example/second"]);
}

#[test]
fn an_image_without_names_is_signed_as_image_and_as_nothing_else() {
    let keys = service();
    let mut release = Release::of_names(&keys, "build", &[]);
    let refused = keys.release(release.to_request()).expect_err("refused");
    let expected = vec![UNNAMED.to_owned()];
    assert_eq!(refused, KeyError::SubjectName { expected, got: REPOSITORY.to_owned() });

    release.statement.subject = vec![Subject::new(UNNAMED, &release.image)];
    let mut request = release.to_request();
    request.images[0].repository = UNNAMED.to_owned();
    assert_eq!(keys.release(request).expect("released").images[0].repository, UNNAMED);
}

#[test]
fn a_subject_in_a_repository_that_the_caller_did_not_name_is_refused() {
    let got = "registry.example/other".to_owned();
    let refused = refusal(|_, release| {
        release.statement.subject.push(Subject::new(&got, &Sha256Digest::of(b"another image")));
    });
    assert_eq!(refused, KeyError::SubjectName { expected: vec![REPOSITORY.to_owned()], got });
}

#[test]
fn a_request_of_long_before_the_instance_is_refused() {
    let keys = service();
    let oldest = keys.instance().started_at.unix() - MAX_AGE_AT_START;
    let issued = |seconds| {
        let mut release = Release::of(&keys, "build");
        release.request.issued_at = Timestamp::from_unix(seconds).expect("a time");
        release.statement = statement(
            &keys,
            &release.request,
            &release.caller.public,
            &[Subject::new(REPOSITORY, &release.image)],
        );
        keys.release(release.to_request())
    };
    issued(oldest).expect("released");
    let time = |seconds| Timestamp::from_unix(seconds).expect("a time");
    let wanted = KeyError::IssuedBefore { oldest: time(oldest), got: time(oldest - 1) };
    assert_eq!(issued(oldest - 1), Err(wanted));
}

#[test]
fn one_request_is_released_a_few_times_and_failures_do_not_count() {
    let (tee, keys) = scripted();
    let release = Release::of(&keys, "build");
    tee.script(|_| Err(AttesterError::Device("no".to_owned())));
    for _ in 0..3 {
        keys.release(release.to_request()).expect_err("no Evidence");
    }
    tee.script(Ok);
    for _ in 0..MAX_RELEASES {
        keys.release(release.to_request()).expect("a build that was taken up again");
    }
    let request = Sha256Digest::of(&release.request.document());
    assert_eq!(keys.release(release.to_request()), Err(KeyError::ReleasedTooOften { request }));
    keys.release(Release::of(&keys, "another").to_request()).expect("another request");
}

#[test]
fn the_longest_request_is_read_in_its_envelope() {
    let caller = FixtureKey::new();
    let mut request = release_fixture::request(&caller.project("acme/app"), "b-1", Nonce([7; 32]));
    let signed = |request: &Request| caller.sign(REQUEST_PAYLOAD_TYPE, request.document()).to_json();
    for label in 0..7 {
        request.labels.insert(format!("label-{label}"), "x".repeat(MAX_TEXT - 7));
    }
    request.labels.insert("z".to_owned(), String::new());
    let rest = MAX_REQUEST - request.document().len();
    request.labels.insert("z".to_owned(), "x".repeat(rest));
    assert_eq!(request.document().len(), MAX_REQUEST);
    authenticate_request(&signed(&request), &caller.public).expect("the longest");
    request.labels.insert("z".to_owned(), "x".repeat(rest + 1));
    let (got, limit) = (MAX_REQUEST + 1, MAX_REQUEST);
    assert_eq!(
        authenticate_request(&signed(&request), &caller.public).map(|_| ()),
        Err(InvalidRequest::Canonical(CanonicalError::TooLarge { got, limit }))
    );
}

#[test]
fn a_statement_names_one_to_64_subjects() {
    let release = Release::of(&service(), "build");
    let with = |count: usize| {
        let mut statement = release.statement.clone();
        statement.subject = vec![statement.subject[0].clone(); count];
        Statement::parse(&statement.document()).map(|parsed| parsed.subject.len())
    };
    assert_eq!((with(1), with(64)), (Ok(1), Ok(64)));
    for got in [0, 65] {
        assert_eq!(with(got), Err(InvalidStatement::Subjects { got }));
    }
}

#[test]
fn more_images_than_a_statement_can_name_are_refused() {
    let keys = service();
    let mut request = Release::of(&keys, "build").to_request();
    request.images = vec![request.images[0].clone(); 65];
    assert_eq!(keys.release(request), Err(KeyError::TooManyImages { got: 65 }));
}

#[test]
fn a_device_that_reports_over_other_data_gets_nothing_signed() {
    let (tee, keys) = scripted();
    tee.script(|mut evidence| {
        evidence.report[0x50] ^= 1;
        Ok(evidence)
    });
    let refused = keys.release(Release::of(&keys, "build").to_request()).expect_err("refused");
    assert!(matches!(refused, KeyError::OwnReport(OwnReportError::ReportData { .. })), "{refused}");
    assert!(keys.health().failing.is_some_and(|failing| failing.contains("report data")));

    tee.script(Ok);
    keys.release(Release::of(&keys, "again").to_request()).expect("the device answers again");
    assert_eq!(keys.health().failing, None);
}

#[test]
fn a_device_that_lost_its_key_is_not_asked_again_and_nothing_is_signed() {
    let (tee, keys) = scripted();
    let wiped = AttesterError::KeyWiped {
        path: "/dev/sev-guest".into(),
        by: enclave_keys::WipedBy::Firmware { code: 0x16 },
    };
    let answer = wiped.clone();
    tee.script(move |_| Err(answer.clone()));
    assert!(!keys.health().key_wiped);
    let refused = keys.release(Release::of(&keys, "build").to_request()).expect_err("refused");
    assert_eq!(refused, KeyError::Attester(wiped.clone()));

    tee.script(Ok);
    let calls = tee.calls();
    let refused = keys.release(Release::of(&keys, "again").to_request()).expect_err("refused for good");
    assert_eq!(refused, KeyError::Attester(wiped.clone()));
    let refused = keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce).expect_err("sessions too");
    assert_eq!(refused, KeyError::Attester(wiped.clone()));
    let health = keys.health();
    assert_eq!((tee.calls(), health.key_wiped, health.failing), (calls, true, Some(wiped.to_string())));
}

#[test]
fn a_changed_launch_measurement_gets_nothing_signed() {
    let (tee, keys) = scripted();
    tee.script(|mut evidence| {
        evidence.report[0x90] ^= 1;
        Ok(evidence)
    });
    let expected = Measurement(DANGEROUS_SOFTWARE_MEASUREMENT);
    let mut got = expected;
    got.0[0] ^= 1;
    let wanted = KeyError::OwnReport(OwnReportError::MeasurementChanged { expected, got });
    assert_eq!(keys.release(Release::of(&keys, "build").to_request()), Err(wanted));
}

#[test]
fn a_report_of_another_length_version_or_platform_gets_nothing_signed() {
    let (tee, keys) = scripted();
    let refused_with = |change: fn(&mut Evidence)| {
        tee.script(move |mut evidence| {
            change(&mut evidence);
            Ok(evidence)
        });
        keys.release(Release::of(&keys, "build").to_request()).expect_err("refused")
    };
    let own = KeyError::OwnReport;
    assert_eq!(
        refused_with(|e| e.report.truncate(1183)),
        own(OwnReportError::Length { expected: 1184, got: 1183 })
    );
    assert_eq!(refused_with(|e| e.report.push(0)), own(OwnReportError::Length { expected: 1184, got: 1185 }));
    assert_eq!(
        refused_with(|e| e.report[0] = 1),
        own(OwnReportError::Version { got: 1, oldest: 2, newest: 5 })
    );
    assert_eq!(
        refused_with(|e| e.report[0] = 6),
        own(OwnReportError::Version { got: 6, oldest: 2, newest: 5 })
    );
    let platform = OwnReportError::Platform { expected: Platform::SevSnp, got: Platform::Tdx };
    assert_eq!(refused_with(|e| e.platform = Platform::Tdx), own(platform));
}

#[test]
fn evidence_that_no_verifier_would_read_gets_nothing_signed() {
    let (tee, keys) = scripted();
    // Signed once: signatures differ in length.
    let request = Release::of(&keys, "build").to_request();
    let endorsed = |bytes: usize| {
        tee.script(move |evidence| Ok(Evidence { endorsements: vec![0; bytes], ..evidence }));
        let released = keys.release(request.clone());
        released.map(|released| released.evidence.len())
    };
    let without = endorsed(0).expect("released");
    // Base64: four bytes for three.
    let room = (MAX_COLLECTION - without) / 4 * 3;
    let got = without + room / 3 * 4;
    assert_eq!(endorsed(room), Ok(got));
    assert_eq!(endorsed(room + 3), Err(KeyError::CollectionTooLong { got: got + 4 }));
    let session = keys.session_evidence([0; 32], Nonce([0; 32]), Challenge::Nonce);
    session.expect("shorter, since no request is in it");
    tee.script(|evidence| Ok(Evidence { endorsements: vec![0; MAX_COLLECTION], ..evidence }));
    let session = keys.session_evidence([0; 32], Nonce([0; 32]), Challenge::Nonce);
    assert!(matches!(session, Err(KeyError::CollectionTooLong { .. })), "{session:?}");
    let key = keys.project_key(&FixtureKey::new().project("new").id(), Challenge::Nonce);
    assert!(matches!(key, Err(KeyError::CollectionTooLong { .. })), "{key:?}");
}

#[test]
fn a_device_error_is_passed_on_and_nothing_is_signed() {
    let (tee, keys) = scripted();
    tee.script(|_| Err(AttesterError::Device("firmware error 0x1b".to_owned())));
    let wanted = KeyError::Attester(AttesterError::Device("firmware error 0x1b".to_owned()));
    assert_eq!(keys.release(Release::of(&keys, "build").to_request()), Err(wanted.clone()));
    assert_eq!(keys.session_evidence([0; 32], Nonce([0; 32]), Challenge::Nonce), Err(wanted));
}

#[test]
fn the_service_does_not_start_without_a_first_report_over_what_it_asked() {
    let tee = ScriptedTee::new(tee());
    tee.script(|mut evidence| {
        evidence.report[0x50] ^= 1;
        Ok(evidence)
    });
    let refused = KeyService::start(Box::new(tee.clone()), instance_inputs(), None).expect_err("refused");
    assert!(matches!(refused, StartError::OwnReport(OwnReportError::ReportData { .. })), "{refused}");
    tee.script(|_| Err(AttesterError::Device("no".to_owned())));
    let refused = KeyService::start(Box::new(tee), instance_inputs(), None).expect_err("refused");
    assert_eq!(refused, StartError::Attester(AttesterError::Device("no".to_owned())));
}

#[test]
fn reports_of_every_generation_and_version_are_read() {
    let tee = tee();
    for (product, version) in
        [(Product::Milan, 2), (Product::Milan, 3), (Product::Genoa, 3), (Product::Turin, 5)]
    {
        let chip = tee.new_chip(product, Tcb::of(product), |_| ()).expect("a chip");
        let scripted = ScriptedTee::new(SoftwareTee::shared().expect("a software TEE"));
        scripted.script(move |evidence| {
            let mut data = [0; 64];
            data.copy_from_slice(&evidence.report[0x50..0x90]);
            Ok(chip.evidence(&provenance::binding::ReportData(data), |fields| fields.version = version))
        });
        let keys = KeyService::start(Box::new(scripted), instance_inputs(), None).expect("started");
        keys.release(Release::of(&keys, "build").to_request()).expect("released");
    }
}
