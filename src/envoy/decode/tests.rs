//! The cases of decoding by their numbers, and the promise that any bytes are decided.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::{
    envoy::service::auth::v3::attribute_context::{Request as ProtoRequest, TlsSession},
    google::protobuf::{Struct, Timestamp as ProtoTimestamp},
};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::{
    request::{Ambiguity, Body, Metadata, UrlView},
    verdict::Protocol,
};

fn check(http: HttpRequest) -> CheckRequest {
    let request = ProtoRequest { time: None, http: Some(http) };
    CheckRequest { attributes: Some(AttributeContext { request: Some(request), ..AttributeContext::default() }) }
}

fn decoded(http: HttpRequest) -> (Http, Option<String>) {
    let decoded = decode(check(http), &Settings::default());
    (decoded.request.http.expect("an HTTP check"), decoded.parse_error)
}

fn get(path: &str) -> (Http, Option<String>) {
    decoded(HttpRequest { method: "GET".to_owned(), path: path.to_owned(), ..HttpRequest::default() })
}

fn parsed(path: &str) -> Http {
    let (http, error) = get(path);
    assert_eq!(error, None, "{path}");
    assert_eq!(http.path, path, "the path itself is never touched");
    http
}

fn error(path: &str) -> String {
    get(path).1.unwrap_or_else(|| panic!("`{path}` was parsed"))
}

fn map(list: &[(&str, &str)]) -> HashMap<String, String> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn raw(list: &[(&str, &[u8])]) -> Option<core::HeaderMap> {
    let headers = list.iter().map(|(key, value)| core::HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.to_vec(),
    });
    Some(core::HeaderMap { headers: headers.collect() })
}

#[test]
fn d01_leading_slashes_do_not_hide_a_segment() {
    let http = parsed("//admin/x?a=1");
    assert_eq!(http.parsed_path, ["admin", "x"]);
    assert_eq!(json!(http.parsed_query), json!({"a": ["1"]}));
    assert_eq!(http.url.path, "/admin/x");
}

#[test]
fn d02_encoded_slash_splits_for_the_plugin_and_not_in_the_url_view() {
    let http = parsed("/a%2Fb?c/d%2F..");
    assert_eq!(http.parsed_path, ["a", "b"]);
    assert_eq!(http.url.segments, ["a%2Fb"]);
    assert_eq!(http.url.reasons, [Ambiguity::EncodedSlash]);
    assert!(http.url.is_dangerous());
}

#[test]
fn d03_escapes_are_decoded_once() {
    assert_eq!(parsed("/a%252Fb").parsed_path, ["a%2Fb"]);
}

#[test]
fn d04_dot_segments_are_kept_for_the_plugin_and_resolved_in_the_url_view() {
    for path in ["/a/../b", "/a/%2e%2e/b"] {
        let http = parsed(path);
        assert_eq!(http.parsed_path, ["a", "..", "b"]);
        assert_eq!(http.url.segments, ["b"]);
        assert_eq!(http.url.reasons, [Ambiguity::DotSegment]);
    }
}

#[test]
fn d05_empty_segments() {
    for (path, expected) in [("/", &[""] as &[&str]), ("", &[""]), ("?", &[""]), ("/a/", &["a", ""]), ("/a//b", &["a", "", "b"])]
    {
        assert_eq!(parsed(path).parsed_path, expected, "{path}");
    }
}

#[test]
fn d06_bad_escape_in_the_path_is_an_error_that_keeps_the_request() {
    assert_eq!(error("/a%zz"), "path: invalid percent-escape `%zz`");
    let (http, _) = get("/../a%zz?b=1");
    assert_eq!(http.path, "/../a%zz?b=1");
    assert_eq!(http.url.path, "/a%zz");
    assert!(http.parsed_path.is_empty() && http.parsed_query.is_empty());
}

#[test]
fn d07_semicolon_in_the_query_is_an_error() {
    assert_eq!(error("/?a=1;b=2"), "query: semicolon where `&` separates parameters");
    assert_eq!(error("/?a=%zz"), "query: invalid percent-escape `%zz`");
}

#[test]
fn d08_query_values_are_lists_and_keys_keep_their_case() {
    assert_eq!(json!(parsed("/?a=1&a=2&A=3&b").parsed_query), json!({"a": ["1", "2"], "A": ["3"], "b": [""]}));
    assert_eq!(json!(parsed("/?x=b+c%2B").parsed_query), json!({"x": ["b c+"]}));
    assert_eq!(json!(parsed("/?x=a?b").parsed_query), json!({"x": ["a?b"]}), "only the first `?` counts");
}

#[test]
fn d09_bytes_that_are_no_utf8_become_one_replaced_segment() {
    let http = parsed("/%ff");
    assert_eq!(http.parsed_path, ["\u{fffd}"]);
    assert_eq!(http.url.reasons, [Ambiguity::NotUtf8]);
}

#[test]
fn d10_odd_targets_are_marked() {
    for path in ["Service/Method", "http://h/x", "/a#f", "/a\\b"] {
        assert!(!parsed(path).url.reasons.is_empty(), "{path}");
    }
    assert_eq!(parsed("http://h/x").parsed_path, ["http:", "", "h", "x"]);
}

#[test]
fn d11_ten_thousand_and_one_parameters_are_an_error() {
    assert_eq!(error(&format!("/?{}", ["a=1"; 10_001].join("&"))), "query: more than 10000 parameters");
    assert_eq!(error(&format!("/?{}", "&".repeat(4 << 20))), "query: more than 10000 parameters");
    assert_eq!(parsed(&format!("/?{}", ["a=1"; 10_000].join("&"))).parsed_query["a"].len(), 10_000);
}

#[test]
fn d12_d13_pseudo_headers_and_joined_values_are_kept() {
    let headers = map(&[(":authority", "h"), (":method", "GET"), (":path", "/"), (":scheme", "https"), ("x-role", "user,admin")]);
    let (http, _) = decoded(HttpRequest { headers, ..HttpRequest::default() });
    for (name, value) in [(":authority", "h"), (":method", "GET"), (":path", "/"), (":scheme", "https"), ("x-role", "user,admin")]
    {
        assert_eq!(http.headers.get(name), Some(value));
    }
    assert_eq!(http.headers.raw(), None);
}

#[test]
fn d14_raw_headers_give_the_same_view() {
    let list: &[(&str, &[u8])] =
        &[("content-type", b"application/json"), ("x-role", b"user"), ("x-role", b"admin"), ("content-length", b"7")];
    let (http, error) = decoded(HttpRequest { header_map: raw(list), body: r#"{"a":1}"#.to_owned(), ..HttpRequest::default() });
    assert_eq!(error, None);
    assert_eq!(http.headers.get("x-role"), Some("user,admin"));
    assert_eq!(http.headers.raw().map(<[_]>::len), Some(4));
    assert_eq!(http.parsed_body, Body::Parsed(json!({"a": 1})));

    let partial = raw(&[("content-type", b"application/json"), ("x-envoy-auth-partial-body", b"true")]);
    let (http, _) = decoded(HttpRequest { header_map: partial, body: "{".to_owned(), ..HttpRequest::default() });
    assert_eq!(http.parsed_body, Body::Truncated);
}

#[test]
fn d14_a_list_may_be_empty_carry_text_or_come_beside_a_map() {
    let (http, _) = decoded(HttpRequest { header_map: raw(&[]), ..HttpRequest::default() });
    assert_eq!(http.headers.raw(), Some(&[] as &[_]));
    let text = core::HeaderValue { key: "a".to_owned(), value: "b".to_owned(), raw_value: Vec::new() };
    let header_map = Some(core::HeaderMap { headers: vec![text] });
    let (http, _) = decoded(HttpRequest { header_map, ..HttpRequest::default() });
    assert_eq!(http.headers.get("a"), Some("b"));
    let (http, _) =
        decoded(HttpRequest { headers: map(&[("a", "map")]), header_map: raw(&[("a", b"list")]), ..HttpRequest::default() });
    assert_eq!(http.headers.get("a"), Some("map"));
}

#[test]
fn d15_header_bytes_that_are_no_utf8_are_decided() {
    let (http, error) = decoded(HttpRequest { header_map: raw(&[("x", b"\xff\xfe")]), ..HttpRequest::default() });
    assert_eq!(error, None);
    assert_eq!(http.headers.get("x"), Some("\u{fffd}\u{fffd}"));
    assert_eq!(http.headers.raw(), Some(&[("x".to_owned(), b"\xff\xfe".to_vec())] as &[_]));
}

#[test]
fn d18_sixty_kilobytes_of_headers() {
    let headers = (0..1_000).map(|n| (format!("x-{n}"), "v".repeat(60))).collect();
    let (http, error) = decoded(HttpRequest { headers, ..HttpRequest::default() });
    assert_eq!(error, None);
    assert_eq!(http.headers.iter().count(), 1_000);
}

#[test]
fn d21_bad_json_is_an_error_with_path_and_query_parsed() {
    for body in ["{", "{} x"] {
        let (http, error) = decoded(HttpRequest {
            headers: map(&[("content-type", "application/json")]),
            path: "/a?b".to_owned(),
            body: body.to_owned(),
            ..HttpRequest::default()
        });
        assert!(error.unwrap().starts_with("body: json: "));
        assert_eq!(http.parsed_path, ["a"]);
        assert_eq!(http.parsed_body, Body::None);
    }
}

#[test]
fn d21b_exact_limit_is_cut_by_default_and_not_in_compat() {
    let at = |compat| {
        let headers = map(&[("content-type", "application/x-www-form-urlencoded"), ("x-envoy-auth-partial-body", "false")]);
        let http = HttpRequest { headers, raw_body: b"a=1".to_vec(), ..HttpRequest::default() };
        decode(check(http), &Settings { max_body: Some(3), compat, ..Settings::default() }).request.http.unwrap().parsed_body
    };
    assert_eq!(at(None), Body::Truncated);
    assert_eq!(at(Some(Compat::OpaEnvoy)), Body::Parsed(json!({"a": ["1"]})));
}

fn full_check() -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(core::Address {
                    address: Some(address::Address::SocketAddress(core::SocketAddress {
                        address: "10.0.0.1".to_owned(),
                        protocol: 1,
                        port_specifier: Some(PortSpecifier::PortValue(0)),
                        ..core::SocketAddress::default()
                    })),
                }),
                service: "web".to_owned(),
                labels: map(&[("l", "v")]),
                principal: "spiffe://td/a".to_owned(),
                certificate: "pem".to_owned(),
            }),
            destination: Some(Peer::default()),
            request: Some(ProtoRequest {
                time: Some(ProtoTimestamp { seconds: 5, nanos: 7 }),
                http: Some(HttpRequest {
                    id: "1".to_owned(),
                    method: "GET".to_owned(),
                    headers: map(&[("content-type", "application/grpc+proto")]),
                    header_map: None,
                    path: "/a?b=c".to_owned(),
                    host: "h".to_owned(),
                    scheme: "https".to_owned(),
                    query: "q".to_owned(),
                    fragment: "f".to_owned(),
                    size: -1,
                    protocol: "HTTP/2".to_owned(),
                    body: "text".to_owned(),
                    raw_body: vec![0xff],
                }),
            }),
            context_extensions: map(&[("route", "r")]),
            metadata_context: Some(core::Metadata::default()),
            route_metadata_context: Some(core::Metadata {
                filter_metadata: [("ns".to_owned(), Struct::default())].into(),
                ..core::Metadata::default()
            }),
            tls_session: Some(TlsSession { sni: "sni".to_owned() }),
        }),
    }
}

#[test]
fn d36_every_attribute_is_carried() {
    let labelled = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let expected = Request {
        source: Some(Endpoint {
            address: Some(Address::Socket {
                address: "10.0.0.1".to_owned(),
                port: Some(0),
                named_port: String::new(),
                protocol: 1,
                resolver: String::new(),
                ipv4_compat: false,
            }),
            service: "web".to_owned(),
            labels: labelled("l", "v"),
            principal: "spiffe://td/a".to_owned(),
            certificate: "pem".to_owned(),
        }),
        destination: Some(Endpoint::default()),
        time: Some(Timestamp { seconds: 5, nanos: 7 }),
        http: Some(Http {
            id: "1".to_owned(),
            method: "GET".to_owned(),
            headers: Headers::from_map([("content-type".to_owned(), "application/grpc+proto".to_owned())]),
            path: "/a?b=c".to_owned(),
            host: "h".to_owned(),
            scheme: "https".to_owned(),
            query: "q".to_owned(),
            fragment: "f".to_owned(),
            size: -1,
            protocol: "HTTP/2".to_owned(),
            body: "text".to_owned(),
            raw_body: vec![0xff],
            parsed_path: vec!["a".to_owned()],
            parsed_query: BTreeMap::from([("b".to_owned(), vec!["c".to_owned()])]),
            parsed_body: Body::None,
            url: UrlView { path: "/a".to_owned(), segments: vec!["a".to_owned()], reasons: Vec::new() },
        }),
        has_request: true,
        context_extensions: labelled("route", "r"),
        metadata: Some(Metadata::default()),
        route_metadata: Some(Metadata {
            filter: [("ns".to_owned(), json!({}))].into_iter().collect(),
            typed: serde_json::Map::new(),
        }),
        sni: Some("sni".to_owned()),
    };
    let decoded = decode(full_check(), &Settings::default());
    assert_eq!(decoded.request, expected);
    assert_eq!(decoded.parse_error, None);
    assert_eq!(decoded.request.protocol(), Protocol::Grpc);
}

#[test]
fn every_kind_of_address() {
    let socket = |port_specifier| {
        address(core::Address {
            address: Some(address::Address::SocketAddress(core::SocketAddress {
                address: "h".to_owned(),
                port_specifier,
                resolver_name: "r".to_owned(),
                ipv4_compat: true,
                ..core::SocketAddress::default()
            })),
        })
    };
    let expected = |port, named_port: &str| Address::Socket {
        address: "h".to_owned(),
        port,
        named_port: named_port.to_owned(),
        protocol: 0,
        resolver: "r".to_owned(),
        ipv4_compat: true,
    };
    assert_eq!(socket(Some(PortSpecifier::PortValue(80))), expected(Some(80), ""));
    assert_eq!(socket(Some(PortSpecifier::NamedPort("http".to_owned()))), expected(None, "http"));
    assert_eq!(socket(None), expected(None, ""));

    let of = |kind| address(core::Address { address: Some(kind) });
    let pipe = address::Address::Pipe(core::Pipe { path: "/p".to_owned(), mode: 0o600 });
    assert_eq!(of(pipe), Address::Pipe { path: "/p".to_owned(), mode: 0o600 });
    let internal = address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress {
        endpoint_id: "e".to_owned(),
        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName("l".to_owned())),
    });
    assert_eq!(of(internal), Address::Internal { listener: "l".to_owned(), endpoint_id: "e".to_owned() });
    assert_eq!(address(core::Address { address: None }), Address::Unset);
}

#[test]
fn d37_tcp_check_has_no_http() {
    let attributes = AttributeContext { source: Some(Peer::default()), ..AttributeContext::default() };
    let decoded = decode(CheckRequest { attributes: Some(attributes) }, &Settings::default());
    assert_eq!(decoded.parse_error, None);
    assert_eq!(decoded.request.protocol(), Protocol::Tcp);
    assert!(!decoded.request.has_request);

    let attributes = AttributeContext { request: Some(ProtoRequest::default()), ..AttributeContext::default() };
    let decoded = decode(CheckRequest { attributes: Some(attributes) }, &Settings::default());
    assert!(decoded.request.has_request && decoded.request.http.is_none());
}

#[test]
fn d38_empty_check_is_an_empty_request() {
    for check in [CheckRequest::default(), CheckRequest { attributes: Some(AttributeContext::default()) }] {
        let decoded = decode(check, &Settings::default());
        assert_eq!(decoded.request, Request::default());
        assert_eq!(decoded.parse_error, None);
    }
}

proptest! {
    #[test]
    fn any_path_query_and_body_is_decided(
        path in "\\PC*|(/|%|[?&=;#+.]|%[0-9a-f]{2}|[a-z]){0,40}",
        kind in "\\PC*|application/(json|grpc|x-www-form-urlencoded)|multipart/form-data",
        length in prop::option::of("\\PC{0,4}|[0-9]{1,3}"),
        body in "\\PC*|[\\[\\]{}\":,0-9a-z\\\\u$&=;%+]{0,40}",
        raw_body in prop::collection::vec(any::<u8>(), 0..40),
        max_body in prop::option::of(0_usize..40),
        listed in any::<bool>(),
    ) {
        let mut headers = vec![("content-type", kind)];
        headers.extend(length.map(|length| ("content-length", length)));
        let list: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let header_map = if listed { raw(&list) } else { None };
        let headers = if listed { map(&[]) } else { headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() };
        let http = HttpRequest { path: path.clone(), headers, header_map, body, raw_body, ..HttpRequest::default() };
        let decoded = decode(check(http), &Settings { max_body, ..Settings::default() });
        prop_assert_eq!(decoded.request.http.map(|http| http.path), Some(path));
    }

    #[test]
    fn any_bytes_that_prost_decodes_are_decided(
        mut bytes in prop::collection::vec(any::<u8>(), 0..60),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        random in any::<bool>(),
    ) {
        if !random {
            bytes = check(HttpRequest {
                path: "/a%2Fb/../c?d=e".to_owned(),
                headers: map(&[("content-type", "application/json"), ("content-length", "7")]),
                header_map: raw(&[("x", b"y")]),
                raw_body: b"{\"a\":1}".to_vec(),
                ..HttpRequest::default()
            })
            .encode_to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Ok(check) = CheckRequest::decode(bytes.as_slice()) {
            decode(check, &Settings::default());
        }
    }
}
