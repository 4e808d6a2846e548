//! `make bench`: speed and memory of a build server beside `buildctl` on the same daemon.
//!
//! Both sides take turns in every row, so that what else the machine does hits both; the figures are medians.
//! Prints docs/benchmarks.md on stdout and progress on stderr. Words on the command line choose rows.

mod contexts;
mod measure;
mod report;
mod rows;

use std::process::ExitCode;

use anyhow::Result;
use report::Report;
use rows::Bench;

/// A group of rows.
struct Group {
    name: &'static str,
    run: fn(&mut Bench, &mut Report) -> Result<()>,
}

/// In the order of the table; memory comes last, because it looks back at all of them.
const GROUPS: &[Group] = &[
    Group { name: "start", run: Bench::start },
    Group { name: "cached", run: Bench::cached },
    Group { name: "push", run: Bench::push },
    Group { name: "files", run: Bench::many_files },
    Group { name: "gigabyte", run: Bench::gigabyte },
    Group { name: "verify", run: Bench::verify },
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| GROUPS.iter().all(|group| group.name != **name)) {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        eprintln!("error: no row `{unknown}`; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<()> {
    let mut report = Report::new();
    let mut bench = Bench::new()?;
    for group in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|name| name == group.name) {
            eprintln!("== {}", group.name);
            (group.run)(&mut bench, &mut report)?;
        }
    }
    #[allow(clippy::print_stdout, reason = "the table is this program's data")]
    {
        println!("{}", report.markdown());
    }
    Ok(())
}
