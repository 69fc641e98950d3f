//! The numbered compatibility cases (facts, part D) through the real binary: what opa-envoy-plugin does where a case is
//! marked C, under `compat: opa-envoy`, and the safe default where it is marked S. [`CASES`] is the table of all cases:
//! tests carry the number in their name, in the units and here.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{
    ca::{Ca, uri},
    check::{Answer, Check},
    doorward::{DOMAIN, Doorward, Setup},
};

/// Answers what the header `x-decision` says, and with the whole input where there is none.
const POLICY: &str = r#"package envoy.authz

headers := input.attributes.request.http.headers

allow := decision if {
    text := headers["x-decision"]
    decision := json.unmarshal(text)
}

allow := {"allowed": true, "dynamic_metadata": {"input": input}} if not headers["x-decision"]
"#;

const COMPAT: &str = "  compat: opa-envoy\n";

fn safe() -> Doorward {
    start("", "  max_body: 16B\n  zone: eu-2\n")
}

fn compat() -> Doorward {
    start(COMPAT, "  max_body: 16B\n")
}

fn start(policy_lines: &str, listener: &str) -> Doorward {
    let top = "self: {environment: test, cluster: c1, zone: eu-1}\n";
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), policy_lines, listener, top, ..Setup::default() });
    doorward.wait_ready();
    doorward
}

async fn ask(doorward: &Doorward, check: Check) -> Answer {
    Answer::read(doorward.check(check.0).await.unwrap())
}

async fn input(doorward: &Doorward, check: Check) -> Value {
    let answer = ask(doorward, check).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    answer.input().clone()
}

async fn reason(doorward: &Doorward, check: Check) -> String {
    let answer = ask(doorward, check).await;
    assert_eq!(answer.code, 7, "{answer:?}");
    let id = answer.metadata["decision_id"].as_str().unwrap();
    doorward.record(id)["body"]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn d01_to_d05_paths() {
    let (safe, compat) = (safe(), compat());
    for (path, parsed, url, dangerous) in [
        ("//admin/x?a=1", json!(["admin", "x"]), json!(["admin", "x"]), false),
        ("/a%2Fb", json!(["a", "b"]), json!(["a%2Fb"]), true),
        ("/a%252Fb", json!(["a%2Fb"]), json!(["a%252Fb"]), true),
        ("/a/../b", json!(["a", "..", "b"]), json!(["b"]), true),
        ("/a/%2e%2e/b", json!(["a", "..", "b"]), json!(["b"]), true),
        ("/", json!([""]), json!([]), false),
        ("/a/", json!(["a", ""]), json!(["a"]), false),
        ("/a//b", json!(["a", "", "b"]), json!(["a", "b"]), false),
    ] {
        let seen = input(&compat, Check::http("GET", path)).await;
        assert_eq!(seen["parsed_path"], parsed, "{path}");
        assert_eq!(seen["attributes"]["request"]["http"]["path"], path);
        if dangerous {
            assert_eq!(reason(&safe, Check::http("GET", path)).await, "ambiguous_path", "{path}");
            assert_eq!(seen["url"]["ambiguous"], true, "{path}");
        } else {
            let seen = input(&safe, Check::http("GET", path)).await;
            assert_eq!((&seen["parsed_path"], &seen["url"]["segments"]), (&parsed, &url), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d06_d07_d11_what_cannot_be_parsed_is_400() {
    let (safe, compat) = (safe(), compat());
    let many = format!("/?{}", (0..10_001).map(|n| format!("a{n}&")).collect::<String>());
    for path in ["/a%zz", "/?a=1;b=2", "/?a=%zz", &many] {
        let answer = ask(&compat, Check::http("GET", path)).await;
        assert_eq!((answer.code, answer.status), (7, Some(400)));
        assert!(answer.body.unwrap().starts_with("request_parse_error: "));
        let answer = ask(&safe, Check::http("GET", path)).await;
        assert_eq!((answer.code, answer.status, answer.body.as_deref()), (7, Some(400), Some("")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d08_to_d10_queries_and_odd_targets() {
    let safe = safe();
    let seen = input(&safe, Check::http("GET", "/?a=1&a=2&A=3&b&x=b+c%2B")).await;
    assert_eq!(seen["parsed_query"], json!({"a": ["1", "2"], "A": ["3"], "b": [""], "x": ["b c+"]}));
    for (path, reason) in
        [("/%ff", "not_utf8"), ("Service/Method", "no_leading_slash"), ("http://h/x", "absolute_form"), ("/a#f", "fragment")]
    {
        let seen = input(&safe, Check::http("GET", path)).await;
        assert!(seen["url"]["reasons"].as_array().unwrap().contains(&json!(reason)), "{path}: {}", seen["url"]);
    }
    assert_eq!(reason(&safe, Check::http("GET", "/a\\b")).await, "ambiguous_path");
}

#[tokio::test(flavor = "multi_thread")]
async fn d12_to_d16_headers() {
    let safe = safe();
    let seen = input(&safe, Check::http("GET", "/").header("x-role", "user,admin")).await;
    let headers = &seen["attributes"]["request"]["http"]["headers"];
    assert_eq!(
        (&headers[":authority"], &headers[":path"], &headers["x-role"]),
        (&json!("shop.example"), &json!("/"), &json!("user,admin"))
    );
    let raw = Check::http("GET", "/").raw_headers(&[
        ("x-role", b"user"),
        ("x-role", b"\xff\xfe"),
        ("content-type", b"application/json"),
    ]);
    let mut raw = raw;
    raw.http_part().raw_body = b"{\"a\":1}".to_vec();
    let seen = input(&safe, raw).await;
    let http = &seen["attributes"]["request"]["http"];
    assert_eq!(http["headers"]["x-role"], "user,\u{fffd}\u{fffd}");
    assert!(http["headerMap"]["headers"].as_array().unwrap().contains(&json!({"key": "x-role", "rawValue": "dXNlcg=="})));
    assert_eq!(seen["parsed_body"], json!({"a": 1}));
    let seen =
        input(&safe, Check::http("POST", "/").body("application/json", "{}").header("x-envoy-auth-partial-body", "true")).await;
    assert_eq!((&seen["truncated_body"], &seen["parsed_body"]), (&json!(true), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn d17_d18_large_messages_are_decided_and_the_connection_survives() {
    let doorward = Doorward::start(&Setup {
        policy: Some(POLICY),
        top: "limits: {message: 1MiB, grace: 100ms, drain: 5s, decision: 1s}\n",
        ..Setup::default()
    });
    doorward.wait_ready();
    let channel = doorward.channel().await;
    let large = Check::http("GET", "/").header("x-large", &"x".repeat(2 << 20));
    let answer = Answer::read(crate::harness::doorward::check(channel.clone(), large.0).await.unwrap());
    assert_eq!(answer.code, 7);
    let id = answer.metadata["decision_id"].as_str().unwrap();
    assert_eq!(doorward.record(id)["body"]["reason"], "message_too_large");
    assert_eq!(doorward.metric("doorward_decisions_total", &["message_too_large"]), 1.0);
    let many = (0..600).fold(Check::http("GET", "/"), |check, n| check.header(&format!("x-{n}"), &"v".repeat(100)));
    let answer = Answer::read(crate::harness::doorward::check(channel, many.0).await.unwrap());
    assert_eq!(answer.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn d19_to_d25_bodies() {
    let (safe, compat) = (safe(), compat());
    let json =
        |body: &str, length: &str| Check::http("POST", "/").body("application/json", body).header("content-length", length);
    assert_eq!(input(&safe, json(r#"{"a":1}"#, "7")).await["parsed_body"], json!({"a": 1}));
    assert_eq!(input(&safe, json(r#"{"a":1}"#, "100")).await["truncated_body"], true);
    assert_eq!(input(&safe, json(r#"{"a":1}"#, "-1")).await["parsed_body"], json!({"a": 1}));
    assert_eq!(reason(&safe, json(r#"{"a":1}"#, "abc")).await, "request_parse_error");
    let seen = input(&safe, Check::http("POST", "/").body("application/json", "")).await;
    assert_eq!((&seen["parsed_body"], &seen["truncated_body"]), (&Value::Null, &json!(false)));
    assert_eq!(reason(&safe, Check::http("POST", "/").body("application/json", "{} x")).await, "request_parse_error");
    let exact = || Check::http("POST", "/").body("application/json", r#"{"a":"12345678"}"#);
    assert_eq!(input(&safe, exact()).await["truncated_body"], true, "sixteen bytes of at most sixteen");
    assert_eq!(input(&safe, exact().header("content-length", "16")).await["truncated_body"], false);
    assert_eq!(input(&compat, exact()).await["truncated_body"], false);
    assert_eq!(
        input(&safe, Check::http("POST", "/").body("application/json", r#"{"a":1,"a":2}"#)).await["parsed_body"],
        json!({"a": 2})
    );
    assert_eq!(input(&safe, Check::http("POST", "/").body("Application/JSON", "{}")).await["parsed_body"], Value::Null);
    assert_eq!(
        input(&safe, Check::http("POST", "/").body("application/x-www-form-urlencoded", "a=1&a=2")).await["parsed_body"],
        json!({"a": ["1", "2"]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn d21_a_body_that_is_not_taken_apart_is_absent() {
    for policy_lines in ["", COMPAT] {
        let doorward = start(policy_lines, "  skip_body_parse: true\n");
        let seen = input(&doorward, Check::http("POST", "/?a=1").body("application/json", "{} x")).await;
        assert_eq!(seen["attributes"]["request"]["http"]["body"], "{} x");
        assert_eq!((&seen["parsed_path"], &seen["parsed_query"]), (&json!([""]), &json!({"a": ["1"]})));
        assert!(seen.get("parsed_body").is_none() && seen.get("truncated_body").is_none(), "{seen}");
    }
}

/// The address of the caller is that of the connection, whatever a client writes into headers. A view of the client by
/// trusted hops is none of ours: a policy that trusts its Envoy reads `x-forwarded-for` itself.
#[tokio::test(flavor = "multi_thread")]
async fn d34b_the_source_address_is_the_connections_peer() {
    for doorward in [safe(), compat()] {
        let check = Check::http("GET", "/").header("x-forwarded-for", "1.2.3.4, 5.6.7.8").header("x-real-ip", "1.2.3.4");
        let seen = input(&doorward, check).await;
        let address = &seen["attributes"]["source"]["address"]["socketAddress"];
        assert_eq!(address, &json!({"address": "10.0.0.7", "portValue": 41234}));
        assert_eq!(seen["attributes"]["request"]["http"]["headers"]["x-forwarded-for"], "1.2.3.4, 5.6.7.8");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d27_to_d34_identity() {
    let (safe, compat) = (safe(), compat());
    const ID: &str = "spiffe://example.org/ns/a/sa/b";
    let get = || Check::http("GET", "/");

    let seen = input(&safe, get()).await;
    assert!(
        seen.get("source_principal").is_none()
            && seen.get("peer").is_none()
            && seen["attributes"]["source"].get("principal").is_none()
    );

    let seen = input(&safe, get().principal(ID)).await;
    assert_eq!((&seen["source_principal"], &seen["attributes"]["source"]["principal"]), (&json!(ID), &json!(ID)));
    assert!(seen.get("peer").is_none(), "a principal alone proves nothing");

    let leaf = safe.ca.svid(ID);
    let seen = input(&safe, get().certificate(&leaf.url_encoded()).principal(ID)).await;
    assert_eq!(
        (&seen["peer"]["spiffe_id"], &seen["peer"]["evidence"], &seen["principal"]),
        (&json!(ID), &json!("sidecar"), &json!(ID))
    );

    let two = |ca: &Ca| ca.leaf(|params| params.subject_alt_names = vec![uri(ID), uri("spiffe://example.org/x")]).url_encoded();
    assert_eq!(reason(&safe, get().certificate(&two(&safe.ca)).principal(ID)).await, "multiple_uri_sans");
    let seen = input(&compat, get().certificate(&two(&compat.ca)).principal(ID)).await;
    assert_eq!((&seen["source_principal"], &seen["peer_error"]), (&json!(ID), &json!("multiple_uri_sans")));
    assert!(seen.get("peer").is_none());

    let dns = safe.ca.leaf(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("admin.example.org".try_into().unwrap())];
        params.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://example.org/admin");
    });
    let seen = input(&safe, get().certificate(&dns.url_encoded()).principal("spiffe://example.org/admin")).await;
    assert_eq!(seen["peer_error"], "no_uri_san");
    assert!(seen.get("peer").is_none());

    for broken in ["%zz", "hello", "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----", &"A".repeat(20_000)] {
        assert_eq!(reason(&safe, get().certificate(broken)).await, "certificate_malformed", "{broken:.20}");
    }
    assert_eq!(reason(&safe, get().certificate(&format!("{0}{0}", leaf.url_encoded()))).await, "certificate_malformed");

    for id in [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://EXAMPLE.org/x",
        "spiffe://example.org:1/x",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/x?q",
        "spiffe://example.org/x#f",
        "https://example.org/x",
    ] {
        let leaf = safe.ca.leaf(|params| params.subject_alt_names = vec![uri(id)]);
        assert_eq!(reason(&safe, get().certificate(&leaf.url_encoded())).await, "invalid_spiffe_id", "{id}");
    }

    let now = time::OffsetDateTime::now_utc();
    let expired = safe.ca.leaf(|params| {
        params.subject_alt_names = vec![uri(ID)];
        params.not_after = now - time::Duration::minutes(1);
    });
    assert_eq!(reason(&safe, get().certificate(&expired.url_encoded())).await, "svid_expired");
    assert_eq!(reason(&safe, get().certificate(&Ca::new(DOMAIN).svid(ID).url_encoded())).await, "untrusted_chain");
    assert_eq!(
        reason(&safe, get().certificate(&leaf.url_encoded()).principal("spiffe://example.org/other")).await,
        "identity_mismatch"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn d36_to_d38_the_whole_input() {
    let safe = safe();
    let any = || {
        Check::http("GET", "/orders/7?full=1").change(|attributes| {
            attributes.metadata_context = Some(Default::default());
            attributes.context_extensions = crate::harness::check::pairs(&[("route", "orders")]);
            attributes.source.as_mut().unwrap().labels = crate::harness::check::pairs(&[("app", "shop")]);
        })
    };
    let id = "spiffe://example.org/ns/shop/sa/reader";
    let check = any().certificate(&safe.ca.svid(id).url_encoded()).principal(id).header("content-type", "application/json");
    let mut seen = input(&safe, check).await;
    redact(&mut seen);
    insta::assert_snapshot!(serde_json::to_string_pretty(&seen).unwrap());

    let seen = input(&safe, Check::tcp()).await;
    assert_eq!((&seen["parsed_path"], &seen["parsed_query"], &seen["parsed_body"]), (&json!([""]), &json!({}), &Value::Null));
    assert_eq!(seen["action"]["protocol"], "tcp");
    let answer = ask(&safe, Check::tcp()).await;
    assert_eq!((answer.code, answer.has_http), (0, false));

    let empty = safe.check(Default::default()).await.unwrap();
    assert_eq!(Answer::read(empty).code, 0, "the policy allows what has no header");
}

/// Takes out what differs from run to run.
fn redact(seen: &mut Value) {
    seen["attributes"]["source"]["certificate"] = json!("[pem]");
    seen["self"]["instance"] = json!("[uuid]");
    seen["session"]["id"] = json!("[id]");
    for key in ["ns", "rfc3339"] {
        seen["now"][key] = json!("[time]");
    }
    for key in ["sha256", "serial", "not_before", "not_after", "age_s"] {
        assert!(seen["peer"]["x509"].get(key).is_some(), "{key}");
        seen["peer"]["x509"][key] = json!(format!("[{key}]"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d39_to_d43_decisions() {
    let (safe, compat) = (safe(), compat());
    let get = |value: Value| Check::http("GET", "/").decision(&value);
    for doorward in [&safe, &compat] {
        let allow = ask(doorward, get(json!(true))).await;
        assert_eq!((allow.code, allow.metadata["decision_id"].as_str().map(str::len)), (0, Some(36)));
        let deny = ask(doorward, get(json!(false))).await;
        assert_eq!((deny.code, deny.metadata["decision_id"].as_str().map(str::len)), (7, Some(36)));
        let deny =
            ask(doorward, get(json!({"allowed": false, "http_status": 301, "headers": {"location": "/x"}, "body": "moved"})))
                .await;
        assert_eq!(
            (deny.code, deny.status, deny.body.as_deref(), deny.policy_headers()),
            (7, Some(301), Some("moved"), vec!["location: /x"])
        );
    }
    // `headers` is undefined for text that is no JSON: so is the decision.
    let undefined = Check::http("GET", "/").header("x-decision", "{");
    assert_eq!(reason(&safe, undefined.clone()).await, "undefined_decision");
    let status = compat.check(undefined.0).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unknown, "undefined decision"));
    for (value, word) in [
        (json!(1), "invalid_decision"),
        (json!("yes"), "invalid_decision"),
        (json!([true]), "invalid_decision"),
        (Value::Null, "invalid_decision"),
        (json!({"allow": true}), "invalid_decision"),
        (json!({"allowed": "true"}), "invalid_decision"),
        (json!({"allowed": false, "http_status": 418}), "invalid_result"),
        (json!({"allowed": false, "http_status": "403"}), "invalid_result"),
        (json!({"allowed": false, "body": 5}), "invalid_result"),
        (json!({"allowed": true, "headers": {"x-a": 5}}), "invalid_result"),
        (json!({"allowed": true, "request_headers_to_remove": "x"}), "invalid_result"),
        (json!({"allowed": true, "dynamic_metadata": []}), "invalid_result"),
    ] {
        assert_eq!(reason(&safe, get(value.clone())).await, word, "{value}");
        assert_eq!(compat.check(get(value.clone()).0).await.unwrap_err().code(), tonic::Code::Unknown, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d44_to_d51_what_an_allow_carries() {
    let safe = safe();
    let get = |value: Value| Check::http("GET", "/").decision(&value);
    let answer = ask(
        &safe,
        get(json!({
            "allowed": true,
            "headers": {"x-user": "alice", "x-groups": ["a", "b"]},
            "response_headers_to_add": {"set-cookie": ["a=1", "b=2"]},
            "request_headers_to_remove": ["authorization", ":path"],
            "query_parameters_to_set": {"q": "b&c=d"},
            "query_parameters_to_remove": ["debug"],
            "dynamic_metadata": {"decision_id": "mine", "deep": {"n": 1.5, "t": true, "z": null}},
        })),
    )
    .await;
    assert_eq!(answer.policy_headers(), ["x-groups: a", "+x-groups: b", "x-user: alice"]);
    assert_eq!(answer.response_headers, ["+set-cookie: a=1", "+set-cookie: b=2"]);
    assert_eq!(answer.removed, ["authorization"]);
    assert_eq!(answer.query_set, [("q".to_owned(), "b%26c%3Dd".to_owned())]);
    assert_eq!(answer.query_removed, ["debug"]);
    assert_eq!(answer.metadata["deep"], json!({"n": 1.5, "t": true, "z": null}));
    assert_ne!(answer.metadata["decision_id"], "mine");
    for (name, value) in [("bad name", "x"), ("x-a", "a\r\nb"), ("", "x"), (":path", "/x"), ("host", "x")] {
        assert_eq!(
            reason(&safe, get(json!({"allowed": true, "headers": {name: value}}))).await,
            "invalid_result",
            "{name}: {value:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d52_observe_lets_through_what_fails_too() {
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), top: "mode: observe\n", ..Setup::default() });
    doorward.wait_ready();
    for check in [
        Check::http("GET", "/").decision(&json!(false)),
        Check::http("GET", "/").decision(&json!(7)),
        Check::http("GET", "/").header("x-decision", "{"),
        Check::http("GET", "/a%zz"),
        Check::http("GET", "/").certificate("garbage"),
    ] {
        let answer = ask(&doorward, check).await;
        assert_eq!((answer.code, &answer.metadata["doorward"]["decision"]), (0, &json!("deny")));
        let record = doorward.record(answer.metadata["decision_id"].as_str().unwrap());
        assert_eq!((&record["body"]["enforced"], &record["body"]["decision"]), (&json!(false), &json!("deny")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d54_leases() {
    let safe = safe();
    let lease = |answer: &Answer| -> Option<u64> {
        answer.headers.iter().find_map(|line| line.strip_prefix("x-envoy-upstream-stream-duration-ms: ")?.parse().ok())
    };
    let get = |value: Value| Check::http("GET", "/").decision(&value).header("x-envoy-upstream-stream-duration-ms", "0");
    let answer = ask(&safe, get(json!({"allowed": true, "lease_s": 300}))).await;
    assert_eq!(lease(&answer), Some(300_000));
    let answer = ask(&safe, get(json!({"allowed": true}))).await;
    assert_eq!((lease(&answer), answer.removed), (None, vec!["x-envoy-upstream-stream-duration-ms".to_owned()]));
    let soon = safe.ca.leaf(|params| {
        params.subject_alt_names = vec![uri("spiffe://example.org/a")];
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::minutes(1);
    });
    let answer = ask(&safe, get(json!({"allowed": true, "lease_s": 300})).certificate(&soon.url_encoded())).await;
    assert!(lease(&answer).is_some_and(|lease| lease <= 60_000), "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn d55_a_deadline_bounds_the_evaluation() {
    let policy = "package envoy.authz\nallow if { input.attributes; some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y < 0 }\n";
    let doorward =
        Doorward::start(&Setup { policy: Some(policy), policy_lines: "  limits: {evaluation: 5s}\n", ..Setup::default() });
    doorward.wait_ready();
    let began = std::time::Instant::now();
    let mut request = tonic::Request::new(Check::http("GET", "/").0);
    request.set_timeout(std::time::Duration::from_millis(200));
    let mut client = tonic::client::Grpc::new(doorward.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    let codec: tonic_prost::ProstCodec<_, envoy_types::ext_authz::v3::pb::CheckResponse> = tonic_prost::ProstCodec::default();
    let _ = client.unary(request, path, codec).await;
    let record = crate::harness::eventually("the record", || doorward.decisions().pop());
    assert_eq!(record["body"]["reason"], "policy_timeout");
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "the policy's own limit is 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn d56_a_full_disk_changes_no_decision_unless_records_are_committed() {
    let records = |write: &str| format!("records: {{sink: {{file: {{path: /dev/full}}}}, write: {write}}}\n");
    for (write, policy_lines, code) in [("offer", "", 0), ("offer", COMPAT, 0), ("commit", "", 7), ("commit", COMPAT, 2)] {
        let setup = Setup { policy: Some(POLICY), policy_lines, top: &records(write), ..Setup::default() };
        let doorward = Doorward::start(&setup);
        doorward.wait_ready();
        let answer = ask(&doorward, Check::http("GET", "/").decision(&json!(true))).await;
        assert_eq!(answer.code, code, "{write}");
        if write == "commit" {
            assert_eq!(doorward.metric("doorward_decisions_total", &["record_unavailable"]), 1.0);
            assert!(doorward.metric("doorward_records_total", &["failed"]) >= 1.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d57_d58_no_policy_denies_and_a_bad_one_never_displaces_a_good_one() {
    let doorward = Doorward::start(&Setup::default());
    assert_eq!(doorward.get("/readyz").0, 503);
    assert_eq!(reason(&doorward, Check::http("GET", "/")).await, "no_policy");
    doorward.replace_policy(POLICY);
    doorward.wait_ready();
    let revision = doorward.readyz()["policy"]["revision"].clone();
    doorward.replace_policy("package envoy.authz\nallow if {");
    let policy = doorward.readyz()["policy"].clone();
    assert_eq!(policy["revision"], revision);
    let problem = &policy["last_error"]["problems"][0];
    assert_eq!((&problem["code"], &problem["line"]), (&json!("parse"), &json!(2)), "{policy}");
    assert_eq!(ask(&doorward, Check::http("GET", "/").decision(&json!(true))).await.code, 0);
    assert_eq!(doorward.get("/readyz").0, 200);
}

/// Every case of the table, in its order.
const CASES: &str = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 21b 22 23 24 25 26 27 28 29 30 31 32 33 34 34b 35 36 37 38 \
                     39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60";

#[test]
fn every_case_has_a_test() {
    let mut carried = Vec::new();
    collect(Path::new("src"), &mut carried);
    collect(Path::new("tests/it"), &mut carried);
    for case in CASES.split_whitespace() {
        let tested = carried.iter().any(|name| name == case);
        assert!(tested, "case {case} has no test that carries its number");
    }
}

/// The case numbers in the names of tests: `d01_d05_…`, `d21b_…`, and ranges `d27_to_d34_…`.
fn collect(folder: &Path, carried: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, carried);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for name in text.lines().filter_map(|line| line.trim().trim_start_matches("async ").strip_prefix("fn d")) {
            let mut last = None;
            let mut range = false;
            for part in format!("d{name}").split(['_', '(']) {
                let Some(number) = part.strip_prefix('d').filter(|number| number.starts_with(|c: char| c.is_ascii_digit()))
                else {
                    range = part == "to";
                    if range { continue } else { break }
                };
                let plain: u32 = number.trim_end_matches('b').parse().unwrap();
                if let (true, Some(from)) = (range, last) {
                    carried.extend((from..=plain).map(|number: u32| number.to_string()));
                }
                carried.push(number.trim_start_matches('0').to_owned());
                (last, range) = (Some(plain), false);
            }
        }
    }
}
