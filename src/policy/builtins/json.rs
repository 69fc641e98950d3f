//! JSON: what is valid, what is read, patches and schemas.

use std::collections::BTreeMap;

use jsonschema::{
    PatternOptions, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use regorus::Value;
use serde_json::Value as Json;

use super::{
    Builtin, Fault, MAX_TEXT,
    bound::{self, Size},
    engine, operand, text_operand, within,
};
use crate::policy::load;

pub(super) const JSON: &[Builtin] = &[
    Builtin { name: "json.is_valid", arity: 1, run: |args| Ok(Value::Bool(text_operand(args, 0).is_ok_and(is_json))) },
    Builtin { name: "json.unmarshal", arity: 1, run: unmarshal },
    Builtin {
        name: "json.marshal",
        arity: 1,
        run: |args| args.first().ok_or_else(|| operand(1, "any")).and_then(marshal).map(Value::from),
    },
    Builtin { name: "json.patch", arity: 2, run: patch },
    Builtin { name: "json.match_schema", arity: 2, run: match_schema },
    Builtin { name: "json.verify_schema", arity: 1, run: verify_schema },
];

/// What is told of a key that the parser has taken for itself.
pub(super) const RESERVED: &str = "the text has a key that is reserved";

/// Types of JSON schema.
const TYPES: [&str; 7] = ["array", "boolean", "integer", "number", "null", "object", "string"];
/// Largest document or schema in bytes.
const MAX_DOCUMENT: usize = 1 << 20;
/// Errors that are told of one document.
const MAX_ERRORS: usize = 1_000;

/// Largest exponent of a number: beyond it a number is a bomb to the engine.
const MAX_EXPONENT: u32 = 10_000;
/// From here on OPA takes no number either: its limit is two to the power of 100,000.
const NO_NUMBER: u32 = 40_000;

pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn unmarshal(args: &[Value]) -> Result<Value, Fault> {
    parse(text_operand(args, 0)?)
}

pub(super) fn parse(text: &str) -> Result<Value, Fault> {
    bound::numbers_are_short(text)?;
    // The parser would take an object with such a key for a number, and OPA has an object.
    within(load::private_key(text.as_bytes()).is_none(), RESERVED)?;
    engine("json.unmarshal", &[Value::from(text)])
}

/// JSON as Go writes it: sets are sorted lists, members are sorted, and what HTML could take for markup is escaped.
pub(super) fn marshal(value: &Value) -> Result<String, Fault> {
    bound::prints(std::slice::from_ref(value), 0)?;
    let plain = serde_json::to_string(value).map_err(|error| Fault(format!("cannot be written as JSON: {error}")))?;
    let mut out = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    Ok(out)
}

pub(super) fn exponents_are_small(text: &str) -> Result<(), Fault> {
    match largest_exponent(text) {
        NO_NUMBER.. => Err("invalid number: number too big".into()),
        exponent => within(exponent <= MAX_EXPONENT, "the exponent of a number is too large"),
    }
}

fn patch(args: &[Value]) -> Result<Value, Fault> {
    let Some(Value::Array(operations)) = args.get(1) else { return Err(operand(2, "array of objects")) };
    bound::patch(args.first().unwrap_or(&Value::Undefined), operations.as_slice())?;
    engine("json.patch", args)
}

/// The largest exponent, of either sign, of a number in the text.
fn largest_exponent(text: &str) -> u32 {
    let mut largest = 0;
    let mut bytes = text.bytes().peekable();
    let mut in_string = false;
    let mut after_digit = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => drop(bytes.next()),
            b'"' => in_string = !in_string,
            b'e' | b'E' if !in_string && after_digit => {
                bytes.next_if(|byte| matches!(byte, b'+' | b'-'));
                let mut exponent = 0_u32;
                while let Some(digit) = bytes.next_if(u8::is_ascii_digit) {
                    exponent = exponent.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
                }
                largest = largest.max(exponent);
            }
            _ => {}
        }
        after_digit = byte.is_ascii_digit();
    }
    largest
}

/// A document given as itself or as its JSON text.
fn document(args: &[Value], index: usize) -> Result<Json, Fault> {
    match args.get(index) {
        Some(Value::String(text)) => {
            within(text.len() <= MAX_DOCUMENT, "the document is too large")?;
            serde_json::from_str(text).map_err(|error| Fault(format!("jsonschema: {error}")))
        }
        Some(value @ Value::Object(_)) => {
            let size = Size::of(value, &mut { MAX_DOCUMENT })?;
            within(size.bytes <= MAX_DOCUMENT, "the document is too large")?;
            serde_json::to_value(value).map_err(|error| Fault(format!("jsonschema: {error}")))
        }
        _ => Err(operand(index + 1, "string, object")),
    }
}

/// A schema that refers to none elsewhere: nothing is fetched.
fn schema(args: &[Value], index: usize) -> Result<Validator, Fault> {
    let schema = document(args, index)?;
    let wrong = |error: &dyn std::fmt::Display| match unknown_type(&schema) {
        Some(name) => Fault(format!(
            "has a primitive type that is NOT VALID -- given: /{name}/ Expected valid values are:[{}]",
            TYPES.join(" ")
        )),
        None => Fault(error.to_string()),
    };
    // This engine of patterns is linear in the text, as Go's is.
    let made = jsonschema::options().with_pattern_options(PatternOptions::regex()).build(&schema);
    made.map_err(|error| wrong(&error))
}

/// The first `type` in a schema that is none.
fn unknown_type(schema: &Json) -> Option<&str> {
    let inner: Vec<&Json> = match schema {
        Json::Object(members) => {
            let given = match members.get("type") {
                Some(Json::String(name)) => Some(name.as_str()),
                _ => None,
            };
            if let Some(name) = given.filter(|name| !TYPES.contains(name)) {
                return Some(name);
            }
            members.values().collect()
        }
        Json::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().find_map(unknown_type)
}

/// Whether the document is valid, and what is wrong with it.
fn match_schema(args: &[Value]) -> Result<Value, Fault> {
    let document = document(args, 0)?;
    let validator = schema(args, 1)?;
    let mut errors = Vec::new();
    let mut size = 0;
    for error in validator.iter_errors(&document).take(MAX_ERRORS) {
        let error = told(&error);
        // An error may quote the document.
        size += Size::of(&error, &mut { MAX_ERRORS })?.bytes;
        within(size <= MAX_TEXT, "the errors are too large")?;
        errors.push(error);
    }
    Ok(Value::from(vec![Value::Bool(errors.is_empty()), Value::from(errors)]))
}

fn verify_schema(args: &[Value]) -> Result<Value, Fault> {
    let error = match schema(args, 0) {
        Ok(_) => Value::Null,
        Err(Fault(text)) => Value::from(format!("jsonschema: {text}")),
    };
    Ok(Value::from(vec![Value::Bool(error == Value::Null), error]))
}

/// An error as OPA shows it. The texts of the most usual kinds are OPA's, of the others the library's own.
fn told(error: &ValidationError<'_>) -> Value {
    let path = error.instance_path().to_string();
    let field = path.trim_start_matches('/').replace('/', ".");
    let field = if field.is_empty() { "(root)".to_owned() } else { field };
    let (kind, description) = match error.kind() {
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(several) => several.iter().map(|one| one.to_string()).collect::<Vec<_>>().join("/"),
            };
            ("invalid_type", format!("Invalid type. Expected: {expected}, given: {}", kind_of(error.instance())))
        }
        ValidationErrorKind::Required { property } => {
            ("required", format!("{} is required", property.as_str().unwrap_or_default()))
        }
        other => (other.keyword(), error.to_string()),
    };
    let text = |key: &str, value: String| (Value::from(key), Value::from(value));
    let members = [
        text("desc", description.clone()),
        text("error", format!("{field}: {description}")),
        text("field", field),
        text("type", kind.to_owned()),
    ];
    Value::from(BTreeMap::from(members))
}

fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
