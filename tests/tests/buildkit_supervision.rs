//! The daemons: one per project, started on demand, stopped when idle, with the limits and registries that were
//! configured.

mod buildkit_support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use build_server::buildkit::{Daemon, Export, SourceKind, solve};
use buildkit_support::{Bench, output, processes_with, request, small_root};
use provenance::digest::Sha256Digest;
use provenance::project::Project;
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::tool;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

fn other_project() -> Project {
    Project::new("another", [Sha256Digest::of(b"somebody else")]).expect("valid")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

/// Runs `buildctl` on a daemon and gives what it prints.
fn buildctl(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new(tool("buildctl"));
    command.arg("--addr").arg(format!("unix://{}", daemon.socket().display())).args(arguments);
    let output = command.output().expect("buildctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projects_build_at_once_in_daemons_of_their_own() {
    let (bench, context) = (Bench::in_memory(), tempfile::tempdir().expect("a directory"));
    small_root(&context.path().join("root"));
    let (one, other) =
        (bench.daemon().await, bench.engine.daemon(&other_project().id()).await.expect("a daemon"));
    assert_eq!(one.process_id(), bench.daemon().await.process_id());
    assert_ne!(one.process_id(), other.process_id());
    assert_ne!(one.socket(), other.socket());
    for daemon in [&one, &other] {
        assert_eq!(mode(daemon.socket()), 0o600);
        assert_eq!(mode(daemon.socket().parent().expect("in a directory")), 0o710);
        // When memory runs out, the kernel ends a daemon or its steps, not the process that holds the keys.
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.process_id()));
        assert_eq!(score.expect("it runs").trim(), "1000");
    }
    // Each waits for the other: both run at the same time, in separate file systems but on one clock.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let both = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut callers = [listener.accept().expect("the first").0, listener.accept().expect("the second").0];
        callers.iter_mut().for_each(|caller| caller.write_all(b"go on\n").expect("it waits"));
    });
    let step = format!("RUN nc 127.0.0.1 {port}");
    let build = async |daemon: &Daemon| {
        let (events, mut receiver) = tokio::sync::mpsc::channel(16);
        let inputs = bench.with_root(context.path(), &step);
        let drain = async { while receiver.recv().await.is_some() {} };
        tokio::join!(solve(daemon, inputs, events, CancellationToken::new()), drain).0
    };
    let (first, second) = tokio::join!(build(&one), build(&other));
    let (first, second) = (first.expect("builds"), second.expect("builds"));
    both.join().expect("they met");
    // Nothing of one project's cache is seen by the other.
    let cached = |solved: &build_server::buildkit::Solved| solved.capture.vertices.iter().any(|v| v.cached);
    assert!(!cached(&first) && !cached(&second));
    let directories = std::fs::read_dir(&bench.root).expect("readable").count();
    assert_eq!(directories, 2);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_is_stopped_and_its_cache_stays() {
    let bench = Bench::in_memory_with(|settings| settings.options.idle_stop = Duration::from_millis(300));
    let files = [("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")];
    let daemon = bench.daemon().await;
    bench.build_files(&files).await.expect("builds");
    let (first, root) = (daemon.process_id(), bench.root.display().to_string());
    // Whoever holds a daemon keeps it: much longer than its idle time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!daemon.has_ended());
    drop(daemon);
    tokio::task::spawn_blocking(move || {
        wait_for("the daemon's end", LIMIT, || processes_with(&root).is_empty().then_some(()));
    })
    .await
    .expect("it ends");
    let again = bench.build_files(&files).await.expect("builds");
    assert_ne!(bench.daemon().await.process_id(), first);
    let copy = again.capture.vertices.iter().find(|v| v.name.contains("COPY a")).expect("a step");
    assert!(copy.cached);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_daemon_and_its_log_and_history_are_where_they_belong() {
    let bench = Bench::in_memory_with(|settings| {
        settings.engine_process.cache_limit_bytes = 123_000_000;
        settings.engine_process.max_parallel_steps = 1;
    });
    let context = tempfile::tempdir().expect("a directory");
    small_root(&context.path().join("root"));
    // Two stages that could run side by side.
    let steps = "FROM scratch AS a\nCOPY root /\nRUN echo a-begins; sleep 1; echo a-ends > /a; cat /a\n\
                 FROM scratch AS b\nCOPY root /\nRUN echo b-begins; sleep 1; echo b-ends > /b; cat /b\n\
                 FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    let (result, events) = bench.build(bench.with_root(context.path(), steps)).await;
    result.expect("builds");
    let said = output(&events);
    let order: Vec<&str> = said.lines().collect();
    let alternatives =
        [["a-begins", "a-ends", "b-begins", "b-ends"], ["b-begins", "b-ends", "a-begins", "a-ends"]];
    assert!(alternatives.iter().any(|one| order == one), "{order:?}");

    let daemon = bench.daemon().await;
    let workers: serde_json::Value =
        serde_json::from_str(&buildctl(&daemon, &["debug", "workers", "--format", "{{json .}}"]))
            .expect("JSON");
    let text = workers.to_string();
    assert!(text.contains("123000000"), "{text}");
    wait_for("the builds to be forgotten", LIMIT, || {
        let histories = buildctl(&daemon, &["debug", "histories", "--format", "{{json .}}"]);
        histories.trim().is_empty().then_some(())
    });
    let log = std::fs::read_dir(&bench.root)
        .expect("readable")
        .next()
        .expect("a project")
        .expect("an entry")
        .path();
    let log = log.join("buildkitd.log");
    assert_eq!(mode(&log), 0o600);
    let text = std::fs::read_to_string(&log).expect("text");
    assert!(text.contains("running server on"), "{text}");
    assert!(!text.contains("a-begins"), "what steps print is not in it: {text}");
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_the_mirror_over_plain_http_on_loopback() {
    let registry = RegistryProcess::crane();
    let host = registry.host();
    let mirrors = BTreeMap::from([
        ("docker.io".to_owned(), vec![host.clone()]),
        ("registry.example".to_owned(), vec![format!("{host}/below")]),
    ]);
    let bench = Bench::in_memory_with(|settings| settings.engine_process.registry_mirrors = mirrors);
    let base =
        bench.build_files(&[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "a")]).await.expect("builds");
    let Export::Image { layout, root, .. } = base.export else { panic!("an image") };
    for repository in ["library/app", "below/team/app"] {
        let pushed = Command::new(tool("crane"))
            .args(["push", "--insecure"])
            .arg(&layout)
            .arg(format!("{host}/{repository}:1"))
            .output()
            .expect("crane runs");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }
    for image in ["app:1", "registry.example/team/app:1", &format!("{host}/library/app:1")] {
        let dockerfile = format!("FROM {image}\nCOPY Dockerfile /\n");
        let solved = bench.build_files(&[("Dockerfile", dockerfile.as_str())]).await.expect(image);
        let [source] = solved.capture.sources.as_slice() else { panic!("{:?}", solved.capture.sources) };
        assert_eq!(source.kind, SourceKind::Image);
        let digest = source.digest.as_ref().map(|digest| digest.hex.clone());
        assert_eq!(digest, Some(root.digest.hex().to_string()), "{image}");
        assert!(source.requested.ends_with("app:1"), "{}", source.requested);
    }
    // A request names its own; what is not in the mirror is not there.
    let root = bench.store.put_files(&[("Dockerfile", "FROM registry.example/gone:1\n")]);
    let error = bench.build(bench.inputs(request(root))).await.0.expect_err("there is no such image");
    assert!(error.to_string().contains("registry.example/gone:1"), "{error}");
    bench.engine.shutdown().await;
}
