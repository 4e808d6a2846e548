//! Events and builds as JSON: the field names of the `.proto` in lower camel case, bytes as base64, times as
//! RFC 3339 (the proto3 JSON mapping), unset fields left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::v1;
use proto::v1::build_event::Event;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Leaves out what is empty, as the proto3 mapping does.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let unset = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
    };
    let fields = fields.into_iter().filter(|(_, value)| !unset(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn timestamp(time: Option<&prost_types::Timestamp>) -> Value {
    let Some(time) = time else { return Value::Null };
    let nanoseconds = super::nanoseconds(Some(time)).unwrap_or(0);
    let text =
        OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok().and_then(|t| t.format(&Rfc3339).ok());
    text.map_or(Value::Null, Value::String)
}

fn excerpts(source: &[v1::SourceExcerpt]) -> Value {
    let one = |excerpt: &v1::SourceExcerpt| {
        object([
            ("file", json!(excerpt.file)),
            ("firstLine", json!(excerpt.first_line)),
            ("lines", json!(excerpt.lines)),
            ("marked", json!(excerpt.marked)),
        ])
    };
    Value::Array(source.iter().map(one).collect())
}

fn descriptor(descriptor: &v1::Descriptor) -> Value {
    let annotations: std::collections::BTreeMap<_, _> = descriptor.annotations.iter().collect();
    object([
        ("mediaType", json!(descriptor.media_type)),
        ("digest", json!(descriptor.digest)),
        ("size", json!(descriptor.size)),
        ("annotations", json!(annotations)),
        ("artifactType", json!(descriptor.artifact_type)),
    ])
}

fn state(build: &v1::Build) -> &'static str {
    build.state().as_str_name()
}

/// A build. `metadata` stands as JSON, not as bytes.
#[must_use]
pub fn build_json(build: &v1::Build) -> Value {
    let failure = build.failure.as_ref().map(|failure| {
        object([
            ("reason", json!(failure.reason)),
            ("message", json!(failure.message)),
            ("advice", json!(failure.advice)),
            ("step", json!(failure.step)),
            ("exitCode", json!(failure.exit_code)),
            ("source", excerpts(&failure.source)),
        ])
    });
    let result = build.result.as_ref().map(|result| {
        let materials = |m: &v1::MaterialsSummary| {
            object([
                ("class", json!(m.material_class)),
                ("state", json!(m.state)),
                ("count", json!(m.count)),
                ("reason", json!(m.reason)),
            ])
        };
        object([
            ("image", result.image.as_ref().map_or(Value::Null, descriptor)),
            ("attached", Value::Array(result.attached.iter().map(descriptor).collect())),
            ("blobs", Value::Array(result.blobs.iter().map(descriptor).collect())),
            ("pushed", json!(result.pushed)),
            ("files", result.files.as_ref().map_or(Value::Null, descriptor)),
            ("statementDigest", json!(result.statement_digest)),
            ("configDigest", json!(result.config_digest)),
            ("metadata", serde_json::from_slice(&result.metadata_json).unwrap_or(Value::Null)),
            ("materials", Value::Array(result.materials.iter().map(materials).collect())),
        ])
    });
    object([
        ("name", json!(build.name)),
        ("state", json!(state(build))),
        ("createTime", timestamp(build.create_time.as_ref())),
        ("startTime", timestamp(build.start_time.as_ref())),
        ("endTime", timestamp(build.end_time.as_ref())),
        ("requestDigest", json!(build.request_digest)),
        ("caller", json!(build.caller)),
        ("names", json!(build.names)),
        ("failure", failure.unwrap_or(Value::Null)),
        ("result", result.unwrap_or(Value::Null)),
    ])
}

/// An event.
#[must_use]
pub fn event_json(event: &v1::BuildEvent) -> Value {
    let (name, body) = match &event.event {
        Some(Event::StateChanged(change)) => {
            ("stateChanged", object([("build", change.build.as_ref().map_or(Value::Null, build_json))]))
        }
        Some(Event::Vertex(vertex)) => (
            "vertex",
            object([
                ("digest", json!(vertex.digest)),
                ("inputs", json!(vertex.inputs)),
                ("name", json!(vertex.name)),
                ("cached", json!(vertex.cached)),
                ("started", timestamp(vertex.started.as_ref())),
                ("completed", timestamp(vertex.completed.as_ref())),
                ("error", json!(vertex.error)),
            ]),
        ),
        Some(Event::VertexStatus(status)) => (
            "vertexStatus",
            object([
                ("id", json!(status.id)),
                ("vertex", json!(status.vertex)),
                ("name", json!(status.name)),
                ("current", json!(status.current)),
                ("total", json!(status.total)),
                ("started", timestamp(status.started.as_ref())),
                ("completed", timestamp(status.completed.as_ref())),
            ]),
        ),
        Some(Event::VertexLog(log)) => (
            "vertexLog",
            object([
                ("vertex", json!(log.vertex)),
                ("stream", json!(log.stream)),
                ("data", json!(STANDARD.encode(&log.data))),
            ]),
        ),
        Some(Event::VertexWarning(warning)) => (
            "vertexWarning",
            object([
                ("vertex", json!(warning.vertex)),
                ("text", json!(warning.text)),
                ("detail", json!(warning.detail)),
                ("url", json!(warning.url)),
                ("source", excerpts(&warning.source)),
            ]),
        ),
        Some(Event::Milestone(milestone)) => {
            ("milestone", object([("stage", json!(milestone.stage)), ("text", json!(milestone.text))]))
        }
        None => ("unknown", Value::Null),
    };
    object([("number", json!(event.number)), ("time", timestamp(event.time.as_ref())), (name, body)])
}
