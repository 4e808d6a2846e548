//! The SEV-SNP Attester: reports through configfs-tsm where the kernel offers them, else through `/dev/sev-guest`.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;

use crate::attester::{Attester, AttesterError};
use crate::configfs_tsm::ConfigfsTsm;
use crate::devices::sev_guest::SevGuest;

/// Where the reports of a SEV-SNP guest come from.
pub(crate) enum SnpAttester {
    /// configfs-tsm.
    ConfigfsTsm(ConfigfsTsm),
    /// The device.
    Device(SevGuest),
}

impl Attester for SnpAttester {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        match self {
            Self::ConfigfsTsm(reports) => reports.evidence(data),
            Self::Device(device) => device.evidence(data),
        }
    }
}
