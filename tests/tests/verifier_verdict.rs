//! What a verdict says of a good build on three platforms (behind Azure's paravisor: `verifier_azure.rs`), word by word: to people, and to programs as JSON and as EAR.
//! Digests, keys and times stand as `#`; that they are the right ones other tests see to. NOT HARDWARE: the Evidence is
//! the software TEE's.

#[path = "verifier_support/good.rs"]
#[allow(dead_code, reason = "the tamper suite uses the other parts")]
mod good;
#[path = "verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod setting;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/words.rs"]
mod words;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use good::Good;
use provenance::digest::Sha256Digest;

fn check(good: &[Good; 2], wanted: &str) {
    words::check(&good[0].judge(&good[0].made.input), wanted);
}

#[test]
fn on_sev_snp() {
    check(&good::snp(), include_str!("verdicts/sev-snp.txt"));
}

#[test]
fn of_what_is_refused() {
    let [good, _] = good::snp();
    let mut input = good.made.input.clone();
    input.envelopes.clear();
    let verdict = good.judge(&input);
    words::check(&verdict, include_str!("verdicts/refused.txt"));
    let report = verdict.report();
    let rejection = report.rejection().expect("refused");
    assert_eq!(report.advice(), rejection.advice());
    assert!(!report.advice().is_empty() && report.blobs().is_empty());
    let accepted = good.judge(&good.made.input);
    let blobs: Vec<_> = accepted.report().blobs().iter().map(|blob| blob.digest).collect();
    let mut wanted = [0, 1].map(|index: usize| Sha256Digest::of(&good.world.blobs[index]));
    wanted.sort_unstable();
    assert_eq!(blobs, wanted);
}

#[test]
fn on_tdx() {
    check(&good::tdx(), include_str!("verdicts/tdx.txt"));
}

#[test]
fn on_secure_execution() {
    check(&good::secure_execution(), include_str!("verdicts/secure-execution.txt"));
}
