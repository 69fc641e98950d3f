//! The Workload API beside the request path: which of its streams are wanted, and how they stand, told to readiness and
//! metrics. What they bring is `trust`'s.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::{
    config::{self, Environment, Own, WorkloadEndpoint},
    trust::workload::{Material, Workload},
};

/// How often ages are told and looked at.
const TICK: Duration = Duration::from_secs(1);

/// The streams, as the configuration in force wants them.
pub(super) struct Streams {
    workload: Arc<Workload>,
    endpoint: Option<WorkloadEndpoint>,
    running: Vec<(Material, CancellationToken)>,
    stop: CancellationToken,
}

impl Streams {
    pub(super) fn new(workload: Arc<Workload>, endpoint: Option<WorkloadEndpoint>, stop: CancellationToken) -> Self {
        Self { workload, endpoint, running: Vec::new(), stop }
    }

    /// Starts and stops streams until the wanted ones run.
    pub(super) fn adjust(&mut self, trust: &config::Trust) {
        self.running.retain(|(material, stop)| {
            let keep = is_wanted(*material, trust);
            if !keep {
                stop.cancel();
            }
            keep
        });
        let Some(endpoint) = &self.endpoint else { return };
        for material in Material::ALL {
            if !is_wanted(material, trust) || self.running.iter().any(|(running, _)| *running == material) {
                continue;
            }
            let (workload, endpoint, all, stop) =
                (Arc::clone(&self.workload), endpoint.clone(), self.stop.clone(), self.stop.child_token());
            self.running.push((material, stop.clone()));
            tokio::spawn(async move {
                let _ = stop.run_until_cancelled(workload.follow(material, endpoint)).await;
                // At the end of the process the calls in flight are still decided by what there is.
                if !all.is_cancelled() {
                    workload.forget(material);
                }
            });
        }
    }
}

fn is_wanted(material: Material, trust: &config::Trust) -> bool {
    match material {
        Material::X509Bundles | Material::JwtBundles => trust.has_workload_bundles(),
        Material::OwnSvid => trust.own == Some(Own::WorkloadApi),
    }
}

/// Where the Workload API is. Wanted and nowhere is an error.
pub(super) fn endpoint(trust: &config::Trust, environment: &Environment) -> anyhow::Result<Option<WorkloadEndpoint>> {
    if let Some(endpoint) = &trust.workload_api {
        return Ok(Some(endpoint.clone()));
    }
    let is_wanted = Material::ALL.iter().any(|material| is_wanted(*material, trust));
    match &environment.workload_api {
        Some(text) if is_wanted => {
            let endpoint = text.parse().map_err(|error: String| anyhow!(error)).context("reading SPIFFE_ENDPOINT_SOCKET")?;
            Ok(Some(endpoint))
        }
        Some(text) => Ok(text.parse().ok()),
        None if is_wanted => Err(anyhow!("the Workload API is wanted; say where it is under `trust.workload_api`")),
        None => Ok(None),
    }
}

/// Whether everything that comes from the Workload API and calls depend on is there. JWT keys are the affair of who
/// wants tokens.
pub(super) fn is_usable(trust: &config::Trust, workload: &Workload) -> bool {
    let states = workload.states();
    let states = states.borrow();
    Material::ALL.iter().zip(states.iter()).all(|(material, state)| {
        *material == Material::JwtBundles || !is_wanted(*material, trust) || state.is_usable(trust.on_stale)
    })
}

/// Tells how the streams stand, and lets go of what is too old, until `stop`.
pub(super) async fn tell(reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut changes = reloader.workload.states();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let config = reloader.config.load_full();
        let now = Instant::now();
        reloader.workload.expire(config.trust.max_stale.duration(), config.trust.on_stale, now);
        let states = changes.borrow_and_update().clone();
        for (material, state) in Material::ALL.iter().zip(&states) {
            if is_wanted(*material, &config.trust) {
                reloader.metrics.trust_state(*material, state.phase, state.age(now));
            }
        }
        reloader.readiness.trust(is_usable(&config.trust, &reloader.workload));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

/// What `/readyz` shows of the streams that are wanted.
pub(super) fn status(trust: &config::Trust, workload: &Workload) -> Value {
    let states = workload.states();
    let states = states.borrow();
    let now = Instant::now();
    let wanted = Material::ALL.iter().zip(states.iter()).filter(|(material, _)| is_wanted(**material, trust));
    wanted
        .map(|(material, state)| {
            let age = state.age(now).map(|age| age.as_secs());
            (material.as_str().to_owned(), json!({"state": state.phase.as_str(), "age_s": age, "error": state.error}))
        })
        .collect()
}
