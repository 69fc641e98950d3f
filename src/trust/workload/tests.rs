//! What the store makes of what a stream says, and of its silence. The streams themselves are tested against a Workload
//! API in `tests/it`.

use serde_json::json;
use spiffe::{JwtBundle, X509Bundle, X509Svid};

use super::*;
use crate::{
    config,
    trust::testing::{Authority, NOW},
};

const ID: &str = "spiffe://td.test/a";

fn td(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn workload() -> Workload {
    let trust: config::Trust = serde_json::from_value(json!({
        "domains": {"td.test": {"workload_api": true}, "other.test": {"workload_api": true}},
    }))
    .unwrap();
    Workload::new(Arc::new(TrustStore::load(&trust).unwrap()), Arc::default())
}

fn set(bundles: &[(&str, &[&[u8]])]) -> X509BundleSet {
    bundles.iter().map(|(domain, roots)| X509Bundle::from_x509_authorities(td(domain), roots).unwrap()).collect()
}

/// What the streams' `take` does for a message of bundles.
fn say(workload: &Workload, set: &X509BundleSet) -> Option<String> {
    let (bundles, note) = roots(set);
    workload.store.put_x509(bundles);
    workload.change(Material::X509Bundles, |state| state.phase = Phase::Current);
    note
}

#[test]
fn what_a_message_does_not_name_is_withdrawn() {
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let der = |authority: &Authority| authority.certificate.der().to_vec();
    let leaf = root.svid(ID);
    let workload = workload();
    let verify = || workload.store.current().verify(&td("td.test"), leaf.der(), &[], NOW);
    let mut revisions = std::collections::HashSet::new();
    let mut revision = || revisions.insert(*workload.store.current().revision());

    assert_eq!(verify(), Err(Reason::TrustUnavailable), "before the first message");
    assert!(revision());
    assert_eq!(say(&workload, &set(&[("td.test", &[&der(&root)])])), None);
    assert_eq!(verify(), Ok(()));
    assert!(revision(), "what was remembered is asked for no more");
    say(&workload, &set(&[("td.test", &[&der(&next)])]));
    assert_eq!(verify(), Err(Reason::UntrustedChain), "another root");
    assert!(revision());
    say(&workload, &set(&[("td.test", &[])]));
    assert_eq!(verify(), Err(Reason::UntrustedChain), "X-9 no root");
    assert!(revision());
    say(&workload, &set(&[("other.test", &[&der(&root)])]));
    assert_eq!(verify(), Err(Reason::TrustUnavailable), "W-2 not named");
    assert!(revision());
    // A workload's certificate is no root, and keeps no other from counting.
    let note = say(&workload, &set(&[("td.test", &[leaf.der(), &der(&root)])]));
    assert!(note.unwrap().contains("td.test"));
    assert_eq!(verify(), Ok(()));
    workload.lost(Material::X509Bundles, Failure::Denied("no".to_owned()));
    assert_eq!(verify(), Err(Reason::TrustUnavailable), "W-1 denied");
    assert_eq!(workload.state(Material::X509Bundles).phase, Phase::Denied);
    say(&workload, &set(&[("td.test", &[&der(&root)])]));
    assert_eq!(verify(), Ok(()));
    workload.forget(Material::X509Bundles);
    assert_eq!(verify(), Err(Reason::TrustUnavailable), "not wanted any more");
}

#[test]
fn what_is_lost_counts_for_its_time() {
    let root = Authority::new("root");
    let leaf = root.svid(ID);
    let workload = workload();
    let verify = || workload.store.current().verify(&td("td.test"), leaf.der(), &[], NOW);
    let good = set(&[("td.test", &[root.certificate.der()])]);
    say(&workload, &good);
    let hour = Duration::from_secs(3600);
    let later = |seconds| Instant::now() + Duration::from_secs(seconds);
    let state = || workload.state(Material::X509Bundles);
    // While it is current it never grows old.
    workload.expire(hour, OnStale::Deny, later(7200));
    assert_eq!((state().phase, state().age(later(7200))), (Phase::Current, Some(Duration::ZERO)));

    workload.lost(Material::X509Bundles, Failure::Lost("gone".to_owned()));
    workload.lost(Material::X509Bundles, Failure::Lost("still gone".to_owned()));
    workload.expire(hour, OnStale::Deny, later(3599));
    assert_eq!((state().phase, verify()), (Phase::Outage, Ok(())));
    assert!(state().is_usable(OnStale::Deny));
    assert!(state().age(later(100)).unwrap() >= Duration::from_secs(99));

    workload.expire(hour, OnStale::Deny, later(3700));
    assert_eq!((state().phase, verify()), (Phase::Stale, Err(Reason::TrustStale)));
    assert!(!state().is_usable(OnStale::Deny) && state().is_usable(OnStale::Keep));
    // The setting may change while it is away.
    workload.expire(hour, OnStale::Keep, later(3700));
    assert_eq!((state().phase, verify()), (Phase::Stale, Ok(())));
    workload.expire(hour, OnStale::Deny, later(3700));
    assert_eq!(verify(), Err(Reason::TrustStale));

    say(&workload, &good);
    assert_eq!((state().phase, verify()), (Phase::Current, Ok(())));
    // A message that cannot be used confirms nothing.
    workload.lost(Material::X509Bundles, Failure::Unusable("rubbish".to_owned()));
    assert_eq!((state().phase, state().error.as_deref()), (Phase::Outage, Some("rubbish")));
}

#[test]
fn jwt_keys_are_kept_by_domain_and_only_the_public_ones() {
    let keys = json!({"keys": [
        {"kty": "EC", "kid": "b", "crv": "P-256", "x": "x", "y": "y"},
        {"kty": "EC", "kid": "a", "use": "jwt-svid"},
        {"kty": "EC", "kid": "c", "use": "x509-svid"},
        {"kty": "EC", "kid": "d", "d": "private"},
    ]});
    let bundle = JwtBundle::from_jwt_authorities(td("td.test"), keys.to_string().as_bytes()).unwrap();
    let set: JwtBundleSet = [bundle].into_iter().collect();
    let workload = workload();
    let kids = |domain: &str| {
        let bundles = workload.store.current();
        let keys = bundles.jwt_keys(&td(domain)).unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = *workload.store.current().revision();
    workload.store.put_jwt(jwt_keys(&set));
    assert_eq!((kids("td.test"), kids("other.test").len()), (vec!["a".to_owned(), "b".to_owned()], 0));
    assert_ne!(*workload.store.current().revision(), before);
    workload.change(Material::JwtBundles, |state| state.phase = Phase::Current);
    workload.lost(Material::JwtBundles, Failure::Lost("gone".to_owned()));
    let hour = Duration::from_secs(3600);
    workload.expire(hour, OnStale::Deny, Instant::now() + hour * 2);
    assert_eq!(kids("td.test").len(), 0, "stale");
    workload.expire(hour, OnStale::Keep, Instant::now() + hour * 2);
    assert_eq!(kids("td.test").len(), 2);
    workload.lost(Material::JwtBundles, Failure::Denied("no".to_owned()));
    assert_eq!(kids("td.test").len(), 0, "denied");
}

#[test]
fn our_own_svid_is_the_first_one() {
    let (root, middle) = {
        let root = Authority::new("root");
        let middle = root.intermediate("middle", |_| ());
        (root, middle)
    };
    let svid = |id: &str| {
        let leaf = middle.leaf(&[id], |params| params.is_ca = rcgen::IsCa::ExplicitNoCa);
        let chain = [leaf.der().as_ref(), middle.certificate.der().as_ref()].concat();
        (leaf.der().clone(), Arc::new(X509Svid::parse_from_der(&chain, &leaf.key.serialize_der()).unwrap()))
    };
    let ((leaf, first), (_, second)) = (svid(ID), svid("spiffe://td.test/b"));
    let context = X509Context::new([first, second], X509BundleSet::new());
    let own = own(&context).unwrap();
    assert_eq!(own.certified.cert, [leaf, middle.certificate.der().clone()]);
    drop(root);
    assert!(super::own(&X509Context::new([], X509BundleSet::new())).is_err());
}

#[test]
fn waits_grow_and_stay_within_bounds() {
    for (failures, fraction, millis) in
        [(0, 0.0, 50), (0, 1.0, 100), (1, 1.0, 200), (7, 1.0, 12_800), (8, 1.0, 15_000), (u32::MAX, 0.0, 7_500)]
    {
        assert_eq!(wait(failures, fraction), Duration::from_millis(millis), "{failures} {fraction}");
    }
}
