//! The server killed with SIGKILL at every boundary of the pipeline: after its restart each build is finished, resumed
//! or failed with a reason, no event is lost or doubled, and no tag is without signature and Evidence.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Output, Settings};
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::{base_image, tool};
use serde_json::Value;

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(120);
const STEPS: [&str; 8] = ["created", "permit", "build", "materials", "release", "sign", "layout", "push"];

/// A context with a Dockerfile.
fn context(server: &DevServer, name: &str, dockerfile: &str) -> PathBuf {
    let directory = server.work().join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    std::fs::write(directory.join("Dockerfile"), dockerfile).expect("file");
    directory
}

/// A command that runs beside the test, with its output in files.
struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    fn start(server: &DevServer, id: &str, arguments: &[&str]) -> Self {
        let (stdout, stderr) =
            (server.work().join(format!("{id}.stdout")), server.work().join(format!("{id}.stderr")));
        let file = |path: &Path| std::fs::File::create(path).expect("file");
        let mut command = server.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr)).spawn();
        Self { child: child.expect("the command starts"), stdout, stderr }
    }

    fn end(&mut self) -> Output {
        let status = wait_for("the command's end", LIMIT, || self.child.try_wait().expect("a child"));
        let text = |path: &Path| std::fs::read_to_string(path).expect("UTF-8");
        Output { code: status.code().unwrap_or(128), stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events among the lines of `--progress rawjson`, whose numbers must be 1, 2, 3, …
fn events(lines: &str) -> Vec<Value> {
    let events: Vec<Value> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|v| !v["number"].is_null())
        .collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["number"], index as u64 + 1, "numbers of events have no gap and no repetition");
    }
    assert!(!events.is_empty(), "no events in:\n{lines}");
    events
}

fn log(server: &DevServer, id: &str) -> Vec<Value> {
    events(&server.sealwright(["logs", "--progress", "rawjson", id]).ok().stdout)
}

/// What the server wrote since it was started last.
fn last_start(server: &DevServer) -> String {
    server.log().rsplit("platform ").next().expect("there is always a last part").to_owned()
}

/// The tags of a repository, none when there is no repository.
fn tags(registry: &RegistryProcess, repository: &str) -> Vec<String> {
    let name = format!("{}/{repository}", registry.host());
    let output = Output::of(Command::new(tool("crane")).args(["ls", "--insecure", &name]));
    output.stdout.lines().filter(|_| output.code == 0).map(str::to_owned).collect()
}

#[test]
fn killed_at_any_boundary_the_build_is_resumed_and_the_command_sees_every_event_once() {
    let registry = RegistryProcess::crane();
    let mut server = DevServer::start();
    for step in STEPS {
        let _ = server.terminate();
        server.crash_next(Some(step));
        server.restart();
        let id = format!("at-{step}");
        let source = context(&server, &id, &format!("FROM scratch\nCOPY Dockerfile /{step}\n"));
        let (source, layout) = (source.display().to_string(), server.work().join(format!("{id}.oci")));
        let (output, tag) =
            (format!("type=oci,dest={}", layout.display()), format!("{}/crash/{step}:1", registry.host()));
        let arguments =
            ["build", "--progress", "rawjson", "--build-id", &id, "--push", "-t", &tag, "--output", &output];
        let mut running = Running::start(&server, &id, &[&arguments[..], &[&source]].concat());
        server.wait_for_crash();

        // While no server runs: a tag is there only with all that belongs to it.
        let there = tags(&registry, &format!("crash/{step}"));
        if step == "push" {
            server.sealwright(["verify", &tag]).ok().says("TRUSTED");
        } else {
            assert!(there.is_empty(), "killed at {step}, and yet there is {there:?}");
        }

        server.restart();
        assert!(last_start(&server).contains("1 builds resumed, 0 failed"), "{step}: {}", server.log());
        // The command that was running all the time ends as if nothing had happened.
        let ended = running.end().ok();
        let seen = events(&ended.stderr);
        assert_eq!(seen, log(&server, &id), "{step}: the command has seen what is stored");
        let states: Vec<&Value> =
            seen.iter().map(|e| &e["stateChanged"]["build"]["state"]).filter(|s| !s.is_null()).collect();
        assert_eq!(states, ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"], "{step}");
        server.sealwright(["verify", &tag]).ok().says("TRUSTED");
        server.sealwright(["verify", &layout.display().to_string()]).ok().says("TRUSTED");
    }
    // All that was done is still there, and nothing is taken up again.
    server.kill9();
    server.crash_next(None);
    server.restart();
    assert!(last_start(&server).contains("0 builds resumed, 0 failed"), "{}", server.log());
    let listed = server.sealwright(["list", "--json"]).ok().json();
    let states: Vec<&Value> =
        listed["builds"].as_array().expect("builds").iter().map(|build| &build["state"]).collect();
    assert_eq!(states, ["SUCCEEDED"; STEPS.len()]);
}

#[test]
fn a_command_tells_that_its_connection_was_cut_and_goes_on() {
    let mut server = DevServer::start();
    let _ = server.terminate();
    server.crash_next(Some("permit"));
    server.restart();
    let source = context(&server, "cut", "FROM scratch\nCOPY Dockerfile /cut\n").display().to_string();
    let output = format!("type=oci,dest={}", server.work().join("cut.oci").display());
    let arguments = ["build", "--progress", "plain", "--build-id", "cut", "--output", &output, &source];
    let mut running = Running::start(&server, "cut", &arguments);
    server.wait_for_crash();
    server.restart();
    running.end().ok().says(" connection ").says("; connecting again").says(" written ");
}

#[test]
fn a_build_that_takes_the_server_down_every_time_is_given_up() {
    // Late, so that the restarted server has said where it listens before the resumed build gets there.
    let mut server = DevServer::with(Settings { crash_at: Some("sign"), ..Settings::default() });
    let source = context(&server, "deadly", "FROM scratch\nCOPY Dockerfile /\n").display().to_string();
    let output = format!("type=oci,dest={}", server.work().join("deadly.oci").display());
    let arguments = ["build", "--progress", "plain", "--build-id", "deadly", "--output", &output, &source];
    let mut running = Running::start(&server, "deadly", &arguments);
    for _ in 0..3 {
        server.wait_for_crash();
        server.crash_next(Some("sign"));
        server.restart();
    }
    running
        .end()
        .code(1)
        .says("the server ended 3 times while it ran this build")
        .says("what to do: ask the operator for the server's log");
    assert_eq!(
        server.sealwright(["get", "--json", "deadly"]).ok().json()["failure"]["reason"],
        "TOO_MANY_RESTARTS"
    );
}

#[test]
fn what_was_in_memory_only_fails_its_build_with_the_advice_to_submit_again() {
    let mut server =
        DevServer::with(Settings { operations: Some("[builds]\nparallel = 1\n"), ..Settings::default() });
    let base = format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display());
    std::fs::write(server.work().join("token"), "a-token-of-the-crash-test\n").expect("file");
    let secret = format!("id=token,src={}", server.work().join("token").display());
    let long =
        context(&server, "long", "FROM debian:bookworm\nRUN echo begun; sleep 300\n").display().to_string();
    let short = context(&server, "short", "FROM scratch\nCOPY Dockerfile /\n").display().to_string();
    let layouts = ["long", "secret", "plain"]
        .map(|id| format!("type=oci,dest={}", server.work().join(format!("{id}.oci")).display()));
    let common = ["build", "--progress", "plain", "--build-id"];
    // The first holds the only slot; a secret and no secret wait behind it.
    let long = ["long", "--secret", &secret, "--build-context", &base, "--output", &layouts[0], &long];
    let mut long = Running::start(&server, "long", &[&common[..], &long].concat());
    wait_for("the step's output", LIMIT, || {
        std::fs::read_to_string(&long.stderr).ok().filter(|text| text.contains(" begun\n"))
    });
    let with_secret = ["secret", "--secret", &secret, "--output", &layouts[1], &short];
    let mut with_secret = Running::start(&server, "secret", &[&common[..], &with_secret].concat());
    let plain = ["plain", "--output", &layouts[2], &short];
    let mut plain = Running::start(&server, "plain", &[&common[..], &plain].concat());
    wait_for("both to wait", LIMIT, || {
        let queued = server.sealwright(["list", "--json", "--state", "queued"]).json();
        (queued["builds"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    server.kill9();
    server.restart();
    for lost in [&mut long, &mut with_secret] {
        lost.end()
            .code(1)
            .says("the server was restarted, and the build's secrets were in its memory only")
            .says("what to do: submit the build again under a new id")
            .says("nothing was signed or published");
    }
    plain.end().ok();
    for (id, states) in [
        ("long", &["QUEUED", "RUNNING", "FAILED"][..]),
        ("secret", &["QUEUED", "FAILED"]),
        ("plain", &["QUEUED", "RUNNING", "SUCCEEDED"]),
    ] {
        let log = log(&server, id);
        let changes: Vec<&Value> =
            log.iter().map(|e| &e["stateChanged"]["build"]["state"]).filter(|s| !s.is_null()).collect();
        assert_eq!(changes, states, "{id}");
        let failure = &server.sealwright(["get", "--json", id]).ok().json()["failure"]["reason"];
        assert_eq!(*failure, if id == "plain" { Value::Null } else { "SECRETS_LOST".into() }, "{id}");
    }
}

#[test]
fn two_servers_do_not_share_a_state_directory() {
    let server = DevServer::start();
    let said = server.second_on_same_state();
    assert!(said.contains(&server.state().display().to_string()), "the directory is named: {said}");
    assert!(
        said.contains(&format!("is in use by process {}", server.service_pid())),
        "the other is named: {said}"
    );
    assert!(said.contains("stop it first, or choose another state directory"), "what to do: {said}");
    // The first is none the worse for it.
    server.sealwright(["list"]).ok();
    assert_eq!(server.terminate(), 0);
}

#[test]
fn a_server_that_is_told_to_stop_leaves_no_process_and_no_mount() {
    let server = DevServer::start();
    let base = format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display());
    let source =
        context(&server, "long", "FROM debian:bookworm\nRUN echo begun; sleep 300\n").display().to_string();
    let output = format!("type=oci,dest={}", server.work().join("long.oci").display());
    let arguments = [
        "build",
        "--progress",
        "plain",
        "--build-id",
        "long",
        "--build-context",
        &base,
        "--output",
        &output,
        &source,
    ];
    let mut running = Running::start(&server, "long", &arguments);
    wait_for("the step's output", LIMIT, || {
        std::fs::read_to_string(&running.stderr).ok().filter(|text| text.contains(" begun\n"))
    });
    let state = server.state().display().to_string();
    assert!(!processes(&state).is_empty(), "the daemon and the step name the state directory");
    server.sealwright(["cancel", "long"]).ok();
    running.end().code(1).says("cancelled");
    wait_for("the step's end", LIMIT, || {
        let sleeping = processes(&state).into_iter().any(|line| line.contains("sleep 300"));
        (!sleeping).then_some(())
    });
    assert_eq!(server.terminate(), 0);
    assert_eq!(processes(&state), Vec::<String>::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&state), "{mounts}");
}

/// Command lines of the processes that name `path`, or have a mount of it in a namespace of their own.
fn processes(path: &str) -> Vec<String> {
    let host = std::fs::read_link("/proc/self/ns/mnt").expect("namespace");
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let other =
            std::fs::read_link(process.path().join("ns/mnt")).is_ok_and(|namespace| namespace != host);
        let mounted = other && String::from_utf8_lossy(&read("mountinfo")).contains(path);
        // The shell that watches over the server for this test names it too.
        if (line.contains(path) || mounted) && !line.contains(" supervise ") {
            found.push(line);
        }
    }
    found
}
