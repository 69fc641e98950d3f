//! What each selector refuses and what it does not, floors on both sides of a fresh credential, and what survives.

use std::{fs, ops::Deref, path::Path};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    config::{MemoryState, State, Trust},
    identity::{
        Peer, X509,
        delegation::Delegation,
        token::{Binding, Confirmation, Kind, Token, Validity},
        tokens::{Bound, Presented},
        x509,
    },
    state::{JournalError, Log},
    verdict::Evidence,
};

const NOW: Now = Now::from_seconds(1_800_000_000);
const AGENT: &str = "spiffe://example.org/ns/shop/sa/agent";

fn at(seconds: i64) -> Now {
    Now::from_seconds(u64::try_from(NOW.seconds() + seconds).unwrap())
}

/// Revocations with the log that they stand in.
#[derive(Debug)]
struct Kept {
    journal: Journal,
    revocations: Arc<Revocations>,
}

impl Deref for Kept {
    type Target = Revocations;

    fn deref(&self) -> &Revocations {
        &self.revocations
    }
}

impl Kept {
    fn open(state: &State, now: Now) -> Result<Self, JournalError> {
        let revocations = Arc::new(Revocations::default());
        let journal = Journal::open(state, None, vec![Arc::clone(&revocations) as Arc<dyn Fact>], now)?;
        Ok(Self { journal, revocations })
    }

    fn revoke(&self, asked: &Asked, now: Now) -> Result<Revoked, RevokeError> {
        self.revocations.revoke(&self.journal, asked, now)
    }

    fn follow(&self, now: Now) -> Result<bool, StateError> {
        self.journal.follow(now)
    }

    fn find(&self, id: Uuid, now: Now) -> Option<Arc<Revocation>> {
        self.list(0, 1, now, |revocation| revocation.id == id).pop()
    }
}

fn volatile() -> Kept {
    Kept::open(&State::Memory(MemoryState { file: None, volatile: true }), NOW).unwrap()
}

fn durable(folder: &Path, now: Now) -> Result<Kept, JournalError> {
    Kept::open(&State::Memory(MemoryState { file: Some(folder.join("control.redb")), volatile: false }), now)
}

fn asked(selector: Selector) -> Asked {
    let (request_id, reason, author) = (String::new(), "case 4711".to_owned(), "uid 1".to_owned());
    Asked { request_id, selector, issued_before: None, reason, author, life: DEFAULT_LIFE }
}

/// An SVID, issued at `issued` by an authority that dates back by 10 s.
fn peer(id: &str, issued: i64) -> Peer {
    let x509 = X509 {
        sha256: "ab".repeat(32).into(),
        serial: "0aff".to_owned(),
        issuer: "CN=authority".to_owned(),
        not_before: issued - 10,
        not_after: issued + 3600,
    };
    Peer::new(x509::workload(id).unwrap(), Evidence::Sidecar, Some(x509))
}

fn token(kind: Kind, subject: &str, claims: Value) -> Token {
    let Value::Object(claims) = claims else { panic!("{claims}") };
    Token {
        kind,
        issuer: Some("https://as.example".to_owned()),
        subject: subject.to_owned(),
        claims,
        jti: Some("j1".to_owned()),
        fingerprint: "cd".repeat(32).into(),
        confirmation: Confirmation::default(),
        identity: None,
        validity: Validity { from: 0, until: i64::MAX, renewed_by: None, leeway: 0 },
        shown: crate::json::Shown::default(),
    }
}

/// What one call brings.
#[derive(Default)]
struct Call {
    peer: Option<Peer>,
    presented: Presented,
    owner: Option<&'static str>,
    session: Option<u64>,
    task: Option<&'static str>,
    grants: Vec<&'static str>,
    trust: Trust,
}

impl Call {
    fn by(peer: Peer) -> Self {
        Self { peer: Some(peer), ..Self::default() }
    }

    fn with(token: Token) -> Self {
        let tokens = vec![Bound { token: Arc::new(token), binding: Binding::None }];
        Self { presented: Presented { tokens, main: Some(0), delegation: None }, ..Self::default() }
    }

    fn check(&self, revocations: &Revocations, now: Now) -> Option<Uuid> {
        let facts = Facts {
            peer: self.peer.as_ref(),
            presented: &self.presented,
            owner: self.owner,
            session: self.session,
            task: self.task,
            grants: &self.grants,
            backdates: &Backdates::new(&self.trust),
        };
        revocations.current().check(&facts, now).map(|hit| hit.id)
    }
}

fn revocation(id: &str) -> Revocation {
    let revocations = volatile();
    Revocation::clone(&revocations.revoke(&asked(Selector::spiffe_id(id).unwrap()), NOW).unwrap().revocation)
}

fn agent() -> Call {
    Call::by(peer(AGENT, NOW.seconds()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn each_selector_refuses_its_own_and_nobody_else() {
    let jwt = || token(Kind::AccessToken, "alice", json!({}));
    let svid = |id: &str| Call::with(token(Kind::JwtSvid, id, json!({})));
    let mut key = token(Kind::ApiKey, "k", json!({"owner": "eve"}));
    (key.issuer, key.jti) = (None, None);
    let mut mapped = jwt();
    mapped.identity = Some(AGENT.to_owned());
    let no_issuer = Token { issuer: None, ..jwt() };
    let mut delegated = Call::with(jwt());
    delegated.presented.delegation =
        Some(Delegation { from: "act", subject: "alice".to_owned(), actors: vec!["other".to_owned(), AGENT.to_owned()] });
    let owned = |owner| Call { owner: Some(owner), ..agent() };
    let others = Call::by(peer("spiffe://example.org/ns/shop/sa/agent2", NOW.seconds()));
    let foreign = Call::by(peer("spiffe://other.org/ns/shop/sa/agent", NOW.seconds()));
    let strange = |change: fn(&mut X509)| {
        let mut call = agent();
        change(call.peer.as_mut().unwrap().x509.as_mut().unwrap());
        call
    };
    let selector = |made: Result<Selector, SelectorError>| made.unwrap();
    for (selector, refused, let_be) in [
        (
            selector(Selector::spiffe_id(AGENT)),
            vec![agent(), svid(AGENT), Call::with(mapped), delegated],
            vec![Call::default(), svid("spiffe://example.org/other")],
        ),
        (
            selector(Selector::prefix("spiffe://example.org/ns/shop")),
            vec![agent(), svid(AGENT)],
            vec![Call::by(peer("spiffe://example.org/ns/shopping/sa/a", 0))],
        ),
        (selector(Selector::trust_domain("example.org")), vec![agent(), svid(AGENT)], vec![Call::with(jwt())]),
        (
            selector(Selector::certificate(&"AB".repeat(32))),
            vec![agent()],
            vec![strange(|x509| x509.sha256 = "cd".repeat(32).into()), Call::with(jwt())],
        ),
        (
            selector(Selector::serial("CN=authority", "0A:FF")),
            vec![agent()],
            vec![strange(|x509| x509.issuer = "CN=other".to_owned()), strange(|x509| x509.serial = "0afe".to_owned())],
        ),
        (
            selector(Selector::jti("https://as.example", "j1")),
            vec![Call::with(jwt())],
            vec![Call::with(no_issuer.clone()), Call::with(key.clone()), agent()],
        ),
        (selector(Selector::jti("", "j1")), vec![Call::with(no_issuer)], vec![Call::with(jwt())]),
        (
            selector(Selector::fingerprint(&"cd".repeat(32))),
            vec![Call::with(jwt()), Call::with(key.clone())],
            vec![Call::with(Token { fingerprint: "ab".repeat(32).into(), ..jwt() }), agent()],
        ),
        (
            selector(Selector::session("00000000000000ff")),
            vec![Call { session: Some(255), ..agent() }],
            vec![Call { session: Some(254), ..agent() }, agent()],
        ),
        (
            selector(Selector::task("t1")),
            vec![Call { task: Some("t1"), ..agent() }],
            vec![Call { task: Some("t2"), grants: vec!["t1"], ..agent() }],
        ),
        (
            selector(Selector::grant("g1")),
            vec![Call { grants: vec!["g0", "g1"], ..agent() }],
            vec![Call { grants: vec!["g0"], task: Some("g1"), ..agent() }],
        ),
        (selector(Selector::owner("eve")), vec![owned("eve"), Call::with(key)], vec![owned("adam"), agent()]),
    ] {
        let revocations = volatile();
        assert_eq!(agent().check(&revocations, NOW), None, "nothing is revoked yet");
        let id = revocations.revoke(&asked(selector.clone()), NOW).unwrap().revocation.id;
        for (number, call) in refused.iter().enumerate() {
            assert_eq!(call.check(&revocations, NOW), Some(id), "{selector}: {number}");
        }
        // They have the same certificate here.
        let by_certificate = matches!(selector, Selector::Certificate(_) | Selector::Serial { .. });
        let others = [&foreign, &others].into_iter().take(if selector.is_broad() { 1 } else { 2 });
        for (number, call) in let_be.iter().chain(others.filter(|_| !by_certificate)).enumerate() {
            assert_eq!(call.check(&revocations, NOW), None, "{selector}: {number}");
        }
    }
}

#[test]
fn a_floor_lets_be_what_was_issued_after_it() {
    let floor = NOW.seconds();
    let no_certificate = Peer::new(x509::workload(AGENT).unwrap(), Evidence::Envoy, None);
    let svid = |claims: Value| Call::with(token(Kind::JwtSvid, AGENT, claims));
    let slow: Trust = serde_saphyr::from_str("domains: {example.org: {bundle: b, backdate: 60s}}").unwrap();
    let backdated = |issued: i64| Call { trust: slow.clone(), ..Call::by(peer(AGENT, issued)) };
    for selector in
        [Selector::spiffe_id(AGENT), Selector::prefix("spiffe://example.org/ns"), Selector::trust_domain("example.org")]
    {
        let revocations = volatile();
        let asked = Asked { issued_before: Some(floor), ..asked(selector.unwrap()) };
        revocations.revoke(&asked, NOW).unwrap();
        for (what, call, refused) in [
            ("a fresh SVID", Call::by(peer(AGENT, floor)), false),
            ("one of a second before", Call::by(peer(AGENT, floor - 1)), true),
            ("an old one", Call::by(peer(AGENT, floor - 3600)), true),
            ("one of an authority that dates back further", backdated(floor - 50), false),
            ("an old one of it", backdated(floor - 51), true),
            ("a peer without a certificate", Call::by(no_certificate.clone()), true),
            ("a fresh JWT-SVID", svid(json!({"iat": floor})), false),
            ("a fraction", svid(json!({"iat": floor as f64 + 0.5})), false),
            ("an old JWT-SVID", svid(json!({"iat": floor - 1})), true),
            ("one that does not say when", svid(json!({})), true),
            ("one that says nonsense", svid(json!({"iat": "now"})), true),
            ("somebody else's", Call::by(peer("spiffe://other.org/a", 0)), false),
        ] {
            assert_eq!(call.check(&revocations, NOW).is_some(), refused, "{what} by {}", asked.selector);
        }
    }
    let revocations = volatile();
    let owner = Asked { issued_before: Some(floor), ..asked(Selector::owner("eve").unwrap()) };
    revocations.revoke(&owner, NOW).unwrap();
    let owned = |issued| Call { owner: Some("eve"), ..Call::by(peer(AGENT, issued)) };
    assert!(owned(floor - 1).check(&revocations, NOW).is_some() && owned(floor).check(&revocations, NOW).is_none());
    let session = Asked { issued_before: Some(floor), ..asked(Selector::session("00000000000000ff").unwrap()) };
    assert!(matches!(revocations.revoke(&session, NOW), Err(RevokeError::NoFloor)));
}

#[test]
fn the_end_of_a_revocation_is_the_clock_s_to_say() {
    let revocations = volatile();
    let short = Asked { life: Duration::from_secs(60), ..asked(Selector::spiffe_id(AGENT).unwrap()) };
    revocations.revoke(&short, NOW).unwrap();
    // A clock that is set back or forward by 30 s neither delays a revocation nor ends it.
    for (seconds, refused) in [(-30, true), (0, true), (30, true), (59, true), (60, false)] {
        assert_eq!(agent().check(&revocations, at(seconds)).is_some(), refused, "{seconds}");
        revocations.follow(at(seconds).min(at(59))).unwrap();
    }
    assert_eq!(revocations.list(0, 10, at(59), |_| true).len(), 1);
    assert_eq!(revocations.list(0, 10, at(60), |_| true).len(), 0);
    revocations.follow(at(60)).unwrap();
    assert!(revocations.current().is_empty());
    assert_eq!(revocations.current().epoch.map(|epoch| epoch.rev), Some(1));
}

#[test]
fn a_request_is_carried_out_once() {
    let revocations = volatile();
    let request = Asked { request_id: "r1".to_owned(), ..asked(Selector::spiffe_id(AGENT).unwrap()) };
    let first = revocations.revoke(&request, NOW).unwrap();
    let again = revocations.revoke(&request, at(5)).unwrap();
    assert_eq!((first.repeated, again.repeated, &again.revocation), (false, true, &first.revocation));
    let other = Asked { reason: "another".to_owned(), ..request.clone() };
    assert!(matches!(revocations.revoke(&other, NOW), Err(RevokeError::OtherRequest)));
    let nameless = Asked { request_id: String::new(), ..request };
    assert!(!revocations.revoke(&nameless, NOW).unwrap().repeated && !revocations.revoke(&nameless, NOW).unwrap().repeated);
    assert_eq!(revocations.current().len(), 3);
    for wrong in [
        Asked { reason: " ".to_owned(), ..nameless.clone() },
        Asked { reason: "r".repeat(MAX_REASON + 1), ..nameless.clone() },
        Asked { life: Duration::ZERO, ..nameless.clone() },
        Asked { life: MAX_LIFE + Duration::from_secs(1), ..nameless.clone() },
        Asked { request_id: "r".repeat(MAX_REQUEST_ID + 1), ..nameless },
    ] {
        assert!(revocations.revoke(&wrong, NOW).is_err(), "{wrong:?}");
    }
    assert_eq!(revocations.current().len(), 3);
}

#[test]
fn what_was_revoked_is_so_after_a_restart_and_what_has_ended_is_not() {
    let folder = TempDir::new().unwrap();
    let revocations = durable(folder.path(), NOW).unwrap();
    let named = Asked { request_id: "r1".to_owned(), ..asked(Selector::spiffe_id(AGENT).unwrap()) };
    let kept = revocations.revoke(&named, NOW).unwrap();
    let short = Asked { life: Duration::from_secs(60), ..asked(Selector::trust_domain("other.org").unwrap()) };
    revocations.revoke(&short, NOW).unwrap();
    let epoch = revocations.current().epoch;
    drop(revocations);
    let revocations = durable(folder.path(), at(61)).unwrap();
    assert_eq!((revocations.current().epoch, revocations.current().len()), (epoch, 1));
    assert_eq!(agent().check(&revocations, at(61)), Some(kept.revocation.id));
    assert!(revocations.revoke(&named, at(62)).unwrap().repeated, "a request is known across restarts");
    assert_eq!(revocations.find(kept.revocation.id, at(62)), Some(kept.revocation));

    // Another process shares the log.
    let other = durable(folder.path(), at(61)).unwrap();
    let id = other.revoke(&asked(Selector::owner("eve").unwrap()), at(63)).unwrap().revocation.id;
    assert_eq!(revocations.current().len(), 1);
    revocations.follow(at(63)).unwrap();
    assert_eq!(Call { owner: Some("eve"), ..Call::default() }.check(&revocations, at(64)), None, "nobody is owned");
    assert_eq!(Call { owner: Some("eve"), ..Call::by(peer("spiffe://a.org/b", 0)) }.check(&revocations, at(64)), Some(id));
    other.revoke(&asked(Selector::task("t1").unwrap()), at(64)).unwrap();
    revocations.revoke(&asked(Selector::grant("g1").unwrap()), at(65)).unwrap();
    assert_eq!(revocations.current().len(), 4, "the other's is taken in before one's own is appended");
}

#[test]
fn without_a_log_nothing_is_revoked_and_a_log_that_fails_changes_nothing() {
    let none = Kept::open(&State::default(), NOW).unwrap();
    let error = none.revoke(&asked(Selector::spiffe_id(AGENT).unwrap()), NOW).unwrap_err();
    assert!(error.to_string().starts_with("not_durable"), "{error}");
    assert_eq!((none.current().epoch, none.current().len()), (None, 0));

    let folder = TempDir::new().unwrap();
    let revocations = durable(folder.path(), NOW).unwrap();
    let epoch = revocations.current().epoch;
    fs::remove_file(folder.path().join("control.redb")).unwrap();
    assert!(revocations.revoke(&asked(Selector::spiffe_id(AGENT).unwrap()), NOW).is_err());
    assert_eq!((agent().check(&revocations, NOW), revocations.current().epoch), (None, epoch));
    assert!(revocations.follow(NOW).is_err());
}

#[test]
fn a_log_of_a_newer_build_is_refused() {
    let folder = TempDir::new().unwrap();
    let state = State::Memory(MemoryState { file: Some(folder.path().join("control.redb")), volatile: false });
    let (log, _) = Log::open(&state, None).unwrap();
    let older = durable(folder.path(), NOW).unwrap();
    log.append("conjure", b"{}").unwrap();
    let body = serde_json::to_vec(&Body::from(&revocation(AGENT))).unwrap();
    log.append(REVOKE, &body).unwrap();
    older.follow(NOW).unwrap();
    assert!(agent().check(&older, NOW).is_some(), "one that runs already takes in what it understands");
    let error = durable(folder.path(), NOW).unwrap_err();
    assert!(matches!(error, JournalError::Unread(Unread::UnknownKind { rev: 2, .. })), "{error}");
    let folder = TempDir::new().unwrap();
    let state = State::Memory(MemoryState { file: Some(folder.path().join("control.redb")), volatile: false });
    let (log, _) = Log::open(&state, None).unwrap();
    log.append(REVOKE, b"{\"more\": 1}").unwrap();
    assert!(matches!(durable(folder.path(), NOW).unwrap_err(), JournalError::Unread(Unread::Unreadable { rev: 2, .. })));
}

#[test]
fn many_revocations_are_added_found_and_swept() {
    let revocations = volatile();
    let id = |number: usize| format!("spiffe://example.org/w/{number}");
    for number in 0..20_000 {
        let life = Duration::from_secs(if number % 2 == 0 { 60 } else { 3600 });
        revocations.revoke(&Asked { life, ..asked(Selector::spiffe_id(&id(number)).unwrap()) }, NOW).unwrap();
    }
    let refused = |number: usize, now| Call::by(peer(&id(number), 0)).check(&revocations, now).is_some();
    assert!((0..20_000).step_by(97).all(|number| refused(number, NOW)) && !refused(20_000, NOW));
    revocations.follow(at(60)).unwrap();
    assert_eq!(revocations.current().len(), 10_000);
    assert!((0..20_000).step_by(97).all(|number| refused(number, at(60)) == (number % 2 == 1)));
    let listed = revocations.list(0, 3, at(60), |_| true);
    assert_eq!(listed.iter().map(|revocation| revocation.rev).collect::<Vec<_>>(), [2, 4, 6]);
    let _: Map<String, Value> = serde_json::from_slice(&serde_json::to_vec(&Body::from(&*listed[0])).unwrap()).unwrap();
}
