//! What a proven time changes: judging as of then, and the command that puts a timestamp beside an image. NOT HARDWARE:
//! reports and quotes are the software TEE's.

#[path = "verifier_support/layout.rs"]
mod layout;
#[path = "verifier_support/stamps.rs"]
mod stamps;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use layout::write_layout;
use provenance::binding::Leaf;
use provenance::evidence::Platform;
use sealwright_tests::harness::sealwright;
use sealwright_tests::software_tee::tdx::fixture::{PCK_CA_SERIAL, PCK_SERIAL, SIGNER_SERIAL};
use sealwright_tests::software_tee::tdx::{QuoteVersion, SoftwareTdx, dangerous_measurements};
use sealwright_tests::software_tee::{Product, Tcb, Validity};
use support::PolicyText;
use verifier::evidence::AuthenticationError;
use verifier::policy::TdxRegister;
use verifier::snp::SnpError;
use verifier::tdx::{CertificateName, CrlName, Document, TdxError};
use verifier::verdict::Outcome;
use verifier::x509::CertificateError;
use verifier::{Class, Reason};
use world::{Made, World};

use stamps::*;

#[test]
fn a_proven_time_outlives_the_chips_certificate_and_a_claimed_one_does_not() {
    let mut world = World::new();
    let validity = Validity { not_before: later(-1), not_after: later(2) };
    let chip = world
        .tee
        .new_chip(Product::Milan, Tcb::of(Product::Milan), |contents| contents.validity = validity)
        .expect("a chip");
    world.chip = Some(chip);
    let judged = |judged_at: &str, stamp: bool| {
        let made = world.make();
        let (authority, signer) = authority();
        let timestamp = authority.stamp(signer, "-sha256", &imprint(&made).hex()).expect("a timestamp");
        match stamp {
            true => {
                with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", judged_at))
            }
            false => made,
        }
    };
    let expired = |made: &Made| {
        let reason = refused_at(made, later(3));
        let expired = matches!(
            &reason,
            Reason::Authentication(AuthenticationError::Snp(SnpError::Certificate {
                error: CertificateError::Expired { .. },
                ..
            }))
        );
        assert!(expired, "{reason}");
    };
    // Unproven, or proven and judged today: the certificate has expired.
    expired(&judged("today", false));
    expired(&judged("today", true));
    let made = judged("signing", true);
    let verdict = verdict_at(&made, later(3));
    let report = verdict.report();
    assert_eq!(report.outcome(), Outcome::BlobsNotChecked, "{report}");
    assert!(report.to_string().contains("judged as of then, revocation as of today"), "{report}");
    assert!(report.facts().judged_as_of.is_some_and(|time| time < later(1)), "{report}");
    assert!(report.judged_at() >= later(3));

    // What was revoked later is refused whenever it was signed.
    let lists = Validity { not_before: later(2), not_after: later(30) };
    let mut revoked = judged("signing", true);
    let serial = sealwright_tests::software_tee::ASK_SERIAL;
    revoked.input.endorsements.crls = vec![world.tee.revocation_list(&[serial], lists)];
    let reason = refused_at(&revoked, later(3));
    let by_list =
        matches!(reason, Reason::Authentication(AuthenticationError::Snp(SnpError::Revoked { .. })));
    assert!(by_list, "{reason}");
    // A list that a policy demands is current today, not then.
    let required = |policy: PolicyText| policy.with("crl-if-present", "crl-required");
    let mut made = judged("signing", true).with_policy(required);
    made.input.endorsements.crls = vec![world.tee.revocation_list(&[], lists)];
    assert_eq!(verdict_at(&made, later(3)).report().outcome(), Outcome::BlobsNotChecked);
    let old = Validity { not_before: later(-2), not_after: later(2) };
    made.input.endorsements.crls = vec![world.tee.revocation_list(&[], old)];
    let reason = refused_at(&made, later(3));
    let stale = matches!(
        &reason,
        Reason::Authentication(AuthenticationError::Snp(SnpError::Crl(CertificateError::Expired { .. })))
    );
    assert!(stale, "{reason}");
}

/// The policy of a world for the software TD instead of the SEV-SNP chip.
fn on_tdx(policy: &PolicyText, world: &World, td: &SoftwareTdx) -> PolicyText {
    let mut text = policy.0.clone();
    let (start, end) = (text.find("[sev-snp]"), text.find("[[reference_values]]"));
    let table = "[tdx]\ntcb_statuses = [\"UpToDate\"]\nminimum_tcb_evaluation_data_number = 0\nmodules = \"endorsed\"\n\
        attributes_allowed = []\nxfam_allowed = 0x602e7\nallow_td_1_0 = false\n\n";
    text.replace_range(start.expect("the table")..end.expect("the list"), table);
    let (start, end) = (text.find("platform = \"sev-snp\""), text.find("[guest]"));
    let values = dangerous_measurements();
    let registers = TdxRegister::ALL.map(|register| {
        format!("{} = \"{}\"\n", register.name(), hex::encode(values.register(register).as_bytes()))
    });
    let reference = format!("platform = \"tdx\"\n{}\n", registers.concat());
    text.replace_range(start.expect("the value")..end.expect("the table"), &reference);
    PolicyText(text)
        .with("platforms = [\"sev-snp\"]", "platforms = [\"tdx\"]")
        .with(&world.tee.root_spki_sha256().to_string(), &td.root_spki_sha256().to_string())
}

#[test]
fn a_proven_time_outlives_intels_documents_but_no_later_revocation() {
    let mut world = World::new();
    world.instance.platform = Platform::Tdx;
    let td = SoftwareTdx::shared().expect("a software TD");
    let judged = |judged_at: &str| {
        let made = world.make();
        let leaf = Leaf::parse(&made.bundle.leaf).expect("a leaf");
        let report_data = made.bundle.proof.report_data(&leaf).expect("a proof");
        let mut evidence = td.bare_evidence(QuoteVersion::V5, &report_data);
        evidence.endorsements = td.endorsements().encode();
        let made = made.with_bundle(|bundle| bundle.evidence = evidence);
        let (authority, signer) = authority();
        let timestamp = authority.stamp(signer, "-sha256", &imprint(&made).hex()).expect("a timestamp");
        with_timestamp(made, timestamp)
            .with_policy(|policy| on_tdx(&demanding(policy, "root", judged_at), &world, &td))
    };
    // After 40 days all of Intel's documents have expired, the revocation lists among them.
    let reason = refused_at(&judged("today"), later(40));
    assert_eq!(reason.class(), Class::Endorsements, "{reason}");
    let verdict = verdict_at(&judged("signing"), later(40));
    assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
    let made = judged("signing").with_policy(|policy| policy.with("crl-if-present", "crl-required"));
    let reason = refused_at(&made, later(40));
    let stale = matches!(
        &reason,
        Reason::Authentication(AuthenticationError::Tdx(TdxError::Crl {
            which: CrlName::Root,
            error: CertificateError::Expired { .. }
        }))
    );
    assert!(stale, "{reason}");

    // Documents of a later day are no use for what was then, but the lists among them are looked at.
    let day = |days: i64| later(days).unix().unsigned_abs();
    for (revoked_by_root, revoked_by_pck_ca, which) in [
        (vec![PCK_CA_SERIAL], vec![], CertificateName::PckCa),
        (vec![], vec![PCK_SERIAL], CertificateName::Pck),
        (vec![SIGNER_SERIAL], vec![], CertificateName::TcbSigning(Document::TcbInfo)),
    ] {
        let mut made = judged("signing");
        made.input.endorsements.tdx = vec![td.altered_endorsements(|recipe| {
            recipe.crl_updates = (day(35), day(65));
            recipe.revoked_by_root = revoked_by_root;
            recipe.revoked_by_pck_ca = revoked_by_pck_ca;
        })];
        let revoked = AuthenticationError::Tdx(TdxError::Revoked { which });
        assert_eq!(refused_at(&made, later(40)), Reason::Authentication(revoked));
    }
    let mut made = judged("signing").with_policy(|policy| policy.with("crl-if-present", "crl-required"));
    made.input.endorsements.tdx =
        vec![td.altered_endorsements(|recipe| recipe.crl_updates = (day(35), day(65)))];
    assert_eq!(verdict_at(&made, later(40)).report().outcome(), Outcome::BlobsNotChecked);
}

#[test]
fn the_command_prints_what_is_to_be_stamped_and_puts_the_answer_beside_the_image() {
    let world = World::new();
    let made = world.make();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    write_layout(&world, &made, &path("app"));
    let (authority, signer) = authority();
    let stamp = |digest: &str| authority.stamp(signer, "-sha256", digest).expect("a timestamp");
    let policy = demanding(made.policy.clone(), "root", "today");
    std::fs::write(path("policy.toml"), policy.0).expect("written");
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(sealwright())
            .env("HOME", directory.path())
            .current_dir(directory.path())
            .args(["--policy", "policy.toml"])
            .args(arguments)
            .output()
            .expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(run(&["verify", "app"]).0, Some(3), "no timestamp yet");

    let (code, digest, hint) = run(&["timestamp", "app"]);
    assert_eq!((code, digest.trim()), (Some(0), imprint(&made).hex().as_str()));
    assert!(hint.contains("openssl ts -query"), "{hint}");
    let index = std::fs::read(path("app/index.json")).expect("an index");
    std::fs::write(path("other.tsr"), stamp(&"11".repeat(32))).expect("written");
    let (code, _, said) = run(&["timestamp", "app", "--add", "other.tsr"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("timestamp is over 1111"), "{said}");
    assert_eq!(std::fs::read(path("app/index.json")).expect("an index"), index, "nothing is changed");

    std::fs::write(path("reply.tsr"), stamp(digest.trim())).expect("written");
    let (code, _, said) = run(&["timestamp", "app", "--add", "reply.tsr"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stamped"), "{said}");
    let (code, verdict, said) = run(&["--json", "verify", "app"]);
    assert_eq!(code, Some(0), "{verdict}{said}");
    let verdict: serde_json::Value = serde_json::from_str(&verdict).expect("JSON");
    assert_eq!(verdict["facts"]["signing_time"]["authority"], "clock tower");
    assert_eq!(verdict["target"], world.target().to_string(), "the image is the same");
    // Again: what is stamped has not changed by it.
    assert_eq!(run(&["timestamp", "app"]).1, digest);
    let (code, _, said) = run(&["timestamp", "app", "--add", "reply.tsr"]);
    assert!(code == Some(0) && said.contains("replaced"), "{said}");

    assert_eq!(run(&["timestamp", "registry.example/app:1"]).0, Some(2));
}
