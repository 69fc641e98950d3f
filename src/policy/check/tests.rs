//! What the load-time checks refuse, with the code and the place of each.

use serde_json::json;

use super::*;
use crate::policy::engine::tests::load;

/// The problems of a module in package `t` with a rule `allow`, as `(code, line)`.
fn found(rego: &str, data: &Value) -> Vec<(Code, u32)> {
    let module = format!("package t\n\n{rego}\n");
    let module = if rego.contains("allow if") || rego.contains("allow :=") { module } else { format!("{module}allow := true\n") };
    match load(&[("t.rego", &module), ("d.json", &data.to_string())], "t/allow") {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(|problem| (problem.code, problem.line)).collect(),
    }
}

#[test]
fn dangerous_policies_are_refused() {
    use Code::{FunctionMock, IoBuiltin, NoDecision, Recursion, TooDeep, UnknownFunction, Unsupported};
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
        ("allow if { count([1]) == 1 with count as 1 }", FunctionMock, 3),
        ("f(x) := x\nallow if { f(1) with f as 1 }", FunctionMock, 4),
        ("default p[\"x\"] := 1", Unsupported, 3),
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
        "-".repeat(5000) + "1",
        nested("[", "]"),
        nested("{", "}"),
        nested("{1:\n", "}"),
        nested("([", "])"),
        nested("[1, ", "]") + &"[".repeat(100_000),
    ] {
        let found = found(&format!("p := {long}"), &json!({}));
        assert!(found.iter().any(|(code, _)| matches!(code, Code::TooDeep | Code::Parse)), "{found:?}");
    }
}

#[test]
fn data_and_packages_stay_apart() {
    for (data, refused) in [
        (json!({"t": {"x": 1}}), true),
        (json!({"t": {"allow": true}}), true),
        (json!({"t": 1}), true),
        (json!({"t": {}}), false),
        (json!({"tt": {"x": 1}, "u": {"t": 2}}), false),
    ] {
        let found = found("p := data.u", &data);
        assert_eq!(found.contains(&(Code::DataUnderPackage, 1)), refused, "{data}: {found:?}");
    }
}

#[test]
fn negations_that_regorus_answers_otherwise_are_refused() {
    for (rego, refused) in [
        ("allow if not startswith(input.a, \"x\")", true),
        ("allow if not input.a != 1", true),
        ("allow if not input.a > 1", true),
        ("allow if not input.a in [1]", true),
        ("allow if not 1 in input.a", true),
        ("allow if not f(input.a)\nf(x) := x", true),
        ("allow if not f([input.a])\nf(x) := x", true),
        ("allow if not f({\"k\": p})\nf(x) := x\np := 1 if input.z", true),
        ("allow if not f(g(1))\nf(x) := x\ng(x) := x", true),
        ("allow if { u := input.u; not f(u.name) }\nf(x) := x", true),
        ("deny contains \"x\"\nallow if not deny[input.u]", true),
        ("allow if not input.a == count(input.b)", true),
        ("allow if not input.roles[_] == 1", true),
        ("allow if not input.roles[i] == 1", true),
        ("allow if { some i; not input.roles[i] == 1 }", true),
        ("allow if not [input.a] == [1]", true),
        ("allow if not input.a + 1 == 1", true),
        ("allow if not f(1).y\nf(x) := {\"z\": x}", true),
        ("p if input.z\nallow if not p with input.z as input.q", false),
        ("allow if every x in [1] { not x < input.a }", true),
        ("p := [x | x := 1; not x < input.a]", true),
        ("p := 1 if input.z\nallow if not f(p)\nf(x) := x", true),
        ("allow if not input.a", false),
        ("allow if not input.a.b[\"c\"]", false),
        ("deny if input.x\nallow if not deny", false),
        ("allow if not input.a == 1", false),
        ("allow if not input.a == input.b", false),
        ("allow if { x := input.a; not startswith(x, \"x\") }", false),
        ("allow if { x := input.a; y := input.b; not x in y }", false),
        ("allow if { some i; x := input.roles[i]; not x == data.r[i] }", false),
        ("allow if not f([1, \"a\"])\nf(x) := x", false),
        ("allow if { x := input.xs; not f([y | y := x[_]]) }\nf(x) := x", false),
        ("g(x) if not x > 1\nallow if g(1)", false),
        ("p := 1\nallow if { p := input.a; not p > 1 }", false),
        ("deny contains \"x\"\nallow if { u := input.u; not deny[u] }", false),
        ("allow if not data.blocked[\"x\"]", false),
    ] {
        let found = found(rego, &json!({}));
        let refused_here = found.iter().any(|(code, _)| *code == Code::UnsafeNegation);
        assert_eq!((refused_here, found.len()), (refused, usize::from(refused)), "{rego}: {found:?}");
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
