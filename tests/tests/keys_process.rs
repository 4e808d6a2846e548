//! The key process and its client over a socket pair: what does not parse is refused, an instance outlives its
//! connections, and nothing is signed once the process has ended.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use enclave_keys::process::{KeyClient, KeyFailure, KeyProcess, MAX_ANSWER, MAX_OPEN_BYTES, MAX_REQUEST};
use enclave_keys::{ImageName, InstanceInputs, KeyRequest};
use provenance::binding::Nonce;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::dsse::IN_TOTO_PAYLOAD_TYPE;
use provenance::instance::InstanceDocument;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use provenance::request::Output;
use provenance::statement::{MAX_SUBJECTS, Subject};
use sealwright_tests::release_fixture::{Release, instance_inputs, statement_of};
use sealwright_tests::software_tee::{ScriptedTee, SoftwareTee};

/// Generous: two cores may be busy.
const LIMIT: Duration = Duration::from_secs(60);

fn process() -> KeyProcess {
    KeyProcess::new(Box::new(SoftwareTee::shared().expect("the software TEE opens")), None)
}

/// A connection that the process answers on a thread of its own.
fn connection(process: &KeyProcess) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let process = process.clone();
    std::thread::spawn(move || process.answer(theirs));
    ours
}

fn client(process: &KeyProcess, inputs: &InstanceInputs) -> Result<KeyClient, KeyFailure> {
    KeyClient::connect(connection(process), inputs, || ())
}

fn frame(number: u64, json: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + json.len()).expect("short");
    [&length.to_be_bytes()[..], &number.to_be_bytes(), json].concat()
}

/// Sends a frame and reads one.
fn exchange(stream: &mut UnixStream, bytes: &[u8]) -> (u64, serde_json::Value) {
    stream.write_all(bytes).expect("the process reads");
    answer(stream)
}

fn answer(stream: &mut UnixStream) -> (u64, serde_json::Value) {
    let (mut length, mut number) = ([0; 4], [0; 8]);
    stream.read_exact(&mut length).expect("an answer");
    stream.read_exact(&mut number).expect("a number");
    let mut json = vec![0; u32::from_be_bytes(length) as usize - 8];
    stream.read_exact(&mut json).expect("JSON");
    (u64::from_be_bytes(number), serde_json::from_slice(&json).expect("JSON"))
}

fn started(process: &KeyProcess) -> UnixStream {
    let mut stream = connection(process);
    let inputs = serde_json::to_vec(&instance_inputs()).expect("inputs");
    let (number, answer) = exchange(&mut stream, &frame(0, &inputs));
    assert_eq!(number, 0);
    assert!(answer["ok"]["document"].is_string(), "{answer}");
    stream
}

#[test]
fn a_release_over_the_socket_is_what_the_service_gives() {
    let keys = client(&process(), &instance_inputs()).expect("connects");
    let request = Release::of_instance(keys.instance(), "over-the-socket").to_request();
    let released = keys.release(request.clone()).expect("released");
    let key = keys.project_key(&request.project, Challenge::Nonce).expect("a key");
    released
        .provenance
        .authenticate(IN_TOTO_PAYLOAD_TYPE, &key.public)
        .expect("signed with the project's key");
    let health = keys.health().expect("health");
    assert_eq!(health.failing, None);
    assert!(health.device_calls >= 2, "{health:?}");
}

#[test]
fn an_instance_outlives_its_connections_and_no_other_takes_its_place() {
    let process = process();
    let first = client(&process, &instance_inputs()).expect("connects");
    let project = ProjectId(Sha256Digest::of(b"a project"));
    let (document, key) = (
        first.instance_document().to_vec(),
        first.project_key(&project, Challenge::Nonce).expect("a key").public,
    );
    drop(first);

    // A service that starts again does so at another time.
    let mut later = instance_inputs();
    later.started_at = provenance::timestamp::Timestamp::from_unix(4_000_000_000).expect("in range");
    let second = client(&process, &later).expect("connects");
    assert_eq!(second.instance_document(), document);
    assert_eq!(InstanceDocument::parse(&document).expect("a document"), *second.instance());
    assert_eq!(second.epoch_start(), "new, for this boot: nowhere to keep it");
    assert_eq!(second.project_key(&project, Challenge::Nonce).expect("a key").public, key);

    let mut other = instance_inputs();
    other.build_policy_sha256 = Sha256Digest::of(b"another policy");
    assert_eq!(client(&process, &other).expect_err("another instance"), KeyFailure::OtherInstance {});
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_is_answered() {
    let mut stream = started(&process());
    for (number, json) in [
        (1, &b"{"[..]),
        (2, b"\xff"),
        (3, br#""sign_anything""#),
        (4, br#"{"health":{},"more":1}"#),
        (5, br#"{"sign_tls":{"message":"AAAA","key":"AAAA"}}"#),
        (6, br#"{"session_evidence":{"exporter":"AAAA","nonce":"AAAA"}}"#),
        (7, br#"{"project_key":{"project":"../.."}}"#),
    ] {
        let (answered, answer) = exchange(&mut stream, &frame(number, json));
        assert_eq!(answered, number);
        assert!(answer["failed"]["protocol"]["message"].is_string(), "{number}: {answer}");
    }
    let (_, answer) = exchange(&mut stream, &frame(8, br#"{"sign_tls":{"message":"AAAA"}}"#));
    assert!(answer["failed"]["refused"]["message"].is_string(), "{answer}");
    let (_, answer) = exchange(&mut stream, &frame(9, br#"{"health":{}}"#));
    assert!(answer["ok"].is_object(), "{answer}");
}

#[test]
fn a_frame_with_a_wrong_length_ends_its_connection_and_no_other() {
    let process = process();
    let mut stream = started(&process);
    let too_long = u32::try_from(MAX_REQUEST + 9).expect("fits");
    for length in [0, 7, too_long, u32::MAX] {
        let mut broken = started(&process);
        broken.write_all(&length.to_be_bytes()).expect("the process reads");
        broken.write_all(&[0; 64]).ok();
        let mut rest = Vec::new();
        // Ended with unread bytes is told as a reset.
        let _ = broken.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{length}: {rest:?}");
    }
    let (_, answer) = exchange(&mut stream, &frame(1, br#"{"health":{}}"#));
    assert!(answer["ok"].is_object(), "{answer}");
}

#[test]
fn questions_that_wait_are_bounded_in_bytes() {
    let tee = ScriptedTee::new(SoftwareTee::shared().expect("the software TEE opens"));
    let mut stream = started(&KeyProcess::new(Box::new(tee.clone()), None));
    let question =
        KeyRequest::SessionEvidence { exporter: [1; 32], nonce: Nonce([2; 32]), challenge: Challenge::Nonce };
    let question = serde_json::to_vec(&question).expect("JSON");
    // White space at the end is no error.
    let mut longest = question.clone();
    longest.resize(MAX_REQUEST, b' ');
    let fit = u64::try_from(MAX_OPEN_BYTES / MAX_REQUEST).expect("few");
    tee.hold();
    for number in 1..=fit {
        stream.write_all(&frame(number, &longest)).expect("the process reads");
    }
    let (number, refused) = exchange(&mut stream, &frame(fit + 1, &question));
    assert_eq!(number, fit + 1);
    assert!(refused["failed"]["busy"]["retry_after_millis"].is_u64(), "{refused}");
    let (_, health) = exchange(&mut stream, &frame(fit + 2, br#"{"health":{}}"#));
    assert!(health["ok"].is_object(), "what does not wait is answered: {health}");

    tee.release();
    for _ in 1..=fit {
        let (number, answered) = answer(&mut stream);
        assert!(answered["ok"].is_object(), "{number}: {answered}");
    }
    // The last place is given back after its answer is sent, so a question may still find it taken.
    let mut again = (1..1000).map(|number| exchange(&mut stream, &frame(fit + 2 + number, &question)).1);
    assert!(again.any(|answered| answered["ok"].is_object()), "room again");
}

#[test]
fn an_answer_longer_than_is_read_is_a_failure_and_not_silence() {
    let keys = client(&process(), &instance_inputs()).expect("connects");
    let long = |length: usize| {
        let repository = format!("registry.example/{}", "a".repeat(length));
        let mut release = Release::of_instance(keys.instance(), "long");
        let Output::Image { names, .. } = &mut release.request.output else { panic!("an image") };
        *names = vec![format!("{repository}:1")];
        let subjects = [Subject::new(&repository, &release.image)];
        release.statement =
            statement_of(keys.instance(), &release.request, &release.caller.public, &subjects);
        let mut request = release.to_request();
        request.images = vec![ImageName { repository, digest: release.image }; MAX_SUBJECTS];
        keys.release(request).map(|released| released.images.len())
    };
    assert_eq!(long(1000), Ok(MAX_SUBJECTS));
    let refused = long(226_000).expect_err("an answer of more than 32 MiB");
    let KeyFailure::AnswerTooLong { got } = refused else { panic!("{refused}") };
    assert!(got > MAX_ANSWER as u64, "{got}");
    keys.health().expect("the connection goes on");
}

#[test]
fn inputs_that_are_none_start_nothing() {
    let process = process();
    let mut stream = connection(&process);
    let (_, answer) = exchange(&mut stream, &frame(0, br#"{"health":{}}"#));
    assert!(answer["failed"]["protocol"]["message"].is_string(), "{answer}");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    client(&process, &instance_inputs()).expect("an instance can still start");
}

#[test]
fn a_question_longer_than_is_read_is_not_sent_and_the_next_one_is_answered() {
    let keys = client(&process(), &instance_inputs()).expect("connects");
    let mut request = Release::of_instance(keys.instance(), "long").to_request();
    request.statement = vec![b' '; MAX_REQUEST];
    let refused = keys.release(request).expect_err("longer than a question");
    assert!(matches!(refused, KeyFailure::Protocol { .. }), "{refused}");
    keys.health().expect("the connection goes on");
}

#[test]
fn a_connection_ends_with_its_last_client() {
    let (ended, end) = mpsc::channel();
    let ended = move || ended.send(()).expect("somebody waits");
    let keys = KeyClient::connect(connection(&process()), &instance_inputs(), ended).expect("connects");
    let other = keys.clone();
    drop(keys);
    other.health().expect("one is left");
    drop(other);
    end.recv_timeout(LIMIT).expect("the end is told");
}

/// The input of a server's CertificateVerify over this transcript hash (RFC 8446 §4.4.3).
fn certificate_verify(transcript: &[u8]) -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", transcript].concat()
}

#[test]
fn the_key_of_the_certificate_signs_what_tls_signs_and_nothing_else() {
    use der::{Decode as _, Encode as _};
    let keys = client(&process(), &instance_inputs()).expect("connects");
    let certificate = x509_cert::Certificate::from_der(keys.tls_certificate()).expect("a certificate");
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().expect("encoded");
    let message = certificate_verify(&[7; 32]);
    let signature = keys.sign_tls(&message).expect("signed");
    let key = PublicKey::from_spki_der(&spki).expect("P-256");
    key.check_signature(&message, &signature).expect("its signature");
    let refused = keys.sign_tls(&certificate_verify(&[7; 31])).expect_err("no transcript hash");
    assert!(matches!(refused, KeyFailure::Refused { .. }), "{refused}");
}

#[test]
fn once_the_process_has_ended_every_question_says_so() {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let shut = theirs.try_clone().expect("a descriptor");
    let answering = process();
    std::thread::spawn(move || answering.answer(theirs));
    let (ended, end) = mpsc::channel();
    let keys = KeyClient::connect(ours, &instance_inputs(), move || ended.send(()).expect("somebody waits"))
        .expect("connects");
    shut.shutdown(std::net::Shutdown::Both).expect("shut");
    end.recv_timeout(LIMIT).expect("the client is told");
    let project = ProjectId(Sha256Digest::of(b"a project"));
    let stopped = KeyFailure::Stopped {};
    assert_eq!(keys.project_key(&project, Challenge::Nonce).expect_err("ended"), stopped);
    assert_eq!(keys.session_evidence([0; 32], Nonce([0; 32]), Challenge::Nonce).expect_err("ended"), stopped);
    assert_eq!(keys.sign_tls(b"message").expect_err("ended"), stopped);
    assert_eq!(keys.health().expect_err("ended"), stopped);
}
