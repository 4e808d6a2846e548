//! The Dockerfile cases of `tests/cases`: each is built by `sealwright` and by `buildctl` on the same daemon, and
//! must come out the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use super::layout::{Layout, text};
use super::servers::{COMMIT_TIME, WebServer, repository};
use super::supervise::{Program, Supervised};
use super::{DevServer, Output, generate};
use crate::tools::{base_image, tool};

/// SOURCE_DATE_EPOCH of all cases: 2023-11-14.
pub const EPOCH: i64 = 1_700_000_000;
/// Secret values that cases get; nowhere but in the steps may they appear.
pub const SECRETS: &[&str] = &["correct horse battery staple", "token-line-one-7f3a", "token-line-two-9c1b"];

/// `case.toml`. In flags, `{…}` is replaced: `base` (layout of Debian), `ca` (the machine's CA bundle), `case` (the
/// folder), `work` (scratch), `git` and `http` (URLs of the local server), `commit`, `archive_sha256`, `agent`
/// (socket), `parent` (layout of the case `onbuild-parent`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What shape of Dockerfile it is.
    pub about: String,
    /// Flags of `sealwright build`; buildctl's are made from them.
    #[serde(default)]
    pub flags: Vec<String>,
    /// `debian:bookworm` is the base image.
    #[serde(default)]
    pub base: bool,
    /// `git`, `http`, `ssh-agent`, `parent`: what has to run or to be built before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Paths in the image of every platform; with `/` at the end a directory.
    pub contains: Vec<String>,
    /// Paths not in the image.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Ends of the URIs of materials that the manifest must name.
    #[serde(default)]
    pub materials: Vec<String>,
    /// Platforms of the result, when there are several.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Tree made by [`generate::generate`], beside the files of the case.
    pub generate: Option<String>,
    /// Context instead of the case's folder `context`.
    pub context: Option<String>,
    /// Context of buildctl's build, when it is another with the same content.
    pub reference_context: Option<String>,
    /// `commit`: the epoch is not given, it is the commit's time.
    pub epoch: Option<String>,
    /// Uses [`SECRETS`], which must not show up in the layout.
    #[serde(default)]
    pub secret: bool,
}

/// Everything that cases need, shared by all tests of one binary.
pub struct Workshop {
    /// The server.
    pub server: DevServer,
    /// Files and the repository.
    pub web: WebServer,
    commit: String,
    archive_sha256: String,
    agent: OnceLock<(Supervised, PathBuf)>,
    parent: OnceLock<PathBuf>,
}

/// Folder of a case.
///
/// # Panics
/// When there is none of that name.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(name);
    assert!(folder.join("case.toml").is_file(), "no case {name} at {}", folder.display());
    folder
}

/// The machine's CA bundle: steps that use https get it as a secret.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that cases name in `--secret id=…,env=…`: the machine's own package indexes, or the public ones.
fn environment() -> Vec<(&'static str, String)> {
    let or = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    vec![
        ("CASE_GOPROXY", or("GOPROXY", "https://proxy.golang.org,direct")),
        ("CASE_PIP_INDEX", or("PIP_INDEX_URL", "https://pypi.org/simple")),
        ("CASE_NPM_REGISTRY", or("npm_config_registry", "https://registry.npmjs.org/")),
        ("CASE_PASSWORD", SECRETS[0].to_owned()),
    ]
}

impl Workshop {
    /// Starts a server and the local web server.
    ///
    /// # Panics
    /// When something cannot be started.
    #[must_use]
    pub fn open() -> Self {
        let web = WebServer::start();
        let commit = repository(web.directory());
        let archive = folder("heredocs-and-copy-flags").join("context/packed.tar.gz");
        let archive = std::fs::read(archive).expect("archive");
        std::fs::write(web.directory().join("archive.tar.gz"), &archive).expect("file");
        std::fs::write(web.directory().join("data.txt"), "data over http\n").expect("file");
        let server = DevServer::start();
        std::fs::write(server.work().join("token"), format!("{}\n{}\n", SECRETS[1], SECRETS[2]))
            .expect("file");
        Self {
            server,
            web,
            commit,
            archive_sha256: sha256(&archive),
            agent: OnceLock::new(),
            parent: OnceLock::new(),
        }
    }

    /// Socket of an SSH agent that holds one throw-away key.
    pub fn agent(&self) -> &Path {
        let (_, socket) = self.agent.get_or_init(|| {
            let socket = self.server.work().join("agent");
            let (agent, _stdout) = Supervised::start(&Program {
                path: Path::new("ssh-agent"),
                arguments: ["-D".as_ref(), "-a".as_ref(), socket.as_os_str()].into(),
                environment: vec![],
                owned: None,
                log: None,
            });
            super::supervise::wait_for("the agent's socket", std::time::Duration::from_secs(10), || {
                socket.exists().then_some(())
            });
            let key = self.server.work().join("throw-away-key");
            let mut make = Command::new("ssh-keygen");
            let _ =
                Output::of(make.args(["-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f"]).arg(&key))
                    .ok();
            let _ = Output::of(Command::new("ssh-add").env("SSH_AUTH_SOCK", &socket).arg(&key)).ok();
            (agent, socket)
        });
        socket
    }

    fn expand(&self, word: &str, case: &Path) -> String {
        let mut word = word.to_owned();
        for (name, value) in [
            ("{base}", &|| base_image().display().to_string()),
            ("{ca}", &|| CA_BUNDLE.to_owned()),
            ("{case}", &|| case.display().to_string()),
            ("{work}", &|| self.server.work().display().to_string()),
            ("{git}", &|| self.web.url()),
            ("{http}", &|| self.web.url()),
            ("{commit}", &|| self.commit.clone()),
            ("{archive_sha256}", &|| self.archive_sha256.clone()),
            ("{agent}", &|| self.agent().display().to_string()),
            ("{parent}", &|| self.parent().display().to_string()),
        ] as [(&str, &dyn Fn() -> String); 10]
        {
            if word.contains(name) {
                word = word.replace(name, &value());
            }
        }
        word
    }

    fn parent(&self) -> &Path {
        self.parent.get_or_init(|| self.build("onbuild-parent", "parent").1.root().to_owned())
    }

    /// The case's file, and its flags with everything filled in.
    ///
    /// # Panics
    /// When `case.toml` is wrong.
    #[must_use]
    pub fn load(&self, name: &str) -> (Case, Vec<String>) {
        let folder = folder(name);
        let file = std::fs::read_to_string(folder.join("case.toml")).expect("case.toml");
        let case: Case = toml::from_str(&file).unwrap_or_else(|error| panic!("{name}/case.toml: {error}"));
        let mut flags: Vec<String> = case.flags.iter().map(|flag| self.expand(flag, &folder)).collect();
        if case.base {
            let base = base_image();
            flags.extend([
                "--build-context".into(),
                format!("debian:bookworm=oci-layout://{}:bookworm", base.display()),
            ]);
        }
        if case.epoch.is_none() {
            flags.extend(["--build-arg".into(), format!("SOURCE_DATE_EPOCH={EPOCH}")]);
        }
        (case, flags)
    }

    fn context(&self, name: &str, case: &Case) -> String {
        let folder = folder(name);
        if let Some(context) = &case.context {
            return self.expand(context, &folder);
        }
        let Some(tree) = &case.generate else {
            return folder.join("context").display().to_string();
        };
        let made = self.server.work().join(format!("context-{name}"));
        if !made.exists() {
            std::fs::create_dir(&made).expect("directory");
            for file in std::fs::read_dir(folder.join("context")).expect("context").flatten() {
                std::fs::copy(file.path(), made.join(file.file_name())).expect("copy");
            }
            generate::generate(tree, &made);
        }
        made.display().to_string()
    }

    /// Builds a case with `sealwright` into a layout named after `tag`; gives the command's output too.
    ///
    /// # Panics
    /// When the build fails.
    #[must_use]
    pub fn build(&self, name: &str, tag: &str) -> (Output, Layout) {
        let (case, flags) = self.load(name);
        let context = self.context(name, &case);
        let layout = self.server.work().join(format!("{name}-{tag}"));
        let output = format!("type=oci,dest={},rewrite-timestamp=true", layout.display());
        let mut command = self.server.command(["build", "--progress", "plain", "--output", &output]);
        command.args(["-t", &format!("example.test/cases/{name}:latest")]).args(&flags).arg(context);
        command.envs(environment());
        let output = Output::of(&command).ok();
        (output, Layout::at(layout))
    }

    /// Builds a case with both, compares the images, and has `sealwright verify` judge the result.
    ///
    /// # Panics
    /// When anything differs.
    pub fn run(&self, name: &str) {
        let (case, flags) = self.load(name);
        let (said, ours) = self.build(name, "ours");
        let theirs = self.reference(name, &case, &flags);
        compare(name, &case, &ours, &theirs);
        let verdict = self.server.sealwright(["verify", "--json", &ours.root().display().to_string()]).ok();
        let statement = self.materials(&ours);
        for wanted in &case.materials {
            assert!(
                statement.iter().any(|uri| uri.ends_with(wanted)
                    || uri.contains(&format!("{wanted}#"))
                    || uri.contains(&format!("{wanted}@"))),
                "{name}: no material {wanted} in {statement:#?}"
            );
        }
        if case.secret {
            for secret in SECRETS {
                assert!(
                    !said.stderr.contains(secret) && !said.stdout.contains(secret),
                    "{name}: secret in the output"
                );
                assert!(!verdict.stdout.contains(secret), "{name}: secret in the verdict");
                for file in ours.all_files() {
                    let bytes = std::fs::read(&file).expect("file of the layout");
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{name}: secret in {}", file.display());
                }
            }
        }
    }

    /// URIs of the resolved dependencies in the layout's provenance.
    fn materials(&self, layout: &Layout) -> Vec<String> {
        let inspected =
            self.server.sealwright(["inspect", "--json", &layout.root().display().to_string()]).ok().json();
        let mut uris = Vec::new();
        collect_uris(&inspected, &mut uris);
        uris
    }

    /// The same build by buildctl on the same daemon: its layout.
    fn reference(&self, name: &str, case: &Case, flags: &[String]) -> Layout {
        let context = match &case.reference_context {
            Some(context) => self.expand(context, &folder(name)),
            None => self.context(name, case),
        };
        let layout = self.server.work().join(format!("{name}-theirs"));
        let mut command =
            self.server.buildctl(["build", "--progress", "plain", "--frontend", "dockerfile.v0"]);
        // Any value keeps `# syntax=` from asking for the gateway, which is off.
        command.args(["--opt", "cmdline=reference"]);
        let mut export = format!(
            "type=oci,tar=false,dest={},rewrite-timestamp=true,compression=uncompressed",
            layout.display()
        );
        let mut dockerfile = None;
        if case.context.is_some() {
            command.args([
                "--opt",
                &format!("context={context}"),
                "--opt",
                &format!("build-arg:SOURCE_DATE_EPOCH={COMMIT_TIME}"),
            ]);
        } else {
            command.args(["--local", &format!("context={context}")]);
            dockerfile = Some(context);
        }
        let mut stores = 0;
        let mut words = flags.iter();
        while let Some(flag) = words.next() {
            let mut value =
                || words.next().unwrap_or_else(|| panic!("{name}: {flag} without value")).as_str();
            match flag.as_str() {
                "--build-arg" => drop(command.args(["--opt", &format!("build-arg:{}", value())])),
                "--label" => drop(command.args(["--opt", &format!("label:{}", value())])),
                "--annotation" => export += &format!(",annotation.{}", value()),
                "--target" => drop(command.args(["--opt", &format!("target={}", value())])),
                "--platform" => drop(command.args(["--opt", &format!("platform={}", value())])),
                "--add-host" => {
                    command.args(["--opt", &format!("add-hosts={}", value().replacen(':', "=", 1))]);
                }
                "--secret" => drop(command.args(["--secret", value()])),
                "--ssh" => drop(command.args(["--ssh", value()])),
                "--no-cache" => drop(command.arg("--no-cache")),
                "--pull" => drop(command.args(["--opt", "image-resolve-mode=pull"])),
                "-t" => {
                    value();
                }
                "-f" => {
                    let file = Path::new(value());
                    dockerfile = file.parent().map(|parent| parent.display().to_string());
                    let file = file.file_name().expect("has a name").to_string_lossy();
                    command.args(["--opt", &format!("filename={file}")]);
                }
                "--build-context" => {
                    let (context, source) = value().split_once('=').expect("NAME=SOURCE");
                    if let Some(rest) = source.strip_prefix("oci-layout://") {
                        let (path, tag) = rest.rsplit_once(':').expect("PATH:TAG");
                        let digest = tagged(path, tag);
                        stores += 1;
                        command.args(["--oci-layout", &format!("store{stores}={path}")]);
                        command.args([
                            "--opt",
                            &format!("context:{context}=oci-layout://store{stores}@{digest}"),
                        ]);
                    } else if source.contains("://") {
                        command.args(["--opt", &format!("context:{context}={source}")]);
                    } else {
                        command.args(["--local", &format!("{context}={source}")]);
                        command.args(["--opt", &format!("context:{context}=local:{context}")]);
                    }
                }
                _ => panic!("{name}: buildctl's word for {flag} is not known"),
            }
        }
        if let Some(dockerfile) = dockerfile {
            command.args(["--local", &format!("dockerfile={dockerfile}")]);
        }
        command.args(["--output", &export]).envs(environment());
        let _ = Output::of(&command).ok();
        Layout::at(layout)
    }
}

fn collect_uris(value: &Value, uris: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            uris.extend(fields.get("uri").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| collect_uris(field, uris));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_uris(item, uris)),
        _ => {}
    }
}

/// Same platforms, same config to the last field (diffIDs and history included), same annotations, same files; and
/// the files that the case wants.
fn compare(name: &str, case: &Case, ours: &Layout, theirs: &Layout) {
    let (mine, reference) = (ours.manifests(), theirs.manifests());
    let platforms: Vec<&String> = mine.keys().collect();
    assert_eq!(platforms, reference.keys().collect::<Vec<_>>(), "{name}: platforms");
    if !case.platforms.is_empty() {
        assert_eq!(platforms, case.platforms.iter().collect::<Vec<_>>(), "{name}: platforms asked for");
    }
    for (platform, manifest) in &mine {
        let (config, wanted) = (ours.config(manifest), theirs.config(&reference[platform]));
        if config["rootfs"] != wanted["rootfs"] {
            let (left, right) = (ours.files(manifest), theirs.files(&reference[platform]));
            panic!(
                "{name} {platform}: diffIDs\n ours   {}\n theirs {}\n{}",
                config["rootfs"],
                wanted["rootfs"],
                difference(&left, &right)
            );
        }
        assert_eq!(config, wanted, "{name} {platform}: config");
        assert_eq!(
            manifest["annotations"], reference[platform]["annotations"],
            "{name} {platform}: annotations"
        );
        let files = ours.files(manifest);
        for path in &case.contains {
            let directory = path.ends_with('/');
            let entry = files.get(path.trim_end_matches('/').as_bytes());
            assert!(
                entry.is_some_and(|entry| !directory || entry.kind == b'5'),
                "{name} {platform}: no {path} in the image"
            );
        }
        for path in &case.absent {
            assert!(!files.contains_key(path.as_bytes()), "{name} {platform}: {path} is in the image");
        }
    }
}

/// What differs between two sets of files.
fn difference(
    left: &BTreeMap<Vec<u8>, super::layout::Entry>,
    right: &BTreeMap<Vec<u8>, super::layout::Entry>,
) -> String {
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let mut lines = Vec::new();
    for (path, entry) in left {
        match right.get(path) {
            None => lines.push(format!("only ours: {}", name(path))),
            Some(other) if other != entry => lines.push(format!("differs: {}", name(path))),
            Some(_) => {}
        }
    }
    lines.extend(
        right
            .keys()
            .filter(|path| !left.contains_key(*path))
            .map(|path| format!("only theirs: {}", name(path))),
    );
    lines.truncate(30);
    lines.join("\n")
}

/// Digest of a tag in a layout.
///
/// # Panics
/// When the layout has no such tag.
#[must_use]
pub fn tagged(layout: &str, tag: &str) -> String {
    let index = Layout::at(layout).index();
    let entries = index["manifests"].as_array().expect("manifests");
    let found = entries.iter().find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
    text(&found.unwrap_or_else(|| panic!("no tag {tag} in {layout}"))["digest"])
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Runs a tool of `target/tools/bin` to its end.
#[must_use]
pub fn run_tool(name: &str, arguments: &[&str]) -> Output {
    Output::of(Command::new(tool(name)).args(arguments))
}
