//! How long it takes to verify one whole build: policy, Evidence, leaf, instance, statement, request, materials,
//! signatures and manifest. In the library, with everything in memory; and as a process, `sealwright verify` of the same
//! build in a layout, from its start to its end. Prints rows for docs/benchmarks.md. NOT HARDWARE: the Evidence is the
//! software TEE's, with signatures of the vendors' kinds and lengths.

#[path = "../tests/verifier_support/good.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod good;
#[path = "../tests/verifier_support/layout.rs"]
mod layout;
#[path = "../src/bin/bench/measure.rs"]
#[allow(dead_code, reason = "the bench of the server uses the other parts")]
mod measure;
#[path = "../tests/verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod setting;
#[path = "../tests/verifier_support/mod.rs"]
mod support;
#[path = "../tests/verifier_support/world.rs"]
#[allow(dead_code, reason = "the tests use the other parts")]
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use good::Good;
use measure::{median, time};
use sealwright_tests::harness::sealwright;
use verifier::verdict::Outcome;
use verifier::verify_image_with_own_requests;

/// How long the library is measured.
const LENGTH: Duration = Duration::from_secs(2);
/// How often the process is.
const PROCESSES: usize = 101;
/// A whole bundle takes less than this, in the library and as a process.
const AIM: Duration = Duration::from_micros(1500);
const AIM_OF_PROCESS: Duration = Duration::from_millis(10);

/// Median of one verification in the library.
fn in_library(good: &Good) -> Duration {
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
    median(runs)
}

/// The command that verifies a build which lies in `folder`, without settings of whoever runs this.
fn command(good: &Good, folder: &Path) -> Result<Command> {
    let image = folder.join("image");
    layout::write_layout(&good.world, &good.made, &image);
    let policy = folder.join("policy.toml");
    fs::write(&policy, &good.made.policy.0)?;
    let mut command = Command::new(sealwright());
    command.env_clear().env("HOME", folder).env("SEALWRIGHT_POLICY", policy);
    command.args(["verify", "--repository", good.made.input.repository.as_deref().context("a repository")?]);
    if let Some((request, key)) = &good.request {
        for (flag, bytes) in
            [("--attestation-request", request.as_slice()), ("--attestation-request-key", key.as_slice())]
        {
            let file = folder.join(flag.trim_start_matches('-'));
            fs::write(&file, bytes)?;
            command.arg(flag).arg(file);
        }
    }
    command.arg(image);
    Ok(command)
}

/// Median of one verification as a process, which must trust the build each time.
fn as_process(good: &Good) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let mut command = command(good, folder.path())?;
    let runs = (0..PROCESSES).map(|_| time(&mut command)).collect::<Result<Vec<_>>>()?;
    Ok(median(runs))
}

fn met(median: Duration, aim: Duration) -> &'static str {
    if median < aim { "yes" } else { "**no**" }
}

#[allow(clippy::print_stdout, reason = "the rows are this program's data")]
fn main() -> Result<()> {
    println!(
        "| Whole bundle | In the library | Aim | Met | As a process | Aim | Met |\n|---|---|---|---|---|---|---|"
    );
    for (platform, [good, _]) in [
        ("SEV-SNP, VCEK of Milan", good::snp()),
        ("TDX, quote version 5 with collateral", good::tdx()),
        ("Secure Execution, own request", good::secure_execution()),
    ] {
        let (library, process) = (in_library(&good), as_process(&good)?);
        println!(
            "| {platform} | {} µs | < {} µs | {} | {:.1} ms | < {} ms | {} |",
            library.as_micros(),
            AIM.as_micros(),
            met(library, AIM),
            process.as_secs_f64() * 1e3,
            AIM_OF_PROCESS.as_millis(),
            met(process, AIM_OF_PROCESS)
        );
    }
    Ok(())
}
