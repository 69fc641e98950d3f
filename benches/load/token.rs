//! Access tokens for the calls, and the key set that verifies them.

use std::{fs, path::Path, time::SystemTime};

use anyhow::Context;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::KeyPair;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.bench.example";
pub(crate) const AUDIENCE: &str = "orders";

pub(crate) struct Signer {
    pair: KeyPair,
    key: EncodingKey,
    now: u64,
}

impl Signer {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let pair = KeyPair::generate().context("make the key of the issuer")?;
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        #[expect(clippy::disallowed_methods, reason = "the clock module belongs to doorward, and this is not doorward")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("a clock before 1970")?.as_secs();
        Ok(Self { pair, key, now })
    }

    pub(crate) fn write_keys(&self, path: &Path) -> anyhow::Result<()> {
        let (x, y) = self.pair.public_key_raw().get(1..).and_then(|point| point.split_at_checked(32)).context("no P-256 key")?;
        let encode = |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": "bench", "x": encode(x), "y": encode(y)});
        fs::write(path, json!({ "keys": [key] }).to_string()).context("write the keys of the issuer")
    }

    /// A token of an hour that names `client` as the workload it was given to.
    pub(crate) fn token(&self, client: &str, number: usize) -> anyhow::Result<String> {
        let header = json!({"alg": "ES256", "kid": "bench", "typ": "at+jwt"});
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "user-4711", "client_id": client, "scope": "orders:read orders:write",
            "jti": number.to_string(), "iat": self.now - 60, "exp": self.now + 3000,
        });
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).context("sign a token")?;
        Ok(format!("{signed}.{signature}"))
    }
}
