//! The service put together: state, queue, gRPC over TLS, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enclave_keys::process::KeyClient;
use proto::v1::attestation_service_server::AttestationServiceServer;
use proto::v1::build_service_server::BuildServiceServer;
use proto::v1::context_service_server::ContextServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::api::access::Access;
use crate::api::attestation::{Attestation, KEY_REQUESTS};
use crate::api::builds::Builds;
use crate::api::connection::{Connection, accept};
use crate::api::contexts::Contexts;
use crate::api::tls::{TlsError, server_config};
use crate::config::{Operations, Trust};
use crate::context_store::{ContextStore, StoreError};
use crate::endorsements::TdxEndorsementsFile;
use crate::jobs::{BuildRunner, JobError, JobStore, Queue, StateLock};
use crate::memory::give_back;
use crate::reserve::Reserve;

/// Largest message of a client to each service, in bytes: a signed request with its secrets and logins; 3 MiB
/// of data or 50,000 digests; a nonce or a name, with an attestation request of at most 32 KiB.
const BUILD_MESSAGE: usize = 12 << 20;
const CONTEXT_MESSAGE: usize = 4 << 20;
const ATTESTATION_MESSAGE: usize = 48 << 10;
/// Largest header list: a project document of 64 KiB in base64 and some more.
const HEADER_LIST: u32 = 128 << 10;
/// HTTP/2 windows (RFC 9113 §6.9): enough that an upload does not wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest HTTP/2 frame: with the default of 16 KiB an upload is 200 frames per message, and with 1 MiB the buffers
/// that stay allocated after a large one are 40 MiB more.
const FRAME: u32 = 128 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the key process is asked how the device does.
const DEVICE_WATCH: Duration = Duration::from_secs(2);
/// When retention looks for the first time: also a server that is restarted often must keep to its limits.
const FIRST_SWEEP: Duration = Duration::from_secs(60);
/// How often it looks then.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// How long calls may go on after the last build has ended.
const CALLS_GRACE: Duration = Duration::from_secs(3);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The job store or the state directory's lock.
    #[error(transparent)]
    Jobs(#[from] JobError),
    /// The context store.
    #[error(transparent)]
    Contexts(#[from] StoreError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address.
    #[error("cannot listen on {address}: {problem}{}", in_use(problem))]
    Listen {
        /// Address as configured.
        address: SocketAddr,
        /// What the operating system says.
        problem: io::Error,
    },
    /// Reflection data that does not decode: our bug.
    #[error("gRPC reflection: {0}")]
    Reflection(String),
}

/// What to do about an address that cannot be listened on.
fn in_use(problem: &io::Error) -> &'static str {
    match problem.kind() {
        io::ErrorKind::AddrInUse => {
            "; end what listens there (`ss -ltnp` shows it), or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => "; give an address of this machine",
        _ => "",
    }
}

/// The gRPC server ended although nobody had asked for it.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server ended by itself: {problem}; builds were drained, start it again")]
pub struct EndedByItself {
    problem: String,
}

/// What is kept: the state directory, locked for this process.
pub struct State {
    directory: PathBuf,
    lock: StateLock,
    jobs: Arc<JobStore>,
    contexts: ContextStore,
}

impl State {
    /// Locks and opens the state directory. Call it before anything else touches the directory.
    pub fn open(operations: &Operations) -> Result<Self, StartError> {
        let directory = operations.state_directory.clone();
        // On a full disk nothing of what follows could be opened.
        Reserve::of(&directory).look();
        let lock = StateLock::acquire(&directory)?;
        let jobs = Arc::new(JobStore::open(&directory.join("jobs.sqlite"))?);
        let contexts = ContextStore::open(&directory.join("contexts"), operations.store_limits())?;
        Ok(Self { directory, lock, jobs, contexts })
    }
}

/// The running service.
pub struct Server {
    address: SocketAddr,
    resumed: usize,
    failed: usize,
    queue: Queue,
    drain: Duration,
    /// Stops accepting and sweeping.
    stop: CancellationToken,
    /// Ends the gRPC server once its calls have ended.
    finish: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    health: tonic_health::server::HealthReporter,
    _lock: StateLock,
}

impl Server {
    /// Takes up what an earlier process left, binds the address and serves. The keys have obtained Evidence
    /// before, so nobody is ever served without; once
    /// `keys_ended`, health says so.
    pub async fn start(
        state: State,
        operations: &Operations,
        trust: &Trust,
        keys: KeyClient,
        keys_ended: CancellationToken,
        runner: Arc<dyn BuildRunner>,
    ) -> Result<Self, StartError> {
        let tls = server_config(&keys)?;
        let State { directory, lock, jobs, contexts } = state;
        let queue = Queue::new(jobs.clone(), contexts.clone(), runner, operations.queue_limits(), &directory);
        let listen_failed = |problem| StartError::Listen { address: operations.listen, problem };
        let listener = TcpListener::bind(operations.listen).await.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;
        let (resumed, failed) = queue.recover()?;

        let access = Access::new(trust.admission(), jobs.clone());
        let endorsements = TdxEndorsementsFile::new(operations.tdx_endorsements.as_deref());
        let platform = keys.instance().platform;
        let key_process = keys.clone();
        let key_requests = Arc::new(Semaphore::new(KEY_REQUESTS));
        let attestation = Attestation { keys, access: access.clone(), endorsements, key_requests };
        let builds = Builds {
            queue: queue.clone(),
            access: access.clone(),
            platform,
            issued_window: trust.issued_window.0,
        };
        let upload = Contexts { store: contexts.clone(), access };
        let (health, routes) = routes(attestation, builds, upload).await?;

        let stop = CancellationToken::new();
        let finish = CancellationToken::new();
        let (ready, incoming) = mpsc::channel::<io::Result<Connection>>(16);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(accept(listener, acceptor, operations.connection_limits(), ready, stop.clone()));
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(operations.connections.calls)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(HEADER_LIST)
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), finish.clone().cancelled_owned());
        let serving = tokio::spawn(server);
        tokio::spawn(sweep(jobs, contexts, operations.clone(), directory.join("results"), stop.clone()));
        tokio::spawn(Reserve::of(&directory).watch(stop.clone()));
        tokio::spawn(watch_keys(health.clone(), key_process, keys_ended, stop.clone()));
        tokio::spawn(give_back(queue.clone(), stop.clone()));
        let drain = operations.drain.0;
        Ok(Self { address, resumed, failed, queue, drain, stop, finish, serving, health, _lock: lock })
    }

    /// Address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many builds of an earlier process go on, and how many failed.
    #[must_use]
    pub fn recovered(&self) -> (usize, usize) {
        (self.resumed, self.failed)
    }

    /// Serves until `shutdown`, then drains: no new connections or builds, running builds get the configured
    /// time, then they are ended; the engine is stopped; watchers see how their builds end.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), EndedByItself> {
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            ended = &mut self.serving => Err(EndedByItself { problem: format!("{ended:?}") }),
        };
        self.stop.cancel();
        not_serving(&self.health).await;
        self.queue.drain(self.drain).await;
        self.finish.cancel();
        if !self.serving.is_finished() {
            // Watchers of builds that stay queued would wait for ever.
            let _ = tokio::time::timeout(CALLS_GRACE, &mut self.serving).await;
            self.serving.abort();
        }
        outcome
    }
}

async fn not_serving(health: &tonic_health::server::HealthReporter) {
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
    }
}

/// Tells health, once `keys_ended` or the device has lost its key, that nothing is signed any more.
async fn watch_keys(
    health: tonic_health::server::HealthReporter,
    keys: KeyClient,
    keys_ended: CancellationToken,
    stop: CancellationToken,
) {
    let why = loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = keys_ended.cancelled() => break "the key process has ended".to_owned(),
            () = tokio::time::sleep(DEVICE_WATCH) => {}
        }
        let keys = keys.clone();
        match tokio::task::spawn_blocking(move || keys.health()).await {
            Ok(Ok(device)) if device.key_wiped => break device.failing.unwrap_or_default(),
            // What ends the connection cancels `keys_ended`.
            _ => {}
        }
    };
    tracing::error!("{why}: nothing is signed any more, start the guest anew");
    not_serving(&health).await;
}

const SERVICES: [&str; 4] =
    ["", "sealwright.v1.AttestationService", "sealwright.v1.BuildService", "sealwright.v1.ContextService"];

async fn routes(
    attestation: Attestation,
    builds: Builds,
    contexts: Contexts,
) -> Result<(tonic_health::server::HealthReporter, tonic::service::Routes), StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that tools can print the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| StartError::Reflection(error.to_string());
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(
            AttestationServiceServer::new(attestation).max_decoding_message_size(ATTESTATION_MESSAGE),
        )
        .add_service(BuildServiceServer::new(builds).max_decoding_message_size(BUILD_MESSAGE))
        .add_service(ContextServiceServer::new(contexts).max_decoding_message_size(CONTEXT_MESSAGE))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(failed)?)
        .add_service(reflection().build_v1alpha().map_err(failed)?);
    Ok((health, routes.routes()))
}

/// Removes what retention says, now and then.
async fn sweep(
    jobs: Arc<JobStore>,
    contexts: ContextStore,
    operations: Operations,
    results: PathBuf,
    stop: CancellationToken,
) {
    let mut pause = FIRST_SWEEP;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = SWEEP_INTERVAL,
        }
        let (jobs, contexts, limits, results) =
            (jobs.clone(), contexts.clone(), operations.job_limits(), results.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            match jobs.sweep(&limits, &results, now) {
                Ok(retired) => {
                    tracing::info!(builds = retired.builds, results = retired.results, "retention of builds")
                }
                Err(error) => tracing::error!(%error, "retention of builds failed"),
            }
            match contexts.sweep(now) {
                Ok(swept) => {
                    tracing::info!(blobs = swept.blobs, bytes = swept.bytes, "retention of contexts")
                }
                Err(error) => tracing::error!(%error, "retention of contexts failed"),
            }
        });
        if let Err(error) = swept.await {
            tracing::error!(%error, "retention panicked");
        }
    }
}

/// What the running server depends on, one line per fact, for its operator.
#[must_use]
pub fn facts(server: &Server, keys: &KeyClient, operations: &Operations) -> Vec<String> {
    let instance = keys.instance();
    let (resumed, failed) = server.recovered();
    vec![
        format!("platform   {}", instance.platform),
        format!("key        epoch {}, {}", instance.epoch, keys.epoch_start()),
        format!("           {}", instance.key_origin.explanation()),
        format!(
            "engine     buildkitd {} {}, runc {} {}",
            instance.buildkitd.version,
            instance.buildkitd.sha256.short(),
            instance.runc.version,
            instance.runc.sha256.short(),
        ),
        format!(
            "state      {}, {resumed} builds resumed, {failed} failed",
            operations.state_directory.display()
        ),
        format!("listening  {} (attested TLS)", server.local_addr()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_told_once_and_with_advice() {
        let problem = io::Error::from(io::ErrorKind::AddrInUse);
        let error = StartError::Listen { address: ([127, 0, 0, 1], 1).into(), problem };
        assert_eq!(
            error.to_string(),
            "cannot listen on 127.0.0.1:1: address in use; end what listens there (`ss -ltnp` shows it), \
             or choose another address"
        );
        assert!(std::error::Error::source(&error).is_none(), "a chain would tell it again");
    }
}
