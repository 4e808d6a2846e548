//! The `sealwright` command as a process, as far as it goes without a server: settings, keys, projects, misuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A home directory of its own, so that nothing of the machine's user matters.
struct Home {
    directory: tempfile::TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Demands an exit code and texts on stderr.
    #[track_caller]
    fn fails(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(self.stdout.is_empty(), "stdout is for data: {}", self.stdout);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is missing: {}", self.stderr);
        }
    }

    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.stderr);
        &self.stdout
    }
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealwright"));
        command.env_clear().env("HOME", self.directory.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().expect("runs"))
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("directories");
        std::fs::write(&path, text).expect("a file");
        self.text(name)
    }
}

const CONFIG: &str = ".config/sealwright/config.toml";

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).expect("exists").permissions().mode() & 0o7777
}

#[test]
fn a_key_is_made_once_for_its_owner_only_and_shown() {
    let home = Home::new();
    let file = home.text("caller.pem");
    let made = home.run(&["key", "new", &file]).ok().to_owned();
    assert!(made.starts_with("sha256:") && made.contains("-----BEGIN PUBLIC KEY-----"), "{made}");
    assert_eq!(mode(&home.path("caller.pem")), 0o600);
    assert_eq!(home.run(&["key", "show", &file]).ok(), made);
    assert_eq!(home.run(&["key", "show", "--key", &file]).ok(), made);
    let before = std::fs::read(&file).expect("the key");
    home.run(&["key", "new", &file]).fails(2, &["exists", "never overwritten", "what to do"]);
    assert_eq!(std::fs::read(&file).expect("the key"), before);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let file = home.text("caller.pem");
    home.run(&["key", "new", &file]).ok();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("changed");
    home.run(&["key", "show", &file]).fails(2, &["has mode 0644", "wanted 0600", "chmod 600"]);
}

#[test]
fn a_project_is_its_document() {
    let home = Home::new();
    let (first, second) = (home.text("first.pem"), home.text("second.pem"));
    home.run(&["key", "new", &first]).ok();
    home.run(&["key", "new", &second]).ok();
    let document =
        home.run(&["project", "new", "acme/app", "--member", &first, "--member", &second]).ok().to_owned();
    let turned =
        home.run(&["project", "new", "acme/app", "--member", &second, "--member", &first]).ok().to_owned();
    assert_eq!(document, turned, "the order of members says nothing");
    let file = home.write("project.json", &document);
    let shown = home.run(&["project", "show", "--project", &file]).ok().to_owned();
    assert!(shown.contains("acme/app") && shown.matches("member").count() == 2, "{shown}");
    let alone = home.run(&["project", "new", "acme/app", "--member", &first]).ok().to_owned();
    assert_ne!(alone, document, "another membership is another project");
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let home = Home::new();
    home.write(CONFIG, "endpoint = \"file:1\"\nprogress = \"plain\"\n");
    let endpoint = |command: &mut Command| {
        let ran = Ran::of(command.output().expect("runs"));
        let shown: serde_json::Value = serde_json::from_str(ran.ok()).expect("JSON");
        let setting = &shown["settings"]["endpoint"];
        (
            setting["value"].as_str().unwrap_or("-").to_owned(),
            setting["origin"].as_str().unwrap_or("-").to_owned(),
        )
    };
    let show = ["config", "show", "--json"];
    let (value, origin) = endpoint(&mut home.command(&show));
    assert_eq!((value.as_str(), origin.ends_with("config.toml")), ("file:1", true), "{origin}");
    let (value, origin) = endpoint(home.command(&show).env("SEALWRIGHT_ENDPOINT", "env:2"));
    assert_eq!((value.as_str(), origin.as_str()), ("env:2", "environment SEALWRIGHT_ENDPOINT"));
    let (value, origin) =
        endpoint(home.command(&show).env("SEALWRIGHT_ENDPOINT", "env:2").args(["--endpoint", "flag:3"]));
    assert_eq!((value.as_str(), origin.contains("--endpoint")), ("flag:3", true), "{origin}");
}

#[test]
fn an_unknown_key_of_the_configuration_is_named_with_its_line() {
    let home = Home::new();
    home.write(CONFIG, "endpoint = \"a:1\"\nverify = false\n");
    home.run(&["config", "show"]).fails(
        2,
        &[
            "config.toml",
            "line 2",
            "unknown field `verify`",
            "what to do: known keys are endpoint, key, policy, project, host-key-documents, progress, color, \
                 amd-kds, intel-pcs, intel-root-crl",
        ],
    );
}

#[test]
fn without_policy_nothing_is_verified_and_without_endpoint_nothing_is_built() {
    let home = Home::new();
    home.write("context/Dockerfile", "FROM scratch\n");
    let context = home.text("context");
    home.run(&["verify", &context]).fails(2, &["no policy", "SEALWRIGHT_POLICY", "what to do"]);
    home.run(&["build", &context]).fails(2, &["no endpoint", "SEALWRIGHT_ENDPOINT", "what to do"]);
    let missing = home.text("missing.toml");
    home.run(&["verify", "--policy", &missing, &context]).fails(2, &["missing.toml", "what to do"]);
    let partial = home.write("partial.toml", "format = \"sealwright-policy/1\"\n");
    home.run(&["policy", "check", &partial]).fails(2, &["partial.toml", "what to do"]);
}

#[test]
fn errors_are_documents_under_json() {
    let home = Home::new();
    let ran = home.run(&["--json", "verify", &home.text("nothing")]);
    assert_eq!(ran.code, 2);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON document");
    assert_eq!((&document["error"]["exit"], &document["error"]["reason"]), (&2.into(), &"USAGE".into()));
}

#[test]
fn misuse_under_json_is_told_as_a_whole() {
    let home = Home::new();
    for (arguments, message, advice) in [
        (
            &["--json", "verify"][..],
            "the following required arguments were not provided: <IMAGE|LAYOUT|TAR>",
            None,
        ),
        (
            &["--json", "verify", "--repositry", "a", "b"],
            "unexpected argument '--repositry' found",
            Some("a similar argument exists: '--repository'"),
        ),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON document");
        assert_eq!(document["error"]["message"], message);
        assert_eq!(
            document["error"]["advice"].as_array().expect("a list").first(),
            advice.map(Into::into).as_ref()
        );
    }
}

#[test]
fn misuse_is_told_with_the_usage() {
    let home = Home::new();
    home.run(&[]).fails(2, &["Usage: sealwright"]);
    home.run(&["verify"]).fails(2, &["<IMAGE|LAYOUT|TAR>"]);
    for arguments in [&["list", "--limit", "0"][..], &["build", "--timeout", "0", "."]] {
        home.run(arguments).fails(2, &["invalid value '0'", "wanted a whole number, 1 or more"]);
    }
    home.run(&["build", "-o", "type=oci,dest=", "."]).fails(2, &["dest is empty; wanted dest=PATH"]);
    let nameless = format!("type=oci,dest={}/..", home.text("absent"));
    home.run(&["build", "-o", &nameless, "."]).fails(2, &["is no OCI layout", "what to do"]);
    home.run(&["frobnicate"]).fails(2, &["unrecognized subcommand"]);
    home.run(&["build", "--no-such-flag", "."]).fails(2, &["--no-such-flag"]);
    assert!(home.run(&["--help"]).ok().contains("Build an image from a Dockerfile"));
    assert!(home.run(&["--version"]).ok().starts_with("sealwright "));
}

#[test]
fn completions_are_printed_for_every_shell_even_with_a_broken_configuration() {
    let home = Home::new();
    home.write(CONFIG, "this is no TOML");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&["completion", shell]).ok().contains("sealwright"), "{shell}");
    }
}

/// Signed Reference Values of a release with this measurement, and the release key's public half.
fn release(home: &Home, name: &str, guest_version: u64, byte: &str) -> (String, String) {
    let key = home.path("release.key.pem");
    if !key.exists() {
        home.run(&["key", "new", &home.text("release.key.pem")]).ok();
    }
    let key = client::key::CallerKey::load(&key).expect("a key");
    let public = home.write("release.pub.pem", &client::key::public_pem(key.public()));
    let digest = provenance::digest::Sha256Digest::of(b"x");
    let document = format!(
        "{{\"build_policies\":[\"{digest}\"],\"builder_ids\":[\"https://b.example\"],\"guest_version\":{guest_version},\
         \"name\":\"sealwright {guest_version}\",\"platforms\":{{\"sev-snp\":{{\"measurements\":[\"{}\"]}}}},\
         \"trust_configurations\":[\"{digest}\"],\"type\":\"https://sealwright.dev/reference-values/v1\"}}",
        byte.repeat(48)
    );
    let envelope = key
        .sign_envelope(provenance::dsse::REFERENCE_VALUES_PAYLOAD_TYPE, document.into_bytes())
        .expect("signed");
    (home.write(name, &String::from_utf8(envelope.to_json()).expect("JSON")), public)
}

#[test]
fn a_policy_is_made_checked_explained_and_extended() {
    let home = Home::new();
    let (first, release_key) = release(&home, "first.json", 1, "01");
    let (second, _) = release(&home, "second.json", 2, "02");
    let made = home.run(&[
        "policy",
        "init",
        "--from",
        &first,
        "--release-key",
        &release_key,
        "--caller",
        &release_key,
    ]);
    let policy = home.write("policy.toml", &made.ok().replace("[hardware]", "[hardware] # mine"));

    let checked = home.run(&["policy", "check", &policy]);
    assert_eq!(checked.ok(), format!("{policy}: complete, 1 reference value\n"));
    let text = std::fs::read_to_string(&policy).expect("there");
    let line = 1 + text.lines().position(|line| line.starts_with("network = ")).expect("there");
    assert!(
        checked.stderr.contains(&format!("unchecked  {policy} line {line}: materials.network: ")),
        "{}",
        checked.stderr
    );

    let explained = home.run(&["policy", "explain", &policy]);
    assert!(
        explained.ok().contains("endorsed by the roots of AMD Genoa, AMD Turin\n"),
        "{}",
        explained.stdout
    );
    assert!(
        explained.ok().contains(&format!("  line {line:<4} materials.network: ")),
        "{}",
        explained.stdout
    );
    let json = home.run(&["--json", "policy", "explain", &policy]);
    let document: serde_json::Value = serde_json::from_str(json.ok()).expect("JSON");
    assert_eq!((&document["file"], &document["notHardware"]), (&policy.as_str().into(), &false.into()));
    assert!(document["skips"].as_array().expect("skips").iter().any(|skip| skip["line"] == line));

    let add =
        |file: &str| home.run(&["policy", "add-reference", &policy, file, "--release-key", &release_key]);
    assert_eq!(add(&second).ok(), format!("{policy}: 1 reference value added, 0 there already\n"));
    let text = std::fs::read_to_string(&policy).expect("there");
    assert!(text.contains("[hardware] # mine") && text.contains(&"02".repeat(48)), "{text}");
    home.run(&["policy", "check", &policy]).ok();
    assert_eq!(add(&second).ok(), format!("{policy}: 0 reference values added, 1 there already\n"));
    add(&first).fails(3, &["guest version 2 is accepted", "older 1", "policy.toml line", "what to do"]);
    let stranger = home.text("stranger.pem");
    home.run(&["key", "new", &stranger]).ok();
    home.run(&["policy", "add-reference", &policy, &second, "--release-key", &stranger])
        .fails(4, &["Reference Values", "what to do"]);
    assert_eq!(std::fs::read_to_string(&policy).expect("there"), text, "refusals change nothing");
}

#[test]
fn a_cut_index_is_damage_and_not_a_wrong_name() {
    let home = Home::new();
    home.write("layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    home.write("layout/index.json", "{\"schemaVersion\":2,\"manif");
    home.run(&["inspect", &home.text("layout")]).fails(
        4,
        &["is damaged: index.json: EOF while parsing", "what to do: fetch it again from where it came from"],
    );
    home.write("layout/index.json", "{\"schemaVersion\":2,\"schemaversion\":2}");
    home.run(&["inspect", &home.text("layout")]).fails(2, &["is no OCI layout", "two spellings"]);
}

#[test]
fn an_unreadable_file_is_told_by_who_named_it() {
    let home = Home::new();
    let key = home.text("key.pem");
    home.run(&["key", "new", &key]).ok();
    let (missing, policy) = (home.text("absent"), release_policy(&home));
    for arguments in [
        &["policy", "init", "--from", &missing, "--release-key", &key][..],
        &["policy", "init", "--from", &missing, "--release-key", &missing],
        &["appraise", "--policy", &policy, &missing],
        &["verify", "--policy", &policy, "--endorsements", &missing, &missing],
        &["policy", "check", &missing],
    ] {
        let ran = home.run(arguments);
        ran.fails(2, &["cannot read", "absent", "what to do: check the path"]);
        assert!(!ran.stderr.contains("config show"), "{arguments:?}: {}", ran.stderr);
    }
    home.run(&["policy", "check", "--policy", &missing])
        .fails(2, &["cannot read policy", "`sealwright config show` says where the setting came from"]);
}

/// A complete policy.
fn release_policy(home: &Home) -> String {
    let (values, release_key) = release(home, "values.json", 1, "01");
    let made = home.run(&[
        "policy",
        "init",
        "--from",
        &values,
        "--release-key",
        &release_key,
        "--caller",
        &release_key,
    ]);
    home.write("policy.toml", made.ok())
}
