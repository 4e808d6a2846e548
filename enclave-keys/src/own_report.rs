//! What the guest itself checks about a report that came back from the device, before anything is signed
//! over it. The host carries the bytes, so they may be garbage. This is no appraisal: signatures and chains
//! are the verifier's.

use provenance::binding::ReportData;
use provenance::challenge::AttestationRequest;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::se_exchange::{ExchangeError, ExchangeResponse};
use provenance::secure_execution::{InvalidSeBytes, SecureExecutionEvidence};

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

/// Longest TDX quote read, in bytes, the same as the verifier's limit. Quotes have about 5,000 bytes.
pub const TDX_MAX_QUOTE: usize = 64 << 10;
/// Quote versions read (Intel TDX DCAP Quoting Library API, Appendix A).
const TDX_VERSIONS: std::ops::RangeInclusive<u32> = 4..=5;
/// TEE type of TDX.
const TDX_TEE_TYPE: u32 = 0x81;
/// Offsets in the quote (Appendix A.3.1, A.3.2): header fields, body of version 4, body type and body of version 5.
const TDX_VERSION: usize = 0;
const TDX_TEE_TYPE_AT: usize = 4;
const TDX_BODY_V4: usize = 48;
const TDX_BODY_TYPE_V5: usize = 48;
const TDX_BODY_V5: usize = 54;
/// Body types of version 5: TD 1.0, whose fields are the first of TD 1.5 too, and TD 1.5.
const TDX_BODY_TYPES: std::ops::RangeInclusive<u16> = 2..=3;
/// Length of a TD 1.0 body and offsets of its fields.
const TDX_BODY_LEN: usize = 584;
const TDX_MRTD: usize = 136;
const TDX_RTMR0: usize = 328;
const TDX_REPORT_DATA: usize = 520;
/// RTMRs of a TD.
const TDX_RTMRS: usize = 4;

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
    /// A quote that is too short to have its fields, or too long.
    #[error("TDX quote has {got} bytes, wanted {shortest} to {TDX_MAX_QUOTE}")]
    QuoteLength {
        /// Length of header and body.
        shortest: usize,
        /// Length seen.
        got: usize,
    },
    /// Unknown version of report or quote.
    #[error("report version is {got}, wanted {oldest} to {newest}")]
    Version {
        /// Version seen.
        got: u32,
        /// Oldest version read on this platform.
        oldest: u32,
        /// Newest version read on this platform.
        newest: u32,
    },
    /// A quote of another TEE, such as an SGX enclave.
    #[error("TEE type of the quote is {got:#x}, wanted {TDX_TEE_TYPE:#x}, TDX")]
    TeeType {
        /// Type seen.
        got: u32,
    },
    /// A quote of version 5 with a body whose layout is not known.
    #[error("body type of the quote is {got}, wanted 2 (TD 1.0) or 3 (TD 1.5)")]
    BodyType {
        /// Type seen.
        got: u16,
    },
    /// An answer of the Ultravisor that is none.
    #[error(transparent)]
    Bytes(#[from] InvalidSeBytes),
    /// An answer of the Ultravisor that is not in the exchange format.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// An answer to another attestation request.
    #[error("answer is to the attestation request {got}, asked was {expected}")]
    OtherRequest {
        /// SHA-256 of the request that was asked.
        expected: Sha256Digest,
        /// SHA-256 of the request in the answer.
        got: Sha256Digest,
    },
    /// The answer's measurement or additional data have another length than the request announces.
    #[error("{what} of the answer has {got} bytes, the request announces {expected}")]
    Announced {
        /// `measurement` or `additional data`.
        what: &'static str,
        /// Bytes announced.
        expected: u32,
        /// Bytes seen.
        got: usize,
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
    /// A register that the running guest extends is another one than at start.
    #[error("RTMR{index} is {got}, was {expected} when this instance started")]
    RegisterChanged {
        /// Which one, 0 to 3.
        index: usize,
        /// Value at start.
        expected: Measurement,
        /// Value seen.
        got: Measurement,
    },
}

/// The fields of an own report that the guest itself uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnReport {
    /// Launch measurement: SEV-SNP MEASUREMENT, TDX MRTD.
    pub(crate) measurement: Measurement,
    /// Registers that the running guest extends: TDX RTMR0 to RTMR3.
    pub(crate) registers: Option<[Measurement; TDX_RTMRS]>,
    /// Virtual machine privilege level (SEV-SNP ABI, VMPL at 0x30); a TD has none.
    pub(crate) vmpl: Option<u32>,
}

/// `N` bytes at an offset that the caller has checked to lie inside.
pub(crate) fn field<const N: usize>(report: &[u8], offset: usize) -> [u8; N] {
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
    let (got, own) = match platform {
        Platform::SevSnp => read_snp(&evidence.report)?,
        Platform::Tdx => read_tdx(&evidence.report)?,
        other => return Err(OwnReportError::Unsupported(other)),
    };
    if got != *asked {
        return Err(OwnReportError::ReportData { expected: Box::new(*asked), got: Box::new(got) });
    }
    Ok(own)
}

fn read_snp(report: &[u8]) -> Result<(ReportData, OwnReport), OwnReportError> {
    if report.len() != SNP_REPORT_LEN {
        return Err(OwnReportError::Length { expected: SNP_REPORT_LEN, got: report.len() });
    }
    let got = u32::from_le_bytes(field(report, SNP_VERSION));
    let (oldest, newest) = (SNP_OLDEST_VERSION, SNP_NEWEST_VERSION);
    if !(oldest..=newest).contains(&got) {
        return Err(OwnReportError::Version { got, oldest, newest });
    }
    let own = OwnReport {
        measurement: Measurement(field(report, SNP_MEASUREMENT)),
        registers: None,
        vmpl: Some(u32::from_le_bytes(field(report, SNP_VMPL))),
    };
    Ok((ReportData(field(report, SNP_REPORT_DATA)), own))
}

/// Header and body only: what the quote says about the TD. The rest is the Quoting Enclave's, for the verifier.
fn read_tdx(quote: &[u8]) -> Result<(ReportData, OwnReport), OwnReportError> {
    let long_enough = |shortest| {
        let got = quote.len();
        let fits = (shortest..=TDX_MAX_QUOTE).contains(&got);
        if fits { Ok(()) } else { Err(OwnReportError::QuoteLength { shortest, got }) }
    };
    long_enough(TDX_BODY_V4 + TDX_BODY_LEN)?;
    let got = u32::from(u16::from_le_bytes(field(quote, TDX_VERSION)));
    let (oldest, newest) = TDX_VERSIONS.into_inner();
    if !TDX_VERSIONS.contains(&got) {
        return Err(OwnReportError::Version { got, oldest, newest });
    }
    let tee_type = u32::from_le_bytes(field(quote, TDX_TEE_TYPE_AT));
    if tee_type != TDX_TEE_TYPE {
        return Err(OwnReportError::TeeType { got: tee_type });
    }
    let mut body = TDX_BODY_V4;
    if got == newest {
        let body_type = u16::from_le_bytes(field(quote, TDX_BODY_TYPE_V5));
        if !TDX_BODY_TYPES.contains(&body_type) {
            return Err(OwnReportError::BodyType { got: body_type });
        }
        body = TDX_BODY_V5;
        long_enough(body + TDX_BODY_LEN)?;
    }
    let register = |at| Measurement(field(quote, body + at));
    let own = OwnReport {
        measurement: register(TDX_MRTD),
        registers: Some(std::array::from_fn(|index| register(TDX_RTMR0 + index * MEASUREMENT_LEN))),
        vmpl: None,
    };
    Ok((ReportData(field(quote, body + TDX_REPORT_DATA)), own))
}

/// The same, and what was measured must be what was measured at the start.
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
    let registers = at_start.registers.iter().flatten().zip(now.registers.iter().flatten());
    for (index, (expected, got)) in registers.enumerate() {
        if expected != got {
            return Err(OwnReportError::RegisterChanged { index, expected: *expected, got: *got });
        }
    }
    Ok(())
}

/// Checks an answer of the Ultravisor: that it is to this request and over this data. More a guest cannot know: neither
/// its own measurement nor the key of the answer.
pub(crate) fn check_answer(
    platform: Platform,
    evidence: &Evidence,
    request: &AttestationRequest,
    asked: &ReportData,
) -> Result<SecureExecutionEvidence, OwnReportError> {
    if evidence.platform != platform {
        return Err(OwnReportError::Platform { expected: platform, got: evidence.platform });
    }
    let evidence = SecureExecutionEvidence::parse(&evidence.report)?;
    let (answer, request) = (ExchangeResponse::parse(&evidence.response)?, request.parts());
    if answer.request() != request.request() {
        let digest = Sha256Digest::of;
        return Err(OwnReportError::OtherRequest {
            expected: digest(request.request()),
            got: digest(answer.request()),
        });
    }
    for (what, expected, got) in [
        ("measurement", request.measurement_length(), answer.measurement().len()),
        ("additional data", request.additional_data_length(), answer.additional_data().len()),
    ] {
        if usize::try_from(expected) != Ok(got) {
            return Err(OwnReportError::Announced { what, expected, got });
        }
    }
    match <[u8; 64]>::try_from(answer.user_data()).map(ReportData) {
        Ok(got) if got == *asked => Ok(evidence),
        Ok(got) => Err(OwnReportError::ReportData { expected: Box::new(*asked), got: Box::new(got) }),
        Err(_) => Err(OwnReportError::Length { expected: 64, got: answer.user_data().len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: ReportData = ReportData([0x5a; 64]);

    /// A quote of this version as far as the guest reads it: `put` gives an offset in the body and what stands there.
    fn quote(version: u8, put: &[(usize, u8)]) -> Evidence {
        let body = if version == 4 { TDX_BODY_V4 } else { TDX_BODY_V5 };
        let mut report = vec![0; body + TDX_BODY_LEN];
        report[TDX_VERSION] = version;
        report[TDX_TEE_TYPE_AT] = 0x81;
        if version == 5 {
            report[TDX_BODY_TYPE_V5] = 3;
        }
        report[body + TDX_REPORT_DATA..][..64].copy_from_slice(&ASKED.0);
        for (offset, value) in put {
            report[body + offset] = *value;
        }
        Evidence { platform: Platform::Tdx, report, endorsements: vec![] }
    }

    fn read_altered(version: u8, alter: impl FnOnce(&mut Vec<u8>)) -> Result<OwnReport, OwnReportError> {
        let mut evidence = quote(version, &[]);
        alter(&mut evidence.report);
        read(Platform::Tdx, &evidence, &ASKED)
    }

    #[test]
    fn a_quote_of_either_version_gives_its_registers_and_no_vmpl() {
        for version in [4, 5] {
            let evidence = quote(version, &[(TDX_MRTD, 1), (TDX_RTMR0, 2), (TDX_RTMR0 + 144 + 47, 3)]);
            let own = read(Platform::Tdx, &evidence, &ASKED).expect("read");
            let registers = own.registers.expect("a TD has registers");
            assert_eq!((own.measurement.0[0], own.vmpl), (1, None));
            assert_eq!((registers[0].0[0], registers[3].0[47]), (2, 3));
        }
    }

    #[test]
    fn a_quote_that_is_none_is_refused_for_what_is_wrong_with_it() {
        let version = |got| Err(OwnReportError::Version { got, oldest: 4, newest: 5 });
        assert_eq!(read_altered(4, |q| q[0] = 3), version(3));
        assert_eq!(read_altered(4, |q| q[0] = 6), version(6));
        assert_eq!(read_altered(4, |q| q[1] = 1), version(0x104));
        assert_eq!(read_altered(4, |q| q[4] = 0), Err(OwnReportError::TeeType { got: 0 }));
        for got in [1, 4] {
            let refused = read_altered(5, |q| q[TDX_BODY_TYPE_V5] = u8::try_from(got).expect("small"));
            assert_eq!(refused, Err(OwnReportError::BodyType { got }));
        }
        assert!(read_altered(5, |q| q[TDX_BODY_TYPE_V5] = 2).is_ok(), "TD 1.0 in version 5");
    }

    #[test]
    fn a_quote_must_have_its_fields_and_no_more_than_is_read() {
        let length = |shortest, got| Err(OwnReportError::QuoteLength { shortest, got });
        assert_eq!(read_altered(4, |q| q.truncate(631)), length(632, 631));
        assert_eq!(read_altered(5, |q| q.truncate(637)), length(638, 637));
        assert_eq!(read_altered(4, Vec::clear), length(632, 0));
        assert!(read_altered(4, |q| q.resize(TDX_MAX_QUOTE, 0)).is_ok());
        assert_eq!(read_altered(4, |q| q.resize(TDX_MAX_QUOTE + 1, 0)), length(632, TDX_MAX_QUOTE + 1));
    }

    #[test]
    fn a_quote_over_other_data_is_refused() {
        for offset in [TDX_REPORT_DATA, TDX_REPORT_DATA + 63] {
            let refused = read(Platform::Tdx, &quote(5, &[(offset, 0)]), &ASKED);
            assert!(matches!(refused, Err(OwnReportError::ReportData { .. })), "{refused:?}");
        }
    }

    #[test]
    fn every_register_must_stay_what_it_was_at_the_start() {
        let at_start = read(Platform::Tdx, &quote(5, &[]), &ASKED).expect("read");
        let checked = |offset| check(Platform::Tdx, &quote(5, &[(offset, 1)]), &ASKED, &at_start);
        let (expected, mut got) = (Measurement([0; MEASUREMENT_LEN]), Measurement([0; MEASUREMENT_LEN]));
        got.0[0] = 1;
        assert_eq!(checked(TDX_MRTD), Err(OwnReportError::MeasurementChanged { expected, got }));
        for index in 0..TDX_RTMRS {
            let refused = checked(TDX_RTMR0 + index * MEASUREMENT_LEN);
            assert_eq!(refused, Err(OwnReportError::RegisterChanged { index, expected, got }));
        }
        assert_eq!(checked(0), Ok(()), "SVNs of the platform are the verifier's");
    }

    /// A request that announces 64 bytes of measurement and 32 of additional data.
    fn request(bytes: &[u8]) -> AttestationRequest {
        let length = u32::try_from(bytes.len()).expect("short");
        let words = [0x100, 0x40 + length, 0, 0, length, 0x40, 64, 0, 32, 0, 0, 0, 0, 0];
        let exchange = [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), bytes].concat();
        AttestationRequest::parse(&exchange).expect("a request")
    }

    fn answered(request: &[u8], measurement: usize, additional: usize, user_data: &[u8]) -> Evidence {
        let (measurement, additional) = (vec![1; measurement], vec![2; additional]);
        let answer = ExchangeResponse::new(request, &measurement, &additional, user_data, &[3; 16]);
        let response = answer.expect("a response").encode();
        let report = SecureExecutionEvidence { response, header: vec![] }.encode();
        Evidence { platform: Platform::SecureExecution, report, endorsements: vec![] }
    }

    #[test]
    fn an_answer_must_be_to_the_request_with_what_it_announces_and_over_the_data() {
        let asked = request(b"request");
        let checked = |evidence: &Evidence| {
            check_answer(Platform::SecureExecution, evidence, &asked, &ASKED).map(|_| ())
        };
        let good = answered(b"request", 64, 32, &ASKED.0);
        assert_eq!(checked(&good), Ok(()));
        let digest = Sha256Digest::of;
        let (expected, got) = (digest(b"request"), digest(b"another"));
        let other = OwnReportError::OtherRequest { expected, got };
        assert_eq!(checked(&answered(b"another", 64, 32, &ASKED.0)), Err(other));
        let announced = |what, expected, got| Err(OwnReportError::Announced { what, expected, got });
        assert_eq!(checked(&answered(b"request", 63, 32, &ASKED.0)), announced("measurement", 64, 63));
        assert_eq!(checked(&answered(b"request", 64, 33, &ASKED.0)), announced("additional data", 32, 33));
        let (expected, got) = (Box::new(ASKED), Box::new(ReportData([1; 64])));
        let data = OwnReportError::ReportData { expected, got };
        assert_eq!(checked(&answered(b"request", 64, 32, &[1; 64])), Err(data));
        let length = OwnReportError::Length { expected: 64, got: 63 };
        assert_eq!(checked(&answered(b"request", 64, 32, &ASKED.0[1..])), Err(length));
        let cut = Evidence { report: good.report[1..].to_vec(), ..good.clone() };
        assert!(matches!(checked(&cut), Err(OwnReportError::Bytes(_))));
        let platform = OwnReportError::Platform { expected: Platform::SecureExecution, got: Platform::Tdx };
        assert_eq!(checked(&Evidence { platform: Platform::Tdx, ..good }), Err(platform));
    }
}
