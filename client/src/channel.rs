//! Attested TLS. A connection starts as [`UnappraisedChannel`], which offers nothing but [`appraise`];
//! only what comes out of that, an [`AttestedChannel`], gives out service clients. An attested channel is
//! exactly one connection: when it breaks it stays broken, and a new one is attested again.
//!
//! [`appraise`]: UnappraisedChannel::appraise

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::v1;
use proto::v1::attestation_service_client::AttestationServiceClient;
use proto::v1::build_service_client::BuildServiceClient;
use proto::v1::context_service_client::ContextServiceClient;
use provenance::binding::{Nonce, SESSION_EXPORTER_LABEL};
use provenance::challenge::AttestationRequest;
use provenance::digest::Sha256Digest;
use provenance::evidence::MAX_COLLECTION;
use provenance::project::Project;
use provenance::timestamp::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic_types::StatusExt as _;
use verifier::secure_execution::{NoHostKey, OwnRequest};
use verifier::{Endorsements, Policy, Rejection, SessionGrounds, SessionResult};

use crate::attestation_request::{AttestationRequestError, NewAttestationRequest};
use crate::key::CallerKey;
use crate::session::said;
use crate::tls;

/// Metadata key under which every call after appraisal carries the canonical project document.
pub const PROJECT_HEADER: &str = "sealwright-project-bin";
/// Largest answer to one call in bytes; results with many blobs are the largest.
const MAX_ANSWER: usize = 32 << 20;
/// Longest time for name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for the session Evidence: hardware signs in well under a second, a queue may stand before it.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes in flight per stream and connection; the default of 64 KiB makes a fast network slow.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Host and port of a build server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// A text that names no build server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is no endpoint; wanted HOST:PORT, such as build.example:8443 or [::1]:8443")]
pub struct InvalidEndpoint {
    /// The text as it came.
    pub got: String,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint { got: text.chars().take(200).collect() };
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        // A colon left in a host without brackets means an IPv6 address without its port.
        if bare.is_none() && host.contains(':') {
            return Err(invalid());
        }
        ServerName::try_from(host.to_owned()).map_err(|_| invalid())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no attested channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// No TCP connection. Fault: environment.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// What the system said.
        source: std::io::Error,
    },
    /// TCP and TLS took too long. Fault: environment.
    #[error("no connection to {endpoint} within {} s", limit.as_secs())]
    ConnectTimeout {
        /// Where to.
        endpoint: Endpoint,
        /// The limit.
        limit: Duration,
    },
    /// The TLS handshake failed.
    #[error("TLS 1.3 with {endpoint} failed: {problem}")]
    Tls {
        /// Where to.
        endpoint: Endpoint,
        /// What rustls said.
        problem: String,
    },
    /// HTTP/2 did not start.
    #[error("HTTP/2 with {endpoint} failed: {problem}")]
    Http2 {
        /// Where to.
        endpoint: Endpoint,
        /// What hyper said.
        problem: String,
    },
    /// The server gave no session Evidence.
    #[error("{endpoint} gave no Evidence for this session: {}", said(status))]
    NoEvidence {
        /// Where to.
        endpoint: Endpoint,
        /// The server's answer.
        status: Box<tonic::Status>,
    },
    /// No attestation request for a server on Secure Execution; nothing was sent.
    #[error(transparent)]
    AttestationRequest(AttestationRequestError),
    /// The Evidence is refused; nothing but a nonce was sent, and an attestation request, if any.
    #[error("{endpoint} is refused: {rejection}")]
    Rejected {
        /// Where to.
        endpoint: Endpoint,
        /// Why, with the place in the policy.
        rejection: Box<Rejection>,
    },
    /// The system gives no randomness.
    #[error("the system gave no randomness for a nonce")]
    NoRandomness,
}

impl ChannelError {
    /// The server's stable reason, where it gave one.
    fn reason(&self) -> Option<String> {
        let Self::NoEvidence { status, .. } = self else { return None };
        status.get_details_error_info().map(|info| info.reason)
    }
}

/// Reason of a server that answers no attestation requests.
const UNEXPECTED_REQUEST: &str = "ATTESTATION_REQUEST_UNEXPECTED";

/// One HTTP/2 connection as the service under tonic's generated clients.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    /// Always: HTTP/2 has no turns to wait for, and tonic makes a status without a source of what fails here, which nobody
    /// could tell from a server's answer. On a closed connection the call fails.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// Adds the project document to every call.
#[derive(Clone)]
pub struct WithProject {
    document: MetadataValue<tonic::metadata::Binary>,
}

impl Interceptor for WithProject {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert_bin(PROJECT_HEADER, self.document.clone());
        Ok(request)
    }
}

/// The service under the clients that an [`AttestedChannel`] gives out.
pub type AttestedService = InterceptedService<Connection, WithProject>;

/// A TLS connection to somebody. It can only be appraised.
pub struct UnappraisedChannel {
    connection: Connection,
    endpoint: Endpoint,
    origin: Uri,
    nonce: Nonce,
    exporter: [u8; 32],
    tls_spki_sha256: Sha256Digest,
}

impl UnappraisedChannel {
    /// Connects with TLS 1.3, showing a certificate of the caller's key, and takes the exporter for a fresh
    /// nonce. Cancel safe: a dropped attempt closes its connection.
    pub async fn connect(endpoint: &Endpoint, key: &CallerKey) -> Result<Self, ChannelError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::connect_unlimited(endpoint, key)).await {
            Ok(result) => result,
            Err(_) => {
                Err(ChannelError::ConnectTimeout { endpoint: endpoint.clone(), limit: CONNECT_TIMEOUT })
            }
        }
    }

    async fn connect_unlimited(endpoint: &Endpoint, key: &CallerKey) -> Result<Self, ChannelError> {
        let tls_error =
            |e: &dyn fmt::Display| ChannelError::Tls { endpoint: endpoint.clone(), problem: e.to_string() };
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| ChannelError::NoRandomness)?;
        let config = tls::client_config(key).map_err(|e| tls_error(&e))?;
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|e| tls_error(&e))?;
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .map_err(|source| ChannelError::Connect { endpoint: endpoint.clone(), source })?;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| tls_error(&e))?;
        let (exporter, tls_spki_sha256) = {
            let session = stream.get_ref().1;
            let exporter = session
                .export_keying_material([0; 32], SESSION_EXPORTER_LABEL, Some(&nonce))
                .map_err(|e| tls_error(&e))?;
            let certificates = session.peer_certificates().unwrap_or_default();
            let certificate =
                certificates.first().ok_or_else(|| tls_error(&"the server showed no certificate"))?;
            (exporter, tls::spki_sha256(certificate).map_err(|e| tls_error(&e))?)
        };
        let http2_error =
            |e: &dyn fmt::Display| ChannelError::Http2 { endpoint: endpoint.clone(), problem: e.to_string() };
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .max_frame_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| http2_error(&e))?;
        // The driver ends when the last sender is dropped or the connection breaks; calls then report the cut.
        tokio::spawn(driver);
        let origin = Uri::builder()
            .scheme("https")
            .authority(endpoint.to_string())
            .path_and_query("/")
            .build()
            .map_err(|e| http2_error(&e))?;
        Ok(Self {
            connection: Connection { sender },
            endpoint: endpoint.clone(),
            origin,
            nonce: Nonce(nonce),
            exporter,
            tls_spki_sha256,
        })
    }

    /// Asks for session Evidence on this connection and ends it. Nothing is appraised, so nothing but the nonce is
    /// ever sent. Cancel safe: dropping it closes the connection.
    pub async fn evidence(self) -> Result<SessionEvidence, ChannelError> {
        let collection = self.ask(None).await?;
        let Self { exporter, nonce, tls_spki_sha256, .. } = self;
        Ok(SessionEvidence { collection, tls_spki_sha256, exporter, nonce })
    }

    /// The same for a policy: with `host_keys`, an attestation request of this connection alone is made, for servers on
    /// Secure Execution, and given with the answer.
    pub async fn evidence_for(
        self,
        policy: &Policy,
        host_keys: Option<&Endorsements>,
        now: Timestamp,
    ) -> Result<(SessionEvidence, Vec<OwnRequest>), ChannelError> {
        let (collection, made) = self.ask_for(policy, host_keys, now).await?;
        let Self { exporter, nonce, tls_spki_sha256, .. } = self;
        let evidence = SessionEvidence { collection, tls_spki_sha256, exporter, nonce };
        Ok((evidence, made.iter().map(NewAttestationRequest::own).collect()))
    }

    async fn ask(&self, attestation_request: Option<&AttestationRequest>) -> Result<Vec<u8>, ChannelError> {
        let mut client = AttestationServiceClient::with_origin(self.connection.clone(), self.origin.clone())
            .max_decoding_message_size(MAX_COLLECTION + 1024);
        let nonce = self.nonce.0.to_vec().into();
        let attestation_request =
            attestation_request.map(|request| request.as_bytes().to_vec().into()).unwrap_or_default();
        let mut request = tonic::Request::new(v1::GetEvidenceRequest { nonce, attestation_request });
        request.set_timeout(EVIDENCE_TIMEOUT);
        match client.get_evidence(request).await {
            Ok(answer) => Ok(answer.into_inner().evidence.to_vec()),
            Err(status) => {
                Err(ChannelError::NoEvidence { endpoint: self.endpoint.clone(), status: Box::new(status) })
            }
        }
    }

    /// Asks with an attestation request of this connection alone where there is something to make it from.
    async fn ask_for(
        &self,
        policy: &Policy,
        host_keys: Option<&Endorsements>,
        now: Timestamp,
    ) -> Result<(Vec<u8>, Option<NewAttestationRequest>), ChannelError> {
        let made = host_keys.map(|given| NewAttestationRequest::make(policy, given, now));
        let made = match made {
            // The documents are for other servers than this policy's.
            Some(Err(AttestationRequestError::NoHostKey(NoHostKey::NotAccepted))) => None,
            other => other.transpose().map_err(ChannelError::AttestationRequest)?,
        };
        match self.ask(made.as_ref().map(NewAttestationRequest::request)).await {
            // The server runs on another platform, whose Evidence speaks for itself.
            Err(error) if made.is_some() && error.reason().as_deref() == Some(UNEXPECTED_REQUEST) => {
                Ok((self.ask(None).await?, None))
            }
            answer => Ok((answer?, made)),
        }
    }

    /// Asks for session Evidence on this connection and appraises it. Only the nonce is sent before that, and with
    /// `host_keys` an attestation request of this connection alone, for servers on Secure Execution: host key documents,
    /// certificates above them and revocation lists.
    pub async fn appraise(
        self,
        policy: &Policy,
        project: &Project,
        host_keys: Option<&Endorsements>,
        now: Timestamp,
    ) -> Result<AttestedChannel, ChannelError> {
        let (evidence, made) = self.ask_for(policy, host_keys, now).await?;
        let own_requests: Vec<OwnRequest> = made.iter().map(NewAttestationRequest::own).collect();
        let none = Endorsements::default();
        let endorsements = host_keys.filter(|_| made.is_some()).unwrap_or(&none);
        let grounds = SessionGrounds { own_requests: &own_requests, endorsements };
        let Self { connection, endpoint, origin, nonce, exporter, tls_spki_sha256 } = self;
        let accepted = verifier::appraise_session_with(
            policy,
            &evidence,
            grounds,
            tls_spki_sha256,
            exporter,
            nonce,
            now,
        )
        .map_err(|e| ChannelError::Rejected { endpoint: endpoint.clone(), rejection: Box::new(e) })?;
        let document = MetadataValue::from_bytes(&project.document());
        Ok(AttestedChannel { connection, origin, endpoint, accepted, project: WithProject { document } })
    }
}

/// Session Evidence as it came, and what it must name to be about the connection it came over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvidence {
    /// The collection (CMW JSON).
    pub collection: Vec<u8>,
    /// SHA-256 of the SPKI of the server's certificate.
    pub tls_spki_sha256: Sha256Digest,
    /// The connection's exporter for the nonce.
    pub exporter: [u8; 32],
    /// What was asked with.
    pub nonce: Nonce,
}

/// A connection whose other end the verifier accepted. It never reconnects.
pub struct AttestedChannel {
    connection: Connection,
    origin: Uri,
    endpoint: Endpoint,
    accepted: SessionResult,
    project: WithProject,
}

impl AttestedChannel {
    /// What was accepted.
    #[must_use]
    pub fn accepted(&self) -> &SessionResult {
        &self.accepted
    }

    /// Where the connection leads.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the connection has broken. Calls on a broken one fail; attest a new one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.sender.is_closed()
    }

    fn service(&self) -> AttestedService {
        InterceptedService::new(self.connection.clone(), self.project.clone())
    }

    /// Client of the build service.
    #[must_use]
    pub fn builds(&self) -> BuildServiceClient<AttestedService> {
        BuildServiceClient::with_origin(self.service(), self.origin.clone())
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_ANSWER)
    }

    /// Client of the context service.
    #[must_use]
    pub fn contexts(&self) -> ContextServiceClient<AttestedService> {
        ContextServiceClient::with_origin(self.service(), self.origin.clone())
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_ANSWER)
    }

    /// Client of the attestation service.
    #[must_use]
    pub fn attestation(&self) -> AttestationServiceClient<AttestedService> {
        AttestationServiceClient::with_origin(self.service(), self.origin.clone())
            .max_decoding_message_size(MAX_ANSWER)
    }
}

impl fmt::Debug for AttestedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttestedChannel({})", self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        for (text, shown) in [
            ("build.example:8443", "build.example:8443"),
            ("https://127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", "build.example", "build.example:0", "build.example:99999", "::1", "a b:1", "http://x"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
