//! The service is not root: what that user can open, whose the state directory is, and what happens when the process that
//! is root for it dies.

mod buildkit_support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buildkit_support::{endless, mounts_with, processes_with, small_root};
use rustix::process::{Pid, Signal, kill_process};
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Output, Settings};

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(120);
/// The user of the service, by default.
const SERVICE: u32 = 65_533;

/// Runs a program as the service's user.
fn as_the_service(program: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new("/usr/bin/setpriv");
    let user = SERVICE.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--", program]).args(arguments);
    Output::of(&command)
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
}

fn status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs")
}

/// `sealwright build` beside the test; ends with it.
struct Building(Child);

impl Building {
    /// Starts a build whose step does not end, and waits until it runs.
    fn endless(server: &DevServer, id: &str, number: u32) -> Self {
        let context = server.work().join(id);
        small_root(&context.join("root"));
        let dockerfile = format!("FROM scratch\nCOPY root /\nRUN exec {}\n", endless(number));
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("file");
        let context = context.to_str().expect("UTF-8");
        let mut command = server.command(["build", "--progress", "plain", "--build-id", id, context]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let building = Self(child.expect("the command starts"));
        wait_for("the step", LIMIT, || (!steps(number).is_empty()).then_some(()));
        building
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The step's process, but not the client's, whose command line it is not.
fn steps(number: u32) -> Vec<String> {
    processes_with(&endless(number)).into_iter().filter(|line| line.starts_with("sleep")).collect()
}

#[test]
fn the_service_has_no_privileges_and_opens_nothing_of_the_others() {
    let server = DevServer::start();
    let building = Building::endless(&server, "long", 20);
    let shown = status(server.service_pid());
    let user = format!("{SERVICE}\t{SERVICE}\t{SERVICE}\t{SERVICE}");
    for line in [
        &format!("Uid:\t{user}"),
        &format!("Gid:\t{user}"),
        "Groups:\t ",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(shown.lines().any(|found| found == line), "`{line}` is missing: {shown}");
    }
    // Each thread has privileges of its own.
    for thread in std::fs::read_dir(format!("/proc/{}/task", server.service_pid())).expect("threads") {
        let shown = std::fs::read_to_string(thread.expect("an entry").path().join("status"));
        assert!(shown.is_ok_and(|shown| shown.contains(&format!("Uid:\t{user}\n"))));
    }
    for other in [server.engine_pid(), server.keys_pid()] {
        assert!(status(other).contains("Uid:\t0\t0\t0\t0\n"), "the test tells them apart");
    }

    let state = server.state();
    let closed = [
        state.join("keys"),
        state.join("engine"),
        state.join("keys/epoch.sealed"),
        state.join("software-tee/keys.json"),
        state.join("caller.key.pem"),
        Path::new("/proc").join(server.keys_pid().to_string()).join("mem"),
        Path::new("/proc").join(server.engine_pid().to_string()).join("mem"),
        Path::new("/proc").join(server.engine_pid().to_string()).join("fd"),
    ];
    for path in closed.iter().filter(|path| path.exists()) {
        let said = as_the_service("/bin/ls", &[path.as_path()]);
        let read = as_the_service("/bin/cat", &[path.as_path()]);
        assert!(read.code != 0 && read.stderr.contains("ermission denied"), "{}: {read:?}", path.display());
        assert!(!path.is_dir() || said.code != 0, "{}: {said:?}", path.display());
    }
    assert!(closed[..3].iter().all(|path| path.exists()), "the sealed epoch is there");
    // Root's files stay where they are, although the service writes beside them.
    for (program, arguments) in [
        ("/bin/mv", vec![state.join("keys"), state.join("elsewhere")]),
        ("/bin/rmdir", vec![state.join("engine")]),
        ("/usr/bin/touch", vec![state.join("engine/x")]),
        ("/bin/mv", vec![state.join("caller.key.pem"), state.join("elsewhere")]),
    ] {
        let arguments: Vec<&Path> = arguments.iter().map(std::path::PathBuf::as_path).collect();
        let said = as_the_service(program, &arguments);
        assert!(said.code != 0, "{program} {arguments:?}: {said:?}");
    }
    as_the_service("/usr/bin/touch", &[&state.join("own")]).ok();

    // It may use the daemon's socket, and see nothing else of it.
    let link = server.daemon_sockets().pop().expect("a daemon");
    let socket = std::fs::read_link(link).expect("a link");
    let mut connect = Command::new("/usr/bin/setpriv");
    let user = SERVICE.to_string();
    connect.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    connect.arg(sealwright_tests::tools::tool("buildctl"));
    connect.arg("--addr").arg(format!("unix://{}", socket.display())).args(["debug", "workers"]);
    Output::of(&connect).ok().says("linux/");
    let directory = socket.parent().expect("a directory");
    for path in [directory, directory.parent().expect("a directory"), &directory.join("tmp")] {
        let said = as_the_service("/bin/ls", &[path]);
        assert!(said.code != 0, "{}: {said:?}", path.display());
    }
    drop(building);
    server.sealwright(["cancel", "long"]).ok();
    assert_eq!(server.terminate(), 0);
}

#[test]
fn a_killed_engine_process_takes_its_daemons_along_and_the_server_goes_on_with_its_keys() {
    let server = DevServer::with(Settings { restart: true, ..Settings::default() });
    let building = Building::endless(&server, "long", 21);
    let (service, engine, keys) = (server.service_pid(), server.engine_pid(), server.keys_pid());
    let daemon =
        server.daemon_sockets().pop().and_then(|link| std::fs::read_link(link).ok()).expect("a daemon");
    kill(engine);
    wait_for("the next engine process", LIMIT, || (server.engine_pid() != engine).then_some(()));
    wait_for("the next service", LIMIT, || (server.service_pid() != service).then_some(()));
    wait_for("its answer", LIMIT, || (server.sealwright(["list"]).code == 0).then_some(()));
    assert_eq!(server.keys_pid(), keys);
    assert!(server.log().contains("the engine process has ended (signal: 9 (SIGKILL))"), "{}", server.log());
    // The build is taken up again, or had seen its daemon's end first.
    let build = server.sealwright(["get", "--json", "long"]).ok().json();
    let told = (build["state"].as_str(), build["failure"]["reason"].as_str());
    match told {
        (Some("QUEUED" | "RUNNING"), None) => {
            wait_for("the step again", LIMIT, || (steps(21).len() == 1).then_some(()));
            server.sealwright(["cancel", "long"]).ok();
        }
        (Some("FAILED"), Some("ENGINE_DIED")) => {}
        other => panic!("{other:?}"),
    }
    drop(building);
    wait_for("the step's end", LIMIT, || steps(21).is_empty().then_some(()));

    // Without a restart all end.
    let state = server.state().display().to_string();
    assert!(daemon.parent().is_some_and(|names| names.starts_with("/run") || names.starts_with("/tmp")));
    assert_eq!(server.terminate(), 0);
    wait_for("the end of all", LIMIT, || {
        let left = processes_with(&state).into_iter().filter(|line| !line.contains(" supervise ")).count();
        (left == 0).then_some(())
    });
    assert_eq!(mounts_with(&format!("{state}/engine")), Vec::<String>::new());
    assert!(!daemon.exists());
}

#[test]
fn a_server_that_does_not_start_again_ends_with_its_engine_process() {
    let server = DevServer::start();
    let building = Building::endless(&server, "long", 22);
    kill(server.engine_pid());
    assert_eq!(server.process().wait(LIMIT), 128 + 9, "{}", server.log());
    drop(building);
    wait_for("the step's end", LIMIT, || steps(22).is_empty().then_some(()));
}

#[test]
fn a_state_directory_is_handed_over_once_and_only_if_it_is_roots() {
    let mut server = DevServer::start();
    let state = server.state();
    let rights = |path: &Path| {
        let found = std::fs::metadata(path).expect("there");
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(rights(&state), (0, SERVICE, 0o1770));
    assert_eq!(rights(&state.join("keys")), (0, 0, 0o700));
    assert_eq!(server.terminate(), 0);

    let refused = |wanted: &[&str]| {
        let said = server.second_on_same_state();
        for word in wanted {
            assert!(said.contains(word), "`{word}` is missing: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    };
    let shown = state.display().to_string();
    chown(&state, Some(1234), None).expect("given away");
    refused(&[&shown, "belongs to user 1234, wanted root"]);
    chown(&state, Some(0), Some(1234)).expect("given away");
    refused(&[&shown, "`service_uid` = 1234, now it is 65533"]);
    chown(&state, Some(0), Some(SERVICE)).expect("given back");
    // A directory above that the service cannot pass through.
    let above = state.parent().expect("a directory");
    let mode = |mode| std::fs::set_permissions(above, std::fs::Permissions::from_mode(mode)).expect("mode");
    mode(0o700);
    refused(&["cannot pass through", &above.display().to_string(), "state_directory", "chmod o+x"]);
    mode(0o711);

    // As a server that ran as root left it.
    Output::of(Command::new("chown").args(["-R", "0:0"]).arg(&state)).ok();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).expect("mode");
    server.restart();
    assert_eq!(rights(&state), (0, SERVICE, 0o1770));
    assert_eq!(rights(&state.join("jobs.sqlite")).0, SERVICE);
    assert_eq!(rights(&state.join("keys/epoch.sealed")).0, 0);
    server.sealwright(["list"]).ok();
    assert_eq!(server.terminate(), 0);
}
