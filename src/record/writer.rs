//! The queue that a request hands its record to, and the thread that masks, encodes and writes. A request never waits
//! for the sink, except in `commit`; all that waits together is written and synced together.
//!
//! While the sink fails, offered records stay where they are and the queue fills; commits fail at once. Nothing is
//! lost silently: what was dropped or failed is counted, and told in a `gap` record when the sink works again.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Body, Copies, Gap, Mask, Outbox, Record, RecordError, Sink, encode::Encoder, event, upload::Draft};
use crate::{
    clock::{self, Now},
    telemetry::metrics::{Metrics, RecordResult},
};

/// How long offered records gather before they are written, so that a busy request path never has to wake the writer.
const GATHER: Duration = Duration::from_millis(5);

/// Time between two attempts to write to a sink that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes that may wait, as [`Record::weight`] counts them. A number of records alone is no limit: a client chooses how
/// large its requests are, and a sink that fails keeps them waiting.
pub(super) const MAX_WAITING: usize = 64 * 1024 * 1024;

/// Bytes that are encoded before they are written.
const CHUNK: usize = 256 * 1024;

type Reply = oneshot::Sender<Result<(), RecordError>>;

/// What waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    offers: Vec<Record>,
    commits: Vec<(Record, Reply)>,
    /// Weight of both.
    weight: usize,
    gap: Gap,
    /// The writer sleeps until somebody wakes it.
    asleep: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, waiting: Mutex::default(), wake: Condvar::new() }
    }

    pub(super) fn offer(&self, record: Record, metrics: &Metrics) {
        let mut waiting = self.lock();
        if waiting.closed || !waiting.has_room(self.capacity, &record) {
            waiting.gap.begin(record.at);
            waiting.gap.dropped += 1;
            drop(waiting);
            metrics.recorded(record.body.kind(), RecordResult::Dropped, 1);
            return;
        }
        waiting.weight += record.weight();
        waiting.offers.push(record);
        let wake = std::mem::take(&mut waiting.asleep) || waiting.offers.len() == self.capacity / 2;
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
    }

    pub(super) fn commit(&self, record: Record, reply: Reply, metrics: &Metrics) -> Result<(), RecordError> {
        let mut waiting = self.lock();
        let refused = match (waiting.closed, waiting.has_room(self.capacity, &record)) {
            (true, _) => RecordError::Stopped,
            (false, false) => RecordError::Full,
            (false, true) => {
                waiting.asleep = false;
                waiting.weight += record.weight();
                waiting.commits.push((record, reply));
                drop(waiting);
                self.wake.notify_one();
                return Ok(());
            }
        };
        waiting.gap.begin(record.at);
        waiting.gap.dropped += 1;
        drop(waiting);
        metrics.recorded(record.body.kind(), RecordResult::Dropped, 1);
        Err(refused)
    }

    /// Decisions that were recorded did not reach the log service.
    pub(super) fn not_uploaded(&self, count: u64, since: Now) {
        let mut waiting = self.lock();
        waiting.gap.begin(since);
        waiting.gap.not_uploaded += count;
        waiting.asleep = false;
        drop(waiting);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits until there is something to do. While `paused` (the sink failed) only commits, the end, or the time given
    /// are something to do, and offers stay in the queue.
    fn take(&self, paused: Option<Duration>) -> Waiting {
        let mut waiting = self.lock();
        if let Some(pause) = paused {
            waiting = self.sleep(waiting, pause, |waiting| waiting.commits.is_empty());
            let (commits, gap) = (std::mem::take(&mut waiting.commits), std::mem::take(&mut waiting.gap));
            waiting.weight -= commits.iter().map(|(record, _)| record.weight()).sum::<usize>();
            return Waiting { commits, gap, closed: waiting.closed, ..Waiting::default() };
        }
        while waiting.count() == 0 && waiting.gap.is_empty() && !waiting.closed {
            waiting.asleep = true;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.asleep = false;
        let half = self.capacity / 2;
        waiting = self.sleep(waiting, GATHER, |waiting| waiting.commits.is_empty() && waiting.offers.len() < half);
        waiting.take()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().count()
    }

    /// All that waits, at once.
    fn drain(&self) -> Waiting {
        self.lock().take()
    }

    /// Sleeps for a while, as long as `more` holds and the queue is open.
    fn sleep<'a>(
        &self,
        waiting: MutexGuard<'a, Waiting>,
        time: Duration,
        more: impl Fn(&Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        let slept = self.wake.wait_timeout_while(waiting, time, |waiting| !waiting.closed && more(waiting));
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    const fn count(&self) -> usize {
        self.offers.len() + self.commits.len()
    }

    fn has_room(&self, capacity: usize, record: &Record) -> bool {
        self.count() < capacity && self.weight.saturating_add(record.weight()) <= MAX_WAITING
    }

    /// Leaves room for as many offers as there were, and stays closed.
    fn take(&mut self) -> Self {
        let next = Self { offers: Vec::with_capacity(self.offers.len()), closed: self.closed, ..Self::default() };
        std::mem::replace(self, next)
    }
}

/// The thread's own state.
pub(super) struct Writer {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    sink: Sink,
    encoder: Encoder,
    outbox: Option<Arc<Outbox>>,
    copies: Copies,
    /// Taken from the queue and not written yet, oldest first.
    backlog: VecDeque<Record>,
    gap: Gap,
    /// Number of the next record that is written: no number is left out.
    seq: u64,
    /// The sink failed; when to try again.
    retry: Option<Instant>,
    buffer: Vec<u8>,
}

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sink: Sink,
    pub(super) mask: Arc<Mask>,
    pub(super) instance: String,
    pub(super) outbox: Option<Arc<Outbox>>,
    pub(super) copies: Copies,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { queue, metrics, sink, mask, instance, outbox, copies } = parts;
        Self {
            queue,
            metrics,
            sink,
            encoder: Encoder { instance, mask },
            outbox,
            copies,
            backlog: VecDeque::new(),
            gap: Gap::default(),
            seq: 0,
            retry: None,
            buffer: Vec::with_capacity(CHUNK),
        }
    }

    /// Writes until the queue is closed; returns how many records were left unwritten.
    pub(super) fn run(mut self) -> u64 {
        loop {
            let pause = self.retry.map(|at| at.saturating_duration_since(Instant::now()));
            let mut taken = self.queue.take(pause);
            let closed = taken.closed;
            if closed {
                // What came while the sink was failing has one last try.
                let rest = self.queue.drain();
                taken.offers.extend(rest.offers);
                taken.commits.extend(rest.commits);
            }
            self.metrics.records_queued(taken.count() + self.backlog.len());
            self.round(taken);
            if closed {
                self.upload_the_rest();
                return self.end();
            }
        }
    }

    fn round(&mut self, taken: Waiting) {
        let Waiting { offers, mut commits, gap, closed, .. } = taken;
        if let Some(since) = gap.since {
            self.gap.begin(since);
        }
        self.gap.dropped += gap.dropped;
        self.gap.not_uploaded += gap.not_uploaded;
        // Telemetry and the log service have their copies even while the sink fails.
        offers.iter().for_each(|record| self.copy(record));
        self.backlog.extend(offers);
        // Who stopped waiting has answered otherwise: its record would tell of an answer that was never given, and there
        // is none of the answer that was.
        for (record, _) in commits.extract_if(.., |(_, reply)| reply.is_closed()) {
            self.lost(&record);
        }
        let (mut records, replies): (VecDeque<Record>, Vec<Reply>) = commits.into_iter().unzip();
        let due = closed || self.retry.is_none_or(|at| at <= Instant::now());
        let kept = due
            && match self.attempt(&mut records, closed || !replies.is_empty()) {
                Ok(()) => {
                    self.recovered();
                    true
                }
                Err(error) => {
                    self.outage(&error);
                    false
                }
            };
        records.iter().for_each(|record| self.lost(record));
        for reply in replies {
            // The caller may have stopped waiting, which is its own affair.
            let _ = reply.send(if kept { Ok(()) } else { Err(RecordError::Write) });
        }
    }

    /// Writes the backlog, then `commits`, then what is missing; leaves in both what could not be written.
    fn attempt(&mut self, commits: &mut VecDeque<Record>, sync: bool) -> io::Result<()> {
        if self.retry.is_some() {
            self.sink.reopen()?;
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        let (written, result) = self.write(&backlog);
        backlog.drain(..written);
        self.backlog = backlog;
        result?;
        let (written, result) = self.write(commits);
        for record in commits.drain(..written) {
            self.copy(&record);
        }
        result?;
        if !self.gap.is_empty() {
            let record = Record { id: Uuid::now_v7(), at: clock::now(), body: Body::Gap(self.gap) };
            let (_, result) = self.write(&VecDeque::from([record]));
            result?;
            self.gap = Gap::default();
        }
        if sync { self.sink.sync() } else { Ok(()) }
    }

    /// Writes records in order; says how many it is done with.
    fn write(&mut self, records: &VecDeque<Record>) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < records.len() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let ends = self.encode(records.iter().skip(done), &mut buffer);
            let result = self.sink.write(&buffer);
            self.buffer = buffer;
            let reached = result.as_ref().map_or_else(|failure| failure.written, |()| usize::MAX);
            let count = ends.partition_point(|(end, _)| *end <= reached);
            let mut start = 0;
            for (record, (end, encoded)) in records.iter().skip(done).zip(ends.into_iter().take(count)) {
                if encoded {
                    self.remember(record, start..end);
                    self.seq += 1;
                    self.metrics.recorded(record.body.kind(), RecordResult::Written, 1);
                } else {
                    self.lost(record);
                }
                start = end;
            }
            done += count;
            if let Err(failure) = result {
                return (done, Err(failure.error));
            }
        }
        (done, Ok(()))
    }

    /// The lines of as many records as make a chunk: where each ends, and whether there is one.
    fn encode<'a>(&self, records: impl Iterator<Item = &'a Record>, buffer: &mut Vec<u8>) -> Vec<(usize, bool)> {
        let mut seq = self.seq;
        let mut ends = Vec::new();
        for record in records {
            let unread = matches!(self.sink, Sink::Off) && self.copies.recent.is_none();
            let encoded = unread || self.encoder.line(record, seq, buffer);
            seq += u64::from(encoded);
            ends.push((buffer.len(), encoded));
            if buffer.len() >= CHUNK {
                break;
            }
        }
        ends
    }

    /// Keeps the line of a decision, which stands in this part of the buffer.
    fn remember(&self, record: &Record, line: Range<usize>) {
        if let (Some(recent), Body::Decision(_), Some(line)) = (&self.copies.recent, &record.body, self.buffer.get(line)) {
            recent.push(record.id, line);
        }
    }

    fn lost(&mut self, record: &Record) {
        self.gap.begin(record.at);
        self.gap.failed += 1;
        self.metrics.recorded(record.body.kind(), RecordResult::Failed, 1);
    }

    fn copy(&self, record: &Record) {
        self.copies.observers.iter().for_each(|see| see(record));
        let Body::Decision(decision) = &record.body else { return };
        if let Some(logger) = &self.copies.logs {
            event::emit(logger, record, decision);
        }
        if let Some(outbox) = &self.outbox {
            outbox.push(Draft { id: record.id, at: record.at, decision: Arc::clone(decision) });
        }
    }

    fn outage(&mut self, error: &io::Error) {
        if self.retry.is_none() {
            warn!(%error, "records cannot be written");
        }
        self.retry = Some(Instant::now() + RETRY);
    }

    fn recovered(&mut self) {
        if self.retry.take().is_some() {
            info!("records are written again");
        }
    }

    /// Everything is written; what of it cannot be uploaded any more is told in one more `gap` record.
    fn upload_the_rest(&mut self) {
        let Some(outbox) = self.outbox.take() else { return };
        let (lost, since) = outbox.finish();
        if let Some(since) = since {
            let gap = Gap { not_uploaded: lost, since: Some(since), ..Gap::default() };
            self.round(Waiting { gap, closed: true, ..Waiting::default() });
        }
    }

    fn end(mut self) -> u64 {
        let backlog = std::mem::take(&mut self.backlog);
        backlog.iter().for_each(|record| self.lost(record));
        let lost = self.gap.count();
        if lost > 0 {
            error!(lost, "records were not written");
        }
        lost
    }
}
