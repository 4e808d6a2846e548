//! Docker's ignore and include patterns: `.dockerignore` files, and the patterns that BuildKit sends with a
//! request for a tree. The semantics are those of `github.com/moby/patternmatcher` 0.6 and of the filter of
//! `github.com/tonistiigi/fsutil`, quirks included, because a context that is cut differently from what
//! `docker build` sends is another image.
//!
//! Paths are bytes, relative, `/` between names, no `.` or `..`. Names need not be UTF-8.

mod pattern;
mod regex;

use pattern::{Pattern, code_points, trim_space};
pub use pattern::{PatternFault, clean, matches_name};

/// Largest ignore file in bytes (BuildKit reads no more).
pub const MAX_IGNORE_FILE: usize = 16 << 20;
/// Longest line of an ignore file in bytes (the limit of Go's line scanner).
pub const MAX_LINE: usize = 64 << 10;

/// Why patterns are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{pattern}`: {fault}")]
pub struct InvalidPattern {
    /// The pattern (lossy, at most 200 characters).
    pub pattern: String,
    /// What is wrong with it.
    pub fault: PatternFault,
}

fn invalid(pattern: &[u8]) -> impl Fn(PatternFault) -> InvalidPattern {
    let pattern = String::from_utf8_lossy(pattern).chars().take(200).collect::<String>();
    move |fault| InvalidPattern { pattern: pattern.clone(), fault }
}

/// The patterns of an ignore file, in order: without byte order mark, comments (`#` in the first column), empty
/// lines, surrounding white space and one leading `/`; each path shortened; as UTF-8, with U+FFFD for every byte
/// that is not.
pub fn parse_ignore_file(file: &[u8]) -> Result<Vec<Vec<u8>>, InvalidPattern> {
    if file.len() > MAX_IGNORE_FILE {
        return Err(invalid(b"")(PatternFault::TooLong));
    }
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut patterns = Vec::new();
    for line in file.split(|b| *b == b'\n') {
        if line.len() >= MAX_LINE {
            return Err(invalid(line)(PatternFault::TooLong));
        }
        if line.first() == Some(&b'#') {
            continue;
        }
        let trimmed = trim_space(line);
        if trimmed.is_empty() {
            continue;
        }
        let (exception, path) = match trimmed.strip_prefix(b"!") {
            Some(rest) => (true, trim_space(rest)),
            None => (false, trimmed),
        };
        let mut pattern = if path.is_empty() { Vec::new() } else { clean(path) };
        if pattern.len() > 1 && pattern[0] == b'/' {
            pattern.remove(0);
        }
        if exception {
            pattern.insert(0, b'!');
        }
        // Docker hands the patterns on as JSON, so that a byte that is not UTF-8 matches as U+FFFD only.
        patterns.push(pattern::as_text(&pattern));
    }
    Ok(patterns)
}

/// What is known of a directory's own match, for its entries. The default is for entries of the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchInfo(Vec<bool>);

/// An ordered list of patterns; later ones win.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

impl Patterns {
    /// Parses patterns; those of white space only are left out.
    pub fn new<P: AsRef<[u8]>>(patterns: &[P]) -> Result<Self, InvalidPattern> {
        let mut parsed = Vec::with_capacity(patterns.len());
        for text in patterns {
            let text = text.as_ref();
            parsed.extend(Pattern::parse(text).map_err(invalid(text))?);
        }
        Ok(Self { patterns: parsed })
    }

    /// Whether `path` matches, given the result for its directory.
    pub fn matches(&self, path: &[u8], parent: &MatchInfo) -> Result<(bool, MatchInfo), InvalidPattern> {
        let codes = code_points(path);
        let mut matched = false;
        let mut info = vec![false; self.patterns.len()];
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut matches = parent.0.get(index).copied().unwrap_or(false);
            if !matches {
                // A pattern can change nothing when it would set what already holds.
                if pattern.exception != matched {
                    continue;
                }
                matches = pattern.matches(path, &codes).map_err(invalid(&pattern.cleaned))?;
                if !matches && parent.0.is_empty() {
                    matches = matches_a_parent(pattern, path);
                }
            }
            info[index] = matches;
            if matches {
                matched = !pattern.exception;
            }
        }
        Ok((matched, MatchInfo(info)))
    }
}

fn matches_a_parent(pattern: &Pattern, path: &[u8]) -> bool {
    path.iter().enumerate().filter(|(_, b)| **b == b'/').any(|(at, _)| {
        let parent = &path[..at];
        // Docker ignores errors here; the same error has come for the path itself.
        pattern.matches(parent, &code_points(parent)).unwrap_or(false)
    })
}

/// What a walk does with one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The entry is part of the tree. A directory that is not may still be needed as parent of what is.
    pub included: bool,
    /// For a directory: something inside may be part of the tree.
    pub descend: bool,
    /// For a directory: what its entries are to be visited with.
    pub state: FilterState,
}

/// What a filter knows of a directory. The default is for the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterState {
    include: MatchInfo,
    exclude: MatchInfo,
}

/// Include and exclude patterns together, for a walk from the root down.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    prefix_includes: bool,
    prefix_exceptions: bool,
}

impl Filter {
    /// A filter. An empty list of `include` patterns includes everything.
    pub fn new<P: AsRef<[u8]>, Q: AsRef<[u8]>>(include: &[P], exclude: &[Q]) -> Result<Self, InvalidPattern> {
        let include = if include.is_empty() { None } else { Some(Patterns::new(include)?) };
        let exclude = if exclude.is_empty() { None } else { Some(Patterns::new(exclude)?) };
        let prefixes = |patterns: &Option<Patterns>, exceptions: bool| {
            let mut of_kind = patterns.iter().flat_map(|p| &p.patterns).filter(|p| p.exception == exceptions);
            of_kind.all(Pattern::is_prefix)
        };
        let (prefix_includes, prefix_exceptions) = (prefixes(&include, false), prefixes(&exclude, true));
        Ok(Self { include, exclude, prefix_includes, prefix_exceptions })
    }

    /// Decides about one entry of a directory whose visit gave `parent`.
    pub fn visit(&self, path: &[u8], directory: bool, parent: &FilterState) -> Result<Visit, InvalidPattern> {
        let mut visit = Visit { included: true, descend: directory, state: FilterState::default() };
        if let Some(patterns) = &self.include {
            let (matched, info) = patterns.matches(path, &parent.include)?;
            visit.state.include = info;
            if !matched {
                visit.included = false;
                visit.descend &= !self.prefix_includes || leads_inside(patterns, false, path);
            }
        }
        if !visit.included && !visit.descend {
            return Ok(visit);
        }
        if let Some(patterns) = &self.exclude {
            let (matched, info) = patterns.matches(path, &parent.exclude)?;
            visit.state.exclude = info;
            if matched {
                visit.included = false;
                visit.descend &= !self.prefix_exceptions || leads_inside(patterns, true, path);
            }
        }
        Ok(visit)
    }

    /// Whether a path that is no directory is part of the tree, without a walk.
    pub fn includes(&self, path: &[u8]) -> Result<bool, InvalidPattern> {
        let mut state = FilterState::default();
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let visit = self.visit(&path[..at], true, &state)?;
            if !visit.descend {
                return Ok(false);
            }
            state = visit.state;
        }
        Ok(self.visit(path, false, &state)?.included)
    }
}

/// Whether a pattern of the kind can match something inside `directory`.
fn leads_inside(patterns: &Patterns, exceptions: bool, directory: &[u8]) -> bool {
    let inside = [directory, b"/"].concat();
    patterns.patterns.iter().filter(|p| p.exception == exceptions).any(|pattern| {
        let text = [pattern.without_trailing_glob(), b"/"].concat();
        text.starts_with(&inside)
    })
}

#[cfg(test)]
mod tests;
