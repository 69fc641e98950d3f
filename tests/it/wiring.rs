//! `doorward gen envoy` and `doorward check --envoy` through the real binary, and the Envoy configurations that ship.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn doorward(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code and the words of the findings.
fn check(file: &Path, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = doorward(&[&["check", "--output", "json", "--envoy", file.to_str().unwrap()], more].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let codes = report["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap().to_owned());
    (output.status.code(), codes.collect())
}

#[test]
fn what_ships_is_what_is_printed_and_has_no_weakness() {
    for file in ["deploy/envoy/envoy.yaml", "deploy/envoy/snippet.yaml"] {
        let shipped = fs::read_to_string(file).unwrap();
        let command = shipped.lines().find_map(|line| line.strip_prefix("#   doorward ")).unwrap();
        let printed = doorward(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(text(&printed.stdout), shipped, "{file}: print it again with the command in its head");
        assert_eq!(check(Path::new(file), &["--strict"]), (Some(0), Vec::new()), "{file}");
        let config = "deploy/kubernetes/doorward.yaml";
        assert_eq!(check(Path::new(file), &["--strict", "--config", config]), (Some(0), Vec::new()), "{file}");
    }
}

#[test]
fn the_examples_have_no_weakness_but_what_they_are_meant_to_show() {
    let folder = tempfile::TempDir::new().unwrap();
    let readme = fs::read_to_string("README.md").unwrap();
    let snippet =
        readme.split("```yaml\n").find(|block| block.starts_with("http_filters:")).unwrap().split("```").next().unwrap();
    fs::write(folder.path().join("readme.yaml"), snippet).unwrap();
    assert_eq!(check(&folder.path().join("readme.yaml"), &["--strict"]), (Some(0), Vec::new()));
    // As examples/quickstart/prepare.py writes it: a call without a certificate is part of the demo.
    let envoy = fs::read_to_string("deploy/envoy/envoy.yaml").unwrap();
    let envoy = envoy.replace("require_client_certificate: true", "require_client_certificate: false");
    fs::write(folder.path().join("quickstart.yaml"), envoy.replace("address: 0.0.0.0", "address: 127.0.0.1")).unwrap();
    let quickstart = folder.path().join("quickstart.yaml");
    assert_eq!(check(&quickstart, &[]), (Some(0), vec!["certificate_optional".to_owned()]));
    assert_eq!(check(&quickstart, &["--strict"]).0, Some(1));
}

#[test]
fn a_weakness_is_shown_with_its_line_and_what_to_write() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("envoy.yaml");
    let envoy = fs::read_to_string("deploy/envoy/envoy.yaml").unwrap();
    fs::write(&file, envoy.replacen("failure_mode_allow: false", "failure_mode_allow: true", 1)).unwrap();
    let output = doorward(&["check", "--envoy", file.to_str().unwrap()]);
    let shown = text(&output.stdout);
    let line = 1 + envoy.lines().position(|line| line.contains("failure_mode_allow")).unwrap();
    for part in [
        "error[failure_mode_allow]: whoever can stop or slow doorward",
        &format!("envoy.yaml:{line}:"),
        "failure_mode_allow: true",
        "note: at static_resources.listeners[0]",
        "failure_mode_allow: false",
        "1 error",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(output.status.code(), Some(1));
    for unreadable in ["doorward: yes", "{", ": ["] {
        fs::write(&file, unreadable).unwrap();
        let output = doorward(&["check", "--envoy", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{unreadable}");
        assert!(text(&output.stderr).starts_with("error: "), "{unreadable}");
    }
}

#[test]
fn flags_that_do_not_fit_are_refused() {
    for args in [
        &["--placement", "inbound"][..],
        &["--upstream", "nowhere"],
        &["--upstream", "a:1", "--placement", "egress", "--xfcc"],
        &["--upstream", "a:1", "--certificate", "a.pem"],
        &["--upstream", "a:1", "--sds-path", "/a", "--sds-cluster", "b"],
        &["--upstream", "a:1", "--socket", "relative.sock"],
        &["--upstream", "a:1", "--streams", "no-slash"],
        &["--upstream", "a:1", "--probe", "9902"],
        &["--upstream", "a:1", "--stream-limit", "5"],
    ] {
        let output = doorward(&[&["gen", "envoy"], args].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{args:?}");
    }
}
