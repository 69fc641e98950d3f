//! JSON from a client, as Go's `encoding/json` reads it: one value and nothing after it, the last of two equal keys
//! wins, numbers keep their digits, bytes that are no UTF-8 become U+FFFD.
//!
//! Two differences to Go are kept, each to the strict side. Nesting ends at 128 levels (Go: 10,000), so that the stack
//! is bounded here and in everything that walks the value later; and a `\u` escape of half a surrogate pair is an
//! error (Go: U+FFFD).

use std::borrow::Cow;

use serde_json::Value;

use super::escape::lossy;
pub use crate::json::JsonError;
use crate::json::has_reserved_key;

pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let text = match str::from_utf8(text) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(lossy(text.to_vec())),
    };
    if has_reserved_key(&text) {
        return Err(JsonError::ReservedKey);
    }
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_go_reads_them() {
        for (text, expected) in [
            (r#""a string""#, json!("a string")),
            ("true", json!(true)),
            (" null\n", Value::Null),
            (r#"[1,"\/",{}]"#, json!([1, "/", {}])),
            (r#"{"a":1,"a":2}"#, json!({"a": 2})),
            (r#"{"a":"\u0041\ud83d\ude00"}"#, json!({"a": "A😀"})),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        for digits in ["12345678901234567890.5", "0.1", "-0", "100000000000000000000000000000001", "1.50"] {
            assert_eq!(parse(digits.as_bytes()).unwrap().to_string(), digits);
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced_one_by_one() {
        assert_eq!(parse(b"{\"a\":\"x\xff\xe2\x82y\"}").unwrap(), json!({"a": "x\u{fffd}\u{fffd}\u{fffd}y"}));
        assert!(parse(b"\xff1").is_err());
    }

    #[test]
    fn bad_json_is_an_error() {
        for text in ["", "{", "{} x", "{}{}", "{'a':1}", "[1,]", "01", "nul", "\u{feff}1", "\"\n\"", r#""\ud800""#] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse(format!("{}{}", "[".repeat(200), "]".repeat(200)).as_bytes()).is_err());
        assert!(parse(format!("{}{}", "[".repeat(120), "]".repeat(120)).as_bytes()).is_ok());
    }

    #[test]
    fn a_key_of_the_parsers_own_is_refused_however_it_is_written() {
        for text in [
            r#"{"$serde_json::private::Number":"1"}"#,
            r#"{"$serde_json::private::RawValue" : "1"}"#,
            r#"[{"a":{"\u0024serde_json::private::Number":"1"}}]"#,
            r#"{"a":"\"","$serde_json::private::Num\u0062er"
                :"7"}"#,
            r#"{"\u0024\u0073erde_json\u003a:private::Number":"1"}"#,
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::ReservedKey)), "{text}");
        }
    }

    #[test]
    fn the_same_text_is_fine_as_a_value() {
        let text = r#"{"a":"$serde_json::private::Number","b":["\u0024serde_json::private::Number"]}"#;
        assert_eq!(parse(text.as_bytes()).unwrap()["b"][0], "$serde_json::private::Number");
    }
}
