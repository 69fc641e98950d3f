//! Who may ask and approve, what a grant covers and when it ends, and what survives a restart, a crash and a clock.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::{
    action::{Resource, catalogue::Catalogue},
    config::{MemoryState, State},
    state::JournalError,
    verdict::Protocol,
};

const NOW: Now = Now::from_seconds(1_800_000_000);
const AGENT: &str = "spiffe://example.org/ns/shop/sa/agent";
const OWNER: Option<&str> = Some("team-shop");

fn at(seconds: u64) -> Now {
    NOW.after(Duration::from_secs(seconds))
}

/// Grants with the log that they stand in.
struct Kept {
    journal: Journal,
    grants: Arc<Grants>,
}

impl Kept {
    fn open(state: &State, now: Now) -> Result<Self, JournalError> {
        let grants = Arc::new(Grants::default());
        let journal = Journal::open(state, None, vec![Arc::clone(&grants) as Arc<dyn Fact>], now)?;
        Ok(Self { journal, grants })
    }

    fn volatile() -> Self {
        Self::open(&State::Memory(MemoryState { file: None, volatile: true }), NOW).unwrap()
    }

    fn durable(folder: &Path, now: Now) -> Self {
        let file = Some(folder.join("control.redb"));
        Self::open(&State::Memory(MemoryState { file, volatile: false }), now).unwrap()
    }

    fn request(&self, asked: &Asked, now: Now) -> Result<Arc<Grant>, GrantError> {
        self.grants.request(&self.journal, asked, CEILING, now).map(|(grant, _)| grant)
    }

    fn approve(&self, grant: &Grant, by: &Person, now: Now) -> Result<Arc<Grant>, GrantError> {
        let approving = Approving { grant: grant.id, by, owner: OWNER, ceiling: Some(CEILING) };
        self.grants.approve(&self.journal, approving, now)
    }

    /// Asked for by Alice and approved by Bob.
    fn granted(&self, scope: Scope, now: Now) -> Arc<Grant> {
        let grant = self.request(&asked(scope), now).unwrap();
        self.approve(&grant, &person("bob"), now).unwrap()
    }

    fn live(&self, now: Now) -> usize {
        let now = self.grants.now(now);
        self.grants.current().of(AGENT).iter().filter(|grant| grant.is_live(now)).count()
    }
}

const CEILING: Ceiling = Ceiling { life: Duration::from_secs(3600), uses: None, approvals: 1 };

fn person(name: &str) -> Person {
    Person {
        issuer: "https://people.example".to_owned(),
        subject: format!("sub-{name}"),
        name: format!("{name}@example.org"),
        groups: Vec::new(),
        acr: None,
    }
}

fn scope() -> Scope {
    Scope { actions: vec!["refund".into()], resources: Vec::new(), tenant: None, task: None, max_uses: None }
}

fn asked(scope: Scope) -> Asked {
    Asked {
        request_id: String::new(),
        subject: AGENT.to_owned(),
        owner: OWNER.map(str::to_owned),
        scope,
        life: None,
        reason: "case 4711".to_owned(),
        ticket: String::new(),
        by: Author::Person(person("alice")),
        denied: None,
    }
}

fn closed(now: Now) -> Closed {
    Closed { by: Author::Unix(0), at: now, reason: "done".to_owned() }
}

/// What a call of `refund` does, to the resource.
fn action(resource: Option<Resource>) -> Action {
    let document = json!({"refund": {"match": [{"path": "/refund", "methods": ["POST"]}]}});
    let catalogue = Catalogue::compile(&document).unwrap();
    let action = Action {
        protocol: Protocol::Http,
        entry: catalogue.named("refund").cloned(),
        resource: None,
        params: Vec::new(),
        args_digest: None,
        body_complete: true,
        error: None,
        mcp: None,
    };
    assert!(action.is_known());
    Action { resource, ..action }
}

#[test]
fn a_grant_is_asked_for_approved_by_another_and_ends() {
    let kept = Kept::volatile();
    let open = kept.request(&asked(scope()), NOW).unwrap();
    assert_eq!((open.standing(NOW), kept.live(NOW)), (Standing::Open, 0), "a request permits nothing");
    let granted = kept.approve(&open, &person("bob"), at(10)).unwrap();
    assert_eq!((granted.standing(at(10)), granted.until(), kept.live(at(10))), (Standing::Live, Some(at(3610)), 1));
    assert_eq!((kept.live(at(3609)), kept.live(at(3610))), (1, 0));
    let ended = kept.grants.close(&kept.journal, granted.id, &closed(at(20)), false).unwrap();
    assert_eq!((ended.standing(at(20)), kept.live(at(20))), (Standing::Ended, 0));
    let again = kept.grants.close(&kept.journal, granted.id, &closed(at(21)), false);
    assert!(matches!(again, Err(GrantError::OverAlready(Standing::Ended))));

    let denied = kept.request(&asked(scope()), at(30)).unwrap();
    kept.grants.close(&kept.journal, denied.id, &closed(at(31)), true).unwrap();
    assert!(matches!(kept.approve(&denied, &person("bob"), at(32)), Err(GrantError::NotOpen(Standing::Denied))));
    let late = kept.request(&asked(scope()), at(40)).unwrap();
    let day = at(40 + 24 * 3600);
    assert!(matches!(kept.approve(&late, &person("bob"), day), Err(GrantError::NotOpen(Standing::Lapsed))));
    assert!(matches!(kept.grants.find(Uuid::nil()), Err(GrantError::Unknown)));
}

#[test]
fn who_asks_owns_or_is_granted_does_not_approve() {
    let kept = Kept::volatile();
    let open = kept.request(&asked(scope()), NOW).unwrap();
    let same_name = Person { issuer: "https://other.example".to_owned(), ..person("alice") };
    let same_subject = Person { name: "alias@example.org".to_owned(), ..person("alice") };
    let owner = Person { name: "team-shop".to_owned(), ..person("carol") };
    let of_owning_group = Person { groups: vec!["x".to_owned(), "team-shop".to_owned()], ..person("carol") };
    let subject = Person { name: AGENT.to_owned(), ..person("carol") };
    let by = |by: &Person, owner, ceiling| {
        let approving = Approving { grant: open.id, by, owner, ceiling };
        kept.grants.approve(&kept.journal, approving, at(1)).unwrap_err().to_string()
    };
    let lower = Ceiling { life: Duration::from_secs(60), ..CEILING };
    let limited = Ceiling { uses: Some(3), ..CEILING };
    let bob = person("bob");
    let refusals = [
        by(&person("alice"), OWNER, Some(CEILING)),
        by(&same_name, OWNER, Some(CEILING)),
        by(&same_subject, OWNER, Some(CEILING)),
        by(&owner, OWNER, Some(CEILING)),
        by(&of_owning_group, OWNER, Some(CEILING)),
        by(&subject, OWNER, Some(CEILING)),
        by(&bob, None, Some(CEILING)),
        by(&bob, Some(""), Some(CEILING)),
        by(&bob, OWNER, None),
        by(&bob, OWNER, Some(lower)),
        by(&bob, OWNER, Some(limited)),
    ];
    let words =
        ["asked", "asked", "asked", "owns", "owns", "is for", "no owner", "no owner", "catalogue", "catalogue", "catalogue"];
    for (refusal, word) in refusals.iter().zip(words) {
        assert!(refusal.contains(word), "{refusal}: {word}");
    }
    assert_eq!((kept.live(at(1)), kept.grants.find(open.id).unwrap().approvals.len()), (0, 0));
    kept.approve(&open, &bob, at(2)).unwrap();
    assert_eq!(kept.live(at(2)), 1);
}

#[test]
fn critical_actions_need_two_people() {
    let kept = Kept::volatile();
    let two = Ceiling { approvals: 2, ..CEILING };
    let open = kept.grants.request(&kept.journal, &asked(scope()), two, NOW).unwrap().0;
    let approve = |who: &str, seconds| {
        let by = person(who);
        kept.grants.approve(&kept.journal, Approving { grant: open.id, by: &by, owner: OWNER, ceiling: Some(two) }, at(seconds))
    };
    assert_eq!(approve("bob", 1).unwrap().standing(at(1)), Standing::Open);
    assert!(matches!(approve("bob", 2), Err(GrantError::Twice(2))));
    assert!(matches!(approve("alice", 2), Err(GrantError::Requester)));
    assert_eq!(kept.live(at(2)), 0);
    assert_eq!(approve("carol", 3).unwrap().standing(at(3)), Standing::Live);
    // An action that became critical after it was asked for needs two all the same.
    let open = kept.request(&asked(scope()), at(10)).unwrap();
    let by = person("dave");
    let approving = Approving { grant: open.id, by: &by, owner: OWNER, ceiling: Some(two) };
    assert_eq!(kept.grants.approve(&kept.journal, approving, at(11)).unwrap().standing(at(11)), Standing::Open);
}

#[test]
fn who_asks_and_takes_back_without_end_stands_in_nobody_s_way() {
    let kept = Kept::volatile();
    let own = Asked { by: Author::Workload(AGENT.to_owned()), ..asked(scope()) };
    let refused = (0..=MAX_OF_REQUESTER).find_map(|_| match kept.request(&own, NOW) {
        Ok(open) => kept.grants.close(&kept.journal, open.id, &closed(NOW), false).map(|_| ()).err(),
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(GrantError::TooManyOfRequester)), "{refused:?}");
    assert_eq!(kept.grants.list(0, usize::MAX, |_| true).len(), MAX_OF_REQUESTER);
    kept.request(&asked(scope()), NOW).unwrap();
    Fact::sweep(&*kept.grants, at(24 * 3600));
    kept.request(&own, at(24 * 3600)).unwrap();
}

#[test]
fn people_are_held_apart_however_their_names_are_written() {
    let kept = Kept::volatile();
    let open = kept.request(&asked(scope()), NOW).unwrap();
    let elsewhere = |name: &str| Person { issuer: "https://other.example".to_owned(), name: name.to_owned(), ..person("x") };
    assert!(matches!(kept.approve(&open, &elsewhere("Alice@Example.org"), at(1)), Err(GrantError::Requester)));
    assert!(matches!(kept.approve(&open, &elsewhere("Team-Shop"), at(1)), Err(GrantError::Owner)));
    let member = Person { groups: vec!["TEAM-SHOP".to_owned()], ..person("bob") };
    assert!(matches!(kept.approve(&open, &member, at(1)), Err(GrantError::Owner)));
    kept.approve(&open, &person("bob"), at(1)).unwrap();
}

#[test]
fn nobody_renews_for_themselves() {
    let kept = Kept::volatile();
    let own = Asked { by: Author::Workload(AGENT.to_owned()), ..asked(scope()) };
    let first = kept.request(&own, NOW).unwrap();
    kept.approve(&first, &person("bob"), NOW).unwrap();
    assert!(matches!(kept.request(&own, at(1)), Err(GrantError::SelfRenewal)));
    let other_task = Asked { scope: Scope { task: Some("t".into()), ..scope() }, ..own.clone() };
    kept.request(&other_task, at(1)).unwrap();
    let renewal = kept.request(&asked(scope()), at(2)).unwrap();
    assert!(matches!(kept.approve(&renewal, &person("bob"), at(3)), Err(GrantError::Renewal)));
    kept.approve(&renewal, &person("carol"), at(3)).unwrap();
    // What was asked for after the end is no renewal.
    let later = kept.request(&own, at(7300)).unwrap();
    kept.approve(&later, &person("bob"), at(7301)).unwrap();
}

#[test]
fn what_is_not_in_order_is_not_asked_for() {
    let kept = Kept::volatile();
    let refused = |change: &dyn Fn(&mut Asked)| {
        let mut wrong = asked(scope());
        change(&mut wrong);
        kept.request(&wrong, NOW).map(|_| ()).unwrap_err().to_string()
    };
    let long = "x".repeat(2000);
    for (change, word) in [
        (&(|asked: &mut Asked| asked.by = Author::Unix(0)) as &dyn Fn(&mut Asked), "user id"),
        (&|asked| asked.by = Author::Workload("spiffe://example.org/other".to_owned()), "itself only"),
        (&|asked| asked.subject = "agent".to_owned(), "SPIFFE ID"),
        (&|asked| asked.subject = "spiffe://example.org/ns/*".to_owned(), "SPIFFE ID"),
        (&|asked| asked.scope.actions.clear(), "actions"),
        (&|asked| asked.scope.actions = (0..17).map(|n| n.to_string().into()).collect(), "actions"),
        (&|asked| asked.scope.resources = vec!["*".into()], "resource"),
        (&|asked| asked.scope.resources = vec!["a/*b".into()], "resource"),
        (&|asked| asked.scope.resources = vec!["a/".into()], "resource"),
        (&|asked| asked.scope.task = Some("".into()), "task"),
        (&|asked| asked.reason = " ".to_owned(), "reason"),
        (&|asked| asked.reason.clone_from(&long), "reason"),
        (&|asked| asked.ticket.clone_from(&long), "ticket"),
        (&|asked| asked.ticket = "\u{1b}[2J".to_owned(), "control characters"),
        (&|asked| asked.reason = "fine\u{7}".to_owned(), "control characters"),
        (&|asked| asked.reason = "\u{202e}on saw reworeht".to_owned(), "control characters"),
        (&|asked| asked.scope.task = Some("t\0".into()), "control characters"),
        (&|asked| asked.scope.tenant = Some("a\nb".into()), "control characters"),
        (&|asked| asked.request_id = "a\u{9f}".to_owned(), "control characters"),
        (&|asked| asked.scope.resources = vec!["a/\r".into()], "resource"),
        (&|asked| asked.life = Some(Duration::from_secs(3601)), "3600 s"),
        (&|asked| asked.life = Some(Duration::ZERO), "3600 s"),
        (&|asked| asked.scope.max_uses = Some(0), "uses"),
        (&|asked| asked.scope.max_uses = Some(MAX_USES + 1), "uses"),
    ] {
        let told = refused(change);
        assert!(told.contains(word), "{told}: {word}");
    }
    let limited = Ceiling { uses: Some(2), ..CEILING };
    let unlimited = kept.grants.request(&kept.journal, &asked(scope()), limited, NOW);
    assert!(matches!(unlimited, Err(GrantError::Uses(2))), "the catalogue wants a number");
    assert_eq!(kept.grants.list(0, 10, |_| true).len(), 0);
    let none = Kept::open(&State::default(), NOW).unwrap();
    assert!(matches!(none.request(&asked(scope()), NOW), Err(GrantError::State(_))));
}

#[test]
fn a_request_is_carried_out_once_and_tables_are_bounded() {
    let kept = Kept::volatile();
    let named = Asked { request_id: "r1".to_owned(), ..asked(scope()) };
    let (first, repeated) = kept.grants.request(&kept.journal, &named, CEILING, NOW).unwrap();
    assert!(!repeated);
    let (again, repeated) = kept.grants.request(&kept.journal, &named, CEILING, at(5)).unwrap();
    assert!(repeated && again.id == first.id);
    let other = Asked { reason: "another".to_owned(), ..named };
    assert!(matches!(kept.request(&other, NOW), Err(GrantError::OtherRequest)));

    let denied = Denied { decision: "d1".to_owned(), action: "refund".to_owned(), resource: None, tenant: None };
    let from_denial = Asked { denied: Some(denied), ..asked(scope()) };
    kept.request(&from_denial, NOW).unwrap();
    assert!(matches!(kept.request(&from_denial, NOW), Err(GrantError::Replayed)));
    for _ in 0..OPEN_OF_SUBJECT - 2 {
        kept.request(&asked(scope()), NOW).unwrap();
    }
    assert!(matches!(kept.request(&asked(scope()), NOW), Err(GrantError::TooManyOpen(_))));
    let of = |number: usize| Asked { subject: format!("{AGENT}/{number}"), ..asked(scope()) };
    let open = (0..OPEN_OF_OWNER).take_while(|number| kept.request(&of(*number), NOW).is_ok()).count();
    assert_eq!(open + OPEN_OF_SUBJECT, OPEN_OF_OWNER, "one owner's subjects share a bound");
    let elsewhere = Asked { owner: Some("others".to_owned()), ..of(1000) };
    kept.request(&elsewhere, NOW).unwrap();
    let unowned = |number: usize| Asked { owner: None, ..of(2000 + number) };
    let open = (0..=OPEN_OF_OWNER).take_while(|number| kept.request(&unowned(*number), NOW).is_ok()).count();
    assert_eq!(open, OPEN_OF_OWNER, "so do those of nobody");
}

#[test]
fn a_grant_covers_what_it_says_and_no_more() {
    let kept = Kept::volatile();
    let resource = |kind: &str, id: Option<&str>, tenant: Option<&str>| {
        Some(Resource { kind: kind.into(), id: id.map(str::to_owned), tenant: tenant.map(str::to_owned), hash: 0 })
    };
    let customer = |id| resource("customer", Some(id), Some("acme"));
    for (scope, covered, not) in [
        (scope(), vec![None, customer("42")], vec![]),
        (
            Scope { resources: vec!["customer/42".into(), "order".into()], ..scope() },
            vec![customer("42"), resource("order", None, None), resource("order", Some("1"), None)],
            vec![None, customer("421"), customer("4"), resource("customer", None, None), resource("orders", None, None)],
        ),
        (Scope { resources: vec!["customer/4*".into()], ..scope() }, vec![customer("4"), customer("42")], vec![customer("5")]),
        (
            Scope { tenant: Some("acme".into()), ..scope() },
            vec![customer("1")],
            vec![None, resource("customer", Some("1"), None), resource("customer", Some("1"), Some("other"))],
        ),
    ] {
        let grant = kept.granted(scope, NOW);
        for found in covered {
            assert!(grant.covers(&action(found.clone()), None), "{:?} {found:?}", grant.scope);
        }
        for found in not {
            assert!(!grant.covers(&action(found.clone()), None), "{:?} {found:?}", grant.scope);
        }
        kept.grants.close(&kept.journal, grant.id, &closed(NOW), false).unwrap();
    }
    let other = kept.granted(Scope { actions: vec!["refunds".into()], ..scope() }, NOW);
    assert!(!other.covers(&action(None), None));
    let for_task = kept.granted(Scope { task: Some("t1".into()), ..scope() }, NOW);
    let covers = |task| for_task.covers(&action(None), task);
    assert!(covers(Some("t1")) && !covers(Some("t2")) && !covers(None));
}

#[test]
fn each_use_counts_and_none_is_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::durable(folder.path(), NOW);
    let grant = kept.granted(Scope { max_uses: Some(3), ..scope() }, NOW);
    let used = |kept: &Kept, seconds| kept.grants.use_once(&kept.journal, grant.id, Uuid::now_v7(), at(seconds));
    used(&kept, 1).unwrap();
    used(&kept, 1).unwrap();
    assert_eq!(kept.grants.find(grant.id).unwrap().uses_left(), Some(1));
    drop(kept);
    // What was used stays used, also for another process that reads the same log.
    let kept = Kept::durable(folder.path(), at(2));
    let second = Kept::durable(folder.path(), at(2));
    used(&second, 3).unwrap();
    assert!(matches!(used(&kept, 4), Err(GrantError::UsedUp)), "the other's use is taken in first");
    assert_eq!((kept.live(at(4)), second.live(at(4))), (0, 0));

    let racy = Kept::volatile();
    let grant = racy.granted(Scope { max_uses: Some(10), ..scope() }, NOW);
    let through: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let try_one = || racy.grants.use_once(&racy.journal, grant.id, Uuid::now_v7(), at(1)).is_ok();
                scope.spawn(move || (0..25).filter(|_| try_one()).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(through, 10);
}

#[test]
fn a_task_ends_with_all_that_was_granted_for_it() {
    let kept = Kept::volatile();
    let in_task = |task: &str| Scope { task: Some(task.into()), ..scope() };
    let first = kept.granted(in_task("t1"), NOW);
    let open = kept.request(&asked(in_task("t1")), NOW).unwrap();
    let other = kept.granted(in_task("t2"), NOW);
    assert!(matches!(kept.grants.end_task(&kept.journal, "t3", None, &closed(at(1))), Err(GrantError::UnknownTask)));
    let elsewhere = kept.grants.end_task(&kept.journal, "t1", Some("spiffe://example.org/other"), &closed(at(1)));
    assert!(matches!(elsewhere, Err(GrantError::UnknownTask)));
    let ended = kept.grants.end_task(&kept.journal, "t1", None, &closed(at(1))).unwrap();
    assert_eq!(ended.len(), 2);
    let standing = |grant: &Grant| kept.grants.find(grant.id).unwrap().standing(at(2));
    assert_eq!([&first, &open, &other].map(|grant| standing(grant)), [Standing::Ended, Standing::Ended, Standing::Live]);
    let of_task = |task: &str| kept.grants.current().of(AGENT).iter().any(|known| known.scope.task.as_deref() == Some(task));
    assert!(!of_task("t1") && of_task("t2"));
    let subject: Arc<str> = AGENT.into();
    let has_ended = |task: &str| kept.grants.current().has_ended(&subject, task);
    assert!(has_ended("t1") && !has_ended("t2") && !has_ended("t3"));
    // With the time of its grants a task is not over.
    Fact::sweep(&*kept.grants, at(4000));
    assert!(of_task("t2") && kept.live(at(4000)) == 0);
    Fact::sweep(&*kept.grants, at(3600 + 24 * 3600));
    assert!(!of_task("t2") && !has_ended("t1"));
    assert_eq!(kept.grants.list(0, 10, |_| true).len(), 0, "a day after their end all are forgotten");
}

#[test]
fn grants_survive_a_restart_and_a_clock_that_is_set_brings_none_back() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::durable(folder.path(), NOW);
    let live = kept.granted(scope(), NOW);
    let open = kept.request(&Asked { request_id: "r".to_owned(), ..asked(scope()) }, at(1)).unwrap();
    let ended = kept.granted(Scope { task: Some("t".into()), ..scope() }, at(2));
    kept.grants.close(&kept.journal, ended.id, &closed(at(3)), false).unwrap();
    drop(kept);
    let kept = Kept::durable(folder.path(), at(4));
    let standing = |kept: &Kept, grant: &Grant, seconds| kept.grants.find(grant.id).unwrap().standing(at(seconds));
    assert_eq!(standing(&kept, &live, 4), Standing::Live);
    assert_eq!((standing(&kept, &open, 4), standing(&kept, &ended, 4)), (Standing::Open, Standing::Ended));
    let (again, repeated) =
        kept.grants.request(&kept.journal, &Asked { request_id: "r".to_owned(), ..asked(scope()) }, CEILING, at(5)).unwrap();
    assert!(repeated && again.id == open.id);
    // 30 s forward, and back again.
    Fact::sweep(&*kept.grants, at(3599));
    assert_eq!(kept.live(at(3599)), 1);
    Fact::sweep(&*kept.grants, at(3601));
    assert_eq!((kept.live(at(3571)), kept.live(at(3601))), (0, 0), "what has ended stays so");
    let renewed = kept.request(&asked(scope()), at(3571)).unwrap();
    let renewed = kept.approve(&renewed, &person("carol"), at(3571)).unwrap();
    assert_eq!(renewed.until(), Some(at(3571 + 3600)), "no longer than it was asked for");
    let other_task = Scope { task: Some("t2".into()), ..scope() };
    let short = kept.request(&Asked { life: Some(Duration::from_secs(30)), ..asked(other_task) }, at(3571)).unwrap();
    assert!(matches!(kept.approve(&short, &person("carol"), at(3571)), Err(GrantError::Clock)), "it would be over by now");
    assert_eq!(kept.approve(&short, &person("carol"), at(3572)).unwrap().until(), Some(at(3602)));
}

#[test]
fn nothing_is_granted_when_the_log_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::durable(folder.path(), NOW);
    let limited = kept.granted(Scope { max_uses: Some(1), ..scope() }, NOW);
    let open = kept.request(&asked(Scope { task: Some("t".into()), ..scope() }), NOW).unwrap();
    std::fs::write(folder.path().join("control.redb"), b"broken").unwrap();
    let use_it = kept.grants.use_once(&kept.journal, limited.id, Uuid::nil(), at(1));
    assert!(matches!(use_it, Err(GrantError::State(_))), "{use_it:?}");
    assert!(matches!(kept.approve(&open, &person("bob"), at(1)), Err(GrantError::State(_))));
    assert!(matches!(kept.request(&asked(scope()), at(1)), Err(GrantError::State(_))));
    assert_eq!(kept.grants.find(open.id).unwrap().standing(at(1)), Standing::Open);
}

#[test]
fn request_tokens_are_of_one_denial_one_caller_and_ten_minutes() {
    let tokens = request_token::RequestTokens::new().unwrap();
    let denied = Denied { decision: "d".to_owned(), action: "a".to_owned(), resource: Some("r/1".to_owned()), tenant: None };
    let token = tokens.make(AGENT, denied.clone(), NOW);
    assert_eq!((tokens.read(&token.text, AGENT, at(599)), token.expires_at), (Ok(denied), at(600)));
    use request_token::RequestTokenError::{Expired, Forged, Stolen};
    assert_eq!(tokens.read(&token.text, AGENT, at(600)), Err(Expired));
    assert_eq!(tokens.read(&token.text, "spiffe://example.org/other", NOW), Err(Stolen));
    let other = request_token::RequestTokens::new().unwrap();
    assert_eq!(other.read(&token.text, AGENT, NOW), Err(Forged), "a restart makes them void");
    let (claims, mac) = token.text.split_once('.').unwrap();
    for forged in
        [String::new(), ".".to_owned(), claims.to_owned(), format!("{claims}."), format!("x{claims}.{mac}"), "x".repeat(9000)]
    {
        assert_eq!(tokens.read(&forged, AGENT, NOW), Err(Forged), "{forged}");
    }
    assert!(!format!("{tokens:?}").contains(mac), "the key is not shown");
}

#[test]
fn many_grants_are_kept_found_and_swept() {
    let kept = Kept::volatile();
    for number in 0..5_000_usize {
        let asked = Asked {
            subject: format!("spiffe://example.org/w/{number}"),
            owner: Some(number.to_string()),
            life: Some(Duration::from_secs(if number % 2 == 0 { 60 } else { 3600 })),
            ..asked(scope())
        };
        let grant = kept.request(&asked, NOW).unwrap();
        kept.approve(&grant, &person("bob"), NOW).unwrap();
    }
    assert_eq!(kept.grants.current().len(), 5_000);
    kept.journal.follow(at(60)).unwrap();
    assert_eq!(kept.grants.current().len(), 2_500);
    let page = kept.grants.list(0, 3, |grant| grant.is_live(at(60)));
    assert_eq!(page.iter().map(|grant| &*grant.subject).collect::<Vec<_>>().len(), 3);
}
