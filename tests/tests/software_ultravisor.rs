//! The software Ultravisor opens requests that are made for it, and its answers convince the requester alone.

use provenance::binding::ReportData;
use provenance::timestamp::Timestamp;
use sealwright_tests::software_tee::se::fixture::{ALL_FLAGS, Request, image_header};
use sealwright_tests::software_tee::se::host_keys::HostKeyDocuments;
use sealwright_tests::software_tee::se::{P521, Requester, SoftwareUltravisor};
use verifier::Endorsements;
use verifier::secure_execution::{
    AuthenticMeasurement, HostKeyAnchors, HostKeyError, HostKeyRoot, OwnRequest, ProtectionKey, SeError,
    authenticate_own_request,
};

const DATA: ReportData = ReportData([0x15; 64]);
const IMAGE: u8 = 0x66;

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

fn machine() -> SoftwareUltravisor {
    SoftwareUltravisor::new(&image_header(IMAGE)).expect("a machine")
}

fn own(requester: &Requester) -> OwnRequest {
    let key = ProtectionKey::new(requester.protection_key);
    OwnRequest::open(&requester.request, &key).expect("the key opens it")
}

fn judge(
    exchange: &[u8],
    image: u8,
    requester: &Requester,
    documents: &HostKeyDocuments,
    anchors: &HostKeyAnchors,
) -> Result<AuthenticMeasurement, SeError> {
    let extra = Endorsements {
        certificates: documents.certificates.to_vec(),
        crls: documents.crls.to_vec(),
        ..Endorsements::default()
    };
    let host_keys = [documents.document.clone()];
    let header = image_header(image);
    authenticate_own_request(exchange, &header, &own(requester), &host_keys, &extra, anchors, now())
}

#[test]
fn an_answer_is_authentic_for_its_requester_image_and_root_and_no_hardware() {
    let machine = machine();
    let documents = HostKeyDocuments::of(machine.host_key()).expect("documents");
    let anchors = HostKeyAnchors::vendor().dangerous_with_roots(&[documents.root]);
    let requester = Requester::new(ALL_FLAGS, &[machine.host_key()]).expect("a request");
    let answer = machine.attest(&requester.request, &DATA.0).expect("an answer");
    let exchange = answer.exchange(&requester.request, &DATA.0);
    let judged = |exchange: &[u8]| judge(exchange, IMAGE, &requester, &documents, &anchors);

    let authentic = judged(&exchange).expect("authentic");
    assert_eq!(authentic.root(), HostKeyRoot::Dangerous(documents.root));
    assert!(!authentic.root().is_hardware());
    let claims = authentic.claims();
    assert_eq!(claims.user_data(), DATA.0);
    assert_eq!(claims.image_host_key(), machine.host_key().hash());
    assert_eq!(claims.config_uid(), &answer.config_uid);
    assert_eq!(claims.nonce(), Some(&requester.nonce));

    let vendor = HostKeyAnchors::vendor();
    let got = judge(&exchange, IMAGE, &requester, &documents, &vendor);
    assert_eq!(got, Err(SeError::HostKey(HostKeyError::UnknownRoot { got: documents.root })));
    // Another image, user data after the measurement, another's request.
    for altered in [
        judge(&exchange, IMAGE + 1, &requester, &documents, &anchors),
        judged(&answer.exchange(&requester.request, &[0x16; 64])),
    ] {
        assert!(matches!(altered, Err(SeError::Measurement { .. })), "{altered:?}");
    }
    let other = Requester::new(ALL_FLAGS, &[machine.host_key()]).expect("a request");
    let got = judge(&exchange, IMAGE, &other, &documents, &anchors);
    assert!(matches!(got, Err(SeError::OtherRequest { .. })), "{got:?}");
    // A machine with a host key of its own making.
    let foreign = HostKeyDocuments::of(&P521::generate().expect("a key")).expect("documents");
    let anchors = HostKeyAnchors::vendor().dangerous_with_roots(&[foreign.root]);
    let got = judge(&exchange, IMAGE, &requester, &foreign, &anchors);
    let hash = machine.host_key().hash();
    assert_eq!(got, Err(SeError::UnknownSlot { slot: 0, got: hash }));
}

#[test]
fn one_of_several_slots_is_the_machines() {
    let machine = machine();
    let other = P521::generate().expect("a key");
    let requester = Requester::new(ALL_FLAGS, &[&other, machine.host_key()]).expect("a request");
    let answer = machine.attest(&requester.request, b"").expect("an answer");
    assert_eq!((answer.measurement.len(), answer.additional_data.len()), (64, 32 + 32 + 64 + 320));
}

#[test]
fn a_request_that_is_altered_or_for_another_machine_is_not_opened() {
    let machine = machine();
    let other = P521::generate().expect("a key");
    let refused = |request: &[u8]| format!("{:#}", machine.attest(request, b"").expect_err("refused"));
    let foreign = Requester::new(ALL_FLAGS, &[&other]).expect("a request").request;
    assert!(refused(&foreign).contains("no slot for host key"));
    let good = Requester::new(ALL_FLAGS, &[machine.host_key()]).expect("a request").request;
    let last = good.len() - 1;
    for (at, wanted) in [
        (0xe0 + 32, "slot does not open"),
        (0x0f, "request does not open"),
        (0x30, "request does not open"),
        (last, "request does not open"),
    ] {
        let mut altered = good.clone();
        altered[at] ^= 1;
        assert!(refused(&altered).contains(wanted), "byte {at:#x}: {}", refused(&altered));
    }
    assert!(refused(&good[..0x100]).contains("too short"));
    // Who knows the hash of a host key cannot wrap anything for it.
    let unwrapped = Request::to(ALL_FLAGS, &[machine.host_key().hash()]).seal();
    assert!(machine.attest(&unwrapped, b"").is_err());
}
