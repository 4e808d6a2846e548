//! DSSE v1 envelopes (Dead Simple Signing Envelope, secure-systems-lab/dsse protocol.md).
//!
//! The signature is over the pre-authentication encoding
//! `DSSEv1 SP len(type) SP type SP len(payload) SP payload`. Exactly one signature is allowed, as in Sigstore
//! bundles, and `keyid` is never written: verifiers that compare it with their own would skip the signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::key::{PublicKey, SignatureInvalid};

/// Payload type of in-toto statements.
pub const IN_TOTO_PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Payload type of a signed build request.
pub const REQUEST_PAYLOAD_TYPE: &str = "application/vnd.sealwright.request.v1+json";
/// Payload type of signed Reference Values.
pub const REFERENCE_VALUES_PAYLOAD_TYPE: &str = "application/vnd.sealwright.reference-values.v1+json";

/// The bytes that a DSSE signature covers.
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// An envelope as received: nothing about it is checked but its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The payload's type, covered by the signature.
    pub payload_type: String,
    /// The payload bytes, exactly as signed.
    pub payload: Vec<u8>,
    /// The one signature.
    pub signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EnvelopeJson {
    payload: String,
    payload_type: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureJson {
    sig: String,
}

/// Why an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsseError {
    /// More bytes than allowed.
    #[error("DSSE envelope has {got} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes seen.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// No JSON of the DSSE shape.
    #[error("DSSE envelope does not parse: {0}")]
    Shape(String),
    /// A field is not padded standard base64.
    #[error("DSSE field `{field}` is not base64")]
    Base64 {
        /// Name of the field.
        field: &'static str,
    },
    /// Not exactly one signature.
    #[error("DSSE envelope has {got} signatures, wanted exactly 1")]
    SignatureCount {
        /// How many there are.
        got: usize,
    },
    /// The payload is of another type.
    #[error("DSSE payload type is `{got}`, wanted `{wanted}`")]
    PayloadType {
        /// The type seen.
        got: String,
        /// The type wanted.
        wanted: &'static str,
    },
    /// The signature does not verify.
    #[error(transparent)]
    Signature(#[from] SignatureInvalid),
}

impl Envelope {
    /// Parses JSON of at most `limit` bytes.
    pub fn parse(json: &[u8], limit: usize) -> Result<Self, DsseError> {
        if json.len() > limit {
            return Err(DsseError::TooLarge { got: json.len(), limit });
        }
        let parsed: EnvelopeJson =
            serde_json::from_slice(json).map_err(|e| DsseError::Shape(e.to_string()))?;
        let [signature] = parsed.signatures.as_slice() else {
            return Err(DsseError::SignatureCount { got: parsed.signatures.len() });
        };
        let decode = |text: &str, field| STANDARD.decode(text).map_err(|_| DsseError::Base64 { field });
        Ok(Self {
            payload: decode(&parsed.payload, "payload")?,
            signature: decode(&signature.sig, "sig")?,
            payload_type: parsed.payload_type,
        })
    }

    /// The JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&EnvelopeJson {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: vec![SignatureJson { sig: STANDARD.encode(&self.signature) }],
        })
        .expect("strings always serialise")
    }

    /// Checks type and signature and gives the payload that the key's holder signed.
    pub fn authenticate(&self, payload_type: &'static str, key: &PublicKey) -> Result<&[u8], DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::PayloadType { got: self.payload_type.clone(), wanted: payload_type });
        }
        key.check_signature(&pre_authentication_encoding(payload_type, &self.payload), &self.signature)?;
        Ok(&self.payload)
    }
}
