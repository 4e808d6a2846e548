//! Reasons to refuse a timestamp.

use provenance::timestamp::Timestamp;

use crate::x509::CertificateError;

/// Why a timestamp is refused. One that is there and does not hold is never passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// The policy demands a timestamp, and there is none.
    #[error("policy demands a timestamp of a named authority, and none is in the Evidence collection")]
    Missing {
        /// Line of the policy.
        line: usize,
    },
    /// Too many bytes.
    #[error("timestamp has {got} bytes, at most {limit} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the DER of a timestamp.
    #[error("timestamp does not parse as DER: {problem}")]
    Malformed {
        /// What the parser saw.
        problem: String,
    },
    /// The authority refused to make one.
    #[error("timestamp response has status {got}, wanted 0 or 1, granted")]
    Status {
        /// PKIStatus.
        got: u64,
    },
    /// A field has another value than it must have.
    #[error("{field} of the timestamp is {got}, wanted {wanted}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value seen.
        got: String,
        /// Value wanted.
        wanted: &'static str,
    },
    /// Something is in it that would have to be believed unread.
    #[error("timestamp has {what}, which nothing here reads")]
    Unread {
        /// What is there.
        what: &'static str,
    },
    /// An algorithm that is not known, or too weak.
    #[error("{field} of the timestamp is {got}, wanted {wanted}")]
    Algorithm {
        /// Which algorithm.
        field: &'static str,
        /// DER of the AlgorithmIdentifier in hex.
        got: String,
        /// Algorithms accepted.
        wanted: &'static str,
    },
    /// A signed attribute that must be there once is not.
    #[error("signed attribute {name} stands {got} times in the timestamp, wanted once")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// How often it stands there.
        got: usize,
    },
    /// The signed digest is not that of the contents.
    #[error("timestamp signs contents with digest {got}, those in it have {wanted}")]
    MessageDigest {
        /// Digest signed, hex.
        got: String,
        /// Digest of the contents, hex.
        wanted: String,
    },
    /// The certificate that the timestamp says it was signed with is not in it.
    #[error(
        "timestamp was signed with the certificate of hash {wanted}; none of the {looked_at} in it has it"
    )]
    NoSignerCertificate {
        /// Hash in ESSCertIDv2, hex.
        wanted: String,
        /// Certificates looked at.
        looked_at: usize,
    },
    /// Signer identifier and ESSCertIDv2 name different certificates.
    #[error("timestamp names one certificate as signer's and is bound to another")]
    SignerIdentifier,
    /// A certificate is refused.
    #[error("certificate `{name}` of the time-stamping authority {error}")]
    Certificate {
        /// Its common name.
        name: String,
        /// Why.
        error: CertificateError,
    },
    /// The signer's certificate is not for time stamping alone (RFC 3161 §2.3).
    #[error("certificate `{name}` of the time-stamping authority {problem}")]
    Purpose {
        /// Its common name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The signature does not verify.
    #[error("signature of the timestamp does not verify under the key of `{name}`")]
    Signature {
        /// Common name of the signer.
        name: String,
    },
    /// The timestamp is over something else.
    #[error(
        "timestamp is over {got}; over Evidence and leaf with each of the {looked_at} statements attached it would be another"
    )]
    Imprint {
        /// Imprint in the timestamp, hex.
        got: String,
        /// Statements looked at.
        looked_at: usize,
    },
    /// The accuracy is too wide to be of use.
    #[error("timestamp is accurate to {got} seconds, at most {limit} are accepted")]
    Accuracy {
        /// Seconds.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// Made in the future.
    #[error("timestamp is of {time}, judged at {now}: a clock is wrong")]
    Future {
        /// When it says that it was made.
        time: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
    /// No authority of the policy stands above it.
    #[error("timestamp leads to the issuer `{issuer}`, who is no authority that the policy names")]
    UnknownAuthority {
        /// Common name of the issuer where the chain ends.
        issuer: String,
        /// Line of the policy.
        line: usize,
    },
    /// A certificate was not valid when the timestamp was made.
    #[error("when the timestamp was made, certificate `{name}` of the time-stamping authority {error}")]
    NotValidThen {
        /// Its common name.
        name: String,
        /// Why.
        error: CertificateError,
    },
    /// A certificate is not valid today, so nobody says any more whether its key is still safe.
    #[error("certificate `{name}` of the time-stamping authority {error}")]
    NotValidToday {
        /// Its common name.
        name: String,
        /// Why.
        error: CertificateError,
    },
    /// The timestamp is over another statement or signature than those that were accepted.
    #[error("timestamp is over a statement or signature that is not the one accepted")]
    OtherStatement,
}

impl TimeError {
    /// Line of the policy that refuses, if it is the policy that does.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Missing { line } | Self::UnknownAuthority { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// Whether a new timestamp could heal it.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        matches!(self, Self::NotValidToday { .. })
    }
}

impl From<der::Error> for TimeError {
    fn from(error: der::Error) -> Self {
        Self::Malformed { problem: error.to_string() }
    }
}

/// Errors of the DER reader that certificates and timestamps share.
impl From<CertificateError> for TimeError {
    fn from(error: CertificateError) -> Self {
        Self::Malformed { problem: error.to_string() }
    }
}
