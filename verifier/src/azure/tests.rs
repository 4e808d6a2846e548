//! Quotes and keys that no vector holds.

use super::*;

/// A quote over PCRs 0 and 23, as a TPM writes it.
fn quote() -> Vec<u8> {
    let mut bytes = TPM_GENERATED.to_be_bytes().to_vec();
    bytes.extend(ATTEST_QUOTE.to_be_bytes());
    bytes.extend([0, 2, 0xaa, 0xbb]);
    bytes.extend([0, 3, 1, 2, 3]);
    bytes.extend([0; 17 + 8]);
    bytes.extend([0, 0, 0, 1, 0, 0x0b, 3, 0x01, 0x00, 0x80]);
    bytes.extend([0, 32]);
    bytes.extend([0x5a; 32]);
    bytes
}

fn error(change: impl FnOnce(&mut Vec<u8>)) -> AzureError {
    let mut bytes = quote();
    change(&mut bytes);
    parse_quote(&bytes).err().expect("refused")
}

#[test]
fn a_quote_is_read_field_by_field() {
    let bytes = quote();
    let quote = parse_quote(&bytes).expect("a quote");
    assert_eq!(quote.extra_data, [1, 2, 3]);
    assert_eq!(quote.selected, 1 | 1 << 23);
    assert_eq!(quote.pcr_digest, [0x5a; 32]);
}

#[test]
fn each_malformation_of_a_quote_has_its_error() {
    assert_eq!(error(|q| q[0] = 0), AzureError::Magic { got: 0x0054_4347 });
    // TPM_ST_ATTEST_CERTIFY: the same key may sign other structures.
    assert_eq!(error(|q| q[5] = 0x17), AzureError::Type { got: 0x8017 });
    let selection = |got: &str| AzureError::Selection { got: got.to_owned() };
    assert_eq!(error(|q| q[43] = 2), selection("2 banks"));
    assert_eq!(error(|q| q[45] = 0x04), selection("bank 0x0004 of 24 PCRs"));
    assert_eq!(error(|q| q[46] = 2), selection("bank 0x000b of 16 PCRs"));
    assert_eq!(error(|q| q[47..50].fill(0)), selection("no PCR"));
    assert_eq!(error(|q| q.push(0)), AzureError::Trailing { got: 1 });
    for (length, field) in [
        (3, "magic"),
        (5, "type"),
        (9, "qualifiedSigner"),
        (14, "extraData"),
        (31, "clockInfo"),
        (39, "firmwareVersion"),
        (43, "pcrSelect"),
        (49, "pcrSelect"),
        (51, "pcrDigest"),
        (83, "pcrDigest"),
    ] {
        assert_eq!(error(|q| q.truncate(length)), AzureError::QuoteLength { field }, "{length} bytes");
    }
}

#[test]
fn exactly_one_attestation_key_is_wanted() {
    let key = r#"{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"AQID"}"#;
    let of = |keys: &str| attestation_key(format!(r#"{{"keys":[{keys}],"more":1}}"#).as_bytes());
    assert_eq!(of(key), Ok((vec![1, 2, 3], vec![1, 0, 1])));
    assert_eq!(of(""), Err(AzureError::AttestationKeys { got: 0 }));
    assert_eq!(of(&format!("{key},{key}")), Err(AzureError::AttestationKeys { got: 2 }));
    for (from, to, field, got) in [
        ("RSA", "EC", "kty", "EC"),
        ("\"sign\"", "\"encrypt\"", "key_ops", "encrypt"),
        ("AQID", "AQI=", "n", "AQI="),
        ("AQAB", "*", "e", "*"),
    ] {
        let error = AzureError::AttestationKey { field, got: got.to_owned() };
        assert_eq!(of(&key.replace(from, to)), Err(error));
    }
    assert!(matches!(attestation_key(b"{}"), Err(AzureError::RuntimeData { .. })));
}
