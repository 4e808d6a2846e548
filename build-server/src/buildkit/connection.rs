//! Asks the engine process for daemons.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enclave_keys::process::Frame;
use provenance::project::ProjectId;
use tokio::sync::{oneshot, watch};

use super::error::EngineError;
use crate::engine::{Begun, EngineAnswer, EngineRequest, MAX_ENGINE_FRAME, StartFailure, StartedDaemon};

/// How long the engine process may take to look at its programs.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// How long it may leave a request unread.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end all daemons.
const END_LIMIT: Duration = Duration::from_secs(60);

/// What is known of a daemon's end.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// It runs.
    NotYet,
    /// It has ended, with these last log lines.
    Ended(Vec<String>),
}

impl End {
    pub(super) fn has_come(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// Who waits to hear of a daemon.
struct Waiting {
    started: Option<oneshot::Sender<Result<StartedDaemon, StartFailure>>>,
    ended: watch::Sender<End>,
}

/// `None` once the connection has ended.
type Daemons = Option<HashMap<u64, Waiting>>;

/// The connection to the engine process.
pub(super) struct Connection {
    writer: Mutex<Writer>,
    daemons: Mutex<Daemons>,
    closed: watch::Receiver<bool>,
}

struct Writer {
    stream: UnixStream,
    /// Number of the last daemon.
    last: u64,
}

impl Writer {
    fn send(&mut self, number: u64, request: &EngineRequest) -> io::Result<()> {
        Frame::of(number, request).write(&mut self.stream, MAX_ENGINE_FRAME)
    }
}

fn broken(problem: impl std::fmt::Display) -> EngineError {
    EngineError::Process { problem: problem.to_string() }
}

fn gone() -> EngineError {
    broken("it has ended")
}

impl Connection {
    /// Has the engine process begin; blocks until it has.
    pub(super) fn begin(stream: UnixStream) -> Result<(Arc<Self>, Begun), EngineError> {
        let limits =
            stream.set_write_timeout(Some(WRITE_LIMIT)).and(stream.set_read_timeout(Some(BEGIN_LIMIT)));
        limits.map_err(broken)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(broken)?);
        let mut writer = Writer { stream, last: 0 };
        writer.send(0, &EngineRequest::Begin {}).map_err(broken)?;
        let frame = Frame::read(&mut reader, MAX_ENGINE_FRAME).map_err(broken)?.ok_or_else(gone)?;
        let begun = match frame.parse().map_err(broken)? {
            EngineAnswer::Begun(begun) => begun,
            EngineAnswer::Refused { problem } => return Err(EngineError::Configuration { problem }),
            _ => return Err(broken("it answered another question")),
        };
        reader.get_ref().set_read_timeout(None).map_err(broken)?;
        let (close, closed) = watch::channel(false);
        let daemons = Mutex::new(Some(HashMap::new()));
        let connection = Arc::new(Self { writer: Mutex::new(writer), daemons, closed });
        let reading = Arc::downgrade(&connection);
        let read = move || {
            while let Ok(Some(frame)) = Frame::read(&mut reader, MAX_ENGINE_FRAME) {
                let (Some(connection), Ok(answer)) = (reading.upgrade(), frame.parse()) else { break };
                connection.hear(frame.number, answer);
            }
            if let Some(connection) = reading.upgrade() {
                connection.lose();
            }
            close.send_replace(true);
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(read).map_err(broken)?;
        Ok((connection, begun))
    }

    fn daemons(&self) -> MutexGuard<'_, Daemons> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, number: u64, answer: EngineAnswer) {
        let mut daemons = self.daemons();
        let Some(daemons) = daemons.as_mut() else { return };
        match answer {
            EngineAnswer::Started(started) => {
                // Who has given up has said so, and hears of the end.
                let waits = daemons.get_mut(&number).and_then(|waiting| waiting.started.take());
                let _ = waits.map(|waits| waits.send(Ok(started)));
            }
            EngineAnswer::Failed(failure) => {
                let waits = daemons.remove(&number).and_then(|waiting| waiting.started);
                let _ = waits.map(|waits| waits.send(Err(failure)));
            }
            EngineAnswer::Ended { log } => {
                if let Some(waiting) = daemons.remove(&number) {
                    waiting.ended.send_replace(End::Ended(log));
                }
            }
            EngineAnswer::Begun(_) | EngineAnswer::Refused { .. } => {}
        }
    }

    /// With the engine process its daemons have ended.
    fn lose(&self) {
        for waiting in self.daemons().take().into_iter().flat_map(HashMap::into_values) {
            waiting.ended.send_replace(End::Ended(vec!["the engine process has ended".to_owned()]));
        }
    }

    /// Starts a daemon. Cancel safe: one that nobody waits for any more is ended.
    pub(super) async fn start(
        self: &Arc<Self>,
        project: ProjectId,
    ) -> Result<(StartedDaemon, Lease), EngineError> {
        let (send, started) = oneshot::channel();
        let (ended, end) = watch::channel(End::NotYet);
        let lease = {
            let mut writer = self.writer();
            writer.last += 1;
            let number = writer.last;
            let waiting = Waiting { started: Some(send), ended };
            self.daemons().as_mut().ok_or_else(gone)?.insert(number, waiting);
            if writer.send(number, &EngineRequest::Start { project }).is_err() {
                let _ = self.daemons().as_mut().map(|daemons| daemons.remove(&number));
                return Err(gone());
            }
            Lease { connection: Arc::clone(self), number, end }
        };
        match started.await {
            Ok(Ok(daemon)) => Ok((daemon, lease)),
            Ok(Err(StartFailure::DiskFull { what })) => Err(EngineError::DiskFull { message: what }),
            Ok(Err(StartFailure::Daemon { problem, log })) => Err(EngineError::DaemonStart { problem, log }),
            Ok(Err(failure)) => {
                Err(EngineError::DaemonStart { problem: failure.to_string(), log: Vec::new() })
            }
            Err(_) => Err(gone()),
        }
    }

    /// Ends the connection and waits until the engine process has ended all daemons.
    pub(super) async fn end(&self) {
        let _ = self.writer().stream.shutdown(Shutdown::Write);
        let mut closed = self.closed.clone();
        let closed = closed.wait_for(|closed| *closed);
        if tokio::time::timeout(END_LIMIT, closed).await.is_err() {
            tracing::error!("the engine process does not end");
        }
    }
}

impl Drop for Connection {
    /// Ends the thread that reads, and with the connection the daemons.
    fn drop(&mut self) {
        let _ = self.writer().stream.shutdown(Shutdown::Both);
    }
}

/// A daemon that was asked for. Dropping it ends the daemon at once.
pub(super) struct Lease {
    connection: Arc<Connection>,
    number: u64,
    end: watch::Receiver<End>,
}

impl Lease {
    pub(super) fn end(&self) -> &watch::Receiver<End> {
        &self.end
    }

    /// Has the daemon end.
    pub(super) fn stop(&self) {
        // An error means that the connection is gone, and the daemon with it.
        let _ = self.connection.writer().send(self.number, &EngineRequest::Stop {});
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.end.borrow().has_come() {
            let _ = self.connection.writer().send(self.number, &EngineRequest::Kill {});
        }
    }
}
