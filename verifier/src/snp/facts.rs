//! What a SEV-SNP report says, in the terms of all platforms.

use provenance::binding::ReportData;
use provenance::evidence::Platform;

use super::report::offset;
use super::{AuthenticReport, SigningKey};
use crate::bound::{self, BindingError};
use crate::evidence::{PlatformFacts, endorsed_line, not_hardware_mark, short_hex};
use crate::roots::Root;

impl PlatformFacts for AuthenticReport {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn root(&self) -> Root {
        self.root
    }

    fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError> {
        bound::compare(self.report.report_data(), offset::REPORT_DATA, wanted)
    }

    fn measurement(&self) -> String {
        hex::encode(self.report.measurement())
    }

    fn hardware_name(&self) -> String {
        format!("{} {}", Platform::SevSnp, self.product)
    }

    fn tcb(&self) -> String {
        self.reported.to_string()
    }

    fn chip_id(&self) -> Option<String> {
        (self.report.signing_key() == SigningKey::Vcek).then(|| hex::encode(self.report.chip_id()))
    }

    fn lines(&self) -> Vec<String> {
        let who = match self.report.signing_key() {
            SigningKey::Vcek => format!("chip {}", short_hex(&hex::encode(self.report.chip_id()))),
            SigningKey::Vlek => format!("VLEK of {}", self.csp_id().unwrap_or("an unnamed provider")),
        };
        vec![
            format!(
                "{}AMD SEV-SNP {}, {who}, TCB {} ≥ policy, not debug, VMPL {}",
                not_hardware_mark(self.root),
                self.product,
                self.reported,
                self.report.vmpl()
            ),
            endorsed_line(self.root),
        ]
    }
}
