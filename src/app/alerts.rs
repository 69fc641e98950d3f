//! Alerts on their way to the Alertmanagers: what records bring is gathered into a table, and each Alertmanager is told by a
//! task of its own, so that one that is down or frozen holds up neither a decision nor the others. What is told is
//! `alert`'s.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Client, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use url::Url;

use super::{
    client::{Access, ClientError, chance, failed, wait},
    reload::Told,
};
use crate::{
    alert::{Limits, Occurrence, QUEUE, Receipt, Rules, Table, Taken, Wording},
    clock,
    config::{self, Config, Environment, Poll, Span},
    policy::PolicyStore,
    record::Observer,
    telemetry::metrics::{Alert, Metrics},
    trust::own::OwnSvid,
};

/// How often what is over is forgotten.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two requests to one Alertmanager, in which what happens gathers.
const GATHER: Duration = Duration::from_millis(100);
/// Alerts of one request.
const AT_A_TIME: usize = 100;

/// Why alerts were not accepted.
#[derive(Debug, thiserror::Error)]
enum AlertError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("Alertmanager answered {0}; check `alerts.alertmanager`")]
    Status(StatusCode),
}

/// Made, not yet running.
pub(super) struct Alerts {
    config: config::Alerts,
    queue: mpsc::Receiver<Occurrence>,
    shared: Arc<Shared>,
}

/// The tasks that tell of alerts.
pub(super) struct Telling(JoinSet<()>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the configuration wants alerts: what tells of them, and what sees the records.
pub(super) fn prepare(
    config: &Config,
    environment: &Environment,
    policies: &Arc<PolicyStore>,
    metrics: &Arc<Metrics>,
) -> Option<(Alerts, Observer)> {
    let part = config.alerts.clone()?;
    let (sender, queue) = mpsc::channel(QUEUE);
    let wording = Wording::new(&part, &config.place, environment.pod.as_deref());
    let table = Mutex::new(Table::new(Limits::new(&part), wording, part.alertmanager.urls.len()));
    let observer = Rules::new(&part).observer(Arc::clone(policies), sender, Arc::clone(metrics));
    let shared = Arc::new(Shared { table, metrics: Arc::clone(metrics) });
    Some((Alerts { config: part, queue, shared }, observer))
}

impl Alerts {
    /// Runs until the records have ended, and what is new is told.
    pub(super) fn start(self, own: &Arc<OwnSvid>) -> Telling {
        let Self { config, queue, shared } = self;
        let (changed, changes) = watch::channel(());
        let mut tasks = JoinSet::new();
        for (to, address) in config.alertmanager.addresses().enumerate() {
            let (shared, config, own) = (Arc::clone(&shared), config.alertmanager.clone(), Arc::clone(own));
            tasks.spawn(Destination { to, address, config, own, shared }.tell(changes.clone()));
        }
        tasks.spawn(gather(queue, shared, changed));
        Telling(tasks)
    }
}

impl Telling {
    /// Waits until all is told, or `longest`.
    pub(super) async fn finish(mut self, longest: Duration) {
        if timeout(longest, async { while self.0.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("alerts were still on their way when the time to tell of them was over");
        }
    }
}

/// Enters what happens into the table, until the records have ended.
async fn gather(mut queue: mpsc::Receiver<Occurrence>, shared: Arc<Shared>, changed: watch::Sender<()>) {
    let mut happened = Vec::new();
    loop {
        let ended = match timeout(LOOK, queue.recv_many(&mut happened, QUEUE)).await {
            Ok(count) => count == 0,
            Err(_) => false,
        };
        let now = clock::now();
        let (mut is_news, mut dropped) = (false, 0);
        let active = {
            let mut table = shared.table();
            for occurrence in happened.drain(..) {
                match table.take_in(occurrence, now) {
                    Taken::New => is_news = true,
                    Taken::Repeated => {}
                    Taken::Folded(new) => (is_news, dropped) = (is_news || new, dropped + 1),
                }
            }
            dropped += table.sweep(now);
            table.active(now)
        };
        shared.metrics.alerted(Alert::Dropped, dropped);
        shared.metrics.alerts_active(active);
        if is_news {
            changed.send_modify(|()| {});
        }
        if ended {
            return;
        }
    }
}

/// One Alertmanager.
struct Destination {
    /// Its number in the table.
    to: usize,
    address: Url,
    config: config::Alertmanager,
    own: Arc<OwnSvid>,
    shared: Arc<Shared>,
}

impl Destination {
    /// Tells it what it has to hear, until nothing happens any more and it has heard the last.
    async fn tell(self, mut changes: watch::Receiver<()>) {
        // After failures only: otherwise the table says when.
        let poll = Poll { min: Span::millis(1_000).min(self.config.interval), max: self.config.interval, ..Poll::default() };
        let (mut failures, told) = (0, Told::default());
        loop {
            let ended = match failures {
                0 => self.is_due(&mut changes).await,
                failures => tokio::select! {
                    () = sleep(wait(&poll, failures, chance())) => false,
                    () = async { while changes.changed().await.is_ok() {} } => true,
                },
            };
            let error = self.send_due().await.err().map(|error| error.to_string());
            failures = if error.is_some() { failures + 1 } else { 0 };
            if told.is_news(error.as_deref()) {
                tracing::warn!(alertmanager = self.address.authority(), error, "alerts cannot be sent; they wait");
            }
            if ended {
                return;
            }
            sleep(GATHER).await;
        }
    }

    /// Waits until there is something to tell; true when nothing happens any more.
    async fn is_due(&self, changes: &mut watch::Receiver<()>) -> bool {
        let now = clock::now();
        let next = self.shared.table().next(self.to, now);
        // No longer than that, for a clock that was set.
        let longest = self.config.interval.duration();
        let left = next.map_or(longest, |next| next.since_epoch().saturating_sub(now.since_epoch()).min(longest));
        tokio::select! {
            changed = changes.changed() => changed.is_err(),
            () = sleep(left) => false,
        }
    }

    async fn send_due(&self) -> Result<(), AlertError> {
        let due = self.shared.table().due(self.to, clock::now());
        if due.is_empty() {
            return Ok(());
        }
        let (count, mut sent) = (due.len(), 0);
        let result = self.send_all(due, &mut sent).await;
        self.shared.metrics.alerted(Alert::Sent, sent);
        self.shared.metrics.alerted(Alert::Failed, count - sent);
        result
    }

    async fn send_all(&self, due: Vec<(Receipt, Value)>, sent: &mut usize) -> Result<(), AlertError> {
        let access = Access::from(&self.config);
        let client = access.client(&self.own)?;
        let mut refused = Ok(());
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            let (receipts, messages): (Vec<_>, Vec<_>) = due.by_ref().take(AT_A_TIME).unzip();
            let status = self.send(&client, access, &Value::Array(messages)).await?;
            let count = receipts.len();
            match status {
                status if status.is_success() => *sent += count,
                // It has taken those of them that it likes. The others come again, but not at once.
                StatusCode::BAD_REQUEST => refused = Err(AlertError::Status(status)),
                status => return Err(AlertError::Status(status)),
            }
            self.shared.table().told(self.to, receipts);
        }
        refused
    }

    async fn send(&self, client: &Client, access: Access<'_>, messages: &Value) -> Result<StatusCode, ClientError> {
        let request = client.post(self.address.clone()).header(CONTENT_TYPE, "application/json").body(messages.to_string());
        Ok(access.authorised(request)?.send().await.map_err(failed)?.status())
    }
}
