//! From good TDX Evidence, one thing is changed at a time, and exactly the error written down for it comes out.
//! Offsets come from the tables that the parser itself uses.
//!
//! Needs the vectors, see `tdx_vectors.rs`.

mod tdx_support;

use std::ops::Range;
use std::path::Path;

use provenance::evidence::Evidence;
use provenance::tdx_endorsements::{InvalidTdxEndorsements, TdxEndorsements};
use provenance::timestamp::Timestamp;
use tdx_support::{case, judge, vectors};
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::policy::TdxRegister;
use verifier::rejection::Class;
use verifier::roots::{Anchors, Revocation};
use verifier::tdx::quote::{QE_REPORT_LEN, header, qe_report, signature_data};
use verifier::tdx::{
    CertificateName, ChainName, CrlName, Document, Quote, QuoteError, TdxError, TdxRefusal,
    authenticate_signatures,
};
use verifier::verdict::Link;
use verifier::x509::CertificateError;
use verifier::{Endorsements, Reason};

const CASES: [&str; 2] = ["tdx-v4-uptodate", "tdx-v5-uptodate"];

fn tdx_error(reason: Reason) -> TdxError {
    match reason {
        Reason::Authentication(AuthenticationError::Tdx(error)) => error,
        other => panic!("not an error of TDX authentication: {other:?}"),
    }
}

fn tdx_refusal(reason: Reason) -> TdxRefusal {
    match reason {
        Reason::Appraisal(AppraisalError::Tdx(refusal)) => refusal,
        other => panic!("not a refusal of TDX: {other:?}"),
    }
}

type Expectation = fn(&TdxError) -> bool;

/// Regions of a quote that follow each other without a gap, each with what any change of a byte in it leads to.
fn regions(quote: &Quote, whole: usize) -> Vec<(&'static str, Range<usize>, Expectation)> {
    use QuoteError::{
        AttestationKeyType, BodyType, CertificationType, QeVendor, Size, TeeType, Trailing, Truncated,
        Version,
    };
    let mut regions: Vec<(&'static str, usize, Expectation)> = vec![
        ("version", header::VERSION, |e| {
            matches!(e, TdxError::Quote(Version { .. } | BodyType { .. } | Truncated { .. } | Size { .. }))
        }),
        ("key type", header::ATTESTATION_KEY_TYPE, |e| {
            matches!(e, TdxError::Quote(AttestationKeyType { .. }))
        }),
        ("TEE type", header::TEE_TYPE, |e| matches!(e, TdxError::Quote(TeeType { .. }))),
        ("reserved", header::RESERVED, |e| matches!(e, TdxError::Signature { .. })),
        ("QE vendor", header::QE_VENDOR_ID, |e| matches!(e, TdxError::Quote(QeVendor { .. }))),
        ("user data", header::USER_DATA, |e| matches!(e, TdxError::Signature { .. })),
    ];
    if quote.version() == 5 {
        regions.push(("body type", header::BODY_TYPE, |e| {
            matches!(e, TdxError::Quote(BodyType { .. } | Size { .. }))
        }));
        regions.push(("body size", header::BODY_SIZE, |e| matches!(e, TdxError::Quote(Size { .. }))));
    }
    let data = |field| quote.signature_data_offset(field);
    let (chain, end) = quote.chain_range();
    regions.extend::<[(&str, usize, Expectation); 13]>([
        ("body", quote.body_offset(0), |e| matches!(e, TdxError::Signature { .. })),
        ("length of signature data", quote.signed_bytes().len(), |e| {
            matches!(e, TdxError::Quote(Truncated { .. } | Size { .. }))
        }),
        ("signature", data(signature_data::SIGNATURE), |e| matches!(e, TdxError::Signature { .. })),
        ("attestation key", data(signature_data::ATTESTATION_KEY), |e| {
            matches!(e, TdxError::AttestationKey { .. })
        }),
        ("certification type", data(signature_data::CERTIFICATION_TYPE), |e| {
            matches!(e, TdxError::Quote(CertificationType { wanted: 6, .. }))
        }),
        ("certification size", data(signature_data::CERTIFICATION_SIZE), |e| {
            matches!(e, TdxError::Quote(Size { .. }))
        }),
        ("QE report", data(signature_data::QE_REPORT), |e| matches!(e, TdxError::QeSignature { .. })),
        ("QE signature", data(signature_data::QE_SIGNATURE), |e| matches!(e, TdxError::QeSignature { .. })),
        ("QE auth size", data(signature_data::QE_AUTH_SIZE), |e| {
            matches!(e, TdxError::Quote(CertificationType { wanted: 5, .. } | Truncated { .. }))
        }),
        ("QE auth", data(signature_data::QE_AUTH), |e| matches!(e, TdxError::AttestationKey { .. })),
        ("chain type", chain - 6, |e| matches!(e, TdxError::Quote(CertificationType { wanted: 5, .. }))),
        ("chain size", chain - 4, |e| matches!(e, TdxError::Quote(Size { .. }))),
        ("chain", chain, |e| {
            matches!(
                e,
                TdxError::Pem { which: ChainName::Pck, .. }
                    | TdxError::Certificate { .. }
                    | TdxError::UnknownRoot { .. }
            )
        }),
    ]);
    regions.push(("padding", end, |e| matches!(e, TdxError::Quote(Trailing { .. }))));
    let ends: Vec<_> = regions.iter().skip(1).map(|(_, start, _)| *start).chain([whole]).collect();
    regions.into_iter().zip(ends).map(|((name, start, wanted), end)| (name, start..end, wanted)).collect()
}

#[test]
fn every_byte_of_a_quote_is_bound_and_says_so_with_its_own_error() {
    let Some(dir) = vectors() else { return };
    for id in CASES {
        let case = case(&dir, id);
        let (evidence, policy) = (case.evidence(&dir), case.policy().parse());
        let quote = Quote::parse(&evidence.report).expect("well formed");
        let mut next = 0;
        for (name, range, wanted) in regions(&quote, evidence.report.len()) {
            assert_eq!(range.start, next, "{id}: {name} leaves a gap or overlaps");
            next = range.end;
            for offset in range {
                let mut altered = evidence.clone();
                altered.report[offset] ^= 1 << (offset % 8);
                let error = judge(&altered, &policy, case.now())
                    .map(|_| panic!("{id}: byte {offset:#x} of {name} altered and still accepted"));
                let error = tdx_error(error.expect_err("refused"));
                assert!(wanted(&error), "{id}: byte {offset:#x} of {name}: {error:?}");
            }
        }
        assert_eq!(next, evidence.report.len(), "{id}: all bytes are covered");
    }
}

#[test]
fn a_quote_that_ends_early_is_refused_at_every_length() {
    let Some(dir) = vectors() else { return };
    for id in CASES {
        let case = case(&dir, id);
        let whole = case.quote(&dir);
        let end = Quote::parse(&whole).expect("well formed").chain_range().1;
        for length in 0..end {
            let error = Quote::parse(&whole[..length]).expect_err("too short");
            assert!(matches!(error, QuoteError::Truncated { .. }), "{id}: {length} bytes: {error:?}");
        }
        let too_large = vec![0; verifier::tdx::quote::MAX_QUOTE + 1];
        assert_eq!(Quote::parse(&too_large), Err(QuoteError::TooLarge { got: too_large.len() }));
    }
}

#[test]
fn a_change_in_a_certificate_names_that_certificate() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-uptodate");
    let evidence = case.evidence(&dir);
    let chain = Quote::parse(&evidence.report).expect("well formed").chain_range().0;
    let text = &evidence.report[chain..];
    let begins: Vec<_> =
        text.windows(10).enumerate().filter(|(_, w)| w == b"-----BEGIN").map(|(at, _)| at).collect();
    let anchors = Anchors::vendor(&[], Revocation::CrlRequired).with_intel();
    let names = [CertificateName::Pck, CertificateName::PckCa, CertificateName::Root];
    for (begin, wanted) in begins.iter().zip(names) {
        // Line 3 of the base64 is in the issuer's name or the validity, which only the signature protects; the last
        // but one is in the signature itself.
        let mut altered = evidence.report.clone();
        let at = chain + begin + 28 + 3 * 65 + 8;
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        match authenticate_signatures(&altered, &anchors, case.now()) {
            Err(TdxError::Certificate { which, .. }) => assert_eq!(which, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

/// What to change, and the error it leads to.
type Change = (&'static str, fn(&mut TdxEndorsements, &TdxEndorsements), Expectation);

/// Replaces the first place of `from` in a text.
fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(bytes.clone()).expect("text");
    assert!(text.contains(from), "`{from}` is not there");
    *bytes = text.replacen(from, to, 1).into_bytes();
}

fn flip_last(bytes: &mut [u8]) {
    *bytes.last_mut().expect("bytes") ^= 1;
}

/// Good endorsements of `tdx-v4-cos-uptodate-oct`, and of another FMSPC four months before.
const CHANGES: &[Change] = &[
    (
        "signed text of the TCB info",
        |e, _| replace(&mut e.tcb_info, "\"tcbStatus\":\"OutOfDate\"", "\"tcbStatus\":\"UpToDate\""),
        |e| *e == TdxError::DocumentSignature { which: Document::TcbInfo },
    ),
    (
        "a space in the signed text of the TCB info",
        |e, _| replace(&mut e.tcb_info, "\"version\":3", "\"version\": 3"),
        |e| *e == TdxError::DocumentSignature { which: Document::TcbInfo },
    ),
    (
        "signature of the TCB info",
        |e, _| {
            let at = e.tcb_info.len() - 10;
            e.tcb_info[at] = if e.tcb_info[at] == b'0' { b'1' } else { b'0' };
        },
        |e| *e == TdxError::DocumentSignature { which: Document::TcbInfo },
    ),
    (
        "a field beside the TCB info",
        |e, _| replace(&mut e.tcb_info, ",\"signature\"", ",\"more\":1,\"signature\""),
        |e| matches!(e, TdxError::Document { which: Document::TcbInfo, .. }),
    ),
    (
        "a second TCB info in the answer",
        |e, _| replace(&mut e.tcb_info, "{\"tcbInfo\":", "{\"tcbInfo\":{},\"tcbInfo\":"),
        |e| matches!(e, TdxError::Document { which: Document::TcbInfo, .. }),
    ),
    (
        "no TCB info",
        |e, _| e.tcb_info.clear(),
        |e| matches!(e, TdxError::Document { which: Document::TcbInfo, .. }),
    ),
    (
        "too large a TCB info",
        |e, _| e.tcb_info = vec![b' '; (256 << 10) + 1],
        |e| matches!(e, TdxError::DocumentTooLarge { which: Document::TcbInfo, got: 262_145, .. }),
    ),
    (
        "an older TCB info of the same root",
        |e, other| e.tcb_info.clone_from(&other.tcb_info),
        |e| matches!(e, TdxError::DocumentExpired { which: Document::TcbInfo, .. }),
    ),
    (
        "the QE identity in place of the TCB info",
        |e, _| e.tcb_info = e.qe_identity.clone(),
        |e| matches!(e, TdxError::Document { which: Document::TcbInfo, .. }),
    ),
    (
        "signed text of the QE identity",
        |e, _| replace(&mut e.qe_identity, "\"isvsvn\":4", "\"isvsvn\":0"),
        |e| *e == TdxError::DocumentSignature { which: Document::QeIdentity },
    ),
    (
        "an older QE identity of the same root",
        |e, other| e.qe_identity.clone_from(&other.qe_identity),
        |e| matches!(e, TdxError::DocumentExpired { which: Document::QeIdentity, .. }),
    ),
    (
        "a field beside the QE identity",
        |e, _| replace(&mut e.qe_identity, ",\"signature\"", ",\"more\":1,\"signature\""),
        |e| matches!(e, TdxError::Document { which: Document::QeIdentity, .. }),
    ),
    (
        "issuer chain of the TCB info",
        |e, _| {
            replace(
                &mut e.tcb_info_issuer_chain,
                "-----BEGIN CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\r\n",
            )
        },
        |e| matches!(e, TdxError::Pem { which: ChainName::Document(Document::TcbInfo), .. }),
    ),
    (
        "issuer chain without its root",
        |e, _| {
            let text = String::from_utf8(e.tcb_info_issuer_chain.clone()).expect("text");
            let second = text.rfind("-----BEGIN").expect("two certificates");
            e.tcb_info_issuer_chain.truncate(second);
        },
        |e| matches!(e, TdxError::Pem { which: ChainName::Document(Document::TcbInfo), .. }),
    ),
    (
        "issuer chain of the QE identity",
        |e, _| e.qe_identity_issuer_chain.clear(),
        |e| matches!(e, TdxError::Pem { which: ChainName::Document(Document::QeIdentity), .. }),
    ),
    (
        "signature of the root's CRL",
        |e, _| flip_last(&mut e.root_ca_crl),
        |e| matches!(e, TdxError::Crl { which: CrlName::Root, error: CertificateError::Signature { .. } }),
    ),
    (
        "the CRL of PCKs in place of the root's",
        |e, _| e.root_ca_crl = e.pck_crl.clone(),
        |e| matches!(e, TdxError::Crl { which: CrlName::Root, error: CertificateError::Issuer { .. } }),
    ),
    (
        "signature of the CRL of PCKs",
        |e, _| flip_last(&mut e.pck_crl),
        |e| matches!(e, TdxError::Crl { which: CrlName::PckCa, error: CertificateError::Signature { .. } }),
    ),
    (
        "the root's CRL in place of that of PCKs",
        |e, _| e.pck_crl = e.root_ca_crl.clone(),
        |e| matches!(e, TdxError::Crl { which: CrlName::PckCa, error: CertificateError::Issuer { .. } }),
    ),
    (
        "an older CRL of PCKs",
        |e, other| e.pck_crl.clone_from(&other.pck_crl),
        |e| matches!(e, TdxError::Crl { which: CrlName::PckCa, error: CertificateError::Expired { .. } }),
    ),
    (
        "no CRL of PCKs",
        |e, _| e.pck_crl.clear(),
        |e| matches!(e, TdxError::Crl { which: CrlName::PckCa, error: CertificateError::Malformed { .. } }),
    ),
];

fn endorsements(dir: &Path, id: &str) -> TdxEndorsements {
    case(dir, id).endorsements(dir).expect("collateral")
}

#[test]
fn every_part_of_the_endorsements_is_bound_and_says_so_with_its_own_error() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-cos-uptodate-oct");
    let (good, other) = (endorsements(&dir, case.id()), endorsements(&dir, "tdx-v4-uptodate"));
    let policy = case.policy().parse();
    for (what, change, wanted) in CHANGES {
        let mut altered = good.clone();
        change(&mut altered, &other);
        let evidence = Evidence { endorsements: altered.encode(), ..case.evidence(&dir) };
        let error = tdx_error(judge(&evidence, &policy, case.now()).expect_err(what));
        assert!(wanted(&error), "{what}: {error:?}");
    }
}

#[test]
fn every_byte_of_the_endorsements_is_bound() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-cos-uptodate-oct");
    let (evidence, policy) = (case.evidence(&dir), case.policy().parse());
    for offset in 0..evidence.endorsements.len() {
        let mut altered = evidence.clone();
        altered.endorsements[offset] ^= 1 << (offset % 8);
        let reason = judge(&altered, &policy, case.now());
        let reason =
            reason.map(|_| panic!("byte {offset:#x} altered and still accepted")).expect_err("refused");
        tdx_error(reason);
    }
}

#[test]
fn a_signer_that_is_not_intels_tcb_signer_is_refused_by_its_name() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-cos-uptodate-oct");
    // The PCK CA is issued by the same root as the signer of documents.
    let quote = Quote::parse(&case.quote(&dir)).expect("well formed");
    let chain = std::str::from_utf8(quote.pck_chain()).expect("PEM");
    let second = chain[10..].find("-----BEGIN").expect("three certificates") + 10;
    let mut altered = endorsements(&dir, case.id());
    altered.tcb_info_issuer_chain = chain[second..].trim_end_matches('\0').as_bytes().to_vec();
    let evidence = Evidence { endorsements: altered.encode(), ..case.evidence(&dir) };
    let error = tdx_error(judge(&evidence, &case.policy().parse(), case.now()).expect_err("refused"));
    assert_eq!(
        error,
        TdxError::Name {
            which: CertificateName::TcbSigning(Document::TcbInfo),
            got: "Intel SGX PCK Platform CA".to_owned(),
            wanted: "Intel SGX TCB Signing",
        }
    );
}

#[test]
fn every_date_counts_to_the_second() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-uptodate");
    let policy = case.policy().parse();
    let at = |now: &str| judge(&case.evidence(&dir), &policy, Timestamp::parse(now).expect("a time"));
    assert!(at("2025-06-19T10:32:27Z").is_ok(), "the first second of the QE identity, issued last");
    assert!(matches!(
        tdx_error(at("2025-06-19T10:32:26Z").expect_err("a second before")),
        TdxError::DocumentNotYetValid { which: Document::QeIdentity, .. }
    ));
    assert!(matches!(
        tdx_error(at("2025-06-19T10:16:02Z").expect_err("before the TCB info")),
        TdxError::DocumentNotYetValid { which: Document::TcbInfo, .. }
    ));
    assert!(at("2025-07-19T10:00:35Z").is_ok(), "the last second of the CRL of PCKs, which ends first");
    let late = at("2025-07-19T10:00:36Z").expect_err("a second later");
    assert_eq!(late.class(), Class::Endorsements);
    assert!(matches!(
        tdx_error(late),
        TdxError::Crl { which: CrlName::PckCa, error: CertificateError::Expired { .. } }
    ));
}

#[test]
fn endorsements_given_beside_the_evidence_are_used_when_they_are_of_its_platform() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-cos-uptodate-oct");
    let (policy, now) = (case.policy().parse(), case.now());
    let (right, other) = (endorsements(&dir, case.id()), endorsements(&dir, "tdx-v4-uptodate"));
    let with = |own: Vec<u8>, given: &[&TdxEndorsements]| {
        let evidence = Evidence { endorsements: own, ..case.evidence(&dir) };
        let extra =
            Endorsements { tdx: given.iter().map(|e| (*e).clone()).collect(), ..Endorsements::default() };
        verifier::authenticate(&evidence, &extra, policy.anchors(), now).map(|_| ())
    };
    assert_eq!(with(Vec::new(), &[&right]), Ok(()));
    assert_eq!(with(Vec::new(), &[&other, &right]), Ok(()), "the one of the platform is found");
    assert_eq!(with(right.encode(), &[&other]), Ok(()), "those of another platform do not stand in the way");
    let january = endorsements(&dir, "tdx-v4-cos-outofdate-jan");
    let not_yet = |answer| {
        matches!(
            answer,
            Err(AuthenticationError::Tdx(TdxError::Crl {
                which: CrlName::PckCa,
                error: CertificateError::NotYetValid { .. }
            }))
        )
    };
    assert!(not_yet(with(Vec::new(), &[&january])));
    assert_eq!(with(right.encode(), &[&january]), Ok(()), "those of another day do not either");
    let fmspc = "00806f050000".to_owned();
    assert_eq!(with(Vec::new(), &[]), Err(TdxError::MissingEndorsements { fmspc: fmspc.clone() }.into()));
    assert_eq!(with(Vec::new(), &[&other]), Err(TdxError::MissingEndorsements { fmspc }.into()));
    assert!(matches!(
        with(vec![1, 2, 3], &[]),
        Err(AuthenticationError::Tdx(TdxError::Endorsements(InvalidTdxEndorsements::Frame(_))))
    ));
}

#[test]
fn roots_are_pinned_and_intels_must_be_named_by_the_policy() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-uptodate");
    let none = Anchors::vendor(&[], Revocation::CrlRequired);
    let authenticate = |anchors: &Anchors| authenticate_signatures(&case.quote(&dir), anchors, case.now());
    assert_eq!(authenticate(&none), Err(TdxError::RootNotAccepted));
    let signed = authenticate(&none.clone().with_intel()).expect("authentic");
    assert!(signed.root().is_hardware());
}

#[test]
fn each_rule_of_the_policy_refuses_with_its_own_refusal_and_line() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-uptodate");
    let evidence = case.evidence(&dir);
    let quote = Quote::parse(&evidence.report).expect("well formed");
    let module = hex::encode(quote.mrseam());
    let other = "ab".repeat(48);
    let check = |from: &str, to: &str, wanted: &dyn Fn(&TdxRefusal) -> bool| {
        let text = case.policy().with(from, to);
        let line = text.line_of(to);
        let reason = judge(&evidence, &text.parse(), case.now()).expect_err(to);
        assert_eq!(reason.class(), Class::RefusedByPolicy, "{to}");
        let guest = matches!(&reason, Reason::Appraisal(error) if error.concerns_guest());
        assert_eq!(reason.link(), if guest { Link::Guest } else { Link::Hardware }, "{to}");
        let refusal = tdx_refusal(reason);
        assert!(wanted(&refusal), "{to}: {refusal:?}");
        assert_eq!(refusal.line(), Some(line), "{to}");
    };
    check("tcb_statuses = [\"UpToDate\"]", "tcb_statuses = [\"OutOfDate\"]", &|refusal| {
        matches!(refusal, TdxRefusal::TcbStatus { .. })
    });
    check("minimum_tcb_evaluation_data_number = 1", "minimum_tcb_evaluation_data_number = 18", &|refusal| {
        matches!(refusal, TdxRefusal::EvaluationDataNumber { got: 17, wanted: 18, .. })
    });
    check("xfam_allowed = 0x61ae7", "xfam_allowed = 0x602e3", &|refusal| {
        matches!(refusal, TdxRefusal::Xfam { xfam: 0x602e7, beyond: 4, offset: 176, .. })
    });
    check("allow_td_1_0 = true", "allow_td_1_0 = false", &|refusal| {
        matches!(refusal, TdxRefusal::BodyType { .. })
    });
    check(
        "modules = \"endorsed\"",
        &format!("modules = [\"{other}\"]"),
        &|refusal| matches!(refusal, TdxRefusal::Module { got, offset: 64, .. } if *got == module),
    );
    for register in TdxRegister::ALL {
        let got = hex::encode(register.of(&quote));
        check(
            &format!("{} = \"{got}\"", register.name()),
            &format!("{} = \"{other}\"", register.name()),
            &|refusal| {
                *refusal
                    == TdxRefusal::Measurement {
                        register,
                        got: got.clone(),
                        wanted: vec![other.clone()],
                        offset: quote.body_offset(register.offset()),
                        line: refusal.line().expect("a line"),
                    }
            },
        );
    }
    let listed =
        case.policy().with("modules = \"endorsed\"", &format!("modules = [\"{other}\", \"{module}\"]"));
    assert!(judge(&evidence, &listed.parse(), case.now()).is_ok(), "a listed module is accepted");
}

#[test]
fn a_policy_without_the_platform_refuses_it() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-v4-uptodate");
    let rules = [
        "[tdx]",
        "tcb_statuses = [\"UpToDate\"]",
        "minimum_tcb_evaluation_data_number = 1",
        "modules = \"endorsed\"",
        "attributes_allowed = []",
        "xfam_allowed = 0x61ae7",
        "allow_td_1_0 = true",
    ];
    let snp = "[sev-snp]\nminimum_report_version = 3\nvmpl = [0]\nallow_vlek = false\n\
        allow_provisional_firmware = false\nid_keys = \"any\"\nauthor_keys = \"any\"\nminimum_guest_svn = 0\nrequired_mitigations = { launch = 0, current = 0 }\n[sev-snp.minimum_tcb.milan]\n\
        reported = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }\n\
        committed = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }\n\
        launch = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }\n[sev-snp.guest_policy]\nallow_smt = true\n\
        allow_cxl = false\nrequire_single_socket = false\nrequire_aes_256_xts = false\n\
        require_rapl_disabled = false\nrequire_ciphertext_hiding = false\nrequire_page_swap_disabled = false\n\
        [sev-snp.platform]\nrequire_ecc = false\nrequire_alias_check = false\nrequire_smt_disabled = false\nrequire_tsme = false\nrequire_rapl_disabled = false\nrequire_ciphertext_hiding = false\nrequire_tio_disabled = false\n";
    let text =
        case.policy().with("platforms = [\"tdx\"]", "platforms = [\"sev-snp\"]").with(&rules.join("\n"), snp);
    let reason = judge(&case.evidence(&dir), &text.parse(), case.now()).expect_err("refused");
    assert!(matches!(reason, Reason::Appraisal(AppraisalError::PlatformNotAccepted { .. })), "{reason:?}");
}

#[test]
fn the_parts_of_two_quotes_do_not_fit_together() {
    let Some(dir) = vectors() else { return };
    let (one, two) = (case(&dir, "tdx-v4-uptodate"), case(&dir, "tdx-v4-granite-parse-only"));
    let (good, other) = (one.quote(&dir), two.quote(&dir));
    let quote = Quote::parse(&good).expect("well formed");
    let anchors = Anchors::vendor(&[], Revocation::CrlRequired).with_intel();
    let data = |field| quote.signature_data_offset(field);
    let report = data(signature_data::QE_REPORT);
    let (chain, end) = quote.chain_range();
    let swapped = |range: Range<usize>| {
        let mut altered = good.clone();
        altered[range.clone()].copy_from_slice(&other[range]);
        authenticate_signatures(&altered, &anchors, one.now()).expect_err("refused")
    };
    let is_signature = |error: &TdxError| matches!(error, TdxError::Signature { .. });
    assert!(is_signature(&swapped(quote.body_offset(0)..quote.signed_bytes().len())), "body");
    assert!(is_signature(&swapped(data(0)..data(64))), "signature");
    assert!(matches!(swapped(data(64)..data(128)), TdxError::AttestationKey { .. }), "attestation key");
    assert!(matches!(swapped(report..report + QE_REPORT_LEN), TdxError::QeSignature { .. }), "QE report");
    let with_signature = report..data(signature_data::QE_AUTH_SIZE);
    assert!(matches!(swapped(with_signature), TdxError::QeSignature { .. }), "QE report and signature");
    assert!(matches!(swapped(chain..end), TdxError::QeSignature { .. }), "PCK chain");
    let all_of_qe = report..end;
    let error = swapped(all_of_qe);
    assert!(
        matches!(error, TdxError::AttestationKey { offset, .. } if offset == report + qe_report::REPORTDATA),
        "{error:?}"
    );
}
