//! The engine process over its socket: what is no request ends it, what may not be is refused, and with the connection all
//! daemons end.

mod buildkit_support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use build_server::buildkit::{Engine, EngineError, EngineOptions};
use build_server::engine::{
    ConnectionEnded, EngineAnswer, EngineProcess, EngineRequest, MAX_ENGINE_FRAME, StartFailure,
};
use buildkit_support::{Bench, Settings, mounts_with, processes_with};
use enclave_keys::process::{Frame, FrameError};
use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(60);

fn project(name: &[u8]) -> ProjectId {
    ProjectId(Sha256Digest::of(name))
}

/// An engine process but for the process, and its service's end of the connection.
struct Asked {
    stream: UnixStream,
    process: JoinHandle<Result<(), ConnectionEnded>>,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Asked {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::Builder::new().prefix("sw").tempdir_in("/dev/shm").expect("a directory");
        let root = directory.path().join("engine");
        let mut settings = Settings::new(&root);
        change(&mut settings);
        let (stream, theirs) = UnixStream::pair().expect("a socket pair");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let process = EngineProcess::new(settings.engine_process, theirs).expect("an engine process");
        Self { stream, process: std::thread::spawn(|| process.serve()), root, _directory: directory }
    }

    /// One that has begun.
    fn begun(change: impl FnOnce(&mut Settings)) -> Self {
        let mut asked = Self::new(change);
        asked.ask(0, &EngineRequest::Begin {});
        let (0, EngineAnswer::Begun(begun)) = asked.answer() else { panic!("it begins") };
        assert!(!begun.buildkitd.version.is_empty() && begun.buildkitd.sha256 != begun.runc.sha256);
        asked
    }

    fn ask(&mut self, number: u64, request: &EngineRequest) {
        Frame::of(number, request).write(&mut self.stream, MAX_ENGINE_FRAME).expect("sent");
    }

    fn start(&mut self, number: u64, project: ProjectId) -> EngineAnswer {
        self.ask(number, &EngineRequest::Start { project });
        let (got, answer) = self.answer();
        assert_eq!(got, number);
        answer
    }

    fn answer(&mut self) -> (u64, EngineAnswer) {
        let frame = Frame::read(&mut self.stream, MAX_ENGINE_FRAME).expect("a frame").expect("an answer");
        (frame.number, frame.parse().expect("an answer"))
    }

    /// Nothing comes any more, and the engine process has ended in this way.
    fn ended(mut self) -> Result<(), ConnectionEnded> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the end");
        self.process.join().expect("no panic")
    }
}

#[test]
fn what_is_no_request_ends_the_connection() {
    for (bytes, wanted) in [
        (&b"{\"start\":{\"project\":\"00\"}}"[..], "is not a digest"),
        (b"{\"stop\":{\"signal\":9}}", "unknown field `signal`"),
        (b"{\"begin\":{\"root\":\"/\"}}", "unknown field `root`"),
        (b"{\"exec\":{}}", "unknown variant `exec`"),
        (b"{\"stop\":{}} ", ""),
        (b"not JSON", "expected"),
        (b"", "EOF"),
    ] {
        let mut asked = Asked::begun(|_| {});
        let length = u32::try_from(bytes.len() + 8).expect("short").to_be_bytes();
        asked.stream.write_all(&[&length[..], &1_u64.to_be_bytes(), bytes].concat()).expect("sent");
        let error = asked.ended().expect_err("no request");
        if wanted.is_empty() {
            // White space is no mistake; there is no such daemon.
            assert!(matches!(error, ConnectionEnded::Unknown { got: 1, last: 0 }), "{error}");
            continue;
        }
        assert!(
            matches!(&error, ConnectionEnded::Request(said) if said.contains(wanted)),
            "{wanted}: {error}"
        );
    }
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection_before_it_is_read() {
    for length in [0_usize, 7, MAX_ENGINE_FRAME + 9, u32::MAX as usize] {
        let mut asked = Asked::begun(|_| {});
        asked.stream.write_all(&u32::try_from(length).expect("32 bits").to_be_bytes()).expect("sent");
        let error = asked.ended().expect_err("no frame");
        assert!(
            matches!(error, ConnectionEnded::Frame(FrameError::Length { got, .. }) if got == length),
            "{length}: {error}"
        );
    }
}

#[test]
fn requests_have_an_order_and_numbers() {
    for request in
        [EngineRequest::Stop {}, EngineRequest::Kill {}, EngineRequest::Start { project: project(b"a") }]
    {
        let mut asked = Asked::new(|_| {});
        asked.ask(1, &request);
        let error = asked.ended().expect_err("begin is first");
        assert!(matches!(error, ConnectionEnded::Order { .. }), "{error}");
    }
    let mut asked = Asked::begun(|_| {});
    asked.ask(1, &EngineRequest::Begin {});
    assert!(matches!(asked.ended(), Err(ConnectionEnded::Order { got: "begin" })), "once");
    let mut asked = Asked::begun(|_| {});
    asked.ask(0, &EngineRequest::Start { project: project(b"a") });
    assert!(matches!(asked.ended(), Err(ConnectionEnded::Number { got: 0, last: 0 })), "numbers grow");
    for request in [EngineRequest::Stop {}, EngineRequest::Kill {}] {
        let mut asked = Asked::begun(|_| {});
        asked.ask(1, &request);
        assert!(matches!(asked.ended(), Err(ConnectionEnded::Unknown { got: 1, last: 0 })), "never started");
    }
}

#[test]
fn a_service_that_ends_in_the_middle_of_a_frame_has_ended() {
    let mut asked = Asked::begun(|_| {});
    asked.stream.write_all(&[0, 0, 0, 99, 1]).expect("sent");
    asked.stream.shutdown(std::net::Shutdown::Write).expect("ended");
    asked.ended().expect("an end like any other");
}

#[test]
fn programs_that_are_none_are_named_before_anything_is_made() {
    let mut asked = Asked::new(|settings| settings.engine_process.runc = "/no/such/runc".into());
    asked.ask(0, &EngineRequest::Begin {});
    let (_, EngineAnswer::Refused { problem }) = asked.answer() else { panic!("refused") };
    assert!(problem.contains("/no/such/runc is not an absolute path of a program"), "{problem}");
    assert!(!asked.root.exists());
    asked.ended().expect("an orderly end");
}

#[test]
fn daemons_are_limited_and_end_with_the_connection() {
    const SERVICE: u32 = 65_533;
    let mut asked = Asked::begun(|settings| {
        settings.engine_process.max_daemons = 2;
        settings.engine_process.service = SERVICE;
    });
    let EngineAnswer::Started(first) = asked.start(1, project(b"one")) else { panic!("it starts") };
    let socket = std::fs::metadata(&first.socket).expect("a socket");
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (SERVICE, SERVICE, 0o600));
    for place in [first.socket.parent(), first.socket.parent().and_then(std::path::Path::parent)] {
        let place = std::fs::metadata(place.expect("a directory")).expect("there");
        assert_eq!((place.uid(), place.gid(), place.mode() & 0o777), (0, SERVICE, 0o710));
    }
    let own = std::fs::metadata(asked.root.join(project(b"one").to_string())).expect("its directory");
    assert_eq!((own.uid(), own.mode() & 0o777), (0, 0o700));

    let again = asked.start(2, project(b"one"));
    assert_eq!(again, EngineAnswer::Failed(StartFailure::Running {}));
    let EngineAnswer::Started(_) = asked.start(5, project(b"two")) else { panic!("it starts") };
    let third = asked.start(6, project(b"three"));
    assert_eq!(third, EngineAnswer::Failed(StartFailure::TooMany { limit: 2 }));
    // One ends; what is said about it afterwards, or about one that never came up, is said too late and no mistake.
    asked.ask(1, &EngineRequest::Stop {});
    let (1, EngineAnswer::Ended { log }) = asked.answer() else { panic!("it ends") };
    assert!(!log.is_empty());
    for number in [1, 2, 3, 6] {
        asked.ask(number, &EngineRequest::Kill {});
    }
    let EngineAnswer::Started(_) = asked.start(7, project(b"one")) else { panic!("there is a place again") };

    let root = asked.root.display().to_string();
    let names = first.socket.parent().and_then(std::path::Path::parent).expect("a directory").to_owned();
    let mounts = || mounts_with(&names.display().to_string());
    assert!(processes_with(&root).len() > 1 && !mounts().is_empty());
    asked.stream.shutdown(std::net::Shutdown::Write).expect("ended");
    asked.ended().expect("an orderly end");
    assert_eq!(processes_with(&root), Vec::<String>::new());
    assert_eq!(mounts(), Vec::<String>::new());
    assert!(!names.exists(), "{}", names.display());
}

#[test]
fn two_engine_processes_do_not_share_a_directory() {
    let first = Asked::begun(|_| {});
    let root = first.root.clone();
    let mut second = Asked::new(|settings| settings.engine_process.root.clone_from(&root));
    second.ask(0, &EngineRequest::Begin {});
    let (_, EngineAnswer::Refused { problem }) = second.answer() else { panic!("refused") };
    assert!(problem.contains("is in use by another engine process"), "{problem}");
    second.ended().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_idle_makes_room_for_another_projects() {
    let bench = Bench::in_memory_with(|settings| settings.options.max_daemons = 2);
    let one = bench.engine.daemon(&project(b"one")).await.expect("a daemon");
    let two = bench.engine.daemon(&project(b"two")).await.expect("a daemon").process_id();
    let three = bench.engine.daemon(&project(b"three")).await.expect("a daemon");
    // Whoever holds a daemon keeps it, although it was started first.
    assert!(!one.has_ended());
    assert_eq!(processes_with(&project(b"two").to_string()), Vec::<String>::new());
    drop(three);
    let again = bench.engine.daemon(&project(b"two")).await.expect("a daemon");
    assert_ne!(again.process_id(), two);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_process_there_is_no_engine() {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    drop(theirs);
    let layers = tempfile::tempdir().expect("a directory");
    let options = EngineOptions {
        layers: layers.path().join("layers"),
        idle_stop: LIMIT,
        cache_limit_bytes: 1 << 20,
        max_daemons: 1,
    };
    let error = Engine::begin(ours, options).err().expect("nobody answers");
    assert!(matches!(&error, EngineError::Process { .. }), "{error}");
}
