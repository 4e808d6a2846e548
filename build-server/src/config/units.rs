//! Values of the configuration files: sizes, time spans, users.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time span in seconds, a hundred years: a moment that far away can still be computed.
const LONGEST_SPAN: u64 = 36_500 * 86_400;

/// A number of bytes: an integer, or a text like `512KiB`, `64MiB`, `20GiB`, `1TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct ByteCount(pub u64);

/// A time span: an integer of seconds, or a text like `90s`, `30m`, `12h`, `14d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Span(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

/// Splits `20GiB` into 20 and the factor of `GiB`.
fn scaled(value: NumberOrText, units: &[(&str, u64)]) -> Option<u64> {
    let text = match value {
        NumberOrText::Number(number) => return Some(number),
        NumberOrText::Text(text) => text,
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units =
            [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
        scaled(NumberOrText::deserialize(deserializer)?, &units)
            .map(Self)
            .ok_or_else(|| D::Error::custom("wanted a number of bytes like 1048576 or \"20GiB\""))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
        scaled(NumberOrText::deserialize(deserializer)?, &units)
            .filter(|seconds| *seconds <= LONGEST_SPAN)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| {
                D::Error::custom(
                    "wanted a time span like 90, \"90s\", \"30m\", \"12h\" or \"14d\", at most 36500 days",
                )
            })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_secs())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs())
    }
}

/// Number of the user, and of the group, that the service runs as; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceUid(pub u32);

impl Default for ServiceUid {
    /// A number that distributions give to no user; the next one is that of `nobody`.
    fn default() -> Self {
        Self(65_533)
    }
}

impl<'de> Deserialize<'de> for ServiceUid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = || D::Error::custom(format!("wanted the number of a user, 1 to {}", u32::MAX - 1));
        // The highest number means "as before" to the system calls.
        match u32::try_from(u64::deserialize(deserializer)?) {
            Ok(0 | u32::MAX) | Err(_) => Err(wanted()),
            Ok(uid) => Ok(Self(uid)),
        }
    }
}
