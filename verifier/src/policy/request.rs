//! The `[request]` table of a policy: callers and projects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::project::ProjectId;

use super::read::{Field, Placed};
use super::{Caller, PolicyError, digest, name, values};

pub(super) type Requesters = (Option<Placed<Vec<Caller>>>, Option<Placed<Vec<ProjectId>>>);

pub(super) fn request(field: &Field<'_>) -> Result<Requesters, PolicyError> {
    let mut section = field.table()?;
    let callers = match section.optional("callers") {
        None => None,
        Some(list) => {
            let callers = list.array()?.iter().map(caller).collect::<Result<Vec<_>, _>>()?;
            if callers.is_empty() {
                return Err(list.error("is empty; name a caller or leave the key out and name projects"));
            }
            Some(list.placed(callers))
        }
    };
    let projects = section
        .optional("projects")
        .map(|list| {
            values(&list, |text| {
                Sha256Digest::from_hex(text)
                    .map(ProjectId)
                    .map_err(|_| format!("has `{text}`, wanted a project id of 64 lower-case hex digits"))
            })
        })
        .transpose()?;
    if callers.is_none() && projects.is_none() {
        // Either would do; the message names the more usual one.
        return Err(section.required("callers").err().expect("the key is absent"));
    }
    section.finish()?;
    Ok((callers, projects))
}

fn caller(item: &Field<'_>) -> Result<Caller, PolicyError> {
    let mut section = item.table()?;
    let name = name(&section.required("name")?)?;
    let key_field = section.optional("public_key");
    let key = key_field.as_ref().map(|field| field.parsed(parse_public_key)).transpose()?;
    let stated = section.optional("spki_sha256");
    let line = stated.as_ref().or(key_field.as_ref()).map_or(item.place.line, |field| field.place.line);
    let spki_sha256 = match (&stated, &key) {
        (None, None) => return Err(section.required("spki_sha256").err().expect("the key is absent")),
        (None, Some(key)) => key.spki_sha256(),
        (Some(field), key) => {
            let digest = field.parsed(digest)?;
            if let Some(key) = key
                && key.spki_sha256() != digest
            {
                return Err(field
                    .error(format!("is {digest}, but the public key beside it has {}", key.spki_sha256())));
            }
            digest
        }
    };
    section.finish()?;
    Ok(Caller { name, spki_sha256, key, line })
}

/// SubjectPublicKeyInfo as PEM (`BEGIN PUBLIC KEY`) or as base64 of the DER.
pub(super) fn parse_public_key(text: &str) -> Result<PublicKey, String> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD
        .decode(body)
        .map_err(|_| "is neither PEM nor base64 of a SubjectPublicKeyInfo".to_owned())?;
    PublicKey::from_spki_der(&der).map_err(|error| format!("is no key of a kind we use: {error}"))
}
