//! Reference Values and a policy for the software TEE. NOT HARDWARE: both say so, and the policy names the
//! fixture root under its `dangerous_…` key.

use provenance::digest::Sha256Digest;
use provenance::dsse::REFERENCE_VALUES_PAYLOAD_TYPE;
use provenance::instance::InstanceDocument;
use provenance::key::PublicKey;
use verifier::policy::{
    HexDigits, PlatformValues, Platforms, PolicyTemplate, REFERENCE_VALUES_TYPE, ReferenceMeasurement,
    ReferenceValues, SePlatformValues, SeReferenceImage, TdxPlatformValues, policy_from_reference_values,
};
use verifier::secure_execution::ImageTags;

use crate::release_fixture::FixtureKey;
use crate::software_tee::SoftwareTee;
use crate::software_tee::se::SoftwareSe;
use crate::software_tee::tdx::{SoftwareTdx, dangerous_measurements};

/// What a release of the software TEE's "guest" measures to on a platform, and the fixture root.
pub struct SoftwareRelease {
    root: Sha256Digest,
    platforms: Platforms,
}

impl SoftwareRelease {
    /// On SEV-SNP.
    #[must_use]
    pub fn snp(tee: &SoftwareTee) -> Self {
        let measurements = vec![ReferenceMeasurement::from_bytes(tee.chip().measurement())];
        let platforms = Platforms { sev_snp: Some(PlatformValues { measurements }), ..Platforms::default() };
        Self { root: tee.root_spki_sha256(), platforms }
    }

    /// On TDX.
    #[must_use]
    pub fn tdx(tee: &SoftwareTdx) -> Self {
        let measurements = vec![dangerous_measurements()];
        let platforms = Platforms { tdx: Some(TdxPlatformValues { measurements }), ..Platforms::default() };
        Self { root: tee.root_spki_sha256(), platforms }
    }

    /// On Secure Execution.
    #[must_use]
    pub fn se(guest: &SoftwareSe) -> Self {
        let tags = ImageTags::of_header(guest.header()).expect("the fixture's header");
        let digits = |at: usize, length: usize| -> HexDigits {
            hex::encode(&tags.as_bytes()[at..at + length]).try_into().expect("16 or 64 bytes")
        };
        let image = SeReferenceImage {
            page_list_digest: digits(0, 64),
            address_list_digest: digits(64, 64),
            tweak_list_digest: digits(128, 64),
            tag: digits(192, 16),
        };
        let values =
            SePlatformValues { host_keys: vec![guest.ultravisor().host_key().hash()], images: vec![image] };
        let platforms = Platforms { secure_execution: Some(values), ..Platforms::default() };
        Self { root: guest.documents.root, platforms }
    }

    /// What the release would publish, with builder id, build policy and trust configuration of this instance.
    #[must_use]
    pub fn values(&self, instance: &InstanceDocument) -> ReferenceValues {
        ReferenceValues {
            build_policies: vec![instance.build_policy_sha256],
            builder_ids: vec![instance.builder_id.clone()],
            dangerous_roots: vec![self.root],
            guest_version: 1,
            name: "NOT HARDWARE: software TEE".to_owned(),
            platforms: self.platforms.clone(),
            trust_configurations: vec![instance.trust_configuration_sha256()],
            document_type: REFERENCE_VALUES_TYPE.to_owned(),
        }
    }
}

/// What a release on SEV-SNP would publish.
#[must_use]
pub fn of(tee: &SoftwareTee, instance: &InstanceDocument) -> ReferenceValues {
    SoftwareRelease::snp(tee).values(instance)
}

/// The signed file (DSSE JSON), as `guest-image` will emit it.
#[must_use]
pub fn sign(values: &ReferenceValues, release_key: &FixtureKey) -> Vec<u8> {
    release_key.sign(REFERENCE_VALUES_PAYLOAD_TYPE, values.document()).to_json()
}

/// A policy (TOML) that accepts images of this instance for these callers. Dangerous: whoever can read the software
/// TEE's directory can make Evidence that it accepts.
#[must_use]
pub fn dangerous_policy(
    tee: &SoftwareTee,
    instance: &InstanceDocument,
    callers: &[(String, PublicKey)],
) -> String {
    let template = PolicyTemplate { callers: callers.to_vec(), ..PolicyTemplate::default() };
    policy_from_reference_values(&of(tee, instance), &template)
}
