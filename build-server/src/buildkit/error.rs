//! Why a build in the engine failed, one variant per failure, by fault.

use std::path::PathBuf;

use proto::v1::SourceExcerpt;
use provenance::digest::Sha256Digest;

/// Why a build in the engine failed. Texts that come from BuildKit have secrets masked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    // The source that the caller sent.
    /// The Dockerfile does not parse, or asks for something impossible.
    #[error("{message}")]
    Frontend {
        /// BuildKit's message.
        message: String,
        /// The places meant.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// A RUN step failed.
    #[error("step `{step}` ended with exit code {exit_code}")]
    Step {
        /// Name of the step.
        step: String,
        /// Exit code of its process; 137 when it was killed for memory.
        exit_code: i32,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// A RUN step's program is for another machine.
    #[error(
        "step `{step}` cannot run here: its program is for another platform than this machine ({})",
        std::env::consts::ARCH
    )]
    ForeignStep {
        /// Name of the step.
        step: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// A RUN step asks for a privilege that no build gets.
    #[error("a RUN step asks for `{privilege}`, which no build gets here")]
    Privilege {
        /// BuildKit's name of it: `security.insecure` or `network.host`.
        privilege: String,
    },
    /// COPY or ADD names something that is not there.
    #[error("`{path}` is not in the build context (left out by an ignore file, or not sent)")]
    ContextFileMissing {
        /// Path as BuildKit gives it.
        path: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// A RUN step or an ADD wants a secret that the request does not bring.
    #[error("the Dockerfile wants secret `{id}`, and this build was given none of that id")]
    SecretMissing {
        /// Its id.
        id: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// The Dockerfile itself is not there.
    #[error("there is no Dockerfile `{path}` where the request says")]
    DockerfileMissing {
        /// The path asked for.
        path: String,
    },
    /// A `# syntax=` directive that names another frontend.
    #[error(
        "`# syntax={got}` names a frontend that is not served here; wanted docker/dockerfile, :1 or :1.N"
    )]
    UnsupportedSyntax {
        /// The directive as written.
        got: String,
    },
    /// An image that a Dockerfile names does not exist.
    #[error("image `{reference}` was not found: {message}")]
    BaseImageMissing {
        /// The image.
        reference: String,
        /// BuildKit's message.
        message: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// BuildKit records nothing of an image without layers, but something went into this one.
    #[error(
        "the image has no layers, so BuildKit keeps no record of it; that `{source_identifier}` went into it could not be stated"
    )]
    UnrecordedSource {
        /// What the build asked for, as BuildKit names it.
        source_identifier: String,
    },
    /// The request asks for what the engine cannot do.
    #[error("request: {problem}")]
    Request {
        /// What was seen and what is wanted.
        problem: String,
    },
    /// A forwarded SSH agent went away while the build ran.
    #[error("the forwarded SSH agent `{id}` went away: {reason}")]
    AgentGone {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },

    // Policy.
    /// The source policy refused a source.
    #[error("source `{source_identifier}` is refused: {reason}")]
    SourceDenied {
        /// The source.
        source_identifier: String,
        /// The rule's reason.
        reason: String,
    },

    // Registries.
    /// A registry wants a login, or refuses the one it got.
    #[error("registry refused access to `{reference}`: {message}")]
    RegistryAuth {
        /// Image or registry.
        reference: String,
        /// BuildKit's message.
        message: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
    /// A registry or another remote source cannot be reached or gave an error.
    #[error("a remote source failed: {message}")]
    Remote {
        /// BuildKit's message.
        message: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },

    // The machine.
    /// The engine's configuration cannot work.
    #[error("engine configuration: {problem}")]
    Configuration {
        /// What is wrong and what to do.
        problem: String,
    },
    /// The engine process ended or did not keep to its interface.
    #[error("the engine process: {problem}")]
    Process {
        /// What was seen.
        problem: String,
    },
    /// The daemon did not come up.
    #[error("buildkitd did not start: {problem}{}", log_tail(log))]
    DaemonStart {
        /// What was seen.
        problem: String,
        /// Its last log lines.
        log: Vec<String>,
    },
    /// The daemon went away while it built.
    #[error("buildkitd died during the build; build again to start a new one{}", log_tail(log))]
    DaemonDied {
        /// Its last log lines.
        log: Vec<String>,
    },
    /// No space left.
    #[error("the disk of the build server is full: {message}")]
    DiskFull {
        /// What was being done.
        message: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {what} {}: {problem}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's message.
        problem: String,
    },
    /// A blob of the context is not stored or does not have its digest.
    #[error("blob {digest} of the build context cannot be read: {problem}")]
    Context {
        /// The blob.
        digest: Sha256Digest,
        /// What is wrong.
        problem: String,
    },
    /// The build was cancelled; its steps have ended.
    #[error("the build was cancelled")]
    Cancelled,

    // BuildKit did not keep to its interface.
    /// What BuildKit exported is not a consistent image.
    #[error("the export is not a consistent image: {problem}")]
    Export {
        /// What was seen and what is wanted.
        problem: String,
    },
    /// BuildKit's record of the build is missing or does not parse.
    #[error("BuildKit's record of the build: {problem}")]
    Record {
        /// What was seen and what is wanted.
        problem: String,
    },
    /// Any other failure that BuildKit reports.
    #[error("{message}")]
    Other {
        /// BuildKit's message.
        message: String,
        /// The place in the Dockerfile.
        source_excerpts: Vec<SourceExcerpt>,
    },
}

fn log_tail(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!("; its last words:\n  {}", log.join("\n  ")) }
}

impl EngineError {
    /// Places in the Dockerfile that this error is about.
    #[must_use]
    pub fn source_excerpts(&self) -> &[SourceExcerpt] {
        match self {
            Self::Frontend { source_excerpts, .. }
            | Self::Step { source_excerpts, .. }
            | Self::ForeignStep { source_excerpts, .. }
            | Self::ContextFileMissing { source_excerpts, .. }
            | Self::SecretMissing { source_excerpts, .. }
            | Self::BaseImageMissing { source_excerpts, .. }
            | Self::RegistryAuth { source_excerpts, .. }
            | Self::Remote { source_excerpts, .. }
            | Self::Other { source_excerpts, .. } => source_excerpts,
            _ => &[],
        }
    }

    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                Self::DiskFull { message: format!("{what} {}", path.display()) }
            } else {
                Self::Io { what, path, problem: error.to_string() }
            }
        }
    }
}
