//! The build with all mutants in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::listed::Mutant;
use crate::rewrite::rewrite;

/// The function that tells whether a mutant is on lies in this crate, which all others use.
const HOME: &str = "provenance";

/// Why a mutant is not in the build.
#[derive(Debug, Clone, Copy)]
pub enum Excluded {
    /// It does not compile: its types do not fit.
    DoesNotCompile,
    /// It cannot be behind a switch: it is in a constant or what makes one, or this program does not know how.
    NoSwitch,
}

/// Writes a file unless it stands there already, so that cargo sees what has changed.
pub fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn cargo(tree: &Path, build: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(tree).env("CARGO_TARGET_DIR", build).env("CARGO_INCREMENTAL", "1");
    // Names of mutated code are not to be warned about; dead loops are to fail, not to stop a compiler.
    command.env("RUSTFLAGS", "--cap-lints=allow");
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "0");
    command
}

/// Writes the mutants into `tree` until it compiles; gives those that cannot be in it.
pub fn make_compile(
    root: &Path,
    tree: &Path,
    build: &Path,
    mutants: &[Mutant],
) -> Result<BTreeMap<usize, Excluded>> {
    let mut excluded = BTreeMap::new();
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate() {
        files.entry(&mutant.file).or_default().push((index + 1, mutant));
    }
    write_if_new(&tree.join(HOME).join("src/mutant_switch.rs"), include_bytes!("switch.rs.txt"))?;
    let lib = Path::new(HOME).join("src/lib.rs");
    let text = fs::read_to_string(root.join(&lib))?;
    ensure!(
        !files.contains_key(lib.to_str().unwrap_or_default()),
        "{} has mutants of its own",
        lib.display()
    );
    write_if_new(&tree.join(&lib), format!("{text}\n#[doc(hidden)]\npub mod mutant_switch;\n").as_bytes())?;
    // Functions that make constants.
    let mut constant = HashSet::new();
    for round in 1.. {
        let mut places: HashMap<PathBuf, Vec<(Range<usize>, usize)>> = HashMap::new();
        for (file, of) in &files {
            let of: Vec<_> =
                of.iter().filter(|(number, _)| !excluded.contains_key(number)).copied().collect();
            let crate_name = if file.starts_with(HOME) { "crate" } else { "::provenance" };
            let source = fs::read_to_string(root.join(file))?;
            let rewritten = rewrite(&source, &of, &format!("{crate_name}::mutant_switch::on"), &constant)
                .with_context(|| (*file).to_owned())?;
            for (number, _) in &of {
                if rewritten.no_syntax.contains(number) {
                    excluded.insert(*number, Excluded::DoesNotCompile);
                } else if !rewritten.contained.contains(number) {
                    excluded.insert(*number, Excluded::NoSwitch);
                }
            }
            write_if_new(&tree.join(file), rewritten.text.as_bytes())?;
            places.insert(PathBuf::from(file), rewritten.places);
        }
        let (errors, called) = errors(tree, build)?;
        if errors.is_empty() {
            eprintln!("compiles in round {round}, without {} mutants", excluded.len());
            return Ok(excluded);
        }
        let before = (excluded.len(), constant.len());
        constant.extend(called);
        for (file, at, reason) in &errors {
            let hit = places.get(file).into_iter().flatten();
            // The innermost alone: what is around it is found in a later round if it is at fault.
            let innermost = hit
                .filter(|(range, _)| range.start < at.end && at.start < range.end)
                .min_by_key(|(range, _)| range.len());
            let Some((range, _)) = innermost else { continue };
            let range = range.clone();
            for (_, number) in places[file].iter().filter(|(other, _)| *other == range) {
                excluded.insert(*number, *reason);
            }
        }
        eprintln!("round {round}: {} errors, {} mutants left out", errors.len(), excluded.len());
        if (excluded.len(), constant.len()) == before {
            let (file, at, _) = &errors[0];
            bail!("{}: an error at byte {} that no mutant causes", file.display(), at.start);
        }
    }
    unreachable!("the rounds do not end by themselves")
}

/// Places of errors, in bytes of the rewritten files, and what follows for a mutant there.
type Errors = Vec<(PathBuf, Range<usize>, Excluded)>;

/// Errors, and names of functions that are called where constants are made.
fn errors(tree: &Path, build: &Path) -> Result<(Errors, HashSet<String>)> {
    let mut command = cargo(tree, build);
    command.args([
        "check",
        "--locked",
        "--keep-going",
        "--message-format=json",
        "--lib",
        "--bins",
        "--tests",
    ]);
    // With all that may make constants from what lies in these crates.
    for package in ["provenance", "verifier", "enclave-keys", "client", "build-server", "tests"] {
        command.args(["-p", &format!("sealwright-{package}")]);
    }
    let output = command.stderr(Stdio::piped()).output()?;
    let (mut found, mut called) = (Vec::new(), HashSet::new());
    for message in messages(&output.stdout) {
        if message["reason"] != "compiler-message" || message["message"]["level"] != "error" {
            continue;
        }
        let text = message["message"]["message"].as_str().unwrap_or_default();
        // cannot call non-const associated function `Type::name` in constants
        if text.starts_with("cannot call non-const")
            && let Some(name) = text.split('`').nth(1).and_then(|path| path.rsplit("::").next())
            && name != "on"
        {
            called.insert(name.to_owned());
        }
        for mut span in message["message"]["spans"].as_array().into_iter().flatten() {
            // The switch is not const.
            let reason = match message["message"]["code"]["code"].as_str() {
                Some("E0015") => Excluded::NoSwitch,
                _ => Excluded::DoesNotCompile,
            };
            let primary = span["is_primary"] == true;
            // In a macro: where it is called.
            while span["expansion"]["span"].is_object() {
                span = &span["expansion"]["span"];
            }
            let number = |name: &str| usize::try_from(span[name].as_u64().unwrap_or(0)).unwrap_or(0);
            if primary && let Some(file) = span["file_name"].as_str() {
                found.push((PathBuf::from(file), number("byte_start")..number("byte_end"), reason));
            }
        }
    }
    ensure!(
        output.status.success() || !found.is_empty(),
        "cargo check: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((found, called))
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Value> + '_ {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// A test program.
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Folder in which cargo runs it.
    pub directory: PathBuf,
}

/// Builds the test programs.
pub fn tests(tree: &Path, build: &Path, tested: &[(&str, Option<&[&str]>)]) -> Result<Vec<Program>> {
    let mut bins = cargo(tree, build);
    bins.args(["build", "--locked", "--bins", "-p", "sealwright-client", "-p", "sealwright-build-server"]);
    bins.args(["-p", "sealwright-enclave-keys", "-p", "sealwright-tests"]);
    ensure!(bins.status()?.success(), "the programs do not build");
    let mut programs = Vec::new();
    for (package, targets) in tested {
        let mut command = cargo(tree, build);
        command.args(["test", "--locked", "--no-run", "--message-format=json", "-p", package]);
        match targets {
            None => command.args(["--lib", "--bins", "--tests"]),
            Some(targets) => command.args(targets.iter().flat_map(|target| ["--test", target])),
        };
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the tests of {package} do not build");
        for message in messages(&output.stdout) {
            let manifest = message["manifest_path"].as_str().map(Path::new).and_then(Path::parent);
            if let (Some(path), Some(directory), true) =
                (message["executable"].as_str(), manifest, message["profile"]["test"] == true)
            {
                programs.push(Program { path: path.into(), directory: directory.to_owned() });
            }
        }
    }
    Ok(programs)
}
