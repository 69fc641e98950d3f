//! What a session remembers, and that nothing a caller can choose makes it forget: the real binary, asked over its socket
//! as Envoy would.

use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::harness::{
    ca::Leaf,
    check::{Answer, Check},
    doorward::{Doorward, Setup, check},
    issuer::{Issuer, Serves, Signer},
};

const AGENT: &str = "spiffe://example.org/ns/ai/sa/agent";

/// The policy lets everything through and tells what it saw: what is denied is denied by the catalogue.
const MIRROR: &str = r#"package envoy.authz
allow := {"allowed": true, "dynamic_metadata": {"input": input}}
"#;

const ACTIONS: &str = "
doorward:
  actions:
    customer.read: {match: [{path: '/customers/*', methods: [GET]}], class: read, adds: ['data:customer']}
    outside.post: {match: [{path: /post, methods: [POST]}], class: write, forbid_after: ['data:customer']}
    pair.read: {match: [{path: /pair/read}], class: read, adds: ['pair:read'], forbid_after: ['pair:posted']}
    pair.post: {match: [{path: /pair/post}], class: write, adds: ['pair:posted'], forbid_after: ['pair:read']}
    pair.strict: {match: [{path: /pair/strict}], class: write, tier: strict, adds: ['pair:posted'], forbid_after: ['pair:read']}
    vault.open: {match: [{path: /vault}], class: read, requires: ['data:customer']}
    harmless: {match: [{path: '/harmless/**'}], class: read}
    payment: {match: [{path: /pay}], class: execute, grant: always}
";

const GATEWAY: &str = "  placement: gateway\n";
const KEPT: &str = "sessions: {sole: true, snapshot: sessions.jsonl}\n";

fn start(listener: &str, top: &str) -> Doorward {
    let files = [("documents.yaml", ACTIONS)];
    let doorward = Doorward::start(&Setup { policy: Some(MIRROR), files: &files, listener, top, ..Setup::default() });
    doorward.wait_ready();
    doorward
}

/// How a call was decided.
struct Decided {
    allowed: bool,
    id: String,
    input: Value,
}

async fn ask(channel: Channel, leaf: &Leaf, change: impl FnOnce(Check) -> Check, method: &str, path: &str) -> Decided {
    let request = change(Check::http(method, path).certificate(&leaf.url_encoded()));
    let answer = Answer::read(check(channel, request.0).await.expect("an answer"));
    Decided {
        allowed: answer.code == 0,
        id: answer.metadata["decision_id"].as_str().expect("an id").to_owned(),
        input: answer.metadata["input"].clone(),
    }
}

async fn plain(doorward: &Doorward, leaf: &Leaf, method: &str, path: &str) -> Decided {
    ask(doorward.channel().await, leaf, |check| check, method, path).await
}

fn reason(doorward: &Doorward, decided: &Decided) -> Value {
    doorward.record(&decided.id)["body"]["reason"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_read_nothing_goes_outside_and_the_policy_sees_the_path() {
    let doorward = start(GATEWAY, KEPT);
    let (agent, other) = (doorward.ca.svid(AGENT), doorward.ca.svid("spiffe://example.org/ns/ai/sa/other"));
    assert!(plain(&doorward, &agent, "POST", "/post").await.allowed, "nothing was read yet");
    let vault = plain(&doorward, &agent, "GET", "/vault").await;
    assert!(!vault.allowed);
    assert_eq!(reason(&doorward, &vault), "path_requires");
    assert!(plain(&doorward, &agent, "GET", "/customers/7").await.allowed);
    assert!(plain(&doorward, &agent, "GET", "/vault").await.allowed);

    let post = plain(&doorward, &agent, "POST", "/post").await;
    assert!(!post.allowed);
    let record = doorward.record(&post.id);
    assert_eq!(record["body"]["reason"], "path_forbidden");
    assert_eq!(record["body"]["action"]["name"], "outside.post");
    assert_eq!(record["body"]["action"]["class"], "write");
    assert_eq!(record["body"]["action"]["tier"], "standard");
    assert!(record["body"]["detail"].as_str().unwrap().contains("data:customer"), "{record}");
    assert!(plain(&doorward, &other, "POST", "/post").await.allowed, "another agent read nothing");

    let seen = plain(&doorward, &agent, "GET", "/harmless/x").await.input;
    assert_eq!(seen["action"]["name"], "harmless");
    assert_eq!(seen["session"]["complete"], true);
    assert_eq!(seen["session"]["principal"]["labels"], json!(["data:customer"]));
    let path: Vec<(&str, &str)> = seen["session"]["path"]
        .as_array()
        .unwrap()
        .iter()
        .map(|past| (past["action"].as_str().unwrap(), past["decision"].as_str().unwrap()))
        .collect();
    let expected = [
        ("outside.post", "allow"),
        ("vault.open", "deny"),
        ("customer.read", "allow"),
        ("vault.open", "allow"),
        ("outside.post", "deny"),
    ];
    assert_eq!(path, expected);
    assert_eq!(seen["session"]["principal"]["counts"]["outside.post"]["n"], 1, "a denied call takes its count back");
    let payment = plain(&doorward, &agent, "POST", "/pay").await;
    assert_eq!(reason(&doorward, &payment), "grant_required");
}

/// Both of a pair in which each forbids what the other leaves behind, at the same time, each round by a new principal.
async fn race(doorward: &Doorward, rounds: usize, read: &str, post: &str) -> (usize, usize) {
    let (one, two) = (doorward.channel().await, doorward.channel().await);
    let (mut both, mut none) = (0, 0);
    for round in 0..rounds {
        let leaf = doorward.ca.svid(&format!("spiffe://example.org/round/{}/{round}", read.len() + post.len()));
        let (read, post) = tokio::join!(
            ask(one.clone(), &leaf, |check| check, "GET", read),
            ask(two.clone(), &leaf, |check| check, "POST", post)
        );
        both += usize::from(read.allowed && post.allowed);
        none += usize::from(!read.allowed && !post.allowed);
    }
    (both, none)
}

/// How many rounds: tests/long.sh asks for more.
fn rounds() -> usize {
    std::env::var("RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(500)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_racing_actions_that_forbid_each_other_at_most_one_passes() {
    let doorward = start(GATEWAY, KEPT);
    let (both, none) = race(&doorward, rounds(), "/pair/read", "/pair/post").await;
    assert_eq!(both, 0, "never both");
    assert!(none < rounds() / 2, "{none} rounds in which neither passed");
    let (both, _) = race(&doorward, rounds(), "/pair/read", "/pair/strict").await;
    assert_eq!(both, 0, "never both, with a strict second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_post_passes_whose_intent_came_after_that_of_an_allowed_read() {
    let doorward = start(GATEWAY, KEPT);
    let (one, two) = (doorward.channel().await, doorward.channel().await);
    let mut both = 0;
    for round in 0..rounds() {
        let leaf = doorward.ca.svid(&format!("spiffe://example.org/one-way/{round}"));
        let (read, post) = tokio::join!(
            ask(one.clone(), &leaf, |check| check, "GET", "/customers/1"),
            ask(two.clone(), &leaf, |check| check, "POST", "/post")
        );
        assert!(read.allowed);
        if post.allowed {
            let seq = |decided: &Decided| decided.input["session"]["seq"].as_u64().unwrap();
            assert!(seq(&post) < seq(&read), "round {round}");
            both += 1;
        }
    }
    assert!(both < rounds(), "the race was never lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_a_caller_chooses_sheds_a_label() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(Serves::Keys(vec![signer.jwk()])).await;
    let tokens = format!("{KEPT}{}", issuer.tokens());
    let mut doorward = start(GATEWAY, &tokens);
    let agent = doorward.ca.svid(AGENT);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |sid: &str| {
        let claims = json!({
            "iss": "https://as.example", "sub": AGENT, "aud": "orders", "client_id": AGENT, "jti": sid, "sid": sid,
            "iat": now, "exp": now + 300,
        });
        format!("Bearer {}", signer.sign("at+jwt", &claims))
    };
    // The keys are fetched in the background.
    let with = |value: String| move |check: Check| check.header("authorization", &value);
    let taken =
        async || ask(doorward.channel().await, &agent, with(token("warm")), "GET", "/harmless/t").await.allowed.then_some(());
    crate::harness::eventually_async("the keys", taken).await;
    assert!(ask(doorward.channel().await, &agent, with(token("first")), "GET", "/customers/1").await.allowed);

    let again = doorward.ca.svid(AGENT);
    type Change = Box<dyn Fn(Check) -> Check>;
    let header = |name: &'static str, value: &'static str| -> Change { Box::new(move |check| check.header(name, value)) };
    let first: Change = Box::new(with(token("first")));
    let second: Change = Box::new(with(token("second")));
    let attempts: Vec<(&str, &Leaf, Change)> = vec![
        ("a new connection", &agent, Box::new(|check| check)),
        ("a new certificate of the same identity", &again, Box::new(|check| check)),
        ("the token sent again", &agent, first),
        ("another token", &agent, second),
        ("the token left out", &agent, Box::new(|check| check)),
        ("an MCP session", &agent, header("mcp-session-id", "fresh")),
        ("a trace", &agent, header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("baggage", &agent, header("baggage", "session=fresh")),
        ("a session header", &agent, header("x-session-id", "fresh")),
        ("a header of ours", &agent, header("x-doorward-session", "fresh")),
        ("a request id", &agent, header("x-request-id", "fresh")),
    ];
    for (what, leaf, change) in attempts {
        let post = ask(doorward.channel().await, leaf, change, "POST", "/post").await;
        assert!(!post.allowed, "{what} shed a label");
        assert_eq!(reason(&doorward, &post), "path_forbidden", "{what}");
    }
    for _ in 0..50 {
        assert!(!plain(&doorward, &agent, "POST", "/post").await.allowed, "a repeated call");
    }
    let channel = doorward.channel().await;
    for number in 0..500 {
        let path = format!("/harmless/{number}");
        assert!(ask(channel.clone(), &agent, |check| check, "GET", &path).await.allowed);
    }
    assert!(!plain(&doorward, &agent, "POST", "/post").await.allowed, "after a flood of harmless calls");

    let files = [("documents.yaml", ACTIONS)];
    let setup = Setup { policy: Some(MIRROR), files: &files, listener: GATEWAY, top: &tokens, ..Setup::default() };
    doorward.signal(nix::sys::signal::Signal::SIGKILL);
    doorward.wait();
    drop(doorward.start_again(&setup, 2));
    let post = plain(&doorward, &agent, "POST", "/post").await;
    assert!(!post.allowed, "a crash shed a label");
    assert_eq!(reason(&doorward, &post), "path_forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_a_restart_forgets_nothing_that_is_forbidden_after() {
    let doorward = start(GATEWAY, "sessions: {sole: true}\n");
    let agent = doorward.ca.svid(AGENT);
    let post = plain(&doorward, &agent, "POST", "/post").await;
    assert!(!post.allowed);
    assert_eq!(reason(&doorward, &post), "session_incomplete");
    let read = plain(&doorward, &agent, "GET", "/customers/1").await;
    assert!(read.allowed, "what adds a label forgets nothing");
    assert_eq!(read.input["session"]["complete"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_marks_a_session_needs_a_peer_to_hold_to() {
    let doorward = start(GATEWAY, KEPT);
    let request = Check::http("GET", "/customers/1");
    let answer = Answer::read(check(doorward.channel().await, request.0).await.unwrap());
    assert_ne!(answer.code, 0);
    let id = answer.metadata["decision_id"].as_str().unwrap();
    assert_eq!(doorward.record(id)["body"]["reason"], "session_unproved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_that_needs_whole_sessions_is_refused_where_there_are_none() {
    let files = [("documents.yaml", ACTIONS)];
    for (listener, top, taken) in [
        ("", "", false),
        ("", "sessions: {incomplete: allow}\n", true),
        ("  placement: gateway\n", "sessions: {sole: true}\n", true),
    ] {
        let doorward = Doorward::start(&Setup { policy: Some(MIRROR), files: &files, listener, top, ..Setup::default() });
        if taken {
            doorward.wait_ready();
            continue;
        }
        let refused = crate::harness::eventually("the policy to be refused", || {
            let policy = doorward.readyz()["policy"].clone();
            policy["last_error"].is_object().then_some(policy)
        });
        let text = refused["last_error"].to_string();
        assert!(text.contains("inbound") && text.contains("sessions.incomplete"), "{text}");
        assert!(!plain(&doorward, &doorward.ca.svid(AGENT), "GET", "/harmless/x").await.allowed);
    }
}
