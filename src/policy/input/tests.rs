//! The two forms of the document agree, and a policy gets all that it can read.

use serde_json::{Value as Json, json};

use super::*;
use crate::{policy::wanted::EVERYTHING, request::Headers};

fn request() -> Request {
    let list = vec![("x-a".to_owned(), b"1".to_vec()), ("cookie".to_owned(), b"\xff".to_vec())];
    let body = json!({"list": [1, {"deep": [true, null, "t\"ext"]}], "big": 12_345_678_901_234_567_890_u64});
    let http = Http {
        method: "GET".to_owned(),
        path: "/a?b=c".to_owned(),
        headers: Headers::from_list(list),
        raw_body: b"raw".to_vec(),
        parsed_path: vec!["a".to_owned()],
        parsed_query: [("b".to_owned(), vec!["c".to_owned(), "d".to_owned()])].into(),
        parsed_body: Body::Parsed(body),
        size: 3,
        ..Http::default()
    };
    let source = Endpoint {
        address: Some(Address::Pipe { path: "/p".to_owned(), mode: 1 }),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        principal: "p".to_owned(),
        ..Endpoint::default()
    };
    let metadata = Metadata { filter: [("f".to_owned(), json!({"n": 1.5}))].into_iter().collect(), ..Metadata::default() };
    Request {
        source: Some(source),
        http: Some(http),
        has_request: true,
        time: Some(Timestamp { seconds: 1, nanos: 0 }),
        metadata: Some(metadata),
        sni: Some(String::new()),
        ..Request::default()
    }
}

static NOTHING: Presented = Presented { tokens: Vec::new(), main: None, delegation: None };

fn facts<'a>(request: &'a Request, here: &'a Here) -> Facts<'a> {
    let presented = &NOTHING;
    let peer_error = Some(Reason::NoUriSan);
    Facts {
        request,
        peer: None,
        peer_error,
        presented,
        principal: None,
        signals: &[],
        here,
        own_id: None,
        now: Now::from_seconds(5),
    }
}

#[test]
fn both_forms_of_the_document_are_one() {
    let (whole, here) = (request(), Here::new([("instance", Some("i")), ("pod", None)]));
    for request in [&whole, &Request::default(), &Request::unread()] {
        let facts = facts(request, &here);
        let values = Input::of(&facts, &EVERYTHING).value.to_json_str().unwrap();
        let values: Json = serde_json::from_str(&values).unwrap();
        let lines: Json = serde_json::from_slice(&facts.masked(&|_, _, _| None)).unwrap();
        assert_eq!(values, lines);
    }
}

#[test]
fn a_mask_sees_every_member_with_its_parent() {
    let (request, here) = (request(), Here::new([]));
    let facts = facts(&request, &here);
    let masked = facts.masked(&|parent, key, text| match (parent, key, text) {
        ("headers", "x-a", Some("1")) | ("list", "deep", Some(_)) | ("parsed_query", "b", Some("d")) => Some("gone".to_owned()),
        ("http", "rawBody", Some("cmF3")) | ("", "url", None) | ("filterMetadata", "f", None) => Some("gone".to_owned()),
        _ => None,
    });
    let seen: Json = serde_json::from_slice(&masked).unwrap();
    assert_eq!(seen["attributes"]["request"]["http"]["headers"]["x-a"], "gone");
    assert_eq!(seen["attributes"]["request"]["http"]["rawBody"], "gone");
    assert_eq!(seen["attributes"]["metadataContext"]["filterMetadata"]["f"], "gone");
    assert_eq!((&seen["url"], &seen["parsed_query"]["b"]), (&json!("gone"), &json!(["c", "gone"])));
    assert_eq!(seen["parsed_body"]["list"], json!([1, {"deep": [true, null, "gone"]}]));
}

#[test]
fn a_policy_gets_what_it_can_read_and_no_more() {
    let (request, here) = (request(), Here::new([]));
    let wanted = Wanted::by([
        "allow if { input.attributes.request.http.method == \"GET\"; input.parsed_path[0] == \"a\"; not input.peer }",
    ]);
    let seen: Json = serde_json::from_str(&Input::of(&facts(&request, &here), &wanted).value.to_json_str().unwrap()).unwrap();
    assert_eq!(seen, json!({"attributes": {"request": {"http": {"method": "GET"}}}, "parsed_path": ["a"]}));
}
