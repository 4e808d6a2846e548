//! Freed memory goes back to the operating system: the C library keeps what a large build has used for the next one,
//! and a guest's memory is pinned and paid for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::Queue;

/// Has the C library keep little. Call it before there are threads.
pub(crate) fn keep_little() {
    allocator::set_up();
}

/// How often it looks whether builds have ended. Their results are mostly downloaded by then.
const INTERVAL: Duration = Duration::from_secs(10);

/// Gives freed memory back whenever builds have ended and none is left.
pub(crate) async fn give_back(queue: Queue, stop: CancellationToken) {
    let mut given_back_after = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Some(ended) = queue.ended_when_idle()
            && ended != given_back_after
        {
            given_back_after = ended;
            // It walks the allocator's lists.
            let _ = tokio::task::spawn_blocking(allocator::trim).await;
        }
    }
}

#[cfg(target_env = "gnu")]
mod allocator {
    #![expect(unsafe_code, reason = "no safe function sets up the allocator or gives memory back")]

    /// Areas that threads share: each keeps freed memory of its own.
    const AREAS: i32 = 4;
    /// Free bytes at the end of an area above which they are given back at once. Setting it also keeps the C library
    /// from raising it to twice the largest block it has seen.
    const TRIM_ABOVE: i32 = 8 << 20;
    /// Blocks of at least this many bytes come from the system and go back to it one by one.
    const MAP_FROM: i32 = 32 << 20;

    pub(super) fn set_up() {
        for (parameter, value) in [
            (libc::M_ARENA_MAX, AREAS),
            (libc::M_TRIM_THRESHOLD, TRIM_ABOVE),
            (libc::M_MMAP_THRESHOLD, MAP_FROM),
        ] {
            // SAFETY: mallopt(3) takes two numbers; no other thread runs yet, and each value is in its range.
            unsafe { libc::mallopt(parameter, value) };
        }
    }

    pub(super) fn trim() {
        // SAFETY: malloc_trim(3) takes no pointer, frees only what nobody holds and may be called on any thread.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn set_up() {}
    pub(super) fn trim() {}
}
