//! Tokens of real issuers: identity tokens of OpenBao, access tokens of an OpenID provider, bound ones among them. And a
//! real toxiproxy before the keys, which may spoil what it likes: no call waits for keys.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::harness::{
    check::{Answer, Check},
    client::{Http, request},
    doorward::{self, Doorward, Setup},
    envoy::{Envoy, Options},
    eventually, eventually_async,
    issuer::Signer,
    oidc_provider::OidcProvider,
    openbao::OpenBao,
    toxiproxy::Toxiproxy,
    upstream,
};

/// Shows what it was told of whoever has a token.
const POLICY: &str = r#"package envoy.authz

default allow := false

allow := {"allowed": true, "dynamic_metadata": {"input": input}} if count(input.tokens) > 0
"#;

const RESOURCE: &str = "https://orders.example";
/// What clients call the service of `Check::http`.
const ADDRESS: &str = "https://shop.example/orders";

/// A doorward that knows one issuer, with a connection to it.
struct World {
    doorward: Doorward,
    channel: Channel,
}

impl World {
    async fn start(issuer: &str, rules: &str) -> Self {
        let top = format!(
            "tokens:
  dpop: {{base_urls: ['https://shop.example']}}
  issuers:
  - issuer: {issuer}
{rules}"
        );
        let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &top, ..Setup::default() });
        doorward.wait_ready();
        let channel = doorward.channel().await;
        Self { doorward, channel }
    }

    async fn send(&self, headers: &[(&str, &str)]) -> Answer {
        let check = headers.iter().fold(Check::http("GET", "/orders"), |check, (name, value)| check.header(name, value));
        Answer::read(doorward::check(self.channel.clone(), check.0).await.unwrap())
    }

    async fn bearer(&self, token: &str) -> Answer {
        self.send(&[("authorization", &format!("Bearer {token}"))]).await
    }

    /// What policy was told of the token.
    async fn accepted(&self, token: &str) -> Value {
        let answer = self.bearer(token).await;
        assert_eq!(answer.code, 0, "{}", self.reason(&answer));
        answer.input()["token"].clone()
    }

    /// Why it was refused, from the record.
    async fn refused(&self, token: &str) -> Value {
        let answer = self.bearer(token).await;
        assert_eq!(answer.status, Some(401), "{answer:?}");
        self.reason(&answer)
    }

    fn reason(&self, answer: &Answer) -> Value {
        self.doorward.record(answer.metadata["decision_id"].as_str().unwrap())["body"]["reason"].clone()
    }

    /// Waits until the issuer's set with so many keys is in force.
    fn wait_for_keys(&self, count: usize) {
        eventually(&format!("{count} keys"), || (self.doorward.readyz()["tokens"]["issuers"][0]["keys"] == count).then_some(()));
    }

    fn fetches(&self, labels: &[&str]) -> f64 {
        self.doorward.metric("doorward_keys_fetches_total", labels)
    }
}

/// A part of a token: its header or its claims.
fn part(token: &str, number: usize) -> Value {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
}

/// OpenBao, and a workload that has logged in to it and may ask for identity tokens.
struct Bao {
    bao: OpenBao,
    login: String,
}

impl Bao {
    fn start() -> Option<Self> {
        let bao = OpenBao::start()?;
        let rules = r#"path "identity/oidc/token/*" { capabilities = ["read"] }"#;
        bao.ask("POST", "sys/policies/acl/tokens", &json!({"policy": rules}))?;
        let role = json!({"allowed_entity_aliases": "agent", "allowed_policies": "tokens"});
        bao.ask("POST", "auth/token/roles/agent", &role)?;
        let login = bao.ask("POST", "auth/token/create/agent", &json!({"entity_alias": "agent", "policies": ["tokens"]}))?;
        let login = login["auth"]["client_token"].as_str().unwrap_or_else(|| panic!("no login: {login}")).to_owned();
        let bao = Self { bao, login };
        bao.make_key("first");
        bao.make_role("orders", "first");
        Some(bao)
    }

    fn issuer(&self) -> String {
        format!("http://{}/v1/identity/oidc", self.bao.address)
    }

    /// There are two from the start: OpenBao publishes the key that comes next, too.
    fn make_key(&self, name: &str) {
        let key = json!({"allowed_client_ids": "*", "algorithm": "ES256", "verification_ttl": "24h"});
        self.bao.ask("POST", &format!("identity/oidc/key/{name}"), &key).unwrap();
    }

    /// Tokens for an audience of this name.
    fn make_role(&self, audience: &str, key: &str) {
        let role = json!({"key": key, "client_id": audience, "ttl": "10m"});
        self.bao.ask("POST", &format!("identity/oidc/role/{audience}"), &role).unwrap();
    }

    /// A former key is still published for a day.
    fn rotate(&self) {
        self.bao.ask("POST", "identity/oidc/key/first/rotate", &json!({})).unwrap();
    }

    fn token(&self, audience: &str) -> String {
        let answer = self.bao.ask_as(&self.login, "GET", &format!("identity/oidc/token/{audience}"), &json!({})).unwrap();
        answer["data"]["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_of_openbao_stand_and_fall_with_its_keys() {
    let Some(bao) = Bao::start() else { return };
    bao.make_role("elsewhere", "first");
    let rules = "    kind: id_token
    audiences: [orders]
    keys: {discovery: true, refresh: 1s, min_interval: 1s}";
    let world = World::start(&bao.issuer(), rules).await;
    world.wait_for_keys(2);

    let first = bao.token("orders");
    assert_eq!(part(&first, 0)["alg"], "ES256");
    let told = world.accepted(&first).await;
    assert_eq!((&told["kind"], &told["issuer"], &told["binding"]), (&json!("id_token"), &json!(bao.issuer()), &json!("none")));
    assert_eq!((&told["subject"], &told["claims"]), (&part(&first, 1)["sub"], &part(&first, 1)));
    assert_eq!(world.refused(&bao.token("elsewhere")).await, "token_audience");

    bao.rotate();
    let second = bao.token("orders");
    assert_ne!(part(&first, 0)["kid"], part(&second, 0)["kid"]);
    world.accepted(&second).await;
    bao.rotate();
    let third = bao.token("orders");
    // Nobody has presented the third key, so that its coming into force is the regular request's doing.
    world.wait_for_keys(4);
    world.accepted(&third).await;
    world.accepted(&first).await;

    bao.make_key("other");
    bao.make_role("orders", "other");
    bao.make_role("elsewhere", "other");
    bao.bao.ask("DELETE", "identity/oidc/key/first", &json!({})).unwrap();
    world.wait_for_keys(2);
    world.accepted(&bao.token("orders")).await;
    for token in [&first, &second, &third] {
        assert_eq!(world.refused(token).await, "token_unknown_key", "remembered ones go with their key");
    }
}

async fn with_provider(kind: &str) -> Option<(OidcProvider, World)> {
    let provider = OidcProvider::start()?;
    let rules = format!("    kind: {kind}\n    audiences: ['{RESOURCE}']\n    keys: {{discovery: true}}\n");
    let world = World::start(&provider.issuer(), &rules).await;
    Some((provider, world))
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_of_an_openid_provider_are_what_the_rfc_says() {
    let Some((provider, world)) = with_provider("access_token").await else { return };
    let token = provider.token("app", RESOURCE, &[]);
    let claims = part(&token, 1);
    assert_eq!(part(&token, 0)["typ"], "at+jwt");
    let told = world.accepted(&token).await;
    assert_eq!((&told["kind"], &told["issuer"]), (&json!("access_token"), &json!(provider.issuer())));
    assert_eq!((&told["subject"], &told["jti"], &told["claims"]), (&json!("app"), &claims["jti"], &claims));
    for (claim, value) in [("client_id", "app"), ("scope", "orders:read"), ("aud", RESOURCE)] {
        assert_eq!(told["claims"][claim], value, "{claim}");
    }
    assert_eq!(world.refused(&provider.token("app", "https://other.example", &[])).await, "token_audience");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_no_id_token() {
    let Some((provider, world)) = with_provider("id_token").await else { return };
    assert_eq!(world.refused(&provider.token("app", RESOURCE, &[])).await, "token_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_by_dpop_needs_a_proof_by_its_key() {
    let Some((provider, world)) = with_provider("access_token").await else { return };
    let (own, other) = (Signer::new("own"), Signer::new("other"));
    let at_provider = own.proof("POST", &format!("{}/token", provider.issuer()), None);
    let token = provider.token("app", RESOURCE, &[("dpop", &at_provider)]);
    assert!(part(&token, 1)["cnf"]["jkt"].is_string());
    let authorization = format!("DPoP {token}");
    let send = async |proof: &str| world.send(&[("authorization", &authorization), ("dpop", proof)]).await;

    let proof = own.proof("GET", ADDRESS, Some(&token));
    let accepted = send(&proof).await;
    assert_eq!(accepted.code, 0, "{}", world.reason(&accepted));
    assert_eq!(accepted.input()["token"]["binding"], "dpop");
    for (name, proof, reason) in [
        ("the proof again", proof, "token_replayed"),
        ("another key's", other.proof("GET", ADDRESS, Some(&token)), "token_binding"),
        ("for another method", own.proof("POST", ADDRESS, Some(&token)), "dpop_proof"),
        ("the one that the provider got", at_provider, "dpop_proof"),
    ] {
        let refused = send(&proof).await;
        assert_eq!((refused.status, world.reason(&refused)), (Some(401), json!(reason)), "{name}");
    }
    assert_eq!(world.refused(&token).await, "token_binding", "as a bearer token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_a_certificate_needs_it_through_envoy() {
    let Some((provider, world)) = with_provider("access_token").await else { return };
    let upstream = (upstream::http().await, upstream::echo().await);
    let Some(envoy) = Envoy::start(&world.doorward, upstream.0, upstream.1, &Options::default()) else { return };
    let [agent, other] = ["agent", "other"].map(|name| world.doorward.ca.svid(&format!("spiffe://example.org/{name}")));
    let token = provider.token("bound", RESOURCE, &[("x-certificate", &agent.url_encoded())]);
    let calls = [
        ("its own", Some(&agent), 200, ("/body/input/token/binding", "mtls")),
        ("another", Some(&other), 401, ("/body/reason", "token_binding")),
        ("none", None, 401, ("/body/reason", "token_binding")),
    ];
    for (number, (name, leaf, status, found)) in calls.into_iter().enumerate() {
        let request = request("GET", "/orders").header("authorization", format!("Bearer {token}"));
        let answer = envoy.client(&world.doorward, leaf, Http::Two).send(request.body(Default::default()).unwrap()).await;
        let record = eventually("its record", || world.doorward.decisions().get(number).cloned());
        assert_eq!((answer.status, record.pointer(found.0)), (status, Some(&json!(found.1))), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_waits_for_keys_however_they_come() {
    let Some(bao) = Bao::start() else { return };
    let Some(proxy) = Toxiproxy::start(bao.bao.address) else { return };
    // Keys are asked for only when a token names one that is not known.
    let rules = format!(
        "    kind: id_token
    audiences: [orders]
    keys: {{url: 'http://{}/v1/identity/oidc/.well-known/keys', refresh: 1h, min_interval: 200ms, timeout: 4s}}",
        proxy.address
    );
    let world = World::start(&bao.issuer(), &rules).await;
    // The set has to be long enough to be slow at one kilobyte a second.
    (0..8).for_each(|_| bao.rotate());
    come_into_force(&world, &bao.token("orders")).await;
    for (kind, attributes, fails) in [
        ("latency", json!({"latency": 3000}), false),
        ("bandwidth", json!({"rate": 1}), false),
        ("reset_peer", json!({"timeout": 2000}), true),
        ("timeout", json!({"timeout": 0}), true),
    ] {
        let known: Vec<_> = (0..20).map(|_| bao.token("orders")).collect();
        eventually("no request for keys", || proxy.connections().is_empty().then_some(()));
        proxy.poison(kind, &attributes);
        // Twice, for the key after the present one is known.
        (0..2).for_each(|_| bao.rotate());
        let new = bao.token("orders");
        let (fetched, failed) = (world.fetches(&[]), world.fetches(&[r#"result="failed""#]));
        assert_eq!(world.refused(&new).await, "token_unknown_key", "{kind}");
        let connections = || Some(proxy.connections()).filter(|open| !open.is_empty());
        let held = eventually(&format!("{kind}: a request for keys"), connections);
        for token in known.iter().chain(&known) {
            world.accepted(token).await;
        }
        assert_eq!(world.refused(&new).await, "token_unknown_key", "{kind}");
        let state = (proxy.connections(), world.fetches(&[]));
        assert_eq!(state, (held, fetched), "{kind}: all that while one request for keys was under way");
        if fails {
            eventually(&format!("{kind}: its failure"), || (world.fetches(&[r#"result="failed""#]) > failed).then_some(()));
            world.accepted(&known[0]).await;
        }
        proxy.cure();
        come_into_force(&world, &new).await;
        assert_eq!(fails, world.fetches(&[r#"result="failed""#]) > failed, "{kind}: late keys are keys");
    }
}

/// Presents a token until its key is known.
async fn come_into_force(world: &World, token: &str) {
    eventually_async("the new key", async || (world.bearer(token).await.code == 0).then_some(())).await;
}
