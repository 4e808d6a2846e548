//! Recorded Evidence of all platforms, answered by the code of `make vectors`.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the test is skipped with a message, but fails in CI.

mod verifier_support;

use provenance::evidence::{Evidence, Platform};
use provenance::timestamp::Timestamp;
use sealwright_tests::vectors;
use verifier::evidence::AuthenticationError;
use verifier::rejection::{Class, Reason};
use verifier::snp::Endorsements;
use verifier_support::PolicyText;

#[test]
fn every_case_is_answered_as_stated_and_for_the_stated_reason() {
    let Some(folder) = vectors::folder() else { return };
    let outcomes = vectors::run(&folder).expect("an index");
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_as_expected()).collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", vectors::summary(&outcomes));
}

#[test]
fn evidence_of_other_platforms_is_refused_as_not_yet_appraised() {
    let policy = PolicyText::vendor(&"00".repeat(48)).parse();
    let now = Timestamp::parse("2026-07-01T00:00:00Z").expect("a time");
    let platform = Platform::SecureExecution;
    let evidence = Evidence { platform, report: vec![0; 5000], endorsements: Vec::new() };
    let error = verifier::authenticate(&evidence, &Endorsements::default(), policy.anchors(), now)
        .expect_err("refused");
    assert_eq!(error, AuthenticationError::NotYetAppraised { platform });
    assert_eq!(Reason::from(error).class(), Class::RefusedByPolicy);
}
