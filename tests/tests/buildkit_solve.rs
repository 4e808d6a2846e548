//! One build in a real daemon, from a stored tree to a checked export.

mod buildkit_support;

use std::collections::BTreeMap;
use std::io::Read as _;

use build_server::buildkit::{EngineError, Export, SourceKind};
use buildkit_support::{Bench, request, small_root};
use provenance::digest::Sha256Digest;
use provenance::request::{Output, Source};

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_tree_becomes_a_checked_layout() {
    let bench = Bench::in_memory();
    let solved = bench
        .build_files(&[
            ("Dockerfile", "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY a /a\n"),
            ("a", "hello"),
        ])
        .await
        .expect("builds");
    let Export::Image { layout, root, platform_manifests } = &solved.export else { panic!("an image") };
    assert!(layout.join("blobs/sha256").join(root.digest.hex()).is_file());
    assert!(platform_manifests.is_empty());
    assert_eq!(solved.capture.syntax_directive.as_deref(), Some("docker/dockerfile:1"));
    assert!(!solved.capture.has_run_steps);
    assert_eq!(solved.capture.sources, []);
    bench.engine.shutdown().await;
}

/// A base image by way of an uploaded layout; a RUN step in it that fails is named with its exit code.
#[tokio::test(flavor = "multi_thread")]
async fn run_steps_and_base_images_are_captured_and_failures_name_the_step() {
    let bench = Bench::in_memory();
    let context = tempfile::tempdir().expect("a directory");
    small_root(&context.path().join("root"));
    let built = bench.build(bench.with_root(context.path(), "")).await.0.expect("builds");
    let Export::Image { layout, .. } = built.export else { panic!("an image") };
    for blob in std::fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        bench.store.put(std::fs::read(blob.expect("blob").path()).expect("readable"));
    }
    let index = std::fs::read(layout.join("index.json")).expect("index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let descriptor = &index["manifests"][0];
    let base = Source::OciLayout {
        manifest: descriptor["digest"].as_str().expect("digest").parse().expect("digest"),
        size: descriptor["size"].as_u64().expect("size"),
        media_type: descriptor["mediaType"].as_str().expect("type").to_owned(),
    };
    let with_base = |dockerfile: &str| {
        let root = bench.store.put_files(&[("Dockerfile", dockerfile)]);
        let mut request = request(root);
        request.named_contexts = BTreeMap::from([("base".to_owned(), base.clone())]);
        bench.inputs(request)
    };
    let good = with_base("FROM base\nRUN --mount=type=cache,target=/c echo one > /one\n");
    let solved = bench.build(good).await.0.expect("builds");
    assert!(solved.capture.has_run_steps && solved.capture.has_cache_mounts);
    let kinds: Vec<_> = solved.capture.sources.iter().map(|s| (s.kind, s.digest.is_some())).collect();
    assert_eq!(kinds, [(SourceKind::OciLayout, true)]);

    let error = bench.build(with_base("FROM base\nRUN exit 7\n")).await.0.expect_err("fails");
    let EngineError::Step { exit_code: 7, step, source_excerpts } = &error else { panic!("{error:?}") };
    assert!(step.contains("RUN exit 7"), "{step}");
    assert_eq!(source_excerpts[0].marked, [2]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_dockerfile_are_told_apart() {
    let bench = Bench::in_memory();
    let error = bench.build_files(&[("Dockerfile", "FROM scratch\nCOPPY a b\n")]).await.expect_err("fails");
    let EngineError::Frontend { source_excerpts, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source_excerpts[0].marked, [2]);
    let error = bench.build_files(&[("Dockerfile", "FROM scratch\nCOPY gone /\n")]).await.expect_err("fails");
    assert!(matches!(&error, EngineError::ContextFileMissing { path, .. } if path == "/gone"), "{error:?}");
    let error = bench.build_files(&[("Other", "")]).await.expect_err("fails");
    assert!(matches!(&error, EngineError::DockerfileMissing { .. }), "{error:?}");
    let error =
        bench.build_files(&[("Dockerfile", "# syntax=x/y\nFROM scratch\n")]).await.expect_err("fails");
    assert!(matches!(&error, EngineError::UnsupportedSyntax { .. }), "{error:?}");
    bench.engine.shutdown().await;
}

/// BuildKit asks for a file again only when size, time or mode changed; a request names contents.
#[tokio::test(flavor = "multi_thread")]
async fn contents_are_what_the_request_names_also_when_size_and_time_are_the_same() {
    let bench = Bench::in_memory();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("d")).expect("created");
    std::fs::write(path("Dockerfile"), "FROM scratch\nCOPY d /d\n").expect("written");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let tree = |contents: &str| {
        // The first name, a hard link to it, and a name that comes and goes.
        let _ = std::fs::remove_file(path("d/link"));
        let _ = std::fs::remove_file(path("d/extra"));
        std::fs::write(path("d/file"), contents).expect("written");
        std::fs::hard_link(path("d/file"), path("d/link")).expect("linked");
        if contents == "two" {
            std::fs::hard_link(path("d/file"), path("d/extra")).expect("linked");
        }
        let file = std::fs::File::options().append(true).open(path("d/file")).expect("opens");
        file.set_modified(time).expect("set");
        bench.store.put_directory(directory.path())
    };
    let trees = ["one", "two", "six"].map(|contents| (contents, tree(contents)));
    let build = async |contents: &str, root: Sha256Digest| {
        let mut inputs = bench.inputs(request(root));
        inputs.request.output = Output::Files {};
        inputs.request.no_cache = true;
        let solved = bench.build(inputs).await.0.expect("builds");
        let Export::Files { tar, .. } = solved.export else { panic!("files") };
        let mut archive = tar::Archive::new(std::fs::File::open(tar).expect("an archive"));
        let mut names = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            if entry.header().entry_type().is_file() {
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                assert_eq!(text, contents, "{name}");
            }
            names.push(name);
        }
        let extra: &[&str] = if contents == "two" { &["d/extra"] } else { &[] };
        assert_eq!(names, [&["d/"], extra, &["d/file", "d/link"]].concat());
    };
    for _ in 0..2 {
        for (contents, root) in trees {
            build(contents, root).await;
        }
    }
    // All at once, on one daemon.
    let [one, two, three] = trees;
    tokio::join!(build(one.0, one.1), build(two.0, two.1), build(three.0, three.1), build(one.0, one.1));
    bench.engine.shutdown().await;
}
