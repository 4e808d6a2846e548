//! X.509 certificates in the encodings that AMD's key server uses, signed by fixture keys. NOT HARDWARE.
//!
//! AMD's certificates carry RSA-PSS parameters with explicit NULLs and, for VCEKs, serial number 0 and bare
//! extension values (hwID is no DER at all), which general certificate builders refuse to write. So the DER is
//! put together here.

use der::Encode as _;
use der::asn1::ObjectIdentifier;
use provenance::timestamp::Timestamp;

use super::Tcb;

/// Organisation in every fixture certificate.
pub const FIXTURE_ORGANISATION: &str = "NOT HARDWARE - Sealwright fixture";

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const BOOLEAN_TRUE: [u8; 3] = [0x01, 0x01, 0xff];
const NULL: [u8; 2] = [0x05, 0x00];

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

fn integer(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let skip = bytes.iter().take(3).take_while(|byte| **byte == 0).count();
    let mut content = bytes[skip..].to_vec();
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    tlv(INTEGER, &content)
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], content].concat())
}

fn oid(text: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(text).to_der().expect("an object identifier has a DER encoding")
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48 bytes (RFC 4055 §3.1), NULLs as AMD writes them.
fn rsa_pss_sha384() -> Vec<u8> {
    let sha384 = sequence(&[&oid("2.16.840.1.101.3.4.2.2"), &NULL]);
    let mgf1 = sequence(&[&oid("1.2.840.113549.1.1.8"), &sha384]);
    let parameters = sequence(&[&tlv(0xa0, &sha384), &tlv(0xa1, &mgf1), &tlv(0xa2, &integer(48))]);
    sequence(&[&oid("1.2.840.113549.1.1.10"), &parameters])
}

/// A name like AMD's, with [`FIXTURE_ORGANISATION`] as organisation.
fn name(common_name: &str) -> Vec<u8> {
    let attribute =
        |kind: &str, tag, value: &str| tlv(SET, &sequence(&[&oid(kind), &tlv(tag, value.as_bytes())]));
    sequence(&[
        &attribute("2.5.4.11", UTF8_STRING, "Engineering"),
        &attribute("2.5.4.6", PRINTABLE_STRING, "US"),
        &attribute("2.5.4.7", UTF8_STRING, "Santa Clara"),
        &attribute("2.5.4.8", UTF8_STRING, "CA"),
        &attribute("2.5.4.10", UTF8_STRING, FIXTURE_ORGANISATION),
        &attribute("2.5.4.3", UTF8_STRING, common_name),
    ])
}

fn utc_time(moment: Timestamp) -> Vec<u8> {
    let text = moment.to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).skip(2).collect();
    tlv(UTC_TIME, format!("{digits}Z").as_bytes())
}

/// SPKI of an RSA key, from its PKCS #1 public key.
#[must_use]
pub(super) fn rsa_spki(public_key: &[u8]) -> Vec<u8> {
    sequence(&[&sequence(&[&oid("1.2.840.113549.1.1.1"), &NULL]), &bit_string(public_key)])
}

/// SPKI of a P-384 key, from its uncompressed point.
fn p384_spki(point: &[u8]) -> Vec<u8> {
    sequence(&[&sequence(&[&oid("1.2.840.10045.2.1"), &oid("1.3.132.0.34")]), &bit_string(point)])
}

fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &BOOLEAN_TRUE } else { &[] };
    sequence(&[&oid(id), flag, &tlv(OCTET_STRING, value)])
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

/// What signs certificates: RSA-PSS over the TBS bytes.
pub(super) trait Issuer {
    fn common_name(&self) -> &str;
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

fn certificate(
    issuer: &dyn Issuer,
    serial: u32,
    subject: &str,
    validity: Validity,
    spki: &[u8],
    extensions: &[Vec<u8>],
) -> Vec<u8> {
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let tbs = sequence(&[
        &tlv(0xa0, &integer(2)),
        &integer(serial),
        &rsa_pss_sha384(),
        &name(issuer.common_name()),
        &sequence(&[&utc_time(validity.not_before), &utc_time(validity.not_after)]),
        &name(subject),
        spki,
        &tlv(0xa3, &sequence(&extensions)),
    ]);
    let signature = issuer.sign(&tbs);
    sequence(&[&tbs, &rsa_pss_sha384(), &bit_string(&signature)])
}

/// An authority's certificate: a root when it issues itself, otherwise an intermediate with path length 0.
pub(super) fn authority_certificate(
    issuer: &dyn Issuer,
    serial: u32,
    subject: &str,
    validity: Validity,
    rsa_public_key: &[u8],
) -> Vec<u8> {
    let root = issuer.common_name() == subject;
    let constraints = if root { sequence(&[&BOOLEAN_TRUE]) } else { sequence(&[&BOOLEAN_TRUE, &integer(0)]) };
    // keyCertSign is bit 5, cRLSign bit 6.
    let usage = if root { [BIT_STRING, 2, 1, 0x06] } else { [BIT_STRING, 2, 2, 0x04] };
    let extensions = [extension("2.5.29.15", true, &usage), extension("2.5.29.19", true, &constraints)];
    certificate(issuer, serial, subject, validity, &rsa_spki(rsa_public_key), &extensions)
}

/// A certificate revocation list, version 2 (RFC 5280 §5.1).
pub(super) fn revocation_list(issuer: &dyn Issuer, revoked: &[u32], updates: Validity) -> Vec<u8> {
    let entries: Vec<_> =
        revoked.iter().map(|serial| sequence(&[&integer(*serial), &utc_time(updates.not_before)])).collect();
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    // An empty list is left out, never written empty.
    let list = if entries.is_empty() { vec![] } else { sequence(&entries) };
    let tbs = sequence(&[
        &integer(1),
        &rsa_pss_sha384(),
        &name(issuer.common_name()),
        &utc_time(updates.not_before),
        &utc_time(updates.not_after),
        &list,
    ]);
    let signature = issuer.sign(&tbs);
    sequence(&[&tbs, &rsa_pss_sha384(), &bit_string(&signature)])
}

/// What stands in a VCEK or VLEK certificate. Every field may be altered before it is issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VekContents {
    /// Common name: `SEV-VCEK` or `SEV-VLEK`.
    pub common_name: String,
    /// Serial number; AMD writes 0.
    pub serial: u32,
    /// Validity.
    pub validity: Validity,
    /// Extensions in order: object identifier and value bytes.
    pub extensions: Vec<(String, Vec<u8>)>,
}

/// Arc of AMD's extensions.
const AMD: &str = "1.3.6.1.4.1.3704.1";

impl VekContents {
    /// As AMD writes them for a Milan or Genoa chip (`fmc` none) or a Turin chip. `hwid` for a VCEK, `csp_id`
    /// for a VLEK.
    #[must_use]
    pub(super) fn new(product_name: &str, tcb: Tcb, validity: Validity, owner: &VekOwner) -> Self {
        let number = |value: u8| integer(u32::from(value));
        let mut extensions = vec![
            (format!("{AMD}.1"), number(u8::from(tcb.fmc.is_some()))),
            (format!("{AMD}.2"), tlv(IA5_STRING, product_name.as_bytes())),
        ];
        if let Some(fmc) = tcb.fmc {
            extensions.push((format!("{AMD}.3.9"), number(fmc)));
        }
        extensions.push((format!("{AMD}.3.1"), number(tcb.bootloader)));
        extensions.push((format!("{AMD}.3.2"), number(tcb.tee)));
        if tcb.fmc.is_some() {
            extensions.push((format!("{AMD}.3.3"), number(tcb.snp)));
        } else {
            extensions.push((format!("{AMD}.3.4"), number(0)));
        }
        extensions.extend([5, 6, 7].map(|spare| (format!("{AMD}.3.{spare}"), number(0))));
        if tcb.fmc.is_none() {
            extensions.push((format!("{AMD}.3.3"), number(tcb.snp)));
        }
        extensions.push((format!("{AMD}.3.8"), number(tcb.microcode)));
        let common_name = match owner {
            VekOwner::Chip { hwid } => {
                extensions.push((format!("{AMD}.4"), hwid.clone()));
                "SEV-VCEK"
            }
            VekOwner::Provider { csp_id } => {
                extensions.push((format!("{AMD}.5"), tlv(IA5_STRING, csp_id.as_bytes())));
                "SEV-VLEK"
            }
        };
        Self { common_name: common_name.to_owned(), serial: 0, validity, extensions }
    }

    pub(super) fn issue(&self, issuer: &dyn Issuer, p384_point: &[u8]) -> Vec<u8> {
        let extensions: Vec<_> =
            self.extensions.iter().map(|(id, value)| extension(id, false, value)).collect();
        let spki = p384_spki(p384_point);
        certificate(issuer, self.serial, &self.common_name, self.validity, &spki, &extensions)
    }
}

/// Whom a VEK belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VekOwner {
    /// A chip (VCEK), by its id: 64 bytes, on Turin 8.
    Chip {
        /// Value of the hwID extension.
        hwid: Vec<u8>,
    },
    /// A cloud provider (VLEK).
    Provider {
        /// Value of the CSP id extension.
        csp_id: String,
    },
}
