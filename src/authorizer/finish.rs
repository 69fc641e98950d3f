//! The end of a decision: its record, what telemetry counts, and what it leaves in the session.

use std::{sync::Arc, time::Instant as Clock};

use super::{Authorizer, Call, Decided, Findings, caller::Caller, shadow::Said, stream::end_session};
use crate::{
    config::RecordWrite,
    context::Context,
    identity::lifetime::Lifetimes,
    policy::decision::{Answer, Outcome},
    record::{ActionRecord, Body, DecisionRecord, PeerRecord, PolicyRef, Record},
    request::Request,
    session::{Intent, Key},
    telemetry::metrics::Stage,
    verdict::{Decision, Mode, Reason, Tier},
};

impl Authorizer {
    /// Writes the record, which may still turn an allow into a denial, and counts.
    pub(super) async fn finish(&self, call: &Call<'_>, request: &Request, mut outcome: Outcome, findings: Findings) -> Decided {
        let Findings { caller, peer, principal, context, epoch, revocation, grant, intent, session, .. } = findings;
        let Findings { opening, input, policy, result, drawn, evaluation, taken, .. } = findings;
        if let (Some(taken), Some(policy)) = (taken, &policy) {
            self.shadow.compare(taken, &Said { outcome: &outcome, result: result.as_ref(), policy, rule: &call.settings.rule });
        }
        // A session without a name was not found, or done without.
        let named = session.as_ref().map(|(_, id)| *id).filter(|id| *id != 0);
        let grant = grant.filter(|_| outcome.is_allow()).map(|grant| grant.id);
        outcome = self.hold(call, outcome, opening, named, grant);
        let began = Clock::now();
        self.metrics.peer_proved(peer.as_ref().map(|peer| peer.evidence));
        let answer = outcome.answer.as_ref();
        let protocol = context.as_ref().map_or_else(|| request.protocol(), |context| context.action.protocol);
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
            protocol,
            listener: Arc::clone(&call.listener.name),
            principal: principal.clone(),
            action: context.as_ref().map(|context| ActionRecord::new(context, session.as_ref().map(|(_, id)| *id))),
            lifetimes: caller.as_ref().map(|caller| Lifetimes::of(peer.as_deref(), &caller.presented)).unwrap_or_default(),
            peer: peer.as_deref().map(PeerRecord::from),
            input,
            policy: policy.as_ref().map(|policy| PolicyRef::new(policy, Arc::clone(&call.settings.rule))),
            lease: outcome.lease,
            latency: call.started.elapsed(),
            request_id: request.http.as_ref().and_then(|http| http.headers.get("x-request-id")).map(str::to_owned),
            trace: call.trace,
            epoch,
            revocation: revocation.map(|hit| hit.id),
            grant,
        };
        outcome = self.write(call, record, outcome, caller.as_ref(), context.as_ref()).await;
        self.metrics.stage(Stage::Record, began.elapsed());
        outcome.request =
            context.as_ref().and_then(|context| self.requestable(call, &outcome, caller.as_ref(), context)).map(Box::new);
        self.metrics.decided(outcome.decision, outcome.reason, protocol, outcome.mode);
        if let (Some(principal), Some(session)) = (&principal, &session) {
            self.settle(call, &outcome, intent, principal, session);
        }
        Decided { outcome, policy, evaluation, context }
    }

    /// Hands the record over, and waits for it where it has to be on the disk: what comes to light meanwhile turns an allow
    /// into a denial.
    async fn write(
        &self,
        call: &Call<'_>,
        body: DecisionRecord,
        outcome: Outcome,
        caller: Option<&Caller>,
        context: Option<&Context>,
    ) -> Outcome {
        let write = match context {
            Some(context) if context.tier == Tier::Strict => RecordWrite::Commit,
            _ => call.settings.write,
        };
        let body = Arc::new(body);
        let record = Record { id: outcome.id, at: call.now, body: Body::Decision(Arc::clone(&body)) };
        if write == RecordWrite::Offer {
            self.recorder.offer(record);
            return outcome;
        }
        let committed = tokio::time::timeout_at(call.deadline, self.recorder.commit(record)).await;
        let failure = match committed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the record was not on disk in time".to_owned()),
        };
        if let Some(detail) = failure {
            self.streams.forget(outcome.id);
            return Outcome::denied(outcome.id, outcome.mode, Reason::RecordUnavailable, Some(detail));
        }
        let mut epoch = body.epoch;
        let (true, Some(caller), Some(context)) = (outcome.goes_through(), caller, context) else { return outcome };
        let Some(hit) = self.revoked_since(call, caller, context, &mut epoch) else { return outcome };
        self.streams.forget(outcome.id);
        let outcome = Outcome::denied(outcome.id, call.settings.mode, Reason::Revoked, Some(hit.text()));
        // What is on the disk says otherwise: of two records of one decision the later one counts.
        let body = DecisionRecord {
            decision: outcome.decision,
            enforced: outcome.mode == Mode::Enforce,
            mode: outcome.mode,
            reason: outcome.reason,
            detail: outcome.detail.clone(),
            lease: None,
            epoch,
            revocation: Some(hit.id),
            ..DecisionRecord::clone(&body)
        };
        self.recorder.offer(Record { id: outcome.id, at: call.now, body: Body::Decision(Arc::new(body)) });
        outcome
    }

    /// What an answer does to the session. Only a denial that is enforced, and that nobody waits for any more, takes its
    /// intent back: after a timeout the call may have been let through by someone who did not hear of it.
    fn settle(&self, call: &Call<'_>, outcome: &Outcome, intent: Option<Intent>, principal: &Arc<str>, session: &(Key, u64)) {
        let timed_out = matches!(outcome.reason, Reason::DeadlineExceeded | Reason::PolicyTimeout | Reason::RecordUnavailable);
        match (outcome.decision, outcome.mode, intent) {
            (Decision::Deny, Mode::Enforce, Some(intent)) if !timed_out => {
                self.sessions.outcome(intent, Decision::Deny, call.now);
            }
            (Decision::Allow, _, Some(intent)) => self.sessions.outcome(intent, Decision::Allow, call.now),
            (Decision::Deny, _, Some(_)) => {}
            (_, _, None) => self.sessions.denied(principal),
        }
        let Some(answer) = outcome.carried() else { return };
        if !answer.labels.is_empty() {
            self.sessions.label(principal, &answer.labels, call.now);
        }
        if answer.end_session {
            let (key, id) = session;
            end_session(&self.sessions, &self.streams, principal, (key, *id), call.now);
        }
    }
}

/// What the author of the policy should know of an answer that was carried out otherwise than written.
pub(super) fn warnings(answer: &Answer) -> Option<String> {
    let texts: Vec<String> = answer.warnings.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}
