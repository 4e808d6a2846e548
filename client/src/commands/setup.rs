//! Settings of this run, and what is made from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::channel::Endpoint;
use client::config::{Setting, Settings, config_folder};
use client::key::CallerKey;
use client::session::Connector;
use provenance::key::KeyAlgorithm;
use provenance::project::{MAX_DOCUMENT, Project};
use serde_json::json;
use verifier::{Endorsements, Policy};

use super::args::Global;
use super::failure::{Failure, exit};
use super::output::Output;
use super::verify::endorsements;

/// Settings of this run.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
}

/// An environment variable that is UTF-8.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Setup {
    pub(crate) fn gather(global: &Global) -> Result<Self, Failure> {
        let flags: BTreeMap<Setting, String> = [
            (Setting::Endpoint, &global.endpoint),
            (Setting::Key, &global.key),
            (Setting::Policy, &global.policy),
            (Setting::Project, &global.project),
            (Setting::HostKeyDocuments, &global.host_key_documents),
            (Setting::Color, &global.color),
        ]
        .into_iter()
        .filter_map(|(setting, value)| Some((setting, value.clone()?)))
        .collect();
        let settings = Settings::gather(flags, &variable, config_folder(&variable).as_deref())?;
        Ok(Self { settings })
    }

    fn required(&self, setting: Setting, advice: &str) -> Result<&str, Failure> {
        self.settings.value(setting).ok_or_else(|| {
            Failure::usage(format!(
                "no {0}: give --{0}, {1} or `{0}` in config.toml",
                setting.name(),
                setting.variable()
            ))
            .advise(advice)
        })
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let text = self
            .required(Setting::Endpoint, "name your build server, such as --endpoint build.example:8443")?;
        text.parse().map_err(|e| {
            Failure::usage(e).advise("`sealwright config show` says where the endpoint came from")
        })
    }

    pub(crate) fn key_file(&self) -> Result<&Path, Failure> {
        self.required(Setting::Key, "make one with `sealwright key new FILE`").map(Path::new)
    }

    pub(crate) fn key(&self) -> Result<CallerKey, Failure> {
        Ok(CallerKey::load(self.key_file()?)?)
    }

    /// The key in use, or one for this connection alone: Evidence is given to everybody.
    pub(crate) fn key_or_new(&self) -> Result<CallerKey, Failure> {
        match self.settings.value(Setting::Key) {
            Some(_) => self.key(),
            None => Ok(CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256)?),
        }
    }

    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        let file = self.required(
            Setting::Policy,
            "no policy means no pass; make one with `sealwright policy init --from reference-values.json --release-key PEM --caller KEY > policy.toml`",
        )?;
        read_policy(Path::new(file)).map_err(of_a_setting)
    }

    pub(crate) fn project_file(&self) -> Option<PathBuf> {
        self.settings.value(Setting::Project).map(PathBuf::from)
    }

    /// The project in use: the document, or `default` of the key alone.
    pub(crate) fn project(&self, key: &CallerKey) -> Result<Project, Failure> {
        let own = key.public().spki_sha256();
        let Some(file) = self.project_file() else {
            return Project::new("default", [own]).map_err(Failure::usage);
        };
        let project = read_project(&file).map_err(of_a_setting)?;
        if !project.has_member(&own) {
            return Err(Failure::usage(format!(
                "your key {own} is not a member of project `{}`",
                project.name
            ))
            .at(file.display())
            .advise("use the key of a member, or another project document"));
        }
        Ok(project)
    }

    /// Host key documents, certificates above them and revocation lists, if any are configured.
    pub(crate) fn host_keys(&self) -> Result<Option<Endorsements>, Failure> {
        self.host_key_documents().map(|path| endorsements(&[path])).transpose()
    }

    /// The file or folder of the same.
    pub(crate) fn host_key_documents(&self) -> Option<PathBuf> {
        self.settings.value(Setting::HostKeyDocuments).map(PathBuf::from)
    }

    /// Everything that is needed to reach the server.
    pub(crate) fn connector(&self) -> Result<Connector, Failure> {
        let endpoint = self.endpoint()?;
        let key = Arc::new(self.key()?);
        let project = self.project(&key)?;
        let host_keys = self.host_keys()?.map(Arc::new);
        Ok(Connector { endpoint, key, project, policy: Arc::new(self.policy()?), host_keys })
    }
}

/// Reason of a file that cannot be read.
const UNREADABLE: &str = "UNREADABLE";

/// What to do about a file that no argument of this command names, if it cannot be read.
fn of_a_setting(failure: Failure) -> Failure {
    match failure.reason == UNREADABLE {
        true => failure.advise("`sealwright config show` says where the setting came from"),
        false => failure,
    }
}

/// Reads a file of at most `limit` bytes. It may be a pipe, as a shell's `<(…)` is.
pub(crate) fn read_file(path: &Path, limit: usize, what: &str) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| {
        Failure::new(exit::USAGE, UNREADABLE, format!("cannot read {what} {}: {e}", path.display()))
            .advise("check the path, which must be that of a file that you may read")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(Failure::usage(format!("{what} {} has more than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

pub(crate) fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = read_file(path, verifier::policy::MAX_POLICY, "policy")?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("policy {} is not UTF-8", path.display())))?;
    Policy::parse(&text, &path.display().to_string()).map_err(|e| {
        Failure::new(exit::USAGE, "POLICY", e)
            .advise("a policy must be complete: docs/policy.md explains every key")
    })
}

pub(crate) fn read_project(path: &Path) -> Result<Project, Failure> {
    let bytes = read_file(path, MAX_DOCUMENT, "project document")?;
    // The newline that shells and editors add is no part of the document.
    let document = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Project::parse(document).map_err(|e| {
        Failure::usage(e)
            .at(path.display())
            .advise("write it with `sealwright project new NAME --member DIGEST > FILE`")
    })
}

/// `sealwright config show`.
pub(crate) fn show(setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let settings = &setup.settings;
    let file = settings.file.as_ref();
    if output.is_json() {
        let mut values = serde_json::Map::new();
        for setting in Setting::ALL {
            let origin = settings.origin(setting).map(ToString::to_string);
            values.insert(
                setting.name().to_owned(),
                json!({"value": settings.value(setting), "origin": origin}),
            );
        }
        output.document(&json!({"file": file.map(|f| f.display().to_string()), "settings": values}));
        return Ok(0);
    }
    let mut text = String::new();
    for setting in Setting::ALL {
        let line = match (settings.value(setting), settings.origin(setting)) {
            (Some(value), Some(origin)) => format!("{:<10} {value:<40} {origin}\n", setting.name()),
            _ => format!("{:<10} {:<40} not set\n", setting.name(), "-"),
        };
        text.push_str(&line);
    }
    if let Some(file) = file {
        let exists = if file.exists() { "" } else { " (does not exist)" };
        text.push_str(&format!("{:<10} {}{exists}\n", "file", file.display()));
    }
    output.data(&text);
    Ok(0)
}
