//! The workspace keeps the shape that docs/architecture.md draws: who may import whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// For each crate, the own crates it may name as ordinary dependencies.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sealwright-provenance", &[]),
    ("sealwright-proto", &["sealwright-provenance"]),
    ("sealwright-enclave-keys", &["sealwright-provenance"]),
    ("sealwright-build-server", &["sealwright-proto", "sealwright-provenance", "sealwright-enclave-keys"]),
    ("sealwright-verifier", &["sealwright-provenance"]),
    ("sealwright-client", &["sealwright-proto", "sealwright-provenance", "sealwright-verifier"]),
];

/// Crates that must never reach some others, however indirectly.
const NEVER: &[(&str, &[&str])] = &[
    ("sealwright-provenance", &["tokio", "tonic", "prost", "rustls", "p256"]),
    ("sealwright-verifier", &["tokio", "tonic", "prost", "rustls", "hyper", "reqwest"]),
    ("sealwright-enclave-keys", &["tokio", "tonic", "hyper", "reqwest", "sealwright-verifier"]),
    ("sealwright-build-server", &["sealwright-verifier", "sealwright-tests"]),
];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Ordinary (not dev, not build) dependencies: package id to package ids.
fn edges(metadata: &serde_json::Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            let normal = node["deps"].as_array().expect("deps").iter().filter(|dep| {
                dep["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"].is_null())
            });
            (text(&node["id"]), normal.map(|dep| text(&dep["pkg"])).collect())
        })
        .collect()
}

fn names(metadata: &serde_json::Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|p| (p["id"].as_str().expect("id").to_owned(), p["name"].as_str().expect("name").to_owned()))
        .collect()
}

#[test]
fn own_crates_import_only_whom_the_architecture_allows() {
    let metadata = metadata();
    let (edges, names) = (edges(&metadata), names(&metadata));
    for (name, allowed) in ALLOWED {
        let id = names.iter().find(|(_, n)| n == name).expect("crate exists").0;
        let own: BTreeSet<_> = edges[id]
            .iter()
            .map(|dep| names[dep].as_str())
            .filter(|dep| dep.starts_with("sealwright-"))
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        assert!(own.is_subset(&allowed), "{name} imports {:?}", own.difference(&allowed));
    }
}

#[test]
fn no_crate_reaches_what_it_must_never_reach() {
    let metadata = metadata();
    let (edges, names) = (edges(&metadata), names(&metadata));
    for (name, never) in NEVER {
        let start = names.iter().find(|(_, n)| n == name).expect("crate exists").0.clone();
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                open.extend(edges[&id].iter().cloned());
            }
        }
        for id in seen {
            assert!(!never.contains(&names[&id].as_str()), "{name} reaches {}", names[&id]);
        }
    }
}

/// Ids of everything that the shipped programs are made of.
fn shipped(metadata: &serde_json::Value) -> BTreeSet<String> {
    let (edges, names) = (edges(metadata), names(metadata));
    let mut open: Vec<_> = names
        .iter()
        .filter(|(_, name)| ["sealwright-build-server", "sealwright-client"].contains(&name.as_str()))
        .map(|(id, _)| id.clone())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(edges[&id].iter().cloned());
        }
    }
    seen
}

#[test]
fn shipped_crates_use_one_crypto_stack() {
    let metadata = metadata();
    let names = names(&metadata);
    for id in &shipped(&metadata) {
        assert!(
            !["aws-lc-rs", "openssl", "native-tls"].contains(&names[id].as_str()),
            "{} is linked",
            names[id]
        );
    }
}

#[test]
fn shipped_crates_come_in_one_version_but_for_those_that_deny_toml_gives_a_reason_for() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let text = |key: &str| package[key].as_str().expect("text").to_owned();
        if shipped.contains(&text("id")) {
            versions.entry(text("name")).or_default().insert(text("version"));
        }
    }
    let deny =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml")).expect("deny.toml");
    let deny: toml::Table = deny.parse().expect("TOML");
    let skipped: BTreeMap<&str, &str> = deny["bans"]["skip"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            assert!(!entry["reason"].as_str().expect("a reason").is_empty());
            entry["crate"].as_str().expect("a crate").split_once('@').expect("name@version")
        })
        .collect();
    let doubled: BTreeSet<&str> =
        versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name.as_str()).collect();
    let named: BTreeSet<&str> = skipped.keys().copied().collect();
    assert_eq!(doubled, named, "in two versions (left) and excused in deny.toml (right)");
    for (name, version) in skipped {
        let excused = versions[name].iter().filter(|v| v.starts_with(version)).count();
        assert_eq!((excused, versions[name].len()), (1, 2), "{name}");
    }
}

fn versions_of_lock(path: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text =
        std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("a lock file");
    let lock: toml::Table = text.parse().expect("TOML");
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("packages") {
        let text = |key: &str| package[key].as_str().expect("text").to_owned();
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    versions
}

/// The fuzz targets are a workspace of their own, so their lock file must be held to the one that ships.
#[test]
fn fuzz_targets_are_built_of_what_ships_and_nothing_of_theirs_ships() {
    let (shipped, fuzzed) = (versions_of_lock("../Cargo.lock"), versions_of_lock("fuzz/Cargo.lock"));
    assert!(fuzzed.contains_key("libfuzzer-sys") && !shipped.contains_key("libfuzzer-sys"));
    for name in ["ring", "der", "serde_json", "toml", "base64"] {
        assert_eq!(fuzzed.get(name), shipped.get(name), "{name}: `cargo update` in tests/fuzz");
    }
    for (name, versions) in fuzzed {
        let Some(known) = shipped.get(&name) else { continue };
        assert!(versions.is_subset(known), "{name}: {versions:?}, shipped {known:?}");
    }
}
