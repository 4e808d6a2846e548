//! Crypto-agile event logs of the TCG PC Client Platform Firmware Profile (§10.2), as a TD's firmware (CCEL) and a TPM's
//! write them: reading, without believing anything. All integers are little-endian. A log carries no signature; it is
//! believed only when it replays to authentic registers, and even then only its digests are: an event's own bytes are
//! what the firmware wrote beside them.

use std::ops::RangeInclusive;

/// Largest log that is read, in bytes.
pub const MAX_LOG: usize = 4 << 20;
/// Most events of a log.
pub const MAX_EVENTS: usize = 16_384;
/// Most digest algorithms that a log names.
const MAX_ALGORITHMS: usize = 8;
/// EV_NO_ACTION: says something, extends nothing.
pub(crate) const EV_NO_ACTION: u32 = 3;
/// Signature of the first event.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// Why bytes are no event log, or not that of a quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// Too many bytes.
    #[error("event log has {got} bytes, at most {MAX_LOG} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// Too many events.
    #[error("event log has more than {MAX_EVENTS} events (log offset {offset:#x})")]
    TooManyEvents {
        /// Offset of the first event that is too much.
        offset: usize,
    },
    /// The bytes end inside a field.
    #[error("event log ends inside {what}: {wanted} bytes wanted, {got} left (log offset {offset:#x})")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Its offset.
        offset: usize,
        /// Bytes that it needs.
        wanted: usize,
        /// Bytes that are left.
        got: usize,
    },
    /// The first event does not say that the log is crypto-agile.
    #[error("event log does not begin with `Spec ID Event03` of type EV_NO_ACTION (log offset 0x0)")]
    NoSpecId,
    /// The first event does not declare the algorithm wanted with its length, or declares too many or one twice.
    #[error("algorithms of the event log are {problem} (log offset {offset:#x})")]
    Algorithms {
        /// What is wrong.
        problem: &'static str,
        /// Where.
        offset: usize,
    },
    /// Bytes follow the fields of the first event.
    #[error("{got} bytes follow the fields of the first event (log offset {offset:#x})")]
    SpecIdTrailing {
        /// Where.
        offset: usize,
        /// How many.
        got: usize,
    },
    /// A register that there is not.
    #[error("event is of measurement register {got}, wanted {wanted} (log offset {offset:#x})")]
    Register {
        /// Offset of the event.
        offset: usize,
        /// Index seen.
        got: u32,
        /// Indices that there are.
        wanted: &'static str,
    },
    /// An event without exactly one digest for each algorithm.
    #[error("event has {got} digests, wanted {wanted}, one for each algorithm (log offset {offset:#x})")]
    DigestCount {
        /// Offset of the event.
        offset: usize,
        /// Digests seen.
        got: u32,
        /// Digests wanted.
        wanted: usize,
    },
    /// A digest of an algorithm that the log does not declare, or has given already.
    #[error(
        "event has a digest of algorithm {got:#06x}, which is not declared or stands twice (log offset {offset:#x})"
    )]
    Algorithm {
        /// Offset of the algorithm.
        offset: usize,
        /// Algorithm seen.
        got: u16,
    },
    /// The log is not that of the TPM quote.
    #[error("event log replays PCR {index} to {replayed}, the TPM quote has {quote}")]
    Pcr {
        /// Which PCR.
        index: usize,
        /// Value that the log gives, hex.
        replayed: String,
        /// Value in the quote, hex.
        quote: String,
    },
    /// The log is not that of the quote.
    #[error("event log replays RTMR{index} to {replayed}, the quote has {quote}")]
    Rtmr {
        /// Which register.
        index: usize,
        /// Value that the log gives, hex.
        replayed: String,
        /// Value in the quote, hex.
        quote: String,
    },
}

/// The registers that a log is of.
pub(crate) struct Bank {
    /// TPM_ALG_ID of the digests that extend them.
    pub(crate) algorithm: u16,
    /// Bytes of a digest.
    pub(crate) length: usize,
    /// Complaint about a log without that algorithm.
    pub(crate) missing: &'static str,
    /// Their indices.
    pub(crate) registers: RangeInclusive<u32>,
    /// How messages name them.
    pub(crate) names: &'static str,
}

/// One event as it stands in the log.
pub(crate) struct RawEvent<'a> {
    /// Offset in the log.
    pub(crate) offset: usize,
    /// Index of the register. Of no meaning for [`EV_NO_ACTION`].
    pub(crate) register: u32,
    /// Type of the event, see the TCG profile §10.4.1.
    pub(crate) event_type: u32,
    /// Digest of the bank's algorithm.
    pub(crate) digest: &'a [u8],
    /// What the firmware says that it measured.
    pub(crate) data: &'a [u8],
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, what: &'static str, wanted: usize) -> Result<&'a [u8], EventLogError> {
        let offset = self.offset;
        let rest = &self.bytes[offset..];
        let taken =
            rest.get(..wanted).ok_or(EventLogError::Truncated { what, offset, wanted, got: rest.len() })?;
        self.offset += wanted;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], EventLogError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, EventLogError> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, EventLogError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A u32 length and as many bytes.
    fn sized(&mut self, what: &'static str) -> Result<&'a [u8], EventLogError> {
        let length = self.u32(what)? as usize;
        self.take(what, length)
    }

    /// Whether nothing but the filling of the ACPI table is left: all ones, or all zeros.
    fn at_end(&self) -> bool {
        let rest = &self.bytes[self.offset..];
        rest.iter().all(|byte| *byte == 0xff) || rest.iter().all(|byte| *byte == 0)
    }
}

/// The first event, in the older form with a SHA-1 digest (TCG profile §10.4.5.1). Gives algorithms and lengths.
fn spec_id(log: &mut Cursor<'_>, bank: &Bank) -> Result<Vec<(u16, usize)>, EventLogError> {
    log.take("the first event", 4)?;
    let event_type = log.u32("the first event's type")?;
    log.take("the first event's digest", 20)?;
    let data = log.sized("the first event")?;
    let start = log.offset - data.len();
    let mut event = Cursor { bytes: &log.bytes[..log.offset], offset: start };
    if event_type != EV_NO_ACTION || event.take("its signature", SPEC_ID.len())? != SPEC_ID {
        return Err(EventLogError::NoSpecId);
    }
    // Platform class, version, size of pointers.
    event.take("platform class and version", 8)?;
    let offset = event.offset;
    let count = event.u32("the number of algorithms")? as usize;
    if count > MAX_ALGORITHMS {
        return Err(EventLogError::Algorithms { problem: "more than 8", offset });
    }
    let mut algorithms = Vec::new();
    for _ in 0..count {
        let offset = event.offset;
        let algorithm = event.u16("an algorithm")?;
        let length = usize::from(event.u16("the length of a digest")?);
        if algorithms.iter().any(|(known, _)| *known == algorithm) {
            return Err(EventLogError::Algorithms { problem: "not all different", offset });
        }
        algorithms.push((algorithm, length));
    }
    if !algorithms.contains(&(bank.algorithm, bank.length)) {
        return Err(EventLogError::Algorithms { problem: bank.missing, offset });
    }
    let vendor = usize::from(event.array::<1>("the length of vendor information")?[0]);
    event.take("vendor information", vendor)?;
    match log.offset - event.offset {
        0 => Ok(algorithms),
        got => Err(EventLogError::SpecIdTrailing { offset: event.offset, got }),
    }
}

/// TCG_PCR_EVENT2 (TCG profile §10.2.2).
fn event<'a>(
    log: &mut Cursor<'a>,
    algorithms: &[(u16, usize)],
    bank: &Bank,
) -> Result<RawEvent<'a>, EventLogError> {
    let offset = log.offset;
    let register = log.u32("a measurement register")?;
    let event_type = log.u32("an event type")?;
    let count = log.u32("the number of digests")?;
    if count as usize != algorithms.len() {
        return Err(EventLogError::DigestCount { offset, got: count, wanted: algorithms.len() });
    }
    let mut left = algorithms.to_vec();
    let mut digest: &[u8] = &[];
    for _ in 0..count {
        let offset = log.offset;
        let got = log.u16("a digest's algorithm")?;
        let at = left
            .iter()
            .position(|(known, _)| *known == got)
            .ok_or(EventLogError::Algorithm { offset, got })?;
        let bytes = log.take("a digest", left.swap_remove(at).1)?;
        if got == bank.algorithm {
            digest = bytes;
        }
    }
    let data = log.sized("an event")?;
    if event_type != EV_NO_ACTION && !bank.registers.contains(&register) {
        return Err(EventLogError::Register { offset, got: register, wanted: bank.names });
    }
    Ok(RawEvent { offset, register, event_type, digest, data })
}

/// Reads all events after the first. What is left after the last must be all ones or all zeros.
pub(crate) fn parse<'a>(bytes: &'a [u8], bank: &Bank) -> Result<Vec<RawEvent<'a>>, EventLogError> {
    if bytes.len() > MAX_LOG {
        return Err(EventLogError::TooLarge { got: bytes.len() });
    }
    let mut log = Cursor { bytes, offset: 0 };
    let algorithms = spec_id(&mut log, bank)?;
    let mut events = Vec::new();
    while !log.at_end() {
        if events.len() == MAX_EVENTS {
            return Err(EventLogError::TooManyEvents { offset: log.offset });
        }
        events.push(event(&mut log, &algorithms, bank)?);
    }
    Ok(events)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SHA1: u16 = 4;
    const SHA256: u16 = 0x0b;
    const BANK: Bank = Bank {
        algorithm: SHA256,
        length: 32,
        missing: "without SHA-256",
        registers: 0..=23,
        names: "0 to 23",
    };

    fn sized(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short");
        [&length.to_le_bytes(), bytes].concat()
    }

    /// A log of its first event alone, which declares these algorithms with the length of their digests.
    pub(crate) fn head(algorithms: &[(u16, u16)]) -> Vec<u8> {
        let mut spec_id = [SPEC_ID.as_slice(), &[0; 8]].concat();
        spec_id.extend(u32::try_from(algorithms.len()).expect("few").to_le_bytes());
        for (algorithm, length) in algorithms {
            spec_id.extend(algorithm.to_le_bytes());
            spec_id.extend(length.to_le_bytes());
        }
        spec_id.push(0);
        [[0, 0, 0, 0, 3, 0, 0, 0].as_slice(), &[0; 20], &sized(&spec_id)].concat()
    }

    /// An event with these digests.
    pub(crate) fn event(register: u32, event_type: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
        let mut event = [register.to_le_bytes(), event_type.to_le_bytes()].concat();
        event.extend(u32::try_from(digests.len()).expect("few").to_le_bytes());
        for (algorithm, digest) in digests {
            event.extend(algorithm.to_le_bytes());
            event.extend_from_slice(digest);
        }
        event.extend(sized(data));
        event
    }

    fn events(log: &[u8]) -> Result<usize, EventLogError> {
        parse(log, &BANK).map(|events| events.len())
    }

    #[test]
    fn a_log_declares_up_to_eight_algorithms_each_once() {
        let many = |count: u16| (SHA256..SHA256 + count).map(|algorithm| (algorithm, 32)).collect::<Vec<_>>();
        assert_eq!(events(&head(&many(8))), Ok(0));
        let refused = |problem, offset| Err(EventLogError::Algorithms { problem, offset });
        // The number of algorithms stands at 56, the algorithms follow, 4 bytes each.
        assert_eq!(events(&head(&many(9))), refused("more than 8", 56));
        assert_eq!(events(&head(&[(SHA256, 32), (SHA256, 32)])), refused("not all different", 64));
        assert_eq!(events(&head(&[(SHA1, 20)])), refused("without SHA-256", 56));
    }

    #[test]
    fn an_event_has_the_digest_of_its_algorithm_wherever_that_stands() {
        let (sha1, sha256) = ((SHA1, [1; 20].as_slice()), (SHA256, [2; 32].as_slice()));
        for digests in [[sha1, sha256], [sha256, sha1]] {
            let log = [head(&[(SHA1, 20), (SHA256, 32)]), event(7, 13, &digests, b"data")].concat();
            let parsed = parse(&log, &BANK).expect("a log");
            let [event] = parsed.as_slice() else { panic!("{} events", parsed.len()) };
            assert_eq!((event.register, event.event_type), (7, 13));
            assert_eq!((event.digest, event.data), ([2; 32].as_slice(), b"data".as_slice()));
        }
    }

    #[test]
    fn a_log_has_a_longest_length() {
        let mut log = head(&[(SHA256, 32)]);
        log.resize(MAX_LOG, 0);
        assert_eq!(events(&log), Ok(0));
        log.push(0);
        assert_eq!(events(&log), Err(EventLogError::TooLarge { got: MAX_LOG + 1 }));
    }
}
