//! What is noted of principals, and who goes when the table is full.

use super::*;

const HOUR: u64 = 3600;

fn sight(principal: &Arc<str>, rank: Rank, at: u64) -> Sight<'_> {
    let at = Now::from_seconds(at);
    let id = Uuid::from_u128(u128::from(at.ns));
    Sight { principal, rank, at, id, decision: Decision::Allow, action: None, lifetimes: Lifetimes::default() }
}

fn workload(number: usize) -> Arc<str> {
    format!("spiffe://example.org/ns/team-{:03}/sa/agent-{number:07}", number % 1000).into()
}

#[test]
fn what_was_seen_is_counted() {
    let seen = Seen::new(10);
    let (agent, read, write): (Arc<str>, Arc<str>, Arc<str>) = (workload(1), "orders.read".into(), "orders.write".into());
    let mut lifetimes = Lifetimes::default();
    lifetimes.restore("x509_svid", Some(3600));
    seen.see(&Sight { action: Some(&read), lifetimes, ..sight(&agent, Rank::Workload, 3 * HOUR) });
    // A record that was written late is about an earlier call.
    seen.see(&Sight { action: Some(&read), ..sight(&agent, Rank::Workload, 2 * HOUR) });
    seen.see(&Sight { decision: Decision::Deny, ..sight(&agent, Rank::Workload, 4 * HOUR) });
    seen.see(&Sight { action: Some(&write), ..sight(&agent, Rank::Workload, 5 * HOUR) });
    seen.overdue(&agent, Overdue::Expired, Now::from_seconds(5 * HOUR));
    seen.overdue(&agent, Overdue::TaskEnded, Now::from_seconds(4 * HOUR));
    seen.overdue("spiffe://example.org/nobody", Overdue::Expired, Now::from_seconds(5 * HOUR));
    let at = |hours| Now::from_seconds(hours * HOUR);
    let expected = Sighting {
        principal: Arc::clone(&agent),
        rank: Rank::Workload,
        first: at(2),
        last: at(5),
        allowed: 3,
        denied: 1,
        decision: Uuid::from_u128(u128::from(at(5).ns)),
        lifetimes,
        actions: vec![
            Used { action: read, first: at(2), last: at(3), count: 2 },
            Used { action: write, first: at(5), last: at(5), count: 1 },
        ],
        others: 0,
        late: Some(Late { reasons: vec![Overdue::Expired, Overdue::TaskEnded], first: at(4), last: at(5), count: 2 }),
    };
    assert_eq!(seen.find(&agent), Some(expected));
    assert_eq!(seen.find("spiffe://example.org/nobody"), None);
}

#[test]
fn of_two_records_of_one_decision_the_later_one_counts() {
    let (seen, agent) = (Seen::new(10), workload(1));
    seen.see(&sight(&agent, Rank::Workload, HOUR));
    seen.see(&sight(&agent, Rank::Workload, 2 * HOUR));
    seen.see(&Sight { decision: Decision::Deny, ..sight(&agent, Rank::Workload, 2 * HOUR) });
    let found = seen.find(&agent).unwrap();
    assert_eq!((found.allowed, found.denied), (1, 1));
}

#[test]
fn actions_of_one_principal_are_bounded() {
    let (seen, agent) = (Seen::new(10), workload(1));
    for number in 0..ACTIONS + 5 {
        let action: Arc<str> = format!("a{number}").into();
        seen.see(&Sight { action: Some(&action), ..sight(&agent, Rank::Workload, HOUR) });
    }
    let found = seen.find(&agent).unwrap();
    assert_eq!((found.actions.len(), found.others, found.allowed), (ACTIONS, 5, (ACTIONS + 5) as u64));
}

#[test]
fn pages_and_prefixes_are_in_order() {
    let seen = Seen::new(100);
    let names: Vec<Arc<str>> =
        ["spiffe://b.org/x", "spiffe://a.org/x", "https://as.example#y", "spiffe://a.org/w"].map(Into::into).into();
    for name in &names {
        seen.see(&sight(name, Rank::of(name, false), HOUR));
    }
    let of = |after: Option<&str>, prefix: &str, limit| {
        seen.after(after, prefix, limit).into_iter().map(|found| found.principal.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(None, "", 10), ["https://as.example#y", "spiffe://a.org/w", "spiffe://a.org/x", "spiffe://b.org/x"]);
    assert_eq!(of(None, "spiffe://a.org/", 10), ["spiffe://a.org/w", "spiffe://a.org/x"]);
    assert_eq!(of(Some("spiffe://a.org/w"), "spiffe://", 1), ["spiffe://a.org/x"]);
    assert_eq!(of(Some("spiffe://b"), "spiffe://a.org/", 10), [""; 0]);
    assert_eq!(of(Some("a"), "spiffe://b.org/", 10), ["spiffe://b.org/x"]);
}

#[test]
fn unknown_ones_push_out_no_known_ones() {
    let seen = Seen::new(100);
    for number in 0..60 {
        seen.see(&sight(&workload(number), Rank::Registered, HOUR + number as u64));
    }
    for number in 60..80 {
        seen.see(&sight(&workload(number), Rank::Workload, HOUR + number as u64));
    }
    // An issuer that makes up subjects fills what is left, and then takes its own places only.
    for number in 0..1000 {
        let subject: Arc<str> = format!("https://as.example#user-{number}").into();
        seen.see(&sight(&subject, Rank::Subject, 2 * HOUR + number));
    }
    let count = |prefix: &str| seen.after(None, prefix, 1000).len();
    assert_eq!((count("spiffe://"), count("https://as.example#")), (80, 20));
    assert_eq!(seen.census(), Census { principals: 100, forgotten: 980, refused: 0 });
    // A workload that nobody registered takes the place of a subject of the issuer, or of another such workload.
    for number in 80..200 {
        seen.see(&sight(&workload(number), Rank::Workload, 3 * HOUR + number as u64));
    }
    assert_eq!(seen.census().principals, 100);
    for number in 0..60 {
        assert!(seen.knows(&workload(number)), "{number}");
    }
    // One that is registered finds room as long as anybody else is there, and then that of its own who was not seen longest.
    for number in 200..300 {
        seen.see(&sight(&workload(number), Rank::Registered, 4 * HOUR + number as u64));
    }
    assert!(seen.knows(&workload(299)) && seen.census().refused == 0);
    let other: Arc<str> = "https://other.example#x".into();
    let full = Seen::new(2);
    for number in 0..2 {
        full.see(&sight(&workload(number), Rank::Registered, HOUR));
    }
    full.see(&sight(&other, Rank::Subject, HOUR));
    assert_eq!(full.census(), Census { principals: 2, forgotten: 0, refused: 1 });
    let long: Arc<str> = format!("https://other.example#{}", "x".repeat(NAME)).into();
    let empty = Seen::new(2);
    empty.see(&sight(&long, Rank::Subject, HOUR));
    assert_eq!(empty.census(), Census { principals: 0, forgotten: 0, refused: 1 });
    full.see(&sight(&workload(0), Rank::Registered, HOUR));
    assert_eq!(full.find(&workload(0)).unwrap().allowed, 2);
}

#[test]
fn one_domain_takes_no_more_than_its_share_from_another() {
    let seen = Seen::new(100);
    let of = |domain: &str, number: usize| -> Arc<str> { format!("spiffe://{domain}.org/w{number}").into() };
    for number in 0..100 {
        seen.see(&sight(&of("a", number), Rank::Workload, HOUR));
    }
    for number in 0..500 {
        seen.see(&sight(&of("b", number), Rank::Workload, 2 * HOUR + number as u64));
    }
    let count = |prefix: &str| seen.after(None, prefix, 1000).len();
    assert_eq!((count("spiffe://a.org/"), count("spiffe://b.org/")), (50, 50));
    assert!(seen.knows(&of("b", 499)));
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// How much each of so many principals takes, that did so many actions.
fn bytes_each(count: usize, actions: usize) -> usize {
    let seen = Seen::new(count);
    let names: Vec<Arc<str>> = (0..actions).map(|number| format!("action-{number}").into()).collect();
    let before = resident();
    let began = std::time::Instant::now();
    for number in 0..count {
        let principal = workload(number);
        for action in &names {
            seen.see(&Sight { action: Some(action), ..sight(&principal, Rank::Workload, HOUR) });
        }
    }
    let noted = began.elapsed();
    let each = resident().saturating_sub(before) / count;
    let began = std::time::Instant::now();
    let last = seen.after(Some(&workload(count - 1)), "", 1).len() + seen.after(None, "spiffe://", 1000).len();
    println!(
        "{count} principals with {actions} actions: {each} bytes each, {} ns to note one, {} µs for a page ({last})",
        noted.as_nanos() / (count * actions) as u128,
        began.elapsed().as_micros()
    );
    assert_eq!(seen.census().principals, count);
    each
}

#[test]
fn a_principal_takes_little_memory() {
    // What the allocator and the tree add, the long test below measures: here others take and give memory at the same time.
    let (own, action) = (size_of::<Principal>(), size_of::<Count>());
    println!("{own} bytes for a principal and {action} for each of its actions, besides its name");
    assert!(own <= 144 && action <= 16, "{own} {action}");
}

#[test]
#[ignore = "takes 400 MB, and alone"]
fn a_million_principals_take_little_memory() {
    let each = bytes_each(1_000_000, 4);
    assert!(each < 400, "{each}");
}
