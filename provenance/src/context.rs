//! The build context as a Merkle tree of directories and files by SHA-256.
//!
//! A directory is one blob:
//! ```text
//! F("sealwright/directory/v1") ‖ u32be(n) ‖ n × entry            entries ascending by name bytes
//! entry = kind(1) ‖ F(name) ‖ mode(u16be) ‖ mtime_ns(i64be) ‖ u16be(x) ‖ x × (F(key) ‖ F(value)) ‖ body
//!   1 file      : size(u64be) ‖ sha256(32)
//!   2 directory : sha256(32) of its directory blob
//!   3 symlink   : F(target)
//!   4 hard link : F(path of the first name, from the root) ‖ size(u64be) ‖ sha256(32)
//!   5 char device, 6 block device : major(u32be) ‖ minor(u32be)
//!   7 fifo      : nothing
//! ```
//! Names are bytes (they need not be UTF-8), without `/` and NUL, and neither `.` nor `..`. `mode` holds the
//! twelve permission bits only. Extended attributes are ascending by key. Sockets are not carried (as with
//! buildctl). Modification times are part of the tree because they are part of the image that is built.
//! The attributes of the root directory itself are not part of the tree.

use std::collections::{BTreeMap, HashSet};

use crate::digest::Sha256Digest;
use crate::frame::{FrameError, FrameReader, FrameWriter};

/// Label of a directory blob.
pub const DIRECTORY_LABEL: &str = "sealwright/directory/v1";
/// Longest name in bytes (Linux NAME_MAX).
pub const MAX_NAME: usize = 255;
/// Longest symlink target or hard link path in bytes (Linux PATH_MAX).
pub const MAX_TARGET: usize = 4096;
/// Most entries of one directory.
pub const MAX_ENTRIES: usize = 1_000_000;
/// Largest directory blob in bytes.
pub const MAX_DIRECTORY: usize = 256 << 20;
/// Most extended attributes of one entry, and their largest total size in bytes.
pub const MAX_XATTRS: usize = 64;
/// Largest extended attribute value in bytes (Linux XATTR_SIZE_MAX).
pub const MAX_XATTR_VALUE: usize = 64 << 10;
/// Deepest nesting of directories.
pub const MAX_DEPTH: usize = 256;

/// A file name: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Parses a name.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidDirectory> {
        let bad = bytes.is_empty()
            || bytes.len() > MAX_NAME
            || bytes == b"."
            || bytes == b".."
            || bytes.iter().any(|b| *b == b'/' || *b == 0);
        if bad {
            return Err(InvalidDirectory::Name {
                got: String::from_utf8_lossy(bytes).chars().take(255).collect(),
            });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// SHA-256 of the contents.
        digest: Sha256Digest,
    },
    /// A directory.
    Directory {
        /// SHA-256 of its directory blob.
        digest: Sha256Digest,
    },
    /// A symbolic link; the target is any bytes and is never followed here.
    Symlink {
        /// Target as stored.
        target: Vec<u8>,
    },
    /// A further name of a regular file that stands earlier in walk order.
    HardLink {
        /// Path of the first name from the root, without leading `/`.
        first: Vec<u8>,
        /// Length in bytes.
        size: u64,
        /// SHA-256 of the contents.
        digest: Sha256Digest,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in its directory.
    pub name: Name,
    /// Permission bits, set-id bits and sticky bit: at most 0o7777.
    pub mode: u16,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it is.
    pub kind: Kind,
}

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Entries ascending by name.
    entries: Vec<Entry>,
}

/// Why a directory blob is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDirectory {
    /// Larger than [`MAX_DIRECTORY`].
    #[error("directory blob has {got} bytes, at most {MAX_DIRECTORY} are allowed")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// The framing is wrong.
    #[error("directory blob: {0}")]
    Frame(#[from] FrameError),
    /// More entries than [`MAX_ENTRIES`].
    #[error("directory has {got} entries, at most {MAX_ENTRIES} are allowed")]
    TooManyEntries {
        /// Number seen.
        got: usize,
    },
    /// A name that no file may have.
    #[error("`{got}` is no file name; wanted 1 to {MAX_NAME} bytes without `/` and NUL, not `.` or `..`")]
    Name {
        /// The name (lossy).
        got: String,
    },
    /// Names not ascending, or one twice.
    #[error("entry {name:?} does not follow its predecessor in byte order")]
    Order {
        /// The offending name.
        name: Name,
    },
    /// Mode has bits beyond 0o7777.
    #[error("mode of {name:?} is {got:#o}, at most 0o7777 is allowed")]
    Mode {
        /// Name of the entry.
        name: Name,
        /// Mode seen.
        got: u16,
    },
    /// Unknown kind.
    #[error("kind of {name:?} is {got}, wanted 1 to 7")]
    Kind {
        /// Name of the entry.
        name: Name,
        /// Kind seen.
        got: u8,
    },
    /// Link target empty or too long.
    #[error("link target of {name:?} has {got} bytes, wanted 1 to {MAX_TARGET}")]
    Target {
        /// Name of the entry.
        name: Name,
        /// Length seen.
        got: usize,
    },
    /// A hard link's path is absolute or leaves the root.
    #[error(
        "hard link {name:?} points to `{got}`, wanted a relative path inside the context without `.` and `..`"
    )]
    HardLinkPath {
        /// Name of the entry.
        name: Name,
        /// The path (lossy).
        got: String,
    },
    /// Extended attributes too many, too long, or not ascending.
    #[error("extended attributes of {name:?} are too many, too long or not ascending")]
    Xattrs {
        /// Name of the entry.
        name: Name,
    },
}

impl Directory {
    /// A directory of these entries in any order; the same name twice is an error.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidDirectory> {
        if entries.len() > MAX_ENTRIES {
            return Err(InvalidDirectory::TooManyEntries { got: entries.len() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(InvalidDirectory::Order { name: pair[1].name.clone() });
        }
        entries.iter().try_for_each(check_entry)?;
        Ok(Self { entries })
    }

    /// The entries, ascending by name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The directory blob.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.entries.len()).expect("at most MAX_ENTRIES");
        let mut out = FrameWriter::new(DIRECTORY_LABEL).fixed(&count.to_be_bytes());
        for entry in &self.entries {
            let xattrs = u16::try_from(entry.xattrs.len()).expect("at most MAX_XATTRS");
            out = out
                .fixed(&[kind_code(&entry.kind)])
                .framed(entry.name.as_bytes())
                .fixed(&entry.mode.to_be_bytes())
                .fixed(&entry.mtime_ns.to_be_bytes())
                .fixed(&xattrs.to_be_bytes());
            for (key, value) in &entry.xattrs {
                out = out.framed(key).framed(value);
            }
            out = match &entry.kind {
                Kind::File { size, digest } => out.fixed(&size.to_be_bytes()).fixed(digest.as_bytes()),
                Kind::Directory { digest } => out.fixed(digest.as_bytes()),
                Kind::Symlink { target } => out.framed(target),
                Kind::HardLink { first, size, digest } => {
                    out.framed(first).fixed(&size.to_be_bytes()).fixed(digest.as_bytes())
                }
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    out.fixed(&major.to_be_bytes()).fixed(&minor.to_be_bytes())
                }
                Kind::Fifo => out,
            };
        }
        out.finish()
    }

    /// SHA-256 of the directory blob.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.encode())
    }

    /// Parses a directory blob.
    pub fn parse(blob: &[u8]) -> Result<Self, InvalidDirectory> {
        if blob.len() > MAX_DIRECTORY {
            return Err(InvalidDirectory::TooLarge { got: blob.len() });
        }
        let mut reader = FrameReader::new(blob, DIRECTORY_LABEL)?;
        let count = u32::from_be_bytes(reader.array()?) as usize;
        if count > MAX_ENTRIES {
            return Err(InvalidDirectory::TooManyEntries { got: count });
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count.min(blob.len() / 18));
        for _ in 0..count {
            let entry = parse_entry(&mut reader)?;
            if entries.last().is_some_and(|last| last.name >= entry.name) {
                return Err(InvalidDirectory::Order { name: entry.name });
            }
            check_entry(&entry)?;
            entries.push(entry);
        }
        reader.finish()?;
        Ok(Self { entries })
    }

    /// Digests of everything this directory refers to: (directories, files with their sizes).
    #[must_use]
    pub fn references(&self) -> (HashSet<Sha256Digest>, BTreeMap<Sha256Digest, u64>) {
        let mut directories = HashSet::new();
        let mut files = BTreeMap::new();
        for entry in &self.entries {
            match &entry.kind {
                Kind::Directory { digest } => {
                    directories.insert(*digest);
                }
                Kind::File { size, digest } | Kind::HardLink { size, digest, .. } => {
                    files.insert(*digest, *size);
                }
                Kind::Symlink { .. } | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {}
            }
        }
        (directories, files)
    }
}

const fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory { .. } => 2,
        Kind::Symlink { .. } => 3,
        Kind::HardLink { .. } => 4,
        Kind::CharDevice { .. } => 5,
        Kind::BlockDevice { .. } => 6,
        Kind::Fifo => 7,
    }
}

fn parse_entry(reader: &mut FrameReader<'_>) -> Result<Entry, InvalidDirectory> {
    let code = reader.byte()?;
    let name = Name::new(reader.framed()?)?;
    let mode = u16::from_be_bytes(reader.array()?);
    let mtime_ns = i64::from_be_bytes(reader.array()?);
    let count = u16::from_be_bytes(reader.array()?) as usize;
    if count > MAX_XATTRS {
        return Err(InvalidDirectory::Xattrs { name });
    }
    let mut xattrs = BTreeMap::new();
    for _ in 0..count {
        let key = reader.framed()?.to_vec();
        let ascending = xattrs.last_key_value().is_none_or(|(last, _)| *last < key);
        if !ascending {
            return Err(InvalidDirectory::Xattrs { name });
        }
        xattrs.insert(key, reader.framed()?.to_vec());
    }
    let size_and_digest = |reader: &mut FrameReader<'_>| -> Result<(u64, Sha256Digest), FrameError> {
        Ok((u64::from_be_bytes(reader.array()?), Sha256Digest::from_bytes(reader.array()?)))
    };
    let kind = match code {
        1 => {
            let (size, digest) = size_and_digest(reader)?;
            Kind::File { size, digest }
        }
        2 => Kind::Directory { digest: Sha256Digest::from_bytes(reader.array()?) },
        3 => Kind::Symlink { target: reader.framed()?.to_vec() },
        4 => {
            let first = reader.framed()?.to_vec();
            let (size, digest) = size_and_digest(reader)?;
            Kind::HardLink { first, size, digest }
        }
        5 | 6 => {
            let major = u32::from_be_bytes(reader.array()?);
            let minor = u32::from_be_bytes(reader.array()?);
            if code == 5 { Kind::CharDevice { major, minor } } else { Kind::BlockDevice { major, minor } }
        }
        7 => Kind::Fifo,
        got => return Err(InvalidDirectory::Kind { name, got }),
    };
    Ok(Entry { name, mode, mtime_ns, xattrs, kind })
}

fn check_entry(entry: &Entry) -> Result<(), InvalidDirectory> {
    let name = || entry.name.clone();
    if entry.mode > 0o7777 {
        return Err(InvalidDirectory::Mode { name: name(), got: entry.mode });
    }
    let xattrs_fit = entry.xattrs.len() <= MAX_XATTRS
        && entry
            .xattrs
            .iter()
            .all(|(k, v)| !k.is_empty() && k.len() <= MAX_NAME && v.len() <= MAX_XATTR_VALUE);
    if !xattrs_fit {
        return Err(InvalidDirectory::Xattrs { name: name() });
    }
    let target = match &entry.kind {
        Kind::Symlink { target } => target,
        Kind::HardLink { first, .. } => first,
        _ => return Ok(()),
    };
    if target.is_empty() || target.len() > MAX_TARGET {
        return Err(InvalidDirectory::Target { name: name(), got: target.len() });
    }
    if let Kind::HardLink { first, .. } = &entry.kind
        && first.split(|b| *b == b'/').any(|part| Name::new(part).is_err())
    {
        return Err(InvalidDirectory::HardLinkPath {
            name: name(),
            got: String::from_utf8_lossy(first).into_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], kind: Kind) -> Entry {
        let xattrs = BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])]);
        Entry { name: Name::new(name).expect("a name"), mode: 0o644, mtime_ns: -5, xattrs, kind }
    }

    fn sample() -> Directory {
        let digest = Sha256Digest::of(b"x");
        Directory::new(vec![
            entry(b"z", Kind::Fifo),
            entry(b"file", Kind::File { size: 1, digest }),
            entry(b"dir", Kind::Directory { digest }),
            entry(b"link", Kind::Symlink { target: b"../../etc/passwd".to_vec() }),
            entry(b"hard", Kind::HardLink { first: b"a/file".to_vec(), size: 1, digest }),
            entry(&[0xff, b'x'], Kind::CharDevice { major: 1, minor: 3 }),
            entry(b"block", Kind::BlockDevice { major: 8, minor: 0 }),
        ])
        .expect("valid")
    }

    #[test]
    fn directories_round_trip_and_every_cut_is_refused() {
        let blob = sample().encode();
        assert_eq!(Directory::parse(&blob), Ok(sample()));
        for cut in 0..blob.len() {
            assert!(Directory::parse(&blob[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Directory::parse(&[&blob[..], &[0]].concat()).is_err());
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'a'; 256]] {
            assert!(matches!(Name::new(bad), Err(InvalidDirectory::Name { .. })));
        }
        for bad in [&b"/etc/passwd"[..], b"../x", b"a//b", b"a/./b"] {
            let hard = Kind::HardLink { first: bad.to_vec(), size: 0, digest: Sha256Digest::of(b"") };
            assert!(matches!(
                Directory::new(vec![entry(b"h", hard)]),
                Err(InvalidDirectory::HardLinkPath { .. })
            ));
        }
    }

    /// Each limit of an entry, at it and beyond it, as made and as parsed.
    #[test]
    fn entries_have_limits() {
        let plain = |mode, xattrs, kind| Entry {
            name: Name::new(b"x").expect("a name"),
            mode,
            mtime_ns: 0,
            xattrs,
            kind,
        };
        let with = |xattrs| plain(0, xattrs, Kind::Fifo);
        let xattr = |key: usize, value: usize| with(BTreeMap::from([(vec![b'k'; key], vec![0; value])]));
        let many = |count: u8| with((0..count).map(|n| (vec![n + 1], Vec::new())).collect());
        let link = |length| plain(0, BTreeMap::new(), Kind::Symlink { target: vec![b'a'; length] });
        let digest = Sha256Digest::of(b"");
        let hard = |length| {
            let first = b"a/".repeat(length / 2 + 1)[..length].to_vec();
            plain(0, BTreeMap::new(), Kind::HardLink { first, size: 0, digest })
        };
        let name = || Name::new(b"x").expect("a name");
        let target = |got| Err(InvalidDirectory::Target { name: name(), got });
        let xattrs = || Err(InvalidDirectory::Xattrs { name: name() });
        let mode = Err(InvalidDirectory::Mode { name: name(), got: 0o10000 });
        for (entry, wanted) in [
            (plain(0o7777, BTreeMap::new(), Kind::Fifo), Ok(())),
            (plain(0o10000, BTreeMap::new(), Kind::Fifo), mode),
            (xattr(MAX_NAME, MAX_XATTR_VALUE), Ok(())),
            (xattr(MAX_NAME + 1, 0), xattrs()),
            (xattr(1, MAX_XATTR_VALUE + 1), xattrs()),
            (xattr(0, 0), xattrs()),
            (many(64), Ok(())),
            (many(65), xattrs()),
            (link(MAX_TARGET), Ok(())),
            (link(MAX_TARGET + 1), target(MAX_TARGET + 1)),
            (link(0), target(0)),
            (hard(MAX_TARGET - 1), Ok(())),
            (hard(MAX_TARGET + 1), target(MAX_TARGET + 1)),
            (hard(0), target(0)),
        ] {
            assert_eq!(Directory::new(vec![entry.clone()]).map(|_| ()), wanted);
            let parsed = Directory::parse(&Directory { entries: vec![entry] }.encode());
            assert_eq!(parsed.map(|_| ()), wanted);
        }
    }

    #[test]
    fn directories_have_limits() {
        let got = MAX_DIRECTORY + 1;
        let mut blob = vec![0; got];
        assert_eq!(Directory::parse(&blob), Err(InvalidDirectory::TooLarge { got }));
        blob.pop();
        assert!(matches!(Directory::parse(&blob), Err(InvalidDirectory::Frame(_))));
        let counted = |count: u32| {
            Directory::parse(&FrameWriter::new(DIRECTORY_LABEL).fixed(&count.to_be_bytes()).finish())
        };
        assert!(matches!(counted(1_000_000), Err(InvalidDirectory::Frame(_))), "there are none");
        assert_eq!(counted(1_000_001), Err(InvalidDirectory::TooManyEntries { got: 1_000_001 }));
        assert_eq!(counted(0), Ok(Directory { entries: vec![] }));
    }

    #[test]
    fn the_same_name_or_attribute_twice_is_refused() {
        let one = Directory::new(vec![entry(b"a", Kind::Fifo)]).expect("valid").encode();
        let at = one.windows(6).position(|window| window == b"user.b").expect("there") + 5;
        let mut twice = one;
        twice[at] = b'a';
        assert!(matches!(Directory::parse(&twice), Err(InvalidDirectory::Xattrs { .. })));
        let same = Directory { entries: vec![entry(b"a", Kind::Fifo), entry(b"a", Kind::Fifo)] };
        assert!(matches!(Directory::parse(&same.encode()), Err(InvalidDirectory::Order { .. })));
        assert!(matches!(Directory::new(same.entries), Err(InvalidDirectory::Order { .. })));
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let one =
            Directory::new(vec![entry(b"a", Kind::Fifo), entry(b"b", Kind::Fifo)]).expect("valid").encode();
        let mut swapped = one.clone();
        let a = one.windows(5).position(|w| w == [0, 0, 0, 1, b'a']).expect("there") + 4;
        let b = one.windows(5).position(|w| w == [0, 0, 0, 1, b'b']).expect("there") + 4;
        swapped.swap(a, b);
        assert!(matches!(Directory::parse(&swapped), Err(InvalidDirectory::Order { .. })));
    }
}
