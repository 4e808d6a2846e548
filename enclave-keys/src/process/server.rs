//! Answers: one instance for as long as the process lives, any number of connections after each other.

use std::io::{self, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::failure::KeyFailure;
use super::frame::{Frame, MAX_ANSWER, MAX_REQUEST};
use crate::attester::Attester;
use crate::batch::{MAX_WAITING_BUILDS, MAX_WAITING_SESSIONS, RETRY_AFTER};
use crate::error::KeyError;
use crate::interface::{KeyRequest, bytes_base64};
use crate::service::{InstanceInputs, KeyService};

/// Most questions that wait for the device at a time, over all connections; the batches' own limits come first.
const MAX_OPEN: usize = MAX_WAITING_BUILDS + MAX_WAITING_SESSIONS;
/// Most bytes of JSON of the questions that wait, over all connections: sixteen of the longest. What becomes of one
/// while it is answered takes a few times as much.
pub const MAX_OPEN_BYTES: usize = 16 * MAX_REQUEST;
/// Bytes of stack of a thread that waits for the device.
const STACK: usize = 512 << 10;
/// What the launcher is told once a TEE was found.
const READY: u8 = b'k';

/// The launcher closed the control socket: there is nobody to answer any more.
#[derive(Debug, PartialEq, Eq)]
pub struct ControlEnded;

/// What the first question of a connection, the [`InstanceInputs`], gives.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Started {
    /// The canonical instance document.
    #[serde(with = "bytes_base64")]
    pub(super) document: Vec<u8>,
    /// X.509 DER.
    #[serde(with = "bytes_base64")]
    pub(super) certificate: Vec<u8>,
    /// How this boot's epoch began, for people.
    pub(super) epoch_start: String,
}

/// An answer as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer<T> {
    Ok(T),
    Failed(KeyFailure),
}

impl<T> Answer<T> {
    pub(super) fn into_result(self) -> Result<T, KeyFailure> {
        match self {
            Self::Ok(answer) => Ok(answer),
            Self::Failed(failure) => Err(failure),
        }
    }
}

impl<T> From<Result<T, KeyFailure>> for Answer<T> {
    fn from(result: Result<T, KeyFailure>) -> Self {
        result.map_or_else(Self::Failed, Self::Ok)
    }
}

enum Instance {
    /// Nothing is left of the Attester once a start has begun.
    Waiting(Option<Box<dyn Attester>>),
    Runs {
        inputs: InstanceInputs,
        keys: KeyService,
    },
    Failed(KeyFailure),
}

struct Shared {
    sealed: Option<PathBuf>,
    instance: Mutex<Instance>,
    open: Mutex<Open>,
}

/// Questions that wait.
#[derive(Default)]
struct Open {
    questions: usize,
    bytes: usize,
}

/// The side that holds the keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyProcess(Arc<Shared>);

impl KeyProcess {
    /// Nothing starts before a connection brings the inputs. `sealed`: directory of the sealed epoch, as in
    /// [`KeyService::start`].
    #[must_use]
    pub fn new(attester: Box<dyn Attester>, sealed: Option<PathBuf>) -> Self {
        let instance = Mutex::new(Instance::Waiting(Some(attester)));
        Self(Arc::new(Shared { sealed, instance, open: Mutex::default() }))
    }

    /// Tells the launcher that a TEE was found, then answers the connections that it hands over, until it ends.
    pub fn run(&self, mut control: UnixStream) -> io::Result<ControlEnded> {
        control.write_all(&[READY])?;
        while let Some(connection) = receive(&control)? {
            let process = self.clone();
            let thread = std::thread::Builder::new().name("connection".to_owned());
            thread.spawn(move || process.answer(connection))?;
        }
        Ok(ControlEnded)
    }

    /// Answers one connection until it ends or sends what is no frame.
    pub fn answer(&self, connection: UnixStream) {
        let Ok(writer) = connection.try_clone() else { return };
        let writer = Arc::new(Mutex::new(writer));
        let mut reader = BufReader::new(connection);
        let keys = match Frame::read(&mut reader, MAX_REQUEST) {
            Ok(Some(frame)) => {
                let started = frame
                    .parse()
                    .map_err(|error| KeyFailure::protocol(&error))
                    .and_then(|inputs| self.start(inputs));
                let answer = started.as_ref().map_err(Clone::clone).map(|keys| Started {
                    document: keys.instance_document().to_vec(),
                    certificate: keys.tls_certificate(),
                    epoch_start: keys.epoch_start().to_string(),
                });
                if send(&writer, &Frame::of(frame.number, &Answer::from(answer))).is_err() {
                    return;
                }
                started.ok()
            }
            _ => None,
        };
        let Some(keys) = keys else { return };
        loop {
            match Frame::read(&mut reader, MAX_REQUEST) {
                Ok(Some(frame)) => self.question(&keys, &frame, &writer),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "build-server sent what is no request; the connection is closed");
                    return;
                }
            }
        }
    }

    /// The instance with these inputs: the one that runs, or a new one when none has run.
    fn start(&self, inputs: InstanceInputs) -> Result<KeyService, KeyFailure> {
        let mut instance = self.0.instance.lock().unwrap_or_else(PoisonError::into_inner);
        if let Instance::Waiting(attester) = &mut *instance
            && let Some(attester) = attester.take()
        {
            *instance = match KeyService::start(attester, inputs.clone(), self.0.sealed.as_deref()) {
                Ok(keys) => Instance::Runs { inputs: inputs.clone(), keys },
                Err(error) => Instance::Failed(error.into()),
            };
        }
        match &*instance {
            Instance::Runs { inputs: running, keys } => {
                let same = InstanceInputs { started_at: running.started_at, ..inputs } == *running;
                if same { Ok(keys.clone()) } else { Err(KeyFailure::OtherInstance {}) }
            }
            Instance::Failed(failure) => Err(failure.clone()),
            // The first start has panicked.
            Instance::Waiting(_) => Err(KeyFailure::Stopped {}),
        }
    }

    fn question(&self, keys: &KeyService, frame: &Frame, writer: &Arc<Mutex<UnixStream>>) {
        let number = frame.number;
        let answer = move |result: Result<_, KeyFailure>, writer: &Mutex<UnixStream>| {
            // Nobody is there to read it when this fails, and the connection's own thread sees that too.
            let _ = send(writer, &Frame::of(number, &Answer::from(result)));
        };
        let request: KeyRequest = match frame.parse() {
            Ok(request) => request,
            Err(error) => return answer(Err(KeyFailure::protocol(&error)), writer),
        };
        let waits = matches!(
            request,
            KeyRequest::ProjectKey { .. } | KeyRequest::Release(_) | KeyRequest::SessionEvidence { .. }
        );
        if !waits {
            return answer(keys.handle(request).map_err(KeyFailure::from), writer);
        }
        let busy = || Err(KeyError::Busy { retry_after: RETRY_AFTER }.into());
        let Some(place) = Place::take(&self.0, frame.json.len()) else { return answer(busy(), writer) };
        let (keys, shared) = (keys.clone(), Arc::clone(writer));
        let wait = move || {
            answer(keys.handle(request).map_err(KeyFailure::from), &shared);
            // Only now, since an answer takes memory until it is read.
            drop(place);
        };
        let thread = std::thread::Builder::new().name("question".to_owned()).stack_size(STACK);
        if thread.spawn(wait).is_err() {
            answer(busy(), writer);
        }
    }
}

/// One of the [`MAX_OPEN`] places, and its share of the [`MAX_OPEN_BYTES`].
struct Place {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Place {
    fn take(shared: &Arc<Shared>, bytes: usize) -> Option<Self> {
        let mut open = shared.open();
        if open.questions >= MAX_OPEN || open.bytes + bytes > MAX_OPEN_BYTES {
            return None;
        }
        open.questions += 1;
        open.bytes += bytes;
        Some(Self { shared: Arc::clone(shared), bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        open.questions -= 1;
        open.bytes -= self.bytes;
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends an answer; where it is longer than the other side reads, that it is.
fn send(writer: &Mutex<UnixStream>, frame: &Frame) -> io::Result<()> {
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    let got = frame.json.len();
    if got <= MAX_ANSWER {
        return frame.write(&mut *writer, MAX_ANSWER);
    }
    let failed = Answer::<()>::Failed(KeyFailure::AnswerTooLong { got: got as u64 });
    Frame::of(frame.number, &failed).write(&mut *writer, MAX_ANSWER)
}

/// The started process's side: the socket that the launcher gave it as stdin. The process ends with the launcher.
pub fn own_socket() -> io::Result<UnixStream> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails when it is none.
    socket.peer_addr()?;
    Ok(socket)
}

/// The launcher's side: waits until the key process has found a TEE. `false` when it ended instead; it has said why.
pub fn wait_until_ready(control: &mut UnixStream) -> bool {
    let mut byte = [0];
    matches!(control.read_exact(&mut byte), Ok(()) if byte == [READY])
}

/// The launcher's side: gives a process that it started a connection (SCM_RIGHTS, unix(7)).
pub fn hand_over(control: &UnixStream, connection: UnixStream) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [connection.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for one descriptor"));
    }
    sendmsg(control, &[IoSlice::new(&[READY])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The started process's side: the next connection; `None` when the launcher has ended.
pub fn receive(control: &UnixStream) -> io::Result<Option<UnixStream>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let received = loop {
        match recvmsg(control, &mut buffer, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptor: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.map(|descriptor| Some(UnixStream::from(descriptor))).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the launcher sent a byte without a connection")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Arc<Shared> {
        let instance = Mutex::new(Instance::Failed(KeyFailure::Stopped {}));
        Arc::new(Shared { sealed: None, instance, open: Mutex::default() })
    }

    #[test]
    fn places_are_given_back_with_their_bytes() {
        let shared = shared();
        let places: Vec<_> = (0..MAX_OPEN).map_while(|_| Place::take(&shared, 3)).collect();
        assert_eq!(places.len(), MAX_OPEN);
        assert!(Place::take(&shared, 0).is_none(), "all are taken");
        drop(places);
        let all = Place::take(&shared, MAX_OPEN_BYTES).expect("no byte is taken any more");
        assert!(Place::take(&shared, 1).is_none());
        assert!(Place::take(&shared, 0).is_some());
        drop(all);
        let open = shared.open();
        assert_eq!((open.questions, open.bytes), (0, 0));
    }

    #[test]
    fn a_connection_is_handed_over_and_the_launchers_end_is_seen() {
        let (launcher, process) = UnixStream::pair().expect("a socket pair");
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        hand_over(&launcher, theirs).expect("handed over");
        let mut received = receive(&process).expect("no error").expect("a connection");
        ours.write_all(b"x").expect("written");
        let mut byte = [0];
        received.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
        (&launcher).write_all(&[READY]).expect("written");
        assert_eq!(receive(&process).expect_err("no connection").kind(), io::ErrorKind::InvalidData);
        drop(launcher);
        assert!(receive(&process).expect("the end").is_none());
    }

    #[test]
    fn a_process_is_ready_when_it_has_said_so_and_in_no_other_case() {
        for (said, ready) in [(&[READY][..], true), (b"x", false), (b"", false)] {
            let (mut launcher, mut process) = UnixStream::pair().expect("a socket pair");
            process.write_all(said).expect("written");
            drop(process);
            assert_eq!(wait_until_ready(&mut launcher), ready, "{said:?}");
        }
    }
}
