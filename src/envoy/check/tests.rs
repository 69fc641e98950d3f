//! Properties of the whole way in process: whatever comes in, whatever the policy says and whatever breaks, the answer
//! is well formed, and an allow only where a policy in force said so.

use std::{collections::HashMap, fs};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext,
    attribute_context::{HttpRequest, Peer, Request as PbRequest},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    authorizer::{ControlState, Parts, Permits, Shadow},
    config::{self, Compat, Config, RecordWrite},
    identity::{Identity, PeerRules, tokens::Tokens},
    policy::{PolicyStore, input::Here},
    record::{Copies, Recorder},
    revocation::{Asked, DEFAULT_LIFE, Selector},
    session::Sessions,
    stream::Streams,
    telemetry::Telemetry,
    trust::{TrustStore, testing::Authority},
};

/// Answers what the header `x-decision` says, else no.
const POLICY: &str = "package envoy.authz\n\ndefault allow := false\n\n\
    allow := decision if {\n    text := input.attributes.request.http.headers[\"x-decision\"]\n    decision := json.unmarshal(text)\n}\n";

struct World {
    runtime: Runtime,
    door: Door,
    control: ControlState,
    permits: Arc<Permits>,
    _folder: TempDir,
}

/// A door over `policy`, with what `change` makes of the usual configuration.
fn world(policy: Option<&str>, change: impl FnOnce(&mut Config)) -> World {
    let folder = TempDir::new().unwrap();
    if let Some(policy) = policy {
        fs::write(folder.path().join("policy.rego"), policy).unwrap();
    }
    let file = folder.path().join("doorward.yaml");
    let text = "version: 1\nlisteners: [{peer: {trust: certificate}}]\npolicy: {bundles: [{path: policy.rego}]}\n\
                records: {sink: off}\nlimits: {queue: 1, evaluators: 1, decision: 2s}\n";
    fs::write(&file, text).unwrap();
    let mut config = config::load(&file).unwrap();
    change(&mut config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let telemetry = {
        let _inside = runtime.enter();
        Telemetry::start(&config.telemetry, "test").unwrap()
    };
    let policies = Arc::new(PolicyStore::default());
    policies.reload(&config.policy, clock::now());
    let (recorder, _records) =
        Recorder::start(&config.records, "test", telemetry.metrics(), &Arc::default(), Copies::default()).unwrap();
    let permits = Arc::new(Permits::new(1, 1));
    let control = ControlState::open(&config.state, None, clock::now()).unwrap();
    let authorizer = Authorizer::new(Parts {
        settings: Settings::new(&config),
        identity: Identity::new(Arc::new(TrustStore::default()), Arc::default()),
        tokens: Arc::new(Tokens::new(&config.tokens, Arc::default()).unwrap()),
        sessions: Arc::new(Sessions::open(&config.sessions, clock::now()).unwrap()),
        control: control.clone(),
        streams: Arc::new(Streams::new(&config.limits)),
        policies,
        permits: Arc::clone(&permits),
        shadow: Shadow::start(Arc::default(), recorder.clone(), telemetry.metrics()).unwrap(),
        recorder,
        metrics: telemetry.metrics(),
    });
    let listener = Listener {
        name: "test".into(),
        rules: PeerRules::new(&config.listeners.first().unwrap().peer, config::Placement::Inbound),
        here: Here::new([]),
        sole: false,
    };
    let door = Door {
        authorizer: Arc::new(authorizer),
        metrics: telemetry.metrics(),
        tracer: telemetry.tracer(),
        listener,
        max_body: None,
        skip_body_parse: false,
        descriptors: Arc::default(),
        message: 4096,
        decision: Duration::from_secs(20),
    };
    World { runtime, door, control, permits, _folder: folder }
}

impl World {
    fn ask(&self, message: Vec<u8>) -> encode::Reply {
        self.ask_with(&MetadataMap::new(), message)
    }

    fn ask_with(&self, metadata: &MetadataMap, message: Vec<u8>) -> encode::Reply {
        self.runtime.block_on(self.door.answer(metadata, message.into()))
    }
}

/// The status code of a well-formed answer.
fn code(reply: &encode::Reply) -> i32 {
    match reply {
        encode::Reply::Response(response) => {
            let round_trip = CheckResponse::decode(response.encode_to_vec().as_slice()).unwrap();
            round_trip.status.expect("an explicit status").code
        }
        encode::Reply::Error(status) => panic!("an error outside compat: {status:?}"),
    }
}

fn request(headers: HashMap<String, String>, path: &str, body: &str, certificate: &str) -> Vec<u8> {
    let http = HttpRequest {
        method: "POST".to_owned(),
        path: path.to_owned(),
        body: body.to_owned(),
        headers,
        ..HttpRequest::default()
    };
    let source = Peer { certificate: certificate.to_owned(), ..Peer::default() };
    let request = PbRequest { http: Some(http), ..PbRequest::default() };
    let attributes = AttributeContext { source: Some(source), request: Some(request), ..AttributeContext::default() };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

fn asking(decision: &Value) -> Vec<u8> {
    request([("x-decision".to_owned(), decision.to_string())].into(), "/", "", "")
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    let field = prop_oneof![
        Just("allowed".to_owned()),
        Just("headers".to_owned()),
        Just("http_status".to_owned()),
        Just("body".to_owned()),
        Just("dynamic_metadata".to_owned()),
        Just("lease_s".to_owned()),
        Just("request_headers_to_remove".to_owned()),
        "[a-z:-]{0,10}",
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(field.clone(), inner, 0..6).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

#[test]
fn any_bytes_are_answered_and_never_allowed() {
    let world = world(Some("package envoy.authz\nallow := false\n"), |_| {});
    let whole = request([("content-type".to_owned(), "application/json".to_owned())].into(), "/a?b=c", "{}", "x");
    proptest!(|(noise in vec(any::<u8>(), 0..600), at in 0..whole.len(), bytes in vec(any::<u8>(), 0..6))| {
        prop_assert_eq!(code(&world.ask(noise)), 7);
        let mut changed = whole.clone();
        let end = (at + bytes.len()).min(changed.len());
        changed.splice(at..end, bytes);
        prop_assert_eq!(code(&world.ask(changed)), 7);
    });
}

#[test]
fn any_text_in_any_part_is_answered_and_never_allowed() {
    let world = world(Some("package envoy.authz\nallow := false\n"), |_| {});
    proptest!(|(path in ".{0,60}", kind in ".{0,40}", body in ".{0,60}", certificate in ".{0,60}")| {
        let headers = [("content-type".to_owned(), kind)].into();
        prop_assert_eq!(code(&world.ask(request(headers, &path, &body, &certificate))), 7);
    });
}

#[test]
fn any_decision_value_allows_only_where_it_says_so() {
    let world = world(Some(POLICY), |_| {});
    let mut allowed = 0;
    proptest!(|(value in any_json())| {
        let says_so = value == json!(true) || value.get("allowed") == Some(&json!(true));
        let code = code(&world.ask(asking(&value)));
        prop_assert!(code == 7 || (code == 0 && says_so), "{} for {}", code, value);
    });
    for value in [json!(true), json!({"allowed": true})] {
        allowed += i32::from(code(&world.ask(asking(&value))) == 0);
    }
    assert_eq!(allowed, 2, "the policy can allow at all");
}

#[test]
fn every_failure_denies() {
    let yes = asking(&json!(true));
    let usual = world(Some(POLICY), |_| {});
    assert_eq!(code(&usual.ask(yes.clone())), 0, "without a failure it is allowed");

    let none = world(None, |_| {});
    assert_eq!(code(&none.ask(yes.clone())), 7, "no policy");

    let bad = world(Some("package envoy.authz\nallow if {"), |_| {});
    assert_eq!(code(&bad.ask(yes.clone())), 7, "a policy that does not load");

    let slow = "package envoy.authz\nallow if { input.attributes; some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y < 0 }\n";
    let slow = world(Some(slow), |config| config.policy.limits.evaluation = config::Span::millis(20));
    assert_eq!(code(&slow.ask(yes.clone())), 7, "a policy that takes too long");

    let conflict =
        world(Some("package envoy.authz\nallow := true if input.attributes\nallow := false if input.version\n"), |_| {});
    assert_eq!(code(&conflict.ask(yes.clone())), 7, "a policy that fails");

    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-timeout", "1n".parse().unwrap());
    assert_eq!(code(&usual.ask_with(&metadata, yes.clone())), 7, "a deadline that is over");

    let held = usual.runtime.block_on(usual.permits.acquire(Some("other"), (Instant::now() + Duration::from_secs(9)).into()));
    metadata.insert("grpc-timeout", "50m".parse().unwrap());
    assert_eq!(code(&usual.ask_with(&metadata, yes.clone())), 7, "no permit in time");
    drop(held);
    assert_eq!(code(&usual.ask(yes.clone())), 0, "and afterwards all is well");

    let full = world(Some(POLICY), |config| {
        config.records.write = RecordWrite::Commit;
        config.records.sink = config::Sink::File(serde_json::from_value(json!({"path": "/dev/full"})).unwrap());
    });
    assert_eq!(code(&full.ask(yes)), 7, "a record that cannot be committed");

    let large = request([("x-decision".to_owned(), "true".to_owned())].into(), "/", &"x".repeat(5000), "");
    assert_eq!(code(&usual.ask(large)), 7, "a message that is too large");

    // A deadline beyond all time panics.
    let mut endless = world(Some(POLICY), |_| {});
    endless.door.decision = Duration::MAX;
    assert_eq!(code(&endless.ask(asking(&json!(true)))), 7, "a panic");
    endless.door.decision = Duration::from_secs(2);
    assert_eq!(code(&endless.ask(asking(&json!(true)))), 0, "which nothing outlives");
}

/// The caller is revoked while its call waits for a permit, when nothing stood against it as it came.
#[test]
fn who_is_revoked_while_the_call_waits_is_refused() {
    let world = world(Some(POLICY), |config| {
        config.state = config::State::Memory(config::MemoryState { file: None, volatile: true });
    });
    let id = "spiffe://example.org/waits";
    let leaf = Authority::new("authority").leaf(&[id], |params| params.not_after = rcgen::date_time_ymd(2100, 1, 1));
    let waits = request([("x-decision".to_owned(), "true".to_owned())].into(), "/", "", &leaf.text());
    assert_eq!(code(&world.ask(waits.clone())), 0, "without a revocation it is allowed");
    let deadline = (Instant::now() + Duration::from_secs(60)).into();
    let held = world.runtime.block_on(world.permits.acquire(Some("other"), deadline)).unwrap();
    let answered = std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask(waits));
        while world.permits.waiting() == 0 {
            std::thread::yield_now();
        }
        let asked_for = Asked {
            request_id: String::new(),
            selector: Selector::spiffe_id(id).unwrap(),
            issued_before: None,
            reason: "case 4711".to_owned(),
            author: "uid 1".to_owned(),
            life: DEFAULT_LIFE,
        };
        world.control.revocations.revoke(&world.control.journal, &asked_for, clock::now()).unwrap();
        drop(held);
        asked.join().unwrap()
    });
    assert_eq!(code(&answered), 7);
}

#[test]
fn compat_answers_an_error_where_the_plugin_does_and_observe_never_fails() {
    let compat = world(Some(POLICY), |config| config.policy.compat = Some(Compat::OpaEnvoy));
    assert!(matches!(compat.ask(asking(&json!(7))), encode::Reply::Error(status) if status.code() == Code::Unknown));
    assert_eq!(code(&compat.ask(asking(&json!(false)))), 7);
    let observe = world(Some(POLICY), |config| config.mode = Mode::Observe);
    proptest!(|(noise in vec(any::<u8>(), 0..200), value in any_json())| {
        prop_assert_eq!(code(&observe.ask(noise)), 0);
        prop_assert_eq!(code(&observe.ask(asking(&value))), 0);
    });
}

#[test]
fn grpc_timeouts_are_read_strictly() {
    for (text, time) in [
        ("200m", Some(Duration::from_millis(200))),
        ("1S", Some(Duration::from_secs(1))),
        ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
        ("5u", Some(Duration::from_micros(5))),
        ("", None),
        ("m", None),
        ("1", None),
        ("-1S", None),
        ("123456789m", None),
        ("1 S", None),
        ("1ü", None),
    ] {
        assert_eq!(grpc_timeout(text), time, "{text}");
    }
}
