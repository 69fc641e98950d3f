//! The two forms of the document agree, and a policy gets all that it can read.

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    action::{Action, GrantLimits, GrantRule, Mcp, Resource},
    policy::wanted::EVERYTHING,
    request::Headers,
    risk::Risk,
    session::{Count, Part, Past, View},
    state::Epoch,
    verdict::{Class, Decision, Evidence, Level, Mode, Protocol, Sensitivity, Signal, SignalName, Tier},
    workload::{Allow, Registry, Workload},
};

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

fn context() -> Context {
    let entry = crate::action::Entry {
        name: "orders.read".into(),
        class: Class::Read,
        sensitivity: Sensitivity::Low,
        tier: Some(Tier::Standard),
        is_public: false,
        adds: Vec::new(),
        requires: vec!["a".into()],
        forbid_after: Vec::new(),
        grant: GrantRule::Never,
        grant_limits: GrantLimits::default(),
        mode: Mode::Enforce,
        shown: Shown::default(),
    };
    let past = Past {
        n: 1,
        action: "orders.read".into(),
        class: Class::Read,
        resource_hash: 7,
        at: Now::from_seconds(3),
        decision: Some(Decision::Allow),
    };
    let count = Count { n: 2, first: Now::from_seconds(3), last: Now::from_seconds(4) };
    let part = Part { labels: vec!["x".into()], counts: vec![("orders.read".into(), count)], path: vec![past] };
    let view =
        View { id: "s".into(), source: "ambient", age_s: 1, seq: 2, complete: true, session: part.clone(), principal: part };
    let allow = Allow {
        actions: vec!["orders.*".into()],
        classes: Some(vec![Class::Read]),
        tenants: Some(vec!["t".into()]),
        ..Allow::default()
    };
    let registry = Registry::compile(&json!({"spiffe://a.org/x": {"schedule": {"from": "01:00", "to": "02:00"}}})).unwrap();
    let schedule = registry.find("spiffe://a.org/x").unwrap().schedule.clone();
    let workload = Workload {
        owner: Some("o".into()),
        team: None,
        purpose: None,
        environments: None,
        third_party: true,
        state: "active".into(),
        expires_at: Some(9),
        allows: vec![allow],
        schedule,
        max_credential_lifetime_s: Some(60),
        max_credential_age_s: None,
        limits: vec![("orders.read".into(), 5)],
        escalation: None,
        mode: Mode::Enforce,
        shown: Shown::default(),
    };
    Context {
        grants: Vec::new(),
        withdrawn: Vec::new(),
        task: Some("t1".into()),
        task_ended: false,
        action: Action {
            protocol: Protocol::Mcp,
            entry: Some(entry.into()),
            resource: Some(Resource { kind: "order".into(), id: Some("1".to_owned()), tenant: None, hash: 7 }),
            params: vec![("id".into(), "1".to_owned())],
            args_digest: Some("d".to_owned()),
            body_complete: true,
            error: None,
            mcp: Some(Mcp { method: "tools/call".to_owned(), ..Mcp::default() }),
        },
        tier: Tier::Standard,
        workload: Some(Some(workload.into())),
        signals: vec![Signal { name: SignalName::CredentialReuse, since_ns: 1, detail: "d".to_owned() }],
        risk: Some(Risk { score: 1, level: Level::Low, reasons: vec!["r".to_owned()] }),
        view: Some(view),
        degraded: false,
    }
}

#[test]
fn what_other_proxies_said_is_shown_as_unverified() {
    let first =
        Forwarded { by: vec!["b".into()], hash: Some("h".into()), uri: vec!["u".into(), "v".into()], ..Forwarded::default() };
    let second = Forwarded { subject: Some("s".into()), dns: vec!["d".into()], ..Forwarded::default() };
    let peer = Peer::named("spiffe://td.test/a", Evidence::Sidecar).unwrap();
    let (request, context, here) = (Request::default(), context(), Here::new([]));
    let forwarded = [first, second];
    let facts = Facts { peer: Some(&peer), forwarded: &forwarded, ..facts(&request, &context, &here) };
    let json: serde_json::Value = serde_json::from_slice(&facts.masked(&|_, _, _| None)).unwrap();
    let expected = json!([{"by": ["b"], "hash": "h", "uri": ["u", "v"]}, {"dns": ["d"], "subject": "s"}]);
    assert_eq!(json["peer"]["forwarded_unverified"], expected);
}

static NOTHING: Presented = Presented { tokens: Vec::new(), main: None, delegation: None };

fn facts<'a>(request: &'a Request, context: &'a Context, here: &'a Here) -> Facts<'a> {
    let presented = &NOTHING;
    let peer_error = Some(Reason::NoUriSan);
    let epoch = Some(Epoch { log: uuid::Uuid::from_u128(1), rev: 7 });
    let now = Now::from_seconds(5);
    Facts { request, peer: None, forwarded: &[], peer_error, presented, principal: None, context, here, own_id: None, epoch, now }
}

#[test]
fn both_forms_of_the_document_are_one() {
    let (whole, context, here) = (request(), context(), Here::new([("instance", Some("i")), ("pod", None)]));
    for request in [&whole, &Request::default(), &Request::unread()] {
        let facts = facts(request, &context, &here);
        let values = Input::of(&facts, &EVERYTHING).value.to_json_str().unwrap();
        let values: Json = serde_json::from_str(&values).unwrap();
        let lines: Json = serde_json::from_slice(&facts.masked(&|_, _, _| None)).unwrap();
        assert_eq!(values, lines);
    }
}

#[test]
fn a_mask_sees_every_member_with_its_parent() {
    let (request, context, here) = (request(), context(), Here::new([]));
    let facts = facts(&request, &context, &here);
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
    let (request, context, here) = (request(), context(), Here::new([]));
    let wanted = Wanted::by([
        "allow if { input.attributes.request.http.method == \"GET\"; input.parsed_path[0] == \"a\"; not input.peer }",
    ]);
    let seen: Json =
        serde_json::from_str(&Input::of(&facts(&request, &context, &here), &wanted).value.to_json_str().unwrap()).unwrap();
    assert_eq!(seen, json!({"attributes": {"request": {"http": {"method": "GET"}}}, "parsed_path": ["a"]}));
}
