//! The quote (Intel TDX DCAP Quoting Library API, Appendix A, versions 4 and 5), read over its raw bytes.
//!
//! All integers are little-endian. Nothing is decoded into another form and encoded again: signatures are checked
//! over the bytes that came in. Version 4 has a TD 1.0 body; version 5 names its body, TD 1.0 (type 2) or
//! TD 1.5 (type 3). Only the certification data that Intel's Quoting Enclave for TDs writes is read: type 6, the
//! Quoting Enclave's report, around type 5, the PCK certificate chain.

use std::fmt;

pub use super::layout::{body, header, qe_report, signature_data, td_attributes};

/// Largest quote that is read, in bytes. Genuine ones have about 5,000 bytes, zero-padded to 8,000 on some clouds.
pub const MAX_QUOTE: usize = 64 << 10;
/// Length of the header.
pub const HEADER_LEN: usize = 48;
/// Length of the body of TD 1.0.
pub const BODY_1_0_LEN: usize = 584;
/// Length of the body of TD 1.5.
pub const BODY_1_5_LEN: usize = 648;
/// Length of a report of an SGX enclave, such as the Quoting Enclave's.
pub const QE_REPORT_LEN: usize = 384;
/// Attestation key type: ECDSA P-256 with SHA-256.
const ECDSA_P256: u16 = 2;
/// TEE type of TDX.
const TEE_TDX: u32 = 0x81;
/// Intel's Quoting Enclave vendor id.
const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// Certification data types (Appendix A.3.9).
const CERTIFICATION_PCK_CHAIN: u16 = 5;
const CERTIFICATION_QE_REPORT: u16 = 6;

/// Why bytes are no quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// Too many bytes.
    #[error("TDX quote has {got} bytes, at most {MAX_QUOTE} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// The bytes end inside a field.
    #[error("TDX quote ends inside {what}: {wanted} bytes wanted, {got} left (quote offset {offset:#x})")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Its offset.
        offset: usize,
        /// Bytes that it needs.
        wanted: usize,
        /// Bytes that are left.
        got: usize,
    },
    /// A version whose layout is not known.
    #[error("TDX quote version is {got}, wanted 4 or 5 (quote offset 0x0)")]
    Version {
        /// The version seen.
        got: u16,
    },
    /// Another kind of attestation key.
    #[error("attestation key type is {got}, wanted 2, ECDSA P-256 (quote offset 0x2)")]
    AttestationKeyType {
        /// The type seen.
        got: u16,
    },
    /// A quote of another kind of TEE, such as an SGX enclave.
    #[error("TEE type is {got:#x}, wanted 0x81, TDX (quote offset 0x4)")]
    TeeType {
        /// The type seen.
        got: u32,
    },
    /// A quote of somebody else's Quoting Enclave.
    #[error("QE vendor id is {got}, wanted Intel's 939a7233f79c4ca9940a0db3957f0607 (quote offset 0xc)")]
    QeVendor {
        /// The id seen, hex.
        got: String,
    },
    /// A body whose layout is not known.
    #[error("body type is {got}, wanted 2 (TD 1.0) or 3 (TD 1.5) (quote offset 0x30)")]
    BodyType {
        /// The type seen.
        got: u16,
    },
    /// A size is not what it must be, by the type or by what it encloses.
    #[error("size of {what} is {got}, wanted {wanted} (quote offset {offset:#x})")]
    Size {
        /// What has the size.
        what: &'static str,
        /// Offset of the size.
        offset: usize,
        /// Size seen.
        got: usize,
        /// Size wanted.
        wanted: usize,
    },
    /// Another type of certification data.
    #[error("certification data type is {got}, wanted {wanted} (quote offset {offset:#x})")]
    CertificationType {
        /// Offset of the type.
        offset: usize,
        /// Type seen.
        got: u16,
        /// Type wanted.
        wanted: u16,
    },
    /// Reserved bytes are not zero.
    #[error("reserved byte of the TDX quote is {got:#04x}, wanted 0 (quote offset {offset:#x})")]
    Reserved {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// Something follows the quote.
    #[error("byte {got:#04x} follows the TDX quote, only zero padding may (quote offset {offset:#x})")]
    Trailing {
        /// Offset of the first byte that is not zero.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
}

/// Layout of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyType {
    /// TD 1.0.
    Td10,
    /// TD 1.5: also TEE_TCB_SVN2 and MRSERVICETD.
    Td15,
}

impl BodyType {
    /// Its number in quotes of version 5.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Td10 => 2,
            Self::Td15 => 3,
        }
    }

    const fn length(self) -> usize {
        match self {
            Self::Td10 => BODY_1_0_LEN,
            Self::Td15 => BODY_1_5_LEN,
        }
    }
}

/// A parsed quote: form checked, nothing believed. Fields keep the specification's names.
#[derive(Clone, PartialEq, Eq)]
pub struct Quote {
    raw: Vec<u8>,
    body_type: BodyType,
    body: usize,
    signature_data: usize,
    qe_auth_len: usize,
    chain: (usize, usize),
}

impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quote(version {}, MRTD {})", self.version(), hex::encode(self.mrtd()))
    }
}

/// Bounds-checked reads for the time before the layout is known.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&self, what: &'static str, offset: usize) -> Result<[u8; N], QuoteError> {
        self.check(what, offset, N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.0[offset..offset + N]);
        Ok(out)
    }

    fn u16(&self, what: &'static str, offset: usize) -> Result<u16, QuoteError> {
        self.array(what, offset).map(u16::from_le_bytes)
    }

    fn size(&self, what: &'static str, offset: usize) -> Result<usize, QuoteError> {
        self.array(what, offset).map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn check(&self, what: &'static str, offset: usize, wanted: usize) -> Result<(), QuoteError> {
        let got = self.0.len().saturating_sub(offset);
        if got < wanted { Err(QuoteError::Truncated { what, offset, wanted, got }) } else { Ok(()) }
    }

    fn certification_type(&self, offset: usize, wanted: u16) -> Result<(), QuoteError> {
        let got = self.u16("the certification data type", offset)?;
        if got == wanted { Ok(()) } else { Err(QuoteError::CertificationType { offset, got, wanted }) }
    }
}

fn same_size(what: &'static str, offset: usize, got: usize, wanted: usize) -> Result<(), QuoteError> {
    if got == wanted { Ok(()) } else { Err(QuoteError::Size { what, offset, got, wanted }) }
}

impl Quote {
    /// Parses a quote. Sizes must agree with each other and lie inside the bytes; see [`Self::check_signed_form`]
    /// and [`Self::check_padding`] for what is looked at later.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::TooLarge { got: bytes.len() });
        }
        let reader = Reader(bytes);
        reader.check("the header", 0, HEADER_LEN)?;
        let version = reader.u16("the version", header::VERSION)?;
        if !(4..=5).contains(&version) {
            return Err(QuoteError::Version { got: version });
        }
        let got = reader.u16("the attestation key type", header::ATTESTATION_KEY_TYPE)?;
        if got != ECDSA_P256 {
            return Err(QuoteError::AttestationKeyType { got });
        }
        let got = u32::from_le_bytes(reader.array("the TEE type", header::TEE_TYPE)?);
        if got != TEE_TDX {
            return Err(QuoteError::TeeType { got });
        }
        let vendor: [u8; 16] = reader.array("the QE vendor id", header::QE_VENDOR_ID)?;
        if vendor != INTEL_QE_VENDOR {
            return Err(QuoteError::QeVendor { got: hex::encode(vendor) });
        }
        let (body_type, body) =
            if version == 4 { (BodyType::Td10, HEADER_LEN) } else { body_of_v5(&reader)? };
        reader.check("the body", body, body_type.length())?;

        let length_at = body + body_type.length();
        let length = reader.size("the length of the signature data", length_at)?;
        let data = length_at + 4;
        reader.check("the signature data", data, length)?;
        // Nothing of the signature data may be looked for outside of its length.
        let reader = Reader(&bytes[..data + length]);
        reader.check("the signature data", data, signature_data::QE_AUTH)?;
        reader.certification_type(data + signature_data::CERTIFICATION_TYPE, CERTIFICATION_QE_REPORT)?;
        let size_at = data + signature_data::CERTIFICATION_SIZE;
        let size = reader.size("the size of the certification data", size_at)?;
        let wanted = length.saturating_sub(signature_data::QE_REPORT);
        same_size("the QE report certification data", size_at, size, wanted)?;
        let qe_auth_len = usize::from(
            reader.u16("the size of the QE authentication data", data + signature_data::QE_AUTH_SIZE)?,
        );
        reader.check("the QE authentication data", data + signature_data::QE_AUTH, qe_auth_len)?;
        let inner = data + signature_data::QE_AUTH + qe_auth_len;
        reader.certification_type(inner, CERTIFICATION_PCK_CHAIN)?;
        let size = reader.size("the size of the PCK certificate chain", inner + 2)?;
        let chain = inner + 6;
        same_size("the PCK certificate chain", inner + 2, size, (data + length).saturating_sub(chain))?;
        Ok(Self {
            raw: bytes.to_vec(),
            body_type,
            body,
            signature_data: data,
            qe_auth_len,
            chain: (chain, data + length),
        })
    }

    /// Checks the reserved fields of what is signed. Called after the signatures, so that a changed byte is
    /// reported as what it is, a broken signature.
    pub(super) fn check_signed_form(&self) -> Result<(), QuoteError> {
        let qe = self.signature_data + signature_data::QE_REPORT;
        for (start, end) in [
            (header::RESERVED, header::QE_VENDOR_ID),
            (qe + qe_report::RESERVED_20, qe + qe_report::ISVEXTPRODID),
            (qe + qe_report::RESERVED_96, qe + qe_report::MRSIGNER),
            (qe + qe_report::RESERVED_160, qe + qe_report::CONFIGID),
            (qe + qe_report::RESERVED_262, qe + qe_report::ISVFAMILYID),
        ] {
            if let Some(at) = self.raw[start..end].iter().position(|byte| *byte != 0) {
                return Err(QuoteError::Reserved { offset: start + at, got: self.raw[start + at] });
            }
        }
        Ok(())
    }

    /// Checks that nothing but zeros follows the quote. Some clouds pad quotes to a fixed size.
    pub(super) fn check_padding(&self) -> Result<(), QuoteError> {
        let end = self.chain.1;
        match self.raw[end..].iter().position(|byte| *byte != 0) {
            Some(at) => Err(QuoteError::Trailing { offset: end + at, got: self.raw[end + at] }),
            None => Ok(()),
        }
    }

    fn array<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.raw[at..at + N].try_into().expect("parse has checked that every field lies inside the quote")
    }

    fn of_body<const N: usize>(&self, field: usize) -> &[u8; N] {
        self.array(self.body + field)
    }

    fn of_signature<const N: usize>(&self, field: usize) -> &[u8; N] {
        self.array(self.signature_data + field)
    }

    /// VERSION, 4 or 5.
    #[must_use]
    pub fn version(&self) -> u16 {
        u16::from_le_bytes(*self.array(header::VERSION))
    }

    /// Attestation key type, always 2.
    #[must_use]
    pub fn attestation_key_type(&self) -> u16 {
        u16::from_le_bytes(*self.array(header::ATTESTATION_KEY_TYPE))
    }

    /// TEE type, always 0x81.
    #[must_use]
    pub fn tee_type(&self) -> u32 {
        u32::from_le_bytes(*self.array(header::TEE_TYPE))
    }

    /// Layout of the body.
    #[must_use]
    pub fn body_type(&self) -> BodyType {
        self.body_type
    }

    /// Offset of a field of the body (see [`body`]) in the quote, for messages.
    #[must_use]
    pub fn body_offset(&self, field: usize) -> usize {
        self.body + field
    }

    /// Offset of a field of the signature data (see [`signature_data`]) in the quote, for messages.
    #[must_use]
    pub fn signature_data_offset(&self, field: usize) -> usize {
        self.signature_data + field
    }

    /// First and last-plus-one offset of the PCK certificate chain.
    #[must_use]
    pub fn chain_range(&self) -> (usize, usize) {
        self.chain
    }

    /// TEE_TCB_SVN, at launch.
    #[must_use]
    pub fn tee_tcb_svn(&self) -> &[u8; 16] {
        self.of_body(body::TEE_TCB_SVN)
    }

    /// MRSEAM.
    #[must_use]
    pub fn mrseam(&self) -> &[u8; 48] {
        self.of_body(body::MRSEAM)
    }

    /// MRSIGNERSEAM.
    #[must_use]
    pub fn mrsignerseam(&self) -> &[u8; 48] {
        self.of_body(body::MRSIGNERSEAM)
    }

    /// SEAMATTRIBUTES, as bytes.
    #[must_use]
    pub fn seam_attributes(&self) -> &[u8; 8] {
        self.of_body(body::SEAMATTRIBUTES)
    }

    /// TDATTRIBUTES, see [`td_attributes`].
    #[must_use]
    pub fn td_attributes(&self) -> u64 {
        u64::from_le_bytes(*self.of_body(body::TDATTRIBUTES))
    }

    /// XFAM.
    #[must_use]
    pub fn xfam(&self) -> u64 {
        u64::from_le_bytes(*self.of_body(body::XFAM))
    }

    /// MRTD.
    #[must_use]
    pub fn mrtd(&self) -> &[u8; 48] {
        self.of_body(body::MRTD)
    }

    /// MRCONFIGID.
    #[must_use]
    pub fn mrconfigid(&self) -> &[u8; 48] {
        self.of_body(body::MRCONFIGID)
    }

    /// MROWNER.
    #[must_use]
    pub fn mrowner(&self) -> &[u8; 48] {
        self.of_body(body::MROWNER)
    }

    /// MROWNERCONFIG.
    #[must_use]
    pub fn mrownerconfig(&self) -> &[u8; 48] {
        self.of_body(body::MROWNERCONFIG)
    }

    /// RTMR0 to RTMR3.
    #[must_use]
    pub fn rtmrs(&self) -> [&[u8; 48]; 4] {
        [0, 1, 2, 3].map(|index| self.of_body(body::RTMR0 + 48 * index))
    }

    /// REPORTDATA.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        self.of_body(body::REPORTDATA)
    }

    /// TEE_TCB_SVN2, at the time of the quote; TD 1.5 only.
    #[must_use]
    pub fn tee_tcb_svn2(&self) -> Option<&[u8; 16]> {
        (self.body_type == BodyType::Td15).then(|| self.of_body(body::TEE_TCB_SVN2))
    }

    /// MRSERVICETD; TD 1.5 only.
    #[must_use]
    pub fn mrservicetd(&self) -> Option<&[u8; 48]> {
        (self.body_type == BodyType::Td15).then(|| self.of_body(body::MRSERVICETD))
    }

    /// The raw bytes that the attestation key signed: header and body.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.raw[..self.body + self.body_type.length()]
    }

    /// Signature of [`Self::signed_bytes`], R ‖ S.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        self.of_signature(signature_data::SIGNATURE)
    }

    /// Attestation key, X ‖ Y.
    #[must_use]
    pub fn attestation_key(&self) -> &[u8; 64] {
        self.of_signature(signature_data::ATTESTATION_KEY)
    }

    /// Report of the Quoting Enclave.
    #[must_use]
    pub fn qe_report(&self) -> &[u8; QE_REPORT_LEN] {
        self.of_signature(signature_data::QE_REPORT)
    }

    /// Field of the Quoting Enclave's report, see [`qe_report`].
    pub(super) fn of_qe_report<const N: usize>(&self, field: usize) -> &[u8; N] {
        self.of_signature(signature_data::QE_REPORT + field)
    }

    /// Signature of [`Self::qe_report`], R ‖ S.
    #[must_use]
    pub fn qe_signature(&self) -> &[u8; 64] {
        self.of_signature(signature_data::QE_SIGNATURE)
    }

    /// Authentication data of the Quoting Enclave.
    #[must_use]
    pub fn qe_auth(&self) -> &[u8] {
        let start = self.signature_data + signature_data::QE_AUTH;
        &self.raw[start..start + self.qe_auth_len]
    }

    /// PCK certificate chain, PEM, leaf first.
    #[must_use]
    pub fn pck_chain(&self) -> &[u8] {
        &self.raw[self.chain.0..self.chain.1]
    }
}

fn body_of_v5(reader: &Reader<'_>) -> Result<(BodyType, usize), QuoteError> {
    let body_type = match reader.u16("the body type", header::BODY_TYPE)? {
        2 => BodyType::Td10,
        3 => BodyType::Td15,
        got => return Err(QuoteError::BodyType { got }),
    };
    let size = reader.size("the body size", header::BODY_SIZE)?;
    same_size("the body", header::BODY_SIZE, size, body_type.length())?;
    Ok((body_type, header::BODY_V5))
}
