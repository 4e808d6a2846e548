//! Comparing an authentic TDX quote with a policy.

use super::quote::{BodyType, body, td_attributes};
use super::tcb::TcbStatus;
use super::{AuthenticQuote, Quote};
use crate::policy::{
    AcceptedModules, Measurements, Policy, ReferenceValue, TdxMeasurements, TdxPolicy, TdxRegister,
};

/// Why an authentic quote is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TdxRefusal {
    /// The host can look into the TD.
    #[error(
        "TD attributes {attributes:#x} are of a TD under debug (bits 0 to 7, quote offset {offset:#x}): the host can read its memory; no policy can accept that"
    )]
    Debug {
        /// TDATTRIBUTES.
        attributes: u64,
        /// Their offset in the quote.
        offset: usize,
    },
    /// The TD can be moved to another host.
    #[error(
        "TD attributes {attributes:#x} allow migration (bit 29, quote offset {offset:#x}); no policy can accept that"
    )]
    Migratable {
        /// TDATTRIBUTES.
        attributes: u64,
        /// Their offset in the quote.
        offset: usize,
    },
    /// The host could exchange memory that the TD has accepted without the TD noticing.
    #[error(
        "TD attributes {attributes:#x} leave SEPT_VE_DISABLE clear (bit 28, quote offset {offset:#x}): the host can take memory away unnoticed; no policy can accept that"
    )]
    SeptVeEnabled {
        /// TDATTRIBUTES.
        attributes: u64,
        /// Their offset in the quote.
        offset: usize,
    },
    /// Another TD, such as a migration TD, can act on this one.
    #[error(
        "a service TD is bound: MRSERVICETD is {got}, wanted zero (quote offset {offset:#x}); no policy can accept that"
    )]
    ServiceTd {
        /// MRSERVICETD, hex.
        got: String,
        /// Its offset in the quote.
        offset: usize,
    },
    /// A TD 1.0 body, which shows neither service TDs nor the current SVNs.
    #[error(
        "quote has a TD 1.0 body, which does not show bound service TDs; policy wants TD 1.5 (quote offset 0x0)"
    )]
    BodyType {
        /// Line of the policy.
        line: usize,
    },
    /// An attribute that the policy does not list.
    #[error(
        "TD attributes {attributes:#x}: {what} is set, which the policy does not list (quote offset {offset:#x})"
    )]
    Attribute {
        /// TDATTRIBUTES.
        attributes: u64,
        /// The attribute, such as `pks (bit 30)`.
        what: String,
        /// Offset of the attributes in the quote.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// Extended features that the policy does not list.
    #[error(
        "XFAM is {xfam:#x}, policy allows {allowed:#x}: bits {beyond:#x} are beyond (quote offset {offset:#x})"
    )]
    Xfam {
        /// XFAM seen.
        xfam: u64,
        /// Bits allowed.
        allowed: u64,
        /// Bits seen and not allowed.
        beyond: u64,
        /// Offset of XFAM in the quote.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// A TCB status that the policy does not accept.
    #[error(
        "TCB status is {got}{}, policy accepts {}", advisories(.advisory_ids), .wanted.iter().map(|status| status.name()).collect::<Vec<_>>().join(", ")
    )]
    TcbStatus {
        /// Status seen.
        got: TcbStatus,
        /// Advisories that apply.
        advisory_ids: Vec<String>,
        /// Statuses accepted.
        wanted: Vec<TcbStatus>,
        /// Line of the policy.
        line: usize,
    },
    /// Endorsements from before a TCB recovery.
    #[error("TCB evaluation data number is {got}, policy wants at least {wanted}")]
    EvaluationDataNumber {
        /// The lower number of TCB info and QE identity.
        got: u32,
        /// Lowest number accepted.
        wanted: u32,
        /// Line of the policy.
        line: usize,
    },
    /// A TDX module that the policy does not list.
    #[error("TDX module is {got}, policy accepts {} (MRSEAM, quote offset {offset:#x})", .wanted.join(", "))]
    Module {
        /// MRSEAM, hex.
        got: String,
        /// Those accepted, hex.
        wanted: Vec<String>,
        /// Offset of MRSEAM in the quote.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// No Reference Value has this register, among those that agree on the registers before it.
    #[error("{register} is {got}, policy accepts {} (quote offset {offset:#x})", .wanted.join(", "))]
    Measurement {
        /// The register.
        register: TdxRegister,
        /// Its value, hex.
        got: String,
        /// Values accepted, hex.
        wanted: Vec<String>,
        /// Its offset in the quote.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
}

fn advisories(ids: &[String]) -> String {
    if ids.is_empty() { String::new() } else { format!(" ({})", ids.join(", ")) }
}

impl TdxRefusal {
    /// Line of the policy that refuses, when it is a rule of the policy and not of the verifier.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Debug { .. }
            | Self::Migratable { .. }
            | Self::SeptVeEnabled { .. }
            | Self::ServiceTd { .. } => None,
            Self::BodyType { line }
            | Self::Attribute { line, .. }
            | Self::Xfam { line, .. }
            | Self::TcbStatus { line, .. }
            | Self::EvaluationDataNumber { line, .. }
            | Self::Module { line, .. }
            | Self::Measurement { line, .. } => Some(*line),
        }
    }
}

/// What an accepted quote says, with the Reference Value that it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxAppraisal {
    quote: AuthenticQuote,
    reference: ReferenceValue,
}

impl TdxAppraisal {
    /// The quote.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticQuote {
        &self.quote
    }

    /// The Reference Value that the registers equal.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        &self.reference
    }
}

/// Compares platform, TDX module and the TD's attributes with the policy: everything but measurements.
pub(crate) fn appraise_hardware(authentic: &AuthenticQuote, rules: &TdxPolicy) -> Result<(), TdxRefusal> {
    let quote = authentic.quote();
    td_attribute_bits(quote, rules)?;
    if let Some(services) = quote.mrservicetd()
        && services.iter().any(|byte| *byte != 0)
    {
        return Err(TdxRefusal::ServiceTd {
            got: hex::encode(services),
            offset: quote.body_offset(body::MRSERVICETD),
        });
    }
    if quote.body_type() == BodyType::Td10 && !rules.allow_td_1_0.value {
        return Err(TdxRefusal::BodyType { line: rules.allow_td_1_0.line });
    }
    let (xfam, allowed) = (quote.xfam(), rules.xfam_allowed.value);
    if xfam & !allowed != 0 {
        return Err(TdxRefusal::Xfam {
            xfam,
            allowed,
            beyond: xfam & !allowed,
            offset: quote.body_offset(body::XFAM),
            line: rules.xfam_allowed.line,
        });
    }
    let tcb = authentic.tcb();
    let statuses = &rules.tcb_statuses;
    if !statuses.value.contains(&tcb.status) {
        return Err(TdxRefusal::TcbStatus {
            got: tcb.status,
            advisory_ids: tcb.advisory_ids.clone(),
            wanted: statuses.value.clone(),
            line: statuses.line,
        });
    }
    let number = &rules.minimum_tcb_evaluation_data_number;
    if tcb.evaluation_data_number < number.value {
        return Err(TdxRefusal::EvaluationDataNumber {
            got: tcb.evaluation_data_number,
            wanted: number.value,
            line: number.line,
        });
    }
    match &rules.modules.value {
        AcceptedModules::Endorsed => Ok(()),
        AcceptedModules::Listed(modules) if modules.contains(quote.mrseam()) => Ok(()),
        AcceptedModules::Listed(modules) => Err(TdxRefusal::Module {
            got: hex::encode(quote.mrseam()),
            wanted: modules.iter().map(hex::encode).collect(),
            offset: quote.body_offset(body::MRSEAM),
            line: rules.modules.line,
        }),
    }
}

fn td_attribute_bits(quote: &Quote, rules: &TdxPolicy) -> Result<(), TdxRefusal> {
    let attributes = quote.td_attributes();
    let offset = quote.body_offset(body::TDATTRIBUTES);
    if attributes & td_attributes::UNDER_DEBUG != 0 {
        return Err(TdxRefusal::Debug { attributes, offset });
    }
    if attributes & td_attributes::MIGRATABLE != 0 {
        return Err(TdxRefusal::Migratable { attributes, offset });
    }
    if attributes & td_attributes::SEPT_VE_DISABLE == 0 {
        return Err(TdxRefusal::SeptVeEnabled { attributes, offset });
    }
    let listed = rules.attributes_allowed.value.iter().fold(0, |bits, attribute| bits | attribute.bit());
    let beyond = attributes & !listed & !td_attributes::SEPT_VE_DISABLE;
    if beyond != 0 {
        let bit = beyond.trailing_zeros();
        let name = crate::policy::TdAttribute::of_bit(1 << bit).map_or("an unknown attribute", |a| a.name());
        let what = format!("{name} (bit {bit})");
        return Err(TdxRefusal::Attribute { attributes, what, offset, line: rules.attributes_allowed.line });
    }
    Ok(())
}

/// A register with another value than any candidate has.
pub(crate) struct OtherRegister {
    pub(crate) register: TdxRegister,
    pub(crate) got: [u8; 48],
    pub(crate) wanted: Vec<[u8; 48]>,
    /// Line of a candidate.
    pub(crate) line: Option<usize>,
}

/// The first of the candidates that equals the quote in all registers.
pub(crate) fn match_registers<T>(
    quote: &Quote,
    mut candidates: Vec<(T, &TdxMeasurements)>,
) -> Result<T, OtherRegister> {
    for register in TdxRegister::ALL {
        let got = register.of(quote);
        let (same, other): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|(_, registers)| registers.register(register).value == *got);
        if same.is_empty() {
            return Err(OtherRegister {
                register,
                got: *got,
                wanted: other.iter().map(|(_, r)| r.register(register).value).collect(),
                line: other.first().map(|(_, r)| r.register(register).line),
            });
        }
        candidates = same;
    }
    Ok(candidates.into_iter().next().expect("each register has left one, or was refused").0)
}

/// Compares measurement registers with the policy's Reference Values.
pub(crate) fn appraise_guest(authentic: AuthenticQuote, policy: &Policy) -> Result<TdxAppraisal, TdxRefusal> {
    let quote = authentic.quote();
    let candidates: Vec<_> = policy
        .reference_values()
        .iter()
        .filter_map(|reference| match &reference.measurements {
            Measurements::Tdx(registers) => Some((reference, registers.as_ref())),
            _ => None,
        })
        .collect();
    let reference = match_registers(quote, candidates).map_err(|other| TdxRefusal::Measurement {
        register: other.register,
        got: hex::encode(other.got),
        wanted: other.wanted.iter().map(hex::encode).collect(),
        offset: quote.body_offset(other.register.offset()),
        line: other.line.unwrap_or(policy.reference_values_line()),
    })?;
    let reference = reference.clone();
    Ok(TdxAppraisal { quote: authentic, reference })
}
