//! JSON and YAML data: parsed, placed at the path of their folder, and merged into one document. Where two files say
//! different things about one key, both are named.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    File, Kind,
    origin::{Node, Origin},
    within, without_place,
};
use crate::policy::{
    documents,
    problem::{Code, Problem},
};

/// Keys below which `serde_json` keeps its own numbers and raw text: from a file they would turn an object into a
/// number.
const PRIVATE_KEYS: &str = "$serde_json::private::";

/// The data files read so far, each already placed below the root.
#[derive(Default)]
pub(super) struct Documents {
    placed: Vec<(String, Map<String, Value>)>,
    origins: Vec<Origin>,
}

impl Documents {
    pub(super) fn add(&mut self, file: File, kind: Kind, roots: Option<&[String]>) -> Result<(), Problem> {
        let document = match kind {
            Kind::Yaml => parse_yaml(&file)?,
            _ => parse_json(&file)?,
        };
        let mut value = document;
        for folder in file.folders().iter().rev() {
            value = Value::Object(Map::from_iter([(folder.clone(), value)]));
        }
        let Value::Object(document) = value else {
            let text = "data at the root must be an object, since its keys become keys of `data`; wrap it in one";
            return Err(Problem::of_file(Code::Parse, &file.label, text));
        };
        if let Some(roots) = roots
            && let Some(path) = outside(roots, &document, "")
        {
            let text = format!("`{path}` lies outside the `roots` of the bundle's manifest; add it there or move the data");
            return Err(Problem::of_file(Code::Roots, &file.label, text));
        }
        if document.contains_key(documents::ROOT)
            && let Ok(text) = String::from_utf8(file.bytes)
        {
            let folders = file.path.split_last().map(|(_, folders)| folders.to_vec()).unwrap_or_default();
            self.origins.push(Origin { label: file.label.clone(), folders, text });
        }
        self.placed.push((file.label, document));
        Ok(())
    }

    /// One document of all. Files are compared before any is taken apart, so that both sides of a conflict have a name.
    pub(super) fn merge(self) -> Result<(Value, Vec<Origin>), Problem> {
        for (index, (label, document)) in self.placed.iter().enumerate() {
            for (other, earlier) in self.placed.iter().take(index) {
                if let Some(path) = conflict(earlier, document) {
                    let text = format!("`data.{path}` is something else in `{other}`; keep one of the two");
                    return Err(Problem::of_file(Code::Conflict, label, text));
                }
            }
        }
        let mut merged = Map::new();
        self.placed.into_iter().for_each(|(_, document)| merge(&mut merged, document));
        Ok((Value::Object(merged), self.origins))
    }
}

/// Path of the first key at which two objects differ and are not both objects.
fn conflict(a: &Map<String, Value>, b: &Map<String, Value>) -> Option<String> {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    small.iter().find_map(|(key, value)| match (value, large.get(key)?) {
        (Value::Object(value), Value::Object(other)) => conflict(value, other).map(|path| format!("{key}.{path}")),
        (value, other) => (value != other).then(|| key.clone()),
    })
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(value)) => merge(into, value),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Path of the first value that no root covers; what only leads to a root is no value.
fn outside(roots: &[String], document: &Map<String, Value>, above: &str) -> Option<String> {
    document.iter().find_map(|(key, value)| {
        let path = if above.is_empty() { key.clone() } else { format!("{above}/{key}") };
        if within(roots, &path) {
            return None;
        }
        match value {
            Value::Object(inner) if !inner.is_empty() => outside(roots, inner, &path),
            _ => Some(path),
        }
    })
}

fn parse_json(file: &File) -> Result<Value, Problem> {
    if let Some(line) = private_key(&file.bytes) {
        let text = format!("keys that start with `{PRIVATE_KEYS}` cannot be used; rename it");
        return Err(Problem { line, ..Problem::of_file(Code::Parse, &file.label, text) });
    }
    serde_json::from_slice(&file.bytes).map_err(|error| Problem {
        line: u32::try_from(error.line()).unwrap_or(0),
        column: u32::try_from(error.column()).unwrap_or(0),
        ..Problem::of_file(Code::Parse, &file.label, format!("is no JSON: {}", without_place(&error)))
    })
}

/// Line of a string that decodes to one of the private keys. Every string is decoded that could be one, since the
/// dollar sign may be written as an escape.
pub(in crate::policy) fn private_key(json: &[u8]) -> Option<u32> {
    let mut line = 1;
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\n' => line += 1,
            b'"' => {
                let mut escaped = false;
                let end = rest.iter().position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                })?;
                let (text, after) = rest.split_at_checked(end)?;
                rest = after.split_first()?.1;
                let suspect = text.starts_with(b"$") || text.starts_with(b"\\");
                let decoded = suspect.then(|| serde_json::from_slice::<String>(&[b"\"", text, b"\""].concat()).ok()).flatten();
                if decoded.is_some_and(|text| text.starts_with(PRIVATE_KEYS)) {
                    return Some(line);
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether a YAML text has one of the private keys, plainly or by escapes.
pub(in crate::policy) fn has_private_key(yaml: &str) -> bool {
    let is_suspect = yaml.contains(PRIVATE_KEYS) || yaml.contains('\\');
    is_suspect && serde_saphyr::from_str::<Yaml>(yaml).is_err_and(|error| error.to_string().contains(PRIVATE_KEYS))
}

pub(super) fn parse_yaml(file: &File) -> Result<Value, Problem> {
    let wrong = |line, text| Problem { line, ..Problem::of_file(Code::Parse, &file.label, text) };
    let text = std::str::from_utf8(&file.bytes).map_err(|_| wrong(0, "is not UTF-8; save it as UTF-8".to_owned()))?;
    let read = serde_saphyr::from_str_with_options(text, of_file(text)).map(|Yaml(value)| value);
    read.map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(0, |location| u32::try_from(location.line()).unwrap_or(0));
        let text = error.to_string();
        wrong(line, format!("is no YAML: {}", text.lines().next().unwrap_or_default().trim_start_matches("error: ")))
    })
}

/// Text as OPA reads YAML.
pub(in crate::policy) fn read_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    let Yaml(value) = serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })?;
    Ok(value)
}

/// Keys and places of a JSON or YAML text.
pub(super) fn located(text: &str) -> Result<Node, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, of_file(text))
}

/// `policy.limits` bound how large a file is, and with that how many values it has: a registry may have a million.
fn of_file(text: &str) -> serde_saphyr::Options {
    let usual = serde_saphyr::Budget::default();
    serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_nodes: usual.max_nodes.max(text.len()),
            max_events: usual.max_events.max(text.len()),
        },
    }
}

/// A YAML value as JSON. Unlike `Value` itself it takes every map for a map.
struct Yaml(Value);

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor).map(Self)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value that JSON has too")
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

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(format!("`{value}` is no JSON number")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Yaml(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Yaml(value))) = map.next_entry::<String, Yaml>()? {
            if key.starts_with(PRIVATE_KEYS) {
                return Err(A::Error::custom(format!("keys that start with `{PRIVATE_KEYS}` cannot be used; rename it")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
