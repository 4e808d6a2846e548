//! What the engine's tests share: a context store in memory, trees from directories, an engine with the real
//! buildkitd, requests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use build_server::buildkit::{
    AgentHub, AllowAllSources, BlobError, ContextBlobs, Daemon, Engine, EngineError, EngineEvent,
    EngineOptions, SolveInputs, Solved, SourcePolicy, solve,
};
use build_server::context_store::{BlobSource, Gone};
use build_server::engine::{EngineConfig, EngineProcess};
use build_server::secrets::{RegistryCredentials, SecretValues};
use provenance::binding::Nonce;
use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use provenance::project::Project;
use provenance::request::{Compression, Dockerfile, Output, REQUEST_TYPE, Request, Source};
use provenance::timestamp::Timestamp;
use sealwright_tests::tools::tool;
use tokio_util::sync::CancellationToken;

/// A context store in memory.
#[derive(Default)]
pub struct MemoryStore(pub Mutex<HashMap<Sha256Digest, Vec<u8>>>);

impl MemoryStore {
    /// Stores a blob.
    pub fn put(&self, bytes: Vec<u8>) -> Sha256Digest {
        let digest = Sha256Digest::of(&bytes);
        self.0.lock().expect("not poisoned").insert(digest, bytes);
        digest
    }

    fn bytes(&self, digest: &Sha256Digest) -> Result<Vec<u8>, BlobError> {
        let found = self.0.lock().expect("not poisoned").get(digest).cloned();
        found.ok_or(BlobError { digest: *digest, problem: "is not stored".to_owned() })
    }

    /// Stores a directory of the file system; gives the root.
    pub fn put_directory(&self, path: &Path) -> Sha256Digest {
        self.scan(path, b"", &mut HashMap::new())
    }

    fn scan(&self, path: &Path, prefix: &[u8], seen: &mut HashMap<u64, Vec<u8>>) -> Sha256Digest {
        let mut listed: Vec<_> =
            std::fs::read_dir(path).expect("readable").map(|e| e.expect("entry").path()).collect();
        listed.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        let mut entries = Vec::new();
        for path in listed {
            let name = path.file_name().expect("named").as_bytes().to_vec();
            let relative = if prefix.is_empty() { name.clone() } else { [prefix, b"/", &name].concat() };
            let meta = std::fs::symlink_metadata(&path).expect("there");
            let kind = meta.file_type();
            let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let kind = if kind.is_dir() {
                Kind::Directory { digest: self.scan(&path, &relative, seen) }
            } else if kind.is_symlink() {
                Kind::Symlink {
                    target: std::fs::read_link(&path).expect("link").as_os_str().as_bytes().to_vec(),
                }
            } else if kind.is_fifo() {
                Kind::Fifo
            } else if kind.is_char_device() {
                Kind::CharDevice { major: device.0, minor: device.1 }
            } else if kind.is_block_device() {
                Kind::BlockDevice { major: device.0, minor: device.1 }
            } else if kind.is_socket() {
                continue;
            } else {
                let bytes = std::fs::read(&path).expect("readable");
                let (size, digest) = (bytes.len() as u64, self.put(bytes));
                match seen.get(&meta.ino()).filter(|_| meta.nlink() > 1) {
                    Some(first) => Kind::HardLink { first: first.clone(), size, digest },
                    None => {
                        seen.insert(meta.ino(), relative.clone());
                        Kind::File { size, digest }
                    }
                }
            };
            entries.push(Entry {
                name: Name::new(&name).expect("a name"),
                mode: u16::try_from(meta.mode() & 0o7777).expect("twelve bits"),
                mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
                xattrs: BTreeMap::new(),
                kind,
            });
        }
        self.put(Directory::new(entries).expect("valid").encode())
    }

    /// Stores a tree of files; gives the root.
    pub fn put_files(&self, files: &[(&str, &str)]) -> Sha256Digest {
        let directory = tempfile::tempdir().expect("temporary directory");
        write_files(directory.path(), files);
        self.put_directory(directory.path())
    }
}

/// Writes files below a directory.
pub fn write_files(directory: &Path, files: &[(&str, &str)]) {
    for (path, contents) in files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("created");
        std::fs::write(path, contents).expect("written");
    }
}

impl ContextBlobs for MemoryStore {
    fn directory(&self, digest: &Sha256Digest) -> Result<Directory, BlobError> {
        Directory::parse(&self.bytes(digest)?)
            .map_err(|e| BlobError { digest: *digest, problem: e.to_string() })
    }

    fn open_blob(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        Ok(Box::new(Cursor::new(self.bytes(digest)?)))
    }

    fn blob_size(&self, digest: &Sha256Digest) -> Result<Option<u64>, BlobError> {
        Ok(self.bytes(digest).ok().map(|b| b.len() as u64))
    }

    fn open_arriving(
        &self,
        digest: &Sha256Digest,
        _: u64,
        _: Gone,
    ) -> Result<Box<dyn BlobSource>, BlobError> {
        Ok(Box::new(InMemory(self.bytes(digest)?.into())))
    }
}

struct InMemory(bytes::Bytes);

impl BlobSource for InMemory {
    fn next(&mut self, most: usize) -> std::io::Result<bytes::Bytes> {
        Ok(self.0.split_to(most.min(self.0.len())))
    }
}

/// An engine with its own directory; ends with the test.
pub struct Bench {
    pub engine: Engine,
    pub store: Arc<MemoryStore>,
    pub root: PathBuf,
    pub scratch: tempfile::TempDir,
    _directory: tempfile::TempDir,
}

/// Settings of both sides.
pub struct Settings {
    pub engine_process: EngineConfig,
    pub options: EngineOptions,
}

impl Settings {
    /// With the real tools.
    pub fn new(root: &Path) -> Self {
        let options = EngineOptions {
            layers: root.with_extension("layers"),
            idle_stop: Duration::from_secs(600),
            cache_limit_bytes: 1 << 30,
            max_daemons: 16,
        };
        Self { engine_process: config(root), options }
    }
}

fn config(root: &Path) -> EngineConfig {
    EngineConfig {
        buildkitd: tool("buildkitd"),
        runc: tool("runc"),
        root: root.to_owned(),
        plain_http_registries: Vec::new(),
        registry_mirrors: BTreeMap::new(),
        cache_limit_bytes: 1 << 30,
        max_parallel_steps: 0,
        service: rustix::process::geteuid().as_raw(),
        max_daemons: 32,
        trust_sha256: Sha256Digest::of(b"a trust configuration"),
    }
}

pub fn project() -> Project {
    Project::new("engine test", [Sha256Digest::of(b"member")]).expect("valid")
}

/// A request for a tree context with the Dockerfile in it.
pub fn request(root: Sha256Digest) -> Request {
    Request {
        add_hosts: Vec::new(),
        annotations: BTreeMap::new(),
        attestation_request: None,
        build_args: BTreeMap::new(),
        build_id: "b1".to_owned().try_into().expect("an id"),
        context: Source::Tree { root },
        dockerfile: Dockerfile { path: "Dockerfile".to_owned(), root: Some(root) },
        issued_at: Timestamp::parse("2026-11-21T10:00:00Z").expect("a time"),
        labels: BTreeMap::new(),
        named_contexts: BTreeMap::new(),
        no_cache: false,
        nonce: Nonce([1; 32]),
        output: Output::Image {
            compression: Compression::Gzip,
            names: Vec::new(),
            push: false,
            rewrite_timestamp: false,
        },
        platforms: Vec::new(),
        project: project(),
        pull: false,
        secrets: None,
        ssh: Vec::new(),
        target: None,
        document_type: REQUEST_TYPE.to_owned(),
    }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::at(&std::env::temp_dir(), change)
    }

    /// On the memory file system: for many small builds, whose time would else go into waiting for the disk.
    pub fn in_memory() -> Self {
        Self::in_memory_with(|_| {})
    }

    /// The same with other settings.
    pub fn in_memory_with(change: impl FnOnce(&mut Settings)) -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::at(memory, change) } else { Self::with(change) }
    }

    pub fn at(place: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::Builder::new().prefix("sw").tempdir_in(place).expect("temporary directory");
        let root = directory.path().join("e");
        let mut settings = Settings::new(&root);
        change(&mut settings);
        // The engine process, but for the process: this one is root as well.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let process = EngineProcess::new(settings.engine_process, theirs).expect("an engine process");
        std::thread::spawn(move || process.serve().expect("the interface is kept to"));
        let (engine, _) = Engine::begin(ours, settings.options).expect("an engine");
        let scratch = tempfile::tempdir().expect("temporary directory");
        Self { engine, store: Arc::default(), root, scratch, _directory: directory }
    }

    pub async fn daemon(&self) -> Arc<Daemon> {
        self.engine.daemon(&project().id()).await.expect("a daemon")
    }

    pub fn inputs(&self, request: Request) -> SolveInputs {
        let scratch = tempfile::tempdir_in(self.scratch.path()).expect("temporary directory").keep();
        SolveInputs {
            request,
            store: self.store.clone(),
            secrets: Arc::new(SecretValues::default()),
            credentials: Arc::new(RegistryCredentials::default()),
            agents: None::<AgentHub>,
            policy: Arc::new(AllowAllSources) as Arc<dyn SourcePolicy>,
            scratch,
        }
    }

    /// Builds; gives the result and all events.
    pub async fn build(&self, inputs: SolveInputs) -> (Result<Solved, EngineError>, Vec<EngineEvent>) {
        let daemon = self.daemon().await;
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let collect = async {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        };
        tokio::join!(solve(&daemon, inputs, sender, CancellationToken::new()), collect)
    }

    /// Inputs for a Dockerfile on the small root file system; `root` holds it.
    pub fn with_root(&self, root: &Path, steps: &str) -> SolveInputs {
        let dockerfile = format!("FROM scratch\nCOPY root /\n{steps}\n");
        std::fs::write(root.join("Dockerfile"), dockerfile).expect("written");
        self.inputs(request(self.store.put_directory(root)))
    }

    /// Builds a tree of files.
    pub async fn build_files(&self, files: &[(&str, &str)]) -> Result<Solved, EngineError> {
        let inputs = self.inputs(request(self.store.put_files(files)));
        self.build(inputs).await.0
    }

    /// Starts a build that goes on by itself.
    pub async fn start(&self, inputs: SolveInputs) -> Running {
        let daemon = self.daemon().await;
        let (sender, events) = tokio::sync::mpsc::channel(1024);
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move { solve(&daemon, inputs, sender, stop).await });
        Running { events, seen: Vec::new(), cancel, task }
    }
}

/// A build under way.
pub struct Running {
    events: tokio::sync::mpsc::Receiver<EngineEvent>,
    pub seen: Vec<EngineEvent>,
    pub cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<Solved, EngineError>>,
}

impl Running {
    /// Waits until a step has written `text`.
    pub async fn wait_for_output(&mut self, text: &str) {
        while !output(&self.seen).contains(text) {
            let next = tokio::time::timeout(Duration::from_secs(60), self.events.recv());
            match next.await.expect("the step writes") {
                Some(event) => self.seen.push(event),
                None => panic!("the build has ended: {:#?}", self.seen),
            }
        }
    }

    /// Its end.
    pub async fn end(mut self) -> Result<Solved, EngineError> {
        while let Some(event) = self.events.recv().await {
            self.seen.push(event);
        }
        self.task.await.expect("no panic")
    }
}

/// What the steps wrote, of all streams.
pub fn output(events: &[EngineEvent]) -> String {
    let logs = events.iter().filter_map(|event| match event {
        EngineEvent::Log(log) => Some(String::from_utf8_lossy(&log.data).into_owned()),
        _ => None,
    });
    logs.collect()
}

/// A small root file system: a static busybox under the names that the steps of the tests use.
pub fn small_root(root: &Path) {
    for directory in ["bin", "tmp", "proc", "sys", "dev", "run"] {
        std::fs::create_dir_all(root.join(directory)).expect("created");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "sleep", "cat", "dd", "ls", "mkdir", "mount", "ip", "readlink"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("linked");
    }
}

/// A command that runs longer than any test, and that no other test process uses: it is looked for by name.
pub fn endless(number: u32) -> String {
    format!("sleep {}", 100_000_000 + std::process::id() * 10 + number)
}

/// Command lines of all processes of this machine that hold `text`. A process that is starting a program has
/// none for a moment: wait for one that must be there.
pub fn processes_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let lines = processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(text).then_some(line)
    });
    lines.collect()
}

/// Places in any process's view of the file system where something is mounted whose path holds `text`.
pub fn mounts_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let mut found: Vec<String> = processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("mountinfo")).ok())
        .flat_map(|table| {
            let lines = table.lines().filter(|line| line.contains(text));
            lines.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
