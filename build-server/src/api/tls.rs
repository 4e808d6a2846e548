//! TLS 1.3 (RFC 8446) with nothing that would let a connection be another than the one that was attested: no
//! resumption, no early data. The server's key is in the key service. A client certificate is optional and
//! self-signed; who the caller is, is the key that it proves to hold.

use std::fmt;
use std::sync::Arc;

use enclave_keys::process::KeyClient;
use provenance::key::PublicKey;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureAlgorithm, SignatureScheme,
};

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The key service's certificate does not parse: our bug.
    #[error("own TLS certificate: {0}")]
    Certificate(Error),
    /// rustls refused the configuration: our bug.
    #[error("TLS configuration: {0}")]
    Configuration(Error),
}

/// The server's TLS configuration for this boot.
pub fn server_config(keys: &KeyClient) -> Result<ServerConfig, TlsError> {
    let certificate = CertificateDer::from(keys.tls_certificate().to_vec());
    let spki = subject_public_key_info(&certificate).map_err(TlsError::Certificate)?;
    let key = GuestTlsKey { keys: keys.clone(), spki: spki.to_vec() };
    let certified = CertifiedKey::new(vec![certificate], Arc::new(key));
    let provider = Arc::new(ring::default_provider());
    let verifier = SelfSignedClients { provider: provider.clone() };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Configuration)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection is attested by itself: nothing may carry over from one to the next.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The caller's key from its certificate; the handshake has shown that it holds the private half.
pub(super) fn caller_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let spki = subject_public_key_info(certificate)?;
    PublicKey::from_spki_der(&spki).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn subject_public_key_info(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    Ok(ParsedCertificate::try_from(certificate)?.subject_public_key_info())
}

/// The server's signing key, which lives in the key service.
struct GuestTlsKey {
    keys: KeyClient,
    spki: Vec<u8>,
}

impl fmt::Debug for GuestTlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestTlsKey")
    }
}

impl SigningKey for GuestTlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(GuestTlsSigner { keys: self.keys.clone() }) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

struct GuestTlsSigner {
    keys: KeyClient,
}

impl fmt::Debug for GuestTlsSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestTlsSigner")
    }
}

impl Signer for GuestTlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.keys.sign_tls(message).map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// Accepts every P-256 and Ed25519 client certificate. Names, dates and issuers in it mean nothing here: the
/// key is the caller, and the handshake's signature shows who holds it.
#[derive(Debug)]
struct SelfSignedClients {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for SelfSignedClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        caller_key(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}
