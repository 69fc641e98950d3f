//! A signed token as it travels: compact JWS (RFC 7515 §3.1), read so that it means one thing, and its signature. Which
//! keys may sign is `keys`', what the claims must say `claims`'.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use super::keys::Key;
use crate::{json, verdict::Reason};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 24 * 1024;
/// Longest payload, in bytes.
const MAX_PAYLOAD: usize = 16 * 1024;
const MAX_DEPTH: usize = 32;

/// One token, its signature not looked at yet: nothing in it may be believed.
#[derive(Debug)]
pub struct Jws<'a> {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub algorithm: Algorithm,
    /// Header and payload as they were signed.
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    /// Reads a token. A name that stands twice is refused, as is `crit` of any kind: none of its extensions is known
    /// here (RFC 7515 §4.1.11), `b64` among them.
    pub fn read(token: &'a str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(Reason::TokenTooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::TokenMalformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Reason::TokenMalformed)?;
        if payload.contains('.') || signature.is_empty() {
            return Err(Reason::TokenMalformed);
        }
        let (header, claims) = (object(header)?, object(payload)?);
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(Reason::TokenCritical);
        }
        // `none` and whatever we do not know are no algorithms of ours.
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let algorithm = algorithm.ok_or(Reason::TokenAlgorithm)?;
        Ok(Self { header, claims, algorithm, signed, signature })
    }

    /// `typ` in lower case, without the `application/` that RFC 7515 §4.1.9 lets one leave out.
    pub fn kind(&self) -> Result<Option<String>, Reason> {
        let Some(kind) = self.header.get("typ") else { return Ok(None) };
        let kind = kind.as_str().ok_or(Reason::TokenType)?.to_ascii_lowercase();
        Ok(Some(kind.strip_prefix("application/").map_or(kind.clone(), str::to_owned)))
    }

    pub fn key_id(&self) -> Result<Option<&str>, Reason> {
        self.header.get("kid").map(|id| id.as_str().ok_or(Reason::TokenMalformed)).transpose()
    }

    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// Whether `key` made the signature. A key is only ever used with an algorithm that it is for.
    pub fn is_signed_by(&self, key: &Key) -> bool {
        key.takes(self.algorithm)
            && crypto::verify(self.signature, self.signed.as_bytes(), key.decoding(), self.algorithm).unwrap_or(false)
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Reason> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::TokenMalformed)?;
    if bytes.len() > MAX_PAYLOAD {
        return Err(Reason::TokenTooLarge);
    }
    json::strict_object(&bytes, MAX_DEPTH).map_err(|_| Reason::TokenMalformed)
}

/// Whether the text has the three parts of a compact JWS whose header is an object: what else stands in `Authorization`
/// is no token of this kind.
pub fn looks_like_one(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2 && text.starts_with("ey")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", encode(header), encode(payload))
    }

    #[test]
    fn what_does_not_mean_one_thing_is_refused() {
        let deep = format!("{}1{}", "{\"a\":".repeat(33), "}".repeat(33));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_PAYLOAD));
        for (name, text, expected) in [
            ("fine", token(r#"{"alg":"ES256","typ":"JWT"}"#, r#"{"sub":"a"}"#), Ok(())),
            ("T-1 crit", token(r#"{"alg":"ES256","crit":["exp"]}"#, "{}"), Err(Reason::TokenCritical)),
            ("T-1 b64", token(r#"{"alg":"ES256","b64":false}"#, "{}"), Err(Reason::TokenCritical)),
            ("none", token(r#"{"alg":"none"}"#, "{}"), Err(Reason::TokenAlgorithm)),
            ("no alg", token("{}", "{}"), Err(Reason::TokenAlgorithm)),
            ("unknown alg", token(r#"{"alg":"ES257"}"#, "{}"), Err(Reason::TokenAlgorithm)),
            ("T-7 name twice in the header", token(r#"{"alg":"ES256","alg":"ES256"}"#, "{}"), Err(Reason::TokenMalformed)),
            ("T-7 name twice in the claims", token(r#"{"alg":"ES256"}"#, r#"{"a":1,"a":1}"#), Err(Reason::TokenMalformed)),
            ("T-7 depth", token(r#"{"alg":"ES256"}"#, &deep), Err(Reason::TokenMalformed)),
            ("T-7 payload too long", token(r#"{"alg":"ES256"}"#, &long), Err(Reason::TokenTooLarge)),
            ("T-7 token too long", "x".repeat(MAX_TOKEN + 1), Err(Reason::TokenTooLarge)),
            ("two parts", "eyJ9.eyJ9".to_owned(), Err(Reason::TokenMalformed)),
            ("five parts", "a.b.c.d.e".to_owned(), Err(Reason::TokenMalformed)),
            ("no signature", token(r#"{"alg":"ES256"}"#, "{}").trim_end_matches("c2ln").to_owned(), Err(Reason::TokenMalformed)),
            ("no base64", "!.!.x".to_owned(), Err(Reason::TokenMalformed)),
            ("array", token("[]", "{}"), Err(Reason::TokenMalformed)),
            ("J-1 JSON serialisation", r#"{"payload":"","signatures":[]}"#.to_owned(), Err(Reason::TokenMalformed)),
        ] {
            assert_eq!(Jws::read(&text).map(drop), expected, "{name}");
        }
    }

    #[test]
    fn the_type_is_compared_without_case_and_prefix() {
        for (typ, expected) in [("at+jwt", "at+jwt"), ("application/AT+JWT", "at+jwt"), ("JWT", "jwt")] {
            let text = token(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#), "{}");
            assert_eq!(Jws::read(&text).unwrap().kind(), Ok(Some(expected.to_owned())));
        }
        let text = token(r#"{"alg":"ES256","typ":1}"#, "{}");
        assert_eq!(Jws::read(&text).unwrap().kind(), Err(Reason::TokenType));
    }
}
