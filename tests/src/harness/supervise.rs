//! Child processes that cannot outlive the test, not even when it is killed: a small shell stands between.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How to start a supervised program.
pub struct Program<'a> {
    /// Path of the program.
    pub path: &'a Path,
    /// Its arguments.
    pub arguments: Vec<&'a OsStr>,
    /// Variables added to its environment.
    pub environment: Vec<(&'a str, &'a OsStr)>,
    /// Directory that is its own: processes that name it, mounts in it and itself go when the test is over.
    pub owned: Option<&'a Path>,
    /// Where its stderr goes; nowhere when absent.
    pub log: Option<&'a Path>,
}

/// A running program. Dropping it ends the program (SIGTERM, after 10 s SIGKILL) and removes what it owned.
pub struct Supervised {
    shell: Child,
    notes: PathBuf,
    pid: Pid,
}

/// Polls `condition` until it gives something.
///
/// # Panics
/// After `limit`, naming `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "after {limit:?}: still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Supervised {
    /// Starts the program; its stdout is a pipe.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(program: &Program<'_>) -> (Self, ChildStdout) {
        let notes =
            tempfile::Builder::new().prefix("sealwright-notes-").tempdir().expect("a directory").keep();
        let log = program.log.map_or_else(Stdio::null, |path| {
            std::fs::File::options().create(true).append(true).open(path).expect("log file opens").into()
        });
        let mut shell = Command::new("sh")
            .args(["-c", include_str!("supervise.sh"), "supervise"])
            .arg(&notes)
            .arg(program.path)
            .args(&program.arguments)
            .envs(program.environment.iter().copied())
            .env("SUPERVISE_OWNED", program.owned.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A ^C at the terminal ends the test; the shell then sees end of file and cleans up.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let stdout = shell.stdout.take().expect("stdout is a pipe");
        let pid = wait_for("the pid", Duration::from_secs(60), || {
            let text = std::fs::read_to_string(notes.join("pid")).ok()?;
            Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
        });
        (Self { shell, notes, pid }, stdout)
    }

    /// Process id of the program itself.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Exit status as a shell counts it (128 + signal), once the program has ended.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        std::fs::read_to_string(self.notes.join("exit")).ok()?.trim().parse().ok()
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// After `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> i32 {
        wait_for("the program's end", limit, || self.status())
    }

    /// Lets everything stay as it is: nothing that the program left behind is removed.
    pub fn leave(mut self) {
        if let Some(mut stdin) = self.shell.stdin.take() {
            let _ = stdin.write_all(b"leave\n");
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
