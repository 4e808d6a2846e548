//! Attestation requests (ARCB, attestation request control block), version 1, as `pvattest` of s390-tools makes them.
//! All integers are big-endian.
//!
//! Whoever made a request holds its key (ARPK, attestation request protection key) and with it the key of the
//! measurement. So a measurement convinces that one alone; [`OwnRequest`] is the proof of being the one.

use provenance::digest::Sha256Digest;
use ring::{aead, hmac};
use zeroize::{Zeroize, Zeroizing};

/// Version 1 as it is written.
pub const VERSION: u32 = 0x100;
/// Length of a request protection key in bytes: AES-256.
pub const PROTECTION_KEY_LEN: usize = 32;
/// Length of the key of a measurement in bytes.
pub const MEASUREMENT_KEY_LEN: usize = 64;
/// Length of the optional nonce in bytes.
pub const NONCE_LEN: usize = 16;
/// Length of a host key slot in bytes: hash of the host key (32), wrapped protection key (32), tag (16).
pub const KEY_SLOT_LEN: usize = 80;
/// Length of the AES-GCM tag at the end in bytes.
pub const TAG_LEN: usize = 16;
/// The only measurement algorithm: HMAC-SHA-512.
pub const HMAC_SHA512: u32 = 1;
const HASH_LEN: usize = 32;

/// Offsets of the fields, in bytes.
pub mod offset {
    provenance::layout! {
        /// Zero, 8 bytes.
        pub const MAGIC: usize = 0x00;
        /// Version, u32.
        pub const VERSION: usize = 0x08;
        /// Length of the request, u32.
        pub const SIZE: usize = 0x0c;
        /// Initialisation vector of AES-GCM, 12 bytes.
        pub const IV: usize = 0x10;
        /// Reserved, 11 bytes, zero.
        pub const RESERVED_1C: usize = 0x1c;
        /// Number of host key slots, u8.
        pub const KEY_SLOTS: usize = 0x27;
        /// Reserved, 4 bytes, zero.
        pub const RESERVED_28: usize = 0x28;
        /// Length of the encrypted part, u32.
        pub const ENCRYPTED_LEN: usize = 0x2c;
        /// Plaintext attestation flags, u64.
        pub const FLAGS: usize = 0x30;
        /// Measurement algorithm, u32.
        pub const ALGORITHM: usize = 0x38;
        /// Reserved, 4 bytes, zero.
        pub const RESERVED_3C: usize = 0x3c;
        /// Public key of the requester, 160 bytes.
        pub const CUSTOMER_KEY: usize = 0x40;
        /// Host key slots; then the encrypted part (measurement key, nonce); then the AES-GCM tag over all before it.
        pub const SLOTS: usize = 0xe0;
    }
}

/// Bits of the plaintext attestation flags. IBM counts from the left: flag n is bit 63 − n.
pub mod flag {
    /// Flag 1: the request holds a nonce.
    pub const NONCE: u64 = 1 << 62;
    /// Flag 2: the hash of the host key that unpacked the image is wanted.
    pub const IMAGE_HOST_KEY_HASH: u64 = 1 << 61;
    /// Flag 3: the hash of the host key that unpacked the request is wanted.
    pub const ATTESTATION_HOST_KEY_HASH: u64 = 1 << 60;
    /// Flag 4: the hash of the secret store is wanted.
    pub const SECRET_STORE_HASH: u64 = 1 << 59;
    /// Flag 5: the state of the firmware is wanted.
    pub const FIRMWARE_STATE: u64 = 1 << 58;
    /// All of them; a request with another is refused.
    pub const KNOWN: u64 =
        NONCE | IMAGE_HOST_KEY_HASH | ATTESTATION_HOST_KEY_HASH | SECRET_STORE_HASH | FIRMWARE_STATE;
}

/// Why a request is refused as one's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Too short for any request.
    #[error("attestation request has {got} bytes, wanted at least {wanted}")]
    Length {
        /// Bytes seen.
        got: usize,
        /// Length of the shortest request.
        wanted: usize,
    },
    /// The first bytes are not zero.
    #[error("attestation request begins with {got}, wanted eight zero bytes (offset 0x0)")]
    Magic {
        /// Bytes seen, hex.
        got: String,
    },
    /// Another version.
    #[error("attestation request version is {got:#x}, wanted {VERSION:#x} (offset 0x8)")]
    Version {
        /// Version seen.
        got: u32,
    },
    /// The length it states is not its length.
    #[error("attestation request states {stated} bytes (offset 0xc) and has {got}")]
    Size {
        /// Length stated.
        stated: u32,
        /// Bytes there are.
        got: usize,
    },
    /// A reserved byte is not zero.
    #[error("reserved byte of the attestation request is {got:#04x}, wanted 0 (offset {offset:#x})")]
    Reserved {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// No host key can open it.
    #[error("attestation request has no host key slot (offset 0x27)")]
    NoKeySlot,
    /// Flags that are not known.
    #[error("attestation flags are {got:#018x}, known are {known:#018x} (offset 0x30)", known = flag::KNOWN)]
    UnknownFlags {
        /// Flags seen.
        got: u64,
    },
    /// Another measurement algorithm.
    #[error("measurement algorithm is {got}, wanted {HMAC_SHA512}, HMAC-SHA-512 (offset 0x38)")]
    Algorithm {
        /// Algorithm seen.
        got: u32,
    },
    /// The encrypted part does not have the length of what it must hold.
    #[error("encrypted part has {got} bytes, the flags want {wanted} (offset 0x2c)")]
    EncryptedLength {
        /// Length stated.
        got: u32,
        /// Measurement key, and nonce if the flags say so.
        wanted: usize,
    },
    /// Key slots and encrypted part do not add up to the length.
    #[error("{slots} key slots (offset 0x27) need {wanted} bytes in all, the attestation request has {got}")]
    Parts {
        /// Key slots stated.
        slots: u8,
        /// Length that follows.
        wanted: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The request does not ask for a hash without which nothing can be traced to a host key.
    #[error(
        "attestation flags are {flags:#018x}, which do not ask for the hash of the {which} host key (offset 0x30)"
    )]
    HashNotWanted {
        /// Flags seen.
        flags: u64,
        /// `image` or `attestation`.
        which: &'static str,
    },
    /// The protection key does not open it.
    #[error("attestation request does not open under the protection key: it is another's, or altered")]
    NotOwn,
}

/// The key that protects an attestation request (ARPK). Whoever knows it can forge every answer to the request.
///
/// No `Debug`, `Clone` or `Serialize`, so that it reaches no log and no file by mistake.
pub struct ProtectionKey(Zeroizing<[u8; PROTECTION_KEY_LEN]>);

impl ProtectionKey {
    /// Takes the key.
    #[must_use]
    pub fn new(key: [u8; PROTECTION_KEY_LEN]) -> Self {
        Self(Zeroizing::new(key))
    }
}

/// What a request says in the clear. Form checked, nothing believed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AttestationRequest {
    flags: u64,
    slots: Vec<Sha256Digest>,
    /// Where the encrypted part begins.
    encrypted: usize,
}

impl AttestationRequest {
    fn parse(raw: &[u8]) -> Result<Self, RequestError> {
        let got = raw.len();
        let wanted = offset::SLOTS + KEY_SLOT_LEN + MEASUREMENT_KEY_LEN + TAG_LEN;
        if got < wanted {
            return Err(RequestError::Length { got, wanted });
        }
        let magic: &[u8; 8] = field(raw, offset::MAGIC);
        if *magic != [0; 8] {
            return Err(RequestError::Magic { got: hex::encode(magic) });
        }
        let u32_at = |at| u32::from_be_bytes(*field(raw, at));
        let version = u32_at(offset::VERSION);
        if version != VERSION {
            return Err(RequestError::Version { got: version });
        }
        let stated = u32_at(offset::SIZE);
        if usize::try_from(stated) != Ok(got) {
            return Err(RequestError::Size { stated, got });
        }
        for (start, end) in [
            (offset::RESERVED_1C, offset::KEY_SLOTS),
            (offset::RESERVED_28, offset::ENCRYPTED_LEN),
            (offset::RESERVED_3C, offset::CUSTOMER_KEY),
        ] {
            if let Some(at) = raw[start..end].iter().position(|byte| *byte != 0) {
                return Err(RequestError::Reserved { offset: start + at, got: raw[start + at] });
            }
        }
        let slots = raw[offset::KEY_SLOTS];
        if slots == 0 {
            return Err(RequestError::NoKeySlot);
        }
        let flags = u64::from_be_bytes(*field(raw, offset::FLAGS));
        if flags & !flag::KNOWN != 0 {
            return Err(RequestError::UnknownFlags { got: flags });
        }
        let algorithm = u32_at(offset::ALGORITHM);
        if algorithm != HMAC_SHA512 {
            return Err(RequestError::Algorithm { got: algorithm });
        }
        let nonce = if flags & flag::NONCE == 0 { 0 } else { NONCE_LEN };
        let (stated, wanted) = (u32_at(offset::ENCRYPTED_LEN), MEASUREMENT_KEY_LEN + nonce);
        if usize::try_from(stated) != Ok(wanted) {
            return Err(RequestError::EncryptedLength { got: stated, wanted });
        }
        let encrypted = offset::SLOTS + usize::from(slots) * KEY_SLOT_LEN;
        let wanted = encrypted + wanted + TAG_LEN;
        if wanted != got {
            return Err(RequestError::Parts { slots, wanted, got });
        }
        let slots = raw[offset::SLOTS..encrypted]
            .chunks_exact(KEY_SLOT_LEN)
            .map(|slot| Sha256Digest::from_bytes(*field::<HASH_LEN>(slot, 0)))
            .collect();
        Ok(Self { flags, slots, encrypted })
    }
}

/// A request that was made here: its protection key opens it. Answers to it convince whoever holds this, and nobody
/// else.
///
/// No `Debug`, `Clone` or `Serialize`: it holds the key of the measurement.
pub struct OwnRequest {
    raw: Vec<u8>,
    flags: u64,
    slots: Vec<Sha256Digest>,
    measurement_key: hmac::Key,
    nonce: Option<[u8; NONCE_LEN]>,
}

impl OwnRequest {
    /// Opens a request that was remembered, with the key that was kept. `remembered` must be what was sent to the
    /// guest, not what the guest sent back.
    pub fn open(remembered: &[u8], key: &ProtectionKey) -> Result<Self, RequestError> {
        let request = AttestationRequest::parse(remembered)?;
        for (which, wanted) in
            [("image", flag::IMAGE_HOST_KEY_HASH), ("attestation", flag::ATTESTATION_HOST_KEY_HASH)]
        {
            if request.flags & wanted == 0 {
                return Err(RequestError::HashNotWanted { flags: request.flags, which });
            }
        }
        let cipher = aead::UnboundKey::new(&aead::AES_256_GCM, &*key.0).map_err(|_| RequestError::NotOwn)?;
        let iv = aead::Nonce::assume_unique_for_key(*field(remembered, offset::IV));
        let (clear, encrypted) = remembered.split_at(request.encrypted);
        let mut encrypted = Zeroizing::new(encrypted.to_vec());
        let opened = aead::LessSafeKey::new(cipher)
            .open_in_place(iv, aead::Aad::from(clear), &mut encrypted)
            .map_err(|_| RequestError::NotOwn)?;
        let (measurement_key, nonce) = opened.split_at(MEASUREMENT_KEY_LEN);
        let own = Self {
            raw: remembered.to_vec(),
            flags: request.flags,
            slots: request.slots,
            measurement_key: hmac::Key::new(hmac::HMAC_SHA512, measurement_key),
            nonce: nonce.try_into().ok(),
        };
        opened.zeroize();
        Ok(own)
    }

    /// The request as it was sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.raw
    }

    /// Plaintext attestation flags, see [`flag`].
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Hashes of the host keys that can open it. Each of their holders could forge an answer.
    #[must_use]
    pub fn host_key_hashes(&self) -> &[Sha256Digest] {
        &self.slots
    }

    /// The nonce, when the request holds one.
    #[must_use]
    pub fn nonce(&self) -> Option<&[u8; NONCE_LEN]> {
        self.nonce.as_ref()
    }

    pub(super) fn measurement_key(&self) -> &hmac::Key {
        &self.measurement_key
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..at + N].try_into().expect("all offsets lie inside")
}
