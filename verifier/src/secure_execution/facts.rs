//! What an answer says, in the terms of all platforms.

use provenance::binding::ReportData;
use provenance::evidence::Platform;

use super::{AuthenticMeasurement, HostKeyRoot};
use crate::bound::{self, BindingError};
use crate::evidence::{PlatformFacts, endorsed_line, not_hardware_mark, short_hex};
use crate::reliance::Reliance;
use crate::roots::Root;

impl PlatformFacts for AuthenticMeasurement {
    fn platform(&self) -> Platform {
        Platform::SecureExecution
    }

    fn root(&self) -> Root {
        match self.root {
            HostKeyRoot::DigiCertTrustedRootG4 => Root::Ibm,
            HostKeyRoot::Dangerous(digest) => Root::Dangerous(digest),
        }
    }

    fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError> {
        let report_data = self.claims.report_data().expect("an appraisal refuses shorter user data");
        bound::compare(report_data, self.claims.user_data_offset, wanted)
    }

    fn measurement(&self) -> String {
        self.claims.image.to_string()
    }

    fn hardware_name(&self) -> String {
        Platform::SecureExecution.to_string()
    }

    fn tcb(&self) -> String {
        "not shown by the Evidence; only IBM can read the state of the firmware".to_owned()
    }

    fn chip_id(&self) -> Option<String> {
        Some(self.claims.image_host_key().hex())
    }

    fn reliance(&self) -> &Reliance {
        &self.reliance
    }

    fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{}IBM Secure Execution, image unpacked with host key {}, run {}, firmware state not judged",
                not_hardware_mark(PlatformFacts::root(self)),
                self.claims.image_host_key().short(),
                short_hex(&hex::encode(self.claims.config_uid)),
            ),
            self.reliance.to_string(),
            endorsed_line(PlatformFacts::root(self)),
        ]
    }
}
