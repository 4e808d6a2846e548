//! What a person meets when something is wrong: each failure through the command, with its exit code, what was seen
//! and wanted, and what to do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sealwright_tests::harness::servers::{WebServer, git};
use sealwright_tests::harness::{DevServer, Output, Settings};
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::base_image;

static SERVER: LazyLock<DevServer> = LazyLock::new(DevServer::start);

/// A new path for a test's own files.
fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    SERVER.work().join(format!("scratch-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A context with a Dockerfile and a file.
fn context(dockerfile: &str) -> PathBuf {
    let directory = scratch();
    std::fs::create_dir(&directory).expect("directory");
    std::fs::write(directory.join("Dockerfile"), dockerfile).expect("file");
    std::fs::write(directory.join("file.txt"), "a file\n").expect("file");
    directory
}

fn base() -> [String; 2] {
    [
        "--build-context".to_owned(),
        format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display()),
    ]
}

/// `sealwright build` of a context, into a layout that must not be there when it fails.
fn build(flags: &[&str], context: &Path) -> Output {
    run(flags, context, |_| {})
}

fn run(flags: &[&str], context: &Path, adjust: impl FnOnce(&mut Command)) -> Output {
    let layout = scratch();
    let mut command = SERVER.command(["build", "--progress", "plain"]);
    if !flags.contains(&"--output") {
        command.args(["--output", &format!("type=oci,dest={}", layout.display())]);
    }
    command.args(flags).arg(context);
    adjust(&mut command);
    let output = Output::of(&command);
    assert!(output.code == 0 || !layout.exists(), "a failed build left {}", layout.display());
    output
}

fn failed(flags: &[&str], dockerfile: &str) -> Output {
    build(flags, &context(dockerfile))
        .code(1)
        .says("nothing was signed or published")
        .says("exit 1: build failed")
}

#[test]
fn a_failing_step_shows_its_line_its_output_and_its_exit_code() {
    let [flag, image] = &base();
    let dockerfile =
        "FROM debian:bookworm\nRUN echo to-stdout; echo to-stderr >&2; sh -c 'exit 42'\nCOPY file.txt /\n";
    let said = failed(&[flag, image], dockerfile)
        .says("Dockerfile:2\n   1 | FROM debian:bookworm\n   2 | >>> RUN echo to-stdout")
        .says("sh -c 'exit 42'\" exited 42")
        .says("\n  to-stdout\n")
        .says("\n  to-stderr\n")
        .says("what to do: see the step's output in the build's log");
    let id = said.stderr.split("sealwright logs ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let id = id.expect("the command says where the log is");
    let build = SERVER.sealwright(["get", "--json", id]).ok().json();
    assert_eq!(build["failure"]["reason"], "STEP_FAILED");
    assert_eq!(build["failure"]["exitCode"], 42);
    let log = SERVER.sealwright(["logs", id]).ok();
    assert!(log.stdout.contains("to-stdout") && log.stdout.contains("ERROR"), "{}", log.stdout);
}

#[test]
fn a_syntax_error_shows_its_line_and_what_is_around_it() {
    failed(&[], "FROM scratch\nCOPY file.txt /\nCOPPY file.txt /\n")
        .says("Dockerfile:3\n   1 | FROM scratch\n   2 | COPY file.txt /\n   3 | >>> COPPY file.txt /")
        .says("unknown instruction: COPPY (did you mean COPY?)")
        .says("what to do: correct the Dockerfile at the place shown");
}

#[test]
fn a_dockerfile_cannot_drive_the_terminal() {
    let said =
        failed(&[], "FROM scratch\nCOPPY \x1b[2J\x1b[31mred file.txt /\n").says(">>> COPPY red file.txt /");
    assert!(!said.stderr.contains('\x1b'), "{:?}", said.stderr);
}

#[test]
fn a_stage_that_is_not_there_is_named() {
    failed(&["--target", "absent"], "FROM scratch\nCOPY file.txt /\n")
        .says("target stage \"absent\" could not be found")
        .says("what to do: correct the Dockerfile, or the flag that it does not fit (--target");
}

#[test]
fn a_base_image_that_is_not_there_is_told_from_a_registry_that_does_not_answer() {
    let registry = RegistryProcess::crane();
    failed(&[], &format!("FROM {}/no/image:1\n", registry.host()))
        .says(&format!("image `{}/no/image:1` was not found", registry.host()))
        .says("what to do: check name and tag, or supply the image with --build-context");
    failed(&[], "FROM 127.0.0.1:1/no/image:1\n")
        .says("Dockerfile:1\n   1 | >>> FROM 127.0.0.1:1/no/image:1")
        .says("connection refused")
        .says("what to do: check that the source exists and can be reached from the server");
}

/// BuildKit keeps no record of an image without layers, though configuration of its base image goes into it.
#[test]
fn a_base_image_that_no_record_shows_is_not_left_out_of_the_materials() {
    let registry = RegistryProcess::crane();
    let base = format!("{}/empty:1", registry.host());
    let empty = context("FROM scratch\nENV LD_PRELOAD=/base.so\n");
    SERVER
        .sealwright(["build", "--progress", "plain", "--push", "-t", &base, &empty.display().to_string()])
        .ok();
    failed(&[], &format!("FROM {base}\nENV A=1\n"))
        .says("the image has no layers, so BuildKit keeps no record of it")
        .says(&format!("`docker-image://{base}"))
        .says("what to do: add a step that writes a file");
    build(&[], &context(&format!("FROM {base}\nCOPY file.txt /\n"))).ok();
}

#[test]
fn a_file_of_the_network_that_is_not_there_is_named() {
    let web = WebServer::start();
    let url = format!("{}/absent", web.url());
    failed(&[], &format!("FROM scratch\nADD {url} /\n"))
        .says(&format!("ADD {url} /: "))
        .says("invalid response status 404")
        .says("what to do: check that the source exists and can be reached from the server");
}

#[test]
fn flags_of_docker_that_are_not_there_say_why_and_misuse_is_one_document_too() {
    SERVER
        .sealwright(["build", "--cache-from=type=gha", "."])
        .code(2)
        .says("error: --cache-from of `docker buildx build` is not there: a cache from outside");
    for flag in ["--load", "--nonsense"] {
        let misuse = SERVER.sealwright(["build", "--json", flag, "."]).code(2).json();
        assert_eq!(misuse["error"]["exit"], 2);
        assert!(misuse["error"]["message"].as_str().is_some_and(|text| text.contains(flag)), "{misuse}");
    }
}

#[test]
fn a_context_that_is_not_there_is_told_from_a_dockerfile_that_is_not() {
    SERVER
        .sealwright(["build", "/nonexistent"])
        .code(2)
        .says("error: context /nonexistent: No such file or directory")
        .says("what to do: give a directory, a git URL or `-`");
}

#[test]
fn a_copy_source_that_is_not_there_is_named() {
    failed(&[], "FROM scratch\nCOPY absent.txt /\n")
        .says("2 | >>> COPY absent.txt /")
        .says("`/absent.txt` is not in the build context")
        .says("what to do: add the file to the context, or take it out of the ignore file");
}

#[test]
fn another_frontend_is_refused() {
    let other = "# syntax=example.test/other:1\nFROM scratch\nCOPY . /\n";
    failed(&[], other)
        .says("`# syntax=example.test/other:1` names a frontend that is not served here; wanted docker/dockerfile")
        .says("what to do: use `# syntax=docker/dockerfile:1`, or remove the line");
    // In a git context nobody has seen the Dockerfile before the engine.
    let web = WebServer::start();
    let repository = context(other);
    git(&repository, &["init", "-q"]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-q", "-m", "first"]);
    git(web.directory(), &["clone", "-q", "--bare", &repository.display().to_string(), "other.git"]);
    let url = format!("{}/other.git", web.url());
    build(&[], Path::new(&url))
        .code(1)
        .says("`# syntax=example.test/other:1` names a frontend that is not served here");
}

#[test]
fn buildkit_syntax_is_refused_before_anything_is_sent() {
    build(&["--build-arg", "BUILDKIT_SYNTAX=example.test/other:1"], &context("FROM scratch\nCOPY . /\n"))
        .code(2)
        .says("`build_args.BUILDKIT_SYNTAX`: names another frontend; only the built-in docker/dockerfile:1 is served")
        .says("what to do: ");
}

#[test]
fn rewriting_times_needs_an_epoch() {
    let layout = format!("type=oci,dest={},rewrite-timestamp=true", scratch().display());
    build(&["--output", &layout], &context("FROM scratch\nCOPY . /\n"))
        .code(2)
        .says("give --build-arg SOURCE_DATE_EPOCH=SECONDS or build from a git URL");
    let late = "SOURCE_DATE_EPOCH=253402300800";
    build(&["--build-arg", late], &context("FROM scratch\nCOPY Dockerfile /\n"))
        .code(2)
        .says("`253402300800` is no number of seconds from 0 to 253402300799");
}

#[test]
fn a_step_for_another_platform_says_so() {
    let directory = context("FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n");
    // An ELF header for a machine that neither x86-64 nor AArch64 runs: SPARC V9 (e_machine 43).
    let mut program = vec![0_u8; 4096];
    program[..20].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 43, 0]);
    let path = directory.join("program");
    std::fs::write(&path, program).expect("file");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    build(&[], &directory)
        .code(1)
        .says("3 | >>> RUN [\"/program\"]")
        .says("cannot run here: its program is for another platform than this machine")
        .says("what to do: build this platform on a server of it");
}

#[test]
fn a_wrong_endpoint_is_told_from_a_malformed_one() {
    let context = context("FROM scratch\nCOPY . /\n");
    build(&["--endpoint", "127.0.0.1:1"], &context)
        .code(6)
        .says("cannot connect to 127.0.0.1:1: Connection refused")
        .says("what to do: check that the server runs and that --endpoint (SEALWRIGHT_ENDPOINT) names it");
    let web = WebServer::start();
    let plain = web.url().replace("http://", "");
    build(&["--endpoint", &plain], &context)
        .code(6)
        .says(&format!("TLS 1.3 with {plain} failed"))
        .says("what to do: the endpoint must be a Sealwright build server");
    build(&["--endpoint", "nonsense"], &context)
        .code(2)
        .says("`nonsense` is no endpoint; wanted HOST:PORT")
        .says("what to do: `sealwright config show` says where the endpoint came from");
}

#[test]
fn a_key_that_the_server_does_not_admit_is_refused_with_the_id_of_its_project() {
    let nobody = DevServer::with(Settings {
        trust: Some(concat!(
            "builder_id = \"https://sealwright.dev/builder/dangerous-software-tee/v1\"\n",
            "admitted_projects = [\"00000000000000000000000000000000000000000000000000000000000000ff\"]\n",
            "[build_policy]\n",
        )),
        ..Settings::default()
    });
    let mut command = nobody.command(["build", "--output"]);
    command.arg(format!("type=oci,dest={}", scratch().display())).arg(context("FROM scratch\nCOPY . /\n"));
    Output::of(&command)
        .code(5)
        .says("this server does not admit project ")
        .says("what to do: ask the operator to admit the project in the trust configuration");
}

#[test]
fn a_key_file_that_is_not_there_and_a_key_outside_the_project_are_told_apart() {
    let context = context("FROM scratch\nCOPY . /\n");
    build(&["--key", "/absent/key.pem"], &context)
        .code(2)
        .says("key file /absent/key.pem: No such file or directory")
        .says("what to do: make one with `sealwright key new FILE`");
    let (other, project) = (scratch(), scratch());
    let _ = SERVER.sealwright(["key", "new", &other.display().to_string()]).ok();
    let document =
        SERVER.sealwright(["project", "new", "others", "--member", &other.display().to_string()]).ok();
    std::fs::write(&project, document.stdout).expect("file");
    build(&["--project", &project.display().to_string()], &context)
        .code(2)
        .says("is not a member of project `others`")
        .says("what to do: use the key of a member, or another project document");
}

#[test]
fn without_a_policy_nothing_is_sent_and_nothing_passes() {
    let context = context("FROM scratch\nCOPY . /\n");
    let wanted = "no policy: give --policy, SEALWRIGHT_POLICY or `policy` in config.toml";
    run(&[], &context, |command| {
        command.env_remove("SEALWRIGHT_POLICY");
    })
    .code(2)
    .says(wanted)
    .says("what to do: no policy means no pass; make one with `sealwright policy init");
    let mut verify = SERVER.command(["verify", "/tmp"]);
    Output::of(verify.env_remove("SEALWRIGHT_POLICY")).code(2).says(wanted).says("what to do: ");
}

#[test]
fn malformed_build_ids_are_refused_before_a_connection_is_made() {
    let context = context("FROM scratch\nCOPY . /\n");
    for id in ["Upper", "a/b", "..", "-a", "a-", "", &"a".repeat(64), "ü", "a b", "a\nb"] {
        let flag = format!("--build-id={id}");
        build(&[&flag], &context).code(2).says("is malformed; wanted 1 to 63 of a-z, 0-9 and `-`");
        for command in ["get", "logs", "cancel", "download"] {
            let asked = SERVER.sealwright([command, "--endpoint", "127.0.0.1:1", "--", id]);
            asked.code(2).says("is malformed; wanted 1 to 63 of a-z, 0-9 and `-`").says("what to do: ");
        }
    }
    SERVER.sealwright(["get", "no-such-build"]).code(1).says("does not exist");
}

#[test]
fn a_result_that_has_no_place_is_refused_before_the_build() {
    let context = context("FROM scratch\nCOPY Dockerfile /\n");
    let file = context.join("Dockerfile");
    let directory = format!("type=local,dest={}", file.display());
    build(&["--output", &directory], &context).code(2).says("exists and is no directory");
    for kind in ["tar", "oci"] {
        let archive = format!("type={kind},dest={}", context.join("there.tar").display());
        std::fs::create_dir_all(context.join("there.tar")).expect("directory");
        build(&["--output", &archive], &context).code(2).says("there.tar");
    }
}

#[test]
fn a_secret_that_was_forgotten_is_asked_for_by_its_flag() {
    let [flag, image] = &base();
    failed(&[flag, image], "FROM debian:bookworm\nRUN --mount=type=secret,id=greeting,required=true true\n")
        .says("the Dockerfile wants secret `greeting`, and this build was given none of that id")
        .says("what to do: give it with --secret id=greeting,src=FILE");
}

#[test]
fn a_secret_without_a_value_is_named_by_id() {
    let context = context("FROM scratch\nCOPY . /\n");
    build(&["--secret", "id=token,src=/absent/token"], &context)
        .code(2)
        .says("secret `token`: cannot read /absent/token: No such file or directory")
        .says("what to do: give --secret id=ID,src=FILE");
    build(&["--secret", "id=token,env=ABSENT_FROM_HERE"], &context)
        .code(2)
        .says("secret `token`: environment variable ABSENT_FROM_HERE is not set")
        .says("what to do: ");
    build(&["--ssh", "default"], &context).code(2).says("SSH_AUTH_SOCK").says("what to do: ");
}
