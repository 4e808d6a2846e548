//! How long it takes to verify one whole build in the library: policy, Evidence, leaf, instance, statement, request,
//! materials, signatures and manifest, everything in memory. Prints rows for docs/benchmarks.md. NOT HARDWARE: the
//! Evidence is the software TEE's, with signatures of the vendors' kinds and lengths.

#[path = "../tests/verifier_support/good.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod good;
#[path = "../tests/verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod setting;
#[path = "../tests/verifier_support/mod.rs"]
mod support;
#[path = "../tests/verifier_support/world.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod world;

use std::time::{Duration, Instant};

use good::Good;
use verifier::verdict::Outcome;
use verifier::verify_image_with_own_requests;

/// How long each is measured.
const LENGTH: Duration = Duration::from_secs(2);
/// A whole bundle takes less than this.
const AIM: Duration = Duration::from_micros(1500);

/// Median of one verification.
fn measure(good: &Good) -> Duration {
    let policy = good.made.parsed_policy();
    let judged_at = world::now();
    let verify = || verify_image_with_own_requests(&policy, &good.made.input, &good.own, judged_at);
    assert_eq!(
        verify().report().outcome(),
        Outcome::BlobsNotChecked,
        "a good build, whose blobs nobody has read"
    );
    let mut runs = Vec::new();
    let end = Instant::now() + LENGTH;
    while Instant::now() < end {
        let start = Instant::now();
        let verdict = verify();
        runs.push(start.elapsed());
        drop(verdict);
    }
    runs.sort_unstable();
    runs[runs.len() / 2]
}

#[allow(clippy::print_stdout, reason = "the rows are this program's data")]
fn main() {
    println!("| Whole bundle, in the library | Median | Aim | Met |\n|---|---|---|---|");
    for (platform, [good, _]) in [
        ("SEV-SNP, VCEK of Milan", good::snp()),
        ("TDX, quote version 5 with collateral", good::tdx()),
        ("Secure Execution, own request", good::secure_execution()),
    ] {
        let median = measure(&good);
        let met = if median < AIM { "yes" } else { "**no**" };
        println!("| {platform} | {} µs | < {} µs | {met} |", median.as_micros(), AIM.as_micros());
    }
}
