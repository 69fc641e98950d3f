//! One claim for each allow, room for each principal, and no stream that a cut misses.

use std::thread;

use super::*;

fn streams(all: usize, of_principal: usize) -> Arc<Streams> {
    let limits = config::Limits { streams: all, streams_per_principal: of_principal, ..config::Limits::default() };
    Arc::new(Streams::new(&limits))
}

fn facts(principal: &str, session: u64) -> Facts {
    Facts { principal: Some(principal.into()), session: Some(session), ..Facts::default() }
}

impl Streams {
    fn allow(&self, facts: Facts) -> Uuid {
        let id = Uuid::now_v7();
        self.remember(id, facts, self.generation(), Instant::now()).unwrap();
        id
    }

    fn open(self: &Arc<Self>, facts: Facts) -> Stream {
        let id = self.allow(facts);
        self.claim(id, Instant::now(), |_| None).unwrap()
    }
}

#[test]
fn an_allow_is_claimed_once_and_within_ten_seconds() {
    let streams = streams(10, 10);
    let id = streams.allow(facts("a", 1));
    let stream = streams.claim(id, Instant::now(), |_| None).unwrap();
    assert_eq!((stream.id(), stream.facts().session), (id, Some(1)));
    assert_eq!(streams.claim(id, Instant::now(), |_| None).unwrap_err(), Refused::Claimed);
    drop(stream);
    assert_eq!(streams.claim(id, Instant::now(), |_| None).unwrap_err(), Refused::Unknown);
    let late = streams.allow(facts("a", 1));
    assert_eq!(streams.claim(late, Instant::now() + Duration::from_secs(11), |_| None).unwrap_err(), Refused::Unknown);
    let forgotten = streams.allow(facts("a", 1));
    streams.forget(forgotten);
    assert_eq!(streams.claim(forgotten, Instant::now(), |_| None).unwrap_err(), Refused::Unknown);
    assert_eq!(streams.claim(Uuid::now_v7(), Instant::now(), |_| None).unwrap_err(), Refused::Unknown);
    let over = streams.allow(Facts { ends: Some(Now::from_seconds(1)), ..facts("a", 1) });
    assert!(matches!(streams.claim(over, Instant::now(), |_| None), Err(Refused::Over(End::Expired, _))));
    assert_eq!(streams.counts.all.load(Ordering::Relaxed), 0, "all gave their room back");
}

#[test]
fn a_principal_has_so_many_streams_and_all_have_so_many() {
    let streams = streams(5, 3);
    let held: Vec<_> = (0..3).map(|_| streams.open(facts("a", 1))).collect();
    let now = Instant::now();
    let ask = |principal: &str, now| streams.remember(Uuid::now_v7(), facts(principal, 1), 0, now);
    assert_eq!(ask("a", now), Err(Full));
    assert_eq!((ask("b", now), ask("b", now), ask("c", now)), (Ok(()), Ok(()), Err(Full)));
    // Nobody came for those of `b`.
    assert_eq!(ask("c", now + Duration::from_secs(11)), Ok(()));
    drop(held);
    assert_eq!(ask("a", now), Ok(()));
    assert_eq!(streams.counts.all.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_cut_ends_those_that_match_and_no_other() {
    let streams = streams(10, 10);
    let (mut one, mut other) = (streams.open(facts("a", 1)), streams.open(facts("a", 2)));
    let pending = streams.allow(facts("a", 1));
    assert_eq!(streams.end_session(1), 1);
    assert_eq!(one.over().await, End::Cut(Reason::SessionEnded));
    let refused = streams.claim(pending, Instant::now(), |_| None).unwrap_err();
    assert!(matches!(refused, Refused::Over(End::Cut(Reason::SessionEnded), _)), "{refused:?}");
    let still = tokio::time::timeout(Duration::from_millis(20), other.over()).await;
    assert!(still.is_err(), "{still:?}");
    assert_eq!(streams.cut(|facts| (facts.principal.as_deref() == Some("a")).then_some(Reason::Policy)), 1);
    assert_eq!(other.over().await, End::Cut(Reason::Policy));
}

#[tokio::test]
async fn a_stream_ends_with_what_it_rests_on() {
    let streams = streams(10, 10);
    let ends = Now { ns: clock::now().ns + 30_000_000 };
    let mut stream = streams.open(Facts { ends: Some(ends), ..facts("a", 1) });
    assert_eq!(stream.over().await, End::Expired);
    assert!(clock::now() >= ends);
}

#[test]
fn an_allow_from_before_a_cut_is_looked_at_again() {
    let streams = streams(10, 10);
    // The decision was made before the cut, and handed over after it.
    let generation = streams.generation();
    streams.end_session(1);
    let late = |again: fn(&Facts) -> Option<Reason>| {
        let id = Uuid::now_v7();
        streams.remember(id, facts("a", 1), generation, Instant::now()).unwrap();
        streams.claim(id, Instant::now(), again).map(|_| ())
    };
    assert!(matches!(late(|_| Some(Reason::SessionEnded)), Err(Refused::Over(End::Cut(Reason::SessionEnded), _))));
    assert_eq!(late(|_| None), Ok(()), "the cut was about others");
    let later = streams.allow(facts("a", 1));
    assert!(streams.claim(later, Instant::now(), |_| panic!("nothing was cut since")).is_ok());
}

/// Streams are opened on what a table says while that is withdrawn: none is left that rests on it.
#[test]
fn no_stream_slips_past_a_cut() {
    for round in 0..200 {
        let streams = streams(1000, 1000);
        let withdrawn = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let openers: Vec<_> = (0..4)
            .map(|_| {
                let (streams, withdrawn) = (Arc::clone(&streams), Arc::clone(&withdrawn));
                thread::spawn(move || {
                    let mut open = Vec::new();
                    for _ in 0..50 {
                        let generation = streams.generation();
                        if withdrawn.load(Ordering::SeqCst) {
                            break;
                        }
                        let id = Uuid::now_v7();
                        streams.remember(id, facts("a", 1), generation, Instant::now()).unwrap();
                        let again = |_: &Facts| withdrawn.load(Ordering::SeqCst).then_some(Reason::SessionEnded);
                        open.extend(streams.claim(id, Instant::now(), again));
                    }
                    open
                })
            })
            .collect();
        if round % 2 == 0 {
            thread::yield_now();
        }
        withdrawn.store(true, Ordering::SeqCst);
        streams.end_session(1);
        for opener in openers {
            for mut stream in opener.join().unwrap() {
                assert_eq!(stream.cut.try_recv(), Ok(Reason::SessionEnded), "round {round}");
            }
        }
    }
}

#[test]
fn ten_thousand_streams_are_gone_through_quickly_and_leave_nothing() {
    let streams = streams(10_000, 1000);
    let held: Vec<_> = (0..10_000_u64).map(|number| streams.open(facts(&format!("p{}", number % 10), number))).collect();
    assert_eq!(streams.remember(Uuid::now_v7(), facts("q", 1), 0, Instant::now()), Err(Full));
    assert_eq!(streams.end_session(7), 1);
    assert_eq!(streams.cut(|_| Some(Reason::Policy)), 9_999);
    drop(held);
    assert!(streams.shards.iter().all(|shard| lock(shard).live.is_empty() && lock(shard).pending.is_empty()));
    assert_eq!(streams.counts.all.load(Ordering::Relaxed), 0);
    assert!(streams.counts.by_principal.iter().all(|counts| lock(counts).is_empty()));
}
