//! Builds that go wrong in a real daemon: each failure is an error of its own, and nothing of it stays.

mod buildkit_support;

use std::path::Path;
use std::process::Command;

use build_server::buildkit::{AgentHub, EngineError, Export};
use build_server::secrets::{RegistryCredentials, RegistryLogin, SecretValues};
use buildkit_support::{Bench, endless, mounts_with, output, processes_with, request, small_root};
use http::Method;
use provenance::request::{Compression, Output, SecretsCommitment};
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::registry::{Fault, FaultRegistry, Guard};
use sealwright_tests::small_disk::SmallDisk;
use zeroize::Zeroizing;

/// A directory with the small root file system in `root`.
fn rooted() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    small_root(&directory.path().join("root"));
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_gives_its_output_its_exit_code_and_its_place() {
    let (bench, context) = (Bench::in_memory(), rooted());
    let step = "RUN echo to-stdout; echo to-stderr >&2; exit 42";
    let (result, events) = bench.build(bench.with_root(context.path(), step)).await;
    let error = result.expect_err("fails");
    let EngineError::Step { step: name, exit_code: 42, source_excerpts } = &error else {
        panic!("{error:?}")
    };
    assert!(name.contains(step), "{name}");
    assert_eq!((source_excerpts[0].marked.as_slice(), source_excerpts[0].first_line), (&[3][..], 1));
    assert_eq!(source_excerpts[0].lines, ["FROM scratch", "COPY root /", step]);
    let said = output(&events);
    assert!(said.contains("to-stdout\n") && said.contains("to-stderr\n"), "{said}");
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_shows_its_lines() {
    let bench = Bench::in_memory();
    let dockerfile = "FROM scratch\n\nCOPY a /\nRUNN x\nCOPY b /\n";
    let error = bench.build_files(&[("Dockerfile", dockerfile)]).await.expect_err("fails");
    let EngineError::Frontend { message, source_excerpts } = &error else { panic!("{error:?}") };
    assert!(message.contains("unknown instruction: RUNN"), "{message}");
    assert_eq!(source_excerpts[0].marked, [4]);
    assert_eq!(source_excerpts[0].lines, ["FROM scratch", "", "COPY a /", "RUNN x", "COPY b /"]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_takes_its_steps_along_and_the_next_build_gets_a_new_one() {
    let (bench, context) = (Bench::in_memory(), rooted());
    let mut running =
        bench.start(bench.with_root(context.path(), &format!("RUN echo running; exec {}", endless(1)))).await;
    running.wait_for_output("running").await;
    let daemon = bench.daemon().await.process_id();
    let daemon = rustix::process::Pid::from_raw(i32::try_from(daemon).expect("a pid")).expect("a pid");
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).expect("it runs");
    let error = running.end().await.expect_err("dies");
    assert!(matches!(error, EngineError::DaemonDied { .. }), "{error:?}");
    assert_eq!(processes_with(&endless(1)), Vec::<String>::new());
    let again = bench.build(bench.with_root(context.path(), "RUN echo again")).await;
    again.0.expect("builds");
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_has_no_process_left_and_the_daemon_goes_on() {
    let (bench, context) = (Bench::in_memory(), rooted());
    // A step that does not end when asked to, with a child of its own.
    let step = format!("RUN trap '' TERM INT; {0} & echo running; {0}", endless(2));
    let mut running = bench.start(bench.with_root(context.path(), &step)).await;
    running.wait_for_output("running").await;
    let limit = std::time::Duration::from_secs(60);
    wait_for("both of the step's processes", limit, || {
        (processes_with(&endless(2)).len() == 2).then_some(())
    });
    let before = bench.daemon().await.process_id();
    running.cancel.cancel();
    let error = running.end().await.expect_err("is cancelled");
    assert!(matches!(error, EngineError::Cancelled), "{error:?}");
    assert_eq!(processes_with(&endless(2)), Vec::<String>::new());
    assert_eq!(bench.daemon().await.process_id(), before);
    bench.engine.shutdown().await;
}

fn uncompressed() -> Output {
    Output::Image {
        compression: Compression::Uncompressed,
        names: Vec::new(),
        push: false,
        rewrite_timestamp: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_the_engine_builds_again_when_there_is_space() {
    let disk = SmallDisk::new(64);
    let bench = Bench::at(disk.path(), |_| {});
    let large = "x".repeat(40 << 20);
    let files = [("Dockerfile", "FROM scratch\nCOPY large /a\n"), ("large", large.as_str())];
    let error = bench.build_files(&files).await.expect_err("twice 40 MB do not fit");
    assert!(matches!(error, EngineError::DiskFull { .. }), "{error:?}");
    bench
        .build_files(&[("Dockerfile", "FROM scratch\nCOPY small /\n"), ("small", "s")])
        .await
        .expect("builds");

    // Our side of it: the result does not fit.
    let results = SmallDisk::new(1);
    let noise: String = (0..200_000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let root = bench.store.put_files(&[("Dockerfile", "FROM scratch\nCOPY noise /\n"), ("noise", &noise)]);
    let mut inputs = bench.inputs(request(root));
    inputs.request.output = uncompressed();
    inputs.scratch = results.path().join("scratch");
    std::fs::create_dir(&inputs.scratch).expect("created");
    let error = bench.build(inputs).await.0.expect_err("does not fit");
    assert!(matches!(error, EngineError::DiskFull { .. }), "{error:?}");
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_answers_is_told_apart() {
    let bench = Bench::in_memory();
    let build = async |host: &str, logins: RegistryCredentials| {
        let root = bench
            .store
            .put_files(&[("Dockerfile", &format!("FROM {host}/app401.403.404:1\nCOPY Dockerfile /\n"))]);
        let mut inputs = bench.inputs(request(root));
        inputs.credentials = std::sync::Arc::new(logins);
        bench.build(inputs).await.0.expect_err("there is no such image")
    };
    let login = |host: &str, password: &str| {
        let login = RegistryLogin {
            username: "robot".to_owned(),
            password: Zeroizing::new(password.to_owned()),
            identity_token: Zeroizing::default(),
        };
        RegistryCredentials::new(vec![(host.to_owned(), login)]).expect("valid")
    };
    let none = RegistryCredentials::default;

    let open = FaultRegistry::start(Guard::Open, true).await;
    let error = build(&open.host(), none()).await;
    let EngineError::BaseImageMissing { reference, source_excerpts, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*reference, format!("{}/app401.403.404:1", open.host()));
    assert_eq!(source_excerpts[0].marked, [1]);

    let guarded = FaultRegistry::start(Guard::Basic("robot", "right"), true).await;
    let error = build(&guarded.host(), none()).await;
    let EngineError::RegistryAuth { reference, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*reference, format!("{}/app401.403.404:1", guarded.host()));
    let error = build(&guarded.host(), login(&guarded.host(), "wrong-password")).await;
    assert!(matches!(error, EngineError::RegistryAuth { .. }), "{error:?}");
    assert!(!error.to_string().contains("wrong-password"), "{error}");
    // The right login gets past the guard; a login for another host is not shown to this one.
    let error = build(&guarded.host(), login(&guarded.host(), "right")).await;
    assert!(matches!(error, EngineError::BaseImageMissing { .. }), "{error:?}");
    let error = build(&guarded.host(), login("127.0.0.1:1", "right")).await;
    assert!(matches!(error, EngineError::RegistryAuth { .. }), "{error:?}");

    for (status, wanted) in [(403, "auth"), (429, "remote"), (500, "remote")] {
        let registry = FaultRegistry::start(Guard::Open, true).await;
        registry.fail(Method::GET, "/manifests/", usize::MAX, Fault::Status(status, Vec::new()));
        registry.fail(Method::HEAD, "/manifests/", usize::MAX, Fault::Status(status, Vec::new()));
        let error = build(&registry.host(), none()).await;
        let got = match &error {
            EngineError::RegistryAuth { .. } => "auth",
            EngineError::Remote { .. } => "remote",
            other => panic!("{status}: {other:?}"),
        };
        assert_eq!(got, wanted, "{status}: {error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    // Nobody there.
    let error = build("127.0.0.1:1", none()).await;
    assert!(matches!(error, EngineError::Remote { .. }), "{error:?}");
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_for_a_machine_that_this_is_not_says_so() {
    let (bench, context) = (Bench::in_memory(), rooted());
    let foreign = if cfg!(target_arch = "s390x") { "linux/amd64" } else { "linux/s390x" };
    std::fs::remove_file(context.path().join("root/bin/sh")).expect("removed");
    std::fs::write(context.path().join("root/bin/sh"), foreign_program()).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(context.path().join("root/bin/sh"), mode).expect("mode");
    let mut inputs = bench.with_root(context.path(), "RUN echo never");
    inputs.request.platforms = vec![foreign.to_owned()];
    let error = bench.build(inputs).await.0.expect_err("cannot run");
    let EngineError::ForeignStep { step, source_excerpts } = &error else { panic!("{error:?}") };
    assert!(step.contains("RUN echo never"), "{step}");
    assert_eq!(source_excerpts[0].marked, [3]);
    // Without a step it is an image like any other.
    let mut inputs = bench.with_root(context.path(), "ENV a=b");
    inputs.request.platforms = vec![foreign.to_owned()];
    bench.build(inputs).await.0.expect("builds");
    bench.engine.shutdown().await;
}

/// Secrets for a request, with their commitment.
fn secrets(values: &[(&str, &[u8])]) -> (SecretsCommitment, SecretValues) {
    let plain = values.iter().map(|(id, value)| ((*id).to_owned(), value.to_vec())).collect();
    let commitment = SecretsCommitment {
        commitment: provenance::commitment::commit_to_secrets(&[7; 32], &plain),
        ids: values.iter().map(|(id, _)| (*id).to_owned()).collect(),
    };
    let held = values.iter().map(|(id, value)| ((*id).to_owned(), Zeroizing::new(value.to_vec()))).collect();
    let held = SecretValues::new(Some(&commitment), &[7; 32], held).expect("committed");
    (commitment, held)
}

/// Every file below a directory whose contents hold one of the texts.
fn files_with(directory: &Path, texts: &[&[u8]]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), texts));
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).expect("readable");
            if texts.iter().any(|text| bytes.windows(text.len()).any(|window| window == *text)) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_log_no_image_and_on_no_disk() {
    let (bench, context) = (Bench::in_memory(), rooted());
    let token = b"hunter2-hunter3-hunter4";
    let key = b"-----BEGIN KEY-----\nfirst-line-of-it\nabc\nlast-line-of-it\n";
    // The token arrives in three messages, and on both streams; the key line by line, in another order.
    let steps = "RUN --mount=type=secret,id=token --mount=type=secret,id=key \
        f=/run/secrets/token; \
        for part in 0 7 14; do dd if=$f bs=1 skip=$part count=7 2>/dev/null; sleep 0.3; done; \
        dd if=$f bs=1 skip=21 2>/dev/null; echo; cat $f >&2; echo >&2; \
        while read -r line; do all=\"$line; $all\"; done < /run/secrets/key; echo \"$all\"; \
        echo abc; echo whole $(cat $f).; false";
    let mut inputs = bench.with_root(context.path(), steps);
    let (commitment, held) = secrets(&[("key", key), ("token", token)]);
    inputs.request.secrets = Some(commitment);
    // In the place of an argument it is a mistake of the caller's; what we print is masked all the same.
    inputs.request.labels.insert("note".to_owned(), "x".to_owned());
    inputs.secrets = std::sync::Arc::new(held);
    let (result, events) = bench.build(inputs).await;
    let error = result.expect_err("ends with false");
    assert!(matches!(error, EngineError::Step { exit_code: 1, .. }), "{error:?}");
    let said = output(&events);
    let everything = format!("{events:?}{error:?}{error}");
    for part in ["hunter2", "hunter3", "hunter4", "first-line", "last-line", "BEGIN KEY"] {
        assert!(!everything.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("***").count(), 6, "{said}");
    // Three bytes are too few to be masked by themselves.
    assert!(said.contains("abc") && said.contains("whole ***."), "{said}");

    let steps = "RUN --mount=type=secret,id=token --mount=type=secret,id=key,env=KEY \
        cat /run/secrets/token; test -n \"$KEY\"";
    let mut inputs = bench.with_root(context.path(), steps);
    let (commitment, held) = secrets(&[("key", key), ("token", token)]);
    inputs.request.secrets = Some(commitment);
    inputs.secrets = std::sync::Arc::new(held);
    inputs.request.output = uncompressed();
    let solved = bench.build(inputs).await.0.expect("builds");
    let Export::Image { layout, .. } = solved.export else { panic!("an image") };
    bench.engine.shutdown().await;
    let values = [&token[..], b"first-line-of-it"];
    assert_eq!(files_with(&layout, &values), Vec::<std::path::PathBuf>::new());
    assert_eq!(files_with(&bench.root, &values), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_in_the_middle_of_a_build_nothing_is_left() {
    let (bench, context) = (Bench::in_memory(), rooted());
    let running = format!("RUN echo running; exec {}", endless(3));
    let mut running = bench.start(bench.with_root(context.path(), &running)).await;
    running.wait_for_output("running").await;
    let root = bench.root.display().to_string();
    let socket = bench.daemon().await.socket().to_owned();
    assert!(!mounts_with(&root).is_empty() && socket.exists());
    bench.engine.shutdown().await;
    let error = running.end().await.expect_err("its daemon is gone");
    assert!(matches!(error, EngineError::DaemonDied { .. }), "{error:?}");
    assert_eq!(processes_with(&endless(3)), Vec::<String>::new());
    assert_eq!(processes_with(&root), Vec::<String>::new());
    assert_eq!(mounts_with(&root), Vec::<String>::new());
    let private = socket.parent().and_then(Path::parent).expect("in the engine's private directory");
    assert!(!private.exists(), "{}", private.display());
    let name = private.file_name().expect("named").to_str().expect("ASCII");
    assert_eq!(control_groups_with(name), Vec::<String>::new());
}

fn control_groups_with(name: &str) -> Vec<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "3", "-name", &format!("{name}*")])
        .output();
    let found = String::from_utf8(found.expect("find is installed").stdout).expect("ASCII");
    found.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_with_a_long_path_works() {
    let directory = tempfile::tempdir().expect("a directory");
    let long = directory.path().join("x".repeat(90)).join("y".repeat(90));
    std::fs::create_dir_all(&long).expect("created");
    let (bench, context) = (Bench::at(&long, |_| {}), rooted());
    assert!(bench.root.as_os_str().len() > 190);
    // Many layers: their directories are named in one mount. An agent: its socket is made for the step.
    let mut steps: String = (0..25).map(|n| format!("COPY Dockerfile /{n}\n")).collect();
    steps += "RUN --mount=type=ssh ls -l $SSH_AUTH_SOCK && ls /24";
    let mut inputs = bench.with_root(context.path(), &steps);
    let hub = AgentHub::new(["default".to_owned()]);
    let _attached = hub.attach("default").expect("attached");
    inputs.request.ssh = vec!["default".to_owned()];
    inputs.agents = Some(hub);
    let (result, events) = bench.build(inputs).await;
    result.expect("builds");
    assert!(output(&events).contains("srw"), "{}", output(&events));
    bench.engine.shutdown().await;
}

/// The head of an ELF program for a machine that this is not.
fn foreign_program() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x02\x01".to_vec();
    program.resize(64, 0);
    // e_type: executable; e_machine: S/390, or x86-64 on that.
    program[17] = 2;
    program[19] = if cfg!(target_arch = "s390x") { 62 } else { 22 };
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_get_no_privileges_however_they_ask() {
    let (bench, context) = (Bench::in_memory(), rooted());
    for (step, privilege) in
        [("RUN --security=insecure true", "security.insecure"), ("RUN --network=host true", "network.host")]
    {
        let error = bench.build(bench.with_root(context.path(), step)).await.0.expect_err(step);
        let EngineError::Privilege { privilege: asked } = &error else { panic!("{error:?}") };
        assert_eq!(asked, privilege);
    }
    // A step sees no device but those that every container has, no socket of the daemon's, no switch of the kernel's.
    let look = "RUN for file in /dev/otel-grpc.sock /dev/kmsg /dev/mem /dev/fuse /dev/sda /dev/vda /dev/sev-guest /sys/kernel/config/tsm; do \
        test -e $file && echo found $file; done; (echo x > /proc/sysrq-trigger) 2>/dev/null && echo written; true";
    let (result, events) = bench.build(bench.with_root(context.path(), look)).await;
    result.expect("builds");
    assert_eq!(output(&events), "");
    bench.engine.shutdown().await;
}
