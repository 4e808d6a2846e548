//! Settings of the engine, and the configuration file of a daemon made from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::daemon::TELEMETRY;
use super::runtime::DaemonNames;

/// Settings of the engine.
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
    /// A daemon that has had no build for this long is stopped.
    pub idle_stop: Duration,
    /// Cache of one daemon, in bytes; older results are dropped beyond it.
    pub cache_limit_bytes: u64,
    /// RUN steps of one daemon that run at the same time; 0 for no limit.
    pub max_parallel_steps: u32,
}

/// Records of finished builds are read right after the build; they are kept this long.
const HISTORY_SECONDS: u64 = 3600;
/// And at most this many.
const HISTORY_ENTRIES: u64 = 50;

impl EngineConfig {
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
