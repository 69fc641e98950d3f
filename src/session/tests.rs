//! What sessions remember, what they forget, and who may make them.

use std::{
    collections::HashSet,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    action::{Adds, GrantLimits, GrantRule},
    verdict::{Mode, Sensitivity},
};

const HOUR: u64 = 3600;

fn entry(name: &str, adds: &[&str]) -> Arc<Entry> {
    entry_with(name, adds.iter().map(|label| adds_for(label, HOUR, false)).collect())
}

fn adds_for(label: &str, ttl: u64, for_session: bool) -> Adds {
    Adds { label: label.into(), ttl: Duration::from_secs(ttl), for_session }
}

fn entry_with(name: &str, adds: Vec<Adds>) -> Arc<Entry> {
    Arc::new(Entry {
        name: name.into(),
        class: Class::Read,
        sensitivity: Sensitivity::Low,
        tier: None,
        is_public: false,
        adds,
        requires: Vec::new(),
        forbid_after: Vec::new(),
        grant: GrantRule::Never,
        grant_limits: GrantLimits::default(),
        mode: Mode::Enforce,
        shown: crate::json::Shown::default(),
    })
}

fn key(source: Source, id: &str) -> Key {
    Key { source, id: id.into() }
}

fn config(max: usize) -> config::Sessions {
    config::Sessions { max, ..config::Sessions::default() }
}

fn sessions() -> Sessions {
    Sessions::open(&config(1_000_000), Now::from_seconds(0)).unwrap()
}

struct Tester<'a> {
    sessions: &'a Sessions,
    principal: Arc<str>,
    key: Key,
}

impl<'a> Tester<'a> {
    fn new(sessions: &'a Sessions, principal: &str) -> Self {
        Self { sessions, principal: principal.into(), key: key(Source::Certificate, "c1") }
    }

    fn who(&self) -> Who<'_> {
        let Self { principal, key, .. } = self;
        Who { principal, key, id: id(principal, key), environment: None, zone: None, issuer: Some("ca") }
    }

    fn step(&self, entry: &Arc<Entry>, at: u64) -> Result<Stepped, Reason> {
        let step = Step {
            who: self.who(),
            entry: Some(entry),
            class: entry.class,
            resource_hash: 1,
            wants_view: true,
            sole: true,
            now: Now::from_seconds(at),
        };
        futures_util::FutureExt::now_or_never(self.sessions.step(&step)).expect("memory does not wait")
    }

    /// A step that is allowed.
    fn does(&self, entry: &Arc<Entry>, at: u64) -> Stepped {
        let mut stepped = self.step(entry, at).expect("a step");
        let intent = std::mem::replace(&mut stepped.intent, self.step_without_trace());
        self.sessions.outcome(intent, Decision::Allow, Now::from_seconds(at));
        stepped
    }

    fn step_without_trace(&self) -> Intent {
        let other = Tester::new(self.sessions, "nobody");
        other.step(&entry("nothing", &[]), 0).expect("a step").intent
    }

    fn labels(&self, at: u64) -> HashSet<String> {
        let probe = entry("probe", &[]);
        let Stepped { labels, .. } = self.step(&probe, at).expect("a step");
        labels.iter().map(|label| label.to_string()).collect()
    }
}

fn set(labels: &[&str]) -> HashSet<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

#[test]
fn labels_are_the_principals_whatever_the_session() {
    let sessions = sessions();
    let mut caller = Tester::new(&sessions, "a");
    let read = entry("read", &["data:customer"]);
    assert!(caller.does(&read, 10).labels.is_empty(), "its own labels are left out");
    assert_eq!(caller.labels(11), set(&["data:customer"]));
    for other in [key(Source::Certificate, "c2"), key(Source::Run, "r"), key(Source::Ambient, "")] {
        caller.key = other;
        assert_eq!(caller.labels(12), set(&["data:customer"]));
    }
    assert_eq!(Tester::new(&sessions, "b").labels(12), set(&[]), "and nobody else's");
    assert_eq!(caller.labels(10 + HOUR + 1), set(&[]), "until they expire");
}

#[test]
fn a_label_for_the_session_stays_in_a_vouched_one() {
    let sessions = sessions();
    let mut caller = Tester::new(&sessions, "a");
    let read = entry_with("read", vec![adds_for("x", HOUR, true)]);
    caller.key = key(Source::Transaction, "t1");
    caller.does(&read, 10);
    assert_eq!(caller.labels(11), set(&["x"]));
    caller.key = key(Source::Transaction, "t2");
    assert_eq!(caller.labels(11), set(&[]));
    caller.key = key(Source::Certificate, "c");
    caller.does(&read, 12);
    caller.key = key(Source::Certificate, "d");
    assert_eq!(caller.labels(13), set(&["x"]), "a certificate is nobody's word for a session");
}

#[test]
fn a_denial_takes_back_what_nobody_else_added() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let read = entry("read", &["x"]);
    let (now, deny) = (Now::from_seconds(10), Decision::Deny);
    let alone = caller.step(&read, 10).unwrap();
    sessions.outcome(alone.intent, deny, now);
    assert_eq!(caller.labels(10), set(&[]));

    let (one, two) = (caller.step(&read, 10).unwrap(), caller.step(&read, 10).unwrap());
    sessions.outcome(one.intent, deny, now);
    assert_eq!(caller.labels(10), set(&["x"]), "the second one is still undecided");
    sessions.outcome(two.intent, deny, now);
    assert_eq!(caller.labels(10), set(&[]));

    let (one, two) = (caller.step(&read, 10).unwrap(), caller.step(&read, 10).unwrap());
    sessions.outcome(one.intent, Decision::Allow, now);
    sessions.outcome(two.intent, deny, now);
    assert_eq!(caller.labels(10), set(&["x"]), "what was allowed stays");
    drop(caller.step(&entry("other", &["y"]), 10).unwrap().intent);
    assert_eq!(caller.labels(10), set(&["x", "y"]), "an intent without an outcome stands");
    let view = caller.step(&read, 11).unwrap().view.unwrap();
    let counts: Vec<(&str, u64)> = view.principal.counts.iter().map(|(name, count)| (&**name, count.n)).collect();
    assert_eq!(counts, [("other", 1), ("probe", 5), ("read", 1)]);
}

#[test]
fn more_undecided_intents_than_are_told_apart_stand() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let read = entry("read", &["x"]);
    let intents: Vec<Intent> = (0..100).map(|_| caller.step(&read, 10).unwrap().intent).collect();
    for intent in intents {
        sessions.outcome(intent, Decision::Deny, Now::from_seconds(10));
    }
    assert_eq!(caller.labels(10), set(&["x"]));
}

#[test]
fn the_view_is_what_was_before() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let read = entry("read", &["x"]);
    for at in 10..60 {
        caller.does(&read, at);
    }
    let stepped = caller.step(&read, 70).unwrap();
    let view = stepped.view.unwrap();
    assert_eq!((view.seq, view.age_s, view.source), (50, 60, "certificate"));
    assert_eq!(view.session.path.len(), 32, "no more are kept");
    assert_eq!(view.session.path.last().map(|past| (past.n, past.decision)), Some((49, Some(Decision::Allow))));
    let count = view.principal.counts[0].1;
    assert_eq!((count.n, count.first, count.last), (50, Now::from_seconds(10), Now::from_seconds(59)));
    assert_eq!(view.id, format!("{:016x}", stepped.session));
}

#[test]
fn a_session_ends_by_rest_by_age_and_by_order() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let read = entry("read", &["x"]);
    caller.does(&read, 10);
    assert_eq!(caller.step(&read, 20).unwrap().view.unwrap().seq, 1);
    assert_eq!(caller.step(&read, 20 + 16 * 60).unwrap().view.unwrap().seq, 0, "idle for more than a quarter of an hour");
    assert!(sessions.end(&caller.principal, &caller.key, Now::from_seconds(2000)));
    assert_eq!(caller.step(&read, 2001).unwrap_err(), Reason::SessionEnded);
    assert_eq!(caller.step(&read, 2001 + 12 * HOUR).unwrap_err(), Reason::SessionEnded, "resting does not begin it anew");
    assert!(caller.step(&read, 2001 + 25 * HOUR).is_ok());
    let mut ambient = Tester::new(&sessions, "a");
    ambient.key = key(Source::Ambient, "");
    ambient.does(&read, 3000);
    assert!(sessions.end(&ambient.principal, &ambient.key, Now::from_seconds(3001)));
    let stepped = ambient.step(&read, 3002).unwrap();
    assert_eq!(stepped.view.unwrap().seq, 0);
    assert!(!stepped.labels.is_empty(), "the principal keeps its labels");
    assert!(!sessions.end(&"unknown".into(), &ambient.key, Now::from_seconds(1)));
}

#[test]
fn what_is_noticed_of_a_caller() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let (read, write) = (entry("read", &[]), entry("write", &[]));
    let window = Duration::from_secs(1);
    let look = |who: &Who<'_>, action: &Arc<Entry>, at| sessions.look(who, Some(&action.name), window, Now::from_seconds(at));
    assert!(!look(&caller.who(), &read, 1).first_use, "a caller that is new does everything for the first time");
    caller.does(&read, 1);
    assert!(!look(&caller.who(), &read, 2).first_use);
    assert!(look(&caller.who(), &write, 4).first_use);
    for _ in 0..4 {
        sessions.denied(&caller.principal);
    }
    let glance = look(&caller.who(), &write, 4);
    assert_eq!((glance.denials, glance.calls), (4, 2));
    sessions.note(&caller.principal, [SignalName::Burst, SignalName::Burst].into_iter(), Now::from_seconds(9));
    assert_eq!(look(&caller.who(), &read, 9).noted, [(SignalName::Burst, Now::from_seconds(9), Now::from_seconds(9))]);
    let moved = Who { issuer: Some("another"), ..caller.who() };
    assert_eq!(look(&moved, &read, 9).changed, [SignalName::IssuerChanged]);
    caller.does(&read, 10);
    assert_eq!(look(&caller.who(), &read, 11).denials, 0);
}

#[test]
fn nobody_can_take_anything_from_another() {
    let sessions = Sessions::open(&config(2560), Now::from_seconds(0)).unwrap();
    let victim = Tester::new(&sessions, "victim");
    let read = entry("read", &["x"]);
    victim.does(&read, 10);
    let mut flood = Tester::new(&sessions, "flood");
    for number in 0..5_000 {
        flood.key = key(Source::Certificate, &number.to_string());
        flood.does(&read, 11);
    }
    let census = sessions.census();
    assert!(census.sessions <= principal::SESSIONS + 2, "{census:?}");
    let mut refused = 0;
    for number in 0..20_000 {
        let many = Tester::new(&sessions, &format!("p{number}"));
        refused += usize::from(many.step(&read, 12).is_err_and(|reason| reason == Reason::SessionLimit));
    }
    let census = sessions.census();
    assert!(census.principals <= 2560 && refused >= 17_000, "{census:?}, {refused} refused");
    assert_eq!(victim.labels(13), set(&["x"]));
    assert_eq!(victim.step(&read, 13).unwrap().view.unwrap().seq, 2);
    sessions.sweep(Now::from_seconds(13 + 30 * HOUR));
    assert_eq!(sessions.census(), Census::default());
}

/// Each of a pair forbids what the other leaves behind; both step at once.
fn race(rounds: usize, judge: impl Fn(&Tester<'_>, &Arc<Entry>, &str) -> bool + Sync) -> (usize, usize) {
    let sessions = sessions();
    let (read, post) = (entry("read", &["read"]), entry("post", &["posted"]));
    let barrier = Barrier::new(2);
    let run = |own: &Arc<Entry>, forbidden: &str| -> Vec<bool> {
        (0..rounds)
            .map(|round| {
                let caller = Tester::new(&sessions, &round.to_string());
                barrier.wait();
                judge(&caller, own, forbidden)
            })
            .collect()
    };
    let (reads, posts) = thread::scope(|scope| {
        let other = scope.spawn(|| run(&post, "read"));
        (run(&read, "posted"), other.join().unwrap())
    });
    let both = reads.iter().zip(&posts).filter(|(a, b)| **a && **b).count();
    let none = reads.iter().zip(&posts).filter(|(a, b)| !**a && !**b).count();
    (both, none)
}

#[test]
fn of_two_racing_actions_at_most_one_passes() {
    let (both, none) = race(10_000, |caller, own, forbidden| {
        let stepped = caller.step(own, 1).unwrap();
        let allowed = !stepped.labels.iter().any(|label| **label == *forbidden);
        let decision = if allowed { Decision::Allow } else { Decision::Deny };
        caller.sessions.outcome(stepped.intent, decision, Now::from_seconds(1));
        allowed
    });
    assert_eq!(both, 0);
    assert!(none < 10_000);
}

/// What the order is for: where both look before either appends, both pass.
#[test]
fn judging_before_appending_would_let_both_through() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let (read, post) = (entry("read", &["read"]), entry("post", &["posted"]));
    let may_read = !caller.labels(1).contains("posted");
    let may_post = !caller.labels(1).contains("read");
    caller.does(&read, 1);
    caller.does(&post, 1);
    assert!(may_read && may_post);
}

fn kept(folder: &tempfile::TempDir) -> config::Sessions {
    config::Sessions { snapshot: Some(folder.path().join("sessions")), ..config::Sessions::default() }
}

#[test]
fn a_file_brings_back_labels_counts_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let read = entry_with("read", vec![adds_for("x", HOUR, false), adds_for("y", HOUR, true)]);
    let before = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    let mut caller = Tester::new(&before, "a");
    caller.key = key(Source::Run, "r");
    caller.does(&read, 10);
    caller.does(&read, 11);
    let mut ended = Tester::new(&before, "a");
    ended.key = key(Source::Run, "gone");
    ended.does(&read, 11);
    before.end(&ended.principal, &ended.key, Now::from_seconds(12));
    for whole in [false, true] {
        // Without a save: what a crash leaves.
        if whole {
            before.save(Now::from_seconds(20)).unwrap();
        }
        let after = Sessions::open(&kept(&folder), Now::from_seconds(21)).unwrap();
        let mut caller = Tester::new(&after, "a");
        caller.key = key(Source::Run, "r");
        let stepped = caller.step(&read, 22).unwrap();
        assert!(stepped.complete);
        let labels: HashSet<String> = stepped.labels.iter().map(|label| label.to_string()).collect();
        assert_eq!(labels, set(&["x", "y"]), "{whole}");
        let count = stepped.view.unwrap().principal.counts[0].1;
        assert!(count.n >= 3 && count.first == Now::from_seconds(10), "{count:?}");
        caller.key = key(Source::Run, "gone");
        assert_eq!(caller.step(&read, 22).unwrap_err(), Reason::SessionEnded);
        caller.key = key(Source::Run, "r");
        assert_eq!(caller.labels(12 + 2 * HOUR), set(&[]), "and they still expire");
    }
}

#[test]
fn sessions_are_counted_however_they_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let read = entry("read", &["x"]);
    let before = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    for number in 0..5 {
        Tester::new(&before, &format!("p{number}")).does(&read, 10);
    }
    before.save(Now::from_seconds(11)).unwrap();
    // Five, and the one that `does` makes its intents by.
    assert_eq!(before.census().sessions, 6);
    let after = Sessions::open(&kept(&folder), Now::from_seconds(12)).unwrap();
    assert_eq!(after.census().sessions, 6, "brought back from the file");
    let caller = Tester::new(&after, "p0");
    after.end(&caller.principal, &caller.key, Now::from_seconds(13));
    assert_eq!(caller.step(&read, 14).unwrap_err(), Reason::SessionEnded);
    after.sweep(Now::from_seconds(14 + 30 * HOUR));
    assert_eq!(after.census(), Census::default());
}

#[test]
fn a_file_that_is_none_of_ours_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions");
    std::fs::write(&path, "something else\n").unwrap();
    let error = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("move it away"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else\n");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(
        folder.path().join("sessions.new"),
        "{\"is\":\"label\",\"p\":\"a\",\"label\":\"x\",\"until\":9000000000000}\n{\"is\":",
    )
    .unwrap();
    let sessions = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    assert_eq!(Tester::new(&sessions, "a").labels(2), set(&["x"]), "a line that a crash has cut is left out");
}

#[test]
fn what_was_cut_is_left_out_and_what_follows_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let cut = "{\"is\":\"label\",\"p\":\"a\",\"la";
    for name in ["sessions.new", "sessions.old"] {
        std::fs::write(folder.path().join(name), cut).unwrap();
    }
    let before = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    // A disk that was full for a while.
    std::fs::write(folder.path().join("sessions.new"), cut).unwrap();
    Tester::new(&before, "a").does(&entry("read", &["x"]), 2);
    let after = Sessions::open(&kept(&folder), Now::from_seconds(3)).unwrap();
    assert_eq!(Tester::new(&after, "a").labels(4), set(&["x"]));
}

#[test]
fn an_end_lasts_over_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let read = entry("read", &[]);
    let before = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    let caller = Tester::new(&before, "a");
    caller.does(&read, 10);
    before.save(Now::from_seconds(11)).unwrap();
    for at in 1..24 {
        caller.does(&read, at * HOUR);
    }
    before.end(&caller.principal, &caller.key, Now::from_seconds(23 * HOUR));
    let after = Sessions::open(&kept(&folder), Now::from_seconds(23 * HOUR + 1)).unwrap();
    let caller = Tester::new(&after, "a");
    assert_eq!(caller.step(&read, 40 * HOUR).unwrap_err(), Reason::SessionEnded, "for a day from its end");
}

#[test]
fn what_cannot_be_written_is_refused_and_stands() {
    let folder = tempfile::tempdir().unwrap();
    let device = config::Sessions { snapshot: Some("/dev/full".into()), ..kept(&folder) };
    assert!(Sessions::open(&device, Now::from_seconds(1)).is_err());
    let sessions = Sessions::open(&kept(&folder), Now::from_seconds(1)).unwrap();
    let Store::Memory(memory) = &sessions.store;
    memory.file.as_ref().unwrap().fill_up();
    let caller = Tester::new(&sessions, "a");
    assert_eq!(caller.step(&entry("read", &["x"]), 10).unwrap_err(), Reason::SessionUnavailable);
    let seen = sessions.list(None, 1, Now::from_seconds(10), |_| true);
    assert_eq!(seen[0].labels, ["x".into()]);
}

#[test]
fn without_a_file_sessions_are_complete_once_labels_have_expired() {
    let sessions = sessions();
    let caller = Tester::new(&sessions, "a");
    let read = entry("read", &[]);
    assert!(!caller.step(&read, HOUR - 1).unwrap().complete);
    let stepped = caller.step(&read, HOUR).unwrap();
    assert!(stepped.complete && stepped.view.unwrap().complete);
    let step = Step {
        who: caller.who(),
        entry: Some(&read),
        class: Class::Read,
        resource_hash: 0,
        wants_view: false,
        sole: false,
        now: Now::from_seconds(2 * HOUR),
    };
    let elsewhere = futures_util::FutureExt::now_or_never(sessions.step(&step)).unwrap().unwrap();
    assert!(!elsewhere.complete, "others may see calls of the same caller");
}

#[test]
fn sessions_are_listed_by_page() {
    let sessions = sessions();
    let read = entry("read", &["x"]);
    for number in 0..25 {
        Tester::new(&sessions, &format!("p{number}")).does(&read, 10);
    }
    let mut seen = HashSet::new();
    let mut after = None;
    loop {
        let page = sessions.list(after, 10, Now::from_seconds(11), |listed| listed.principal.starts_with('p'));
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|listed| listed.principal.to_string()));
    }
    assert_eq!(seen.len(), 25);
    let one = sessions.list(None, 1, Now::from_seconds(11), |listed| *listed.principal == *"p7").remove(0);
    assert_eq!(one.labels, ["x".into()]);
    let (listed, view) = sessions.show(one.id, Now::from_seconds(11)).unwrap();
    assert_eq!((listed, view.session.path.len()), (one, 1));
}

#[test]
fn a_step_takes_little_time_and_memory() {
    let sessions = sessions();
    let read = entry("read", &["x"]);
    let began = Instant::now();
    for number in 0..20_000 {
        drop(Tester::new(&sessions, &format!("spiffe://example.org/ns/shop/sa/{number}")).step(&read, 10));
    }
    // Generous: it is not a benchmark, only a guard against a step that looks at everything.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(sessions.census().sessions, 20_000);
}
