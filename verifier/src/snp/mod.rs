//! AMD SEV-SNP: authenticating a report to a pinned root. Comparing it with a policy is in `appraise`.
//!
//! Steps of [`authenticate`], each with its own error:
//! 1. the report has its length, a known version, a known signing key, zeros where nothing is signed;
//! 2. the root certificate (ARK) has a pinned key, signs itself and is valid at `now`;
//! 3. the intermediate (ASK for VCEK, ASVK for VLEK) is issued by it, has its right name and is valid at `now`;
//! 4. VCEK or VLEK is issued by the intermediate, has its right name and is valid at `now`;
//! 5. a CRL of the root, if there is one (policy can demand it), lists none of them;
//! 6. the ECDSA P-384 signature holds over the raw bytes 0 to 0x29f of the report;
//! 7. reserved fields of the signed part are as the specification says;
//! 8. the certificate is of this product, of REPORTED_TCB and (VCEK) of this chip.

mod appraise;
mod chain;
mod facts;
pub mod report;
mod tcb;
mod vek;

use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::evidence::certificate_table::{self, InvalidTable};
use provenance::timestamp::Timestamp;
use ring::signature;

pub use self::appraise::{SnpAppraisal, SnpRefusal};
pub(crate) use self::appraise::{appraise_guest, appraise_hardware};
use self::chain::{AtHand, Chain};
pub use self::report::{Report, ReportError, SigningKey};
pub use self::tcb::{Product, Tcb};
pub use crate::evidence::Endorsements;
use crate::given::TooManyEndorsements;
use crate::roots::{Anchors, Revocation, Root, amd_root};
use crate::time::Moment;
use crate::x509::{Certificate, CertificateError, Profile, RevocationList, UnauthenticatedList};

/// A place in the certificate chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// AMD root key.
    Ark,
    /// AMD SEV key: intermediate for VCEKs.
    Ask,
    /// AMD SEV VLEK key: intermediate for VLEKs.
    Asvk,
    /// Versioned Chip Endorsement Key.
    Vcek,
    /// Versioned Loaded Endorsement Key.
    Vlek,
}

impl CertificateName {
    const fn of(key: SigningKey) -> Self {
        match key {
            SigningKey::Vcek => Self::Vcek,
            SigningKey::Vlek => Self::Vlek,
        }
    }

    const fn issuer_of(key: SigningKey) -> Self {
        match key {
            SigningKey::Vcek => Self::Ask,
            SigningKey::Vlek => Self::Asvk,
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ark => "root (ARK)",
            Self::Ask => "intermediate (ASK)",
            Self::Asvk => "intermediate (ASVK)",
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

/// Why a report is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpError {
    /// The report is malformed.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// More endorsements than are looked at.
    #[error(transparent)]
    TooMany(#[from] TooManyEndorsements),
    /// The certificate table is malformed.
    #[error(transparent)]
    CertificateTable(#[from] InvalidTable),
    /// A certificate is not at hand.
    #[error(
        "{which} certificate is missing: neither in the Evidence's certificate table nor among the endorsements given"
    )]
    MissingCertificate {
        /// The certificate.
        which: CertificateName,
    },
    /// A certificate is refused.
    #[error("{which} certificate {error}")]
    Certificate {
        /// The certificate.
        which: CertificateName,
        /// Why.
        error: CertificateError,
    },
    /// The root is no pinned one.
    #[error("root key is {got}, which is no vendor's root and none that the policy names")]
    UnknownRoot {
        /// SHA-256 of the root's SPKI.
        got: Sha256Digest,
    },
    /// A vendor's root that the policy does not accept.
    #[error("root is AMD's for {got}, which the policy does not accept")]
    RootNotAccepted {
        /// The product of the root.
        got: Product,
    },
    /// A certificate has another name than its place demands.
    #[error("{which} certificate is named `{got}`, wanted `{wanted}`")]
    Name {
        /// The certificate.
        which: CertificateName,
        /// Its common name.
        got: String,
        /// The name wanted.
        wanted: String,
    },
    /// A VCEK or VLEK without an ECDSA P-384 key.
    #[error("{which} certificate has no ECDSA P-384 key")]
    KeyKind {
        /// The certificate.
        which: CertificateName,
    },
    /// An extension of the VCEK or VLEK is missing or malformed.
    #[error("{which} certificate: extension {name} is {problem}")]
    Extension {
        /// The certificate.
        which: CertificateName,
        /// AMD's name of the extension.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// The certificate is of another product than the root or the report.
    #[error("{what} is of {got}, the {which} certificate of {wanted}")]
    Product {
        /// `root` or `report (CPUID, offset 0x188)`.
        what: &'static str,
        /// Product that it is of, `an unknown product` if none.
        got: String,
        /// The certificate.
        which: CertificateName,
        /// Product of the certificate.
        wanted: Product,
    },
    /// A reserved byte of a TCB version is not zero.
    #[error("{field} has a reserved byte {got:#04x}, wanted 0 (report offset {offset:#x})")]
    TcbReserved {
        /// Name of the field.
        field: &'static str,
        /// Offset of the byte in the report.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// The certificate is of another TCB than the report says.
    #[error(
        "{which} certificate is of TCB {certificate}, the report says {report} (REPORTED_TCB, report offset 0x180)"
    )]
    OtherTcb {
        /// The certificate.
        which: CertificateName,
        /// TCB of the certificate.
        certificate: Tcb,
        /// REPORTED_TCB.
        report: Tcb,
    },
    /// The VCEK is of another chip.
    #[error(
        "VCEK certificate is of chip {certificate}, the report says {report} (CHIP_ID, report offset 0x1a0)"
    )]
    OtherChip {
        /// hwID of the certificate in hex.
        certificate: String,
        /// CHIP_ID in hex.
        report: String,
    },
    /// CHIP_ID is masked, so the VCEK cannot be tied to the report.
    #[error("CHIP_ID is masked to zero, so the VCEK cannot be compared with it (report offset 0x1a0)")]
    ChipIdMasked,
    /// The signature does not verify.
    #[error(
        "signature of the report does not verify under the {which} (report bytes 0x0 to 0x29f, signature at 0x2a0)"
    )]
    Signature {
        /// The certificate whose key was tried.
        which: CertificateName,
    },
    /// A CRL is demanded and none is at hand.
    #[error("policy demands a revocation list of the root, and none is at hand")]
    CrlMissing,
    /// A CRL is refused.
    #[error("revocation list {0}")]
    Crl(CertificateError),
    /// A certificate is revoked.
    #[error("{which} certificate is revoked")]
    Revoked {
        /// The certificate.
        which: CertificateName,
    },
}

impl SnpError {
    /// Whether other or newer endorsements could heal it: something is missing, out of date or for another TCB.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::TooMany(_) | Self::MissingCertificate { .. } | Self::CrlMissing | Self::OtherTcb { .. } => {
                true
            }
            Self::Certificate { error, .. } | Self::Crl(error) => {
                matches!(error, CertificateError::Expired { .. } | CertificateError::NotYetValid { .. })
            }
            _ => false,
        }
    }
}

/// A report whose signature chain ends in an accepted root. Made only by [`authenticate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticReport {
    report: Report,
    root: Root,
    product: Product,
    current: Tcb,
    reported: Tcb,
    committed: Tcb,
    launch: Tcb,
    csp_id: Option<String>,
}

impl AuthenticReport {
    /// The report.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The root it was traced to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// The CPU generation.
    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    /// CURRENT_TCB in the product's layout.
    #[must_use]
    pub fn current_tcb(&self) -> Tcb {
        self.current
    }

    /// REPORTED_TCB, which is the TCB of the signing key.
    #[must_use]
    pub fn reported_tcb(&self) -> Tcb {
        self.reported
    }

    /// COMMITTED_TCB.
    #[must_use]
    pub fn committed_tcb(&self) -> Tcb {
        self.committed
    }

    /// LAUNCH_TCB.
    #[must_use]
    pub fn launch_tcb(&self) -> Tcb {
        self.launch
    }

    /// The cloud provider that a VLEK was loaded by.
    #[must_use]
    pub fn csp_id(&self) -> Option<&str> {
        self.csp_id.as_deref()
    }
}

/// Checks the common names that AMD gives to each place of the chain, so that no certificate stands in for another.
fn check_names(
    root: Root,
    product: Product,
    key: SigningKey,
    chain: [&Certificate<'_>; 3],
) -> Result<(), SnpError> {
    let [ark, intermediate, vek] = chain;
    let prefix = if key == SigningKey::Vlek { "SEV-VLEK-" } else { "SEV-" };
    // One fixture root may endorse chips of several products; a vendor's endorses its own only.
    let product = if root.is_hardware() { Some(product) } else { named_product(&ark.common_name(), "ARK-") };
    let product = product.map_or("<product>", Product::certificate_name);
    for (which, certificate, wanted) in [
        (CertificateName::Ark, ark, format!("ARK-{product}")),
        (CertificateName::issuer_of(key), intermediate, format!("{prefix}{product}")),
        (CertificateName::of(key), vek, format!("SEV-{}", key.name())),
    ] {
        let got = certificate.common_name();
        if got != wanted {
            return Err(SnpError::Name { which, got, wanted });
        }
    }
    Ok(())
}

/// The product after `prefix` in a common name.
fn named_product(common_name: &str, prefix: &str) -> Option<Product> {
    let rest = common_name.strip_prefix(prefix)?;
    Product::ALL.into_iter().find(|product| product.certificate_name() == rest)
}

/// The product that a VCEK or VLEK in the table names. Nothing about it is checked.
pub(crate) fn unauthenticated_product(
    table: &[u8],
    key: SigningKey,
) -> Result<Option<Product>, certificate_table::InvalidTable> {
    let guid = match key {
        SigningKey::Vcek => certificate_table::VCEK,
        SigningKey::Vlek => certificate_table::VLEK,
    };
    let der = certificate_table::parse(table)?.remove(&guid);
    let certificate = der.as_deref().and_then(|der| Certificate::parse(der, Profile::Amd).ok());
    Ok(certificate.and_then(|vek| vek::endorsed(&vek, key).ok()).map(|endorsed| endorsed.product))
}

/// Authenticates a report and its certificate table to a root of `anchors`, as of `moment`. Revocation is asked as of today.
pub(crate) fn authenticate(
    report: &[u8],
    table: &[u8],
    extra: &Endorsements,
    anchors: &Anchors,
    moment: Moment,
) -> Result<AuthenticReport, SnpError> {
    // Step 1.
    let report = Report::parse(report)?;
    let key = report.signing_key();
    let (vek_which, issuer_which) = (CertificateName::of(key), CertificateName::issuer_of(key));
    extra.check_certificates_and_lists(0)?;
    let table = certificate_table::parse(table)?;
    let Chain { ark, intermediate, vek } = AtHand::new(&table, extra).choose(&report, anchors, moment)?;

    // Steps 2 to 4.
    let root = accepted_root(&ark.spki_sha256(), anchors)?;
    for (which, certificate, issuer) in [
        (CertificateName::Ark, &ark, &ark),
        (issuer_which, &intermediate, &ark),
        (vek_which, &vek, &intermediate),
    ] {
        certificate
            .check_issued_by(issuer)
            .and_then(|()| certificate.check_validity(moment.at()))
            .map_err(|error| SnpError::Certificate { which, error })?;
    }
    let endorsed = vek::endorsed(&vek, key)?;
    let product = endorsed.product;
    if let Root::Amd(of_root) = root
        && of_root != product
    {
        return Err(SnpError::Product {
            what: "root",
            got: of_root.to_string(),
            which: vek_which,
            wanted: product,
        });
    }
    check_names(root, product, key, [&ark, &intermediate, &vek])?;

    // Step 5.
    let lists = table.get(&certificate_table::CRL).into_iter().chain(&extra.crls);
    check_revocation(lists, &ark, (issuer_which, &intermediate), anchors.revocation(), moment.today())?;

    // Step 6. A stale or foreign endorsement also fails here; say so where the report itself says it.
    if vek.p384_point().is_none() {
        return Err(SnpError::KeyKind { which: vek_which });
    }
    if !is_signed_by(&report, &vek) {
        check_chip(&report, &endorsed)?;
        check_tcb(&report, &endorsed, vek_which)?;
        return Err(SnpError::Signature { which: vek_which });
    }

    // Steps 7 and 8.
    report.check_signed_form()?;
    check_product(&report, product, vek_which)?;
    check_chip(&report, &endorsed)?;
    let reported = check_tcb(&report, &endorsed, vek_which)?;
    Ok(AuthenticReport {
        root,
        product,
        current: tcb_field("CURRENT_TCB", report.current_tcb(), report::offset::CURRENT_TCB, product)?,
        reported,
        committed: tcb_field(
            "COMMITTED_TCB",
            report.committed_tcb(),
            report::offset::COMMITTED_TCB,
            product,
        )?,
        launch: tcb_field("LAUNCH_TCB", report.launch_tcb(), report::offset::LAUNCH_TCB, product)?,
        csp_id: endorsed.csp_id,
        report,
    })
}

/// The root with this SPKI, when it is one of `anchors`.
fn accepted_root(spki: &Sha256Digest, anchors: &Anchors) -> Result<Root, SnpError> {
    match amd_root(spki) {
        Some(product) if anchors.amd().contains(&product) => Ok(Root::Amd(product)),
        _ if anchors.dangerous().contains(spki) => Ok(Root::Dangerous(*spki)),
        Some(got) => Err(SnpError::RootNotAccepted { got }),
        None => Err(SnpError::UnknownRoot { got: *spki }),
    }
}

/// Whether the report is signed with the P-384 key of a certificate.
fn is_signed_by(report: &Report, vek: &Certificate<'_>) -> bool {
    vek.p384_point().is_some_and(|point| {
        signature::UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
            .verify(report.signed_bytes(), &report.signature())
            .is_ok()
    })
}

/// From version 3 on a report shows its CPU, which is of the certificate's product.
fn check_product(report: &Report, product: Product, which: CertificateName) -> Result<(), SnpError> {
    if report.version() < 3 {
        return Ok(());
    }
    let [family, model, _] = *report.cpuid();
    let of_report = Product::from_cpuid(family, model);
    if of_report == Some(product) {
        return Ok(());
    }
    let unknown = || format!("an unknown product (family {family:#x}, model {model:#x})");
    Err(SnpError::Product {
        what: "report (CPUID, offset 0x188)",
        got: of_report.map_or_else(unknown, |product| product.to_string()),
        which,
        wanted: product,
    })
}

fn tcb_field(field: &'static str, raw: &[u8; 8], offset: usize, product: Product) -> Result<Tcb, SnpError> {
    Tcb::parse(raw, product).map_err(|byte| SnpError::TcbReserved {
        field,
        offset: offset + byte.index,
        got: byte.got,
    })
}

fn check_tcb(report: &Report, endorsed: &vek::Endorsed, which: CertificateName) -> Result<Tcb, SnpError> {
    let reported =
        tcb_field("REPORTED_TCB", report.reported_tcb(), report::offset::REPORTED_TCB, endorsed.product)?;
    if reported == endorsed.tcb {
        Ok(reported)
    } else {
        Err(SnpError::OtherTcb { which, certificate: endorsed.tcb, report: reported })
    }
}

/// A VCEK's hwID must be CHIP_ID; on Turin its 8 bytes, followed by zeros. A VLEK is of no chip.
fn check_chip(report: &Report, endorsed: &vek::Endorsed) -> Result<(), SnpError> {
    let Some(id) = &endorsed.hardware_id else { return Ok(()) };
    let chip = report.chip_id();
    if chip.iter().all(|byte| *byte == 0) {
        return Err(SnpError::ChipIdMasked);
    }
    let (of_chip, padding) = chip.split_at(id.len());
    if of_chip == id.as_slice() && padding.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(SnpError::OtherChip { certificate: hex::encode(id), report: hex::encode(chip) })
    }
}

/// Believes every list that names this root as its issuer. What is of another issuer, or no list at all, says nothing
/// about this chain.
fn check_revocation<'a>(
    lists: impl Iterator<Item = &'a Vec<u8>>,
    ark: &Certificate<'_>,
    (which, intermediate): (CertificateName, &Certificate<'_>),
    rule: Revocation,
    now: Timestamp,
) -> Result<(), SnpError> {
    let mut fresh = false;
    let mut stale = None;
    for der in lists {
        let of_root =
            UnauthenticatedList::parse(der, Profile::Amd).is_ok_and(|list| list.names_as_issuer(ark));
        if !of_root {
            continue;
        }
        let list = RevocationList::authenticate(der, ark).map_err(SnpError::Crl)?;
        // The root signs this list, so it speaks of what the root issued: the intermediate. AMD gives every VCEK
        // serial number 0, so a list of theirs could not name one.
        if list.lists(intermediate) {
            return Err(SnpError::Revoked { which });
        }
        match list.check_fresh(now) {
            Ok(()) => fresh = true,
            Err(error) => stale = Some(error),
        }
    }
    match (rule, fresh, stale) {
        (Revocation::CrlIfPresent, ..) | (_, true, _) => Ok(()),
        (Revocation::CrlRequired, false, Some(error)) => Err(SnpError::Crl(error)),
        (Revocation::CrlRequired, false, None) => Err(SnpError::CrlMissing),
    }
}

/// Reads what AMD puts into VCEK and VLEK certificates. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_vek_extensions(certificate: &Certificate<'_>) {
    for key in [SigningKey::Vcek, SigningKey::Vlek] {
        let _ = vek::endorsed(certificate, key);
    }
}
