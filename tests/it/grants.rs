//! Grants through the real binary: asked for by a workload over mTLS or by a person, approved by somebody else, used, and
//! over; each combination of people and machines that must not be, refused with its reason and recorded.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use rcgen::{DnType, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    harness::{
        ca::{Ca, Leaf},
        check::{Answer, Check},
        doorward::{Doorward, Setup},
        eventually,
        issuer::Signer,
        program::free_address,
    },
    streams::{end_of, hold},
};

const POLICY: &str = r#"package envoy.authz

allow := {"allowed": true, "dynamic_metadata": {"input": input}} if not input.attributes.request.http.headers["x-grant"]

allow := {"allowed": true, "grant": input.attributes.request.http.headers["x-grant"]}
"#;
const DOCUMENTS: &str = "
doorward:
  actions:
    refund:
      match: [{path: '/refund/{order}', methods: [POST]}]
      class: write
      grant: always
      grant_limits: {life_s: 600}
      resource: {type: order, id: {param: order}}
    wire: {match: [{path: /wire}], class: write, sensitivity: critical, grant: always, tier: strict}
    read: {match: [{path: /customer}], class: read, adds: ['data:customer']}
    post: {match: [{path: /post}], class: write, forbid_after: ['data:customer'], grant: after_label}
    free: {match: [{path: /free}], class: read}
  workloads:
    spiffe://example.org/agent: {owner: team-shop}
    spiffe://example.org/other: {owner: olga@example.org}
    spiffe://example.org/unowned: {}
";
pub const AGENT: &str = "spiffe://example.org/agent";

/// A doorward whose grants people approve, with all who ask.
pub struct World {
    pub doorward: Doorward,
    /// The socket, and the address over TCP.
    pub control: String,
    pub remote: String,
    pub people: Signer,
    pub strangers: Signer,
    pub folder: TempDir,
}

/// How a call was decided.
pub struct Decided {
    pub allowed: bool,
    pub id: String,
    pub body: Value,
    pub input: Value,
}

impl World {
    pub fn start(top: &str) -> Self {
        Self::start_with(top, "control.redb", &[])
    }

    /// With its control log elsewhere, and an environment.
    pub fn start_with(top: &str, log: &str, env: &[(&str, &str)]) -> Self {
        let (folder, people, authority) = (TempDir::new().unwrap(), Signer::new("people"), Ca::new("example.org"));
        let path = |name: &str| folder.path().join(name);
        let server = authority.leaf(|params| {
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
            params.distinguished_name.push(DnType::CommonName, "doorward");
        });
        server.write(folder.path(), "server");
        fs::write(path("ca.pem"), &authority.pem).unwrap();
        fs::write(path("people.jwks"), json!({"keys": [people.jwk()]}).to_string()).unwrap();
        let control = format!("unix://{}", path("control.sock").display());
        let remote = format!("tcp://{}", free_address());
        let folder_path = folder.path().display();
        let control_part = format!(
            "control:\n  address: {control}\n  remote:\n    address: {remote}\n    url: https://doorward.example\n    \
             tls: {{certificate: {folder_path}/server.pem, key: {folder_path}/server.key}}\n  oidc:\n    acr: [mfa]\n    \
             approvers: [sre]\n    issuers:\n    - issuer: https://people.example\n      kind: id_token\n      \
             audiences: [doorward]\n      keys: {{file: {folder_path}/people.jwks}}\n"
        );
        let top = format!(
            "{control_part}state: {{memory: {{file: {log}}}}}\nsessions: {{sole: true, snapshot: sessions.jsonl}}\n{top}"
        );
        let files = [("documents.yaml", DOCUMENTS)];
        let listener = "  placement: gateway\n";
        let doorward =
            Doorward::start(&Setup { policy: Some(POLICY), files: &files, top: &top, listener, env, ..Setup::default() });
        doorward.wait_ready();
        Self { doorward, control, remote, people, strangers: Signer::new("people"), folder }
    }

    pub fn svid(&self, path: &str) -> Leaf {
        self.doorward.ca.svid(&format!("spiffe://example.org/{path}"))
    }

    pub async fn call(&self, leaf: &Leaf, path: &str, headers: &[(&str, &str)]) -> Decided {
        let check = Check::http("POST", path).certificate(&leaf.url_encoded());
        let check = headers.iter().fold(check, |check, (name, value)| check.header(name, value));
        let answer = Answer::read(self.doorward.check(check.0).await.unwrap());
        Decided {
            allowed: answer.code == 0,
            id: answer.metadata["decision_id"].as_str().unwrap().to_owned(),
            body: serde_json::from_str(answer.body.as_deref().unwrap_or("null")).unwrap_or_default(),
            input: answer.metadata["input"].clone(),
        }
    }

    pub fn reason(&self, decided: &Decided) -> String {
        self.doorward.record(&decided.id)["body"]["reason"].as_str().unwrap().to_owned()
    }

    /// The file with a token of a person, with changes.
    pub fn token(&self, name: &str, change: &Value) -> String {
        self.token_by(&self.people, name, change)
    }

    pub fn token_by(&self, signer: &Signer, name: &str, change: &Value) -> String {
        let mut claims = json!({
            "iss": "https://people.example", "aud": "doorward", "sub": format!("sub-{name}"),
            "email": format!("{name}@example.org"), "groups": ["sre"], "acr": "mfa",
        });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let path = self.folder.path().join(format!("{name}-{}.jwt", uuid::Uuid::now_v7()));
        fs::write(&path, signer.sign("JWT", &claims)).unwrap();
        path.display().to_string()
    }

    pub fn person(&self, name: &str) -> String {
        self.token(name, &json!({}))
    }

    /// A command at the socket.
    pub fn run(&self, args: &[&str]) -> Output {
        command(args).args(["--control", &self.control]).output().unwrap()
    }

    /// The same over TCP, with an SVID where there is one.
    pub fn remote(&self, leaf: Option<&Leaf>, args: &[&str]) -> Output {
        let mut command = command(args);
        command.args(["--control", &self.remote, "--ca"]).arg(self.folder.path().join("ca.pem"));
        if let Some(leaf) = leaf {
            let (certificate, key) = leaf.write(self.folder.path(), &uuid::Uuid::now_v7().to_string());
            command.arg("--svid").arg(certificate).arg("--svid-key").arg(key);
        }
        command.output().unwrap()
    }

    /// Asked for by a person, for the agent.
    pub fn ask(&self, args: &[&str]) -> String {
        let token = self.person("alice");
        let base = ["grant", "request", "--subject", AGENT, "--reason", "case 4711", "--output", "json", "--token-file", &token];
        json_of(&self.run(&[&base, args].concat()))["grant"]["id"].as_str().unwrap().to_owned()
    }

    pub fn approve(&self, id: &str, person: &str) -> Output {
        self.run(&["grant", "approve", id, "--output", "json", "--token-file", &self.person(person)])
    }

    pub fn granted(&self, args: &[&str]) -> String {
        let id = self.ask(args);
        let grant = json_of(&self.approve(&id, "bob"));
        assert_eq!(grant["grant"]["state"], "live", "{grant}");
        id
    }

    /// The bodies of the records of our own API.
    pub fn calls(&self) -> Vec<Value> {
        let records = self.doorward.records().into_iter();
        records.filter(|record| record["kind"] == "control").map(|record| record["body"].clone()).collect()
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(args);
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(what: &str, output: &Output, word: &str) {
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains(word), "{what}: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_becomes_a_grant_that_is_used_and_ends_with_its_task() {
    let world = World::start("");
    let agent = world.svid("agent");
    let denied = world.call(&agent, "/refund/7", &[]).await;
    assert!(!denied.allowed);
    assert_eq!(world.reason(&denied), "grant_required");
    let offer = &denied.body["context"]["access_request"];
    assert_eq!((&denied.body["decision"], &denied.body["evaluation_id"]), (&json!(false), &json!(denied.id)));
    assert_eq!(offer["endpoint"], "https://doorward.example/");
    let token = offer["binding_token"].as_str().unwrap();

    let ask = [
        "grant",
        "request",
        "--reason",
        "case 4711",
        "--task",
        "T-1",
        "--for",
        "5m",
        "--output",
        "json",
        "--binding-token",
        token,
    ];
    let asked = json_of(&world.remote(Some(&agent), &ask));
    let (grant, id) = (&asked["grant"], asked["grant"]["id"].as_str().unwrap());
    assert_eq!((&grant["scope"]["subject"], &grant["scope"]["actions"]), (&json!(AGENT), &json!(["refund"])));
    assert_eq!(grant["scope"]["resources"], json!(["order/7"]));
    assert_eq!((&grant["known"]["owner"], &grant["known"]["denial"]["decision"]), (&json!("team-shop"), &json!(denied.id)));
    assert_eq!((&grant["state"], &grant["claimed"]["reason"]), (&json!("open"), &json!("case 4711")));
    assert!(!world.call(&agent, "/refund/7", &[]).await.allowed, "to ask permits nothing");

    json_of(&world.approve(id, "bob"));
    let allowed = world.call(&agent, "/refund/7", &[]).await;
    assert!(allowed.allowed, "{}", world.reason(&allowed));
    let shown = &allowed.input["grants"][0];
    assert_eq!((&shown["id"], &shown["covers"], &shown["approved_by"]), (&json!(id), &json!(true), &json!(["bob@example.org"])));
    assert_eq!((&allowed.input["task"], &allowed.input["session"]["source"]), (&json!("T-1"), &json!("task")));
    let record = world.doorward.record(&allowed.id);
    assert_eq!(record["body"]["grant"], json!(id));
    let lease = record["body"]["lease_ms"].as_u64().unwrap();
    assert!((200_000..=300_000).contains(&lease), "{lease}");
    let other = world.call(&agent, "/refund/8", &[]).await;
    assert_eq!((other.allowed, world.reason(&other)), (false, "grant_required".to_owned()), "another order");
    assert!(!world.call(&world.svid("other"), "/refund/7", &[]).await.allowed, "another caller");

    let ended = json_of(&world.run(&["task", "end", "T-1", "--reason", "done", "--output", "json"]));
    assert_eq!((&ended["grants"][0]["state"], &ended["sessions"]), (&json!("ended"), &json!(1)), "{ended}");
    let after = world.call(&agent, "/refund/7", &[]).await;
    assert_eq!((after.allowed, world.reason(&after)), (false, "grant_required".to_owned()));
    let methods: Vec<_> = world.calls().iter().map(|body| body["method"].clone()).collect();
    for method in ["GrantService/Request", "GrantService/Approve", "TaskService/End"] {
        assert!(methods.contains(&json!(format!("doorward.v1.{method}"))), "{methods:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_must_not_ask_or_approve_is_refused_told_why_and_recorded() {
    let world = World::start("");
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    let request = ["grant", "request", "--action", "refund", "--reason", "r"];
    let for_agent = [&request[..], &["--subject", AGENT]].concat();
    refused("a user id asks", &world.run(&for_agent), "says no");
    refused("nobody asks over TCP", &world.remote(None, &for_agent), "show who you are");
    refused("a workload asks for another", &world.remote(Some(&other), &for_agent), "itself only");
    world.granted(&["--action", "refund"]);
    refused("a workload renews its own", &world.remote(Some(&agent), &request), "not renewed by who has it");

    let id = world.ask(&["--action", "free"]);
    let approve = ["grant", "approve", &id];
    let by = |change: Value, name: &str| world.run(&[&approve[..], &["--token-file", &world.token(name, &change)]].concat());
    refused("a user id approves", &world.run(&approve), "says no");
    refused("a workload approves", &world.remote(Some(&other), &approve), "says no");
    refused("the subject approves", &world.remote(Some(&agent), &approve), "says no");
    refused("who asked approves", &by(json!({}), "alice"), "who has asked");
    refused("who asked, by another subject", &by(json!({"email": "alice@example.org"}), "twin"), "who has asked");
    refused("the owner approves", &by(json!({"email": "team-shop"}), "owner"), "who owns");
    refused("one of the owner's group approves", &by(json!({"groups": ["sre", "team-shop"]}), "member"), "who owns");
    refused("a person named as the subject approves", &by(json!({"email": AGENT}), "odd"), "who the grant is for");
    refused("no approver approves", &by(json!({"groups": []}), "intern"), "says no");
    refused("who is weakly known approves", &by(json!({"acr": "pwd"}), "bob"), "acr");
    refused("a client approves", &by(json!({"client_id": "sub-robot"}), "robot"), "no person is behind it");
    refused(
        "a service account approves",
        &by(json!({"preferred_username": "service-account-x"}), "robot"),
        "no person is behind it",
    );
    refused("a nameless person approves", &by(json!({"email": null}), "ghost"), "`email`");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    refused("an expired token", &by(json!({"iat": now - 900, "exp": now - 600}), "bob"), "token_expired");
    refused("another audience", &by(json!({"aud": "orders"}), "bob"), "token_audience");
    refused("another issuer", &by(json!({"iss": "https://machines.example"}), "bob"), "token_issuer");
    let forged = world.token_by(&world.strangers, "bob", &json!({}));
    refused("a forged token", &world.run(&[&approve[..], &["--token-file", &forged]].concat()), "token_signature");

    // Each refusal has its record.
    let complete = |calls: &Vec<Value>| {
        calls.iter().any(|body| body["detail"].as_str().is_some_and(|detail| detail.contains("token_signature")))
    };
    let calls = eventually("the records", || Some(world.calls()).filter(complete));
    let told = |code: &str| calls.iter().filter(|body| body["outcome"] == code).count();
    let counted = ["PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND"].map(told);
    assert_eq!(counted, [12, 8, 1, 0, 0]);
    let person =
        calls.iter().find(|body| body["detail"].as_str().is_some_and(|detail| detail.contains("who has asked"))).unwrap();
    assert_eq!(person["caller"]["person"]["name"], "alice@example.org", "{person}");
    assert!(!format!("{calls:?}").contains("eyJ"), "no token is recorded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_are_two_and_what_is_over_is_over() {
    let world = World::start("");
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    let for_agent = ["grant", "request", "--action", "refund", "--reason", "r", "--subject", AGENT];
    let live = world.granted(&["--action", "refund"]);
    let of_unowned = json_of(&world.run(&[
        "grant",
        "request",
        "--subject",
        "spiffe://example.org/unowned",
        "--action",
        "free",
        "--reason",
        "r",
        "--output",
        "json",
        "--token-file",
        &world.person("alice"),
    ]));
    let of_unowned = of_unowned["grant"]["id"].as_str().unwrap();
    refused("for whom nobody owns", &world.approve(of_unowned, "bob"), "no owner");

    let critical = world.ask(&["--action", "wire"]);
    let first = json_of(&world.approve(&critical, "bob"));
    assert_eq!((&first["grant"]["state"], &first["grant"]["approvals_needed"]), (&json!("open"), &json!(2)));
    refused("one person approves twice", &world.approve(&critical, "bob"), "twice");
    assert!(!world.call(&agent, "/wire", &[]).await.allowed);
    assert_eq!(json_of(&world.approve(&critical, "carol"))["grant"]["state"], "live");
    assert!(world.call(&agent, "/wire", &[]).await.allowed);

    let renewal = world.ask(&["--action", "refund"]);
    refused("who approved approves the renewal", &world.approve(&renewal, "bob"), "renews");
    json_of(&world.approve(&renewal, "carol"));
    refused("what is granted is approved again", &world.approve(&renewal, "dave"), "waits for no approval");
    json_of(&world.run(&["grant", "end", &live, "--output", "json"]));
    refused("what is over is ended", &world.run(&["grant", "end", &live]), "ended already");
    let denied = world.ask(&["--action", "free"]);
    json_of(&world.run(&["grant", "deny", &denied, "--reason", "no", "--output", "json"]));
    refused("what was denied is approved", &world.approve(&denied, "bob"), "denied");
    refused("a workload denies", &world.remote(Some(&agent), &["grant", "deny", &critical]), "says no");
    refused("a workload ends another's", &world.remote(Some(&other), &["grant", "end", &renewal]), "no such grant");
    refused(
        "longer than the catalogue lets it",
        &world.run(&[&for_agent[..], &["--for", "2h", "--token-file", &world.person("alice")]].concat()),
        "600 s",
    );
    let unknown = ["grant", "request", "--action", "nothing", "--reason", "r", "--subject", AGENT];
    refused(
        "an unknown action",
        &world.run(&[&unknown[..], &["--token-file", &world.person("alice")]].concat()),
        "none of the catalogue",
    );
    let listed = json_of(&world.remote(Some(&other), &["grant", "list", "--output", "json"]));
    assert_eq!(listed.get("grants"), None, "a workload sees its own: {listed}");

    // Each refusal has its record.
    let complete = |calls: &Vec<Value>| calls.iter().any(|body| body["outcome"] == "NOT_FOUND");
    let calls = eventually("the records", || Some(world.calls()).filter(complete));
    let told = |code: &str| calls.iter().filter(|body| body["outcome"] == code).count();
    let counted = ["PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND"].map(told);
    assert_eq!(counted, [4, 0, 3, 2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_tokens_are_good_for_one_caller_and_one_request() {
    let world = World::start("");
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    let offer = |decided: &Decided| decided.body["context"]["access_request"]["binding_token"].as_str().map(str::to_owned);
    let token = offer(&world.call(&agent, "/refund/7", &[]).await).unwrap();
    let ask =
        |leaf: &Leaf, token: &str| world.remote(Some(leaf), &["grant", "request", "--reason", "r", "--binding-token", token]);
    let refused = |output: Output, word: &str| {
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(word), "{}", text(&output.stderr));
    };
    refused(ask(&other, &token), "somebody else's");
    refused(ask(&agent, &format!("x{token}")), "none of ours");
    refused(ask(&agent, "x.y"), "none of ours");
    let wider = ["grant", "request", "--reason", "r", "--action", "wire", "--binding-token", &token];
    refused(world.remote(Some(&agent), &wider), "another action");
    assert!(ask(&agent, &token).status.success());
    refused(ask(&agent, &token), "already");
    let starred = offer(&world.call(&agent, "/refund/*", &[]).await).unwrap();
    let wider = ask(&agent, &starred);
    assert!(text(&wider.stderr).contains("has a `*`"), "a client's own text widens nothing: {}", text(&wider.stderr));
    // Another denial of the same thing may be asked about, until enough is open.
    let open = (0..10).filter(|_| {
        let decided =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(world.call(&agent, "/refund/7", &[])));
        ask(&agent, &offer(&decided).unwrap()).status.success()
    });
    assert_eq!(open.count(), 7);
    // Without a verified peer there is none, and none where no grant helps.
    let nobody = Answer::read(world.doorward.check(Check::http("POST", "/refund/7").0).await.unwrap());
    assert!(nobody.code != 0 && nobody.body.as_deref() == Some(""), "{nobody:?}");
    assert_eq!(offer(&world.call(&agent, "/refund/%2e%2e/x", &[]).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_lifted_and_uses_are_counted_across_kills() {
    let mut world = World::start("");
    let agent = world.svid("agent");
    assert!(world.call(&agent, "/post", &[]).await.allowed);
    assert!(world.call(&agent, "/customer", &[]).await.allowed);
    let after = world.call(&agent, "/post", &[]).await;
    assert_eq!((after.allowed, world.reason(&after)), (false, "path_forbidden".to_owned()));
    assert!(after.body["context"]["access_request"].is_object(), "{}", after.body);
    let id = world.granted(&["--action", "post", "--uses", "3"]);
    assert!(world.call(&agent, "/post", &[("x-request-id", "same")]).await.allowed);
    assert!(world.call(&agent, "/post", &[("x-request-id", "same")]).await.allowed, "a retry is a use of its own");
    world.doorward.signal(Signal::SIGKILL);
    world.doorward.wait();
    drop(world.doorward.start_again(&Setup::default(), 1));
    // Neither the label nor the uses are forgotten.
    let third = world.call(&agent, "/post", &[]).await;
    assert!(third.allowed, "{}", world.reason(&third));
    let fourth = world.call(&agent, "/post", &[]).await;
    assert!(!fourth.allowed, "three uses are three");
    let listed = json_of(&world.run(&["grant", "list", "--output", "json"]));
    assert_eq!((&listed["grants"][0]["state"], &listed["grants"][0]["used"]), (&json!("used_up"), &json!(3)));

    // What the policy relies on has to be live and to cover the call.
    let free = world.granted(&["--action", "free", "--uses", "1"]);
    for (grant, allowed, reason) in [
        (&*id, false, "grant_invalid"),
        ("00000000-0000-0000-0000-000000000000", false, "grant_invalid"),
        ("x", false, "invalid_result"),
        (&*free, true, "policy"),
        (&*free, false, "grant_invalid"),
    ] {
        let decided = world.call(&agent, "/free", &[("x-grant", grant)]).await;
        assert_eq!((decided.allowed, world.reason(&decided).as_str()), (allowed, reason), "{grant}");
    }
    let racing = world.granted(&["--action", "refund", "--uses", "5"]);
    let calls = futures_util::future::join_all((0..20).map(|_| world.call(&agent, "/refund/1", &[]))).await;
    assert_eq!(calls.iter().filter(|decided| decided.allowed).count(), 5, "{racing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_grants_and_tasks_refuse_the_next_call_and_two_people_restore() {
    let world = World::start("");
    let agent = world.svid("agent");
    let revoke = |args: &[&str]| json_of(&world.run(&[&["revoke", "--reason", "case", "--output", "json"], args].concat()));
    let id = world.granted(&["--action", "refund"]);
    assert!(world.call(&agent, "/refund/1", &[]).await.allowed);
    let by_grant = revoke(&["--grant", &id]);
    let decided = world.call(&agent, "/refund/1", &[]).await;
    assert_eq!((decided.allowed, world.reason(&decided)), (false, "revoked".to_owned()));
    assert_eq!(world.doorward.record(&decided.id)["body"]["revocation"], by_grant["revocation"]["id"]);
    assert!(world.call(&agent, "/free", &[]).await.allowed, "what needs no grant goes on");
    world.granted(&["--action", "post", "--task", "T-2"]);
    assert_eq!(world.call(&agent, "/free", &[]).await.input["task"], "T-2");
    revoke(&["--task", "T-2"]);
    let decided = world.call(&agent, "/free", &[]).await;
    assert_eq!((decided.allowed, world.reason(&decided)), (false, "revoked".to_owned()), "all that is in the task");

    let other = world.svid("other");
    let revocation = revoke(&["--spiffe-id", "spiffe://example.org/other"]);
    let revocation = revocation["revocation"]["id"].as_str().unwrap();
    assert!(!world.call(&other, "/free", &[]).await.allowed);
    // Who is revoked asks for nothing, and ends nothing.
    for args in [&["grant", "request", "--action", "free", "--reason", "r"][..], &["grant", "list"], &["task", "end", "T-2"]] {
        let refused = world.remote(Some(&other), args);
        assert!(refused.status.code() == Some(2) && text(&refused.stderr).contains("revocation"), "{}", text(&refused.stderr));
    }
    let restore = |args: &[&str], person: &str| {
        world.run(&[&["restore"], args, &["--output", "json", "--token-file", &world.person(person)]].concat())
    };
    assert!(!world.run(&["restore", "request", revocation, "--reason", "r"]).status.success(), "a user id");
    assert!(!world.remote(Some(&other), &["restore", "request", revocation, "--reason", "r"]).status.success(), "a workload");
    let asked = json_of(&restore(&["request", revocation, "--reason", "false alarm"], "alice"));
    let asked = asked["restore"].as_str().unwrap();
    let own = restore(&["approve", asked], "alice");
    assert!(own.status.code() == Some(2) && text(&own.stderr).contains("who has asked"), "{}", text(&own.stderr));
    assert!(!world.call(&other, "/free", &[]).await.allowed);
    json_of(&restore(&["approve", asked], "bob"));
    assert!(world.call(&other, "/free", &[]).await.allowed);
    assert!(!restore(&["approve", asked], "carol").status.success(), "once is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_grant_hears_of_it() {
    let world = World::start("");
    let agent = world.svid("agent");
    let (certificate, key) = agent.write(world.folder.path(), "waiting");
    let waiting =
        command(&["grant", "request", "--action", "refund", "--reason", "r", "--wait", "--output", "json", "--control"])
            .args([&world.remote, "--ca"])
            .arg(world.folder.path().join("ca.pem"))
            .arg("--svid")
            .arg(certificate)
            .arg("--svid-key")
            .arg(key)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
    let id = eventually("the request", || {
        let listed = json_of(&world.run(&["grant", "list", "--state", "open", "--output", "json"]));
        listed["grants"][0]["id"].as_str().map(str::to_owned)
    });
    json_of(&world.approve(&id, "bob"));
    let heard: Value = serde_json::from_slice(&waiting.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!((&heard["id"], &heard["state"]), (&json!(id), &json!("live")));
    let table = text(&world.run(&["grant", "list"]).stdout);
    assert!(table.contains(&id) && table.contains("live") && table.contains("refund for spiffe://"), "{table}");
    assert!(Path::new(&world.doorward.path("control.redb")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_grant_or_the_task_that_they_rest_on() {
    let world = World::start("");
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    let channel = world.doorward.channel().await;
    let stream = async |leaf: &Leaf, path: &str| {
        let mut request = Check::http("POST", path).certificate(&leaf.url_encoded()).0;
        let extensions = &mut request.attributes.as_mut().unwrap().context_extensions;
        extensions.insert("doorward-stream".to_owned(), "1".to_owned());
        let answer = Answer::read(crate::harness::doorward::check(channel.clone(), request).await.unwrap());
        let id = answer.metadata["decision_id"].as_str().unwrap().to_owned();
        (hold(channel.clone(), Some(&id)).await.unwrap(), id)
    };
    let (mut bystander, _) = stream(&other, "/free").await;
    let ended = world.granted(&["--action", "refund"]);
    let (by_grant, first) = stream(&agent, "/refund/1").await;
    let answer = json_of(&world.run(&["grant", "end", &ended, "--output", "json"]));
    assert_eq!((&answer["streams"], by_grant.end().await), (&json!(1), Code::PermissionDenied));
    assert_eq!(end_of(&world.doorward, &first)["reason"], "grant_ended");

    // A stream that the last use was for goes on; whatever is in a task ends with it.
    let used = world.granted(&["--action", "refund", "--uses", "1", "--task", "T-3"]);
    world.granted(&["--action", "post", "--task", "T-3"]);
    let (mut by_use, second) = stream(&agent, "/refund/2").await;
    let (mut in_task, third) = stream(&agent, "/free").await;
    assert!(by_use.is_alive().await && in_task.is_alive().await);
    assert!(!world.call(&agent, "/refund/2", &[]).await.allowed, "{used} is used up");
    let answer = json_of(&world.run(&["task", "end", "T-3", "--output", "json"]));
    assert_eq!(answer["streams"], 2, "{answer}");
    assert_eq!((by_use.end().await, in_task.end().await), (Code::PermissionDenied, Code::PermissionDenied));
    assert_eq!(end_of(&world.doorward, &second)["reason"], "task_ended");
    assert!(["task_ended", "session_ended"].iter().any(|reason| end_of(&world.doorward, &third)["reason"] == *reason));

    let short = world.granted(&["--action", "refund", "--for", "2s"]);
    let (by_time, fourth) = stream(&agent, "/refund/3").await;
    assert_eq!(by_time.end().await, Code::PermissionDenied, "{short} lasts two seconds");
    assert_eq!(end_of(&world.doorward, &fourth)["reason"], "expired");
    let revoked = world.granted(&["--action", "refund"]);
    let (by_grant, fifth) = stream(&agent, "/refund/4").await;
    json_of(&world.run(&["revoke", "--grant", &revoked, "--reason", "r", "--output", "json"]));
    assert_eq!(by_grant.end().await, Code::PermissionDenied);
    assert_eq!(end_of(&world.doorward, &fifth)["reason"], "revoked");
    assert!(bystander.is_alive().await);
}
