//! The whole server from its configuration and an Attester: engine, keys, pipeline, service. The shipped binary
//! and the development server differ only in the Attester and the boundary that they hand in.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use enclave_keys::process::{KeyClient, KeyFailure};
use enclave_keys::{InstanceInputs, SecureExecutionHeader};
use provenance::digest::Sha256Digest;
use tokio_util::sync::CancellationToken;

use crate::buildkit::{Engine, EngineError, EngineOptions};
use crate::clock;
use crate::config::{Operations, Trust};
use crate::endorsements::TdxEndorsementsFile;
use crate::engine::Begun;
use crate::memory;
use crate::pipeline::{Boundary, Pipeline};
use crate::publish::registry::{Publisher, PublisherConfig, PushError};
use crate::service::{Server, StartError, State};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssemblyError {
    /// State, address or TLS.
    #[error(transparent)]
    Service(#[from] StartError),
    /// The engine's programs or directory.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No keys or no Evidence.
    #[error(transparent)]
    Keys(#[from] KeyFailure),
    /// Registry settings.
    #[error(transparent)]
    Registries(#[from] PushError),
    /// The engine process has read another trust configuration than this process.
    #[error(
        "the trust configuration was changed while the server started: the engine process has read {engine}, the \
         service {service}; start the server again"
    )]
    TrustChanged {
        /// SHA-256 of what the engine process has read.
        engine: Sha256Digest,
        /// SHA-256 of what this process has read.
        service: Sha256Digest,
    },
    /// The header of the Secure Execution image cannot be read or is none.
    #[error("`secure_execution_header` {path}: {problem}")]
    Header {
        /// Path of the file.
        path: String,
        /// What was seen.
        problem: String,
    },
    /// A task ended without an answer: a bug.
    #[error("a task ended unexpectedly while starting: {0}")]
    Bug(String),
}

/// What the two binaries decide for themselves.
pub struct Parts {
    /// The connection to the key process.
    pub keys: UnixStream,
    /// The connection to the engine process.
    pub engine: UnixStream,
    /// Called after each step of the pipeline.
    pub boundary: Boundary,
    /// Speak plain http to registries on loopback, as Docker does.
    pub plain_http_on_loopback: bool,
}

/// A started server and the facts it depends on.
pub struct Assembled {
    /// The server, listening.
    pub server: Server,
    /// Keys and Evidence.
    pub keys: KeyClient,
}

/// Most bytes that are read of a Secure Execution header, one more than it may have.
const LONGEST_HEADER: u64 = (8 << 10) + 1;
/// Threads that may block beside those of a build: key requests, look-ups, downloads.
const BLOCKING: usize = 512;
/// Threads that may block for each build that runs: transfers of contexts wait for their bytes.
const BLOCKING_PER_BUILD: usize = 64;

/// The runtime of a server with this configuration: builds that wait for their contexts must not keep the threads that
/// would receive them.
pub fn runtime(operations: &Operations) -> std::io::Result<tokio::runtime::Runtime> {
    memory::keep_little();
    let blocking = BLOCKING.saturating_add(operations.builds.parallel.saturating_mul(BLOCKING_PER_BUILD));
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(blocking).build()
}

/// Starts everything in the order in which it depends on each other; serves only once Evidence was obtained.
pub async fn assemble(
    operations: &Operations,
    trust: &Trust,
    parts: Parts,
) -> Result<Assembled, AssemblyError> {
    let state = State::open(operations)?;
    let options = EngineOptions {
        layers: operations.state_directory.join("layers"),
        idle_stop: operations.engine.idle_stop.0,
        cache_limit_bytes: operations.engine.cache_bytes.0,
        max_daemons: operations.max_daemons(),
    };
    let begin = tokio::task::spawn_blocking(move || Engine::begin(parts.engine, options));
    let (engine, begun) = begin.await.map_err(|error| AssemblyError::Bug(error.to_string()))??;
    let trust_sha256 = trust.sha256();
    if begun.trust_sha256 != trust_sha256 {
        return Err(AssemblyError::TrustChanged { engine: begun.trust_sha256, service: trust_sha256 });
    }
    let publisher = Publisher::new(PublisherConfig {
        plain_http: operations.engine.plain_http_registries.clone(),
        plain_http_on_loopback: parts.plain_http_on_loopback,
        ..PublisherConfig::default()
    })?;
    let keys_ended = CancellationToken::new();
    let keys = start_keys(operations, trust, begun, parts.keys, keys_ended.clone()).await?;
    let pipeline = Pipeline {
        engine,
        keys: keys.clone(),
        policy: trust.build_policy.clone(),
        publisher,
        endorsements: TdxEndorsementsFile::new(operations.tdx_endorsements.as_deref()),
        boundary: parts.boundary,
    };
    let server =
        Server::start(state, operations, trust, keys.clone(), keys_ended, Arc::new(pipeline)).await?;
    Ok(Assembled { server, keys })
}

async fn start_keys(
    operations: &Operations,
    trust: &Trust,
    engine: Begun,
    connection: UnixStream,
    ended: CancellationToken,
) -> Result<KeyClient, AssemblyError> {
    let (trust_configuration, build_policy_sha256) = (trust.document(), trust.build_policy.sha256());
    let builder_id = trust.builder_id.clone();
    let header = operations.secure_execution_header.clone();
    let start = move || {
        let inputs = InstanceInputs {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            builder_id,
            buildkitd: engine.buildkitd,
            runc: engine.runc,
            trust_configuration,
            build_policy_sha256,
            started_at: clock::now(),
            secure_execution_header: header.as_deref().map(read_header).transpose()?,
        };
        Ok(KeyClient::connect(connection, &inputs, move || ended.cancel())?)
    };
    tokio::task::spawn_blocking(start).await.map_err(|error| AssemblyError::Bug(error.to_string()))?
}

/// The header of the image, from the operator's file.
fn read_header(path: &Path) -> Result<SecureExecutionHeader, AssemblyError> {
    use std::io::Read as _;
    let failed = |problem: String| AssemblyError::Header { path: path.display().to_string(), problem };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_HEADER).read_to_end(&mut bytes))
        .map_err(|error| failed(error.to_string()))?;
    SecureExecutionHeader::parse(&bytes).map_err(|error| failed(error.to_string()))
}
