//! What a quote from behind the paravisor says, in the terms of all platforms.

use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;

use super::{AuthenticQuote, PCRS};
use crate::bound::BindingError;
use crate::evidence::PlatformFacts;
use crate::roots::Root;

impl<Hardware: PlatformFacts> PlatformFacts for AuthenticQuote<Hardware> {
    fn platform(&self) -> Platform {
        match self.hardware.platform() {
            Platform::Tdx => Platform::AzTdx,
            _ => Platform::AzSnp,
        }
    }

    fn root(&self) -> Root {
        self.hardware.root()
    }

    fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError> {
        Ok(AuthenticQuote::check_report_data(self, wanted)?)
    }

    /// SHA-256 of the PCRs that the quote selects, as the TPM signed it.
    fn measurement(&self) -> String {
        let selected: Vec<u8> = (0..PCRS).filter_map(|index| self.pcr(index)).flatten().copied().collect();
        Sha256Digest::of(&selected).hex()
    }

    fn hardware_name(&self) -> String {
        format!("{} behind Azure's paravisor", self.hardware.hardware_name())
    }

    fn tcb(&self) -> String {
        self.hardware.tcb()
    }

    fn chip_id(&self) -> Option<String> {
        self.hardware.chip_id()
    }

    fn known_flaws(&self) -> Vec<String> {
        self.hardware.known_flaws()
    }

    fn lines(&self) -> Vec<String> {
        self.hardware.lines()
    }
}
