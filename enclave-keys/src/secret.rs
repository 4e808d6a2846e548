//! Private bytes: the epoch secret and the signing keys derived from it. They never leave this module; it
//! offers operations only. `Debug`, `Clone` and `Serialize` are left out everywhere here, so that a secret can
//! be neither logged nor copied nor sent by mistake.

use p256::NistP256;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey as P256SigningKey};
use p256::elliptic_curve::Curve as _;
use p256::elliptic_curve::bigint::{ArrayEncoding as _, NonZero, U256, U384};
use provenance::frame::FrameWriter;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Label of the HKDF info of derived keys.
const DERIVATION_LABEL: &str = "sealwright/key-derivation/v1";
/// Purpose of a project's signing key.
const PROJECT_SIGNING: &[u8] = b"project-signing";

/// Length of the epoch secret in bytes.
const EPOCH_SECRET_LEN: usize = 32;
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

    /// The signing key of a project in an epoch:
    ///
    /// ```text
    /// info = F("sealwright/key-derivation/v1") ‖ F("project-signing") ‖ u64be(epoch) ‖ project_id(32)
    /// wide = HKDF-SHA-256(salt = "", ikm = epoch secret, info, 48 bytes)        (RFC 5869)
    /// d    = (wide mod (n − 1)) + 1                                             (FIPS 186-5 §A.2.1)
    /// ```
    pub(crate) fn project_key(&self, epoch: u64, project: &ProjectId) -> SigningKey {
        let info = FrameWriter::new(DERIVATION_LABEL)
            .framed(PROJECT_SIGNING)
            .fixed(&epoch.to_be_bytes())
            .fixed(project.0.as_bytes())
            .finish();
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(self.0.as_ref());
        let mut wide = Zeroizing::new([0; WIDE_LEN]);
        prk.expand(&[&info], WideLength)
            .and_then(|okm| okm.fill(wide.as_mut()))
            .expect("48 bytes are within HKDF-SHA-256's limit of 255 × 32");
        SigningKey::from_wide(&wide)
    }
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
