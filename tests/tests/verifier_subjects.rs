//! What images a statement may name: those that the caller signed a request for. NOT HARDWARE: reports are the software
//! TEE's.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::digest::Sha256Digest;
use provenance::repository::UNNAMED;
use provenance::request::Output;
use provenance::statement::Subject;
use sealwright_tests::release_fixture::REPOSITORY;
use verifier::image::ImageRefusal;
use verifier::verdict::Outcome;
use verifier::{Class, Reason};

use world::World;

#[test]
fn every_subject_is_in_a_repository_that_the_caller_named() {
    let (wanted, other) = (vec![REPOSITORY.to_owned()], "registry.example/other".to_owned());
    let refused = ImageRefusal::NotRequested { got: other.clone(), wanted };
    // The image under a second name, and asked for by it.
    let world = World::new();
    let mut made = world.make_stating(|statement| {
        statement.subject.push(Subject::new(&other, &world.target()));
    });
    assert_eq!(made.refused(), refused.clone().into());
    made.input.repository = Some(other.clone());
    assert_eq!(made.refused(), refused.clone().into());
    // Another image beside it.
    let made = world.make_stating(|statement| {
        statement.subject.push(Subject::new(&other, &Sha256Digest::of(b"other")));
    });
    assert_eq!(made.refused(), refused.into());
    // A caller who asked for both.
    let mut world = World::new();
    let Output::Image { names, .. } = &mut world.request.output else { panic!("an image") };
    names.push(format!("{other}:1"));
    let mut made = world.make_stating(|statement| {
        statement.subject.push(Subject::new(&other, &world.target()));
    });
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    made.input.repository = Some("registry.example/app/other".to_owned());
    assert!(matches!(made.refused(), Reason::Image(ImageRefusal::Repository { .. })));
}

#[test]
fn an_image_without_names_is_called_image() {
    let mut world = World::new();
    let Output::Image { names, .. } = &mut world.request.output else { panic!("an image") };
    names.clear();
    let mut made = world.make_stating(|statement| statement.subject[0].name = UNNAMED.to_owned());
    made.input.repository = None;
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    let reason = world.make().refused();
    let wanted = vec![UNNAMED.to_owned()];
    assert_eq!(reason, ImageRefusal::NotRequested { got: REPOSITORY.to_owned(), wanted }.into());
    assert_eq!(reason.class(), Class::NotAuthentic);
}
