//! The shipped device code of Secure Execution over a faked `/dev/uv`, down to ioctl(2), and the verifier's word on it.

use std::fs;
use std::path::Path;

use enclave_keys::{
    Attester, AttesterError, EpochStart, InstanceInputs, KeyService, SecureExecutionHeader, detect,
};
use provenance::binding::ReportData;
use provenance::challenge::{AttestationRequest, Challenge};
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;
use provenance::se_exchange::ExchangeResponse;
use provenance::secure_execution::SecureExecutionEvidence;
use provenance::timestamp::Timestamp;
use ring::aead;
use rustix::mount::{MountFlags, mount};
use sealwright_tests::release_fixture::{FixtureKey, instance_inputs};
use sealwright_tests::software_tee::fake_devices::FakeDevices;
use sealwright_tests::software_tee::fake_kernel::isolated;
use sealwright_tests::software_tee::ultravisor::{FakeUltravisor, Machine};
use sealwright_tests::vectors;
use verifier::secure_execution::{
    OwnRequest, ProtectionKey, dangerous_authenticate_with_unchecked_host_keys, host_key,
};

const DATA: ReportData = ReportData([7; 64]);
const PROTECTION_KEY: [u8; 32] = [0x17; 32];
const CONFIG_UID: [u8; 16] = [0x42; 16];
/// Flags of a request: the hashes of both host keys, and a nonce.
const FLAGS: u64 = 0x7000_0000_0000_0000;

fn machine(header: Vec<u8>, host_key_hash: [u8; 32]) -> Machine {
    Machine { protection_key: PROTECTION_KEY, header, host_key_hash, config_uid: CONFIG_UID, supported: 0x3f }
}

/// A guest of Secure Execution with this Ultravisor at the kernel's own paths.
fn mounted(fake: &FakeUltravisor) -> FakeDevices {
    let firmware = Path::new("/sys/firmware");
    mount("tmpfs", firmware, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).expect("mounted");
    fs::create_dir(firmware.join("uv")).expect("made");
    fs::write(firmware.join("uv/prot_virt_guest"), "1\n").expect("written");
    FakeDevices::mount(vec![("uv", Box::new(fake.clone()))])
}

/// The Attester that detection finds on this machine: nothing else opens the device.
fn found(machine: Machine) -> (Box<dyn Attester>, FakeDevices) {
    let devices = mounted(&FakeUltravisor::new(machine));
    (detect().expect("found"), devices)
}

/// An attestation request for the host key with this hash. All integers are big-endian.
fn attestation_request(host_key_hash: &[u8; 32]) -> Vec<u8> {
    let mut bytes = [0_u64.to_be_bytes(), 0x100_u64.rotate_left(32).to_be_bytes()].concat();
    bytes[12..16].copy_from_slice(&(0xe0_u32 + 80 + 80 + 16).to_be_bytes());
    bytes.extend([[0x11; 12].as_slice(), &[0; 11], &[1], &[0; 4], &80_u32.to_be_bytes()].concat());
    bytes.extend([FLAGS.to_be_bytes(), 1_u64.rotate_left(32).to_be_bytes()].concat());
    bytes.extend([[0x22; 160].as_slice(), host_key_hash, &[0x33; 48]].concat());
    let mut sealed = [[0x77; 64].as_slice(), &[0xab; 16]].concat();
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, &PROTECTION_KEY).expect("32 bytes");
    let nonce = aead::Nonce::assume_unique_for_key([0x11; 12]);
    aead::LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, aead::Aad::from(&bytes), &mut sealed)
        .expect("short enough");
    [bytes, sealed].concat()
}

/// The same in the exchange format, with the lengths that the answer needs.
fn exchange_request(request: &[u8]) -> Vec<u8> {
    let length = u32::try_from(request.len()).expect("small");
    let numbers = [0x100, 0x40 + length, 0, 0, length, 0x40, 64, 0, 64, 0, 0, 0, 0, 0];
    [b"pvattest".to_vec(), numbers.map(u32::to_be_bytes).concat(), request.to_vec()].concat()
}

#[test]
fn the_verifier_authenticates_what_the_device_answers() {
    isolated("the_verifier_authenticates_what_the_device_answers", || {
        let Some(dir) = vectors::folder() else { return };
        let read = |name: &str| fs::read(dir.join("se/z16").join(name)).expect("a vector");
        let now = Timestamp::parse("2026-07-01T00:00:00Z").expect("a time");
        let (header, document) = (read("se_header.bin"), der(&read("hkd.crt")));
        let hash = *host_key::dangerous_unchecked(&document, now).expect("a host key").hash().as_bytes();
        let (attester, _devices) = found(machine(header.clone(), hash));
        let request = attestation_request(&hash);
        let parsed = AttestationRequest::parse(&exchange_request(&request)).expect("a request");
        let evidence = attester.answer_request(&parsed, &DATA).expect("Evidence");

        let own = OwnRequest::open(&request, &ProtectionKey::new(PROTECTION_KEY)).expect("the key opens it");
        let judge = |response: &[u8]| {
            dangerous_authenticate_with_unchecked_host_keys(
                response,
                &header,
                &own,
                std::slice::from_ref(&document),
                now,
            )
        };
        let response =
            |evidence: &Evidence| SecureExecutionEvidence::parse(&evidence.report).expect("framed").response;
        let authentic = judge(&response(&evidence)).expect("authentic");
        assert_eq!(authentic.claims().user_data(), DATA.0);
        assert_eq!(*authentic.claims().config_uid(), CONFIG_UID);
        let other = attester.answer_request(&parsed, &ReportData([8; 64])).expect("Evidence");
        let mut mixed = response(&evidence);
        let user_data = mixed.len() - 16 - 64;
        mixed[user_data..user_data + 64].copy_from_slice(&[8; 64]);
        judge(&mixed).expect_err("user data of another answer");
        judge(&response(&other)).expect("authentic");
    });
}

/// A file of one PEM block, or of DER, as DER.
fn der(bytes: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN ")) else {
        return bytes.to_vec();
    };
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
}

#[test]
fn a_request_that_the_ultravisor_cannot_open_is_refused_with_its_codes() {
    isolated("a_request_that_the_ultravisor_cannot_open_is_refused_with_its_codes", || {
        let (attester, _devices) = found(machine(vec![0; 1040], [5; 32]));
        let refused = |request: &[u8]| {
            let parsed = AttestationRequest::parse(&exchange_request(request)).expect("a request");
            attester.answer_request(&parsed, &DATA)
        };
        let request = attestation_request(&[5; 32]);
        let good = refused(&request).expect("Evidence");
        let good = SecureExecutionEvidence::parse(&good.report).expect("framed").response;
        assert_eq!(ExchangeResponse::parse(&good).expect("a response").measurement().len(), 64);
        for at in 0..request.len() {
            let mut altered = request.clone();
            altered[at] ^= 1;
            let path = || "/dev/uv".into();
            let wanted = AttesterError::Ultravisor { path: path(), call: "attest", code: 0x010a, reason: 0 };
            assert_eq!(refused(&altered), Err(wanted), "byte {at}");
        }
    });
}

/// The key service of the guest that detection finds, its epoch in `directory`.
fn started(directory: &Path) -> KeyService {
    let header = SecureExecutionHeader::parse(b"IBMSecEx and the rest").expect("a header");
    let inputs = InstanceInputs { secure_execution_header: Some(header), ..instance_inputs() };
    let attester = detect().expect("found");
    assert_eq!(attester.platform(), Platform::SecureExecution);
    KeyService::start(attester, inputs, Some(directory)).expect("started")
}

#[test]
fn detection_finds_the_guest_and_seals_its_keys_under_the_owners_secret() {
    isolated("detection_finds_the_guest_and_seals_its_keys_under_the_owners_secret", || {
        let directory = tempfile::tempdir().expect("a directory");
        let fake = FakeUltravisor::new(machine(vec![0; 1040], [5; 32]));
        let _devices = mounted(&fake);
        let boot = tempfile::tempdir().expect("a directory");
        assert_eq!(started(boot.path()).instance().key_origin, KeyOrigin::BootEphemeral);

        // The list takes a second page.
        for other in 0..99 {
            fake.keep([other; 32], vec![other; 48]);
        }
        assert_eq!(started(boot.path()).instance().key_origin, KeyOrigin::BootEphemeral);
        let id = *Sha256Digest::of(b"sealwright-sealing-root-v1").as_bytes();
        // 46 bytes, which with their length are three blocks.
        fake.keep(id, [[0, 46].as_slice(), &[7; 46]].concat());
        let project = FixtureKey::new().project("one").id();
        let key = |keys: &KeyService| {
            let request = AttestationRequest::parse(&exchange_request(&attestation_request(&[5; 32])));
            let challenge = Challenge::AttestationRequest(request.expect("a request"));
            keys.project_key(&project, challenge).expect("a key").public
        };
        let first = started(directory.path());
        assert_eq!(first.instance().key_origin, KeyOrigin::SecureExecutionRetrievableSecret);
        assert_eq!(first.instance().epoch, 1);
        let before = key(&first);
        drop(first);
        let again = started(directory.path());
        assert!(matches!(again.epoch_start(), EpochStart::Resumed { .. }), "{}", again.epoch_start());
        assert_eq!(key(&again), before);
    });
}
