//! Our own API over a real Unix socket: who is let be and what is recorded of it, decisions followed and explained.

mod inventory;
mod revocation;
mod session;

use std::{fs, path::Path, path::PathBuf};

use hyper_util::rt::TokioIo;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::{
    proto::v1::{
        ExplainRequest, ExplainResponse, FollowRequest, explain_service_client::ExplainServiceClient, follow_response::Event,
        tail_service_client::TailServiceClient,
    },
    *,
};
use crate::{
    clock::{self, Now},
    config::{self, Address, FileMode},
    listener::{self, Callers, Listener, Occupied},
    policy::Reload,
    record::{
        Body, Copies, DecisionRecord, Handle, KeptInput, PolicyRef, Record,
        tests::{DEADLINE, decision, until},
    },
    verdict::Mode,
};

const DECIDES: &str = "package envoy.authz\n\ndefault allow := false\n\nallow if input.peer == \"web\"\n";
const OPEN: &str =
    "package guard.control\n\nimport rego.v1\n\ndefault allow := false\n\nallow if input.caller.kind == \"unix\"\n";

/// An API that serves, and what it works on.
struct Api {
    folder: TempDir,
    recorder: Recorder,
    policies: Arc<PolicyStore>,
    sessions: Arc<Sessions>,
    control: ControlState,
    inventory: Arc<Inventory>,
    config: config::Policy,
    stop: CancellationToken,
    _records: Handle,
}

impl Api {
    /// With one policy for calls, and one for this API.
    fn start(control: &str, strangers_only: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        let metrics = Arc::new(Metrics::new(&SdkMeterProvider::default().meter("test")));
        let (policies, recent) = (Arc::new(PolicyStore::remembering()), Arc::new(Recent::default()));
        let sink = json!({"path": folder.path().join("records.jsonl")});
        let file: FileSink = serde_json::from_value(sink).unwrap();
        let records = config::Records { sink: config::Sink::File(file.clone()), ..config::Records::default() };
        let (recorder, handle) = Recorder::start(
            &records,
            "i",
            Arc::clone(&metrics),
            &policies,
            Copies { recent: Some(Arc::clone(&recent)), ..Copies::default() },
        )
        .unwrap();
        let config = config::Policy::at(folder.path().join("policy"));
        let sessions = Arc::new(Sessions::open(&config::Sessions::default(), clock::now()).unwrap());
        let kept = config::MemoryState { file: Some(folder.path().join("control.redb")), volatile: false };
        let state = ControlState::open(&config::State::Memory(kept), None, clock::now()).unwrap();
        let inventory = Arc::new(Inventory::open(&config::Inventory::default()).unwrap());
        let api = Self {
            recorder,
            policies,
            sessions,
            control: state,
            inventory,
            config,
            stop: CancellationToken::new(),
            _records: handle,
            folder,
        };
        if !control.is_empty() {
            api.put(DECIDES, control);
        }
        let (told, strangers) = mpsc::channel(1);
        let uid = listener::own_uid().unwrap() + u32::from(strangers_only);
        let mode = FileMode::default();
        let listener = Listener::bind(&Address::Unix(api.socket()), mode, Occupied::Refuse).unwrap();
        let connections = listener.accept(Callers::Operators(vec![uid], told), Arc::clone(&metrics), api.stop.clone());
        let (policies, recorder) = (Arc::clone(&api.policies), api.recorder.clone());
        let sessions = Arc::clone(&api.sessions);
        let streams = Arc::new(Streams::new(&config::Limits::default()));
        let instance = "test-instance".to_owned();
        let parts = Parts {
            policies,
            recorder,
            recent,
            file: Some(file),
            sessions,
            control: api.control.clone(),
            people: None,
            end_with_task: true,
            streams,
            inventory: Arc::clone(&api.inventory),
            revoked: Box::new(|_, _| None),
            cut: Arc::new(|_| 0),
            instance,
        };
        let alarms = || vec![("policy", "refused".to_owned())];
        let health = move || Condition { mode: Mode::Enforce, obstacle: Some("draining"), alarms: alarms() };
        tokio::spawn(serve(parts, Box::new(health), metrics, connections, strangers, api.stop.clone()));
        api
    }

    /// Puts a policy in force; says its digest.
    fn put(&self, decides: &str, control: &str) -> String {
        fs::write(self.folder.path().join("policy/authz.rego"), decides).unwrap();
        fs::write(self.folder.path().join("policy/control.rego"), control).unwrap();
        match self.policies.reload(&self.config, clock::now()) {
            Reload::Loaded { digest, .. } => digest,
            other => panic!("{other:?}"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn channel(&self) -> Channel {
        channel(&self.socket())
    }

    /// A decision was made; says its id.
    fn decide(&self, change: impl FnOnce(&mut DecisionRecord)) -> Uuid {
        let mut body = decision(json!({}));
        change(&mut body);
        let id = Uuid::now_v7();
        self.recorder.offer(Record { id, at: Now::from_seconds(1_800_000_000), body: Body::Decision(Arc::new(body)) });
        id
    }

    /// A decision by the policy in force, with an input as the record keeps it.
    fn decide_by(&self, input: &Value, outcome: crate::verdict::Decision) -> Uuid {
        let policy = self.policies.current().unwrap();
        self.decide(|record| {
            record.input = KeptInput::Json(serde_json::to_vec(input).unwrap());
            record.policy = Some(PolicyRef::new(&policy, "envoy/authz/allow".into()));
            (record.rule, record.decision) = (None, outcome);
        })
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("records.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).map(|line| line["body"].clone()).collect()
    }

    /// The records of this API's calls, once there are so many.
    async fn calls(&self, count: usize) -> Vec<Value> {
        until("records of calls", || self.records("control").len() >= count).await;
        self.records("control")
    }

    async fn explain(&self, id: Uuid) -> Result<ExplainResponse, tonic::Status> {
        until("the record", || {
            let text = fs::read_to_string(self.folder.path().join("records.jsonl")).unwrap_or_default();
            text.contains(&id.to_string())
        })
        .await;
        let answer = ExplainServiceClient::new(self.channel()).explain(ExplainRequest { id: id.to_string() }).await;
        answer.map(tonic::Response::into_inner)
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://doorward").connect_with_connector_lazy(connect)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_yes_of_the_policy_lets_a_call_be() {
    let uid = listener::own_uid().unwrap();
    let rule = |body: &str| format!("package guard.control\n\nimport rego.v1\n\n{body}\n");
    let named = rule(&format!(
        "allow if {{ input.method == \"doorward.v1.TailService/Follow\"; input.caller.uid == {uid}; input.request.action == \"a*\"; \
         input.caller.pid > 0; input.now.ns > 0 }}"
    ));
    for (policy, let_be, why) in [
        (String::new(), false, "no policy is in force"),
        (rule("other := true"), false, "undefined"),
        (rule("default allow := false"), false, "says no"),
        (rule("allow := \"yes\""), false, "says no"),
        (rule("allow if input.request.action == \"other\""), false, "undefined"),
        (rule("allow := true\nallow := false if input.method"), false, "the policy failed"),
        (named, true, ""),
    ] {
        let api = Api::start(&policy, false);
        let request = FollowRequest { action: "a*".to_owned(), ..FollowRequest::default() };
        let answer = TailServiceClient::new(api.channel()).follow(request).await;
        match &answer {
            Ok(_) => assert!(let_be, "{policy}"),
            Err(status) => {
                assert!(!let_be && status.code() == Code::PermissionDenied, "{policy}: {status:?}");
                assert!(status.message().contains(why), "{policy}: {status:?}");
            }
        }
        let calls = api.calls(1).await;
        let (decision, outcome) = if let_be { ("allow", "OK") } else { ("deny", "PERMISSION_DENIED") };
        assert_eq!((&calls[0]["decision"], &calls[0]["outcome"]), (&json!(decision), &json!(outcome)), "{policy}");
        assert_eq!((&calls[0]["caller"]["uid"], &calls[0]["request"]), (&json!(uid), &json!({"action": "a*"})));
        assert_eq!(calls[0]["method"], "doorward.v1.TailService/Follow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_gets_as_far_as_a_service_is_recorded_too() {
    let api = Api::start(OPEN, false);
    let large = FollowRequest { principal: "x".repeat(MESSAGE + 1), ..FollowRequest::default() };
    let answer = TailServiceClient::new(api.channel()).follow(large).await;
    assert_eq!(answer.unwrap_err().code(), Code::OutOfRange);
    let mut client = tonic::client::Grpc::new(api.channel());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/doorward.v1.Nonsense/Do");
    let codec: tonic_prost::ProstCodec<_, FollowRequest> = tonic_prost::ProstCodec::default();
    let answer = client.unary(Request::new(FollowRequest::default()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    let calls = api.calls(2).await;
    let told: Vec<_> = calls.iter().map(|call| (call["decision"].as_str(), call["outcome"].as_str())).collect();
    assert_eq!(told, [(Some("deny"), Some("OUT_OF_RANGE")), (Some("deny"), Some("UNIMPLEMENTED"))]);
    assert_eq!(calls[1]["method"], "doorward.v1.Nonsense/Do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_turned_away_and_told_of() {
    let api = Api::start(OPEN, true);
    let answer = TailServiceClient::new(api.channel()).follow(FollowRequest::default()).await;
    assert!(answer.is_err());
    let calls = api.calls(1).await;
    assert_eq!((&calls[0]["outcome"], &calls[0]["decision"]), (&json!("UNAUTHENTICATED"), &json!("deny")));
    assert_eq!((calls[0].get("method"), &calls[0]["caller"]["uid"]), (None, &json!(listener::own_uid().unwrap())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_the_decisions_that_it_asks_for() {
    let api = Api::start(OPEN, false);
    let mut client = TailServiceClient::new(api.channel());
    let mut all = client.follow(FollowRequest { records: true, ..FollowRequest::default() }).await.unwrap().into_inner();
    let wanted = FollowRequest {
        principal: "spiffe://example.org/w*".to_owned(),
        decision: "allow".to_owned(),
        ..FollowRequest::default()
    };
    let mut some = client.follow(wanted).await.unwrap().into_inner();
    let refused = client.follow(FollowRequest { decision: "maybe".to_owned(), ..FollowRequest::default() }).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let denied = api.decide(|_| {});
    let other = api.decide(|record| {
        (record.principal, record.decision) = (Some("spiffe://example.org/other".into()), crate::verdict::Decision::Allow);
    });
    let allowed = api.decide(|record| record.decision = crate::verdict::Decision::Allow);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let Some(Event::Decided(decided)) = all.message().await.unwrap().unwrap().event else { panic!("not decided") };
        let record: Value = serde_json::from_str(&decided.record).unwrap();
        let decision = decided.decision.unwrap();
        assert_eq!(record["id"].as_str(), Some(decision.id.as_str()));
        seen.push(decision.id);
    }
    assert_eq!(seen, [denied, other, allowed].map(|id| id.to_string()));
    let Some(Event::Decided(decided)) = some.message().await.unwrap().unwrap().event else { panic!("not decided") };
    let decision = decided.decision.unwrap();
    assert_eq!((decision.id, decision.decision.as_str(), decided.record), (allowed.to_string(), "allow", String::new()));
    assert_eq!((decision.reason.as_str(), decision.rule.as_str(), decision.enforced), ("policy", "write-needs-admin", true));
    assert_eq!(decision.at.map(|at| at.seconds), Some(1_800_000_000));
    api.stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, all.message()).await.expect("in time");
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_is_told_what_it_missed() {
    let api = Api::start(OPEN, false);
    let mut stream = TailServiceClient::new(api.channel()).follow(FollowRequest::default()).await.unwrap().into_inner();
    const DECISIONS: u64 = 20_000;
    for number in 0..DECISIONS {
        // Slow enough for the writer, too fast for who does not read.
        if number % 1000 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        api.decide(|record| record.policy_reason = Some("r".repeat(500)));
    }
    until("all to be written", || api.records("decision").len() as u64 == DECISIONS).await;
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < DECISIONS {
        let event = tokio::time::timeout(DEADLINE, stream.message()).await.expect("in time").unwrap().unwrap().event;
        match event.unwrap() {
            Event::Decided(_) => seen += 1,
            Event::Missed(count) => missed += count,
        }
    }
    assert!(seen > 0 && missed > 0 && seen + missed == DECISIONS, "{seen} seen, {missed} missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained_by_the_policy_that_made_it() {
    use crate::verdict::Decision::{Allow, Deny};
    let api = Api::start(OPEN, false);
    let id = api.decide_by(&json!({"peer": "web", "now": {"ns": 1}}), Allow);
    api.put("package envoy.authz\n\ndefault allow := false\n", OPEN);
    let explained = api.explain(id).await.unwrap();
    assert_eq!((explained.source.as_str(), explained.notes.as_slice()), ("memory", &[][..]));
    assert_eq!(explained.recorded.as_ref().map(|recorded| recorded.id.clone()), Some(id.to_string()));
    let evaluation = explained.evaluation.unwrap();
    assert!(evaluation.same && evaluation.decision == "allow" && evaluation.result == "true", "{evaluation:?}");
    let lines: Vec<_> = evaluation.lines.iter().map(|line| (line.line, line.text.as_str())).collect();
    assert!(lines.contains(&(5, "allow if input.peer == \"web\"")), "{lines:?}");
    let facts: Vec<_> = evaluation.facts.iter().map(|fact| (fact.path.as_str(), fact.value.as_str())).collect();
    assert_eq!(facts, [("peer", "\"web\"")]);

    // Eight more sets, and the first is gone.
    for number in 0..MAX {
        api.put(&format!("{DECIDES}# {number}\n"), OPEN);
    }
    let explained = api.explain(id).await.unwrap();
    assert!(explained.evaluation.is_none() && explained.notes[0].contains("is gone"), "{:?}", explained.notes);

    let masked = format!("hmac-sha256:{}", "0".repeat(32));
    let hidden = api.decide_by(&json!({"peer": masked}), Allow);
    let explained = api.explain(hidden).await.unwrap();
    assert!(!explained.evaluation.unwrap().same);
    let [what, changed] = explained.notes.as_slice() else { panic!("{:?}", explained.notes) };
    assert!(what.contains(": peer") && changed.contains("masked or left out changed the answer"), "{what}; {changed}");

    let beside = api.decide_by(&json!({"peer": "web"}), Deny);
    let explained = api.explain(beside).await.unwrap();
    assert!(explained.notes[0].contains("came out otherwise"), "{:?}", explained.notes);

    let unasked = api.decide(|record| record.policy = None);
    let explained = api.explain(unasked).await.unwrap();
    assert!(explained.evaluation.is_none() && explained.notes[0].contains("no policy was asked"), "{:?}", explained.notes);

    let client = &mut ExplainServiceClient::new(api.channel());
    for (id, code) in [(Uuid::now_v7().to_string(), Code::NotFound), ("nonsense".to_owned(), Code::InvalidArgument)] {
        assert_eq!(client.explain(ExplainRequest { id }).await.unwrap_err().code(), code);
    }
    let calls = api.calls(7).await;
    let last = calls.last().unwrap();
    assert_eq!((&last["decision"], &last["outcome"]), (&json!("allow"), &json!("INVALID_ARGUMENT")));
}

/// As many sets as are kept.
const MAX: usize = crate::policy::MAX_SETS;
