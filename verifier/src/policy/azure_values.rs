//! Reference Values of a guest behind Azure's paravisor, as a release key signs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{PcrRules, ReferenceMeasurement, TdxReferenceMeasurements, TdxRegister};

/// Values of a guest behind the paravisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzurePlatformValues<Measured> {
    /// PCRs, one set for each supported shape of the guest.
    pub measurements: Vec<PcrValues>,
    /// Paravisors that the release was tried with; may be left out.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub paravisors: Vec<ParavisorValues<Measured>>,
}

/// A paravisor and what it measures to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParavisorValues<Measured> {
    /// Launch measurement on SEV-SNP, all registers on TDX.
    pub measurement: Measured,
    /// Name for messages.
    pub name: String,
}

/// What `pcr0` to `pcr15` must be. `pcr4` is always there; those left out are not judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, PcrValue>", into = "BTreeMap<String, PcrValue>")]
pub struct PcrValues(BTreeMap<String, PcrValue>);

/// What a PCR must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PcrValue {
    /// This value.
    Value(PcrDigest),
    /// Extended with all of these and no other.
    Events {
        /// Digests of the events, at least one.
        events: Vec<PcrDigest>,
    },
}

/// SHA-256 as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PcrDigest([u8; 32]);

impl PcrDigest {
    /// From the raw 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for PcrDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        super::secure_execution::parse_hex(&text).map(Self).map_err(|problem| format!("PCR {problem}"))
    }
}

impl From<PcrDigest> for String {
    fn from(digest: PcrDigest) -> Self {
        hex::encode(digest.0)
    }
}

fn name_of(index: usize) -> String {
    format!("pcr{index}")
}

impl PcrValues {
    /// From values by index of the PCR. Fails with what is wrong: PCR 4 missing, a PCR above 15, an empty list.
    pub fn new(values: impl IntoIterator<Item = (usize, PcrValue)>) -> Result<Self, String> {
        Self::try_from(
            values.into_iter().map(|(index, value)| (name_of(index), value)).collect::<BTreeMap<_, _>>(),
        )
    }

    /// The keys of a policy's reference value, one a line, with those that are not judged spelled out.
    pub(super) fn write(&self, out: &mut String) -> std::fmt::Result {
        for index in 0..PcrRules::COUNT {
            let name = name_of(index);
            match self.0.get(&name) {
                None => writeln!(out, "{name} = \"not-judged\"")?,
                Some(PcrValue::Value(value)) => writeln!(out, "{name} = \"{}\"", hex::encode(value.0))?,
                Some(PcrValue::Events { events }) => {
                    let events: Vec<_> =
                        events.iter().map(|event| format!("\"{}\"", hex::encode(event.0))).collect();
                    writeln!(out, "{name} = {{ events = [{}] }}", events.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, PcrValue>> for PcrValues {
    type Error = String;

    fn try_from(values: BTreeMap<String, PcrValue>) -> Result<Self, String> {
        let names: Vec<_> = (0..PcrRules::COUNT).map(name_of).collect();
        if let Some(other) = values.keys().find(|key| !names.contains(key)) {
            return Err(format!("`{other}` is no PCR that is judged, wanted pcr0 to pcr15"));
        }
        if !values.contains_key(&name_of(PcrRules::BOOT_MANAGER)) {
            return Err("pcr4 is missing, which says what was booted".to_owned());
        }
        let empty = |value: &PcrValue| matches!(value, PcrValue::Events { events } if events.is_empty());
        match values.iter().find(|(_, value)| empty(value)) {
            Some((name, _)) => Err(format!("{name} lists no event")),
            None => Ok(Self(values)),
        }
    }
}

impl From<PcrValues> for BTreeMap<String, PcrValue> {
    fn from(values: PcrValues) -> Self {
        values.0
    }
}

/// What a paravisor measures to, as keys of a policy.
pub(super) trait ParavisorKeys {
    fn keys(&self) -> String;
}

impl ParavisorKeys for ReferenceMeasurement {
    fn keys(&self) -> String {
        format!("measurement = \"{}\"", hex::encode(self.as_bytes()))
    }
}

impl ParavisorKeys for TdxReferenceMeasurements {
    fn keys(&self) -> String {
        let mut text = String::new();
        for (index, register) in TdxRegister::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{separator}{} = \"{}\"",
                register.name(),
                hex::encode(self.register(register).as_bytes())
            );
        }
        text
    }
}
