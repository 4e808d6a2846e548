//! What the end to end tests stand on: a development server as a separate process, the `sealwright` command,
//! `buildctl` on the same daemon, local servers, and the Dockerfile cases of `tests/cases`.
//!
//! Everything started here ends with the test, also when the test panics or is killed ([`supervise`]).

pub mod altered;
pub mod cases;
pub mod generate;
pub mod layout;
pub mod servers;
pub mod supervise;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use crate::tools::tool;
use supervise::{Program, Supervised, wait_for};

/// How long a server may take until it is ready, and until it has drained.
const SERVER_LIMIT: Duration = Duration::from_secs(60);
/// How long one command may take, in the words of `timeout`.
const COMMAND_LIMIT: &str = "400";

/// What a command gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end, at most 400 s.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=5", COMMAND_LIMIT]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            limited.current_dir(directory);
        }
        let output = limited.stdin(Stdio::null()).output().expect("timeout is installed");
        Self {
            code: output.status.code().unwrap_or(128),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, when the exit code is `wanted`.
    ///
    /// # Panics
    /// When it is another, with all output.
    #[track_caller]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(self.code, wanted, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Itself, when the exit code is 0.
    ///
    /// # Panics
    /// When it is another, with all output.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Itself, when stderr or stdout holds `text`.
    ///
    /// # Panics
    /// When neither does, with all output.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.stderr.contains(text) || self.stdout.contains(text);
        assert!(said, "`{text}` is missing\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
        })
    }
}

/// The line that the development server prints once it is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub endpoint: String,
    /// A caller key that it admits.
    pub key_file: PathBuf,
    /// An appraisal policy for its outputs.
    pub policy_file: PathBuf,
    /// Host key documents; Secure Execution only.
    pub host_key_documents: Option<PathBuf>,
    /// Path of the command.
    pub sealwright: PathBuf,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Step after which the server kills itself once (`SEALWRIGHT_DEV_CRASH_AT`).
    pub crash_at: Option<&'static str>,
    /// Text of the trust configuration; the development server's own when absent.
    pub trust: Option<&'static str>,
    /// Text of the operations configuration.
    pub operations: Option<&'static str>,
    /// The state directory is a file system of its own with this many megabytes.
    pub state_megabytes: Option<u32>,
    /// Name of the state directory; `state` when absent.
    pub state: Option<&'static str>,
    /// Platform of the software TEE (`--tee`); the development server's default when absent.
    pub tee: Option<&'static str>,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// A killed service is started again (`--restart`).
    pub restart: bool,
}

/// A development server with a state directory of its own; both go when it is dropped.
pub struct DevServer {
    directory: PathBuf,
    settings: Settings,
    running: Option<Supervised>,
    ready: Ready,
}

impl DevServer {
    /// Starts a server on a new state directory.
    ///
    /// # Panics
    /// When it does not become ready, with its log.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Starts a server with settings on a new state directory.
    ///
    /// # Panics
    /// When it does not become ready, with its log.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let directory = directory(&settings);
        let (running, ready) = launch(&directory, &settings, &lasting_address())
            .unwrap_or_else(|log| panic!("dev-server is not ready\n{log}"));
        Self { directory, settings, running: Some(running), ready }
    }

    /// What a server says that must not start with these settings.
    ///
    /// # Panics
    /// When it does start.
    #[must_use]
    pub fn refuses(settings: &Settings) -> String {
        let directory = directory(settings);
        let said = launch(&directory, settings, ANY_PORT).err();
        let _ = std::fs::remove_dir_all(&directory);
        said.expect("a server that refuses to start")
    }

    /// From its next start on, the server kills itself once after `step`; never when absent.
    ///
    /// # Panics
    /// When the state directory cannot be written.
    pub fn crash_next(&mut self, step: Option<&'static str>) {
        self.settings.crash_at = step;
        match std::fs::remove_file(self.state().join("crashed")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("state directory: {error}"),
            _ => {}
        }
    }

    /// What the server finds in its environment from its next start on.
    pub fn set_environment(&mut self, environment: &[(&'static str, &str)]) {
        self.settings.environment =
            environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    }

    /// Starts it again on the same state and the same address, after [`Self::kill9`], [`Self::terminate`] or its own
    /// crash.
    ///
    /// # Panics
    /// When it does not become ready, with its log.
    pub fn restart(&mut self) {
        if let Some(old) = self.running.take() {
            let _ = old.wait(SERVER_LIMIT);
            old.leave();
        }
        let (running, ready) = launch(&self.directory, &self.settings, &self.ready.endpoint)
            .unwrap_or_else(|log| panic!("no restart\n{log}"));
        self.running = Some(running);
        self.ready = ready;
    }

    /// A second server on the same state directory must not start: its log and exit status.
    ///
    /// # Panics
    /// When it does start.
    #[must_use]
    pub fn second_on_same_state(&self) -> String {
        launch(&self.directory, &self.settings, ANY_PORT).err().expect("two servers on one state directory")
    }

    /// Ends the server as a crash does.
    pub fn kill9(&self) {
        let parts = [self.service_pid(), self.engine_pid(), self.keys_pid()];
        self.process().signal(Signal::KILL);
        let _ = self.process().wait(SERVER_LIMIT);
        // They are killed with the launcher, but not in the same moment.
        wait_for("the end of all processes", SERVER_LIMIT, || {
            parts.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }

    /// The process that serves.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn service_pid(&self) -> u32 {
        self.part("service")
    }

    /// The process that starts daemons.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn engine_pid(&self) -> u32 {
        self.part("engine")
    }

    /// The process that holds the keys.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn keys_pid(&self) -> u32 {
        self.part("keys")
    }

    /// The launcher's child with this role.
    fn part(&self, role: &str) -> u32 {
        let parent = format!("PPid:\t{}", self.process().pid());
        let is_part = |directory: &Path| -> Option<u32> {
            let status = std::fs::read_to_string(directory.join("status")).ok()?;
            let arguments = std::fs::read(directory.join("cmdline")).ok()?;
            let last = arguments.strip_suffix(b"\0")?.rsplit(|byte| *byte == 0).next()?;
            let ours = status.lines().any(|line| line == parent) && last == role.as_bytes();
            ours.then(|| directory.file_name()?.to_str()?.parse().ok())?
        };
        wait_for(role, SERVER_LIMIT, || {
            std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| is_part(&entry.path()))
        })
    }

    /// Waits until the server has crashed by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_crash(&self) {
        let status = self.process().wait(Duration::from_secs(120));
        assert_eq!(status, 128 + 9, "the server ends by its own SIGKILL\n{}", self.log());
    }

    /// Ends the server with SIGTERM and gives its exit status.
    #[must_use]
    pub fn terminate(&self) -> i32 {
        self.process().signal(Signal::TERM);
        self.process().wait(SERVER_LIMIT)
    }

    /// The server's process.
    #[must_use]
    pub fn process(&self) -> &Supervised {
        self.running.as_ref().expect("started")
    }

    /// Where it listens, its key and its policy.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join(self.settings.state.unwrap_or("state"))
    }

    /// A directory for the test's own files, gone with the server.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// The directory of the Docker configuration that the command reads.
    #[must_use]
    pub fn docker_config(&self) -> PathBuf {
        self.directory.join("docker")
    }

    /// All that the server wrote to stderr.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// The `sealwright` command with endpoint, key, policy and a home of its own.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(sealwright());
        command
            .args(arguments)
            .env("SEALWRIGHT_ENDPOINT", &self.ready.endpoint)
            .env("SEALWRIGHT_KEY", &self.ready.key_file)
            .env("SEALWRIGHT_POLICY", &self.ready.policy_file)
            .envs(self.ready.host_key_documents.iter().map(|path| ("SEALWRIGHT_HOST_KEY_DOCUMENTS", path)))
            .env("HOME", self.directory.join("home"))
            .env("XDG_CONFIG_HOME", self.directory.join("home/.config"))
            .env("XDG_CACHE_HOME", self.directory.join("home/.cache"))
            .env("DOCKER_CONFIG", self.docker_config())
            .env("NO_COLOR", "1")
            .env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Runs `sealwright` to its end.
    #[must_use]
    pub fn sealwright<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        Output::of(&self.command(arguments))
    }

    /// Sockets of the daemons that run.
    #[must_use]
    pub fn daemon_sockets(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for project in std::fs::read_dir(self.state().join("engine")).into_iter().flatten().flatten() {
            for entry in std::fs::read_dir(project.path()).into_iter().flatten().flatten() {
                // A link to a short private directory.
                let socket = std::fs::metadata(entry.path()).is_ok_and(|meta| meta.file_type().is_socket());
                if socket && entry.file_name() == "socket" {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// `buildctl` on the daemon of the only project.
    ///
    /// # Panics
    /// When no daemon, or more than one, runs.
    #[must_use]
    pub fn buildctl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let sockets = self.daemon_sockets();
        let [socket] = sockets.as_slice() else { panic!("daemons: {sockets:?}, wanted one") };
        let mut command = Command::new(tool("buildctl"));
        command.arg("--addr").arg(format!("unix://{}", socket.display())).args(arguments);
        command
    }
}

/// A new directory for a server.
fn directory(settings: &Settings) -> PathBuf {
    // Short, because sockets lie in it.
    let directory =
        tempfile::Builder::new().prefix("sw-e2e-").tempdir_in("/tmp").expect("a directory").keep();
    // The service, which is not root, passes through it to its state.
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o711)).expect("mode");
    for name in ["home", "docker", "work"] {
        std::fs::create_dir(directory.join(name)).expect("a directory");
    }
    if let Some(megabytes) = settings.state_megabytes {
        let state = directory.join(settings.state.unwrap_or("state"));
        std::fs::create_dir(&state).expect("a directory");
        let mut mount = Command::new("mount");
        Output::of(mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(state)).ok();
    }
    directory
}

/// A free port of the loopback.
const ANY_PORT: &str = "127.0.0.1:0";

/// An address of the loopback that is still free when a server is started again on it: below the ports that the
/// system gives to connections, any of which it may have given away meanwhile.
fn lasting_address() -> String {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", 10_240 + number % 20_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

fn launch(directory: &Path, settings: &Settings, listen: &str) -> Result<(Supervised, Ready), String> {
    let log = directory.join("server.log");
    let earlier = std::fs::metadata(&log).map_or(0, |meta| meta.len());
    let state = directory.join(settings.state.unwrap_or("state"));
    let tools = tool("buildkitd").parent().expect("has a parent").to_owned();
    let mut environment: Vec<(&str, &OsStr)> = Vec::new();
    if let Some(step) = settings.crash_at {
        environment.push(("SEALWRIGHT_DEV_CRASH_AT", OsStr::new(step)));
    }
    environment.extend(settings.environment.iter().map(|(name, value)| (*name, OsStr::new(value))));
    let mut arguments =
        vec![OsStr::new("--state"), state.as_os_str(), OsStr::new("--listen"), OsStr::new(listen)];
    arguments.extend([OsStr::new("--tools"), tools.as_os_str()]);
    if let Some(tee) = settings.tee {
        arguments.extend([OsStr::new("--tee"), OsStr::new(tee)]);
    }
    if settings.restart {
        arguments.push(OsStr::new("--restart"));
    }
    let files = [("--trust", settings.trust), ("--operations", settings.operations)];
    let files = files.map(|(flag, text)| (flag, text, directory.join(format!("{}.toml", &flag[2..]))));
    for (flag, text, path) in &files {
        if let Some(text) = text {
            std::fs::write(path, text).expect("the directory is writable");
            arguments.extend([OsStr::new(flag), path.as_os_str()]);
        }
    }
    let (running, stdout) = Supervised::start(&Program {
        path: &own_binary("dev-server"),
        arguments,
        environment,
        owned: Some(directory),
        log: Some(&log),
    });
    let (send, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut first = String::new();
        let _ = reader.read_line(&mut first);
        let _ = send.send(first);
        // A full pipe would stop the server.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    let first = line.recv_timeout(SERVER_LIMIT).unwrap_or_default();
    match serde_json::from_str(&first) {
        Ok(ready) => Ok((running, ready)),
        Err(_) => {
            running.signal(Signal::KILL);
            let status = running.wait(SERVER_LIMIT);
            running.leave();
            let mut said = String::new();
            if let Ok(mut file) = std::fs::File::open(&log) {
                use std::io::Seek;
                let _ = file.seek(std::io::SeekFrom::Start(earlier));
                let _ = file.read_to_string(&mut said);
            }
            Err(format!("{said}first line: `{}`, exit status {status}", first.trim_end()))
        }
    }
}

/// A binary of this workspace, beside the test that runs.
fn own_binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("path of the test");
    let mut directory = test.parent().expect("has a parent");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("has a parent");
    }
    directory.join(name)
}

/// The `sealwright` command of this workspace.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn sealwright() -> PathBuf {
    let path = own_binary("sealwright");
    assert!(path.is_file(), "no {}; build it: cargo build -p sealwright-client", path.display());
    path
}
