//! `json.filter`: the engine drops scalars that a path leads into, orders arrays by the text of an index, and takes texts
//! for indexes that OPA does not.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{Builtin, Fault, bound, operand, within};

pub(super) const FILTER: &[Builtin] = &[Builtin { name: "json.filter", arity: 2, run: filter }];

/// Longest path: what goes through it recurses.
const MAX_PATH: usize = 500;

/// Where paths lead. Nothing stands below the end of one.
#[derive(Default)]
struct Paths(BTreeMap<Value, Option<Self>>);

impl Paths {
    fn add(&mut self, path: &[Value]) {
        match path {
            [] => {}
            [last] => drop(self.0.insert(last.clone(), None)),
            [first, rest @ ..] => {
                if let Some(below) = self.0.entry(first.clone()).or_insert_with(|| Some(Self::default())) {
                    below.add(rest);
                }
            }
        }
    }
}

fn filter(args: &[Value]) -> Result<Value, Fault> {
    let Some(document @ Value::Object(_)) = args.first() else { return Err(operand(1, "object")) };
    bound::is_walkable(document)?;
    let given: Vec<&Value> = match args.get(1) {
        Some(Value::Array(paths)) => paths.iter().collect(),
        Some(Value::Set(paths)) => paths.iter().collect(),
        _ => return Err(operand(2, "one of {set, array}")),
    };
    let mut paths = Paths::default();
    for path in given {
        let path = parts(path)?;
        within(path.len() <= MAX_PATH, "a path is too long")?;
        paths.add(&path);
    }
    Ok(kept(document, &paths))
}

/// A path is a text with slashes, `~1` and `~0` within its parts, or an array of keys.
fn parts(path: &Value) -> Result<Vec<Value>, Fault> {
    match path {
        Value::String(path) if path.is_empty() => Ok(Vec::new()),
        Value::String(path) => {
            let part = |part: &str| Value::from(part.replace("~1", "/").replace("~0", "~"));
            Ok(path.trim_start_matches('/').split('/').map(part).collect())
        }
        Value::Array(path) => Ok(path.to_vec()),
        _ => Err(operand(2, "one of {set, array} containing string paths or array of path segments")),
    }
}

/// What the paths lead to. A scalar stays, however far they would go on.
fn kept(value: &Value, paths: &Paths) -> Value {
    let keep = |value: &Value, key: &Value| match paths.0.get(key)? {
        Some(below) => Some(kept(value, below)),
        None => Some(value.clone()),
    };
    match value {
        Value::Object(fields) => Value::from(
            fields.iter().filter_map(|(key, value)| Some((key.clone(), keep(value, key)?))).collect::<BTreeMap<_, _>>(),
        ),
        Value::Array(items) => {
            let kept = items.iter().enumerate().filter_map(|(index, item)| keep(item, &Value::from(index.to_string())));
            Value::from(kept.collect::<Vec<_>>())
        }
        Value::Set(items) => Value::from(items.iter().filter_map(|item| keep(item, item)).collect::<BTreeSet<_>>()),
        scalar => scalar.clone(),
    }
}
