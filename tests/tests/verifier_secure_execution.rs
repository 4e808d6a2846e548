//! Whole images built under Secure Execution: by an own attestation request, by a Verifier's Attestation Result about
//! the build, and by one about the signing key alone. NOT HARDWARE: the Ultravisor is the software TEE's.

#[path = "verifier_support/layout.rs"]
mod layout;
#[path = "verifier_support/secure_execution.rs"]
mod setting;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use client::key::CallerKey;
use layout::write_layout;
use provenance::binding::{KeyRole, LeafBody};
use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::evidence::{EvidenceBundle, Platform};
use provenance::key::KeyAlgorithm;
use provenance::secure_execution::{ATTESTATION_RESULT_PAYLOAD_TYPE, AttestationResult};
use sealwright_tests::harness::sealwright;
use sealwright_tests::software_tee::se::fixture::ALL_FLAGS;
use sealwright_tests::software_tee::se::host_keys::HostKeyDocuments;
use sealwright_tests::software_tee::se::{P521, Requester};
use serde_json::json;
use setting::Setting;
use support::PolicyText;
use verifier::bound::{BindingError, RulesRefusal};
use verifier::built::{RequestRefusal, StatementError};
use verifier::certified::{CertificateRefusal, Which};
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::secure_execution::{OwnRequest, SeError, SeRefusal, vouch};
use verifier::verdict::{Link, Outcome};
use verifier::{
    Class, Endorsements, ProjectCertificates, Reason, Verdict, appraise_certificates, verify_image,
    verify_image_with_own_requests,
};
use world::{Made, World, now};

fn verdict_of(made: &Made, own: &[OwnRequest]) -> Verdict {
    verify_image_with_own_requests(&made.parsed_policy(), &made.input, own, now())
}

fn refused(made: &Made, own: &[OwnRequest]) -> Reason {
    let verdict = verdict_of(made, own);
    let report = verdict.report();
    report.rejection().unwrap_or_else(|| panic!("not refused:\n{report}")).reason().clone()
}

#[test]
fn a_build_is_trusted_by_its_requester_and_by_those_who_trust_the_verifier_and_the_verdict_says_which() {
    let setting = Setting::new();
    let made = setting.made(None, false);
    for (own, reliance, verifier, says) in [
        (vec![setting.own()], "own-request", None, "relies on your own attestation request"),
        (Vec::new(), "attestation-result", Some("auditor"), "relies on the Verifier \"auditor\""),
    ] {
        let verdict = verdict_of(&made, &own);
        let report = verdict.report();
        assert_eq!(report.outcome(), Outcome::BlobsNotChecked, "{report}");
        let facts = report.facts();
        assert_eq!((facts.reliance, facts.bound_to), (Some(reliance), Some("build")));
        assert_eq!(facts.relied_verifier.as_deref(), verifier);
        assert_eq!(facts.hardware.as_deref(), Some("Secure Execution"));
        let text = report.to_string();
        assert!(
            text.contains(says) && text.contains("NOT HARDWARE") && !text.contains("bound to the key"),
            "{text}"
        );
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!(json["facts"]["reliance"], reliance);
    }
    let alone = setting.made(None, false).with_bundle(|bundle| bundle.attestation_result = None);
    let request = Sha256Digest::of(&setting.requester.request);
    assert_eq!(
        refused(&alone, &[]),
        Reason::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { request }))
    );
    assert!(verdict_of(&alone, &[setting.own()]).report().refusal().is_none());
}

#[test]
fn every_host_key_that_can_open_the_request_must_be_the_policy_s() {
    let mut setting = Setting::new();
    let (machine, other) = (setting.machine.host_key(), P521::generate().expect("a key"));
    setting.documents = HostKeyDocuments::of_all(machine, &[&other]).expect("documents");
    setting.requester = Requester::new(ALL_FLAGS, &[machine, &other]).expect("a request");
    let (ours, theirs) = (machine.hash(), other.hash());
    // The machine answers, but the holder of the other key knows the measurement key as well.
    let mut made = setting.made(None, false).with_bundle(|bundle| bundle.attestation_result = None);
    let line = made.policy.line_of("attestation_host_keys");
    let refusal = SeRefusal::AttestationSlot { slot: 1, got: theirs, wanted: vec![ours], line };
    let reason = refused(&made, &[setting.own()]);
    assert_eq!(reason, Reason::Appraisal(AppraisalError::SecureExecution(refusal)));
    assert_eq!(reason.class(), Class::RefusedByPolicy);

    let both = format!("attestation_host_keys = [\"{ours}\", \"{theirs}\"]");
    made.policy = made.policy.with(&format!("attestation_host_keys = [\"{ours}\"]"), &both);
    assert!(verdict_of(&made, &[setting.own()]).report().refusal().is_none());
}

#[test]
fn a_result_about_the_key_alone_is_accepted_only_where_the_policy_says_so_and_the_verdict_says_it() {
    let setting = Setting::new();
    let made = setting.made(Some(setting.key_leaf()), false);
    let line = made.policy.line_of("allow_key_only");
    let reason = refused(&made, &[]);
    let key_only = AppraisalError::SecureExecution(SeRefusal::KeyOnly { line });
    assert_eq!(reason, Reason::Appraisal(key_only));
    assert_eq!((reason.class(), reason.link()), (Class::RefusedByPolicy, Link::Key));

    let made = setting.made(Some(setting.key_leaf()), true);
    let verdict = verdict_of(&made, &[]);
    let report = verdict.report();
    assert_eq!(report.outcome(), Outcome::BlobsNotChecked, "{report}");
    assert_eq!(report.facts().bound_to, Some("key"));
    assert!(report.to_string().contains("bound to the key, not to this build"), "{report}");

    // The requester itself wants Evidence of the build.
    let reason = refused(&made, &[setting.own()]);
    assert_eq!(reason, Reason::Binding(BindingError::LeafKind { got: "key", wanted: "build" }));
}

#[test]
fn a_key_is_certified_by_a_verifier_s_word_only_where_the_policy_says_so() {
    let setting = Setting::new();
    let reason = |allow_key_only| {
        let made = setting.made(Some(setting.key_leaf()), allow_key_only);
        let evidence = made.bundle.to_json();
        // The certificates are looked at after the Evidence.
        let given = ProjectCertificates {
            certificate: &[],
            key_evidence: &evidence,
            authority_certificate: &[],
            authority_evidence: &evidence,
        };
        let (policy, project) = (made.parsed_policy(), setting.world.request.project.id());
        let none = Endorsements::default();
        appraise_certificates(&policy, given, &project, (&none).into(), now())
            .expect_err("refused")
            .reason()
            .clone()
    };
    let line = setting.made(None, false).policy.line_of("allow_key_only");
    let key_only = AppraisalError::SecureExecution(SeRefusal::KeyOnly { line });
    assert_eq!(reason(false), Reason::Appraisal(key_only));
    let next = CertificateRefusal::Role { which: Which::Authority };
    assert_eq!(reason(true), Reason::Certificate(next));
}

#[test]
fn a_result_about_a_key_covers_the_project_s_own_signing_key_and_what_it_signed_about_the_image() {
    let setting = Setting::new();
    let LeafBody::Key { role, scope_sha256, spki_sha256 } = setting.key_leaf() else { panic!("of a key") };
    let with = |body| refused(&setting.made(Some(body), true), &[]);

    let authority = LeafBody::Key { role: KeyRole::EnclaveCa, scope_sha256, spki_sha256 };
    assert_eq!(with(authority), Reason::Binding(BindingError::KeyRole));

    let got = Sha256Digest::of(b"another project");
    let other = LeafBody::Key { role, scope_sha256: got, spki_sha256 };
    let refusal = RequestRefusal::KeyOfOtherProject { got, wanted: scope_sha256 };
    assert_eq!(with(other), Reason::Request(refusal));

    let wanted = Sha256Digest::of(b"another key");
    let other = LeafBody::Key { role, scope_sha256, spki_sha256: wanted };
    let error = StatementError::OtherSigningKey { got: spki_sha256, wanted };
    assert_eq!(with(other), Reason::Statement(error));

    let mut made = setting.made(Some(setting.key_leaf()), true);
    made.input.envelopes.remove(0);
    let target = setting.world.target();
    let error = StatementError::NoStatementOfKey { target, key: spki_sha256, looked_at: 1 };
    assert_eq!(refused(&made, &[]), Reason::Statement(error));
}

#[test]
fn a_verifier_vouches_for_what_it_accepts_and_its_word_is_then_relied_on() {
    let setting = Setting::new();
    let made = setting.made(None, false).with_bundle(|bundle| bundle.attestation_result = None);
    let days = std::num::NonZeroU16::new(7).expect("not zero");
    let none = Endorsements::default();
    let judge = |made: &Made, text: &PolicyText| {
        vouch(&text.parse(), &made.bundle.to_json(), &none, setting.own(), days, now())
    };
    let vouched = judge(&made, &made.policy).expect("accepted");
    let result = vouched.result().clone();
    assert_eq!(result.policy_sha256, made.parsed_policy().sha256());
    assert_eq!(result.expires_at.unix() - result.issued_at.unix(), 7 * 86_400);
    assert_eq!(result.host_key_root, setting.documents.root);

    // Those who name this Verifier and its policy accept the build, without any request.
    let its_policy = Sha256Digest::of(b"the auditor's policy").to_string();
    let mut relying = made.policy.clone().with(&its_policy, &result.policy_sha256.to_string());
    let envelope = setting.auditor.sign(ATTESTATION_RESULT_PAYLOAD_TYPE, result.document()).to_json();
    let collection = vouched.into_collection(envelope);
    let mut input = made.input.clone();
    input.evidence = vec![collection];
    let verdict = verify_image(&relying.parse(), &input, now());
    assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
    assert_eq!(verdict.report().facts().relied_verifier.as_deref(), Some("auditor"));

    // What the Verifier itself refuses it does not vouch for.
    relying = made.policy.clone().with("builder_ids = [\"", "builder_ids = [\"x");
    let reason = judge(&made, &relying).expect_err("refused").reason().clone();
    assert!(matches!(reason, Reason::Rules(RulesRefusal::BuilderId { .. })), "{reason:?}");
    let mut other = setting.made(None, false);
    other.bundle.leaf[40] ^= 1;
    let reason = judge(&other, &made.policy).expect_err("refused").reason().clone();
    assert!(matches!(reason, Reason::Binding(BindingError::ReportData { .. })), "{reason:?}");
    let stranger = Setting::new();
    let foreign = vouch(&made.parsed_policy(), &made.bundle.to_json(), &none, stranger.own(), days, now());
    let reason = foreign.expect_err("refused").reason().clone();
    let request = Sha256Digest::of(&setting.requester.request);
    assert_eq!(
        reason,
        Reason::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { request }))
    );
    // Nor for hardware that signs by itself, or on another's word.
    let world = World::new().make();
    let snp = vouch(&world.parsed_policy(), &world.bundle.to_json(), &none, setting.own(), days, now());
    let reason = snp.expect_err("refused").reason().clone();
    let error = AuthenticationError::SpeaksForItself { platform: Platform::SevSnp };
    assert_eq!((reason.class(), reason), (Class::RefusedByPolicy, Reason::Authentication(error)));
    let of_another = setting.made(None, false);
    let reason =
        vouch(&of_another.parsed_policy(), &of_another.bundle.to_json(), &none, stranger.own(), days, now());
    assert!(matches!(
        reason.expect_err("refused").reason(),
        Reason::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { .. }))
    ));
}

#[test]
fn a_result_beside_a_report_that_the_hardware_signed_is_refused() {
    let made = World::new().make().with_bundle(|bundle| bundle.attestation_result = Some(b"{}".to_vec()));
    let error = AuthenticationError::UnexpectedResult { platform: Platform::SevSnp };
    assert_eq!(made.refused(), Reason::Authentication(error));
    let good = World::new().make();
    let verdict = good.verdict();
    let facts = verdict.report().facts();
    assert_eq!((facts.reliance, facts.bound_to), (Some("hardware"), Some("build")));
}

/// A request as `pvattest create` writes it: it announces a measurement and additional data.
fn request_file(request: &[u8]) -> Vec<u8> {
    let length = u32::try_from(request.len()).expect("short");
    let words = [0x40 + length, 0, 0, length, 0x40, 64, 0, 448, 0, 0, 0, 0, 0];
    let words = words.iter().flat_map(|word: &u32| word.to_be_bytes());
    b"pvattest\x00\x00\x01\x00".iter().copied().chain(words).chain(request.iter().copied()).collect()
}

#[test]
fn the_command_signs_for_what_the_verifier_accepts_and_for_nothing_else() {
    let setting = Setting::new();
    let made = setting.made(None, false).with_bundle(|bundle| bundle.attestation_result = None);
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).expect("written");
    let stranger = Setting::new();
    let mut altered = made.bundle.clone();
    altered.leaf[40] ^= 1;
    write("policy.toml", made.policy.0.as_bytes());
    write("evidence", &made.bundle.to_json());
    write("altered", &altered.to_json());
    write("bare", &setting.requester.request);
    write("request", &request_file(&setting.requester.request));
    write("other-request", &stranger.requester.request);
    write("key", &setting.requester.protection_key);
    write("other-key", &stranger.requester.protection_key);
    write("short-key", &setting.requester.protection_key[1..]);
    let signer = CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256).expect("a key");
    signer.save_new(&path("signer")).expect("saved");
    let run = |evidence: &str, request: &str, key: &str, days: &str| {
        let output = std::process::Command::new(sealwright())
            .env("HOME", directory.path())
            .arg("--policy")
            .arg(path("policy.toml"))
            .arg("appraise")
            .arg(path(evidence))
            .arg("--attestation-request")
            .arg(path(request))
            .arg("--attestation-request-key")
            .arg(path(key))
            .arg("--sign")
            .arg(path("signer"))
            .args(["--valid-for", days])
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), output.stdout, text)
    };
    for request in ["request", "bare"] {
        let (code, collection, said) = run("evidence", request, "key", "7");
        assert_eq!(code, Some(0), "{request}: {said}");
        assert!(said.contains("vouched") && said.contains("NOT HARDWARE"), "{said}");
        let bundle = EvidenceBundle::parse(collection.trim_ascii_end()).expect("a collection");
        let signed = bundle.attestation_result.clone().expect("a Result");
        let envelope = Envelope::parse(&signed, 1 << 16).expect("an envelope");
        let document = envelope.authenticate(ATTESTATION_RESULT_PAYLOAD_TYPE, signer.public());
        let result = AttestationResult::parse(document.expect("signed with the key")).expect("a document");
        assert_eq!(result.evidence_sha256, Sha256Digest::of(&made.bundle.evidence.report));
        assert_eq!(EvidenceBundle { attestation_result: None, ..bundle }, made.bundle);
        // Anybody can see who is to be believed about what.
        write("vouched", collection.trim_ascii_end());
        let inspected = std::process::Command::new(sealwright())
            .env("HOME", directory.path())
            .arg("inspect")
            .arg(path("vouched"))
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&inspected.stdout).into_owned();
        let policy = Sha256Digest::of(made.policy.0.as_bytes());
        assert!(text.contains(&format!("result     of a Verifier under policy {policy}")), "{text}");
    }
    for (evidence, request, key, days, code, says) in [
        ("evidence", "other-request", "other-key", "7", 3, "convinces only the one who asked"),
        ("altered", "request", "key", "7", 4, "leaf and inclusion proof give"),
        ("evidence", "request", "other-key", "7", 2, "does not open under the protection key"),
        ("evidence", "request", "short-key", "7", 2, "31 bytes, wanted 32"),
        ("evidence", "request", "key", "0", 2, "0 is not in 1..=366"),
        ("evidence", "request", "key", "367", 2, "367 is not in 1..=366"),
    ] {
        let (got, stdout, said) = run(evidence, request, key, days);
        assert_eq!(got, Some(code), "{evidence} {request} {key} {days}: {said}");
        assert!(said.contains(says), "{said}");
        assert!(stdout.is_empty(), "nothing is signed");
    }
}

#[test]
fn the_command_verifies_an_image_with_an_own_request_or_by_a_result() {
    let setting = Setting::new();
    let with_result = setting.made(None, false);
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).expect("written");
    write("policy.toml", with_result.policy.0.as_bytes());
    write("request", &request_file(&setting.requester.request));
    write("key", &setting.requester.protection_key);
    write_layout(&setting.world, &with_result, &path("with-result"));
    let alone = with_result.with_bundle(|bundle| bundle.attestation_result = None);
    write_layout(&setting.world, &alone, &path("alone"));
    let run = |layout: &str, flags: &[&str]| {
        let mut command = std::process::Command::new(sealwright());
        command
            .env("HOME", directory.path())
            .arg("--policy")
            .arg(path("policy.toml"))
            .args(["--json", "verify"]);
        command.arg(path(layout)).current_dir(directory.path()).args(flags);
        let output = command.output().expect("runs");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), document["facts"]["reliance"].clone())
    };
    let own = ["--attestation-request", "request", "--attestation-request-key", "key"];
    assert_eq!(run("alone", &own), (Some(0), json!("own-request")));
    assert_eq!(run("with-result", &own), (Some(0), json!("own-request")));
    assert_eq!(run("with-result", &[]), (Some(0), json!("attestation-result")));
    assert_eq!(run("alone", &[]), (Some(3), json!(null)));
    assert_eq!(run("alone", &own[..2]).0, Some(2), "a request without its key");
}
