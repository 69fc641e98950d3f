//! From records to what Alertmanager is told, without any.

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use serde_json::json;

use super::*;
use crate::{
    record::{ActionRecord, Caller, Origin, PolicyOutcome, PolicyRecord, tests::decision},
    verdict::{Class, Tier},
    workload::Registry,
};

const AGENT: &str = "spiffe://example.org/web";
const MINUTE: Duration = Duration::from_secs(60);

fn config(text: &str) -> config::Alerts {
    serde_saphyr::from_str(&format!("alertmanager: {{urls: [https://a, https://b]}}\n{text}")).unwrap()
}

fn rules(text: &str) -> Rules {
    Rules::new(&config(text))
}

fn table(text: &str) -> Table {
    let place = serde_saphyr::from_str("{environment: test, cluster: c1}").unwrap();
    Table::new(Limits::new(&config(text)), Wording::new(&config(text), &place, Some("pod-1")), 2)
}

fn at(seconds: u64) -> Now {
    Now::from_seconds(1_800_000_000 + seconds)
}

fn entry() -> Arc<Workload> {
    let document = json!({AGENT: {"owner": "kim", "escalation": "oncall"}});
    Arc::clone(Registry::compile(&document).unwrap().find(AGENT).unwrap())
}

fn action() -> ActionRecord {
    ActionRecord {
        name: Some("money.send".into()),
        class: Class::Write,
        tier: Tier::None,
        degraded: false,
        args_digest: None,
        risk: Some(Level::Low),
        session: None,
        sensitivity: Some(Sensitivity::Medium),
        workload: Some(entry()),
        task_ended: false,
        signals: [SignalName::FirstUse].into_iter().collect(),
        high_risk: None,
    }
}

fn record(change: impl FnOnce(&mut DecisionRecord, &mut ActionRecord)) -> Record {
    let (mut record, mut action) = (decision(json!({"secret": "hunter2"})), action());
    change(&mut record, &mut action);
    record.action = Some(action);
    Record { id: Uuid::from_u128(7), at: at(0), body: Body::Decision(Arc::new(record)) }
}

fn control(method: &str, decision: Decision, outcome: &'static str, request: Value) -> Record {
    let control = ControlRecord {
        method: Some(method.to_owned()),
        caller: Caller { from: Origin::Process { uid: 1, gid: 1, pid: None }, person: None },
        request: Some(request),
        decision,
        outcome,
        detail: Some("rev 2, because".to_owned()),
    };
    Record { id: Uuid::from_u128(8), at: at(0), body: Body::Control(Box::new(control)) }
}

fn seen(rules: &Rules, record: &Record) -> Vec<Occurrence> {
    let mut found = Vec::new();
    rules.see(record, |id| (id == AGENT).then(entry), &mut |occurrence| found.push(occurrence));
    found
}

fn denial(principal: &str, action: &str) -> Occurrence {
    let what = What::CriticalDenial { action: action.into(), enforced: true };
    let key = Key::of(what, Some(&principal.into()), Some(&entry()));
    Occurrence { key, at: at(0), id: Uuid::from_u128(7), detail: "policy".into(), life: None }
}

/// The names of what is due, and when it ends.
fn due(table: &mut Table, to: usize, now: Now) -> Vec<(String, String)> {
    let (receipts, messages): (Vec<_>, Vec<_>) = table.due(to, now).into_iter().unzip();
    table.told(to, receipts);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> =
        messages.iter().map(|message| (text(&message["labels"]["alertname"]), text(&message["endsAt"]))).collect();
    all.sort();
    all
}

#[test]
fn what_a_decision_is_told_for() {
    let critical = |action: &mut ActionRecord| action.sensitivity = Some(Sensitivity::Critical);
    let policy = PolicyRecord { outcome: PolicyOutcome::Loaded, policy: None, error: None };
    for (what, record, expected) in [
        ("an everyday denial", record(|_, _| {}), vec![]),
        ("a critical denial", record(|_, action| critical(action)), vec!["DoorwardCriticalDenial"]),
        (
            "a critical action that was allowed",
            record(|decision, action| {
                critical(action);
                decision.decision = Decision::Allow;
            }),
            vec![],
        ),
        (
            "a revoked caller of a critical action",
            record(|decision, action| {
                critical(action);
                decision.reason = Reason::Revoked;
            }),
            vec!["DoorwardRevokedUse", "DoorwardCriticalDenial"],
        ),
        (
            "high risk, allowed",
            record(|decision, action| {
                decision.decision = Decision::Allow;
                action.risk = Some(Level::High);
            }),
            vec!["DoorwardHighRisk"],
        ),
        ("unowned", record(|_, action| action.signals = [SignalName::Unowned].into_iter().collect()), vec!["DoorwardUnowned"]),
        (
            "unregistered",
            record(|_, action| action.signals = [SignalName::Unregistered].into_iter().collect()),
            vec!["DoorwardUnregistered"],
        ),
        (
            "overdue twice over",
            record(|_, action| action.signals = [SignalName::RegistrationEnded, SignalName::CredentialAge].into_iter().collect()),
            vec!["DoorwardOverdue"],
        ),
        (
            "off schedule",
            record(|_, action| action.signals = [SignalName::OffSchedule, SignalName::Burst].into_iter().collect()),
            vec![],
        ),
        ("another kind of record", Record { body: Body::Policy(Box::new(policy)), ..record(|_, _| {}) }, vec![]),
    ] {
        let names: Vec<_> = seen(&rules(""), &record).iter().map(|occurrence| occurrence.key.what.name()).collect();
        assert_eq!(names, expected, "{what}");
    }
    let revoked = record(|decision, action| {
        critical(action);
        decision.reason = Reason::Revoked;
    });
    assert_eq!(seen(&rules("except: [critical_denial, revoked_use]"), &revoked), []);
}

#[test]
fn a_full_queue_makes_nobody_wait() {
    let meter = SdkMeterProvider::default().meter("test");
    let (sender, mut queue) = mpsc::channel(2);
    let see = rules("").observer(Arc::default(), sender, Arc::new(Metrics::new(&meter)));
    let unowned = record(|_, action| action.signals = [SignalName::Unowned].into_iter().collect());
    (0..10).for_each(|_| see(&unowned));
    let taken = std::iter::from_fn(|| queue.try_recv().ok()).count();
    assert_eq!((taken, queue.try_recv()), (2, Err(mpsc::error::TryRecvError::Empty)));
    see(&unowned);
    assert!(queue.try_recv().is_ok());
}

#[test]
fn a_revocation_is_told_if_it_was_made() {
    let request = json!({"selector": {"spiffe_id": AGENT}, "reason": "leaked", "lifetime": "90s"});
    let found = seen(&rules(""), &control(REVOKE, Decision::Allow, OK, request.clone()));
    let [Occurrence { key, life, detail, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(key.what, What::Revocation(format!("spiffe_id {AGENT}").into()));
    assert_eq!(
        (key.principal.as_deref(), key.owner.as_deref(), key.escalation.as_deref()),
        (Some(AGENT), Some("kim"), Some("oncall"))
    );
    assert_eq!((life, &**detail), (&Some(Duration::from_secs(90)), "rev 2, because"));
    for (method, decision, outcome) in [
        (REVOKE, Decision::Deny, "PERMISSION_DENIED"),
        (REVOKE, Decision::Allow, "INVALID_ARGUMENT"),
        ("doorward.v1.RevocationService/List", Decision::Allow, OK),
    ] {
        assert_eq!(seen(&rules(""), &control(method, decision, outcome, request.clone())), [], "{method} {outcome}");
    }
    assert_eq!(seen(&rules("except: [revocation]"), &control(REVOKE, Decision::Allow, OK, request)), []);
    for (selector, selected, owner) in [
        (json!({"owner": "kim"}), "owner kim", Some("kim")),
        (json!({"jti": {"issuer": "i", "jti": "j"}}), "jti i j", None),
        (json!({"prefix": "spiffe://a/b"}), "prefix spiffe://a/b", None),
    ] {
        let found = seen(&rules("revocation: 5m"), &control(REVOKE, Decision::Allow, OK, json!({"selector": selector})));
        let [Occurrence { key, life, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&key.what, key.owner.as_deref()), (&What::Revocation(selected.into()), owner));
        assert_eq!((life, key.principal.as_deref()), (&Some(5 * MINUTE), None));
    }
    assert_eq!(seen(&rules(""), &control(REVOKE, Decision::Allow, OK, json!({}))), []);
}

#[test]
fn what_alertmanager_reads() {
    let mut table = table("labels: {team: blue}\ngenerator_url: https://wiki/x");
    let record = record(|decision, action| {
        action.sensitivity = Some(Sensitivity::Critical);
        decision.enforced = false;
    });
    for occurrence in seen(&rules(""), &record) {
        table.take_in(occurrence.clone(), at(0));
        table.take_in(Occurrence { id: Uuid::from_u128(9), at: at(2), ..occurrence }, at(2));
    }
    let messages: Vec<Value> = table.due(0, at(3)).into_iter().map(|(_, message)| message).collect();
    let id = Uuid::from_u128(9).to_string();
    let expected = json!([{
        "labels": {
            "alertname": "DoorwardCriticalDenial", "severity": "critical", "principal": AGENT, "owner": "kim",
            "escalation": "oncall", "action": "money.send", "enforced": "false", "environment": "test", "cluster": "c1",
            "instance": "pod-1", "team": "blue",
        },
        "annotations": {
            "summary": format!("{AGENT} was denied the critical action money.send, and let through: it is only observed"),
            "description": format!(
                "2 times since 2027-01-15T08:00:00.000000000Z, the latest for the reason policy. `doorward explain {id}` tells more."
            ),
            "count": "2",
            "decision_id": id,
        },
        "startsAt": "2027-01-15T08:00:00.000000000Z",
        "endsAt": "2027-01-15T08:04:03.000000000Z",
        "generatorURL": "https://wiki/x",
    }]);
    assert_eq!(json!(messages), expected);
    assert!(!json!(messages).to_string().contains("hunter2"));
}

#[test]
fn every_alert_has_words_of_its_own_and_is_bounded() {
    let long: Arc<str> = "é".repeat(5_000).into();
    let mut table = table("max_per_principal: 20");
    for what in [
        What::CriticalDenial { action: bounded(&long), enforced: true },
        What::HighRisk,
        What::Unregistered,
        What::Unowned,
        What::Overdue,
        What::Revocation(bounded(&long)),
        What::RevokedUse { enforced: false },
        What::TooMany,
    ] {
        let key = Key::of(what, Some(&long), None);
        table.take_in(Occurrence { key, detail: (*long).to_owned().into(), ..denial(AGENT, "a") }, at(0));
    }
    let due = table.due(0, at(0));
    let of = |part: &'static str, member: &'static str| {
        let texts = due.iter().map(move |(_, message)| message[part][member].to_string());
        texts.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((of("labels", "alertname"), of("annotations", "summary")), (8, 8));
    assert!(due.iter().all(|(_, message)| message.to_string().len() < 5_000));
    let empty = Key { owner: Some("".into()), ..denial(AGENT, "a").key };
    table.take_in(Occurrence { key: empty, ..denial(AGENT, "a") }, at(0));
    assert!(table.due(0, at(0)).iter().all(|(_, message)| message["labels"].get("owner").is_none()));
}

#[test]
fn it_is_sent_at_once_and_again_and_once_more_when_it_is_over() {
    let mut table = table("");
    let name = || "DoorwardCriticalDenial".to_owned();
    let ends = |seconds: u64| at(seconds).rfc3339();
    assert_eq!(table.next(0, at(0)), None);
    assert_eq!(table.take_in(denial(AGENT, "a"), at(0)), Taken::New);
    assert_eq!((table.next(0, at(0)), table.active(at(0))), (Some(at(0)), 1));
    assert_eq!(due(&mut table, 0, at(1)), [(name(), ends(241))]);
    assert_eq!(due(&mut table, 0, at(2)), []);
    assert_eq!(table.next(0, at(2)), Some(at(61)));
    assert_eq!(table.take_in(Occurrence { at: at(30), ..denial(AGENT, "a") }, at(30)), Taken::Repeated);
    assert_eq!(due(&mut table, 0, at(60)), []);
    assert_eq!(due(&mut table, 0, at(61)), [(name(), ends(301))]);
    // The other Alertmanager was away.
    assert_eq!(due(&mut table, 1, at(200)), [(name(), ends(440))]);
    assert_eq!(due(&mut table, 0, at(329)), [(name(), ends(569))]);
    assert_eq!(table.next(0, at(329)), Some(at(330)));
    assert_eq!((due(&mut table, 0, at(331)), table.active(at(331))), (vec![(name(), ends(331))], 0));
    assert_eq!((due(&mut table, 0, at(400)), table.next(0, at(400))), (vec![], None));
    assert_eq!((table.sweep(at(400)), due(&mut table, 1, at(401))), (0, vec![(name(), ends(401))]));
    // Told to all and over, it is forgotten; before that it begins anew.
    assert_eq!(table.take_in(Occurrence { at: at(402), ..denial(AGENT, "a") }, at(402)), Taken::New);
    assert_eq!(due(&mut table, 0, at(402)), [(name(), ends(642))]);
}

#[test]
fn what_nobody_heard_in_time_is_heard_late_or_counted() {
    let mut table = table("keep: 10m");
    table.take_in(denial(AGENT, "a"), at(0));
    assert_eq!(due(&mut table, 0, at(0)).len(), 1);
    assert_eq!(due(&mut table, 0, at(300)).len(), 1);
    assert_eq!(table.sweep(at(899)), 0);
    let late = due(&mut table, 1, at(899));
    assert_eq!(late, [("DoorwardCriticalDenial".to_owned(), at(1199).rfc3339())]);
    assert_eq!((table.sweep(at(899)), table.next(1, at(899))), (0, None));
    table.take_in(Occurrence { at: at(1000), ..denial(AGENT, "a") }, at(1000));
    assert_eq!((table.sweep(at(1899)), table.sweep(at(1900))), (0, 1));
    assert_eq!(table.due(0, at(1900)).len() + table.accounts(), 0);
}

#[test]
fn while_an_alertmanager_is_away_what_is_over_makes_room_for_what_is_not() {
    let mut table = table("max: 4\nmax_per_principal: 4");
    for (number, count) in [(0, 0), (1, 2)] {
        table.take_in(Occurrence { at: at(number), ..denial("p", &number.to_string()) }, at(number));
        assert_eq!(table.sweep(at(400)), count, "half full");
    }
    assert_eq!(table.take_in(Occurrence { at: at(400), ..denial("p", "9") }, at(400)), Taken::New);
    assert_eq!((table.sweep(at(401)), table.active(at(401))), (0, 1));
}

#[test]
fn a_receipt_of_what_has_begun_anew_meanwhile_is_not_entered() {
    let mut table = table("");
    table.take_in(denial(AGENT, "a"), at(0));
    let receipts: Vec<_> = table.due(0, at(299)).into_iter().map(|(receipt, _)| receipt).collect();
    table.take_in(Occurrence { at: at(301), ..denial(AGENT, "a") }, at(301));
    table.told(0, receipts);
    assert_eq!(table.due(0, at(301)).len(), 1);
}

#[test]
fn a_revocation_ends_by_itself() {
    let mut table = table("");
    let request = json!({"selector": {"spiffe_id": AGENT}, "lifetime": "90s"});
    for occurrence in seen(&rules(""), &control(REVOKE, Decision::Allow, OK, request)) {
        table.take_in(occurrence, at(0));
    }
    assert_eq!(due(&mut table, 0, at(0)), [("DoorwardRevocation".to_owned(), at(90).rfc3339())]);
    assert_eq!(due(&mut table, 0, at(90)), [("DoorwardRevocation".to_owned(), at(90).rfc3339())]);
}

#[test]
fn nobody_fills_the_table() {
    let mut table = table("max: 10\nmax_per_principal: 3");
    for number in 0..50 {
        let taken = table.take_in(denial(AGENT, &format!("a{number}")), at(0));
        let expected = match number {
            0..3 => Taken::New,
            other => Taken::Folded(other == 3),
        };
        assert_eq!(taken, expected, "{number}");
    }
    assert_eq!(table.active(at(0)), 4);
    let warning = |number: usize| {
        let key = Key::of(What::Unregistered, Some(&format!("{AGENT}/{number}").into()), None);
        Occurrence { key, ..denial(AGENT, "") }
    };
    let new = (0..100).filter(|number| table.take_in(warning(*number), at(0)) == Taken::New).count();
    assert_eq!((new, table.active(at(0))), (1, 6), "half of the room");
    let new = (0..100).filter(|number| table.take_in(denial(&number.to_string(), "a"), at(0)) == Taken::New).count();
    assert_eq!((new, table.active(at(0))), (4, 10));
    let revocation = |number: usize| {
        let key = Key::of(What::Revocation(number.to_string().into()), Some(&AGENT.into()), None);
        Occurrence { key, life: Some(MINUTE), ..denial(AGENT, "") }
    };
    let new = (0..100).filter(|number| table.take_in(revocation(*number), at(0)) == Taken::New).count();
    assert_eq!((new, table.active(at(0))), (10, 20));
    // All of it goes, and with it what was counted.
    assert_eq!(table.sweep(at(100_000)), 20);
    assert_eq!((table.active(at(0)), table.accounts()), (0, 0));
}

#[test]
fn a_clock_that_was_set_back_makes_no_alert_that_ends_before_it_begins() {
    let mut table = table("");
    table.take_in(Occurrence { at: at(10_000), ..denial(AGENT, "a") }, at(10_000));
    assert_eq!(due(&mut table, 0, at(0)), [("DoorwardCriticalDenial".to_owned(), at(10_000).rfc3339())]);
}
