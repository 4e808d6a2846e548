//! A faked configfs-tsm: what an operator could put in the place of the kernel's. NOT HARDWARE.
//!
//! The shipped code reads fixed paths, so the fake is mounted at those paths, in a mount namespace of its own: the
//! test starts itself again under `unshare --mount` and there serves a small FUSE file system at
//! `/sys/kernel/config/tsm/report`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use provenance::binding::ReportData;
use provenance::evidence::Evidence;

const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// Set in the process that runs inside the namespace.
const INSIDE: &str = "SEALWRIGHT_TEST_FAKED_KERNEL";

/// Runs a test's body where the kernel's paths can be faked.
///
/// `name` is the test's own full name. Needs root, `unshare` (util-linux) and `/dev/fuse`.
///
/// # Panics
/// When the body does, or the namespace cannot be made.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("the test's own path"))
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (Debian package util-linux)");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "in a mount namespace of its own (needs root and /dev/fuse):\n{text}");
    assert!(text.contains("1 passed"), "`{name}` is not the test's name:\n{text}");
}

/// What the fake does. All zero: it behaves.
#[derive(Debug, Clone, Default)]
pub struct Misbehaviour {
    /// Reads of `outblob` that answer EBUSY first.
    pub busy: u32,
    /// Reads of `outblob` during which somebody else writes to the entry.
    pub raced: u32,
    /// There is no provider: ENXIO.
    pub no_provider: bool,
    /// Bytes that follow the report.
    pub longer_report: usize,
    /// Length of `auxblob`, in place of the endorsements.
    pub auxblob_length: Option<usize>,
    /// Most bytes that one read gives.
    pub short_reads: Option<usize>,
}

/// Makes the report for an `inblob`.
type Report = Box<dyn Fn(&ReportData) -> Evidence + Send>;

struct Entry {
    name: String,
    generation: u64,
    inblob: Vec<u8>,
    evidence: Option<Evidence>,
}

struct State {
    provider: &'static str,
    report: Report,
    entries: BTreeMap<u64, Entry>,
    /// What each open file reads: as in configfs, made at its first read.
    contents: BTreeMap<u64, Vec<u8>>,
    opened: u64,
    made: u64,
    misbehaviour: Misbehaviour,
}

/// The faked interface, mounted until dropped.
pub struct FakeKernel {
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
}

impl FakeKernel {
    /// Mounts the fake with a provider: `sev_guest`, or `tdx_guest`, whose entries have no `auxblob`. Only inside
    /// [`isolated`].
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(provider: &'static str, report: impl Fn(&ReportData) -> Evidence + Send + 'static) -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "only in a mount namespace of its own");
        let status = Command::new("mount").args(["-t", "tmpfs", "faked-kernel", "/sys/kernel"]).status();
        assert!(status.is_ok_and(|status| status.success()), "could not mount a tmpfs at /sys/kernel");
        std::fs::create_dir_all(REPORTS).expect("a directory on the tmpfs");
        let state = State {
            provider,
            report: Box::new(report),
            entries: BTreeMap::new(),
            contents: BTreeMap::new(),
            opened: 0,
            made: 0,
            misbehaviour: Misbehaviour::default(),
        };
        let state = Arc::new(Mutex::new(state));
        let session = fuser::spawn_mount(FakeTsm(Arc::clone(&state)), Path::new(REPORTS), &Config::default());
        Self { state, _session: session.expect("FUSE (/dev/fuse)") }
    }

    /// From now on.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        lock(&self.state).misbehaviour = misbehaviour;
    }

    /// Entries made so far, and how many of them are still there.
    #[must_use]
    pub fn entries(&self) -> (u64, usize) {
        let state = lock(&self.state);
        (state.made, state.entries.len())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic under the lock")
}

/// Attributes of an entry; an entry's inode is a multiple of [`INODES`], its attributes follow.
const ATTRIBUTES: [&str; 5] = ["inblob", "outblob", "auxblob", "provider", "generation"];
/// The attribute that only `sev_guest` has.
const AUXBLOB: &str = "auxblob";
const INODES: u64 = 16;

/// Nothing is cached: each look asks the file system.
const TTL: Duration = Duration::ZERO;

fn attributes(inode: INodeNo) -> FileAttr {
    entry_attributes(inode, inode == INodeNo::ROOT || inode.0.is_multiple_of(INODES))
}

/// What a faked file system says of a directory or a file of root's.
pub(super) fn entry_attributes(inode: INodeNo, directory: bool) -> FileAttr {
    FileAttr {
        ino: inode,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: if directory { 0o755 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

struct FakeTsm(Arc<Mutex<State>>);

impl FakeTsm {
    fn read_attribute(&self, inode: u64) -> Result<Vec<u8>, Errno> {
        let state = &mut *lock(&self.0);
        let entry = state.entries.get_mut(&(inode - inode % INODES)).ok_or(Errno::ENOENT)?;
        let misbehaviour = &mut state.misbehaviour;
        let attribute =
            usize::try_from(inode % INODES).ok().and_then(|at| ATTRIBUTES.get(at.checked_sub(1)?));
        Ok(match *attribute.ok_or(Errno::ENOENT)? {
            "provider" => format!("{}\n", state.provider).into_bytes(),
            "generation" => format!("{}\n", entry.generation).into_bytes(),
            "outblob" => {
                if misbehaviour.busy > 0 {
                    misbehaviour.busy -= 1;
                    return Err(Errno::EBUSY);
                }
                if misbehaviour.raced > 0 {
                    misbehaviour.raced -= 1;
                    entry.generation += 1;
                }
                let data = entry.inblob.as_slice().try_into().map_err(|_| Errno::EINVAL)?;
                let evidence = entry.evidence.insert((state.report)(&ReportData(data)));
                [&evidence.report[..], &vec![0; misbehaviour.longer_report]].concat()
            }
            AUXBLOB => match misbehaviour.auxblob_length {
                Some(length) => vec![0; length],
                None => entry.evidence.as_ref().ok_or(Errno::EINVAL)?.endorsements.clone(),
            },
            _ => return Err(Errno::EACCES),
        })
    }
}

impl Filesystem for FakeTsm {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = lock(&self.0);
        let found = if parent == INodeNo::ROOT {
            state.entries.iter().find(|(_, entry)| *entry.name == *name).map(|(inode, _)| *inode)
        } else {
            let there = |attribute: &str| attribute != AUXBLOB || state.provider == "sev_guest";
            let at = ATTRIBUTES.iter().position(|attribute| *attribute == name && there(attribute));
            at.filter(|_| state.entries.contains_key(&parent.0)).map(|at| parent.0 + 1 + at as u64)
        };
        match found {
            Some(inode) => reply.entry(&TTL, &attributes(INodeNo(inode)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(inode));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let state = &mut *lock(&self.0);
        if state.misbehaviour.no_provider {
            return reply.error(Errno::ENXIO);
        }
        state.made += 1;
        let inode = state.made * INODES;
        let name = name.to_string_lossy().into_owned();
        state.entries.insert(inode, Entry { name, generation: 0, inblob: vec![], evidence: None });
        reply.entry(&TTL, &attributes(INodeNo(inode)), Generation(0));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        lock(&self.0).entries.retain(|_, entry| *entry.name != *name);
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let state = &mut *lock(&self.0);
        state.opened += 1;
        // The size above is not the content's; direct I/O reads until the content ends.
        reply.opened(FileHandle(state.opened), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let known = lock(&self.0).contents.get(&handle.0).cloned();
        match known.map_or_else(|| self.read_attribute(inode.0), Ok) {
            Ok(content) => {
                let rest = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                let mut state = lock(&self.0);
                let most = state.misbehaviour.short_reads.unwrap_or(usize::MAX).min(size as usize);
                reply.data(&rest[..rest.len().min(most)]);
                state.contents.insert(handle.0, content);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let state = &mut *lock(&self.0);
        // inblob takes 1 to 64 bytes at once, as the kernel's does.
        let inblob = inode.0 % INODES == 1 && offset == 0 && (1..=64).contains(&data.len());
        match state.entries.get_mut(&(inode.0 - inode.0 % INODES)) {
            Some(entry) if inblob => {
                entry.inblob = data.to_vec();
                entry.generation += 1;
                reply.written(u32::try_from(data.len()).expect("at most 64"));
            }
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
