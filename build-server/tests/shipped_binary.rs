//! The shipped binary as an operator starts it: without a TEE there is no server, and nothing it reads names one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OPERATIONS: &str = r#"
listen = "127.0.0.1:0"
state_directory = "STATE"

[engine]
buildkitd = "/usr/bin/true"
runc = "/usr/bin/true"
"#;

const TRUST: &str = r#"
builder_id = "https://builder.example/v1"
admit_any_project = true
"#;

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn start(&self, operations: &str, trust: &str) -> Output {
        self.command(operations, trust).output().expect("the binary starts")
    }

    fn command(&self, operations: &str, trust: &str) -> Command {
        let write = |name: &str, text: &str| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let state = self.state();
        let operations =
            write("operations.toml", &operations.replace("STATE", state.to_str().expect("UTF-8")));
        let trust = write("trust.toml", trust);
        let mut command = Command::new(env!("CARGO_BIN_EXE_build-server"));
        command.arg("--operations").arg(operations).arg("--trust").arg(trust);
        command
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A real guest would start a real server.
fn assert_no_tee_here() {
    for path in ["/dev/sev-guest", "/dev/tdx_guest", "/sys/firmware/uv/prot_virt_guest"] {
        assert!(!Path::new(path).exists(), "this test wants a machine without a TEE, and there is {path}");
    }
}

#[test]
fn without_a_tee_it_refuses_to_start_and_says_what_it_looked_for() {
    assert_no_tee_here();
    let files = Files::new();
    let output = files.start(OPERATIONS, TRUST);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("refusing to start: no TEE found (looked for: "), "{text}");
    assert!(text.contains("/sys/kernel/config/tsm") && text.contains("make serve"), "{text}");
    assert!(output.stdout.is_empty());
    assert!(!files.state().exists(), "nothing is made before there is a TEE");
}

#[test]
fn no_variable_or_working_directory_selects_another_device_or_root() {
    assert_no_tee_here();
    let files = Files::new();
    // A tree that looks like the kernel's, where a relative or prefixed path would find it.
    let root = files.directory.path().join("root");
    for path in ["sys/kernel/config/tsm/report/entry0", "dev", "sys/firmware/uv"] {
        std::fs::create_dir_all(root.join(path)).expect("a directory");
    }
    for (path, contents) in [
        ("sys/kernel/config/tsm/report/entry0/provider", "sev_guest\n"),
        ("dev/sev-guest", ""),
        ("sys/firmware/uv/prot_virt_guest", "1\n"),
    ] {
        std::fs::write(root.join(path), contents).expect("a file");
    }
    let mut command = files.command(OPERATIONS, TRUST);
    command.current_dir(&root);
    for name in
        ["ROOT", "SYSROOT", "SYSFS_PATH", "TSM_PATH", "CONFIGFS", "SEV_GUEST", "DEV", "TEE", "ATTESTER"]
    {
        for prefix in ["", "SEALWRIGHT_", "SEALWRIGHT_DEV_", "BUILD_SERVER_"] {
            command.env(format!("{prefix}{name}"), &root);
        }
    }
    let output = command.output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("refusing to start: no TEE found"), "{}", stderr(&output));
}

#[test]
fn neither_file_has_a_key_for_the_tee_or_anything_else_unknown() {
    let files = Files::new();
    for key in
        ["tee", "attester", "device", "tsm_path", "root_key", "dangerous_roots", "dangerous_software_tee"]
    {
        for (operations, trust, file) in [
            (format!("{key} = \"/x\"\n{OPERATIONS}"), TRUST.to_owned(), "operations.toml"),
            (OPERATIONS.to_owned(), format!("{key} = \"/x\"\n{TRUST}"), "trust.toml"),
            (format!("{OPERATIONS}{key} = \"/x\"\n"), TRUST.to_owned(), "operations.toml"),
        ] {
            let output = files.start(&operations, &trust);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(64), "{text}");
            assert!(text.contains(key) && text.contains(file), "{text}");
        }
    }
}

#[test]
fn wrong_arguments_are_told_apart() {
    let start = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_build-server")).args(arguments).output().expect("starts");
        assert_eq!(output.status.code(), Some(64));
        stderr(&output)
    };
    assert!(start(&[]).contains("both files are needed"));
    assert!(start(&["--software-tee"]).contains("unknown argument `--software-tee`"));
    assert!(start(&["--trust"]).contains("`--trust` needs a file"));
    assert!(start(&["--trust", "a", "--trust", "b"]).contains("`--trust` is given twice"));
    let text = start(&["--operations", "/nowhere/o.toml", "--trust", "/nowhere/t.toml"]);
    assert!(text.contains("/nowhere/o.toml"), "{text}");
}
