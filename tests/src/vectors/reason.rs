//! Why a case is to be refused, as its `why` says it, and which errors of the verifier say the same.
//!
//! The first phrase of [`PHRASES`] that stands in a case's `why` names its reason; a case without any is an error of
//! the case. An error that only says "does not parse" meets none of them, but where form is the stated reason.

use std::fmt;

use verifier::Reason;
use verifier::azure::AzureError;
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::secure_execution::{HostKeyError, RequestError, SeError};
use verifier::snp::{ReportError, SnpError, SnpRefusal};
use verifier::tdx::event_log::EventLogError;
use verifier::tdx::{QuoteError, TdxError, TdxRefusal};
use verifier::x509::CertificateError;

/// Why the verifier refuses a case.
#[derive(Debug)]
pub(super) enum Refused {
    Evidence(Reason),
    EventLog(EventLogError),
    Request(RequestError),
    Answer(SeError),
    HostKey(HostKeyError),
    Azure(AzureError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evidence(error) => error.fmt(f),
            Self::EventLog(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::Answer(error) => error.fmt(f),
            Self::HostKey(error) => error.fmt(f),
            Self::Azure(error) => error.fmt(f),
        }
    }
}

/// A reason that an index states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stated {
    /// The guest can be debugged.
    Debug,
    /// A certificate, list or document has expired or had a successor.
    Expired,
    /// A certificate is not issued by the one above it.
    Chain,
    /// The signature of a certificate does not verify.
    CertificateSignature,
    /// The PCK did not sign the Quoting Enclave's report.
    QeSignature,
    /// The hardware did not sign report or quote.
    Signature,
    /// The certificate is of another chip.
    OtherChip,
    /// The certificate is of another TCB.
    OtherTcb,
    /// The TCB is lower than a case's policy wants.
    MinimumTcb,
    /// Signed by a VLEK, and only VCEK is accepted.
    Vlek,
    /// No TCB level of Intel's matches.
    NoTcbLevel,
    /// A TCB status that is not accepted.
    TcbStatus,
    /// A service TD is bound.
    ServiceTd,
    /// Collateral of another FMSPC.
    OtherFmspc,
    /// The measurement of Secure Execution does not hold.
    Measurement,
    /// The request is not the own one.
    Request,
    /// A certificate is revoked.
    Revoked,
    /// A revocation list of another issuer.
    CrlIssuer,
    /// A migration agent may move the guest.
    MigrationAgent,
    /// SEPT_VE_DISABLE is clear.
    SeptVe,
    /// Bytes after the end, or another length.
    Trailing,
    /// Reserved bytes that are not zero: where they are signed, altering them breaks the signature first.
    Reserved,
    /// A root that is not the pinned one.
    Root,
    /// Another VMPL.
    Vmpl,
    /// A report version below the lowest accepted.
    ReportVersion,
    /// No revocation list, or no collateral.
    Missing,
    /// An event log of another boot.
    EventLog,
}

/// All texts of an entry must stand in `why`, in any case of letters; the first entry that fits decides.
const PHRASES: &[(&[&str], Stated)] = &[
    (&["debug"], Stated::Debug),
    (&["qe report signature"], Stated::QeSignature),
    (&["certificate signature"], Stated::CertificateSignature),
    (&["chain must fail"], Stated::Chain),
    (&["crl issued by another issuer"], Stated::CrlIssuer),
    (&["outdated crl"], Stated::Expired),
    (&["expired"], Stated::Expired),
    (&["after nextupdate"], Stated::Expired),
    (&["another fmspc"], Stated::OtherFmspc),
    (&["migrate_ma"], Stated::MigrationAgent),
    (&["migration agent"], Stated::MigrationAgent),
    (&["mrservicetd"], Stated::ServiceTd),
    (&["tcb level"], Stated::NoTcbLevel),
    (&["uptodate only"], Stated::TcbStatus),
    (&["policy minimum"], Stated::MinimumTcb),
    (&["vcek only"], Stated::Vlek),
    (&["of another", "chip"], Stated::OtherChip),
    (&["reported_tcb"], Stated::OtherTcb),
    (&["altered after measurement"], Stated::Measurement),
    (&["header of another image"], Stated::Measurement),
    (&["does not decrypt"], Stated::Request),
    (&["revoked"], Stated::Revoked),
    (&["trailing"], Stated::Trailing),
    (&["after the quote"], Stated::Trailing),
    (&["after the report"], Stated::Trailing),
    (&["length"], Stated::Trailing),
    (&["reserved"], Stated::Reserved),
    (&["padding"], Stated::Reserved),
    (&["signature must fail"], Stated::Signature),
    (&["flipped"], Stated::Signature),
    (&["pinned"], Stated::Root),
    (&["root"], Stated::Root),
    (&["sept_ve_disable"], Stated::SeptVe),
    (&["report version"], Stated::ReportVersion),
    (&["vmpl"], Stated::Vmpl),
    (&["no crl"], Stated::Missing),
    (&["no collateral"], Stated::Missing),
    (&["missing"], Stated::Missing),
    (&["replay"], Stated::EventLog),
];

const fn expired(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Expired { .. })
}

impl Stated {
    /// The reason that a case's `why` states.
    pub(super) fn of(why: &str) -> Option<Self> {
        let why = why.to_lowercase();
        let fits = |(phrases, _): &&(&[&str], Self)| phrases.iter().all(|phrase| why.contains(phrase));
        PHRASES.iter().find(fits).map(|(_, stated)| *stated)
    }

    /// Whether an error says the same.
    pub(super) fn is_met_by(self, refused: &Refused) -> bool {
        match refused {
            Refused::Evidence(Reason::Authentication(AuthenticationError::Snp(error))) => {
                self.is_met_by_snp(error)
            }
            Refused::Evidence(Reason::Authentication(AuthenticationError::Tdx(error))) => {
                self.is_met_by_tdx(error)
            }
            Refused::Evidence(Reason::Appraisal(AppraisalError::Snp(refusal))) => match self {
                Self::Debug => matches!(refusal, SnpRefusal::Debug { .. }),
                Self::MigrationAgent => matches!(refusal, SnpRefusal::MigrationAgent { .. }),
                Self::MinimumTcb => matches!(refusal, SnpRefusal::TcbTooLow { field: "REPORTED_TCB", .. }),
                Self::Vlek => matches!(refusal, SnpRefusal::VlekNotAllowed { .. }),
                Self::Vmpl => matches!(refusal, SnpRefusal::Vmpl { .. }),
                Self::ReportVersion => matches!(refusal, SnpRefusal::ReportVersion { .. }),
                _ => false,
            },
            Refused::Evidence(Reason::Appraisal(AppraisalError::Tdx(refusal))) => match self {
                Self::Debug => matches!(refusal, TdxRefusal::Debug { .. }),
                Self::ServiceTd => matches!(refusal, TdxRefusal::ServiceTd { .. }),
                Self::SeptVe => matches!(refusal, TdxRefusal::SeptVeEnabled { .. }),
                Self::TcbStatus => matches!(refusal, TdxRefusal::TcbStatus { .. }),
                _ => false,
            },
            Refused::Evidence(_) => false,
            Refused::EventLog(error) => self == Self::EventLog && matches!(error, EventLogError::Rtmr { .. }),
            Refused::Request(error) => self == Self::Request && *error == RequestError::NotOwn,
            Refused::Answer(SeError::HostKey(error)) | Refused::HostKey(error) => {
                self.is_met_by_host_key(error)
            }
            Refused::Answer(error) => {
                self == Self::Measurement && matches!(error, SeError::Measurement { .. })
            }
            Refused::Azure(AzureError::Snp(error)) => self.is_met_by_snp(error),
            Refused::Azure(error) => {
                self == Self::Signature
                    && matches!(
                        error,
                        AzureError::Signature
                            | AzureError::RuntimeDataHash { .. }
                            | AzureError::PcrDigest { .. }
                    )
            }
        }
    }

    fn is_met_by_snp(self, error: &SnpError) -> bool {
        let certificate = |wanted: &dyn Fn(&CertificateError) -> bool| matches!(error, SnpError::Certificate { error, .. } if wanted(error));
        match self {
            Self::Expired => certificate(&expired) || matches!(error, SnpError::Crl(error) if expired(error)),
            Self::Chain => certificate(&|error| matches!(error, CertificateError::Issuer { .. })),
            Self::CertificateSignature => {
                certificate(&|error| matches!(error, CertificateError::Signature { .. }))
            }
            Self::Signature => matches!(error, SnpError::Signature { .. }),
            Self::OtherChip => matches!(error, SnpError::OtherChip { .. }),
            Self::OtherTcb => matches!(error, SnpError::OtherTcb { .. }),
            Self::Revoked => matches!(error, SnpError::Revoked { .. }),
            Self::Root => matches!(error, SnpError::UnknownRoot { .. }),
            Self::Trailing => matches!(error, SnpError::Report(ReportError::Length { .. })),
            Self::Reserved => {
                matches!(error, SnpError::Report(ReportError::Reserved { .. }) | SnpError::Signature { .. })
            }
            Self::Missing => matches!(error, SnpError::CrlMissing | SnpError::MissingCertificate { .. }),
            _ => false,
        }
    }

    fn is_met_by_tdx(self, error: &TdxError) -> bool {
        match self {
            Self::Expired => match error {
                TdxError::Crl { error, .. } | TdxError::Certificate { error, .. } => expired(error),
                error => matches!(error, TdxError::DocumentExpired { .. }),
            },
            Self::Chain => {
                matches!(error, TdxError::Certificate { error: CertificateError::Issuer { .. }, .. })
            }
            Self::CertificateSignature => {
                matches!(error, TdxError::Certificate { error: CertificateError::Signature { .. }, .. })
            }
            Self::QeSignature => matches!(error, TdxError::QeSignature { .. }),
            Self::Signature => matches!(error, TdxError::Signature { .. }),
            Self::NoTcbLevel => {
                matches!(error, TdxError::NoTcbLevel { .. } | TdxError::NoModuleTcbLevel { .. })
            }
            Self::OtherFmspc => matches!(error, TdxError::OtherPlatform { name: "FMSPC", .. }),
            Self::Revoked => matches!(error, TdxError::Revoked { .. }),
            Self::Root => matches!(error, TdxError::UnknownRoot { .. } | TdxError::OtherRoot { .. }),
            Self::Trailing => {
                matches!(error, TdxError::Quote(QuoteError::Trailing { .. } | QuoteError::Truncated { .. }))
            }
            Self::Reserved => {
                matches!(
                    error,
                    TdxError::Quote(QuoteError::Reserved { .. } | QuoteError::Trailing { .. })
                        | TdxError::Signature { .. }
                )
            }
            Self::Missing => matches!(error, TdxError::MissingEndorsements { .. }),
            _ => false,
        }
    }

    fn is_met_by_host_key(self, error: &HostKeyError) -> bool {
        match self {
            Self::Expired => match error {
                HostKeyError::Certificate { error, .. } | HostKeyError::Crl { error, .. } => expired(error),
                _ => false,
            },
            Self::CertificateSignature => {
                matches!(error, HostKeyError::Certificate { error: CertificateError::Signature { .. }, .. })
            }
            Self::Chain => {
                matches!(
                    error,
                    HostKeyError::Issuer { .. }
                        | HostKeyError::Certificate { error: CertificateError::Issuer { .. }, .. }
                )
            }
            Self::CrlIssuer => matches!(error, HostKeyError::CrlIssuer { .. }),
            Self::Revoked => matches!(error, HostKeyError::Revoked { .. }),
            Self::Root => matches!(error, HostKeyError::UnknownRoot { .. }),
            Self::Missing => {
                matches!(error, HostKeyError::CrlMissing { .. } | HostKeyError::MissingCertificate { .. })
            }
            _ => false,
        }
    }
}
