//! `tokens`: whose tokens and API keys are known here, and what must hold of them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Config, Shown, Span,
    bundle::{Reach, reach},
};

/// Credentials that requests carry, besides the peer's certificate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// Whose tokens are taken. A token of anybody else denies the call, see `foreign`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// JWT-SVIDs, verified by the JWT keys of `trust.domains`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_svid: Option<JwtSvid>,
    /// Keys that cannot be replaced by tokens yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeys>,
    /// Headers that carry a bare token, besides `authorization` and `txn-token`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// What to do with a bearer credential that is no token of `issuers`: it may be meant for the service behind.
    pub foreign: Foreign,
    /// Deny tokens that are not bound to the workload that sends them. Without it, policy judges by `binding`.
    pub require_binding: bool,
    /// Take a JWT-SVID or a chain of actors that names somebody else than the peer.
    pub allow_mismatch: bool,
    pub dpop: Dpop,
    /// Claim of verified tokens that names the task of a call. A caller is in a task only if a grant has opened it for the
    /// caller; without the claim, in the only one that its live grants name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_claim: Option<String>,
    /// Sent with a 401, so that clients find out where to get a token (RFC 9728).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_metadata: Option<Url>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Foreign {
    #[default]
    Deny,
    /// It proves nothing here and is passed on.
    Ignore,
}

/// What a token is, and by which rules it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssuerKind {
    /// OAuth access tokens (RFC 9068).
    AccessToken,
    /// ID tokens, such as those of CI systems and clouds.
    IdToken,
    /// Projected tokens of Kubernetes service accounts.
    Kubernetes,
    /// Transaction tokens, in the header `txn-token` only.
    Transaction,
}

/// Somebody whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The claim `iss`, exactly. A transaction token may leave it out.
    pub issuer: String,
    pub kind: IssuerKind,
    /// Who we are to the issuer: one of these must stand in `aud`.
    pub audiences: Vec<String>,
    pub keys: Keys,
    /// How tokens may be signed.
    #[serde(default = "Issuer::default_algorithms")]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Access tokens: take those whose `typ` is `JWT` or absent, too.
    #[serde(default)]
    pub allow_untyped: bool,
    /// Difference of clocks that is overlooked; at most a minute.
    #[serde(default = "Issuer::default_leeway")]
    pub leeway: Span,
    /// Longest time from `iat` to `exp`: by default an hour for access tokens, five minutes for transaction tokens, a day
    /// for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Span>,
    /// The SPIFFE ID of the workload that a token speaks of, made of its claims:
    /// `spiffe://example.org/ci/{repository_id}/{environment}`. `{kubernetes.io/namespace}` reaches into an object. A token
    /// whose workload is the peer is bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Transaction tokens: take each one once from each workload.
    #[serde(default)]
    pub single_use: bool,
    /// Not ready before its keys are there.
    #[serde(default = "Issuer::yes")]
    pub required: bool,
}

impl Issuer {
    fn default_algorithms() -> Vec<TokenAlgorithm> {
        use TokenAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};
        vec![ES256, ES384, EdDSA, PS256, RS256]
    }

    const fn default_leeway() -> Span {
        Span::millis(30_000)
    }

    const fn yes() -> bool {
        true
    }

    pub fn lifetime(&self) -> Span {
        self.max_lifetime.unwrap_or(match self.kind {
            IssuerKind::AccessToken => Span::millis(3_600_000),
            IssuerKind::Transaction => Span::millis(300_000),
            IssuerKind::IdToken | IssuerKind::Kubernetes => Span::millis(86_400_000),
        })
    }
}

/// Signatures by a public key; a shared secret proves nothing about who signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Where the keys of an issuer are: in a file, at an address, or where its metadata says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// JWKS file, read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Address of the JWKS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// Ask `{issuer}/.well-known/openid-configuration` for the address. It must be of the same server.
    pub discovery: bool,
    /// File with a bearer token for these requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that the server's certificate may come from, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate that we show to the server, from files or with `workload_api` our own SVID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Shown>,
    /// Allow `http://` to another host: whoever is on the way may then sign tokens.
    pub insecure: bool,
    /// How often to ask. A shorter `max-age` of the server counts instead, down to a minute.
    pub refresh: Span,
    /// Longest time for one request.
    pub timeout: Span,
    /// Shortest time between two requests, however many tokens name an unknown key.
    pub min_interval: Span,
    /// How long keys are believed that cannot be fetched again.
    pub max_stale: Span,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            file: None,
            url: None,
            discovery: false,
            token_file: None,
            ca: None,
            tls: None,
            insecure: false,
            refresh: Span::millis(300_000),
            timeout: Span::millis(10_000),
            min_interval: Span::millis(5_000),
            max_stale: Span::millis(86_400_000),
        }
    }
}

/// JWT-SVIDs (SPIFFE JWT-SVID §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtSvid {
    /// Who we are to those who get one: one of these must stand in `aud`.
    pub audiences: Vec<String>,
    /// Difference of clocks that is overlooked; at most 30 s.
    #[serde(default = "Issuer::default_leeway")]
    pub leeway: Span,
}

/// Legacy API keys, fenced in: each belongs to an owner, ends, and works for the workloads named with it only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeys {
    /// Header that carries the key.
    #[serde(default = "ApiKeys::default_header")]
    pub header: String,
    /// YAML or JSON file: a list of `{id, digest, workloads, owner, expires_at}`, where `digest` is the HMAC-SHA-256 of the
    /// key under `hash_key_file`, in hex, and `expires_at` a time like `2027-01-31T00:00:00Z`.
    pub file: PathBuf,
    /// File with the key of the digests, 32 bytes or more.
    pub hash_key_file: PathBuf,
}

impl ApiKeys {
    fn default_header() -> String {
        "x-api-key".to_owned()
    }
}

/// Proofs of possession (RFC 9449).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpop {
    /// What clients call us, scheme and host, and a path where one goes before ours: `htu` is compared with these and
    /// never with a header. Without any, no proof holds.
    pub base_urls: Vec<Url>,
    /// How far `iat` of a proof may be from now, and how long a proof is remembered so as not to hold twice.
    pub window: Span,
}

impl Default for Dpop {
    fn default() -> Self {
        Self { base_urls: Vec::new(), window: Span::millis(60_000) }
    }
}

impl Tokens {
    /// Whether no credential but certificates is looked at.
    pub const fn takes_nothing(&self) -> bool {
        self.issuers.is_empty() && self.api_keys.is_none() && self.jwt_svid.is_none()
    }

    /// Headers that carry credentials, so that records mask them.
    pub fn secret_headers(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(String::as_str).chain(self.api_keys.as_ref().map(|keys| keys.header.as_str()))
    }

    /// Files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let keys = self.api_keys.iter().flat_map(|keys| [&keys.file, &keys.hash_key_file]);
        self.issuers.iter().filter_map(|issuer| issuer.keys.file.as_ref()).chain(keys)
    }

    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let keys = self.api_keys.iter_mut().flat_map(|keys| [&mut keys.file, &mut keys.hash_key_file]);
        self.issuers.iter_mut().flat_map(|issuer| issuer.keys.paths_mut()).chain(keys)
    }
}

impl Keys {
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { file, token_file, ca, tls, .. } = self;
        let tls = tls.iter_mut().flat_map(Shown::paths_mut);
        file.iter_mut().chain(token_file.iter_mut()).chain(ca.iter_mut()).chain(tls)
    }

    /// Where to ask, unless it is a file.
    pub fn address(&self, issuer: &str) -> Option<Url> {
        match &self.url {
            Some(url) => Some(url.clone()),
            None if self.discovery => Url::parse(issuer).ok(),
            None => None,
        }
    }
}

/// What spans several keys, as `(key, text)`.
pub(super) fn check(config: &Config, found: &mut Vec<(String, String)>) {
    let tokens = &config.tokens;
    check_issuers(&tokens.issuers, "tokens.issuers", found);
    if let Some(svid) = &tokens.jwt_svid {
        if svid.audiences.is_empty() {
            found.push((
                "tokens.jwt_svid.audiences".to_owned(),
                "without an audience, JWT-SVIDs meant for others would be taken; write what we are called".to_owned(),
            ));
        }
        if svid.leeway > Span::millis(30_000) {
            found.push((
                "tokens.jwt_svid.leeway".to_owned(),
                "more than 30 s makes expired SVIDs good; set the clocks".to_owned(),
            ));
        }
    }
    let own = ["authorization", "txn-token", "dpop"];
    for (index, header) in tokens.headers.iter().enumerate() {
        if header.bytes().any(|byte| byte.is_ascii_uppercase()) || own.contains(&header.as_str()) {
            found.push((
                format!("tokens.headers[{index}]"),
                "write another header's name in lower case; `authorization` and `txn-token` are read anyway".to_owned(),
            ));
        }
    }
    if tokens.api_keys.as_ref().is_some_and(|keys| keys.header.bytes().any(|byte| byte.is_ascii_uppercase())) {
        found.push(("tokens.api_keys.header".to_owned(), "write the header's name in lower case".to_owned()));
    }
}

/// What is wrong with issuers that stand in the list at `place`.
pub(super) fn check_issuers(issuers: &[Issuer], place: &str, found: &mut Vec<(String, String)>) {
    for (index, issuer) in issuers.iter().enumerate() {
        let mut report = |key: &str, text: &str| found.push((format!("{place}[{index}].{key}"), text.to_owned()));
        let same = |other: &&Issuer| other.issuer == issuer.issuer && other.kind == issuer.kind;
        if issuers.iter().take(index).any(|other| same(&other)) {
            report("issuer", "this issuer stands here twice with one kind; write its audiences into one entry");
        }
        if issuer.audiences.is_empty() {
            report("audiences", "without an audience, tokens meant for others would be taken; write what we are called");
        }
        if issuer.kind == IssuerKind::Kubernetes && issuer.audiences.contains(&issuer.issuer) {
            report(
                "audiences",
                "this is the API server's own audience: whoever gets such a token could be us; project one of ours",
            );
        }
        if issuer.algorithms.is_empty() {
            report("algorithms", "no token could be verified; leave the key out for the usual ones");
        }
        if issuer.leeway > Span::millis(60_000) {
            report("leeway", "more than a minute makes expired tokens good; set the clocks");
        }
        if issuer.single_use && issuer.kind != IssuerKind::Transaction {
            report("single_use", "only transaction tokens are for one use; remove it");
        }
        if let Some(identity) = &issuer.identity
            && !identity.starts_with("spiffe://")
        {
            report("identity", "a workload is a SPIFFE ID; begin with `spiffe://`");
        }
        let Keys { file, url, discovery, insecure, refresh, min_interval, .. } = &issuer.keys;
        if usize::from(file.is_some()) + usize::from(url.is_some()) + usize::from(*discovery) != 1 {
            report("keys", "write one of `file`, `url` and `discovery: true`");
        } else if let Some(url) = issuer.keys.address(&issuer.issuer)
            && let Err(text) = is_safe(&url, *insecure)
        {
            report("keys", text);
        } else if *discovery && issuer.keys.address(&issuer.issuer).is_none() {
            report("issuer", "`discovery` needs an issuer that is an address; write `keys.url` instead");
        }
        if min_interval > refresh {
            report("keys.min_interval", "it is longer than `refresh`; swap them");
        }
    }
}

/// Whether keys that come from there are the issuer's.
fn is_safe(url: &Url, insecure: bool) -> Result<(), &'static str> {
    match reach(url) {
        Reach::Safe => Ok(()),
        Reach::Plain if insecure => Ok(()),
        Reach::Plain => Err("`http://` lets whoever is on the way sign tokens; use `https://`, or write `insecure: true`"),
        Reach::Credentials => Err("credentials do not belong in the address; use `token_file`"),
        Reach::Other => Err("this is no address of keys; use `https://`"),
    }
}
