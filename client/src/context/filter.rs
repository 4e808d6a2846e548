//! Which files of a context are carried: the ignore file's patterns, with Docker's semantics.

use std::collections::BTreeSet;
use std::path::PathBuf;

use provenance::ignore::{Filter, FilterState, InvalidPattern, Visit, parse_ignore_file};

/// The ignore file of a context's root. The frontend reads it itself, so it is carried even when excluded.
const CONTEXT_IGNORE: &[u8] = b".dockerignore";

/// A malformed ignore file. Fault: the caller's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct IgnoreError {
    /// The ignore file.
    pub file: PathBuf,
    /// Which pattern, and what is wrong with it.
    pub problem: InvalidPattern,
}

/// The patterns of one context.
pub struct IgnoreFilter {
    filter: Filter,
    file: PathBuf,
    left_out: BTreeSet<Vec<u8>>,
}

impl IgnoreFilter {
    /// Carries everything.
    #[must_use]
    pub fn none() -> Self {
        Self { filter: Filter::default(), file: PathBuf::new(), left_out: BTreeSet::new() }
    }

    /// From the contents of an ignore file; `file` is its path, for messages.
    pub fn parse(contents: &[u8], file: PathBuf) -> Result<Self, IgnoreError> {
        let parsed =
            parse_ignore_file(contents).and_then(|patterns| Filter::new::<Vec<u8>, _>(&[], &patterns));
        match parsed {
            Ok(filter) => Ok(Self { filter, file, left_out: BTreeSet::new() }),
            Err(problem) => Err(IgnoreError { file, problem }),
        }
    }

    /// Leaves these paths out too, whatever the patterns say; each from the context's root, `/` between components.
    #[must_use]
    pub fn leaving_out(mut self, paths: BTreeSet<Vec<u8>>) -> Self {
        self.left_out = paths;
        self
    }

    /// Whether a path is one of [`Self::leaving_out`].
    pub(crate) fn leaves_out(&self, path: &[u8]) -> bool {
        self.left_out.contains(path)
    }

    /// Decides about one entry; `path` is from the context's root.
    pub(crate) fn visit(
        &self,
        path: &[u8],
        directory: bool,
        parent: &FilterState,
    ) -> Result<Visit, IgnoreError> {
        let visit = self.filter.visit(path, directory, parent);
        let mut visit = visit.map_err(|problem| IgnoreError { file: self.file.clone(), problem })?;
        visit.included |= path == CONTEXT_IGNORE && !directory;
        Ok(visit)
    }
}
