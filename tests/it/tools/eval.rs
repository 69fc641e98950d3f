//! `doorward eval` through the real binary: every form of a question, and the answer that `serve` gives.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use prost::Message as _;
use serde_json::{Value, json};

use super::doorward;
use crate::harness::{
    check::{Answer, Check, pairs},
    doorward::{Doorward, Setup},
};

const READER: &str = "spiffe://example.org/ns/shop/sa/reader";
const POLICY: &str = r#"package envoy.authz

default allow := {"allowed": false, "rule": "nobody", "reason": "nobody asked"}

allow := {"allowed": true, "rule": "reader", "headers": {"x-user": "reader"}} if {
	input.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/reader"
	input.parsed_path[0] == "orders"
	print("query", input.parsed_query)
}
"#;

fn folder(policy: &str) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("policy.rego"), policy).unwrap();
    folder
}

/// Exit code and JSON report.
fn eval(args: &[&str]) -> (Option<i32>, Value) {
    let output = doorward(&[&["eval", "--output", "json", "--timeout", "5s"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}")))
}

fn with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["eval", "--output", "json", "--timeout", "5s", "--input", "-"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_line_is_answered_with_all_that_took_part() {
    let folder = folder(POLICY);
    let policy = folder.path().to_str().unwrap();
    let args = ["--policy", policy, "--path", "/orders?id=7", "--peer", READER, "--at", "2026-11-22T06:47:00Z"];
    let (code, report) = eval(&args);
    assert_eq!((code, &report["decision"], &report["reason"]), (Some(0), &json!("allow"), &json!("policy")));
    assert_eq!(report["result"], json!({"allowed": true, "rule": "reader", "headers": {"x-user": "reader"}}));
    assert!(report["duration_ns"].as_u64().unwrap() > 0);
    assert!(report["answer"]["headers"].to_string().contains("x-user"));
    let mut report = report;
    report["duration_ns"] = json!("[time]");
    report["answer"]["dynamic_metadata"]["decision_id"] = json!("[id]");
    let shown = serde_json::to_string_pretty(&report).unwrap().replace(policy, "FOLDER");
    insta::assert_snapshot!("eval_json", shown);
    let table = doorward(&[&["eval"], &args[..]].concat());
    let table = String::from_utf8(table.stdout).unwrap().replace(policy, "FOLDER");
    let table: Vec<_> = table.lines().filter(|line| !line.starts_with("time ")).collect();
    insta::assert_snapshot!("eval_table", table.join("\n"));
    insta::assert_snapshot!("eval_help", String::from_utf8_lossy(&doorward(&["eval", "--help"]).stdout));
}

#[test]
fn every_form_of_a_question_is_taken() {
    let folder = folder(POLICY);
    let policy = folder.path().to_str().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let check = Check::http("GET", "/orders?id=7").principal(READER).0.encode_to_vec();
    let attributes =
        json!({"attributes": {"source": {"principal": READER}, "request": {"http": {"method": "GET", "path": "/orders"}}}});
    let document = json!({"peer": {"spiffe_id": READER}, "parsed_path": ["orders"], "parsed_query": {}});
    let record = json!({"v": 1, "id": "r", "kind": "decision", "at": "2026-11-22T06:47:00Z", "instance": "i", "seq": 1, "body": {
        "decision": "deny", "reason": "policy", "policy": {"path": "p", "revision": "old", "digest": "d"},
        "input": {"peer": {"spiffe_id": READER}, "parsed_path": ["orders"], "parsed_query": {"token": ["masked"]}},
    }});
    let write = |name: &str, value: &Value| at(name, value.to_string().as_bytes());
    let protobuf = at("check.bin", &check);
    for (args, code, form) in [
        (vec!["--input", &protobuf], 2, "check"),
        (vec!["--input", &protobuf, "--peer", READER], 0, "check"),
        (vec!["--input", &write("check.json", &attributes), "--peer", READER], 0, "check"),
        (vec!["--input", &write("check.json", &attributes), "--form", "document"], 2, "document"),
        (vec!["--input", &write("input.json", &document)], 0, "document"),
        (vec!["--input", &write("record.json", &record)], 0, "record"),
        (vec!["--path", "/orders", "--method", "DELETE", "--peer", READER, "--header", "x-a: b", "--body", "x"], 0, "check"),
        (vec!["--path", "/other", "--peer", READER], 2, "check"),
        (vec!["--path", "/a/%2e%2e/orders", "--peer", READER], 2, "check"),
        (vec!["--path", "/orders?a=%zz", "--peer", READER], 2, "check"),
    ] {
        let (got, report) = eval(&[&["--policy", policy], &args[..]].concat());
        assert_eq!((got, &report["form"]), (Some(code), &json!(form)), "{args:?}: {report}");
        let decision = if code == 0 { "allow" } else { "deny" };
        assert_eq!(report["decision"], decision, "{args:?}");
        if form == "record" {
            assert_eq!(report["masked"], json!(["parsed_query.token.0"]));
            assert_eq!(report["recorded"], json!({"id": "r", "decision": "deny", "reason": "policy", "revision": "old"}));
        }
    }
    let reason = |args: &[&str]| eval(&[&["--policy", policy, "--peer", READER, "--path"], args].concat()).1["reason"].clone();
    assert_eq!(reason(&["/a/%2e%2e/orders"]), "ambiguous_path");
    assert_eq!(reason(&["/orders?a=%zz"]), "request_parse_error");
    assert_eq!(reason(&["/a/%2e%2e/orders", "--compat", "opa-envoy"]), "policy");
    assert_eq!(with_input(&["--policy", policy], document.to_string().as_bytes()).status.code(), Some(0));
    assert_eq!(with_input(&["--policy", policy, "--peer", READER], &check).status.code(), Some(0));
}

#[test]
fn what_cannot_be_used_and_what_fails_end_apart() {
    let sound = folder(POLICY);
    let policy = sound.path().to_str().unwrap();
    let bad = folder("package envoy.authz\nallow if\n");
    let twice = folder("package envoy.authz\nallow := input.parsed_path[0]\nallow := input.parsed_path[1]\n");
    let endless = folder(
        "package envoy.authz\nx := numbers.range(1, 1000)\nallow if {\n\tinput.parsed_path[0] == \"a\"\n\tsome a in x\n\tsome b in x\n\tsome c in x\n\ta * b * c == 7.5\n}\n",
    );
    let other = folder("package other\n\ndefault go := true\n");
    let nothing = sound.path().join("nothing.json");
    let nothing = nothing.to_str().unwrap();
    let path_of = |folder: &tempfile::TempDir| folder.path().to_str().unwrap().to_owned();
    let (bad, twice, endless, other) = (path_of(&bad), path_of(&twice), path_of(&endless), path_of(&other));
    for (args, code) in [
        (vec!["--policy", policy], 3),
        (vec!["--path", "/"], 3),
        (vec!["--policy", policy, "--path", "/", "--input", "-"], 3),
        (vec!["--policy", policy, "--method", "GET"], 3),
        (vec!["--policy", policy, "--input", nothing], 3),
        (vec!["--policy", policy, "--path", "/", "--peer", "spiffe://example.org"], 3),
        (vec!["--policy", policy, "--path", "/", "--at", "noon"], 3),
        (vec!["--policy", &bad, "--path", "/"], 3),
        (vec!["--policy", &other, "--path", "/"], 3),
        (vec!["--policy", &other, "--path", "/", "--decision", "other/go"], 0),
        (vec!["--policy", &twice, "--path", "/a/b"], 2),
        (vec!["--config", nothing, "--path", "/"], 3),
    ] {
        let output = doorward(&[&["eval", "--timeout", "5s"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(code != 3 || !output.stderr.is_empty(), "{args:?}");
    }
    let unnamed = doorward(&["eval", "--policy", &other, "--path", "/"]);
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("`--decision PATH`"));
    assert_eq!(eval(&["--policy", &twice, "--path", "/a/b"]).1["reason"], "policy_error");
    let output = doorward(&["eval", "--output", "json", "--policy", &endless, "--path", "/a", "--timeout", "50ms"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["reason"]), (Some(2), &json!("policy_timeout")));
}

/// Answers what the header `x-decision` says, and shows the whole input.
const ECHO: &str = r#"package envoy.authz

allow := object.union(said, {"dynamic_metadata": {"input": input}})

default said := {"allowed": false}

said := json.unmarshal(input.attributes.request.http.headers["x-decision"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_request_is_answered_as_serve_answers_it() {
    let doorward = Doorward::start(&Setup { policy: Some(ECHO), ..Setup::default() });
    doorward.wait_ready();
    let leaf = doorward.ca.svid(READER);
    let allow = json!({"allowed": true, "rule": "r", "headers": {"x-user": ["a", "b"]}, "response_headers_to_add": {"x-b": "c"}});
    let deny = json!({"allowed": false, "http_status": 401, "body": "no", "headers": {"x-why": "because"}});
    let get = |path: &str| Check::http("GET", path);
    for check in [
        get("/orders?id=7").certificate(&leaf.url_encoded()).principal(READER).decision(&allow),
        get("/orders").decision(&deny).header("authorization", "Bearer s3cr3t"),
        get("/orders").body("application/json", r#"{"pin": 1.5, "list": [1, "a"]}"#),
        get("/a/../b"),
        get("/raw").raw_headers(&[("x-a", b"1"), ("x-a", b"\xff")]),
        get("/meta").change(|attributes| {
            attributes.metadata_context = Some(envoy_types::pb::envoy::config::core::v3::Metadata::default());
            attributes.context_extensions = pairs(&[("route", "r")]);
        }),
        get("/orders").certificate("broken"),
        get("/").decision(&json!({"allowed": 5})),
        Check::tcp(),
    ] {
        let file = doorward.path("check.bin");
        fs::write(&file, check.0.encode_to_vec()).unwrap();
        let served = Answer::read(doorward.check(check.0).await.unwrap());
        let config = doorward.path("doorward.yaml");
        let (code, report) = eval(&["--config", config.to_str().unwrap(), "--input", file.to_str().unwrap()]);
        let record = doorward.record(served.metadata["decision_id"].as_str().unwrap())["body"].clone();
        for key in ["decision", "reason", "rule"] {
            assert_eq!(report[key], record[key], "{key}: {report}");
        }
        assert_eq!(code, Some(if served.code == 0 { 0 } else { 2 }), "{report}");
        let answer = &report["answer"];
        assert_eq!(answer["status"], json!(served.status), "{report}");
        let headers: Vec<String> = answer["headers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|header| {
                let plus = if header["append"] == true { "+" } else { "" };
                format!("{plus}{}: {}", header["name"].as_str().unwrap(), header["value"].as_str().unwrap())
            })
            .collect();
        let policy = |line: &String| !line.contains("x-doorward-") && !line.contains("stream-duration");
        let headers: Vec<_> = headers.iter().filter(|line| policy(line)).collect();
        assert_eq!(headers, served.policy_headers());
        // Time and instance are not the same, and a question has no session. Everything else is.
        let unlike = |mut input: Value| {
            for part in ["session", "risk"] {
                input.as_object_mut().map(|members| members.remove(part));
            }
            for (part, key) in [("self", "instance"), ("now", "ns"), ("now", "rfc3339")] {
                input[part].as_object_mut().map(|members| members.remove(key));
            }
            if input["peer"]["x509"].is_object() {
                input["peer"]["x509"].as_object_mut().unwrap().remove("age_s");
            }
            input
        };
        // What the document shows of the request is the same request.
        fs::write(&file, json!({"attributes": report["input"]["attributes"]}).to_string()).unwrap();
        let (again, shown) = eval(&["--config", config.to_str().unwrap(), "--input", file.to_str().unwrap()]);
        assert_eq!((again, &shown["form"]), (code, &json!("check")), "{shown}");
        assert_eq!(unlike(shown["input"].clone()), unlike(report["input"].clone()));
        if served.metadata.get("input").is_some() {
            assert_eq!(unlike(report["answer"]["dynamic_metadata"]["input"].clone()), unlike(served.input().clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_asked_again_as_far_as_it_was_kept() {
    let policy = "package envoy.authz\ndefault allow := false\nallow if rand.intn(\"x\", 1000000) >= 0\n\nn := rand.intn(\"x\", 1000000)\n";
    let drawing = "package envoy.authz\nallow := {\"allowed\": true, \"rule\": sprintf(\"%d\", [rand.intn(\"x\", 1000000)])}\n";
    let doorward = Doorward::start(&Setup { policy: Some(drawing), ..Setup::default() });
    doorward.wait_ready();
    let served = doorward.check(Check::http("GET", "/a?token=s3cr3t").header("authorization", "Bearer s3cr3t").0).await.unwrap();
    let served = Answer::read(served);
    let record = doorward.record(served.metadata["decision_id"].as_str().unwrap());
    let file = doorward.path("record.json");
    fs::write(&file, record.to_string()).unwrap();
    let config = doorward.path("doorward.yaml");
    let (code, report) = eval(&["--config", config.to_str().unwrap(), "--input", file.to_str().unwrap()]);
    assert_eq!((code, &report["rule"]), (Some(0), &record["body"]["rule"]), "the same number is drawn: {report}");
    assert_eq!(report["input"]["now"], record["body"]["input"]["now"]);
    let masked = report["masked"].to_string();
    for part in ["headers.authorization", "http.path", "parsed_query.token"] {
        assert!(masked.contains(part), "{part} in {masked}");
    }
    // Another policy may decide otherwise.
    let new = folder(&policy.replace(">= 0", "< 0"));
    let (code, report) = eval(&["--policy", new.path().to_str().unwrap(), "--input", file.to_str().unwrap()]);
    assert_eq!((code, &report["recorded"]["decision"]), (Some(2), &json!("allow")));
}
