//! What a TDX quote says, in the terms of all platforms.

use provenance::binding::ReportData;
use provenance::evidence::Platform;

use super::quote::body;
use super::{AuthenticQuote, TcbStatus};
use crate::bound::{self, BindingError};
use crate::evidence::{PlatformFacts, endorsed_line, not_hardware_mark, short_hex};
use crate::policy::TdxRegister;
use crate::roots::Root;

impl PlatformFacts for AuthenticQuote {
    fn platform(&self) -> Platform {
        Platform::Tdx
    }

    fn root(&self) -> Root {
        self.signed.root
    }

    fn check_report_data(&self, wanted: &ReportData) -> Result<(), BindingError> {
        let quote = self.quote();
        bound::compare(quote.report_data(), quote.body_offset(body::REPORTDATA), wanted)
    }

    fn measurement(&self) -> String {
        hex::encode(self.quote().mrtd())
    }

    fn hardware_name(&self) -> String {
        format!("{} {}", Platform::Tdx, hex::encode(self.platform().fmspc))
    }

    fn tcb(&self) -> String {
        let tcb = self.tcb();
        let svn = hex::encode(self.quote().tee_tcb_svn());
        let advisories: String = tcb.advisory_ids.iter().map(|id| format!(" {id}")).collect();
        format!("{} (TEE TCB SVN {svn}, level of {}){advisories}", tcb.status, tcb.tcb_date)
    }

    fn chip_id(&self) -> Option<String> {
        None
    }

    fn registers(&self) -> Vec<(&'static str, String)> {
        let beside = TdxRegister::ALL.into_iter().filter(|register| *register != TdxRegister::Mrtd);
        beside.map(|register| (register.name(), hex::encode(register.of(self.quote())))).collect()
    }

    fn known_flaws(&self) -> Vec<String> {
        let tcb = self.tcb();
        let status = (tcb.status != TcbStatus::UpToDate).then(|| format!("TCB status {}", tcb.status));
        status.into_iter().chain(tcb.advisory_ids.iter().cloned()).collect()
    }

    fn lines(&self) -> Vec<String> {
        let (quote, tcb, platform) = (self.quote(), self.tcb(), self.platform());
        let mut lines = vec![
            format!(
                "{}Intel TDX, FMSPC {}, TCB {} (evaluation {}), not debug, not migratable, module {}",
                not_hardware_mark(self.root()),
                hex::encode(platform.fmspc),
                tcb.status,
                tcb.evaluation_data_number,
                short_hex(&hex::encode(quote.mrseam())),
            ),
            endorsed_line(self.root()),
        ];
        if !tcb.advisory_ids.is_empty() {
            lines.push(format!("advisories that apply: {}", tcb.advisory_ids.join(", ")));
        }
        if let Some(configuration) = platform.configuration {
            lines.push(format!(
                "platform: dynamic {}, keys cached by Intel {}, SMT {}",
                configuration.dynamic_platform, configuration.cached_keys, configuration.smt_enabled
            ));
        }
        lines
    }
}
