//! Adding a release's Reference Values to a policy that somebody has edited: what is there, comments included, stays as
//! it is, and nothing else is ever changed.

use provenance::digest::Sha256Digest;
use toml::de::DeTable;
use toml::{Table, Value};

use super::render::reference_tables;
use super::{Place, Policy, PolicyError, ReferenceValues};

/// Why Reference Values are not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddReferenceError {
    /// The policy is not complete.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Reference Values of a release before one that the policy accepts: the way back to a guest with known flaws.
    #[error("{place}: guest version {newest} is accepted, the Reference Values are of the older {got}")]
    Older {
        /// Where the newer one stands.
        place: Place,
        /// Highest version in the policy.
        newest: u64,
        /// Version of the Reference Values.
        got: u64,
    },
    /// They are of platforms that the policy does not accept.
    #[error("Reference Values are of {}, none of which `hardware.platforms` of {file} accepts", .got.join(", "))]
    Platforms {
        /// The policy.
        file: String,
        /// Platforms of the Reference Values.
        got: Vec<String>,
    },
    /// The policy has its reference values in a form that nothing can be put behind.
    #[error(
        "{place}: `reference_values` are not written as [[reference_values]] tables, so none can be added"
    )]
    Form {
        /// Where.
        place: Place,
    },
}

/// A policy with Reference Values added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The whole text.
    pub text: String,
    /// Platform of each reference value that was added.
    pub added: Vec<String>,
    /// How many were there already.
    pub present: usize,
    /// Platforms of the Reference Values that the policy does not accept; nothing was added for them.
    pub not_accepted: Vec<String>,
    /// Builder ids, trust configurations and build policies of the release that the policy does not accept, each with its
    /// key. They are left to whoever owns the policy.
    pub not_named: Vec<(&'static str, String)>,
}

/// Adds measurements of Reference Values whose signature has been checked, behind those that are there. `release_key` is for
/// the comment above them, `file` for messages.
pub fn add_reference_values(
    text: &str,
    file: &str,
    values: &ReferenceValues,
    release_key: &Sha256Digest,
) -> Result<Added, AddReferenceError> {
    let policy = Policy::parse(text, file)?;
    let place = |line| Place { file: file.to_owned(), line };
    let newest = policy.reference_values().iter().max_by_key(|value| value.guest_version);
    if let Some(newest) = newest.filter(|newest| newest.guest_version > values.guest_version) {
        return Err(AddReferenceError::Older {
            place: place(newest.line),
            newest: newest.guest_version,
            got: values.guest_version,
        });
    }
    let form = || AddReferenceError::Form { place: place(policy.reference_values_line()) };
    let old = table(text).ok_or_else(form)?;
    let accepted: Vec<&Value> = strings(&old["hardware"]["platforms"]);

    let mut platforms: Vec<String> = Vec::new();
    let mut result = Added {
        text: text.to_owned(),
        added: Vec::new(),
        present: 0,
        not_accepted: Vec::new(),
        not_named: not_named(&policy, values),
    };
    let mut new = String::new();
    let mut entries = Vec::new();
    for block in reference_tables(values).split_inclusive("\n\n") {
        let parsed = table(block).expect("what Reference Values may hold can be written as TOML");
        let entry = &parsed["reference_values"][0];
        let platform = entry["platform"].as_str().unwrap_or_default().to_owned();
        if !platforms.contains(&platform) {
            platforms.push(platform.clone());
        }
        if !accepted.iter().any(|name| name.as_str() == Some(&platform)) {
            if !result.not_accepted.contains(&platform) {
                result.not_accepted.push(platform);
            }
        } else if old["reference_values"].as_array().is_some_and(|all| all.iter().any(|one| same(one, entry)))
        {
            result.present += 1;
        } else {
            new.push('\n');
            new.push_str(block.trim_end());
            new.push('\n');
            entries.push(entry.clone());
            result.added.push(platform);
        }
    }
    if result.not_accepted.len() == platforms.len() {
        return Err(AddReferenceError::Platforms { file: file.to_owned(), got: platforms });
    }
    if new.is_empty() {
        return Ok(result);
    }
    let at = end_of_last(text).ok_or_else(form)?;
    let (before, after) = text.split_at(at);
    let newline = if before.ends_with('\n') { "" } else { "\n" };
    let comment = format!("\n# From Reference Values signed by {release_key}.");
    result.text = format!("{before}{newline}{comment}{new}{after}");
    // The old text with the new values behind the old ones, and nothing else.
    let mut wanted = old;
    if let Some(Value::Array(all)) = wanted.get_mut("reference_values") {
        all.extend(entries);
    }
    if table(&result.text) != Some(wanted) {
        return Err(form());
    }
    Policy::parse(&result.text, file)?;
    Ok(result)
}

fn table(text: &str) -> Option<Table> {
    text.parse().ok()
}

fn strings(value: &Value) -> Vec<&Value> {
    value.as_array().map(|list| list.iter().collect()).unwrap_or_default()
}

/// Whether two reference values accept the same guest, whatever they are called.
fn same(one: &Value, other: &Value) -> bool {
    let measured = |value: &Value| {
        let mut table = value.as_table().cloned().unwrap_or_default();
        table.remove("name");
        table.remove("guest_version");
        table
    };
    measured(one) == measured(other)
}

/// Where the line of the last value of the last reference value ends.
fn end_of_last(text: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let list = document.get_ref().get("reference_values")?.get_ref();
    let last = list.as_array()?.iter().next_back()?.get_ref();
    let end = last.as_table()?.iter().map(|(_, value)| value.span().end).max()?;
    let rest = text.get(end..)?;
    Some(end + rest.find('\n').map_or(rest.len(), |at| at + 1))
}

/// What the release names under `guest` and the policy does not.
fn not_named(policy: &Policy, values: &ReferenceValues) -> Vec<(&'static str, String)> {
    let digests = |key, got: &[Sha256Digest], accepted: &[Sha256Digest]| {
        got.iter()
            .filter(|digest| !accepted.contains(digest))
            .map(|digest| (key, digest.to_string()))
            .collect::<Vec<_>>()
    };
    let accepted = &policy.builder_ids().value;
    let builders = values.builder_ids.iter().filter(|id| !accepted.contains(id));
    let mut all: Vec<_> = builders.map(|id| ("guest.builder_ids", id.clone())).collect();
    all.extend(digests(
        "guest.trust_configurations",
        &values.trust_configurations,
        &policy.trust_configurations().value,
    ));
    all.extend(digests("guest.build_policies", &values.build_policies, &policy.build_policies().value));
    all
}
