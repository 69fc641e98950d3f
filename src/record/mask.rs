//! What a record must not show. A secret becomes a keyed digest, so that two records can still be compared: equal
//! secrets have equal digests under one key. Walking the documents is left to `policy/input` for the input and to
//! [`Mask::json`] for the result; here it is decided, member by member, what is a secret.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{digest, error::Unspecified, hmac, rand};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use memchr::memchr2;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::config;

/// Headers that carry credentials, besides those whose name ends as in [`HEADER_ENDINGS`].
const HEADERS: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "dpop",
    "txn-token",
    "x-api-key",
    "x-forwarded-client-cert",
    "x-amz-security-token",
    "x-original-authorization",
];

/// Endings of names of headers that carry credentials: `workload-identity-token`, `x-vault-token`, `x-goog-iap-jwt-assertion`.
const HEADER_ENDINGS: [&str; 5] = ["-token", "-assertion", "-secret", "-password", "-api-key"];

/// Names of members and parameters that carry credentials, in the form of [`plain_name`], besides those that end as in
/// [`NAME_ENDINGS`].
const NAMES: [&str; 11] =
    ["pwd", "pin", "otp", "jwt", "code", "codeverifier", "authorization", "sig", "sessionid", "samlresponse", "saml2response"];

/// Endings of names that carry credentials: `new_password`, `user[password]`, `X-Amz-Signature`, `id_token`.
const NAME_ENDINGS: [&str; 10] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "privatekey", "secretkey", "assertion", "signature"];

/// Keys of objects whose members are headers: in the input, and in a policy's result.
const HEADER_PARENTS: [&str; 4] = ["headers", "response_headers_to_add", "request_headers_to_add", "query_parameters_to_set"];

/// Stands for a secret that is no text and so has no digest.
const MASKED: &str = "masked";

/// How a digest begins.
const DIGEST: &str = "hmac-sha256:";

/// Shortest key of the digests: as long as the hash (RFC 2104 §3).
const MIN_KEY: usize = 32;

/// Longest name that is compared; of a longer one only the end is.
const MAX_NAME: usize = 64;

/// Why no key for the digests is to be had.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    #[error("the mask key `{}` cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the mask key `{}` has {length} bytes, it needs at least {MIN_KEY}", path.display())]
    TooShort { path: PathBuf, length: usize },
    #[error("the system gives no random key for the mask")]
    NoRandom(#[from] Unspecified),
}

/// Knows what is secret, and the key of the digests.
pub struct Mask {
    key: hmac::Key,
    /// The built-in lists are on.
    builtin: bool,
    /// In lower case. Lists and no sets: to compare a dozen lengths is cheaper than to hash, and it is done for each member
    /// of each record.
    headers: Vec<Box<str>>,
    /// In the form of [`plain_name`].
    names: Vec<Box<str>>,
    /// Last bytes, in lower case, of all names and endings that are secret: most members are told apart by theirs.
    header_ends: Ends,
    name_ends: Ends,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").field("key", &"…").field("headers", &self.headers).field("names", &self.names).finish()
    }
}

impl Mask {
    /// With the key from `key_file`, else with a random one, which makes digests comparable until the next start only.
    pub fn new(config: &config::Mask) -> Result<Self, MaskError> {
        let key = match &config.key_file {
            Some(path) => hmac::Key::new(hmac::HMAC_SHA256, &read_key(path)?),
            None => {
                let mut random = [0; MIN_KEY];
                rand::fill(&mut random)?;
                hmac::Key::new(hmac::HMAC_SHA256, &random)
            }
        };
        let builtin = !config.off;
        let headers = if builtin { HEADERS.as_slice() } else { &[] };
        let names = if builtin { NAMES.as_slice() } else { &[] };
        let headers: Vec<Box<str>> =
            headers.iter().map(|name| (*name).into()).chain(config.headers.iter().map(|name| lower(name))).collect();
        let names: Vec<Box<str>> =
            names.iter().map(|name| (*name).into()).chain(config.names.iter().map(|name| plain(name))).collect();
        Ok(Self {
            key,
            builtin,
            header_ends: Ends::of(headers.iter().map(|name| &**name).chain(HEADER_ENDINGS)),
            name_ends: Ends::of(names.iter().map(|name| &**name).chain(NAME_ENDINGS)),
            headers,
            names,
        })
    }

    /// What `policy::input::Facts::masked` asks for one document, member by member in key order. It remembers the
    /// `key` of an entry of a header list until its `rawValue` or `value` comes, which sort behind it. `certificate`
    /// is the SHA-256 of the peer's certificate where it is known already, since hashing it again for each record costs
    /// as much as all the rest of the mask.
    pub fn replacer(&self, certificate: Option<&str>) -> impl Fn(&str, &str, Option<&str>) -> Option<String> {
        let entry = RefCell::new(String::new());
        move |parent, key, value| {
            if let (true, Some(known), "source", "certificate") = (self.builtin, certificate, parent, key) {
                return Some(format!("sha256:{known}"));
            }
            let in_headers = HEADER_PARENTS.contains(&parent);
            if in_headers {
                match (key, value) {
                    ("key", Some(name)) => name.clone_into(&mut entry.borrow_mut()),
                    ("value" | "rawValue", Some(text)) if !entry.borrow().is_empty() => {
                        let masked = self.list_entry(&entry.borrow(), key, text);
                        return masked.or_else(|| self.replace(in_headers, parent, key, value));
                    }
                    _ => {}
                }
            }
            self.replace(in_headers, parent, key, value)
        }
    }

    /// Masks a policy's result in place.
    pub fn json(&self, value: &mut Value) {
        self.walk("result", "", value, &self.replacer(None));
    }

    /// `hmac-sha256:` and the first 16 bytes in hex.
    pub fn digest(&self, secret: &[u8]) -> String {
        let tag = hmac::sign(&self.key, secret);
        let short = tag.as_ref().get(..16).unwrap_or(tag.as_ref());
        format!("{DIGEST}{}", hex::encode(short))
    }

    fn walk(&self, parent: &str, key: &str, value: &mut Value, replace: &impl Fn(&str, &str, Option<&str>) -> Option<String>) {
        if let Value::Array(items) = value {
            items.iter_mut().for_each(|item| self.walk(parent, key, item, replace));
            return;
        }
        if !key.is_empty()
            && let Some(text) = replace(parent, key, value.as_str())
        {
            *value = Value::String(text);
        } else if let Value::Object(members) = value {
            // The top is the parent of its members by its own name, `result`.
            let own = if key.is_empty() { parent } else { key };
            members.iter_mut().for_each(|(member, value)| self.walk(own, member, value, replace));
        }
    }

    fn replace(&self, in_headers: bool, parent: &str, key: &str, value: Option<&str>) -> Option<String> {
        if in_headers && self.is_secret_header(key) || !parent.is_empty() && self.is_secret_name(key) {
            return Some(value.map_or_else(|| MASKED.to_owned(), |text| self.digest(text.as_bytes())));
        }
        let text = value?;
        match (parent, key) {
            ("http", "body") if self.builtin => Some(self.digest(text.as_bytes())),
            ("http", "rawBody") if self.builtin => Some(self.digest_base64(text)),
            ("source" | "destination", "certificate") if self.builtin => {
                Some(certificate_digest(text).unwrap_or_else(|| self.digest(text.as_bytes())))
            }
            ("http", "query") => self.mask_parameters(text, true),
            _ => self.mask_parameters(text, false),
        }
    }

    /// The value of one entry `{key, value | rawValue}` of a header list.
    fn list_entry(&self, name: &str, field: &str, text: &str) -> Option<String> {
        let raw = field == "rawValue";
        if self.is_secret_header(name) || self.is_secret_name(name) {
            return Some(if raw { self.digest_base64(text) } else { self.digest(text.as_bytes()) });
        }
        if !raw {
            return self.mask_parameters(text, false);
        }
        let plain = STANDARD.decode(text).ok()?;
        let masked = self.mask_parameters(&String::from_utf8_lossy(&plain), false)?;
        Some(STANDARD.encode(masked))
    }

    /// The digest of what was encoded, so that it equals the digest of the same secret in plain text.
    fn digest_base64(&self, text: &str) -> String {
        STANDARD.decode(text).map_or_else(|_| self.digest(text.as_bytes()), |plain| self.digest(&plain))
    }

    /// Replaces secret parameters in whatever looks like a URL with a query or a fragment: a path, a referer, a
    /// redirect. `None` when there is nothing to replace.
    fn mask_parameters(&self, text: &str, is_query: bool) -> Option<String> {
        let start = if is_query { 0 } else { memchr2(b'?', b'#', text.as_bytes())? };
        let (head, query) = text.split_at_checked(start)?;
        if !query.contains('=') {
            return None;
        }
        let mut masked = String::with_capacity(text.len());
        let mut changed = false;
        masked.push_str(head);
        for pair in query.split_inclusive(['?', '#', '&', ';']) {
            let (pair, end) = match pair.char_indices().next_back() {
                Some((at, '?' | '#' | '&' | ';')) => pair.split_at_checked(at)?,
                _ => (pair, ""),
            };
            match pair.split_once('=') {
                Some((name, value)) if self.is_secret_parameter(name) => {
                    changed = true;
                    masked.push_str(name);
                    masked.push('=');
                    masked.push_str(&self.digest(decode(value).as_bytes()));
                }
                _ => masked.push_str(pair),
            }
            masked.push_str(end);
        }
        changed.then_some(masked)
    }

    fn is_secret_parameter(&self, name: &str) -> bool {
        match name.contains(['%', '+']) {
            true => self.is_secret_name(&decode(name)),
            false => self.is_secret_name(name),
        }
    }

    fn is_secret_header(&self, name: &str) -> bool {
        if !name.bytes().next_back().is_some_and(|last| self.header_ends.has(last)) {
            return false;
        }
        let mut buffer = [0; MAX_NAME];
        let end = name.as_bytes().get(name.len().saturating_sub(MAX_NAME)..).unwrap_or_default();
        let Some(lower) = buffer.get_mut(..end.len()) else { return false };
        lower.copy_from_slice(end);
        lower.make_ascii_lowercase();
        let Ok(name) = str::from_utf8(lower) else { return false };
        is_one_of(&self.headers, name) || self.builtin && HEADER_ENDINGS.iter().any(|end| name.ends_with(end))
    }

    fn is_secret_name(&self, name: &str) -> bool {
        if !name.bytes().rev().find(u8::is_ascii_alphanumeric).is_some_and(|last| self.name_ends.has(last)) {
            return false;
        }
        let mut buffer = [0; MAX_NAME];
        let plain = plain_name(name, &mut buffer);
        is_one_of(&self.names, plain) || self.builtin && NAME_ENDINGS.iter().any(|end| plain.ends_with(end))
    }
}

/// A set of ASCII bytes without case.
struct Ends(u128);

impl Ends {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(names.filter_map(|name| name.bytes().next_back()).fold(0, |set, last| set | Self::bit(last)))
    }

    const fn has(&self, byte: u8) -> bool {
        self.0 & Self::bit(byte) != 0
    }

    /// A byte that is not ASCII stands for all such, at the place of a control byte that no name ends with.
    const fn bit(byte: u8) -> u128 {
        if byte.is_ascii() { 1 << byte.to_ascii_lowercase() } else { 1 }
    }
}

fn is_one_of(names: &[Box<str>], name: &str) -> bool {
    names.iter().any(|one| **one == *name)
}

/// The letters and digits of a name, without case: `client_secret`, `clientSecret` and `Client[Secret]` are one. Of a
/// longer name the end, where it says what it is.
fn plain_name<'a>(name: &str, buffer: &'a mut [u8; MAX_NAME]) -> &'a str {
    let mut start = buffer.len();
    for (place, byte) in buffer.iter_mut().rev().zip(name.bytes().rev().filter(u8::is_ascii_alphanumeric)) {
        *place = byte.to_ascii_lowercase();
        start -= 1;
    }
    buffer.get(start..).and_then(|plain| str::from_utf8(plain).ok()).unwrap_or_default()
}

fn plain(name: &str) -> Box<str> {
    plain_name(name, &mut [0; MAX_NAME]).into()
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

/// A query's name or value as an application reads it: `+` is a space, then percent-encoding.
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// `sha256:` of the certificate itself, from the URL-encoded PEM that Envoy sends: what `peer.x509.sha256` shows too.
fn certificate_digest(text: &str) -> Option<String> {
    let pem = percent_decode_str(text).decode_utf8().ok()?;
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let packed: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(packed).ok()?;
    Some(format!("sha256:{}", hex::encode(digest::digest(&digest::SHA256, &der))))
}

/// Adds the paths of what a mask replaced in a document, which stands at `path`.
pub(super) fn find(value: &Value, path: &str, found: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::String(text) if is_replaced(path, text) => found.push(path.to_owned()),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| find(item, &below(&at.to_string()), found)),
        Value::Object(members) => members.iter().for_each(|(key, member)| find(member, &below(key), found)),
        _ => {}
    }
}

fn is_replaced(path: &str, text: &str) -> bool {
    let digest = |text: &str| text.contains(DIGEST);
    let inside = || path.ends_with(".rawValue") && STANDARD.decode(text).is_ok_and(|raw| digest(&String::from_utf8_lossy(&raw)));
    text == MASKED || digest(text) || (path.ends_with(".certificate") && text.starts_with("sha256:")) || inside()
}

fn read_key(path: &Path) -> Result<Vec<u8>, MaskError> {
    let key = std::fs::read(path).map_err(|source| MaskError::Unreadable { path: path.to_owned(), source })?;
    match key.len() {
        length if length < MIN_KEY => Err(MaskError::TooShort { path: path.to_owned(), length }),
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests;
