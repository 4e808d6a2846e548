//! What the service limits: directories that lead elsewhere, sizes of contexts, builds at once, and how long what ended
//! is kept.

mod api_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use api_support::{Caller, Client, LOG_EVENTS, TestServer, reason, state};
use build_server::context_store::{Completeness, ContextStore, PinnedRoot, StoreLimits};
use build_server::jobs::{JobLimits, JobStore, Retired};
use proto::v1;
use proto::v1::build::State;
use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use provenance::request::Source;
use sealwright_tests::small_disk::SmallDisk;
use tonic::Code;

const DAY: Duration = Duration::from_secs(86_400);

fn entry(name: &[u8], kind: Kind) -> Entry {
    Entry { name: Name::new(name).expect("a name"), mode: 0o644, mtime_ns: 0, xattrs: BTreeMap::new(), kind }
}

fn file(name: &[u8], contents: &[u8]) -> Entry {
    entry(name, Kind::File { size: contents.len() as u64, digest: Sha256Digest::of(contents) })
}

async fn put(client: &Client, parent: &str, blobs: &[&[u8]]) {
    let message = v1::UploadBlobsRequest {
        parent: parent.to_owned(),
        blobs: blobs.iter().map(|blob| blob.to_vec().into()).collect(),
        chunk: None,
    };
    client.upload(vec![message]).await.expect("stored");
}

/// How a build of the context with this root directory ends.
async fn build(client: &Client, caller: &Caller, id: &str, root: Sha256Digest) -> v1::Build {
    let mut request = caller.request(id);
    request.context = Source::Tree { root };
    request.dockerfile.root = Some(root);
    client.create(caller.create(&request)).await.expect("created");
    client.end(&caller.build(id)).await
}

/// The blob with `from` replaced by as many other bytes.
fn altered(blob: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = blob.windows(from.len()).position(|window| window == from).expect("is there");
    [&blob[..at], to, &blob[at + from.len()..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_lead_out_of_the_context_are_refused() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let plain = Directory::new(vec![file(b"Dockerfile", b"FROM scratch\n"), file(b"zzzz", b"")])
        .expect("valid")
        .encode();
    let link = |first: &[u8]| {
        let kind =
            Kind::HardLink { first: first.to_vec(), size: 13, digest: Sha256Digest::of(b"FROM scratch\n") };
        Directory::new(vec![file(b"Dockerfile", b"FROM scratch\n"), entry(b"link", kind)]).map(|d| d.encode())
    };
    let good = link(b"Dockerfile").expect("valid");
    put(&client, &parent, &[b"FROM scratch\n", b"", &plain, &good]).await;
    for (id, blob) in [("ok-plain", &plain), ("ok-link", &good)] {
        assert_eq!(build(&client, &caller, id, Sha256Digest::of(blob)).await.state(), State::Succeeded);
    }
    let cases: [(&str, Vec<u8>); 8] = [
        ("parent", altered(&altered(&plain, b"Dockerfile", b"..........").to_vec(), b"zzzz", b"zz/z")),
        ("slash", altered(&plain, b"zzzz", b"zz/z")),
        ("absolute", altered(&plain, b"zzzz", b"/zzz")),
        ("nul", altered(&plain, b"zzzz", b"zz\0z")),
        ("link-up", altered(&good, b"\x0aDockerfile", b"\x0a../../../x").to_vec()),
        ("link-absolute", replace_last(&good, b"Dockerfile", b"/etc/shado")),
        ("link-up-last", replace_last(&good, b"Dockerfile", b"../../.._x")),
        ("order", altered(&plain, b"zzzz", b"AAAA")),
    ];
    for (what, blob) in cases {
        put(&client, &parent, &[&blob]).await;
        let ended = build(&client, &caller, &format!("ok-{what}"), Sha256Digest::of(&blob)).await;
        assert_eq!(ended.state(), State::Failed, "{what}");
        assert_eq!(ended.failure.expect("a reason").reason, "CONTEXT_INVALID", "{what}");
        let name = format!("{parent}/contexts/{}", Sha256Digest::of(&blob).hex());
        let refused =
            client.contexts().get_context(client.ask(v1::GetContextRequest { name })).await.expect_err(what);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "CONTEXT_INVALID"),
            "{what}"
        );
    }
    // Two names only: `.` and `..`.
    for (id, name) in [("ok-dot", &b"."[..]), ("ok-dots", b"..")] {
        let short = Directory::new(vec![file(&b"zz"[..name.len()], b"")]).expect("valid").encode();
        let blob = altered(&short, &b"zz"[..name.len()], name);
        put(&client, &parent, &[&blob]).await;
        let ended = build(&client, &caller, id, Sha256Digest::of(&blob)).await;
        assert_eq!(ended.failure.expect("a reason").reason, "CONTEXT_INVALID", "{id}");
    }
}

fn replace_last(blob: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = blob.windows(from.len()).rposition(|window| window == from).expect("is there");
    [&blob[..at], to, &blob[at + from.len()..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_with_too_many_entries_is_refused_with_what_to_do() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[contexts]\nentries = 3\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let tree = |names: &[&[u8]]| {
        Directory::new(names.iter().map(|name| file(name, b"")).collect()).expect("valid").encode()
    };
    let (fits, large) = (tree(&[b"a", b"b", b"c"]), tree(&[b"a", b"b", b"c", b"d"]));
    put(&client, &caller.parent(), &[b"", &fits, &large]).await;
    assert_eq!(build(&client, &caller, "ok-fits", Sha256Digest::of(&fits)).await.state(), State::Succeeded);
    let failure =
        build(&client, &caller, "ok-large", Sha256Digest::of(&large)).await.failure.expect("a reason");
    assert_eq!(failure.reason, "CONTEXT_INVALID");
    assert!(failure.message.contains("more than 3 entries"), "{}", failure.message);
    assert!(failure.advice.contains(".dockerignore"), "{}", failure.advice);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_builds_run_at_once_than_configured_and_projects_share_the_slots() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 2\n");
    let (caller, other) = (Caller::new(), Caller::new());
    let (client, other_client) = (server.client(&caller).await, server.client(&other).await);
    client.create(caller.create(&caller.request("gate-1"))).await.expect("created");
    other_client.create(other.create(&other.request("gate-1"))).await.expect("created");
    while client.state(&caller.build("gate-1")).await.state() != State::Running
        || other_client.state(&other.build("gate-1")).await.state() != State::Running
    {
        tokio::task::yield_now().await;
    }
    client.create(caller.create(&caller.request("gate-2"))).await.expect("created");
    client.create(caller.create(&caller.request("gate-3"))).await.expect("created");
    // One that is cancelled while it waits takes no slot with it.
    client.cancel(&caller.build("gate-3")).await.expect("cancelled");
    assert_eq!(client.end(&caller.build("gate-3")).await.state(), State::Cancelled);
    assert_eq!(client.state(&caller.build("gate-2")).await.state(), State::Queued);
    assert_eq!(server.runner.started.load(std::sync::atomic::Ordering::SeqCst), 2);
    server.runner.open();
    for ended in [client.end(&caller.build("gate-1")).await, client.end(&caller.build("gate-2")).await] {
        assert_eq!(ended.state(), State::Succeeded, "{:?}", ended.failure);
    }
    assert_eq!(other_client.end(&other.build("gate-1")).await.state(), State::Succeeded);
}

/// Limits that nothing reaches.
const UNLIMITED: JobLimits =
    JobLimits { result_bytes: u64::MAX, result_age: DAY, log_bytes: u64::MAX, build_age: DAY };

/// What retention keeps, as the second process on the database of a server that runs.
fn sweep(state: &Path, limits: JobLimits, later: Duration) -> Retired {
    let jobs = JobStore::open(&state.join("jobs.sqlite")).expect("opens");
    jobs.sweep(&limits, &state.join("results"), SystemTime::now() + later).expect("sweeps")
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_builds_go_by_age_and_size_the_oldest_first_and_nothing_in_use() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 1\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let mut digests = Vec::new();
    for id in ["ok-1", "ok-2", "ok-3"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
        digests.push(client.end(&caller.build(id)).await.result.expect("a result").blobs[0].clone());
    }
    for id in ["gate-runs", "ok-waits"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
    }
    while client.state(&caller.build("gate-runs")).await.state() != State::Running {
        tokio::task::yield_now().await;
    }
    let kept = async |index: usize| {
        let name = caller.build(&format!("ok-{}", index + 1));
        match client.read(&name, &digests[index].digest, 0).await {
            Ok(_) => "kept".to_owned(),
            Err(status) => reason(&status),
        }
    };
    let nothing = Retired::default();
    assert_eq!(sweep(directory.path(), UNLIMITED, Duration::ZERO), nothing);
    assert_eq!(sweep(directory.path(), UNLIMITED, DAY - Duration::from_secs(60)), nothing);

    // Room for two results: the oldest goes, its build stays.
    let limits = JobLimits { result_bytes: 2 * digests[0].size, ..UNLIMITED };
    assert_eq!(sweep(directory.path(), limits, Duration::ZERO), Retired { results: 1, ..nothing });
    assert_eq!([kept(0).await, kept(1).await, kept(2).await], ["RESULT_EXPIRED", "kept", "kept"]);
    assert!(!directory.path().join(format!("results/{}/ok-1", caller.project.id())).exists());
    assert_eq!(client.state(&caller.build("ok-1")).await.state(), State::Succeeded);
    assert_eq!(sweep(directory.path(), limits, Duration::ZERO), nothing, "it goes once");

    // Results by age, without their builds.
    let limits = JobLimits { result_age: DAY / 2, ..UNLIMITED };
    assert_eq!(sweep(directory.path(), limits, DAY * 3 / 4), Retired { results: 2, ..nothing });
    assert_eq!([kept(1).await, kept(2).await], ["RESULT_EXPIRED", "RESULT_EXPIRED"]);

    // Logs by size: the oldest builds go whole. What runs or waits stays, however long its log.
    let events: u64 = client.watch(&caller.build("ok-3"), 0).await.len() as u64;
    assert!((1..LOG_EVENTS).contains(&events));
    let limits = JobLimits { log_bytes: 0, ..UNLIMITED };
    assert_eq!(sweep(directory.path(), limits, Duration::ZERO), Retired { builds: 3, ..nothing });
    let request = client.ask(v1::GetBuildRequest { name: caller.build("ok-3") });
    let gone = client.builds().get_build(request).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);

    // Nothing of what has not ended is touched by any limit.
    let strictest =
        JobLimits { result_bytes: 0, result_age: Duration::ZERO, log_bytes: 0, build_age: Duration::ZERO };
    assert_eq!(sweep(directory.path(), strictest, DAY * 1000), nothing);
    server.runner.open();
    for id in ["gate-runs", "ok-waits"] {
        assert_eq!(client.end(&caller.build(id)).await.state(), State::Succeeded, "{id}");
    }
    // Builds by age.
    assert_eq!(sweep(directory.path(), UNLIMITED, DAY * 2), Retired { builds: 2, ..nothing });
    let results = directory.path().join(format!("results/{}", caller.project.id()));
    assert_eq!(std::fs::read_dir(results).expect("readable").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_go_by_age_and_those_that_a_build_holds_stay() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let shared = b"in both";
    let tree = |own: &[u8]| {
        Directory::new(vec![file(b"own", own), file(b"shared", shared)]).expect("valid").encode()
    };
    let (held, idle) = (tree(b"held"), tree(b"idle"));
    put(&client, &parent, &[shared, b"held", b"idle", &held, &idle, b"of no context"]).await;
    for tree in [&held, &idle] {
        let name = format!("{parent}/contexts/{}", Sha256Digest::of(tree).hex());
        let context =
            client.contexts().get_context(client.ask(v1::GetContextRequest { name })).await.expect("answers");
        assert!(context.into_inner().complete);
    }
    server.stop().await;

    let limits = StoreLimits { max_age: DAY, ..StoreLimits::default() };
    let store = ContextStore::open(&directory.path().join("contexts"), limits).expect("opens");
    let project = store.project(&caller.project.id());
    let pin = project.pin(vec![PinnedRoot::Tree(Sha256Digest::of(&held))]);
    let now = SystemTime::now();
    assert_eq!(store.sweep(now).expect("sweeps").blobs, 0, "what is young stays, whoever needs it");
    let swept = store.sweep(now + DAY / 2).expect("sweeps");
    assert_eq!((swept.blobs, swept.bytes), (1, b"of no context".len() as u64));
    let swept = store.sweep(now + DAY * 2).expect("sweeps");
    assert_eq!((swept.blobs, swept.bytes), (2, (b"idle".len() + idle.len()) as u64));
    let look = |tree: &[u8]| project.completeness(&PinnedRoot::Tree(Sha256Digest::of(tree))).expect("looks");
    assert_eq!(look(&held), Completeness::Complete);
    assert_eq!(look(&idle), Completeness::Missing(Sha256Digest::of(&idle)));
    drop(pin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_new_and_loses_nothing() {
    let disk = SmallDisk::new(24);
    let directory = disk.path().join("state");
    std::fs::create_dir(&directory).expect("created");
    let server = TestServer::start(&directory);
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    client.create(caller.create(&caller.request("ok-before"))).await.expect("created");
    let before =
        client.end(&caller.build("ok-before")).await.result.expect("a result").blobs[0].digest.clone();
    client.create(caller.create(&caller.request("wait-1"))).await.expect("created");
    while client.state(&caller.build("wait-1")).await.state() != State::Running {
        tokio::task::yield_now().await;
    }
    disk.fill();

    let blob = vec![7; 2 << 20];
    let message =
        v1::UploadBlobsRequest { parent: parent.clone(), blobs: vec![blob.clone().into()], chunk: None };
    let refused = client.upload(vec![message.clone()]).await.expect_err("no space");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "DISK_FULL"), "{refused}");
    let refused = client.create(caller.create(&caller.request("ok-full"))).await.expect_err("no space");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "DISK_FULL"), "{refused}");
    // What was there can still be read, and a build can be told to end.
    assert_eq!(client.read(&caller.build("ok-before"), &before, 0).await.expect("readable").len(), 5 << 19);
    client.cancel(&caller.build("wait-1")).await.expect("told");

    disk.empty();
    let ended = client.end(&caller.build("wait-1")).await;
    assert_eq!(
        (ended.state(), ended.failure.expect("a reason").reason.as_str()),
        (State::Cancelled, "CANCELLED")
    );
    client.upload(vec![message]).await.expect("stored");
    client.create(caller.create(&caller.request("ok-full"))).await.expect("created");
    assert_eq!(client.end(&caller.build("ok-full")).await.state(), State::Succeeded);
}
