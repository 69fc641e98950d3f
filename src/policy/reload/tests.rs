//! Reloads: what is good comes into force, what is bad changes nothing.

use std::{fs, time::Duration};

use super::*;
use crate::policy::{engine::tests::config, former::MAX_SETS, input::Input, problem::Code};

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
fn a_set_that_does_not_compile_is_not_compiled_again_at_each_look() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("t.rego"), config(folder.path(), "t/allow"));
    let store = PolicyStore::default();
    let attempts = || -> Vec<i64> { store.refused.lock().unwrap().errors.values().map(|(at, _)| at.seconds()).collect() };
    fs::write(&file, "package t\nallow := f(1)").unwrap();
    let Reload::Refused { error: first } = store.reload(&config, Now::from_seconds(0)) else { panic!() };
    for (seconds, attempted) in [(30, [0]), (599, [0]), (600, [600]), (1_199, [600])] {
        assert_eq!(store.reload(&config, Now::from_seconds(seconds)), Reload::Refused { error: first.clone() });
        assert_eq!(attempts(), attempted, "{seconds}");
    }
    fs::write(&file, "package t\nallow := g(1)").unwrap();
    let Reload::Refused { error } = store.reload(&config, Now::from_seconds(1_200)) else { panic!() };
    assert_ne!(error, first);
    for n in 0..100 {
        fs::write(&file, format!("package t\nallow := f{n}(1)")).unwrap();
        store.reload(&config, Now::from_seconds(1_200));
        assert!(attempts().len() <= KEPT);
    }
}

#[test]
fn a_set_that_compiles_too_long_is_left_behind_and_only_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (file, mut config) = (folder.path().join("t.rego"), config(folder.path(), "t/allow"));
    let rules: String = (0..3_000).map(|n| format!("r{n} if input.x[{n}].y == input.z.a.b.c\n")).collect();
    let write = |answer: u32| fs::write(&file, format!("package t\nallow := {answer}\n{rules}")).unwrap();
    let (store, now) = (PolicyStore::default(), Now::from_seconds(0));
    let refusal = |config: &config::Policy| match store.reload(config, now) {
        Reload::Refused { error } => (error.problems[0].code, error.problems[0].text.clone()),
        other => panic!("{other:?}"),
    };
    write(1);
    config.limits.compile = config::Span::millis(0);
    let (code, text) = refusal(&config);
    assert_eq!((code, text.starts_with("not compiled within 0s")), (Code::TooSlow, true), "{text}");
    assert_eq!(refusal(&config).1, text, "the same bytes are not tried again");
    write(2);
    config.limits.compile = config::Span::millis(60_000);
    let (code, text) = refusal(&config);
    assert_eq!((code, text.starts_with("waits until")), (Code::TooSlow, true), "{text}");
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while store.abandoned.is_running() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
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

#[test]
fn old_sets_can_be_asked_again_until_too_many_came_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("t.rego"), config(folder.path(), "t/allow"));
    let (store, now) = (PolicyStore::remembering(), Now::from_seconds(0));
    let put = |text: &str| {
        fs::write(&file, text).unwrap();
        let Reload::Loaded { digest, .. } = store.reload(&config, now) else { panic!() };
        digest
    };
    let digests: Vec<_> = (0..=MAX_SETS).map(|number| put(&format!("package t\nallow := {number}\n"))).collect();
    assert!(store.former(&digests[0], "t/allow").is_none());
    let former = store.former(&digests[1], "t/allow").unwrap();
    let input = Input { value: regorus::Value::new_object(), now_ns: 0 };
    assert_eq!(former.opened.set.evaluate(&input, Duration::from_secs(5)).unwrap(), Some(1.into()));
    let explained = former.opened.explain(&input, &serde_json::json!({}), &BTreeMap::new(), Duration::from_secs(5));
    assert_eq!(explained.lines[0].text, "allow := 1");
    assert!(store.former(&digests[1], "t/other").is_none(), "another rule decided");
    assert!(PolicyStore::default().former(&digests[1], "t/allow").is_none());
}
