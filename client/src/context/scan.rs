//! From a directory to a tree: walk, hash what the stat cache does not know on all cores, build the directory
//! blobs from the leaves up.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use provenance::context::{Directory, Entry, Kind};
use provenance::digest::{Sha256Digest, Sha256Hasher};

use super::walk::{self, Node, NodeKind, Stamp, Walked};
use super::{Blob, BlobSource, ContextError, FileSource, IgnoreFilter, Previous, StatCache, Tree};

/// Bytes read at once when hashing.
const READ_SIZE: usize = 256 << 10;
/// More threads than this do not help: storage is then the limit.
const MAX_THREADS: usize = 16;

/// Makes a tree of the directory `path`. `cache` may answer for files whose stat data did not change.
pub fn scan(path: &Path, filter: &IgnoreFilter, cache: &mut StatCache) -> Result<Tree, ContextError> {
    let root = Arc::new(walk::open_root(path)?);
    let root_path = Arc::new(path.to_owned());
    let walked = walk::walk(&root, path, filter)?;
    let Digests { by_node: digests, unchanged } = digests(&walked, &root, &root_path, cache)?;
    let mut builder = Builder {
        nodes: &walked.nodes,
        digests: &digests,
        tree: Tree { left_out: walked.left_out.clone(), ..Tree::new(Sha256Digest::of(b""), HashMap::new()) },
        root,
        root_path,
    };
    let top = builder.directory(&walked.top, &[])?;
    let mut tree = builder.tree;
    tree.root = top;
    tree.previous = cache.root().map(|root| Previous { root, files: Arc::new(unchanged) });
    cache.replace(
        top,
        walked.nodes.iter().enumerate().filter_map(|(index, node)| match &node.kind {
            NodeKind::File(stamp) => {
                digests.get(&index).map(|digest| (node.path.as_slice(), *stamp, *digest))
            }
            _ => None,
        }),
    );
    Ok(tree)
}

/// Digests of regular files.
struct Digests {
    by_node: HashMap<usize, Sha256Digest>,
    /// Those that the cache knew.
    unchanged: HashSet<Sha256Digest>,
}

/// Takes digests from the cache, and hashes the files that it does not know.
fn digests(
    walked: &Walked,
    root: &Arc<std::os::fd::OwnedFd>,
    root_path: &Arc<PathBuf>,
    cache: &StatCache,
) -> Result<Digests, ContextError> {
    let mut known = HashMap::new();
    let mut unknown: Vec<(usize, FileSource)> = Vec::new();
    for (index, node) in walked.nodes.iter().enumerate() {
        let NodeKind::File(stamp) = &node.kind else { continue };
        if let Some(digest) = cache.digest(&node.path, stamp) {
            known.insert(index, digest);
        } else {
            let source = FileSource {
                root: root.clone(),
                root_path: root_path.clone(),
                path: Arc::new(node.path.clone()),
                stamp: *stamp,
            };
            unknown.push((index, source));
        }
    }
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(unknown.len());
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<ContextError>> = Mutex::new(None);
    let work = || {
        let mut buffer = vec![0; READ_SIZE];
        let mut done = Vec::new();
        while let Some((index, source)) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            match source.hash(&mut buffer) {
                Ok(digest) => done.push((*index, digest)),
                Err(error) => {
                    // Later files are not worth reading.
                    next.store(unknown.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
        done
    };
    let hashed: Vec<(usize, Sha256Digest)> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for helper in helpers {
            all.extend(helper.join().expect("hashing does not panic"));
        }
        all
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let unchanged = known.values().copied().collect();
    known.extend(hashed);
    Ok(Digests { by_node: known, unchanged })
}

impl FileSource {
    /// Path for messages.
    pub(crate) fn shown(&self) -> PathBuf {
        walk::shown(&self.root_path, &self.path)
    }

    /// Opens the file and checks that it is still the one that was walked.
    pub(crate) fn open(&self) -> Result<File, ContextError> {
        let read = |source| match std::io::Error::kind(&source) {
            std::io::ErrorKind::NotFound => ContextError::Changed { path: self.shown() },
            _ => ContextError::Read { path: self.shown(), source },
        };
        let file = File::from(walk::open_beneath(self.root.as_fd(), &self.path).map_err(read)?);
        self.check_unchanged(&file)?;
        Ok(file)
    }

    /// Checks that an open file's stat data are those of the walk.
    pub(crate) fn check_unchanged(&self, file: &File) -> Result<(), ContextError> {
        let stat = rustix::fs::fstat(file)
            .map_err(|e| ContextError::Read { path: self.shown(), source: e.into() })?;
        if Stamp::of(&stat) == self.stamp {
            Ok(())
        } else {
            Err(ContextError::Changed { path: self.shown() })
        }
    }

    fn hash(&self, buffer: &mut [u8]) -> Result<Sha256Digest, ContextError> {
        let mut file = self.open()?;
        let mut hasher = Sha256Hasher::new();
        let mut total = 0_u64;
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    total += count as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ContextError::Read { path: self.shown(), source }),
            }
        }
        self.check_unchanged(&file)?;
        if total != self.stamp.size {
            return Err(ContextError::Changed { path: self.shown() });
        }
        Ok(hasher.finish())
    }
}

struct Builder<'a> {
    nodes: &'a [Node],
    digests: &'a HashMap<usize, Sha256Digest>,
    tree: Tree,
    root: Arc<std::os::fd::OwnedFd>,
    root_path: Arc<PathBuf>,
}

impl Builder<'_> {
    fn directory(&mut self, children: &[usize], path: &[u8]) -> Result<Sha256Digest, ContextError> {
        let mut entries = Vec::with_capacity(children.len());
        for index in children {
            let node = &self.nodes[*index];
            let kind = match &node.kind {
                NodeKind::File(stamp) => {
                    let digest = self.digests[index];
                    self.tree.files += 1;
                    self.tree.bytes += stamp.size;
                    let source = FileSource {
                        root: self.root.clone(),
                        root_path: self.root_path.clone(),
                        path: Arc::new(node.path.clone()),
                        stamp: *stamp,
                    };
                    let blob = Blob { size: stamp.size, source: BlobSource::File(source) };
                    self.tree.blobs.entry(digest).or_insert(blob);
                    Kind::File { size: stamp.size, digest }
                }
                NodeKind::HardLink { first } => {
                    let NodeKind::File(stamp) = &self.nodes[*first].kind else {
                        // The first name is always a regular file's node.
                        return Err(ContextError::Changed { path: walk::shown(&self.root_path, &node.path) });
                    };
                    let digest = self.digests[first];
                    Kind::HardLink { first: self.nodes[*first].path.clone(), size: stamp.size, digest }
                }
                NodeKind::Directory { children } => {
                    Kind::Directory { digest: self.directory(children, &node.path)? }
                }
                NodeKind::Symlink { target } => Kind::Symlink { target: target.clone() },
                NodeKind::CharDevice { major, minor } => Kind::CharDevice { major: *major, minor: *minor },
                NodeKind::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
                NodeKind::Fifo => Kind::Fifo,
                NodeKind::Socket => {
                    let digest = Sha256Digest::of(b"");
                    let empty = Blob { size: 0, source: BlobSource::Memory(Arc::default()) };
                    self.tree.blobs.entry(digest).or_insert(empty);
                    Kind::File { size: 0, digest }
                }
            };
            entries.push(Entry {
                name: node.name.clone(),
                mode: node.mode,
                mtime_ns: node.mtime_ns,
                xattrs: node.xattrs.clone(),
                kind,
            });
        }
        let directory = Directory::new(entries).map_err(|problem| ContextError::Directory {
            path: walk::shown(&self.root_path, path),
            problem,
        })?;
        let blob = directory.encode();
        let digest = Sha256Digest::of(&blob);
        let size = blob.len() as u64;
        self.tree.blobs.insert(digest, Blob { size, source: BlobSource::Memory(Arc::new(blob)) });
        Ok(digest)
    }
}

/// The tree of an empty directory.
#[must_use]
pub fn empty_tree() -> Tree {
    let blob = Directory::default().encode();
    let root = Sha256Digest::of(&blob);
    let size = blob.len() as u64;
    let blobs = HashMap::from([(root, Blob { size, source: BlobSource::Memory(Arc::new(blob)) })]);
    Tree::new(root, blobs)
}
