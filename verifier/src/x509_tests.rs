use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::*;

const FROM: i64 = 1_000_000;
const TO: i64 = 2_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).expect("in range")
}

/// Parameters of an authority's certificate, or with `authority` false of another.
fn params(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let moment = |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs());
    (params.not_before, params.not_after) = (moment(FROM), moment(TO));
    params.serial_number = Some(SerialNumber::from_slice(&[0x12, 0x34]));
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn parse(der: &[u8]) -> Certificate<'_> {
    Certificate::parse(der, Profile::Intel).expect("a certificate")
}

/// DER of an authority's certificate, and of one below it.
fn pair(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, Vec<u8>) {
    let mut above = params("above", true);
    change(&mut above);
    let above_key = key();
    let authority = above.self_signed(&above_key).expect("signed").der().to_vec();
    let issuer = Issuer::from_params(&above, &above_key);
    let below = params("below", false).signed_by(&key(), &issuer).expect("signed").der().to_vec();
    (authority, below)
}

fn issued(change: impl FnOnce(&mut CertificateParams)) -> Result<(), CertificateError> {
    let (above, below) = pair(change);
    parse(&below).check_issued_by(&parse(&above))
}

#[test]
fn only_an_authority_that_may_sign_certificates_issues_them() {
    let refused = |issued| {
        let error = CertificateError::NotAuthority { issuer: "above".to_owned(), what: "certificates" };
        assert_eq!(issued, Err(error));
    };
    assert_eq!(issued(|_| ()), Ok(()));
    assert_eq!(issued(|above| above.key_usages.clear()), Ok(()), "usage is not restricted");
    refused(issued(|above| above.key_usages = vec![KeyUsagePurpose::CrlSign]));
    refused(issued(|above| above.key_usages = vec![KeyUsagePurpose::DigitalSignature]));
    refused(issued(|above| above.is_ca = IsCa::NoCa));
    refused(issued(|above| above.is_ca = IsCa::ExplicitNoCa));
}

#[test]
fn an_issuer_is_the_one_that_is_named_and_has_signed() {
    let (above, below) = pair(|_| ());
    let (namesake, _) = pair(|_| ());
    let error = parse(&below).check_issued_by(&parse(&namesake));
    assert_eq!(error, Err(CertificateError::Signature { issuer: "above".to_owned() }));
    let (other, _) = pair(|other| *other = params("another", true));
    let error = parse(&below).check_issued_by(&parse(&other));
    let (got, wanted) = ("above".to_owned(), "another".to_owned());
    assert_eq!(error, Err(CertificateError::Issuer { got, wanted }));
    assert_eq!(parse(&above).check_issued_by(&parse(&above)), Ok(()), "a root by itself");
    assert_eq!(parse(&below).serial_hex(), "1234");
}

/// `Intel SGX Root CA`, from where [`crate::roots`] says that Intel publishes it.
const INTEL_ROOT: &str = "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwg\
    U0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ\
    BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNV\
    BAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI\
    zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJ\
    BK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmlj\
    YXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzkn\
    BqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWG\
    f/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=";

#[test]
fn a_published_root_is_issued_by_itself_and_by_no_namesake() {
    let root = STANDARD.decode(INTEL_ROOT).expect("base64");
    let check = |below: &[u8], above: &[u8]| parse(below).check_issued_by(&parse(above));
    let altered = |at: usize| {
        let mut altered = root.clone();
        altered[at] ^= 1;
        altered
    };
    // Of the same name with another key, and with another signature.
    let point = parse(&root).p256_point().expect("a P-256 key");
    let key = root.windows(65).position(|window| window == point).expect("the key") + 64;
    let refused = Err(CertificateError::Signature { issuer: "Intel SGX Root CA".to_owned() });
    for namesake in [altered(key), altered(root.len() - 1)] {
        assert_eq!(check(&namesake, &namesake), refused);
    }
    assert_eq!(check(&root, &altered(key)), refused);
    assert_eq!(check(&altered(root.len() - 1), &root), refused);
    assert_eq!(check(&root, &root), Ok(()));
}

#[test]
fn each_vendors_algorithms_are_named_where_another_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let der = params("Ed25519", true).self_signed(&key).expect("signed").der().to_vec();
    for (profile, wanted) in [
        (Profile::Amd, "RSASSA-PSS with SHA-384, MGF1-SHA-384, salt length 48"),
        (Profile::Intel, "ECDSA with SHA-256"),
        (Profile::Enclave, "ECDSA with SHA-256"),
        (Profile::Ibm, "RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512"),
        (
            Profile::TimeStamping,
            "RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512, or ECDSA with SHA-256 or SHA-384",
        ),
    ] {
        let got = "300506032b6570".to_owned();
        let refused = Certificate::parse(&der, profile).map(|_| ());
        assert_eq!(refused, Err(CertificateError::SignatureAlgorithm { got, wanted }), "{profile:?}");
    }
}

#[test]
fn the_first_and_the_last_second_are_valid() {
    let (above, _) = pair(|_| ());
    let certificate = parse(&above);
    let (not_before, not_after) = (at(FROM), at(TO));
    assert_eq!(certificate.validity(), (not_before, not_after));
    let check = |seconds| certificate.check_validity(at(seconds));
    assert_eq!((check(FROM), check(TO)), (Ok(()), Ok(())));
    let now = at(FROM - 1);
    assert_eq!(check(FROM - 1), Err(CertificateError::NotYetValid { not_before, now }));
    let now = at(TO + 1);
    assert_eq!(check(TO + 1), Err(CertificateError::Expired { not_after, now }));
}

fn extended(extensions: Vec<CustomExtension>, profile: Profile) -> Result<usize, CertificateError> {
    let mut params = params("extended", false);
    params.custom_extensions = extensions;
    let der = params.self_signed(&key()).expect("signed").der().to_vec();
    Certificate::parse(&der, profile).map(|certificate| certificate.extension_oids().count())
}

fn extension(last: u64, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, last], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

#[test]
fn extensions_are_known_or_not_critical_and_each_is_there_once() {
    let plain = extended(Vec::new(), Profile::Intel).expect("a certificate");
    assert_eq!(extended(vec![extension(1, false), extension(2, false)], Profile::Intel), Ok(plain + 2));
    let oid = || "1.3.6.1.4.1.99999.1".to_owned();
    let critical = extended(vec![extension(1, true)], Profile::Intel);
    assert_eq!(critical, Err(CertificateError::CriticalExtension { oid: oid() }));
    let twice = extended(vec![extension(1, false), extension(1, false)], Profile::Intel);
    assert_eq!(twice, Err(CertificateError::DuplicateExtension { oid: oid() }));
    let many = |count| extended((1..=count).map(|n| extension(n, false)).collect(), Profile::Intel);
    let most = (MAX_EXTENSIONS - plain) as u64;
    assert_eq!(many(most), Ok(MAX_EXTENSIONS));
    assert!(matches!(many(most + 1), Err(CertificateError::Malformed { .. })));
}

#[test]
fn a_critical_purpose_is_understood_of_time_stamping_authorities_alone() {
    let mut params = params("purpose", false);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::TimeStamping];
    let der = params.self_signed(&key()).expect("signed").der().to_vec();
    // Written as not critical: 2.5.29.37 followed by the value.
    let at = der.windows(5).position(|window| window == [0x06, 0x03, 0x55, 0x1d, 0x25]).expect("there");
    assert_eq!(der[at + 5], 0x04, "an OCTET STRING, no BOOLEAN");
    let oid = OID_EXTENDED_KEY_USAGE;
    let purposes = |profile| Certificate::parse(&der, profile).and_then(|parsed| parsed.purposes());
    let stamping = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
    assert_eq!(purposes(Profile::TimeStamping), Ok(Some((false, vec![stamping]))));
    let mut own = CertificateParams::default();
    let value = vec![0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 8];
    let mut critical = CustomExtension::from_oid_content(&[2, 5, 29, 37], value);
    critical.set_criticality(true);
    own.custom_extensions = vec![critical];
    let der = own.self_signed(&key()).expect("signed").der().to_vec();
    let parsed = Certificate::parse(&der, Profile::TimeStamping).and_then(|parsed| parsed.purposes());
    assert_eq!(parsed, Ok(Some((true, vec![stamping]))));
    let refused = Certificate::parse(&der, Profile::Intel).map(|_| ());
    assert_eq!(refused, Err(CertificateError::CriticalExtension { oid: oid.to_string() }));
}

#[test]
fn certificates_and_lists_have_a_longest_length() {
    for got in [MAX_CERTIFICATE, MAX_CERTIFICATE + 1] {
        let too_large = Err(CertificateError::TooLarge { got, limit: MAX_CERTIFICATE });
        let parsed = Certificate::parse(&vec![0; got], Profile::Intel).map(|_| ());
        assert_eq!(parsed == too_large, got > MAX_CERTIFICATE, "{parsed:?}");
    }
    for got in [MAX_CRL, MAX_CRL + 1] {
        let too_large = Err(CertificateError::TooLarge { got, limit: MAX_CRL });
        let parsed = UnauthenticatedList::parse(&vec![0; got], Profile::Intel).map(|_| ());
        assert_eq!(parsed == too_large, got > MAX_CRL, "{parsed:?}");
    }
}

/// An authority and a list that it signed.
fn list(
    change: impl FnOnce(&mut CertificateParams, &mut CertificateRevocationListParams),
) -> (Vec<u8>, Vec<u8>) {
    let mut above = params("above", true);
    let moment = |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs());
    let mut list = CertificateRevocationListParams {
        this_update: moment(FROM),
        next_update: moment(TO),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[0x12, 0x34]),
            revocation_time: moment(FROM),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    change(&mut above, &mut list);
    let above_key = key();
    let authority = above.self_signed(&above_key).expect("signed").der().to_vec();
    // The list is made by whoever has the key, whatever its certificate allows.
    let able = params("above", true);
    let issuer = Issuer::from_params(&able, &above_key);
    (authority, list.signed_by(&issuer).expect("signed").der().to_vec())
}

fn authenticated((authority, list): &(Vec<u8>, Vec<u8>)) -> Result<RevocationList, CertificateError> {
    RevocationList::authenticate(list, &parse(authority))
}

#[test]
fn a_list_names_what_is_revoked_from_its_first_to_its_last_second() {
    let made = list(|_, _| ());
    let read = authenticated(&made).expect("a list");
    assert!(read.lists(&parse(&made.0)), "serial 1234");
    let unrelated = list(|_, list| list.revoked_certs[0].serial_number = SerialNumber::from(7));
    assert!(!authenticated(&unrelated).expect("a list").lists(&parse(&unrelated.0)));
    let fresh = |seconds| read.check_fresh(at(seconds));
    assert_eq!((fresh(FROM), fresh(TO)), (Ok(()), Ok(())));
    let (now, not_before) = (at(FROM - 1), at(FROM));
    assert_eq!(fresh(FROM - 1), Err(CertificateError::NotYetValid { not_before, now }));
    let (now, not_after) = (at(TO + 1), at(TO));
    assert_eq!(fresh(TO + 1), Err(CertificateError::Expired { not_after, now }));
}

#[test]
fn a_list_is_signed_by_an_authority_that_may_sign_lists() {
    let refused = |change: fn(&mut CertificateParams)| {
        authenticated(&list(|above, _| change(above))).map(|_| ()).expect_err("refused")
    };
    let no_lists = CertificateError::NotAuthority { issuer: "above".to_owned(), what: "CRLs" };
    assert_eq!(refused(|above| above.key_usages = vec![KeyUsagePurpose::KeyCertSign]), no_lists);
    assert_eq!(refused(|above| above.is_ca = IsCa::NoCa), no_lists);
    let (authority, _) = list(|_, _| ());
    let (_, others) = list(|_, _| ());
    let error = authenticated(&(authority, others)).map(|_| ()).expect_err("another key");
    assert_eq!(error, CertificateError::Signature { issuer: "above".to_owned() });
}

/// Such a list covers a part of the certificates, or those of others.
#[test]
fn a_list_with_a_critical_extension_is_refused() {
    let partial = list(|_, list| {
        list.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://crl.example/a".to_owned()] },
            scope: None,
        });
    });
    let error = authenticated(&partial).map(|_| ()).expect_err("a critical extension");
    assert_eq!(error, CertificateError::CriticalExtension { oid: "2.5.29.28".to_owned() });
}
