//! Who the peer is: its SPIFFE ID, the evidence for it, or why there is none. The rules of the certificate itself are
//! in `x509`, the roots in `trust`; what a missing or refused identity means for the call is the authorizer's to say.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use foldhash::quality::RandomState;
use moka::{Equivalent, sync::Cache};
use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;

use crate::{
    clock::Now,
    config::{PeerProof, PeerTrust, Placement, Xfcc},
    request::Endpoint,
    trust::{
        Bundles, TrustStore,
        own::{OwnSvid, Svid},
    },
    verdict::{Evidence, Reason},
};

mod api_key;
pub mod author;
mod binding;
pub mod caller;
mod claims;
pub mod delegation;
mod dpop;
mod jwt;
pub mod keys;
pub mod lifetime;
pub mod people;
mod replay;
pub mod token;
pub mod tokens;
pub mod x509;
mod xfcc;

pub use self::xfcc::{Forwarded, Header};

/// Memory for remembered certificates, in bytes: some eight thousand of the usual size.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The calling workload, as proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: SpiffeId,
    /// The canonical text of `id`, made once: inputs and records show it at each call.
    pub text: Arc<str>,
    pub evidence: Evidence,
    /// Absent where Envoy named the peer without showing its certificate.
    pub x509: Option<X509>,
    /// Name of the session that the certificate stands for, made once: it is the same at each call.
    pub session: OnceLock<u64>,
}

impl Peer {
    pub fn new(id: SpiffeId, evidence: Evidence, x509: Option<X509>) -> Self {
        Self { text: id.to_string().into(), id, evidence, x509, session: OnceLock::new() }
    }

    /// A workload that somebody vouches for by name.
    pub fn named(id: &str, evidence: Evidence) -> Result<Self, Reason> {
        Ok(Self::new(x509::workload(id)?, evidence, None))
    }
}

/// What policy and records are told of the peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509 {
    /// SHA-256 of the DER, in lower-case hex.
    pub sha256: Arc<str>,
    /// Serial number in lower-case hex, without leading zero octets.
    pub serial: String,
    /// Distinguished name of the issuer, in the order of the certificate.
    pub issuer: String,
    /// First and last second of validity, both included, in Unix time.
    pub not_before: i64,
    pub not_after: i64,
}

impl X509 {
    /// RFC 5280 §4.1.2.5. Asked at each call, so that a connection that outlives its SVID is not believed any longer.
    pub fn valid_at(&self, now: Now) -> Result<(), Reason> {
        match now.seconds() {
            second if second < self.not_before => Err(Reason::SvidNotYetValid),
            second if second > self.not_after => Err(Reason::SvidExpired),
            _ => Ok(()),
        }
    }

    /// Whether the header is about this certificate.
    fn is_meant_by(&self, xfcc: &Header<'_>) -> Result<(), Reason> {
        let mut own = [0; digest::SHA256_OUTPUT_LEN];
        hex::decode_to_slice(&*self.sha256, &mut own).map_err(|_| Reason::XfccMismatch)?;
        xfcc.is_about(&own)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nothing was presented.
    Absent,
    /// What was presented does not claim to be an SVID.
    NoSvid(Reason),
    Proved(Arc<Peer>),
    /// What was presented breaks a rule, so that nobody may be believed to be behind it.
    Invalid(Reason),
}

/// What a listener takes as proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRules {
    pub proof: PeerProof,
    /// Refuse certificates without BasicConstraints instead of reading them as no authority.
    pub strict_basic_constraints: bool,
    pub xfcc: Xfcc,
    /// Whether the workload behind gets `x-forwarded-client-cert` all the same.
    pub forward_xfcc: bool,
    pub placement: Placement,
}

impl PeerRules {
    pub fn new(settings: &PeerTrust, placement: Placement) -> Self {
        let PeerTrust { trust, strict_basic_constraints, xfcc, forward_xfcc } = *settings;
        Self { proof: trust, strict_basic_constraints, xfcc, forward_xfcc, placement }
    }

    /// Whether `x-forwarded-client-cert` is read here.
    pub fn reads_xfcc(&self) -> bool {
        self.xfcc == Xfcc::LastElement && self.proof == PeerProof::Sidecar && self.placement != Placement::Egress
    }
}

/// Tells who the peer of a call is, and remembers the certificates it has checked.
#[derive(Debug)]
pub struct Identity {
    trust: Arc<TrustStore>,
    checked: Cache<Key<Box<str>>, Checked, RandomState>,
    own: Arc<OwnSvid>,
    /// Who `own` says that we are.
    me: ArcSwapOption<Me>,
}

/// What one SVID of ours says.
#[derive(Debug)]
struct Me {
    svid: Arc<Svid>,
    peer: Result<Arc<Peer>, Reason>,
}

/// What a check found, and the last second at which it would be found again: certificates between leaf and root expire
/// too.
#[derive(Debug, Clone)]
struct Checked {
    who: Who,
    until: i64,
}

/// Everything that the result of a check depends on, but for the time. A changed bundle makes other keys, so that no
/// result outlives the trust it was based on. `C` is the certificate as received: borrowed to ask, owned to keep. It is
/// the key itself, as a digest of it would cost several times as much as a hash for a table.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key<C> {
    certificate: C,
    basis: Basis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Basis {
    trust: [u8; digest::SHA256_OUTPUT_LEN],
    evidence: Evidence,
    strict_basic_constraints: bool,
}

impl Equivalent<Key<Box<str>>> for Key<&str> {
    fn equivalent(&self, key: &Key<Box<str>>) -> bool {
        *self.certificate == *key.certificate && self.basis == key.basis
    }
}

impl Identity {
    pub fn new(trust: Arc<TrustStore>, own: Arc<OwnSvid>) -> Self {
        let checked = Cache::builder().max_capacity(CACHE_BYTES).weigher(weight).build_with_hasher(RandomState::default());
        Self { trust, checked, own, me: ArcSwapOption::empty() }
    }

    /// Decides who `source` is, under the rules of the listener that was asked. `xfcc` is what was read of the header
    /// `x-forwarded-client-cert`.
    pub fn who(&self, source: Option<&Endpoint>, xfcc: Option<&Result<Header<'_>, Reason>>, rules: &PeerRules, now: Now) -> Who {
        // On the way out it is our own workload that calls: a certificate in the request is somebody else's.
        if rules.placement == Placement::Egress {
            return self.own_peer(now).map_or_else(Who::Invalid, Who::Proved);
        }
        let Some(source) = source else { return Who::Absent };
        let evidence = match rules.proof {
            PeerProof::Sidecar => Evidence::Sidecar,
            PeerProof::Certificate => Evidence::Envoy,
            PeerProof::Principal => return named(&source.principal),
        };
        // Without a certificate the principal is mere text: a DNS name or subject can be made to read like an ID.
        if source.certificate.is_empty() {
            return Who::Absent;
        }
        // Judged at each call: that a certificate was proved before makes no forged header a good one.
        let xfcc = match xfcc.filter(|_| rules.reads_xfcc()) {
            Some(Err(reason)) => return Who::Invalid(*reason),
            Some(Ok(xfcc)) => Some(xfcc),
            None => None,
        };
        match self.checked(&source.certificate, xfcc, evidence, rules.strict_basic_constraints, now) {
            Who::Proved(peer) => match holds(&peer, &source.principal, now) {
                Ok(()) => Who::Proved(peer),
                Err(reason) => Who::Invalid(reason),
            },
            other => other,
        }
    }

    /// The SPIFFE ID of our own SVID, be it valid now or not.
    pub fn own_id(&self) -> Option<Arc<str>> {
        self.me()?.peer.as_ref().ok().map(|peer| Arc::clone(&peer.text))
    }

    /// Ourselves as the caller.
    fn own_peer(&self, now: Now) -> Result<Arc<Peer>, Reason> {
        let peer = self.me().ok_or(Reason::OwnSvidUnavailable)?.peer.clone()?;
        peer.x509.as_ref().map_or(Ok(()), |x509| x509.valid_at(now))?;
        Ok(peer)
    }

    fn me(&self) -> Option<Arc<Me>> {
        let svid = self.own.current();
        let svid = svid.as_ref()?;
        if let Some(me) = self.me.load().as_ref().filter(|me| Arc::ptr_eq(&me.svid, svid)) {
            return Some(Arc::clone(me));
        }
        let peer = svid.leaf().ok_or(Reason::OwnSvidUnavailable).and_then(|leaf| x509::svid(leaf, false));
        let peer = peer.map(|(id, x509)| Arc::new(Peer::new(id, Evidence::Own, Some(x509))));
        let me = Arc::new(Me { svid: Arc::clone(svid), peer });
        self.me.store(Some(Arc::clone(&me)));
        Some(me)
    }

    /// What the certificate proves while it is valid.
    fn checked(
        &self,
        text: &str,
        xfcc: Option<&Header<'_>>,
        evidence: Evidence,
        strict_basic_constraints: bool,
        now: Now,
    ) -> Who {
        if text.len() > x509::MAX_TEXT {
            return Who::Invalid(Reason::CertificateMalformed);
        }
        let bundles = self.trust.current();
        let basis = Basis { trust: *bundles.revision(), evidence, strict_basic_constraints };
        let known = self.checked.get(&Key { certificate: text, basis }).filter(|known| now.seconds() <= known.until);
        match (known.map(|known| known.who), xfcc) {
            // Another header may bring the certificate that was missing.
            (None | Some(Who::Invalid(Reason::UntrustedChain)), Some(_)) | (None, None) => {}
            // The chain is not read again: what it brings has been verified, or was not needed.
            (Some(Who::Proved(peer)), Some(xfcc)) => {
                return match peer.x509.as_ref().map_or(Ok(()), |x509| x509.is_meant_by(xfcc)) {
                    Ok(()) => Who::Proved(peer),
                    Err(reason) => Who::Invalid(reason),
                };
            }
            (Some(who), _) => return who,
        }
        let mut until = i64::MAX;
        let who = match check(text, xfcc, evidence, strict_basic_constraints, &bundles, now) {
            Ok((peer, chain_until)) => {
                until = chain_until;
                Who::Proved(Arc::new(peer))
            }
            Err(Reason::NoUriSan) => Who::NoSvid(Reason::NoUriSan),
            // What the header did wrong is not the certificate's.
            Err(reason @ (Reason::XfccMalformed | Reason::XfccMismatch)) => return Who::Invalid(reason),
            Err(reason) => Who::Invalid(reason),
        };
        self.checked.insert(Key { certificate: text.into(), basis }, Checked { who: who.clone(), until });
        who
    }
}

fn check(
    text: &str,
    xfcc: Option<&Header<'_>>,
    evidence: Evidence,
    strict: bool,
    bundles: &Bundles,
    now: Now,
) -> Result<(Peer, i64), Reason> {
    let der = x509::decode(text)?;
    let (id, x509) = x509::svid(&der, strict)?;
    let mut until = i64::MAX;
    if evidence == Evidence::Sidecar {
        // Envoy sends the leaf only: roots must have signed it themselves, or the header brings what is between. The chain
        // is judged at a moment when the leaf is valid: then the result holds at any time, and expiry is left to
        // `X509::valid_at`.
        let within = now.seconds().min(x509.not_after).max(x509.not_before);
        let within = Now::from_seconds(u64::try_from(within).unwrap_or_default());
        let (between, expiry) = between(xfcc, &der, now)?;
        until = expiry;
        bundles.verify(id.trust_domain(), &der, &between, within)?;
    }
    Ok((Peer::new(id, evidence, Some(x509)), until))
}

/// The intermediates that the header brings, and the last second at which all of them are valid. An expired one is no
/// help, and must not be taken at a moment that is not now.
fn between(
    xfcc: Option<&Header<'_>>,
    leaf: &CertificateDer<'_>,
    now: Now,
) -> Result<(Vec<CertificateDer<'static>>, i64), Reason> {
    let Some(xfcc) = xfcc else { return Ok((Vec::new(), i64::MAX)) };
    let mut until = i64::MAX;
    let mut alive = xfcc.intermediates(leaf)?;
    alive.retain(|der| match x509::validity(der) {
        Some((from, to)) if (from..=to).contains(&now.seconds()) => {
            until = until.min(to);
            true
        }
        _ => false,
    });
    Ok((alive, until))
}

/// What must hold at each call besides the certificate's own rules.
fn holds(peer: &Peer, principal: &str, now: Now) -> Result<(), Reason> {
    peer.x509.as_ref().map_or(Ok(()), |x509| x509.valid_at(now))?;
    // Envoy's principal is the first URI SAN, and this certificate has exactly one: anything else did not come from it.
    match principal.is_empty() || is(principal, &peer.id) {
        true => Ok(()),
        false => Err(Reason::IdentityMismatch),
    }
}

/// Whether the text is the ID. Only a text in an unusual spelling costs an allocation.
fn is(text: &str, id: &SpiffeId) -> bool {
    let rest = text.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(id.trust_domain_name()));
    rest == Some(id.path()) || SpiffeId::new(text).is_ok_and(|other| other == *id)
}

/// The peer by Envoy's word alone.
fn named(principal: &str) -> Who {
    if principal.is_empty() {
        return Who::Absent;
    }
    match x509::workload(principal) {
        Ok(id) => Who::Proved(Arc::new(Peer::new(id, Evidence::Envoy, None))),
        Err(reason) if claims_spiffe(principal) => Who::Invalid(reason),
        Err(_) => Who::NoSvid(Reason::NoUriSan),
    }
}

fn claims_spiffe(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
}

fn weight(key: &Key<Box<str>>, checked: &Checked) -> u32 {
    let text = match &checked.who {
        Who::Proved(peer) => peer.id.path().len() + peer.x509.as_ref().map_or(0, |x509| x509.issuer.len() + x509.serial.len()),
        _ => 0,
    };
    // The rest of an entry is the peer, its digest in hex and the cache's own bookkeeping.
    u32::try_from(key.certificate.len() + text).unwrap_or(u32::MAX).saturating_add(500)
}

#[cfg(test)]
mod tests;
