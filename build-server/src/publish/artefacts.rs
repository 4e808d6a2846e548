//! The small manifests beside an image: what cosign 2 and 3, policy engines and our verifier look for.
//!
//! Pure: signed parts in, blobs and manifests out. Equal parts give equal bytes. docs/formats.md says which
//! tool reads which of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::evidence::CMW_MEDIA_TYPE;
use provenance::key::PublicKey;
use provenance::sigstore::{
    BUNDLE_MEDIA_TYPE, COSIGN_SIGN_PREDICATE, DSSE_MEDIA_TYPE, SIGNATURE_ANNOTATION,
    SIMPLE_SIGNING_MEDIA_TYPE, bundle_with_key_hint,
};
use provenance::statement::PREDICATE_TYPE;
use provenance::timestamp::Timestamp;

use super::oci::{
    CREATED, Descriptor, EMPTY_CONFIG, EMPTY_CONFIG_BYTES, IMAGE_CONFIG, IMAGE_MANIFEST, Manifest, REF_NAME,
    to_json,
};

/// Layer annotation of `.att` images: the statement's predicate type.
pub const PREDICATE_TYPE_ANNOTATION: &str = "predicateType";
/// Manifest annotation of bundle referrers: what is inside, here always [`DSSE_ENVELOPE`].
pub const BUNDLE_CONTENT_ANNOTATION: &str = "dev.sigstore.bundle.content";
/// Value of [`BUNDLE_CONTENT_ANNOTATION`] for a DSSE envelope.
pub const DSSE_ENVELOPE: &str = "dsse-envelope";
/// Manifest annotation of bundle referrers: the statement's predicate type.
pub const BUNDLE_PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";

/// Everything that was signed about one result. It comes from `enclave-keys`; nothing here is checked again.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// The provenance statement, signed.
    pub provenance: Envelope,
    /// The build's Evidence: a CMW collection in JSON.
    pub evidence: Vec<u8>,
    /// The key that made all signatures.
    pub signing_key: PublicKey,
    /// One entry per repository and digest: the root and, for an index, each platform manifest.
    pub images: Vec<SignedImageParts>,
    /// `finishedOn` of the statement: the `created` time of every manifest, so that they are reproducible.
    pub created: Timestamp,
}

/// The signatures over one digest in one repository.
#[derive(Debug, Clone)]
pub struct SignedImageParts {
    /// Repository without tag, as the simple signing payload names it.
    pub repository: String,
    /// The manifest or index that is signed.
    pub digest: Sha256Digest,
    /// The simple signing payload.
    pub simple_signing_payload: Vec<u8>,
    /// ECDSA signature over the payload, ASN.1 DER.
    pub simple_signing_signature: Vec<u8>,
    /// cosign's signature statement, signed.
    pub cosign_sign: Envelope,
}

/// A manifest beside the image, with the blobs that only it needs.
#[derive(Debug, Clone)]
pub struct Artefact {
    /// Descriptor for the layout's index, with its tag in [`REF_NAME`] when it has one.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Configuration and layers.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
}

/// Tag under which cosign looks for signatures (`sig`) or attestations (`att`) of a digest.
#[must_use]
pub fn cosign_tag(digest: &Sha256Digest, suffix: &str) -> String {
    format!("sha256-{}.{suffix}", digest.hex())
}

/// All artefacts of one result in the order of the layout's index: those of the root, then of each platform.
///
/// `targets` are the root's descriptor and those of its platform manifests. A target without signature yields
/// no signature artefact; [`super::layout`] refuses that before it comes here.
#[must_use]
pub fn artefacts(parts: &Artefacts, targets: &[Descriptor]) -> Vec<Artefact> {
    let provenance_bundle = bundle_with_key_hint(&parts.provenance, &parts.signing_key);
    let mut made = Vec::new();
    for (position, target) in targets.iter().enumerate() {
        let signatures: Vec<&SignedImageParts> =
            parts.images.iter().filter(|image| image.digest == target.digest).collect();
        made.push(signature_image(&target.digest, &signatures, parts.created));
        made.push(attestation_image(&target.digest, &parts.provenance, parts.created));
        if let Some(first) = signatures.first() {
            let bundle = bundle_with_key_hint(&first.cosign_sign, &parts.signing_key);
            made.push(bundle_referrer(target, bundle, COSIGN_SIGN_PREDICATE, parts.created));
        }
        made.push(bundle_referrer(target, provenance_bundle.clone(), PREDICATE_TYPE, parts.created));
        if position == 0 {
            made.push(evidence_referrer(target, &parts.evidence, parts.created));
        }
    }
    made
}

/// cosign's legacy signature image: one simple signing layer per repository.
fn signature_image(digest: &Sha256Digest, signatures: &[&SignedImageParts], created: Timestamp) -> Artefact {
    let layers = signatures
        .iter()
        .map(|image| {
            let descriptor = Descriptor::of(SIMPLE_SIGNING_MEDIA_TYPE, &image.simple_signing_payload)
                .annotated(SIGNATURE_ANNOTATION, STANDARD.encode(&image.simple_signing_signature));
            (descriptor, image.simple_signing_payload.clone())
        })
        .collect();
    tagged_image(cosign_tag(digest, "sig"), layers, created)
}

/// cosign's legacy attestation image: the DSSE envelope as its one layer.
fn attestation_image(digest: &Sha256Digest, provenance: &Envelope, created: Timestamp) -> Artefact {
    let envelope = provenance.to_json();
    let descriptor = Descriptor::of(DSSE_MEDIA_TYPE, &envelope)
        // The signature stands inside the envelope; cosign wants the annotation to exist all the same.
        .annotated(SIGNATURE_ANNOTATION, "")
        .annotated(PREDICATE_TYPE_ANNOTATION, PREDICATE_TYPE);
    tagged_image(cosign_tag(digest, "att"), vec![(descriptor, envelope)], created)
}

/// An image manifest with an image configuration, because tools that copy images read `diff_ids`.
fn tagged_image(tag: String, layers: Vec<(Descriptor, Vec<u8>)>, created: Timestamp) -> Artefact {
    let config = image_config(layers.iter().map(|(layer, _)| layer.digest), created);
    let config_descriptor = Descriptor::of(IMAGE_CONFIG, &config);
    let manifest = to_json(&Manifest {
        schema_version: 2,
        media_type: Some(IMAGE_MANIFEST.to_owned()),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: layers.iter().map(|(layer, _)| layer.clone()).collect(),
        subject: None,
        annotations: [(CREATED.to_owned(), created.to_string())].into(),
    });
    let mut blobs = vec![(config_descriptor, config)];
    blobs.extend(layers);
    Artefact {
        descriptor: Descriptor::of(IMAGE_MANIFEST, &manifest).annotated(REF_NAME, tag),
        manifest,
        blobs,
    }
}

/// An image configuration without platform whose layers are uncompressed, so digest and diffID are the same.
pub(super) fn image_config(layers: impl Iterator<Item = Sha256Digest>, created: Timestamp) -> Vec<u8> {
    let diff_ids: Vec<Sha256Digest> = layers.collect();
    to_json(&serde_json::json!({
        "architecture": "",
        "config": {},
        "created": created.to_string(),
        "history": vec![serde_json::json!({"created": created.to_string()}); diff_ids.len()],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
}

fn bundle_referrer(
    subject: &Descriptor,
    bundle: Vec<u8>,
    predicate_type: &str,
    created: Timestamp,
) -> Artefact {
    let annotations = [
        (CREATED, created.to_string()),
        (BUNDLE_CONTENT_ANNOTATION, DSSE_ENVELOPE.to_owned()),
        (BUNDLE_PREDICATE_ANNOTATION, predicate_type.to_owned()),
    ];
    referrer(subject, BUNDLE_MEDIA_TYPE, bundle, &annotations)
}

fn evidence_referrer(subject: &Descriptor, evidence: &[u8], created: Timestamp) -> Artefact {
    referrer(subject, CMW_MEDIA_TYPE, evidence.to_vec(), &[(CREATED, created.to_string())])
}

/// An artifact manifest (image-spec 1.1) with the empty configuration and one layer of its own type.
fn referrer(
    subject: &Descriptor,
    artifact_type: &str,
    layer: Vec<u8>,
    annotations: &[(&str, String)],
) -> Artefact {
    let layer_descriptor = Descriptor::of(artifact_type, &layer);
    let config = Descriptor::of(EMPTY_CONFIG, EMPTY_CONFIG_BYTES);
    let annotations: std::collections::BTreeMap<String, String> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let manifest = to_json(&Manifest {
        schema_version: 2,
        media_type: Some(IMAGE_MANIFEST.to_owned()),
        artifact_type: Some(artifact_type.to_owned()),
        config: config.clone(),
        layers: vec![layer_descriptor.clone()],
        subject: Some(subject.bare()),
        annotations: annotations.clone(),
    });
    let mut descriptor = Descriptor::of(IMAGE_MANIFEST, &manifest);
    descriptor.artifact_type = Some(artifact_type.to_owned());
    // Copied to the descriptor as a referrers listing has them (distribution-spec 1.1, "Listing Referrers").
    descriptor.annotations = annotations;
    Artefact {
        descriptor,
        manifest,
        blobs: vec![(config, EMPTY_CONFIG_BYTES.to_vec()), (layer_descriptor, layer)],
    }
}
