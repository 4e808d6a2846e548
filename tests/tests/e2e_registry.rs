//! `--push` to two real registries, and what Sealwright and two versions of cosign say to what is there afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use sealwright_tests::harness::cases::run_tool;
use sealwright_tests::harness::layout::text;
use sealwright_tests::harness::{DevServer, Output};
use sealwright_tests::registry::{LOGIN, RegistryProcess};
use sealwright_tests::tools::tool;
use serde_json::Value;

/// cosign 2 wants a trusted root for bundles, which with a key may be empty.
const EMPTY_TRUSTED_ROOT: &str =
    r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;

fn context(server: &DevServer, name: &str, content: &str) -> PathBuf {
    let directory = server.work().join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    std::fs::write(directory.join("Dockerfile"), "FROM scratch\nCOPY content /\nLABEL name=value\n")
        .expect("file");
    std::fs::write(directory.join("content"), content).expect("file");
    directory
}

/// What each cosign says: exit code 0 for accepted.
fn cosigns(server: &DevServer, key: &Path, command: &[&str], reference: &str) -> [(&'static str, Output); 2] {
    let root = server.work().join("trusted_root.json");
    std::fs::write(&root, EMPTY_TRUSTED_ROOT).expect("file");
    let bundles = ["--new-bundle-format", "--trusted-root", root.to_str().expect("UTF-8")];
    [("cosign", &[][..]), ("cosign2", &bundles)].map(|(program, more)| {
        let mut cosign = Command::new(tool(program));
        cosign.args(command).args(["--insecure-ignore-tlog", "--allow-http-registry", "--key"]).arg(key);
        (program, Output::of(cosign.args(more).arg(reference).env("HOME", server.work())))
    })
}

/// The key that the Evidence of an image names, as cosign wants it.
fn key_of(server: &DevServer, reference: &str) -> PathBuf {
    let inspected = server.sealwright(["inspect", "--json", reference]).ok().json();
    let path = server.work().join("signing-key.pem");
    std::fs::write(&path, text(&inspected["evidence"][0]["signingKeyPem"])).expect("file");
    path
}

fn refusal(verdict: &Output) -> Value {
    verdict.json()["refusal"].clone()
}

fn pushed_verified_and_altered(server: &DevServer, registry: &RegistryProcess, kind: &str) {
    let repository = format!("{}/team/app", registry.host());
    let (tag, second) = (format!("{repository}:1.4"), format!("{repository}:stable"));
    let source = context(server, &format!("{kind}-first"), kind).display().to_string();
    let built = server
        .sealwright(["build", "--progress", "plain", "--push", "-t", &tag, "-t", &second, &source])
        .ok();
    let built = built.says(&format!(" pushed     {tag}\n")).says(&format!(" pushed     {second}\n"));
    let digest = run_tool("crane", &["digest", "--insecure", &tag]).ok().stdout.trim().to_owned();
    let by_digest = format!("{repository}@{digest}");
    let built = built.says(&format!("verify anywhere:  sealwright verify {by_digest}\n"));
    assert!(!built.stderr.contains("image.oci"), "with --push nothing is written here");

    for reference in [&tag, &second, &by_digest] {
        let verdict = server.sealwright(["verify", "--json", reference]).ok().json();
        assert_eq!(verdict["outcome"], "trusted", "{kind} {reference}");
        assert_eq!(verdict["target"], *digest, "{kind} {reference}");
        assert_eq!(verdict["repository"], *repository, "{kind} {reference}");
        assert_eq!(verdict["not_hardware"], true, "{kind} {reference}");
    }
    let key = key_of(server, &by_digest);
    for command in [&["verify"][..], &["verify-attestation", "--type", "slsaprovenance1"]] {
        for (cosign, said) in cosigns(server, &key, command, &by_digest) {
            assert_eq!(said.code, 0, "{cosign} {command:?} on {kind}: {}", said.stderr);
        }
    }

    // The tag is moved to an image that differs by one label; nothing else is touched.
    run_tool("crane", &["mutate", "--insecure", "--label", "name=other", &tag, "-t", &tag]).ok();
    let other = run_tool("crane", &["digest", "--insecure", &tag]).ok().stdout.trim().to_owned();
    assert_ne!(other, digest);
    let verdict = server.sealwright(["verify", "--json", &tag]).code(4);
    assert_eq!(refusal(&verdict)["class"], "not-authentic", "{kind}: {}", verdict.stdout);
    for (cosign, said) in cosigns(server, &key, &["verify"], &format!("{repository}@{other}")) {
        assert_ne!(said.code, 0, "{cosign} on {kind} accepts another image: {}", said.stdout);
    }
    server.sealwright(["verify", &second]).ok().says("TRUSTED");

    // Another image's attachments: the same project and key signed both, so only what they say tells them apart.
    let source = context(server, &format!("{kind}-second"), "another").display().to_string();
    let foreign = format!("{repository}:foreign");
    server.sealwright(["build", "-q", "--push", "-t", &foreign, &source]).ok();
    let theirs = run_tool("crane", &["digest", "--insecure", &foreign])
        .ok()
        .stdout
        .trim()
        .replace("sha256:", "sha256-");
    let ours = other.replace("sha256:", "sha256-");
    for kind in ["sig", "att"] {
        run_tool(
            "crane",
            &[
                "copy",
                "--insecure",
                &format!("{repository}:{theirs}.{kind}"),
                &format!("{repository}:{ours}.{kind}"),
            ],
        )
        .ok();
    }
    server.sealwright(["verify", &tag]).code(4).says("REFUSED");
    let plain = Command::new(tool("cosign2"))
        .args(["verify", "--insecure-ignore-tlog", "--allow-http-registry", "--key"])
        .args([key.as_os_str(), format!("{repository}@{other}").as_ref()])
        .env("HOME", server.work())
        .output()
        .expect("cosign2 starts");
    assert!(!plain.status.success(), "cosign 2 on {kind} accepts the signature of another image");

    // A copy elsewhere is authentic and was not built for there.
    let elsewhere = format!("{}/elsewhere/app:1", registry.host());
    let layout = server.work().join(format!("{kind}.oci")).display().to_string();
    server
        .sealwright(["build", "-q", "-t", &tag, "--output", &format!("type=oci,dest={layout}"), &source])
        .ok();
    run_tool("crane", &["push", "--insecure", "--index", &layout, &elsewhere]).ok();
    server.sealwright(["verify", "--repository", &repository, &layout]).ok();
    let verdict = server.sealwright(["verify", "--json", "--repository", "example.test/elsewhere", &layout]);
    assert_eq!(refusal(&verdict)["link"], "image", "{kind}: {}", verdict.stdout);
}

#[test]
fn what_is_pushed_is_trusted_and_what_is_altered_is_not() {
    let server = DevServer::start();
    for (kind, registry) in
        [("crane", RegistryProcess::crane()), ("distribution", RegistryProcess::distribution())]
    {
        pushed_verified_and_altered(&server, &registry, kind);
    }
    // Nobody listens here: nothing is lost but the push, and it says so.
    let source = context(&server, "unreachable", "x").display().to_string();
    let said = server
        .sealwright(["build", "--progress", "plain", "--push", "-t", "127.0.0.1:1/team/app:1", &source])
        .code(1)
        .says("127.0.0.1:1")
        .says("what to do: ")
        .says("exit 1: build failed");
    assert!(!said.stderr.contains("nothing was signed"), "{}", said.stderr);
    server.sealwright(["verify", "127.0.0.1:1/team/app:1"]).code(6).says("127.0.0.1:1");
}

#[test]
fn a_registry_that_was_never_pushed_to_gives_no_verdict() {
    let server = DevServer::start();
    let registry = RegistryProcess::crane();
    let said = server.sealwright(["verify", &format!("{}/no/image:1", registry.host())]).code(1);
    said.says("what to do: check the name");
}

#[test]
fn a_private_registry_is_pulled_from_and_pushed_to_with_the_callers_own_login() {
    let server = DevServer::start();
    let registry = RegistryProcess::distribution_with_login();
    let login = |password: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", LOGIN.0));
        let config = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
        std::fs::write(server.docker_config().join("config.json"), config.to_string()).expect("file");
    };
    let (first, second) =
        (format!("{}/team/base:1", registry.host()), format!("{}/team/app:1", registry.host()));
    let base = context(&server, "private-base", "in the base").display().to_string();
    let app = context(&server, "private-app", "in the image");
    std::fs::write(app.join("Dockerfile"), format!("FROM {first}\nCOPY content /more\n")).expect("file");
    let app = app.display().to_string();
    let push = |tag: &str, source: &str| {
        server.sealwright(["build", "--progress", "plain", "--push", "-t", tag, source])
    };

    // Without a login, and with a wrong one: named as that, with what to do.
    push(&first, &base).code(1).says(&registry.host()).says("what to do: ").says("log in");
    login("not the password");
    push(&first, &base).code(1).says(&registry.host()).says("what to do: ").says("log in");
    login(LOGIN.1);
    push(&first, &base).ok();
    push(&second, &app).ok();
    server.sealwright(["verify", &second]).ok().says("TRUSTED");
    // The image below is there and cached, and still not for those who may not have it.
    std::fs::remove_file(server.docker_config().join("config.json")).expect("file");
    server.sealwright(["verify", &second]).code(5).says("what to do: log in with `docker login`");
    let refused =
        server.sealwright(["build", "--progress", "plain", "--pull", "-o", &format!("{app}/out"), &app]);
    refused.code(1).says(&first).says("what to do: log in to that registry");
}
