//! The author's tools through the real binary, and their agreement with the real `opa`.

mod bench;
mod check;
mod eval;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const TESTS: &str = r#"package p
f(x) := x + 1
g(x) := x * 10
test_true if true
test_number := 5
test_set contains 1 if true
test_undefined if 1 == 2
todo_test_later if false
test_twice if true
test_twice if false
foo.test_nested if true
test_mock if { f(1) == 10 with f as g }
test_case[n] if { some n, c in {"one": 1, "two": 2}; c == 1 }
test_cases[n] if { some n, c in {"one": 1, "two": 1}; c == 1 }
test_input if { input.x == 1 with input as {"x": 2} }
test_builtin if { count([1]) == 100 with count as 100 }
test_error if { to_number("x") == 1 }
test_data if data.limit == 3
"#;

fn doorward(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).output().unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("p_test.rego"), TESTS).unwrap();
    fs::write(folder.path().join("data.json"), r#"{"limit": 3}"#).unwrap();
    folder
}

/// Where the real one is; none, with a loud word, when it is absent and may be.
fn opa() -> Option<String> {
    let found = Command::new("bash").args(["tests/peers.sh", "path", "opa"]).output().unwrap();
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let there = found.status.success() && Path::new(&path).exists();
    if !there {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "opa is not installed: run `bash tests/peers.sh opa`");
        eprintln!("SKIPPED: opa is not installed; run `bash tests/peers.sh opa`");
    }
    there.then_some(path)
}

#[test]
fn every_shell_completes_every_tool() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = doorward(&["completion", shell]);
        let script = String::from_utf8_lossy(&script.stdout).into_owned();
        for word in ["check", "eval", "bench", "strict", "peer", "threads"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
}

/// The cases in OPA's report that fail, as we name them.
fn failed_cases(results: &Value, name: &str) -> Vec<String> {
    let Some(results) = results.as_object() else { return Vec::new() };
    let each = results.iter().flat_map(|(key, result)| {
        let name = if name.is_empty() { key.clone() } else { format!("{name} / {key}") };
        match result.get("sub_results") {
            Some(within) => failed_cases(within, &name),
            None if result["fail"] == true => vec![name],
            None => Vec::new(),
        }
    });
    each.collect()
}

/// Two packages may have tests of one name.
fn full_name(result: &Value) -> String {
    let text = |key: &str| result[key].as_str().unwrap().to_owned();
    format!("{}.{}", text("package"), text("name"))
}

#[test]
fn test_gives_the_verdicts_of_opa_test() {
    let (Some(opa), folder) = (opa(), folder()) else { return };
    fs::write(folder.path().join("cases_test.rego"), include_str!("tools/cases.rego")).unwrap();
    let theirs = Command::new(opa).args(["test", "--format", "json"]).arg(folder.path()).output().unwrap();
    let theirs: Vec<Value> = serde_json::from_slice(&theirs.stdout).unwrap();
    let theirs: BTreeMap<String, (&str, Vec<String>)> = theirs
        .iter()
        .map(|result| {
            let is = |key: &str| result[key] == true;
            let outcome = if is("skip") {
                "skip"
            } else if is("fail") {
                "fail"
            } else {
                "pass"
            };
            let outcome = if result.get("error").is_some() { "error" } else { outcome };
            (full_name(result), (outcome, failed_cases(&result["sub_results"], "")))
        })
        .collect();
    let output = doorward(&["test", folder.path().to_str().unwrap(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours: BTreeMap<String, (&str, Vec<String>)> = ours["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            let cases = result["cases"].as_object().into_iter().flatten();
            let failed = cases.filter(|(_, outcome)| *outcome != "pass").map(|(name, _)| name.clone()).collect();
            (full_name(result), (result["outcome"].as_str().unwrap(), failed))
        })
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn test_ends_and_prints_as_asked() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    for (args, code, said) in [
        (&["--run", "test_true$"][..], 0, "PASS: 1/1"),
        (&["--run", "test_input"], 1, "input.x = 2"),
        (&["--run", "test_true$", "--coverage", "--threshold", "99"], 1, "covered: "),
        (&["--run", "test_true$", "--output", "junit"], 0, "<testsuite name=\"data.p\""),
    ] {
        let output = doorward(&[&["test", path], args].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), text.contains(said)), (Some(code), true), "{args:?}: {text}");
    }
    fs::write(folder.path().join("bad.rego"), "package p\nallow if\n").unwrap();
    assert_eq!(doorward(&["test", path]).status.code(), Some(3));
}
