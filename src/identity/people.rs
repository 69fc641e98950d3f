//! People: who they are by a token of an issuer that is listed for them (`control.oidc`), and that it is a person's at all.

use std::sync::Arc;

use serde_json::Value;

use super::{author::Person, keys::KeyStore, token::Token, tokens::Tokens};
use crate::{
    clock::Now,
    config::{self, Issuer, Oidc},
    trust::TrustStore,
    verdict::Reason,
};

/// Most groups of one person that are looked at.
const MAX_GROUPS: usize = 1_000;

/// Why a token shows no person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PersonError {
    #[error("no issuer is listed for people (`control.oidc`)")]
    Nobody,
    #[error("write `authorization: Bearer` and the token")]
    Scheme,
    #[error("the token does not count: {0}")]
    Token(Reason),
    #[error("a client got the token for itself, and no person is behind it")]
    Client,
    #[error("the token has no claim `{0}` (`control.oidc.person_claim`) that says who it is")]
    Nameless(String),
}

/// Verifies people's tokens.
#[derive(Debug)]
pub struct People {
    tokens: Tokens,
    rules: Oidc,
}

impl People {
    pub fn new(rules: &Oidc, trust: Arc<TrustStore>) -> Self {
        let config = config::Tokens { issuers: rules.issuers.clone(), ..config::Tokens::default() };
        Self { tokens: Tokens::of_issuers(&config, trust), rules: rules.clone() }
    }

    /// The key store of each issuer, for whoever fetches.
    pub fn key_stores(&self) -> Vec<(Issuer, Arc<KeyStore>)> {
        self.tokens.key_stores()
    }

    /// Whose the value of an `authorization` header is.
    ///
    /// # Errors
    /// When it is nobody's who is known here.
    pub fn person(&self, authorization: &str, now: Now) -> Result<Person, PersonError> {
        let (scheme, text) = authorization.split_once(' ').ok_or(PersonError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(PersonError::Scheme);
        }
        let token = self.tokens.bearer(text.trim(), now).map_err(PersonError::Token)?;
        if is_clients(&token) {
            return Err(PersonError::Client);
        }
        let claim = &self.rules.person_claim;
        let name = token.text(claim).filter(|name| !name.is_empty()).ok_or_else(|| PersonError::Nameless(claim.clone()))?;
        let groups = match token.claims.get(&self.rules.groups_claim) {
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).take(MAX_GROUPS).map(str::to_owned).collect(),
            Some(Value::String(group)) => vec![group.clone()],
            _ => Vec::new(),
        };
        let person = Person {
            issuer: token.issuer.clone().unwrap_or_default(),
            subject: token.subject.clone(),
            name: name.to_owned(),
            groups,
            acr: token.text("acr").map(str::to_owned),
        };
        if person.fits() { Ok(person) } else { Err(PersonError::Token(Reason::TokenTooLarge)) }
    }

    /// Whether a person was authenticated well enough to approve.
    pub fn is_strong(&self, person: &Person) -> bool {
        self.rules.acr.is_empty() || person.acr.as_ref().is_some_and(|acr| self.rules.acr.contains(acr))
    }

    /// Whether a person is one of `control.oidc.approvers`.
    pub fn is_approver(&self, person: &Person) -> bool {
        self.rules.approvers.iter().any(|approver| person.owns(approver))
    }
}

/// Whether a client got it with its own credentials: as RFC 9068 §2.2 has it the subject is the client then, and some
/// issuers say it in a claim of their own.
fn is_clients(token: &Token) -> bool {
    let is_subject = |claim| token.text(claim).is_some_and(|client| client == token.subject);
    let says = |claim, value| token.text(claim).is_some_and(|said| said == value);
    is_subject("client_id")
        || is_subject("azp")
        || is_subject("cid")
        || says("gty", "client-credentials")
        || says("grant_type", "client_credentials")
        || says("idtyp", "app")
        || token.text("preferred_username").is_some_and(|name| name.starts_with("service-account-"))
        || token.subject.ends_with("@clients")
        || token.subject.starts_with("spiffe://")
        || token.subject.starts_with("system:serviceaccount:")
}
