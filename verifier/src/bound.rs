//! What a report is about: leaf, place in the batch, instance document. After this step the guest's own words
//! (the instance document) and one leaf are known to be covered by the hardware's signature.

use provenance::binding::{Leaf, LeafBody, LeafError, ProofError, ReportData};
use provenance::digest::Sha256Digest;
use provenance::evidence::{EvidenceBundle, Platform};
use provenance::instance::{InstanceDocument, InvalidInstance, KeyOrigin};

use crate::azure::AzureError;
use crate::evidence::{AppraisalError, AttestationResult};
use crate::policy::Policy;
use crate::reliance::EvidenceKind;
use crate::roots::Root;
use crate::secure_execution::SeRefusal;

/// Why leaf and instance document are not what the report covers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// The leaf is malformed.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The inclusion proof cannot hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The report covers other data.
    #[error("report data is {}, leaf and inclusion proof give {} (report offset {offset:#x})", hex::encode(.got.0), hex::encode(.wanted.0))]
    ReportData {
        /// Report data of the report.
        got: ReportData,
        /// Report data that leaf and proof give.
        wanted: ReportData,
        /// Offset of the report data in report or quote.
        offset: usize,
    },
    /// The TPM behind Azure's paravisor quoted other data.
    #[error(transparent)]
    Azure(#[from] AzureError),
    /// The instance document is not the one that the leaf names.
    #[error("instance document hashes to {got}, the leaf names {wanted}")]
    InstanceDigest {
        /// Digest of the document at hand.
        got: Sha256Digest,
        /// Digest in the leaf.
        wanted: Sha256Digest,
    },
    /// The instance document is malformed.
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
    /// The instance document names another platform than the Evidence is of.
    #[error("instance document says platform {got}, the Evidence is of {wanted}")]
    Platform {
        /// Platform in the document.
        got: Platform,
        /// Platform of the Evidence.
        wanted: Platform,
    },
    /// Keys of software under a hardware root.
    #[error("instance document says its keys are software fixtures, which everybody can know")]
    SoftwareKeys,
    /// The leaf is of a key that signs no images.
    #[error("leaf is of the enclave CA's key, wanted a project's signing key")]
    KeyRole,
    /// The leaf is of another kind.
    #[error("leaf is of kind {got}, wanted {wanted}")]
    LeafKind {
        /// Kind seen.
        got: &'static str,
        /// Kind wanted.
        wanted: &'static str,
    },
}

/// A leaf and an instance document that an accepted report covers. Made only by [`bind`].
#[derive(Debug, Clone)]
pub struct BoundLeaf {
    result: AttestationResult,
    leaf: Leaf,
    instance: InstanceDocument,
}

impl BoundLeaf {
    /// Whether it rests on the word of a Verifier.
    pub(crate) fn by_result(&self) -> bool {
        self.result().reliance().kind() == EvidenceKind::AttestationResult
    }

    /// Which guest on which hardware.
    #[must_use]
    pub fn result(&self) -> &AttestationResult {
        &self.result
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The instance document.
    #[must_use]
    pub fn instance(&self) -> &InstanceDocument {
        &self.instance
    }
}

/// Checks that the report covers this bundle's leaf, and the leaf this bundle's instance document.
///
/// `bundle` must be the one that `result` was made from; the comparison of the report data fails for any other.
pub fn bind(result: AttestationResult, bundle: &EvidenceBundle) -> Result<BoundLeaf, BindingError> {
    let leaf = Leaf::parse(&bundle.leaf)?;
    let wanted = bundle.proof.report_data(&leaf)?;
    result.check_report_data(&wanted)?;
    let digest = Sha256Digest::of(&bundle.instance);
    if digest != leaf.instance_sha256 {
        return Err(BindingError::InstanceDigest { got: digest, wanted: leaf.instance_sha256 });
    }
    let instance = InstanceDocument::parse(&bundle.instance)?;
    if instance.platform != result.platform() {
        return Err(BindingError::Platform { got: instance.platform, wanted: result.platform() });
    }
    check_not_software(instance.key_origin, result.root())?;
    Ok(BoundLeaf { result, leaf, instance })
}

/// Keys that everybody can know are none of a guest on hardware.
fn check_not_software(origin: KeyOrigin, root: Root) -> Result<(), BindingError> {
    if origin == KeyOrigin::DangerousSoftware && root.is_hardware() {
        return Err(BindingError::SoftwareKeys);
    }
    Ok(())
}

/// Compares report data with those that leaf and proof give.
pub(crate) fn compare(got: &[u8; 64], offset: usize, wanted: &ReportData) -> Result<(), BindingError> {
    if *got == wanted.0 {
        return Ok(());
    }
    Err(BindingError::ReportData { got: ReportData(*got), wanted: *wanted, offset })
}

/// Name of a leaf's kind, for messages.
pub(crate) const fn kind(body: &LeafBody) -> &'static str {
    match body {
        LeafBody::Key { .. } => "key",
        LeafBody::Build { .. } => "build",
        LeafBody::Session { .. } => "session",
    }
}

/// Why the configuration a guest runs under is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesRefusal {
    /// Another builder id.
    #[error("builder id is `{got}`, policy accepts {}", .wanted.join(", "))]
    BuilderId {
        /// Builder id seen.
        got: String,
        /// Builder ids accepted.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// The keys are of an origin that the policy does not accept.
    #[error(
        "the keys come from `{}` ({}), policy accepts {}", got.name(), got.explanation(),
        join(&wanted.iter().map(|origin| origin.name()).collect::<Vec<_>>())
    )]
    KeyOrigin {
        /// Origin seen.
        got: KeyOrigin,
        /// Origins accepted.
        wanted: Vec<KeyOrigin>,
        /// Line of the policy.
        line: usize,
    },
    /// Another trust configuration.
    #[error("trust configuration is {got}, policy accepts {}", join(.wanted))]
    TrustConfiguration {
        /// Digest seen.
        got: Sha256Digest,
        /// Digests accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// Another build policy.
    #[error("build policy is {got}, policy accepts {}", join(.wanted))]
    BuildPolicy {
        /// Digest seen.
        got: Sha256Digest,
        /// Digests accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
}

impl RulesRefusal {
    /// Line of the policy that refuses.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::BuilderId { line, .. }
            | Self::KeyOrigin { line, .. }
            | Self::TrustConfiguration { line, .. }
            | Self::BuildPolicy { line, .. } => *line,
        }
    }
}

pub(crate) fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Where a Verifier's word is about a key alone: whether the policy takes that for what the key signed.
pub(crate) fn appraise_key_only(bound: &BoundLeaf, policy: &Policy) -> Result<(), AppraisalError> {
    match policy.secure_execution().map(|rules| &rules.allow_key_only) {
        Some(rule) if bound.by_result() && !rule.value => Err(SeRefusal::KeyOnly { line: rule.line }.into()),
        _ => Ok(()),
    }
}

/// Compares builder id, origin of the keys, trust configuration and build policy of the instance with the policy.
pub(crate) fn appraise_rules(instance: &InstanceDocument, policy: &Policy) -> Result<(), RulesRefusal> {
    let ids = policy.builder_ids();
    if !ids.value.contains(&instance.builder_id) {
        return Err(RulesRefusal::BuilderId {
            got: instance.builder_id.clone(),
            wanted: ids.value.clone(),
            line: ids.line,
        });
    }
    let (got, origins) = (instance.key_origin, policy.key_origins());
    if !origins.value.contains(&got) {
        return Err(RulesRefusal::KeyOrigin { got, wanted: origins.value.clone(), line: origins.line });
    }
    let (got, trust) = (instance.trust_configuration_sha256(), policy.trust_configurations());
    if !trust.value.contains(&got) {
        return Err(RulesRefusal::TrustConfiguration { got, wanted: trust.value.clone(), line: trust.line });
    }
    let (got, rules) = (instance.build_policy_sha256, policy.build_policies());
    if !rules.value.contains(&got) {
        return Err(RulesRefusal::BuildPolicy { got, wanted: rules.value.clone(), line: rules.line });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::Product;

    #[test]
    fn keys_of_software_are_none_of_hardware() {
        let (vendor, other) = (Root::Amd(Product::Genoa), Root::Dangerous(Sha256Digest::of(b"a root")));
        assert_eq!(check_not_software(KeyOrigin::DangerousSoftware, vendor), Err(BindingError::SoftwareKeys));
        assert_eq!(check_not_software(KeyOrigin::DangerousSoftware, other), Ok(()));
        for root in [vendor, other] {
            assert_eq!(check_not_software(KeyOrigin::BootEphemeral, root), Ok(()));
        }
    }
}
