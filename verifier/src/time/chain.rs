//! From a timestamp's signature to an authority that the policy names.

use der::asn1::ObjectIdentifier;
use provenance::timestamp::Timestamp;

use super::TimeError;
use super::token::{SignerId, Token};
use crate::policy::{Placed, TimeAuthority};
use crate::x509::{Certificate, CertificateError, DIGITAL_SIGNATURE, Profile, expect};
use der::{Reader as _, SliceReader, Tag};

const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
/// Bit 1 of keyUsage, nonRepudiation, which authorities set too.
const NON_REPUDIATION: u8 = 0x40;
/// Most authorities between signer and root.
const MAX_INTERMEDIATES: usize = 4;

fn refused(certificate: &Certificate<'_>) -> impl Fn(CertificateError) -> TimeError + use<> {
    let name = certificate.common_name();
    move |error| TimeError::Certificate { name: name.clone(), error }
}

/// Whether the certificate is the one that the signer identifier names.
fn is_named(certificate: &Certificate<'_>, signer: SignerId<'_>) -> Result<bool, TimeError> {
    match signer {
        SignerId::IssuerAndSerial(issuer, serial) => Ok(certificate.issuer_and_serial() == (issuer, serial)),
        SignerId::KeyIdentifier(wanted) => {
            let Some(value) = certificate.extension(&SUBJECT_KEY_IDENTIFIER) else { return Ok(false) };
            let mut reader = SliceReader::new(value)?;
            let (id, _) = expect(&mut reader, Tag::OctetString)?;
            reader.finish()?;
            Ok(id == wanted)
        }
    }
}

/// Checks that the certificate is for time stamping and nothing else (RFC 3161 §2.3).
fn check_purpose(certificate: &Certificate<'_>) -> Result<(), TimeError> {
    let name = certificate.common_name();
    let wrong = |problem| Err(TimeError::Purpose { name: name.clone(), problem });
    match certificate.purposes().map_err(refused(certificate))? {
        None => return wrong("has no extended key usage, wanted time stamping"),
        Some((_, purposes)) if !purposes.contains(&TIME_STAMPING) => {
            return wrong("is not for time stamping");
        }
        Some((_, purposes)) if purposes.len() != 1 => {
            return wrong("is for more than time stamping");
        }
        Some((false, _)) => return wrong("has an extended key usage that is not critical"),
        Some((true, _)) => {}
    }
    let usage = certificate.key_usage().map_err(refused(certificate))?;
    match usage {
        Some(bits) if bits & (DIGITAL_SIGNATURE | NON_REPUDIATION) == 0 || bits & 0x3f != 0 => {
            wrong("has a key usage that is not digital signature alone")
        }
        _ => Ok(()),
    }
}

/// Finds the signer's certificate by ESSCertIDv2 and checks identifier, purpose and signature.
pub(super) fn signer<'a>(token: &Token<'a>) -> Result<Certificate<'a>, TimeError> {
    let (hash, wanted) = token.certificate_hash;
    let der = token.certificates.iter().find(|der| hash.of(der) == wanted);
    let der = der.ok_or_else(|| TimeError::NoSignerCertificate {
        wanted: hex::encode(wanted),
        looked_at: token.certificates.len(),
    })?;
    let certificate = parse(der)?;
    if !is_named(&certificate, token.signer)? {
        return Err(TimeError::SignerIdentifier);
    }
    check_purpose(&certificate)?;
    certificate.check_signature(token.algorithm, &token.signed, token.signature).map_err(
        |error| match error {
            CertificateError::Signature { issuer } => TimeError::Signature { name: issuer },
            error => refused(&certificate)(error),
        },
    )?;
    Ok(certificate)
}

fn parse(der: &[u8]) -> Result<Certificate<'_>, TimeError> {
    Certificate::parse(der, Profile::TimeStamping)
        .map_err(|error| TimeError::Certificate { name: String::new(), error })
}

/// Checks validity when the timestamp was made, and today.
fn check_dates(certificate: &Certificate<'_>, made: Timestamp, now: Timestamp) -> Result<(), TimeError> {
    let name = certificate.common_name();
    certificate
        .check_validity(made)
        .map_err(|error| TimeError::NotValidThen { name: name.clone(), error })?;
    certificate.check_validity(now).map_err(|error| TimeError::NotValidToday { name, error })
}

/// Follows the issuers from the signer to a named authority. Every certificate of the way, the authority's included,
/// was valid when the timestamp was made and is today.
pub(super) fn authority<'p>(
    signer: &Certificate<'_>,
    token: &Token<'_>,
    authorities: &'p Placed<Vec<TimeAuthority>>,
    now: Timestamp,
) -> Result<&'p TimeAuthority, TimeError> {
    let made = token.info.made;
    let others = token.certificates.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let mut current = signer.clone();
    for below in 0..=MAX_INTERMEDIATES {
        check_dates(&current, made, now)?;
        for named in &authorities.value {
            let root = parse(&named.certificate)?;
            if current.check_issued_by(&root).is_ok() {
                check_path_length(&root, below)?;
                check_dates(&root, made, now)?;
                return Ok(named);
            }
        }
        let issuer = others.iter().find(|other| current.check_issued_by(other).is_ok());
        let Some(issuer) = issuer.filter(|issuer| !issuer.names_as_issuer(issuer)) else {
            break;
        };
        check_path_length(issuer, below)?;
        check_may_stamp(issuer)?;
        current = issuer.clone();
    }
    let issuer = current.issuer_name().map_or_else(|_| String::new(), |name| name.to_string());
    Err(TimeError::UnknownAuthority { issuer, line: authorities.line })
}

/// Checks that an intermediate authority which names purposes names time stamping or any.
fn check_may_stamp(authority: &Certificate<'_>) -> Result<(), TimeError> {
    match authority.purposes().map_err(refused(authority))? {
        Some((_, purposes)) if !purposes.iter().any(|it| [TIME_STAMPING, ANY_PURPOSE].contains(it)) => {
            Err(TimeError::Purpose {
                name: authority.common_name(),
                problem: "names purposes, and time stamping is not among them",
            })
        }
        _ => Ok(()),
    }
}

/// Checks that no more authorities stand below a certificate than it allows (RFC 5280 §4.2.1.9).
fn check_path_length(authority: &Certificate<'_>, below: usize) -> Result<(), TimeError> {
    match authority.path_length().map_err(refused(authority))? {
        Some(limit) if below > usize::from(limit) => Err(TimeError::Purpose {
            name: authority.common_name(),
            problem: "stands above more authorities than it allows",
        }),
        _ => Ok(()),
    }
}
