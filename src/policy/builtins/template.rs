//! `internal.template_string`, which stands for OPA's template strings: see `rewrite/lexical`.

use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, order};

pub(super) const TEMPLATE: &[Builtin] = &[Builtin { name: "internal.template_string", arity: 1, run: template_string }];

/// Each part is a string, or the set of the values that an expression has: none where it is undefined.
fn template_string(args: &[Value]) -> Result<Value, Fault> {
    let [Value::Array(parts)] = args else { return Err("operand 1 must be array".into()) };
    let mut text = String::new();
    for part in parts.iter() {
        let value = match part {
            Value::Set(values) => {
                let mut values = values.iter();
                match (values.next(), values.next()) {
                    (None, _) => {
                        text.push_str("<undefined>");
                        continue;
                    }
                    (Some(value), None) => value,
                    _ => return Err("template-strings must not produce multiple outputs".into()),
                }
            }
            value => value,
        };
        match value {
            Value::String(plain) => text.push_str(plain),
            value => write(value, &mut text),
        }
        if text.len() > MAX_TEXT {
            return Err(Fault::limit("the text is too large"));
        }
    }
    Ok(Value::from(text))
}

/// The value as OPA prints terms: `[1, "a"]`, `{"k": null}`, `{1, 2}`, `set()`.
fn write(value: &Value, text: &mut String) {
    let mut list = |open: char, close: char, items: &mut dyn Iterator<Item = (Option<&Value>, &Value)>| {
        text.push(open);
        for (index, (key, item)) in items.enumerate() {
            // What is larger than this is refused by the caller.
            if text.len() > MAX_TEXT {
                return;
            }
            if index > 0 {
                text.push_str(", ");
            }
            if let Some(key) = key {
                write(key, text);
                text.push_str(": ");
            }
            write(item, text);
        }
        text.push(close);
    };
    match value {
        Value::Array(items) => list('[', ']', &mut items.iter().map(|item| (None, item))),
        Value::Set(items) if items.is_empty() => text.push_str("set()"),
        Value::Set(items) => list('{', '}', &mut order::sorted(items.iter()).into_iter().map(|item| (None, item))),
        Value::Object(fields) => {
            let mut keys = order::sorted(fields.iter().map(|(key, _)| key)).into_iter();
            let mut sorted = std::iter::from_fn(|| keys.next().and_then(|key| fields.get(key).map(|value| (Some(key), value))));
            list('{', '}', &mut sorted);
        }
        scalar => text.push_str(&serde_json::to_string(scalar).unwrap_or_default()),
    }
}
