//! The software TD seen by the shipped Attester, the key service, the verifier and tools that are not ours.

use std::process::Command;

use enclave_keys::{AttesterError, KeyError, KeyService, Measurement, OwnReportError, detect};
use provenance::binding::{Nonce, ReportData};
use provenance::challenge::Challenge;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use sealwright_tests::reference_values::SoftwareRelease;
use sealwright_tests::release_fixture::{FixtureKey, Release, instance_inputs};
use sealwright_tests::software_tee::DANGEROUS_SOFTWARE_MEASUREMENT;
use sealwright_tests::software_tee::fake_kernel::{FakeKernel, Misbehaviour, isolated};
use sealwright_tests::software_tee::tdx::fixture::{PCK_CA_SERIAL, PCK_SERIAL, SIGNER_SERIAL};
use sealwright_tests::software_tee::tdx::{QuoteVersion, SoftwareTdx, event_log};
use verifier::policy::{PolicyTemplate, ReferenceValues, policy_from_reference_values};
use verifier::rejection::Class;
use verifier::tdx::event_log::EventLog;
use verifier::tdx::quote::{BodyType, body};
use verifier::tdx::{CertificateName, Document, TcbStatus, TdxError};
use verifier::{Endorsements, Policy, Reason, appraise, authenticate};

const DATA: ReportData = ReportData([7; 64]);

fn tee() -> SoftwareTdx {
    SoftwareTdx::shared().expect("a software TD")
}

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

fn days_from_now(days: i64) -> Timestamp {
    Timestamp::from_unix(now().unix() + days * 86_400).expect("before 9999")
}

/// A policy as a user gets it from Reference Values for this software TD.
fn policy(keys: &KeyService, alter: impl FnOnce(&mut ReferenceValues)) -> Policy {
    let mut values = SoftwareRelease::tdx(&tee()).values(keys.instance());
    alter(&mut values);
    let callers = vec![("ci".to_owned(), FixtureKey::new().public)];
    let template = PolicyTemplate { callers, ..PolicyTemplate::default() };
    Policy::parse(&policy_from_reference_values(&values, &template), "tdx.toml").expect("a complete policy")
}

fn service() -> KeyService {
    KeyService::start(Box::new(tee()), instance_inputs(), None).expect("started")
}

fn judge(evidence: &Evidence, beside: &[TdxEndorsements], policy: &Policy) -> Result<(), Reason> {
    judge_at(evidence, beside, policy, now())
}

fn judge_at(
    evidence: &Evidence,
    beside: &[TdxEndorsements],
    policy: &Policy,
    now: Timestamp,
) -> Result<(), Reason> {
    let extra = Endorsements { tdx: beside.to_vec(), ..Endorsements::default() };
    let authentic = authenticate(evidence, &extra, policy.anchors(), now)?;
    let accepted = appraise(authentic, policy)?;
    assert!(accepted.tdx().is_some() && accepted.snp().is_none());
    Ok(())
}

fn fake(version: QuoteVersion) -> FakeKernel {
    let tee = tee();
    FakeKernel::mount("tdx_guest", move |data| tee.bare_evidence(version, data))
}

#[test]
fn the_shipped_attester_gets_quotes_from_the_kernel_which_need_endorsements_beside_them() {
    isolated("the_shipped_attester_gets_quotes_from_the_kernel_which_need_endorsements_beside_them", || {
        let policy = policy(&service(), |_| ());
        let kernel = fake(QuoteVersion::V4);
        let attester = detect().expect("found");
        assert_eq!((attester.platform(), attester.key_origin()), (Platform::Tdx, KeyOrigin::BootEphemeral));
        let evidence = attester.evidence(&DATA).expect("Evidence");
        assert_eq!((evidence.platform, evidence.endorsements.as_slice()), (Platform::Tdx, &[][..]));
        assert_eq!(kernel.entries(), (2, 0), "one for the provider's name, one for the quote; none left");

        let fmspc = "ab".repeat(6);
        let missing = Reason::Authentication(TdxError::MissingEndorsements { fmspc }.into());
        assert_eq!(judge(&evidence, &[], &policy), Err(missing));
        assert_eq!(judge(&evidence, &[tee().endorsements().clone()], &policy), Ok(()));
    });
}

#[test]
fn the_kernels_interface_may_be_busy_raced_or_give_little_at_a_time_and_must_not_give_too_much() {
    isolated(
        "the_kernels_interface_may_be_busy_raced_or_give_little_at_a_time_and_must_not_give_too_much",
        || {
            let kernel = fake(QuoteVersion::V5);
            let attester = detect().expect("found");
            let whole = attester.evidence(&DATA).expect("Evidence").report.len();
            for misbehaviour in [
                Misbehaviour { busy: 2, ..Misbehaviour::default() },
                Misbehaviour { raced: 2, ..Misbehaviour::default() },
                Misbehaviour { short_reads: Some(7), ..Misbehaviour::default() },
            ] {
                kernel.misbehave(misbehaviour);
                let evidence = attester.evidence(&DATA).expect("Evidence in the end");
                assert_eq!(evidence.report.len(), whole);
            }
            kernel.misbehave(Misbehaviour { raced: u32::MAX, ..Misbehaviour::default() });
            let raced = AttesterError::Raced { attempts: 3, got: 2, wanted: 1 };
            assert_eq!(attester.evidence(&DATA), Err(raced));
            kernel.misbehave(Misbehaviour { longer_report: 65_536, ..Misbehaviour::default() });
            let refused = attester.evidence(&DATA).expect_err("refused");
            assert!(matches!(refused, AttesterError::TooLong { limit: 65_536, .. }), "{refused}");
        },
    );
}

#[test]
fn the_key_service_signs_over_quotes_of_an_unchanged_td_only() {
    isolated("the_key_service_signs_over_quotes_of_an_unchanged_td_only", || {
        let (tee, changed) = (tee(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let offset = std::sync::Arc::clone(&changed);
        let _kernel = FakeKernel::mount("tdx_guest", move |data| {
            let mut recipe = tee.recipe(QuoteVersion::V5, data);
            match offset.load(std::sync::atomic::Ordering::SeqCst) {
                0 => {}
                at => recipe.body[at] ^= 1,
            }
            Evidence { platform: Platform::Tdx, report: tee.quote(&recipe), endorsements: vec![] }
        });
        let keys = KeyService::start(detect().expect("found"), instance_inputs(), None).expect("started");
        assert_eq!(keys.instance().platform, Platform::Tdx);
        keys.release(Release::of(&keys, "build").to_request()).expect("released");
        let health = keys.health();
        assert_eq!(health.launch_measurement, Some(hex::encode(DANGEROUS_SOFTWARE_MEASUREMENT)));
        assert_eq!(health.vmpl, None);

        changed.store(body::MRTD, std::sync::atomic::Ordering::SeqCst);
        let expected = Measurement(DANGEROUS_SOFTWARE_MEASUREMENT);
        let mut got = expected;
        got.0[0] ^= 1;
        let wanted = KeyError::OwnReport(OwnReportError::MeasurementChanged { expected, got });
        assert_eq!(keys.release(Release::of(&keys, "build").to_request()), Err(wanted));
        for (index, register) in event_log::registers().into_iter().enumerate() {
            changed.store(body::RTMR0 + 48 * index, std::sync::atomic::Ordering::SeqCst);
            let expected = Measurement(register);
            let mut got = expected;
            got.0[0] ^= 1;
            let wanted = KeyError::OwnReport(OwnReportError::RegisterChanged { index, expected, got });
            assert_eq!(keys.release(Release::of(&keys, "build").to_request()), Err(wanted));
        }
        changed.store(0, std::sync::atomic::Ordering::SeqCst);
        keys.session_evidence([0; 32], Nonce([0; 32]), Challenge::Nonce).expect("Evidence again");
    });
}

#[test]
fn both_versions_of_quotes_are_accepted_as_not_hardware_and_replay_the_boot() {
    let (tee, policy) = (tee(), policy(&service(), |_| ()));
    let log = event_log::log();
    let log = EventLog::parse(&log).expect("a log");
    for (version, number, body_type) in
        [(QuoteVersion::V4, 4, BodyType::Td10), (QuoteVersion::V5, 5, BodyType::Td15)]
    {
        let endorsements = tee.endorsements().encode();
        let evidence = Evidence { endorsements, ..tee.bare_evidence(version, &DATA) };
        assert_eq!(judge(&evidence, &[], &policy), Ok(()));
        let authentic =
            authenticate(&evidence, &Endorsements::default(), policy.anchors(), now()).expect("authentic");
        let authentic = authentic.tdx().expect("a quote");
        assert!(!authentic.root().is_hardware());
        assert_eq!((authentic.quote().version(), authentic.quote().body_type()), (number, body_type));
        assert_eq!(authentic.quote().report_data(), &DATA.0);
        assert_eq!(authentic.tcb().status, TcbStatus::UpToDate);
        let flags = authentic.platform().configuration.expect("flags");
        assert!(flags.dynamic_platform && flags.cached_keys && flags.smt_enabled);
        assert_eq!(log.check_against(authentic.quote()), Ok(()));
    }
}

#[test]
fn a_policy_of_vendor_roots_accepts_no_quote_of_a_software_td() {
    let (tee, keys) = (tee(), service());
    let vendor = policy(&keys, |values| values.dangerous_roots.clear());
    let endorsements = tee.endorsements().encode();
    let evidence = Evidence { endorsements, ..tee.bare_evidence(QuoteVersion::V5, &DATA) };
    let unknown = TdxError::UnknownRoot { got: tee.root_spki_sha256() };
    assert_eq!(judge(&evidence, &[], &vendor), Err(Reason::Authentication(unknown.into())));
}

#[test]
fn what_is_issued_lasts_thirty_days_and_what_is_revoked_stays_out() {
    let (tee, policy) = (tee(), policy(&service(), |_| ()));
    let evidence = |endorsements: &TdxEndorsements| Evidence {
        endorsements: endorsements.encode(),
        ..tee.bare_evidence(QuoteVersion::V5, &DATA)
    };
    let usual = evidence(tee.endorsements());
    assert_eq!(judge_at(&usual, &[], &policy, days_from_now(29)), Ok(()));
    for days in [-2, 31] {
        let refused = judge_at(&usual, &[], &policy, days_from_now(days)).expect_err("refused");
        assert_eq!(refused.class(), Class::Endorsements, "{refused}");
    }
    let signer = CertificateName::TcbSigning(Document::TcbInfo);
    for (by_root, serial, which) in [
        (true, PCK_CA_SERIAL, CertificateName::PckCa),
        (true, SIGNER_SERIAL, signer),
        (false, PCK_SERIAL, CertificateName::Pck),
    ] {
        let revoking = tee.altered_endorsements(|recipe| {
            let list = if by_root { &mut recipe.revoked_by_root } else { &mut recipe.revoked_by_pck_ca };
            list.push(serial);
        });
        let revoked = Reason::Authentication(TdxError::Revoked { which }.into());
        assert_eq!(judge(&evidence(&revoking), &[], &policy), Err(revoked.clone()));
        assert_eq!(judge(&usual, &[revoking], &policy), Err(revoked), "what is given beside counts first");
    }
}

#[test]
fn opening_again_keeps_the_root_and_private_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let first = SoftwareTdx::open(dir.path()).expect("made");
    let second = SoftwareTdx::open(dir.path()).expect("read");
    assert_eq!(first.root_spki_sha256(), second.root_spki_sha256());
    assert_ne!(first.root_spki_sha256(), tee().root_spki_sha256());
    // A quote of the one is endorsed by what the other has issued.
    let evidence = first.bare_evidence(QuoteVersion::V5, &DATA);
    let policy = policy(&service(), |values| values.dangerous_roots = vec![second.root_spki_sha256()]);
    assert_eq!(judge(&evidence, &[second.endorsements().clone()], &policy), Ok(()));
    for home in std::fs::read_dir(dir.path()).expect("listed") {
        for file in std::fs::read_dir(home.expect("an entry").path()).expect("listed") {
            let file = file.expect("an entry");
            let mode = file.metadata().expect("metadata").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.path().display());
        }
    }
    std::fs::write(dir.path().join("tdx-fixture-pki-v1/pck.key"), b"no key").expect("written");
    let damaged = SoftwareTdx::open(dir.path()).map(|_| ()).expect_err("damaged");
    assert!(format!("{damaged:#}").contains("a fixture key is damaged"), "{damaged:#}");
}

#[test]
fn openssl_accepts_chain_and_revocation_lists() {
    let tee = tee();
    let quote = verifier::tdx::Quote::parse(&tee.bare_evidence(QuoteVersion::V5, &DATA).report);
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("openssl is a prerequisite");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), said)
    };
    // The chain stands leaf first; openssl takes the first certificate of a file.
    let chain = String::from_utf8(quote.expect("a quote").pck_chain().to_vec()).expect("PEM");
    let end = "-----END CERTIFICATE-----\n";
    let parts: Vec<String> = chain.split_inclusive(end).map(str::to_owned).collect();
    let [pck, ca, root] = parts.as_slice() else { panic!("{} certificates", parts.len()) };
    let (pck, ca, root) =
        (file("pck", pck.as_bytes()), file("ca", ca.as_bytes()), file("root", root.as_bytes()));
    let (good, said) = openssl(&["verify", "-CAfile", &root, "-untrusted", &ca, &pck]);
    assert!(good, "{said}");
    let endorsements = tee.endorsements();
    for (list, issuer) in [(&endorsements.root_ca_crl, &root), (&endorsements.pck_crl, &ca)] {
        let list = file("list", list);
        let (good, said) = openssl(&["crl", "-inform", "DER", "-in", &list, "-CAfile", issuer, "-noout"]);
        assert!(good && said.contains("verify OK"), "{said}");
    }
}
