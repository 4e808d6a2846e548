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

    /// Chooses the VCEK or VLEK of the report, the intermediate that issued it, and the root above. Where no chain holds, one
    /// that shows what is wrong.
    pub(super) fn choose(
        &self,
        report: &Report,
        anchors: &Anchors,
        moment: Moment,
    ) -> Result<Chain<'a>, SnpError> {
        let key = report.signing_key();
        let mut veks = self.veks(report);
        // The signature tells which: a VLEK names no chip, and a host's own may have aged.
        if veks.len() > 1 {
            let signed = |vek: &&Parsed<'a>| signed(vek, report, moment);
            let signed: Vec<Parsed<'a>> = veks.iter().filter(signed).cloned().collect();
            veks = if signed.is_empty() { veks } else { signed };
        }
        if let Some(chain) = self.whole(&veks, anchors, moment) {
            return Ok(chain);
        }
        let which = CertificateName::of(key);
        let vek = veks.pop().ok_or(SnpError::MissingCertificate { which })?;
        let vek = vek.map_err(|error| SnpError::Certificate { which, error })?;
        let intermediate = self.issuer(&vek, certificate_table::ASK, CertificateName::issuer_of(key))?;
        let ark = self.issuer(&intermediate, certificate_table::ARK, CertificateName::Ark)?;
        Ok(Chain { ark, intermediate, vek })
    }

    /// Those that fit best, given ones first; of several that are not of the report's TCB the last.
    fn veks(&self, report: &Report) -> Vec<Parsed<'a>> {
        let (guid, name) = match report.signing_key() {
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
        let mut best: Vec<Parsed<'a>> =
            fits.into_iter().filter(|(fit, _)| *fit == highest).map(|(_, vek)| vek.clone()).collect();
        if highest < Fit::Tcb {
            best.drain(..best.len().saturating_sub(1));
        }
        best
    }

    /// The first chain that holds, where there is a choice: a damaged copy of a certificate has its key and its names. From the
    /// root down, so that a crowd of copies is not compared with another.
    fn whole(&self, veks: &[Parsed<'a>], anchors: &Anchors, moment: Moment) -> Option<Chain<'a>> {
        let veks: Vec<&Certificate<'a>> = veks.iter().flatten().collect();
        let mut intermediates = self.issuers(&veks, certificate_table::ASK);
        let mut roots = self.issuers(&intermediates, certificate_table::ARK);
        if veks.len().max(intermediates.len()).max(roots.len()) < 2 {
            return None;
        }
        let valid = |certificate: &Certificate<'_>| certificate.check_validity(moment.at()).is_ok();
        roots.retain(|root| {
            valid(root)
                && accepted_root(&root.spki_sha256(), anchors).is_ok()
                && root.check_issued_by(root).is_ok()
        });
        intermediates.retain(|intermediate| valid(intermediate) && issuer_of(intermediate, &roots).is_some());
        veks.into_iter().filter(|vek| valid(vek)).find_map(|vek| {
            let intermediate = issuer_of(vek, &intermediates)?;
            let ark = issuer_of(intermediate, &roots)?;
            Some(Chain { ark: ark.clone(), intermediate: intermediate.clone(), vek: vek.clone() })
        })
    }

    /// Those given, each once, without the one that the table has too.
    fn given_beside(&self, own: Option<&Parsed<'a>>) -> impl Iterator<Item = &Certificate<'a>> {
        let own = own.and_then(|own| own.as_ref().ok());
        let mut seen: BTreeSet<&[u8]> = own.map(Certificate::der).into_iter().collect();
        self.given.iter().filter(move |given| seen.insert(given.der()))
    }

    /// Those that have the name of an issuer of `subjects`; the table's own first.
    fn issuers(&self, subjects: &[&Certificate<'a>], guid: [u8; 16]) -> Vec<&Certificate<'a>> {
        let own = self.table.get(&guid);
        let all = own.into_iter().flatten().chain(self.given_beside(own));
        all.filter(|issuer| subjects.iter().any(|subject| subject.names_as_issuer(issuer))).collect()
    }

    /// The first that has the name of the issuer of `subject`; else the table's own.
    fn issuer(
        &self,
        subject: &Certificate<'a>,
        guid: [u8; 16],
        which: CertificateName,
    ) -> Result<Certificate<'a>, SnpError> {
        let named = self.issuers(&[subject], guid).first().map(|issuer| Ok((*issuer).clone()));
        named
            .or_else(|| self.table.get(&guid).cloned())
            .ok_or(SnpError::MissingCertificate { which })?
            .map_err(|error| SnpError::Certificate { which, error })
    }
}

/// Of which `subject` is issued.
fn issuer_of<'a, 'b>(
    subject: &Certificate<'a>,
    issuers: &[&'b Certificate<'a>],
) -> Option<&'b Certificate<'a>> {
    issuers.iter().copied().find(|issuer| subject.check_issued_by(issuer).is_ok())
}
