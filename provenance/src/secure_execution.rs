//! Secure Execution in the bundle: Evidence, endorsements, and the Attestation Result of a Verifier about it.
//!
//! ```text
//! Evidence     = F("sealwright/secure-execution-evidence/v1") ‖ F(response) ‖ F(header)
//! endorsements = F("sealwright/secure-execution-endorsements/v1") ‖ list(host key documents) ‖ list(certificates)
//!                ‖ list(CRLs)          with list = u32be(count) ‖ count × F(DER).  No bytes at all: none.
//! ```
//! The response is in IBM's exchange format (`pvattest`), the header is the Secure Execution header of the image.
//!
//! An answer convinces the one who made the attestation request, and nobody else. For others a Verifier says what it
//! saw: an [`AttestationResult`], canonical JSON in a DSSE envelope of type [`ATTESTATION_RESULT_PAYLOAD_TYPE`].

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::frame::{FrameError, FrameReader, FrameWriter};
use crate::timestamp::Timestamp;

/// Label of Evidence.
pub const SE_EVIDENCE_LABEL: &str = "sealwright/secure-execution-evidence/v1";
/// Label of endorsements.
pub const SE_ENDORSEMENTS_LABEL: &str = "sealwright/secure-execution-endorsements/v1";
/// Largest Evidence or endorsements in bytes.
pub const MAX_SE_BYTES: usize = 2 << 20;
/// Most entries of a list of endorsements.
pub const MAX_SE_LIST: usize = 256;
/// DSSE payload type of an Attestation Result.
pub const ATTESTATION_RESULT_PAYLOAD_TYPE: &str = "application/vnd.sealwright.attestation-result.v1+json";
/// `type` of an Attestation Result.
pub const ATTESTATION_RESULT_TYPE: &str = "https://sealwright.dev/attestation-result/v1";
/// Largest Attestation Result in bytes, envelope included.
pub const MAX_ATTESTATION_RESULT: usize = 64 << 10;
/// Length of the four image tags in bytes: three digests of 64, and the header's tag of 16.
pub const IMAGE_TAGS_LEN: usize = 208;
/// Length of a configuration unique id in bytes.
pub const CONFIG_UID_LEN: usize = 16;
/// Longest user data in bytes.
pub const MAX_USER_DATA: usize = 256;

/// Why bytes are no Secure Execution Evidence or endorsements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSeBytes {
    /// Too many bytes.
    #[error("Secure Execution {what} have {got} bytes, at most {MAX_SE_BYTES} are read")]
    TooLarge {
        /// `Evidence` or `endorsements`.
        what: &'static str,
        /// Bytes seen.
        got: usize,
    },
    /// Not framed as they must be.
    #[error("Secure Execution Evidence or endorsements: {0}")]
    Frame(#[from] FrameError),
    /// A list is too long.
    #[error("Secure Execution endorsements list {got} {what}, at most {MAX_SE_LIST} are read")]
    List {
        /// What is listed.
        what: &'static str,
        /// How many.
        got: u32,
    },
}

/// What a guest answered. Nothing about it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecureExecutionEvidence {
    /// The answer in the exchange format; it holds the request that it answers.
    pub response: Vec<u8>,
    /// Secure Execution header of the image.
    pub header: Vec<u8>,
}

impl SecureExecutionEvidence {
    /// The framed bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FrameWriter::new(SE_EVIDENCE_LABEL).framed(&self.response).framed(&self.header).finish()
    }

    /// Parses framed bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSeBytes> {
        let mut reader = reader(bytes, "Evidence", SE_EVIDENCE_LABEL)?;
        let (response, header) = (reader.framed()?.to_vec(), reader.framed()?.to_vec());
        reader.finish()?;
        Ok(Self { response, header })
    }
}

/// What IBM says about host keys. Nothing about it is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecureExecutionEndorsements {
    /// Host key documents, DER.
    pub host_keys: Vec<Vec<u8>>,
    /// Certificates above them, DER, in any order.
    pub certificates: Vec<Vec<u8>>,
    /// Revocation lists, DER.
    pub crls: Vec<Vec<u8>>,
}

impl SecureExecutionEndorsements {
    /// The framed bytes.
    ///
    /// # Panics
    ///
    /// When a list has more than 2^32 entries.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = FrameWriter::new(SE_ENDORSEMENTS_LABEL);
        for list in [&self.host_keys, &self.certificates, &self.crls] {
            let count = u32::try_from(list.len()).expect("lists have at most a few hundred entries");
            writer = list.iter().fold(writer.fixed(&count.to_be_bytes()), |writer, der| writer.framed(der));
        }
        writer.finish()
    }

    /// Parses framed bytes; no bytes at all are no endorsements.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSeBytes> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = reader(bytes, "endorsements", SE_ENDORSEMENTS_LABEL)?;
        let mut list = |what| -> Result<Vec<Vec<u8>>, InvalidSeBytes> {
            let got = u32::from_be_bytes(reader.array()?);
            if usize::try_from(got).is_ok_and(|count| count <= MAX_SE_LIST) {
                (0..got).map(|_| Ok(reader.framed()?.to_vec())).collect()
            } else {
                Err(InvalidSeBytes::List { what, got })
            }
        };
        let endorsements = Self {
            host_keys: list("host key documents")?,
            certificates: list("certificates")?,
            crls: list("revocation lists")?,
        };
        reader.finish()?;
        Ok(endorsements)
    }
}

fn reader<'a>(
    bytes: &'a [u8],
    what: &'static str,
    label: &'static str,
) -> Result<FrameReader<'a>, InvalidSeBytes> {
    if bytes.len() > MAX_SE_BYTES {
        return Err(InvalidSeBytes::TooLarge { what, got: bytes.len() });
    }
    Ok(FrameReader::new(bytes, label)?)
}

/// What a Verifier says about Secure Execution Evidence that answered a request of its own. It is only worth what the
/// Verifier is worth: nobody else can check the measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationResult {
    /// SHA-256 of the exact Evidence bytes that it is about.
    pub evidence_sha256: Sha256Digest,
    /// SHA-256 of the attestation request that was answered.
    pub request_sha256: Sha256Digest,
    /// What the guest had measured, 64 to 256 bytes: report data first.
    pub user_data: Vec<u8>,
    /// Page, address and tweak list digests and the header's tag.
    pub image: [u8; IMAGE_TAGS_LEN],
    /// Hash of the host key that unpacked the image.
    pub image_host_key: Sha256Digest,
    /// Hash of the host key that opened the request.
    pub attestation_host_key: Sha256Digest,
    /// Configuration unique id.
    pub config_uid: [u8; CONFIG_UID_LEN],
    /// SHA-256 of the SubjectPublicKeyInfo of the root that the host key documents were traced to.
    pub host_key_root: Sha256Digest,
    /// SHA-256 of the policy that the Verifier judged under.
    pub policy_sha256: Sha256Digest,
    /// When it was made.
    pub issued_at: Timestamp,
    /// From when on it says nothing any more.
    pub expires_at: Timestamp,
}

/// The canonical JSON of an [`AttestationResult`]; bytes are lower-case hex.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    attestation_host_key: Sha256Digest,
    config_uid: String,
    evidence_sha256: Sha256Digest,
    expires_at: Timestamp,
    host_key_root: Sha256Digest,
    image: String,
    image_host_key: Sha256Digest,
    issued_at: Timestamp,
    policy_sha256: Sha256Digest,
    request_sha256: Sha256Digest,
    #[serde(rename = "type")]
    document_type: String,
    user_data: String,
}

/// Why a document is no Attestation Result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttestationResult {
    /// Not canonical, or of another shape.
    #[error("Attestation Result: {0}")]
    Canonical(#[from] CanonicalError),
    /// Another document type.
    #[error("Attestation Result: type is `{got}`, wanted `{ATTESTATION_RESULT_TYPE}`")]
    Type {
        /// The type seen.
        got: String,
    },
    /// A field is not as many lower-case hex digits as it must be.
    #[error("Attestation Result: `{field}` has {got} characters, wanted {wanted} lower-case hex digits")]
    Hex {
        /// Name of the field.
        field: &'static str,
        /// Characters seen.
        got: usize,
        /// What is wanted.
        wanted: &'static str,
    },
    /// It expires before it is made.
    #[error("Attestation Result: issued at {issued_at} and expires at {expires_at}")]
    Times {
        /// When it was made.
        issued_at: Timestamp,
        /// When it expires.
        expires_at: Timestamp,
    },
}

fn from_hex(
    field: &'static str,
    text: &str,
    wanted: &'static str,
) -> Result<Vec<u8>, InvalidAttestationResult> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let error = InvalidAttestationResult::Hex { field, got: text.len(), wanted };
    hex::decode(text).ok().filter(|_| lower).ok_or(error)
}

impl AttestationResult {
    /// The canonical document, for signing.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(&Document {
            attestation_host_key: self.attestation_host_key,
            config_uid: hex::encode(self.config_uid),
            evidence_sha256: self.evidence_sha256,
            expires_at: self.expires_at,
            host_key_root: self.host_key_root,
            image: hex::encode(self.image),
            image_host_key: self.image_host_key,
            issued_at: self.issued_at,
            policy_sha256: self.policy_sha256,
            request_sha256: self.request_sha256,
            document_type: ATTESTATION_RESULT_TYPE.to_owned(),
            user_data: hex::encode(&self.user_data),
        })
    }

    /// Parses the bare document. Who made it is not checked.
    pub fn parse(document: &[u8]) -> Result<Self, InvalidAttestationResult> {
        let document: Document = from_canonical_json(document, MAX_ATTESTATION_RESULT)?;
        if document.document_type != ATTESTATION_RESULT_TYPE {
            return Err(InvalidAttestationResult::Type { got: document.document_type });
        }
        let Document { issued_at, expires_at, .. } = document;
        if expires_at <= issued_at {
            return Err(InvalidAttestationResult::Times { issued_at, expires_at });
        }
        let wrong =
            |field, text: &str, wanted| InvalidAttestationResult::Hex { field, got: text.len(), wanted };
        let user_data = from_hex("user_data", &document.user_data, "128 to 512")?;
        if !(64..=MAX_USER_DATA).contains(&user_data.len()) {
            return Err(wrong("user_data", &document.user_data, "128 to 512"));
        }
        let image = from_hex("image", &document.image, "416")?;
        let config_uid = from_hex("config_uid", &document.config_uid, "32")?;
        Ok(Self {
            evidence_sha256: document.evidence_sha256,
            request_sha256: document.request_sha256,
            user_data,
            image: image.try_into().map_err(|_| wrong("image", &document.image, "416"))?,
            image_host_key: document.image_host_key,
            attestation_host_key: document.attestation_host_key,
            config_uid: config_uid.try_into().map_err(|_| wrong("config_uid", &document.config_uid, "32"))?,
            host_key_root: document.host_key_root,
            policy_sha256: document.policy_sha256,
            issued_at,
            expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> SecureExecutionEvidence {
        SecureExecutionEvidence { response: b"response".to_vec(), header: b"header".to_vec() }
    }

    fn endorsements() -> SecureExecutionEndorsements {
        SecureExecutionEndorsements {
            host_keys: vec![b"host key".to_vec()],
            certificates: vec![b"root".to_vec(), b"intermediate".to_vec()],
            crls: Vec::new(),
        }
    }

    fn result() -> AttestationResult {
        let digest = Sha256Digest::of;
        AttestationResult {
            evidence_sha256: digest(b"evidence"),
            request_sha256: digest(b"request"),
            user_data: vec![7; 64],
            image: [8; IMAGE_TAGS_LEN],
            image_host_key: digest(b"image host key"),
            attestation_host_key: digest(b"attestation host key"),
            config_uid: [9; CONFIG_UID_LEN],
            host_key_root: digest(b"root"),
            policy_sha256: digest(b"policy"),
            issued_at: Timestamp::from_unix(100).expect("a time"),
            expires_at: Timestamp::from_unix(200).expect("a time"),
        }
    }

    #[test]
    fn evidence_and_endorsements_round_trip_and_what_is_cut_or_added_is_refused() {
        let (whole, beside) = (evidence().encode(), endorsements().encode());
        assert_eq!(SecureExecutionEvidence::parse(&whole), Ok(evidence()));
        assert_eq!(SecureExecutionEndorsements::parse(&beside), Ok(endorsements()));
        assert_eq!(SecureExecutionEndorsements::parse(&[]), Ok(SecureExecutionEndorsements::default()));
        for length in 0..whole.len() {
            assert!(SecureExecutionEvidence::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        for length in 1..beside.len() {
            assert!(SecureExecutionEndorsements::parse(&beside[..length]).is_err(), "{length} bytes");
        }
        let trailing = |error| matches!(error, InvalidSeBytes::Frame(FrameError::Trailing { extra: 1, .. }));
        let added = SecureExecutionEvidence::parse(&[whole.as_slice(), b"\0"].concat());
        assert!(added.is_err_and(trailing));
        let added = SecureExecutionEndorsements::parse(&[beside.as_slice(), b"\0"].concat());
        assert!(added.is_err_and(trailing));
    }

    #[test]
    fn too_many_bytes_and_too_long_lists_are_refused() {
        let got = MAX_SE_BYTES + 1;
        let large = vec![0; got];
        let error = SecureExecutionEvidence::parse(&large);
        assert_eq!(error, Err(InvalidSeBytes::TooLarge { what: "Evidence", got }));
        let error = SecureExecutionEndorsements::parse(&large);
        assert_eq!(error, Err(InvalidSeBytes::TooLarge { what: "endorsements", got }));
        let long = SecureExecutionEndorsements {
            certificates: vec![Vec::new(); MAX_SE_LIST + 1],
            ..SecureExecutionEndorsements::default()
        };
        let error = SecureExecutionEndorsements::parse(&long.encode());
        assert_eq!(error, Err(InvalidSeBytes::List { what: "certificates", got: 257 }));
    }

    #[test]
    fn a_result_round_trips_and_each_field_has_its_form() {
        let good = String::from_utf8(result().document()).expect("JSON is text");
        assert_eq!(AttestationResult::parse(good.as_bytes()), Ok(result()));
        let with = |from: &str, to: &str| {
            assert_eq!(good.matches(from).count(), 1, "{from}");
            AttestationResult::parse(good.replace(from, to).as_bytes()).expect_err("refused")
        };
        for (field, value, wanted) in
            [("user_data", "07", "128 to 512"), ("image", "08", "416"), ("config_uid", "09", "32")]
        {
            let whole = match field {
                "user_data" => value.repeat(64),
                "image" => value.repeat(IMAGE_TAGS_LEN),
                _ => value.repeat(CONFIG_UID_LEN),
            };
            let short = whole[2..].to_owned();
            let got = short.len();
            assert_eq!(with(&whole, &short), InvalidAttestationResult::Hex { field, got, wanted });
            let upper = format!("A{}", &whole[1..]);
            let got = upper.len();
            assert_eq!(with(&whole, &upper), InvalidAttestationResult::Hex { field, got, wanted });
        }
        let long = "07".repeat(257);
        let error = with(&"07".repeat(64), &long);
        assert_eq!(
            error,
            InvalidAttestationResult::Hex { field: "user_data", got: 514, wanted: "128 to 512" }
        );
        assert!(matches!(with("result/v1", "result/v2"), InvalidAttestationResult::Type { .. }));
        let equal = Timestamp::from_unix(100).expect("a time");
        let error = AttestationResult::parse(&AttestationResult { expires_at: equal, ..result() }.document());
        assert_eq!(error, Err(InvalidAttestationResult::Times { issued_at: equal, expires_at: equal }));
        assert!(matches!(with("{", "{\"a\":1,"), InvalidAttestationResult::Canonical(_)));
    }
}
