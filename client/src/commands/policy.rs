//! `sealwright policy init|check`.

use std::path::Path;

use client::config::Setting;
use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;
use serde_json::json;
use verifier::policy::{MAX_REFERENCE_VALUES, PolicyTemplate, ReferenceValues, policy_from_reference_values};

use super::args::PolicyInitArgs;
use super::failure::{Failure, exit};
use super::keys::public_key;
use super::output::{Output, counted};
use super::setup::{Setup, read_file, read_policy, read_project};

/// Writes a first policy from signed Reference Values.
pub(crate) fn init(args: &PolicyInitArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let release_key = public_key(&args.release_key)?;
    let envelope = read_file(&args.from, MAX_REFERENCE_VALUES, "Reference Values")?;
    let values = ReferenceValues::authenticate(&envelope, &release_key).map_err(|e| {
        Failure::new(exit::NOT_AUTHENTIC, "REFERENCE_VALUES", e)
            .at(args.from.display())
            .advise("use the release key and the file of the same release, each from its publisher")
    })?;
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
        &format!(
            "{}, guest version {}, signed by {}",
            values.name,
            values.guest_version,
            release_key.spki_sha256()
        ),
    );
    if let Err(problem) = verifier::Policy::parse(&text, "policy") {
        output.status("incomplete", &problem.to_string());
        output.status("", "nothing is accepted until you fill that in");
    }
    Ok(0)
}

/// Checks that a policy is complete.
pub(crate) fn check(file: Option<&Path>, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let policy = match file {
        Some(file) => read_policy(file)?,
        None => setup.policy()?,
    };
    if output.is_json() {
        output.document(&json!({
            "file": policy.file(),
            "sha256": policy.sha256(),
            "notHardware": policy.is_dangerous(),
            "referenceValues": policy.reference_values().len(),
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
