//! What is in the subset, and that there the bytecode answers as the interpreter does.

use std::time::Duration;

use super::*;
use crate::policy::{
    engine::{bytecode::Verdict, run, tests::load},
    input::Input,
};

const LIMIT: Duration = Duration::from_secs(1);

fn is_compiled(rego: &str) -> bool {
    let set = load(&[("t.rego", &format!("package t\n{rego}")), ("d/data.json", r#"{"w": {"a": {"m": ["GET"]}}}"#)], "t/allow");
    set.unwrap_or_else(|error| panic!("{rego}: {error}")).bytecode.is_some()
}

#[test]
fn ordinary_rules_are_in_the_subset() {
    for rego in [
        "allow if input.m == \"GET\"",
        "default allow := false\nallow if { input.p[0] == \"a\"; input.m in {\"GET\", \"POST\"} }\nallow if startswith(input.x, \"a\")",
        "allow if not input.q.card",
        "allow if not input.m == \"GET\"",
        "allow if { x := input.t; not x in [\"a\"] }",
        "allow if { some p in data.d.w.a.m; startswith(input.m, p) }",
        "allow if ok\nok if input.m != \"\"",
        "allow if f(input.m)\nf(x) if x == \"GET\"",
        "allow if { w := data.d.w[input.s]; input.m in w.m }",
        "allow if x := input.t",
        "allow if input.n > 3",
        "allow if \"a\" in names\nnames contains input.m",
    ] {
        assert!(is_compiled(rego), "{rego}");
    }
}

#[test]
fn what_the_bytecode_gets_wrong_is_not() {
    for rego in [
        "allow if count([x | some x in input.xs]) > 1",
        "allow if every x in input.xs { x == 1 }",
        "allow if input.a + 1 == 2",
        "allow if input.a < input.b",
        "allow if { [a, b] := input.xs; a == b }",
        "allow if ok with input.m as \"GET\"\nok if input.m == \"GET\"",
        "allow := 1 if input.a\nallow := 2 if input.b",
        "allow := input.m",
        "allow if 0, input.m in input.xs",
        "allow if r[input.m]\nr[k] := 1 if { k := input.m }",
        "allow if numbers.range(1, 3) == [1, 2, 3]",
        "allow if { x := {input.m}; x == {\"GET\"} }",
    ] {
        assert!(!is_compiled(rego), "{rego}");
    }
}

#[test]
fn rules_reached_by_a_computed_name_are_not() {
    for reference in ["data.u[input.m]", "data.u"] {
        let rego = format!("package t\nallow if {reference}");
        let set = load(&[("t.rego", &rego), ("u.rego", "package u\nok if input.m")], "t/allow");
        assert!(set.is_ok_and(|set| set.bytecode.is_none()), "{reference}");
    }
}

#[test]
fn bytecode_and_interpreter_agree() {
    let inputs = [
        "{}",
        r#"{"m": "GET"}"#,
        r#"{"m": "PUT", "q": {"card": 1}}"#,
        r#"{"m": ["GET"], "t": "a", "p": ["a"]}"#,
        r#"{"m": "", "t": false, "n": 4, "s": "a", "x": "ab"}"#,
        r#"{"m": "GET", "t": null, "n": "4", "s": "b", "x": 1, "p": "a"}"#,
        r#"{"m": "GET", "t": "b", "n": 3.5, "s": ["a"], "p": []}"#,
    ];
    for rego in [
        "default allow := false\nallow if { input.p[0] == \"a\"; input.m in {\"GET\", \"POST\"} }\nallow if startswith(input.x, \"a\")",
        "allow if not input.q.card",
        "allow if not input.m == \"GET\"",
        "allow if { x := input.t; not x in [\"a\"] }",
        "allow if { t := input.t; input.m == \"GET\" }",
        "allow if t := input.t",
        "allow if { t := (input.t ); input.m == \"GET\" }",
        "allow if { some p in data.d.w.a.m; startswith(input.m, p) }",
        "allow if ok\nok if input.m != \"\"",
        "allow if f(input.m)\nf(x) if x == \"GET\"",
        "allow if not f(\"GET\")\nf(x) if input.m == x",
        "allow if { w := data.d.w[input.s]; input.m in w.m }",
        "allow if input.n > 3",
        "allow if \"GET\" in names\nnames contains input.m",
        "allow if input.p[_] == \"a\"",
    ] {
        let text = format!("package t\n{rego}");
        let set = load(&[("t.rego", &text), ("d/data.json", r#"{"w": {"a": {"m": ["GET"]}}}"#)], "t/allow").unwrap();
        let bytecode = set.bytecode.as_ref().expect(rego);
        for json in inputs {
            let input = Input { value: Value::from_json_str(json).unwrap(), now_ns: 0 };
            let (Verdict::Answer(answer) | Verdict::Unconfirmed(answer)) = bytecode.evaluate(set.generation, &input.value, LIMIT)
            else {
                panic!("no answer: {rego} for {json}")
            };
            let expected = run(&mut set.engine.clone(), &set.rule, &input.value, LIMIT).unwrap();
            assert_eq!(answer, expected, "{rego} for {json}");
        }
    }
}

#[test]
fn a_set_that_disagrees_is_interpreted() {
    let set = load(&[("t.rego", "package t\nallow if input.m == 1")], "t/allow").unwrap();
    let bytecode = set.bytecode.as_ref().unwrap();
    bytecode.disagree();
    assert!(matches!(bytecode.evaluate(set.generation, &Value::new_object(), LIMIT), Verdict::None));
    assert_eq!(
        set.evaluate(&Input { value: Value::from_json_str(r#"{"m": 1}"#).unwrap(), now_ns: 0 }, LIMIT),
        Ok(Some(true.into()))
    );
}

#[test]
fn the_policies_of_the_benches_are_in_the_subset() {
    for text in [
        include_str!("../../../../../benches/policies/rbac10.rego"),
        include_str!("../../../../../benches/policies/lookup1000.rego"),
    ] {
        let set = load(&[("t.rego", text), ("d/data.json", "{}")], "envoy/authz/allow").unwrap();
        assert!(set.bytecode.is_some(), "{text}");
    }
}
