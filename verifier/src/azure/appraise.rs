//! Comparing an authentic quote with a policy: the hardware under the paravisor, the paravisor, its attestation key, and
//! what the guest measured into the virtual TPM.

use provenance::digest::Sha256Digest;

use super::AuthenticQuote;
use crate::event_log::EventLogError;
use crate::evidence::PlatformFacts;
use crate::policy::{
    AttestationKeys, AzurePolicy, Paravisor, PcrRule, PcrRules, Placed, Policy, ReferenceValue, SnpPolicy,
    TdxMeasurements, TdxPolicy,
};
use crate::snp::{self, AuthenticReport, SnpRefusal};
use crate::tdx::{self, TdxRefusal};

/// Why an authentic quote is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AzureRefusal {
    /// SEV-SNP under the paravisor.
    #[error(transparent)]
    Snp(#[from] SnpRefusal),
    /// TDX under the paravisor.
    #[error(transparent)]
    Tdx(#[from] TdxRefusal),
    /// Another paravisor.
    #[error("{register} of the paravisor is {got}, policy accepts {}", .wanted.join(", "))]
    Paravisor {
        /// `launch measurement` on SEV-SNP, else the register of the TD.
        register: String,
        /// Value seen, hex.
        got: String,
        /// Values accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// Another virtual TPM.
    #[error("attestation key of the TPM is {got}, policy accepts {}", crate::bound::join(.wanted))]
    AttestationKey {
        /// SHA-256 of the SPKI of the key.
        got: Sha256Digest,
        /// Keys accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// The policy has no Reference Value of the platform.
    #[error("policy has no reference value for this platform")]
    NoReferenceValue {
        /// Line of the policy.
        line: usize,
    },
    /// The quote is not over a PCR that the policy judges.
    #[error("TPM quote is not over PCR {index}, which the policy judges")]
    NotQuoted {
        /// The PCR.
        index: usize,
        /// Line of the policy.
        line: usize,
    },
    /// A PCR has another value.
    #[error("PCR {index} is {got}, policy accepts {}", .wanted.join(", "))]
    Pcr {
        /// The PCR.
        index: usize,
        /// Value seen, hex.
        got: String,
        /// Values accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// The policy judges a PCR by its events, and there is no event log.
    #[error("policy judges PCR {index} by its events, and no event log is in the Evidence")]
    NoEventLog {
        /// The PCR.
        index: usize,
        /// Line of the policy.
        line: usize,
    },
    /// The event log is not that of the quote.
    #[error("{error}")]
    EventLog {
        /// What the log gives and the quote has.
        error: EventLogError,
        /// Line of the policy.
        line: usize,
    },
    /// An event that the policy does not list.
    #[error("PCR {index} was extended with {got}, policy accepts {}", .wanted.join(", "))]
    Event {
        /// The PCR.
        index: usize,
        /// Digest of the event, hex.
        got: String,
        /// Digests accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// An event that the policy lists did not happen.
    #[error("PCR {index} was never extended with {missing}, which the policy lists")]
    MissingEvent {
        /// The PCR.
        index: usize,
        /// Digest of the event, hex.
        missing: String,
        /// Line of the policy.
        line: usize,
    },
}

impl AzureRefusal {
    /// Line of the policy that refuses, when it is a rule of the policy and not of the verifier.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Snp(refusal) => refusal.line(),
            Self::Tdx(refusal) => refusal.line(),
            Self::Paravisor { line, .. }
            | Self::AttestationKey { line, .. }
            | Self::NoReferenceValue { line }
            | Self::NotQuoted { line, .. }
            | Self::Pcr { line, .. }
            | Self::NoEventLog { line, .. }
            | Self::EventLog { line, .. }
            | Self::Event { line, .. }
            | Self::MissingEvent { line, .. } => Some(*line),
        }
    }

    /// Whether hardware and paravisor are accepted, and what was booted is not.
    #[must_use]
    pub fn concerns_guest(&self) -> bool {
        !matches!(self, Self::Snp(_) | Self::Tdx(_) | Self::Paravisor { .. } | Self::AttestationKey { .. })
    }
}

/// A quote whose PCRs the policy accepts, with the Reference Value that they match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureAppraisal<Hardware = AuthenticReport> {
    quote: AuthenticQuote<Hardware>,
    reference: ReferenceValue,
}

impl<Hardware> AzureAppraisal<Hardware> {
    /// The quote.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticQuote<Hardware> {
        &self.quote
    }

    /// The Reference Value that the PCRs match.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        &self.reference
    }
}

/// Compares chip, firmware, paravisor and its attestation key with the policy. Gives the paravisor's name there.
pub(crate) fn appraise_snp(
    quote: &AuthenticQuote<AuthenticReport>,
    rules: &AzurePolicy<SnpPolicy, [u8; 48]>,
) -> Result<String, AzureRefusal> {
    snp::appraise_hardware(quote.report(), &rules.hardware)?;
    let got = quote.report().report().measurement();
    let accepted = &rules.paravisors;
    let Some(paravisor) = accepted.value.iter().find(|paravisor| paravisor.measured == *got) else {
        return Err(AzureRefusal::Paravisor {
            register: "launch measurement".to_owned(),
            got: hex::encode(got),
            wanted: accepted.value.iter().map(|paravisor| hex::encode(paravisor.measured)).collect(),
            line: accepted.line,
        });
    };
    attestation_key(quote, &rules.attestation_keys)?;
    Ok(paravisor.name.clone())
}

/// The same on TDX.
pub(crate) fn appraise_tdx(
    quote: &AuthenticQuote<tdx::AuthenticQuote>,
    rules: &AzurePolicy<TdxPolicy, TdxMeasurements>,
) -> Result<String, AzureRefusal> {
    tdx::appraise_hardware(quote.td_quote(), &rules.hardware)?;
    let accepted: Vec<_> =
        rules.paravisors.value.iter().map(|paravisor| (paravisor, &paravisor.measured)).collect();
    let paravisor: &Paravisor<_> =
        tdx::match_registers(quote.td_quote().quote(), accepted).map_err(|other| {
            AzureRefusal::Paravisor {
                register: other.register.to_string(),
                got: hex::encode(other.got),
                wanted: other.wanted.iter().map(hex::encode).collect(),
                line: other.line.unwrap_or(rules.paravisors.line),
            }
        })?;
    attestation_key(quote, &rules.attestation_keys)?;
    Ok(paravisor.name.clone())
}

fn attestation_key<Hardware>(
    quote: &AuthenticQuote<Hardware>,
    accepted: &Placed<AttestationKeys>,
) -> Result<(), AzureRefusal> {
    let got = quote.attestation_key();
    match &accepted.value {
        AttestationKeys::AnyOfParavisor => Ok(()),
        AttestationKeys::OneOf(keys) if keys.contains(&got) => Ok(()),
        AttestationKeys::OneOf(keys) => {
            Err(AzureRefusal::AttestationKey { got, wanted: keys.clone(), line: accepted.line })
        }
    }
}

/// Compares PCRs with the policy's Reference Values.
pub(crate) fn appraise_guest<Hardware: PlatformFacts>(
    quote: AuthenticQuote<Hardware>,
    policy: &Policy,
) -> Result<AzureAppraisal<Hardware>, AzureRefusal> {
    let mut candidates: Vec<(&ReferenceValue, &PcrRules)> = policy
        .reference_values()
        .iter()
        .filter_map(|reference| Some((reference, reference.measurements.pcrs(quote.platform())?)))
        .collect();
    for index in 0..PcrRules::COUNT {
        let (mut left, mut first, mut values) = (Vec::new(), None, Vec::new());
        for (reference, rules) in candidates {
            let rule = rules.rule(index);
            match judge_pcr(&quote, index, rule) {
                Ok(()) => left.push((reference, rules)),
                Err(refusal) => {
                    first = first.or(Some(refusal));
                }
            }
            if let PcrRule::Value(value) = &rule.value {
                values.push(hex::encode(value));
            }
        }
        if left.is_empty() {
            return Err(match first {
                Some(AzureRefusal::Pcr { index, got, line, .. }) => {
                    AzureRefusal::Pcr { index, got, wanted: values, line }
                }
                Some(refusal) => refusal,
                None => AzureRefusal::NoReferenceValue { line: policy.reference_values_line() },
            });
        }
        candidates = left;
    }
    let (reference, _) = candidates.first().expect("each PCR has left one, or was refused");
    let reference = (*reference).clone();
    Ok(AzureAppraisal { quote, reference })
}

fn judge_pcr<Hardware>(
    quote: &AuthenticQuote<Hardware>,
    index: usize,
    rule: &Placed<PcrRule>,
) -> Result<(), AzureRefusal> {
    let line = rule.line;
    if rule.value == PcrRule::NotJudged {
        return Ok(());
    }
    let got = quote.pcr(index).ok_or(AzureRefusal::NotQuoted { index, line })?;
    match &rule.value {
        PcrRule::NotJudged => Ok(()),
        PcrRule::Value(value) if value == got => Ok(()),
        PcrRule::Value(value) => {
            let wanted = vec![hex::encode(value)];
            Err(AzureRefusal::Pcr { index, got: hex::encode(got), wanted, line })
        }
        PcrRule::Events(listed) => {
            let log = quote.event_log().ok_or(AzureRefusal::NoEventLog { index, line })?;
            let replayed = log.replay(index);
            if replayed != *got {
                let (replayed, quote) = (hex::encode(replayed), hex::encode(got));
                let error = EventLogError::Pcr { index, replayed, quote };
                return Err(AzureRefusal::EventLog { error, line });
            }
            if let Some(other) = log.digests(index).find(|digest| !listed.contains(digest)) {
                let wanted = listed.iter().map(hex::encode).collect();
                return Err(AzureRefusal::Event { index, got: hex::encode(other), wanted, line });
            }
            match listed.iter().find(|wanted| !log.digests(index).any(|digest| digest == *wanted)) {
                None => Ok(()),
                Some(missing) => {
                    Err(AzureRefusal::MissingEvent { index, missing: hex::encode(missing), line })
                }
            }
        }
    }
}
