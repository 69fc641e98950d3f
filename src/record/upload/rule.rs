//! Mask rules as OPA's `data.system.log.mask` gives them: pointers to what is taken out of an event, or objects that say
//! what is put in its place. They reach the parts of an event that a request or a policy brought, and no other.

use serde_json::{Map, Value};

/// The parts that a rule may reach.
pub(super) const PARTS: [&str; 3] = ["input", "result", "nd_builtin_cache"];

/// Why a set of rules cannot be carried out. No text quotes what the rules were made of: a request may have had a part in
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RuleError {
    #[error("the mask is no set or array; write `mask contains \"/input/…\" if …`")]
    NoList,
    #[error("an element of the mask is neither a pointer nor an object with `op` and `path`")]
    NoRule,
    #[error("the `op` of a mask rule is neither `remove` nor `upsert`")]
    Operation,
    #[error("the path of a mask rule does not begin with `/input`, `/result` or `/nd_builtin_cache`")]
    Path,
}

/// One rule.
struct Rule<'a> {
    path: &'a str,
    operation: Operation<'a>,
}

enum Operation<'a> {
    Remove,
    Upsert(&'a Value),
}

/// Carries out every rule, or none where one cannot be understood. A rule that points to nothing does nothing.
pub(super) fn apply(rules: &Value, event: &mut Map<String, Value>) -> Result<(), RuleError> {
    let list = rules.as_array().ok_or(RuleError::NoList)?;
    let rules: Vec<Rule<'_>> = list.iter().map(Rule::read).collect::<Result<_, _>>()?;
    for Rule { path, operation } in rules {
        let Some(steps) = path.strip_prefix('/').map(|steps| steps.split('/').collect::<Vec<_>>()) else { continue };
        let (done, list) = match operation {
            Operation::Remove => (remove(event, &steps), "erased"),
            Operation::Upsert(value) => (upsert(event, &steps, value), "masked"),
        };
        if done {
            note(event, list, path);
        }
    }
    Ok(())
}

/// Adds a pointer to `erased` or `masked`.
pub(super) fn note(event: &mut Map<String, Value>, list: &str, path: &str) {
    if let Value::Array(paths) = event.entry(list).or_insert_with(|| Value::Array(Vec::new())) {
        paths.push(path.into());
    }
}

impl<'a> Rule<'a> {
    fn read(value: &'a Value) -> Result<Self, RuleError> {
        let (path, operation) = match value {
            Value::String(path) => (path.as_str(), Operation::Remove),
            Value::Object(rule) => {
                let operation = match rule.get("op").and_then(Value::as_str) {
                    Some("remove") => Operation::Remove,
                    Some("upsert") => Operation::Upsert(rule.get("value").unwrap_or(&Value::Null)),
                    _ => return Err(RuleError::Operation),
                };
                (rule.get("path").and_then(Value::as_str).ok_or(RuleError::NoRule)?, operation)
            }
            _ => return Err(RuleError::NoRule),
        };
        let first = path.strip_prefix('/').and_then(|steps| steps.split('/').next());
        if first.is_none_or(|part| !PARTS.contains(&part)) {
            return Err(RuleError::Path);
        }
        Ok(Self { path, operation })
    }
}

fn remove(event: &mut Map<String, Value>, steps: &[&str]) -> bool {
    let Some((last, before)) = steps.split_last() else { return false };
    let Some((first, between)) = before.split_first() else { return event.remove(*last).is_some() };
    match event.get_mut(*first).and_then(|part| between.iter().try_fold(part, child)) {
        Some(Value::Object(members)) => key(members, last).is_some_and(|name| members.remove(&name).is_some()),
        Some(Value::Array(items)) => index(items, last).is_some_and(|at| {
            items.remove(at);
            true
        }),
        _ => false,
    }
}

/// Puts `value` where the steps lead, making the objects on the way. A part of the event that is not there stays away.
fn upsert(event: &mut Map<String, Value>, steps: &[&str], value: &Value) -> bool {
    let Some((last, before)) = steps.split_last() else { return false };
    let Some((first, between)) = before.split_first() else {
        return event.get_mut(*last).map(|part| *part = value.clone()).is_some();
    };
    let Some(part) = event.get_mut(*first) else { return false };
    let way = between.iter().try_fold(part, |node, step| match node {
        Value::Object(members) => {
            let name = key(members, step).unwrap_or_else(|| (*step).to_owned());
            Some(members.entry(name).or_insert_with(|| Value::Object(Map::new())))
        }
        other => child(other, step),
    });
    match way {
        Some(Value::Object(members)) => {
            let name = key(members, last).unwrap_or_else(|| (*last).to_owned());
            members.insert(name, value.clone());
            true
        }
        Some(Value::Array(items)) => match index(items, last).and_then(|at| items.get_mut(at)) {
            Some(item) => {
                *item = value.clone();
                true
            }
            None => false,
        },
        _ => false,
    }
}

fn child<'v>(node: &'v mut Value, step: &&str) -> Option<&'v mut Value> {
    match node {
        Value::Object(members) => key(members, step).and_then(|name| members.get_mut(&name)),
        Value::Array(items) => index(items, step).and_then(|at| items.get_mut(at)),
        _ => None,
    }
}

/// The member that a step names: as it is written, which is how OPA reads it, else as a JSON pointer (RFC 6901 §3), which
/// reaches names with a slash too.
fn key(members: &Map<String, Value>, step: &str) -> Option<String> {
    if members.contains_key(step) {
        return Some(step.to_owned());
    }
    let unescaped = step.replace("~1", "/").replace("~0", "~");
    members.contains_key(&unescaped).then_some(unescaped)
}

fn index(items: &[Value], step: &str) -> Option<usize> {
    step.parse().ok().filter(|at| *at < items.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(rules: &Value) -> Result<Value, RuleError> {
        let event = json!({
            "decision_id": "1",
            "input": {"a": {"b": 1, "c": [1, {"d": 2}]}, "x/y": 3, "~1": 4},
            "result": [true, {"t": 1}],
        });
        let mut event = event.as_object().unwrap().clone();
        apply(rules, &mut event).map(|()| Value::Object(event))
    }

    #[test]
    fn rules_take_out_and_put_in_and_say_so() {
        for (rules, pointer, expected, erased, upserted) in [
            (json!(["/input/a/b"]), "/input/a", json!({"c": [1, {"d": 2}]}), json!(["/input/a/b"]), Value::Null),
            (
                json!(["/input/a/c/1/d", "/input/a/c/0"]),
                "/input/a/c",
                json!([{}]),
                json!(["/input/a/c/1/d", "/input/a/c/0"]),
                Value::Null,
            ),
            (json!(["/input"]), "/input", Value::Null, json!(["/input"]), Value::Null),
            (json!(["/input/no/such", "/nd_builtin_cache", "/input/a/c/7"]), "/input/a/b", json!(1), Value::Null, Value::Null),
            (json!(["/input/x~1y"]), "/input/x~1y", Value::Null, json!(["/input/x~1y"]), Value::Null),
            (json!(["/input/~1"]), "/input/~01", Value::Null, json!(["/input/~1"]), Value::Null),
            (json!([{"op": "remove", "path": "/result/1/t"}]), "/result", json!([true, {}]), json!(["/result/1/t"]), Value::Null),
            (
                json!([{"op": "upsert", "path": "/input/a/b", "value": "*"}]),
                "/input/a/b",
                json!("*"),
                Value::Null,
                json!(["/input/a/b"]),
            ),
            (
                json!([{"op": "upsert", "path": "/input/n/m", "value": [1]}]),
                "/input/n",
                json!({"m": [1]}),
                Value::Null,
                json!(["/input/n/m"]),
            ),
            (
                json!([{"op": "upsert", "path": "/result/0", "value": 0}]),
                "/result/0",
                json!(0),
                Value::Null,
                json!(["/result/0"]),
            ),
            (json!([{"op": "upsert", "path": "/result", "value": {}}]), "/result", json!({}), Value::Null, json!(["/result"])),
            (json!([{"op": "upsert", "path": "/result/9", "value": 0}]), "/result/1", json!({"t": 1}), Value::Null, Value::Null),
            (
                json!([{"op": "upsert", "path": "/nd_builtin_cache/x", "value": 0}]),
                "/nd_builtin_cache",
                Value::Null,
                Value::Null,
                Value::Null,
            ),
        ] {
            let event = masked(&rules).unwrap();
            assert_eq!(event.pointer(pointer).cloned().unwrap_or_default(), expected, "{rules}");
            assert_eq!((&event["erased"], &event["masked"]), (&erased, &upserted), "{rules}");
        }
    }

    #[test]
    fn a_rule_that_is_not_understood_refuses_them_all() {
        for (rules, error) in [
            (json!({"a": 1}), RuleError::NoList),
            (json!(true), RuleError::NoList),
            (json!(["/input/a", 1]), RuleError::NoRule),
            (json!([{"op": "remove"}]), RuleError::NoRule),
            (json!([{"path": "/input/a"}]), RuleError::Operation),
            (json!([{"op": "move", "path": "/input/a"}]), RuleError::Operation),
            (json!(["input/a"]), RuleError::Path),
            (json!(["/decision_id"]), RuleError::Path),
            (json!([""]), RuleError::Path),
        ] {
            assert_eq!(masked(&rules), Err(error), "{rules}");
        }
    }
}
