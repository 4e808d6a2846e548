//! `--progress plain`: the lines of buildx's plain progress.

use std::fmt::Write as _;

use proto::v1;
use proto::v1::build_event::Event;

use super::{Steps, clean_line, human_size, nanoseconds, seconds_between, status_name, warning_text};

/// State of the plain view.
#[derive(Default)]
pub(crate) struct Plain {
    steps: Steps,
    /// Number of the step whose lines were written last.
    last: usize,
    /// Steps whose heading has been written.
    headed: std::collections::HashSet<usize>,
    /// The last line, if it was a step's end.
    last_end: String,
}

impl Plain {
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(crate) fn event(&mut self, event: &v1::BuildEvent, out: &mut String) {
        let now = nanoseconds(event.time.as_ref());
        match &event.event {
            Some(Event::Vertex(vertex)) => self.vertex(vertex, out),
            Some(Event::VertexLog(log)) => {
                let lines = self.steps.log(log);
                for line in lines {
                    self.log_line(&log.vertex, now, &line, out);
                }
            }
            Some(Event::VertexStatus(status)) => self.status(status, out),
            Some(Event::VertexWarning(warning)) => {
                let number = self.heading(&warning.vertex, out);
                let _ = writeln!(out, "#{number} WARN: {}", warning_text(warning));
            }
            Some(Event::Milestone(milestone)) => {
                self.separate(0, out);
                let _ = writeln!(
                    out,
                    " {:<10} {}",
                    clean_line(milestone.stage.as_bytes()),
                    clean_line(milestone.text.as_bytes())
                );
            }
            Some(Event::StateChanged(_)) | None => {}
        }
    }

    fn vertex(&mut self, vertex: &v1::Vertex, out: &mut String) {
        let completed = self.steps.vertex(vertex);
        let step = self.steps.step(&vertex.digest);
        if step.started.is_none() && step.completed.is_none() {
            return;
        }
        let ended = step.completed;
        if !completed {
            // A step that begins again gets its heading when it has something to tell.
            if !self.headed.contains(&step.number) {
                self.heading(&vertex.digest, out);
            }
            return;
        }
        if let Some(line) = self.steps.step(&vertex.digest).rest() {
            self.log_line(&vertex.digest, ended, &line, out);
        }
        let step = self.steps.step(&vertex.digest);
        let number = step.number;
        let end = if !step.error.is_empty() {
            let error = clean_line(step.error.as_bytes());
            if error.ends_with("context canceled") {
                format!("#{number} CANCELED")
            } else {
                format!("#{number} ERROR: {error}")
            }
        } else if step.cached {
            format!("#{number} CACHED")
        } else {
            format!("#{number} DONE {:.1}s", step.seconds(ended))
        };
        // A step that began again, told nothing and took no time has ended already, for all that is seen.
        if self.last != number || self.last_end != end {
            self.heading(&vertex.digest, out);
            let _ = writeln!(out, "{end}");
            self.last_end = end;
        }
    }

    fn log_line(&mut self, vertex: &str, now: Option<i128>, line: &str, out: &mut String) {
        let number = self.heading(vertex, out);
        let since = seconds_between(self.steps.step(vertex).started, now);
        let _ = writeln!(out, "#{number} {since:.3} {line}");
    }

    fn status(&mut self, status: &v1::VertexStatus, out: &mut String) {
        let step = self.steps.step(&status.vertex);
        let known = step.statuses.iter().any(|s| s.id == status.id && s.completed.is_some());
        step.status(status);
        // One line when it is done, so that a pipe is not flooded with percentages.
        if known || status.completed.is_none() {
            return;
        }
        let number = self.heading(&status.vertex, out);
        let name = status_name(status);
        let current = u64::try_from(status.current).unwrap_or(0);
        let total = u64::try_from(status.total).unwrap_or(0);
        let size = match (current, total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", human_size(current)),
            (current, total) => format!(" {} / {}", human_size(current), human_size(total)),
        };
        let took =
            seconds_between(nanoseconds(status.started.as_ref()), nanoseconds(status.completed.as_ref()));
        let took = if took >= 0.05 { format!(" {took:.1}s") } else { String::new() };
        let _ = writeln!(out, "#{number} {name}{size}{took} done");
    }

    /// Writes the step's heading if its lines do not continue, and gives its number.
    fn heading(&mut self, vertex: &str, out: &mut String) -> usize {
        self.last_end.clear();
        let step = self.steps.step(vertex);
        let number = step.number;
        let name = clean_line(step.name.as_bytes());
        if self.last == number {
            return number;
        }
        self.separate(number, out);
        let _ = if self.headed.insert(number) {
            writeln!(out, "#{number} {name}")
        } else {
            writeln!(out, "#{number} {name} (continued)")
        };
        number
    }

    fn separate(&mut self, next: usize, out: &mut String) {
        if self.last != 0 && self.last != next {
            out.push('\n');
        }
        self.last = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(milliseconds: i64) -> Option<prost_types::Timestamp> {
        let nanos = i32::try_from(milliseconds % 1000 * 1_000_000).expect("below a second");
        Some(prost_types::Timestamp { seconds: 1_000 + milliseconds / 1000, nanos })
    }

    fn shown(events: Vec<(i64, Event)>) -> String {
        let (mut plain, mut out) = (Plain::default(), String::new());
        for (number, (at, event)) in events.into_iter().enumerate() {
            plain.event(
                &v1::BuildEvent { number: number as u64 + 1, time: time(at), event: Some(event) },
                &mut out,
            );
        }
        out
    }

    fn vertex(name: &str, started: Option<i64>, completed: Option<i64>, cached: bool, error: &str) -> Event {
        Event::Vertex(v1::Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            started: started.and_then(time),
            completed: completed.and_then(time),
            cached,
            error: error.to_owned(),
            ..v1::Vertex::default()
        })
    }

    fn log(vertex: &str, data: &str) -> Event {
        Event::VertexLog(v1::VertexLog { vertex: vertex.to_owned(), stream: 1, data: data.to_owned().into() })
    }

    #[test]
    fn a_step_that_begins_again_is_headed_when_it_tells_something_and_ends_again() {
        let text = shown(vec![
            (0, vertex("FROM base", Some(0), None, false, "")),
            (100, vertex("FROM base", Some(0), Some(100), false, "")),
            (110, vertex("FROM base", Some(110), Some(110), false, "")),
            (120, vertex("RUN", Some(100), None, false, "")),
            (200, vertex("FROM base", Some(200), None, false, "")),
            (250, vertex("FROM base", Some(0), Some(100), false, "")),
            (300, vertex("RUN", Some(100), Some(300), false, "")),
            (
                1200,
                Event::VertexStatus(v1::VertexStatus {
                    vertex: "FROM base".to_owned(),
                    id: "extracting sha256:00".to_owned(),
                    name: "extract".to_owned(),
                    started: time(200),
                    completed: time(1200),
                    ..v1::VertexStatus::default()
                }),
            ),
            (1200, vertex("FROM base", Some(200), Some(1200), false, "")),
        ]);
        assert_eq!(
            text,
            "#1 FROM base\n#1 DONE 0.1s\n\n#2 RUN\n#2 DONE 0.2s\n\n#1 FROM base (continued)\n\
             #1 extracting sha256:00 1.0s done\n#1 DONE 1.1s\n"
        );
    }

    #[test]
    fn steps_look_like_those_of_buildx() {
        let text = shown(vec![
            (0, vertex("[1/3] FROM base", Some(0), None, false, "")),
            (100, vertex("[1/3] FROM base", Some(0), Some(100), true, "")),
            (200, vertex("[2/3] RUN a", Some(200), None, false, "")),
            (210, vertex("[3/3] RUN b", Some(200), None, false, "")),
            (323, log("[2/3] RUN a", "one\ntw")),
            (400, log("[2/3] RUN a", "o\nrest")),
            (1400, vertex("[2/3] RUN a", Some(200), Some(1400), false, "")),
            (1500, vertex("[3/3] RUN b", Some(200), Some(1500), false, "exit code: 1")),
        ]);
        assert_eq!(
            text,
            "#1 [1/3] FROM base\n#1 CACHED\n\n#2 [2/3] RUN a\n\n#3 [3/3] RUN b\n\n#2 [2/3] RUN a (continued)\n\
             #2 0.123 one\n#2 0.200 two\n#2 1.200 rest\n#2 DONE 1.2s\n\n#3 [3/3] RUN b (continued)\n#3 ERROR: exit code: 1\n"
        );
    }
}
