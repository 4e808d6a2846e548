//! One registry's HTTP API (OCI distribution-spec 1.1): requests with login, redirects, limits and retries.
//!
//! Own client over `reqwest` rather than `oci-client`: publishing needs the `OCI-Subject` header, answers to
//! `HEAD`, `Retry-After`, uploads that can be started again, and redirects that never carry a token elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::PublisherConfig;
use super::auth::{Authenticator, Credential};
use super::error::{Login, PushError};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most bytes of an error answer that are read.
const MAX_ERROR_ANSWER: usize = 64 << 10;
/// Most characters of a registry's words that reach our messages.
const MAX_DETAIL: usize = 300;

/// What all registries of one publisher share.
pub(super) struct Settings {
    pub(super) http: reqwest::Client,
    pub(super) config: PublisherConfig,
    pub(super) turns: super::Turns,
}

impl Settings {
    /// Whether a URL is https, or plain http to a host for which the configuration allows it.
    pub(super) fn may_speak_to(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.is_plain(&host_and_port(url)),
            _ => false,
        }
    }

    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.config.plain_http.iter().any(|plain| plain == host)
            || (self.config.plain_http_on_loopback && is_loopback(host))
    }
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// `localhost`, 127.0.0.0/8 or ::1, with or without port: what Docker takes for loopback.
fn is_loopback(host_and_port: &str) -> bool {
    let host = match host_and_port.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host_and_port.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A failed attempt, and whether another may do better.
pub(super) struct Failure {
    pub(super) error: PushError,
    again: bool,
    retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn last(error: PushError) -> Self {
        Self { error, again: false, retry_after: None }
    }

    pub(super) fn again(error: PushError) -> Self {
        Self { error, again: true, retry_after: None }
    }
}

/// Counts the attempts at one thing and waits between them.
pub(super) struct Attempts<'a> {
    config: &'a PublisherConfig,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(config: &'a PublisherConfig) -> Self {
        Self { config, made: 0 }
    }

    /// Waits as long as the registry asks (at most `longest_pause`) or twice as long as before; gives the error
    /// back when trying again is of no use.
    pub(super) async fn pause_after(&mut self, failure: Failure) -> Result<(), PushError> {
        self.made += 1;
        let too_long = failure.retry_after.is_some_and(|pause| pause > self.config.longest_pause);
        if !failure.again || too_long || self.made >= self.config.attempts.max(1) {
            return Err(failure.error.after(self.made));
        }
        let backoff = self.config.first_pause.saturating_mul(1 << (self.made - 1).min(16));
        let pause = failure.retry_after.unwrap_or(backoff).min(self.config.longest_pause);
        tracing::debug!(attempt = self.made, ?pause, error = %failure.error, "registry request is tried again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// One request without its login.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    /// Repository whose login it carries.
    pub(super) repository: &'a str,
    /// Words for messages, such as `upload of blob sha256:…`.
    pub(super) action: String,
    pub(super) accept: Option<&'static str>,
    /// One more header.
    pub(super) condition: Option<(HeaderName, &'a str)>,
    pub(super) content: Option<(&'a str, Bytes)>,
    /// Answers that are no failure.
    pub(super) wanted: &'static [StatusCode],
}

/// One registry during one push.
pub(super) struct Registry {
    pub(super) settings: Arc<Settings>,
    pub(super) host: String,
    base: Url,
    authenticator: Authenticator,
    /// Repositories of this push at this registry, to mount blobs from.
    repositories: Vec<String>,
}

impl Registry {
    pub(super) fn new(
        settings: Arc<Settings>,
        host: &str,
        repositories: Vec<String>,
        credential: Option<Credential>,
    ) -> Result<Self, PushError> {
        let scheme = if settings.is_plain(host) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/"))
            .map_err(|e| PushError::Client { problem: format!("`{host}` is no registry host: {e}") })?;
        let authenticator = Authenticator::new(host, credential);
        Ok(Self { settings, host: host.to_owned(), base, authenticator, repositories })
    }

    /// URL of a path below `/v2/<repository>/`. Repository and rest consist of parsed names and digests.
    pub(super) fn url(&self, repository: &str, rest: &str) -> Url {
        self.base.join(&format!("{repository}/{rest}")).expect("parsed names and digests make a URL")
    }

    /// One attempt: sends, logs in when asked to, follows redirects of GET and HEAD.
    pub(super) async fn attempt(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let mut url = call.url.clone();
        let mut renewed = false;
        let mut redirects = 0;
        loop {
            let own = url.origin() == self.base.origin();
            let grant = if own { self.authenticator.grant(call.repository).await } else { None };
            let mut request = self
                .settings
                .http
                .request(call.method.clone(), url.clone())
                .timeout(self.settings.config.stall);
            if let Some(grant) = &grant {
                request = request.header(AUTHORIZATION, grant.header.clone());
            }
            if let Some(accept) = call.accept {
                request = request.header(reqwest::header::ACCEPT, accept);
            }
            if let Some((name, value)) = &call.condition {
                request = request.header(name, *value);
            }
            if let Some((media_type, bytes)) = &call.content {
                request = request.header(CONTENT_TYPE, *media_type).body(bytes.clone());
            } else if !matches!(call.method, Method::GET | Method::HEAD) {
                request = request.header(CONTENT_LENGTH, 0);
            }
            let answer =
                request.send().await.map_err(|error| network_failure(&self.host, &call.action, error))?;
            let status = answer.status();
            if call.wanted.contains(&status) {
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED && own && !renewed {
                renewed = true;
                self.renew(call.repository, &call.action, grant.as_ref(), answer.headers()).await?;
                continue;
            }
            if status.is_redirection() && matches!(call.method, Method::GET | Method::HEAD) {
                redirects += 1;
                url = self.redirect(&call.action, &url, answer.headers(), redirects)?;
                continue;
            }
            return Err(self.refusal(call.repository, &call.action, answer).await);
        }
    }

    /// As [`Self::attempt`], tried again where that can help.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Response, PushError> {
        let mut attempts = Attempts::new(&self.settings.config);
        loop {
            match self.attempt(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.pause_after(failure).await?,
            }
        }
    }

    pub(super) async fn renew(
        &self,
        repository: &str,
        action: &str,
        used: Option<&super::auth::Grant>,
        answer: &HeaderMap,
    ) -> Result<(), Failure> {
        self.authenticator.renew(&self.settings, action, repository, &self.repositories, used, answer).await
    }

    /// The header that a request to this URL may carry: none to another origin.
    pub(super) async fn grant_for(&self, url: &Url, repository: &str) -> Option<super::auth::Grant> {
        if url.origin() == self.base.origin() { self.authenticator.grant(repository).await } else { None }
    }

    /// Where an upload session continues (`Location`, absolute or relative).
    pub(super) fn location(&self, action: &str, base: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
        let protocol = |problem: &str| {
            Failure::last(PushError::Protocol {
                registry: self.host.clone(),
                action: action.to_owned(),
                problem: problem.to_owned(),
            })
        };
        let location = headers.get(LOCATION).ok_or_else(|| protocol("no Location header"))?;
        let location = location.to_str().map_err(|_| protocol("Location header is no text"))?;
        let url = base.join(location).map_err(|_| protocol("Location header is no URL"))?;
        self.permitted(action, url)
    }

    fn permitted(&self, action: &str, url: Url) -> Result<Url, Failure> {
        if url.origin() == self.base.origin() || self.settings.may_speak_to(&url) {
            return Ok(url);
        }
        Err(Failure::last(PushError::Redirect {
            registry: self.host.clone(),
            action: action.to_owned(),
            target: url.origin().ascii_serialization(),
            problem: "only https is followed to another host",
        }))
    }

    fn redirect(&self, action: &str, from: &Url, headers: &HeaderMap, count: usize) -> Result<Url, Failure> {
        let url = self.location(action, from, headers)?;
        if count <= MAX_REDIRECTS {
            return Ok(url);
        }
        Err(Failure::last(PushError::Redirect {
            registry: self.host.clone(),
            action: action.to_owned(),
            target: url.origin().ascii_serialization(),
            problem: "more than 5 redirects",
        }))
    }

    /// Turns an unwanted answer into its error.
    pub(super) async fn refusal(&self, repository: &str, action: &str, answer: Response) -> Failure {
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let detail = match bounded_body(answer, MAX_ERROR_ANSWER).await {
            Ok(body) => detail(&body),
            Err(problem) => problem,
        };
        let (registry, repository, action) = (self.host.clone(), repository.to_owned(), action.to_owned());
        let number = status.as_u16();
        match status {
            StatusCode::UNAUTHORIZED => {
                let login = if self.authenticator.has_login() { Login::NotAccepted } else { Login::Missing };
                Failure::last(PushError::Unauthorized { registry, repository, action, login })
            }
            StatusCode::FORBIDDEN => {
                Failure::last(PushError::Forbidden { registry, repository, action, detail })
            }
            StatusCode::NOT_FOUND => {
                Failure::last(PushError::NotFound { registry, repository, action, detail })
            }
            StatusCode::TOO_MANY_REQUESTS => Failure {
                error: PushError::RateLimited { registry, action, status: number, retry_after, attempts: 1 },
                again: true,
                retry_after,
            },
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Failure {
                error: PushError::RateLimited { registry, action, status: number, retry_after, attempts: 1 },
                again: true,
                retry_after,
            },
            status if status.is_server_error() => {
                Failure::again(PushError::Server { registry, action, status: number, detail, attempts: 1 })
            }
            _ => Failure::last(PushError::Rejected { registry, repository, action, status: number, detail }),
        }
    }
}

/// Seconds, or a date counted from the answer's own `Date` so that our clock plays no part (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| {
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822)
            .ok()
            .map(|t| t.unix_timestamp())
    };
    let wait = date(text)? - date(headers.get(reqwest::header::DATE)?.to_str().ok()?)?;
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// Sorts what went wrong below HTTP.
pub(super) fn network_failure(registry: &str, action: &str, error: reqwest::Error) -> Failure {
    let (registry, action) = (registry.to_owned(), action.to_owned());
    if error.is_timeout() && !error.is_connect() {
        return Failure::again(PushError::ConnectionLost {
            registry,
            action,
            problem: "no answer in time".to_owned(),
            attempts: 1,
        });
    }
    // Locations of uploads may hold secrets of the registry.
    let error = error.without_url();
    let connect = error.is_connect();
    let mut problem = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        problem = cause.to_string();
        source = cause.source();
    }
    Failure::again(if connect {
        PushError::Unreachable { registry, action, problem, attempts: 1 }
    } else {
        PushError::ConnectionLost { registry, action, problem, attempts: 1 }
    })
}

/// The body, when it has at most `limit` bytes.
pub(super) async fn bounded_body(mut answer: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len() + chunk.len() > limit {
            return Err(format!("more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What a registry says in its error answer, fit for one line of a message.
pub(super) fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => {
            answer.errors.iter().map(|e| format!("{} {}", e.code, e.message)).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect();
    if line.is_empty() { "no explanation".to_owned() } else { line }
}

/// A header's text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::to_str).and_then(Result::ok)
}
