//! Certificates of an instance: what the key service issues, and everything the verifier refuses. Each case changes
//! one thing and names the one refusal.

use std::process::Command;
use std::sync::LazyLock;

use enclave_keys::{Attester as _, InstanceInputs, KeyService, ProjectKey};
use provenance::binding::{KeyRole, Leaf, LeafBody, LeafTree};
use provenance::certificate::{
    CERTIFICATE_DAYS, ID_PE_CMW, SIGSTORE_ISSUER, authority_scope, evidence_digest_record, project_uri,
};
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::project::ProjectId;
use provenance::timestamp::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use sealwright_tests::reference_values;
use sealwright_tests::release_fixture::{BUILDER_ID, FixtureKey, instance_inputs};
use sealwright_tests::software_tee::{ScriptedTee, SoftwareTee};
use verifier::bound::{BindingError, RulesRefusal};
use verifier::built::RequestRefusal;
use verifier::certified::{CertificateRefusal, Which};
use verifier::x509::CertificateError;
use verifier::{Endorsements, Policy, ProjectCertificates, Reason, appraise_certificates};

fn tee() -> SoftwareTee {
    SoftwareTee::shared().expect("a software TEE")
}

/// Ten days after the software TEE's own certificates begin.
static STARTED_AT: LazyLock<i64> = LazyLock::new(|| {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    i64::try_from(seconds).expect("before 9999") + 10 * 86_400
});

fn days_after_start(days: i64) -> Timestamp {
    Timestamp::from_unix(*STARTED_AT + days * 86_400).expect("before 9999")
}

fn inputs() -> InstanceInputs {
    InstanceInputs { started_at: days_after_start(0), ..instance_inputs() }
}

fn service() -> KeyService {
    KeyService::start(Box::new(tee()), inputs(), None).expect("started")
}

fn project() -> ProjectId {
    ProjectId(Sha256Digest::of(b"a project"))
}

fn policy_text(keys: &KeyService) -> String {
    let caller = FixtureKey::new().public;
    reference_values::dangerous_policy(&tee(), keys.instance(), &[("ci".to_owned(), caller)])
}

fn policy(text: &str) -> Policy {
    Policy::parse(text, "dangerous.toml").expect("a complete policy")
}

fn given(key: &ProjectKey) -> ProjectCertificates<'_> {
    ProjectCertificates {
        certificate: &key.certificate,
        key_evidence: &key.evidence,
        authority_certificate: &key.authority.certificate,
        authority_evidence: &key.authority.evidence,
    }
}

fn reason(policy: &Policy, given: ProjectCertificates<'_>, now: Timestamp) -> Reason {
    appraise_certificates(policy, given, &project(), (&Endorsements::default()).into(), now)
        .expect_err("refused")
        .reason()
        .clone()
}

#[test]
fn a_project_has_a_certificate_below_the_enclave_ca_that_names_its_evidence() {
    let keys = service();
    let key = keys.project_key(&project(), Challenge::Nonce).expect("a key");
    let policy = policy(&policy_text(&keys));
    let accepted = appraise_certificates(
        &policy,
        given(&key),
        &project(),
        (&Endorsements::default()).into(),
        days_after_start(1),
    )
    .expect("accepted");
    assert_eq!(accepted.public(), &key.public);
    assert_eq!(accepted.uri(), format!("{BUILDER_ID}/project/{}", project()));
    assert_eq!(
        (accepted.certificate(), accepted.authority()),
        (&key.certificate[..], &key.authority.certificate[..])
    );
    assert_eq!(accepted.validity(), (days_after_start(0), days_after_start(CERTIFICATE_DAYS)));
    assert_eq!(accepted.bound().instance(), keys.instance());
}

#[test]
fn there_is_one_authority_per_boot_and_one_certificate_per_project() {
    let tee = ScriptedTee::new(tee());
    let keys = KeyService::start(Box::new(tee.clone()), inputs(), None).expect("started");
    let first = keys.project_key(&project(), Challenge::Nonce).expect("a key");
    let calls = tee.calls();
    assert_eq!(keys.project_key(&project(), Challenge::Nonce).expect("the same"), first);
    assert_eq!(tee.calls(), calls, "remembered, not asked again");
    let other = keys.project_key(&ProjectId(Sha256Digest::of(b"another")), Challenge::Nonce).expect("a key");
    assert_eq!(other.authority, first.authority);
    assert_ne!(other.certificate, first.certificate);
    assert_eq!(tee.calls(), calls + 1);
}

#[test]
fn openssl_accepts_the_chain_strictly_and_refuses_another_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, der: &[u8]| {
        let path = directory.path().join(name);
        let pem = Command::new("openssl")
            .args(["x509", "-inform", "DER", "-out"])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                std::io::Write::write_all(&mut child.stdin.take().expect("piped"), der)?;
                child.wait()
            });
        assert!(pem.expect("openssl runs").success());
        path
    };
    let (keys, other) = (service(), service());
    let key = keys.project_key(&project(), Challenge::Nonce).expect("a key");
    let leaf = write("leaf.pem", &key.certificate);
    let at = days_after_start(1).unix().to_string();
    let verify = |authority: &[u8], purpose: &str| {
        let authority = write("ca.pem", authority);
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", &at, "-purpose", purpose, "-CAfile"])
            .args([&authority, &leaf])
            .output()
            .expect("openssl runs")
    };
    let accepted = verify(&key.authority.certificate, "any");
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    assert!(!verify(&key.authority.certificate, "sslserver").status.success(), "signs code, serves no TLS");
    let stranger = other.project_key(&project(), Challenge::Nonce).expect("a key").authority.certificate;
    assert!(!verify(&stranger, "any").status.success());
}

#[test]
fn another_project_or_builder_or_purpose_is_refused() {
    let keys = service();
    let text = policy_text(&keys);
    let (accepting, now) = (policy(&text), days_after_start(1));
    let key = keys.project_key(&project(), Challenge::Nonce).expect("a key");
    let other_project = ProjectId(Sha256Digest::of(b"another"));
    let other = keys.project_key(&other_project, Challenge::Nonce).expect("a key");

    let swapped = ProjectCertificates { key_evidence: &other.evidence, ..given(&key) };
    let wanted =
        CertificateRefusal::Scope { which: Which::Project, got: other_project.0, wanted: project().0 };
    assert_eq!(reason(&accepting, swapped, now), wanted.into());

    let swapped = ProjectCertificates { key_evidence: &key.authority.evidence, ..given(&key) };
    assert_eq!(reason(&accepting, swapped, now), CertificateRefusal::Role { which: Which::Project }.into());
    let swapped = ProjectCertificates { authority_evidence: &key.evidence, ..given(&key) };
    assert_eq!(reason(&accepting, swapped, now), CertificateRefusal::Role { which: Which::Authority }.into());

    let session = keys
        .session_evidence([1; 32], provenance::binding::Nonce([2; 32]), Challenge::Nonce)
        .expect("Evidence");
    let swapped = ProjectCertificates { key_evidence: &session, ..given(&key) };
    assert_eq!(
        reason(&accepting, swapped, now),
        BindingError::LeafKind { got: "session", wanted: "key" }.into()
    );

    let swapped = ProjectCertificates { certificate: &other.certificate, ..given(&key) };
    let wanted = CertificateRefusal::Key {
        which: Which::Project,
        got: other.public.spki_sha256(),
        wanted: key.public.spki_sha256(),
    };
    assert_eq!(reason(&accepting, swapped, now), wanted.into());

    let boot = service().project_key(&project(), Challenge::Nonce).expect("a key");
    let swapped =
        ProjectCertificates { key_evidence: &boot.evidence, certificate: &boot.certificate, ..given(&key) };
    assert!(matches!(
        reason(&accepting, swapped, now),
        Reason::Certificate(CertificateRefusal::Instances { .. })
    ));

    let strict = policy(&text.replace(BUILDER_ID, "https://builder.example/other"));
    assert!(matches!(reason(&strict, given(&key), now), Reason::Rules(RulesRefusal::BuilderId { .. })));
    let projects = format!("[request]\nprojects = [\"{}\"]\n", Sha256Digest::of(b"a third").hex());
    let strict = policy(&text.replace("[request]\n", &projects));
    assert!(matches!(
        reason(&strict, given(&key), now),
        Reason::Request(RequestRefusal::ProjectNotAccepted { .. })
    ));
}

#[test]
fn certificates_are_judged_at_the_given_time() {
    let keys = service();
    let (policy, key) =
        (policy(&policy_text(&keys)), keys.project_key(&project(), Challenge::Nonce).expect("a key"));
    let refused = |problem| CertificateRefusal::Certificate { which: Which::Authority, problem }.into();
    let (not_before, not_after) = (days_after_start(0), days_after_start(CERTIFICATE_DAYS));
    let now = days_after_start(CERTIFICATE_DAYS + 1);
    assert_eq!(reason(&policy, given(&key), now), refused(CertificateError::Expired { not_after, now }));
    let now = days_after_start(-1);
    assert_eq!(reason(&policy, given(&key), now), refused(CertificateError::NotYetValid { not_before, now }));
}

/// An instance whose keys the test holds, so that certificates can say anything.
struct OwnInstance {
    policy: Policy,
    authority_key: KeyPair,
    project_key: KeyPair,
    authority_evidence: Vec<u8>,
    key_evidence: Vec<u8>,
}

impl OwnInstance {
    fn new() -> Self {
        let keys = service();
        let document = keys.instance_document().to_vec();
        let (authority_key, project_key) = (new_key(), new_key());
        let evidence = |role, scope_sha256, key: &KeyPair| {
            let spki = key.subject_public_key_info();
            let body = LeafBody::Key { role, scope_sha256, spki_sha256: Sha256Digest::of(&spki) };
            let leaf = Leaf { salt: [7; 32], instance_sha256: Sha256Digest::of(&document), body };
            let tree = LeafTree::new(&[leaf]).expect("one leaf");
            let proof = tree.proof(0).expect("of the one leaf");
            EvidenceBundle {
                evidence: tee().evidence(&tree.report_data()).expect("Evidence"),
                instance: document.clone(),
                leaf: leaf.encode(),
                proof,
                request: None,
                signing_key: Some(spki),
                caller_key: None,
                attestation_result: None,
                timestamp: None,
            }
            .to_json()
        };
        Self {
            authority_evidence: evidence(KeyRole::EnclaveCa, authority_scope(BUILDER_ID), &authority_key),
            key_evidence: evidence(KeyRole::ProjectSigning, project().0, &project_key),
            policy: policy(&policy_text(&keys)),
            authority_key,
            project_key,
        }
    }

    fn authority(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (moment(0), moment(CERTIFICATE_DAYS));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.custom_extensions = vec![evidence_extension(&self.authority_evidence)];
        params
    }

    fn leaf(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (moment(0), moment(CERTIFICATE_DAYS));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.subject_alt_names = vec![uri(&project_uri(BUILDER_ID, &project()))];
        params.custom_extensions =
            vec![evidence_extension(&self.key_evidence), text(SIGSTORE_ISSUER, BUILDER_ID)];
        params
    }

    /// The refusal of certificates with these contents; `None` when they are accepted.
    fn judge(&self, authority: &CertificateParams, leaf: &CertificateParams) -> Option<Reason> {
        let issuer = Issuer::from_params(authority, &self.authority_key);
        let certificate = leaf.signed_by(&self.project_key, &issuer).expect("a certificate");
        let root = authority.self_signed(&self.authority_key).expect("a certificate");
        let given = ProjectCertificates {
            certificate: certificate.der(),
            key_evidence: &self.key_evidence,
            authority_certificate: root.der(),
            authority_evidence: &self.authority_evidence,
        };
        let now = days_after_start(1);
        appraise_certificates(&self.policy, given, &project(), (&Endorsements::default()).into(), now)
            .err()
            .map(|rejection| rejection.reason().clone())
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("random bytes")
}

fn moment(days: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(days_after_start(days).unix()).expect("a moment")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn text(oid: &[u32], value: &str) -> CustomExtension {
    use der::Encode as _;
    let oid: Vec<u64> = oid.iter().copied().map(u64::from).collect();
    let der = der::asn1::Utf8StringRef::new(value).and_then(|text| text.to_der()).expect("a text");
    CustomExtension::from_oid_content(&oid, der)
}

fn evidence_extension(evidence: &[u8]) -> CustomExtension {
    text(ID_PE_CMW, &evidence_digest_record(&Sha256Digest::of(evidence)))
}

#[test]
fn every_extension_must_say_what_its_profile_says() {
    let own = OwnInstance::new();
    assert_eq!(own.judge(&own.authority(), &own.leaf()), None);

    type Change = fn(&mut CertificateParams);
    let cases: [(Which, &str, Change); 17] = [
        (Which::Authority, "keyUsage", |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        (Which::Authority, "keyUsage", |p| p.key_usages.push(KeyUsagePurpose::DigitalSignature)),
        (Which::Authority, "id-pe-cmw", |p| p.custom_extensions.clear()),
        (Which::Authority, "id-pe-cmw", |p| p.custom_extensions = vec![evidence_extension(b"other")]),
        (Which::Authority, "1.2.3.4", |p| {
            p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
        }),
        (Which::Authority, "no certificate authority that may sign", |p| p.is_ca = IsCa::ExplicitNoCa),
        (Which::Project, "basicConstraints", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        (Which::Project, "keyUsage", |p| p.key_usages.clear()),
        (Which::Project, "keyUsage", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        (Which::Project, "extendedKeyUsage", |p| p.extended_key_usages.clear()),
        (Which::Project, "extendedKeyUsage", |p| {
            p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)
        }),
        (Which::Project, "subjectAltName", |p| p.subject_alt_names.clear()),
        (Which::Project, "subjectAltName", |p| p.subject_alt_names = vec![uri(BUILDER_ID)]),
        (Which::Project, "subjectAltName", |p| p.subject_alt_names.push(uri("https://other.example"))),
        (Which::Project, "issuer", |p| drop(p.custom_extensions.pop())),
        (Which::Project, "issuer", |p| {
            p.custom_extensions[1] = text(SIGSTORE_ISSUER, "https://other.example")
        }),
        (Which::Project, "id-pe-cmw", |p| p.custom_extensions[0] = evidence_extension(b"other")),
    ];
    for (number, (which, wanted, change)) in cases.into_iter().enumerate() {
        let (mut authority, mut leaf) = (own.authority(), own.leaf());
        change(if which == Which::Authority { &mut authority } else { &mut leaf });
        let reason =
            own.judge(&authority, &leaf).unwrap_or_else(|| panic!("case {number} ({wanted}) accepted"));
        assert!(matches!(reason, Reason::Certificate(_)), "case {number}: {reason}");
        let message = reason.to_string();
        assert!(
            message.starts_with(&which.to_string()) && message.contains(wanted),
            "case {number}: {message}"
        );
    }
}

#[test]
fn a_leaf_that_the_authority_did_not_sign_is_refused() {
    let (own, other) = (OwnInstance::new(), OwnInstance::new());
    let root = own.authority().self_signed(&own.authority_key).expect("a certificate");
    let stranger = Issuer::new(own.authority(), &other.authority_key);
    let certificate = own.leaf().signed_by(&own.project_key, &stranger).expect("a certificate");
    let given = ProjectCertificates {
        certificate: certificate.der(),
        key_evidence: &own.key_evidence,
        authority_certificate: root.der(),
        authority_evidence: &own.authority_evidence,
    };
    let got = reason(&own.policy, given, days_after_start(1));
    let issuer = "rcgen self signed cert".to_owned();
    let problem = CertificateError::Signature { issuer };
    assert_eq!(got, CertificateRefusal::Certificate { which: Which::Project, problem }.into());
}
