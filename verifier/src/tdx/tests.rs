//! Checks that no recorded quote can show alone: quotes made here are well formed and signed by nobody, so that
//! they reach the steps after the signatures.

use provenance::timestamp::Timestamp;
use serde_json::{Value, json};

use super::appraise::{TdxRefusal, appraise_hardware};
use super::collateral::{QeIdentity, TcbInfo};
use super::pck::PckFacts;
use super::quote::{
    BODY_1_0_LEN, BODY_1_5_LEN, MAX_QUOTE, QE_REPORT_LEN, body, qe_report, signature_data, td_attributes,
};
use super::tcb::{TcbStatus, TcbVerdict, judge};
use super::{
    AuthenticQuote, BodyType, CertificateName, ChainName, Document, PemError, Quote, QuoteError, SignedQuote,
    TdxError,
};
use crate::policy::{AcceptedModules, Placed, TdAttribute, TdxPolicy, TdxRegister};
use crate::roots::Root;

const GOOD_ATTRIBUTES: u64 = td_attributes::SEPT_VE_DISABLE;

/// Body and report of the Quoting Enclave of a quote, before it is put together.
struct Parts {
    body: Vec<u8>,
    qe: Vec<u8>,
}

impl Parts {
    fn new(length: usize) -> Self {
        let mut parts = Self { body: vec![0; length], qe: vec![0; QE_REPORT_LEN] };
        parts.set(body::TDATTRIBUTES, &GOOD_ATTRIBUTES.to_le_bytes());
        parts.set(body::TEE_TCB_SVN, &[6, 1, 8]);
        if length == BODY_1_5_LEN {
            parts.set(body::TEE_TCB_SVN2, &[6, 1, 8]);
        }
        parts.qe[qe_report::ISVPRODID] = 2;
        parts.qe[qe_report::ISVSVN] = 4;
        parts
    }

    fn set(&mut self, field: usize, bytes: &[u8]) -> &mut Self {
        self.body[field..field + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn set_qe(&mut self, field: usize, bytes: &[u8]) -> &mut Self {
        self.qe[field..field + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn quote(&self) -> Quote {
        Quote::parse(&self.raw()).expect("well formed")
    }

    /// The quote: version 4 for TD 1.0, version 5 for TD 1.5.
    fn raw(&self) -> Vec<u8> {
        let mut raw = vec![0; 48];
        raw[0] = if self.body.len() == BODY_1_0_LEN { 4 } else { 5 };
        raw[2] = 2;
        raw[4] = 0x81;
        raw[12..28].copy_from_slice(&hex::decode("939a7233f79c4ca9940a0db3957f0607").expect("hex"));
        let size = |length: usize| u32::try_from(length).expect("small").to_le_bytes();
        if raw[0] == 5 {
            raw.extend([3, 0]);
            raw.extend(size(BODY_1_5_LEN));
        }
        raw.extend(&self.body);
        let certification = QE_REPORT_LEN + 64 + 2 + 2 + 4;
        raw.extend(size(64 + 64 + 2 + 4 + certification));
        raw.extend([0; 128]);
        raw.extend([6, 0]);
        raw.extend(size(certification));
        raw.extend(&self.qe);
        raw.extend([0; 64]);
        raw.extend([0, 0, 5, 0, 0, 0, 0, 0]);
        raw
    }
}

fn td15() -> Parts {
    Parts::new(BODY_1_5_LEN)
}

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

fn facts() -> PckFacts {
    let components = [7; 16];
    PckFacts { fmspc: [0; 6], pceid: [0; 2], pcesvn: 11, components, cpusvn: [0; 16], configuration: None }
}

fn authentic(quote: Quote) -> AuthenticQuote {
    let tcb = TcbVerdict {
        status: TcbStatus::UpToDate,
        advisory_ids: Vec::new(),
        tcb_date: time("2024-11-13T00:00:00Z"),
        evaluation_data_number: 18,
        next_update: time("2026-03-20T00:00:00Z"),
    };
    let signed = SignedQuote { quote, root: Root::Intel, facts: facts(), chain: Default::default() };
    AuthenticQuote { signed, tcb }
}

fn placed<T>(value: T) -> Placed<T> {
    Placed { value, line: 7 }
}

fn rules(attributes: &[TdAttribute]) -> TdxPolicy {
    TdxPolicy {
        tcb_statuses: placed(vec![TcbStatus::UpToDate]),
        minimum_tcb_evaluation_data_number: placed(18),
        modules: placed(AcceptedModules::Endorsed),
        attributes_allowed: placed(attributes.to_vec()),
        xfam_allowed: placed(0x602e7),
        allow_td_1_0: placed(true),
    }
}

fn with_attributes(attributes: u64, allowed: &[TdAttribute]) -> Result<(), TdxRefusal> {
    let quote = td15().set(body::TDATTRIBUTES, &attributes.to_le_bytes()).quote();
    appraise_hardware(&authentic(quote), &rules(allowed))
}

#[test]
fn a_td_under_debug_is_refused_whatever_the_policy_allows() {
    for bit in 0..8 {
        let attributes = GOOD_ATTRIBUTES | 1 << bit;
        assert_eq!(
            with_attributes(attributes, &TdAttribute::ALL),
            Err(TdxRefusal::Debug { attributes, offset: 54 + 120 })
        );
    }
}

#[test]
fn a_td_that_can_migrate_is_refused_whatever_the_policy_allows() {
    let attributes = GOOD_ATTRIBUTES | td_attributes::MIGRATABLE;
    assert_eq!(
        with_attributes(attributes, &TdAttribute::ALL),
        Err(TdxRefusal::Migratable { attributes, offset: 54 + 120 })
    );
}

#[test]
fn a_td_whose_memory_can_vanish_is_refused_whatever_the_policy_allows() {
    assert_eq!(
        with_attributes(0, &TdAttribute::ALL),
        Err(TdxRefusal::SeptVeEnabled { attributes: 0, offset: 54 + 120 })
    );
}

#[test]
fn each_attribute_is_accepted_when_the_policy_lists_it_and_only_then() {
    assert_eq!(with_attributes(GOOD_ATTRIBUTES, &[]), Ok(()));
    for attribute in TdAttribute::ALL {
        let attributes = GOOD_ATTRIBUTES | attribute.bit();
        assert_eq!(with_attributes(attributes, &[attribute]), Ok(()));
        let others: Vec<_> = TdAttribute::ALL.into_iter().filter(|other| *other != attribute).collect();
        match with_attributes(attributes, &others) {
            Err(TdxRefusal::Attribute { what, line: 7, .. }) => {
                assert!(what.starts_with(attribute.name()), "{what}");
            }
            other => panic!("{}: {other:?}", attribute.name()),
        }
    }
}

#[test]
fn an_attribute_that_nobody_knows_cannot_be_listed() {
    for bit in (8..27).chain(32..62) {
        let answer = with_attributes(GOOD_ATTRIBUTES | 1 << bit, &TdAttribute::ALL);
        assert!(matches!(answer, Err(TdxRefusal::Attribute { .. })), "bit {bit}: {answer:?}");
    }
}

#[test]
fn a_bound_service_td_is_refused_and_a_td_1_0_body_only_where_the_policy_says_so() {
    let quote = td15().set(body::MRSERVICETD + 47, &[1]).quote();
    let answer = appraise_hardware(&authentic(quote), &rules(&[]));
    assert!(matches!(answer, Err(TdxRefusal::ServiceTd { offset: 654, .. })), "{answer:?}");

    let td10 = authentic(Parts::new(BODY_1_0_LEN).quote());
    assert_eq!(appraise_hardware(&td10, &rules(&[])), Ok(()));
    let strict = TdxPolicy { allow_td_1_0: placed(false), ..rules(&[]) };
    assert_eq!(appraise_hardware(&td10, &strict), Err(TdxRefusal::BodyType { line: 7 }));
}

#[test]
fn a_revoked_level_is_refused_under_every_policy() {
    let mut revoked = authentic(td15().quote());
    revoked.tcb.status = TcbStatus::Revoked;
    let all = TdxPolicy { tcb_statuses: placed(TcbStatus::ACCEPTABLE.to_vec()), ..rules(&[]) };
    let answer = appraise_hardware(&revoked, &all);
    assert!(matches!(answer, Err(TdxRefusal::TcbStatus { got: TcbStatus::Revoked, .. })), "{answer:?}");
}

#[test]
fn a_quote_of_version_5_can_have_a_td_1_0_body() {
    let mut raw = vec![5, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
    raw.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").expect("hex"));
    raw.extend([0; 20]);
    raw.extend([2, 0]);
    raw.extend(584_u32.to_le_bytes());
    let whole = Parts::new(BODY_1_0_LEN).quote();
    raw.extend(&whole.signed_bytes()[48..]);
    // The signature data of the other quote, from its length on.
    let data = 4 + 64 + 64 + 2 + 4 + QE_REPORT_LEN + 64 + 2 + 2 + 4;
    let mut tail = vec![0; data];
    tail[..4].copy_from_slice(&u32::try_from(data - 4).expect("small").to_le_bytes());
    tail[4 + 128] = 6;
    tail[4 + 130..4 + 134].copy_from_slice(&u32::try_from(data - 4 - 134).expect("small").to_le_bytes());
    tail[4 + 584] = 5;
    raw.extend(tail);
    let quote = Quote::parse(&raw).expect("well formed");
    assert_eq!((quote.version(), quote.body_type()), (5, BodyType::Td10));
    assert_eq!(quote.td_attributes(), GOOD_ATTRIBUTES);
    assert_eq!((quote.tee_tcb_svn2(), quote.mrservicetd()), (None, None));
    assert_eq!(quote.signed_bytes().len(), 54 + 584);

    let with = |at: usize, byte: u8| {
        let mut altered = raw.clone();
        altered[at] = byte;
        Quote::parse(&altered).expect_err("refused")
    };
    assert_eq!(with(0, 3), QuoteError::Version { got: 3 });
    assert_eq!(with(2, 3), QuoteError::AttestationKeyType { got: 3 });
    assert_eq!(with(4, 0), QuoteError::TeeType { got: 0 });
    assert_eq!(with(48, 1), QuoteError::BodyType { got: 1 });
    assert_eq!(with(48, 3), QuoteError::Size { what: "the body", offset: 50, got: 584, wanted: 648 });
    assert!(matches!(with(12, 0), QuoteError::QeVendor { .. }));
}

#[test]
fn what_is_wrong_with_the_end_of_a_quote_is_told_with_its_offset() {
    let raw = td15().raw();
    let auth = 54 + BODY_1_5_LEN + 4 + signature_data::QE_AUTH;
    assert_eq!(raw.len(), auth + 6, "type and size of an empty chain");
    let with = |at: usize, byte: u8| {
        let mut altered = raw.clone();
        altered[at] = byte;
        Quote::parse(&altered).map(|_| ())
    };
    let what = "the QE authentication data";
    assert_eq!(with(auth - 2, 7), Err(QuoteError::Truncated { what, offset: auth, wanted: 7, got: 6 }));
    let what = "the PCK certificate chain";
    assert_eq!(with(auth + 2, 1), Err(QuoteError::Size { what, offset: auth + 2, got: 1, wanted: 0 }));

    let padded =
        |padding: &[u8]| Quote::parse(&[&raw, padding].concat()).expect("well formed").check_padding();
    assert_eq!(padded(&[]), Ok(()));
    assert_eq!(padded(&[0; 9]), Ok(()));
    let offset = raw.len();
    assert_eq!(padded(&[4, 0, 5]), Err(QuoteError::Trailing { offset, got: 4 }));
    assert_eq!(padded(&[0, 0, 5]), Err(QuoteError::Trailing { offset: offset + 2, got: 5 }));

    let long = |length: usize| {
        let mut long = raw.clone();
        long.resize(length, 0);
        Quote::parse(&long).map(|_| ())
    };
    assert_eq!(long(MAX_QUOTE), Ok(()));
    assert_eq!(long(MAX_QUOTE + 1), Err(QuoteError::TooLarge { got: MAX_QUOTE + 1 }));
}

#[test]
fn each_register_is_read_from_where_messages_say_that_it_stands() {
    let mut parts = td15();
    for (register, byte) in TdxRegister::ALL.into_iter().zip(1..) {
        parts.set(register.offset(), &[byte; 48]);
    }
    let quote = parts.quote();
    for (register, byte) in TdxRegister::ALL.into_iter().zip(1..) {
        assert_eq!(register.of(&quote), &[byte; 48], "{register}");
    }
}

#[test]
fn reserved_fields_of_what_is_signed_must_be_zero() {
    assert_eq!(td15().quote().check_signed_form(), Ok(()));
    for field in [
        qe_report::RESERVED_20,
        qe_report::ISVEXTPRODID - 1,
        qe_report::RESERVED_96,
        qe_report::RESERVED_160 + 31,
        qe_report::ISVFAMILYID - 1,
    ] {
        let quote = td15().set_qe(field, &[9]).quote();
        let offset = 54 + BODY_1_5_LEN + 4 + 134 + field;
        assert_eq!(quote.check_signed_form(), Err(QuoteError::Reserved { offset, got: 9 }));
    }
}

fn components(first: [u8; 3], rest: u8) -> Value {
    let mut all = vec![json!({ "svn": rest }); 16];
    for (component, svn) in all.iter_mut().zip(first) {
        *component = json!({ "svn": svn, "category": "OS/VMM", "type": "TDX Module" });
    }
    Value::from(all)
}

fn level(tcb: Value, date: &str, status: &str, advisories: &[&str]) -> Value {
    json!({ "tcb": tcb, "tcbDate": date, "tcbStatus": status, "advisoryIDs": advisories })
}

/// Platform levels: SGX components 7 with TDX microcode 8, and 5 with 5. Module 1: SVN 6 and 4. Module 3: SVN 3.
fn tcb_info() -> Value {
    let platform = |sgx: u8, microcode: u8, date, status, advisories: &[&str]| {
        let tcb = json!({
            "sgxtcbcomponents": components([sgx; 3], sgx),
            "pcesvn": 11,
            "tdxtcbcomponents": components([5, 0, microcode], 0),
        });
        level(tcb, date, status, advisories)
    };
    let (signer, none, mask) = ("00".repeat(48), "00".repeat(8), "FF".repeat(8));
    let module = |id: &str, levels: Vec<Value>| json!({ "id": id, "mrsigner": signer, "attributes": none, "attributesMask": mask, "tcbLevels": levels });
    let isv = |svn: u16, date, status, advisories: &[&str]| {
        level(json!({ "isvsvn": svn }), date, status, advisories)
    };
    json!({
        "id": "TDX", "version": 3,
        "issueDate": "2026-02-18T00:00:00Z", "nextUpdate": "2026-03-20T00:00:00Z",
        "fmspc": "000000000000", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 18,
        "tdxModule": { "mrsigner": signer, "attributes": none, "attributesMask": mask },
        "tdxModuleIdentities": [
            module("TDX_03", vec![isv(3, "2024-11-13T00:00:00Z", "UpToDate", &[])]),
            module("TDX_01", vec![
                isv(6, "2024-11-13T00:00:00Z", "UpToDate", &[]),
                isv(4, "2024-03-13T00:00:00Z", "OutOfDate", &["INTEL-SA-01036"]),
            ]),
        ],
        "tcbLevels": [
            platform(7, 8, "2024-11-13T00:00:00Z", "UpToDate", &[]),
            platform(5, 5, "2023-08-09T00:00:00Z", "OutOfDate", &["INTEL-SA-00960", "INTEL-SA-01036"]),
        ],
    })
}

fn qe_identity() -> Value {
    json!({
        "id": "TD_QE", "version": 2,
        "issueDate": "2026-02-18T00:00:00Z", "nextUpdate": "2026-03-19T00:00:00Z",
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "00000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "00".repeat(32), "isvprodid": 2,
        "tcbLevels": [
            level(json!({ "isvsvn": 4 }), "2024-11-13T00:00:00Z", "UpToDate", &[]),
            level(json!({ "isvsvn": 2 }), "2023-01-01T00:00:00Z", "OutOfDate", &["INTEL-SA-00615"]),
        ],
    })
}

/// Judges through the text, as documents come.
fn judged_by(quote: &Quote, facts: &PckFacts, info: &Value) -> Result<TcbVerdict, TdxError> {
    let info: TcbInfo = serde_json::from_str(&info.to_string()).expect("TCB info");
    let identity: QeIdentity = serde_json::from_str(&qe_identity().to_string()).expect("QE identity");
    judge(quote, facts, &info, &identity)
}

fn judged(quote: &Quote) -> Result<TcbVerdict, TdxError> {
    judged_by(quote, &facts(), &tcb_info())
}

fn at_svns(launch: [u8; 3], current: [u8; 3]) -> Result<TcbVerdict, TdxError> {
    judged(&td15().set(body::TEE_TCB_SVN, &launch).set(body::TEE_TCB_SVN2, &current).quote())
}

#[test]
fn a_platform_at_the_highest_level_is_up_to_date_as_the_documents_say() {
    let verdict = judged(&td15().quote()).expect("a level");
    assert_eq!(
        verdict,
        TcbVerdict {
            status: TcbStatus::UpToDate,
            advisory_ids: Vec::new(),
            tcb_date: time("2024-11-13T00:00:00Z"),
            evaluation_data_number: 17,
            next_update: time("2026-03-19T00:00:00Z"),
        }
    );
}

#[test]
fn each_component_alone_can_lower_the_level() {
    let outdated = |verdict: Result<TcbVerdict, TdxError>| verdict.expect("a level").status;
    for component in 0..16 {
        let mut facts = facts();
        facts.components[component] = 6;
        let status = outdated(judged_by(&td15().quote(), &facts, &tcb_info()));
        assert_eq!(status, TcbStatus::OutOfDate, "SGX component {component}");
    }
    let quote = td15().set(body::TEE_TCB_SVN, &[6, 1, 7]).set(body::TEE_TCB_SVN2, &[6, 1, 7]).quote();
    assert_eq!(outdated(judged(&quote)), TcbStatus::OutOfDate, "TDX microcode");
    let module = td15().set(body::TEE_TCB_SVN, &[5, 1, 8]).set(body::TEE_TCB_SVN2, &[5, 1, 8]).quote();
    assert_eq!(outdated(judged(&module)), TcbStatus::OutOfDate, "TDX module");
    let qe = td15().set_qe(qe_report::ISVSVN, &[3]).quote();
    assert_eq!(outdated(judged(&qe)), TcbStatus::OutOfDate, "Quoting Enclave");
}

#[test]
fn advisories_of_all_parts_come_together_once_each_with_the_oldest_date() {
    let quote = td15()
        .set(body::TEE_TCB_SVN, &[4, 1, 6])
        .set(body::TEE_TCB_SVN2, &[4, 1, 6])
        .set_qe(qe_report::ISVSVN, &[2])
        .quote();
    let verdict = judged(&quote).expect("a level");
    assert_eq!(verdict.advisory_ids, ["INTEL-SA-00615", "INTEL-SA-00960", "INTEL-SA-01036"]);
    assert_eq!(verdict.tcb_date, time("2023-01-01T00:00:00Z"));
}

#[test]
fn what_reaches_no_level_is_not_out_of_date_but_unknown() {
    let mut low = facts();
    low.components[15] = 4;
    let answer = judged_by(&td15().quote(), &low, &tcb_info());
    assert!(matches!(answer, Err(TdxError::NoTcbLevel { .. })), "{answer:?}");
    let mut low = facts();
    low.pcesvn = 10;
    let answer = judged_by(&td15().quote(), &low, &tcb_info());
    assert!(matches!(answer, Err(TdxError::NoTcbLevel { pcesvn: 10, .. })), "{answer:?}");
    let answer = at_svns([6, 1, 4], [6, 1, 8]);
    assert!(matches!(answer, Err(TdxError::NoTcbLevel { offset: 54, .. })), "{answer:?}");
    let answer = at_svns([3, 1, 8], [6, 1, 8]);
    assert_eq!(answer, Err(TdxError::NoModuleTcbLevel { got: 3, offset: 54 }));
    let answer = at_svns([3, 2, 8], [6, 1, 8]);
    assert_eq!(answer, Err(TdxError::NoModuleIdentity { got: "TDX_02".to_owned(), offset: 54 }));
    let answer = judged(&td15().set_qe(qe_report::ISVSVN, &[1]).quote());
    assert_eq!(answer, Err(TdxError::NoQeTcbLevel { got: 1, offset: 54 + 648 + 4 + 134 + 258 }));
}

#[test]
fn a_module_before_major_version_1_is_judged_by_the_components_alone() {
    assert_eq!(at_svns([5, 0, 8], [5, 0, 8]).expect("a level").status, TcbStatus::UpToDate);
    let answer = at_svns([4, 0, 8], [4, 0, 8]);
    assert!(matches!(answer, Err(TdxError::NoTcbLevel { .. })), "{answer:?}");
    // From then on the first two components say nothing about the platform.
    let mut info = tcb_info();
    for component in 0..2 {
        info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][component]["svn"] = json!(9);
    }
    let verdict = judged_by(&td15().quote(), &facts(), &info).expect("a level");
    assert_eq!(verdict.status, TcbStatus::UpToDate);
}

#[test]
fn a_relaunch_is_advised_when_the_platform_was_updated_under_the_td() {
    assert_eq!(at_svns([4, 1, 8], [6, 1, 8]).expect("a level").status, TcbStatus::TdRelaunchAdvised);
    assert_eq!(at_svns([4, 1, 8], [4, 1, 8]).expect("a level").status, TcbStatus::OutOfDate);
    let answer = at_svns([6, 1, 8], [6, 1, 4]);
    assert!(matches!(answer, Err(TdxError::NoTcbLevel { offset: 638, .. })), "{answer:?}");
    let mut info = tcb_info();
    info["tcbLevels"][0]["tcbStatus"] = json!("ConfigurationNeeded");
    let quote = td15().set(body::TEE_TCB_SVN, &[4, 1, 8]).quote();
    let verdict = judged_by(&quote, &facts(), &info).expect("a level");
    assert_eq!(verdict.status, TcbStatus::TdRelaunchAdvisedConfigurationNeeded);
    assert_eq!(verdict.advisory_ids, ["INTEL-SA-01036"], "those of the launch still hold");
}

#[test]
fn module_and_quoting_enclave_must_be_intels() {
    for (field, name) in
        [(body::MRSIGNERSEAM, "MRSIGNERSEAM"), (body::SEAMATTRIBUTES + 7, "SEAMATTRIBUTES under its mask")]
    {
        for svn in [[6, 1, 8], [5, 0, 8]] {
            let quote =
                td15().set(body::TEE_TCB_SVN, &svn).set(body::TEE_TCB_SVN2, &svn).set(field, &[1]).quote();
            match judged(&quote) {
                Err(TdxError::ModuleIdentity { name: got, .. }) => assert_eq!(got, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    for (field, name) in [
        (qe_report::MISCSELECT, "MISCSELECT under its mask"),
        (qe_report::ATTRIBUTES, "ATTRIBUTES under its mask"),
        (qe_report::MRSIGNER, "MRSIGNER"),
        (qe_report::ISVPRODID, "ISVPRODID"),
    ] {
        match judged(&td15().set_qe(field, &[1]).quote()) {
            Err(TdxError::QeIdentity { name: got, offset, .. }) => {
                assert_eq!((got, offset), (name, 54 + 648 + 4 + 134 + field));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    // What the mask leaves out may differ: bit 2 of ATTRIBUTES and its second half.
    assert!(judged(&td15().set_qe(qe_report::ATTRIBUTES, &[4]).quote()).is_ok());
    assert!(judged(&td15().set_qe(qe_report::ATTRIBUTES + 8, &[0xff; 8]).quote()).is_ok());
}

#[test]
fn documents_are_read_strictly() {
    let refused = |change: &dyn Fn(&mut Value), why: &str| {
        let mut info = tcb_info();
        change(&mut info);
        let error = serde_json::from_str::<TcbInfo>(&info.to_string()).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&|info| info["more"] = json!(1), "unknown field `more`");
    refused(&|info| info["tcbLevels"][0]["more"] = json!(1), "unknown field `more`");
    refused(&|info| info["tcbLevels"][0]["tcb"]["more"] = json!(1), "unknown field `more`");
    refused(&|info| info["tdxModule"]["more"] = json!(1), "unknown field `more`");
    refused(&|info| info["fmspc"] = json!("00"), "wanted 12 hex digits");
    refused(&|info| info["issueDate"] = json!("yesterday"), "is not a time");
    refused(&|info| info["tcbLevels"][0]["tcbStatus"] = json!("Fine"), "unknown variant `Fine`");
    // What only this verifier concludes, Intel does not say.
    refused(&|info| info["tcbLevels"][0]["tcbStatus"] = json!("TdRelaunchAdvised"), "unknown variant");
    refused(
        &|info| {
            info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].as_array_mut().expect("an array").pop();
        },
        "invalid length 15",
    );
    let mut info = tcb_info();
    info.as_object_mut().expect("an object").remove("tcbEvaluationDataNumber");
    assert!(serde_json::from_str::<TcbInfo>(&info.to_string()).is_err());
}

#[test]
fn documents_have_a_longest_length() {
    let mut answer = json!({ "tcbInfo": tcb_info(), "signature": "00".repeat(64) }).to_string().into_bytes();
    // 256 KiB; what follows a document is no part of what is signed.
    answer.resize(256 << 10, b' ');
    TcbInfo::unauthenticated(&answer).expect("TCB info");
    answer.push(b' ');
    let (which, limit) = (Document::TcbInfo, 256 << 10);
    let error = TcbInfo::unauthenticated(&answer).expect_err("too large");
    assert_eq!(error, TdxError::DocumentTooLarge { which, got: limit + 1, limit });
}

#[test]
fn messages_name_the_certificate_the_chain_and_the_document() {
    for (which, wanted) in [
        (CertificateName::Root, "Intel SGX root"),
        (CertificateName::PckCa, "PCK CA"),
        (CertificateName::Pck, "PCK"),
        (CertificateName::TcbSigning(Document::TcbInfo), "TCB info signing"),
        (CertificateName::TcbSigning(Document::QeIdentity), "QE identity signing"),
    ] {
        let message = TdxError::KeyKind { which }.to_string();
        assert_eq!(message, format!("{wanted} certificate has no ECDSA P-256 key"));
    }
    for (which, wanted) in [
        (ChainName::Pck, "PCK"),
        (ChainName::Document(Document::TcbInfo), "TCB info"),
        (ChainName::Document(Document::QeIdentity), "QE identity"),
    ] {
        let message = TdxError::Pem { which, error: PemError::Count { got: 2, wanted: 3 } }.to_string();
        assert_eq!(message, format!("{wanted} certificate chain has 2 certificates, wanted 3"));
    }
}
