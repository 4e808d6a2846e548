//! Why a push failed: one variant per cause, each with what was seen, what was wanted and what to do.

use std::time::Duration;

use provenance::digest::Sha256Digest;

/// Why an image was not pushed. No tag of the image was written when this is returned, except where
/// [`PushError::Tag`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The HTTP client could not be made from the configuration (configuration).
    #[error("registry client: {problem}")]
    Client {
        /// What is wrong.
        problem: String,
    },
    /// 401 without an accepted login (the caller's credentials).
    #[error("registry {registry} answered 401 to {action} in `{repository}`, and {login}")]
    Unauthorized {
        /// Host of the registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What was tried.
        action: String,
        /// Whether a login was there.
        login: Login,
    },
    /// The token service did not accept the login.
    #[error(
        "token service {realm} of registry {registry} answered {status} to the login for `{repository}`: {detail}"
    )]
    LoginRefused {
        /// Host of the registry.
        registry: String,
        /// Host of the token service.
        realm: String,
        /// The repository.
        repository: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// A 401 whose challenge gives no usable way to log in.
    #[error("registry {registry} answered 401 with a challenge that is no Basic or Bearer one: {problem}")]
    Challenge {
        /// Host of the registry.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// 403: logged in, but not allowed.
    #[error("registry {registry} answered 403 (forbidden) to {action} in `{repository}`: {detail}")]
    Forbidden {
        /// Host of the registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What was tried.
        action: String,
        /// What it said.
        detail: String,
    },
    /// 404: no such repository, or no registry at this address.
    #[error("registry {registry} answered 404 (not found) to {action} in `{repository}`: {detail}")]
    NotFound {
        /// Host of the registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What was tried.
        action: String,
        /// What it said.
        detail: String,
    },
    /// 429, or 503 with Retry-After, for longer than we wait.
    #[error("registry {registry} limits requests (answered {status} to {action}, attempt {attempts}){}", wait(*.retry_after))]
    RateLimited {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// HTTP status.
        status: u16,
        /// Its Retry-After.
        retry_after: Option<Duration>,
        /// How often it was tried.
        attempts: u32,
    },
    /// 5xx, also when tried again.
    #[error("registry {registry} answered {status} to {action}, {attempts} times: {detail}")]
    Server {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Any other status.
    #[error("registry {registry} answered {status} to {action} in `{repository}`: {detail}")]
    Rejected {
        /// Host of the registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What was tried.
        action: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// No connection: name, address, port or TLS.
    #[error("registry {registry} cannot be reached for {action}, {attempts} times: {problem}")]
    Unreachable {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// What the network or TLS said.
        problem: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The connection broke after it was made.
    #[error("connection to registry {registry} broke during {action}, {attempts} times: {problem}")]
    ConnectionLost {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// What the network said.
        problem: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Nothing moved for too long.
    #[error("registry {registry} made no progress for {seconds} s during {action}, {attempts} times")]
    Stalled {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// How long nothing moved.
        seconds: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// The registry stored something else than was sent.
    #[error("registry {registry} says {action} has digest `{got}`, sent was {expected}")]
    OtherDigest {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// Digest sent.
        expected: Sha256Digest,
        /// Digest it names.
        got: String,
    },
    /// An answer that the distribution specification does not allow.
    #[error("registry {registry} broke the distribution specification at {action}: {problem}")]
    Protocol {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// What is wrong.
        problem: String,
    },
    /// A redirect or token service over plain http, or too many redirects.
    #[error("registry {registry} sends {action} to {target}: {problem}")]
    Redirect {
        /// Host of the registry.
        registry: String,
        /// What was tried.
        action: String,
        /// Where it leads, scheme and host only.
        target: String,
        /// Why it is not followed.
        problem: &'static str,
    },
    /// A tag that lists signatures or referrers holds something else, or others keep overwriting it.
    #[error("tag `{tag}` of `{repository}` at registry {registry}: {problem}")]
    SharedTag {
        /// Host of the registry.
        registry: String,
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
        /// What is wrong.
        problem: String,
    },
    /// A blob of ours no longer has its digest (environment: the disk).
    #[error("stored blob {expected} has {got} now; it was not sent whole")]
    LocalBlob {
        /// Digest it should have.
        expected: Sha256Digest,
        /// Digest or length seen.
        got: String,
    },
    /// A blob of ours cannot be read (environment).
    #[error("stored blob {digest} cannot be read: {source}")]
    LocalRead {
        /// Digest of the blob.
        digest: Sha256Digest,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Everything is in the registries, but not every tag was written.
    #[error("tag {name} was not written (written: {}): {source}", list(.written))]
    Tag {
        /// The name that failed.
        name: String,
        /// Names already written; each has its signature and Evidence.
        written: Vec<String>,
        /// Why.
        source: Box<PushError>,
    },
}

/// Whether a login was there when the registry refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// None was given.
    Missing,
    /// One was given and not accepted.
    NotAccepted,
}

impl std::fmt::Display for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "no login for it was sent with the build",
            Self::NotAccepted => "the login sent with the build was not accepted",
        })
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |pause| format!("; it asks to wait {} s", pause.as_secs()))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl PushError {
    /// Stable name of the cause, upper snake case.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Client { .. } => "REGISTRY_CLIENT",
            Self::Unauthorized { .. } => "REGISTRY_UNAUTHORIZED",
            Self::LoginRefused { .. } => "REGISTRY_LOGIN_REFUSED",
            Self::Challenge { .. } => "REGISTRY_CHALLENGE",
            Self::Forbidden { .. } => "REGISTRY_FORBIDDEN",
            Self::NotFound { .. } => "REGISTRY_NOT_FOUND",
            Self::RateLimited { .. } => "REGISTRY_RATE_LIMITED",
            Self::Server { .. } => "REGISTRY_SERVER_ERROR",
            Self::Rejected { .. } => "REGISTRY_REJECTED",
            Self::Unreachable { .. } => "REGISTRY_UNREACHABLE",
            Self::ConnectionLost { .. } => "REGISTRY_CONNECTION_LOST",
            Self::Stalled { .. } => "REGISTRY_STALLED",
            Self::OtherDigest { .. } => "REGISTRY_OTHER_DIGEST",
            Self::Protocol { .. } => "REGISTRY_PROTOCOL",
            Self::Redirect { .. } => "REGISTRY_REDIRECT",
            Self::SharedTag { .. } => "REGISTRY_SHARED_TAG",
            Self::LocalBlob { .. } => "RESULT_DAMAGED",
            Self::LocalRead { .. } => "RESULT_UNREADABLE",
            Self::Tag { source, .. } => source.reason(),
        }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Unauthorized { registry, login: Login::Missing, .. } => {
                format!("log in on the machine that submits the build (docker login {registry}) and submit it again")
            }
            Self::Unauthorized { registry, .. } | Self::LoginRefused { registry, .. } => {
                format!("log in again (docker login {registry}) with an account that may push, and submit the build again")
            }
            Self::Forbidden { repository, .. } => {
                format!("give the account that you log in with the right to push to `{repository}`, or push to another repository")
            }
            Self::NotFound { repository, .. } => {
                format!("check the image name; if the registry does not create repositories by itself, create `{repository}` first")
            }
            Self::RateLimited { .. } => "submit the build again later; what is already in the registry is not sent again".to_owned(),
            Self::Server { .. } | Self::ConnectionLost { .. } | Self::Stalled { .. } => {
                "submit the build again; steps are cached and blobs already in the registry are not sent again; \
                 if it stays, ask the registry's operator"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                "check the registry's host name and port; a registry without TLS must be listed under `engine.plain_http_registries` of the server's operations configuration"
                    .to_owned()
            }
            Self::LocalBlob { .. } | Self::LocalRead { .. } => {
                "the server's storage is damaged or full; tell its operator, then submit the build again".to_owned()
            }
            Self::SharedTag { tag, .. } => format!("look at what else writes the tag `{tag}`, then submit the build again"),
            Self::Client { .. } => "tell the server's operator: its registry configuration is wrong".to_owned(),
            Self::Challenge { .. }
            | Self::Rejected { .. }
            | Self::OtherDigest { .. }
            | Self::Protocol { .. }
            | Self::Redirect { .. } => {
                "ask the registry's operator; without `--push` the image can be fetched as an OCI layout and pushed by other tools".to_owned()
            }
            Self::Tag { source, .. } => source.advice(),
        }
    }

    /// The same with the number of attempts made, where the variant tells it.
    pub(super) fn after(mut self, made: u32) -> Self {
        match &mut self {
            Self::RateLimited { attempts, .. }
            | Self::Server { attempts, .. }
            | Self::Unreachable { attempts, .. }
            | Self::ConnectionLost { attempts, .. }
            | Self::Stalled { attempts, .. } => *attempts = made,
            _ => {}
        }
        self
    }
}
