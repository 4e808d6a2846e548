//! Secure Execution through `authenticate` and `appraise` as all platforms: what makes an answer convincing, each rule
//! of a policy, and each key of its table. Machines are made up and their host key is of the test PKI: NOT HARDWARE.

mod se_support;

use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, Envelope, pre_authentication_encoding};
use provenance::evidence::{Evidence, Platform};
use provenance::key::PublicKey;
use provenance::secure_execution::{
    ATTESTATION_RESULT_PAYLOAD_TYPE, AttestationResult, InvalidAttestationResult,
    SecureExecutionEndorsements, SecureExecutionEvidence,
};
use provenance::timestamp::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use se_support::{ALL_FLAGS, Answer, Machine, REPORT_DATA, UID, judged_at, make_request, own, test_root};
use verifier::evidence::{
    AppraisalError, AttestationResult as Accepted, AuthenticEvidence, AuthenticationError,
    authenticate_with_grounds,
};
use verifier::policy::{
    HexDigits, Platforms, PolicyTemplate, REFERENCE_VALUES_TYPE, ReferenceValues, SePlatformValues,
    SeReferenceImage, policy_from_reference_values,
};
use verifier::rejection::{Class, Reason};
use verifier::reliance::{EvidenceKind, Grounds, NamedVerifier, Reliance};
use verifier::roots::{Anchors, Revocation, Root};
use verifier::secure_execution::{
    ExchangeError, HostKeyError, ImageTags, OwnRequest, ResultError, SeError, SeRefusal,
};
use verifier::verdict::Link;
use verifier::{Endorsements, Policy};

/// `openssl x509 -pubkey` of DigiCert Trusted Root G4 as DER, SHA-256.
const DIGICERT: &str = "sha256:59df317bfa9f4f0ab7ca514d7772296aa2c765b87664d08b96e57399e364729c";
/// SHA-256 of the policy that the made-up Verifier judges under.
const ITS_POLICY: [u8; 32] = [0x66; 32];

const COMPLETE: &str = r#"format = "sealwright-policy/1"
judged_at = "today"

[hardware]
platforms = ["secure-execution"]
evidence = ["own-request", "attestation-result"]
roots = []
dangerous_roots = ["ROOT"]
revocation = "crl-required"

[secure-execution]
image_host_keys = ["HOSTKEY"]
attestation_host_keys = ["HOSTKEY"] # opens
config_uids = ["UID"]
allow_key_only = false
verifiers = [
  { name = "auditor", public_key = "KEY",
    policies = ["ITSPOLICY"] },
]

[[reference_values]]
name = "sealwright test guest"
guest_version = 1
platform = "secure-execution"
page_list_digest = "PAGES"
address_list_digest = "ADDRESSES"
tweak_list_digest = "TWEAKS"
tag = "TAG"

[guest]
builder_ids = ["https://builder.example"]
trust_configurations = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
build_policies = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]

[request]
callers = [{ name = "ci", spki_sha256 = "sha256:0000000000000000000000000000000000000000000000000000000000000000" }]

[materials]
context = "observed"
named-contexts = "observed"
base-images = "observed"
sources = "observed"
network = "observed"
cache = "observed"
parameters = "observed"
secrets = "committed"
ssh = "none"
engine = "observed"
"#;

fn verifier_key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes")
}

fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_ed25519(key.public_key().as_ref()).expect("a key")
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn sign(key: &Ed25519KeyPair, payload_type: &str, payload: Vec<u8>) -> Vec<u8> {
    let signature = key.sign(&pre_authentication_encoding(payload_type, &payload)).as_ref().to_vec();
    Envelope { payload_type: payload_type.to_owned(), payload, signature }.to_json()
}

#[derive(Clone)]
struct PolicyText(String);

impl PolicyText {
    fn of(machine: &Machine) -> Self {
        let tags = ImageTags::of_header(&machine.header).expect("a header");
        [
            ("ROOT", test_root().to_string()),
            ("[\"HOSTKEY\"]\na", format!("[\"{}\"]\na", machine.hash)),
            ("HOSTKEY", machine.hash.to_string()),
            ("UID", hex::encode(UID)),
            ("KEY", base64(public(&verifier_key(1)).spki_der())),
            ("ITSPOLICY", Sha256Digest::from_bytes(ITS_POLICY).to_string()),
            ("PAGES", hex::encode(tags.page_list_digest())),
            ("ADDRESSES", hex::encode(tags.address_list_digest())),
            ("TWEAKS", hex::encode(tags.tweak_list_digest())),
            ("TAG", hex::encode(tags.tag())),
        ]
        .into_iter()
        .fold(Self(COMPLETE.to_owned()), |text, (from, to)| text.with(from, &to))
    }

    /// Replaces the one place where `from` stands.
    fn with(self, from: &str, to: &str) -> Self {
        assert_eq!(self.0.matches(from).count(), 1, "`{from}` must stand in the policy exactly once");
        Self(self.0.replacen(from, to, 1))
    }

    fn line_of(&self, text: &str) -> usize {
        1 + self.0.lines().position(|line| line.contains(text)).expect("the text stands in the policy")
    }

    fn parse(&self) -> Policy {
        Policy::parse(&self.0, "test.toml").unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> String {
        Policy::parse(&self.0, "test.toml").expect_err("refused").to_string()
    }
}

/// Evidence of a bundle.
fn evidence(machine: &Machine, answer: &Answer) -> Evidence {
    let sent = SecureExecutionEndorsements {
        host_keys: vec![machine.document.clone()],
        certificates: machine.extra.certificates.clone(),
        crls: machine.extra.crls.clone(),
    };
    let response = answer.response();
    Evidence {
        platform: Platform::SecureExecution,
        report: SecureExecutionEvidence { response, header: machine.header.clone() }.encode(),
        endorsements: sent.encode(),
    }
}

fn by_own_request(
    evidence: &Evidence,
    own: OwnRequest,
    policy: &Policy,
) -> Result<AuthenticEvidence, AuthenticationError> {
    let grounds = Grounds { own_requests: &[own], attestation_result: None };
    let none = Endorsements::default();
    authenticate_with_grounds(evidence, &none, grounds, policy.anchors(), judged_at())
}

fn by_result(
    evidence: &Evidence,
    result: &[u8],
    anchors: &Anchors,
    now: Timestamp,
) -> Result<AuthenticEvidence, AuthenticationError> {
    let grounds = Grounds { own_requests: &[], attestation_result: Some(result) };
    authenticate_with_grounds(evidence, &Endorsements::default(), grounds, anchors, now)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(judged_at().unix() + seconds).expect("a time")
}

/// What a Verifier says that saw this answer.
fn result(machine: &Machine, answer: &Answer, evidence: &Evidence) -> AttestationResult {
    let tags = ImageTags::of_header(&machine.header).expect("a header");
    AttestationResult {
        evidence_sha256: Sha256Digest::of(&evidence.report),
        request_sha256: Sha256Digest::of(&answer.request),
        user_data: answer.user_data.clone(),
        image: *tags.as_bytes(),
        image_host_key: machine.hash,
        attestation_host_key: machine.hash,
        config_uid: UID,
        host_key_root: test_root(),
        policy_sha256: Sha256Digest::from_bytes(ITS_POLICY),
        issued_at: at(-10),
        expires_at: at(10),
    }
}

fn signed(result: &AttestationResult) -> Vec<u8> {
    sign(&verifier_key(1), ATTESTATION_RESULT_PAYLOAD_TYPE, result.document())
}

fn se_error(answer: Result<AuthenticEvidence, AuthenticationError>) -> SeError {
    match answer.expect_err("refused") {
        AuthenticationError::SecureExecution(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_to_an_own_request_is_accepted_and_convinces_nobody_else() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let evidence = evidence(&machine, &answer);
    let authentic = by_own_request(&evidence, own(&answer.request), &policy).expect("authentic");
    assert!(authentic.snp().is_none() && authentic.tdx().is_none());
    assert_eq!(authentic.secure_execution().expect("of the platform").claims().config_uid(), &UID);
    let hardware = verifier::evidence::appraise_hardware(authentic, &policy).expect("accepted");
    let lines = hardware.lines().join("\n");
    let request = Sha256Digest::of(&answer.request);
    assert!(lines.contains(&format!("your own attestation request {}", request.short())), "{lines}");
    assert!(lines.starts_with("NOT HARDWARE") && lines.contains("convinces nobody else"), "{lines}");
    let accepted: Accepted = hardware.appraise_guest(&policy).expect("accepted");
    assert_eq!(accepted.platform(), Platform::SecureExecution);
    assert_eq!(accepted.root(), Root::Dangerous(test_root()));
    assert_eq!(accepted.report_data(), ReportData(REPORT_DATA));
    assert_eq!(accepted.reliance(), &Reliance::OwnRequest { request });
    assert_eq!(accepted.reference().name, "sealwright test guest");
    assert_eq!(accepted.chip_id(), Some(machine.hash.hex()));
    assert_eq!(accepted.measurement(), ImageTags::of_header(&machine.header).expect("a header").to_string());
    assert!(accepted.secure_execution().is_some() && accepted.snp().is_none() && accepted.tdx().is_none());
}

#[test]
fn an_answer_to_somebody_else_convinces_only_through_a_verifier() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let evidence = evidence(&machine, &answer);
    let unconvincing = SeError::Unconvincing { request: Sha256Digest::of(&answer.request) };
    let none = Endorsements::default();
    let got = verifier::authenticate(&evidence, &none, policy.anchors(), judged_at());
    assert_eq!(se_error(got), unconvincing);
    let other = own(&make_request(ALL_FLAGS, &[machine.hash, machine.hash]));
    assert_eq!(se_error(by_own_request(&evidence, other, &policy)), unconvincing);
    let reason = Reason::from(AuthenticationError::from(unconvincing));
    assert_eq!((reason.class(), reason.link()), (Class::RefusedByPolicy, Link::Hardware));
    assert!(reason.advice()[0].contains("a request of your own"));

    let result = signed(&result(&machine, &answer, &evidence));
    let authentic = by_result(&evidence, &result, policy.anchors(), judged_at()).expect("authentic");
    let accepted = verifier::appraise(authentic, &policy).expect("accepted");
    let statement = accepted.reliance().statement().expect("a Verifier's");
    assert_eq!(statement.verifier, "auditor");
    assert_eq!(statement.key, public(&verifier_key(1)).spki_sha256());
    assert_eq!(statement.policy_sha256, Sha256Digest::from_bytes(ITS_POLICY));
    assert_eq!((statement.issued_at, statement.expires_at), (at(-10), at(10)));
    assert_eq!(accepted.report_data(), ReportData(REPORT_DATA));
    assert_eq!(accepted.root(), Root::Dangerous(test_root()));
    assert!(accepted.reliance().to_string().contains("relies on the Verifier \"auditor\""));
}

#[test]
fn each_rule_about_a_result_refuses_alone() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let evidence = evidence(&machine, &answer);
    let good = result(&machine, &answer, &evidence);
    let judge = |envelope: &[u8]| by_result(&evidence, envelope, policy.anchors(), judged_at());
    judge(&signed(&good)).expect("authentic");
    let refused = |envelope: &[u8]| match se_error(judge(envelope)) {
        SeError::Result(error) => error,
        other => panic!("{other:?}"),
    };

    let stranger = sign(&verifier_key(2), ATTESTATION_RESULT_PAYLOAD_TYPE, good.document());
    let unknown = ResultError::UnknownVerifier { wanted: vec!["auditor".to_owned()] };
    assert_eq!(refused(&stranger), unknown);
    assert_eq!(
        Reason::from(AuthenticationError::from(SeError::from(unknown))).class(),
        Class::RefusedByPolicy
    );
    let mut altered = Envelope::parse(&signed(&good), 1 << 16).expect("an envelope");
    altered.payload[40] ^= 1;
    assert!(matches!(refused(&altered.to_json()), ResultError::UnknownVerifier { .. }));
    let other_type = sign(&verifier_key(1), "application/json", good.document());
    assert!(matches!(refused(&other_type), ResultError::Envelope(DsseError::PayloadType { .. })));
    assert!(matches!(refused(b"{}"), ResultError::Envelope(DsseError::Shape(_))));
    assert!(matches!(
        refused(&vec![b' '; (64 << 10) + 1]),
        ResultError::Envelope(DsseError::TooLarge { .. })
    ));
    let no_document = sign(&verifier_key(1), ATTESTATION_RESULT_PAYLOAD_TYPE, b"{}".to_vec());
    assert!(matches!(refused(&no_document), ResultError::Invalid(InvalidAttestationResult::Canonical(_))));

    let wanted = Sha256Digest::of(&evidence.report);
    let got = Sha256Digest::of(b"other Evidence");
    let other = AttestationResult { evidence_sha256: got, ..good.clone() };
    assert_eq!(refused(&signed(&other)), ResultError::OtherEvidence { got, wanted });

    let with_root = AttestationResult { host_key_root: got, ..good.clone() };
    assert_eq!(se_error(judge(&signed(&with_root))), HostKeyError::UnknownRoot { got }.into());

    let judge_at = |now| by_result(&evidence, &signed(&good), policy.anchors(), now);
    judge_at(at(-10)).expect("from the moment it is issued");
    judge_at(at(9)).expect("until it expires");
    let early = ResultError::NotYetValid { issued_at: at(-10), now: at(-11) };
    assert_eq!(se_error(judge_at(at(-11))), early.into());
    let late = SeError::from(ResultError::Expired { expires_at: at(10), now: at(10) });
    assert_eq!(se_error(judge_at(at(10))), late);
    let reason = Reason::from(AuthenticationError::from(late));
    assert_eq!(reason.class(), Class::Endorsements);
    assert!(reason.advice()[0].contains("new Attestation Result"));
}

#[test]
fn the_root_above_ibm_s_keys_counts_only_where_it_is_accepted() {
    let Some(machine) = Machine::new() else { return };
    let answer = machine.answer(ALL_FLAGS);
    let evidence = evidence(&machine, &answer);
    let host_key_root = DIGICERT.parse().expect("a digest");
    let result = signed(&AttestationResult { host_key_root, ..result(&machine, &answer, &evidence) });
    let auditor = NamedVerifier { name: "auditor".to_owned(), key: public(&verifier_key(1)) };
    let anchors = Anchors::vendor(&[], Revocation::CrlRequired).with_verifiers(&[auditor]);
    assert_eq!(se_error(by_result(&evidence, &result, &anchors, judged_at())), SeError::RootNotAccepted);
    let refusal = Reason::from(AuthenticationError::from(SeError::RootNotAccepted));
    assert_eq!(refusal.class(), Class::RefusedByPolicy);
    let authentic = by_result(&evidence, &result, &anchors.with_ibm(), judged_at()).expect("authentic");
    assert!(authentic.secure_execution().expect("of the platform").root().is_hardware());
    assert!(Root::Ibm.is_hardware());
}

#[test]
fn an_own_request_goes_before_a_result_and_host_keys_must_lead_to_an_accepted_root() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let evidence = evidence(&machine, &answer);
    let grounds = Grounds { own_requests: &[own(&answer.request)], attestation_result: Some(b"damaged") };
    let none = Endorsements::default();
    let authentic = authenticate_with_grounds(&evidence, &none, grounds, policy.anchors(), judged_at());
    assert!(authentic.is_ok());
    let vendor = Anchors::vendor(&[], Revocation::CrlRequired).with_ibm();
    let got = authenticate_with_grounds(&evidence, &none, grounds, &vendor, judged_at());
    assert_eq!(se_error(got), HostKeyError::UnknownRoot { got: test_root() }.into());
}

#[test]
fn host_key_documents_and_their_chain_may_be_given_beside_the_evidence() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let bare = Evidence { endorsements: Vec::new(), ..evidence(&machine, &answer) };
    let own = [own(&answer.request)];
    let judge = |extra: &Endorsements| {
        let grounds = Grounds { own_requests: &own, attestation_result: None };
        authenticate_with_grounds(&bare, extra, grounds, policy.anchors(), judged_at())
    };
    let missing = SeError::UnknownSlot { slot: 0, got: machine.hash };
    assert_eq!(se_error(judge(&Endorsements::default())), missing);
    assert_eq!(Reason::from(AuthenticationError::from(missing)).class(), Class::Endorsements);
    let mut extra = machine.extra.clone();
    assert!(matches!(se_error(judge(&extra)), SeError::UnknownSlot { .. }));
    extra.certificates.push(machine.document.clone());
    judge(&extra).expect("authentic");
    // The command offers a bare DER file as both, and gives what is of other platforms too.
    extra.crls.insert(0, machine.document.clone());
    extra.certificates.insert(0, extra.crls[1].clone());
    judge(&extra).expect("authentic");
}

#[test]
fn malformed_evidence_is_refused_before_anything_else() {
    let Some(machine) = Machine::new() else { return };
    let (answer, policy) = (machine.answer(ALL_FLAGS), PolicyText::of(&machine).parse());
    let good = evidence(&machine, &answer);
    let with = |report: Vec<u8>, endorsements: Vec<u8>| {
        let evidence = Evidence { report, endorsements, platform: Platform::SecureExecution };
        se_error(by_own_request(&evidence, own(&answer.request), &policy))
    };
    assert!(matches!(with(vec![0; 5000], good.endorsements.clone()), SeError::Bytes(_)));
    assert!(matches!(with(good.report.clone(), vec![0; 5]), SeError::Bytes(_)));
    let no_response = SecureExecutionEvidence { response: vec![0; 8], header: machine.header.clone() };
    assert_eq!(
        with(no_response.encode(), good.endorsements.clone()),
        ExchangeError::Length { got: 8 }.into()
    );
}

#[test]
fn a_result_with_evidence_that_the_hardware_signs_is_refused() {
    for platform in [Platform::SevSnp, Platform::Tdx] {
        let evidence = Evidence { platform, report: Vec::new(), endorsements: Vec::new() };
        let anchors = Anchors::vendor(&[], Revocation::CrlRequired);
        let error = by_result(&evidence, b"result", &anchors, judged_at()).expect_err("refused");
        assert_eq!(error, AuthenticationError::UnexpectedResult { platform });
        assert_eq!(Reason::from(error).class(), Class::NotAuthentic);
    }
}

/// What a changed policy says about good Evidence.
fn refusal(machine: &Machine, text: &PolicyText, by_verifier: bool) -> AppraisalError {
    let answer = machine.answer(ALL_FLAGS);
    let (evidence, policy) = (evidence(machine, &answer), text.parse());
    let authentic = if by_verifier {
        let result = signed(&result(machine, &answer, &evidence));
        by_result(&evidence, &result, policy.anchors(), judged_at())
    } else {
        by_own_request(&evidence, own(&answer.request), &policy)
    };
    verifier::appraise(authentic.expect("authentic"), &policy).expect_err("refused")
}

#[test]
fn each_rule_of_a_policy_refuses_alone() {
    let Some(machine) = Machine::new() else { return };
    let good = PolicyText::of(&machine);
    let other = Sha256Digest::of(b"another");
    let hash = machine.hash.to_string();

    let kinds = good.clone().with("[\"own-request\", \"attestation-result\"]", "[\"attestation-result\"]");
    let line = kinds.line_of("evidence = ");
    let (got, wanted) = (EvidenceKind::OwnRequest, vec![EvidenceKind::AttestationResult]);
    assert_eq!(refusal(&machine, &kinds, false), SeRefusal::Kind { got, wanted, line }.into());

    let its = good.clone().with(&Sha256Digest::from_bytes(ITS_POLICY).to_string(), &other.to_string());
    let line = its.line_of("policies = ");
    let got = Sha256Digest::from_bytes(ITS_POLICY);
    let verifier = "auditor".to_owned();
    let refused = SeRefusal::VerifierPolicy { verifier, got, wanted: vec![other], line };
    assert_eq!(refusal(&machine, &its, true), refused.into());

    let (got, wanted) = (machine.hash, vec![other]);
    let image = good
        .clone()
        .with(&format!("image_host_keys = [\"{hash}\"]"), &format!("image_host_keys = [\"{other}\"]"));
    let line = image.line_of("image_host_keys");
    let refused = SeRefusal::ImageHostKey { got, wanted: wanted.clone(), line };
    assert_eq!(refusal(&machine, &image, false), refused.into());
    let opens = good.clone().with(&format!("[\"{hash}\"] # opens"), &format!("[\"{other}\"]"));
    let line = opens.line_of("attestation_host_keys");
    let refused = SeRefusal::AttestationHostKey { got, wanted, line };
    assert_eq!(refusal(&machine, &opens, false), refused.into());

    let uid = good.clone().with(&hex::encode(UID), &"00".repeat(16));
    let line = uid.line_of("config_uids");
    let refused = SeRefusal::ConfigUid { got: hex::encode(UID), wanted: vec!["00".repeat(16)], line };
    assert_eq!(refusal(&machine, &uid, true), refused.into());

    let tags = ImageTags::of_header(&machine.header).expect("a header");
    for part in ["page_list_digest", "address_list_digest", "tweak_list_digest", "tag"] {
        let at = good.line_of(&format!("\n{part}").replace('\n', "")) - 1;
        let mut lines: Vec<String> = good.0.lines().map(str::to_owned).collect();
        let changed = if lines[at].contains("= \"0") { "= \"1" } else { "= \"0" };
        let start = lines[at].find("= \"").expect("a value");
        lines[at].replace_range(start..start + 4, changed);
        let image = PolicyText(lines.join("\n"));
        let refused = refusal(&machine, &image, false);
        let line = good.line_of("page_list_digest");
        assert!(
            matches!(&refused, AppraisalError::SecureExecution(SeRefusal::Image { got, wanted, line: at })
                if *got == tags && wanted.len() == 1 && wanted[0] != tags && *at == line),
            "{part}: {refused:?}"
        );
        assert!(refused.concerns_guest());
        assert_eq!(refused.line(), Some(line));
    }
}

#[test]
fn user_data_must_have_room_for_report_data() {
    let Some(machine) = Machine::new() else { return };
    let policy = PolicyText::of(&machine).parse();
    for got in [0, 63] {
        let answer = Answer { user_data: vec![0x15; got], ..machine.answer(ALL_FLAGS) };
        let evidence = evidence(&machine, &answer);
        let authentic = by_own_request(&evidence, own(&answer.request), &policy).expect("authentic");
        let refusal = verifier::appraise(authentic, &policy).expect_err("too short");
        assert_eq!(refusal, SeRefusal::UserDataLength { got }.into());
        assert_eq!(refusal.line(), None);
    }
    let answer = Answer { user_data: REPORT_DATA.to_vec(), ..machine.answer(ALL_FLAGS) };
    let evidence = evidence(&machine, &answer);
    let authentic = by_own_request(&evidence, own(&answer.request), &policy).expect("authentic");
    verifier::appraise(authentic, &policy).expect("just enough");
}

#[test]
fn any_run_is_accepted_only_where_that_is_said() {
    let Some(machine) = Machine::new() else { return };
    let uids = format!("[\"{}\"]", hex::encode(UID));
    let any = PolicyText::of(&machine).with(&uids, "\"any-run\"").parse();
    let answer = Answer { config_uid: vec![0x99; 16], ..machine.answer(ALL_FLAGS) };
    let authentic = by_own_request(&evidence(&machine, &answer), own(&answer.request), &any);
    verifier::appraise(authentic.expect("authentic"), &any).expect("accepted");
    let error = PolicyText::of(&machine).with(&uids, "\"all\"").error();
    assert!(error.contains("secure-execution.config_uids` is \"all\", wanted \"any-run\""), "{error}");
    let error = PolicyText::of(&machine).with(&uids, "[]").error();
    assert!(error.contains("config_uids` is empty"), "{error}");
}

#[test]
fn every_key_of_the_table_is_mandatory_and_no_other_is_known() {
    let Some(machine) = Machine::new() else { return };
    let good = PolicyText::of(&machine);
    good.parse();
    for key in [
        "image_host_keys",
        "attestation_host_keys",
        "config_uids",
        "allow_key_only",
        "page_list_digest",
        "address_list_digest",
        "tweak_list_digest",
        "tag",
    ] {
        let at = good.line_of(&format!("{key} = "));
        let without: Vec<&str> =
            good.0.lines().enumerate().filter(|(n, _)| n + 1 != at).map(|(_, line)| line).collect();
        let error = PolicyText(without.join("\n")).error();
        assert!(error.contains("mandatory key") && error.contains(&format!(".{key}`")), "{key}: {error}");
    }
    for (from, to, says) in [
        ("verifiers = [", "others = [", "mandatory key `secure-execution.verifiers` is missing"),
        ("allow_key_only", "colour = 1\nallow_key_only", "unknown key `secure-execution.colour`"),
        ("allow_key_only = false", "allow_key_only = 0", "wanted true or false"),
        ("name = \"auditor\",", "", "mandatory key `secure-execution.verifiers[0].name` is missing"),
        (
            "name = \"auditor\",",
            "name = \"auditor\", id = 1,",
            "unknown key `secure-execution.verifiers[0].id`",
        ),
        ("public_key = \"M", "public_key = \"-", "is neither PEM nor base64"),
        ("tag = \"", "tag = \"0", "has 33 characters, wanted 32 lower-case hex digits"),
        ("page_list_digest = \"", "page_list_digest = \"0", "has 129 characters, wanted 128"),
        (
            "platforms = [\"secure-execution\"]",
            "platforms = [\"cca\"]",
            "wanted \"sev-snp\", \"tdx\" or \"secure-execution\"",
        ),
        ("dangerous_roots", "# dangerous_roots", "name at least one vendor root"),
    ] {
        let error = good.clone().with(from, to).error();
        assert!(error.contains(says), "{from} as {to}: {error}");
    }
    let upper = good.clone().with(&hex::encode(UID), &format!("{}AA", &hex::encode(UID)[2..]));
    assert!(upper.error().contains("has 32 characters, wanted 32 lower-case hex digits"));
}

#[test]
fn kinds_of_evidence_and_verifiers_must_agree_with_the_platforms() {
    let Some(machine) = Machine::new() else { return };
    let good = PolicyText::of(&machine);
    let both = "[\"own-request\", \"attestation-result\"]";
    for (kinds, says) in [
        ("[]", "is empty"),
        ("[\"hardware\", \"own-request\"]", "which Secure Execution cannot give"),
        ("[\"own-request\"]", "names a Verifier, but `hardware.evidence` has no \"attestation-result\""),
        ("[\"rumour\"]", "wanted \"hardware\" or \"own-request\" or \"attestation-result\""),
    ] {
        let error = good.clone().with(both, kinds).error();
        assert!(error.contains(says), "{kinds}: {error}");
    }
    let start = good.0.find("verifiers = [").expect("the key");
    let end = start + good.0[start..].find("\n]").expect("its end") + 2;
    let named = good.0[start..end].to_owned();
    let nobody = good.clone().with(&named, "verifiers = []");
    assert!(nobody.error().contains("name at least one Verifier"));
    let own_only = nobody.with(both, "[\"own-request\"]");
    own_only.parse();
    let key_only = own_only.with("allow_key_only = false", "allow_key_only = true");
    assert!(key_only.error().contains("is true, but `hardware.evidence` has no \"attestation-result\""));
    let unused = good.clone().with("platforms = [\"secure-execution\"]", "platforms = [\"tdx\"]");
    assert!(unused.error().contains("has no \"hardware\""), "{}", unused.error());
    let unused = unused.with(both, "[\"hardware\", \"own-request\"]");
    assert!(unused.error().contains("which `hardware.platforms` does not have"), "{}", unused.error());
    let table = unused.with("[\"hardware\", \"own-request\"]", "[\"hardware\"]");
    let tdx = "[tdx]\ntcb_statuses = [\"UpToDate\"]\nminimum_tcb_evaluation_data_number = 0\n\
        modules = \"endorsed\"\nattributes_allowed = []\nxfam_allowed = 0\nallow_td_1_0 = true\n\n\
        [secure-execution]";
    let table = table.with("[secure-execution]", tdx);
    let error = table.error();
    assert!(error.contains("`secure-execution` is there, but `hardware.platforms` has no"), "{error}");
}

#[test]
fn a_policy_is_written_from_reference_values_of_an_image() {
    let Some(machine) = Machine::new() else { return };
    let tags = ImageTags::of_header(&machine.header).expect("a header");
    let digits = |bytes: &[u8]| HexDigits::try_from(hex::encode(bytes)).expect("digits");
    let image = SeReferenceImage {
        address_list_digest: digits(tags.address_list_digest()),
        page_list_digest: digits(tags.page_list_digest()),
        tag: digits(tags.tag()),
        tweak_list_digest: digits(tags.tweak_list_digest()),
    };
    let nobody = Sha256Digest::from_bytes([0; 32]);
    let values = ReferenceValues {
        build_policies: vec![nobody],
        builder_ids: vec!["https://builder.example".to_owned()],
        dangerous_roots: Vec::new(),
        guest_version: 3,
        name: "sealwright test guest".to_owned(),
        platforms: Platforms {
            secure_execution: Some(SePlatformValues { host_keys: vec![machine.hash], images: vec![image] }),
            ..Platforms::default()
        },
        trust_configurations: vec![nobody],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    };
    assert_eq!(ReferenceValues::parse(&values.document()), Ok(values.clone()));
    let template = PolicyTemplate {
        callers: vec![("ci".to_owned(), public(&verifier_key(3)))],
        ..PolicyTemplate::default()
    };
    let text = policy_from_reference_values(&values, &template);
    let policy = Policy::parse(&text, "new.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(!policy.is_dangerous() && policy.anchors().accepts_ibm());
    assert_eq!(policy.evidence_kinds().value, [EvidenceKind::OwnRequest]);
    let dangerous = PolicyTemplate { dangerous_roots: vec![test_root()], ..template };
    let text = policy_from_reference_values(&values, &dangerous);
    let policy = Policy::parse(&text, "new.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(policy.is_dangerous() && !policy.anchors().accepts_ibm());
    let answer = machine.answer(ALL_FLAGS);
    let authentic = by_own_request(&evidence(&machine, &answer), own(&answer.request), &policy);
    let accepted = verifier::appraise(authentic.expect("authentic"), &policy).expect("accepted");
    assert_eq!(accepted.reference().guest_version, 3);

    let mut wrong = values;
    wrong.platforms.secure_execution = Some(SePlatformValues { host_keys: Vec::new(), images: Vec::new() });
    assert!(ReferenceValues::parse(&wrong.document()).is_err(), "no image");
    assert!(HexDigits::try_from("AB".repeat(16)).is_err() && HexDigits::try_from("ab".repeat(15)).is_err());
}
