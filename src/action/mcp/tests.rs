//! Bodies that mean one call, and those that might mean two.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    action::catalogue::Catalogue,
    request::{Headers, Request, UrlView},
    verdict::Protocol,
};

fn request(method: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let usual = [("content-type", "application/json")];
    let own = usual.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| name == other)).chain(headers);
    let http = Http {
        method: method.to_owned(),
        path: "/mcp".to_owned(),
        url: UrlView { path: "/mcp".to_owned(), segments: vec!["mcp".to_owned()], reasons: Vec::new() },
        headers: Headers::from_map(own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))),
        raw_body: body.to_vec(),
        ..Http::default()
    };
    Request { http: Some(http), ..Request::default() }
}

fn catalogue() -> Catalogue {
    let document = json!({
        "read": {"match": [{"mcp": {"path": "/mcp", "tool": "read_customer"}}], "class": "read", "resource": {"type": "customer", "id": {"arg": "id"}}},
        "admin": {"match": [{"mcp": {"path": "/mcp", "tool": "admin_*"}}], "class": "admin"},
        "other": {"match": [{"mcp": {"path": "/mcp", "tool": "*"}}], "class": "execute"},
        "file": {"match": [{"mcp": {"path": "/mcp", "uri": "file:///pub/*"}}], "class": "read"},
        "session": {"match": [{"mcp": {"path": "/mcp", "method": "initialize"}}, {"mcp": {"path": "/mcp", "method": "ping"}},
            {"mcp": {"path": "/mcp", "method": "sse"}}, {"mcp": {"path": "/mcp", "method": "end"}}, {"mcp": {"path": "/mcp", "method": "response"}}]},
    });
    Catalogue::compile(&document).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// The action, or why it is not known.
fn found(method: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<String, &'static str> {
    let action = catalogue().find(&request(method, headers, body));
    assert_eq!(action.protocol, Protocol::Mcp);
    action.entry.map(|entry| entry.name.to_string()).ok_or(action.error.unwrap_or("unlisted"))
}

const READ: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_customer","arguments":{"id":"7"}}}"#;

#[test]
fn bodies_mean_one_thing_or_nothing() {
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}1{}}}}}"#, "[".repeat(70), "]".repeat(70));
    let tool = |name: &str| format!(r#"{{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{{"name":"{name}"}}}}"#);
    let cases: Vec<(&str, String, Result<&str, &str>)> = vec![
        ("a call", READ.to_owned(), Ok("read")),
        ("white space around it", format!("  {READ}\n"), Ok("read")),
        ("another tool", tool("search"), Ok("other")),
        ("by the beginning of its name", tool("admin_drop"), Ok("admin")),
        ("case matters", tool("Read_customer"), Ok("other")),
        ("ping", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(), Ok("session")),
        (
            "initialize",
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"x","_meta":{"traceparent":"00"}}}"#
                .to_owned(),
            Ok("session"),
        ),
        (
            "a resource",
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///pub/a"}}"#.to_owned(),
            Ok("file"),
        ),
        (
            "another resource",
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///etc/a"}}"#.to_owned(),
            Err("unlisted"),
        ),
        ("an unlisted method", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned(), Err("unlisted")),
        ("an answer to the server", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(), Ok("session")),
        ("an answer with both", r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#.to_owned(), Err("mcp_malformed")),
        ("a batch", format!("[{READ}]"), Err("mcp_batch")),
        ("an empty batch", "[]".to_owned(), Err("mcp_batch")),
        ("nothing", String::new(), Err("mcp_no_body")),
        ("no JSON", "tools/call".to_owned(), Err("mcp_malformed")),
        ("a string", "\"tools/call\"".to_owned(), Err("mcp_malformed")),
        ("cut short", READ.chars().take(40).collect(), Err("mcp_malformed")),
        ("two documents", format!("{READ}{READ}"), Err("mcp_malformed")),
        ("a byte order mark", format!("\u{feff}{READ}"), Err("mcp_malformed")),
        ("another version", READ.replace("2.0", "1.0"), Err("mcp_malformed")),
        ("no version", READ.replace("\"jsonrpc\":\"2.0\",", ""), Err("mcp_malformed")),
        ("method twice", READ.replace("\"id\":1,", "\"method\":\"ping\","), Err("mcp_malformed")),
        ("name twice", READ.replace("\"name\":", "\"name\":\"search\",\"name\":"), Err("mcp_malformed")),
        ("name twice by an escape", READ.replace("\"name\":", "\"n\\u0061me\":\"search\",\"name\":"), Err("mcp_malformed")),
        ("argument twice", READ.replace("\"id\":\"7\"", "\"id\":\"7\",\"id\":\"8\""), Err("mcp_malformed")),
        ("id twice", READ.replace("\"id\":1", "\"id\":1,\"id\":2"), Err("mcp_malformed")),
        ("id null", READ.replace("\"id\":1", "\"id\":null"), Err("mcp_id")),
        ("id an object", READ.replace("\"id\":1", "\"id\":{}"), Err("mcp_id")),
        ("a member too many", READ.replace("\"id\":1", "\"id\":1,\"extra\":1"), Err("mcp_malformed")),
        ("method no string", READ.replace("\"tools/call\"", "7"), Err("mcp_malformed")),
        ("params a list", r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#.to_owned(), Err("mcp_malformed")),
        ("no name", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#.to_owned(), Err("mcp_malformed")),
        ("an empty name", tool(""), Err("mcp_malformed")),
        ("name no string", READ.replace("\"read_customer\"", "[\"read_customer\"]"), Err("mcp_malformed")),
        ("a reserved key", READ.replace("\"id\":\"7\"", "\"$serde_json::private::Number\":\"7\""), Err("mcp_malformed")),
        ("too deep", deep, Err("mcp_malformed")),
        ("the resource is missing", READ.replace("\"id\":\"7\"", "\"x\":1"), Err("resource_missing")),
    ];
    for (what, body, expected) in &cases {
        assert_eq!(found("POST", &[], body.as_bytes()), expected.map(str::to_owned), "{what}: {body}");
    }
    assert!(cases.len() >= 30);
    assert_eq!(found("POST", &[], b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"), Err("mcp_malformed"));
    for (what, method, headers, expected) in [
        ("a stream", "GET", &[][..], Ok("session")),
        ("the end", "DELETE", &[], Ok("session")),
        ("another method", "PUT", &[], Err("mcp_method")),
        ("a form", "POST", &[("content-type", "text/plain")], Err("mcp_content_type")),
        ("a charset", "POST", &[("content-type", "Application/JSON; charset=utf-8")], Ok("read")),
        ("cut by Envoy", "POST", &[("x-envoy-auth-partial-body", "true")], Err("mcp_body_incomplete")),
        ("shorter than announced", "POST", &[("content-length", "4096")], Err("mcp_body_incomplete")),
        ("a length that is none", "POST", &[("content-length", "x")], Err("mcp_body_incomplete")),
        ("another method by a header", "POST", &[("x-http-method-override", "GET")], Err("method_override")),
        ("a session of the client's", "POST", &[("mcp-session-id", "s")], Ok("read")),
    ] {
        assert_eq!(found(method, headers, READ.as_bytes()), expected.map(str::to_owned), "{what}");
    }
}

#[test]
fn headers_agree_with_the_body_from_the_version_on_that_has_them() {
    let new = ("mcp-protocol-version", "2026-07-28");
    let name = ("mcp-name", "read_customer");
    for (headers, expected) in [
        (vec![new, ("mcp-method", "tools/call"), name], Ok("read")),
        (vec![new, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?cmVhZF9jdXN0b21lcg==?=")], Ok("read")),
        (vec![new, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?%%?=")], Err("mcp_header_mismatch")),
        (vec![new, ("mcp-method", "tools/call")], Err("mcp_header_mismatch")),
        (vec![new, name], Err("mcp_header_mismatch")),
        (vec![new, ("mcp-method", "ping"), name], Err("mcp_header_mismatch")),
        (vec![new, ("mcp-method", "tools/call"), ("mcp-name", "search")], Err("mcp_header_mismatch")),
        (
            vec![("mcp-protocol-version", "2027-01-01"), ("mcp-method", "tools/call"), ("mcp-name", "search")],
            Err("mcp_header_mismatch"),
        ),
        (vec![("mcp-protocol-version", "2025-06-18"), ("mcp-method", "ping"), ("mcp-name", "search")], Ok("read")),
        (vec![("mcp-method", "ping")], Ok("read")),
    ] {
        assert_eq!(found("POST", &headers, READ.as_bytes()), expected.map(str::to_owned), "{headers:?}");
    }
}

#[test]
fn a_route_may_say_that_mcp_is_spoken_on_it() {
    let mut request = request("POST", &[], READ.as_bytes());
    let none = Catalogue::default();
    assert_eq!((none.find(&request).protocol, none.find(&request).mcp), (Protocol::Http, None));
    request.context_extensions.insert(ROUTE.to_owned(), "mcp".to_owned());
    request.context_extensions.insert(DENY_STATUS.to_owned(), "200".to_owned());
    let mcp = none.find(&request).mcp.unwrap();
    assert_eq!(
        (mcp.method.as_str(), mcp.tool.as_deref(), mcp.request_id.as_deref()),
        ("tools/call", Some("read_customer"), Some("1"))
    );
    assert!(mcp.refuse_with_200);
}

proptest! {
    /// What is known is what another parser, which takes everything, sees too.
    #[test]
    fn a_known_call_is_what_any_reader_sees(body in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..120, with in any::<u8>()) {
        let mut changed = READ.as_bytes().to_vec();
        if let Some(byte) = changed.get_mut(at) { *byte = with; }
        for text in [body, changed] {
            let action = catalogue().find(&request("POST", &[], &text));
            if action.is_known() {
                let seen: Value = serde_json::from_slice(&text).unwrap();
                let mcp = action.mcp.unwrap();
                prop_assert_eq!(seen["method"].as_str(), Some(mcp.method.as_str()));
                let mut id = String::new();
                write!(id, "{}", seen["id"]).unwrap();
                prop_assert_eq!(mcp.request_id, (!seen["id"].is_null()).then_some(id));
                if mcp.method == "tools/call" {
                    prop_assert_eq!(seen["params"]["name"].as_str(), mcp.tool.as_deref());
                }
            }
        }
    }
}
