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

const ACTIONS: &str = "
doorward:
  actions:
    customer.read: {match: [{path: '/customers/*', methods: [GET]}], class: read, adds: ['data:customer']}
    outside.post: {match: [{path: /post, methods: [POST]}], class: write, forbid_after: ['data:customer']}
";

/// A doorward with its own API, on a socket that needs no path.
fn start(control: &str) -> (Doorward, String) {
    start_with(POLICY, &[("control.rego", control)], "", "")
}

fn start_with(policy: &str, files: &[(&str, &str)], listener: &str, top: &str) -> (Doorward, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address = format!("unix://@doorward-control-{}-{number}", std::process::id());
    let top = format!("control: {{address: \"{address}\"}}\n{top}");
    let doorward = Doorward::start(&Setup { policy: Some(policy), files, listener, top: &top, ..Setup::default() });
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

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_looked_at_and_ended() {
    let files = [("control.rego", OPERATORS), ("documents.yaml", ACTIONS)];
    let kept = "sessions: {sole: true, snapshot: sessions.jsonl}\n";
    let (doorward, address) =
        start_with("package envoy.authz\n\nallow := true if input.session.seq >= 0\n", &files, "  placement: gateway\n", kept);
    let mut tail = Tail::start(&doorward, &address, &["--action", "outside.*"]);
    let agent = doorward.ca.svid("spiffe://example.org/agent");
    let ask = async |method: &str, path: &str| {
        let request = Check::http(method, path).certificate(&agent.url_encoded());
        let answer = Answer::read(doorward.check(request.0).await.unwrap());
        (answer.code == 0, answer.metadata["decision_id"].as_str().unwrap().to_owned())
    };
    assert!(ask("GET", "/customers/7").await.0);
    let (allowed, post) = ask("POST", "/post").await;
    assert!(!allowed);
    let line = tail.lines(1).remove(0);
    for part in [" deny  standard spiffe://example.org/agent  outside.post  path_forbidden", post.as_str()] {
        assert!(line.contains(part), "{line}");
    }
    let explained = text(&self::ask(&["explain", &post], &address).stdout);
    for part in ["deny  path_forbidden", "action    outside.post", "the call was decided beside it"] {
        assert!(explained.contains(part), "no `{part}` in\n{explained}");
    }

    let listed = self::ask(&["session", "list", "--label", "data:customer"], &address);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let table = text(&listed.stdout);
    let row = table.lines().nth(1).unwrap();
    assert!(
        row.contains("spiffe://example.org/agent") && row.contains("certificate") && row.contains("data:customer"),
        "{table}"
    );
    let id = row.split_whitespace().next().unwrap();
    let listed: Value = serde_json::from_slice(&self::ask(&["session", "list", "--output", "json"], &address).stdout).unwrap();
    assert_eq!((&listed["sessions"][0]["id"], &listed["sessions"][0]["source"]), (&json!(id), &json!("certificate")));
    let none = text(&self::ask(&["session", "list", "--label", "unheard-of"], &address).stdout);
    assert!(!none.contains(id), "{none}");
    let shown = text(&self::ask(&["session", "show", id], &address).stdout);
    for part in ["allow  customer.read  read", "deny   outside.post  write", "labels of the principal: data:customer"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let ended = self::ask(&["session", "end", id, "--reason", "case 4711"], &address);
    assert!(ended.status.success() && text(&ended.stdout).starts_with("ended session"), "{}", text(&ended.stderr));
    let (allowed, refused) = ask("GET", "/customers/8").await;
    assert_eq!((allowed, &doorward.record(&refused)["body"]["reason"]), (false, &json!("session_ended")));
    let by_reason = |call: &Value| call["request"]["reason"] == "case 4711" && call["outcome"] == "OK";
    eventually("the record of the end", || calls(&doorward).iter().any(by_reason).then_some(()));
    assert_eq!(self::ask(&["session", "show", "0000000000000000"], &address).status.code(), Some(1));
    assert_eq!(self::ask(&["session", "end", "nonsense"], &address).status.code(), Some(3));
}

#[test]
fn the_commands_say_what_they_do() {
    for name in [
        "tail",
        "explain",
        "session list",
        "session show",
        "session end",
        "revoke",
        "revocations list",
        "grant request",
        "grant approve",
        "grant list",
        "task end",
        "restore request",
        "inventory",
        "inventory show",
        "status",
    ] {
        let help = Command::new(env!("CARGO_BIN_EXE_doorward")).args(name.split(' ')).arg("--help").output().unwrap();
        insta::assert_snapshot!(format!("{}_help", name.replace(' ', "_")), text(&help.stdout));
    }
}
