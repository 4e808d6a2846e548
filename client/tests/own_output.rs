//! What a build writes itself is not part of the context that it sends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use client::key::CallerKey;
use client::request::{BuildOptions, Prepared, Surroundings, prepare};
use client::spec::{ContextSpec, Destination, OutputSpec};
use provenance::key::KeyAlgorithm;
use provenance::project::Project;
use provenance::timestamp::Timestamp;

/// A context with a Dockerfile and a directory.
fn context() -> tempfile::TempDir {
    let context = tempfile::tempdir().expect("a directory");
    write(&context.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n");
    write(&context.path().join("sub/file"), "a file\n");
    context
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    std::fs::write(path, text).expect("a file");
}

fn prepared(context: &Path, output: OutputSpec) -> Prepared {
    let key = CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256).expect("a key");
    let project = Project::new("default", [key.public().spki_sha256()]).expect("a project");
    let options = BuildOptions {
        context: ContextSpec::Directory(context.to_owned()),
        dockerfile: None,
        names: Vec::new(),
        target: None,
        build_args: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        platforms: Vec::new(),
        secrets: Vec::new(),
        ssh: Vec::new(),
        named_contexts: vec![("other".to_owned(), ContextSpec::Directory(context.join("sub")))],
        add_hosts: Vec::new(),
        no_cache: false,
        pull: false,
        output,
        build_id: None,
        attestation_request: None,
    };
    let mut surroundings = Surroundings {
        variable: &|_| None,
        docker_config: None,
        cache: None,
        stdin: &mut std::io::empty(),
        now: Timestamp::from_unix(1_767_225_600).expect("a time"),
    };
    prepare(&options, &project, &key, &mut surroundings).expect("a request")
}

fn to(destination: Destination) -> OutputSpec {
    OutputSpec { destination, ..OutputSpec::default() }
}

/// Number of files that are sent of the main context, and what is left out of it.
fn sent(context: &Path, output: OutputSpec) -> (u64, Vec<String>) {
    let tree = &prepared(context, output).trees[0];
    (tree.files, tree.left_out.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect())
}

#[test]
fn the_layout_of_the_build_before_is_not_sent_with_what_stands_beside_it() {
    let context = context();
    let target = context.path().join("image.oci");
    assert_eq!(sent(context.path(), to(Destination::LayoutDirectory(target.clone()))), (2, vec![]));
    write(&target.join("index.json"), "{}");
    write(&context.path().join(".image.oci.partial/index.json"), "{}");
    write(&context.path().join("image.oci.attestation-request"), "request");
    write(&context.path().join("image.oci.attestation-request-key"), "key");
    let (files, left_out) = sent(context.path(), to(Destination::LayoutDirectory(target)));
    assert_eq!(files, 2);
    assert_eq!(
        left_out,
        [
            ".image.oci.partial",
            "image.oci",
            "image.oci.attestation-request",
            "image.oci.attestation-request-key"
        ]
    );
}

#[test]
fn other_paths_of_that_name_are_sent() {
    let context = context();
    write(&context.path().join("sub/image.oci"), "mine");
    write(&context.path().join("image.oci.old"), "mine");
    let target = context.path().join("image.oci");
    assert_eq!(sent(context.path(), to(Destination::LayoutDirectory(target.clone()))), (4, vec![]));
    write(&target, "mine too, when the result goes elsewhere");
    let elsewhere = tempfile::tempdir().expect("a directory");
    for destination in [
        Destination::Nowhere,
        Destination::LayoutTar(PathBuf::from("-")),
        Destination::LayoutDirectory(elsewhere.path().join("image.oci")),
    ] {
        assert_eq!(sent(context.path(), to(destination)), (5, vec![]));
    }
}

#[test]
fn archives_directories_and_files_that_were_asked_for_are_not_sent() {
    let context = context();
    let at = |name: &str| context.path().join(name);
    write(&at("app.tar"), "archive");
    write(&at("metadata.json"), "{}");
    write(&at("out/file"), "a file");
    let beside = vec![at("metadata.json"), at("iid")];
    let output = OutputSpec { beside, ..to(Destination::LayoutTar(at("app.tar"))) };
    assert_eq!(sent(context.path(), output), (3, vec!["app.tar".to_owned(), "metadata.json".to_owned()]));
    // The path as the user wrote it does not matter.
    let roundabout = at("sub/../out/.");
    let output = to(Destination::FilesDirectory(roundabout));
    assert_eq!(sent(context.path(), output), (4, vec!["out".to_owned()]));
}

#[test]
fn a_destination_that_is_the_context_or_holds_it_leaves_nothing_out() {
    let context = context();
    for target in [context.path().to_owned(), context.path().join("..")] {
        assert_eq!(sent(context.path(), to(Destination::FilesDirectory(target))), (2, vec![]));
    }
}

#[test]
fn a_named_context_does_not_hold_the_result_either() {
    let context = context();
    let target = context.path().join("sub/image.oci");
    write(&target.join("index.json"), "{}");
    let trees = prepared(context.path(), to(Destination::LayoutDirectory(target))).trees;
    assert_eq!(trees[0].left_out, [b"sub/image.oci".to_vec()]);
    assert_eq!(trees.last().expect("the named context").left_out, [b"image.oci".to_vec()]);
}

#[test]
fn an_ignored_result_is_not_spoken_of() {
    let context = context();
    let target = context.path().join("image.oci");
    write(&target.join("index.json"), "{}");
    write(&context.path().join(".dockerignore"), "image.oci\n");
    assert_eq!(sent(context.path(), to(Destination::LayoutDirectory(target))), (3, vec![]));
}
