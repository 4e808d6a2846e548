//! What registries hold.

use std::sync::LazyLock;

use provenance::digest::Sha256Digest;
use provenance::sigstore::{parse_bundle, parse_simple_signing, simple_signing_payload};
use verifier::image::SimpleSignature;
use verifier::policy::Policy;
use verifier::{Endorsements, ImageInput, verify_image};

use crate::evidence::{NOW, good, parts};

pub(crate) fn sigstore_bundle(bytes: &[u8]) -> bool {
    parse_bundle(bytes).is_ok()
}

pub(crate) fn simple_signing(bytes: &[u8]) -> bool {
    let Ok((repository, digest)) = parse_simple_signing(bytes) else { return false };
    let again = simple_signing_payload(&repository, &digest);
    assert_eq!(parse_simple_signing(&again), Ok((repository, digest)));
    true
}

/// What a good image is made of.
struct Image {
    policy: Policy,
    target: Sha256Digest,
    repository: String,
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let text = |name| String::from_utf8(good(name)).expect("text");
    Image {
        policy: Policy::parse(&text("snp-policy.toml"), "policy.toml").expect("a policy"),
        target: Sha256Digest::of(&good("image-manifest")),
        repository: text("image-repository"),
    }
});

/// Parts: manifest, Evidence, provenance, cosign's statement, payload and signature of simple signing.
pub(crate) fn image(bytes: &[u8]) -> bool {
    let Some([manifest, evidence, provenance, cosign, payload, signature]) = parts::<6>(bytes) else {
        return false;
    };
    let input = ImageInput {
        target: IMAGE.target,
        repository: Some(IMAGE.repository.clone()),
        documents: vec![manifest.to_vec()],
        evidence: vec![evidence.to_vec()],
        envelopes: vec![provenance.to_vec(), cosign.to_vec()],
        simple_signatures: vec![SimpleSignature { payload: payload.to_vec(), signature: signature.to_vec() }],
        endorsements: Endorsements::default(),
        expected_request: None,
    };
    let verdict = verify_image(&IMAGE.policy, &input, *NOW);
    let _ = verdict.report().to_string();
    let accepted = verdict.report().refusal().is_none();
    assert!(!accepted || Sha256Digest::of(manifest) == IMAGE.target, "another image is accepted");
    accepted
}
