//! Grants and revocations across kills, a full disk and restarts: what was answered is there, what was not is there wholly or
//! not at all, and nothing else is.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::client::Grpc;

use crate::{
    grants::{AGENT, World, json_of, text},
    harness::{
        ca::Leaf,
        check::Check,
        control::{Caller, message},
        doorward::{Setup, channel},
    },
};

/// Kills at a random moment: tests/long.sh asks for more.
fn rounds() -> usize {
    std::env::var("KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10)
}

/// Kills it, and starts it again without anybody's help.
fn kill(world: &mut World, generation: &mut usize) {
    world.doorward.signal(Signal::SIGKILL);
    world.doorward.wait();
    *generation += 1;
    drop(world.doorward.start_again(&Setup::default(), *generation));
}

fn grants(world: &World) -> BTreeMap<String, Value> {
    let listed = json_of(&world.run(&["grant", "list", "--output", "json"]));
    let grants = listed["grants"].as_array().cloned().unwrap_or_default();
    grants.into_iter().map(|grant| (grant["id"].as_str().unwrap().to_owned(), grant)).collect()
}

fn revocations(world: &World) -> Vec<Value> {
    let listed = json_of(&world.run(&["revocations", "list", "--output", "json"]));
    listed["revocations"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_at_each_step_all_stands_as_it_was_answered() {
    let mut world = World::start("");
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    let mut generation = 0;
    let state = |world: &World, id: &str| grants(world)[id]["state"].as_str().unwrap().to_owned();

    let id = world.ask(&["--action", "refund", "--uses", "2"]);
    kill(&mut world, &mut generation);
    assert_eq!((state(&world, &id).as_str(), grants(&world).len()), ("open", 1));
    assert!(!world.call(&agent, "/refund/1", &[]).await.allowed);
    let approved = json_of(&world.approve(&id, "bob"));
    kill(&mut world, &mut generation);
    assert_eq!(grants(&world)[&id]["approved_until"], approved["grant"]["approved_until"], "no longer than before");
    for used in 1..=2 {
        assert!(world.call(&agent, "/refund/1", &[]).await.allowed);
        kill(&mut world, &mut generation);
        assert_eq!(grants(&world)[&id]["used"], used);
    }
    assert!(!world.call(&agent, "/refund/1", &[]).await.allowed);
    assert_eq!(state(&world, &id), "used_up");

    let critical = world.ask(&["--action", "wire"]);
    json_of(&world.approve(&critical, "bob"));
    kill(&mut world, &mut generation);
    assert_eq!(state(&world, &critical), "open", "one approval of two");
    assert!(!world.call(&agent, "/wire", &[]).await.allowed);
    assert!(text(&world.approve(&critical, "bob").stderr).contains("twice"));
    json_of(&world.approve(&critical, "carol"));
    kill(&mut world, &mut generation);
    assert!(world.call(&agent, "/wire", &[]).await.allowed);
    json_of(&world.run(&["grant", "end", &critical, "--output", "json"]));
    kill(&mut world, &mut generation);
    assert_eq!(state(&world, &critical), "ended");
    assert!(!world.call(&agent, "/wire", &[]).await.allowed);

    let denied = world.ask(&["--action", "free"]);
    json_of(&world.run(&["grant", "deny", &denied, "--output", "json"]));
    kill(&mut world, &mut generation);
    assert_eq!(state(&world, &denied), "denied");
    assert!(!world.approve(&denied, "bob").status.success());
    let in_task = world.granted(&["--action", "post", "--task", "T"]);
    json_of(&world.run(&["task", "end", "T", "--output", "json"]));
    kill(&mut world, &mut generation);
    assert_eq!(state(&world, &in_task), "ended");

    let revoke = ["revoke", "--spiffe-id", "spiffe://example.org/other", "--reason", "r", "--output", "json"];
    let revoked = json_of(&world.run(&revoke));
    let revocation = revoked["revocation"]["id"].as_str().unwrap();
    let free = async |world: &World| world.call(&other, "/free", &[]).await.allowed;
    kill(&mut world, &mut generation);
    assert!(!free(&world).await);
    let alice = world.person("alice");
    let asked = world.run(&["restore", "request", revocation, "--reason", "r", "--output", "json", "--token-file", &alice]);
    let asked = json_of(&asked)["restore"].as_str().unwrap().to_owned();
    kill(&mut world, &mut generation);
    assert!(!free(&world).await);
    let approve = |world: &World, person: &str| {
        world.run(&["restore", "approve", &asked, "--output", "json", "--token-file", &world.person(person)])
    };
    assert!(text(&approve(&world, "alice").stderr).contains("who has asked"), "who has asked is known after a kill");
    assert!(!free(&world).await);
    json_of(&approve(&world, "bob"));
    kill(&mut world, &mut generation);
    assert!(free(&world).await);
    assert_eq!((revocations(&world).len(), grants(&world).len()), (0, 4));
    assert!(!approve(&world, "carol").status.success(), "once is enough");
    eprintln!("{generation} kills");
}

/// What somebody was answered of one thing, and what was under way. Steps come one after the other.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    answered: usize,
    begun: usize,
}

/// By the name of the thing.
type Steps = Arc<Mutex<BTreeMap<String, Step>>>;

/// Takes a step and notes it; none where there was no answer.
async fn take<T>(steps: &Steps, name: &str, step: usize, work: impl Future<Output = Option<T>>) -> Option<T> {
    steps.lock().unwrap().entry(name.to_owned()).or_default().begun = step;
    let done = work.await;
    if done.is_some() {
        steps.lock().unwrap().get_mut(name).unwrap().answered = step;
    }
    done
}

async fn ask(caller: &Caller, token: &str, method: &str, request: Bytes, answer: &str) -> Option<Value> {
    let told = caller.call(&format!("doorward.v1.{method}"), &[token], request).await.ok()?;
    // While it is killed the connection may end in the middle of an answer.
    assert!(told.is_ok() || told.code.is_none(), "{method}: {told:?}");
    told.is_ok().then(|| told.read(answer))
}

/// Grants asked for, approved, used twice, and ended one way or another, until nobody answers.
async fn grant_on(world: Arc<Burst>, caller: Caller, steps: Steps, round: usize) -> Option<()> {
    let mut grpc = Grpc::new(channel(world.socket.clone()).await);
    for number in 0.. {
        let name = format!("grant {round} {number}");
        let scope = json!({"subject": AGENT, "actions": ["refund"], "task": name, "max_uses": 2});
        let request = message("RequestGrantRequest", json!({"request_id": name, "scope": scope, "reason": name}));
        let asked = ask(&caller, &world.alice, "GrantService/Request", request, "RequestGrantResponse");
        let asked = take(&steps, &name, 1, asked).await?;
        let id = asked["grant"]["id"].as_str().unwrap();
        let approve = message("ApproveGrantRequest", json!({"id": id}));
        let approved = ask(&caller, &world.bob, "GrantService/Approve", approve, "ApproveGrantResponse");
        take(&steps, &name, 2, approved).await?;
        for step in [3, 4] {
            let used = async {
                let check = Check::http("POST", "/refund/1").certificate(&world.agent).0;
                grpc.ready().await.ok()?;
                let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
                let codec = tonic_prost::ProstCodec::<_, envoy_types::ext_authz::v3::pb::CheckResponse>::default();
                let answer = grpc.unary(tonic::Request::new(check), path, codec).await.ok()?.into_inner();
                assert_eq!(answer.status.unwrap().code, 0, "{name}");
                Some(())
            };
            take(&steps, &name, step, used).await?;
        }
        let (method, name_of, answer, body) = match number % 2 {
            0 => ("GrantService/End", "EndGrantRequest", "EndGrantResponse", json!({"id": id})),
            _ => ("TaskService/End", "EndTaskRequest", "EndTaskResponse", json!({"task": name})),
        };
        let ended = ask(&caller, &world.bob, method, message(name_of, body), answer);
        take(&steps, &name, 5, ended).await?;
    }
    None
}

/// Revocations made, and of each other one the end of it.
async fn revoke_on(world: Arc<Burst>, caller: Caller, steps: Steps, round: usize) -> Option<()> {
    for number in 0.. {
        let name = format!("revocation {round} {number}");
        let selector = json!({"spiffe_id": format!("spiffe://example.org/r/{round}/{number}")});
        let body = json!({"request_id": name, "selector": selector, "reason": name});
        let revoked = ask(&caller, &world.bob, "RevocationService/Revoke", message("RevokeRequest", body), "RevokeResponse");
        let revoked = take(&steps, &name, 1, revoked).await?;
        if number % 2 == 0 {
            continue;
        }
        let body = json!({"id": revoked["revocation"]["id"], "reason": "r"});
        let asked = ask(&caller, &world.alice, "RevocationService/Restore", message("RestoreRequest", body), "RestoreResponse");
        let asked = take(&steps, &name, 2, asked).await?;
        let body = message("ApproveRestoreRequest", asked);
        let restored = ask(&caller, &world.bob, "RevocationService/ApproveRestore", body, "ApproveRestoreResponse");
        take(&steps, &name, 3, restored).await?;
    }
    None
}

/// Who calls in a burst.
struct Burst {
    socket: std::path::PathBuf,
    agent: String,
    alice: String,
    bob: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_at_any_moment_each_step_was_taken_or_was_not() {
    let mut world = World::start("");
    let control = world.control.trim_start_matches("unix://").to_owned();
    let agent: Leaf = world.svid("agent");
    let all = Steps::default();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut generation, mut torn) = (0, 0);
    for round in 0..rounds() {
        let bearer = |name: &str| format!("Bearer {}", fs::read_to_string(world.person(name)).unwrap());
        let (alice, bob) = (bearer("alice"), bearer("bob"));
        let burst = Arc::new(Burst { socket: world.doorward.socket(), agent: agent.url_encoded(), alice, bob });
        let caller = Caller::unix(Path::new(&control)).await.unwrap();
        let granting = tokio::spawn(grant_on(Arc::clone(&burst), caller.clone(), Arc::clone(&all), round));
        let revoking = tokio::spawn(revoke_on(burst, caller, Arc::clone(&all), round));
        tokio::time::sleep(Duration::from_millis(random.u64(30..700))).await;
        kill(&mut world, &mut generation);
        granting.await.unwrap();
        revoking.await.unwrap();
        torn += compare(&world, &all.lock().unwrap(), seed);
        // What was under way is cleared away, and makes room for the next round.
        for (id, grant) in grants(&world) {
            if ["open", "live", "used_up"].contains(&grant["state"].as_str().unwrap()) {
                json_of(&world.run(&["grant", "end", &id, "--output", "json"]));
                let name = grant["claimed"]["reason"].as_str().unwrap().to_owned();
                all.lock().unwrap().insert(name, Step { answered: 5, begun: 5 });
            }
        }
    }
    let all = all.lock().unwrap();
    let steps: usize = all.values().map(|step| step.answered).sum();
    eprintln!("{generation} kills, {} things, {steps} steps answered, {torn} under way that were taken", all.len());
    assert!(steps > rounds(), "{steps}");
}

/// Whether all stands as answered, or one step further where one was under way; how often it was further.
fn compare(world: &World, all: &BTreeMap<String, Step>, seed: u64) -> usize {
    let grants: BTreeMap<_, _> =
        grants(world).into_values().map(|grant| (grant["claimed"]["reason"].as_str().unwrap().to_owned(), grant)).collect();
    let revocations: BTreeMap<_, _> = revocations(world)
        .into_iter()
        .map(|revocation| (revocation["request_id"].as_str().unwrap().to_owned(), revocation))
        .collect();
    for name in grants.keys().chain(revocations.keys()) {
        assert!(all.contains_key(name), "{name} comes from nowhere, seed {seed}");
    }
    let mut further = 0;
    for (name, step) in all {
        let found: &[usize] = if name.starts_with("grant") {
            let grant = grants.get(name);
            let used = grant.map_or(0, |grant| grant["used"].as_u64().unwrap_or_default());
            match (grant.map_or("", |grant| grant["state"].as_str().unwrap()), used) {
                ("", _) => &[0],
                ("open", 0) => &[1],
                ("live", 0) => &[2],
                ("live", 1) => &[3],
                ("used_up", 2) => &[4],
                ("ended", _) => &[5],
                (state, used) => panic!("{name} is {state} and was used {used} times, seed {seed}"),
            }
        } else if revocations.contains_key(name) {
            &[1, 2]
        } else {
            &[0, 3]
        };
        let fits = |wanted: usize| found.contains(&wanted);
        assert!(fits(step.answered) || fits(step.begun), "{name}: {step:?}, and found at {found:?}, seed {seed}");
        further += usize::from(!fits(step.answered));
    }
    further
}

/// A small disk; gone when dropped.
struct Disk(TempDir);

impl Disk {
    /// None, with a loud word, where that is not ours to make.
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "doorward-test"]).arg(folder.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: only root can mount a small disk");
            return None;
        }
        Some(Self(folder))
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut filler = fs::OpenOptions::new().create(true).append(true).open(self.0.path().join("filler")).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while std::io::Write::write_all(&mut filler, &vec![1; size]).is_ok() {}
        }
    }

    fn clear(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_disk_nothing_is_granted_or_revoked_until_there_is_room() {
    let Some(disk) = Disk::mount() else { return };
    let log = disk.0.path().join("control.redb");
    let mut world = World::start_with("", &log.display().to_string(), &[]);
    let agent = world.svid("agent");
    let alice = world.person("alice");
    let limited = world.granted(&["--action", "refund", "--uses", "500"]);
    let unlimited = world.granted(&["--action", "post"]);
    let open = world.ask(&["--action", "free"]);
    assert!(world.call(&agent, "/refund/1", &[]).await.allowed);
    disk.fill();
    // The file has pages to spare: they are used up first.
    let mut uses = 1;
    let denied = loop {
        let decided = world.call(&agent, "/refund/1", &[]).await;
        if !decided.allowed {
            break decided;
        }
        uses += 1;
        assert!(uses < 400, "the disk is full, and uses are counted");
    };
    assert_eq!(world.reason(&denied), "grant_unavailable");
    let before = grants(&world);
    assert_eq!(before[&limited]["used"], uses);
    let reason = "x".repeat(1000);
    let revoke = ["revoke", "--spiffe-id", "spiffe://example.org/other", "--reason", &reason, "--output", "json"];
    let request = ["grant", "request", "--subject", AGENT, "--action", "free", "--reason", &reason, "--token-file", &alice];
    let end = ["grant", "end", &limited, "--reason", &reason];
    // Large and small, again and again: none is answered as done, and none is.
    for _ in 0..3 {
        for (what, output) in [
            ("request", world.run(&request)),
            ("approve", world.approve(&open, "bob")),
            ("end", world.run(&end)),
            ("revoke", world.run(&revoke)),
        ] {
            let told = text(&output.stderr);
            assert!(!output.status.success() && told.contains("control.redb") && told.contains("nothing"), "{what}: {told}");
        }
        let decided = world.call(&agent, "/refund/1", &[]).await;
        assert_eq!((decided.allowed, world.reason(&decided)), (false, "grant_unavailable".to_owned()));
    }
    assert_eq!((grants(&world), revocations(&world).len()), (before.clone(), 0));
    assert!(world.call(&agent, "/post", &[]).await.allowed, "{unlimited} needs no byte");
    assert_eq!(world.doorward.get("/readyz").0, 200);
    // A kill now loses nothing, and what starts on the full disk decides.
    let mut generation = 0;
    kill(&mut world, &mut generation);
    assert_eq!(grants(&world), before);
    assert!(world.call(&agent, "/post", &[]).await.allowed);
    assert!(!world.call(&agent, "/refund/1", &[]).await.allowed);
    disk.clear();
    assert!(world.call(&agent, "/refund/1", &[]).await.allowed, "without anybody's help");
    json_of(&world.approve(&open, "bob"));
    json_of(&world.run(&revoke));
    kill(&mut world, &mut generation);
    assert_eq!((revocations(&world).len(), &grants(&world)[&open]["state"]), (1, &json!("live")));
    eprintln!("full after {uses} uses");
}
