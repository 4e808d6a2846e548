//! The whole way on Secure Execution, with a software Ultravisor: build, verify with the own attestation request, rely on the
//! Attestation Result of a Verifier, and what convinces nobody.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::key::CallerKey;
use provenance::evidence::{EvidenceBundle, Platform};
use provenance::key::KeyAlgorithm;
use provenance::secure_execution::SecureExecutionEvidence;
use sealwright_tests::harness::altered::{Altered, EVIDENCE};
use sealwright_tests::harness::layout::Layout;
use sealwright_tests::harness::{DevServer, Output, Settings};
use sealwright_tests::software_tee::se::SoftwareSe;
use verifier::Policy;

const HOST_KEYS: &str = "SEALWRIGHT_HOST_KEY_DOCUMENTS";

struct Built {
    server: DevServer,
    layout: Layout,
}

/// A server of a platform, with a context to build.
fn server(tee: &'static str) -> DevServer {
    let server = DevServer::with(Settings { tee: Some(tee), ..Settings::default() });
    let context = server.work().join("context");
    std::fs::create_dir_all(&context).expect("directory");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("file");
    server
}

fn build(server: &DevServer, name: &str, flags: &[&str]) -> Output {
    let output = format!("type=oci,dest={}", server.work().join(name).display());
    let mut command = server.command(["build", "-q", "-t", "example.test/app:1", "--output", &output]);
    Output::of(command.args(flags).arg(server.work().join("context")))
}

impl Built {
    fn new() -> Self {
        let server = server("se");
        let _ = build(&server, "image", &[]).ok();
        let layout = Layout::at(server.work().join("image"));
        Self { server, layout }
    }

    /// The files that `build` left beside a layout.
    fn kept(&self, name: &str) -> [PathBuf; 2] {
        ["attestation-request", "attestation-request-key"]
            .map(|suffix| self.server.work().join(format!("{name}.{suffix}")))
    }

    /// Judges a layout with the request and the key of a build.
    fn verify(&self, kept: &[PathBuf; 2], layout: &Layout) -> Output {
        let mut command = self.server.command(["--json", "verify", "--attestation-request"]);
        command.arg(&kept[0]).arg("--attestation-request-key").arg(&kept[1]);
        Output::of(command.arg(layout.root()))
    }

    fn verify_without(&self, policy: &Path, layout: &Layout) -> Output {
        let mut command = self.server.command(["--json", "verify"]);
        Output::of(command.env("SEALWRIGHT_POLICY", policy).arg(layout.root()))
    }

    /// A copy with its Evidence of the build altered, with all digests set right.
    fn altered(&self, alter: impl Fn(&mut EvidenceBundle)) -> Altered {
        let copy = Altered::copy_of(&self.layout, &self.server.work());
        let mut collections = 0;
        copy.artefacts(|kind, bytes| {
            if kind == EVIDENCE {
                let mut bundle = EvidenceBundle::parse(bytes).expect("Evidence");
                alter(&mut bundle);
                *bytes = bundle.to_json();
                collections += 1;
            }
        });
        assert!(collections > 0, "there is Evidence to be altered");
        copy
    }

    /// What `verify` with the own request says of such a copy: exit code, link and class, message.
    fn refused(&self, alter: impl Fn(&mut EvidenceBundle)) -> (i32, String, String) {
        let output = self.verify(&self.kept("image"), &self.altered(alter).layout());
        let refusal = &output.json()["refusal"];
        let text = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
        (output.code, format!("{}: {}", text("link"), text("class")), text("message"))
    }
}

/// Alters answer and header inside the framed Evidence.
fn answer(bundle: &mut EvidenceBundle, alter: impl Fn(&mut SecureExecutionEvidence)) {
    let mut evidence = SecureExecutionEvidence::parse(&bundle.evidence.report).expect("framed");
    alter(&mut evidence);
    bundle.evidence.report = evidence.encode();
}

#[test]
fn an_image_built_in_a_secure_execution_guest_convinces_whoever_asked() {
    let built = Built::new();
    let kept = built.kept("image");
    for file in &kept {
        let mode = std::fs::metadata(file).expect("kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let _ = build(&built.server, "other", &[]).ok();
    policy_init_pins_image_and_host_keys(&built.server);
    without_a_request_nothing_is_sent(&built.server);

    // The server is gone: whatever verification needs is in the layout and in the requester's own files.
    assert_eq!(built.server.terminate(), 0);
    let verdict = built.verify(&kept, &built.layout).ok().json();
    assert_eq!((&verdict["outcome"], &verdict["not_hardware"]), (&"trusted".into(), &true.into()));
    let facts = &verdict["facts"];
    assert_eq!((&facts["reliance"], &facts["bound_to"]), (&"own-request".into(), &"build".into()));
    assert_eq!(facts["hardware"], "Secure Execution");
    built.altered(|bundle| assert_eq!(bundle.evidence.platform, Platform::SecureExecution));

    // Another request of the same requester, half of each, and none.
    let other = built.kept("other");
    let unconvincing = |output: Output| {
        let message = output.code(3).json()["refusal"]["message"].to_string();
        assert!(message.contains("convinces only the one who asked"), "{message}");
    };
    unconvincing(built.verify(&other, &built.layout));
    let mixed = [kept[0].clone(), other[1].clone()];
    let _ = built.verify(&mixed, &built.layout).code(2).says("does not open under the protection key");
    unconvincing(built.verify_without(&built.server.ready().policy_file, &built.layout));
    let mut command = built.server.command(["verify", "--attestation-request"]);
    command.arg(&kept[0]).arg("--attestation-request-key").arg(&kept[1]).arg(built.layout.root());
    let missing = Output::of(command.env_remove(HOST_KEYS));
    let _ = missing.code(8).says("no document given is of that key");

    // The answer, altered alone: additional data, user data, image, and what leads from them to the build.
    let refused = |(code, place, message): (i32, String, String), wanted: (&str, &str)| {
        assert_eq!((code, place.as_str()), (4, wanted.0), "{message}");
        assert!(message.contains(wanted.1), "{message}");
    };
    let at_end = |bundle: &mut EvidenceBundle, back: usize| {
        answer(bundle, |evidence| {
            let at = evidence.response.len() - back;
            evidence.response[at] ^= 1;
        });
    };
    // From the end: configuration unique id (16), user data (64), additional data (64), measurement (64).
    for back in [1, 16 + 1, 16 + 64 + 1, 16 + 64 + 64, 16 + 64 + 64 + 1] {
        refused(
            built.refused(|bundle| at_end(bundle, back)),
            ("hardware: not-authentic", "measurement does not"),
        );
    }
    refused(
        built.refused(|bundle| answer(bundle, |evidence| evidence.header[0xe0] ^= 1)),
        ("hardware: not-authentic", "measurement does not hold"),
    );
    refused(
        built.refused(|bundle| answer(bundle, |evidence| evidence.header.clear())),
        ("hardware: not-authentic", "Secure Execution header has 0 bytes"),
    );
    refused(
        built.refused(|bundle| *bundle.leaf.last_mut().expect("not empty") ^= 1),
        ("key: not-authentic", "report data is"),
    );

    a_verifier_vouches_for_it_to_others(&built);
}

fn without_a_request_nothing_is_sent(server: &DevServer) {
    let mut command = server.command(["list"]);
    let _ = Output::of(&command).ok();
    let appraised = server.sealwright(["appraise"]).ok().stdout;
    for said in ["ACCEPTED (NOT HARDWARE)", "exporter and nonce of this connection"] {
        assert!(appraised.contains(said), "{appraised}");
    }
    let refused = Output::of(command.env_remove(HOST_KEYS)).code(1);
    let _ =
        refused.says("Evidence answers an attestation request; there is none").says("--host-key-documents");
    // Documents of another machine, which the policy does not accept.
    let folder = server.work().join("another-machine");
    let another = SoftwareSe::open(&server.work().join("another")).expect("a machine");
    another.write_documents(&folder).expect("written");
    let mut command = server.command(["list"]);
    let refused = Output::of(command.env(HOST_KEYS, &folder)).code(3);
    let _ = refused.says("the policy accepts answers from").says("of the policy names the host keys");
    // A request for a host key that this machine does not have: the Ultravisor cannot open it.
    let policy = server.work().join("of-another-machine.toml");
    let text = std::fs::read_to_string(&server.ready().policy_file).expect("a policy");
    let own = SoftwareSe::open(&server.state().join("software-tee")).expect("the machine");
    let text = text
        .replace(
            &own.ultravisor().host_key().hash().to_string(),
            &another.ultravisor().host_key().hash().to_string(),
        )
        .replace(&own.documents.root.to_string(), &another.documents.root.to_string());
    std::fs::write(&policy, text).expect("written");
    let mut command = server.command(["list"]);
    command.env(HOST_KEYS, &folder).env("SEALWRIGHT_POLICY", &policy);
    let _ = Output::of(&command).code(1).says("host key document of the machine that the server runs on");
}

fn policy_init_pins_image_and_host_keys(server: &DevServer) {
    let state = server.state();
    let mut command = server.command(["policy", "init", "--release-key"]);
    command.arg(state.join("release.pub.pem")).arg("--from").arg(state.join("reference-values.json"));
    let policy = Output::of(&command).ok().stdout;
    for line in [
        "platforms = [\"secure-execution\"]",
        "evidence = [\"own-request\"]",
        "dangerous_roots = [",
        "image_host_keys = [\"sha256:",
        "tag = \"2121",
    ] {
        assert!(policy.contains(line), "`{line}` is missing\n{policy}");
    }
    let file = server.work().join("policy.toml");
    std::fs::write(&file, policy).expect("written");
    // Listing builds attests the connection first.
    let mut command = server.command(["list"]);
    let _ = Output::of(command.env("SEALWRIGHT_POLICY", &file)).ok();
}

/// `appraise` signs for the build's Evidence, and who names that Verifier accepts the image without any request.
fn a_verifier_vouches_for_it_to_others(built: &Built) {
    let work = built.server.work();
    let auditor = CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256).expect("a key");
    auditor.save_new(&work.join("auditor.pem")).expect("saved");
    let kept = built.kept("image");
    let text = std::fs::read_to_string(&built.server.ready().policy_file).expect("a policy");
    let judged_under = Policy::parse(&text, "policy.toml").expect("a policy").sha256();
    let named = format!(
        "verifiers = [{{ name = \"auditor\", public_key = \"{}\", policies = [\"{judged_under}\"] }}]",
        STANDARD.encode(auditor.public().spki_der())
    );
    let relying = text.replacen("verifiers = []", &named, 1).replacen(
        "evidence = [\"own-request\"]",
        "evidence = [\"own-request\", \"attestation-result\"]",
        1,
    );
    let policy = work.join("relying.toml");
    std::fs::write(&policy, relying).expect("written");

    let vouched = Altered::copy_of(&built.layout, &work);
    vouched.artefacts(|kind, bytes| {
        if kind != EVIDENCE {
            return;
        }
        let file = work.join("evidence.json");
        std::fs::write(&file, &*bytes).expect("written");
        let mut command = built.server.command(["appraise", "--valid-for", "7", "--sign"]);
        command.arg(work.join("auditor.pem")).arg("--attestation-request").arg(&kept[0]);
        command.arg("--attestation-request-key").arg(&kept[1]).arg(&file);
        *bytes = Output::of(&command).ok().stdout.trim_end().as_bytes().to_vec();
    });
    let verdict = built.verify_without(&policy, &vouched.layout()).ok().json();
    let facts = &verdict["facts"];
    assert_eq!(
        (&facts["reliance"], &facts["relied_verifier"]),
        (&"attestation-result".into(), &"auditor".into())
    );
    assert_eq!(facts["bound_to"], "build");
    // Whoever does not name the Verifier is not convinced, and its word is about exactly this Evidence.
    let _ = built.verify_without(&built.server.ready().policy_file, &vouched.layout()).code(3);
    vouched.artefacts(|kind, bytes| {
        if kind == EVIDENCE {
            let mut bundle = EvidenceBundle::parse(bytes).expect("Evidence");
            answer(&mut bundle, |evidence| evidence.header[0xe0] ^= 1);
            *bytes = bundle.to_json();
        }
    });
    let message =
        built.verify_without(&policy, &vouched.layout()).code(4).json()["refusal"]["message"].to_string();
    assert!(message.contains("Attestation Result is about Evidence"), "{message}");
}

#[test]
fn a_build_that_is_resumed_after_a_crash_still_answers_its_request_with_the_same_key() {
    let mut server = server("se");
    let _ = build(&server, "first", &[]).ok();
    let _ = server.terminate();
    server.crash_next(Some("build"));
    server.restart();
    let output = format!("type=oci,dest={}", server.work().join("second").display());
    let mut command = server.command(["build", "-q", "-t", "example.test/app:1", "--output", &output]);
    let mut running = command.arg(server.work().join("context")).spawn().expect("the command starts");
    server.wait_for_crash();
    server.restart();
    let status = running.wait().expect("a child");
    assert!(status.success(), "{status}\n{}", server.log());
    let built = Built { layout: Layout::at(server.work().join("first")), server };
    let key = |name: &str| {
        let layout = Layout::at(built.server.work().join(name));
        let verdict = built.verify(&built.kept(name), &layout).ok().json();
        assert_eq!(verdict["facts"]["reliance"], "own-request");
        verdict["facts"]["signing_key"].as_str().expect("a digest").to_owned()
    };
    assert_eq!(key("first"), key("second"), "the epoch is sealed and goes on");
}

#[test]
fn where_the_hardware_signs_nobody_answers_attestation_requests() {
    let server = server("snp");
    let machine = SoftwareSe::shared().expect("a machine");
    let folder = server.work().join("host-keys");
    machine.write_documents(&folder).expect("written");
    // A policy without Secure Execution: no request is made.
    let mut command = server.command(["list"]);
    let _ = Output::of(command.env(HOST_KEYS, &folder)).ok();
    // A policy with both: the request is refused, and the connection attested without.
    let host_key = machine.ultravisor().host_key().hash();
    let table = format!(
        "[secure-execution]\nimage_host_keys = [\"{host_key}\"]\nattestation_host_keys = [\"{host_key}\"]\n\
         config_uids = \"any-run\"\nverifiers = []\nallow_key_only = false\n\n[sev-snp]\n"
    );
    let text = std::fs::read_to_string(&server.ready().policy_file).expect("a policy");
    let text = text
        .replacen("platforms = [\"sev-snp\"]", "platforms = [\"sev-snp\", \"secure-execution\"]", 1)
        .replacen("evidence = [\"hardware\"]", "evidence = [\"hardware\", \"own-request\"]", 1)
        .replacen("dangerous_roots = [", &format!("dangerous_roots = [\"{}\", ", machine.documents.root), 1)
        .replacen("[sev-snp]\n", &table, 1);
    let tags = verifier::secure_execution::ImageTags::of_header(machine.header()).expect("a header");
    let digits = |at: usize, length: usize| hex::encode(&tags.as_bytes()[at..at + length]);
    let reference = format!(
        "[[reference_values]]\nname = \"image\"\nguest_version = 1\nplatform = \"secure-execution\"\n\
         page_list_digest = \"{}\"\naddress_list_digest = \"{}\"\ntweak_list_digest = \"{}\"\ntag = \"{}\"\n\n[guest]\n",
        digits(0, 64),
        digits(64, 64),
        digits(128, 64),
        digits(192, 16)
    );
    let policy = server.work().join("both.toml");
    std::fs::write(&policy, text.replacen("[guest]\n", &reference, 1)).expect("written");
    let mut command = server.command(["build", "-q", "--output", "type=oci,dest=both"]);
    command.env(HOST_KEYS, &folder).env("SEALWRIGHT_POLICY", &policy).current_dir(server.work());
    let _ = Output::of(command.arg("context")).ok();
    assert!(!server.work().join("both.attestation-request").exists(), "nothing to keep");

    // A build that was signed with a request all the same is refused by name.
    let request = server.work().join("request");
    let requester = sealwright_tests::software_tee::se::Requester::new(
        0x7000_0000_0000_0000,
        &[machine.ultravisor().host_key()],
    )
    .expect("a request");
    let length = u32::try_from(requester.request.len()).expect("short");
    let words = [0x100, 0x40 + length, 0, 0, length, 0x40, 64, 0, 64, 0, 0, 0, 0, 0];
    let exchange =
        [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), &requester.request].concat();
    std::fs::write(&request, exchange).expect("written");
    let flag = request.to_str().expect("UTF-8");
    let refused = build(&server, "refused", &["--attestation-request", flag]).code(1);
    let _ = refused.says("nobody answers an attestation request");
    std::fs::write(&request, b"none").expect("written");
    let _ = build(&server, "refused", &["--attestation-request", flag]).code(2).says("4 bytes");
}
