//! The decisions of late, as the lines that were written: kept in memory for whoever asks about one, and handed to
//! whoever follows them. Filled by the writer, so that it costs the request path nothing.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::broadcast;
use uuid::Uuid;

/// Decisions that are kept, and the bytes of their lines.
pub const MAX_LINES: usize = 10_000;
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Lines that wait for a follower. A slower one misses the oldest, and is told how many.
const FEED: usize = 512;

#[derive(Debug)]
pub struct Recent {
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first.
    lines: VecDeque<(Uuid, Bytes)>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { kept: Mutex::default(), feed: broadcast::Sender::new(FEED) }
    }
}

impl Recent {
    /// The line of a decision was written.
    pub(super) fn push(&self, id: Uuid, line: &[u8]) {
        let line = Bytes::copy_from_slice(line.trim_ascii_end());
        let mut kept = self.lock();
        kept.bytes += line.len();
        kept.lines.push_back((id, line.clone()));
        while kept.lines.len() > MAX_LINES || kept.bytes > MAX_BYTES {
            let Some((_, oldest)) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
        drop(kept);
        // Nobody may be following, and then nothing is kept for anybody.
        let _ = self.feed.send(line);
    }

    /// The line of a decision that is still kept.
    pub fn find(&self, id: Uuid) -> Option<Bytes> {
        self.lock().lines.iter().rev().find(|(kept, _)| *kept == id).map(|(_, line)| line.clone())
    }

    /// Lines from now on.
    pub fn follow(&self) -> broadcast::Receiver<Bytes> {
        self.feed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_by_number_and_by_size() {
        let recent = Recent::default();
        let id = |number: usize| Uuid::from_u128(number as u128);
        (0..MAX_LINES + 3).for_each(|number| recent.push(id(number), b"{}\n"));
        assert_eq!((recent.find(id(2)), recent.find(id(3))), (None, Some(Bytes::from_static(b"{}"))));
        let large = vec![b'x'; MAX_BYTES / 4];
        (0..5).for_each(|number| recent.push(id(MAX_LINES + 3 + number), &large));
        assert_eq!(recent.lock().lines.len(), 4);
        assert!(recent.lock().bytes <= MAX_BYTES);
    }

    #[test]
    fn a_follower_sees_what_comes_and_learns_what_it_missed() {
        let recent = Recent::default();
        recent.push(Uuid::nil(), b"before\n");
        let mut lines = recent.follow();
        recent.push(Uuid::nil(), b"after\n");
        assert_eq!(lines.try_recv().unwrap(), "after");
        (0..FEED + 7).for_each(|_| recent.push(Uuid::nil(), b"more\n"));
        assert_eq!(lines.try_recv(), Err(broadcast::error::TryRecvError::Lagged(7)));
        assert_eq!(lines.try_recv().unwrap(), "more");
    }
}
