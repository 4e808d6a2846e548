//! A folder of endorsements given beside Secure Execution Evidence: what is of other machines does no harm, and nothing is
//! left out silently. The host key is of the test PKI: NOT HARDWARE.

mod se_support;

use provenance::evidence::Evidence;
use provenance::secure_execution::SecureExecutionEndorsements;
use se_support::policy::{PolicyText, evidence};
use se_support::{
    ALL_FLAGS, Answer, Machine, cases, der, endorsements, judged_at, make_request, own, read, test_anchors,
};
use verifier::evidence::{AuthenticationError, TooManyEndorsements, authenticate_with_grounds};
use verifier::given::{MAX_CERTIFICATES, MAX_LISTS};
use verifier::reliance::Grounds;
use verifier::secure_execution::host_key::{self, CertificateName, MAX_SENT};
use verifier::secure_execution::{HostKeyError, SeError};
use verifier::{Class, Endorsements, Reason};

struct World {
    machine: Machine,
    answer: Answer,
    evidence: Evidence,
    /// Genuine, of a machine of IBM whose chain is not at hand.
    another_document: Vec<u8>,
    /// Signed with the key of the test PKI's signing key, which it does not name as its issuer: an error wherever it is
    /// looked at.
    wrong: Vec<u8>,
}

impl World {
    fn new() -> Option<Self> {
        let machine = Machine::new()?;
        let answer = machine.answer(ALL_FLAGS);
        let evidence = evidence(&machine, &answer);
        let dir = se_support::vectors()?;
        let cases = cases(&dir, "se-hkd");
        let case = cases.iter().find(|case| case["id"] == "se-pki-crl-wrong-issuer").expect("the case");
        let wrong = endorsements(&dir, case).crls.into_iter().find(|list| !machine.extra.crls.contains(list));
        let another_document = der(&read(&dir, "se/z16/hkd.crt"));
        Some(Self { machine, answer, evidence, another_document, wrong: wrong.expect("another list") })
    }

    fn judge(&self, given: &Endorsements) -> Result<(), SeError> {
        self.judge_sent(&self.evidence, given)
    }

    fn judge_sent(&self, evidence: &Evidence, given: &Endorsements) -> Result<(), SeError> {
        let policy = PolicyText::of(&self.machine).parse();
        let own_requests = [own(&self.answer.request)];
        let grounds = Grounds { own_requests: &own_requests, attestation_result: None };
        match authenticate_with_grounds(evidence, given, grounds, policy.anchors(), judged_at()) {
            Ok(_) => Ok(()),
            Err(AuthenticationError::SecureExecution(error)) => Err(error),
            Err(other) => panic!("not an error of Secure Execution: {other:?}"),
        }
    }

    /// The same Evidence with other endorsements sent.
    fn sending(&self, alter: impl FnOnce(&mut SecureExecutionEndorsements)) -> Evidence {
        let mut sent = SecureExecutionEndorsements::parse(&self.evidence.endorsements).expect("framed");
        alter(&mut sent);
        Evidence { endorsements: sent.encode(), ..self.evidence.clone() }
    }
}

fn given(certificates: &[&Vec<u8>], crls: &[&Vec<u8>]) -> Endorsements {
    let owned = |all: &[&Vec<u8>]| all.iter().map(|der| (*der).clone()).collect();
    Endorsements { certificates: owned(certificates), crls: owned(crls), ..Endorsements::default() }
}

/// Whether [`World::wrong`] was looked at.
fn is_wrong(answer: &Result<(), SeError>) -> bool {
    matches!(
        answer,
        Err(SeError::HostKey(HostKeyError::CrlIssuer { which: CertificateName::SigningKey, .. }))
    )
}

#[test]
fn documents_of_other_machines_do_no_harm_unless_the_answer_needs_them() {
    let Some(world) = World::new() else { return };
    let another = &world.another_document;
    assert_eq!(world.judge(&given(&[another], &[another])), Ok(()));
    let revoked = der(&read(&se_support::vectors().expect("vectors"), "se/test-pki/host_rev.crt"));
    assert_eq!(world.judge(&given(&[&revoked], &[])), Ok(()));
    // Alone, what is sent with the Evidence is this machine's and counts whole.
    let evidence = world.sending(|sent| sent.host_keys.push(another.clone()));
    let got = world.judge_sent(&evidence, &Endorsements::default());
    assert!(matches!(got, Err(SeError::HostKey(HostKeyError::Issuer { .. }))), "{got:?}");
    // The machine's own, given, is looked at as if it had been sent.
    let evidence = world.sending(|sent| sent.host_keys.clear());
    let none = world.judge_sent(&evidence, &given(&[another], &[]));
    let missing = SeError::UnknownSlot { slot: 0, got: world.machine.hash };
    assert_eq!(none, Err(missing));
    let folder = given(&[another, &world.machine.document], &[]);
    assert_eq!(world.judge_sent(&evidence, &folder), Ok(()));
    let folder = given(&[another, &world.machine.document], &[&world.wrong]);
    assert!(is_wrong(&world.judge_sent(&evidence, &folder)));
}

#[test]
fn a_document_of_either_host_key_that_is_given_counts() {
    let Some(mut world) = World::new() else { return };
    let revoked = der(&read(&se_support::vectors().expect("vectors"), "se/test-pki/host_rev.crt"));
    let hash = host_key::dangerous_unchecked(&revoked, judged_at()).expect("a document").hash();
    let both = given(&[&world.machine.document, &revoked], &[]);
    let error = SeError::HostKey(HostKeyError::Revoked { which: CertificateName::HostKey });
    // The image was unpacked with it.
    let good = world.machine.answer(ALL_FLAGS);
    world.answer.additional[..32].copy_from_slice(hash.as_bytes());
    world.evidence = self::evidence(&world.machine, &world.answer);
    assert_eq!(world.judge(&Endorsements::default()), Err(SeError::UnknownImageHostKey { got: hash }));
    assert_eq!(world.judge(&both), Err(error.clone()));
    // It can open the request.
    world.answer = Answer { request: make_request(ALL_FLAGS, &[world.machine.hash, hash]), ..good };
    world.evidence = self::evidence(&world.machine, &world.answer);
    let unknown = SeError::UnknownSlot { slot: 1, got: hash };
    assert_eq!(world.judge(&Endorsements::default()), Err(unknown));
    assert_eq!(world.judge(&both), Err(error));
}

#[test]
fn more_than_are_looked_at_is_an_error_and_the_last_one_counts() {
    let Some(world) = World::new() else { return };
    let good = &world.machine.extra.crls[0];
    let mut lists = vec![good; MAX_LISTS - 1];
    assert_eq!(world.judge(&given(&[], &lists)), Ok(()));
    lists.push(&world.wrong);
    assert!(is_wrong(&world.judge(&given(&[], &lists))));
    lists.push(good);
    let too_many = |what, got, limit| HostKeyError::TooMany(TooManyEndorsements { what, got, limit });
    let error = SeError::HostKey(too_many("revocation lists", MAX_LISTS + 1, MAX_LISTS));
    assert_eq!(world.judge(&given(&[], &lists)), Err(error.clone()));
    let reason = Reason::from(AuthenticationError::from(error));
    assert_eq!(reason.class(), Class::Endorsements);
    assert_eq!(reason.advice(), ["give the endorsements of this platform alone, from a folder of their own"]);
    let certificates = vec![&world.another_document; MAX_CERTIFICATES + 1];
    let error = too_many("certificates", MAX_CERTIFICATES + 1, MAX_CERTIFICATES);
    assert_eq!(world.judge(&given(&certificates, &[])), Err(SeError::HostKey(error)));

    // What was sent has limits of its own, beside which a full folder is looked at.
    let sending = |good: usize, wrong: usize| {
        world.sending(|sent| {
            sent.crls.extend(vec![sent.crls[0].clone(); good - sent.crls.len()]);
            sent.crls.extend(vec![world.wrong.clone(); wrong]);
        })
    };
    let full = given(&[], &[good; MAX_LISTS]);
    assert_eq!(world.judge_sent(&sending(MAX_SENT, 0), &full), Ok(()));
    assert!(is_wrong(&world.judge_sent(&sending(MAX_SENT - 1, 1), &full)));
    let sent = |what| SeError::TooManySent { what, got: MAX_SENT + 1 };
    assert_eq!(world.judge_sent(&sending(MAX_SENT, 1), &full), Err(sent("revocation lists")));
    let certificates = world.sending(|sent| sent.certificates.resize(MAX_SENT + 1, vec![]));
    assert_eq!(world.judge_sent(&certificates, &full), Err(sent("certificates")));
}

#[test]
fn a_document_alone_is_not_judged_by_some_of_many_lists_either() {
    let Some(world) = World::new() else { return };
    let Machine { document, extra, .. } = &world.machine;
    let judge = |extra: &Endorsements| {
        host_key::authenticate(document, extra, &test_anchors(), judged_at()).map(|_| ())
    };
    let limit = MAX_LISTS + MAX_SENT;
    let mut many = extra.clone();
    many.crls.resize(limit - 1, extra.crls[0].clone());
    assert_eq!(judge(&many), Ok(()));
    many.crls.push(world.wrong.clone());
    assert!(is_wrong(&judge(&many).map_err(SeError::HostKey)));
    many.crls.push(vec![]);
    let too_many = TooManyEndorsements { what: "revocation lists", got: limit + 1, limit };
    assert_eq!(judge(&many), Err(HostKeyError::TooMany(too_many)));
}
