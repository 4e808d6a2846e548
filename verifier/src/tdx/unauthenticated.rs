//! What stands behind signatures, read without them: for [`crate::fuzzing`] alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::collateral::{QeIdentity, TcbInfo};
use super::quote::Quote;
use super::{TdxError, pck, pem, tcb};
use crate::x509::{Certificate, Profile};

/// Reads the SGX extensions of a certificate.
pub(crate) fn read_pck_extensions(certificate: &Certificate<'_>) -> Result<(), TdxError> {
    pck::facts(certificate).map(|_| ())
}

/// Reads a chain of two or three certificates. There is one spelling of it, but for what may stand at its end.
pub(crate) fn read_chain(bytes: &[u8]) -> bool {
    let Some(found) = pem::chain::<2>(bytes)
        .map(Vec::from)
        .or_else(|_| pem::chain::<3>(bytes).map(Vec::from))
        .ok()
        .or_else(|| pem::chain::<1>(bytes).map(Vec::from).ok())
    else {
        return false;
    };
    let mut spelled = String::new();
    for der in found {
        spelled.push_str("-----BEGIN CERTIFICATE-----\n");
        let body = STANDARD.encode(der);
        for line in body.as_bytes().chunks(64) {
            spelled.push_str(std::str::from_utf8(line).expect("base64 is text"));
            spelled.push('\n');
        }
        spelled.push_str("-----END CERTIFICATE-----\n");
    }
    let given = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let given = given.strip_suffix(b"\n").unwrap_or(given);
    assert_eq!(given, spelled.trim_end().as_bytes(), "a chain has one spelling");
    true
}

/// Reads quote, TCB info and QE identity, and finds the levels that the platform reaches.
pub(crate) fn read_documents(quote: &[u8], tcb_info: &[u8], qe_identity: &[u8]) -> bool {
    let (info, identity) = (TcbInfo::unauthenticated(tcb_info), QeIdentity::unauthenticated(qe_identity));
    let Ok(quote) = Quote::parse(quote) else { return false };
    let Ok(chain) = pem::chain::<3>(quote.pck_chain()) else { return false };
    let Ok(pck) = Certificate::parse(&chain[0], Profile::Intel) else { return false };
    let (Ok(facts), Ok(info), Ok(identity)) = (pck::facts(&pck), info, identity) else { return false };
    tcb::judge(&quote, &facts, &info, &identity).is_ok()
}
