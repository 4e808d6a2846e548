//! One thread asks the device. Leaves that are ready together share one report: an SNP guest may be throttled
//! by its host and loses its device key after a firmware error, so one report per leaf is not affordable.
//!
//! Builds go first and have a queue of their own; what strangers may ask for (sessions) has a small queue and
//! a small share of each batch.
//!
//! On Secure Execution nothing can be shared: each answer is for the one request that it answers. Requests wait in the
//! same two queues, shorter ones, and sessions get one turn after some of builds.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use provenance::binding::{InclusionProof, Leaf, LeafBody, LeafTree, MAX_LEAVES, ReportData};
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};

use crate::attester::{Attester, AttesterError, ChallengeKind};
use crate::error::{KeyError, StartError};
use crate::interface::Health;
use crate::own_report::{self, OwnReport};
use crate::secret::random;
use crate::secure_execution::SecureExecutionHeader;

/// Shortest time between the starts of two device calls. Within it, leaves gather for the next batch.
pub const DEVICE_INTERVAL: Duration = Duration::from_millis(50);
/// Most session leaves of one batch.
pub const SESSIONS_PER_BATCH: usize = 64;
/// Most sessions that may wait; more are refused with [`KeyError::Busy`].
pub const MAX_WAITING_SESSIONS: usize = 256;
/// Most builds and keys that may wait; more are refused with [`KeyError::Busy`].
pub const MAX_WAITING_BUILDS: usize = MAX_LEAVES;
/// Secure Execution: most attestation requests of builds and keys that may wait. Each takes a device call of its own, so
/// that more would wait for longer than [`EVIDENCE_DEADLINE`].
pub const MAX_WAITING_BUILD_REQUESTS: usize = 1024;
/// Secure Execution: most attestation requests of sessions that may wait.
pub const MAX_WAITING_SESSION_REQUESTS: usize = 64;
/// Secure Execution: requests of builds that are answered between two of sessions while both wait.
pub const BUILD_REQUESTS_PER_SESSION: u32 = 4;
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
    challenge: Challenge,
    reply: SyncSender<Reply>,
}

#[derive(Default)]
struct State {
    builds: VecDeque<Waiting>,
    sessions: VecDeque<Waiting>,
    /// Requests of builds answered since the last of a session; Secure Execution only.
    since_session: u32,
    closed: bool,
    device_calls: u64,
    last_report: Duration,
    failing: Option<String>,
    /// Set for good when the device has lost its key: everything is refused with it from then on.
    wiped: Option<AttesterError>,
}

impl State {
    /// The attestation request whose turn it is: builds first, but a session after some of them.
    fn next_request(&mut self) -> Option<Waiting> {
        let session = self.builds.is_empty() || self.since_session >= BUILD_REQUESTS_PER_SESSION;
        if session && let Some(waiting) = self.sessions.pop_front() {
            self.since_session = 0;
            return Some(waiting);
        }
        self.since_session = self.since_session.saturating_add(1);
        self.builds.pop_front()
    }

    /// What shares the next report: builds first, and room for some sessions.
    fn next_share(&mut self) -> Vec<Waiting> {
        let builds = self.builds.len().min(MAX_LEAVES - SESSIONS_PER_BATCH);
        let sessions = self.sessions.len().min(SESSIONS_PER_BATCH);
        self.builds.drain(..builds).chain(self.sessions.drain(..sessions)).collect()
    }
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
    platform: Platform,
    at_start: Option<OwnReport>,
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Batcher {
    /// Obtains a first report over random data, which fixes the own measurement, and starts the thread. On Secure
    /// Execution there is nobody yet whose request could be answered, so there is no first report.
    pub(crate) fn start(
        attester: Box<dyn Attester>,
        instance_sha256: Sha256Digest,
        header: Option<SecureExecutionHeader>,
    ) -> Result<Self, StartError> {
        let platform = attester.platform();
        let began = Instant::now();
        let mut state = State::default();
        let mut at_start = None;
        let mut answers_with = None;
        if ChallengeKind::of(platform) == ChallengeKind::Nonce {
            let data = ReportData(*random()?);
            let evidence = attester.evidence(&data)?;
            state.last_report = began.elapsed();
            state.device_calls = 1;
            at_start = Some(own_report::read(platform, &evidence, &data)?);
        } else {
            answers_with = Some(header.ok_or(StartError::NoHeader)?);
        }
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let dispatcher =
            Dispatcher { shared: Arc::clone(&shared), attester, instance_sha256, at_start, answers_with };
        std::thread::Builder::new()
            .name("attester".to_owned())
            .spawn(move || dispatcher.run(began))
            .map_err(|error| StartError::Thread(error.to_string()))?;
        Ok(Self { shared, platform, at_start })
    }

    /// Evidence over a leaf that answers `challenge`; blocks until its batch is done.
    pub(crate) fn bind(&self, body: LeafBody, challenge: Challenge) -> Reply {
        let wanted = ChallengeKind::of(self.platform);
        let got = match challenge {
            Challenge::Nonce => ChallengeKind::Nonce,
            Challenge::AttestationRequest(_) => ChallengeKind::AttestationRequest,
        };
        if got != wanted {
            return Err(KeyError::Challenge { platform: self.platform, wanted });
        }
        let (most_builds, most_sessions) = match wanted {
            ChallengeKind::Nonce => (MAX_WAITING_BUILDS, MAX_WAITING_SESSIONS),
            ChallengeKind::AttestationRequest => (MAX_WAITING_BUILD_REQUESTS, MAX_WAITING_SESSION_REQUESTS),
        };
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
                LeafBody::Session { .. } => (&mut state.sessions, most_sessions),
                LeafBody::Key { .. } | LeafBody::Build { .. } => (&mut state.builds, most_builds),
            };
            if queue.len() >= limit {
                return Err(KeyError::Busy { retry_after: RETRY_AFTER });
            }
            queue.push_back(Waiting { body, challenge, reply });
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
            launch_measurement: self.at_start.map(|own| own.measurement.to_string()),
            vmpl: self.at_start.and_then(|own| own.vmpl),
        }
    }
}

struct Dispatcher {
    shared: Arc<Shared>,
    attester: Box<dyn Attester>,
    instance_sha256: Sha256Digest,
    /// What answers are checked against; on Secure Execution there is nothing.
    at_start: Option<OwnReport>,
    /// What goes out with answers to attestation requests.
    answers_with: Option<SecureExecutionHeader>,
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
            let challenge = batch.first().map_or(Challenge::Nonce, |first| first.challenge.clone());
            let (bodies, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.body, w.reply)).unzip();
            match self.bind_together(&bodies, &challenge) {
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
            } else if ChallengeKind::of(self.attester.platform()) == ChallengeKind::AttestationRequest {
                return Some(vec![state.next_request().expect("one of the queues is not empty")]);
            } else {
                return Some(state.next_share());
            };
        }
    }

    fn bind_together(&self, bodies: &[LeafBody], challenge: &Challenge) -> Result<Vec<BoundLeaf>, KeyError> {
        let mut leaves = Vec::with_capacity(bodies.len());
        for body in bodies {
            leaves.push(Leaf { salt: *random()?, instance_sha256: self.instance_sha256, body: *body });
        }
        let tree = LeafTree::new(&leaves).expect("next_batch gives 1 to MAX_LEAVES leaves");
        let evidence = self.report(&tree.report_data(), challenge)?;
        let bound = leaves.iter().enumerate().map(|(index, leaf)| BoundLeaf {
            evidence: evidence.clone(),
            leaf: leaf.encode(),
            proof: tree.proof(index).expect("the index is one of the tree's leaves"),
        });
        Ok(bound.collect())
    }

    /// One device call, with the guest's own check of what came back.
    fn report(&self, data: &ReportData, challenge: &Challenge) -> Result<Evidence, KeyError> {
        if let Some(error) = &self.shared.state().wiped {
            return Err(error.clone().into());
        }
        let began = Instant::now();
        let result = self.ask_device(data, challenge);
        let mut state = self.shared.state();
        state.device_calls += 1;
        state.last_report = began.elapsed();
        // A request that is not taken is the requester's fault and says nothing about the device.
        if !matches!(result, Err(KeyError::AttestationRequest(_))) {
            state.failing = result.as_ref().err().map(ToString::to_string);
        }
        if let Err(KeyError::Attester(error @ AttesterError::KeyWiped { .. })) = &result {
            state.wiped = Some(error.clone());
        }
        drop(state);
        match &result {
            Ok(_) => {}
            Err(error @ KeyError::AttestationRequest(_)) => {
                tracing::info!(%error, "no Evidence for a requester")
            }
            Err(error) => {
                tracing::warn!(%error, "no Evidence; nothing is signed until the device answers again");
            }
        }
        result
    }

    fn ask_device(&self, data: &ReportData, challenge: &Challenge) -> Result<Evidence, KeyError> {
        let platform = self.attester.platform();
        match (challenge, &self.at_start, &self.answers_with) {
            (Challenge::Nonce, Some(at_start), None) => {
                let evidence = self.attester.evidence(data)?;
                own_report::check(platform, &evidence, data, at_start)?;
                Ok(evidence)
            }
            (Challenge::AttestationRequest(request), None, Some(header)) => {
                let mut evidence =
                    self.attester.answer_request(request, data).map_err(|error| match error {
                        error @ AttesterError::Ultravisor { .. } => KeyError::AttestationRequest(error),
                        error => error.into(),
                    })?;
                let answer = own_report::check_answer(platform, &evidence, request, data)?;
                evidence.report = header.beside(answer).encode();
                Ok(evidence)
            }
            _ => Err(KeyError::Challenge { platform, wanted: ChallengeKind::of(platform) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_full_queues_a_batch_is_as_large_as_a_tree_and_each_queue_has_its_share() {
        let waiting = || {
            let body = LeafBody::Session {
                tls_spki_sha256: Sha256Digest::of(b"a key"),
                tls_exporter: [0; 32],
                nonce: provenance::binding::Nonce([0; 32]),
            };
            Waiting { body, challenge: Challenge::Nonce, reply: sync_channel(1).0 }
        };
        let mut state = State::default();
        state.builds.extend((0..MAX_WAITING_BUILDS).map(|_| waiting()));
        state.sessions.extend((0..MAX_WAITING_SESSIONS).map(|_| waiting()));
        assert_eq!(state.next_share().len(), MAX_LEAVES);
        assert_eq!(state.builds.len(), SESSIONS_PER_BATCH);
        assert_eq!(state.sessions.len(), MAX_WAITING_SESSIONS - SESSIONS_PER_BATCH);
        assert_eq!(state.next_share().len(), 2 * SESSIONS_PER_BATCH);
    }
}
