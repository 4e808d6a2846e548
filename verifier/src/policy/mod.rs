//! The appraisal policy of a Relying Party: a strict TOML file. What it must say and what it can say is in
//! `docs/policy.md`.
//!
//! Every mandatory key that is absent is an error that names it, every unknown key is one too, and nothing is
//! permissive unless it is written down. Debugging and migration cannot even be expressed. Roots that are no
//! vendor's have a key that begins with `dangerous_`.

mod add;
mod azure;
mod azure_values;
mod explain;
#[cfg(test)]
pub(crate) mod fixture;
mod hardware;
mod read;
mod reference;
mod render;
mod request;
mod secure_execution;
mod snp;
mod tdx;
mod time;

use std::collections::BTreeMap;

use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::instance::KeyOrigin;
use provenance::key::PublicKey;
use provenance::materials::{Completeness, MaterialClass};
use provenance::project::ProjectId;
use toml::de::DeTable;

pub use self::add::{AddReferenceError, Added, add_reference_values};
pub use self::azure::{AttestationKeys, AzurePolicy, Paravisor, PcrRule, PcrRules};
pub use self::azure_values::{AzurePlatformValues, ParavisorValues, PcrDigest, PcrValue, PcrValues};
pub use self::explain::{Explanation, Section as ExplainedSection, Skip};
use self::hardware::{Hardware, hardware};
use self::read::{Field, Section, Source};
pub use self::read::{Place, Placed};
pub use self::reference::{
    HexDigits, MAX_REFERENCE_VALUES, PlatformValues, Platforms, REFERENCE_VALUES_TYPE, ReferenceMeasurement,
    ReferenceValues, ReferenceValuesError, SePlatformValues, SeReferenceImage, TdxPlatformValues,
    TdxReferenceMeasurements,
};
pub use self::render::{PolicyTemplate, policy_from_reference_values, usual_requirement};
use self::request::{parse_public_key, request};
pub use self::secure_execution::{ConfigUids, SePolicy, VerifierRule};
pub use self::snp::{BlockKeys, GuestPolicyRule, MinimumTcb, MitigationRule, PlatformRule, SnpPolicy};
pub use self::tdx::{AcceptedModules, TdAttribute, TdxMeasurements, TdxPolicy, TdxRegister};
pub use self::time::{JudgedAt, TimeAuthority, TimePolicy, TimeProof};
use crate::reliance::{EvidenceKind, NamedVerifier};
use crate::roots::Anchors;
use crate::secure_execution::ImageTags;

/// `format` of a policy.
pub const POLICY_FORMAT: &str = "sealwright-policy/1";
/// Largest policy in bytes.
pub const MAX_POLICY: usize = 1 << 20;

/// Why a policy is refused. Nothing is verified under a policy that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Too many bytes.
    #[error("{file}: policy has {got} bytes, at most {MAX_POLICY} are allowed")]
    TooLarge {
        /// Name of the file.
        file: String,
        /// Bytes seen.
        got: usize,
    },
    /// Not TOML.
    #[error("{place}: not TOML: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser saw.
        problem: String,
    },
    /// A mandatory key is absent.
    #[error("{place}: mandatory key `{key}` is missing; see docs/policy.md for what it means")]
    Missing {
        /// Where the table begins that should hold it.
        place: Place,
        /// Path of the key.
        key: String,
    },
    /// A key that policies do not have.
    #[error("{place}: unknown key `{key}`; see docs/policy.md for the keys there are")]
    UnknownKey {
        /// Where.
        place: Place,
        /// Path of the key.
        key: String,
    },
    /// A value of another type.
    #[error("{place}: `{key}` is {got}, wanted {wanted}")]
    Type {
        /// Where.
        place: Place,
        /// Path of the key.
        key: String,
        /// The type wanted.
        wanted: &'static str,
        /// The type seen.
        got: &'static str,
    },
    /// A value that is not allowed.
    #[error("{place}: `{key}` {problem}")]
    Value {
        /// Where.
        place: Place,
        /// Path of the key.
        key: String,
        /// What was seen and what is wanted.
        problem: String,
    },
}

/// A launch measurement that the policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceValue {
    /// Name for messages, such as `sealwright 0.1.0`.
    pub name: String,
    /// The release's growing number.
    pub guest_version: u64,
    /// What a guest must measure to, by platform.
    pub measurements: Measurements,
    /// Line in the policy.
    pub line: usize,
}

/// What a guest must measure to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measurements {
    /// SEV-SNP: MEASUREMENT, 48 bytes.
    SevSnp {
        /// Launch measurement.
        measurement: [u8; 48],
    },
    /// TDX: each measurement register, 48 bytes.
    Tdx(Box<TdxMeasurements>),
    /// Secure Execution: the four tags of the image, 208 bytes.
    SecureExecution(Placed<ImageTags>),
    /// SEV-SNP behind Azure's paravisor: PCRs.
    AzSnp(Box<PcrRules>),
    /// TDX behind Azure's paravisor: PCRs.
    AzTdx(Box<PcrRules>),
}

impl Measurements {
    /// Rules for PCRs of a guest on a platform behind Azure's paravisor.
    #[must_use]
    pub fn pcrs(&self, on: Platform) -> Option<&PcrRules> {
        match self {
            Self::AzSnp(rules) if on == Platform::AzSnp => Some(rules),
            Self::AzTdx(rules) if on == Platform::AzTdx => Some(rules),
            _ => None,
        }
    }
}

/// A caller that the policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name for messages.
    pub name: String,
    /// SHA-256 of the SPKI of its key.
    pub spki_sha256: Sha256Digest,
    /// The key, when the policy holds it; otherwise the bundle's is used if its digest is right.
    pub key: Option<PublicKey>,
    /// Line in the policy.
    pub line: usize,
}

/// The weakest statement about a class of materials that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// The build must have had nothing of the class.
    None,
    /// Nothing, or every byte seen and listed by digest.
    Observed,
    /// Also: values that the signed request commits to without showing them.
    Committed,
    /// Also: something may have gone in that is not listed. The verdict names it.
    IncompleteOk,
}

impl Requirement {
    const ALL: [Self; 4] = [Self::None, Self::Observed, Self::Committed, Self::IncompleteOk];

    /// Its spelling in policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Observed => "observed",
            Self::Committed => "committed",
            Self::IncompleteOk => "incomplete-ok",
        }
    }

    /// Whether a statement of completeness is enough for it.
    #[must_use]
    pub fn is_met_by(self, stated: &Completeness) -> bool {
        let level = match stated {
            Completeness::None {} => Self::None,
            Completeness::Observed {} => Self::Observed,
            Completeness::Committed {} => Self::Committed,
            Completeness::Incomplete { .. } => Self::IncompleteOk,
        };
        level <= self
    }
}

/// A complete appraisal policy. Made only by [`Policy::parse`].
#[derive(Debug, Clone)]
pub struct Policy {
    file: String,
    sha256: Sha256Digest,
    platforms: Vec<Placed<Platform>>,
    time: Placed<TimePolicy>,
    anchors: Anchors,
    roots_line: usize,
    revocation_line: usize,
    snp: Option<SnpPolicy>,
    tdx: Option<TdxPolicy>,
    secure_execution: Option<SePolicy>,
    az_snp: Option<AzurePolicy<SnpPolicy, [u8; 48]>>,
    az_tdx: Option<AzurePolicy<TdxPolicy, TdxMeasurements>>,
    evidence_kinds: Placed<Vec<EvidenceKind>>,
    reference_values: Vec<ReferenceValue>,
    reference_values_line: usize,
    builder_ids: Placed<Vec<String>>,
    key_origins: Placed<Vec<KeyOrigin>>,
    trust_configurations: Placed<Vec<Sha256Digest>>,
    build_policies: Placed<Vec<Sha256Digest>>,
    callers: Option<Placed<Vec<Caller>>>,
    projects: Option<Placed<Vec<ProjectId>>>,
    materials: BTreeMap<MaterialClass, Placed<Requirement>>,
}

impl Policy {
    /// Parses a policy. `file` is only for messages.
    pub fn parse(toml: &str, file: &str) -> Result<Self, PolicyError> {
        if toml.len() > MAX_POLICY {
            return Err(PolicyError::TooLarge { file: file.to_owned(), got: toml.len() });
        }
        let source = Source { file, text: toml };
        let document = DeTable::parse(toml).map_err(|error| PolicyError::Syntax {
            place: source.place(error.span().map_or(0, |span| span.start)),
            problem: error.message().to_owned(),
        })?;
        let mut top = Section::new(&source, String::new(), source.place(0), document.get_ref());
        one_of(&top.required("format")?, &[(POLICY_FORMAT, ())])?;
        let judged_at = top.required("judged_at")?;
        let time = TimePolicy::read(&top.required("time")?, &judged_at)?;
        let Hardware { platforms, evidence_kinds, anchors, roots_line, revocation_line } =
            hardware(&top.required("hardware")?)?;
        let accepts = |platform| platforms.iter().any(|accepted| accepted.value == platform);
        let mut table = |platform| platform_table(&mut top, platform, accepts(platform));
        let snp = table(Platform::SevSnp)?.map(|field| SnpPolicy::read(&field, &anchors)).transpose()?;
        let tdx = table(Platform::Tdx)?.map(|field| TdxPolicy::read(&field)).transpose()?;
        let secure_execution = table(Platform::SecureExecution)?
            .map(|field| SePolicy::read(&field, &evidence_kinds.value))
            .transpose()?;
        let az_snp =
            table(Platform::AzSnp)?.map(|field| AzurePolicy::read_snp(&field, &anchors)).transpose()?;
        let az_tdx = table(Platform::AzTdx)?.map(|field| AzurePolicy::read_tdx(&field)).transpose()?;
        let verifiers: Vec<NamedVerifier> = secure_execution
            .iter()
            .flat_map(|rules| &rules.verifiers.value)
            .map(|rule| rule.verifier.clone())
            .collect();
        let anchors = anchors.with_verifiers(&verifiers);
        let references = top.required("reference_values")?;
        let reference_values = reference_values(&references)?;
        let guest = Guest::read(&top.required("guest")?)?;
        let (callers, projects) = request(&top.required("request")?)?;
        let materials = materials(&top.required("materials")?)?;
        top.finish()?;
        Ok(Self {
            file: file.to_owned(),
            sha256: Sha256Digest::of(toml.as_bytes()),
            platforms,
            time,
            anchors,
            roots_line,
            revocation_line,
            snp,
            tdx,
            secure_execution,
            az_snp,
            az_tdx,
            evidence_kinds,
            reference_values,
            reference_values_line: references.place.line,
            builder_ids: guest.builder_ids,
            key_origins: guest.key_origins,
            trust_configurations: guest.trust_configurations,
            build_policies: guest.build_policies,
            callers,
            projects,
            materials,
        })
    }

    /// Name of the file, for messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// SHA-256 of the policy's text.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        self.sha256
    }

    /// Platforms accepted.
    #[must_use]
    pub fn platforms(&self) -> &[Placed<Platform>] {
        &self.platforms
    }

    /// How the time of signing is to be proven, and as of when is judged.
    #[must_use]
    pub fn time(&self) -> &Placed<TimePolicy> {
        &self.time
    }

    /// Roots accepted and the rule on revocation.
    #[must_use]
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Whether the policy names a root that is no vendor's: then no output under it speaks of hardware.
    #[must_use]
    pub fn is_dangerous(&self) -> bool {
        !self.anchors.dangerous().is_empty()
    }

    /// Line of the roots.
    #[must_use]
    pub fn roots_line(&self) -> usize {
        self.roots_line
    }

    /// Line of the rule on revocation.
    #[must_use]
    pub fn revocation_line(&self) -> usize {
        self.revocation_line
    }

    /// Rules for SEV-SNP, there when the platform is accepted.
    #[must_use]
    pub fn snp(&self) -> Option<&SnpPolicy> {
        self.snp.as_ref()
    }

    /// Rules for TDX, there when the platform is accepted.
    #[must_use]
    pub fn tdx(&self) -> Option<&TdxPolicy> {
        self.tdx.as_ref()
    }

    /// Rules for Secure Execution, there when the platform is accepted.
    #[must_use]
    pub fn secure_execution(&self) -> Option<&SePolicy> {
        self.secure_execution.as_ref()
    }

    /// Rules for SEV-SNP behind Azure's paravisor, there when the platform is accepted.
    #[must_use]
    pub fn az_snp(&self) -> Option<&AzurePolicy<SnpPolicy, [u8; 48]>> {
        self.az_snp.as_ref()
    }

    /// Rules for TDX behind Azure's paravisor, there when the platform is accepted.
    #[must_use]
    pub fn az_tdx(&self) -> Option<&AzurePolicy<TdxPolicy, TdxMeasurements>> {
        self.az_tdx.as_ref()
    }

    /// Kinds of Evidence accepted.
    #[must_use]
    pub fn evidence_kinds(&self) -> &Placed<Vec<EvidenceKind>> {
        &self.evidence_kinds
    }

    /// Launch measurements accepted, at least one.
    #[must_use]
    pub fn reference_values(&self) -> &[ReferenceValue] {
        &self.reference_values
    }

    /// Line of the reference values.
    #[must_use]
    pub fn reference_values_line(&self) -> usize {
        self.reference_values_line
    }

    /// Builder ids accepted.
    #[must_use]
    pub fn builder_ids(&self) -> &Placed<Vec<String>> {
        &self.builder_ids
    }

    /// Origins accepted of the keys that sign.
    #[must_use]
    pub fn key_origins(&self) -> &Placed<Vec<KeyOrigin>> {
        &self.key_origins
    }

    /// SHA-256 of the canonical JSON of each trust configuration accepted.
    #[must_use]
    pub fn trust_configurations(&self) -> &Placed<Vec<Sha256Digest>> {
        &self.trust_configurations
    }

    /// SHA-256 of each build policy accepted.
    #[must_use]
    pub fn build_policies(&self) -> &Placed<Vec<Sha256Digest>> {
        &self.build_policies
    }

    /// Callers accepted; `None` when only projects are named.
    #[must_use]
    pub fn callers(&self) -> Option<&Placed<Vec<Caller>>> {
        self.callers.as_ref()
    }

    /// Projects accepted; `None` when only callers are named.
    #[must_use]
    pub fn projects(&self) -> Option<&Placed<Vec<ProjectId>>> {
        self.projects.as_ref()
    }

    /// What is demanded of each class of materials; every class is there.
    #[must_use]
    pub fn materials(&self) -> &BTreeMap<MaterialClass, Placed<Requirement>> {
        &self.materials
    }
}

fn one_of<T: Copy>(field: &Field<'_>, choices: &[(&str, T)]) -> Result<T, PolicyError> {
    field.parsed(|text| choice(text, choices))
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("is \"{text}\", wanted {}", names.join(" or "))
    })
}

fn digest(text: &str) -> Result<Sha256Digest, String> {
    text.parse().map_err(|error: provenance::digest::InvalidDigest| error.to_string())
}

/// The table of a platform: there exactly when the platform is accepted.
fn platform_table<'a>(
    top: &mut Section<'a>,
    platform: Platform,
    accepted: bool,
) -> Result<Option<Field<'a>>, PolicyError> {
    let name = platform.name();
    match top.optional(name) {
        Some(field) if !accepted => {
            Err(field.error(format!("is there, but `hardware.platforms` has no \"{name}\"")))
        }
        None if accepted => top.required(name).map(Some),
        field => Ok(field),
    }
}

fn reference_values(field: &Field<'_>) -> Result<Vec<ReferenceValue>, PolicyError> {
    let items = field.array()?;
    if items.is_empty() {
        return Err(field.error("is empty; at least one launch measurement is needed"));
    }
    items
        .iter()
        .map(|item| {
            let mut section = item.table()?;
            let platform = section.required("platform")?;
            let value = ReferenceValue {
                name: name(&section.required("name")?)?,
                guest_version: section.required("guest_version")?.number(i64::MAX.unsigned_abs())?,
                measurements: measurements(&platform, &mut section)?,
                line: item.place.line,
            };
            section.finish()?;
            Ok(value)
        })
        .collect()
}

fn measurements(platform: &Field<'_>, section: &mut Section<'_>) -> Result<Measurements, PolicyError> {
    let names = Platform::ALL.map(|platform| (platform.name(), platform));
    match one_of(platform, &names)? {
        Platform::AzSnp => Ok(Measurements::AzSnp(Box::new(PcrRules::read(section)?))),
        Platform::AzTdx => Ok(Measurements::AzTdx(Box::new(PcrRules::read(section)?))),
        Platform::SecureExecution => {
            Ok(Measurements::SecureExecution(secure_execution::image_tags(section)?))
        }
        Platform::Tdx => Ok(Measurements::Tdx(Box::new(TdxMeasurements::read(section)?))),
        Platform::SevSnp => {
            let measurement = section.required("measurement")?.parsed(parse_measurement)?;
            Ok(Measurements::SevSnp { measurement })
        }
    }
}

/// 96 lower-case hex digits.
fn parse_measurement(text: &str) -> Result<[u8; 48], String> {
    let mut bytes = [0; 48];
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(format!(
            "has {} characters, wanted 96 lower-case hex digits (a launch measurement of 48 bytes)",
            text.len()
        )),
    }
}

fn name(field: &Field<'_>) -> Result<String, PolicyError> {
    field.parsed(|text| {
        let fits = !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
        if fits {
            Ok(text.to_owned())
        } else {
            Err("must have 1 to 128 bytes without control characters".to_owned())
        }
    })
}

fn values<T>(
    field: &Field<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Placed<Vec<T>>, PolicyError> {
    let list = field.parsed_list(parse)?;
    Ok(field.placed(list.into_iter().map(|placed| placed.value).collect()))
}

/// What is accepted of the instance document.
struct Guest {
    builder_ids: Placed<Vec<String>>,
    key_origins: Placed<Vec<KeyOrigin>>,
    trust_configurations: Placed<Vec<Sha256Digest>>,
    build_policies: Placed<Vec<Sha256Digest>>,
}

impl Guest {
    fn read(field: &Field<'_>) -> Result<Self, PolicyError> {
        let mut section = field.table()?;
        let origins = KeyOrigin::ALL.map(|origin| (origin.name(), origin));
        let guest = Self {
            builder_ids: values(&section.required("builder_ids")?, |text| {
                if text.is_empty() { Err("is empty, wanted a URI".to_owned()) } else { Ok(text.to_owned()) }
            })?,
            key_origins: values(&section.required("key_origins")?, |text| choice(text, &origins))?,
            trust_configurations: values(&section.required("trust_configurations")?, digest)?,
            build_policies: values(&section.required("build_policies")?, digest)?,
        };
        section.finish()?;
        Ok(guest)
    }
}

fn materials(field: &Field<'_>) -> Result<BTreeMap<MaterialClass, Placed<Requirement>>, PolicyError> {
    let mut section = field.table()?;
    let choices = Requirement::ALL.map(|requirement| (requirement.name(), requirement));
    let mut materials = BTreeMap::new();
    for class in MaterialClass::ALL {
        let field = section.required(class.name())?;
        materials.insert(class, field.placed(one_of(&field, &choices)?));
    }
    section.finish()?;
    Ok(materials)
}
