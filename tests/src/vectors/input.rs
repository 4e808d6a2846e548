//! Files and knobs of a case. What is not asked for is an error, as is a file that is not the one the index describes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Case, FileEntry};

/// The inputs of one case, with a record of which were read.
pub(super) struct Inputs<'a> {
    folder: &'a Path,
    files: &'a BTreeMap<String, FileEntry>,
    case: &'a Case,
    used: BTreeSet<String>,
    knobs_read: bool,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(folder: &'a Path, files: &'a BTreeMap<String, FileEntry>, case: &'a Case) -> Self {
        Self { folder, files, case, used: BTreeSet::new(), knobs_read: false }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.case.inputs.contains_key(name)
    }

    /// A file of the folder, compared with what the index says about it.
    pub(super) fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(format!("`{path}` is not a path inside the folder"));
        }
        let bytes = fs::read(self.folder.join(path)).map_err(|error| format!("{path}: {error}"))?;
        let entry = self.files.get(path).ok_or_else(|| format!("{path} is not among the index's files"))?;
        let got = Sha256Digest::of(&bytes).hex();
        if got != entry.sha256 || u64::try_from(bytes.len()) != Ok(entry.bytes) {
            return Err(format!(
                "{path} has {} bytes and SHA-256 {got}, the index says {} and {}",
                bytes.len(),
                entry.bytes,
                entry.sha256
            ));
        }
        Ok(bytes)
    }

    /// The file of an input.
    pub(super) fn input(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.case.inputs.get(name).ok_or_else(|| format!("no input `{name}`"))?;
        let path = path.as_str().ok_or_else(|| format!("input `{name}` is no path"))?;
        self.used.insert(name.to_owned());
        self.file(path)
    }

    /// The files of an input that is a list.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        let paths = self.case.inputs.get(name).ok_or_else(|| format!("no input `{name}`"))?;
        let paths = paths.as_array().ok_or_else(|| format!("input `{name}` is no list"))?;
        self.used.insert(name.to_owned());
        let path = |path: &Value| {
            path.as_str().map(str::to_owned).ok_or_else(|| format!("input `{name}` has no path"))
        };
        paths.iter().map(|value| self.file(&path(value)?)).collect()
    }

    /// What the case changes about the strict default policy.
    pub(super) fn knobs<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        self.knobs_read = true;
        serde_json::from_value(Value::Object(self.case.policy.clone()))
            .map_err(|error| format!("policy: {error}"))
    }

    /// The time to judge at.
    pub(super) fn now(&self) -> Result<Timestamp, String> {
        let now = self.optional_now().ok_or("`now` is missing")?;
        Timestamp::parse(now).map_err(|error| format!("now: {error}"))
    }

    pub(super) fn optional_now(&self) -> Option<&str> {
        self.case.now.as_deref()
    }

    /// Refuses inputs and knobs that nothing asked for.
    pub(super) fn check_all_used(&self) -> Result<(), String> {
        if let Some(name) = self.case.inputs.keys().find(|name| !self.used.contains(*name)) {
            return Err(format!("input `{name}` is not one that is read for this platform"));
        }
        match self.case.policy.keys().next() {
            Some(knob) if !self.knobs_read => Err(format!("policy `{knob}` is not known for this platform")),
            _ => Ok(()),
        }
    }
}

/// Every PEM block of a file, or its bytes if they are no PEM, as DER.
pub(super) fn all_der(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN ")) else {
        return Ok(vec![bytes.to_vec()]);
    };
    let block = |part: &str| {
        let body: String = part.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(body.trim()).map_err(|error| format!("PEM: {error}"))
    };
    text.split("-----BEGIN ").skip(1).map(block).collect()
}

/// The first PEM block of a file, or its bytes, as DER.
pub(super) fn der(bytes: &[u8]) -> Result<Vec<u8>, String> {
    all_der(bytes)?.into_iter().next().ok_or_else(|| "no PEM block".to_owned())
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate: the root that a case pins.
pub(super) fn spki_sha256(certificate: &[u8]) -> Result<Sha256Digest, String> {
    let malformed = || "root certificate does not parse".to_owned();
    let (_, certificate, _) = tlv(certificate).ok_or_else(malformed)?;
    let (_, mut fields, _) = tlv(certificate).ok_or_else(malformed)?;
    // RFC 5280 §4.1: [0] version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
    for _ in 0..6 {
        (_, _, fields) = tlv(fields).ok_or_else(malformed)?;
    }
    let (tag, _, rest) = tlv(fields).ok_or_else(malformed)?;
    if tag != 0x30 {
        return Err(malformed());
    }
    Ok(Sha256Digest::of(&fields[..fields.len() - rest.len()]))
}

/// Tag, content and rest of the first DER value.
fn tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}
