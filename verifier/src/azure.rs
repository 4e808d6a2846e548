//! Azure confidential machines: the guest runs behind Microsoft's paravisor (HCL), which holds a virtual TPM. The
//! SEV-SNP report or the TDX quote speaks of the paravisor; a quote of its TPM speaks of the guest. So Microsoft's
//! paravisor is part of what is trusted.
//!
//! Steps of [`authenticate`] and [`authenticate_tdx`], each with its own error:
//! 1. the HCL report has its form and holds a report of the hardware and runtime data;
//! 2. the SEV-SNP report in it is authentic ([`crate::snp`]); or the TDX quote beside it is ([`crate::tdx`]), and has the
//!    REPORTDATA of the TD report in it. A TD report is not signed: the quote was made of it, and nothing else of it is
//!    looked at;
//! 3. REPORT_DATA is SHA-256 of the runtime data and 32 zero bytes;
//! 4. the runtime data name one attestation key (AK), of RSA;
//! 5. the AK signs the quote;
//! 6. the quote is one: magic, type, one selection of PCRs of the SHA-256 bank, nothing after it;
//! 7. its digest is that of the selected PCRs;
//! 8. an event log that is there has its form. Whether it replays to PCRs is asked where a policy judges by events.
//!
//! Layouts: HCL report as in Microsoft's OpenHCL (`openhcl_attestation_protocol`), little-endian; TPMS_ATTEST of TPM
//! 2.0 Library, Part 2, §10.12, big-endian.

mod appraise;
mod envelope;
mod event_log;
mod facts;
mod quote;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::{AnyRef, BitStringRef, UintRef};
use der::{Encode as _, Tag};
use provenance::azure::InvalidAzureEvidence;
pub use provenance::azure::{AzureEvidence, PCRS};
use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde::Deserialize;

pub use self::appraise::{AzureAppraisal, AzureRefusal};
pub(crate) use self::appraise::{appraise_guest, appraise_snp, appraise_tdx};
pub(crate) use self::envelope::{authenticate_snp_evidence, authenticate_tdx_evidence};
pub use self::event_log::PcrLog;
use self::quote::parse_quote;
use crate::event_log::EventLogError;
use crate::roots::Anchors;
use crate::snp::report::REPORT_LEN;
use crate::snp::{self, AuthenticReport, Endorsements, SnpError};
use crate::tdx::{self, TdxError};
use crate::time::Moment;

/// Largest HCL report that is read, in bytes. The TPM's NV index holds 2600.
pub const MAX_HCL_REPORT: usize = 0x4000;
/// Largest quote that is read, in bytes.
pub const MAX_QUOTE: usize = 0x1000;

/// Offsets of an HCL report's fields, in bytes. Nothing signs the two headers.
pub mod offset {
    /// `HCLA`, 4 bytes.
    pub const SIGNATURE: usize = 0x000;
    /// Version, u32: 1 or 2.
    pub const VERSION: usize = 0x004;
    /// Length up to the end of the runtime data, u32.
    pub const REPORT_SIZE: usize = 0x008;
    /// Type of the request, u32: 2, attestation.
    pub const REQUEST_TYPE: usize = 0x00c;
    /// Status, u32, and reserved, 12 bytes: zero.
    pub const STATUS: usize = 0x010;
    /// The SEV-SNP report, 1184 bytes; on TDX the TD report, 1024 bytes, and 160 more.
    pub const HARDWARE_REPORT: usize = 0x020;
    /// REPORTDATA of the TD report, 64 bytes (Intel TDX Module ABI, REPORTMACSTRUCT).
    pub const TD_REPORT_DATA: usize = HARDWARE_REPORT + 0x080;
    /// Length of the runtime part with its header, u32.
    pub const RUNTIME_SIZE: usize = 0x4c0;
    /// Version of the runtime part, u32: 1 or 2.
    pub const RUNTIME_VERSION: usize = 0x4c4;
    /// Kind of the hardware report, u32: 2 is SEV-SNP, 4 is TDX.
    pub const REPORT_TYPE: usize = 0x4c8;
    /// Hash of the runtime data in REPORT_DATA, u32: 1 is SHA-256.
    pub const HASH_TYPE: usize = 0x4cc;
    /// Length of the runtime data, u32.
    pub const RUNTIME_DATA_SIZE: usize = 0x4d0;
    /// Runtime data, JSON; then zeros.
    pub const RUNTIME_DATA: usize = 0x4d4;
}

/// TPM_GENERATED_VALUE: structures that a TPM made by itself.
const TPM_GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const ATTEST_QUOTE: u16 = 0x8018;
/// TPM_ALG_SHA256.
const ALG_SHA256: u16 = 0x000b;
/// `kid` of the attestation key in the runtime data.
const AK_ID: &str = "HCLAkPub";

/// Why Evidence from behind the paravisor is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AzureError {
    /// The parts do not stand in the bundle as they must.
    #[error(transparent)]
    Envelope(#[from] InvalidAzureEvidence),
    /// A TDX quote beside an HCL report of SEV-SNP.
    #[error("a TDX quote of {got} bytes is with the HCL report of a SEV-SNP machine, wanted none")]
    UnexpectedTdQuote {
        /// Bytes seen.
        got: usize,
    },
    /// The event log is malformed.
    #[error(transparent)]
    EventLog(#[from] EventLogError),
    /// Too short or too long.
    #[error("HCL report has {got} bytes, wanted {least} to {MAX_HCL_REPORT}", least = offset::RUNTIME_DATA)]
    Length {
        /// Bytes seen.
        got: usize,
    },
    /// A field has another value than it must have.
    #[error("{field} of the HCL report is {got:#x}, wanted {wanted} (offset {offset:#x})")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value seen.
        got: u32,
        /// Values wanted.
        wanted: &'static str,
        /// Offset of the field.
        offset: usize,
    },
    /// A length does not fit the others.
    #[error("{field} of the HCL report is {got}, wanted {wanted} (offset {offset:#x})")]
    Size {
        /// Name of the field.
        field: &'static str,
        /// Length stated.
        got: u32,
        /// Length that follows from the runtime data.
        wanted: usize,
        /// Offset of the field.
        offset: usize,
    },
    /// The runtime data end behind the last byte.
    #[error("runtime data of the HCL report have {got} bytes, {wanted} are left (offset 0x4d0)")]
    RuntimeDataLength {
        /// Length stated.
        got: u32,
        /// Bytes left.
        wanted: usize,
    },
    /// Bytes that must be zero are not.
    #[error("byte of the HCL report is {got:#04x}, wanted 0 (offset {offset:#x})")]
    NotZero {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// The SEV-SNP report is not authentic.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The TDX quote is not authentic.
    #[error(transparent)]
    Tdx(#[from] TdxError),
    /// The TDX quote was made of another TD report.
    #[error("TDX quote has REPORTDATA {got}, the TD report {wanted} (HCL report offset 0xa0)")]
    OtherTdReport {
        /// REPORTDATA of the quote, hex.
        got: String,
        /// REPORTDATA of the TD report, hex.
        wanted: String,
    },
    /// REPORT_DATA is not the hash of the runtime data.
    #[error("REPORT_DATA begins with {got}, SHA-256 of the runtime data is {wanted}")]
    RuntimeDataHash {
        /// First 32 bytes of REPORT_DATA, hex.
        got: String,
        /// SHA-256 of the runtime data, hex.
        wanted: String,
    },
    /// The second half of REPORT_DATA is not zero.
    #[error("REPORT_DATA ends with {got}, wanted 32 zero bytes")]
    ReportDataTail {
        /// Last 32 bytes of REPORT_DATA, hex.
        got: String,
    },
    /// The runtime data are not what they should be.
    #[error("runtime data do not parse: {problem}")]
    RuntimeData {
        /// What the parser saw.
        problem: String,
    },
    /// No attestation key, or more than one.
    #[error("runtime data have {got} keys `{AK_ID}`, wanted 1")]
    AttestationKeys {
        /// How many there are.
        got: usize,
    },
    /// The attestation key is not an RSA key for signing.
    #[error("attestation key is not an RSA key for signing: {field} is `{got}`")]
    AttestationKey {
        /// Field of the JSON Web Key.
        field: &'static str,
        /// Its value, cut to 64 characters.
        got: String,
    },
    /// The signature of the quote does not verify.
    #[error("signature of the TPM quote does not verify under the attestation key of the runtime data")]
    Signature,
    /// The quote ends too early.
    #[error("TPM quote ends within {field}")]
    QuoteLength {
        /// Field that is cut.
        field: &'static str,
    },
    /// The quote is too long.
    #[error("TPM quote has {got} bytes, at most {MAX_QUOTE} are read")]
    QuoteTooLong {
        /// Bytes seen.
        got: usize,
    },
    /// Not made by a TPM.
    #[error("magic of the TPM quote is {got:#x}, wanted {TPM_GENERATED:#x}")]
    Magic {
        /// Magic seen.
        got: u32,
    },
    /// Another structure than a quote.
    #[error("type of the TPM quote is {got:#x}, wanted {ATTEST_QUOTE:#x}")]
    Type {
        /// Type seen.
        got: u16,
    },
    /// Another selection than one of PCRs of the SHA-256 bank.
    #[error("TPM quote selects {got}, wanted PCRs of one SHA-256 bank of {PCRS}")]
    Selection {
        /// What it selects.
        got: String,
    },
    /// Bytes follow the quote.
    #[error("{got} bytes follow the TPM quote")]
    Trailing {
        /// How many.
        got: usize,
    },
    /// The digest of the quote is not that of the PCRs.
    #[error("TPM quote is over PCRs with digest {got}, those given have {wanted}")]
    PcrDigest {
        /// Digest in the quote, hex.
        got: String,
        /// Digest of the PCRs, hex.
        wanted: String,
    },
    /// The quote is over other data.
    #[error("extraData of the TPM quote is {got}, SHA-256 of the report data is {wanted}")]
    ExtraData {
        /// Data seen, hex.
        got: String,
        /// SHA-256 of the report data, hex.
        wanted: String,
    },
}

/// A quote of a TPM whose paravisor an authentic SEV-SNP report or TDX quote vouches for. Made only by [`authenticate`]
/// and [`authenticate_tdx`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticQuote<Hardware = AuthenticReport> {
    hardware: Hardware,
    runtime_data: Vec<u8>,
    extra_data: Vec<u8>,
    pcrs: [Option<[u8; 32]>; PCRS],
    attestation_key: Sha256Digest,
    event_log: Option<PcrLog>,
}

impl AuthenticQuote {
    /// The SEV-SNP report of the paravisor.
    #[must_use]
    pub fn report(&self) -> &AuthenticReport {
        &self.hardware
    }
}

impl AuthenticQuote<tdx::AuthenticQuote> {
    /// The TDX quote of the paravisor.
    #[must_use]
    pub fn td_quote(&self) -> &tdx::AuthenticQuote {
        &self.hardware
    }
}

impl<Hardware> AuthenticQuote<Hardware> {
    /// The paravisor's runtime data, JSON: keys, configuration of the machine, user data.
    #[must_use]
    pub fn runtime_data(&self) -> &[u8] {
        &self.runtime_data
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the TPM's attestation key.
    #[must_use]
    pub fn attestation_key(&self) -> Sha256Digest {
        self.attestation_key
    }

    /// The event log of the boot, if one came along. It is not held against the PCRs yet.
    #[must_use]
    pub fn event_log(&self) -> Option<&PcrLog> {
        self.event_log.as_ref()
    }

    /// What the guest had quoted, up to 64 bytes.
    #[must_use]
    pub fn extra_data(&self) -> &[u8] {
        &self.extra_data
    }

    /// A PCR of the SHA-256 bank, if the quote is over it.
    #[must_use]
    pub fn pcr(&self, index: usize) -> Option<&[u8; 32]> {
        self.pcrs.get(index)?.as_ref()
    }

    /// Checks that the quote is over these report data: extraData is SHA-256 of them.
    pub fn check_report_data(&self, report_data: &ReportData) -> Result<(), AzureError> {
        let wanted = Sha256Digest::of(&report_data.0);
        if self.extra_data == wanted.as_bytes() {
            Ok(())
        } else {
            Err(AzureError::ExtraData { got: hex::encode(&self.extra_data), wanted: wanted.hex() })
        }
    }
}

/// The parts of an HCL report.
struct HclReport<'a> {
    hardware_report: &'a [u8],
    runtime_data: &'a [u8],
}

/// Kind of the hardware report, and how messages name it.
type ReportType = (u32, &'static str);
const SNP_REPORT: ReportType = (2, "2, SEV-SNP");
const TD_REPORT: ReportType = (4, "4, TDX");

/// Step 1.
fn parse_hcl(bytes: &[u8], report_type: ReportType) -> Result<HclReport<'_>, AzureError> {
    let got = bytes.len();
    if !(offset::RUNTIME_DATA..=MAX_HCL_REPORT).contains(&got) {
        return Err(AzureError::Length { got });
    }
    let u32_at =
        |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("both headers are there in full"));
    for (field, at, accepted, wanted) in [
        ("signature", offset::SIGNATURE, &[u32::from_le_bytes(*b"HCLA")][..], "`HCLA`"),
        ("version", offset::VERSION, &[1, 2], "1 or 2"),
        ("request type", offset::REQUEST_TYPE, &[2], "2, attestation"),
        ("runtime version", offset::RUNTIME_VERSION, &[1, 2], "1 or 2"),
        ("report type", offset::REPORT_TYPE, &[report_type.0], report_type.1),
        ("hash type", offset::HASH_TYPE, &[1], "1, SHA-256"),
    ] {
        let got = u32_at(at);
        if !accepted.contains(&got) {
            return Err(AzureError::Field { field, got, wanted, offset: at });
        }
    }
    let (stated, left) = (u32_at(offset::RUNTIME_DATA_SIZE), got - offset::RUNTIME_DATA);
    let length = usize::try_from(stated).ok().filter(|length| *length <= left);
    let length = length.ok_or(AzureError::RuntimeDataLength { got: stated, wanted: left })?;
    let end = offset::RUNTIME_DATA + length;
    for (field, at, wanted) in [
        ("report size", offset::REPORT_SIZE, end),
        ("runtime size", offset::RUNTIME_SIZE, end - offset::RUNTIME_SIZE),
    ] {
        let got = u32_at(at);
        if usize::try_from(got) != Ok(wanted) {
            return Err(AzureError::Size { field, got, wanted, offset: at });
        }
    }
    for range in [offset::STATUS..offset::HARDWARE_REPORT, end..got] {
        if let Some(at) = bytes[range.clone()].iter().position(|byte| *byte != 0) {
            let offset = range.start + at;
            return Err(AzureError::NotZero { offset, got: bytes[offset] });
        }
    }
    Ok(HclReport {
        hardware_report: &bytes[offset::HARDWARE_REPORT..offset::HARDWARE_REPORT + REPORT_LEN],
        runtime_data: &bytes[offset::RUNTIME_DATA..end],
    })
}

/// The SEV-SNP report in an HCL report. Nothing about it is checked.
pub(crate) fn unauthenticated_report(hcl_report: &[u8]) -> Result<&[u8], AzureError> {
    Ok(parse_hcl(hcl_report, SNP_REPORT)?.hardware_report)
}

/// The runtime data as far as they are read. Microsoft adds fields from time to time.
#[derive(Deserialize)]
struct RuntimeData {
    keys: Vec<JsonWebKey>,
}

/// A JSON Web Key (RFC 7517) of RSA (RFC 7518 §6.3.1).
#[derive(Deserialize)]
struct JsonWebKey {
    kid: String,
    kty: String,
    #[serde(default)]
    key_ops: Vec<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// Step 4: modulus and exponent.
fn attestation_key(runtime_data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), AzureError> {
    let data: RuntimeData = serde_json::from_slice(runtime_data)
        .map_err(|error| AzureError::RuntimeData { problem: error.to_string() })?;
    let keys: Vec<JsonWebKey> = data.keys.into_iter().filter(|key| key.kid == AK_ID).collect();
    let [key] = keys.as_slice() else { return Err(AzureError::AttestationKeys { got: keys.len() }) };
    let wrong = |field, got: &str| {
        let got = got.chars().filter(|c| !c.is_control()).take(64).collect();
        AzureError::AttestationKey { field, got }
    };
    if key.kty != "RSA" {
        return Err(wrong("kty", &key.kty));
    }
    if key.key_ops != ["sign"] {
        return Err(wrong("key_ops", &key.key_ops.join(",")));
    }
    let modulus = URL_SAFE_NO_PAD.decode(&key.n).map_err(|_| wrong("n", &key.n))?;
    let exponent = URL_SAFE_NO_PAD.decode(&key.e).map_err(|_| wrong("e", &key.e))?;
    Ok((modulus, exponent))
}

/// SubjectPublicKeyInfo of an RSA key (RFC 3279 §2.3.1), by which policies name it.
fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, AzureError> {
    let der = || -> Result<Vec<u8>, der::Error> {
        let mut numbers = UintRef::new(modulus)?.to_der()?;
        numbers.extend(UintRef::new(exponent)?.to_der()?);
        let key = AnyRef::new(Tag::Sequence, &numbers)?.to_der()?;
        // rsaEncryption, no parameters.
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        let key = BitStringRef::from_bytes(&key)?.to_der()?;
        AnyRef::new(Tag::Sequence, &[&algorithm[..], &key].concat())?.to_der()
    };
    der().map_err(|_| AzureError::AttestationKey { field: "n", got: format!("{} bytes", modulus.len()) })
}

/// Authenticates Evidence from behind the paravisor to a root of `anchors`, as of `moment`. `table` is the certificate
/// table (GHCB) that came with it, `extra` what it lacks.
pub fn authenticate(
    evidence: &AzureEvidence,
    table: &[u8],
    extra: &Endorsements,
    anchors: &Anchors,
    moment: impl Into<Moment>,
) -> Result<AuthenticQuote, AzureError> {
    // Steps 1 and 2.
    let hcl = parse_hcl(&evidence.hcl_report, SNP_REPORT)?;
    if !evidence.td_quote.is_empty() {
        return Err(AzureError::UnexpectedTdQuote { got: evidence.td_quote.len() });
    }
    let report = snp::authenticate(hcl.hardware_report, table, extra, anchors, moment.into())?;
    let report_data = *report.report().report_data();
    behind(report, &report_data, &hcl, evidence)
}

/// The same for a paravisor on TDX, whose quote comes beside the HCL report. `endorsements` are what came
/// with it, in the form of the bundle; `extra` what they lack.
pub fn authenticate_tdx(
    evidence: &AzureEvidence,
    endorsements: &[u8],
    extra: &Endorsements,
    anchors: &Anchors,
    moment: impl Into<Moment>,
) -> Result<AuthenticQuote<tdx::AuthenticQuote>, AzureError> {
    // Steps 1 and 2.
    let hcl = parse_hcl(&evidence.hcl_report, TD_REPORT)?;
    let quote = tdx::authenticate(&evidence.td_quote, endorsements, &extra.tdx, anchors, moment.into())?;
    let report_data = *quote.quote().report_data();
    let of_report = &evidence.hcl_report[offset::TD_REPORT_DATA..offset::TD_REPORT_DATA + 64];
    if report_data != of_report {
        return Err(AzureError::OtherTdReport {
            got: hex::encode(report_data),
            wanted: hex::encode(of_report),
        });
    }
    behind(quote, &report_data, &hcl, evidence)
}

/// Steps 3 to 8.
fn behind<Hardware>(
    hardware: Hardware,
    report_data: &[u8; 64],
    hcl: &HclReport<'_>,
    evidence: &AzureEvidence,
) -> Result<AuthenticQuote<Hardware>, AzureError> {
    // Step 3.
    let (hash, tail) = report_data.split_at(32);
    let wanted = Sha256Digest::of(hcl.runtime_data);
    if hash != wanted.as_bytes() {
        return Err(AzureError::RuntimeDataHash { got: hex::encode(hash), wanted: wanted.hex() });
    }
    if tail != [0; 32] {
        return Err(AzureError::ReportDataTail { got: hex::encode(tail) });
    }

    // Steps 4 and 5.
    let (n, e) = attestation_key(hcl.runtime_data)?;
    if evidence.quote.len() > MAX_QUOTE {
        return Err(AzureError::QuoteTooLong { got: evidence.quote.len() });
    }
    let attestation_key = Sha256Digest::of(&rsa_spki(&n, &e)?);
    RsaPublicKeyComponents { n, e }
        .verify(&RSA_PKCS1_2048_8192_SHA256, &evidence.quote, &evidence.signature)
        .map_err(|_| AzureError::Signature)?;

    // Steps 6 and 7.
    let quote = parse_quote(&evidence.quote)?;
    let mut pcrs = [None; PCRS];
    let mut selected = Vec::with_capacity(PCRS * 32);
    for (index, (slot, value)) in pcrs.iter_mut().zip(&evidence.pcrs).enumerate() {
        if quote.selected & 1 << index != 0 {
            *slot = Some(*value);
            selected.extend_from_slice(value);
        }
    }
    let wanted = Sha256Digest::of(&selected);
    if quote.pcr_digest != wanted.as_bytes() {
        return Err(AzureError::PcrDigest { got: hex::encode(quote.pcr_digest), wanted: wanted.hex() });
    }
    Ok(AuthenticQuote {
        hardware,
        runtime_data: hcl.runtime_data.to_vec(),
        extra_data: quote.extra_data.to_vec(),
        pcrs,
        attestation_key,
        // Step 8.
        event_log: PcrLog::parse(&evidence.event_log)?,
    })
}

/// Whether bytes are an HCL report whose runtime data name an attestation key. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_hcl_report(bytes: &[u8]) -> bool {
    [SNP_REPORT, TD_REPORT]
        .into_iter()
        .filter_map(|report_type| parse_hcl(bytes, report_type).ok())
        .any(|hcl| attestation_key(hcl.runtime_data).is_ok())
}

/// Whether bytes are the quote of a TPM. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_quote(bytes: &[u8]) -> bool {
    parse_quote(bytes).is_ok()
}
