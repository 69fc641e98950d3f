//! The control state among the components: opened before anybody may ask, and looked after while we run.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    authorizer::Authorizer, clock, config::Config, revocation::Revocations, state::StateError, telemetry::metrics::Metrics,
};

/// How often what has ended is forgotten, and what another process has written is taken in.
const LOOK: Duration = Duration::from_secs(1);

/// Reads all that was revoked: without it nothing may be decided.
pub(super) fn open(config: &Config) -> anyhow::Result<Arc<Revocations>> {
    let signing_key = config.control.as_ref().and_then(|control| control.signing_key.as_ref());
    let revocations = Revocations::open(&config.state, signing_key, clock::now()).context("opening the control log")?;
    if let Some(epoch) = revocations.current().epoch {
        let count = revocations.current().len();
        tracing::info!(log = %epoch.log, rev = epoch.rev, count, durable = revocations.is_durable(), "read the revocations");
    }
    Ok(Arc::new(revocations))
}

/// Looks after them until `stop`, and after: calls in flight are still decided then.
pub(super) async fn keep(authorizer: Arc<Authorizer>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut failed = false;
    let revocations = authorizer.revocations();
    loop {
        metrics.revocations(revocations.current().len());
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stop.cancelled(), if revocations.current().epoch.is_none() => return,
        }
        let shared = Arc::clone(&authorizer);
        let follow = move || {
            let before = shared.revocations().current().epoch;
            shared.revocations().follow(clock::now())?;
            if shared.revocations().current().epoch != before {
                // Another process has revoked something.
                shared.cut_revoked(clock::now());
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
pub(super) fn status(revocations: &Revocations) -> Value {
    let current = revocations.current();
    let epoch = current.epoch.map(|epoch| json!({"log": epoch.log.to_string(), "rev": epoch.rev}));
    json!({"epoch": epoch, "durable": revocations.is_durable(), "revocations": current.len()})
}
