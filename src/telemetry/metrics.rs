//! Every instrument, with a typed method each. Labels come from closed enums only: nothing a client can choose ever
//! becomes a label. The instruments of the request path are bound to their labels once, because a lookup by labels
//! costs 200 to 400 ns and a bound instrument 20 to 60.

use std::{
    collections::BTreeSet,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Gauge, Histogram, Meter, UpDownCounter},
};
use tonic::Code;

use crate::{
    clock::Now,
    trust::workload::{Material, Phase},
    verdict::{Decision, Evidence, Mode, Protocol, Reason, SignalName},
};

/// Bounds of the histograms in seconds; those of the semantic conventions begin at 5 ms, where we hope to be done.
const BOUNDS: [f64; 12] = [0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1];

/// Names of rules that become labels, and the longest of them in bytes.
const RULES: usize = 100;
const MAX_RULE: usize = 128;
/// The label of all other rules.
const OTHER: &str = "other";

/// In the order of `peer_proved`.
const EVIDENCE: [&str; 4] = ["none", Evidence::Sidecar.as_str(), Evidence::Envoy.as_str(), Evidence::Own.as_str()];

const DECISIONS: usize = 2;
const PROTOCOLS: usize = 4;
const MODES: usize = 2;
const CODES: usize = 17;

macro_rules! labels {
    ($($(#[doc = $doc:literal])+ $name:ident { $($variant:ident => $text:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant,)+ }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    )+};
}

labels! {
    /// A part of the way of a Check whose time is measured.
    Stage {
        Wait => "wait",
        Identity => "identity",
        Tokens => "tokens",
        Session => "session",
        Policy => "policy",
        Record => "record",
    }
    /// What became of an attempt to put a policy, a trust bundle or a configuration in force.
    Reload { Loaded => "loaded", Unchanged => "unchanged", Refused => "refused", }
    /// What a second policy set said beside the one in force: the same, another decision, another answer to the same
    /// decision, or one of the two failed to answer. A call that was not compared, because too many were, is dropped.
    Compared { Same => "same", Decision => "decision", Answer => "answer", Failed => "failed", Dropped => "dropped", }
    /// What an evaluation had too much of.
    Limit { Time => "time", Growth => "growth", }
    /// What became of a request for a bundle; refused is one that came and is not sound.
    Fetch { Fetched => "fetched", Unchanged => "unchanged", Refused => "refused", Failed => "failed", }
    /// How a caller reached a listener.
    Transport { Unix => "unix", Tcp => "tcp", Tls => "tls", Control => "control", }
    /// What became of a decision on its way to the log service: uploaded, withheld by the policy, dropped because too many
    /// were waiting or the end had come, or too large for the service.
    Upload { Uploaded => "uploaded", Withheld => "withheld", Dropped => "dropped", TooLarge => "too_large", }
    /// What a log service said to a request; failed is everything but yes and too large.
    UploadAnswer { Accepted => "accepted", TooLarge => "too_large", Failed => "failed", }
    /// The kind of a record.
    RecordKind { Decision => "decision", Shadow => "shadow", Policy => "policy", Control => "control", StreamEnd => "stream_end", Gap => "gap", }
    /// What became of an alert: sent to an Alertmanager, in a request that failed, or dropped, because there were too many or
    /// nobody had taken it for too long.
    Alert { Sent => "sent", Failed => "failed", Dropped => "dropped", }
    /// What became of a record: written, dropped because the queue was full, or lost to a sink that fails.
    RecordResult { Written => "written", Dropped => "dropped", Failed => "failed", }
}

/// Every instrument.
#[derive(Debug)]
pub struct Metrics {
    calls: Histogram<f64>,
    calls_bound: Vec<OnceLock<BoundHistogram<f64>>>,
    decisions: Counter<u64>,
    decisions_bound: Vec<OnceLock<BoundCounter<u64>>>,
    stages: Vec<BoundHistogram<f64>>,
    waiting: UpDownCounter<i64>,
    cancelled: BoundCounter<u64>,
    records: Vec<BoundCounter<u64>>,
    records_queue: Gauge<u64>,
    uploads: Vec<BoundCounter<u64>>,
    upload_requests: Vec<BoundCounter<u64>>,
    alerts: Vec<BoundCounter<u64>>,
    alerts_active: Gauge<u64>,
    policy_reloads: Vec<BoundCounter<u64>>,
    policy_loaded: Gauge<f64>,
    bundle_fetches: Vec<BoundCounter<u64>>,
    key_fetches: Vec<BoundCounter<u64>>,
    credentials_reused: Counter<u64>,
    svids_for_many: Counter<u64>,
    trust_reloads: Vec<BoundCounter<u64>>,
    sessions: Gauge<u64>,
    principals: Gauge<u64>,
    trust_states: Gauge<u64>,
    trust_ages: Gauge<f64>,
    peers: Vec<BoundCounter<u64>>,
    config_reloads: Vec<BoundCounter<u64>>,
    callers_refused: Vec<BoundCounter<u64>>,
    control_calls: Counter<u64>,
    revocations: Gauge<u64>,
    grants: Gauge<u64>,
    streams: UpDownCounter<i64>,
    streams_ended: Counter<u64>,
    streams_refused: Counter<u64>,
    shadow_reloads: Vec<BoundCounter<u64>>,
    shadow: Vec<BoundCounter<u64>>,
    shadow_by_rule: Counter<u64>,
    shadow_rules: Rules,
    policy_limits: Counter<u64>,
    /// Of the policy in force.
    limited_rules: Rules,
}

/// The first [`RULES`] names of rules, which become labels; all others are `other`.
#[derive(Debug, Default)]
struct Rules(Mutex<BTreeSet<String>>);

impl Rules {
    fn label(&self, rule: &str) -> String {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rules.contains(rule);
        let is_new = !known && rules.len() < RULES && rule.len() <= MAX_RULE;
        if is_new {
            rules.insert(rule.to_owned());
        }
        if known || is_new { rule.to_owned() } else { OTHER.to_owned() }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Metrics {
    /// Creates every instrument. Counters of rare events start at zero, so that their first increment is a rate too.
    #[expect(clippy::too_many_lines, reason = "about one line an instrument")]
    pub fn new(meter: &Meter) -> Self {
        let seconds =
            |name, text| meter.f64_histogram(name).with_unit("s").with_description(text).with_boundaries(BOUNDS.to_vec()).build();
        let moment = |name, text| meter.f64_gauge(name).with_unit("s").with_description(text).build();
        let gauge = |name, text| meter.u64_gauge(name).with_description(text).build();
        let counter = |name, text| meter.u64_counter(name).with_description(text).build();
        let reloads = |name, text| {
            let counter = counter(name, text);
            Reload::ALL.iter().map(|result| counter.bind(&[KeyValue::new("result", result.as_str())])).collect()
        };
        let stages = seconds("doorward.stage.duration", "Time spent in a part of a Check.");
        let records = counter("doorward.records", "Records, by what became of them.");
        let uploads = counter("doorward.uploads", "Decisions for the log service, by what became of them.");
        let upload_requests = counter("doorward.upload.requests", "Requests to the log service, by what it answered.");
        let shadow = counter("doorward.shadow.compared", "Calls that a second policy set was asked about, by what came of it.");
        let fetches = counter("doorward.bundle.fetches", "Requests for bundles, by what became of them.");
        let keys = counter("doorward.keys.fetches", "Requests for keys of token issuers, by what became of them.");
        let alerts = counter("doorward.alerts", "Alerts, by what became of them; each time that one is sent counts.");
        let peers = counter("doorward.peers", "Decisions, by how the peer was proved.");
        let refused = counter("doorward.callers.refused", "Callers of a listener that may not call it.");
        let policy_limits = counter("doorward.policy.limit", "Evaluations that were denied at a limit, by where they stood.");
        for limit in Limit::ALL {
            policy_limits.add(0, &[KeyValue::new("rule", OTHER), KeyValue::new("limit", limit.as_str())]);
        }
        gauge("doorward.build.info", "1, with the version of this build.")
            .record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
        Self {
            calls: seconds("rpc.server.call.duration", "Duration of a call to Check."),
            calls_bound: unbound(CODES),
            decisions: counter("doorward.decisions", "Decisions, by answer and reason."),
            decisions_bound: unbound(Reason::ALL.len() * DECISIONS * PROTOCOLS * MODES),
            stages: Stage::ALL.iter().map(|stage| stages.bind(&[KeyValue::new("stage", stage.as_str())])).collect(),
            waiting: meter
                .i64_up_down_counter("doorward.checks.waiting")
                .with_description("Checks that wait for their turn to be evaluated.")
                .build(),
            cancelled: counter("doorward.checks.cancelled", "Checks whose caller went away before they were answered.").bind(&[]),
            records: RecordKind::ALL
                .iter()
                .flat_map(|kind| RecordResult::ALL.iter().map(move |result| (kind, result)))
                .map(|(kind, result)| {
                    records.bind(&[KeyValue::new("kind", kind.as_str()), KeyValue::new("result", result.as_str())])
                })
                .collect(),
            records_queue: gauge("doorward.records.queue", "Records that waited when the writer last looked."),
            uploads: Upload::ALL.iter().map(|result| uploads.bind(&[KeyValue::new("result", result.as_str())])).collect(),
            upload_requests: UploadAnswer::ALL
                .iter()
                .map(|answer| upload_requests.bind(&[KeyValue::new("result", answer.as_str())]))
                .collect(),
            alerts: Alert::ALL.iter().map(|result| alerts.bind(&[KeyValue::new("result", result.as_str())])).collect(),
            alerts_active: gauge("doorward.alerts.active", "Alerts that are not over."),
            policy_reloads: reloads("doorward.policy.reloads", "Attempts to put a policy in force."),
            policy_loaded: moment(
                "doorward.policy.loaded",
                "When the policy in force was loaded, in seconds since the Unix epoch.",
            ),
            bundle_fetches: Fetch::ALL.iter().map(|result| fetches.bind(&[KeyValue::new("result", result.as_str())])).collect(),
            key_fetches: Fetch::ALL.iter().map(|result| keys.bind(&[KeyValue::new("result", result.as_str())])).collect(),
            credentials_reused: counter(
                "doorward.credentials.reused",
                "Credentials presented by a workload after another workload, or in another zone than before, by kind and signal.",
            ),
            svids_for_many: counter(
                "doorward.tokens.jwt_svids.many_audiences",
                "JWT-SVIDs presented that name more than one audience, each of whom could use them with the others.",
            ),
            sessions: meter.u64_gauge("doorward.sessions").with_description("Sessions that are remembered.").build(),
            principals: meter
                .u64_gauge("doorward.sessions.principals")
                .with_description("Principals that something is remembered of.")
                .build(),
            trust_states: meter
                .u64_gauge("doorward.trust.state")
                .with_description("1 for the state that a stream of the Workload API is in, 0 for the others.")
                .build(),
            trust_ages: meter
                .f64_gauge("doorward.trust.age")
                .with_unit("s")
                .with_description(
                    "How long nobody has confirmed what a stream of the Workload API said last; 0 while it is current.",
                )
                .build(),
            peers: EVIDENCE.iter().map(|evidence| peers.bind(&[KeyValue::new("evidence", *evidence)])).collect(),
            trust_reloads: reloads("doorward.trust.reloads", "Attempts to read the trust bundles."),
            config_reloads: reloads("doorward.config.reloads", "Attempts to read the configuration again."),
            callers_refused: Transport::ALL
                .iter()
                .map(|transport| refused.bind(&[KeyValue::new("listener", transport.as_str())]))
                .collect(),
            control_calls: counter("doorward.control.calls", "Calls of our own API, by what became of them."),
            revocations: gauge("doorward.revocations", "Revocations that count."),
            grants: gauge("doorward.grants", "Grants that calls may rely on."),
            streams: meter.i64_up_down_counter("doorward.streams.live").with_description("Live streams that are held.").build(),
            streams_ended: counter("doorward.streams.ended", "Streams that are over, by why."),
            streams_refused: counter("doorward.streams.refused", "Streams that rest on no allow, by why."),
            shadow_reloads: reloads("doorward.shadow.reloads", "Attempts to load the second policy set."),
            shadow: Compared::ALL.iter().map(|result| shadow.bind(&[KeyValue::new("result", result.as_str())])).collect(),
            shadow_by_rule: counter("doorward.shadow.differences", "Calls that a second policy set answered otherwise, by rule."),
            shadow_rules: Rules::default(),
            policy_limits,
            limited_rules: Rules::default(),
        }
    }

    /// A call to Check has been answered, `code` being our own RPC status: a denial is `Ok` too.
    pub fn call_answered(&self, code: Code, elapsed: Duration) {
        let Some(slot) = self.calls_bound.get(code as usize) else { return };
        let bound = slot.get_or_init(|| {
            self.calls.bind(&[
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", super::trace::METHOD),
                KeyValue::new("rpc.status_code", super::trace::status_text(code)),
            ])
        });
        bound.record(elapsed.as_secs_f64());
    }

    pub fn decided(&self, decision: Decision, reason: Reason, protocol: Protocol, mode: Mode) {
        let index = ((reason as usize * DECISIONS + decision as usize) * PROTOCOLS + protocol as usize) * MODES + mode as usize;
        let Some(slot) = self.decisions_bound.get(index) else { return };
        let bound = slot.get_or_init(|| {
            self.decisions.bind(&[
                KeyValue::new("decision", decision.as_str()),
                KeyValue::new("reason", reason.as_str()),
                KeyValue::new("protocol", protocol.as_str()),
                KeyValue::new("mode", mode.as_str()),
            ])
        });
        bound.add(1);
    }

    pub fn stage(&self, stage: Stage, elapsed: Duration) {
        if let Some(bound) = self.stages.get(stage as usize) {
            bound.record(elapsed.as_secs_f64());
        }
    }

    /// A Check begins to wait for its turn; it waits until the guard is dropped.
    pub fn check_waits(&self) -> Waiting {
        self.waiting.add(1, &[]);
        Waiting { waiting: self.waiting.clone() }
    }

    /// A caller went away before its Check was answered; there is no decision and no record of it.
    pub fn check_cancelled(&self) {
        self.cancelled.add(1);
    }

    pub fn recorded(&self, kind: RecordKind, result: RecordResult, count: u64) {
        if let Some(bound) = self.records.get(kind as usize * RecordResult::ALL.len() + result as usize) {
            bound.add(count);
        }
    }

    pub fn records_queued(&self, count: usize) {
        self.records_queue.record(u64::try_from(count).unwrap_or(u64::MAX), &[]);
    }

    pub fn uploaded(&self, result: Upload, count: u64) {
        if let Some(bound) = self.uploads.get(result as usize) {
            bound.add(count);
        }
    }

    pub fn upload_answered(&self, answer: UploadAnswer) {
        add(&self.upload_requests, answer as usize);
    }

    pub fn alerted(&self, result: Alert, count: usize) {
        if let Some(bound) = self.alerts.get(result as usize) {
            bound.add(count as u64);
        }
    }

    /// So many are not over.
    pub fn alerts_active(&self, count: usize) {
        self.alerts_active.record(count as u64, &[]);
    }

    pub fn policy_reloaded(&self, result: Reload) {
        add(&self.policy_reloads, result as usize);
    }

    /// The policy in force was loaded at `at`.
    pub fn policy_loaded(&self, at: Now) {
        self.policy_loaded.record(at.since_epoch().as_secs_f64(), &[]);
        self.limited_rules.clear();
    }

    /// An evaluation failed, and stood at `rule`. Counted if the reason is a limit. The policy's author wrote the rules,
    /// and no client, but there may be many: the first [`RULES`] of a policy are labels.
    pub fn policy_failed(&self, reason: Reason, rule: &str) {
        let limit = match reason {
            Reason::PolicyTimeout => Limit::Time,
            Reason::PolicyLimit => Limit::Growth,
            _ => return,
        };
        let rule = KeyValue::new("rule", self.limited_rules.label(rule));
        self.policy_limits.add(1, &[rule, KeyValue::new("limit", limit.as_str())]);
    }

    pub fn bundle_fetched(&self, result: Fetch) {
        add(&self.bundle_fetches, result as usize);
    }

    pub fn keys_fetched(&self, result: Fetch) {
        add(&self.key_fetches, result as usize);
    }

    /// `kind` is one of the closed words of `identity::token::Kind`.
    pub fn credential_reused(&self, kind: &'static str, signal: SignalName) {
        self.credentials_reused.add(1, &[KeyValue::new("kind", kind), KeyValue::new("signal", signal.as_str())]);
    }

    /// JWT-SVIDs that were presented and name more than one audience.
    pub fn svids_for_many(&self, count: usize) {
        if count > 0 {
            self.svids_for_many.add(count as u64, &[]);
        }
    }

    /// How full the tables of the sessions are.
    pub fn sessions(&self, sessions: usize, principals: usize) {
        self.sessions.record(sessions as u64, &[]);
        self.principals.record(principals as u64, &[]);
    }

    pub fn trust_reloaded(&self, result: Reload) {
        add(&self.trust_reloads, result as usize);
    }

    pub fn trust_state(&self, source: Material, phase: Phase, age: Option<Duration>) {
        let source = KeyValue::new("source", source.as_str());
        for state in Phase::ALL {
            self.trust_states.record(u64::from(state == phase), &[source.clone(), KeyValue::new("state", state.as_str())]);
        }
        if let Some(age) = age {
            self.trust_ages.record(age.as_secs_f64(), &[source]);
        }
    }

    /// A call was decided whose peer was proved so, or not at all.
    pub fn peer_proved(&self, evidence: Option<Evidence>) {
        add(
            &self.peers,
            match evidence {
                None => 0,
                Some(Evidence::Sidecar) => 1,
                Some(Evidence::Envoy) => 2,
                Some(Evidence::Own) => 3,
            },
        );
    }

    pub fn config_reloaded(&self, result: Reload) {
        add(&self.config_reloads, result as usize);
    }

    pub fn shadow_reloaded(&self, result: Reload) {
        add(&self.shadow_reloads, result as usize);
    }

    /// Counts a comparison, a difference also by the author's name of a rule. A policy may make that up from a request,
    /// so only the first [`RULES`] names are labels.
    pub fn shadow_compared(&self, compared: Compared, rule: Option<&str>) {
        add(&self.shadow, compared as usize);
        if !matches!(compared, Compared::Same | Compared::Dropped) {
            let rule = rule.map_or_else(|| "unnamed".to_owned(), |rule| self.shadow_rules.label(rule));
            self.shadow_by_rule.add(1, &[KeyValue::new("result", compared.as_str()), KeyValue::new("rule", rule)]);
        }
    }

    /// `method` is one that our own API has, or `other`.
    pub fn control_called(&self, method: &str, code: Code) {
        let status = KeyValue::new("rpc.status_code", super::trace::status_text(code));
        self.control_calls.add(1, &[KeyValue::new("rpc.method", method.to_owned()), status]);
    }

    /// So many count now.
    pub fn control_state(&self, revocations: usize, grants: usize) {
        self.revocations.record(u64::try_from(revocations).unwrap_or(u64::MAX), &[]);
        self.grants.record(u64::try_from(grants).unwrap_or(u64::MAX), &[]);
    }

    pub fn stream_opened(&self) {
        self.streams.add(1, &[]);
    }

    pub fn stream_closed(&self) {
        self.streams.add(-1, &[]);
    }

    /// `reason` is one of the closed words of `stream::End`.
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// `reason` is one of the closed words of `envoy::ext_proc`.
    pub fn stream_refused(&self, reason: &'static str) {
        self.streams_refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub fn caller_refused(&self, transport: Transport) {
        add(&self.callers_refused, transport as usize);
    }
}

/// Counts one Check as waiting until it is dropped.
#[derive(Debug)]
#[must_use = "the Check waits only as long as this lives"]
pub struct Waiting {
    waiting: UpDownCounter<i64>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.add(-1, &[]);
    }
}

/// Places for instruments that are bound when first used, so that combinations which never happen are never exported.
fn unbound<T>(count: usize) -> Vec<OnceLock<T>> {
    std::iter::repeat_with(OnceLock::new).take(count).collect()
}

fn add(counters: &[BoundCounter<u64>], index: usize) {
    if let Some(bound) = counters.get(index) {
        bound.add(1);
    }
}
