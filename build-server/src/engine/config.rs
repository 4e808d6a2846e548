//! Settings of the engine process, and the configuration file of a daemon made from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;
use serde_json::{Map, Value, json};

use super::runtime::DaemonNames;
use crate::config::{Operations, Trust};

/// Daemons that may run beside those of the builds that run: of projects that have none at the moment.
pub const DAEMONS_BESIDE_BUILDS: usize = 64;
/// Daemons that the service believes to have ended and that still do.
const ENDING: usize = 16;

/// Name of the telemetry socket.
pub(super) const TELEMETRY: &str = "otel";

/// Settings of the engine process.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The buildkitd program.
    pub buildkitd: PathBuf,
    /// The runc program.
    pub runc: PathBuf,
    /// Directory for the daemons' state and logs, `PROJECT/buildkitd.log`.
    pub root: PathBuf,
    /// Registries (`host:port`) to be spoken to without TLS.
    pub plain_http_registries: Vec<String>,
    /// Mirrors by registry host.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Cache of one daemon, in bytes; older results are dropped beyond it.
    pub cache_limit_bytes: u64,
    /// RUN steps of one daemon that run at the same time; 0 for no limit.
    pub max_parallel_steps: u32,
    /// User and group of the service, which owns the daemons' control sockets.
    pub service: u32,
    /// Most daemons at the same time.
    pub max_daemons: usize,
    /// SHA-256 of the trust configuration, told to the service.
    pub trust_sha256: Sha256Digest,
}

/// Records of finished builds are read right after the build; they are kept this long.
const HISTORY_SECONDS: u64 = 3600;
/// And at most this many.
const HISTORY_ENTRIES: u64 = 50;

impl EngineConfig {
    /// What the two files say.
    #[must_use]
    pub fn of(operations: &Operations, trust: &Trust) -> Self {
        let engine = &operations.engine;
        Self {
            buildkitd: engine.buildkitd.clone(),
            runc: engine.runc.clone(),
            root: operations.engine_directory(),
            plain_http_registries: engine.plain_http_registries.clone(),
            registry_mirrors: trust.registry_mirrors.clone(),
            cache_limit_bytes: engine.cache_bytes.0,
            max_parallel_steps: u32::try_from(engine.parallel_steps).unwrap_or(u32::MAX),
            service: operations.service_uid.0,
            max_daemons: operations.max_daemons().saturating_add(ENDING),
            trust_sha256: trust.sha256(),
        }
    }

    /// The daemon's buildkitd.toml. `directory` is the daemon's own.
    pub(super) fn daemon_toml(&self, directory: &Path, names: &DaemonNames) -> String {
        let mut registries = Map::new();
        for (host, mirrors) in &self.registry_mirrors {
            registries.insert(host.clone(), json!({ "mirrors": mirrors }));
        }
        for host in &self.plain_http_registries {
            let registry = registries.entry(host.clone()).or_insert_with(|| json!({}));
            if let Value::Object(registry) = registry {
                registry.insert("http".to_owned(), true.into());
            }
        }
        let config = json!({
            "root": directory.join("root"),
            "insecure-entitlements": [],
            "provenanceEnvDir": directory.join("provenance.d"),
            "log": { "format": "text" },
            "otel": { "socketPath": names.directory.join(TELEMETRY) },
            "cdi": { "disabled": true },
            "history": { "maxAge": HISTORY_SECONDS, "maxEntries": HISTORY_ENTRIES },
            "frontend": { "dockerfile.v0": { "enabled": true }, "gateway.v0": { "enabled": false } },
            "worker": {
                "containerd": { "enabled": false },
                "oci": {
                    // Unless it is said, buildkitd looks for a runc in PATH before it believes in the worker.
                    "enabled": true,
                    "binary": self.runc,
                    "snapshotter": "overlayfs",
                    "networkMode": "host",
                    "gc": true,
                    "maxUsedSpace": self.cache_limit_bytes,
                    "max-parallelism": self.max_parallel_steps,
                    "defaultCgroupParent": names.control_group,
                },
            },
            "registry": registries,
        });
        toml::to_string(&config).expect("tables, strings, numbers and lists are TOML")
    }
}
