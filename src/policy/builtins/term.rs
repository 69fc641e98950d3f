//! Values as OPA prints terms, `[1, "a"]`, `{"k": null}`, `{1, 2}`, `set()`, with strings quoted as Go quotes them. What
//! prints JSON is `json`'s.

use std::fmt::Write;

use regorus::Value;

use super::{Fault, MAX_TEXT, engine, order, within};

/// Appends the value to `text`.
pub(super) fn print(value: &Value, text: &mut String) -> Result<(), Fault> {
    within(text.len() <= MAX_TEXT, "the text is too large")?;
    match value {
        Value::Array(items) => list('[', ']', items.iter().map(|item| (None, item)), text),
        Value::Set(items) if items.is_empty() => {
            text.push_str("set()");
            Ok(())
        }
        Value::Set(items) => list('{', '}', order::sorted(items.iter()).into_iter().map(|item| (None, item)), text),
        Value::Object(fields) => {
            let keys = order::sorted(fields.iter().map(|(key, _)| key)).into_iter();
            list('{', '}', keys.filter_map(|key| fields.get(key).map(|value| (Some(key), value))), text)
        }
        Value::String(plain) => {
            text.push_str(&quote(plain)?);
            Ok(())
        }
        scalar => {
            text.push_str(&serde_json::to_string(scalar).unwrap_or_default());
            Ok(())
        }
    }
}

fn list<'v>(
    open: char,
    close: char,
    items: impl Iterator<Item = (Option<&'v Value>, &'v Value)>,
    text: &mut String,
) -> Result<(), Fault> {
    text.push(open);
    for (index, (key, item)) in items.enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if let Some(key) = key {
            print(key, text)?;
            text.push_str(": ");
        }
        print(item, text)?;
    }
    text.push(close);
    Ok(())
}

/// Go's `strconv.Quote`. What of Unicode can be shown is a long table, which the engine has.
pub(super) fn quote(text: &str) -> Result<String, Fault> {
    if !text.is_ascii() {
        return match engine("sprintf", &[Value::from("%q"), Value::from(vec![Value::from(text)])])? {
            Value::String(quoted) => Ok(quoted.to_string()),
            _ => Err("cannot be quoted".into()),
        };
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            letter if letter.is_ascii_control() => drop(write!(quoted, "\\x{:02x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    Ok(quoted)
}
