//! A complete policy for this crate's own tests.

use provenance::digest::Sha256Digest;

use super::{
    PlatformValues, Platforms, Policy, PolicyTemplate, REFERENCE_VALUES_TYPE, ReferenceMeasurement,
    ReferenceValues, policy_from_reference_values,
};

/// Of vendor roots, which nothing that tests make passes.
pub(crate) fn vendor_policy() -> Policy {
    let digest = Sha256Digest::of(b"anything");
    let values = ReferenceValues {
        build_policies: vec![digest],
        builder_ids: vec!["https://builder.example".to_owned()],
        dangerous_roots: Vec::new(),
        guest_version: 1,
        name: "a release".to_owned(),
        platforms: Platforms {
            sev_snp: Some(PlatformValues { measurements: vec![ReferenceMeasurement::from_bytes([1; 48])] }),
            ..Platforms::default()
        },
        trust_configurations: vec![digest],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    };
    let template = PolicyTemplate {
        projects: vec![provenance::project::ProjectId(digest)],
        ..PolicyTemplate::default()
    };
    let text = policy_from_reference_values(&values, &template);
    Policy::parse(&text, "test.toml").expect("a policy")
}
