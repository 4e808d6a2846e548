//! The tar file of a layout, read so strictly that every other program reads the same files under the same names.
//!
//! Names of a layout fit into the header of ustar and of GNU tar alike, so nothing that names or delimits an entry in a
//! second way is needed: such ways are where readers of tar files differ, and one of them would unpack another image.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::ImageError;
use crate::regular_file;

/// Bytes of a header; contents are padded to a multiple.
const BLOCK: usize = 512;
/// Most headers of a layout's tar file.
const MAX_HEADERS: usize = 100_000;
/// Most bytes of the PAX records of one entry.
const MAX_RECORDS: u64 = 1 << 20;
/// Most bytes of all PAX records together.
const MAX_ALL_RECORDS: u64 = 64 << 20;
/// Most bytes after the last entry. Programs pad with zeros to their record, 10 KiB by default.
const MAX_END: u64 = 1 << 20;

/// Why a tar file is not taken for a layout. Other programs could read another image from it, or none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Compressed with gzip, xz or zstd.
    #[error("it is compressed; unpack it first")]
    Compressed,
    /// It ends within a header or a file.
    #[error("it is no whole tar file: it ends within the entry at byte {at}")]
    Cut {
        /// Offset of the header.
        at: u64,
    },
    /// Another form of tar, or none.
    #[error("the header at byte {at} is neither of the ustar nor of the GNU form")]
    Form {
        /// Offset of the header.
        at: u64,
    },
    /// Not the sum of the header, or not written in octal digits.
    #[error("the header at byte {at} has another checksum than it says")]
    Checksum {
        /// Offset of the header.
        at: u64,
    },
    /// Neither octal digits nor a binary number that all readers know.
    #[error("the header at byte {at} has no plain number as size")]
    Size {
        /// Offset of the header.
        at: u64,
    },
    /// What stands where ustar has the first part of a long name.
    #[error(
        "the header at byte {at} has a name in two parts, or times of its own; a layout's names have at most 100 bytes"
    )]
    Prefix {
        /// Offset of the header.
        at: u64,
    },
    /// Absolute, with `..`, a control character, or the like.
    #[error("the name `{name}` of an entry is not a plain relative one")]
    Name {
        /// The name.
        name: String,
    },
    /// A link, device, sparse file, long name of GNU tar, …
    #[error("its entry `{name}` has type `{kind}`, and a layout has files (`0`) and directories (`5`)")]
    Kind {
        /// Name of the entry.
        name: String,
        /// Type of its header.
        kind: char,
    },
    /// A directory with contents, which some readers skip and others read as entries.
    #[error("its directory `{name}` has {size} bytes, and a directory has none")]
    DirectorySize {
        /// Name of the entry.
        name: String,
        /// Bytes that its header says.
        size: u64,
    },
    /// PAX records that do not parse.
    #[error("the PAX records at byte {at} are malformed")]
    Records {
        /// Offset of the header.
        at: u64,
    },
    /// Too many bytes of PAX records.
    #[error(
        "the PAX records at byte {at} have {size} bytes; read are at most {MAX_RECORDS}, and {MAX_ALL_RECORDS} of all"
    )]
    LongRecords {
        /// Offset of the header.
        at: u64,
        /// Bytes that the header says.
        size: u64,
    },
    /// A record such as `path`, `size` or `GNU.sparse.name`, or one that is not known to leave these alone.
    #[error(
        "it has the PAX record `{key}`, and only times, owners, comments and extended attributes are accepted"
    )]
    Record {
        /// Key of the record.
        key: String,
    },
    /// Of two records some readers take the first and some the last.
    #[error("it has the PAX record `{key}` twice for one entry")]
    RecordTwice {
        /// Key of the record.
        key: String,
    },
    /// Two files of one name.
    #[error("it holds `{name}` twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// Too many entries.
    #[error("it has more than {MAX_HEADERS} headers")]
    TooMany,
    /// Something after the end, which some readers read as further entries.
    #[error("after its end, at byte {at}, stands something else than zeros")]
    AfterEnd {
        /// Offset of the block.
        at: u64,
    },
    /// More zeros than any program pads with.
    #[error("after its end, at byte {at}, stand {length} bytes; at most {MAX_END} are read")]
    LongEnd {
        /// Offset of the end.
        at: u64,
        /// Bytes up to the end of the file.
        length: u64,
    },
}

/// A tar file and where its files are.
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Offset and size of each file.
    pub(super) entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let read = |source| ImageError::Read { path: path.to_owned(), source };
        let file = regular_file::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut scan = Scan { path, file: &file, length, at: 0, records_left: MAX_ALL_RECORDS };
        let entries = scan.entries()?;
        Ok(Self { path: path.to_owned(), file, entries })
    }
}

struct Scan<'a> {
    path: &'a Path,
    file: &'a File,
    /// Bytes of the file.
    length: u64,
    /// Offset of the next header.
    at: u64,
    /// Bytes of PAX records that may still be read.
    records_left: u64,
}

impl Scan<'_> {
    fn wrong(&self, source: ArchiveError) -> ImageError {
        ImageError::Archive { path: self.path.to_owned(), source }
    }

    fn entries(&mut self) -> Result<HashMap<String, (u64, u64)>, ImageError> {
        let mut start = [0; 6];
        let length = usize::try_from(self.length).unwrap_or(start.len()).min(start.len());
        self.read(0, &mut start[..length])?;
        if [&b"\x1f\x8b"[..], b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"].iter().any(|magic| start.starts_with(magic)) {
            return Err(self.wrong(ArchiveError::Compressed));
        }
        let mut entries = HashMap::new();
        for _ in 0..MAX_HEADERS {
            let at = self.at;
            let Some(block) = self.block()? else {
                self.end()?;
                return Ok(entries);
            };
            let header = Header::parse(&block, at).map_err(|error| self.wrong(error))?;
            let contents = at + BLOCK as u64;
            let padded = header.size.checked_next_multiple_of(BLOCK as u64);
            self.at = padded
                .and_then(|padded| contents.checked_add(padded))
                .filter(|next| *next <= self.length)
                .ok_or_else(|| self.wrong(ArchiveError::Cut { at }))?;
            if header.is_records() {
                self.records(at, contents, header.size)?;
            } else if let Some(name) = header.file().map_err(|error| self.wrong(error))?
                && entries.insert(name.to_owned(), (contents, header.size)).is_some()
            {
                return Err(self.wrong(ArchiveError::Twice { name: name.to_owned() }));
            }
        }
        Err(self.wrong(ArchiveError::TooMany))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.file.read_exact_at(bytes, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong(ArchiveError::Cut { at }),
            _ => ImageError::Read { path: self.path.to_owned(), source },
        })
    }

    /// The next header; `None` at the end: of the file, or a block of zeros.
    fn block(&self) -> Result<Option<[u8; BLOCK]>, ImageError> {
        if self.at == self.length {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read(self.at, &mut block)?;
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    /// PAX records (POSIX.1-2017, pax, "pax Extended Header"). None of them may name or delimit an entry.
    fn records(&mut self, at: u64, contents: u64, size: u64) -> Result<(), ImageError> {
        let long = || self.wrong(ArchiveError::LongRecords { at, size });
        let left = self.records_left.checked_sub(size).ok_or_else(long)?;
        let length = usize::try_from(size).ok().filter(|_| size <= MAX_RECORDS).ok_or_else(long)?;
        self.records_left = left;
        let mut bytes = vec![0; length];
        self.read(contents, &mut bytes)?;
        let mut rest = bytes.as_slice();
        let mut seen = HashSet::new();
        while !rest.is_empty() {
            let (key, after) = record(rest).ok_or_else(|| self.wrong(ArchiveError::Records { at }))?;
            if !is_harmless(key) {
                return Err(self.wrong(ArchiveError::Record { key: key.to_owned() }));
            }
            if !seen.insert(key) {
                return Err(self.wrong(ArchiveError::RecordTwice { key: key.to_owned() }));
            }
            rest = after;
        }
        Ok(())
    }

    /// Zeros up to the end of the file: where one block of them is no end to a reader, it goes on.
    fn end(&self) -> Result<(), ImageError> {
        let length = self.length - self.at;
        if length > MAX_END {
            return Err(self.wrong(ArchiveError::LongEnd { at: self.at, length }));
        }
        let mut bytes = vec![0; usize::try_from(length).expect("a limit below it was checked")];
        self.read(self.at, &mut bytes)?;
        match bytes.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(offset) => Err(self.wrong(ArchiveError::AfterEnd { at: self.at + offset as u64 })),
        }
    }
}

/// What a header says, as far as all readers take it in the same way.
struct Header<'a> {
    name: &'a str,
    kind: u8,
    size: u64,
}

impl<'a> Header<'a> {
    /// Parses a header (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").
    fn parse(block: &'a [u8; BLOCK], at: u64) -> Result<Self, ArchiveError> {
        if !matches!(&block[257..265], b"ustar\x0000" | b"ustar  \0") {
            return Err(ArchiveError::Form { at });
        }
        let sum = block.iter().enumerate().map(|(place, byte)| match place {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        });
        if octal(&block[148..156]) != Some(sum.sum()) {
            return Err(ArchiveError::Checksum { at });
        }
        let size = octal(&block[124..136]).or_else(|| binary(&block[124..136]));
        let size = size.ok_or(ArchiveError::Size { at })?;
        if block[345..500].iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Prefix { at });
        }
        let name = block[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name)
            .map_err(|_| ArchiveError::Name { name: String::from_utf8_lossy(name).into_owned() })?;
        Ok(Self { name, kind: block[156], size })
    }

    /// Whether PAX records follow, of the next entry or of all further ones.
    fn is_records(&self) -> bool {
        matches!(self.kind, b'x' | b'g')
    }

    /// The plain name of a file; `None` for a directory, whose name is checked too.
    fn file(&self) -> Result<Option<&'a str>, ArchiveError> {
        let name = || self.name.to_owned();
        let directory = match self.kind {
            b'0' | 0 => false,
            b'5' => true,
            kind => return Err(ArchiveError::Kind { name: name(), kind: char::from(kind) }),
        };
        if directory && self.size != 0 {
            return Err(ArchiveError::DirectorySize { name: name(), size: self.size });
        }
        let plain = plain_name(self.name, directory).ok_or_else(|| ArchiveError::Name { name: name() })?;
        Ok((!directory).then_some(plain))
    }
}

/// Octal digits, and after them nothing but spaces and zero bytes. Readers differ about signs and much else.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// A size of 8 GiB and more, as GNU tar and others write it: 0x80, then big-endian. At most 63 bits.
fn binary(field: &[u8]) -> Option<u64> {
    let (high, low) = field.split_at_checked(4)?;
    let size = i64::from_be_bytes(low.try_into().ok()?);
    u64::try_from(size).ok().filter(|_| *high == [0x80, 0, 0, 0])
}

/// Key of the first record, and what is after it: `<length of all this> <key>=<value>\n`.
fn record(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let digits = &bytes[..space];
    if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&body[..equals]).ok().filter(|key| !key.is_empty())?;
    Some((key, rest))
}

/// Whether a record leaves name, kind and contents of an entry as they are, in whatever program reads it.
fn is_harmless(key: &str) -> bool {
    let exact = ["mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"];
    let others = ["SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.fflags", "RHT.security.selinux"];
    let prefixes = ["SCHILY.xattr.", "SCHILY.acl.", "LIBARCHIVE.xattr.", "LIBARCHIVE.creationtime"];
    exact.contains(&key) || others.contains(&key) || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// The name of an entry without `./` in front; `None` for one that another program could read as another, or as one of
/// another kind: readers take a file whose name ends in a slash for a directory.
fn plain_name(name: &str, directory: bool) -> Option<&str> {
    let mut plain = name;
    while let Some(rest) = plain.strip_prefix("./") {
        plain = rest;
    }
    if directory {
        plain = plain.strip_suffix('/').unwrap_or(plain);
        if matches!(plain, "" | ".") {
            return Some(plain);
        }
    }
    let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    plain.split('/').all(fits).then_some(plain)
}
