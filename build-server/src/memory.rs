//! Freed memory goes back to the operating system: the C library keeps what a large build has used for the next one,
//! and a guest's memory is pinned and paid for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::Queue;

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
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe function gives memory back")]
fn trim() {
    // SAFETY: malloc_trim(3) takes no pointer, frees only what nobody holds and may be called on any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give it back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
