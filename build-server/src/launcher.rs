//! Starts the key process, then the engine process and the service, and joins them. It holds no key, opens no device and
//! reads nothing that others send.
//!
//! Engine process and service end together: when one was killed, both are started again beside the same keys. A service
//! that ends by itself ends everything, and so does the launcher's own end: all processes are killed with it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use enclave_keys::process::{hand_over, own_socket, receive, wait_until_ready};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::config::Operations;
use crate::state_directory;

/// How long a killed service stays down.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long the engine process may take to end its daemons once the service has ended.
const ENGINE_ENDS: Duration = Duration::from_secs(60);

/// What is started. Each gets a socket as stdin.
pub struct Programs {
    /// The key process. Its socket brings connections.
    pub keys: Command,
    /// Makes the command of the engine process, once for each start. Its socket is the connection to the service.
    pub engine: Box<dyn Fn() -> Command>,
    /// Makes the command of the service, once for each start. Its socket brings [`Connections`].
    pub service: Box<dyn Fn() -> Command>,
    /// Where the state directory is, and whose: it is made once there is a TEE.
    pub operations: Operations,
    /// Whether engine process and service are started again when one of them was killed.
    pub restart: bool,
}

/// What the launcher gives the service.
pub struct Connections {
    /// To the key process.
    pub keys: UnixStream,
    /// To the engine process.
    pub engine: UnixStream,
}

impl Connections {
    /// The service's side: the connections that come over the socket that is stdin. The process ends with the launcher.
    pub fn of_the_launcher() -> io::Result<Self> {
        let control = own_socket()?;
        let next = || {
            receive(&control)?
                .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it brings nothing"))
        };
        Ok(Self { keys: next()?, engine: next()? })
    }
}

/// Runs all until the service ends by itself; its exit code, or 128 and the signal that killed it.
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
    let (mut control, theirs) = UnixStream::pair().map_err(no_socket)?;
    let name = programs.keys.get_program().to_owned();
    // In a process group of its own: a ^C at the terminal is for the service, which still needs its keys then.
    let mut keys = start(programs.keys, theirs, 0).map_err(|error| format!("{}: {error}", name.display()))?;
    if !wait_until_ready(&mut control) {
        // It has said why.
        let status = keys.wait().await.map_err(|error| error.to_string())?;
        return Ok(ExitCode::from(code(status)));
    }
    state_directory::prepare(&programs.operations).map_err(|error| error.to_string())?;
    let signals = |error: io::Error| format!("signals: {error}");
    let mut asked = Asked {
        terminate: signal(SignalKind::terminate()).map_err(signals)?,
        interrupt: signal(SignalKind::interrupt()).map_err(signals)?,
        stopping: false,
    };
    loop {
        let ended = Pair::start(&control, &*programs.engine, &*programs.service)?.end(&mut asked).await?;
        let killed = match ended {
            Ended::Service(status) if status.signal().is_none() => return Ok(ExitCode::from(code(status))),
            Ended::Service(status) => format!("the service was killed ({status})"),
            Ended::Engine(status) => format!("the engine process has ended ({status})"),
        };
        let code = ExitCode::from(match ended {
            Ended::Service(status) | Ended::Engine(status) => code(status),
        });
        if asked.stopping || !programs.restart {
            eprintln!("{killed}");
            return Ok(code);
        }
        eprintln!("{killed}; the service starts again with the same keys");
        tokio::select! {
            () = tokio::time::sleep(RESTART_AFTER) => {}
            _ = asked.terminate.recv() => return Ok(code),
            _ = asked.interrupt.recv() => return Ok(code),
        }
    }
}

fn no_socket(error: io::Error) -> String {
    format!("no socket pair: {error}")
}

/// The signals that ask for an end.
struct Asked {
    terminate: Signals,
    interrupt: Signals,
    /// One has come.
    stopping: bool,
}

/// Which of the two ended first, and how.
#[derive(Clone, Copy)]
enum Ended {
    Service(ExitStatus),
    Engine(ExitStatus),
}

/// Engine process and service, which live and end together.
struct Pair {
    engine: Child,
    service: Child,
    /// Until the service has taken its connections from it.
    _control: UnixStream,
}

impl Pair {
    fn start(
        keys: &UnixStream,
        engine: &dyn Fn() -> Command,
        service: &dyn Fn() -> Command,
    ) -> Result<Self, String> {
        let (to_keys, for_keys) = UnixStream::pair().map_err(no_socket)?;
        // Fails once the key process has ended; the service then sees its connection end, and says so.
        let _ = hand_over(keys, for_keys);
        let (to_engine, for_engine) = UnixStream::pair().map_err(no_socket)?;
        // In a process group of its own, as the key process.
        let engine =
            start(engine(), for_engine, 0).map_err(|error| format!("the engine process: {error}"))?;
        let (control, for_service) = UnixStream::pair().map_err(no_socket)?;
        let own_group = rustix::process::getpgrp().as_raw_nonzero().get();
        let service =
            start(service(), for_service, own_group).map_err(|error| format!("the service: {error}"))?;
        for connection in [to_keys, to_engine] {
            // Fails once the service has ended, and how it ended is seen below.
            let _ = hand_over(&control, connection);
        }
        Ok(Self { engine, service, _control: control })
    }

    /// Waits until one ends, and sees to it that the other ends too.
    async fn end(mut self, asked: &mut Asked) -> Result<Ended, String> {
        let mut engine_ended = None;
        let ended = loop {
            tokio::select! {
                status = self.service.wait() => break Ended::Service(status.map_err(|error| error.to_string())?),
                status = self.engine.wait(), if engine_ended.is_none() => {
                    let status = status.map_err(|error| error.to_string())?;
                    engine_ended = Some(status);
                    // It ends well when the service has ended the connection, on its own way to the end.
                    if !status.success() {
                        break Ended::Engine(status);
                    }
                    continue;
                }
                _ = asked.terminate.recv() => pass_on(&self.service, Signal::TERM),
                _ = asked.interrupt.recv() => pass_on(&self.service, Signal::INT),
            }
            asked.stopping = true;
        };
        match ended {
            Ended::Engine(_) => {
                let _ = self.service.kill().await;
            }
            Ended::Service(_) if engine_ended.is_none() => {
                // It sees that the service is gone, and ends its daemons.
                if tokio::time::timeout(ENGINE_ENDS, self.engine.wait()).await.is_err() {
                    let _ = self.engine.kill().await;
                }
            }
            Ended::Service(_) => {}
        }
        Ok(ended)
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
