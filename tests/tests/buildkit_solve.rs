//! One build in a real daemon, from a stored tree to a checked export.

mod buildkit_support;

use build_server::buildkit::Export;
use buildkit_support::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_tree_becomes_a_checked_layout() {
    let bench = Bench::new();
    let solved = bench
        .build_files(&[("Dockerfile", "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY a /a\n"), ("a", "hello")])
        .await
        .expect("builds");
    let Export::Image { layout, root, platform_manifests } = &solved.export else { panic!("an image") };
    assert!(layout.join("blobs/sha256").join(root.digest.hex()).is_file());
    assert!(platform_manifests.is_empty());
    assert_eq!(solved.capture.syntax_directive.as_deref(), Some("docker/dockerfile:1"));
    println!("{}", serde_json::to_string_pretty(&solved.capture.provenance).unwrap());
    println!("{:#?}", solved.capture.vertices);
    bench.engine.shutdown().await;
}
