//! Records from hand-over to line: what a line holds, what happens when the queue or the disk is full.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Instant,
};

use opentelemetry::{SpanId, TraceFlags, TraceId, metrics::MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use serde_json::{Value, json};

use super::{encode::MAX_LINE, *};

pub const DEADLINE: Duration = Duration::from_secs(20);

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&SdkMeterProvider::default().meter("test")))
}

fn config(path: &Path, queue: usize) -> config::Records {
    let sink = format!("{{\"path\": {path:?}}}");
    config::Records {
        sink: config::Sink::File(serde_json::from_str(&sink).expect("a sink")),
        queue,
        ..config::Records::default()
    }
}

fn start(path: &Path, queue: usize) -> (Recorder, Handle) {
    Recorder::start(&config(path, queue), "test-1", metrics(), &Arc::default(), Copies::default()).expect("started")
}

fn encoder() -> encode::Encoder {
    encode::Encoder { instance: "test-1".to_owned(), mask: Arc::new(Mask::new(&config::Mask::default()).expect("a mask")) }
}

#[expect(clippy::needless_pass_by_value, reason = "tests write the document in place")]
pub fn decision(input: Value) -> DecisionRecord {
    DecisionRecord {
        decision: Decision::Deny,
        enforced: true,
        reason: Reason::Policy,
        rule: Some("write-needs-admin".to_owned()),
        policy_reason: Some("only admins write".to_owned()),
        detail: None,
        result: Some(json!({"allowed": false, "headers": {"set-cookie": "sid=1"}})),
        drawn: Drawn::new(),
        mode: Mode::Enforce,
        protocol: Protocol::Http,
        listener: "unix:///run/a.sock".into(),
        peer: Some(PeerRecord {
            spiffe_id: "spiffe://example.org/web".into(),
            evidence: Evidence::Sidecar,
            sha256: Some("ab12".into()),
        }),
        principal: Some("spiffe://example.org/web".into()),
        action: None,
        lifetimes: Lifetimes::default(),
        input: KeptInput::Json(serde_json::to_vec(&input).expect("JSON")),
        policy: Some(PolicyRef {
            path: "envoy/authz/allow".into(),
            revision: Some("r7".into()),
            bundles: Arc::default(),
            digest: "cd34".into(),
        }),
        lease: Some(Duration::from_secs(300)),
        latency: Duration::from_micros(123),
        request_id: Some("req-1".to_owned()),
        epoch: None,
        revocation: None,
        grant: None,
        trace: Some(TraceIds { trace: TraceId::from(1), span: SpanId::from(2), flags: TraceFlags::SAMPLED }),
    }
}

fn record(input: Value) -> Record {
    Record { id: Uuid::from_u128(7), at: Now { ns: 1_700_000_000_000_000_001 }, body: Body::Decision(Arc::new(decision(input))) }
}

fn small(path: &str) -> Record {
    record(json!({"attributes": {"request": {"http": {"path": path}}}}))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the file is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("records.jsonl");
    (folder, path)
}

#[test]
fn a_line_holds_the_whole_decision() {
    let mut line = Vec::new();
    let input = json!({"attributes": {"request": {"http": {
        "method": "POST", "path": "/orders?token=t", "headers": {"authorization": "Bearer x"},
    }}}, "parsed_path": ["orders"]});
    assert!(encoder().line(&record(input), 41, &mut line));
    let text = String::from_utf8(line).expect("UTF-8");
    insta::assert_snapshot!(redacted(&text).trim_end());
}

/// Random digests become a word, so that the rest of the line can be compared byte by byte.
fn redacted(text: &str) -> String {
    let mut parts = text.split("hmac-sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + "[digest]" + part.get(32..).unwrap_or_default())
}

#[test]
fn a_long_record_loses_parts_of_its_input_in_order() {
    let big = "x".repeat(MAX_LINE);
    let http = |headers: &str, body: &Value, path: &str| {
        json!({
            "attributes": {"request": {"http": {"headers": {"a": headers}, "headerMap": {"headers": []}, "path": path}}},
            "parsed_body": body,
        })
    };
    for (input, truncated) in [
        (http("", &json!({"a": big}), "/"), json!(["parsed_body"])),
        (
            http(&big, &json!(null), "/"),
            json!(["parsed_body", "attributes.request.http.headers", "attributes.request.http.headerMap"]),
        ),
        (http("", &json!(null), &big), json!(["input"])),
        (json!({"attributes": {"request": {"http": {"rawBody": "AA==", "x": big}}}, "parsed_body": "b"}), json!(["input"])),
    ] {
        let mut line = Vec::new();
        assert!(encoder().line(&record(input), 1, &mut line));
        assert!(line.len() <= MAX_LINE, "{}", line.len());
        let value: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["body"]["input_truncated"], truncated);
        assert_eq!(value["body"]["input"].is_object(), truncated != json!(["input"]));
        assert_eq!(value["body"]["reason"], "policy");
    }
}

#[test]
fn the_worst_texts_still_fit_in_a_line() {
    let worst = || Some("\u{1}".repeat(100_000));
    let mut body = decision(json!({}));
    body.result = Some(json!({"body": worst()}));
    (body.rule, body.policy_reason, body.detail) = (worst(), worst(), worst());
    (body.principal, body.request_id) = (worst().map(Into::into), worst());
    let mut line = Vec::new();
    let record = Record { body: Body::Decision(Arc::new(body)), ..small("/") };
    assert!(encoder().line(&record, 1, &mut line));
    assert!(line.len() <= MAX_LINE, "{}", line.len());
    let value: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(value["body"]["input_truncated"], json!(["input", "result"]));
}

#[tokio::test]
async fn records_are_numbered_without_gaps_and_written_at_shutdown() {
    let (_folder, path) = folder();
    let (recorder, handle) = start(&path, 1000);
    for number in 0..100 {
        recorder.offer(small(&format!("/{number}")));
    }
    let policy = PolicyRecord { outcome: PolicyOutcome::Refused, policy: None, error: Some("`x` is unsafe".to_owned()) };
    recorder.offer(Record { body: Body::Policy(Box::new(policy)), ..small("/") });
    handle.shutdown(DEADLINE).await.expect("flushed");
    recorder.offer(small("/late"));
    assert!(matches!(recorder.commit(small("/late")).await, Err(RecordError::Stopped)));
    let lines = lines(&path);
    let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64()).collect();
    assert_eq!(numbers, (0..101).map(Some).collect::<Vec<_>>());
    assert_eq!(lines[99]["body"]["input"]["attributes"]["request"]["http"]["path"], "/99");
    assert_eq!(lines[100]["body"], json!({"outcome": "refused", "error": "`x` is unsafe"}));
}

#[tokio::test]
async fn what_a_full_queue_drops_is_told_in_a_gap() {
    let (_folder, path) = folder();
    // A device that is always full holds the writer, so that the queue fills.
    symlink("/dev/full", &path).expect("linked");
    let (recorder, handle) = start(&path, 10);
    recorder.offer(small("/first"));
    until("the writer to take the first", || recorder.queue.len() == 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..25 {
        recorder.offer(small("/more"));
    }
    assert_eq!(recorder.queue.len(), 10);
    fs::remove_file(&path).expect("removed");
    until("the gap to be written", || path.exists() && lines(&path).iter().any(|line| line["kind"] == "gap")).await;
    recorder.offer(small("/after"));
    handle.shutdown(DEADLINE).await.expect("flushed");
    let lines = lines(&path);
    // There are two where the writer looked while the queue was filling.
    let gaps: Vec<_> = lines.iter().filter(|line| line["kind"] == "gap").collect();
    let sum = |name: &str| gaps.iter().filter_map(|gap| gap["body"][name].as_u64()).sum::<u64>();
    assert_eq!((sum("count"), sum("dropped")), (15, 15));
    assert!(gaps.iter().all(|gap| gap["body"]["since"] == "2023-11-14T22:13:20.000000001Z"));
    assert_eq!(lines.iter().filter(|line| line["kind"] == "decision").count(), 12);
    assert!(lines.iter().enumerate().all(|(at, line)| line["seq"] == at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_on_the_disk_when_it_returns() {
    let (_folder, path) = folder();
    let (recorder, handle) = start(&path, 1000);
    let commits: Vec<_> = (0..64)
        .map(|_| {
            let recorder = recorder.clone();
            tokio::spawn(async move { recorder.commit(small("/")).await })
        })
        .collect();
    for commit in commits {
        commit.await.expect("no panic").expect("committed");
    }
    assert_eq!(lines(&path).len(), 64);
    handle.shutdown(DEADLINE).await.expect("flushed");
}

#[tokio::test]
async fn a_commit_to_a_full_disk_fails_at_once_and_is_told_later() {
    let (_folder, path) = folder();
    symlink("/dev/full", &path).expect("linked");
    let (recorder, handle) = start(&path, 1000);
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(matches!(recorder.commit(small("/")).await, Err(RecordError::Write)));
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "took {:?}", begun.elapsed());
    fs::remove_file(&path).expect("removed");
    until("the disk to be tried again", || path.exists() && !lines(&path).is_empty()).await;
    recorder.commit(small("/")).await.expect("committed");
    let lines = lines(&path);
    assert_eq!(lines[0]["body"], json!({"count": 3, "dropped": 0, "failed": 3, "since": "2023-11-14T22:13:20.000000001Z"}));
    assert_eq!((lines.len(), &lines[1]["kind"], &lines[1]["seq"]), (2, &json!("decision"), &json!(1)));
    handle.shutdown(DEADLINE).await.expect("flushed");
}

#[tokio::test]
async fn a_full_disk_at_the_end_is_reported() {
    let (recorder, handle) = start(Path::new("/dev/full"), 1000);
    recorder.offer(small("/"));
    assert!(matches!(handle.shutdown(DEADLINE).await, Err(RecordError::Unwritten { lost: 1 })));
}

#[tokio::test]
async fn who_stops_waiting_leaves_no_record() {
    let (_folder, path) = folder();
    let queue = Queue::new(10);
    let metrics = metrics();
    let (reply, waiter) = oneshot::channel();
    queue.commit(small("/withdrawn"), reply, &metrics).expect("queued");
    drop(waiter);
    queue.offer(small("/kept"), &metrics);
    queue.close();
    let sink = Sink::open(&config(&path, 10).sink).expect("opened");
    let mask = Mask::new(&config::Mask::default()).expect("a mask");
    let (queue, mask) = (Arc::new(queue), Arc::new(mask));
    let parts = writer::Parts { queue, metrics, sink, mask, instance: "i".to_owned(), outbox: None, copies: Copies::default() };
    assert_eq!(Writer::new(parts).run(), 0);
    let text = fs::read_to_string(&path).expect("there");
    assert!(text.contains("/kept") && !text.contains("/withdrawn"));
    let gap = lines(&path).pop().expect("a gap");
    assert_eq!((&gap["kind"], &gap["body"]["failed"]), (&json!("gap"), &json!(1)), "the decision is counted as lost");
}

#[test]
fn what_waits_is_bounded_in_bytes_too() {
    let (queue, metrics) = (Queue::new(1000), metrics());
    let large = || {
        let body = DecisionRecord { input: KeptInput::Json(vec![b' '; writer::MAX_WAITING / 4]), ..decision(json!({})) };
        Record { body: Body::Decision(Arc::new(body)), ..small("/") }
    };
    (0..10).for_each(|_| queue.offer(large(), &metrics));
    assert_eq!(queue.len(), 4);
    let (reply, _waiter) = oneshot::channel();
    assert!(matches!(queue.commit(large(), reply, &metrics), Err(RecordError::Full)));
}

#[tokio::test]
async fn only_a_file_can_promise_a_commit() {
    let off = config::Records { sink: config::Sink::Off, ..config::Records::default() };
    let (recorder, handle) = Recorder::start(&off, "i", metrics(), &Arc::default(), Copies::default()).expect("started");
    recorder.offer(small("/"));
    assert!(matches!(recorder.commit(small("/")).await, Err(RecordError::NotDurable)));
    handle.shutdown(DEADLINE).await.expect("flushed");
    let commit = config::Records { write: config::RecordWrite::Commit, ..off };
    assert!(matches!(Recorder::start(&commit, "i", metrics(), &Arc::default(), Copies::default()), Err(RecordError::NotDurable)));
    let missing = config(Path::new("/nowhere/at/all"), 1);
    assert!(matches!(Recorder::start(&missing, "i", metrics(), &Arc::default(), Copies::default()), Err(RecordError::Open(_))));
}

#[test]
fn a_mask_that_fails_drops_the_input_and_never_the_record() {
    let mut body = decision(json!({}));
    body.input = KeptInput::made_by(|| panic!("a bug in the mask"));
    let record = Record { body: Body::Decision(Arc::new(body)), ..small("/") };
    let mut line = Vec::new();
    assert!(encoder().line(&record, 1, &mut line));
    let value: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!((&value["body"]["input"], &value["body"]["input_error"]), (&Value::Null, &json!("mask_failed")));
    assert_eq!(value["body"]["reason"], "policy");
}

#[tokio::test]
async fn the_latest_decisions_are_kept_where_no_sink_is_too() {
    let off = config::Records { sink: config::Sink::Off, ..config::Records::default() };
    let recent = Arc::new(Recent::default());
    let mut lines = recent.follow();
    let (recorder, handle) =
        Recorder::start(&off, "i", metrics(), &Arc::default(), Copies { recent: Some(Arc::clone(&recent)), ..Copies::default() })
            .expect("started");
    let policy = PolicyRecord { outcome: PolicyOutcome::Loaded, policy: None, error: None };
    recorder.offer(Record { body: Body::Policy(Box::new(policy)), ..small("/") });
    recorder.offer(small("/kept"));
    handle.shutdown(DEADLINE).await.expect("flushed");
    let line: Value = serde_json::from_slice(&recent.find(Uuid::from_u128(7)).expect("kept")).expect("JSON");
    assert_eq!((&line["seq"], &line["body"]["input"]["attributes"]["request"]["http"]["path"]), (&json!(1), &json!("/kept")));
    assert_eq!(lines.try_recv().map(|followed| serde_json::from_slice::<Value>(&followed).expect("JSON")), Ok(line));
}

#[test]
fn what_was_asked_of_our_own_api_weighs_what_it_holds_while_it_waits() {
    let weight = |request: Value| {
        let body = ControlRecord {
            method: None,
            caller: Caller { from: Origin::Unknown {}, person: None },
            request: Some(request),
            decision: Decision::Deny,
            outcome: "OK",
            detail: None,
        };
        Record { body: Body::Control(Box::new(body)), ..small("/") }.weight()
    };
    assert!(weight(json!({"reason": "x".repeat(5000)})) > 5000);
    assert!(weight(json!({"actions": vec!["x"; 1000]})) > 1000 * size_of::<Value>());
}

#[test]
fn a_call_of_our_own_api_is_masked_and_cut() {
    let control = |request: Value| {
        let body = ControlRecord {
            method: Some("doorward.v1.SessionService/End".to_owned()),
            caller: Caller { from: Origin::Process { uid: 7, gid: 8, pid: None }, person: None },
            request: Some(request),
            decision: Decision::Deny,
            outcome: "PERMISSION_DENIED",
            detail: None,
        };
        let mut line = Vec::new();
        assert!(encoder().line(&Record { body: Body::Control(Box::new(body)), ..small("/") }, 1, &mut line));
        assert!(line.len() <= MAX_LINE);
        let line: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!((&line["kind"], &line["body"]["caller"]), (&json!("control"), &json!({"uid": 7, "gid": 8})));
        line["body"].clone()
    };
    let body = control(json!({"id": "s1", "password": "hunter2"}));
    assert_eq!(body["request"]["id"], "s1");
    assert!(body["request"]["password"].as_str().expect("text").starts_with("hmac-sha256:"), "{body}");
    let body = control(json!({"id": "x".repeat(MAX_LINE)}));
    assert_eq!((&body["request"], &body["request_left_out"]), (&Value::Null, &json!(true)));
}
