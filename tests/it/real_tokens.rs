//! Tokens and API keys through a real Envoy: whose they are, who may send them, and what the caller is told.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use crate::harness::{
    ca::Leaf,
    client::{Answer, Client, Http, request},
    doorward::{Doorward, Setup},
    envoy::{Envoy, Options},
    eventually, eventually_async,
    issuer::{Issuer, Serves, Signer},
    upstream,
};

const AGENT: &str = "spiffe://example.org/ns/shop/sa/agent";
const OTHER: &str = "spiffe://example.org/ns/shop/sa/other";
const ISSUER: &str = "https://as.example";
const METADATA: &str = "https://api.example/.well-known/oauth-protected-resource";

/// Whoever has a token may do everything, but what was presented by another workload before is refused on `/careful`.
const POLICY: &str = r#"package envoy.authz

default allow := false

reused if input.signals[_].name == "credential_reuse"

open if input.parsed_path[0] == "open"

careful if {
    input.parsed_path[0] == "careful"
    not reused
    count(input.tokens) > 0
}

allow if open

allow if careful

allow := {"allowed": false, "scope": "orders:write"} if input.parsed_path[0] == "scoped"

allow := {"allowed": false, "http_status": 401} if input.parsed_path[0] == "login"
"#;

struct World {
    doorward: Doorward,
    envoy: Envoy,
    issuer: Issuer,
    signer: Signer,
}

fn setup(issuer: &Issuer, more: &str) -> String {
    format!(
        "tokens:
  resource_metadata: {METADATA}
  issuers:
  - issuer: {ISSUER}
    kind: access_token
    audiences: [orders]
    keys: {{url: 'http://{}/jwks', refresh: 1s, min_interval: 1s, timeout: 500ms}}
{more}",
        issuer.address
    )
}

async fn world(more: &str, files: &[(&str, &str)]) -> Option<World> {
    let signer = Signer::new("one");
    let issuer = Issuer::start(Serves::Keys(vec![signer.jwk()])).await;
    let top = setup(&issuer, more);
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &top, files, ..Setup::default() });
    doorward.wait_ready();
    let envoy = Envoy::start(&doorward, upstream::http().await, upstream::echo().await, &Options::default())?;
    Some(World { doorward, envoy, issuer, signer })
}

impl World {
    fn client(&self, leaf: Option<&Leaf>) -> Client {
        self.envoy.client(&self.doorward, leaf, Http::One)
    }

    fn leaf(&self, id: &str) -> Leaf {
        self.doorward.ca.svid(id)
    }

    fn token(&self, claims: &Value) -> String {
        let mut all = json!({"iss": ISSUER, "aud": "orders", "sub": "alice", "client_id": "app"});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.signer.sign("at+jwt", &all)
    }

    /// The reason in the record of a denial.
    fn reason(&self, answer: &Answer) -> Value {
        self.doorward.record(answer.decision())["body"]["reason"].clone()
    }
}

async fn call(client: &Client, path: &str, header: (&str, &str)) -> Answer {
    client.send(request("GET", path).header(header.0, header.1).body(Full::default()).unwrap()).await
}

async fn bearer(client: &Client, path: &str, token: &str) -> Answer {
    call(client, path, ("authorization", &format!("Bearer {token}"))).await
}

fn thumbprint(leaf: &Leaf) -> String {
    let der = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der))
}

macro_rules! world {
    ($more:expr, $files:expr) => {
        match world($more, $files).await {
            Some(world) => world,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_is_worth_nothing_to_another_workload() {
    let world = world!("", &[]);
    let (agent, other) = (world.leaf(AGENT), world.leaf(OTHER));
    let token = world.token(&json!({"cnf": {"x5t#S256": thumbprint(&agent)}}));
    assert_eq!(bearer(&world.client(Some(&agent)), "/open", &token).await.status, 200);
    for (who, leaf) in [("another workload", Some(&other)), ("nobody", None)] {
        // The policy says yes to everything on this path.
        let refused = bearer(&world.client(leaf), "/open", &token).await;
        assert_eq!(refused.status, 401, "{who}");
        assert_eq!(world.reason(&refused), "token_binding", "{who}");
        let told = format!(r#"Bearer error="invalid_token", resource_metadata="{METADATA}""#);
        assert_eq!(refused.header("www-authenticate"), Some(told.as_str()), "{who}");
        assert!(refused.body.is_empty(), "nothing of why: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_token_is_a_signal_on_its_second_presenter() {
    let world = world!("", &[]);
    let (agent, other) = (world.leaf(AGENT), world.leaf(OTHER));
    let token = world.token(&json!({}));
    assert_eq!(bearer(&world.client(Some(&agent)), "/careful", &token).await.status, 200);
    let refused = bearer(&world.client(Some(&other)), "/careful", &token).await;
    assert_eq!(refused.status, 403);
    let record = world.doorward.record(refused.decision());
    assert_eq!(record["body"]["input"]["signals"][0]["name"], "credential_reuse");
    assert_eq!(record["body"]["input"]["token"]["binding"], "none");
    assert!(!record.to_string().contains(&token), "the token itself is nowhere");
    assert_eq!(bearer(&world.client(Some(&agent)), "/careful", &token).await.status, 200, "the first one goes on");
    assert_eq!(world.doorward.metric("doorward_credentials_reused_total", &[r#"kind="access_token""#]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_fenced_in() {
    let hash_key = [5_u8; 32];
    let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &hash_key), b"s3cret-key");
    let digest: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hash"), hash_key).unwrap();
    let keys = format!(
        "- {{id: legacy, digest: {digest}, workloads: ['{AGENT}', '{OTHER}'], owner: team-a, expires_at: 2100-01-01T00:00:00Z}}\n"
    );
    std::fs::write(path("keys.yaml"), keys).unwrap();
    let more = format!("  api_keys: {{file: {}, hash_key_file: {}}}\n", path("keys.yaml").display(), path("hash").display());
    let world = world!(&more, &[]);
    let (agent, other) = (world.leaf(AGENT), world.leaf(OTHER));
    let stranger = world.leaf("spiffe://example.org/ns/shop/sa/stranger");
    let key = ("x-api-key", "s3cret-key");
    assert_eq!(call(&world.client(Some(&agent)), "/careful", key).await.status, 200);
    let second = call(&world.client(Some(&other)), "/careful", key).await;
    assert_eq!(second.status, 403);
    let record = world.doorward.record(second.decision());
    assert_eq!(record["body"]["input"]["signals"][0]["name"], "credential_reuse");
    assert_eq!(record["body"]["input"]["tokens"][0]["claims"]["owner"], "team-a");
    assert!(!record.to_string().contains("s3cret-key"));
    let refused = call(&world.client(Some(&stranger)), "/open", key).await;
    assert_eq!((refused.status, world.reason(&refused)), (403, json!("api_key_workload")));
    let refused = call(&world.client(Some(&agent)), "/open", ("x-api-key", "guess")).await;
    assert_eq!((refused.status, world.reason(&refused)), (403, json!("api_key_unknown")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_is_told_what_it_needs_to_do_better() {
    let world = world!("", &[]);
    let client = world.client(Some(&world.leaf(AGENT)));
    let scoped = bearer(&client, "/scoped", &world.token(&json!({}))).await;
    let told = format!(r#"Bearer error="insufficient_scope", scope="orders:write", resource_metadata="{METADATA}""#);
    assert_eq!((scoped.status, scoped.header("www-authenticate")), (403, Some(told.as_str())));
    let login = client.get("/login").await;
    let told = format!(r#"Bearer resource_metadata="{METADATA}""#);
    assert_eq!((login.status, login.header("www-authenticate")), (401, Some(told.as_str())));
    let refused = client.get("/none").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (403, None));
    for (name, headers, reason) in [
        ("two headers", vec!["Bearer a.b.c", "Bearer a.b.c"], "token_repeated"),
        ("opaque", vec!["Bearer abc"], "token_issuer"),
        ("garbage", vec!["Bearer eyJ.eyJ.x"], "token_malformed"),
    ] {
        let request = headers.iter().fold(request("GET", "/open"), |request, value| request.header("authorization", *value));
        let refused = client.send(request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!((refused.status, world.reason(&refused)), (401, json!(reason)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_keys_that_misbehaves_changes_nothing_for_calls() {
    let world = world!("", &[]);
    let client = world.client(Some(&world.leaf(AGENT)));
    let good = world.token(&json!({}));
    let failures = || world.doorward.metric("doorward_keys_fetches_total", &[r#"result="failed""#]);
    let ways = [
        ("down", Serves::Error),
        ("garbage", Serves::Text(Bytes::from_static(b"<html>"))),
        ("oversized", Serves::Text(vec![b' '; 300 * 1024].into())),
        ("no key of use", Serves::Keys(vec![json!({"kty": "oct", "k": "AAAA"})])),
        ("silent", Serves::Nothing),
    ];
    for (name, way) in ways {
        let before = failures();
        world.issuer.serve(way);
        eventually(&format!("{name}: a failed request"), || (failures() > before).then_some(()));
        assert_eq!(bearer(&client, "/open", &good).await.status, 200, "{name}: the keys that are here stay");
        let fresh = world.token(&json!({}));
        assert_eq!(bearer(&client, "/open", &fresh).await.status, 200, "{name}: for tokens not seen before too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_a_key_that_is_gone_verifies_nothing() {
    let world = world!("", &[]);
    let client = world.client(Some(&world.leaf(AGENT)));
    let old = world.token(&json!({}));
    assert_eq!(bearer(&client, "/open", &old).await.status, 200);
    let next = Signer::new("two");
    let claims = json!({"iss": ISSUER, "aud": "orders", "sub": "alice", "client_id": "app"});
    let new = next.sign("at+jwt", &claims);
    let refused = bearer(&client, "/open", &new).await;
    assert_eq!(world.reason(&refused), "token_unknown_key");
    world.issuer.serve(Serves::Keys(vec![next.jwk()]));
    let taken = async || (bearer(&client, "/open", &new).await.status == 200).then_some(());
    eventually_async("the new key", taken).await;
    let refused = bearer(&client, "/open", &old).await;
    assert_eq!((refused.status, world.reason(&refused)), (401, json!("token_unknown_key")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_key_ids_asks_no_oftener_than_it_may() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(Serves::Keys(vec![signer.jwk()])).await;
    let top = setup(&issuer, "").replace("refresh: 1s, min_interval: 1s", "refresh: 1h, min_interval: 10s");
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &top, ..Setup::default() });
    doorward.wait_ready();
    let before = issuer.asked();
    let began = std::time::Instant::now();
    for number in 0..200 {
        let token = Signer::new(&format!("unknown-{number}")).sign("at+jwt", &json!({"iss": ISSUER, "aud": "orders"}));
        let check = crate::harness::check::Check::http("GET", "/open").header("authorization", &format!("Bearer {token}"));
        let answer = crate::harness::check::Answer::read(doorward.check(check.0).await.unwrap());
        assert_eq!(answer.status, Some(401), "{number}");
    }
    let most = usize::try_from(began.elapsed().as_secs() / 10).unwrap() + 1;
    assert!(issuer.asked() - before <= most, "{} requests, {most} are allowed", issuer.asked() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_ready_before_the_keys_are_there() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(Serves::Error).await;
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: &setup(&issuer, ""), ..Setup::default() });
    eventually("the word of readiness", || (doorward.readyz()["obstacle"] == "no_keys").then_some(()));
    issuer.serve(Serves::Keys(vec![signer.jwk()]));
    doorward.wait_ready();
    assert_eq!(doorward.readyz()["tokens"]["issuers"][0]["keys"], 1);
}
