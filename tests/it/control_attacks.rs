//! Doorward's own API under attack, over its socket and over TLS: whatever is sent by whomever who may not, nothing changes,
//! each call leaves one record, no record holds a token, and everybody else is served.

use std::{
    convert::Infallible,
    fs,
    io::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use rcgen::DnType;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

use self::Who::{Intern, Nobody, Uid, Weak, Workload};
use crate::{
    grants::{AGENT, World, json_of},
    harness::{
        ca::{Ca, Leaf, uri},
        control::{Caller, Told, framed, message, methods, request_of, shake_hands},
        eventually, eventually_async,
        issuer::Signer,
    },
};

/// Calls of each method by each caller.
const FUZZED: usize = 12;
/// Memory that an attack may cost in bytes: what is compiled and cached by it, in a build for tests.
const MEMORY: u64 = 96 * 1024 * 1024;

/// A doorward with a live grant, a request, and a revocation: none of which an attack may touch.
struct Siege {
    world: World,
    ca: String,
    request: String,
    revocation: String,
    before: Value,
    memory: u64,
    sent: AtomicUsize,
}

impl Siege {
    fn start(top: &str) -> Self {
        let world = World::start(top);
        world.granted(&["--action", "refund"]);
        let request = world.ask(&["--action", "free"]);
        let revoked = world.run(&["revoke", "--spiffe-id", "spiffe://example.org/gone", "--reason", "r", "--output", "json"]);
        let revocation = json_of(&revoked)["revocation"]["id"].as_str().unwrap().to_owned();
        let ca = fs::read_to_string(world.folder.path().join("ca.pem")).unwrap();
        let (before, memory) = (Value::Null, 0);
        let mut siege = Self { world, ca, request, revocation, before, memory, sent: AtomicUsize::new(0) };
        siege.before = siege.standing();
        eventually("the first records", || (siege.world.calls().len() == 6).then_some(()));
        siege.memory = siege.resident();
        siege
    }

    /// All that there is to change.
    fn standing(&self) -> Value {
        let grants = json_of(&self.world.run(&["grant", "list", "--output", "json"]));
        let revocations = json_of(&self.world.run(&["revocations", "list", "--output", "json"]));
        json!([self.world.doorward.readyz()["state"], grants, revocations])
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.world.doorward.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    async fn socket(&self) -> Caller {
        Caller::unix(self.world.control.trim_start_matches("unix://").as_ref()).await.unwrap()
    }

    async fn tls(&self, leaf: Option<&Leaf>) -> Caller {
        Caller::tls(&self.world.remote, &self.ca, leaf).await.unwrap()
    }

    /// Calls, and counts it.
    async fn call(&self, caller: &Caller, method: &str, tokens: &[&str], body: Bytes) -> Told {
        self.sent.fetch_add(1, Ordering::Relaxed);
        caller.call(&format!("doorward.v1.{method}"), tokens, body).await.unwrap()
    }

    async fn send(&self, caller: &Caller, request: Request<crate::harness::control::Body>) -> Told {
        self.sent.fetch_add(1, Ordering::Relaxed);
        caller.send(request).await.unwrap()
    }

    fn bearer(&self, person: &str, change: &Value) -> String {
        format!("Bearer {}", fs::read_to_string(self.world.token(person, change)).unwrap())
    }

    /// Nothing has changed, all is recorded once, and operators are served.
    fn holds(&self) -> Vec<Value> {
        assert_eq!(self.standing(), self.before);
        let expected = 6 + self.sent.load(Ordering::Relaxed) + 2;
        eventually(&format!("{expected} records"), || (self.world.calls().len() >= expected).then_some(()));
        let calls = self.world.calls();
        assert_eq!(calls.len(), expected, "one record a call");
        let text = fs::read_to_string(self.world.doorward.path("records.jsonl")).unwrap();
        assert!(!text.contains("eyJ"), "a record holds a token: {}", text.lines().find(|line| line.contains("eyJ")).unwrap());
        assert_eq!(self.world.doorward.metric("doorward_records_total", &["dropped"]), 0.0);
        let grown = self.resident().saturating_sub(self.memory);
        assert!(grown < MEMORY, "{grown} bytes more than before");
        eprintln!("{} calls, {} records, {} KiB more memory", self.sent.load(Ordering::Relaxed), calls.len(), grown / 1024);
        calls
    }
}

fn refused(what: &str, told: &Told) {
    assert!(!told.is_ok() && (told.http != 200 || told.code.is_some()), "{what}: {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_mean_nothing_change_nothing() {
    let siege = Siege::start("");
    let other = siege.world.svid("other");
    let person = siege.bearer("mallory", &json!({}));
    let nobody: &[&str] = &[];
    let callers = [
        (siege.socket().await, nobody),
        (siege.tls(None).await, nobody),
        (siege.tls(Some(&other)).await, nobody),
        (siege.tls(None).await, &[&person]),
    ];
    let mut random = fastrand::Rng::with_seed(20_261_126);
    let mut bytes = |most: usize| std::iter::repeat_with(|| random.u8(..)).take(most).collect::<Vec<_>>();
    for method in methods() {
        let method = method.trim_start_matches("doorward.v1.");
        for (caller, tokens) in &callers {
            for number in 0..FUZZED {
                let some = bytes(1 + number * number * 3);
                let body = match number % 5 {
                    // Framed as it should be, not framed at all, framed as longer than it is and as twice as short.
                    0 => framed(&some),
                    1 => some.into(),
                    2 => framed(&some).slice(..some.len() / 2 + 3),
                    // A field that no message has, so that the policy is asked.
                    3 if some.len() < 128 => {
                        framed(&[&[0xc2, 0x3e, u8::try_from(some.len()).unwrap()], some.as_slice()].concat())
                    }
                    _ => [framed(&some), framed(&some)].concat().into(),
                };
                siege.call(caller, method, tokens, body).await;
            }
            for (what, body) in [
                ("nothing", Bytes::new()),
                ("half a head", Bytes::from_static(&[0, 0, 0])),
                ("no body for its head", Bytes::from_static(&[0, 0, 0, 1, 0])),
                ("4 GiB by its head", Bytes::from_static(&[0, 255, 255, 255, 255, 1])),
                ("compressed by its head", Bytes::from_static(&[1, 0, 0, 0, 1, 0])),
                ("an unknown flag", Bytes::from_static(&[9, 0, 0, 0, 1, 0])),
                ("over 64 KiB", framed(&vec![0x2a; 64 * 1024 + 1])),
                ("over 1 MiB", framed(&vec![0; 1024 * 1024])),
            ] {
                refused(what, &siege.call(caller, method, tokens, body).await);
            }
        }
    }
    let calls = siege.holds();
    let outcome = |name: &str| calls.iter().filter(|call| call["outcome"] == name).count();
    for code in ["UNAUTHENTICATED", "PERMISSION_DENIED", "OUT_OF_RANGE"] {
        assert!(outcome(code) >= 20, "{code}: {}", outcome(code));
    }
    assert_eq!(outcome("UNKNOWN"), 0, "{:?}", calls.iter().find(|call| call["outcome"] == "UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_no_client_makes_change_nothing() {
    let siege = Siege::start("");
    let other = siege.world.svid("other");
    let (socket, remote) = (siege.socket().await, siege.tls(Some(&other)).await);
    let long = "x".repeat(6000);
    let approve = message("ApproveGrantRequest", json!({"id": siege.request}));
    for caller in [&socket, &remote] {
        for path in ["", "x", "doorward.v1.GrantService", "doorward.v1.GrantService/", "doorward.v1.GrantService/approve"] {
            let request = Request::post(format!("http://doorward/{path}")).header("content-type", "application/grpc");
            refused(path, &siege.send(caller, request.body(Full::new(approve.clone()).boxed()).unwrap()).await);
        }
        for path in [
            "doorward.v1.GrantService/Approve/../Approve",
            "%64oorward.v1.GrantService/Approve",
            "doorward.v1.GrantService/Approve%00",
            "/doorward.v1.GrantService/Approve",
            "doorward.v2.GrantService/Approve",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "envoy.service.auth.v3.Authorization/Check",
            &long,
        ] {
            let request = Request::post(format!("http://doorward/{path}")).header("content-type", "application/grpc");
            refused(path, &siege.send(caller, request.body(Full::new(approve.clone()).boxed()).unwrap()).await);
        }
        for kind in ["", "application/json", "application/grpc-web", "text/html", "application/grpc+json"] {
            for method in ["POST", "GET", "PUT", "OPTIONS", "FOO"] {
                let request = Request::builder()
                    .method(method)
                    .uri("http://doorward/doorward.v1.GrantService/Approve")
                    .header("content-type", kind)
                    .header("x-http-method-override", "POST")
                    .header("grpc-encoding", "gzip")
                    .header("x-forwarded-client-cert", format!("URI={AGENT}"));
                let told = siege.send(caller, request.body(Full::new(approve.clone()).boxed()).unwrap()).await;
                refused(&format!("{method} {kind}"), &told);
            }
        }
    }
    let calls = siege.holds();
    let longest = calls.iter().map(|call| call["method"].as_str().map_or(0, str::len)).max();
    assert!(longest < Some(300), "a path is no text of any length: {longest:?}");
}

/// Who attacks: nobody, with neither certificate nor token; a process; a workload; a person who is no approver; and an approver
/// who is weakly known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Uid,
    Workload,
    Intern,
    Weak,
}

/// What it is, who does it, the method, and the request.
type Attack = (&'static str, Who, &'static str, Value);

const APPROVE: &str = "GrantService/Approve";
const END: &str = "GrantService/End";
const REQUEST: &str = "GrantService/Request";
const TASK_END: &str = "TaskService/End";
const REVOKE: &str = "RevocationService/Revoke";
const RESTORE: &str = "RevocationService/Restore";

/// What others may do.
fn by_the_wrong_ones(siege: &Siege) -> Vec<Attack> {
    let (grant, revocation) = (json!({"id": siege.request}), json!({"id": siege.revocation, "reason": "r"}));
    let request = asking(json!({}));
    let mut attacks = vec![
        ("a workload denies", Workload, "GrantService/Deny", grant.clone()),
        ("a workload ends another's", Workload, END, grant.clone()),
        ("a workload ends no task", Workload, TASK_END, json!({"task": "T"})),
        ("a workload ends others' tasks", Workload, TASK_END, json!({"task": "T", "subject": AGENT})),
        ("a workload revokes", Workload, REVOKE, revoking(json!({}))),
        ("a workload looks at sessions", Workload, "SessionService/List", json!({})),
        ("a workload ends a session", Workload, "SessionService/End", json!({"id": "0000000000000000"})),
        ("a workload follows", Workload, "TailService/Follow", json!({"records": true})),
        ("a workload explains", Workload, "ExplainService/Explain", grant.clone()),
        ("nobody revokes", Nobody, REVOKE, revoking(json!({}))),
        ("nobody looks", Nobody, "GrantService/List", json!({})),
        ("nobody watches", Nobody, "GrantService/Watch", json!({})),
        ("a restore that nobody asked for", Weak, "RevocationService/ApproveRestore", json!({"restore": siege.revocation})),
    ];
    for who in [Nobody, Uid, Workload, Intern, Weak] {
        attacks.push(("an approval", who, APPROVE, grant.clone()));
        attacks.push(("a restore", who, RESTORE, revocation.clone()));
    }
    attacks.extend([Nobody, Uid, Workload].map(|who| ("a request for another", who, REQUEST, request.clone())));
    attacks
}

/// A request for the agent, with changes of its scope.
fn asking(change: Value) -> Value {
    json!({"scope": changed(json!({"subject": AGENT, "actions": ["free"]}), change), "reason": "r"})
}

fn revoking(change: Value) -> Value {
    changed(json!({"selector": {"spiffe_id": AGENT}, "reason": "r"}), change)
}

fn changed(mut document: Value, mut change: Value) -> Value {
    document.as_object_mut().unwrap().append(change.as_object_mut().unwrap());
    document
}

/// What nobody may have, whoever asks.
fn of_the_wrong_form() -> Vec<Attack> {
    let many: Vec<_> = (0..15_000).map(|_| "x").collect();
    let text = |change: Value| changed(asking(json!({})), change);
    let asked = [
        ("many actions", asking(json!({"actions": many}))),
        ("many resources", asking(json!({"resources": many}))),
        ("all actions", asking(json!({"actions": ["*"]}))),
        ("all workloads", asking(json!({"subject": "spiffe://example.org/*"}))),
        ("a subject by a path", asking(json!({"subject": "spiffe://example.org/agent/../x"}))),
        ("a NUL in the subject", asking(json!({"subject": format!("{AGENT}\u{0}")}))),
        ("a NUL in the task", asking(json!({"task": "T\u{0}"}))),
        ("a line end in the tenant", asking(json!({"tenant": "a\nb"}))),
        ("a NUL in a resource", asking(json!({"resources": ["order/\u{0}"]}))),
        ("for ever", asking(json!({"lifetime": "315576000000s"}))),
        ("for less than nothing", asking(json!({"lifetime": "-1s"}))),
        ("too many uses", asking(json!({"max_uses": u32::MAX}))),
        ("an escape in the ticket", text(json!({"ticket": "\u{1b}[2J"}))),
        ("a bell in the reason", text(json!({"reason": "fine\u{7}"}))),
        ("text that runs backwards", text(json!({"reason": "\u{202e}on saw reworeht"}))),
        ("no reason", text(json!({"reason": " "}))),
        ("a long name", text(json!({"request_id": "x".repeat(129)}))),
        ("a made up binding token", text(json!({"binding_token": "eyJwcmluY2lwYWwiOiJ4In0.AAAA"}))),
    ];
    let revoked = [
        ("an unconfirmed domain", revoking(json!({"selector": {"trust_domain": "example.org"}}))),
        ("nothing", revoking(json!({"selector": {}}))),
        ("no reason", revoking(json!({"reason": " "}))),
        ("a floor in the future", revoking(json!({"issued_before": "9999-12-31T23:59:59Z"}))),
        ("for ever", revoking(json!({"lifetime": "315576000000s"}))),
        ("for less than nothing", revoking(json!({"lifetime": "-1s"}))),
    ];
    let looked = [
        ("a made up page", "GrantService/List", json!({"page_token": "-1"})),
        ("a huge page", "RevocationService/List", json!({"page_token": "18446744073709551616"})),
        ("less than a page", "GrantService/List", json!({"page_size": -1})),
        ("a page of sessions", "SessionService/List", json!({"page_token": "../../x"})),
        ("a state that there is not", "GrantService/List", json!({"state": "live\u{0}"})),
        ("a kind that there is not", "RevocationService/List", json!({"kind": "*"})),
    ];
    let asked = asked.map(|(what, body)| (what, Intern, REQUEST, body));
    let revoked = revoked.map(|(what, body)| (what, Uid, REVOKE, body));
    asked.into_iter().chain(revoked).chain(looked.map(|(what, method, body)| (what, Uid, method, body))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_others_to_do_and_what_is_nobody_s_is_refused() {
    let siege = Siege::start("");
    let other = siege.world.svid("other");
    let (socket, remote, nobody) = (siege.socket().await, siege.tls(Some(&other)).await, siege.tls(None).await);
    let (intern, weak) = (siege.bearer("intern", &json!({"groups": []})), siege.bearer("mallory", &json!({"acr": "pwd"})));
    for (what, who, method, body) in by_the_wrong_ones(&siege).into_iter().chain(of_the_wrong_form()) {
        let (caller, tokens): (_, &[&str]) = match who {
            Nobody => (&nobody, &[]),
            Uid => (&socket, &[]),
            Workload => (&remote, &[]),
            Intern => (&nobody, &[&intern]),
            Weak => (&nobody, &[&weak]),
        };
        let told = siege.call(caller, method, tokens, request_of(method, body)).await;
        refused(what, &told);
        assert!(![2, 13].contains(&told.code.unwrap_or_default()), "{what}: {told:?}");
    }
    // Times that no JSON can say: one second before the epoch and 2,147,483,647 ns.
    for field in [4_u8, 5] {
        let wild = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x10, 0xff, 0xff, 0xff, 0xff, 0x07];
        let field = [field << 3 | 2, wild.len().try_into().unwrap()];
        let body = [&request_of(REVOKE, revoking(json!({})))[5..], &field, &wild].concat();
        refused("a wild time", &siege.call(&socket, REVOKE, &[], framed(&body)).await);
    }
    // A page that begins after all there are.
    let after = message("ListGrantsRequest", json!({"page_token": "18446744073709551615"}));
    let told = siege.call(&socket, "GrantService/List", &[], after).await;
    assert!(told.is_ok() && told.read("ListGrantsResponse").get("grants").is_none(), "{told:?}");
    siege.holds();
}

/// What a token says that lets Bob approve, with changes.
fn of_bob(change: Value) -> Value {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({
        "iss": "https://people.example", "aud": "doorward", "sub": "sub-bob", "email": "bob@example.org",
        "groups": ["sre"], "acr": "mfa", "iat": now, "exp": now + 60, "jti": uuid::Uuid::now_v7().to_string(),
    });
    changed(claims, change)
}

/// Tokens that Bob has not, or that must not count as his.
fn forged(world: &World, machines: &Signer) -> Vec<(&'static str, String)> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let encode = |value: &Value| BASE64.encode(value.to_string());
    let (people, strangers) = (&world.people, &world.strangers);
    let unsigned = |alg: &str, end: &str| {
        format!("{}.{}.{end}", encode(&json!({"alg": alg, "typ": "JWT", "kid": "people"})), encode(&of_bob(json!({}))))
    };
    let by_public_key = {
        let signed = unsigned("HS256", "");
        let signed = signed.trim_end_matches('.');
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, people.jwk().to_string().as_bytes());
        format!("{signed}.{}", BASE64.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
    };
    let headed = |signer: &Signer, header: Value| {
        let mut head = json!({"alg": "ES256", "typ": "JWT"});
        head.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
        signer.signed(&head, &of_bob(json!({})))
    };
    let good = people.sign("JWT", &of_bob(json!({})));
    let mut bent = good.into_bytes();
    let last = bent.len() - 10;
    bent[last] = if bent[last] == b'A' { b'B' } else { b'A' };
    vec![
        ("no algorithm", unsigned("none", "")),
        ("no algorithm, oddly written", unsigned("nOnE", "")),
        ("no algorithm and a signature", unsigned("none", "AAAA")),
        ("no signature", unsigned("ES256", "")),
        ("the public key as a secret", by_public_key),
        ("another signature", String::from_utf8(bent).unwrap()),
        ("strangers, the same key id", strangers.sign("JWT", &of_bob(json!({})))),
        ("strangers, their key within", headed(strangers, json!({"jwk": strangers.jwk()}))),
        ("strangers, their key elsewhere", headed(strangers, json!({"kid": "people", "jku": "https://evil.example/jwks"}))),
        ("a path as key id", headed(strangers, json!({"kid": "../../../../dev/null"}))),
        ("something critical", headed(people, json!({"kid": "people", "crit": ["x"], "x": 1}))),
        ("an issuer of machines", machines.sign("JWT", &of_bob(json!({"iss": "https://machines.example"})))),
        ("machines in people's name", machines.sign("JWT", &of_bob(json!({})))),
        ("a JWT-SVID", people.sign("JWT", &of_bob(json!({"sub": AGENT, "iss": null})))),
        ("a JWT-SVID in people's name", people.sign("JWT", &of_bob(json!({"sub": AGENT})))),
        ("bound to a key by DPoP", people.sign("JWT", &of_bob(json!({"cnf": {"jkt": "0".repeat(43)}})))),
        ("bound to a certificate", people.sign("JWT", &of_bob(json!({"cnf": {"x5t#S256": "0".repeat(43)}})))),
        ("expired", people.sign("JWT", &of_bob(json!({"iat": now - 900, "exp": now - 600})))),
        ("not yet", people.sign("JWT", &of_bob(json!({"nbf": now + 600})))),
        ("no end", people.sign("JWT", &of_bob(json!({"exp": null})))),
        ("nobody's audience", people.sign("JWT", &of_bob(json!({"aud": null})))),
        ("another audience", people.sign("JWT", &of_bob(json!({"aud": ["orders"]})))),
        ("no subject", people.sign("JWT", &of_bob(json!({"sub": null})))),
        ("a client's", people.sign("JWT", &of_bob(json!({"client_id": "sub-bob"})))),
        ("a client's of Okta", people.sign("JWT", &of_bob(json!({"cid": "sub-bob"})))),
        ("a client's of Auth0", people.sign("JWT", &of_bob(json!({"gty": "client-credentials"})))),
        ("a service account's", people.sign("JWT", &of_bob(json!({"preferred_username": "service-account-x"})))),
        ("two names", people.sign("JWT", &of_bob(json!({"email": ["bob@example.org", "carol@example.org"]})))),
        ("long names", people.sign("JWT", &of_bob(json!({"email": "b".repeat(300)})))),
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("much", "eyJ".repeat(3000)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_count_approve_nothing() {
    let machines = Signer::new("machines");
    let keys = TempDir::new().unwrap();
    let file = keys.path().join("machines.jwks");
    fs::write(&file, json!({"keys": [machines.jwk()]}).to_string()).unwrap();
    let tokens = format!(
        "tokens:\n  issuers:\n  - issuer: https://machines.example\n    kind: id_token\n    audiences: [doorward]\n    keys: {{file: {}}}\n",
        file.display()
    );
    let siege = Siege::start(&tokens);
    let forged = forged(&siege.world, &machines);
    let good = siege.world.people.sign("JWT", &of_bob(json!({})));
    let agent = siege.world.svid("agent");
    let callers = [siege.socket().await, siege.tls(None).await, siege.tls(Some(&agent)).await];
    let approve = message("ApproveGrantRequest", json!({"id": siege.request}));
    let list = message("ListGrantsRequest", json!({}));
    for caller in &callers {
        for (what, token) in &forged {
            let header = format!("Bearer {token}");
            let told = siege.call(caller, "GrantService/Approve", &[&header], approve.clone()).await;
            assert_eq!((told.http, told.code), (200, Some(16)), "{what}: {told:?}");
            // Who shows a wrong token is not let be as who shows none.
            let told = siege.call(caller, "GrantService/List", &[&header], list.clone()).await;
            assert_eq!(told.code, Some(16), "{what}: {told:?}");
        }
        let (bearer, basic) = (format!("Bearer {good}"), format!("Basic {good}"));
        for shown in [
            &[bearer.as_str(), &bearer] as &[&str],
            &["Bearer x", &bearer],
            &[&bearer, "Bearer x"],
            &[&basic],
            &[&good],
            &[""],
            &["Bearer"],
            &[&format!("{bearer}, {bearer}")],
            &[&format!("DPoP {good}")],
        ] {
            let told = siege.call(caller, "GrantService/Approve", shown, approve.clone()).await;
            assert_eq!((told.http, told.code), (200, Some(16)), "{told:?}");
        }
    }
    let calls = siege.holds();
    assert!(calls.iter().all(|call| call["decision"] == "allow" || call["caller"]["person"].is_null()), "{calls:?}");
    // The token itself is a good one.
    let told = callers[1].call("doorward.v1.GrantService/Approve", &[&format!("Bearer {good}")], approve).await.unwrap();
    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_once_is_not_carried_out_for_another() {
    let world = World::start("");
    let ca = fs::read_to_string(world.folder.path().join("ca.pem")).unwrap();
    let agent = world.svid("agent");
    let (remote, other) = (
        Caller::tls(&world.remote, &ca, Some(&agent)).await.unwrap(),
        Caller::tls(&world.remote, &ca, Some(&world.svid("other"))).await.unwrap(),
    );
    let denied = world.call(&agent, "/refund/7", &[]).await;
    let token = denied.body["context"]["access_request"]["binding_token"].as_str().unwrap();
    let body = json!({"request_id": "once", "reason": "r", "binding_token": token, "scope": {"task": "../../T\\1"}});
    let request = message("RequestGrantRequest", body);
    let method = "doorward.v1.GrantService/Request";
    let first = remote.call(method, &[], request.clone()).await.unwrap().read("RequestGrantResponse");
    let epoch = world.doorward.readyz()["state"].clone();
    let again = remote.call(method, &[], request.clone()).await.unwrap().read("RequestGrantResponse");
    assert_eq!((&again["repeated"], &again["grant"]["id"]), (&json!(true), &first["grant"]["id"]));
    refused("by another workload", &other.call(method, &[], request.clone()).await.unwrap());
    let bearer = |name: &str| format!("Bearer {}", fs::read_to_string(world.person(name)).unwrap());
    let alice = bearer("alice");
    refused("by a person", &remote.call(method, &[&alice], request).await.unwrap());
    let of_alice = |id: &str| json!({"request_id": id, "reason": "r", "binding_token": token, "scope": {"task": "../../T\\1", "subject": AGENT}});
    for id in ["once", "twice", ""] {
        let told = remote.call(method, &[&alice], message("RequestGrantRequest", of_alice(id))).await.unwrap();
        refused("the token by a person", &told);
        assert!(told.text.contains("another") || told.text.contains("already"), "{told:?}");
    }
    let revoke = json!({"request_id": "gone", "selector": {"spiffe_id": "spiffe://example.org/gone"}, "reason": "r"});
    let revoke = message("RevokeRequest", revoke);
    let revoked = remote.call("doorward.v1.RevocationService/Revoke", &[&alice], revoke.clone()).await.unwrap();
    assert!(revoked.is_ok(), "{revoked:?}");
    let mallory = bearer("mallory");
    let told = remote.call("doorward.v1.RevocationService/Revoke", &[&mallory], revoke).await.unwrap();
    assert_eq!(told.code, Some(6), "{told:?}");
    let now = world.doorward.readyz()["state"].clone();
    assert_eq!(
        (now["epoch"]["rev"].as_u64(), now["revocations"].as_u64()),
        (epoch["epoch"]["rev"].as_u64().map(|rev| rev + 1), Some(1))
    );
    let calls = eventually("the records", || Some(world.calls()).filter(|calls| calls.len() == 8));
    assert!(!format!("{calls:?}").contains("eyJ"), "the binding token is recorded");
    let ended = json_of(&world.run(&["task", "end", "../../T\\1", "--output", "json"]));
    assert_eq!(ended["grants"][0]["scope"]["task"], "../../T\\1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_in_the_middle_is_recorded_with_what_came_of_it() {
    let siege = Siege::start("");
    let bob = siege.bearer("bob", &json!({}));
    let socket = siege.socket().await;
    // Another process holds the log, so that the call cannot end yet.
    let log = redb::Database::open(siege.world.doorward.path("control.redb")).unwrap();
    let (id, body) = (siege.request.clone(), message("ApproveGrantRequest", json!({"id": siege.request})));
    let call = tokio::spawn(async move { socket.call("doorward.v1.GrantService/Approve", &[&bob], body).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    call.abort();
    assert!(call.await.is_err(), "it went away without an answer");
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(log);
    let approved = |call: &Value| call["method"] == "doorward.v1.GrantService/Approve" && call["request"]["id"] == json!(id);
    let call = eventually("the record", || siege.world.calls().into_iter().find(approved));
    let listed = json_of(&siege.world.run(&["grant", "list", "--state", "live", "--output", "json"]));
    assert!(listed["grants"].as_array().unwrap().iter().any(|grant| grant["id"] == json!(id)), "{listed}");
    assert_eq!((&call["outcome"], &call["decision"]), (&json!("OK"), &json!("allow")), "{call}");
    assert!(call["detail"].as_str().unwrap().starts_with("granted "), "{call}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_watches_without_end() {
    let siege = Siege::start("");
    let (agent, other) = (siege.world.svid("agent"), siege.world.svid("other"));
    let watch = message("WatchGrantsRequest", json!({}));
    let callers = [siege.tls(Some(&other)).await, siege.tls(Some(&other)).await];
    let mut watching = Vec::new();
    for number in 0..24 {
        let request = Request::post("http://doorward/doorward.v1.GrantService/Watch").header("content-type", "application/grpc");
        let answer = callers[number % 2].begin(request.body(Full::new(watch.clone()).boxed()).unwrap()).await.unwrap();
        watching.push(answer);
    }
    let refused = |answer: &&http::Response<hyper::body::Incoming>| answer.headers().get("grpc-status").is_some();
    assert_eq!(watching.iter().filter(refused).count(), 8);
    let own = siege.tls(Some(&agent)).await.call("doorward.v1.GrantService/Watch", &[], watch.clone()).await.unwrap();
    assert!(own.is_ok(), "others watch on: {own:?}");
    drop((watching, callers));
    let again = siege.tls(Some(&other)).await;
    eventually_async("room", async || {
        let told = again.call("doorward.v1.GrantService/Watch", &[], watch.clone()).await.unwrap();
        told.is_ok().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_only_an_svid_or_nothing_is_shown() {
    let siege = Siege::start("");
    let doorward = &siege.world.doorward;
    let (elsewhere, agent) = (Ca::new("example.org"), uri(AGENT));
    let hour = time::Duration::hours(1);
    let now = time::OffsetDateTime::now_utc();
    let certificates = [
        ("expired", doorward.ca.leaf(|params| (params.subject_alt_names, params.not_after) = (vec![agent.clone()], now - hour))),
        ("not yet", doorward.ca.leaf(|params| (params.subject_alt_names, params.not_before) = (vec![agent.clone()], now + hour))),
        ("another trust domain", doorward.ca.svid("spiffe://example.com/agent")),
        ("another authority", elsewhere.svid(AGENT)),
        ("no name", doorward.ca.leaf(|params| params.distinguished_name.push(DnType::CommonName, AGENT))),
        (
            "two names",
            doorward.ca.leaf(|params| params.subject_alt_names = vec![agent.clone(), uri("spiffe://example.org/other")]),
        ),
        ("no workload", doorward.ca.svid("spiffe://example.org")),
    ];
    let list = message("ListGrantsRequest", json!({}));
    for (what, leaf) in &certificates {
        // With TLS 1.3 the client hears of its refusal by its first answer.
        let Ok(caller) = Caller::tls(&siege.world.remote, &siege.ca, Some(leaf)).await else { continue };
        let told = caller.call("doorward.v1.GrantService/List", &[], list.clone()).await;
        assert!(told.is_err(), "{what}: {told:?}");
    }
    assert_eq!(doorward.metric("doorward_callers_refused_total", &["tls"]), certificates.len() as f64);
    let nobody = siege.tls(None).await;
    assert_eq!(siege.call(&nobody, "GrantService/List", &[], list.clone()).await.code, Some(16));
    let before = doorward.metric("doorward_callers_refused_total", &[]);
    let address = siege.world.remote.trim_start_matches("tcp://").to_owned();
    let mut random = fastrand::Rng::with_seed(7);
    for bytes in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        std::iter::repeat_with(|| random.u8(..)).take(5000).collect(),
        vec![22, 3, 1, 255, 255],
    ] {
        let mut plain = std::net::TcpStream::connect(&address).unwrap();
        // It may have hung up already.
        let _ = plain.write_all(&bytes).and_then(|()| plain.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    }
    eventually("the refusals", || (doorward.metric("doorward_callers_refused_total", &[]) >= before + 4.0).then_some(()));
    // What is no HTTP/2 inside of TLS reaches nobody either.
    let mut stream = shake_hands(&siege.world.remote, &siege.ca, None).await.unwrap();
    stream.write_all(&vec![0xff; 100_000]).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
    siege.holds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_as_many_as_there_may_be_and_no_more() {
    let siege = Siege::start("");
    let doorward = &siege.world.doorward;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(shake_hands(&siege.world.remote, &siege.ca, None).await.unwrap());
    }
    assert!(shake_hands(&siege.world.remote, &siege.ca, None).await.is_err(), "one too many");
    assert!(siege.world.run(&["revocations", "list"]).status.success(), "the socket has places of its own");
    drop(held.pop());
    drop(eventually_async("a place", async || shake_hands(&siege.world.remote, &siege.ca, None).await.ok()).await);
    drop(held);
    // Those who begin and say nothing keep nobody waiting.
    let address = siege.world.remote.trim_start_matches("tcp://").to_owned();
    let silent: Vec<_> = (0..80).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let refused = || doorward.metric("doorward_callers_refused_total", &["tls"]) >= 17.0;
    eventually("those beyond the handshakes at a time to be refused", || refused().then_some(()));
    drop(silent);
    let list = message("ListGrantsRequest", json!({}));
    let caller = eventually_async("a caller", async || Caller::tls(&siege.world.remote, &siege.ca, None).await.ok()).await;
    assert_eq!(siege.call(&caller, "GrantService/List", &[], list).await.code, Some(16));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_and_slow_callers_keep_nobody_from_revoking() {
    let siege = Siege::start("");
    let other = siege.world.svid("other");
    let mut held = Vec::new();
    // Bodies that never end, on as many connections as there may be and more.
    for _ in 0..40 {
        let Ok(caller) = Caller::tls(&siege.world.remote, &siege.ca, Some(&other)).await else { continue };
        for _ in 0..32 {
            let caller = caller.clone();
            let body = StreamBody::new(
                tokio_stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0, 0, 0, 255, 0, 1]))))
                    .chain(tokio_stream::pending()),
            );
            let request =
                Request::post("http://doorward/doorward.v1.GrantService/Request").header("content-type", "application/grpc");
            let request = request.body(body.boxed()).unwrap();
            held.push(tokio::spawn(async move { caller.send(request).await }));
        }
    }
    // Calls without end of what the policy is asked about, all at a time.
    let flood = siege.tls(Some(&other)).await;
    let list = message("ListSessionsRequest", json!({}));
    let flooding: Vec<_> = (0..500)
        .map(|_| {
            let (flood, list) = (flood.clone(), list.clone());
            tokio::spawn(async move { flood.call("doorward.v1.SessionService/List", &[], list).await })
        })
        .collect();
    let begun = Instant::now();
    let told = siege.world.run(&["revocations", "list"]);
    assert!(told.status.success());
    let took = begun.elapsed();
    eprintln!("an operator was answered in {took:?} beside {} slow calls and {} at once", held.len(), flooding.len());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut answered = 0;
    for call in flooding {
        // Until it knows better a client begins more than HTTP/2 lets it, which has no answer.
        if let Ok(told) = call.await.unwrap() {
            assert_eq!(told.code, Some(7));
            answered += 1;
        }
    }
    let count = held.len();
    held.iter().for_each(tokio::task::JoinHandle::abort);
    drop((held, flood));
    assert!(count >= 1000);
    let recorded = |method: &str, outcome: &str| {
        let calls = siege.world.calls().into_iter();
        calls
            .filter(|call| call["outcome"] == outcome && call["method"].as_str().is_some_and(|own| own.ends_with(method)))
            .count()
    };
    eventually("the records of the slow", || (recorded("/Request", "CANCELLED") >= 1000).then_some(()));
    assert_eq!(recorded("SessionService/List", "PERMISSION_DENIED"), answered);
    assert_eq!(siege.standing(), siege.before);
    let grown = siege.resident().saturating_sub(siege.memory);
    assert!(grown < MEMORY, "{grown}");
}
