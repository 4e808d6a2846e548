//! What an upload has just received, for readers that keep up with it: they take the bytes that were hashed on
//! their way in, and neither read nor hash them once more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use provenance::digest::{Sha256Digest, Sha256Hasher};

/// Chunks kept for each blob that somebody reads: what a reader may lag behind without going to the disk.
const CHUNKS: usize = 4;
/// How long an upload waits for a reader to take a chunk. Both are parts of one build, which ends with the slower of
/// them; but a reader that does not come must not hold up what other builds may want too.
const PATIENCE: Duration = Duration::from_millis(200);

/// One chunk of an upload, with the hasher as it stood on both sides of it.
#[derive(Clone)]
pub(super) struct LiveChunk {
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) before: Sha256Hasher,
    pub(super) after: Sha256Hasher,
}

/// The last chunks of one blob.
#[derive(Default)]
pub(super) struct Live {
    window: Mutex<Window>,
    taken: Condvar,
}

#[derive(Default)]
struct Window {
    chunks: VecDeque<LiveChunk>,
    /// Offset of the last chunk that a reader took.
    taken: Option<u64>,
    /// A reader did not come in time: nobody waits for it before it has caught up.
    behind: bool,
}

impl Live {
    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk; when there are too many, waits a little for a reader to take the oldest.
    fn push(&self, chunk: LiveChunk) {
        let mut window = self.window();
        if window.chunks.len() == CHUNKS {
            let full = |window: &mut Window| {
                !window.behind
                    && window.chunks.front().is_some_and(|oldest| window.taken < Some(oldest.offset))
            };
            let (waited, timeout) =
                self.taken.wait_timeout_while(window, PATIENCE, full).unwrap_or_else(PoisonError::into_inner);
            window = waited;
            window.behind |= timeout.timed_out();
            window.chunks.pop_front();
        }
        window.chunks.push_back(chunk);
    }

    /// The chunk that follows the bytes that `hasher` has seen, which must be `position` bytes. Of an upload that
    /// began anew with other bytes it gives none.
    pub(super) fn following(&self, position: u64, hasher: &Sha256Hasher) -> Option<LiveChunk> {
        let mut window = self.window();
        let found = window.chunks.iter().rev().find(|chunk| chunk.offset == position)?.clone();
        if found.before.clone().finish() != hasher.clone().finish() {
            return None;
        }
        window.taken = Some(position);
        window.behind = false;
        self.taken.notify_all();
        Some(found)
    }

    /// Where the first chunk beyond `position` begins: a reader of the disk stops there to go on from here.
    pub(super) fn next_offset(&self, position: u64) -> Option<u64> {
        self.window().chunks.iter().map(|chunk| chunk.offset).filter(|offset| *offset > position).min()
    }
}

/// The blobs of a project that somebody reads while they arrive.
#[derive(Default)]
pub(super) struct LiveBlobs(Mutex<HashMap<Sha256Digest, Weak<Live>>>);

impl LiveBlobs {
    /// Has chunks of a blob kept for as long as the result lives.
    pub(super) fn listen(&self, digest: &Sha256Digest) -> Arc<Live> {
        let mut blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.retain(|_, live| live.strong_count() > 0);
        let live = blobs.get(digest).and_then(Weak::upgrade).unwrap_or_default();
        blobs.insert(*digest, Arc::downgrade(&live));
        live
    }

    /// Passes a chunk on to those who listen; `chunk` is not made for nobody.
    pub(super) fn offer(&self, digest: &Sha256Digest, chunk: impl FnOnce() -> LiveChunk) {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).and_then(Weak::upgrade);
        if let Some(live) = live {
            live.push(chunk());
        }
    }
}
