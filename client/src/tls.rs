//! TLS 1.3 towards the guest (RFC 8446): any server certificate whose key really signed the handshake, and a
//! client certificate made from the caller's key. Nothing is trusted yet: the certificate's key is appraised
//! afterwards, together with the exporter of this very connection.

use std::sync::Arc;

use provenance::digest::Sha256Digest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as ring_provider, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme,
};

use crate::key::CallerKey;
use provenance::key::KeyAlgorithm;

/// Client configuration for one connection.
pub(crate) fn client_config(key: &CallerKey) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring_provider::default_provider());
    let verifier = Arc::new(HandshakeOnly { algorithms: provider.signature_verification_algorithms });
    let (certificate, private) = client_certificate(key)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], private)?;
    // A resumed session would carry no fresh proof that the peer still holds the certificate's key.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client_certificate(key: &CallerKey) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
    let private = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
    let algorithm = match key.public().algorithm() {
        KeyAlgorithm::EcdsaP256Sha256 => &PKCS_ECDSA_P256_SHA256,
        KeyAlgorithm::Ed25519 => &PKCS_ED25519,
    };
    let general = |e: rcgen::Error| Error::General(format!("client certificate: {e}"));
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&private, algorithm).map_err(general)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "sealwright caller");
    let certificate = params.self_signed(&pair).map_err(general)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(private)))
}

/// SHA-256 of the SPKI of a certificate.
pub(crate) fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Sha256Digest, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Sha256Digest::of(parsed.subject_public_key_info().as_ref()))
}

/// Checks that the peer holds the key of the certificate it shows, and nothing about who it is.
#[derive(Debug)]
struct HandshakeOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for HandshakeOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        ParsedCertificate::try_from(end_entity)?;
        // The guest shows one self-signed certificate; a chain would suggest an authority that nobody checks.
        if !intermediates.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The crypto provider that other TLS users of this crate (registries) share.
pub(crate) fn provider() -> CryptoProvider {
    ring_provider::default_provider()
}
