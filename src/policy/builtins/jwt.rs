//! `io.jwt.*`: JSON Web Tokens in compact form (RFC 7515, RFC 7519), as OPA decodes, verifies and signs them. `verify` has
//! the function that checks everything at once, `key` and `jwk` what it is checked with. Signatures are not kept for the
//! record: their arguments are secrets.

mod algorithm;
mod jwk;
mod key;
mod verify;

use std::rc::Rc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use regorus::Value;
use serde_json::Value as Json;

use self::{
    algorithm::{Algorithm, Hash},
    key::{Key, Material},
};
use super::{
    Builtin, Fault,
    cache::{Cache, cached},
    json, pem, text_operand, within,
};

pub(super) const JWT: &[Builtin] = &[
    Builtin { name: "io.jwt.decode", arity: 1, run: decode },
    Builtin { name: "io.jwt.decode_verify", arity: 2, run: verify::decode_verify },
    Builtin { name: "io.jwt.encode_sign", arity: 3, run: encode_sign },
    Builtin { name: "io.jwt.encode_sign_raw", arity: 3, run: encode_sign_raw },
    Builtin { name: "io.jwt.verify_rs256", arity: 2, run: |args| verified(args, Algorithm::Rs(Hash::Sha256)) },
    Builtin { name: "io.jwt.verify_rs384", arity: 2, run: |args| verified(args, Algorithm::Rs(Hash::Sha384)) },
    Builtin { name: "io.jwt.verify_rs512", arity: 2, run: |args| verified(args, Algorithm::Rs(Hash::Sha512)) },
    Builtin { name: "io.jwt.verify_ps256", arity: 2, run: |args| verified(args, Algorithm::Ps(Hash::Sha256)) },
    Builtin { name: "io.jwt.verify_ps384", arity: 2, run: |args| verified(args, Algorithm::Ps(Hash::Sha384)) },
    Builtin { name: "io.jwt.verify_ps512", arity: 2, run: |args| verified(args, Algorithm::Ps(Hash::Sha512)) },
    Builtin { name: "io.jwt.verify_es256", arity: 2, run: |args| verified(args, Algorithm::Es(Hash::Sha256)) },
    Builtin { name: "io.jwt.verify_es384", arity: 2, run: |args| verified(args, Algorithm::Es(Hash::Sha384)) },
    Builtin { name: "io.jwt.verify_es512", arity: 2, run: |args| verified(args, Algorithm::Es(Hash::Sha512)) },
    Builtin { name: "io.jwt.verify_eddsa", arity: 2, run: |args| verified(args, Algorithm::EdDsa) },
    Builtin { name: "io.jwt.verify_hs256", arity: 2, run: |args| authentic(args, Algorithm::Hs(Hash::Sha256)) },
    Builtin { name: "io.jwt.verify_hs384", arity: 2, run: |args| authentic(args, Algorithm::Hs(Hash::Sha384)) },
    Builtin { name: "io.jwt.verify_hs512", arity: 2, run: |args| authentic(args, Algorithm::Hs(Hash::Sha512)) },
];

/// Longest text of keys that is kept parsed.
const MAX_KEPT: usize = 64 << 10;

thread_local! {
    static KEYS: Cache<Box<str>, Vec<Key>> = Cache::default();
}

/// A token's parts, as they are written.
struct Token<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header and payload, which the signature is of.
    signed: &'a str,
}

/// What a header says that matters here.
struct Parameters {
    /// Empty where the header has none; so is `key`.
    algorithm: String,
    key: String,
    content: String,
    /// Whether an extension is critical that we do not know (RFC 7515 §4.1.11).
    critical: bool,
}

impl Parameters {
    fn understood(&self) -> bool {
        !self.algorithm.is_empty() && !self.critical
    }

    /// Whether the payload is a token itself.
    fn is_nested(&self) -> bool {
        self.content.eq_ignore_ascii_case("JWT")
    }
}

impl<'a> Token<'a> {
    fn split(text: &'a str) -> Result<Self, Fault> {
        let parts: Vec<&str> = text.split('.').collect();
        match (parts.as_slice(), text.rsplit_once('.')) {
            (&[header, payload, signature], Some((signed, _))) => Ok(Self { header, payload, signature, signed }),
            (_, None) => Err("encoded JWT had no period separators".into()),
            _ => Err(Fault(format!("encoded JWT must have 3 sections, found {}", parts.len()))),
        }
    }

    /// The header as it is, and what it says.
    fn header(&self) -> Result<(Value, Parameters), Fault> {
        let header = self.plain_header()?;
        let text = |name: &str| match member(&header, name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.to_string()),
            Some(_) => Err(Fault(format!("{name}: must be a string"))),
        };
        text("typ")?;
        let critical = critical(&header)?;
        let parameters = Parameters { algorithm: text("alg")?, key: text("kid")?, content: text("cty")?, critical };
        Ok((header, parameters))
    }

    fn plain_header(&self) -> Result<Value, Fault> {
        let header = object(&decoded("header", self.header)?).map_err(|Fault(why)| Fault(format!("bad JWT header: {why}")))?;
        if member(&header, "enc").is_some() {
            return Err("JWT is a JWE object, which is not supported".into());
        }
        Ok(header)
    }

    fn payload_text(&self) -> Result<String, Fault> {
        decoded("payload", self.payload)
    }

    fn payload(&self) -> Result<Value, Fault> {
        object(&self.payload_text()?)
    }

    fn signature(&self) -> Result<Vec<u8>, Fault> {
        pem::base64url(self.signature).map_err(|Fault(why)| Fault(format!("JWT signature had invalid encoding: {why}")))
    }
}

/// A part of a token as text. Bytes that are none become U+FFFD, as in Go's JSON.
fn decoded(name: &str, part: &str) -> Result<String, Fault> {
    let bytes = pem::base64url(part).map_err(|Fault(why)| Fault(format!("JWT {name} had invalid encoding: {why}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Of members of one name the last counts.
fn object(text: &str) -> Result<Value, Fault> {
    match json::parse(text).map_err(|Fault(why)| Fault(format!("invalid JSON: {why}")))? {
        value @ Value::Object(_) => Ok(value),
        _ => Err("decoded JSON type was not an Object".into()),
    }
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.as_object().ok()?.get(&Value::from(name))
}

fn critical(header: &Value) -> Result<bool, Fault> {
    let names: Vec<&Value> = match member(header, "crit") {
        None => return Ok(false),
        Some(Value::Array(names)) => names.iter().take_while(|name| matches!(name, Value::String(_))).collect(),
        Some(_) => return Err("crit: must be a list".into()),
    };
    if names.is_empty() {
        return Err("crit: must be a nonempty list".into());
    }
    let known = ["alg", "kid", "typ", "cty", "crit"].map(Value::from);
    Ok(names.into_iter().any(|name| !known.contains(name) && header.as_object().is_ok_and(|header| header.contains_key(name))))
}

/// The keys of a certificate, a public key or a set of keys, parsed once by each thread.
fn keys(text: &str) -> Result<Rc<Vec<Key>>, Fault> {
    if text.len() > MAX_KEPT {
        return key::read(text).map(Rc::new);
    }
    cached(&KEYS, text, || key::read(text))
}

/// The key that the token names, where the set has one of that name; else all but those of another algorithm.
fn chosen<'a>(keys: &'a [Key], parameters: &Parameters) -> Vec<&'a Key> {
    if let Some(named) = keys.iter().find(|key| !key.id.is_empty() && key.id == parameters.key) {
        return vec![named];
    }
    let algorithm = Algorithm::named(&parameters.algorithm);
    keys.iter().filter(|key| key.algorithm.is_none() || key.algorithm == algorithm).collect()
}

/// Whether one of the keys has signed the token.
fn holds(token: &Token<'_>, signature: &[u8], algorithm: Algorithm, keys: &[&Key]) -> Result<bool, Fault> {
    if keys.iter().any(|key| key.verifies(algorithm, token.signed.as_bytes(), signature)) {
        return Ok(true);
    }
    let is_weak = keys.iter().any(|key| key.is_too_weak(algorithm));
    within(!is_weak, "an RSA key of fewer than 2048 bits verifies no token")?;
    Ok(false)
}

fn decode(args: &[Value]) -> Result<Value, Fault> {
    let mut text = text_operand(args, 0)?.to_owned();
    loop {
        let token = Token::split(&text)?;
        let header = token.plain_header()?;
        match member(&header, "cty") {
            // A token inside a token is sometimes written as a JSON string.
            Some(Value::String(content)) if content.as_ref() == "JWT" => {
                text = token.payload_text()?.trim_matches(['"', '\'']).to_owned();
            }
            Some(Value::String(_)) | None => {
                let signature = Value::from(hex::encode(token.signature()?));
                return Ok(Value::from(vec![header, token.payload()?, signature]));
            }
            Some(_) => return Err("cty: must be a string".into()),
        }
    }
}

/// Whether a public key has signed it. A key that comes with its private part is none.
fn verified(args: &[Value], algorithm: Algorithm) -> Result<Value, Fault> {
    let token = Token::split(text_operand(args, 0)?)?;
    let keys = keys(text_operand(args, 1)?)?;
    let signature = token.signature()?;
    let (_, parameters) = token.header()?;
    let mut keys = chosen(&keys, &parameters);
    keys.retain(|key| !key.private);
    holds(&token, &signature, algorithm, &keys).map(Value::Bool)
}

/// Whether it was made by somebody who knows the secret.
fn authentic(args: &[Value], algorithm: Algorithm) -> Result<Value, Fault> {
    let (text, secret) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let token = Token::split(text)?;
    let signature = token.signature()?;
    let material = Material::Secret(secret.as_bytes().to_vec());
    let key = Key { algorithm: None, id: String::new(), material, private: false };
    Ok(Value::Bool(key.verifies(algorithm, token.signed.as_bytes(), &signature)))
}

fn encode_sign(args: &[Value]) -> Result<Value, Fault> {
    let text = |index: usize| json::marshal(args.get(index).unwrap_or(&Value::Undefined));
    signed(&text(0)?, &text(1)?, &text(2)?)
}

fn encode_sign_raw(args: &[Value]) -> Result<Value, Fault> {
    signed(text_operand(args, 0)?, text_operand(args, 1)?, text_operand(args, 2)?)
}

/// Signs with the first key, by the algorithm that the header names. What calls itself a JWT, or nothing, has to be JSON.
fn signed(header: &str, payload: &str, keys: &str) -> Result<Value, Fault> {
    let keys = jwk::set(keys)?;
    let key = keys.first().ok_or("no keys found in JWK set")?;
    let parameters: Json =
        serde_json::from_str(header).map_err(|error| Fault(format!("missing or invalid 'alg' header: {error}")))?;
    let name = parameters.get("alg").and_then(Json::as_str).ok_or("missing or invalid 'alg' header")?;
    let algorithm = Algorithm::named(name).ok_or_else(|| Fault(format!("unknown JWS algorithm: {name}")))?;
    let is_jwt = parameters.get("typ").and_then(Json::as_str).is_none_or(|kind| kind == "JWT");
    if is_jwt && !json::is_json(payload) {
        return Err("type is JWT but payload is not JSON".into());
    }
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    let signature = jwk::sign(key, algorithm, message.as_bytes())?;
    Ok(Value::from(format!("{message}.{}", encode(&signature))))
}

#[cfg(test)]
mod tests;
