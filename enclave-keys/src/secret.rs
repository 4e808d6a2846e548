//! Private bytes: the epoch secret and the signing keys derived from it. They never leave this module; it
//! offers operations only. `Debug`, `Clone` and `Serialize` are left out everywhere here, so that a secret can
//! be neither logged nor copied nor sent by mistake.

use p256::NistP256;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey as P256SigningKey};
use p256::elliptic_curve::Curve as _;
use p256::elliptic_curve::bigint::{ArrayEncoding as _, NonZero, U256, U384};
use provenance::digest::Sha256Digest;
use provenance::frame::FrameWriter;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use ring::aead::{Aad, LessSafeKey, Nonce};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Label of the HKDF info of derived keys.
const DERIVATION_LABEL: &str = "sealwright/key-derivation/v1";
/// Purpose of a project's signing key.
const PROJECT_SIGNING: &[u8] = b"project-signing";
/// Purpose of the enclave CA's key.
const ENCLAVE_CA: &[u8] = b"enclave-ca";

/// Length of the epoch secret in bytes.
const EPOCH_SECRET_LEN: usize = 32;
/// Length of a sealed epoch secret in bytes: the secret, then the tag of AES-GCM.
pub(crate) const SEALED_SECRET_LEN: usize = EPOCH_SECRET_LEN + 16;
/// Random bits for a P-256 private key: 256 + 64 at least (FIPS 186-5 §A.2.1); 384 here.
const WIDE_LEN: usize = 48;

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandom;

/// `N` bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandom> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(bytes.as_mut()).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// The one secret of an epoch, 32 random bytes; every project's key is derived from it.
pub(crate) struct EpochSecret(Zeroizing<[u8; EPOCH_SECRET_LEN]>);

struct WideLength;

impl hkdf::KeyType for WideLength {
    fn len(&self) -> usize {
        WIDE_LEN
    }
}

impl EpochSecret {
    /// A fresh secret.
    pub(crate) fn random() -> Result<Self, NoRandom> {
        random().map(Self)
    }

    /// A secret that a test knows.
    #[cfg(test)]
    pub(crate) fn fixed(bytes: [u8; EPOCH_SECRET_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Whether it is this one.
    #[cfg(test)]
    pub(crate) fn is(&self, bytes: &[u8; EPOCH_SECRET_LEN]) -> bool {
        *self.0 == *bytes
    }

    /// AES-256-GCM over the secret: ciphertext, then tag.
    pub(crate) fn seal(
        &self,
        key: &LessSafeKey,
        nonce: Nonce,
        aad: Aad<impl AsRef<[u8]>>,
    ) -> [u8; SEALED_SECRET_LEN] {
        let mut sealed = [0; SEALED_SECRET_LEN];
        let (text, tag) = sealed.split_at_mut(EPOCH_SECRET_LEN);
        text.copy_from_slice(self.0.as_ref());
        let made =
            key.seal_in_place_separate_tag(nonce, aad, text).expect("AES-GCM refuses only more than 64 GiB");
        tag.copy_from_slice(made.as_ref());
        sealed
    }

    /// Undoes [`Self::seal`]; `None` when key, nonce, `aad` or any bit is another.
    pub(crate) fn open(
        key: &LessSafeKey,
        nonce: Nonce,
        aad: Aad<impl AsRef<[u8]>>,
        sealed: &[u8; SEALED_SECRET_LEN],
    ) -> Option<Self> {
        let mut buffer = Zeroizing::new(*sealed);
        let text = key.open_in_place(nonce, aad, buffer.as_mut()).ok()?;
        let mut secret = Zeroizing::new([0; EPOCH_SECRET_LEN]);
        secret.copy_from_slice(text);
        Some(Self(secret))
    }

    /// The signing key of a project in an epoch:
    ///
    /// ```text
    /// info = F("sealwright/key-derivation/v1") ‖ F(purpose) ‖ u64be(epoch) ‖ scope(32)
    ///        purpose "project-signing", scope the project id
    /// wide = HKDF-SHA-256(salt = "", ikm = epoch secret, info, 48 bytes)        (RFC 5869)
    /// d    = (wide mod (n − 1)) + 1                                             (FIPS 186-5 §A.2.1)
    /// ```
    pub(crate) fn project_key(&self, epoch: u64, project: &ProjectId) -> SigningKey {
        SigningKey::from_wide(&self.wide(PROJECT_SIGNING, epoch, &project.0))
    }

    /// The enclave CA's key in an epoch: the same with purpose `enclave-ca` and the SHA-256 of the builder id as scope.
    pub(crate) fn authority_key(&self, epoch: u64, scope: &Sha256Digest) -> SigningKey {
        SigningKey::from_wide(&self.wide(ENCLAVE_CA, epoch, scope))
    }

    fn wide(&self, purpose: &[u8], epoch: u64, scope: &Sha256Digest) -> Zeroizing<[u8; WIDE_LEN]> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(self.0.as_ref());
        let mut wide = Zeroizing::new([0; WIDE_LEN]);
        prk.expand(&[&derivation_info(purpose, epoch, scope)], WideLength)
            .and_then(|okm| okm.fill(wide.as_mut()))
            .expect("48 bytes are within HKDF-SHA-256's limit of 255 × 32");
        wide
    }
}

fn derivation_info(purpose: &[u8], epoch: u64, scope: &Sha256Digest) -> Vec<u8> {
    FrameWriter::new(DERIVATION_LABEL)
        .framed(purpose)
        .fixed(&epoch.to_be_bytes())
        .fixed(scope.as_bytes())
        .finish()
}

/// A P-256 private key. Signatures are ECDSA with SHA-256, deterministic (RFC 6979), ASN.1 DER.
pub(crate) struct SigningKey {
    // Zeroised by its own Drop.
    key: P256SigningKey,
    public: PublicKey,
}

impl SigningKey {
    /// A fresh random key.
    pub(crate) fn random() -> Result<Self, NoRandom> {
        Ok(Self::from_wide(&*random()?))
    }

    /// FIPS 186-5 §A.2.1: 384 bits, of which the quotient is thrown away, give a key in [1, n − 1] whose
    /// distance from uniform is below 2^-128.
    fn from_wide(wide: &[u8; WIDE_LEN]) -> Self {
        let order_minus_one = NonZero::new(NistP256::ORDER.get_copy().wrapping_sub(&U256::ONE))
            .into_option()
            .expect("the order of P-256 is greater than 1");
        let wide = Zeroizing::new(U384::from_be_slice(wide));
        let reduced = Zeroizing::new(wide.rem(&order_minus_one));
        let scalar = Zeroizing::new(reduced.wrapping_add(&U256::ONE));
        let mut bytes = scalar.to_be_byte_array();
        let key = P256SigningKey::from_bytes(&bytes).expect("a scalar in [1, n - 1] is a private key");
        zeroize::Zeroize::zeroize(bytes.as_mut_slice());
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey::from_p256_point(point.as_bytes()).expect("an uncompressed point of 65 bytes");
        Self { key, public }
    }

    /// The public half.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message: ASN.1 DER `ECDSA-Sig-Value`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.key.sign(message);
        signature.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../vectors/derived-keys-v1.json");

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vectors {
        #[serde(rename = "what")]
        _what: String,
        derivation: Vec<Derivation>,
        reduction: Vec<Reduction>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Derivation {
        name: String,
        epoch_secret: String,
        epoch: u64,
        purpose: String,
        scope: String,
        info: String,
        wide: String,
        spki: String,
        message: String,
        signature: String,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Reduction {
        name: String,
        wide: String,
        spki: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(VECTORS).expect("vectors")
    }

    fn array<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).expect("hex of this length");
        bytes
    }

    #[test]
    fn derived_keys_and_their_signatures_are_those_of_the_vectors() {
        for case in vectors().derivation {
            let secret = EpochSecret(Zeroizing::new(array(&case.epoch_secret)));
            let scope = Sha256Digest::from_bytes(array(&case.scope));
            let purpose = case.purpose.as_bytes();
            assert_eq!(hex::encode(derivation_info(purpose, case.epoch, &scope)), case.info, "{}", case.name);
            assert_eq!(hex::encode(*secret.wide(purpose, case.epoch, &scope)), case.wide, "{}", case.name);
            let key = match purpose {
                PROJECT_SIGNING => secret.project_key(case.epoch, &ProjectId(scope)),
                ENCLAVE_CA => secret.authority_key(case.epoch, &scope),
                other => panic!("vector of purpose {other:?}"),
            };
            assert_eq!(hex::encode(key.public().spki_der()), case.spki, "{}", case.name);
            let message = hex::decode(&case.message).expect("hex");
            let signature = key.sign(&message);
            assert_eq!(hex::encode(&signature), case.signature, "{}", case.name);
            assert_eq!(key.public().check_signature(&message, &signature), Ok(()), "{}", case.name);
        }
    }

    #[test]
    fn wide_values_reduce_to_keys_from_1_to_n_minus_1() {
        for case in vectors().reduction {
            let key = SigningKey::from_wide(&array(&case.wide));
            assert_eq!(hex::encode(key.public().spki_der()), case.spki, "{}", case.name);
        }
    }

    #[test]
    fn secret_epoch_purpose_and_scope_each_give_another_key() {
        let keys: Vec<_> = vectors()
            .derivation
            .into_iter()
            .filter(|case| case.name != "empty message")
            .map(|case| case.spki)
            .collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
