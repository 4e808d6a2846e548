//! The whole way on TDX, with a software TD: build, verify offline, and each part of the Evidence altered alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::evidence::{EvidenceBundle, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use sealwright_tests::harness::altered::{Altered, EVIDENCE};
use sealwright_tests::harness::layout::Layout;
use sealwright_tests::harness::{DevServer, Output, Settings};
use serde_json::Value;
use verifier::tdx::quote::{body, header};

/// What `verify --json` says of a refused image: exit code, class and link, message.
type Refusal = (i32, String, String);

struct Built {
    server: DevServer,
    layout: Layout,
}

impl Built {
    fn new() -> Self {
        let server = DevServer::with(Settings { tee: Some("tdx"), ..Settings::default() });
        let context = server.work().join("context");
        std::fs::create_dir_all(&context).expect("directory");
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("file");
        let layout = server.work().join("image");
        let output = format!("type=oci,dest={}", layout.display());
        let mut command = server.command(["build", "-q", "-t", "example.test/app:1", "--output", &output]);
        Output::of(command.arg(context)).ok();
        Self { server, layout: Layout::at(layout) }
    }

    fn verify(&self, flags: &[&str], layout: &Layout) -> Output {
        let mut command = self.server.command(["verify"]);
        Output::of(command.args(flags).arg(layout.root()))
    }

    /// Alters all Evidence of a copy, with all digests set right, and judges it.
    fn altered_evidence(&self, alter: impl Fn(&mut EvidenceBundle)) -> Refusal {
        self.altered(|kind, bytes| {
            if kind == EVIDENCE {
                let mut bundle = EvidenceBundle::parse(bytes).expect("Evidence");
                alter(&mut bundle);
                *bytes = bundle.to_json();
            }
        })
    }

    fn altered(&self, alter: impl FnMut(&str, &mut Vec<u8>)) -> Refusal {
        let copy = Altered::copy_of(&self.layout, &self.server.work());
        copy.artefacts(alter);
        let output = self.verify(&["--json"], &copy.layout());
        let verdict = output.json();
        assert_eq!(verdict["not_hardware"], true, "{}", output.stdout);
        let refusal = &verdict["refusal"];
        let text = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
        (output.code, format!("{}: {}", text("link"), text("class")), text("message"))
    }
}

/// Alters the framed endorsements of a bundle.
fn endorsements(bundle: &mut EvidenceBundle, alter: impl Fn(&mut TdxEndorsements)) {
    let mut parsed = TdxEndorsements::parse(&bundle.evidence.endorsements).expect("framed").expect("there");
    alter(&mut parsed);
    bundle.evidence.endorsements = parsed.encode();
}

/// The next letter in the place of the first `from`.
fn replace_first(text: &mut Vec<u8>, from: &str, to: &str) {
    let at = text.windows(from.len()).position(|part| part == from.as_bytes()).expect("it stands there");
    text.splice(at..at + from.len(), to.bytes());
}

#[test]
fn an_image_built_in_a_software_td_is_verified_offline_and_each_alteration_refused_for_its_reason() {
    let built = Built::new();

    policy_init_pins_every_register(&built.server);

    // The server is gone: whatever verification needs is in the layout.
    assert_eq!(built.server.terminate(), 0);
    let text = built.verify(&[], &built.layout).ok();
    for line in [
        "NOT HARDWARE: says Intel TDX, FMSPC abababababab, TCB UpToDate (evaluation 18)",
        "is no vendor's, only the policy's dangerous_roots",
        "(NOT HARDWARE)",
    ] {
        text.clone().says(line);
    }
    let verdict = built.verify(&["--json"], &built.layout).ok().json();
    assert_eq!((&verdict["outcome"], &verdict["not_hardware"]), (&"trusted".into(), &true.into()));
    assert_eq!(verdict["facts"]["hardware"], "TDX abababababab");
    let mut collections = 0;
    built.altered(|kind, bytes| {
        if kind == EVIDENCE {
            let bundle = EvidenceBundle::parse(bytes).expect("Evidence");
            assert_eq!(bundle.evidence.platform, Platform::Tdx);
            assert_eq!(bundle.evidence.report[..8], [5, 0, 2, 0, 0x81, 0, 0, 0]);
            collections += 1;
        }
    });
    assert!(collections > 0, "there is Evidence to be altered");

    let refused = |(code, place, message): Refusal, wanted: (i32, &str, &str)| {
        assert_eq!((code, place.as_str()), (wanted.0, wanted.1), "{message}");
        assert!(message.contains(wanted.2), "{message}");
    };
    // The quote: what the TD is, what it is over, and the Quoting Enclave's word.
    for at in [body::MRTD, body::RTMR0 + 144, body::REPORTDATA, body::MRSERVICETD] {
        let got = built.altered_evidence(|bundle| bundle.evidence.report[header::BODY_V5 + at] ^= 1);
        refused(got, (4, "hardware: not-authentic", "signature"));
    }
    let got = built.altered_evidence(|bundle| bundle.evidence.report.push(1));
    refused(got, (4, "hardware: not-authentic", "follows the TDX quote"));
    // Collateral: altered, somebody else's, and none.
    let got = built.altered_evidence(|bundle| {
        endorsements(bundle, |e| replace_first(&mut e.tcb_info, "UpToDate", "OutOfDat"));
    });
    refused(got, (4, "hardware: not-authentic", "TCB info"));
    let got = built.altered_evidence(|bundle| {
        endorsements(bundle, |e| replace_first(&mut e.qe_identity, "\"isvsvn\":4", "\"isvsvn\":3"));
    });
    refused(got, (4, "hardware: not-authentic", "signature of the QE identity"));
    let got = built.altered_evidence(|bundle| endorsements(bundle, |e| e.root_ca_crl.clone_from(&e.pck_crl)));
    refused(got, (4, "hardware: not-authentic", "revocation list"));
    let got = built.altered_evidence(|bundle| bundle.evidence.endorsements.clear());
    refused(got, (8, "hardware: endorsements", "abababababab"));
    // What ties it to the build: instance document, leaf, statement.
    let got = built.altered_evidence(|bundle| replace_first(&mut bundle.instance, "\"tdx\"", "\"sdx\""));
    refused(got, (4, "key: not-authentic", "instance document hashes to"));
    let got = built.altered_evidence(|bundle| *bundle.leaf.last_mut().expect("not empty") ^= 1);
    refused(got, (4, "key: not-authentic", "report data is"));
    let got = built.altered(|_, bytes| alter_payload(bytes));
    refused(got, (4, "key: not-authentic", "statement"));
}

fn policy_init_pins_every_register(server: &DevServer) {
    let state = server.state();
    let mut command = server.command(["policy", "init", "--release-key"]);
    command.arg(state.join("release.pub.pem")).arg("--from").arg(state.join("reference-values.json"));
    let policy = Output::of(&command).ok().stdout;
    for line in ["platforms = [\"tdx\"]", "dangerous_roots = [", "rtmr3 = \"", "mrownerconfig = \""] {
        assert!(policy.contains(line), "`{line}` is missing\n{policy}");
    }
    assert!(!policy.contains("[sev-snp]"), "{policy}");
    let file = server.work().join("policy.toml");
    std::fs::write(&file, policy).expect("written");
    let mut command = server.command(["policy", "check"]);
    Output::of(command.env("SEALWRIGHT_POLICY", &file)).ok().says("NOT HARDWARE");
    // Listing builds attests the connection first.
    let mut command = server.command(["list"]);
    Output::of(command.env("SEALWRIGHT_POLICY", &file)).ok();
}

/// Alters the statement inside a DSSE envelope, alone or in a Sigstore bundle; leaves everything else.
fn alter_payload(bytes: &mut Vec<u8>) {
    let Ok(mut document) = serde_json::from_slice::<Value>(bytes) else { return };
    for place in ["/payload", "/dsseEnvelope/payload"] {
        let Some(Value::String(payload)) = document.pointer_mut(place) else { continue };
        let mut statement = STANDARD.decode(payload.as_bytes()).expect("base64");
        if statement.windows(14).any(|part| part == b"slsa.dev/prove") {
            replace_first(&mut statement, "example.test/app", "example.test/apq");
            *payload = STANDARD.encode(statement);
            *bytes = document.to_string().into_bytes();
            return;
        }
    }
}

#[test]
fn another_platform_is_refused_by_name() {
    let said = DevServer::refuses(&Settings { tee: Some("sgx"), ..Settings::default() });
    assert!(said.contains("invalid value 'sgx' for '--tee <TEE>'"), "{said}");
    assert!(said.contains("[possible values: snp, tdx, se]"), "{said}");
}
