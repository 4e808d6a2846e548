//! `mutants [--work DIR] [--jobs N] [--only TEXT] [--slowest MILLISECONDS] PACKAGE…`: every mutant that cargo-mutants lists
//! for these packages of the workspace, each against the tests that reach it.
//!
//! cargo-mutants builds once for each mutant, which is a day for these crates. Here they are all compiled into one
//! build, each behind a switch that an environment variable turns on. A first run of every test alone tells which
//! mutants it reaches. What cannot be compiled so (constants, types that do not fit) is listed; what cannot be compiled
//! at all cargo-mutants would not count either.

mod build;
mod listed;
mod rewrite;
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use listed::{Genre, Mutant};

/// Packages whose tests are run, and their test programs; `None` for all of them. Most of what starts builds is left out:
/// it takes minutes and reaches these crates only through the others' interfaces.
const TESTED: &[(&str, Option<&[&str]>)] = &[
    ("sealwright-provenance", None),
    ("sealwright-verifier", None),
    ("sealwright-enclave-keys", None),
    (
        "sealwright-tests",
        Some(&[
            "api_connection",
            "api_contexts",
            "attested_tls",
            "bit_flips",
            "client_attestation_request",
            "context_arriving",
            "e2e_processes",
            "endorsements_fetch",
            "endorsements_folder",
            "endorsements_given",
            "kernel_layouts",
            "keys_appraised",
            "keys_batch",
            "keys_certificates",
            "keys_challenge",
            "keys_faked_device",
            "keys_faked_kernel",
            "keys_faked_ultravisor",
            "keys_process",
            "keys_release",
            "keys_sealed",
            "keys_software_tee",
            "keys_tdx",
            "software_ultravisor",
            "tamper",
            "verifier_appraisal",
            "verifier_attached",
            "verifier_azure",
            "verifier_image",
            "verifier_manifest",
            "verifier_secure_execution",
            "verifier_snp_rules",
            "verifier_subjects",
            "verifier_time",
            "verifier_time_judged",
            "verifier_vectors",
            "verifier_verdict",
        ]),
    ),
    ("sealwright-client", None),
    ("sealwright-build-server", None),
];

struct Arguments {
    work: PathBuf,
    jobs: usize,
    only: String,
    /// Tests that take longer alone are not asked: for a first look at what survives.
    slowest: Duration,
    packages: Vec<String>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        work: "target/mutants".into(),
        jobs: 2,
        only: String::new(),
        slowest: Duration::MAX,
        packages: Vec::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--work" => parsed.work = value()?.into(),
            "--jobs" => parsed.jobs = value()?.parse()?,
            "--only" => parsed.only = value()?,
            "--slowest" => parsed.slowest = Duration::from_millis(value()?.parse()?),
            package if !package.starts_with('-') => parsed.packages.push(package.to_owned()),
            _ => bail!("unknown argument {argument}"),
        }
    }
    ensure!(!parsed.packages.is_empty(), "no package; wanted for example: sealwright-verifier");
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let root = std::env::current_dir()?;
    fs::create_dir_all(&arguments.work)?;
    let work = arguments.work.canonicalize()?;
    // What somebody edits meanwhile is of the next run.
    let (source, tree) = (work.join("source"), work.join("tree"));
    copy(&root, &source)?;
    copy(&root, &tree)?;
    let mutants = listed::list(&source, &arguments.packages)?;
    eprintln!("{} mutants", mutants.len());
    let excluded = build::make_compile(&source, &tree, &work.join("build"), &mutants)?;
    for genre in [
        Genre::FnValue,
        Genre::BinaryOperator,
        Genre::UnaryOperator,
        Genre::MatchArm,
        Genre::MatchArmGuard,
        Genre::StructField,
    ] {
        let of = |number: &&usize| mutants[**number - 1].genre == genre;
        eprintln!("left out: {} of {genre:?}", excluded.keys().filter(of).count());
    }
    let programs = build::tests(&tree, &work.join("build"), TESTED)?;
    let mut tests = tests::reached(&programs, &work, arguments.jobs)?;
    tests.retain(|test| test.took <= arguments.slowest);

    let wanted: Vec<usize> = (1..=mutants.len())
        .filter(|number| !excluded.contains_key(number) && mutants[number - 1].name.contains(&arguments.only))
        .collect();
    let verdicts = tests::judge(&tests, &wanted, &mutants, &work, arguments.jobs)?;
    report(&mutants, &excluded, &verdicts, &arguments.only);
    Ok(())
}

/// The files that git knows, and new ones, as they are now.
fn copy(root: &Path, tree: &Path) -> Result<()> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "-co", "--exclude-standard"])
        .output()?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let mut kept = HashSet::new();
    for name in String::from_utf8(output.stdout)?.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), tree.join(name));
        if !from.is_file() {
            continue;
        }
        build::write_if_new(&to, &fs::read(from)?)?;
        kept.insert(to);
    }
    remove_others(tree, &kept)
}

/// What was there in an earlier run and is gone since: a test that is no more would be asked still.
fn remove_others(folder: &Path, kept: &HashSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn report(
    mutants: &[Mutant],
    excluded: &BTreeMap<usize, build::Excluded>,
    verdicts: &BTreeMap<usize, tests::Verdict>,
    only: &str,
) {
    let mut per_package: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate().filter(|(_, mutant)| mutant.name.contains(only)) {
        let counts = per_package.entry(mutant.file.split('/').next().unwrap_or_default()).or_default();
        let number = index + 1;
        match (verdicts.get(&number), excluded.get(&number)) {
            (Some(tests::Verdict::Caught(_)), _) => counts[0] += 1,
            (Some(tests::Verdict::TimedOut(_)), _) => counts[1] += 1,
            (Some(tests::Verdict::Missed { .. }), _) => counts[2] += 1,
            (None, Some(build::Excluded::NoSwitch)) => counts[3] += 1,
            (None, _) => counts[4] += 1,
        }
    }
    for (number, verdict) in verdicts {
        if let tests::Verdict::Missed { tests } = verdict {
            println!("MISSED {} ({tests} tests reach it)", mutants[number - 1].name);
        }
    }
    for (number, reason) in excluded {
        if matches!(reason, build::Excluded::NoSwitch) && mutants[number - 1].name.contains(only) {
            println!("NOT RUN {}", mutants[number - 1].name);
        }
    }
    for (package, [caught, timed_out, missed, not_run, not_compiled]) in per_package {
        let judged = caught + timed_out + missed;
        println!(
            "{package}: {caught} caught, {timed_out} timed out, {missed} missed, {not_run} not run, {not_compiled} do \
             not compile: {:.1} % of {judged}",
            100.0 * (caught + timed_out) as f64 / judged.max(1) as f64
        );
    }
}
