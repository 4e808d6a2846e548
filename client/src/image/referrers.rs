//! The list of what refers to an image (OCI distribution-spec 1.1, "Listing Referrers"). In many registries strangers may
//! attach what they like, so one entry of theirs says nothing about the others.

use std::collections::HashSet;
use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::evidence::CMW_MEDIA_TYPE;
use provenance::sigstore::BUNDLE_MEDIA_TYPE;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::ImageError;

/// Largest list in bytes: the annotations of whatever is attached stand in it.
pub(super) const MAX_REFERRERS: u64 = 32 << 20;

/// What is read of an entry.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: Sha256Digest,
    #[serde(default)]
    artifact_type: Option<String>,
}

/// When an attachment is looked at: the kinds that a build attaches come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Ours,
    /// Some registries do not say.
    Unknown,
    Other,
}

fn turn(entry: &Entry) -> Turn {
    match entry.artifact_type.as_deref() {
        Some(CMW_MEDIA_TYPE | BUNDLE_MEDIA_TYPE) => Turn::Ours,
        None | Some("") => Turn::Unknown,
        Some(_) => Turn::Other,
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "entries")]
    manifests: Vec<(Turn, Sha256Digest)>,
}

/// Reads entry by entry, without those that are none; `null` is an empty list.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Turn, Sha256Digest)>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(Turn, Sha256Digest)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of descriptors")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(entry) = list.next_element::<&RawValue>()? {
                if let Ok(entry) = serde_json::from_str::<Entry>(entry.get()) {
                    found.push((turn(&entry), entry.digest));
                }
            }
            Ok(found)
        }
    }
    deserializer.deserialize_any(Entries)
}

/// Digests of what a list names, each once, in the order in which they are looked at.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Sha256Digest>, ImageError> {
    let list: List = serde_json::from_slice(bytes)
        .map_err(|e| ImageError::Manifest { digest: Sha256Digest::of(bytes), problem: e.to_string() })?;
    let mut found = list.manifests;
    found.sort_by_key(|(turn, _)| *turn);
    let mut seen = HashSet::new();
    found.retain(|(_, digest)| seen.insert(*digest));
    Ok(found.into_iter().map(|(_, digest)| digest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> String {
        format!("sha256:{}", format!("{number:02x}").repeat(32))
    }

    fn listed(manifests: &str) -> Vec<String> {
        let list = format!(r#"{{"schemaVersion":2,"manifests":{manifests}}}"#);
        parse(list.as_bytes()).expect("a list").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_entry_that_is_none_is_passed_over_alone() {
        let good = format!(r#"{{"digest":"{}","size":7}}"#, digest(1));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for bad in [
            &format!(r#"{{"digest":"sha512:{}","size":3}}"#, "ab".repeat(64)),
            r#"{"digest":"sha256:ab","size":3}"#,
            r#"{"digest":null}"#,
            r#"{"size":3}"#,
            "null",
            "-1",
            "[]",
            "{}",
            &deep,
        ] {
            assert_eq!(listed(&format!("[{bad},{good},{bad}]")), [digest(1)], "{bad}");
        }
        // What is not read cannot be wrong.
        for unread in [r#""size":-1"#, r#""annotations":null"#, r#""platform":7"#, r#""artifactType":null"#] {
            assert_eq!(
                listed(&format!(r#"[{{"digest":"{}",{unread}}}]"#, digest(1))),
                [digest(1)],
                "{unread}"
            );
        }
        assert!(listed("null").is_empty());
        assert!(listed("[]").is_empty());
        assert!(matches!(parse(br#"{"manifests":7}"#), Err(ImageError::Manifest { .. })));
        assert!(matches!(parse(br#"{"manifests":[{}"#), Err(ImageError::Manifest { .. })));
    }

    #[test]
    fn the_kinds_that_a_build_attaches_come_first_and_each_once() {
        let of =
            |number: u8, kind: &str| format!(r#"{{"digest":"{}","artifactType":"{kind}"}}"#, digest(number));
        let list = [
            of(1, "x/y"),
            of(2, ""),
            of(3, BUNDLE_MEDIA_TYPE),
            of(4, CMW_MEDIA_TYPE),
            of(1, "x/y"),
            of(1, CMW_MEDIA_TYPE),
        ];
        assert_eq!(listed(&format!("[{}]", list.join(","))), [3, 4, 1, 2].map(digest));
    }
}
