//! The `[secure-execution]` table of a policy, and Reference Values of an image.

use provenance::digest::Sha256Digest;

use super::PolicyError;
use super::read::{Field, Placed, Section};
use super::{digest, name, parse_public_key, values};
use crate::reliance::{EvidenceKind, NamedVerifier};
use crate::secure_execution::ImageTags;
use crate::secure_execution::exchange::CONFIG_UID_LEN;

/// Rules for Secure Execution. The state of the firmware has none: only IBM can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SePolicy {
    /// Hashes of the host keys that may unpack the image, at least one.
    pub image_host_keys: Placed<Vec<Sha256Digest>>,
    /// Hashes of the host keys that may open the attestation request, at least one.
    pub attestation_host_keys: Placed<Vec<Sha256Digest>>,
    /// Runs accepted.
    pub config_uids: Placed<ConfigUids>,
    /// Verifiers whose Attestation Results are relied on; empty unless that kind of Evidence is accepted.
    pub verifiers: Placed<Vec<VerifierRule>>,
    /// Whether a Result may cover the signing key alone and not the build.
    pub allow_key_only: Placed<bool>,
}

/// Which runs of a guest a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigUids {
    /// Any run of an accepted image.
    AnyRun,
    /// These runs only.
    OneOf(Vec<[u8; CONFIG_UID_LEN]>),
}

/// A Verifier that a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierRule {
    /// Name and key.
    pub verifier: NamedVerifier,
    /// SHA-256 of the policies that it may have judged under, at least one.
    pub policies: Placed<Vec<Sha256Digest>>,
}

impl SePolicy {
    pub(super) fn read(field: &Field<'_>, kinds: &[EvidenceKind]) -> Result<Self, PolicyError> {
        let mut section = field.table()?;
        let uids = section.required("config_uids")?;
        let verifiers = section.required("verifiers")?;
        let key_only = section.required("allow_key_only")?;
        let policy = Self {
            image_host_keys: values(&section.required("image_host_keys")?, digest)?,
            attestation_host_keys: values(&section.required("attestation_host_keys")?, digest)?,
            config_uids: uids.placed(config_uids(&uids)?),
            verifiers: verifiers
                .placed(verifiers.array()?.iter().map(verifier).collect::<Result<Vec<_>, _>>()?),
            allow_key_only: key_only.placed(key_only.boolean()?),
        };
        section.finish()?;
        let relied_on = kinds.contains(&EvidenceKind::AttestationResult);
        match policy.verifiers.value.is_empty() {
            true if relied_on => Err(verifiers.error(
                "is empty, but `hardware.evidence` has \"attestation-result\"; name at least one Verifier",
            )),
            false if !relied_on => {
                Err(verifiers
                    .error("names a Verifier, but `hardware.evidence` has no \"attestation-result\""))
            }
            true if policy.allow_key_only.value => {
                Err(key_only.error("is true, but `hardware.evidence` has no \"attestation-result\""))
            }
            _ => Ok(policy),
        }
    }
}

fn config_uids(field: &Field<'_>) -> Result<ConfigUids, PolicyError> {
    if field.text().is_ok() {
        return super::one_of(field, &[("any-run", ())]).map(|()| ConfigUids::AnyRun);
    }
    let uids = field.parsed_list(parse_hex::<CONFIG_UID_LEN>)?;
    Ok(ConfigUids::OneOf(uids.into_iter().map(|placed| placed.value).collect()))
}

fn verifier(item: &Field<'_>) -> Result<VerifierRule, PolicyError> {
    let mut section = item.table()?;
    let verifier = NamedVerifier {
        name: name(&section.required("name")?)?,
        key: section.required("public_key")?.parsed(parse_public_key)?,
    };
    let policies = values(&section.required("policies")?, digest)?;
    section.finish()?;
    Ok(VerifierRule { verifier, policies })
}

/// `2 N` lower-case hex digits.
pub(super) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(format!("has {} characters, wanted {} lower-case hex digits", text.len(), 2 * N)),
    }
}

/// The four tags of an image, each under its own key.
pub(super) fn image_tags(section: &mut Section<'_>) -> Result<Placed<ImageTags>, PolicyError> {
    let page_list = section.required("page_list_digest")?;
    let line = page_list.place.line;
    let mut tags = page_list.parsed(parse_hex::<64>)?.to_vec();
    tags.extend(section.required("address_list_digest")?.parsed(parse_hex::<64>)?);
    tags.extend(section.required("tweak_list_digest")?.parsed(parse_hex::<64>)?);
    tags.extend(section.required("tag")?.parsed(parse_hex::<16>)?);
    let tags = tags.try_into().expect("three digests of 64 bytes and a tag of 16");
    Ok(Placed { value: ImageTags::from_bytes(tags), line })
}
