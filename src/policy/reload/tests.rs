//! Reloads: what is good comes into force, what is bad changes nothing.

use std::{fs, time::Duration};

use super::*;
use crate::policy::{engine::tests::config, input::Input, problem::Code};

fn answer(store: &PolicyStore) -> Option<serde_json::Value> {
    let input = Input { value: regorus::Value::new_object(), now_ns: 0 };
    store.current().unwrap().evaluate(&input, Duration::from_secs(5)).unwrap()
}

#[test]
fn a_bad_set_never_displaces_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("t.rego"), config(folder.path(), "t/allow"));
    let store = PolicyStore::default();
    let now = Now::from_seconds(1_000_000_000);

    assert!(matches!(store.reload(&config, now), Reload::Refused { .. }));
    assert!(store.current().is_none());
    assert_eq!((store.status().revision, store.status().refusals), (None, 1));

    fs::write(&file, "package t\nallow := 1").unwrap();
    let Reload::Loaded { revision, digest } = store.reload(&config, now) else { panic!() };
    assert!(digest.starts_with(&revision) && revision.len() == 12);
    assert_eq!((answer(&store), store.status().last_error), (Some(1.into()), None));
    assert_eq!(store.reload(&config, now), Reload::Unchanged);

    for bad in ["package t\nallow := ", "package t\nallow := f(1)", "package u\nallow := 1"] {
        fs::write(&file, bad).unwrap();
        assert!(matches!(store.reload(&config, now), Reload::Refused { .. }), "{bad}");
        assert_eq!(answer(&store), Some(1.into()));
        let status = store.status();
        assert_eq!((status.revision.as_deref(), status.last_error.is_some()), (Some(revision.as_str()), true));
    }
    let held = store.current().unwrap();
    fs::remove_file(&file).unwrap();
    let Reload::Refused { error } = store.reload(&config, now) else { panic!() };
    assert_eq!(error.problems[0].code, Code::NoDecision);

    fs::write(&file, "package t\nallow := 2").unwrap();
    assert!(matches!(store.reload(&config, now), Reload::Loaded { .. }));
    assert_eq!((answer(&store), &**held.revision()), (Some(2.into()), revision.as_str()));
    let status = serde_json::to_value(store.status()).unwrap();
    assert_eq!(status["loaded_at"], "2001-09-09T01:46:40.000000000Z");
    assert_eq!((status["loads"].as_u64(), status["refusals"].as_u64(), status.get("last_error")), (Some(2), Some(5), None));
}

#[test]
fn a_changed_setting_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.rego"), "package t\nallow := 1\nother := 2").unwrap();
    let (mut config, now) = (config(folder.path(), "t/allow"), Now::from_seconds(0));
    let store = PolicyStore::default();
    assert!(matches!(store.reload(&config, now), Reload::Loaded { .. }));
    config.decision = "t/other".to_owned();
    assert!(matches!(store.reload(&config, now), Reload::Loaded { .. }));
    assert_eq!(answer(&store), Some(2.into()));
}

#[test]
fn a_thousand_reloads_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("t.rego"), config(folder.path(), "t/allow"));
    let store = PolicyStore::default();
    let mut first = None;
    for n in 0..1000 {
        fs::write(&file, format!("package t\nallow := {n}")).unwrap();
        assert!(matches!(store.reload(&config, Now::from_seconds(n)), Reload::Loaded { .. }));
        assert_eq!(answer(&store), Some(n.into()));
        first.get_or_insert_with(|| Arc::downgrade(&store.current().unwrap()));
    }
    assert_eq!(first.map(|set| set.strong_count()), Some(0));
    assert_eq!(Arc::strong_count(&store.current().unwrap()), 2);
    let threads = fs::read_dir("/proc/self/task").map(|tasks| {
        tasks
            .flatten()
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("policy-load")))
    });
    // Other tests may be loading at this moment; a leak would be a thousand.
    assert!(threads.map_or(0, Iterator::count) < 50);
}
