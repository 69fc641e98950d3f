//! The control state among the components: opened before anybody may ask, and looked after while we run.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    authorizer::{Authorizer, ControlState},
    clock,
    config::Config,
    state::StateError,
    telemetry::metrics::Metrics,
};

/// How often what has ended is forgotten, and what another process has written is taken in.
const LOOK: Duration = Duration::from_secs(1);

/// Reads all that was granted and revoked: without it nothing may be decided.
pub(super) fn open(config: &Config) -> anyhow::Result<ControlState> {
    let signing_key = config.control.as_ref().and_then(|control| control.signing_key.as_ref());
    let control = ControlState::open(&config.state, signing_key, clock::now()).context("opening the control log")?;
    let ControlState { journal, grants, revocations, .. } = &control;
    if let Some(epoch) = journal.epoch() {
        let (granted, revoked, durable) = (grants.current().len(), revocations.current().len(), journal.is_durable());
        tracing::info!(log = %epoch.log, rev = epoch.rev, granted, revoked, durable, "read the control log");
    }
    Ok(control)
}

/// Looks after them until `stop`, and after: calls in flight are still decided then.
pub(super) async fn keep(authorizer: Arc<Authorizer>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut failed = false;
    let control = authorizer.control();
    loop {
        metrics.control_state(control.revocations.current().len(), control.grants.current().len());
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stop.cancelled(), if control.journal.epoch().is_none() => return,
        }
        let shared = Arc::clone(&authorizer);
        let follow = move || {
            let now = clock::now();
            if shared.control().journal.follow(now)? {
                // Another process has revoked or ended something.
                shared.cut(now);
            }
            Ok::<_, StateError>(())
        };
        match spawn_blocking(follow).await {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) if !failed => {
                tracing::error!(%error, "the control log cannot be read any more; what was read stays in force");
                failed = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// For `/readyz`.
pub(super) fn status(control: &ControlState) -> Value {
    let ControlState { journal, grants, revocations, .. } = control;
    let epoch = journal.epoch().map(|epoch| json!({"log": epoch.log.to_string(), "rev": epoch.rev}));
    json!({
        "epoch": epoch,
        "durable": journal.is_durable(),
        "grants": grants.current().len(),
        "revocations": revocations.current().len(),
    })
}
