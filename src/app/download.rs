//! Fetching bundles over the network: one task for each, which asks, waits and asks again, and hands what comes to
//! `policy`, which decides what becomes of it. How one request is made is `request`'s.

mod request;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::request::Answer;
use super::reload::{Reloader, Told};
use crate::{
    clock,
    config::{Download, Poll},
    policy::downloads::Delivery,
    telemetry::metrics::Fetch,
};

/// First wait after a failure, if `poll.min` is not shorter.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The tasks, as the configuration in force wants them.
pub(super) struct Downloads {
    reloader: Arc<Reloader>,
    /// Says that there is something new to reload.
    fetched: mpsc::Sender<()>,
    /// Ends the wait of every task.
    now: Arc<Notify>,
    tasks: BTreeMap<String, (Download, CancellationToken)>,
    stop: CancellationToken,
}

impl Downloads {
    pub(super) fn new(reloader: Arc<Reloader>, fetched: mpsc::Sender<()>, stop: CancellationToken) -> Self {
        Self { reloader, fetched, now: Arc::default(), tasks: BTreeMap::new(), stop }
    }

    /// Starts and stops tasks until there is one for each bundle to fetch.
    pub(super) fn adjust(&mut self) {
        let config = self.reloader.config.load();
        self.tasks.retain(|_, (download, stop)| {
            let wanted = config.policy.downloads().any(|wanted| wanted == download);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for download in config.policy.downloads() {
            self.tasks.entry(download.name.clone()).or_insert_with(|| {
                let stop = self.stop.child_token();
                let (reloader, fetched, now) = (Arc::clone(&self.reloader), self.fetched.clone(), Arc::clone(&self.now));
                tokio::spawn(stop.clone().run_until_cancelled_owned(follow(download.clone(), reloader, fetched, now)));
                (download.clone(), stop)
            });
        }
    }

    /// Asks for everything now.
    pub(super) fn hurry(&self) {
        self.now.notify_waiters();
    }
}

/// Asks for one bundle for ever.
async fn follow(download: Download, reloader: Arc<Reloader>, fetched: mpsc::Sender<()>, now: Arc<Notify>) {
    let mut failures = 0;
    let told = Told::default();
    loop {
        let (result, error) = ask(&download, &reloader, &fetched).await;
        reloader.metrics.bundle_fetched(result);
        failures = if error.is_some() { failures + 1 } else { 0 };
        if told.is_news(error.as_deref()) {
            tracing::warn!(bundle = download.name, error, "a bundle could not be fetched; the one that is here stays");
        }
        tokio::select! {
            () = sleep(wait(&download.poll, failures, chance())) => {}
            () = now.notified() => {}
        }
    }
}

/// One request, and what to say of it.
async fn ask(download: &Download, reloader: &Arc<Reloader>, fetched: &mpsc::Sender<()>) -> (Fetch, Option<String>) {
    let policy = reloader.config.load().policy.clone();
    let etag = reloader.policies.etag(download);
    let (bytes, etag) = match request::send(download, etag.as_deref(), policy.limits.total.bytes()).await {
        Ok(Answer::Unchanged) => {
            reloader.policies.asked(&download.name, None);
            return (Fetch::Unchanged, None);
        }
        Ok(Answer::Bundle { bytes, etag }) => (bytes, etag),
        Err(error) => {
            let text = error.to_string();
            reloader.policies.asked(&download.name, Some(text.clone()));
            return (Fetch::Failed, Some(text));
        }
    };
    let at = clock::now();
    let (policies, name) = (Arc::clone(&reloader.policies), download.name.clone());
    let offered = tokio::task::spawn_blocking(move || policies.offer(&policy, &name, Delivery { bytes, etag, at }, at)).await;
    match offered {
        Ok(Ok(true)) => {
            // A full channel already says what there is to say.
            let _ = fetched.try_send(());
            (Fetch::Fetched, None)
        }
        Ok(Ok(false)) => (Fetch::Unchanged, None),
        Ok(Err(error)) => {
            reloader.refuse_bundle(&error.to_string(), at);
            (Fetch::Refused, Some(error.to_string()))
        }
        Err(_) => (Fetch::Refused, Some("reading it panicked".to_owned())),
    }
}

/// How long to wait after so many failures in a row; `chance` lies between 0 and 1. Processes that start together, or
/// that lose one server together, do not come back together.
fn wait(poll: &Poll, failures: u32, chance: f64) -> Duration {
    let (min, max) = (poll.min.duration(), poll.max.duration());
    if failures == 0 {
        return min + max.saturating_sub(min).mul_f64(chance);
    }
    let first = FIRST_RETRY.min(min);
    let doubled = first.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(max);
    doubled.mul_f64(0.5 + chance / 2.0)
}

fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody waits as long as everybody else, which is no reason not to wait.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let poll = Poll { min: Span::millis(60_000), max: Span::millis(120_000), ..Poll::default() };
        for (failures, chance, expected) in [
            (0, 0.0, 60_000),
            (0, 1.0, 120_000),
            (1, 1.0, 500),
            (1, 0.0, 250),
            (2, 1.0, 1_000),
            (8, 1.0, 64_000),
            (9, 1.0, 120_000),
            (40, 1.0, 120_000),
            (u32::MAX, 0.0, 60_000),
        ] {
            assert_eq!(wait(&poll, failures, chance), Duration::from_millis(expected), "{failures} {chance}");
        }
        assert!((0.0..=1.0).contains(&chance()));
    }
}
