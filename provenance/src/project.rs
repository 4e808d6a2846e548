//! Self-certifying projects: the id is the SHA-256 of the canonical JSON of name and members, so neither a
//! server nor an operator can add a member to a project.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;

/// Longest project name in bytes.
pub const MAX_NAME: usize = 128;
/// Most members of a project.
pub const MAX_MEMBERS: usize = 256;
/// Largest project document in bytes.
pub const MAX_DOCUMENT: usize = 64 << 10;

/// Id of a project: SHA-256 of its document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(pub Sha256Digest);

impl fmt::Display for ProjectId {
    /// 64 hex digits, as in resource names `projects/{id}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name and members of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// SHA-256 of the SPKI of each member's key, ascending, no duplicates.
    pub members: Vec<Sha256Digest>,
    /// A name for people; part of the id.
    pub name: String,
}

/// Why a project document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProject {
    /// Not the canonical encoding of a project.
    #[error("project document: {0}")]
    Canonical(#[from] CanonicalError),
    /// Name empty, too long or with control characters.
    #[error("project name has {got} bytes; wanted 1 to {MAX_NAME} bytes without control characters")]
    Name {
        /// Length seen.
        got: usize,
    },
    /// No members, too many, not ascending, or one twice.
    #[error("project has {got} members; wanted 1 to {MAX_MEMBERS}, ascending by digest, each once")]
    Members {
        /// Number seen.
        got: usize,
    },
}

impl Project {
    /// A project of these members.
    pub fn new(name: &str, members: impl IntoIterator<Item = Sha256Digest>) -> Result<Self, InvalidProject> {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort();
        members.dedup();
        let project = Self { members, name: name.to_owned() };
        project.check()?;
        Ok(project)
    }

    /// Parses the canonical document.
    pub fn parse(document: &[u8]) -> Result<Self, InvalidProject> {
        let project: Self = from_canonical_json(document, MAX_DOCUMENT)?;
        project.check()?;
        Ok(project)
    }

    /// Checks what the types cannot say; also called when a project arrives inside a request.
    pub fn check(&self) -> Result<(), InvalidProject> {
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return Err(InvalidProject::Name { got: self.name.len() });
        }
        let ascending = self.members.windows(2).all(|pair| pair[0] < pair[1]);
        if self.members.is_empty() || self.members.len() > MAX_MEMBERS || !ascending {
            return Err(InvalidProject::Members { got: self.members.len() });
        }
        Ok(())
    }

    /// The canonical document.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// The project's id.
    #[must_use]
    pub fn id(&self) -> ProjectId {
        ProjectId(Sha256Digest::of(&self.document()))
    }

    /// Whether the key with this SPKI digest is a member.
    #[must_use]
    pub fn has_member(&self, key: &Sha256Digest) -> bool {
        self.members.binary_search(key).is_ok()
    }
}
