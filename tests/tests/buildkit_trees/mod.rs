//! Trees, ignore files and COPY instructions that are easily got wrong.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

/// Writes a file with its directories.
pub fn write(root: &Path, path: impl AsRef<[u8]>, contents: &str) {
    let path = root.join(OsStr::from_bytes(path.as_ref()));
    fs::create_dir_all(path.parent().expect("below the root")).expect("created");
    fs::write(path, contents).expect("written");
}

/// Names that patterns are made of, three directories deep, and names that look like patterns.
pub fn plain_tree(root: &Path) {
    for first in ["a", "b", "ab", "a.b", "keep", "."] {
        for second in ["a", "b", "c.txt", "a-b", ".hidden"] {
            write(root, format!("{first}/{second}/keep"), "1");
            write(root, format!("{first}/{second}/b/a"), "2");
        }
        write(root, format!("{first}/file"), "3");
        write(root, format!("{first}/x.txt"), "4");
    }
    for odd in [
        "[x]", "x*", "!bang", "#hash", "\\back", " lead", "trail ", "a b", "^a", "a$", "(a)", "a|b", "{a}",
        "d1",
    ] {
        write(root, format!("odd/{odd}"), odd);
        write(root, odd, odd);
    }
    for name in ["ü", "odd/é", "\u{2028}", "\u{feff}bom", "\u{fffd}"] {
        write(root, name, "unicode");
    }
    write(root, b"\xff", "no text");
    write(root, b"odd/\xfe\xff", "no text");
}

/// Ignore files that parse, each with something that is easily got wrong.
pub const IGNORE_FILES: &[&[u8]] = &[
    b"",
    b"*\n!a\n",
    b"**/*.txt\n!b/**/keep\n!a/x.txt\n",
    b"a/\nb/b/\n",
    b"a\n!a/b\n",
    b"a/*\n!a/b\na/b/b\n!a/b/b/a\n",
    b"a\n!a\n",
    b"!a\na\n",
    b"**\n!**/keep\n",
    b"**\n!a/**/keep\n!b/a\n",
    b"*/*\n",
    b"*/*/keep\n",
    b"*/b\n!ab/b\n",
    b"?/b\n",
    b"[ab]\n",
    b"[^a]\n",
    b"[!a]\n",
    b"[a-c]*\n!ab\n",
    b"a[.]b\n",
    b"\\[x\\]\nx\\*\n\\!bang\n\\#hash\n",
    b"#hash\n",
    b" #hash\n",
    b"!bang\n",
    b"\\\\back\n",
    b"a\\ b\n",
    b"a b\n",
    b" a\n",
    b"a \nb\t\n",
    b"*\n!  a/b\n",
    b"*\n! a\n",
    b"!!a\n",
    b"\xef\xbb\xbfa\nb\n",
    b"\xef\xbb\xbf# comment\na\n",
    b"a\r\nb\r\n!a/b\r\n",
    b"# only\n\n   \n#a\n",
    b"a",
    b"/a\n/b/b\n",
    b"//a\n",
    b"./a\n./b/../ab\n",
    b"a/../b\n",
    b"../a\n",
    b"..\n",
    b".\n",
    b"./\n",
    b"/\n",
    b"*\n!.\n",
    b".\n!a\n",
    b"a//b\n",
    b"**/b/**\n",
    b"**/b\n",
    b"**b\n",
    b"a**\n",
    b"a/**\n",
    b"a/**/a\n",
    b"a/**b\n",
    b"**/**\n!a\n",
    b"**/.*\n",
    b".*\n",
    b"*.*\n",
    b"a.b\n",
    b"^a\n",
    b"a$\n",
    b"(a)\na|b\n{a}\n",
    b"a+\n",
    b"\\d1\n",
    b"\\w\n",
    b"*\n!*/b\n",
    b"*\n!*/*/keep\n",
    b"*\n!a/b/b/a\n",
    b"a\n!a/b/*\n",
    b"a/b\n!a/*\n",
    b"a*\n!a*/b\n",
    b"*\n!**\nb\n",
    b"\xc3\xbc\n",
    b"?\n",
    b"odd/?\n",
    b"\xff\n",
    b"odd/\xfe\xff\n",
    b"[\xc3\xbc]\n",
    b"\xef\xbf\xbd\n",
    b"\xe2\x80\xa8\n",
    b"\xef\xbb\xbf\xef\xbb\xbfbom\n",
    b".dockerignore\n",
    b"*\n",
    b"**\n",
    b"\x0ba\x0c\n",
    b"\xc2\xa0a\xc2\xa0\n",
    b"keep\n!keep/file\nkeep/file\n!keep/f*\n",
];

/// Ignore files that are refused.
pub const REFUSED: &[&[u8]] = &[
    b"[\n",
    b"[]\n",
    b"[a-\n",
    b"[-a]\n",
    b"[a\n",
    b"a\\\n",
    b"!\n",
    b"a\n! \n",
    b"a/[]b\n",
    b"[b-a]\n",
    b"[^]\n",
    b"a\x00b\n",
    b"[a-]\n",
    b"[]a]\n",
    b"a\rb\n",
];

/// What is no plain file, and names and modes that are easily lost.
pub fn odd_tree(root: &Path) {
    for name in [
        &b"\xff\xfe"[..],
        b"new\nline",
        b"tab\t",
        b"quote\"'",
        b" ",
        "ü/é".as_bytes(),
        b"%41",
        b"a+b",
        b"...",
    ] {
        write(root, name, "odd");
    }
    for path in ["a/b", "a-b", "a.b/c", "ab/c", "d/d/d/d/d/d/d/d/end"] {
        write(root, path, path);
    }
    for (name, mode) in [("setuid", 0o4755), ("none", 0o000), ("sticky", 0o1644), ("all", 0o777)] {
        write(root, name, name);
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("mode");
    }
    fs::create_dir(root.join("empty")).expect("created");
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o2770)).expect("mode");
    fs::hard_link(root.join("a/b"), root.join("a/c")).expect("linked");
    fs::hard_link(root.join("a/b"), root.join("0-first")).expect("linked");
    for (link, target) in [
        ("out", "/etc/shadow"),
        ("up", "../../../../etc"),
        ("dangling", "nowhere"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("self", "self"),
        ("dot", "."),
        ("inside", "a/b"),
        ("rooted", "/a/b"),
        ("directory", "a"),
        ("a/up", "../ab"),
        ("chain", "directory/up/c"),
        ("slash", "a/"),
    ] {
        symlink(target, root.join(link)).expect("linked");
    }
    symlink(OsStr::from_bytes(b"\xfe"), root.join("no-text")).expect("linked");
    let path = root.join("all");
    rustix::fs::lsetxattr(path, "user.note", b"\x00\xff", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
    for node in [&["fifo", "p"][..], &["null", "c", "1", "3"], &["block", "b", "7", "0"]] {
        let made = Command::new("mknod").args(node).current_dir(root).status().expect("mknod is installed");
        assert!(made.success(), "mknod {node:?}");
    }
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket"));
    drop(std::os::unix::net::UnixListener::bind(root.join("a/socket")).expect("a socket"));
}

/// Dockerfiles on the odd tree: what COPY may name, and whether it works.
pub const COPIES: &[(&str, bool)] = &[
    ("COPY . /", true),
    ("COPY . /\nCOPY a /a2", true),
    ("COPY fifo null /nodes/", true),
    ("COPY inside /x/", true),
    ("COPY rooted /x/", true),
    ("COPY directory/b /x/", true),
    ("COPY directory /x/", true),
    ("COPY directory/ /x/", true),
    ("COPY slash /x/", true),
    ("COPY chain /x/", true),
    ("COPY directory/up/c /x/", true),
    ("COPY dot/a/b /x/", true),
    ("COPY dot/dot/inside /x/", false),
    ("COPY d*/b /x/", true),
    ("COPY in* rooted* /x/", true),
    ("COPY */c /x/", true),
    ("COPY **/c /x/", true),
    ("COPY a/[bc] /x/", true),
    ("COPY 0-first a/c /x/", true),
    ("COPY ../a/b /x/", true),
    ("COPY /a/./../a/b /x/", true),
    ("COPY [\"ü/é\", \"new\\nline\", \"%41\", \"a+b\", \"/x/\"]", true),
    ("COPY [\" \", \"/x/\"]", false),
    ("COPY setuid none sticky all /x/", true),
    ("COPY --chmod=640 --chown=7:8 setuid /x/", true),
    ("COPY --parents d/d/d/d/d/d/d/d/end a/./c /x/", true),
    ("COPY --link --exclude=*b a /x/", true),
    ("COPY out /x/", false),
    ("COPY up/passwd /x/", false),
    ("COPY dangling /x/", false),
    ("COPY loop-a /x/", false),
    ("COPY self/x /x/", false),
    ("COPY socket a/socket /x/", true),
    ("COPY nothing* /x/", true),
    ("COPY ../../../../etc/passwd /x/", false),
];
