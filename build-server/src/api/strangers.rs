//! Connections on which no member of an admitted project has called yet. When every place is taken, the one that has been
//! there longest gives way to a new connection: strangers cannot keep members out by holding connections open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Waiting {
    /// By order of arrival.
    ends: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// The strangers of one server.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<Waiting>>);

impl Strangers {
    /// Takes note of a new connection.
    pub(super) fn add(&self) -> Stranger {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        let end = CancellationToken::new();
        waiting.ends.insert(number, end.clone());
        Stranger { strangers: self.clone(), number, end }
    }

    /// Ends the connection of the stranger that has been there longest, if there is one.
    pub(super) fn end_oldest(&self) {
        let oldest = self.0.lock().unwrap_or_else(PoisonError::into_inner).ends.pop_first();
        if let Some((_, end)) = oldest {
            end.cancel();
        }
    }
}

/// One connection among the strangers, until it is dropped or a member has called on it.
pub(super) struct Stranger {
    strangers: Strangers,
    number: u64,
    end: CancellationToken,
}

impl Stranger {
    /// Cancelled when the connection has to give way; never after [`Self::leave`].
    pub(super) fn end(&self) -> &CancellationToken {
        &self.end
    }

    /// Counts it among the strangers no more: a member of an admitted project has called, or it has ended.
    pub(super) fn leave(&self) {
        self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner).ends.remove(&self.number);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_those_that_are_known_never_do() {
        let strangers = Strangers::default();
        let [known, gone, first, second] = [(); 4].map(|()| strangers.add());
        known.leave();
        drop(gone);
        strangers.end_oldest();
        assert!(first.end().is_cancelled() && !second.end().is_cancelled());
        strangers.end_oldest();
        strangers.end_oldest();
        assert!(second.end().is_cancelled() && !known.end().is_cancelled());
    }
}
