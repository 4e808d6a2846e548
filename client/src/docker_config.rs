//! Registry logins of Docker's configuration: `auths`, `credHelpers` and `credsStore` of
//! `$DOCKER_CONFIG/config.json`. Only the registries that a build names are ever asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::v1::RegistryCredential;
use serde::Deserialize;

use crate::image_name::{DOCKER_HUB, api_host};

/// Key of Docker Hub in `auths` and for credential helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Largest configuration file in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// User name under which a credential helper gives an identity token.
const TOKEN_USER: &str = "<token>";

/// Docker's configuration, as far as it concerns logins.
///
/// `Debug` is left out: `auths` hold passwords.
#[derive(Deserialize, Default)]
pub struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Why a login cannot be had. Fault: configuration. Never shows a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no Docker configuration.
    #[error("{} is no Docker configuration: {problem}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Where, without the contents.
        problem: String,
    },
    /// An `auth` value is not base64 of `user:password`.
    #[error("login for {registry}: `auth` is not base64 of `user:password`")]
    Auth {
        /// The registry.
        registry: String,
    },
    /// A credential helper failed.
    #[error("credential helper docker-credential-{helper} for {registry}: {problem}")]
    Helper {
        /// Name of the helper.
        helper: String,
        /// The registry.
        registry: String,
        /// What it said.
        problem: String,
    },
}

impl DockerConfig {
    /// Reads `config.json` of the folder; no file is an empty configuration.
    pub fn read(folder: &Path) -> Result<Self, DockerConfigError> {
        let path = folder.join("config.json");
        let bytes = match std::fs::metadata(&path).map(|metadata| metadata.len()) {
            Ok(length) if length > MAX_CONFIG => {
                return Err(DockerConfigError::Shape {
                    path,
                    problem: format!("{length} bytes are too many"),
                });
            }
            _ => match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
                Err(source) => return Err(DockerConfigError::Read { path, source }),
            },
        };
        serde_json::from_slice(&bytes).map_err(|e| DockerConfigError::Shape {
            path,
            // serde's message may quote a value, which may be a password.
            problem: format!("line {}, column {}", e.line(), e.column()),
        })
    }

    /// Logins for these registries; a registry without one is left out.
    pub fn credentials(
        &self,
        registries: &BTreeSet<String>,
    ) -> Result<Vec<RegistryCredential>, DockerConfigError> {
        registries.iter().filter_map(|registry| self.credential(registry).transpose()).collect()
    }

    fn credential(&self, registry: &str) -> Result<Option<RegistryCredential>, DockerConfigError> {
        let key = if registry == DOCKER_HUB { HUB_KEY } else { registry };
        let helper = self.helpers.get(registry).or_else(|| self.helpers.get(key)).or(self.store.as_ref());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty())
            && let Some(answer) = ask_helper(helper, key)?
        {
            let token = answer.username == TOKEN_USER;
            let (username, password, identity_token) = match token {
                true => (String::new(), String::new(), answer.secret),
                false => (answer.username, answer.secret, String::new()),
            };
            return Ok(Some(RegistryCredential {
                host: api_host(registry).to_owned(),
                username,
                password,
                identity_token,
            }));
        }
        let Some(auth) =
            self.auths.iter().find(|(written, _)| host_of(written) == host_of(key)).map(|(_, a)| a)
        else {
            return Ok(None);
        };
        let (mut username, mut password) = (auth.username.clone(), auth.password.clone());
        if !auth.auth.is_empty() {
            let invalid = || DockerConfigError::Auth { registry: registry.to_owned() };
            let decoded = STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
            let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
            let (user, secret) = decoded.split_once(':').ok_or_else(invalid)?;
            // Old Dockers padded the password with NUL.
            (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
        }
        if username.is_empty() && auth.identity_token.is_empty() {
            return Ok(None);
        }
        let identity_token = auth.identity_token.clone();
        Ok(Some(RegistryCredential {
            host: api_host(registry).to_owned(),
            username,
            password,
            identity_token,
        }))
    }
}

/// Host and port of a key of `auths`, which may be a URL.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

fn ask_helper(helper: &str, registry: &str) -> Result<Option<HelperAnswer>, DockerConfigError> {
    let failed = |problem: String| DockerConfigError::Helper {
        helper: helper.to_owned(),
        registry: registry.to_owned(),
        problem,
    };
    if helper.contains('/') {
        return Err(failed("the name of a helper must not hold a slash".to_owned()));
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends without reading says why on stdout.
        let _ = stdin.write_all(registry.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() == "credentials not found in native keychain" {
            return Ok(None);
        }
        return Err(failed(format!(
            "{}: {}",
            output.status,
            said.trim().chars().take(200).collect::<String>()
        )));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is not JSON".to_owned()))?;
    Ok(Some(answer))
}

/// Docker's configuration folder: `$DOCKER_CONFIG`, else `~/.docker`.
#[must_use]
pub fn docker_config_folder(docker_config: Option<&str>, home: Option<&Path>) -> Option<PathBuf> {
    match docker_config {
        Some(folder) if !folder.is_empty() => Some(PathBuf::from(folder)),
        _ => home.map(|home| home.join(".docker")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> DockerConfig {
        serde_json::from_str(json).expect("a configuration")
    }

    fn registries(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_logins_of_the_named_registries_are_given() {
        let auth = STANDARD.encode("me:pa:ss");
        let config = config(&format!(
            r#"{{"auths":{{"r.example:5000":{{"auth":"{auth}"}},"https://other.example/v2/":{{"auth":"{auth}"}},
                "https://index.docker.io/v1/":{{"identitytoken":"t"}}}},"psFormat":"x"}}"#
        ));
        let found =
            config.credentials(&registries(&["r.example:5000", "docker.io", "none.example"])).expect("works");
        let shown: Vec<_> = found
            .iter()
            .map(|c| (c.host.as_str(), c.username.as_str(), c.password.as_str(), c.identity_token.as_str()))
            .collect();
        assert_eq!(shown, [("registry-1.docker.io", "", "", "t"), ("r.example:5000", "me", "pa:ss", "")]);
    }

    #[test]
    fn a_malformed_login_is_an_error_without_the_secret() {
        let config = config(r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#);
        let Err(error) = config.credentials(&registries(&["r.example"])) else { panic!("no colon") };
        let error = error.to_string();
        assert!(
            error.contains("r.example") && !error.contains("secret") && !error.contains("c2Vj"),
            "{error}"
        );
    }
}
