//! What the registry takes, what it finds, and what it makes noticeable.

use std::time::Instant;

use chrono::DateTime;
use serde_json::json;

use super::*;

fn registry(document: &Value) -> Registry {
    Registry::compile(document).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn owner(registry: &Registry, id: &str) -> Option<String> {
    registry.find(id).and_then(|entry| entry.owner.as_ref()).map(|owner| owner.to_string())
}

fn named(names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), json!({"owner": name}))).collect::<serde_json::Map<_, _>>().into()
}

/// One entry of `document`.
fn entry(document: &Value) -> Arc<Workload> {
    Arc::clone(registry(&json!({"spiffe://a.org/x": document})).find("spiffe://a.org/x").unwrap())
}

fn at(text: &str) -> Now {
    Now::from_seconds(u64::try_from(DateTime::parse_from_rfc3339(text).unwrap().timestamp()).unwrap())
}

#[test]
fn the_id_itself_then_the_narrowest_pattern() {
    let registry = registry(&named(&[
        "spiffe://a.org/ns/shop/sa/web",
        "spiffe://a.org/ns/shop/sa/*",
        "spiffe://a.org/ns/shop/**",
        "spiffe://a.org/ns/*/job/web",
        "spiffe://a.org/ns/*/*/*",
        "spiffe://a.org/*/*/sa/**",
        "spiffe://a.org/**",
        "spiffe://b.org/*",
    ]));
    for (id, expected) in [
        ("spiffe://a.org/ns/shop/sa/web", Some("spiffe://a.org/ns/shop/sa/web")),
        ("spiffe://a.org/ns/shop/sa/db", Some("spiffe://a.org/ns/shop/sa/*")),
        ("spiffe://a.org/ns/shop/job/1", Some("spiffe://a.org/ns/shop/**")),
        ("spiffe://a.org/ns/shop", Some("spiffe://a.org/ns/shop/**")),
        ("spiffe://a.org/ns/shops", Some("spiffe://a.org/**")),
        ("spiffe://a.org/ns/other/job/web", Some("spiffe://a.org/ns/*/job/web")),
        ("spiffe://a.org/ns/shop/job/web", Some("spiffe://a.org/ns/*/job/web")),
        ("spiffe://a.org/ns/other/sa/db", Some("spiffe://a.org/ns/*/*/*")),
        ("spiffe://a.org/x/other/sa", Some("spiffe://a.org/*/*/sa/**")),
        ("spiffe://a.org/x", Some("spiffe://a.org/**")),
        ("spiffe://b.org/x", Some("spiffe://b.org/*")),
        ("spiffe://b.org/x/y", None),
        ("spiffe://b.org", None),
        ("spiffe://c.org/x", None),
        ("spiffe://a.org/*/*/sa/**", Some("spiffe://a.org/*/*/sa/**")),
        ("https://a.org/x", None),
        ("", None),
    ] {
        assert_eq!(owner(&registry, id).as_deref(), expected, "{id}");
    }
    assert!(!registry.is_empty() && Registry::default().is_empty());
}

#[test]
fn a_pattern_is_a_spiffe_id_with_whole_segments_open() {
    for (id, text) in [
        ("web", "no SPIFFE ID"),
        ("spiffe://a.org", "no SPIFFE ID"),
        ("spiffe://A.org/x", "no SPIFFE ID"),
        ("spiffe://a.org/x/", "no SPIFFE ID"),
        ("spiffe://a.org/x y", "no SPIFFE ID"),
        ("spiffe://a.org/../*", "no SPIFFE ID"),
        ("spiffe://*/x", "trust domain"),
        ("spiffe://**", "trust domain"),
        ("spiffe://a.*/x", "trust domain"),
        ("spiffe://a.org/**/x", "before its end"),
        ("spiffe://a.org/**/**", "before its end"),
        ("spiffe://a.org/x*", "inside of the segment `x*`"),
        ("spiffe://a.org/***", "inside of the segment"),
    ] {
        let faults = Registry::compile(&named(&[id])).unwrap_err();
        assert_eq!((faults.len(), &faults[0].at[..]), (1, &[id.to_owned()][..]), "{faults:?}");
        assert!(faults[0].text.contains(text), "{faults:?}");
    }
}

#[test]
fn no_two_patterns_are_equally_narrow_for_anybody() {
    for (patterns, alike) in [
        (vec!["spiffe://a.org/*/b", "spiffe://a.org/b/*"], true),
        (vec!["spiffe://a.org/*/b/c", "spiffe://a.org/b/*/c"], true),
        (vec!["spiffe://a.org/*/b/**", "spiffe://a.org/b/*/**"], true),
        (vec!["spiffe://a.org/x/*/b/c", "spiffe://a.org/y/b/*/c"], false),
        (vec!["spiffe://a.org/*/b/c", "spiffe://a.org/b/*/d"], false),
        (vec!["spiffe://a.org/*/b", "spiffe://b.org/b/*"], false),
        (vec!["spiffe://a.org/*/b", "spiffe://a.org/b/**"], false),
        (vec!["spiffe://a.org/*/b", "spiffe://a.org/b/*/c"], false),
        (vec!["spiffe://a.org/*/b", "spiffe://a.org/b/*", "spiffe://a.org/b/b"], true),
    ] {
        let found = Registry::compile(&named(&patterns));
        assert_eq!(found.is_err(), alike, "{patterns:?}");
        if let Err(faults) = found {
            assert_eq!(faults[0].at, [patterns[0]], "{faults:?}");
            assert!(faults[0].text.contains(patterns[1]), "{faults:?}");
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_with_its_place() {
    let schedule =
        |from: &str, zone: &str, day: &str| json!({"schedule": {"from": from, "to": "02:00", "zone": zone, "days": [day]}});
    for (document, places) in [
        (json!({"ownr": "o", "owner": 7}), vec!["owner", "ownr"]),
        (json!({"environments": "production", "limits": {"a": -1}}), vec!["environments", "limits/a"]),
        (json!({"expires_at": "soon"}), vec!["expires_at"]),
        (json!({"expires_at": null, "mode": "observed"}), vec!["expires_at", "mode"]),
        (
            json!({"max_credential_age_s": 0, "max_credential_lifetime_s": "1h"}),
            vec!["max_credential_lifetime_s", "max_credential_age_s"],
        ),
        (schedule("25:00", "UTC", "Monday"), vec!["schedule/from"]),
        (schedule("1:00", "Nowhere", "Mon"), vec!["schedule/from", "schedule/zone", "schedule/days"]),
        (json!({"schedule": {"from": "01:00", "until": "02:00"}}), vec!["schedule", "schedule/until"]),
        (json!({"schedule": "always"}), vec!["schedule", "schedule", "schedule"]),
        (json!({"third_party": true, "owner": "o"}), vec![""]),
        (json!({"third_party": true, "owner": "", "expires_at": "2027-06-30T00:00:00Z"}), vec![""]),
        (json!({"allows": "orders.*"}), vec!["allows"]),
        (
            json!({"allows": ["a", 7, {"classes": ["reed"], "class": "read"}, {"actions": "a"}]}),
            vec!["allows/1", "allows/2", "allows/2/classes/0", "allows/2/class", "allows/3/actions"],
        ),
        (json!("o"), vec![""]),
    ] {
        let faults = Registry::compile(&json!({"spiffe://a.org/x": document, "spiffe://a.org/y": {}})).unwrap_err();
        assert!(faults.iter().all(|fault| fault.at[0] == "spiffe://a.org/x"), "{faults:?}");
        assert_eq!(faults.iter().map(|fault| fault.at[1..].join("/")).collect::<Vec<_>>(), places, "{document}: {faults:?}");
    }
    assert_eq!(Registry::compile(&json!([])).unwrap_err()[0].at, [""; 0]);
}

#[test]
fn an_entry_may_say_everything_or_nothing() {
    let nothing = entry(&json!({}));
    assert_eq!((&*nothing.state, nothing.mode, nothing.allows.len()), ("active", Mode::Enforce, 0));
    let everything = entry(&json!({
        "owner": "shop@a.org", "team": "shop", "purpose": "sells", "environments": ["production"], "third_party": true,
        "state": "active", "expires_at": "2027-06-30T00:00:00+02:00",
        "allows": ["orders.*", {"actions": ["**"], "classes": ["read"], "resources": ["order/*"], "tenants": ["t"],
                                "environments": ["staging"]}],
        "schedule": {"from": "22:00", "to": "05:00"}, "max_credential_lifetime_s": 3600, "max_credential_age_s": 1800,
        "limits": {"orders.read": 100}, "escalation": "#shop", "mode": "observe",
    }));
    assert_eq!((everything.expires_at, everything.mode), (Some(1_814_306_400), Mode::Observe));
    assert_eq!(everything.limits, [("orders.read".into(), 100)]);
    assert_eq!(everything.schedule.as_ref().map(|schedule| &*schedule.zone), Some("UTC"));
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| Arc::from(*text)).collect::<Vec<Arc<str>>>());
    assert_eq!(
        everything.allows,
        [
            Allow { actions: vec!["orders.*".into()], ..Allow::default() },
            Allow {
                actions: vec!["**".into()],
                classes: Some(vec![Class::Read]),
                resources: texts(&["order/*"]),
                tenants: texts(&["t"]),
                environments: texts(&["staging"]),
            },
        ]
    );
}

#[test]
fn schedules_go_over_midnight_and_by_the_clock_of_their_zone() {
    let day = json!({"from": "09:00", "to": "17:00"});
    let night = json!({"from": "22:00", "to": "05:00", "zone": "Europe/Berlin", "days": ["Friday"]});
    let whole = json!({"from": "00:00", "to": "00:00", "zone": "America/New_York", "days": ["Friday"]});
    for (schedule, time, inside) in [
        (&day, "2026-11-27T08:59:59Z", false),
        (&day, "2026-11-27T09:00:00Z", true),
        (&day, "2026-11-27T16:59:59Z", true),
        (&day, "2026-11-27T17:00:00Z", false),
        (&night, "2026-11-27T20:59:59Z", false),
        (&night, "2026-11-27T21:00:00Z", true),
        (&night, "2026-11-28T03:59:59Z", true),
        (&night, "2026-11-28T04:00:00Z", false),
        (&night, "2026-11-28T22:00:00Z", false),
        (&night, "2026-11-27T03:00:00Z", false),
        // In summer an hour earlier by UTC.
        (&night, "2026-07-03T20:00:00Z", true),
        (&whole, "2026-11-28T04:59:59Z", true),
        (&whole, "2026-11-28T05:00:00Z", false),
    ] {
        let workload = entry(&json!({"schedule": schedule}));
        assert_eq!(workload.is_on_schedule(at(time)), inside, "{schedule} {time}");
    }
    assert!(entry(&json!({})).is_on_schedule(at("2026-11-27T09:00:00Z")));
}

#[test]
fn what_the_registry_makes_noticeable() {
    let now = Now::from_seconds(1000);
    let x509 = X509 { sha256: "".into(), serial: String::new(), issuer: String::new(), not_before: 0, not_after: 5000 };
    let told = |document: Value| -> Vec<String> {
        let found = signals(Some(&*entry(&document)), Some(&x509), now);
        found.iter().map(|signal| format!("{}: {}", signal.name.as_str(), signal.detail)).collect()
    };
    assert_eq!(signals(None, Some(&x509), now)[0].name, SignalName::Unregistered);
    assert_eq!(told(json!({})), ["unowned: its entry names no owner"]);
    assert_eq!(told(json!({"owner": ""})), ["unowned: its entry names no owner"]);
    assert_eq!(told(json!({"owner": "o", "expires_at": "1970-01-01T00:16:41Z"})), [""; 0]);
    assert_eq!(told(json!({"owner": "o", "state": "suspended"})), ["registration_ended: its state is suspended"]);
    assert_eq!(
        told(json!({"owner": "o", "expires_at": "1970-01-01T00:16:40Z"})),
        ["registration_ended: its registration has expired"]
    );
    assert_eq!(told(json!({"owner": "o", "max_credential_age_s": 1000, "max_credential_lifetime_s": 5000})), [""; 0]);
    assert_eq!(
        told(json!({"owner": "o", "max_credential_age_s": 999, "max_credential_lifetime_s": 4999})),
        ["credential_age: 1000 s, and at most 999 s are allowed", "credential_lifetime: 5000 s, and at most 4999 s are allowed"]
    );
    assert_eq!(
        told(json!({"owner": "o", "schedule": {"from": "01:00", "to": "02:00"}})),
        ["off_schedule: it is outside of its schedule"]
    );
    let strict = entry(&json!({"owner": "o", "max_credential_age_s": 1}));
    assert_eq!(signals(Some(&*strict), None, now), []);
}

#[test]
fn a_hundred_thousand_are_found_as_fast_as_ten() {
    let of = |count: u32| {
        let id = |number: u32| match number % 2 {
            0 => format!("spiffe://a.org/ns/n{}/sa/s{number}", number % 100),
            _ => format!("spiffe://a.org/ns/p{number}/sa/*"),
        };
        let document: serde_json::Map<_, _> =
            (0..count).map(|number| (id(number), json!({"owner": number.to_string()}))).collect();
        registry(&document.into())
    };
    let (few, many) = (of(10), of(100_000));
    let asked = ["spiffe://a.org/ns/n8/sa/s8", "spiffe://a.org/ns/p9/sa/any", "spiffe://a.org/ns/n9/sa/nobody"];
    let time = |registry: &Registry| {
        let once = || {
            let start = Instant::now();
            let found = (0..300).filter(|round| registry.find(asked[round % 3]).is_some()).count();
            assert_eq!(found, 200);
            start.elapsed()
        };
        (0..50).map(|_| once()).min().unwrap()
    };
    let (few, many) = (time(&few), time(&many));
    // A scan would take thousands of times as long; memory that is not in the cache takes some times as long.
    assert!(many < few * 20, "{few:?} and {many:?}");
}
