//! `doorward check` through the real binary: every known-bad policy by its own code, everything that ships clean.

use std::{fs, path::Path};

use serde_json::Value;

use super::doorward;

/// Exit code and JSON report.
fn check(args: &[&str]) -> (Option<i32>, Value) {
    let output = doorward(&[&["check", "--output", "json"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}")))
}

#[test]
fn each_known_bad_policy_gets_its_own_code() {
    let mut count = 0;
    for entry in fs::read_dir("tests/known-bad").unwrap() {
        let path = entry.unwrap().path();
        let expected = path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
        let folder = tempfile::TempDir::new().unwrap();
        // Other modules follow a line of dashes, data one that says so.
        let text = fs::read_to_string(&path).unwrap();
        let (modules, data) = text.split_once("--- data\n").unwrap_or((&text, "{}"));
        for (number, module) in modules.split("---\n").enumerate() {
            fs::write(folder.path().join(format!("{number}.rego")), module).unwrap();
        }
        fs::write(folder.path().join("data.json"), data).unwrap();
        let (code, report) = check(&[folder.path().to_str().unwrap(), "--decision", "authz/allow"]);
        let gravest = &report["findings"][0];
        assert_eq!(gravest["code"], *expected, "{}: {report}", path.display());
        let refused = gravest["severity"] == "error";
        assert_eq!(code, Some(if refused { 3 } else { 0 }), "{}", path.display());
        for key in ["text", "opa", "effect", "remedy"] {
            assert!(!gravest[key].as_str().unwrap().is_empty(), "{}: {key}", path.display());
        }
        count += 1;
    }
    assert!(count >= 40, "{count} policies");
}

#[test]
fn what_ships_is_clean() {
    let mut folders: Vec<Vec<String>> = fs::read_dir("policies/cookbook")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().replace('-', "_");
            vec![path.to_str().unwrap().to_owned(), "--decision".to_owned(), format!("cookbook/{name}/allow")]
        })
        .collect();
    assert_eq!(folders.len(), 11);
    folders.push(["policies/guard", "policies/default", "policies/documents"].map(str::to_owned).to_vec());
    folders.push(["policies/default", "policies/documents"].map(str::to_owned).to_vec());
    folders.extend(["policies/guard", "policies/control"].map(|folder| vec![folder.to_owned()]));
    for entry in fs::read_dir("examples").unwrap() {
        let example = entry.unwrap().path();
        let config = example.join("doorward.yaml");
        let policy = example.join("policy");
        if example.ends_with("shared") {
            continue;
        }
        assert!(config.exists() || policy.exists(), "{} has nothing to check", example.display());
        folders.extend(config.exists().then(|| vec!["--config".to_owned(), config.to_str().unwrap().to_owned()]));
        // What a configuration names may need what else it names.
        folders.extend((!config.exists()).then(|| vec![policy.to_str().unwrap().to_owned()]));
    }
    for args in folders {
        let (code, report) = check(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let findings = report["findings"].as_array().unwrap();
        let clean = findings.iter().all(|finding| finding["severity"] == "note");
        assert_eq!((code, clean), (Some(0), true), "{args:?}: {report}");
    }
}

const WEAK: &str = "package envoy.authz\n\nallow if {\n\tunused := 1\n\tinput.parsed_path[0] == \"a\"\n}\n";

#[test]
fn findings_are_shown_with_place_and_remedy() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("policy.rego");
    fs::write(&path, WEAK).unwrap();
    let output = doorward(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8(output.stdout).unwrap().replace(folder.path().to_str().unwrap(), "FOLDER");
    insta::assert_snapshot!(shown);
    assert_eq!(doorward(&["check", path.to_str().unwrap(), "--strict"]).status.code(), Some(1));
    let json = doorward(&["check", path.to_str().unwrap(), "--output", "json"]);
    assert_eq!(json.status.code(), Some(0));
    let json = String::from_utf8(json.stdout).unwrap().replace(folder.path().to_str().unwrap(), "FOLDER");
    insta::assert_snapshot!("check_json", json);
    let help = doorward(&["check", "--help"]);
    insta::assert_snapshot!("check_help", String::from_utf8_lossy(&help.stdout));
}

#[test]
fn a_bundle_and_a_configuration_are_checked_as_they_would_be_served() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("policy.rego"), "package envoy.authz\ndefault allow := false\n").unwrap();
    let tar = std::process::Command::new("tar").args(["-czf", &at("b.tar.gz"), "-C", &at(""), "policy.rego"]).status();
    assert!(tar.unwrap().success());
    assert_eq!(check(&[&at("b.tar.gz")]).0, Some(0));
    let key = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAAAA\n-----END PUBLIC KEY-----\n";
    fs::write(at("key.pem"), key).unwrap();
    let config = |policy: &str| {
        let head = "version: 1\nlisteners: [{peer: {trust: certificate}}]\n";
        fs::write(at("d.yaml"), format!("{head}policy: {policy}\n")).unwrap();
        let (code, report) = check(&["--config", &at("d.yaml")]);
        let codes: Vec<_> =
            report["findings"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect();
        (code, codes.join(","))
    };
    fs::create_dir(at("candidate")).unwrap();
    fs::write(at("candidate/policy.rego"), "package other\n").unwrap();
    for (policy, code, codes) in [
        ("{bundles: [{path: b.tar.gz}]}", 0, ""),
        ("{bundles: [{path: b.tar.gz}], decision: a/b}", 3, "no_decision"),
        ("{bundles: [{path: b.tar.gz}], signing: {keys: {k: {algorithm: ES256, key_file: key.pem}}}}", 3, "signature"),
        ("{bundles: [{path: missing}]}", 3, "unreadable"),
        ("{bundles: [{name: far, url: \"https://127.0.0.1:1/b.tar.gz\"}]}", 3, "not_fetched"),
        ("{bundles: [{path: b.tar.gz}], shadow: {bundles: [{path: candidate}]}}", 3, "no_decision"),
    ] {
        assert_eq!(config(policy), (Some(code), codes.to_owned()), "{policy}");
    }
    assert!(!Path::new(&at("cache")).exists());
    assert_eq!(doorward(&["check"]).status.code(), Some(3));
    assert_eq!(doorward(&["check", "--config", &at("none.yaml")]).status.code(), Some(3));
}
