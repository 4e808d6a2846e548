//! How a running build is shown: plain lines, a live view on a terminal, or JSON.

mod json;
mod plain;
mod terminal;

use std::collections::HashMap;
use std::io::Write;

use proto::v1;

pub use json::{build_json, event_json};
pub use terminal::Size;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One plain line per event.
    Plain,
    /// A view that is redrawn.
    Terminal,
    /// One JSON object per event.
    RawJson,
    /// Nothing.
    Quiet,
}

/// Where times are measured in: nanoseconds since 1970, from the server's events.
pub(crate) fn nanoseconds(time: Option<&prost_types::Timestamp>) -> Option<i128> {
    time.map(|time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}

pub(crate) fn seconds_between(from: Option<i128>, to: Option<i128>) -> f64 {
    match (from, to) {
        #[expect(clippy::cast_precision_loss, reason = "shown with one to three digits")]
        (Some(from), Some(to)) => (to - from).max(0) as f64 / 1e9,
        _ => 0.0,
    }
}

/// One step, as far as it is known.
#[derive(Debug, Default, Clone)]
pub(crate) struct Step {
    /// Number shown as `#n`, from 1, in order of appearance.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) cached: bool,
    /// When it began for the first time.
    pub(crate) started: Option<i128>,
    /// When it began last: an image is resolved first and pulled later, as one step.
    began: Option<i128>,
    pub(crate) completed: Option<i128>,
    /// Nanoseconds of its runs before the last.
    earlier: i128,
    pub(crate) error: String,
    /// The last lines of output.
    pub(crate) tail: Vec<String>,
    /// Output after the last newline.
    pub(crate) unfinished: Vec<u8>,
    pub(crate) statuses: Vec<v1::VertexStatus>,
}

/// Lines of output kept per step for the failure view.
const TAIL: usize = 20;

/// All steps of a build.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    order: Vec<String>,
    steps: HashMap<String, Step>,
}

impl Steps {
    /// The step of this digest, made if it is new.
    pub(crate) fn step(&mut self, digest: &str) -> &mut Step {
        if !self.steps.contains_key(digest) {
            self.order.push(digest.to_owned());
            let step = Step { number: self.order.len(), ..Step::default() };
            self.steps.insert(digest.to_owned(), step);
        }
        self.steps.get_mut(digest).expect("just inserted")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Step> {
        self.order.iter().filter_map(|digest| self.steps.get(digest))
    }

    /// Takes in what a vertex event says; `true` if its end has to be shown: it was not complete before and is now,
    /// or it ended well at first (its result was looked up) and failed later (when the result was needed).
    pub(crate) fn vertex(&mut self, vertex: &v1::Vertex) -> bool {
        let step = self.step(&vertex.digest);
        let (started, completed) =
            (nanoseconds(vertex.started.as_ref()), nanoseconds(vertex.completed.as_ref()));
        if started > step.began {
            if let (Some(began), Some(ended)) = (step.began, step.completed.take()) {
                step.earlier += (ended - began).max(0);
            }
            step.began = started;
        }
        let was_complete = step.completed.is_some() && (!step.error.is_empty() || vertex.error.is_empty());
        step.name.clone_from(&vertex.name);
        step.cached |= vertex.cached;
        step.started = step.started.or(started);
        // The good end of an earlier run that is told late does not end this one.
        let of_this_run =
            |end: &i128| !vertex.error.is_empty() || step.began.is_none_or(|began| *end >= began);
        step.completed = completed.filter(of_this_run).or(step.completed);
        if !vertex.error.is_empty() {
            step.error.clone_from(&vertex.error);
        }
        !was_complete && step.completed.is_some()
    }

    /// Takes in output and gives the lines that are whole now.
    pub(crate) fn log(&mut self, log: &v1::VertexLog) -> Vec<String> {
        let step = self.step(&log.vertex);
        step.unfinished.extend_from_slice(&log.data);
        let mut lines = Vec::new();
        while let Some(end) = step.unfinished.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = step.unfinished.drain(..=end).collect();
            lines.push(clean_line(&line));
        }
        // A step that never ends its line must not fill memory.
        if step.unfinished.len() > 64 << 10 {
            lines.push(clean_line(&std::mem::take(&mut step.unfinished)));
        }
        step.remember(&lines);
        lines
    }
}

impl Step {
    fn remember(&mut self, lines: &[String]) {
        self.tail.extend_from_slice(lines);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    /// Seconds it has run, until `now` if it still runs.
    pub(crate) fn seconds(&self, now: Option<i128>) -> f64 {
        let last = seconds_between(self.began, self.completed.or(now));
        seconds_between(Some(0), Some(self.earlier)) + last
    }

    /// What stands after the last newline when a step ends.
    pub(crate) fn rest(&mut self) -> Option<String> {
        if self.unfinished.is_empty() {
            return None;
        }
        let line = clean_line(&std::mem::take(&mut self.unfinished));
        self.remember(std::slice::from_ref(&line));
        Some(line)
    }

    /// Takes in the state of something a step does (a pull, a transfer).
    pub(crate) fn status(&mut self, status: &v1::VertexStatus) {
        if let Some(known) = self.statuses.iter_mut().find(|known| known.id == status.id) {
            known.clone_from(status);
        } else if self.statuses.len() < 256 {
            self.statuses.push(status.clone());
        }
    }
}

/// A line of a step's output, which is hostile: no control characters reach the terminal.
pub(crate) fn clean_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    // A progress bar overwrites its line; only its last state counts.
    clean(text.rsplit('\r').next().unwrap_or(text))
}

/// Text that somebody else wrote (a server, a registry, an image, a Dockerfile) as a person may see it: no control
/// characters but its newlines, and `indent` before every line but the first, so that none passes for ours.
#[must_use]
pub fn clean_text(text: &str, indent: &str) -> String {
    let lines: Vec<String> =
        text.trim_end().split('\n').map(|line| clean(line.trim_end_matches('\r'))).collect();
    lines.join(&format!("\n{indent}"))
}

/// JSON as `serde_json` writes it, with those characters escaped too that JSON allows in a string and a terminal acts on.
#[must_use]
pub fn clean_json(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // Between values; within strings they are escaped already.
            '\n' | '\t' => clean.push(c),
            // All of these have four hexadecimal digits.
            c if c.is_control() || is_direction_override(c) => {
                clean.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => clean.push(c),
        }
    }
    clean
}

fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => clean.push('\t'),
            '\u{1b}' => {
                // Drops a CSI sequence whole, and any other escape with the character after it.
                if chars.next() == Some('[') {
                    for c in chars.by_ref() {
                        if ('@'..='~').contains(&c) {
                            break;
                        }
                    }
                }
            }
            c if c.is_control() || is_direction_override(c) => clean.push('\u{fffd}'),
            c => clean.push(c),
        }
    }
    clean
}

/// Characters that make a terminal show text in another order than it has (Trojan Source).
fn is_direction_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1.5MB`, as Docker writes sizes.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2}TB")
}

/// Shows events in the chosen style.
pub struct Display<W: Write> {
    style: Style,
    plain: plain::Plain,
    terminal: terminal::Terminal,
    out: W,
}

impl<W: Write> Display<W> {
    /// A display that writes to `out`; `color` only matters for a terminal, `size` is asked at each redraw.
    pub fn new(style: Style, color: bool, size: fn() -> Size, out: W) -> Self {
        Self { style, plain: plain::Plain::default(), terminal: terminal::Terminal::new(color, size), out }
    }

    /// Shows one event. Errors of the output are ignored: a build does not fail because nobody looks.
    pub fn event(&mut self, event: &v1::BuildEvent) {
        match self.style {
            Style::Plain => {
                let mut text = String::new();
                self.plain.event(event, &mut text);
                let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
            }
            Style::Terminal => self.terminal.event(event),
            Style::RawJson => {
                let _ = writeln!(self.out, "{}", clean_json(&event_json(event).to_string()));
            }
            // Kept for the failure view, and not shown.
            Style::Quiet => self.plain.event(event, &mut String::new()),
        }
    }

    /// Shows a line of the command's own among what the build tells.
    pub fn line(&mut self, word: &str, text: &str) {
        let milestone = v1::Milestone { stage: word.to_owned(), text: text.to_owned() };
        let event = Some(v1::build_event::Event::Milestone(milestone));
        self.event(&v1::BuildEvent { event, ..Default::default() });
    }

    /// Redraws; call it about ten times a second.
    pub fn tick(&mut self) {
        if self.style == Style::Terminal {
            let text = self.terminal.frame(false);
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }

    /// Draws the last state.
    pub fn finish(&mut self) {
        if self.style == Style::Terminal {
            let text = self.terminal.frame(true);
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }

    /// The last lines of output of the failed step, for the failure view.
    #[must_use]
    pub fn failed_output(&self) -> Vec<String> {
        let steps = match self.style {
            Style::Terminal => self.terminal.steps(),
            _ => self.plain.steps(),
        };
        steps.iter().filter(|step| !step.error.is_empty()).flat_map(|step| step.tail.clone()).collect()
    }
}

/// What a step does, as buildx calls it: `transferring context:`, `extracting sha256:…`.
pub(crate) fn status_name(status: &v1::VertexStatus) -> String {
    clean_line(if status.id.is_empty() { &status.name } else { &status.id }.as_bytes())
}

/// Warnings of the frontend, in the words of an event.
pub(crate) fn warning_text(warning: &v1::VertexWarning) -> String {
    let place = warning.source.first().and_then(|source| {
        source.marked.first().map(|line| format!(" ({}:{line})", clean_line(source.file.as_bytes())))
    });
    format!("{}{}", clean_line(warning.text.as_bytes()), place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_step_cannot_drive_the_terminal() {
        assert_eq!(clean_line(b"\x1b[2Jhello \x1b]0;x\x07\n"), "hello 0;x\u{fffd}");
        assert_eq!(clean_line(b"10%\r100%\r\n"), "100%");
        assert_eq!(clean_line("a\u{202e}b".as_bytes()), "a\u{fffd}b");
        assert_eq!(clean_line(b"\xff\t1"), "\u{fffd}\t1");
    }

    #[test]
    fn text_of_others_cannot_drive_the_terminal_or_pass_for_our_lines() {
        assert_eq!(clean_text("one\x1b[31m\r\nexit 0: done\rx\n\n", "  "), "one\n  exit 0: done\u{fffd}x");
    }

    #[test]
    fn json_says_the_same_after_it_was_cleaned() {
        let value = serde_json::json!({"k\u{9b}": ["\u{1b}\u{7f}\u{202e}\n", "é"]});
        let text = clean_json(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || is_direction_override(c)),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
    }

    #[test]
    fn sizes_are_written_as_docker_does() {
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(1_500), "1.50kB");
        assert_eq!(human_size(2_000_000_000), "2.00GB");
    }
}
