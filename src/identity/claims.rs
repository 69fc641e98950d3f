//! What the claims of a token must say, by its kind: access tokens (RFC 9068 §4), ID tokens, projected tokens of
//! Kubernetes, transaction tokens (draft-ietf-oauth-transaction-tokens §7), JWT-SVIDs (SPIFFE JWT-SVID §3). What depends on the time
//! is taken out as a [`Validity`] and judged at each call.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use spiffe::SpiffeId;

use super::{
    jwt::Jws,
    token::{Confirmation, Validity},
    x509::workload,
};
use crate::{
    config::{self, IssuerKind},
    verdict::Reason,
};

/// Longest life of a JWT-SVID that is taken: an issuer that gives more gives long-lived secrets.
const MAX_SVID_LIFETIME: i64 = 86_400;

/// Whether a `typ` (in lower case, if any) is of the kind. It is what keeps tokens of one kind from being taken for
/// another's (RFC 8725 §3.11).
pub fn takes_type(issuer: &config::Issuer, kind: Option<&str>) -> bool {
    match issuer.kind {
        IssuerKind::AccessToken => kind == Some("at+jwt") || issuer.allow_untyped && matches!(kind, None | Some("jwt")),
        IssuerKind::IdToken | IssuerKind::Kubernetes => matches!(kind, None | Some("jwt")),
        IssuerKind::Transaction => kind == Some("txntoken+jwt"),
    }
}

/// The rules of one issuer. The type was looked at before, the signature was too.
pub fn judge(issuer: &config::Issuer, jws: &Jws<'_>) -> Result<Validity, Reason> {
    let audience = audience(jws)?;
    let meant = |audience: &&str| issuer.audiences.iter().any(|own| own == audience);
    match issuer.kind {
        // One trust domain has one service for them, so that nobody else is meant beside us.
        IssuerKind::Transaction if audience.len() != 1 => return Err(Reason::TokenAudience),
        _ if !audience.iter().any(meant) => return Err(Reason::TokenAudience),
        _ => {}
    }
    needed(jws, "sub")?;
    let leeway = seconds(issuer.leeway);
    let (issued, expires) = (date(jws, "iat")?, date(jws, "exp")?.ok_or(Reason::TokenClaims)?);
    let issued = issued.ok_or(Reason::TokenClaims)?;
    let not_before = date(jws, "nbf")?.unwrap_or(issued);
    if expires.saturating_sub(issued) > seconds(issuer.lifetime()) {
        return Err(Reason::TokenLifetime);
    }
    let mut renewed_by = None;
    match issuer.kind {
        IssuerKind::AccessToken => {
            needed(jws, "client_id")?;
            needed(jws, "jti")?;
        }
        IssuerKind::IdToken => {}
        IssuerKind::Kubernetes => renewed_by = kubernetes(jws)?,
        IssuerKind::Transaction => ["txn", "scope", "req_wl"].iter().try_for_each(|claim| needed(jws, claim))?,
    }
    Ok(Validity { from: issued.max(not_before), until: expires, renewed_by, leeway })
}

/// JWT-SVID rules J-2 and J-4 to J-8 of the document; the algorithm is the key's to allow.
pub fn judge_svid(svid: &config::JwtSvid, jws: &Jws<'_>) -> Result<Validity, Reason> {
    let audience = audience(jws)?;
    if !audience.iter().any(|audience| svid.audiences.iter().any(|own| own == audience)) {
        return Err(Reason::TokenAudience);
    }
    let expires = date(jws, "exp")?.ok_or(Reason::TokenClaims)?;
    let issued = date(jws, "iat")?;
    let from = [issued, date(jws, "nbf")?].into_iter().flatten().max().unwrap_or(i64::MIN);
    if issued.is_some_and(|issued| expires.saturating_sub(issued) > MAX_SVID_LIFETIME) {
        return Err(Reason::TokenLifetime);
    }
    Ok(Validity { from, until: expires, renewed_by: None, leeway: seconds(svid.leeway) })
}

/// The workload that a JWT-SVID names, once its header is of the only form that one may have.
pub fn svid_subject(jws: &Jws<'_>) -> Result<SpiffeId, Reason> {
    if jws.header.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(Reason::TokenMalformed);
    }
    if !matches!(jws.kind()?.as_deref(), None | Some("jwt" | "jose")) {
        return Err(Reason::TokenType);
    }
    if jws.key_id()?.is_none() {
        return Err(Reason::TokenMalformed);
    }
    workload(jws.text("sub").ok_or(Reason::TokenClaims)?)
}

/// A token that is bound to its pod, not one of the old ones that never end. `warnafter` is when the kubelet has long
/// replaced a token that was given a year for the sake of old clients.
fn kubernetes(jws: &Jws<'_>) -> Result<Option<i64>, Reason> {
    if jws.claims.keys().any(|name| name.starts_with("kubernetes.io/serviceaccount/")) {
        return Err(Reason::TokenClaims);
    }
    let about = jws.claims.get("kubernetes.io").ok_or(Reason::TokenClaims)?;
    let text = |path: &str| about.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    text("/pod/uid").ok_or(Reason::TokenClaims)?;
    let (namespace, account) = text("/namespace").zip(text("/serviceaccount/name")).ok_or(Reason::TokenClaims)?;
    if jws.text("sub") != Some(format!("system:serviceaccount:{namespace}:{account}").as_str()) {
        return Err(Reason::TokenClaims);
    }
    about.get("warnafter").map(|date| number(date).ok_or(Reason::TokenClaims)).transpose()
}

/// `aud`: a text or an array of texts (RFC 7519 §4.1.3).
fn audience<'a>(jws: &'a Jws<'_>) -> Result<Vec<&'a str>, Reason> {
    match jws.claims.get("aud") {
        Some(Value::String(audience)) => Ok(vec![audience]),
        Some(Value::Array(all)) => all.iter().map(|one| one.as_str().ok_or(Reason::TokenClaims)).collect(),
        Some(_) => Err(Reason::TokenClaims),
        None => Err(Reason::TokenAudience),
    }
}

/// A text that has to be there, and to say something.
fn needed(jws: &Jws<'_>, claim: &str) -> Result<(), Reason> {
    jws.text(claim).filter(|text| !text.is_empty()).map(drop).ok_or(Reason::TokenClaims)
}

/// A NumericDate (RFC 7519 §2): a number, never a text that looks like one.
pub fn date(jws: &Jws<'_>, claim: &str) -> Result<Option<i64>, Reason> {
    jws.claims.get(claim).map(|value| number(value).ok_or(Reason::TokenClaims)).transpose()
}

fn number(value: &Value) -> Option<i64> {
    let Value::Number(number) = value else { return None };
    if let Some(whole) = number.as_i64() {
        return Some(whole);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a date outside is cut off at the ends, which are as far off")]
    number.as_f64().filter(|date| date.is_finite()).map(|date| date.floor() as i64)
}

fn seconds(span: config::Span) -> i64 {
    i64::try_from(span.duration().as_secs()).unwrap_or(i64::MAX)
}

/// What the token is bound to (RFC 7800 §3.1). One that is bound in a way that cannot be checked here is no good.
pub fn confirmation(jws: &Jws<'_>) -> Result<Confirmation, Reason> {
    let Some(confirmation) = jws.claims.get("cnf") else { return Ok(Confirmation::default()) };
    let members = confirmation.as_object().ok_or(Reason::TokenBinding)?;
    let text = |name: &str| members.get(name).map(|value| value.as_str().ok_or(Reason::TokenBinding)).transpose();
    let hash = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok().filter(|hash| hash.len() == 32).ok_or(Reason::TokenBinding);
    let certificate = text("x5t#S256")?.map(hash).transpose()?.map(hex::encode);
    let key = text("jkt")?.map(|text| hash(text).map(|_| text.to_owned())).transpose()?;
    let found = Confirmation { certificate, key };
    if found.is_none() { Err(Reason::TokenBinding) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
