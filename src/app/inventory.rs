//! The inventory among the components: what it is told of finished decisions, and when it is written.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config},
    inventory::{
        Inventory,
        seen::{Overdue, Rank, Sight},
    },
    record::{self, Body, DecisionRecord, Observer, Record},
    verdict::Decision,
    workload::Standing,
};

/// What is kept of finished decisions.
pub(super) struct Kept {
    pub(super) records: record::Handle,
    pub(super) inventory: Arc<Inventory>,
}

/// What was seen, and how it hears of records: where somebody may ask it.
pub(super) fn open(config: &Config) -> anyhow::Result<(Arc<Inventory>, Option<Observer>)> {
    let part = config.control.as_ref().map_or_else(config::Inventory::default, |_| config.inventory.clone());
    let inventory = Arc::new(Inventory::open(&part).context("opening the inventory")?);
    let told = Arc::clone(&inventory);
    let observer: Observer = Box::new(move |record| tell(&told, record));
    Ok((inventory, config.control.is_some().then_some(observer)))
}

/// Writes it once more.
pub(super) async fn save_last(inventory: Arc<Inventory>) {
    if let Err(error) = save(inventory).await {
        tracing::error!(error = format!("{error:#}"), "the inventory was not written");
    }
}

/// Writes it now and then until `stop`, where that is asked for.
pub(super) async fn keep(inventory: Arc<Inventory>, every: config::Span, stop: CancellationToken) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = sleep(every.duration()) => {}
            () = stop.cancelled() => return,
        }
        failed = match save(Arc::clone(&inventory)).await {
            Ok(()) => false,
            Err(error) if !failed => {
                tracing::error!(error = format!("{error:#}"), "the inventory was not written");
                true
            }
            Err(_) => true,
        };
    }
}

async fn save(inventory: Arc<Inventory>) -> anyhow::Result<()> {
    Ok(spawn_blocking(move || inventory.save()).await??)
}

fn tell(inventory: &Inventory, record: &Record) {
    let Body::Decision(decision) = &record.body else { return };
    let DecisionRecord { decision: verdict, enforced, principal: Some(principal), action, lifetimes, .. } = &**decision else {
        return;
    };
    let workload = action.as_ref().and_then(|action| action.workload.as_ref());
    let standing = workload.map(|workload| workload.standing(record.at));
    let went_through = *verdict == Decision::Allow || !enforced;
    inventory.seen.see(&Sight {
        principal,
        rank: Rank::of(principal, standing.is_some()),
        at: record.at,
        id: record.id,
        decision: *verdict,
        action: action.as_ref().and_then(|action| action.name.as_ref()).filter(|_| went_through),
        lifetimes: *lifetimes,
    });
    let past_task = action.as_ref().is_some_and(|action| action.task_ended).then_some(Overdue::TaskEnded);
    let registration = standing.and_then(|standing| match standing {
        Standing::Expired => Some(Overdue::Expired),
        Standing::Disabled => Some(Overdue::Disabled),
        Standing::Active => None,
    });
    for overdue in registration.into_iter().chain(past_task) {
        inventory.seen.overdue(principal, overdue, record.at);
    }
}
