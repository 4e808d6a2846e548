//! `--progress tty`: a view that is redrawn in place, in the manner of buildx.

use std::fmt::Write as _;

use proto::v1;
use proto::v1::build_event::Event;

use super::{Step, Steps, clean_line, human_size, nanoseconds, seconds_between, status_name, warning_text};

/// Columns and rows of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// Lines of output shown below a running step.
const TAIL: usize = 5;

/// State of the live view.
pub(crate) struct Terminal {
    steps: Steps,
    color: bool,
    size: fn() -> Size,
    /// Lines drawn last, to be overwritten.
    drawn: usize,
    first: Option<i128>,
    now: Option<i128>,
    /// When the last event came, by this machine's clock, so that time goes on between events.
    arrived: std::time::Instant,
    state: &'static str,
    milestones: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Terminal {
    pub(crate) fn new(color: bool, size: fn() -> Size) -> Self {
        Self {
            steps: Steps::default(),
            color,
            size,
            drawn: 0,
            first: None,
            now: None,
            arrived: std::time::Instant::now(),
            state: "",
            milestones: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(crate) fn event(&mut self, event: &v1::BuildEvent) {
        self.now = nanoseconds(event.time.as_ref()).or(self.now);
        self.first = self.first.or(self.now);
        self.arrived = std::time::Instant::now();
        match &event.event {
            Some(Event::Vertex(vertex)) => {
                if self.steps.vertex(vertex) {
                    self.steps.step(&vertex.digest).rest();
                }
            }
            Some(Event::VertexLog(log)) => drop(self.steps.log(log)),
            Some(Event::VertexStatus(status)) => self.steps.step(&status.vertex).status(status),
            Some(Event::VertexWarning(warning)) => {
                if self.warnings.len() < 50 {
                    self.warnings.push(warning_text(warning));
                }
            }
            Some(Event::Milestone(milestone)) => {
                let clean = |text: &str| clean_line(text.as_bytes());
                self.milestones.push((clean(&milestone.stage), clean(&milestone.text)));
            }
            Some(Event::StateChanged(change)) => {
                use v1::build::State;
                self.state = match change.build.as_ref().map(v1::Build::state) {
                    Some(State::Queued) => "queued",
                    Some(State::Succeeded) => "finished",
                    Some(State::Failed) => "failed",
                    Some(State::Cancelled) => "cancelled",
                    _ => "",
                };
            }
            None => {}
        }
    }

    /// The text that replaces the last frame by the present one.
    pub(crate) fn frame(&mut self, last: bool) -> String {
        let size = (self.size)();
        let lines = self.lines(size, last);
        let mut out = String::new();
        if self.drawn > 0 {
            let _ = write!(out, "\u{1b}[{}A\r", self.drawn);
        }
        for line in &lines {
            let _ = writeln!(out, "\u{1b}[2K{line}");
        }
        out.push_str("\u{1b}[J");
        self.drawn = if last { 0 } else { lines.len() };
        out
    }

    fn lines(&self, size: Size, last: bool) -> Vec<String> {
        let width = size.columns.clamp(20, 500);
        let elapsed = self.arrived.elapsed().as_nanos();
        let running = self.state.is_empty() || self.state == "queued";
        let elapsed = if running { i128::try_from(elapsed).unwrap_or(0) } else { 0 };
        let now = self.now.map(|now| now + elapsed);
        // BuildKit announces the last steps first; people read in the order in which things happen.
        let mut known: Vec<&Step> =
            self.steps.iter().filter(|step| step.started.is_some() || step.completed.is_some()).collect();
        known.sort_by_key(|step| step.started.or(step.completed));
        let total = self.steps.iter().count();
        let complete = self.steps.iter().filter(|step| step.completed.is_some()).count();
        let heading = format!(
            "[+] building {:.1}s ({complete}/{total}) {}",
            seconds_between(self.first, now),
            self.state
        );
        let mut lines = vec![cut(heading.trim_end(), width)];
        let mut body = Vec::new();
        for step in known {
            self.step_lines(step, now, width, &mut body);
        }
        // What is complete gives way first: the end of the list is what happens now.
        let room = size.rows.saturating_sub(4 + self.milestones.len()).max(3);
        if !last && body.len() > room {
            body.drain(..body.len() - room);
        }
        lines.append(&mut body);
        for (stage, text) in &self.milestones {
            lines.push(cut(&format!(" {stage:<10} {text}"), width));
        }
        if last {
            lines.extend(self.warnings.iter().map(|text| cut(&format!(" warning: {text}"), width)));
        }
        lines
    }

    fn step_lines(&self, step: &Step, now: Option<i128>, width: usize, lines: &mut Vec<String>) {
        let name = clean_line(step.name.as_bytes());
        let (word, color) = match step {
            Step { error, .. } if error.ends_with("context canceled") => ("CANCELED ", "33"),
            Step { error, .. } if !error.is_empty() => ("ERROR ", "31"),
            Step { cached: true, .. } => ("CACHED ", "34"),
            Step { completed: Some(_), .. } => ("", "34"),
            _ => ("", ""),
        };
        let seconds = format!("{:.1}s", step.seconds(now));
        let left = cut(&format!(" => {word}{name}"), width.saturating_sub(seconds.len() + 1));
        let gap = width.saturating_sub(left.chars().count() + seconds.len());
        lines.push(self.paint(color, &format!("{left}{}{seconds}", " ".repeat(gap))));
        if step.completed.is_some() {
            return;
        }
        for status in step.statuses.iter().filter(|status| status.completed.is_none()) {
            let (current, total) =
                (u64::try_from(status.current).unwrap_or(0), u64::try_from(status.total).unwrap_or(0));
            let size = match (current, total) {
                (0, 0) => String::new(),
                (current, 0) => human_size(current),
                (current, total) => format!("{} / {}", human_size(current), human_size(total)),
            };
            // The digest in the name gives way, not the size.
            let room = width.saturating_sub(size.len() + 1);
            let name = cut(&format!(" => => {}", status_name(status)), room);
            lines.push(format!("{name} {size}").trim_end().to_owned());
        }
        let from = step.tail.len().saturating_sub(TAIL);
        lines.extend(step.tail[from..].iter().map(|line| cut(&format!(" => => # {line}"), width)));
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.color && !color.is_empty() {
            format!("\u{1b}[{color}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// At most `width` characters; what is cut ends in `…`.
fn cut(text: &str, width: usize) -> String {
    let text = text.replace('\t', "    ");
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(name: &str, completed: bool, error: &str) -> v1::BuildEvent {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let vertex = v1::Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            started: at(10),
            completed: if completed { at(12) } else { None },
            error: error.to_owned(),
            ..v1::Vertex::default()
        };
        v1::BuildEvent { number: 1, time: at(12), event: Some(Event::Vertex(vertex)) }
    }

    #[test]
    fn steps_stand_in_the_order_in_which_they_began() {
        let mut terminal = Terminal::new(false, || Size { columns: 60, rows: 40 });
        for (name, seconds) in [("last", 30), ("first", 10), ("second", 20)] {
            let mut event = vertex(name, true, "");
            if let Some(Event::Vertex(vertex)) = &mut event.event {
                vertex.started = Some(prost_types::Timestamp { seconds, nanos: 0 });
            }
            terminal.event(&event);
        }
        let frame = terminal.frame(true);
        let at = |name: &str| frame.find(name).expect("shown");
        assert!(at("first") < at("second") && at("second") < at("last"), "{frame}");
    }

    #[test]
    fn a_step_that_begins_again_is_shown_as_running() {
        let mut terminal = Terminal::new(false, || Size { columns: 40, rows: 8 });
        terminal.event(&vertex("FROM base", true, ""));
        let mut again = vertex("FROM base", false, "");
        if let Some(Event::Vertex(vertex)) = &mut again.event {
            vertex.started = Some(prost_types::Timestamp { seconds: 20, nanos: 0 });
        }
        terminal.event(&again);
        terminal.event(&v1::BuildEvent {
            number: 3,
            time: Some(prost_types::Timestamp { seconds: 21, nanos: 0 }),
            event: Some(Event::VertexStatus(v1::VertexStatus {
                vertex: "FROM base".to_owned(),
                id: "extracting sha256:00".to_owned(),
                ..v1::VertexStatus::default()
            })),
        });
        terminal.event(&v1::BuildEvent {
            number: 4,
            time: Some(prost_types::Timestamp { seconds: 21, nanos: 0 }),
            event: Some(Event::VertexStatus(v1::VertexStatus {
                vertex: "FROM base".to_owned(),
                id: "sha256:0123456789abcdef".to_owned(),
                current: 1_500,
                total: 2_000_000,
                ..v1::VertexStatus::default()
            })),
        });
        let frame = terminal.frame(false);
        assert!(frame.contains("(0/1)") && frame.contains(" => => extracting sha256:00\n"), "{frame}");
        assert!(frame.contains(" => => sha256:012345678… 1.50kB / 2.00MB\n"), "{frame}");
    }

    #[test]
    fn a_frame_overwrites_the_one_before_and_fits_the_terminal() {
        let mut terminal = Terminal::new(false, || Size { columns: 36, rows: 8 });
        for number in 0..20 {
            terminal.event(&vertex(&format!("[{number}/20] RUN something rather long"), true, ""));
        }
        terminal.event(&v1::BuildEvent {
            number: 2,
            time: Some(prost_types::Timestamp { seconds: 12, nanos: 0 }),
            event: Some(Event::StateChanged(v1::StateChanged {
                build: Some(v1::Build { state: v1::build::State::Succeeded.into(), ..v1::Build::default() }),
            })),
        });
        let first = terminal.frame(false);
        assert_eq!(first.matches('\n').count(), 5);
        assert!(first.contains("[+] building 0.0s (20/20) finished"), "{first}");
        assert!(first.contains(" => [19/20] RUN something rath… 2.0s"), "{first}");
        assert!(terminal.frame(false).starts_with("\u{1b}[5A\r"));
        assert_eq!(terminal.frame(true).matches('\n').count(), 21);
    }
}
