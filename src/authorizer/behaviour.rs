//! What a caller did before, and what this call leaves behind: the session is found, its risk weighed, and the intent
//! appended, all before the policy is asked.

use std::sync::Arc;

use super::{Call, caller::Caller, gates, stream::end_session};
use crate::{
    action::GrantRule,
    context::{Context, Documents},
    grant::Grant,
    identity::{token::Kind, tokens::Presented},
    session::{self, Intent, Key, Sessions, Source, Step, Stepped, Who},
    stream::Streams,
    verdict::Reason,
};

/// Claims that name one run of something, the first that is there: OpenID Connect sessions and CI runs.
const RUNS: [&str; 2] = ["sid", "run_id"];

/// Which session a call belongs to. Only what a verified credential says counts: what a client sends of its own (an MCP
/// session id, a trace, baggage) begins nothing and ends nothing.
pub(super) fn key(caller: &Caller, task: Option<&Arc<str>>) -> Key {
    let of = |source, id: String| Key { source, id: id.into() };
    let Presented { tokens, .. } = &caller.presented;
    let said = |kind: Option<Kind>, claim: &str| {
        let mut fitting = tokens.iter().map(|bound| &bound.token).filter(|token| kind.is_none_or(|kind| token.kind == kind));
        fitting.find_map(|token| {
            let value = token.claims.get(claim)?.as_str()?;
            Some(format!("{}#{value}", token.issuer.as_deref().unwrap_or_default()))
        })
    };
    if let Some(id) = said(Some(Kind::Transaction), "txn") {
        return of(Source::Transaction, id);
    }
    if let Some(task) = task {
        return Key { source: Source::Task, id: Arc::clone(task) };
    }
    if let Some(id) = RUNS.iter().find_map(|claim| said(None, claim)) {
        return of(Source::Run, id);
    }
    match caller.peer.as_ref().and_then(|peer| peer.x509.as_ref()) {
        Some(x509) => Key { source: Source::Certificate, id: Arc::clone(&x509.sha256) },
        None => of(Source::Ambient, String::new()),
    }
}

/// What is known of the session of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) streams: &'a Streams,
    pub(super) documents: Documents<'a>,
    pub(super) caller: &'a Caller,
    pub(super) key: &'a Key,
    pub(super) wants_view: bool,
}

impl Behaviour<'_> {
    fn who<'a>(&'a self, call: &'a Call<'_>, principal: &'a Arc<str>) -> Who<'a> {
        let here = &call.listener.here;
        let issuer = self.caller.peer.as_ref().and_then(|peer| peer.x509.as_ref()).map(|x509| x509.issuer.as_str());
        let (environment, zone) = (here.get("environment"), here.get("zone"));
        let peer = self.caller.peer.as_deref().filter(|_| self.key.source == Source::Certificate);
        let id = match peer {
            Some(peer) => *peer.session.get_or_init(|| session::id(principal, self.key)),
            None => session::id(principal, self.key),
        };
        Who { principal, key: self.key, id, environment, zone, issuer }
    }

    /// Weighs the caller and appends the intent; the grant that the path is open by. `intent` is set once something was
    /// appended, whatever comes then.
    pub(super) async fn step(
        &self,
        call: &Call<'_>,
        context: &mut Context,
        intent: &mut Option<Intent>,
        name: &mut u64,
    ) -> Result<Option<Arc<Grant>>, gates::Denial> {
        let entry = context.action.entry.clone();
        let relevant = entry.as_deref().is_some_and(|entry| entry.is_path_relevant() || entry.grant == GrantRule::Always);
        if relevant && self.caller.peer.is_none() {
            return Err((Reason::SessionUnproved, "the action marks a session, and no peer is proved to hold it to".to_owned()));
        }
        let Some(principal) = &self.caller.principal else {
            return gates::tier(context, self.documents.tiers, None, &self.caller.presented).map(|()| None);
        };
        let (who, peer) = (self.who(call, principal), self.caller.peer.as_deref());
        if peer.is_some() {
            let glance =
                self.sessions.look(&who, entry.as_ref().map(|entry| &entry.name), self.documents.weights.burst.window, call.now);
            context.weigh(self.documents, &glance, call.now);
            self.sessions.note(principal, context.signals.iter().map(|signal| signal.name), call.now);
            if let Some(signal) = context.signals.iter().find(|signal| self.documents.weights.ends_session(signal.name)) {
                end_session(self.sessions, self.streams, principal, (self.key, who.id), call.now);
                return Err((Reason::SessionEnded, format!("ended by the signal `{}`", signal.name.as_str())));
            }
        }
        gates::tier(context, self.documents.tiers, peer, &self.caller.presented)?;
        let step = Step {
            who,
            entry: entry.as_ref(),
            class: context.action.class(),
            resource_hash: context.action.resource.as_ref().map_or(0, |resource| resource.hash),
            wants_view: self.wants_view,
            sole: call.listener.sole,
            now: call.now,
        };
        match self.sessions.step(&step).await {
            Ok(Stepped { labels, complete, view, session, intent: appended }) => {
                (context.view, *intent, *name) = (view, Some(appended), session);
                let Some(entry) = entry.filter(|entry| !entry.is_public) else { return Ok(None) };
                let complete = complete || call.settings.incomplete_sessions;
                gates::path(&entry, &labels, complete, context.covering()).map(Option::<&_>::cloned)
            }
            // What is not relevant to any path may go on without one.
            Err(reason) if reason != Reason::SessionEnded && !relevant => {
                context.degraded = true;
                Ok(None)
            }
            Err(reason) => Err((reason, "the session cannot be continued".to_owned())),
        }
    }
}
