//! Envoy's metadata as plain JSON.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use envoy_types::pb::{
    envoy::config::core::v3 as core,
    google::protobuf::{Any, Struct, Value as ProtoValue, value::Kind},
};
use serde_json::{Map, Number, Value};

use crate::request::Metadata;

/// `filter_metadata` unpacked, `typed_filter_metadata` as `{typeUrl, value}` with the value in base64. As everywhere in
/// the input, an empty field is absent.
pub fn metadata(metadata: core::Metadata) -> Metadata {
    Metadata {
        filter: metadata.filter_metadata.into_iter().map(|(name, fields)| (name, Value::Object(object(fields)))).collect(),
        typed: metadata.typed_filter_metadata.into_iter().map(|(name, any)| (name, typed(any))).collect(),
    }
}

fn typed(any: Any) -> Value {
    let mut shown = Map::new();
    if !any.type_url.is_empty() {
        shown.insert("typeUrl".to_owned(), Value::String(any.type_url));
    }
    if !any.value.is_empty() {
        shown.insert("value".to_owned(), Value::String(STANDARD.encode(any.value)));
    }
    Value::Object(shown)
}

/// A `Struct` as plain JSON.
pub fn object(fields: Struct) -> Map<String, Value> {
    let fields: HashMap<String, ProtoValue> = fields.fields;
    fields.into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// Recursion is bounded by prost, which refuses a message nested deeper than 100.
fn value(value: ProtoValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(double)) => number(double),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(self::value).collect()),
    }
}

/// A whole number is written without a fraction, as Go writes it: `1` and not `1.0`. NaN and the infinities, which JSON
/// has not, become null.
fn number(double: f64) -> Value {
    // Up to here every whole double is one i64, and its digits are exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if double.fract() == 0.0 && double.abs() <= EXACT {
        return Value::from(double as i64);
    }
    Number::from_f64(double).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::ListValue;
    use serde_json::json;

    use super::*;

    fn proto(kind: Kind) -> ProtoValue {
        ProtoValue { kind: Some(kind) }
    }

    #[test]
    fn numbers_are_doubles_written_as_go_writes_them() {
        for (double, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5.0, "5"),
            (-1.5, "-1.5"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
        ] {
            assert_eq!(number(double).to_string(), text);
        }
        assert_eq!(number(1e300).as_f64(), Some(1e300));
    }

    #[test]
    fn d36_struct_is_plain_json_and_any_is_shown_packed() {
        let list = ListValue { values: vec![proto(Kind::BoolValue(true)), proto(Kind::NullValue(0)), ProtoValue { kind: None }] };
        let inner = Struct { fields: [("n".to_owned(), proto(Kind::NumberValue(5.0)))].into() };
        let fields = Struct {
            fields: [
                ("list".to_owned(), proto(Kind::ListValue(list))),
                ("inner".to_owned(), proto(Kind::StructValue(inner))),
                ("$serde_json::private::Number".to_owned(), proto(Kind::StringValue("1".to_owned()))),
            ]
            .into(),
        };
        let shown = metadata(core::Metadata {
            filter_metadata: [("ns".to_owned(), fields)].into(),
            typed_filter_metadata: [
                ("full".to_owned(), Any { type_url: "t/x".to_owned(), value: vec![0xff, 0xfe] }),
                ("empty".to_owned(), Any::default()),
            ]
            .into(),
        });
        let expected = json!({"list": [true, null, null], "inner": {"n": 5}, "$serde_json::private::Number": "1"});
        assert_eq!(shown.filter["ns"], expected);
        assert_eq!(Value::Object(shown.typed), json!({"full": {"typeUrl": "t/x", "value": "//4="}, "empty": {}}));
    }
}
