//! Alerts at a real Alertmanager: who owns a workload hears what it was denied and that it was revoked, until that is over,
//! also after an outage; and no decision waits for it.

use std::{fs, process::Command};

use http_body_util::Full;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    alertmanager::{Alertmanager, Receiver},
    ca::Leaf,
    check::{Answer, Check},
    client::{Http, request},
    doorward::{Doorward, Setup},
    envoy::{Envoy, Options},
    eventually,
    program::free_address,
    upstream,
};

const AGENT: &str = "spiffe://example.org/ns/ai/sa/agent";
const POLICY: &str = "package envoy.authz\n\ndefault allow := false\n\nallow if input.parsed_path == [\"x\"]\n";
const DOCUMENTS: &str = "
doorward:
  actions:
    money.send: {match: [{path: /send}], class: write, sensitivity: critical}
    money.see: {match: [{path: /x}], class: read}
  workloads:
    spiffe://example.org/ns/ai/sa/agent: {owner: kim@example.org, escalation: payments-oncall}
    spiffe://example.org/ns/ai/sa/orphan: {}
    spiffe://example.org/ns/ai/sa/old: {owner: kim@example.org, expires_at: \"2020-01-01T00:00:00Z\"}
  signals: {weights: {registration_ended: 60}}
";

struct World {
    doorward: Doorward,
    control: String,
    _sockets: TempDir,
}

impl World {
    /// `alerts` are the lines below `alerts`, indented by two.
    fn start(urls: &[String], alerts: &str) -> Self {
        let sockets = TempDir::new().unwrap();
        let control = format!("unix://{}/control.sock", sockets.path().display());
        let alertmanager = if alerts.contains("alertmanager:") {
            String::new()
        } else {
            format!("  alertmanager: {{urls: {urls:?}, interval: 30s, timeout: 5s}}\n")
        };
        let top = format!(
            "self: {{environment: test}}\ncontrol: {{address: \"{control}\"}}\nstate: {{memory: {{file: control.redb}}}}\n\
             alerts:\n{alertmanager}{alerts}"
        );
        let doorward = Doorward::start(&Setup {
            policy: Some(POLICY),
            files: &[("documents.yaml", DOCUMENTS)],
            top: &top,
            env: &[("DOORWARD_POD_NAME", "pod-1")],
            ..Setup::default()
        });
        doorward.wait_ready();
        Self { doorward, control, _sockets: sockets }
    }

    fn svid(&self, name: &str) -> Leaf {
        self.doorward.ca.svid(&format!("spiffe://example.org/ns/ai/sa/{name}"))
    }

    async fn ask(&self, leaf: &Leaf, path: &str) -> Answer {
        let check = Check::http("POST", path).certificate(&leaf.url_encoded());
        Answer::read(self.doorward.check(check.0).await.unwrap())
    }

    fn run(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).args(["--control", &self.control]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn alerts(&self, result: &str) -> f64 {
        self.doorward.metric("doorward_alerts_total", &[&format!("result=\"{result}\"")])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_hears_of_it_and_that_it_is_over() {
    let (Some(first), Some(second)) = (Alertmanager::start(), Alertmanager::start()) else { return };
    let alerts = "  resolve_after: 3s\n  labels: {team: security}\n  generator_url: https://wiki.example/doorward\n";
    let world = World::start(&[first.url(), format!("{}/", second.url())], alerts);
    let (http, echo) = (upstream::http().await, upstream::echo().await);
    let Some(envoy) = Envoy::start(&world.doorward, http, echo, &Options::default()) else { return };
    let client = envoy.client(&world.doorward, Some(&world.svid("agent")), Http::One);
    let denied = client.send(request("POST", "/send").body(Full::default()).unwrap()).await;
    assert_eq!(denied.status, 403);

    let alert = first.alert("DoorwardCriticalDenial", AGENT);
    let labels = json!({
        "alertname": "DoorwardCriticalDenial", "severity": "critical", "principal": AGENT, "owner": "kim@example.org",
        "escalation": "payments-oncall", "action": "money.send", "environment": "test", "instance": "pod-1", "team": "security",
    });
    assert_eq!((&alert["labels"], &alert["generatorURL"]), (&labels, &json!("https://wiki.example/doorward")));
    assert_eq!(alert["annotations"]["decision_id"], denied.decision());
    assert_eq!(alert["annotations"]["count"], "1");
    let explained = world.run(&["explain", alert["annotations"]["decision_id"].as_str().unwrap()]);
    assert!(explained.contains("deny"), "{explained}");
    assert_eq!(second.alert("DoorwardCriticalDenial", AGENT)["labels"], labels, "each gets all");

    world.run(&["revoke", "--spiffe-id", AGENT, "--reason", "case 4711"]);
    let revocation = first.alert("DoorwardRevocation", AGENT);
    let told = |label: &str| revocation["labels"][label].as_str().unwrap_or_default();
    assert_eq!((told("owner"), told("escalation")), ("kim@example.org", "payments-oncall"), "{revocation}");
    assert_eq!(told("revoked"), format!("spiffe_id {AGENT}"));
    assert!(revocation["annotations"]["description"].as_str().unwrap().contains("case 4711"), "{revocation}");
    assert_eq!(client.send(request("POST", "/x").body(Full::default()).unwrap()).await.status, 403);
    let used = first.alert("DoorwardRevokedUse", AGENT);
    assert_eq!(used["labels"]["owner"], "kim@example.org", "{used}");

    // Alertmanager would wait for two minutes by itself.
    eventually("the denials to be over", || {
        let gone = |name: &str| first.find(name, AGENT).is_none() && second.find(name, AGENT).is_none();
        (gone("DoorwardCriticalDenial") && gone("DoorwardRevokedUse")).then_some(())
    });
    first.alert("DoorwardRevocation", AGENT);
    assert_eq!(world.doorward.metric("doorward_alerts_active", &[]), 1.0);
    assert_eq!((world.alerts("failed"), world.alerts("dropped")), (0.0, 0.0));

    // It begins anew.
    assert_eq!(client.send(request("POST", "/x").body(Full::default()).unwrap()).await.status, 403);
    let again = first.alert("DoorwardRevokedUse", AGENT);
    assert!(again["startsAt"].as_str() > used["startsAt"].as_str(), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_routes_notify_security_and_whom_the_registry_names() {
    let receiver = Receiver::start();
    let sample = fs::read_to_string("deploy/alertmanager/alertmanager.yaml").unwrap();
    let quick = sample.replace("group_wait: 10s", "group_wait: 10ms").replace("group_interval: 1m", "group_interval: 500ms");
    let Some(alertmanager) = Alertmanager::routing(&quick.replace("127.0.0.1:9094", &receiver.address.to_string())) else {
        return;
    };
    let world = World::start(&[alertmanager.url()], "  resolve_after: 2s\n");
    assert_ne!(world.ask(&world.svid("agent"), "/send").await.code, 0);
    assert_eq!(world.ask(&world.svid("stranger"), "/x").await.code, 0);
    for status in ["firing", "resolved"] {
        for (path, name) in [
            ("/payments-oncall", "DoorwardCriticalDenial"),
            ("/security", "DoorwardCriticalDenial"),
            ("/security", "DoorwardUnregistered"),
        ] {
            let heard = || receiver.statuses(path, name).iter().any(|heard| heard == status).then_some(());
            eventually(&format!("{path} to hear that {name} is {status}"), heard);
        }
    }
    assert_eq!(receiver.statuses("/payments-oncall", "DoorwardUnregistered"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_rule_says_arrives_and_what_is_excepted_does_not() {
    let Some(alertmanager) = Alertmanager::start() else { return };
    let world = World::start(&[alertmanager.url()], "  except: [critical_denial]\n");
    for name in ["orphan", "old", "stranger"] {
        assert_eq!(world.ask(&world.svid(name), "/x").await.code, 0, "{name}");
    }
    assert_ne!(world.ask(&world.svid("agent"), "/send").await.code, 0);
    let id = |name: &str| format!("spiffe://example.org/ns/ai/sa/{name}");
    for (alert, name, owner) in [
        ("DoorwardUnowned", "orphan", Value::Null),
        ("DoorwardOverdue", "old", json!("kim@example.org")),
        ("DoorwardHighRisk", "old", json!("kim@example.org")),
        ("DoorwardUnregistered", "stranger", Value::Null),
    ] {
        assert_eq!(alertmanager.alert(alert, &id(name))["labels"]["owner"], owner, "{alert}");
    }
    let risky = alertmanager.alert("DoorwardHighRisk", &id("old"));
    assert!(risky["annotations"]["description"].as_str().unwrap().contains("registration_ended +60"), "{risky}");
    let output = world.run(&["revoke", "--prefix", "spiffe://example.org/ns/ai", "--yes", "--expires", "5s", "--reason", "r"]);
    assert!(output.contains("revoked"), "{output}");
    let broad = || {
        let alerts = alertmanager.alerts().into_iter();
        alerts.filter(|alert| alert["labels"]["alertname"] == "DoorwardRevocation").collect::<Vec<_>>()
    };
    let found = eventually("the broad one", || broad().pop());
    assert_eq!(found["labels"]["revoked"], "prefix spiffe://example.org/ns/ai");
    eventually("its end, which is that of the revocation", || broad().is_empty().then_some(()));
    assert_eq!(alertmanager.find("DoorwardCriticalDenial", AGENT), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alertmanager_that_was_down_is_told_and_holds_up_no_other() {
    let (address, Some(up)) = (free_address(), Alertmanager::start()) else { return };
    let alerts = format!(
        "  resolve_after: 3s\n  alertmanager: {{urls: [\"http://{address}\", {:?}], interval: 1s, timeout: 1s}}\n",
        up.url()
    );
    let world = World::start(&[], &alerts);
    let leaf = world.svid("agent");
    for _ in 0..3 {
        assert_ne!(world.ask(&leaf, "/send").await.code, 0);
    }
    up.alert("DoorwardCriticalDenial", AGENT);
    eventually("an attempt in vain", || (world.alerts("failed") > 1.0).then_some(()));
    eventually("the end of it", || up.find("DoorwardCriticalDenial", AGENT).is_none().then_some(()));
    let log = world.doorward.log();
    assert_eq!(log.matches("alerts cannot be sent").count(), 1, "{log}");
    let Some(down) = Alertmanager::start_at(address, None) else { return };
    let late = down.alert("DoorwardCriticalDenial", AGENT);
    assert_eq!(late["annotations"]["count"], "3", "{late}");
    eventually("the end of it there", || down.find("DoorwardCriticalDenial", AGENT).is_none().then_some(()));
    // It goes on as if nothing had been.
    assert_ne!(world.ask(&leaf, "/send").await.code, 0);
    assert_eq!(down.alert("DoorwardCriticalDenial", AGENT)["annotations"]["count"], "1");
    assert_eq!(world.alerts("dropped"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_alertmanager_delays_no_decision() {
    let Some(alertmanager) = Alertmanager::start() else { return };
    let mut world = World::start(&[alertmanager.url()], "");
    let (agent, stranger) = (world.svid("agent"), world.svid("stranger"));
    alertmanager.signal(Signal::SIGSTOP);
    for _ in 0..200 {
        assert_ne!(world.ask(&agent, "/send").await.code, 0);
        assert_eq!(world.ask(&stranger, "/x").await.code, 0);
    }
    // One that had waited would have been denied for its deadline, which is shorter than a request to Alertmanager may take.
    let decisions = eventually("the records", || Some(world.doorward.decisions()).filter(|all| all.len() == 400));
    assert!(decisions.iter().all(|decision| decision["body"]["reason"] == "policy"));
    assert_eq!((world.alerts("sent"), world.alerts("dropped")), (0.0, 0.0));
    alertmanager.signal(Signal::SIGCONT);
    let alert = alertmanager.alert("DoorwardCriticalDenial", AGENT);
    assert!(alert["annotations"]["count"].as_str().is_some_and(|count| count.parse::<u32>().unwrap() >= 1), "{alert}");
    alertmanager.signal(Signal::SIGSTOP);
    assert_ne!(world.ask(&world.svid("other"), "/send").await.code, 0);
    assert!(world.doorward.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_alert_before_the_end_is_told() {
    let Some(alertmanager) = Alertmanager::start() else { return };
    let mut world = World::start(&[alertmanager.url()], "");
    let leaf = world.svid("agent");
    assert_ne!(world.ask(&leaf, "/send").await.code, 0);
    assert!(world.doorward.stop().success());
    assert!(alertmanager.find("DoorwardCriticalDenial", AGENT).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_fills_the_table_of_alerts() {
    let Some(alertmanager) = Alertmanager::start() else { return };
    let world = World::start(&[alertmanager.url()], "  max: 10\n  max_per_principal: 1\n");
    let stranger = world.svid("stranger");
    for number in 0..20 {
        // Unregistered, and denied a critical action.
        world.ask(&stranger, if number < 12 { "/no" } else { "/send" }).await;
    }
    for number in 0..30 {
        world.ask(&world.svid(&format!("flood-{number}")), "/x").await;
    }
    let too_many = |principal: &Value| {
        let alerts = alertmanager.alerts().into_iter();
        let mut found = alerts.filter(|alert| alert["labels"]["alertname"] == "DoorwardTooManyAlerts");
        found.find(|alert| alert["labels"].get("principal").unwrap_or(&Value::Null) == principal)
    };
    let of_stranger = json!("spiffe://example.org/ns/ai/sa/stranger");
    eventually("the one that stands for the others of one", || too_many(&of_stranger));
    eventually("the one that stands for the others of all", || too_many(&Value::Null));
    // Warnings take half of the room; others find the rest.
    for number in 0..10 {
        world.ask(&world.svid(&format!("flood-{number}")), "/send").await;
    }
    world.run(&["revoke", "--spiffe-id", AGENT, "--reason", "r"]);
    alertmanager.alert("DoorwardRevocation", AGENT);
    eventually("a full table", || (world.doorward.metric("doorward_alerts_active", &[]) == 11.0).then_some(()));
    assert!(world.alerts("dropped") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alertmanager_is_told_over_mutual_tls() {
    let address = free_address();
    let alerts = format!(
        "  alertmanager:\n    urls: [\"https://localhost:{}\"]\n    ca: bundle.pem\n    interval: 1s\n    timeout: 1s\n    \
         tls: {{certificate: client.pem, key: client.key}}\n",
        address.port()
    );
    let world = World::start(&[], &alerts);
    let folder = TempDir::new().unwrap();
    let server = world.doorward.ca.leaf(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    });
    let (certificate, key) = server.write(folder.path(), "server");
    let web = json!({"tls_server_config": {
        "cert_file": certificate, "key_file": key,
        "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": world.doorward.path("bundle.pem"),
    }});
    let Some(_alertmanager) = Alertmanager::start_at(address, Some(&web.to_string())) else { return };
    assert_ne!(world.ask(&world.svid("agent"), "/send").await.code, 0);
    eventually("a word about the missing certificate", || world.doorward.log().contains("client.pem").then_some(()));
    assert_eq!(world.alerts("sent"), 0.0);
    let client = world.svid("doorward");
    fs::write(world.doorward.path("client.key"), &client.key).unwrap();
    fs::write(world.doorward.path("client.pem"), &client.certificate).unwrap();
    eventually("the alert to be taken", || (world.alerts("sent") >= 1.0).then_some(()));
}
