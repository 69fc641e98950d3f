//! What is read from disk, in each form that it may have there.

use std::{fs, os::unix::fs::symlink, path::Path};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::config::{Bundle, Size};

fn config(path: &Path) -> config::Policy {
    config::Policy { decision: "a/allow".to_owned(), ..config::Policy::at(path) }
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn archive(files: &[(&str, &str)]) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.tar.gz");
    let mut builder = tar::Builder::new(GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        // `set_path` refuses what an attacker would write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
    (folder, path)
}

fn problem(path: &Path) -> Problem {
    let mut problems = read(&config(path)).unwrap_err().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

fn names(sources: &Sources) -> Vec<&str> {
    sources.modules.iter().map(|module| module.name.rsplit('/').next().unwrap()).collect()
}

#[test]
fn a_folder_is_read_as_opa_run_reads_it() {
    let folder = folder(&[
        ("a.rego", "package a"),
        ("a_test.rego", "package a"),
        ("sub/b.rego", "package b"),
        ("root.json", r#"{"x": {"one": 1}}"#),
        ("x/y/any.yaml", "two: 2\n1: [true, null, 1.5, s]\n"),
        ("x/more.yml", "three: 3"),
        (".hidden/c.rego", "package c"),
        (".d.rego", "package d"),
        ("README.md", "no policy"),
    ]);
    let sources = read(&config(folder.path())).unwrap();
    assert_eq!(names(&sources), ["a.rego", "b.rego"]);
    assert_eq!(sources.data, json!({"x": {"one": 1, "three": 3, "y": {"two": 2, "1": [true, null, 1.5, "s"]}}}));
    assert_eq!((sources.revision, sources.digest.len()), (None, 64));
}

#[test]
fn a_folder_with_a_manifest_is_a_bundle() {
    let folder = folder(&[
        (".manifest", r#"{"revision": "r7", "roots": ["a", "x/y"], "metadata": {"k": 1}}"#),
        ("a.rego", "package a"),
        ("x/y/data.json", r#"{"z": 1}"#),
        ("x/y/other.json", "not even json"),
        (".signatures.json", "{}"),
    ]);
    let sources = read(&config(folder.path())).unwrap();
    assert_eq!(sources.revision.as_deref(), Some("r7"));
    assert_eq!(sources.data, json!({"x": {"y": {"z": 1}}}));
    assert!(within(sources.modules[0].roots.as_deref().unwrap(), "x/y/z"));
}

#[test]
fn an_archive_is_a_bundle() {
    let files =
        [("/.manifest", r#"{"revision": "r1", "roots": [""]}"#), ("./a.rego", "package a"), ("x/data.json", "{\"y\": 1}")];
    let (_keep, path) = archive(&files);
    let sources = read(&config(&path)).unwrap();
    assert_eq!((names(&sources), sources.revision.as_deref()), (vec!["a.rego"], Some("r1")));
    assert_eq!(sources.data, json!({"x": {"y": 1}}));
    assert!(sources.modules[0].name.ends_with("bundle.tar.gz/a.rego"), "{}", sources.modules[0].name);
}

#[test]
fn single_files_stand_at_the_root() {
    let folder = folder(&[("p.rego", "package a"), ("d.yaml", "a: 1"), ("d.json", r#"{"b": 2}"#)]);
    let mut config = config(&folder.path().join("p.rego"));
    for name in ["d.yaml", "d.json"] {
        config.bundles.push(Bundle::at(folder.path().join(name)));
    }
    let sources = read(&config).unwrap();
    assert_eq!((names(&sources), &sources.data), (vec!["p.rego"], &json!({"a": 1, "b": 2})));
}

#[test]
fn a_mounted_config_map_is_read_once() {
    let folder = folder(&[("..2026_11_22/p.rego", "package a"), ("..2026_11_22/d.json", "{\"a\": 1}")]);
    symlink("..2026_11_22", folder.path().join("..data")).unwrap();
    for name in ["p.rego", "d.json"] {
        symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let sources = read(&config(folder.path())).unwrap();
    assert_eq!((names(&sources), &sources.data), (vec!["p.rego"], &json!({"a": 1})));
}

#[test]
fn the_digest_depends_on_names_and_contents_only() {
    let files = [("p.rego", "package a"), ("x/d.json", "{}")];
    let digest = |files: &[(&str, &str)]| read(&config(folder(files).path())).unwrap().digest;
    assert_eq!(digest(&files), digest(&files));
    assert_ne!(digest(&files), digest(&[("q.rego", "package a"), ("x/d.json", "{}")]));
    assert_ne!(digest(&files), digest(&[("p.rego", "package b"), ("x/d.json", "{}")]));
    assert_ne!(digest(&files), digest(&[("p.rego", "package a"), ("y/d.json", "{}")]));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let token = r#"{"x":
        {"\u0024serde_json::private::Number": "1"}}"#;
    for (files, code, file, line, text) in [
        (vec![("d.json", "{\n\"a\": }")], Code::Parse, "d.json", 2, "is no JSON"),
        (vec![("d.yaml", "a: 1\nb: [\n")], Code::Parse, "d.yaml", 2, "is no YAML"),
        (vec![("d.yaml", "a: 1\na: 2\n")], Code::Parse, "d.yaml", 2, "is no YAML"),
        (vec![("d.json", token)], Code::Parse, "d.json", 2, "private"),
        (vec![("d.yaml", "x:\n  $serde_json::private::Number: '1'")], Code::Parse, "d.yaml", 0, "private"),
        (vec![("d.json", "[1]")], Code::Parse, "d.json", 0, "object"),
        (vec![("a.json", "{\"x\": {\"y\": 1}}"), ("b.yaml", "x: {y: 2}")], Code::Conflict, "b.yaml", 0, "data.x.y"),
        (vec![("a.json", "{\"x\": 1}"), ("x/b.yaml", "y: 2")], Code::Conflict, "x/b.yaml", 0, "a.json"),
        (vec![(".manifest", "{\"roots\": [\"a\"]}"), ("data.json", "{\"ab\": 1}")], Code::Roots, "data.json", 0, "`ab`"),
        (vec![(".manifest", "{}"), ("policy.wasm", "")], Code::Bundle, "policy.wasm", 0, "--target rego"),
        (vec![(".manifest", "{}"), ("plan.json", "{}")], Code::Bundle, "plan.json", 0, "--target rego"),
        (vec![(".manifest", "{\"rego_version\": 0}")], Code::Bundle, ".manifest", 0, "policy.rego: v0"),
        (vec![(".manifest", "{\"wasm\": [{}]}")], Code::Bundle, ".manifest", 0, "--target rego"),
        (vec![(".manifest", "[")], Code::Parse, ".manifest", 1, "manifest"),
    ] {
        let folder = folder(&files);
        let problem = problem(folder.path());
        assert_eq!((problem.code, problem.line), (code, if line == 0 { problem.line } else { line }), "{problem}");
        assert!(problem.file.ends_with(file) && problem.text.contains(text), "{problem}");
    }
}

#[test]
fn a_yaml_file_may_have_as_many_values_as_its_size_lets_it() {
    let values = 400_000;
    let folder = folder(&[("d.yaml", &format!("a: [{}]", "0,".repeat(values)))]);
    assert_eq!(read(&config(folder.path())).unwrap().data["a"].as_array().unwrap().len(), values);
}

#[test]
fn equal_data_in_two_places_is_no_conflict() {
    let folder = folder(&[("a.json", r#"{"x": {"y": 1, "z": {}}}"#), ("b.json", r#"{"x": {"y": 1, "w": 2}}"#)]);
    assert_eq!(read(&config(folder.path())).unwrap().data, json!({"x": {"y": 1, "z": {}, "w": 2}}));
}

#[test]
fn what_is_not_there_or_no_policy_is_refused() {
    let folder = folder(&[("notes.txt", ""), ("bad.rego", "")]);
    fs::write(folder.path().join("bad.rego"), b"package a\n\xff").unwrap();
    for (path, code) in [
        ("missing", Code::Unreadable),
        ("missing.tar.gz", Code::Unreadable),
        ("notes.txt", Code::UnknownSource),
        ("bad.rego", Code::Parse),
    ] {
        assert_eq!(problem(&folder.path().join(path)).code, code, "{path}");
    }
    fs::write(folder.path().join("x.tar.gz"), "no archive").unwrap();
    assert_eq!(problem(&folder.path().join("x.tar.gz")).code, Code::Bundle);
}

#[test]
fn a_folder_that_leads_back_up_ends() {
    let folder = folder(&[("p.rego", "package a")]);
    symlink(folder.path(), folder.path().join("loop")).unwrap();
    assert_eq!(problem(folder.path()).code, Code::Unreadable);
}

#[test]
fn hostile_archives_are_refused() {
    for (files, code) in [
        (vec![("../../etc/x.rego", "package a")], Code::Bundle),
        (vec![("a/../../x.rego", "package a")], Code::Bundle),
        (vec![("a.rego", "package a"), ("./a.rego", "package b")], Code::Bundle),
    ] {
        let (_keep, path) = archive(&files);
        assert_eq!(problem(&path).code, code, "{files:?}");
    }
}

#[test]
fn sizes_are_limited() {
    let big = "x".repeat(4096);
    let text = format!("package a # {big}");
    let files = [("a.rego", text.as_str()), ("b.rego", text.as_str()), ("c.rego", text.as_str())];
    let folder = folder(&files);
    let (_keep, archive) = archive(&files);
    for path in [folder.path(), &archive] {
        let mut config = config(path);
        config.limits.file = "5KiB".parse::<Size>().unwrap();
        assert!(read(&config).is_ok());
        config.limits.total = "9KiB".parse().unwrap();
        assert_eq!(read(&config).unwrap_err().problems[0].code, Code::TooLarge);
        config.limits.total = Size::mib(1);
        config.limits.file = "4KiB".parse().unwrap();
        assert_eq!(read(&config).unwrap_err().problems[0].code, Code::TooLarge);
    }
}

#[test]
fn a_bomb_of_skipped_files_ends() {
    let zeros = "\0".repeat(8 << 20);
    let (_keep, path) = archive(&[("x.bin", zeros.as_str()), ("a.rego", "package a")]);
    let mut config = config(&path);
    config.limits.total = Size::mib(1);
    assert_eq!(read(&config).unwrap_err().problems[0].code, Code::Bundle);
}
