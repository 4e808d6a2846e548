//! The event log of a TD's boot (CCEL), and replaying it to the measurement registers RTMR0 to RTMR3.
//!
//! The form is that of [`crate::event_log`], with measurement register indices in place of PCR numbers: 0 is MRTD, 1 to 4
//! are RTMR0 to RTMR3 (UEFI specification §38.4.1). See [`EventLog::check_against`].

use ring::digest;

use super::Quote;
use crate::event_log::{self, Bank, EV_NO_ACTION};
pub use crate::event_log::{EventLogError, MAX_EVENTS, MAX_LOG};

const SHA384_LEN: usize = 48;
const RTMRS: Bank = Bank {
    algorithm: 0x000c,
    length: SHA384_LEN,
    missing: "without SHA-384 of 48 bytes",
    registers: 1..=4,
    names: "1 to 4 for RTMR0 to RTMR3",
};

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

impl<'a> EventLog<'a> {
    /// Parses a log. What is left of the ACPI table after the last event must be all ones or all zeros.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        let extending =
            event_log::parse(bytes, &RTMRS)?.into_iter().filter(|raw| raw.event_type != EV_NO_ACTION);
        let events = extending
            .map(|raw| Event {
                offset: raw.offset,
                rtmr: raw.register as usize - 1,
                event_type: raw.event_type,
                digest: raw.digest.try_into().expect("digests have the length of the bank"),
                data: raw.data,
            })
            .collect();
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
