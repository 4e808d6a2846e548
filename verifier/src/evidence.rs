//! Evidence of any platform: authenticated to a pinned root, then appraised. One module per platform stands behind
//! [`authenticate`]; the types here are all that later steps see.
//!
//! [`Evidence`] → [`AuthenticEvidence`] → [`AppraisedHardware`] → [`AttestationResult`]. Each is made only from the
//! one before; none can be made in another way.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};

use crate::azure::{self, AzureAppraisal, AzureError, AzureRefusal};
use crate::bound::BindingError;
pub use crate::given::{Endorsements, TooManyEndorsements};
use crate::policy::{Policy, ReferenceValue};
use crate::reliance::{Grounds, Reliance};
use crate::roots::{Anchors, Root};
use crate::secure_execution::{self, AuthenticMeasurement, HostKeyError, SeAppraisal, SeError, SeRefusal};
use crate::snp::{self, AuthenticReport, SnpAppraisal, SnpError, SnpRefusal};
use crate::tdx::{self, AuthenticQuote, TdxAppraisal, TdxError, TdxRefusal};
use crate::time::Moment;

/// Why Evidence is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// An Attestation Result where the hardware itself signs.
    #[error("an Attestation Result is with Evidence of {platform}, which speaks for itself")]
    UnexpectedResult {
        /// The platform.
        platform: Platform,
    },
    /// A Verifier is asked to vouch for what the hardware itself signs.
    #[error("Evidence of {platform} speaks for itself: nobody needs an Attestation Result about it")]
    SpeaksForItself {
        /// The platform.
        platform: Platform,
    },
    /// SEV-SNP.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// TDX.
    #[error(transparent)]
    Tdx(#[from] TdxError),
    /// Secure Execution.
    #[error(transparent)]
    SecureExecution(#[from] SeError),
    /// Azure.
    #[error(transparent)]
    Azure(#[from] AzureError),
}

impl AuthenticationError {
    /// Whether other or newer endorsements could heal it.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::UnexpectedResult { .. } | Self::SpeaksForItself { .. } => false,
            Self::Snp(error) => error.concerns_endorsements(),
            Self::Tdx(error) => error.concerns_endorsements(),
            Self::SecureExecution(error) => error.concerns_endorsements(),
            Self::Azure(error) => error.concerns_endorsements(),
        }
    }

    /// Whether more endorsements are given than are looked at, so that nothing is said about the Evidence.
    #[must_use]
    pub fn concerns_number_given(&self) -> bool {
        matches!(
            self,
            Self::Snp(SnpError::TooMany(_))
                | Self::Tdx(TdxError::TooMany(_))
                | Self::SecureExecution(SeError::HostKey(HostKeyError::TooMany(_)))
                | Self::Azure(AzureError::Snp(SnpError::TooMany(_)) | AzureError::Tdx(TdxError::TooMany(_)))
        )
    }

    /// Whether the Evidence may well be genuine, but the policy or the verifier accepts nothing of its kind.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnexpectedResult { .. } => false,
            Self::SpeaksForItself { .. } => true,
            Self::Snp(error) => matches!(error, SnpError::RootNotAccepted { .. }),
            Self::Tdx(error) => error.is_refusal(),
            Self::SecureExecution(error) => error.is_refusal(),
            Self::Azure(error) => error.is_refusal(),
        }
    }

    /// Whether the root is none that the policy accepts.
    #[must_use]
    pub fn concerns_root(&self) -> bool {
        matches!(
            self,
            Self::Snp(SnpError::UnknownRoot { .. } | SnpError::RootNotAccepted { .. })
                | Self::Tdx(TdxError::UnknownRoot { .. } | TdxError::RootNotAccepted)
                | Self::Azure(
                    AzureError::Snp(SnpError::UnknownRoot { .. } | SnpError::RootNotAccepted { .. })
                        | AzureError::Tdx(TdxError::UnknownRoot { .. } | TdxError::RootNotAccepted)
                )
                | Self::SecureExecution(
                    SeError::HostKey(HostKeyError::UnknownRoot { .. }) | SeError::RootNotAccepted
                )
        )
    }
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
    /// TDX.
    #[error(transparent)]
    Tdx(#[from] TdxRefusal),
    /// Secure Execution.
    #[error(transparent)]
    SecureExecution(#[from] SeRefusal),
    /// Azure.
    #[error(transparent)]
    Azure(#[from] AzureRefusal),
}

impl AppraisalError {
    /// Line of the policy that refuses, when it is a rule of the policy and not of the verifier.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::PlatformNotAccepted { line, .. } => Some(*line),
            Self::Snp(refusal) => refusal.line(),
            Self::Tdx(refusal) => refusal.line(),
            Self::SecureExecution(refusal) => refusal.line(),
            Self::Azure(refusal) => refusal.line(),
        }
    }

    /// Whether the hardware is accepted and what was launched on it is not.
    #[must_use]
    pub fn concerns_guest(&self) -> bool {
        match self {
            Self::Snp(SnpRefusal::Measurement { .. })
            | Self::Tdx(TdxRefusal::Measurement { .. })
            | Self::SecureExecution(SeRefusal::Image { .. }) => true,
            Self::Azure(refusal) => refusal.concerns_guest(),
            _ => false,
        }
    }

    /// Whether hardware and guest are accepted, and that the Evidence covers no more than a key is not.
    #[must_use]
    pub fn concerns_key(&self) -> bool {
        matches!(self, Self::SecureExecution(SeRefusal::KeyOnly { .. }))
    }
}

/// What Evidence of any platform says, for later steps and for outputs.
pub(crate) trait PlatformFacts {
    /// The platform.
    fn platform(&self) -> Platform;
    /// The root that it was traced to.
    fn root(&self) -> Root;
    /// Checks that the guest had these 64 bytes signed.
    fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError>;
    /// Launch measurement in hex.
    fn measurement(&self) -> String;
    /// `SEV-SNP Milan`, `TDX 00806f050000`.
    fn hardware_name(&self) -> String;
    /// The TCB, as text.
    fn tcb(&self) -> String;
    /// The chip's id in hex, where the platform shows one.
    fn chip_id(&self) -> Option<String>;
    /// What is relied on.
    fn reliance(&self) -> &Reliance {
        &Reliance::Hardware
    }
    /// Measurement registers beside the launch measurement, by name, in hex.
    fn registers(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// What the vendor says is wrong with hardware and firmware: a status that is not the best, advisories.
    fn known_flaws(&self) -> Vec<String> {
        Vec::new()
    }
    /// Lines that describe the hardware for people.
    fn lines(&self) -> Vec<String>;
}

/// Evidence whose signatures lead to an accepted root. Nothing it says has been compared with a policy.
#[derive(Debug, Clone)]
pub struct AuthenticEvidence(AuthenticPlatform);

#[derive(Debug, Clone)]
enum AuthenticPlatform {
    SevSnp(Box<AuthenticReport>),
    Tdx(Box<AuthenticQuote>),
    SecureExecution(Box<AuthenticMeasurement>),
    AzSnp(Box<azure::AuthenticQuote<AuthenticReport>>),
    AzTdx(Box<azure::AuthenticQuote<AuthenticQuote>>),
}

impl AuthenticPlatform {
    fn facts(&self) -> &dyn PlatformFacts {
        match self {
            Self::SevSnp(report) => report.as_ref(),
            Self::Tdx(quote) => quote.as_ref(),
            Self::SecureExecution(measurement) => measurement.as_ref(),
            Self::AzSnp(quote) => quote.as_ref(),
            Self::AzTdx(quote) => quote.as_ref(),
        }
    }
}

impl AuthenticEvidence {
    /// The SEV-SNP report, when it is one.
    #[must_use]
    pub fn snp(&self) -> Option<&AuthenticReport> {
        match &self.0 {
            AuthenticPlatform::SevSnp(report) => Some(report),
            _ => None,
        }
    }

    /// The TDX quote, when it is one.
    #[must_use]
    pub fn tdx(&self) -> Option<&AuthenticQuote> {
        match &self.0 {
            AuthenticPlatform::Tdx(quote) => Some(quote),
            _ => None,
        }
    }

    /// The answer of Secure Execution, when it is one.
    #[must_use]
    pub fn secure_execution(&self) -> Option<&AuthenticMeasurement> {
        match &self.0 {
            AuthenticPlatform::SecureExecution(measurement) => Some(measurement),
            _ => None,
        }
    }

    /// The TPM quote and SEV-SNP report from behind Azure's paravisor, when it is one.
    #[must_use]
    pub fn az_snp(&self) -> Option<&azure::AuthenticQuote<AuthenticReport>> {
        match &self.0 {
            AuthenticPlatform::AzSnp(quote) => Some(quote),
            _ => None,
        }
    }

    /// The TPM quote and TDX quote from behind Azure's paravisor, when it is one.
    #[must_use]
    pub fn az_tdx(&self) -> Option<&azure::AuthenticQuote<AuthenticQuote>> {
        match &self.0 {
            AuthenticPlatform::AzTdx(quote) => Some(quote),
            _ => None,
        }
    }
}

/// Authenticates Evidence to a root of `anchors`, with certificates judged as of `moment`: today, or a time of the past
/// that a timestamp proves ([`crate::time`]). Revocation lists are believed whatever their age, and where the policy
/// demands current ones they are current today. Secure Execution is judged as of today in any case.
///
/// `extra` is looked at for what the Evidence's own endorsements lack. Evidence of Secure Execution needs more to be
/// convincing: see [`authenticate_with_grounds`].
pub fn authenticate(
    evidence: &Evidence,
    extra: &Endorsements,
    anchors: &Anchors,
    moment: impl Into<Moment>,
) -> Result<AuthenticEvidence, AuthenticationError> {
    authenticate_with_grounds(evidence, extra, Grounds::default(), anchors, moment)
}

/// The same, with own attestation requests and the Attestation Result that came with the Evidence.
pub fn authenticate_with_grounds(
    evidence: &Evidence,
    extra: &Endorsements,
    grounds: Grounds<'_>,
    anchors: &Anchors,
    moment: impl Into<Moment>,
) -> Result<AuthenticEvidence, AuthenticationError> {
    let moment = moment.into();
    if grounds.attestation_result.is_some() && evidence.platform != Platform::SecureExecution {
        return Err(AuthenticationError::UnexpectedResult { platform: evidence.platform });
    }
    let platform = match evidence.platform {
        Platform::SevSnp => {
            let report = snp::authenticate(&evidence.report, &evidence.endorsements, extra, anchors, moment)?;
            AuthenticPlatform::SevSnp(Box::new(report))
        }
        Platform::Tdx => {
            let quote =
                tdx::authenticate(&evidence.report, &evidence.endorsements, &extra.tdx, anchors, moment)?;
            AuthenticPlatform::Tdx(Box::new(quote))
        }
        Platform::SecureExecution => {
            let measurement =
                secure_execution::authenticate(evidence, extra, grounds, anchors, moment.today())?;
            AuthenticPlatform::SecureExecution(Box::new(measurement))
        }
        Platform::AzSnp => {
            let quote = azure::authenticate_snp_evidence(evidence, extra, anchors, moment)?;
            AuthenticPlatform::AzSnp(Box::new(quote))
        }
        Platform::AzTdx => {
            let quote = azure::authenticate_tdx_evidence(evidence, extra, anchors, moment)?;
            AuthenticPlatform::AzTdx(Box::new(quote))
        }
    };
    Ok(AuthenticEvidence(platform))
}

/// Evidence whose hardware and firmware the policy accepts. The guest's launch measurement is not judged yet.
#[derive(Debug, Clone)]
pub struct AppraisedHardware {
    platform: AuthenticPlatform,
    paravisor: Option<String>,
}

/// Compares platform, firmware and the guest's launch options with the policy.
pub fn appraise_hardware(
    evidence: AuthenticEvidence,
    policy: &Policy,
) -> Result<AppraisedHardware, AppraisalError> {
    let not_accepted = |got| AppraisalError::PlatformNotAccepted { got, line: policy.roots_line() };
    let mut paravisor = None;
    match &evidence.0 {
        AuthenticPlatform::SevSnp(report) => {
            snp::appraise_hardware(report, policy.snp().ok_or(not_accepted(Platform::SevSnp))?)?;
        }
        AuthenticPlatform::Tdx(quote) => {
            tdx::appraise_hardware(quote, policy.tdx().ok_or(not_accepted(Platform::Tdx))?)?;
        }
        AuthenticPlatform::SecureExecution(measurement) => {
            let rules = policy.secure_execution().ok_or(not_accepted(Platform::SecureExecution))?;
            secure_execution::appraise_hardware(measurement, policy.evidence_kinds(), rules)?;
        }
        AuthenticPlatform::AzSnp(quote) => {
            let rules = policy.az_snp().ok_or(not_accepted(Platform::AzSnp))?;
            paravisor = Some(azure::appraise_snp(quote, rules)?);
        }
        AuthenticPlatform::AzTdx(quote) => {
            let rules = policy.az_tdx().ok_or(not_accepted(Platform::AzTdx))?;
            paravisor = Some(azure::appraise_tdx(quote, rules)?);
        }
    }
    Ok(AppraisedHardware { platform: evidence.0, paravisor })
}

impl AppraisedHardware {
    /// Lines that describe the hardware for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.platform.facts().lines();
        lines.extend(self.paravisor.as_ref().map(|name| {
            format!(
                "Microsoft's paravisor \"{name}\" is trusted too: its TPM, not the hardware, speaks of the guest"
            )
        }));
        lines
    }

    /// What the vendor says is wrong with hardware and firmware, and the policy accepts.
    pub(crate) fn known_flaws(&self) -> Vec<String> {
        self.platform.facts().known_flaws()
    }

    /// Compares the launch measurement with the policy's Reference Values.
    pub fn appraise_guest(self, policy: &Policy) -> Result<AttestationResult, AppraisalError> {
        let platform = match self.platform {
            AuthenticPlatform::SevSnp(report) => {
                AppraisedPlatform::SevSnp(Box::new(snp::appraise_guest(*report, policy)?))
            }
            AuthenticPlatform::Tdx(quote) => {
                AppraisedPlatform::Tdx(Box::new(tdx::appraise_guest(*quote, policy)?))
            }
            AuthenticPlatform::SecureExecution(measurement) => {
                let appraisal = secure_execution::appraise_guest(*measurement, policy)?;
                AppraisedPlatform::SecureExecution(Box::new(appraisal))
            }
            AuthenticPlatform::AzSnp(quote) => {
                AppraisedPlatform::AzSnp(Box::new(azure::appraise_guest(*quote, policy)?))
            }
            AuthenticPlatform::AzTdx(quote) => {
                AppraisedPlatform::AzTdx(Box::new(azure::appraise_guest(*quote, policy)?))
            }
        };
        Ok(AttestationResult { platform, paravisor: self.paravisor })
    }
}

/// Appraises hardware and guest.
pub fn appraise(evidence: AuthenticEvidence, policy: &Policy) -> Result<AttestationResult, AppraisalError> {
    appraise_hardware(evidence, policy)?.appraise_guest(policy)
}

/// Evidence that the policy accepts as a whole: which guest runs on which hardware (RATS Attestation Result).
#[derive(Debug, Clone)]
pub struct AttestationResult {
    platform: AppraisedPlatform,
    paravisor: Option<String>,
}

#[derive(Debug, Clone)]
enum AppraisedPlatform {
    SevSnp(Box<SnpAppraisal>),
    Tdx(Box<TdxAppraisal>),
    SecureExecution(Box<SeAppraisal>),
    AzSnp(Box<AzureAppraisal<AuthenticReport>>),
    AzTdx(Box<AzureAppraisal<AuthenticQuote>>),
}

impl AttestationResult {
    pub(crate) fn facts(&self) -> &dyn PlatformFacts {
        match &self.platform {
            AppraisedPlatform::SevSnp(appraisal) => appraisal.authentic(),
            AppraisedPlatform::Tdx(appraisal) => appraisal.authentic(),
            AppraisedPlatform::SecureExecution(appraisal) => appraisal.authentic(),
            AppraisedPlatform::AzSnp(appraisal) => appraisal.authentic(),
            AppraisedPlatform::AzTdx(appraisal) => appraisal.authentic(),
        }
    }

    /// The platform.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.facts().platform()
    }

    /// The root that the Evidence was traced to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.facts().root()
    }

    /// Checks that the guest had these 64 bytes signed.
    pub fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError> {
        self.facts().check_report_data(wanted)
    }

    /// Name in the policy of the paravisor that the guest runs behind; `None` but on Azure.
    #[must_use]
    pub fn paravisor(&self) -> Option<&str> {
        self.paravisor.as_deref()
    }

    /// The Reference Value that the guest matched.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        match &self.platform {
            AppraisedPlatform::SevSnp(appraisal) => appraisal.reference(),
            AppraisedPlatform::Tdx(appraisal) => appraisal.reference(),
            AppraisedPlatform::SecureExecution(appraisal) => appraisal.reference(),
            AppraisedPlatform::AzSnp(appraisal) => appraisal.reference(),
            AppraisedPlatform::AzTdx(appraisal) => appraisal.reference(),
        }
    }

    /// On whose word it rests.
    #[must_use]
    pub fn reliance(&self) -> &Reliance {
        self.facts().reliance()
    }

    /// Launch measurement in hex: MEASUREMENT or MRTD; the four tags of an image with colons between; behind Azure's
    /// paravisor the digest of the PCRs that its TPM quoted.
    #[must_use]
    pub fn measurement(&self) -> String {
        self.facts().measurement()
    }

    /// `SEV-SNP Milan`, `TDX 00806f050000`.
    #[must_use]
    pub fn hardware_name(&self) -> String {
        self.facts().hardware_name()
    }

    /// The TCB, as text.
    #[must_use]
    pub fn tcb(&self) -> String {
        self.facts().tcb()
    }

    /// The chip's id in hex, on Secure Execution the hash of the host key that unpacked the image; `None` under a VLEK
    /// and on TDX, whose quotes show none.
    #[must_use]
    pub fn chip_id(&self) -> Option<String> {
        self.facts().chip_id()
    }

    /// The SEV-SNP appraisal, when it is one.
    #[must_use]
    pub fn snp(&self) -> Option<&SnpAppraisal> {
        match &self.platform {
            AppraisedPlatform::SevSnp(appraisal) => Some(appraisal),
            _ => None,
        }
    }

    /// The TDX appraisal, when it is one.
    #[must_use]
    pub fn tdx(&self) -> Option<&TdxAppraisal> {
        match &self.platform {
            AppraisedPlatform::Tdx(appraisal) => Some(appraisal),
            _ => None,
        }
    }

    /// The appraisal of Secure Execution, when it is one.
    #[must_use]
    pub fn secure_execution(&self) -> Option<&SeAppraisal> {
        match &self.platform {
            AppraisedPlatform::SecureExecution(appraisal) => Some(appraisal),
            _ => None,
        }
    }
}

/// First and last digits of a long hex text, for orientation.
pub(crate) fn short_hex(hex: &str) -> String {
    match (hex.get(..8), hex.get(hex.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if hex.len() > 16 => format!("{head}…{tail}"),
        _ => hex.to_owned(),
    }
}

/// `NOT HARDWARE: says ` before what only a policy's own root endorses.
pub(crate) fn not_hardware_mark(root: Root) -> &'static str {
    if root.is_hardware() { "" } else { "NOT HARDWARE: says " }
}

/// The line that names who endorses the hardware.
pub(crate) fn endorsed_line(root: Root) -> String {
    if let Root::Dangerous(digest) = root {
        return format!("NOT HARDWARE: root {digest} is no vendor's, only the policy's dangerous_roots");
    }
    format!("endorsed by {root}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_digests_are_shortened_and_short_ones_are_not() {
        assert_eq!(short_hex("0123456789abcdef"), "0123456789abcdef");
        assert_eq!(short_hex("0123456789abcdef0"), "01234567…def0");
        assert_eq!(short_hex("0123"), "0123");
        assert_eq!(short_hex(""), "");
    }
}
