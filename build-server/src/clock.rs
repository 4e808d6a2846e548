//! The guest's clock. It is the host's clock: every time taken here is a claim, never a proof.

use std::time::{SystemTime, UNIX_EPOCH};

use provenance::timestamp::Timestamp;

/// The current time in whole seconds.
#[must_use]
pub fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let bounded = i64::try_from(seconds).unwrap_or(0);
    Timestamp::from_unix(bounded).unwrap_or_else(|_| Timestamp::from_unix(0).expect("1970 is in range"))
}
