//! Live streams: allows that go on for as long as a stream does, and the handles that cut them. An allow on a route of
//! streams is remembered for a moment, claimed once by who holds the stream (`envoy/ext_proc`), and ends by itself with the
//! credential or lease it rests on, or when [`Streams::cut`] says so.
//!
//! No cut misses a stream that is being opened. A cut first moves the generation, then goes through the tables; an opening
//! notes the generation before anything is looked at for its decision, and looks again if it has moved by the time that
//! the stream is registered. So a cut finds the stream in the tables, or the stream finds the cut.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, Hash},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::{self, Now},
    config,
    identity::{Peer, tokens::Presented},
    verdict::Reason,
};

/// How long an allow waits to be claimed: Envoy does so at once.
const CLAIM: Duration = Duration::from_secs(10);
/// Longest sleep until the end of a credential, so that a wall clock that was set is noticed.
const LOOK: Duration = Duration::from_secs(30);
const SHARDS: usize = 64;

/// What a stream rests on: what a cut is about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    pub principal: Option<Arc<str>>,
    /// The proved peer: its SPIFFE ID, and of its certificate SHA-256, issuer, serial number and validity.
    pub peer: Option<Arc<Peer>>,
    /// Every verified credential of the request besides the certificate.
    pub presented: Presented,
    /// Of the peer, by the registry.
    pub owner: Option<Arc<str>>,
    /// Name of the session, where the call has one.
    pub session: Option<u64>,
    /// The task that it belongs to.
    pub task: Option<Arc<str>>,
    /// The grant that it relies on.
    pub grant: Option<Uuid>,
    /// When the first of credentials and leases ends.
    pub ends: Option<Now>,
}

/// Why a stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One of its two sides ended it.
    Finished,
    /// A credential or lease that it rests on has ended.
    Expired,
    /// Doorward stops: the stream goes on, bounded by its lease alone.
    Drained,
    /// Somebody said so.
    Cut(Reason),
}

impl End {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Expired => "expired",
            Self::Drained => "drained",
            Self::Cut(reason) => reason.as_str(),
        }
    }
}

/// Why there is no stream to be had for a decision id.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    /// No such allow is remembered, or not any more.
    Unknown,
    /// Somebody has claimed it already.
    Claimed,
    /// What it rests on has ended, or was ended, since it was allowed.
    Over(End, Arc<Facts>),
}

/// There is no room for one more stream, of the principal or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// All streams of this process, live and about to be.
#[derive(Debug)]
pub struct Streams {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    generation: AtomicU64,
    counts: Arc<Counts>,
    /// Doorward is about to stop: streams go on without it.
    released: CancellationToken,
}

#[derive(Debug, Default)]
struct Shard {
    pending: HashMap<Uuid, Pending, RandomState>,
    /// In the order they came; some are claimed by now.
    order: VecDeque<(Instant, Uuid)>,
    live: HashMap<Uuid, Live, RandomState>,
}

/// Allowed, and not claimed yet.
#[derive(Debug)]
struct Pending {
    facts: Arc<Facts>,
    generation: u64,
    since: Instant,
    cut: Option<Reason>,
    slot: Slot,
}

#[derive(Debug)]
struct Live {
    facts: Arc<Facts>,
    cut: oneshot::Sender<Reason>,
}

impl Streams {
    pub fn new(limits: &config::Limits) -> Self {
        let counts = Counts {
            all: AtomicUsize::new(0),
            max: limits.streams,
            by_principal: (0..SHARDS).map(|_| Mutex::default()).collect(),
            max_of_principal: limits.streams_per_principal,
            hasher: RandomState::default(),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            generation: AtomicU64::new(0),
            counts: Arc::new(counts),
            released: CancellationToken::new(),
        }
    }

    /// How many there are, live and about to be.
    pub fn count(&self) -> usize {
        self.counts.all.load(Ordering::Relaxed)
    }

    /// Lets go of all streams and cuts none; whether there were any.
    pub fn release(&self) -> bool {
        self.released.cancel();
        self.counts.all.load(Ordering::SeqCst) > 0
    }

    /// Waits until [`Streams::release`].
    pub async fn released(&self) {
        self.released.cancelled().await;
    }

    /// How many cuts there have been. Taken before anything is looked at that a cut may be about.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Remembers an allow until it is claimed, for ten seconds. `generation` is what it was before the call was looked at.
    ///
    /// # Errors
    /// `Full` where the principal has as many streams as one may have, or all have.
    pub fn remember(&self, id: Uuid, facts: Facts, generation: u64, now: Instant) -> Result<(), Full> {
        let principal = facts.principal.clone().unwrap_or_default();
        let slot = self.counts.take(&principal).or_else(|| {
            // Those that nobody came for give their room back.
            self.shards.iter().for_each(|shard| lock(shard).forget_old(now));
            self.counts.take(&principal)
        });
        let slot = slot.ok_or(Full)?;
        let mut shard = self.shard(id);
        shard.forget_old(now);
        shard.order.push_back((now, id));
        shard.pending.insert(id, Pending { facts: Arc::new(facts), generation, since: now, cut: None, slot });
        Ok(())
    }

    /// Forgets an allow that came to nothing.
    pub fn forget(&self, id: Uuid) {
        self.shard(id).pending.remove(&id);
    }

    /// Takes the stream of an allow; it is registered for as long as it is held. `again` is asked, where there was a cut
    /// since the allow, whether what the stream rests on still holds: the reason why not.
    ///
    /// # Errors
    /// Why there is none.
    pub fn claim(
        self: &Arc<Self>,
        id: Uuid,
        now: Instant,
        again: impl FnOnce(&Facts) -> Option<Reason>,
    ) -> Result<Stream, Refused> {
        let (sender, cut) = oneshot::channel();
        let (stream, generation) = {
            let mut shard = self.shard(id);
            let Some(Pending { facts, generation, since, cut: already, slot }) = shard.pending.remove(&id) else {
                return Err(if shard.live.contains_key(&id) { Refused::Claimed } else { Refused::Unknown });
            };
            if now.duration_since(since) > CLAIM {
                return Err(Refused::Unknown);
            }
            if let Some(reason) = already {
                return Err(Refused::Over(End::Cut(reason), facts));
            }
            shard.live.insert(id, Live { facts: Arc::clone(&facts), cut: sender });
            (Stream { streams: Arc::clone(self), id, facts, cut, _slot: slot }, generation)
        };
        // INVARIANT: registered first, then looked at, so that what is cut from now on is found in the table.
        if self.generation() != generation
            && let Some(reason) = again(&stream.facts)
        {
            return Err(Refused::Over(End::Cut(reason), Arc::clone(&stream.facts)));
        }
        if stream.facts.ends.is_some_and(|ends| ends <= clock::now()) {
            return Err(Refused::Over(End::Expired, Arc::clone(&stream.facts)));
        }
        Ok(stream)
    }

    /// Ends the streams for which `matches` gives a reason, and says how many live ones there were. What `matches` goes by
    /// must be in force before, so that no stream is opened on what is no good any more. It is asked under a lock.
    pub fn cut(&self, matches: impl Fn(&Facts) -> Option<Reason>) -> usize {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // One that takes its room after this finds the generation moved.
        if self.counts.all.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let mut count = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            for pending in shard.pending.values_mut().filter(|pending| pending.cut.is_none()) {
                pending.cut = matches(&pending.facts);
            }
            let found: Vec<_> = shard.live.iter().filter_map(|(id, live)| Some((*id, matches(&live.facts)?))).collect();
            for (id, reason) in found {
                if let Some(live) = shard.live.remove(&id) {
                    // One that is just ending needs no word.
                    count += usize::from(live.cut.send(reason).is_ok());
                }
            }
        }
        count
    }

    /// Ends the streams of a session that was ended.
    pub fn end_session(&self, session: u64) -> usize {
        self.cut(|facts| (facts.session == Some(session)).then_some(Reason::SessionEnded))
    }

    fn shard(&self, id: Uuid) -> MutexGuard<'_, Shard> {
        // There are always as many shards as that.
        #[expect(clippy::indexing_slicing, reason = "the remainder of the number of shards")]
        lock(&self.shards[place(&self.hasher, &id)])
    }
}

impl Shard {
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, id)) = self.order.front() {
            if self.pending.contains_key(id) && now.duration_since(*since) <= CLAIM {
                return;
            }
            self.pending.remove(id);
            self.order.pop_front();
        }
    }
}

/// A live stream, for who holds it. It is registered until this is dropped.
#[derive(Debug)]
pub struct Stream {
    streams: Arc<Streams>,
    id: Uuid,
    facts: Arc<Facts>,
    cut: oneshot::Receiver<Reason>,
    _slot: Slot,
}

impl Stream {
    /// The id of the decision that it rests on.
    pub const fn id(&self) -> Uuid {
        self.id
    }

    pub const fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Waits until it is cut, or what it rests on ends. Once it has said so, not to be asked again.
    pub async fn over(&mut self) -> End {
        tokio::select! {
            // Nobody but a cut takes the sender away while we are here; should it be gone, nothing could cut us any more.
            reason = &mut self.cut => End::Cut(reason.unwrap_or(Reason::InternalError)),
            () = until(self.facts.ends) => End::Expired,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.shard(self.id).live.remove(&self.id);
    }
}

async fn until(ends: Option<Now>) {
    let Some(ends) = ends else { return std::future::pending().await };
    loop {
        let left = ends.since_epoch().saturating_sub(clock::now().since_epoch());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK)).await;
    }
}

/// How many streams there are, pending and live, of each principal and in all.
#[derive(Debug)]
struct Counts {
    all: AtomicUsize,
    max: usize,
    by_principal: Vec<Mutex<HashMap<Arc<str>, usize, RandomState>>>,
    max_of_principal: usize,
    hasher: RandomState,
}

impl Counts {
    fn take(self: &Arc<Self>, principal: &Arc<str>) -> Option<Slot> {
        if self.all.fetch_add(1, Ordering::SeqCst) >= self.max {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut counts = self.of(principal);
        let count = counts.get(principal).copied().unwrap_or_default();
        if count >= self.max_of_principal {
            drop(counts);
            self.all.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        counts.insert(Arc::clone(principal), count + 1);
        Some(Slot { counts: Arc::clone(self), principal: Arc::clone(principal) })
    }

    fn of(&self, principal: &Arc<str>) -> MutexGuard<'_, HashMap<Arc<str>, usize, RandomState>> {
        // There are always as many as that.
        #[expect(clippy::indexing_slicing, reason = "the remainder of the number of tables")]
        lock(&self.by_principal[place(&self.hasher, principal)])
    }
}

/// The room of one stream; given back on drop.
#[derive(Debug)]
struct Slot {
    counts: Arc<Counts>,
    principal: Arc<str>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.of(&self.principal);
        match counts.get_mut(&self.principal) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.principal)),
        }
        drop(counts);
        self.counts.all.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(hasher: &RandomState, key: &impl Hash) -> usize {
    usize::try_from(hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests;
