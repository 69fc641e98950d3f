//! Rego that is built in: the library `guard`, for sets that ask for it and bring none of their own, and the policy of
//! our own API, for sets that have none.

use std::sync::LazyLock;

use super::{
    engine::{Abandoned, PolicySet},
    load::{Module, Sources},
    problem::LoadError,
};
use crate::config::{self, RegoVersion};

/// The package of the library.
pub(super) const PACKAGE: &str = "guard";
/// The rule that lets a call of our own API be, as a path below `data`.
pub(super) const CONTROL_RULE: &str = "guard/control/allow";

macro_rules! built_in {
    ($($path:literal),+ $(,)?) => {
        &[$((concat!("built-in/", $path), include_str!(concat!("../../policies/", $path))),)+]
    };
}

/// What files are called in messages, and their text.
const GUARD: &[(&str, &str)] = built_in![
    "guard/action.rego",
    "guard/answer.rego",
    "guard/grant.rego",
    "guard/peer.rego",
    "guard/registry.rego",
    "guard/request.rego",
    "guard/session.rego",
    "guard/signal.rego",
    "guard/time.rego",
];
const CONTROL: &[(&str, &str)] = built_in!["control/control.rego"];

/// The modules of the library.
pub(super) fn guard() -> impl Iterator<Item = Module> {
    modules(GUARD)
}

/// Whether a text names the library. It may be too much, in comments and strings too, and never too little.
pub(super) fn is_named(text: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric());
    text.split("data.guard").skip(1).any(ends) || text.contains("data[\"guard\"]")
}

/// Whether a file of this name is one of ours, and not its author's to test.
pub(super) fn is_built_in(name: &str) -> bool {
    name.starts_with("built-in/")
}

/// The policy of our own API where a set has none.
pub(super) fn control() -> Result<&'static PolicySet, &'static LoadError> {
    static CONTROL_SET: LazyLock<Result<PolicySet, LoadError>> = LazyLock::new(|| {
        let sources = Sources { modules: modules(CONTROL).collect(), ..Sources::empty("built-in") };
        let config = config::Policy { decision: CONTROL_RULE.to_owned(), ..config::Policy::of_paths(&[], RegoVersion::V1) };
        PolicySet::compile(sources, &config, &Abandoned::default())
    });
    CONTROL_SET.as_ref()
}

fn modules(files: &'static [(&'static str, &'static str)]) -> impl Iterator<Item = Module> {
    files.iter().map(|(name, text)| Module { name: (*name).to_owned(), text: (*text).to_owned(), roots: None })
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Now;

    fn load(files: &[(&str, &str)]) -> Result<PolicySet, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        PolicySet::load(&config::Policy::at(folder.path()))
    }

    fn may(set: &PolicySet, caller: &Value, method: &str) -> Option<Value> {
        let input = json!({"caller": caller, "method": method, "request": {}});
        set.control(&input, Now::from_seconds(0), Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn every_file_that_ships_is_built_in() {
        for (folder, built_in) in [("guard", GUARD), ("control", CONTROL)] {
            let files = fs::read_dir(format!("policies/{folder}")).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = files.map(|name| format!("built-in/{folder}/{}", name.display())).collect();
            names.retain(|name| name.ends_with(".rego") && !name.ends_with("_test.rego"));
            names.sort();
            assert_eq!(built_in.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn who_names_the_library_gets_it() {
        let asks = "package envoy.authz\n\nimport data.guard\n\ndefault allow := false\n\nallow if guard.has_peer\n";
        let spelt = "package envoy.authz\n\ndefault allow := false\n\nallow if data[\"guard\"].has_peer\n";
        let own = "package guard\n\nhas_peer if input.own\n";
        let wants = |set: &PolicySet, name: &str| set.wanted().below(name).is_some();
        for module in [asks, spelt] {
            let set = load(&[("p.rego", module)]).unwrap();
            assert!(wants(&set, "peer") && set.has("guard/registered"));
        }
        let set = load(&[("p.rego", asks), ("own.rego", own)]).unwrap();
        assert!(wants(&set, "own") && !wants(&set, "peer") && !set.has("guard/registered"));
        let plain = "package envoy.authz\n\nimport data.guardian\n\ndefault allow := false\n\nallow if guardian.x\n";
        let set = load(&[("p.rego", plain), ("d.json", r#"{"guardian": {"x": true}}"#)]).unwrap();
        assert!(!wants(&set, "peer") && !set.has("guard"));
    }

    #[test]
    fn our_own_api_is_let_be_by_the_set_or_by_us() {
        let decides = "package envoy.authz\n\ndefault allow := false\n";
        let (unix, mtls) = (json!({"kind": "unix", "uid": 0}), json!({"kind": "mtls", "spiffe_id": "spiffe://a.org/x"}));
        let (list, approve) = ("doorward.v1.SessionService/List", "doorward.v1.GrantService/Approve");
        let ours = load(&[("p.rego", decides)]).unwrap();
        for (caller, method, allowed) in [(&unix, list, true), (&unix, approve, false), (&mtls, list, false)] {
            assert_eq!(may(&ours, caller, method), Some(json!(allowed)), "{caller} {method}");
        }
        for (own, answer) in [
            ("package guard.control\n\nallow if input.caller.kind == \"mtls\"\n", Some(json!(true))),
            ("package guard.control\n\ndefault allow := false\n", Some(json!(false))),
            ("package guard.control\n\nother := true\n", None),
            ("package guard.control.part\n\nallow := true\n", None),
        ] {
            let set = load(&[("p.rego", decides), ("own.rego", own)]).unwrap();
            assert_eq!(may(&set, &mtls, list), answer, "{own}");
            assert_eq!(may(&set, &unix, list), answer.filter(|answer| *answer == json!(false)), "{own}");
        }
    }
}
