//! The stat cache: digest of each file of a context whose device, inode, size, modification and change time
//! are as they were, and the root digest of the tree that they were found in. One file per context under the user's
//! cache directory.
//!
//! A file that was written to in the same clock tick in which it was hashed would keep its times; so an entry
//! is kept only if its times lie well before the moment at which the scan began.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use provenance::digest::Sha256Digest;
use provenance::frame::{FrameReader, FrameWriter};

use super::walk::Stamp;

const LABEL: &str = "sealwright/stat-cache/v2";
/// Coarsest time stamp of a file system that is still common (FAT): two seconds.
const RACY_NS: i64 = 2_000_000_000;
/// Largest cache file in bytes.
const MAX_CACHE: u64 = 1 << 30;

/// Digests of a context's files.
pub struct StatCache {
    file: Option<PathBuf>,
    started_ns: i64,
    contents: Contents,
    changed: bool,
}

#[derive(Default, PartialEq, Eq)]
struct Contents {
    /// Digest of the root directory of the tree that had all these files.
    root: Option<Sha256Digest>,
    known: HashMap<Vec<u8>, (Stamp, Sha256Digest)>,
}

impl StatCache {
    /// A cache that knows nothing and is never written.
    #[must_use]
    pub fn none() -> Self {
        Self { file: None, started_ns: now_ns(), contents: Contents::default(), changed: false }
    }

    /// The cache of the context at `context`, in the folder `folder`. A damaged cache is an empty one.
    #[must_use]
    pub fn open(folder: &Path, context: &Path) -> Self {
        let absolute = fs::canonicalize(context).unwrap_or_else(|_| context.to_owned());
        let name = Sha256Digest::of(absolute.as_os_str().as_bytes()).hex();
        let file = folder.join("contexts").join(name);
        let contents = fs::metadata(&file)
            .ok()
            .filter(|metadata| metadata.len() <= MAX_CACHE)
            .and_then(|_| fs::read(&file).ok())
            .and_then(|bytes| parse(&bytes))
            .unwrap_or_default();
        Self { file: Some(file), started_ns: now_ns(), contents, changed: false }
    }

    /// Digest of a file with this stamp, if it is known.
    pub(crate) fn digest(&self, path: &[u8], stamp: &Stamp) -> Option<Sha256Digest> {
        self.contents.known.get(path).filter(|(known, _)| known == stamp).map(|(_, digest)| *digest)
    }

    /// Root digest of the tree of the last scan.
    pub(crate) fn root(&self) -> Option<Sha256Digest> {
        self.contents.root
    }

    /// Replaces everything by what the scan of the tree `root` found, but for files that were written to a moment ago.
    pub(crate) fn replace<'a>(
        &mut self,
        root: Sha256Digest,
        found: impl Iterator<Item = (&'a [u8], Stamp, Sha256Digest)>,
    ) {
        let limit = self.started_ns - RACY_NS;
        let known = found
            .filter(|(_, stamp, _)| stamp.mtime_ns < limit && stamp.ctime_ns < limit)
            .map(|(path, stamp, digest)| (path.to_vec(), (stamp, digest)))
            .collect();
        let contents = Contents { root: Some(root), known };
        self.changed = contents != self.contents;
        self.contents = contents;
    }

    /// Writes the cache if it changed. A cache that cannot be written costs time, nothing else.
    pub fn save(&self) -> std::io::Result<()> {
        let Contents { root: Some(root), known } = &self.contents else { return Ok(()) };
        let Some(file) = self.file.as_ref().filter(|_| self.changed) else { return Ok(()) };
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(&encode(root, known))?;
        temporary.persist(file).map_err(|e| e.error)?;
        Ok(())
    }
}

fn now_ns() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

fn encode(root: &Sha256Digest, known: &HashMap<Vec<u8>, (Stamp, Sha256Digest)>) -> Vec<u8> {
    let mut out = FrameWriter::new(LABEL).fixed(root.as_bytes()).fixed(&(known.len() as u64).to_be_bytes());
    for (path, (stamp, digest)) in known {
        out = out
            .framed(path)
            .fixed(&stamp.device.to_be_bytes())
            .fixed(&stamp.inode.to_be_bytes())
            .fixed(&stamp.size.to_be_bytes())
            .fixed(&stamp.mtime_ns.to_be_bytes())
            .fixed(&stamp.ctime_ns.to_be_bytes())
            .fixed(digest.as_bytes());
    }
    let mut bytes = out.finish();
    // A torn or damaged cache must not name a wrong digest.
    let check = Sha256Digest::of(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<Contents> {
    let (body, check) = bytes.split_last_chunk::<32>()?;
    if Sha256Digest::of(body).as_bytes() != check {
        return None;
    }
    let mut reader = FrameReader::new(body, LABEL).ok()?;
    let root = Some(Sha256Digest::from_bytes(reader.array().ok()?));
    let count = u64::from_be_bytes(reader.array().ok()?);
    let mut known = HashMap::new();
    for _ in 0..count {
        let path = reader.framed().ok()?.to_vec();
        let stamp = Stamp {
            device: u64::from_be_bytes(reader.array().ok()?),
            inode: u64::from_be_bytes(reader.array().ok()?),
            size: u64::from_be_bytes(reader.array().ok()?),
            mtime_ns: i64::from_be_bytes(reader.array().ok()?),
            ctime_ns: i64::from_be_bytes(reader.array().ok()?),
        };
        known.insert(path, (stamp, Sha256Digest::from_bytes(reader.array().ok()?)));
    }
    reader.finish().ok()?;
    Some(Contents { root, known })
}
