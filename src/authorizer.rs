//! The way of a request: who calls, may it be decided now, what does the policy say, and the record of it. Every
//! failure on the way is a denial with a reason of its own; nothing but a policy in force makes an allow.

mod behaviour;
mod caller;
mod finish;
mod gates;
mod granted;
mod permit;
mod revoked;
mod shadow;
mod stream;
pub mod trial;

use std::{
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use uuid::Uuid;

use self::{behaviour::Behaviour, caller::Caller, shadow::Taken, stream::Opening};
pub use self::{
    permit::Permits,
    shadow::{Shadow, ShadowSettings},
};
use crate::{
    action::Mcp,
    clock::Now,
    config::{self, Compat, RecordWrite},
    context::Context,
    grant::{Grant, Grants, request_token::RequestTokens},
    identity::{
        Header, Identity, Peer, PeerRules,
        token::Kind,
        tokens::{Presented, Tokens},
    },
    inventory::credentials::{Credentials, Presenter, Reuse},
    policy::{
        Drawn, PolicySet, PolicyStore,
        decision::{Outcome, read},
        input::{Facts, Here, Input},
    },
    record::{KeptInput, Recorder},
    request::Request,
    revocation::{Backdates, Revocation, Revocations},
    session::{Intent, Key, Sessions},
    state::{Epoch, Fact, Journal, JournalError, StateError},
    stream::Streams,
    telemetry::{
        metrics::{Metrics, RecordKind, RecordResult, Stage},
        trace::TraceIds,
    },
    verdict::{Decision, Mode, Protocol, Reason, Signal, SignalName},
};

/// A route says by this context extension, set in Envoy's configuration and never by a client, that it takes ambiguous
/// paths.
const AMBIGUOUS_PATHS: &str = "doorward-ambiguous-path";

/// What can be reloaded of the way a call is decided. A call takes one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub mode: Mode,
    pub compat: Option<Compat>,
    pub answer: config::Answer,
    /// Longest evaluation.
    pub evaluation: Duration,
    pub write: RecordWrite,
    /// The decision rule, as configured.
    pub rule: Arc<str>,
    /// The second policy set, where there is one.
    pub shadow: Option<ShadowSettings>,
    /// What a 401 tells about where to get a token; none where no tokens are taken.
    pub challenge: Option<Challenge>,
    /// Go on where a session may have been forgotten (`sessions.incomplete: allow`).
    pub incomplete_sessions: bool,
    /// Where denied callers ask for grants (`control.remote.url`).
    pub grants_at: Option<Arc<str>>,
    /// The claim of verified tokens that names a task (`tokens.task_claim`).
    pub task_claim: Option<Arc<str>>,
    /// When certificates were issued, for revocations of what was issued before an instant.
    pub backdates: Arc<Backdates>,
}

/// The part of a `WWW-Authenticate` that stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenge {
    /// RFC 9728 §5.1.
    pub resource_metadata: Option<Arc<str>>,
}

impl Settings {
    pub fn new(config: &config::Config) -> Self {
        let config::Config { mode, answer, records, policy, tokens, sessions, trust, .. } = config;
        let challenge = (!tokens.takes_nothing())
            .then(|| Challenge { resource_metadata: tokens.resource_metadata.as_ref().map(|url| url.as_str().into()) });
        Self {
            mode: *mode,
            answer: answer.clone(),
            write: records.write,
            challenge,
            incomplete_sessions: sessions.incomplete == config::Incomplete::Allow,
            grants_at: grants_at(config),
            task_claim: tokens.task_claim.as_deref().map(Into::into),
            backdates: Arc::new(Backdates::new(trust)),
            ..Self::of_policy(policy)
        }
    }

    /// All that does not concern policy by default.
    pub fn of_policy(policy: &config::Policy) -> Self {
        Self {
            mode: Mode::default(),
            compat: policy.compat,
            answer: config::Answer::default(),
            evaluation: policy.limits.evaluation.duration(),
            write: RecordWrite::default(),
            rule: policy.decision.as_str().into(),
            shadow: ShadowSettings::new(policy),
            challenge: None,
            incomplete_sessions: false,
            grants_at: None,
            task_claim: None,
            backdates: Arc::default(),
        }
    }
}

fn grants_at(config: &config::Config) -> Option<Arc<str>> {
    let remote = config.control.as_ref()?.remote.as_ref()?;
    Some(remote.url.as_ref()?.as_str().into())
}

/// What a call is told about the listener it came through.
#[derive(Debug)]
pub struct Listener {
    /// Its address, for the record.
    pub name: Arc<str>,
    pub rules: PeerRules,
    pub here: Here,
    /// Whether nobody else sees calls of the same principals, so that a session here lacks nothing.
    pub sole: bool,
}

/// One call, beside the request it asks about.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub listener: &'a Listener,
    pub settings: &'a Settings,
    pub trace: Option<TraceIds>,
    /// When the call arrived, by the monotonic clock.
    pub started: Clock,
    /// When the answer must be on its way.
    pub deadline: Instant,
    /// The one time of this decision, by the wall clock.
    pub now: Now,
}

/// A finished decision with what telemetry wants to know of it.
#[derive(Debug)]
pub struct Decided {
    pub outcome: Outcome,
    /// Revision of the policy that was asked.
    pub policy: Option<Arc<PolicySet>>,
    /// When evaluation began and ended, counted from the arrival.
    pub evaluation: Range<Duration>,
    /// What the call asked for; none where its credentials or bytes were not even looked at.
    pub context: Option<Context>,
}

impl Decided {
    /// Of a call at an MCP endpoint: how a refusal is told there.
    pub fn mcp(&self) -> Option<&Mcp> {
        self.context.as_ref()?.action.mcp.as_ref()
    }
}

/// What an authorizer is made of.
#[derive(Debug)]
pub struct Parts {
    pub settings: Settings,
    pub identity: Identity,
    pub tokens: Arc<Tokens>,
    pub sessions: Arc<Sessions>,
    pub control: ControlState,
    pub streams: Arc<Streams>,
    pub policies: Arc<PolicyStore>,
    pub permits: Arc<Permits>,
    pub recorder: Recorder,
    pub shadow: Shadow,
    pub metrics: Arc<Metrics>,
}

/// What operators have decided, and where they decide.
#[derive(Debug, Clone)]
pub struct ControlState {
    pub journal: Arc<Journal>,
    pub grants: Arc<Grants>,
    pub revocations: Arc<Revocations>,
    pub request_tokens: Arc<RequestTokens>,
}

impl ControlState {
    /// Reads all that was granted and revoked: without it nothing may be decided. `signing_key` is `control.signing_key`.
    ///
    /// # Errors
    /// When the control log is not whole, or says what this build does not understand.
    pub fn open(state: &config::State, signing_key: Option<&PathBuf>, now: Now) -> Result<Self, JournalError> {
        let (grants, revocations) = (Arc::new(Grants::default()), Arc::new(Revocations::default()));
        let facts = vec![Arc::clone(&grants) as Arc<dyn Fact>, Arc::clone(&revocations) as Arc<dyn Fact>];
        let journal = Arc::new(Journal::open(state, signing_key, facts, now)?);
        let request_tokens = Arc::new(RequestTokens::new().map_err(StateError::from)?);
        Ok(Self { journal, grants, revocations, request_tokens })
    }
}

/// Decides calls.
#[derive(Debug)]
pub struct Authorizer {
    settings: ArcSwap<Settings>,
    identity: Identity,
    tokens: Arc<Tokens>,
    /// Who presented which credential.
    credentials: Credentials,
    sessions: Arc<Sessions>,
    control: ControlState,
    /// Whose turn it is to count a use: one at a time, so that no more than one thread is held by it.
    uses: Arc<tokio::sync::Mutex<()>>,
    streams: Arc<Streams>,
    policies: Arc<PolicyStore>,
    permits: Arc<Permits>,
    recorder: Recorder,
    shadow: Shadow,
    metrics: Arc<Metrics>,
}

/// What was found out on the way to a decision, for its record.
#[derive(Default)]
struct Findings {
    caller: Option<Caller>,
    peer: Option<Arc<Peer>>,
    principal: Option<Arc<str>>,
    context: Option<Context>,
    /// The control state that the call was decided under.
    epoch: Option<Epoch>,
    /// What the call fell under.
    revocation: Option<Arc<Revocation>>,
    /// What an allow relies on.
    grant: Option<Arc<Grant>>,
    /// What was appended to a session, and which.
    intent: Option<Intent>,
    session: Option<(Key, u64)>,
    /// Where the route has streams.
    opening: Option<Opening>,
    input: KeptInput,
    policy: Option<Arc<PolicySet>>,
    /// The value of the decision rule, as the policy gave it.
    result: Option<serde_json::Value>,
    /// What the policy got from functions that are not determined by their arguments.
    drawn: Drawn,
    evaluation: Range<Duration>,
    /// For the shadow.
    taken: Option<Taken>,
}

impl Findings {
    /// The denial of what was revoked.
    fn revoked(&mut self, hit: Arc<Revocation>) -> (Reason, Option<String>) {
        let detail = hit.text();
        self.revocation = Some(hit);
        (Reason::Revoked, Some(detail))
    }
}

/// One call, with what was found out about its caller.
#[derive(Clone, Copy)]
struct Asked<'a> {
    call: &'a Call<'a>,
    request: &'a Request,
    caller: &'a Caller,
    id: Uuid,
    /// As it was when the call came.
    epoch: Option<Epoch>,
}

impl<'a> Asked<'a> {
    fn denied(&self, reason: Reason, detail: Option<String>) -> Outcome {
        Outcome::denied(self.id, self.call.settings.mode, reason, detail)
    }

    fn facts(&self, context: &'a Context, own_id: Option<&'a str>) -> Facts<'a> {
        let facts = self.caller.facts(self.request, context, &self.call.listener.here, self.call.now);
        Facts { own_id, epoch: self.epoch, ..facts }
    }
}

impl Authorizer {
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, identity, tokens, sessions, control, streams, policies, permits, recorder, shadow, metrics } =
            parts;
        let (settings, credentials) = (ArcSwap::from_pointee(settings), Credentials::default());
        Self {
            settings,
            identity,
            tokens,
            credentials,
            sessions,
            control,
            uses: Arc::default(),
            streams,
            policies,
            permits,
            recorder,
            shadow,
            metrics,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Brings new settings into force for the calls that arrive from now on.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub const fn control(&self) -> &ControlState {
        &self.control
    }

    pub const fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Our own SPIFFE ID, where we have an SVID.
    pub fn own_id(&self) -> Option<Arc<str>> {
        self.identity.own_id()
    }

    /// Decides one request. `unparsable` says what of it could not be parsed.
    pub async fn authorize(&self, call: &Call<'_>, request: &Request, unparsable: Option<String>) -> Decided {
        let mut findings = Findings::default();
        let id = Uuid::now_v7();
        let outcome = self.judge(call, request, unparsable, id, &mut findings).await;
        self.finish(call, request, outcome, findings).await
    }

    /// Denies a call whose request could not be read, with its record.
    pub async fn refuse(&self, call: &Call<'_>, request: &Request, reason: Reason, detail: String) -> Decided {
        let outcome = Outcome::denied(Uuid::now_v7(), call.settings.mode, reason, Some(detail));
        self.finish(call, request, outcome, Findings::default()).await
    }

    /// Decides, and leaves what was found on the way in `findings`.
    async fn judge(
        &self,
        call: &Call<'_>,
        request: &Request,
        unparsable: Option<String>,
        id: Uuid,
        findings: &mut Findings,
    ) -> Outcome {
        let generation = self.streams.generation();
        let mut caller = self.identify(call, request);
        (findings.peer, findings.principal) = (caller.peer.clone(), caller.principal.clone());
        let signals = std::mem::take(&mut caller.signals);
        let policy = self.policies.current();
        let mut context = {
            let documents = match &policy {
                Some(policy) => policy.documents(),
                None => PolicySet::no_documents(),
            };
            Context::gather(documents, request, caller.peer.as_deref(), signals, call.now)
        };
        let snapshot = self.control.revocations.current();
        self.hold_grants(call, &caller, &snapshot, &mut context);
        findings.opening = Opening::of(request, &caller, &context, generation);
        findings.epoch = snapshot.epoch;
        let revoked = || revoked::check(&snapshot, call, &caller, &context);
        let refused = match caller.refused(call.settings.compat) {
            Some(reason) => Some((reason, None)),
            None => revoked().map(|hit| findings.revoked(hit)),
        };
        drop(snapshot);
        let refused = refused_before(call.settings.compat, request, refused, unparsable);
        let asked = Asked { call, request, caller: &caller, id, epoch: findings.epoch };
        let outcome = match (refused, policy) {
            (Some((reason, detail)), _) => {
                findings.input = self.keep(&asked.facts(&context, self.identity.own_id().as_deref()));
                asked.denied(reason, detail)
            }
            (None, None) => asked.denied(Reason::NoPolicy, None),
            (None, Some(policy)) => {
                let outcome = self.decide(&asked, &policy, &mut context, findings).await;
                let outcome = if context.is_observed(policy.documents().tiers) { outcome.observed() } else { outcome };
                match outcome.goes_through().then(|| self.revoked_since(call, &caller, &context, &mut findings.epoch)).flatten() {
                    Some(hit) => {
                        let (reason, detail) = findings.revoked(hit);
                        asked.denied(reason, detail)
                    }
                    None => outcome,
                }
            }
        };
        findings.caller = Some(caller);
        findings.context = Some(context);
        outcome
    }

    /// What the call fell under while it waited. Nothing is asked where nothing has changed since `epoch`.
    fn revoked_since(
        &self,
        call: &Call<'_>,
        caller: &Caller,
        context: &Context,
        epoch: &mut Option<Epoch>,
    ) -> Option<Arc<Revocation>> {
        let snapshot = self.control.revocations.current();
        if snapshot.epoch == *epoch {
            return None;
        }
        *epoch = snapshot.epoch;
        revoked::check(&snapshot, call, caller, context)
    }

    /// Asks the policy, once nothing stands against it that no policy can lift.
    async fn decide(
        &self,
        asked: &Asked<'_>,
        policy: &Arc<PolicySet>,
        context: &mut Context,
        findings: &mut Findings,
    ) -> Outcome {
        let Asked { call, caller, id, .. } = *asked;
        let began = Clock::now();
        let permit = {
            let _waiting = self.metrics.check_waits();
            self.permits.acquire(caller.principal.as_deref(), call.deadline).await
        };
        self.metrics.stage(Stage::Wait, began.elapsed());
        let permit = match permit {
            Ok(permit) => permit,
            Err(reason) => return asked.denied(reason, None),
        };
        let own_id = self.identity.own_id();
        if let Err((reason, detail)) = self.gates(asked, policy, context, findings).await {
            let (reason, detail) = match context.withdrawn().filter(|_| reason.is_about_a_grant()).map(Arc::clone) {
                Some(hit) => findings.revoked(hit),
                None => (reason, Some(detail)),
            };
            findings.policy = Some(Arc::clone(policy));
            findings.input = self.keep(&asked.facts(context, own_id.as_deref()));
            return asked.denied(reason, detail);
        }
        let left = call.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return asked.denied(Reason::DeadlineExceeded, None);
        }

        let began = Clock::now();
        let facts = asked.facts(context, own_id.as_deref());
        let value = policy.evaluate(&Input::build(&facts, policy), left.min(call.settings.evaluation));
        findings.drawn = PolicySet::take_drawn();
        drop(permit);
        self.metrics.stage(Stage::Policy, began.elapsed());
        findings.evaluation = began.duration_since(call.started)..call.started.elapsed();
        (findings.input, findings.policy) = (self.keep(&facts), Some(Arc::clone(policy)));
        findings.taken = self.shadow.take(call.settings.shadow.as_ref(), id, &facts);
        let value = match value {
            Ok(value) => value,
            Err(failure) => {
                self.metrics.policy_failed(failure.reason, failure.place.as_deref().unwrap_or(&call.settings.rule));
                return asked.denied(failure.reason, Some(failure.detail));
            }
        };
        let life = [caller.remaining_life(call.now), policy.documents().tiers.lease(context.tier)].into_iter().flatten().min();
        let outcome = concluded(id, call.settings.mode, call.settings.compat, value.as_ref(), life);
        findings.result = value;
        self.rely(asked, context, findings, outcome).await
    }

    /// What is enforced before the policy is asked: the tier, and the path that led here. Without documents, and without a
    /// policy that asks about sessions, there is neither.
    async fn gates(
        &self,
        asked: &Asked<'_>,
        policy: &PolicySet,
        context: &mut Context,
        findings: &mut Findings,
    ) -> Result<(), gates::Denial> {
        let (documents, wants_view) = (policy.documents(), policy.wants_session());
        if documents.are_empty() && !wants_view {
            return Ok(());
        }
        let began = Clock::now();
        let (key, name) = findings.session.insert((behaviour::key(asked.caller, context.task.as_ref()), 0));
        let (sessions, streams) = (&*self.sessions, &*self.streams);
        let behaviour = Behaviour { sessions, streams, documents, caller: asked.caller, key, wants_view };
        let gone = behaviour.step(asked.call, context, &mut findings.intent, name).await;
        self.metrics.stage(Stage::Session, began.elapsed());
        findings.grant = gone?;
        Ok(())
    }

    /// Who calls: the peer by its certificate, and what the request's own credentials add.
    fn identify(&self, call: &Call<'_>, request: &Request) -> Caller {
        let began = Clock::now();
        let rules = &call.listener.rules;
        let header = xfcc(request).filter(|_| rules.reads_xfcc()).map(Header::parse);
        let who = self.identity.who(request.source.as_ref(), header.as_ref(), rules, call.now);
        self.metrics.stage(Stage::Identity, began.elapsed());
        let mut caller = Caller::from(who);
        if let (Some(_), Some(Ok(header))) = (&caller.peer, &header) {
            caller.forwarded = header.forwarded();
        }
        let began = Clock::now();
        if let (Some(http), None) = (&request.http, caller.peer_invalid) {
            caller.with(self.tokens.present(http, caller.peer.as_deref(), call.now));
        }
        let named_for_many = caller.presented.tokens.iter().filter(|bound| bound.token.is_for_many()).count();
        self.metrics.svids_for_many(named_for_many);
        if let Some(peer) = &caller.peer {
            caller.signals = self.signals(peer, &caller.presented, call);
        }
        self.metrics.stage(Stage::Tokens, began.elapsed());
        caller
    }

    /// What is noticed about the peer's credentials. A transaction token goes from hand to hand by design.
    fn signals(&self, peer: &Peer, presented: &Presented, call: &Call<'_>) -> Vec<Signal> {
        let zone = call.listener.here.get("zone");
        let mut signals = Vec::new();
        for bound in presented.tokens.iter().filter(|bound| bound.token.kind != Kind::Transaction) {
            let token = &bound.token;
            let by = Presenter { principal: &peer.text, zone };
            let Reuse { by_another, elsewhere } =
                self.credentials.presented(&token.fingerprint, by, token.validity.until, call.now);
            let kind = token.kind.as_str();
            let mut noticed = |name, since: Option<Now>| {
                let Some(since) = since else { return };
                self.metrics.credential_reused(kind, name);
                signals.push(Signal { name, since_ns: since.ns, detail: format!("{kind} {}", token.fingerprint) });
            };
            noticed(SignalName::CredentialReuse, by_another);
            noticed(SignalName::CredentialZone, elsewhere);
        }
        signals
    }

    /// The input as the record keeps it. Made here and not by the writer: a record that travels with a thousand small
    /// allocations of another thread costs more than the text of it.
    fn keep(&self, facts: &Facts<'_>) -> KeptInput {
        let certificate = facts.peer.and_then(|peer| peer.x509.as_ref()).map(|x509| &*x509.sha256);
        self.recorder.keep(facts, certificate)
    }

    /// The answer after a panic on the way: counted as a denial and as a lost record, because none tells of it.
    pub fn broken(&self, settings: &Settings) -> Outcome {
        let outcome = Outcome::denied(Uuid::now_v7(), settings.mode, Reason::InternalError, None);
        tracing::error!(decision_id = %outcome.id, "deciding a call panicked; it was denied");
        self.metrics.decided(Decision::Deny, outcome.reason, Protocol::Http, outcome.mode);
        self.metrics.recorded(RecordKind::Decision, RecordResult::Failed, 1);
        outcome
    }
}

/// Why a call is denied before any policy is asked.
fn refused_before(
    compat: Option<Compat>,
    request: &Request,
    invalid: Option<(Reason, Option<String>)>,
    unparsable: Option<String>,
) -> Option<(Reason, Option<String>)> {
    match (invalid, unparsable) {
        (Some(refused), _) => Some(refused),
        (_, Some(detail)) => Some((Reason::RequestParseError, Some(detail))),
        _ if compat.is_none() && takes_no_such_path(request) => Some((Reason::AmbiguousPath, None)),
        _ => None,
    }
}

/// What the value of the decision rule comes to. `life` is what is left of the peer's credential.
fn concluded(id: Uuid, mode: Mode, compat: Option<Compat>, value: Option<&serde_json::Value>, life: Option<Duration>) -> Outcome {
    match read(value, compat) {
        Ok(answer) => Outcome::answered(id, mode, answer, life),
        Err(refusal) => Outcome::refused(id, mode, &refusal),
    }
}

/// The joined text of `x-forwarded-client-cert`.
pub fn xfcc(request: &Request) -> Option<&str> {
    request.http.as_ref()?.headers.get("x-forwarded-client-cert")
}

/// Whether the path is dangerously ambiguous and the route does not say that it takes such paths.
fn takes_no_such_path(request: &Request) -> bool {
    request.http.as_ref().is_some_and(|http| http.url.is_dangerous())
        && request.context_extensions.get(AMBIGUOUS_PATHS).is_none_or(|value| value != "allow")
}
