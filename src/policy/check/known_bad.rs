//! Every policy in `tests/known-bad` gets the code that its first line names, at a place within it.

use std::{collections::BTreeSet, fs};

use crate::policy::{
    engine::tests::load,
    problem::{Code, Severity},
};

#[test]
fn every_known_bad_policy_gets_its_own_code() {
    let mut wrong = Vec::new();
    let (mut seen, mut count) = (BTreeSet::new(), 0);
    for entry in fs::read_dir("tests/known-bad").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: ")).unwrap_or_else(|| panic!("{name}"));
        // Other modules follow a line of dashes, data one that says so.
        let (modules, data) = text.split_once("--- data\n").unwrap_or((&text, "{}"));
        let files: Vec<_> = modules.split("---\n").enumerate().map(|(n, text)| (format!("{n}.rego"), text.to_owned())).collect();
        let mut sources: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        sources.push(("data.json", data));
        let (problems, loaded) = match load(&sources, "authz/allow") {
            Ok(set) => (set.findings().to_vec(), true),
            Err(error) => (error.problems, false),
        };
        let gravest = problems.first().unwrap_or_else(|| panic!("{name}: nothing found"));
        if gravest.code.as_str() != expected {
            wrong.push(format!("{name}: {problems:?}"));
            continue;
        }
        assert_eq!(loaded, gravest.severity() != Severity::Error, "{name}");
        let whole_file = matches!(gravest.code, Code::NoDecision);
        assert!(whole_file || (gravest.line > 0 && gravest.source.is_some()), "{name}: {gravest:?}");
        seen.insert(gravest.code);
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 40 && seen.len() >= 30, "{count} policies with {} codes", seen.len());
}
