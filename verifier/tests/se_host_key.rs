//! The chain of a host key document, link by link, on the test PKI shaped like IBM's.

mod se_support;

use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use se_support::policy::PolicyText;
use se_support::{
    Machine, cases, der, endorsements, ibm_name, input, judged_at, read, test_anchors, test_root, vectors,
};
use verifier::Endorsements;
use verifier::secure_execution::host_key::{self, CertificateName};
use verifier::secure_execution::{
    HostKeyAnchors, HostKeyError, HostKeyRoot, NoHostKey, host_keys_for_request,
};
use verifier::x509::CertificateError;

#[test]
fn a_host_key_document_of_ibm_needs_ibm_s_own_chain() {
    let Some(dir) = vectors() else { return };
    let document = der(&read(&dir, "se/z16/hkd.crt"));
    let case = &cases(&dir, "se-hkd")[0];
    let mut extra = endorsements(&dir, case);
    let judge = |extra: &Endorsements| host_key::authenticate(&document, extra, &test_anchors(), judged_at());
    assert_eq!(
        judge(&extra),
        Err(HostKeyError::Issuer {
            got: ibm_name("Poughkeepsie", "IBM Z16 Host Key Signing Service"),
            wanted: ibm_name("Poughkeepsie", "IBM Z Host Key Signing Service"),
        })
    );
    extra.certificates =
        vec![der(&read(&dir, "se/roots/DigiCertTrustedG4CodeSigningRSA4096SHA3842021CA1.crt"))];
    let missing = HostKeyError::MissingCertificate { which: CertificateName::SigningKey };
    assert_eq!(judge(&extra), Err(missing));
}

/// Each certificate and CRL taken away or altered alone, and the time moved.
#[test]
fn every_link_of_the_chain_of_a_host_key_document_counts() {
    use CertificateName::{HostKey, Intermediate, Root, SigningKey};
    let Some(dir) = vectors() else { return };
    let cases = cases(&dir, "se-hkd");
    let case = cases.iter().find(|case| case["id"] == "se-pki-ok").expect("the case");
    let (document, good) = (der(&input(&dir, case, "hkd")), endorsements(&dir, case));
    let judge = |document: &[u8], extra: &Endorsements, anchors: &HostKeyAnchors, now| {
        host_key::authenticate(document, extra, anchors, now).expect_err("refused")
    };
    let judge_extra = |extra: &Endorsements| judge(&document, extra, &test_anchors(), judged_at());
    let issuer = "International Business Machines Corporation".to_owned();
    let signature = || CertificateError::Signature { issuer: issuer.clone() };

    for (index, which) in [Root, Intermediate, SigningKey].into_iter().enumerate() {
        let mut extra = good.clone();
        extra.certificates.remove(index);
        assert_eq!(judge_extra(&extra), HostKeyError::MissingCertificate { which });

        let mut extra = good.clone();
        *extra.certificates[index].last_mut().expect("a signature") ^= 1;
        assert_eq!(judge_extra(&extra), HostKeyError::Certificate { which, error: signature() });

        let mut extra = good.clone();
        extra.crls.remove(index);
        assert_eq!(judge_extra(&extra), HostKeyError::CrlMissing { which });

        let mut extra = good.clone();
        *extra.crls[index].last_mut().expect("a signature") ^= 1;
        assert_eq!(judge_extra(&extra), HostKeyError::Crl { which, error: signature() });

        let mut extra = good.clone();
        extra.crls[index].push(0);
        assert!(matches!(
            judge_extra(&extra),
            HostKeyError::MalformedCrl(CertificateError::Malformed { .. })
        ));

        // What is of no use beside what is good does no harm.
        let mut extra = good.clone();
        let mut altered = good.crls[index].clone();
        *altered.last_mut().expect("a signature") ^= 1;
        extra.crls.insert(0, altered);
        extra.certificates.insert(0, vec![0; 100]);
        host_key::authenticate(&document, &extra, &test_anchors(), judged_at()).expect("still good");

        // So does another key of the same name, before or behind it.
        let mut other = good.certificates[index].clone();
        let rsa = hex::decode("2a864886f70d010101").expect("hex");
        let key = other.windows(rsa.len()).position(|part| part == rsa).expect("an RSA key") + 60;
        other[key] ^= 1;
        for place in [0, 3] {
            let mut extra = good.clone();
            extra.certificates.insert(place, other.clone());
            host_key::authenticate(&document, &extra, &test_anchors(), judged_at()).expect("still good");
        }
    }
    let mut altered = document.clone();
    *altered.last_mut().expect("a signature") ^= 1;
    assert_eq!(
        judge(&altered, &good, &test_anchors(), judged_at()),
        HostKeyError::Certificate { which: HostKey, error: signature() }
    );
    assert_eq!(
        judge(&document, &good, &HostKeyAnchors::vendor(), judged_at()),
        HostKeyError::UnknownRoot { got: test_root() }
    );
    let early = Timestamp::parse("2024-03-20T00:00:00Z").expect("a time");
    assert!(matches!(
        judge(&document, &good, &test_anchors(), early),
        HostKeyError::Certificate { which: Root, error: CertificateError::NotYetValid { .. } }
    ));
    let late = Timestamp::parse("2389-01-01T00:00:00Z").expect("a time");
    assert!(matches!(
        judge(&document, &good, &test_anchors(), late),
        HostKeyError::Certificate { which: Root, error: CertificateError::Expired { .. } }
    ));
    // A certificate of the chain is no host key document.
    assert_eq!(judge(&good.certificates[2], &good, &test_anchors(), judged_at()), HostKeyError::KeyKind);
}

#[test]
fn a_request_is_made_once_for_each_host_key_of_the_documents_given() {
    let (Some(machine), Some(dir)) = (Machine::new(), vectors()) else { return };
    let policy = PolicyText::of(&machine);
    let for_request = |text: &PolicyText, documents: &[&Vec<u8>]| {
        let mut given = machine.extra.clone();
        given.certificates.extend(documents.iter().copied().cloned());
        host_keys_for_request(&text.parse(), &given, judged_at())
    };
    let document = &machine.document;
    let keys = for_request(&policy, &[document]).expect("a host key");
    let [key] = &keys[..] else { panic!("{keys:?}") };
    assert_eq!((key.hash(), key.root()), (machine.hash, HostKeyRoot::Dangerous(test_root())));
    // `openssl x509 -serial`.
    assert_eq!(key.serial(), "0522e1b864efc4f6e0806ef42122f647a0c31997");
    // Renewed: another document of the same key. And as many as are read.
    let renewed = der(&read(&dir, "se/test-pki/host_armonk.crt"));
    assert_eq!(for_request(&policy, &[document, &renewed]), Ok(keys.clone()));
    assert_eq!(for_request(&policy, &[document; 256]), Ok(keys));
    assert_eq!(for_request(&policy, &[document; 257]), Err(NoHostKey::TooMany { got: 257 }));
    // None that the policy accepts.
    let wanted = [Sha256Digest::of(b"one"), Sha256Digest::of(b"another")];
    let others = policy
        .with(&format!("[\"{}\"] # opens", machine.hash), &format!("[\"{}\", \"{}\"]", wanted[0], wanted[1]));
    let revoked = der(&read(&dir, "se/test-pki/host_rev.crt"));
    let got = host_key::dangerous_unchecked(&revoked, judged_at()).expect("a document").hash();
    let error = NoHostKey::OtherHostKeys {
        got: vec![machine.hash, got],
        wanted: wanted.to_vec(),
        line: others.line_of("attestation_host_keys"),
    };
    assert_eq!(
        error.to_string(),
        format!(
            "host key documents are of {}, {got}; the policy accepts answers from {}, {}",
            machine.hash, wanted[0], wanted[1]
        )
    );
    assert_eq!(for_request(&others, &[document, &revoked]), Err(error));
}

#[test]
fn no_single_byte_of_a_host_key_document_can_be_changed() {
    let Some(dir) = vectors() else { return };
    let cases = cases(&dir, "se-hkd");
    let case = cases.iter().find(|case| case["id"] == "se-pki-ok").expect("the case");
    let (document, extra) = (der(&input(&dir, case, "hkd")), endorsements(&dir, case));
    for offset in 0..document.len() {
        let mut altered = document.clone();
        altered[offset] ^= 1 << (offset % 8);
        let answer = host_key::authenticate(&altered, &extra, &test_anchors(), judged_at());
        assert!(answer.is_err(), "byte {offset:#x} altered and still authentic");
    }
}
