//! Registries on loopback for tests: two real ones as processes, and one of our own that fails on request.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use provenance::digest::Sha256Digest;

use crate::tools::tool;

/// User and password of [`RegistryProcess::distribution_with_login`].
pub const LOGIN: (&str, &str) = ("tester", "registry-password-31c7");
/// The same as bcrypt has it.
const LOGIN_HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuXFnh1BtyjGwLLg8e4DP/XzY28YU4li.\n";

/// A real registry as a process; it ends with the value.
pub struct RegistryProcess {
    child: Child,
    address: SocketAddr,
    _state: tempfile::TempDir,
}

impl RegistryProcess {
    /// go-containerregistry's registry: OCI 1.1 with the referrers API, in memory.
    ///
    /// # Panics
    /// When the tool is missing or does not start.
    #[must_use]
    pub fn crane() -> Self {
        Self::start(|address, _| {
            let mut command = Command::new(tool("crane"));
            command.args(["registry", "serve", "--address", &address.to_string()]);
            command
        })
    }

    /// CNCF distribution, which has no referrers API and checks manifests strictly.
    ///
    /// # Panics
    /// When the tool is missing or does not start.
    #[must_use]
    pub fn distribution() -> Self {
        Self::start(|address, state| {
            let configuration = state.join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '{address}'}}\n",
                state.join("data").display()
            );
            std::fs::write(&configuration, text).expect("the state directory is writable");
            let mut command = Command::new(tool("registry"));
            command.arg("serve").arg(configuration).env("OTEL_TRACES_EXPORTER", "none");
            command
        })
    }

    /// The same, for those only who log in as [`LOGIN`].
    ///
    /// # Panics
    /// When the tool is missing or does not start.
    #[must_use]
    pub fn distribution_with_login() -> Self {
        Self::start(|address, state| {
            let configuration = state.join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\n\
                 http: {{addr: '{address}'}}\nauth: {{htpasswd: {{realm: tests, path: {0}/htpasswd}}}}\n",
                state.display()
            );
            std::fs::write(&configuration, text).expect("the state directory is writable");
            std::fs::write(state.join("htpasswd"), LOGIN_HTPASSWD).expect("the state directory is writable");
            let mut command = Command::new(tool("registry"));
            command.arg("serve").arg(configuration).env("OTEL_TRACES_EXPORTER", "none");
            command
        })
    }

    fn start(command: impl Fn(SocketAddr, &Path) -> Command) -> Self {
        let state = tempfile::tempdir().expect("a directory for the registry");
        // Another process may take the port between its choice and its use.
        for _ in 0..5 {
            let address = free_address();
            let mut child = command(address, state.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the registry starts");
            let deadline = Instant::now() + Duration::from_secs(30);
            while Instant::now() < deadline {
                if child.try_wait().expect("own child").is_some() {
                    break;
                }
                if TcpStream::connect(address).is_ok() {
                    return Self { child, address, _state: state };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the registry did not start five times");
    }

    /// Host and port as in image names.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for RegistryProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    listener.local_addr().expect("bound")
}

/// How a [`FaultRegistry`] wants callers to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Not at all.
    Open,
    /// HTTP Basic with this user name and password.
    Basic(&'static str, &'static str),
    /// A token of the token service at `/token`, which takes this user name and password.
    Bearer(&'static str, &'static str),
    /// A token of the token service at `/token`, which takes this refresh token.
    IdentityToken(&'static str),
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers this status, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Reads this many bytes of the request's body and closes the connection.
    Cut(usize),
    /// Does not answer at all.
    Silence,
    /// Answers as if it had stored something else.
    OtherDigest,
}

struct Rule {
    method: Method,
    path: String,
    left: usize,
    /// Only requests that carry a login.
    logged_in: bool,
    fault: Fault,
}

/// A request as the registry saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// Its `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Store {
    blobs: HashMap<(String, String), Bytes>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    tokens: usize,
}

struct Shared {
    guard: Guard,
    referrers: bool,
    store: Mutex<Store>,
}

/// A registry in this process that follows rules of failure. It has what a push needs: blobs, uploads, mounts,
/// manifests, tags, a token service, and the `OCI-Subject` answer when asked to.
pub struct FaultRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

/// Why the connection is closed in the middle.
#[derive(Debug, thiserror::Error)]
#[error("connection cut by the test")]
struct Cut;

impl FaultRegistry {
    /// Starts it. `referrers` says whether it claims the referrers API.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(guard: Guard, referrers: bool) -> Self {
        let listener =
            tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { guard, referrers, store: Mutex::default() });
        let served = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                connections.spawn(async move {
                    let service =
                        hyper::service::service_fn(move |request| answer(Arc::clone(&shared), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, shared, task }
    }

    /// Host and port as in image names.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// From now on the next `times` requests with this method, whose path holds `path`, fail.
    pub fn fail(&self, method: Method, path: &str, times: usize, fault: Fault) {
        self.store().rules.push(Rule { method, path: path.to_owned(), left: times, logged_in: false, fault });
    }

    /// As [`Self::fail`], for requests that carry a login only.
    pub fn fail_logged_in(&self, method: Method, path: &str, times: usize, fault: Fault) {
        self.store().rules.push(Rule { method, path: path.to_owned(), left: times, logged_in: true, fault });
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.store().seen.clone()
    }

    /// Tags of a repository, ascending.
    #[must_use]
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let store = self.store();
        let mut tags: Vec<String> = store
            .manifests
            .keys()
            .filter(|(name, reference)| name == repository && !reference.contains(':'))
            .map(|(_, reference)| reference.clone())
            .collect();
        tags.sort();
        tags
    }

    /// The manifest under a tag or digest.
    #[must_use]
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Bytes> {
        self.store()
            .manifests
            .get(&(repository.to_owned(), reference.to_owned()))
            .map(|(_, bytes)| bytes.clone())
    }

    /// Stores a manifest as another writer would.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) {
        let value = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        self.store().manifests.insert((repository.to_owned(), reference.to_owned()), value);
    }

    /// How many blobs a repository has.
    #[must_use]
    pub fn blobs(&self, repository: &str) -> usize {
        self.store().blobs.keys().filter(|(name, _)| name == repository).count()
    }

    /// From now on every token that was given is refused.
    pub fn expire_tokens(&self) {
        self.store().tokens += 1;
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.shared.store.lock().expect("no test panics with the lock")
    }
}

impl Drop for FaultRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Response<Full<Bytes>>;

fn plain(status: StatusCode, headers: &[(&str, String)]) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::default()).expect("test headers are well formed")
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let fault = {
        let mut store = shared.store.lock().expect("no test panics with the lock");
        store.seen.push(Seen {
            method: request.method().clone(),
            path: path.clone(),
            authorization: text(request.headers(), &AUTHORIZATION),
        });
        let rule = store.rules.iter_mut().find(|rule| {
            rule.left > 0
                && rule.method == *request.method()
                && path.contains(&rule.path)
                && (!rule.logged_in || request.headers().contains_key(AUTHORIZATION))
        });
        rule.map(|rule| {
            rule.left -= 1;
            rule.fault.clone()
        })
    };
    let mut other_digest = false;
    match fault {
        Some(Fault::Status(status, headers)) => {
            // Read first: a client that is still sending would see a reset instead of the answer.
            let _ = request.into_body().collect().await;
            return Ok(plain(StatusCode::from_u16(status).expect("a status"), &headers));
        }
        Some(Fault::Cut(bytes)) => {
            let mut body = request.into_body();
            let mut read = 0;
            while read < bytes {
                match body.frame().await {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                    _ => break,
                }
            }
            return Err(Cut);
        }
        Some(Fault::Silence) => {
            std::future::pending::<()>().await;
        }
        Some(Fault::OtherDigest) => other_digest = true,
        None => {}
    }
    let mut response = serve(&shared, request, &path).await?;
    if other_digest {
        let digest = Sha256Digest::of(b"something else").to_string();
        response
            .headers_mut()
            .insert("docker-content-digest", digest.parse().expect("a digest is header text"));
    }
    Ok(response)
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}

async fn serve(shared: &Shared, request: Request<Incoming>, path: &str) -> Result<Answer, Cut> {
    let (parts, body) = request.into_parts();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let authorization = text(&parts.headers, &AUTHORIZATION);
    let host = text(&parts.headers, &HOST).unwrap_or_default();
    let content_type = text(&parts.headers, &CONTENT_TYPE).unwrap_or_default();
    let length: Option<usize> = text(&parts.headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    if length.is_some_and(|length| length != body.len()) {
        return Err(Cut);
    }
    let mut store = shared.store.lock().expect("no test panics with the lock");

    if path == "/token" {
        return Ok(token(&shared.guard, &store, authorization.as_deref(), &body));
    }
    if let Some(refusal) = refused(&shared.guard, &store, authorization.as_deref(), &host) {
        return Ok(refusal);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Ok(plain(StatusCode::NOT_FOUND, &[]));
    };
    let parameter = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
    };
    if let Some((repository, _)) = rest.split_once("/blobs/uploads/") {
        let repository = repository.to_owned();
        if parts.method == Method::POST {
            if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                && let Some(blob) = store.blobs.get(&(from, digest.clone())).cloned()
            {
                store.blobs.insert((repository, digest), blob);
                return Ok(plain(StatusCode::CREATED, &[]));
            }
            let location = format!("/v2/{repository}/blobs/uploads/session?state=1");
            return Ok(plain(StatusCode::ACCEPTED, &[(LOCATION.as_str(), location)]));
        }
        let digest = parameter("digest").unwrap_or_default();
        if Sha256Digest::of(&body).to_string() != digest {
            return Ok(plain(StatusCode::BAD_REQUEST, &[]));
        }
        store.blobs.insert((repository, digest.clone()), body);
        return Ok(plain(StatusCode::CREATED, &[("docker-content-digest", digest)]));
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return Ok(match store.blobs.get(&(repository.to_owned(), digest.to_owned())) {
            Some(blob) => plain(StatusCode::OK, &[(CONTENT_LENGTH.as_str(), blob.len().to_string())]),
            None => plain(StatusCode::NOT_FOUND, &[]),
        });
    }
    let Some((repository, reference)) = rest.split_once("/manifests/") else {
        return Ok(plain(StatusCode::NOT_FOUND, &[]));
    };
    let key = (repository.to_owned(), reference.to_owned());
    if parts.method == Method::PUT {
        let digest = Sha256Digest::of(&body).to_string();
        let mut headers = vec![("docker-content-digest", digest.clone())];
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if let (true, Some(subject)) = (shared.referrers, document["subject"]["digest"].as_str()) {
            headers.push(("oci-subject", subject.to_owned()));
        }
        store.manifests.insert((repository.to_owned(), digest), (content_type.clone(), body.clone()));
        store.manifests.insert(key, (content_type, body));
        return Ok(plain(StatusCode::CREATED, &headers));
    }
    Ok(match store.manifests.get(&key) {
        Some((media_type, bytes)) => {
            let mut response = plain(StatusCode::OK, &[(CONTENT_TYPE.as_str(), media_type.clone())]);
            *response.body_mut() = Full::new(bytes.clone());
            response
        }
        None => plain(StatusCode::NOT_FOUND, &[]),
    })
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// The token that is good at the moment.
fn current_token(store: &Store) -> String {
    format!("token-{}", store.tokens)
}

fn refused(guard: &Guard, store: &Store, authorization: Option<&str>, host: &str) -> Option<Answer> {
    let (wanted, challenge) = match guard {
        Guard::Open => return None,
        Guard::Basic(user, password) => (basic(user, password), "Basic realm=\"test\"".to_owned()),
        Guard::Bearer(..) | Guard::IdentityToken(..) => (
            format!("Bearer {}", current_token(store)),
            format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:x:pull\""),
        ),
    };
    (authorization != Some(&wanted))
        .then(|| plain(StatusCode::UNAUTHORIZED, &[(WWW_AUTHENTICATE.as_str(), challenge)]))
}

fn token(guard: &Guard, store: &Store, authorization: Option<&str>, body: &[u8]) -> Answer {
    let accepted = match guard {
        Guard::Bearer(user, password) => authorization == Some(&basic(user, password)),
        Guard::IdentityToken(token) => {
            let form = String::from_utf8_lossy(body);
            form.contains("grant_type=refresh_token") && form.contains(&format!("refresh_token={token}"))
        }
        Guard::Open | Guard::Basic(..) => false,
    };
    if !accepted {
        return plain(StatusCode::UNAUTHORIZED, &[]);
    }
    let mut response = plain(StatusCode::OK, &[]);
    *response.body_mut() =
        Full::new(Bytes::from(format!("{{\"token\":\"{}\",\"expires_in\":60}}", current_token(store))));
    response
}
