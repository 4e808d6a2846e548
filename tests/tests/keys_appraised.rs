//! What key service and software TEE make, seen by the verifier. Each case changes one thing and names the one
//! refusal.

use std::slice;

use enclave_keys::{Attester as _, KeyService, detect};
use provenance::binding::{Nonce, ReportData};
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, certificate_table};
use provenance::timestamp::Timestamp;
use sealwright_tests::reference_values;
use sealwright_tests::release_fixture::{FixtureKey, Release, instance_inputs};
use sealwright_tests::software_tee::fake_kernel::{FakeKernel, isolated};
use sealwright_tests::software_tee::{
    ASK_SERIAL, Product, ReportFields, SoftwareTee, Tcb, Validity, VekContents,
};
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::policy::{PolicyTemplate, ReferenceValues, policy_from_reference_values};
use verifier::session::SessionError;
use verifier::snp::{CertificateName, ReportError, SnpError, SnpRefusal};
use verifier::x509::CertificateError;
use verifier::{Endorsements, Policy, Reason, appraise, appraise_session, authenticate};

const DATA: ReportData = ReportData([5; 64]);

fn tee() -> SoftwareTee {
    SoftwareTee::shared().expect("a software TEE")
}

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

fn years_from_now(years: i64) -> Timestamp {
    Timestamp::from_unix(now().unix() + years * 365 * 86_400).expect("before 9999")
}

fn dangerous_policy(keys: &KeyService) -> Policy {
    let caller = FixtureKey::new().public;
    let text = reference_values::dangerous_policy(&tee(), keys.instance(), &[("ci".to_owned(), caller)]);
    Policy::parse(&text, "dangerous.toml").expect("a complete policy")
}

/// A policy as a user gets it from a release's Reference Values: vendor roots only.
fn vendor_policy(keys: &KeyService) -> Policy {
    let values = ReferenceValues { dangerous_roots: vec![], ..reference_values::of(&tee(), keys.instance()) };
    let callers = vec![("ci".to_owned(), FixtureKey::new().public)];
    let template = PolicyTemplate { callers, ..PolicyTemplate::default() };
    Policy::parse(&policy_from_reference_values(&values, &template), "vendor.toml")
        .expect("a complete policy")
}

#[derive(Debug, PartialEq)]
enum Refused {
    NotAuthentic(AuthenticationError),
    ByPolicy(AppraisalError),
}

fn judge(evidence: &Evidence, policy: &Policy, now: Timestamp) -> Result<(), Refused> {
    let authentic = authenticate(evidence, &Endorsements::default(), policy.anchors(), now);
    appraise(authentic.map_err(Refused::NotAuthentic)?, policy).map(|_| ()).map_err(Refused::ByPolicy)
}

fn service() -> KeyService {
    KeyService::start(Box::new(tee()), instance_inputs(), None).expect("started")
}

fn not_authentic(error: SnpError) -> Result<(), Refused> {
    Err(Refused::NotAuthentic(AuthenticationError::Snp(error)))
}

fn refused(refusal: SnpRefusal) -> Result<(), Refused> {
    Err(Refused::ByPolicy(AppraisalError::Snp(refusal)))
}

fn text(result: Result<(), Refused>) -> String {
    text_of(&result)
}

fn text_of(result: &Result<(), Refused>) -> String {
    match result {
        Ok(()) => "accepted".to_owned(),
        Err(Refused::NotAuthentic(error)) => error.to_string(),
        Err(Refused::ByPolicy(error)) => error.to_string(),
    }
}

#[test]
fn session_evidence_is_accepted_as_not_hardware_for_its_own_connection_only() {
    let keys = service();
    let policy = dangerous_policy(&keys);
    use der::{Decode as _, Encode as _};
    let certificate = x509_cert::Certificate::from_der(&keys.tls_certificate()).expect("a certificate");
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().expect("encoded");
    let spki = Sha256Digest::of(&spki);
    let (exporter, nonce) = ([3; 32], Nonce([4; 32]));
    let evidence = keys.session_evidence(exporter, nonce, Challenge::Nonce).expect("Evidence");

    let result = appraise_session(&policy, &evidence, spki, exporter, nonce, now()).expect("accepted");
    assert!(!result.is_hardware());
    assert!(result.summary().starts_with("NOT HARDWARE"), "{}", result.summary());
    assert_eq!(result.instance(), keys.instance());

    let reason = |spki, exporter, nonce| {
        let rejection =
            appraise_session(&policy, &evidence, spki, exporter, nonce, now()).expect_err("rejected");
        rejection.reason().clone()
    };
    let other = Sha256Digest::of(b"another key");
    assert_eq!(reason(other, exporter, nonce), SessionError::TlsKey { got: spki, wanted: other }.into());
    let wanted = [9; 32];
    assert_eq!(reason(spki, wanted, nonce), SessionError::Exporter { got: exporter, wanted }.into());
    let wanted = Nonce([9; 32]);
    assert_eq!(reason(spki, exporter, wanted), SessionError::Nonce { got: nonce, wanted }.into());
}

#[test]
fn build_evidence_does_not_pass_for_a_session() {
    let keys = service();
    let evidence = keys.release(Release::of(&keys, "build").to_request()).expect("released").evidence;
    let rejection = appraise_session(
        &dangerous_policy(&keys),
        &evidence,
        Sha256Digest::of(b"key"),
        [0; 32],
        Nonce([0; 32]),
        now(),
    );
    let reason = rejection.expect_err("rejected").reason().clone();
    assert!(matches!(reason, Reason::Binding(_)), "{reason}");
}

#[test]
fn every_generation_report_version_and_kind_of_key_is_read_and_each_needs_a_policy_that_accepts_it() {
    let (tee, keys) = (tee(), service());
    let caller = FixtureKey::new().public;
    let text = reference_values::dangerous_policy(&tee, keys.instance(), &[("ci".to_owned(), caller)]);
    let strict = Policy::parse(&text, "strict.toml").expect("a complete policy");
    let older = text.replace("minimum_report_version = 3", "minimum_report_version = 2");
    let both = older.replace("allow_vlek = false", "allow_vlek = true");
    let both = Policy::parse(&both, "both.toml").expect("a complete policy");
    for (product, name) in [
        (Product::Milan, verifier::snp::Product::Milan),
        (Product::Genoa, verifier::snp::Product::Genoa),
        (Product::Turin, verifier::snp::Product::Turin),
    ] {
        let vcek = tee.new_chip(product, Tcb::of(product), |_| ()).expect("a chip");
        let vlek = tee.new_vlek(product, Tcb::of(product), |_| ()).expect("a VLEK");
        for version in 2..=5 {
            for (chip, is_vlek) in [(&vcek, false), (&vlek, true)] {
                let what = format!("{product:?} version {version}, VLEK {is_vlek}");
                let evidence = chip.evidence(&DATA, |fields| fields.version = version);
                let authentic =
                    authenticate(&evidence, &Endorsements::default(), both.anchors(), now()).expect(&what);
                let report = authentic.snp().expect("a report");
                assert_eq!((report.product(), report.report().version()), (name, version), "{what}");
                assert_eq!(judge(&evidence, &both, now()), Ok(()), "{what}");
                let refusal = judge(&evidence, &strict, now());
                let right = match (version, is_vlek) {
                    (2, _) => text_of(&refusal).contains("policy wants at least 3"),
                    (_, true) => matches!(
                        &refusal,
                        Err(Refused::ByPolicy(AppraisalError::Snp(SnpRefusal::VlekNotAllowed { .. })))
                    ),
                    _ => refusal == Ok(()),
                };
                assert!(right, "{what}: {refusal:?}");
            }
        }
        for version in [1, 6] {
            let evidence = vcek.evidence(&DATA, |fields| fields.version = version);
            let refusal = judge(&evidence, &both, now());
            assert!(text_of(&refusal).contains("version"), "{product:?} version {version}: {refusal:?}");
            assert!(matches!(refusal, Err(Refused::NotAuthentic(_))), "{product:?} version {version}");
        }
    }
}

#[test]
fn a_vendor_policy_accepts_no_evidence_of_the_software_tee() {
    let (tee, keys) = (tee(), service());
    let wanted = SnpError::UnknownRoot { got: tee.root_spki_sha256() };
    let evidence = tee.evidence(&DATA).expect("Evidence");
    assert_eq!(judge(&evidence, &vendor_policy(&keys), now()), not_authentic(wanted));
}

#[test]
fn evidence_of_a_faked_kernel_interface_is_not_authentic_under_a_vendor_policy() {
    isolated("evidence_of_a_faked_kernel_interface_is_not_authentic_under_a_vendor_policy", || {
        let tee = tee();
        let root = tee.root_spki_sha256();
        let _kernel = FakeKernel::mount("sev_guest", move |data| tee.chip().evidence(data, |_| ()));
        // To the shipped Attester it looks like hardware, and the instance document says so.
        let attester = detect().expect("found");
        let evidence = attester.evidence(&DATA).expect("Evidence");
        let keys = KeyService::start(attester, instance_inputs(), None).expect("started");
        assert_eq!(keys.instance().key_origin, provenance::instance::KeyOrigin::BootEphemeral);
        let wanted = SnpError::UnknownRoot { got: root };
        assert_eq!(judge(&evidence, &vendor_policy(&keys), now()), not_authentic(wanted));
    });
}

#[test]
fn what_the_report_says_is_judged_field_by_field() {
    let (tee, policy) = (tee(), dangerous_policy(&service()));
    type Alter = fn(&mut ReportFields);
    let cases: [(&str, Alter, &str); 12] = [
        ("debug", |f| f.policy |= 1 << 19, "allows debugging"),
        ("migration agent", |f| f.policy |= 1 << 18, "migration agent"),
        ("guest policy without bit 17", |f| f.policy &= !(1 << 17), "bit 17 must be set"),
        ("VMPL", |f| f.vmpl = 1, "VMPL is 1"),
        ("version 2", |f| f.version = 2, "report version is 2, policy wants at least 3"),
        ("signature algorithm", |f| f.signature_algo = 2, "signature algorithm is 2"),
        ("unsigned", |f| f.key_info = 7 << 2, "not signed"),
        ("measurement", |f| f.measurement[0] ^= 1, "launch measurement is"),
        ("reported TCB", |f| f.reported_tcb[7] ^= 1, "TCB"),
        ("current above committed TCB", |f| f.current_tcb[7] += 1, "provisional"),
        ("chip", |f| f.chip_id[0] ^= 1, "chip"),
        ("CPUID of Genoa", |f| f.cpuid[1] = 0x11, "CPUID"),
    ];
    for (name, alter, wanted) in cases {
        let got = text(judge(&tee.chip().evidence(&DATA, alter), &policy, now()));
        assert!(got.contains(wanted), "{name}: {got}");
    }
}

#[test]
fn exact_refusals_carry_what_was_seen_and_wanted() {
    let (tee, policy) = (tee(), dangerous_policy(&service()));
    let judge = |alter: fn(&mut ReportFields)| judge(&tee.chip().evidence(&DATA, alter), &policy, now());
    assert_eq!(judge(|f| f.policy |= 1 << 19), refused(SnpRefusal::Debug { guest_policy: 0xb_0000 }));
    let unsigned = ReportError::Unsigned { key_info: 7 << 2 };
    assert_eq!(judge(|f| f.key_info = 7 << 2), not_authentic(SnpError::Report(unsigned)));
}

#[test]
fn a_changed_byte_anywhere_in_the_report_is_noticed() {
    let (tee, policy) = (tee(), dangerous_policy(&service()));
    let good = tee.chip().evidence(&DATA, |_| ());
    for at in 0..good.report.len() {
        let mut altered = good.clone();
        altered.report[at] ^= 0x10;
        assert_ne!(judge(&altered, &policy, now()), Ok(()), "byte {at:#x}");
    }
}

#[test]
fn a_certificate_that_is_not_valid_at_the_time_of_judgement_is_refused() {
    let (tee, policy) = (tee(), dangerous_policy(&service()));
    let evidence = tee.chip().evidence(&DATA, |_| ());
    for years in [-1, 8] {
        let Err(Refused::NotAuthentic(AuthenticationError::Snp(SnpError::Certificate { which, error }))) =
            judge(&evidence, &policy, years_from_now(years))
        else {
            panic!("{years} years from now: not refused for a certificate")
        };
        assert_eq!(which, CertificateName::Vcek);
        let right = match error {
            CertificateError::NotYetValid { .. } => years < 0,
            CertificateError::Expired { .. } => years > 0,
            _ => false,
        };
        assert!(right, "{years} years from now: {error}");
    }
}

#[test]
fn what_the_certificate_says_is_judged_field_by_field() {
    let (tee, policy) = (tee(), dangerous_policy(&service()));
    type Alter = fn(&mut VekContents);
    fn last_byte(contents: &mut VekContents, end: &str) {
        let found = contents.extensions.iter_mut().find(|(id, _)| id.ends_with(end));
        *found.expect("an extension of every VCEK").1.last_mut().expect("not empty") ^= 1;
    }
    let cases: [(&str, Alter, &str); 9] = [
        ("boot loader", |c| last_byte(c, "3704.1.3.1"), "VCEK certificate is of TCB 05.00.18.db"),
        ("TEE", |c| last_byte(c, "3704.1.3.2"), "VCEK certificate is of TCB 04.01.18.db"),
        ("SNP", |c| last_byte(c, "3704.1.3.3"), "VCEK certificate is of TCB 04.00.19.db"),
        ("microcode", |c| last_byte(c, "3704.1.3.8"), "VCEK certificate is of TCB 04.00.18.da"),
        ("chip", |c| last_byte(c, "3704.1.4"), "chip"),
        ("no chip", |c| c.extensions.retain(|(id, _)| !id.ends_with("3704.1.4")), "hwID"),
        ("product", |c| c.extensions[1].1 = b"\x16\x08Genoa-B1".to_vec(), "Genoa"),
        ("name", |c| c.common_name = "SEV-VLEK".to_owned(), "SEV-VLEK"),
        ("twice", |c| c.extensions.push(c.extensions[0].clone()), "stands twice"),
    ];
    for (name, alter, wanted) in cases {
        let chip = tee.new_chip(Product::Milan, Tcb::of(Product::Milan), alter).expect("a chip");
        let got = judge(&chip.evidence(&DATA, |_| ()), &policy, now());
        assert!(matches!(got, Err(Refused::NotAuthentic(_))), "{name}: {got:?}");
        let got = text(got);
        assert!(got.contains(wanted), "{name}: {got}");
    }
}

#[test]
fn revocation_is_judged_as_the_policy_says() {
    let (tee, keys) = (tee(), service());
    let evidence = tee.chip().evidence(&DATA, |_| ());
    let caller = FixtureKey::new().public;
    let text = reference_values::dangerous_policy(&tee, keys.instance(), &[("ci".to_owned(), caller)]);
    let lenient = Policy::parse(&text, "lenient.toml").expect("a complete policy");
    let demanding = text.replace("revocation = \"crl-if-present\"", "revocation = \"crl-required\"");
    let demanding = Policy::parse(&demanding, "demanding.toml").expect("a complete policy");

    let judge = |crls: &[Vec<u8>], policy: &Policy| {
        let extra = Endorsements { crls: crls.to_vec(), ..Endorsements::default() };
        authenticate(&evidence, &extra, policy.anchors(), now()).map(|_| ())
    };
    let fresh = Validity { not_before: years_from_now(-1), not_after: years_from_now(1) };
    let stale = Validity { not_before: years_from_now(-2), not_after: years_from_now(-1) };
    let nothing_revoked = tee.revocation_list(&[], fresh);
    let another = tee.revocation_list(&[ASK_SERIAL + 7], fresh);
    let ask = tee.revocation_list(&[ASK_SERIAL + 7, ASK_SERIAL], fresh);
    let old = tee.revocation_list(&[], stale);
    let old_ask = tee.revocation_list(&[ASK_SERIAL], stale);
    let not_the_roots = tee.revocation_list_of_the_ask(&[], fresh);

    for good in [&nothing_revoked, &another] {
        assert_eq!(judge(slice::from_ref(good), &demanding), Ok(()));
    }
    assert_eq!(judge(&[], &lenient), Ok(()));
    assert_eq!(judge(&[], &demanding), Err(SnpError::CrlMissing.into()));
    // A list of somebody else says nothing about this chain, for better or worse.
    assert_eq!(judge(slice::from_ref(&not_the_roots), &lenient), Ok(()));
    assert_eq!(judge(slice::from_ref(&not_the_roots), &demanding), Err(SnpError::CrlMissing.into()));
    assert_eq!(judge(slice::from_ref(&old), &lenient), Ok(()));
    let got = judge(&[old], &demanding).expect_err("refused");
    assert!(
        matches!(got, AuthenticationError::Snp(SnpError::Crl(CertificateError::Expired { .. }))),
        "{got}"
    );
    for policy in [&lenient, &demanding] {
        let revoked = SnpError::Revoked { which: CertificateName::Ask };
        assert_eq!(judge(slice::from_ref(&ask), policy), Err(revoked.clone().into()));
        assert_eq!(
            judge(slice::from_ref(&old_ask), policy),
            Err(revoked.into()),
            "what was revoked stays revoked"
        );
        let mut altered = ask.clone();
        *altered.last_mut().expect("not empty") ^= 1;
        let got = judge(&[altered], policy).expect_err("refused");
        assert!(
            matches!(got, AuthenticationError::Snp(SnpError::Crl(CertificateError::Signature { .. }))),
            "{got}"
        );
    }
}

#[test]
fn a_vlek_needs_a_policy_that_allows_it_and_its_own_intermediate() {
    let (tee, keys) = (tee(), service());
    let vlek = tee.new_vlek(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a VLEK");
    let evidence = vlek.evidence(&DATA, |_| ());
    let got = judge(&evidence, &dangerous_policy(&keys), now());
    assert!(
        matches!(got, Err(Refused::ByPolicy(AppraisalError::Snp(SnpRefusal::VlekNotAllowed { .. })))),
        "{got:?}"
    );

    let caller = FixtureKey::new().public;
    let text = reference_values::dangerous_policy(&tee, keys.instance(), &[("ci".to_owned(), caller)]);
    let allowing = text.replace("allow_vlek = false", "allow_vlek = true");
    let policy = Policy::parse(&allowing, "vlek.toml").expect("a complete policy");
    assert_eq!(judge(&evidence, &policy, now()), Ok(()));

    let mut table = certificate_table::parse(&evidence.endorsements).expect("a table");
    let vcek_table = certificate_table::parse(&tee.chip().endorsements()).expect("a table");
    table.insert(certificate_table::ASK, vcek_table[&certificate_table::ASK].clone());
    let entries: Vec<_> = table.iter().map(|(guid, der)| (*guid, der.as_slice())).collect();
    let swapped = Evidence { endorsements: certificate_table::encode(&entries), ..evidence };
    let got = judge(&swapped, &policy, now());
    assert!(matches!(got, Err(Refused::NotAuthentic(_))), "{got:?}");
}
