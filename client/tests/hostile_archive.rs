//! Tar files of layouts from which GNU tar, Go, Python or busybox would unpack other files than we verify: refused, each
//! for what it does. What these programs write of a layout is read.

use std::fs;
use std::path::Path;
use std::process::Command;

use client::image::{ArchiveError, ImageError, open_local};
use provenance::digest::Sha256Digest;
use serde_json::json;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The files of a layout of one image without layers.
fn layout() -> Vec<(String, Vec<u8>)> {
    let config = b"{}".to_vec();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Sha256Digest::of(&config), "size": 2}});
    let manifest = manifest.to_string().into_bytes();
    let image = json!({"mediaType": MANIFEST, "digest": Sha256Digest::of(&manifest), "size": manifest.len()});
    let index = json!({"schemaVersion": 2, "manifests": [image]}).to_string().into_bytes();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Sha256Digest::of(bytes).hex());
    vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (blob(&config), config),
        (blob(&manifest), manifest),
        ("index.json".to_owned(), index),
    ]
}

const POSIX: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// A header whose fields may be overwritten before its checksum is set.
#[derive(Clone)]
struct Header([u8; 512]);

impl Header {
    fn new(name: &str, kind: u8, size: usize) -> Self {
        let mut header = Self([0; 512]).with(0, name.as_bytes()).with(257, POSIX);
        header.0[156] = kind;
        header.with(124, format!("{size:011o}").as_bytes())
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn sum(&self) -> u64 {
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        let field: u64 = self.0[148..156].iter().map(|byte| u64::from(*byte)).sum();
        sum - field + 8 * 32
    }

    /// The header, then contents with their padding.
    fn holding(self, contents: &[u8]) -> Vec<u8> {
        let sum = format!("{:06o}\0 ", self.sum());
        let mut bytes = self.with(148, sum.as_bytes()).0.to_vec();
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn file(name: &str, contents: &[u8]) -> Vec<u8> {
    Header::new(name, b'0', contents.len()).holding(contents)
}

fn record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    format!("{length}{body}")
}

fn records(kind: u8, records: &str) -> Vec<u8> {
    Header::new("PaxHeader", kind, records.len()).holding(records.as_bytes())
}

/// The layout's files, then `more`, then the end.
fn archive(more: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = layout().iter().flat_map(|(name, contents)| file(name, contents)).collect();
    bytes.extend_from_slice(more);
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn open(bytes: &[u8]) -> Result<Sha256Digest, ImageError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("layout.tar");
    fs::write(&path, bytes).expect("archive");
    open_local(&path, None).map(|image| image.image.digest)
}

fn refusal(bytes: &[u8]) -> ArchiveError {
    match open(bytes) {
        Err(ImageError::Archive { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// Offset at which what is added to the layout's files begins.
fn after_layout() -> u64 {
    (archive(b"").len() - 1024) as u64
}

#[test]
fn records_that_name_or_delimit_an_entry_are_refused() {
    for key in [
        "path",
        "linkpath",
        "size",
        "GNU.sparse.name",
        "GNU.sparse.major",
        "GNU.sparse.map",
        "hdrcharset",
        "SCHILY.realsize",
        "SUN.holesdata",
    ] {
        for kind in *b"xg" {
            let more = [records(kind, &record(key, "index.json")), file("x", b"")].concat();
            assert_eq!(refusal(&archive(&more)), ArchiveError::Record { key: key.to_owned() });
        }
    }
    let twice = record("mtime", "1.5") + &record("mtime", "2.5");
    let more = [records(b'x', &twice), file("x", b"")].concat();
    assert_eq!(refusal(&archive(&more)), ArchiveError::RecordTwice { key: "mtime".to_owned() });
}

#[test]
fn records_that_do_not_parse_are_refused() {
    let good = record("comment", "x");
    assert!(open(&archive(&records(b'g', &good))).is_ok());
    let at = after_layout();
    for bad in [
        "012 comment=x\n",
        "+13 comment=x\n",
        "13 comment=x",
        "14 comment=x\n",
        "12 comment=x\n",
        "2 \n",
        "4 =\n",
        "12 comment:x\n",
        " 13 comment=x\n",
        "13 comment=x\n\0",
        "comment",
    ] {
        assert_eq!(refusal(&archive(&records(b'x', bad))), ArchiveError::Records { at }, "{bad:?}");
    }
}

#[test]
fn long_records_are_not_read() {
    let at = after_layout();
    let size = (1 << 20) + 1;
    assert_eq!(
        refusal(&archive(&records(b'x', &"x".repeat(size)))),
        ArchiveError::LongRecords { at, size: size as u64 }
    );
    // Each short enough, all together not.
    let long = records(b'x', &record("comment", &"x".repeat(1_000_000)));
    assert!(open(&archive(&long)).is_ok());
    assert!(matches!(refusal(&archive(&long.repeat(68))), ArchiveError::LongRecords { .. }));
    // A hole of 1 TiB.
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hole.tar");
    fs::write(&path, Header::new("x", b'x', 0).with(124, b"\x80\0\0\0\0\0\x01\0\0\0\0\0").holding(b""))
        .and_then(|()| fs::File::options().write(true).open(&path)?.set_len((1 << 40) + 512))
        .expect("archive");
    let error = open_local(&path, None).err().expect("refused");
    let ImageError::Archive { source, .. } = error else { panic!("{error}") };
    assert_eq!(source, ArchiveError::LongRecords { at: 0, size: 1 << 40 });
}

#[test]
fn only_files_and_empty_directories_are_entries() {
    for kind in *b"LKS12346789XDMNVA" {
        let more = Header::new("index.json", kind, 0).with(257, GNU).holding(b"");
        let wanted = ArchiveError::Kind { name: "index.json".to_owned(), kind: char::from(kind) };
        assert_eq!(refusal(&archive(&more)), wanted);
    }
    // Whoever skips the contents sees no second index, whoever does not sees one.
    let hidden = file("index.json", b"{}");
    let more = Header::new("x/", b'5', hidden.len()).holding(&hidden);
    assert_eq!(
        refusal(&archive(&more)),
        ArchiveError::DirectorySize { name: "x/".to_owned(), size: hidden.len() as u64 }
    );
    assert!(open(&archive(&Header::new("./", b'5', 0).holding(b""))).is_ok());
}

#[test]
fn names_are_plain_and_stand_once() {
    for name in [
        "/x",
        ".//x",
        "x//y",
        "x/../y",
        "../x",
        "./../x",
        "x/.",
        "a\u{7}",
        "x/",
        "index.json/",
        "",
        ".",
        "./",
    ] {
        assert_eq!(refusal(&archive(&file(name, b""))), ArchiveError::Name { name: name.to_owned() });
    }
    let bytes = Header::new("x", b'0', 0).with(0, b"x\xff").holding(b"");
    assert_eq!(refusal(&archive(&bytes)), ArchiveError::Name { name: "x\u{fffd}".to_owned() });
    assert_eq!(
        refusal(&archive(&Header::new("/x", b'5', 0).holding(b""))),
        ArchiveError::Name { name: "/x".to_owned() }
    );
    for name in ["index.json", "./index.json", "././index.json"] {
        assert_eq!(
            refusal(&archive(&file(name, b"{}"))),
            ArchiveError::Twice { name: "index.json".to_owned() }
        );
    }
}

#[test]
fn headers_that_readers_take_differently_are_refused() {
    let at = after_layout();
    let header = Header::new("x", b'0', 8);
    let with = |field: usize, bytes: &[u8]| archive(&header.clone().with(field, bytes).holding(b"contents"));
    assert!(open(&with(257, GNU)).is_ok());
    for form in [[0; 8], *b"ustar\0  ", *b"ustar\x0001", *b"USTAR\x0000"] {
        assert_eq!(refusal(&with(257, &form)), ArchiveError::Form { at });
    }
    // GNU tar reads what begins with a sign as base 64, Python reads underscores.
    for size in [
        b"+0000000010\0",
        b"-0000000010\0",
        b"0000000_010\0",
        b"00000000\x00010",
        b" 0000000010\0",
        &[b' '; 12],
    ] {
        assert_eq!(refusal(&with(124, size)), ArchiveError::Size { at }, "{size:?}");
    }
    for size in [
        b"\x80\x01\0\0\0\0\0\0\0\0\0\x08",
        b"\x81\0\0\0\0\0\0\0\0\0\0\x08",
        b"\x80\0\0\0\xff\0\0\0\0\0\0\x08",
    ] {
        assert_eq!(refusal(&with(124, size)), ArchiveError::Size { at }, "{size:?}");
    }
    for size in
        [b"000000000010", b"0000000010 \0", b"10\0\0\0\0\0\0\0\0\0\0", b"\x80\0\0\0\0\0\0\0\0\0\0\x08"]
    {
        assert!(open(&with(124, size)).is_ok(), "{size:?}");
    }
    for place in [345, 499] {
        assert_eq!(refusal(&with(place, b"x")), ArchiveError::Prefix { at });
    }
    let sum = header.sum();
    for wrong in [format!("{:06o}\0 ", sum + 1), format!("+{sum:05o}\0 "), format!(" {sum:05o}\0 ")] {
        let bytes = header.clone().with(148, wrong.as_bytes()).0;
        assert_eq!(refusal(&archive(&bytes)), ArchiveError::Checksum { at }, "{wrong}");
    }
}

#[test]
fn nothing_stands_after_the_end() {
    let end = archive(b"");
    let at = after_layout();
    // Without an end, and with the padding of a large record.
    assert!(open(&end[..end.len() - 1024]).is_ok());
    assert!(open(&[&end[..], &vec![0; 1_000_000]].concat()).is_ok());
    // One block of zeros is no end to every reader.
    let more = [vec![0; 512], file("index.json", b"{}")].concat();
    assert_eq!(refusal(&archive(&more)), ArchiveError::AfterEnd { at: at + 512 });
    let length = (1 << 20) + 512;
    let long = [&end[..end.len() - 1024], &vec![0; length]].concat();
    assert_eq!(refusal(&long), ArchiveError::LongEnd { at, length: length as u64 });
}

#[test]
fn what_is_cut_or_compressed_is_no_archive() {
    let whole = archive(&file("x", b"contents"));
    let at = after_layout();
    let begin = usize::try_from(at).expect("short");
    for end in [begin + 1, begin + 511, begin + 512, begin + 520, begin + 1023] {
        assert_eq!(refusal(&whole[..end]), ArchiveError::Cut { at }, "{end}");
    }
    let endless =
        Header::new("x", b'0', 0).with(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").holding(b"");
    assert_eq!(refusal(&archive(&endless)), ArchiveError::Cut { at });
    for magic in [&b"\x1f\x8b"[..], b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"] {
        assert_eq!(refusal(&[magic, &[0; 1024]].concat()), ArchiveError::Compressed);
    }
}

#[test]
fn headers_are_read_up_to_a_limit() {
    let entry = Header::new("x/", b'5', 0).holding(b"");
    assert_eq!(refusal(&archive(&entry.repeat(100_000))), ArchiveError::TooMany);
}

#[test]
fn what_gnu_tar_writes_of_a_layout_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("layout");
    for (name, contents) in layout() {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        fs::write(path, contents).expect("file");
    }
    let wanted = open_local(&root, None).expect("a layout").image.digest;
    let path = directory.path().join("layout.tar");
    let tar = |flags: &[&str], names: &[&str]| {
        let mut command = Command::new("tar");
        command.args(flags).arg("-C").arg(&root).arg("-cf").arg(&path).args(names);
        assert!(command.status().expect("tar").success(), "{flags:?}");
        let opened = open_local(Path::new(&path), None);
        assert_eq!(opened.map(|image| image.image.digest).expect("a layout"), wanted, "{flags:?} {names:?}");
    };
    for form in ["--format=gnu", "--format=ustar", "--format=pax"] {
        for names in [&["."][..], &["blobs", "index.json", "oci-layout"]] {
            tar(&[form], names);
        }
    }
    tar(&["--format=pax", "--xattrs", "--acls", "--pax-option=comment=x"], &["."]);
}
