//! OPA's total order of values: null, booleans, numbers, strings, arrays, objects, sets. The engine's own has sets before
//! objects, at every depth.

use std::cmp::Ordering;

use regorus::Value;

/// How `a` stands to `b` in OPA.
pub(in crate::policy) fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => sequence(a.iter(), b.iter(), compare),
        (Value::Set(a), Value::Set(b)) => {
            let (a, b) = (sorted(a.iter()), sorted(b.iter()));
            sequence(a.into_iter(), b.into_iter(), compare)
        }
        (Value::Object(a), Value::Object(b)) => {
            let (a, b) = (sorted_fields(a.iter()), sorted_fields(b.iter()));
            sequence(a.into_iter(), b.into_iter(), |(key, value), (other_key, other)| {
                compare(key, other_key).then_with(|| compare(value, other))
            })
        }
        _ => rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)),
    }
}

/// The values in OPA's order.
pub(in crate::policy) fn sorted<'v>(values: impl Iterator<Item = &'v Value>) -> Vec<&'v Value> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|a, b| compare(a, b));
    values
}

fn sorted_fields<'v>(fields: impl Iterator<Item = (&'v Value, &'v Value)>) -> Vec<(&'v Value, &'v Value)> {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|(a, _), (b, _)| compare(a, b));
    fields
}

/// The first difference decides, then the length.
fn sequence<T>(
    mut a: impl ExactSizeIterator<Item = T>,
    mut b: impl ExactSizeIterator<Item = T>,
    compare: impl Fn(T, T) -> Ordering,
) -> Ordering {
    let lengths = a.len().cmp(&b.len());
    while let (Some(a), Some(b)) = (a.next(), b.next()) {
        match compare(a, b) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    lengths
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
        Value::Set(_) => 6,
        Value::Undefined => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_the_order_of_opa() {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        let set =
            |text: &str| Value::from(value(text).as_array().unwrap().iter().cloned().collect::<std::collections::BTreeSet<_>>());
        let order = [
            value("null"),
            value("false"),
            value("true"),
            value("-1"),
            value("2.5"),
            value("\"a\""),
            value("\"b\""),
            value("[]"),
            value("[1]"),
            value("[1, 2]"),
            value("[2]"),
            Value::from(vec![value("{\"a\": 1}")]),
            Value::from(vec![set("[]")]),
            value("{}"),
            value("{\"a\": 1}"),
            value("{\"a\": 2}"),
            value("{\"a\": 2, \"b\": 0}"),
            value("{\"b\": 1}"),
            set("[]"),
            set("[1]"),
            set("[1, 2]"),
            set("[2]"),
        ];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
    }
}
