//! PEM (RFC 7468) and the other forms that endorsements come in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A PEM block: its label and its DER.
pub type Block = (String, Vec<u8>);

/// The blocks of a text; what stands between them is passed over. Fails with what is wrong with which block.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut found = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let (label, rest) = block.split_once("-----").unwrap_or((block, ""));
        let end = format!("-----END {label}-----");
        let (body, _) = rest.split_once(&end).ok_or_else(|| format!("block `{label}` has no end"))?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| format!("block `{label}` is not base64"))?;
        found.push((label.to_owned(), der));
    }
    Ok(found)
}

/// One block with lines of 64 characters.
#[must_use]
pub fn block(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// One certificate or revocation list as DER, from DER, from one PEM block, or from hex digits as caches of Intel's
/// service write lists. Fails when it is none of these, is cut off, or has bytes after its end.
pub(super) fn der(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    let der = if text.starts_with("-----BEGIN ") {
        let mut found = blocks(text)?;
        match (found.pop(), found.is_empty()) {
            (Some((_, der)), true) => der,
            _ => return Err(format!("it has {} PEM blocks, wanted 1", found.len() + 1)),
        }
    } else {
        hex::decode(text).ok().filter(|der| !der.is_empty()).unwrap_or_else(|| bytes.to_vec())
    };
    let got = der.len();
    match sequence_length(&der) {
        Some(wanted) if wanted == got => Ok(der),
        Some(wanted) => Err(format!("it has {got} bytes, its DER says {wanted}")),
        None => Err("it does not begin like DER, PEM or hex digits of DER".to_owned()),
    }
}

/// Length in bytes of the DER sequence that begins here, with its own header.
fn sequence_length(der: &[u8]) -> Option<usize> {
    let (0x30, length) = (*der.first()?, usize::from(*der.get(1)?)) else { return None };
    if length < 0x80 {
        return Some(length + 2);
    }
    // Three bytes of length are 16 MiB, more than any endorsement.
    let digits = der.get(2..2 + length.checked_sub(0x80).filter(|digits| (1..=3).contains(digits))?)?;
    let value = digits.iter().fold(0, |value, byte| (value << 8) | usize::from(*byte));
    Some(value + digits.len() + 2)
}

/// Percent encoding (RFC 3986 §2.1) taken off. Fails with what is wrong.
pub(super) fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or_default(), bytes.next().unwrap_or_default()];
        let mut decoded = [0];
        hex::decode_to_slice(digits, &mut decoded).map_err(|_| "percent encoding is malformed".to_owned())?;
        out.extend(decoded);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_read_from_der_pem_and_hex() {
        let whole = [0x30, 0x03, 0x02, 0x01, 0x05];
        for form in [whole.to_vec(), block("X509 CRL", &whole).into_bytes(), b"3003020105\n".to_vec()] {
            assert_eq!(der(&form), Ok(whole.to_vec()));
        }
        let mut long = vec![0x30, 0x82, 0x01, 0x00];
        long.extend([0; 256]);
        assert_eq!(der(&long), Ok(long.clone()));
    }

    #[test]
    fn what_is_cut_off_added_or_something_else_is_told() {
        for (bytes, wanted) in [
            (&b"\x30\x03\x02\x01"[..], "it has 4 bytes, its DER says 5"),
            (b"\x30\x03\x02\x01\x05\x00", "it has 6 bytes, its DER says 5"),
            (b"<html>", "it does not begin like DER, PEM or hex digits of DER"),
            (b"", "it does not begin like DER, PEM or hex digits of DER"),
            (b"\x30\x84\x00\x00\x00\x00", "it does not begin like DER, PEM or hex digits of DER"),
            (b"-----BEGIN X509 CRL-----\nMAMC", "block `X509 CRL` has no end"),
            (b"-----BEGIN A-----\n!\n-----END A-----", "block `A` is not base64"),
        ] {
            assert_eq!(der(bytes), Err(wanted.to_owned()));
        }
        let two = block("A", &[0x30, 0]) + &block("B", &[0x30, 0]);
        assert_eq!(der(two.as_bytes()), Err("it has 2 PEM blocks, wanted 1".to_owned()));
    }

    #[test]
    fn percent_encoding_is_taken_off() {
        assert_eq!(percent_decoded("a%20b+c%0A"), Ok(b"a b+c\n".to_vec()));
        for bad in ["%", "%2", "%zz"] {
            assert!(percent_decoded(bad).is_err(), "{bad}");
        }
    }
}
