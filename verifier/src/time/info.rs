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

#[cfg(test)]
mod tests {
    use super::*;

    /// DER of a tag and few bytes.
    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u8::try_from(contents.len()).ok().filter(|length| *length < 0x80).expect("few bytes");
        [&[tag, length], contents].concat()
    }

    /// Seconds from when a timestamp says that it was made to the latest that it allows, with `rest` after its time.
    fn latest(rest: &[u8]) -> Result<i64, TimeError> {
        let hash = hex::decode("300b0609608648016503040201").expect("hex");
        let imprint = der(0x30, &[hash, der(0x04, &[0x5a; 32])].concat());
        let fields = [
            der(0x02, &[1]),
            der(0x06, &[0x2a, 3, 4, 1]),
            imprint,
            der(0x02, &[7]),
            der(0x18, b"20261122010203Z"),
            rest.to_vec(),
        ];
        let content = der(0x30, &fields.concat());
        TstInfo::parse(&content).map(|info| info.latest.unix() - info.made.unix())
    }

    fn malformed<T>(problem: &str) -> Result<T, TimeError> {
        Err(TimeError::Malformed { problem: problem.to_owned() })
    }

    #[test]
    fn numbers_have_one_spelling_and_at_most_eight_bytes() {
        for (contents, wanted) in [
            (&[0][..], 0),
            (&[0x7f], 0x7f),
            (&[0, 0x80], 0x80),
            (&[0, 0xff], 0xff),
            (&[1, 0], 0x100),
            (&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX >> 1),
            (&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            assert_eq!(unsigned(contents), Ok(wanted), "{contents:x?}");
        }
        for contents in [
            &[][..],
            &[0x80],
            &[0xff, 1],
            &[0, 0],
            &[0, 0x7f],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let wanted = malformed("number is negative, too large or not minimal");
            assert_eq!(unsigned(contents), wanted, "{contents:x?}");
        }
    }

    #[test]
    fn accuracy_has_seconds_milliseconds_and_microseconds() {
        let parts = |parts: &[(u8, &[u8])]| {
            accuracy(&parts.iter().flat_map(|(tag, value)| der(*tag, value)).collect::<Vec<_>>())
        };
        assert_eq!(parts(&[]), Ok((0, false)));
        assert_eq!(parts(&[(2, &[5])]), Ok((5, false)));
        assert_eq!(parts(&[(0x80, &[1])]), Ok((0, true)));
        assert_eq!(parts(&[(0x81, &[3, 0xe7])]), Ok((0, true)), "999 microseconds");
        assert_eq!(parts(&[(2, &[5]), (0x80, &[1]), (0x81, &[2])]), Ok((5, true)));
        assert_eq!(parts(&[(0x82, &[1])]), malformed("accuracy has another field"));
        assert_eq!(parts(&[(4, &[1])]), malformed("accuracy has another field"));
        let wrong = || malformed("accuracy is out of order or range");
        assert_eq!(parts(&[(0x81, &[2]), (0x80, &[1])]), wrong());
        assert_eq!(parts(&[(0x80, &[1]), (0x80, &[1])]), wrong());
        assert_eq!(parts(&[(0x80, &[0])]), wrong());
        assert_eq!(parts(&[(0x81, &[3, 0xe8])]), wrong());
    }

    #[test]
    fn what_follows_the_time_is_in_order_and_an_hour_is_the_widest_accuracy() {
        assert_eq!(latest(&[]), Ok(0));
        assert_eq!(latest(&der(0x30, &der(0x02, &[0x0e, 0x10]))), Ok(3600));
        let error = TimeError::Accuracy { got: 3601, limit: 3600 };
        assert_eq!(latest(&der(0x30, &der(0x02, &[0x0e, 0x11]))), Err(error));
        // Ordering, nonce and the authority's name say nothing about the time.
        let (ordering, nonce, name) = (der(0x01, &[0xff]), der(0x02, &[9]), der(0xa0, &der(0x82, b"tsa")));
        assert_eq!(latest(&[ordering.clone(), nonce.clone(), name.clone()].concat()), Ok(0));
        for late in [&ordering, &nonce] {
            let wanted = malformed("fields of TSTInfo are out of order");
            assert_eq!(latest(&[&name[..], late].concat()), wanted);
        }
        let unread = Err(TimeError::Unread { what: "extensions of TSTInfo" });
        assert_eq!(latest(&der(0xa1, &der(0x30, &[]))), unread);
    }
}
