//! Decisions reach a log service as OPA would send them: over a real HTTP server, through failures and refusals, beside
//! the real `opa run` on the same policy and input.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{
    check::Check,
    doorward::{Doorward, Setup},
    eventually, opa,
};

const POLICY: &str = r#"package envoy.authz

default allow := {"allowed": false, "http_status": 404}

allow := {"allowed": true, "headers": {"x-user": input.attributes.request.http.headers["x-user"]}} if {
    input.attributes.request.http.method == "GET"
}
"#;

const MASK: &str = r#"package system.log

mask contains "/input/attributes/request/http/headers/x-card"

mask contains {"op": "upsert", "path": "/result/headers/x-user", "value": "somebody"} if input.result.headers["x-user"]

drop if input.input.attributes.request.http.path == "/health"
"#;

/// A request that came in.
#[derive(Clone)]
struct Seen {
    path: String,
    headers: http::HeaderMap,
    /// As it was sent, and its length.
    length: usize,
    events: Vec<Value>,
    answered: StatusCode,
}

/// What is answered to a body of some length.
type Reply = fn(usize) -> StatusCode;

/// A log service.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Mutex<Reply>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Self { address, seen: Arc::default(), answer: Arc::new(Mutex::new(|_| StatusCode::OK)) };
        let this = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let this = this.clone();
                        async move { this.take(request).await }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        receiver
    }

    async fn take(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut text = String::new();
        GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
        let answered = (self.answer.lock().unwrap())(body.len());
        let seen = Seen {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            length: body.len(),
            events: serde_json::from_str(&text).unwrap(),
            answered,
        };
        self.seen.lock().unwrap().push(seen);
        Ok(Response::builder().status(answered).body(Full::default()).unwrap())
    }

    fn answer(&self, answer: Reply) {
        *self.answer.lock().unwrap() = answer;
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The events that were accepted.
    fn events(&self) -> Vec<Value> {
        self.seen().into_iter().filter(|seen| seen.answered.is_success()).flat_map(|seen| seen.events).collect()
    }

    /// The lines of a configuration that uploads to here, besides those of `more`.
    fn top(&self, folder: &Path, more: &str) -> String {
        let (address, folder) = (self.address, folder.display());
        format!(
            "records:\n  sink: {{file: {{path: {folder}/records.jsonl}}}}\n  upload:\n    url: http://{address}/v1\n    \
             delay: {{min: 20ms, max: 40ms, timeout: 1s}}\n{more}"
        )
    }
}

fn start(receiver: &Receiver, more: &str) -> (Doorward, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let top = receiver.top(folder.path(), more);
    let files = [("log.rego", MASK)];
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), files: &files, top: &top, ..Setup::default() });
    doorward.wait_ready();
    (doorward, folder)
}

fn get(path: &str) -> Check {
    Check::http("GET", path).header("x-user", "ann").header("x-card", "4111").header("authorization", "Bearer t")
}

/// The records of kind `gap`, as they are written.
fn gaps(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("records.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["kind"] == "gap").map(|line| line["body"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_masked_event_a_decision_comes_in_with_our_token() {
    let receiver = Receiver::start().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "let-me-in\n").unwrap();
    let more = format!("    partition: eu\n    token_file: {}\n    labels: {{app: shop}}\n", token.path().display());
    let (mut doorward, _folder) = start(&receiver, &more);
    for check in [get("/health"), get("/orders"), Check::http("POST", "/orders")] {
        doorward.check(check.0).await.unwrap();
    }
    eventually("two events", || (receiver.events().len() == 2).then_some(()));
    let seen = receiver.seen().pop().unwrap();
    assert_eq!(seen.path, "/v1/logs/eu");
    let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
    assert_eq!((header("content-type"), header("content-encoding")), ("application/json".to_owned(), "gzip".to_owned()));
    assert_eq!(header("authorization"), "Bearer let-me-in");
    let events = receiver.events();
    let event = events.iter().find(|event| event["result"]["allowed"] == true).unwrap();
    let headers = &event["input"]["attributes"]["request"]["http"]["headers"];
    assert_eq!((&headers["x-user"], &headers["x-card"]), (&json!("ann"), &Value::Null));
    assert!(headers["authorization"].as_str().unwrap().starts_with("hmac-sha256:"));
    assert_eq!(event["result"]["headers"]["x-user"], "somebody");
    assert_eq!(event["erased"], json!(["/input/attributes/request/http/headers/x-card"]));
    assert_eq!(event["masked"], json!(["/result/headers/x-user"]));
    assert_eq!((&event["labels"]["app"], &event["path"]), (&json!("shop"), &json!("envoy/authz/allow")));
    assert!(event["labels"]["id"].is_string() && event["requested_by"] == "10.0.0.7:41234", "{event}");
    assert!(doorward.metric("doorward_uploads_total", &["withheld"]) >= 1.0);
    assert!(doorward.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_split_and_an_outage_loses_nothing_that_fits() {
    let receiver = Receiver::start().await;
    receiver.answer(|_| StatusCode::SERVICE_UNAVAILABLE);
    let (doorward, _folder) = start(&receiver, "");
    let channel = doorward.channel().await;
    for number in 0..60 {
        let check = get(&format!("/orders/{number}"));
        crate::harness::doorward::check(channel.clone(), check.0).await.unwrap();
    }
    eventually("an attempt", || (receiver.seen().len() > 1).then_some(()));
    // Sixty events of one shape are smaller than any default limit, and larger than this.
    receiver.answer(|length| if length > 2000 { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::NO_CONTENT });
    eventually("every event", || (receiver.events().len() == 60).then_some(()));
    let ids: BTreeSet<_> = receiver.events().iter().map(|event| event["decision_id"].to_string()).collect();
    assert_eq!(ids.len(), 60, "each once");
    assert!(receiver.seen().iter().any(|seen| seen.answered == StatusCode::PAYLOAD_TOO_LARGE));
    assert!(receiver.seen().iter().filter(|seen| seen.answered.is_success()).all(|seen| seen.length <= 2000));
    assert!(doorward.log().contains("decisions cannot be uploaded"));
    eventually("the count", || (doorward.metric("doorward_uploads_total", &["uploaded"]) >= 60.0).then_some(()));
    assert!(doorward.metric("doorward_upload_requests_total", &["failed"]) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_sends_what_waits_and_records_what_it_could_not() {
    let receiver = Receiver::start().await;
    let (mut doorward, folder) = start(&receiver, "    upload_size_limit: 4KiB\n");
    doorward.check(get("/a").0).await.unwrap();
    assert!(doorward.stop().success());
    assert_eq!(receiver.events().len(), 1, "sent while it ended");
    assert_eq!(gaps(folder.path()), Vec::<Value>::new());

    receiver.answer(|_| StatusCode::SERVICE_UNAVAILABLE);
    let (mut doorward, folder) = start(&receiver, "");
    doorward.check(get("/a").0).await.unwrap();
    doorward.check(get("/b").0).await.unwrap();
    assert!(doorward.stop().success());
    let gaps = gaps(folder.path());
    let [gap] = gaps.as_slice() else { panic!("{gaps:?}") };
    assert_eq!((&gap["not_uploaded"], &gap["count"]), (&json!(2), &json!(0)), "{gap}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_costs_no_call_and_the_oldest_go() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiver { address: hanging.local_addr().unwrap(), ..Receiver::start().await };
    let (doorward, folder) = start(&receiver, "    buffer: 32KiB\n");
    let channel = doorward.channel().await;
    for _ in 0..100 {
        let answer = crate::harness::doorward::check(channel.clone(), get("/a").0).await.unwrap();
        assert_eq!(answer.status.unwrap().code, 0);
    }
    eventually("drops", || (doorward.metric("doorward_uploads_total", &["dropped"]) >= 1.0).then_some(()));
    eventually("a gap", || gaps(folder.path()).iter().any(|gap| gap["not_uploaded"].as_u64() >= Some(1)).then_some(()));
    drop(hanging);
}

/// The real OPA as a server, which logs to `receiver`.
struct Opa {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Opa {
    fn start(opa: &Path, receiver: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("policy.rego"), POLICY).unwrap();
        std::fs::write(at("log.rego"), MASK).unwrap();
        let reporting = json!({"min_delay_seconds": 1, "max_delay_seconds": 1});
        let config = json!({
            "services": {"logs": {"url": format!("http://{receiver}/v1")}},
            "decision_logs": {"service": "logs", "reporting": reporting, "partition_name": "eu"},
            "labels": {"app": "shop"},
        });
        std::fs::write(at("opa.json"), config.to_string()).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(opa)
            .current_dir(folder.path())
            .args(["run", "--server", "--addr", &free.to_string(), "--config-file", "opa.json", "policy.rego", "log.rego"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let opa = Self { child, address: free, _folder: folder };
        eventually("opa to answer", || (opa.ask("GET", "/health", "").starts_with("HTTP/1.0 200")).then_some(()));
        opa
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let length = body.len();
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every path to a member, down to where the document itself is ours or OPA's own business.
fn fields(event: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in event.as_object().unwrap() {
        found.insert(key.clone());
        if ["labels", "error"].contains(&key.as_str()) {
            found.extend(value.as_object().unwrap().keys().map(|inner| format!("{key}.{inner}")));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_opa_sends_the_same_event_for_the_same_policy_and_input() {
    let Some(opa) = opa() else { return };
    let (ours, theirs) = (Receiver::start().await, Receiver::start().await);
    let (doorward, _folder) = start(&ours, "    partition: eu\n    labels: {app: shop}\n");
    doorward.check(get("/orders").0).await.unwrap();
    eventually("our event", || (ours.events().len() == 1).then_some(()));
    let our = ours.seen().remove(0);
    // The input before it was masked by rules, put together again; our own mask stays.
    let mut input = our.events[0]["input"].clone();
    input["attributes"]["request"]["http"]["headers"]["x-card"] = "4111".into();
    let opa = Opa::start(&opa, theirs.address);
    opa.ask("POST", "/v1/data/envoy/authz/allow", &json!({"input": input}).to_string());
    eventually("opa's event", || (!theirs.events().is_empty()).then_some(()));
    let their = theirs.seen().remove(0);
    assert_eq!(our.path, their.path);
    for name in ["content-type", "content-encoding"] {
        assert_eq!(our.headers[name], their.headers[name]);
    }
    let (our, their) = (&our.events[0], &their.events[0]);
    for same in ["path", "input", "result", "erased", "masked"] {
        assert_eq!(our[same], their[same], "{same}");
    }
    for text in ["timestamp", "requested_by", "decision_id"] {
        assert!(our[text].is_string() && their[text].is_string(), "{text}: {our} and {their}");
    }
    assert!(our["metrics"]["timer_server_handler_ns"].is_u64() && their["metrics"]["timer_server_handler_ns"].is_u64());
    let (mut our, mut their) = (fields(our), fields(their));
    // What the other cannot have: our own words, the set's digest, and the number and the bundles of OPA's server.
    our.retain(|field| !["custom", "revision"].contains(&field.as_str()));
    their.retain(|field| field != "req_id");
    assert_eq!(our, their);
}
