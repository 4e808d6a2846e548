//! SEV-SNP reports.

use provenance::evidence::{Evidence, Platform, certificate_table};
use serde::Deserialize;
use serde_json::Value;
use verifier::snp::report::{REPORT_LEN, offset};
use verifier::snp::{Endorsements, Report, ReportError, SigningKey};
use verifier::{Policy, Reason};

use super::input::{Inputs, all_der, der};
use super::reason::Refused;
use super::{Answer, Judged};

/// What a case may change about the strict default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Knobs {
    #[serde(default = "three")]
    min_report_version: u32,
    #[serde(default)]
    allow_vlek: bool,
    #[serde(default = "zero")]
    vmpl: Vec<u32>,
    #[serde(default)]
    min_tcb: MinimumTcb,
}

const fn three() -> u32 {
    3
}

fn zero() -> Vec<u32> {
    vec![0]
}

/// Of REPORTED_TCB.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MinimumTcb {
    #[serde(default)]
    fmc: u8,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// The strict default of the vectors, with what a case changes, for the guest with this measurement.
pub(super) fn policy(knobs: &Knobs, measurement: &[u8]) -> Result<Policy, String> {
    let MinimumTcb { fmc, bootloader, tee, snp, microcode } = knobs.min_tcb;
    let components = format!("bootloader = {bootloader}, tee = {tee}, snp = {snp}, microcode = {microcode}");
    let none = "bootloader = 0, tee = 0, snp = 0, microcode = 0";
    let minimum = |product: &str, turin: [&str; 2]| {
        format!(
            "[sev-snp.minimum_tcb.{product}]\nreported = {{ {}{components} }}\ncommitted = {{ {}{none} }}\n\
             launch = {{ {}{none} }}\n",
            turin[0], turin[1], turin[1]
        )
    };
    let fmc = format!("fmc = {fmc}, ");
    let tables = format!(
        "[sev-snp]
minimum_report_version = {}
vmpl = {:?}
allow_vlek = {}
# Real platforms run firmware ahead of what they committed; the vectors' default says nothing about it.
allow_provisional_firmware = true
id_keys = \"any\"
author_keys = \"any\"
minimum_guest_svn = 0
required_mitigations = {{ launch = 0, current = 0 }}

{}{}{}
[sev-snp.guest_policy]
allow_smt = true
allow_cxl = true
require_single_socket = false
require_aes_256_xts = false
require_rapl_disabled = false
require_ciphertext_hiding = false
require_page_swap_disabled = false

[sev-snp.platform]
require_ecc = false
require_alias_check = false
require_smt_disabled = false
require_tsme = false
require_rapl_disabled = false
require_ciphertext_hiding = false
require_tio_disabled = false
",
        knobs.min_report_version,
        knobs.vmpl,
        knobs.allow_vlek,
        minimum("milan", ["", ""]),
        minimum("genoa", ["", ""]),
        minimum("turin", [&fmc, "fmc = 0, "]),
    );
    super::policy::policy(
        "platforms = [\"sev-snp\"]\nroots = [\"amd-milan\", \"amd-genoa\", \"amd-turin\"]\n\
         revocation = \"crl-if-present\"",
        &tables,
        &format!("platform = \"sev-snp\"\nmeasurement = \"{}\"", hex::encode(measurement)),
    )
}

pub(super) fn judge(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    let evidence = evidence(inputs)?;
    let fields = fields(&evidence.report);
    let answer = judge_report(inputs, evidence)?;
    Ok(Judged { answer, fields })
}

/// Report and certificates of a case.
pub(super) fn evidence(inputs: &mut Inputs<'_>) -> Result<Evidence, String> {
    let report = inputs.input("report")?;
    let chain = all_der(&inputs.input("chain")?)?;
    let [intermediate, ark] = chain.as_slice() else {
        return Err(format!("chain has {} certificates, wanted ASK or ASVK, then ARK", chain.len()));
    };
    let vek = der(&inputs.input("vek")?)?;
    let guid = match Report::parse(&report).map(|report| report.signing_key()) {
        Ok(SigningKey::Vlek) => certificate_table::VLEK,
        _ => certificate_table::VCEK,
    };
    let endorsements = certificate_table::encode(&[
        (guid, &vek),
        (certificate_table::ASK, intermediate),
        (certificate_table::ARK, ark),
    ]);
    Ok(Evidence { platform: Platform::SevSnp, report, endorsements })
}

/// The policy of a case; the measurement is not part of the strict default, so the report's own is the one accepted.
pub(super) fn policy_for(inputs: &mut Inputs<'_>, evidence: &Evidence) -> Result<Policy, String> {
    let measurement = evidence.report.get(offset::MEASUREMENT..offset::MEASUREMENT + 48).unwrap_or(&[0; 48]);
    policy(&inputs.knobs()?, measurement)
}

/// Judges a report under the strict default.
pub(super) fn judge_report(inputs: &mut Inputs<'_>, evidence: Evidence) -> Result<Answer, String> {
    let policy = policy_for(inputs, &evidence)?;
    let now = inputs.now()?;
    let judge = || -> Result<(), Reason> {
        let authentic = verifier::authenticate(&evidence, &Endorsements::default(), policy.anchors(), now)?;
        verifier::appraise(authentic, &policy)?;
        Ok(())
    };
    Ok(match judge() {
        Ok(()) => Answer::Accepted(None),
        Err(reason) => Answer::Refused(Refused::Evidence(reason)),
    })
}

/// Reads a report that may be refused for its length or for bytes that must be zero: those are left out.
fn read_leniently(report: &[u8]) -> Option<Report> {
    let mut report = report.get(..REPORT_LEN)?.to_vec();
    loop {
        match Report::parse(&report) {
            Ok(report) => return Some(report),
            // Each turn clears one byte that is not zero.
            Err(ReportError::Reserved { offset, .. }) if report[offset] != 0 => report[offset] = 0,
            Err(_) => return None,
        }
    }
}

/// Everything that a report says, whoever made it; nothing when it cannot be read.
pub(super) fn fields(report: &[u8]) -> Vec<(&'static str, Value)> {
    let Some(report) = read_leniently(report) else { return Vec::new() };
    let dotted = |(major, minor, build): (u8, u8, u8)| Value::from(format!("{major}.{minor}.{build}"));
    let hex_of = |bytes: &[u8]| Value::from(hex::encode(bytes));
    let policy = report.guest_policy();
    vec![
        ("version", Value::from(report.version())),
        ("guest_svn", Value::from(report.guest_svn())),
        ("policy", Value::from(format!("{policy:#x}"))),
        ("policy_debug", Value::from(policy & (1 << 19) != 0)),
        ("policy_migrate_ma", Value::from(policy & (1 << 18) != 0)),
        ("policy_smt", Value::from(policy & (1 << 16) != 0)),
        ("vmpl", Value::from(report.vmpl())),
        ("platform_info", Value::from(format!("{:#x}", report.platform_info()))),
        ("signing_key", Value::from(report.signing_key() as u8)),
        ("report_data", hex_of(report.report_data())),
        ("measurement", hex_of(report.measurement())),
        ("host_data", hex_of(report.host_data())),
        ("id_key_digest", hex_of(report.id_key_digest())),
        ("author_key_digest", hex_of(report.author_key_digest())),
        ("report_id", hex_of(report.report_id())),
        ("current_tcb", hex_of(report.current_tcb())),
        ("reported_tcb", hex_of(report.reported_tcb())),
        ("committed_tcb", hex_of(report.committed_tcb())),
        ("launch_tcb", hex_of(report.launch_tcb())),
        ("chip_id", hex_of(report.chip_id())),
        ("cpuid_fms", hex_of(report.cpuid())),
        ("cur_ver", dotted(report.current_version())),
        ("com_ver", dotted(report.committed_version())),
        ("launch_mit", hex_of(&report.launch_mitigations().to_le_bytes())),
        ("cur_mit", hex_of(&report.current_mitigations().to_le_bytes())),
    ]
}
