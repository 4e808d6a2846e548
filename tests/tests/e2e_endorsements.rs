//! `endorsements fetch` for images whose Evidence came without endorsements: the commands, from the exit code that asks for
//! it to a verdict without network. NOT HARDWARE.

use provenance::evidence::EvidenceBundle;
use provenance::tdx_endorsements::TdxEndorsements;
use sealwright_tests::harness::altered::{Altered, EVIDENCE};
use sealwright_tests::harness::layout::Layout;
use sealwright_tests::harness::{DevServer, Output, Settings};
use sealwright_tests::software_tee::{SoftwareTee, Validity};
use sealwright_tests::vendor_services::{Reply, VendorServices};
use verifier::endorsements::{WantedEndorsements, wanted_endorsements};

/// An image built by a server, and the same without the endorsements in its Evidence.
struct Built {
    server: DevServer,
    bare: Altered,
    evidence: EvidenceBundle,
}

impl Built {
    fn on(tee: &'static str) -> Self {
        let server = DevServer::with(Settings { tee: Some(tee), ..Settings::default() });
        let context = server.work().join("context");
        std::fs::create_dir_all(&context).expect("directory");
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("file");
        let layout = server.work().join("image");
        let output = format!("type=oci,dest={}", layout.display());
        let mut command = server.command(["build", "-q", "-t", "example.test/app:1", "--output", &output]);
        Output::of(command.arg(context)).ok();
        let bare = Altered::copy_of(&Layout::at(layout), &server.work());
        let mut evidence = None;
        bare.artefacts(|kind, bytes| {
            if kind == EVIDENCE {
                let mut bundle = EvidenceBundle::parse(bytes).expect("Evidence");
                evidence = Some(bundle.clone());
                bundle.evidence.endorsements.clear();
                *bytes = bundle.to_json();
            }
        });
        Self { server, bare, evidence: evidence.expect("Evidence") }
    }

    fn sealwright(&self, vendors: &VendorServices, arguments: &[&str]) -> Output {
        let mut command = self.server.command(arguments);
        command
            .env("SEALWRIGHT_AMD_KDS", vendors.base())
            .env("SEALWRIGHT_INTEL_PCS", vendors.base())
            .env("SEALWRIGHT_INTEL_ROOT_CRL", format!("{}/IntelSGXRootCA.der", vendors.base()));
        Output::of(&command)
    }

    /// Refused for want of endorsements, fetched, and accepted without anybody to ask.
    fn heals(self, vendors: VendorServices, file: &str) {
        let layout = self.bare.path().display().to_string();
        let folder = self.server.work().join("endorsements").display().to_string();
        let refused = self.sealwright(&vendors, &["verify", &layout]);
        assert_eq!(refused.code, 8, "{}{}", refused.stdout, refused.stderr);
        assert!(refused.stdout.contains("sealwright endorsements fetch"), "{}", refused.stdout);
        let fetched = self.sealwright(&vendors, &["endorsements", "fetch", &layout, "-o", &folder]).ok();
        assert_eq!(fetched.stdout, format!("{folder}/{file}\n"));
        // The server's own Evidence needs the same.
        let asked =
            self.sealwright(&vendors, &["--json", "endorsements", "fetch", "-o", &folder]).ok().json();
        assert_eq!(asked["files"][0]["path"], format!("{folder}/{file}"));
        // The server is appraised by name, without a key of one's own.
        let appraised = Output::of(self.server.command(["appraise"]).env_remove("SEALWRIGHT_KEY")).ok();
        for said in ["ACCEPTED (NOT HARDWARE)", "exporter and nonce of this connection"] {
            assert!(appraised.stdout.contains(said), "{}", appraised.stdout);
        }
        assert_eq!(self.server.terminate(), 0);
        drop(vendors);
        let path = |name: &str| self.server.work().join(name).display().to_string();
        let (ear, evidence) = (path("ear.json"), path("evidence.json"));
        let verify = ["verify", "--endorsements", &folder, "--ear", &ear, &layout];
        let accepted = Output::of(&self.server.command(verify)).ok();
        assert!(accepted.stdout.contains("TRUSTED (NOT HARDWARE)"), "{}", accepted.stdout);
        let claims = |file: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(file).expect("written")).expect("JSON")
        };
        assert_eq!(
            claims(&ear)["submods"]["sealwright-guest"]["ear.trustworthiness-vector"]["executables"],
            3
        );
        // The Evidence of the build, as a file of its own.
        let mut bundle = self.evidence.clone();
        bundle.evidence.endorsements.clear();
        std::fs::write(&evidence, bundle.to_json()).expect("written");
        assert_eq!(Output::of(&self.server.command(["appraise", &evidence])).code, 8);
        let appraise = ["appraise", &evidence, "--endorsements", &folder, "--ear", &ear];
        let judged = Output::of(&self.server.command(appraise)).ok();
        assert!(judged.stdout.contains("which were not looked at"), "{}", judged.stdout);
        assert_eq!(
            claims(&ear)["submods"]["sealwright-guest"]["ear.trustworthiness-vector"]["configuration"],
            2
        );
        let inspected = Output::of(&self.server.command(["inspect", &evidence])).ok();
        assert!(inspected.stdout.contains("leaf       build key sha256:"), "{}", inspected.stdout);
    }
}

#[test]
fn on_sev_snp_certificates_and_list_of_amd_are_fetched_and_verify_is_offline_again() {
    let built = Built::on("snp");
    let evidence = &built.evidence.evidence;
    let WantedEndorsements::Amd(wanted) = wanted_endorsements(evidence).expect("tells") else {
        panic!("not AMD's")
    };
    let (id, tcb) = (hex::encode(wanted.hardware_id.expect("a chip")), wanted.tcb);
    let vcek = format!(
        "/vcek/v1/Milan/{id}?blSPL={}&teeSPL={}&snpSPL={}&ucodeSPL={}",
        tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
    );
    let tee = SoftwareTee::open(&built.server.state().join("software-tee")).expect("the server's");
    let now = client::session::now().unix();
    let day = |day: i64| provenance::timestamp::Timestamp::from_unix(now + day * 86_400).expect("in range");
    let list = tee.revocation_list(&[], Validity { not_before: day(-1), not_after: day(30) });
    let vendors = VendorServices::start();
    vendors.amd("vcek/v1/Milan", Some(&vcek), &evidence.endorsements, list);
    // What the service does not have is told with what was asked for, what came and what to do.
    vendors.trouble(&vcek, Reply::status(404));
    let folder = built.server.work().join("none").display().to_string();
    let layout = built.bare.path().display().to_string();
    let unknown = built.sealwright(&vendors, &["--json", "endorsements", "fetch", &layout, "-o", &folder]);
    assert_eq!(unknown.code, 1);
    let error = &unknown.json()["error"];
    assert_eq!(error["reason"], "NOT_FOUND");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains(&vcek) && message.contains("status 404, wanted 200"), "{message}");
    assert!(error["advice"][0].as_str().expect("text").contains("--amd-kds"));
    let short: String = id.chars().take(16).collect();
    built.heals(vendors, &format!("amd-milan-{short}-{tcb}.pem"));
}

#[test]
fn on_tdx_documents_of_intel_are_fetched_and_verify_is_offline_again() {
    let built = Built::on("tdx");
    let vendors = VendorServices::start();
    let endorsements =
        TdxEndorsements::parse(&built.evidence.evidence.endorsements).expect("framed").expect("there");
    vendors.intel("abababababab", "platform", &endorsements);
    built.heals(vendors, "intel-abababababab-platform.tdx");
}
