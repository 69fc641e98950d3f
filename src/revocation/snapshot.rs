//! The revocations in the form that a call asks: one table by what they select, in parts of which a change copies only its
//! own. To ask takes no lock and makes nothing, and how many revocations there are does not matter.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher as _,
    sync::Arc,
};

use foldhash::quality::RandomState;
use spiffe::TrustDomain;
use uuid::Uuid;

use super::{
    Revocation,
    selector::{Kind, prefixes, trust_domain},
};
use crate::{
    clock::Now,
    config::Trust,
    identity::{
        Peer,
        token::{Kind as TokenKind, Token},
        tokens::Presented,
    },
    state::Epoch,
};

const SHARDS: usize = 256;
/// How far back an authority dates `notBefore`, in seconds, where the configuration says nothing: as SPIRE does.
const BACKDATE_S: i64 = 10;

/// How far back each trust domain's authority dates `notBefore`, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backdates(BTreeMap<TrustDomain, i64>);

impl Backdates {
    pub fn new(trust: &Trust) -> Self {
        let said = trust.domains.iter().filter_map(|(domain, part)| {
            let backdate = part.backdate?.duration().as_secs();
            Some((domain.clone(), i64::try_from(backdate).unwrap_or(i64::MAX)))
        });
        Self(said.collect())
    }

    /// When the certificate was issued, in seconds since the Unix epoch.
    fn issued(&self, peer: &Peer) -> Option<i64> {
        let backdate = self.0.get(peer.id.trust_domain()).copied().unwrap_or(BACKDATE_S);
        Some(peer.x509.as_ref()?.not_before.saturating_add(backdate))
    }
}

/// What is known of one call.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub peer: Option<&'a Peer>,
    pub presented: &'a Presented,
    /// Of the peer, by the registry.
    pub owner: Option<&'a str>,
    /// Asked for only where a session is revoked.
    pub session: Option<u64>,
    pub task: Option<&'a str>,
    /// Ids of the grants that the caller has.
    pub grants: &'a [&'a str],
    pub backdates: &'a Backdates,
}

/// All revocations of one epoch.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Absent where nothing can be revoked.
    pub epoch: Option<Epoch>,
    shards: Vec<Arc<Shard>>,
    hasher: RandomState,
    counts: [usize; Kind::COUNT],
}

/// By the hash of what they select.
type Shard = HashMap<u64, Vec<Arc<Revocation>>, RandomState>;

impl Default for Snapshot {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Arc::default()).collect();
        Self { epoch: None, shards, hasher: RandomState::default(), counts: [0; Kind::COUNT] }
    }
}

impl Snapshot {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Whether any session is revoked.
    pub fn has_sessions(&self) -> bool {
        self.has(Kind::Session)
    }

    /// The first revocation that the call falls under.
    pub fn check(&self, facts: &Facts<'_>, now: Now) -> Option<Arc<Revocation>> {
        if self.is_empty() {
            return None;
        }
        self.peer(facts, now).or_else(|| self.tokens(facts, now)).or_else(|| self.rest(facts, now)).map(Arc::clone)
    }

    /// The revocation of a grant.
    pub fn grant(&self, id: Uuid, now: Now) -> Option<&Arc<Revocation>> {
        if !self.has(Kind::Grant) {
            return None;
        }
        self.find(Kind::Grant, "", &id.to_string(), &|| None, now)
    }

    fn peer(&self, facts: &Facts<'_>, now: Now) -> Option<&Arc<Revocation>> {
        let peer = facts.peer?;
        let issued = || facts.backdates.issued(peer);
        let by_certificate = || {
            let x509 = peer.x509.as_ref()?;
            let found = self.find(Kind::Certificate, "", &x509.sha256, &issued, now);
            found.or_else(|| self.find(Kind::Serial, &x509.issuer, &x509.serial, &issued, now))
        };
        let by_owner = || self.find(Kind::Owner, "", facts.owner?, &issued, now);
        self.identity(&peer.text, &issued, now).or_else(by_certificate).or_else(by_owner)
    }

    fn tokens(&self, facts: &Facts<'_>, now: Now) -> Option<&Arc<Revocation>> {
        let tokens = || facts.presented.tokens.iter().map(|bound| &*bound.token);
        let of_one = tokens().find_map(|token| {
            let issued = || issued_at(token);
            let by_jti =
                || self.find(Kind::Jti, token.issuer.as_deref().unwrap_or_default(), token.jti.as_deref()?, &issued, now);
            let by_fingerprint = || self.find(Kind::Fingerprint, "", &token.fingerprint, &issued, now);
            let by_subject = || {
                let subject = (token.kind == TokenKind::JwtSvid).then_some(&token.subject);
                subject.into_iter().chain(&token.identity).find_map(|id| self.identity(id, &issued, now))
            };
            let by_owner = || {
                let owner = token.text("owner").filter(|_| token.kind == TokenKind::ApiKey)?;
                self.find(Kind::Owner, "", owner, &issued, now)
            };
            by_jti().or_else(by_fingerprint).or_else(by_subject).or_else(by_owner)
        });
        of_one.or_else(|| {
            // Whoever acts for somebody who may not act any more, or by their word, may not either.
            let delegation = facts.presented.delegation.as_ref()?;
            let issued = || tokens().map(issued_at).min().flatten();
            let workloads = std::iter::once(&delegation.subject).chain(&delegation.actors);
            workloads.filter(|id| id.starts_with("spiffe://")).find_map(|id| self.identity(id, &issued, now))
        })
    }

    fn rest(&self, facts: &Facts<'_>, now: Now) -> Option<&Arc<Revocation>> {
        let never = || None;
        let by_session = || {
            let mut digits = [0; 16];
            hex::encode_to_slice(facts.session?.to_be_bytes(), &mut digits).ok()?;
            self.find(Kind::Session, "", std::str::from_utf8(&digits).ok()?, &never, now)
        };
        let by_task = || self.find(Kind::Task, "", facts.task?, &never, now);
        let by_grant = || facts.grants.iter().find_map(|grant| self.find(Kind::Grant, "", grant, &never, now));
        by_session().or_else(by_task).or_else(by_grant)
    }

    /// By a SPIFFE ID, a beginning of it, or its trust domain.
    fn identity(&self, id: &str, issued: &dyn Fn() -> Option<i64>, now: Now) -> Option<&Arc<Revocation>> {
        let by_prefix = || {
            let all = self.has(Kind::Prefix).then(|| prefixes(id));
            all.into_iter().flatten().find_map(|prefix| self.find(Kind::Prefix, "", prefix, issued, now))
        };
        let by_domain = || self.find(Kind::TrustDomain, "", trust_domain(id)?, issued, now);
        self.find(Kind::SpiffeId, "", id, issued, now).or_else(by_prefix).or_else(by_domain)
    }

    /// The first that counts of those that select exactly this.
    fn find(&self, kind: Kind, a: &str, b: &str, issued: &dyn Fn() -> Option<i64>, now: Now) -> Option<&Arc<Revocation>> {
        if !self.has(kind) {
            return None;
        }
        let hash = self.hash(kind, a, b);
        let found = self.shards.get(place(hash))?.get(&hash)?.iter();
        let mut found = found.filter(|revocation| revocation.selector.key() == (kind, a, b) && revocation.is_live(now));
        // What does not say when it was issued was issued before anything.
        found.find(|revocation| revocation.issued_before.is_none_or(|before| issued().is_none_or(|issued| issued < before)))
    }

    fn has(&self, kind: Kind) -> bool {
        self.counts.get(kind as usize).is_some_and(|count| *count > 0)
    }

    fn hash(&self, kind: Kind, a: &str, b: &str) -> u64 {
        self.hasher.hash_one((kind, a, b))
    }

    pub(super) fn add(&mut self, revocation: &Arc<Revocation>) {
        let (kind, a, b) = revocation.selector.key();
        let hash = self.hash(kind, a, b);
        if let (Some(shard), Some(count)) = (self.shards.get_mut(place(hash)), self.counts.get_mut(kind as usize)) {
            Arc::make_mut(shard).entry(hash).or_default().push(Arc::clone(revocation));
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, revocation: &Revocation) {
        let (kind, a, b) = revocation.selector.key();
        let hash = self.hash(kind, a, b);
        let Some(shard) = self.shards.get_mut(place(hash)).map(Arc::make_mut) else { return };
        let Some(same) = shard.get_mut(&hash) else { return };
        let before = same.len();
        same.retain(|known| known.id != revocation.id);
        if let Some(count) = self.counts.get_mut(kind as usize) {
            *count -= before - same.len();
        }
        if same.is_empty() {
            shard.remove(&hash);
        }
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % SHARDS as u64).unwrap_or_default()
}

/// `iat`, which may be a fraction (RFC 7519 §2).
fn issued_at(token: &Token) -> Option<i64> {
    let issued = token.claims.get("iat")?;
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a second is cut off")]
    issued.as_i64().or_else(|| issued.as_f64().map(|seconds| seconds as i64))
}
