//! Documents of our own forms. Those that are signed or hashed have one encoding each, so reading and writing again
//! gives the same bytes.

use std::fmt::Debug;

use provenance::binding::Leaf;
use provenance::canonical::{from_canonical_json, to_canonical_json};
use provenance::context::Directory;
use provenance::dsse::Envelope;
use provenance::evidence::EvidenceBundle;
use provenance::ignore::{Filter, parse_ignore_file};
use provenance::instance::InstanceDocument;
use provenance::materials::{Completeness, Material, MaterialClass, Materials};
use provenance::project::Project;
use provenance::request::Request;
use provenance::secure_execution::AttestationResult;
use provenance::statement::Statement;
use provenance::timestamp::Timestamp;
use verifier::policy::{Policy, ReferenceValues};

/// Whether it parses, and then is written as it stood there.
fn same<T, E: Debug>(bytes: &[u8], parsed: Result<T, E>, write: impl FnOnce(&T) -> Vec<u8>) -> bool {
    let Ok(parsed) = parsed else { return false };
    assert!(write(&parsed) == bytes, "another encoding of the same document is accepted");
    true
}

pub(crate) fn evidence_collection(bytes: &[u8]) -> bool {
    let parsed = EvidenceBundle::parse(bytes);
    if let Ok(bundle) = &parsed
        && let Ok(leaf) = Leaf::parse(&bundle.leaf)
    {
        let _ = bundle.proof.report_data(&leaf);
    }
    same(bytes, parsed, EvidenceBundle::to_json)
}

pub(crate) fn leaf(bytes: &[u8]) -> bool {
    same(bytes, Leaf::parse(bytes), Leaf::encode)
}

pub(crate) fn instance(bytes: &[u8]) -> bool {
    same(bytes, InstanceDocument::parse(bytes), InstanceDocument::document)
}

pub(crate) fn request(bytes: &[u8]) -> bool {
    same(bytes, Request::parse(bytes), Request::document)
}

pub(crate) fn project(bytes: &[u8]) -> bool {
    same(bytes, Project::parse(bytes), Project::document)
}

pub(crate) fn statement(bytes: &[u8]) -> bool {
    same(bytes, Statement::parse(bytes), Statement::document)
}

/// Items and completeness, as a statement has them.
pub(crate) fn materials(bytes: &[u8]) -> bool {
    type Parts = (Vec<Material>, std::collections::BTreeMap<MaterialClass, Completeness>);
    let parsed = from_canonical_json::<Parts>(bytes, 1 << 20);
    let Ok((items, completeness)) = parsed.clone() else { return false };
    let Ok(checked) = Materials::new(items, completeness) else { return false };
    let again = Materials::new(checked.items().to_vec(), checked.completeness().clone());
    assert_eq!(again.expect("checked before"), checked, "sorted once is sorted");
    same(bytes, parsed, to_canonical_json)
}

pub(crate) fn attestation_result(bytes: &[u8]) -> bool {
    same(bytes, AttestationResult::parse(bytes), AttestationResult::document)
}

pub(crate) fn reference_values(bytes: &[u8]) -> bool {
    same(bytes, ReferenceValues::parse(bytes), ReferenceValues::document)
}

pub(crate) fn policy(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Policy::parse(text, "policy.toml") {
        Ok(policy) => {
            assert!(!policy.platforms().is_empty() && !policy.reference_values().is_empty());
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

pub(crate) fn directory(bytes: &[u8]) -> bool {
    same(bytes, Directory::parse(bytes), Directory::encode)
}

/// The last line is the path that is asked about.
pub(crate) fn ignore_file(bytes: &[u8]) -> bool {
    let at = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (file, path) = bytes.split_at(at);
    let Ok(patterns) = parse_ignore_file(file) else { return false };
    let Ok(filter) = Filter::new::<&[u8], _>(&[], &patterns) else { return false };
    filter.includes(path.strip_prefix(b"\n").unwrap_or(path)).is_ok()
}

pub(crate) fn timestamp(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    same(bytes, Timestamp::parse(text), |time| time.to_string().into_bytes())
}

pub(crate) fn dsse(bytes: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(bytes, 1 << 20) else { return false };
    assert_eq!(Envelope::parse(&envelope.to_json(), 1 << 21), Ok(envelope));
    true
}
