//! Our own API among the components: its socket, and who may come to it.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    authorizer::Authorizer,
    clock,
    config::{self, Config, Sink},
    control::{self, Health, Parts},
    identity::{Peer, caller::CallerVerifier, people::People},
    inventory::Inventory,
    listener::{self, Callers, Listener, Occupied, Stranger},
    policy::PolicyStore,
    record::{Recorder, recent::Recent},
    telemetry::metrics::Metrics,
    tls::ServerTls,
    trust::{TrustStore, own::OwnSvid},
};

/// Strangers that somebody has still to be told of.
const STRANGERS: usize = 16;

/// Bound, not yet serving.
pub(super) struct Control {
    /// The Unix socket, and the one over TCP where there is one.
    listeners: Vec<(Listener, Callers)>,
    strangers: mpsc::Receiver<Stranger>,
    parts: Parts,
}

/// The components that it works on, and works with.
pub(super) struct Around<'a> {
    pub(super) policies: &'a Arc<PolicyStore>,
    pub(super) recorder: &'a Recorder,
    pub(super) authorizer: &'a Arc<Authorizer>,
    /// Names this start of this process.
    pub(super) instance: &'a str,
    pub(super) trust: &'a Arc<TrustStore>,
    pub(super) own: &'a Arc<OwnSvid>,
    pub(super) people: Option<Arc<People>>,
    /// What it tells of principals.
    pub(super) inventory: &'a Arc<Inventory>,
    /// Certificates that are reloaded: ours goes here.
    pub(super) certificates: &'a mut Vec<Arc<ServerTls>>,
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
    around: Around<'_>,
) -> anyhow::Result<Option<Control>> {
    let (Some(part), Some(recent)) = (&config.control, recent) else { return Ok(None) };
    let Around { policies, recorder, authorizer, instance, trust, own: own_svid, people, inventory, certificates } = around;
    let own = listener::own_uid().context("finding our own user id")?;
    let (told, strangers) = mpsc::channel(STRANGERS);
    let callers = Callers::Operators(part.uids.iter().copied().chain([own]).collect(), told);
    let listener = Listener::bind(&part.address, part.socket_mode, occupied).context("binding `control`")?;
    tracing::info!(address = %listener.address, "listening for operators");
    let mut listeners = vec![(listener, callers)];
    if let Some(remote) = &part.remote {
        let verifier = Arc::new(CallerVerifier::optional(Arc::clone(trust))) as Arc<dyn ClientCertVerifier>;
        let tls = ServerTls::new(&remote.tls, own_svid, Some(verifier)).context("setting up TLS of `control.remote`")?;
        let tls = Arc::new(tls);
        let listener = Listener::bind(&remote.address, part.socket_mode, occupied).context("binding `control.remote`")?;
        tracing::info!(address = %listener.address, "listening for operators, people and workloads");
        listeners.push((listener, Callers::Remote(tls.config(), Arc::clone(trust))));
        certificates.push(tls);
    }
    let file = match &config.records.sink {
        Sink::File(file) => Some(file.clone()),
        Sink::Stdout | Sink::Off => None,
    };
    let cut = {
        let authorizer = Arc::clone(authorizer);
        Arc::new(move |now| authorizer.cut(now))
    };
    let revoked = {
        let authorizer = Arc::clone(authorizer);
        Box::new(move |peer: &Peer, owner: Option<&str>| authorizer.revoked_peer(peer, owner, clock::now()))
    };
    let parts = Parts {
        policies: Arc::clone(policies),
        recorder: recorder.clone(),
        recent,
        file,
        sessions: Arc::clone(authorizer.sessions()),
        control: authorizer.control().clone(),
        people,
        end_with_task: config.sessions.end_with_task,
        streams: Arc::clone(authorizer.streams()),
        inventory: Arc::clone(inventory),
        revoked,
        cut,
        instance: instance.to_owned(),
    };
    Ok(Some(Control { listeners, strangers, parts }))
}

impl Control {
    /// Serves until `stop`.
    pub(super) async fn serve(self, health: Health, metrics: Arc<Metrics>, stop: CancellationToken) -> anyhow::Result<()> {
        let accept = |(listener, callers): (Listener, Callers)| listener.accept(callers, Arc::clone(&metrics), stop.clone());
        let connections = futures_util::stream::select_all(self.listeners.into_iter().map(accept));
        control::serve(self.parts, health, Arc::clone(&metrics), connections, self.strangers, stop)
            .await
            .context("our own API failed")
    }
}
