//! A second policy set beside the one in force, asked about the same calls after they have been answered. It changes
//! no answer: what it says is compared, counted, and recorded where it differs. A thread of its own evaluates, fed by
//! a bounded queue that drops when it is full.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use uuid::Uuid;

use super::{concluded, finish::warnings};
use crate::{
    clock::Now,
    config::{self, Compat},
    policy::{
        PolicySet, PolicyStore,
        decision::Outcome,
        input::{Facts, Input},
    },
    record::{Body, PolicyRef, Record, Recorder, ShadowAnswer, ShadowRecord},
    telemetry::metrics::{Compared, Metrics},
    verdict::{Mode, Reason},
};

/// Calls that may wait for the shadow's answer.
const QUEUE: usize = 1024;
/// The stack that the deepest policy needs which loads.
const STACK: usize = 16 * 1024 * 1024;

/// How the shadow is asked; a part of the settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSettings {
    /// Share of calls, 0 to 1.
    sample: f64,
    /// The rule that decides, as configured.
    rule: Arc<str>,
    compat: Option<Compat>,
    evaluation: Duration,
}

impl ShadowSettings {
    pub(super) fn new(policy: &config::Policy) -> Option<Self> {
        let sample = policy.shadow.as_ref()?.sample;
        let shadow = policy.of_shadow()?;
        let rule = shadow.decision.as_str().into();
        Some(Self { sample, rule, compat: shadow.compat, evaluation: shadow.limits.evaluation.duration() })
    }

    /// Whether this call is in the sample. The last bits of a decision id are random.
    fn takes(&self, id: Uuid) -> bool {
        let [.., a, b, c, d] = *id.as_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) < self.sample * f64::from(u32::MAX) || self.sample >= 1.0
    }
}

/// What the policy in force said to one call, to be compared.
pub(super) struct Said<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) result: Option<&'a serde_json::Value>,
    pub(super) policy: &'a PolicySet,
    pub(super) rule: &'a Arc<str>,
}

/// A call that is taken: with the input as the shadow's set reads it, built with what was in force when it was decided.
#[derive(Debug)]
pub(super) struct Taken {
    set: Arc<PolicySet>,
    input: Input,
    settings: ShadowSettings,
    now: Now,
}

/// Feeds the shadow's thread.
#[derive(Debug)]
pub struct Shadow {
    policies: Arc<PolicyStore>,
    queue: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

struct Job {
    taken: Taken,
    id: Uuid,
    in_force: ShadowAnswer,
}

impl Shadow {
    /// Starts the thread, which ends with the last feeder. `policies` holds the shadow's set, when there is one.
    pub fn start(policies: Arc<PolicyStore>, recorder: Recorder, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let counts = Arc::clone(&metrics);
        std::thread::Builder::new().name("shadow".to_owned()).stack_size(STACK).spawn(move || work(&jobs, &recorder, &counts))?;
        Ok(Self { policies, queue, metrics })
    }

    /// Takes the call if it is in the sample and a set is loaded.
    pub(super) fn take(&self, settings: Option<&ShadowSettings>, id: Uuid, facts: &Facts<'_>) -> Option<Taken> {
        let settings = settings.filter(|settings| settings.takes(id))?;
        let set = self.policies.current()?;
        Some(Taken { input: Input::build(facts, &set), set, settings: settings.clone(), now: facts.now })
    }

    /// Hands a taken call over, or drops and counts it.
    pub(super) fn compare(&self, taken: Taken, said: &Said<'_>) {
        let Said { outcome, result, policy, rule } = *said;
        let job = Job { taken, id: outcome.id, in_force: answer(outcome, result.cloned(), policy, rule) };
        if self.queue.try_send(job).is_err() {
            self.metrics.shadow_compared(Compared::Dropped, None);
        }
    }
}

fn work(jobs: &Receiver<Job>, recorder: &Recorder, metrics: &Metrics) {
    for Job { taken, id, in_force } in jobs {
        let Taken { set, input, settings, now } = taken;
        let value = set.evaluate(&input, settings.evaluation);
        let (outcome, result) = match value {
            Ok(value) => (concluded(id, Mode::Observe, settings.compat, value.as_ref(), None), value),
            Err(failure) => (Outcome::denied(id, Mode::Observe, failure.reason, Some(failure.detail)), None),
        };
        let shadow = answer(&outcome, result, &set, &settings.rule);
        let compared = compare(&in_force, &shadow);
        metrics.shadow_compared(compared, shadow.rule.as_deref().or(in_force.rule.as_deref()));
        if compared != Compared::Same {
            let body = ShadowRecord { decision_id: id, difference: compared, in_force, shadow };
            recorder.offer(Record { id: Uuid::now_v7(), at: now, body: Body::Shadow(Box::new(body)) });
        }
    }
}

fn answer(outcome: &Outcome, result: Option<serde_json::Value>, policy: &PolicySet, rule: &Arc<str>) -> ShadowAnswer {
    let answer = outcome.answer.as_ref();
    ShadowAnswer {
        decision: answer.map_or(outcome.decision, |answer| answer.decision),
        reason: outcome.reason,
        rule: answer.and_then(|answer| answer.rule.clone()),
        policy_reason: answer.and_then(|answer| answer.reason.clone()),
        detail: outcome.detail.clone().or_else(|| answer.and_then(warnings)),
        result,
        policy: PolicyRef::new(policy, Arc::clone(rule)),
    }
}

fn compare(in_force: &ShadowAnswer, shadow: &ShadowAnswer) -> Compared {
    let failed = |answer: &ShadowAnswer| answer.reason != Reason::Policy;
    match () {
        () if in_force.decision != shadow.decision => Compared::Decision,
        () if failed(shadow) != failed(in_force) => Compared::Failed,
        () if in_force.result != shadow.result => Compared::Answer,
        () => Compared::Same,
    }
}
