//! The tests: which mutants each reaches, and whether those of a program notice them.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::build::Program;
use crate::listed::Mutant;

/// A mutant may make a test this many times slower, and by this much, before that counts as noticed.
const SLOWER: u32 = 3;
const SLOWER_BY: Duration = Duration::from_secs(20);
/// Memory of a test under a mutant, in bytes of address space.
const MEMORY: &str = "--as=17179869184";

/// One test.
pub struct Test {
    program: PathBuf,
    directory: PathBuf,
    name: String,
    pub took: Duration,
    reached: HashSet<usize>,
}

/// What became of a mutant.
pub enum Verdict {
    /// A test of this program fails.
    Caught(String),
    /// The tests of this program do not end.
    TimedOut(String),
    /// All tests that reach it pass.
    Missed { tests: usize },
}

fn command(program: &Path, directory: &Path, names: &[&str]) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(MEMORY).arg(program).current_dir(directory);
    command.args(["--exact", "--test-threads", "2"]).args(names);
    command.env("CARGO_MANIFEST_DIR", directory).env("CI", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// `None` when the time is over; then everything that it started is ended.
fn run(mut command: Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(if started.elapsed().as_millis() < 200 { 2 } else { 20 }));
    };
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status();
    if status.is_none() {
        child.wait()?;
    }
    Ok(status)
}

/// Calls `work` for every index on `jobs` threads.
fn in_parallel(jobs: usize, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || failed.lock().expect("no thread panics").is_some() {
                        break;
                    }
                    if let Err(error) = work(index) {
                        *failed.lock().expect("no thread panics") = Some(error);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no thread panics").map_or(Ok(()), Err)
}

/// Runs each test alone without a mutant.
pub fn reached(programs: &[Program], work: &Path, jobs: usize) -> Result<Vec<Test>> {
    let mut names = Vec::new();
    for program in programs {
        let output = Command::new(&program.path)
            .args(["--list", "--format", "terse"])
            .current_dir(&program.directory)
            .output()?;
        ensure!(output.status.success(), "{} does not list its tests", program.path.display());
        for line in String::from_utf8(output.stdout)?.lines() {
            if let Some(name) = line.strip_suffix(": test") {
                names.push((program, name.to_owned()));
            }
        }
    }
    eprintln!("{} tests in {} programs", names.len(), programs.len());
    let records = work.join("reached");
    let _ = fs::remove_dir_all(&records);
    fs::create_dir_all(&records)?;
    let tests = Mutex::new(Vec::new());
    let failing = Mutex::new(Vec::new());
    in_parallel(jobs, names.len(), |index| {
        let (program, name) = &names[index];
        let record = records.join(index.to_string());
        let mut command = command(&program.path, &program.directory, &[name]);
        command.env("MUTANTS_REACHED", &record);
        let started = Instant::now();
        let status = run(command, Duration::from_secs(600))?;
        let took = started.elapsed();
        if !status.is_some_and(|status| status.success()) {
            failing.lock().expect("no thread panics").push(format!("{} {name}", program.path.display()));
            return Ok(());
        }
        let bytes = fs::read(&record).unwrap_or_default();
        let reached = bytes
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")) as usize)
            .collect();
        tests.lock().expect("no thread panics").push(Test {
            program: program.path.clone(),
            directory: program.directory.clone(),
            name: name.clone(),
            took,
            reached,
        });
        Ok(())
    })?;
    let failing = failing.into_inner().expect("no thread panics");
    ensure!(failing.is_empty(), "these fail without a mutant:\n{}", failing.join("\n"));
    let mut tests = tests.into_inner().expect("no thread panics");
    tests.sort_by_key(|test| test.took);
    for test in tests.iter().rev().take(10) {
        eprintln!("slow: {:?} {} {}", test.took, test.program.display(), test.name);
    }
    Ok(tests)
}

/// Runs the tests that reach each mutant, programs with fast ones first. Verdicts are appended to `verdicts.txt`. What stands
/// there under the same name as noticed is not asked for again.
pub fn judge(
    tests: &[Test],
    wanted: &[usize],
    mutants: &[Mutant],
    work: &Path,
    jobs: usize,
) -> Result<BTreeMap<usize, Verdict>> {
    let path = work.join("verdicts.txt");
    let mut known = BTreeMap::new();
    for line in fs::read_to_string(&path).unwrap_or_default().lines() {
        let mut parts = line.splitn(3, '\t');
        if let (Some(verdict), Some(of), Some(name)) = (parts.next(), parts.next(), parts.next()) {
            let of = of.to_owned();
            let verdict = match verdict {
                "caught" => Verdict::Caught(of),
                "timed out" => Verdict::TimedOut(of),
                _ => continue,
            };
            known.insert(name.to_owned(), verdict);
        }
    }
    let mut verdicts = BTreeMap::new();
    let mut open = Vec::new();
    for number in wanted {
        match known.remove(&mutants[number - 1].name) {
            Some(verdict) => drop(verdicts.insert(*number, verdict)),
            None => open.push(*number),
        }
    }
    let file = File::options().append(true).create(true).open(&path).context("verdicts.txt")?;
    let results = Mutex::new((verdicts, file, 0));
    in_parallel(jobs, open.len(), |index| {
        let number = open[index];
        let mut verdict = None;
        let reaching: Vec<&Test> = tests.iter().filter(|test| test.reached.contains(&number)).collect();
        // Those of a program together: they share what takes long to make.
        let mut programs: BTreeMap<&Path, Vec<&Test>> = BTreeMap::new();
        for test in &reaching {
            programs.entry(&test.program).or_default().push(test);
        }
        let mut programs: Vec<_> = programs.into_iter().collect();
        programs.sort_by_key(|(_, tests)| tests.iter().map(|test| test.took).max());
        for (program, tests) in programs {
            let names: Vec<_> = tests.iter().map(|test| test.name.as_str()).collect();
            let mut command = command(program, &tests[0].directory, &names);
            command.env("MUTANT_ON", number.to_string());
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let alone: Duration = tests.iter().map(|test| test.took).sum();
            match run(command, alone * SLOWER + SLOWER_BY)? {
                Some(status) if status.success() => {}
                Some(_) => verdict = Some(Verdict::Caught(name)),
                None => verdict = Some(Verdict::TimedOut(name)),
            }
            if verdict.is_some() {
                break;
            }
        }
        let verdict = verdict.unwrap_or(Verdict::Missed { tests: reaching.len() });
        let name = &mutants[number - 1].name;
        let (word, of) = match &verdict {
            Verdict::Caught(test) => ("caught", test.clone()),
            Verdict::TimedOut(test) => ("timed out", test.clone()),
            Verdict::Missed { tests } => ("missed", tests.to_string()),
        };
        let mut results = results.lock().expect("no thread panics");
        writeln!(results.1, "{word}\t{of}\t{name}")?;
        if word != "caught" {
            eprintln!("{word} ({of}): {name}");
        }
        results.2 += 1;
        if results.2 % 100 == 0 {
            eprintln!("{} of {}", results.2, open.len());
        }
        results.0.insert(number, verdict);
        Ok(())
    })?;
    Ok(results.into_inner().expect("no thread panics").0)
}
