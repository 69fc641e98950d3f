//! Our own API among the components: its socket, and who may come to it.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    authorizer::Authorizer,
    config::{self, Config, Sink},
    control::{self, Parts},
    listener::{self, Callers, Listener, Occupied, Stranger},
    policy::PolicyStore,
    record::{Recorder, recent::Recent},
    telemetry::metrics::Metrics,
};

/// Strangers that somebody has still to be told of.
const STRANGERS: usize = 16;

/// Bound, not yet serving.
pub(super) struct Control {
    listener: Listener,
    callers: Callers,
    strangers: mpsc::Receiver<Stranger>,
    parts: Parts,
}

/// The store of policies, and the memory of decisions: where our own API can ask for old ones, they are kept.
pub(super) fn memory(part: Option<&config::Control>) -> (PolicyStore, Option<Arc<Recent>>) {
    match part {
        Some(_) => (PolicyStore::remembering(), Some(Arc::default())),
        None => (PolicyStore::default(), None),
    }
}

/// Where the configuration says that our own API listens. `recent` is what it tells of decisions.
pub(super) fn bind(
    config: &Config,
    occupied: Occupied,
    recent: Option<Arc<Recent>>,
    policies: &Arc<PolicyStore>,
    recorder: &Recorder,
    authorizer: &Arc<Authorizer>,
    instance: &str,
) -> anyhow::Result<Option<Control>> {
    let (Some(part), Some(recent)) = (&config.control, recent) else { return Ok(None) };
    let own = listener::own_uid().context("finding our own user id")?;
    let (told, strangers) = mpsc::channel(STRANGERS);
    let callers = Callers::Operators(part.uids.iter().copied().chain([own]).collect(), told);
    let listener = Listener::bind(&part.address, part.socket_mode, occupied).context("binding `control`")?;
    tracing::info!(address = %listener.address, "listening for operators");
    let file = match &config.records.sink {
        Sink::File(file) => Some(file.clone()),
        Sink::Stdout | Sink::Off => None,
    };
    let (policies, recorder) = (Arc::clone(policies), recorder.clone());
    let (sessions, revocations) = (Arc::clone(authorizer.sessions()), Arc::clone(authorizer.revocations()));
    let streams = Arc::clone(authorizer.streams());
    let cut = {
        let authorizer = Arc::clone(authorizer);
        Box::new(move |now| authorizer.cut_revoked(now))
    };
    let instance = instance.to_owned();
    let parts = Parts { policies, recorder, recent, file, sessions, revocations, streams, cut, instance };
    Ok(Some(Control { listener, callers, strangers, parts }))
}

impl Control {
    /// Serves until `stop`.
    pub(super) async fn serve(self, metrics: Arc<Metrics>, stop: CancellationToken) -> anyhow::Result<()> {
        let connections = self.listener.accept(self.callers, Arc::clone(&metrics), stop.clone());
        control::serve(self.parts, metrics, connections, self.strangers, stop).await.context("our own API failed")
    }
}
