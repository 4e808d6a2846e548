//! Which files of a context are carried: the ignore file's patterns, with Docker's semantics.

use std::path::PathBuf;

/// A malformed ignore file. Fault: the caller's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct IgnoreError {
    /// The ignore file.
    pub file: PathBuf,
    /// Which pattern, and what is wrong with it.
    pub problem: String,
}

/// The patterns of one context.
pub struct IgnoreFilter {
    _private: (),
}

impl IgnoreFilter {
    /// Carries everything.
    #[must_use]
    pub fn none() -> Self {
        Self { _private: () }
    }

    /// From the contents of an ignore file.
    pub fn parse(_contents: &[u8], _file: PathBuf) -> Result<Self, IgnoreError> {
        Ok(Self::none())
    }

    /// Whether the entry at `path` (from the root) stays behind.
    pub(crate) fn excludes(&self, _path: &[u8]) -> bool {
        false
    }

    /// Whether something below an excluded directory may be carried again.
    pub(crate) fn may_include_below(&self, _path: &[u8]) -> bool {
        true
    }
}
