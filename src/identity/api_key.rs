//! Legacy API keys, known by keyed hash. A key that leaks from the file of hashes is none, and one that leaks from a
//! request works for the workloads only that it was given to.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::hmac;
use serde::Deserialize;
use spiffe::SpiffeId;

use super::{
    Peer,
    token::{Confirmation, Kind, Token, Validity},
};
use crate::{config, json::Shown, verdict::Reason};

/// As long as the hash (RFC 2104 §3).
const MIN_HASH_KEY: usize = 32;
/// Longest key that is looked at, in bytes.
const MAX_KEY: usize = 4096;

/// Why the keys cannot be used. Those in force stay.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    #[error("`{}` cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the hash key `{}` is shorter than {MIN_HASH_KEY} bytes; make one with `openssl rand -out FILE 32`", path.display())]
    ShortHashKey { path: PathBuf },
    #[error("`{}` is no list of API keys: {text}", path.display())]
    Malformed { path: PathBuf, text: String },
    #[error("API key `{id}` in `{}`: {text}", path.display())]
    Entry { path: PathBuf, id: String, text: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    digest: String,
    workloads: Vec<String>,
    owner: String,
    expires_at: String,
}

/// The keys in force.
pub struct ApiKeys {
    header: String,
    hash_key: hmac::Key,
    by_digest: HashMap<[u8; 32], Known>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("header", &self.header).field("keys", &self.by_digest.len()).finish_non_exhaustive()
    }
}

struct Known {
    token: std::sync::Arc<Token>,
    workloads: Vec<SpiffeId>,
}

impl ApiKeys {
    pub fn load(settings: &config::ApiKeys) -> Result<Self, ApiKeyError> {
        let secret = read(&settings.hash_key_file)?;
        if secret.len() < MIN_HASH_KEY {
            return Err(ApiKeyError::ShortHashKey { path: settings.hash_key_file.clone() });
        }
        let path = &settings.file;
        let malformed = |text: String| ApiKeyError::Malformed { path: path.clone(), text };
        let text = String::from_utf8(read(path)?).map_err(|_| malformed("it is no text".to_owned()))?;
        // The parser's own text may quote the file.
        let entries: Vec<Entry> = serde_saphyr::from_str(&text).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            malformed(format!("line {line} is not of the form `{{id, digest, workloads, owner, expires_at}}`"))
        })?;
        let mut by_digest = HashMap::with_capacity(entries.len());
        for entry in entries {
            let id = entry.id.clone();
            let wrong = |text| ApiKeyError::Entry { path: path.clone(), id: id.clone(), text };
            let (digest, known) = known(entry).map_err(wrong)?;
            if by_digest.insert(digest, known).is_some() {
                return Err(wrong("its digest stands here twice; keep one"));
            }
        }
        Ok(Self { header: settings.header.clone(), hash_key: hmac::Key::new(hmac::HMAC_SHA256, &secret), by_digest })
    }

    pub fn header(&self) -> &str {
        &self.header
    }

    /// The key that was sent, if the peer may use it.
    pub fn present(&self, key: &str, peer: Option<&Peer>) -> Result<std::sync::Arc<Token>, Reason> {
        if key.len() > MAX_KEY {
            return Err(Reason::ApiKeyUnknown);
        }
        let digest = hmac::sign(&self.hash_key, key.trim().as_bytes());
        let digest: [u8; 32] = digest.as_ref().try_into().map_err(|_| Reason::InternalError)?;
        let known = self.by_digest.get(&digest).ok_or(Reason::ApiKeyUnknown)?;
        match peer.is_some_and(|peer| known.workloads.contains(&peer.id)) {
            true => Ok(std::sync::Arc::clone(&known.token)),
            false => Err(Reason::ApiKeyWorkload),
        }
    }
}

fn known(entry: Entry) -> Result<([u8; 32], Known), &'static str> {
    let Entry { id, digest: written, workloads, owner, expires_at } = entry;
    let digest = hex::decode(&written).ok().and_then(|bytes| bytes.try_into().ok());
    let digest = digest.ok_or("`digest` is no HMAC-SHA-256 in hex")?;
    if owner.is_empty() || id.is_empty() {
        return Err("a key needs an `id` and an `owner`");
    }
    let workloads: Option<Vec<_>> = workloads.iter().map(|id| SpiffeId::new(id).ok()).collect();
    let workloads = workloads.filter(|all| !all.is_empty()).ok_or("`workloads` must list SPIFFE IDs, one at least")?;
    let expires = humantime::parse_rfc3339(&expires_at).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let expires = expires.ok_or("`expires_at` is no time like `2027-01-31T00:00:00Z`")?;
    let token = Token {
        kind: Kind::ApiKey,
        issuer: None,
        subject: id,
        claims: serde_json::Map::from_iter([("owner".to_owned(), owner.into())]),
        jti: None,
        fingerprint: written.to_ascii_lowercase().into(),
        confirmation: Confirmation::default(),
        identity: None,
        validity: Validity { from: 0, until: i64::try_from(expires.as_secs()).unwrap_or(i64::MAX), renewed_by: None, leeway: 0 },
        shown: Shown::default(),
    };
    Ok((digest, Known { token: std::sync::Arc::new(token), workloads }))
}

fn read(path: &Path) -> Result<Vec<u8>, ApiKeyError> {
    fs::read(path).map_err(|source| ApiKeyError::Read { path: path.to_owned(), source })
}
