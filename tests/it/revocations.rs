//! Revocations through the real binary: each selector refuses the next call, also after a restart, and nothing that a policy
//! or a setting says lets it through.

use std::{
    fs,
    process::{Command, Output},
    time::SystemTime,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    ca::{Leaf, uri},
    check::{Answer, Check},
    doorward::{Doorward, Setup},
    eventually,
    issuer::{Issuer, Serves, Signer},
};

const POLICY: &str = r#"package envoy.authz

allow := {"allowed": true, "dynamic_metadata": {"input": input}}
"#;
const OPERATORS: &str = "package guard.control\n\ndefault allow := false\n\nallow if input.caller.kind == \"unix\"\n";
const DOCUMENTS: &str = "
doorward:
  actions:
    watched: {match: [{path: /watched}], class: read, mode: observe}
    strict: {match: [{path: /strict}], class: read, tier: strict}
    public: {match: [{path: /health}], class: read, evidence: none}
  workloads:
    spiffe://example.org/owned: {owner: kim@example.org}
    spiffe://example.org/tried: {owner: eve@example.org, mode: observe}
";
const KEPT: &str = "state: {memory: {file: control.redb}}\n";

struct World {
    doorward: Doorward,
    control: String,
    _sockets: TempDir,
}

/// How a call was decided.
struct Decided {
    allowed: bool,
    id: String,
    input: Value,
}

impl World {
    fn start(top: &str) -> Self {
        let sockets = TempDir::new().unwrap();
        let control = format!("unix://{}/control.sock", sockets.path().display());
        let top = format!("control: {{address: \"{control}\"}}\n{top}");
        let files = [("control.rego", OPERATORS), ("documents.yaml", DOCUMENTS)];
        let setup = Setup { policy: Some(POLICY), files: &files, top: &top, ..Setup::default() };
        let doorward = Doorward::start(&setup);
        doorward.wait_ready();
        Self { doorward, control, _sockets: sockets }
    }

    fn svid(&self, path: &str) -> Leaf {
        self.doorward.ca.svid(&format!("spiffe://example.org/{path}"))
    }

    async fn ask(&self, leaf: &Leaf, path: &str, token: Option<&str>) -> Decided {
        let mut check = Check::http("GET", path).certificate(&leaf.url_encoded());
        if let Some(token) = token {
            check = check.header("authorization", &format!("Bearer {token}"));
        }
        let answer = Answer::read(self.doorward.check(check.0).await.unwrap());
        Decided {
            allowed: answer.code == 0,
            id: answer.metadata["decision_id"].as_str().unwrap().to_owned(),
            input: answer.metadata["input"].clone(),
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_doorward")).args(args).args(["--control", &self.control]).output().unwrap()
    }

    fn revoke(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["revoke", "--reason", "case 4711", "--output", "json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The body of the record of a call that was refused because of a revocation.
    fn refused(&self, decided: &Decided, revoked: &Value) -> Value {
        assert!(!decided.allowed, "{revoked}");
        let record = self.doorward.record(&decided.id);
        assert_eq!(record["body"]["reason"], "revoked", "{record}");
        assert_eq!(record["body"]["revocation"], revoked["revocation"]["id"], "{record}");
        assert_eq!(record["epoch"]["log"], revoked["receipt"]["log"], "{record}");
        assert!(record["epoch"]["rev"].as_u64() >= revoked["receipt"]["rev"].as_u64(), "{record}");
        record["body"].clone()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_selector_refuses_the_next_call_and_those_after_a_restart() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(Serves::Keys(vec![signer.jwk()])).await;
    let tokens = format!("{KEPT}{}", issuer.tokens());
    let mut world = World::start(&tokens);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let token = |jti: &str| {
        let claims =
            json!({"iss": "https://as.example", "sub": "a", "aud": "orders", "client_id": "a", "jti": jti, "exp": now + 300});
        signer.sign("at+jwt", &claims)
    };
    let (by_jti, by_fingerprint, let_be) = (token("j1"), token("j2"), token("j3"));
    let of = |path: &str| world.svid(path);
    let callers = [
        ("exact", of("exact"), None),
        ("prefix", of("team/a/b"), None),
        ("certificate", of("certificate"), None),
        ("serial", of("serial"), None),
        ("jti", of("jti"), Some(&*by_jti)),
        ("fingerprint", of("fingerprint"), Some(&*by_fingerprint)),
        ("session", of("session"), None),
        ("owner", of("owned"), None),
    ];
    let spared = [("teams", of("teams/a"), None), ("prefix of none", of("team2"), None), ("token", of("token"), Some(&*let_be))];
    let mut revoked = Vec::new();
    for (what, leaf, token) in &callers {
        let before = world.ask(leaf, "/x", *token).await;
        assert!(before.allowed, "{what}: {}", world.doorward.record(&before.id));
        let input = &before.input;
        let (x509, of_token) = (&input["peer"]["x509"], &input["token"]);
        let said = |value: &Value| value.as_str().unwrap().to_owned();
        let args = match *what {
            "exact" => vec!["--spiffe-id".to_owned(), "spiffe://example.org/exact".to_owned()],
            "prefix" => vec!["--prefix".to_owned(), "spiffe://example.org/team".to_owned(), "--yes".to_owned()],
            "certificate" => vec!["--certificate".to_owned(), said(&x509["sha256"]).to_uppercase()],
            "serial" => vec!["--serial".to_owned(), said(&x509["serial"]), "--issuer".to_owned(), said(&x509["issuer"])],
            "jti" => vec!["--jti".to_owned(), "j1".to_owned(), "--issuer".to_owned(), "https://as.example".to_owned()],
            "fingerprint" => vec!["--fingerprint".to_owned(), said(&of_token["fingerprint"])],
            "session" => vec!["--session".to_owned(), said(&input["session"]["id"])],
            _ => vec!["--owner".to_owned(), "kim@example.org".to_owned()],
        };
        let answer = world.revoke(&args.iter().map(String::as_str).collect::<Vec<_>>());
        world.refused(&world.ask(leaf, "/x", *token).await, &answer);
        revoked.push(answer);
    }
    for (what, leaf, token) in &spared {
        let decided = world.ask(leaf, "/x", *token).await;
        assert!(decided.allowed, "{what}");
        assert_eq!(decided.input["state"]["epoch"]["rev"].as_u64(), Some(1 + callers.len() as u64));
        assert_eq!(decided.input["state"]["age_s"], 0);
    }
    // A new certificate, and a new token, of who is revoked by name change nothing; of the others they do.
    assert!(!world.ask(&of("exact"), "/x", None).await.allowed && !world.ask(&of("owned"), "/health", None).await.allowed);
    assert!(world.ask(&of("certificate"), "/x", None).await.allowed && world.ask(&of("jti"), "/x", Some(&let_be)).await.allowed);

    assert!(world.doorward.stop().success());
    drop(world.doorward.start_again(&Setup::default(), 1));
    for ((what, leaf, token), answer) in callers.iter().zip(&revoked) {
        // Sessions are forgotten in a restart; the name of one is made of what the caller shows.
        let body = world.refused(&world.ask(leaf, "/x", *token).await, answer);
        assert!(body["detail"].as_str().unwrap().contains("case 4711"), "{what}: {body}");
    }
    assert_eq!(world.doorward.readyz()["state"]["revocations"], callers.len());
    eventually("the count", || (world.doorward.metric("doorward_revocations", &[]) == callers.len() as f64).then_some(()));

    assert!(world.ask(&spared[0].1, "/x", None).await.allowed);
    let domain = world.revoke(&["--trust-domain", "example.org", "--yes"]);
    assert_eq!(domain["principals"], 1, "{domain}");
    world.refused(&world.ask(&spared[0].1, "/x", None).await, &domain);
    let old = world.doorward.restart_gracefully(&Setup::default(), 2);
    assert!(old.success());
    world.refused(&world.ask(&spared[0].1, "/x", None).await, &domain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill() {
    let mut world = World::start(KEPT);
    let callers: Vec<_> = (0..4).map(|number| (number, world.svid(&format!("killed/{number}")))).collect();
    let mut revoked = Vec::new();
    for (number, leaf) in &callers {
        assert!(world.ask(leaf, "/x", None).await.allowed);
        revoked.push(world.revoke(&["--spiffe-id", &format!("spiffe://example.org/killed/{number}")]));
        world.doorward.signal(Signal::SIGKILL);
        world.doorward.wait();
        drop(world.doorward.start_again(&Setup::default(), number + 1));
        for ((_, leaf), answer) in callers.iter().zip(&revoked) {
            world.refused(&world.ask(leaf, "/x", None).await, answer);
        }
    }
    let revs: Vec<_> = revoked.iter().map(|answer| answer["receipt"]["rev"].as_u64()).collect();
    assert_eq!(revs, [Some(2), Some(3), Some(4), Some(5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_refuses_what_was_issued_before_it() {
    let world = World::start(KEPT);
    let agent = "spiffe://example.org/agent";
    let old = world.svid("agent");
    assert!(world.ask(&old, "/x", None).await.allowed);
    let answer = world.revoke(&["--spiffe-id", agent, "--issued-before", "now"]);
    let body = world.refused(&world.ask(&old, "/x", None).await, &answer);
    assert!(body["detail"].as_str().unwrap().contains("issued before 20"), "{body}");
    // As SPIRE dates it: 10 s back.
    let issued = |seconds: i64| {
        world.doorward.ca.leaf(|params| {
            params.subject_alt_names = vec![uri(agent)];
            params.not_before = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds - 10);
        })
    };
    assert!(world.ask(&issued(5), "/x", None).await.allowed, "a fresh one");
    world.refused(&world.ask(&issued(-60), "/x", None).await, &answer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_lets_a_revoked_caller_through_but_a_doorward_that_only_observes() {
    let world = World::start(KEPT);
    let (tried, watched) = (world.svid("tried"), world.svid("watched"));
    let of_tried = world.revoke(&["--spiffe-id", "spiffe://example.org/tried"]);
    let of_watched = world.revoke(&["--spiffe-id", "spiffe://example.org/watched"]);
    let body = world.refused(&world.ask(&tried, "/x", None).await, &of_tried);
    assert_eq!((&body["enforced"], &body["mode"]), (&json!(true), &json!("enforce")));
    for path in ["/watched", "/health", "/strict", "/%2e%2e/x"] {
        world.refused(&world.ask(&watched, path, None).await, &of_watched);
    }
    let observing = World::start(&format!("mode: observe\n{KEPT}"));
    let leaf = observing.svid("tried");
    let answer = observing.revoke(&["--spiffe-id", "spiffe://example.org/tried"]);
    let decided = observing.ask(&leaf, "/x", None).await;
    assert!(decided.allowed);
    let body = observing.doorward.record(&decided.id)["body"].clone();
    let told = (&body["decision"], &body["enforced"], &body["reason"], &body["revocation"]);
    assert_eq!(told, (&json!("deny"), &json!(false), &json!("revoked"), &answer["revocation"]["id"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_it_did_and_what_it_needs() {
    let world = World::start(KEPT);
    let (agent, prefix) = ("spiffe://example.org/team/agent", "spiffe://example.org/team");
    assert!(world.ask(&world.svid("team/agent"), "/x", None).await.allowed);
    let reason = ["--reason", "case 4711"];
    let once = [&["revoke", "--spiffe-id", agent, "--wait", "--request-id", "r1", "--expires", "2h"][..], &reason].concat();
    let first = world.run(&once);
    let said = text(&first.stdout);
    assert!(first.status.success(), "{}", text(&first.stderr));
    for part in ["revoked SPIFFE ID `spiffe://example.org/team/agent`", "rev       2 of log ", "applied   20", " by instance "] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    let again = text(&world.run(&once).stdout);
    assert!(again.starts_with("had revoked") && again.contains("rev       2 of log "), "{again}");

    let unconfirmed = world.run(&[&["revoke", "--prefix", prefix][..], &reason].concat());
    assert_eq!(unconfirmed.status.code(), Some(3));
    let told = text(&unconfirmed.stderr);
    assert!(told.contains("1 principals with a session") && told.contains("--yes"), "{told}");
    let confirmed = text(&world.run(&[&["revoke", "--prefix", prefix, "--yes"][..], &reason].concat()).stdout);
    assert!(confirmed.contains("falls on  1 principals"), "{confirmed}");

    let listed = text(&world.run(&["revocations", "list"]).stdout);
    let rows: Vec<_> = listed.lines().collect();
    assert!(rows.len() == 3 && rows[1].contains(agent) && rows[2].contains("from `spiffe://example.org/team` down"), "{listed}");
    let of_agent = world.run(&["revocations", "list", "--spiffe-id", agent, "--kind", "prefix", "--output", "json"]);
    let of_agent: Value = serde_json::from_slice(&of_agent.stdout).unwrap();
    assert_eq!(of_agent["revocations"].as_array().map(Vec::len), Some(1), "{of_agent}");
    for (args, status) in [
        (&["--spiffe-id", "spiffe://example.org"][..], 3),
        (&["--spiffe-id", agent, "--owner", "x"], 3),
        (&[], 3),
        (&["--jti", "j"], 3),
        (&["--owner", "x", "--issuer", "i"], 3),
        (&["--session", "0000000000000000", "--issued-before", "now"], 3),
        (&["--spiffe-id", agent, "--issued-before", "yesterday"], 3),
        (&["--spiffe-id", agent, "--expires", "never"], 3),
        (&["--task", ""], 3),
        (&["--grant", ""], 3),
    ] {
        let output = world.run(&[&["revoke"][..], args, &reason].concat());
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", text(&output.stderr));
    }
    assert_eq!(world.doorward.readyz()["state"]["revocations"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_nothing_is_revoked_unless_it_may_be_forgotten() {
    let none = World::start("");
    let refused = none.run(&["revoke", "--owner", "x", "--reason", "r"]);
    let told = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("not_durable") && told.contains("state.memory.file"), "{told}");
    assert_eq!(none.doorward.readyz()["state"], json!({"epoch": null, "durable": false, "grants": 0, "revocations": 0}));
    assert!(none.ask(&none.svid("a"), "/x", None).await.input.get("state").is_none());

    let volatile = World::start("state: {memory: {volatile: true}}\n");
    let leaf = volatile.svid("a");
    let revoked = volatile.run(&["revoke", "--spiffe-id", "spiffe://example.org/a", "--reason", "r"]);
    assert!(revoked.status.success() && text(&revoked.stderr).contains("restart forgets"), "{}", text(&revoked.stderr));
    assert!(!volatile.ask(&leaf, "/x", None).await.allowed);
    assert_eq!(volatile.doorward.readyz()["state"]["durable"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_somebody_has_changed_is_not_served_with() {
    let mut world = World::start(KEPT);
    world.revoke(&["--spiffe-id", "spiffe://example.org/agent"]);
    world.doorward.stop();
    let path = world.doorward.path("control.redb");
    let mut bytes = fs::read(&path).unwrap();
    let needle = b"spiffe://example.org/agent";
    let places: Vec<_> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + needle.len() - 1] = b'x');
    fs::write(&path, &bytes).unwrap();
    let serve = |folder: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_doorward"))
            .args(["serve", "--config"])
            .arg(folder.join("doorward.yaml"))
            .output()
            .unwrap()
    };
    let refused = serve(world.doorward.folder.path());
    let told = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("broken at entry 2") && told.contains("restore a copy"), "{told}");
    fs::remove_file(&path).unwrap();
    let refused = serve(world.doorward.folder.path());
    let told = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("is gone"), "{told}");
}
