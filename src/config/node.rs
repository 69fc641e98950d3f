//! A YAML file as a tree that remembers lines, for whoever has to say where something stands.

use serde::{Deserialize, de};
use serde_saphyr::Spanned;

/// One value of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// From 1; 0 when unknown. A mapping stands where its first key does.
    pub line: u64,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    /// Numbers and booleans as text too.
    Scalar(String),
    Null,
}

impl Node {
    pub fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str::<Spanned<Value>>(text).map(Self::from)
    }

    /// Line of the value at `key` (`listeners[0].address`), or of the nearest ancestor that is in the file.
    pub fn line_of(&self, key: &str) -> u64 {
        let (step, rest) = match key.find(['.', '[']) {
            Some(0) => key.split_at(key.find(']').map_or(key.len(), |end| end + 1)),
            Some(end) => key.split_at(end),
            None => (key, ""),
        };
        let child = match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == step).map(|(_, node)| node),
            Value::List(items) => step.trim_matches(['[', ']']).parse().ok().and_then(|index: usize| items.get(index)),
            Value::Scalar(_) | Value::Null => None,
        };
        child.map_or(self.line, |node| node.line_of(rest.strip_prefix('.').unwrap_or(rest)))
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("YAML")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Spanned<Value>>()? {
                    entries.push((key, value.into()));
                }
                Ok(Value::Map(entries))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<Value>>()? {
                    items.push(item.into());
                }
                Ok(Value::List(items))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
