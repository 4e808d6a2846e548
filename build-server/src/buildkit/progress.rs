//! BuildKit's status stream as our events, with secrets masked, and the steps collected for the capture.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proto::buildkit::moby::buildkit::v1 as api;
use proto::buildkit::pb;
use proto::v1;

use super::capture::CapturedVertex;
use super::mask::{Masks, StreamMask};

/// Lines of a Dockerfile shown around the place that is meant.
const CONTEXT_LINES: usize = 3;
/// Longest line shown, in bytes.
const MAX_LINE: usize = 1000;

/// One event of a build.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// A step began, ended, was cached or failed.
    Vertex(v1::Vertex),
    /// Progress inside a step.
    Status(v1::VertexStatus),
    /// Output of a step; secrets are masked.
    Log(v1::VertexLog),
    /// A warning of the frontend.
    Warning(v1::VertexWarning),
}

/// Turns status messages into events.
pub(super) struct Progress {
    masks: Arc<Masks>,
    streams: BTreeMap<(String, i64), StreamMask>,
    vertices: Vec<CapturedVertex>,
    by_digest: HashMap<String, usize>,
    /// Steps whose program is for another machine.
    foreign: BTreeSet<String>,
}

/// What runc writes into a step's output when the kernel does not know the program's format (ENOEXEC).
const EXEC_FORMAT_ERROR: &[u8] = b": exec format error";

impl Progress {
    pub(super) fn new(masks: Arc<Masks>) -> Self {
        Self {
            masks,
            streams: BTreeMap::new(),
            vertices: Vec::new(),
            by_digest: HashMap::new(),
            foreign: BTreeSet::new(),
        }
    }

    /// Events of one message, in the order in which they are to be shown.
    pub(super) fn events(&mut self, status: api::StatusResponse) -> Vec<EngineEvent> {
        let mut events = Vec::new();
        // First the beginnings, then what happened, then the ends: nothing of a step comes before its name or after
        // its end.
        let (ended, begun): (Vec<_>, Vec<_>) =
            status.vertexes.into_iter().partition(|v| v.completed.is_some());
        for vertex in begun {
            self.vertex(vertex, &mut events);
        }
        for vertex in &ended {
            if !self.by_digest.contains_key(&vertex.digest) {
                let begun =
                    api::Vertex { completed: None, cached: false, error: String::new(), ..vertex.clone() };
                self.vertex(begun, &mut events);
            }
        }
        for log in status.logs {
            if log.msg.trim_ascii_end().ends_with(EXEC_FORMAT_ERROR) {
                self.foreign.insert(log.vertex.clone());
            }
            let key = (log.vertex.clone(), log.stream);
            let mask = self.streams.entry(key).or_insert_with(|| StreamMask::new(self.masks.clone()));
            let data = mask.push(&log.msg);
            events.extend(log_event(log.vertex, log.stream, data));
        }
        // Manifests are ours once layers are compressed, so the engine's digests of them name nothing.
        for status in
            status.statuses.into_iter().filter(|status| !status.id.starts_with("exporting manifest "))
        {
            events.push(EngineEvent::Status(v1::VertexStatus {
                id: self.masks.text(&status.id),
                vertex: status.vertex,
                name: self.masks.text(&status.name),
                current: status.current,
                total: status.total,
                started: status.started,
                completed: status.completed,
            }));
        }
        for vertex in ended {
            events.extend(self.flush(|key| key.0 == vertex.digest));
            self.vertex(vertex, &mut events);
        }
        for warning in status.warnings {
            let text = |bytes: &[u8]| self.masks.text(&String::from_utf8_lossy(bytes));
            events.push(EngineEvent::Warning(v1::VertexWarning {
                vertex: warning.vertex,
                text: text(&warning.short),
                detail: warning.detail.iter().map(|line| text(line)).collect(),
                url: warning.url,
                source: excerpt(warning.info.as_ref(), &warning.ranges, &self.masks).into_iter().collect(),
            }));
        }
        events
    }

    fn vertex(&mut self, vertex: api::Vertex, events: &mut Vec<EngineEvent>) {
        self.record(&vertex);
        events.push(EngineEvent::Vertex(v1::Vertex {
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: self.masks.text(&vertex.name),
            cached: vertex.cached,
            started: vertex.started,
            completed: vertex.completed,
            error: self.masks.text(&vertex.error),
        }));
    }

    /// What was held back of every stream.
    pub(super) fn finish(&mut self) -> Vec<EngineEvent> {
        self.flush(|_| true)
    }

    /// The steps seen.
    pub(super) fn into_vertices(self) -> Vec<CapturedVertex> {
        self.vertices
    }

    /// Name of a step.
    pub(super) fn vertex_name(&self, digest: &str) -> Option<&str> {
        self.by_digest.get(digest).map(|at| self.vertices[*at].name.as_str())
    }

    /// Whether the machine cannot run a step's program.
    pub(super) fn is_foreign(&self, digest: &str) -> bool {
        self.foreign.contains(digest)
    }

    fn flush(&mut self, ended: impl Fn(&(String, i64)) -> bool) -> Vec<EngineEvent> {
        let keys: Vec<_> = self.streams.keys().filter(|key| ended(key)).cloned().collect();
        let flush = |key: (String, i64)| {
            let data = self.streams.remove(&key)?.finish();
            log_event(key.0, key.1, data)
        };
        keys.into_iter().filter_map(flush).collect()
    }

    fn record(&mut self, vertex: &api::Vertex) {
        match self.by_digest.get(&vertex.digest) {
            Some(at) => self.vertices[*at].cached |= vertex.cached,
            None => {
                self.by_digest.insert(vertex.digest.clone(), self.vertices.len());
                let name = self.masks.text(&vertex.name);
                self.vertices.push(CapturedVertex {
                    digest: vertex.digest.clone(),
                    name,
                    cached: vertex.cached,
                    // Settled by the record of the build, which holds the operations themselves.
                    is_run: false,
                });
            }
        }
    }
}

fn log_event(vertex: String, stream: i64, data: bytes::Bytes) -> Option<EngineEvent> {
    let stream = i32::try_from(stream).unwrap_or(1);
    (!data.is_empty()).then_some(EngineEvent::Log(v1::VertexLog { vertex, stream, data }))
}

/// The lines that `ranges` mean, with some around them.
pub(super) fn excerpt(
    info: Option<&pb::SourceInfo>,
    ranges: &[pb::Range],
    masks: &Masks,
) -> Option<v1::SourceExcerpt> {
    let info = info?;
    let line = |position: &Option<pb::Position>| {
        position.as_ref().and_then(|p| usize::try_from(p.line).ok()).filter(|l| *l > 0)
    };
    let spans: Vec<(usize, usize)> = ranges
        .iter()
        .filter_map(|range| {
            let start = line(&range.start)?;
            Some((start, line(&range.end).unwrap_or(start).max(start)))
        })
        .collect();
    let text = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> = text.lines().collect();
    let first = spans.iter().map(|s| s.0).min()?.saturating_sub(CONTEXT_LINES).max(1);
    let last = spans.iter().map(|s| s.1).max()?.saturating_add(CONTEXT_LINES).min(lines.len());
    let shown = lines.get(first - 1..last)?;
    let meant = |number: &usize| spans.iter().any(|(start, end)| (*start..=*end).contains(number));
    let cut = |line: &&str| masks.text(line).chars().take(MAX_LINE).collect();
    Some(v1::SourceExcerpt {
        file: info.filename.clone(),
        first_line: u32::try_from(first).ok()?,
        lines: shown.iter().map(cut).collect(),
        marked: (first..=last).filter(meant).filter_map(|number| u32::try_from(number).ok()).collect(),
    })
}
