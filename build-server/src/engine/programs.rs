//! Which programs the daemons are: digest and version, for the instance document.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use provenance::digest::{Sha256Digest, Sha256Hasher};
use provenance::instance::Program;

/// Digest and version of a program. It runs once, to be asked for its version. The error says what was seen and wanted.
pub(super) fn program(path: &Path) -> Result<Program, String> {
    let failed =
        |problem: String| format!("{}: {problem}; wanted a program that prints its version", path.display());
    let sha256 = hash_file(path).map_err(|error| failed(error.to_string()))?;
    let output = Command::new(path).arg("--version").output().map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `buildkitd github.com/moby/buildkit v0.33.1` and `runc version 1.5.2`: the last word of the first line.
    let version = text
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().last())
        .filter(|_| output.status.success())
        .ok_or_else(|| failed(format!("`--version` printed `{}`", text.trim())))?;
    Ok(Program { sha256, version: version.trim_start_matches('v').to_owned() })
}

fn hash_file(path: &Path) -> io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
