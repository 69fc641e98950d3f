//! Fetching bundles over the network: one task for each, which asks, waits and asks again, and hands what comes to
//! `policy`, which decides what becomes of it. How one request is made is `request`'s.

pub(super) mod request;

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::request::Answer;
use super::{
    client::{chance, wait},
    reload::{Reloader, Told},
};
use crate::{clock, config::Download, policy::downloads::Delivery, telemetry::metrics::Fetch};

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
    let (bytes, etag) = match request::send(download, &reloader.own, etag.as_deref(), policy.limits.total.bytes()).await {
        Ok(Answer::Unchanged) => {
            reloader.policies.asked(&download.name, None);
            return (Fetch::Unchanged, None);
        }
        Ok(Answer::Bundle { bytes, etag, .. }) => (bytes, etag),
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
