//! The Secure Execution header of an image, version 1, as `pvimg` of s390-tools writes it: only what a measurement
//! covers of it. All integers are big-endian.
//!
//! A measurement covers three digests and the header's tag, 208 bytes. The tag alone does not name an image: it is
//! an AES-GCM tag under a key that the maker of the header knows, and whoever knows the key can make a header with
//! any tag. So [`ImageTags`] holds, and compares, all four.

use std::fmt;

/// Bytes 0 to 7 of a header.
pub const MAGIC: [u8; 8] = *b"IBMSecEx";
/// Version 1 as it is written.
pub const VERSION: u32 = 0x100;
/// Length of the four tags in bytes.
pub const TAGS_LEN: usize = 3 * DIGEST_LEN + TAG_LEN;
/// Longest header that is read, in bytes: two pages, the most that KVM hands to the Ultravisor.
pub const MAX_HEADER: usize = 0x2000;
const DIGEST_LEN: usize = 64;
const TAG_LEN: usize = 16;
const KEY_SLOT_LEN: u64 = 80;

/// Offsets of the header's fields, in bytes.
pub mod offset {
    provenance::layout! {
        /// Magic, 8 bytes.
        pub const MAGIC: usize = 0x000;
        /// Version, u32.
        pub const VERSION: usize = 0x008;
        /// Length of the header, u32.
        pub const SIZE: usize = 0x00c;
        /// Initialisation vector, 12 bytes.
        pub const IV: usize = 0x010;
        /// Reserved, 4 bytes, zero.
        pub const RESERVED: usize = 0x01c;
        /// Number of host key slots, u64.
        pub const KEY_SLOTS: usize = 0x020;
        /// Length of the encrypted part, u64.
        pub const ENCRYPTED_LEN: usize = 0x028;
        /// Number of encrypted pages, u64.
        pub const PAGES: usize = 0x030;
        /// Plaintext control flags, u64.
        pub const FLAGS: usize = 0x038;
        /// Public key of the image's maker, 160 bytes.
        pub const CUSTOMER_KEY: usize = 0x040;
        /// Page list digest, 64 bytes.
        pub const PAGE_LIST_DIGEST: usize = 0x0e0;
        /// Address list digest, 64 bytes.
        pub const ADDRESS_LIST_DIGEST: usize = 0x120;
        /// Tweak list digest, 64 bytes.
        pub const TWEAK_LIST_DIGEST: usize = 0x160;
        /// Host key slots of 80 bytes; then the encrypted part; then the tag, 16 bytes.
        pub const SLOTS: usize = 0x1a0;
    }
}

/// Why bytes are no Secure Execution header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too short or too long.
    #[error("Secure Execution header has {got} bytes, wanted {least} to {MAX_HEADER}", least = offset::SLOTS + TAG_LEN)]
    Length {
        /// Bytes seen.
        got: usize,
    },
    /// Other magic bytes.
    #[error("Secure Execution header begins with {got}, wanted `IBMSecEx` (offset 0x0)")]
    Magic {
        /// Bytes seen, hex.
        got: String,
    },
    /// Another version.
    #[error("Secure Execution header version is {got:#x}, wanted {VERSION:#x} (offset 0x8)")]
    Version {
        /// Version seen.
        got: u32,
    },
    /// The length it states is not its length.
    #[error("Secure Execution header states {stated} bytes (offset 0xc) and has {got}")]
    Size {
        /// Length stated.
        stated: u32,
        /// Bytes there are.
        got: usize,
    },
    /// A reserved byte is not zero.
    #[error("reserved byte of the Secure Execution header is {got:#04x}, wanted 0 (offset {offset:#x})")]
    Reserved {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// Key slots and encrypted part do not add up to the length.
    #[error(
        "Secure Execution header has {slots} key slots (offset 0x20) and {encrypted} encrypted bytes (offset 0x28), which is not its length of {got} bytes"
    )]
    Parts {
        /// Key slots stated.
        slots: u64,
        /// Encrypted bytes stated.
        encrypted: u64,
        /// Bytes there are.
        got: usize,
    },
}

/// What a measurement says about the image: page, address and tweak list digests, 64 bytes each, and the 16 bytes of
/// the header's tag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ImageTags([u8; TAGS_LEN]);

impl ImageTags {
    /// The four tags of a header.
    pub fn of_header(header: &[u8]) -> Result<Self, HeaderError> {
        let got = header.len();
        if !(offset::SLOTS + TAG_LEN..=MAX_HEADER).contains(&got) {
            return Err(HeaderError::Length { got });
        }
        if header[..MAGIC.len()] != MAGIC {
            return Err(HeaderError::Magic { got: hex::encode(&header[..MAGIC.len()]) });
        }
        let version = u32::from_be_bytes(*field(header, offset::VERSION));
        if version != VERSION {
            return Err(HeaderError::Version { got: version });
        }
        let stated = u32::from_be_bytes(*field(header, offset::SIZE));
        if usize::try_from(stated) != Ok(got) {
            return Err(HeaderError::Size { stated, got });
        }
        if let Some(at) = field::<4>(header, offset::RESERVED).iter().position(|byte| *byte != 0) {
            let offset = offset::RESERVED + at;
            return Err(HeaderError::Reserved { offset, got: header[offset] });
        }
        let slots = u64::from_be_bytes(*field(header, offset::KEY_SLOTS));
        let encrypted = u64::from_be_bytes(*field(header, offset::ENCRYPTED_LEN));
        let parts = slots.checked_mul(KEY_SLOT_LEN).and_then(|slots| slots.checked_add(encrypted));
        if parts.and_then(|parts| usize::try_from(parts).ok()) != Some(got - offset::SLOTS - TAG_LEN) {
            return Err(HeaderError::Parts { slots, encrypted, got });
        }
        let mut tags = [0; TAGS_LEN];
        let (digests, tag) = tags.split_at_mut(3 * DIGEST_LEN);
        digests.copy_from_slice(&header[offset::PAGE_LIST_DIGEST..offset::SLOTS]);
        tag.copy_from_slice(&header[got - TAG_LEN..]);
        Ok(Self(tags))
    }

    /// The four tags one after the other.
    #[must_use]
    pub const fn from_bytes(tags: [u8; TAGS_LEN]) -> Self {
        Self(tags)
    }

    /// The four tags one after the other, as a measurement covers them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TAGS_LEN] {
        &self.0
    }

    /// Page list digest.
    #[must_use]
    pub fn page_list_digest(&self) -> &[u8; DIGEST_LEN] {
        field(&self.0, 0)
    }

    /// Address list digest.
    #[must_use]
    pub fn address_list_digest(&self) -> &[u8; DIGEST_LEN] {
        field(&self.0, DIGEST_LEN)
    }

    /// Tweak list digest.
    #[must_use]
    pub fn tweak_list_digest(&self) -> &[u8; DIGEST_LEN] {
        field(&self.0, 2 * DIGEST_LEN)
    }

    /// The header's tag. It names an image only together with the digests.
    #[must_use]
    pub fn tag(&self) -> &[u8; TAG_LEN] {
        field(&self.0, 3 * DIGEST_LEN)
    }
}

impl fmt::Debug for ImageTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageTags({self})")
    }
}

impl fmt::Display for ImageTags {
    /// All four in hex, with a colon between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}:{}",
            hex::encode(self.page_list_digest()),
            hex::encode(self.address_list_digest()),
            hex::encode(self.tweak_list_digest()),
            hex::encode(self.tag())
        )
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..at + N].try_into().expect("all offsets lie inside")
}
