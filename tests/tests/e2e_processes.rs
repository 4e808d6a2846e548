//! Service and key process apart: a killed service finds its keys again, a killed key process ends all signing.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Settings, sealwright};

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(60);

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
}

/// Builds a small image; gives its layout.
fn build(server: &DevServer, name: &str) -> PathBuf {
    let source = server.work().join(name);
    std::fs::create_dir_all(&source).expect("directory");
    std::fs::write(source.join("Dockerfile"), format!("FROM scratch\nCOPY Dockerfile /{name}\n"))
        .expect("file");
    let layout = server.work().join(format!("{name}.oci"));
    let output = format!("type=oci,dest={}", layout.display());
    let source = source.display().to_string();
    server.sealwright(["build", "--output", &output, &source]).ok();
    layout
}

/// The signing key that `verify` tells of a layout: of this project and epoch.
fn signing_key(server: &DevServer, layout: &std::path::Path) -> serde_json::Value {
    let verdict = server.sealwright(["verify", "--json", &layout.display().to_string()]).ok().json();
    verdict["facts"]["signing_key"].clone()
}

#[test]
fn the_key_process_has_one_way_to_be_started() {
    let program = sealwright().with_file_name("enclave-keys");
    for arguments in [&[][..], &["--sealed"], &["--other", "/tmp"], &["--sealed", "/tmp", "more"]] {
        let output = std::process::Command::new(&program).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("usage: enclave-keys --sealed DIR"), "{said}");
    }
    let output = std::process::Command::new(&program).args(["--sealed", "/tmp"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stdin is no socket"), "{said}");
}

#[test]
fn a_killed_service_goes_on_with_its_keys_and_a_killed_key_process_ends_all_signing() {
    let server = DevServer::with(Settings { restart: true, ..Settings::default() });
    let before = signing_key(&server, &build(&server, "before"));
    assert!(before.is_string(), "{before}");

    let (service, keys) = (server.service_pid(), server.keys_pid());
    for part in [service, keys] {
        let limits = std::fs::read_to_string(format!("/proc/{part}/limits")).expect("limits");
        let status = std::fs::read_to_string(format!("/proc/{part}/status")).expect("status");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        let has = |line: &str| status.lines().any(|found| found == line);
        if part == keys {
            assert!(core.split_whitespace().nth(4) == Some("0"), "no core dump: {core}");
            assert!(has("Seccomp:\t2"), "filtered: {status}");
        } else {
            assert!(has("Seccomp:\t0"), "the test tells the two apart: {status}");
        }
    }
    kill(service);
    wait_for("the next service", LIMIT, || (server.service_pid() != service).then_some(()));
    wait_for("its answer", LIMIT, || (server.sealwright(["list"]).code == 0).then_some(()));
    assert_eq!(server.keys_pid(), keys);
    assert_eq!(signing_key(&server, &build(&server, "after")), before);

    kill(keys);
    wait_for("the service's word", LIMIT, || {
        server.log().contains("nothing is signed any more").then_some(())
    });
    assert_ne!(server.sealwright(["list"]).code, 0, "nobody is attested any more");
    assert_eq!(server.terminate(), 0, "the service still drains");
}
