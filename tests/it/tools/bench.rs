//! `doorward bench` through the real binary: it measures what answers calls, and ends as it should.

use std::fs;

use serde_json::Value;

use super::doorward;

#[test]
fn both_ways_are_measured_side_by_side() {
    let folder = tempfile::TempDir::new().unwrap();
    let policy = folder.path().to_str().unwrap();
    let bench = |policy: &str, args: &[&str]| {
        doorward(&[&["bench", "--policy", policy, "--duration", "200ms", "--timeout", "5s"], args].concat())
    };
    fs::write(
        folder.path().join("p.rego"),
        "package envoy.authz\ndefault allow := false\nallow if input.parsed_path[0] == \"a\"\n",
    )
    .unwrap();
    let output = bench(policy, &["--path", "/a", "--threads", "2", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["answered_by"], &report["threads"]), (&"bytecode".into(), &2.into()));
    for way in ["served", "interpreter"] {
        let figure = |key: &str| report[way][key].as_u64().unwrap();
        assert!(figure("evaluations") > 10 && figure("min_ns") > 0, "{report}");
        assert!(figure("min_ns") <= figure("median_ns") && figure("median_ns") <= figure("p99_ns"), "{report}");
    }
    assert!(report["ratio"].is_number() && report["revision"].is_string());
    assert!(output.stderr.is_empty(), "progress is for terminals");

    let table = bench(policy, &["--path", "/a"]);
    let text = String::from_utf8(table.stdout).unwrap();
    for part in ["median", "as served", "interpreter", "answered by the bytecode", "threads 1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    insta::assert_snapshot!("bench_help", String::from_utf8_lossy(&doorward(&["bench", "--help"]).stdout));
    assert_eq!(bench(policy, &["--path", "/a/%2e%2e/b"]).status.code(), Some(3));
    assert_eq!(bench(policy, &["--path", "/a", "--threads", "0"]).status.code(), Some(3));
    fs::write(folder.path().join("p.rego"), "package envoy.authz\nallow := 1\nallow := count(input.parsed_path)\n").unwrap();
    assert_eq!(bench(policy, &["--path", "/a/b"]).status.code(), Some(1));
}
