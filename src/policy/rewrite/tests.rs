//! What is rewritten, and that the rest is left alone.

use regorus::{Source, unstable::Parser};

use super::*;
use crate::policy::{
    check::{self, Parsed},
    engine::tests::{evaluate, input, load},
};

/// The module in package `t` after the rewrite.
fn rewritten(rego: &str) -> String {
    let text = format!("package t\n{rego}");
    let lowered = lexical::lower(&text).unwrap().text;
    let source = Source::from_contents("t.rego".to_owned(), lowered.clone()).unwrap();
    let mut parser = Parser::new(&source).unwrap();
    parser.enable_rego_v1().unwrap();
    let parsed = Parsed { module: parser.parse().unwrap(), roots: None };
    let rules = check::rules([&parsed].into_iter());
    let names = Names::of(&parsed.module, &rules);
    let whole = Whole::of([&parsed.module].into_iter(), &rules, Purpose::Test);
    let text = rewrite(&parsed.module, &lowered, &names, &whole).unwrap_or_else(|problems| panic!("{rego}: {problems:?}"));
    assert_eq!(text.matches('\n').count(), lowered.matches('\n').count(), "{text}");
    text.strip_prefix("package t\n").unwrap().to_owned()
}

#[test]
fn ordinary_policies_stay_as_they_are() {
    for rego in [
        "default allow := false",
        "allow if input.method == \"GET\"",
        "allow if { some i; input.roles[i] == \"admin\"; not input.blocked }",
        "allow if \"admin\" in input.roles",
        "allow if not input.a == 1",
        "allow if not deny\ndeny if input.x",
        "allow if input.n > 3",
        "allow if count(input.xs) + 1 < 4",
        "allow if { x := input.x; not startswith(x, \"a\") }",
        "allow if { x := input.x; y := input.y; x[\"a\"] == y[0] with input.z as 1 }",
        "allow if { some x in [1, 2]; x == input.x }",
        "p := {k: v | v := input.xs[k]} if { true } else := `a` if false",
        "p contains \"x\" if `a` == \"\"",
        "f(x, [y, _]) := x if x == y",
        "p[\"a\"].b := -1",
        "p if { {\"a\": 1} == input.x; {\"a\": 1} = input.y }",
    ] {
        assert_eq!(rewritten(rego), rego);
    }
}

#[test]
fn what_the_engine_reads_otherwise_is_rewritten() {
    for (rego, text) in [
        ("p if not f(input.x)\nf(x) := x", "p if { __v1 := input.x; not f(__v1) }\nf(x) := x"),
        ("p if { not input.x != 1; true }", "p if { __v1 := input.x; not __v1 != 1; true }"),
        ("p if not input.a[input.b] == 1", "p if { __v1 := input.b; not input.a[__v1] == 1 }"),
        (
            "p if not q[input.u] with input.u as 1\nq contains 1",
            "p if { __v1 := input.u with input.u as 1; not q[__v1] with input.u as 1 }\nq contains 1",
        ),
        (
            "p if not f([q, {\"k\": g(1)}])\nq := 1\nf(x) := x\ng(x) := x",
            "p if { __v1 := q; __v2 := g(1); not f([__v1, {\"k\": __v2}]) }\nq := 1\nf(x) := x\ng(x) := x",
        ),
        ("p := input.x - input.y", "p := internal.sub(input.x, input.y)"),
        ("p contains input.x | {1} if \"a\" == `b`", "p contains internal.or(input.x, {1}) if \"a\" == `b`"),
        ("p := -input.x", "p := internal.sub(0, input.x)"),
        ("p if input.a < input.b", "p if { internal.lt(input.a, input.b) }"),
        ("p := input.a in input.b", "p := internal.member_2(input.a, input.b)"),
        ("p if 0, input.a in input.b", "p if { internal.member_3(0, input.a, input.b) }"),
        ("p if some x in input.xs", "p if { some x in internal.collection(input.xs) }"),
        ("p if every x in input.xs { x == 1 }", "p if { every __v1 in internal.collection(input.xs) { x := __v1; x == 1 } }"),
        ("p := v if { [p, v] := walk(input) }", "p := v if { walk(input, [p, v]) }"),
        ("p := x if { x := walk(input)[1] }", "p := x if { walk(input, __v1); x := __v1[1] }"),
        ("p := y if {\"a\": y} := input.x", "p := y if { __v1 := input.x; object.keys(__v1) == {\"a\"}; y := __v1[\"a\"] }"),
        ("f({\"a\": y}, 1) := y", "f(__v1, 1) := y if { object.keys(__v1) == {\"a\"}; y := __v1[\"a\"] }"),
        (
            "f({\"a\": y}) := 1 if y == 2\nelse := 3 if { y == 4 }",
            "f(__v1) := 1 if { object.keys(__v1) == {\"a\"}; y := __v1[\"a\"]; y == 2 }\nelse := 3 if { object.keys(__v1) == {\"a\"}; y := __v1[\"a\"];  y == 4 }",
        ),
        (
            "p if { x := 1; q with input.a as input.b with input.c as x }\nq := 1",
            "p if { x := 1; __v1 := input.b; q with input.a as __v1 with input.c as x }\nq := 1",
        ),
        (
            "p if {\n\tnot f(\n\t\tinput.x,\n\t)\n\ttrue\n}\nf(x) := x",
            "p if {\n\t__v1 := input.x; not f(__v1)\n\n\n\ttrue\n}\nf(x) := x",
        ),
        (
            "p := input.a if { input.b } else := input.c if { input.d } else := 1",
            "p := __v1 if { input.b ; __v1 := input.a } else := __v2 if { input.d ; __v2 := input.c } else := 1",
        ),
        ("p contains input.xs[_]", "p contains __v1 if { __v1 := input.xs[_] }"),
        ("p[input.xs[i]] := i if i > 0", "p[__v1] := i if { i > 0; __v1 := input.xs[i] }"),
        ("p := input.xs[_] if {\n\ttrue # all\n}", "p := __v1 if {\n\ttrue # all\n; __v1 := input.xs[_] }"),
        ("p := {input.xs[_] | true}", "p := {__v1 | true; __v1 := input.xs[_]}"),
        ("p if { some x in [1]; y := x; not input.m[y] }", "p if { some x in [1]; y := [x][0]; not input.m[[y][0]] }"),
        ("f(x) if { y := x; not input.m[x] }", "f(x) if { y := x; not input.m[x] }"),
        ("p.q.r := 1\np[x].r := x if x := input.x", "p[__v1].r := 1 if { __v1 := \"q\" }\np[x].r := x if x := input.x"),
        (
            "o.s[x][x] contains x if some x in [1]\no[x][x] contains x if x := 2",
            "o[__v1][x][x] contains x if { __v1 := \"s\"; some x in [1] }\no[x][x] contains x if x := 2",
        ),
        ("p := [\n\tinput.a - 1,\n\tinput.b,\n]", "p := [\ninternal.sub(input.a, 1), \ninput.b]\n"),
        (
            "test_a if { not f(input.x) with f as g }\nf(x) := x\ng(x) := f(x)",
            "test_a if { __v1 := input.x with data.doorward_mocks.f0 as data.doorward_mocks.f1; \
             not data.doorward_mocks.f0(__v1) with data.doorward_mocks.f0 as data.doorward_mocks.f1 }\n\
             f(x) := x\ng(x) := data.doorward_mocks.f0(x)",
        ),
        (
            "test_a if { time.now_ns(n); n == 1 with time.now_ns as input.now }",
            "test_a if { n = data.doorward_mocks.f0(0); __v1 := input.now; n == 1 with data.doorward_mocks.f0 as __v1 }",
        ),
    ] {
        assert_eq!(rewritten(rego), text, "{rego}");
    }
}

/// The answer is OPA's; the engine's own is another.
#[test]
fn answers_are_those_of_opa() {
    let given = r#"{"x": 1, "s": "abc", "o": {"a": 1, "b": 2}, "xs": [1, 2], "nested": {"k": {"v": 1}}}"#;
    for (rego, answer) in [
        ("allow if not startswith(input.missing, \"x\")", None),
        ("allow if not input.missing != 1", None),
        ("allow if not input.missing in [1]", None),
        ("allow if not deny[input.missing]\ndeny contains \"x\"", None),
        ("allow if not input.missing == 1", Some("true")),
        ("allow if not input.missing", Some("true")),
        ("allow if not input.missing == input.other", Some("true")),
        ("allow := input.s - 1", None),
        ("default allow := false\nallow := input.s | {1}", Some("false")),
        ("allow := {1 | 0, input.missing in [1]}", Some("[]")),
        ("allow := [x | some x in input.s]", Some("[]")),
        ("default allow := false\nallow if every x in input.s { x == 1 }", Some("false")),
        ("allow if every v in input.xs { not input.o[v] }", Some("true")),
        ("allow := count([p | [p, v] := walk(input.nested)])", Some("3")),
        ("allow := count([v | v := walk(input.nested)[0]])", Some("3")),
        ("allow := y if {\"a\": y} := input.o", None),
        ("allow := y if {\"a\": y, \"b\": _} := input.o", Some("1")),
        ("allow := y if {\"a\": y} = input.o", None),
        ("allow := y if {\"a\": y, \"b\": 2} = input.o", Some("1")),
        ("allow := [y | some {\"v\": y} in input.nested]", Some("[1]")),
        ("allow := [y | some {\"v\": y} in [{\"v\": 1, \"w\": 1}]]", Some("[]")),
        ("allow := f(input.o)\nf({\"a\": y}) := y", None),
        ("allow := f(input.o)\nf({\"a\": y, \"b\": z}) := y + z", Some("3")),
        ("allow if { q with input.a as input.missing with input.b as 1 }\nq := 1", None),
        ("allow := 0.1 + 0.2", Some("0.3")),
        ("allow if not 1 > input.x", Some("true")),
        ("allow := -input.x", Some("-1")),
        ("default allow := 7\nallow := input.s[_]", Some("7")),
        ("allow := {input.s[_] | true}", Some("[]")),
        ("allow := p\np[input.xs[i]] := i if i > 0", Some("{\"2\":1}")),
        ("allow if { x := input.xs[_]; some i; input.xs[i] == x + 1 }", Some("true")),
        ("allow := p\np contains v - 1 if some v in [2, input.s]", Some("[1]")),
        ("allow := p\np[v] := v - 1 if some v in [2, input.s]", Some(r#"{"2":1}"#)),
        ("allow if { split(input.s, \"b\", v); every x in [\"a\"] { x == v[0] } }", Some("true")),
        ("allow := {[1], {\"a\": 1}, {1}}", Some(r#"[[1],{"a":1},[1]]"#)),
        ("allow := urlquery.decode(\"a=b+c%3D\")", Some(r#""a=b c=""#)),
        ("allow := p\np[input.missing] contains 1 if true", Some("{}")),
        ("allow := p\np[input.x].q := 1 if false", Some("{}")),
        ("allow := p\np[\"a\"] contains input.s - 1", Some(r#"{"a":[]}"#)),
        ("allow := p.a\np[k] := v if some k, v in input.o\np.a := 1", Some("1")),
        ("allow := data.t.q\nq.r if false", Some("{}")),
        ("allow if { some v in input.xs; w := v; not input.o[w] }", Some("true")),
        ("allow := walk(input.nested.k.v)[1]", Some("1")),
        ("allow := f(\"a 1\")\nf($\"{x} {input.x}\") := 42 if x = \"a\"", Some("42")),
        ("allow := p\np[q].r contains \"x\" if some q in [\"a\", \"b\"]", Some(r#"{"a":{"r":["x"]},"b":{"r":["x"]}}"#)),
        (
            "allow := $\"{input.x}{input.s} {input.o} {{[1, null]}} {input.missing} {set()}\"",
            Some(r#""1abc {\"a\": 1, \"b\": 2} {[1, null]} <undefined> set()""#),
        ),
        ("x := 2\nallow := $`a{$\"<{x + 1}>\"}`", Some("\"a<3>\"")),
    ] {
        let found = evaluate(rego, given).unwrap_or_else(|failure| panic!("{rego}: {failure:?}"));
        assert_eq!(found.map(|value| value.to_string()).as_deref(), answer, "{rego}");
    }
    // Names of the author's that look like ours are left to the author.
    let set = load(&[("t.rego", "package t\nallow if { __v1 := 7; not input.x > __v1 }")], "t/allow").unwrap();
    assert_eq!(set.evaluate(&input(given), std::time::Duration::from_secs(1)), Ok(Some(true.into())));
}
