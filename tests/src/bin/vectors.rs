//! `vectors [DIR]`: answers every case of a folder of recorded Evidence, one line each, and says how many answers are
//! as its `index.json` states. DIR is `SEALWRIGHT_VECTORS` or `../shared/vectors` if it is not given.
//!
//! Exit code 0 when all are, 1 when one is not, 2 when there is no such folder or its index does not parse.

#![allow(clippy::print_stdout, reason = "the lines are this program's data")]

use std::path::PathBuf;
use std::process::ExitCode;

use sealwright_tests::vectors;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map(PathBuf::from).or_else(vectors::folder);
    let (Some(folder), None) = (folder, arguments.next()) else {
        eprintln!("usage: vectors [DIR]");
        return ExitCode::from(2);
    };
    let outcomes = match vectors::run(&folder) {
        Ok(outcomes) => outcomes,
        Err(problem) => {
            eprintln!("vectors: {problem}");
            eprintln!(
                "what to do: recorded Evidence is not part of the repository; name its folder: make vectors DIR=FOLDER, or set SEALWRIGHT_VECTORS"
            );
            return ExitCode::from(2);
        }
    };
    for outcome in &outcomes {
        println!("{outcome}");
    }
    println!("{}", vectors::summary(&outcomes));
    ExitCode::from(u8::from(!outcomes.iter().all(vectors::Outcome::is_as_expected)))
}
