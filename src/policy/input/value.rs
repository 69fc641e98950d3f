//! The document as engine values, as far as the policy can read it.

use std::collections::BTreeMap;

use regorus::Value;
use serde_json::{Map, Value as Json};

use super::{Name, Sink};
use crate::{json::Shown, policy::wanted::Wanted};

/// The members of one object.
pub(super) struct Members<'w> {
    wanted: &'w Wanted,
    members: Vec<(Value, Value)>,
}

impl<'w> Members<'w> {
    pub(super) fn new(wanted: &'w Wanted) -> Self {
        Self { wanted, members: Vec::new() }
    }

    fn put(&mut self, name: &Name, value: impl FnOnce(&'w Wanted) -> Value) {
        if let Some(below) = self.wanted.below(name.text) {
            self.members.push((name.value.clone(), value(below)));
        }
    }
}

impl From<Members<'_>> for Value {
    fn from(members: Members<'_>) -> Self {
        Self::from(members.members.into_iter().collect::<BTreeMap<_, _>>())
    }
}

impl Sink for Members<'_> {
    fn object(&mut self, name: &Name, fill: impl FnOnce(&mut Self)) {
        self.put(name, |below| {
            let mut inner = Self::new(below);
            fill(&mut inner);
            inner.into()
        });
    }

    fn objects<T>(&mut self, name: &Name, items: &[T], fill: impl Fn(&T, &mut Self)) {
        self.put(name, |below| {
            let objects = items.iter().map(|item| {
                let mut inner = Self::new(below);
                fill(item, &mut inner);
                inner.into()
            });
            Value::from(objects.collect::<Vec<Value>>())
        });
    }

    fn each<'a, T: 'a>(&mut self, name: &Name, items: impl Iterator<Item = (&'a str, &'a T)>, fill: impl Fn(&T, &mut Self)) {
        self.put(name, |below| {
            let objects = items.filter_map(|(key, item)| {
                let mut inner = Self::new(below.below(key)?);
                fill(item, &mut inner);
                Some((Value::from(key), Value::from(inner)))
            });
            Value::from(objects.collect::<BTreeMap<_, _>>())
        });
    }

    fn constant(&mut self, _: &Shown, fill: impl FnOnce(&mut Self)) {
        fill(self);
    }

    fn texts<'a>(&mut self, name: &Name, items: impl Iterator<Item = &'a str>) {
        self.put(name, |_| Value::from(items.map(Value::from).collect::<Vec<_>>()));
    }

    fn text(&mut self, name: &Name, value: &str) {
        self.put(name, |_| Value::from(value));
    }

    fn made(&mut self, name: &Name, make: impl FnOnce() -> String) {
        self.put(name, |_| Value::from(make()));
    }

    fn number(&mut self, name: &Name, value: i64) {
        self.put(name, |_| Value::from(value));
    }

    fn flag(&mut self, name: &Name, value: bool) {
        self.put(name, |_| Value::from(value));
    }

    fn json(&mut self, name: &Name, value: &Json) {
        self.put(name, |_| from_json(value));
    }

    fn map<'a>(&mut self, name: &Name, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        self.put(name, |below| {
            let wanted = entries.filter(|(key, _)| below.below(key).is_some());
            Value::from(wanted.map(|(key, value)| (Value::from(key), Value::from(value))).collect::<BTreeMap<_, _>>())
        });
    }

    fn lists(&mut self, name: &Name, entries: &BTreeMap<String, Vec<String>>) {
        self.put(name, |below| {
            let wanted = entries.iter().filter(|(key, _)| below.below(key).is_some());
            let list = |items: &[String]| Value::from(items.iter().map(|item| Value::from(item.as_str())).collect::<Vec<_>>());
            Value::from(wanted.map(|(key, items)| (Value::from(key.as_str()), list(items))).collect::<BTreeMap<_, _>>())
        });
    }

    fn members(&mut self, name: &Name, entries: &Map<String, Json>) {
        self.put(name, |_| from_object(entries));
    }
}

/// Converts by hand: through serde, an object with a private key of serde_json's would come out as a number.
pub(in crate::policy) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            // Null where the engine has no such number: `not` of an undefined value would hold.
            (None, None) => Value::from_numeric_string(&number.to_string()).unwrap_or(Value::Null),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(map) => from_object(map),
    }
}

fn from_object(map: &Map<String, Json>) -> Value {
    Value::from(map.iter().map(|(key, value)| (Value::from(key.as_str()), from_json(value))).collect::<BTreeMap<_, _>>())
}
