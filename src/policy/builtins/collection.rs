//! Arrays, sets and conversions that the engine lacks, among them what OPA keeps for old policies.

use std::collections::BTreeSet;

use regorus::Value;

use super::{Builtin, Fault, bound, operand, order, within};

pub(super) const COLLECTION: &[Builtin] = &[
    Builtin { name: "array.flatten", arity: 1, run: flatten },
    Builtin { name: "all", arity: 1, run: |args| items(args).map(|all| Value::Bool(all.iter().all(is_true))) },
    Builtin { name: "any", arity: 1, run: |args| items(args).map(|all| Value::Bool(all.iter().any(is_true))) },
    Builtin { name: "set_diff", arity: 2, run: difference },
    Builtin { name: "cast_array", arity: 1, run: |args| items(args).map(Value::from) },
    Builtin {
        name: "cast_set",
        arity: 1,
        run: |args| items(args).map(|all| Value::from(all.into_iter().collect::<BTreeSet<_>>())),
    },
    Builtin { name: "cast_string", arity: 1, run: |args| only(args, "string", |value| matches!(value, Value::String(_))) },
    Builtin { name: "cast_boolean", arity: 1, run: |args| only(args, "boolean", |value| matches!(value, Value::Bool(_))) },
    Builtin { name: "cast_null", arity: 1, run: |args| only(args, "null", |value| matches!(value, Value::Null)) },
    Builtin { name: "cast_object", arity: 1, run: |args| only(args, "object", |value| matches!(value, Value::Object(_))) },
];

/// One level of arrays in an array is taken apart.
fn flatten(args: &[Value]) -> Result<Value, Fault> {
    let Some(Value::Array(items)) = args.first() else { return Err(operand(1, "array")) };
    let mut flat = Vec::with_capacity(items.len());
    for item in items.iter() {
        within(flat.len() <= bound::MAX_ITEMS, "the array is too long")?;
        match item {
            Value::Array(inner) => flat.extend(inner.iter().cloned()),
            other => flat.push(other.clone()),
        }
    }
    Ok(Value::from(flat))
}

/// The elements of an array, or of a set in OPA's order.
fn items(args: &[Value]) -> Result<Vec<Value>, Fault> {
    match args.first() {
        Some(Value::Array(items)) => Ok(items.to_vec()),
        Some(Value::Set(items)) => Ok(order::sorted(items.iter()).into_iter().cloned().collect()),
        _ => Err(operand(1, "array, set")),
    }
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn difference(args: &[Value]) -> Result<Value, Fault> {
    match args {
        [Value::Set(a), Value::Set(b)] => {
            Ok(Value::from(a.iter().filter(|item| !b.contains(item)).cloned().collect::<BTreeSet<_>>()))
        }
        [Value::Set(_), _] => Err(operand(2, "set")),
        _ => Err(operand(1, "set")),
    }
}

fn only(args: &[Value], kind: &str, is: fn(&Value) -> bool) -> Result<Value, Fault> {
    args.first().filter(|value| is(value)).cloned().ok_or_else(|| operand(1, kind))
}
