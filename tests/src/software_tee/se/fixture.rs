//! Attestation requests of Secure Execution and what an Ultravisor answers, field by field. NOT HARDWARE.
//!
//! The verifier's own tests include this file by its path, so it names nothing else of this crate.

#![allow(unreachable_pub, dead_code, reason = "included by test files, which each use a part")]

use provenance::digest::Sha256Digest;
use ring::{aead, hmac};
use verifier::secure_execution::request::flag;

/// All flags that a request may have.
pub const ALL_FLAGS: u64 = flag::KNOWN;
/// Protection key of the usual request.
pub const PROTECTION_KEY: [u8; 32] = [0x17; 32];
/// Key of the measurement of the usual request.
pub const MEASUREMENT_KEY: [u8; 64] = [0x77; 64];
/// Nonce of the usual request.
pub const NONCE: [u8; 16] = [0xab; 16];

/// A request before it is sealed. All may be altered; nothing is checked.
pub struct Request {
    /// Plaintext attestation flags.
    pub flags: u64,
    /// Public key of the requester: X and Y, each padded to 80 bytes in front.
    pub customer_key: [u8; 160],
    /// Host key slots of 80 bytes: hash of the host key, wrapped protection key, tag.
    pub slots: Vec<[u8; 80]>,
    /// The request's protection key.
    pub protection_key: [u8; 32],
    /// Key of the measurement.
    pub measurement_key: [u8; 64],
    /// Nonce, sealed when the flags say so.
    pub nonce: [u8; 16],
}

impl Request {
    /// The usual request for host keys with these hashes, whose slots nobody can open.
    pub fn to(flags: u64, host_keys: &[Sha256Digest]) -> Self {
        let slot = |hash: &Sha256Digest| {
            let mut slot = [0x33; 80];
            slot[..32].copy_from_slice(hash.as_bytes());
            slot
        };
        Self {
            flags,
            customer_key: [0x22; 160],
            slots: host_keys.iter().map(slot).collect(),
            protection_key: PROTECTION_KEY,
            measurement_key: MEASUREMENT_KEY,
            nonce: NONCE,
        }
    }

    /// The request as it is sent.
    pub fn seal(&self) -> Vec<u8> {
        let nonce: &[u8] = if self.flags & flag::NONCE == 0 { &[] } else { &self.nonce };
        let mut sealed = [self.measurement_key.as_slice(), nonce].concat();
        let length = 0xe0 + self.slots.len() * 80 + sealed.len() + 16;
        let iv = [0x11; 12];
        let mut bytes = vec![0; 8];
        bytes.extend(0x100_u32.to_be_bytes());
        bytes.extend(u32::try_from(length).expect("small").to_be_bytes());
        bytes.extend(iv);
        bytes.extend([0; 11]);
        bytes.push(u8::try_from(self.slots.len()).expect("few"));
        bytes.extend([0; 4]);
        bytes.extend(u32::try_from(sealed.len()).expect("small").to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.customer_key);
        bytes.extend(self.slots.concat());
        cipher(&self.protection_key)
            .seal_in_place_append_tag(
                aead::Nonce::assume_unique_for_key(iv),
                aead::Aad::from(&bytes),
                &mut sealed,
            )
            .expect("short enough");
        bytes.extend(sealed);
        assert_eq!(bytes.len(), length);
        bytes
    }
}

/// AES-256-GCM.
pub fn cipher(key: &[u8; 32]) -> aead::LessSafeKey {
    aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("32 bytes"))
}

/// A request for host keys with these hashes, as a requester makes it.
pub fn make_request(flags: u64, slots: &[Sha256Digest]) -> Vec<u8> {
    Request::to(flags, slots).seal()
}

/// What an Ultravisor answers with.
#[derive(Clone)]
pub struct Answer {
    /// The request.
    pub request: Vec<u8>,
    /// Header of the image that runs.
    pub header: Vec<u8>,
    /// What the guest has measured, at most 256 bytes.
    pub user_data: Vec<u8>,
    /// What the request's flags ask for.
    pub additional: Vec<u8>,
    /// Configuration unique id, 16 bytes.
    pub config_uid: Vec<u8>,
    /// The request's nonce, or nothing.
    pub nonce: Vec<u8>,
}

impl Answer {
    /// The measurement under the usual request's key.
    pub fn measurement(&self) -> Vec<u8> {
        self.measurement_under(&MEASUREMENT_KEY)
    }

    /// The measurement, HMAC-SHA-512 under a key.
    pub fn measurement_under(&self, key: &[u8]) -> Vec<u8> {
        let mut measured = self.header[0xe0..0x1a0].to_vec();
        measured.extend(&self.header[self.header.len() - 16..]);
        measured.extend(&self.config_uid);
        measured.extend(u16::try_from(self.user_data.len()).expect("short").to_be_bytes());
        measured.extend([0; 2]);
        measured.extend(u32::try_from(self.additional.len()).expect("short").to_be_bytes());
        measured.extend(&self.user_data);
        measured.extend(&self.nonce);
        measured.extend(&self.additional);
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), &measured).as_ref().to_vec()
    }

    /// The exchange with the usual request.
    pub fn response(&self) -> Vec<u8> {
        exchange(&[&self.request, &self.measurement(), &self.additional, &self.user_data, &self.config_uid])
    }
}

/// The Secure Execution header of a made-up image, version 1: one host key slot that nobody can open, digests that
/// repeat `digest`, and 128 encrypted bytes.
pub fn image_header(digest: u8) -> Vec<u8> {
    let mut header = b"IBMSecEx".to_vec();
    header.extend(0x100_u32.to_be_bytes());
    header.extend((0x1a0 + 80 + 128 + 16_u32).to_be_bytes());
    header.extend([0x44; 12]);
    header.extend([0; 4]);
    for number in [1_u64, 128, 1, 0] {
        header.extend(number.to_be_bytes());
    }
    header.extend([0x22; 160]);
    header.extend([digest; 3 * 64]);
    header.extend([0x33; 80]);
    header.extend([0x55; 128]);
    header.extend([digest; 16]);
    header
}

/// The exchange format around five parts.
pub fn exchange(parts: &[&[u8]; 5]) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).expect("small").to_be_bytes();
    let total = 0x40 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = b"pvattest\x00\x00\x01\x00".to_vec();
    bytes.extend(word(total));
    bytes.extend([0; 8]);
    let mut next = 0x40;
    for part in parts {
        bytes.extend(word(part.len()));
        bytes.extend(word(if part.is_empty() { 0 } else { next }));
        next += part.len();
    }
    bytes.extend(parts.concat());
    bytes
}
