//! Distinguished names (RFC 5280 §4.1.2.4), read for vendors who write the same name in several ways.

use std::fmt;

use der::asn1::ObjectIdentifier;
use der::{Decode, Reader, SliceReader, Tag};

use super::{CertificateError, expect, malformed, next, sequence};

/// Most attributes of a name.
const MAX_ATTRIBUTES: usize = 16;
/// Characters of each value that a message shows.
const SHOWN: usize = 64;

/// Short names of attribute types (RFC 4514 §3).
const SHORT: [(&str, &str); 6] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
];

/// The attributes of a name in one fixed order, so that names compare equal whatever order and string type they were
/// written in. Values compare exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DistinguishedName(Vec<(ObjectIdentifier, String)>);

impl DistinguishedName {
    /// Reads a Name in DER. Values must be text; a relative name of several attributes is an error.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = SliceReader::new(der)?;
        let (mut names, _) = sequence(&mut reader)?;
        let mut attributes = Vec::new();
        while !names.is_finished() {
            let (set, _) = expect(&mut names, Tag::Set)?;
            let mut set = SliceReader::new(set)?;
            let (mut attribute, _) = sequence(&mut set)?;
            set.finish()?;
            let oid = ObjectIdentifier::decode(&mut attribute)?;
            let (tag, value, _) = next(&mut attribute)?;
            attribute.finish()?;
            if !matches!(tag, Tag::PrintableString | Tag::Utf8String | Tag::Ia5String) {
                return Err(malformed(format!("{tag} where the text of a name belongs")));
            }
            let value = std::str::from_utf8(value).map_err(malformed)?;
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(malformed(format!("name of more than {MAX_ATTRIBUTES} attributes")));
            }
            attributes.push((oid, value.to_owned()));
        }
        attributes.sort();
        Ok(Self(attributes))
    }

    /// Number of attributes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of an attribute that stands exactly once.
    pub(crate) fn value(&self, oid: &ObjectIdentifier) -> Option<&str> {
        let mut values = self.0.iter().filter(|(known, _)| known == oid);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// The name without an attribute.
    pub(crate) fn without(mut self, oid: &ObjectIdentifier) -> Self {
        self.0.retain(|(known, _)| known != oid);
        self
    }
}

impl fmt::Display for DistinguishedName {
    /// `CN=…, C=…`, control characters left out and long values cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (oid, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let oid = oid.to_string();
            let name = SHORT.iter().find(|(known, _)| *known == oid).map_or(oid.as_str(), |(_, short)| short);
            let value: String = value.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}
