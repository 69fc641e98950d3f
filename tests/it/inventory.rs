//! The inventory through the real binary and a real Envoy: who is unowned, stale, somebody else's or overdue, as a table and as
//! JSON, also after a restart; and the status.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    client::Http,
    doorward::{Doorward, Setup},
    envoy::{Envoy, Options},
    eventually, upstream,
};

const POLICY: &str = "package envoy.authz\n\nallow := true if input.peer\n";
const OPERATORS: &str = "package guard.control\n\ndefault allow := false\n\nallow if input.caller.kind == \"unix\"\n";
const DOCUMENTS: &str = "
doorward:
  actions:
    orders.read: {match: [{path: '/orders/*', methods: [GET]}], class: read}
    orders.write: {match: [{path: '/orders/*', methods: [POST]}], class: write}
  workloads:
    spiffe://example.org/ns/shop/sa/web: {owner: kim@example.org, team: shop, purpose: the shop, allows: ['orders.*']}
    spiffe://example.org/ns/shop/sa/idle: {owner: kim@example.org}
    spiffe://example.org/ns/partner/**: {owner: pat@example.org, third_party: true, expires_at: '2037-01-01T00:00:00Z'}
    spiffe://example.org/ns/old/sa/job: {owner: lee@example.org, expires_at: '2026-01-01T00:00:00Z'}
    spiffe://example.org/ns/old/sa/off: {owner: lee@example.org, state: disabled}
    spiffe://example.org/ns/lost/sa/*: {team: nobody}
";
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const ROBOT: &str = "spiffe://example.org/ns/partner/sa/robot";
const JOB: &str = "spiffe://example.org/ns/old/sa/job";
const OFF: &str = "spiffe://example.org/ns/old/sa/off";
const LOST: &str = "spiffe://example.org/ns/lost/sa/a";
const STRANGER: &str = "spiffe://example.org/ns/wild/sa/x";

struct World {
    control: String,
    _sockets: TempDir,
}

impl World {
    fn new() -> Self {
        let sockets = TempDir::new().unwrap();
        Self { control: format!("unix://{}/control.sock", sockets.path().display()), _sockets: sockets }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).args(["--control", &self.control]).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--output", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn table(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The principals that a selection finds.
    fn names(&self, args: &[&str]) -> Vec<String> {
        let listed = self.json(&[&["inventory"], args].concat());
        let identities = listed["identities"].as_array().cloned().unwrap_or_default();
        identities.iter().map(|identity| identity["principal"].as_str().unwrap().to_owned()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_identity_is_found_by_what_is_wrong_with_it() {
    let world = World::new();
    let top = format!("control: {{address: \"{}\"}}\ninventory: {{file: inventory.jsonl}}\n", world.control);
    let files = [("control.rego", OPERATORS), ("documents.yaml", DOCUMENTS)];
    let setup = Setup { policy: Some(POLICY), files: &files, top: &top, ..Setup::default() };
    let mut doorward = Doorward::start(&setup);
    doorward.wait_ready();
    let (http, echo) = (upstream::http().await, upstream::echo().await);
    let Some(envoy) = Envoy::start(&doorward, http, echo, &Options::default()) else { return };
    for (id, calls) in [(WEB, 2), (ROBOT, 1), (JOB, 3), (OFF, 1), (LOST, 1), (STRANGER, 1)] {
        let client = envoy.client(&doorward, Some(&doorward.ca.svid(id)), Http::One);
        for _ in 0..calls {
            assert_eq!(client.get("/orders/7").await.status, 200, "{id}");
        }
    }
    assert_eq!(envoy.client(&doorward, None, Http::One).get("/orders/7").await.status, 403);
    eventually("all calls to be noted", || (world.json(&["status"])["identities"] == 6).then_some(()));

    let check = |world: &World, doorward: &Doorward| {
        let idle = "spiffe://example.org/ns/shop/sa/idle";
        assert_eq!(world.names(&[]), [LOST, JOB, OFF, ROBOT, idle, WEB, STRANGER]);
        assert_eq!(world.names(&["--unowned"]), [LOST, STRANGER]);
        assert_eq!(world.names(&["--unregistered"]), [STRANGER]);
        assert_eq!(world.names(&["--third-party"]), [ROBOT]);
        assert_eq!(world.names(&["--overdue"]), [JOB, OFF]);
        assert_eq!(world.names(&["--stale"]), [idle]);
        assert_eq!(world.names(&["--overdue", "--prefix", JOB]), [JOB]);
        assert_eq!(world.names(&["--limit", "2"]), [LOST, JOB]);
        let listed = world.json(&["inventory", "--overdue"]);
        let job = &listed["identities"][0];
        assert_eq!((&job["findings"], &job["seen"]["overdue"]["count"]), (&json!(["overdue", "ended"]), &json!(3)));
        assert_eq!((&job["seen"]["overdue"]["reasons"], &job["seen"]["allowed"]), (&json!(["expired"]), &json!(3)));
        assert_eq!(listed["identities"][1]["seen"]["overdue"]["reasons"], json!(["disabled"]));
        let web = world.json(&["inventory", "show", WEB]);
        assert_eq!((&web["actions"][0]["action"], &web["actions"][0]["count"]), (&json!("orders.read"), &json!(2)));
        assert_eq!(web["unused_actions"], json!(["orders.write"]));
        let seen = &web["identity"]["seen"];
        assert_eq!((&seen["credentials"][0]["kind"], &seen["decision_id"]), (&json!("x509_svid"), &latest(doorward, WEB)));
        web["identity"].clone()
    };
    let before = check(&world, &doorward);
    let table = world.table(&["inventory"]);
    let row = |table: &str, id: &str| {
        table.lines().find(|line| line.trim_start().starts_with(id)).unwrap_or_else(|| panic!("no {id} in\n{table}")).to_owned()
    };
    assert!(row(&table, ROBOT).contains("pat@example.org") && row(&table, ROBOT).ends_with("third_party"), "{table}");
    assert!(row(&table, STRANGER).ends_with("unowned, unregistered"), "{table}");
    let shown = world.table(&["inventory", "show", JOB]);
    for part in [
        "findings    overdue, ended",
        "owner       lee@example.org",
        "3 allowed, 0 denied",
        "x509_svid of ",
        "overdue     3 calls, ",
    ] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let shown = world.table(&["inventory", "show", WEB]);
    for part in ["2 × orders.read, last ", "may do, and never did: orders.write", "purpose     the shop"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    assert_eq!(world.run(&["inventory", "show", "spiffe://example.org/nobody"]).status.code(), Some(1));
    assert_eq!(world.run(&["inventory", "--stale=never"]).status.code(), Some(3));

    let status = world.json(&["status"]);
    assert_eq!(
        (&status["ready"], &status["mode"], &status["policy_digest"]),
        (&json!(true), &json!("enforce"), &policy(&doorward))
    );
    assert!(status.get("alarms").is_none() && status["instance"].as_str().unwrap().len() == 36, "{status}");

    assert!(doorward.stop().success());
    doorward.start_again(&setup, 1).wait().unwrap();
    assert_eq!(check(&world, &doorward), before, "after a restart");
    doorward.replace("policy/policy.rego", "nonsense");
    let alarms = eventually("the alarm", || world.json(&["status"]).get("alarms").cloned());
    assert_eq!(alarms[0]["about"], "policy", "{alarms}");
    let table = world.table(&["status"]);
    for part in ["ready       yes", "identities  6", "alarm: policy: "] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
}

/// The digest of the policy in force.
fn policy(doorward: &Doorward) -> Value {
    doorward.readyz()["policy"]["digest"].clone()
}

/// The id of the latest decision about a principal.
fn latest(doorward: &Doorward, principal: &str) -> Value {
    let decisions = doorward.decisions().into_iter().rev();
    decisions.into_iter().find(|record| record["body"]["principal"] == principal).unwrap()["id"].clone()
}
