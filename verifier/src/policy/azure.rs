//! The `[az-snp]` and `[az-tdx]` tables of a policy, and Reference Values of a guest behind Azure's paravisor.

use provenance::digest::Sha256Digest;

use super::read::{Field, Placed, Section};
use super::secure_execution::parse_hex;
use super::{PolicyError, SnpPolicy, TdxMeasurements, TdxPolicy};
use super::{digest, name, one_of, parse_measurement, values};
use crate::roots::Anchors;

/// Rules for a guest behind the paravisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzurePolicy<Hardware, Measured> {
    /// Rules for chip and firmware under the paravisor.
    pub hardware: Hardware,
    /// Paravisors accepted, at least one. They have no other rule: whoever runs as the paravisor makes the TPM say what
    /// it likes.
    pub paravisors: Placed<Vec<Paravisor<Measured>>>,
    /// Attestation keys of TPMs accepted.
    pub attestation_keys: Placed<AttestationKeys>,
}

/// A paravisor (HCL) that a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paravisor<Measured> {
    /// Name for messages.
    pub name: String,
    /// Launch measurement on SEV-SNP, all registers on TDX.
    pub measured: Measured,
    /// Line in the policy.
    pub line: usize,
}

/// Which virtual TPMs a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestationKeys {
    /// That of any machine with an accepted paravisor.
    AnyOfParavisor,
    /// Those with these attestation keys only: SHA-256 of their SubjectPublicKeyInfo.
    OneOf(Vec<Sha256Digest>),
}

/// What a PCR of the SHA-256 bank must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PcrRule {
    /// Anything.
    NotJudged,
    /// This value.
    Value([u8; 32]),
    /// Extended with all of these digests and no other, in any order, as the event log says.
    Events(Vec<[u8; 32]>),
}

/// Reference Values of a guest behind the paravisor: a rule for each of PCR 0 to 15. Those from 16 on can be reset by
/// the guest and are never judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrRules([Placed<PcrRule>; PcrRules::COUNT]);

impl PcrRules {
    /// How many PCRs have a rule.
    pub const COUNT: usize = 16;
    /// What the firmware booted is measured here (TCG PC Client Platform Firmware Profile §3.3.4.5). Without it any
    /// program would do.
    pub const BOOT_MANAGER: usize = 4;

    /// The rule for a PCR below [`Self::COUNT`].
    #[must_use]
    pub fn rule(&self, index: usize) -> &Placed<PcrRule> {
        &self.0[index]
    }

    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, PolicyError> {
        let mut rules = Vec::with_capacity(Self::COUNT);
        for index in 0..Self::COUNT {
            let field = section.required(&format!("pcr{index}"))?;
            let rule = pcr_rule(&field)?;
            if index == Self::BOOT_MANAGER && rule == PcrRule::NotJudged {
                return Err(field.error(
                    "is not judged, but PCR 4 says what was booted: without it any program would be accepted",
                ));
            }
            rules.push(field.placed(rule));
        }
        Ok(Self(rules.try_into().expect("one rule for each PCR")))
    }
}

fn pcr_rule(field: &Field<'_>) -> Result<PcrRule, PolicyError> {
    match field.text() {
        Ok("not-judged") => Ok(PcrRule::NotJudged),
        Ok(_) => field.parsed(|text| {
            parse_hex(text).map(PcrRule::Value).map_err(|problem| format!("{problem}, or \"not-judged\""))
        }),
        Err(_) => {
            let mut section = field.table()?;
            let events = values(&section.required("events")?, parse_hex)?;
            section.finish()?;
            Ok(PcrRule::Events(events.value))
        }
    }
}

impl AzurePolicy<SnpPolicy, [u8; 48]> {
    pub(super) fn read_snp(field: &Field<'_>, anchors: &Anchors) -> Result<Self, PolicyError> {
        let hardware = |field: &Field<'_>| {
            let rules = SnpPolicy::read(field, anchors)?;
            // All VMPLs have one measurement, so a report asked for at another is not the paravisor's word.
            if rules.vmpl.value != [0] {
                let vmpl = field.table()?.required("vmpl")?;
                return Err(vmpl.error(
                    "must be [0]: the paravisor runs there, and what it hosts could ask at the others",
                ));
            }
            Ok(rules)
        };
        read(field, hardware, |section| section.required("measurement")?.parsed(parse_measurement))
    }
}

impl AzurePolicy<TdxPolicy, TdxMeasurements> {
    pub(super) fn read_tdx(field: &Field<'_>) -> Result<Self, PolicyError> {
        read(field, TdxPolicy::read, TdxMeasurements::read)
    }
}

fn read<Hardware, Measured>(
    field: &Field<'_>,
    hardware: impl Fn(&Field<'_>) -> Result<Hardware, PolicyError>,
    measured: impl Fn(&mut Section<'_>) -> Result<Measured, PolicyError>,
) -> Result<AzurePolicy<Hardware, Measured>, PolicyError> {
    let mut section = field.table()?;
    let list = section.required("paravisors")?;
    let mut paravisors = Vec::new();
    for item in list.array()? {
        let mut entry = item.table()?;
        let name = name(&entry.required("name")?)?;
        let measured = measured(&mut entry)?;
        entry.finish()?;
        paravisors.push(Paravisor { name, measured, line: item.place.line });
    }
    if paravisors.is_empty() {
        return Err(list.error("is empty; name at least one paravisor by what it measures to"));
    }
    let keys = section.required("attestation_keys")?;
    let attestation_keys = match keys.text() {
        Ok(_) => one_of(&keys, &[("any-of-paravisor", ())]).map(|()| AttestationKeys::AnyOfParavisor)?,
        Err(_) => AttestationKeys::OneOf(values(&keys, digest)?.value),
    };
    let policy = AzurePolicy {
        hardware: hardware(&section.required("hardware")?)?,
        paravisors: list.placed(paravisors),
        attestation_keys: keys.placed(attestation_keys),
    };
    section.finish()?;
    Ok(policy)
}
