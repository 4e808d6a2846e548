//! The verifier over whole images: a build that is accepted, and for each check one change that makes exactly that
//! check fail, from the Evidence to the rules of the guest. Manifests, blobs and signatures over the image are in
//! `verifier_manifest.rs`. NOT HARDWARE: reports are the software TEE's; the checks on reports themselves are elsewhere.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::binding::{LeafBody, Nonce};
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE, REQUEST_PAYLOAD_TYPE};
use provenance::evidence::{EvidenceBundle, EvidenceError, Platform};
use provenance::instance::KeyOrigin;
use provenance::materials::{Completeness, MaterialClass};
use provenance::sigstore::bundle_with_key_hint;
use provenance::statement::InvalidStatement;
use sealwright_tests::release_fixture::FixtureKey;
use verifier::bound::{BindingError, RulesRefusal};
use verifier::built::{MaterialsRefusal, RequestRefusal, StatementError};
use verifier::image::MAX_ATTACHED;
use verifier::verdict::{Link, Outcome, State};
use verifier::{Class, Reason};

use world::{Made, World};

/// Replaces the provenance among the envelopes.
fn with_provenance(mut made: Made, envelope: &Envelope, key: &FixtureKey) -> Made {
    made.input.envelopes[0] = bundle_with_key_hint(envelope, &key.public);
    made
}

fn class(reason: &Reason) -> Class {
    reason.class()
}

#[test]
fn evidence_must_be_there_and_not_too_much_of_anything() {
    let mut made = World::new().make();
    made.input.evidence.clear();
    let reason = made.refused();
    assert_eq!(reason, Reason::NoEvidence { target: made.input.target });
    assert_eq!(class(&reason), Class::NotAuthentic);

    let too_many = |what| Reason::TooMany { what, got: MAX_ATTACHED + 1, limit: MAX_ATTACHED };
    let mut made = World::new().make();
    made.input.evidence = vec![made.input.evidence[0].clone(); MAX_ATTACHED + 1];
    assert_eq!(made.refused(), too_many("Evidence collections"));
    let mut made = World::new().make();
    made.input.envelopes = vec![made.input.envelopes[0].clone(); MAX_ATTACHED + 1];
    assert_eq!(made.refused(), too_many("statements"));
    let mut made = World::new().make();
    made.input.simple_signatures = vec![made.input.simple_signatures[0].clone(); MAX_ATTACHED];
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    made.input.simple_signatures.push(made.input.simple_signatures[0].clone());
    assert_eq!(made.refused(), too_many("signatures"));
}

#[test]
fn a_collection_is_parsed_strictly() {
    let mut made = World::new().make();
    made.input.evidence[0].push(b' ');
    assert!(matches!(made.refused(), Reason::Bundle(EvidenceError::Canonical(_))));
}

#[test]
fn one_collection_that_holds_is_enough_and_of_none_the_one_that_came_furthest_is_reported() {
    let world = World::new();
    let mut made = world.make();
    made.input.evidence.insert(0, b"{}".to_vec());
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);

    // Of two that came equally far, the first.
    let mut made = world.make();
    made.input.evidence = vec![b"{}".to_vec(), b"[]".to_vec()];
    let first = made.refused();
    made.input.evidence.truncate(1);
    assert_eq!(made.refused(), first);
    made.input.evidence = vec![b"[]".to_vec()];
    assert_ne!(made.refused(), first);

    let foreign = World { signer: FixtureKey::new(), ..World::new() }.make();
    let mut made = world.make().with_bundle(|bundle| bundle.request = None);
    made.input.evidence.insert(0, foreign.input.evidence[0].clone());
    made.input.evidence.push(b"{}".to_vec());
    assert_eq!(made.refused(), RequestRefusal::NoRequest.into());
}

#[test]
fn the_report_covers_leaf_and_proof() {
    let world = World::new();
    // In the label and in a length: no leaf any more.
    for offset in [20, 90] {
        let reason = world.make().with_bundle(|bundle| bundle.leaf[offset] ^= 1).refused();
        assert!(matches!(reason, Reason::Binding(BindingError::Leaf(_))), "offset {offset}: {reason}");
    }
    // In what the leaf names: any change is another report data.
    for offset in [60, 130, 160] {
        let reason = world.make().with_bundle(|bundle| bundle.leaf[offset] ^= 1).refused();
        let report_data = matches!(reason, Reason::Binding(BindingError::ReportData { .. }));
        assert!(report_data, "offset {offset}: {reason}");
    }
    let reason = world.make().with_bundle(|bundle| bundle.leaf.push(0)).refused();
    assert!(matches!(reason, Reason::Binding(BindingError::Leaf(_))), "{reason}");
    let reason = world.make().with_bundle(|bundle| bundle.proof.leaf_index = 0).refused();
    assert!(matches!(reason, Reason::Binding(BindingError::ReportData { .. })), "{reason}");
    let reason = world.make().with_bundle(|bundle| bundle.proof.leaf_index = 2).refused();
    assert!(matches!(reason, Reason::Binding(BindingError::Proof(_))), "{reason}");
    let reason = world.make().with_bundle(|bundle| bundle.proof.hashes.truncate(0)).refused();
    assert!(matches!(reason, Reason::Binding(BindingError::Proof(_))), "{reason}");
    let reason =
        world.make().with_bundle(|bundle| bundle.proof.hashes[0] = Sha256Digest::of(b"other")).refused();
    assert!(matches!(reason, Reason::Binding(BindingError::ReportData { .. })), "{reason}");
    assert_eq!(class(&reason), Class::NotAuthentic);
}

#[test]
fn report_data_of_another_shape_is_not_a_batch_root() {
    let world = World::new();
    let made = world.make_of(world.statement(), |_| (), |report| report.report_data[63] ^= 1);
    assert!(matches!(made.refused(), Reason::Binding(BindingError::ReportData { .. })));
}

#[test]
fn the_leaf_names_the_instance_document() {
    let world = World::new();
    let mut other = world.instance.clone();
    other.version = "0.1.1".to_owned();
    let document = other.document();
    let made = world.make().with_bundle(|bundle| bundle.instance.clone_from(&document));
    let wanted = Sha256Digest::of(&world.instance.document());
    assert_eq!(
        made.refused(),
        BindingError::InstanceDigest { got: Sha256Digest::of(&document), wanted }.into()
    );
}

#[test]
fn the_instance_document_is_parsed_strictly() {
    let world = World::new();
    let document = [world.instance.document(), b"\n".to_vec()].concat();
    let digest = Sha256Digest::of(&document);
    let made = world
        .make_of(world.statement(), |leaf| leaf.instance_sha256 = digest, |_| ())
        .with_bundle(|bundle| bundle.instance.clone_from(&document));
    assert!(matches!(made.refused(), Reason::Binding(BindingError::Instance(_))));
}

#[test]
fn the_instance_is_of_the_platform_that_the_evidence_is_of() {
    let mut world = World::new();
    world.instance.platform = Platform::Tdx;
    let reason = world.make().refused();
    assert_eq!(reason, BindingError::Platform { got: Platform::Tdx, wanted: Platform::SevSnp }.into());
}

#[test]
fn a_leaf_of_another_kind_proves_no_build() {
    let world = World::new();
    let body = LeafBody::Session {
        tls_spki_sha256: world.signer.public.spki_sha256(),
        tls_exporter: [0; 32],
        nonce: world.request.nonce,
    };
    let made = world.make_of(world.statement(), |leaf| leaf.body = body, |_| ());
    assert_eq!(made.refused(), BindingError::LeafKind { got: "session", wanted: "build" }.into());
}

#[test]
fn the_signing_key_is_the_one_that_the_report_covers() {
    let world = World::new();
    let made = world.make().with_bundle(|bundle| bundle.signing_key = None);
    assert_eq!(made.refused(), StatementError::NoSigningKey.into());
    let made = world.make().with_bundle(|bundle| bundle.signing_key = Some(vec![0; 91]));
    assert!(matches!(made.refused(), Reason::Statement(StatementError::SigningKey(_))));
    let other = FixtureKey::new();
    let made = world.make().with_bundle(|bundle| bundle.signing_key = Some(other.public.spki_der().to_vec()));
    let (got, wanted) = (other.public.spki_sha256(), world.signer.public.spki_sha256());
    assert_eq!(made.refused(), StatementError::OtherSigningKey { got, wanted }.into());
}

#[test]
fn only_the_statement_that_the_report_covers_is_looked_at() {
    let world = World::new();
    let mut changed = world.statement();
    changed.predicate.run_details.metadata.invocation_id.push('2');
    let envelope = world.signer.sign(IN_TOTO_PAYLOAD_TYPE, changed.document());
    let made = world.make();
    let wanted = Sha256Digest::of(&made.statement.document());
    let made = with_provenance(made, &envelope, &world.signer);
    assert_eq!(made.refused(), StatementError::NoStatement { wanted, looked_at: 2 }.into());

    // The same statement, signed by another key.
    let made = world.make();
    let other = FixtureKey::new();
    let envelope = other.sign(IN_TOTO_PAYLOAD_TYPE, made.statement.document());
    let wanted = Sha256Digest::of(&made.statement.document());
    let made = with_provenance(made, &envelope, &other);
    assert_eq!(made.refused(), StatementError::NoStatement { wanted, looked_at: 1 }.into());
    // The same, said to be of the right key.
    let made = with_provenance(made, &envelope, &world.signer);
    assert!(matches!(made.refused(), Reason::Statement(StatementError::Envelope(_))));
    // Beside the right one it does no harm.
    let mut made = world.make();
    made.input.envelopes.insert(0, bundle_with_key_hint(&envelope, &other.public));
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);

    // The right key over the right payload, as another type.
    let made = world.make();
    let envelope = world.signer.sign(REQUEST_PAYLOAD_TYPE, made.statement.document());
    let made = with_provenance(made, &envelope, &world.signer);
    let reason = made.refused();
    assert!(matches!(reason, Reason::Statement(_)), "{reason}");
}

#[test]
fn the_statement_contradicts_neither_itself_nor_its_instance() {
    let world = World::new();
    let made = world.make_stating(|statement| statement.predicate.build_definition.build_type.push('x'));
    assert!(matches!(
        made.refused(),
        Reason::Statement(StatementError::Statement(InvalidStatement::Fixed { field: "buildType", .. }))
    ));
    let made = world.make_stating(|statement| {
        statement.predicate.build_definition.external_parameters.request.no_cache = true;
    });
    assert!(matches!(
        made.refused(),
        Reason::Statement(StatementError::Statement(InvalidStatement::RequestDigest { .. }))
    ));
    let made = world.make_stating(|statement| {
        statement.predicate.build_definition.internal_parameters.instance.version.push('1');
    });
    assert!(matches!(
        made.refused(),
        Reason::Statement(StatementError::Statement(InvalidStatement::InstanceDigest { .. }))
    ));
    // Of another instance altogether: consistent in itself, but not the one that the leaf names.
    let made = world.make_stating(|statement| {
        let internal = &mut statement.predicate.build_definition.internal_parameters;
        internal.instance.version.push('1');
        internal.instance_digest = Sha256Digest::of(&internal.instance.document());
    });
    assert!(matches!(made.refused(), Reason::Statement(StatementError::Instance { .. })));
    let made = world.make_stating(|statement| statement.predicate.run_details.builder.id.push('x'));
    assert!(matches!(made.refused(), Reason::Statement(StatementError::Builder { .. })));
}

#[test]
fn the_caller_is_one_that_the_policy_names() {
    let mut world = World::new();
    let wanted = world.caller.public.spki_sha256();
    let policy = world.policy();
    world.caller = FixtureKey::new();
    world.request.project = world.caller.project("acme/app");
    let made = world.make().with_policy(|_| policy.clone());
    let reason = made.refused();
    let Reason::Request(RequestRefusal::CallerNotAccepted { got, line, .. }) = &reason else {
        panic!("{reason}")
    };
    assert_eq!((*got, *line), (world.caller.public.spki_sha256(), policy.line_of("callers =")));
    assert_eq!(class(&reason), Class::RefusedByPolicy);
    assert!(reason.to_string().contains(&wanted.to_string()), "{reason}");
}

#[test]
fn the_request_is_signed_by_the_caller_that_the_statement_names() {
    let world = World::new();
    let made = world.make().with_bundle(|bundle| bundle.request = None);
    assert_eq!(made.refused(), RequestRefusal::NoRequest.into());
    let made = world.make().with_bundle(|bundle| bundle.caller_key = None);
    let caller = world.caller.public.spki_sha256();
    assert_eq!(made.refused(), RequestRefusal::NoCallerKey { caller }.into());
    let made = world.make().with_bundle(|bundle| bundle.caller_key = Some(vec![1, 2, 3]));
    assert!(matches!(made.refused(), Reason::Request(RequestRefusal::CallerKey(_))));
    let other = FixtureKey::new();
    let made = world.make().with_bundle(|bundle| bundle.caller_key = Some(other.public.spki_der().to_vec()));
    let got = other.public.spki_sha256();
    assert_eq!(made.refused(), RequestRefusal::OtherCallerKey { got, wanted: caller }.into());

    let forged = other.sign(REQUEST_PAYLOAD_TYPE, world.request.document()).to_json();
    let made = world.make().with_bundle(|bundle| bundle.request = Some(forged));
    assert!(matches!(made.refused(), Reason::Request(RequestRefusal::Invalid(_))));
}

#[test]
fn the_statement_answers_exactly_the_signed_request() {
    let world = World::new();
    let mut other = world.request.clone();
    other.no_cache = !other.no_cache;
    let signed = world.caller.sign(REQUEST_PAYLOAD_TYPE, other.document()).to_json();
    let made = world.make().with_bundle(|bundle| bundle.request = Some(signed));
    let (got, wanted) = (Sha256Digest::of(&world.request.document()), Sha256Digest::of(&other.document()));
    assert_eq!(made.refused(), RequestRefusal::OtherRequest { got, wanted }.into());

    let mut made = world.make();
    made.input.expected_request = Some(wanted);
    assert_eq!(made.refused(), RequestRefusal::UnexpectedRequest { got, wanted }.into());

    let nonce = Nonce([9; 32]);
    let change = |leaf: &mut provenance::binding::Leaf| {
        if let LeafBody::Build { nonce: place, .. } = &mut leaf.body {
            *place = nonce;
        }
    };
    let made = world.make_of(world.statement(), change, |_| ());
    assert_eq!(made.refused(), RequestRefusal::Nonce { got: nonce, wanted: world.request.nonce }.into());

    let made =
        world.make_stating(|statement| statement.predicate.run_details.metadata.invocation_id.push('x'));
    assert!(matches!(made.refused(), Reason::Request(RequestRefusal::Invocation { .. })));
}

#[test]
fn the_caller_is_a_member_of_the_project_that_is_named() {
    let mut world = World::new();
    world.request.project = FixtureKey::new().project("acme/app");
    let reason = world.make().refused();
    assert!(matches!(reason, Reason::Request(RequestRefusal::Invalid(_))), "{reason}");
    assert!(reason.to_string().contains("member"), "{reason}");
}

#[test]
fn the_project_is_one_that_the_policy_names() {
    let world = World::new();
    let id = world.request.project.id().to_string();
    let with_projects = |id: &str| {
        let callers = format!(
            "callers = [{{ name = \"ci\", spki_sha256 = \"{}\" }}]",
            world.caller.public.spki_sha256()
        );
        world.make().with_policy(|policy| policy.with(&callers, &format!("{callers}\nprojects = [\"{id}\"]")))
    };
    assert_eq!(with_projects(&id).verdict().report().outcome(), Outcome::BlobsNotChecked);
    let made = with_projects(&"0".repeat(id.len()));
    let reason = made.refused();
    let Reason::Request(RequestRefusal::ProjectNotAccepted { got, line, .. }) = &reason else {
        panic!("{reason}")
    };
    assert_eq!((got, *line), (&id, made.policy.line_of("projects =")));
    assert_eq!(class(&reason), Class::RefusedByPolicy);
}

#[test]
fn each_class_of_materials_is_as_complete_as_the_policy_wants() {
    for class in MaterialClass::ALL {
        let mut world = World::new();
        world.completeness.insert(class, Completeness::Incomplete { reason: "nobody looked".to_owned() });
        let made = world.make();
        let reason = made.refused();
        let Reason::Materials(MaterialsRefusal::Completeness { class: seen, stated, line, .. }) = &reason
        else {
            panic!("{reason}")
        };
        assert_eq!((*seen, stated.as_str()), (class, "incomplete (nobody looked)"));
        assert_eq!(*line, made.policy.line_of(&format!("{} = ", class.name())));
        assert_eq!(reason.class(), Class::RefusedByPolicy);
    }
}

#[test]
fn the_guest_runs_under_rules_that_the_policy_names() {
    let world = World::new();
    let policy = world.policy();
    let judge = |alter: fn(&mut provenance::instance::InstanceDocument)| {
        let mut world = World::new();
        alter(&mut world.instance);
        let caller = world.caller.public.spki_sha256().to_string();
        let accepted = policy.0.replace(&self::caller(&policy), &caller);
        let root = format!("dangerous_roots = [\"{}\"]", world.tee.root_spki_sha256());
        assert!(accepted.contains(&root), "one root for all");
        world.make().with_policy(|_| support::PolicyText(accepted)).refused()
    };
    let reason = judge(|instance| instance.builder_id.push('x'));
    assert!(matches!(reason, Reason::Rules(RulesRefusal::BuilderId { .. })), "{reason}");
    let reason = judge(|instance| instance.key_origin = KeyOrigin::SnpDerivedKey);
    let refused = matches!(
        &reason,
        Reason::Rules(RulesRefusal::KeyOrigin { got: KeyOrigin::SnpDerivedKey, wanted, .. })
            if *wanted == [KeyOrigin::BootEphemeral, KeyOrigin::DangerousSoftware]
    );
    assert!(refused, "{reason}");
    let reason = judge(|instance| instance.trust_configuration = serde_json::json!({"projects": ["other"]}));
    assert!(matches!(reason, Reason::Rules(RulesRefusal::TrustConfiguration { .. })), "{reason}");
    let reason = judge(|instance| instance.build_policy_sha256 = Sha256Digest::of(b"another policy"));
    assert!(matches!(reason, Reason::Rules(RulesRefusal::BuildPolicy { .. })), "{reason}");
    assert_eq!((class(&reason), reason.link()), (Class::RefusedByPolicy, Link::Rules));
}

/// The caller's digest in a policy text.
fn caller(policy: &support::PolicyText) -> String {
    let (_, rest) = policy.0.split_once("spki_sha256 = \"").expect("a caller");
    rest.split('"').next().expect("a digest").to_owned()
}

#[test]
fn software_keys_say_so_in_the_verdict() {
    let world = World::new();
    assert_eq!(world.instance.key_origin, KeyOrigin::DangerousSoftware);
    let verdict = world.make().verdict();
    let key = verdict.report().links().iter().find(|entry| entry.link == Link::Key).expect("a link");
    assert_eq!(key.state, State::Accepted);
    assert!(key.lines.iter().any(|line| line.contains("NOT HARDWARE")), "{:?}", key.lines);
}

#[test]
fn parts_of_two_builds_do_not_mix() {
    let world = World::new();
    let mut second = World::new();
    second.signer = FixtureKey::new();
    let other = second.make().bundle;
    let swaps: [fn(&mut EvidenceBundle, &EvidenceBundle); 4] = [
        |bundle, other| bundle.evidence = other.evidence.clone(),
        |bundle, other| bundle.leaf.clone_from(&other.leaf),
        |bundle, other| bundle.request.clone_from(&other.request),
        |bundle, other| bundle.signing_key.clone_from(&other.signing_key),
    ];
    for (number, swap) in swaps.into_iter().enumerate() {
        let reason = world.make().with_bundle(|bundle| swap(bundle, &other)).refused();
        assert_eq!(reason.class(), Class::NotAuthentic, "part {number}: {reason}");
    }
}
