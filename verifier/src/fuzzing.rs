//! Parsers that stand behind a signature, for the fuzz targets of `tests/fuzz`: bytes get to them without one here. Not
//! part of the crate that ships. Each answers whether the bytes are accepted, and panics when what was read is not what
//! stood there.

use provenance::key::PublicKey;
use provenance::timestamp::Timestamp;

use crate::azure;
use crate::image::manifest_is_read;
use crate::snp;
use crate::tdx;
use crate::time;
use crate::x509::{Certificate, Profile, UnauthenticatedList};

const PROFILES: [Profile; 5] =
    [Profile::Amd, Profile::Intel, Profile::Ibm, Profile::TimeStamping, Profile::Enclave];

/// A certificate, and whatever is read of it once it is authentic. The first byte chooses the issuer.
#[must_use]
pub fn certificate(bytes: &[u8]) -> bool {
    let Some((vendor, der)) = bytes.split_first() else { return false };
    let Ok(certificate) = Certificate::parse(der, PROFILES[usize::from(*vendor) % PROFILES.len()]) else {
        return false;
    };
    let _ = certificate.check_validity(Timestamp::from_unix(1_800_000_000).expect("a constant"));
    let _ = (certificate.is_authority(), certificate.key_usage());
    let _ = (certificate.subject_name(), certificate.issuer_name());
    let _ = (certificate.common_name(), certificate.serial_hex());
    let _ = (certificate.purposes(), certificate.path_length());
    // Its own key over its own bytes: the keys and signatures that ring gets to see.
    let _ = certificate.check_issued_by(&certificate);
    snp::read_vek_extensions(&certificate);
    let _ = tdx::unauthenticated::read_pck_extensions(&certificate);
    true
}

/// A revocation list, read as far as one that is authentic. The first byte chooses the issuer.
#[must_use]
pub fn crl(bytes: &[u8]) -> bool {
    let Some((vendor, der)) = bytes.split_first() else { return false };
    let Ok(list) = UnauthenticatedList::parse(der, PROFILES[usize::from(*vendor) % PROFILES.len()]) else {
        return false;
    };
    let _ = list.issuer_name();
    list.read().is_ok()
}

/// A certificate chain in PEM.
#[must_use]
pub fn pem_chain(bytes: &[u8]) -> bool {
    tdx::unauthenticated::read_chain(bytes)
}

/// TCB info and QE identity as Intel's service answers them, judged for a quote. Framed: quote, TCB info, identity.
#[must_use]
pub fn tdx_documents(quote: &[u8], tcb_info: &[u8], qe_identity: &[u8]) -> bool {
    tdx::unauthenticated::read_documents(quote, tcb_info, qe_identity)
}

/// HCL report of Azure's paravisor and its runtime data.
#[must_use]
pub fn azure_hcl_report(bytes: &[u8]) -> bool {
    azure::read_hcl_report(bytes)
}

/// TPMS_ATTEST of Azure's vTPM.
#[must_use]
pub fn azure_quote(bytes: &[u8]) -> bool {
    azure::read_quote(bytes)
}

/// Timestamp response of RFC 3161, as far as its signer's certificate and signature.
#[must_use]
pub fn rfc3161_timestamp(bytes: &[u8]) -> bool {
    time::read_timestamp(bytes)
}

/// Image manifest or index.
#[must_use]
pub fn oci_manifest(bytes: &[u8]) -> bool {
    manifest_is_read(bytes)
}

/// A public key, and a signature of it over nothing.
#[must_use]
pub fn public_key(bytes: &[u8]) -> bool {
    let Ok(key) = PublicKey::from_spki_der(bytes) else { return false };
    assert_eq!(key.spki_der(), bytes, "a key has one encoding");
    let _ = key.check_signature(b"", bytes);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_at_all_is_refused_by_each() {
        for bytes in [&b""[..], b"\x01", b"{}", &[0x30; 64]] {
            assert!(!certificate(bytes) && !crl(bytes) && !pem_chain(bytes) && !oci_manifest(bytes));
            assert!(
                !rfc3161_timestamp(bytes)
                    && !azure_hcl_report(bytes)
                    && !azure_quote(bytes)
                    && !public_key(bytes)
            );
            assert!(!tdx_documents(bytes, bytes, bytes));
        }
    }
}
