//! Generated code is committed; this test generates it again and compares.
//! `UPDATE_GENERATED=1 cargo test -p sealwright-proto --test generated` writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message as _;

/// Name of a descriptor set, its root files, and the folders they are searched in.
struct Unit {
    descriptor_set: &'static str,
    folder: &'static str,
}

const UNITS: &[Unit] = &[
    Unit { descriptor_set: "sealwright.v1.bin", folder: "proto" },
    Unit { descriptor_set: "buildkit.bin", folder: "buildkit" },
];

fn proto_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            proto_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
}

fn generate(out: &Path) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    for unit in UNITS {
        let folder = manifest.join(unit.folder);
        if !folder.is_dir() {
            continue;
        }
        let mut files = Vec::new();
        proto_files(&folder, &mut files);
        files.sort();
        let set = protox::compile(&files, [&folder]).expect("own .proto files compile");
        std::fs::write(out.join(unit.descriptor_set), set.encode_to_vec()).expect("written");
        tonic_prost_build::configure()
            .out_dir(out)
            .bytes(".")
            .btree_map(".")
            .emit_rerun_if_changed(false)
            .compile_fds(set)
            .expect("own .proto files generate");
    }
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .expect("folder is readable")
        .map(|entry| {
            let entry = entry.expect("entry is readable");
            let bytes = std::fs::read(entry.path()).expect("file is readable");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect()
}

#[test]
fn committed_code_is_what_the_proto_files_generate() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        generate(&committed);
        return;
    }
    let fresh = tempfile::tempdir().expect("temporary folder");
    generate(fresh.path());
    let (fresh, committed) = (contents(fresh.path()), contents(&committed));
    let names = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&fresh), names(&committed));
    for (name, bytes) in fresh {
        assert!(
            committed[&name] == bytes,
            "{name} differs; run with UPDATE_GENERATED=1 and commit the result"
        );
    }
}
