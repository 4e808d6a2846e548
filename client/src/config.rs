//! Settings and where each came from: flag, then environment, then `config.toml`, then the default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::endorsements::{AMD_KDS, INTEL_PCS, INTEL_ROOT_CRL};

/// Largest configuration file in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// A setting that flags, environment and configuration share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Build server, HOST:PORT.
    Endpoint,
    /// File of the caller's key.
    Key,
    /// File of the appraisal policy.
    Policy,
    /// File of the project document.
    Project,
    /// Host key documents of Secure Execution, certificates above them and revocation lists: a file or a folder.
    HostKeyDocuments,
    /// How progress is shown.
    Progress,
    /// When colours are used.
    Color,
    /// Base URL of AMD's Key Distribution Service.
    AmdKds,
    /// Base URL of Intel's Provisioning Certification Service.
    IntelPcs,
    /// URL of the revocation list of Intel's root.
    IntelRootCrl,
}

impl Setting {
    /// All settings, in the order they are shown.
    pub const ALL: [Self; 10] = [
        Self::Endpoint,
        Self::Key,
        Self::Policy,
        Self::Project,
        Self::HostKeyDocuments,
        Self::Progress,
        Self::Color,
        Self::AmdKds,
        Self::IntelPcs,
        Self::IntelRootCrl,
    ];

    /// Name in the configuration file, and of the flag behind `--`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::Project => "project",
            Self::HostKeyDocuments => "host-key-documents",
            Self::Progress => "progress",
            Self::Color => "color",
            Self::AmdKds => "amd-kds",
            Self::IntelPcs => "intel-pcs",
            Self::IntelRootCrl => "intel-root-crl",
        }
    }

    /// Name of the environment variable.
    #[must_use]
    pub fn variable(self) -> String {
        format!("SEALWRIGHT_{}", self.name().to_ascii_uppercase().replace('-', "_"))
    }

    const fn default_value(self) -> Option<&'static str> {
        match self {
            Self::Progress | Self::Color => Some("auto"),
            Self::AmdKds => Some(AMD_KDS),
            Self::IntelPcs => Some(INTEL_PCS),
            Self::IntelRootCrl => Some(INTEL_ROOT_CRL),
            _ => None,
        }
    }

    const fn is_path(self) -> bool {
        matches!(self, Self::Key | Self::Policy | Self::Project | Self::HostKeyDocuments)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command.
    Flag(Setting),
    /// An environment variable.
    Variable(String),
    /// The configuration file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(setting) => write!(f, "flag --{}", setting.name()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// All settings with their origins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<Setting, (String, Origin)>,
    /// The configuration file that was looked for, whether it exists or not.
    pub file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    endpoint: Option<String>,
    key: Option<String>,
    policy: Option<String>,
    project: Option<String>,
    host_key_documents: Option<String>,
    progress: Option<String>,
    color: Option<String>,
    amd_kds: Option<String>,
    intel_pcs: Option<String>,
    intel_root_crl: Option<String>,
}

/// A configuration file that is refused. Fault: configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the TOML that is expected.
    #[error("{}: {problem}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
}

impl Settings {
    /// Gathers the settings. `folder` holds `config.toml`; a missing file is an empty one.
    pub fn gather(
        flags: BTreeMap<Setting, String>,
        variable: &dyn Fn(&str) -> Option<String>,
        folder: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let file = folder.map(|folder| folder.join("config.toml"));
        let config = match &file {
            Some(path) => read(path)?,
            None => ConfigFile::default(),
        };
        let home = variable("HOME");
        let mut values = BTreeMap::new();
        for setting in Setting::ALL {
            let name = setting.variable();
            let from_file = match setting {
                Setting::Endpoint => &config.endpoint,
                Setting::Key => &config.key,
                Setting::Policy => &config.policy,
                Setting::Project => &config.project,
                Setting::HostKeyDocuments => &config.host_key_documents,
                Setting::Progress => &config.progress,
                Setting::Color => &config.color,
                Setting::AmdKds => &config.amd_kds,
                Setting::IntelPcs => &config.intel_pcs,
                Setting::IntelRootCrl => &config.intel_root_crl,
            };
            let value = if let Some(value) = flags.get(&setting) {
                Some((value.clone(), Origin::Flag(setting)))
            } else if let Some(value) = variable(&name).filter(|value| !value.is_empty()) {
                Some((value, Origin::Variable(name)))
            } else if let (Some(value), Some(path)) = (from_file, &file) {
                let value =
                    if setting.is_path() { in_file(value, path, home.as_deref()) } else { value.clone() };
                Some((value, Origin::File(path.clone())))
            } else {
                setting.default_value().map(|value| (value.to_owned(), Origin::Default))
            };
            values.extend(value.map(|value| (setting, value)));
        }
        Ok(Self { values, file })
    }

    /// A setting's value.
    #[must_use]
    pub fn value(&self, setting: Setting) -> Option<&str> {
        self.values.get(&setting).map(|(value, _)| value.as_str())
    }

    /// Where a setting's value came from.
    #[must_use]
    pub fn origin(&self, setting: Setting) -> Option<&Origin> {
        self.values.get(&setting).map(|(_, origin)| origin)
    }
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let shape = |problem: String| ConfigError::Shape { path: path.to_owned(), problem };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_CONFIG => {
            return Err(shape(format!("{} bytes are too many", metadata.len())));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        _ => {}
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|e| shape(e.to_string().trim_end().to_owned()))
}

/// A path of the configuration file: `~/` is the home, a relative path begins at the file.
fn in_file(value: &str, file: &Path, home: Option<&str>) -> String {
    let path = match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => file.parent().unwrap_or(Path::new(".")).join(value),
    };
    path.to_string_lossy().into_owned()
}

/// Folder of the configuration: `$XDG_CONFIG_HOME/sealwright`, else `~/.config/sealwright`.
#[must_use]
pub fn config_folder(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    user_folder(variable, "XDG_CONFIG_HOME", ".config")
}

/// Folder of the stat cache: `$XDG_CACHE_HOME/sealwright`, else `~/.cache/sealwright`.
#[must_use]
pub fn cache_folder(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    user_folder(variable, "XDG_CACHE_HOME", ".cache")
}

fn user_folder(variable: &dyn Fn(&str) -> Option<String>, name: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let named = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        || variable("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(below_home));
    Some(named.or_else(home)?.join("sealwright"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(
        flags: &[(Setting, &str)],
        environment: &[(&str, &str)],
        file: &str,
    ) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("config.toml"), file).expect("written");
        let flags = flags.iter().map(|(setting, value)| (*setting, (*value).to_owned())).collect();
        let variable = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::gather(flags, &variable, Some(folder.path()))
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let file = "endpoint = \"file:1\"\nprogress = \"plain\"\n";
        let environment = [("SEALWRIGHT_ENDPOINT", "variable:1")];
        let all = gather(&[(Setting::Endpoint, "flag:1")], &environment, file).expect("valid");
        assert_eq!(all.value(Setting::Endpoint), Some("flag:1"));
        assert_eq!(all.origin(Setting::Endpoint), Some(&Origin::Flag(Setting::Endpoint)));
        let no_flag = gather(&[], &environment, file).expect("valid");
        assert_eq!(no_flag.value(Setting::Endpoint), Some("variable:1"));
        let only_file = gather(&[], &[("SEALWRIGHT_ENDPOINT", "")], file).expect("valid");
        assert_eq!(only_file.value(Setting::Endpoint), Some("file:1"));
        assert_eq!(only_file.value(Setting::Progress), Some("plain"));
        assert_eq!(only_file.origin(Setting::Color), Some(&Origin::Default));
        assert_eq!(only_file.value(Setting::Key), None);
    }

    #[test]
    fn paths_in_the_file_begin_at_home_or_at_the_file() {
        let all =
            gather(&[], &[("HOME", "/home/me")], "key = \"~/k\"\npolicy = \"p.toml\"\nproject = \"/abs\"")
                .expect("valid");
        assert_eq!(all.value(Setting::Key), Some("/home/me/k"));
        assert!(all.value(Setting::Policy).expect("there").ends_with("/p.toml"));
        assert!(Path::new(all.value(Setting::Policy).expect("there")).is_absolute());
        assert_eq!(all.value(Setting::Project), Some("/abs"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = gather(&[], &[], "endpiont = \"x:1\"").expect_err("unknown").to_string();
        assert!(error.contains("endpiont") && error.contains("line 1"), "{error}");
    }
}
