//! The mutants as `cargo mutants --list --json` gives them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// One change of the source.
#[derive(Debug, Clone, Deserialize)]
pub struct Mutant {
    /// Path from the root of the repository.
    pub file: String,
    /// `file:line:column: what is changed in which function`.
    pub name: String,
    /// What kind of change.
    pub genre: Genre,
    /// Text that takes the span's place.
    pub replacement: String,
    /// What is replaced.
    pub span: Span,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Genre {
    /// The body of a function becomes one value.
    FnValue,
    /// Another operator.
    BinaryOperator,
    /// An operator less.
    UnaryOperator,
    /// An arm less, in a match that has a wildcard.
    MatchArm,
    /// A guard that always or never holds.
    MatchArmGuard,
    /// A field less, in a struct expression with a base.
    StructField,
}

/// A range of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct Span {
    pub start: Place,
    pub end: Place,
}

/// Line and column, both counted from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// All mutants of these packages. What cargo-mutants numbers by position is numbered from 1 here.
pub fn list(root: &Path, packages: &[String]) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--list", "--json"]);
    for package in packages {
        command.args(["-p", package]);
    }
    let output = command.output().context("cargo mutants; wanted: `cargo install --locked cargo-mutants`")?;
    ensure!(output.status.success(), "cargo mutants: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
