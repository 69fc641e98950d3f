//! Through a real Envoy: what its users see. Every test here needs Envoy and is skipped, loudly, without it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{
    ca::uri,
    client::{Client, Http, request},
    doorward::{Doorward, Setup},
    envoy::{Envoy, Options},
    eventually, upstream,
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";
const WRITER: &str = "spiffe://example.org/ns/shop/sa/writer";

/// Readers may read, the writer may do everything, streams get a lease of 1.5 s.
const POLICY: &str = r#"package envoy.authz

default allow := {"allowed": false, "reason": "no rule allows it"}

http := input.attributes.request.http

allow := {"allowed": true, "rule": "reader reads", "headers": {"x-user": "reader"}} if {
    input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/reader"
    http.method == "GET"
    input.parsed_path[0] == "read"
}

allow := {"allowed": true, "rule": "stream", "lease_s": 1.5} if {
    input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/reader"
    input.parsed_path[0] in {"stream", "socket"}
}

allow := {"allowed": true} if input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/writer"

allow := {
    "allowed": false,
    "http_status": 429,
    "body": "slow down",
    "headers": {"set-cookie": ["a=1", "b=2"], "retry-after": "5"},
} if {
    input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/reader"
    input.parsed_path[0] == "limited"
}
"#;

struct World {
    doorward: Doorward,
    envoy: Envoy,
    reader: Client,
    writer: Client,
    nobody: Client,
}

async fn world(setup: &Setup<'_>, options: &Options<'_>) -> Option<World> {
    let doorward = Doorward::start(&Setup { policy: setup.policy.or(Some(POLICY)), ..*setup });
    doorward.wait_ready();
    let (http, echo) = (upstream::http().await, upstream::echo().await);
    let envoy = Envoy::start(&doorward, http, echo, options)?;
    let client = |id: &str| envoy.client(&doorward, Some(&doorward.ca.svid(id)), Http::One);
    let (reader, writer) = (client(READER), client(WRITER));
    let nobody = envoy.client(&doorward, None, Http::One);
    Some(World { doorward, envoy, reader, writer, nobody })
}

macro_rules! world {
    ($setup:expr, $options:expr) => {
        match world($setup, $options).await {
            Some(world) => world,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_decided_by_spiffe_id_over_http_1_and_2() {
    let world = world!(&Setup::default(), &Options::default());
    for http in [Http::One, Http::Two] {
        let client = |id: &str| world.envoy.client(&world.doorward, Some(&world.doorward.ca.svid(id)), http);
        assert_eq!(client(READER).get("/read/1").await.status, 200, "{http:?}");
        let refused = client(READER).send(request("POST", "/read/1").body(Full::default()).unwrap()).await;
        assert_eq!(refused.status, 403, "{http:?}");
        let record = world.doorward.record(refused.decision());
        assert_eq!(record["body"]["decision"], "deny");
        assert_eq!(record["body"]["policy_reason"], "no rule allows it");
        assert_eq!(record["body"]["peer"]["spiffe_id"], READER);
        assert_eq!(client(WRITER).send(request("POST", "/read/1").body(Full::default()).unwrap()).await.status, 200, "{http:?}");
        assert_eq!(world.envoy.client(&world.doorward, None, http).get("/read/1").await.status, 403, "{http:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_prove_nothing_are_refused_by_name() {
    let world = world!(&Setup::default(), &Options::default());
    let ca = &world.doorward.ca;
    let stranger = crate::harness::ca::Ca::new("example.org");
    for (leaf, reason) in [
        (ca.leaf(|params| params.subject_alt_names = vec![uri(WRITER), uri(READER)]), "multiple_uri_sans"),
        (stranger.svid(WRITER), "untrusted_chain"),
        (ca.svid("spiffe://elsewhere.org/writer"), "untrusted_domain"),
        (ca.leaf(|params| params.subject_alt_names = vec![rcgen::SanType::DnsName("writer".try_into().unwrap())]), "policy"),
    ] {
        let refused = world.envoy.client(&world.doorward, Some(&leaf), Http::One).get("/read/1").await;
        assert_eq!(refused.status, 403, "{reason}");
        assert_eq!(world.doorward.record(refused.decision())["body"]["reason"], reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d35_intermediates_come_from_envoys_xfcc_and_a_forged_one_gains_nothing() {
    let manager = "          forward_client_cert_details: SANITIZE_SET\n          set_current_client_cert_details: {chain: true, uri: true}\n";
    for (xfcc, status, reason) in
        [("last_element", 200, "policy"), ("last_element, forward_xfcc: true", 200, "policy"), ("off", 403, "untrusted_chain")]
    {
        let listener = format!("  peer: {{xfcc: {xfcc}}}\n");
        let world = world!(&Setup { listener: &listener, ..Setup::default() }, &Options { manager, ..Options::default() });
        let intermediate = world.doorward.ca.intermediate("example.org");
        let mut leaf = intermediate.svid(WRITER);
        leaf.certificate.push_str(&intermediate.pem);
        let answer = world.envoy.client(&world.doorward, Some(&leaf), Http::Two).get("/read/1").await;
        assert_eq!(answer.status, status, "{xfcc}: {answer:?}");
        let reached_upstream = answer.text().to_ascii_lowercase().contains("x-forwarded-client-cert");
        assert_eq!(reached_upstream, xfcc.contains("forward_xfcc"), "{xfcc}: {answer:?}");
        let stranger = crate::harness::ca::Ca::new("example.org").intermediate("example.org");
        let forged = format!("Hash={};Chain=\"x\";URI={WRITER}", "0".repeat(64));
        for leaf in [stranger.svid(WRITER), intermediate.svid(WRITER)] {
            let request = request("GET", "/read/1").header("x-forwarded-client-cert", &forged).body(Full::default()).unwrap();
            let refused = world.envoy.client(&world.doorward, Some(&leaf), Http::Two).send(request).await;
            assert_eq!(refused.status, 403, "{xfcc}: {refused:?}");
            let record = world.doorward.record(refused.decision());
            assert_eq!(record["body"]["reason"], "untrusted_chain", "{xfcc}");
        }
        let first = &world.doorward.decisions()[0];
        assert_eq!(first["body"]["reason"], reason, "{xfcc}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_get_grpc_statuses() {
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), ..Setup::default() });
    doorward.wait_ready();
    let (http, echo, grpc) = (upstream::http().await, upstream::echo().await, upstream::grpc().await);
    let Some(envoy) = Envoy::start(&doorward, http, echo, &Options { grpc: Some(grpc), ..Options::default() }) else { return };
    let call = || {
        request("POST", "/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .unwrap()
    };
    let allowed = envoy.client(&doorward, Some(&doorward.ca.svid(WRITER)), Http::Two).send(call()).await;
    assert_eq!((allowed.status, allowed.trailers.get("grpc-status").map(String::as_str)), (200, Some("0")), "{allowed:?}");
    assert_eq!(allowed.body, [0, 0, 0, 0, 2, 8, 1], "SERVING");
    let refused = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two).send(call()).await;
    assert_eq!((refused.status, refused.header("grpc-status")), (200, Some("7")), "{refused:?}");
    assert_eq!(doorward.record(refused.decision())["body"]["protocol"], "grpc");
}

#[tokio::test(flavor = "multi_thread")]
async fn d26_a_policy_reads_a_field_of_a_grpc_message() {
    let descriptors = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(descriptors.path(), tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
    let policy = "package envoy.authz\ndefault allow := false\nallow if input.parsed_body == {}\nallow if input.parsed_body.service == \"shop\"\n";
    let lines = format!("  proto_descriptor: {}\n", descriptors.path().display());
    let doorward = Doorward::start(&Setup { policy: Some(policy), policy_lines: &lines, ..Setup::default() });
    doorward.wait_ready();
    let (http, echo, grpc) = (upstream::http().await, upstream::echo().await, upstream::grpc().await);
    let filter = "              with_request_body: {max_request_bytes: 8192, pack_as_bytes: true}\n";
    let options = Options { grpc: Some(grpc), filter, ..Options::default() };
    let Some(envoy) = Envoy::start(&doorward, http, echo, &options) else { return };
    let client = envoy.client(&doorward, Some(&doorward.ca.svid(READER)), Http::Two);
    let call = |message: &[u8]| {
        let frame = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message].concat();
        request("POST", "/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(frame)))
            .unwrap()
    };
    let status = |answer: &crate::harness::client::Answer| {
        answer.header("grpc-status").or(answer.trailers.get("grpc-status").map(String::as_str)).map(str::to_owned)
    };
    for (what, message, expected) in [
        ("empty, and served", b"".as_slice(), "0"),
        ("allowed, and unknown to the server", b"\x0a\x04shop", "5"),
        ("another service", b"\x0a\x04bank", "7"),
    ] {
        let answer = client.send(call(message)).await;
        assert_eq!(status(&answer).as_deref(), Some(expected), "{what}: {answer:?}");
    }
    let broken = client.send(call(b"\x0a\x09shop")).await;
    assert_eq!(doorward.record(broken.decision())["body"]["reason"], "request_parse_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_are_decided_too() {
    let policy = format!(
        "{POLICY}\nallow := true if {{\n    input.action.protocol == \"tcp\"\n    input.peer.spiffe_id == \"{READER}\"\n}}\n"
    );
    let world = world!(&Setup { policy: Some(&policy), ..Setup::default() }, &Options::default());
    for (id, passes) in [(READER, true), ("spiffe://example.org/other", false)] {
        let client = Client::new(world.envoy.tcp, &world.doorward.ca, Some(&world.doorward.ca.svid(id)), Http::One);
        let mut stream = client.raw(b"hello").await;
        let mut answer = [0; 5];
        let read = stream.read_exact(&mut answer).await;
        assert_eq!(read.is_ok(), passes, "{id}: {read:?}");
    }
    let tcp = eventually("two TCP decisions", || {
        let found: Vec<_> = world.doorward.decisions().into_iter().filter(|record| record["body"]["protocol"] == "tcp").collect();
        (found.len() == 2).then_some(found)
    });
    assert_eq!(tcp[0]["body"]["decision"], "allow");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_headers_and_joined_headers_give_one_view() {
    let policy = r#"package envoy.authz
default allow := false
allow if input.attributes.request.http.headers["x-role"] == "user,admin"
"#;
    for filter in ["", "              encode_raw_headers: true\n"] {
        let world = world!(&Setup { policy: Some(policy), ..Setup::default() }, &Options { filter, ..Options::default() });
        let call = request("GET", "/").header("x-role", "user").header("x-role", "admin").body(Full::default()).unwrap();
        assert_eq!(world.nobody.send(call).await.status, 200, "{filter:?}");
        let bytes = request("GET", "/").header("x-role", hyper::header::HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(
            world.nobody.send(bytes.body(Full::default()).unwrap()).await.status,
            403,
            "decided, not an error: {filter:?}"
        );
    }
}

const BODY: &str = "              with_request_body: {max_request_bytes: 64, allow_partial_message: true, pack_as_bytes: true}\n";

#[tokio::test(flavor = "multi_thread")]
async fn bodies_reach_policy_and_a_cut_body_is_told() {
    let policy = r#"package envoy.authz
default allow := false
allow if input.parsed_body.role == "user"
allow if input.parsed_body.role == ["user"]
"#;
    let setup = Setup { policy: Some(policy), listener: "  max_body: 64B\n", ..Setup::default() };
    let world = world!(&setup, &Options { filter: BODY, ..Options::default() });
    let send = |kind: &'static str, body: String| {
        let call = request("POST", "/").header("content-type", kind).body(Full::new(Bytes::from(body))).unwrap();
        let client = world.nobody.clone();
        async move { client.send(call).await }
    };
    assert_eq!(send("application/json", r#"{"role":"user"}"#.to_owned()).await.status, 200);
    assert_eq!(send("application/json", r#"{"role":"admin"}"#.to_owned()).await.status, 403);
    assert_eq!(send("application/x-www-form-urlencoded", "role=user".to_owned()).await.status, 200);
    let bad = send("application/json", "{".to_owned()).await;
    assert_eq!(bad.status, 400);
    assert_eq!(world.doorward.record(bad.decision())["body"]["reason"], "request_parse_error");
    let long = send("application/json", format!(r#"{{"role":"user","more":"{}"}}"#, "x".repeat(100))).await;
    assert_eq!(world.doorward.record(long.decision())["body"]["input"]["truncated_body"], true);
    // The first 64 bytes are a whole form, and more is to come: without a length nobody but us can tell.
    let first = format!("role=user&pad={}", "x".repeat(50));
    assert_eq!(first.len(), 64);
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = world.nobody.raw(format!("{head}40\r\n{first}\r\n").as_bytes()).await;
    stream.flush().await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 403");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_carries_what_the_policy_says() {
    let world = world!(&Setup::default(), &Options::default());
    let refused = world.reader.get("/limited").await;
    assert_eq!((refused.status, refused.text().as_str(), refused.header("retry-after")), (429, "slow down", Some("5")));
    assert_eq!(refused.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_forge_what_policy_or_doorward_sets() {
    let world = world!(&Setup::default(), &Options::default());
    let call = request("GET", "/read/1")
        .header("x-user", "root")
        .header("x-doorward-decision-id", "forged")
        .header("x-envoy-upstream-stream-duration-ms", "0");
    let echo = world.reader.send(call.body(Full::default()).unwrap()).await;
    let lines: Vec<String> = echo.text().lines().map(str::to_ascii_lowercase).collect();
    let of = |name: &str| lines.iter().filter(|line| line.starts_with(&format!("{name}:"))).cloned().collect::<Vec<_>>();
    assert_eq!(of("x-user"), ["x-user: reader"]);
    assert_eq!(of("x-doorward-decision-id"), [""; 0]);
    // Envoy's router takes the lease off the request; the client's own would have been `0`, no limit.
    let record = eventually("the record", || world.doorward.decisions().pop());
    let lease = record["body"]["lease_ms"].as_u64().unwrap();
    assert!((80_000_000..=86_400_000).contains(&lease), "the certificate lives for a day: {lease}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_ends_chunked_responses_and_websockets() {
    let world = world!(&Setup::default(), &Options::default());
    let chunked = b"GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n".as_slice();
    let socket = b"GET /socket HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".as_slice();
    for bytes in [chunked, socket] {
        let began = Instant::now();
        let mut stream = world.reader.raw(bytes).await;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert!(first.ends_with(b"200") || first.ends_with(b"101"), "{}", String::from_utf8_lossy(&first));
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the stream outlived its lease");
        assert!(began.elapsed() >= Duration::from_millis(1400), "ended after {:?}, before its lease", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_or_frozen_doorward_fails_closed() {
    let mut world = world!(&Setup::default(), &Options::default());
    assert_eq!(world.writer.get("/").await.status, 200);
    world.doorward.signal(Signal::SIGSTOP);
    assert_eq!(world.writer.get("/").await.status, 503, "frozen");
    world.doorward.signal(Signal::SIGCONT);
    eventually("calls to be answered again", || world.doorward.get("/livez").0.eq(&200).then_some(()));
    world.doorward.signal(Signal::SIGKILL);
    world.doorward.stop();
    assert_eq!(world.writer.get("/").await.status, 503, "killed");
    assert!(world.envoy.stat("ext_authz.error") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_limit_calls_are_denied_at_once_and_none_is_allowed() {
    // Each evaluation takes its whole limit, so that two callers fill the one permit and the queue of one.
    let policy = r#"package envoy.authz
default allow := false
allow if { input.attributes; some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y < 0 }
"#;
    let setup = Setup {
        policy: Some(policy),
        policy_lines: "  limits: {evaluation: 300ms}\n",
        top: "limits: {queue: 1, evaluators: 1, decision: 1s, grace: 100ms}\n",
        ..Setup::default()
    };
    let world = world!(&setup, &Options::default());
    let calls = (0..12).map(|_| {
        let client = world.writer.clone();
        tokio::spawn(async move { client.get("/").await })
    });
    for call in futures_util::future::join_all(calls).await {
        assert_eq!(call.unwrap().status, 403);
    }
    let reasons = |reason: &str| world.doorward.decisions().iter().filter(|record| record["body"]["reason"] == reason).count();
    eventually("twelve records", || (world.doorward.decisions().len() == 12).then_some(()));
    assert!(reasons("overloaded") >= 8, "{:?}", world.doorward.metric("doorward_decisions_total", &["overloaded"]));
    assert!(reasons("policy_timeout") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn per_route_settings_reach_policy_or_turn_the_check_off() {
    let policy = r#"package envoy.authz
default allow := false
allow if input.attributes.contextExtensions.tier == "public"
"#;
    let typed = "typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute,";
    let routes = format!(
        "              - match: {{prefix: /public}}\n                route: {{cluster: upstream}}\n                {typed} check_settings: {{context_extensions: {{tier: public}}}}}}}}\n\
         \x20             - match: {{prefix: /loose}}\n                route: {{cluster: upstream}}\n                {typed} check_settings: {{context_extensions: {{tier: public, doorward-ambiguous-path: allow}}}}}}}}\n\
         \x20             - match: {{prefix: /probe}}\n                route: {{cluster: upstream}}\n                {typed} disabled: true}}}}\n"
    );
    let world = world!(&Setup { policy: Some(policy), ..Setup::default() }, &Options { routes: &routes, ..Options::default() });
    assert_eq!(world.nobody.get("/private").await.status, 403);
    assert_eq!(world.nobody.get("/public").await.status, 200);
    assert_eq!(world.nobody.get("/public/a%2Fb").await.status, 403, "an ambiguous path is denied");
    assert_eq!(world.nobody.get("/loose/a%2Fb").await.status, 200, "unless the route takes it");
    let decided = || world.doorward.metric("doorward_decisions_total", &[]);
    let before = decided();
    assert_eq!(world.nobody.get("/probe").await.status, 200);
    assert_eq!(decided(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn observe_lets_everything_through_and_says_what_it_would_have_done() {
    let world = world!(&Setup { top: "mode: observe\n", ..Setup::default() }, &Options::default());
    let answer = world.nobody.get("/read/1").await;
    assert_eq!(answer.status, 200);
    let record = eventually("the record", || world.doorward.decisions().pop());
    assert_eq!((&record["body"]["decision"], &record["body"]["enforced"]), (&"deny".into(), &false.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_restarts_under_load_never_decide_wrongly() {
    let setup = Setup { policy: Some(POLICY), ..Setup::default() };
    let mut world = world!(&setup, &Options::default());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = [
        (world.reader.clone(), "/read/1", 200),
        (world.reader.clone(), "/else", 403),
        (world.nobody.clone(), "/read/1", 403),
        (world.writer.clone(), "/any", 200),
    ]
    .into_iter()
    .map(|(client, path, right)| {
        let stop = std::sync::Arc::clone(&stop);
        tokio::spawn(async move {
            let (mut calls, mut failed, mut wrong) = (0_u32, 0_u32, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                calls += 1;
                match client.try_send(request("GET", path).body(Full::default()).unwrap()).await {
                    Ok(answer) if answer.status == right => {}
                    Ok(answer) if answer.status == 503 => failed += 1,
                    Ok(answer) => wrong.push((path, answer.status)),
                    Err(_) => failed += 1,
                }
            }
            (calls, failed, wrong)
        })
    })
    .collect();
    for round in 0..100 {
        // Every tenth policy is a bad one and must not displace the one in force.
        let source =
            if round % 10 == 9 { "package envoy.authz\nallow if {".to_owned() } else { format!("{POLICY}# round {round}\n") };
        world.doorward.replace_policy(&source);
    }
    world.doorward.replace_policy(POLICY);
    for generation in 1..=3 {
        assert!(world.doorward.restart_gracefully(&setup, generation).success());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut calls, mut failed) = (0, 0);
    for task in load {
        let (some, lost, wrong) = task.await.unwrap();
        assert_eq!(wrong, [], "wrong decisions");
        (calls, failed) = (calls + some, failed + lost);
    }
    eprintln!("100 reloads and 3 graceful restarts: {calls} calls, {failed} failed closed, 0 decided wrongly");
    assert!(calls > 100);
}
