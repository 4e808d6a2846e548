//! BuildKit's errors in our terms.

use base64::Engine as _;
use prost::Message as _;
use proto::buildkit::google::rpc;
use proto::buildkit::pb;
use proto::v1::SourceExcerpt;
use serde::Deserialize;
use tonic::{Code, Status};

use super::error::EngineError;
use super::mask::Masks;
use super::progress::excerpt;

/// Longest message passed on, in characters.
const MAX_MESSAGE: usize = 4000;

// Details are JSON with the names of BuildKit's Go types, whatever their type says.
#[derive(Deserialize)]
struct SourceDetail {
    info: Option<InfoDetail>,
    #[serde(default)]
    ranges: Vec<RangeDetail>,
}

#[derive(Deserialize)]
struct InfoDetail {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct RangeDetail {
    start: Option<PositionDetail>,
    end: Option<PositionDetail>,
}

#[derive(Deserialize)]
struct PositionDetail {
    #[serde(default)]
    line: i32,
}

#[derive(Deserialize)]
struct VertexDetail {
    digest: String,
}

#[derive(Deserialize)]
struct ExitDetail {
    #[serde(rename = "Code")]
    code: Option<i64>,
}

/// What the details of an error say.
#[derive(Default)]
struct Details {
    source_excerpts: Vec<SourceExcerpt>,
    vertex: Option<String>,
    exit_code: Option<i64>,
}

fn details(status: &Status, masks: &Masks) -> Details {
    let mut found = Details::default();
    let Ok(status) = rpc::Status::decode(status.details()) else { return found };
    for detail in status.details {
        let kind = detail.type_url.rsplit('/').next().unwrap_or_default();
        match kind {
            "errdefs.Source+json" => {
                let parsed = serde_json::from_slice::<SourceDetail>(&detail.value).ok();
                found.source_excerpts.extend(parsed.and_then(|source| source_excerpt(source, masks)));
            }
            "errdefs.Vertex+json" => {
                found.vertex = serde_json::from_slice::<VertexDetail>(&detail.value).ok().map(|v| v.digest);
            }
            "gatewayapi.ExitMessage+json" => {
                let code =
                    serde_json::from_slice::<ExitDetail>(&detail.value).ok().map(|e| e.code.unwrap_or(0));
                found.exit_code = found.exit_code.or(code);
            }
            _ => {}
        }
    }
    found.source_excerpts.dedup();
    found
}

fn source_excerpt(source: SourceDetail, masks: &Masks) -> Option<SourceExcerpt> {
    let info = source.info?;
    let data = base64::engine::general_purpose::STANDARD.decode(info.data).ok()?;
    let info = pb::SourceInfo { filename: info.filename, data: data.into(), ..Default::default() };
    let position = |p: Option<PositionDetail>| p.map(|p| pb::Position { line: p.line, character: 0 });
    let ranges: Vec<_> = source
        .ranges
        .into_iter()
        .map(|r| pb::Range { start: position(r.start), end: position(r.end) })
        .collect();
    excerpt(Some(&info), &ranges, masks)
}

/// Text between the first pair of quotes after `marker`.
fn quoted_after<'a>(message: &'a str, marker: &str) -> Option<&'a str> {
    let rest = &message[message.find(marker)? + marker.len()..];
    let start = rest.find('"')? + 1;
    let end = rest[start..].find('"')? + start;
    Some(&rest[start..end])
}

/// Id of the secret in `secret ID: not found`, which something may stand before.
fn missing_secret(message: &str) -> Option<&str> {
    let message = message.strip_suffix(": not found")?;
    message.rsplit_once(": secret ").map(|(_, id)| id).or_else(|| message.strip_prefix("secret "))
}

/// A step that failed, as the progress showed it.
pub(super) struct FailedStep {
    pub(super) name: String,
    /// The machine cannot run its program.
    pub(super) foreign: bool,
}

/// The error for a failed solve. `failed_step` knows steps by digest.
pub(super) fn solve_error(
    status: &Status,
    masks: &Masks,
    dockerfile: &str,
    failed_step: impl Fn(&str) -> Option<FailedStep>,
) -> EngineError {
    let Details { source_excerpts, vertex, exit_code } = details(status, masks);
    let message: String = masks.text(status.message()).chars().take(MAX_MESSAGE).collect();
    let has = |text: &str| message.contains(text);
    if let Some(code) = exit_code {
        let failed = vertex.and_then(|digest| failed_step(&digest));
        let foreign = failed.as_ref().is_some_and(|step| step.foreign);
        let step = failed.map_or_else(|| message.clone(), |step| step.name);
        if foreign {
            return EngineError::ForeignStep { step, source_excerpts };
        }
        return EngineError::Step { step, exit_code: i32::try_from(code).unwrap_or(-1), source_excerpts };
    }
    if has("no space left on device") || has("disk quota exceeded") {
        return EngineError::DiskFull { message };
    }
    // `failed to read dockerfile: open Dockerfile: no such file or directory`
    if has("failed to read dockerfile: open ") && (has("no such file") || has("not found")) {
        return EngineError::DockerfileMissing { path: dockerfile.to_owned() };
    }
    // `failed to calculate checksum of ref …: "/path": not found`
    if has("failed to calculate checksum of ref") && has("not found") {
        let path = quoted_after(&message, "failed to calculate checksum").unwrap_or("?").to_owned();
        return EngineError::ContextFileMissing { path, source_excerpts };
    }
    if let Some(id) = missing_secret(&message) {
        return EngineError::SecretMissing { id: id.to_owned(), source_excerpts };
    }
    let reference = || {
        let named = message.split(": ").find(|part| part.contains('/') && !part.contains(' '));
        named.unwrap_or("the registry").to_owned()
    };
    if has("failed to resolve source metadata")
        || has("failed to do request")
        || has("failed to fetch")
        || has("failed to authorize")
        || has("invalid response status")
        || has("repository does not contain ref")
    {
        // `unexpected status from HEAD request to URL: 403 Forbidden`; the bare number may be part of a port.
        let answered = |status: &str| has(&format!(": {status} "));
        let denied = answered("401") || answered("403");
        if denied || has("authorization failed") || has("Unauthorized") || has("pull access denied") {
            return EngineError::RegistryAuth { reference: reference(), message, source_excerpts };
        }
        if has(": not found") || answered("404") || has("manifest unknown") {
            return EngineError::BaseImageMissing { reference: reference(), message, source_excerpts };
        }
        // A file's or a repository's error does not say of which.
        let step = vertex.as_deref().and_then(&failed_step);
        let message = step.map_or_else(|| message.clone(), |step| format!("{}: {message}", step.name));
        return EngineError::Remote { message, source_excerpts };
    }
    // `failed to load LLB: network.host is not allowed`
    let privilege = message.strip_suffix(" is not allowed").and_then(|text| text.rsplit(": ").next());
    if let Some(privilege @ ("security.insecure" | "network.host")) = privilege {
        return EngineError::Privilege { privilege: privilege.to_owned() };
    }
    let from_frontend = has("dockerfile parse error")
        || has("failed to solve with frontend")
        || has("target stage")
        || status.code() == Code::InvalidArgument
        || (!source_excerpts.is_empty() && vertex.is_none());
    if from_frontend {
        return EngineError::Frontend { message, source_excerpts };
    }
    EngineError::Other { message, source_excerpts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> EngineError {
        let none = Masks::new(&crate::secrets::SecretValues::default());
        solve_error(&Status::unknown(message), &none, "Dockerfile", |_| None)
    }

    #[test]
    fn a_secret_that_was_not_given_is_told_by_its_id() {
        for message in ["secret greeting_key: not found", "failed to solve: secret greeting_key: not found"] {
            let error = error(message);
            assert!(
                matches!(&error, EngineError::SecretMissing { id, .. } if id == "greeting_key"),
                "{error:?}"
            );
            let failure = crate::failure::BuildError::from(error).into_failure();
            assert_eq!(failure.reason, "SECRET_MISSING");
            assert_eq!(
                failure.advice,
                "give it with --secret id=greeting_key,src=FILE or --secret id=greeting_key,env=NAME"
            );
        }
        // A file of such a name is no secret.
        let file = error("failed to calculate checksum of ref a::b: \"/secret a\": not found");
        assert!(
            matches!(&file, EngineError::ContextFileMissing { path, .. } if path == "/secret a"),
            "{file:?}"
        );
    }
}
