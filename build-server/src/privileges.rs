//! The service gives root away before it listens, for good, and looks whether it has.
//!
//! It is started as root and not as its user, because programs may lie where that user cannot pass. What it keeps from
//! then are two sockets: what needs the TEE device, a private key or root is asked of the processes at their other ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use enclave_keys::device_paths;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::{Operations, ServiceUid};

/// Why the service does not run without privileges, or not where it must. It must not listen then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// Another user than root started it.
    #[error(
        "build-server is started as user {uid}, wanted root: it starts the key process, which opens the TEE device, and \
         the engine process, which starts buildkitd; the service itself then becomes user {service}"
    )]
    NotRoot {
        /// Who started it.
        uid: u32,
        /// The service's user.
        service: u32,
    },
    /// Other threads would keep their privileges.
    #[error("{count} threads run where there should be one: a defect of the server")]
    Threads {
        /// Threads of this process.
        count: usize,
    },
    /// The kernel refused a step.
    #[error("could not {what}: {source}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The launcher has ended meanwhile.
    #[error("the launcher has ended")]
    Orphaned,
    /// After all steps the kernel shows something else.
    #[error("after privileges were given up, the kernel says `{line}`, wanted `{wanted}`")]
    Kept {
        /// A line of proc_pid_status(5), or nothing.
        line: String,
        /// What should stand there.
        wanted: String,
    },
    /// What is another process's alone can be opened.
    #[error("user {uid} can open {}, which is root's alone: take the rights of others away (chmod go=)", path.display())]
    Open {
        /// The service's user.
        uid: u32,
        /// What can be opened.
        path: PathBuf,
    },
    /// A directory on the way to what the service needs is closed to it.
    #[error(
        "user {uid} (`service_uid`) cannot pass through {} on the way to {what} {}: choose another place, or open the \
         directory to it (chmod o+x)", directory.display(), path.display()
    )]
    Closed {
        /// The service's user.
        uid: u32,
        /// The first directory that is closed.
        directory: PathBuf,
        /// What is wanted.
        what: &'static str,
        /// Where it lies.
        path: PathBuf,
    },
    /// A file that the service reads is closed to it.
    #[error("user {uid} (`service_uid`) cannot read {what} {}: {problem}", path.display())]
    Unreadable {
        /// The service's user.
        uid: u32,
        /// The key or variable that names it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        problem: io::Error,
    },
}

/// Whether this process is root, as the launcher must be.
pub fn require_root(operations: &Operations) -> Result<(), PrivilegeError> {
    match rustix::process::geteuid().as_raw() {
        0 => Ok(()),
        uid => Err(PrivilegeError::NotRoot { uid, service: operations.service_uid.0 }),
    }
}

/// Becomes the service's user, for good: no group of root's, no capability, no new privilege, no core dump, no debugger.
/// Call it while there is one thread. Afterwards what belongs to other processes is closed, and what the service needs is
/// open, or this is an error.
pub fn give_up(operations: &Operations) -> Result<(), PrivilegeError> {
    require_root(operations)?;
    become_user(operations.service_uid)?;
    let others = [operations.keys_directory(), operations.engine_directory()];
    closed(operations.service_uid, others.into_iter().chain(device_paths()))?;
    needs(operations)
}

/// Whether none of these can be opened.
fn closed(ServiceUid(uid): ServiceUid, paths: impl Iterator<Item = PathBuf>) -> Result<(), PrivilegeError> {
    for path in paths {
        if can_open(&path) {
            return Err(PrivilegeError::Open { uid, path });
        }
    }
    Ok(())
}

fn become_user(user: ServiceUid) -> Result<(), PrivilegeError> {
    let count = fs::read_dir("/proc/self/task").map_err(unknown)?.count();
    if count != 1 {
        return Err(PrivilegeError::Threads { count });
    }
    this_thread_becomes(user)
}

fn unknown(source: io::Error) -> PrivilegeError {
    PrivilegeError::Refused { what: "look at the own process", source }
}

/// The calls are the kernel's, and most of them for the calling thread alone.
fn this_thread_becomes(ServiceUid(uid): ServiceUid) -> Result<(), PrivilegeError> {
    let refused =
        |what| move |error: rustix::io::Errno| PrivilegeError::Refused { what, source: error.into() };
    let launcher = getppid();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[]).map_err(refused("leave root's groups"))?;
    set_thread_res_gid(group, group, group).map_err(refused("become the service's group"))?;
    set_thread_res_uid(user, user, user).map_err(refused("become the service's user"))?;
    set_no_new_privs(true).map_err(refused("give up new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("make the process not dumpable"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(refused("forbid core dumps"))?;
    // It was set before, and is lost with the user (PR_SET_PDEATHSIG(2const)).
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused("end with the launcher"))?;
    if getppid() != launcher {
        return Err(PrivilegeError::Orphaned);
    }
    check_status(&fs::read_to_string("/proc/thread-self/status").map_err(unknown)?, uid)
}

/// Whether proc_pid_status(5) shows this user and group alone (real, effective, saved, of the file system), and nothing
/// else that a process may be privileged by.
fn check_status(status: &str, uid: u32) -> Result<(), PrivilegeError> {
    let only = format!("{uid}\t{uid}\t{uid}\t{uid}");
    let none = "0000000000000000";
    for (key, value) in [
        ("Uid:", only.as_str()),
        ("Gid:", &only),
        ("Groups:", ""),
        ("CapPrm:", none),
        ("CapEff:", none),
        ("CapAmb:", none),
        ("NoNewPrivs:", "1"),
    ] {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        if line.strip_prefix(key).map(str::trim) != Some(value) {
            return Err(PrivilegeError::Kept { line: line.to_owned(), wanted: format!("{key}\t{value}") });
        }
    }
    Ok(())
}

/// Whether the effective user may use it: a directory when it may be written or passed through, except the one of
/// configfs-tsm, which the kernel shows to everybody; a file when it may be read or written.
fn can_open(path: &Path) -> bool {
    let may = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    if path.is_dir() && path.starts_with("/sys") {
        return may(Access::WRITE_OK);
    }
    may(Access::WRITE_OK) || File::open(path).is_ok()
}

/// What the service reads by path and must reach.
fn needs(operations: &Operations) -> Result<(), PrivilegeError> {
    let uid = operations.service_uid.0;
    let state = &operations.state_directory;
    passable(uid, "state_directory", state, state)?;
    let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    let certificates = certificates.map(|name| (name, std::env::var_os(name).map(PathBuf::from)));
    let files = [
        ("tdx_endorsements", operations.tdx_endorsements.clone()),
        ("secure_execution_header", operations.secure_execution_header.clone()),
    ];
    for (what, path) in files.into_iter().chain(certificates) {
        let Some(path) = path else { continue };
        passable(uid, what, &path, path.parent().unwrap_or(&path))?;
        match File::open(&path) {
            // One that is missing is another error, and of the first only a warning.
            Err(problem) if problem.kind() == io::ErrorKind::PermissionDenied => {
                return Err(PrivilegeError::Unreadable { uid, what, path, problem });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether all directories down to `directory` can be passed through; the first that cannot is named.
fn passable(uid: u32, what: &'static str, path: &Path, directory: &Path) -> Result<(), PrivilegeError> {
    let mut ancestors: Vec<&Path> = directory.ancestors().filter(|at| !at.as_os_str().is_empty()).collect();
    ancestors.reverse();
    for at in ancestors {
        if accessat(CWD, at, Access::EXEC_OK, AtFlags::EACCESS) == Err(rustix::io::Errno::ACCESS) {
            let (directory, path) = (at.to_owned(), path.to_owned());
            return Err(PrivilegeError::Closed { uid, directory, what, path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \nCapInh:\t0000000000000000\n\
                        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n\
                        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n";

    #[test]
    fn any_privilege_that_is_left_is_an_error() {
        check_status(GOOD, 7).expect("nothing is left");
        for (was, is) in [
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7"),
            ("Uid:\t7\t7\t7\t7", "Uid:\t0\t7\t7\t7"),
            ("Gid:\t7\t7\t7\t7", "Gid:\t7\t7\t7\t0"),
            ("Groups:\t ", "Groups:\t0 "),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        ] {
            let error = check_status(&GOOD.replace(was, is), 7).expect_err(is);
            assert!(matches!(&error, PrivilegeError::Kept { line, .. } if line == is), "{error:?}");
            let error = check_status(&GOOD.replace(was, ""), 7).expect_err(was);
            assert!(matches!(&error, PrivilegeError::Kept { line, .. } if line.is_empty()), "{error:?}");
        }
    }

    #[test]
    fn a_process_with_threads_does_not_give_up_half_of_its_privileges() {
        let other = std::thread::spawn(std::thread::park);
        let error = become_user(ServiceUid(65_533)).expect_err("more than one thread");
        assert!(matches!(error, PrivilegeError::Threads { count } if count > 1), "{error}");
        other.thread().unpark();
        other.join().expect("no panic");
    }

    const CHILD: &str = "SEALWRIGHT_TEST_UNPRIVILEGED";

    /// Runs in a process of its own, because it is for good.
    #[test]
    fn what_is_still_open_or_closed_to_the_service_is_named() {
        let name = "privileges::tests::what_is_still_open_or_closed_to_the_service_is_named";
        let Some(place) = std::env::var_os(CHILD) else {
            let place = tempfile::tempdir().expect("a directory");
            let child = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", name, "--test-threads", "1", "--nocapture"])
                .env(CHILD, place.path())
                .output()
                .expect("it starts");
            let said =
                String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
            assert!(child.status.success() && said.contains("1 passed"), "{said}");
            return;
        };
        let place = PathBuf::from(place);
        let mode = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(path, mode).expect("root's");
        };
        mode(&place, 0o755);
        let path = |name: &str| place.join(name);
        for (name, bits) in [("device", 0o600), ("readable", 0o644), ("writable", 0o622)] {
            fs::write(path(name), "").expect("written");
            mode(&path(name), bits);
        }
        for (name, bits) in [("keys", 0o700), ("listed", 0o755), ("hidden", 0o700)] {
            fs::create_dir(path(name)).expect("made");
            mode(&path(name), bits);
        }
        let service = ServiceUid(65_533);
        this_thread_becomes(service).expect("root becomes it");
        assert!(
            matches!(this_thread_becomes(service), Err(PrivilegeError::Refused { .. })),
            "it cannot come back"
        );

        closed(service, ["device", "keys", "missing"].into_iter().map(path)).expect("closed");
        for open in ["readable", "writable", "listed"] {
            let error = closed(service, ["device", open, "keys"].into_iter().map(path)).expect_err(open);
            assert!(
                matches!(&error, PrivilegeError::Open { path: got, .. } if *got == path(open)),
                "{error}"
            );
        }

        let operations = |state: PathBuf, endorsements: PathBuf| {
            let text = format!(
                "listen = \"127.0.0.1:0\"\nstate_directory = {state:?}\ntdx_endorsements = {endorsements:?}\n\
                 [engine]\nbuildkitd = \"/b\"\nrunc = \"/r\"\n"
            );
            Operations::parse(&text, "operations.toml").expect("valid")
        };
        needs(&operations(path("listed"), path("readable"))).expect("reachable");
        needs(&operations(path("listed"), path("missing"))).expect("a warning later on");
        for (state, endorsements, wanted) in [
            (path("hidden/state"), path("readable"), path("hidden")),
            (path("listed"), path("hidden/file"), path("hidden")),
        ] {
            let error = needs(&operations(state, endorsements)).expect_err("closed");
            assert!(
                matches!(&error, PrivilegeError::Closed { directory, .. } if *directory == wanted),
                "{error}"
            );
        }
        let error = needs(&operations(path("listed"), path("device"))).expect_err("unreadable");
        assert!(
            matches!(&error, PrivilegeError::Unreadable { what: "tdx_endorsements", path: got, .. } if *got == path("device")),
            "{error}"
        );
        let error = require_root(&operations(path("listed"), path("readable"))).expect_err("another user");
        assert!(matches!(error, PrivilegeError::NotRoot { uid: 65_533, service: 65_533 }), "{error}");
    }
}
