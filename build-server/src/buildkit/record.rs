//! BuildKit's record of a finished build: its own provenance, and from it the sources and the steps.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use proto::buildkit::moby::buildkit::v1 as api;
use serde_json::Value;

use super::capture::{Capture, CapturedSource, SourceDigest, SourceKind};
use super::client::ControlChannel;
use super::error::EngineError;
use super::source_policy::Questions;
use super::syntax::check_syntax;

/// Largest provenance blob in bytes.
const MAX_PROVENANCE: usize = 64 << 20;
/// How often it is looked whether a build's record is written.
const MAX_LOOKS: u32 = 100;
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn record(problem: impl Into<String>) -> EngineError {
    EngineError::Record { problem: problem.into() }
}

/// Records of builds that are in the daemon's history now. Never asked for by reference: BuildKit 0.33.1 counts those
/// who ask, forgets to take a reference off its list again, and then deletes its record no more.
async fn records(
    channel: &ControlChannel,
    active_only: bool,
) -> Result<Vec<api::BuildHistoryRecord>, EngineError> {
    let request = api::BuildHistoryRequest { early_exit: true, active_only, ..Default::default() };
    let failed = |status: tonic::Status| record(status.message());
    let mut events = channel.control().listen_build_history(request).await.map_err(failed)?.into_inner();
    let mut found = Vec::new();
    while let Some(event) = events.message().await.map_err(failed)? {
        found.extend(event.record);
    }
    Ok(found)
}

/// The provenance predicates (SLSA v1, mode max) of a build, one per platform that has any content. `is_empty`: the
/// exported image has none, so there is nothing that BuildKit could have recorded.
pub(super) async fn provenance(
    channel: &ControlChannel,
    reference: &str,
    is_empty: bool,
) -> Result<Vec<Value>, EngineError> {
    let mut records = records(channel, false).await?;
    records.retain(|record| record.reference == reference);
    let found = records.pop().ok_or_else(|| record("is missing from the history"))?;
    let descriptors =
        found.result.iter().chain(found.results.values()).flat_map(|result| &result.attestations);
    let mut predicates = Vec::new();
    let mut seen = BTreeSet::new();
    for descriptor in descriptors {
        if seen.insert(descriptor.digest.clone()) {
            let blob = channel.read_blob(descriptor, MAX_PROVENANCE).await?;
            let value: Value =
                serde_json::from_slice(&blob).map_err(|e| record(format!("provenance: {e}")))?;
            if value.get("buildDefinition").is_some() {
                predicates.push(value);
            }
        }
    }
    if predicates.is_empty() && !is_empty {
        return Err(record("has no provenance"));
    }
    Ok(predicates)
}

/// Removes the record of a build that ended, however it did: it holds the output of the steps as it was before
/// secrets were masked, and all parameters.
pub(super) async fn forget(channel: &ControlChannel, reference: &str) {
    for _ in 0..MAX_LOOKS {
        // A cancelled build's record is written when its steps have ended; deleted before that, it would come back.
        match records(channel, true).await {
            Ok(active) if active.iter().any(|record| record.reference == reference) => {
                tokio::time::sleep(LOOK_AGAIN).await
            }
            Ok(_) => break,
            Err(error) => {
                return tracing::debug!(%error, "the record of a build stays until the daemon starts again");
            }
        }
    }
    let request = api::UpdateBuildHistoryRequest {
        reference: reference.to_owned(),
        delete: true,
        ..Default::default()
    };
    if let Err(status) = channel.control().update_build_history(request).await {
        tracing::debug!(
            message = status.message(),
            "the record of a build stays until the daemon starts again"
        );
    }
}

/// Removes what a daemon's history holds from before it was started: its end came before its builds were forgotten.
pub(super) async fn forget_all(channel: &ControlChannel) -> Result<(), EngineError> {
    for record in records(channel, false).await? {
        forget(channel, &record.reference).await;
    }
    Ok(())
}

/// Fills in sources and steps from the provenance. What is not understood is an error: a source that is left
/// out would make the manifest say that there was none.
pub(super) fn account(
    predicates: &[Value],
    questions: &Questions,
    capture: &mut Capture,
) -> Result<(), EngineError> {
    if predicates.is_empty()
        && let Some(asked) = questions.asked.iter().find(|asked| !asked.identifier.starts_with("local://"))
    {
        return Err(EngineError::UnrecordedSource { source_identifier: asked.identifier.clone() });
    }
    let mut sources = BTreeSet::new();
    let mut runs = BTreeSet::new();
    for predicate in predicates {
        let definition = &predicate["buildDefinition"];
        for material in definition["resolvedDependencies"].as_array().into_iter().flatten() {
            sources.insert(source(material, questions)?);
        }
        let config = &definition["internalParameters"]["buildConfig"];
        let steps = config["llbDefinition"].as_array().ok_or_else(|| record("has no build definition"))?;
        let digests = config["digestMapping"].as_object().ok_or_else(|| record("has no digests of steps"))?;
        for step in steps {
            let Some(exec) = step["op"]["Op"].get("exec") else { continue };
            capture.has_run_steps = true;
            let mounts = exec["mounts"].as_array().into_iter().flatten();
            capture.has_cache_mounts |=
                mounts.into_iter().any(|mount| mount.get("cacheOpt").is_some_and(|c| !c.is_null()));
            runs.extend(
                digests.iter().filter(|(_, id)| **id == step["id"]).map(|(digest, _)| digest.clone()),
            );
        }
    }
    for vertex in &mut capture.vertices {
        vertex.is_run = runs.contains(&vertex.digest) || vertex.name.contains("] RUN ");
        capture.has_run_steps |= vertex.is_run;
    }
    if let Some(pinned) = &questions.git_context {
        let used = sources.iter().any(|s| s.digest.as_ref().is_some_and(|d| d.hex == pinned.commit));
        if !used {
            return Err(record(format!(
                "the git context was pinned to {} and built from another commit",
                pinned.commit
            )));
        }
    }
    capture.sources = sources.into_iter().collect();
    Ok(())
}

fn source(material: &Value, questions: &Questions) -> Result<CapturedSource, EngineError> {
    let uri = material["uri"].as_str().ok_or_else(|| record("lists a source without URI"))?.to_owned();
    let digests = material["digest"].as_object();
    let algorithm = |name: &str| digests.and_then(|d| d.get(name)).and_then(Value::as_str).map(str::to_owned);
    let git = algorithm("gitCommit").or_else(|| algorithm("sha1"));
    let kind = if uri.starts_with("pkg:docker/") {
        SourceKind::Image
    } else if uri.starts_with("pkg:oci/") {
        SourceKind::OciLayout
    } else if questions.asked.iter().any(|asked| asked.identifier == uri)
        && (uri.starts_with("http://") || uri.starts_with("https://"))
    {
        // A download is asked for by its URL, a repository as `git://…`, whatever URL it is fetched from.
        SourceKind::Http
    } else if git.is_some() || uri.contains(".git") || uri.starts_with("git") || uri.starts_with("ssh:") {
        SourceKind::Git
    } else if uri.starts_with("http://") || uri.starts_with("https://") {
        SourceKind::Http
    } else {
        return Err(record(format!("lists source `{uri}`, which is of no known kind")));
    };
    let digest = match (kind, git, algorithm("sha256")) {
        (SourceKind::Git, Some(hex), _) => Some(SourceDigest { algorithm: "gitCommit".to_owned(), hex }),
        // A repository with SHA-256 object names.
        (SourceKind::Git, None, Some(hex)) => Some(SourceDigest { algorithm: "gitCommit".to_owned(), hex }),
        (_, _, Some(hex)) => Some(SourceDigest { algorithm: "sha256".to_owned(), hex }),
        _ => None,
    };
    let (name, platform) = package(&uri);
    let requested = match kind {
        SourceKind::Image => asked_image(&name, questions).unwrap_or(name),
        SourceKind::OciLayout => name,
        _ => uri.clone(),
    };
    Ok(CapturedSource { kind, requested, uri, digest, platform })
}

/// Name with tag and platform of a package URL `pkg:TYPE/NAME@TAG?platform=OS%2FARCH`.
fn package(uri: &str) -> (String, Option<String>) {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let name = path.strip_prefix("pkg:").and_then(|p| p.split_once('/')).map_or(path, |(_, name)| name);
    let name = name.replace("%3A", ":").replace("%2F", "/").replace('@', ":");
    let platform = query.split('&').find_map(|part| part.strip_prefix("platform="));
    (name, platform.map(|p| p.replace("%2F", "/").replace("%2f", "/")))
}

/// The image as the build asked for it, before a tag was resolved to a digest.
fn asked_image(name: &str, questions: &Questions) -> Option<String> {
    let familiar = |text: &str| {
        let text = text.strip_prefix("docker.io/").unwrap_or(text);
        text.strip_prefix("library/").unwrap_or(text).to_owned()
    };
    let wanted = familiar(name);
    let asked = questions.asked.iter().filter_map(|q| q.identifier.strip_prefix("docker-image://"));
    asked
        .filter(|image| familiar(image.split('@').next().unwrap_or(image)) == wanted)
        .min_by_key(|image| image.len())
        .map(str::to_owned)
}

/// The directive of a Dockerfile that came with a git context, from the source map in the provenance.
pub(super) fn syntax(predicates: &[Value], path: &str) -> Result<Option<String>, EngineError> {
    for predicate in predicates {
        let infos = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"];
        for info in infos.as_array().into_iter().flatten() {
            if info["filename"].as_str() != Some(path) {
                continue;
            }
            let data = info["data"].as_str().unwrap_or_default();
            let text = base64::engine::general_purpose::STANDARD
                .decode(data)
                .map_err(|e| record(format!("source of the Dockerfile: {e}")))?;
            return check_syntax(&text);
        }
    }
    Err(record("does not hold the Dockerfile of the git context, so its `# syntax=` cannot be checked"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::buildkit::source_policy::SourceQuestion;

    fn questions(identifier: &str) -> Questions {
        let asked = SourceQuestion {
            identifier: identifier.to_owned(),
            attributes: std::collections::BTreeMap::new(),
            platform: None,
        };
        Questions { asked: vec![asked], ..Questions::default() }
    }

    #[test]
    fn without_a_record_nothing_but_the_callers_own_files_went_in() {
        let account = |questions: &Questions| account(&[], questions, &mut Capture::default());
        assert!(account(&Questions::default()).is_ok());
        assert!(account(&questions("local://context")).is_ok());
        for identifier in
            ["docker-image://docker.io/library/base:1", "https://example.com/a", "oci-layout://a"]
        {
            let refused = account(&questions(identifier)).expect_err("it is not stated");
            assert!(
                matches!(&refused, EngineError::UnrecordedSource { source_identifier } if source_identifier == identifier),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_download_from_a_host_that_is_named_like_a_repository_is_no_repository() {
        let url = "https://raw.githubusercontent.com/a/b.git/main/c";
        let material = json!({ "uri": url, "digest": { "sha256": "ab".repeat(32) } });
        let download = source(&material, &questions(url)).expect("known");
        assert_eq!(download.kind, SourceKind::Http);
        assert_eq!(download.digest.expect("has one").algorithm, "sha256");

        let url = "https://git.example/r.git#main";
        let material = json!({ "uri": url, "digest": { "sha256": "ab".repeat(32) } });
        let repository = source(&material, &questions("git://git.example/r.git#main")).expect("known");
        assert_eq!(repository.kind, SourceKind::Git);
        assert_eq!(repository.digest.expect("has one").algorithm, "gitCommit");
    }
}
