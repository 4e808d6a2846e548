//! The commitment to a build's secrets that the signed request carries:
//! `HMAC-SHA-256(r, F("sealwright/secrets/v1") ‖ u32be(n) ‖ n × (F(id) ‖ F(value)))`, secrets in order of
//! their ids. The client chooses `r` (32 random bytes) and sends it beside the values, never in the request;
//! so the request can be published and says nothing about a low-entropy secret.

use std::collections::BTreeMap;

use ring::hmac;

use crate::digest::Sha256Digest;
use crate::frame::FrameWriter;

/// Label of the commitment.
pub const SECRETS_LABEL: &str = "sealwright/secrets/v1";

/// Commitment to the secrets under the key `r`.
#[must_use]
pub fn commit_to_secrets(r: &[u8; 32], secrets: &BTreeMap<String, Vec<u8>>) -> Sha256Digest {
    let count = u32::try_from(secrets.len()).expect("the number of secrets is limited");
    let mut message = FrameWriter::new(SECRETS_LABEL).fixed(&count.to_be_bytes());
    for (id, value) in secrets {
        message = message.framed(id.as_bytes()).framed(value);
    }
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, r), &message.finish());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    Sha256Digest::from_bytes(bytes)
}
