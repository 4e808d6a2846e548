//! Which signature algorithms each vendor uses.

/// AlgorithmIdentifier of RSASSA-PSS, SHA-384, MGF1-SHA-384, salt 48; the trailer field left at its default.
const PSS_SHA384: &str = "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130";
/// The same with the default trailer field written out, as AMD's roots have it (DER would leave it out).
const PSS_SHA384_TRAILER: &str = "304606092a864886f70d01010a3039a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101";

/// AlgorithmIdentifier of ECDSA with SHA-256 (RFC 5758 §3.2).
const ECDSA_SHA256: &str = "300a06082a8648ce3d040302";
/// AlgorithmIdentifier of ECDSA with SHA-384.
const ECDSA_SHA384: &str = "300a06082a8648ce3d040303";
/// AlgorithmIdentifiers of RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 and SHA-512 (RFC 4055 §5).
const PKCS1_SHA256: &str = "300d06092a864886f70d01010b0500";
const PKCS1_SHA384: &str = "300d06092a864886f70d01010c0500";
const PKCS1_SHA512: &str = "300d06092a864886f70d01010d0500";

/// Whose certificates are read: it decides which signature algorithms are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// AMD: RSASSA-PSS with SHA-384, MGF1-SHA-384 and a salt of 48 bytes (RFC 4055 §3.1).
    Amd,
    /// Intel: ECDSA P-256 with SHA-256.
    Intel,
    /// IBM and the public authorities above it: RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512.
    Ibm,
    /// Our own enclave CA: ECDSA P-256 with SHA-256.
    Enclave,
    /// Time-stamping authorities: RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512, or ECDSA with SHA-256 or SHA-384.
    /// Their extended key usage is critical (RFC 3161 §2.3).
    TimeStamping,
}

impl Profile {
    pub(crate) fn algorithm(self, der: &str) -> Option<Algorithm> {
        match (self, der) {
            (Self::Amd, PSS_SHA384 | PSS_SHA384_TRAILER) => Some(Algorithm::PssSha384),
            (Self::Intel | Self::Enclave, ECDSA_SHA256) => Some(Algorithm::EcdsaP256Sha256),
            (Self::Ibm | Self::TimeStamping, PKCS1_SHA256) => Some(Algorithm::Pkcs1Sha256),
            (Self::Ibm | Self::TimeStamping, PKCS1_SHA384) => Some(Algorithm::Pkcs1Sha384),
            (Self::Ibm | Self::TimeStamping, PKCS1_SHA512) => Some(Algorithm::Pkcs1Sha512),
            (Self::TimeStamping, ECDSA_SHA256) => Some(Algorithm::EcdsaSha256),
            (Self::TimeStamping, ECDSA_SHA384) => Some(Algorithm::EcdsaSha384),
            _ => None,
        }
    }

    pub(super) const fn wanted(self) -> &'static str {
        match self {
            Self::Amd => "RSASSA-PSS with SHA-384, MGF1-SHA-384, salt length 48",
            Self::Intel | Self::Enclave => "ECDSA with SHA-256",
            Self::Ibm => "RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512",
            Self::TimeStamping => {
                "RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512, or ECDSA with SHA-256 or SHA-384"
            }
        }
    }
}

/// A signature algorithm, parameters included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    PssSha384,
    EcdsaP256Sha256,
    /// With a key on P-256 or P-384, as the one below.
    EcdsaSha256,
    EcdsaSha384,
    Pkcs1Sha256,
    Pkcs1Sha384,
    Pkcs1Sha512,
}
