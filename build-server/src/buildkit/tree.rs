//! A stored tree as BuildKit's file transfer (fsutil) sees a directory: walked in its order, cut by its
//! filters, with symbolic links resolved inside the root only.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use proto::buildkit::fsutil::types::{Stat, Xattr};
use provenance::context::{Directory, Entry, Kind, MAX_DEPTH};
use provenance::digest::Sha256Digest;
use provenance::ignore::{Filter, FilterState, InvalidPattern, clean, matches_name};

use super::blobs::{BlobError, ContextBlobs};

/// Go's os.FileMode bits beyond the permissions.
mod go_mode {
    pub(super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const NAMED_PIPE: u32 = 1 << 25;
    pub(super) const SET_UID: u32 = 1 << 23;
    pub(super) const SET_GID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
}

/// Most symbolic links that one request follows.
const MAX_FOLLOWED: usize = 10_000;
/// Most links on the way to one file (Linux's limit).
const MAX_LINKS: usize = 40;
/// Most entries of one walk: a small store can describe a tree without end, because directories are shared.
const MAX_ENTRIES_WALKED: u64 = 10_000_000;
/// Parsed directories that are kept.
const CACHED_DIRECTORIES: usize = 64;

/// Why a tree could not be walked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A blob is missing or damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// BuildKit sent a pattern that is none.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// Directories nest deeper than [`MAX_DEPTH`].
    #[error("the tree is more than {MAX_DEPTH} directories deep at `{path}`")]
    TooDeep {
        /// Path (lossy).
        path: String,
    },
    /// A hard link whose first name is not a file with the same contents.
    #[error("hard link `{path}` names `{first}` as the same file, which it is not")]
    HardLink {
        /// Path (lossy).
        path: String,
        /// First name (lossy).
        first: String,
    },
    /// More entries than [`MAX_ENTRIES_WALKED`].
    #[error("the tree has more than {MAX_ENTRIES_WALKED} entries")]
    TooManyEntries,
    /// More symbolic links than [`MAX_FOLLOWED`].
    #[error("more than {MAX_FOLLOWED} paths to follow")]
    TooManyLinks,
    /// The receiver gave up, and said why: a full disk, for one.
    #[error("{problem}")]
    Receiver {
        /// Its words.
        problem: String,
    },
    /// The receiver went away.
    #[error("the receiver went away")]
    Closed,
}

/// A file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) digest: Sha256Digest,
    pub(super) size: u64,
}

/// A stored tree. Calls block.
pub struct Tree {
    store: Arc<dyn ContextBlobs>,
    root: Sha256Digest,
    cache: Mutex<HashMap<Sha256Digest, Arc<Directory>>>,
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(1000).collect()
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// A directory on the way to the entry being visited.
struct Parent<'a> {
    path: Vec<u8>,
    entry: &'a Entry,
    sent: bool,
}

struct Walk<'w> {
    filter: &'w Filter,
    entries: u64,
    /// First name of a hard linked file that the filter left out → the name sent in its place.
    stand_ins: HashMap<Vec<u8>, Vec<u8>>,
    gone: &'w dyn Fn() -> bool,
    send: &'w mut dyn FnMut(Stat, Option<Contents>) -> Result<(), TreeError>,
}

impl Tree {
    /// The tree under the directory blob `root`.
    #[must_use]
    pub fn new(store: Arc<dyn ContextBlobs>, root: Sha256Digest) -> Self {
        Self { store, root, cache: Mutex::default() }
    }

    /// The root directory blob.
    #[must_use]
    pub fn root(&self) -> Sha256Digest {
        self.root
    }

    /// Where the contents come from.
    pub(super) fn store(&self) -> &Arc<dyn ContextBlobs> {
        &self.store
    }

    fn directory(&self, digest: &Sha256Digest) -> Result<Arc<Directory>, BlobError> {
        let cached = |cache: &Mutex<HashMap<_, Arc<Directory>>>| {
            cache.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
        };
        if let Some(directory) = cached(&self.cache) {
            return Ok(directory);
        }
        let directory = Arc::new(self.store.directory(digest)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_DIRECTORIES {
            cache.clear();
        }
        cache.insert(*digest, directory.clone());
        Ok(directory)
    }

    /// The entry at a clean relative path; no link is followed.
    pub fn entry(&self, path: &[u8]) -> Result<Option<Entry>, BlobError> {
        let mut directory = self.directory(&self.root)?;
        let mut names = path.split(|b| *b == b'/').peekable();
        while let Some(name) = names.next() {
            let entries = directory.entries();
            let Ok(at) = entries.binary_search_by(|e| e.name.as_bytes().cmp(name)) else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(entries[at].clone()));
            }
            let Kind::Directory { digest } = entries[at].kind else { return Ok(None) };
            directory = self.directory(&digest)?;
        }
        Ok(None)
    }

    /// The entry at a path with every link followed; links do not leave the root.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Option<Entry>, BlobError> {
        let mut path = path.to_vec();
        for _ in 0..=MAX_LINKS {
            path = clean(&[b"/", path.as_slice()].concat());
            path.remove(0);
            let mut linked = None;
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
            for end in ends.chain([path.len()]) {
                let Some(entry) = self.entry(&path[..end])? else { return Ok(None) };
                if let Kind::Symlink { target } = &entry.kind {
                    let parent =
                        path[..end].iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
                    let base = if target.first() == Some(&b'/') { &b""[..] } else { parent };
                    linked = Some([base, b"/", target.as_slice(), &path[end..]].concat());
                    break;
                }
                if end == path.len() {
                    return Ok(Some(entry));
                }
            }
            let Some(next) = linked else { return Ok(None) };
            path = next;
        }
        Ok(None)
    }

    /// Entries of the directory at a clean path (`.` for the root); `None` when there is no such directory.
    fn list(&self, path: &[u8]) -> Result<Option<Arc<Directory>>, BlobError> {
        if path == b"." || path == b"/" {
            return self.directory(&self.root).map(Some);
        }
        match self.entry(path)? {
            Some(Entry { kind: Kind::Directory { digest }, .. }) => self.directory(&digest).map(Some),
            _ => Ok(None),
        }
    }

    /// Walks what the filter leaves, in the order that the receiver demands: a directory before its entries,
    /// entries by the bytes of their names. Directories left out by the filter are sent when something inside
    /// is not. Ends when the receiver is `gone`, also while the filter leaves everything out.
    pub(super) fn walk(
        &self,
        filter: &Filter,
        gone: &dyn Fn() -> bool,
        send: &mut dyn FnMut(Stat, Option<Contents>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let root = self.directory(&self.root)?;
        let mut walk = Walk { filter, entries: 0, stand_ins: HashMap::new(), gone, send };
        self.walk_directory(&root, b"", &FilterState::default(), &mut Vec::new(), &mut walk)
    }

    fn walk_directory<'a>(
        &self,
        directory: &'a Directory,
        path: &[u8],
        state: &FilterState,
        parents: &mut Vec<Parent<'a>>,
        walk: &mut Walk<'_>,
    ) -> Result<(), TreeError> {
        if parents.len() > MAX_DEPTH {
            return Err(TreeError::TooDeep { path: lossy(path) });
        }
        for entry in directory.entries() {
            walk.entries += 1;
            if walk.entries > MAX_ENTRIES_WALKED {
                return Err(TreeError::TooManyEntries);
            }
            if (walk.gone)() {
                return Err(TreeError::Closed);
            }
            let path = join(path, entry.name.as_bytes());
            let inner = if let Kind::Directory { digest } = &entry.kind { Some(digest) } else { None };
            let visit = walk.filter.visit(&path, inner.is_some(), state)?;
            if visit.included {
                for parent in parents.iter_mut().filter(|parent| !parent.sent) {
                    parent.sent = true;
                    (walk.send)(stat(&parent.path, parent.entry), None)?;
                }
                self.send_entry(&path, entry, walk)?;
            }
            if let Some(digest) = inner.filter(|_| visit.descend) {
                // Read without the cache: a walk comes by once, and would push out what lookups need.
                let inner = self.store.directory(digest)?;
                let mut below: Vec<Parent<'_>> = parents
                    .iter()
                    .map(|p| Parent { path: p.path.clone(), entry: p.entry, sent: p.sent })
                    .collect();
                below.push(Parent { path: path.clone(), entry, sent: visit.included });
                self.walk_directory(&inner, &path, &visit.state, &mut below, walk)?;
                for (parent, below) in parents.iter_mut().zip(&below) {
                    parent.sent = below.sent;
                }
            }
        }
        Ok(())
    }

    fn send_entry(&self, path: &[u8], entry: &Entry, walk: &mut Walk<'_>) -> Result<(), TreeError> {
        let mut attributes = stat(path, entry);
        let contents = match &entry.kind {
            Kind::File { size, digest } => Some(Contents { digest: *digest, size: *size }),
            Kind::HardLink { first, size, digest } => {
                let named = self.entry(first)?;
                let same = |named: &Entry| matches!(named.kind, Kind::File { digest: other, .. } if other == *digest);
                let named = named
                    .filter(same)
                    .ok_or_else(|| TreeError::HardLink { path: lossy(path), first: lossy(first) })?;
                // All attributes are those of the one file, its size too. For any other BuildKit would link the
                // file anew under a temporary name, which then stays beside it.
                attributes = stat(path, &named);
                let target =
                    if walk.filter.includes(first)? { Some(first) } else { walk.stand_ins.get(first) };
                if let Some(target) = target {
                    attributes.linkname = target.clone().into();
                } else {
                    walk.stand_ins.insert(first.clone(), path.to_vec());
                }
                Some(Contents { digest: *digest, size: *size })
            }
            _ => None,
        };
        (walk.send)(attributes, contents)
    }

    /// The paths that `paths` lead to when symbolic links are followed, links included, as include patterns.
    /// `None` when one of them is the root, so that there is nothing to cut. Links never leave the root: an
    /// absolute target and one with too many `..` start at the root.
    pub(super) fn follow_links(&self, paths: &[Vec<u8>]) -> Result<Option<Vec<Vec<u8>>>, TreeError> {
        let mut resolved = BTreeSet::new();
        let mut queue: Vec<Vec<u8>> = paths.iter().rev().cloned().collect();
        let mut followed = 0;
        while let Some(path) = queue.pop() {
            followed += 1;
            if followed > MAX_FOLLOWED {
                return Err(TreeError::TooManyLinks);
            }
            let path = clean(&[b"./", path.as_slice()].concat());
            let mut rest = path.as_slice();
            let mut current = b".".to_vec();
            loop {
                let (name, behind) = match rest.iter().position(|b| *b == b'/') {
                    Some(at) => (&rest[..at], &rest[at + 1..]),
                    None => (rest, &b""[..]),
                };
                current = clean(&[current.as_slice(), b"/", name].concat());
                rest = behind;
                let targets = self.link_targets(&current, true)?;
                if (rest.is_empty() || !targets.is_empty()) && resolved.contains(&current) {
                    break;
                }
                if !targets.is_empty() {
                    resolved.insert(current);
                    queue.extend(
                        targets.into_iter().rev().map(|target| [target.as_slice(), b"/", rest].concat()),
                    );
                    break;
                }
                if rest.is_empty() {
                    resolved.insert(current);
                    break;
                }
            }
        }
        Ok(without_covered(resolved))
    }

    /// Where the links at `path` lead, absolute from the root; the last name may have wildcards.
    fn link_targets(&self, path: &[u8], wildcards: bool) -> Result<Vec<Vec<u8>>, TreeError> {
        let (parent, base) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b"."[..], path),
        };
        if wildcards && has_wildcards(base) {
            let Some(directory) = self.list(parent)? else { return Ok(Vec::new()) };
            let mut targets = Vec::new();
            for entry in directory.entries() {
                if matches_name(base, entry.name.as_bytes()) {
                    targets.extend(self.link_targets(&join_clean(parent, entry.name.as_bytes()), false)?);
                }
            }
            return Ok(targets);
        }
        if path == b"." || path == b"/" {
            return Ok(Vec::new());
        }
        let Some(Entry { kind: Kind::Symlink { target }, .. }) = self.entry(path)? else {
            return Ok(Vec::new());
        };
        let target = clean(&target);
        let absolute =
            if target.first() == Some(&b'/') { target } else { [b"/", parent, b"/", &target].concat() };
        Ok(vec![clean(&absolute)])
    }
}

fn join_clean(directory: &[u8], name: &[u8]) -> Vec<u8> {
    clean(&[directory, b"/", name].concat())
}

fn has_wildcards(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Leaves out paths inside the path before them; `None` when everything is wanted.
pub(super) fn without_covered(paths: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for path in paths {
        if path == b"." {
            return None;
        }
        let last = kept.last().map_or(&b""[..], Vec::as_slice);
        if path.strip_prefix(last).is_none_or(|rest| rest.first() != Some(&b'/')) {
            kept.push(path);
        }
    }
    Some(kept)
}

/// The STAT of an entry. Owner is root, as with every Docker client.
fn stat(path: &[u8], entry: &Entry) -> Stat {
    let mode = u32::from(entry.mode);
    let mut go = mode & 0o777;
    for (bit, flag) in [(0o4000, go_mode::SET_UID), (0o2000, go_mode::SET_GID), (0o1000, go_mode::STICKY)] {
        if mode & bit != 0 {
            go |= flag;
        }
    }
    let mut stat = Stat {
        path: path.to_vec().into(),
        mod_time: entry.mtime_ns,
        xattrs: entry
            .xattrs
            .iter()
            .map(|(key, value)| Xattr { key: key.clone().into(), value: value.clone().into() })
            .collect(),
        ..Stat::default()
    };
    let length = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    match &entry.kind {
        Kind::File { size, .. } | Kind::HardLink { size, .. } => stat.size = length(*size),
        Kind::Directory { .. } => go |= go_mode::DIRECTORY,
        Kind::Symlink { target } => {
            go |= go_mode::SYMLINK;
            stat.size = length(target.len() as u64);
            stat.linkname = target.clone().into();
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            go |= go_mode::DEVICE;
            if matches!(entry.kind, Kind::CharDevice { .. }) {
                go |= go_mode::CHAR_DEVICE;
            }
            stat.devmajor = i64::from(*major);
            stat.devminor = i64::from(*minor);
        }
        Kind::Fifo => go |= go_mode::NAMED_PIPE,
    }
    stat.mode = go;
    stat
}
