//! Every form of one question is the same question.

use serde_json::json;

use super::*;
use crate::request::Address;

fn decoded(question: Question) -> Decoded {
    question.decode(&Settings::default())
}

#[test]
fn both_spellings_and_the_input_document_are_one_message() {
    let camel = json!({"attributes": {
        "source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80, "protocol": "UDP"}}, "principal": "p"},
        "request": {"time": "2026-09-21T14:13:20.000000005Z", "http": {
            "method": "POST", "path": "/a?b=c", "size": "3", "rawBody": "e30=",
            "headerMap": {"headers": [{"key": "content-type", "rawValue": "YXBwbGljYXRpb24vanNvbg=="}]},
        }},
        "contextExtensions": {"k": "v"},
        "metadataContext": {"filterMetadata": {"f": {"n": 1.5, "list": [null, true, "x", {"y": 1}]}},
                            "typedFilterMetadata": {"t": {"typeUrl": "t/x", "value": "/w=="}}},
        "routeMetadataContext": null,
        "tlsSession": {"sni": "a.example"},
    }});
    let snake = json!({"attributes": {
        "source": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": "80", "protocol": 1}}, "principal": "p"},
        "request": {"time": {"seconds": 1_790_000_000, "nanos": 5}, "http": {
            "method": "POST", "path": "/a?b=c", "size": 3, "raw_body": "e30=",
            "header_map": {"headers": [{"key": "content-type", "raw_value": "YXBwbGljYXRpb24vanNvbg=="}]},
        }},
        "context_extensions": {"k": "v"},
        "metadata_context": {"filter_metadata": {"f": {"n": 1.5, "list": [null, true, "x", {"y": 1}]}},
                             "typed_filter_metadata": {"t": {"type_url": "t/x", "value": "/w=="}}},
        "tls_session": {"sni": "a.example"},
    }});
    let question = Question::from_json(camel).unwrap();
    assert_eq!(question, Question::from_json(snake).unwrap());
    assert_eq!(question, Question::from_protobuf(&question.0.encode_to_vec()).unwrap());
    let request = decoded(question).request;
    let http = request.http.unwrap();
    assert_eq!((http.parsed_path, json!(http.parsed_query)), (vec!["a".to_owned()], json!({"b": ["c"]})));
    assert_eq!(http.parsed_body, crate::request::Body::Parsed(json!({})));
    assert_eq!(request.metadata.unwrap().filter["f"], json!({"n": 1.5, "list": [null, true, "x", {"y": 1}]}));
    let Some(Address::Socket { port, protocol, .. }) = request.source.unwrap().address else { panic!("no socket address") };
    assert_eq!((port, protocol, request.sni.as_deref()), (Some(80), 1, Some("a.example")));
}

#[test]
fn other_addresses_are_read() {
    for (address, expected) in [
        (json!({"pipe": {"path": "/p", "mode": 420}}), Address::Pipe { path: "/p".to_owned(), mode: 420 }),
        (
            json!({"envoyInternalAddress": {"serverListenerName": "l", "endpointId": "e"}}),
            Address::Internal { listener: "l".to_owned(), endpoint_id: "e".to_owned() },
        ),
        (json!({}), Address::Unset),
    ] {
        let question = Question::from_json(json!({"attributes": {"destination": {"address": address}}})).unwrap();
        assert_eq!(decoded(question).request.destination.unwrap().address, Some(expected));
    }
}

#[test]
fn a_mistake_is_named_with_its_place() {
    for (attributes, path, text) in [
        (json!({"request": {"http": {"methd": "GET"}}}), "attributes.request.http", "unknown field `methd`"),
        (json!({"request": {"http": {"size": "x"}}}), "attributes.request.http.size", "no whole number"),
        (json!({"request": {"http": {"rawBody": "%"}}}), "attributes.request.http.rawBody", "no base64"),
        (json!({"request": {"time": "noon"}}), "attributes.request.time", "`noon`"),
        (json!({"metadataContext": {"typedFilterMetadata": {"t": {"@type": "x"}}}}), "typedFilterMetadata", "`@type`"),
    ] {
        let error = Question::from_json(json!({"attributes": attributes})).unwrap_err();
        let said = format!("{:#}", anyhow::Error::from(error));
        assert!(said.contains(path) && said.contains(text), "{said}");
    }
    assert!(Question::from_protobuf(b"nonsense").is_err());
}

#[test]
fn a_line_becomes_what_envoy_sends() {
    let question = Question::from_line(Line {
        method: "POST".to_owned(),
        path: "/x?y=1".to_owned(),
        host: "shop".to_owned(),
        headers: vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("x-a".to_owned(), "1".to_owned()),
            ("X-A".to_owned(), "2".to_owned()),
        ],
        body: br#"{"a":1}"#.to_vec(),
        principal: "spiffe://td/a".to_owned(),
        at: Now::from_seconds(7),
    });
    let decoded = decoded(question);
    assert_eq!(decoded.parse_error, None);
    let http = decoded.request.http.unwrap();
    let seen: Vec<_> = http.headers.iter().collect();
    assert_eq!(
        seen,
        [
            (":authority", "shop"),
            (":method", "POST"),
            (":path", "/x?y=1"),
            (":scheme", "https"),
            ("content-length", "7"),
            ("content-type", "application/json"),
            ("x-a", "1,2"),
        ]
    );
    assert_eq!(http.parsed_body, crate::request::Body::Parsed(json!({"a": 1})));
    assert_eq!(decoded.request.source.unwrap().principal, "spiffe://td/a");
}
