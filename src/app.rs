//! The only composer: builds every component from its part of the configuration, binds, owns the tasks, and drains.
//! Decisions run on a runtime of their own, with deep stacks; telemetry, operations and reloads on another, so that
//! slow Rego cannot starve them.

mod alerts;
mod client;
mod control;
mod download;
mod inventory;
mod keys;
mod operations;
mod reload;
mod state;
mod upload;
mod workload;

use std::{path::Path, sync::Arc, thread::available_parallelism, time::Duration};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use rustls::server::danger::ClientCertVerifier;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    alerts::{Alerts, Telling},
    control::Control,
    inventory::Kept,
    reload::{Reloader, Told},
};
use crate::{
    authorizer::{self, Authorizer, Permits, Shadow},
    clock,
    config::{
        self, Address, Callers as CallerConfig, Config, Environment, Incomplete, Listener as ListenerConfig, Own, Placement,
        Sink, WorkloadEndpoint,
    },
    envoy::{self, CheckService, Health, Holder, check::Door, descriptors::Descriptors},
    identity::{Identity, PeerRules, caller::CallerVerifier, people::People, tokens::Tokens},
    inventory::Inventory,
    listener::{self, Callers, Listener, Occupied},
    policy::{Host, PolicyStore, input::Here},
    readiness::Readiness,
    record::{Copies, Recorder, recent::Recent},
    session::{Census, Sessions},
    stream::Streams,
    telemetry::{Telemetry, metrics::Metrics},
    tls::{self, ServerTls},
    trust::{TrustStore, own::OwnSvid, workload::Workload},
};

/// Rego recursion is bounded at load to what fits well into this (facts: 1,600 rules deep need 8 MiB).
const DECISION_STACK: usize = 16 * 1024 * 1024;
/// Longest time for the records to be uploaded and written, at shutdown.
const RECORDS: Duration = Duration::from_secs(5);
/// How long Envoy has to hear that its live streams go on without us.
const LET_GO: Duration = Duration::from_millis(250);
/// The same for the last alerts to be told.
const ALERTS: Duration = Duration::from_secs(2);
/// The same for telemetry to be pushed out.
const FLUSH: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a component cannot be built or a listener cannot be bound.
pub fn run(path: &Path, config: Config, occupied: Occupied) -> anyhow::Result<()> {
    // A second install means that somebody linked another one: theirs would be in force, so say so.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    // The usual hook prints the message, which may quote a request.
    std::panic::set_hook(Box::new(|panic| tracing::error!(place = panic.location().map(tracing::field::display), "panicked")));
    let evaluators = evaluators(&config);
    let control = runtime("doorward", 2, None)?;
    let decisions = runtime("decide", evaluators + 1, Some(DECISION_STACK))?;
    let result = control.block_on(async {
        let app = App::bind(path, config, occupied, decisions.handle().clone(), evaluators).await?;
        app.run().await
    });
    decisions.shutdown_timeout(Duration::from_millis(100));
    control.shutdown_timeout(Duration::from_millis(100));
    result
}

/// With the thread that is left to read and refuse they come to as many threads as there are cores: one more would only
/// take turns with them, which on two cores cost a fifth of the processor time of a Check.
fn evaluators(config: &Config) -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    config.limits.evaluators.unwrap_or(cores.saturating_sub(1).max(1))
}

fn runtime(name: &str, threads: usize, stack: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all();
    if let Some(stack) = stack {
        builder.thread_stack_size(stack);
    }
    builder.build().context("starting a runtime")
}

/// Listeners with who may call them, and the certificates to reload.
type Bound = (Vec<(Listener, Callers)>, Vec<Arc<ServerTls>>);

/// Everything built and bound, not yet serving.
struct App {
    config: Config,
    decisions: Handle,
    telemetry: Telemetry,
    kept: Kept,
    authorizer: Arc<Authorizer>,
    reloader: Arc<Reloader>,
    readiness: Readiness,
    operations: TcpListener,
    listeners: Vec<(Listener, Callers)>,
    control: Option<Control>,
    alerts: Option<Alerts>,
    /// Where the Workload API is.
    workload_api: Option<WorkloadEndpoint>,
}

impl App {
    #[expect(clippy::too_many_lines, reason = "a list of all components, each built once from those before it")]
    async fn bind(path: &Path, config: Config, occupied: Occupied, decisions: Handle, evaluators: usize) -> anyhow::Result<Self> {
        let environment = Environment::read();
        let instance = uuid::Uuid::now_v7().to_string();
        let telemetry = Telemetry::start(&config.telemetry, &instance).context("starting telemetry")?;
        let metrics = telemetry.metrics();
        let trust = Arc::new(TrustStore::load(&config.trust).context("loading trust bundles")?);
        let workload_api = workload::endpoint(&config.trust, &environment)?;
        let own = own_svid(&config.trust)?;
        let (policies, recent) = control::memory(config.control.as_ref());
        let (policies, shadow) = (Arc::new(policies), Arc::new(PolicyStore::default()));
        let (descriptors, readiness) = (Arc::new(Descriptors::default()), Readiness::default());
        descriptors.reload(config.policy.proto_descriptor.as_deref()).context("loading the descriptors of gRPC messages")?;
        let tokens = Arc::new(Tokens::new(&config.tokens, Arc::clone(&trust)).context("loading the API keys")?);
        let (recorder, kept, alerts) = start_records(&config, &environment, &instance, &telemetry, &policies, recent.clone())?;
        let authorizer = Arc::new(Authorizer::new(authorizer::Parts {
            settings: authorizer::Settings::new(&config),
            identity: Identity::new(Arc::clone(&trust), Arc::clone(&own)),
            tokens: Arc::clone(&tokens),
            sessions: open_sessions(&config, &policies)?,
            control: state::open(&config)?,
            streams: Arc::new(Streams::new(&config.limits)),
            policies: Arc::clone(&policies),
            permits: Arc::new(Permits::new(evaluators, config.limits.queue)),
            recorder: recorder.clone(),
            shadow: Shadow::start(Arc::clone(&shadow), recorder.clone(), Arc::clone(&metrics)).context("starting the shadow")?,
            metrics: Arc::clone(&metrics),
        }));
        let (listeners, mut certificates) = {
            let _inside = decisions.enter();
            bind(&config.listeners, occupied, &trust, &own)?
        };
        let people = people(&config, &trust);
        let control = control::bind(
            &config,
            occupied,
            recent,
            control::Around {
                policies: &policies,
                recorder: &recorder,
                authorizer: &authorizer,
                instance: &instance,
                trust: &trust,
                own: &own,
                people: people.clone(),
                inventory: &kept.inventory,
                certificates: &mut certificates,
            },
        )?;
        let operations = operations::bind(&config.operations).await?;
        let workload = Arc::new(Workload::new(Arc::clone(&trust), Arc::clone(&own)));
        readiness.trust(workload::is_usable(&config.trust, &workload));
        let reloader = Arc::new(Reloader {
            path: path.to_owned(),
            config: ArcSwap::from_pointee(config.clone()),
            authorizer: Arc::clone(&authorizer),
            policies,
            shadow,
            trust,
            tokens,
            people,
            own,
            workload,
            descriptors,
            certificates,
            readiness: readiness.clone(),
            recorder: recorder.clone(),
            metrics,
            refused: Told::default(),
            policy_refused: Told::default(),
            shadow_refused: Told::default(),
            bundle_refused: Told::default(),
            trust_refused: Told::default(),
            tokens_refused: Told::default(),
            descriptors_refused: Told::default(),
            certificate_refused: Told::default(),
            waiting: Told::default(),
            here: here_pairs(&environment, &instance),
        });
        readiness.listening();
        Ok(Self {
            config,
            decisions,
            telemetry,
            kept,
            authorizer,
            reloader,
            readiness,
            operations,
            listeners,
            control,
            alerts,
            workload_api,
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            decisions,
            telemetry,
            kept,
            authorizer,
            reloader,
            readiness,
            operations,
            listeners,
            control,
            alerts,
            workload_api,
        } = self;
        let stop = CancellationToken::new();
        let mut signals = Signals::new()?;

        let address = operations.local_addr().context("reading the operations address")?;
        tracing::info!(%address, "serving /livez, /readyz and /metrics");
        tokio::spawn(operations::serve(operations, Arc::clone(&reloader), telemetry.page(), stop.clone()));

        let (health, health_service) = envoy::health().await;
        tokio::spawn(tell_health(health, readiness.clone()));

        let mut servers = JoinSet::new();
        if let Some(control) = control {
            servers.spawn(control.serve(reload::health(&reloader), telemetry.metrics(), stop.clone()));
        }
        for ((bound, callers), part) in listeners.into_iter().zip(&config.listeners) {
            let door = Door {
                authorizer: Arc::clone(&authorizer),
                metrics: telemetry.metrics(),
                tracer: telemetry.tracer(),
                listener: authorizer::Listener {
                    name: part.address.to_string().into(),
                    rules: PeerRules::new(&part.peer, part.placement),
                    here: reloader.here(&config.place, part),
                    sole: sees_all(part, &config.sessions),
                },
                max_body: part.max_body.map(config::Size::bytes),
                skip_body_parse: part.skip_body_parse,
                descriptors: Arc::clone(&reloader.descriptors),
                message: config.limits.message.bytes(),
                decision: config.limits.decision.duration(),
            };
            let holder = reloader.holder(telemetry.metrics());
            let (health, limits, reflection) = (health_service.clone(), config.limits.clone(), part.reflection);
            let (metrics, stop) = (telemetry.metrics(), stop.clone());
            servers.spawn_on(
                async move {
                    let connections = bound.accept(callers, metrics, stop.clone());
                    envoy::serve(CheckService::new(door), holder, health, reflection, &limits, connections, stop).await?;
                    Ok(())
                },
                &decisions,
            );
        }

        watch(&reloader, workload_api, &stop);
        if let (Some(outbox), Some(part)) = (kept.records.outbox(), config.records.upload.clone()) {
            tokio::spawn(upload::run(Arc::clone(outbox), part, Arc::clone(&reloader.own), telemetry.metrics()));
        }
        let alerts = alerts.map(|alerts| alerts.start(&reloader.own));
        look_after(&authorizer, &kept.inventory, &config, &telemetry.metrics(), &stop);

        let failed = tokio::select! {
            () = signals.stop() => None,
            ended = servers.join_next() => ended,
        };
        readiness.draining();
        drain(&config.limits, failed.is_none(), authorizer.streams(), &mut servers, &mut signals, &stop).await;
        save_sessions(Arc::clone(authorizer.sessions())).await;
        end_records(kept, alerts).await;
        tracing::info!("stopped");
        telemetry.shutdown(FLUSH).await;
        match failed {
            None => Ok(()),
            Some(ended) => Err(ended
                .map_err(anyhow::Error::from)
                .and_then(|served| served)
                .err()
                .unwrap_or_else(|| anyhow!("a listener stopped by itself"))),
        }
    }
}

/// Lets the calls in flight come to their end, unless a second signal says that there is no time. `gently`, others are told
/// first to look elsewhere.
async fn drain(
    limits: &config::Limits,
    gently: bool,
    streams: &Streams,
    servers: &mut JoinSet<anyhow::Result<()>>,
    signals: &mut Signals,
    stop: &CancellationToken,
) {
    if gently {
        tracing::info!(grace = %limits.grace, drain = %limits.drain, "draining");
        tokio::select! {
            () = sleep(limits.grace.duration()) => {}
            () = signals.stop() => {}
        }
    }
    // Envoy has to hear of it before the connection goes, which would end the streams.
    if streams.release() && gently {
        sleep(LET_GO).await;
    }
    stop.cancel();
    let drained = tokio::select! {
        drained = timeout(limits.drain.duration(), async { while servers.join_next().await.is_some() {} }) => drained.is_ok(),
        () = signals.stop() => false,
    };
    if !drained {
        tracing::warn!("calls were still in flight when the time to drain was over");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("listening for signals");
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn tell_health(health: Health, readiness: Readiness) {
    let mut changes = readiness.follow();
    loop {
        let ready = *changes.borrow_and_update();
        health.set(ready).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Our own SVID, where it comes from files; that of the Workload API comes later.
fn own_svid(trust: &config::Trust) -> anyhow::Result<Arc<OwnSvid>> {
    let own = Arc::new(OwnSvid::default());
    if let Some(Own::Files(files)) = &trust.own {
        own.set(tls::load(files).context("loading our own SVID")?);
    }
    Ok(own)
}

/// Who verifies people's tokens, where there are people.
fn people(config: &Config, trust: &Arc<TrustStore>) -> Option<Arc<People>> {
    let rules = config.control.as_ref()?.oidc.as_ref()?;
    Some(Arc::new(People::new(rules, Arc::clone(trust))))
}

/// Starts the writer of records, and prepares what sees them on their way.
fn start_records(
    config: &Config,
    environment: &Environment,
    instance: &str,
    telemetry: &Telemetry,
    policies: &Arc<PolicyStore>,
    recent: Option<Arc<Recent>>,
) -> anyhow::Result<(Recorder, Kept, Option<Alerts>)> {
    let (alerts, alert) = alerts::prepare(config, environment, policies, &telemetry.metrics()).unzip();
    let (inventory, seen) = inventory::open(config)?;
    let copies = Copies { logs: telemetry.logger(), recent, observers: alert.into_iter().chain(seen).collect() };
    let (recorder, records) =
        Recorder::start(&masked(config), instance, telemetry.metrics(), policies, copies).context("starting the records")?;
    Ok((recorder, Kept { records, inventory }, alerts))
}

/// Waits until the last records are written, the alerts that come of them are told, and the inventory has them.
async fn end_records(Kept { records, inventory }: Kept, alerts: Option<Telling>) {
    if let Err(error) = records.shutdown(RECORDS).await {
        tracing::error!(%error, "records were lost at shutdown");
    }
    if let Some(alerts) = alerts {
        alerts.finish(ALERTS).await;
    }
    inventory::save_last(inventory).await;
}

/// How to keep records, the headers masked that tokens come in.
fn masked(config: &Config) -> config::Records {
    let mut records = config.records.clone();
    records.mask.headers.extend(config.tokens.secret_headers().map(str::to_owned));
    records
}

/// Binds the listeners for Envoy; the certificates are those to reload. Must run inside the runtime they are for.
fn bind(parts: &[ListenerConfig], occupied: Occupied, trust: &Arc<TrustStore>, own: &Arc<OwnSvid>) -> anyhow::Result<Bound> {
    let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
    for part in parts {
        let (callers, tls) = callers(part, trust, own)?;
        certificates.extend(tls);
        let bound = Listener::bind(&part.address, part.socket_mode, occupied).context("binding a listener")?;
        tracing::info!(address = %bound.address, insecure = part.insecure, "listening for Envoy");
        listeners.push((bound, callers));
    }
    Ok((listeners, certificates))
}

/// Who may call a listener, and the certificate to reload for it.
fn callers(
    part: &ListenerConfig,
    trust: &Arc<TrustStore>,
    own: &Arc<OwnSvid>,
) -> anyhow::Result<(Callers, Option<Arc<ServerTls>>)> {
    let CallerConfig { uids, spiffe_ids } = &part.callers;
    let Address::Tcp(_) = &part.address else {
        let own = listener::own_uid().context("finding our own user id")?;
        return Ok((Callers::Uids(uids.iter().copied().chain([own]).collect()), None));
    };
    let Some(tls) = &part.tls else { return Ok((Callers::Anyone, None)) };
    let verifier = (!part.insecure).then(|| Arc::new(CallerVerifier::new(Arc::clone(trust))) as Arc<dyn ClientCertVerifier>);
    let tls = Arc::new(ServerTls::new(tls, own, verifier).context("setting up TLS of a listener")?);
    let callers = match part.insecure {
        true => Callers::AnyoneOverTls(tls.config()),
        false => Callers::SpiffeIds(tls.config(), spiffe_ids.clone().into(), Arc::clone(trust)),
    };
    Ok((callers, Some(tls)))
}

/// Follows what is on disk and what the Workload API says.
fn watch(reloader: &Arc<Reloader>, workload_api: Option<WorkloadEndpoint>, stop: &CancellationToken) {
    let streams = workload::Streams::new(Arc::clone(&reloader.workload), workload_api, stop.clone());
    tokio::spawn(workload::tell(Arc::clone(reloader), stop.clone()));
    tokio::spawn(reload::watch(Arc::clone(reloader), streams, stop.clone()));
}

/// The sessions, and what policy sets may ask of them and of us.
fn open_sessions(config: &Config, policies: &PolicyStore) -> anyhow::Result<Arc<Sessions>> {
    policies.set_host(host(config));
    Ok(Arc::new(Sessions::open(&config.sessions, clock::now()).context("opening the sessions")?))
}

/// Writes the sessions once more, where that is asked for.
async fn save_sessions(sessions: Arc<Sessions>) {
    if let Err(error) = tokio::task::spawn_blocking(move || sessions.save(clock::now())).await.unwrap_or(Ok(())) {
        tracing::error!(%error, "sessions were not written; what is in the file counts at the next start");
    }
}

/// Starts what looks after the control log, the inventory and sessions.
fn look_after(
    authorizer: &Arc<Authorizer>,
    inventory: &Arc<Inventory>,
    config: &Config,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) {
    tokio::spawn(state::keep(Arc::clone(authorizer), Arc::clone(metrics), stop.clone()));
    tokio::spawn(inventory::keep(Arc::clone(inventory), config.inventory.save, stop.clone()));
    tokio::spawn(keep_sessions(Arc::clone(authorizer.sessions()), config.sessions.save, Arc::clone(metrics), stop.clone()));
}

/// Forgets what has expired, and writes the rest where that is asked for.
async fn keep_sessions(sessions: Arc<Sessions>, every: config::Span, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = sleep(every.duration()) => {}
            () = stop.cancelled() => return,
        }
        let (sessions, metrics) = (Arc::clone(&sessions), Arc::clone(&metrics));
        let saved = tokio::task::spawn_blocking(move || {
            let now = clock::now();
            sessions.sweep(now);
            let Census { sessions: known, principals } = sessions.census();
            metrics.sessions(known, principals);
            sessions.save(now)
        });
        match saved.await {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) if !failed => {
                tracing::error!(%error, "sessions were not written; labels are still appended");
                failed = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Whether a listener sees all calls of its callers' sessions. There is no store yet that several processes share.
fn sees_all(listener: &ListenerConfig, sessions: &config::Sessions) -> bool {
    match listener.placement {
        Placement::Egress => true,
        Placement::Gateway => sessions.sole,
        Placement::Inbound => false,
    }
}

/// What a policy set may ask of us.
fn host(config: &Config) -> Host {
    Host {
        durable_records: matches!(config.records.sink, Sink::File(_)),
        whole_sessions: config.sessions.incomplete == Incomplete::Allow
            || config.listeners.iter().all(|listener| listener.placement != Placement::Inbound),
    }
}

/// What `input.self` shows of this process, besides what the configuration says.
fn here_pairs(environment: &Environment, instance: &str) -> Vec<(&'static str, Option<String>)> {
    vec![
        ("instance", Some(instance.to_owned())),
        ("pod", environment.pod.clone()),
        ("namespace", environment.namespace.clone()),
        ("node", environment.node.clone()),
    ]
}

impl Reloader {
    fn holder(&self, metrics: Arc<Metrics>) -> Holder {
        Holder { authorizer: Arc::clone(&self.authorizer), recorder: self.recorder.clone(), metrics }
    }

    fn here(&self, place: &config::Place, listener: &config::Listener) -> Here {
        let known = self.here.iter().map(|(key, value)| (*key, value.as_deref()));
        Here::new(known.chain(place.pairs(Some(listener))).chain([("placement", Some(listener.placement.as_str()))]))
    }
}
