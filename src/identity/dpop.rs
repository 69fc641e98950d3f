//! Proofs of possession (RFC 9449 §4.3): the header `dpop` of a request shows that its sender holds a key, for this
//! method, this address, this token and this moment. Nonces of ours are not asked for.

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use url::Url;

use super::{claims, jwt::Jws, keys::Key, replay::Replay};
use crate::{clock::Now, config, request::Http, verdict::Reason};

/// Longest `jti` that is remembered.
const MAX_ID: usize = 256;

/// Checks the proof beside `token` and returns the thumbprint of its key. `holder` is whom remembered proofs are counted
/// for.
pub fn prove(rules: &config::Dpop, http: &Http, token: &str, holder: &str, replay: &Replay, now: Now) -> Result<String, Reason> {
    let text = http.headers.get("dpop").ok_or(Reason::DpopProof)?;
    // Two headers come joined by a comma, which no token has.
    if text.contains(',') {
        return Err(Reason::TokenRepeated);
    }
    let proof = Jws::read(text.trim()).map_err(|_| Reason::DpopProof)?;
    let (thumbprint, id) = check(rules, http, token, &proof, now)?;
    let address = proof.text("htu").unwrap_or_default();
    // `iat` may lie as far before now as after it.
    let span = rules.window.duration().saturating_mul(2);
    if !replay.first(holder, &[&thumbprint, address, id], span, now) {
        return Err(Reason::TokenReplayed);
    }
    Ok(thumbprint)
}

fn check<'a>(rules: &config::Dpop, http: &Http, token: &str, proof: &'a Jws<'_>, now: Now) -> Result<(String, &'a str), Reason> {
    let bad = Reason::DpopProof;
    if proof.kind() != Ok(Some("dpop+jwt".to_owned())) {
        return Err(bad);
    }
    let jwk = proof.header.get("jwk").and_then(Value::as_object).ok_or(bad)?;
    let key = Key::read(jwk, &["sig"]).ok_or(bad)?;
    if !proof.is_signed_by(&key) {
        return Err(bad);
    }
    let text = |claim| proof.text(claim).ok_or(bad);
    if text("htm")? != http.method || !rules.base_urls.iter().any(|base| is_at(base, text("htu").unwrap_or_default(), http)) {
        return Err(bad);
    }
    let window = i64::try_from(rules.window.duration().as_secs()).unwrap_or(i64::MAX);
    let issued = claims::date(proof, "iat").map_err(|_| bad)?.ok_or(bad)?;
    if now.seconds().abs_diff(issued) > window.unsigned_abs() {
        return Err(bad);
    }
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    if text("ath")? != BASE64_URL_SAFE_NO_PAD.encode(hash) {
        return Err(bad);
    }
    let id = text("jti")?;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(bad);
    }
    Ok((thumbprint(jwk).ok_or(bad)?, id))
}

/// Whether `htu` is this request's address below `base`, without query and fragment, after RFC 3986 §6.2.2 and §6.2.3.
fn is_at(base: &Url, htu: &str, http: &Http) -> bool {
    let Ok(claimed) = Url::parse(htu) else { return false };
    if claimed.query().is_some() || claimed.fragment().is_some() || claimed.origin() != base.origin() {
        return false;
    }
    let path = http.path.split(['?', '#']).next().unwrap_or_default();
    let Ok(asked) = Url::parse(&format!("{}{path}", base.as_str().trim_end_matches('/'))) else { return false };
    asked.origin() == base.origin() && plain(asked.path()) == plain(claimed.path())
}

/// The path with escapes that stand for themselves written out, and the others in upper case.
fn plain(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((head, tail)) = rest.split_once('%') {
        plain.push_str(head);
        let (digits, after) = tail.split_at_checked(2).unwrap_or((tail, ""));
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let escape = format!("%{}", digits.to_ascii_uppercase());
        let decoded = percent_decode_str(&escape).decode_utf8().ok().filter(|text| text.chars().all(unreserved));
        plain.push_str(decoded.as_deref().unwrap_or(&escape));
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// RFC 7638 §3.2, in base64url.
fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => return None,
    };
    let members = members.iter().map(|name| Some(format!("\"{name}\":{}", Value::from(jwk.get(*name)?.as_str()?))));
    let text = format!("{{{}}}", members.collect::<Option<Vec<_>>>()?.join(","));
    Some(BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_the_rfc() {
        // RFC 8037 appendix A.3.
        let jwk =
            serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "a"});
        assert_eq!(thumbprint(jwk.as_object().unwrap()).unwrap(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn an_address_is_compared_as_what_it_means() {
        let base = Url::parse("https://api.example.com/v1").unwrap();
        let at = |path: &str| Http { path: path.to_owned(), ..Http::default() };
        for (htu, path, expected) in [
            ("https://api.example.com/v1/a", "/a", true),
            ("https://api.example.com/v1/a", "/a?q=1", true),
            ("https://API.example.com:443/v1/a", "/a", true),
            ("https://api.example.com/v1/%61%2fb", "/a%2Fb", true),
            ("https://api.example.com/v1/x/../a", "/a", true),
            ("https://api.example.com/a", "/a", false),
            ("https://api.example.com/v1/b", "/a", false),
            ("http://api.example.com/v1/a", "/a", false),
            ("https://api.example.com:444/v1/a", "/a", false),
            ("https://evil.example/v1/a", "/a", false),
            ("https://api.example.com/v1/a?q=1", "/a?q=1", false),
            ("https://api.example.com/v1/a#f", "/a", false),
            ("https://api.example.com/v1/a/b", "/a%2Fb", false),
            ("", "/a", false),
        ] {
            assert_eq!(is_at(&base, htu, &at(path)), expected, "{htu} {path}");
        }
        let host = Url::parse("https://api.example.com").unwrap();
        assert!(!is_at(&host, "https://api.example.com/", &at("@evil.example/")), "a path may not move the host");
    }
}
