//! Who calls, as far as it is known, and why that may not be believed. Found out by `identity`; put together here.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Now,
    config::Compat,
    context::Context,
    identity::{Forwarded, Peer, Who, tokens::Presented},
    policy::input::{Facts, Here},
    request::Request,
    verdict::{Reason, Signal},
};

#[derive(Debug, Default)]
pub(super) struct Caller {
    pub(super) peer: Option<Arc<Peer>>,
    /// What proxies on the way have said of the callers before it.
    pub(super) forwarded: Vec<Forwarded>,
    /// Why there is no peer.
    pub(super) peer_error: Option<Reason>,
    /// The same, where nobody may be believed to be behind it.
    pub(super) peer_invalid: Option<Reason>,
    pub(super) presented: Presented,
    /// Why a credential besides the certificate may not be believed.
    pub(super) token_invalid: Option<Reason>,
    pub(super) signals: Vec<Signal>,
    pub(super) principal: Option<Arc<str>>,
}

impl From<Who> for Caller {
    fn from(who: Who) -> Self {
        let mut caller = Self::default();
        match who {
            Who::Absent => {}
            Who::NoSvid(reason) => caller.peer_error = Some(reason),
            Who::Proved(peer) => {
                caller.principal = Some(Arc::clone(&peer.text));
                caller.peer = Some(peer);
            }
            Who::Invalid(reason) => (caller.peer_error, caller.peer_invalid) = (Some(reason), Some(reason)),
        }
        caller
    }
}

impl Caller {
    /// Adds what the request's own credentials say, or why they say nothing.
    pub(super) fn with(&mut self, presented: Result<Presented, Reason>) {
        match presented {
            Ok(presented) => self.presented = presented,
            Err(reason) => self.token_invalid = Some(reason),
        }
        if self.principal.is_none() {
            self.principal = self.presented.principal().map(Into::into);
        }
    }

    pub(super) fn facts<'a>(&'a self, request: &'a Request, context: &'a Context, here: &'a Here, now: Now) -> Facts<'a> {
        Facts {
            request,
            peer: self.peer.as_deref(),
            forwarded: &self.forwarded,
            peer_error: self.peer_error,
            presented: &self.presented,
            principal: self.principal.as_deref(),
            context,
            here,
            own_id: None,
            epoch: None,
            now,
        }
    }

    /// Why a credential is no good for any call. One that is configured here is no matter of the plugin's behaviour, so
    /// that a policy written for it cannot overrule that.
    pub(super) fn refused(&self, compat: Option<Compat>) -> Option<Reason> {
        self.peer_invalid.filter(|_| compat.is_none()).or(self.token_invalid)
    }

    /// How long all credentials of the call still live.
    pub(super) fn remaining_life(&self, now: Now) -> Option<Duration> {
        let certificate = self.peer.as_ref().and_then(|peer| peer.x509.as_ref()).map(|x509| x509.not_after);
        let until = certificate.into_iter().chain(self.presented.expires_at()).min()?;
        let until = Now::from_seconds(u64::try_from(until).unwrap_or_default());
        Some(until.since_epoch().saturating_sub(now.since_epoch()))
    }
}
