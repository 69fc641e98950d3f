//! What a decision rule may say, by the number of the case.

use serde_json::json;

use super::*;

const COMPAT: Option<Compat> = Some(Compat::OpaEnvoy);

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn line(name: &str, value: &str) -> Header {
    Header { name: name.to_owned(), value: value.to_owned() }
}

/// Reads with and without compat, where both must agree.
fn both(value: &Value) -> Result<Answer, Refusal> {
    let plain = read(Some(value), None);
    assert_eq!(plain, read(Some(value), COMPAT), "{value}");
    plain
}

fn refusal(value: &Value, compat: Option<Compat>) -> (Reason, String) {
    let refusal = read(Some(value), compat).expect_err(&value.to_string());
    (refusal.reason(), refusal.to_string())
}

#[test]
fn d39_booleans() {
    assert_eq!(both(&json!(true)), Ok(Answer::new(Decision::Allow)));
    assert_eq!(both(&json!(false)), Ok(Answer::new(Decision::Deny)));
    assert_eq!(both(&json!({"allowed": true})), Ok(Answer::new(Decision::Allow)));
    assert_eq!(both(&json!({"allowed": false, "unknown": 1})), Ok(Answer::new(Decision::Deny)));
}

#[test]
fn d40_undefined() {
    for compat in [None, COMPAT] {
        let refusal = read(None, compat).unwrap_err();
        assert_eq!((refusal.reason(), refusal.to_string().as_str()), (Reason::UndefinedDecision, "undefined decision"));
        assert!(refusal.fails_in_plugin());
    }
}

#[test]
fn d41_no_decision() {
    let plugin = "failed to get response status: illegal value for policy evaluation result:";
    for (value, found, go_type) in [
        (json!(1), "a number", "json.Number"),
        (json!("yes"), "a string", "string"),
        (json!([true]), "an array", "[]interface {}"),
        (json!(null), "null", "<nil>"),
    ] {
        assert_eq!(refusal(&value, None), (Reason::InvalidDecision, format!("decision is {found}, not a boolean or an object")));
        assert_eq!(refusal(&value, COMPAT), (Reason::InvalidDecision, format!("{plugin} {go_type}")));
    }
    for (value, text) in [
        (json!({}), "field `allowed` is missing"),
        (json!({"allowed": "true"}), "field `allowed` is a string, not a boolean"),
        (json!({"allowed": 1}), "field `allowed` is a number, not a boolean"),
        (json!({"allowed": null}), "field `allowed` is null, not a boolean"),
    ] {
        let refusal = both(&value).unwrap_err();
        assert_eq!((refusal.reason(), refusal.to_string().as_str()), (Reason::InvalidDecision, text));
        assert!(refusal.fails_in_plugin());
    }
}

#[test]
fn d42_status() {
    for code in ["200", "301", "401", "403", "429", "511"] {
        let answer = both(&parse(&format!(r#"{{"allowed": false, "http_status": {code}}}"#))).unwrap();
        assert_eq!(answer.status, Some(code.parse().unwrap()));
    }
    for code in ["0", "99", "101", "299", "306", "418", "425", "451", "499", "599", "9999", "-403", "403.0", "403.5", "4.03e2"] {
        let refusal = both(&parse(&format!(r#"{{"allowed": false, "http_status": {code}}}"#))).unwrap_err();
        assert_eq!(refusal.reason(), Reason::InvalidResult, "{code}");
        assert!(refusal.fails_in_plugin(), "{code}");
    }
    for code in [r#""403""#, "true", "null", "[403]"] {
        let refusal = both(&parse(&format!(r#"{{"allowed": false, "http_status": {code}}}"#))).unwrap_err();
        assert!(matches!(refusal, Refusal::FieldType { field: "http_status", .. }), "{code}");
    }
    // The plugin lets an interim status through, and Envoy sends it.
    let interim = json!({"allowed": false, "http_status": 100});
    assert_eq!(refusal(&interim, None).1, "field `http_status`: `100` is no status that can be sent");
    assert_eq!(read(Some(&interim), COMPAT).unwrap().status, Some(100));
}

#[test]
fn d43_body_and_headers_of_a_denial() {
    let answer = both(&json!({"allowed": false, "headers": {"x-why": "no"}, "body": "go away"})).unwrap();
    assert_eq!((answer.headers, answer.body.as_deref()), (vec![line("x-why", "no")], Some("go away")));
    for body in [json!(1), json!(null), json!({})] {
        let refusal = both(&json!({"allowed": false, "body": body})).unwrap_err();
        assert!(matches!(refusal, Refusal::FieldType { field: "body", .. }));
    }
}

#[test]
fn d44_headers_keep_their_order() {
    let answer = both(&json!({"allowed": false, "headers": {"set-cookie": ["a=1", "b=2"]}})).unwrap();
    assert_eq!(answer.headers, [line("set-cookie", "a=1"), line("set-cookie", "b=2")]);
    let answer = both(&json!({"allowed": true, "response_headers_to_add": [{"b": "1"}, {"a": ["2", "3"], "e": ""}]})).unwrap();
    assert_eq!(answer.response_headers, [line("b", "1"), line("a", "2"), line("a", "3"), line("e", "")]);
    assert_eq!(both(&json!({"allowed": true, "headers": []})).unwrap().headers, []);
    assert_eq!(both(&json!({"allowed": true, "headers": {"a": []}})).unwrap().headers, []);
}

#[test]
fn d47_values_that_are_no_text() {
    for field in ["headers", "response_headers_to_add"] {
        for value in [json!(5), json!(true), json!(null), json!([["a"]]), json!(["a", 1]), json!({"a": "b"})] {
            let refusal = both(&json!({"allowed": true, field: {"x-user": value}})).unwrap_err();
            assert!(refusal.to_string().starts_with(&format!("field `{field}`: a value of `x-user` is ")), "{refusal}");
            assert_eq!((refusal.reason(), refusal.fails_in_plugin()), (Reason::InvalidResult, true));
        }
        for value in [json!("x: y"), json!(null), json!(1), json!(["x: y"]), json!([null])] {
            let refusal = both(&json!({"allowed": true, field: value})).unwrap_err();
            assert!(matches!(refusal, Refusal::FieldType { .. }), "{refusal}");
        }
    }
}

#[test]
fn d48_header_names_and_values() {
    // Name, value, refused by default, refused under compat.
    for (name, value, plain, compat) in [
        ("x-user", "alice", false, false),
        ("X-User", "a\tb; c=\"d\" é", false, false),
        ("x-empty", "", false, false),
        ("bad name", "a", true, false),
        ("", "a", true, false),
        ("é", "a", true, false),
        (":path", "/admin", true, false),
        (":status", "200", true, false),
        ("host", "evil", true, false),
        ("Host", "evil", true, false),
        ("x-a", "\u{1}", true, false),
        ("x-a", "\u{7f}", true, false),
        ("x-a", "a\r\nx-admin: 1", true, true),
        ("x-a", "a\nb", true, true),
        ("x-a", "a\rb", true, true),
        ("x-a", "a\0b", true, true),
        ("x\r\ny", "a", true, true),
        ("x\0", "a", true, true),
    ] {
        for (field, allowed) in [("headers", true), ("headers", false), ("response_headers_to_add", true)] {
            let value = json!({"allowed": allowed, field: {name: ["fine", value]}});
            for (setting, refused) in [(None, plain), (COMPAT, compat)] {
                let result = read(Some(&value), setting);
                assert_eq!(result.is_err(), refused, "{name:?} {value:?} {setting:?}");
                if let Err(refusal) = result {
                    assert_eq!((refusal.reason(), refusal.fails_in_plugin()), (Reason::InvalidResult, false));
                    assert!(!refusal.to_string().contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}

#[test]
fn d49_removals() {
    let value = json!({
        "allowed": true,
        "headers": {"X-User": "alice"},
        "request_headers_to_remove": ["authorization", ":path", "Host", "x-user"],
    });
    let answer = read(Some(&value), None).unwrap();
    assert_eq!(answer.remove_headers, ["authorization", "x-user"]);
    assert_eq!(
        answer.warnings,
        [
            Warning::Unremovable { name: ":path".to_owned() },
            Warning::Unremovable { name: "Host".to_owned() },
            Warning::SetAndRemoved { name: "x-user".to_owned() },
        ]
    );
    assert_eq!(answer.warnings[2].to_string(), "header `x-user` is both set and removed: it will be removed");
    assert_eq!(read(Some(&value), COMPAT).unwrap().remove_headers, ["authorization", ":path", "Host", "x-user"]);

    for field in ["request_headers_to_remove", "query_parameters_to_remove"] {
        for value in [json!("authorization"), json!({"a": "b"}), json!(null), json!(["a", 1])] {
            let refusal = both(&json!({"allowed": true, field: value})).unwrap_err();
            assert!(matches!(refusal, Refusal::FieldType { wanted: "an array of strings", .. }));
        }
    }
    let breaking = json!({"allowed": true, "request_headers_to_remove": ["a\r\nb"]});
    assert!(matches!(both(&breaking), Err(Refusal::HeaderName { .. })));
    assert!(read(Some(&json!({"allowed": true, "request_headers_to_remove": ["a b"]})), None).is_err());
}

#[test]
fn d50_query_parameters() {
    let value = json!({
        "allowed": true,
        "query_parameters_to_set": {"a": ["1", "2"], "b": "c&d", "e": []},
        "query_parameters_to_remove": ["f"],
    });
    let answer = both(&value).unwrap();
    let set: Vec<_> = answer.query_set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(set, [("a", "1"), ("a", "2"), ("b", "c&d")]);
    assert_eq!(answer.query_remove, ["f"]);
    assert_eq!(answer.warnings, [Warning::QueryValues { key: "a".to_owned() }]);
    for value in [json!("a=1"), json!(["a"]), json!(null), json!({"a": 1}), json!({"a": [1]}), json!({"a": null})] {
        assert!(both(&json!({"allowed": true, "query_parameters_to_set": value})).unwrap_err().fails_in_plugin());
    }
    // Encoded by us, but pasted as it is under compat.
    for (field, value) in [("query_parameters_to_set", json!({"a": "1\r\n"})), ("query_parameters_to_remove", json!(["a\n"]))] {
        let value = json!({"allowed": true, field: value});
        assert!(read(Some(&value), None).is_ok());
        assert!(!read(Some(&value), COMPAT).unwrap_err().fails_in_plugin());
    }
}

#[test]
fn d51_metadata() {
    let metadata = json!({"decision_id": "mine", "a": {"b": [true, null, 1.5, "x"]}});
    for allowed in [true, false] {
        let answer = both(&json!({"allowed": allowed, "dynamic_metadata": metadata})).unwrap();
        assert_eq!(Value::Object(answer.metadata), metadata);
        for bad in [json!([]), json!("a"), json!(null)] {
            let refusal = both(&json!({"allowed": allowed, "dynamic_metadata": bad})).unwrap_err();
            assert!(matches!(refusal, Refusal::FieldType { field: "dynamic_metadata", .. }));
        }
    }
    let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    assert!(both(&json!({"allowed": true, "dynamic_metadata": nested(METADATA_DEPTH)})).is_ok());
    assert_eq!(both(&json!({"allowed": true, "dynamic_metadata": nested(METADATA_DEPTH + 1)})), Err(Refusal::MetadataDepth));
    let large = parse(r#"{"allowed": true, "dynamic_metadata": {"a": [1e999]}}"#);
    assert_eq!(both(&large), Err(Refusal::MetadataNumber));
}

#[test]
fn own_fields() {
    let answer = both(&json!({"allowed": true, "reason": "on call", "rule": "r1", "lease_s": 0.25})).unwrap();
    assert_eq!((answer.reason.as_deref(), answer.rule.as_deref()), (Some("on call"), Some("r1")));
    assert_eq!(answer.lease, Some(Duration::from_millis(250)));
    let lease = |seconds| both(&parse(&format!(r#"{{"allowed": true, "lease_s": {seconds}}}"#)));
    assert_eq!(lease("300").unwrap().lease, Some(Duration::from_secs(300)));
    assert_eq!(lease("1e-30").unwrap().lease, Some(Duration::from_millis(1)));
    for bad in ["0", "-1", "0.0", "1e30", "1e999", r#""300""#, "null", "true", "[1]"] {
        let refusal = lease(bad).unwrap_err();
        assert_eq!((refusal.reason(), refusal.fails_in_plugin()), (Reason::InvalidResult, false), "{bad}");
    }
    for field in ["reason", "rule"] {
        for bad in [json!(1), json!(null), json!(["a"])] {
            assert!(matches!(both(&json!({"allowed": false, field: bad})), Err(Refusal::OwnField { .. })));
        }
    }
}

#[test]
fn fields_of_the_other_decision_are_not_looked_at() {
    let allow_only = json!({
        "allowed": false, "response_headers_to_add": 1, "request_headers_to_remove": 1,
        "query_parameters_to_set": 1, "query_parameters_to_remove": 1, "lease_s": "long",
    });
    assert_eq!(both(&allow_only), Ok(Answer::new(Decision::Deny)));
    assert_eq!(both(&json!({"allowed": true, "body": 1, "http_status": "x"})), Ok(Answer::new(Decision::Allow)));
}

#[test]
fn lists_are_bounded() {
    let many: Vec<String> = (0..=ENTRIES).map(|n| format!("n{n}")).collect();
    for value in [
        json!({"allowed": true, "headers": {"a": many}}),
        json!({"allowed": true, "request_headers_to_remove": many}),
        json!({"allowed": true, "query_parameters_to_set": {"a": many}}),
        json!({"allowed": true, "query_parameters_to_remove": many}),
    ] {
        assert!(matches!(both(&value), Err(Refusal::TooMany { .. })));
    }
}

#[test]
fn an_outcome_allows_only_what_its_answer_allows() {
    let id = Uuid::nil();
    let seconds = |n| Some(Duration::from_secs(n));
    let answer = |decision, lease| Answer { lease, ..Answer::new(decision) };
    let allow = Outcome::answered(id, Mode::Enforce, answer(Decision::Allow, seconds(9)), seconds(5));
    assert!(allow.is_allow());
    assert_eq!((allow.lease, allow.reason), (seconds(5), Reason::Policy));
    assert_eq!(Outcome::answered(id, Mode::Enforce, answer(Decision::Allow, seconds(2)), seconds(5)).lease, seconds(2));
    assert_eq!(Outcome::answered(id, Mode::Enforce, answer(Decision::Deny, None), seconds(5)).lease, None);

    // Denied after the policy had allowed: what the policy said is kept for the record only.
    let late = Outcome { decision: Decision::Deny, reason: Reason::RecordUnavailable, ..allow };
    assert_eq!((late.is_allow(), late.carried()), (false, None));
    let denied = Outcome::denied(id, Mode::Enforce, Reason::Overloaded, None);
    assert!(!Outcome { decision: Decision::Allow, ..denied }.is_allow());
}
