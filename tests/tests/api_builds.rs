//! BuildService as a caller meets it: idempotent creation, refusals, foreign projects, events, results, queue.

mod api_support;

use api_support::{Caller, LOG_EVENTS, TestServer, advice, now, reason, result_blob, state};
use proto::v1;
use proto::v1::build::State;
use proto::v1::build_event::Event;
use provenance::digest::Sha256Digest;
use provenance::project::Project;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_build_runs_to_its_result_and_the_result_can_be_read_from_any_offset() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let request = caller.request("ok-1");
    let created = client.create(caller.create(&request)).await.expect("created");
    assert_eq!(created.name, caller.build("ok-1"));
    assert_eq!(created.state(), State::Queued);
    assert_eq!(created.request_digest, Sha256Digest::of(&request.document()).to_string());
    assert_eq!(created.caller, caller.public.spki_sha256().to_string());
    let ended = client.end(&created.name).await;
    assert_eq!(ended.state(), State::Succeeded, "{:?}", ended.failure);
    let blob = result_blob("ok-1");
    let digest = ended.result.expect("a result").blobs[0].digest.clone();
    for offset in [0, 1, 1 << 20, (1 << 20) + 1, blob.len() - 1, blob.len()] {
        let read = client.read(&created.name, &digest, offset as u64).await.expect("readable");
        assert!(read == blob[offset..], "offset {offset}: {} bytes", read.len());
    }
    let beyond =
        client.read(&created.name, &digest, blob.len() as u64 + 1).await.expect_err("beyond the end");
    assert_eq!((beyond.code(), reason(&beyond).as_str()), (Code::OutOfRange, "OFFSET_BEYOND_END"));
    let other = Sha256Digest::of(b"another").to_string();
    let unlisted = client.read(&created.name, &other, 0).await.expect_err("not of this result");
    assert_eq!((unlisted.code(), reason(&unlisted).as_str()), (Code::NotFound, "BLOB_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_blob_that_was_changed_on_disk_is_never_complete() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("ok-1"))).await.expect("created");
    let ended = client.end(&caller.build("ok-1")).await;
    let digest = ended.result.expect("a result").blobs[0].digest.clone();
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    let path =
        directory.path().join(format!("results/{}/ok-1/layout/blobs/sha256/{hex}", caller.project.id()));
    let mut bytes = std::fs::read(&path).expect("the blob is where the layout has it");
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let damaged = client.read(&caller.build("ok-1"), &digest, 0).await.expect_err("damaged");
    assert_eq!((damaged.code(), reason(&damaged).as_str()), (Code::DataLoss, "RESULT_DAMAGED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gives_the_same_build_and_another_is_refused() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let request = caller.request("gate-1");
    let first = client.create(caller.create(&request)).await.expect("created");
    // Signed again: ECDSA signatures differ, the request does not.
    let second = client.create(caller.create(&request)).await.expect("the same build");
    assert_eq!((second.name, second.create_time), (first.name, first.create_time));
    let mut other = request.clone();
    other.no_cache = true;
    let taken = client.create(caller.create(&other)).await.expect_err("another request");
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "BUILD_ID_TAKEN"));
    server.runner.open();
    client.end(&caller.build("gate-1")).await;
    assert_eq!(server.runner.started.load(std::sync::atomic::Ordering::SeqCst), 1);
    let third = client.create(caller.create(&request)).await.expect("the ended build");
    assert_eq!(third.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_foreign_project_looks_as_if_it_were_not_there() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let (owner, stranger) = (Caller::new(), Caller::new());
    let client = server.client(&owner).await;
    client.create(owner.create(&owner.request("ok-1"))).await.expect("created");
    client.end(&owner.build("ok-1")).await;

    // The stranger knows the project's document (it is no secret), and tries a project nobody has ever shown.
    let nobody = Project::new("nobody", [Sha256Digest::of(b"nobody")]).expect("a project");
    let mut answers = Vec::new();
    for project in [&owner.project, &nobody] {
        for document in [Some(project.document()), None] {
            let mut stranger = server.client(&stranger).await;
            stranger.document = document.clone().unwrap_or_default();
            let parent = format!("projects/{}", project.id());
            let name = format!("{parent}/builds/ok-1");
            macro_rules! ask {
                ($message:expr) => {{
                    let mut request = stranger.ask($message);
                    if document.is_none() {
                        request.metadata_mut().remove_bin("sealwright-project-bin");
                    }
                    request
                }};
            }
            let mut builds = stranger.builds();
            let mut contexts = stranger.contexts();
            let digest = vec![1; 32];
            let failures = vec![
                builds.get_build(ask!(v1::GetBuildRequest { name: name.clone() })).await.map(drop),
                builds
                    .list_builds(ask!(v1::ListBuildsRequest { parent: parent.clone(), ..Default::default() }))
                    .await
                    .map(drop),
                builds
                    .watch_build(ask!(v1::WatchBuildRequest { name: name.clone(), after: 0 }))
                    .await
                    .map(drop),
                builds.cancel_build(ask!(v1::CancelBuildRequest { name: name.clone() })).await.map(drop),
                builds
                    .read_blob(ask!(v1::ReadBlobRequest {
                        name: name.clone(),
                        digest: Sha256Digest::of(b"x").to_string(),
                        offset: 0
                    }))
                    .await
                    .map(drop),
                builds
                    .forward_agent(ask!(tokio_stream::iter([v1::ForwardAgentRequest {
                        name: name.clone(),
                        ..Default::default()
                    }])))
                    .await
                    .map(drop),
                contexts
                    .get_context(ask!(v1::GetContextRequest {
                        name: format!("{parent}/contexts/{}", Sha256Digest::of(b"x").hex())
                    }))
                    .await
                    .map(drop),
                contexts
                    .find_missing_blobs(ask!(v1::FindMissingBlobsRequest {
                        parent: parent.clone(),
                        digests: vec![digest.clone().into()]
                    }))
                    .await
                    .map(drop),
                contexts
                    .upload_blobs(ask!(tokio_stream::iter([v1::UploadBlobsRequest {
                        parent: parent.clone(),
                        blobs: vec![b"x".to_vec().into()],
                        chunk: None
                    }])))
                    .await
                    .map(drop),
                contexts
                    .get_upload(ask!(v1::GetUploadRequest { parent: parent.clone(), digest: digest.into() }))
                    .await
                    .map(drop),
                stranger
                    .attestation()
                    .get_instance(ask!(v1::GetInstanceRequest {
                        name: format!("{parent}/instance"),
                        ..Default::default()
                    }))
                    .await
                    .map(drop),
            ];
            let failures: Vec<_> = failures
                .into_iter()
                .map(|answer| {
                    let status = answer.expect_err("refused");
                    let id = project.id().to_string();
                    (
                        status.code(),
                        status.message().replace(&id, "PROJECT"),
                        reason(&status),
                        advice(&status),
                    )
                })
                .collect();
            assert!(failures.iter().all(|failure| failure.0 == Code::NotFound), "{failures:?}");
            answers.push(failures);
        }
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "answers differ: {answers:#?}");

    // And so does a build that is not there, to a member.
    let missing = client.cancel(&owner.build("ok-2")).await.expect_err("no such build");
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_signed_for_a_project_of_others_is_not_found() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let (owner, stranger) = (Caller::new(), Caller::new());
    let client = server.client(&stranger).await;
    let create = v1::CreateBuildRequest {
        signed_request: stranger.seal(&owner.request("ok-1")).into(),
        ..owner.create(&owner.request("ok-1"))
    };
    let refused = client.create(create).await.expect_err("not a member");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_refuses_what_the_caller_did_not_sign() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let (caller, other) = (Caller::new(), Caller::new());
    let client = server.client(&caller).await;
    let request = caller.request("ok-1");
    let good = caller.create(&request);

    let altered = |alter: &dyn Fn(&mut v1::CreateBuildRequest)| {
        let mut create = good.clone();
        alter(&mut create);
        create
    };
    let mut old = request.clone();
    old.issued_at = now(-3600);
    let mut early = request.clone();
    early.issued_at = now(3600);
    let mut unknown: serde_json::Value = serde_json::from_slice(&request.document()).expect("JSON");
    unknown["zz_unknown"] = serde_json::json!(true);
    let unknown = caller.seal_document(&provenance::canonical::to_canonical_json(&unknown));
    let spaced = [b" ", request.document().as_slice()].concat();
    let cases = [
        ("another parent", altered(&|c| c.parent = other.parent()), Code::InvalidArgument, "INVALID_FIELD"),
        (
            "malformed parent",
            altered(&|c| c.parent = "projects/../x".to_owned()),
            Code::InvalidArgument,
            "INVALID_NAME",
        ),
        ("another id", altered(&|c| c.build_id = "ok-2".to_owned()), Code::InvalidArgument, "INVALID_FIELD"),
        (
            "another's signature",
            altered(&|c| c.signed_request = other.seal(&request).into()),
            Code::InvalidArgument,
            "INVALID_SIGNED_REQUEST",
        ),
        (
            "no envelope",
            altered(&|c| c.signed_request = b"{}".to_vec().into()),
            Code::InvalidArgument,
            "INVALID_SIGNED_REQUEST",
        ),
        (
            "an unknown field",
            altered(&|c| c.signed_request = unknown.clone().into()),
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
        (
            "not canonical",
            altered(&|c| c.signed_request = caller.seal_document(&spaced).into()),
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
        ("too old", caller.create(&old), Code::FailedPrecondition, "REQUEST_EXPIRED"),
        ("from the future", caller.create(&early), Code::FailedPrecondition, "REQUEST_EXPIRED"),
        (
            "secrets not committed to",
            altered(&|c| c.secrets = caller.create_with_secret("ok-1", b"value").secrets),
            Code::InvalidArgument,
            "INVALID_SECRETS",
        ),
        (
            "two logins for a host",
            altered(&|c| {
                c.registry_credentials =
                    vec![v1::RegistryCredential { host: "r.example".into(), ..Default::default() }; 2]
            }),
            Code::InvalidArgument,
            "INVALID_CREDENTIALS",
        ),
    ];
    for (what, create, code, wanted) in cases {
        let refused = client.create(create).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, wanted), "{what}: {refused}");
        assert!(!advice(&refused).is_empty(), "{what}");
    }
    client.create(good).await.expect("the unaltered request is accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_must_be_those_of_the_commitment() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let good = caller.create_with_secret("ok-1", b"the value");
    let altered = |alter: &dyn Fn(&mut v1::Secrets)| {
        let mut create = good.clone();
        alter(create.secrets.as_mut().expect("has secrets"));
        create
    };
    let missing = v1::CreateBuildRequest { secrets: None, ..good.clone() };
    let cases = [
        ("none", missing),
        ("another value", altered(&|s| s.secrets[0].value = b"another".to_vec().into())),
        ("another id", altered(&|s| s.secrets[0].id = "tokem".to_owned())),
        ("another key", altered(&|s| s.commitment_key = vec![8; 32].into())),
        ("a short key", altered(&|s| s.commitment_key = vec![9; 31].into())),
        ("one twice", altered(&|s| s.secrets.push(s.secrets[0].clone()))),
    ];
    for (what, create) in cases {
        let refused = client.create(create).await.expect_err(what);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "INVALID_SECRETS"),
            "{what}"
        );
        assert!(!refused.message().contains("the value"), "{what}");
    }
    client.create(good).await.expect("the right secrets are accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_numbered_without_gaps_and_can_be_resumed_at_any_number() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let created = client.create(caller.create(&caller.request("logs-1"))).await.expect("created");
    let live = client.watch(&created.name, 0).await;
    let numbers: Vec<u64> = live.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=live.len() as u64).collect::<Vec<_>>());
    // QUEUED, RUNNING, the lines, the milestone, SUCCEEDED.
    assert_eq!(live.len() as u64, LOG_EVENTS + 4);
    let Some(Event::StateChanged(last)) = &live.last().expect("events").event else {
        panic!("the last event is a state")
    };
    assert_eq!(last.build.as_ref().expect("a build").state(), State::Succeeded);
    for after in [0, 1, 127, 128, 129, LOG_EVENTS, LOG_EVENTS + 3, LOG_EVENTS + 4, LOG_EVENTS + 5, u64::MAX] {
        let resumed = client.watch(&created.name, after).await;
        assert!(
            resumed == live[live.len().min(usize::try_from(after).unwrap_or(usize::MAX))..],
            "after {after}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_beyond_the_limit_are_cut_with_a_word_and_steps_still_end() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\nlog_bytes = 1000\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("logs-1"))).await.expect("created");
    let events = client.watch(&caller.build("logs-1"), 0).await;
    let warnings = events.iter().filter(|e| matches!(e.event, Some(Event::VertexWarning(_)))).count();
    let logs = events.iter().filter(|e| matches!(e.event, Some(Event::VertexLog(_)))).count();
    assert_eq!(warnings, 1);
    assert!((1..100).contains(&logs), "{logs}");
    assert_eq!(client.state(&caller.build("logs-1")).await.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_wait_or_run_can_be_cancelled_and_those_that_ended_stay() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\nparallel = 1\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    for id in ["wait-1", "ok-queued"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
    }
    client.cancel(&caller.build("ok-queued")).await.expect("cancelled");
    let queued = client.end(&caller.build("ok-queued")).await;
    assert_eq!(queued.state(), State::Cancelled);
    assert_eq!(queued.failure.expect("a reason").reason, "CANCELLED");
    client.cancel(&caller.build("wait-1")).await.expect("cancelled");
    assert_eq!(client.end(&caller.build("wait-1")).await.state(), State::Cancelled);
    let again = client.cancel(&caller.build("wait-1")).await.expect("nothing happens");
    assert_eq!(again.state(), State::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_panics_and_deadlines_end_a_build_with_their_reason() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\ndeadline = 1\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    for (id, wanted) in [("fail-1", "STEP_FAILED"), ("panic-1", "INTERNAL"), ("wait-1", "DEADLINE_EXCEEDED")]
    {
        client.create(caller.create(&caller.request(id))).await.expect("created");
        let ended = client.end(&caller.build(id)).await;
        assert_eq!(ended.state(), State::Failed, "{id}");
        assert_eq!(ended.failure.expect("a reason").reason, wanted, "{id}");
        assert!(!directory.path().join(format!("results/{}/{id}", caller.project.id())).exists(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_with_a_time_to_try_again() {
    use tonic_types::StatusExt as _;
    let directory = state();
    let server =
        TestServer::with(directory.path(), "[builds]\nparallel = 1\nqueued = 3\nqueued_per_project = 2\n");
    let (caller, other, third) = (Caller::new(), Caller::new(), Caller::new());
    let client = server.client(&caller).await;
    client.create(caller.create(&caller.request("wait-0"))).await.expect("created");
    // The first leaves the queue when it begins.
    while client.state(&caller.build("wait-0")).await.state() != State::Running {
        tokio::task::yield_now().await;
    }
    for id in ["wait-1", "wait-2"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
    }
    let full = client
        .create(caller.create(&caller.request("wait-3")))
        .await
        .expect_err("the project's share is used up");
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(full.message().contains("in this project"), "{full}");
    assert!(full.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    server
        .client(&other)
        .await
        .create(other.create(&other.request("wait-1")))
        .await
        .expect("another project has room");
    let third_client = server.client(&third).await;
    let full =
        third_client.create(third.create(&third.request("wait-1"))).await.expect_err("the queue is full");
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(!full.message().contains("in this project"), "{full}");
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_are_listed_newest_first_in_pages_and_by_state() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    for id in ["ok-1", "fail-2", "ok-3", "fail-4", "ok-5"] {
        client.create(caller.create(&caller.request(id))).await.expect("created");
        client.end(&caller.build(id)).await;
    }
    let list = async |page_size, page_token: &str, filter: &str| {
        let request = v1::ListBuildsRequest {
            parent: caller.parent(),
            page_size,
            page_token: page_token.to_owned(),
            filter: filter.to_owned(),
        };
        let answer =
            client.builds().list_builds(client.ask(request)).await.map(tonic::Response::into_inner)?;
        let ids: Vec<_> =
            answer.builds.iter().map(|b| b.name.rsplit('/').next().unwrap_or_default().to_owned()).collect();
        Ok::<_, tonic::Status>((ids, answer.next_page_token))
    };
    let (first, token) = list(2, "", "").await.expect("a page");
    assert_eq!(first, ["ok-5", "fail-4"]);
    let (second, token) = list(2, &token, "").await.expect("a page");
    assert_eq!(second, ["ok-3", "fail-2"]);
    let (last, token) = list(2, &token, "").await.expect("a page");
    assert_eq!((last, token), (vec!["ok-1".to_owned()], String::new()));
    let (failed, _) = list(0, "", "state = FAILED").await.expect("filtered");
    assert_eq!(failed, ["fail-4", "fail-2"]);
    for (size, token, filter) in
        [(-1, "", ""), (101, "", ""), (0, "x", ""), (0, "", "state = DONE"), (0, "", "name = x")]
    {
        let refused = list(size, token, filter).await.expect_err("malformed");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_names_are_refused_before_anything_is_looked_up() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    for name in [
        "",
        "builds/x",
        "/etc/passwd",
        "../../x",
        &parent,
        &format!("{parent}/builds/.."),
        &format!("{parent}/builds/a/../b"),
        &format!("{parent}/builds/A"),
        &format!("{parent}/builds/a%00"),
    ] {
        let refused = client.cancel(name).await.expect_err("malformed");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "INVALID_NAME"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_the_operator_does_not_admit_is_told_so_if_it_is_ones_own() {
    let directory = state();
    let (admitted, other) = (Caller::new(), Caller::new());
    let trust = format!("admitted_projects = [\"{}\"]\n", admitted.project.id());
    let options = api_support::Options { trust, ..Default::default() };
    let server = TestServer::try_start(directory.path(), &options).expect("starts");
    let client = server.client(&admitted).await;
    client.create(admitted.create(&admitted.request("ok-1"))).await.expect("admitted");
    let client = server.client(&other).await;
    let refused = client.create(other.create(&other.request("ok-1"))).await.expect_err("not admitted");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "PROJECT_NOT_ADMITTED"));
}
