//! What of a directory arrives in a build: our way (the command's scan under our ignore patterns, the stored
//! tree, our FileSync) compared with the real `buildctl`'s, on the same daemon, entry by entry.

mod buildkit_support;
mod buildkit_trees;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_server::buildkit::Export;
use buildkit_support::{Bench, project};
use buildkit_trees::{COPIES, IGNORE_FILES, REFUSED, odd_tree, plain_tree, write};
use client::context::{BlobSource, IgnoreFilter, StatCache, scan};
use client::key::CallerKey;
use client::request::{BuildOptions, Surroundings, prepare};
use client::spec::{ContextSpec, Destination, OutputSpec};
use provenance::digest::Sha256Digest;
use provenance::key::KeyAlgorithm;
use provenance::timestamp::Timestamp;
use sealwright_tests::tools::tool;

/// Contexts of one build.
const BATCH: usize = 16;

/// One entry of an archive: everything that a build can see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: Vec<u8>,
    device: (u32, u32),
    xattrs: BTreeMap<String, Vec<u8>>,
    contents: Sha256Digest,
}

/// What a build gave: its files, or that it failed and what it said.
#[derive(Debug)]
enum Outcome {
    Files(BTreeMap<Vec<u8>, Item>),
    Failed(String),
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

fn read_archive(path: &Path) -> BTreeMap<Vec<u8>, Item> {
    let mut archive = tar::Archive::new(fs::File::open(path).expect("an archive"));
    let mut items = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().expect("extensions").into_iter().flatten() {
            let extension = extension.expect("an extension");
            let key = extension.key().expect("a key");
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let path = entry.path_bytes().into_owned();
        let header = entry.header().clone();
        let mut item = Item {
            kind: header.entry_type().as_byte(),
            mode: header.mode().expect("a mode"),
            owner: (header.uid().expect("a uid"), header.gid().expect("a gid")),
            mtime: header.mtime().expect("a time"),
            link: entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default(),
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            xattrs,
            contents: Sha256Digest::of(b""),
        };
        // Directories that COPY makes have the time of the build, and those that a later transfer changes too.
        if item.kind == b'5' {
            item.mtime = 0;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("contents");
        item.contents = Sha256Digest::of(&bytes);
        items.insert(path, item);
    }
    items
}

/// One build: its main context, its Dockerfile and its named contexts.
struct Job {
    context: PathBuf,
    dockerfile: PathBuf,
    named: Vec<(String, PathBuf)>,
}

impl Job {
    fn of(context: &Path) -> Self {
        Self { context: context.to_owned(), dockerfile: context.join("Dockerfile"), named: Vec::new() }
    }
}

struct Comparison {
    bench: Bench,
    work: tempfile::TempDir,
    key: CallerKey,
}

impl Comparison {
    fn new() -> Self {
        Self {
            // A hundred builds without a disk under them.
            bench: Bench::in_memory(),
            work: tempfile::tempdir().expect("a directory"),
            key: CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256).expect("a key"),
        }
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.work.path().join(name);
        fs::create_dir_all(&path).expect("created");
        path
    }

    async fn ours(&self, job: &Job) -> Outcome {
        let options = BuildOptions {
            context: ContextSpec::Directory(job.context.clone()),
            dockerfile: Some(job.dockerfile.to_str().expect("UTF-8").to_owned()),
            names: Vec::new(),
            target: None,
            build_args: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            platforms: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            named_contexts: job
                .named
                .iter()
                .map(|(name, path)| (name.clone(), ContextSpec::Directory(path.clone())))
                .collect(),
            add_hosts: Vec::new(),
            no_cache: true,
            pull: false,
            output: OutputSpec { destination: Destination::FilesTar("-".into()), ..OutputSpec::default() },
            build_id: None,
            attestation_request: None,
        };
        let mut surroundings = Surroundings {
            variable: &|_| None,
            docker_config: None,
            cache: None,
            stdin: &mut std::io::empty(),
            now: Timestamp::parse("2026-11-21T10:00:00Z").expect("a time"),
        };
        let prepared = match prepare(&options, &project(), &self.key, &mut surroundings) {
            Ok(prepared) => prepared,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        for path in std::iter::once(&job.context).chain(job.named.iter().map(|(_, path)| path)) {
            // All files by their digests; what a request names of them is up to the scan.
            self.bench.store.put_directory(path);
        }
        for blob in prepared.trees.iter().flat_map(|tree| tree.blobs.values()) {
            if let BlobSource::Memory(bytes) = &blob.source {
                self.bench.store.put(bytes.to_vec());
            }
        }
        match self.bench.build(self.bench.inputs(prepared.request)).await.0 {
            Ok(solved) => {
                let Export::Files { tar, .. } = solved.export else { panic!("files") };
                Outcome::Files(read_archive(&tar))
            }
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    async fn buildctls(&self, job: &Job) -> Outcome {
        let daemon = self.bench.daemon().await;
        let tar = self.work.path().join("buildctl.tar");
        let local = |name: &str, path: &Path| format!("--local={name}={}", path.display());
        let mut command = Command::new(tool("buildctl"));
        command.arg("--addr").arg(format!("unix://{}", daemon.socket().display()));
        command.args(["build", "--frontend=dockerfile.v0", "--progress=plain", "--no-cache"]);
        command.arg(local("context", &job.context));
        command.arg(local("dockerfile", job.dockerfile.parent().expect("in a directory")));
        let name = job.dockerfile.file_name().and_then(OsStr::to_str).expect("UTF-8");
        command.args(["--opt", &format!("filename={name}")]);
        for (name, path) in &job.named {
            command.arg(local(name, path)).args(["--opt", &format!("context:{name}=local:{name}")]);
        }
        command.arg(format!("--output=type=tar,dest={}", tar.display()));
        let run = tokio::task::spawn_blocking(move || command.output().expect("buildctl runs"));
        let output = run.await.expect("no panic");
        if output.status.success() {
            Outcome::Files(read_archive(&tar))
        } else {
            Outcome::Failed(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Differences between the two, one line each.
    async fn differences(&self, job: &Job) -> Vec<String> {
        match (self.ours(job).await, self.buildctls(job).await) {
            (Outcome::Files(ours), Outcome::Files(theirs)) => {
                let mut found = Vec::new();
                for (path, item) in &ours {
                    match theirs.get(path) {
                        None => found.push(format!("`{}` with us only", shown(path))),
                        Some(other) if other != item => {
                            found.push(format!("`{}`: {item:?}\n  with buildctl {other:?}", shown(path)));
                        }
                        Some(_) => {}
                    }
                }
                let missing = theirs.keys().filter(|path| !ours.contains_key(*path));
                found.extend(missing.map(|path| format!("`{}` with buildctl only", shown(path))));
                found
            }
            (Outcome::Failed(ours), Outcome::Failed(theirs)) => vec![format!("both fail: {ours}\n{theirs}")],
            (Outcome::Failed(error), Outcome::Files(_)) => vec![format!("fails with us only: {error}")],
            (Outcome::Files(_), Outcome::Failed(error)) => vec![format!("fails with buildctl only: {error}")],
        }
    }

    /// Compares ignore files, many in a build: each is that of a named context.
    async fn compare_ignore_files(&self, ignore_files: &[Vec<u8>]) -> Vec<String> {
        let mut found = Vec::new();
        for batch in ignore_files.chunks(BATCH) {
            let together = self.batch(batch);
            let numbered = || batch.iter().enumerate().map(|(n, file)| format!("c{n} has `{}`", shown(file)));
            let differences = self.differences(&together).await;
            if !differences.is_empty() {
                found.extend(differences.into_iter().chain(numbered()));
            }
        }
        found
    }

    fn batch(&self, ignore_files: &[Vec<u8>]) -> Job {
        let main = self.directory("main");
        let mut dockerfile = "FROM scratch\n".to_owned();
        let mut named = Vec::new();
        for (number, ignore_file) in ignore_files.iter().enumerate() {
            let name = format!("c{number}");
            let path = self.work.path().join(&name);
            if !path.exists() {
                plain_tree(&path);
            }
            fs::write(path.join(".dockerignore"), ignore_file).expect("written");
            dockerfile += &format!("COPY --from={name} . /{name}/\n");
            named.push((name, path));
        }
        fs::write(main.join("Dockerfile"), dockerfile).expect("written");
        Job { named, ..Job::of(&main) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ignore_files_leave_what_buildctl_leaves() {
    let comparison = Comparison::new();
    let mut files: Vec<Vec<u8>> = IGNORE_FILES.iter().map(|f| f.to_vec()).collect();
    files.extend(made_up_ignore_files(&comparison, 55));
    let found = comparison.compare_ignore_files(&files).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
    for refused in REFUSED {
        let job = comparison.batch(&[refused.to_vec()]);
        let differences = comparison.differences(&job).await;
        let both = matches!(differences.as_slice(), [one] if one.starts_with("both fail"));
        assert!(both, "`{}`: {differences:?}", shown(refused));
    }
    comparison.bench.engine.shutdown().await;
}

/// Ignore files of a few lines, put together from what patterns are made of; the same in every run.
fn made_up_ignore_files(comparison: &Comparison, count: usize) -> Vec<Vec<u8>> {
    const PARTS: &[&str] = &[
        "a", "b", "ab", "keep", ".hidden", "*", "**", "?", "[ab]", "[^a]", "/", "/", "/", ".", "..", "*.txt",
        "\\", "-b",
    ];
    let mut state: u64 = 0x5ea1_0000_0000_0001;
    let mut below = |limit: usize| {
        // Knuth's MMIX generator; the low bits are poor.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % limit
    };
    let tree = comparison.work.path().join("made-up");
    plain_tree(&tree);
    let mut files = Vec::new();
    while files.len() < count {
        let mut file = String::new();
        for _ in 0..=below(4) {
            if below(3) == 0 {
                file.push('!');
            }
            (0..=below(5)).for_each(|_| file += PARTS[below(PARTS.len())]);
            file.push('\n');
        }
        // One that is refused would end the build of all that are with it.
        let filter = IgnoreFilter::parse(file.as_bytes(), PathBuf::from("made-up"));
        if filter.is_ok_and(|filter| scan(&tree, &filter, &mut StatCache::none()).is_ok()) {
            files.push(file.into_bytes());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_files_links_and_nodes_arrive_as_with_buildctl() {
    let comparison = Comparison::new();
    let root = comparison.directory("odd");
    odd_tree(&root);
    let mut problems = Vec::new();
    for (copies, works) in COPIES {
        fs::write(root.join("Dockerfile"), format!("FROM scratch\n{copies}\n")).expect("written");
        let found = comparison.differences(&Job::of(&root)).await;
        let failed = matches!(found.as_slice(), [one] if one.starts_with("both fail"));
        if failed == *works || (*works && !found.is_empty()) {
            problems.push(format!("{copies}: {}", found.join("\n")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    comparison.bench.engine.shutdown().await;
}

/// A name, a Dockerfile, and the ignore files with their contents.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// A tree with one ignore file or several, in odd places.
fn with_ignore_files(root: &Path, files: &[(&str, &str)]) {
    for name in ["a", "b", "c", "sub/a", "sub/b"] {
        write(root, name, name);
    }
    write(root, "Dockerfile", "FROM scratch\nCOPY . /\n");
    write(root, "sub/Other", "FROM scratch\nCOPY . /\n");
    files.iter().for_each(|(name, contents)| write(root, name, contents));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ignore_file_that_counts_is_the_one_that_counts_for_buildctl() {
    let comparison = Comparison::new();
    let cases: &[Case] = &[
        ("own", "Dockerfile", &[("Dockerfile.dockerignore", "a\n"), (".dockerignore", "b\n")]),
        ("empty-own", "Dockerfile", &[("Dockerfile.dockerignore", ""), (".dockerignore", "b\n")]),
        ("other", "sub/Other", &[("sub/Other.dockerignore", "a\n"), (".dockerignore", "b\n")]),
        ("beside", "sub/Other", &[("sub/.dockerignore", "a\n"), ("Other.dockerignore", "c\n")]),
        ("of-another", "Dockerfile", &[("sub/Other.dockerignore", "a\n"), ("Other.dockerignore", "c\n")]),
        ("everything", "Dockerfile", &[(".dockerignore", "*\n!sub/a\n")]),
        ("itself", "Dockerfile", &[(".dockerignore", "Dockerfile*\n.dockerignore\n")]),
        ("directory", "Dockerfile", &[(".dockerignore/a", "a\n")]),
        ("inner", "Dockerfile", &[("sub/.dockerignore", "a\n")]),
    ];
    let mut problems = Vec::new();
    for (name, dockerfile, files) in cases {
        let root = comparison.directory(name);
        with_ignore_files(&root, files);
        let job = Job { dockerfile: root.join(dockerfile), ..Job::of(&root) };
        problems
            .extend(comparison.differences(&job).await.into_iter().map(|found| format!("{name}: {found}")));
    }
    // An ignore file that is a link counts as what it leads to inside the context, and only there.
    let outside = comparison.directory("outside").join("ignore");
    fs::write(&outside, "a\n").expect("written");
    let links = [
        ("link-in", "sub/real"),
        ("link-rooted", "/sub/real"),
        ("link-out", "../outside/ignore"),
        ("link-nowhere", "gone"),
    ];
    for (name, target) in links {
        let root = comparison.directory(name);
        with_ignore_files(&root, &[("sub/real", "sub\nb\n")]);
        symlink(target, root.join(".dockerignore")).expect("linked");
        let found = comparison.differences(&Job::of(&root)).await;
        problems.extend(found.into_iter().map(|found| format!("{name}: {found}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    comparison.bench.engine.shutdown().await;
}
