//! What one workload can do to another: it cannot make it riskier than by one step an hour, push it out of a table, or end
//! its session; and what an MCP client sends that cannot be read whole is nobody's known action.

use serde_json::{Value, json};

use crate::harness::{
    ca::Leaf,
    check::{Answer, Check},
    doorward::{Doorward, Setup, check},
    eventually_async,
    issuer::{Issuer, Serves, Signer},
};

const VICTIM: &str = "spiffe://example.org/ns/ai/sa/victim";
const ATTACKER: &str = "spiffe://example.org/ns/ai/sa/attacker";

/// Lets everything through, tells what it saw, and ends the session of who asks for it.
const MIRROR: &str = r#"package envoy.authz

default ends := false

ends if input.parsed_path == ["end"]

allow := {"allowed": true, "end_session": ends, "dynamic_metadata": {"input": input}}
"#;

const DOCUMENTS: &str = "
doorward:
  actions:
    known: {match: [{path: /x}], class: read, tier: light}
    customer.read: {match: [{path: '/customers/*'}], class: read, adds: ['data:customer']}
    outside.post: {match: [{path: /post}], class: write, forbid_after: ['data:customer']}
    crm.write: {match: [{mcp: {path: /mcp, tool: crm_write}}], class: write, tier: strict}
  signals: {weights: {credential_reuse: 200, denial_streak: 200}}
  tiers: {default: standard}
";

const SESSIONS: &str = "sessions: {sole: true, snapshot: sessions.jsonl, max: 2000}\n";

struct World {
    doorward: Doorward,
    signer: Signer,
    _issuer: Issuer,
}

struct Decided {
    allowed: bool,
    id: String,
    input: Value,
}

impl World {
    async fn new() -> Self {
        Self::with(DOCUMENTS).await
    }

    async fn with(documents: &str) -> Self {
        let signer = Signer::new("one");
        let issuer = Issuer::start(Serves::Keys(vec![signer.jwk()])).await;
        let top = format!("{SESSIONS}{}", issuer.tokens());
        let files = [("documents.yaml", documents)];
        let setup =
            Setup { policy: Some(MIRROR), files: &files, listener: "  placement: gateway\n", top: &top, ..Setup::default() };
        let doorward = Doorward::start(&setup);
        doorward.wait_ready();
        let world = Self { doorward, signer, _issuer: issuer };
        let warm = world.token("warm");
        let leaf = world.doorward.ca.svid("spiffe://example.org/warm");
        eventually_async("the keys", async || world.ask(&leaf, "/x", Some(&warm)).await.allowed.then_some(())).await;
        world
    }

    /// A token that is tied to nobody.
    fn token(&self, sid: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": "https://as.example", "sub": "alice", "aud": "orders", "client_id": "app", "jti": sid, "sid": sid,
            "iat": now, "exp": now + 600,
        });
        self.signer.sign("at+jwt", &claims)
    }

    async fn send(&self, request: Check) -> Decided {
        let answer = Answer::read(check(self.doorward.channel().await, request.0).await.expect("an answer"));
        Decided {
            allowed: answer.code == 0,
            id: answer.metadata["decision_id"].as_str().expect("an id").to_owned(),
            input: answer.metadata["input"].clone(),
        }
    }

    async fn ask(&self, leaf: &Leaf, path: &str, token: Option<&str>) -> Decided {
        let request = Check::http("GET", path).certificate(&leaf.url_encoded());
        self.send(match token {
            Some(token) => request.header("authorization", &format!("Bearer {token}")),
            None => request,
        })
        .await
    }

    fn reason(&self, decided: &Decided) -> Value {
        self.doorward.record(&decided.id)["body"]["reason"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_raise_nobodys_risk_by_more_than_a_step() {
    let world = World::new().await;
    let (victim, attacker) = (world.doorward.ca.svid(VICTIM), world.doorward.ca.svid(ATTACKER));
    assert_eq!(world.ask(&victim, "/x", None).await.input["risk"]["level"], "low");
    for number in 0..30 {
        let token = world.token(&format!("stolen-{number}"));
        world.ask(&attacker, "/x", Some(&token)).await;
        let seen = world.ask(&victim, "/x", Some(&token)).await.input;
        assert_eq!(seen["signals"][0]["name"], "credential_reuse", "the owner comes second: {seen}");
        assert_eq!(seen["risk"]["level"], "medium", "a score of {} and one step all the same", seen["risk"]["score"]);
    }
    // What a caller brings about itself has no such bound.
    world.ask(&attacker, "/customers/1", None).await;
    for _ in 0..12 {
        assert!(!world.ask(&attacker, "/post", None).await.allowed);
    }
    assert_eq!(world.ask(&attacker, "/x", None).await.input["risk"]["level"], "high");
    assert_eq!(world.ask(&victim, "/x", None).await.input["risk"]["level"], "medium");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_fills_a_table_so_that_another_is_forgotten() {
    let world = World::new().await;
    let victim = world.doorward.ca.svid(VICTIM);
    let read = world.ask(&victim, "/customers/1", None).await;
    assert!(read.allowed);
    let session = read.input["session"]["id"].clone();
    // A session for each certificate, and more of them than the table or a principal may have; then many principals.
    for _ in 0..2_500 {
        world.ask(&world.doorward.ca.svid(ATTACKER), "/x", None).await;
    }
    let mut refused = 0;
    for number in 0..2_500 {
        let leaf = world.doorward.ca.svid(&format!("spiffe://example.org/flood/{number}"));
        refused += usize::from(!world.ask(&leaf, "/customers/1", None).await.allowed);
    }
    assert!(refused > 0, "who finds no room is refused");
    let post = world.ask(&victim, "/post", None).await;
    assert!(!post.allowed);
    assert_eq!(world.reason(&post), "path_forbidden");
    let seen = world.ask(&victim, "/x", None).await.input;
    assert_eq!((&seen["session"]["id"], &seen["session"]["seq"]), (&session, &json!(2)), "the session goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ends_anothers_session() {
    let world = World::new().await;
    let (victim, attacker) = (world.doorward.ca.svid(VICTIM), world.doorward.ca.svid(ATTACKER));
    let token = world.token("run-7");
    assert!(world.ask(&victim, "/x", Some(&token)).await.allowed);
    assert!(world.ask(&attacker, "/end", Some(&token)).await.allowed, "its own session of the same run ends");
    let refused = world.ask(&attacker, "/x", Some(&token)).await;
    assert_eq!((refused.allowed, world.reason(&refused)), (false, json!("session_ended")));
    assert!(world.ask(&victim, "/x", Some(&token)).await.allowed, "and nobody else's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mcp_call_that_is_not_here_as_a_whole_is_no_known_action() {
    let world = World::with(&DOCUMENTS.replace("default: standard", "default: strict")).await;
    let leaf = world.doorward.ca.svid(VICTIM);
    let call = |arguments: &Value| {
        let call =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "crm_write", "arguments": arguments}});
        call.to_string()
    };
    let post = |body: &str| {
        let request = Check::http("POST", "/mcp").certificate(&leaf.url_encoded());
        request.body("application/json", body).header("content-length", &body.len().to_string())
    };
    let whole = call(&json!({"note": "n".repeat(10_000)}));
    let known = world.send(post(&whole)).await;
    assert_eq!((known.allowed, &known.input["action"]["name"]), (true, &json!("crm.write")));

    // Cut by Envoy, by its own word or by the length that was announced; and longer than a message may be.
    let cut = post(&whole[..5_000]).header("x-envoy-auth-partial-body", "true");
    let short = post(&whole[..5_000]).header("content-length", &whole.len().to_string());
    for (what, request) in [("said to be cut", cut), ("shorter than announced", short)] {
        let decided = world.send(request).await;
        assert_eq!((decided.allowed, world.reason(&decided)), (false, json!("tier_body_incomplete")), "{what}");
        assert_eq!(world.doorward.record(&decided.id)["body"]["action"]["name"], Value::Null, "{what}");
    }
    let deep = call(&json!({"a": serde_json::from_str::<Value>(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).unwrap()}));
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm_write","name":"other","arguments":{}}}"#;
    for (what, body) in [("deep", deep.as_str()), ("a key twice", twice)] {
        let decided = world.send(post(body)).await;
        assert_eq!((decided.allowed, world.reason(&decided)), (false, json!("tier_unknown_action")), "{what}");
    }
    let decided = world.send(post(&call(&json!({"note": "n".repeat(9 << 20)})))).await;
    assert_eq!((decided.allowed, world.reason(&decided)), (false, json!("message_too_large")));
}
