//! `peers`: how long one verification takes, ours beside others', on the same recorded Evidence. Prints a table.
//!
//! What each does per run is the whole of it: from raw bytes, parsing and chain included, to the verdict. Ours also
//! appraises the claims under a policy.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use provenance::evidence::Platform;
use provenance::se_exchange::ExchangeResponse;
use sealwright_peers::{dcap, go, s390, snp, vectors};

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
        "| Evidence | Sealwright | `sev` 8.0.0, `dcap-qvl` 0.7.1, `s390_pv` 0.12.0 | go-sev-guest 0.15.0, go-tdx-guest 0.3.1 | faster than each |\n\
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
    for (id, answer) in vectors::recorded_answers(&folder).map_err(anyhow::Error::msg)? {
        if answer.claims_with_unchecked_host_keys().is_err() {
            continue;
        }
        let mut ours = || drop(answer.claims_with_unchecked_host_keys());
        let mut theirs = || drop(s390_pv(&answer));
        let times = measure(&mut [&mut ours, &mut theirs]);
        write_secure_execution(&mut table, &id, &times, s390_pv(&answer).is_err())?;
    }
    for (id, recorded) in vectors::recorded_documents(&folder).map_err(anyhow::Error::msg)? {
        let [root, below @ ..] = &recorded.chain.certificates;
        let above = s390::Above::write(root, below, &recorded.chain.crls).map_err(anyhow::Error::msg)?;
        if recorded.judge().map_err(anyhow::Error::msg)?.is_err() {
            continue;
        }
        let mut ours = || drop(recorded.judge());
        let mut theirs = || drop(above.judge(&recorded.document));
        let times = measure(&mut [&mut ours, &mut theirs]);
        write_secure_execution(&mut table, &id, &times, above.judge(&recorded.document).is_err())?;
    }
    print!("{table}");
    Ok(())
}

/// The whole of an answer, with the hash of the host key from its document.
fn s390_pv(recorded: &vectors::RecordedAnswer) -> Result<s390::Claims, String> {
    let parts = ExchangeResponse::parse(&recorded.response).map_err(|error| error.to_string())?;
    let answer = s390::Answer {
        request: parts.request(),
        header: &recorded.header,
        measurement: parts.measurement(),
        additional: parts.additional_data(),
        user_data: parts.user_data(),
        config_uid: parts.config_uid(),
    };
    s390::judge_answer(&answer, recorded.key, &s390::host_key_hash(&recorded.document)?)
}

/// A row of which Go has no peer.
fn write_secure_execution(table: &mut String, id: &str, times: &[f64], is_refused: bool) -> Result<()> {
    let [own, other] = *times else { bail!("two contenders") };
    let (theirs, verdict) = match (is_refused, own < other) {
        (true, _) => ("refuses it".to_owned(), "yes"),
        (false, is_faster) => {
            (format!("{other:.0} µs, {:.2}×", own / other), if is_faster { "yes" } else { "**no**" })
        }
    };
    writeln!(table, "| `{id}` | {own:.0} µs | {theirs} | – | {verdict} |")?;
    Ok(())
}
