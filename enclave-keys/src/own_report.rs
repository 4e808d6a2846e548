//! What the guest itself checks about a report that came back from the device, before anything is signed
//! over it. The host carries the bytes, so they may be garbage. This is no appraisal: signatures and chains
//! are the verifier's.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};

/// Length of an ATTESTATION_REPORT in bytes (SEV-SNP ABI 56860, table 23; constant for versions 2 to 5).
pub const SNP_REPORT_LEN: usize = 1184;
/// Oldest report version read.
pub const SNP_OLDEST_VERSION: u32 = 2;
/// Newest report version read.
pub const SNP_NEWEST_VERSION: u32 = 5;
/// Length of a launch measurement in bytes (SHA-384).
pub const MEASUREMENT_LEN: usize = 48;

const SNP_VERSION: usize = 0x00;
const SNP_VMPL: usize = 0x30;
const SNP_REPORT_DATA: usize = 0x50;
const SNP_MEASUREMENT: usize = 0x90;

/// A launch measurement, 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Measurement(pub [u8; MEASUREMENT_LEN]);

impl std::fmt::Display for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Measurement({self})")
    }
}

/// Why a report from the device is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnReportError {
    /// The Evidence is of another platform than the Attester's.
    #[error("device gave Evidence of {got}, this guest runs on {expected}")]
    Platform {
        /// The Attester's platform.
        expected: Platform,
        /// The Evidence's platform.
        got: Platform,
    },
    /// Reports of this platform cannot be read yet.
    #[error("reports of {0} cannot be read by this version")]
    Unsupported(Platform),
    /// Wrong length.
    #[error("report has {got} bytes, wanted {expected}")]
    Length {
        /// Length wanted.
        expected: usize,
        /// Length seen.
        got: usize,
    },
    /// Unknown report version.
    #[error("report version is {got}, wanted {SNP_OLDEST_VERSION} to {SNP_NEWEST_VERSION}")]
    Version {
        /// Version seen.
        got: u32,
    },
    /// The report is over other data than was asked for.
    #[error("report data is {got:?}, asked for {expected:?}")]
    ReportData {
        /// Data asked for.
        expected: Box<ReportData>,
        /// Data seen.
        got: Box<ReportData>,
    },
    /// The launch measurement is another one than at start.
    #[error("launch measurement is {got}, was {expected} when this instance started")]
    MeasurementChanged {
        /// Measurement at start.
        expected: Measurement,
        /// Measurement seen.
        got: Measurement,
    },
}

/// The fields of an own report that the guest itself uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnReport {
    /// Launch measurement.
    pub(crate) measurement: Measurement,
    /// Virtual machine privilege level (SEV-SNP ABI, VMPL at 0x30).
    pub(crate) vmpl: u32,
}

fn field<const N: usize>(report: &[u8; SNP_REPORT_LEN], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&report[offset..offset + N]);
    out
}

/// Reads a report and checks that it is over `asked`.
pub(crate) fn read(
    platform: Platform,
    evidence: &Evidence,
    asked: &ReportData,
) -> Result<OwnReport, OwnReportError> {
    if evidence.platform != platform {
        return Err(OwnReportError::Platform { expected: platform, got: evidence.platform });
    }
    if platform != Platform::SevSnp {
        return Err(OwnReportError::Unsupported(platform));
    }
    let report: &[u8; SNP_REPORT_LEN] = evidence
        .report
        .as_slice()
        .try_into()
        .map_err(|_| OwnReportError::Length { expected: SNP_REPORT_LEN, got: evidence.report.len() })?;
    let version = u32::from_le_bytes(field(report, SNP_VERSION));
    if !(SNP_OLDEST_VERSION..=SNP_NEWEST_VERSION).contains(&version) {
        return Err(OwnReportError::Version { got: version });
    }
    let got = ReportData(field(report, SNP_REPORT_DATA));
    if got != *asked {
        return Err(OwnReportError::ReportData { expected: Box::new(*asked), got: Box::new(got) });
    }
    Ok(OwnReport {
        measurement: Measurement(field(report, SNP_MEASUREMENT)),
        vmpl: u32::from_le_bytes(field(report, SNP_VMPL)),
    })
}

/// The same, and the launch measurement must be the one of the start.
pub(crate) fn check(
    platform: Platform,
    evidence: &Evidence,
    asked: &ReportData,
    at_start: &OwnReport,
) -> Result<(), OwnReportError> {
    let now = read(platform, evidence, asked)?;
    if now.measurement != at_start.measurement {
        return Err(OwnReportError::MeasurementChanged {
            expected: at_start.measurement,
            got: now.measurement,
        });
    }
    Ok(())
}
