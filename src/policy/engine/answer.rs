//! The engine's value as JSON, the way OPA prints it: sets are arrays, keys that are no strings become JSON text.

use regorus::Value;
use serde_json::{Map, Number, Value as Json};

use super::Failure;
use crate::{policy::builtins::order, verdict::Reason};

/// Deeper answers are refused: whoever reads them recurses.
const MAX_DEPTH: usize = 128;
/// Values in an answer. A few that are shared again and again would be without end when written out.
const MAX_VALUES: usize = 100_000;

pub(in crate::policy) fn to_json(value: &Value) -> Result<Json, Failure> {
    let detail = || {
        format!("the answer nests deeper than {MAX_DEPTH}, holds more than {MAX_VALUES} values, or a number that JSON has not")
    };
    let mut left = MAX_VALUES;
    convert(value, MAX_DEPTH, &mut left).ok_or_else(|| Failure::new(Reason::PolicyError, detail()))
}

fn convert(value: &Value, depth: usize, left: &mut usize) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    *left = left.checked_sub(1)?;
    Some(match value {
        Value::Null | Value::Undefined => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Number(_) => Json::Number(number(value)?),
        Value::String(text) => Json::String(text.to_string()),
        Value::Array(items) => Json::Array(items.iter().map(|item| convert(item, depth, left)).collect::<Option<_>>()?),
        Value::Set(items) => {
            let items = order::sorted(items.iter()).into_iter();
            Json::Array(items.map(|item| convert(item, depth, left)).collect::<Option<_>>()?)
        }
        Value::Object(fields) => Json::Object(
            fields
                .iter_sorted()
                .map(|(key, value)| Some((key_text(key, depth, left)?, convert(value, depth, left)?)))
                .collect::<Option<Map<_, _>>>()?,
        ),
    })
}

/// Integers stay exact, whatever their size.
fn number(value: &Value) -> Option<Number> {
    if let Ok(small) = value.as_i64() {
        return Some(Number::from(small));
    }
    serde_json::from_str(&value.to_json_str().ok()?).ok()
}

fn key_text(key: &Value, depth: usize, left: &mut usize) -> Option<String> {
    match key {
        Value::String(text) => Some(text.to_string()),
        other => convert(other, depth, left).map(|json| json.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_exact_and_sets_become_arrays() {
        for text in ["1", "-1", "18446744073709551615", "123456789012345678901234567890", "1.5", r#"{"a":[1,{"b":null}]}"#] {
            assert_eq!(to_json(&Value::from_json_str(text).unwrap()).unwrap().to_string(), text);
        }
        let mut set = Value::new_set();
        set.as_set_mut().unwrap().insert(Value::from("b"));
        set.as_set_mut().unwrap().insert(Value::from("a"));
        assert_eq!(to_json(&set).unwrap().to_string(), r#"["a","b"]"#);
        let mut object = Value::new_object();
        object.as_object_mut().unwrap().insert(Value::from(1u64), set);
        assert_eq!(to_json(&object).unwrap().to_string(), r#"{"1":["a","b"]}"#);
    }

    #[test]
    fn a_bottomless_answer_is_refused() {
        let deep = (0..200).fold(Value::Null, |inner, _| Value::from(vec![inner]));
        assert_eq!(to_json(&deep).unwrap_err().reason, Reason::PolicyError);
        let wide = (0..60).fold(Value::Null, |inner, _| Value::from(vec![inner.clone(), inner]));
        assert_eq!(to_json(&wide).unwrap_err().reason, Reason::PolicyError);
    }
}
