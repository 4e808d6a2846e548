//! Restarts: nothing is lost, nothing is doubled, and what was in memory only is said to be gone.

mod api_support;

use api_support::{Caller, TestServer, state};
use build_server::jobs::JobError;
use build_server::service::StartError;
use proto::v1;
use proto::v1::build::State;
use proto::v1::build_event::Event;

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_ran_or_waited_go_on_after_a_kill_with_every_event_once() {
    let directory = state();
    let caller = Caller::new();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 1\n");
    let client = server.client(&caller).await;
    for id in ["gate-1", "ok-2"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
    }
    while client.state(&caller.build("gate-1")).await.state() != State::Running {
        tokio::task::yield_now().await;
    }
    server.kill().await;

    let server = TestServer::with(directory.path(), "[builds]\nparallel = 1\n");
    assert_eq!(server.recovered, (2, 0));
    server.runner.open();
    let client = server.client(&caller).await;
    let events = client.watch(&caller.build("gate-1"), 0).await;
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    let story: Vec<String> = events
        .iter()
        .map(|event| match event.event.as_ref().expect("an event") {
            Event::StateChanged(changed) => {
                changed.build.as_ref().expect("a build").state().as_str_name().to_owned()
            }
            Event::Milestone(milestone) => milestone.stage.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(story, ["QUEUED", "RUNNING", "QUEUED", "resumed", "RUNNING", "signed", "SUCCEEDED"]);
    assert_eq!(client.end(&caller.build("ok-2")).await.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_with_secrets_or_logins_fail_after_a_kill_and_say_why() {
    let directory = state();
    let caller = Caller::new();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 1\n");
    let client = server.client(&caller).await;
    let value = b"hunter2-this-must-not-reach-a-disk";
    client.create(caller.create_with_secret("gate-1", value)).await.expect("created");
    let login = v1::RegistryCredential {
        host: "registry.example".to_owned(),
        username: "ci".to_owned(),
        password: "password-this-must-not-reach-a-disk".to_owned(),
        identity_token: "token-this-must-not-reach-a-disk".to_owned(),
    };
    let create = v1::CreateBuildRequest {
        registry_credentials: vec![login],
        ..caller.create(&caller.request("ok-2"))
    };
    client.create(create).await.expect("created");
    server.kill().await;
    for needle in [value.as_slice(), b"password-this-must", b"token-this-must", &[9; 32]] {
        assert_eq!(files_with(directory.path(), needle), Vec::<String>::new());
    }
    // The search would find them: the caller's request is there.
    assert_ne!(files_with(directory.path(), b"application/vnd.sealwright.request"), Vec::<String>::new());

    let server = TestServer::start(directory.path());
    assert_eq!(server.recovered, (0, 2));
    let client = server.client(&caller).await;
    for (id, what) in [("gate-1", "secrets"), ("ok-2", "registry logins")] {
        let ended = client.end(&caller.build(id)).await;
        assert_eq!(ended.state(), State::Failed);
        let failure = ended.failure.expect("a reason");
        assert_eq!(failure.reason, "SECRETS_LOST");
        assert!(failure.message.contains(what) && failure.advice.contains("again"), "{failure:?}");
    }
}

fn files_with(directory: &std::path::Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path).expect("readable").windows(needle.len()).any(|window| window == needle)
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_keeps_taking_the_server_down_is_given_up() {
    let directory = state();
    let caller = Caller::new();
    for attempt in 0..3 {
        let server = TestServer::start(directory.path());
        assert_eq!(server.recovered.1, 0, "attempt {attempt}");
        let client = server.client(&caller).await;
        if attempt == 0 {
            client.create(caller.create(&caller.request("wait-1"))).await.expect("created");
        }
        while client.state(&caller.build("wait-1")).await.state() != State::Running {
            tokio::task::yield_now().await;
        }
        server.kill().await;
    }
    let server = TestServer::start(directory.path());
    assert_eq!(server.recovered, (0, 1));
    let ended = server.client(&caller).await.end(&caller.build("wait-1")).await;
    assert_eq!(ended.failure.expect("a reason").reason, "TOO_MANY_RESTARTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_builds_end_and_leaves_the_others_to_the_next_process() {
    let directory = state();
    let caller = Caller::new();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 2\n");
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("wait-1"))).await.expect("created");
    client.create(caller.create_with_secret("wait-2", b"value")).await.expect("created");
    while client.state(&caller.build("wait-2")).await.state() != State::Running {
        tokio::task::yield_now().await;
    }
    client.create(caller.create(&caller.request("wait-3"))).await.expect("created");
    server.stop().await;

    let server = TestServer::with(directory.path(), "[builds]\nparallel = 2\n");
    // One ran and one waited: both go on. The one with a secret failed when its time was up.
    assert_eq!(server.recovered, (2, 0));
    let client = server.client(&caller).await;
    let lost = client.end(&caller.build("wait-2")).await;
    assert_eq!(lost.failure.expect("a reason").reason, "SECRETS_LOST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_a_state_directory_names_the_first() {
    let directory = state();
    let _first = TestServer::start(directory.path());
    let refused =
        TestServer::try_start(directory.path(), &api_support::Options::default()).err().expect("in use");
    let StartError::Jobs(JobError::InUse { pid, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(pid, &std::process::id().to_string());
    assert!(refused.to_string().contains("in use by process"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_changed_on_disk_is_not_built() {
    let directory = state();
    let caller = Caller::new();
    let server = TestServer::start(directory.path());
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("wait-1"))).await.expect("created");
    server.kill().await;
    let database = rusqlite::Connection::open(directory.path().join("jobs.sqlite")).expect("opens");
    let mut other = caller.request("wait-1");
    other.no_cache = true;
    let forged = Caller::new().seal(&other);
    database.execute("UPDATE builds SET envelope = ?1", [forged]).expect("the operator's disk");
    drop(database);
    let server = TestServer::start(directory.path());
    assert_eq!(server.recovered, (0, 1));
    let ended = server.client(&caller).await.end(&caller.build("wait-1")).await;
    assert_eq!(ended.failure.expect("a reason").reason, "STATE_STORE");
}
