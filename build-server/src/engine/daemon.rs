//! One daemon: started, watched and ended by threads of its own.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::buildkit::moby::buildkit::v1::InfoRequest;
use provenance::project::ProjectId;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use super::config::{EngineConfig, TELEMETRY};
use super::log::{Log, LogFile};
use super::protocol::{StartFailure, StartedDaemon};
use super::runtime::{DaemonNames, Runtime};
use crate::buildkit::ControlChannel;

/// How long a daemon may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a daemon that starts is asked.
const START_POLL: Duration = Duration::from_millis(10);
/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a daemon with all its steps.
pub(super) const END_LIMIT: Duration = Duration::from_secs(30);

/// Programs of util-linux that wrap a daemon.
pub(super) const SETPRIV: &str = "/usr/bin/setpriv";
pub(super) const UNSHARE: &str = "/usr/bin/unshare";
const SHELL: &str = "/bin/sh";
/// Mounts of the daemon's own, gone with its namespace: the state of running steps, which runc keeps under a fixed name,
/// and the temporary directory under its short name. That is no link, because BuildKit opens files in it by path and
/// refuses those whose path then reads otherwise: every bind mount of a file or subdirectory. First of all the daemon
/// and its steps are named to the kernel as what to end when memory runs out: a Dockerfile can fill it, and others on
/// this machine hold the keys and the other projects' builds.
const OWN_MOUNTS: &str = "echo 1000 > /proc/self/oom_score_adj && mkdir -p /run/runc && /usr/bin/mount -t tmpfs -o mode=0700,size=64m runc /run/runc && \
                          /usr/bin/mount --bind \"$HOME/tmp\" \"$TMPDIR\" && exec \"$@\"";

/// What is wanted of a daemon; only ever more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Wanted {
    Running,
    Stopped,
    Killed,
}

struct State {
    wanted: Wanted,
    /// unshare, which waits for buildkitd, in a process group of their own; until it is waited for.
    group: Option<Pid>,
    ended: bool,
}

/// A daemon that starts, runs or ends.
pub(super) struct Daemon {
    pub(super) project: ProjectId,
    state: Mutex<State>,
    changed: Condvar,
}

impl Daemon {
    pub(super) fn new(project: ProjectId) -> Arc<Self> {
        let state = State { wanted: Wanted::Running, group: None, ended: false };
        Arc::new(Self { project, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has ended it and it has not ended.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.wanted == Wanted::Running && !state.ended
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Whether it has ended within `limit`.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), limit, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Ends it with SIGTERM, and after [`STOP_LIMIT`] with SIGKILL.
    pub(super) fn stop(self: &Arc<Self>) {
        let mut state = self.state();
        if state.wanted >= Wanted::Stopped || state.ended {
            return;
        }
        state.wanted = Wanted::Stopped;
        if let Some(group) = state.group {
            let _ = kill_process_group(group, Signal::TERM);
        }
        drop(state);
        let daemon = Arc::clone(self);
        let patience = std::thread::Builder::new().name("patience".to_owned()).spawn(move || {
            if !daemon.ends_within(STOP_LIMIT) {
                daemon.kill();
            }
        });
        if patience.is_err() {
            self.kill();
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.wanted = Wanted::Killed;
        let Some(group) = state.group else { return };
        // The kernel reports the end of a namespace's first process when all others there have ended, and unshare
        // passes that on; so unshare must live, unless it has no child yet.
        let killed =
            first_process(group).is_some_and(|(_, first)| pidfd_send_signal(first, Signal::KILL).is_ok());
        if !killed {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Runs it to its end, which [`Daemon::ends_within`] tells by then. `started` is called once it answers. The
    /// parent-death signal of the daemon is tied to the thread that calls this.
    pub(super) fn run(
        &self,
        config: &EngineConfig,
        runtime: &Runtime,
        before: Option<&Self>,
        started: impl FnOnce(StartedDaemon),
    ) -> Result<Vec<String>, StartFailure> {
        let result = self.run_to_end(config, runtime, before, started);
        self.state().ended = true;
        self.changed.notify_all();
        result
    }

    fn run_to_end(
        &self,
        config: &EngineConfig,
        runtime: &Runtime,
        before: Option<&Self>,
        started: impl FnOnce(StartedDaemon),
    ) -> Result<Vec<String>, StartFailure> {
        if before.is_some_and(|before| !before.ends_within(END_LIMIT)) {
            return Err(StartFailure::StillEnding { seconds: END_LIMIT.as_secs() });
        }
        let names = runtime.next()?;
        let directory = config.root.join(self.project.0.hex());
        let mut log_file = prepare(config, &directory, &names)?;
        let log = Log::default();
        let mut child = {
            let mut state = self.state();
            if state.wanted != Wanted::Running {
                return Err(StartFailure::GivenUp {});
            }
            let child = command(config, &directory, &names)
                .spawn()
                .map_err(|error| StartFailure::of(format!("{SETPRIV}: {error}")))?;
            state.group = Some(Pid::from_child(&child));
            child
        };
        let reading = child.stderr.take().map(|stderr| {
            let log = log.clone();
            std::thread::Builder::new().name("log".to_owned()).spawn(move || log.keep(stderr, &mut log_file))
        });
        let ready = self.wait_ready(&names, config);
        let failure = match ready {
            Ok(daemon) => {
                started(daemon);
                None
            }
            Err(failure) => {
                self.kill();
                Some(failure)
            }
        };
        self.wait(&mut child);
        if let Some(Ok(reading)) = reading {
            let _ = reading.join();
        }
        names.remove();
        match failure {
            None => Ok(log.tail()),
            Some(StartFailure::Daemon { problem, .. }) => {
                Err(StartFailure::Daemon { problem, log: log.tail() })
            }
            Some(failure) => Err(failure),
        }
    }

    /// Waits for the process's end. Its id is given up under the lock, so that no other process gets its signals.
    fn wait(&self, child: &mut Child) {
        let pid = Pid::from_child(child);
        while let Err(rustix::io::Errno::INTR) =
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {}
        let mut state = self.state();
        state.group = None;
        let _ = child.wait();
    }

    /// Waits until the daemon answers, and leaves of it what others may see: a socket for the service's user.
    fn wait_ready(&self, names: &DaemonNames, config: &EngineConfig) -> Result<StartedDaemon, StartFailure> {
        let socket = names.directory.join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StartFailure::of(format!("no event loop: {error}")))?;
        let begun = Instant::now();
        let group = loop {
            let (wanted, group) = {
                let state = self.state();
                (state.wanted, state.group)
            };
            let Some(group) = group.filter(|_| wanted == Wanted::Running) else {
                return Err(StartFailure::GivenUp {});
            };
            if ended(group) {
                return Err(StartFailure::of("it ended at once"));
            }
            if runtime.block_on(answers(&socket)) {
                break group;
            }
            if begun.elapsed() > START_LIMIT {
                return Err(StartFailure::of(format!("no answer within {} s", START_LIMIT.as_secs())));
            }
            std::thread::sleep(START_POLL);
        };
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
            .and_then(|()| chown(&socket, Some(config.service), Some(config.service)))
            .map_err(StartFailure::io("hand over", &socket))?;
        // BuildKit puts its telemetry socket into every step, a way from there to the daemon; not when it is gone.
        let telemetry = names.directory.join(TELEMETRY);
        fs::remove_file(&telemetry).map_err(StartFailure::io("remove", &telemetry))?;
        let (first, _) =
            first_process(group).ok_or_else(|| StartFailure::of("its process is not to be found"))?;
        Ok(StartedDaemon { socket, process_id: first.as_raw_nonzero().get().unsigned_abs() })
    }
}

/// Whether a daemon answers at its control socket.
async fn answers(socket: &Path) -> bool {
    let asked = async {
        match ControlChannel::connect(socket).await {
            Ok(channel) => channel.control().info(InfoRequest {}).await.is_ok(),
            Err(_) => false,
        }
    };
    tokio::time::timeout(START_LIMIT, asked).await.unwrap_or(false)
}

/// Whether this child, which nobody waits for in the meantime, has ended.
fn ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// The only child of `unshare`, and a descriptor that stands for it for good.
fn first_process(unshare: Pid) -> Option<(Pid, OwnedFd)> {
    let child = || {
        let pid = unshare.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Pid::from_raw(children.split_ascii_whitespace().next()?.parse().ok()?)
    };
    let first = child()?;
    let descriptor = pidfd_open(first, PidfdFlags::empty()).ok()?;
    // It was still the child after it had been opened, so no other process got its number before.
    (child() == Some(first)).then_some((first, descriptor))
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

/// Makes a directory that only root may look into.
pub(super) fn private_directory(path: &Path) -> Result<(), StartFailure> {
    fs::create_dir_all(path).map_err(StartFailure::io("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(StartFailure::io("set the mode of", path))
}

/// The directories of a daemon, without what an earlier one left in its temporary directory; gives the log file.
fn prepare(config: &EngineConfig, directory: &Path, names: &DaemonNames) -> Result<LogFile, StartFailure> {
    private_directory(directory)?;
    let temporary = directory.join("tmp");
    remove_all(&temporary)?;
    private_directory(&temporary)?;
    // Compressed layers lay here when the service was root.
    remove_all(&directory.join("layers"))?;
    drop_partial_ingests(&directory.join("root"))?;
    let file = directory.join("buildkitd.toml");
    fs::write(&file, config.daemon_toml(directory, names)).map_err(StartFailure::io("write", &file))?;
    private_directory(&names.directory.join("tmp"))?;
    // For people who come upon the short name, or look for the socket beside the rest of the daemon.
    let link = names.directory.join("state");
    symlink(directory, &link).map_err(StartFailure::io("link", &link))?;
    let link = directory.join("socket");
    let _ = fs::remove_file(&link);
    symlink(names.directory.join("socket"), &link).map_err(StartFailure::io("link", &link))?;
    LogFile::open(directory.join("buildkitd.log"))
}

fn remove_all(path: &Path) -> Result<(), StartFailure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StartFailure::io("empty", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the blobs that a killed daemon had received in part. BuildKit would go on where they end, and reads an image
/// that comes from us only from its start: the same build would fail with `unsupported offset` again and again.
fn drop_partial_ingests(root: &Path) -> Result<(), StartFailure> {
    let workers = match fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        workers => workers.map_err(StartFailure::io("list", root))?,
    };
    for worker in workers {
        let ingest: PathBuf = worker.map_err(StartFailure::io("list", root))?.path().join("content/ingest");
        match fs::remove_dir_all(&ingest) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            removed => removed.map_err(StartFailure::io("remove", &ingest))?,
        }
    }
    Ok(())
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
