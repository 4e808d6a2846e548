//! One thread asks the device. Leaves that are ready together share one report: an SNP guest may be throttled
//! by its host and loses its device key after a firmware error, so one report per leaf is not affordable.
//!
//! Builds go first and have a queue of their own; what strangers may ask for (sessions) has a small queue and
//! a small share of each batch.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use provenance::binding::{InclusionProof, Leaf, LeafBody, LeafTree, MAX_LEAVES, ReportData};
use provenance::digest::Sha256Digest;
use provenance::evidence::Evidence;

use crate::attester::{Attester, AttesterError};
use crate::error::{KeyError, StartError};
use crate::interface::Health;
use crate::own_report::{self, OwnReport};
use crate::secret::random;

/// Shortest time between the starts of two device calls. Within it, leaves gather for the next batch.
pub const DEVICE_INTERVAL: Duration = Duration::from_millis(50);
/// Most session leaves of one batch.
pub const SESSIONS_PER_BATCH: usize = 64;
/// Most sessions that may wait; more are refused with [`KeyError::Busy`].
pub const MAX_WAITING_SESSIONS: usize = 256;
/// Most builds and keys that may wait; more are refused with [`KeyError::Busy`].
pub const MAX_WAITING_BUILDS: usize = MAX_LEAVES;
/// How long a caller waits for its Evidence. The kernel itself retries a throttled request for 60 seconds.
pub const EVIDENCE_DEADLINE: Duration = Duration::from_secs(150);
/// What a refused caller is told to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A leaf that the hardware has signed, with its way to the root.
pub(crate) struct BoundLeaf {
    pub(crate) evidence: Evidence,
    pub(crate) leaf: Vec<u8>,
    pub(crate) proof: InclusionProof,
}

type Reply = Result<BoundLeaf, KeyError>;

struct Waiting {
    body: LeafBody,
    reply: SyncSender<Reply>,
}

#[derive(Default)]
struct State {
    builds: VecDeque<Waiting>,
    sessions: VecDeque<Waiting>,
    closed: bool,
    device_calls: u64,
    last_report: Duration,
    failing: Option<String>,
    /// Set for good when the device has lost its key: everything is refused with it from then on.
    wiped: Option<AttesterError>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; should that change, the queues are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses everything that waits and everything that comes.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.builds.clear();
        state.sessions.clear();
        drop(state);
        self.wake.notify_all();
    }
}

/// Hands leaves to the device thread. Dropping it ends the thread after its current device call.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    at_start: OwnReport,
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Batcher {
    /// Obtains a first report over random data, which fixes the own measurement, and starts the thread.
    pub(crate) fn start(
        attester: Box<dyn Attester>,
        instance_sha256: Sha256Digest,
    ) -> Result<Self, StartError> {
        let challenge = ReportData(*random()?);
        let began = Instant::now();
        let evidence = attester.evidence(&challenge)?;
        let last_report = began.elapsed();
        let at_start = own_report::read(attester.platform(), &evidence, &challenge)?;
        let state = State { device_calls: 1, last_report, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let dispatcher = Dispatcher { shared: Arc::clone(&shared), attester, instance_sha256, at_start };
        std::thread::Builder::new()
            .name("attester".to_owned())
            .spawn(move || dispatcher.run(began))
            .map_err(|error| StartError::Thread(error.to_string()))?;
        Ok(Self { shared, at_start })
    }

    /// Evidence over a leaf; blocks until its batch is done.
    pub(crate) fn bind(&self, body: LeafBody) -> Reply {
        let (reply, answer) = sync_channel(1);
        {
            let mut state = self.shared.state();
            if state.closed {
                return Err(KeyError::Stopped);
            }
            if let Some(error) = &state.wiped {
                return Err(error.clone().into());
            }
            let (queue, limit) = match body {
                LeafBody::Session { .. } => (&mut state.sessions, MAX_WAITING_SESSIONS),
                LeafBody::Key { .. } | LeafBody::Build { .. } => (&mut state.builds, MAX_WAITING_BUILDS),
            };
            if queue.len() >= limit {
                return Err(KeyError::Busy { retry_after: RETRY_AFTER });
            }
            queue.push_back(Waiting { body, reply });
        }
        self.shared.wake.notify_all();
        match answer.recv_timeout(EVIDENCE_DEADLINE) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => Err(KeyError::DeviceTimeout { after: EVIDENCE_DEADLINE }),
            Err(RecvTimeoutError::Disconnected) => Err(KeyError::Stopped),
        }
    }

    pub(crate) fn health(&self) -> Health {
        let state = self.shared.state();
        Health {
            failing: state.failing.clone(),
            key_wiped: state.wiped.is_some(),
            waiting_builds: state.builds.len() as u64,
            waiting_sessions: state.sessions.len() as u64,
            device_calls: state.device_calls,
            last_report_millis: u64::try_from(state.last_report.as_millis()).unwrap_or(u64::MAX),
            launch_measurement: self.at_start.measurement.to_string(),
            vmpl: self.at_start.vmpl,
        }
    }
}

struct Dispatcher {
    shared: Arc<Shared>,
    attester: Box<dyn Attester>,
    instance_sha256: Sha256Digest,
    at_start: OwnReport,
}

impl Drop for Dispatcher {
    /// Also when the Attester panics: nobody may wait for a thread that is gone.
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Dispatcher {
    fn run(self, mut last_call: Instant) {
        while let Some(batch) = self.next_batch(last_call) {
            last_call = Instant::now();
            let (bodies, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.body, w.reply)).unzip();
            match self.bind_together(&bodies) {
                Ok(bound) => {
                    for (reply, bound) in replies.iter().zip(bound) {
                        // A caller that no longer waits needs no answer.
                        let _ = reply.send(Ok(bound));
                    }
                }
                Err(error) => {
                    for reply in &replies {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Waits until something is ready and the interval has passed. `None` when the service has ended.
    fn next_batch(&self, last_call: Instant) -> Option<Vec<Waiting>> {
        let mut state = self.shared.state();
        loop {
            if state.closed {
                return None;
            }
            let rest = (last_call + DEVICE_INTERVAL).saturating_duration_since(Instant::now());
            state = if state.builds.is_empty() && state.sessions.is_empty() {
                self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if !rest.is_zero() {
                self.shared.wake.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
            } else {
                let builds = state.builds.len().min(MAX_LEAVES - SESSIONS_PER_BATCH);
                let sessions = state.sessions.len().min(SESSIONS_PER_BATCH);
                let mut batch: Vec<_> = state.builds.drain(..builds).collect();
                batch.extend(state.sessions.drain(..sessions));
                return Some(batch);
            };
        }
    }

    fn bind_together(&self, bodies: &[LeafBody]) -> Result<Vec<BoundLeaf>, KeyError> {
        let mut leaves = Vec::with_capacity(bodies.len());
        for body in bodies {
            leaves.push(Leaf { salt: *random()?, instance_sha256: self.instance_sha256, body: *body });
        }
        let tree = LeafTree::new(&leaves).expect("next_batch gives 1 to MAX_LEAVES leaves");
        let evidence = self.report(&tree.report_data())?;
        let bound = leaves.iter().enumerate().map(|(index, leaf)| BoundLeaf {
            evidence: evidence.clone(),
            leaf: leaf.encode(),
            proof: tree.proof(index).expect("the index is one of the tree's leaves"),
        });
        Ok(bound.collect())
    }

    /// One device call, with the guest's own check of what came back.
    fn report(&self, data: &ReportData) -> Result<Evidence, KeyError> {
        if let Some(error) = &self.shared.state().wiped {
            return Err(error.clone().into());
        }
        let began = Instant::now();
        let result = self.attester.evidence(data).map_err(KeyError::from).and_then(|evidence| {
            own_report::check(self.attester.platform(), &evidence, data, &self.at_start)?;
            Ok(evidence)
        });
        let mut state = self.shared.state();
        state.device_calls += 1;
        state.last_report = began.elapsed();
        state.failing = result.as_ref().err().map(ToString::to_string);
        if let Err(KeyError::Attester(error @ AttesterError::KeyWiped { .. })) = &result {
            state.wiped = Some(error.clone());
        }
        drop(state);
        if let Err(error) = &result {
            tracing::warn!(%error, "no Evidence; nothing is signed until the device answers again");
        }
        result
    }
}
