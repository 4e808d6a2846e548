//! Comparing an authentic answer with a policy.

use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;

use super::{AuthenticMeasurement, ImageTags};
use crate::policy::{ConfigUids, Measurements, Placed, Policy, ReferenceValue, SePolicy};
use crate::reliance::EvidenceKind;

/// Length of the report data at the start of the user data, in bytes.
pub(super) const REPORT_DATA_LEN: usize = 64;

/// Why an authentic answer is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeRefusal {
    /// Convincing only in a way that the policy does not accept.
    #[error("Evidence is of kind {got}, policy accepts {}", list(.wanted))]
    Kind {
        /// Kind seen.
        got: EvidenceKind,
        /// Kinds accepted.
        wanted: Vec<EvidenceKind>,
        /// Line of the policy.
        line: usize,
    },
    /// The Verifier judged under a policy that is not accepted of it.
    #[error("Verifier \"{verifier}\" judged under policy {got}, accepted of it are {}", list(.wanted))]
    VerifierPolicy {
        /// Name of the Verifier.
        verifier: String,
        /// Digest of its policy.
        got: Sha256Digest,
        /// Digests accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// The Result covers a key and not the build.
    #[error(
        "Attestation Result covers the signing key and not this build, policy accepts such of builds only"
    )]
    KeyOnly {
        /// Line of the policy.
        line: usize,
    },
    /// The image is none of the Reference Values.
    #[error("image tags are {got}, policy accepts {}", list(.wanted))]
    Image {
        /// Tags seen.
        got: ImageTags,
        /// Tags accepted.
        wanted: Vec<ImageTags>,
        /// Line of the policy.
        line: usize,
    },
    /// The image was unpacked with another host key.
    #[error("image was unpacked with the host key {got}, policy accepts {}", list(.wanted))]
    ImageHostKey {
        /// Hash seen.
        got: Sha256Digest,
        /// Hashes accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// The request was opened with another host key.
    #[error("request was opened with the host key {got}, policy accepts {}", list(.wanted))]
    AttestationHostKey {
        /// Hash seen.
        got: Sha256Digest,
        /// Hashes accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// The request can be opened with another host key too.
    #[error(
        "slot {slot} of the attestation request is for the host key {got}, whose holder could have made the answer; policy accepts {}; make the request for these only",
        list(.wanted)
    )]
    AttestationSlot {
        /// Index of the slot, from 0.
        slot: usize,
        /// Hash seen.
        got: Sha256Digest,
        /// Hashes accepted.
        wanted: Vec<Sha256Digest>,
        /// Line of the policy.
        line: usize,
    },
    /// Another run of the guest.
    #[error("configuration unique id is {got}, policy accepts {}", .wanted.join(", "))]
    ConfigUid {
        /// Id seen, hex.
        got: String,
        /// Ids accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// The user data have no room for report data.
    #[error("user data have {got} bytes, wanted {REPORT_DATA_LEN} of report data at their start")]
    UserDataLength {
        /// Bytes seen.
        got: usize,
    },
}

impl SeRefusal {
    /// Line of the policy that refuses, when it is a rule of the policy and not of the verifier.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::UserDataLength { .. } => None,
            Self::Kind { line, .. }
            | Self::VerifierPolicy { line, .. }
            | Self::KeyOnly { line }
            | Self::Image { line, .. }
            | Self::ImageHostKey { line, .. }
            | Self::AttestationHostKey { line, .. }
            | Self::AttestationSlot { line, .. }
            | Self::ConfigUid { line, .. } => Some(*line),
        }
    }
}

fn list<T: std::fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// An answer that the policy accepts, with the Reference Value that it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeAppraisal {
    measurement: AuthenticMeasurement,
    reference: ReferenceValue,
    report_data: ReportData,
}

impl SeAppraisal {
    /// The answer.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticMeasurement {
        &self.measurement
    }

    /// The Reference Value that the image's tags equal.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        &self.reference
    }

    /// The first 64 bytes of the user data, which the leaf's inclusion proof must lead to.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        self.report_data
    }
}

/// Compares what is relied on, both host keys and the run with the policy: everything but the image.
pub(crate) fn appraise_hardware(
    measurement: &AuthenticMeasurement,
    kinds: &Placed<Vec<EvidenceKind>>,
    rules: &SePolicy,
) -> Result<(), SeRefusal> {
    let (claims, reliance) = (measurement.claims(), measurement.reliance());
    let got = reliance.kind();
    if !kinds.value.contains(&got) {
        return Err(SeRefusal::Kind { got, wanted: kinds.value.clone(), line: kinds.line });
    }
    if let Some(statement) = reliance.statement() {
        let named =
            rules.verifiers.value.iter().find(|rule| rule.verifier.key.spki_sha256() == statement.key);
        let (wanted, line) =
            named.map_or((&[][..], rules.verifiers.line), |rule| (&rule.policies.value, rule.policies.line));
        if !wanted.contains(&statement.policy_sha256) {
            return Err(SeRefusal::VerifierPolicy {
                verifier: statement.verifier.clone(),
                got: statement.policy_sha256,
                wanted: wanted.to_vec(),
                line,
            });
        }
    }
    let (got, accepted) = (claims.image_host_key(), &rules.image_host_keys);
    if !accepted.value.contains(&got) {
        return Err(SeRefusal::ImageHostKey { got, wanted: accepted.value.clone(), line: accepted.line });
    }
    let (got, accepted) = (claims.attestation_host_key(), &rules.attestation_host_keys);
    if !accepted.value.contains(&got) {
        return Err(SeRefusal::AttestationHostKey {
            got,
            wanted: accepted.value.clone(),
            line: accepted.line,
        });
    }
    // Which of them opened it is a claim: any of them could have made it.
    let mut slots = claims.host_keys_of_request().iter().enumerate();
    if let Some((slot, got)) = slots.find(|(_, hash)| !accepted.value.contains(hash)) {
        let (wanted, line) = (accepted.value.clone(), accepted.line);
        return Err(SeRefusal::AttestationSlot { slot, got: *got, wanted, line });
    }
    if let ConfigUids::OneOf(accepted) = &rules.config_uids.value
        && !accepted.contains(claims.config_uid())
    {
        return Err(SeRefusal::ConfigUid {
            got: hex::encode(claims.config_uid()),
            wanted: accepted.iter().map(hex::encode).collect(),
            line: rules.config_uids.line,
        });
    }
    Ok(())
}

/// Compares all four tags of the image with the policy's Reference Values, and reads the report data.
pub(crate) fn appraise_guest(
    measurement: AuthenticMeasurement,
    policy: &Policy,
) -> Result<SeAppraisal, SeRefusal> {
    let claims = measurement.claims();
    let Some(report_data) = claims.report_data().copied().map(ReportData) else {
        return Err(SeRefusal::UserDataLength { got: claims.user_data().len() });
    };
    let (got, mut wanted, mut line) = (*claims.image(), Vec::new(), None);
    for reference in policy.reference_values() {
        let Measurements::SecureExecution(tags) = &reference.measurements else { continue };
        if tags.value == got {
            return Ok(SeAppraisal { reference: reference.clone(), report_data, measurement });
        }
        wanted.push(tags.value);
        line.get_or_insert(tags.line);
    }
    Err(SeRefusal::Image { got, wanted, line: line.unwrap_or(policy.reference_values_line()) })
}
