//! Who acts for whom: the chain of actors in a token (RFC 8693 §4.1), or the context of a transaction token. Only the
//! outermost actor says anything about this call; the others are told for the record.

use serde_json::{Map, Value};

use super::{
    Peer,
    token::{Kind, Token},
};
use crate::verdict::Reason;

/// Longest chain.
const MAX_DEPTH: usize = 8;

/// `input.delegation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Where it stands: `act` or `transaction`.
    pub from: &'static str,
    /// On whose behalf: a person or a system. What they approved is a grant, and no claim of a token.
    pub subject: String,
    /// Who executes, outermost first.
    pub actors: Vec<String>,
}

/// The delegation that the first of the tokens tells of. `peer` has to be the outermost actor of an `act` chain: a token
/// that says who acts is good for nobody else.
pub fn delegation<'a>(
    tokens: impl IntoIterator<Item = &'a Token>,
    peer: Option<&Peer>,
    allow_mismatch: bool,
) -> Result<Option<Delegation>, Reason> {
    let mut first = None;
    for token in tokens {
        let found = match (token.claims.get("act"), token.kind) {
            (Some(actor), _) => {
                let found = Delegation { from: "act", subject: token.subject.clone(), actors: actors(actor)? };
                let is_peer = |peer: &Peer| {
                    let named = found.actors.first().is_some_and(|actor| **actor == *peer.text);
                    named || token.identity.as_deref() == Some(&*peer.text)
                };
                if !allow_mismatch && peer.is_some_and(|peer| !is_peer(peer)) {
                    return Err(Reason::ActorMismatch);
                }
                Some(found)
            }
            (None, Kind::Transaction) => in_context(token),
            (None, _) => None,
        };
        first = first.or(found);
    }
    Ok(first)
}

fn actors(actor: &Value) -> Result<Vec<String>, Reason> {
    let mut actors = Vec::new();
    let mut next = Some(actor);
    while let Some(actor) = next {
        if actors.len() == MAX_DEPTH {
            return Err(Reason::DelegationInvalid);
        }
        let subject = actor.get("sub").and_then(Value::as_str).filter(|subject| !subject.is_empty());
        actors.push(subject.ok_or(Reason::DelegationInvalid)?.to_owned());
        next = actor.get("act");
    }
    Ok(actors)
}

/// The agent and who it works for, as the context of a transaction token names them; without a principal the agent works
/// for itself.
fn in_context(token: &Token) -> Option<Delegation> {
    let context = token.claims.get("tctx")?.as_object()?;
    let actor = named(context, "actor")?;
    let subject = named(context, "principal").unwrap_or_else(|| token.subject.clone());
    Some(Delegation { from: "transaction", subject, actors: vec![actor] })
}

fn named(context: &Map<String, Value>, name: &str) -> Option<String> {
    let value = context.get(name)?;
    value.as_str().or_else(|| value.get("sub")?.as_str()).map(str::to_owned)
}
