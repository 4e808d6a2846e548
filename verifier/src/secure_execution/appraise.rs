//! Comparing an authentic answer with a policy.

use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;

use super::exchange::CONFIG_UID_LEN;
use super::{AuthenticMeasurement, ImageTags};
use crate::policy::Placed;

/// Length of the report data at the start of the user data, in bytes.
const REPORT_DATA_LEN: usize = 64;

/// Which runs of a guest a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigUids {
    /// Any run of an accepted image.
    AnyRun,
    /// These runs only.
    OneOf(Vec<[u8; CONFIG_UID_LEN]>),
}

/// What a policy says about Secure Execution. An empty list accepts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SePolicy {
    /// Images accepted, by all four tags.
    pub images: Placed<Vec<ImageTags>>,
    /// Hashes of the host keys that may unpack the image.
    pub image_host_keys: Placed<Vec<Sha256Digest>>,
    /// Hashes of the host keys that may open the request.
    pub attestation_host_keys: Placed<Vec<Sha256Digest>>,
    /// Runs accepted.
    pub config_uids: Placed<ConfigUids>,
}

/// Why an authentic answer is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeRefusal {
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
            Self::Image { line, .. }
            | Self::ImageHostKey { line, .. }
            | Self::AttestationHostKey { line, .. }
            | Self::ConfigUid { line, .. } => Some(*line),
        }
    }
}

fn list<T: std::fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// An answer that the policy accepts. It convinces the requester alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeAppraisal {
    measurement: AuthenticMeasurement,
    report_data: ReportData,
}

impl SeAppraisal {
    /// The answer.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticMeasurement {
        &self.measurement
    }

    /// The first 64 bytes of the user data, which the leaf's inclusion proof must lead to.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        self.report_data
    }
}

/// Compares image, both host keys and run with the policy, and reads the report data.
pub fn appraise(measurement: AuthenticMeasurement, policy: &SePolicy) -> Result<SeAppraisal, SeRefusal> {
    let claims = measurement.claims();
    if !policy.images.value.contains(claims.image()) {
        return Err(SeRefusal::Image {
            got: *claims.image(),
            wanted: policy.images.value.clone(),
            line: policy.images.line,
        });
    }
    let (got, accepted) = (claims.image_host_key(), &policy.image_host_keys);
    if !accepted.value.contains(&got) {
        return Err(SeRefusal::ImageHostKey { got, wanted: accepted.value.clone(), line: accepted.line });
    }
    let (got, accepted) = (claims.attestation_host_key(), &policy.attestation_host_keys);
    if !accepted.value.contains(&got) {
        return Err(SeRefusal::AttestationHostKey {
            got,
            wanted: accepted.value.clone(),
            line: accepted.line,
        });
    }
    if let ConfigUids::OneOf(accepted) = &policy.config_uids.value
        && !accepted.contains(claims.config_uid())
    {
        return Err(SeRefusal::ConfigUid {
            got: hex::encode(claims.config_uid()),
            wanted: accepted.iter().map(hex::encode).collect(),
            line: policy.config_uids.line,
        });
    }
    let Some(report_data) = claims.user_data().first_chunk::<REPORT_DATA_LEN>() else {
        return Err(SeRefusal::UserDataLength { got: claims.user_data().len() });
    };
    Ok(SeAppraisal { report_data: ReportData(*report_data), measurement })
}
