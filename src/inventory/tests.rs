//! What was seen, merged with the registry, in pages and over a restart.

use serde_json::json;
use uuid::Uuid;

use super::{
    seen::{Overdue, Rank, Sight},
    *,
};
use crate::{identity::lifetime::Lifetimes, verdict::Decision};

const DAY: u64 = 24 * 3600;
const NOW: Now = Now::from_seconds(100 * DAY);
const STALE: Duration = Duration::from_secs(30 * DAY);

fn see(seen: &Seen, principal: &str, day: u64, action: Option<&str>) {
    let (principal, action): (Arc<str>, Option<Arc<str>>) = (principal.into(), action.map(Into::into));
    seen.see(&Sight {
        principal: &principal,
        rank: Rank::of(&principal, day.is_multiple_of(2)),
        at: Now::from_seconds(day * DAY),
        id: Uuid::nil(),
        decision: Decision::Allow,
        action: action.as_ref(),
        lifetimes: Lifetimes::default(),
    });
}

fn world() -> (Seen, Registry) {
    let registry = Registry::compile(&json!({
        "spiffe://example.org/exact": {"owner": "kim"},
        "spiffe://example.org/never": {"owner": "kim"},
        "spiffe://example.org/old": {"owner": "kim", "expires_at": "1970-03-01T00:00:00Z"},
        "spiffe://example.org/ns/*/sa/web": {"owner": "lee", "state": "disabled"},
        "spiffe://example.org/ns/*/sa/gone": {"team": "web"},
        "spiffe://partner.org/**": {"owner": "pat", "third_party": true, "expires_at": "2030-01-01T00:00:00Z"},
    }));
    let seen = Seen::new(10_000);
    see(&seen, "spiffe://example.org/exact", 99, Some("orders.read"));
    see(&seen, "spiffe://example.org/old", 99, None);
    see(&seen, "spiffe://example.org/ns/shop/sa/web", 20, None);
    see(&seen, "spiffe://example.org/stranger", 99, None);
    see(&seen, "spiffe://partner.org/robot", 99, None);
    see(&seen, "https://as.example#robot", 99, None);
    seen.overdue("spiffe://example.org/old", Overdue::Expired, NOW);
    (seen, registry.unwrap())
}

#[test]
fn the_registry_and_what_was_seen_are_one_list() {
    let (seen, registry) = world();
    let all = list(&seen, &registry, &patterns_that_came(&seen, &registry), None, "", 100, |_| true);
    let found: Vec<_> = all
        .iter()
        .map(|identity| {
            let entry = identity.registration.as_ref().map(|registration| &*registration.entry);
            let findings: Vec<_> = identity.findings(STALE, NOW).into_iter().map(Finding::as_str).collect();
            (&*identity.principal, entry.unwrap_or("-"), findings.join(" "))
        })
        .collect();
    let expected = [
        ("https://as.example#robot", "-", "unowned unregistered"),
        ("spiffe://example.org/exact", "spiffe://example.org/exact", ""),
        ("spiffe://example.org/never", "spiffe://example.org/never", "stale"),
        ("spiffe://example.org/ns/*/sa/gone", "spiffe://example.org/ns/*/sa/gone", "unowned stale"),
        ("spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/*/sa/web", "stale ended"),
        ("spiffe://example.org/old", "spiffe://example.org/old", "overdue ended"),
        ("spiffe://example.org/stranger", "-", "unowned unregistered"),
        ("spiffe://partner.org/robot", "spiffe://partner.org/**", "third_party"),
    ];
    assert_eq!(found, expected.map(|(principal, entry, findings)| (principal, entry, findings.to_owned())));
    assert!(all[3].sighting.is_none() && all[4].sighting.is_some());
}

#[test]
fn pages_leave_nothing_out() {
    let (seen, registry) = world();
    for number in 0..2 * CHUNK {
        see(&seen, &format!("spiffe://example.org/m{number:04}"), 99, None);
    }
    let seen = &seen;
    let came = patterns_that_came(seen, &registry);
    let all = list(seen, &registry, &came, None, "spiffe://example.org/", 10_000, |_| true);
    let mut paged: Vec<Arc<str>> = Vec::new();
    loop {
        let page = list(seen, &registry, &came, paged.last().map(|last| &**last), "spiffe://example.org/", 7, |_| true);
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|identity| identity.principal));
    }
    assert!(paged.is_sorted_by(|a, b| a < b));
    assert_eq!(paged, all.into_iter().map(|identity| identity.principal).collect::<Vec<_>>());
}

#[test]
fn one_is_found_by_its_name_or_that_of_its_entry() {
    let (seen, registry) = world();
    let entry = |principal: &str| find(&seen, &registry, principal).map(|found| found.registration.map(|found| found.entry));
    assert_eq!(entry("spiffe://example.org/ns/shop/sa/web"), Some(Some("spiffe://example.org/ns/*/sa/web".into())));
    assert_eq!(entry("spiffe://example.org/ns/*/sa/gone"), Some(Some("spiffe://example.org/ns/*/sa/gone".into())));
    assert_eq!(entry("spiffe://example.org/never"), Some(Some("spiffe://example.org/never".into())));
    assert_eq!(entry("spiffe://example.org/stranger"), Some(None));
    assert_eq!(entry("spiffe://example.org/nobody"), None);
    let exact = find(&seen, &registry, "spiffe://example.org/exact").unwrap();
    assert_eq!(exact.unused(&["orders.read".into(), "orders.write".into()]), ["orders.write".into()]);
}

#[test]
fn what_was_seen_survives_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::Inventory { file: Some(folder.path().join("inventory.jsonl")), ..config::Inventory::default() };
    let inventory = Inventory::open(&config).unwrap();
    let names: Vec<String> = (0..2 * CHUNK + 3).map(|number| format!("spiffe://example.org/{number:04}")).collect();
    for name in &names {
        see(&inventory.seen, name, 99, Some("orders.read"));
    }
    inventory.seen.overdue(&names[7], Overdue::Disabled, NOW);
    inventory.save().unwrap();
    let all = |inventory: &Inventory| inventory.seen.after(None, "", 10_000);
    let again = Inventory::open(&config).unwrap();
    assert_eq!(all(&again), all(&inventory));
    assert_eq!(again.seen.find(&names[7]).unwrap().late.unwrap().reasons, [Overdue::Disabled]);
    // With nothing new, nothing is written.
    let path = config.file.clone().unwrap();
    std::fs::remove_file(&path).unwrap();
    inventory.save().unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "{\"doorward\":\"inventory\",\"v\":1}\nnonsense\n").unwrap();
    let error = Inventory::open(&config).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().starts_with("line 2 is none of ours"), "{error:?}");
    let nowhere = config::Inventory { file: Some("/nowhere/at/all".into()), ..config };
    let inventory = Inventory::open(&nowhere).unwrap();
    see(&inventory.seen, &names[0], 99, None);
    assert!(inventory.save().is_err() && inventory.save().is_err(), "it is tried again");
}

#[test]
#[ignore = "takes 400 MB"]
fn a_million_principals_are_looked_through() {
    let config = config::Inventory::default();
    let inventory = Inventory::open(&config).unwrap();
    for number in 0..config.max {
        see(&inventory.seen, &format!("spiffe://example.org/ns/{:03}/sa/{number:07}", number % 1000), 99, None);
    }
    let entries = (0..1000).map(|number| (format!("spiffe://example.org/ns/*/sa/{number:07}"), json!({"owner": "kim"})));
    let never = [("spiffe://example.org/ns/*/sa/never".to_owned(), json!({}))];
    let registry = Registry::compile(&entries.chain(never).collect::<serde_json::Map<_, _>>().into()).unwrap();
    let policy: Arc<str> = "digest".into();
    let began = Instant::now();
    let came = inventory.came(&registry, &policy);
    let looked = began.elapsed();
    assert_eq!(came.len(), 1000);
    let began = Instant::now();
    assert!(Arc::ptr_eq(&came, &inventory.came(&registry, &policy)), "the next page shares it");
    let found = list(&inventory.seen, &registry, &came, None, "", 10, |identity| identity.sighting.is_none());
    println!("patterns that came in {looked:?}, a page that matches one of all in {:?}", began.elapsed());
    assert_eq!(found.len(), 1);
}
