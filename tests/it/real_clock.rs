//! A clock that is set forward and back under a running doorward, by libfaketime: nothing that was over comes back, and
//! nothing lasts longer than it was to.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    grants::{World, json_of, text},
    harness::{command, doorward::Setup, eventually},
};

/// The library behind the command `faketime`.
fn library() -> Option<PathBuf> {
    command("faketime")?;
    let machines = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let found = machines.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    Some(found.expect("libfaketime beside `faketime`"))
}

/// Seconds that doorward's clock is ahead, in a file that it reads each time.
struct Clock(TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(TempDir::new().unwrap());
        clock.set(0);
        clock
    }

    fn set(&self, ahead: i64) {
        let (new, path) = (self.0.path().join("new"), self.path());
        fs::write(&new, format!("{ahead:+}s\n")).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ahead")
    }
}

/// Nanoseconds since the Unix epoch.
fn instant(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_nanos_opt().unwrap()
}

fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forward_and_back_brings_nothing_back() {
    let Some(library) = library() else { return };
    let clock = Clock::new();
    let (library, path) = (library.display().to_string(), clock.path().display().to_string());
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &path),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut world = World::start_with("", "control.redb", &env);
    let (agent, other) = (world.svid("agent"), world.svid("other"));
    // Good by each of the clocks.
    let person = |world: &World, name: &str| world.token(name, &json!({"iat": now() - 100, "exp": now() + 200}));
    let ask = |world: &World, args: &[&str]| {
        let subject = crate::grants::AGENT;
        let token = person(world, "alice");
        let base = ["grant", "request", "--subject", subject, "--reason", "r", "--output", "json", "--token-file", &token];
        json_of(&world.run(&[&base, args].concat()))["grant"]["id"].as_str().unwrap().to_owned()
    };
    let approve = |world: &World, id: &str, name: &str| {
        json_of(&world.run(&["grant", "approve", id, "--output", "json", "--token-file", &person(world, name)]))["grant"].clone()
    };
    let granted = |world: &World, args: &[&str]| {
        let id = ask(world, args);
        approve(world, &id, "bob");
        id
    };
    let state = |world: &World, id: &str| {
        let listed = json_of(&world.run(&["grant", "list", "--output", "json"]));
        let found = listed["grants"].as_array().unwrap().iter().find(|grant| grant["id"] == id).cloned();
        found.unwrap()["state"].as_str().unwrap().to_owned()
    };
    // What relies on a grant by its id, for the one action that there are short ones of.
    let relies = async |world: &World, id: &str| world.call(&agent, "/free", &[("x-grant", id)]).await.allowed;

    let long = granted(&world, &["--action", "refund"]);
    let short = granted(&world, &["--action", "free", "--for", "20s"]);
    let ended = granted(&world, &["--action", "post"]);
    let in_task = granted(&world, &["--action", "post", "--task", "T"]);
    json_of(&world.run(&["grant", "end", &ended, "--output", "json"]));
    json_of(&world.run(&["task", "end", "T", "--output", "json"]));
    let id = "spiffe://example.org/other";
    json_of(&world.run(&["revoke", "--spiffe-id", id, "--reason", "r", "--expires", "1h", "--output", "json"]));
    json_of(&world.run(&["revoke", "--spiffe-id", id, "--issued-before", "now", "--reason", "r", "--output", "json"]));
    assert!(relies(&world, &short).await);

    let stands = async |world: &World, when: &str| {
        assert!(world.call(&agent, "/refund/1", &[]).await.allowed, "{when}");
        assert!(!relies(world, &short).await, "{when}");
        assert!(!world.call(&other, "/free", &[]).await.allowed, "{when}");
        let states = [&short, &ended, &in_task].map(|id| state(world, id));
        assert_eq!(states, ["expired", "ended", "ended"], "{when}");
        assert_eq!(world.doorward.readyz()["state"]["revocations"], 2, "{when}");
    };
    clock.set(30);
    eventually("the end of the short one", || (world.doorward.readyz()["state"]["grants"] == 1).then_some(()));
    stands(&world, "30 s forward").await;
    clock.set(0);
    stands(&world, "and back").await;
    let minute = ask(&world, &["--action", "free", "--for", "60s"]);
    let approved = approve(&world, &minute, "carol");
    let until = instant(&approved["approved_until"]) / 1_000_000_000;
    assert!(until <= now() + 60, "granted for a minute, until {} s from now", until - now());
    assert!(relies(&world, &minute).await);
    clock.set(-30);
    stands(&world, "30 s back").await;
    for (generation, ahead) in [-30, 0, 30, -30].into_iter().enumerate() {
        clock.set(ahead);
        world.doorward.signal(Signal::SIGKILL);
        world.doorward.wait();
        drop(world.doorward.start_again(&Setup { env: &env, ..Setup::default() }, generation + 1));
        stands(&world, &format!("restarted at {ahead} s")).await;
        assert!(!text(&world.run(&["grant", "end", &ended]).stderr).is_empty());
    }
    json_of(&world.run(&["grant", "end", &long, "--output", "json"]));
    clock.set(-30);
    assert!(!world.call(&agent, "/refund/1", &[]).await.allowed, "ended for good");
}
