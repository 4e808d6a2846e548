//! The command's ways to follow builds and to take their results, against one server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use sealwright_tests::harness::layout::{Layout, text};
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Output};
use sealwright_tests::tools::base_image;
use serde_json::Value;

static SERVER: LazyLock<DevServer> = LazyLock::new(DevServer::start);
const LIMIT: Duration = Duration::from_secs(120);

fn path(name: &str) -> PathBuf {
    SERVER.work().join(name)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A context of some files with a Dockerfile.
fn context(name: &str, dockerfile: &str) -> String {
    let directory = path(&format!("{name}.context"));
    std::fs::create_dir_all(directory.join("sub")).expect("directory");
    for (file, content) in
        [("Dockerfile", dockerfile), ("file.txt", "a file\n"), ("sub/program", "#!/bin/sh\n")]
    {
        std::fs::write(directory.join(file), content).expect("file");
    }
    std::fs::set_permissions(directory.join("sub/program"), PermissionsExt::from_mode(0o755)).expect("mode");
    if !directory.join("link").is_symlink() {
        std::os::unix::fs::symlink("sub/program", directory.join("link")).expect("link");
    }
    shown(&directory)
}

const COPY: &str = "FROM scratch\nCOPY . /all/\nLABEL a=b\n";

fn base() -> [String; 2] {
    [
        "--build-context".to_owned(),
        format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display()),
    ]
}

/// A build that prints `begun` and then goes on for ever.
fn endless(id: &str, flags: &[&str]) -> (Child, PathBuf) {
    let stderr = path(&format!("{id}.stderr"));
    let context =
        context(id, &format!("FROM debian:bookworm\nRUN echo begun {id}; while :; do sleep 1; done\n"));
    let mut command = SERVER.command(["build", "--progress", "plain", "--build-id", id]);
    command
        .args(base())
        .args(flags)
        .args(["--output", &format!("type=oci,dest={}", shown(&path(&format!("{id}.oci"))))]);
    command
        .arg(context)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&stderr).expect("file"));
    let child = command.spawn().expect("the command starts");
    (child, stderr)
}

fn wait_until_says(file: &Path, wanted: &str) {
    wait_for(wanted, LIMIT, || std::fs::read_to_string(file).ok().filter(|text| text.contains(wanted)));
}

fn end(child: &mut Child) -> i32 {
    wait_for("the command's end", LIMIT, || child.try_wait().expect("a child")).code().unwrap_or(128)
}

#[test]
fn a_quiet_build_prints_the_digest_and_writes_the_files_asked_for() {
    let (layout, metadata, id) = (path("quiet.oci"), path("quiet.json"), path("quiet.id"));
    let output = format!("type=oci,dest={}", shown(&layout));
    let (metadata_flag, id_flag) = (shown(&metadata), shown(&id));
    let flags = [
        "build",
        "-q",
        "-t",
        "example.test/quiet:1",
        "--metadata-file",
        &metadata_flag,
        "--iidfile",
        &id_flag,
    ];
    let built =
        SERVER.sealwright([&flags[..], &["--output", &output, &context("quiet", COPY)]].concat()).ok();
    let layout = Layout::at(layout);
    let digest = layout.image_digest();
    assert_eq!(built.stdout, format!("{digest}\n"));
    assert_eq!(built.stderr, "");
    let config = text(&layout.json(&digest)["config"]["digest"]);
    assert_eq!(std::fs::read_to_string(id).expect("iidfile"), config);
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], *digest);
    assert_eq!(metadata["containerimage.config.digest"], *config);
    assert_eq!(metadata["containerimage.descriptor"]["digest"], *digest);
    assert_eq!(metadata["image.name"], "example.test/quiet:1");
}

#[test]
fn the_layout_of_one_build_is_not_sent_with_the_next() {
    let context = context("again", COPY);
    let build = || {
        let mut command = SERVER.command(["build", "--progress", "plain", "."]);
        command.current_dir(&context);
        Output::of(&command).ok()
    };
    let first = build();
    assert!(!first.stderr.contains("left out"), "{}", first.stderr);
    let files = |output: &Output| {
        let line = output.stderr.lines().find(|line| line.starts_with(" context")).map(str::to_owned);
        line.and_then(|line| line.split(',').next().map(str::to_owned)).expect("what was sent")
    };
    let second = build().says("left out   image.oci of the context: it is written by this build");
    assert_eq!(files(&second), files(&first));
}

#[test]
fn json_is_one_document_and_raw_progress_one_object_for_each_line() {
    let layout = path("raw.oci");
    let output = format!("type=oci,dest={}", shown(&layout));
    let context = context("raw", COPY);
    let flags =
        ["build", "--json", "--progress", "rawjson", "--build-id", "raw", "--output", &output, &context];
    let built = SERVER.sealwright(flags).ok();
    let document = built.json();
    assert_eq!(document["build"]["state"], "SUCCEEDED");
    assert_eq!(document["build"]["result"]["image"]["digest"], *Layout::at(&layout).image_digest());
    assert_eq!(document["output"]["path"], *shown(&layout));
    let events: Vec<Value> =
        built.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let numbers: Vec<u64> = events.iter().map(|event| event["number"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    for stage in ["materials", "evidence", "signed"] {
        assert!(
            events.iter().any(|event| event["milestone"]["stage"] == stage),
            "no {stage} in {}",
            built.stderr
        );
    }
    // The same again for whoever asks later.
    assert_eq!(SERVER.sealwright(["logs", "--progress", "rawjson", "raw"]).ok().stdout, built.stderr);
    assert_eq!(SERVER.sealwright(["get", "--json", "raw"]).ok().json(), document["build"]);
}

#[test]
fn builds_are_listed_shown_and_downloaded_again() {
    let output = |name: &str| format!("type=oci,dest={}", shown(&path(name)));
    let context = context("listed", COPY);
    for id in ["listed-1", "listed-2"] {
        let tag = format!("example.test/{id}:1");
        SERVER
            .sealwright([
                "build",
                "-q",
                "--build-id",
                id,
                "-t",
                &tag,
                "--output",
                &output(&format!("{id}.oci")),
                &context,
            ])
            .ok();
    }
    let failing = self::context("listed-3", "FROM scratch\nCOPY absent /\n");
    SERVER
        .sealwright(["build", "-q", "--build-id", "listed-3", "--output", &output("listed-3.oci"), &failing])
        .code(1);
    let listed = SERVER.sealwright(["list"]).ok().stdout;
    let at = |id: &str| listed.find(&format!("{id} ")).unwrap_or_else(|| panic!("no {id} in\n{listed}"));
    assert!(at("listed-3") < at("listed-2") && at("listed-2") < at("listed-1"), "newest first:\n{listed}");
    let one = SERVER.sealwright(["list", "--limit", "1"]).ok().says("older builds are not shown");
    assert_eq!(one.stdout.lines().count(), 1);
    let failed = SERVER.sealwright(["list", "--json", "--state", "failed"]).ok().json();
    let states: Vec<&Value> =
        failed["builds"].as_array().expect("builds").iter().map(|build| &build["state"]).collect();
    assert!(!states.is_empty() && states.iter().all(|state| **state == "FAILED"), "{states:?}");
    SERVER
        .sealwright(["get", "listed-1"])
        .ok()
        .says("state      succeeded")
        .says("name       example.test/listed-1:1")
        .says(&format!("image      {}", Layout::at(path("listed-1.oci")).image_digest()));
    SERVER
        .sealwright(["get", "listed-3"])
        .ok()
        .says("failure    CONTEXT_FILE_MISSING")
        .says("advice     add the file");

    SERVER.sealwright(["download", "listed-1", "--output", &output("again")]).ok();
    SERVER.sealwright(["download", "listed-1", "--output", &output("again.tar")]).ok();
    for path in [path("again"), path("again.tar")] {
        let verdict = SERVER.sealwright(["verify", "--json", &shown(&path)]).ok().json();
        assert_eq!(verdict["target"], *Layout::at(self::path("listed-1.oci")).image_digest());
    }
    SERVER
        .sealwright(["download", "listed-3"])
        .code(1)
        .says("build listed-3 has no result: its state is failed");
    // Asked to end after its end, a build stays what it is.
    SERVER.sealwright(["cancel", "listed-1"]).ok().says("succeeded");
    // The id is taken, and not by this request.
    SERVER
        .sealwright(["build", "-q", "--build-id", "listed-1", "--output", &output("taken.oci"), &context])
        .code(1)
        .says("build id `listed-1` is taken by another request");
}

#[test]
fn a_running_build_is_followed_and_cancelled() {
    let (mut build, stderr) = endless("followed", &[]);
    wait_until_says(&stderr, "begun followed\n");
    SERVER.sealwright(["get", "followed"]).ok().says("state      running");
    SERVER.sealwright(["logs", "followed"]).ok().says(" begun followed\n");
    let followed = path("followed.log");
    let mut follow = SERVER
        .command(["logs", "-f", "followed"])
        .stdout(std::fs::File::create(&followed).expect("file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    wait_until_says(&followed, "begun followed\n");
    assert!(follow.try_wait().expect("a child").is_none(), "it follows until the build ends");
    SERVER.sealwright(["cancel", "followed"]).ok().says("followed cancelling");
    assert_eq!(end(&mut build), 1);
    assert_eq!(end(&mut follow), 0);
    SERVER.sealwright(["get", "--json", "followed"]).ok().says("\"CANCELLED\"");
    wait_until_says(&stderr, "the build was cancelled");
    assert!(!path("followed.oci").exists());
}

#[test]
fn builds_that_upload_the_same_file_at_the_same_time_all_succeed() {
    let directory = context("same-file", COPY);
    let bytes: Vec<u8> = (0..24_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(Path::new(&directory).join("large"), bytes).expect("file");
    let mut builds: Vec<Child> = (0..4)
        .map(|number| {
            let output = format!("type=oci,dest={}", shown(&path(&format!("same-file-{number}.oci"))));
            let mut command = SERVER.command(["build", "-q", "--output", &output, &directory]);
            command.stdin(Stdio::null()).spawn().expect("the command starts")
        })
        .collect();
    let codes: Vec<i32> = builds.iter_mut().map(end).collect();
    assert_eq!(codes, [0; 4]);
}

#[test]
fn an_interrupted_or_late_command_cancels_its_build() {
    let (mut build, stderr) = endless("interrupted", &[]);
    wait_until_says(&stderr, "begun interrupted\n");
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(end(&mut build), 130);
    SERVER.sealwright(["get", "interrupted"]).ok().says("state      cancelled");
    let (mut build, stderr) = endless("late", &["--timeout", "1"]);
    assert_eq!(end(&mut build), 7);
    wait_until_says(&stderr, "it took longer than --timeout allows");
    wait_until_says(&stderr, "exit 7: timeout");
    SERVER.sealwright(["get", "late"]).ok().says("state      cancelled");
    // While the build is being requested: whether it was made or not, none is left running.
    let (mut build, stderr) = endless("early", &[]);
    wait_until_says(&stderr, "accepts it\n");
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(end(&mut build), 130);
    wait_for("the build's end", LIMIT, || {
        let got = SERVER.sealwright(["get", "--json", "early"]).ok().json();
        (got["state"] == "CANCELLED").then_some(())
    });
}

#[test]
fn files_of_the_last_stage_come_as_a_directory_or_an_archive() {
    let context = context("files", "FROM scratch AS one\nCOPY . /all/\nFROM one\nCOPY file.txt /\n");
    let directory = path("files");
    std::fs::create_dir(&directory).expect("directory");
    std::fs::write(directory.join("mine"), "stays").expect("file");
    let metadata = shown(&path("files.json"));
    let local = format!("type=local,dest={}", shown(&directory));
    SERVER
        .sealwright(["build", "--metadata-file", &metadata, "--output", &local, &context])
        .ok()
        .says(&shown(&directory));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect(name);
    assert_eq!(
        (read("file.txt"), read("all/file.txt"), read("mine")),
        ("a file\n".into(), "a file\n".into(), "stays".into())
    );
    assert_eq!(
        std::fs::metadata(directory.join("all/sub/program")).expect("file").permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(std::fs::read_link(directory.join("all/link")).expect("link"), Path::new("sub/program"));
    let _: Value = serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");

    let short = path("files-short");
    SERVER.sealwright(["build", "-q", "-o", &shown(&short), &context]).ok();
    assert_eq!(std::fs::read_to_string(short.join("file.txt")).expect("file"), "a file\n");
    let archive = path("files.tar");
    SERVER.sealwright(["build", "-q", "-o", &format!("type=tar,dest={}", shown(&archive)), &context]).ok();
    let streamed = SERVER.command(["build", "-o", "-", &context]).output().expect("the command starts");
    for bytes in [std::fs::read(archive).expect("archive"), streamed.stdout] {
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("tar")
            .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
            .collect();
        assert!(names.iter().any(|name| name.trim_start_matches("./") == "all/sub/program"), "{names:?}");
    }
    SERVER
        .sealwright([
            "build",
            "-q",
            "--platform",
            "linux/amd64",
            "--push",
            "-t",
            "x/y",
            "-o",
            &local,
            &context,
        ])
        .code(2);
}

#[test]
fn archives_and_compressions_are_whole_and_trusted() {
    let context = context("archives", COPY);
    let oci = |name: &str, more: &str| format!("type=oci,dest={}{more}", shown(&path(name)));
    SERVER.sealwright(["build", "-q", "--output", &oci("image.tar", ""), &context]).ok();
    SERVER.sealwright(["verify", &shown(&path("image.tar"))]).ok().says("TRUSTED");
    let streamed = SERVER
        .command(["build", "--output", "type=oci,dest=-", &context])
        .output()
        .expect("the command starts");
    std::fs::write(path("streamed.tar"), &streamed.stdout).expect("file");
    SERVER.sealwright(["verify", &shown(&path("streamed.tar"))]).ok().says("TRUSTED");
    for (compression, media_type) in [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("uncompressed", "tar")] {
        // As with buildx, a layer that is there already in another compression is taken as it is, so each needs its own.
        let context = self::context("archives", &format!("{COPY}LABEL compression={compression}\n"));
        // Into the same place each time: a layout of one image is replaced.
        SERVER
            .sealwright([
                "build",
                "-q",
                "--output",
                &oci("compressed", &format!(",compression={compression}")),
                &context,
            ])
            .ok();
        let layout = Layout::at(path("compressed"));
        let manifest = layout.json(&layout.image_digest());
        assert_eq!(
            manifest["layers"][0]["mediaType"],
            format!("application/vnd.oci.image.layer.v1.{media_type}")
        );
        SERVER.sealwright(["verify", &shown(layout.root())]).ok().says("TRUSTED");
    }
}

#[test]
fn a_dockerfile_comes_from_standard_input_too_and_may_give_an_image_without_layers() {
    let context = context("stdin", "FROM scratch\nCOPY absent /\n");
    let feed = |arguments: &[&str], layout: &str| {
        let output = format!("type=oci,dest={}", shown(&path(layout)));
        let mut command = SERVER.command([&["build", "-q", "--output", &output], arguments].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the command starts");
        std::io::Write::write_all(
            &mut child.stdin.take().expect("a pipe"),
            b"FROM scratch\nLABEL from=stdin\nENV A=b\n",
        )
        .expect("a pipe");
        assert_eq!(end(&mut child), 0, "{arguments:?}");
        SERVER.sealwright(["verify", &shown(&path(layout))]).ok();
        let layout = Layout::at(path(layout));
        let config = layout.config(&layout.json(&layout.image_digest()));
        assert_eq!(config["config"]["Labels"]["from"], "stdin", "{arguments:?}");
    };
    feed(&["-f", "-", &context], "stdin-file.oci");
    feed(&["-"], "stdin-context.oci");
}

#[test]
fn output_of_steps_is_whole_whatever_its_bytes() {
    let dockerfile =
        "FROM debian:bookworm\nRUN printf 'one\\r\\033[31mtwo\\033[0m\\377\\n'; printf 'no newline'\n";
    let context = context("bytes", dockerfile);
    let output = format!("type=oci,dest={}", shown(&path("bytes.oci")));
    let flags = ["build", "--progress", "plain", "--build-id", "bytes", "--no-cache", "--output", &output];
    let mut command = SERVER.command(flags);
    let plain = Output::of(command.args(base()).arg(&context)).ok().says("no newline\n");
    assert!(!plain.stderr.contains('\u{1b}'), "a step cannot send control sequences to the terminal");
    let mut stored = Vec::new();
    for line in SERVER.sealwright(["logs", "--progress", "rawjson", "bytes"]).ok().stdout.lines() {
        let event: Value = serde_json::from_str(line).expect(line);
        if let Value::String(data) = &event["vertexLog"]["data"] {
            stored.extend(base64::engine::general_purpose::STANDARD.decode(data).expect("base64"));
        }
    }
    assert_eq!(stored, b"one\r\x1b[31mtwo\x1b[0m\xff\nno newline");
}

#[test]
fn completion_scripts_and_help_need_no_server() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(sealwright_tests::harness::sealwright());
        Output::of(command.args(["completion", shell]).env_clear()).ok().says("metadata-file");
    }
    SERVER.sealwright(["config", "show"]).ok().says(&SERVER.ready().endpoint).says("SEALWRIGHT_ENDPOINT");
}
