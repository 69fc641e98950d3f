//! Which kinds of credentials a call came with, and how long they live from their issue to their end: small enough to travel
//! with every record.

use super::{
    Peer,
    token::{Kind, Validity},
    tokens::Presented,
};

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    Certificate,
    Token(Kind),
}

impl Credential {
    pub const ALL: [Self; 7] = [
        Self::Certificate,
        Self::Token(Kind::JwtSvid),
        Self::Token(Kind::AccessToken),
        Self::Token(Kind::IdToken),
        Self::Token(Kind::Kubernetes),
        Self::Token(Kind::Transaction),
        Self::Token(Kind::ApiKey),
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "x509_svid",
            Self::Token(kind) => kind.as_str(),
        }
    }
}

/// The longest lifetime of each kind, in seconds; 0 where none of it was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes([u32; Credential::ALL.len()]);

/// Of what does not say when it was issued, such as an API key.
const OPEN: u32 = u32::MAX;

impl Lifetimes {
    pub fn of(peer: Option<&Peer>, presented: &Presented) -> Self {
        let mut lifetimes = Self::default();
        if let Some(x509) = peer.and_then(|peer| peer.x509.as_ref()) {
            lifetimes.note(Credential::Certificate, span(x509.not_before, x509.not_after));
        }
        for bound in &presented.tokens {
            let Validity { from, until, .. } = bound.token.validity;
            lifetimes.note(Credential::Token(bound.token.kind), span(from, until));
        }
        lifetimes
    }

    /// Takes what lives longer there.
    pub fn extend(&mut self, others: &Self) {
        for (longest, other) in self.0.iter_mut().zip(others.0) {
            *longest = (*longest).max(other);
        }
    }

    /// Those that were there, each with its longest lifetime, where that is known.
    pub fn seen(&self) -> impl Iterator<Item = (Credential, Option<u32>)> {
        let seen = Credential::ALL.into_iter().zip(self.0).filter(|(_, longest)| *longest > 0);
        seen.map(|(credential, longest)| (credential, (longest != OPEN).then_some(longest)))
    }

    /// Puts one back that was written down.
    pub fn restore(&mut self, credential: &str, longest: Option<u32>) {
        if let Some(credential) = Credential::ALL.into_iter().find(|known| known.as_str() == credential) {
            self.note(credential, longest.unwrap_or(OPEN));
        }
    }

    fn note(&mut self, credential: Credential, lifetime: u32) {
        for (known, longest) in Credential::ALL.into_iter().zip(&mut self.0) {
            if known == credential {
                *longest = (*longest).max(lifetime).max(1);
            }
        }
    }
}

fn span(from: i64, until: i64) -> u32 {
    match from > 0 {
        true => u32::try_from(until.saturating_sub(from).max(0)).unwrap_or(OPEN),
        false => OPEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::X509, verdict::Evidence};

    #[test]
    fn the_longest_of_each_kind_stays() {
        let x509 = |not_after| X509 {
            sha256: "ab".into(),
            serial: "1".to_owned(),
            issuer: "CN=ca".to_owned(),
            not_before: 1000,
            not_after,
        };
        let of = |not_after| {
            let id = "spiffe://example.org/a".parse().unwrap();
            Lifetimes::of(Some(&Peer::new(id, Evidence::Sidecar, Some(x509(not_after)))), &Presented::default())
        };
        let mut longest = of(4600);
        longest.extend(&of(1300));
        assert_eq!(longest.seen().collect::<Vec<_>>(), [(Credential::Certificate, Some(3600))]);
        let mut restored = Lifetimes::default();
        restored.restore("x509_svid", Some(3600));
        assert_eq!(restored, longest);
        restored.restore("api_key", None);
        restored.restore("unheard of", None);
        assert_eq!(restored.seen().last(), Some((Credential::Token(Kind::ApiKey), None)));
        assert_eq!(Lifetimes::default().seen().count(), 0);
        assert_eq!((span(0, 9), span(i64::MIN, 9), span(5, 5)), (OPEN, OPEN, 0));
    }
}
