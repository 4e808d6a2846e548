//! Public keys of callers, guests and projects, as SubjectPublicKeyInfo DER (RFC 5280 §4.1.2.7).
//!
//! Two algorithms only: ECDSA P-256 with SHA-256 (signatures ASN.1 DER) and Ed25519 (RFC 8410, 64 bytes).
//! Both have exactly one DER encoding here, so a key's SHA-256 is its identity.

use crate::digest::Sha256Digest;
use ring::signature;

/// DER before the 65-byte uncompressed point of a P-256 key (RFC 5480 §2.1.1).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// DER before the 32 bytes of an Ed25519 key (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Length of a P-256 SubjectPublicKeyInfo in bytes.
pub const P256_SPKI_LEN: usize = 91;
/// Length of an Ed25519 SubjectPublicKeyInfo in bytes.
pub const ED25519_SPKI_LEN: usize = 44;

/// Signature algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256Sha256,
    /// Ed25519.
    Ed25519,
}

/// A public key whose encoding has been checked. The point itself is checked when a signature is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki_der: Vec<u8>,
}

/// Bytes that are no public key of a kind we use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{got} bytes are not a P-256 ({P256_SPKI_LEN} bytes, uncompressed) or Ed25519 ({ED25519_SPKI_LEN} bytes) SubjectPublicKeyInfo"
)]
pub struct InvalidPublicKey {
    /// How many bytes were seen.
    pub got: usize,
}

/// The signature is not of this key over this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify under key {key}")]
pub struct SignatureInvalid {
    /// SHA-256 of the key's SPKI.
    pub key: Sha256Digest,
}

impl PublicKey {
    /// Parses SubjectPublicKeyInfo DER.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, InvalidPublicKey> {
        let p256 = der.len() == P256_SPKI_LEN && der.starts_with(&P256_SPKI_PREFIX) && der[26] == 0x04;
        let ed25519 = der.len() == ED25519_SPKI_LEN && der.starts_with(&ED25519_SPKI_PREFIX);
        if p256 || ed25519 {
            Ok(Self { spki_der: der.to_vec() })
        } else {
            Err(InvalidPublicKey { got: der.len() })
        }
    }

    /// From an uncompressed P-256 point (65 bytes, first 0x04).
    pub fn from_p256_point(point: &[u8]) -> Result<Self, InvalidPublicKey> {
        Self::from_spki_der(&[&P256_SPKI_PREFIX, point].concat())
    }

    /// From the 32 bytes of an Ed25519 key.
    pub fn from_ed25519(bytes: &[u8]) -> Result<Self, InvalidPublicKey> {
        Self::from_spki_der(&[&ED25519_SPKI_PREFIX, bytes].concat())
    }

    /// The SubjectPublicKeyInfo DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of the SubjectPublicKeyInfo DER: the key's identity everywhere.
    #[must_use]
    pub fn spki_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki_der)
    }

    /// Which algorithm the key is for.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        if self.spki_der.len() == P256_SPKI_LEN {
            KeyAlgorithm::EcdsaP256Sha256
        } else {
            KeyAlgorithm::Ed25519
        }
    }

    /// Checks a signature: ASN.1 DER `ECDSA-Sig-Value` for P-256, 64 raw bytes for Ed25519.
    pub fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        let (algorithm, key): (&dyn signature::VerificationAlgorithm, &[u8]) = match self.algorithm() {
            KeyAlgorithm::EcdsaP256Sha256 => (&signature::ECDSA_P256_SHA256_ASN1, &self.spki_der[26..]),
            KeyAlgorithm::Ed25519 => (&signature::ED25519, &self.spki_der[12..]),
        };
        signature::UnparsedPublicKey::new(algorithm, key)
            .verify(message, signature)
            .map_err(|_| SignatureInvalid { key: self.spki_sha256() })
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({:?} {})", self.algorithm(), self.spki_sha256())
    }
}
