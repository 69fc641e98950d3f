//! Allows that go on as streams: which routes have them, what each rests on, and whether that still holds. `stream` keeps
//! them, `envoy/ext_proc` holds them.

use std::{sync::Arc, time::Instant as Clock};

use uuid::Uuid;

use super::{Authorizer, Call, caller::Caller};
use crate::{
    clock::{self, Now},
    context::Context,
    grant,
    policy::decision::Outcome,
    request::Request,
    revocation::{self, Snapshot},
    session::{Key, Sessions},
    stream::{Facts, Full, Refused, Stream, Streams},
    verdict::{Mode, Reason},
};

/// A route says by this context extension that Envoy has its streams held by us.
const STREAM: &str = "doorward-stream";

/// A call that may become a stream.
pub(super) struct Opening {
    facts: Facts,
    generation: u64,
}

impl Opening {
    /// None where the route has no streams. `generation` is from before the caller was looked at.
    pub(super) fn of(request: &Request, caller: &Caller, context: &Context, generation: u64) -> Option<Self> {
        if request.context_extensions.get(STREAM).is_none_or(|value| value != "1") {
            return None;
        }
        let facts = Facts {
            principal: caller.principal.clone(),
            peer: caller.peer.clone(),
            presented: caller.presented.clone(),
            owner: context.workload.iter().flatten().find_map(|workload| workload.owner.clone()),
            session: None,
            task: context.task.clone(),
            grant: None,
            ends: None,
        };
        Some(Self { facts, generation })
    }
}

impl Authorizer {
    /// Remembers what is let through as a stream. One too many is a denial of its own, whatever the policy says.
    pub(super) fn hold(
        &self,
        call: &Call<'_>,
        outcome: Outcome,
        opening: Option<Opening>,
        session: Option<u64>,
        grant: Option<Uuid>,
    ) -> Outcome {
        let Some(Opening { facts, generation }) = opening.filter(|_| outcome.is_allow() || outcome.mode == Mode::Observe) else {
            return outcome;
        };
        let ends = outcome.lease.map(|lease| call.now.after(lease));
        match self.streams.remember(outcome.id, Facts { session, grant, ends, ..facts }, generation, Clock::now()) {
            Ok(()) => outcome,
            Err(Full) => {
                let detail = "as many streams are open as there may be (`limits.streams`, `limits.streams_per_principal`)";
                Outcome::denied(outcome.id, call.settings.mode, Reason::TooManyStreams, Some(detail.to_owned()))
            }
        }
    }

    /// The stream of an allow, for who holds it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn claim(&self, id: Uuid) -> Result<Stream, Refused> {
        self.streams.claim(id, Clock::now(), |facts| self.gone(facts))
    }

    /// Why what a stream rests on does not hold any more.
    fn gone(&self, facts: &Facts) -> Option<Reason> {
        let has_ended = |(principal, session): (&Arc<str>, u64)| self.sessions.has_ended(principal, session);
        let ended = facts.principal.as_ref().zip(facts.session).is_some_and(has_ended);
        let now = clock::now();
        let revoked = || self.is_revoked(&self.control.revocations.current(), facts, now).then_some(Reason::Revoked);
        if ended {
            Some(Reason::SessionEnded)
        } else {
            revoked().or_else(|| self.is_over(&self.control.grants.current(), facts, now))
        }
    }

    /// Ends the live streams that fall under a revocation, or whose grant or task is over; how many those are. What they fall
    /// under has to be in force already.
    pub fn cut(&self, now: Now) -> usize {
        let (revocations, grants) = (self.control.revocations.current(), self.control.grants.current());
        // In observe nothing is enforced, and nothing may fail.
        if self.settings.load().mode == Mode::Observe {
            return 0;
        }
        self.streams.cut(|facts| match self.is_revoked(&revocations, facts, now) {
            true => Some(Reason::Revoked),
            false => self.is_over(&grants, facts, now),
        })
    }

    fn is_revoked(&self, snapshot: &Snapshot, facts: &Facts, now: Now) -> bool {
        if snapshot.is_empty() {
            return false;
        }
        let Facts { peer, presented, owner, session, task, grant, .. } = facts;
        let grant = grant.map(|id| id.to_string());
        let (grant, settings) = (grant.as_deref(), self.settings.load());
        let facts = revocation::Facts {
            peer: peer.as_deref(),
            presented,
            owner: owner.as_deref(),
            session: *session,
            task: task.as_deref(),
            grants: grant.as_slice(),
            backdates: &settings.backdates,
        };
        snapshot.check(&facts, now).is_some()
    }

    /// Why the grant or the task of a stream does not hold any more. A grant that is used up goes on for the stream that has
    /// used it.
    fn is_over(&self, grants: &grant::Snapshot, facts: &Facts, now: Now) -> Option<Reason> {
        let Facts { principal, task, grant, .. } = facts;
        if task.is_none() && grant.is_none() {
            return None;
        }
        let (granted, now) = (grants.of(principal.as_deref().unwrap_or_default()), self.control.grants.now(now));
        let holds = |id: &Uuid| granted.iter().any(|known| known.id == *id && known.until().is_some_and(|until| now < until));
        if task.as_ref().is_some_and(|task| !granted.iter().any(|known| known.scope.task.as_ref() == Some(task))) {
            return Some(Reason::TaskEnded);
        }
        grant.as_ref().is_some_and(|id| !holds(id)).then_some(Reason::GrantEnded)
    }
}

/// Ends a session of which `id` is the name, and the streams in it.
pub(super) fn end_session(sessions: &Sessions, streams: &Streams, principal: &Arc<str>, (key, id): (&Key, u64), now: Now) {
    // A call in a session that was ended must not make us go through all streams.
    let is_new = !sessions.has_ended(principal, id);
    if sessions.end(principal, key, now) && is_new {
        streams.end_session(id);
    }
}
