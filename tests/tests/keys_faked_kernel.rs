//! The shipped Attester at the shipped paths, over a faked configfs-tsm.

use enclave_keys::{AttesterError, KeyService, NoTee, detect};
use provenance::binding::ReportData;
use provenance::instance::KeyOrigin;
use sealwright_tests::release_fixture::{Release, instance_inputs};
use sealwright_tests::software_tee::SoftwareTee;
use sealwright_tests::software_tee::fake_kernel::{FakeKernel, Misbehaviour, isolated};

fn fake() -> FakeKernel {
    let tee = SoftwareTee::shared().expect("a software TEE");
    FakeKernel::mount("sev_guest", move |data| tee.chip().evidence(data, |_| ()))
}

const DATA: ReportData = ReportData([7; 64]);

#[test]
fn a_report_is_obtained_through_an_entry_of_its_own_which_is_removed() {
    isolated("a_report_is_obtained_through_an_entry_of_its_own_which_is_removed", || {
        let kernel = fake();
        let attester = detect().expect("found");
        assert_eq!(attester.key_origin(), KeyOrigin::BootEphemeral);
        let evidence = attester.evidence(&DATA).expect("Evidence");
        assert_eq!(evidence.report[0x50..0x90], DATA.0);
        assert_eq!(
            evidence.endorsements,
            SoftwareTee::shared().expect("a software TEE").chip().endorsements()
        );
        assert_eq!(
            kernel.entries(),
            (2, 0),
            "one entry for the provider's name, one for the report; none left"
        );
    });
}

#[test]
fn a_busy_interface_is_asked_again_but_not_forever() {
    isolated("a_busy_interface_is_asked_again_but_not_forever", || {
        let kernel = fake();
        let attester = detect().expect("found");
        kernel.misbehave(Misbehaviour { busy: 2, ..Misbehaviour::default() });
        attester.evidence(&DATA).expect("Evidence at the third attempt");
        kernel.misbehave(Misbehaviour { busy: u32::MAX, ..Misbehaviour::default() });
        let refused = attester.evidence(&DATA).expect_err("refused");
        assert!(matches!(refused, AttesterError::Busy { attempts: 10, .. }), "{refused}");
        assert_eq!(kernel.entries().1, 0, "entries are removed after errors too");
    });
}

#[test]
fn somebody_elses_write_to_the_entry_is_noticed_by_its_generation() {
    isolated("somebody_elses_write_to_the_entry_is_noticed_by_its_generation", || {
        let kernel = fake();
        let attester = detect().expect("found");
        kernel.misbehave(Misbehaviour { raced: 2, ..Misbehaviour::default() });
        attester.evidence(&DATA).expect("Evidence at the third attempt");
        kernel.misbehave(Misbehaviour { raced: u32::MAX, ..Misbehaviour::default() });
        let refused = attester.evidence(&DATA).expect_err("refused");
        assert_eq!(refused, AttesterError::Raced { attempts: 3, got: 2, wanted: 1 });
    });
}

#[test]
fn a_provider_that_went_away_is_named() {
    isolated("a_provider_that_went_away_is_named", || {
        let kernel = fake();
        let attester = detect().expect("found");
        kernel.misbehave(Misbehaviour { no_provider: true, ..Misbehaviour::default() });
        let refused = attester.evidence(&DATA).expect_err("refused");
        assert!(matches!(refused, AttesterError::NoProvider { .. }), "{refused}");
        let refused = detect().map(|_| ()).expect_err("nothing else shows a TEE");
        assert!(matches!(refused, NoTee::NotFound { .. }), "{refused}");
    });
}

#[test]
fn more_bytes_than_the_interface_has_are_refused() {
    isolated("more_bytes_than_the_interface_has_are_refused", || {
        let kernel = fake();
        let attester = detect().expect("found");
        kernel.misbehave(Misbehaviour { longer_report: 1, ..Misbehaviour::default() });
        let refused = attester.evidence(&DATA).expect_err("refused");
        assert!(matches!(refused, AttesterError::TooLong { limit: 1184, .. }), "{refused}");
        kernel.misbehave(Misbehaviour { auxblob_length: Some(65_537), ..Misbehaviour::default() });
        let refused = attester.evidence(&DATA).expect_err("refused");
        assert!(matches!(refused, AttesterError::TooLong { limit: 65_536, .. }), "{refused}");
        kernel.misbehave(Misbehaviour { auxblob_length: Some(0), ..Misbehaviour::default() });
        let evidence = attester.evidence(&DATA).expect("a host need not send endorsements");
        assert_eq!(evidence.endorsements, b"");
    });
}

#[test]
fn without_a_tee_the_refusal_names_the_places_and_the_way_out() {
    let refused = detect().map(|_| ()).expect_err("no TEE here");
    let text = "no TEE found (looked for: /sys/kernel/config/tsm, /dev/sev-guest, /dev/tdx_guest, \
                /sys/firmware/uv/prot_virt_guest)\nthis program signs only inside a confidential guest; to try it \
                without one, use the development server: make serve";
    assert_eq!(refused.to_string(), text);
}

#[test]
fn the_shipped_attester_serves_the_key_service() {
    isolated("the_shipped_attester_serves_the_key_service", || {
        let kernel = fake();
        let keys = KeyService::start(detect().expect("found"), instance_inputs(), None).expect("started");
        keys.release(Release::of(&keys, "build").to_request()).expect("released");
        assert_eq!(kernel.entries(), (3, 0));
    });
}
