//! What is enforced whatever the policy says: what the tier of an action asks of a call before the policy is asked, and
//! what the catalogue says about the path that led to it. The policy may only refuse more.

use std::sync::Arc;

use crate::{
    action::{
        Entry, GrantRule,
        tier::{Proof, Tiers},
    },
    context::Context,
    grant::Grant,
    identity::{
        Peer,
        token::{Binding, Kind},
        tokens::{Bound, Presented},
    },
    verdict::{Evidence, Reason, Tier},
};

/// Why a call is denied, with a text for its record.
pub(super) type Denial = (Reason, String);

/// Whether the tier of the action takes the call.
pub(super) fn tier(context: &Context, tiers: &Tiers, peer: Option<&Peer>, presented: &Presented) -> Result<(), Denial> {
    if context.action.entry.as_ref().is_some_and(|entry| entry.is_public) {
        return Ok(());
    }
    let is_proved_here = peer.is_some_and(|peer| matches!(peer.evidence, Evidence::Sidecar | Evidence::Own));
    // A transaction token goes from hand to hand by design, and is no authentication.
    let is_loose = |bound: &Bound| bound.binding == Binding::None && bound.token.kind != Kind::Transaction;
    let wanted = match tiers.evidence(context.tier) {
        Some(Proof::Credential) if peer.is_none() && presented.tokens.is_empty() => Some("a verified credential"),
        Some(Proof::Peer) if peer.is_none() => Some("a verified peer"),
        Some(Proof::Sidecar) if !is_proved_here => Some("a peer whose certificate chain is checked here"),
        Some(Proof::Sidecar) if presented.tokens.iter().any(is_loose) => Some("every token to be bound to the peer"),
        _ => None,
    };
    if let Some(wanted) = wanted {
        return Err((Reason::TierEvidence, format!("tier {} wants {wanted}", context.tier.as_str())));
    }
    if context.tier == Tier::Strict && !context.action.body_complete {
        return Err((Reason::TierBodyIncomplete, "tier strict wants the whole body".to_owned()));
    }
    if context.tier == Tier::Strict && !context.action.is_known() {
        let why = context.action.error.unwrap_or("not in the catalogue");
        return Err((Reason::TierUnknownAction, format!("tier strict wants a known action: {why}")));
    }
    Ok(())
}

/// Whether the path that led here permits the action, and the grant that it does so by. `labels` are those that the session
/// and its principal had before this call; `complete` is false where some may have been forgotten. `grant` is one that
/// covers the call.
pub(super) fn path<'a>(
    entry: &Entry,
    labels: &[Arc<str>],
    complete: bool,
    grant: Option<&'a Arc<Grant>>,
) -> Result<Option<&'a Arc<Grant>>, Denial> {
    if let Some(missing) = entry.requires.iter().find(|label| !labels.contains(label)) {
        return Err((Reason::PathRequires, format!("`{}` requires `{missing}`", entry.name)));
    }
    if entry.grant == GrantRule::Always {
        return grant.map(Some).ok_or_else(|| (Reason::GrantRequired, format!("`{}` needs a grant", entry.name)));
    }
    let lifted = grant.filter(|_| entry.grant == GrantRule::AfterLabel);
    let forbidding = entry.forbid_after.iter().find(|label| labels.contains(label));
    let refused = match forbidding {
        Some(label) => (Reason::PathForbidden, format!("`{}` is forbidden after `{label}`", entry.name)),
        None if !entry.forbid_after.is_empty() && !complete => {
            (Reason::SessionIncomplete, format!("`{}` is forbidden after labels that may have been forgotten", entry.name))
        }
        None => return Ok(None),
    };
    lifted.map(Some).ok_or(refused)
}
