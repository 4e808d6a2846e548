//! Recorded Evidence of all platforms, answered by the code of `make vectors`.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the test is skipped with a message, but fails in CI.

use sealwright_tests::vectors;

#[test]
fn every_case_is_answered_as_stated_and_for_the_stated_reason() {
    let Some(folder) = vectors::folder() else { return };
    let outcomes = vectors::run(&folder).expect("an index");
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_as_expected()).collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", vectors::summary(&outcomes));
}
