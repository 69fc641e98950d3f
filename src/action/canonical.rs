//! JSON in the one form of RFC 8785, so that equal arguments have equal digests.

use aws_lc_rs::digest::{SHA256, digest as sha256};
use serde_json::Value;

/// Whole numbers that a double holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// SHA-256 in hex of the canonical form.
pub(super) fn digest(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    hex::encode(sha256(&SHA256, text.as_bytes()))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            // RFC 8785 §3.2.3: by UTF-16 code units.
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                string(name, out);
                out.push(':');
                write(members.get(name).unwrap_or(&Value::Null), out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::String(text) => string(text, out),
        Value::Number(number) => self::number(number, out),
        Value::Bool(_) | Value::Null => out.push_str(&value.to_string()),
    }
}

/// `serde_json` escapes as RFC 8785 §3.2.2.2 asks.
fn string(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

/// A whole number that a double holds is written as such; anything else by its bits as a double, which is the same for
/// equal numbers, though not the text that RFC 8785 §3.2.2.3 has.
fn number(number: &serde_json::Number, out: &mut String) {
    match number.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        Some(double) if double.fract() == 0.0 && double.abs() < EXACT => out.push_str(&(double as i64).to_string()),
        Some(double) => out.push_str(&format!("{double:e}")),
        None => out.push_str(&number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_arguments_have_equal_digests() {
        let text = |text: &str| digest(&serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(text(r#"{"b":1,"a":[1.0,"é",null]}"#), text(r#"{ "a": [1, "\u00e9", null], "b": 1e0 }"#));
        assert_ne!(text(r#"{"a":1}"#), text(r#"{"a":2}"#));
        assert_ne!(text(r#"{"a":"1"}"#), text(r#"{"a":1}"#));
        let mut out = String::new();
        write(&serde_json::from_str(r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5}"#).unwrap(), &mut out);
        assert_eq!(out, "{\"\\r\":2,\"1\":4,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}", "RFC 8785 §3.2.3's own example");
    }
}
