//! Evaluation within its limits: timeouts, panics, deep rules.

use std::{fs, sync::Arc, thread};

use super::*;
use crate::{config::RegoVersion, policy::problem::Code};

const LIMIT: Duration = Duration::from_millis(50);

pub(in crate::policy) fn config(path: &std::path::Path, decision: &str) -> config::Policy {
    config::Policy { decision: decision.to_owned(), ..config::Policy::at(path) }
}

/// Loads a folder of these files.
pub(in crate::policy) fn load(files: &[(&str, &str)], decision: &str) -> Result<PolicySet, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    PolicySet::load(&config(folder.path(), decision))
}

pub(in crate::policy) fn input(json: &str) -> Input {
    Input { value: Value::from_json_str(json).unwrap(), now_ns: 0 }
}

/// The answer of `allow` in package `t` for `json`.
pub(in crate::policy) fn evaluate(rego: &str, json: &str) -> Result<Option<serde_json::Value>, Failure> {
    load(&[("t.rego", &format!("package t\n{rego}"))], "t/allow").unwrap().evaluate(&input(json), LIMIT)
}

#[test]
fn an_error_quotes_nothing_of_the_request() {
    for rego in [
        "allow if p.k\np[k] := v if { some v in input.secrets; k := \"k\" }",
        "allow if { x := {\"k\": v | some v in input.secrets}; x.k }",
        "allow if f(1) == 1\nf(x) := input.secrets[0] if x == 1\nf(x) := input.secrets[1] if x == 1",
        "allow := v if { some v in input.secrets }",
    ] {
        let failure = evaluate(rego, r#"{"secrets": ["s3cr3t`1", "s3cr3t`2"]}"#).unwrap_err();
        assert_eq!(failure.reason, Reason::PolicyError, "{rego}");
        assert!(failure.detail.starts_with(|c: char| c != '…') && !failure.detail.contains("s3cr3t"), "{failure:?}");
    }
    let panic = "byte index 1 is not a char boundary; it is inside 'é' (bytes 0..2) of `és3cr3t`";
    assert!(!without_values(panic).contains("s3cr3t"));
}

#[test]
fn answers_of_every_kind_come_back() {
    for (rego, answer) in [
        ("allow if input.x == 1", Some("true")),
        ("default allow := false\nallow if input.x == 2", Some("false")),
        ("allow if input.y == 1", None),
        ("allow if input.x == upper(1)", None),
        ("allow := {\"allowed\": true, \"s\": {2, 1}}", Some(r#"{"allowed":true,"s":[1,2]}"#)),
        ("allow := 9007199254740993", Some("9007199254740993")),
        ("allow contains \"x\"", Some(r#"["x"]"#)),
        ("allow := \"text\"", Some("\"text\"")),
    ] {
        let found = evaluate(rego, r#"{"x": 1}"#).unwrap().map(|value| value.to_string());
        assert_eq!(found.as_deref(), answer, "{rego}");
    }
}

#[test]
fn a_conflict_is_an_error() {
    let failure = evaluate("allow := 1 if input.a\nallow := 2 if input.b", r#"{"a": 1, "b": 1}"#).unwrap_err();
    assert_eq!(failure.reason, Reason::PolicyError, "{failure:?}");
    assert!(failure.detail.contains("t.rego:"), "{failure:?}");
}

#[test]
fn rego_v0_is_read_by_setting() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.rego"), "package t\nallow { input.x == 1 }").unwrap();
    let mut config = config(folder.path(), "/t/allow/");
    assert_eq!(PolicySet::load(&config).err().unwrap().problems[0].code, Code::Parse);
    config.rego = RegoVersion::V0;
    assert_eq!(PolicySet::load(&config).unwrap().evaluate(&input(r#"{"x": 1}"#), LIMIT), Ok(Some(true.into())));
}

#[test]
fn dotted_decisions_are_found() {
    let set = load(&[("t.rego", "package a[\"com.foo\"]\nb := input.x")], "a/com.foo/b").unwrap();
    assert_eq!(set.evaluate(&input(r#"{"x": 7}"#), LIMIT), Ok(Some(7.into())));
}

#[test]
fn an_endless_loop_times_out() {
    let rego = "allow if { input.go; xs := numbers.range(1, 2000); count([1 | some x in xs; some y in xs; x * y == -1]) == 1 }";
    for rego in [
        rego.to_owned(),
        format!("slow if {{ {} }}\nallow if not slow", rego.split(" { ").nth(1).unwrap().trim_end_matches(" }")),
    ] {
        let set = load(&[("t.rego", &format!("package t\n{rego}"))], "t/allow").unwrap();
        let start = Instant::now();
        let failure = set.evaluate(&input(r#"{"go": true}"#), LIMIT).unwrap_err();
        assert_eq!(failure.reason, Reason::PolicyTimeout, "{failure:?}");
        assert!(start.elapsed() < 3 * LIMIT, "{:?}", start.elapsed());
        assert!(set.evaluate(&input("{}"), LIMIT).is_ok());
    }
}

#[test]
fn a_panic_is_a_failure_and_the_next_evaluation_works() {
    let mut set = load(&[("t.rego", "package t\nallow if { boom(input.x) == 1 }\nboom(x) := x")], "t/allow").unwrap();
    set.engine = Engine::new();
    set.engine.add_policy("t.rego".to_owned(), "package t\nallow if boom(input.x) == 1".to_owned()).unwrap();
    let boom = |args: Vec<Value>| match args.first() {
        Some(Value::Number(_)) => Ok(Value::from(1u64)),
        _ => panic!("boom"),
    };
    set.engine.add_extension("boom".to_owned(), 1, Box::new(boom)).unwrap();
    for _ in 0..3 {
        let failure = set.evaluate(&input(r#"{"x": "a"}"#), LIMIT).unwrap_err();
        assert_eq!((failure.reason, failure.detail.as_str()), (Reason::PolicyPanic, "boom"));
        assert_eq!(set.evaluate(&input(r#"{"x": 1}"#), LIMIT), Ok(Some(true.into())));
    }
}

#[test]
fn builtins_that_are_bounded_answer_as_ever() {
    for (expression, answer) in [
        ("count(numbers.range(1, 1000))", Some("1000")),
        ("numbers.range_step(0, 10, 5)", Some("[0,5,10]")),
        ("numbers.range_step(0, 10, 0)", None),
        ("count(net.cidr_expand(\"10.0.0.0/24\"))", Some("256")),
        ("bits.lsh(1, 4)", Some("16")),
        ("bits.lsh(1, -4)", None),
        ("sprintf(\"%5d|%s|%%\", [1, \"a\"])", Some("\"    1|a|%\"")),
        ("replace(\"aXa\", \"a\", \"b\")", Some("\"bXb\"")),
        ("concat(\",\", [\"a\", \"b\"])", Some("\"a,b\"")),
        ("concat(\",\", {\"a\", \"b\"})", Some("\"a,b\"")),
        ("concat(\",\", [\"a\", input])", None),
        ("strings.count(\"cheese\", \"e\")", Some("3")),
        ("strings.count(\"äb\", \"\")", Some("3")),
        ("indexof(\"äbäb\", \"b\")", Some("1")),
        ("indexof(\"äb\", \"c\")", Some("-1")),
        ("indexof(\"\", \"a\")", Some("-1")),
        ("indexof(\"ab\", \"\")", None),
        ("indexof(\"\", \"\")", None),
        ("indexof_n(\"ééé\", \"éé\")", Some("[0,1]")),
        ("indexof_n(\"a🌧a🌧\", \"🌧\")", Some("[1,3]")),
        ("indexof_n(\"ab\", \"c\")", Some("[]")),
        ("indexof_n(\"ab\", \"\")", None),
        ("indexof_n(\"\", \"\")", None),
        ("lower(\"ADMİN ΑΣ Ä\")", Some("\"admin ασ ä\"")),
        ("upper(\"straße ﬁ ä ᾳ ᾀ ᾈ\")", Some("\"STRAßE ﬁ Ä ᾼ ᾈ ᾈ\"")),
        ("object.subset([], [])", Some("true")),
        ("object.subset([], [1])", Some("false")),
        ("object.subset([1, 2], [])", Some("true")),
        ("object.subset({\"a\": [1]}, {\"a\": []})", Some("true")),
        ("object.subset([1, 2, 3], [2, 3])", Some("true")),
        ("object.subset([1, 2, 3], [1, 3])", Some("false")),
        ("object.subset([1, 2, 3], {1, 3})", Some("true")),
        ("object.subset({\"a\": {\"b\": 1}}, {\"a\": {}})", Some("true")),
        ("object.subset({\"a\": 1}, {\"b\": 1})", Some("false")),
        ("object.subset(1, 1)", None),
        ("json.filter({\"k\": null, \"m\": \"s\", \"b\": 1}, [\"a\", \"k/a\", \"/m/b/c\"])", Some(r#"{"k":null,"m":"s"}"#)),
        ("json.filter({\"k\": [\"x\", {\"a\": 1, \"b\": 2}]}, {\"k/0/a\", \"k/1/a\"})", Some(r#"{"k":["x",{"a":1}]}"#)),
        ("json.filter({\"k\": numbers.range(0, 11)}, [\"k/10\", \"k/2\"])", Some(r#"{"k":[2,10]}"#)),
        ("json.filter({\"k\": [1], \"l\": {\"x\": {}}}, [[\"k\", 0], [\"l\", \"x\", \"y\"]])", Some(r#"{"k":[],"l":{"x":{}}}"#)),
        (
            "json.filter({\"a/b\": 1, \"c\": {\"d\": 1, \"e\": 2}}, [\"a~1b\", \"c\", \"c/d\"])",
            Some(r#"{"a/b":1,"c":{"d":1,"e":2}}"#),
        ),
        ("json.filter({\"a\": 1}, [\"\"])", Some("{}")),
        ("json.filter({\"a\": 1}, [])", Some("{}")),
        ("json.filter({\"a\": 1}, [1])", None),
        ("json.filter([1], [\"0\"])", None),
        ("time.parse_ns(\"2006-01-02\", \"1970-01-02\")", Some("86400000000000")),
    ] {
        let found = evaluate(&format!("allow := {expression}"), "{}").unwrap().map(|value| value.to_string());
        assert_eq!(found.as_deref(), answer, "{expression}");
    }
}

/// OPA would have an answer, or no memory: the call is neither undefined, which `not` turns around, nor is its error
/// lost where another body of a function answers.
#[test]
fn a_limit_ends_the_evaluation() {
    let setup = "s := concat(\"\", [input.x | some _ in numbers.range(1, 1000)])\n";
    for (expression, function) in [
        ("numbers.range(1, 1000000000)", "numbers.range"),
        ("numbers.range(-9000000000000000000, 9000000000000000000)", "numbers.range"),
        ("numbers.range_step(0, 10000000, 1)", "numbers.range_step"),
        ("net.cidr_expand(\"10.0.0.0/6\")", "net.cidr_expand"),
        ("net.cidr_expand(\"fe80::/64\")", "net.cidr_expand"),
        ("bits.lsh(1, 4000000000)", "bits.lsh"),
        ("sprintf(\"%9000000d%9000000d\", [1, 2])", "sprintf"),
        ("units.parse(\"1e999999\")", "units.parse"),
        ("json.unmarshal(\"1e20000\")", "json.unmarshal"),
        ("regex.is_valid(\"((a{1,1000}){1,1000}){1,1000}\")", "regex.is_valid"),
        ("replace(s, \"a\", s)", "replace"),
        ("time.parse_ns(\"ä\", \"ä\")", "time.parse_ns"),
    ] {
        for rule in [
            format!("allow if {{ input.go; input.y == {expression} }}"),
            format!("allow if {{ input.go; not {expression} }}"),
            format!("allow if {{ input.go; f(1) }}\nf(x) if {expression} == x\nf(x) := true"),
            format!("default allow := true\nallow := x if {{ input.go; x := {expression} }}"),
        ] {
            let rego = format!("package t\n{setup}{rule}");
            let set = load(&[("t.rego", &rego)], "t/allow").unwrap();
            let failure =
                set.evaluate(&input(r#"{"x": "aaaaaaaaaaaaaaaaaaaa", "go": 1, "y": 1}"#), Duration::from_secs(5)).unwrap_err();
            assert_eq!(failure.reason, Reason::PolicyLimit, "{rego}: {failure:?}");
            assert!(failure.detail.contains(&format!("`{function}`: ")), "{failure:?}");
            assert!(failure.place.is_some_and(|place| place.contains("t.rego:")) || rule.contains("f(x)"), "{rego}");
        }
    }
}

#[test]
fn many_threads_and_sets_take_turns() {
    let sets: Vec<_> = (0..2).map(|n| load(&[("t.rego", &format!("package t\nallow := {n}"))], "t/allow").unwrap()).collect();
    let sets = Arc::new(sets);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sets = Arc::clone(&sets);
            thread::spawn(move || {
                for _ in 0..50 {
                    for (n, set) in sets.iter().enumerate() {
                        assert_eq!(set.evaluate(&input("{}"), Duration::from_secs(5)), Ok(Some(n.into())));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_deepest_policy_that_loads_evaluates() {
    let nested = (0..12).fold("input.x".to_owned(), |inner, _| format!("[{inner}]"));
    let links: String = (0..60).map(|n| format!("f{n}(x) := [y | y := f{}(x)]\n", n + 1)).collect();
    let sum = vec!["x"; 240].join(" + ");
    let rego = format!("package t\nallow if count(f0(1)) == 1\n{links}f60(x) := [{sum}, {nested}]\n");
    let set = load(&[("t.rego", &rego)], "t/allow").unwrap();
    let evaluate = move || set.evaluate(&input("{\"x\": 1}"), Duration::from_secs(5));
    let answer = thread::Builder::new().stack_size(16 << 20).spawn(evaluate).unwrap().join().unwrap();
    assert_eq!(answer, Ok(Some(true.into())));
}

#[test]
fn what_the_parsers_reserve_makes_no_number() {
    for (expression, answer) in [
        ("json.unmarshal(input.json).a", Err(Reason::PolicyLimit)),
        ("json.unmarshal(input.escaped).a", Err(Reason::PolicyLimit)),
        ("yaml.unmarshal(input.json).a", Err(Reason::PolicyLimit)),
        ("yaml.unmarshal(input.escaped).a", Err(Reason::PolicyLimit)),
        ("yaml.marshal({\"a\": [1, -2, 1.5, \"1\"]})", Ok("\"a:\\n  - 1\\n  - -2\\n  - 1.5\\n  - \\\"1\\\"\\n\"")),
        ("yaml.unmarshal(yaml.marshal({\"a\": [1, -2, 1.5, {\"1\"}]}))", Ok(r#"{"a":[1,-2,1.5,["1"]]}"#)),
    ] {
        let input = r#"{"json": "{\"a\": {\"$serde_json::private::Number\": \"1\"}}", "escaped": "{\"a\": {\"\\u0024serde_json::private::Number\": \"1\"}}"}"#;
        let found = evaluate(&format!("allow := {expression}"), input);
        let found = found.map(|value| value.map(|value| value.to_string()).unwrap_or_default()).map_err(|failure| failure.reason);
        assert_eq!(found, answer.map(str::to_owned), "{expression}");
    }
}

#[test]
fn a_chain_of_rules_is_as_deep_as_the_setting_allows() {
    let folder = tempfile::tempdir().unwrap();
    let links: String = (0..20).map(|n| format!("r{n} if r{}\n", n + 1)).collect();
    fs::write(folder.path().join("t.rego"), format!("package t\nallow if r0\n{links}r20 if input.x")).unwrap();
    let mut config = config(folder.path(), "t/allow");
    for (depth, code) in [(128, None), (30, None), (10, Some(Code::TooDeep))] {
        config.limits.depth = depth;
        assert_eq!(PolicySet::load(&config).err().map(|error| error.problems[0].code), code, "{depth}");
    }
}

#[test]
fn mistakes_have_a_place() {
    for (rego, code, line) in [
        ("package t\n\nallow if {\n", Code::Parse, 3),
        ("package t\nallow if input.x ===\n", Code::Parse, 2),
        ("", Code::Parse, 1),
        ("package t\nallow if { x == 1 }\n", Code::UnsafeVariable, 2),
        ("package t\nallow := 1\nallow := 2\n", Code::Smoke, 0),
    ] {
        let problems = load(&[("t.rego", rego)], "t/allow").err().unwrap_or_else(|| panic!("{rego}")).problems;
        assert_eq!(problems[0].code, code, "{problems:?}");
        assert!(problems[0].line >= line && problems[0].file.ends_with("t.rego"), "{problems:?}");
        assert!(!problems[0].text.contains('\n') && !problems[0].text.is_empty(), "{problems:?}");
    }
}

#[test]
fn an_undefined_value_goes_on_to_the_else() {
    for (rego, expected) in [
        ("allow if not f(1)\nf(x) := input.a if { x == 1 } else := 1", None),
        ("allow if f(1)\nf(x) := input.a if { x == 1 } else := input.c if { x == 1 } else := true", Some(true)),
        ("allow := input.a if { input.x } else := true", Some(true)),
        ("allow if not q\nq := input.a if { input.x } else := true if { input.x }", None),
    ] {
        assert_eq!(evaluate(rego, r#"{"x": 1}"#), Ok(expected.map(serde_json::Value::Bool)), "{rego}");
    }
}

#[test]
fn an_imported_package_may_be_made_of_several_modules() {
    let files = [
        ("a.rego", "package guard\nother if input.z"),
        ("b.rego", "package guard\nname := input.p[1] if ok\nok if count(input.p) == 2"),
        ("t.rego", "package t\nimport data.guard\nallow if guard.name == \"b\"\ndenied if not guard.name"),
    ];
    for (rule, expected) in [("t/allow", Some(true)), ("t/denied", None)] {
        let set = load(&files, rule).unwrap();
        assert_eq!(set.evaluate(&input(r#"{"p": ["a", "b"]}"#), LIMIT), Ok(expected.map(serde_json::Value::Bool)), "{rule}");
    }
}

#[test]
fn a_decision_may_be_a_document_of_several_rules() {
    let policy = r#"package t
        default allow := false
        allow if input.role == "clerk"
        result["allowed"] := allow
        result.headers := {"x-role": input.role} if allow
        result["http_status"] := 401 if not allow
    "#;
    let set = load(&[("t.rego", policy)], "t/result").unwrap();
    for (document, expected) in [
        (r#"{"role": "clerk"}"#, r#"{"allowed":true,"headers":{"x-role":"clerk"}}"#),
        (r#"{"role": "other"}"#, r#"{"allowed":false,"http_status":401}"#),
        ("{}", r#"{"allowed":false,"http_status":401}"#),
    ] {
        let found = set.evaluate(&input(document), LIMIT).unwrap().map(|value| value.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{document}");
    }
    assert!(load(&[("t.rego", policy)], "t").is_err(), "a package is no decision");
}
