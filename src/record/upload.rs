//! Decisions on their way to a log service, in the form of OPA's decision log. The writer hands records over; a thread
//! of its own makes events of them (`event`), asks the policy in force what to mask and what to withhold (`rule`), and
//! puts them where `app` takes them from, packed (`chunk`). Who sends, and when, is `app`'s.
//!
//! Nothing here is waited for by a call. What waits is bounded in bytes; beyond it the oldest goes, and is counted.

mod chunk;
mod event;
mod rule;

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::{error, warn};
use uuid::Uuid;

pub use self::chunk::Chunk;
use self::event::{Made, Maker};
use super::{DecisionRecord, Mask, writer::Queue};
use crate::{
    clock::Now,
    config,
    policy::PolicyStore,
    telemetry::metrics::{Metrics, Upload},
};

/// The stack that the deepest policy needs which loads.
const STACK: usize = 16 * 1024 * 1024;

/// What a draft weighs besides its input.
const DRAFT: usize = 512;

/// Time after the deadline for the task that sends to notice it.
const GRACE: Duration = Duration::from_millis(100);

/// A decision of which no event has been made yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) id: Uuid,
    pub(super) at: Now,
    pub(super) decision: Arc<DecisionRecord>,
}

impl Draft {
    fn weight(&self) -> usize {
        self.decision.input.weight() + DRAFT
    }
}

/// A finished event.
#[derive(Debug)]
struct Event {
    at: Now,
    json: Vec<u8>,
}

/// What waits to be sent.
#[derive(Debug)]
pub struct Outbox {
    held: Mutex<Held>,
    budget: usize,
    /// Wakes the thread that makes events, and the writer that waits for the end.
    wake: Condvar,
    /// Wakes the task that sends.
    news: Notify,
    /// Tells of what was lost.
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Held {
    drafts: VecDeque<Draft>,
    events: VecDeque<Event>,
    /// Weight of both, and of what is being sent.
    bytes: usize,
    packing: chunk::Packing,
    /// Events that are on their way, and the time of the first: whether they arrive is not known yet.
    sending: Option<(u64, Now)>,
    lost: u64,
    /// Time of the first that was lost.
    since: Option<Now>,
    /// When the last flush has to be over.
    deadline: Option<Instant>,
    /// No draft will come any more.
    complete: bool,
    /// An event was made of every draft.
    made: bool,
    /// Nothing will be sent any more.
    over: bool,
}

impl Outbox {
    /// Starts the thread that makes events, which ends with the writer.
    pub(super) fn start(
        config: &config::Upload,
        instance: &str,
        mask: Arc<Mask>,
        policies: Arc<PolicyStore>,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let packing = chunk::Packing::new(config.upload_size_limit.bytes());
        let outbox = Arc::new(Self {
            held: Mutex::new(Held { packing, ..Held::default() }),
            budget: config.buffer.bytes(),
            wake: Condvar::new(),
            news: Notify::new(),
            queue,
            metrics,
        });
        let maker = Maker::new(config, instance, mask, policies);
        let here = Arc::clone(&outbox);
        std::thread::Builder::new().name("upload".to_owned()).stack_size(STACK).spawn(move || here.work(maker))?;
        Ok(outbox)
    }

    pub(super) fn push(&self, draft: Draft) {
        let mut held = self.lock();
        let (weight, at) = (draft.weight(), draft.at);
        let dropped = held.make_room(self.budget, weight);
        if held.bytes.saturating_add(weight) > self.budget {
            held.lose(1, at);
            drop(held);
            self.metrics.uploaded(Upload::Dropped, dropped + 1);
            return;
        }
        held.bytes += weight;
        held.drafts.push_back(draft);
        drop(held);
        self.metrics.uploaded(Upload::Dropped, dropped);
        self.wake.notify_all();
    }

    /// The last flush has to be over by then.
    pub(super) fn end_by(&self, deadline: Instant) {
        self.lock().deadline = Some(deadline);
        self.news.notify_one();
    }

    /// No more drafts will come: waits until all is sent, or the deadline has passed, and says what was lost.
    pub(super) fn finish(&self) -> (u64, Option<Now>) {
        let mut held = self.lock();
        held.complete = true;
        self.wake.notify_all();
        let end = held.deadline.map_or_else(Instant::now, |deadline| deadline + GRACE);
        let left = end.saturating_duration_since(Instant::now());
        held = self.wake.wait_timeout_while(held, left, |held| !held.over).unwrap_or_else(PoisonError::into_inner).0;
        let unsent = held.abandon();
        let lost = held.take_lost();
        drop(held);
        self.metrics.uploaded(Upload::Dropped, unsent);
        if unsent > 0 {
            error!(events = unsent, "decisions were not uploaded before the end");
        }
        lost
    }

    /// Waits until it is time to send: `wait` is over, much is waiting (where `eager`), or the end has come.
    pub async fn due(&self, wait: Duration, eager: bool) {
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        loop {
            let news = self.news.notified();
            if self.lock().is_due(self.budget, eager) {
                return;
            }
            tokio::select! {
                () = &mut sleep => return,
                () = news => {}
            }
        }
    }

    /// When the last flush has to be over, once it has begun.
    pub fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Whether all is sent that ever will be, or the last flush has no time left.
    pub fn is_over(&self) -> bool {
        let mut held = self.lock();
        let late = held.deadline.is_some_and(|deadline| deadline <= Instant::now());
        held.over = late || held.made && held.events.is_empty();
        let over = held.over;
        drop(held);
        if over {
            self.wake.notify_all();
        }
        over
    }

    /// As many events as one request may carry, the oldest first.
    pub fn chunk(&self) -> Option<Chunk> {
        loop {
            let mut held = self.lock();
            let packing = held.packing;
            let taken = packing.take(&mut held.events);
            let first = taken.first().map(|event| event.at)?;
            let all = taken.len() as u64;
            held.sending = Some((all, first));
            drop(held);
            let (packed, rest) = packing.pack(taken);
            let mut held = self.lock();
            rest.into_iter().rev().for_each(|event| held.events.push_front(event));
            match packed {
                Ok(chunk) => {
                    held.packing.learn(&chunk);
                    held.bytes = held.bytes.saturating_add_signed(chunk.growth());
                    held.sending = held.sending.map(|(_, first)| (chunk.len(), first));
                    return Some(chunk);
                }
                // It was alone and is too large, even with everything left out that may be.
                Err(bytes) => {
                    held.bytes -= bytes;
                    held.sending = None;
                    held.lose(1, first);
                    drop(held);
                    self.metrics.uploaded(Upload::TooLarge, 1);
                }
            }
        }
    }

    /// The service has taken it.
    pub fn sent(&self, chunk: &Chunk) {
        let mut held = self.lock();
        held.bytes -= chunk.weight();
        held.sending = None;
        drop(held);
        self.metrics.uploaded(Upload::Uploaded, chunk.len());
    }

    /// The service finds it too large: from now on requests are half as large, and what does not fit loses its input.
    pub fn too_large(&self, chunk: Chunk) {
        self.lock().packing.lower(&chunk);
        self.back(chunk);
    }

    /// It could not be sent now.
    pub fn back(&self, chunk: Chunk) {
        let mut held = self.lock();
        // Where they have been given up meanwhile, they were counted as lost.
        if held.sending.take().is_none() {
            return;
        }
        chunk.events().rev().for_each(|event| held.events.push_front(event));
    }

    /// Hands what was lost to the next `gap` record.
    pub fn report(&self) {
        let (lost, since) = self.lock().take_lost();
        if let Some(since) = since {
            self.queue.not_uploaded(lost, since);
        }
    }

    fn work(&self, mut maker: Maker) {
        while let Some(draft) = self.next() {
            let at = draft.at;
            let made = catch_unwind(AssertUnwindSafe(|| maker.make(&draft)));
            let mut held = self.lock();
            let result = match made {
                Ok(Made::Event(json)) if json.len() <= self.budget => {
                    let dropped = held.make_room(self.budget, json.len());
                    held.bytes += json.len();
                    held.events.push_back(Event { at, json });
                    (dropped > 0).then_some((Upload::Dropped, dropped))
                }
                Ok(Made::Withheld) => Some((Upload::Withheld, 1)),
                Ok(Made::Event(_)) => {
                    held.lose(1, at);
                    Some((Upload::TooLarge, 1))
                }
                Err(_) => {
                    held.lose(1, at);
                    warn!("making an event of a decision panicked");
                    Some((Upload::Dropped, 1))
                }
            };
            let much = held.is_much(self.budget);
            drop(held);
            if let Some((result, count)) = result {
                self.metrics.uploaded(result, count);
            }
            if much {
                self.news.notify_one();
            }
        }
        self.lock().made = true;
        self.news.notify_one();
    }

    /// The oldest draft; waits for one, until there will be none.
    fn next(&self) -> Option<Draft> {
        let held = self.lock();
        let waits = |held: &mut Held| held.drafts.is_empty() && !held.complete;
        let mut held = self.wake.wait_while(held, waits).unwrap_or_else(PoisonError::into_inner);
        let draft = held.drafts.pop_front()?;
        held.bytes -= draft.weight();
        Some(draft)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Drops the oldest until `weight` more may wait, or nothing is left to drop; returns how many.
    fn make_room(&mut self, budget: usize, weight: usize) -> u64 {
        let mut dropped = 0;
        while self.bytes.saturating_add(weight) > budget {
            let oldest = match self.events.pop_front() {
                Some(event) => Some((event.json.len(), event.at)),
                None => self.drafts.pop_front().map(|draft| (draft.weight(), draft.at)),
            };
            let Some((bytes, at)) = oldest else { break };
            self.bytes -= bytes;
            self.lose(1, at);
            dropped += 1;
        }
        dropped
    }

    fn lose(&mut self, count: u64, at: Now) {
        self.lost += count;
        self.since.get_or_insert(at);
    }

    fn take_lost(&mut self) -> (u64, Option<Now>) {
        (std::mem::take(&mut self.lost), self.since.take())
    }

    /// Gives up all that waits or is on its way; returns how many.
    fn abandon(&mut self) -> u64 {
        let (sending, sent_first) = self.sending.take().unzip();
        let waiting = || self.events.front().map(|event| event.at).or_else(|| self.drafts.front().map(|draft| draft.at));
        let oldest = sent_first.or_else(waiting);
        let count = sending.unwrap_or(0) + (self.events.len() + self.drafts.len()) as u64;
        self.events.clear();
        self.drafts.clear();
        if let Some(at) = oldest {
            self.lose(count, at);
        }
        count
    }

    const fn is_much(&self, budget: usize) -> bool {
        self.bytes >= budget / 2
    }

    /// At the end as soon as there is an event, or there will be none.
    fn is_due(&self, budget: usize, eager: bool) -> bool {
        let ends = self.deadline.is_some() && (self.made || eager && !self.events.is_empty());
        ends || eager && self.is_much(budget) && !self.events.is_empty()
    }
}

#[cfg(test)]
mod tests;
