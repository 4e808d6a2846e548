//! Secure Execution beside the crate `s390_pv` of s390-tools: recorded answers and host key documents get equal answers,
//! and each side opens, answers and judges what the other makes.

mod support;

#[path = "../../src/policy_text.rs"]
mod policy_text;

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private, Public};
use openssl::x509::X509;
use policy_text::PolicyText;
use provenance::digest::Sha256Digest;
use provenance::se_exchange::{ExchangeRequest, ExchangeResponse, HEADER_LEN};
use provenance::timestamp::Timestamp;
use s390_pv::attest::{AttestationFlags, AttestationMeasAlg, AttestationRequest, AttestationVersion};
use s390_pv::request::{ReqEncrCtx, Request as _, SymKey, decrypt_aead, derive_aes256_gcm_key};
use s390_pv::secret::{GuestSecret, RetrievedSecret};
use s390_pv::uv::{ListableSecretType, RetrievableSecret, RetrieveCmd, SecretEntry, SecretId, UvCmd as _};
use sealwright_peers::Verdict;
use sealwright_peers::attestation_request::NewAttestationRequest;
use sealwright_peers::s390::{self, Above, Answer, Claims};
use sealwright_peers::software_tee::se::fixture::{self, ALL_FLAGS};
use sealwright_peers::software_tee::se::host_keys::HostKeyDocuments;
use sealwright_peers::software_tee::se::machine::{P521, Requester, SoftwareUltravisor};
use sealwright_peers::vectors::{self, RecordedAnswer, RecordedDocument};
use support::Differs::{RefusedHere, RefusedThere};
use support::agree;
use verifier::Endorsements;
use verifier::secure_execution::request::{flag, offset};
use verifier::secure_execution::{
    self, HostKeyAnchors, OwnRequest, ProtectionKey, authenticate_own_request, host_key,
};

const DATA: [u8; 64] = [0x15; 64];

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

/// What the crate reads of a recorded or made answer; the exchange format is cut here, because the crate has none.
fn theirs(response: &[u8], header: &[u8], key: [u8; 32], host_key: &Sha256Digest) -> Result<Claims, String> {
    let parts = ExchangeResponse::parse(response).map_err(text)?;
    let answer = Answer {
        request: parts.request(),
        header,
        measurement: parts.measurement(),
        additional: parts.additional_data(),
        user_data: parts.user_data(),
        config_uid: parts.config_uid(),
    };
    s390::judge_answer(&answer, key, host_key)
}

/// The same claims as the verifier reads them.
fn claims(own: &secure_execution::Claims) -> Claims {
    Claims {
        image: own.image().as_bytes().to_vec(),
        nonce: own.nonce().copied(),
        image_host_key: Some(own.image_host_key().as_bytes().to_vec()),
        attestation_host_key: Some(own.attestation_host_key().as_bytes().to_vec()),
        secret_store_hash: own.secret_store_hash().map(|hash| hash.to_vec()),
        firmware_state: own.firmware_state().map(|state| state.to_vec()),
    }
}

fn answers() -> Option<Vec<(String, RecordedAnswer)>> {
    let answers = vectors::recorded_answers(&vectors::folder()?).expect("an index");
    assert!(!answers.is_empty());
    Some(answers)
}

fn genuine() -> Option<RecordedAnswer> {
    answers()?.into_iter().find(|(id, _)| id == "se-z16").map(|(_, answer)| answer)
}

fn both(
    answer: &RecordedAnswer,
    host_key: &Sha256Digest,
) -> (Result<Claims, String>, Result<Claims, String>) {
    let own = answer.claims_with_unchecked_host_keys().map(|own| claims(&own));
    (own, theirs(&answer.response, &answer.header, answer.key, host_key))
}

#[test]
fn recorded_answers_are_judged_and_read_alike() {
    let Some(answers) = answers() else { return };
    let mut accepted = 0;
    let judged = answers.iter().map(|(id, answer)| {
        let host_key = s390::host_key_hash(&answer.document).expect("a document");
        let (own, theirs) = both(answer, &host_key);
        if let (Ok(own), Ok(theirs)) = (&own, &theirs) {
            assert_eq!(own, theirs, "{id}");
            accepted += 1;
        }
        (id.clone(), own.map(|_| ()), theirs.map(|_| ()))
    });
    agree(judged.collect::<Vec<_>>(), &[]);
    assert!(accepted > 0, "nothing is accepted");
}

/// Bytes of an image's header that no measurement covers and that only the verifier holds to their form: reserved bytes,
/// number of slots and length of the encrypted part. Both look at magic, version and length.
const FORM_OF_HEADER: std::ops::Range<usize> = 0x1c..0x30;

#[test]
fn every_bit_of_a_recorded_answer_and_its_image_changes_both_verdicts_alike() {
    let Some(mut answer) = genuine() else { return };
    let host_key = s390::host_key_hash(&answer.document).expect("a document");
    let mut wrong = Vec::new();
    let mut judge = |answer: &RecordedAnswer, what: &str, at: usize, form: bool| {
        let (own, theirs) = both(answer, &host_key);
        let expected = if form { own.is_err() && theirs.is_ok() } else { own.is_ok() == theirs.is_ok() };
        if !expected {
            wrong.push(format!("{what} {at:#x}: verifier {own:?}, peer {theirs:?}"));
        }
    };
    for at in HEADER_LEN..answer.response.len() {
        for bit in 0..8 {
            answer.response[at] ^= 1 << bit;
            judge(&answer, "response", at, false);
            answer.response[at] ^= 1 << bit;
        }
    }
    for at in 0..answer.header.len() {
        for bit in 0..8 {
            answer.header[at] ^= 1 << bit;
            judge(&answer, "header", at, FORM_OF_HEADER.contains(&at));
            answer.header[at] ^= 1 << bit;
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// Certificates and lists to choose from, with the names of what was chosen.
struct Chosen<'a> {
    name: String,
    document: &'a [u8],
    root: &'a [u8],
    below: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
}

impl Chosen<'_> {
    /// Verdict here, at the wall clock: the crate knows no other time.
    fn own(&self) -> Verdict {
        let mut certificates = self.below.clone();
        certificates.push(self.root.to_vec());
        let given = Endorsements { certificates, crls: self.crls.clone(), ..Endorsements::default() };
        let roots = HostKeyAnchors::vendor().dangerous_with_roots(&[spki(self.root)]);
        host_key::authenticate(self.document, &given, &roots, now()).map(|_| ()).map_err(text)
    }

    /// Name, verdict here and there.
    fn judged(&self) -> (String, Verdict, Verdict) {
        let above = Above::write(self.root, &self.below, &self.crls);
        (self.name.clone(), self.own(), above.and_then(|above| above.judge(self.document)))
    }
}

fn spki(certificate: &[u8]) -> Sha256Digest {
    let key = X509::from_der(certificate).and_then(|root| root.public_key()).expect("a key");
    Sha256Digest::of(&key.public_key_to_der().expect("DER"))
}

fn recorded() -> Option<Vec<(String, RecordedDocument)>> {
    let documents = vectors::recorded_documents(&vectors::folder()?).expect("an index");
    assert!(!documents.is_empty());
    Some(documents)
}

#[test]
fn recorded_host_key_documents_are_judged_and_read_alike() {
    let Some(documents) = recorded() else { return };
    let judged = documents.iter().map(|(id, recorded)| {
        let [root, below @ ..] = &recorded.chain.certificates;
        let own = recorded.judge().expect("a recording");
        if let Ok(own) = &own {
            assert_eq!(own.hash(), s390::host_key_hash(&recorded.document).expect("a hash"), "{id}");
        }
        let theirs =
            Above::write(root, below, &recorded.chain.crls).and_then(|above| above.judge(&recorded.document));
        (id.clone(), own.map(|_| ()).map_err(text), theirs)
    });
    agree(judged.collect::<Vec<_>>(), &[]);
}

#[test]
fn documents_signing_keys_and_lists_of_every_recording_together_are_judged_alike() {
    let Some(documents) = recorded() else { return };
    let mut judged = Vec::new();
    for (id, one) in &documents {
        for (other, above) in &documents {
            let [root, intermediate, signing] = &above.chain.certificates;
            let all = Chosen {
                name: format!("{id} under {other}"),
                document: &one.document,
                root,
                below: vec![intermediate.clone(), signing.clone()],
                crls: above.chain.crls.clone(),
            };
            let fewer = |name: &str, left_out: usize| Chosen {
                name: format!("{} without {name} {left_out}", all.name),
                below: all.below.clone(),
                crls: all.crls.clone(),
                ..all
            };
            for left_out in 0..above.chain.crls.len() {
                let mut fewer = fewer("list", left_out);
                fewer.crls.remove(left_out);
                judged.push(fewer.judged());
            }
            for left_out in 0..2 {
                let mut fewer = fewer("certificate", left_out);
                fewer.below.remove(left_out);
                judged.push(fewer.judged());
            }
            judged.push(all.judged());
        }
    }
    agree(judged, &[]);
}

#[test]
fn two_signing_keys_at_hand_are_one_too_many_for_the_crate() {
    let Some(documents) = recorded() else { return };
    let find = |wanted: &str| documents.iter().find(|(id, _)| id == wanted).map(|(_, found)| found);
    let (one, other) = (find("se-pki-ok").expect("one"), find("se-pki-armonk").expect("another"));
    let [root, intermediate, signing] = &one.chain.certificates;
    let chosen = Chosen {
        name: "two".to_owned(),
        document: &one.document,
        root,
        below: vec![intermediate.clone(), signing.clone(), other.chain.certificates[2].clone()],
        crls: one.chain.crls.clone(),
    };
    // IBM has one for each generation of machines, and machines of two may answer.
    agree([chosen.judged()], &[("two", RefusedThere("Specify only one IBM Z signing key"))]);
}

/// A machine with documents of its own.
struct Setting {
    machine: SoftwareUltravisor,
    documents: HostKeyDocuments,
}

impl Setting {
    fn new() -> Self {
        let machine = SoftwareUltravisor::new(&fixture::image_header(0x66)).expect("a machine");
        let documents = HostKeyDocuments::of(machine.host_key()).expect("documents");
        Self { machine, documents }
    }

    fn given(&self) -> Endorsements {
        Endorsements {
            certificates: [vec![self.documents.document.clone()], self.documents.certificates.to_vec()]
                .concat(),
            crls: self.documents.crls.to_vec(),
            ..Endorsements::default()
        }
    }

    /// What both sides read of an answer to this request, which must be the same.
    fn judge(&self, request: &[u8], key: [u8; 32], response: &[u8]) -> Claims {
        let header = fixture::image_header(0x66);
        let roots = HostKeyAnchors::vendor().dangerous_with_roots(&[self.documents.root]);
        let own = OwnRequest::open(request, &ProtectionKey::new(key)).expect("an own request");
        let documents = [self.documents.document.clone()];
        let authentic =
            authenticate_own_request(response, &header, &own, &documents, &self.given(), &roots, now())
                .expect("authentic");
        let theirs = theirs(response, &header, key, &self.machine.host_key().hash()).expect("accepted");
        assert_eq!(claims(authentic.claims()), theirs);
        theirs
    }
}

/// Every set of what a request may ask for, as the crate and as the verifier say it; both always want the host keys.
fn flags() -> Vec<(AttestationFlags, u64)> {
    (0..4_u8)
        .map(|set| {
            let mut theirs = AttestationFlags::default();
            let mut own = flag::NONCE | flag::IMAGE_HOST_KEY_HASH | flag::ATTESTATION_HOST_KEY_HASH;
            theirs.set_image_phkh();
            theirs.set_attest_phkh();
            if set & 1 != 0 {
                theirs.set_secret_store_hash();
                own |= flag::SECRET_STORE_HASH;
            }
            if set & 2 != 0 {
                theirs.set_firmware_state();
                own |= flag::FIRMWARE_STATE;
            }
            (theirs, own)
        })
        .collect()
}

fn bits(flags: &AttestationFlags) -> [bool; 4] {
    [flags.image_phkh(), flags.attest_phkh(), flags.secret_store_hash(), flags.firmware_state()]
}

#[test]
fn requests_of_the_crate_are_opened_and_answered_here() {
    let setting = Setting::new();
    let other = P521::generate().expect("a key");
    let public = |key: &P521| -> PKey<Public> {
        let private = PKey::private_key_from_pem(key.pem()).expect("a key");
        PKey::public_key_from_der(&private.public_key_to_der().expect("DER")).expect("a key")
    };
    for (theirs, own) in flags() {
        for host_keys in [vec![setting.machine.host_key()], vec![&other, setting.machine.host_key(), &other]]
        {
            let mut made =
                AttestationRequest::new(AttestationVersion::One, AttestationMeasAlg::HmacSha512, theirs)
                    .expect("a request");
            host_keys.iter().for_each(|key| made.add_hostkey(public(key)));
            let context = ReqEncrCtx::new_aes_256(None, None, None).expect("a context");
            let request = made.encrypt(&context).expect("sealed");
            let key: [u8; 32] = context.prot_key().value().try_into().expect("32 bytes");

            let opened = OwnRequest::open(&request, &ProtectionKey::new(key)).expect("an own request");
            assert_eq!(opened.flags(), own);
            let confidential = made.confidential_data();
            assert_eq!(opened.nonce(), confidential.nonce().as_ref().map(|nonce| nonce.value()));
            let hashes: Vec<_> = host_keys.iter().map(|key| key.hash()).collect();
            assert_eq!(opened.host_key_hashes(), hashes);

            let answer = setting.machine.attest(&request, &DATA).expect("it opens");
            assert_eq!(answer.additional_data.len(), theirs.expected_additional_size() as usize);
            if host_keys.len() == 1 {
                let read = setting.judge(&request, key, &answer.exchange(&request, &DATA));
                assert_eq!(read.firmware_state.is_some(), own & flag::FIRMWARE_STATE != 0);
            }
        }
    }
}

/// The protection key that the crate's operations find in a request's slot, with the private host key.
fn unwrapped(request: &[u8], slot: usize, host_key: &PKey<Private>) -> [u8; 32] {
    let coordinate = |at: usize| BigNum::from_slice(&request[at..at + 80]).expect("a number");
    let group = EcGroup::from_curve_name(Nid::SECP521R1).expect("P-521");
    let (x, y) = (coordinate(offset::CUSTOMER_KEY), coordinate(offset::CUSTOMER_KEY + 80));
    let customer = EcKey::from_public_key_affine_coordinates(&group, &x, &y).expect("a point");
    let customer = PKey::from_ec_key(customer).expect("a key");
    let shared = SymKey::Aes256(derive_aes256_gcm_key(host_key, &customer).expect("a key"));
    let slot = &request[offset::SLOTS + 80 * slot..][..80];
    let opened = decrypt_aead(&shared, &[0; 12], &[], &slot[32..64], &slot[64..]).expect("it opens");
    // The key, and behind it the tag.
    opened.into_buf().value()[..32].try_into().expect("32 bytes")
}

#[test]
fn requests_made_here_are_opened_by_the_crate() {
    let setting = Setting::new();
    let private = PKey::private_key_from_pem(setting.machine.host_key().pem()).expect("a key");
    for (_, own) in flags() {
        let made = Requester::new(own, &[setting.machine.host_key()]).expect("a request");
        let opened = s390::open(&made.request, made.protection_key).expect("it opens");
        assert_eq!(opened.measurement_key, made.measurement_key);
        assert_eq!(opened.nonce, Some(made.nonce));
        let wanted = [true, true, own & flag::SECRET_STORE_HASH != 0, own & flag::FIRMWARE_STATE != 0];
        assert_eq!(bits(&opened.flags), wanted);
        assert_eq!(unwrapped(&made.request, 0, &private), made.protection_key);
        assert!(s390::open(&made.request, [0; 32]).is_err(), "another key");
    }
    let without_nonce = ALL_FLAGS & !flag::NONCE;
    let made = Requester::new(without_nonce, &[setting.machine.host_key()]).expect("a request");
    assert_eq!(s390::open(&made.request, made.protection_key).expect("it opens").nonce, None);
    let answer = setting.machine.attest(&made.request, &DATA).expect("it opens");
    setting.judge(&made.request, made.protection_key, &answer.exchange(&made.request, &DATA));
}

/// The command's own request, as it is kept in two files, and an answer whose measurement the crate computed.
#[test]
fn requests_of_the_command_are_opened_by_the_crate_and_its_measurement_convinces_here() {
    let setting = Setting::new();
    let host_key = setting.machine.host_key();
    let accepted = host_key.hash();
    let policy = PolicyText::of_own_requests(&setting.documents.root, &accepted, &accepted, "66");
    let made = NewAttestationRequest::make(&policy.parse(), &setting.given(), now()).expect("a request");
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["request", "key"].map(|name| folder.path().join(name));
    made.save(&files[0], &files[1]).expect("saved");
    let [exchange, key] = files.map(|file| std::fs::read(file).expect("a file"));
    let key: [u8; 32] = key.try_into().expect("32 bytes");
    let request = ExchangeRequest::parse(&exchange).expect("exchange format");

    let opened = s390::open(request.request(), key).expect("it opens");
    assert_eq!(bits(&opened.flags), [true, true, false, false]);
    assert_eq!(opened.flags.expected_additional_size(), request.additional_data_length());
    assert_eq!(AttestationMeasAlg::HmacSha512.exp_size(), request.measurement_length());
    let private = PKey::private_key_from_pem(host_key.pem()).expect("a key");
    assert_eq!(unwrapped(request.request(), 0, &private), key);

    let additional = [host_key.hash().as_bytes().as_slice(), host_key.hash().as_bytes()].concat();
    let header = fixture::image_header(0x66);
    let answer = Answer {
        request: request.request(),
        header: &header,
        measurement: &[],
        additional: &additional,
        user_data: &DATA,
        config_uid: &[0x44; 16],
    };
    let measurement =
        s390::measurement(&answer, &opened.measurement_key, opened.nonce.as_ref()).expect("measured");
    let parts: [&[u8]; 5] =
        [answer.request, &measurement, answer.additional, answer.user_data, answer.config_uid];
    setting.judge(request.request(), key, &fixture::exchange(&parts));
}

#[test]
fn documents_made_here_are_judged_alike() {
    let (setting, other) = (Setting::new(), Setting::new());
    let [signing, intermediate, root] = &setting.documents.certificates;
    let [_, _, other_root] = &other.documents.certificates;
    let chosen = |name: &str, document, root| Chosen {
        name: name.to_owned(),
        document,
        root,
        below: vec![intermediate.clone(), signing.clone()],
        crls: setting.documents.crls.to_vec(),
    };
    let judged = [
        chosen("good", &setting.documents.document, root),
        chosen("document of another", &other.documents.document, root),
        chosen("root of another", &setting.documents.document, other_root),
    ];
    let judged = judged.map(|chosen| chosen.judged());
    assert_eq!(judged[0].1, Ok(()));
    agree(judged, &[]);
}

#[test]
fn single_bits_of_documents_signing_keys_and_lists_are_judged_alike() {
    let Some(documents) = recorded() else { return };
    let (_, good) = documents.iter().find(|(id, _)| id == "se-pki-ok").expect("a good one");
    let [root, intermediate, signing] = &good.chain.certificates;
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1 << (at % 8);
        bytes
    };
    let whole = |name: String| Chosen {
        name,
        document: &good.document,
        root,
        below: vec![intermediate.clone(), signing.clone()],
        crls: good.chain.crls.clone(),
    };
    let above = Above::write(root, &whole(String::new()).below, &good.chain.crls).expect("written");
    let mut judged = Vec::new();
    for at in 0..good.document.len() {
        let document = flipped(&good.document, at);
        let chosen = Chosen { document: &document, ..whole(format!("document {at:#x}")) };
        judged.push((chosen.name.clone(), chosen.own(), above.judge(&document)));
    }
    // A few are enough here: the signature is of the same kind.
    for at in (0..signing.len()).step_by(7) {
        let mut chosen = whole(format!("signing key {at:#x}"));
        chosen.below[1] = flipped(signing, at);
        judged.push(chosen.judged());
    }
    let list = &good.chain.crls[2];
    for at in 0..list.len() {
        let mut chosen = whole(format!("list {at:#x}"));
        chosen.crls[2] = flipped(list, at);
        judged.push(chosen.judged());
    }
    // The parameter of the algorithm beside the signature, which is not signed: NULL with another tag.
    let tag = RefusedHere("revocation list signature algorithm is");
    agree(judged, &[("list 0x179", tag)]);
}

/// What the crate hands out of a retrievable secret of plain text that is stored as `stored`.
fn handed_out(stored: &[u8]) -> Vec<u8> {
    let kind = ListableSecretType::Retrievable(RetrievableSecret::PlainText);
    let length = u32::try_from(stored.len()).expect("short");
    let entry = SecretEntry::new(0, kind, SecretId::default(), length);
    let mut command = RetrieveCmd::from_entry(entry).expect("an entry");
    command.data().expect("a buffer").copy_from_slice(stored);
    RetrievedSecret::from_cmd(command).data().to_vec()
}

#[test]
fn retrievable_secrets_are_named_and_framed_alike() {
    let name = "sealwright-sealing-root-v1";
    let id = GuestSecret::name_to_id(name).expect("an id");
    assert_eq!(id.as_ref(), Sha256Digest::of(name.as_bytes()).as_bytes());
    for length in (0..70).chain([8190]) {
        let secret: Vec<u8> = (1..=u8::MAX).cycle().take(length).collect();
        let made = GuestSecret::plaintext(name, secret.clone().into()).expect("a secret");
        let stored = made.confidential();
        assert_eq!(sealwright_peers::retrieved_secret(stored), Some(secret.as_slice()), "{length}");
        assert_eq!(handed_out(stored), secret, "{length}");
    }
    // In another form the crate hands out all of it; here it is none.
    let framed = [&[0, 10][..], &[7; 10], &[0; 4]].concat();
    assert!(sealwright_peers::retrieved_secret(&framed).is_some());
    let (mut shorter, mut with_rest, longer) =
        (framed.clone(), framed.clone(), [&framed[..], &[0; 16]].concat());
    shorter[1] = 9;
    with_rest[15] = 1;
    for other in [shorter, with_rest, longer] {
        assert_eq!(sealwright_peers::retrieved_secret(&other), None);
        assert_eq!(handed_out(&other), other);
    }
}
