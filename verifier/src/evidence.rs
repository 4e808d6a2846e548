//! Evidence of any platform: authenticated to a pinned root, then appraised. One module per platform stands behind
//! [`authenticate`]; the types here are all that later steps see.
//!
//! [`Evidence`] → [`AuthenticEvidence`] → [`AppraisedHardware`] → [`AttestationResult`]. Each is made only from the
//! one before; none can be made in another way.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::timestamp::Timestamp;

use crate::policy::{Policy, ReferenceValue};
use crate::roots::{Anchors, Root};
use crate::snp::{self, AuthenticReport, Endorsements, SigningKey, SnpAppraisal, SnpError, SnpRefusal};
use crate::{secure_execution, tdx};

/// Why Evidence is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// The platform has no appraisal here yet.
    #[error("platform {platform} is not yet appraised by this verifier")]
    NotYetAppraised {
        /// The platform.
        platform: Platform,
    },
    /// SEV-SNP.
    #[error(transparent)]
    Snp(#[from] SnpError),
}

/// Why authentic Evidence is refused by the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppraisalError {
    /// The policy does not accept the platform.
    #[error("platform is {got}, which the policy does not accept")]
    PlatformNotAccepted {
        /// The platform.
        got: Platform,
        /// Line of the policy.
        line: usize,
    },
    /// SEV-SNP.
    #[error(transparent)]
    Snp(#[from] SnpRefusal),
}

/// Evidence whose signatures lead to an accepted root. Nothing it says has been compared with a policy.
#[derive(Debug, Clone)]
pub struct AuthenticEvidence(AuthenticPlatform);

#[derive(Debug, Clone)]
enum AuthenticPlatform {
    SevSnp(Box<AuthenticReport>),
}

impl AuthenticEvidence {
    /// The SEV-SNP report, when it is one.
    #[must_use]
    pub fn snp(&self) -> Option<&AuthenticReport> {
        let AuthenticPlatform::SevSnp(report) = &self.0;
        Some(report)
    }
}

/// Authenticates Evidence to a root of `anchors`, with certificates judged as of `now`.
///
/// `extra` is looked at for what the Evidence's own endorsements lack.
pub fn authenticate(
    evidence: &Evidence,
    extra: &Endorsements,
    anchors: &Anchors,
    now: Timestamp,
) -> Result<AuthenticEvidence, AuthenticationError> {
    let platform = match evidence.platform {
        Platform::SevSnp => {
            let report = snp::authenticate(&evidence.report, &evidence.endorsements, extra, anchors, now)?;
            AuthenticPlatform::SevSnp(Box::new(report))
        }
        Platform::Tdx => tdx::authenticate(evidence)?,
        Platform::SecureExecution => secure_execution::authenticate(evidence)?,
    };
    Ok(AuthenticEvidence(platform))
}

/// Evidence whose hardware and firmware the policy accepts. The guest's launch measurement is not judged yet.
#[derive(Debug, Clone)]
pub struct AppraisedHardware(AuthenticPlatform);

/// Compares platform, firmware and the guest's launch options with the policy.
pub fn appraise_hardware(
    evidence: AuthenticEvidence,
    policy: &Policy,
) -> Result<AppraisedHardware, AppraisalError> {
    let AuthenticPlatform::SevSnp(report) = &evidence.0;
    let got = Platform::SevSnp;
    let rules = policy.snp().ok_or(AppraisalError::PlatformNotAccepted { got, line: policy.roots_line() })?;
    snp::appraise_hardware(report, rules)?;
    Ok(AppraisedHardware(evidence.0))
}

impl AppraisedHardware {
    /// Lines that describe the hardware for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let AuthenticPlatform::SevSnp(report) = &self.0;
        snp_lines(report)
    }

    /// Compares the launch measurement with the policy's Reference Values.
    pub fn appraise_guest(self, policy: &Policy) -> Result<AttestationResult, AppraisalError> {
        let AuthenticPlatform::SevSnp(report) = self.0;
        Ok(AttestationResult(AppraisedPlatform::SevSnp(Box::new(snp::appraise_guest(*report, policy)?))))
    }
}

/// Appraises hardware and guest.
pub fn appraise(evidence: AuthenticEvidence, policy: &Policy) -> Result<AttestationResult, AppraisalError> {
    appraise_hardware(evidence, policy)?.appraise_guest(policy)
}

/// Evidence that the policy accepts as a whole: which guest runs on which hardware (RATS Attestation Result).
#[derive(Debug, Clone)]
pub struct AttestationResult(AppraisedPlatform);

#[derive(Debug, Clone)]
enum AppraisedPlatform {
    SevSnp(Box<SnpAppraisal>),
}

impl AttestationResult {
    fn snp_appraisal(&self) -> &SnpAppraisal {
        let AppraisedPlatform::SevSnp(appraisal) = &self.0;
        appraisal
    }

    /// The platform.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self.0 {
            AppraisedPlatform::SevSnp(_) => Platform::SevSnp,
        }
    }

    /// The root that the Evidence was traced to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.snp_appraisal().authentic().root()
    }

    /// The 64 bytes that the guest had signed.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        ReportData(*self.snp_appraisal().authentic().report().report_data())
    }

    /// The Reference Value that the guest matched.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        self.snp_appraisal().reference()
    }

    /// Launch measurement in hex.
    #[must_use]
    pub fn measurement(&self) -> String {
        hex::encode(self.snp_appraisal().authentic().report().measurement())
    }

    /// `SEV-SNP Milan`.
    #[must_use]
    pub fn hardware_name(&self) -> String {
        format!("{} {}", self.platform(), self.snp_appraisal().authentic().product())
    }

    /// The TCB reported, as text.
    #[must_use]
    pub fn tcb(&self) -> String {
        self.snp_appraisal().authentic().reported_tcb().to_string()
    }

    /// The chip's id in hex; `None` under a VLEK.
    #[must_use]
    pub fn chip_id(&self) -> Option<String> {
        let report = self.snp_appraisal().authentic().report();
        (report.signing_key() == SigningKey::Vcek).then(|| hex::encode(report.chip_id()))
    }

    /// The SEV-SNP appraisal, when it is one.
    #[must_use]
    pub fn snp(&self) -> Option<&SnpAppraisal> {
        Some(self.snp_appraisal())
    }
}

/// First and last digits of a long hex text, for orientation.
pub(crate) fn short_hex(hex: &str) -> String {
    match (hex.get(..8), hex.get(hex.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if hex.len() > 16 => format!("{head}…{tail}"),
        _ => hex.to_owned(),
    }
}

fn snp_lines(authentic: &AuthenticReport) -> Vec<String> {
    let report = authentic.report();
    let who = match report.signing_key() {
        SigningKey::Vcek => format!("chip {}", short_hex(&hex::encode(report.chip_id()))),
        SigningKey::Vlek => format!("VLEK of {}", authentic.csp_id().unwrap_or("an unnamed provider")),
    };
    let not_hardware = if authentic.root().is_hardware() { "" } else { "NOT HARDWARE: says " };
    let endorsed = match authentic.root() {
        Root::Amd(product) => {
            format!("endorsed by AMD root {product}; judged today (no proof of the signing time attached)")
        }
        Root::Dangerous(digest) => {
            format!(
                "NOT HARDWARE: root {digest} is no vendor's, only the policy's dangerous_roots; judged today"
            )
        }
    };
    vec![
        format!(
            "{not_hardware}AMD SEV-SNP {}, {who}, TCB {} ≥ policy, not debug, VMPL {}",
            authentic.product(),
            authentic.reported_tcb(),
            report.vmpl()
        ),
        endorsed,
    ]
}
