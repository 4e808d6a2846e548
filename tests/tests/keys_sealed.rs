//! Sealed epochs: the key service started again under the same and under another TCB or measurement, and what the
//! verifier says to the keys' Evidence.

use std::path::Path;

use enclave_keys::{
    EpochError, EpochStart, KeyService, ProjectKey, RootChange, SealedFileError, StartError, StoreError,
};
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::instance::KeyOrigin;
use provenance::project::ProjectId;
use provenance::timestamp::Timestamp;
use sealwright_tests::reference_values;
use sealwright_tests::release_fixture::{FixtureKey, instance_inputs};
use sealwright_tests::software_tee::{Product, SoftwareTee, Tcb};
use verifier::{Endorsements, Policy, appraise, authenticate};

fn tee() -> SoftwareTee {
    SoftwareTee::shared().expect("a software TEE")
}

fn newer_microcode() -> SoftwareTee {
    tee().with_tcb(Tcb { microcode: 0xdc, ..Tcb::of(Product::Milan) }).expect("a certificate")
}

fn start(tee: SoftwareTee, keys: &Path) -> KeyService {
    KeyService::start(Box::new(tee), instance_inputs(), Some(keys)).expect("started")
}

fn project() -> ProjectId {
    ProjectId(Sha256Digest::of(b"project"))
}

fn key(keys: &KeyService) -> ProjectKey {
    keys.project_key(&project(), Challenge::Nonce).expect("a key")
}

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

/// What a Relying Party says to a key's Evidence: the TCB that the report shows.
fn accepted_tcb(keys: &KeyService, key: &ProjectKey) -> String {
    let caller = FixtureKey::new().public;
    let text = reference_values::dangerous_policy(&tee(), keys.instance(), &[("ci".to_owned(), caller)]);
    let policy = Policy::parse(&text, "dangerous.toml").expect("a complete policy");
    let bundle = EvidenceBundle::parse(&key.evidence).expect("a bundle");
    let endorsements = Endorsements::default();
    let authentic =
        authenticate(&bundle.evidence, &endorsements, policy.anchors(), now()).expect("authentic");
    let result = appraise(authentic, &policy).expect("accepted");
    assert!(result.snp().is_some() && result.tdx().is_none());
    assert_eq!(Sha256Digest::of(&bundle.instance), Sha256Digest::of(keys.instance_document()));
    result.tcb()
}

#[test]
fn a_restart_under_the_same_measurement_and_tcb_keeps_every_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = start(tee(), directory.path());
    assert_eq!((first.instance().epoch, first.epoch_start()), (1, &EpochStart::First));
    assert_eq!(first.instance().key_origin, KeyOrigin::DangerousSoftware);
    let (before, boot) = (key(&first), first.instance().boot_id.clone());
    drop(first);
    let again = start(tee(), directory.path());
    assert!(matches!(again.epoch_start(), EpochStart::Resumed { .. }));
    assert_eq!(again.instance().epoch, 1);
    assert_ne!(again.instance().boot_id, boot, "it is another boot");
    let after = key(&again);
    assert_eq!(after.public, before.public);
    assert_ne!(after.evidence, before.evidence, "Evidence is of this boot");
    accepted_tcb(&again, &after);
}

#[test]
fn another_tcb_has_keys_of_its_own_with_evidence_of_their_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = start(tee(), directory.path());
    let before = key(&first);
    assert_eq!(accepted_tcb(&first, &before), "04.00.18.db");
    drop(first);

    let second = start(newer_microcode(), directory.path());
    assert_eq!(second.instance().epoch, 2);
    let EpochStart::Next { earlier, changes, .. } = second.epoch_start() else {
        panic!("{:?}", second.epoch_start())
    };
    let tcb = |microcode| Some([4, 0, 0, 0, 0, 0, 0x18, microcode]);
    assert_eq!(earlier.epoch, 1);
    assert_eq!(changes.as_slice(), [RootChange::Tcb { was: tcb(0xdb), is: tcb(0xdc) }]);
    let after = key(&second);
    assert_ne!(after.public, before.public);
    assert_eq!(accepted_tcb(&second, &after), "04.00.18.dc");
}

#[test]
fn another_guest_has_keys_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = key(&start(tee(), directory.path()));
    let other = start(tee().with_measurement([9; 48]), directory.path());
    let EpochStart::Next { changes, .. } = other.epoch_start() else { panic!("{:?}", other.epoch_start()) };
    assert!(matches!(changes.as_slice(), [RootChange::Measurement { .. }]), "{changes:?}");
    assert_ne!(key(&other).public, before.public);
    assert_eq!(other.health().launch_measurement, Some("09".repeat(48)));
}

#[test]
fn another_chip_cannot_unseal_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = key(&start(tee(), directory.path()));
    let chip = tee().new_chip(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a chip");
    let other =
        KeyService::start(Box::new(chip), instance_inputs(), Some(directory.path())).expect("started");
    let EpochStart::Next { changes, .. } = other.epoch_start() else { panic!("{:?}", other.epoch_start()) };
    assert!(matches!(changes.as_slice(), [RootChange::Root { .. }]), "{changes:?}");
    assert_ne!(key(&other).public, before.public);
}

#[test]
fn without_a_directory_each_boot_has_other_keys() {
    let boot = || KeyService::start(Box::new(tee()), instance_inputs(), None).expect("started");
    let (first, second) = (boot(), boot());
    assert_eq!((first.instance().epoch, first.epoch_start()), (1, &EpochStart::NotKept));
    assert_ne!(key(&first).public, key(&second).public);
}

#[test]
fn a_damaged_file_stops_the_start_and_a_second_service_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = || {
        KeyService::start(Box::new(tee()), instance_inputs(), Some(directory.path())).expect_err("refused")
    };
    let first = start(tee(), directory.path());
    let in_use = StoreError::InUse { directory: directory.path().to_owned() };
    assert_eq!(refused(), StartError::Epoch(EpochError::Store(in_use)));
    drop(first);
    let path = directory.path().join("epoch.sealed");
    let mut bytes = std::fs::read(&path).expect("sealed");
    *bytes.last_mut().expect("not empty") ^= 0x80;
    std::fs::write(&path, &bytes).expect("written");
    let problem = SealedFileError::Authentication;
    assert_eq!(refused(), StartError::Epoch(EpochError::Damaged { path: path.clone(), problem }));
    // Moved away, as the message says, a new epoch may begin.
    std::fs::rename(&path, directory.path().join("damaged")).expect("moved");
    assert_eq!(start(tee(), directory.path()).epoch_start(), &EpochStart::First);
}
