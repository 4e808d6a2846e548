//! A conversation with one build server: attest, upload, create, watch, fetch. When the connection breaks, a
//! new one is made and attested again before anything more is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::v1;
use proto::v1::context_service_client::ContextServiceClient;
use provenance::digest::Sha256Digest;
use provenance::project::{Project, ProjectId};
use provenance::timestamp::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use verifier::{Endorsements, Policy};

use crate::channel::{AttestedChannel, AttestedService, ChannelError, Endpoint, UnappraisedChannel};
use crate::context::{Blob, ContextError, Tree, Uploaded, upload};
use crate::key::CallerKey;
use crate::request::Prepared;

/// Pauses between attempts to connect again.
const PAUSES: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];

/// Pause before a blob is asked for again that another connection uploads.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Everything that is needed to attest a connection, again and again.
#[derive(Clone)]
pub struct Connector {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// The caller's key.
    pub key: Arc<CallerKey>,
    /// The project that owns the builds.
    pub project: Project,
    /// What a server must be.
    pub policy: Arc<Policy>,
    /// Host key documents of machines with Secure Execution, certificates above them and revocation lists. Without them a
    /// server there cannot be attested.
    pub host_keys: Option<Arc<Endorsements>>,
}

/// The caller's clock.
#[must_use]
pub fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_unix(seconds).unwrap_or_else(|_| Timestamp::from_unix(0).expect("zero is in range"))
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no attested connection.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The context cannot be read or uploaded.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The server answered with an error.
    #[error("{}", said(.0))]
    Service(Box<Status>),
    /// The server breaks the protocol. Fault: the server.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

/// What a status says to people.
#[must_use]
pub fn said(status: &Status) -> &str {
    match status.message() {
        "" => status.code().description(),
        message => message,
    }
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        Self::Service(Box::new(status))
    }
}

impl SessionError {
    /// Whether another build of the project uploads the same blob at this moment.
    fn is_busy(&self) -> bool {
        let Self::Context(ContextError::Service(status)) = self else { return false };
        status.get_details_error_info().is_some_and(|info| info.reason == "UPLOAD_BUSY")
    }

    /// Whether a new connection may help.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        match self {
            Self::Service(status) => is_cut(status),
            Self::Context(ContextError::Service(status)) => is_cut(status),
            Self::Channel(
                ChannelError::Connect { .. }
                | ChannelError::ConnectTimeout { .. }
                | ChannelError::Http2 { .. },
            ) => true,
            Self::Channel(ChannelError::Tls { .. }) => true,
            Self::Channel(ChannelError::NoEvidence { status, .. }) => is_cut(status),
            _ => false,
        }
    }
}

/// A status that this side made because the transport failed has a source; one that the server sent has none.
fn is_cut(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

impl Connector {
    /// A new connection, appraised.
    pub async fn attest(&self) -> Result<AttestedChannel, ChannelError> {
        let channel = UnappraisedChannel::connect(&self.endpoint, &self.key).await?;
        channel.appraise(&self.policy, &self.project, self.host_keys.as_deref(), now()).await
    }

    /// Connects again, with pauses, and appraises. Gives the last error when all attempts fail.
    async fn attest_again(&self) -> Result<AttestedChannel, SessionError> {
        let mut last = None;
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            match self.attest().await {
                Ok(channel) => return Ok(channel),
                Err(error) => {
                    let error = SessionError::from(error);
                    // A server that the verifier refuses does not become another one by asking again.
                    if !error.is_cut() {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.expect("there is at least one pause, so at least one attempt"))
    }
}

/// Uploads beside a conversation; when the connection breaks it makes one of its own.
pub struct Uploader {
    connector: Connector,
    contexts: ContextServiceClient<AttestedService>,
}

impl Uploader {
    /// Uploads what the project's store lacks. A cut connection is made again a few times; what the server
    /// has received is kept. What another connection uploads at this moment is waited for.
    pub async fn upload(
        &mut self,
        trees: &[Tree],
        blobs: &HashMap<Sha256Digest, Blob>,
        sent: Arc<AtomicU64>,
    ) -> Result<Uploaded, SessionError> {
        let trees: Vec<&Tree> = trees.iter().collect();
        let mut attempts = 0;
        loop {
            let result =
                upload(self.contexts.clone(), self.connector.project.id(), &trees, blobs, sent.clone()).await;
            let error = match result {
                Ok(uploaded) => return Ok(uploaded),
                Err(error) => SessionError::from(error),
            };
            if error.is_busy() {
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            attempts += 1;
            if !error.is_cut() || attempts > 3 {
                return Err(error);
            }
            self.contexts = self.connector.attest_again().await?.contexts();
        }
    }
}

/// Somebody who is shown a build while it runs.
pub trait Watcher: Send {
    /// The next event; each comes exactly once and in order.
    fn event(&mut self, event: &v1::BuildEvent);
    /// The connection was cut and is being made again.
    fn cut(&mut self, error: &SessionError);
}

/// An attested conversation.
pub struct Session {
    connector: Connector,
    channel: AttestedChannel,
}

impl Session {
    /// Connects and appraises.
    pub async fn open(connector: Connector) -> Result<Self, ChannelError> {
        let channel = connector.attest().await?;
        Ok(Self { connector, channel })
    }

    /// The connection in use.
    #[must_use]
    pub fn channel(&self) -> &AttestedChannel {
        &self.channel
    }

    /// Id of the project.
    #[must_use]
    pub fn project(&self) -> ProjectId {
        self.connector.project.id()
    }

    /// Resource name of a build; a full name stays as it is.
    #[must_use]
    pub fn build_name(&self, id: &str) -> String {
        if id.starts_with("projects/") {
            id.to_owned()
        } else {
            format!("projects/{}/builds/{id}", self.project())
        }
    }

    /// Connects again, with pauses, and appraises. Gives the last error when all attempts fail.
    pub async fn reconnect(&mut self) -> Result<(), SessionError> {
        self.channel = self.connector.attest_again().await?;
        Ok(())
    }

    /// The uploading part of this conversation. It starts on the same connection.
    #[must_use]
    pub fn uploader(&self) -> Uploader {
        Uploader { connector: self.connector.clone(), contexts: self.channel.contexts() }
    }

    /// Starts the build. Idempotent, so a cut connection is no reason to wonder.
    pub async fn create(&mut self, prepared: &Prepared) -> Result<v1::Build, SessionError> {
        let mut attempts = 0;
        loop {
            let request = v1::CreateBuildRequest {
                parent: format!("projects/{}", self.project()),
                build_id: prepared.request.build_id.to_string(),
                signed_request: prepared.signed.clone().into(),
                secrets: prepared.secrets.message(),
                registry_credentials: prepared.credentials.clone(),
            };
            let error = match self.channel.builds().create_build(request).await {
                Ok(build) => return Ok(build.into_inner()),
                Err(status) => SessionError::from(status),
            };
            attempts += 1;
            if !error.is_cut() || attempts > 3 {
                return Err(error);
            }
            self.reconnect().await?;
        }
    }

    /// The build's state.
    pub async fn get(&self, name: &str) -> Result<v1::Build, SessionError> {
        let request = v1::GetBuildRequest { name: name.to_owned() };
        Ok(self.channel.builds().get_build(request).await?.into_inner())
    }

    /// Asks a build to end.
    pub async fn cancel(&self, name: &str) -> Result<v1::Build, SessionError> {
        let request = v1::CancelBuildRequest { name: name.to_owned() };
        Ok(self.channel.builds().cancel_build(request).await?.into_inner())
    }

    /// One page of the project's builds, newest first; an empty token ends the list.
    pub async fn list(
        &self,
        page_size: i32,
        page_token: &str,
        filter: &str,
    ) -> Result<(Vec<v1::Build>, String), SessionError> {
        let request = v1::ListBuildsRequest {
            parent: format!("projects/{}", self.project()),
            page_size,
            page_token: page_token.to_owned(),
            filter: filter.to_owned(),
        };
        let answer = self.channel.builds().list_builds(request).await?.into_inner();
        Ok((answer.builds, answer.next_page_token))
    }

    /// Watches a build from the event after `after` to its end and gives its last state, also over cut connections.
    ///
    /// Cancel safe but for `after`: dropping it loses the number of the last event.
    pub async fn watch(
        &mut self,
        name: &str,
        mut after: u64,
        watcher: &mut dyn Watcher,
    ) -> Result<v1::Build, SessionError> {
        let mut last = None;
        loop {
            match self.watch_once(name, &mut after, &mut last, watcher).await {
                Ok(()) => break,
                Err(error) if error.is_cut() => {
                    watcher.cut(&error);
                    self.reconnect().await?;
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(build) if is_terminal(&build) => Ok(build),
            _ => {
                let build = self.get(name).await?;
                if is_terminal(&build) {
                    return Ok(build);
                }
                Err(SessionError::Protocol("the events ended before the build did".to_owned()))
            }
        }
    }

    async fn watch_once(
        &self,
        name: &str,
        after: &mut u64,
        last: &mut Option<v1::Build>,
        watcher: &mut dyn Watcher,
    ) -> Result<(), SessionError> {
        let request = v1::WatchBuildRequest { name: name.to_owned(), after: *after };
        let mut stream = self.channel.builds().watch_build(request).await?.into_inner();
        while let Some(event) = stream.message().await? {
            if event.number != *after + 1 {
                let problem =
                    format!("event {} follows event {after}; numbers must have no gaps", event.number);
                return Err(SessionError::Protocol(problem));
            }
            *after = event.number;
            if let Some(v1::build_event::Event::StateChanged(v1::StateChanged { build: Some(build) })) =
                &event.event
            {
                *last = Some(build.clone());
            }
            watcher.event(&event);
        }
        Ok(())
    }
}

/// Whether a build has ended.
#[must_use]
pub fn is_terminal(build: &v1::Build) -> bool {
    use v1::build::State;
    matches!(build.state(), State::Succeeded | State::Failed | State::Cancelled)
}
