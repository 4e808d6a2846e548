//! Where words go: data to standard output, everything for people to standard error.

use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use super::failure::Failure;
use client::progress::{Size, clean_json, clean_text};

/// How this run prints.
pub(crate) struct Output {
    json: bool,
    color: bool,
    color_stdout: bool,
}

impl Output {
    pub(crate) fn new(json: bool, color: Option<&str>) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let plain = variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term == "dumb");
        let decide = |terminal: bool| match color {
            Some("always") => true,
            Some("never") => false,
            _ => terminal && !plain,
        };
        Self {
            json,
            color: decide(std::io::stderr().is_terminal()),
            color_stdout: decide(std::io::stdout().is_terminal()),
        }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) const fn color(&self) -> bool {
        self.color
    }

    pub(crate) const fn color_stdout(&self) -> bool {
        self.color_stdout
    }

    /// Data: one text on standard output. A closed pipe is nobody's fault.
    pub(crate) fn data(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Data: one JSON document on standard output.
    pub(crate) fn document(&self, document: &Value) {
        let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
        text.push('\n');
        self.data(&clean_json(&text));
    }

    /// A line for people, whoever wrote what is in it.
    pub(crate) fn say(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{}", clean_text(line, ""));
    }

    /// A status line: a word of up to ten letters, and a fact.
    pub(crate) fn status(&self, word: &str, fact: &str) {
        self.say(&format!(" {word:<10} {}", clean_text(fact, "            ")));
    }

    /// A failure as the one JSON document.
    pub(crate) fn failure_document(&self, failure: &Failure) {
        self.document(&json!({
            "error": {
                "reason": failure.reason,
                "message": failure.what,
                "place": failure.place,
                "advice": failure.advice,
                "exit": failure.exit,
            }
        }));
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            self.failure_document(failure);
        }
        let word = if self.color { "\u{1b}[31merror\u{1b}[0m" } else { "error" };
        let _ = writeln!(std::io::stderr().lock(), "{word}: {}", clean_text(&failure.what, "  "));
        if let Some(place) = &failure.place {
            self.say(&format!("  where: {}", clean_text(place, "    ")));
        }
        for advice in &failure.advice {
            self.say(&format!("  what to do: {}", clean_text(advice, "    ")));
        }
        if let Some(meaning) = failure.exit_meaning() {
            self.say(meaning);
        }
    }
}

/// `1 file`, `2 files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Size of the terminal on standard error, or a usual one.
pub(crate) fn terminal_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => Size { columns: 80, rows: 24 },
    }
}
