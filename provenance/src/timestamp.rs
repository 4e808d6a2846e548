//! Times as RFC 3339 text in UTC with whole seconds, `2026-11-21T10:00:00Z`: exactly one spelling each.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is no timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time; wanted UTC with whole seconds like `2026-11-21T10:00:00Z`")]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// From seconds since the epoch; refuses years outside 1970..=9999.
    pub fn from_unix(seconds: i64) -> Result<Self, InvalidTimestamp> {
        if (0..=253_402_300_799).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(InvalidTimestamp(seconds.to_string()))
        }
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// Parses the one accepted spelling.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let invalid = || InvalidTimestamp(text.chars().take(64).collect());
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| invalid())?;
        let stamp = Self::from_unix(parsed.unix_timestamp()).map_err(|_| invalid())?;
        if stamp.to_string() == text { Ok(stamp) } else { Err(invalid()) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = OffsetDateTime::from_unix_timestamp(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
