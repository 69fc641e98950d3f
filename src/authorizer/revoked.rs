//! What a call is held against the revocations with.

use std::sync::Arc;

use super::{Call, behaviour, caller::Caller};
use crate::{
    context::Context,
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
