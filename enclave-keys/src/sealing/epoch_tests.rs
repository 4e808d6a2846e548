use std::fs;

use provenance::binding::ReportData;
use provenance::evidence::Evidence;
use provenance::project::ProjectId;
use zeroize::Zeroizing;

use super::super::format::to_file;
use super::*;

/// An Attester that has a sealing root or none, and no Evidence.
#[derive(Clone)]
struct Guest {
    root: Option<([u8; 32], SealedUnder)>,
    failing: bool,
}

impl Guest {
    fn new() -> Self {
        let under = SealedUnder {
            guest_policy: Some(0x3_0000),
            kind: RootKind::VcekDerivedKey,
            measurement: RootMeasurement::from_bytes(&[0x11; 48]).expect("48 bytes"),
            platform: Platform::SevSnp,
            tcb: Some([4, 0, 0, 0, 0, 0, 0x18, 0xdb]),
        };
        Self { root: Some(([1; 32], under)), failing: false }
    }

    /// The same guest after a change, which gives it another root as hardware does.
    fn after(&self, change: impl FnOnce(&mut SealedUnder)) -> Self {
        let mut guest = self.clone();
        let (key, under) = guest.root.as_mut().expect("has a root");
        change(under);
        key[0] ^= 0xff;
        guest
    }
}

impl Attester for Guest {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        if self.failing {
            return Err(AttesterError::Device("no".to_owned()));
        }
        Ok(self.root.as_ref().map(|(key, under)| SealingRoot::new(Zeroizing::new(*key), under.clone())))
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        Err(AttesterError::Device("no Evidence here".to_owned()))
    }
}

const THEN: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).expect("a time")
}

fn begin(guest: &Guest, directory: &Path) -> Result<Epoch, EpochError> {
    Epoch::begin(guest, Some(directory), at(THEN))
}

/// Public key of one project in this epoch.
fn key(epoch: &Epoch) -> Vec<u8> {
    let project = ProjectId(Sha256Digest::of(b"project"));
    epoch.secret.project_key(epoch.number, &project).public().spki_der().to_vec()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn the_same_root_resumes_the_epoch() {
    let keys = directory();
    let first = begin(&Guest::new(), keys.path()).expect("begun");
    assert_eq!((first.number, &first.start, first.origin), (1, &EpochStart::First, KeyOrigin::SnpDerivedKey));
    let public = key(&first);
    let sealed = fs::read(keys.path().join("epoch.sealed")).expect("sealed");
    drop(first);
    for later in [1, 2] {
        let again = Epoch::begin(&Guest::new(), Some(keys.path()), at(THEN + later)).expect("begun");
        assert_eq!((again.number, &again.start), (1, &EpochStart::Resumed { created_at: at(THEN) }));
        assert_eq!((key(&again), again.origin), (public.clone(), KeyOrigin::SnpDerivedKey));
        assert_eq!(fs::read(keys.path().join("epoch.sealed")).expect("sealed"), sealed, "nothing is written");
    }
}

#[test]
fn another_root_begins_an_epoch_and_keeps_the_old_file() {
    type Change = fn(&mut SealedUnder);
    let measurement = |byte: u8| RootMeasurement::from_bytes(&[byte; 48]).expect("48 bytes");
    let (old_tcb, new_tcb) = (Some([4, 0, 0, 0, 0, 0, 0x18, 0xdb]), Some([4, 0, 0, 0, 0, 0, 0x19, 0xdb]));
    let cases: [(Change, RootChange); 4] = [
        (
            |under| under.measurement = RootMeasurement::from_bytes(&[0x22; 48]).expect("48 bytes"),
            RootChange::Measurement { was: measurement(0x11), is: measurement(0x22) },
        ),
        (
            |under| under.tcb = Some([4, 0, 0, 0, 0, 0, 0x19, 0xdb]),
            RootChange::Tcb { was: old_tcb, is: new_tcb },
        ),
        (
            |under| under.guest_policy = Some(0xb_0000),
            RootChange::GuestPolicy { was: Some(0x3_0000), is: Some(0xb_0000) },
        ),
        (
            |under| under.kind = RootKind::DangerousSoftware,
            RootChange::Kind { was: RootKind::VcekDerivedKey, is: RootKind::DangerousSoftware },
        ),
    ];
    for (change, expected) in cases {
        let keys = directory();
        let guest = Guest::new();
        let old = key(&begin(&guest, keys.path()).expect("begun"));
        let old_file = fs::read(keys.path().join("epoch.sealed")).expect("sealed");
        let changed = guest.after(change);
        let next = begin(&changed, keys.path()).expect("begun");
        assert_eq!(next.number, 2);
        let EpochStart::Next { earlier, changes, kept } = &next.start else { panic!("{:?}", next.start) };
        assert_eq!((earlier.epoch, changes.as_slice()), (1, [expected].as_slice()));
        assert_eq!(fs::read(kept).expect("kept"), old_file);
        let public = key(&next);
        assert_ne!(public, old);
        drop(next);
        // It goes on, and going back to the old root gives no old key: an epoch that ended has ended.
        let resumed = begin(&changed, keys.path()).expect("begun");
        assert!(matches!(resumed.start, EpochStart::Resumed { .. }));
        assert_eq!((resumed.number, key(&resumed)), (2, public.clone()));
        drop(resumed);
        let back = begin(&guest, keys.path()).expect("begun");
        assert_eq!(back.number, 3);
        assert!(![old, public].contains(&key(&back)));
    }
}

#[test]
fn every_change_at_once_is_named() {
    let keys = directory();
    drop(begin(&Guest::new(), keys.path()).expect("begun"));
    let next = begin(
        &Guest::new().after(|under| {
            under.measurement = RootMeasurement::from_bytes(&[0x22; 48]).expect("48 bytes");
            under.tcb = None;
        }),
        keys.path(),
    )
    .expect("begun");
    let EpochStart::Next { kept, .. } = &next.start else { panic!("{:?}", next.start) };
    assert_eq!(
        next.start.to_string(),
        format!(
            "new, after epoch 1 (measurement was {}, is {}; TCB was 04000000000018db, is none); the old file is {}",
            "11".repeat(48),
            "22".repeat(48),
            kept.display()
        )
    );
}

#[test]
fn another_chip_is_told_apart_from_damage() {
    let keys = directory();
    drop(begin(&Guest::new(), keys.path()).expect("begun"));
    let next = begin(&Guest::new().after(|_| ()), keys.path()).expect("begun");
    let EpochStart::Next { changes, .. } = &next.start else { panic!("{:?}", next.start) };
    assert!(matches!(changes.as_slice(), [RootChange::Root { .. }]), "{changes:?}");
}

#[test]
fn a_file_of_another_platform_begins_an_epoch() {
    let keys = directory();
    let (_, mut under) = Guest::new().root.expect("has a root");
    under.platform = Platform::SecureExecution;
    let root = SealingRoot::new(Zeroizing::new([1; 32]), under);
    fs::write(keys.path().join("epoch.sealed"), to_file(&root, 7, at(THEN))).expect("written");
    let next = begin(&Guest::new(), keys.path()).expect("begun");
    assert_eq!(next.number, 8);
    let EpochStart::Next { changes, .. } = &next.start else { panic!("{:?}", next.start) };
    let platform = RootChange::Platform { was: Platform::SecureExecution, is: Platform::SevSnp };
    assert_eq!(changes.as_slice(), [platform]);
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    let keys = directory();
    drop(begin(&Guest::new(), keys.path()).expect("begun"));
    let path = keys.path().join("epoch.sealed");
    let good = fs::read(&path).expect("sealed");
    let mut flipped = good.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let mut newer = good.clone();
    newer[19] = 2;
    let mut older = good.clone();
    older[19] = 0;
    let end = good.len();
    let damaged = [
        (vec![], SealedFileError::Truncated { wanted: 24, got: 0 }),
        (good[..end - 1].to_vec(), SealedFileError::Truncated { wanted: end, got: end - 1 }),
        ([&good[..], b"x"].concat(), SealedFileError::Trailing { extra: 1 }),
        (b"something else here".to_vec(), SealedFileError::Foreign { got: hex::encode(b"something else h") }),
        (newer, SealedFileError::NewerFormat { got: 2 }),
        (older, SealedFileError::OlderFormat { got: 0 }),
        (flipped, SealedFileError::Authentication),
    ];
    for (bytes, problem) in damaged {
        fs::write(&path, &bytes).expect("written");
        let refused = begin(&Guest::new(), keys.path()).map(|_| ()).expect_err("refused");
        assert_eq!(refused, EpochError::Damaged { path: path.clone(), problem });
        assert!(refused.to_string().contains("put the file back from a copy"), "{refused}");
        assert_eq!(fs::read(&path).expect("there"), bytes);
        let files = fs::read_dir(keys.path()).expect("there").count();
        assert_eq!(files, 2, "sealed file and lock");
    }
    fs::write(&path, &good).expect("written");
    assert!(matches!(begin(&Guest::new(), keys.path()).expect("begun").start, EpochStart::Resumed { .. }));
}

#[test]
fn after_the_last_epoch_there_is_none() {
    let keys = directory();
    let path = keys.path().join("epoch.sealed");
    let (key, under) = Guest::new().root.expect("has a root");
    let file = to_file(&SealingRoot::new(Zeroizing::new(key), under), MAX_EPOCH, at(THEN));
    fs::write(&path, file).expect("written");
    assert_eq!(begin(&Guest::new(), keys.path()).expect("resumed").number, MAX_EPOCH);
    let refused = begin(&Guest::new().after(|_| ()), keys.path()).map(|_| ()).expect_err("refused");
    assert_eq!(refused, EpochError::LastEpoch { path });
}

#[test]
fn without_a_directory_or_a_root_the_epoch_ends_with_the_boot() {
    let keys = directory();
    let kept = keys.path().join("keys");
    let none = Guest { root: None, ..Guest::new() };
    let cases = [
        (Epoch::begin(&Guest::new(), None, at(THEN)), EpochStart::NotKept),
        (Epoch::begin(&none, Some(&kept), at(THEN)), EpochStart::NoSealingRoot),
    ];
    let mut publics = std::collections::BTreeSet::new();
    for (epoch, start) in cases {
        let epoch = epoch.expect("begun");
        assert_eq!((epoch.number, &epoch.start, epoch.origin), (1, &start, KeyOrigin::BootEphemeral));
        publics.insert(key(&epoch));
    }
    assert_eq!(publics.len(), 2);
    assert!(!kept.exists(), "nothing is written");
}

#[test]
fn a_device_that_gives_no_root_is_no_reason_for_a_new_epoch() {
    let keys = directory();
    drop(begin(&Guest::new(), keys.path()).expect("begun"));
    let refused = begin(&Guest { failing: true, ..Guest::new() }, keys.path()).map(|_| ());
    assert_eq!(refused, Err(EpochError::Attester(AttesterError::Device("no".to_owned()))));
}

#[test]
fn a_sealed_epoch_is_not_left_for_another_where_the_root_is_gone() {
    let keys = directory();
    drop(begin(&Guest::new(), keys.path()).expect("begun"));
    let refused = begin(&Guest { root: None, ..Guest::new() }, keys.path()).map(|_| ()).expect_err("refused");
    assert_eq!(refused, EpochError::NoSealingRoot { path: keys.path().join("epoch.sealed") });
}

#[test]
fn a_root_of_another_platform_is_refused() {
    let keys = directory();
    let guest = Guest::new().after(|under| under.platform = Platform::SecureExecution);
    let refused = begin(&guest, keys.path()).map(|_| ());
    let expected = EpochError::Platform { expected: Platform::SevSnp, got: Platform::SecureExecution };
    assert_eq!(refused, Err(expected));
}

#[test]
fn two_processes_do_not_share_an_epoch() {
    let keys = directory();
    let first = begin(&Guest::new(), keys.path()).expect("begun");
    let refused = begin(&Guest::new(), keys.path()).map(|_| ()).expect_err("held");
    assert_eq!(refused, EpochError::Store(StoreError::InUse { directory: keys.path().to_owned() }));
    drop(first);
    begin(&Guest::new(), keys.path()).expect("free again");
}
