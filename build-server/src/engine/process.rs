//! The loop of the engine process: one connection, any number of daemons.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use enclave_keys::process::{Frame, FrameError};
use provenance::project::ProjectId;

use super::config::EngineConfig;
use super::daemon::{Daemon, END_LIMIT, SETPRIV, UNSHARE, private_directory};
use super::programs::program;
use super::protocol::{Begun, EngineAnswer, EngineRequest, MAX_ENGINE_FRAME, StartFailure};
use super::runtime::Runtime;

/// How long the service may leave an answer unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Why the engine process has ended the connection: the service did not keep to the interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionEnded {
    /// What came is no frame.
    #[error("the service sent what is no frame: {0}")]
    Frame(FrameError),
    /// A frame holds something else.
    #[error("the service sent what is no request: {0}")]
    Request(String),
    /// The first request was another, or came again.
    #[error("the service asked for `{got}`, wanted `begin`, first and once")]
    Order {
        /// What it asked for.
        got: &'static str,
    },
    /// A start that does not have a number above all before it.
    #[error("the service started a daemon under number {got}, wanted one above {last}")]
    Number {
        /// Its number.
        got: u64,
        /// The highest so far.
        last: u64,
    },
    /// Something about a daemon that was never started.
    #[error("the service asked to end daemon {got}, the last that was started is {last}")]
    Unknown {
        /// Its number.
        got: u64,
        /// The highest so far.
        last: u64,
    },
}

/// Answers the service. See the module.
pub struct EngineProcess {
    config: Arc<EngineConfig>,
    writer: Arc<Writer>,
    reader: BufReader<UnixStream>,
}

struct Writer(Mutex<UnixStream>);

impl Writer {
    /// Sends an answer. When it cannot be sent, the connection is ended for the reader too.
    fn send(&self, number: u64, answer: &EngineAnswer) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Frame::of(number, answer).write(&mut *stream, MAX_ENGINE_FRAME).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn end(&self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }
}

/// What runs once the service has asked for it.
struct Running {
    config: Arc<EngineConfig>,
    runtime: Arc<Runtime>,
    writer: Arc<Writer>,
    daemons: BTreeMap<u64, Watched>,
    last: u64,
}

/// A daemon, and the thread that watches it.
type Watched = (Arc<Daemon>, JoinHandle<()>);

impl EngineProcess {
    /// Prepares nothing before the service asks.
    pub fn new(config: EngineConfig, connection: UnixStream) -> io::Result<Self> {
        connection.set_write_timeout(Some(WRITE_DEADLINE))?;
        let writer = Arc::new(Writer(Mutex::new(connection.try_clone()?)));
        Ok(Self { config: Arc::new(config), writer, reader: BufReader::new(connection) })
    }

    /// Answers until the connection ends; then no daemon runs any more and nothing of them is left.
    pub fn serve(mut self) -> Result<(), ConnectionEnded> {
        let Some((number, request)) = read(&mut self.reader)? else { return Ok(()) };
        if request != (EngineRequest::Begin {}) {
            return Err(ConnectionEnded::Order { got: name(&request) });
        }
        let (runtime, begun) = match begin(&self.config) {
            Ok(begun) => begun,
            Err(problem) => {
                self.writer.send(number, &EngineAnswer::Refused { problem });
                return Ok(());
            }
        };
        self.writer.send(number, &EngineAnswer::Begun(begun));
        let mut running = Running {
            config: self.config,
            runtime: Arc::new(runtime),
            writer: self.writer.clone(),
            daemons: BTreeMap::new(),
            last: 0,
        };
        let ended = running.answer(&mut self.reader);
        running.end();
        // Tells the service, also when a daemon that does not end holds the connection.
        self.writer.end();
        ended
    }
}

fn read(reader: &mut BufReader<UnixStream>) -> Result<Option<(u64, EngineRequest)>, ConnectionEnded> {
    let frame = match Frame::read(reader, MAX_ENGINE_FRAME) {
        Ok(Some(frame)) => frame,
        // A service that is killed may leave half a frame, or answers that it has not read.
        Ok(None) | Err(FrameError::Io(_)) => return Ok(None),
        Err(error) => return Err(ConnectionEnded::Frame(error)),
    };
    let request = frame.parse().map_err(|error| ConnectionEnded::Request(error.to_string()))?;
    Ok(Some((frame.number, request)))
}

fn name(request: &EngineRequest) -> &'static str {
    match request {
        EngineRequest::Begin {} => "begin",
        EngineRequest::Start { .. } => "start",
        EngineRequest::Stop {} => "stop",
        EngineRequest::Kill {} => "kill",
    }
}

/// Checks the settings and prepares the engine's directory. Starts no daemon.
fn begin(config: &EngineConfig) -> Result<(Runtime, Begun), String> {
    for program in [&config.buildkitd, &config.runc, Path::new(SETPRIV), Path::new(UNSHARE)] {
        let executable =
            fs::metadata(program).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if !program.is_absolute() || !executable {
            return Err(format!("{} is not an absolute path of a program", program.display()));
        }
    }
    if !config.root.is_absolute() {
        return Err(format!("engine directory {} must be absolute", config.root.display()));
    }
    private_directory(&config.root).map_err(|failure| failure.to_string())?;
    let runtime = Runtime::new(&config.root, config.service)?;
    let begun = Begun {
        buildkitd: program(&config.buildkitd)?,
        runc: program(&config.runc)?,
        trust_sha256: config.trust_sha256,
    };
    Ok((runtime, begun))
}

impl Running {
    fn answer(&mut self, reader: &mut BufReader<UnixStream>) -> Result<(), ConnectionEnded> {
        while let Some((number, request)) = read(reader)? {
            self.daemons.retain(|_, (_, thread)| !thread.is_finished());
            match request {
                EngineRequest::Begin {} => return Err(ConnectionEnded::Order { got: name(&request) }),
                EngineRequest::Start { project } => {
                    if number <= self.last {
                        return Err(ConnectionEnded::Number { got: number, last: self.last });
                    }
                    self.last = number;
                    if let Err(failure) = self.start(number, project) {
                        self.writer.send(number, &EngineAnswer::Failed(failure));
                    }
                }
                EngineRequest::Stop {} | EngineRequest::Kill {} => {
                    if number == 0 || number > self.last {
                        return Err(ConnectionEnded::Unknown { got: number, last: self.last });
                    }
                    // One that is not there any more has ended by itself in the meantime.
                    let Some((daemon, _)) = self.daemons.get(&number) else { continue };
                    if request == (EngineRequest::Stop {}) { daemon.stop() } else { daemon.kill() }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, number: u64, project: ProjectId) -> Result<(), StartFailure> {
        let mut latest_first = self.daemons.values().rev().map(|(daemon, _)| daemon);
        let before = latest_first.find(|daemon| daemon.project == project).cloned();
        if before.as_ref().is_some_and(|before| before.is_wanted()) {
            return Err(StartFailure::Running {});
        }
        // A thread whose daemon has ended may still be saying so.
        let running = self.daemons.values().filter(|(daemon, _)| !daemon.has_ended()).count();
        if running >= self.config.max_daemons {
            return Err(StartFailure::TooMany { limit: self.config.max_daemons });
        }
        let daemon = Daemon::new(project);
        let (config, runtime, writer) = (self.config.clone(), self.runtime.clone(), self.writer.clone());
        let running = daemon.clone();
        let run = move || {
            let started = |started| writer.send(number, &EngineAnswer::Started(started));
            let answer = match running.run(&config, &runtime, before.as_deref(), started) {
                Ok(log) => EngineAnswer::Ended { log },
                Err(failure) => EngineAnswer::Failed(failure),
            };
            writer.send(number, &answer);
        };
        let thread = std::thread::Builder::new().name("buildkitd".to_owned()).spawn(run);
        let thread = thread.map_err(|error| StartFailure::of(format!("cannot start a thread: {error}")))?;
        self.daemons.insert(number, (daemon, thread));
        Ok(())
    }

    /// Ends all daemons and removes their names.
    fn end(self) {
        for (daemon, _) in self.daemons.values() {
            daemon.kill();
        }
        for (daemon, thread) in self.daemons.into_values() {
            if daemon.ends_within(END_LIMIT) {
                // It ends with its daemon; one that panicked has told.
                let _ = thread.join();
            } else {
                tracing::error!(project = %daemon.project, "its daemon does not end");
            }
        }
        self.runtime.remove();
    }
}
