//! Access tokens for the calls, the key set that verifies them, and which of the policies are measured with them.

use std::{fs, path::Path, time::SystemTime};

use anyhow::Context;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::policy::Policy;

/// Whose tokens are taken, and who we are to it.
const ISSUER: &str = "https://issuer.bench.example";
const AUDIENCE: &str = "orders";
/// The same to people, who show their tokens to our own API.
const PEOPLE: &str = "doorward";

/// Every policy, and the ten rules with more or fewer credentials.
pub(crate) const EVERY: [Policy; 7] =
    [Policy::Rbac10, Policy::Lookup1000, Policy::Glob50, Policy::Regex50, Policy::Named, Policy::Token, Policy::NewTokens];

impl Policy {
    /// How many tokens the calls take turns with.
    pub(crate) const fn tokens(self) -> usize {
        match self {
            Self::Rbac10 | Self::Lookup1000 | Self::Glob50 | Self::Regex50 => 0,
            Self::Named | Self::Token => 1,
            // More than doorward remembers, so that each has been forgotten when its turn comes again.
            Self::NewTokens => 30_000,
        }
    }

    /// Lines of doorward's configuration: who vouches for the caller, and whose tokens are taken.
    pub(crate) fn identity(self) -> String {
        let issuer = format!("{{issuer: '{ISSUER}', kind: access_token, audiences: [{AUDIENCE}], keys: {{file: ../keys.json}}}}");
        match self {
            Self::Named => "  peer: {trust: principal}\n".to_owned(),
            Self::Token | Self::NewTokens => format!("  peer: {{trust: sidecar}}\ntokens: {{issuers: [{issuer}]}}\n"),
            Self::Rbac10 | Self::Lookup1000 | Self::Glob50 | Self::Regex50 => "  peer: {trust: sidecar}\n".to_owned(),
        }
    }
}

/// Lines of doorward's configuration: our own API at `socket`, and whose tokens are people's there.
pub(crate) fn people(socket: &Path) -> String {
    format!(
        "control: {{address: 'unix://{}', oidc: {{approvers: [bob], issuers: [{{issuer: '{ISSUER}', kind: access_token, \
         audiences: [{PEOPLE}], keys: {{file: ../keys.json}}}}]}}}}\nstate: {{memory: {{volatile: true}}}}\n",
        socket.display()
    )
}

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

    /// A person's token, as our own API takes it.
    pub(crate) fn person(&self, name: &str) -> anyhow::Result<String> {
        let claims = json!({
            "iss": ISSUER, "aud": PEOPLE, "sub": name, "client_id": "cli", "email": name, "jti": name,
            "iat": self.now - 60, "exp": self.now + 3000,
        });
        self.sign(&claims)
    }

    /// A token of an hour that names `client` as the workload it was given to.
    pub(crate) fn token(&self, client: &str, number: usize) -> anyhow::Result<String> {
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "user-4711", "client_id": client, "scope": "orders:read orders:write",
            "jti": number.to_string(), "iat": self.now - 60, "exp": self.now + 3000,
        });
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({"alg": "ES256", "kid": "bench", "typ": "at+jwt"});
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).context("sign a token")?;
        Ok(format!("{signed}.{signature}"))
    }
}
