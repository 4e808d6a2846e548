//! Answers of a made-up Ultravisor to own requests, under host keys of the test PKI: what cannot be shown on one
//! recorded answer. NOT HARDWARE.

mod se_support;

use provenance::digest::Sha256Digest;
use se_support::{
    ALL_FLAGS, Answer, Machine, NONCE, UID, exchange, judged_at, make_request, own, test_anchors, test_root,
};
use verifier::secure_execution::exchange::Part;
use verifier::secure_execution::host_key::{self, CertificateName};
use verifier::secure_execution::request::flag;
use verifier::secure_execution::{
    ExchangeError, ExchangeResponse, HostKeyAnchors, HostKeyError, HostKeyRoot, OwnRequest, ProtectionKey,
    RequestError, SeError, authenticate_own_request,
};

#[test]
fn an_answer_to_an_own_request_is_authentic_whatever_the_request_asked_for() {
    let Some(machine) = Machine::new() else { return };
    let least = flag::IMAGE_HOST_KEY_HASH | flag::ATTESTATION_HOST_KEY_HASH;
    for optional in [0, flag::NONCE, flag::SECRET_STORE_HASH, flag::FIRMWARE_STATE, ALL_FLAGS] {
        let answer = machine.answer(least | optional);
        let authentic = machine.judge(&answer.response(), &own(&answer.request)).expect("authentic");
        assert_eq!(authentic.root(), HostKeyRoot::Dangerous(test_root()));
        let claims = authentic.claims();
        assert_eq!(claims.own_request(), Sha256Digest::of(&answer.request));
        assert_eq!(claims.image_host_key(), machine.hash);
        assert_eq!(claims.attestation_host_key(), machine.hash);
        assert_eq!(claims.config_uid(), &UID);
        assert_eq!(claims.user_data(), answer.user_data);
        assert_eq!(claims.nonce(), (optional & flag::NONCE != 0).then_some(&NONCE));
        assert_eq!(
            claims.secret_store_hash(),
            (optional & flag::SECRET_STORE_HASH != 0).then_some(&[0x51; 64])
        );
        assert_eq!(claims.firmware_state(), (optional & flag::FIRMWARE_STATE != 0).then_some(&[0x52; 320]));
    }
}

#[test]
fn a_request_that_another_key_can_open_is_refused() {
    let Some(machine) = Machine::new() else { return };
    // The holder of the second key learns the measurement key and can answer as any machine.
    let forger = Sha256Digest::of(b"a key without a document of IBM");
    let answer =
        Answer { request: make_request(ALL_FLAGS, &[machine.hash, forger]), ..machine.answer(ALL_FLAGS) };
    let error = machine.judge(&answer.response(), &own(&answer.request)).expect_err("refused");
    assert_eq!(error, SeError::UnknownSlot { slot: 1, got: forger });
    assert!(error.concerns_endorsements());
}

#[test]
fn both_host_keys_must_be_known() {
    let Some(machine) = Machine::new() else { return };
    let other = Sha256Digest::of(b"another host key");
    let with = |image: Sha256Digest, attestation: Sha256Digest| {
        let mut answer = machine.answer(ALL_FLAGS);
        answer.additional[..32].copy_from_slice(image.as_bytes());
        answer.additional[32..64].copy_from_slice(attestation.as_bytes());
        machine.judge(&answer.response(), &own(&answer.request)).expect_err("refused")
    };
    assert_eq!(with(other, machine.hash), SeError::UnknownImageHostKey { got: other });
    assert_eq!(with(machine.hash, other), SeError::OtherAttestationHostKey { got: other });
}

#[test]
fn a_host_key_document_that_is_refused_refuses_the_answer() {
    let Some(machine) = Machine::new() else { return };
    let answer = machine.answer(ALL_FLAGS);
    let (response, own) = (answer.response(), own(&answer.request));
    let answer_for = |documents: &[Vec<u8>], anchors: &HostKeyAnchors| {
        authenticate_own_request(
            &response,
            &machine.header,
            &own,
            documents,
            &machine.extra,
            anchors,
            judged_at(),
        )
    };
    let judge = |documents: &[Vec<u8>], anchors: &HostKeyAnchors| {
        answer_for(documents, anchors).expect_err("refused")
    };
    let document = machine.document.clone();
    assert_eq!(
        judge(std::slice::from_ref(&document), &HostKeyAnchors::vendor()),
        HostKeyError::UnknownRoot { got: test_root() }.into()
    );
    let error = judge(&[document.clone(), vec![0]], &test_anchors());
    assert!(matches!(
        error,
        SeError::HostKey(HostKeyError::Certificate { which: CertificateName::HostKey, .. })
    ));
    assert_eq!(judge(&[], &test_anchors()), SeError::UnknownSlot { slot: 0, got: machine.hash });
    answer_for(&vec![document.clone(); 256], &test_anchors()).expect("as many as are read");
    assert_eq!(judge(&vec![document; 257], &test_anchors()), SeError::TooManyHostKeys { got: 257 });
}

#[test]
fn an_answer_to_another_request_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let answer = machine.answer(ALL_FLAGS);
    let remembered = make_request(ALL_FLAGS & !flag::FIRMWARE_STATE, &[machine.hash]);
    let error = machine.judge(&answer.response(), &own(&remembered)).expect_err("refused");
    let (got, wanted) = (Sha256Digest::of(&answer.request), Sha256Digest::of(&remembered));
    assert_eq!(error, SeError::OtherRequest { got, wanted });
}

#[test]
fn lengths_are_those_that_the_request_asks_for() {
    let Some(machine) = Machine::new() else { return };
    let flags = ALL_FLAGS & !flag::FIRMWARE_STATE;
    for length in [0, 127, 129, 448] {
        let answer = Answer { additional: vec![0; length], ..machine.answer(flags) };
        let error = machine.judge(&answer.response(), &own(&answer.request)).expect_err("refused");
        assert_eq!(error, SeError::AdditionalDataLength { got: length, wanted: 128 });
    }
    let answer = machine.answer(flags);
    for length in [1, 63, 65] {
        let mut measurement = answer.measurement();
        measurement.resize(length, 0);
        let parts: [&[u8]; 5] =
            [&answer.request, &measurement, &answer.additional, &answer.user_data, &answer.config_uid];
        let error = machine.judge(&exchange(&parts), &own(&answer.request)).expect_err("refused");
        assert_eq!(error, SeError::MeasurementLength { got: length });
    }
}

/// A measurement without its nonce, or with the parts of user data and additional data moved, is another.
#[test]
fn what_a_measurement_covers_cannot_be_moved() {
    let Some(machine) = Machine::new() else { return };
    let good = machine.answer(ALL_FLAGS);
    let tag = hex::encode(&machine.header[0x400..]);
    let refused = |answer: &Answer, response: &[u8]| {
        let error = machine.judge(response, &own(&answer.request)).expect_err("refused");
        assert_eq!(error, SeError::Measurement { tag: tag.clone() });
    };
    let without_nonce = Answer { nonce: Vec::new(), ..good.clone() };
    refused(&without_nonce, &without_nonce.response());
    let nonce_in_user_data =
        Answer { nonce: Vec::new(), user_data: [good.user_data.as_slice(), &NONCE].concat(), ..good.clone() };
    let parts: [&[u8]; 5] = [
        &good.request,
        &nonce_in_user_data.measurement(),
        &good.additional,
        &good.user_data,
        &good.config_uid,
    ];
    refused(&good, &exchange(&parts));
}

#[test]
fn a_request_without_either_hash_is_no_own_request() {
    let hash = Sha256Digest::of(b"a host key");
    for (flag, which) in
        [(flag::IMAGE_HOST_KEY_HASH, "image"), (flag::ATTESTATION_HOST_KEY_HASH, "attestation")]
    {
        let flags = ALL_FLAGS & !flag;
        let request = make_request(flags, &[hash]);
        let error = OwnRequest::open(&request, &ProtectionKey::new(se_support::PROTECTION_KEY)).err();
        assert_eq!(error, Some(RequestError::HashNotWanted { flags, which }));
    }
    let request = make_request(ALL_FLAGS, &[hash, hash]);
    assert_eq!(own(&request).host_key_hashes(), [hash, hash]);
}

#[test]
fn each_part_of_a_response_has_its_place_and_length() {
    let parts: [&[u8]; 5] = [&[0x11; 16], &[0x12; 64], &[], &[], &[0x14; 16]];
    let good = exchange(&parts);
    let error = |bytes: &[u8]| ExchangeResponse::parse(bytes).expect_err("refused");
    let with = |part: Part, bytes: &'static [u8]| {
        let mut other = parts;
        other[part as usize] = bytes;
        exchange(&other)
    };
    ExchangeResponse::parse(&good).expect("a response");
    for part in [Part::Request, Part::Measurement, Part::ConfigUid] {
        assert_eq!(error(&with(part, &[])), ExchangeError::Missing { part, entry: part.entry() });
    }
    for got in [1, 15] {
        assert_eq!(error(&with(Part::ConfigUid, &[0; 15][..got])), ExchangeError::ConfigUidLength { got });
    }
    ExchangeResponse::parse(&with(Part::UserData, &[0; 256])).expect("as long as may be");
    for (part, bytes) in [(Part::UserData, &[0_u8; 257][..]), (Part::ConfigUid, &[0; 17])] {
        let got = u32::try_from(bytes.len()).expect("small");
        let (limit, entry) = (part.limit(), part.entry());
        assert_eq!(error(&with(part, bytes)), ExchangeError::TooLong { part, got, limit, entry });
    }
    // A part that is not there may have the offset at which it would be, and no other.
    let mut empty = good.clone();
    let end = 0x40 + 16 + 64;
    empty[0x2f] = end;
    empty[0x37] = end;
    assert_eq!(ExchangeResponse::parse(&empty), ExchangeResponse::parse(&good));
    empty[0x37] = end - 1;
    let (part, got) = (Part::UserData, u32::from(end - 1));
    let wanted = usize::from(end);
    assert_eq!(error(&empty), ExchangeError::PartOffset { part, got, wanted, entry: 0x30 });
}

/// Whatever comes from outside, the answer is an error and never a panic.
#[test]
fn cut_and_overwritten_bytes_are_refused_without_a_panic() {
    let Some(machine) = Machine::new() else { return };
    let answer = machine.answer(ALL_FLAGS);
    let (response, own) = (answer.response(), own(&answer.request));
    for at in 0..response.len() {
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut altered = response.clone();
            altered[at] = byte;
            if altered != response {
                machine.judge(&altered, &own).expect_err("refused");
            }
        }
        machine.judge(&response[..at], &own).expect_err("refused");
    }
    for index in 0..3 {
        let crl = &machine.extra.crls[index];
        for at in 0..crl.len() {
            let mut extra = machine.extra.clone();
            extra.crls[index] = crl[..at].to_vec();
            let cut = host_key::authenticate(&machine.document, &extra, &test_anchors(), judged_at());
            cut.expect_err("refused");
        }
    }
}
