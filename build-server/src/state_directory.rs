//! Whose the state directory is: root's, with the service's group and the sticky bit (mode 1770). So the service makes and
//! removes files of its own in it, and cannot rename, remove or replace what other processes keep there: `keys` of the key
//! process and `engine` of the engine process, both root's and closed (mode 0700).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fstat, mkdirat, open, openat,
    statat,
};
use rustix::io::Errno;

use crate::config::{ENGINE, KEYS, Operations};

const ROOT: u32 = 0;
/// Permission bits of the state directory.
const SHARED: u32 = 0o1770;
/// Permission bits of what is root's alone.
const PRIVATE: u32 = 0o700;
const ALL_BITS: u32 = 0o7777;
/// Write permission of group and others.
const WRITABLE: u32 = 0o022;
/// Most directories in each other that are handed over; each takes a descriptor.
const MAX_DEPTH: usize = 200;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirectoryError {
    /// Somebody else's.
    #[error(
        "the state directory {directory} belongs to user {owner}, wanted root: whoever owns it can put other files into \
         the place of the server's; choose another directory"
    )]
    Owner {
        /// The directory.
        directory: String,
        /// Its owner.
        owner: u32,
    },
    /// Of a service with another user.
    #[error(
        "the state directory {directory} is that of a service with `service_uid` = {group}, now it is {wanted}: set it \
         back, or stop the server, give all that is user {group}'s in there to user and group {wanted}, and the directory \
         to its group (chgrp {wanted})"
    )]
    OtherService {
        /// The directory.
        directory: String,
        /// Its group.
        group: u32,
        /// The service's.
        wanted: u32,
    },
    /// Others could have put something into it.
    #[error(
        "the state directory {directory} has mode {mode:04o}, so others than root can have put into it what it holds; \
         empty it, or choose another directory"
    )]
    Writable {
        /// The directory.
        directory: String,
        /// Its permission bits.
        mode: u32,
    },
    /// `keys` or `engine` is not what it must be.
    #[error("{directory}/{name} must be a directory that belongs to root; move it away")]
    NotPrivate {
        /// The state directory.
        directory: String,
        /// Which of the two.
        name: &'static str,
    },
    /// Directories in each other without an end.
    #[error("the state directory {directory} is nested deeper than {MAX_DEPTH} directories")]
    TooDeep {
        /// The directory.
        directory: String,
    },
    /// The file system refused.
    #[error("the state directory {directory}: cannot {what}: {source}")]
    Io {
        /// The directory.
        directory: String,
        /// What was being done.
        what: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Makes the state directory, or checks it. What a service that ran as root left there is given to the service's user.
/// For the launcher, before it starts another process.
pub fn prepare(operations: &Operations) -> Result<(), StateDirectoryError> {
    prepare_at(&operations.state_directory, operations.service_uid.0)
}

fn prepare_at(path: &Path, service: u32) -> Result<(), StateDirectoryError> {
    let directory = path.display().to_string();
    let failed = |what| {
        let directory = directory.clone();
        move |source: io::Error| StateDirectoryError::Io { directory, what, source }
    };
    let errno = |what| {
        let failed = failed(what);
        move |error: Errno| failed(error.into())
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make the directory above it"))?;
    }
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make it")(error)),
        _ => {}
    }
    let state = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(errno("open it"))?;
    let found = fstat(&state).map_err(errno("look at it"))?;
    if found.st_uid != ROOT {
        return Err(StateDirectoryError::Owner { directory, owner: found.st_uid });
    }
    let mode = found.st_mode & ALL_BITS;
    let handed_over = mode == SHARED && found.st_gid == service;
    if mode == SHARED && !handed_over {
        return Err(StateDirectoryError::OtherService { directory, group: found.st_gid, wanted: service });
    }
    let private = || {
        for name in [KEYS, ENGINE] {
            if !private(&state, name).map_err(errno("make a directory in it"))? {
                return Err(StateDirectoryError::NotPrivate { directory: directory.clone(), name });
            }
        }
        Ok(())
    };
    if handed_over {
        return private();
    }
    if mode & WRITABLE != 0 && !is_empty(&state).map_err(errno("list it"))? {
        return Err(StateDirectoryError::Writable { directory, mode });
    }
    // Closed until all is handed over, and marked as such last: what is cut off begins again.
    fchmod(&state, Mode::from_raw_mode(PRIVATE)).map_err(errno("close it"))?;
    private()?;
    if !give(&state, service, &[KEYS, ENGINE], MAX_DEPTH).map_err(errno("hand over what is in it"))? {
        return Err(StateDirectoryError::TooDeep { directory });
    }
    fchown(&state, Some(Uid::ROOT), Some(Gid::from_raw(service)))
        .map_err(errno("give it to the service's group"))?;
    fchmod(&state, Mode::from_raw_mode(SHARED)).map_err(errno("open it to the service's group"))
}

/// Makes a directory of root's alone; whether it is one now.
fn private(state: &OwnedFd, name: &str) -> Result<bool, Errno> {
    match mkdirat(state, name, Mode::from_raw_mode(PRIVATE)) {
        Err(error) if error != Errno::EXIST => return Err(error),
        _ => {}
    }
    let directory = match open_directory(state, name) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        directory => directory?,
    };
    if fstat(&directory)?.st_uid != ROOT {
        return Ok(false);
    }
    fchmod(&directory, Mode::from_raw_mode(PRIVATE))?;
    Ok(true)
}

fn open_directory(above: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty())
}

fn is_special(name: &std::ffi::CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        // What file systems make themselves.
        if !is_special(entry.file_name()) && entry.file_name().to_bytes() != b"lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives all that is in a directory to the service, but for the names in `except`. Links are not followed. `false` when
/// more than `depth` directories lie in each other.
fn give(directory: &OwnedFd, service: u32, except: &[&str], depth: usize) -> Result<bool, Errno> {
    let (user, group) = (Some(Uid::from_raw(service)), Some(Gid::from_raw(service)));
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_special(name) || except.iter().any(|other| name.to_bytes() == other.as_bytes()) {
            continue;
        }
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            let below = open_directory(directory, name)?;
            if depth == 0 || !give(&below, service, &[], depth - 1)? {
                return Ok(false);
            }
        }
        chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    use std::path::PathBuf;

    const SERVICE: u32 = 65_533;

    /// A directory to put state into. These tests run as root, as all of the server's do.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let state = place.path().join("above/state");
        (place, state)
    }

    /// Owner, group and permission bits.
    fn rights(path: &Path) -> (u32, u32, u32) {
        let found = fs::symlink_metadata(path).expect("there");
        (found.uid(), found.gid(), found.mode() & ALL_BITS)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    #[test]
    fn a_new_directory_is_shared_with_the_service_and_two_in_it_are_not() {
        let (_place, state) = place();
        for _ in ["made", "found"] {
            prepare_at(&state, SERVICE).expect("prepared");
            assert_eq!(rights(&state), (0, SERVICE, 0o1770));
            assert_eq!(rights(&state.join("keys")), (0, 0, 0o700));
            assert_eq!(rights(&state.join("engine")), (0, 0, 0o700));
        }
    }

    #[test]
    fn what_a_root_service_left_is_handed_over_without_following_links() {
        let (place, state) = place();
        for below in ["results/project/layout", "engine/project", "keys"] {
            fs::create_dir_all(state.join(below)).expect("created");
        }
        let outside = place.path().join("outside");
        for file in [&outside, &state.join("jobs.sqlite"), &state.join("results/project/layout/index.json")] {
            fs::write(file, "").expect("written");
        }
        fs::write(state.join("keys/epoch.sealed"), "").expect("written");
        symlink(&outside, state.join("results/link")).expect("linked");
        symlink(place.path(), state.join("up")).expect("linked");
        mode(&state, 0o755);
        prepare_at(&state, SERVICE).expect("handed over");
        for theirs in [
            "jobs.sqlite",
            "results",
            "results/project",
            "results/project/layout/index.json",
            "results/link",
            "up",
        ] {
            let (user, group, _) = rights(&state.join(theirs));
            assert_eq!((user, group), (SERVICE, SERVICE), "{theirs}");
        }
        for roots in [state.join("keys/epoch.sealed"), state.join("engine/project"), outside] {
            assert_eq!(rights(&roots).0, 0, "{}", roots.display());
        }
        assert_eq!(rights(&state), (0, SERVICE, 0o1770));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let (_place, state) = place();
        fs::create_dir_all(&state).expect("created");
        chown(&state, Some(1234), Some(1234)).expect("given away");
        let error = prepare_at(&state, SERVICE).expect_err("theirs");
        assert!(matches!(error, StateDirectoryError::Owner { owner: 1234, .. }), "{error}");
        assert_eq!(rights(&state).0, 1234, "left as it was");
    }

    #[test]
    fn a_directory_of_a_service_with_another_user_is_refused() {
        let (_place, state) = place();
        prepare_at(&state, SERVICE).expect("prepared");
        let error = prepare_at(&state, SERVICE - 1).expect_err("of another");
        assert!(
            matches!(error, StateDirectoryError::OtherService { group: SERVICE, wanted, .. } if wanted == SERVICE - 1),
            "{error}"
        );
    }

    #[test]
    fn what_others_could_write_is_used_only_when_it_is_empty() {
        let (_place, state) = place();
        fs::create_dir_all(&state).expect("created");
        mode(&state, 0o1777);
        prepare_at(&state, SERVICE).expect("nothing is in it");
        assert_eq!(rights(&state), (0, SERVICE, 0o1770));
        mode(&state, 0o770);
        let error = prepare_at(&state, SERVICE).expect_err("anything may be in it");
        assert!(matches!(error, StateDirectoryError::Writable { mode: 0o770, .. }), "{error}");
    }

    #[test]
    fn directories_of_root_are_not_taken_from_the_service() {
        for name in ["keys", "engine"] {
            let (place, state) = place();
            prepare_at(&state, SERVICE).expect("prepared");
            let own = state.join(name);
            let refused = || {
                let error = prepare_at(&state, SERVICE).expect_err(name);
                assert!(
                    matches!(error, StateDirectoryError::NotPrivate { name: got, .. } if got == name),
                    "{error}"
                );
            };
            chown(&own, Some(SERVICE), None).expect("given away");
            refused();
            fs::remove_dir(&own).expect("removed");
            symlink(place.path(), &own).expect("linked");
            refused();
            fs::remove_file(&own).expect("removed");
            fs::write(&own, "").expect("written");
            refused();
        }
    }

    #[test]
    fn a_tree_without_a_bottom_is_refused() {
        let (_place, state) = place();
        fs::create_dir_all(state.join("a/".repeat(MAX_DEPTH))).expect("created");
        mode(&state, 0o700);
        prepare_at(&state, SERVICE).expect("as deep as may be");
        fs::create_dir_all(state.join("a/".repeat(MAX_DEPTH + 1))).expect("created");
        mode(&state, 0o700);
        let error = prepare_at(&state, SERVICE).expect_err("deeper");
        assert!(matches!(error, StateDirectoryError::TooDeep { .. }), "{error}");
    }
}
