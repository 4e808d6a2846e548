//! The sealed file: an epoch secret under a sealing root.
//!
//! ```text
//! file   = "sealwright/epoch"(16) ‖ u32be(1) ‖ F(header) ‖ nonce(12) ‖ sealed(48)
//! header = canonical JSON of SealedHeader, at most 2048 bytes
//! id     = HKDF-SHA-256(salt = "", ikm = root, F("sealwright/sealing-root-id/v1"), 32 bytes)              (RFC 5869)
//! key    = HKDF-SHA-256(salt = "", ikm = root,
//!              F("sealwright/sealing/v1") ‖ F("epoch-secret") ‖ u64be(epoch) ‖ F(platform), 32 bytes)
//! sealed = AES-256-GCM(key, nonce, aad = F("sealwright/sealed-epoch/v1") ‖ F(header), epoch secret(32))   (NIST SP 800-38D)
//! ```

use provenance::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::frame::FrameWriter;
use provenance::timestamp::Timestamp;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::root::{SealedUnder, SealingRoot};
use crate::secret::{EpochSecret, SEALED_SECRET_LEN};

/// First bytes of a sealed file.
const MAGIC: &[u8; 16] = b"sealwright/epoch";
/// The one version that is written and read.
const VERSION: u32 = 1;
/// Longest header in bytes.
const MAX_HEADER: usize = 2048;
/// Length of the nonce in bytes (NIST SP 800-38D §5.2.1.1).
const NONCE_LEN: usize = 12;
/// Bytes before the header.
const PREFIX_LEN: usize = MAGIC.len() + 4 + 4;
/// Bytes after the header.
const SUFFIX_LEN: usize = NONCE_LEN + SEALED_SECRET_LEN;
/// Longest sealed file in bytes.
pub(super) const MAX_SEALED_FILE: usize = PREFIX_LEN + MAX_HEADER + SUFFIX_LEN;
/// Last epoch: the largest integer that canonical JSON has (RFC 8785 appendix D).
pub(crate) const MAX_EPOCH: u64 = (1 << 53) - 1;

/// Label of the sealing key's HKDF info.
const KEY_LABEL: &str = "sealwright/sealing/v1";
/// Purpose of the sealing key.
const PURPOSE: &[u8] = b"epoch-secret";
/// Label of a root's identity.
const ROOT_ID_LABEL: &str = "sealwright/sealing-root-id/v1";
/// Label of the authenticated data.
const AAD_LABEL: &str = "sealwright/sealed-epoch/v1";

/// What a sealed file says about itself, in the clear and authenticated by the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedHeader {
    /// The guest's clock when the epoch began: unproven.
    pub created_at: Timestamp,
    /// Number of the epoch, from 1. It names the epoch and proves no order.
    pub epoch: u64,
    /// One-way derivative of the root: tells another root from a damaged file where `under` is the same, as on another
    /// chip.
    pub root_id: Sha256Digest,
    /// What the root depended on.
    pub under: SealedUnder,
}

/// Why a sealed file is refused. None of these begins a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedFileError {
    /// More bytes than any sealed file has.
    #[error("it has more than {MAX_SEALED_FILE} bytes")]
    TooLong,
    /// It does not begin as a sealed file.
    #[error("it begins with {got}, a sealed epoch with {}", hex::encode(MAGIC))]
    Foreign {
        /// The first 16 bytes or fewer, hex.
        got: String,
    },
    /// Written in a format from before this program.
    #[error("its format is {got}, older than {VERSION}, which is what this program reads")]
    OlderFormat {
        /// Version seen.
        got: u32,
    },
    /// Written in a format from after this program.
    #[error("its format is {got}, newer than {VERSION}, which is what this program reads")]
    NewerFormat {
        /// Version seen.
        got: u32,
    },
    /// The header is longer than any.
    #[error("its header is said to have {got} bytes, at most {MAX_HEADER} are allowed")]
    HeaderLength {
        /// Length seen.
        got: u32,
    },
    /// It ends too early.
    #[error("it is cut off: {got} bytes, wanted {wanted}")]
    Truncated {
        /// Length wanted, as far as it is known.
        wanted: usize,
        /// Length seen.
        got: usize,
    },
    /// Bytes follow.
    #[error("{extra} bytes follow its end")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The header is no canonical JSON of the header's shape.
    #[error("its header: {0}")]
    Header(#[from] CanonicalError),
    /// No epoch has this number.
    #[error("its epoch is {got}, wanted 1 to {MAX_EPOCH}")]
    EpochNumber {
        /// Number seen.
        got: u64,
    },
    /// The root is the one that the file was sealed under, and the file does not open.
    #[error("it does not open under the root that it names: a bit of it was changed")]
    Authentication,
}

/// A sealed file whose form is right. Nothing in it is authenticated yet.
pub(super) struct SealedFile {
    header: SealedHeader,
    exact_header: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    sealed: [u8; SEALED_SECRET_LEN],
}

impl SealedFile {
    /// Reads the form, not a byte more or less.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SealedFileError> {
        if bytes.len() > MAX_SEALED_FILE {
            return Err(SealedFileError::TooLong);
        }
        // A file that was cut off within its first bytes is still ours.
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(SealedFileError::Foreign { got: hex::encode(magic) });
        }
        let truncated = |wanted| SealedFileError::Truncated { wanted, got: bytes.len() };
        let number = |offset: usize| {
            let field = bytes.get(offset..offset + 4).ok_or(truncated(PREFIX_LEN))?;
            Ok::<_, SealedFileError>(u32::from_be_bytes(field.try_into().expect("four bytes")))
        };
        let version = number(MAGIC.len())?;
        if version < VERSION {
            return Err(SealedFileError::OlderFormat { got: version });
        }
        if version > VERSION {
            return Err(SealedFileError::NewerFormat { got: version });
        }
        let header_len = number(MAGIC.len() + 4)?;
        let header_end = match usize::try_from(header_len) {
            Ok(length) if length <= MAX_HEADER => PREFIX_LEN + length,
            _ => return Err(SealedFileError::HeaderLength { got: header_len }),
        };
        let end = header_end + SUFFIX_LEN;
        if bytes.len() < end {
            return Err(truncated(end));
        }
        if bytes.len() > end {
            return Err(SealedFileError::Trailing { extra: bytes.len() - end });
        }
        let exact_header = bytes[PREFIX_LEN..header_end].to_vec();
        let header: SealedHeader = from_canonical_json(&exact_header, MAX_HEADER)?;
        if !(1..=MAX_EPOCH).contains(&header.epoch) {
            return Err(SealedFileError::EpochNumber { got: header.epoch });
        }
        let (nonce, sealed) = bytes[header_end..].split_at(NONCE_LEN);
        Ok(Self {
            header,
            exact_header,
            nonce: nonce.try_into().expect("split there"),
            sealed: sealed.try_into().expect("the length was compared"),
        })
    }

    /// What the file says about itself, unauthenticated until [`Self::open`] succeeds.
    pub(super) fn header(&self) -> &SealedHeader {
        &self.header
    }

    /// The secret, if root and every byte are those of the sealing.
    pub(super) fn open(&self, root: &SealingRoot) -> Result<EpochSecret, SealedFileError> {
        let key = sealing_key(root, self.header.epoch, self.header.under.platform);
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        EpochSecret::open(&key, nonce, Aad::from(aad(&self.exact_header)), &self.sealed)
            .ok_or(SealedFileError::Authentication)
    }
}

/// The bytes of a sealed file. `nonce` is random.
pub(super) fn seal(
    root: &SealingRoot,
    epoch: u64,
    created_at: Timestamp,
    nonce: [u8; NONCE_LEN],
    secret: &EpochSecret,
) -> Vec<u8> {
    let under = root.under().clone();
    let key = sealing_key(root, epoch, under.platform);
    let header = to_canonical_json(&SealedHeader { created_at, epoch, root_id: root_id(root), under });
    let sealed = secret.seal(&key, Nonce::assume_unique_for_key(nonce), Aad::from(aad(&header)));
    let length = u32::try_from(header.len()).expect("the fields of a header are short");
    [MAGIC.as_slice(), &VERSION.to_be_bytes(), &length.to_be_bytes(), &header, &nonce, &sealed].concat()
}

/// Names a root without telling it.
pub(super) fn root_id(root: &SealingRoot) -> Sha256Digest {
    Sha256Digest::from_bytes(*derive(root, &FrameWriter::new(ROOT_ID_LABEL).finish()))
}

fn sealing_key(root: &SealingRoot, epoch: u64, platform: Platform) -> LessSafeKey {
    let key = derive(root, &key_info(epoch, platform));
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("AES-256 has keys of 32 bytes"))
}

fn key_info(epoch: u64, platform: Platform) -> Vec<u8> {
    FrameWriter::new(KEY_LABEL)
        .framed(PURPOSE)
        .fixed(&epoch.to_be_bytes())
        .framed(platform.name().as_bytes())
        .finish()
}

fn aad(exact_header: &[u8]) -> Vec<u8> {
    FrameWriter::new(AAD_LABEL).framed(exact_header).finish()
}

fn derive(root: &SealingRoot, info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(root.key())
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut()))
        .expect("32 bytes are within HKDF-SHA-256's limit of 255 × 32");
    out
}

/// A file around a secret that nobody asks for.
#[cfg(test)]
pub(super) fn to_file(root: &SealingRoot, epoch: u64, created_at: Timestamp) -> Vec<u8> {
    seal(root, epoch, created_at, [0; NONCE_LEN], &EpochSecret::fixed([9; 32]))
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
