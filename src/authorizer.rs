//! The way of a request: who calls, may it be decided now, what does the policy say, and the record of it. Every
//! failure on the way is a denial with a reason of its own; nothing but a policy in force makes an allow.

mod permit;
mod shadow;
pub mod trial;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use uuid::Uuid;

use self::shadow::{Said, Taken};
pub use self::{
    permit::Permits,
    shadow::{Shadow, ShadowSettings},
};
use crate::{
    clock::Now,
    config::{self, Compat, RecordWrite},
    identity::{Identity, Peer, PeerRules, Who},
    policy::{
        Drawn, PolicySet, PolicyStore,
        decision::{Answer, Outcome, read},
        input::{Facts, Here, Input},
    },
    record::{Body, DecisionRecord, KeptInput, PeerRecord, PolicyRef, Record, Recorder},
    request::Request,
    telemetry::{
        metrics::{Metrics, RecordKind, RecordResult, Stage},
        trace::TraceIds,
    },
    verdict::{Decision, Mode, Protocol, Reason},
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
}

impl Settings {
    pub fn new(config: &config::Config) -> Self {
        let config::Config { mode, answer, records, policy, .. } = config;
        Self { mode: *mode, answer: answer.clone(), write: records.write, ..Self::of_policy(policy) }
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
        }
    }
}

/// What a call is told about the listener it came through.
#[derive(Debug)]
pub struct Listener {
    /// Its address, for the record.
    pub name: Arc<str>,
    pub rules: PeerRules,
    pub here: Here,
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
}

/// What an authorizer is made of.
#[derive(Debug)]
pub struct Parts {
    pub settings: Settings,
    pub identity: Identity,
    pub policies: Arc<PolicyStore>,
    pub permits: Arc<Permits>,
    pub recorder: Recorder,
    pub shadow: Shadow,
    pub metrics: Arc<Metrics>,
}

/// Decides calls.
#[derive(Debug)]
pub struct Authorizer {
    settings: ArcSwap<Settings>,
    identity: Identity,
    policies: Arc<PolicyStore>,
    permits: Arc<Permits>,
    recorder: Recorder,
    shadow: Shadow,
    metrics: Arc<Metrics>,
}

/// What was found out on the way to a decision, for its record.
#[derive(Default)]
struct Findings {
    peer: Option<Arc<Peer>>,
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

impl Authorizer {
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, identity, policies, permits, recorder, shadow, metrics } = parts;
        Self { settings: ArcSwap::from_pointee(settings), identity, policies, permits, recorder, shadow, metrics }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Brings new settings into force for the calls that arrive from now on.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
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

    async fn judge(
        &self,
        call: &Call<'_>,
        request: &Request,
        unparsable: Option<String>,
        id: Uuid,
        findings: &mut Findings,
    ) -> Outcome {
        let mode = call.settings.mode;
        let deny = |reason, detail| Outcome::denied(id, mode, reason, detail);

        let began = Clock::now();
        let who = self.identity.who(request.source.as_ref(), xfcc(request), &call.listener.rules, call.now);
        self.metrics.stage(Stage::Identity, began.elapsed());
        let Known { peer, peer_error, invalid } = who.into();
        let facts = Facts { request, peer: peer.as_deref(), peer_error, here: &call.listener.here, now: call.now };
        findings.peer = peer.clone();

        if let Some((reason, detail)) = refused_before(call.settings.compat, request, invalid, unparsable) {
            findings.input = self.keep(&facts);
            return deny(reason, detail);
        }
        let Some(policy) = self.policies.current() else { return deny(Reason::NoPolicy, None) };

        let began = Clock::now();
        let permit = {
            let _waiting = self.metrics.check_waits();
            self.permits.acquire(peer.as_ref().map(|peer| &*peer.text), call.deadline).await
        };
        self.metrics.stage(Stage::Wait, began.elapsed());
        let permit = match permit {
            Ok(permit) => permit,
            Err(reason) => return deny(reason, None),
        };
        let left = call.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return deny(Reason::DeadlineExceeded, None);
        }

        let began = Clock::now();
        let value = policy.evaluate(&Input::build(&facts, &policy), left.min(call.settings.evaluation));
        findings.drawn = PolicySet::take_drawn();
        drop(permit);
        self.metrics.stage(Stage::Policy, began.elapsed());
        findings.evaluation = began.duration_since(call.started)..call.started.elapsed();
        (findings.input, findings.policy) = (self.keep(&facts), Some(policy));
        findings.taken = self.shadow.take(call.settings.shadow.as_ref(), id, &facts);
        let value = match value {
            Ok(value) => value,
            Err(failure) => {
                self.metrics.policy_failed(failure.reason, failure.place.as_deref().unwrap_or(&call.settings.rule));
                return deny(failure.reason, Some(failure.detail));
            }
        };
        let life = peer.and_then(|peer| remaining_life(&peer, call.now));
        let outcome = concluded(id, mode, call.settings.compat, value.as_ref(), life);
        findings.result = value;
        outcome
    }

    /// The input as the record keeps it. Made here and not by the writer: a record that travels with a thousand small
    /// allocations of another thread costs more than the text of it.
    fn keep(&self, facts: &Facts<'_>) -> KeptInput {
        let certificate = facts.peer.and_then(|peer| peer.x509.as_ref()).map(|x509| &*x509.sha256);
        self.recorder.keep(facts, certificate)
    }

    /// Writes the record, which may still turn an allow into a denial, and counts.
    async fn finish(&self, call: &Call<'_>, request: &Request, mut outcome: Outcome, findings: Findings) -> Decided {
        let Findings { peer, input, policy, result, drawn, evaluation, taken } = findings;
        if let (Some(taken), Some(policy)) = (taken, &policy) {
            self.shadow.compare(taken, &Said { outcome: &outcome, result: result.as_ref(), policy, rule: &call.settings.rule });
        }
        let began = Clock::now();
        let answer = outcome.answer.as_ref();
        let record = DecisionRecord {
            decision: outcome.decision,
            enforced: outcome.mode == Mode::Enforce,
            reason: outcome.reason,
            rule: answer.and_then(|answer| answer.rule.clone()),
            policy_reason: answer.and_then(|answer| answer.reason.clone()),
            detail: outcome.detail.clone().or_else(|| answer.and_then(warnings)),
            result,
            drawn,
            mode: outcome.mode,
            protocol: request.protocol(),
            listener: Arc::clone(&call.listener.name),
            principal: peer.as_ref().map(|peer| Arc::clone(&peer.text)),
            peer: peer.map(|peer| PeerRecord {
                spiffe_id: Arc::clone(&peer.text),
                evidence: peer.evidence,
                sha256: peer.x509.as_ref().map(|x509| Arc::clone(&x509.sha256)),
            }),
            input,
            policy: policy.as_ref().map(|policy| PolicyRef::new(policy, Arc::clone(&call.settings.rule))),
            lease: outcome.lease,
            latency: call.started.elapsed(),
            request_id: request.http.as_ref().and_then(|http| http.headers.get("x-request-id")).map(str::to_owned),
            trace: call.trace,
        };
        let record = Record { id: outcome.id, at: call.now, body: Body::Decision(Arc::new(record)) };
        match call.settings.write {
            RecordWrite::Offer => self.recorder.offer(record),
            RecordWrite::Commit => {
                let committed = tokio::time::timeout_at(call.deadline, self.recorder.commit(record)).await;
                let failure = match committed {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("the record was not on disk in time".to_owned()),
                };
                if let Some(detail) = failure {
                    outcome = Outcome::denied(outcome.id, outcome.mode, Reason::RecordUnavailable, Some(detail));
                }
            }
        }
        self.metrics.stage(Stage::Record, began.elapsed());
        self.metrics.decided(outcome.decision, outcome.reason, request.protocol(), outcome.mode);
        Decided { outcome, policy, evaluation }
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

/// What is known of the peer.
struct Known {
    peer: Option<Arc<Peer>>,
    /// Why there is none.
    peer_error: Option<Reason>,
    /// The same, where nobody may be believed to be behind it.
    invalid: Option<Reason>,
}

impl From<Who> for Known {
    fn from(who: Who) -> Self {
        let (peer, peer_error, invalid) = match who {
            Who::Absent => (None, None, None),
            Who::NoSvid(reason) => (None, Some(reason), None),
            Who::Proved(peer) => (Some(peer), None, None),
            Who::Invalid(reason) => (None, Some(reason), Some(reason)),
        };
        Self { peer, peer_error, invalid }
    }
}

/// Why a call is denied before any policy is asked.
fn refused_before(
    compat: Option<Compat>,
    request: &Request,
    invalid: Option<Reason>,
    unparsable: Option<String>,
) -> Option<(Reason, Option<String>)> {
    match (invalid, unparsable) {
        (Some(reason), _) if compat.is_none() => Some((reason, None)),
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

/// What the author of the policy should know of an answer that was carried out otherwise than written.
fn warnings(answer: &Answer) -> Option<String> {
    let texts: Vec<String> = answer.warnings.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// How long the credential of the peer still lives.
fn remaining_life(peer: &Peer, now: Now) -> Option<Duration> {
    let not_after = u64::try_from(peer.x509.as_ref()?.not_after).unwrap_or_default();
    Some(Now::from_seconds(not_after).since_epoch().saturating_sub(now.since_epoch()))
}
