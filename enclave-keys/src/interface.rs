//! The typed requests and answers of the key service. They are serialisable because the service becomes a
//! process of its own: bytes are base64 (RFC 4648 §4), unknown fields are refused, private bytes never occur.

use provenance::binding::Nonce;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use serde::{Deserialize, Serialize};

/// What may be asked of the key service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KeyRequest {
    /// The instance document of this boot.
    Instance {},
    /// A project's public signing key with its Evidence.
    ProjectKey {
        /// The project.
        project: ProjectId,
        /// What the Evidence is to answer.
        challenge: Challenge,
    },
    /// Evidence over a statement, and signatures of statement and images.
    Release(ReleaseRequest),
    /// Evidence that the other end of a TLS connection is this guest.
    SessionEvidence {
        /// TLS exporter of the connection, 32 bytes.
        #[serde(with = "array_base64")]
        exporter: [u8; 32],
        /// The client's nonce, 32 bytes.
        #[serde(with = "nonce_base64")]
        nonce: Nonce,
        /// What the Evidence is to answer.
        challenge: Challenge,
    },
    /// The TLS certificate of this boot.
    TlsCertificate {},
    /// A signature with the TLS key.
    SignTls {
        /// Input of a TLS 1.3 server CertificateVerify (RFC 8446 §4.4.3).
        #[serde(with = "bytes_base64")]
        message: Vec<u8>,
    },
    /// How the device does.
    Health {},
}

/// Answers, in the order of [`KeyRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KeyResponse {
    /// The canonical instance document.
    Instance {
        /// Its bytes.
        #[serde(with = "bytes_base64")]
        document: Vec<u8>,
    },
    /// A project's key.
    ProjectKey(ProjectKey),
    /// What a release gives.
    Release(Box<Released>),
    /// Session Evidence.
    SessionEvidence {
        /// CMW JSON.
        #[serde(with = "bytes_base64")]
        evidence: Vec<u8>,
    },
    /// The TLS certificate.
    TlsCertificate {
        /// X.509 DER.
        #[serde(with = "bytes_base64")]
        certificate: Vec<u8>,
    },
    /// A signature with the TLS key.
    SignTls {
        /// ECDSA P-256 with SHA-256, ASN.1 DER.
        #[serde(with = "bytes_base64")]
        signature: Vec<u8>,
    },
    /// How the device does.
    Health(Health),
}

/// A project's public signing key, the Evidence that this guest holds it, and certificates for tools that know nothing
/// else. The same bytes for the whole boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectKey {
    /// P-256 public key.
    #[serde(with = "spki_base64")]
    pub public: PublicKey,
    /// CMW JSON over a key leaf.
    #[serde(with = "bytes_base64")]
    pub evidence: Vec<u8>,
    /// The project's certificate, issued by the enclave CA: X.509 DER.
    #[serde(with = "bytes_base64")]
    pub certificate: Vec<u8>,
    /// The enclave CA of this boot, the same for all projects.
    pub authority: Authority,
}

/// The enclave CA: who certifies the keys of projects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Its certificate, issued by itself: X.509 DER.
    #[serde(with = "bytes_base64")]
    pub certificate: Vec<u8>,
    /// CMW JSON over the leaf of its key.
    #[serde(with = "bytes_base64")]
    pub evidence: Vec<u8>,
}

/// A finished build whose results are to be signed. The signed request holds the challenge too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The project whose key signs.
    pub project: ProjectId,
    /// The nonce of the signed request.
    #[serde(with = "nonce_base64")]
    pub nonce: Nonce,
    /// The exact statement: canonical JSON, the DSSE payload.
    #[serde(with = "bytes_base64")]
    pub statement: Vec<u8>,
    /// The signed request: DSSE JSON exactly as the caller sent it.
    #[serde(with = "bytes_base64")]
    pub signed_request: Vec<u8>,
    /// SPKI DER of the caller's key that signed it.
    #[serde(with = "bytes_base64")]
    pub caller_key: Vec<u8>,
    /// Images to sign, each a subject of the statement. Empty for a result that is no image.
    pub images: Vec<ImageName>,
}

/// An image in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    /// Repository without tag; name of the subject.
    pub repository: String,
    /// Digest of manifest or index.
    pub digest: Sha256Digest,
}

/// What a release gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// Build Evidence: CMW JSON with request, signing key and caller's key.
    #[serde(with = "bytes_base64")]
    pub evidence: Vec<u8>,
    /// The statement, signed.
    #[serde(with = "envelope_json")]
    pub provenance: Envelope,
    /// The images in the order of the request.
    pub images: Vec<SignedImage>,
}

/// The signatures of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedImage {
    /// Repository without tag.
    pub repository: String,
    /// Digest of manifest or index.
    pub digest: Sha256Digest,
    /// cosign simple signing: payload, and its signature (ECDSA P-256 with SHA-256, ASN.1 DER).
    #[serde(with = "pair_base64")]
    pub simple_signing: (Vec<u8>, Vec<u8>),
    /// cosign's `sign/v1` statement, signed.
    #[serde(with = "envelope_json")]
    pub cosign_sign: Envelope,
}

/// How the device does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Why the last device call failed; `None` when it succeeded. Nothing is signed while it fails.
    pub failing: Option<String>,
    /// The device has lost its key: nothing is signed until the guest is started again.
    pub key_wiped: bool,
    /// Builds and keys that wait for Evidence.
    pub waiting_builds: u64,
    /// Sessions that wait for Evidence.
    pub waiting_sessions: u64,
    /// Device calls since start, the first one included.
    pub device_calls: u64,
    /// How long the last device call took, in milliseconds.
    pub last_report_millis: u64,
    /// Own launch measurement, hex: SEV-SNP MEASUREMENT, TDX MRTD. A guest of Secure Execution cannot know its own.
    pub launch_measurement: Option<String>,
    /// Own privilege level (SEV-SNP VMPL); `None` on platforms that have none.
    pub vmpl: Option<u32>,
}

fn decode<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    use base64::Engine as _;
    let text = String::deserialize(deserializer)?;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| serde::de::Error::custom(format!("not base64: {error}")))
}

fn encode<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use base64::Engine as _;
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

pub(crate) mod bytes_base64 {
    pub(crate) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        super::encode(bytes, serializer)
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        super::decode(deserializer)
    }
}

mod array_base64 {
    pub(super) fn serialize<S: serde::Serializer>(
        bytes: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::encode(bytes, serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        let bytes = super::decode(deserializer)?;
        let got = bytes.len();
        bytes.try_into().map_err(|_| serde::de::Error::custom(format!("{got} bytes, wanted 32")))
    }
}

mod nonce_base64 {
    use super::Nonce;

    pub(super) fn serialize<S: serde::Serializer>(nonce: &Nonce, serializer: S) -> Result<S::Ok, S::Error> {
        super::encode(&nonce.0, serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Nonce, D::Error> {
        super::array_base64::deserialize(deserializer).map(Nonce)
    }
}

mod spki_base64 {
    use super::PublicKey;

    pub(super) fn serialize<S: serde::Serializer>(key: &PublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        super::encode(key.spki_der(), serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PublicKey, D::Error> {
        PublicKey::from_spki_der(&super::decode(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod envelope_json {
    use super::Envelope;
    use provenance::sigstore::MAX_BUNDLE;

    pub(super) fn serialize<S: serde::Serializer>(
        envelope: &Envelope,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::encode(&envelope.to_json(), serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Envelope, D::Error> {
        Envelope::parse(&super::decode(deserializer)?, 2 * MAX_BUNDLE).map_err(serde::de::Error::custom)
    }
}

mod pair_base64 {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize)]
    struct PairRef<'a>(
        #[serde(with = "super::bytes_base64")] &'a [u8],
        #[serde(with = "super::bytes_base64")] &'a [u8],
    );

    #[derive(Deserialize)]
    struct Pair(
        #[serde(with = "super::bytes_base64")] Vec<u8>,
        #[serde(with = "super::bytes_base64")] Vec<u8>,
    );

    pub(super) fn serialize<S: serde::Serializer>(
        pair: &(Vec<u8>, Vec<u8>),
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        PairRef(&pair.0, &pair.1).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<(Vec<u8>, Vec<u8>), D::Error> {
        Pair::deserialize(deserializer).map(|pair| (pair.0, pair.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an answer carries one.
    #[derive(Serialize, Deserialize)]
    struct Carried(#[serde(with = "envelope_json")] Envelope);

    #[test]
    fn an_envelope_may_be_longer_than_a_bundle_since_its_payload_is_base64() {
        let limit = provenance::sigstore::MAX_BUNDLE;
        let of = |bytes: usize| Envelope {
            payload_type: "text/plain".to_owned(),
            payload: vec![b'a'; bytes],
            signature: vec![1; 70],
        };
        let again = |envelope: &Envelope| {
            let text = serde_json::to_vec(&Carried(envelope.clone())).expect("JSON");
            serde_json::from_slice::<Carried>(&text).map(|Carried(envelope)| envelope)
        };
        let long = of(limit);
        assert!(long.to_json().len() > limit + 1000);
        assert_eq!(again(&long).expect("carried"), long);
        assert!(again(&of(2 * limit)).is_err());
    }
}
