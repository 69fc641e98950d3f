//! `urlquery.*`, by the rules of Go's `net/url`: a plus sign is a space, and what is badly escaped is an error.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, operand, text_operand, within};

pub(super) const QUERY: &[Builtin] = &[
    Builtin { name: "urlquery.encode", arity: 1, run: |args| escape(text_operand(args, 0)?).map(Value::from) },
    Builtin { name: "urlquery.decode", arity: 1, run: |args| unescape(text_operand(args, 0)?).map(Value::from) },
    Builtin { name: "urlquery.encode_object", arity: 1, run: encode_object },
    Builtin { name: "urlquery.decode_object", arity: 1, run: decode_object },
];

fn escape(text: &str) -> Result<String, Fault> {
    within(text.len() <= MAX_TEXT / 3, "the answer is too large")?;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

fn unescape(text: &str) -> Result<String, Fault> {
    let mut rest = text;
    while let Some((_, escape)) = rest.split_once('%') {
        if !escape.get(..2).is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let end = escape.char_indices().nth(2).map_or(escape.len(), |(at, _)| at);
            return Err(Fault(format!("invalid URL escape \"%{}\"", escape.get(..end).unwrap_or_default())));
        }
        rest = escape.get(2..).unwrap_or_default();
    }
    // Go keeps bytes that are no text, and shows them as this does.
    Ok(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned())
}

/// `key=value` for each value, in the order of the keys.
fn encode_object(args: &[Value]) -> Result<Value, Fault> {
    let Some(Value::Object(fields)) = args.first() else { return Err(operand(1, "object")) };
    let wrong = || Fault::from("operand 1 values must be string, array[string], or set[string]");
    let mut sorted: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (key, value) in fields.iter() {
        // As in JSON, a key that is no text becomes one.
        let key = match key {
            Value::String(key) => key.to_string(),
            other => serde_json::to_string(other).unwrap_or_default(),
        };
        let text = |value: &'_ Value| -> Result<(), Fault> { value.as_string().map(drop).map_err(|_| wrong()) };
        let values: Vec<&Value> = match value {
            Value::String(_) => vec![value],
            Value::Array(items) => items.iter().collect(),
            Value::Set(items) => items.iter_sorted().collect(),
            _ => return Err(wrong()),
        };
        values.iter().try_for_each(|value| text(value))?;
        sorted.insert(key, values.into_iter().filter_map(|value| value.as_string().ok().map(AsRef::as_ref)).collect());
    }
    let mut out = String::new();
    for (key, values) in &sorted {
        let key = escape(key)?;
        for value in values {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(&key);
            out.push('=');
            out.push_str(&escape(value)?);
            within(out.len() <= MAX_TEXT, "the answer is too large")?;
        }
    }
    Ok(Value::from(out))
}

fn decode_object(args: &[Value]) -> Result<Value, Fault> {
    let mut found: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for pair in text_operand(args, 0)?.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err("invalid semicolon separator in query".into());
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(Value::from(unescape(key)?)).or_default().push(Value::from(unescape(value)?));
    }
    Ok(Value::from(found.into_iter().map(|(key, values)| (key, Value::from(values))).collect::<BTreeMap<_, _>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_written_as_in_go() {
        for (name, text, expected) in [
            ("urlquery.decode", "a+b%20c&d=e", Some("\"a b c&d=e\"")),
            ("urlquery.decode", "%ff", Some("\"\u{fffd}\"")),
            ("urlquery.decode", "%zz", None),
            ("urlquery.decode", "a%2", None),
            ("urlquery.encode", "a b&c=é~*", Some("\"a+b%26c%3D%C3%A9~%2A\"")),
            ("urlquery.encode", "", Some("\"\"")),
            ("urlquery.decode_object", "a=1&a=2&b&=x&c=d=e&", Some(r#"{"":["x"],"a":["1","2"],"b":[""],"c":["d=e"]}"#)),
            ("urlquery.decode_object", "a=1;b=2", None),
            ("urlquery.decode_object", "", Some("{}")),
        ] {
            let run = QUERY.iter().find(|builtin| builtin.name == name).unwrap().run;
            let found = run(&[Value::from(text)]).ok().map(|value| serde_json::to_string(&value).unwrap());
            assert_eq!(found.as_deref(), expected, "{name} {text}");
        }
        for (object, expected) in [
            (r#"{"b": "1", "a": ["x y", "z"], "c": []}"#, Some("\"a=x+y&a=z&b=1\"")),
            (r#"{"a": 1}"#, None),
            (r#"{"a": [1]}"#, None),
        ] {
            let found = encode_object(&[Value::from_json_str(object).unwrap()]).ok();
            assert_eq!(found.map(|value| serde_json::to_string(&value).unwrap()).as_deref(), expected, "{object}");
        }
    }
}
