//! What strangers attach to an image: it costs a bounded amount of work and hides nothing that comes before it. NOT
//! HARDWARE: reports are the software TEE's.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::digest::Sha256Digest;
use provenance::dsse::IN_TOTO_PAYLOAD_TYPE;
use sealwright_tests::release_fixture::FixtureKey;
use verifier::attached::MAX_SIGNATURE;
use verifier::built::StatementError;
use verifier::image::MAX_ATTACHED;
use verifier::verdict::Outcome;
use verifier::{Class, Reason};

use world::{Made, World};

/// A build with a statement of more than 100 kB.
fn long() -> World {
    let mut world = World::new();
    world.request.build_args.insert("LONG".to_owned(), "x".repeat(100_000));
    world
}

/// Attaches the statement under other signatures as often as is looked at, and as many collections.
fn crowded(world: &World, collections: u8) -> Made {
    let mut made = world.make();
    let forged = FixtureKey::new().sign(IN_TOTO_PAYLOAD_TYPE, made.statement.document()).to_json();
    made.input.envelopes.resize(MAX_ATTACHED, forged);
    // Nothing says which key made a collection's `caller-key`: it is judged later.
    let varied = (1..collections).map(|number| {
        let mut bundle = made.bundle.clone();
        bundle.caller_key = Some(vec![number]);
        bundle.to_json()
    });
    let varied: Vec<_> = varied.collect();
    made.input.evidence.extend(varied);
    made
}

#[test]
fn work_is_bounded_and_what_holds_before_it_is_used_up_is_accepted() {
    let world = long();
    let mut made = crowded(&world, 30);
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked, "the first holds");

    made.input.envelopes.remove(0);
    let reason = made.refused();
    assert_eq!(reason, Reason::TooMuchWork);
    assert_eq!(reason.class(), Class::NotAuthentic);

    made.input.evidence.truncate(3);
    let reason = made.refused();
    assert!(matches!(reason, Reason::Statement(StatementError::Envelope(_))), "all were looked at: {reason}");
}

#[test]
fn signatures_longer_than_any_key_here_makes_are_passed_over() {
    let world = World::new();
    let signed_with = |length: usize| {
        let mut made = world.make();
        let mut envelope = world.signer.sign(IN_TOTO_PAYLOAD_TYPE, made.statement.document());
        envelope.signature.resize(length, 0);
        made.input.envelopes[0] = envelope.to_json();
        made.refused()
    };
    let reason = signed_with(MAX_SIGNATURE);
    assert!(matches!(reason, Reason::Statement(StatementError::Envelope(_))), "{reason}");
    let wanted = Sha256Digest::of(&world.statement().document());
    let passed_over = StatementError::NoStatement { wanted, looked_at: 1 };
    assert_eq!(signed_with(MAX_SIGNATURE + 1), passed_over.into());
}
