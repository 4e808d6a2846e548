//! What AMD puts into VCEK and VLEK certificates: Versioned Chip Endorsement Key Certificate and KDS Interface
//! Specification (AMD publication 57230), §3.1, Tables 8 and 9; VLEK in publication 58369.

use der::Decode;
use der::asn1::{Ia5StringRef, ObjectIdentifier};

use super::report::SigningKey;
use super::tcb::{Product, Tcb};
use super::{CertificateName, SnpError};
use crate::x509::Certificate;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const PRODUCT_NAME: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.2");
const BL_SPL: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.3");
const UCODE_SPL: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.9");
/// spl4 to spl7: reserved components, zero.
const RESERVED_SPL: [ObjectIdentifier; 4] = [
    oid("1.3.6.1.4.1.3704.1.3.4"),
    oid("1.3.6.1.4.1.3704.1.3.5"),
    oid("1.3.6.1.4.1.3704.1.3.6"),
    oid("1.3.6.1.4.1.3704.1.3.7"),
];
const HW_ID: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.5");

/// Facts of a VCEK or VLEK certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endorsed {
    /// The CPU generation.
    pub(super) product: Product,
    /// The TCB that the key is versioned with.
    pub(super) tcb: Tcb,
    /// The chip: 64 bytes, on Turin 8; VCEK only.
    pub(super) hardware_id: Option<Vec<u8>>,
    /// The cloud provider; VLEK only.
    pub(super) csp_id: Option<String>,
}

/// Reads the extensions. The certificate must have been authenticated before.
pub(super) fn endorsed(certificate: &Certificate<'_>, key: SigningKey) -> Result<Endorsed, SnpError> {
    let which = CertificateName::of(key);
    let missing = |name| SnpError::Extension { which, name, problem: "missing" };
    let malformed = |name| SnpError::Extension { which, name, problem: "malformed" };
    let level = |name: &'static str, oid: &ObjectIdentifier| match certificate.extension(oid) {
        None => Ok(None),
        Some(der) => u8::from_der(der).map(Some).map_err(|_| malformed(name)),
    };
    let required =
        |name: &'static str, oid: &ObjectIdentifier| level(name, oid)?.ok_or_else(|| missing(name));

    let name = certificate.extension(&PRODUCT_NAME).ok_or_else(|| missing("productName"))?;
    let name = Ia5StringRef::from_der(name).map_err(|_| malformed("productName"))?;
    let product = Product::from_product_name(name.as_str()).ok_or(SnpError::Extension {
        which,
        name: "productName",
        problem: "names no known product",
    })?;
    for oid in &RESERVED_SPL {
        if level("spl4 to spl7", oid)?.is_some_and(|level| level != 0) {
            return Err(SnpError::Extension { which, name: "spl4 to spl7", problem: "not zero" });
        }
    }
    let tcb = Tcb {
        fmc: if product == Product::Turin { required("fmcSPL", &FMC_SPL)? } else { 0 },
        bootloader: required("blSPL", &BL_SPL)?,
        tee: required("teeSPL", &TEE_SPL)?,
        snp: required("snpSPL", &SNP_SPL)?,
        microcode: required("ucodeSPL", &UCODE_SPL)?,
    };
    let (hardware_id, csp_id) = match key {
        SigningKey::Vcek => {
            // The extension holds the bare bytes, without a DER type around them.
            let id = certificate.extension(&HW_ID).ok_or_else(|| missing("hwID"))?;
            let wanted = if product == Product::Turin { 8 } else { 64 };
            if id.len() != wanted {
                return Err(malformed("hwID"));
            }
            (Some(id.to_vec()), None)
        }
        SigningKey::Vlek => {
            let id = certificate.extension(&CSP_ID).ok_or_else(|| missing("cspID"))?;
            let id = Ia5StringRef::from_der(id).map_err(|_| malformed("cspID"))?;
            (None, Some(id.as_str().chars().filter(|c| !c.is_control()).take(128).collect()))
        }
    };
    Ok(Endorsed { product, tcb, hardware_id, csp_id })
}
