//! TSTInfo (RFC 3161 §2.4.2): what the authority says.

use der::asn1::ObjectIdentifier;
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber};
use provenance::timestamp::Timestamp;

use super::TimeError;
use super::token::{Hash, timestamp};
use crate::x509::{expect, next, sequence};

/// Widest accuracy that is read, in seconds.
const MAX_ACCURACY: u64 = 3600;

/// What the authority says.
#[derive(Debug, Clone, Copy)]
pub(super) struct TstInfo<'a> {
    pub(super) hash: Hash,
    pub(super) imprint: &'a [u8],
    /// When it was made, by the authority's clock.
    pub(super) made: Timestamp,
    /// Before when it was made at the latest: rounded up, with the accuracy added.
    pub(super) latest: Timestamp,
}

const fn primitive(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: false, number: TagNumber(number) }
}

/// A number of at most 8 bytes without a sign, from the contents of an INTEGER.
fn unsigned(contents: &[u8]) -> Result<u64, TimeError> {
    let minimal = match contents {
        [] => false,
        [0, second, ..] => second & 0x80 != 0,
        [first, ..] => first & 0x80 == 0,
    };
    let digits = contents.strip_prefix(&[0]).unwrap_or(contents);
    if !minimal || digits.len() > 8 {
        return Err(TimeError::Malformed {
            problem: "number is negative, too large or not minimal".to_owned(),
        });
    }
    Ok(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// GeneralizedTime with a fraction perhaps (RFC 3161 §2.4.2): whole seconds, and whether there is a fraction.
fn general_time(contents: &[u8]) -> Result<(Timestamp, bool), TimeError> {
    let wrong = || TimeError::Field {
        field: "genTime",
        got: String::from_utf8_lossy(contents).chars().filter(|c| !c.is_control()).take(40).collect(),
        wanted: "YYYYMMDDhhmmss[.f]Z",
    };
    let text = contents.strip_suffix(b"Z").ok_or_else(wrong)?;
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    };
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    // DER has no trailing zeros in a fraction, and no empty one.
    let fits = fraction.is_none_or(|part| digits(part) && part.last().is_some_and(|last| *last != b'0'));
    if whole.len() != 14 || !digits(whole) || !fits {
        return Err(wrong());
    }
    let part = |range: std::ops::Range<usize>| std::str::from_utf8(&whole[range]).unwrap_or_default();
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4),
        part(4..6),
        part(6..8),
        part(8..10),
        part(10..12),
        part(12..14)
    );
    Ok((Timestamp::parse(&text).map_err(|_| wrong())?, fraction.is_some()))
}

/// Accuracy: whole seconds, and whether milliseconds or microseconds come on top.
fn accuracy(contents: &[u8]) -> Result<(u64, bool), TimeError> {
    let mut reader = SliceReader::new(contents)?;
    let (mut seconds, mut more) = (0, false);
    let mut least = 0;
    while !reader.is_finished() {
        let (tag, value, _) = next(&mut reader)?;
        let number = unsigned(value)?;
        // seconds, millis [0] and micros [1], in this order, each at most once.
        let place = match tag {
            Tag::Integer => 1,
            tag if tag == primitive(0) => 2,
            tag if tag == primitive(1) => 3,
            _ => return Err(TimeError::Malformed { problem: "accuracy has another field".to_owned() }),
        };
        if place <= least || (place > 1 && !(1..=999).contains(&number)) {
            return Err(TimeError::Malformed { problem: "accuracy is out of order or range".to_owned() });
        }
        least = place;
        if place == 1 { seconds = number } else { more = true }
    }
    Ok((seconds, more))
}

impl<'a> TstInfo<'a> {
    pub(super) fn parse(content: &'a [u8]) -> Result<Self, TimeError> {
        let mut outer = SliceReader::new(content)?;
        let (mut info, _) = sequence(&mut outer)?;
        outer.finish()?;
        let version = u64::decode(&mut info)?;
        if version != 1 {
            let got = version.to_string();
            return Err(TimeError::Field { field: "version of TSTInfo", got, wanted: "1" });
        }
        // The authority's own policy: what is accepted is decided by naming the authority.
        let _: ObjectIdentifier = ObjectIdentifier::decode(&mut info)?;
        let (mut imprint, _) = sequence(&mut info)?;
        let hash = Hash::read(expect(&mut imprint, Tag::Sequence)?.1, "imprint algorithm")?;
        let (hashed, _) = expect(&mut imprint, Tag::OctetString)?;
        imprint.finish()?;
        // The serial number, of up to 160 bits.
        expect(&mut info, Tag::Integer)?;
        let (made, fraction) = general_time(expect(&mut info, Tag::GeneralizedTime)?.0)?;
        let (mut seconds, mut more) = (0, false);
        // accuracy, ordering, nonce, tsa [0], in this order; extensions [1] are refused.
        let mut least = 0;
        while !info.is_finished() {
            let (tag, value, _) = next(&mut info)?;
            let place = match tag {
                Tag::Sequence => 1,
                Tag::Boolean => 2,
                Tag::Integer => 3,
                Tag::ContextSpecific { number: TagNumber(0), .. } => 4,
                _ => return Err(TimeError::Unread { what: "extensions of TSTInfo" }),
            };
            if place <= least {
                return Err(TimeError::Malformed {
                    problem: "fields of TSTInfo are out of order".to_owned(),
                });
            }
            least = place;
            if place == 1 {
                (seconds, more) = accuracy(value)?;
            }
        }
        if seconds > MAX_ACCURACY {
            return Err(TimeError::Accuracy { got: seconds, limit: MAX_ACCURACY });
        }
        let seconds = i64::try_from(seconds).expect("limited above");
        // Two fractions may come to more than one second.
        let up = i64::from(fraction) + i64::from(more);
        let latest = timestamp(made.unix() + seconds + up)?;
        Ok(Self { hash, imprint: hashed, made, latest })
    }
}
