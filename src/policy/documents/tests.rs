//! Documents come into force with their set, or refuse it at the place of what is wrong.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    clock::Now,
    config,
    policy::{
        PolicySet,
        inspect::{Decision, inspect},
    },
    verdict::Tier,
};

const POLICY: &str = "package envoy.authz\n\nallow := true\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load(path: &Path) -> Result<PolicySet, LoadError> {
    PolicySet::load(&config::Policy::at(path))
}

/// `file:line:column code path` of each problem.
fn told(folder: &TempDir, error: &LoadError) -> Vec<String> {
    let base = format!("{}/", folder.path().display());
    let line = |problem: &Problem| {
        let Problem { code, file, line, column, text, .. } = problem;
        let path = text.split('`').nth(1).unwrap_or_default();
        format!("{}:{line}:{column} {code} {path}", file.strip_prefix(&base).unwrap_or(file))
    };
    error.problems.iter().map(line).collect()
}

#[test]
fn what_the_documents_say_is_in_the_set() {
    let folder = folder(&[
        ("p.rego", POLICY),
        ("doorward/workloads.yaml", "workloads: {spiffe://a.org/x: {owner: o}}"),
        ("rest.json", r#"{"doorward": {"tiers": {"default": "light"}, "signals": {"denial_streak": 3}}, "other": 1}"#),
    ]);
    let set = load(folder.path()).unwrap();
    let context::Documents { registry, tiers, weights: signals, .. } = set.documents();
    assert_eq!(registry.find("spiffe://a.org/x").unwrap().owner.as_deref(), Some("o"));
    assert_eq!((tiers.of(None), signals.denial_streak), (Tier::Light, 3));
    let none = load(&folder.path().join("p.rego")).unwrap();
    assert!(none.documents().registry.is_empty() && none.documents().tiers.is_empty() && none.documents().weights.is_empty());
}

#[test]
fn every_fault_is_told_at_its_place() {
    let folder = folder(&[
        ("p.rego", POLICY),
        ("doorward/workloads.yml", "# people\nworkloads:\n  spiffe://a.org/x:\n    ownr: o\n    allows: [a, 7]\n  web: {}\n"),
        ("doorward/extra.yaml", "workloads:\n  spiffe://a.org/x:\n    state: 1\n"),
        ("all.json", "{\n\t\"doorward\": {\n\t\t\"tiers\": {\"light\": {\"lease_s\": 0}},\n\t\t\"signal\": {}\n\t}\n}\n"),
    ]);
    let error = load(folder.path()).unwrap_err();
    assert_eq!(
        told(&folder, &error),
        [
            "all.json:3:23 document data.doorward.tiers.light.lease_s",
            "all.json:4:3 document data.doorward.signal",
            "doorward/extra.yaml:3:5 document data.doorward.workloads.spiffe://a.org/x.state",
            "doorward/workloads.yml:4:5 document data.doorward.workloads.spiffe://a.org/x.ownr",
            "doorward/workloads.yml:5:17 document data.doorward.workloads.spiffe://a.org/x.allows.1",
            "doorward/workloads.yml:6:3 document data.doorward.workloads.web",
        ]
    );
    assert_eq!(error.problems[3].source.as_deref(), Some("    ownr: o"));
    assert!(error.problems[3].report(false).contains("^^^^"), "{}", error.problems[3].report(false));
}

#[test]
fn faults_of_rego_and_documents_are_told_together() {
    let folder = folder(&[("p.rego", "package lib\n\nx if http.send({})\n"), ("doorward/data.yaml", "tiers: []\n")]);
    let error = load(folder.path()).unwrap_err();
    let codes: Vec<_> = error.problems.iter().map(|problem| problem.code).collect();
    assert!(codes.contains(&Code::Document) && codes.contains(&Code::IoBuiltin), "{error}");
    for (rego, decides) in [("package lib\n", false), ("package envoy.authz\n", true), (POLICY, true)] {
        fs::write(folder.path().join("p.rego"), rego).unwrap();
        let found = inspect(&config::Policy::at(folder.path()), Decision::Assumed, Now::from_seconds(0));
        assert!(found.findings.iter().any(|problem| problem.code == Code::Document), "{rego}: {:?}", found.findings);
        assert_eq!(found.decides, decides, "{rego}");
    }
}

#[test]
fn a_root_that_is_no_object_is_refused() {
    for text in ["7", "[\"a\"]", "null"] {
        let folder = folder(&[("p.rego", POLICY), ("all.json", &format!("{{\"doorward\": {text}}}"))]);
        let error = load(folder.path()).unwrap_err();
        assert_eq!(told(&folder, &error), ["all.json:1:2 document data.doorward"], "{text}");
    }
}
