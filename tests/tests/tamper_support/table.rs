//! Which refusal is written down for which alteration.

use verifier::Reason;

/// The lines of a table, in their order.
pub(crate) struct Table {
    lines: Vec<Line>,
}

struct Line {
    number: usize,
    field: String,
    operations: Vec<String>,
    wanted: Vec<String>,
    used: bool,
}

/// Whether the text is of the pattern, in which `*` stands for any characters.
fn is_of(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => text == pattern,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| is_of(&text[at..], rest))
        }),
    }
}

impl Table {
    /// Lines `field operations refusal | refusal`; a line that begins with `#` is a comment. Operations are joined by
    /// commas; with a `?` behind them there may be no such field in a run, because two random values may be the same.
    pub(crate) fn parse(text: &str) -> Self {
        let line = |(index, line): (usize, &str)| {
            let mut words = line.split_whitespace();
            let field = words.next().filter(|word| !word.starts_with('#'))?.to_owned();
            let operations = words.next().expect("operations");
            let wanted = words.collect::<Vec<_>>().join(" ");
            assert!(!wanted.is_empty(), "line {}: no refusal", index + 1);
            Some(Line {
                number: index + 1,
                field,
                operations: operations.trim_end_matches('?').split(',').map(str::to_owned).collect(),
                wanted: wanted.split(" | ").map(str::to_owned).collect(),
                used: operations.ends_with('?'),
            })
        };
        Self { lines: text.lines().enumerate().filter_map(line).collect() }
    }

    /// Whether the first line for this alteration allows the refusal; `Err` says what it wants.
    pub(crate) fn allows(&mut self, field: &str, operation: &str, got: &str) -> Result<(), String> {
        let is_for = |line: &&mut Line| {
            line.operations.iter().any(|known| known == operation) && is_of(field, &line.field)
        };
        let line = self.lines.iter_mut().find(is_for).ok_or("there is no line for it")?;
        line.used = true;
        if line.wanted.iter().any(|wanted| is_of(got, wanted)) {
            return Ok(());
        }
        Err(format!("line {} says {}", line.number, line.wanted.join(" | ")))
    }

    /// Lines that no alteration was looked up in.
    pub(crate) fn unused(&self) -> impl Iterator<Item = usize> {
        self.lines.iter().filter(|line| !line.used).map(|line| line.number)
    }
}

/// Fields of a variant that say which of several things is meant.
const TELLING: [&str; 6] = ["which", "error", "what", "label", "field", "name"];

/// The variants of a reason from the outside in, without values: `Authentication.Snp.Certificate(which=Vcek,
/// error=Signature)`.
pub(crate) fn name_of(reason: &Reason) -> String {
    let debug = format!("{reason:?}");
    Debug { text: &debug }.value()
}

/// Reads what `#[derive(Debug)]` writes.
struct Debug<'a> {
    text: &'a str,
}

impl Debug<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let found = self.text.trim_start().strip_prefix(token);
        self.text = found.unwrap_or(self.text);
        found.is_some()
    }

    fn word(&mut self) -> String {
        self.text = self.text.trim_start();
        let end = self.text.find(|c: char| !(c.is_alphanumeric() || "_.-:".contains(c)));
        let (word, rest) = self.text.split_at(end.unwrap_or(self.text.len()));
        self.text = rest;
        word.to_owned()
    }

    fn quoted(&mut self) -> String {
        let mut escaped = false;
        let end = self.text.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (text, rest) = self.text.split_at(end.expect("a quote ends").0);
        self.text = &rest[1..];
        text.to_owned()
    }

    fn value(&mut self) -> String {
        if self.eat("\"") {
            return self.quoted();
        }
        if self.eat("[") {
            while !self.eat("]") {
                self.value();
                self.eat(",");
            }
            return String::new();
        }
        let mut name = if self.eat("(") {
            self.text = self.text.trim_start();
            String::from("(")
        } else {
            self.word()
        };
        let tuple = name == "(" || self.eat("(");
        if tuple {
            name = name.trim_start_matches('(').to_owned();
            let mut first = true;
            while !self.eat(")") {
                let is_text = self.text.trim_start().starts_with('"');
                let inner = self.value();
                if first && !is_text && inner.starts_with(|c: char| c.is_ascii_uppercase()) {
                    name = format!("{name}.{inner}");
                }
                first = false;
                self.eat(",");
            }
        } else if self.eat("{") {
            let mut telling = Vec::new();
            while !self.eat("}") {
                let field = self.word().trim_end_matches(':').to_owned();
                self.eat(":");
                let value = self.value();
                if TELLING.contains(&field.as_str()) {
                    telling.push(format!("{field}={value}"));
                }
                self.eat(",");
            }
            if !telling.is_empty() {
                name = format!("{name}({})", telling.join(", "));
            }
        } else if name.is_empty() {
            // Digests and the like, written in some way of their own.
            self.text = self.text.get(1..).unwrap_or_default();
        }
        name
    }
}
