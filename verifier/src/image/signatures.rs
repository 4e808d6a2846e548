//! Signatures over the image itself, in the two forms that cosign reads. The statement's signature is checked
//! elsewhere; these tie the same key to the image for tools that know keys only.

use provenance::digest::Sha256Digest;
use provenance::dsse::IN_TOTO_PAYLOAD_TYPE;
use provenance::key::PublicKey;
use provenance::sigstore::{cosign_sign_statement, parse_simple_signing};

use super::{ImageInput, ImageRefusal};
use crate::attached::{HashedEnvelope, Work};
use crate::rejection::Reason;

/// A simple signing payload and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleSignature {
    /// The exact payload: the layer's blob.
    pub payload: Vec<u8>,
    /// The signature, ASN.1 DER: the layer's annotation, decoded.
    pub signature: Vec<u8>,
}

/// Demands at least one signature of `key` over the target, and describes what was found.
///
/// Signatures of other keys are somebody else's business and are counted only.
pub(super) fn check(
    input: &ImageInput,
    (envelopes, work): (&[&HashedEnvelope], &Work),
    key: &PublicKey,
) -> Result<String, Reason> {
    let statement = cosign_sign_statement(&input.target);
    let statement_sha256 = Sha256Digest::of(&statement);
    let over_image: Vec<_> =
        envelopes.iter().filter(|envelope| envelope.payload_sha256() == statement_sha256).collect();
    let mut bundles = 0;
    for envelope in &over_image {
        let signed = envelope.authenticate(IN_TOTO_PAYLOAD_TYPE, key, work);
        bundles += usize::from(signed.ok_or(Reason::TooMuchWork)?.is_ok());
    }
    let mut simple = 0;
    for signature in &input.simple_signatures {
        work.spend(signature.payload.len()).ok_or(Reason::TooMuchWork)?;
        simple += usize::from(is_of(signature, input, key));
    }
    let other = input.simple_signatures.len() - simple;
    if simple + bundles == 0 {
        let looked_at = input.simple_signatures.len() + over_image.len();
        return Err(ImageRefusal::NoSignature { key: key.spki_sha256(), looked_at }.into());
    }
    let mut forms = Vec::new();
    if simple > 0 {
        forms.push("simple signing");
    }
    if bundles > 0 {
        forms.push("cosign sign/v1");
    }
    let others =
        if other > 0 { format!("; {other} of other keys or names not judged") } else { String::new() };
    Ok(format!("signed by the same key ({}){others}", forms.join(", ")))
}

fn is_of(signature: &SimpleSignature, input: &ImageInput, key: &PublicKey) -> bool {
    let Ok((repository, digest)) = parse_simple_signing(&signature.payload) else { return false };
    digest == input.target
        && input.repository.as_ref().is_none_or(|wanted| *wanted == repository)
        && key.check_signature(&signature.payload, &signature.signature).is_ok()
}
