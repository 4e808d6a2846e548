//! The daemons: one buildkitd per project, started when a build wants it, stopped when idle.
//!
//! A daemon runs as the first process of its own pid and mount namespace. When it ends, for whatever reason,
//! the kernel ends its steps and drops its mounts; when this process ends, `setpriv --pdeathsig` ends the
//! daemon. So a crash leaves no process and no mount behind, without any clean-up at the next start.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use proto::buildkit::moby::buildkit::v1::InfoRequest;
use provenance::project::ProjectId;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tonic::Status;

use super::client::ControlChannel;
use super::config::EngineConfig;
use super::error::EngineError;
use super::layer_cache::LayerCache;
use super::runtime::{DaemonNames, Runtime};

/// How long a daemon may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a daemon with all its steps, whose connection has broken already.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long a daemon may take to forget its builds before it is stopped.
const FORGET_LIMIT: Duration = Duration::from_secs(2);
/// Log lines kept, and bytes of one.
const LOG_LINES: usize = 100;
const LOG_LINE: usize = 500;
/// Bytes of a line that are read at once; what is longer counts as several.
const LOG_READ: u64 = 64 << 10;
/// Bytes of the log file; as many are kept of the one before.
const LOG_FILE: u64 = 4 << 20;
/// Compressed layers take this part of what a daemon's cache may take, beside it.
const LAYERS_PART: u64 = 8;
/// Log lines in an error.
const LOG_SHOWN: usize = 10;

/// Name of the telemetry socket.
pub(super) const TELEMETRY: &str = "otel";

/// Programs of util-linux that wrap a daemon.
const SETPRIV: &str = "/usr/bin/setpriv";
const UNSHARE: &str = "/usr/bin/unshare";
const SHELL: &str = "/bin/sh";
/// Mounts of the daemon's own, gone with its namespace: the state of running steps, which runc keeps under a fixed name,
/// and the temporary directory under its short name. That is no link, because BuildKit opens files in it by path and
/// refuses those whose path then reads otherwise: every bind mount of a file or subdirectory. First of all the daemon
/// and its steps are named to the kernel as what to end when memory runs out: a Dockerfile can fill it, and this process
/// holds the keys and the other projects' builds.
const OWN_MOUNTS: &str = "echo 1000 > /proc/self/oom_score_adj && mkdir -p /run/runc && /usr/bin/mount -t tmpfs -o mode=0700,size=64m runc /run/runc && \
                          /usr/bin/mount --bind \"$HOME/tmp\" \"$TMPDIR\" && exec \"$@\"";

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running daemon of one project.
pub struct Daemon {
    channel: ControlChannel,
    processes: Processes,
    socket: PathBuf,
    names: DaemonNames,
    log: Log,
    ended: watch::Receiver<bool>,
    stopping: AtomicBool,
    last_used: Mutex<Instant>,
    /// Trees that were transferred under each shared key, see [`super::shared_key`].
    pub(super) transfers: super::shared_key::Transfers,
    /// Compressed layers of its builds.
    pub(super) layers: Arc<LayerCache>,
}

impl Daemon {
    /// The control connection.
    #[must_use]
    pub fn channel(&self) -> &ControlChannel {
        &self.channel
    }

    /// The control socket, mode 0600 in a directory of mode 0700.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Process id of buildkitd, which is the first process of its namespace: everything there ends with it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.processes.first.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether the daemon has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the daemon has ended. Cancel safe.
    pub async fn ended(&self) {
        // An error means that the thread that watches it is gone, so it has ended.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Whether a call failed because the daemon ends or has ended; waits until it has.
    ///
    /// A dying daemon's connections break before its end is known: the kernel first ends its steps, and on a busy
    /// machine that takes its time. Cancel safe.
    pub(super) async fn ended_with(&self, failed: &Status) -> bool {
        // A status that the daemon sent has no source; one that is made because the connection broke has.
        let cut = std::error::Error::source(failed).is_some();
        (cut || self.stopping.load(Ordering::Relaxed))
            && tokio::time::timeout(END_LIMIT, self.ended()).await.is_ok()
    }

    /// The error of a build that lost its daemon.
    pub(super) fn died(&self) -> EngineError {
        EngineError::DaemonDied { log: self.log_tail() }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> Vec<String> {
        tail(&self.log)
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(FORGET_LIMIT, super::record::forget_all(&self.channel)).await;
        // An error means that the group is gone already.
        let _ = kill_process_group(self.processes.group, Signal::TERM);
        if tokio::time::timeout(STOP_LIMIT, self.ended()).await.is_err() {
            self.processes.kill();
            self.ended().await;
        }
        self.names.remove();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.processes.kill();
        }
    }
}

/// The processes of a daemon: unshare, which waits for buildkitd, in a process group of their own.
struct Processes {
    group: Pid,
    first: Pid,
}

impl Processes {
    /// The kernel reports the end of a namespace's first process when all others there have ended, and unshare
    /// passes that on; so unshare must live.
    fn kill(&self) {
        let _ = kill_process(self.first, Signal::KILL);
    }
}

/// The only child of `unshare`.
fn first_process(unshare: Pid) -> Option<Pid> {
    let pid = unshare.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Pid::from_raw(children.split_ascii_whitespace().next()?.parse().ok()?)
}

fn tail(log: &Log) -> Vec<String> {
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.iter().skip(log.len().saturating_sub(LOG_SHOWN)).cloned().collect()
}

type Slot = Arc<AsyncMutex<Option<Arc<Daemon>>>>;

struct Inner {
    config: EngineConfig,
    runtime: Runtime,
    slots: Mutex<HashMap<ProjectId, Slot>>,
}

/// The daemons of all projects. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl Engine {
    /// Checks the settings and prepares the state directory. Starts no daemon. Must be called in a Tokio
    /// runtime: idle daemons are stopped by a task that ends with the engine.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let problem = |problem: String| EngineError::Configuration { problem };
        for program in [&config.buildkitd, &config.runc, Path::new(SETPRIV), Path::new(UNSHARE)] {
            let executable =
                fs::metadata(program).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            if !program.is_absolute() || !executable {
                return Err(problem(format!("{} is not an absolute path of a program", program.display())));
            }
        }
        if !config.root.is_absolute() {
            return Err(problem(format!("engine directory {} must be absolute", config.root.display())));
        }
        private_directory(&config.root)?;
        let runtime = Runtime::new(&config.root)?;
        let inner = Arc::new(Inner { config, runtime, slots: Mutex::default() });
        tokio::spawn(stop_idle(Arc::downgrade(&inner), inner.config.idle_stop));
        Ok(Self(inner))
    }

    fn slot(&self, project: &ProjectId) -> Slot {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(*project).or_default().clone()
    }

    /// The project's daemon, started when there is none. Calls at the same time get the same daemon. Cancel
    /// safe: a start that nobody waits for any more is undone.
    pub async fn daemon(&self, project: &ProjectId) -> Result<Arc<Daemon>, EngineError> {
        let slot = self.slot(project);
        let mut slot = slot.lock().await;
        if let Some(daemon) = slot.as_ref().filter(|daemon| !daemon.has_ended()) {
            daemon.touch();
            return Ok(daemon.clone());
        }
        let daemon = Arc::new(start(&self.0.config, self.0.runtime.next()?, project).await?);
        *slot = Some(daemon.clone());
        Ok(daemon)
    }

    /// Stops every daemon and ends its steps; returns when none is left.
    pub async fn shutdown(&self) {
        let slots: Vec<Slot> = {
            let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().cloned().collect()
        };
        let stops = slots.into_iter().map(|slot| async move {
            if let Some(daemon) = slot.lock().await.take() {
                daemon.stop().await;
            }
        });
        futures_util::future::join_all(stops).await;
        self.0.runtime.remove();
    }
}

async fn stop_idle(inner: Weak<Inner>, idle: Duration) {
    let mut tick = tokio::time::interval((idle / 4).max(Duration::from_millis(50)));
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let slots: Vec<Slot> =
            inner.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        drop(inner);
        for slot in slots {
            // A slot that is locked is being started, so it is not idle.
            let Ok(mut slot) = slot.try_lock() else { continue };
            let Some(daemon) = slot.as_ref() else { continue };
            if Arc::strong_count(daemon) > 1 {
                daemon.touch();
                continue;
            }
            let used = *daemon.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            if used.elapsed() >= idle
                && let Some(daemon) = slot.take()
            {
                daemon.stop().await;
            }
        }
    }
}

fn private_directory(path: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(EngineError::io("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(EngineError::io("set the mode of", path))
}

fn command(config: &EngineConfig, directory: &Path, names: &DaemonNames) -> Command {
    let mut command = Command::new(SETPRIV);
    command.args([
        "--pdeathsig",
        "KILL",
        "--",
        UNSHARE,
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["--propagation", "slave", "--", SHELL, "-c", OWN_MOUNTS, SHELL]).arg(&config.buildkitd);
    command.arg("--config").arg(directory.join("buildkitd.toml"));
    command.arg("--addr").arg(format!("unix://{}", names.directory.join("socket").display()));
    // What the daemon inherits is what it needs to find git and the trusted roots of registries.
    command.env_clear();
    for name in ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // By way of the short name: the sockets of forwarded agents are made there.
    command.env("HOME", directory).env("TMPDIR", names.directory.join("tmp"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    command
}

/// The directories of a daemon, without what an earlier one left in its temporary directory; gives the log file.
fn prepare(config: &EngineConfig, directory: &Path, names: &DaemonNames) -> Result<LogFile, EngineError> {
    private_directory(directory)?;
    let temporary = directory.join("tmp");
    match fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::io("empty", &temporary)(error));
        }
        _ => private_directory(&temporary)?,
    }
    drop_partial_ingests(&directory.join("root"))?;
    let file = directory.join("buildkitd.toml");
    fs::write(&file, config.daemon_toml(directory, names)).map_err(EngineError::io("write", &file))?;
    private_directory(&names.directory.join("tmp"))?;
    // For people who come upon the short name, or look for the socket beside the rest of the daemon.
    let link = names.directory.join("state");
    symlink(directory, &link).map_err(EngineError::io("link", &link))?;
    let link = directory.join("socket");
    let _ = fs::remove_file(&link);
    symlink(names.directory.join("socket"), &link).map_err(EngineError::io("link", &link))?;
    LogFile::open(directory.join("buildkitd.log"))
}

/// Removes the blobs that a killed daemon had received in part. BuildKit would go on where they end, and reads an image
/// that comes from us only from its start: the same build would fail with `unsupported offset` again and again.
fn drop_partial_ingests(root: &Path) -> Result<(), EngineError> {
    let workers = match fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        workers => workers.map_err(EngineError::io("list", root))?,
    };
    for worker in workers {
        let ingest = worker.map_err(EngineError::io("list", root))?.path().join("content/ingest");
        match fs::remove_dir_all(&ingest) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            removed => removed.map_err(EngineError::io("remove", &ingest))?,
        }
    }
    Ok(())
}

async fn start(
    config: &EngineConfig,
    names: DaemonNames,
    project: &ProjectId,
) -> Result<Daemon, EngineError> {
    let directory = config.root.join(project.0.hex());
    let socket = names.directory.join("socket");
    let mut log_file = prepare(config, &directory, &names)?;
    let layers = directory.join("layers");
    let layers = LayerCache::new(layers.clone(), config.cache_limit_bytes / LAYERS_PART)
        .map_err(EngineError::io("make", &layers))?;

    let log: Log = Log::default();
    let (end, ended) = watch::channel(false);
    let (report, spawned) = tokio::sync::oneshot::channel();
    let thread_log = log.clone();
    let mut command = command(config, &directory, &names);
    // The parent-death signal is tied to the thread that starts the process, so this thread lives as long as it.
    let watcher = std::thread::Builder::new().name("buildkitd".to_owned()).spawn(move || {
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return drop(report.send(Err(error))),
        };
        // The guard ends the process when the start is given up, also on its way to who waits for it.
        let _ = report.send(Ok(KillOnDrop(Some(Pid::from_child(&child)))));
        watch_child(&mut child, &thread_log, &mut log_file);
        end.send_replace(true);
    });
    let start_error = |problem: String| EngineError::DaemonStart { problem, log: tail(&log) };
    watcher.map_err(|e| start_error(format!("cannot start a thread: {e}")))?;
    let guard = match spawned.await {
        Ok(Ok(guard)) => guard,
        Ok(Err(error)) => return Err(start_error(format!("{}: {error}", config.buildkitd.display()))),
        Err(_) => return Err(start_error("its thread ended".to_owned())),
    };
    let channel = match tokio::time::timeout(START_LIMIT, wait_ready(&socket, ended.clone())).await {
        Ok(Some(channel)) => channel,
        Ok(None) => return Err(start_error("it ended at once".to_owned())),
        Err(_) => return Err(start_error(format!("no answer within {} s", START_LIMIT.as_secs()))),
    };
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
        .map_err(EngineError::io("set the mode of", &socket))?;
    // BuildKit puts its telemetry socket into every step, a way from there to the daemon; not when it is gone.
    let telemetry = names.directory.join(TELEMETRY);
    fs::remove_file(&telemetry).map_err(EngineError::io("remove", &telemetry))?;
    super::record::forget_all(&channel).await?;
    let lost = || start_error("its process is not to be found".to_owned());
    let first = guard.0.and_then(first_process).ok_or_else(lost)?;
    let group = guard.disarm().ok_or_else(lost)?;
    Ok(Daemon {
        channel,
        processes: Processes { group, first },
        socket,
        names,
        log: log.clone(),
        ended,
        stopping: AtomicBool::new(false),
        last_used: Mutex::new(Instant::now()),
        transfers: super::shared_key::Transfers::default(),
        layers: Arc::new(layers),
    })
}

/// Ends a process group unless it is disarmed.
struct KillOnDrop(Option<Pid>);

impl KillOnDrop {
    fn disarm(mut self) -> Option<Pid> {
        self.0.take()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Keeps the log until the process has ended.
fn watch_child(child: &mut Child, log: &Log, file: &mut LogFile) {
    if let Some(stderr) = child.stderr.take() {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!(reader.by_ref().take(LOG_READ).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line[..line.len().min(LOG_LINE)]).trim_end().to_owned();
            file.write(&line);
            line.clear();
            tracing::debug!(target: "buildkitd", "{text}");
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() >= LOG_LINES {
                log.pop_front();
            }
            log.push_back(text);
        }
    }
    let _ = child.wait();
}

/// The daemon's log in its directory: one file that is written and one before it.
struct LogFile {
    path: PathBuf,
    file: fs::File,
    written: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> Result<Self, EngineError> {
        let file = fs::File::options().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(EngineError::io("open", &path))?;
        let written = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { path, file, written })
    }

    /// Writes a line. A log that cannot be written ends no build.
    fn write(&mut self, line: &[u8]) {
        if self.written >= LOG_FILE {
            let renamed = fs::rename(&self.path, self.path.with_extension("log.1"));
            if let (Ok(()), Ok(next)) = (renamed, Self::open(self.path.clone())) {
                *self = next;
            }
        }
        if self.file.write_all(line).is_ok() {
            self.written += line.len() as u64;
        }
    }
}

/// Waits until the daemon answers; `None` when it ended instead.
async fn wait_ready(socket: &Path, mut ended: watch::Receiver<bool>) -> Option<ControlChannel> {
    loop {
        if let Ok(channel) = ControlChannel::connect(socket).await
            && channel.control().info(InfoRequest {}).await.is_ok()
        {
            return Some(channel);
        }
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return None,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_daemon_received_in_part_is_dropped_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        assert!(drop_partial_ingests(&root).is_ok(), "there is no root before the first start");
        let content = root.join("runc-overlayfs/content");
        fs::create_dir_all(content.join("ingest/ref")).expect("directory");
        fs::create_dir_all(content.join("blobs/sha256")).expect("directory");
        fs::write(content.join("ingest/ref/data"), "part").expect("file");
        fs::write(content.join("blobs/sha256/x"), "whole").expect("file");
        fs::write(root.join("buildkitd.lock"), "").expect("file");
        drop_partial_ingests(&root).expect("dropped");
        assert!(!content.join("ingest").exists());
        assert!(content.join("blobs/sha256/x").exists() && root.join("buildkitd.lock").exists());
    }
}
