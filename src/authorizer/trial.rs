//! One question answered outside of serving, for the author of a policy: by the same steps as a call's, in the same order,
//! but without permit, record and shadow. In return it tells what the policy did on the way.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use uuid::Uuid;

use super::{Settings, caller::Caller, concluded, gates, refused_before};
use crate::{
    clock::Now,
    context::Context,
    identity::Who,
    policy::{
        Drawn, Failure, PolicySet,
        decision::Outcome,
        input::{Here, Input},
        inspect::{Explanation, Opened},
    },
    request::Request,
    verdict::Reason,
};

/// The stack that the deepest policy needs which loads; decisions run on as much.
const STACK: usize = 16 * 1024 * 1024;
/// Longest time for the evaluations around the one that counts.
const ASIDE: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Debug)]
pub enum Asked<'a> {
    /// A call. `unparsable` says what of it could not be parsed.
    Call { request: &'a Request, unparsable: Option<String>, who: Who, here: &'a Here },
    /// An input document as it stands, and what the policy drew when it was asked before.
    Document { input: &'a Value, drawn: &'a Drawn },
}

/// The answer, and how it came about.
#[derive(Debug)]
pub struct Answered {
    pub outcome: Outcome,
    /// The value of the decision rule, as the policy gave it.
    pub result: Option<Value>,
    /// The whole input document.
    pub input: Value,
    /// Absent where the policy was not asked.
    pub evaluated: Option<Evaluated>,
}

#[derive(Debug)]
pub struct Evaluated {
    /// Of an evaluation on a warm engine.
    pub took: Duration,
    pub explanation: Explanation,
}

/// What is asked, in the form that a policy is.
#[derive(Debug)]
pub struct Built {
    /// Or why the call is denied before any policy is asked.
    pub input: Result<Input, (Reason, Option<String>)>,
    /// The whole input document.
    document: Value,
    /// What is left of the peer's credential.
    life: Option<Duration>,
}

/// Builds the input for what is asked at `now`.
pub fn build(asked: &Asked<'_>, policy: &Opened, settings: &Settings, now: Now) -> Built {
    match asked {
        Asked::Document { input, .. } => Built { input: Ok(Input::of_json(input, now)), document: (*input).clone(), life: None },
        Asked::Call { request, unparsable, who, here } => {
            let caller = Caller::from(who.clone());
            let context = Context::gather(policy.set.documents(), request, caller.peer.as_deref(), Vec::new(), now);
            // Whoever asks has put our own ID among `here`.
            let facts = caller.facts(request, &context, here, now);
            let document = serde_json::from_slice(&facts.masked(&|_, _, _| None)).unwrap_or_default();
            let refused = caller.refused(settings.compat).map(|reason| (reason, None));
            let refused = refused_before(settings.compat, request, refused, unparsable.clone());
            // There is no session here: the path that led to the call is not judged.
            let tier = || gates::tier(&context, policy.set.documents().tiers, caller.peer.as_deref(), &caller.presented);
            let input = match (refused, tier()) {
                (Some(refused), _) => Err(refused),
                (None, Err((reason, detail))) => Err((reason, Some(detail))),
                (None, Ok(())) => Ok(Input::build(&facts, &policy.set)),
            };
            Built { input, document, life: caller.remaining_life(now) }
        }
    }
}

/// Answers what is asked at `now`.
pub fn answer(asked: &Asked<'_>, policy: &Opened, settings: &Settings, now: Now) -> Answered {
    let id = Uuid::now_v7();
    let Built { input, document, life } = build(asked, policy, settings, now);
    let drawn = match asked {
        Asked::Document { drawn, .. } => Drawn::clone(drawn),
        Asked::Call { .. } => Drawn::new(),
    };
    match input {
        Ok(input) => {
            let (outcome, result, evaluated) = evaluate(id, (&input, &document), &drawn, life, policy, settings);
            Answered { outcome, result, input: document, evaluated: Some(evaluated) }
        }
        Err((reason, detail)) => {
            let outcome = Outcome::denied(id, settings.mode, reason, detail);
            Answered { outcome, result: None, input: document, evaluated: None }
        }
    }
}

/// Evaluates on a thread with the stack it needs: once to warm up, as a sidecar is; then for the answer; then to explain.
fn evaluate(
    id: Uuid,
    (input, document): (&Input, &Value),
    drawn: &Drawn,
    life: Option<Duration>,
    policy: &Opened,
    settings: &Settings,
) -> (Outcome, Option<Value>, Evaluated) {
    let work = || {
        let limit = settings.evaluation;
        let _ = policy.set.evaluate(input, limit.max(ASIDE));
        let attempt = || {
            PolicySet::give_drawn(drawn);
            let began = Instant::now();
            (policy.set.evaluate(input, limit), began.elapsed())
        };
        let late =
            |(value, _): &(Result<_, Failure>, _)| value.as_ref().is_err_and(|failure| failure.reason == Reason::PolicyTimeout);
        let first = attempt();
        // A busy machine is not the policy's fault.
        let (value, took) = if late(&first) { attempt() } else { first };
        let drawn = PolicySet::take_drawn();
        (value, Evaluated { took, explanation: policy.explain(input, document, &drawn, limit.max(ASIDE)) })
    };
    let done = thread::scope(|scope| {
        let thread = thread::Builder::new().name("trial".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        thread.ok()?.join().ok()
    });
    match done {
        Some((value, evaluated)) => {
            let (result, outcome) = match value {
                Ok(value) => (value.clone(), concluded(id, settings.mode, settings.compat, value.as_ref(), life)),
                Err(failure) => (None, Outcome::denied(id, settings.mode, failure.reason, Some(failure.detail))),
            };
            (outcome, result, evaluated)
        }
        None => {
            let outcome = Outcome::denied(id, settings.mode, Reason::InternalError, Some("the evaluation broke off".to_owned()));
            (outcome, None, Evaluated { took: Duration::ZERO, explanation: Explanation::default() })
        }
    }
}
