//! A timestamp as bytes: TimeStampResp (RFC 3161 §2.4.2) with CMS SignedData (RFC 5652) with TSTInfo, in DER.

use der::asn1::ObjectIdentifier;
use der::{Decode as _, Reader as _, SliceReader, Tag};
use provenance::timestamp::Timestamp;
use ring::digest;

use super::TimeError;
use super::info::TstInfo;
use crate::x509::{Algorithm, Profile, context, expect, next, sequence};

/// Largest timestamp that is read, in bytes. Genuine ones have 1 to 8 KiB.
pub const MAX_TIMESTAMP: usize = 64 << 10;
/// Most certificates of a timestamp.
const MAX_CERTIFICATES: usize = 8;
/// Most signed attributes.
const MAX_ATTRIBUTES: usize = 16;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// AlgorithmIdentifiers of SHA-256, SHA-384 and SHA-512 without parameters and with NULL (RFC 5754 §2).
const HASHES: [(&str, &str, Hash); 3] = [
    ("300b0609608648016503040201", "300d06096086480165030402010500", Hash::Sha256),
    ("300b0609608648016503040202", "300d06096086480165030402020500", Hash::Sha384),
    ("300b0609608648016503040203", "300d06096086480165030402030500", Hash::Sha512),
];
const WANTED_HASHES: &str = "SHA-256, SHA-384 or SHA-512";
/// AlgorithmIdentifier of rsaEncryption, which stands for RSASSA-PKCS1-v1_5 with the signer's digest (RFC 5754 §3.2).
const RSA_ENCRYPTION: &str = "300d06092a864886f70d0101010500";

/// A hash of the SHA-2 family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) fn read(raw: &[u8], field: &'static str) -> Result<Self, TimeError> {
        let got = hex::encode(raw);
        match HASHES.iter().find(|(bare, null, _)| got == *bare || got == *null) {
            Some((.., hash)) => Ok(*hash),
            None => Err(TimeError::Algorithm { field, got, wanted: WANTED_HASHES }),
        }
    }

    pub(super) fn of(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }
}

/// Who signs, as the timestamp names it (RFC 5652 §5.3).
#[derive(Debug, Clone, Copy)]
pub(super) enum SignerId<'a> {
    /// Issuer's name in DER, contents of the serial number.
    IssuerAndSerial(&'a [u8], &'a [u8]),
    /// Contents of the subject key identifier.
    KeyIdentifier(&'a [u8]),
}

/// A timestamp whose form has been checked, and nothing else.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// Certificates, DER each.
    pub(super) certificates: Vec<&'a [u8]>,
    pub(super) signer: SignerId<'a>,
    /// ESSCertIDv2 of the signer's certificate (RFC 5816 §2.2.1): hash and its value.
    pub(super) certificate_hash: (Hash, &'a [u8]),
    pub(super) algorithm: Algorithm,
    pub(super) signature: &'a [u8],
    /// What the signature is over.
    pub(super) signed: Vec<u8>,
    pub(super) info: TstInfo<'a>,
}

fn field<T>(field: &'static str, got: impl ToString, wanted: &'static str) -> Result<T, TimeError> {
    Err(TimeError::Field { field, got: got.to_string(), wanted })
}

/// A value that a tag wraps: `[number] EXPLICIT`.
fn explicit<'a>(reader: &mut SliceReader<'a>, number: u32) -> Result<SliceReader<'a>, TimeError> {
    Ok(SliceReader::new(expect(reader, context(number))?.0)?)
}

fn is_next(reader: &SliceReader<'_>, tag: Tag) -> bool {
    !reader.is_finished() && Tag::peek(reader).is_ok_and(|next| next == tag)
}

/// An object identifier that must be `wanted`.
fn oid(
    reader: &mut SliceReader<'_>,
    name: &'static str,
    wanted: (ObjectIdentifier, &'static str),
) -> Result<(), TimeError> {
    let got = ObjectIdentifier::decode(reader)?;
    if got == wanted.0 { Ok(()) } else { field(name, got, wanted.1) }
}

impl<'a> Token<'a> {
    /// Reads a response; what is not understood, or signed by nobody, is refused.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, TimeError> {
        if bytes.len() > MAX_TIMESTAMP {
            return Err(TimeError::TooLarge { got: bytes.len(), limit: MAX_TIMESTAMP });
        }
        let mut outer = SliceReader::new(bytes)?;
        let (mut response, _) = sequence(&mut outer)?;
        outer.finish()?;
        // PKIStatusInfo: status, then texts and failure information that say nothing about a granted one.
        let (mut status, _) = sequence(&mut response)?;
        let got = u64::decode(&mut status)?;
        if got > 1 {
            return Err(TimeError::Status { got });
        }
        let (mut content_info, _) = sequence(&mut response)?;
        response.finish()?;
        oid(&mut content_info, "content type", (SIGNED_DATA, "signed data"))?;
        let mut wrapped = explicit(&mut content_info, 0)?;
        content_info.finish()?;
        let (mut data, _) = sequence(&mut wrapped)?;
        wrapped.finish()?;

        // SignedData (RFC 5652 §5.1). Version 3, because the contents are no plain data.
        let version = u64::decode(&mut data)?;
        if version != 3 {
            return field("version of SignedData", version, "3");
        }
        let (digest_algorithms, _) = expect(&mut data, Tag::Set)?;
        let (mut encapsulated, _) = sequence(&mut data)?;
        oid(&mut encapsulated, "encapsulated content type", (TST_INFO, "id-ct-TSTInfo"))?;
        let mut wrapped = explicit(&mut encapsulated, 0)?;
        encapsulated.finish()?;
        let (content, _) = expect(&mut wrapped, Tag::OctetString)?;
        wrapped.finish()?;
        let mut certificates = Vec::new();
        if is_next(&data, context(0)) {
            let mut list = explicit(&mut data, 0)?;
            while !list.is_finished() {
                if certificates.len() == MAX_CERTIFICATES {
                    return Err(TimeError::Unread { what: "more than 8 certificates" });
                }
                certificates.push(expect(&mut list, Tag::Sequence)?.1);
            }
        }
        if is_next(&data, context(1)) {
            return Err(TimeError::Unread { what: "revocation lists" });
        }
        let (signers, _) = expect(&mut data, Tag::Set)?;
        data.finish()?;
        let mut signers = SliceReader::new(signers)?;
        let (signer, _) = sequence(&mut signers)?;
        if !signers.is_finished() {
            return Err(TimeError::Unread { what: "more than one signer" });
        }
        Self::signed_by(signer, digest_algorithms, certificates, content)
    }

    /// SignerInfo (RFC 5652 §5.3).
    fn signed_by(
        mut signer: SliceReader<'a>,
        digest_algorithms: &[u8],
        certificates: Vec<&'a [u8]>,
        content: &'a [u8],
    ) -> Result<Self, TimeError> {
        let version = u64::decode(&mut signer)?;
        let id = match version {
            1 => {
                let (mut name, _) = sequence(&mut signer)?;
                let issuer = expect(&mut name, Tag::Sequence)?.1;
                let serial = expect(&mut name, Tag::Integer)?.0;
                name.finish()?;
                SignerId::IssuerAndSerial(issuer, serial)
            }
            3 => {
                let (tag, id, _) = next(&mut signer)?;
                let wanted = Tag::ContextSpecific { constructed: false, number: der::TagNumber(0) };
                if tag != wanted {
                    return field("signer identifier", tag, "a subject key identifier");
                }
                SignerId::KeyIdentifier(id)
            }
            other => return field("version of SignerInfo", other, "1 or 3"),
        };
        let raw_hash = expect(&mut signer, Tag::Sequence)?.1;
        let hash = Hash::read(raw_hash, "digest algorithm")?;
        // No signature covers the two places where the algorithm is named.
        if digest_algorithms != raw_hash {
            return field(
                "digestAlgorithms",
                hex::encode(digest_algorithms),
                "the signer's digest algorithm alone",
            );
        }
        if !is_next(&signer, context(0)) {
            return Err(TimeError::Attribute { name: "messageDigest", got: 0 });
        }
        let (attributes, raw) = expect(&mut signer, context(0))?;
        let algorithm = signature_algorithm(expect(&mut signer, Tag::Sequence)?.1, hash)?;
        let (signature, _) = expect(&mut signer, Tag::OctetString)?;
        if !signer.is_finished() {
            return Err(TimeError::Unread { what: "unsigned attributes" });
        }
        let certificate_hash = attributes_of(attributes, hash, content)?;
        // The signature is over the attributes as a SET (RFC 5652 §5.4).
        let signed = [&[0x31], &raw[1..]].concat();
        let info = TstInfo::parse(content)?;
        Ok(Self { certificates, signer: id, certificate_hash, algorithm, signature, signed, info })
    }
}

fn signature_algorithm(raw: &[u8], hash: Hash) -> Result<Algorithm, TimeError> {
    let got = hex::encode(raw);
    let known = if got == RSA_ENCRYPTION {
        Some(match hash {
            Hash::Sha256 => Algorithm::Pkcs1Sha256,
            Hash::Sha384 => Algorithm::Pkcs1Sha384,
            Hash::Sha512 => Algorithm::Pkcs1Sha512,
        })
    } else {
        Profile::TimeStamping.algorithm(&got)
    };
    let fits = |algorithm: &Algorithm| match algorithm {
        Algorithm::Pkcs1Sha256 | Algorithm::EcdsaSha256 => hash == Hash::Sha256,
        Algorithm::Pkcs1Sha384 | Algorithm::EcdsaSha384 => hash == Hash::Sha384,
        _ => hash == Hash::Sha512,
    };
    known.filter(fits).ok_or(TimeError::Algorithm {
        field: "signature algorithm",
        got,
        wanted: "RSASSA-PKCS1-v1_5, or ECDSA with SHA-256 or SHA-384, with the hash of the digest algorithm",
    })
}

/// Signed attributes: the content's type and digest are right. Gives the signer's certificate as ESSCertIDv2 names it.
fn attributes_of<'a>(
    attributes: &'a [u8],
    hash: Hash,
    content: &[u8],
) -> Result<(Hash, &'a [u8]), TimeError> {
    let mut reader = SliceReader::new(attributes)?;
    let mut found: Vec<(ObjectIdentifier, &'a [u8])> = Vec::new();
    while !reader.is_finished() {
        if found.len() == MAX_ATTRIBUTES {
            return Err(TimeError::Unread { what: "more than 16 signed attributes" });
        }
        let (mut attribute, _) = sequence(&mut reader)?;
        let kind = ObjectIdentifier::decode(&mut attribute)?;
        let (values, _) = expect(&mut attribute, Tag::Set)?;
        attribute.finish()?;
        found.push((kind, values));
    }
    let once = |kind: ObjectIdentifier, name| {
        let values: Vec<_> = found.iter().filter(|(known, _)| *known == kind).collect();
        match values.as_slice() {
            [(_, values)] => Ok(SliceReader::new(values)?),
            other => Err(TimeError::Attribute { name, got: other.len() }),
        }
    };
    let mut values = once(CONTENT_TYPE, "contentType")?;
    oid(&mut values, "signed content type", (TST_INFO, "id-ct-TSTInfo"))?;
    values.finish()?;
    let mut values = once(MESSAGE_DIGEST, "messageDigest")?;
    let (got, _) = expect(&mut values, Tag::OctetString)?;
    values.finish()?;
    let wanted = hash.of(content);
    if got != wanted {
        return Err(TimeError::MessageDigest { got: hex::encode(got), wanted: hex::encode(wanted) });
    }
    // SigningCertificateV2 ::= SEQUENCE { certs SEQUENCE OF ESSCertIDv2, … }; the first is the signer's.
    let mut values = once(SIGNING_CERTIFICATE_V2, "signingCertificateV2")?;
    let (mut signing, _) = sequence(&mut values)?;
    values.finish()?;
    let (mut list, _) = sequence(&mut signing)?;
    let (mut id, _) = sequence(&mut list)?;
    let hash = if is_next(&id, Tag::Sequence) {
        Hash::read(expect(&mut id, Tag::Sequence)?.1, "hash algorithm of ESSCertIDv2")?
    } else {
        Hash::Sha256
    };
    Ok((hash, expect(&mut id, Tag::OctetString)?.0))
}

/// Seconds since 1970 as a time, for the reader of TSTInfo.
pub(super) fn timestamp(seconds: i64) -> Result<Timestamp, TimeError> {
    Timestamp::from_unix(seconds).map_err(|error| TimeError::Malformed { problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_a_longest_length() {
        let error = |length| Token::parse(&vec![0; length]).map(|_| ()).expect_err("no timestamp");
        assert!(matches!(error(MAX_TIMESTAMP), TimeError::Malformed { .. }));
        let got = MAX_TIMESTAMP + 1;
        assert_eq!(error(got), TimeError::TooLarge { got, limit: MAX_TIMESTAMP });
    }

    #[test]
    fn a_signature_is_of_the_digest_that_is_named_beside_it() {
        const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
        let of = |der: &str| {
            let raw = hex::decode(der).expect("hex");
            HASHES.map(|hash| signature_algorithm(&raw, hash).ok())
        };
        // rsaEncryption takes the digest; the others name it.
        let all = [Algorithm::Pkcs1Sha256, Algorithm::Pkcs1Sha384, Algorithm::Pkcs1Sha512];
        assert_eq!(of("300d06092a864886f70d0101010500"), all.map(Some));
        assert_eq!(of("300d06092a864886f70d01010b0500"), [Some(Algorithm::Pkcs1Sha256), None, None]);
        assert_eq!(of("300d06092a864886f70d01010c0500"), [None, Some(Algorithm::Pkcs1Sha384), None]);
        assert_eq!(of("300d06092a864886f70d01010d0500"), [None, None, Some(Algorithm::Pkcs1Sha512)]);
        assert_eq!(of("300a06082a8648ce3d040302"), [Some(Algorithm::EcdsaSha256), None, None]);
        assert_eq!(of("300a06082a8648ce3d040303"), [None, Some(Algorithm::EcdsaSha384), None]);
        // Ed25519.
        let got = "300506032b6570".to_owned();
        assert_eq!(of(&got), [None; 3]);
        let error = signature_algorithm(&hex::decode(&got).expect("hex"), Hash::Sha512);
        let wanted =
            "RSASSA-PKCS1-v1_5, or ECDSA with SHA-256 or SHA-384, with the hash of the digest algorithm";
        assert_eq!(error, Err(TimeError::Algorithm { field: "signature algorithm", got, wanted }));
    }
}
