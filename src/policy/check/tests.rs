//! What the load-time checks refuse, with the code and the place of each.

use serde_json::json;

use super::*;
use crate::policy::{engine::tests::load, problem::Severity};

/// The problems of a module in package `t` with a rule `allow`, as `(code, line)`.
fn found(rego: &str, data: &Value) -> Vec<(Code, u32)> {
    let module = format!("package t\n\n{rego}\n");
    let module = if rego.contains("allow if") || rego.contains("allow :=") { module } else { format!("{module}allow := true\n") };
    match load(&[("t.rego", &module), ("d.json", &data.to_string())], "t/allow") {
        Ok(_) => Vec::new(),
        Err(error) => {
            let errors = error.problems.iter().filter(|problem| problem.severity() == Severity::Error);
            errors.map(|problem| (problem.code, problem.line)).collect()
        }
    }
}

#[test]
fn dangerous_policies_are_refused() {
    use Code::{DefaultReference, FunctionMock, IoBuiltin, NoDecision, Recursion, TooDeep, UnknownFunction, UnsupportedFunction};
    let chain = |length: usize| {
        let links = (0..length).map(|n| format!("r{n} := r{}", n + 1)).collect::<Vec<_>>().join("\n");
        format!("{links}\nr{length} := 1\nallow if r0 == 1")
    };
    for (rego, code, line) in [
        ("f(x) := f(x - 1)", Recursion, 3),
        ("f(x) := g(x)\ng(x) := f(x)", Recursion, 3),
        ("p := q\nq := p", Recursion, 3),
        ("p := data.t[input.x]", Recursion, 3),
        ("p := [y | y := data[input.x]]", Recursion, 3),
        ("p := data.t.q\nq if { some x in [1]; data.t[x] }", Recursion, 3),
        ("p[x] := y if { some x in [1]; y := p[x - 1] }", Recursion, 3),
        ("p contains x if { some x in p }", Recursion, 3),
        ("default p := [q]\nq := p", Recursion, 3),
        ("p if not q\nq if not p", Recursion, 3),
        ("p if { x := 1; x == 1 } else := p", Recursion, 3),
        ("allow if { r := http.send({}); r.ok }", IoBuiltin, 3),
        ("allow if { r := net.lookup_ip_addr(\"x\"); r }", IoBuiltin, 3),
        ("p := 1\n\nallow if { nosuch(1) }", UnknownFunction, 5),
        ("allow if { strings.nosuch(1) }", UnknownFunction, 3),
        ("allow if { data.other.f(1) }", UnknownFunction, 3),
        ("allow if { rego.parse_module(\"x.rego\", \"package x\") }", UnsupportedFunction, 3),
        ("allow if { rego.metadata.rule() }", UnsupportedFunction, 3),
        ("p := 1\n\nallow if { graphql.is_valid(\"\", \"\") }", UnsupportedFunction, 5),
        ("allow if { graphqlite.x(1) }", UnknownFunction, 3),
        ("allow if { count([1]) == 1 with count as 1 }", FunctionMock, 3),
        ("f(x) := x\nallow if { f(1) with f as 1 }", FunctionMock, 4),
        ("default p[\"x\"] := 1", DefaultReference, 3),
    ] {
        assert!(found(rego, &json!({})).contains(&(code, line)), "{rego}: {:?}", found(rego, &json!({})));
    }
    assert_eq!(found(&chain(100), &json!({})), []);
    assert_eq!(found(&chain(130), &json!({})).first().map(|(code, _)| *code), Some(TooDeep));
    assert!(load(&[("t.rego", "package t\nallow(x) := x")], "t/allow").unwrap_err().to_string().contains("is a function"));
    let error = load(&[("t.rego", "package t\nother := 1")], "t/allow").unwrap_err();
    assert_eq!((error.problems[0].code, error.to_string().contains("t/other")), (NoDecision, true), "{error}");
}

#[test]
fn sources_that_are_costly_to_parse_are_refused() {
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(30), close.repeat(30));
    for long in [
        vec!["1"; 300].join(" + "),
        vec!["1"; 5000].join(" +\n"),
        "-".repeat(500) + "1",
        nested("[", "]"),
        nested("{", "}"),
        nested("{1:\n", "}"),
        nested("([", "])"),
        nested("[1, ", "]") + &"[".repeat(100_000),
        nested("[1 | ", "]"),
        nested("[1 | true; ", "]"),
        nested("[1 |\ntrue\n", "]"),
        nested("{1 | f(", ")}"),
        nested("{1: 2 | ", "}"),
    ] {
        let found = found(&format!("p := {long}"), &json!({}));
        assert!(found.iter().any(|(code, _)| matches!(code, Code::TooDeep | Code::Parse)), "{found:?}");
    }
}

#[test]
fn what_only_looks_costly_passes() {
    let deep = |open: &str, close: &str| format!("p := {}1{}", open.repeat(12), close.repeat(12));
    let long = format!("p := [{}\n]", "\n\t{\"a\": [1, {\"b\": {\"c\": [2]}}]},".repeat(500));
    for rego in [deep("[", "]"), deep("[x | x := ", "]"), long] {
        assert_eq!(found(&rego, &json!({})), []);
    }
}

#[test]
fn data_hides_no_rule_and_is_not_large_beside_rules() {
    let keys = |count: u32| (0..count).map(|n| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>();
    for (data, refused) in [
        (json!({"t": {"x": 1}}), None),
        (json!({"t": {"p": 1}}), Some(3)),
        (json!({"t": {"q": {"r": 1}}}), Some(4)),
        (json!({"t": {"q": {"s": 1}}}), None),
        (json!({"t": {"q": 1}}), Some(4)),
        (json!({"t": 1}), Some(1)),
        (json!({"t": {}}), None),
        (json!({"tt": {"x": 1}, "u": {"t": 2}}), None),
        (json!({"t": keys(1001)}), Some(1)),
        (json!({"t": keys(1000), "u": keys(2000)}), None),
        (json!({"t": {"x": keys(1001)}}), None),
    ] {
        let found = found("p := data.u\nq.r := 1", &data);
        assert_eq!(found, refused.map(|line| (Code::DataUnderPackage, line)).into_iter().collect::<Vec<_>>(), "{data}");
    }
}

#[test]
fn variables_that_nothing_binds_are_refused() {
    use Code::{UnsafeNegation, UnsafeVariable};
    for (rego, code) in [
        ("allow if not input.roles[_] == 1", Some(UnsafeNegation)),
        ("allow if not input.roles[i] == 1", Some(UnsafeNegation)),
        ("allow if { some i; not input.roles[i] == 1 }", Some(UnsafeNegation)),
        ("allow if not x", Some(UnsafeNegation)),
        ("allow if { every x in [1] { not input.a[y] } }", Some(UnsafeNegation)),
        ("allow if { xs := [x | x := 1; not input.a[y]]; xs }", Some(UnsafeNegation)),
        ("allow if { every x in [1] { y := x }; y == 1 }", Some(UnsafeVariable)),
        ("allow if x == 1", Some(UnsafeVariable)),
        ("allow if { x == y; y = x }", Some(UnsafeVariable)),
        ("p := x\nallow if p", Some(UnsafeVariable)),
        ("p contains x if true\nallow if p", Some(UnsafeVariable)),
        ("allow if { {y} = {1} }", Some(UnsafeVariable)),
        ("allow if count(_) == 1", Some(UnsafeVariable)),
        ("allow if { x := [y | y := z]; x; z == 1 }", Some(UnsafeVariable)),
        ("allow if $\"{input.x[_]}\" == \"a\"", Some(UnsafeVariable)),
        ("allow if not startswith(input.a, \"x\")", None),
        ("allow if { some i; x := input.roles[i]; not x == data.r[i] }", None),
        ("allow if { x := input.xs; not f([y | y := x[_]]) }\nf(x) := x", None),
        ("g(x) if not x > 1\nallow if g(1)", None),
        ("p := 1\nallow if { p := input.a; not p > 1 }", None),
        ("allow if { not input.roles[i] == 1; i = 1 }", None),
        ("allow if { [x, {\"a\": y}] = input.a; x == y }", None),
        ("allow if { x == y; y = 1; x = input.z }", None),
        ("allow if { input.a[i] == data.r[i]; i > 0 }", None),
        ("allow if { input.a[data.r[i]] }", None),
        ("allow if { walk(input, [p, v]); v == count(p) }", None),
        ("allow if { split(\"a.b\", \".\", [x, _]); x == \"a\" }", None),
        ("allow if { x := 1; y := [z | z := x + 1]; y == [2] }", None),
        ("allow if { every k, v in input.x { k == v; not v == 1 } }", None),
        ("allow if { x := input.x; $\"a {x} {input.y}\" == \"a\" }", None),
        ("p contains input.xs[_]\nallow if p", None),
        ("p[k] := input.xs[k]\nallow if p", None),
        ("allow if { {k: v | some k, v in input.a}[\"x\"] == 1 }", None),
        ("allow if { f(input.x, y); y == 1 }\nf(x) := x", None),
    ] {
        let found = found(rego, &json!({"r": [1]}));
        assert_eq!(
            found.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
            code.into_iter().collect::<Vec<_>>(),
            "{rego}: {found:?}"
        );
    }
}

#[test]
fn ordinary_policies_pass() {
    for rego in [
        "import data.lib\nallow if lib.x",
        "import input.user as u\nallow if u == \"a\"",
        "p.q.r := 1\np.q.s := p.q.r + 1\nallow if p.q.s == 2",
        "roles[u] contains r if { some u, r in {\"a\": \"b\"} }\nallow if \"b\" in roles[\"a\"]",
        "path := 1\nf(path) := path\nallow if f(1) == 1",
        "user := f(1)\nf(user) := user",
        "allow if data.doorward.workloads[input.peer.spiffe_id].owner == \"x\"",
        "default f(_) := false\nf(x) if x == 1\nallow if f(1)",
        "allow if { walk(input.a, [p, v]); v == 1 }",
        "allow if { x := object.get(input, [\"a\", \"b\"], 1); x == 1 } else := false",
        "allow := {\"allowed\": true, \"headers\": {\"x\": \"y\"}} if { print(\"hello\", input.x); glob.match(\"/a/*\", [\"/\"], input.p) }",
        "allow if { every x in input.xs { x > 1 } }",
        "allow if data.x == 1 with data.x as 1 with input.y as 2",
        "allow if regex.match(`^/a/\\d+$`, input.path)",
    ] {
        assert_eq!(found(rego, &json!({"r": [1], "blocked": {}})), [], "{rego}");
    }
}
