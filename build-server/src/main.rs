//! The shipped build server: settings, TEE, serve, drain. It signs only inside a confidential guest; nothing it
//! reads selects another TEE device or a root of trust.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use build_server::assembly::{Parts, assemble, runtime, sealed_directory};
use build_server::config::{ConfigError, Operations, Trust};
use build_server::launcher::{Programs, launch};
use build_server::service::facts;
use enclave_keys::process::own_socket;
use tokio::signal::unix::{SignalKind, signal};

/// Wrong arguments or configuration (sysexits.h EX_USAGE).
const USAGE: u8 = 64;
/// First argument of the process that the launcher starts.
const SERVICE: &str = "service";

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let (operations, trust) = match arguments().and_then(|(operations, trust)| read(&operations, &trust)) {
        Ok(configuration) => configuration,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(USAGE);
        }
    };
    if !role_is_service() {
        return launch_both(&operations);
    }
    let keys = match own_socket() {
        Ok(keys) => keys,
        Err(error) => {
            eprintln!("refusing to start: `{SERVICE}` is for the launcher, whose socket is stdin: {error}");
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
    let parts = Parts { keys, boundary: Arc::new(|_| ()), plain_http_on_loopback: false };
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

fn role_is_service() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == SERVICE)
}

/// Starts the key process, which lies beside this program, and this program again as the service.
fn launch_both(operations: &Operations) -> ExitCode {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => {
            eprintln!("refusing to start: the own path is not known: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut keys = Command::new(own.with_file_name("enclave-keys"));
    keys.arg("--sealed").arg(sealed_directory(operations));
    let service = Box::new(move || {
        let mut command = Command::new(&own);
        command.arg(SERVICE).args(std::env::args_os().skip(1));
        command
    });
    launch(Programs { keys, service, restart: true })
}

/// `--operations FILE --trust FILE`, nothing else.
fn arguments() -> Result<(PathBuf, PathBuf), String> {
    let (mut operations, mut trust) = (None, None);
    let mut arguments = std::env::args_os().skip(1 + usize::from(role_is_service()));
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
