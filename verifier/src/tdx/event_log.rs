//! The event log of a TD's boot (CCEL), and replaying it to the measurement registers RTMR0 to RTMR3.
//!
//! The form is the crypto-agile log of the TCG PC Client Platform Firmware Profile (§10.2), with measurement register
//! indices in place of PCR numbers: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3 (UEFI specification §38.4.1). All integers
//! are little-endian. A log carries no signature; it is believed only when it replays to the registers of an
//! authentic quote, see [`EventLog::check_against`]. Even then only the digests are bound: an event's own bytes are
//! what the firmware wrote beside them.

use ring::digest;

use super::Quote;

/// Largest log that is read, in bytes.
pub const MAX_LOG: usize = 4 << 20;
/// Most events of a log.
pub const MAX_EVENTS: usize = 16_384;
/// Most digest algorithms that a log names.
const MAX_ALGORITHMS: usize = 8;
/// EV_NO_ACTION: says something, extends nothing.
const EV_NO_ACTION: u32 = 3;
/// TPM_ALG_SHA384, the algorithm of the RTMRs.
const SHA384: u16 = 0x000c;
const SHA384_LEN: usize = 48;
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
    /// The first event does not declare SHA-384 with its length, or declares too many algorithms or one twice.
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
    /// A register that a TD does not have.
    #[error(
        "event is of measurement register {got}, wanted 1 to 4 for RTMR0 to RTMR3 (log offset {offset:#x})"
    )]
    Register {
        /// Offset of the event.
        offset: usize,
        /// Index seen.
        got: u32,
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

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Offset in the log.
    pub offset: usize,
    /// RTMR that it extends, 0 to 3.
    pub rtmr: usize,
    /// Type of the event, see the TCG profile §10.4.1.
    pub event_type: u32,
    /// SHA-384 that the register is extended with.
    pub digest: [u8; SHA384_LEN],
    /// What the firmware says that it measured. Not bound to the digest.
    pub data: &'a [u8],
}

/// A parsed log: form checked, nothing believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    events: Vec<Event<'a>>,
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
fn spec_id(log: &mut Cursor<'_>) -> Result<Vec<(u16, usize)>, EventLogError> {
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
    if !algorithms.contains(&(SHA384, SHA384_LEN)) {
        return Err(EventLogError::Algorithms { problem: "without SHA-384 of 48 bytes", offset });
    }
    let vendor = usize::from(event.array::<1>("the length of vendor information")?[0]);
    event.take("vendor information", vendor)?;
    match log.offset - event.offset {
        0 => Ok(algorithms),
        got => Err(EventLogError::SpecIdTrailing { offset: event.offset, got }),
    }
}

/// TCG_PCR_EVENT2 (TCG profile §10.2.2). `None` for an event that extends nothing.
fn event<'a>(log: &mut Cursor<'a>, algorithms: &[(u16, usize)]) -> Result<Option<Event<'a>>, EventLogError> {
    let offset = log.offset;
    let register = log.u32("a measurement register")?;
    let event_type = log.u32("an event type")?;
    let count = log.u32("the number of digests")?;
    if count as usize != algorithms.len() {
        return Err(EventLogError::DigestCount { offset, got: count, wanted: algorithms.len() });
    }
    let mut left = algorithms.to_vec();
    let mut digest = [0; SHA384_LEN];
    for _ in 0..count {
        let offset = log.offset;
        let got = log.u16("a digest's algorithm")?;
        let at = left
            .iter()
            .position(|(known, _)| *known == got)
            .ok_or(EventLogError::Algorithm { offset, got })?;
        let bytes = log.take("a digest", left.swap_remove(at).1)?;
        if got == SHA384 {
            digest.copy_from_slice(bytes);
        }
    }
    let data = log.sized("an event")?;
    if event_type == EV_NO_ACTION {
        return Ok(None);
    }
    match register {
        1..=4 => Ok(Some(Event { offset, rtmr: register as usize - 1, event_type, digest, data })),
        got => Err(EventLogError::Register { offset, got }),
    }
}

impl<'a> EventLog<'a> {
    /// Parses a log. What is left of the ACPI table after the last event must be all ones or all zeros.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_LOG {
            return Err(EventLogError::TooLarge { got: bytes.len() });
        }
        let mut log = Cursor { bytes, offset: 0 };
        let algorithms = spec_id(&mut log)?;
        let mut events = Vec::new();
        let mut seen = 0;
        while !log.at_end() {
            if seen == MAX_EVENTS {
                return Err(EventLogError::TooManyEvents { offset: log.offset });
            }
            seen += 1;
            events.extend(event(&mut log, &algorithms)?);
        }
        Ok(Self { events })
    }

    /// Events that extend a register, in order.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// RTMR0 to RTMR3 after all events: each starts as zeros and becomes SHA-384 of itself and the event's digest.
    #[must_use]
    pub fn replay(&self) -> [[u8; SHA384_LEN]; 4] {
        let mut registers = [[0; SHA384_LEN]; 4];
        for event in &self.events {
            let register = &mut registers[event.rtmr];
            let mut hash = digest::Context::new(&digest::SHA384);
            hash.update(register);
            hash.update(&event.digest);
            register.copy_from_slice(hash.finish().as_ref());
        }
        registers
    }

    /// Checks that the log replays to the RTMRs of a quote.
    pub fn check_against(&self, quote: &Quote) -> Result<(), EventLogError> {
        for (index, (replayed, wanted)) in self.replay().iter().zip(quote.rtmrs()).enumerate() {
            if replayed != wanted {
                let (replayed, quote) = (hex::encode(replayed), hex::encode(wanted));
                return Err(EventLogError::Rtmr { index, replayed, quote });
            }
        }
        Ok(())
    }
}
