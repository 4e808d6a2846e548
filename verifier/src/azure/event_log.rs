//! The event log of a guest's boot, as the firmware writes it for the virtual TPM, and replaying it to PCRs.

use ring::digest;

use crate::event_log::{self, Bank, EV_NO_ACTION, EventLogError};

const SHA256_LEN: usize = 32;
const SHA256_BANK: Bank = Bank {
    algorithm: super::ALG_SHA256,
    length: SHA256_LEN,
    missing: "without SHA-256 of 32 bytes",
    registers: 0..=23,
    names: "0 to 23",
};
/// Signature of the event that says which locality started the TPM (TCG profile §10.4.5.3); a byte follows.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// A parsed log: form checked, nothing believed but by [`PcrLog::replay`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrLog {
    events: Vec<(usize, [u8; SHA256_LEN])>,
    locality: u8,
}

impl PcrLog {
    /// Parses a log; no bytes at all are none.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, EventLogError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut log = Self { events: Vec::new(), locality: 0 };
        for event in event_log::parse(bytes, &SHA256_BANK)? {
            if event.event_type == EV_NO_ACTION {
                if let Some([locality]) = event.data.strip_prefix(STARTUP_LOCALITY) {
                    log.locality = *locality;
                }
                continue;
            }
            let digest = event.digest.try_into().expect("digests have the length of the bank");
            log.events.push((event.register as usize, digest));
        }
        Ok(Some(log))
    }

    /// Digests that a PCR was extended with, in order.
    pub fn digests(&self, index: usize) -> impl Iterator<Item = &[u8; SHA256_LEN]> {
        self.events.iter().filter(move |(pcr, _)| *pcr == index).map(|(_, digest)| digest)
    }

    /// A PCR after all events: it starts as zeros (PCR 0 with the locality as last byte), from PCR 17 to 22 as ones, and
    /// becomes SHA-256 of itself and each digest.
    #[must_use]
    pub fn replay(&self, index: usize) -> [u8; SHA256_LEN] {
        let start = if (17..=22).contains(&index) { 0xff } else { 0 };
        let mut value = [start; SHA256_LEN];
        if index == 0 {
            value[SHA256_LEN - 1] = self.locality;
        }
        for extended in self.digests(index) {
            let mut hash = digest::Context::new(&digest::SHA256);
            hash.update(&value);
            hash.update(extended);
            value.copy_from_slice(hash.finish().as_ref());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::ALG_SHA256;
    use crate::event_log::tests::{event, head};

    fn sha256(parts: [[u8; SHA256_LEN]; 2]) -> [u8; SHA256_LEN] {
        *provenance::digest::Sha256Digest::of(&parts.concat()).as_bytes()
    }

    #[test]
    fn a_pcr_has_the_digests_of_its_own_events_in_their_order() {
        let extend = |pcr, byte| event(pcr, 13, &[(ALG_SHA256, &[byte; SHA256_LEN])], b"");
        let locality = [STARTUP_LOCALITY.as_slice(), &[3]].concat();
        let log = [
            head(&[(ALG_SHA256, 32)]),
            event(0, EV_NO_ACTION, &[(ALG_SHA256, &[9; SHA256_LEN])], &locality),
            extend(4, 1),
            extend(5, 2),
            extend(4, 3),
        ];
        let log = PcrLog::parse(&log.concat()).expect("well formed").expect("a log");
        let digests = |pcr| log.digests(pcr).copied().collect::<Vec<_>>();
        assert_eq!(digests(4), [[1; SHA256_LEN], [3; SHA256_LEN]]);
        assert_eq!(digests(5), [[2; SHA256_LEN]]);
        assert_eq!(digests(0), [[0; SHA256_LEN]; 0], "what extends nothing");

        let once = sha256([[0; SHA256_LEN], [1; SHA256_LEN]]);
        assert_eq!(log.replay(4), sha256([once, [3; SHA256_LEN]]));
        assert_eq!(log.replay(5), sha256([[0; SHA256_LEN], [2; SHA256_LEN]]));
        let mut started = [0; SHA256_LEN];
        started[SHA256_LEN - 1] = 3;
        assert_eq!(log.replay(0), started);
        for (pcr, byte) in [(1, 0), (16, 0), (17, 0xff), (22, 0xff), (23, 0)] {
            assert_eq!(log.replay(pcr), [byte; SHA256_LEN], "PCR {pcr}");
        }
    }
}
