//! Reasons to refuse a certificate or a revocation list.

use provenance::timestamp::Timestamp;

/// Why a certificate or CRL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Too many bytes.
    #[error("has {got} bytes, at most {limit} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the DER of a certificate or CRL.
    #[error("does not parse as DER: {problem}")]
    Malformed {
        /// What the parser saw.
        problem: String,
    },
    /// Not X.509 version 3 (CRL: version 2).
    #[error("is not X.509 version {wanted}")]
    Version {
        /// The version wanted.
        wanted: u8,
    },
    /// Another signature algorithm or other parameters.
    #[error("signature algorithm is {got}, wanted {wanted}")]
    SignatureAlgorithm {
        /// DER of the AlgorithmIdentifier in hex.
        got: String,
        /// Those that the vendor uses.
        wanted: &'static str,
    },
    /// The signed and the unsigned copy of the signature algorithm differ.
    #[error("names one signature algorithm inside and another outside its signed part")]
    AlgorithmsDiffer,
    /// A key of another kind.
    #[error("public key is not of the kind that belongs here")]
    PublicKey,
    /// The same extension stands twice (RFC 5280 §4.2).
    #[error("extension {oid} stands twice")]
    DuplicateExtension {
        /// The extension.
        oid: String,
    },
    /// A critical extension that is not understood.
    #[error("critical extension {oid} is not understood")]
    CriticalExtension {
        /// The extension.
        oid: String,
    },
    /// The issuer's name is not the subject of the certificate above.
    #[error("issuer is `{got}`, but the certificate above is `{wanted}`")]
    Issuer {
        /// Common name of the issuer named.
        got: String,
        /// Common name of the certificate above.
        wanted: String,
    },
    /// The signature does not verify under the issuer's key.
    #[error("signature does not verify under the key of `{issuer}`")]
    Signature {
        /// Common name of the issuer.
        issuer: String,
    },
    /// The certificate above may not issue certificates.
    #[error("`{issuer}` is no certificate authority that may sign {what}")]
    NotAuthority {
        /// Common name of the issuer.
        issuer: String,
        /// `certificates` or `CRLs`.
        what: &'static str,
    },
    /// Not valid yet.
    #[error("is valid from {not_before} on, judged at {now}")]
    NotYetValid {
        /// Start of validity.
        not_before: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
    /// No longer valid.
    #[error("was valid until {not_after}, judged at {now}")]
    Expired {
        /// End of validity.
        not_after: Timestamp,
        /// The time judged at.
        now: Timestamp,
    },
}
