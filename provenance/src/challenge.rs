//! What whoever wants Evidence brings along, beside the nonce in the leaf.
//!
//! SEV-SNP and TDX sign for everybody: the nonce is all. Secure Execution answers an attestation request, and the answer
//! convinces only the one who made it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::se_exchange::{ExchangeError, ExchangeRequest};

/// Longest attestation request in bytes, in the exchange format: one with the 255 host key slots that there may be has
/// 20,784.
pub const MAX_ATTESTATION_REQUEST: usize = 32 << 10;
/// Length of a measurement in bytes: HMAC-SHA-512, the only algorithm there is.
pub const MEASUREMENT_LEN: u32 = 64;
/// Longest additional data in bytes: two host key hashes, hash of the secret store, state of the firmware.
pub const MAX_ADDITIONAL_DATA: u32 = 32 + 32 + 64 + 320;

/// What Evidence answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Challenge {
    /// The nonce in the leaf, where the leaf has one: SEV-SNP and TDX.
    Nonce,
    /// The attestation request of the one who is to be convinced: Secure Execution.
    AttestationRequest(AttestationRequest),
}

impl From<Option<AttestationRequest>> for Challenge {
    fn from(request: Option<AttestationRequest>) -> Self {
        request.map_or(Self::Nonce, Self::AttestationRequest)
    }
}

/// Why bytes are no attestation request that a guest answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAttestationRequest {
    /// Too many bytes.
    #[error("attestation request has {got} bytes, at most {MAX_ATTESTATION_REQUEST} are taken")]
    TooLong {
        /// Bytes seen.
        got: usize,
    },
    /// Not a request in the exchange format.
    #[error("attestation request: {0}")]
    Exchange(#[from] ExchangeError),
    /// It announces a measurement of another length.
    #[error(
        "attestation request announces a measurement of {got} bytes, wanted {MEASUREMENT_LEN} (offset 0x20)"
    )]
    Measurement {
        /// Length announced.
        got: u32,
    },
    /// It announces more additional data than there can be.
    #[error(
        "attestation request announces {got} bytes of additional data, at most {MAX_ADDITIONAL_DATA} can be \
         (offset 0x28)"
    )]
    AdditionalData {
        /// Length announced.
        got: u32,
    },
    /// Not base64 (RFC 4648 §4).
    #[error("attestation request is not base64")]
    Base64,
}

/// An attestation request (ARCB) in the exchange format of `pvattest`, with the lengths that the answer needs. Form
/// checked; only an Ultravisor that it was made for can open it. It holds no secret in the clear. In JSON base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttestationRequest(Vec<u8>);

impl AttestationRequest {
    /// Parses a request in the exchange format, at most [`MAX_ATTESTATION_REQUEST`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidAttestationRequest> {
        if bytes.len() > MAX_ATTESTATION_REQUEST {
            return Err(InvalidAttestationRequest::TooLong { got: bytes.len() });
        }
        let request = ExchangeRequest::parse(bytes)?;
        match (request.measurement_length(), request.additional_data_length()) {
            (MEASUREMENT_LEN, 0..=MAX_ADDITIONAL_DATA) => Ok(Self(bytes.to_vec())),
            (MEASUREMENT_LEN, got) => Err(InvalidAttestationRequest::AdditionalData { got }),
            (got, _) => Err(InvalidAttestationRequest::Measurement { got }),
        }
    }

    /// The whole, in the exchange format.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its parts.
    #[must_use]
    pub fn parts(&self) -> ExchangeRequest<'_> {
        ExchangeRequest::parse(&self.0).expect("it was parsed before")
    }
}

impl std::fmt::Debug for AttestationRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AttestationRequest({})", crate::digest::Sha256Digest::of(self.parts().request()))
    }
}

impl TryFrom<String> for AttestationRequest {
    type Error = InvalidAttestationRequest;

    fn try_from(text: String) -> Result<Self, InvalidAttestationRequest> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidAttestationRequest::Base64)?;
        Self::parse(&bytes)
    }
}

impl From<AttestationRequest> for String {
    fn from(request: AttestationRequest) -> Self {
        STANDARD.encode(request.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcing(measurement: u32, additional: u32, request: &[u8]) -> Vec<u8> {
        let length = u32::try_from(request.len()).expect("short");
        let words = [0x100, 0x40 + length, 0, 0, length, 0x40, measurement, 0, additional, 0, 0, 0, 0, 0];
        [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), request].concat()
    }

    #[test]
    fn requests_round_trip_as_bytes_and_as_json() {
        for additional in [0, 64, 448] {
            let bytes = announcing(64, additional, b"request");
            let request = AttestationRequest::parse(&bytes).expect("a request");
            assert_eq!((request.as_bytes(), request.parts().request()), (&bytes[..], &b"request"[..]));
            let json = serde_json::to_string(&request).expect("JSON");
            assert_eq!(json, format!("\"{}\"", STANDARD.encode(&bytes)));
            assert_eq!(serde_json::from_str::<AttestationRequest>(&json).expect("the same"), request);
        }
    }

    #[test]
    fn what_no_guest_answers_is_refused_for_its_reason() {
        use InvalidAttestationRequest as Invalid;
        let refused = |bytes: &[u8]| AttestationRequest::parse(bytes).expect_err("refused");
        let (most, got) = (vec![1; MAX_ATTESTATION_REQUEST - 0x40], MAX_ATTESTATION_REQUEST + 1);
        assert!(AttestationRequest::parse(&announcing(64, 0, &most)).is_ok());
        assert_eq!(refused(&announcing(64, 0, &[most, vec![1]].concat())), Invalid::TooLong { got });
        for got in [63, 65] {
            assert_eq!(refused(&announcing(got, 0, b"request")), Invalid::Measurement { got });
        }
        assert_eq!(refused(&announcing(64, 449, b"request")), Invalid::AdditionalData { got: 449 });
        assert_eq!(refused(b"request"), Invalid::Exchange(ExchangeError::Length { got: 7 }));
        assert_eq!(AttestationRequest::try_from("request!".to_owned()), Err(Invalid::Base64));
    }
}
