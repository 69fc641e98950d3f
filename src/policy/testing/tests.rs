//! Tests are found and judged as `opa test` does; the real one is asked in `tests/it/tools.rs`.

use super::*;

fn report(files: &[(&str, &str)], coverage: bool) -> Report {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config: config::Policy = serde_json::from_value(serde_json::json!({"bundles": [{"path": folder.path()}]})).unwrap();
    run(&config, &Plan { only: None, limit: Duration::from_secs(5), threads: 2, coverage }, &|_, _| {}).unwrap()
}

#[test]
fn only_the_value_true_passes() {
    let tests = [
        ("test_true if true", Outcome::Pass),
        ("test_number := 5", Outcome::Fail),
        ("test_set contains 1 if true", Outcome::Fail),
        ("test_false := false", Outcome::Fail),
        ("test_undefined if 1 == 2", Outcome::Fail),
        ("test_function(x) := x", Outcome::Error),
        ("todo_test_later if false", Outcome::Skip),
        ("foo.test_nested if true", Outcome::Pass),
        ("test_mock if { f(1) == 10 with f as g }", Outcome::Pass),
        ("test_builtin if { count([1]) == 100 with count as 100 }", Outcome::Pass),
        ("test_case[n] if { some n, c in {\"one\": 1, \"two\": 2}; c == 1 }", Outcome::Fail),
        ("test_cases[n] if { some n, c in {\"one\": 1, \"two\": 1}; c == 1 }", Outcome::Pass),
        ("test_constant[\"a\"] if true", Outcome::Fail),
    ];
    for (rule, outcome) in tests {
        let text = format!("package p\nf(x) := x + 1\ng(x) := x * 10\n{rule}\n");
        let results = report(&[("p_test.rego", &text)], false).results;
        assert_eq!(results.iter().map(|result| result.outcome).collect::<Vec<_>>(), [outcome], "{rule}: {results:?}");
    }
}

#[test]
fn tests_replace_functions_as_in_opa() {
    let library = "package lib\nf(x) := x + 1\nuses(x) := f(x)\nsize(x) := count(x)\nnow := time.now_ns()\n\
                   sum(x) := crypto.sha256(x)\n";
    let asking = "owner := http.send({\"url\": \"http://x\"}).body.owner\n";
    for (rule, outcome) in [
        // Wherever it is called, by whatever name.
        ("test_x if { lib.uses(1) == 10 with data.lib.f as g }", Outcome::Pass),
        ("test_x if { lib.uses(1) == 10 with lib.f as data.p.g }", Outcome::Pass),
        ("test_x if { f(1) == 5 with lib.f as g }\nf(_) := 5", Outcome::Pass),
        ("test_x if { lib.size([1, 2]) == 20 with count as h }\nh(x) := count(x) * 10", Outcome::Pass),
        ("test_x if { lib.now == 7 with time.now_ns as 7 }", Outcome::Pass),
        ("test_x if { lib.now == 7 with time.now_ns as seven }\nseven := 7", Outcome::Pass),
        (
            "test_x if { lib.owner == \"ann\" with http.send as answer }\nanswer(_) := {\"body\": {\"owner\": \"ann\"}}",
            Outcome::Pass,
        ),
        ("test_x if { lib.sum(\"a\") == 3 with crypto.sha256 as 3 }", Outcome::Pass),
        ("test_x if { lib.uses([1, 2]) == 2 with lib.f as count }", Outcome::Pass),
        // OPA binds the operand first, and neither negation holds.
        ("test_x if { not lib.uses(input.missing) with lib.f as g }", Outcome::Fail),
        ("test_x if { not lib.uses(1) with lib.f as input.missing }", Outcome::Fail),
        ("test_x if { not lib.uses(1) with lib.f as false }", Outcome::Pass),
        // What replaces is not itself replaced.
        ("test_x if { lib.uses(1) == 2 with lib.f as again }\nagain(x) := lib.f(x)", Outcome::Pass),
        // Not replaced here, and never asked over the network.
        ("test_x if { not lib.owner }\ntest_y if { lib.now with http.send as 1 }", Outcome::Error),
    ] {
        let text = format!("package p\nimport data.lib\ng(x) := x * 10\n{rule}\n");
        let library = format!("{library}{}", if rule.contains("http.send") { asking } else { "" });
        let result = report(&[("lib.rego", &library), ("p_test.rego", &text)], false).results.remove(0);
        assert_eq!(result.outcome, outcome, "{rule}: {result:?}");
    }
}

#[test]
fn tests_of_one_name_are_tests_of_their_own() {
    let results = report(&[("p_test.rego", "package p\ntest_x if true\ntest_x if false\n")], false).results;
    let found: Vec<_> = results.iter().map(|result| (result.name.as_str(), result.outcome)).collect();
    assert_eq!(found, [("test_x", Outcome::Pass), ("test_x#01", Outcome::Fail)]);
}

#[test]
fn a_failure_shows_its_expression_and_values_and_the_lines_left_out() {
    let text = "package p\nlimit := 3\ntest_x if {\n\tx := 1\n\tx + 1 == limit\n\tlimit == 4\n}\n";
    let report = report(&[("p_test.rego", text)], true);
    let probe = report.results[0].failed_at.clone().unwrap();
    assert_eq!((probe.line, probe.expression.as_str()), (5, "x + 1 == limit"));
    assert_eq!(probe.values, [("x".to_owned(), "1".to_owned()), ("limit".to_owned(), "3".to_owned())]);
    let coverage = report.coverage.unwrap();
    let file = coverage.files.values().next().unwrap();
    assert!(file.covered.contains(&5) && file.not_covered.contains(&6) && file.percent < 100.0, "{file:?}");
}

#[test]
fn the_cases_that_fail_are_named() {
    let text = "package p\ntest_x[n] if {\n\tsome n, c in {\"one\": 1, \"two\": 2}\n\tc == 1\n}\n";
    let result = report(&[("p_test.rego", text)], false).results.remove(0);
    let case = |name: &str| vec![name.to_owned()];
    assert_eq!(result.cases, BTreeMap::from([(case("one"), Outcome::Pass), (case("two"), Outcome::Fail)]));
}

/// What is expected of each stands behind it, and `tests/it/tools.rs` asks the real one.
#[test]
fn cases_are_found_in_every_form_of_head() {
    let text = include_str!("../../../tests/it/tools/cases.rego");
    let expected: Vec<&str> =
        text.lines().filter(|line| line.contains("test_")).filter_map(|line| Some(line.split_once(" # ")?.1)).collect();
    let results = report(&[("cases_test.rego", text)], false).results;
    assert_eq!((results.len(), expected.len()), (44, 44));
    let mut wrong = Vec::new();
    for (result, expected) in results.iter().zip(expected) {
        let failed = result.cases.iter().filter(|(_, outcome)| **outcome != Outcome::Pass);
        let failed: Vec<String> = failed.map(|(case, _)| shown(case)).collect();
        let found = match (result.outcome, failed.is_empty()) {
            (Outcome::Pass, _) => "passes".to_owned(),
            (Outcome::Fail, true) => "fails".to_owned(),
            (Outcome::Fail, false) => format!("fails: {}", failed.join(", ")),
            other => format!("{other:?}"),
        };
        if found != expected {
            wrong.push(format!("{}: {found}, not {expected}: {:?}", result.name, result.error));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
