//! The rules of every kind of credential, each accepted and refused. Names carry the numbers under which
//! the rules are known to those who wrote them: T for any token, J for JWT-SVIDs, K8 for Kubernetes, G for CI, V for
//! transaction tokens, D for proofs of possession, M for certificates, A for actors.

use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};
use spiffe::SpiffeId;

use super::*;
use crate::{
    identity::{X509, keys::KeySet},
    verdict::Evidence,
};

const NOW: u64 = 1_800_000_000;
const AS: &str = "https://as.example";
const CI: &str = "https://ci.example";
const K8S: &str = "https://k8s.example";
const PEER: &str = "spiffe://td.test/ns/shop/sa/agent";
const OTHER: &str = "spiffe://td.test/ns/shop/sa/other";

struct Signer {
    algorithm: &'static str,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new(algorithm: &'static str, id: Option<&str>) -> Self {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (key, mut jwk) = match algorithm {
            "ES256" | "ES384" => {
                let (kind, curve, half) = match algorithm {
                    "ES256" => (&PKCS_ECDSA_P256_SHA256, "P-256", 32),
                    _ => (&PKCS_ECDSA_P384_SHA384, "P-384", 48),
                };
                let pair = KeyPair::generate_for(kind).unwrap();
                let point = &pair.public_key_raw()[1..];
                let jwk = json!({"kty": "EC", "crv": curve, "x": encode(&point[..half]), "y": encode(&point[half..])});
                (EncodingKey::from_ec_der(&pair.serialize_der()), jwk)
            }
            _ => {
                let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key_raw())});
                (EncodingKey::from_ed_der(&pair.serialize_der()), jwk)
            }
        };
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        Self { algorithm, key, jwk }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let algorithm = self.algorithm.parse().unwrap();
        format!("{signed}.{}", crypto::sign(signed.as_bytes(), &self.key, algorithm).unwrap())
    }
}

#[test]
fn memory_for_a_million_tokens_is_bounded() {
    let world = World::new();
    let text = world.signer.sign(&json!({"alg": "ES256", "typ": "JWT"}), &json!({"sub": PEER, "aud": ["us"], "exp": NOW + 60}));
    let jws = Jws::read(&text).unwrap();
    let validity =
        claims::judge_svid(&config::JwtSvid { audiences: vec!["us".to_owned()], leeway: config::Span::millis(0) }, &jws);
    let token = Arc::new(token(&text, &jws, Kind::JwtSvid, validity.unwrap()).unwrap());
    let basis = Basis { generation: 1, keys: [0; 32], from: From::Issuer(0) };
    for number in 0..1_000_000 {
        let verified = Verified { token: Arc::clone(&token), basis: basis.clone() };
        world.tokens.verified.insert(format!("{number}{text}").into(), verified);
    }
    world.tokens.verified.run_pending_tasks();
    assert!(world.tokens.verified.weighted_size() <= CACHE_BYTES, "{}", world.tokens.verified.weighted_size());
}

struct World {
    tokens: Tokens,
    signer: Signer,
    stranger: Signer,
    trust: Arc<TrustStore>,
}

/// One trust domain, whose JWT-SVIDs `signer` signs.
fn trusting(folder: &Path, signer: &Signer) -> config::Trust {
    let path = folder.join("bundle.json");
    let bundle = json!({"keys": [changed(&signer.jwk, &json!({"use": "jwt-svid"}))]});
    std::fs::write(&path, bundle.to_string()).unwrap();
    serde_saphyr::from_str(&format!("domains: {{td.test: {{bundle: '{}'}}}}", path.display())).unwrap()
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut config::Tokens)) -> Self {
        let mut config: config::Tokens = serde_saphyr::from_str(&format!(
            "
issuers:
- {{issuer: {AS}, kind: access_token, audiences: [us], keys: {{file: x}}}}
- {{issuer: {CI}, kind: id_token, audiences: [us], keys: {{file: x}}, identity: 'spiffe://td.test/ci/{{repository_id}}/{{environment}}'}}
- {{issuer: {K8S}, kind: kubernetes, audiences: [us], keys: {{file: x}}, identity: 'spiffe://td.test/ns/{{kubernetes.io/namespace}}/sa/{{kubernetes.io/serviceaccount/name}}'}}
- {{issuer: 'https://tts.example', kind: transaction, audiences: [td.test], keys: {{file: x}}}}
jwt_svid: {{audiences: [us], leeway: 10s}}
headers: [x-id-token]
dpop: {{base_urls: ['https://api.example']}}
"
        ))
        .unwrap();
        change(&mut config);
        let (signer, folder) = (Signer::new("ES256", Some("k")), tempfile::tempdir().unwrap());
        let trust = Arc::new(TrustStore::load(&trusting(folder.path(), &signer)).unwrap());
        let world = Self {
            tokens: Tokens::new(&config, Arc::clone(&trust)).unwrap(),
            signer,
            stranger: Signer::new("ES256", Some("k")),
            trust,
        };
        for (_, store) in world.tokens.key_stores() {
            world.put(&store, &[&world.signer.jwk], "sig");
        }
        world
    }

    fn put(&self, store: &KeyStore, keys: &[&Value], usage: &str) {
        let keys: Vec<Value> = keys
            .iter()
            .map(|key| {
                let mut key = (*key).clone();
                key["use"] = json!(usage);
                key
            })
            .collect();
        let text = json!({ "keys": keys }).to_string();
        store.put(KeySet::read(text.as_bytes(), &[usage], Now::from_seconds(NOW)).unwrap(), sha256(text.as_bytes()));
    }

    fn present(&self, headers: &[(&str, &str)], peer: Option<&Peer>) -> Result<Presented, Reason> {
        self.tokens.present(&request(headers), peer, Now::from_seconds(NOW))
    }

    fn bearer(&self, token: &str, peer: Option<&Peer>) -> Result<Presented, Reason> {
        self.present(&[("authorization", &format!("Bearer {token}"))], peer)
    }
}

fn request(headers: &[(&str, &str)]) -> Http {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Http { method: "POST".to_owned(), path: "/orders?x=1".to_owned(), headers: Headers::from_map(headers), ..Http::default() }
}

fn peer(id: &str) -> Peer {
    let x509 = X509 {
        sha256: hex::encode([7; 32]).into(),
        serial: "1".to_owned(),
        issuer: "CN=ca".to_owned(),
        not_before: 0,
        not_after: i64::MAX,
    };
    Peer::new(SpiffeId::new(id).unwrap(), Evidence::Sidecar, Some(x509))
}

/// `base` with members replaced; null removes one.
fn changed(base: &Value, changes: &Value) -> Value {
    let mut value = base.clone();
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

fn access_claims() -> Value {
    json!({"iss": AS, "sub": "alice", "aud": "us", "client_id": "app", "jti": "1", "iat": NOW - 10, "exp": NOW + 600})
}

fn ci_claims() -> Value {
    json!({
        "iss": CI, "sub": "repo:acme/shop:ref:refs/heads/main", "aud": "us", "jti": "1", "iat": NOW, "exp": NOW + 300,
        "repository_id": "77", "repository_owner_id": "9", "environment": "prod", "ref_protected": "true", "run_id": "5", "run_attempt": "1",
    })
}

fn kubernetes_claims() -> Value {
    json!({
        "iss": K8S, "sub": "system:serviceaccount:shop:agent", "aud": ["us"], "jti": "1", "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
        "kubernetes.io": {
            "namespace": "shop", "pod": {"name": "agent-1", "uid": "u-1"}, "serviceaccount": {"name": "agent", "uid": "u-2"},
            "warnafter": NOW + 3000,
        },
    })
}

fn transaction_claims() -> Value {
    json!({
        "iss": "https://tts.example", "sub": "alice", "aud": "td.test", "txn": "t-1", "scope": "trade", "req_wl": PEER, "iat": NOW,
        "exp": NOW + 60, "tctx": {"action": "BUY"}, "rctx": {},
    })
}

fn svid_claims() -> Value {
    json!({"sub": PEER, "aud": ["us"], "exp": NOW + 300, "iat": NOW})
}

const ES256: fn(&str) -> Value = |typ| json!({"alg": "ES256", "kid": "k", "typ": typ});

#[test]
fn access_tokens() {
    let world = World::new();
    let fine = ES256("at+jwt");
    let (none, old, ahead) = (json!({}), NOW - 31, NOW + 31);
    for (name, header, claims, expected) in [
        ("accepted", fine.clone(), none.clone(), Ok(())),
        ("T-2 media type", ES256("application/AT+jwt"), none.clone(), Ok(())),
        ("T-2 no typ", json!({"alg": "ES256", "kid": "k"}), none.clone(), Err(Reason::TokenType)),
        ("T-2 JWT", ES256("JWT"), none.clone(), Err(Reason::TokenType)),
        ("T-2 DPoP proof", ES256("dpop+jwt"), none.clone(), Err(Reason::TokenType)),
        ("T-2 security event", ES256("secevent+jwt"), none.clone(), Err(Reason::TokenType)),
        ("T-2 workload identity", ES256("wit+jwt"), none.clone(), Err(Reason::TokenType)),
        ("T-2 logout token", ES256("logout+jwt"), none.clone(), Err(Reason::TokenType)),
        ("V-6 transaction token", ES256("txntoken+jwt"), none.clone(), Err(Reason::TokenType)),
        (
            "T-1 crit",
            json!({"alg": "ES256", "kid": "k", "typ": "at+jwt", "crit": ["x"], "x": 1}),
            none.clone(),
            Err(Reason::TokenCritical),
        ),
        ("T-6 none", json!({"alg": "none", "typ": "at+jwt"}), none.clone(), Err(Reason::TokenAlgorithm)),
        ("T-6 shared secret", json!({"alg": "HS256", "kid": "k", "typ": "at+jwt"}), none.clone(), Err(Reason::TokenAlgorithm)),
        (
            "T-6 another algorithm of the issuer",
            json!({"alg": "RS256", "kid": "k", "typ": "at+jwt"}),
            none.clone(),
            Err(Reason::TokenAlgorithm),
        ),
        (
            "T-6 an algorithm not listed",
            json!({"alg": "RS512", "kid": "k", "typ": "at+jwt"}),
            none.clone(),
            Err(Reason::TokenAlgorithm),
        ),
        ("T-8 unknown kid", json!({"alg": "ES256", "kid": "x", "typ": "at+jwt"}), none.clone(), Err(Reason::TokenUnknownKey)),
        ("T-8 no kid, one key", json!({"alg": "ES256", "typ": "at+jwt"}), none.clone(), Ok(())),
        (
            "T-8 kid of another kind",
            json!({"alg": "ES256", "kid": 1, "typ": "at+jwt"}),
            none.clone(),
            Err(Reason::TokenMalformed),
        ),
        (
            "T-8 keys in the header",
            json!({"alg": "ES256", "kid": "x", "jku": "https://evil.example", "typ": "at+jwt"}),
            none,
            Err(Reason::TokenUnknownKey),
        ),
        ("T-3 issuer with a slash", fine.clone(), json!({"iss": format!("{AS}/")}), Err(Reason::TokenIssuer)),
        ("T-3 no issuer", fine.clone(), json!({"iss": null}), Err(Reason::TokenIssuer)),
        ("T-3 issuer of another kind", fine.clone(), json!({"iss": [AS]}), Err(Reason::TokenClaims)),
        ("T-3 other audience", fine.clone(), json!({"aud": "them"}), Err(Reason::TokenAudience)),
        ("T-3 audience among others", fine.clone(), json!({"aud": ["them", "us"]}), Ok(())),
        ("T-3 no audience", fine.clone(), json!({"aud": null}), Err(Reason::TokenAudience)),
        ("T-3 empty audience", fine.clone(), json!({"aud": []}), Err(Reason::TokenAudience)),
        ("T-3 audience of another kind", fine.clone(), json!({"aud": 1}), Err(Reason::TokenClaims)),
        ("T-3 no subject", fine.clone(), json!({"sub": null}), Err(Reason::TokenClaims)),
        ("T-3 empty subject", fine.clone(), json!({"sub": ""}), Err(Reason::TokenClaims)),
        ("RFC 9068 no client", fine.clone(), json!({"client_id": null}), Err(Reason::TokenClaims)),
        ("RFC 9068 no jti", fine.clone(), json!({"jti": null}), Err(Reason::TokenClaims)),
        ("RFC 9068 no iat", fine.clone(), json!({"iat": null}), Err(Reason::TokenClaims)),
        ("T-3 no exp", fine.clone(), json!({"exp": null}), Err(Reason::TokenClaims)),
        ("T-3 exp as text", fine.clone(), json!({"exp": (NOW + 600).to_string()}), Err(Reason::TokenClaims)),
        ("T-4 expired within the leeway", fine.clone(), json!({"exp": NOW - 29}), Ok(())),
        ("T-4 expired", fine.clone(), json!({"exp": old}), Err(Reason::TokenExpired)),
        ("T-4 not yet", fine.clone(), json!({"nbf": ahead}), Err(Reason::TokenNotYetValid)),
        ("T-4 not yet within the leeway", fine.clone(), json!({"nbf": NOW + 29}), Ok(())),
        ("T-4 issued in the future", fine.clone(), json!({"iat": ahead}), Err(Reason::TokenNotYetValid)),
        ("T-4 lives too long", fine.clone(), json!({"exp": NOW - 10 + 3601}), Err(Reason::TokenLifetime)),
        ("T-4 lives long enough", fine.clone(), json!({"exp": NOW - 10 + 3600}), Ok(())),
    ] {
        let token = world.signer.sign(&header, &changed(&access_claims(), &claims));
        assert_eq!(world.bearer(&token, Some(&peer(PEER))).map(drop), expected, "{name}");
    }
    let forged = world.stranger.sign(&fine, &access_claims());
    assert_eq!(world.bearer(&forged, None).map(drop), Err(Reason::TokenSignature));
    let good = world.signer.sign(&fine, &access_claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.encode(changed(&access_claims(), &json!({"sub": "root"})).to_string());
    let tampered = format!("{}.{payload}.{signature}", signed.split_once('.').unwrap().0);
    assert_eq!(world.bearer(&tampered, None).map(drop), Err(Reason::TokenSignature));
}

#[test]
fn untyped_access_tokens_are_taken_by_name_only() {
    let world = World::with(|config| config.issuers[0].allow_untyped = true);
    for header in [ES256("JWT"), json!({"alg": "ES256", "kid": "k"}), ES256("at+jwt")] {
        let token = world.signer.sign(&header, &access_claims());
        assert_eq!(world.bearer(&token, None).map(drop), Ok(()), "{header}");
    }
    let proof = world.signer.sign(&ES256("dpop+jwt"), &access_claims());
    assert_eq!(world.bearer(&proof, None).map(drop), Err(Reason::TokenType));
}

#[test]
fn other_algorithms_of_the_list_verify_too() {
    for algorithm in ["ES384", "EdDSA"] {
        let world = World::new();
        let signer = Signer::new(algorithm, Some("k"));
        world.put(&world.tokens.key_stores()[0].1, &[&signer.jwk], "sig");
        let token = signer.sign(&json!({"alg": algorithm, "kid": "k", "typ": "at+jwt"}), &access_claims());
        assert_eq!(world.bearer(&token, None).map(drop), Ok(()), "{algorithm}");
        let lying = signer.sign(&ES256("at+jwt"), &access_claims());
        assert_eq!(world.bearer(&lying, None).map(drop), Err(Reason::TokenAlgorithm), "{algorithm}");
    }
}

#[test]
fn ci_tokens() {
    let world = World::new();
    let runner = peer("spiffe://td.test/ci/77/prod");
    for (name, claims, binding) in [
        ("G-1 ids make the workload", json!({}), Ok(Binding::Id)),
        ("G-1 another repository of the same name", json!({"repository_id": "78"}), Ok(Binding::None)),
        ("another environment", json!({"environment": "dev"}), Ok(Binding::None)),
        ("no environment", json!({"environment": null}), Ok(Binding::None)),
        ("a claim brings no slash", json!({"repository_id": "77/prod", "environment": ""}), Ok(Binding::None)),
        ("a number is a text", json!({"repository_id": 77}), Ok(Binding::Id)),
        ("other audience", json!({"aud": "https://github.com/acme"}), Err(Reason::TokenAudience)),
        ("lives too long", json!({"exp": NOW + 86_401}), Err(Reason::TokenLifetime)),
        ("expired", json!({"exp": NOW - 31}), Err(Reason::TokenExpired)),
    ] {
        let token = world.signer.sign(&ES256("JWT"), &changed(&ci_claims(), &claims));
        let found = world.bearer(&token, Some(&runner)).map(|found| found.tokens[0].binding);
        assert_eq!(found, binding, "{name}");
    }
    let token = world.signer.sign(&ES256("at+jwt"), &ci_claims());
    assert_eq!(world.bearer(&token, None).map(drop), Err(Reason::TokenType), "an access token is no ID token");
    // G-2 and G-3 are policy's: the claims it needs are all there.
    let token = world.signer.sign(&ES256("JWT"), &changed(&ci_claims(), &json!({"event_name": "pull_request"})));
    let found = world.present(&[("x-id-token", &token)], Some(&runner)).unwrap();
    assert_eq!(
        (found.tokens[0].token.text("event_name"), found.tokens[0].token.text("run_id")),
        (Some("pull_request"), Some("5"))
    );
    assert_eq!(found.main, None, "only `authorization` is the main one");
}

#[test]
fn kubernetes_tokens() {
    let world = World::new();
    let inner = |path: &str, value: Value| {
        let mut claims = kubernetes_claims()["kubernetes.io"].clone();
        *claims.pointer_mut(path).unwrap() = value;
        json!({ "kubernetes.io": claims })
    };
    for (name, claims, expected) in [
        ("accepted", json!({}), Ok(Binding::Id)),
        ("K8-1 not bound to a pod", inner("/pod", json!({})), Err(Reason::TokenClaims)),
        ("K8-1 empty pod uid", inner("/pod/uid", json!("")), Err(Reason::TokenClaims)),
        (
            "K8-1 legacy secret",
            json!({"kubernetes.io/serviceaccount/namespace": "shop", "kubernetes.io": null}),
            Err(Reason::TokenClaims),
        ),
        (
            "K8-1 legacy claims beside new ones",
            json!({"kubernetes.io/serviceaccount/secret.name": "s"}),
            Err(Reason::TokenClaims),
        ),
        ("K8-1 no exp", json!({"exp": null}), Err(Reason::TokenClaims)),
        ("K8-2 the API server's audience", json!({"aud": [K8S]}), Err(Reason::TokenAudience)),
        ("K8-3 a year", json!({"exp": NOW + 31_536_000}), Err(Reason::TokenLifetime)),
        ("K8-3 after warnafter", inner("/warnafter", json!(NOW)), Err(Reason::TokenExpired)),
        ("K8-3 warnafter of another kind", inner("/warnafter", json!("later")), Err(Reason::TokenClaims)),
        ("subject and account differ", json!({"sub": "system:serviceaccount:shop:root"}), Err(Reason::TokenClaims)),
        ("subject and namespace differ", inner("/namespace", json!("bank")), Err(Reason::TokenClaims)),
    ] {
        let token = world.signer.sign(&json!({"alg": "ES256", "kid": "k"}), &changed(&kubernetes_claims(), &claims));
        let found = world.bearer(&token, Some(&peer(PEER))).map(|found| found.tokens[0].binding);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn transaction_tokens() {
    let world = World::new();
    let fine = ES256("txntoken+jwt");
    for (name, header, claims, expected) in [
        ("accepted", fine.clone(), json!({}), Ok(Binding::Id)),
        ("iss may be absent", fine.clone(), json!({"iss": null}), Ok(Binding::Id)),
        ("requested by another workload", fine.clone(), json!({"req_wl": OTHER}), Ok(Binding::None)),
        ("V-2 another issuer", fine.clone(), json!({"iss": "https://evil.example"}), Err(Reason::TokenIssuer)),
        ("V-3 another domain", fine.clone(), json!({"aud": "other.test"}), Err(Reason::TokenAudience)),
        ("V-3 two domains", fine.clone(), json!({"aud": ["td.test", "other.test"]}), Err(Reason::TokenAudience)),
        ("V-4 expired", fine.clone(), json!({"iat": NOW - 100, "exp": NOW - 40}), Err(Reason::TokenExpired)),
        ("V-4 lives too long", fine.clone(), json!({"exp": NOW + 301}), Err(Reason::TokenLifetime)),
        ("V-5 no txn", fine.clone(), json!({"txn": null}), Err(Reason::TokenClaims)),
        ("V-5 no scope", fine.clone(), json!({"scope": null}), Err(Reason::TokenClaims)),
        ("V-5 scope of another kind", fine.clone(), json!({"scope": ["trade"]}), Err(Reason::TokenClaims)),
        ("V-5 no req_wl", fine.clone(), json!({"req_wl": null}), Err(Reason::TokenClaims)),
        ("V-5 no sub", fine.clone(), json!({"sub": null}), Err(Reason::TokenClaims)),
        ("type of an access token", ES256("at+jwt"), json!({}), Err(Reason::TokenType)),
        ("no type", json!({"alg": "ES256", "kid": "k"}), json!({}), Err(Reason::TokenType)),
    ] {
        let token = world.signer.sign(&header, &changed(&transaction_claims(), &claims));
        let found = world.present(&[("txn-token", &token)], Some(&peer(PEER))).map(|found| found.tokens[0].binding);
        assert_eq!(found, expected, "{name}");
    }
    let token = world.signer.sign(&fine, &transaction_claims());
    let twice = format!("{token},{token}");
    assert_eq!(world.present(&[("txn-token", &twice)], None).map(drop), Err(Reason::TokenRepeated), "V-1");
    assert_eq!(world.bearer(&token, None).map(drop), Err(Reason::TokenIssuer), "V-6");
    assert_eq!(world.present(&[("x-id-token", &token)], None).map(drop), Err(Reason::TokenIssuer), "V-6");
    let access = world.signer.sign(&ES256("at+jwt"), &access_claims());
    assert_eq!(world.present(&[("txn-token", &access)], None).map(drop), Err(Reason::TokenIssuer));
    assert_eq!(world.present(&[("txn-token", &token)], None).unwrap().tokens[0].token.text("txn"), Some("t-1"), "V-10");
}

#[test]
fn v9_a_transaction_token_for_one_use_is_good_once_from_each_workload() {
    let world = World::with(|config| config.issuers[3].single_use = true);
    let token = world.signer.sign(&ES256("txntoken+jwt"), &transaction_claims());
    let send = |who: &str| world.present(&[("txn-token", &token)], Some(&peer(who))).map(drop);
    assert_eq!(send(PEER), Ok(()));
    assert_eq!(send(PEER), Err(Reason::TokenReplayed));
    assert_eq!(send(OTHER), Ok(()));
    // As long as it lives, and a little longer than a proof is remembered.
    let claims = changed(&transaction_claims(), &json!({"exp": NOW + 300, "jti": "long"}));
    let token = world.signer.sign(&ES256("txntoken+jwt"), &claims);
    let at =
        |second| world.tokens.present(&request(&[("txn-token", &token)]), Some(&peer(PEER)), Now::from_seconds(second)).map(drop);
    assert_eq!(at(NOW), Ok(()));
    assert_eq!(at(NOW + 280), Err(Reason::TokenReplayed));
}

#[test]
fn jwt_svids() {
    let world = World::new();
    let fine = ES256("JWT");
    for (name, header, claims, expected) in [
        ("accepted", fine.clone(), json!({}), Ok(())),
        ("J-4 JOSE", ES256("JOSE"), json!({}), Ok(())),
        ("J-4 absent", json!({"alg": "ES256", "kid": "k"}), json!({}), Ok(())),
        ("J-4 other", ES256("at+jwt"), json!({}), Err(Reason::TokenType)),
        ("WIT as bearer", ES256("wit+jwt"), json!({}), Err(Reason::TokenType)),
        (
            "J-2 a fourth parameter",
            json!({"alg": "ES256", "kid": "k", "typ": "JWT", "x": 1}),
            json!({}),
            Err(Reason::TokenMalformed),
        ),
        (
            "J-2 a key address",
            json!({"alg": "ES256", "kid": "k", "jku": "https://evil.example"}),
            json!({}),
            Err(Reason::TokenMalformed),
        ),
        ("J-3 EdDSA", json!({"alg": "EdDSA", "kid": "k"}), json!({}), Err(Reason::TokenAlgorithm)),
        ("J-3 shared secret", json!({"alg": "HS256", "kid": "k"}), json!({}), Err(Reason::TokenAlgorithm)),
        ("J-3 ES512 has no verifier", json!({"alg": "ES512", "kid": "k"}), json!({}), Err(Reason::TokenAlgorithm)),
        ("J-8 no kid", json!({"alg": "ES256"}), json!({}), Err(Reason::TokenMalformed)),
        ("J-8 unknown kid", json!({"alg": "ES256", "kid": "x"}), json!({}), Err(Reason::TokenUnknownKey)),
        ("J-5 no SPIFFE ID", fine.clone(), json!({"sub": "alice"}), Err(Reason::TokenIssuer)),
        ("J-5 no path", fine.clone(), json!({"sub": "spiffe://td.test"}), Err(Reason::InvalidSpiffeId)),
        ("J-5 bad path", fine.clone(), json!({"sub": "spiffe://td.test/a/../b"}), Err(Reason::InvalidSpiffeId)),
        ("J-5 foreign domain", fine.clone(), json!({"sub": "spiffe://other.test/a"}), Err(Reason::UntrustedDomain)),
        ("J-6 other audience", fine.clone(), json!({"aud": "them"}), Err(Reason::TokenAudience)),
        ("J-6 none", fine.clone(), json!({"aud": null}), Err(Reason::TokenAudience)),
        ("J-6 empty", fine.clone(), json!({"aud": []}), Err(Reason::TokenAudience)),
        ("J-7 no exp", fine.clone(), json!({"exp": null}), Err(Reason::TokenClaims)),
        ("J-7 exp as text", fine.clone(), json!({"exp": "later"}), Err(Reason::TokenClaims)),
        ("J-7 expired", fine.clone(), json!({"exp": NOW - 11}), Err(Reason::TokenExpired)),
        ("J-7 expired within the leeway", fine.clone(), json!({"exp": NOW - 9}), Ok(())),
        ("no iat", fine.clone(), json!({"iat": null}), Ok(())),
        ("lives too long", fine.clone(), json!({"exp": NOW + 86_401}), Err(Reason::TokenLifetime)),
        ("J-10 another workload's", fine.clone(), json!({"sub": OTHER}), Err(Reason::TokenMismatch)),
    ] {
        let token = world.signer.sign(&header, &changed(&svid_claims(), &claims));
        assert_eq!(world.bearer(&token, Some(&peer(PEER))).map(drop), expected, "{name}");
    }
    let token = world.signer.sign(&fine, &svid_claims());
    let found = world.bearer(&token, None).unwrap();
    assert_eq!((found.principal().as_deref(), found.tokens[0].binding), (Some(PEER), Binding::None), "J-10 a bearer proves less");
    assert_eq!(world.bearer(&token, Some(&peer(PEER))).unwrap().tokens[0].binding, Binding::Id);
    // The whole domain loses its keys.
    world.trust.reload(&config::Trust::default());
    assert_eq!(world.bearer(&token, None).map(drop), Err(Reason::UntrustedDomain));
}

#[test]
fn m1_a_token_bound_to_a_certificate_is_good_with_that_certificate() {
    let world = World::new();
    let hash = |byte: u8| json!({"cnf": {"x5t#S256": BASE64_URL_SAFE_NO_PAD.encode([byte; 32])}});
    let bare = Peer { x509: None, ..peer(PEER) };
    for (name, claims, peer, expected) in [
        ("bound", hash(7), Some(peer(PEER)), Ok(Binding::Mtls)),
        ("bound, whoever it names", changed(&hash(7), &json!({"sub": "anybody"})), Some(peer(OTHER)), Ok(Binding::Mtls)),
        ("another certificate", hash(8), Some(peer(PEER)), Err(Reason::TokenBinding)),
        ("no peer", hash(7), None, Err(Reason::TokenBinding)),
        ("a peer without certificate", hash(7), Some(bare), Err(Reason::TokenBinding)),
        ("a binding of an unknown kind", json!({"cnf": {"x5t": "AA"}}), Some(peer(PEER)), Err(Reason::TokenBinding)),
        ("unbound", json!({}), Some(peer(PEER)), Ok(Binding::None)),
        ("its client is the peer", json!({"client_id": PEER}), Some(peer(PEER)), Ok(Binding::Id)),
        ("its subject is the peer", json!({"sub": PEER}), Some(peer(PEER)), Ok(Binding::Id)),
        ("its client is another", json!({"client_id": OTHER}), Some(peer(PEER)), Ok(Binding::None)),
    ] {
        let token = world.signer.sign(&ES256("at+jwt"), &changed(&access_claims(), &claims));
        assert_eq!(world.bearer(&token, peer.as_ref()).map(|found| found.tokens[0].binding), expected, "{name}");
    }
    let strict = World::with(|config| config.require_binding = true);
    let token = strict.signer.sign(&ES256("at+jwt"), &access_claims());
    assert_eq!(strict.bearer(&token, Some(&peer(PEER))).map(drop), Err(Reason::TokenUnbound));
}

/// A proof for `token`, with changes.
fn proof(signer: &Signer, token: &str, header: &Value, claims: &Value) -> String {
    let base = json!({"alg": signer.algorithm, "typ": "dpop+jwt", "jwk": public(signer)});
    let hash = BASE64_URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()));
    let own = json!({"htm": "POST", "htu": "https://api.example/orders", "iat": NOW, "jti": "p-1", "ath": hash});
    signer.sign(&changed(&base, header), &changed(&own, claims))
}

fn public(signer: &Signer) -> Value {
    changed(&signer.jwk, &json!({"kid": null}))
}

fn thumbprint(signer: &Signer) -> String {
    let member = |name: &str| signer.jwk[name].as_str().unwrap().to_owned();
    let text = format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, member("crv"), member("x"), member("y"));
    BASE64_URL_SAFE_NO_PAD.encode(sha256(text.as_bytes()))
}

#[test]
fn d1_proofs_of_possession() {
    let holder = Signer::new("ES256", None);
    let other = Signer::new("ES256", None);
    let none = json!({});
    for (name, header, claims, expected) in [
        ("accepted", none.clone(), none.clone(), Ok(Binding::Dpop)),
        ("type", json!({"typ": "JWT"}), none.clone(), Err(Reason::DpopProof)),
        ("no type", json!({"typ": null}), none.clone(), Err(Reason::DpopProof)),
        ("no key", json!({"jwk": null}), none.clone(), Err(Reason::DpopProof)),
        ("another key than signed", json!({"jwk": public(&other)}), none.clone(), Err(Reason::DpopProof)),
        ("private key", json!({"jwk": changed(&public(&holder), &json!({"d": "AA"}))}), none.clone(), Err(Reason::DpopProof)),
        ("crit", json!({"crit": ["x"]}), none.clone(), Err(Reason::DpopProof)),
        ("method", none.clone(), json!({"htm": "GET"}), Err(Reason::DpopProof)),
        ("method in lower case", none.clone(), json!({"htm": "post"}), Err(Reason::DpopProof)),
        ("path", none.clone(), json!({"htu": "https://api.example/other"}), Err(Reason::DpopProof)),
        ("host", none.clone(), json!({"htu": "https://evil.example/orders"}), Err(Reason::DpopProof)),
        ("query", none.clone(), json!({"htu": "https://api.example/orders?x=1"}), Err(Reason::DpopProof)),
        ("default port", none.clone(), json!({"htu": "https://api.example:443/orders"}), Ok(Binding::Dpop)),
        ("too old", none.clone(), json!({"iat": NOW - 61}), Err(Reason::DpopProof)),
        ("too new", none.clone(), json!({"iat": NOW + 61}), Err(Reason::DpopProof)),
        ("no iat", none.clone(), json!({"iat": null}), Err(Reason::DpopProof)),
        ("of another token", none.clone(), json!({"ath": BASE64_URL_SAFE_NO_PAD.encode([0; 32])}), Err(Reason::DpopProof)),
        ("of no token", none.clone(), json!({"ath": null}), Err(Reason::DpopProof)),
        ("no jti", none, json!({"jti": null}), Err(Reason::DpopProof)),
    ] {
        let world = World::new();
        let bound = changed(&access_claims(), &json!({"cnf": {"jkt": thumbprint(&holder)}}));
        let token = world.signer.sign(&ES256("at+jwt"), &bound);
        let proof = proof(&holder, &token, &header, &claims);
        let sent = [("authorization", format!("DPoP {token}")), ("dpop", proof)];
        let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let found = world.present(&sent, Some(&peer(PEER))).map(|found| found.tokens[0].binding);
        assert_eq!(found, expected, "{name}");
        let again = world.present(&sent, Some(&peer(PEER))).map(drop);
        assert_eq!(again, Err(if expected.is_ok() { Reason::TokenReplayed } else { Reason::DpopProof }), "{name}, again");
    }
}

#[test]
fn d1_a_token_and_its_proof_belong_together() {
    let (world, holder, other) = (World::new(), Signer::new("ES256", None), Signer::new("ES256", None));
    let bound = changed(&access_claims(), &json!({"cnf": {"jkt": thumbprint(&holder)}}));
    let token = world.signer.sign(&ES256("at+jwt"), &bound);
    let unbound = world.signer.sign(&ES256("at+jwt"), &access_claims());
    let none = json!({});
    let good = proof(&holder, &token, &none, &json!({"jti": "a"}));
    let foreign = proof(&other, &token, &none, &json!({"jti": "b"}));
    let send = |headers: &[(&str, &str)]| world.present(headers, None).map(drop);
    let (dpop, bearer) = (format!("DPoP {token}"), format!("Bearer {token}"));
    assert_eq!(send(&[("authorization", &bearer), ("dpop", &good)]), Err(Reason::TokenBinding), "sent as a bearer token");
    assert_eq!(send(&[("authorization", &bearer)]), Err(Reason::TokenBinding));
    assert_eq!(send(&[("authorization", &dpop)]), Err(Reason::DpopProof), "no proof");
    assert_eq!(send(&[("authorization", &dpop), ("dpop", &foreign)]), Err(Reason::TokenBinding), "another's key");
    assert_eq!(send(&[("authorization", &dpop), ("dpop", &format!("{good},{good}"))]), Err(Reason::TokenRepeated));
    assert_eq!(send(&[("authorization", &format!("DPoP {unbound}")), ("dpop", &good)]), Err(Reason::TokenBinding));
    assert_eq!(send(&[("authorization", &dpop), ("dpop", &good)]), Ok(()));
}

#[test]
fn actors() {
    let world = World::new();
    let chain = |depth: usize| {
        (0..depth)
            .fold(Value::Null, |inner, _| if inner.is_null() { json!({"sub": PEER}) } else { json!({"sub": PEER, "act": inner}) })
    };
    for (name, actor, expected) in [
        ("A-2 the peer acts", json!({"sub": PEER}), Ok(vec![PEER])),
        ("A-1 outermost first", json!({"sub": PEER, "act": {"sub": OTHER}}), Ok(vec![PEER, OTHER])),
        ("A-2 another acts", json!({"sub": OTHER}), Err(Reason::ActorMismatch)),
        ("A-2 the peer acted before", json!({"sub": OTHER, "act": {"sub": PEER}}), Err(Reason::ActorMismatch)),
        ("A-1 eight", chain(8), Ok(vec![PEER; 8])),
        ("A-1 nine", chain(9), Err(Reason::DelegationInvalid)),
        ("no subject", json!({"iss": "x"}), Err(Reason::DelegationInvalid)),
        ("no object", json!("x"), Err(Reason::DelegationInvalid)),
    ] {
        let token = world.signer.sign(&ES256("at+jwt"), &changed(&access_claims(), &json!({"act": actor})));
        let found = world.bearer(&token, Some(&peer(PEER))).map(|found| found.delegation.unwrap());
        let expected = expected.map(|actors| Delegation {
            from: "act",
            subject: "alice".to_owned(),
            actors: actors.into_iter().map(str::to_owned).collect(),
        });
        assert_eq!(found, expected, "{name}");
    }
    let context = json!({"tctx": {"actor": {"sub": PEER}, "principal": "bob"}});
    let token = world.signer.sign(&ES256("txntoken+jwt"), &changed(&transaction_claims(), &context));
    let found = world.present(&[("txn-token", &token)], Some(&peer(OTHER))).unwrap().delegation.unwrap();
    assert_eq!((found.from, &*found.subject, &*found.actors[0]), ("transaction", "bob", PEER));
}

#[test]
fn a_request_with_two_credentials_in_one_place_is_refused() {
    let world = World::new();
    let token = world.signer.sign(&ES256("at+jwt"), &access_claims());
    let id = world.signer.sign(&ES256("JWT"), &ci_claims());
    for (name, value, expected) in [
        ("one", format!("Bearer {token}"), Ok(1)),
        ("in lower case", format!("bearer  {token}"), Ok(1)),
        ("two", format!("Bearer {token},Bearer {token}"), Err(Reason::TokenRepeated)),
        ("two of two schemes", format!("Bearer {token}, DPoP {token}"), Err(Reason::TokenRepeated)),
        ("behind another scheme", format!("Basic abc,Bearer {token}"), Err(Reason::TokenRepeated)),
        ("before another scheme", format!("Bearer {token},Basic abc"), Err(Reason::TokenRepeated)),
        ("another scheme", "Basic YTpi".to_owned(), Ok(0)),
        ("parameters of another scheme", "Digest username=\"a\", realm=\"b\"".to_owned(), Ok(0)),
        ("no scheme", token.clone(), Ok(0)),
        ("opaque", "Bearer abc".to_owned(), Err(Reason::TokenIssuer)),
        ("empty", String::new(), Ok(0)),
    ] {
        let found = world.present(&[("authorization", &value)], None).map(|found| found.tokens.len());
        assert_eq!(found, expected, "{name}");
    }
    let twice = vec![("authorization".to_owned(), b"Basic a".to_vec()), ("Authorization".to_owned(), b"Basic b".to_vec())];
    let request = Http { headers: Headers::from_list(twice), ..Http::default() };
    assert_eq!(world.tokens.present(&request, None, Now::from_seconds(NOW)).map(drop), Err(Reason::TokenRepeated));
    let both = [("authorization", format!("Bearer {token}")), ("x-id-token", format!("Bearer {id}"))];
    let both: Vec<_> = both.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let found = world.present(&both, None).unwrap();
    assert_eq!((found.tokens.len(), found.main, found.principal()), (2, Some(0), Some(format!("{AS}#alice"))));
    let query = Http { path: format!("/a?access_token={token}"), ..Http::default() };
    assert!(world.tokens.present(&query, None, Now::from_seconds(NOW)).unwrap().tokens.is_empty(), "never from the query");
}

#[test]
fn what_is_not_ours_may_be_passed_on_by_name() {
    let world = World::with(|config| config.foreign = Foreign::Ignore);
    let foreign = world.stranger.sign(&ES256("at+jwt"), &changed(&access_claims(), &json!({"iss": "https://them.example"})));
    for value in ["abc", &foreign] {
        assert_eq!(world.bearer(value, None).map(|found| found.tokens.len()), Ok(0), "{value}");
    }
    let forged = world.stranger.sign(&ES256("at+jwt"), &access_claims());
    assert_eq!(world.bearer(&forged, None).map(drop), Err(Reason::TokenSignature), "but not what claims to be ours");
}

#[test]
fn remembered_tokens_end_with_their_keys_their_rules_and_their_time() {
    let world = World::new();
    let token = world.signer.sign(&ES256("at+jwt"), &access_claims());
    let at = |second| {
        let sent = request(&[("authorization", &format!("Bearer {token}"))]);
        world.tokens.present(&sent, None, Now::from_seconds(second)).map(drop)
    };
    assert_eq!(at(NOW), Ok(()));
    assert_eq!(at(NOW + 700), Err(Reason::TokenExpired));
    assert_eq!(at(NOW - 100), Err(Reason::TokenNotYetValid));
    let (_, store) = world.tokens.key_stores().remove(0);
    world.put(&store, &[&Signer::new("ES256", Some("new")).jwk], "sig");
    assert_eq!(at(NOW), Err(Reason::TokenUnknownKey), "a key that is gone verifies nothing any more");
    world.put(&store, &[&world.signer.jwk], "sig");
    assert_eq!(at(NOW), Ok(()));
    let mut config = world.tokens.rules.load().config.clone();
    config.issuers[0].audiences = vec!["them".to_owned()];
    world.tokens.set(&config);
    assert_eq!(at(NOW), Err(Reason::TokenAudience), "a change of the rules counts at once, and the keys stay");
}

#[test]
fn api_keys_work_for_their_workloads_until_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hash"), [9; 32]).unwrap();
    let digest = |key: &str| {
        let hash_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[9; 32]);
        hex::encode(aws_lc_rs::hmac::sign(&hash_key, key.as_bytes()))
    };
    let entry = |id: &str, key: &str, until: &str| {
        format!("- {{id: {id}, digest: {}, workloads: ['{PEER}'], owner: team-a, expires_at: {until}}}\n", digest(key))
    };
    let text = entry("good", "s3cret", "2100-01-01T00:00:00Z") + &entry("old", "0ld", "2020-01-01T00:00:00Z");
    std::fs::write(path("keys"), text).unwrap();
    let settings = |file: PathBuf| config::ApiKeys { header: "x-api-key".to_owned(), file, hash_key_file: path("hash") };
    let world = World::with(|config| config.api_keys = Some(settings(path("keys"))));
    for (name, key, who, expected) in [
        ("good", "s3cret", Some(PEER), Ok(Binding::Id)),
        ("unknown", "guess", Some(PEER), Err(Reason::ApiKeyUnknown)),
        ("expired", "0ld", Some(PEER), Err(Reason::ApiKeyExpired)),
        ("another workload", "s3cret", Some(OTHER), Err(Reason::ApiKeyWorkload)),
        ("no workload", "s3cret", None, Err(Reason::ApiKeyWorkload)),
        ("twice", "s3cret,s3cret", Some(PEER), Err(Reason::TokenRepeated)),
        ("the digest is no key", &digest("s3cret"), Some(PEER), Err(Reason::ApiKeyUnknown)),
    ] {
        let who = who.map(peer);
        let found = world.present(&[("x-api-key", key)], who.as_ref()).map(|found| found.tokens[0].binding);
        assert_eq!(found, expected, "{name}");
    }
    let found = world.present(&[("x-api-key", "s3cret")], Some(&peer(PEER))).unwrap();
    assert_eq!((found.tokens[0].token.text("owner"), &*found.tokens[0].token.subject), (Some("team-a"), "good"));
    assert!(!format!("{:?}", world.tokens).contains(&digest("s3cret")), "nothing to find in a log");
    for (name, text) in [
        ("no list", "a: b"),
        ("no workloads", &entry("a", "k", "2100-01-01T00:00:00Z").replace(&format!("'{PEER}'"), "")),
        ("no time", &entry("a", "k", "never")),
        ("no digest", "- {id: a, digest: zz, workloads: ['spiffe://td.test/a'], owner: o, expires_at: 2100-01-01T00:00:00Z}"),
        ("plain key", "- {id: a, key: s3cret, workloads: ['spiffe://td.test/a'], owner: o, expires_at: 2100-01-01T00:00:00Z}"),
        ("twice", &entry("a", "k", "2100-01-01T00:00:00Z").repeat(2)),
    ] {
        std::fs::write(path("keys"), text).unwrap();
        let error = world.tokens.load_api_keys().expect_err(name);
        assert!(!format!("{:#}", anyhow::Error::from(error)).contains("s3cret"), "{name}");
    }
    assert_eq!(world.present(&[("x-api-key", "s3cret")], Some(&peer(PEER))).map(drop), Ok(()), "the good ones stay");
}

#[test]
fn ever_more_distinct_tokens_fill_a_table_that_ends() {
    let verified: Cache<Box<str>, Verified, RandomState> =
        Cache::builder().max_capacity(CACHE_BYTES).weigher(weight).build_with_hasher(RandomState::default());
    let world = World::new();
    let token = world.signer.sign(&ES256("at+jwt"), &access_claims());
    let token = Arc::clone(&world.bearer(&token, None).unwrap().tokens[0].token);
    let basis = Basis { generation: 1, keys: [0; 32], from: From::Issuer(0) };
    for number in 0..150_000 {
        let key = format!("{number}{}", "x".repeat(400)).into();
        verified.insert(key, Verified { token: Arc::clone(&token), basis: basis.clone() });
    }
    verified.run_pending_tasks();
    assert!(verified.weighted_size() <= CACHE_BYTES, "{}", verified.weighted_size());
}
