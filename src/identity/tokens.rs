//! The credentials of a request besides the peer's certificate: found in its headers, verified, and held against the
//! peer. Verified ones are remembered, for a signature costs more than all the rest of a decision. Nothing here waits: a
//! key that is not known is somebody else's to fetch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::quality::RandomState;
use jsonwebtoken::Algorithm;
use moka::{Equivalent, sync::Cache};
use spiffe::TrustDomain;

use super::{
    Peer,
    api_key::{ApiKeyError, ApiKeys},
    binding::binding,
    claims,
    delegation::{Delegation, delegation},
    dpop,
    jwt::{self, Jws},
    keys::{KeySet, KeyStore, sha256},
    replay::Replay,
    token::{Binding, Kind, Token},
};
use crate::{
    clock::Now,
    config::{self, Foreign, IssuerKind, TokenAlgorithm},
    json::Shown,
    request::{Headers, Http},
    trust::{Bundles, TrustStore},
    verdict::Reason,
};

/// Memory for remembered tokens, in bytes.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// How long the keys of a trust domain are believed; `trust` says when they are gone.
const ALWAYS: Duration = Duration::MAX;
const TRANSACTION: &str = "txn-token";

/// What a request presented and what became of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Presented {
    pub tokens: Vec<Bound>,
    /// Which of them came in `authorization`.
    pub main: Option<usize>,
    pub delegation: Option<Delegation>,
}

/// A verified token, and what ties it to the peer of this call.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    pub token: Arc<Token>,
    pub binding: Binding,
}

impl Presented {
    pub fn main(&self) -> Option<&Bound> {
        self.tokens.get(self.main?)
    }

    /// Who acts, where no certificate says it: the workload of a JWT-SVID, else issuer and subject of the token in
    /// `authorization`.
    pub fn principal(&self) -> Option<String> {
        let token = &self.main()?.token;
        match (&token.issuer, token.kind) {
            (_, Kind::JwtSvid) => Some(token.subject.clone()),
            (Some(issuer), _) => Some(format!("{issuer}#{}", token.subject)),
            (None, _) => None,
        }
    }

    /// The last second at which all of them hold, which bounds a lease.
    pub fn expires_at(&self) -> Option<i64> {
        self.tokens.iter().map(|bound| bound.token.validity.until).min()
    }
}

/// Rules and keys by which credentials are judged.
#[derive(Debug)]
pub struct Tokens {
    rules: ArcSwap<Rules>,
    api_keys: ArcSwapOption<ApiKeys>,
    trust: Arc<TrustStore>,
    /// What was last made of the JWT keys in `trust`.
    domains: ArcSwap<Domains>,
    verified: Cache<Box<str>, Verified, RandomState>,
    /// Proofs of possession.
    proofs: Replay,
    /// Tokens for one use.
    used: Replay,
}

/// A token that was verified, and the keys that this rests on.
#[derive(Debug, Clone)]
struct Verified {
    token: Arc<Token>,
    basis: Basis,
}

/// A change of the rules or of the keys makes every result that rests on the old ones void.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Basis {
    generation: u64,
    keys: [u8; 32],
    from: From,
}

/// Whose keys verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// Its place in the list.
    Issuer(usize),
    Domain(TrustDomain),
}

/// Borrowed to ask, owned to keep.
#[derive(Hash)]
struct Text<'a>(&'a str);

impl Equivalent<Box<str>> for Text<'_> {
    fn equivalent(&self, key: &Box<str>) -> bool {
        *self.0 == **key
    }
}

#[derive(Debug, Default)]
struct Rules {
    generation: u64,
    config: config::Tokens,
    issuers: Vec<Issuer>,
}

/// JWT keys of the trust domains.
#[derive(Debug, Default)]
struct Domains {
    /// Of the bundles that they stand in.
    revision: [u8; 32],
    keys: BTreeMap<TrustDomain, KeyStore>,
}

impl Domains {
    /// A domain without a key that can be used has none, and all its JWT-SVIDs are refused.
    fn of(bundles: &Bundles, now: Now) -> Self {
        let keys = bundles.domains().filter_map(|domain| {
            let keys = bundles.jwt_keys(domain)?;
            let (store, text) = (KeyStore::default(), serde_json::to_vec(&**keys).unwrap_or_default());
            store.put(KeySet::of(keys.iter(), &["jwt-svid"], now).ok()?, sha256(&text));
            Some((domain.clone(), store))
        });
        Self { revision: *bundles.revision(), keys: keys.collect() }
    }
}

/// An issuer of the configuration, with what its rules were made into.
#[derive(Debug)]
pub struct Issuer {
    pub config: config::Issuer,
    pub keys: Arc<KeyStore>,
    algorithms: Vec<Algorithm>,
}

impl Tokens {
    pub fn new(config: &config::Tokens, trust: Arc<TrustStore>) -> Result<Self, ApiKeyError> {
        let tokens = Self::of_issuers(config, trust);
        tokens.load_api_keys()?;
        Ok(tokens)
    }

    /// Without API keys, which are files to be read.
    pub fn of_issuers(config: &config::Tokens, trust: Arc<TrustStore>) -> Self {
        let verified = Cache::builder().max_capacity(CACHE_BYTES).weigher(weight).build_with_hasher(RandomState::default());
        let tokens = Self {
            rules: ArcSwap::default(),
            api_keys: ArcSwapOption::empty(),
            trust,
            domains: ArcSwap::default(),
            verified,
            proofs: Replay::default(),
            used: Replay::default(),
        };
        tokens.set(config);
        tokens
    }

    /// The token of this text, which comes without the proof of any key.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn bearer(&self, text: &str, now: Now) -> Result<Arc<Token>, Reason> {
        let token = self.verified(&self.rules.load(), text, Place::Authorization, now)?;
        binding(&token, None, None)?;
        Ok(token)
    }

    /// Brings new rules into force; issuers that stay keep their keys.
    pub fn set(&self, config: &config::Tokens) {
        let old = self.rules.load_full();
        if old.config == *config {
            return;
        }
        let issuers = config.issuers.iter().map(|issuer| {
            let same = |old: &&Issuer| old.config.issuer == issuer.issuer && old.config.keys == issuer.keys;
            let keys = old.issuers.iter().find(same).map_or_else(Arc::default, |old| Arc::clone(&old.keys));
            Issuer { config: issuer.clone(), keys, algorithms: issuer.algorithms.iter().copied().map(algorithm).collect() }
        });
        let issuers = issuers.collect();
        self.rules.store(Arc::new(Rules { generation: old.generation + 1, config: config.clone(), issuers }));
    }

    /// Reads the API keys again and puts them in force, or fails and leaves everything as it is.
    pub fn load_api_keys(&self) -> Result<(), ApiKeyError> {
        let keys = self.rules.load().config.api_keys.as_ref().map(ApiKeys::load).transpose()?;
        self.api_keys.store(keys.map(Arc::new));
        Ok(())
    }

    /// The JWT keys of the bundles in force, so that a domain that is withdrawn is refused at the next call.
    fn domains(&self, now: Now) -> Arc<Domains> {
        let (known, bundles) = (self.domains.load_full(), self.trust.current());
        if known.revision == *bundles.revision() {
            return known;
        }
        let made = Arc::new(Domains::of(&bundles, now));
        self.domains.store(Arc::clone(&made));
        made
    }

    /// The key store of each issuer, for whoever fetches.
    pub fn key_stores(&self) -> Vec<(config::Issuer, Arc<KeyStore>)> {
        self.rules.load().issuers.iter().map(|issuer| (issuer.config.clone(), Arc::clone(&issuer.keys))).collect()
    }

    /// Verifies every credential that the request carries. One that breaks a rule, or a binding that does not hold, is
    /// the whole request's refusal.
    pub fn present(&self, http: &Http, peer: Option<&Peer>, now: Now) -> Result<Presented, Reason> {
        let rules = self.rules.load();
        if rules.config.takes_nothing() {
            return Ok(Presented::default());
        }
        let mut presented = Presented::default();
        if let Some((scheme, text)) = authorization(&http.headers)? {
            let found = match jwt::looks_like_one(text) {
                true => self.verified(&rules, text, Place::Authorization, now),
                false => Err(Reason::TokenIssuer),
            };
            match found {
                // It may be meant for the service behind. Whoever lies about its issuer gains nothing by it.
                Err(Reason::TokenIssuer) if rules.config.foreign == Foreign::Ignore => {}
                Err(reason) => return Err(reason),
                Ok(token) => {
                    presented.main = Some(presented.tokens.len());
                    presented.tokens.push(self.bound(&rules, token, Some((scheme, text)), http, peer, now)?);
                }
            }
        }
        for header in &rules.config.headers {
            if let Some(text) = single(&http.headers, header)? {
                let text = text
                    .split_once(' ')
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                    .map_or(text, |(_, text)| text);
                let token = self.verified(&rules, text.trim(), Place::Authorization, now)?;
                presented.tokens.push(self.bound(&rules, token, None, http, peer, now)?);
            }
        }
        if rules.issuers.iter().any(|issuer| issuer.config.kind == IssuerKind::Transaction)
            && let Some(text) = single(&http.headers, TRANSACTION)?
        {
            let token = self.verified(&rules, text, Place::Transaction, now)?;
            presented.tokens.push(self.bound(&rules, token, None, http, peer, now)?);
        }
        if let Some(keys) = &*self.api_keys.load()
            && let Some(text) = single(&http.headers, keys.header())?
        {
            let token = keys.present(text, peer)?;
            token.validity.holds(now).map_err(|_| Reason::ApiKeyExpired)?;
            presented.tokens.push(self.bound(&rules, token, None, http, peer, now)?);
        }
        let tokens = presented.tokens.iter().map(|bound| &*bound.token);
        presented.delegation = delegation(tokens, peer, rules.config.allow_mismatch)?;
        Ok(presented)
    }

    /// The token, held against the peer of this call.
    fn bound(
        &self,
        rules: &Rules,
        token: Arc<Token>,
        authorization: Option<(Scheme, &str)>,
        http: &Http,
        peer: Option<&Peer>,
        now: Now,
    ) -> Result<Bound, Reason> {
        let config = &rules.config;
        let is_other = |peer: &Peer| *peer.text != *token.subject;
        if token.kind == Kind::JwtSvid && !config.allow_mismatch && peer.is_some_and(is_other) {
            return Err(Reason::TokenMismatch);
        }
        let proof = match authorization {
            Some((Scheme::Dpop, text)) => {
                // Who says DPoP and has a token that anybody may use has mixed something up.
                if token.confirmation.key.is_none() {
                    return Err(Reason::TokenBinding);
                }
                let holder = peer.map_or(&*token.subject, |peer| &*peer.text);
                Some(dpop::prove(&config.dpop, http, text, holder, &self.proofs, now)?)
            }
            // A token that is bound to a key is no bearer token (RFC 9449 §7.1).
            Some((Scheme::Bearer, _)) | None => None,
        };
        let found = binding(&token, peer, proof.as_deref())?;
        if config.require_binding && found == Binding::None {
            return Err(Reason::TokenUnbound);
        }
        if self.is_used_up(rules, &token, peer, now) {
            return Err(Reason::TokenReplayed);
        }
        Ok(Bound { token, binding: found })
    }

    /// Whether a token for one use has been used by this peer.
    fn is_used_up(&self, rules: &Rules, token: &Token, peer: Option<&Peer>, now: Now) -> bool {
        let single_use = |issuer: &Issuer| issuer.config.single_use && issuer.config.kind == IssuerKind::Transaction;
        if token.kind != Kind::Transaction {
            return false;
        }
        // It could be used for as long as any of them lives, and their clocks differ.
        let lives = |issuer: &Issuer| issuer.config.lifetime().duration() + issuer.config.leeway.duration().saturating_mul(2);
        let Some(span) = rules.issuers.iter().filter(|issuer| single_use(issuer)).map(lives).max() else { return false };
        let holder = peer.map_or(&*token.subject, |peer| &*peer.text);
        !self.used.first(holder, &[&token.fingerprint], span, now)
    }

    /// The token of this text: remembered, or read, verified and judged.
    fn verified(&self, rules: &Rules, text: &str, place: Place, now: Now) -> Result<Arc<Token>, Reason> {
        if text.len() > jwt::MAX_TOKEN {
            return Err(Reason::TokenTooLarge);
        }
        let domains = self.domains(now);
        let stands = |known: &Verified| rules.stands(&domains, &known.basis, now) && place.takes(known.token.kind);
        let known = self.verified.get(&Text(text)).filter(stands);
        let token = match known {
            Some(known) => known.token,
            None => {
                let (token, basis) = rules.verify(&domains, text, place, now)?;
                let token = Arc::new(token);
                self.verified.insert(text.into(), Verified { token: Arc::clone(&token), basis });
                token
            }
        };
        token.validity.holds(now)?;
        Ok(token)
    }
}

/// Where a token stood: a transaction token is nobody's proof of who calls, and nothing else is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Authorization,
    Transaction,
}

impl Place {
    fn takes(self, kind: Kind) -> bool {
        (kind == Kind::Transaction) == (self == Self::Transaction)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

impl Rules {
    /// Whether what rested on `basis` would be found again.
    fn stands(&self, domains: &Domains, basis: &Basis, now: Now) -> bool {
        let (keys, max_stale) = match &basis.from {
            From::Issuer(at) => match self.issuers.get(*at) {
                Some(issuer) => (&*issuer.keys, issuer.config.keys.max_stale.duration()),
                None => return false,
            },
            From::Domain(domain) => match domains.keys.get(domain) {
                Some(keys) => (keys, ALWAYS),
                None => return false,
            },
        };
        let fresh = keys.age(now).is_some_and(|age| age <= max_stale);
        basis.generation == self.generation && keys.revision() == Some(basis.keys) && fresh
    }

    fn verify(&self, domains: &Domains, text: &str, place: Place, now: Now) -> Result<(Token, Basis), Reason> {
        let jws = Jws::read(text)?;
        match self.issuer(&jws, place)? {
            Some((at, issuer)) => {
                let max_stale = issuer.config.keys.max_stale.duration();
                let keys = checked(&jws, &issuer.keys, &issuer.algorithms, max_stale, now)?;
                let validity = claims::judge(&issuer.config, &jws)?;
                let token = Token {
                    kind: issuer.config.kind.into(),
                    issuer: jws.text("iss").map(str::to_owned),
                    identity: issuer.config.identity.as_deref().and_then(|template| identity(template, &jws)),
                    ..token(text, &jws, Kind::AccessToken, validity)?
                };
                Ok((token, Basis { generation: self.generation, keys, from: From::Issuer(at) }))
            }
            None => {
                let svid = self.config.jwt_svid.as_ref().ok_or(Reason::TokenIssuer)?;
                let subject = claims::svid_subject(&jws)?;
                // No bundle, or one without keys, is how a whole domain is revoked.
                let domain = subject.trust_domain();
                let keys = domains.keys.get(domain).ok_or(Reason::UntrustedDomain)?;
                let keys = checked(&jws, keys, &SVID_ALGORITHMS, ALWAYS, now)?;
                let validity = claims::judge_svid(svid, &jws)?;
                let token = token(text, &jws, Kind::JwtSvid, validity)?;
                Ok((token, Basis { generation: self.generation, keys, from: From::Domain(domain.clone()) }))
            }
        }
    }

    /// Whose token it claims to be: an issuer's of the list, or, where none of them is named, a trust domain's.
    fn issuer(&self, jws: &Jws<'_>, place: Place) -> Result<Option<(usize, &Issuer)>, Reason> {
        let claimed = match jws.claims.get("iss") {
            Some(issuer) => Some(issuer.as_str().ok_or(Reason::TokenClaims)?),
            None => None,
        };
        let kind = jws.kind()?;
        let named = |issuer: &Issuer| match claimed {
            Some(claimed) => issuer.config.issuer == claimed,
            None => place == Place::Transaction,
        };
        let mut candidates = self
            .issuers
            .iter()
            .enumerate()
            .filter(|(_, issuer)| place.takes(issuer.config.kind.into()) && named(issuer))
            .peekable();
        if candidates.peek().is_none() {
            let is_svid =
                place == Place::Authorization && jws.text("sub").is_some_and(|subject| subject.starts_with("spiffe://"));
            return if is_svid { Ok(None) } else { Err(Reason::TokenIssuer) };
        }
        candidates.find(|(_, issuer)| claims::takes_type(&issuer.config, kind.as_deref())).map(Some).ok_or(Reason::TokenType)
    }
}

/// Checks the signature; the revision of the keys that it was checked with.
fn checked(jws: &Jws<'_>, keys: &KeyStore, algorithms: &[Algorithm], max_stale: Duration, now: Now) -> Result<[u8; 32], Reason> {
    if !algorithms.contains(&jws.algorithm) {
        return Err(Reason::TokenAlgorithm);
    }
    let found = keys.find(jws.key_id()?, jws.algorithm, max_stale, now)?;
    if jws.is_signed_by(&found.key) { Ok(found.revision) } else { Err(Reason::TokenSignature) }
}

/// Rule J-3 of JWT-SVID §2.1, as far as there are verifiers for them: ES512 is denied.
const SVID_ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

fn token(text: &str, jws: &Jws<'_>, kind: Kind, validity: super::token::Validity) -> Result<Token, Reason> {
    Ok(Token {
        kind,
        issuer: None,
        subject: jws.text("sub").ok_or(Reason::TokenClaims)?.to_owned(),
        claims: jws.claims.clone(),
        jti: jws.text("jti").map(str::to_owned),
        fingerprint: hex::encode(sha256(text.as_bytes())).into(),
        confirmation: claims::confirmation(jws)?,
        identity: None,
        validity,
        shown: Shown::default(),
    })
}

/// The SPIFFE ID that `template` makes of the claims, if it makes one: a claim is one part of a segment and brings no
/// slash.
fn identity(template: &str, jws: &Jws<'_>) -> Option<String> {
    let mut made = String::new();
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once('{') {
        let (name, after) = tail.split_once('}')?;
        let mut names = name.split('/');
        let first = jws.claims.get(names.next()?)?;
        let value = names.try_fold(first, |value, name| value.get(name))?;
        let text = value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()))?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || !text.bytes().all(plain) {
            return None;
        }
        made.push_str(head);
        made.push_str(&text);
        rest = after;
    }
    made.push_str(rest);
    super::x509::workload(&made).ok().map(|_| made)
}

/// The bearer or DPoP credential of the request. Two are refused: which of them the service behind would take is open
/// (RFC 9110 §5.3 lets nobody send this header twice).
fn authorization(headers: &Headers) -> Result<Option<(Scheme, &str)>, Reason> {
    let Some(value) = headers.get("authorization") else { return Ok(None) };
    if let Some(raw) = headers.raw()
        && raw.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization")).count() > 1
    {
        return Err(Reason::TokenRepeated);
    }
    let mut parts = value.split(',').map(str::trim);
    let ours = parts.clone().filter_map(credential).count();
    match (parts.next().and_then(credential), ours, value.contains(',')) {
        (found, 0 | 1, false) => Ok(found),
        // The comma of another scheme's parameters.
        (None, 0, true) => Ok(None),
        _ => Err(Reason::TokenRepeated),
    }
}

fn credential(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once([' ', '\t'])?;
    let scheme = match scheme {
        scheme if scheme.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        scheme if scheme.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return None,
    };
    Some((scheme, rest.trim()))
}

/// The value of a header that may be there once. Two come joined by a comma, which no token and no key has.
fn single<'a>(headers: &'a Headers, name: &str) -> Result<Option<&'a str>, Reason> {
    match headers.get(name).map(str::trim) {
        Some(value) if value.contains(',') => Err(Reason::TokenRepeated),
        Some("") | None => Ok(None),
        some => Ok(some),
    }
}

const fn algorithm(name: TokenAlgorithm) -> Algorithm {
    match name {
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::RS384 => Algorithm::RS384,
        TokenAlgorithm::RS512 => Algorithm::RS512,
        TokenAlgorithm::PS256 => Algorithm::PS256,
        TokenAlgorithm::PS384 => Algorithm::PS384,
        TokenAlgorithm::PS512 => Algorithm::PS512,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::ES384 => Algorithm::ES384,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The text itself, and what was made of it: about three times as much as the payload, for it is kept as values.
#[expect(clippy::borrowed_box, reason = "the cache asks so")]
fn weight(text: &Box<str>, _: &Verified) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_mul(4).saturating_add(600)
}

#[cfg(test)]
mod tests;
