//! From flags to a signed request: reads Dockerfile, contexts, secrets and logins, and writes down everything
//! that the guest may build from. Nothing here talks to a server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use proto::v1;
use provenance::binding::Nonce;
use provenance::challenge::AttestationRequest;
use provenance::commitment::commit_to_secrets;
use provenance::digest::Sha256Digest;
use provenance::dsse::REQUEST_PAYLOAD_TYPE;
use provenance::project::Project;
use provenance::request::{
    AddHost, BuildId, Dockerfile, InvalidRequest, Output, REQUEST_TYPE, Request, SecretsCommitment, Source,
};
use provenance::timestamp::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::{Zeroize as _, Zeroizing};

use crate::context::{
    Blob, ContextError, DockerfileSource, DockerfileTree, IgnoreFilter, StatCache, Tree, read_context_ignore,
    read_dockerfile, scan,
};
use crate::docker_config::{DockerConfig, DockerConfigError};
use crate::dockerfile_images;
use crate::image_name::ImageName;
use crate::key::{CallerKey, KeyError};
use crate::layout_context::{self, LayoutError};
use crate::own_files::own_files;
use crate::spec::{ContextSpec, Destination, InvalidFlag, OutputSpec, SecretSource, SecretSpec, SshSpec};

/// Largest secret in bytes, as in BuildKit.
pub const MAX_SECRET: u64 = 500 << 10;
/// Largest Dockerfile on standard input in bytes.
const MAX_STDIN: u64 = 4 << 20;

/// What a build is asked to be: the flags, parsed.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The main context.
    pub context: ContextSpec,
    /// `-f`; `-` is standard input.
    pub dockerfile: Option<String>,
    /// `-t`, in order.
    pub names: Vec<ImageName>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`: value, or `None` for the variable of that name.
    pub build_args: Vec<(String, Option<String>)>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--platform`, normalised.
    pub platforms: Vec<String>,
    /// `--secret`.
    pub secrets: Vec<SecretSpec>,
    /// `--ssh`.
    pub ssh: Vec<SshSpec>,
    /// `--build-context`.
    pub named_contexts: Vec<(String, ContextSpec)>,
    /// `--add-host`: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--pull`.
    pub pull: bool,
    /// `--output` and `--push`.
    pub output: OutputSpec,
    /// `--build-id`; a fresh one when absent.
    pub build_id: Option<BuildId>,
    /// What Evidence of the build is to answer: on Secure Execution, and only there.
    pub attestation_request: Option<AttestationRequest>,
}

/// What of this machine a build may look at.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Folder of Docker's configuration.
    pub docker_config: Option<PathBuf>,
    /// Folder of the stat cache; none switches it off.
    pub cache: Option<PathBuf>,
    /// Standard input.
    pub stdin: &'a mut dyn std::io::Read,
    /// The caller's clock.
    pub now: Timestamp,
}

/// Secret values, wiped when dropped.
///
/// `Debug`, `Clone` and `Serialize` are left out: each would make copies that nobody wipes, or print them.
#[derive(Default)]
pub struct SecretValues {
    values: BTreeMap<String, Vec<u8>>,
    commitment_key: Zeroizing<[u8; 32]>,
}

impl SecretValues {
    /// The message that carries the values; `None` without secrets. Only for an attested channel.
    #[must_use]
    pub fn message(&self) -> Option<v1::Secrets> {
        if self.values.is_empty() {
            return None;
        }
        let secret =
            |(id, value): (&String, &Vec<u8>)| v1::Secret { id: id.clone(), value: value.clone().into() };
        Some(v1::Secrets {
            commitment_key: self.commitment_key.to_vec().into(),
            secrets: self.values.iter().map(secret).collect(),
        })
    }
}

impl Drop for SecretValues {
    fn drop(&mut self) {
        self.values.values_mut().for_each(|value| value.zeroize());
    }
}

/// A build, ready to be sent.
pub struct Prepared {
    /// The request document.
    pub request: Request,
    /// The request signed by the caller (DSSE JSON).
    pub signed: Vec<u8>,
    /// Trees to upload: the main context first when it is a directory.
    pub trees: Vec<Tree>,
    /// Blobs to upload that belong to no tree (OCI layouts).
    pub blobs: HashMap<Sha256Digest, Blob>,
    /// Values of the secrets.
    pub secrets: SecretValues,
    /// Socket of the agent for each ssh id.
    pub agents: BTreeMap<String, PathBuf>,
    /// Logins for the registries of this build.
    pub credentials: Vec<v1::RegistryCredential>,
    /// Where the result goes.
    pub destination: Destination,
}

/// Why a build cannot be asked for. Fault: the caller's flags, files or configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A flag's value does not fit.
    #[error(transparent)]
    Flag(#[from] InvalidFlag),
    /// A context cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// An OCI layout cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A login cannot be had.
    #[error(transparent)]
    DockerConfig(#[from] DockerConfigError),
    /// The request breaks a rule.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The key does not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A secret cannot be read. Its value is never shown.
    #[error("secret `{id}`: {problem}")]
    Secret {
        /// Id of the secret.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// An ssh id has no agent.
    #[error("ssh `{id}`: {problem}")]
    Ssh {
        /// The ssh id.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// What should be the directory of a context is none.
    #[error("context {}: {problem}", path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// What the system says, or that it is something else.
        problem: String,
    },
    /// Two flags contradict each other.
    #[error("{0}")]
    Conflict(String),
    /// Standard input cannot be read, or is no Dockerfile.
    #[error("standard input: {0}")]
    Stdin(String),
    /// The system gives no randomness.
    #[error("the system gave no randomness")]
    NoRandomness,
}

/// Reads everything and signs the request.
pub fn prepare(
    options: &BuildOptions,
    project: &Project,
    key: &CallerKey,
    surroundings: &mut Surroundings<'_>,
) -> Result<Prepared, PrepareError> {
    let build_args = build_args(options, surroundings);
    let (secrets, commitment) = secrets(&options.secrets, surroundings)?;
    let agents = agents(&options.ssh, surroundings)?;
    let mut trees = Vec::new();
    let mut blobs = HashMap::new();
    let main = main_context(options, surroundings, &mut trees)?;
    let mut named_contexts = BTreeMap::new();
    for (name, spec) in &options.named_contexts {
        let source = named_context(spec, &options.output, surroundings, &mut trees, &mut blobs)?;
        if named_contexts.insert(name.clone(), source).is_some() {
            return Err(PrepareError::Conflict(format!("--build-context names `{name}` twice")));
        }
    }
    let credentials =
        credentials(options, &main.dockerfile_text, &named_contexts, &build_args, surroundings)?;
    let mut names = options.names.clone();
    for name in &options.output.names {
        let name =
            name.parse::<ImageName>().map_err(|e| PrepareError::Conflict(format!("--output name: {e}")))?;
        names.push(name);
    }
    if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
        return Err(PrepareError::Conflict(format!(
            "-t {name} has a digest; the digest is what the build gives"
        )));
    }
    let files =
        matches!(options.output.destination, Destination::FilesDirectory(_) | Destination::FilesTar(_));
    if files && options.output.push {
        return Err(PrepareError::Conflict(
            "--push needs an image, and --output type=local gives files".to_owned(),
        ));
    }
    let output = if files {
        Output::Files {}
    } else {
        Output::Image {
            compression: options.output.compression,
            names: names.iter().map(ToString::to_string).collect(),
            push: options.output.push,
            rewrite_timestamp: options.output.rewrite_timestamp,
        }
    };
    let request = Request {
        add_hosts: options
            .add_hosts
            .iter()
            .map(|(name, address)| AddHost { address: address.clone(), name: name.clone() })
            .collect(),
        annotations: options.annotations.clone(),
        attestation_request: options.attestation_request.clone(),
        build_args,
        build_id: match &options.build_id {
            Some(id) => id.clone(),
            None => fresh_build_id(surroundings.now)?,
        },
        context: main.source,
        dockerfile: main.dockerfile,
        issued_at: surroundings.now,
        labels: options.labels.clone(),
        named_contexts,
        no_cache: options.no_cache,
        nonce: Nonce(random()?),
        output,
        platforms: options.platforms.clone(),
        project: project.clone(),
        pull: options.pull,
        secrets: commitment,
        ssh: agents.keys().cloned().collect(),
        target: options.target.clone(),
        document_type: REQUEST_TYPE.to_owned(),
    };
    request.check()?;
    let signed = key.sign_envelope(REQUEST_PAYLOAD_TYPE, request.document())?.to_json();
    let destination = options.output.destination.clone();
    Ok(Prepared { request, signed, trees, blobs, secrets, agents, credentials, destination })
}

struct MainContext {
    source: Source,
    dockerfile: Dockerfile,
    dockerfile_text: String,
}

fn main_context(
    options: &BuildOptions,
    surroundings: &mut Surroundings<'_>,
    trees: &mut Vec<Tree>,
) -> Result<MainContext, PrepareError> {
    let from_stdin = options.dockerfile.as_deref() == Some("-");
    if from_stdin && options.context == ContextSpec::Stdin {
        return Err(PrepareError::Conflict(
            "context and Dockerfile cannot both be standard input".to_owned(),
        ));
    }
    if let (ContextSpec::Git(url), false) = (&options.context, from_stdin) {
        let path = options.dockerfile.as_deref().unwrap_or("Dockerfile").trim_start_matches("./").to_owned();
        let dockerfile = Dockerfile { path, root: None };
        return Ok(MainContext {
            source: Source::Git { url: url.clone() },
            dockerfile,
            dockerfile_text: String::new(),
        });
    }
    let source = match (&options.context, &options.dockerfile) {
        (ContextSpec::Stdin, _) => DockerfileSource::Contents(read_stdin(surroundings)?),
        (_, Some(_)) if from_stdin => DockerfileSource::Contents(read_stdin(surroundings)?),
        (_, Some(path)) => DockerfileSource::File(PathBuf::from(path)),
        (ContextSpec::Directory(folder), None) => DockerfileSource::File(folder.join("Dockerfile")),
        _ => {
            return Err(PrepareError::Conflict(
                "the context must be a directory, a git URL or `-`".to_owned(),
            ));
        }
    };
    if let ContextSpec::Directory(folder) = &options.context {
        check_folder(folder)?;
    }
    let dockerfile = read_dockerfile(&source)?;
    let source = match &options.context {
        ContextSpec::Directory(folder) => {
            let tree = directory(folder, dockerfile.ignore.as_ref(), &options.output, surroundings)?;
            let root = tree.root;
            trees.push(tree);
            Source::Tree { root }
        }
        ContextSpec::Git(url) => Source::Git { url: url.clone() },
        _ => {
            let tree = crate::context::empty_tree();
            let root = tree.root;
            trees.push(tree);
            Source::Tree { root }
        }
    };
    let DockerfileTree { name, tree, contents, .. } = dockerfile;
    let described = Dockerfile { path: name, root: Some(tree.root) };
    trees.push(tree);
    Ok(MainContext {
        source,
        dockerfile: described,
        dockerfile_text: String::from_utf8_lossy(&contents).into_owned(),
    })
}

fn check_folder(folder: &Path) -> Result<(), PrepareError> {
    let problem = match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "is no directory".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(PrepareError::Folder { path: folder.to_owned(), problem })
}

/// Scans a directory under its own ignore file, or under the Dockerfile's, which then counts alone.
fn directory(
    folder: &Path,
    dockerfile_ignore: Option<&(PathBuf, Vec<u8>)>,
    output: &OutputSpec,
    surroundings: &Surroundings<'_>,
) -> Result<Tree, PrepareError> {
    let own = match dockerfile_ignore {
        Some(_) => None,
        None => read_context_ignore(folder)?,
    };
    let filter = match dockerfile_ignore.or(own.as_ref()) {
        Some((path, contents)) => IgnoreFilter::parse(contents, path.clone()).map_err(ContextError::from)?,
        None => IgnoreFilter::none(),
    };
    let mut cache = match &surroundings.cache {
        Some(cache) => StatCache::open(cache, folder),
        None => StatCache::none(),
    };
    let filter = filter.leaving_out(own_files(folder, output));
    let tree = scan(folder, &filter, &mut cache)?;
    // Without a cache the next scan is slower, nothing else.
    let _ = cache.save();
    Ok(tree)
}

fn named_context(
    spec: &ContextSpec,
    output: &OutputSpec,
    surroundings: &Surroundings<'_>,
    trees: &mut Vec<Tree>,
    blobs: &mut HashMap<Sha256Digest, Blob>,
) -> Result<Source, PrepareError> {
    Ok(match spec {
        ContextSpec::Directory(folder) => {
            check_folder(folder)?;
            let tree = directory(folder, None, output, surroundings)?;
            let root = tree.root;
            trees.push(tree);
            Source::Tree { root }
        }
        ContextSpec::Git(url) => Source::Git { url: url.clone() },
        ContextSpec::Image(reference) => Source::Image { reference: reference.clone() },
        ContextSpec::OciLayout { path, selector } => {
            let (descriptor, found) = layout_context::select(path, selector.as_deref())?;
            blobs.extend(found);
            Source::OciLayout {
                manifest: descriptor.digest,
                size: descriptor.size,
                media_type: descriptor.media_type,
            }
        }
        ContextSpec::Stdin => {
            return Err(PrepareError::Conflict("a named context cannot be standard input".to_owned()));
        }
    })
}

fn build_args(options: &BuildOptions, surroundings: &Surroundings<'_>) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    // buildx hands this variable on, so that reproducible builds need no flag.
    if let Some(epoch) = (surroundings.variable)("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
        args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for (name, value) in &options.build_args {
        match value.clone().or_else(|| (surroundings.variable)(name)) {
            Some(value) => args.insert(name.clone(), value),
            None => args.remove(name),
        };
    }
    args
}

fn secrets(
    specs: &[SecretSpec],
    surroundings: &Surroundings<'_>,
) -> Result<(SecretValues, Option<SecretsCommitment>), PrepareError> {
    let mut secrets = SecretValues::default();
    for spec in specs {
        let failed = |problem: String| PrepareError::Secret { id: spec.id.clone(), problem };
        let from_variable = |name: &str| (surroundings.variable)(name).map(String::into_bytes);
        let value = match &spec.source {
            SecretSource::File(path) => read_secret(path).map_err(failed)?,
            SecretSource::Environment(name) => from_variable(name)
                .ok_or_else(|| failed(format!("environment variable {name} is not set")))?,
            SecretSource::Guess => match from_variable(&spec.id) {
                Some(value) => value,
                None => read_secret(Path::new(&spec.id)).map_err(failed)?,
            },
        };
        if value.len() as u64 > MAX_SECRET {
            return Err(failed(format!("has {} bytes, at most {MAX_SECRET} are allowed", value.len())));
        }
        if secrets.values.insert(spec.id.clone(), value).is_some() {
            return Err(failed("is given twice".to_owned()));
        }
    }
    if secrets.values.is_empty() {
        return Ok((secrets, None));
    }
    secrets.commitment_key = Zeroizing::new(random()?);
    let commitment = commit_to_secrets(&secrets.commitment_key, &secrets.values);
    let ids = secrets.values.keys().cloned().collect();
    Ok((secrets, Some(SecretsCommitment { commitment, ids })))
}

fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let shown = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut value = Vec::new();
    std::fs::File::open(path).map_err(shown)?.take(MAX_SECRET + 1).read_to_end(&mut value).map_err(shown)?;
    Ok(value)
}

fn agents(
    specs: &[SshSpec],
    surroundings: &Surroundings<'_>,
) -> Result<BTreeMap<String, PathBuf>, PrepareError> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut agents = BTreeMap::new();
    for spec in specs {
        let failed = |problem: String| PrepareError::Ssh { id: spec.id.clone(), problem };
        let socket = match &spec.socket {
            Some(socket) => socket.clone(),
            None => (surroundings.variable)("SSH_AUTH_SOCK")
                .filter(|socket| !socket.is_empty())
                .map(PathBuf::from)
                .ok_or_else(|| failed("no agent: SSH_AUTH_SOCK is not set".to_owned()))?,
        };
        let metadata =
            std::fs::metadata(&socket).map_err(|e| failed(format!("{}: {e}", socket.display())))?;
        if !metadata.file_type().is_socket() {
            let problem = format!(
                "{} is no agent socket; load the key into an agent with `ssh-add` and give its socket",
                socket.display()
            );
            return Err(failed(problem));
        }
        if agents.insert(spec.id.clone(), socket).is_some() {
            return Err(failed("is given twice".to_owned()));
        }
    }
    Ok(agents)
}

fn credentials(
    options: &BuildOptions,
    dockerfile: &str,
    named: &BTreeMap<String, Source>,
    build_args: &BTreeMap<String, String>,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<v1::RegistryCredential>, PrepareError> {
    let Some(folder) = &surroundings.docker_config else { return Ok(Vec::new()) };
    let mut registries: BTreeSet<String> = dockerfile_images::registries(dockerfile, build_args);
    if options.output.push {
        registries.extend(options.names.iter().map(|name| name.registry().to_owned()));
        let extra = options.output.names.iter().filter_map(|name| name.parse::<ImageName>().ok());
        registries.extend(extra.map(|name| name.registry().to_owned()));
    }
    for source in named.values() {
        if let Source::Image { reference } = source
            && let Ok(name) = reference.parse::<ImageName>()
        {
            registries.insert(name.registry().to_owned());
        }
    }
    if registries.is_empty() {
        return Ok(Vec::new());
    }
    Ok(DockerConfig::read(folder)?.credentials(&registries)?)
}

fn read_stdin(surroundings: &mut Surroundings<'_>) -> Result<Vec<u8>, PrepareError> {
    use std::io::Read as _;
    let mut contents = Vec::new();
    (&mut *surroundings.stdin)
        .take(MAX_STDIN + 1)
        .read_to_end(&mut contents)
        .map_err(|e| PrepareError::Stdin(e.to_string()))?;
    let is_tar = contents.len() > 262 && contents[257..].starts_with(b"ustar");
    if is_tar
        || contents.starts_with(&[0x1f, 0x8b])
        || contents.starts_with(b"BZh")
        || contents.starts_with(b"\xfd7zXZ")
    {
        return Err(PrepareError::Stdin(
            "is an archive; unpack it and give the directory as context".to_owned(),
        ));
    }
    if contents.len() as u64 > MAX_STDIN {
        return Err(PrepareError::Stdin(format!(
            "more than {MAX_STDIN} bytes are too many for a Dockerfile"
        )));
    }
    Ok(contents)
}

fn random<const N: usize>() -> Result<[u8; N], PrepareError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PrepareError::NoRandomness)?;
    Ok(bytes)
}

fn fresh_build_id(now: Timestamp) -> Result<BuildId, PrepareError> {
    let date: String = now.to_string().chars().take(10).filter(|c| *c != '-').collect();
    Ok(BuildId::try_from(format!("b-{date}-{}", hex::encode(random::<5>()?)))?)
}
