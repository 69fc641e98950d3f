//! Live streams as Envoy has them held, spoken by a client of its service: who gets one, and what ends it.

use std::{collections::HashMap, fs, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::ext_proc::v3::{
            HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse, external_processor_client::ExternalProcessorClient,
            processing_request::Request as Part, processing_response::Response as Reply,
        },
    },
    google::protobuf::{Struct, Value as PbValue, value::Kind},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::{
    ca::Leaf,
    check::{Answer, Check},
    doorward::{Doorward, Setup, check},
    eventually,
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";
/// Who shows a certificate may do everything, and has a session.
const POLICY: &str =
    "package envoy.authz\n\ndefault allow := false\n\nallow if {\n    input.peer.spiffe_id\n    input.session.seq >= 0\n}\n";

fn start(top: &str) -> Doorward {
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top, ..Setup::default() });
    doorward.wait_ready();
    doorward
}

/// A decision about a stream: its status code, and its id.
async fn decide(channel: Channel, leaf: &Leaf) -> (i32, String) {
    let mut request = Check::http("GET", "/stream").certificate(&leaf.url_encoded()).0;
    let extensions = &mut request.attributes.as_mut().unwrap().context_extensions;
    extensions.insert("doorward-stream".to_owned(), "1".to_owned());
    let answer = Answer::read(check(channel, request).await.unwrap());
    (answer.code, answer.metadata["decision_id"].as_str().unwrap().to_owned())
}

/// A stream of Envoy's; it lives until both are dropped.
pub(crate) struct Held {
    say: mpsc::Sender<ProcessingRequest>,
    hear: Streaming<ProcessingResponse>,
}

fn message(part: Part, id: Option<&str>) -> ProcessingRequest {
    let text = |text: &str| PbValue { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = id.map(|id| HashMap::from([("decision_id".to_owned(), text(id))])).unwrap_or_default();
    let filter_metadata = HashMap::from([("envoy.filters.http.ext_authz".to_owned(), Struct { fields })]);
    let metadata_context = Some(Metadata { filter_metadata, ..Metadata::default() });
    ProcessingRequest { request: Some(part), metadata_context, ..ProcessingRequest::default() }
}

/// Opens a stream on decision `id`, as Envoy does once it has read the head of a request.
pub(crate) async fn hold(channel: Channel, id: Option<&str>) -> Result<Held, Status> {
    let (say, said) = mpsc::channel(4);
    say.send(message(Part::RequestHeaders(HttpHeaders::default()), id)).await.unwrap();
    let mut hear = ExternalProcessorClient::new(channel).process(ReceiverStream::new(said)).await?.into_inner();
    let first = hear.message().await?.expect("an answer");
    assert!(matches!(first.response, Some(Reply::RequestHeaders(_))), "{first:?}");
    Ok(Held { say, hear })
}

impl Held {
    /// How it ended: `Ok` is without a cut.
    pub(crate) async fn end(mut self) -> Code {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.hear.message()).await.expect("an end");
        ended.map_or_else(|status| status.code(), |more| more.map_or(Code::Ok, |more| panic!("{more:?}")))
    }

    pub(crate) async fn is_alive(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.hear.message()).await.is_err()
    }
}

fn ends(doorward: &Doorward) -> Vec<Value> {
    doorward.records().into_iter().filter(|record| record["kind"] == "stream_end").collect()
}

pub(crate) fn end_of(doorward: &Doorward, id: &str) -> Value {
    let found = || ends(doorward).into_iter().find(|record| record["body"]["decision_id"] == id);
    eventually("the record of the end", found)["body"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_had_once_for_an_allow_and_for_nothing_else() {
    let doorward = start("");
    let channel = doorward.channel().await;
    let reader = doorward.ca.svid(READER);
    let (code, id) = decide(channel.clone(), &reader).await;
    assert_eq!(code, 0);
    let mut stream = hold(channel.clone(), Some(&id)).await.unwrap();
    let refused = async |id: Option<&str>| hold(channel.clone(), id).await.map(|_| ()).unwrap_err().code();
    assert_eq!(refused(Some(&id)).await, Code::PermissionDenied, "claimed already");
    assert_eq!(refused(Some("0190aaaa-0000-7000-8000-000000000000")).await, Code::PermissionDenied, "unknown");
    assert_eq!(refused(Some("nonsense")).await, Code::PermissionDenied, "no id");
    assert_eq!(refused(None).await, Code::PermissionDenied, "unnamed");
    // An allow on a route that has no streams, and a denial on one that has.
    let plain = Check::http("GET", "/").certificate(&reader.url_encoded()).0;
    let plain = Answer::read(check(channel.clone(), plain).await.unwrap());
    assert_eq!(refused(plain.metadata["decision_id"].as_str()).await, Code::PermissionDenied, "not a stream");
    let stranger = crate::harness::ca::Ca::new("example.org").svid(READER);
    let (code, denied) = decide(channel.clone(), &stranger).await;
    assert_eq!((code, refused(Some(&denied)).await), (7, Code::PermissionDenied), "denied");
    assert!(stream.is_alive().await, "what others try does not end it");
    assert_eq!(doorward.metric("doorward_streams_live", &[]), 1.0);
    for (word, count) in [("claimed", 1.0), ("unknown", 3.0), ("unnamed", 2.0)] {
        assert_eq!(doorward.metric("doorward_streams_refused_total", &[word]), count, "{word}");
    }

    // The answer comes to its end by itself.
    stream.say.send(message(Part::ResponseTrailers(HttpTrailers::default()), None)).await.unwrap();
    let answer = stream.hear.message().await.unwrap().unwrap();
    assert!(matches!(answer.response, Some(Reply::ResponseTrailers(_))), "{answer:?}");
    drop(stream);
    let body = end_of(&doorward, &id);
    assert_eq!((&body["reason"], &body["enforced"], &body["principal"]), (&json!("finished"), &json!(true), &json!(READER)));
    assert_eq!(body["peer"]["spiffe_id"], READER);
    assert_eq!(body["session"], doorward.record(&id)["body"]["action"]["session"]);
    eventually("no stream to live", || (doorward.metric("doorward_streams_live", &[]) == 0.0).then_some(()));
    assert_eq!(ends(&doorward).len(), 1, "what was refused was no stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_certificate() {
    let doorward = start("");
    let channel = doorward.channel().await;
    let short = doorward.ca.leaf(|params| {
        params.subject_alt_names = vec![crate::harness::ca::uri(READER)];
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(3);
    });
    let ((code, id), (_, other)) =
        (decide(channel.clone(), &short).await, decide(channel.clone(), &doorward.ca.svid(READER)).await);
    assert_eq!(code, 0);
    let stream = hold(channel.clone(), Some(&id)).await.unwrap();
    let mut control = hold(channel, Some(&other)).await.unwrap();
    assert_eq!(stream.end().await, Code::PermissionDenied);
    let body = end_of(&doorward, &id);
    assert_eq!(body["reason"], "expired");
    assert!((900..=3_100).contains(&body["lasted_ms"].as_u64().unwrap()), "{body}");
    assert!(control.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_the_streams_that_fall_under_it_and_those_not_claimed_yet() {
    let sockets = tempfile::TempDir::new().unwrap();
    let control = format!("unix://{}/control.sock", sockets.path().display());
    let doorward = start(&format!("state: {{memory: {{volatile: true}}}}\ncontrol: {{address: \"{control}\"}}\n"));
    let channel = doorward.channel().await;
    let (bad, good) = (doorward.ca.svid(READER), doorward.ca.svid("spiffe://example.org/other"));
    let (_, held) = decide(channel.clone(), &bad).await;
    let (_, waiting) = decide(channel.clone(), &bad).await;
    let (_, other) = decide(channel.clone(), &good).await;
    let stream = hold(channel.clone(), Some(&held)).await.unwrap();
    let mut control_stream = hold(channel.clone(), Some(&other)).await.unwrap();
    let revoke = ["revoke", "--reason", "stolen", "--output", "json", "--control", &control, "--spiffe-id", READER];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_doorward")).args(revoke).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["streams"], 1, "{answer}");
    assert_eq!(stream.end().await, Code::PermissionDenied);
    assert_eq!(end_of(&doorward, &held)["reason"], "revoked");
    assert_eq!(hold(channel.clone(), Some(&waiting)).await.map(|_| ()).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(decide(channel, &bad).await.0, 7);
    assert!(control_stream.is_alive().await, "another's goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_has_no_more_streams_than_one_may_have() {
    let doorward = start("limits: {streams: 4, streams_per_principal: 2, decision: 1s}\n");
    let channel = doorward.channel().await;
    let (one, other) = (doorward.ca.svid(READER), doorward.ca.svid("spiffe://example.org/other"));
    let mut held = Vec::new();
    for _ in 0..2 {
        let (code, id) = decide(channel.clone(), &one).await;
        assert_eq!(code, 0);
        held.push(hold(channel.clone(), Some(&id)).await.unwrap());
    }
    let (code, refused) = decide(channel.clone(), &one).await;
    assert_eq!((code, &doorward.record(&refused)["body"]["reason"]), (7, &json!("too_many_streams")));
    let plain = Check::http("GET", "/").certificate(&one.url_encoded()).0;
    assert_eq!(Answer::read(check(channel.clone(), plain).await.unwrap()).code, 0, "what is no stream goes on");
    assert_eq!(decide(channel.clone(), &other).await.0, 0, "another has its own");
    drop(held.pop());
    eventually("its room to be given back", || (doorward.metric("doorward_streams_live", &[]) == 1.0).then_some(()));
    assert_eq!(decide(channel, &one).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observe_nothing_ends_a_stream_and_the_record_says_what_would_have() {
    let doorward = start("mode: observe\n");
    let channel = doorward.channel().await;
    let mut loose = hold(channel.clone(), None).await.unwrap();
    let short = doorward.ca.leaf(|params| {
        params.subject_alt_names = vec![crate::harness::ca::uri(READER)];
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    });
    let (_, id) = decide(channel.clone(), &short).await;
    let mut stream = hold(channel, Some(&id)).await.unwrap();
    let body = end_of(&doorward, &id);
    assert_eq!((&body["reason"], &body["enforced"]), (&json!("expired"), &json!(false)));
    assert!(stream.is_alive().await && loose.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_ends_the_session_ends_its_streams_live_and_about_to_be() {
    let policy = format!("{POLICY}\nallow := {{\"allowed\": true, \"end_session\": true}} if input.parsed_path[0] == \"end\"\n");
    let policy = policy.replace("allow if {", "allow if {\n    input.parsed_path[0] != \"end\"");
    let doorward = Doorward::start(&Setup { policy: Some(&policy), ..Setup::default() });
    doorward.wait_ready();
    let channel = doorward.channel().await;
    let (reader, other) = (doorward.ca.svid(READER), doorward.ca.svid(READER));
    let (_, live) = decide(channel.clone(), &reader).await;
    let stream = hold(channel.clone(), Some(&live)).await.unwrap();
    let (_, control) = decide(channel.clone(), &other).await;
    let mut control = hold(channel.clone(), Some(&control)).await.unwrap();
    let (_, opening) = decide(channel.clone(), &reader).await;
    let end = Check::http("POST", "/end").certificate(&reader.url_encoded()).0;
    assert_eq!(Answer::read(check(channel.clone(), end).await.unwrap()).code, 0);
    assert_eq!(stream.end().await, Code::PermissionDenied);
    let refused = hold(channel.clone(), Some(&opening)).await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "doorward ended the stream: session_ended"));
    for id in [&live, &opening] {
        assert_eq!(end_of(&doorward, id)["reason"], "session_ended");
    }
    let (code, late) = decide(channel, &reader).await;
    assert_eq!((code, &doorward.record(&late)["body"]["reason"]), (7, &json!("session_ended")));
    assert!(control.is_alive().await, "the same caller in another session");
}

/// What ten thousand streams take: each from a caller of its own, over few connections.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_live_in_bounded_memory() {
    let doorward = start("");
    let leaves: Vec<_> = (0..10).map(|number| doorward.ca.svid(&format!("spiffe://example.org/w{number}"))).collect();
    let (checks, streams) = (doorward.channel().await, doorward.channel().await);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", doorward.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    for leaf in &leaves {
        decide(checks.clone(), leaf).await;
    }
    let before = resident();
    let mut held = Vec::new();
    for number in 0..990 {
        let opened = leaves.iter().map(|leaf| async {
            let (code, id) = decide(checks.clone(), leaf).await;
            assert_eq!(code, 0, "{number}");
            hold(streams.clone(), Some(&id)).await.unwrap()
        });
        held.extend(futures_util::future::join_all(opened).await);
    }
    let each = (resident() - before) * 1024 / held.len() as u64;
    eprintln!("{} live streams: {} MiB more, {each} bytes each", held.len(), (resident() - before) / 1024);
    assert_eq!(doorward.metric("doorward_streams_live", &[]), 9_900.0);
    assert!(each < 20_000, "{each} bytes a stream");
    assert!(held[0].is_alive().await);
}
