//! Contexts that cannot lie in a repository: thousands of files, and names that git or an editor would spoil.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Fills `directory` with the tree of that name.
///
/// # Panics
/// For an unknown name, or when a file cannot be made.
pub fn generate(name: &str, directory: &Path) {
    match name {
        "many-files" => many_files(directory),
        "odd-names" => odd_names(directory),
        _ => panic!("no tree is called {name}"),
    }
}

fn write(directory: &Path, path: impl AsRef<OsStr>, content: &[u8]) {
    let path = directory.join(Path::new(path.as_ref()));
    fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
    fs::write(path, content).expect("file");
}

/// 10,000 small files in 50 directories, and a few for each hard pattern of the case's ignore file.
fn many_files(root: &Path) {
    for directory in 0..50 {
        for file in 0..200 {
            write(
                root,
                format!("src/dir{directory:02}/file{file:04}.txt"),
                format!("{directory}/{file}\n").as_bytes(),
            );
        }
    }
    for path in [
        "debug.log",
        "keep/important.log",
        "keep/other.log",
        "node_modules/x/index.js",
        "nested/node_modules/y.js",
        "tmp/a/tmp.txt",
        "tmp/a/other.txt",
        "tmp/a/b/tmp.txt",
        "a/b/c/deep.drop",
        "a/b/c/deep.keep",
        "a/top.drop",
        "secrets/.env",
        ".env",
        "secrets/.env.example",
        "qa/f",
        "q1",
        "qaa/f",
        "sp ace/file",
        "sp ace/file.bak",
        "[z]/f",
        "z/f",
        "src/dir01/file0107.skip",
        "src/dir01/extra/file",
        ".git/HEAD",
        "removed/file",
        "dotted/kept",
        "vendor/one/LICENCE",
        "vendor/one/code.c",
        "m/zx1.dat",
        "m/ax1.dat",
        "m/zx9.dat",
        "Dockerfile.unused",
        "!odd",
        "# a comment, then an empty line and trailing white space",
        "ünï/cödé.log",
        "ünï/cödé.txt",
    ] {
        write(root, path, path.as_bytes());
    }
}

/// Names of all bytes that a file system takes, every kind of file, and links that lead out.
fn odd_names(root: &Path) {
    for (number, name) in [
        b"byte-\xff\xfe".as_slice(),
        b"new\nline",
        b"tab\tand\\backslash",
        b" leading and trailing ",
        b"quote'\"`$(x)",
        "e\u{301}-decomposed".as_bytes(),
        "\u{e9}-composed".as_bytes(),
        b"-dash",
        b"~",
        b"%2e%2e",
        b"a:b",
        b"...",
        &[b'l'; 255],
    ]
    .into_iter()
    .enumerate()
    {
        write(root, OsStr::from_bytes(name), format!("{number}\n").as_bytes());
    }
    // Order of the walk: `a-b` sorts before `a/b` as text, after it by components.
    for path in ["a/b", "a-b", "a.b/c", "ab/c", "dir/one"] {
        write(root, path, path.as_bytes());
    }
    let deep = "d/".repeat(60) + "end";
    write(root, deep, b"deep\n");
    fs::hard_link(root.join("dir/one"), root.join("dir/hard-two")).expect("hard link");
    symlink("/etc/shadow", root.join("link-out")).expect("link");
    symlink("../../../../../etc", root.join("dir/link-up")).expect("link");
    symlink("nowhere", root.join("dangling")).expect("link");
    symlink("loop-b", root.join("loop-a")).expect("link");
    symlink("loop-a", root.join("loop-b")).expect("link");
    fs::create_dir(root.join("empty")).expect("directory");
    for (name, mode) in [("setuid", 0o4755), ("none", 0o000), ("sticky", 0o1644), ("all", 0o777)] {
        write(root, name, name.as_bytes());
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("mode");
    }
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o2770)).expect("mode");
    for node in [vec!["-m", "0640", "fifo", "p"], vec!["-m", "0666", "null", "c", "1", "3"]] {
        let made = Command::new("mknod").args(&node).current_dir(root).status().expect("mknod is installed");
        assert!(made.success(), "mknod {node:?}");
    }
    // BuildKit makes an empty file of it.
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).expect("socket"));
}
