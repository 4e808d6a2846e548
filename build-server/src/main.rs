//! The shipped build server: settings, TEE, serve, drain. It signs only inside a confidential guest; nothing it
//! reads selects another TEE device or a root of trust.
//!
//! It is the launcher, and again, with a first argument that only the launcher gives, the engine process and the service.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use build_server::assembly::{Parts, assemble, runtime};
use build_server::config::{ConfigError, Operations, Trust};
use build_server::engine::{EngineConfig, EngineProcess};
use build_server::launcher::{Connections, Programs, launch};
use build_server::privileges;
use build_server::service::facts;
use enclave_keys::process::own_socket;
use tokio::signal::unix::{SignalKind, signal};

/// Wrong arguments or configuration (sysexits.h EX_USAGE).
const USAGE: u8 = 64;

/// Which of the processes this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Launcher,
    Engine,
    Service,
}

impl Role {
    /// First arguments of the processes that the launcher starts.
    const ENGINE: &str = "engine";
    const SERVICE: &str = "service";

    fn of_the_arguments() -> Self {
        match std::env::args_os().nth(1) {
            Some(first) if first == Self::ENGINE => Self::Engine,
            Some(first) if first == Self::SERVICE => Self::Service,
            _ => Self::Launcher,
        }
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let role = Role::of_the_arguments();
    let (operations, trust) = match arguments(role).and_then(|(operations, trust)| read(&operations, &trust))
    {
        Ok(configuration) => configuration,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(USAGE);
        }
    };
    let ended = match role {
        Role::Launcher => launch_all(operations),
        Role::Engine => run_engine(&operations, &trust).map(|()| ExitCode::SUCCESS),
        Role::Service => run_service(&operations, &trust).map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|problem| {
        eprintln!("{problem}");
        ExitCode::FAILURE
    })
}

fn refused(problem: &dyn std::fmt::Display) -> String {
    format!("refusing to start: {problem}")
}

fn not_launched(error: &dyn std::fmt::Display) -> String {
    refused(&format!("`engine` and `service` are for the launcher, whose socket is stdin: {error}"))
}

fn run_engine(operations: &Operations, trust: &Trust) -> Result<(), String> {
    let connection = own_socket().map_err(|error| not_launched(&error))?;
    let process = EngineProcess::new(EngineConfig::of(operations, trust), connection);
    process.map_err(|error| refused(&error))?.serve().map_err(|error| error.to_string())
}

fn run_service(operations: &Operations, trust: &Trust) -> Result<(), String> {
    let Connections { keys, engine } =
        Connections::of_the_launcher().map_err(|error| not_launched(&error))?;
    privileges::give_up(operations).map_err(|error| refused(&error))?;
    let runtime = runtime(operations).map_err(|error| refused(&format!("no threads: {error}")))?;
    let parts = Parts { keys, engine, boundary: Arc::new(|_| ()), plain_http_on_loopback: false };
    runtime.block_on(serve(operations, trust, parts))
}

async fn serve(operations: &Operations, trust: &Trust, parts: Parts) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| refused(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| refused(&error))?;
    let assembled = assemble(operations, trust, parts).await.map_err(|error| refused(&error))?;
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

/// Starts the key process, which lies beside this program, and this program twice again.
fn launch_all(operations: Operations) -> Result<ExitCode, String> {
    privileges::require_root(&operations).map_err(|error| refused(&error))?;
    let own =
        std::env::current_exe().map_err(|error| refused(&format!("the own path is not known: {error}")))?;
    let mut keys = Command::new(own.with_file_name("enclave-keys"));
    keys.arg("--sealed").arg(operations.keys_directory());
    let again = move |role: &'static str| {
        let own = own.clone();
        let command = move || {
            let mut command = Command::new(&own);
            command.arg(role).args(std::env::args_os().skip(1));
            command
        };
        Box::new(command) as Box<dyn Fn() -> Command>
    };
    let (engine, service) = (again(Role::ENGINE), again(Role::SERVICE));
    Ok(launch(Programs { keys, engine, service, operations, restart: true }))
}

/// `--operations FILE --trust FILE`, nothing else.
fn arguments(role: Role) -> Result<(PathBuf, PathBuf), String> {
    let (mut operations, mut trust) = (None, None);
    let mut arguments = std::env::args_os().skip(1 + usize::from(role != Role::Launcher));
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
