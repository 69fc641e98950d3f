//! Allows that go on as streams: which routes have them, what each rests on, and whether that still holds. `stream` keeps
//! them, `envoy/ext_proc` holds them.

use std::{sync::Arc, time::Instant as Clock};

use uuid::Uuid;

use super::{Authorizer, Call, caller::Caller};
use crate::{
    clock::{self, Now},
    context::Context,
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
            ends: None,
        };
        Some(Self { facts, generation })
    }
}

impl Authorizer {
    /// Remembers what is let through as a stream. One too many is a denial of its own, whatever the policy says.
    pub(super) fn hold(&self, call: &Call<'_>, outcome: Outcome, opening: Option<Opening>, session: Option<u64>) -> Outcome {
        let Some(Opening { facts, generation }) = opening.filter(|_| outcome.is_allow() || outcome.mode == Mode::Observe) else {
            return outcome;
        };
        let ends = outcome.lease.map(|lease| call.now.after(lease));
        match self.streams.remember(outcome.id, Facts { session, ends, ..facts }, generation, Clock::now()) {
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
        let revoked = || self.is_revoked(&self.revocations.current(), facts, clock::now());
        if ended { Some(Reason::SessionEnded) } else { revoked().then_some(Reason::Revoked) }
    }

    /// Ends the live streams that fall under a revocation; how many those are. The revocation has to be in force already.
    pub fn cut_revoked(&self, now: Now) -> usize {
        let snapshot = self.revocations.current();
        // In observe nothing is enforced, and nothing may fail.
        if snapshot.is_empty() || self.settings.load().mode == Mode::Observe {
            return 0;
        }
        self.streams.cut(|facts| self.is_revoked(&snapshot, facts, now).then_some(Reason::Revoked))
    }

    fn is_revoked(&self, snapshot: &Snapshot, facts: &Facts, now: Now) -> bool {
        let Facts { peer, presented, owner, session, .. } = facts;
        let facts = revocation::Facts {
            peer: peer.as_deref(),
            presented,
            owner: owner.as_deref(),
            session: *session,
            task: None,
            grants: &[],
            backdates: &self.settings.load().backdates,
        };
        snapshot.check(&facts, now).is_some()
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
