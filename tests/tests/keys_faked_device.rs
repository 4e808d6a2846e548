//! The shipped Attester over a faked `/dev/sev-guest`, down to ioctl(2).

use enclave_keys::{Attester, AttesterError, KeyError, KeyService, NoTee, RootKind, WipedBy, detect};
use provenance::binding::ReportData;
use provenance::evidence::Platform;
use sealwright_tests::release_fixture::{Release, instance_inputs};
use sealwright_tests::software_tee::fake_devices::FakeDevices;
use sealwright_tests::software_tee::fake_kernel::{FakeKernel, isolated};
use sealwright_tests::software_tee::sev_guest::{DeviceTrouble, FakeSevGuest};
use sealwright_tests::software_tee::{
    DANGEROUS_SOFTWARE_MEASUREMENT, Product, ReportFields, SoftwareTee, Tcb,
};

const DATA: ReportData = ReportData([7; 64]);

fn device(alter: impl Fn(&mut ReportFields) + Send + 'static) -> (FakeSevGuest, FakeDevices) {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let chip = tee.new_chip(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a chip");
    let device = FakeSevGuest::new(chip, 0, alter);
    let mounted = FakeDevices::mount(vec![("sev-guest", Box::new(device.clone()))]);
    (device, mounted)
}

fn refusal(attester: &dyn Attester) -> AttesterError {
    attester.evidence(&DATA).expect_err("refused")
}

fn wiped(by: WipedBy) -> AttesterError {
    AttesterError::KeyWiped { path: "/dev/sev-guest".into(), by }
}

#[test]
fn evidence_is_a_signed_report_with_the_hosts_certificates() {
    isolated("evidence_is_a_signed_report_with_the_hosts_certificates", || {
        let (device, _mounted) = device(|_| ());
        let attester = detect().expect("found");
        let evidence = attester.evidence(&DATA).expect("Evidence");
        assert_eq!((evidence.platform, evidence.report.len()), (Platform::SevSnp, 1184));
        assert_eq!(
            (&evidence.report[0x50..0x90], &evidence.report[0x90..0xc0]),
            (&DATA.0[..], &DANGEROUS_SOFTWARE_MEASUREMENT[..])
        );
        let certificates = provenance::evidence::certificate_table::parse(&evidence.endorsements);
        assert_eq!(certificates.expect("a table").len(), 3);
        assert_eq!(device.calls(), 1, "one call gives both");
    });
}

#[test]
fn more_certificates_than_the_driver_takes_are_refused_and_cost_no_key() {
    isolated("more_certificates_than_the_driver_takes_are_refused_and_cost_no_key", || {
        let (device, _mounted) = device(|_| ());
        let attester = detect().expect("found");
        device.trouble(DeviceTrouble { certificate_padding: 20_000, ..DeviceTrouble::default() });
        let refused = refusal(&*attester);
        assert!(matches!(refused, AttesterError::Io { operation: "ioctl", .. }), "{refused}");
        device.trouble(DeviceTrouble { certificate_padding: 80_000, ..DeviceTrouble::default() });
        let refused = refusal(&*attester);
        let grown =
            matches!(refused, AttesterError::CertificateBuffer { offered: 16_384, limit: 65_536, .. });
        assert!(grown, "{refused}");
        device.trouble(DeviceTrouble { certificate_padding: 8_000, ..DeviceTrouble::default() });
        attester.evidence(&DATA).expect("Evidence with a table of more than two pages");
    });
}

#[test]
fn a_throttling_host_is_asked_again_but_not_forever() {
    isolated("a_throttling_host_is_asked_again_but_not_forever", || {
        let (device, _mounted) = device(|_| ());
        let attester = detect().expect("found");
        device.trouble(DeviceTrouble { busy: 2, ..DeviceTrouble::default() });
        attester.evidence(&DATA).expect("Evidence at the third attempt");
        device.trouble(DeviceTrouble { busy: u32::MAX, ..DeviceTrouble::default() });
        assert_eq!(refusal(&*attester), AttesterError::Busy { path: "/dev/sev-guest".into(), attempts: 10 });
    });
}

#[test]
fn a_firmware_error_ends_signing_until_the_next_boot() {
    isolated("a_firmware_error_ends_signing_until_the_next_boot", || {
        let (device, _mounted) = device(|_| ());
        let keys = KeyService::start(detect().expect("found"), instance_inputs(), None).expect("started");
        keys.release(Release::of(&keys, "build").to_request()).expect("released");
        device.trouble(DeviceTrouble { firmware_error: Some(0x1b), ..DeviceTrouble::default() });
        let by = WipedBy::Firmware { code: 0x1b };
        let refused = keys.release(Release::of(&keys, "again").to_request()).expect_err("refused");
        assert_eq!(refused, KeyError::Attester(wiped(by)));
        let calls = device.calls();
        let refused = keys.release(Release::of(&keys, "third").to_request()).expect_err("refused");
        assert_eq!(refused, KeyError::Attester(wiped(by)));
        assert!(keys.health().key_wiped);
        assert_eq!(device.calls(), calls, "a lost key is not asked for again");

        assert_eq!(
            refusal(&*detect().expect("found")),
            wiped(WipedBy::Before),
            "another process is told too"
        );
        device.boot(|_| ());
        detect().expect("found").evidence(&DATA).expect("Evidence after the next boot");
    });
}

#[test]
fn a_response_that_is_none_is_refused() {
    isolated("a_response_that_is_none_is_refused", || {
        let (device, _mounted) = device(|_| ());
        let attester = detect().expect("found");
        let path = || "/dev/sev-guest".into();
        device.trouble(DeviceTrouble { status: 0x16, ..DeviceTrouble::default() });
        assert_eq!(refusal(&*attester), AttesterError::FirmwareStatus { path: path(), status: 0x16 });
        device.trouble(DeviceTrouble { report_size: Some(1183), ..DeviceTrouble::default() });
        assert_eq!(
            refusal(&*attester),
            AttesterError::ReportLength { path: path(), got: 1183, wanted: 1184 }
        );
        device.trouble(DeviceTrouble::default());
        attester.evidence(&DATA).expect("Evidence");
    });
}

/// The root and what it is sealed under, for a boot with these reports.
fn root(device: &FakeSevGuest, alter: impl Fn(&mut ReportFields) + Send + 'static) -> (String, RootKind) {
    device.boot(alter);
    let root = detect().expect("found").sealing_root().expect("asked").expect("a root");
    (serde_json::to_string(root.under()).expect("JSON"), root.under().kind)
}

#[test]
fn the_sealing_root_names_measurement_policy_and_committed_tcb() {
    isolated("the_sealing_root_names_measurement_policy_and_committed_tcb", || {
        let (device, _mounted) = device(|_| ());
        let (first, kind) = root(&device, |_| ());
        assert_eq!(kind, RootKind::VcekDerivedKey);
        assert_eq!(root(&device, |_| ()).0, first);
        let changed: [fn(&mut ReportFields); 3] = [
            |fields| fields.measurement[0] ^= 1,
            |fields| fields.policy |= 1 << 19,
            |fields| fields.committed_tcb[6] -= 1,
        ];
        for alter in changed {
            assert_ne!(root(&device, alter).0, first);
        }
        let same: [fn(&mut ReportFields); 2] =
            [|fields| fields.current_tcb[6] += 1, |fields| fields.host_data[0] ^= 1];
        for alter in same {
            assert_eq!(
                root(&device, alter).0,
                first,
                "newer firmware that is not committed, other host data"
            );
        }
    });
}

#[test]
fn configfs_gives_the_reports_and_the_device_the_root() {
    isolated("configfs_gives_the_reports_and_the_device_the_root", || {
        let tee = SoftwareTee::shared().expect("a software TEE");
        let kernel = FakeKernel::mount("sev_guest", move |data| tee.chip().evidence(data, |_| ()));
        let (device, _mounted) = device(|_| ());
        let attester = detect().expect("found");
        attester.evidence(&DATA).expect("Evidence");
        assert_eq!((device.calls(), kernel.entries()), (0, (2, 0)));
        attester.sealing_root().expect("asked").expect("a root");
        assert_eq!((device.calls(), kernel.entries()), (1, (3, 0)));
    });
}

#[test]
fn a_device_of_another_platform_beside_it_is_ambiguous() {
    isolated("a_device_of_another_platform_beside_it_is_ambiguous", || {
        let tee = SoftwareTee::shared().expect("a software TEE");
        let _kernel = FakeKernel::mount("tdx_guest", move |data| tee.chip().evidence(data, |_| ()));
        let (_device, _mounted) = device(|_| ());
        let refused = detect().map(|_| ()).expect_err("refused");
        assert!(matches!(refused, NoTee::Ambiguous { .. }), "{refused}");
    });
}
