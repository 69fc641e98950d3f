//! What a denial gives its caller to ask for a grant with: which denial it was, in words that only we can have written. It
//! is a hint and permits nothing. The key is made at each start, so a restart makes all of them void.

use std::time::Duration;

use aws_lc_rs::{
    error::Unspecified,
    hmac::{HMAC_SHA256, Key, sign, verify},
    rand::{SystemRandom, generate},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

use super::Denied;
use crate::clock::Now;

/// How long a denial may be asked about.
const LIFE: Duration = Duration::from_secs(600);
/// Longest token that is looked at.
const MAX: usize = 8 * 1024;

/// Makes and checks request tokens.
#[derive(Debug)]
pub struct RequestTokens(Key);

/// A token, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestToken {
    pub text: String,
    pub expires_at: Now,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestTokenError {
    #[error("the request token is none of ours, or from before the last restart")]
    Forged,
    #[error("the request token has expired; make the call again for a new one")]
    Expired,
    #[error("the request token is somebody else's")]
    Stolen,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    principal: String,
    denied: Denied,
    until_ns: u64,
}

impl RequestTokens {
    /// With a new key.
    ///
    /// # Errors
    /// When the system gives no random key.
    pub fn new() -> Result<Self, Unspecified> {
        let random: [u8; 32] = generate(&SystemRandom::new())?.expose();
        Ok(Self(Key::new(HMAC_SHA256, &random)))
    }

    /// For a denial of `principal`, at `now`.
    pub fn make(&self, principal: &str, denied: Denied, now: Now) -> RequestToken {
        let expires_at = now.after(LIFE);
        let claims = Claims { principal: principal.to_owned(), denied, until_ns: expires_at.ns };
        let claims = BASE64.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let mac = BASE64.encode(sign(&self.0, claims.as_bytes()));
        RequestToken { text: format!("{claims}.{mac}"), expires_at }
    }

    /// The denial that a token of `principal` is about.
    ///
    /// # Errors
    /// When it is not ours, not theirs, or too old.
    pub fn read(&self, text: &str, principal: &str, now: Now) -> Result<Denied, RequestTokenError> {
        let forged = RequestTokenError::Forged;
        let (claims, mac) = text.split_once('.').filter(|_| text.len() <= MAX).ok_or(forged)?;
        let mac = BASE64.decode(mac).map_err(|_| forged)?;
        verify(&self.0, claims.as_bytes(), &mac).map_err(|_| forged)?;
        let claims = BASE64.decode(claims).map_err(|_| forged)?;
        let Claims { principal: own, denied, until_ns } = serde_json::from_slice(&claims).map_err(|_| forged)?;
        match () {
            () if own != principal => Err(RequestTokenError::Stolen),
            () if now.ns >= until_ns => Err(RequestTokenError::Expired),
            () => Ok(denied),
        }
    }
}
