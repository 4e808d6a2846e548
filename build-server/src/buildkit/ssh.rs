//! SSH agents of the caller, forwarded into RUN steps and git sources.
//!
//! An [`AgentHub`] joins two sides: BuildKit opens agent connections by ssh id, and the API's ForwardAgent
//! stream of that id carries their bytes to the caller's real agent. Keys never come here.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use proto::buildkit::moby::sshforward::v1 as ssh;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

/// Frames on their way, per direction.
const QUEUE: usize = 64;
/// Largest frame in bytes.
const MAX_FRAME: usize = 1 << 20;
/// Most agent connections of one id at the same time.
const MAX_CONNECTIONS: usize = 256;
/// How long a step waits for the caller to attach the agent that it wants.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// Traffic of one agent connection, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFrame {
    /// The connection, numbered by the hub. A number that was not seen before opens it.
    pub connection: u32,
    /// Bytes of the agent protocol; empty frames carry only `closed`.
    pub data: Bytes,
    /// The sender of this frame closed the connection.
    pub closed: bool,
}

/// Why an agent cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The request of the build names no such id.
    #[error("the build has no ssh id `{id}`")]
    UnknownId {
        /// The id.
        id: String,
    },
    /// An agent is attached already.
    #[error("ssh id `{id}` has an agent already")]
    Attached {
        /// The id.
        id: String,
    },
    /// An agent was attached and went away; the build fails.
    #[error("the agent of ssh id `{id}` was detached: {reason}")]
    Gone {
        /// The id.
        id: String,
        /// Why.
        reason: String,
    },
}

#[derive(Default)]
struct Agent {
    /// Frames towards the caller's agent, while it is attached.
    towards: Option<mpsc::Sender<AgentFrame>>,
    /// Frames towards BuildKit by connection.
    back: HashMap<u32, mpsc::Sender<Bytes>>,
    last_connection: u32,
    gone: Option<String>,
}

struct Hub {
    ids: BTreeSet<String>,
    agents: Mutex<HashMap<String, Agent>>,
    /// The first agent that went away, with the reason.
    lost: watch::Sender<Option<(String, String)>>,
    /// Changes whenever an agent is attached.
    attached: watch::Sender<u64>,
}

/// The agents of one build. Clones are the same hub.
#[derive(Clone)]
pub struct AgentHub(Arc<Hub>);

impl AgentHub {
    /// A hub for the ssh ids of a request.
    pub fn new(ids: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(Hub {
            ids: ids.into_iter().collect(),
            agents: Mutex::default(),
            lost: watch::Sender::new(None),
            attached: watch::Sender::new(0),
        }))
    }

    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &BTreeSet<String> {
        &self.0.ids
    }

    fn with<T>(&self, id: &str, action: impl FnOnce(&mut Agent) -> T) -> T {
        let mut agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        action(agents.entry(id.to_owned()).or_default())
    }

    /// Attaches the caller's agent of one id. Dropping the attachment while the build runs makes it fail.
    pub fn attach(&self, id: &str) -> Result<AgentAttachment, AttachError> {
        if !self.0.ids.contains(id) {
            return Err(AttachError::UnknownId { id: id.to_owned() });
        }
        let (towards, frames) = mpsc::channel(QUEUE);
        self.with(id, |agent| {
            if let Some(reason) = &agent.gone {
                return Err(AttachError::Gone { id: id.to_owned(), reason: reason.clone() });
            }
            if agent.towards.is_some() {
                return Err(AttachError::Attached { id: id.to_owned() });
            }
            agent.towards = Some(towards);
            Ok(())
        })?;
        self.0.attached.send_modify(|count| *count += 1);
        Ok(AgentAttachment { hub: self.clone(), id: id.to_owned(), frames, reason: None })
    }

    /// Waits until an id has an agent, or had one: a build may begin before its caller has attached it. Cancel safe.
    async fn attached(&self, id: &str) {
        let mut attached = self.0.attached.subscribe();
        while self.with(id, |agent| agent.towards.is_none() && agent.gone.is_none()) {
            if attached.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for an agent to go away; gives its id and the reason. Cancel safe.
    pub async fn lost(&self) -> (String, String) {
        let mut lost = self.0.lost.subscribe();
        // The guard of the value must be gone before the next await.
        let found = lost.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(found) => found,
            // The sender lives in the hub that is borrowed here.
            None => std::future::pending().await,
        }
    }

    fn open(&self, id: &str) -> Result<(u32, mpsc::Sender<AgentFrame>, mpsc::Receiver<Bytes>), Status> {
        if !self.0.ids.contains(id) {
            return Err(Status::not_found(format!("ssh id {id} is not part of the request")));
        }
        self.with(id, |agent| {
            let towards = agent
                .towards
                .clone()
                .ok_or_else(|| Status::unavailable(format!("the agent of ssh id {id} is not attached")))?;
            if agent.back.len() >= MAX_CONNECTIONS {
                return Err(Status::resource_exhausted(format!(
                    "{MAX_CONNECTIONS} agent connections are open"
                )));
            }
            let (back, data) = mpsc::channel(QUEUE);
            agent.last_connection += 1;
            agent.back.insert(agent.last_connection, back);
            Ok((agent.last_connection, towards, data))
        })
    }

    fn close(&self, id: &str, connection: u32) -> Option<mpsc::Sender<AgentFrame>> {
        self.with(id, |agent| {
            agent.back.remove(&connection);
            agent.towards.clone()
        })
    }
}

/// The caller's end of one agent.
pub struct AgentAttachment {
    hub: AgentHub,
    id: String,
    frames: mpsc::Receiver<AgentFrame>,
    reason: Option<String>,
}

impl AgentAttachment {
    /// The next frame from the build to the agent. Cancel safe. Pending while there is none.
    pub async fn next(&mut self) -> AgentFrame {
        match self.frames.recv().await {
            Some(frame) => frame,
            // The hub holds the other end for as long as this lives.
            None => std::future::pending().await,
        }
    }

    /// Hands a frame of the agent to the build. Frames of closed connections are dropped.
    pub async fn deliver(&self, frame: AgentFrame) {
        let back = self.hub.with(&self.id, |agent| {
            if frame.closed {
                agent.back.remove(&frame.connection)
            } else {
                agent.back.get(&frame.connection).cloned()
            }
        });
        if let Some(back) = back
            && !frame.data.is_empty()
        {
            // A step that went away needs no answer.
            let _ = back.send(frame.data).await;
        }
    }

    /// Detaches with a reason that the build's failure will give.
    pub fn detach(mut self, reason: &str) {
        self.reason = Some(reason.to_owned());
    }
}

impl Drop for AgentAttachment {
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or_else(|| "its stream ended".to_owned());
        self.hub.with(&self.id, |agent| {
            agent.towards = None;
            agent.back.clear();
            agent.gone = Some(reason.clone());
        });
        let lost = (self.id.clone(), reason);
        self.hub.0.lost.send_if_modified(|first| {
            let modified = first.is_none();
            first.get_or_insert(lost);
            modified
        });
    }
}

pub(super) struct SshService(pub(super) Option<AgentHub>);

impl SshService {
    fn hub(&self) -> Result<&AgentHub, Status> {
        self.0.as_ref().ok_or_else(|| Status::not_found("the request forwards no ssh agent"))
    }
}

/// Docker's default id.
fn id_or_default(id: &str) -> &str {
    if id.is_empty() { "default" } else { id }
}

#[tonic::async_trait]
impl ssh::ssh_server::Ssh for SshService {
    type ForwardAgentStream = ForwardedAgent;

    async fn check_agent(
        &self,
        request: Request<ssh::CheckAgentRequest>,
    ) -> Result<Response<ssh::CheckAgentResponse>, Status> {
        let id = request.into_inner().id;
        let id = id_or_default(&id);
        if self.hub()?.0.ids.contains(id) {
            return Ok(Response::new(ssh::CheckAgentResponse {}));
        }
        Err(Status::not_found(format!("ssh id {id} is not part of the request; submit it with --ssh {id}")))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<ssh::BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let hub = self.hub()?.clone();
        let id =
            request.metadata().get("buildkit.ssh.id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let id = id_or_default(id).to_owned();
        if hub.0.ids.contains(&id) {
            // In vain, the error below says so.
            let _ = tokio::time::timeout(ATTACH_LIMIT, hub.attached(&id)).await;
        }
        let (connection, towards, data) = hub.open(&id)?;
        let mut incoming = request.into_inner();
        let forward = towards.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                for part in message.data.chunks(MAX_FRAME) {
                    let data = message.data.slice_ref(part);
                    let frame = AgentFrame { connection, data, closed: false };
                    if forward.send(frame).await.is_err() {
                        return;
                    }
                }
            }
            // When the agent is gone there is nobody to tell.
            let _ = forward.send(AgentFrame { connection, data: Bytes::new(), closed: true }).await;
        });
        Ok(Response::new(ForwardedAgent { hub, id, connection, data }))
    }
}

/// Bytes from the agent to one step.
pub(super) struct ForwardedAgent {
    hub: AgentHub,
    id: String,
    connection: u32,
    data: mpsc::Receiver<Bytes>,
}

impl Stream for ForwardedAgent {
    type Item = Result<ssh::BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.data.poll_recv(context).map(|data| data.map(|data| Ok(ssh::BytesMessage { data })))
    }
}

impl Drop for ForwardedAgent {
    fn drop(&mut self) {
        if let Some(towards) = self.hub.close(&self.id, self.connection) {
            // A full queue means that the agent does not read; it learns of the end with the build's.
            let _ = towards.try_send(AgentFrame {
                connection: self.connection,
                data: Bytes::new(),
                closed: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_waits_for_its_agent_and_not_for_one_that_is_gone() {
        let hub = AgentHub::new(["default".to_owned()]);
        let waiting = tokio::spawn({
            let hub = hub.clone();
            async move { hub.attached("default").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let attachment = hub.attach("default").expect("attached");
        waiting.await.expect("no panic");
        assert!(hub.open("default").is_ok());
        attachment.detach("gone");
        hub.attached("default").await;
        assert!(hub.open("default").is_err());
    }
}
