//! Our own API through the real binary: what operators see of decisions, who may ask, and the record of it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{
    check::{Answer, Check},
    doorward::{Doorward, Setup},
    eventually,
};

const POLICY: &str = r#"package envoy.authz

import input.attributes.request.http as call

default allow := {"allowed": false, "reason": "only reads", "rule": "reads"}

allow := {"allowed": true, "rule": "reads"} if call.method == "GET"
"#;
const OPERATORS: &str = "package guard.control\n\ndefault allow := false\n\nallow if input.caller.kind == \"unix\"\n";

/// A doorward with its own API, on a socket that needs no path.
fn start(control: &str) -> (Doorward, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address = format!("unix://@doorward-control-{}-{number}", std::process::id());
    let top = format!("control: {{address: \"{address}\"}}\n");
    let files = [("control.rego", control)];
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), files: &files, top: &top, ..Setup::default() });
    doorward.wait_ready();
    (doorward, address)
}

fn command(args: &[&str], address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(args).args(["--control", address]);
    command
}

fn ask(args: &[&str], address: &str) -> Output {
    command(args, address).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn calls(doorward: &Doorward) -> Vec<Value> {
    let records = doorward.records().into_iter().filter(|record| record["kind"] == "control");
    records.map(|record| record["body"].clone()).collect()
}

/// A `doorward tail` that follows already.
struct Tail(Child);

impl Tail {
    fn start(doorward: &Doorward, address: &str, args: &[&str]) -> Self {
        let before = calls(doorward).len();
        let args = [&["tail"], args].concat();
        let child = command(&args, address).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the follower to be recorded", || (calls(doorward).len() > before).then_some(()));
        Self(child)
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        let output = BufReader::new(self.0.stdout.take().unwrap());
        output.lines().take(count).map(Result::unwrap).collect()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn decide(doorward: &Doorward, method: &str) -> String {
    let answer = Answer::read(doorward.check(Check::http(method, "/orders").0).await.unwrap());
    answer.metadata["decision_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_followed_and_explained() {
    let (mut doorward, address) = start(OPERATORS);
    let mut all = Tail::start(&doorward, &address, &[]);
    let mut denials = Tail::start(&doorward, &address, &["--decision", "deny", "--output", "json"]);
    let read = decide(&doorward, "GET").await;
    let write = decide(&doorward, "POST").await;
    let lines = all.lines(2);
    assert!(lines[0].contains(" allow ") && lines[0].ends_with(&read), "{lines:?}");
    assert!(lines[1].contains(" deny ") && lines[1].contains("policy: only reads  ") && lines[1].ends_with(&write), "{lines:?}");
    let record: Value = serde_json::from_str(&denials.lines(1)[0]).unwrap();
    assert_eq!((&record["id"], &record["body"]["rule"]), (&json!(write), &json!("reads")));

    let explained = ask(&["explain", &write], &address);
    assert!(explained.status.success(), "{}", text(&explained.stderr));
    let table = text(&explained.stdout);
    for part in ["deny  policy", "only reads", "found in  memory", "asked again: deny  policy, as recorded", "method = \"POST\""]
    {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
    let explained = ask(&["explain", &read, "--output", "json"], &address);
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!((&explained["record"]["id"], &explained["evaluation"]["result"]["allowed"]), (&json!(read), &json!(true)));
    let line = "allow := {\"allowed\": true, \"rule\": \"reads\"} if call.method == \"GET\"";
    assert!(explained["evaluation"]["lines"].as_array().unwrap().iter().any(|found| found["text"] == line), "{explained}");

    assert_eq!(ask(&["explain", "0190aaaa-0000-7000-8000-000000000000"], &address).status.code(), Some(1));
    assert_eq!(ask(&["explain", "nonsense"], &address).status.code(), Some(3));
    assert_eq!(doorward.metric("doorward_control_calls_total", &["ExplainService/Explain", "\"OK\""]), 2.0);
    let method = "doorward.v1.ExplainService/Explain";
    let outcome = |call: &Value| call["method"] == method && call["outcome"] == "INVALID_ARGUMENT";
    eventually("the last call's record", || calls(&doorward).iter().any(outcome).then_some(()));

    let mut follower = Tail::start(&doorward, &address, &["--principal", "nobody"]);
    assert!(doorward.stop().success(), "followers hold up no stop");
    let ended = follower.0.wait().unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_of_before_a_restart_is_explained_from_its_file() {
    let (mut doorward, address) = start(OPERATORS);
    let id = decide(&doorward, "POST").await;
    doorward.record(&id);
    doorward.stop();
    let former = doorward.start_again(&Setup::default(), 1);
    drop(former);
    let explained = text(&ask(&["explain", &id], &address).stdout);
    assert!(explained.contains("found in  file") && explained.contains("asked again: deny"), "{explained}");
    doorward.replace("policy/policy.rego", &format!("{POLICY}# another\n"));
    doorward.stop();
    drop(doorward.start_again(&Setup::default(), 2));
    let explained = text(&ask(&["explain", &id], &address).stdout);
    assert!(explained.contains("is gone") && !explained.contains("asked again"), "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_yes_of_the_policy_nobody_is_told_anything() {
    let (doorward, address) = start("package guard.control\n\ndefault allow := false\n");
    let id = decide(&doorward, "GET").await;
    for args in [&["tail"][..], &["explain", &id]] {
        let output = ask(args, &address);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
        assert!(text(&output.stderr).contains("data.guard.control.allow"), "{}", text(&output.stderr));
    }
    let calls = eventually("the calls' records", || Some(calls(&doorward)).filter(|calls| calls.len() == 2));
    assert!(calls.iter().all(|call| call["decision"] == "deny" && call["outcome"] == "PERMISSION_DENIED"), "{calls:?}");
    assert_eq!(ask(&["tail"], "unix:///nowhere/control.sock").status.code(), Some(1));
    assert_eq!(ask(&["tail"], "tcp://127.0.0.1:1").status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_turned_away() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can start a process of another user");
        return;
    }
    let (doorward, address) = start(OPERATORS);
    fs::set_permissions(doorward.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = doorward.path("stranger");
    fs::copy(env!("CARGO_BIN_EXE_doorward"), &program).unwrap();
    let mut stranger = Command::new(&program);
    stranger.args(["tail", "--control", &address]).current_dir("/").uid(65_534).gid(65_534);
    let output = stranger.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("control.uids"), "{}", text(&output.stderr));
    let calls = eventually("the record of it", || Some(calls(&doorward)).filter(|calls| !calls.is_empty()));
    assert_eq!((&calls[0]["caller"]["uid"], &calls[0]["outcome"]), (&json!(65_534), &json!("UNAUTHENTICATED")));
    assert!(doorward.metric("doorward_callers_refused_total", &["control"]) >= 1.0);
}

#[test]
fn the_commands_say_what_they_do() {
    for name in ["tail", "explain"] {
        let help = Command::new(env!("CARGO_BIN_EXE_doorward")).args([name, "--help"]).output().unwrap();
        insta::assert_snapshot!(format!("{name}_help"), text(&help.stdout));
    }
}

const ACTIONS: &str =
    "doorward: {actions: {customer.read: {match: [{path: '/customers/*'}], class: read, adds: ['data:customer']}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_shown_and_ended() {
    let address = format!("unix://@doorward-sessions-{}", std::process::id());
    let top = format!("control: {{address: \"{address}\"}}\nsessions: {{sole: true}}\n");
    let files = [("control.rego", OPERATORS), ("documents.yaml", ACTIONS)];
    let listener = "  placement: gateway\n";
    let doorward = Doorward::start(&Setup { policy: Some(POLICY), files: &files, listener, top: &top, ..Setup::default() });
    doorward.wait_ready();
    let leaf = doorward.ca.svid("spiffe://example.org/ns/ai/sa/agent");
    let read = || Check::http("GET", "/customers/1").certificate(&leaf.url_encoded());
    assert_eq!(Answer::read(doorward.check(read().0).await.unwrap()).code, 0);

    let listed = ask(&["session", "list", "--label", "data:customer", "--output", "json"], &address);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_else(|_| panic!("{listed:?}"));
    let session = &listed["sessions"][0];
    assert_eq!(session["principal"], "spiffe://example.org/ns/ai/sa/agent", "{listed}");
    let id = session["id"].as_str().unwrap();
    let none = ask(&["session", "list", "--label", "unheard-of", "--output", "json"], &address);
    assert!(!text(&none.stdout).contains(id));

    let shown = text(&ask(&["session", "show", id], &address).stdout);
    assert!(shown.contains("data:customer") && shown.contains("customer.read") && shown.contains("allow"), "{shown}");
    assert_eq!(ask(&["session", "show", "0000000000000000"], &address).status.code(), Some(1));

    let ended = ask(&["session", "end", id, "--reason", "case 4711"], &address);
    assert!(ended.status.success(), "{ended:?}");
    let refused = Answer::read(doorward.check(read().0).await.unwrap());
    assert_ne!(refused.code, 0);
    let record = doorward.record(refused.metadata["decision_id"].as_str().unwrap());
    assert_eq!(record["body"]["reason"], "session_ended");
    let methods: Vec<Value> = calls(&doorward).iter().map(|call| call["method"].clone()).collect();
    assert!(methods.contains(&json!("doorward.v1.SessionService/End")), "{methods:?}");
}
