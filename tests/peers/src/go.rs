//! Evidence for go-sev-guest and go-tdx-guest, which a Go program beside this crate calls.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::evidence::Platform;
use serde::{Deserialize, Serialize};

use crate::dcap;
use crate::snp::Certificates;
use crate::vectors::Prepared;

/// One case as the Go program reads it; bytes are base64.
#[derive(Serialize)]
struct Job {
    id: String,
    /// Seconds since 1970.
    now: i64,
    report: String,
    snp: Option<SnpJob>,
    tdx: Option<TdxJob>,
}

#[derive(Serialize)]
struct SnpJob {
    ark: String,
    intermediate: String,
    vek: String,
    is_vlek: bool,
}

#[derive(Serialize)]
struct TdxJob {
    tcb_info: String,
    tcb_info_chain: String,
    qe_identity: String,
    qe_identity_chain: String,
    pck_crl: String,
    pck_crl_chain: String,
    root_crl: String,
}

/// What the Go program says about one case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Id of the case.
    pub id: String,
    /// Why it is refused, empty when it is not.
    pub error: String,
    /// Median of one verification in nanoseconds; 0 when none was asked for.
    pub nanoseconds: f64,
}

impl Job {
    fn of(case: &Prepared) -> Option<Self> {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let (mut snp, mut tdx) = (None, None);
        match case.evidence.platform {
            Platform::SevSnp => {
                let certificates = Certificates::of(&case.evidence).ok()?;
                snp = Some(SnpJob {
                    ark: encode(&certificates.ark),
                    intermediate: encode(&certificates.intermediate),
                    vek: encode(&certificates.vek),
                    is_vlek: certificates.is_vlek,
                });
            }
            _ => {
                let endorsements = dcap::endorsements(&case.evidence).ok()?;
                tdx = Some(TdxJob {
                    tcb_info: encode(&endorsements.tcb_info),
                    tcb_info_chain: encode(&endorsements.tcb_info_issuer_chain),
                    qe_identity: encode(&endorsements.qe_identity),
                    qe_identity_chain: encode(&endorsements.qe_identity_issuer_chain),
                    pck_crl: encode(&endorsements.pck_crl),
                    pck_crl_chain: encode(dcap::issuers_in_quote(&case.evidence.report).ok()?.as_bytes()),
                    root_crl: encode(&endorsements.root_ca_crl),
                });
            }
        }
        let (id, now, report) = (case.id.clone(), case.now.unix(), encode(&case.evidence.report));
        Some(Self { id, now, report, snp, tdx })
    }
}

/// Builds the Go program into `folder`.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("go-peers");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
    let built = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .env("GOFLAGS", "-mod=readonly")
        .status()
        .context("run go (wanted 1.26 or newer)")?;
    ensure!(built.success(), "go build ended with {built}");
    Ok(program)
}

/// Answers of the Go program, one per case that it can be asked about; `seconds` to measure each.
pub fn run(program: &Path, cases: &[Prepared], seconds: f64) -> Result<Vec<Answer>> {
    let jobs: Vec<Job> = cases.iter().filter_map(Job::of).collect();
    let (asked, answered) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    serde_json::to_writer(&asked, &jobs)?;
    // Its libraries print to stdout, so the answers are a file.
    let output = Command::new(program)
        .arg(asked.path())
        .arg(seconds.to_string())
        .arg(answered.path())
        .output()
        .context("run the program")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&std::fs::read(answered.path())?)?)
}
