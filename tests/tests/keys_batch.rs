//! Leaves that are ready together share one report, and strangers cannot starve builds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use enclave_keys::{DEVICE_INTERVAL, Health, KeyError, KeyService, MAX_WAITING_SESSIONS, SESSIONS_PER_BATCH};
use provenance::binding::{Leaf, Nonce};
use provenance::challenge::Challenge;
use provenance::evidence::EvidenceBundle;
use sealwright_tests::harness::supervise;
use sealwright_tests::release_fixture::{FixtureKey, Release, instance_inputs};
use sealwright_tests::software_tee::{ScriptedTee, SoftwareTee};

/// Gives up only where something hangs; no test depends on it.
const HANGS: Duration = Duration::from_secs(120);

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    supervise::wait_for(what, HANGS, || reached().then_some(()));
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).expect("a thread")
}

/// Device calls until the device is held: first report, enclave CA, one project, the held one.
const HELD: u64 = 4;

/// A service whose device is held in a call for a project's key, so that what comes now waits.
fn held() -> (ScriptedTee, KeyService, std::thread::JoinHandle<()>) {
    let tee = ScriptedTee::new(SoftwareTee::shared().expect("a software TEE"));
    let keys = KeyService::start(Box::new(tee.clone()), instance_inputs(), None).expect("started");
    assert_eq!(tee.calls(), 1, "the first report");
    keys.project_key(&FixtureKey::new().project("with the enclave CA").id(), Challenge::Nonce)
        .expect("a key");
    assert_eq!(tee.calls(), HELD - 1, "enclave CA and project");
    tee.hold();
    let first = {
        let keys = keys.clone();
        spawn(move || {
            drop(keys.project_key(&FixtureKey::new().project("first").id(), Challenge::Nonce).expect("a key"))
        })
    };
    wait_until("the held call", || tee.calls() == HELD);
    (tee, keys, first)
}

fn wait_for(keys: &KeyService, what: &str, reached: impl Fn(&Health) -> bool) {
    wait_until(what, || reached(&keys.health()));
}

#[test]
fn a_thousand_releases_that_wait_together_share_one_report() {
    let (tee, keys, first) = held();
    let releases: Vec<_> = (0..1000)
        .map(|n| {
            let keys = keys.clone();
            spawn(move || {
                let release = Release::of(&keys, &format!("build-{n}"));
                keys.release(release.to_request()).expect("released").evidence
            })
        })
        .collect();
    wait_for(&keys, "1000 waiting releases", |health| health.waiting_builds == 1000);
    tee.release();
    first.join().expect("no panic");

    let bundles: Vec<_> = releases
        .into_iter()
        .map(|thread| EvidenceBundle::parse(&thread.join().expect("no panic")).expect("a bundle"))
        .collect();
    assert_eq!(tee.calls(), HELD + 1, "one for all");
    let report = &bundles[0].evidence.report;
    let mut salts = std::collections::BTreeSet::new();
    let mut places = std::collections::BTreeSet::new();
    for bundle in &bundles {
        assert_eq!(bundle.evidence.report, *report);
        assert_eq!(bundle.proof.tree_size, 1000);
        let leaf = Leaf::parse(&bundle.leaf).expect("a leaf");
        assert_eq!(report[0x50..0x90], bundle.proof.report_data(&leaf).expect("a proof").0);
        salts.insert(leaf.salt);
        places.insert(bundle.proof.leaf_index);
    }
    assert_eq!((salts.len(), places.len()), (1000, 1000), "each leaf has its own salt and place");
}

#[test]
fn a_flood_of_sessions_is_refused_beyond_its_queue_and_builds_go_before_it() {
    let (tee, keys, first) = held();
    let sessions: Vec<_> = (0..MAX_WAITING_SESSIONS)
        .map(|_| {
            let keys = keys.clone();
            spawn(move || keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce))
        })
        .collect();
    wait_for(&keys, "a full queue of sessions", |health| {
        health.waiting_sessions == MAX_WAITING_SESSIONS as u64
    });
    for _ in 0..10 {
        let refused = keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce);
        assert!(matches!(refused, Err(KeyError::Busy { .. })), "{refused:?}");
    }
    let build = {
        let keys = keys.clone();
        spawn(move || {
            let release = Release::of(&keys, "build");
            keys.release(release.to_request()).expect("released").evidence
        })
    };
    wait_for(&keys, "a waiting build", |health| health.waiting_builds == 1);
    tee.release();
    first.join().expect("no panic");

    let proof = EvidenceBundle::parse(&build.join().expect("no panic")).expect("a bundle").proof;
    assert_eq!(proof.leaf_index, 0, "the build came last and is first");
    assert_eq!(proof.tree_size as usize, 1 + SESSIONS_PER_BATCH, "with a capped share of sessions beside it");

    for session in sessions {
        session.join().expect("no panic").expect("whoever found a place in the queue gets Evidence");
    }
    let batches = (MAX_WAITING_SESSIONS / SESSIONS_PER_BATCH) as u64;
    assert_eq!(tee.calls(), HELD + batches, "the build cost no call of its own");
}

/// Measures how long at least: however slow a machine is, it cannot be faster.
#[test]
fn calls_of_the_device_keep_their_distance() {
    let tee = ScriptedTee::new(SoftwareTee::shared().expect("a software TEE"));
    let keys = KeyService::start(Box::new(tee.clone()), instance_inputs(), None).expect("started");
    let began = Instant::now();
    for call in 0..10 {
        keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce).expect("Evidence");
        assert_eq!(tee.calls(), 2 + call);
        assert!(began.elapsed() >= DEVICE_INTERVAL * u32::try_from(call).expect("few"), "call {call}");
    }
}

#[test]
fn an_error_of_the_device_reaches_everybody_in_the_batch() {
    let (tee, keys, first) = held();
    let failing = enclave_keys::AttesterError::Device("no".to_owned());
    let waiting: Vec<_> = (0..5)
        .map(|n| {
            let keys = keys.clone();
            spawn(move || keys.release(Release::of(&keys, &format!("build-{n}")).to_request()))
        })
        .collect();
    wait_for(&keys, "five waiting releases", |health| health.waiting_builds == 5);
    let answer = failing.clone();
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    tee.script({
        let calls = Arc::clone(&calls);
        // The held call still succeeds.
        move |evidence| match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Ok(evidence),
            _ => Err(answer.clone()),
        }
    });
    tee.release();
    first.join().expect("no panic");
    for thread in waiting {
        assert_eq!(thread.join().expect("no panic"), Err(KeyError::Attester(failing.clone())));
    }
}

#[test]
fn an_attester_that_panics_leaves_nobody_waiting() {
    let (tee, keys, first) = held();
    tee.script(|_| panic!("a bug in an Attester"));
    tee.release();
    assert!(first.join().is_err(), "the one that waited for this call gets an error");
    let refused = keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce);
    assert_eq!(refused, Err(KeyError::Stopped));
}

#[test]
fn the_device_thread_ends_with_the_last_handle() {
    let tee = ScriptedTee::new(SoftwareTee::shared().expect("a software TEE"));
    let keys = KeyService::start(Box::new(tee.clone()), instance_inputs(), None).expect("started");
    assert_eq!(tee.handles(), 2);
    drop(keys);
    wait_until("the thread's handle to go", || tee.handles() == 1);
}
