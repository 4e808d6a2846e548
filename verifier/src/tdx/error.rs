//! Every way in which a TDX quote is not authentic: one variant for each check.

use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::tdx_endorsements::InvalidTdxEndorsements;
use provenance::timestamp::Timestamp;

use super::{Document, PemError, QuoteError};
use crate::given::TooManyEndorsements;
use crate::x509::CertificateError;

/// A place among Intel's certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// Intel SGX Root CA.
    Root,
    /// Intel SGX PCK Platform CA or Processor CA.
    PckCa,
    /// Provisioning Certification Key of the platform.
    Pck,
    /// Signer of TCB info and QE identity.
    TcbSigning(Document),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("Intel SGX root"),
            Self::PckCa => f.write_str("PCK CA"),
            Self::Pck => f.write_str("PCK"),
            Self::TcbSigning(document) => write!(f, "{document} signing"),
        }
    }
}

/// A certificate chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainName {
    /// In the quote.
    Pck,
    /// Beside a document.
    Document(Document),
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pck => f.write_str("PCK"),
            Self::Document(document) => write!(f, "{document}"),
        }
    }
}

/// A revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlName {
    /// Of the root.
    Root,
    /// Of the PCK CA.
    PckCa,
}

impl fmt::Display for CrlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root CA",
            Self::PckCa => "PCK",
        })
    }
}

/// Why a quote is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TdxError {
    /// The quote is malformed.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// More endorsements than are looked at.
    #[error(transparent)]
    TooMany(#[from] TooManyEndorsements),
    /// A certificate chain is malformed.
    #[error("{which} {error}")]
    Pem {
        /// The chain.
        which: ChainName,
        /// Why.
        error: PemError,
    },
    /// A certificate is refused.
    #[error("{which} certificate {error}")]
    Certificate {
        /// The certificate.
        which: CertificateName,
        /// Why.
        error: CertificateError,
    },
    /// The root is no pinned one.
    #[error("root key is {got}, which is no vendor's root and none that the policy names")]
    UnknownRoot {
        /// SHA-256 of the root's SPKI.
        got: Sha256Digest,
    },
    /// Intel's root, which the policy does not accept.
    #[error("root is Intel's, which the policy does not accept")]
    RootNotAccepted,
    /// A certificate has another name than its place demands.
    #[error("{which} certificate is named `{got}`, wanted `{wanted}`")]
    Name {
        /// The certificate.
        which: CertificateName,
        /// Its common name.
        got: String,
        /// The name wanted.
        wanted: &'static str,
    },
    /// A certificate without an ECDSA P-256 key.
    #[error("{which} certificate has no ECDSA P-256 key")]
    KeyKind {
        /// The certificate.
        which: CertificateName,
    },
    /// The PCK did not sign the Quoting Enclave's report.
    #[error(
        "signature of the Quoting Enclave's report does not verify under the PCK (report at quote offset {report:#x}, signature at {signature:#x})"
    )]
    QeSignature {
        /// Offset of the report.
        report: usize,
        /// Offset of the signature.
        signature: usize,
    },
    /// The Quoting Enclave's report is about another attestation key.
    #[error(
        "Quoting Enclave's report names {got}, attestation key and authentication data give {wanted} (quote offset {offset:#x})"
    )]
    AttestationKey {
        /// REPORTDATA of the Quoting Enclave's report, hex.
        got: String,
        /// What it should be, hex.
        wanted: String,
        /// Offset of REPORTDATA.
        offset: usize,
    },
    /// The attestation key did not sign the quote.
    #[error(
        "signature of the quote does not verify under its attestation key (quote bytes 0x0 to {last:#x}, signature at {signature:#x})"
    )]
    Signature {
        /// Offset of the last byte signed.
        last: usize,
        /// Offset of the signature.
        signature: usize,
    },
    /// An extension of the PCK certificate is missing or malformed.
    #[error("PCK certificate: {name} is {problem}")]
    PckExtension {
        /// Intel's name of the extension or of an entry in it.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// Endorsements are malformed.
    #[error(transparent)]
    Endorsements(#[from] InvalidTdxEndorsements),
    /// No endorsements are at hand, so that the TCB status is unknown.
    #[error(
        "TCB info, QE identity and revocation lists for FMSPC {fmspc} are missing: neither with the Evidence nor among the endorsements given; the TCB status is unknown"
    )]
    MissingEndorsements {
        /// FMSPC of the platform, hex.
        fmspc: String,
    },
    /// A revocation list is refused.
    #[error("{which} revocation list {error}")]
    Crl {
        /// The list.
        which: CrlName,
        /// Why.
        error: CertificateError,
    },
    /// A certificate is revoked.
    #[error("{which} certificate is revoked")]
    Revoked {
        /// The certificate.
        which: CertificateName,
    },
    /// A document is too large.
    #[error("{which} has {got} bytes, at most {limit} are read")]
    DocumentTooLarge {
        /// The document.
        which: Document,
        /// Bytes seen.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// A document is not of the form that Intel describes.
    #[error("{which} is not as Intel's API version 4 describes it: {problem}")]
    Document {
        /// The document.
        which: Document,
        /// What the parser saw, with its place.
        problem: String,
    },
    /// A document leads to another root than the quote.
    #[error("issuer chain of the {which} ends in root key {got}, that of the quote in {wanted}")]
    OtherRoot {
        /// The document.
        which: Document,
        /// SHA-256 of the root's SPKI.
        got: Sha256Digest,
        /// SHA-256 of the SPKI of the quote's root.
        wanted: Sha256Digest,
    },
    /// The signature of a document does not verify.
    #[error("signature of the {which} does not verify under Intel's TCB signing key")]
    DocumentSignature {
        /// The document.
        which: Document,
    },
    /// A document is of another kind or version.
    #[error("{which}: {name} is `{got}`, wanted `{wanted}`")]
    DocumentField {
        /// The document.
        which: Document,
        /// Name of the field.
        name: &'static str,
        /// The value seen.
        got: String,
        /// The value wanted.
        wanted: String,
    },
    /// A document from the future.
    #[error("{which} was issued at {issue_date}, judged at {now}")]
    DocumentNotYetValid {
        /// The document.
        which: Document,
        /// When it was issued.
        issue_date: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
    /// A document that has had a successor.
    #[error("{which} is current until {next_update}, judged at {now}")]
    DocumentExpired {
        /// The document.
        which: Document,
        /// When its successor was due.
        next_update: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
    /// TCB info of another kind of platform.
    #[error("TCB info is of {name} {got}, the PCK certificate of {wanted}")]
    OtherPlatform {
        /// `FMSPC` or `PCE id`.
        name: &'static str,
        /// Value in the TCB info, hex.
        got: String,
        /// Value in the PCK certificate, hex.
        wanted: String,
    },
    /// The Quoting Enclave is not the one that Intel describes.
    #[error("Quoting Enclave's {name} is {got}, Intel's has {wanted} (quote offset {offset:#x})")]
    QeIdentity {
        /// The field.
        name: &'static str,
        /// Its offset in the quote.
        offset: usize,
        /// Value seen, hex.
        got: String,
        /// Value wanted, hex.
        wanted: String,
    },
    /// The Quoting Enclave reaches no level at all.
    #[error(
        "Quoting Enclave has ISVSVN {got}, which reaches no TCB level of its identity (quote offset {offset:#x})"
    )]
    NoQeTcbLevel {
        /// ISVSVN seen.
        got: u16,
        /// Its offset in the quote.
        offset: usize,
    },
    /// TCB info does not know the TDX module's major version.
    #[error("TDX module is {got}, which the TCB info does not know (quote offset {offset:#x})")]
    NoModuleIdentity {
        /// `TDX_01`.
        got: String,
        /// Offset of the SVNs in the quote.
        offset: usize,
    },
    /// The TDX module is not Intel's.
    #[error("TDX module's {name} is {got}, Intel's has {wanted} (quote offset {offset:#x})")]
    ModuleIdentity {
        /// The field.
        name: &'static str,
        /// Its offset in the quote.
        offset: usize,
        /// Value seen, hex.
        got: String,
        /// Value wanted, hex.
        wanted: String,
    },
    /// The TDX module reaches no level of its major version.
    #[error(
        "TDX module has SVN {got}, which reaches no TCB level of its major version (quote offset {offset:#x})"
    )]
    NoModuleTcbLevel {
        /// SVN seen.
        got: u8,
        /// Its offset in the quote.
        offset: usize,
    },
    /// The platform reaches no level at all: Intel says nothing about it, not even that it is out of date.
    #[error(
        "platform reaches no TCB level of its FMSPC: SGX components {sgx}, PCESVN {pcesvn}, TEE TCB SVN {tdx} (PCK certificate, quote offset {offset:#x})"
    )]
    NoTcbLevel {
        /// SGX component SVNs of the PCK certificate, hex.
        sgx: String,
        /// PCESVN of the PCK certificate.
        pcesvn: u16,
        /// TEE TCB SVN of the quote, hex.
        tdx: String,
        /// Its offset.
        offset: usize,
    },
}

impl TdxError {
    /// Whether other or newer endorsements could heal it: something is missing, out of date or for another platform.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::TooMany(_)
            | Self::MissingEndorsements { .. }
            | Self::DocumentNotYetValid { .. }
            | Self::DocumentExpired { .. }
            | Self::OtherPlatform { .. } => true,
            Self::Certificate { error, .. } | Self::Crl { error, .. } => {
                matches!(error, CertificateError::Expired { .. } | CertificateError::NotYetValid { .. })
            }
            _ => false,
        }
    }

    /// Whether everything is genuine, but nobody stands by the platform: a matter of trust, not of authenticity.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::RootNotAccepted
                | Self::NoQeTcbLevel { .. }
                | Self::NoModuleIdentity { .. }
                | Self::NoModuleTcbLevel { .. }
                | Self::NoTcbLevel { .. }
        )
    }
}
