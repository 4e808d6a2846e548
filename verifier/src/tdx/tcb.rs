//! TCB levels: which of Intel's levels a platform reaches, and what that says about it (Intel PCS API, `Get TDX TCB
//! Info`, "how to determine the TCB status"; Intel SGX and TDX DCAP Quote Verification Library for how the parts are
//! put together and for a TD that was launched before an update).

use std::collections::BTreeSet;
use std::fmt;

use provenance::timestamp::Timestamp;
use serde::Deserialize;

use super::TdxError;
use super::collateral::{Component, IsvSvn, Level, ModuleIdentity, QeIdentity, TcbInfo};
use super::pck::PckFacts;
use super::quote::{Quote, body, qe_report, signature_data};

/// Intel's word on a TCB level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum TcbStatus {
    /// Nothing is known that is not mended.
    UpToDate,
    /// Software in the TD must mitigate something itself.
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    /// The platform's configuration may expose something.
    ConfigurationNeeded,
    /// Both.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    /// An update is missing.
    OutOfDate,
    /// An update is missing, and the configuration may expose something.
    OutOfDateConfigurationNeeded,
    /// The platform is current, but the TD was launched before it was.
    #[serde(skip)]
    TdRelaunchAdvised,
    /// The same, and the configuration may expose something.
    #[serde(skip)]
    TdRelaunchAdvisedConfigurationNeeded,
    /// Intel no longer stands by the level at all.
    Revoked,
}

impl TcbStatus {
    /// Statuses that a policy may accept: all but `Revoked`.
    pub const ACCEPTABLE: [Self; 8] = [
        Self::UpToDate,
        Self::SwHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSwHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::TdRelaunchAdvised,
        Self::TdRelaunchAdvisedConfigurationNeeded,
    ];

    /// Intel's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SwHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::TdRelaunchAdvised => "TDRelaunchAdvised",
            Self::TdRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }

    /// A platform's status with that of a part it relies on (TDX module, Quoting Enclave). A part can only make it
    /// worse.
    fn with_part(self, part: Self) -> Self {
        match (self, part) {
            (Self::SwHardeningNeeded, Self::ConfigurationNeeded)
            | (Self::ConfigurationNeeded, Self::SwHardeningNeeded) => Self::ConfigurationAndSwHardeningNeeded,
            (Self::ConfigurationNeeded | Self::ConfigurationAndSwHardeningNeeded, Self::OutOfDate)
            | (Self::OutOfDate, Self::ConfigurationNeeded | Self::ConfigurationAndSwHardeningNeeded) => {
                Self::OutOfDateConfigurationNeeded
            }
            (platform, part) => platform.max(part),
        }
    }

    /// The status of a TD that was launched at `self` on a platform that is now at `current`: a better platform does not
    /// mend the launch, a worse one makes it worse.
    fn or_relaunch(self, current: Self) -> Self {
        match (self, current) {
            (Self::OutOfDate, Self::UpToDate | Self::SwHardeningNeeded) => Self::TdRelaunchAdvised,
            (
                Self::OutOfDate | Self::OutOfDateConfigurationNeeded,
                Self::UpToDate
                | Self::SwHardeningNeeded
                | Self::ConfigurationNeeded
                | Self::ConfigurationAndSwHardeningNeeded,
            ) => Self::TdRelaunchAdvisedConfigurationNeeded,
            (launch, current) => launch.with_part(current),
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What Intel says about a platform with a TD, put together from platform, TDX module and Quoting Enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbVerdict {
    /// The status as a whole.
    pub status: TcbStatus,
    /// Advisories that apply, sorted, each once.
    pub advisory_ids: Vec<String>,
    /// The oldest date of the levels reached.
    pub tcb_date: Timestamp,
    /// The lower of the evaluation numbers of TCB info and QE identity: it grows with each TCB recovery.
    pub evaluation_data_number: u32,
    /// The earliest time at which one of the documents wants to be fetched again.
    pub next_update: Timestamp,
}

/// Levels found so far.
struct Reached<'a> {
    status: TcbStatus,
    advisories: BTreeSet<&'a str>,
    date: Timestamp,
}

impl<'a> Reached<'a> {
    fn new<T>(level: &'a Level<T>) -> Self {
        Self {
            status: level.tcb_status,
            advisories: level.advisory_ids.iter().map(String::as_str).collect(),
            date: level.tcb_date,
        }
    }

    fn with_part<T>(mut self, level: &'a Level<T>) -> Self {
        self.status = self.status.with_part(level.tcb_status);
        self.advisories.extend(level.advisory_ids.iter().map(String::as_str));
        self.date = self.date.min(level.tcb_date);
        self
    }

    /// A TD launched here, on a platform that has reached `current` since.
    fn now_at(mut self, current: Self) -> Self {
        self.status = self.status.or_relaunch(current.status);
        self.advisories.extend(current.advisories);
        self.date = self.date.min(current.date);
        self
    }
}

/// The first level that an SVN reaches. Intel lists levels from the highest to the lowest.
fn isv_level(levels: &[Level<IsvSvn>], svn: u16) -> Option<&Level<IsvSvn>> {
    levels.iter().find(|level| level.tcb.isvsvn <= svn)
}

fn masked<const N: usize>(value: &[u8; N], mask: &[u8; N]) -> [u8; N] {
    let mut out = *value;
    out.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
    out
}

/// Compares the Quoting Enclave's report with Intel's identity of it, and finds its TCB level.
pub(super) fn qe_level<'a>(quote: &Quote, identity: &'a QeIdentity) -> Result<&'a Level<IsvSvn>, TdxError> {
    let at = |field| quote.signature_data_offset(signature_data::QE_REPORT + field);
    let same = |name, field, got: &[u8], wanted: &[u8]| {
        if got == wanted {
            return Ok(());
        }
        let (got, wanted) = (hex::encode(got), hex::encode(wanted));
        Err(TdxError::QeIdentity { name, offset: at(field), got, wanted })
    };
    let misc = masked(quote.of_qe_report(qe_report::MISCSELECT), &identity.miscselect_mask.0);
    same("MISCSELECT under its mask", qe_report::MISCSELECT, &misc, &identity.miscselect.0)?;
    let attributes = masked(quote.of_qe_report(qe_report::ATTRIBUTES), &identity.attributes_mask.0);
    same("ATTRIBUTES under its mask", qe_report::ATTRIBUTES, &attributes, &identity.attributes.0)?;
    let signer: &[u8; 32] = quote.of_qe_report(qe_report::MRSIGNER);
    same("MRSIGNER", qe_report::MRSIGNER, signer, &identity.mrsigner.0)?;
    let product: &[u8; 2] = quote.of_qe_report(qe_report::ISVPRODID);
    same("ISVPRODID", qe_report::ISVPRODID, product, &identity.isvprodid.to_le_bytes())?;
    let svn = u16::from_le_bytes(*quote.of_qe_report(qe_report::ISVSVN));
    isv_level(&identity.tcb_levels, svn)
        .ok_or(TdxError::NoQeTcbLevel { got: svn, offset: at(qe_report::ISVSVN) })
}

fn check_module(quote: &Quote, identity: &ModuleIdentity) -> Result<(), TdxError> {
    let same = |name, field, got: &[u8], wanted: &[u8]| {
        if got == wanted {
            return Ok(());
        }
        let (got, wanted) = (hex::encode(got), hex::encode(wanted));
        Err(TdxError::ModuleIdentity { name, offset: quote.body_offset(field), got, wanted })
    };
    same("MRSIGNERSEAM", body::MRSIGNERSEAM, quote.mrsignerseam(), &identity.mrsigner.0)?;
    let attributes = masked(quote.seam_attributes(), &identity.attributes_mask.0);
    same("SEAMATTRIBUTES under its mask", body::SEAMATTRIBUTES, &attributes, &identity.attributes.0)
}

/// The platform's level for one of the two TEE TCB SVNs, with that of its TDX module.
fn platform_level<'a>(
    quote: &Quote,
    facts: &PckFacts,
    info: &'a TcbInfo,
    svn: &[u8; 16],
    svn_field: usize,
) -> Result<Reached<'a>, TdxError> {
    let offset = quote.body_offset(svn_field);
    // From major version 1 on, byte 0 is the module's own SVN, judged by the identity of that major version, and
    // byte 1 the major version. Before, both are ordinary components.
    let (first, module) = match svn[1] {
        0 => {
            check_module(quote, &info.tdx_module)?;
            (0, None)
        }
        major => {
            let id = format!("TDX_{major:02X}");
            let module = info
                .tdx_module_identities
                .iter()
                .find(|module| module.id == id)
                .ok_or(TdxError::NoModuleIdentity { got: id, offset })?;
            check_module(quote, &module.identity())?;
            let level = isv_level(&module.tcb_levels, u16::from(svn[0]))
                .ok_or(TdxError::NoModuleTcbLevel { got: svn[0], offset })?;
            (2, Some(level))
        }
    };
    let reaches =
        |got: &[u8], wanted: &[Component]| got.iter().zip(wanted).all(|(got, wanted)| *got >= wanted.svn);
    let level = info
        .tcb_levels
        .iter()
        .find(|level| {
            reaches(&facts.components, &level.tcb.sgx)
                && facts.pcesvn >= level.tcb.pcesvn
                && reaches(&svn[first..], &level.tcb.tdx[first..])
        })
        .ok_or_else(|| TdxError::NoTcbLevel {
            sgx: hex::encode(facts.components),
            pcesvn: facts.pcesvn,
            tdx: hex::encode(svn),
            offset,
        })?;
    let reached = Reached::new(level);
    Ok(match module {
        Some(module) => reached.with_part(module),
        None => reached,
    })
}

/// Finds the levels of platform, TDX module and Quoting Enclave and puts them together.
pub(super) fn judge(
    quote: &Quote,
    facts: &PckFacts,
    info: &TcbInfo,
    identity: &QeIdentity,
) -> Result<TcbVerdict, TdxError> {
    let qe = qe_level(quote, identity)?;
    let mut reached =
        platform_level(quote, facts, info, quote.tee_tcb_svn(), body::TEE_TCB_SVN)?.with_part(qe);
    if let Some(svn) = quote.tee_tcb_svn2() {
        let current = platform_level(quote, facts, info, svn, body::TEE_TCB_SVN2)?.with_part(qe);
        reached = reached.now_at(current);
    }
    Ok(TcbVerdict {
        status: reached.status,
        advisory_ids: reached.advisories.into_iter().map(str::to_owned).collect(),
        tcb_date: reached.date,
        evaluation_data_number: info.tcb_evaluation_data_number.min(identity.tcb_evaluation_data_number),
        next_update: info.next_update.min(identity.next_update),
    })
}

#[cfg(test)]
mod tests {
    use super::TcbStatus;
    use super::TcbStatus::{
        ConfigurationAndSwHardeningNeeded, ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded,
        Revoked, SwHardeningNeeded, TdRelaunchAdvised, TdRelaunchAdvisedConfigurationNeeded, UpToDate,
    };

    #[test]
    fn a_part_can_only_make_the_platform_worse() {
        for (platform, part, wanted) in [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SwHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (ConfigurationAndSwHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (OutOfDate, UpToDate, OutOfDate),
            (OutOfDateConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (UpToDate, SwHardeningNeeded, SwHardeningNeeded),
            (SwHardeningNeeded, ConfigurationNeeded, ConfigurationAndSwHardeningNeeded),
            (ConfigurationNeeded, SwHardeningNeeded, ConfigurationAndSwHardeningNeeded),
            (OutOfDate, ConfigurationNeeded, OutOfDateConfigurationNeeded),
            (UpToDate, Revoked, Revoked),
            (Revoked, UpToDate, Revoked),
            (Revoked, OutOfDate, Revoked),
        ] {
            assert_eq!(platform.with_part(part), wanted, "{platform} with {part}");
        }
    }

    #[test]
    fn a_relaunch_is_advised_only_from_an_outdated_launch_to_a_current_platform() {
        for (launch, current, wanted) in [
            (OutOfDate, UpToDate, TdRelaunchAdvised),
            (OutOfDate, SwHardeningNeeded, TdRelaunchAdvised),
            (OutOfDate, ConfigurationNeeded, TdRelaunchAdvisedConfigurationNeeded),
            (OutOfDate, ConfigurationAndSwHardeningNeeded, TdRelaunchAdvisedConfigurationNeeded),
            (OutOfDateConfigurationNeeded, UpToDate, TdRelaunchAdvisedConfigurationNeeded),
            (OutOfDate, OutOfDate, OutOfDate),
            (OutOfDate, Revoked, Revoked),
            (UpToDate, SwHardeningNeeded, SwHardeningNeeded),
            (UpToDate, OutOfDate, OutOfDate),
            (UpToDate, OutOfDateConfigurationNeeded, OutOfDateConfigurationNeeded),
            (SwHardeningNeeded, ConfigurationNeeded, ConfigurationAndSwHardeningNeeded),
            (ConfigurationNeeded, SwHardeningNeeded, ConfigurationAndSwHardeningNeeded),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (ConfigurationAndSwHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (OutOfDate, OutOfDateConfigurationNeeded, OutOfDateConfigurationNeeded),
            (ConfigurationNeeded, UpToDate, ConfigurationNeeded),
            (Revoked, UpToDate, Revoked),
        ] {
            assert_eq!(launch.or_relaunch(current), wanted, "{launch} then {current}");
        }
    }

    #[test]
    fn a_revoked_level_cannot_be_accepted() {
        assert!(!TcbStatus::ACCEPTABLE.contains(&Revoked));
    }
}
