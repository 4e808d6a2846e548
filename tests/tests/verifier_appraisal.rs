//! Evidence judged alone, and verdicts as EAR claims. NOT HARDWARE.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::binding::{LeafBody, Nonce};
use provenance::digest::Sha256Digest;
use serde_json::{Value, json};
use verifier::appraisal::EvidenceInput;
use verifier::ear::{EAR_PROFILE, EAR_SUBMODULE};
use verifier::session::{Connection, SessionError};
use verifier::{Class, Endorsements, EvidenceReport, Reason, appraise_evidence};
use world::{Made, World, now};

const CONNECTION: Connection = Connection {
    tls_spki_sha256: Sha256Digest::from_bytes([3; 32]),
    exporter: [4; 32],
    nonce: Nonce([5; 32]),
};

fn appraised(made: &Made, connection: Option<&Connection>) -> EvidenceReport {
    let input = EvidenceInput { collection: &made.bundle.to_json(), own_requests: &[], connection };
    appraise_evidence(&made.parsed_policy(), input, &Endorsements::default(), now())
}

/// Evidence of a connection instead of a build.
fn session(world: &World) -> Made {
    world.make_of(
        world.statement(),
        |leaf| {
            let Connection { tls_spki_sha256, exporter, nonce } = CONNECTION;
            leaf.body = LeafBody::Session { tls_spki_sha256, tls_exporter: exporter, nonce };
        },
        |_| (),
    )
}

#[test]
fn evidence_of_a_build_is_accepted_without_the_build_and_says_what_was_not_looked_at() {
    let made = World::new().make();
    let report = appraised(&made, None);
    assert!(report.is_accepted(), "{report}");
    assert_eq!(report.exit_code(), 0);
    let names: Vec<_> = report.links().iter().map(|entry| entry.link.name()).collect();
    assert_eq!(names, ["hardware", "guest", "key", "rules"]);
    let text = report.to_string();
    assert!(text.contains("ACCEPTED (NOT HARDWARE)") && !text.contains("TRUSTED"), "{text}");
    assert!(text.contains("which were not looked at") && text.ends_with('\n'), "{text}");
    let document = json!(report);
    assert_eq!(document["format"], "sealwright-appraisal/1");
    assert_eq!((&document["outcome"], &document["facts"]["bound_to"]), (&"accepted".into(), &"build".into()));
    assert_eq!(document["facts"]["statement"], json!(Sha256Digest::of(&made.statement.document())));
    assert_eq!(document["facts"]["materials"], Value::Null);
}

#[test]
fn evidence_of_a_connection_must_name_that_connection() {
    let made = session(&World::new());
    let accepted = appraised(&made, Some(&CONNECTION));
    assert!(accepted.is_accepted(), "{accepted}");
    assert!(accepted.to_string().contains("exporter and nonce of this connection"), "{accepted}");
    let kept = appraised(&made, None);
    assert!(kept.is_accepted() && kept.to_string().contains("which is not this one"), "{kept}");
    for (connection, wanted) in [
        (
            Connection { tls_spki_sha256: Sha256Digest::of(b"another"), ..CONNECTION },
            SessionError::TlsKey { got: CONNECTION.tls_spki_sha256, wanted: Sha256Digest::of(b"another") },
        ),
        (
            Connection { nonce: Nonce([6; 32]), ..CONNECTION },
            SessionError::Nonce { got: CONNECTION.nonce, wanted: Nonce([6; 32]) },
        ),
        (
            Connection { exporter: [7; 32], ..CONNECTION },
            SessionError::Exporter { got: CONNECTION.exporter, wanted: [7; 32] },
        ),
    ] {
        let refused = appraised(&made, Some(&connection));
        assert_eq!(refused.rejection().expect("refused").reason(), &Reason::Session(wanted));
        assert_eq!(refused.exit_code(), 4);
        assert!(!refused.is_accepted());
    }
    // Evidence of a build is none of a connection.
    let build = appraised(&World::new().make(), Some(&CONNECTION));
    assert_eq!(build.rejection().expect("refused").class(), Class::NotAuthentic);
}

#[test]
fn each_link_of_evidence_refuses_as_it_does_for_an_image() {
    let world = World::new();
    let nobody = Sha256Digest::of(b"nobody").to_string();
    let trust = world.instance.trust_configuration_sha256().to_string();
    let bad_guest = world.make_of(world.statement(), |_| (), |report| report.measurement[0] ^= 1);
    let bad_leaf = world.make().with_bundle(|bundle| bundle.leaf[40] ^= 1);
    let bad_report = world.make().with_bundle(|bundle| bundle.evidence.report[0x90] ^= 1);
    let no_table = world.make().with_bundle(|bundle| bundle.evidence.endorsements.clear());
    let bad_rules = world.make().with_policy(|policy| policy.with(&trust, &nobody));
    for (made, link, class, code) in [
        (bad_report, "hardware", Class::NotAuthentic, 4),
        (no_table, "hardware", Class::Endorsements, 8),
        (bad_guest, "guest", Class::RefusedByPolicy, 3),
        (bad_leaf, "key", Class::NotAuthentic, 4),
        (bad_rules, "rules", Class::RefusedByPolicy, 3),
    ] {
        let report = appraised(&made, None);
        let rejection = report.rejection().unwrap_or_else(|| panic!("{link}: accepted"));
        assert_eq!((rejection.class(), report.exit_code()), (class, code), "{link}: {report}");
        let refused: Vec<_> = report
            .links()
            .iter()
            .filter(|l| l.state == verifier::verdict::State::Refused)
            .map(|l| l.link.name())
            .collect();
        assert_eq!(refused, [link]);
        // What stands in the policy is named with its line.
        let place = rejection.policy_place().map(ToString::to_string);
        assert_eq!(place.is_some(), class == Class::RefusedByPolicy, "{place:?}");
    }
}

/// Status and trustworthiness vector.
fn claims(ear: &Value) -> (String, Value) {
    let guest = &ear["submods"][EAR_SUBMODULE];
    (guest["ear.status"].as_str().expect("text").to_owned(), guest["ear.trustworthiness-vector"].clone())
}

#[test]
fn ear_claims_have_the_drafts_shape_and_say_no_more_than_the_verdict() {
    let made = session(&World::new());
    let ear = appraised(&made, Some(&CONNECTION)).to_ear();
    let names: Vec<_> = ear.as_object().expect("claims").keys().map(String::as_str).collect();
    assert_eq!(names, ["ear.verifier-id", "eat_nonce", "eat_profile", "iat", "submods"]);
    assert_eq!(ear["eat_profile"], EAR_PROFILE);
    assert!(ear["iat"].is_i64());
    assert_eq!(ear["eat_nonce"], "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU");
    let verifier = ear["ear.verifier-id"].as_object().expect("an id");
    assert!(verifier["build"].as_str().expect("text").starts_with("sealwright-verifier "));
    assert!(verifier["developer"].is_string() && verifier.len() == 2);
    let guest = &ear["submods"][EAR_SUBMODULE];
    assert_eq!(guest["ear.appraisal-policy-id"], json!(made.parsed_policy().sha256()));
    let facts = &guest["ear.veraison.annotated-evidence"]["sealwright-verdict"];
    assert_eq!((&facts["notHardware"], &facts["facts"]["bound_to"]), (&true.into(), &"session".into()));

    // Under a root that is no vendor's nothing is affirmed about hardware or memory.
    let (status, vector) = claims(&ear);
    assert_eq!(status, "contraindicated");
    assert_eq!(vector, json!({"hardware": 97, "executables": 3, "configuration": 2}));
    // No connection, no nonce.
    assert!(appraised(&made, None).to_ear().get("eat_nonce").is_none());
}

#[test]
fn ear_claims_of_a_refusal_name_the_link_that_broke_and_leave_out_what_nobody_looked_at() {
    let world = World::new();
    let bad_report = world.make().with_bundle(|bundle| bundle.evidence.report[0x90] ^= 1);
    let no_table = world.make().with_bundle(|bundle| bundle.evidence.endorsements.clear());
    let bad_guest = world.make_of(world.statement(), |_| (), |report| report.measurement[0] ^= 1);
    let bad_hardware = world.make_of(world.statement(), |_| (), |report| report.vmpl = 1);
    for (made, status, vector) in [
        (bad_hardware, "contraindicated", json!({"hardware": 96})),
        (bad_report, "contraindicated", json!({"hardware": 99})),
        (no_table, "none", json!({})),
        (bad_guest, "contraindicated", json!({"hardware": 97, "executables": 33})),
    ] {
        assert_eq!(claims(&appraised(&made, None).to_ear()), (status.to_owned(), vector.clone()));
        let verdict = made.verdict();
        assert_eq!(claims(&verdict.report().to_ear()), (status.to_owned(), vector));
    }
    // An image whose blobs nobody read is no pass.
    let made = world.make();
    let verdict = made.verdict();
    let ear = verdict.report().to_ear();
    assert_eq!(claims(&ear).0, "none");
    let about = &ear["submods"][EAR_SUBMODULE]["ear.veraison.annotated-evidence"]["sealwright-verdict"];
    assert_eq!(about["image"], json!(world.target()));
}
