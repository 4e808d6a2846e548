//! Evidence recorded from real AMD hardware, and altered copies, judged through the public interface.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the test is skipped with a message, but fails in CI.

mod verifier_support;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use provenance::evidence::{Evidence, Platform, certificate_table};
use provenance::timestamp::Timestamp;
use serde_json::Value;
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::rejection::{Class, Reason};
use verifier::snp::{AuthenticReport, CertificateName, Endorsements, Report, SnpError, SnpRefusal};
use verifier::x509::CertificateError;
use verifier_support::PolicyText;

fn vectors() -> Option<PathBuf> {
    let dir = std::env::var_os("SEALWRIGHT_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    if dir.join("index.json").is_file() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no vectors at {}; set SEALWRIGHT_VECTORS to the directory that holds index.json",
        dir.display()
    );
    eprintln!("SKIPPED: no vectors at {}; set SEALWRIGHT_VECTORS", dir.display());
    None
}

fn read(dir: &Path, path: &str) -> Vec<u8> {
    fs::read(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Certificates of a PEM or DER file, as DER.
fn certificates(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("BEGIN CERTIFICATE")) else {
        return vec![bytes.to_vec()];
    };
    text.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|part| {
            let body: String = part.split("-----END").next().expect("an end").split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
        })
        .collect()
}

fn evidence(dir: &Path, case: &Value) -> Evidence {
    let input = |name: &str| read(dir, case["inputs"][name].as_str().expect("a path"));
    let chain = certificates(&input("chain"));
    let vek = certificates(&input("vek")).remove(0);
    let guid =
        if case["expected"]["signing_key"] == 1 { certificate_table::VLEK } else { certificate_table::VCEK };
    Evidence {
        platform: Platform::SevSnp,
        report: input("report"),
        endorsements: certificate_table::encode(&[
            (guid, &vek),
            (certificate_table::ASK, &chain[0]),
            (certificate_table::ARK, &chain[1]),
        ]),
    }
}

/// The strict default policy of the vectors, with what a case widens.
fn policy(case: &Value) -> PolicyText {
    let mut text = PolicyText::vendor(case["expected"]["measurement"].as_str().expect("a measurement"))
        // Real platforms run firmware ahead of what they committed; the vectors' default says nothing about it.
        .with("allow_provisional_firmware = false", "allow_provisional_firmware = true");
    let rules = &case["policy"];
    if let Some(version) = rules["min_report_version"].as_u64() {
        text = text.with("minimum_report_version = 3", &format!("minimum_report_version = {version}"));
    }
    if rules["allow_vlek"] == true {
        text = text.with("allow_vlek = false", "allow_vlek = true");
    }
    if let Some(levels) = rules["vmpl"].as_array() {
        text = text.with("vmpl = [0]", &format!("vmpl = {}", Value::from(levels.clone())));
    }
    if let Some(minimum) = rules["min_tcb"].as_object() {
        let level = |name: &str| minimum[name].as_u64().expect("a level");
        let table = format!(
            "milan]\nreported = {{ bootloader = {}, tee = {}, snp = {}, microcode = {} }}",
            level("bootloader"),
            level("tee"),
            level("snp"),
            level("microcode")
        );
        text = text.with("milan]\nreported = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }", &table);
    }
    text
}

/// Judges a case through the public functions.
fn judge(dir: &Path, case: &Value) -> Result<AuthenticReport, Reason> {
    let policy = policy(case).parse();
    let now = Timestamp::parse(case["now"].as_str().expect("a time")).expect("a time");
    let authentic =
        verifier::authenticate(&evidence(dir, case), &Endorsements::default(), policy.anchors(), now)?;
    let report = authentic.snp().expect("an SNP report").clone();
    verifier::appraise(authentic, &policy)?;
    Ok(report)
}

/// Why each case that is to be rejected is rejected.
fn is_the_stated_reason(id: &str, reason: &Reason) -> bool {
    let authentication = |wanted: &dyn Fn(&SnpError) -> bool| matches!(reason, Reason::Authentication(AuthenticationError::Snp(error)) if wanted(error));
    let refusal = |wanted: &dyn Fn(&SnpRefusal) -> bool| matches!(reason, Reason::Appraisal(AppraisalError::Snp(error)) if wanted(error));
    match id {
        "snp-milan-v2-debug" => refusal(&|error| *error == SnpRefusal::Debug { guest_policy: 0xb_0000 }),
        "snp-milan-v3-vlek-expired" => {
            reason.class() == Class::Endorsements
                && authentication(&|error| {
                    matches!(
                        error,
                        SnpError::Certificate {
                            which: CertificateName::Vlek,
                            error: CertificateError::Expired { .. }
                        }
                    )
                })
        }
        "snp-vlek-under-vcek-chain" => authentication(&|error| {
            matches!(error, SnpError::Certificate { which: CertificateName::Vlek, error: CertificateError::Issuer { got, wanted } }
                if got == "SEV-VLEK-Milan" && wanted == "SEV-Milan")
        }),
        "snp-neg-measurement-flip" | "snp-neg-reportdata-flip" | "snp-neg-version-downgrade" => {
            authentication(&|error| *error == SnpError::Signature { which: CertificateName::Vcek })
        }
        "snp-neg-invalid-vcek" => authentication(&|error| {
            matches!(error, SnpError::Certificate { which: CertificateName::Vcek, error: CertificateError::Signature { issuer } }
                if issuer == "SEV-Milan")
        }),
        "snp-neg-swapped-vcek" => authentication(&|error| matches!(error, SnpError::OtherChip { .. })),
        "snp-milan-v3-mintcb" => refusal(&|error| {
            matches!(
                error,
                SnpRefusal::TcbTooLow {
                    field: "REPORTED_TCB",
                    component: "microcode",
                    got: 0xdb,
                    wanted: 0xde,
                    ..
                }
            )
        }),
        "snp-milan-v3-vlek-not-allowed" => {
            refusal(&|error| matches!(error, SnpRefusal::VlekNotAllowed { .. }))
        }
        other => panic!("case {other} is new: say here why it is rejected"),
    }
}

fn assert_fields(id: &str, report: &Report, expected: &Value) {
    let dotted = |(major, minor, build): (u8, u8, u8)| format!("{major}.{minor}.{build}");
    let policy = report.guest_policy();
    for (field, got) in [
        ("version", Value::from(report.version())),
        ("guest_svn", Value::from(report.guest_svn())),
        ("policy", Value::from(format!("{policy:#x}"))),
        ("policy_debug", Value::from(policy & (1 << 19) != 0)),
        ("policy_migrate_ma", Value::from(policy & (1 << 18) != 0)),
        ("policy_smt", Value::from(policy & (1 << 16) != 0)),
        ("vmpl", Value::from(report.vmpl())),
        ("platform_info", Value::from(format!("{:#x}", report.platform_info()))),
        ("signing_key", Value::from(report.signing_key() as u8)),
        ("report_data", Value::from(hex::encode(report.report_data()))),
        ("measurement", Value::from(hex::encode(report.measurement()))),
        ("host_data", Value::from(hex::encode(report.host_data()))),
        ("id_key_digest", Value::from(hex::encode(report.id_key_digest()))),
        ("author_key_digest", Value::from(hex::encode(report.author_key_digest()))),
        ("report_id", Value::from(hex::encode(report.report_id()))),
        ("current_tcb", Value::from(hex::encode(report.current_tcb()))),
        ("reported_tcb", Value::from(hex::encode(report.reported_tcb()))),
        ("committed_tcb", Value::from(hex::encode(report.committed_tcb()))),
        ("launch_tcb", Value::from(hex::encode(report.launch_tcb()))),
        ("chip_id", Value::from(hex::encode(report.chip_id()))),
        ("cpuid_fms", Value::from(hex::encode(report.cpuid()))),
        ("cur_ver", Value::from(dotted(report.current_version()))),
        ("com_ver", Value::from(dotted(report.committed_version()))),
        ("launch_mit", Value::from(hex::encode(report.launch_mitigations().to_le_bytes()))),
        ("cur_mit", Value::from(hex::encode(report.current_mitigations().to_le_bytes()))),
    ] {
        // The vectors show what the bytes hold; version 2 has no CPUID there, and its bytes are zero or altered.
        if field == "cpuid_fms" && report.version() < 3 {
            continue;
        }
        assert_eq!(got, expected[field], "{id}: {field}");
    }
}

fn cases(dir: &Path) -> Vec<Value> {
    let index: Value = serde_json::from_slice(&read(dir, "index.json")).expect("JSON");
    let cases: Vec<_> = index["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .filter(|case| case["platform"] == "snp")
        .cloned()
        .collect();
    assert!(cases.len() >= 15, "{} SEV-SNP cases", cases.len());
    cases
}

#[test]
fn every_snp_vector_is_answered_as_stated_and_for_the_stated_reason() {
    let Some(dir) = vectors() else { return };
    for case in cases(&dir) {
        let id = case["id"].as_str().expect("an id");
        match (case["verdict"].as_str().expect("a verdict"), judge(&dir, &case)) {
            ("accept", Ok(authentic)) => assert_fields(id, authentic.report(), &case["expected"]),
            ("reject", Err(reason)) => assert!(is_the_stated_reason(id, &reason), "{id}: {reason:?}"),
            (wanted, got) => panic!("{id}: wanted {wanted}, got {got:?}"),
        }
    }
}

#[test]
fn every_field_of_every_snp_vector_is_read_as_stated() {
    let Some(dir) = vectors() else { return };
    for case in cases(&dir) {
        let bytes = read(&dir, case["inputs"]["report"].as_str().expect("a path"));
        let report = Report::parse(&bytes).expect("well formed, if only in its outer form");
        assert_fields(case["id"].as_str().expect("an id"), &report, &case["expected"]);
    }
}

/// What other verifiers let pass: changed bits that a re-encoded structure does not hold.
#[test]
fn no_single_bit_of_a_genuine_report_can_be_flipped() {
    let Some(dir) = vectors() else { return };
    let cases = cases(&dir);
    for id in ["snp-genoa-v3", "snp-turin-v5"] {
        let case = cases.iter().find(|case| case["id"] == id).expect("the case");
        let policy = policy(case).parse();
        let now = Timestamp::parse(case["now"].as_str().expect("a time")).expect("a time");
        let genuine = evidence(&dir, case);
        // Every byte, a different bit in each: all bits would take minutes.
        for offset in 0..genuine.report.len() {
            let mut altered = genuine.clone();
            altered.report[offset] ^= 1 << (offset % 8);
            let answer = verifier::authenticate(&altered, &Endorsements::default(), policy.anchors(), now);
            assert!(answer.is_err(), "{id}: byte {offset:#x} altered and still authentic");
        }
    }
}

#[test]
fn evidence_of_other_platforms_is_refused_as_not_yet_appraised() {
    let policy = PolicyText::vendor(&"00".repeat(48)).parse();
    let now = Timestamp::parse("2026-07-01T00:00:00Z").expect("a time");
    let platform = Platform::SecureExecution;
    let evidence = Evidence { platform, report: vec![0; 5000], endorsements: Vec::new() };
    let error = verifier::authenticate(&evidence, &Endorsements::default(), policy.anchors(), now)
        .expect_err("refused");
    assert_eq!(error, AuthenticationError::NotYetAppraised { platform });
    assert_eq!(Reason::from(error).class(), Class::RefusedByPolicy);
}
