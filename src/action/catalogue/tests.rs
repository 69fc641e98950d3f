//! Which action a request is, and which catalogues are refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::request::{Ambiguity, Headers, UrlView};

fn catalogue(document: &Value) -> Catalogue {
    Catalogue::compile(document).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn request(method: &str, host: &str, path: &str) -> Request {
    let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let url = UrlView { path: path.to_owned(), segments, reasons: Vec::new() };
    let http = Http { method: method.to_owned(), host: host.to_owned(), path: path.to_owned(), url, ..Http::default() };
    Request { http: Some(http), ..Request::default() }
}

fn with(mut request: Request, change: impl FnOnce(&mut Http)) -> Request {
    change(request.http.as_mut().unwrap());
    request
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::from_map(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn name(catalogue: &Catalogue, request: &Request) -> Option<String> {
    catalogue.find(request).entry.map(|entry| entry.name.to_string())
}

#[test]
fn the_narrowest_match_is_taken() {
    let catalogue = catalogue(&json!({
        "any": {"match": [{"path": "/a/**"}]},
        "one": {"match": [{"path": "/a/{id}", "methods": ["GET"]}]},
        "list": {"match": [{"path": "/a/list", "methods": ["GET", "HEAD"]}]},
        "shop": {"match": [{"path": "/a/{id}", "methods": ["GET"], "host": "shop.example"}]},
        "deep": {"match": [{"path": "/a/*/b"}]},
        "grpc": {"match": [{"grpc": "pkg.Svc/Get"}]},
        "service": {"match": [{"grpc": "pkg.Svc/*"}]},
        "root": {"match": [{"path": "/"}]},
        "database": {"match": [{"tcp": {"port": 5432}}]},
    }));
    for (method, host, path, expected) in [
        ("GET", "x", "/a/1", Some("one")),
        ("POST", "x", "/a/1", Some("any")),
        ("GET", "x", "/a/list", Some("list")),
        ("DELETE", "x", "/a/list", Some("any")),
        ("GET", "Shop.Example.:8443", "/a/1", Some("shop")),
        ("GET", "x", "/a/1/b", Some("deep")),
        ("GET", "x", "/a/1/c", Some("any")),
        ("GET", "x", "/a", Some("any")),
        ("GET", "x", "/", Some("root")),
        ("GET", "x", "/b", None),
        ("POST", "x", "/pkg.Svc/Get", None),
    ] {
        assert_eq!(name(&catalogue, &request(method, host, path)).as_deref(), expected, "{method} {host} {path}");
    }
    let grpc =
        |path: &str| with(request("POST", "x", path), |http| http.headers = headers(&[("content-type", "application/grpc")]));
    assert_eq!(name(&catalogue, &grpc("/pkg.Svc/Get")).as_deref(), Some("grpc"));
    assert_eq!(name(&catalogue, &grpc("/pkg.Svc/Put")).as_deref(), Some("service"));
    let action = catalogue.find(&request("GET", "x", "/a/7"));
    assert_eq!(action.params, [("id".into(), "7".to_owned())]);
    let mut tcp = Request::default();
    assert_eq!(name(&catalogue, &tcp), None);
    let socket = crate::request::Address::Socket {
        address: "1.2.3.4".to_owned(),
        port: Some(5432),
        named_port: String::new(),
        protocol: 0,
        resolver: String::new(),
        ipv4_compat: false,
    };
    tcp.destination = Some(crate::request::Endpoint { address: Some(socket), ..Default::default() });
    assert_eq!(name(&catalogue, &tcp).as_deref(), Some("database"));
    assert!(catalogue.explain(&request("GET", "x", "/a/list")).iter().any(|line| line.contains("list")));
}

#[test]
fn what_can_be_read_in_two_ways_is_not_known() {
    let catalogue = catalogue(&json!({
        "get": {"match": [{"path": "/a/{id}", "methods": ["GET"]}], "class": "read", "resource": {"type": "a", "id": {"param": "id"}, "tenant": {"query": "t"}}},
        "body": {"match": [{"path": "/b"}], "resource": {"type": "b", "id": {"body": "x.id"}}},
        "header": {"match": [{"path": "/h"}], "resource": {"type": "h", "id": {"header": "X-Id"}}},
    }));
    let get = |change: &dyn Fn(&mut Http)| catalogue.find(&with(request("GET", "x", "/a/1"), |http| change(http)));
    let tenant = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let good = get(&|http| drop(http.parsed_query.insert("t".to_owned(), tenant(&["one"]))));
    let resource = good.resource.clone().unwrap();
    assert_eq!((&*resource.kind, resource.id.as_deref(), resource.tenant.as_deref()), ("a", Some("1"), Some("one")));
    assert!(good.is_known());
    let twice = get(&|http| drop(http.parsed_query.insert("t".to_owned(), tenant(&["one", "two"]))));
    assert_eq!((twice.is_known(), twice.error), (false, Some("resource_ambiguous")));
    assert_eq!(get(&|_| {}).error, Some("resource_missing"));
    for header in OVERRIDES {
        assert_eq!(get(&|http| http.headers = headers(&[(header, "DELETE")])).error, Some("method_override"));
    }
    for reason in [Ambiguity::EncodedSlash, Ambiguity::EmptySegment, Ambiguity::Parameter, Ambiguity::AbsoluteForm] {
        assert_eq!(get(&|http| http.url.reasons.push(reason)).error, Some("ambiguous_path"));
    }
    let body = |text: &str| {
        catalogue.find(&with(request("POST", "x", "/b"), |http| {
            http.body = text.to_owned();
            http.parsed_body = serde_json::from_str(text).map_or(Body::None, Body::Parsed);
        }))
    };
    assert_eq!(body(r#"{"x":{"id":7}}"#).resource.unwrap().id.as_deref(), Some("7"));
    assert_eq!(body(r#"{"x":{"id":7,"id":8}}"#).error, Some("resource_ambiguous"));
    assert_eq!(body(r#"{"x":{}}"#).error, Some("resource_missing"));
    assert!(body(r#"{"x":{"id":7}}"#).args_digest.is_some(), "what is no read tells its arguments");
    let header =
        |value: &str| catalogue.find(&with(request("GET", "x", "/h"), |http| http.headers = headers(&[("x-id", value)]))).error;
    assert_eq!((header("1"), header("1,2")), (None, Some("resource_ambiguous")));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let one = |entry: Value| json!({"a": entry});
    let path = |path: &str| json!({"a": {"match": [{"path": path}]}});
    for (document, text) in [
        (json!([]), "no object"),
        (one(json!({})), "match"),
        (one(json!({"match": []})), "is empty"),
        (one(json!({"match": [{}]})), "one of"),
        (one(json!({"match": [{"path": "/a", "grpc": "a.B/C"}]})), "one of"),
        (one(json!({"match": [{"pth": "/a"}]})), "unknown field"),
        (one(json!({"match": [{"path": "/a", "methods": ["get"]}]})), "upper case"),
        (one(json!({"match": [{"path": "/a", "methods": []}]})), "never matches"),
        (one(json!({"match": [{"path": "/a", "host": "Shop"}]})), "never matches"),
        (one(json!({"match": [{"path": "/a", "host": "shop:80"}]})), "never matches"),
        (path("a"), "start with"),
        (path("/a/"), "never matches"),
        (path("/a//b"), "never matches"),
        (path("/a/../b"), "never matches"),
        (path("/a?b"), "never matches"),
        (path("/a%2Fb"), "never matches"),
        (path("/a/**/b"), "before its end"),
        (path("/a/x*"), "whole segment"),
        (path("/a/{x}/{x}"), "twice"),
        (one(json!({"match": [{"grpc": "NoMethod"}]})), "package.Service"),
        (one(json!({"match": [{"mcp": {"path": "/mcp"}}]})), "tool"),
        (one(json!({"match": [{"mcp": {"path": "/mcp", "tool": "a*b"}}]})), "not at its end"),
        (one(json!({"match": [{"tcp": {}}]})), "port"),
        (one(json!({"match": [{"path": "/a"}], "resource": {"type": "t", "id": {"param": "id"}}})), "does not have"),
        (one(json!({"match": [{"path": "/a"}], "tier": "hard"})), "unknown variant"),
        (one(json!({"match": [{"path": "/a"}], "evidence": "none", "adds": ["x"]})), "open to everybody"),
        (one(json!({"match": [{"path": "/a"}], "adds": [""]})), "1 to 128"),
        (json!({"a": {"match": [{"path": "/x/*"}]}, "b": {"match": [{"path": "/x/{id}"}]}}), "as narrow as"),
        (json!({"a": {"match": [{"path": "/x/*"}]}, "b": {"match": [{"path": "/*/x"}]}}), "as narrow as"),
        (
            json!({"a": {"match": [{"path": "/x", "methods": ["GET"]}]}, "b": {"match": [{"path": "/x", "host": "h"}]}}),
            "as narrow as",
        ),
        (
            json!({"a": {"match": [{"mcp": {"path": "/m", "tool": "t"}}]}, "b": {"match": [{"mcp": {"path": "/m", "tool": "t"}}]}}),
            "as narrow as",
        ),
        (json!({"a": {"match": [{"path": "/x"}, {"path": "/x"}]}}), "same action"),
    ] {
        let faults = Catalogue::compile(&document).unwrap_err();
        assert!(faults.iter().any(|fault| fault.text.contains(text)), "{document}: {faults:?}");
    }
    let fine = json!({"a": {"match": [{"path": "/x", "methods": ["GET"]}]}, "b": {"match": [{"path": "/x", "methods": ["POST"]}]}, "c": {"match": [{"path": "/x"}]}});
    assert!(Catalogue::compile(&fine).is_ok());
}

#[test]
fn ten_thousand_actions_are_found_like_ten() {
    let document: Value = (0..10_000)
        .map(|number| {
            (
                format!("a{number}"),
                json!({"match": [{"path": format!("/s{}/o{number}/{{id}}", number % 50), "methods": ["GET"]}]}),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    let catalogue = catalogue(&document);
    assert_eq!(name(&catalogue, &request("GET", "x", "/s42/o4242/7")).as_deref(), Some("a4242"));
}

fn segment() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "*"]).prop_map(str::to_owned)
}

proptest! {
    /// The tree against going through all patterns.
    #[test]
    fn the_tree_finds_what_a_list_finds(
        patterns in prop::collection::vec((prop::collection::vec(segment(), 0..4), any::<bool>()), 1..12),
        asked in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..5),
    ) {
        let written: Vec<String> = patterns.iter().map(|(segments, open)| {
            let mut parts = segments.clone();
            if *open { parts.push("**".to_owned()); }
            format!("/{}", parts.join("/"))
        }).collect();
        let document: Value = written.iter().enumerate().map(|(number, path)| (format!("a{number}"), json!({"match": [{"path": path}]}))).collect::<serde_json::Map<_, _>>().into();
        let Ok(catalogue) = Catalogue::compile(&document) else { return Ok(()) };
        let fits = |(segments, open): &(Vec<String>, bool)| {
            (segments.len() == asked.len() || (*open && segments.len() <= asked.len()))
                && segments.iter().zip(&asked).all(|(pattern, part)| pattern == "*" || pattern == part)
        };
        let width = |(segments, open): &(Vec<String>, bool)| (segments.iter().filter(|part| *part != "*").count(), !open, segments.len());
        let best = patterns.iter().enumerate().filter(|(_, pattern)| fits(pattern)).max_by_key(|(_, pattern)| width(pattern));
        let found = name(&catalogue, &request("GET", "x", &format!("/{}", asked.join("/"))));
        prop_assert_eq!(found, best.map(|(number, _)| format!("a{number}")));
    }
}
