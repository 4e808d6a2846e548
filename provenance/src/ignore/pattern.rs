//! One pattern, with the semantics of the Go package `github.com/moby/patternmatcher` 0.6.

use super::regex::Regex;

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// Not the syntax of Go's `filepath.Match`, or of the expression made from it.
    #[error("syntax error (an open `[`, a range without end, or a `\\` at the end)")]
    Syntax,
    /// `!` alone.
    #[error("`!` without a pattern")]
    LoneException,
    /// Longer than 64 KiB.
    #[error("longer than 64 KiB")]
    TooLong,
}

/// How a pattern is compared.
#[derive(Debug, Clone)]
enum Comparison {
    Exact,
    /// The pattern ends in `**` and has no other special characters.
    Prefix,
    /// The pattern begins with `**` and has no other special characters.
    Suffix,
    Expression(Regex),
    /// Passes the first check and makes no expression: an error once it is compared, as in Docker.
    Broken,
}

/// One pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// Cleaned, without `!`.
    pub(super) cleaned: Vec<u8>,
    /// It began with `!`.
    pub(super) exception: bool,
    comparison: Comparison,
}

impl Pattern {
    /// Parses a pattern; `None` when there is nothing but white space.
    pub(super) fn parse(text: &[u8]) -> Result<Option<Self>, PatternFault> {
        if text.len() > 64 << 10 {
            return Err(PatternFault::TooLong);
        }
        let trimmed = trim_space(text);
        if trimmed.is_empty() {
            return Ok(None);
        }
        let mut cleaned = clean(trimmed);
        let exception = cleaned[0] == b'!';
        if exception {
            if cleaned.len() == 1 {
                return Err(PatternFault::LoneException);
            }
            cleaned.remove(0);
        }
        check_syntax(&cleaned)?;
        let comparison = compile(&cleaned);
        Ok(Some(Self { cleaned, exception, comparison }))
    }

    /// Whether the pattern matches this very path. `codes` are the code points of `path`.
    pub(super) fn matches(&self, path: &[u8], codes: &[u32]) -> Result<bool, PatternFault> {
        Ok(match &self.comparison {
            Comparison::Exact => path == self.cleaned,
            Comparison::Prefix => path.starts_with(&self.cleaned[..self.cleaned.len() - 2]),
            Comparison::Suffix => {
                let suffix = &self.cleaned[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|rest| path == rest)
            }
            Comparison::Expression(expression) => expression.matches(codes),
            Comparison::Broken => return Err(PatternFault::Syntax),
        })
    }

    /// The pattern without `/**` and then `/*` at its end.
    pub(super) fn without_trailing_glob(&self) -> &[u8] {
        let text = self.cleaned.strip_suffix(b"/**").unwrap_or(&self.cleaned);
        text.strip_suffix(b"/*").unwrap_or(text)
    }

    /// Whether only paths that begin with [`Self::without_trailing_glob`] can match.
    pub(super) fn is_prefix(&self) -> bool {
        !self.without_trailing_glob().iter().any(|b| b"*[]?^\\".contains(b))
    }
}

/// Code points of `text`; each byte that is not UTF-8 becomes U+FFFD.
pub(super) fn code_points(text: &[u8]) -> Vec<u32> {
    let mut codes = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        codes.extend(chunk.valid().chars().map(u32::from));
        codes.extend(chunk.invalid().iter().map(|_| 0xfffd));
    }
    codes
}

/// The same in UTF-8; each byte that is not becomes U+FFFD.
pub(super) fn as_text(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|_| out.extend_from_slice("\u{fffd}".as_bytes()));
    }
    out
}

fn compile(cleaned: &[u8]) -> Comparison {
    #[derive(PartialEq)]
    enum Found {
        Exact,
        Prefix,
        Suffix,
        Expression,
    }
    let is = |code: Option<&u32>, wanted: char| code == Some(&u32::from(wanted));
    let mut codes = code_points(cleaned);
    // Go's scanner drops a byte order mark at the start.
    if codes.first() == Some(&0xfeff) {
        codes.remove(0);
    }
    let mut text: Vec<u32> = Vec::new();
    let mut add = |part: &str| text.extend(part.chars().map(u32::from));
    let mut found = Found::Exact;
    let mut at = 0;
    let mut first = true;
    while let Some(code) = codes.get(at).copied() {
        at += 1;
        match char::from_u32(code) {
            Some('*') if is(codes.get(at), '*') => {
                at += 1;
                // `**/` is the same as `**`.
                if is(codes.get(at), '/') {
                    at += 1;
                }
                if at < codes.len() {
                    add("(.*/)?");
                    found = Found::Expression;
                } else if found == Found::Exact {
                    found = Found::Prefix;
                } else {
                    add(".*");
                    found = Found::Expression;
                }
                if first {
                    found = Found::Suffix;
                }
            }
            Some('*') => {
                add("[^/]*");
                found = Found::Expression;
            }
            Some('?') => {
                add("[^/]");
                found = Found::Expression;
            }
            Some(c @ ('.' | '+' | '(' | ')' | '|' | '{' | '}' | '$')) => add(&format!("\\{c}")),
            Some('\\') => {
                add("\\");
                if let Some(next) = codes.get(at).copied() {
                    at += 1;
                    add(char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut [0; 4]));
                    found = Found::Expression;
                }
            }
            Some(c @ ('[' | ']')) => {
                add(c.encode_utf8(&mut [0; 4]));
                found = Found::Expression;
            }
            c => add(c.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut [0; 4])),
        }
        first = false;
    }
    match found {
        Found::Exact => Comparison::Exact,
        Found::Prefix => Comparison::Prefix,
        Found::Suffix => Comparison::Suffix,
        Found::Expression => Regex::compile(&text).map_or(Comparison::Broken, Comparison::Expression),
    }
}

/// The syntax that Go's `filepath.Match` accepts; its result does not depend on the name compared.
fn check_syntax(pattern: &[u8]) -> Result<(), PatternFault> {
    let mut rest = pattern;
    while let Some(first) = rest.first() {
        rest = &rest[1..];
        match first {
            b'[' => {
                rest = rest.strip_prefix(b"^").unwrap_or(rest);
                let mut first = true;
                while first || rest.first() != Some(&b']') {
                    rest = class_member(rest)?;
                    if let Some(after) = rest.strip_prefix(b"-") {
                        rest = class_member(after)?;
                    }
                    first = false;
                }
                rest = &rest[1..];
            }
            b'\\' => rest = rest.get(1..).ok_or(PatternFault::Syntax)?,
            _ => {}
        }
    }
    Ok(())
}

/// Skips one, possibly escaped, code point of a class; there must be something behind it.
fn class_member(text: &[u8]) -> Result<&[u8], PatternFault> {
    if matches!(text.first(), None | Some(b'-' | b']')) {
        return Err(PatternFault::Syntax);
    }
    let text = text.strip_prefix(b"\\").unwrap_or(text);
    let width = first_char(text).ok_or(PatternFault::Syntax)?.len_utf8();
    let rest = &text[width..];
    if rest.is_empty() { Err(PatternFault::Syntax) } else { Ok(rest) }
}

fn first_char(text: &[u8]) -> Option<char> {
    (1..=text.len().min(4)).find_map(|n| std::str::from_utf8(&text[..n]).ok()?.chars().next())
}

fn last_char(text: &[u8]) -> Option<char> {
    (1..=text.len().min(4)).find_map(|n| std::str::from_utf8(&text[text.len() - n..]).ok()?.chars().next())
}

/// Without white space (Unicode) at both ends.
pub(super) fn trim_space(mut text: &[u8]) -> &[u8] {
    while let Some(c) = first_char(text).filter(|c| c.is_whitespace()) {
        text = &text[c.len_utf8()..];
    }
    while let Some(c) = last_char(text).filter(|c| c.is_whitespace()) {
        text = &text[..text.len() - c.len_utf8()];
    }
    text
}

/// Part of a name pattern.
enum Part {
    Any,
    One(u32),
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    Run,
}

/// Whether one file name matches a pattern of one name, as Go's `filepath.Match`: `*`, `?`, `[…]`, `\` before a
/// literal. A malformed pattern matches nothing.
#[must_use]
pub fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    if check_syntax(pattern).is_err() {
        return false;
    }
    let parts = name_parts(&distinct_codes(pattern));
    let name = distinct_codes(name);
    // What is behind the last `*` seen, and where that began: going back further is never needed.
    let (mut part, mut at, mut back) = (0, 0, None);
    while part < parts.len() || at < name.len() {
        let fits = |code: &u32| match &parts[part] {
            Part::Any => true,
            Part::One(wanted) => code == wanted,
            Part::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(code)) != *negated
            }
            Part::Run => false,
        };
        if matches!(parts.get(part), Some(Part::Run)) {
            part += 1;
            back = Some((part, at));
        } else if part < parts.len() && name.get(at).is_some_and(fits) {
            part += 1;
            at += 1;
        } else if let Some((behind, began)) = back.filter(|(_, began)| *began < name.len()) {
            (part, at) = (behind, began + 1);
            back = Some((part, at));
        } else {
            return false;
        }
    }
    true
}

/// Code points; a byte that is not UTF-8 gets a number beyond them, so that no two are alike.
fn distinct_codes(text: &[u8]) -> Vec<u32> {
    let mut codes = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        codes.extend(chunk.valid().chars().map(u32::from));
        codes.extend(chunk.invalid().iter().map(|byte| 0x11_0000 | u32::from(*byte)));
    }
    codes
}

/// Parts of a pattern that passed [`check_syntax`].
fn name_parts(codes: &[u32]) -> Vec<Part> {
    let char_at = |at: usize| codes.get(at).copied().and_then(char::from_u32);
    let member = |at: &mut usize| {
        if char_at(*at) == Some('\\') {
            *at += 1;
        }
        *at += 1;
        codes.get(*at - 1).copied().unwrap_or_default()
    };
    let mut parts = Vec::new();
    let mut at = 0;
    while at < codes.len() {
        match char_at(at) {
            Some('*') => parts.push(Part::Run),
            Some('?') => parts.push(Part::Any),
            Some('[') => {
                at += 1;
                let negated = char_at(at) == Some('^');
                at += usize::from(negated);
                let mut ranges = Vec::new();
                while at < codes.len() && (ranges.is_empty() || char_at(at) != Some(']')) {
                    let low = member(&mut at);
                    let high = if char_at(at) == Some('-') {
                        at += 1;
                        member(&mut at)
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                parts.push(Part::Class { negated, ranges });
            }
            Some('\\') => {
                at += 1;
                parts.extend(codes.get(at).copied().map(Part::One));
            }
            _ => parts.push(Part::One(codes[at])),
        }
        at += 1;
    }
    parts
}

/// The shortest equivalent path, as Go's `filepath.Clean`: no `.`, no doubled or trailing `/`, `..` resolved
/// where it can be by text alone; `.` for nothing.
#[must_use]
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}
