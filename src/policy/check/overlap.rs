//! Data at the paths of packages. OPA answers with both, and refuses data at the path of a rule; to the engine such data
//! hides the rule. An object with rules in it is copied for each call, so that it may not be large.

use std::collections::BTreeMap;

use regorus::unstable::{Module, Rule, Span};
use serde_json::Value;

use crate::policy::{
    names::{self, Path},
    problem::{Code, Problem, problem_at},
};

/// Most keys of data beside the rules of a package or beside its packages: copying more takes too long.
const MAX_KEYS: usize = 1000;
/// From so many on their author should know of it.
const MANY_KEYS: usize = 200;

pub(super) fn problems<'m>(modules: impl Iterator<Item = &'m Module>, data: &Value) -> Vec<Problem> {
    // The path of a rule or package, whether it is a rule's, and where it is written.
    let mut places: BTreeMap<(Path, bool), &Span> = BTreeMap::new();
    for module in modules {
        let package = names::package(module);
        for rule in &module.policy {
            places.entry((names::rule_path(&package, rule), true)).or_insert(Rule::span(rule));
        }
        places.entry((package, false)).or_insert(module.package.refr.span());
    }
    let mut problems = BTreeMap::new();
    for ((path, is_rule), place) in &places {
        if let Some((at, code, text)) = met(data, path, *is_rule) {
            problems.entry(at).or_insert_with(|| problem_at(code, place, text));
        }
    }
    problems.into_values().collect()
}

/// Where data meets a rule or package, and how.
fn met(data: &Value, rule: &[String], is_rule: bool) -> Option<(String, Code, String)> {
    let mut here = data;
    let mut crowded = None;
    for (index, part) in rule.iter().enumerate() {
        let Some(next) = here.get(part) else { break };
        here = next;
        let path = rule.iter().take(index + 1).map(String::as_str).collect::<Vec<_>>().join(".");
        let keys = here.as_object().map(serde_json::Map::len);
        match keys {
            _ if is_rule && index + 1 == rule.len() => {
                let text = format!("`data.{path}` is both data and a rule; rename one of the two");
                return Some((path, Code::DataUnderPackage, text));
            }
            None => {
                let text = format!("`data.{path}` is data without keys, and rules lie below it; move the data elsewhere");
                return Some((path, Code::DataUnderPackage, text));
            }
            Some(keys) if keys > MAX_KEYS => {
                let text = format!(
                    "`data.{path}` has {keys} keys of data beside rules, which would be copied for each call; move them one key deeper, \
                     or elsewhere"
                );
                return Some((path, Code::DataUnderPackage, text));
            }
            Some(keys) if keys > MANY_KEYS => {
                let text = format!(
                    "`data.{path}` has {keys} keys of data beside rules, which are copied for each call; moved one key deeper they are not"
                );
                crowded = Some((path, Code::DataBesideRules, text));
            }
            Some(_) => {}
        }
    }
    crowded
}
