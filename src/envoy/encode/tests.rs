//! What Envoy gets for each outcome, by the number of the case where one says so.

use std::time::Duration;

use envoy_types::pb::envoy::r#type::v3::StatusCode;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, json};
use uuid::Uuid;

use super::*;

const PLAIN: Settings<'static> = Settings {
    compat: None,
    decision_id_on_allow: false,
    reason_to_caller: false,
    challenge: None,
    grants_at: None,
    remove_xfcc: false,
};
const COMPAT: Settings<'static> = Settings { compat: Some(Compat::OpaEnvoy), ..PLAIN };
const ID: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
const ID_TEXT: &str = "01900000-0000-7000-8000-000000000001";

fn decided(value: &Value, mode: Mode, settings: &Settings<'_>) -> Outcome {
    match decision::read(Some(value), settings.compat) {
        Ok(answer) => Outcome::answered(ID, mode, answer, None),
        Err(refusal) => Outcome::refused(ID, mode, &refusal),
    }
}

fn response(outcome: &Outcome, headers: &[(&str, &str)], settings: &Settings<'_>) -> CheckResponse {
    let headers = Headers::from_map(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    match encode(outcome, &Shape { protocol: Protocol::Http, headers: Some(&headers), mcp: None }, settings) {
        Reply::Response(response) => response,
        Reply::Error(status) => panic!("{status}"),
    }
}

/// The response to a decision value in `enforce`, from a client with the headers given.
fn answer(value: &Value, headers: &[(&str, &str)], settings: &Settings<'_>) -> CheckResponse {
    response(&decided(value, Mode::Enforce, settings), headers, settings)
}

fn error(outcome: &Outcome, settings: &Settings<'_>) -> Option<String> {
    match encode(outcome, &Shape::UNKNOWN, settings) {
        Reply::Response(_) => None,
        Reply::Error(status) => {
            assert_eq!(status.code(), tonic::Code::Unknown);
            Some(status.message().to_owned())
        }
    }
}

/// A response as a document with a stable order, for comparing and for the snapshots.
fn render(response: &CheckResponse) -> Value {
    let http = match &response.http_response {
        None => Value::Null,
        Some(HttpResponse::OkResponse(ok)) => json!({"ok": {
            "headers": lines(&ok.headers),
            "headers_to_remove": ok.headers_to_remove,
            "response_headers_to_add": lines(&ok.response_headers_to_add),
            "query_parameters_to_set": ok.query_parameters_to_set.iter()
                .map(|parameter| format!("{}={}", parameter.key, parameter.value)).collect::<Vec<_>>(),
            "query_parameters_to_remove": ok.query_parameters_to_remove,
        }}),
        Some(HttpResponse::DeniedResponse(denied)) => json!({"denied": {
            "status": denied.status.as_ref().map(|status| status.code),
            "headers": lines(&denied.headers),
            "body": denied.body,
        }}),
        Some(HttpResponse::ErrorResponse(_)) => panic!("an error response is never sent"),
    };
    let metadata = response.dynamic_metadata.as_ref().map(document);
    json!({"code": response.status.as_ref().map(|status| status.code), "metadata": metadata, "http": http})
}

/// As text: with exact numbers, insta's own JSON form would show how serde_json keeps them.
fn pretty(response: &CheckResponse) -> String {
    serde_json::to_string_pretty(&render(response)).unwrap()
}

/// `name: value` with how it is placed: `=` replaces, `+` appends, `?` is neither.
#[expect(deprecated, reason = "`append` is what is tested")]
fn lines(headers: &[HeaderValueOption]) -> Vec<String> {
    let line = |option: &HeaderValueOption| {
        let header = option.header.as_ref().unwrap();
        let placing = match (&option.append, option.append_action()) {
            (Some(BoolValue { value: false }), HeaderAppendAction::OverwriteIfExistsOrAdd) => '=',
            (Some(BoolValue { value: true }), HeaderAppendAction::AppendIfExistsOrAdd) => '+',
            _ => '?',
        };
        let keep = if option.keep_empty_value { " (kept)" } else { "" };
        format!("{placing}{}: {}{keep}", header.key, header.value)
    };
    headers.iter().map(line).collect()
}

fn document(fields: &Struct) -> Value {
    let value = |value: &ProtoValue| match value.kind.as_ref().unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => json!(number),
        Kind::StringValue(text) => json!(text),
        Kind::BoolValue(flag) => json!(flag),
        Kind::StructValue(fields) => document(fields),
        Kind::ListValue(list) => {
            let wrap = |item: &ProtoValue| document(&Struct { fields: [("_".to_owned(), item.clone())].into() })["_"].clone();
            list.values.iter().map(wrap).collect()
        }
    };
    fields.fields.iter().map(|(name, item)| (name.clone(), value(item))).collect::<Map<_, _>>().into()
}

fn ok_of(response: &CheckResponse) -> Value {
    render(response)["http"]["ok"].clone()
}

fn denied_of(response: &CheckResponse) -> Value {
    render(response)["http"]["denied"].clone()
}

#[test]
fn d39_booleans() {
    for settings in [PLAIN, COMPAT] {
        let allow = render(&answer(&json!(true), &[], &settings));
        assert_eq!(allow, json!({"code": 0, "metadata": {"decision_id": ID_TEXT}, "http": null}));
        let deny = render(&answer(&json!(false), &[], &settings));
        assert_eq!(deny["code"], 7);
        assert_eq!(deny["metadata"], json!({"decision_id": ID_TEXT}));
        assert_eq!(
            deny["http"]["denied"],
            json!({"status": 403, "headers": [format!("=x-doorward-decision-id: {ID_TEXT}")], "body": ""})
        );
    }
}

#[test]
fn d40_d41_no_decision_denies_and_fails_only_under_compat() {
    let undefined = Outcome::refused(ID, Mode::Enforce, &decision::Refusal::Undefined);
    assert_eq!(denied_of(&response(&undefined, &[], &PLAIN))["status"], 403);
    assert_eq!(error(&undefined, &COMPAT).as_deref(), Some("undefined decision"));

    let number = decided(&json!(1), Mode::Enforce, &COMPAT);
    let text = "failed to get response status: illegal value for policy evaluation result: json.Number";
    assert_eq!(error(&number, &COMPAT).as_deref(), Some(text));
    assert_eq!(render(&answer(&json!(1), &[], &PLAIN))["code"], 7);
}

#[test]
fn d42_every_status_that_is_read_is_known_to_envoy() {
    for code in 0..1000 {
        let value = json!({"allowed": false, "http_status": code});
        let known = StatusCode::try_from(code).is_ok() && code != 0;
        assert_eq!(decision::read(Some(&value), Some(Compat::OpaEnvoy)).is_ok(), known, "{code}");
        assert_eq!(decision::read(Some(&value), None).is_ok(), known && code >= 200, "{code}");
    }
    assert_eq!(denied_of(&answer(&json!({"allowed": false, "http_status": 429}), &[], &PLAIN))["status"], 429);
    let bad = decided(&json!({"allowed": false, "http_status": 418}), Mode::Enforce, &PLAIN);
    assert_eq!(denied_of(&response(&bad, &[], &PLAIN))["status"], 403);
    assert!(error(&bad, &COMPAT).is_some());
}

#[test]
fn d43_d44_denial_with_headers_and_body() {
    let value = json!({
        "allowed": false, "http_status": 401, "body": "log in", "reason": "no session",
        "headers": [{"www-authenticate": "Bearer"}, {"set-cookie": ["a=1", "b=2"], "X-Doorward-Decision-Id": "mine"}],
        "dynamic_metadata": {"tenant": 7},
    });
    insta::assert_snapshot!(pretty(&answer(&value, &[], &PLAIN)), @r#"
    {
      "code": 7,
      "http": {
        "denied": {
          "body": "log in",
          "headers": [
            "=x-doorward-decision-id: 01900000-0000-7000-8000-000000000001",
            "=www-authenticate: Bearer",
            "=set-cookie: a=1",
            "=set-cookie: b=2"
          ],
          "status": 401
        }
      },
      "metadata": {
        "decision_id": "01900000-0000-7000-8000-000000000001",
        "tenant": 7.0
      }
    }
    "#);
}

#[test]
fn d43_reason_is_the_body_only_by_setting() {
    let asked = Settings { reason_to_caller: true, ..PLAIN };
    let value = json!({"allowed": false, "reason": "no session"});
    assert_eq!(denied_of(&answer(&value, &[], &PLAIN))["body"], "");
    assert_eq!(denied_of(&answer(&value, &[], &asked))["body"], "no session");
    let value = json!({"allowed": false, "reason": "no session", "body": ""});
    assert_eq!(denied_of(&answer(&value, &[], &asked))["body"], "");
}

#[test]
fn d44_to_d46_allow_with_everything() {
    let value = json!({
        "allowed": true,
        "headers": {"x-user": "alice", "x-g": ["a", "b"], "x-e": ""},
        "response_headers_to_add": {"set-cookie": ["a=1", "b=2"]},
        "request_headers_to_remove": ["authorization"],
        "query_parameters_to_set": {"tenant": "b&c=d"},
        "query_parameters_to_remove": ["debug"],
        "lease_s": 1.5,
        "dynamic_metadata": {"decision_id": "mine", "n": {"list": [1, true, null, "x"]}},
    });
    let client = [(":path", "/"), ("x-user", "root"), ("x-doorward-role", "admin"), (STREAM_DURATION, "0")];
    insta::assert_snapshot!(pretty(&answer(&value, &client, &PLAIN)), @r#"
    {
      "code": 0,
      "http": {
        "ok": {
          "headers": [
            "=x-envoy-upstream-stream-duration-ms: 1500",
            "=x-e:  (kept)",
            "=x-g: a",
            "+x-g: b",
            "=x-user: alice"
          ],
          "headers_to_remove": [
            "authorization",
            "x-doorward-role"
          ],
          "query_parameters_to_remove": [
            "debug"
          ],
          "query_parameters_to_set": [
            "tenant=b%26c%3Dd"
          ],
          "response_headers_to_add": [
            "+set-cookie: a=1",
            "+set-cookie: b=2"
          ]
        }
      },
      "metadata": {
        "decision_id": "01900000-0000-7000-8000-000000000001",
        "n": {
          "list": [
            1.0,
            true,
            null,
            "x"
          ]
        }
      }
    }
    "#);
}

#[test]
fn d46_values_of_one_name_are_joined_and_under_compat_the_last_wins() {
    let value = json!({"allowed": true, "headers": [{"x-g": ["a", "b"]}, {"X-G": "c"}]});
    assert_eq!(ok_of(&answer(&value, &[], &PLAIN))["headers"], json!(["=x-g: a", "+x-g: b", "+X-G: c"]));
    assert_eq!(ok_of(&answer(&value, &[], &COMPAT))["headers"], json!(["=x-g: a", "=x-g: b", "=X-G: c"]));
}

#[test]
fn d48_what_breaks_a_line_is_a_denial_also_under_compat() {
    let value = json!({"allowed": true, "headers": {"x-user": "a\r\nx-admin: 1"}});
    for settings in [PLAIN, COMPAT] {
        let denied = denied_of(&answer(&value, &[], &settings));
        assert_eq!((&denied["status"], &denied["body"]), (&json!(403), &json!("")));
    }
    assert_eq!(ok_of(&answer(&json!({"allowed": true, "headers": {":path": "/b"}}), &[], &COMPAT))["headers"][0], "=:path: /b");
}

#[test]
fn d49_own_headers_are_never_removed() {
    let settings = Settings { decision_id_on_allow: true, ..PLAIN };
    let value = json!({
        "allowed": true, "lease_s": 60,
        "headers": {"x-doorward-decision-id": "mine", "x-doorward-note": "set by policy"},
        "request_headers_to_remove": ["X-Envoy-Upstream-Stream-Duration-Ms", "x-doorward-decision-id", "x-doorward-a", "b"],
    });
    let client = [("x-doorward-a", "1"), ("x-doorward-decision-id", "2"), ("x-doorward-note", "3"), ("x-doorward-z", "4")];
    let ok = ok_of(&answer(&value, &client, &settings));
    assert_eq!(
        ok["headers"],
        json!([
            "=x-envoy-upstream-stream-duration-ms: 60000",
            format!("=x-doorward-decision-id: {ID_TEXT}"),
            "=x-doorward-note: set by policy",
        ])
    );
    assert_eq!(ok["headers_to_remove"], json!(["x-doorward-a", "b", "x-doorward-z"]));
}

#[test]
fn d50_query_is_encoded_except_under_compat() {
    let value = json!({
        "allowed": true,
        "query_parameters_to_set": {"a[]": "b&c=d e+%é~", "x&y=z": ["1", "2"]},
        "query_parameters_to_remove": ["p q"],
    });
    let plain = ok_of(&answer(&value, &[], &PLAIN));
    assert_eq!(plain["query_parameters_to_set"], json!(["a[]=b%26c%3Dd%20e%2B%25%C3%A9~", "x%26y%3Dz=1", "x%26y%3Dz=2"]));
    assert_eq!(plain["query_parameters_to_remove"], json!(["p%20q"]));
    let compat = ok_of(&answer(&value, &[], &COMPAT));
    assert_eq!(compat["query_parameters_to_set"], json!(["a[]=b&c=d e+%é~", "x&y=z=1", "x&y=z=2"]));
    assert_eq!(compat["query_parameters_to_remove"], json!(["p q"]));
}

#[test]
fn d51_deepest_metadata_survives_the_wire() {
    let deep = (1..decision::METADATA_DEPTH).fold(json!({}), |inner, _| json!({"a": inner}));
    let response = answer(&json!({"allowed": true, "dynamic_metadata": deep}), &[], &PLAIN);
    assert_eq!(CheckResponse::decode(response.encode_to_vec().as_slice()).unwrap(), response);
}

#[test]
fn d52_observe_lets_everything_through() {
    let client = [("x-doorward-a", "1"), (STREAM_DURATION, "0")];
    let removed = json!(["x-doorward-a", STREAM_DURATION]);
    for value in [json!(1), json!(false), json!({"allowed": false, "headers": {"x": "y"}, "http_status": 418})] {
        for settings in [PLAIN, COMPAT] {
            let response = render(&response(&decided(&value, Mode::Observe, &settings), &client, &settings));
            assert_eq!(response["code"], 0);
            assert_eq!(response["http"]["ok"]["headers"], json!([]));
            assert_eq!(response["metadata"]["doorward"]["decision"], "deny");
            if settings == PLAIN {
                assert_eq!(response["http"]["ok"]["headers_to_remove"], removed);
            }
        }
    }
    for reason in Reason::ALL {
        let outcome = Outcome::denied(ID, Mode::Observe, *reason, None);
        for settings in [PLAIN, COMPAT] {
            let response = render(&response(&outcome, &[], &settings));
            assert_eq!((&response["code"], &response["metadata"]["doorward"]["reason"]), (&json!(0), &json!(reason.as_str())));
            assert!(response["http"]["ok"].is_object());
        }
    }
    let denied = json!({"allowed": false, "dynamic_metadata": {"tenant": "a", "doorward": "mine"}});
    assert_eq!(
        render(&response(&decided(&denied, Mode::Observe, &PLAIN), &[], &PLAIN))["metadata"],
        json!({"decision_id": ID_TEXT, "tenant": "a", "doorward": {"decision": "deny", "reason": "policy"}})
    );
    // An allow is carried out, but its lease ends nothing.
    let allowed = decided(&json!({"allowed": true, "headers": {"x": "y"}, "lease_s": 1}), Mode::Observe, &PLAIN);
    let response = response(&allowed, &client, &PLAIN);
    assert_eq!((&ok_of(&response)["headers"], &ok_of(&response)["headers_to_remove"]), (&json!(["=x: y"]), &removed));
}

#[test]
fn d53_every_failure_is_a_denial() {
    for reason in Reason::ALL {
        let outcome = Outcome::denied(ID, Mode::Enforce, *reason, Some("secret".to_owned()));
        let unreadable = *reason == Reason::RequestParseError;
        let denied = denied_of(&response(&outcome, &[], &PLAIN));
        let headers = json!([format!("=x-doorward-decision-id: {ID_TEXT}")]);
        assert_eq!(denied, json!({"status": if unreadable { 400 } else { 403 }, "headers": headers, "body": ""}));
        assert_eq!(error(&outcome, &COMPAT).is_some(), *reason == Reason::DeadlineExceeded, "{reason}");
    }
}

#[test]
fn d06_text_of_a_request_that_cannot_be_parsed() {
    let outcome = Outcome::denied(ID, Mode::Enforce, Reason::RequestParseError, Some("invalid URL escape".to_owned()));
    for settings in [COMPAT, Settings { reason_to_caller: true, ..PLAIN }] {
        let denied = denied_of(&response(&outcome, &[], &settings));
        assert_eq!((&denied["status"], &denied["body"]), (&json!(400), &json!("request_parse_error: invalid URL escape")));
    }
}

#[test]
fn d54_lease() {
    let allow = |value: Value, lease: Option<u64>, settings: &Settings<'_>| {
        let answer = decision::read(Some(&value), settings.compat).unwrap();
        let outcome = Outcome::answered(ID, Mode::Enforce, answer, lease.map(Duration::from_micros));
        let ok = ok_of(&response(&outcome, &[(STREAM_DURATION, "0")], settings));
        (ok["headers"].clone(), ok["headers_to_remove"].clone())
    };
    let set = |ms: &str| (json!([format!("={STREAM_DURATION}: {ms}")]), json!([]));
    let written = |ms: &str| json!({"allowed": true, "headers": {"X-Envoy-Upstream-Stream-Duration-Ms": ms}});

    assert_eq!(allow(json!({"allowed": true, "lease_s": 300}), None, &PLAIN), set("300000"));
    assert_eq!(allow(json!({"allowed": true, "lease_s": 300}), Some(60_000_000), &PLAIN), set("60000"));
    assert_eq!(allow(json!(true), Some(60_000_000), &PLAIN), set("60000"));
    assert_eq!(allow(json!(true), Some(1), &PLAIN), set("1"));
    assert_eq!(allow(json!(true), Some(u64::MAX), &PLAIN), set("2147483647000"));
    assert_eq!(allow(json!(true), None, &PLAIN), (json!([]), json!([STREAM_DURATION])));
    // The policy may write the header itself, and shorten the lease with it, not lengthen it.
    assert_eq!(allow(written("500"), Some(60_000_000), &PLAIN), set("500"));
    for longer in ["0", "90000", "soon"] {
        assert_eq!(allow(written(longer), Some(60_000_000), &PLAIN), set("60000"));
    }
    assert_eq!(allow(written("500"), None, &PLAIN).1, json!([]));
    // Under compat only a policy that asks for a lease gets one, and the client keeps its header.
    assert_eq!(allow(json!({"allowed": true, "lease_s": 300}), Some(60_000_000), &COMPAT), set("60000"));
    assert_eq!(allow(json!(true), Some(60_000_000), &COMPAT), (Value::Null, Value::Null));
}

#[test]
fn a_denial_after_the_policy_tells_the_client_nothing_of_the_answer() {
    let value = json!({"allowed": true, "headers": {"x-token": "secret"}, "dynamic_metadata": {"user": "alice"}});
    let outcome = decided(&value, Mode::Enforce, &PLAIN);
    let outcome = Outcome { decision: Decision::Deny, reason: Reason::RecordUnavailable, ..outcome };
    let response = render(&response(&outcome, &[], &PLAIN));
    assert_eq!((&response["code"], &response["metadata"]), (&json!(7), &json!({"decision_id": ID_TEXT})));
    assert_eq!(response["http"]["denied"]["headers"].as_array().unwrap().len(), 1);
}

#[test]
fn d37_tcp_has_no_http_response() {
    let shape = Shape { protocol: Protocol::Tcp, headers: None, mcp: None };
    for value in [json!({"allowed": true, "headers": {"a": "b"}, "lease_s": 1}), json!(false)] {
        for mode in [Mode::Enforce, Mode::Observe] {
            let Reply::Response(response) = encode(&decided(&value, mode, &PLAIN), &shape, &PLAIN) else { panic!() };
            assert_eq!(response.http_response, None);
            assert!(response.status.is_some());
        }
    }
}

#[test]
fn an_undecoded_request_that_is_let_through_loses_what_only_we_may_say() {
    let outcome = Outcome::denied(ID, Mode::Observe, Reason::Undecodable, None);
    let Reply::Response(response) = encode(&outcome, &Shape::UNKNOWN, &PLAIN) else { panic!() };
    assert_eq!(ok_of(&response)["headers_to_remove"], json!([DECISION_ID, STREAM_DURATION]));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:\r\n\0é -]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z:\r\n\0é -]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Values that look like a decision, so that most get past the first check.
fn any_decision() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec![
        "headers",
        "response_headers_to_add",
        "request_headers_to_remove",
        "query_parameters_to_set",
        "query_parameters_to_remove",
        "body",
        "http_status",
        "dynamic_metadata",
        "reason",
        "rule",
        "lease_s",
    ]);
    let text = || "[a-z:\r\n\0é -]{0,8}".prop_map(Value::from);
    let fitting = prop_oneof![
        prop::collection::btree_map("[a-zA-Z:\r\n -]{0,20}", text(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        prop::collection::vec(text(), 0..4).prop_map(Value::from),
        text(),
        (0..600).prop_map(Value::from),
        any_json(),
    ];
    let fields = prop::collection::btree_map(field.prop_map(str::to_owned), fitting, 0..4);
    let object = (any::<bool>(), fields).prop_map(|(allowed, fields)| {
        let mut object: Map<String, Value> = fields.into_iter().collect();
        object.insert("allowed".to_owned(), allowed.into());
        Value::Object(object)
    });
    prop_oneof![1 => any_json(), 4 => object]
}

fn any_outcome(compat: Option<Compat>) -> impl Strategy<Value = Outcome> {
    let mode = || prop::sample::select(vec![Mode::Enforce, Mode::Observe]);
    let lease = prop::option::of(any::<u64>().prop_map(Duration::from_millis));
    let answered = (prop::option::of(any_decision()), mode(), lease).prop_map(move |(value, mode, lease)| {
        match decision::read(value.as_ref(), compat) {
            Ok(answer) => Outcome::answered(ID, mode, answer, lease),
            Err(refusal) => Outcome::refused(ID, mode, &refusal),
        }
    });
    let reason = prop::sample::select(Reason::ALL.to_vec());
    let denied = (mode(), reason, prop::option::of(any::<String>()))
        .prop_map(|(mode, reason, detail)| Outcome::denied(ID, mode, reason, detail));
    // Something after the policy may turn the decision; turned to an allow, it must not become one.
    let decision = prop::sample::select(vec![Decision::Allow, Decision::Deny]);
    let turned = (answered.boxed(), decision, any::<bool>())
        .prop_map(|(outcome, decision, turn)| if turn { Outcome { decision, ..outcome } } else { outcome });
    prop_oneof![3 => turned, 1 => denied]
}

fn any_case() -> impl Strategy<Value = (Settings<'static>, Outcome)> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_flat_map(|(compat, decision_id_on_allow, reason_to_caller)| {
        let settings = Settings {
            grants_at: None,
            compat: compat.then_some(Compat::OpaEnvoy),
            decision_id_on_allow,
            reason_to_caller,
            challenge: None,
            remove_xfcc: false,
        };
        (Just(settings), any_outcome(settings.compat))
    })
}

#[test]
fn the_header_that_brought_intermediates_goes_no_further_unless_wanted() {
    let client = [("X-Forwarded-Client-Cert", "Hash=ab"), ("x-other", "a")];
    let removed = |value: &Value, settings: &Settings<'_>| {
        let response = render(&answer(value, &client, settings));
        response["http"]["ok"]["headers_to_remove"].clone()
    };
    let remove = Settings { remove_xfcc: true, ..PLAIN };
    assert_eq!(removed(&json!(true), &remove), json!(["X-Forwarded-Client-Cert"]));
    assert_eq!(removed(&json!(true), &PLAIN), Value::Null);
    let sets = json!({"allowed": true, "headers": {"x-forwarded-client-cert": "by policy"}});
    assert_eq!(removed(&sets, &remove), json!([]));
}

proptest! {
    #[test]
    fn d53_any_outcome_gives_a_well_formed_response(
        (settings, outcome) in any_case(),
        headers in prop::option::of(prop::collection::btree_map("(x-doorward-)?[a-zA-Zé-]{0,12}", "[a-z0-9]{0,4}", 0..4)),
        protocol in prop::sample::select(vec![Protocol::Http, Protocol::Grpc, Protocol::Tcp]),
    ) {
        let headers = headers.map(Headers::from_map);
        let reply = encode(&outcome, &Shape { protocol, headers: headers.as_ref(), mcp: None }, &settings);
        let said_allow = outcome.answer.as_ref().is_some_and(|answer| answer.decision == Decision::Allow);
        let response = match reply {
            Reply::Response(response) => response,
            Reply::Error(_) => {
                prop_assert!(settings.compat.is_some() && outcome.mode == Mode::Enforce);
                return Ok(());
            }
        };
        let code = response.status.as_ref().unwrap().code;
        let may_pass = outcome.mode == Mode::Observe || (outcome.decision == Decision::Allow && said_allow);
        let unlogged = settings.compat.is_some() && outcome.reason == Reason::RecordUnavailable;
        let refused = if unlogged { 2 } else { 7 };
        prop_assert_eq!(code, if may_pass { 0 } else { refused });
        prop_assert!(response.dynamic_metadata.as_ref().unwrap().fields.contains_key("decision_id"));
        let (sent, removed) = match &response.http_response {
            Some(HttpResponse::OkResponse(ok)) => {
                prop_assert_eq!(code, 0);
                let all: Vec<_> = ok.headers.iter().chain(&ok.response_headers_to_add).cloned().collect();
                (all, ok.headers_to_remove.clone())
            }
            Some(HttpResponse::DeniedResponse(denied)) => {
                prop_assert_eq!(code, refused);
                prop_assert!(denied.status.as_ref().is_some_and(|status| StatusCode::try_from(status.code).is_ok()));
                (denied.headers.clone(), Vec::new())
            }
            Some(HttpResponse::ErrorResponse(_)) => panic!("an error response is never sent"),
            None => (Vec::new(), Vec::new()),
        };
        for line in lines(&sent) {
            prop_assert!(line.starts_with(['=', '+']) && !line.contains(['\r', '\n', '\0']), "{line:?}");
        }
        for name in &removed {
            prop_assert!(!name.contains(['\r', '\n', '\0']), "{name:?}");
        }
        prop_assert_eq!(CheckResponse::decode(response.encode_to_vec().as_slice()).unwrap(), response);
    }
}

#[test]
fn an_mcp_client_is_refused_in_json_rpc() {
    let mcp = |refuse_with_200| Mcp { request_id: Some("\"a\"".to_owned()), refuse_with_200, ..Mcp::default() };
    let refused = |outcome: &Outcome, mcp: &Mcp| {
        let shape = Shape { protocol: Protocol::Mcp, headers: None, mcp: Some(mcp) };
        let Reply::Response(response) = encode(outcome, &shape, &Settings::default()) else { panic!("no response") };
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("no denial") };
        let kind = denied.headers.iter().filter_map(|option| option.header.as_ref()).find(|header| header.key == "content-type");
        assert_eq!(kind.map(|header| header.value.as_str()), Some("application/json"));
        (denied.status.map(|status| status.code), serde_json::from_str::<Value>(&denied.body).unwrap())
    };
    for (reason, code) in [
        (Reason::Policy, -32001),
        (Reason::PathForbidden, -32001),
        (Reason::TierUnknownAction, -32602),
        (Reason::PolicyTimeout, -32603),
        (Reason::Overloaded, -32603),
    ] {
        let outcome = Outcome::denied(Uuid::nil(), Mode::Enforce, reason, Some("secret detail".to_owned()));
        let (status, body) = refused(&outcome, &mcp(false));
        assert_eq!((status, &body["error"]["code"], &body["id"]), (Some(403), &json!(code), &json!("a")), "{reason}");
        assert_eq!(body["error"]["data"]["decision_id"], json!(Uuid::nil().to_string()));
        assert!(!body.to_string().contains("secret"), "{body}");
        assert_eq!(refused(&outcome, &mcp(true)).0, Some(200));
    }
    let unread = Outcome::denied(Uuid::nil(), Mode::Enforce, Reason::RequestParseError, None);
    let (status, body) = refused(&unread, &Mcp::default());
    assert_eq!((status, &body["id"]), (Some(400), &Value::Null));
}

#[test]
fn who_may_ask_for_a_grant_is_told_what_with() {
    let token = RequestToken { text: "t.m".to_owned(), expires_at: crate::clock::Now::from_seconds(1_800_000_000) };
    let mut outcome = Outcome::denied(Uuid::nil(), Mode::Enforce, Reason::GrantRequired, Some("secret detail".to_owned()));
    outcome.request = Some(Box::new(token));
    let settings = Settings { grants_at: Some("https://doorward.example:9443"), ..Settings::default() };
    let denied = |outcome: &Outcome, mcp: Option<&Mcp>, settings: &Settings<'_>| {
        let shape = Shape { protocol: Protocol::Http, headers: None, mcp };
        let Reply::Response(response) = encode(outcome, &shape, settings) else { panic!("no response") };
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("no denial") };
        let kinds = lines(&denied.headers).into_iter().filter(|line| line.contains("content-type")).count();
        (kinds, serde_json::from_str::<Value>(&denied.body).unwrap_or_default())
    };
    let offer = json!({"binding_token": "t.m", "expires_at": "2027-01-15T08:00:00.000000000Z", "endpoint": "https://doorward.example:9443"});
    let id = Uuid::nil().to_string();
    let body = json!({"decision": false, "evaluation_id": id, "context": {"access_request": offer}});
    assert_eq!(denied(&outcome, None, &settings), (1, body));
    let mcp = Mcp { request_id: Some("1".to_owned()), ..Mcp::default() };
    let (kinds, body) = denied(&outcome, Some(&mcp), &settings);
    assert_eq!((kinds, &body["error"]["data"]), (1, &json!({"decision_id": id, "access_request": offer})));
    let (_, body) = denied(&outcome, None, &Settings::default());
    assert_eq!(body["context"]["access_request"].get("endpoint"), None, "nobody has said where");
    // What the policy writes itself stays as it is.
    let own = json!({"allowed": false, "body": "no", "requestable": true});
    let mut outcome = Outcome::answered(Uuid::nil(), Mode::Enforce, decision::read(Some(&own), None).unwrap(), None);
    outcome.request = Some(Box::new(RequestToken { text: "t.m".to_owned(), expires_at: crate::clock::Now::from_seconds(1) }));
    assert_eq!(denied(&outcome, None, &settings), (0, Value::Null));
}
