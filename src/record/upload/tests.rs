//! From a record to what is sent: masked, withheld, bounded, and where it is lost, told of.

use std::{fs, io::Read as _, path::Path};

use flate2::read::GzDecoder;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use serde_json::{Value, json};

use super::{
    super::{Body, Handle, KeptInput, PolicyRef, Record, Recorder, tests::decision},
    *,
};
use crate::{clock, record::Copies, verdict::Reason};

const SECOND: Duration = Duration::from_secs(1);

/// Records that are uploaded, masked by `policy`.
fn start(policy: Option<&str>, upload: &str) -> (Recorder, Handle, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let policies = Arc::new(PolicyStore::default());
    if let Some(policy) = policy {
        fs::write(folder.path().join("log.rego"), format!("package system.log\n{policy}")).unwrap();
        fs::write(folder.path().join("p.rego"), "package envoy.authz\nallow := true\n").unwrap();
        policies.reload(&config::Policy::at(folder.path()), clock::now());
        assert!(policies.current().is_some(), "{:?}", policies.status());
    }
    let upload: config::Upload = serde_saphyr::from_str(&format!("url: https://logs.example\n{upload}")).unwrap();
    let sink = serde_saphyr::from_str(&format!("file: {{path: {:?}}}", folder.path().join("r.jsonl"))).unwrap();
    let records = config::Records { sink, upload: Some(upload), ..config::Records::default() };
    let metrics = Arc::new(Metrics::new(&SdkMeterProvider::default().meter("test")));
    let (recorder, handle) = Recorder::start(&records, "i-1", metrics, &policies, Copies::default()).unwrap();
    (recorder, handle, folder)
}

fn record(id: u128, input: Value) -> Record {
    let policy = PolicyRef {
        path: "/envoy/authz/allow".into(),
        revision: Some("r7".into()),
        bundles: Arc::new([("main".to_owned(), "r7".to_owned())].into()),
        digest: "cd34".into(),
    };
    let body = DecisionRecord { policy: Some(policy), ..decision(input) };
    Record { id: Uuid::from_u128(id), at: Now { ns: 1_700_000_000_000_000_001 }, body: Body::Decision(Arc::new(body)) }
}

fn input() -> Value {
    json!({
        "attributes": {
            "source": {"address": {"socketAddress": {"address": "10.0.0.7", "portValue": 41234}}},
            "request": {"http": {"path": "/orders", "headers": {"x-user": "ann"}}},
        },
        "parsed_body": {"card": "4111"},
    })
}

/// Everything that there is to send, as soon as an event has been made of each of so many records.
async fn events(handle: &Handle, count: usize) -> Vec<Value> {
    let outbox = handle.outbox().unwrap();
    let mut events = Vec::new();
    for _ in 0..2000 {
        while let Some(chunk) = outbox.chunk() {
            let mut text = String::new();
            GzDecoder::new(&*chunk.body()).read_to_string(&mut text).unwrap();
            events.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
            outbox.sent(&chunk);
        }
        if events.len() >= count {
            return events;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {count} events, got {events:?}");
}

fn gaps(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("r.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "gap").map(|line| line["body"].clone()).collect()
}

#[tokio::test]
async fn a_decision_becomes_an_event_in_opas_form() {
    let (recorder, handle, _folder) = start(Some(""), "labels: {app: shop, version: mine}\n");
    recorder.offer(record(7, input()));
    let event = events(&handle, 1).await.remove(0);
    let expected = json!({
        "labels": {"id": "i-1", "version": env!("CARGO_PKG_VERSION"), "app": "shop"},
        "decision_id": "00000000-0000-0000-0000-000000000007",
        "trace_id": "00000000000000000000000000000001",
        "span_id": "0000000000000002",
        "bundles": {"main": {"revision": "r7"}},
        "path": "envoy/authz/allow",
        "input": input(),
        "result": {"allowed": false, "headers": {"set-cookie": event["result"]["headers"]["set-cookie"]}},
        "requested_by": "10.0.0.7:41234",
        "timestamp": "2023-11-14T22:13:20.000000001Z",
        "metrics": {"timer_server_handler_ns": 123_000},
        "custom": {"doorward": {"decision": "deny", "enforced": true, "reason": "policy"}},
    });
    assert_eq!(event, expected);
    assert!(event["result"]["headers"]["set-cookie"].as_str().unwrap().starts_with("hmac-sha256:"), "our own mask comes first");
}

#[tokio::test]
async fn the_policy_masks_and_withholds() {
    let policy = r#"
        mask contains "/input/parsed_body/card" if input.result.allowed == false
        mask contains {"op": "upsert", "path": "/input/attributes/request/http/headers/x-user", "value": "*"}
        mask contains "/input/attributes/source"
        drop if input.input.attributes.request.http.path == "/health"
    "#;
    let (recorder, handle, _folder) = start(Some(policy), "");
    recorder.offer(record(1, json!({"attributes": {"request": {"http": {"path": "/health"}}}})));
    recorder.offer(record(2, input()));
    let event = events(&handle, 1).await.remove(0);
    assert_eq!(event["decision_id"], Uuid::from_u128(2).to_string());
    assert_eq!(
        event["input"],
        json!({
            "attributes": {"request": {"http": {"path": "/orders", "headers": {"x-user": "*"}}}}, "parsed_body": {},
        })
    );
    assert_eq!(event["masked"], json!(["/input/attributes/request/http/headers/x-user"]));
    assert_eq!(event["erased"], json!(["/input/attributes/source", "/input/parsed_body/card"]));
    assert_eq!(event["requested_by"], Value::Null, "hidden with the address that it comes from");
}

#[tokio::test]
async fn a_mask_that_fails_takes_the_input_and_never_the_event() {
    let no_rule = "mask contains 7";
    let endless = "mask contains \"/input/x\" if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a == b]) == 0";
    let failing_drop =
        "drop := 1 if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a == b]) == 0";
    for (policy, upload) in
        [(Some(no_rule), ""), (Some(endless), ""), (Some(failing_drop), ""), (Some(""), "mask: log/mask\n"), (None, "")]
    {
        let (recorder, handle, _folder) = start(policy, upload);
        recorder.offer(record(1, input()));
        let event = events(&handle, 1).await.remove(0);
        assert_eq!((&event["input"], &event["result"], &event["requested_by"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!(event["erased"], json!(["/input", "/result"]), "{policy:?}");
        assert_eq!(event["custom"]["doorward"]["mask_failed"], true);
        assert_eq!((&event["path"], &event["custom"]["doorward"]["decision"]), (&json!("envoy/authz/allow"), &json!("deny")));
    }
}

#[tokio::test]
async fn a_decision_that_failed_has_an_error_and_a_mask_that_panicked_no_input() {
    let (recorder, handle, _folder) = start(Some(""), "");
    let body = DecisionRecord {
        reason: Reason::PolicyTimeout,
        detail: Some("no answer within 50ms".to_owned()),
        input: KeptInput::MaskFailed,
        ..decision(json!({}))
    };
    recorder.offer(Record { body: Body::Decision(Arc::new(body)), ..record(1, json!({})) });
    let event = events(&handle, 1).await.remove(0);
    assert_eq!(event["error"], json!({"code": "policy_timeout", "message": "no answer within 50ms"}));
    assert_eq!((&event["result"], &event["erased"]), (&Value::Null, &json!(["/input"])));
    assert_eq!((&event["revision"], &event["bundles"]), (&json!("r7"), &Value::Null));
}

#[tokio::test]
async fn the_oldest_go_when_too_much_waits_and_a_gap_tells_how_many() {
    let (recorder, handle, folder) = start(Some(""), "upload_size_limit: 4KiB\nbuffer: 16KiB\n");
    let outbox = Arc::clone(handle.outbox().unwrap());
    for id in 0..200 {
        recorder.offer(record(id, input()));
    }
    // A request under way is what waits too, and comes back to the front.
    let chunk = loop {
        if let Some(chunk) = outbox.chunk() {
            break chunk;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    outbox.back(chunk);
    handle.outbox().unwrap().report();
    let late = tokio::spawn(async move { outbox.due(SECOND * 60, true).await });
    late.await.unwrap();
    handle.shutdown(SECOND).await.unwrap();
    let told: u64 = gaps(folder.path()).iter().map(|gap| gap["not_uploaded"].as_u64().unwrap()).sum();
    assert_eq!(told, 200, "nobody has sent any: dropped on the way, or left at the end");
    assert!(gaps(folder.path()).iter().all(|gap| gap["count"] == 0), "no record is missing");
}

#[tokio::test]
async fn the_end_waits_for_what_is_being_sent() {
    let (recorder, handle, folder) = start(Some(""), "");
    let outbox = Arc::clone(handle.outbox().unwrap());
    (0..50).for_each(|id| recorder.offer(record(id, input())));
    let sender = tokio::spawn(async move {
        let mut sent = 0;
        while !outbox.is_over() {
            outbox.due(SECOND * 60, true).await;
            while let Some(chunk) = outbox.chunk() {
                sent += chunk.len();
                outbox.sent(&chunk);
            }
        }
        sent
    });
    handle.shutdown(SECOND * 20).await.unwrap();
    assert_eq!(sender.await.unwrap(), 50);
    assert_eq!(gaps(folder.path()), Vec::<Value>::new());
}
