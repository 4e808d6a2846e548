//! What the certificates of an instance say beyond X.509 (RFC 5280): whose key it is, and which Evidence shows it.
//!
//! An instance has an enclave CA, which certifies one signing key per project, for tools that know certificates
//! only. Trust in either comes from key Evidence; the certificate names it by digest.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::Sha256Digest;
use crate::project::ProjectId;

/// Certificate extension id-pe-cmw (RFC 9999): a conceptual message wrapper.
pub const ID_PE_CMW: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];
/// Certificate extension "Issuer (V2)" of Sigstore's OID list, UTF8String: who vouched for the identity. Here the
/// builder id.
pub const SIGSTORE_ISSUER: &[u32] = &[1, 3, 6, 1, 4, 1, 57264, 1, 8];
/// Media type of the CMW record in a certificate: the 32 bytes of the SHA-256 of the key Evidence collection.
pub const EVIDENCE_DIGEST_MEDIA_TYPE: &str = "application/vnd.sealwright.evidence-digest.v1";
/// CMW indicator: Evidence.
const EVIDENCE: u32 = 4;
/// Most days that certificates are valid, from the instance's start.
pub const CERTIFICATE_DAYS: i64 = 366;

/// Subject alternative name (URI) of a project's certificate: `<builder id>/project/<project id>`.
#[must_use]
pub fn project_uri(builder_id: &str, project: &ProjectId) -> String {
    format!("{builder_id}/project/{project}")
}

/// Scope of the enclave CA's key leaf: the SHA-256 of the builder id.
#[must_use]
pub fn authority_scope(builder_id: &str) -> Sha256Digest {
    Sha256Digest::of(builder_id.as_bytes())
}

/// The CMW record, JSON, that names Evidence by digest: `["<media type>","<base64url of 32 bytes>",4]`.
#[must_use]
pub fn evidence_digest_record(evidence: &Sha256Digest) -> String {
    let value = URL_SAFE_NO_PAD.encode(evidence.as_bytes());
    format!(r#"["{EVIDENCE_DIGEST_MEDIA_TYPE}","{value}",{EVIDENCE}]"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_formats() {
        let project = ProjectId(Sha256Digest::of(b"project"));
        assert_eq!(
            project_uri("https://builder.example/v1", &project),
            format!("https://builder.example/v1/project/{}", Sha256Digest::of(b"project").hex())
        );
        // Digest of the empty string, encoded by hand.
        assert_eq!(
            evidence_digest_record(&Sha256Digest::of(b"")),
            "[\"application/vnd.sealwright.evidence-digest.v1\",\"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\",4]"
        );
    }
}
