//! What a call is permitted by grants: those of its principal, the one that an allow relies on, and what a denial gives to
//! ask for one with.

use std::sync::Arc;

use tokio::time::timeout_at;

use super::{Asked, Authorizer, Call, Findings, caller::Caller};
use crate::{
    action::GrantRule,
    context::Context,
    grant::{Denied, Grant, GrantError, request_token::RequestToken},
    policy::decision::Outcome,
    revocation::Snapshot,
    verdict::{Mode, Reason},
};

impl Authorizer {
    /// Adds to `context` what the caller is granted.
    pub(super) fn hold_grants(&self, call: &Call<'_>, caller: &Caller, revocations: &Snapshot, context: &mut Context) {
        let grants = self.control.grants.current();
        let Some(peer) = caller.peer.as_ref() else { return };
        let claim = call.settings.task_claim.as_deref();
        let mut tokens = caller.presented.tokens.iter().map(|bound| &bound.token);
        let claimed = claim.and_then(|claim| tokens.find_map(|token| token.text(claim)));
        context.task_ended = claimed.is_some_and(|task| grants.has_ended(&peer.text, task));
        let granted = grants.of(&peer.text);
        if granted.is_empty() {
            return;
        }
        context.hold(granted, claimed, revocations, self.control.grants.now(call.now));
    }

    /// Holds an allow against the grant that it relies on: the one that the path was open by, else the one that the policy
    /// names. It has to be live, and a limited one is counted before anybody hears of the allow.
    pub(super) async fn rely(&self, asked: &Asked<'_>, context: &Context, findings: &mut Findings, outcome: Outcome) -> Outcome {
        if !outcome.is_allow() {
            return outcome;
        }
        let named = outcome.answer.as_ref().and_then(|answer| answer.grant);
        let grant = match (&findings.grant, named) {
            (Some(grant), _) => grant,
            (None, None) => return outcome,
            (None, Some(id)) => match (context.granted(id), context.withdrawn()) {
                (Some(grant), _) => grant,
                (None, Some(hit)) if context.withdrawn.iter().any(|withdrawn| withdrawn.grant.id == id) => {
                    let (reason, detail) = findings.revoked(Arc::clone(hit));
                    return asked.denied(reason, detail);
                }
                (None, _) => {
                    let detail = format!("grant {id} of the policy's answer is not live, or does not cover the call");
                    return asked.denied(Reason::GrantInvalid, Some(detail));
                }
            },
        };
        let grant = Arc::clone(grant);
        let relied = match grant.scope.max_uses {
            None => self.is_granted(&grant, asked.call),
            Some(_) => self.count(&grant, asked).await,
        };
        if let Err((reason, detail)) = relied {
            return asked.denied(reason, Some(detail));
        }
        let now = self.control.grants.now(asked.call.now);
        let left = grant.until().map(|until| until.since_epoch().saturating_sub(now.since_epoch()));
        findings.grant = Some(grant);
        Outcome { lease: [outcome.lease, left].into_iter().flatten().min(), ..outcome }
    }

    /// Whether a grant without a number of uses still holds.
    fn is_granted(&self, grant: &Grant, call: &Call<'_>) -> Result<(), (Reason, String)> {
        let now = self.control.grants.now(call.now);
        let current = self.control.grants.current();
        let holds = current.of(&grant.subject).iter().any(|known| known.id == grant.id && known.is_live(now));
        holds.then_some(()).ok_or_else(|| (Reason::GrantEnded, format!("grant {} ended meanwhile", grant.id)))
    }

    /// Counts a use, which is on the disk when this returns.
    async fn count(&self, grant: &Arc<Grant>, asked: &Asked<'_>) -> Result<(), (Reason, String)> {
        let (id, decision, now) = (grant.id, asked.id, asked.call.now);
        let counted = async {
            let turn = Arc::clone(&self.uses).lock_owned().await;
            let control = self.control.clone();
            let count = move || {
                // Kept until it is counted, even if nobody waits any more.
                let _turn = turn;
                control.grants.use_once(&control.journal, id, decision, now)
            };
            tokio::task::spawn_blocking(count).await
        };
        let (reason, detail) = match timeout_at(asked.call.deadline, counted).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error @ GrantError::State(_)))) => (Reason::GrantUnavailable, error.to_string()),
            Ok(Ok(Err(error))) => (Reason::GrantEnded, error.to_string()),
            Ok(Err(_)) => (Reason::GrantUnavailable, "counting it broke off".to_owned()),
            Err(_) => (Reason::GrantUnavailable, "it was not counted in time".to_owned()),
        };
        Err((reason, format!("grant {id}: {detail}")))
    }

    /// What a denied caller may ask for a grant with, where the policy or the catalogue says that one would help. Only a
    /// verified peer gets it, and only where somebody could grant.
    pub(super) fn requestable(
        &self,
        call: &Call<'_>,
        outcome: &Outcome,
        caller: Option<&Caller>,
        context: &Context,
    ) -> Option<RequestToken> {
        if outcome.goes_through() || outcome.mode == Mode::Observe {
            return None;
        }
        let (peer, entry) = (caller?.peer.as_ref()?, context.action.entry.as_ref()?);
        let by_policy = outcome.carried().is_some_and(|answer| answer.requestable);
        let by_catalogue = outcome.reason.is_about_a_grant() && entry.grant != GrantRule::Never;
        if !(by_policy || by_catalogue) || self.control.journal.epoch().is_none() {
            return None;
        }
        let resource = context.action.resource.as_ref();
        let denied = Denied {
            decision: outcome.id.to_string(),
            action: (*entry.name).to_owned(),
            resource: resource.map(|resource| match &resource.id {
                Some(id) => format!("{}/{id}", resource.kind),
                None => resource.kind.to_string(),
            }),
            tenant: resource.and_then(|resource| resource.tenant.as_ref()).map(ToString::to_string),
        };
        Some(self.control.request_tokens.make(&peer.text, denied, call.now))
    }
}
