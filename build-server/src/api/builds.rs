//! BuildService: builds from their signed request to their result.

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::v1;
use proto::v1::build_service_server::BuildService;
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::project::ProjectId;
use provenance::request::{InvalidRequest, SignedRequest, authenticate_request};
use provenance::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::access::{Access, Member, caller};
use super::attestation::check_challenge;
use super::errors::ApiError;
use super::names::{self, BuildName};
use super::{agents, download};
use crate::jobs::{BuildRecord, JobStore, Queue, State, Submission};
use crate::secrets::{RegistryCredentials, RegistryLogin, SecretValues};

/// Most builds of one page, and the number when the caller names none.
const MAX_PAGE: i32 = 100;
const DEFAULT_PAGE: i32 = 50;
/// Events read at once for a watcher; they are at most some tens of kilobytes each.
const EVENT_PAGE: usize = 128;

/// The service.
#[derive(Clone)]
pub struct Builds {
    /// The queue.
    pub queue: Queue,
    /// Who may call.
    pub access: Access,
    /// What this guest runs on.
    pub platform: Platform,
    /// How far a request's issue time may lie from the guest's clock, either way.
    pub issued_window: Duration,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Builds {
    /// The member and the build that a call names.
    async fn build<T>(&self, request: &Request<T>, name: &str) -> Result<(Member, BuildRecord), ApiError> {
        let build = parse_build(name)?;
        let member = self.access.member(request, build.project, name).await?;
        let record = self.record(build).await?.ok_or_else(|| member.not_found(name))?;
        Ok((member, record))
    }

    async fn record(&self, name: BuildName) -> Result<Option<BuildRecord>, ApiError> {
        let store = self.queue.store().clone();
        super::blocking(move || Ok(store.build(&name)?)).await
    }

    async fn create(&self, request: Request<v1::CreateBuildRequest>) -> Result<v1::Build, ApiError> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let project =
            names::parse_project(&message.parent).map_err(|name| ApiError::Name { field: "parent", name })?;
        let signed = authenticate_request(&message.signed_request, &caller).map_err(|error| match error {
            InvalidRequest::NotAMember { caller, .. } => {
                ApiError::NotFound { name: message.parent.clone(), caller }
            }
            other => ApiError::Request(other),
        })?;
        let document = signed.request();
        let named = document.project.id();
        if named != project {
            let problem = format!("is projects/{project}, the signed request is of projects/{named}");
            return Err(ApiError::field("parent", problem));
        }
        if document.build_id.to_string() != message.build_id {
            let problem =
                format!("is `{}`, the signed request says `{}`", message.build_id, document.build_id);
            return Err(ApiError::field("build_id", problem));
        }
        self.access.admission().admit(&project)?;
        check_challenge(self.platform, document.attestation_request.as_ref())?;
        // A caller that repeats a call whose answer it lost gets that answer, however late.
        let name = BuildName { project, build: document.build_id.clone() };
        if let Some(existing) = self.record(name).await?
            && existing.request_sha256 == signed.request_sha256()
            && existing.caller == caller
        {
            return Ok(existing.to_wire());
        }
        self.check_issue_time(&signed)?;
        let secrets = secrets(&signed, message.secrets)?;
        let credentials =
            RegistryCredentials::new(message.registry_credentials.into_iter().map(login).collect())?;
        let queue = self.queue.clone();
        let submission = Submission { signed, caller, secrets, credentials };
        // A task of its own: a build that was stored gets its task even when the caller hangs up now.
        let submitted = tokio::spawn(async move { queue.submit(submission).await });
        let record = submitted.await.map_err(|error| ApiError::Internal(error.to_string()))??;
        Ok(record.to_wire())
    }

    /// Where a page begins. The token is the last build of the page before: a number of our own would tell how
    /// many builds other projects have.
    async fn page_start(&self, project: ProjectId, token: &str) -> Result<Option<i64>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        let unknown =
            || ApiError::field("page_token", "is none that this server gave, or its build is no longer kept");
        let build = token.to_owned().try_into().map_err(|_| unknown())?;
        let record = self.record(BuildName { project, build }).await?;
        record.map(|record| Some(record.row)).ok_or_else(unknown)
    }

    /// Old requests are refused, so that a build id that retention has forgotten cannot be used again with a
    /// request from back then.
    fn check_issue_time(&self, signed: &SignedRequest) -> Result<(), ApiError> {
        let issued = signed.request().issued_at;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = Timestamp::from_unix(i64::try_from(since).unwrap_or(0))
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        if issued.unix().abs_diff(now.unix()) > self.issued_window.as_secs() {
            return Err(ApiError::IssuedAt { issued, now, window: self.issued_window });
        }
        Ok(())
    }
}

pub(super) fn parse_build(name: &str) -> Result<BuildName, ApiError> {
    names::parse_build(name).map_err(|name| ApiError::Name { field: "name", name })
}

fn secrets(signed: &SignedRequest, secrets: Option<v1::Secrets>) -> Result<SecretValues, ApiError> {
    let v1::Secrets { commitment_key, secrets } = secrets.unwrap_or_default();
    let values =
        secrets.into_iter().map(|secret| (secret.id, Zeroizing::new(secret.value.to_vec()))).collect();
    Ok(SecretValues::new(signed.request().secrets.as_ref(), &commitment_key, values)?)
}

fn login(credential: v1::RegistryCredential) -> (String, RegistryLogin) {
    let v1::RegistryCredential { host, username, password, identity_token } = credential;
    let (password, identity_token) = (Zeroizing::new(password), Zeroizing::new(identity_token));
    (host, RegistryLogin { username, password, identity_token })
}

#[tonic::async_trait]
impl BuildService for Builds {
    async fn create_build(
        &self,
        request: Request<v1::CreateBuildRequest>,
    ) -> Result<Response<v1::Build>, Status> {
        Ok(Response::new(self.create(request).await?))
    }

    async fn get_build(&self, request: Request<v1::GetBuildRequest>) -> Result<Response<v1::Build>, Status> {
        let (_, record) = self.build(&request, &request.get_ref().name).await?;
        Ok(Response::new(record.to_wire()))
    }

    async fn list_builds(
        &self,
        request: Request<v1::ListBuildsRequest>,
    ) -> Result<Response<v1::ListBuildsResponse>, Status> {
        let parent = &request.get_ref().parent;
        let project =
            names::parse_project(parent).map_err(|name| ApiError::Name { field: "parent", name })?;
        self.access.member(&request, project, parent).await?;
        let v1::ListBuildsRequest { page_size, page_token, filter, .. } = request.into_inner();
        let size = match page_size {
            0 => DEFAULT_PAGE,
            1..=MAX_PAGE => page_size,
            _ => {
                return Err(
                    ApiError::field("page_size", format!("is {page_size}, wanted 0 to {MAX_PAGE}")).into()
                );
            }
        };
        let size = usize::try_from(size).unwrap_or(1);
        let before = self.page_start(project, &page_token).await?;
        let state = parse_filter(&filter)?;
        let store = self.queue.store().clone();
        // One more than the page tells whether there is a next one.
        let mut records = super::blocking(move || Ok(store.list(&project, state, before, size + 1)?)).await?;
        let more = records.len() > size;
        records.truncate(size);
        let next_page_token = match records.last() {
            Some(last) if more => last.name.build.to_string(),
            _ => String::new(),
        };
        let builds = records.iter().map(BuildRecord::to_wire).collect();
        Ok(Response::new(v1::ListBuildsResponse { builds, next_page_token }))
    }

    type WatchBuildStream = ResponseStream<v1::BuildEvent>;

    async fn watch_build(
        &self,
        request: Request<v1::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        let (_, record) = self.build(&request, &request.get_ref().name).await?;
        let after = request.get_ref().after;
        let (sender, receiver) = mpsc::channel(16);
        let store = self.queue.store().clone();
        // Ends when the watcher goes: its receiver is dropped then.
        tokio::spawn(watch(store, record.row, after, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_build(
        &self,
        request: Request<v1::CancelBuildRequest>,
    ) -> Result<Response<v1::Build>, Status> {
        let (_, record) = self.build(&request, &request.get_ref().name).await?;
        self.queue.cancel(&record.name);
        Ok(Response::new(record.to_wire()))
    }

    type ReadBlobStream = ResponseStream<v1::ReadBlobResponse>;

    async fn read_blob(
        &self,
        request: Request<v1::ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let (_, record) = self.build(&request, &request.get_ref().name).await?;
        let v1::ReadBlobRequest { digest, offset, .. } = request.into_inner();
        let digest: Sha256Digest = digest
            .parse()
            .map_err(|e: provenance::digest::InvalidDigest| ApiError::field("digest", e.to_string()))?;
        let directory = self.queue.result_directory(&record.name);
        let blob = super::blocking(move || download::open(&record, &directory, digest, offset)).await?;
        Ok(Response::new(Box::pin(blob.stream())))
    }

    type ForwardAgentStream = ResponseStream<v1::ForwardAgentResponse>;

    async fn forward_agent(
        &self,
        mut request: Request<Streaming<v1::ForwardAgentRequest>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let Some(first) = request.get_mut().message().await? else {
            return Err(ApiError::field("name", "the stream ended before its first message").into());
        };
        let (_, record) = self.build(&request, &first.name).await?;
        let hub = self.queue.agents(&record.name);
        let stream = agents::attach(hub, &first, request.into_inner())?;
        Ok(Response::new(stream))
    }
}

/// Empty, or `state = NAME`.
fn parse_filter(filter: &str) -> Result<Option<State>, ApiError> {
    if filter.trim().is_empty() {
        return Ok(None);
    }
    let state =
        filter.split_once('=').filter(|(field, _)| field.trim() == "state").map(|(_, value)| value.trim());
    let state =
        state.and_then(v1::build::State::from_str_name).and_then(|state| State::from_number(state as i32));
    let wanted = "wanted nothing or `state = QUEUED|RUNNING|SUCCEEDED|FAILED|CANCELLED`";
    state.map(Some).ok_or_else(|| {
        ApiError::field("filter", format!("is `{}`, {wanted}", filter.chars().take(100).collect::<String>()))
    })
}

/// Sends a build's events from a number on until its last.
async fn watch(
    store: std::sync::Arc<JobStore>,
    row: i64,
    mut after: u64,
    sender: mpsc::Sender<Result<v1::BuildEvent, Status>>,
) {
    // Before the first read, so that nothing falls between reading and waiting.
    let mut news = store.subscribe(row);
    loop {
        news.mark_unchanged();
        let reader = store.clone();
        let page = super::blocking(move || Ok(reader.events(row, after, EVENT_PAGE)?)).await;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                let _ = sender.send(Err(error.into())).await;
                return;
            }
        };
        let full = page.events.len() == EVENT_PAGE;
        for event in page.events {
            after = event.number;
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if page.last {
            return;
        }
        if full {
            continue;
        }
        tokio::select! {
            () = sender.closed() => return,
            // An error says that the build has ended: the next read finds its last events.
            changed = news.changed() => if changed.is_err() {
                news = store.subscribe(row);
            },
        }
    }
}
