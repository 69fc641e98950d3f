//! What a revocation is about, in the one spelling that is compared.

use std::fmt;

use serde::{Deserialize, Serialize};
use spiffe::TrustDomain;

use crate::identity::x509;

/// Longest text of a selector, in bytes.
const MAX_TEXT: usize = 2048;
/// Hex digits of a SHA-256, and of the name of a session.
const SHA256: usize = 64;
const SESSION: usize = 16;

/// What is revoked. Made by its functions, which bring it into the spelling that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    SpiffeId(String),
    /// Of SPIFFE IDs, by whole segments of the path: itself, and all below it.
    Prefix(String),
    TrustDomain(String),
    /// SHA-256 of a certificate in hex.
    Certificate(String),
    /// The serial number in hex, as `input.peer.x509` shows it, and the issuer's name.
    Serial {
        issuer: String,
        serial: String,
    },
    /// Of a token; an empty issuer is that of tokens that name none.
    Jti {
        issuer: String,
        jti: String,
    },
    /// SHA-256 of a token in hex; of an API key its digest.
    Fingerprint(String),
    /// As `input.session.id` names it.
    Session(String),
    Task(String),
    Grant(String),
    /// Of workloads, by the registry, and of API keys.
    Owner(String),
}

/// What a selector is told apart by, besides its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    SpiffeId,
    Prefix,
    TrustDomain,
    Certificate,
    Serial,
    Jti,
    Fingerprint,
    Session,
    Task,
    Grant,
    Owner,
}

impl Kind {
    pub(super) const COUNT: usize = 11;
}

/// Why a text selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("`{0}` is no SPIFFE ID like `spiffe://example.org/ns/shop/sa/agent`")]
    SpiffeId(String),
    #[error("`{0}` is no SPIFFE ID with a path like `spiffe://example.org/ns/shop`; for all of it revoke the trust domain")]
    Prefix(String),
    #[error("`{0}` is no trust domain like `example.org`")]
    TrustDomain(String),
    #[error("`{0}` is no SHA-256 in hex")]
    Sha256(String),
    #[error("`{0}` is no serial number in hex")]
    Serial(String),
    #[error("`{0}` is no id of a session, as `doorward session list` shows it")]
    Session(String),
    #[error("a selector has between 1 and {MAX_TEXT} bytes")]
    Length,
}

impl Selector {
    /// What kinds there are, as the control log and our own API name them.
    pub const KINDS: [&str; Kind::COUNT] = [
        "spiffe_id",
        "prefix",
        "trust_domain",
        "certificate",
        "serial",
        "jti",
        "fingerprint",
        "session",
        "task",
        "grant",
        "owner",
    ];

    /// One of [`Selector::KINDS`].
    pub fn kind(&self) -> &'static str {
        let (kind, ..) = self.key();
        Self::KINDS.get(kind as usize).copied().unwrap_or_default()
    }

    pub fn spiffe_id(text: &str) -> Result<Self, SelectorError> {
        match x509::workload(text) {
            Ok(id) => Ok(Self::SpiffeId(id.to_string())),
            Err(_) => Err(SelectorError::SpiffeId(shown(text))),
        }
    }

    /// A slash at its end changes nothing.
    pub fn prefix(text: &str) -> Result<Self, SelectorError> {
        match x509::workload(text.strip_suffix('/').unwrap_or(text)) {
            Ok(id) => Ok(Self::Prefix(id.to_string())),
            Err(_) => Err(SelectorError::Prefix(shown(text))),
        }
    }

    /// With or without `spiffe://`.
    pub fn trust_domain(text: &str) -> Result<Self, SelectorError> {
        let name = text.strip_prefix("spiffe://").unwrap_or(text);
        match TrustDomain::new(name) {
            Ok(domain) if domain.to_string() == name => Ok(Self::TrustDomain(name.to_owned())),
            _ => Err(SelectorError::TrustDomain(shown(text))),
        }
    }

    /// With or without colons, in any case.
    pub fn certificate(text: &str) -> Result<Self, SelectorError> {
        sha256(text).map(Self::Certificate)
    }

    /// The serial number with or without colons and leading zeros, in any case.
    pub fn serial(issuer: &str, serial: &str) -> Result<Self, SelectorError> {
        let digits = hex_digits(serial).ok_or_else(|| SelectorError::Serial(shown(serial)))?;
        let digits = digits.trim_start_matches('0');
        let serial = match digits.len() {
            0 => "00".to_owned(),
            length if length % 2 == 1 => format!("0{digits}"),
            _ => digits.to_owned(),
        };
        Ok(Self::Serial { issuer: some(issuer)?, serial: some(&serial)? })
    }

    pub fn jti(issuer: &str, jti: &str) -> Result<Self, SelectorError> {
        if issuer.len() > MAX_TEXT {
            return Err(SelectorError::Length);
        }
        Ok(Self::Jti { issuer: issuer.to_owned(), jti: some(jti)? })
    }

    pub fn fingerprint(text: &str) -> Result<Self, SelectorError> {
        sha256(text).map(Self::Fingerprint)
    }

    pub fn session(text: &str) -> Result<Self, SelectorError> {
        let digits = hex_digits(text).filter(|digits| digits.len() == SESSION);
        digits.map(Self::Session).ok_or_else(|| SelectorError::Session(shown(text)))
    }

    pub fn task(text: &str) -> Result<Self, SelectorError> {
        some(text).map(Self::Task)
    }

    pub fn grant(text: &str) -> Result<Self, SelectorError> {
        some(text).map(Self::Grant)
    }

    pub fn owner(text: &str) -> Result<Self, SelectorError> {
        some(text).map(Self::Owner)
    }

    /// Whether it is about somebody to whom things are issued, so that a floor has a meaning.
    pub const fn is_of_a_subject(&self) -> bool {
        matches!(self, Self::SpiffeId(_) | Self::Prefix(_) | Self::TrustDomain(_) | Self::Owner(_))
    }

    /// Whether one slip of the hand stops many.
    pub const fn is_broad(&self) -> bool {
        matches!(self, Self::Prefix(_) | Self::TrustDomain(_))
    }

    /// Whether the SPIFFE ID is selected. Nothing else is asked.
    pub fn covers(&self, id: &str) -> bool {
        match self {
            Self::SpiffeId(own) => own == id,
            Self::Prefix(prefix) => id.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::TrustDomain(domain) => trust_domain(id) == Some(domain),
            _ => false,
        }
    }

    /// What it is found by.
    pub(super) fn key(&self) -> (Kind, &str, &str) {
        match self {
            Self::SpiffeId(id) => (Kind::SpiffeId, "", id),
            Self::Prefix(prefix) => (Kind::Prefix, "", prefix),
            Self::TrustDomain(domain) => (Kind::TrustDomain, "", domain),
            Self::Certificate(sha256) => (Kind::Certificate, "", sha256),
            Self::Serial { issuer, serial } => (Kind::Serial, issuer, serial),
            Self::Jti { issuer, jti } => (Kind::Jti, issuer, jti),
            Self::Fingerprint(sha256) => (Kind::Fingerprint, "", sha256),
            Self::Session(id) => (Kind::Session, "", id),
            Self::Task(id) => (Kind::Task, "", id),
            Self::Grant(id) => (Kind::Grant, "", id),
            Self::Owner(owner) => (Kind::Owner, "", owner),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeId(id) => write!(f, "SPIFFE ID `{id}`"),
            Self::Prefix(prefix) => write!(f, "all SPIFFE IDs from `{prefix}` down"),
            Self::TrustDomain(domain) => write!(f, "trust domain `{domain}`"),
            Self::Certificate(sha256) => write!(f, "certificate `{sha256}`"),
            Self::Serial { issuer, serial } => write!(f, "certificate `{serial}` of `{issuer}`"),
            Self::Jti { issuer, jti } => write!(f, "token `{jti}` of `{issuer}`"),
            Self::Fingerprint(sha256) => write!(f, "token with fingerprint `{sha256}`"),
            Self::Session(id) => write!(f, "session `{id}`"),
            Self::Task(id) => write!(f, "task `{id}`"),
            Self::Grant(id) => write!(f, "grant `{id}`"),
            Self::Owner(owner) => write!(f, "all that `{owner}` owns"),
        }
    }
}

/// The trust domain of a SPIFFE ID.
pub(super) fn trust_domain(id: &str) -> Option<&str> {
    id.strip_prefix("spiffe://")?.split('/').next()
}

/// The SPIFFE IDs that a prefix may have selected `id` by, `id` itself too.
pub(super) fn prefixes(id: &str) -> impl Iterator<Item = &str> {
    let domain = "spiffe://".len() + trust_domain(id).map_or(0, str::len);
    let ends = id.bytes().enumerate().skip(domain + 1).filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    ends.chain([id.len()]).filter_map(|end| id.get(..end))
}

fn sha256(text: &str) -> Result<String, SelectorError> {
    hex_digits(text).filter(|digits| digits.len() == SHA256).ok_or_else(|| SelectorError::Sha256(shown(text)))
}

/// In lower case, without the colons that tools write between them.
fn hex_digits(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > MAX_TEXT {
        return None;
    }
    let digits = text.chars().filter(|c| *c != ':').map(|c| c.is_ascii_hexdigit().then(|| c.to_ascii_lowercase()));
    digits.collect::<Option<String>>().filter(|digits| !digits.is_empty())
}

fn some(text: &str) -> Result<String, SelectorError> {
    match text.len() {
        1..=MAX_TEXT => Ok(text.to_owned()),
        _ => Err(SelectorError::Length),
    }
}

/// As much of a text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_selector_has_one_spelling() {
        let hex = "AB:cd".to_owned() + &"0".repeat(60);
        let plain = "abcd".to_owned() + &"0".repeat(60);
        for (made, expected) in [
            (Selector::spiffe_id("spiffe://td/a"), Selector::SpiffeId("spiffe://td/a".to_owned())),
            (Selector::prefix("spiffe://td/a/"), Selector::Prefix("spiffe://td/a".to_owned())),
            (Selector::trust_domain("spiffe://td"), Selector::TrustDomain("td".to_owned())),
            (Selector::certificate(&hex), Selector::Certificate(plain.clone())),
            (Selector::fingerprint(&plain), Selector::Fingerprint(plain)),
            (Selector::serial("CN=a", "00:0A:FF"), Selector::Serial { issuer: "CN=a".to_owned(), serial: "0aff".to_owned() }),
            (Selector::serial("CN=a", "0"), Selector::Serial { issuer: "CN=a".to_owned(), serial: "00".to_owned() }),
            (Selector::jti("", "j"), Selector::Jti { issuer: String::new(), jti: "j".to_owned() }),
            (Selector::session("00ABCDEF01234567"), Selector::Session("00abcdef01234567".to_owned())),
        ] {
            assert_eq!(made, Ok(expected));
        }
        for wrong in [
            Selector::spiffe_id("spiffe://td"),
            Selector::spiffe_id("spiffe://TD/a"),
            Selector::prefix("spiffe://td/"),
            Selector::prefix("spiffe://td/a//"),
            Selector::trust_domain("td/a"),
            Selector::trust_domain("TD"),
            Selector::certificate("ab"),
            Selector::fingerprint(&"g".repeat(64)),
            Selector::serial("", "1"),
            Selector::serial("CN=a", "xyz"),
            Selector::serial("CN=a", ":"),
            Selector::jti("i", ""),
            Selector::session("1"),
            Selector::task(""),
            Selector::grant(&"g".repeat(MAX_TEXT + 1)),
            Selector::owner(""),
        ] {
            assert!(wrong.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        let all: Vec<_> = prefixes("spiffe://td/a/bc/d").collect();
        assert_eq!(all, ["spiffe://td/a", "spiffe://td/a/bc", "spiffe://td/a/bc/d"]);
        let prefix = Selector::prefix("spiffe://td/a/b").unwrap();
        for (id, covered) in [
            ("spiffe://td/a/b", true),
            ("spiffe://td/a/b/c", true),
            ("spiffe://td/a/bc", false),
            ("spiffe://td/a", false),
            ("spiffe://other/a/b", false),
        ] {
            assert_eq!(prefix.covers(id), covered, "{id}");
            assert_eq!(prefixes(id).any(|found| found == "spiffe://td/a/b"), covered, "{id}");
        }
    }
}
