//! Challenges: on Secure Execution each answer is for one attestation request, and requests of sessions cannot starve
//! those of builds; elsewhere there are none.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use enclave_keys::{
    Attester, AttesterError, BUILD_REQUESTS_PER_SESSION, ChallengeKind, InstanceInputs, KeyError, KeyService,
    MAX_WAITING_SESSION_REQUESTS, OwnReportError, SecureExecutionHeader, StartError,
};
use provenance::binding::{Leaf, LeafBody, Nonce, ReportData};
use provenance::challenge::{AttestationRequest, Challenge};
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, EvidenceBundle, Platform};
use provenance::instance::KeyOrigin;
use provenance::project::ProjectId;
use provenance::se_exchange::ExchangeResponse;
use provenance::secure_execution::SecureExecutionEvidence;
use sealwright_tests::harness::supervise;
use sealwright_tests::release_fixture::{FixtureKey, Release, instance_inputs};
use sealwright_tests::software_tee::SoftwareTee;

/// Gives up only where something hangs; no test depends on it.
const HANGS: Duration = Duration::from_secs(120);

/// What the device has been asked, and whether it may answer.
#[derive(Default)]
struct State {
    asked: Vec<Vec<u8>>,
    held: bool,
    refusing: bool,
}

/// An Ultravisor without cryptography, which can be held. NOT HARDWARE.
#[derive(Clone, Default)]
struct Held(Arc<(Mutex<State>, Condvar)>);

impl Held {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().expect("no panic under the lock"));
        self.0.1.notify_all();
    }

    fn asked(&self) -> Vec<Vec<u8>> {
        self.0.0.lock().expect("no panic under the lock").asked.clone()
    }
}

impl Attester for Held {
    fn platform(&self) -> Platform {
        Platform::SecureExecution
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        panic!("there is no Evidence without a request")
    }

    fn answer_request(
        &self,
        request: &AttestationRequest,
        data: &ReportData,
    ) -> Result<Evidence, AttesterError> {
        let mut state = self.0.0.lock().expect("no panic under the lock");
        state.asked.push(request.parts().request().to_vec());
        let state = self.0.1.wait_while(state, |state| state.held).expect("no panic under the lock");
        if state.refusing {
            return Err(refusal());
        }
        let other = request.parts().request() == b"swapped";
        let answered = if other { b"another" } else { request.parts().request() };
        let response = ExchangeResponse::new(answered, &[1; 64], &[2; 64], &data.0, &[3; 16])?.encode();
        let report = SecureExecutionEvidence { response, header: vec![] }.encode();
        Ok(Evidence { platform: Platform::SecureExecution, report, endorsements: vec![] })
    }
}

fn refusal() -> AttesterError {
    AttesterError::Ultravisor { path: "/dev/uv".into(), call: "attest", code: 0x010a, reason: 0 }
}

fn inputs() -> InstanceInputs {
    let header = SecureExecutionHeader::parse(b"IBMSecEx and the rest").expect("a header");
    InstanceInputs { secure_execution_header: Some(header), ..instance_inputs() }
}

fn service() -> (Held, KeyService) {
    let device = Held::default();
    let keys = KeyService::start(Box::new(device.clone()), inputs(), None).expect("started");
    assert!(device.asked().is_empty(), "there is nobody to answer yet");
    (device, keys)
}

fn attestation_request(bytes: &[u8]) -> AttestationRequest {
    let length = u32::try_from(bytes.len()).expect("short");
    let words = [0x100, 0x40 + length, 0, 0, length, 0x40, 64, 0, 64, 0, 0, 0, 0, 0];
    let exchange = [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), bytes].concat();
    AttestationRequest::parse(&exchange).expect("a request")
}

fn asking(bytes: &[u8]) -> Challenge {
    Challenge::AttestationRequest(attestation_request(bytes))
}

fn project() -> ProjectId {
    FixtureKey::new().project("one").id()
}

fn session(keys: &KeyService, request: &[u8]) -> Result<Vec<u8>, KeyError> {
    keys.session_evidence([1; 32], Nonce([2; 32]), asking(request))
}

#[test]
fn evidence_of_sessions_keys_and_builds_answers_the_request_and_holds_the_header() {
    let (device, keys) = service();
    let project = project();
    let session = session(&keys, b"of a session").expect("Evidence");
    let key = keys.project_key(&project, asking(b"of a key")).expect("a key");
    let other = keys.project_key(&project, asking(b"of another")).expect("the same key");
    assert_eq!(key.public, other.public);
    assert_ne!(key.evidence, other.evidence, "it is for the one who asked");
    for (evidence, wanted) in [(session, &b"of a session"[..]), (key.evidence, b"of a key")] {
        let bundle = EvidenceBundle::parse(&evidence).expect("a bundle");
        let answer = SecureExecutionEvidence::parse(&bundle.evidence.report).expect("framed");
        assert_eq!(answer.header, b"IBMSecEx and the rest");
        let response = ExchangeResponse::parse(&answer.response).expect("a response");
        assert_eq!(response.request(), wanted);
        let leaf = Leaf::parse(&bundle.leaf).expect("a leaf");
        assert_eq!(response.user_data(), bundle.proof.report_data(&leaf).expect("a proof").0);
        assert_eq!(bundle.proof.tree_size, 1, "nothing else shares the answer");
    }
    assert_eq!(device.asked().len(), 5, "an answer each: session, and twice enclave CA and project");

    let release = Release::answering(&keys, "build", Some(attestation_request(b"of a build")));
    let released = keys.release(release.to_request()).expect("released");
    let bundle = EvidenceBundle::parse(&released.evidence).expect("a bundle");
    let statement_sha256 = Sha256Digest::of(&release.to_request().statement);
    let LeafBody::Build { statement_sha256: got, .. } = Leaf::parse(&bundle.leaf).expect("a leaf").body
    else {
        panic!("of a build");
    };
    assert_eq!(got, statement_sha256);
    assert_eq!(device.asked().last().expect("asked"), b"of a build");
    let health = keys.health();
    assert_eq!((health.launch_measurement, health.device_calls), (None, 6));
}

#[test]
fn a_challenge_of_the_other_kind_is_refused() {
    let (device, keys) = service();
    let wanted = ChallengeKind::AttestationRequest;
    let refused = KeyError::Challenge { platform: Platform::SecureExecution, wanted };
    assert_eq!(keys.session_evidence([1; 32], Nonce([2; 32]), Challenge::Nonce), Err(refused.clone()));
    assert_eq!(keys.project_key(&project(), Challenge::Nonce), Err(refused.clone()));
    let release = Release::answering(&keys, "build", None);
    assert_eq!(keys.release(release.to_request()), Err(refused));
    assert!(device.asked().is_empty());

    let tee = SoftwareTee::shared().expect("a software TEE");
    let keys = KeyService::start(Box::new(tee), instance_inputs(), None).expect("started");
    let refused = KeyError::Challenge { platform: Platform::SevSnp, wanted: ChallengeKind::Nonce };
    assert_eq!(session(&keys, b"request"), Err(refused.clone()));
    assert_eq!(keys.project_key(&project(), asking(b"request")), Err(refused.clone()));
    let release = Release::answering(&keys, "build", Some(attestation_request(b"request")));
    assert_eq!(keys.release(release.to_request()), Err(refused));
}

#[test]
fn without_the_header_of_the_image_there_is_no_start() {
    let started = KeyService::start(Box::new(Held::default()), instance_inputs(), None);
    assert_eq!(started.map(|_| ()), Err(StartError::NoHeader));
}

#[test]
fn a_request_that_does_not_open_is_its_makers_fault_and_an_answer_to_another_is_the_devices() {
    let (device, keys) = service();
    device.set(|state| state.refusing = true);
    assert_eq!(session(&keys, b"of a stranger"), Err(KeyError::AttestationRequest(refusal())));
    assert_eq!(keys.health().failing, None, "strangers cannot make the device look broken");
    device.set(|state| state.refusing = false);
    let digest = Sha256Digest::of;
    let swapped = OwnReportError::OtherRequest { expected: digest(b"swapped"), got: digest(b"another") };
    assert_eq!(session(&keys, b"swapped"), Err(KeyError::OwnReport(swapped)));
    assert!(keys.health().failing.is_some());
    session(&keys, b"good").expect("Evidence");
    assert_eq!(keys.health().failing, None);
}

#[test]
fn a_flood_of_sessions_is_refused_beyond_its_queue_and_builds_go_before_it() {
    const BUILDS: u32 = 2 * BUILD_REQUESTS_PER_SESSION + 1;
    let (device, keys) = service();
    device.set(|state| state.held = true);
    let spawn = |request: Vec<u8>| {
        let keys = keys.clone();
        std::thread::spawn(move || session(&keys, &request).map(|_| ()))
    };
    let first = spawn(b"first".to_vec());
    let wait = |what: &str, reached: &dyn Fn() -> bool| {
        supervise::wait_for(what, HANGS, || reached().then_some(()));
    };
    wait("the held call", &|| device.asked().len() == 1);
    let sessions: Vec<_> = (0..MAX_WAITING_SESSION_REQUESTS).map(|_| spawn(b"session".to_vec())).collect();
    wait("a full queue of sessions", &|| {
        keys.health().waiting_sessions == MAX_WAITING_SESSION_REQUESTS as u64
    });
    for _ in 0..10 {
        let refused = session(&keys, b"one more");
        assert!(matches!(refused, Err(KeyError::Busy { .. })), "{refused:?}");
    }
    let builds: Vec<_> = (0..BUILDS)
        .map(|number| {
            let keys = keys.clone();
            let request = Some(attestation_request(b"build"));
            std::thread::spawn(move || {
                let release = Release::answering(&keys, &format!("build-{number}"), request);
                keys.release(release.to_request()).map(|_| ())
            })
        })
        .collect();
    wait("all builds in their queue", &|| keys.health().waiting_builds == u64::from(BUILDS));
    device.set(|state| state.held = false);
    for thread in builds.into_iter().chain(sessions).chain([first]) {
        thread.join().expect("no panic").expect("whoever found a place in a queue gets Evidence");
    }

    let asked = device.asked();
    let of_builds: Vec<usize> =
        asked.iter().enumerate().filter(|(_, request)| *request == b"build").map(|(at, _)| at).collect();
    // The held call, then builds, with one session after each fourth.
    let wanted: Vec<usize> = (0..BUILDS).map(|n| (1 + n + n / BUILD_REQUESTS_PER_SESSION) as usize).collect();
    assert_eq!(
        of_builds, wanted,
        "all builds came last and were first, but for one session after some of them"
    );
    assert_eq!(asked.len(), 1 + BUILDS as usize + MAX_WAITING_SESSION_REQUESTS);
}
