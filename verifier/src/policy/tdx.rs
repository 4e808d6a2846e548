//! The `[tdx]` table of a policy, and Reference Values of a TD.

use std::fmt;

use super::PolicyError;
use super::read::{Field, Placed, Section};
use super::{one_of, parse_measurement};
use crate::tdx::quote::{body, td_attributes};
use crate::tdx::{Quote, TcbStatus};

/// Rules for TDX quotes. Debugging, migration, service TDs and a clear SEPT_VE_DISABLE have no rule: they are
/// always refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxPolicy {
    /// TCB statuses accepted, at least one.
    pub tcb_statuses: Placed<Vec<TcbStatus>>,
    /// Lowest tcbEvaluationDataNumber of TCB info and QE identity.
    pub minimum_tcb_evaluation_data_number: Placed<u32>,
    /// TDX modules accepted.
    pub modules: Placed<AcceptedModules>,
    /// Attributes that a TD may have beside SEPT_VE_DISABLE.
    pub attributes_allowed: Placed<Vec<TdAttribute>>,
    /// Bits of XFAM that may be set.
    pub xfam_allowed: Placed<u64>,
    /// Whether quotes with a TD 1.0 body, which do not show service TDs, are accepted.
    pub allow_td_1_0: Placed<bool>,
}

/// TDX modules that a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptedModules {
    /// Every one that Intel's TCB info knows, at an accepted status.
    Endorsed,
    /// Those with these measurements (MRSEAM) only.
    Listed(Vec<[u8; 48]>),
}

/// An attribute of a TD that a policy may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdAttribute {
    /// Linear address space separation.
    Lass,
    /// Supervisor protection keys.
    Pks,
    /// Key Locker.
    Kl,
    /// TPA.
    Tpa,
    /// Performance monitoring.
    Perfmon,
}

impl TdAttribute {
    /// All attributes that a policy may allow.
    pub const ALL: [Self; 5] = [Self::Lass, Self::Pks, Self::Kl, Self::Tpa, Self::Perfmon];

    /// Its spelling in policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lass => "lass",
            Self::Pks => "pks",
            Self::Kl => "kl",
            Self::Tpa => "tpa",
            Self::Perfmon => "perfmon",
        }
    }

    /// Its bit in TDATTRIBUTES.
    #[must_use]
    pub const fn bit(self) -> u64 {
        match self {
            Self::Lass => td_attributes::LASS,
            Self::Pks => td_attributes::PKS,
            Self::Kl => td_attributes::KL,
            Self::Tpa => td_attributes::TPA,
            Self::Perfmon => td_attributes::PERFMON,
        }
    }

    /// The attribute with this bit.
    #[must_use]
    pub fn of_bit(bit: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.bit() == bit)
    }
}

/// A measurement register of a TD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxRegister {
    /// The TD's initial memory.
    Mrtd,
    /// The host's word on the configuration.
    Mrconfigid,
    /// The host's word on the owner.
    Mrowner,
    /// The host's word on the owner's configuration.
    Mrownerconfig,
    /// RTMR0: firmware configuration.
    Rtmr0,
    /// RTMR1: boot loader and kernel.
    Rtmr1,
    /// RTMR2: command line, initial RAM disk.
    Rtmr2,
    /// RTMR3: what the running system extends.
    Rtmr3,
}

impl TdxRegister {
    /// All registers, in the order they are compared in.
    pub const ALL: [Self; 8] = [
        Self::Mrtd,
        Self::Mrconfigid,
        Self::Mrowner,
        Self::Mrownerconfig,
        Self::Rtmr0,
        Self::Rtmr1,
        Self::Rtmr2,
        Self::Rtmr3,
    ];

    /// Its spelling in policies and Reference Values.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mrtd => "mrtd",
            Self::Mrconfigid => "mrconfigid",
            Self::Mrowner => "mrowner",
            Self::Mrownerconfig => "mrownerconfig",
            Self::Rtmr0 => "rtmr0",
            Self::Rtmr1 => "rtmr1",
            Self::Rtmr2 => "rtmr2",
            Self::Rtmr3 => "rtmr3",
        }
    }

    /// Its offset in the body of a quote.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Self::Mrtd => body::MRTD,
            Self::Mrconfigid => body::MRCONFIGID,
            Self::Mrowner => body::MROWNER,
            Self::Mrownerconfig => body::MROWNERCONFIG,
            Self::Rtmr0 => body::RTMR0,
            Self::Rtmr1 => body::RTMR0 + 48,
            Self::Rtmr2 => body::RTMR0 + 96,
            Self::Rtmr3 => body::RTMR0 + 144,
        }
    }

    /// Its value in a quote.
    #[must_use]
    pub fn of(self, quote: &Quote) -> &[u8; 48] {
        match self {
            Self::Mrtd => quote.mrtd(),
            Self::Mrconfigid => quote.mrconfigid(),
            Self::Mrowner => quote.mrowner(),
            Self::Mrownerconfig => quote.mrownerconfig(),
            Self::Rtmr0 => quote.rtmrs()[0],
            Self::Rtmr1 => quote.rtmrs()[1],
            Self::Rtmr2 => quote.rtmrs()[2],
            Self::Rtmr3 => quote.rtmrs()[3],
        }
    }
}

impl fmt::Display for TdxRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_uppercase())
    }
}

/// Reference Values of a TD: one for each register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxMeasurements([Placed<[u8; 48]>; 8]);

impl TdxMeasurements {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, PolicyError> {
        let mut registers = Vec::with_capacity(TdxRegister::ALL.len());
        for register in TdxRegister::ALL {
            let field = section.required(register.name())?;
            registers.push(field.placed(field.parsed(parse_measurement)?));
        }
        Ok(Self(registers.try_into().expect("one value for each register")))
    }

    /// The value wanted of a register.
    #[must_use]
    pub fn register(&self, register: TdxRegister) -> &Placed<[u8; 48]> {
        &self.0[register as usize]
    }
}

impl TdxPolicy {
    pub(super) fn read(field: &Field<'_>) -> Result<Self, PolicyError> {
        let mut section = field.table()?;
        let statuses = section.required("tcb_statuses")?;
        let status_names = TcbStatus::ACCEPTABLE.map(|status| (status.name(), status));
        let tcb_statuses = each(&statuses, &status_names)?;
        if tcb_statuses.is_empty() {
            return Err(statuses.error("is empty; name at least one status, usually \"UpToDate\""));
        }
        let number = section.required("minimum_tcb_evaluation_data_number")?;
        let least = u32::try_from(number.number(u64::from(u32::MAX))?).expect("limited to 32 bits");
        let modules = section.required("modules")?;
        let attributes = section.required("attributes_allowed")?;
        let attribute_names = TdAttribute::ALL.map(|attribute| (attribute.name(), attribute));
        let xfam = section.required("xfam_allowed")?;
        let td_1_0 = section.required("allow_td_1_0")?;
        let policy = Self {
            tcb_statuses: statuses.placed(tcb_statuses),
            minimum_tcb_evaluation_data_number: number.placed(least),
            modules: modules.placed(accepted_modules(&modules)?),
            attributes_allowed: attributes.placed(each(&attributes, &attribute_names)?),
            xfam_allowed: xfam.placed(xfam.number(u64::MAX)?),
            allow_td_1_0: td_1_0.placed(td_1_0.boolean()?),
        };
        section.finish()?;
        Ok(policy)
    }
}

/// An array of words, which may be empty.
fn each<T: Copy>(field: &Field<'_>, choices: &[(&str, T)]) -> Result<Vec<T>, PolicyError> {
    field.array()?.iter().map(|item| one_of(item, choices)).collect()
}

fn accepted_modules(field: &Field<'_>) -> Result<AcceptedModules, PolicyError> {
    if field.text().is_ok() {
        return one_of(field, &[("endorsed", ())]).map(|()| AcceptedModules::Endorsed);
    }
    let modules = field.parsed_list(parse_measurement)?;
    Ok(AcceptedModules::Listed(modules.into_iter().map(|placed| placed.value).collect()))
}
