//! What a call is held against the revocations with.

use std::sync::Arc;

use super::{Authorizer, Call, behaviour, caller::Caller};
use crate::{
    clock::Now,
    context::Context,
    identity::{Peer, tokens::Presented},
    revocation::{Facts, Revocation, Snapshot},
    session,
};

/// The revocation that the call falls under.
pub(super) fn check(snapshot: &Snapshot, call: &Call<'_>, caller: &Caller, context: &Context) -> Option<Arc<Revocation>> {
    if snapshot.is_empty() {
        return None;
    }
    let session = || Some(session::id(caller.principal.as_ref()?, &behaviour::key(caller, context.task.as_ref())));
    let facts = Facts {
        peer: caller.peer.as_deref(),
        presented: &caller.presented,
        owner: context.workload.iter().flatten().find_map(|workload| workload.owner.as_deref()),
        session: snapshot.has_sessions().then(session).flatten(),
        task: context.task.as_deref(),
        // A call may do without a grant: one that was withdrawn is out of `context` already.
        grants: &[],
        backdates: &call.settings.backdates,
    };
    snapshot.check(&facts, call.now)
}

impl Authorizer {
    /// What a workload falls under that calls our own API, where it shows nothing but its certificate.
    pub fn revoked_peer(&self, peer: &Peer, owner: Option<&str>, now: Now) -> Option<Arc<Revocation>> {
        let settings = self.settings.load();
        let facts = Facts {
            peer: Some(peer),
            presented: &Presented::default(),
            owner,
            session: None,
            task: None,
            grants: &[],
            backdates: &settings.backdates,
        };
        self.control.revocations.current().check(&facts, now)
    }
}
