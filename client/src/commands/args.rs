//! The command line. `build` takes the flags of `docker buildx build`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Builds images inside a confidential guest and verifies where they came from.
#[derive(Parser)]
#[command(name = "sealwright", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes. Each is also an environment variable SEALWRIGHT_… and a key of config.toml.
#[derive(Args)]
pub(crate) struct Global {
    /// Build server [env: SEALWRIGHT_ENDPOINT]
    #[arg(long, global = true, value_name = "HOST:PORT", help_heading = "Global options")]
    pub(crate) endpoint: Option<String>,
    /// File of your private key [env: SEALWRIGHT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) key: Option<String>,
    /// Appraisal policy: what you accept as trustworthy [env: SEALWRIGHT_POLICY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) policy: Option<String>,
    /// Project document; without one, the project `default` of your key alone [env: SEALWRIGHT_PROJECT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) project: Option<String>,
    /// Host key documents of Secure Execution, certificates above them and revocation lists (PEM or DER), for servers there
    /// and for `verify` [env: SEALWRIGHT_HOST_KEY_DOCUMENTS]
    #[arg(long, global = true, value_name = "FILE|DIR", help_heading = "Global options")]
    pub(crate) host_key_documents: Option<String>,
    /// One JSON document on standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Colours: auto, always or never [env: SEALWRIGHT_COLOR, NO_COLOR]
    #[arg(long, global = true, value_name = "WHEN", value_parser = ["auto", "always", "never"], help_heading = "Global options")]
    pub(crate) color: Option<String>,
}

/// Flags of `docker buildx build` that are not there, and why (docs/cli.md).
const ABSENT: [(&[&str], &str); 6] = [
    (
        &["--provenance", "--sbom", "--attest"],
        "provenance is always made, signed and bound to Evidence; there is no SBOM",
    ),
    (
        &["--cache-from", "--cache-to"],
        "a cache from outside would be material that nobody recorded; each project has its own",
    ),
    (&["--allow"], "insecure entitlements are off"),
    (
        &["--network", "--cgroup-parent", "--shm-size", "--ulimit"],
        "this is a setting of the guest, not of the request",
    ),
    (&["--load", "--builder"], "no Docker engine takes part; --endpoint names the server"),
    (&["--call", "--check", "--no-cache-filter"], "it is not supported"),
];

fn at_least_one(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "wanted a whole number, 1 or more")
}

/// Why a flag of `docker buildx build` is not there.
pub(crate) fn why_absent(flag: &str) -> Option<&'static str> {
    ABSENT.iter().find(|(flags, _)| flags.contains(&flag)).map(|(_, why)| *why)
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Verify an image, OCI layout or layout tar file under a policy
    Verify(VerifyArgs),
    /// Judge Evidence, of a build server or from a file; sign an Attestation Result about Secure Execution for others
    Appraise(AppraiseArgs),
    /// Print what a time-stamping authority is to be asked for, or add its answer to an image
    Timestamp(TimestampArgs),
    /// Show everything about an image, without judging it
    Inspect(InspectArgs),
    /// Show a build
    Get {
        /// Build id
        build: String,
    },
    /// List the project's builds, newest first
    List(ListArgs),
    /// Show the output of a build
    Logs(LogsArgs),
    /// Ask a build to end
    Cancel {
        /// Build id
        build: String,
    },
    /// Fetch the result of a build
    Download(DownloadArgs),
    /// Make or show your key
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make or show a project document
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Make, check, explain or extend an appraisal policy
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Collect fresh endorsements from AMD and Intel
    #[command(subcommand)]
    Endorsements(EndorsementsCommand),
    /// Show settings and where each came from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
}

#[derive(Args)]
pub(crate) struct BuildArgs {
    /// Directory or git URL of the source; `-` reads a Dockerfile from standard input
    #[arg(value_name = "PATH|URL|-")]
    pub(crate) context: String,
    /// Dockerfile (default: PATH/Dockerfile); `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Name of the image, repeatable
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(crate) tags: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Annotation of the image manifest
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub(crate) annotations: Vec<String>,
    /// Platforms, such as linux/amd64,linux/arm64
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub(crate) platforms: Vec<String>,
    /// Secret for RUN steps; its value reaches only the attested guest
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub(crate) secrets: Vec<String>,
    /// SSH agent for RUN steps
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// Further context
    #[arg(long = "build-context", value_name = "NAME=DIR|oci-layout://PATH|docker-image://REF|URL")]
    pub(crate) build_contexts: Vec<String>,
    /// Run every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Resolve image references again
    #[arg(long)]
    pub(crate) pull: bool,
    /// Extra host for RUN steps
    #[arg(long = "add-host", value_name = "HOST:ADDRESS")]
    pub(crate) add_hosts: Vec<String>,
    /// Push to the registries of the names, with signature, provenance and Evidence
    #[arg(long)]
    pub(crate) push: bool,
    /// Where the result goes (default: type=oci,dest=image.oci, nothing with --push)
    #[arg(short, long, value_name = "type=oci,dest=PATH|type=local,dest=DIR|DIR")]
    pub(crate) output: Option<String>,
    /// Write the build's metadata as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Write the image id
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Progress: auto, tty, plain, rawjson or quiet [env: SEALWRIGHT_PROGRESS]
    #[arg(long, value_name = "STYLE", value_parser = ["auto", "tty", "plain", "rawjson", "quiet"])]
    pub(crate) progress: Option<String>,
    /// Print nothing but the digest of the image
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Your own id for this build, to be used once: each `build` signs a request of its own, and a second one under the
    /// same id is refused
    #[arg(long, value_name = "ID")]
    pub(crate) build_id: Option<String>,
    /// On Secure Execution: attestation request of somebody else who will verify, instead of an own one
    #[arg(long, value_name = "FILE")]
    pub(crate) attestation_request: Option<PathBuf>,
    /// Give up after this many seconds, 1 or more; the build is cancelled (exit 7)
    #[arg(long, value_name = "SECONDS", value_parser = at_least_one)]
    pub(crate) timeout: Option<NonZeroU64>,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// Image in a registry, directory of an OCI layout, or its tar file
    #[arg(value_name = "IMAGE|LAYOUT|TAR")]
    pub(crate) target: String,
    /// Repository that the image must have been built for; for layouts, which have no name of their own
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) repository: Option<String>,
    /// Endorsements beside those in the Evidence, as `endorsements fetch` writes them, or PEM or DER; repeatable
    #[arg(long = "endorsements", value_name = "FILE|DIR")]
    pub(crate) endorsements: Vec<PathBuf>,
    /// Request that must have been answered: its digest `sha256:…`
    #[arg(long, value_name = "DIGEST")]
    pub(crate) request: Option<String>,
    /// Attestation request of Secure Execution that you made and remembered, as pvattest writes it
    #[arg(long, value_name = "FILE", requires = "attestation_request_key")]
    pub(crate) attestation_request: Option<PathBuf>,
    /// Its protection key, 32 bytes, as pvattest writes it
    #[arg(long, value_name = "FILE", requires = "attestation_request")]
    pub(crate) attestation_request_key: Option<PathBuf>,
    /// Write the verdict as EAR claims (JSON, not signed)
    #[arg(long, value_name = "FILE")]
    pub(crate) ear: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct TimestampArgs {
    /// OCI layout; to add a timestamp, its directory
    #[arg(value_name = "LAYOUT")]
    pub(crate) layout: String,
    /// Timestamp response (RFC 3161, DER) to put beside the image
    #[arg(long, value_name = "FILE")]
    pub(crate) add: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AppraiseArgs {
    /// Evidence collection (CMW JSON) (default: that of a new connection to the build server in use)
    #[arg(value_name = "EVIDENCE")]
    pub(crate) evidence: Option<PathBuf>,
    /// Attestation request of Secure Execution that you made and remembered, as pvattest writes it
    #[arg(long, value_name = "FILE", requires = "attestation_request_key")]
    pub(crate) attestation_request: Option<PathBuf>,
    /// Its protection key, 32 bytes, as pvattest writes it
    #[arg(long, value_name = "FILE", requires = "attestation_request")]
    pub(crate) attestation_request_key: Option<PathBuf>,
    /// Private key that signs an Attestation Result about Secure Execution Evidence; prints the Evidence with it
    #[arg(long, value_name = "KEY", requires_all = ["evidence", "attestation_request", "valid_for"])]
    pub(crate) sign: Option<PathBuf>,
    /// Days until the Attestation Result expires, 1 to 366
    #[arg(long, value_name = "DAYS", requires = "sign", value_parser = clap::value_parser!(u16).range(1..=366))]
    pub(crate) valid_for: Option<u16>,
    /// Endorsements beside those in the Evidence, as `endorsements fetch` writes them, or PEM or DER; repeatable
    #[arg(long = "endorsements", value_name = "FILE|DIR")]
    pub(crate) endorsements: Vec<PathBuf>,
    /// Write the verdict as EAR claims (JSON, not signed)
    #[arg(long, value_name = "FILE", conflicts_with = "sign")]
    pub(crate) ear: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// Image in a registry, directory of an OCI layout, its tar file, or file of an Evidence collection
    #[arg(value_name = "IMAGE|LAYOUT|TAR|EVIDENCE")]
    pub(crate) target: String,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only builds of this state
    #[arg(long, value_name = "STATE", value_parser = ["queued", "running", "succeeded", "failed", "cancelled"])]
    pub(crate) state: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value = "50", value_parser = at_least_one)]
    pub(crate) limit: NonZeroU64,
}

#[derive(Args)]
pub(crate) struct LogsArgs {
    /// Build id
    pub(crate) build: String,
    /// Go on until the build ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Style: auto, tty, plain or rawjson
    #[arg(long, value_name = "STYLE", value_parser = ["auto", "tty", "plain", "rawjson", "quiet"])]
    pub(crate) progress: Option<String>,
}

#[derive(Args)]
pub(crate) struct DownloadArgs {
    /// Build id
    pub(crate) build: String,
    /// Where the result goes (default: type=oci,dest=image.oci). A layout with one image is replaced, whatever built it
    #[arg(short, long, value_name = "type=oci,dest=PATH|type=local,dest=DIR|DIR")]
    pub(crate) output: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: PKCS#8 PEM that only you can read
    New {
        /// p256 or ed25519
        #[arg(long = "type", value_name = "TYPE", default_value = "p256", value_parser = ["p256", "ed25519"])]
        kind: String,
        /// File to write; it must not exist
        file: PathBuf,
    },
    /// Show the public part of a key
    Show {
        /// File of the private key, or of a public key in PEM (default: the key in use)
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum ProjectCommand {
    /// Print a project document; its digest is the project's id
    New {
        /// Name of the project
        name: String,
        /// Member: digest of a key (`sha256:…`) or key file, repeatable
        #[arg(long = "member", value_name = "DIGEST|FILE", required = true)]
        members: Vec<String>,
    },
    /// Show a project document and its id
    Show {
        /// Project document (default: the one in use)
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print a strict, commented policy
    Init(PolicyInitArgs),
    /// Check that a policy is complete, and warn of checks that it leaves out
    Check {
        /// Policy (default: the one in use)
        file: Option<PathBuf>,
    },
    /// Say in plain words what a policy accepts and what it leaves unchecked
    Explain {
        /// Policy (default: the one in use)
        file: Option<PathBuf>,
    },
    /// Add the measurements of a release to a policy, whose text stays as it is otherwise
    AddReference(AddReferenceArgs),
}

#[derive(Args)]
pub(crate) struct AddReferenceArgs {
    /// Policy to add to
    #[arg(value_name = "POLICY")]
    pub(crate) file: PathBuf,
    /// Reference Values, signed by the release key
    #[arg(value_name = "REFERENCE_VALUES")]
    pub(crate) from: PathBuf,
    /// Public key (PEM) of the release, from somebody you trust
    #[arg(long, value_name = "PEM")]
    pub(crate) release_key: PathBuf,
}

#[derive(Args)]
pub(crate) struct PolicyInitArgs {
    /// Reference Values, signed by the release key
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Public key (PEM) of the release, from somebody you trust
    #[arg(long, value_name = "PEM")]
    pub(crate) release_key: PathBuf,
    /// Caller whose images are accepted: key file, with a name in front if you like (`ci=FILE`), repeatable
    #[arg(long = "caller", value_name = "[NAME=]FILE")]
    pub(crate) callers: Vec<String>,
    /// Project whose images are accepted: its document or id, repeatable
    #[arg(long = "accept-project", value_name = "FILE|ID")]
    pub(crate) projects: Vec<String>,
    /// Builder id that is accepted, repeatable
    #[arg(long = "builder-id", value_name = "URI")]
    pub(crate) builder_ids: Vec<String>,
    /// Trust configuration that is accepted: its digest, repeatable
    #[arg(long = "trust-configuration", value_name = "DIGEST")]
    pub(crate) trust_configurations: Vec<String>,
    /// Build policy that is accepted: its digest, repeatable
    #[arg(long = "build-policy", value_name = "DIGEST")]
    pub(crate) build_policies: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum EndorsementsCommand {
    /// Fetch what the verifier needs beside the Evidence: certificates, revocation lists, TCB info, QE identity
    Fetch(FetchArgs),
}

#[derive(Args)]
pub(crate) struct FetchArgs {
    /// Image, OCI layout, its tar file, or file of an Evidence collection (default: the build server in use)
    #[arg(value_name = "IMAGE|LAYOUT|TAR|EVIDENCE")]
    pub(crate) target: Option<String>,
    /// Folder to write into; `verify --endorsements` takes it
    #[arg(short, long, value_name = "DIR", default_value = "endorsements")]
    pub(crate) output: PathBuf,
    /// Base URL of AMD's Key Distribution Service [env: SEALWRIGHT_AMD_KDS]
    #[arg(long, value_name = "URL")]
    pub(crate) amd_kds: Option<String>,
    /// Base URL of Intel's Provisioning Certification Service, or of a cache of it [env: SEALWRIGHT_INTEL_PCS]
    #[arg(long, value_name = "URL")]
    pub(crate) intel_pcs: Option<String>,
    /// URL of the revocation list of Intel's root [env: SEALWRIGHT_INTEL_ROOT_CRL]
    #[arg(long, value_name = "URL")]
    pub(crate) intel_root_crl: Option<String>,
    /// Ask nobody: take what the cache has, whatever its age
    #[arg(long)]
    pub(crate) cached: bool,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show settings and where each came from
    Show,
}
