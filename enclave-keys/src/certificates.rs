//! Certificates of this instance (RFC 5280), for tools that know certificates only: an enclave CA, and one leaf per
//! project below it. Trust in either comes from its key Evidence, which the certificate names by digest.
//!
//! | | enclave CA | project |
//! |---|---|---|
//! | subject | C, ST, O, CN `enclave CA <16 hex digits of the key>` | C, ST, O, CN `<project id>` |
//! | basicConstraints, critical | CA, path length 0 | no CA |
//! | keyUsage, critical | keyCertSign, cRLSign | digitalSignature |
//! | extendedKeyUsage | – | codeSigning |
//! | subjectAltName | – | URI `<builder id>/project/<project id>` |
//! | 1.3.6.1.4.1.57264.1.8 | – | builder id |
//! | id-pe-cmw | digest of its key Evidence | digest of its key Evidence |
//!
//! Both are valid for [`CERTIFICATE_DAYS`] days from the instance's start, by the guest's clock.

use provenance::certificate::{
    CERTIFICATE_DAYS, ID_PE_CMW, SIGSTORE_ISSUER, evidence_digest_record, project_uri,
};
use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use provenance::timestamp::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::secret::{NoRandom, SigningKey, random};

/// Length of the DER before the point in a P-256 SubjectPublicKeyInfo.
const SPKI_PREFIX_LEN: usize = 26;
/// Length of serial numbers in bytes; RFC 5280 §4.1.2.2 allows 20.
const SERIAL_LEN: usize = 16;
/// Length of key identifiers in bytes: as long as those that RFC 5280 §4.2.1.2 makes with SHA-1.
const KEY_IDENTIFIER_LEN: usize = 20;
/// What trust policies of other tools compare beside the common name. A guest has no country; ZZ is ISO 3166's code
/// for users to assign.
const COUNTRY: &str = "ZZ";
const STATE: &str = "confidential guest";
const ORGANIZATION: &str = "Sealwright";
/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;
/// DER tag of UTF8String.
const UTF8_STRING: u8 = 0x0c;

/// Why a certificate could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No key or serial number without random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// The encoder refused.
    #[error("certificate: {0}")]
    Encode(String),
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self::Encode(error.to_string())
    }
}

/// A moment as the encoder wants it.
pub(crate) fn moment(unix: i64) -> Result<OffsetDateTime, CertificateError> {
    OffsetDateTime::from_unix_timestamp(unix).map_err(|error| CertificateError::Encode(error.to_string()))
}

/// A public key as the encoder wants it.
struct Subject<'a>(&'a PublicKey);

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.spki_der()[SPKI_PREFIX_LEN..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A signing key as the encoder wants it.
pub(crate) struct IssuerKey<'a>(pub(crate) &'a SigningKey);

impl PublicKeyData for IssuerKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.public().spki_der()[SPKI_PREFIX_LEN..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for IssuerKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message))
    }
}

/// The certificate of an enclave CA, with what issuing below it needs.
pub(crate) struct Authority {
    params: CertificateParams,
    certificate: Vec<u8>,
    builder_id: String,
    started_at: Timestamp,
}

impl Authority {
    /// Certifies `key` by itself. `evidence`: SHA-256 of its key Evidence.
    pub(crate) fn certify(
        key: &SigningKey,
        evidence: &Sha256Digest,
        builder_id: &str,
        started_at: Timestamp,
    ) -> Result<Self, CertificateError> {
        let fingerprint = key.public().spki_sha256().hex();
        let mut params = params(
            key.public(),
            &format!("enclave CA {}", fingerprint.get(..16).unwrap_or_default()),
            evidence,
            started_at,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&IssuerKey(key))?.der().to_vec();
        Ok(Self { params, certificate, builder_id: builder_id.to_owned(), started_at })
    }

    /// The certificate, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Certifies a project's key: DER. `key`: the one that this authority was made with.
    pub(crate) fn issue(
        &self,
        key: &SigningKey,
        project: &ProjectId,
        public: &PublicKey,
        evidence: &Sha256Digest,
    ) -> Result<Vec<u8>, CertificateError> {
        let mut params = params(public, &project.to_string(), evidence, self.started_at)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.subject_alt_names = vec![SanType::URI(project_uri(&self.builder_id, project).try_into()?)];
        params.custom_extensions.push(text_extension(SIGSTORE_ISSUER, &self.builder_id)?);
        let issuer = Issuer::from_params(&self.params, IssuerKey(key));
        Ok(params.signed_by(&Subject(public), &issuer)?.der().to_vec())
    }
}

/// What both kinds have.
fn params(
    public: &PublicKey,
    common_name: &str,
    evidence: &Sha256Digest,
    started_at: Timestamp,
) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.not_before = moment(started_at.unix())?;
    params.not_after = moment(started_at.unix() + CERTIFICATE_DAYS * DAY)?;
    let mut serial = *random::<SERIAL_LEN>()?;
    // Positive, and of full length (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, COUNTRY);
    params.distinguished_name.push(DnType::StateOrProvinceName, STATE);
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let identifier = public.spki_sha256().as_bytes()[..KEY_IDENTIFIER_LEN].to_vec();
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    params.custom_extensions = vec![text_extension(ID_PE_CMW, &evidence_digest_record(evidence))?];
    Ok(params)
}

/// An extension that is not critical and holds one UTF8String.
fn text_extension(oid: &[u32], text: &str) -> Result<CustomExtension, CertificateError> {
    let length = match text.len() {
        short @ 0..=0x7f => vec![u8::try_from(short).expect("below 128")],
        long => match u16::try_from(long) {
            Ok(long) if long <= 0xff => vec![0x81, long.to_be_bytes()[1]],
            Ok(long) => [&[0x82][..], &long.to_be_bytes()].concat(),
            Err(_) => return Err(CertificateError::Encode(format!("a text of {} bytes", text.len()))),
        },
    };
    let oid: Vec<u64> = oid.iter().copied().map(u64::from).collect();
    Ok(CustomExtension::from_oid_content(&oid, [&[UTF8_STRING][..], &length, text.as_bytes()].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_positive_and_of_full_length() {
        let key = crate::secret::SigningKey::random().expect("a key");
        let started_at = Timestamp::from_unix(0).expect("1970");
        let first_bytes: std::collections::BTreeSet<u8> = (0..256)
            .map(|_| {
                let params =
                    params(key.public(), "name", &Sha256Digest::of(b""), started_at).expect("parameters");
                let serial = params.serial_number.expect("a serial number");
                assert_eq!(serial.as_ref().len(), SERIAL_LEN);
                serial.as_ref()[0]
            })
            .collect();
        assert!(first_bytes.len() > 1, "random");
        assert!(first_bytes.iter().all(|byte| (0x40..=0x7f).contains(byte)), "{first_bytes:?}");
    }

    #[test]
    fn texts_are_der_of_each_length_form() {
        for (length, header) in [
            (0, "0c00"),
            (127, "0c7f"),
            (128, "0c8180"),
            (255, "0c81ff"),
            (256, "0c820100"),
            (65535, "0c82ffff"),
        ] {
            let extension = text_extension(ID_PE_CMW, &"x".repeat(length)).expect("a length that fits");
            assert!(!extension.criticality());
            assert_eq!(hex::encode(&extension.content()[..extension.content().len() - length]), header);
        }
        assert!(text_extension(ID_PE_CMW, &"x".repeat(65536)).is_err());
    }
}
