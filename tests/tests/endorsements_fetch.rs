//! Collecting endorsements from a server that answers like AMD's and Intel's, up to Evidence that the verifier accepts
//! with nothing else. NOT HARDWARE.

use std::time::Duration;

use client::endorsements::{
    Base, Cache, Collected, Collector, FetchError, MAX_ANSWER, Patience, Services, pem,
};
use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use sealwright_tests::software_tee::paravisor::SoftwareParavisor;
use sealwright_tests::software_tee::tdx::{QuoteVersion, SoftwareTdx};
use sealwright_tests::software_tee::{Product, SoftwareTee, Tcb, Validity};
use sealwright_tests::vendor_services::{Reply, VendorServices};
use verifier::endorsements::{WantedEndorsements, WantedError, wanted_endorsements};
use verifier::roots::{Anchors, Revocation};
use verifier::{Endorsements, authenticate};

const DATA: ReportData = ReportData([7; 64]);
const DAY: i64 = 86_400;

fn now() -> Timestamp {
    client::session::now()
}

fn day(number: i64) -> Timestamp {
    Timestamp::from_unix(now().unix() + number * DAY).expect("in range")
}

/// Very little of it, so that outages are over soon.
const IMPATIENT: Patience = Patience {
    attempts: 3,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_secs(1),
    attempt: Duration::from_secs(10),
};

struct World {
    vendors: VendorServices,
    folder: tempfile::TempDir,
    bare: Evidence,
    wanted: WantedEndorsements,
}

impl World {
    fn of(vendors: VendorServices, evidence: Evidence) -> Self {
        let wanted = wanted_endorsements(&evidence).expect("tells what it needs");
        let bare = Evidence { endorsements: vec![], ..evidence };
        Self { vendors, folder: tempfile::tempdir().expect("folder"), bare, wanted }
    }

    /// A chip of a product whose certificates AMD's stand-in has, with the path of its VCEK.
    fn amd(product: Product) -> (Self, String) {
        let tee = SoftwareTee::shared().expect("a software TEE");
        let chip = tee.new_chip(product, Tcb::of(product), |_| ()).expect("a chip");
        let evidence = chip.evidence(&DATA, |_| ());
        let vendors = VendorServices::start();
        let WantedEndorsements::Amd(wanted) = wanted_endorsements(&evidence).expect("tells") else {
            panic!("not AMD's")
        };
        let name = wanted.product.certificate_name();
        let tcb = wanted.tcb;
        let fmc = if name == "Turin" { format!("fmcSPL={}&", tcb.fmc) } else { String::new() };
        let vcek = format!(
            "/vcek/v1/{name}/{}?{fmc}blSPL={}&teeSPL={}&snpSPL={}&ucodeSPL={}",
            hex::encode(wanted.hardware_id.as_ref().expect("a chip id")),
            tcb.bootloader,
            tcb.tee,
            tcb.snp,
            tcb.microcode
        );
        vendors.amd(&format!("vcek/v1/{name}"), Some(&vcek), &evidence.endorsements, crl(&tee));
        (Self::of(vendors, evidence), vcek)
    }

    fn milan() -> (Self, String) {
        Self::amd(Product::Milan)
    }

    fn tdx() -> Self {
        let tdx = SoftwareTdx::shared().expect("a software TD");
        let vendors = VendorServices::start();
        vendors.intel("abababababab", "platform", tdx.endorsements());
        Self::of(vendors, tdx.bare_evidence(QuoteVersion::V5, &DATA))
    }

    fn services(&self) -> Services {
        let base = Base::parse(&self.vendors.base()).expect("a URL");
        let root_crl = Base::parse(&format!("{}/IntelSGXRootCA.der", self.vendors.base())).expect("a URL");
        Services { amd_kds: base.clone(), intel_pcs: base, intel_root_crl: root_crl }
    }

    async fn collect_with(&self, cached_only: bool) -> Result<Collected, FetchError> {
        let cache = Cache::new(self.folder.path().join("cache"));
        Collector::new(self.services(), Some(cache), IMPATIENT, cached_only, now())
            .expect("an HTTP client")
            .collect(&self.wanted)
            .await
    }

    async fn collect(&self) -> Result<Collected, FetchError> {
        self.collect_with(false).await
    }

    /// What came makes the bare Evidence authentic, under a policy that wants a fresh revocation list.
    fn accepts(&self, collected: &Collected) {
        let mut endorsements = Endorsements::default();
        match TdxEndorsements::parse(&collected.bytes) {
            Ok(Some(tdx)) => endorsements.tdx.push(tdx),
            _ => {
                let text = std::str::from_utf8(&collected.bytes).expect("PEM");
                for (label, der) in pem::blocks(text).expect("PEM") {
                    match label.as_str() {
                        "CERTIFICATE" => endorsements.certificates.push(der),
                        _ => endorsements.crls.push(der),
                    }
                }
            }
        }
        let root = match self.bare.platform {
            Platform::Tdx => SoftwareTdx::shared().expect("a software TD").root_spki_sha256(),
            _ => SoftwareTee::shared().expect("a software TEE").root_spki_sha256(),
        };
        let anchors = Anchors::vendor(&[], Revocation::CrlRequired).dangerous_with_roots(&[root]);
        let alone = authenticate(&self.bare, &Endorsements::default(), &anchors, now());
        assert!(alone.expect_err("nothing is with it").concerns_endorsements());
        authenticate(&self.bare, &endorsements, &anchors, now()).expect("authentic");
    }
}

fn crl(tee: &SoftwareTee) -> Vec<u8> {
    tee.revocation_list(&[], Validity { not_before: day(-1), not_after: day(30) })
}

#[tokio::test]
async fn each_amd_product_is_asked_for_by_its_urls_and_what_comes_makes_its_evidence_authentic() {
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        let (world, vcek) = World::amd(product);
        let collected = world.collect().await.expect("collected");
        let (base, _) = vcek.rsplit_once('/').expect("a path");
        let wanted = [vcek.clone(), format!("{base}/cert_chain"), format!("{base}/crl")];
        assert_eq!(world.vendors.asked(), wanted);
        assert!(collected.file_name.starts_with("amd-") && collected.file_name.ends_with(".pem"));
        world.accepts(&collected);
    }
}

#[tokio::test]
async fn a_vlek_comes_with_the_evidence_and_its_chain_from_the_service() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let chip = tee.new_vlek(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a VLEK");
    let evidence = chip.evidence(&DATA, |_| ());
    let vendors = VendorServices::start();
    vendors.amd("vlek/v1/Milan", None, &evidence.endorsements, crl(&tee));
    let world = World::of(vendors, evidence);
    let collected = world.collect().await.expect("collected");
    assert_eq!(world.vendors.asked(), ["/vlek/v1/Milan/cert_chain", "/vlek/v1/Milan/crl"]);
    let text = String::from_utf8(collected.bytes).expect("PEM");
    let labels: Vec<_> = pem::blocks(&text).expect("PEM").into_iter().map(|(label, _)| label).collect();
    assert_eq!(labels, ["CERTIFICATE", "CERTIFICATE", "X509 CRL"]);
}

#[tokio::test]
async fn intel_is_asked_by_fmspc_and_ca_and_what_comes_makes_the_quote_authentic() {
    let world = World::tdx();
    let collected = world.collect().await.expect("collected");
    assert_eq!(
        world.vendors.asked(),
        [
            "/tdx/certification/v4/tcb?fmspc=abababababab",
            "/tdx/certification/v4/qe/identity",
            "/IntelSGXRootCA.der",
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        ]
    );
    assert_eq!(collected.file_name, "intel-abababababab-platform.tdx");
    world.accepts(&collected);
}

#[tokio::test]
async fn lists_in_pem_or_hex_are_the_same_lists() {
    let tdx = SoftwareTdx::shared().expect("a software TD");
    let der = &tdx.endorsements().root_ca_crl;
    for form in [hex::encode(der).into_bytes(), pem::block("X509 CRL", der).into_bytes()] {
        let other = World::tdx();
        other.vendors.give("/IntelSGXRootCA.der", Reply::ok("text/plain", form));
        let collected = other.collect().await.expect("collected");
        other.accepts(&collected);
    }
}

#[tokio::test]
async fn certificates_are_asked_for_once_and_what_ages_each_time() {
    let (world, vcek) = World::milan();
    world.collect().await.expect("collected");
    let _ = world.vendors.asked();
    let again = world.collect().await.expect("collected");
    assert_eq!(world.vendors.asked(), ["/vcek/v1/Milan/crl"]);
    let cached: Vec<bool> = again.asked.iter().map(|asked| asked.cached.is_some()).collect();
    assert_eq!(cached, [true, true, false]);
    assert!(again.asked[0].url.ends_with(&vcek));
    world.accepts(&again);
    // The service is gone: only what the cache has is left, and only when it is asked for.
    world.vendors.give("/vcek/v1/Milan/crl", Reply::status(500));
    assert!(matches!(world.collect().await, Err(FetchError::Failing { status: 500, attempts: 3, .. })));
    let _ = world.vendors.asked();
    world.accepts(&world.collect_with(true).await.expect("from the cache"));
    assert!(world.vendors.asked().is_empty());
}

#[tokio::test]
async fn an_empty_cache_is_told() {
    let (world, vcek) = World::milan();
    let error = world.collect_with(true).await.expect_err("empty");
    assert!(matches!(&error, FetchError::NotCached { url } if url.ends_with(&vcek)), "{error}");
    assert!(world.vendors.asked().is_empty());
}

#[tokio::test]
async fn too_many_requests_and_passing_failures_are_borne() {
    let (world, vcek) = World::milan();
    world.vendors.trouble(&vcek, Reply::status(429).with("Retry-After", "0"));
    world.vendors.trouble(&vcek, Reply::status(503));
    world.vendors.trouble("/vcek/v1/Milan/crl", Reply::status(429));
    world.vendors.trouble("/vcek/v1/Milan/crl", Reply::status(502));
    world.accepts(&world.collect().await.expect("the third attempt"));
    let asked = world.vendors.asked();
    assert_eq!(asked.iter().filter(|path| **path == vcek).count(), 3);
}

#[tokio::test]
async fn a_limit_that_lasts_is_told_with_when_to_come_back() {
    for (told, attempts) in [("3600", 1), ("0", 3)] {
        let (world, vcek) = World::milan();
        world.vendors.give(&vcek, Reply::status(429).with("Retry-After", told));
        let error = world.collect().await.expect_err("limited");
        let seconds: u64 = told.parse().expect("a number");
        assert!(
            matches!(error, FetchError::RateLimited { status: 429, retry_after: Some(after), .. } if after.as_secs() == seconds),
            "{error}"
        );
        assert_eq!(world.vendors.asked().len(), attempts);
    }
}

#[tokio::test]
async fn what_the_service_does_not_know_is_not_asked_for_again() {
    let (world, vcek) = World::milan();
    world.vendors.give(&vcek, Reply::status(404));
    let error = world.collect().await.expect_err("unknown");
    assert!(matches!(error, FetchError::Refused { status: 404, .. }), "{error}");
    assert_eq!(world.vendors.asked(), [vcek]);
    // Nor is a redirect followed.
    let (world, vcek) = World::milan();
    world.vendors.give(&vcek, Reply::status(302).with("Location", "/elsewhere"));
    assert!(matches!(world.collect().await, Err(FetchError::Refused { status: 302, .. })));
    assert_eq!(world.vendors.asked(), [vcek]);
}

#[tokio::test]
async fn nobody_there_is_told_after_the_attempts() {
    let (world, _) = World::milan();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let services = Services { amd_kds: Base::parse(&nobody).expect("a URL"), ..world.services() };
    let collector = Collector::new(services, None, IMPATIENT, false, now()).expect("an HTTP client");
    let error = collector.collect(&world.wanted).await.expect_err("nobody there");
    assert!(matches!(error, FetchError::Unreachable { attempts: 3, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again_and_then_told() {
    // Broken off once: the next attempt heals it.
    let (other, path) = World::milan();
    let body = vec![0x30; 100];
    other.vendors.trouble(&path, Reply::ok("x", body.clone()).cut_after(50));
    other.accepts(&other.collect().await.expect("the second attempt"));
    // Broken off each time.
    let (other, path) = World::milan();
    other.vendors.give(&path, Reply::ok("x", body).cut_after(50));
    let error = other.collect().await.expect_err("broken off");
    assert!(matches!(error, FetchError::CutOff { attempts: 3, .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_of_the_form_asked_for_is_told_and_never_kept() {
    let tdx = SoftwareTdx::shared().expect("a software TD");
    let good = tdx.endorsements();
    let tcb = "/tdx/certification/v4/tcb?fmspc=abababababab";
    let form = |path: &'static str, reply: Reply, wanted: &'static str| (path, reply, wanted);
    let html = || Reply::ok("text/html", b"<html>Welcome</html>".to_vec());
    let half = &good.tcb_info[..good.tcb_info.len() / 2];
    for (path, reply, problem) in [
        form("/IntelSGXRootCA.der", html(), "does not begin like DER"),
        form(
            "/IntelSGXRootCA.der",
            Reply::ok("x", good.root_ca_crl[..80].to_vec()),
            "it has 80 bytes, its DER says",
        ),
        form(tcb, html().with("TCB-Info-Issuer-Chain", "x"), "it is not JSON"),
        form(tcb, Reply::ok("x", half.to_vec()).with("TCB-Info-Issuer-Chain", "x"), "it is not JSON"),
        form(tcb, Reply::ok("x", b"{}".to_vec()).with("TCB-Info-Issuer-Chain", "x"), "has no `tcbInfo`"),
        form(
            tcb,
            Reply::ok("x", good.tcb_info.clone()).with("TCB-Info-Issuer-Chain", "%2"),
            "percent encoding is malformed",
        ),
        form(
            tcb,
            Reply::ok("x", good.tcb_info.clone())
                .with("TCB-Info-Issuer-Chain", "-----BEGIN CERTIFICATE-----"),
            "has no end",
        ),
    ] {
        let world = World::tdx();
        world.vendors.give(path, reply);
        let error = world.collect().await.expect_err("another form");
        assert!(matches!(error, FetchError::Form { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(matches!(world.collect_with(true).await, Err(FetchError::NotCached { .. })));
    }
    let world = World::tdx();
    world.vendors.give(tcb, Reply::ok("application/json", good.tcb_info.clone()));
    let error = world.collect().await.expect_err("no chain");
    assert!(matches!(error, FetchError::NoChain { header: "TCB-Info-Issuer-Chain", .. }), "{error}");
    let (world, vcek) = World::milan();
    world.vendors.give(&vcek, Reply::ok("x", vec![0; MAX_ANSWER + 1]));
    assert!(matches!(world.collect().await, Err(FetchError::TooLarge { .. })));
    let (world, _) = World::milan();
    let one = pem::block("CERTIFICATE", &[0x30, 0]).into_bytes();
    world.vendors.give("/vcek/v1/Milan/cert_chain", Reply::ok("x", one));
    let error = world.collect().await.expect_err("one certificate");
    assert!(error.to_string().contains("it has 1 PEM blocks"), "{error}");
}

#[tokio::test]
async fn what_came_is_judged_by_the_verifier_alone() {
    // Well-formed documents of another platform: nothing here notices, the verifier does.
    let world = World::tdx();
    let tdx = SoftwareTdx::shared().expect("a software TD");
    let other = tdx.altered_endorsements(|recipe| recipe.tcb_info["fmspc"] = "CDCDCDCDCDCD".into());
    world.vendors.intel("abababababab", "platform", &other);
    let collected = world.collect().await.expect("collected");
    let endorsements = Endorsements {
        tdx: TdxEndorsements::parse(&collected.bytes).expect("framed").into_iter().collect(),
        ..Endorsements::default()
    };
    let anchors =
        Anchors::vendor(&[], Revocation::CrlRequired).dangerous_with_roots(&[tdx.root_spki_sha256()]);
    let refused = authenticate(&world.bare, &endorsements, &anchors, now()).expect_err("another platform");
    assert!(refused.concerns_endorsements(), "{refused}");
}

#[test]
fn evidence_that_does_not_say_what_it_needs_is_told() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let chip = tee.chip();
    let wanted = |evidence: &Evidence| wanted_endorsements(evidence);
    let altered = |alter: &dyn Fn(&mut sealwright_tests::software_tee::ReportFields)| {
        wanted(&chip.evidence(&DATA, |fields| alter(fields)))
    };
    assert_eq!(altered(&|fields| fields.chip_id = [0; 64]), Err(WantedError::ChipIdMasked));
    assert_eq!(
        altered(&|fields| fields.cpuid = [0x19, 0x77, 0]),
        Err(WantedError::UnknownProduct { family: 0x19, model: 0x77 })
    );
    assert_eq!(
        altered(&|fields| fields.reported_tcb[2] = 1),
        Err(WantedError::TcbReserved { index: 2, got: 1, product: verifier::snp::Product::Milan })
    );
    // Behind Azure's paravisor it is the chip under it.
    let paravisor = SoftwareParavisor::new().expect("a paravisor").on_snp(chip, &DATA);
    let of_chip = wanted(&chip.evidence(&DATA, |_| ()));
    assert!(matches!(of_chip, Ok(WantedEndorsements::Amd(_))), "{of_chip:?}");
    assert_eq!(wanted(&paravisor), of_chip);
    // Version 2 does not show its product; the VCEK beside it does.
    let second = chip.evidence(&DATA, |fields| {
        fields.version = 2;
        fields.cpuid = [0; 3];
    });
    assert!(matches!(wanted(&second), Ok(WantedEndorsements::Amd(amd)) if amd.product.name() == "milan"));
    let bare = Evidence { endorsements: vec![], ..second };
    assert_eq!(wanted(&bare), Err(WantedError::ProductNotShown));
    let turin = tee.new_chip(Product::Turin, Tcb::of(Product::Turin), |_| ()).expect("a chip");
    let long = turin.evidence(&DATA, |fields| fields.chip_id[8] = 1);
    assert_eq!(wanted(&long), Err(WantedError::ChipId { product: verifier::snp::Product::Turin }));
    let short = Evidence { platform: Platform::SevSnp, report: vec![0; 5], endorsements: vec![] };
    assert!(matches!(wanted(&short), Err(WantedError::Report(_))));
    let short = Evidence { platform: Platform::Tdx, ..short };
    assert!(matches!(wanted(&short), Err(WantedError::Quote(_))));
    let se = Evidence { platform: Platform::SecureExecution, ..short };
    assert!(matches!(wanted(&se), Err(WantedError::NoService { .. })));
}
