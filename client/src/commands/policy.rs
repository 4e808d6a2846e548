//! `sealwright policy init|check|explain|add-reference`.

use std::io::Write as _;
use std::path::Path;

use client::config::Setting;
use client::progress::clean_text;
use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;
use serde_json::json;
use verifier::Policy;
use verifier::policy::{
    AddReferenceError, MAX_POLICY, MAX_REFERENCE_VALUES, PolicyTemplate, ReferenceValues,
    add_reference_values, policy_from_reference_values,
};

use super::args::{AddReferenceArgs, PolicyInitArgs};
use super::failure::{Failure, exit};
use super::keys::public_key;
use super::output::{Output, counted};
use super::setup::{Setup, read_file, read_policy, read_project};

/// Writes a first policy from signed Reference Values.
pub(crate) fn init(args: &PolicyInitArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let (values, release_key) = reference_values(&args.from, &args.release_key)?;
    let mut template = PolicyTemplate::default();
    for (number, text) in args.callers.iter().enumerate() {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) if !Path::new(text).exists() => (name.to_owned(), file),
            _ => (format!("caller-{}", number + 1), text.as_str()),
        };
        template.callers.push((name, public_key(Path::new(file))?));
    }
    if args.callers.is_empty() && args.projects.is_empty() {
        let file = setup.settings.value(Setting::Key).ok_or_else(|| {
            Failure::usage("nobody's images would be accepted")
                .advise("name a caller with --caller KEY, or a project with --accept-project FILE")
        })?;
        template.callers.push(("me".to_owned(), public_key(Path::new(file))?));
        output.status("caller", &format!("your own key {file}, as none was named"));
    }
    for text in &args.projects {
        let id = match Sha256Digest::from_hex(text) {
            Ok(digest) => ProjectId(digest),
            Err(_) => read_project(Path::new(text))?.id(),
        };
        template.projects.push(id);
    }
    let digests = |list: &[String]| -> Result<Vec<Sha256Digest>, Failure> {
        list.iter().map(|text| text.parse().map_err(Failure::usage)).collect()
    };
    template.builder_ids.clone_from(&args.builder_ids);
    template.trust_configurations = digests(&args.trust_configurations)?;
    template.build_policies = digests(&args.build_policies)?;
    let text = policy_from_reference_values(&values, &template);
    output.data(&text);
    output.status(
        "values",
        &format!("{}, guest version {}, signed by {}", values.name, values.guest_version, release_key),
    );
    if let Err(problem) = verifier::Policy::parse(&text, "policy") {
        output.status("incomplete", &problem.to_string());
        output.status("", "nothing is accepted until you fill that in");
    }
    Ok(0)
}

/// Reference Values that a release key signed, and the digest of that key.
fn reference_values(file: &Path, release_key: &Path) -> Result<(ReferenceValues, Sha256Digest), Failure> {
    let release_key = public_key(release_key)?;
    let envelope = read_file(file, MAX_REFERENCE_VALUES, "Reference Values")?;
    match ReferenceValues::authenticate(&envelope, &release_key) {
        Ok(values) => Ok((values, release_key.spki_sha256())),
        Err(error) => Err(Failure::new(exit::NOT_AUTHENTIC, "REFERENCE_VALUES", error)
            .at(file.display())
            .advise("use the release key and the file of the same release, each from its publisher")),
    }
}

fn policy_of(file: Option<&Path>, setup: &Setup) -> Result<Policy, Failure> {
    match file {
        Some(file) => read_policy(file),
        None => setup.policy(),
    }
}

/// Checks that a policy is complete, and names what it leaves unchecked.
pub(crate) fn check(file: Option<&Path>, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let policy = policy_of(file, setup)?;
    let skips = policy.explain().skips;
    for skip in &skips {
        output.status(
            "unchecked",
            &format!("{} line {}: {}: {}", policy.file(), skip.line, skip.key, skip.what),
        );
    }
    if output.is_json() {
        output.document(&json!({
            "file": policy.file(),
            "sha256": policy.sha256(),
            "notHardware": policy.is_dangerous(),
            "referenceValues": policy.reference_values().len(),
            "skips": skips,
        }));
    } else {
        let mark =
            if policy.is_dangerous() { ", NOT HARDWARE: it names a root that is no vendor's" } else { "" };
        output.data(&format!(
            "{}: complete, {}{mark}\n",
            policy.file(),
            counted(policy.reference_values().len() as u64, "reference value")
        ));
    }
    Ok(0)
}

/// Says what a policy accepts.
pub(crate) fn explain(file: Option<&Path>, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let explanation = policy_of(file, setup)?.explain();
    if output.is_json() {
        output.document(&json!(explanation));
        return Ok(0);
    }
    let mark = if explanation.not_hardware { "  NOT HARDWARE" } else { "" };
    let mut text = format!("{}  {}{mark}\n", explanation.file, explanation.sha256);
    for section in &explanation.accepts {
        for (number, line) in section.lines.iter().enumerate() {
            let about = if number == 0 { section.about.as_str() } else { "" };
            text.push_str(&format!("  {about:<17} {line}\n"));
        }
    }
    let unchecked = if explanation.skips.is_empty() { "nothing is left unchecked" } else { "not checked" };
    text.push_str(&format!("{unchecked}\n"));
    for skip in &explanation.skips {
        text.push_str(&format!("  line {:<4} {}: {}\n", skip.line, skip.key, skip.what));
    }
    output.data(&(clean_text(&text, "") + "\n"));
    Ok(0)
}

/// Adds a release's measurements to a policy file, which is replaced whole or not at all.
pub(crate) fn add_reference(args: &AddReferenceArgs, output: &Output) -> Result<u8, Failure> {
    let (values, release_key) = reference_values(&args.from, &args.release_key)?;
    let text = read_file(&args.file, MAX_POLICY, "policy")?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::usage(format!("policy {} is not UTF-8", args.file.display())))?;
    let added = add_reference_values(&text, &args.file.display().to_string(), &values, &release_key)?;
    if !added.added.is_empty() {
        replace(&args.file, &added.text)?;
    }
    for platform in &added.not_accepted {
        output.status("left out", &format!("measurements of {platform}, which the policy does not accept"));
    }
    for (key, value) in &added.not_named {
        output.status("not added", &format!("the release also has {value}; add it to {key} if you trust it"));
    }
    let release = format!("{}, guest version {}, signed by {release_key}", values.name, values.guest_version);
    if output.is_json() {
        output.document(&json!({
            "file": args.file.display().to_string(),
            "added": added.added,
            "present": added.present,
            "notAccepted": added.not_accepted,
            "notNamed": added.not_named.iter().map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>(),
        }));
    } else {
        output.data(&format!(
            "{}: {} added, {} there already\n",
            args.file.display(),
            counted(added.added.len() as u64, "reference value"),
            added.present
        ));
    }
    output.status("values", &release);
    Ok(0)
}

impl From<AddReferenceError> for Failure {
    fn from(error: AddReferenceError) -> Self {
        let with = |exit, reason: &str, advice: &str| Self::new(exit, reason, &error).advise(advice);
        match &error {
            AddReferenceError::Policy(_) => {
                with(exit::USAGE, "POLICY", "a policy must be complete: docs/policy.md explains every key")
            }
            AddReferenceError::Older { .. } => with(
                exit::REFUSED,
                "OLDER_RELEASE",
                "take the Reference Values of the newest release; if you mean to go back, remove the newer ones from the policy first",
            ),
            AddReferenceError::Platforms { .. } => with(
                exit::REFUSED,
                "POLICY",
                "accept the platform first, in `hardware.platforms` and a table of its own; `policy init` writes one",
            ),
            _ => with(exit::USAGE, "POLICY", "write them as [[reference_values]] tables, one key a line"),
        }
    }
}

/// Replaces a file by one with the same mode, whole or not at all.
fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", file.display()));
    // A link stays what it is: its target is replaced.
    let file = std::fs::canonicalize(file).map_err(failed)?;
    let folder = file.parent().expect("a file that was read is in a folder");
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    draft.write_all(text.as_bytes()).map_err(failed)?;
    let mode = std::fs::metadata(&file).map_err(failed)?.permissions();
    draft.as_file().set_permissions(mode).and_then(|()| draft.as_file().sync_all()).map_err(failed)?;
    draft.persist(&file).map_err(|e| failed(e.error))?;
    Ok(())
}
