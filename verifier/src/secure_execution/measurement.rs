//! What a measurement covers, and the additional data of the Ultravisor. All integers are big-endian.
//!
//! ```text
//! image tags (208) ‖ configuration unique id (16) ‖ u16 length of user data ‖ zero (2) ‖ u32 length of additional data
//!   ‖ user data (0 to 256) ‖ nonce (0 or 16) ‖ additional data
//! ```

use provenance::digest::Sha256Digest;
use ring::hmac;

use super::exchange::ExchangeResponse;
use super::image::ImageTags;
use super::request::{OwnRequest, flag};

/// Length of a measurement in bytes: HMAC-SHA-512.
pub const MEASUREMENT_LEN: usize = 64;
/// Length of the hash of a host key in bytes.
pub const HOST_KEY_HASH_LEN: usize = 32;
/// Length of the hash of the secret store in bytes.
pub const SECRET_STORE_HASH_LEN: usize = 64;
/// Length of the firmware state in bytes.
pub const FIRMWARE_STATE_LEN: usize = 320;

/// What the Ultravisor added because the request's flags asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdditionalData {
    pub(super) image_host_key: Sha256Digest,
    pub(super) attestation_host_key: Sha256Digest,
    pub(super) secret_store_hash: Option<[u8; SECRET_STORE_HASH_LEN]>,
    pub(super) firmware_state: Option<[u8; FIRMWARE_STATE_LEN]>,
}

impl AdditionalData {
    /// Length in bytes that `flags` ask for.
    pub(super) fn length(flags: u64) -> usize {
        [
            (flag::IMAGE_HOST_KEY_HASH, HOST_KEY_HASH_LEN),
            (flag::ATTESTATION_HOST_KEY_HASH, HOST_KEY_HASH_LEN),
            (flag::SECRET_STORE_HASH, SECRET_STORE_HASH_LEN),
            (flag::FIRMWARE_STATE, FIRMWARE_STATE_LEN),
        ]
        .into_iter()
        .filter_map(|(bit, length)| (flags & bit != 0).then_some(length))
        .sum()
    }

    /// Splits additional data as the request's flags say; `None` if it has another length.
    pub(super) fn parse(bytes: &[u8], own: &OwnRequest) -> Option<Self> {
        let wanted = |bit| own.flags() & bit != 0;
        let (image_host_key, rest) = bytes.split_first_chunk()?;
        let (attestation_host_key, rest) = rest.split_first_chunk()?;
        let (secret_store_hash, rest) = optional(rest, wanted(flag::SECRET_STORE_HASH))?;
        let (firmware_state, rest) = optional(rest, wanted(flag::FIRMWARE_STATE))?;
        rest.is_empty().then_some(Self {
            image_host_key: Sha256Digest::from_bytes(*image_host_key),
            attestation_host_key: Sha256Digest::from_bytes(*attestation_host_key),
            secret_store_hash,
            firmware_state,
        })
    }
}

fn optional<const N: usize>(bytes: &[u8], wanted: bool) -> Option<(Option<[u8; N]>, &[u8])> {
    if !wanted {
        return Some((None, bytes));
    }
    bytes.split_first_chunk().map(|(field, rest)| (Some(*field), rest))
}

/// Whether the measurement of `response` holds under the key of `own`, for an image with these tags.
pub(super) fn holds(response: &ExchangeResponse<'_>, image: &ImageTags, own: &OwnRequest) -> bool {
    let user_data_length =
        u16::try_from(response.user_data().len()).expect("the exchange format limits it to 256 bytes");
    let additional_length =
        u32::try_from(response.additional_data().len()).expect("the exchange format limits it to 32 KiB");
    let mut measured = image.as_bytes().to_vec();
    measured.extend_from_slice(response.config_uid());
    measured.extend_from_slice(&user_data_length.to_be_bytes());
    measured.extend_from_slice(&[0, 0]);
    measured.extend_from_slice(&additional_length.to_be_bytes());
    measured.extend_from_slice(response.user_data());
    if let Some(nonce) = own.nonce() {
        measured.extend_from_slice(nonce);
    }
    measured.extend_from_slice(response.additional_data());
    // ring compares in constant time.
    hmac::verify(own.measurement_key(), &measured, response.measurement()).is_ok()
}
