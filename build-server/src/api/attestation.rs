//! AttestationService: what a client asks before it trusts the connection with anything.

use std::sync::Arc;

use bytes::Bytes;
use enclave_keys::ChallengeKind;
use enclave_keys::process::{KeyClient, KeyFailure};
use proto::v1;
use proto::v1::attestation_service_server::AttestationService;
use provenance::binding::Nonce;
use provenance::challenge::{AttestationRequest, Challenge};
use provenance::evidence::Platform;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::access::{Access, connection};
use super::errors::ApiError;
use super::names;
use crate::endorsements::TdxEndorsementsFile;

/// The service.
pub struct Attestation {
    /// Keys and Evidence.
    pub keys: KeyClient,
    /// Who may call.
    pub access: Access,
    /// Endorsements for Evidence without any.
    pub endorsements: TdxEndorsementsFile,
    /// Places for [`KEY_REQUESTS`].
    pub key_requests: Arc<Semaphore>,
}

/// Secure Execution: most members that wait for key Evidence at a time. It answers their requests anew each time, and its
/// turn is that of builds, which would wait behind them.
pub const KEY_REQUESTS: usize = 4;
/// What one more is told to wait.
const RETRY_AFTER_MILLIS: u64 = 1000;

/// A place among those who wait for key Evidence that answers a request; none is needed where it is kept.
fn place(places: &Arc<Semaphore>, challenge: &Challenge) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    match challenge {
        Challenge::Nonce => Ok(None),
        Challenge::AttestationRequest(_) => Arc::clone(places)
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| KeyFailure::Busy { retry_after_millis: RETRY_AFTER_MILLIS }.into()),
    }
}

impl Attestation {
    /// The challenge of a call, of the kind that this guest's Evidence answers.
    fn challenge(&self, attestation_request: &[u8]) -> Result<Challenge, ApiError> {
        let request = match attestation_request {
            [] => None,
            bytes => Some(
                AttestationRequest::parse(bytes)
                    .map_err(|error| ApiError::field("attestation_request", error.to_string()))?,
            ),
        };
        check_challenge(self.keys.instance().platform, request.as_ref())?;
        Ok(request.into())
    }
}

/// Whether an attestation request is there exactly where Evidence is the answer to one.
pub(super) fn check_challenge(
    platform: Platform,
    request: Option<&AttestationRequest>,
) -> Result<(), ApiError> {
    match (ChallengeKind::of(platform), request) {
        (ChallengeKind::AttestationRequest, None) => Err(ApiError::AttestationRequestMissing),
        (ChallengeKind::Nonce, Some(_)) => Err(ApiError::AttestationRequestUnexpected { platform }),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl AttestationService for Attestation {
    async fn get_evidence(
        &self,
        request: Request<v1::GetEvidenceRequest>,
    ) -> Result<Response<v1::GetEvidenceResponse>, Status> {
        let connection = connection(&request)?;
        let nonce = &request.get_ref().nonce;
        let nonce: [u8; 32] = nonce
            .as_ref()
            .try_into()
            .map_err(|_| ApiError::field("nonce", format!("has {} bytes, wanted exactly 32", nonce.len())))?;
        let nonce = Nonce(nonce);
        let challenge = self.challenge(&request.get_ref().attestation_request)?;
        connection.take_evidence_request().map_err(|retry_after| ApiError::EvidenceRate { retry_after })?;
        let exporter = connection
            .session_exporter(&nonce)
            .ok_or_else(|| ApiError::Internal("the connection gives no exporter".into()))?;
        let (keys, endorsements) = (self.keys.clone(), self.endorsements.clone());
        let evidence = super::blocking(move || {
            Ok(endorsements.complete(keys.session_evidence(exporter, nonce, challenge)?))
        })
        .await?;
        Ok(Response::new(v1::GetEvidenceResponse { evidence: evidence.into() }))
    }

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        let name = request.get_ref().name.clone();
        let project = names::parse_instance(&name).map_err(|name| ApiError::Name { field: "name", name })?;
        let document = Bytes::copy_from_slice(self.keys.instance_document());
        let Some(project) = project else {
            return Ok(Response::new(v1::Instance { name, document, ..Default::default() }));
        };
        self.access.member(&request, project, &name).await?;
        let challenge = self.challenge(&request.get_ref().attestation_request)?;
        let place = place(&self.key_requests, &challenge)?;
        let keys = self.keys.clone();
        let ask = move || {
            // Until the answer is there, also when the caller hangs up before.
            let _place = place;
            Ok(keys.project_key(&project, challenge)?)
        };
        let key = super::blocking(ask).await?;
        Ok(Response::new(v1::Instance {
            name,
            document,
            signing_key: Bytes::copy_from_slice(key.public.spki_der()),
            key_evidence: key.evidence.into(),
            certificate: key.certificate.into(),
            authority_certificate: key.authority.certificate.into(),
            authority_evidence: key.authority.evidence.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AttestationRequest {
        let words = [0x100, 0x40 + 7, 0, 0, 7, 0x40, 64, 0, 64, 0, 0, 0, 0, 0];
        let bytes = [b"pvattest".as_slice(), &words.map(u32::to_be_bytes).concat(), b"request"].concat();
        AttestationRequest::parse(&bytes).expect("a request")
    }

    #[test]
    fn few_members_wait_for_key_evidence_of_their_own_at_a_time() {
        let places = Arc::new(Semaphore::new(KEY_REQUESTS));
        let challenge = Challenge::AttestationRequest(request());
        let mut taken: Vec<_> =
            (0..KEY_REQUESTS).map(|_| place(&places, &challenge).expect("free")).collect();
        let refused = place(&places, &challenge).expect_err("one more");
        assert!(matches!(refused, ApiError::Keys(KeyFailure::Busy { .. })), "{refused}");
        assert!(place(&places, &Challenge::Nonce).expect("kept Evidence needs none").is_none());
        taken.pop();
        assert!(place(&places, &challenge).is_ok());
    }

    #[test]
    fn an_attestation_request_is_wanted_on_secure_execution_and_nowhere_else() {
        let request = request();
        let checked = |platform, request| check_challenge(platform, request);
        assert!(checked(Platform::SecureExecution, Some(&request)).is_ok());
        assert!(matches!(checked(Platform::SecureExecution, None), Err(ApiError::AttestationRequestMissing)));
        for platform in [Platform::SevSnp, Platform::Tdx] {
            assert!(checked(platform, None).is_ok());
            let refused = checked(platform, Some(&request));
            assert!(
                matches!(refused, Err(ApiError::AttestationRequestUnexpected { platform: p }) if p == platform)
            );
        }
    }
}
