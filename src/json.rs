//! JSON that somebody else wrote, where it must mean one thing to every reader: no name twice in an object, no nesting
//! without end, no key that `serde_json` keeps for itself. What opa-envoy-plugin reads more loosely (request bodies) is
//! read in `envoy/decode`.

use std::{borrow::Cow, fmt, sync::OnceLock};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// With arbitrary precision, `serde_json` hands numbers through an object with a private key; a sender of such an object
/// would have it turned into a number.
pub const RESERVED: &str = "$serde_json::private::";

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    #[error("key that starts with `{RESERVED}`")]
    ReservedKey,
}

/// Text of some members as records show them, made when it is first asked for. It goes with what it is the text of: a copy
/// starts without, and it never tells two of those apart.
#[derive(Debug, Default)]
pub struct Shown(OnceLock<Box<[u8]>>);

impl Shown {
    pub fn get(&self) -> Option<&[u8]> {
        self.0.get().map(|text| &**text)
    }

    pub fn set(&self, text: &[u8]) {
        // Somebody else may have been first, with the same.
        let _ = self.0.set(text.into());
    }
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shown {}

/// What is wrong with a document that was read, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Keys and indices from the root of the document.
    pub at: Vec<String>,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl Fault {
    /// The same, in a document that has this one at `key`.
    pub fn below(mut self, key: &str) -> Self {
        self.at.insert(0, key.to_owned());
        self
    }
}

/// A document read into its type, or the first thing that is wrong with it.
pub fn document<T: de::DeserializeOwned>(document: &Value) -> Result<T, Vec<Fault>> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let steps = error.path().iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
            serde_path_to_error::Segment::Map { key } => Some(key.clone()),
            serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
            serde_path_to_error::Segment::Unknown => None,
        });
        vec![Fault { at: steps.collect(), text: error.inner().to_string() }]
    })
}

/// The members of one object of a document. All that is wrong with them is told together, and so are members that nobody
/// asked for.
#[derive(Debug)]
pub struct Members<'a> {
    object: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Members<'a> {
    pub fn of(document: &'a Value) -> Self {
        let object = document.as_object();
        let fault = || Fault { at: Vec::new(), text: "must be an object".to_owned() };
        Self { object, known: Vec::new(), faults: object.is_none().then(fault).into_iter().collect() }
    }

    /// The member as it is written.
    pub fn raw(&mut self, name: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.object?.get(name)
    }

    /// The member; none where it is absent, or where something is wrong with it.
    pub fn read<T: de::DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.read_by(name, document)
    }

    /// The same by a reader of its own.
    pub fn read_by<T>(&mut self, name: &'static str, read: impl FnOnce(&'a Value) -> Result<T, Vec<Fault>>) -> Option<T> {
        let read = read(self.raw(name)?);
        read.map_err(|faults| self.faults.extend(faults.into_iter().map(|fault| fault.below(name)))).ok()
    }

    /// Something is wrong with a member.
    pub fn refuse(&mut self, name: &str, text: impl Into<String>) {
        self.faults.push(Fault { at: vec![name.to_owned()], text: text.into() });
    }

    /// Something is wrong with the object as a whole.
    pub fn refuse_all(&mut self, text: impl Into<String>) {
        self.faults.push(Fault { at: Vec::new(), text: text.into() });
    }

    /// What was made of them, or all that is wrong.
    pub fn finish<T>(mut self, made: T) -> Result<T, Vec<Fault>> {
        let names = self.object.into_iter().flat_map(Map::keys);
        for name in names.filter(|name| !self.known.contains(&name.as_str())) {
            let text = format!("`{name}` is not known here; the keys are {}", self.known.join(", "));
            self.faults.push(Fault { at: vec![name.clone()], text });
        }
        if self.faults.is_empty() { Ok(made) } else { Err(self.faults) }
    }
}

/// One object and nothing after it, at most `depth` levels deep, in which no object has a name twice (RFC 8259 §4 leaves
/// open what such a text means, so two readers may see two things).
pub fn strict_object(text: &[u8], depth: usize) -> Result<Map<String, Value>, JsonError> {
    let text = str::from_utf8(text).map_err(de::Error::custom).map_err(JsonError::Syntax)?;
    if has_reserved_key(text) {
        return Err(JsonError::ReservedKey);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { left: depth }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(JsonError::Syntax(de::Error::custom("not an object"))),
    }
}

/// Whether an object has a key of `serde_json`'s own, written plainly or with `\u` escapes. Exact for valid JSON; for
/// anything else the parser has the last word.
pub fn has_reserved_key(text: &str) -> bool {
    if !text.contains(RESERVED) && !text.contains("\\u") {
        return false;
    }
    let mut rest = text;
    while let Some((_, opened)) = rest.split_once('"') {
        let Some(end) = string_end(opened) else { return false };
        let Some((literal, after)) = opened.split_at_checked(end) else { return false };
        let after = after.strip_prefix('"').unwrap_or(after);
        if after.trim_start().starts_with(':') && unquoted(literal).starts_with(RESERVED) {
            return true;
        }
        rest = after;
    }
    false
}

/// Where the closing quote is, counted from after the opening one.
fn string_end(opened: &str) -> Option<usize> {
    let mut escaped = false;
    opened.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// The text of a string literal; of one that is not valid, the literal itself.
fn unquoted(literal: &str) -> Cow<'_, str> {
    if !literal.contains('\\') {
        return Cow::Borrowed(literal);
    }
    serde_json::from_str(&format!("\"{literal}\"")).map_or(Cow::Borrowed(literal), Cow::Owned)
}

/// Reads a value with so many levels left below it.
#[derive(Clone, Copy)]
struct Strict {
    left: usize,
}

impl Strict {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        let left = self.left.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut members = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            // No text with such a key comes this far, so that this is the parser handing a number over.
            if name.starts_with(RESERVED) {
                let digits: String = entries.next_value()?;
                return digits.parse::<Number>().map(Value::Number).map_err(de::Error::custom);
            }
            if members.contains_key(&name) {
                return Err(de::Error::custom("a name stands twice in one object"));
            }
            let value = entries.next_value_seed(below)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_meaning_or_none() {
        for (text, expected) in [
            (r#"{"a":1,"b":[true,null,"x",{"c":-1.5}]}"#, Some(json!({"a": 1, "b": [true, null, "x", {"c": -1.5}]}))),
            (r#"{"a":{"x":1},"b":{"x":2}}"#, Some(json!({"a": {"x": 1}, "b": {"x": 2}}))),
            ("{}", Some(json!({}))),
            (r#"{"a":1,"a":1}"#, None),
            (r#"{"a":1,"\u0061":2}"#, None),
            (r#"{"a":[{"b":{"c":1,"c":2}}]}"#, None),
            (r#"{"a":1} x"#, None),
            (r#"{"a":1}{}"#, None),
            (r#"{"$serde_json::private::Number":"1"}"#, None),
            (r#"{"\u0024serde_json::private::Number":"1"}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(strict_object(text.as_bytes(), 8).ok().map(Value::Object), expected, "{text}");
        }
        assert!(strict_object(b"{\"a\":\"\xff\"}", 8).is_err());
    }

    #[test]
    fn all_that_is_wrong_with_an_object_is_told() {
        let read = |document: &Value| {
            let mut members = Members::of(document);
            let size: Option<u32> = members.read("size");
            let names: Option<Vec<String>> = members.read("names");
            if size == Some(0) {
                members.refuse("size", "must be at least 1");
            }
            members.finish((size, names))
        };
        assert_eq!(read(&json!({"size": 3})), Ok((Some(3), None)));
        let told = |document| {
            let faults = read(&document).unwrap_err();
            faults.iter().map(|fault| format!("{}: {}", fault.at.join("/"), fault.text)).collect::<Vec<_>>()
        };
        assert_eq!(told(json!([])), [": must be an object"]);
        assert_eq!(told(json!({"size": 0})), ["size: must be at least 1"]);
        assert_eq!(
            told(json!({"size": null, "names": ["a", 7], "name": "a"})),
            [
                "size: invalid type: null, expected u32",
                "names/1: invalid type: number, expected a string",
                "name: `name` is not known here; the keys are size, names",
            ]
        );
    }

    #[test]
    fn numbers_keep_their_digits() {
        let read = strict_object(br#"{"n":12345678901234567890.5}"#, 4).unwrap();
        assert_eq!(read["n"].to_string(), "12345678901234567890.5");
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(strict_object(deep(8).as_bytes(), 8).is_ok());
        assert!(strict_object(deep(9).as_bytes(), 8).is_err());
    }
}
