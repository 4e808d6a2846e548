//! The server stopped and killed in the middle of a build: nothing of it runs on, and the next start takes it up.

mod buildkit_support;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use buildkit_support::{endless, mounts_with, processes_with, small_root};
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Settings};

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// A name of 160 bytes: no unix socket can lie below it.
const LONG: &str = "a-state-directory-with-a-name-that-is-much-longer-than-the-path-of-a-unix-socket-may-be-\
                    because-operators-name-their-volumes-as-they-like-and-must-not-have-to-care";

/// `sealwright build` beside the test; ends with it.
struct Command(Child);

impl Command {
    fn build(server: &DevServer, id: &str, context: &Path) -> Self {
        let context = context.to_str().expect("UTF-8");
        let child = server
            .command(["build", "--progress", "plain", "--build-id", id, context])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the command starts"))
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is left of the server's engine: processes, mounts, control groups and private directories.
fn left(server: &DevServer, step: &str) -> Vec<String> {
    let state = server.state().display().to_string();
    // The shell that watches over the server for this test names it too, and so does a second server.
    let mut found = processes_with(&state);
    found.retain(|line| !line.contains(" supervise "));
    found.extend(processes_with(step));
    found.extend(mounts_with(&state));
    found
}

/// Private directories and control groups of all engines of this machine that name a directory in `state`.
fn private_directories(state: &Path) -> Vec<String> {
    let listed = std::fs::read_dir("/run").expect("readable").flatten();
    let engines = listed.filter(|e| e.file_name().to_string_lossy().starts_with("sealwright-"));
    let ours = engines.filter(|engine| {
        let daemons = std::fs::read_dir(engine.path()).into_iter().flatten().flatten();
        daemons.into_iter().any(|daemon| {
            std::fs::read_link(daemon.path().join("state")).is_ok_and(|target| target.starts_with(state))
        })
    });
    ours.map(|engine| engine.path().display().to_string()).collect()
}

#[test]
fn a_server_stopped_or_killed_in_the_middle_of_a_build_leaves_nothing_and_takes_it_up_again() {
    let mut server = DevServer::with(Settings {
        operations: Some("drain = \"1s\"\n"),
        state: Some(LONG),
        ..Settings::default()
    });
    assert!(server.state().as_os_str().len() > 150);
    let context = server.work().join("context");
    small_root(&context.join("root"));
    let step = &endless(4);
    let dockerfile = format!("FROM scratch\nCOPY root /\nRUN echo begun; exec {step}\n");
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("written");
    let running = || wait_for("the step", LIMIT, || (!processes_with(step).is_empty()).then_some(()));
    let build = Command::build(&server, "long", &context);
    running();
    drop(build);
    assert_eq!(private_directories(&server.state()).len(), 1);

    // SIGTERM: the build gets its second, and stays for the next start.
    assert_eq!(server.terminate(), 0, "{}", server.log());
    assert_eq!(left(&server, step), Vec::<String>::new());
    assert_eq!(private_directories(&server.state()), Vec::<String>::new());
    server.restart();
    running();

    // SIGKILL: nobody is there to clean up; the kernel ends what ran, the next start removes the rest.
    server.kill9();
    wait_for("the end of everything", LIMIT, || left(&server, step).is_empty().then_some(()));
    server.restart();
    running();
    assert_eq!(private_directories(&server.state()).len(), 1);
    server.sealwright(["cancel", "long"]).ok();
    wait_for("the step's end", LIMIT, || processes_with(step).is_empty().then_some(()));
    let ended = wait_for("the build's end", LIMIT, || {
        let build = server.sealwright(["get", "--json", "long"]).ok().json();
        (build["state"] == "CANCELLED").then_some(build)
    });
    assert_eq!(ended["failure"]["reason"], "CANCELLED");
    assert_eq!(server.terminate(), 0);
    assert_eq!(left(&server, step), Vec::<String>::new());
    assert_eq!(private_directories(&server.state()), Vec::<String>::new());
}
