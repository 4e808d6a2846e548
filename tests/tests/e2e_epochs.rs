//! The development server over restarts: the same machine keeps its signing key, another TCB or guest has another one,
//! and what was signed before stays verifiable. A damaged sealed epoch stops the start.

use std::path::{Path, PathBuf};

use sealwright_tests::harness::DevServer;
use serde_json::Value;

/// Builds an image into a layout.
fn build(server: &DevServer, name: &str) -> PathBuf {
    let context = server.work().join(format!("context-{name}"));
    std::fs::create_dir_all(&context).expect("directory");
    let dockerfile = format!("FROM scratch\nCOPY Dockerfile /{name}\n");
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("file");
    let layout = server.work().join(name);
    let output = format!("type=oci,dest={}", layout.display());
    let context = context.display().to_string();
    server.sealwright(["build", "-q", "-t", "example.test/app:1", "--output", &output, &context]).ok();
    layout
}

/// Verifies a layout with a policy; gives the verdict.
fn verify(server: &DevServer, layout: &Path, policy: &Path) -> Value {
    let arguments =
        ["verify", "--json", "--policy", &policy.display().to_string(), &layout.display().to_string()];
    let verdict = server.sealwright(arguments).ok().json();
    assert_eq!(verdict["outcome"], "trusted");
    verdict
}

fn signing_key(verdict: &Value) -> &str {
    verdict["facts"]["signing_key"].as_str().expect("a digest")
}

/// The lines about the key.
fn key_lines(verdict: &Value) -> String {
    let links = verdict["links"].as_array().expect("links");
    let key = links.iter().find(|link| link["link"] == "key").expect("a link about the key");
    key["lines"].to_string()
}

/// The line about the epoch of the last start.
fn epoch(server: &DevServer) -> String {
    let log = server.log();
    let line = log.lines().rfind(|line| line.starts_with("key  ")).expect("told at each start");
    line.to_owned()
}

#[test]
fn a_signing_key_lasts_as_long_as_measurement_and_tcb() {
    let mut server = DevServer::start();
    assert!(epoch(&server).contains("epoch 1, new: nothing was sealed here"), "{}", epoch(&server));
    let first = build(&server, "first");
    let policy = server.work().join("first.policy.toml");
    std::fs::copy(&server.ready().policy_file, &policy).expect("copied");
    let before = verify(&server, &first, &policy);

    // The same machine.
    server.kill9();
    server.restart();
    assert!(epoch(&server).contains("epoch 1, goes on, began 20"), "{}", epoch(&server));
    let same = build(&server, "same");
    let after = verify(&server, &same, &policy);
    assert_eq!(signing_key(&after), signing_key(&before));

    // A firmware update. The policy has a lower bound, so it accepts both.
    assert_eq!(server.terminate(), 0);
    server.set_environment(&[("SEALWRIGHT_DEV_MICROCODE", "220")]);
    server.restart();
    let told =
        "epoch 2, new, after epoch 1 (TCB was 04000000000018db, is 04000000000018dc); the old file is ";
    assert!(epoch(&server).contains(told), "{}", epoch(&server));
    let updated = build(&server, "updated");
    let after = verify(&server, &updated, &policy);
    assert_ne!(signing_key(&after), signing_key(&before));
    assert!(key_lines(&after).contains("epoch 2: NOT HARDWARE"), "{}", key_lines(&after));
    assert_eq!(after["facts"]["tcb"], "04.00.18.dc");
    let old = verify(&server, &first, &policy);
    assert_eq!(signing_key(&old), signing_key(&before));
    assert!(key_lines(&old).contains("epoch 1: NOT HARDWARE"), "{}", key_lines(&old));

    // A new guest image; the policy of the old one refuses it.
    assert_eq!(server.terminate(), 0);
    let measurement = "ab".repeat(48);
    server.set_environment(&[
        ("SEALWRIGHT_DEV_MICROCODE", "220"),
        ("SEALWRIGHT_DEV_MEASUREMENT", &measurement),
    ]);
    server.restart();
    assert!(epoch(&server).contains("epoch 3, new, after epoch 2 (measurement was "), "{}", epoch(&server));
    let replaced = build(&server, "replaced");
    let after = verify(&server, &replaced, &server.ready().policy_file);
    assert_ne!(signing_key(&after), signing_key(&before));
    verify(&server, &first, &policy);
    let policy = policy.display().to_string();
    let refused = server.sealwright(["verify", "--policy", &policy, &replaced.display().to_string()]).code(3);
    assert!(
        refused.stderr.contains("launch measurement is") || refused.stdout.contains("launch measurement")
    );
    assert_eq!(server.terminate(), 0);
}

#[test]
fn a_damaged_sealed_epoch_stops_the_start() {
    let mut server = DevServer::start();
    let path = server.state().join("keys/epoch.sealed");
    assert_eq!(server.terminate(), 0);
    let good = std::fs::read(&path).expect("sealed");
    let mut flipped = good.clone();
    flipped[good.len() - 1] ^= 1;
    let newer = [&good[..19], &[2], &good[20..]].concat();
    let cases = [
        (good[..good.len() - 7].to_vec(), "it is cut off"),
        (flipped, "it does not open under the root that it names: a bit of it was changed"),
        (newer, "its format is 2, newer than 1"),
        (b"not ours at all, by no means".to_vec(), "it begins with "),
    ];
    for (bytes, wanted) in cases {
        std::fs::write(&path, &bytes).expect("written");
        let said = server.second_on_same_state();
        assert!(said.contains(&path.display().to_string()) && said.contains(wanted), "{said}");
        assert!(said.contains("put the file back from a copy, or move it away"), "what to do: {said}");
        assert_eq!(std::fs::read(&path).expect("there"), bytes, "left as it was");
    }
    std::fs::write(&path, &good).expect("written");
    server.restart();
    assert!(epoch(&server).contains("epoch 1, goes on"), "{}", epoch(&server));
    assert_eq!(server.terminate(), 0);
}
