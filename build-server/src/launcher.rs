//! Starts the key process, then the service, and joins them. It holds no key, opens no device and reads nothing that
//! others send.
//!
//! A service that was killed is started again beside the same keys; a service that ends by itself ends everything, and
//! so does the launcher's own end: both processes are killed with it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use enclave_keys::process::{hand_over, wait_until_ready};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

/// How long a killed service stays down.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What is started. Both get their socket as stdin.
pub struct Programs {
    /// The key process.
    pub keys: Command,
    /// Makes the command of the service, once for each start.
    pub service: Box<dyn Fn() -> Command>,
    /// Whether a killed service is started again.
    pub restart: bool,
}

/// Runs both until the service ends by itself; its exit code, or 128 and the signal that killed it.
pub fn launch(programs: Programs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("no event loop: {error}")),
    };
    runtime.block_on(run(programs)).unwrap_or_else(|problem| refuse(&problem))
}

fn refuse(problem: &str) -> ExitCode {
    eprintln!("refusing to start: {problem}");
    ExitCode::FAILURE
}

async fn run(programs: Programs) -> Result<ExitCode, String> {
    let socket = |error: io::Error| format!("no socket pair: {error}");
    let (mut control, theirs) = UnixStream::pair().map_err(socket)?;
    let name = programs.keys.get_program().to_owned();
    // In a process group of its own: a ^C at the terminal is for the service, which still needs its keys then.
    let mut keys = start(programs.keys, theirs, 0).map_err(|error| format!("{}: {error}", name.display()))?;
    if !wait_until_ready(&mut control) {
        // It has said why.
        let status = keys.wait().await.map_err(|error| error.to_string())?;
        return Ok(ExitCode::from(code(status)));
    }
    let signals = |error: io::Error| format!("signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut stopping = false;
    loop {
        let (ours, theirs) = UnixStream::pair().map_err(socket)?;
        // Fails once the key process has ended; the service then sees its connection end, and says so.
        let _ = hand_over(&control, theirs);
        let command = (programs.service)();
        let own_group = rustix::process::getpgrp().as_raw_nonzero().get();
        let mut service = start(command, ours, own_group).map_err(|error| format!("the service: {error}"))?;
        let status = loop {
            tokio::select! {
                status = service.wait() => break status.map_err(|error| error.to_string())?,
                _ = terminate.recv() => pass_on(&service, Signal::TERM),
                _ = interrupt.recv() => pass_on(&service, Signal::INT),
            }
            stopping = true;
        };
        if status.signal().is_none() || stopping || !programs.restart {
            return Ok(ExitCode::from(code(status)));
        }
        eprintln!("the service was killed ({status}); it starts again with the same keys");
        tokio::select! {
            () = tokio::time::sleep(RESTART_AFTER) => {}
            _ = terminate.recv() => return Ok(ExitCode::from(code(status))),
            _ = interrupt.recv() => return Ok(ExitCode::from(code(status))),
        }
    }
}

fn start(mut command: Command, stdin: UnixStream, process_group: i32) -> io::Result<Child> {
    command.stdin(Stdio::from(OwnedFd::from(stdin))).process_group(process_group);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).spawn()
}

fn pass_on(service: &Child, signal: Signal) {
    let pid = service.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in between, and then needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// As a shell counts.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
