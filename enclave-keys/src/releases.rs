//! What this boot has released: signed requests are public, so none may be released without end, nor one of long ago.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use provenance::digest::Sha256Digest;
use provenance::request::SignedRequest;
use provenance::timestamp::Timestamp;

use crate::error::KeyError;

/// Most releases of one signed request in one boot. A build that is taken up again is released again, and that happens
/// three times at most.
pub const MAX_RELEASES: u8 = 16;
/// How long before the start of the instance a request may have been issued, in seconds: 30 days. Builds wait in the
/// queue while the guest is down, so this must be longer than a guest that has builds to do stays down; it is long
/// beside any difference of clocks.
pub const MAX_AGE_AT_START: i64 = 30 * 86_400;
/// Most requests that are remembered, about 8 MiB.
const MAX_REMEMBERED: usize = 1 << 17;

/// A request as it is remembered: the one issued first is the first.
type Remembered = (Timestamp, Sha256Digest);

#[derive(Default)]
struct State {
    counts: BTreeMap<Remembered, u8>,
    /// The last request that was forgotten to make room. Whatever was issued before it, or with it, may have been
    /// released as often as allowed.
    forgotten: Option<Remembered>,
}

/// Counts releases.
pub(crate) struct Releases {
    state: Mutex<State>,
    /// No request may have been issued before.
    oldest: Timestamp,
    limit: usize,
}

/// One release, counted. Dropped before it was [`Counted::done`] it was none: nothing has been signed.
pub(crate) struct Counted<'a> {
    releases: &'a Releases,
    request: Option<Remembered>,
}

impl Releases {
    /// Of an instance that has started then.
    pub(crate) fn since(started_at: Timestamp) -> Self {
        Self::with_limit(started_at, MAX_REMEMBERED)
    }

    fn with_limit(started_at: Timestamp, limit: usize) -> Self {
        let epoch = Timestamp::from_unix(0).expect("1970 can be written");
        let oldest = Timestamp::from_unix(started_at.unix() - MAX_AGE_AT_START).unwrap_or(epoch);
        Self { state: Mutex::default(), oldest, limit }
    }

    /// Counts one more release of this request.
    pub(crate) fn count(&self, signed: &SignedRequest) -> Result<Counted<'_>, KeyError> {
        self.count_issued((signed.request().issued_at, signed.request_sha256()))
    }

    fn count_issued(&self, request: Remembered) -> Result<Counted<'_>, KeyError> {
        let mut state = self.state();
        if request.0 < self.oldest {
            return Err(KeyError::IssuedBefore { oldest: self.oldest, got: request.0 });
        }
        if let Some((at, _)) = state.forgotten.filter(|forgotten| request <= *forgotten) {
            return Err(KeyError::Forgotten { limit: self.limit, at, got: request.0 });
        }
        let count = state.counts.entry(request).or_default();
        if *count >= MAX_RELEASES {
            return Err(KeyError::ReleasedTooOften { request: request.1 });
        }
        *count += 1;
        if state.counts.len() > self.limit {
            // When that is the new one, it was issued before all others and is refused from now on, not this time.
            state.forgotten = state.counts.pop_first().map(|(request, _)| request);
        }
        Ok(Counted { releases: self, request: Some(request) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; should that change, a count is at most one too high.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted<'_> {
    /// Something is signed.
    pub(crate) fn done(mut self) {
        self.request = None;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request else { return };
        let counts = &mut self.releases.state().counts;
        match counts.get_mut(&request) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds).unwrap()
    }

    fn request(issued: i64, name: &str) -> Remembered {
        (at(issued), Sha256Digest::of(name.as_bytes()))
    }

    fn released(releases: &Releases, request: Remembered) -> Result<(), KeyError> {
        releases.count_issued(request).map(Counted::done)
    }

    #[test]
    fn a_request_is_released_sixteen_times_and_what_was_not_signed_does_not_count() {
        let releases = Releases::since(at(0));
        let (one, other) = (request(5, "one"), request(5, "other"));
        for _ in 0..100 {
            drop(releases.count_issued(one).unwrap());
        }
        for _ in 0..16 {
            released(&releases, one).unwrap();
        }
        assert_eq!(released(&releases, one), Err(KeyError::ReleasedTooOften { request: one.1 }));
        released(&releases, other).unwrap();
    }

    #[test]
    fn what_was_not_signed_takes_back_its_own_count_alone() {
        let releases = Releases::since(at(0));
        let one = request(5, "one");
        drop(releases.count_issued(one).unwrap());
        assert!(releases.state().counts.is_empty(), "nothing to remember");
        for _ in 0..15 {
            released(&releases, one).unwrap();
        }
        drop(releases.count_issued(one).unwrap());
        released(&releases, one).unwrap();
        assert_eq!(released(&releases, one), Err(KeyError::ReleasedTooOften { request: one.1 }));
    }

    #[test]
    fn releases_under_way_count() {
        let releases = Releases::since(at(0));
        let one = request(5, "one");
        let under_way: Vec<_> = (0..16).map(|_| releases.count_issued(one).unwrap()).collect();
        assert_eq!(released(&releases, one), Err(KeyError::ReleasedTooOften { request: one.1 }));
        drop(under_way);
        released(&releases, one).unwrap();
    }

    #[test]
    fn a_request_of_long_before_the_start_is_refused() {
        let start = 100 * 86_400;
        let (releases, oldest) = (Releases::since(at(start)), start - MAX_AGE_AT_START);
        released(&releases, request(oldest, "one")).unwrap();
        let refused = released(&releases, request(oldest - 1, "one"));
        assert_eq!(refused, Err(KeyError::IssuedBefore { oldest: at(oldest), got: at(oldest - 1) }));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_was_forgotten_is_not_released_again() {
        let releases = Releases::with_limit(at(0), 2);
        let [first, second, third] = [1, 2, 3].map(|issued| request(issued, "a request"));
        for request in [first, second, third] {
            released(&releases, request).unwrap();
        }
        assert_eq!(releases.state().counts.len(), 2);
        let forgotten = KeyError::Forgotten { limit: 2, at: at(1), got: at(1) };
        assert_eq!(released(&releases, first), Err(forgotten));
        released(&releases, second).unwrap();
        released(&releases, third).unwrap();
    }
}
