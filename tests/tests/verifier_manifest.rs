//! The verifier over the image itself: its manifests, blobs and the signatures over it; for each check one change that makes
//! exactly that check fail. What leads from the hardware to the image is in `verifier_image.rs`. NOT HARDWARE: reports are
//! the software TEE's.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::digest::Sha256Digest;
use provenance::statement::Statement;
use sealwright_tests::release_fixture::REPOSITORY;
use verifier::Reason;
use verifier::image::{BlobError, ImageRefusal, MAX_BLOBS, MAX_CHILDREN, MAX_MANIFEST};
use verifier::verdict::{Link, Outcome};

use world::{MANIFEST_TYPE, Made, World, image_manifest, index};

#[test]
fn a_whole_build_is_trusted_once_every_blob_was_read() {
    let world = World::new();
    let verdict = world.make().verdict();
    assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked);
    assert_ne!(verdict.report().exit_code(), 0, "blobs that nobody read are no pass");
    let mut checks = verdict.into_blob_checks().expect("accepted");
    assert_eq!(checks.pending().count(), 2);
    for blob in &world.blobs {
        let mut hasher = checks.hasher(&Sha256Digest::of(blob)).expect("a blob of the image");
        hasher.update(blob).expect("not too long");
        checks.accept(hasher.finish().expect("the right bytes")).expect("of this size");
    }
    let trusted = checks.finish().expect("everything was checked");
    assert_eq!(trusted.digest(), world.target());
    assert_eq!(trusted.report().exit_code(), 0);
    assert!(trusted.report().is_not_hardware());
    assert!(
        trusted
            .report()
            .to_string()
            .starts_with(&format!("{REPOSITORY}@{}  TRUSTED (NOT HARDWARE)", world.target()))
    );
}

#[test]
fn blobs_are_compared_with_the_manifest() {
    let world = World::new();
    let layer = world.blobs[1].clone();
    let digest = Sha256Digest::of(&layer);
    let wanted = layer.len() as u64;
    let check = |bytes: &[u8]| {
        let checks = world.make().verdict().into_blob_checks().expect("accepted");
        let mut hasher = checks.hasher(&digest).expect("the layer");
        hasher.update(bytes).and_then(|()| hasher.finish()).expect_err("not the layer")
    };
    let mut longer = layer.clone();
    longer.push(0);
    assert_eq!(check(&longer), BlobError::TooLong { digest, wanted });
    assert_eq!(check(&layer[1..]), BlobError::Size { digest, got: wanted - 1, wanted });
    let mut other = layer.clone();
    other[0] ^= 1;
    assert_eq!(check(&other), BlobError::Digest { got: Sha256Digest::of(&other), wanted: digest });

    let report =
        world.make().verdict().into_blob_checks().expect("accepted").finish().expect_err("nothing was read");
    let reason = report.rejection().expect("refused").reason().clone();
    assert!(matches!(reason, Reason::Blob(BlobError::Unchecked { left: 2, .. })), "{reason}");
    assert_eq!((report.exit_code(), report.outcome()), (4, Outcome::Refused));
    let checks = world.make().verdict().into_blob_checks().expect("accepted");
    assert!(checks.hasher(&Sha256Digest::of(b"another image's layer")).is_none());
}

#[test]
fn a_blob_that_was_checked_for_another_image_has_the_size_that_this_manifest_says() {
    let mut world = World::new();
    let digest = Sha256Digest::of(&world.blobs[1]);
    let checked = |world: &World| {
        let mut hasher =
            world.make().verdict().into_blob_checks().expect("accepted").hasher(&digest).expect("the layer");
        hasher.update(&world.blobs[1]).and_then(|()| hasher.finish()).expect("the layer")
    };
    let (same, other) = (checked(&world), checked(&world));
    let mut checks = world.make().verdict().into_blob_checks().expect("accepted");
    checks.accept(same).expect("the same size");
    assert_eq!(checks.pending().count(), 1);

    let manifest = String::from_utf8(world.manifest.clone()).expect("JSON");
    world.manifest = manifest.replace("\"size\":7", "\"size\":8").into_bytes();
    let mut checks = world.make().verdict().into_blob_checks().expect("accepted");
    assert_eq!(checks.accept(other), Err(BlobError::OtherSize { digest, got: 7, wanted: 8 }));
    assert_eq!(checks.pending().count(), 2);
}

#[test]
fn documents_given_beside_the_manifest_are_held_to_their_descriptors() {
    let mut world = World::new();
    let mut made = world.make();
    made.input.documents.push(world.blobs[0].clone());
    assert_eq!(
        made.verdict().into_blob_checks().expect("accepted").pending().count(),
        1,
        "the configuration is checked"
    );

    let wrong =
        String::from_utf8(world.manifest.clone()).expect("JSON").replace("\"size\":14", "\"size\":15");
    world.manifest = wrong.into_bytes();
    let mut made = world.make();
    made.input.documents.push(world.blobs[0].clone());
    let digest = Sha256Digest::of(&world.blobs[0]);
    assert_eq!(made.refused(), ImageRefusal::Size { digest, got: 14, wanted: 15 }.into());
}

#[test]
fn the_image_is_one_that_the_statement_names() {
    let world = World::new();
    let mut made = world.make();
    let other = image_manifest(b"{}", b"another layer");
    made.input.target = Sha256Digest::of(&other);
    made.input.documents.push(other);
    assert_eq!(
        made.refused(),
        ImageRefusal::Subject { got: made.input.target, wanted: vec![world.target()] }.into()
    );

    let mut made = world.make();
    made.input.repository = Some("registry.example/other".to_owned());
    let reason = made.refused();
    assert_eq!(
        reason,
        ImageRefusal::Repository {
            got: "registry.example/other".to_owned(),
            wanted: vec![REPOSITORY.to_owned()]
        }
        .into()
    );

    let mut made = world.make();
    made.input.documents.clear();
    assert_eq!(made.refused(), ImageRefusal::ManifestMissing { digest: world.target() }.into());
}

#[test]
fn manifests_can_be_read_in_one_way_only() {
    let both = |manifest: &[u8]| {
        let mut json: serde_json::Value = serde_json::from_slice(manifest).expect("JSON");
        json["manifests"] = serde_json::json!([]);
        serde_json::to_vec(&json).expect("JSON")
    };
    let typed = |manifest: &[u8]| {
        let text = String::from_utf8(manifest.to_vec()).expect("JSON");
        text.replacen(MANIFEST_TYPE, "application/vnd.oci.image.index.v1+json", 1).into_bytes()
    };
    let good = World::new().manifest;
    for manifest in [both(&good), typed(&good), good[..good.len() - 1].to_vec(), index(&[], MANIFEST_TYPE)] {
        let world = World { manifest, ..World::new() };
        let reason = world.make().refused();
        assert!(matches!(reason, Reason::Image(ImageRefusal::Manifest { .. })), "{reason}");
    }
}

#[test]
fn manifests_have_limits() {
    let refused = |manifest: Vec<u8>| {
        let world = World { manifest, ..World::new() };
        let mut made = world.make();
        made.input.documents.push(world.manifest.clone());
        let verdict = made.verdict();
        match verdict.report().rejection().map(|rejection| rejection.reason().clone()) {
            None => None,
            Some(Reason::Image(ImageRefusal::Manifest { problem, .. })) => Some(problem),
            Some(other) => panic!("{other}"),
        }
    };
    let mut longest = World::new().manifest;
    longest.resize(MAX_MANIFEST, b' ');
    assert_eq!(refused(longest.clone()), None);
    longest.push(b' ');
    let problem = format!("has {} bytes, at most {MAX_MANIFEST} are read", MAX_MANIFEST + 1);
    assert_eq!(refused(longest), Some(problem));

    let blobs = |layers: usize| {
        let mut json: serde_json::Value = serde_json::from_slice(&World::new().manifest).expect("JSON");
        let layer = json["layers"][0].clone();
        json["layers"] = (0..layers)
            .map(|number| {
                let mut layer = layer.clone();
                layer["digest"] = Sha256Digest::of(&number.to_be_bytes()).to_string().into();
                layer
            })
            .collect();
        serde_json::to_vec(&json).expect("JSON")
    };
    assert_eq!(refused(blobs(MAX_BLOBS - 1)), None, "and the configuration");
    assert_eq!(refused(blobs(MAX_BLOBS)), Some(format!("names more than {MAX_BLOBS} blobs")));

    let problem = |got| Some(format!("names {got} manifests, wanted 1 to {MAX_CHILDREN}"));
    assert_eq!(refused(index(&[], "application/vnd.oci.image.index.v1+json")), problem(0));
    let neither = "is neither an image manifest (config, layers) nor an image index (manifests)";
    let swapped = |manifest: &[u8], media_type: &str| {
        let mut json: serde_json::Value = serde_json::from_slice(manifest).expect("JSON");
        json["mediaType"] = media_type.into();
        serde_json::to_vec(&json).expect("JSON")
    };
    let child = World::new().manifest;
    let of_index = swapped(&child, "application/vnd.oci.image.index.v1+json");
    assert_eq!(refused(of_index).as_deref(), Some(neither), "an image that says it is an index");
    let of_image = swapped(&index(std::slice::from_ref(&child), MANIFEST_TYPE), MANIFEST_TYPE);
    assert_eq!(refused(of_image).as_deref(), Some(neither), "an index that says it is an image");

    let children = vec![World::new().manifest; MAX_CHILDREN + 1];
    assert_eq!(refused(index(&children, MANIFEST_TYPE)), problem(MAX_CHILDREN + 1));
    let world = World { manifest: index(&children[1..], MANIFEST_TYPE), ..World::new() };
    let digest = Sha256Digest::of(&children[0]);
    assert_eq!(
        world.make().refused(),
        ImageRefusal::Subject { got: digest, wanted: vec![world.target()] }.into()
    );
}

#[test]
fn every_manifest_below_an_index_is_a_subject() {
    let child = World::new().manifest;
    let world = World { manifest: index(std::slice::from_ref(&child), MANIFEST_TYPE), ..World::new() };
    let named = |made: Statement, digest: Sha256Digest| {
        let mut statement = made;
        statement.subject.push(provenance::statement::Subject::new(REPOSITORY, &digest));
        world.make_of(statement, |_| (), |_| ())
    };
    let mut made = named(world.statement(), Sha256Digest::of(&child));
    assert_eq!(made.refused(), ImageRefusal::ManifestMissing { digest: Sha256Digest::of(&child) }.into());
    made.input.documents.push(child.clone());
    assert_eq!(made.verdict().into_blob_checks().expect("accepted").pending().count(), 2);

    let mut made = world.make();
    made.input.documents.push(child.clone());
    let reason = made.refused();
    assert!(
        matches!(reason, Reason::Image(ImageRefusal::Subject { got, .. }) if got == Sha256Digest::of(&child)),
        "{reason}"
    );

    let inner = index(&[child], MANIFEST_TYPE);
    let digest = Sha256Digest::of(&inner);
    let world = World { manifest: index(std::slice::from_ref(&inner), MANIFEST_TYPE), ..World::new() };
    let mut statement = world.statement();
    statement.subject.push(provenance::statement::Subject::new(REPOSITORY, &digest));
    let mut made = world.make_of(statement, |_| (), |_| ());
    made.input.documents.push(inner);
    assert_eq!(made.refused(), ImageRefusal::NestedIndex { digest }.into());
}

#[test]
fn the_same_key_signs_the_image_itself() {
    let world = World::new();
    let key = world.signer.public.spki_sha256();
    let said = |made: &Made| {
        let verdict = made.verdict();
        assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
        let image = verdict.report().links().iter().find(|entry| entry.link == Link::Image).expect("a link");
        image.lines.last().expect("a line").clone()
    };
    let stranger = || World::new().simple_signature(REPOSITORY, &world.target());
    let mut made = world.make();
    assert_eq!(said(&made), "signed by the same key (simple signing, cosign sign/v1)");
    made.input.simple_signatures.push(stranger());
    let others = "; 1 of other keys or names not judged";
    assert_eq!(said(&made), format!("signed by the same key (simple signing, cosign sign/v1){others}"));
    let bundle = made.input.envelopes.remove(1);
    assert_eq!(said(&made), format!("signed by the same key (simple signing){others}"), "one form is enough");
    made.input.envelopes.push(bundle);
    made.input.simple_signatures.clear();
    assert_eq!(said(&made), "signed by the same key (cosign sign/v1)", "one form is enough");
    made.input.envelopes.truncate(1);
    assert_eq!(made.refused(), ImageRefusal::NoSignature { key, looked_at: 0 }.into());

    // A signature over another image, one for another repository, and one of another key.
    let elsewhere = world.simple_signature("registry.example/other", &world.target());
    let another = world.simple_signature(REPOSITORY, &Sha256Digest::of(b"another image"));
    made.input.simple_signatures = vec![elsewhere, another, stranger()];
    assert_eq!(made.refused(), ImageRefusal::NoSignature { key, looked_at: 3 }.into());
}
