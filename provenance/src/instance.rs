//! The instance document: one boot of the service, in every leaf by its SHA-256. A verifier can so judge the
//! configuration a build ran under, whatever the operator says.

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::evidence::Platform;
use crate::timestamp::Timestamp;

/// Largest instance document in bytes.
pub const MAX_INSTANCE: usize = 256 << 10;

/// Where the keys of this epoch come from, and who else could know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyOrigin {
    /// Random at this boot, never stored: nobody else, and gone with the boot.
    BootEphemeral,
    /// Random, sealed under a key that SEV-SNP derives for this chip, policy, measurement, SVN and TCB. A clone
    /// of the same image on the same chip could derive it too.
    SnpDerivedKey,
    /// Random, sealed under a secret inside the encrypted Secure Execution image. Who made the image knows that secret
    /// and could unseal the keys; so could each guest booted from it on a host that the image is made for.
    SecureExecutionImageSecret,
    /// Random, sealed under a secret that the owner adds at each boot of a Secure Execution guest and the guest reads
    /// back (IBM z17). The owner could unseal the keys, and so could each guest that the owner adds the secret to.
    SecureExecutionRetrievableSecret,
    /// A fixture for development. Everybody can know it.
    DangerousSoftware,
}

impl KeyOrigin {
    /// Each.
    pub const ALL: [Self; 5] = [
        Self::BootEphemeral,
        Self::SnpDerivedKey,
        Self::SecureExecutionImageSecret,
        Self::SecureExecutionRetrievableSecret,
        Self::DangerousSoftware,
    ];

    /// Its spelling in documents and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BootEphemeral => "boot-ephemeral",
            Self::SnpDerivedKey => "snp-derived-key",
            Self::SecureExecutionImageSecret => "secure-execution-image-secret",
            Self::SecureExecutionRetrievableSecret => "secure-execution-retrievable-secret",
            Self::DangerousSoftware => "dangerous-software",
        }
    }

    /// Where the keys come from and who else could know them, to be shown to people.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::BootEphemeral => "made at boot and never stored; nobody else can know them",
            Self::SnpDerivedKey => {
                "sealed under a key that SEV-SNP derives; another guest of the same image, policy and TCB on the same chip \
                 could unseal them"
            }
            Self::SecureExecutionImageSecret => {
                "sealed under a secret of the Secure Execution image; whoever made the image, and other guests of it, could \
                 unseal them"
            }
            Self::SecureExecutionRetrievableSecret => {
                "sealed under a retrievable secret of the Secure Execution guest; its owner, and guests the owner adds it \
                 to, could unseal them"
            }
            Self::DangerousSoftware => "NOT HARDWARE: a software fixture; everybody can know them",
        }
    }
}

/// A program of the guest that takes part in builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// SHA-256 of the binary.
    pub sha256: Sha256Digest,
    /// Its version as pinned.
    pub version: String,
}

/// One boot of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceDocument {
    /// 32 random bytes (hex) chosen at this boot.
    pub boot_id: String,
    /// SHA-256 of the build policy in force.
    pub build_policy_sha256: Sha256Digest,
    /// The builder id that statements name (SLSA `runDetails.builder.id`).
    pub builder_id: String,
    /// buildkitd, as pinned.
    pub buildkitd: Program,
    /// Epoch of the keys, counted from 1.
    pub epoch: u64,
    /// Where the keys come from.
    pub key_origin: KeyOrigin,
    /// The platform this boot runs on.
    pub platform: Platform,
    /// runc, as pinned.
    pub runc: Program,
    /// The guest's clock at start, which is the host's clock: unproven.
    pub started_at: Timestamp,
    /// The trust configuration in full, as read once at start.
    pub trust_configuration: serde_json::Value,
    /// Always [`INSTANCE_TYPE`].
    #[serde(rename = "type")]
    pub document_type: String,
    /// Version of build-server.
    pub version: String,
}

/// `type` of the instance document.
pub const INSTANCE_TYPE: &str = "https://sealwright.dev/instance/v1";

/// Why an instance document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstance {
    /// Not canonical or of another shape.
    #[error("instance document: {0}")]
    Canonical(#[from] CanonicalError),
    /// Another document type.
    #[error("instance document type is `{got}`, wanted `{INSTANCE_TYPE}`")]
    Type {
        /// The type seen.
        got: String,
    },
}

impl InstanceDocument {
    /// Parses the canonical document.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidInstance> {
        let document: Self = from_canonical_json(bytes, MAX_INSTANCE)?;
        if document.document_type != INSTANCE_TYPE {
            return Err(InvalidInstance::Type { got: document.document_type });
        }
        Ok(document)
    }

    /// The canonical document.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// SHA-256 of the trust configuration's canonical JSON, which appraisal policies name.
    #[must_use]
    pub fn trust_configuration_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&to_canonical_json(&self.trust_configuration))
    }
}

#[cfg(test)]
mod tests {
    use super::KeyOrigin;

    #[test]
    fn names_are_those_of_the_document() {
        for origin in KeyOrigin::ALL {
            assert_eq!(serde_json::to_value(origin).expect("text"), origin.name());
        }
    }
}
