//! A credential of a request that was verified: what it says, when it holds, and what it is bound to. How one is found and
//! verified is `tokens`', whether it is bound to the peer of a call `binding`'s.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{clock::Now, config::IssuerKind, json::Shown, verdict::Reason};

/// `input.tokens[].kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    JwtSvid,
    AccessToken,
    IdToken,
    Kubernetes,
    Transaction,
    ApiKey,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JwtSvid => "jwt_svid",
            Self::AccessToken => "access_token",
            Self::IdToken => "id_token",
            Self::Kubernetes => "kubernetes",
            Self::Transaction => "transaction",
            Self::ApiKey => "api_key",
        }
    }
}

impl From<IssuerKind> for Kind {
    fn from(kind: IssuerKind) -> Self {
        match kind {
            IssuerKind::AccessToken => Self::AccessToken,
            IssuerKind::IdToken => Self::IdToken,
            IssuerKind::Kubernetes => Self::Kubernetes,
            IssuerKind::Transaction => Self::Transaction,
        }
    }
}

/// What ties a token to the peer that sends it, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// To the peer's certificate (RFC 8705 §3).
    Mtls,
    /// To a key that this request proves (RFC 9449).
    Dpop,
    /// It names the peer.
    Id,
    None,
}

impl Binding {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Dpop => "dpop",
            Self::Id => "id",
            Self::None => "none",
        }
    }
}

/// What the claim `cnf` demands. Where it demands both, both must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// SHA-256 of the peer's certificate in lower-case hex, from `x5t#S256`.
    pub certificate: Option<String>,
    /// RFC 7638 thumbprint of a key, from `jkt`.
    pub key: Option<String>,
}

impl Confirmation {
    pub const fn is_none(&self) -> bool {
        self.certificate.is_none() && self.key.is_none()
    }
}

/// One verified credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    /// Absent where the token has none (transaction tokens, JWT-SVIDs) or the credential is no token.
    pub issuer: Option<String>,
    pub subject: String,
    pub claims: Map<String, Value>,
    pub jti: Option<String>,
    /// SHA-256 of the token in hex; of an API key the keyed hash.
    pub fingerprint: Arc<str>,
    pub confirmation: Confirmation,
    /// The workload that it speaks of, as the issuer's `identity` makes it.
    pub identity: Option<String>,
    pub validity: Validity,
    /// As records show it, but for its binding.
    pub shown: Shown,
}

/// When a credential holds, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The latest of `nbf` and `iat`.
    pub from: i64,
    /// `exp`.
    pub until: i64,
    /// A second limit without leeway: Kubernetes' `warnafter`.
    pub renewed_by: Option<i64>,
    pub leeway: i64,
}

impl Validity {
    /// Asked at each call, as results are remembered.
    pub fn holds(&self, now: Now) -> Result<(), Reason> {
        let now = now.seconds();
        if now >= self.until.saturating_add(self.leeway) || self.renewed_by.is_some_and(|end| now >= end) {
            return Err(Reason::TokenExpired);
        }
        if now < self.from.saturating_sub(self.leeway) { Err(Reason::TokenNotYetValid) } else { Ok(()) }
    }
}

impl Token {
    /// Whether it is a JWT-SVID that several audiences take: each of them could pass it on to the others (JWT-SVID §3.2).
    pub fn is_for_many(&self) -> bool {
        self.kind == Kind::JwtSvid && self.claims.get("aud").and_then(Value::as_array).is_some_and(|named| named.len() > 1)
    }

    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// Whether a client acts for itself or for somebody (RFC 9068 §2.2: with client credentials, `sub` is the client).
    pub fn subject_kind(&self) -> Option<&'static str> {
        match (self.kind, self.text("client_id")) {
            (Kind::AccessToken, Some(client)) if client == self.subject => Some("client"),
            (Kind::AccessToken, Some(_)) => Some("user"),
            (Kind::JwtSvid | Kind::Kubernetes | Kind::ApiKey, _) => Some("client"),
            _ => None,
        }
    }
}
