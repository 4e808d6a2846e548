//! Rules that no vector breaks: names, and what a certificate is for. Certificates are altered here without a new
//! signature, so each rule is asked by itself.

use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::*;

/// As in the integration tests: without vectors skipped with a message, but failing in CI.
fn test_pki(file: &str) -> Option<Vec<u8>> {
    let dir = std::env::var_os("SEALWRIGHT_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(dir.join("se/test-pki").join(file)) else {
        assert!(std::env::var_os("CI").is_none(), "no {file} below {}", dir.display());
        eprintln!("SKIPPED: no {file} below {}; set SEALWRIGHT_VECTORS", dir.display());
        return None;
    };
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    Some(base64::engine::general_purpose::STANDARD.decode(body).expect("base64"))
}

/// `der` with the only occurrence of `from` (hex) replaced.
fn replaced(der: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = hex::encode(der);
    assert_eq!(text.matches(from).count(), 1, "{from}");
    hex::decode(text.replace(from, to)).expect("hex")
}

fn judge_signing_key(der: &[u8]) -> Result<(), HostKeyError> {
    check_signing_key(&Certificate::parse(der, Profile::Ibm).expect("a certificate"))
}

#[test]
fn a_signing_key_signs_code_and_is_no_authority() {
    let (Some(good), Some(authority)) = (test_pki("ibm.crt"), test_pki("inter_ca.crt")) else { return };
    let which = CertificateName::SigningKey;
    assert_eq!(judge_signing_key(&good), Ok(()));
    assert_eq!(judge_signing_key(&authority), Err(HostKeyError::SigningKeyIsAuthority));
    // keyUsage: digitalSignature becomes nonRepudiation.
    let other = replaced(&good, "0603551d0f0101ff040403020780", "0603551d0f0101ff040403020740");
    assert_eq!(judge_signing_key(&other), Err(HostKeyError::Usage { which, wanted: "digital signatures" }));
    // No keyUsage: another extension of the same length in its place, which is not critical.
    let other = replaced(&good, "0603551d0f0101ff040403020780", "0603551d63010100040403020780");
    assert_eq!(judge_signing_key(&other), Err(HostKeyError::Usage { which, wanted: "digital signatures" }));
    // extendedKeyUsage: codeSigning becomes serverAuth; then another extension altogether.
    let other = replaced(&good, "06082b06010505070303", "06082b06010505070301");
    assert_eq!(judge_signing_key(&other), Err(HostKeyError::Usage { which, wanted: "code signing" }));
    let other = replaced(&good, "0603551d25", "0603551d63");
    assert_eq!(judge_signing_key(&other), Err(HostKeyError::Usage { which, wanted: "code signing" }));
}

#[test]
fn a_host_key_is_for_key_agreement() {
    let Some(good) = test_pki("host.crt") else { return };
    host_key(&good).expect("a host key");
    let wanted = HostKeyError::Usage { which: CertificateName::HostKey, wanted: "key agreement" };
    // keyUsage: keyAgreement becomes dataEncipherment; then no keyUsage at all.
    for (from, to) in [
        ("0603551d0f0101ff040403020308", "0603551d0f0101ff040403020310"),
        ("0603551d0f0101ff", "0603551d63010100"),
    ] {
        assert_eq!(host_key(&replaced(&good, from, to)).err(), Some(wanted.clone()));
    }
}

#[test]
fn the_hash_of_a_host_key_is_over_padded_coordinates() {
    let Some(document) = test_pki("host.crt") else { return };
    let (certificate, public) = host_key(&document).expect("a host key");
    let point = certificate.p521_point().expect("P-521");
    let (x, y) = point[1..].split_at(66);
    let padded = [&[0; 14], x, &[0; 14], y].concat();
    assert_eq!(public[..], padded[..]);
    assert_eq!(hash(&document), Ok(Sha256Digest::of(&padded)));
}

/// A Name in DER, of attributes under id-at with a string tag each.
fn name(attributes: &[(u8, u8, &str)]) -> DistinguishedName {
    let tlv = |tag: u8, contents: &[u8]| {
        let [high, low] = u16::try_from(contents.len()).expect("short").to_be_bytes();
        let length = match (high, low) {
            (0, 0..0x80) => vec![low],
            (0, _) => vec![0x81, low],
            _ => vec![0x82, high, low],
        };
        [&[tag], length.as_slice(), contents].concat()
    };
    let sets: Vec<u8> = attributes
        .iter()
        .flat_map(|(number, tag, value)| {
            let attribute = [tlv(6, &[0x55, 0x04, *number]), tlv(*tag, value.as_bytes())].concat();
            tlv(0x31, &tlv(0x30, &attribute))
        })
        .collect();
    DistinguishedName::parse(&tlv(0x30, &sets)).expect("a name")
}

const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const SUBJECT: [(u8, u8, &str); 6] = [
    (6, PRINTABLE, "US"),
    (8, UTF8, "New York"),
    (7, UTF8, "Poughkeepsie"),
    (10, UTF8, IBM),
    (11, UTF8, "IBM Z16 Host Key Signing Service"),
    (3, UTF8, IBM),
];

#[test]
fn a_signing_key_is_known_by_each_attribute_of_its_name() {
    assert!(names_signing_key(&name(&SUBJECT)));
    let with = |index: usize, value: &'static str| {
        let mut attributes = SUBJECT;
        attributes[index].2 = value;
        name(&attributes)
    };
    assert!(names_signing_key(&with(2, "Armonk")));
    assert!(names_signing_key(&with(4, "Key Signing Service")));
    for (index, value) in [
        (0, "DE"),
        (1, "Vermont"),
        (2, "Böblingen"),
        (3, "International Business Machines"),
        (4, "IBM Z Host Key Signing Services"),
        (5, "ibm-z-host-key"),
    ] {
        assert!(!names_signing_key(&with(index, value)), "{value}");
    }
    for index in 0..SUBJECT.len() {
        // serialNumber instead.
        let mut other = SUBJECT;
        other[index].0 = 5;
        assert!(!names_signing_key(&name(&other)));
        let mut fewer = SUBJECT.to_vec();
        let removed = fewer.remove(index);
        assert!(!names_signing_key(&name(&fewer)));
        // The same attribute twice, in place of another or beside it.
        fewer.extend([removed, removed]);
        assert!(!names_signing_key(&name(&fewer)));
        fewer.remove((index + 1) % 5);
        assert!(!names_signing_key(&name(&fewer)));
    }
}

#[test]
fn an_issuer_may_differ_in_order_string_type_and_locality_only() {
    let subject = name(&SUBJECT);
    let mut issuer = SUBJECT;
    issuer.reverse();
    issuer[5].1 = UTF8;
    assert!(means(&name(&issuer), &subject));
    issuer[3].2 = "Armonk";
    assert!(means(&name(&issuer), &subject));
    for (index, value) in
        [(1, "IBM Z15 Host Key Signing Service"), (3, "Endicott"), (0, "International Business Machines")]
    {
        let mut other = issuer;
        other[index].2 = value;
        assert!(!means(&name(&other), &subject), "{value}");
    }
    assert!(!means(&name(&issuer[..5]), &subject));
}

#[test]
fn the_pinned_root_is_hardware_and_no_other() {
    let pinned = Sha256Digest::from_hex(DIGICERT_TRUSTED_ROOT_G4).expect("a digest");
    let other = Sha256Digest::of(b"another root");
    let anchors = HostKeyAnchors::vendor();
    assert_eq!(accepted_root(&pinned, &anchors), Some(HostKeyRoot::DigiCertTrustedRootG4));
    assert_eq!(accepted_root(&other, &anchors), None);
    let anchors = anchors.dangerous_with_roots(&[other]);
    assert_eq!(accepted_root(&other, &anchors), Some(HostKeyRoot::Dangerous(other)));
    assert!(HostKeyRoot::DigiCertTrustedRootG4.is_hardware() && !HostKeyRoot::Dangerous(other).is_hardware());
}

#[test]
fn one_host_key_that_nobody_vouches_for_is_enough_to_be_no_hardware() {
    let (vendor, other) =
        (HostKeyRoot::DigiCertTrustedRootG4, HostKeyRoot::Dangerous(Sha256Digest::of(b"another root")));
    let key = |root| AuthenticHostKey {
        hash: Sha256Digest::of(b"a host key"),
        public: [0; PUBLIC_KEY_LEN],
        root,
        serial: String::new(),
    };
    let of_all = |roots: &[HostKeyRoot]| root_of_all(&roots.iter().copied().map(key).collect::<Vec<_>>());
    assert_eq!(of_all(&[vendor, vendor]), Some(vendor));
    assert_eq!(of_all(&[vendor, other]), Some(other));
    assert_eq!(of_all(&[other, vendor]), Some(other));
    assert_eq!(of_all(&[]), None);
}

#[test]
fn lists_of_authorities_are_signed_by_one_that_may_and_those_of_ibm_by_its_signing_key() {
    use CertificateName::{HostKey, Intermediate, Root, SigningKey};
    let files =
        ["root_ca.crt", "root_ca.crl", "inter_ca.crt", "inter_ca.crl", "ibm.crt", "ibm.crl", "host.crt"];
    let Some(files) = files.map(test_pki).into_iter().collect::<Option<Vec<_>>>() else { return };
    let [root, of_root, intermediate, of_intermediate, signing_key, of_signing_key, document] = &files[..]
    else {
        panic!("seven files")
    };
    let now = Timestamp::parse("2026-07-01T00:00:00Z").expect("a time");
    let judge = |which, certificate: &[u8], list: &[u8], subject_which, subject: &[u8]| {
        let parse = |der| Certificate::parse(der, Profile::Ibm).expect("a certificate");
        let (certificate, subject) = (&parse(certificate), &parse(subject));
        let issuer = Issuer { which, certificate, subject_which, subject };
        check_lists_of(&issuer, &[(list, Some(which))], now)
    };
    // keyUsage: keyCertSign and cRLSign becomes keyCertSign.
    let no_lists = |der: &[u8]| replaced(der, "0603551d0f0101ff040403020106", "0603551d0f0101ff040403020204");
    let error = || CertificateError::NotAuthority { issuer: IBM.to_owned(), what: "CRLs" };
    assert_eq!(judge(Root, root, of_root, Intermediate, intermediate), Ok(()));
    assert_eq!(
        judge(Root, &no_lists(root), of_root, Intermediate, intermediate),
        Err(HostKeyError::Crl { which: Root, error: error() })
    );
    assert_eq!(judge(Intermediate, intermediate, of_intermediate, SigningKey, signing_key), Ok(()));
    assert_eq!(
        judge(Intermediate, &no_lists(intermediate), of_intermediate, SigningKey, signing_key),
        Err(HostKeyError::Crl { which: Intermediate, error: error() })
    );
    // It has no cRLSign, and is no authority.
    assert_eq!(judge(SigningKey, signing_key, of_signing_key, HostKey, document), Ok(()));
}
