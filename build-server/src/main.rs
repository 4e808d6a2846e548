//! The shipped build server: settings, TEE, serve, drain. It signs only inside a confidential guest; nothing it
//! reads selects another TEE device or a root of trust.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use build_server::assembly::{Parts, assemble, runtime};
use build_server::config::{ConfigError, Operations, Trust};
use build_server::service::facts;
use tokio::signal::unix::{SignalKind, signal};

/// Wrong arguments or configuration (sysexits.h EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let (operations, trust) = match arguments().and_then(|(operations, trust)| read(&operations, &trust)) {
        Ok(configuration) => configuration,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(USAGE);
        }
    };
    let attester = match enclave_keys::detect() {
        Ok(attester) => attester,
        Err(no_tee) => {
            eprintln!("refusing to start: {no_tee}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match runtime(&operations) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("refusing to start: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let parts = Parts { attester, boundary: Arc::new(|_| ()), plain_http_on_loopback: false };
    match runtime.block_on(serve(&operations, &trust, parts)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(operations: &Operations, trust: &Trust, parts: Parts) -> Result<(), String> {
    let refuse = |problem: &dyn std::fmt::Display| format!("refusing to start: {problem}");
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| refuse(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| refuse(&error))?;
    let assembled = assemble(operations, trust, parts).await.map_err(|error| refuse(&error))?;
    for fact in facts(&assembled.server, &assembled.keys, operations) {
        eprintln!("{fact}");
    }
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("stopping   no new builds; running ones have {} to end", operations.drain);
    };
    assembled.server.run_until(shutdown).await.map_err(|error| error.to_string())
}

/// `--operations FILE --trust FILE`, nothing else.
fn arguments() -> Result<(PathBuf, PathBuf), String> {
    let (mut operations, mut trust) = (None, None);
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: build-server --operations FILE --trust FILE";
    while let Some(argument) = arguments.next() {
        let place = match argument.to_str() {
            Some("--operations") => &mut operations,
            Some("--trust") => &mut trust,
            _ => return Err(format!("unknown argument `{}`\n{usage}", argument.display())),
        };
        let value =
            arguments.next().ok_or_else(|| format!("`{}` needs a file\n{usage}", argument.display()))?;
        if place.replace(PathBuf::from(value)).is_some() {
            return Err(format!("`{}` is given twice\n{usage}", argument.display()));
        }
    }
    operations.zip(trust).ok_or_else(|| format!("both files are needed\n{usage}"))
}

fn read(operations: &std::path::Path, trust: &std::path::Path) -> Result<(Operations, Trust), String> {
    let told = |error: ConfigError| format!("{error}\ndocs/configuration.md describes every key");
    Ok((Operations::read(operations).map_err(told)?, Trust::read(trust).map_err(told)?))
}
