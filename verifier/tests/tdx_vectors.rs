//! What is particular to single quotes recorded from real Intel hardware. That each is answered as stated is in
//! `vectors.rs`.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the tests are skipped with a message, but fail in CI.

mod tdx_support;

use provenance::binding::{KeyRole, Leaf, LeafBody, LeafTree};
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use tdx_support::{judge, vectors};
use verifier::appraisal::EvidenceInput;
use verifier::ear::EAR_SUBMODULE;
use verifier::evidence::AuthenticationError;
use verifier::tdx::{Quote, TdxError};
use verifier::verdict::State;
use verifier::{Endorsements, Reason, appraise_evidence};

/// Without the 39 bytes that somebody added to it, the quote is refused for the same reason: nothing about its
/// platform depends on them.
#[test]
fn the_added_bytes_of_the_sapphire_rapids_quote_are_not_what_decides() {
    let Some(dir) = vectors() else { return };
    let case = tdx_support::case(&dir, "tdx-v4-spr-no-tcb-level");
    let mut evidence = case.evidence(&dir);
    let quote = Quote::parse(&evidence.report).expect("well formed");
    let end = quote.chain_range().1;
    assert!(evidence.report.len() > end, "something is added");
    evidence.report.truncate(end);
    let reason = judge(&evidence, &case.policy().parse(), case.now()).expect_err("refused");
    assert!(
        matches!(reason, Reason::Authentication(AuthenticationError::Tdx(TdxError::NoTcbLevel { .. }))),
        "{reason:?}"
    );
}

/// EAR claims of genuine quotes: what Intel says is wrong with a platform is not affirmed, whatever the policy accepts.
#[test]
fn ear_claims_affirm_genuine_hardware_and_warn_of_what_is_out_of_date() {
    let Some(dir) = vectors() else { return };
    for (id, hardware, flaws) in [("tdx-v4-uptodate", 2, 0), ("tdx-v4-cos-outofdate-allowed", 32, 8)] {
        let case = tdx_support::case(&dir, id);
        // The quote is over other report data than this leaf's, so the link of the key is refused.
        let leaf = Leaf {
            salt: [0; 32],
            instance_sha256: Sha256Digest::of(b""),
            body: LeafBody::Key {
                role: KeyRole::ProjectSigning,
                scope_sha256: Sha256Digest::of(b""),
                spki_sha256: Sha256Digest::of(b""),
            },
        };
        let tree = LeafTree::new(&[leaf]).expect("a leaf");
        let bundle = EvidenceBundle {
            evidence: case.evidence(&dir),
            instance: Vec::new(),
            leaf: leaf.encode(),
            proof: tree.proof(0).expect("the leaf"),
            request: None,
            signing_key: None,
            caller_key: None,
            attestation_result: None,
            timestamp: None,
        };
        let collection = bundle.to_json();
        let input = EvidenceInput { collection: &collection, ..EvidenceInput::default() };
        let report = appraise_evidence(&case.policy().parse(), input, &Endorsements::default(), case.now());
        let links: Vec<_> = report.links().iter().map(|entry| entry.state).collect();
        assert_eq!(links, [State::Accepted, State::Accepted, State::Refused, State::NotJudged], "{report}");
        let ear = report.to_ear();
        let guest = &ear["submods"][EAR_SUBMODULE];
        assert_eq!(guest["ear.status"], "contraindicated");
        let wanted = serde_json::json!({"hardware": hardware, "runtime-opaque": 2, "executables": 3});
        assert_eq!(guest["ear.trustworthiness-vector"], wanted, "{id}");
        let facts = &guest["ear.veraison.annotated-evidence"]["sealwright-verdict"]["facts"];
        assert_eq!(facts["known_flaws"].as_array().map_or(0, Vec::len), flaws, "{facts}");
        assert_eq!(facts["registers"].as_object().expect("registers").len(), 7);
        // The line of the guest shows the other registers beside MRTD.
        let text = report.to_string();
        assert!(
            text.contains("launch measurement ") && text.contains("RTMR0 ") && text.contains("RTMR3 "),
            "{text}"
        );
    }
}
