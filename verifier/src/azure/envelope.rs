//! From the bundle to an authentic quote, on either hardware.

use provenance::azure::AzureEvidence;
use provenance::evidence::Evidence;

use super::{AuthenticQuote, AzureError, authenticate, authenticate_tdx};
use crate::evidence::Endorsements;
use crate::roots::Anchors;
use crate::snp::{AuthenticReport, SnpError};
use crate::tdx;
use crate::time::Moment;

/// Authenticates a bundle's Evidence of [`provenance::evidence::Platform::AzSnp`].
pub(crate) fn authenticate_snp_evidence(
    evidence: &Evidence,
    extra: &Endorsements,
    anchors: &Anchors,
    moment: Moment,
) -> Result<AuthenticQuote<AuthenticReport>, AzureError> {
    let parts = AzureEvidence::parse(&evidence.report)?;
    authenticate(&parts, &evidence.endorsements, extra, anchors, moment)
}

/// Authenticates a bundle's Evidence of [`provenance::evidence::Platform::AzTdx`].
pub(crate) fn authenticate_tdx_evidence(
    evidence: &Evidence,
    extra: &Endorsements,
    anchors: &Anchors,
    moment: Moment,
) -> Result<AuthenticQuote<tdx::AuthenticQuote>, AzureError> {
    let parts = AzureEvidence::parse(&evidence.report)?;
    authenticate_tdx(&parts, &evidence.endorsements, extra, anchors, moment)
}

impl AzureError {
    /// Whether other or newer endorsements could heal it.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::Snp(error) => error.concerns_endorsements(),
            Self::Tdx(error) => error.concerns_endorsements(),
            _ => false,
        }
    }

    /// Whether the Evidence may well be genuine, but the policy or the verifier accepts nothing of its kind.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Snp(error) => matches!(error, SnpError::RootNotAccepted { .. }),
            Self::Tdx(error) => error.is_refusal(),
            _ => false,
        }
    }
}
