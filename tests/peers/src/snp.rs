//! SEV-SNP Evidence for the crate `sev`.

use provenance::evidence::{Evidence, certificate_table};
use sev::certs::snp::{Chain, Verifiable as _};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

use crate::Verdict;

/// DER of the three certificates, root first.
pub(crate) struct Certificates {
    pub(crate) ark: Vec<u8>,
    pub(crate) intermediate: Vec<u8>,
    pub(crate) vek: Vec<u8>,
    pub(crate) is_vlek: bool,
}

impl Certificates {
    pub(crate) fn of(evidence: &Evidence) -> Result<Self, String> {
        let mut table =
            certificate_table::parse(&evidence.endorsements).map_err(|error| error.to_string())?;
        let is_vlek = table.contains_key(&certificate_table::VLEK);
        let vek = if is_vlek { certificate_table::VLEK } else { certificate_table::VCEK };
        let mut take = |guid| table.remove(&guid).ok_or_else(|| "a certificate is missing".to_owned());
        Ok(Self {
            ark: take(certificate_table::ARK)?,
            intermediate: take(certificate_table::ASK)?,
            vek: take(vek)?,
            is_vlek,
        })
    }
}

/// Parses chain and report and verifies their signatures, which is all that the crate does.
pub fn sev_crate(evidence: &Evidence) -> Verdict {
    let Certificates { ark, intermediate, vek, .. } = Certificates::of(evidence)?;
    let chain = Chain::from_der(&ark, &intermediate, &vek).map_err(|error| error.to_string())?;
    let report = AttestationReport::from_bytes(&evidence.report).map_err(|error| error.to_string())?;
    (&chain, &report).verify().map_err(|error| error.to_string())
}
