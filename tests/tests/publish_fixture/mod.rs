//! A small image, signed parts about it, and a layout made of both.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its own part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use build_server::publish::oci::{Descriptor, IMAGE_CONFIG, IMAGE_INDEX, IMAGE_MANIFEST};
use build_server::publish::{
    Artefacts, ImageName, Publisher, PublisherConfig, ResultLayout, SignedImageParts, write_layout,
};
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE, pre_authentication_encoding};
use provenance::key::PublicKey;
use provenance::sigstore::{cosign_sign_statement, simple_signing_payload};
use provenance::timestamp::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

/// A P-256 key of a test.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap())
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::from_p256_point(self.0.public_key().as_ref()).unwrap()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    pub(crate) fn envelope(&self, payload: Vec<u8>) -> Envelope {
        let signature = self.sign(&pre_authentication_encoding(IN_TOTO_PAYLOAD_TYPE, &payload));
        Envelope { payload_type: IN_TOTO_PAYLOAD_TYPE.to_owned(), payload, signature }
    }

    /// The public key as cosign reads it.
    pub(crate) fn write_pem(&self, path: &Path) {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(self.public().spki_der());
        let lines: Vec<&str> =
            body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        std::fs::write(
            path,
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")),
        )
        .unwrap();
    }
}

/// An export as the engine leaves it.
pub(crate) struct ExportedImage {
    pub(crate) directory: PathBuf,
    pub(crate) root: Descriptor,
    /// The root, then each platform manifest.
    pub(crate) targets: Vec<Descriptor>,
}

fn store(directory: &Path, media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, bytes);
    std::fs::write(directory.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
    descriptor
}

fn manifest(directory: &Path, architecture: &str, content: &[u8]) -> Descriptor {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "content", content).unwrap();
    let archive = archive.into_inner().unwrap();
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    compressed.write_all(&archive).unwrap();
    let layer =
        store(directory, "application/vnd.oci.image.layer.v1.tar+gzip", &compressed.finish().unwrap());
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {}, "history": [{"created": "2026-11-21T10:00:00Z"}],
        "rootfs": {"type": "layers", "diff_ids": [Sha256Digest::of(&archive)]},
    });
    let config = store(directory, IMAGE_CONFIG, &serde_json::to_vec(&config).unwrap());
    let manifest =
        json!({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": config, "layers": [layer]});
    store(directory, IMAGE_MANIFEST, &serde_json::to_vec(&manifest).unwrap())
}

/// One manifest with one layer that holds `content`.
pub(crate) fn image(parent: &Path, content: &[u8]) -> ExportedImage {
    let directory = export_directory(parent, content);
    let root = manifest(&directory, "amd64", content);
    ExportedImage { directory, targets: vec![root.clone()], root }
}

/// An index of two platforms.
pub(crate) fn index(parent: &Path, content: &[u8]) -> ExportedImage {
    let directory = export_directory(parent, content);
    let platforms: Vec<Descriptor> = ["amd64", "s390x"]
        .iter()
        .map(|arch| manifest(&directory, arch, &[content, arch.as_bytes()].concat()))
        .collect();
    let entries: Vec<_> = ["amd64", "s390x"]
        .iter()
        .zip(&platforms)
        .map(|(arch, d)| json!({"mediaType": d.media_type, "digest": d.digest, "size": d.size, "platform": {"architecture": arch, "os": "linux"}}))
        .collect();
    let bytes =
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": entries}))
            .unwrap();
    let root = store(&directory, IMAGE_INDEX, &bytes);
    let targets = std::iter::once(root.clone()).chain(platforms).collect();
    ExportedImage { directory, root, targets }
}

fn export_directory(parent: &Path, content: &[u8]) -> PathBuf {
    let directory = parent.join(format!("export-{}", &Sha256Digest::of(content).hex()[..12]));
    std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    directory
}

/// A provenance statement in shape; only its subjects matter to the tools.
pub(crate) fn statement(targets: &[Descriptor]) -> Vec<u8> {
    let subjects: Vec<_> =
        targets.iter().map(|t| json!({"name": "image", "digest": {"sha256": t.digest.hex()}})).collect();
    serde_json::to_vec(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": subjects,
        "predicate": {
            "buildDefinition": {"buildType": "https://sealwright.dev/build/dockerfile/v1", "externalParameters": {},
                "internalParameters": {}, "resolvedDependencies": []},
            "runDetails": {"builder": {"id": "https://sealwright.dev/builder/test"}, "metadata": {}, "byproducts": []},
        },
    }))
    .unwrap()
}

/// Everything signed by `signer` for these repositories.
pub(crate) fn sign(signer: &Signer, image: &ExportedImage, repositories: &[&str]) -> Artefacts {
    let images = image
        .targets
        .iter()
        .flat_map(|target| {
            repositories.iter().map(|repository| {
                let payload = simple_signing_payload(repository, &target.digest);
                SignedImageParts {
                    repository: (*repository).to_owned(),
                    digest: target.digest,
                    simple_signing_signature: signer.sign(&payload),
                    simple_signing_payload: payload,
                    cosign_sign: signer.envelope(cosign_sign_statement(&target.digest)),
                }
            })
        })
        .collect();
    Artefacts {
        provenance: signer.envelope(statement(&image.targets)),
        evidence: br#"{"__cmwc_t":"https://sealwright.dev/cmw/evidence/v1"}"#.to_vec(),
        signing_key: signer.public(),
        images,
        created: Timestamp::parse("2026-11-21T10:00:00Z").unwrap(),
    }
}

/// The result of an image with these names.
pub(crate) fn result(
    parent: &Path,
    image: &ExportedImage,
    parts: &Artefacts,
    names: &[ImageName],
) -> ResultLayout {
    let destination = parent.join(format!("result-{}", &image.root.digest.hex()[..12]));
    let _ = std::fs::remove_dir_all(&destination);
    write_layout(&image.directory, &image.root, parts, names, &destination).unwrap()
}

pub(crate) fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

/// A publisher that does not wait long.
pub(crate) fn publisher() -> Publisher {
    publisher_with(PublisherConfig::default())
}

pub(crate) fn publisher_with(config: PublisherConfig) -> Publisher {
    Publisher::new(PublisherConfig {
        plain_http_on_loopback: true,
        first_pause: Duration::from_millis(1),
        ..config
    })
    .unwrap()
}
