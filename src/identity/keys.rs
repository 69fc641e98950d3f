//! The keys of an issuer: a JWKS (RFC 7517 §5) read into what may verify tokens, and the set in force, replaced as a
//! whole. Fetching is `app/keys`'s; here nothing waits.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::{clock::Now, json, verdict::Reason};

/// Largest key set, in bytes and in keys.
pub const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;
const MAX_DEPTH: usize = 16;

/// Sizes of an RSA modulus in bits (RFC 7518 §3.3; larger ones only cost time).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// Why a key set cannot be used. The one in force stays.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeySetError {
    #[error("the key set is larger than {MAX_BYTES} bytes; check the address")]
    TooLarge,
    #[error("the key set has more than {MAX_KEYS} keys; check the address")]
    TooMany,
    #[error("the key set is no JWKS: {0}")]
    Malformed(String),
    #[error(
        "the key set has no key that can verify a token (RSA of 2,048 bits or more, P-256, P-384, Ed25519); check the address"
    )]
    NoKey,
}

/// One key, and the algorithms it is for.
#[derive(Clone)]
pub struct Key {
    id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub const fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// A public key as JWK, unless it must not be used: symmetric, private, for encryption, too small, of a curve that
    /// does not go with its algorithm.
    pub fn read(jwk: &Map<String, Value>, usages: &[&str]) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // Whoever publishes a private key has lost it.
        if ["d", "p", "q", "k"].iter().any(|private| jwk.contains_key(*private)) {
            return None;
        }
        if let Some(usage) = jwk.get("use")
            && !usages.contains(&usage.as_str()?)
        {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops")
            && !operations.as_array()?.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let (decoding, mut algorithms) = match text("kty")? {
            "RSA" => {
                let (n, e) = (bytes(text("n")?)?, bytes(text("e")?)?);
                RSA_BITS.contains(&bits(&n)).then(|| (DecodingKey::from_rsa_raw_components(&n, &e), RSA.to_vec()))?
            }
            "EC" => {
                let (size, algorithm) = match text("crv")? {
                    "P-256" => (32, Algorithm::ES256),
                    "P-384" => (48, Algorithm::ES384),
                    _ => return None,
                };
                let (x, y) = (text("x")?, text("y")?);
                let whole = [x, y].iter().all(|part| bytes(part).is_some_and(|part| part.len() == size));
                (DecodingKey::from_ec_components(x, y).ok().filter(|_| whole)?, vec![algorithm])
            }
            "OKP" => {
                let x = text("x").filter(|x| text("crv") == Some("Ed25519") && bytes(x).is_some_and(|x| x.len() == 32))?;
                (DecodingKey::from_ed_components(x).ok()?, vec![Algorithm::EdDSA])
            }
            _ => return None,
        };
        if let Some(named) = jwk.get("alg") {
            let named = named.as_str()?.parse().ok()?;
            algorithms.retain(|algorithm| *algorithm == named);
        }
        let id = match jwk.get("kid") {
            Some(id) => Some(id.as_str()?.into()),
            None => None,
        };
        (!algorithms.is_empty()).then(|| Self { id, algorithms, decoding })
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

fn bits(number: &[u8]) -> usize {
    let leading = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(leading).map_or(8, |byte| byte.leading_zeros() as usize);
    (number.len() - leading).saturating_mul(8).saturating_sub(if first == 8 { 0 } else { first })
}

/// The keys that one fetch brought.
#[derive(Debug, Default)]
pub struct KeySet {
    by_id: HashMap<Box<str>, Key>,
    unnamed: Vec<Key>,
    /// When it was fetched, or read from its file.
    at: Option<Now>,
}

impl KeySet {
    /// Reads a JWKS. Keys of no use are left out; so are those of an id that stands twice, as it would be open which of
    /// them is meant. `usages` are the values of `use` that are taken; a key without one is.
    pub fn read(text: &[u8], usages: &[&str], at: Now) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let set = json::strict_object(text, MAX_DEPTH).map_err(|error| KeySetError::Malformed(error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| KeySetError::Malformed("it has no array `keys`".to_owned()))?;
        Self::of(keys.iter().filter_map(Value::as_object), usages, at)
    }

    /// The same of keys that are parsed already.
    pub fn of<'a>(
        keys: impl Iterator<Item = &'a Map<String, Value>> + Clone,
        usages: &[&str],
        at: Now,
    ) -> Result<Self, KeySetError> {
        if keys.clone().count() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let ids = keys.clone().filter_map(|key| key.get("kid")?.as_str());
        let mut counts: HashMap<&str, usize> = HashMap::new();
        ids.for_each(|id| *counts.entry(id).or_default() += 1);
        let mut read = Self { at: Some(at), ..Self::default() };
        for key in keys.filter_map(|key| Key::read(key, usages)) {
            match &key.id {
                Some(id) if counts.get(&**id) == Some(&1) => drop(read.by_id.insert(id.clone(), key)),
                Some(_) => {}
                None => read.unnamed.push(key),
            }
        }
        if read.by_id.is_empty() && read.unnamed.is_empty() { Err(KeySetError::NoKey) } else { Ok(read) }
    }

    /// The key that is meant: by its id exactly, or the only one there is for the algorithm where no id is said.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        match id {
            Some(id) => self.by_id.get(id).filter(|key| key.takes(algorithm)),
            None => {
                let mut fitting = self.by_id.values().chain(&self.unnamed).filter(|key| key.takes(algorithm));
                fitting.next().filter(|_| fitting.next().is_none())
            }
        }
    }

    /// Whether a key has this id, for whatever algorithm.
    fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub fn len(&self) -> usize {
        self.by_id.len() + self.unnamed.len()
    }
}

/// The key set of one issuer that is in force.
#[derive(Debug, Default)]
pub struct KeyStore {
    current: ArcSwapOption<InForce>,
    /// Somebody met a key id that is not there.
    wanted: Notify,
}

#[derive(Debug)]
struct InForce {
    set: KeySet,
    /// SHA-256 of what was read: results that rest on other keys are not reused.
    revision: [u8; 32],
}

/// What a look for a key found.
#[derive(Debug)]
pub struct Found {
    pub key: Key,
    pub revision: [u8; 32],
}

impl KeyStore {
    pub fn put(&self, set: KeySet, revision: [u8; 32]) {
        self.current.store(Some(Arc::new(InForce { set, revision })));
    }

    /// Says that the keys were confirmed at `at` without having changed.
    pub fn confirm(&self, text: &[u8], usages: &[&str], at: Now) -> Result<(), KeySetError> {
        let set = KeySet::read(text, usages, at)?;
        self.put(set, sha256(text));
        Ok(())
    }

    pub fn has_keys(&self) -> bool {
        self.current.load().is_some()
    }

    pub fn revision(&self) -> Option<[u8; 32]> {
        self.current.load().as_ref().map(|current| current.revision)
    }

    /// How old the keys are.
    pub fn age(&self, now: Now) -> Option<Duration> {
        let at = self.current.load().as_ref()?.set.at?;
        Some(now.since_epoch().saturating_sub(at.since_epoch()))
    }

    pub fn count(&self) -> usize {
        self.current.load().as_ref().map_or(0, |current| current.set.len())
    }

    /// The key that a token names. Where its id is unknown, whoever fetches is told; nobody waits for that.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm, max_stale: Duration, now: Now) -> Result<Found, Reason> {
        let current = self.current.load();
        let Some(current) = current.as_ref() else {
            self.wanted.notify_one();
            return Err(Reason::TokenNoKeys);
        };
        let InForce { set, revision } = &**current;
        let is_stale = set.at.is_some_and(|at| now.since_epoch().saturating_sub(at.since_epoch()) > max_stale);
        if is_stale {
            return Err(Reason::TokenKeysStale);
        }
        match set.find(id, algorithm) {
            Some(key) => Ok(Found { key: key.clone(), revision: *revision }),
            // The key is there, but not for this algorithm: asking again would not change that.
            None if id.is_some_and(|id| set.has(id)) => Err(Reason::TokenAlgorithm),
            None => {
                self.wanted.notify_one();
                Err(Reason::TokenUnknownKey)
            }
        }
    }

    /// Waits until somebody met a key that is not here.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn read(jwk: &Value) -> Option<Key> {
        Key::read(jwk.as_object().unwrap(), &["sig"])
    }

    fn rsa(bytes: usize) -> Value {
        let n = BASE64_URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kty": "RSA", "n": n, "e": "AQAB"})
    }

    #[test]
    fn t5_only_keys_that_verify_are_taken() {
        let ec = json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y});
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        for (name, key, taken) in [
            ("P-256", ec.clone(), true),
            ("use sig", with(&ec, "use", json!("sig")), true),
            ("use enc", with(&ec, "use", json!("enc")), false),
            ("use of another kind", with(&ec, "use", json!(1)), false),
            ("key_ops verify", with(&ec, "key_ops", json!(["verify"])), true),
            ("key_ops sign", with(&ec, "key_ops", json!(["sign"])), false),
            ("alg that fits", with(&ec, "alg", json!("ES256")), true),
            ("alg of another curve", with(&ec, "alg", json!("ES384")), false),
            ("alg of another family", with(&ec, "alg", json!("HS256")), false),
            ("curve that does not fit its point", with(&ec, "crv", json!("P-384")), false),
            ("private", with(&ec, "d", json!("AA")), false),
            ("symmetric", json!({"kty": "oct", "k": "AAAA"}), false),
            ("RSA 2048", rsa(256), true),
            ("RSA 2040", rsa(255), false),
            ("RSA too large", rsa(1025), false),
            ("Ed25519", json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}), true),
            ("X25519", json!({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}), false),
            ("unknown kind", json!({"kty": "AKP"}), false),
        ] {
            assert_eq!(read(&key).is_some(), taken, "{name}");
        }
    }

    #[test]
    fn t8_a_key_is_meant_by_its_id_or_is_the_only_one() {
        let key = |id: Option<&str>| match id {
            Some(id) => json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": id}),
            None => json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y}),
        };
        let set = |keys: Value| KeySet::read(json!({"keys": keys}).to_string().as_bytes(), &["sig"], Now::from_seconds(1));
        let two = set(json!([key(Some("a")), key(Some("b"))])).unwrap();
        assert!(two.find(Some("a"), Algorithm::ES256).is_some());
        assert!(two.find(Some("A"), Algorithm::ES256).is_none());
        assert!(two.find(Some("a"), Algorithm::ES384).is_none());
        assert!(two.find(None, Algorithm::ES256).is_none(), "which of two is open");
        let one = set(json!([key(None)])).unwrap();
        assert!(one.find(None, Algorithm::ES256).is_some());
        assert!(one.find(Some("a"), Algorithm::ES256).is_none(), "an id that is said must be there");
        let twice = set(json!([key(Some("a")), key(Some("a")), key(Some("b"))])).unwrap();
        assert_eq!((twice.len(), twice.find(Some("a"), Algorithm::ES256).is_none()), (1, true));
    }

    #[test]
    fn bad_sets_are_refused_whole() {
        let read = |text: &str| KeySet::read(text.as_bytes(), &["sig"], Now::from_seconds(1)).err();
        assert_eq!(read(r#"{"keys":[]}"#), Some(KeySetError::NoKey));
        assert_eq!(read(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#), Some(KeySetError::NoKey));
        assert!(matches!(read("<html>"), Some(KeySetError::Malformed(_))));
        assert!(matches!(read(r#"{"keys":[],"keys":[]}"#), Some(KeySetError::Malformed(_))));
        assert_eq!(read(&" ".repeat(MAX_BYTES + 1)), Some(KeySetError::TooLarge));
        let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]}).to_string();
        assert_eq!(read(&many), Some(KeySetError::TooMany));
    }

    #[test]
    fn old_keys_are_not_believed_for_ever() {
        let store = KeyStore::default();
        let find = |now| store.find(Some("a"), Algorithm::ES256, Duration::from_secs(60), Now::from_seconds(now)).map(drop);
        assert_eq!(find(0), Err(Reason::TokenNoKeys));
        let text = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "a"}]}).to_string();
        store.confirm(text.as_bytes(), &["sig"], Now::from_seconds(100)).unwrap();
        assert_eq!(find(160), Ok(()));
        assert_eq!(find(161), Err(Reason::TokenKeysStale));
        let other = store.find(Some("a"), Algorithm::RS256, Duration::from_secs(60), Now::from_seconds(100)).map(drop);
        assert_eq!(other, Err(Reason::TokenAlgorithm));
        let unknown = store.find(Some("b"), Algorithm::ES256, Duration::from_secs(60), Now::from_seconds(100)).map(drop);
        assert_eq!(unknown, Err(Reason::TokenUnknownKey));
    }
}
