//! What existing tools say to what we push: cosign 3 and 2, crane, on two registries.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod publish_fixture;

use std::path::Path;
use std::process::Command;

use build_server::publish::oci::Descriptor;
use build_server::publish::registry::Anonymous;
use provenance::dsse::Envelope;
use publish_fixture::{ExportedImage, Signer, image, index, name, publisher, result, sign};
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::tool;

/// A cosign, and which of the two forms it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cosign {
    /// Version 3: Sigstore bundles among the referrers.
    V3,
    /// Version 2.6 with the same bundles. Offline it wants a trusted root, which with a key may be empty.
    V2Bundles,
    /// Version 2.6 where only the `.sig` and `.att` tags are, as after a copy by tags.
    V2Tags,
}

const COSIGNS: [Cosign; 3] = [Cosign::V3, Cosign::V2Bundles, Cosign::V2Tags];
const EMPTY_TRUSTED_ROOT: &str =
    r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;

struct Pushed {
    _directory: tempfile::TempDir,
    layout: build_server::publish::ResultLayout,
    pem: std::path::PathBuf,
    reference: String,
    repository: String,
    image: ExportedImage,
    signer: Signer,
}

/// Pushes an image, with parts that `alter` may change.
async fn push(
    registry: &RegistryProcess,
    make: fn(&Path, &[u8]) -> ExportedImage,
    alter: impl Fn(&Signer, &mut build_server::publish::Artefacts),
) -> Pushed {
    let directory = tempfile::tempdir().unwrap();
    let repository = format!("{}/team/app", registry.host());
    let image = make(directory.path(), b"hello");
    let signer = Signer::new();
    let mut parts = sign(&signer, &image, &[&repository]);
    alter(&signer, &mut parts);
    let reference = format!("{repository}:1.4");
    let layout = result(directory.path(), &image, &parts, &[name(&reference)]);
    publisher().push(&layout, &[name(&reference)], &Anonymous).await.unwrap();
    let pem = directory.path().join("cosign.pub");
    signer.write_pem(&pem);
    Pushed { _directory: directory, layout, pem, reference, repository, image, signer }
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(tool(program)).args(arguments).env("HOME", home.path()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn verify(cosign: Cosign, pem: &Path, pushed: &Pushed, target: &Descriptor) -> (bool, String) {
    check(cosign, &["verify"], pem, pushed, target)
}

fn verify_attestation(cosign: Cosign, pem: &Path, pushed: &Pushed, target: &Descriptor) -> (bool, String) {
    check(cosign, &["verify-attestation", "--type", "slsaprovenance1"], pem, pushed, target)
}

fn check(
    cosign: Cosign,
    command: &[&str],
    pem: &Path,
    pushed: &Pushed,
    target: &Descriptor,
) -> (bool, String) {
    let root = pem.with_file_name("trusted_root.json");
    std::fs::write(&root, EMPTY_TRUSTED_ROOT).unwrap();
    let mut reference = format!("{}@{}", pushed.repository, target.digest);
    let mut arguments = command.to_vec();
    arguments.extend(["--key", pem.to_str().unwrap(), "--insecure-ignore-tlog", "--allow-http-registry"]);
    let program = match cosign {
        Cosign::V3 => "cosign",
        Cosign::V2Bundles => {
            arguments.extend(["--new-bundle-format", "--trusted-root", root.to_str().unwrap()]);
            "cosign2"
        }
        Cosign::V2Tags => {
            reference = copy_by_tags(pushed, target);
            "cosign2"
        }
    };
    arguments.push(&reference);
    run(program, &arguments)
}

/// Copies image, `.sig` and `.att` to a repository of their own, without referrers.
fn copy_by_tags(pushed: &Pushed, target: &Descriptor) -> String {
    let copy = format!("{}-copy", pushed.repository);
    let hex = target.digest.hex();
    for (from, to) in [
        (format!("@{}", target.digest), ":image".to_owned()),
        (format!(":sha256-{hex}.sig"), format!(":sha256-{hex}.sig")),
        (format!(":sha256-{hex}.att"), format!(":sha256-{hex}.att")),
    ] {
        let (copied, text) = run(
            "crane",
            &["copy", "--insecure", &format!("{}{from}", pushed.repository), &format!("{copy}{to}")],
        );
        assert!(copied, "crane copy {from}: {text}");
    }
    format!("{copy}@{}", target.digest)
}

fn registries() -> [(&'static str, RegistryProcess); 2] {
    [("crane", RegistryProcess::crane()), ("distribution", RegistryProcess::distribution())]
}

fn unchanged(_: &Signer, _: &mut build_server::publish::Artefacts) {}

/// Every cosign refuses what `check` does, on every registry.
async fn refused_everywhere(
    alter: impl Fn(&Signer, &mut build_server::publish::Artefacts) + Copy,
    other_key: bool,
    check: fn(Cosign, &Path, &Pushed, &Descriptor) -> (bool, String),
    wanted: &[&str],
) {
    for (kind, registry) in &registries() {
        let pushed = push(registry, image, alter).await;
        let pem = pushed.pem.with_file_name("judged.pub");
        if other_key {
            Signer::new().write_pem(&pem)
        } else {
            pushed.signer.write_pem(&pem)
        }
        for cosign in COSIGNS {
            let (accepted, text) = check(cosign, &pem, &pushed, &pushed.image.root);
            assert!(!accepted, "{cosign:?} on {kind} accepted: {text}");
            assert!(wanted.iter().any(|wanted| text.contains(wanted)), "{cosign:?} on {kind} says: {text}");
        }
    }
}

/// Accepted for the root and each platform, by every cosign.
async fn accepted_everywhere(make: fn(&Path, &[u8]) -> ExportedImage) {
    for (kind, registry) in &registries() {
        let pushed = push(registry, make, unchanged).await;
        for cosign in COSIGNS {
            for target in &pushed.image.targets {
                let (accepted, text) = verify(cosign, &pushed.pem, &pushed, target);
                assert!(accepted, "{cosign:?} verify {} on {kind}: {text}", target.media_type);
                let (accepted, text) = verify_attestation(cosign, &pushed.pem, &pushed, target);
                assert!(accepted, "{cosign:?} verify-attestation {} on {kind}: {text}", target.media_type);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_accepts_the_signature_and_the_attestation_of_an_image() {
    accepted_everywhere(image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_accepts_an_index_and_each_of_its_platforms() {
    accepted_everywhere(index).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_refuses_signatures_under_another_key() {
    refused_everywhere(
        unchanged,
        true,
        verify,
        &[
            "invalid signature",
            "no matching signatures",
            "failed to verify",
            "none of the attestations matched the predicate type",
        ],
    )
    .await;
}

/// What the two versions say, for both forms, about an attestation that does not verify.
const NO_ATTESTATION: &[&str] = &[
    "invalid signature",
    "no matching attestations",
    "accepted signatures do not match threshold",
    "failed to verify",
    "none of the attestations matched the predicate type",
];

#[tokio::test(flavor = "multi_thread")]
async fn cosign_refuses_attestations_under_another_key() {
    refused_everywhere(unchanged, true, verify_attestation, NO_ATTESTATION).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_refuses_the_signature_of_another_image() {
    let alter = |signer: &Signer, parts: &mut build_server::publish::Artefacts| {
        let other = Descriptor::of("x", b"another image").digest;
        for part in &mut parts.images {
            part.simple_signing_payload =
                provenance::sigstore::simple_signing_payload(&part.repository, &other);
            part.simple_signing_signature = signer.sign(&part.simple_signing_payload);
            part.cosign_sign = signer.envelope(provenance::sigstore::cosign_sign_statement(&other));
        }
        // cosign 3 takes any verified statement about the digest for a signature; see docs/formats.md.
        let foreign = publish_fixture::statement(&[Descriptor::of("x", b"another image")]);
        parts.provenance = signer.envelope(foreign);
    };
    refused_everywhere(
        alter,
        false,
        verify,
        &[
            "digest mismatch",
            "invalid or missing digest",
            "no matching signatures",
            "does not match",
            "do not match",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_refuses_an_altered_provenance() {
    let alter = |_: &Signer, parts: &mut build_server::publish::Artefacts| {
        let Envelope { payload, .. } = &mut parts.provenance;
        let text = String::from_utf8(payload.clone()).unwrap().replace("builder/test", "builder/evil");
        *payload = text.into_bytes();
    };
    refused_everywhere(alter, false, verify_attestation, NO_ATTESTATION).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_pulls_and_validates_what_was_pushed() {
    for (kind, registry) in &registries() {
        for make in [image, index] {
            let pushed = push(registry, make, unchanged).await;
            let sig = format!("{}:sha256-{}.sig", pushed.repository, pushed.image.root.digest.hex());
            let att = format!("{}:sha256-{}.att", pushed.repository, pushed.image.root.digest.hex());
            for (reference, flag) in [(&pushed.reference, "--fast=false"), (&sig, "--fast"), (&att, "--fast")]
            {
                // The layers of `.sig` and `.att` are no archives, so only `--fast` can judge them.
                let (valid, text) = run("crane", &["validate", "--insecure", flag, "--remote", reference]);
                assert!(valid, "crane validate {reference} on {kind}: {text}");
            }
            let (found, digest) = run("crane", &["digest", "--insecure", &pushed.reference]);
            assert!(found && digest.trim() == pushed.image.root.digest.to_string(), "{digest}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_pushes_a_whole_layout_with_the_image_first() {
    let registry = RegistryProcess::crane();
    let pushed = push(&registry, image, unchanged).await;
    let layout = pushed.layout.directory().to_str().unwrap();
    let reference = format!("{}/by-crane:1", registry.host());
    let (copied, text) = run("crane", &["push", "--insecure", "--index", layout, &reference]);
    assert!(copied, "{text}");
    let (_, manifest) = run("crane", &["manifest", "--insecure", &reference]);
    let index: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(index["manifests"][0]["digest"], pushed.image.root.digest.to_string());
}
