//! The role of a Verifier (RFC 9334): appraising Evidence that answers one's own attestation request, and saying so
//! for others who trust that word.

use std::num::NonZeroU16;

use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::secure_execution::AttestationResult;
use provenance::timestamp::Timestamp;

use super::{OwnRequest, host_key};
use crate::bound;
use crate::evidence::{self, AuthenticationError};
use crate::policy::Policy;
use crate::rejection::{Reason, Rejection};
use crate::reliance::Grounds;
use crate::snp::Endorsements;

const SECONDS_PER_DAY: i64 = 86_400;
/// 9999-12-31T23:59:59Z, the last time there is a spelling for.
const LAST: i64 = 253_402_300_799;

/// Evidence that a Verifier accepts, and what it says about it. Made only by [`vouch`].
#[derive(Debug, Clone)]
pub struct Vouched {
    bundle: EvidenceBundle,
    result: AttestationResult,
}

impl Vouched {
    /// What is to be signed.
    #[must_use]
    pub fn result(&self) -> &AttestationResult {
        &self.result
    }

    /// The collection with the signed Result (DSSE JSON) in it.
    #[must_use]
    pub fn into_collection(mut self, envelope: Vec<u8>) -> Vec<u8> {
        self.bundle.attestation_result = Some(envelope);
        self.bundle.to_json()
    }
}

/// Authenticates and appraises a collection whose Evidence answers `own`, up to leaf, instance document and the guest's
/// configuration. What the leaf is about, a build or a key, is judged by those who rely on the Result.
///
/// Fails with the same reasons as the verification of an image. A Result that the collection has already is not looked
/// at: nobody passes on another's word as its own.
pub fn vouch(
    policy: &Policy,
    evidence_cmw: &[u8],
    extra: &Endorsements,
    own: OwnRequest,
    valid_for_days: NonZeroU16,
    now: Timestamp,
) -> Result<Vouched, Rejection> {
    let judge = || -> Result<Vouched, Reason> {
        let bundle = EvidenceBundle::parse(evidence_cmw)?;
        let own_requests = [own];
        let grounds = Grounds { own_requests: &own_requests, attestation_result: None };
        let authentic =
            evidence::authenticate_with_grounds(&bundle.evidence, extra, grounds, policy.anchors(), now)?;
        let accepted = evidence::appraise(authentic, policy)?;
        let bound = bound::bind(accepted, &bundle)?;
        bound::appraise_rules(bound.instance(), policy)?;
        let appraisal = bound
            .result()
            .secure_execution()
            .ok_or(AuthenticationError::SpeaksForItself { platform: bundle.evidence.platform })?;
        let (claims, root) = (appraisal.authentic().claims(), appraisal.authentic().root());
        let end = now.unix().saturating_add(i64::from(valid_for_days.get()) * SECONDS_PER_DAY).min(LAST);
        let result = AttestationResult {
            evidence_sha256: Sha256Digest::of(&bundle.evidence.report),
            request_sha256: claims.own_request(),
            user_data: claims.user_data().to_vec(),
            image: *claims.image().as_bytes(),
            image_host_key: claims.image_host_key(),
            attestation_host_key: claims.attestation_host_key(),
            config_uid: *claims.config_uid(),
            host_key_root: host_key::root_digest(root),
            policy_sha256: policy.sha256(),
            issued_at: now,
            expires_at: Timestamp::from_unix(end).expect("cut to the last time there is"),
        };
        Ok(Vouched { bundle, result })
    };
    judge().map_err(|reason| Rejection::new(reason, policy))
}
