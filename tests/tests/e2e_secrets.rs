//! A secret's value is in no log, event, database, layout, manifest or other file that the server or the engine keeps,
//! however the build ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Output};
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::base_image;

const FIRST_LINE: &str = "first-line-of-a-secret-5b1d";
const SECOND_LINE: &str = "second-line-of-a-secret-77e0";
const PASSWORD: &str = "correct horse, battery; staple 4c2f";
const LOGIN: &str = "registry-password-9e1a";
/// What must be found, or the search could not find anything.
const PLAIN: &str = "plain-output-of-a-step-6d3a";

/// Prints secrets whole, by line, in pieces across writes, and in an error.
const DOCKERFILE: &str = r#"FROM debian:bookworm
RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=password,env=PASSWORD,required=true \
    echo plain-output-of-a-step-6d3a && cat /run/secrets/token && cat /run/secrets/token >&2 && \
    echo "password=$PASSWORD." && printf '%s' "$PASSWORD" | cut -c1-9 | tr -d '\n' && sleep 0.4 && \
    printf '%s\n' "$PASSWORD" | cut -c10- && head -c 11 /run/secrets/token && sleep 0.4 && tail -c +12 /run/secrets/token
"#;

/// Files below `root` that hold one of `needles`, and everything that is not a regular file left aside.
fn holding(root: &Path, needles: &[&str]) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--files-with-matches", "--text", "--fixed-strings", "--devices=skip"]);
    for needle in needles {
        grep.args(["-e", needle]);
    }
    let output = Output::of(grep.arg(root));
    assert!(output.code <= 1, "{}", output.stderr);
    output.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_secret_is_nowhere_when_its_build_is_over() {
    let registry = RegistryProcess::crane();
    let mut server = DevServer::start();
    let login = base64::engine::general_purpose::STANDARD.encode(format!("user:{LOGIN}"));
    let config = serde_json::json!({"auths": {registry.host(): {"auth": login}}});
    std::fs::write(server.docker_config().join("config.json"), config.to_string()).expect("file");
    std::fs::write(server.work().join("token"), format!("{FIRST_LINE}\n{SECOND_LINE}\n")).expect("file");
    let base = format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display());
    let token = format!("id=token,src={}", server.work().join("token").display());
    let tag = format!("{}/secret/app:1", registry.host());
    let command = |server: &DevServer, id: &str, last: &str| {
        let context = server.work().join(id);
        std::fs::create_dir(&context).expect("directory");
        std::fs::write(context.join("Dockerfile"), format!("{DOCKERFILE}{last}")).expect("file");
        let layout = server.work().join(format!("{id}.oci"));
        let mut command = server.command(["build", "--progress", "plain", "--build-id", id, "--no-cache"]);
        command.args(["--secret", &token, "--secret", "id=password,env=PASSWORD", "--build-context", &base]);
        command.args(["--push", "-t", &tag, "--output", &format!("type=oci,dest={}", layout.display())]);
        command.arg(context).env("PASSWORD", PASSWORD);
        command
    };
    let masked = |output: &Output| {
        for secret in [FIRST_LINE, SECOND_LINE, PASSWORD, LOGIN, &PASSWORD[9..]] {
            let shown = format!("{}{}", output.stdout, output.stderr);
            assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
        }
    };

    let succeeded = Output::of(&command(&server, "succeeds", "")).ok().says(PLAIN).says("password=***");
    masked(&succeeded);
    masked(&server.sealwright(["logs", "succeeds"]).ok().says(PLAIN));
    masked(&server.sealwright(["get", "--json", "succeeds"]).ok());
    let failing = "RUN --mount=type=secret,id=token cat /run/secrets/token >&2; exit 7\n";
    masked(&Output::of(&command(&server, "fails", failing)).code(1).says("exited 7"));
    masked(&server.sealwright(["get", "--json", "fails"]).ok());
    // Cancelled, then killed, in the middle of a step that has just printed it.
    let waiting = "RUN --mount=type=secret,id=token cat /run/secrets/token; echo waiting; sleep 300\n";
    for id in ["cancelled", "killed"] {
        let stderr = server.work().join(format!("{id}.stderr"));
        let mut child = command(&server, id, waiting)
            .stderr(std::fs::File::create(&stderr).expect("file"))
            .spawn()
            .expect("the command starts");
        wait_for("the step's output", Duration::from_secs(120), || {
            std::fs::read_to_string(&stderr).ok().filter(|text| text.contains(" waiting\n"))
        });
        if id == "cancelled" {
            server.sealwright(["cancel", id]).ok();
        } else {
            server.kill9();
            server.restart();
        }
        let _ = child.wait();
        let stderr = std::fs::read_to_string(&stderr).expect("UTF-8");
        masked(&Output { code: 0, stdout: String::new(), stderr });
    }
    let reasons = ["cancelled", "killed"]
        .map(|id| server.sealwright(["get", "--json", id]).ok().json()["failure"]["reason"].clone());
    assert_eq!(reasons, ["CANCELLED", "SECRETS_LOST"]);
    // A daemon starts once more, as it does before the next build.
    masked(&Output::of(&command(&server, "again", "")).ok());
    assert_eq!(server.terminate(), 0);

    let home = server.state().parent().expect("has a parent").join("home");
    let needles = [FIRST_LINE, SECOND_LINE, PASSWORD, &PASSWORD[9..], LOGIN, &login];
    assert!(!holding(&server.state(), &[PLAIN]).is_empty(), "the search finds what is there");
    assert_eq!(holding(&server.state(), &needles), Vec::<String>::new());
    assert_eq!(holding(&home, &needles), Vec::<String>::new(), "what the command keeps");
    assert_eq!(holding(&server.work().join("succeeds.oci"), &needles), Vec::<String>::new());
    masked(&Output { code: 0, stdout: String::new(), stderr: server.log() });
}
