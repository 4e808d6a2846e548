//! Configuration: two TOML files, read once before anything is opened. *Operations* says where and how much;
//! *trust* says what a Relying Party must know, and is part of the instance document in full.
//!
//! Unknown keys are refused in both. docs/configuration.md describes every key.

mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::api::access::Admission;
use crate::api::connection::ConnectionLimits;
use crate::context_store::StoreLimits;
use crate::engine::DAEMONS_BESIDE_BUILDS;
use crate::jobs::{JobLimits, QueueLimits};

pub use crate::policy::BuildPolicy;
pub use units::{ByteCount, ServiceUid, Span};

/// Largest configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Directories in the state directory that are not the service's.
pub(crate) const KEYS: &str = "keys";
pub(crate) const ENGINE: &str = "engine";

/// Why a configuration is refused. Nothing has been opened or started then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path} cannot be read: {problem}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system says.
        problem: String,
    },
    /// No TOML of the wanted shape: syntax, an unknown or missing key, a wrong type.
    #[error("configuration {path}: {problem}")]
    Shape {
        /// The file.
        path: String,
        /// What is wrong and where.
        problem: String,
    },
    /// A key holds what it must not.
    #[error("configuration {path}: `{key}` {problem}")]
    Key {
        /// The file.
        path: String,
        /// The key.
        key: &'static str,
        /// What was seen and what is wanted.
        problem: String,
    },
}

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

/// Operations: where the service listens and keeps its state, and how much it may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Directory of everything that is kept.
    pub state_directory: PathBuf,
    /// User and group that the service runs as.
    #[serde(default)]
    pub service_uid: ServiceUid,
    /// How long running builds may go on after SIGTERM.
    #[serde(default = "default_drain")]
    pub drain: Span,
    /// File of TDX endorsements for Evidence that has none, kept current by the operator; read when it is needed.
    pub tdx_endorsements: Option<PathBuf>,
    /// File with the header of this guest's Secure Execution image, which the guest cannot read by itself; read at start.
    pub secure_execution_header: Option<PathBuf>,
    /// The engine.
    pub engine: EngineOptions,
    /// Builds and their queue.
    #[serde(default)]
    pub builds: BuildOptions,
    /// Uploaded contexts.
    #[serde(default)]
    pub contexts: ContextOptions,
    /// What ended builds keep.
    #[serde(default)]
    pub retention: RetentionOptions,
    /// Connections.
    #[serde(default)]
    pub connections: ConnectionOptions,
}

const fn default_drain() -> Span {
    seconds(30)
}

/// The engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineOptions {
    /// Path of buildkitd.
    pub buildkitd: PathBuf,
    /// Path of runc.
    pub runc: PathBuf,
    /// A project's daemon is stopped when it was idle for this long.
    #[serde(default = "default_idle_stop")]
    pub idle_stop: Span,
    /// Most bytes of a project's build cache.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: ByteCount,
    /// Steps that one project's daemon runs at the same time.
    #[serde(default = "default_parallel_steps")]
    pub parallel_steps: usize,
    /// Registries (`host:port`) that are spoken to without TLS.
    #[serde(default)]
    pub plain_http_registries: Vec<String>,
}

const fn default_idle_stop() -> Span {
    seconds(600)
}

const fn default_cache_bytes() -> ByteCount {
    ByteCount(50 << 30)
}

const fn default_parallel_steps() -> usize {
    4
}

/// Builds and their queue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildOptions {
    /// Builds that run at the same time.
    pub parallel: usize,
    /// Builds that may wait, of all projects.
    pub queued: u64,
    /// Builds that may wait, of one project.
    pub queued_per_project: u64,
    /// Longest run of one build.
    pub deadline: Span,
    /// Longest wait for a build's contexts to be uploaded.
    pub context_deadline: Span,
    /// Most bytes of logs and progress kept per build.
    pub log_bytes: ByteCount,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            parallel: 4,
            queued: 1000,
            queued_per_project: 100,
            deadline: seconds(4 * 3600),
            context_deadline: seconds(600),
            log_bytes: ByteCount(64 << 20),
        }
    }
}

/// Uploaded contexts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContextOptions {
    /// Most bytes per project.
    pub project_bytes: ByteCount,
    /// Largest file.
    pub blob_bytes: ByteCount,
    /// Most files and directories of one context.
    pub entries: u64,
    /// Contexts that no build used for this long are removed.
    pub age: Span,
}

impl Default for ContextOptions {
    fn default() -> Self {
        let limits = StoreLimits::default();
        Self {
            project_bytes: ByteCount(limits.project_bytes),
            blob_bytes: ByteCount(limits.blob_bytes),
            entries: limits.tree_entries,
            age: Span(limits.max_age),
        }
    }
}

/// What ended builds keep.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionOptions {
    /// Most bytes of results of all builds; the oldest go first.
    pub result_bytes: ByteCount,
    /// Results older than this go.
    pub result_age: Span,
    /// Most bytes of logs of all builds; the oldest builds go first.
    pub log_bytes: ByteCount,
    /// Builds that ended longer ago go, with logs and results.
    pub build_age: Span,
}

impl Default for RetentionOptions {
    fn default() -> Self {
        Self {
            result_bytes: ByteCount(100 << 30),
            result_age: seconds(7 * 86_400),
            log_bytes: ByteCount(4 << 30),
            build_age: seconds(90 * 86_400),
        }
    }
}

/// Connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionOptions {
    /// Connections at the same time; more wait.
    pub limit: usize,
    /// Longest TLS handshake.
    pub handshake: Span,
    /// Requests for Evidence that a connection may make at once; one more each second.
    pub evidence_burst: u32,
    /// Calls of one connection at the same time.
    pub calls: u32,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self { limit: 1024, handshake: seconds(10), evidence_burst: 8, calls: 128 }
    }
}

/// Trust: what a Relying Party judges this instance by.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// SLSA builder id that statements name (a URI).
    pub builder_id: String,
    /// Ids of the projects that may build here.
    #[serde(default)]
    pub admitted_projects: Vec<ProjectHex>,
    /// Whether every project may build here.
    #[serde(default)]
    pub admit_any_project: bool,
    /// How far a signed request's issue time may lie from this guest's clock.
    #[serde(default = "default_issued_window")]
    pub issued_window: Span,
    /// Mirrors per registry host, asked before the registry itself.
    #[serde(default)]
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// What may be built, pushed and signed.
    #[serde(default)]
    pub build_policy: BuildPolicy,
}

const fn default_issued_window() -> Span {
    seconds(900)
}

/// A project id as 64 hex digits, the way resource names carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectHex(pub ProjectId);

impl Serialize for ProjectHex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ProjectHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.strip_prefix("projects/").unwrap_or(&text);
        provenance::digest::Sha256Digest::from_hex(hex).map(|digest| Self(ProjectId(digest))).map_err(|_| {
            D::Error::custom(format!("`{hex}` is no project id; wanted 64 lower-case hex digits"))
        })
    }
}

impl Operations {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, &path.display().to_string())
    }

    /// Parses and checks text; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let operations: Self = parse(text, path)?;
        let key = |key, problem: &str| {
            Err(ConfigError::Key { path: path.to_owned(), key, problem: problem.to_owned() })
        };
        let builds = &operations.builds;
        for (name, zero) in [
            ("builds.parallel", builds.parallel == 0),
            ("builds.queued", builds.queued == 0),
            ("builds.queued_per_project", builds.queued_per_project == 0),
            ("builds.deadline", builds.deadline.0.is_zero()),
            ("engine.parallel_steps", operations.engine.parallel_steps == 0),
            ("connections.limit", operations.connections.limit == 0),
            ("connections.handshake", operations.connections.handshake.0.is_zero()),
            ("connections.evidence_burst", operations.connections.evidence_burst == 0),
            ("connections.calls", operations.connections.calls == 0),
            ("contexts.project_bytes", operations.contexts.project_bytes.0 == 0),
            ("contexts.blob_bytes", operations.contexts.blob_bytes.0 == 0),
            ("contexts.entries", operations.contexts.entries == 0),
        ] {
            if zero {
                return key(name, "is 0, wanted at least 1");
            }
        }
        if builds.parallel > 1024 {
            return key("builds.parallel", "is more than 1024");
        }
        if !operations.state_directory.is_absolute() {
            return key("state_directory", "must be an absolute path");
        }
        Ok(operations)
    }

    /// Directory of the sealed epoch, the key process's own.
    #[must_use]
    pub fn keys_directory(&self) -> PathBuf {
        self.state_directory.join(KEYS)
    }

    /// Directory of the daemons, the engine process's own.
    #[must_use]
    pub fn engine_directory(&self) -> PathBuf {
        self.state_directory.join(ENGINE)
    }

    /// Most daemons that the service keeps at the same time.
    #[must_use]
    pub fn max_daemons(&self) -> usize {
        self.builds.parallel.saturating_add(DAEMONS_BESIDE_BUILDS)
    }

    /// Limits of the queue.
    #[must_use]
    pub fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            parallel: self.builds.parallel,
            queued: self.builds.queued,
            queued_per_project: self.builds.queued_per_project,
            deadline: self.builds.deadline.0,
            context_deadline: self.builds.context_deadline.0,
            log_bytes: self.builds.log_bytes.0,
        }
    }

    /// Limits of the context store.
    #[must_use]
    pub fn store_limits(&self) -> StoreLimits {
        StoreLimits {
            project_bytes: self.contexts.project_bytes.0,
            blob_bytes: self.contexts.blob_bytes.0,
            tree_entries: self.contexts.entries,
            max_age: self.contexts.age.0,
        }
    }

    /// Limits on ended builds.
    #[must_use]
    pub fn job_limits(&self) -> JobLimits {
        JobLimits {
            result_bytes: self.retention.result_bytes.0,
            result_age: self.retention.result_age.0,
            log_bytes: self.retention.log_bytes.0,
            build_age: self.retention.build_age.0,
        }
    }

    /// Limits on connections.
    #[must_use]
    pub fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.connections.limit,
            handshake: self.connections.handshake.0,
            evidence_burst: self.connections.evidence_burst,
        }
    }
}

impl Trust {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, &path.display().to_string())
    }

    /// Parses and checks text; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let trust: Self = parse(text, path)?;
        let key = |key, problem: String| Err(ConfigError::Key { path: path.to_owned(), key, problem });
        let id = &trust.builder_id;
        // Certificates hold it, in ASCII.
        if !id.contains("://") || id.len() > 512 || !id.chars().all(|c| c.is_ascii_graphic()) {
            return key("builder_id", format!("is `{id}`, wanted a URI of at most 512 ASCII characters"));
        }
        if trust.admit_any_project && !trust.admitted_projects.is_empty() {
            return key(
                "admit_any_project",
                "is true although `admitted_projects` names some; choose one".into(),
            );
        }
        if !trust.admit_any_project && trust.admitted_projects.is_empty() {
            return key(
                "admitted_projects",
                "is empty, so nobody could build; name project ids, or set `admit_any_project = true`".into(),
            );
        }
        Ok(trust)
    }

    /// What goes into the instance document: every key with its value in force, defaults included.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("string keys and integers always serialise")
    }

    /// SHA-256 of [`Self::document`], to see whether two processes have read the same.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(self.document().to_string().as_bytes())
    }

    /// Which projects are admitted.
    #[must_use]
    pub fn admission(&self) -> Admission {
        if self.admit_any_project {
            Admission::Any
        } else {
            Admission::Only(self.admitted_projects.iter().map(|project| project.0).collect())
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |problem: String| ConfigError::Read { path: path.display().to_string(), problem };
    let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if size > MAX_FILE {
        return Err(failed(format!("it has {size} bytes, at most {MAX_FILE} are allowed")));
    }
    std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))
}

fn parse<T: DeserializeOwned>(text: &str, path: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Shape {
        path: path.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONS: &str =
        "listen = \"127.0.0.1:0\"\nstate_directory = \"/s\"\n[engine]\nbuildkitd = \"/b\"\nrunc = \"/r\"\n";

    #[test]
    fn a_minimal_file_of_each_kind_is_enough() {
        let operations = Operations::parse(OPERATIONS, "operations.toml").expect("valid");
        assert_eq!(operations.builds.parallel, 4);
        let trust =
            Trust::parse("builder_id = \"https://b.example/1\"\nadmit_any_project = true", "trust.toml");
        assert_eq!(trust.expect("valid").document()["issued_window"], 900);
    }

    #[test]
    fn sizes_and_spans_have_units() {
        let text = format!(
            "{OPERATIONS}cache_bytes = \"3GiB\"\nidle_stop = \"2m\"\n[builds]\nlog_bytes = 7\ndeadline = \"1h\"\n"
        );
        let operations = Operations::parse(&text, "operations.toml").expect("valid");
        assert_eq!(operations.engine.cache_bytes, ByteCount(3 << 30));
        assert_eq!(operations.engine.idle_stop, seconds(120));
        assert_eq!(operations.builds.log_bytes, ByteCount(7));
        assert_eq!(operations.builds.deadline, seconds(3600));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = Operations::parse(&format!("{OPERATIONS}[builds]\nparalel = 1\n"), "operations.toml");
        let message = error.expect_err("unknown key").to_string();
        assert!(message.contains("operations.toml") && message.contains("paralel"), "{message}");
        let error = Trust::parse("builder_id = \"https://b.example\"\nadmit_any = true\n", "trust.toml");
        assert!(error.expect_err("unknown key").to_string().contains("admit_any"));
    }

    #[test]
    fn a_trust_file_that_admits_nobody_is_refused() {
        let error =
            Trust::parse("builder_id = \"https://b.example\"\n", "trust.toml").expect_err("admits nobody");
        assert!(matches!(error, ConfigError::Key { key: "admitted_projects", .. }), "{error}");
    }

    #[test]
    fn spans_that_no_clock_reaches_are_refused() {
        for bad in ["\"36501d\"", "9223372036854775807"] {
            let text = format!("{OPERATIONS}[builds]\ncontext_deadline = {bad}\n");
            assert!(matches!(Operations::parse(&text, "o"), Err(ConfigError::Shape { .. })), "{bad}");
        }
    }

    #[test]
    fn the_service_is_never_root() {
        assert_eq!(Operations::parse(OPERATIONS, "o").expect("valid").service_uid, ServiceUid(65_533));
        let with = |uid: &str| Operations::parse(&format!("service_uid = {uid}\n{OPERATIONS}"), "o");
        assert_eq!(with("4294967294").expect("valid").service_uid, ServiceUid(4_294_967_294));
        for bad in ["0", "-1", "4294967295", "4294967296", "\"nobody\""] {
            let error = with(bad).expect_err(bad);
            assert!(matches!(&error, ConfigError::Shape { .. }), "{bad}: {error}");
        }
        assert!(with("0").expect_err("root").to_string().contains("1 to 4294967294"));
    }

    #[test]
    fn malformed_sizes_are_refused() {
        for bad in ["\"3 gigs\"", "\"-1\"", "\"99999999999TiB\"", "\"\"", "-1", "1.5"] {
            let text = format!("{OPERATIONS}cache_bytes = {bad}\n");
            assert!(matches!(Operations::parse(&text, "o"), Err(ConfigError::Shape { .. })), "{bad}");
        }
    }
}
