//! The walk: names, modes, times, extended attributes and link targets of everything beneath a root, without
//! ever following a link. Order is that of BuildKit's file sync: by name bytes per component, a directory's
//! contents directly after it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use provenance::context::{MAX_DEPTH, Name};
use provenance::ignore::FilterState;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::filter::IgnoreFilter;
use super::{ContextError, MAX_ENTRIES};

/// What identifies an unchanged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<i64>) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

/// What stands at a node.
pub(crate) enum NodeKind {
    File(Stamp),
    /// Index of the first name's node.
    HardLink {
        first: usize,
    },
    Directory {
        children: Vec<usize>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

/// Extended attributes: values by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One entry that was found.
pub(crate) struct Node {
    pub(crate) name: Name,
    /// Path from the root.
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u16,
    pub(crate) mtime_ns: i64,
    pub(crate) xattrs: Xattrs,
    pub(crate) kind: NodeKind,
}

/// Everything that was found.
pub(crate) struct Walked {
    pub(crate) nodes: Vec<Node>,
    /// Nodes of the root directory.
    pub(crate) top: Vec<usize>,
    /// Paths that the patterns would have let in, and [`IgnoreFilter::leaving_out`] did not.
    pub(crate) left_out: Vec<Vec<u8>>,
}

struct Walker<'a> {
    root_path: &'a Path,
    filter: &'a IgnoreFilter,
    nodes: Vec<Node>,
    left_out: Vec<Vec<u8>>,
    first_names: HashMap<(u64, u64), usize>,
    listed: SyncSender<Listed>,
}

/// Entries of one directory, whose extended attributes are still to be read.
struct Listed {
    directory: Arc<OwnedFd>,
    /// Index of the node, and name.
    entries: Vec<(usize, CString)>,
}

/// Directories that may wait for their extended attributes; each holds a descriptor.
const WAITING: usize = 64;

/// Opens a directory that is to be the root of a context.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, ContextError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ContextError::Read { path: path.to_owned(), source: e.into() })
}

/// Walks everything beneath `root` that the filter lets in.
pub(crate) fn walk(
    root: &Arc<OwnedFd>,
    root_path: &Path,
    filter: &IgnoreFilter,
) -> Result<Walked, ContextError> {
    // Reading extended attributes takes as long as everything else, so it has a thread of its own.
    std::thread::scope(|scope| {
        let (listed, receiver) = std::sync::mpsc::sync_channel(WAITING);
        let reader = scope.spawn(move || all_xattrs(&receiver));
        let mut walker = Walker {
            root_path,
            filter,
            nodes: Vec::new(),
            left_out: Vec::new(),
            first_names: HashMap::new(),
            listed,
        };
        let top = walker.directory(root, &[], &FilterState::default(), 0)?;
        let Walker { mut nodes, left_out, listed, .. } = walker;
        drop(listed);
        for (index, xattrs) in reader.join().expect("reading attributes does not panic") {
            let path = &nodes[index].path;
            let xattrs = xattrs.map_err(|errno| failed(&shown(root_path, path), errno))?;
            nodes[index].xattrs = xattrs;
        }
        Ok(Walked { nodes, top, left_out })
    })
}

/// Extended attributes of the nodes that have some.
fn all_xattrs(listed: &Receiver<Listed>) -> Vec<(usize, Result<Xattrs, Errno>)> {
    let mut found = Vec::new();
    for Listed { directory, entries } in listed {
        for (index, name) in entries {
            let xattrs = xattrs(directory.as_fd(), &name);
            if !xattrs.as_ref().is_ok_and(BTreeMap::is_empty) {
                found.push((index, xattrs));
            }
        }
    }
    found
}

fn failed(path: &Path, errno: Errno) -> ContextError {
    match errno {
        // What was listed a moment ago and is gone now changed under our hands.
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => ContextError::Changed { path: path.to_owned() },
        other => ContextError::Read { path: path.to_owned(), source: other.into() },
    }
}

impl Walker<'_> {
    fn full(&self, path: &[u8]) -> PathBuf {
        self.root_path.join(OsStr::from_bytes(path))
    }

    fn failed(&self, path: &[u8], errno: Errno) -> ContextError {
        failed(&self.full(path), errno)
    }

    fn directory(
        &mut self,
        fd: &Arc<OwnedFd>,
        prefix: &[u8],
        state: &FilterState,
        depth: usize,
    ) -> Result<Vec<usize>, ContextError> {
        if depth > MAX_DEPTH {
            return Err(ContextError::TooDeep { path: self.full(prefix), limit: MAX_DEPTH });
        }
        let mut names: Vec<(CString, FileType)> = Vec::new();
        for entry in Dir::read_from(fd).map_err(|e| self.failed(prefix, e))? {
            let entry = entry.map_err(|e| self.failed(prefix, e))?;
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut children = Vec::with_capacity(names.len());
        let mut entries = Vec::with_capacity(names.len());
        for (name, listed) in names {
            let mut path = Vec::with_capacity(prefix.len() + 1 + name.as_bytes().len());
            if !prefix.is_empty() {
                path.extend_from_slice(prefix);
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            if let Some(index) = self.entry(fd.as_fd(), (&name, listed), path, state, depth)? {
                children.push(index);
                entries.push((index, name));
            }
        }
        self.listed
            .send(Listed { directory: fd.clone(), entries })
            .expect("the other end reads until this one is dropped");
        Ok(children)
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        (name, listed): (&CString, FileType),
        path: Vec<u8>,
        state: &FilterState,
        depth: usize,
    ) -> Result<Option<usize>, ContextError> {
        // Most file systems list types, so that what is left out costs no further call.
        let early = match listed {
            FileType::Unknown => None,
            _ => Some(self.filter.visit(&path, listed == FileType::Directory, state)?),
        };
        if early.as_ref().is_some_and(|visit| !visit.included && !visit.descend) {
            return Ok(None);
        }
        let stat = rustix::fs::statat(parent, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed(&path, e))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let visit = match early.filter(|_| listed == file_type) {
            Some(visit) => visit,
            None => self.filter.visit(&path, file_type == FileType::Directory, state)?,
        };
        if !(visit.included || visit.descend) {
            return Ok(None);
        }
        if self.filter.leaves_out(&path) {
            self.left_out.push(path);
            return Ok(None);
        }
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(ContextError::TooMany { path: self.root_path.to_owned() });
        }
        let node_name = Name::new(name.as_bytes())
            .map_err(|problem| ContextError::Directory { path: self.full(&path), problem })?;
        let index = self.nodes.len();
        let stamp = Stamp::of(&stat);
        self.nodes.push(Node {
            name: node_name,
            path,
            mode: u16::try_from(stat.st_mode & 0o7777).expect("twelve bits"),
            mtime_ns: stamp.mtime_ns,
            xattrs: BTreeMap::new(),
            kind: NodeKind::Fifo,
        });
        let kind = match file_type {
            FileType::Directory => {
                let path = self.nodes[index].path.clone();
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name.as_c_str(), flags, Mode::empty())
                    .map_err(|e| self.failed(&path, e))?;
                let children = match visit.descend {
                    true => self.directory(&Arc::new(fd), &path, &visit.state, depth + 1)?,
                    false => Vec::new(),
                };
                // An excluded directory is carried only for the sake of what a `!` pattern brings back.
                if !visit.included && children.is_empty() {
                    self.nodes.truncate(index);
                    return Ok(None);
                }
                NodeKind::Directory { children }
            }
            FileType::RegularFile => match self.first_names.get(&(stamp.device, stamp.inode)) {
                Some(first) => NodeKind::HardLink { first: *first },
                None => {
                    if stat.st_nlink > 1 {
                        self.first_names.insert((stamp.device, stamp.inode), index);
                    }
                    NodeKind::File(stamp)
                }
            },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name.as_c_str(), Vec::new())
                    .map_err(|e| self.failed(&self.nodes[index].path, e))?;
                NodeKind::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice => {
                let (major, minor) = device_numbers(&stat);
                NodeKind::CharDevice { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device_numbers(&stat);
                NodeKind::BlockDevice { major, minor }
            }
            // BuildKit makes an empty file of it, so that is what it is here.
            FileType::Socket => NodeKind::Socket,
            _ => NodeKind::Fifo,
        };
        self.nodes[index].kind = kind;
        Ok(Some(index))
    }
}

fn device_numbers(stat: &Stat) -> (u32, u32) {
    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

/// Extended attributes of an entry, not following a link.
fn xattrs(parent: BorrowedFd<'_>, name: &CString) -> Result<Xattrs, Errno> {
    // There is no llistxattrat before Linux 6.13; the descriptor's magic link stands in for the parent.
    let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    let path = OsStr::from_bytes(&path);
    let mut list = [0_u8; 1024];
    let names = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(0) => return Ok(BTreeMap::new()),
        Ok(length) => list[..length].to_vec(),
        Err(Errno::NOTSUP | Errno::PERM) => return Ok(BTreeMap::new()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; 64 << 10];
            let length = rustix::fs::llistxattr(path, &mut long[..])?;
            long.truncate(length);
            long
        }
        Err(e) => return Err(e),
    };
    let mut found = BTreeMap::new();
    // Docker's clients leave out what macOS adds to every file.
    let wanted = |key: &&[u8]| !key.is_empty() && !key.starts_with(b"com.apple.");
    for key in names.split(|b| *b == 0).filter(wanted) {
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(key), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.insert(key.to_vec(), value);
            }
            // Gone between list and read, or kept from us (trusted.*): buildctl carries neither.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Opens a regular file beneath `root` without following any link on the way.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Sandboxes that filter system calls by an old list refuse openat2.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => open_by_component(root, path, flags),
        other => Ok(other?),
    }
}

/// Opens a file of the root directory for reading; links on the way are followed as if `root` were `/`.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
        // Without the call a link is not followed at all.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(root, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        other => other,
    }
}

fn open_by_component(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut components = path.split(|b| *b == b'/').peekable();
    let mut current: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        let parent = current.as_ref().map_or(root, |fd| fd.as_fd());
        let last = components.peek().is_none();
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        current =
            Some(rustix::fs::openat(parent, component, if last { flags } else { directory }, Mode::empty())?);
    }
    current.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A path from the root as the user would write it.
pub(crate) fn shown(root: &Path, path: &[u8]) -> PathBuf {
    root.join(std::ffi::OsString::from_vec(path.to_vec()))
}
