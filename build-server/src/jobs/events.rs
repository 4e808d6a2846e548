//! Where a running build's events go: persisted in batches, numbered, then told to the watchers.

use std::sync::Arc;

use prost::Message;
use proto::v1;
use proto::v1::build_event::Event;
use tokio::sync::{mpsc, oneshot};

use super::store::{JobError, JobStore};

/// Events that may wait for the store; a runner that is faster waits.
const CHANNEL: usize = 1024;
/// Most events of one transaction.
const BATCH: usize = 512;

enum Command {
    Append(Event),
    Flush(oneshot::Sender<Result<(), String>>),
}

/// Takes the events of one build. Cheap to clone.
#[derive(Clone)]
pub struct EventSink {
    sender: mpsc::Sender<Command>,
}

impl EventSink {
    /// A sink for the build at `row`, which keeps at most `log_bytes` of progress and logs; `failed` is
    /// called once when the store fails, since nobody could follow the build any more.
    pub(super) fn new(
        store: Arc<JobStore>,
        row: i64,
        log_bytes: u64,
        failed: impl FnOnce(&JobError) + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(write_events(store, row, log_bytes, receiver, failed));
        Self { sender }
    }

    /// Adds an event. Waits while the store is behind; after a failure of the store it is dropped (the build
    /// is being cancelled then). Cancel safe: the event is either added or not.
    pub async fn send(&self, event: Event) {
        let _ = self.sender.send(Command::Append(event)).await;
    }

    /// Adds a milestone of the pipeline.
    pub async fn milestone(&self, stage: &str, text: impl Into<String>) {
        self.send(Event::Milestone(v1::Milestone { stage: stage.into(), text: text.into() })).await;
    }

    /// Returns when everything sent before is on disk.
    pub async fn flush(&self) -> Result<(), String> {
        let (sender, receiver) = oneshot::channel();
        let gone = || "the build's event writer is gone".to_owned();
        self.sender.send(Command::Flush(sender)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

async fn write_events(
    store: Arc<JobStore>,
    row: i64,
    log_bytes: u64,
    mut receiver: mpsc::Receiver<Command>,
    failed: impl FnOnce(&JobError) + Send,
) {
    let mut failed = Some(failed);
    let mut failure: Option<String> = None;
    let mut budget = Budget { left: log_bytes, limit: log_bytes, exhausted: false };
    let mut commands = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut commands, BATCH).await > 0 {
        let mut events = Vec::new();
        let mut flushed = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::Append(event) => events.extend(budget.admit(event)),
                Command::Flush(done) => flushed.push(done),
            }
        }
        if failure.is_none() && !events.is_empty() {
            let store = store.clone();
            let appended = tokio::task::spawn_blocking(move || store.append(row, events)).await;
            let error = match appended {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error),
                Err(panic) => Some(JobError::Damaged { what: panic.to_string() }),
            };
            if let Some(error) = error {
                failure = Some(error.to_string());
                if let Some(failed) = failed.take() {
                    failed(&error);
                }
            }
        }
        for done in flushed {
            let _ = done.send(failure.clone().map_or(Ok(()), Err));
        }
    }
}

/// Bytes of logs and progress that a build may still keep. Milestones, steps and changes of state are few and
/// always kept.
struct Budget {
    left: u64,
    limit: u64,
    exhausted: bool,
}

impl Budget {
    fn admit(&mut self, event: Event) -> Option<Event> {
        let bytes = match &event {
            Event::StateChanged(_) | Event::Milestone(_) | Event::Vertex(_) => return Some(event),
            Event::VertexStatus(e) => e.encoded_len(),
            Event::VertexLog(e) => e.encoded_len(),
            Event::VertexWarning(e) => e.encoded_len(),
        };
        if self.exhausted {
            return None;
        }
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Some(event)
            }
            None => {
                self.exhausted = true;
                let text = format!("the log is longer than {} bytes; the rest is not kept", self.limit);
                Some(Event::VertexWarning(v1::VertexWarning { text, ..Default::default() }))
            }
        }
    }
}
