//! The `sealwright` command. Data goes to standard output, everything for people to standard error; exit codes
//! are those of `docs/cli.md`.
#![forbid(unsafe_code)]

mod commands;

fn main() -> std::process::ExitCode {
    commands::run()
}
