//! Evidence recorded from real Intel hardware, and altered copies, judged through the public interface.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the tests are skipped with a message, but fail in CI.

mod tdx_support;

use serde_json::Value;
use tdx_support::{Case, cases, judge, vectors};
use verifier::Reason;
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::policy::TdxRegister;
use verifier::rejection::Class;
use verifier::tdx::quote::td_attributes;
use verifier::tdx::{CrlName, Quote, TcbStatus, TdxError, TdxRefusal, authenticate_signatures};
use verifier::x509::CertificateError;

/// Why each case that is to be rejected is rejected.
fn is_the_stated_reason(id: &str, reason: &Reason) -> bool {
    let authentication = |wanted: &dyn Fn(&TdxError) -> bool| matches!(reason, Reason::Authentication(AuthenticationError::Tdx(error)) if wanted(error));
    let refusal = |wanted: &dyn Fn(&TdxRefusal) -> bool| matches!(reason, Reason::Appraisal(AppraisalError::Tdx(error)) if wanted(error));
    match id {
        "tdx-v4-collateral-expired" => {
            reason.class() == Class::Endorsements
                && authentication(&|error| {
                    matches!(
                        error,
                        TdxError::Crl { which: CrlName::Root, error: CertificateError::Expired { .. } }
                    )
                })
        }
        "tdx-v4-cos-outofdate-jan" => refusal(&|error| {
            matches!(error, TdxRefusal::TcbStatus { got: TcbStatus::OutOfDate, advisory_ids, .. }
                if advisory_ids.len() == 7)
        }),
        "tdx-v4-debug" => {
            refusal(&|error| *error == TdxRefusal::Debug { attributes: 0x1000_0001, offset: 48 + 120 })
        }
        "tdx-v5-servicetd" => refusal(
            &|error| matches!(error, TdxRefusal::ServiceTd { got, offset: 654 } if got.starts_with("383c87d3")),
        ),
        "tdx-v5-no-tcb-level" | "tdx-v4-spr-no-tcb-level" | "tdx-v4-tappd-no-tcb-level" => {
            reason.class() == Class::RefusedByPolicy
                && authentication(&|error| matches!(error, TdxError::NoTcbLevel { .. }))
        }
        "tdx-neg-mrtd-flip" | "tdx-neg-rtmr-flip" => {
            authentication(&|error| *error == TdxError::Signature { last: 631, signature: 636 })
        }
        "tdx-neg-qe-report-flip" => authentication(
            &|error| matches!(error, TdxError::QeSignature { report, .. } if *report == 636 + 134),
        ),
        "tdx-neg-fmspc-mismatch" => {
            reason.class() == Class::Endorsements
                && authentication(&|error| {
                    *error
                        == TdxError::OtherPlatform {
                            name: "FMSPC",
                            got: "00806f050000".to_owned(),
                            wanted: "b0c06f000000".to_owned(),
                        }
                })
        }
        other => panic!("case {other} is new: say here why it is rejected"),
    }
}

fn assert_quote_fields(case: &Case, quote: &Quote) {
    let (id, expected) = (case.id(), &case.0["expected"]);
    let attributes = quote.td_attributes();
    let bit = |bit: u64| Value::from(attributes & bit != 0);
    let hex_of = |bytes: &[u8]| Value::from(hex::encode(bytes));
    let mut fields = vec![
        ("version", Value::from(quote.version())),
        ("ak_type", Value::from(quote.attestation_key_type())),
        ("tee_type", Value::from(format!("{:#x}", quote.tee_type()))),
        ("body_type", Value::from(quote.body_type().number())),
        ("tee_tcb_svn", hex_of(quote.tee_tcb_svn())),
        ("mrseam", hex_of(quote.mrseam())),
        ("mrsignerseam", hex_of(quote.mrsignerseam())),
        ("seamattributes", hex_of(quote.seam_attributes())),
        ("td_attributes", hex_of(&attributes.to_le_bytes())),
        ("xfam", hex_of(&quote.xfam().to_le_bytes())),
        ("report_data", hex_of(quote.report_data())),
        ("debug", bit(1)),
        ("sept_ve_dis", bit(td_attributes::SEPT_VE_DISABLE)),
        ("migratable", bit(td_attributes::MIGRATABLE)),
        ("pks", bit(td_attributes::PKS)),
        ("perfmon", bit(td_attributes::PERFMON)),
    ];
    fields.extend(TdxRegister::ALL.map(|register| (register.name(), hex_of(register.of(quote)))));
    fields.extend(quote.tee_tcb_svn2().map(|svn| ("tee_tcb_svn2", hex_of(svn))));
    fields.extend(quote.mrservicetd().map(|services| ("mrservicetd", hex_of(services))));
    for (field, got) in &fields {
        assert_eq!(*got, expected[field], "{id}: {field}");
    }
    let judged = ["fmspc", "tcb_status", "advisory_ids"];
    for field in expected.as_object().expect("fields").keys() {
        let known = judged.contains(&field.as_str()) || fields.iter().any(|(name, _)| name == field);
        assert!(known, "{id}: `{field}` is expected and nothing here compares it");
    }
}

#[test]
fn every_tdx_vector_is_answered_as_stated_and_for_the_stated_reason() {
    let Some(dir) = vectors() else { return };
    let mut answered = 0;
    for case in cases(&dir).iter().filter(|case| case.id() != "tdx-ccel-replay") {
        let (id, expected) = (case.id(), &case.0["expected"]);
        let policy = case.policy().parse();
        let answer = judge(&case.evidence(&dir), &policy, case.now());
        match (case.0["verdict"].as_str().expect("a verdict"), answer) {
            ("accept", Ok(authentic)) => {
                assert_quote_fields(case, authentic.quote());
                assert_eq!(expected["fmspc"], hex::encode(authentic.platform().fmspc), "{id}");
                assert_eq!(expected["tcb_status"], authentic.tcb().status.name(), "{id}");
                assert_eq!(
                    expected["advisory_ids"],
                    Value::from(authentic.tcb().advisory_ids.clone()),
                    "{id}"
                );
            }
            ("reject", Err(reason)) => assert!(is_the_stated_reason(id, &reason), "{id}: {reason:?}"),
            // All signatures at hand hold, and without endorsements nothing is said about the TCB.
            ("parse", Err(reason)) => {
                let missing = TdxError::MissingEndorsements { fmspc: "00a06d080000".to_owned() };
                assert_eq!(reason, Reason::Authentication(AuthenticationError::Tdx(missing)), "{id}");
                assert_eq!(reason.class(), Class::Endorsements);
                let signed = authenticate_signatures(&case.quote(&dir), policy.anchors(), case.now());
                let signed = signed.unwrap_or_else(|error| panic!("{id}: {error}"));
                assert_quote_fields(case, signed.quote());
                assert_eq!(expected["fmspc"], hex::encode(signed.platform().fmspc), "{id}");
            }
            (wanted, got) => panic!("{id}: wanted {wanted}, got {got:?}"),
        }
        answered += 1;
    }
    assert!(answered >= 17, "{answered} cases answered");
}

#[test]
fn every_field_of_every_tdx_vector_is_read_as_stated() {
    let Some(dir) = vectors() else { return };
    for case in cases(&dir).iter().filter(|case| case.id() != "tdx-ccel-replay") {
        let quote = Quote::parse(&case.quote(&dir)).expect("well formed, if only in its outer form");
        assert_quote_fields(case, &quote);
    }
}

/// Without the 39 bytes that somebody added to it, the quote is refused for the same reason: nothing about its
/// platform depends on them.
#[test]
fn the_added_bytes_of_the_sapphire_rapids_quote_are_not_what_decides() {
    let Some(dir) = vectors() else { return };
    let case = tdx_support::case(&dir, "tdx-v4-spr-no-tcb-level");
    let mut evidence = case.evidence(&dir);
    let quote = Quote::parse(&evidence.report).expect("well formed");
    let end = quote.chain_range().1;
    assert!(evidence.report.len() > end, "something is added");
    evidence.report.truncate(end);
    let reason = judge(&evidence, &case.policy().parse(), case.now()).expect_err("refused");
    assert!(is_the_stated_reason(case.id(), &reason), "{reason:?}");
}
