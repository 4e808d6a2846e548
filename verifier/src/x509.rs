//! X.509 certificates and CRLs (RFC 5280) as AMD, Intel and IBM issue them, read strictly from the bytes that were
//! signed.
//!
//! Signatures are checked over the raw TBS bytes of the input, never over a re-encoding. Each vendor's [`Profile`]
//! knows the algorithms of that vendor and no others.

use der::asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, UtcTime};
use der::{Decode, Reader, SliceReader, Tag};
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use ring::signature;

use crate::roots::is_published_root;

mod crl;
mod error;
mod name;
mod profile;

pub(crate) use self::crl::{RevocationList, UnauthenticatedList};
pub use self::error::CertificateError;
pub(crate) use self::name::DistinguishedName;
pub(crate) use self::profile::{Algorithm, Profile};

/// Largest certificate that is read, in bytes. AMD's are below 2 KiB.
pub const MAX_CERTIFICATE: usize = 16 << 10;
/// Largest CRL that is read, in bytes.
pub const MAX_CRL: usize = 1 << 20;
/// Most extensions of a certificate.
const MAX_EXTENSIONS: usize = 32;

const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const OID_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const OID_COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const OID_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const OID_EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const OID_BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// Bits of keyUsage in the first byte of its BIT STRING (RFC 5280 §4.2.1.3): bit 0, digitalSignature.
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
/// Bit 4, keyAgreement.
pub(crate) const KEY_AGREEMENT: u8 = 0x08;
/// Bit 5, keyCertSign.
const KEY_CERT_SIGN: u8 = 0x04;
/// Bit 6, cRLSign.
const CRL_SIGN: u8 = 0x02;

/// Both of these.
pub(crate) const KEY_CERT_AND_CRL_SIGN: u8 = KEY_CERT_SIGN | CRL_SIGN;

fn malformed(problem: impl std::fmt::Display) -> CertificateError {
    CertificateError::Malformed { problem: problem.to_string() }
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        malformed(error)
    }
}

/// One extension.
#[derive(Debug, Clone, Copy)]
struct Extension<'a> {
    critical: bool,
    oid: ObjectIdentifier,
    value: &'a [u8],
}

/// A public key of a certificate.
#[derive(Debug, Clone, Copy)]
enum KeyBytes<'a> {
    /// RSAPublicKey (RFC 8017 §A.1.1).
    Rsa(&'a [u8]),
    /// Uncompressed point, 65 bytes.
    P256(&'a [u8]),
    /// Uncompressed point, 97 bytes.
    P384(&'a [u8]),
    /// Uncompressed point, 133 bytes.
    P521(&'a [u8]),
}

/// A parsed certificate. Nothing about it is believed but its form.
#[derive(Debug, Clone)]
pub(crate) struct Certificate<'a> {
    profile: Profile,
    der: &'a [u8],
    algorithm: Algorithm,
    tbs: &'a [u8],
    signature: &'a [u8],
    serial: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    not_before: Timestamp,
    not_after: Timestamp,
    spki: &'a [u8],
    key: KeyBytes<'a>,
    extensions: Vec<Extension<'a>>,
}

/// Tag, contents and whole encoding of the next value.
pub(crate) fn next<'a>(reader: &mut SliceReader<'a>) -> Result<(Tag, &'a [u8], &'a [u8]), CertificateError> {
    let raw = reader.tlv_bytes()?;
    let any = AnyRef::from_der(raw)?;
    Ok((der::Tagged::tag(&any), any.value(), raw))
}

pub(crate) fn expect<'a>(
    reader: &mut SliceReader<'a>,
    wanted: Tag,
) -> Result<(&'a [u8], &'a [u8]), CertificateError> {
    let (tag, value, raw) = next(reader)?;
    if tag == wanted { Ok((value, raw)) } else { Err(malformed(format!("{tag} where {wanted} belongs"))) }
}

pub(crate) fn sequence<'a>(
    reader: &mut SliceReader<'a>,
) -> Result<(SliceReader<'a>, &'a [u8]), CertificateError> {
    let (value, raw) = expect(reader, Tag::Sequence)?;
    Ok((SliceReader::new(value)?, raw))
}

fn bits(value: &[u8]) -> Result<&[u8], CertificateError> {
    match value.split_first() {
        Some((0, bytes)) => Ok(bytes),
        _ => Err(malformed("BIT STRING is not a whole number of bytes")),
    }
}

fn time(reader: &mut SliceReader<'_>) -> Result<Timestamp, CertificateError> {
    let (tag, _, raw) = next(reader)?;
    let since_epoch = match tag {
        Tag::UtcTime => UtcTime::from_der(raw)?.to_unix_duration(),
        Tag::GeneralizedTime => GeneralizedTime::from_der(raw)?.to_unix_duration(),
        tag => return Err(malformed(format!("{tag} where a time belongs"))),
    };
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|s| Timestamp::from_unix(s).ok())
        .ok_or_else(|| malformed("time out of range"))
}

fn signature_algorithm<'a>(
    reader: &mut SliceReader<'a>,
    profile: Profile,
) -> Result<(Algorithm, &'a [u8]), CertificateError> {
    let (_, raw) = expect(reader, Tag::Sequence)?;
    let got = hex::encode(raw);
    match profile.algorithm(&got) {
        Some(algorithm) => Ok((algorithm, raw)),
        None => Err(CertificateError::SignatureAlgorithm { got, wanted: profile.wanted() }),
    }
}

/// `SEQUENCE { tbs, algorithm, signature }` (RFC 5280 §4.1).
struct Signed<'a> {
    tbs: &'a [u8],
    algorithm: Algorithm,
    /// Algorithm as named outside of the TBS.
    algorithm_der: &'a [u8],
    signature: &'a [u8],
}

fn signed(der: &[u8], profile: Profile) -> Result<Signed<'_>, CertificateError> {
    let mut outer = SliceReader::new(der)?;
    let (mut body, _) = sequence(&mut outer)?;
    outer.finish()?;
    let (_, tbs) = expect(&mut body, Tag::Sequence)?;
    let (algorithm, algorithm_der) = signature_algorithm(&mut body, profile)?;
    let (signature, _) = expect(&mut body, Tag::BitString)?;
    body.finish()?;
    Ok(Signed { tbs, algorithm, algorithm_der, signature: bits(signature)? })
}

pub(crate) fn context(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: der::TagNumber(number) }
}

fn public_key<'a>(spki: &'a [u8]) -> Result<KeyBytes<'a>, CertificateError> {
    let mut reader = SliceReader::new(spki)?;
    let (mut body, _) = sequence(&mut reader)?;
    let (mut algorithm, _) = sequence(&mut body)?;
    let oid = ObjectIdentifier::decode(&mut algorithm)?;
    let parameters = AnyRef::decode(&mut algorithm)?;
    algorithm.finish()?;
    let (key, _) = expect(&mut body, Tag::BitString)?;
    body.finish()?;
    let key = bits(key)?;
    if oid == OID_RSA && parameters.is_null() {
        return Ok(KeyBytes::Rsa(key));
    }
    let curve = parameters.decode_as::<ObjectIdentifier>().ok().filter(|_| oid == OID_EC);
    match (curve, key.len(), key.first()) {
        (Some(OID_P256), 65, Some(4)) => Ok(KeyBytes::P256(key)),
        (Some(OID_P384), 97, Some(4)) => Ok(KeyBytes::P384(key)),
        (Some(OID_P521), 133, Some(4)) => Ok(KeyBytes::P521(key)),
        _ => Err(CertificateError::PublicKey),
    }
}

fn extensions<'a>(explicit: &'a [u8], profile: Profile) -> Result<Vec<Extension<'a>>, CertificateError> {
    let mut reader = SliceReader::new(explicit)?;
    let (mut list, _) = sequence(&mut reader)?;
    reader.finish()?;
    let mut found: Vec<Extension<'a>> = Vec::new();
    while !list.is_finished() {
        let (mut entry, _) = sequence(&mut list)?;
        let oid = ObjectIdentifier::decode(&mut entry)?;
        let critical = if Tag::peek(&entry)? == Tag::Boolean { bool::decode(&mut entry)? } else { false };
        let (value, _) = expect(&mut entry, Tag::OctetString)?;
        entry.finish()?;
        if found.iter().any(|known| known.oid == oid) {
            return Err(CertificateError::DuplicateExtension { oid: oid.to_string() });
        }
        let understood = matches!(oid, OID_BASIC_CONSTRAINTS | OID_KEY_USAGE)
            || (oid == OID_EXTENDED_KEY_USAGE && profile == Profile::TimeStamping);
        if critical && !understood {
            return Err(CertificateError::CriticalExtension { oid: oid.to_string() });
        }
        if found.len() == MAX_EXTENSIONS {
            return Err(malformed(format!("more than {MAX_EXTENSIONS} extensions")));
        }
        found.push(Extension { critical, oid, value });
    }
    Ok(found)
}

/// The common name of a distinguished name, for messages and for the fixed names of AMD's hierarchy.
fn common_name(name: &[u8]) -> Option<String> {
    let mut reader = SliceReader::new(name).ok()?;
    let (mut names, _) = sequence(&mut reader).ok()?;
    while !names.is_finished() {
        let (set, _) = expect(&mut names, Tag::Set).ok()?;
        let mut set = SliceReader::new(set).ok()?;
        let (mut attribute, _) = sequence(&mut set).ok()?;
        if ObjectIdentifier::decode(&mut attribute).ok()? == OID_COMMON_NAME {
            let (_, value, _) = next(&mut attribute).ok()?;
            return std::str::from_utf8(value)
                .ok()
                .map(|text| text.chars().filter(|c| !c.is_control()).take(64).collect());
        }
    }
    None
}

impl<'a> Certificate<'a> {
    /// Parses DER; trailing bytes, unknown critical extensions and other algorithms are errors.
    pub(crate) fn parse(der: &'a [u8], profile: Profile) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLarge { got: der.len(), limit: MAX_CERTIFICATE });
        }
        let Signed { tbs, algorithm, algorithm_der, signature } = signed(der, profile)?;
        let mut reader = SliceReader::new(tbs)?;
        let (mut body, _) = sequence(&mut reader)?;
        let (version, _) =
            expect(&mut body, context(0)).map_err(|_| CertificateError::Version { wanted: 3 })?;
        if version != [0x02, 0x01, 0x02] {
            return Err(CertificateError::Version { wanted: 3 });
        }
        let (serial, _) = expect(&mut body, Tag::Integer)?;
        if signature_algorithm(&mut body, profile)?.1 != algorithm_der {
            return Err(CertificateError::AlgorithmsDiffer);
        }
        let (_, issuer) = expect(&mut body, Tag::Sequence)?;
        let (mut validity, _) = sequence(&mut body)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        validity.finish()?;
        let (_, subject) = expect(&mut body, Tag::Sequence)?;
        let (_, spki) = expect(&mut body, Tag::Sequence)?;
        let extensions = if body.is_finished() {
            Vec::new()
        } else {
            extensions(expect(&mut body, context(3))?.0, profile)?
        };
        body.finish()?;
        let key = public_key(spki)?;
        Ok(Self {
            profile,
            der,
            algorithm,
            tbs,
            signature,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            spki,
            key,
            extensions,
        })
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) fn spki_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(self.spki)
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> &'a [u8] {
        self.spki
    }

    /// First and last moment of validity.
    pub(crate) fn validity(&self) -> (Timestamp, Timestamp) {
        (self.not_before, self.not_after)
    }

    /// Which extensions there are.
    pub(crate) fn extension_oids(&self) -> impl Iterator<Item = ObjectIdentifier> {
        self.extensions.iter().map(|extension| extension.oid)
    }

    /// Common name of the subject, empty when there is none.
    pub(crate) fn common_name(&self) -> String {
        common_name(self.subject).unwrap_or_default()
    }

    /// Raw contents of an extension.
    pub(crate) fn extension(&self, oid: &ObjectIdentifier) -> Option<&'a [u8]> {
        self.extensions.iter().find(|extension| extension.oid == *oid).map(|extension| extension.value)
    }

    /// Uncompressed P-384 point, 97 bytes, when the key is one.
    pub(crate) fn p384_point(&self) -> Option<&'a [u8]> {
        match self.key {
            KeyBytes::P384(point) => Some(point),
            KeyBytes::Rsa(_) | KeyBytes::P256(_) | KeyBytes::P521(_) => None,
        }
    }

    /// Uncompressed P-256 point, 65 bytes, when the key is one.
    pub(crate) fn p256_point(&self) -> Option<&'a [u8]> {
        match self.key {
            KeyBytes::P256(point) => Some(point),
            KeyBytes::Rsa(_) | KeyBytes::P384(_) | KeyBytes::P521(_) => None,
        }
    }

    /// Uncompressed P-521 point, 133 bytes, when the key is one.
    pub(crate) fn p521_point(&self) -> Option<&'a [u8]> {
        match self.key {
            KeyBytes::P521(point) => Some(point),
            KeyBytes::Rsa(_) | KeyBytes::P256(_) | KeyBytes::P384(_) => None,
        }
    }

    /// Checks that `now` lies in the validity (RFC 5280 §4.1.2.5, both ends included).
    pub(crate) fn check_validity(&self, now: Timestamp) -> Result<(), CertificateError> {
        if now < self.not_before {
            return Err(CertificateError::NotYetValid { not_before: self.not_before, now });
        }
        if now > self.not_after {
            return Err(CertificateError::Expired { not_after: self.not_after, now });
        }
        Ok(())
    }

    /// All of its bytes.
    pub(crate) fn der(&self) -> &'a [u8] {
        self.der
    }

    /// Checks name, authority and signature of the issuer (for a root: itself).
    pub(crate) fn check_issued_by(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        if self.issuer != issuer.subject {
            let got = common_name(self.issuer).unwrap_or_default();
            return Err(CertificateError::Issuer { got, wanted: issuer.common_name() });
        }
        issuer.check_authority(KEY_CERT_SIGN, "certificates")?;
        if self.der == issuer.der && is_published_root(self.der) {
            return Ok(());
        }
        issuer.check_signature(self.algorithm, self.tbs, self.signature)
    }

    /// Checks basicConstraints and keyUsage (RFC 5280 §4.2.1.9, §4.2.1.3).
    fn check_authority(&self, usage: u8, what: &'static str) -> Result<(), CertificateError> {
        let usage_allows = self.key_usage()?.is_none_or(|bits| bits & usage != 0);
        if self.is_authority()? && usage_allows {
            Ok(())
        } else {
            Err(CertificateError::NotAuthority { issuer: self.common_name(), what })
        }
    }

    /// Whether basicConstraints says that it is a certificate authority.
    pub(crate) fn is_authority(&self) -> Result<bool, CertificateError> {
        let Some(constraints) = self.extension(&OID_BASIC_CONSTRAINTS) else { return Ok(false) };
        let mut reader = SliceReader::new(constraints)?;
        let (mut body, _) = sequence(&mut reader)?;
        Ok(!body.is_finished() && bool::decode(&mut body).unwrap_or(false))
    }

    /// First byte of keyUsage, zero when it is empty; `None` without the extension.
    pub(crate) fn key_usage(&self) -> Result<Option<u8>, CertificateError> {
        let Some(value) = self.extension(&OID_KEY_USAGE) else { return Ok(None) };
        let mut reader = SliceReader::new(value)?;
        let (bits, _) = expect(&mut reader, Tag::BitString)?;
        Ok(Some(bits.get(1).copied().unwrap_or(0)))
    }

    /// Whether extendedKeyUsage names `purpose` (RFC 5280 §4.2.1.12).
    pub(crate) fn has_purpose(&self, purpose: &ObjectIdentifier) -> Result<bool, CertificateError> {
        let Some(value) = self.extension(&OID_EXTENDED_KEY_USAGE) else { return Ok(false) };
        let mut reader = SliceReader::new(value)?;
        let (mut purposes, _) = sequence(&mut reader)?;
        let mut found = false;
        while !purposes.is_finished() {
            found |= ObjectIdentifier::decode(&mut purposes)? == *purpose;
        }
        Ok(found)
    }

    /// extendedKeyUsage (RFC 5280 §4.2.1.12): whether it is critical, and the purposes; `None` without the extension.
    pub(crate) fn purposes(&self) -> Result<Option<(bool, Vec<ObjectIdentifier>)>, CertificateError> {
        let Some(extension) = self.extensions.iter().find(|known| known.oid == OID_EXTENDED_KEY_USAGE) else {
            return Ok(None);
        };
        let mut reader = SliceReader::new(extension.value)?;
        let (mut list, _) = sequence(&mut reader)?;
        let mut purposes = Vec::new();
        while !list.is_finished() {
            purposes.push(ObjectIdentifier::decode(&mut list)?);
        }
        Ok(Some((extension.critical, purposes)))
    }

    /// pathLenConstraint of basicConstraints (RFC 5280 §4.2.1.9): how many authorities may stand below this one.
    pub(crate) fn path_length(&self) -> Result<Option<u8>, CertificateError> {
        let Some(constraints) = self.extension(&OID_BASIC_CONSTRAINTS) else { return Ok(None) };
        let mut reader = SliceReader::new(constraints)?;
        let (mut body, _) = sequence(&mut reader)?;
        if body.is_finished() || !bool::decode(&mut body)? || body.is_finished() {
            return Ok(None);
        }
        Ok(Some(u8::decode(&mut body)?))
    }

    /// DER of the issuer's name, and contents of the serial number.
    pub(crate) fn issuer_and_serial(&self) -> (&'a [u8], &'a [u8]) {
        (self.issuer, self.serial)
    }

    /// Subject.
    pub(crate) fn subject_name(&self) -> Result<DistinguishedName, CertificateError> {
        DistinguishedName::parse(self.subject)
    }

    /// Issuer.
    pub(crate) fn issuer_name(&self) -> Result<DistinguishedName, CertificateError> {
        DistinguishedName::parse(self.issuer)
    }

    /// Whether the issuer it names is, byte for byte, the subject of `issuer`.
    pub(crate) fn names_as_issuer(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.subject
    }

    /// Serial number in hex.
    pub(crate) fn serial_hex(&self) -> String {
        hex::encode(self.serial)
    }

    /// Checks the signature under the key of `issuer`, and nothing else: name and authority are the caller's to
    /// check, for vendors whose issuers are no certificate authorities.
    pub(crate) fn check_signed_with_key_of(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        issuer.check_signature(self.algorithm, self.tbs, self.signature)
    }

    /// Checks a signature under this certificate's key.
    pub(crate) fn check_signature(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        let (scheme, key): (&dyn signature::VerificationAlgorithm, _) = match (algorithm, self.key) {
            // ring takes the salt to be as long as the digest, which is what the parameters above say.
            (Algorithm::PssSha384, KeyBytes::Rsa(key)) => (&signature::RSA_PSS_2048_8192_SHA384, key),
            (Algorithm::EcdsaP256Sha256, KeyBytes::P256(key)) => (&signature::ECDSA_P256_SHA256_ASN1, key),
            (Algorithm::EcdsaSha256, KeyBytes::P256(key)) => (&signature::ECDSA_P256_SHA256_ASN1, key),
            (Algorithm::EcdsaSha256, KeyBytes::P384(key)) => (&signature::ECDSA_P384_SHA256_ASN1, key),
            (Algorithm::EcdsaSha384, KeyBytes::P256(key)) => (&signature::ECDSA_P256_SHA384_ASN1, key),
            (Algorithm::EcdsaSha384, KeyBytes::P384(key)) => (&signature::ECDSA_P384_SHA384_ASN1, key),
            (Algorithm::Pkcs1Sha256, KeyBytes::Rsa(key)) => (&signature::RSA_PKCS1_2048_8192_SHA256, key),
            (Algorithm::Pkcs1Sha384, KeyBytes::Rsa(key)) => (&signature::RSA_PKCS1_2048_8192_SHA384, key),
            (Algorithm::Pkcs1Sha512, KeyBytes::Rsa(key)) => (&signature::RSA_PKCS1_2048_8192_SHA512, key),
            _ => return Err(CertificateError::PublicKey),
        };
        signature::UnparsedPublicKey::new(scheme, key)
            .verify(message, signature)
            .map_err(|_| CertificateError::Signature { issuer: self.common_name() })
    }
}

#[cfg(test)]
#[path = "x509_tests.rs"]
mod tests;
