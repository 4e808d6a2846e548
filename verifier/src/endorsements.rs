//! Which endorsements Evidence needs, so that somebody can ask AMD or Intel for them.
//!
//! It is read from Evidence of which nothing is authenticated yet: whoever made the Evidence chooses what is asked for. What
//! comes back is judged with the Evidence by [`crate::authenticate`] and by nothing before.

use provenance::azure::AzureEvidence;
use provenance::evidence::certificate_table::InvalidTable;
use provenance::evidence::{Evidence, Platform};

use crate::azure::{self, AzureError};
use crate::snp::{Product, Report, ReportError, SigningKey, Tcb};
use crate::tdx::{Quote, QuoteError, TdxError};
use crate::{snp, tdx};

/// What to ask a vendor for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedEndorsements {
    /// AMD's Key Distribution Service.
    Amd(WantedOfAmd),
    /// Intel's Provisioning Certification Service.
    Intel(WantedOfIntel),
}

/// Certificates of AMD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOfAmd {
    /// CPU generation.
    pub product: Product,
    /// Which key signed the report.
    pub key: SigningKey,
    /// Id of the chip: 64 bytes, on Turin 8. `None` under a VLEK, which is of no chip.
    pub hardware_id: Option<Vec<u8>>,
    /// REPORTED_TCB, which is the TCB of the key.
    pub tcb: Tcb,
}

/// Documents of Intel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOfIntel {
    /// Family, model, stepping, platform type and custom SKU, 6 bytes.
    pub fmspc: [u8; 6],
    /// The CA that issued the PCK certificate.
    pub ca: PckCa,
}

/// A CA of Intel that issues PCK certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PckCa {
    /// Of platforms with several packages.
    Platform,
    /// Of single processors.
    Processor,
}

impl PckCa {
    /// Its name in Intel's service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Processor => "processor",
        }
    }
}

/// Why it cannot be told what to ask for. Fault: the Evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WantedError {
    /// No SEV-SNP report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// No certificate table beside the report.
    #[error(transparent)]
    Table(#[from] InvalidTable),
    /// The report is of a CPU that no product is known for.
    #[error("report is of CPU family {family:#x}, model {model:#x}, which is no known product")]
    UnknownProduct {
        /// CPUID family.
        family: u8,
        /// CPUID model.
        model: u8,
    },
    /// A report of version 2 does not say of which product it is, and neither does a certificate beside it.
    #[error("report has version 2, which does not show the product, and no VCEK or VLEK is beside it")]
    ProductNotShown,
    /// REPORTED_TCB has bits that the product does not define.
    #[error("REPORTED_TCB of the report has {got:#04x} in its byte {index}, which {product} reserves")]
    TcbReserved {
        /// Index of the byte.
        index: usize,
        /// The byte.
        got: u8,
        /// The product.
        product: Product,
    },
    /// The host masks the chip's id.
    #[error("CHIP_ID of the report is masked, so that AMD cannot be asked for the chip's VCEK")]
    ChipIdMasked,
    /// On Turin an id has 8 bytes.
    #[error("CHIP_ID of the report has more than 8 bytes that are set, which no {product} has")]
    ChipId {
        /// The product.
        product: Product,
    },
    /// No TDX quote.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// The PCK certificate in the quote is malformed.
    #[error(transparent)]
    Pck(#[from] TdxError),
    /// The PCK certificate is of another issuer.
    #[error("PCK certificate is issued by `{got}`, wanted one of Intel's PCK CAs")]
    PckIssuer {
        /// Common name of the CA beside it.
        got: String,
    },
    /// No Evidence from behind Azure's paravisor.
    #[error(transparent)]
    Azure(#[from] AzureError),
    /// No vendor has a service for the platform.
    #[error(
        "endorsements of {platform} are not to be had from a service: take them from where the vendor publishes them"
    )]
    NoService {
        /// The platform.
        platform: Platform,
    },
}

/// What a vendor must be asked for about this Evidence.
pub fn wanted_endorsements(evidence: &Evidence) -> Result<WantedEndorsements, WantedError> {
    match evidence.platform {
        Platform::SevSnp => of_amd(&evidence.report, &evidence.endorsements).map(WantedEndorsements::Amd),
        Platform::Tdx => of_intel(&evidence.report).map(WantedEndorsements::Intel),
        Platform::AzSnp => {
            let envelope = AzureEvidence::parse(&evidence.report).map_err(AzureError::from)?;
            let report = azure::unauthenticated_report(&envelope.hcl_report)?;
            of_amd(report, &evidence.endorsements).map(WantedEndorsements::Amd)
        }
        Platform::AzTdx => {
            let envelope = AzureEvidence::parse(&evidence.report).map_err(AzureError::from)?;
            of_intel(&envelope.td_quote).map(WantedEndorsements::Intel)
        }
        platform @ Platform::SecureExecution => Err(WantedError::NoService { platform }),
    }
}

fn of_amd(report: &[u8], table: &[u8]) -> Result<WantedOfAmd, WantedError> {
    let report = Report::parse(report)?;
    let key = report.signing_key();
    let product = match (report.version(), *report.cpuid()) {
        (3.., [family, model, _]) => {
            Product::from_cpuid(family, model).ok_or(WantedError::UnknownProduct { family, model })?
        }
        _ => snp::unauthenticated_product(table, key)?.ok_or(WantedError::ProductNotShown)?,
    };
    let tcb = Tcb::parse(report.reported_tcb(), product).map_err(|byte| WantedError::TcbReserved {
        index: byte.index,
        got: byte.got,
        product,
    })?;
    let hardware_id = match key {
        SigningKey::Vlek => None,
        SigningKey::Vcek => Some(hardware_id(report.chip_id(), product)?),
    };
    Ok(WantedOfAmd { product, key, hardware_id, tcb })
}

fn hardware_id(chip: &[u8; 64], product: Product) -> Result<Vec<u8>, WantedError> {
    if chip.iter().all(|byte| *byte == 0) {
        return Err(WantedError::ChipIdMasked);
    }
    // AMD publication 57230: hwID has 64 bytes, on Turin 8.
    let length = if product == Product::Turin { 8 } else { chip.len() };
    let (id, padding) = chip.split_at(length);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(WantedError::ChipId { product });
    }
    Ok(id.to_vec())
}

fn of_intel(quote: &[u8]) -> Result<WantedOfIntel, WantedError> {
    let quote = Quote::parse(quote)?;
    let (facts, issuer) = tdx::unauthenticated_platform(quote.pck_chain())?;
    let ca = match issuer.as_str() {
        "Intel SGX PCK Platform CA" => PckCa::Platform,
        "Intel SGX PCK Processor CA" => PckCa::Processor,
        _ => return Err(WantedError::PckIssuer { got: issuer }),
    };
    Ok(WantedOfIntel { fmspc: facts.fmspc, ca })
}
