//! Reference Values (RATS, RFC 9334): what a release of the guest measures to, signed offline by the release key.
//!
//! A DSSE envelope of payload type `application/vnd.sealwright.reference-values.v1+json` over canonical JSON:
//!
//! ```json
//! {"builder_ids":["https://…"],"build_policies":["sha256:…"],"guest_version":7,"name":"sealwright 0.4.0",
//!  "platforms":{"sev-snp":{"measurements":["<96 hex digits>"]},
//!               "tdx":{"measurements":[{"mrconfigid":"<96 hex digits>","mrowner":"…","mrownerconfig":"…","mrtd":"…",
//!                                       "rtmr0":"…","rtmr1":"…","rtmr2":"…","rtmr3":"…"}]},
//!               "secure-execution":{"host_keys":["sha256:…"],
//!                                   "images":[{"address_list_digest":"<128 hex digits>","page_list_digest":"…",
//!                                              "tag":"<32 hex digits>","tweak_list_digest":"…"}]},
//!               "az-snp":{"measurements":[{"pcr4":"<64 hex digits>","pcr7":{"events":["<64 hex digits>"]}}],
//!                         "paravisors":[{"measurement":"<96 hex digits>","name":"…"}]},
//!               "az-tdx":{"measurements":[…],"paravisors":[{"measurement":{"mrconfigid":…},"name":"…"}]}},
//!  "trust_configurations":["sha256:…"],"type":"https://sealwright.dev/reference-values/v1"}
//! ```
//! `builder_ids`, `build_policies`, `trust_configurations` and `dangerous_roots` may be left out, and so may a platform
//! that the release has no guest for. They come from the
//! one who signs the release, never from a server that is to be judged.

use serde::{Deserialize, Serialize};

use provenance::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, Envelope, REFERENCE_VALUES_PAYLOAD_TYPE};
use provenance::key::PublicKey;

use super::{AzurePlatformValues, TdxRegister};

/// `type` of the document.
pub const REFERENCE_VALUES_TYPE: &str = "https://sealwright.dev/reference-values/v1";
/// Largest envelope in bytes.
pub const MAX_REFERENCE_VALUES: usize = 1 << 20;
/// Most measurements of one platform.
const MAX_MEASUREMENTS: usize = 256;

/// A launch measurement of SEV-SNP or a measurement register of TDX, 48 bytes as 96 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReferenceMeasurement([u8; 48]);

impl ReferenceMeasurement {
    /// From the raw 48 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 48]) -> Self {
        Self(bytes)
    }

    /// The raw 48 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }
}

impl TryFrom<String> for ReferenceMeasurement {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        super::parse_measurement(&text).map(Self).map_err(|problem| format!("measurement {problem}"))
    }
}

impl From<ReferenceMeasurement> for String {
    fn from(measurement: ReferenceMeasurement) -> Self {
        hex::encode(measurement.0)
    }
}

/// Measurements of SEV-SNP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformValues {
    /// Launch measurements, one for each supported shape of the guest.
    pub measurements: Vec<ReferenceMeasurement>,
}

/// Measurements of TDX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPlatformValues {
    /// Measurement registers, one set for each supported shape of the guest.
    pub measurements: Vec<TdxReferenceMeasurements>,
}

/// All measurement registers of a TD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReferenceMeasurements {
    /// MRCONFIGID.
    pub mrconfigid: ReferenceMeasurement,
    /// MROWNER.
    pub mrowner: ReferenceMeasurement,
    /// MROWNERCONFIG.
    pub mrownerconfig: ReferenceMeasurement,
    /// MRTD.
    pub mrtd: ReferenceMeasurement,
    /// RTMR0.
    pub rtmr0: ReferenceMeasurement,
    /// RTMR1.
    pub rtmr1: ReferenceMeasurement,
    /// RTMR2.
    pub rtmr2: ReferenceMeasurement,
    /// RTMR3.
    pub rtmr3: ReferenceMeasurement,
}

impl TdxReferenceMeasurements {
    /// The value of a register.
    #[must_use]
    pub const fn register(&self, register: TdxRegister) -> &ReferenceMeasurement {
        match register {
            TdxRegister::Mrtd => &self.mrtd,
            TdxRegister::Mrconfigid => &self.mrconfigid,
            TdxRegister::Mrowner => &self.mrowner,
            TdxRegister::Mrownerconfig => &self.mrownerconfig,
            TdxRegister::Rtmr0 => &self.rtmr0,
            TdxRegister::Rtmr1 => &self.rtmr1,
            TdxRegister::Rtmr2 => &self.rtmr2,
            TdxRegister::Rtmr3 => &self.rtmr3,
        }
    }
}

/// Images of Secure Execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SePlatformValues {
    /// Hashes of the host keys that the images are made for; may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<Sha256Digest>,
    /// Images.
    pub images: Vec<SeReferenceImage>,
}

/// The four tags of an image, lower-case hex. They are read when a policy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeReferenceImage {
    /// Address list digest, 64 bytes.
    pub address_list_digest: HexDigits,
    /// Page list digest, 64 bytes.
    pub page_list_digest: HexDigits,
    /// Tag of the header, 16 bytes.
    pub tag: HexDigits,
    /// Tweak list digest, 64 bytes.
    pub tweak_list_digest: HexDigits,
}

/// Lower-case hex digits, 16 or 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexDigits(String);

impl HexDigits {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HexDigits {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if lower && matches!(text.len(), 32 | 128) {
            Ok(Self(text))
        } else {
            Err(format!(
                "image has {} characters, wanted 128 lower-case hex digits, 32 of the tag",
                text.len()
            ))
        }
    }
}

impl From<HexDigits> for String {
    fn from(digits: HexDigits) -> Self {
        digits.0
    }
}

/// Measurements by platform; a platform that the release has no guest for is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Platforms {
    /// SEV-SNP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<PlatformValues>,
    /// TDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxPlatformValues>,
    /// Secure Execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_execution: Option<SePlatformValues>,
    /// SEV-SNP behind Azure's paravisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub az_snp: Option<AzurePlatformValues<ReferenceMeasurement>>,
    /// TDX behind Azure's paravisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub az_tdx: Option<AzurePlatformValues<TdxReferenceMeasurements>>,
}

impl Platforms {
    /// How many measurements each platform has that is there.
    fn counts(&self) -> impl Iterator<Item = usize> {
        let snp = self.sev_snp.as_ref().map(|values| values.measurements.len());
        let tdx = self.tdx.as_ref().map(|values| values.measurements.len());
        let se = self.secure_execution.as_ref().map(|values| values.images.len());
        let az_snp = self.az_snp.as_ref().map(|values| values.measurements.len());
        let az_tdx = self.az_tdx.as_ref().map(|values| values.measurements.len());
        snp.into_iter().chain(tdx).chain(se).chain(az_snp).chain(az_tdx)
    }
}

/// The document that a release key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// SHA-256 of build policies that belong to the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build_policies: Vec<Sha256Digest>,
    /// Builder ids of the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builder_ids: Vec<String>,
    /// Root keys that are no vendor's, for development only: SHA-256 of their SPKI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dangerous_roots: Vec<Sha256Digest>,
    /// Grows with each release.
    pub guest_version: u64,
    /// Name of the release, such as `sealwright 0.4.0`.
    pub name: String,
    /// Measurements by platform.
    pub platforms: Platforms,
    /// SHA-256 of the canonical JSON of trust configurations that belong to the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_configurations: Vec<Sha256Digest>,
    /// Always [`REFERENCE_VALUES_TYPE`].
    #[serde(rename = "type")]
    pub document_type: String,
}

/// Why Reference Values are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceValuesError {
    /// The envelope or the release key's signature is wrong.
    #[error("Reference Values: {0}")]
    Envelope(#[from] DsseError),
    /// The document is not canonical or of another shape.
    #[error("Reference Values: {0}")]
    Canonical(#[from] CanonicalError),
    /// Another document type.
    #[error("Reference Values: type is `{got}`, wanted `{REFERENCE_VALUES_TYPE}`")]
    Type {
        /// The type seen.
        got: String,
    },
    /// No platform, or one without measurements or with too many.
    #[error("Reference Values: {got} measurements of a platform, wanted 1 to {MAX_MEASUREMENTS}")]
    Measurements {
        /// Number seen.
        got: usize,
    },
    /// A version that cannot stand in a policy.
    #[error("Reference Values: guest_version is {got}, wanted 0 to {}", i64::MAX)]
    GuestVersion {
        /// The version seen.
        got: u64,
    },
    /// A text that cannot stand in a policy.
    #[error("Reference Values: `{field}` must have 1 to 128 bytes without control characters")]
    Text {
        /// Name of the field.
        field: &'static str,
    },
}

impl ReferenceValues {
    /// Checks the release key's signature over an envelope (DSSE JSON) and parses the document.
    pub fn authenticate(envelope: &[u8], release_key: &PublicKey) -> Result<Self, ReferenceValuesError> {
        let envelope = Envelope::parse(envelope, MAX_REFERENCE_VALUES)?;
        Self::parse(envelope.authenticate(REFERENCE_VALUES_PAYLOAD_TYPE, release_key)?)
    }

    /// Parses the bare document. Who made it is not checked: [`Self::authenticate`] does that.
    pub fn parse(document: &[u8]) -> Result<Self, ReferenceValuesError> {
        let values: Self = from_canonical_json(document, MAX_REFERENCE_VALUES)?;
        if values.document_type != REFERENCE_VALUES_TYPE {
            return Err(ReferenceValuesError::Type { got: values.document_type });
        }
        if values.platforms.counts().next().is_none() {
            return Err(ReferenceValuesError::Measurements { got: 0 });
        }
        if let Some(got) = values.platforms.counts().find(|count| !(1..=MAX_MEASUREMENTS).contains(count)) {
            return Err(ReferenceValuesError::Measurements { got });
        }
        // Integers of TOML have 64 bits and a sign.
        if i64::try_from(values.guest_version).is_err() {
            return Err(ReferenceValuesError::GuestVersion { got: values.guest_version });
        }
        let fits =
            |text: &String| !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
        let az_snp = values.platforms.az_snp.iter().flat_map(|az| az.paravisors.iter().map(|it| &it.name));
        let az_tdx = values.platforms.az_tdx.iter().flat_map(|az| az.paravisors.iter().map(|it| &it.name));
        if !az_snp.chain(az_tdx).all(fits) {
            return Err(ReferenceValuesError::Text { field: "paravisors.name" });
        }
        if !fits(&values.name) {
            return Err(ReferenceValuesError::Text { field: "name" });
        }
        if !values.builder_ids.iter().all(fits) {
            return Err(ReferenceValuesError::Text { field: "builder_ids" });
        }
        Ok(values)
    }

    /// The canonical document, for signing.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(self)
    }
}
