//! What went wrong, where, and what to do: three lines and an exit code.

use client::attestation_request::AttestationRequestError;
use client::channel::ChannelError;
use client::context::ContextError;
use client::download::DownloadError;
use client::request::PrepareError;
use client::session::{SessionError, said};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use verifier::secure_execution::NoHostKey;

/// Exit codes of every command (docs/cli.md).
pub(crate) mod exit {
    /// The build failed, or anything that has no code of its own.
    pub(crate) const FAILED: u8 = 1;
    /// Misuse: a flag, a file of the caller, no policy.
    pub(crate) const USAGE: u8 = 2;
    /// Authentic, but refused by policy.
    pub(crate) const REFUSED: u8 = 3;
    /// Not authentic.
    pub(crate) const NOT_AUTHENTIC: u8 = 4;
    /// The server refuses the caller.
    pub(crate) const AUTH: u8 = 5;
    /// The service cannot be reached or has no room; try again.
    pub(crate) const UNAVAILABLE: u8 = 6;
    /// It took too long.
    pub(crate) const TIMEOUT: u8 = 7;
    /// Endorsements missing or out of date.
    pub(crate) const ENDORSEMENTS: u8 = 8;
    /// Interrupted.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// A failure as people read it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) exit: u8,
    /// Stable name, upper snake case.
    pub(crate) reason: String,
    /// What went wrong, with the values seen and wanted.
    pub(crate) what: String,
    /// Where: file, field, step, link.
    pub(crate) place: Option<String>,
    /// What to do next.
    pub(crate) advice: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: u8, reason: &str, what: impl ToString) -> Self {
        Self { exit, reason: reason.to_owned(), what: what.to_string(), place: None, advice: Vec::new() }
    }

    pub(crate) fn usage(what: impl ToString) -> Self {
        Self::new(exit::USAGE, "USAGE", what)
    }

    pub(crate) fn failed(what: impl ToString) -> Self {
        Self::new(exit::FAILED, "FAILED", what)
    }

    pub(crate) fn at(mut self, place: impl ToString) -> Self {
        self.place = Some(place.to_string());
        self
    }

    pub(crate) fn advise(mut self, advice: impl ToString) -> Self {
        self.advice.push(advice.to_string());
        self
    }

    /// What the last lines mean for a gate.
    pub(crate) fn exit_meaning(&self) -> Option<&'static str> {
        match self.exit {
            exit::REFUSED => Some("exit 3: refused by policy (4 would mean: not authentic)"),
            exit::NOT_AUTHENTIC => Some("exit 4: not authentic (3 would mean: refused by policy)"),
            exit::ENDORSEMENTS => {
                Some("exit 8: endorsements missing or out of date, so authenticity cannot be decided")
            }
            exit::TIMEOUT => Some("exit 7: timeout"),
            _ => None,
        }
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        let failure = Self::usage(&error);
        match error {
            PrepareError::Context(error) => error.into(),
            PrepareError::DockerConfig(_) => {
                failure.advise("log in again with `docker login`, or correct the file")
            }
            PrepareError::Request(_) => failure.advise("correct the flag that this field comes from"),
            PrepareError::Secret { .. } => failure.advise(
                "give --secret id=ID,src=FILE or id=ID,env=NAME with a file or variable that is there",
            ),
            PrepareError::Folder { .. } => failure.advise("give a directory, a git URL or `-`"),
            PrepareError::Ssh { .. } => failure.advise(
                "start an agent (`eval $(ssh-agent)`, `ssh-add`), or name its socket: --ssh ID=SOCKET",
            ),
            _ => failure,
        }
    }
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        let failure = Self::usage(&error);
        match error {
            ContextError::Service(status) => from_status(&status),
            ContextError::Changed { .. } => failure.advise(
                "let whatever writes there finish, or leave it out with .dockerignore; then build again",
            ),
            ContextError::NoDockerfile { .. } => failure.advise("give its path with -f FILE"),
            ContextError::TooMany { .. } | ContextError::TooDeep { .. } => {
                failure.advise("leave out what the build does not need with .dockerignore")
            }
            ContextError::Read { .. } => {
                failure.advise("make it readable, or leave it out with .dockerignore")
            }
            _ => failure,
        }
    }
}

impl From<ChannelError> for Failure {
    fn from(error: ChannelError) -> Self {
        let unavailable = Self::new(exit::UNAVAILABLE, "UNREACHABLE", &error);
        match &error {
            ChannelError::Rejected { rejection, endpoint } => {
                let mut failure = Self::new(rejection.class().exit_code(), "SERVER_REFUSED", &error);
                failure.place = rejection.policy_place().map(|place| format!("policy: {place}"));
                failure.advice = rejection.advice();
                failure.advise(format!("nothing but a nonce was sent to {endpoint}"))
            }
            ChannelError::AttestationRequest(error) => attestation_request(error),
            ChannelError::NoEvidence { status, .. } => {
                let mut failure = from_status(status);
                failure.what = error.to_string();
                failure
            }
            ChannelError::ConnectTimeout { .. } => {
                Self { exit: exit::TIMEOUT, ..unavailable }.advise("check the endpoint and the network between")
            }
            ChannelError::Connect { .. } => unavailable
                .advise("check that the server runs and that --endpoint (SEALWRIGHT_ENDPOINT) names it; `sealwright config show` says where it came from"),
            ChannelError::Tls { .. } | ChannelError::Http2 { .. } => {
                unavailable.advise("the endpoint must be a Sealwright build server (TLS 1.3, HTTP/2), without a proxy that ends TLS")
            }
            _ => unavailable,
        }
    }
}

/// Why there is no attestation request, as a failure.
pub(crate) fn attestation_request(error: &AttestationRequestError) -> Failure {
    let with = |exit| Failure::new(exit, "NO_ATTESTATION_REQUEST", error);
    match error {
        AttestationRequestError::NoHostKey(reason) => match reason {
            NoHostKey::HostKey(problem) if problem.concerns_endorsements() => with(exit::ENDORSEMENTS)
                .advise("fetch the current documents and revocation lists of IBM for the server's machine"),
            NoHostKey::OtherHostKeys { line, .. } => with(exit::REFUSED).advise(format!(
                "line {line} of the policy names the host keys that are accepted; give their documents"
            )),
            NoHostKey::RootNotAccepted | NoHostKey::NotAccepted => {
                with(exit::REFUSED).advise("the policy must accept \"own-request\" and the root; see docs/policy.md")
            }
            NoHostKey::HostKey(_) => with(exit::NOT_AUTHENTIC).advise("get the documents from IBM again"),
            _ => with(exit::USAGE).advise(
                "--host-key-documents takes a file or folder with host key documents, certificates above them and \
                 revocation lists",
            ),
        },
        _ => with(exit::FAILED),
    }
}

impl From<AttestationRequestError> for Failure {
    fn from(error: AttestationRequestError) -> Self {
        attestation_request(&error)
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Channel(error) => error.into(),
            SessionError::Context(error) => error.into(),
            SessionError::Service(status) => from_status(&status),
            other => Self::failed(other),
        }
    }
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Self {
        let failure = Self::failed(&error);
        match error {
            DownloadError::Session(error) => error.into(),
            DownloadError::NotALayout { .. } | DownloadError::SeveralImages { .. } => {
                Self { exit: exit::USAGE, ..failure }
                    .advise("give another path with --output type=oci,dest=PATH")
            }
            DownloadError::NotADirectory { .. } | DownloadError::Directory { .. } => {
                Self { exit: exit::USAGE, ..failure }.advise("give another dest with --output")
            }
            DownloadError::Mismatch { .. } => Self { exit: exit::NOT_AUTHENTIC, ..failure },
            _ => failure,
        }
    }
}

impl From<client::config::ConfigError> for Failure {
    fn from(error: client::config::ConfigError) -> Self {
        use client::config::{ConfigError, Setting};
        let failure = Self::usage(&error);
        match error {
            ConfigError::Shape { .. } => {
                failure.advise(format!("known keys are {}", Setting::ALL.map(Setting::name).join(", ")))
            }
            _ => failure.advise("check the file, and that you may read it"),
        }
    }
}

impl From<client::key::KeyError> for Failure {
    fn from(error: client::key::KeyError) -> Self {
        use client::key::KeyError;
        let failure = Self::usage(&error);
        match error {
            KeyError::Permissions { path, .. } => failure.advise(format!("chmod 600 {}", path.display())),
            KeyError::Exists { .. } => {
                failure.advise("give another file, or keep using the key that is there")
            }
            KeyError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                failure.advise("make one with `sealwright key new FILE`")
            }
            _ => failure,
        }
    }
}

const NOT_FOUND_HERE: &str =
    "`sealwright list` shows the builds of the project in use; --project names another";

/// A server's answer as a failure: its reason and advice, and the exit code of its kind.
pub(crate) fn from_status(status: &Status) -> Failure {
    let details = status.get_error_details();
    let info = details.error_info();
    let (exit, name) = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => (exit::AUTH, "CALLER_REFUSED"),
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => (exit::UNAVAILABLE, "UNAVAILABLE"),
        Code::DeadlineExceeded => (exit::TIMEOUT, "TIMEOUT"),
        Code::InvalidArgument | Code::OutOfRange => (exit::USAGE, "INVALID"),
        Code::NotFound => (exit::FAILED, "NOT_FOUND"),
        _ if std::error::Error::source(status).is_some() => (exit::UNAVAILABLE, "CONNECTION_CUT"),
        _ => (exit::FAILED, "FAILED"),
    };
    let message = match std::error::Error::source(status) {
        // A cut connection has nothing to say but what the transport saw.
        Some(source) => format!("the connection broke: {}", innermost(source)),
        None => said(status).to_owned(),
    };
    let mut failure = Failure::new(exit, info.map_or(name, |info| info.reason.as_str()), message);
    if let Some(request) = details.bad_request() {
        let fields: Vec<String> =
            request.field_violations.iter().map(|violation| place(violation, &failure.what)).collect();
        failure.place = Some(fields.join("; ")).filter(|text| !text.is_empty());
    }
    let advice = match failure.reason.as_str() {
        // The server's words are for whoever writes a client.
        "NOT_FOUND" => Some(NOT_FOUND_HERE.to_owned()),
        _ => details.localized_message().map(|message| message.message.clone()),
    };
    failure.advice = advice.into_iter().filter(|text| !text.is_empty()).collect();
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        failure.advice.push(format!("try again in {} s", delay.as_secs().max(1)));
    }
    if failure.advice.is_empty() && exit == exit::AUTH {
        failure
            .advice
            .push("the operator must admit your project: send them `sealwright project show`".to_owned());
    }
    failure
}

/// The field, and what is wrong with it unless the message says that already.
fn place(violation: &tonic_types::FieldViolation, message: &str) -> String {
    match violation.description == message {
        true => format!("field `{}` of the call", violation.field),
        false => format!("{}: {}", violation.field, violation.description),
    }
}

fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_words() {
        let endpoint: client::channel::Endpoint = "build.example:8443".parse().expect("an endpoint");
        for (status, said) in [
            (Status::unavailable("too many wait for Evidence"), "too many wait for Evidence"),
            (Status::unavailable(""), "The service is currently unavailable"),
        ] {
            let error =
                ChannelError::NoEvidence { endpoint: endpoint.clone(), status: Box::new(status.clone()) };
            assert_eq!(
                Failure::from(error).what,
                format!("build.example:8443 gave no Evidence for this session: {said}")
            );
            assert_eq!(ContextError::from(status.clone()).to_string(), format!("upload: {said}"));
            assert_eq!(from_status(&status).what, said);
        }
    }

    #[test]
    fn what_is_not_there_is_looked_for_with_the_command_and_not_the_api() {
        let details = tonic_types::ErrorDetails::with_localized_message("en", "send its document first");
        let status = Status::with_error_details(Code::NotFound, "no such build", details);
        assert_eq!(from_status(&status).advice, [NOT_FOUND_HERE]);
    }
}
