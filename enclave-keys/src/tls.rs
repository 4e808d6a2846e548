//! The TLS identity of one boot: a P-256 key and a self-signed certificate. Trust in it comes from session
//! Evidence, never from the certificate, which only carries the key.

use provenance::key::PublicKey;
use provenance::timestamp::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};

use crate::certificates::{CertificateError, IssuerKey, moment};
use crate::secret::SigningKey;

/// DNS name in the certificate; clients send it as server name.
pub const TLS_SERVER_NAME: &str = "sealwright";

/// What precedes the transcript hash in a server's CertificateVerify input (RFC 8446 §4.4.3): 64 spaces, the
/// context string, a zero byte.
const SPACES: usize = 64;
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";
/// Lengths of transcript hashes of TLS 1.3 cipher suites: SHA-256 and SHA-384.
const TRANSCRIPT_LENGTHS: [usize; 2] = [32, 48];
/// 9999-12-31T23:59:59Z: no defined expiration (RFC 5280 §4.1.2.5). The key ends with the boot.
const NO_EXPIRATION: i64 = 253_402_300_799;

/// Key and certificate.
pub(crate) struct TlsIdentity {
    key: SigningKey,
    certificate: Vec<u8>,
}

impl TlsIdentity {
    /// A fresh key and its certificate, valid from `started_at` on.
    pub(crate) fn generate(started_at: Timestamp) -> Result<Self, CertificateError> {
        let key = SigningKey::random()?;
        let mut params = CertificateParams::new([TLS_SERVER_NAME.to_owned()])?;
        params.not_before = moment(started_at.unix())?;
        params.not_after = moment(NO_EXPIRATION)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, TLS_SERVER_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&IssuerKey(&key))?.der().to_vec();
        Ok(Self { key, certificate })
    }

    /// The certificate, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The public key.
    pub(crate) fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// Signs the input of a TLS 1.3 server CertificateVerify, and nothing else: otherwise whoever can ask for
    /// this signature could have other protocols' messages signed by the attested key.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NotCertificateVerify> {
        let transcript = message
            .split_at_checked(SPACES)
            .filter(|(spaces, _)| spaces.iter().all(|byte| *byte == b' '))
            .and_then(|(_, rest)| rest.strip_prefix(CONTEXT))
            .ok_or(NotCertificateVerify::Prefix)?;
        if !TRANSCRIPT_LENGTHS.contains(&transcript.len()) {
            return Err(NotCertificateVerify::TranscriptLength { got: transcript.len() });
        }
        Ok(self.key.sign(message))
    }
}

/// Why a message is not signed with the TLS key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCertificateVerify {
    /// It does not begin like a server's CertificateVerify.
    #[error("message is not the input of a TLS 1.3 server CertificateVerify (RFC 8446 §4.4.3)")]
    Prefix,
    /// The transcript hash has a length of no cipher suite.
    #[error("transcript hash has {got} bytes, wanted 32 or 48")]
    TranscriptLength {
        /// Length seen.
        got: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(transcript: usize) -> Vec<u8> {
        [&[b' '; SPACES][..], CONTEXT, &vec![7; transcript]].concat()
    }

    fn identity() -> TlsIdentity {
        TlsIdentity::generate(Timestamp::parse("2026-11-21T10:00:00Z").expect("a time")).expect("an identity")
    }

    #[test]
    fn a_server_certificate_verify_is_signed_with_the_key_of_the_certificate() {
        let identity = identity();
        for transcript in TRANSCRIPT_LENGTHS {
            let signature = identity.sign(&message(transcript)).expect("signed");
            assert_eq!(identity.public().check_signature(&message(transcript), &signature), Ok(()));
        }
        let spki = identity.public().spki_der();
        assert!(identity.certificate().windows(spki.len()).any(|window| window == spki));
    }

    #[test]
    fn anything_else_is_not_signed() {
        let identity = identity();
        let mut client = message(32);
        client[SPACES + 9..SPACES + 15].copy_from_slice(b"client");
        let mut tab = message(32);
        tab[5] = b'\t';
        for wrong in [&client[..], &tab, &message(32)[1..], b"", &message(32)[..SPACES]] {
            assert_eq!(identity.sign(wrong), Err(NotCertificateVerify::Prefix));
        }
        for got in [0, 31, 33, 47, 49, 64] {
            assert_eq!(identity.sign(&message(got)), Err(NotCertificateVerify::TranscriptLength { got }));
        }
    }
}
