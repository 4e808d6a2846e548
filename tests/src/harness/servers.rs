//! A local web server: plain files, and git repositories over git's smart protocol (`git http-backend`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

/// Files and repositories under one address of the loopback; ends when it is dropped.
pub struct WebServer {
    address: SocketAddr,
    directory: tempfile::TempDir,
    requests: Arc<Mutex<BTreeMap<String, usize>>>,
    _runtime: tokio::runtime::Runtime,
}

impl WebServer {
    /// Starts with an empty directory.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port of the loopback");
        let address = listener.local_addr().expect("address");
        let requests = Arc::new(Mutex::new(BTreeMap::new()));
        let (root, seen) = (directory.path().to_owned(), requests.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (root, seen) = (root.clone(), seen.clone());
                let service = service_fn(move |request| answer(root.clone(), seen.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, directory, requests, _runtime: runtime }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The directory served.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How often each path was asked for.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, usize> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

async fn answer(
    root: PathBuf,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().path().to_owned();
    *seen.lock().expect("not poisoned").entry(path.clone()).or_default() += 1;
    let refused = |status| Ok(Response::builder().status(status).body(Full::default()).expect("a response"));
    if path.split('/').any(|part| part == "..") {
        return refused(StatusCode::BAD_REQUEST);
    }
    if path.contains(".git/") {
        return git_backend(&root, request).await;
    }
    match std::fs::read(root.join(path.trim_start_matches('/'))) {
        Ok(body) => Ok(Response::new(Full::from(body))),
        Err(_) => refused(StatusCode::NOT_FOUND),
    }
}

/// One CGI call (RFC 3875) of `git http-backend`.
async fn git_backend(
    root: &Path,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
    };
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or(""))
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(&body).await?;
    drop(stdin);
    let output = child.wait_with_output().await?.stdout;
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("no CGI header"))?;
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        response = match name {
            "Status" => response
                .status(value.split(' ').next().and_then(|code| code.parse::<u16>().ok()).unwrap_or(500)),
            _ => response.header(name, value),
        };
    }
    response.body(Full::from(output[end + 4..].to_vec())).map_err(std::io::Error::other)
}

/// Runs git in `directory` with fixed names and times, so that commits are the same everywhere; gives its stdout.
///
/// # Panics
/// When git fails.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false", "-c", "core.autocrlf=false"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([
            ("GIT_AUTHOR_NAME", "A"),
            ("GIT_AUTHOR_EMAIL", "a@example.test"),
            ("GIT_AUTHOR_DATE", "1600000000 +0000"),
        ])
        .envs([
            ("GIT_COMMITTER_NAME", "C"),
            ("GIT_COMMITTER_EMAIL", "c@example.test"),
            ("GIT_COMMITTER_DATE", "1600000100 +0000"),
        ])
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Time of the commits of [`repository`], seconds since 1970.
pub const COMMIT_TIME: i64 = 1_600_000_100;

/// Puts `repo.git` with branch `main` and tag `v1` into `served`, and `app.git`, whose root is what `repo.git` has in
/// `app`; gives the commit's id of the first.
///
/// # Panics
/// When git fails.
pub fn repository(served: &Path) -> String {
    let app = [
        ("Dockerfile", "FROM scratch\nCOPY . /\nLABEL from=git\n"),
        (".dockerignore", "ignored.txt\n"),
        ("main.txt", "main\n"),
        ("ignored.txt", "BuildKit heeds no ignore file of a git context\n"),
    ];
    let mut files = vec![("file.txt".to_owned(), "in git\n"), ("sub/inner.txt".to_owned(), "inner\n")];
    files.extend(app.iter().map(|(path, text)| (format!("app/{path}"), *text)));
    let commit = commit(served, "repo.git", &files);
    self::commit(served, "app.git", &app.map(|(path, text)| (path.to_owned(), text)));
    commit
}

/// One commit in a new bare repository; gives its id.
fn commit(served: &Path, name: &str, files: &[(String, &str)]) -> String {
    let work = tempfile::tempdir().expect("a directory");
    for (path, text) in files {
        let path = work.path().join(path);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        std::fs::write(path, text).expect("file");
    }
    git(work.path(), &["init", "-q"]);
    git(work.path(), &["add", "-A"]);
    git(work.path(), &["commit", "-q", "-m", "first"]);
    git(work.path(), &["tag", "v1"]);
    git(served, &["clone", "-q", "--bare", work.path().to_str().expect("UTF-8"), name]);
    git(&served.join(name), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    git(work.path(), &["rev-parse", "HEAD"])
}
