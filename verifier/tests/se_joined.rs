//! Secure Execution through `authenticate` and `appraise` as all platforms: what makes an answer convincing, and each
//! rule of a policy. Machines are made up and their host key is of the test PKI: NOT HARDWARE.

mod se_support;

use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, Envelope, pre_authentication_encoding};
use provenance::evidence::{Evidence, Platform};
use provenance::secure_execution::{
    ATTESTATION_RESULT_PAYLOAD_TYPE, AttestationResult, InvalidAttestationResult, SecureExecutionEvidence,
};
use provenance::timestamp::Timestamp;
use ring::signature::Ed25519KeyPair;
use se_support::policy::{ITS_POLICY, PolicyText, by_own_request, evidence, public, verifier_key};
use se_support::{ALL_FLAGS, Answer, Machine, REPORT_DATA, UID, judged_at, make_request, own, test_root};
use verifier::Endorsements;
use verifier::bound::BindingError;
use verifier::evidence::{
    AppraisalError, AttestationResult as Accepted, AuthenticEvidence, AuthenticationError,
    authenticate_with_grounds,
};
use verifier::rejection::{Class, Reason};
use verifier::reliance::{EvidenceKind, Grounds, NamedVerifier, Reliance};
use verifier::roots::{Anchors, Revocation, Root};
use verifier::secure_execution::{ExchangeError, HostKeyError, ImageTags, ResultError, SeError, SeRefusal};
use verifier::verdict::Link;

/// `openssl x509 -pubkey` of DigiCert Trusted Root G4 as DER, SHA-256.
const DIGICERT: &str = "sha256:59df317bfa9f4f0ab7ca514d7772296aa2c765b87664d08b96e57399e364729c";
fn sign(key: &Ed25519KeyPair, payload_type: &str, payload: Vec<u8>) -> Vec<u8> {
    let signature = key.sign(&pre_authentication_encoding(payload_type, &payload)).as_ref().to_vec();
    Envelope { payload_type: payload_type.to_owned(), payload, signature }.to_json()
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

/// Why an answer is not one for report data of zeros, with the place in the response where they are looked for.
fn other_report_data(answer: &Answer) -> Result<(), BindingError> {
    let response = answer.response();
    let parts = response.windows(REPORT_DATA.len()).enumerate();
    let found: Vec<usize> = parts.filter(|(_, part)| *part == REPORT_DATA).map(|(at, _)| at).collect();
    let [offset] = found[..] else { panic!("report data stand at {found:?}") };
    Err(BindingError::ReportData { got: ReportData(REPORT_DATA), wanted: ReportData([0; 64]), offset })
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
    assert_eq!(accepted.check_report_data(&ReportData(REPORT_DATA)), Ok(()));
    assert_eq!(accepted.check_report_data(&ReportData([0; 64])), other_report_data(&answer));
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
    assert_eq!(accepted.check_report_data(&ReportData(REPORT_DATA)), Ok(()));
    assert_eq!(accepted.check_report_data(&ReportData([0; 64])), other_report_data(&answer));
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
    let words = "Attestation Result is signed by none of the Verifiers that the policy names: ";
    assert_eq!(unknown.to_string(), format!("{words}auditor"));
    let nobody = ResultError::UnknownVerifier { wanted: Vec::new() };
    assert_eq!(nobody.to_string(), format!("{words}it names none"));
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
    let refused = SeRefusal::Kind { got, wanted, line };
    assert_eq!(refused.to_string(), "Evidence is of kind own-request, policy accepts attestation-result");
    assert_eq!(refusal(&machine, &kinds, false), refused.into());

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
    assert_eq!(
        refused.to_string(),
        format!("image was unpacked with the host key {got}, policy accepts {other}")
    );
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
