//! Canonical JSON (RFC 8785). A document that is signed or hashed has exactly one encoding; what does not
//! arrive in that encoding is refused rather than re-encoded.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not the canonical encoding of the document they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// More bytes than the limit for this document.
    #[error("document has {got} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes seen.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No JSON of the wanted shape: syntax, an unknown or missing field, a wrong type.
    #[error("document does not parse: {0}")]
    Shape(String),
    /// It parses, but is not written canonically (key order, spaces, number form, duplicate keys).
    #[error("document is not in canonical form (RFC 8785): differs from byte {offset} on")]
    NotCanonical {
        /// Offset of the first differing byte.
        offset: usize,
    },
}

/// The canonical encoding of `document`.
///
/// # Panics
/// If the document cannot be represented in JSON. Our documents have string keys and finite integers only.
#[must_use]
pub fn to_canonical_json<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(document).expect("own documents have string keys and integers only")
}

/// Parses a document and demands that `bytes` are its canonical encoding.
pub fn from_canonical_json<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    limit: usize,
) -> Result<T, CanonicalError> {
    if bytes.len() > limit {
        return Err(CanonicalError::TooLarge { got: bytes.len(), limit });
    }
    let document: T = serde_json::from_slice(bytes).map_err(|e| CanonicalError::Shape(e.to_string()))?;
    let canonical = to_canonical_json(&document);
    if canonical != bytes {
        let offset = canonical.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        return Err(CanonicalError::NotCanonical { offset });
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn another_spelling_is_refused_where_it_differs() {
        let parse = |text: &str| from_canonical_json::<BTreeMap<String, u32>>(text.as_bytes(), 16);
        assert_eq!(
            parse("{\"a\":2,\"b\":1}"),
            Ok(BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]))
        );
        for (text, offset) in [("{\"b\":1,\"a\":2}", 2), ("{\"a\":2,\"b\":1} ", 13), (" {\"a\":2}", 0)] {
            assert_eq!(parse(text), Err(CanonicalError::NotCanonical { offset }), "{text}");
        }
        assert!(matches!(parse("{\"a\":-2}"), Err(CanonicalError::Shape(_))));
    }
}
