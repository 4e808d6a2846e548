//! `peers`: how long one verification takes, ours beside others', on the same recorded Evidence. Prints a table.
//!
//! What each does per run is the whole of it: from raw bytes, parsing and chain included, to the verdict. Ours also
//! appraises the claims under a policy.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use provenance::evidence::Platform;
use sealwright_peers::{dcap, go, snp, vectors};

/// How long each is measured per turn, and how often they take turns.
const TURN: Duration = Duration::from_millis(300);
const TURNS: usize = 3;

/// Median of one run in microseconds, for each of the contenders, which take turns.
fn measure(contenders: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut runs: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..TURNS {
        for (contender, runs) in contenders.iter_mut().zip(&mut runs) {
            let end = Instant::now() + TURN;
            while Instant::now() < end {
                let start = Instant::now();
                contender();
                runs.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let median = |mut runs: Vec<f64>| {
        runs.sort_by(f64::total_cmp);
        runs[runs.len() / 2]
    };
    runs.into_iter().map(median).collect()
}

fn main() -> Result<()> {
    let Some(folder) = vectors::folder() else { return Ok(()) };
    let cases = vectors::prepare(&folder).map_err(anyhow::Error::msg)?;
    // Also those that a policy refuses at the end, such as debug guests: their signatures are checked all the same.
    let authentic: Vec<_> = cases
        .into_iter()
        .filter(|case| {
            let none = verifier::Endorsements::default();
            verifier::authenticate(&case.evidence, &none, case.policy.anchors(), case.now).is_ok()
        })
        .collect();
    let scratch = tempfile::tempdir()?;
    let answers = go::run(&go::build(scratch.path())?, &authentic, 0.9)?;

    let mut table = String::from(
        "| Evidence | Sealwright | `sev` 8.0.0, `dcap-qvl` 0.7.1 | go-sev-guest 0.15.0, go-tdx-guest 0.3.1 | faster than each |\n\
         |---|---|---|---|---|\n",
    );
    for case in &authentic {
        let collateral = dcap::collateral(&case.evidence);
        let mut ours = || drop(case.judge());
        let mut sev = || drop(snp::sev_crate(&case.evidence));
        let mut qvl = || {
            if let Ok(collateral) = &collateral {
                drop(dcap::dcap_qvl(&case.evidence, collateral, case.now));
            }
        };
        let is_snp = case.evidence.platform == Platform::SevSnp;
        let refused = if is_snp {
            snp::sev_crate(&case.evidence).err()
        } else {
            let collateral = collateral.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            dcap::dcap_qvl(&case.evidence, collateral, case.now).err()
        };
        let rust: &mut dyn FnMut() = if is_snp { &mut sev } else { &mut qvl };
        let times = measure(&mut [&mut ours, rust]);
        let [own, other] = times[..] else { bail!("two contenders") };
        let theirs = |error: Option<String>, time: f64| match error {
            Some(_) => ("refuses it".to_owned(), true),
            None => (format!("{time:.0} µs, {:.2}×", own / time), own < time),
        };
        let (rust, is_faster) = theirs(refused, other);
        let answer =
            answers.iter().find(|answer| answer.id == case.id).context("an answer of the Go program")?;
        let error = (!answer.error.is_empty()).then(|| answer.error.clone());
        let (golang, is_faster_too) = theirs(error, answer.nanoseconds / 1000.0);
        let verdict = if is_faster && is_faster_too { "yes" } else { "**no**" };
        writeln!(table, "| `{}` | {own:.0} µs | {rust} | {golang} | {verdict} |", case.id)?;
    }
    print!("{table}");
    Ok(())
}
