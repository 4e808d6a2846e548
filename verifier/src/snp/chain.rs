//! Choosing the certificates of a report's chain among those given and those of the Evidence's own table. What is chosen is
//! authenticated by the module above; nothing here accepts anything.
//!
//! A folder of endorsements may be for many machines, so what is of another chip or product is not chosen. Where nothing
//! fits, the table's own certificate is, for the error that says what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use provenance::evidence::certificate_table;

use super::report::{Report, SigningKey};
use super::{
    CertificateName, SnpError, accepted_root, check_chip, check_product, check_tcb, is_signed_by, vek,
};
use crate::evidence::Endorsements;
use crate::roots::Anchors;
use crate::time::Moment;
use crate::x509::{Certificate, CertificateError, Profile};

/// A certificate, or why it does not parse as one of AMD's.
type Parsed<'a> = Result<Certificate<'a>, CertificateError>;

fn parse(der: &[u8]) -> Parsed<'_> {
    Certificate::parse(der, Profile::Amd)
}

/// How a VCEK or VLEK fits a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Of another chip or product, or of no kind that signs reports.
    Other,
    /// Of the report's chip, with another TCB.
    Chip,
    /// Of the report's chip and TCB.
    Tcb,
}

fn fit_of(vek: &Parsed<'_>, report: &Report) -> Fit {
    let key = report.signing_key();
    let which = CertificateName::of(key);
    let Ok(certificate) = vek else { return Fit::Other };
    let Ok(endorsed) = vek::endorsed(certificate, key) else { return Fit::Other };
    let of_chip = matches!(check_chip(report, &endorsed), Ok(()) | Err(SnpError::ChipIdMasked));
    if !of_chip || check_product(report, endorsed.product, which).is_err() {
        return Fit::Other;
    }
    if check_tcb(report, &endorsed, which).is_err() { Fit::Chip } else { Fit::Tcb }
}

/// Of which the report is signed with the key, while it is valid.
fn signed(vek: &Parsed<'_>, report: &Report, moment: Moment) -> bool {
    vek.as_ref().is_ok_and(|vek| vek.check_validity(moment.at()).is_ok() && is_signed_by(report, vek))
}

/// The certificates at hand.
pub(super) struct AtHand<'a> {
    /// Of the Evidence's own table, by GUID.
    table: BTreeMap<[u8; 16], Parsed<'a>>,
    given: Vec<Certificate<'a>>,
}

/// The certificates chosen.
pub(super) struct Chain<'a> {
    pub(super) ark: Certificate<'a>,
    pub(super) intermediate: Certificate<'a>,
    pub(super) vek: Certificate<'a>,
}

impl<'a> AtHand<'a> {
    pub(super) fn new(table: &'a BTreeMap<[u8; 16], Vec<u8>>, extra: &'a Endorsements) -> Self {
        Self {
            table: table.iter().map(|(guid, der)| (*guid, parse(der))).collect(),
            // What does not parse is of another vendor, or of no use.
            given: extra.certificates.iter().filter_map(|der| parse(der).ok()).collect(),
        }
    }

    /// Chooses the VCEK or VLEK of the report, the intermediate that issued it, and the root above.
    pub(super) fn choose(
        &self,
        report: &Report,
        anchors: &Anchors,
        moment: Moment,
    ) -> Result<Chain<'a>, SnpError> {
        let key = report.signing_key();
        let vek = self.vek(report, moment)?;
        let which = CertificateName::issuer_of(key);
        let intermediate = self.issuer(&vek, (certificate_table::ASK, which), moment, |_| true)?;
        let ark = (certificate_table::ARK, CertificateName::Ark);
        let accepted = |root: &Certificate<'_>| accepted_root(&root.spki_sha256(), anchors).is_ok();
        let ark = self.issuer(&intermediate, ark, moment, accepted)?;
        Ok(Chain { ark, intermediate, vek })
    }

    /// The one that fits best. Of several the signature tells which: a VLEK names no chip, and a host's own may have aged.
    fn vek(&self, report: &Report, moment: Moment) -> Result<Certificate<'a>, SnpError> {
        let key = report.signing_key();
        let which = CertificateName::of(key);
        let (guid, name) = match key {
            SigningKey::Vcek => (certificate_table::VCEK, "SEV-VCEK"),
            SigningKey::Vlek => (certificate_table::VLEK, "SEV-VLEK"),
        };
        let own = self.table.get(&guid);
        let given: Vec<Parsed<'a>> =
            self.given_beside(own).filter(|given| given.common_name() == name).cloned().map(Ok).collect();
        let fit = |vek| (fit_of(vek, report), vek);
        let fits: Vec<(Fit, &Parsed<'a>)> =
            given.iter().map(fit).filter(|(fit, _)| *fit > Fit::Other).chain(own.map(fit)).collect();
        let highest = fits.iter().map(|(fit, _)| *fit).max().unwrap_or(Fit::Other);
        let best: Vec<&Parsed<'a>> =
            fits.into_iter().filter(|(fit, _)| *fit == highest).map(|(_, vek)| vek).collect();
        let several = highest == Fit::Tcb && best.len() > 1;
        let signed = best.iter().find(|vek| several && signed(vek, report, moment));
        signed
            .or(best.last())
            .copied()
            .ok_or(SnpError::MissingCertificate { which })?
            .clone()
            .map_err(|error| SnpError::Certificate { which, error })
    }

    /// Those given, each once, without the one that the table has too.
    fn given_beside(&self, own: Option<&Parsed<'a>>) -> impl Iterator<Item = &Certificate<'a>> {
        let own = own.and_then(|own| own.as_ref().ok());
        let mut seen: BTreeSet<&[u8]> = own.map(Certificate::der).into_iter().collect();
        self.given.iter().filter(move |given| seen.insert(given.der()))
    }

    /// The first that issued `subject`, is valid and is `right`; else the table's own, else the first of the name.
    fn issuer(
        &self,
        subject: &Certificate<'a>,
        (guid, which): ([u8; 16], CertificateName),
        moment: Moment,
        right: impl Fn(&Certificate<'_>) -> bool,
    ) -> Result<Certificate<'a>, SnpError> {
        let own = self.table.get(&guid);
        let mut candidates: Vec<&Certificate<'a>> = own.iter().filter_map(|own| own.as_ref().ok()).collect();
        candidates.extend(self.given_beside(own).filter(|issuer| subject.names_as_issuer(issuer)));
        let is_right = |issuer: &&&Certificate<'a>| {
            right(issuer)
                && issuer.check_validity(moment.at()).is_ok()
                && subject.check_issued_by(issuer).is_ok()
        };
        // Where there is no choice, the module above says what the only one is worth.
        let chosen = if candidates.len() > 1 || matches!(own, Some(Err(_))) {
            candidates.iter().find(is_right).map(|chosen| Ok((*chosen).clone()))
        } else {
            None
        };
        chosen
            .or_else(|| own.cloned())
            .or_else(|| candidates.first().map(|first| Ok((*first).clone())))
            .ok_or(SnpError::MissingCertificate { which })?
            .map_err(|error| SnpError::Certificate { which, error })
    }
}
