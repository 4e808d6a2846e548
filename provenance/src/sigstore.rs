//! What existing verifiers read: cosign simple signing payloads, cosign's `sign/v1` statement and Sigstore
//! bundles v0.3 with a key hint. Shapes only; signatures are made in `enclave-keys`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::Sha256Digest;
use crate::dsse::{DsseError, Envelope};
use crate::key::PublicKey;

/// Media type and artifact type of a Sigstore bundle v0.3.
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of a simple signing layer.
pub const SIMPLE_SIGNING_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Media type of a DSSE layer in `.att` images.
pub const DSSE_MEDIA_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Layer annotation that carries the base64 signature of a simple signing payload.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Predicate type of cosign's signature statement.
pub const COSIGN_SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// Largest bundle in bytes (Kyverno refuses layers above 10 MB).
pub const MAX_BUNDLE: usize = 10_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SimpleSigning {
    critical: Critical,
    optional: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Sha256Digest,
}

const SIMPLE_SIGNING_TYPE: &str = "cosign container image signature";

/// The simple signing payload for an image in a repository (no tag).
#[must_use]
pub fn simple_signing_payload(repository: &str, digest: &Sha256Digest) -> Vec<u8> {
    serde_json::to_vec(&SimpleSigning {
        critical: Critical {
            identity: Identity { docker_reference: repository.to_owned() },
            image: Image { docker_manifest_digest: *digest },
            kind: SIMPLE_SIGNING_TYPE.to_owned(),
        },
        optional: None,
    })
    .expect("strings always serialise")
}

/// Repository and digest of a simple signing payload.
pub fn parse_simple_signing(payload: &[u8]) -> Result<(String, Sha256Digest), String> {
    let parsed: SimpleSigning = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    if parsed.critical.kind != SIMPLE_SIGNING_TYPE {
        return Err(format!("type is `{}`, wanted `{SIMPLE_SIGNING_TYPE}`", parsed.critical.kind));
    }
    Ok((parsed.critical.identity.docker_reference, parsed.critical.image.docker_manifest_digest))
}

/// cosign's signature statement about one image (the DSSE payload).
#[must_use]
pub fn cosign_sign_statement(digest: &Sha256Digest) -> Vec<u8> {
    crate::canonical::to_canonical_json(&serde_json::json!({
        "_type": crate::statement::STATEMENT_TYPE,
        "predicate": {},
        "predicateType": COSIGN_SIGN_PREDICATE,
        "subject": [{"digest": {"sha256": digest.hex()}}],
    }))
}

/// A Sigstore bundle v0.3 of a DSSE envelope, with the key's hint (base64 of SHA-256 of its SPKI).
#[must_use]
pub fn bundle_with_key_hint(envelope: &Envelope, key: &PublicKey) -> Vec<u8> {
    let envelope: serde_json::Value =
        serde_json::from_slice(&envelope.to_json()).expect("an envelope is JSON");
    serde_json::to_vec(&serde_json::json!({
        "mediaType": BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": STANDARD.encode(key.spki_sha256().as_bytes())}},
        "dsseEnvelope": envelope,
    }))
    .expect("strings always serialise")
}

/// A Sigstore bundle with key hint. Nothing about it is checked but its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedBundle {
    /// The envelope in it.
    pub envelope: Envelope,
    /// SHA-256 of the SPKI of the key that is said to have signed it.
    pub key: Sha256Digest,
}

/// Parses a bundle with key hint. Other kinds of bundle are refused.
pub fn parse_bundle(bundle: &[u8]) -> Result<KeyedBundle, BundleError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Bundle<'a> {
        media_type: String,
        verification_material: VerificationMaterial,
        #[serde(borrow)]
        dsse_envelope: &'a RawValue,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct VerificationMaterial {
        public_key: KeyHint,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct KeyHint {
        hint: String,
    }
    if bundle.len() > MAX_BUNDLE {
        return Err(DsseError::TooLarge { got: bundle.len(), limit: MAX_BUNDLE }.into());
    }
    let parsed: Bundle<'_> = serde_json::from_slice(bundle).map_err(|e| BundleError::Shape(e.to_string()))?;
    if parsed.media_type != BUNDLE_MEDIA_TYPE {
        return Err(BundleError::MediaType { got: parsed.media_type });
    }
    let hint = parsed.verification_material.public_key.hint;
    let key = STANDARD.decode(&hint).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key = Sha256Digest::from_bytes(key.ok_or(BundleError::KeyHint { got: hint })?);
    Ok(KeyedBundle { envelope: Envelope::parse(parsed.dsse_envelope.get().as_bytes(), MAX_BUNDLE)?, key })
}

/// Why a Sigstore bundle is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No JSON of the bundle's shape.
    #[error("Sigstore bundle does not parse: {0}")]
    Shape(String),
    /// Another media type.
    #[error("Sigstore bundle media type is `{got}`, wanted `{BUNDLE_MEDIA_TYPE}`")]
    MediaType {
        /// The media type seen.
        got: String,
    },
    /// The key hint is not one.
    #[error("Sigstore bundle: key hint is `{got}`, wanted base64 of the SHA-256 of a key's SPKI")]
    KeyHint {
        /// The hint seen.
        got: String,
    },
    /// The envelope inside is malformed.
    #[error(transparent)]
    Dsse(#[from] DsseError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> serde_json::Value {
        let envelope = Envelope { payload_type: "type".to_owned(), payload: vec![1], signature: vec![2] };
        let envelope: serde_json::Value = serde_json::from_slice(&envelope.to_json()).expect("JSON");
        serde_json::json!({
            "mediaType": BUNDLE_MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": STANDARD.encode([7; 32])}},
            "dsseEnvelope": envelope,
        })
    }

    #[test]
    fn what_cosign_signs_is_spelled_as_cosign_spells_it() {
        let digest = Sha256Digest::of(b"abc");
        let hex = digest.hex();
        let statement = format!(
            "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicate\":{{}},\
             \"predicateType\":\"https://sigstore.dev/cosign/sign/v1\",\
             \"subject\":[{{\"digest\":{{\"sha256\":\"{hex}\"}}}}]}}"
        );
        assert_eq!(String::from_utf8(cosign_sign_statement(&digest)), Ok(statement));
        let payload = simple_signing_payload("registry.example/app", &digest);
        assert_eq!(parse_simple_signing(&payload), Ok(("registry.example/app".to_owned(), digest)));
        let other = String::from_utf8(payload).expect("text").replace(SIMPLE_SIGNING_TYPE, "another");
        let wanted = format!("type is `another`, wanted `{SIMPLE_SIGNING_TYPE}`");
        assert_eq!(parse_simple_signing(other.as_bytes()), Err(wanted));
    }

    fn parsed(alter: impl FnOnce(&mut serde_json::Value)) -> Result<KeyedBundle, BundleError> {
        let mut bundle = good();
        alter(&mut bundle);
        parse_bundle(bundle.to_string().as_bytes())
    }

    #[test]
    fn a_bundle_says_what_was_signed_and_with_which_key() {
        let bundle = parsed(|_| ()).expect("a bundle");
        assert_eq!((bundle.envelope.payload, bundle.key), (vec![1], Sha256Digest::from_bytes([7; 32])));
    }

    #[test]
    fn verification_material_is_a_key_hint_and_nothing_else() {
        let shape = |alter: fn(&mut serde_json::Value)| {
            assert!(matches!(parsed(alter), Err(BundleError::Shape(_))));
        };
        shape(|b| b["verificationMaterial"] = serde_json::json!({}));
        shape(|b| b["verificationMaterial"]["tlogEntries"] = serde_json::json!([]));
        shape(|b| b["verificationMaterial"]["publicKey"]["rawBytes"] = serde_json::json!(""));
        shape(|b| b["verificationMaterial"]["publicKey"] = serde_json::json!({}));
        for hint in ["", "key", &STANDARD.encode([7; 31]), &STANDARD.encode([7; 33])] {
            let got = hint.to_owned();
            let refused = parsed(|b| b["verificationMaterial"]["publicKey"]["hint"] = hint.into());
            assert_eq!(refused, Err(BundleError::KeyHint { got }));
        }
    }

    #[test]
    fn a_bundle_has_one_envelope() {
        let twice = good().to_string().replacen("{\"payload\":", "{\"payload\":\"\",\"payload\":", 1);
        assert!(twice.contains("\"payload\":\"\""), "{twice}");
        assert!(matches!(parse_bundle(twice.as_bytes()), Err(BundleError::Dsse(DsseError::Shape(_)))));
    }
}
