//! Load and its measurement: so many in flight for a while, or so many a second.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{client::Client, traffic::Call};

/// At most one call in so many may be refused wrongly.
const REFUSED_EACH: u64 = 100;

/// Who answers, and so which answers are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Everything is let through.
    AllowAll,
    /// As the policy says.
    Policy,
}

/// What one round saw.
pub(crate) struct Sample {
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    /// Of single calls, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Keeps `in_flight` calls under way for `span`.
pub(crate) async fn full(
    client: &Client,
    calls: &'static [Call],
    answers: Answers,
    in_flight: usize,
    span: Duration,
) -> anyhow::Result<Sample> {
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..in_flight {
        let mut client = client.clone();
        workers.spawn(async move {
            let mut tally = Tally::new()?;
            for call in calls.iter().cycle().skip(worker) {
                let sent = Instant::now();
                let verdict = ask(&mut client, call, answers).await?;
                tally.add(verdict, sent.elapsed());
                if start.elapsed() >= span {
                    break;
                }
            }
            anyhow::Ok(tally)
        });
    }
    let mut tally = Tally::new()?;
    while let Some(worker) = workers.join_next().await {
        let worker = worker.context("a worker ended early")??;
        tally.latency.add(worker.latency).context("add up latencies")?;
        tally.refused += worker.refused;
    }
    tally.sample(start)
}

/// Starts `rate` calls a second for `span`, whether or not earlier ones have ended. Latency counts from the moment a
/// call was due, so that a server which stalls is charged for all who waited.
pub(crate) async fn paced(
    client: &Client,
    calls: &'static [Call],
    answers: Answers,
    rate: f64,
    span: Duration,
) -> anyhow::Result<Sample> {
    let start = Instant::now();
    let (sender, mut due) = mpsc::unbounded_channel();
    // The runtime's timers tick in milliseconds, which would make bursts; a thread that sleeps does not.
    let pacer = thread::spawn(move || {
        let mut at = start;
        while at < start + span && sender.send(at).is_ok() {
            at += Duration::from_secs_f64(1.0 / rate);
            thread::sleep(at.saturating_duration_since(Instant::now()));
        }
    });
    let mut tally = Tally::new()?;
    let mut under_way = JoinSet::new();
    let mut next = calls.iter().cycle();
    loop {
        tokio::select! {
            at = due.recv() => {
                let (Some(at), Some(call)) = (at, next.next()) else { break };
                let mut client = client.clone();
                under_way.spawn(async move { ask(&mut client, call, answers).await.map(|verdict| (verdict, at.elapsed())) });
            }
            Some(done) = under_way.join_next() => {
                let (verdict, elapsed) = done.context("a call ended early")??;
                tally.add(verdict, elapsed);
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        let (verdict, elapsed) = done.context("a call ended early")??;
        tally.add(verdict, elapsed);
    }
    if pacer.join().is_err() {
        bail!("the pacing thread panicked");
    }
    tally.sample(start)
}

/// How an answer compares with what it must be. A call that is allowed and must not be is an error instead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Right,
    Refused,
}

async fn ask(client: &mut Client, call: &Call, answers: Answers) -> anyhow::Result<Verdict> {
    let allowed = client.ask(call).await?;
    match (allowed, call.allowed || answers == Answers::AllowAll) {
        (true, false) => bail!("`{} {}` was allowed, and must be denied", call.method, call.path),
        (false, true) => Ok(Verdict::Refused),
        _ => Ok(Verdict::Right),
    }
}

struct Tally {
    refused: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_max(60_000_000_000, 3).context("make a histogram")?;
        Ok(Self { refused: 0, latency })
    }

    fn add(&mut self, verdict: Verdict, elapsed: Duration) {
        self.refused += u64::from(verdict == Verdict::Refused);
        self.latency.saturating_record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A server that is out of time or room fails closed, which is right. An error when so many were refused that the figures would be those of refusing.
    fn sample(self, start: Instant) -> anyhow::Result<Sample> {
        let Self { refused, latency } = self;
        let count = latency.len();
        if refused * REFUSED_EACH > count {
            bail!("{refused} of {count} calls were denied, and must be allowed");
        }
        Ok(Sample { count, elapsed: start.elapsed(), latency })
    }
}
