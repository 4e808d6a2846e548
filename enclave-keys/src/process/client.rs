//! Asks the key process. Many questions may be open at a time; each waits for its own answer.

use std::collections::HashMap;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provenance::binding::Nonce;
use provenance::challenge::Challenge;
use provenance::instance::InstanceDocument;
use provenance::project::ProjectId;

use super::failure::KeyFailure;
use super::frame::{Frame, MAX_ANSWER, MAX_REQUEST};
use super::server::{Answer, Started};
use crate::batch::EVIDENCE_DEADLINE;
use crate::interface::{Health, KeyRequest, KeyResponse, ProjectKey, ReleaseRequest, Released};
use crate::service::InstanceInputs;

/// How long an answer may take: the key process gives up on the device before.
const ANSWER_DEADLINE: Duration = EVIDENCE_DEADLINE.saturating_add(Duration::from_secs(30));
/// How long the other side may leave a question unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// A connection to the key process. Cheap to clone, thread-safe; calls block.
#[derive(Clone)]
pub struct KeyClient(Arc<Inner>);

struct Inner {
    connection: Arc<Connection>,
    document: Vec<u8>,
    instance: InstanceDocument,
    certificate: Vec<u8>,
    epoch_start: String,
}

impl std::fmt::Debug for KeyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyClient(epoch {})", self.0.instance.epoch)
    }
}

impl Drop for Inner {
    /// Ends the thread that reads.
    fn drop(&mut self) {
        let _ = self.connection.writer().shutdown(std::net::Shutdown::Both);
    }
}

/// Questions that wait for an answer; `None` once no answer can come.
type Waiting = Option<HashMap<u64, SyncSender<Frame>>>;

struct Connection {
    writer: Mutex<UnixStream>,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
}

impl Connection {
    fn writer(&self) -> MutexGuard<'_, UnixStream> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and waits for the answer.
    fn ask<T: serde::de::DeserializeOwned>(&self, question: &impl serde::Serialize) -> Result<T, KeyFailure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::of(number, question);
        let (sender, answer) = sync_channel(1);
        self.waiting().as_mut().ok_or(KeyFailure::Stopped {})?.insert(number, sender);
        if let Err(error) = frame.write(&mut *self.writer(), MAX_REQUEST) {
            self.forget(number);
            return Err(match error.kind() {
                std::io::ErrorKind::InvalidInput => KeyFailure::protocol(&error),
                _ => KeyFailure::Stopped {},
            });
        }
        let frame = answer.recv_timeout(ANSWER_DEADLINE).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.forget(number);
                KeyFailure::protocol(&format!("no answer within {} s", ANSWER_DEADLINE.as_secs()))
            }
            RecvTimeoutError::Disconnected => KeyFailure::Stopped {},
        })?;
        frame.parse::<Answer<T>>().map_err(|error| KeyFailure::protocol(&error))?.into_result()
    }

    fn forget(&self, number: u64) {
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.remove(&number);
        }
    }

    /// Hands answers to those who wait until the connection ends.
    fn read(&self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        while let Ok(Some(frame)) = Frame::read(&mut stream, MAX_ANSWER) {
            let sender = self.waiting().as_mut().and_then(|waiting| waiting.remove(&frame.number));
            // Who has stopped waiting needs no answer.
            if let Some(sender) = sender {
                let _ = sender.send(frame);
            }
        }
        *self.waiting() = None;
    }
}

impl KeyClient {
    /// Starts the instance, or takes up the one that runs with the same inputs. `ended` is called once, on a thread of
    /// its own, when the connection ends.
    pub fn connect(
        stream: UnixStream,
        inputs: &InstanceInputs,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, KeyFailure> {
        let io = |error: std::io::Error| KeyFailure::protocol(&error);
        stream.set_write_timeout(Some(WRITE_DEADLINE)).map_err(io)?;
        let reader = stream.try_clone().map_err(io)?;
        let connection = Arc::new(Connection {
            writer: Mutex::new(stream),
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(0),
        });
        let reading = Arc::clone(&connection);
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                reading.read(reader);
                ended();
            })
            .map_err(io)?;
        let Started { document, certificate, epoch_start } = connection.ask(inputs)?;
        let instance = InstanceDocument::parse(&document).map_err(|error| KeyFailure::protocol(&error))?;
        Ok(Self(Arc::new(Inner { connection, document, instance, certificate, epoch_start })))
    }

    /// The canonical instance document, whose SHA-256 is in every leaf.
    #[must_use]
    pub fn instance_document(&self) -> &[u8] {
        &self.0.document
    }

    /// The same, parsed.
    #[must_use]
    pub fn instance(&self) -> &InstanceDocument {
        &self.0.instance
    }

    /// How this boot's epoch began, for people.
    #[must_use]
    pub fn epoch_start(&self) -> &str {
        &self.0.epoch_start
    }

    /// The self-signed P-256 certificate of this boot, DER.
    #[must_use]
    pub fn tls_certificate(&self) -> &[u8] {
        &self.0.certificate
    }

    /// A project's signing key and its Evidence, obtained once per boot; on Secure Execution each time.
    pub fn project_key(&self, project: &ProjectId, challenge: Challenge) -> Result<ProjectKey, KeyFailure> {
        match self.ask(&KeyRequest::ProjectKey { project: *project, challenge })? {
            KeyResponse::ProjectKey(key) => Ok(key),
            other => Err(unexpected(&other)),
        }
    }

    /// Binds a statement to the hardware and signs it and its images. Nothing is signed on any error.
    pub fn release(&self, request: ReleaseRequest) -> Result<Released, KeyFailure> {
        match self.ask(&KeyRequest::Release(request))? {
            KeyResponse::Release(released) => Ok(*released),
            other => Err(unexpected(&other)),
        }
    }

    /// Evidence (CMW JSON) that the TLS connection with this exporter ends here.
    pub fn session_evidence(
        &self,
        exporter: [u8; 32],
        nonce: Nonce,
        challenge: Challenge,
    ) -> Result<Vec<u8>, KeyFailure> {
        match self.ask(&KeyRequest::SessionEvidence { exporter, nonce, challenge })? {
            KeyResponse::SessionEvidence { evidence } => Ok(evidence),
            other => Err(unexpected(&other)),
        }
    }

    /// Signs the input of a TLS 1.3 server CertificateVerify (RFC 8446 §4.4.3): ECDSA P-256 with SHA-256, ASN.1 DER.
    /// Everything else is refused.
    pub fn sign_tls(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
        match self.ask(&KeyRequest::SignTls { message: message.to_vec() })? {
            KeyResponse::SignTls { signature } => Ok(signature),
            other => Err(unexpected(&other)),
        }
    }

    /// How the device does.
    pub fn health(&self) -> Result<Health, KeyFailure> {
        match self.ask(&KeyRequest::Health {})? {
            KeyResponse::Health(health) => Ok(health),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &KeyRequest) -> Result<KeyResponse, KeyFailure> {
        self.0.connection.ask(request)
    }
}

/// An answer to another question. Its contents may not be shown: they may be signatures.
fn unexpected(answer: &KeyResponse) -> KeyFailure {
    let kind = match answer {
        KeyResponse::Instance { .. } => "instance",
        KeyResponse::ProjectKey(_) => "project key",
        KeyResponse::Release(_) => "release",
        KeyResponse::SessionEvidence { .. } => "session Evidence",
        KeyResponse::TlsCertificate { .. } => "TLS certificate",
        KeyResponse::SignTls { .. } => "TLS signature",
        KeyResponse::Health(_) => "health",
    };
    KeyFailure::protocol(&format!("an answer about {kind} to another question"))
}
