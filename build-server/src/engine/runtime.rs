//! What the engine leaves outside its own directory while it runs: a short directory for unix sockets, whose paths are
//! limited to 107 bytes, and control groups. Both have names made from the engine's directory, so that the next start
//! finds and removes what a killed process left.
//!
//! The service may pass through that directory to the sockets that it owns, and neither list nor change it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use provenance::digest::Sha256Digest;
use rustix::fs::FlockOperation;

use super::protocol::StartFailure;

/// Longest path of a unix socket in bytes (sockaddr_un without the final NUL).
const MAX_SOCKET_PATH: usize = 107;
/// The longest path that BuildKit makes for a socket in its temporary directory (an SSH agent for a step).
const LONGEST_IN_TMP: &str = "1234567890/tmp/.buildkit-ssh-sock4294967295/ssh_auth_sock";
/// Hex digits of the names.
const DIGITS: usize = 16;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Names of one engine outside its directory, which it has locked.
pub(super) struct Runtime {
    directory: PathBuf,
    name: String,
    /// Group of the service.
    group: u32,
    _lock: fs::File,
    /// Daemons started so far.
    daemons: AtomicU32,
}

/// Names of one daemon outside its directory.
pub(super) struct DaemonNames {
    /// Empty but for `tmp`.
    pub(super) directory: PathBuf,
    /// Control group of its steps.
    pub(super) control_group: String,
}

impl Runtime {
    /// Locks `root` for this process, finds the names for it, and removes what an earlier process left under them. The
    /// error says what is wrong and what to do.
    pub(super) fn new(root: &Path, group: u32) -> Result<Self, String> {
        use std::os::unix::ffi::OsStrExt as _;
        let told = |error: io::Error| format!("cannot lock {}: {error}", root.display());
        let lock = fs::File::open(root).map_err(told)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!("{} is in use by another engine process; stop its server first", root.display())
        })?;
        let name = format!("sealwright-{}", &Sha256Digest::of(root.as_os_str().as_bytes()).hex()[..DIGITS]);
        let mut refused = None;
        for place in [Path::new("/run"), &std::env::temp_dir()] {
            let directory = place.join(&name);
            if directory.join(LONGEST_IN_TMP).as_os_str().len() > MAX_SOCKET_PATH {
                continue;
            }
            match make(&directory, group) {
                Ok(()) => {
                    let runtime = Self { directory, name, group, _lock: lock, daemons: AtomicU32::new(0) };
                    runtime.remove_control_groups();
                    return Ok(runtime);
                }
                Err(error) => refused = Some((directory, error)),
            }
        }
        Err(match refused {
            Some((directory, error)) => format!("cannot make the directory {}: {error}", directory.display()),
            None => format!("the temporary directory is too long for sockets of {MAX_SOCKET_PATH} bytes"),
        })
    }

    /// Names for one more daemon.
    pub(super) fn next(&self) -> Result<DaemonNames, StartFailure> {
        let number = self.daemons.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(number.to_string());
        let made = if self.directory.is_dir() { Ok(()) } else { make(&self.directory, self.group) };
        made.and_then(|()| make(&directory, self.group))
            .map_err(StartFailure::io("make the directory", &directory))?;
        Ok(DaemonNames { directory, control_group: format!("/{}-{number}", self.name) })
    }

    /// Removes everything.
    pub(super) fn remove(&self) {
        // What cannot be removed is removed by the next start.
        let _ = fs::remove_dir_all(&self.directory);
        self.remove_control_groups();
    }

    fn remove_control_groups(&self) {
        for hierarchy in hierarchies() {
            for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&self.name) {
                    remove_tree(&entry.path());
                }
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes an empty directory that is ours, and that this group may pass through.
fn make(directory: &Path, group: u32) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    match fs::symlink_metadata(directory) {
        // In a directory where everybody may write, a stranger may have been here first.
        Ok(found) if !found.is_dir() || found.uid() != own => {
            return Err(io::Error::other("the name is taken by somebody else"));
        }
        Ok(_) => fs::remove_dir_all(directory)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::DirBuilder::new().mode(0o700).create(directory)?;
    chown(directory, Some(own), Some(group))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o710))
}

/// The unified hierarchy, or one per controller.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|e| e.path())
        .chain([root.clone()])
        .collect()
}

impl Drop for DaemonNames {
    /// Control groups can be removed once nobody is in them; the engine tries again.
    fn drop(&mut self) {
        self.remove();
    }
}

impl DaemonNames {
    /// Removes what the daemon and its steps leave.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.directory);
        for hierarchy in hierarchies() {
            remove_tree(&hierarchy.join(self.control_group.trim_start_matches('/')));
        }
    }
}

fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Only empty ones can be removed; one in use is another daemon's business.
    let _ = fs::remove_dir(path);
}
