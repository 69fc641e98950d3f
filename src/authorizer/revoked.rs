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
    let session = || Some(session::id(caller.principal.as_ref()?, &behaviour::key(caller)));
    let facts = Facts {
        peer: caller.peer.as_deref(),
        presented: &caller.presented,
        owner: context.workload.iter().flatten().find_map(|workload| workload.owner.as_deref()),
        session: snapshot.has_sessions().then(session).flatten(),
        // Nobody opens tasks or gives grants yet.
        task: None,
        grants: &[],
        backdates: &call.settings.backdates,
    };
    snapshot.check(&facts, call.now)
}
