//! ContextService: uploads, resumption, refusals, and builds that wait for their contexts.

mod api_support;

use std::collections::BTreeMap;

use api_support::{Caller, Client, TestServer, reason, state};
use proto::v1;
use proto::v1::build::State;
use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use provenance::request::Source;
use tonic::Code;

fn file(name: &str, contents: &[u8]) -> Entry {
    let kind = Kind::File { size: contents.len() as u64, digest: Sha256Digest::of(contents) };
    entry(name, kind)
}

fn entry(name: &str, kind: Kind) -> Entry {
    let name = Name::new(name.as_bytes()).expect("a name");
    Entry { name, mode: 0o644, mtime_ns: 0, xattrs: BTreeMap::new(), kind }
}

fn small(parent: &str, blobs: &[&[u8]]) -> v1::UploadBlobsRequest {
    v1::UploadBlobsRequest {
        parent: parent.to_owned(),
        blobs: blobs.iter().map(|blob| blob.to_vec().into()).collect(),
        chunk: None,
    }
}

fn chunk(parent: &str, blob: &[u8], from: usize, to: usize) -> v1::UploadBlobsRequest {
    v1::UploadBlobsRequest {
        parent: parent.to_owned(),
        blobs: Vec::new(),
        chunk: Some(v1::Chunk {
            digest: Sha256Digest::of(blob).as_bytes().to_vec().into(),
            size: blob.len() as u64,
            offset: from as u64,
            data: blob[from..to].to_vec().into(),
        }),
    }
}

async fn complete(client: &Client, parent: &str, root: &Sha256Digest) -> bool {
    let request = v1::GetContextRequest { name: format!("{parent}/contexts/{}", root.hex()) };
    client.contexts().get_context(client.ask(request)).await.expect("answers").into_inner().complete
}

async fn upload_state(client: &Client, parent: &str, digest: &Sha256Digest) -> v1::Upload {
    let request =
        v1::GetUploadRequest { parent: parent.to_owned(), digest: digest.as_bytes().to_vec().into() };
    client.contexts().get_upload(client.ask(request)).await.expect("answers").into_inner()
}

async fn missing(client: &Client, parent: &str, digests: &[Sha256Digest]) -> Vec<Sha256Digest> {
    let digests = digests.iter().map(|digest| digest.as_bytes().to_vec().into()).collect();
    let request = v1::FindMissingBlobsRequest { parent: parent.to_owned(), digests };
    let answer =
        client.contexts().find_missing_blobs(client.ask(request)).await.expect("answers").into_inner();
    answer
        .missing
        .iter()
        .map(|d| Sha256Digest::from_bytes(d.as_ref().try_into().expect("32 bytes")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_complete_when_its_last_blob_came_and_stays_so_after_a_restart() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let inner =
        Directory::new(vec![file("b", b"two"), entry("l", Kind::Symlink { target: b"../../x".to_vec() })])
            .expect("valid");
    let root =
        Directory::new(vec![file("a", b"one"), entry("d", Kind::Directory { digest: inner.digest() })])
            .expect("valid");
    let all = [root.digest(), inner.digest(), Sha256Digest::of(b"one"), Sha256Digest::of(b"two")];
    assert_eq!(missing(&client, &parent, &all).await, all);
    let answer = client
        .upload(vec![small(&parent, &[&root.encode(), b"one", b"one"]), small("", &[&inner.encode()])])
        .await;
    assert_eq!(answer.expect("stored").blobs_stored, 3);
    assert!(!complete(&client, &parent, &root.digest()).await);
    assert_eq!(missing(&client, &parent, &all).await, all[3..]);
    client.upload(vec![small(&parent, &[b"two"])]).await.expect("stored");
    assert!(complete(&client, &parent, &root.digest()).await);
    server.stop().await;

    let server = TestServer::start(directory.path());
    let client = server.client(&caller).await;
    assert!(complete(&client, &parent, &root.digest()).await);
    // Another project has nothing of it, and is not told that somebody has.
    let other = Caller::new();
    let client = server.client(&other).await;
    assert_eq!(missing(&client, &other.parent(), &all).await, all);
    assert!(!complete(&client, &other.parent(), &root.digest()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_goes_on_where_its_upload_was_cut_even_after_a_kill() {
    let directory = state();
    let caller = Caller::new();
    let parent = caller.parent();
    let blob: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = Sha256Digest::of(&blob);
    let server = TestServer::start(directory.path());
    let client = server.client(&caller).await;
    client
        .upload(vec![chunk(&parent, &blob, 0, 1_000_000), chunk("", &blob, 1_000_000, 2_000_000)])
        .await
        .expect("kept");
    assert_eq!(
        upload_state(&client, &parent, &digest).await,
        v1::Upload { committed_size: 2_000_000, complete: false }
    );
    server.kill().await;

    let server = TestServer::start(directory.path());
    let client = server.client(&caller).await;
    assert_eq!(upload_state(&client, &parent, &digest).await.committed_size, 2_000_000);
    let gap = client.upload(vec![chunk(&parent, &blob, 2_000_001, 3_000_000)]).await.expect_err("a gap");
    assert_eq!((gap.code(), reason(&gap).as_str()), (Code::InvalidArgument, "INVALID_CHUNK"));
    client.upload(vec![chunk(&parent, &blob, 2_000_000, 5_000_000)]).await.expect("stored");
    assert_eq!(
        upload_state(&client, &parent, &digest).await,
        v1::Upload { committed_size: 5_000_000, complete: true }
    );
    assert!(missing(&client, &parent, &[digest]).await.is_empty());
    // Sending it once more changes nothing.
    let again = client
        .upload(vec![chunk(&parent, &blob, 0, 3_000_000), chunk("", &blob, 3_000_000, 5_000_000)])
        .await;
    assert_eq!(again.expect("accepted").blobs_stored, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_with_another_hash_is_refused_and_nothing_of_it_is_kept() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let blob = vec![1; 2_000_000];
    let mut wrong = chunk(&parent, &blob, 0, blob.len());
    let mut other = blob.clone();
    other[77] = 0;
    wrong.chunk.as_mut().expect("a chunk").data = other.into();
    let refused = client.upload(vec![wrong]).await.expect_err("another hash");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "HASH_MISMATCH"));
    let kept = upload_state(&client, &parent, &Sha256Digest::of(&blob)).await;
    assert_eq!(kept, v1::Upload { committed_size: 0, complete: false });
    client.upload(vec![chunk(&parent, &blob, 0, blob.len())]).await.expect("the right bytes are stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_uploads_are_refused() {
    let directory = state();
    let server =
        TestServer::with(directory.path(), "[contexts]\nblob_bytes = 1000000\nproject_bytes = 1500000\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let blob = vec![3; 900_000];
    let altered = |alter: &dyn Fn(&mut v1::Chunk)| {
        let mut message = chunk(&parent, &blob, 0, 400_000);
        alter(message.chunk.as_mut().expect("a chunk"));
        vec![message]
    };
    let cases = [
        ("no message", Vec::new(), Code::InvalidArgument, "INVALID_FIELD"),
        ("no parent", vec![small("", &[b"x"])], Code::InvalidArgument, "INVALID_NAME"),
        (
            "a second parent",
            vec![small(&parent, &[b"x"]), small(&parent, &[b"y"])],
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            "a short digest",
            altered(&|c| c.digest = vec![0; 31].into()),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        ("beyond its size", altered(&|c| c.size = 399_999), Code::InvalidArgument, "INVALID_CHUNK"),
        ("not at the start", altered(&|c| c.offset = 5), Code::InvalidArgument, "INVALID_CHUNK"),
        (
            "an end beyond all numbers",
            altered(&|c| c.offset = u64::MAX),
            Code::InvalidArgument,
            "INVALID_CHUNK",
        ),
        ("too large", altered(&|c| c.size = 1_000_001), Code::InvalidArgument, "BLOB_TOO_LARGE"),
    ];
    for (what, messages, code, wanted) in cases {
        let refused = client.upload(messages).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, wanted), "{what}: {refused}");
    }
    client.upload(vec![chunk(&parent, &blob, 0, blob.len())]).await.expect("stored");
    let other = vec![4; 900_000];
    let full = client
        .upload(vec![chunk(&parent, &other, 0, other.len())])
        .await
        .expect_err("beyond the project's share");
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "PROJECT_FULL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_refused() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let blob = vec![0_u8; 5 << 20];
    let refused = client.upload(vec![small(&caller.parent(), &[&blob])]).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let blob = vec![0_u8; (3 << 20) + 1];
    let refused = client.upload(vec![small(&caller.parent(), &[&blob])]).await.expect_err("too large");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_waits_for_its_context_and_runs_when_it_is_there() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let root = Directory::new(vec![file("Dockerfile", b"FROM scratch\n")]).expect("valid");
    let mut request = caller.request("ok-1");
    request.context = Source::Tree { root: root.digest() };
    request.dockerfile.root = Some(root.digest());
    client.create(caller.create(&request)).await.expect("created before its context");
    assert_eq!(client.state(&caller.build("ok-1")).await.state(), State::Queued);
    client.upload(vec![small(&caller.parent(), &[&root.encode()])]).await.expect("stored");
    client.upload(vec![small(&caller.parent(), &[b"FROM scratch\n"])]).await.expect("stored");
    assert_eq!(client.end(&caller.build("ok-1")).await.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_context_never_comes_or_contradicts_itself_fails_with_that_reason() {
    let directory = state();
    let server = TestServer::with(directory.path(), "[builds]\ncontext_deadline = 1\n");
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let run = async |id: &str, root: Sha256Digest| {
        let mut request = caller.request(id);
        request.context = Source::Tree { root };
        request.dockerfile.root = Some(root);
        client.create(caller.create(&request)).await.expect("created");
        let ended = client.end(&caller.build(id)).await;
        assert_eq!(ended.state(), State::Failed);
        ended.failure.expect("a reason")
    };
    let never = run("ok-1", Sha256Digest::of(b"never sent")).await;
    assert_eq!(never.reason, "CONTEXT_INCOMPLETE");
    assert!(never.message.contains(&Sha256Digest::of(b"never sent").to_string()), "{}", never.message);

    let lie = Kind::File { size: 4, digest: Sha256Digest::of(b"one") };
    let root = Directory::new(vec![entry("a", lie)]).expect("valid");
    client.upload(vec![small(&caller.parent(), &[&root.encode(), b"one"])]).await.expect("stored");
    assert_eq!(run("ok-2", root.digest()).await.reason, "CONTEXT_INVALID");

    client.upload(vec![small(&caller.parent(), &[b"no directory"])]).await.expect("stored");
    assert_eq!(run("ok-3", Sha256Digest::of(b"no directory")).await.reason, "CONTEXT_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_was_changed_on_disk_is_found_and_asked_for_again() {
    let directory = state();
    let server = TestServer::start(directory.path());
    let caller = Caller::new();
    let client = server.client(&caller).await;
    let parent = caller.parent();
    let root = Directory::new(vec![file("a", b"one")]).expect("valid");
    client.upload(vec![small(&parent, &[&root.encode(), b"one"])]).await.expect("stored");
    let hex = root.digest().hex();
    let path =
        directory.path().join(format!("contexts/{}/blobs/{}/{}", caller.project.id(), &hex[..2], &hex[2..]));
    let mut bytes = std::fs::read(&path).expect("where it is said to be");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let request = v1::GetContextRequest { name: format!("{parent}/contexts/{hex}") };
    let damaged = client.contexts().get_context(client.ask(request)).await.expect_err("damaged");
    assert_eq!((damaged.code(), reason(&damaged).as_str()), (Code::DataLoss, "CONTEXT_DAMAGED"));
    assert_eq!(missing(&client, &parent, &[root.digest()]).await, [root.digest()]);
    client.upload(vec![small(&parent, &[&root.encode()])]).await.expect("stored");
    assert!(complete(&client, &parent, &root.digest()).await);
}
