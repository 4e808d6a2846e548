//! The command layer: flags in, one library call after the other, exit code out.

mod appraise;
mod args;
mod build;
mod builds;
mod endorsements;
mod failure;
mod inspect;
mod interrupt;
mod keys;
mod output;
mod policy;
mod setup;
mod summary;
mod timestamp;
mod verify;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};
use client::config::Setting;

use self::args::{Cli, Command, ConfigCommand, EndorsementsCommand, PolicyCommand};
use self::failure::Failure;
use self::output::Output;
use self::setup::Setup;

/// Runs the command line of this process.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misuse(&error),
    };
    let setup = Setup::gather(&cli.global);
    let color = match &setup {
        Ok(setup) => setup.settings.value(Setting::Color),
        Err(_) => cli.global.color.as_deref(),
    };
    let output = Output::new(cli.global.json, color);
    match dispatch(cli.command, setup, &output) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

/// What clap could not read, or the help that was asked for.
fn misuse(error: &clap::Error) -> ExitCode {
    // The flags were not read, so this one is looked for by hand.
    let output = Output::new(std::env::args_os().any(|argument| argument == "--json"), None);
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => flag.as_str(),
        _ => "",
    };
    if let Some(why) = args::why_absent(flag) {
        let failure = Failure::usage(format!("{flag} of `docker buildx build` is not there: {why}"));
        output.failure(&failure);
        return ExitCode::from(failure.exit);
    }
    // clap prints help to stdout and misuse to stderr, and its codes are 0 and 2.
    if error.use_stderr() && output.is_json() {
        output.failure_document(&usage(error));
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The whole of what clap says, without the usage: its tips are what to do.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let said = text.split("\nUsage: ").next().unwrap_or_default();
    let said = said.split("\nFor more information").next().unwrap_or_default();
    let (tips, lines): (Vec<&str>, Vec<&str>) = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .partition(|line| line.starts_with("tip: "));
    let failure = Failure::usage(lines.join(" ").trim_start_matches("error: "));
    tips.iter().fold(failure, |failure, tip| failure.advise(tip.trim_start_matches("tip: ")))
}

fn dispatch(command: Command, setup: Result<Setup, Failure>, output: &Output) -> Result<u8, Failure> {
    // Needs no settings, so a broken configuration file does not stop it.
    if let Command::Completion { shell } = command {
        clap_complete::generate(shell, &mut Cli::command(), "sealwright", &mut std::io::stdout());
        return Ok(0);
    }
    let setup = setup?;
    match command {
        Command::Build(args) => build::run(&args, &setup, output),
        Command::Verify(args) => verify::run(&args, &setup, output),
        Command::Appraise(args) => appraise::run(&args, &setup, output),
        Command::Timestamp(args) => timestamp::run(&args, output),
        Command::Inspect(args) => inspect::run(&args, output),
        Command::Get { build } => builds::get(&build, &setup, output),
        Command::List(args) => builds::list(&args, &setup, output),
        Command::Logs(args) => builds::logs(&args, &setup, output),
        Command::Cancel { build } => builds::cancel(&build, &setup, output),
        Command::Download(args) => builds::download(&args, &setup, output),
        Command::Key(command) => keys::key(&command, &setup, output),
        Command::Project(command) => keys::project(&command, &setup, output),
        Command::Policy(PolicyCommand::Init(args)) => policy::init(&args, &setup, output),
        Command::Policy(PolicyCommand::Check { file }) => policy::check(file.as_deref(), &setup, output),
        Command::Policy(PolicyCommand::Explain { file }) => policy::explain(file.as_deref(), &setup, output),
        Command::Policy(PolicyCommand::AddReference(args)) => policy::add_reference(&args, output),
        Command::Endorsements(EndorsementsCommand::Fetch(args)) => endorsements::fetch(&args, &setup, output),
        Command::Config(ConfigCommand::Show) => setup::show(&setup, output),
        Command::Completion { .. } => Ok(0),
    }
}
