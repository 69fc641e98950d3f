//! The document as JSON for the record, every member shown to a mask first.

use std::{collections::BTreeMap, io::Write as _};

use serde_json::{Map, Value as Json};

use super::{Name, Sink};
use crate::json::Shown;

/// The members of one object, written as they come.
pub(super) struct Members<'a, F> {
    out: Vec<u8>,
    replace: &'a F,
    /// Key of the object whose members these are; empty at the top.
    own: &'static str,
}

impl<'a, F: Fn(&str, &str, Option<&str>) -> Option<String>> Members<'a, F> {
    pub(super) fn new(replace: &'a F) -> Self {
        let mut out = Vec::with_capacity(4096);
        out.push(b'{');
        Self { out, replace, own: "" }
    }

    /// The whole document.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }

    /// Begins a member with a name that the request brings; its value comes next.
    fn foreign(&mut self, name: &str) {
        self.comma();
        self.string(name);
        self.out.push(b':');
    }

    /// Begins a member with a name of ours, which needs no escapes.
    fn name(&mut self, name: &'static str) {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn comma(&mut self) {
        if !self.out.ends_with(b"{") {
            self.out.push(b',');
        }
    }

    fn string(&mut self, text: &str) {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    /// A string, or what stands in its place.
    fn masked(&mut self, parent: &str, name: &str, text: &str) {
        match (self.replace)(parent, name, Some(text)) {
            Some(replacement) => self.string(&replacement),
            None => self.string(text),
        }
    }

    /// A composite or another scalar, unless something stands in its place.
    fn unless_replaced(&mut self, parent: &str, name: &str, write: impl FnOnce(&mut Self)) {
        match (self.replace)(parent, name, None) {
            Some(replacement) => self.string(&replacement),
            None => write(self),
        }
    }

    fn braced(&mut self, open: u8, close: u8, write: impl FnOnce(&mut Self)) {
        self.out.push(open);
        write(self);
        self.out.push(close);
    }

    fn array<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.braced(b'[', b']', |sink| {
            for (index, item) in items.enumerate() {
                if index > 0 {
                    sink.out.push(b',');
                }
                write(sink, item);
            }
        });
    }

    /// Any JSON, as the member `name` of the object `parent`.
    fn any(&mut self, parent: &str, name: &str, value: &Json) {
        match value {
            Json::Array(items) => self.array(items.iter(), |sink, item| sink.any(parent, name, item)),
            Json::Object(map) => self.unless_replaced(parent, name, |sink| sink.any_members(name, map)),
            Json::String(text) => self.masked(parent, name, text),
            scalar => self.unless_replaced(parent, name, |sink| {
                let _ = serde_json::to_writer(&mut sink.out, scalar);
            }),
        }
    }

    fn any_members(&mut self, name: &str, map: &Map<String, Json>) {
        self.braced(b'{', b'}', |sink| {
            for (key, value) in map {
                sink.foreign(key);
                sink.any(name, key, value);
            }
        });
    }
}

impl<F: Fn(&str, &str, Option<&str>) -> Option<String>> Sink for Members<'_, F> {
    fn object(&mut self, name: &Name, fill: impl FnOnce(&mut Self)) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| {
            let outer = std::mem::replace(&mut sink.own, name.text);
            sink.braced(b'{', b'}', fill);
            sink.own = outer;
        });
    }

    fn objects<T>(&mut self, name: &Name, items: &[T], fill: impl Fn(&T, &mut Self)) {
        self.name(name.text);
        let outer = self.own;
        self.array(items.iter(), |sink, item| {
            sink.unless_replaced(outer, name.text, |sink| {
                sink.own = name.text;
                sink.braced(b'{', b'}', |sink| fill(item, sink));
            });
        });
        self.own = outer;
    }

    fn each<'a, T: 'a>(&mut self, name: &Name, items: impl Iterator<Item = (&'a str, &'a T)>, fill: impl Fn(&T, &mut Self)) {
        self.name(name.text);
        let outer = std::mem::replace(&mut self.own, name.text);
        self.braced(b'{', b'}', |sink| {
            for (key, item) in items {
                sink.foreign(key);
                sink.braced(b'{', b'}', |sink| fill(item, sink));
            }
        });
        self.own = outer;
    }

    fn constant(&mut self, shown: &Shown, fill: impl FnOnce(&mut Self)) {
        if let Some(text) = shown.get() {
            if !text.is_empty() {
                self.comma();
                self.out.extend_from_slice(text);
            }
            return;
        }
        let before = self.out.len();
        fill(self);
        let made = self.out.get(before..).unwrap_or_default();
        shown.set(made.strip_prefix(b",").unwrap_or(made));
    }

    fn texts<'a>(&mut self, name: &Name, items: impl Iterator<Item = &'a str>) {
        self.name(name.text);
        self.array(items, |sink, item| sink.masked(sink.own, name.text, item));
    }

    fn text(&mut self, name: &Name, value: &str) {
        self.name(name.text);
        self.masked(self.own, name.text, value);
    }

    fn made(&mut self, name: &Name, make: impl FnOnce() -> String) {
        self.text(name, &make());
    }

    fn number(&mut self, name: &Name, value: i64) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| {
            let _ = write!(sink.out, "{value}");
        });
    }

    fn flag(&mut self, name: &Name, value: bool) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| sink.out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    fn json(&mut self, name: &Name, value: &Json) {
        self.name(name.text);
        self.any(self.own, name.text, value);
    }

    fn map<'a>(&mut self, name: &Name, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| {
            sink.braced(b'{', b'}', |sink| {
                for (key, value) in entries {
                    sink.foreign(key);
                    sink.masked(name.text, key, value);
                }
            });
        });
    }

    fn lists(&mut self, name: &Name, entries: &BTreeMap<String, Vec<String>>) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| {
            sink.braced(b'{', b'}', |sink| {
                for (key, items) in entries {
                    sink.foreign(key);
                    sink.array(items.iter(), |sink, item| sink.masked(name.text, key, item));
                }
            });
        });
    }

    fn members(&mut self, name: &Name, entries: &Map<String, Json>) {
        self.name(name.text);
        self.unless_replaced(self.own, name.text, |sink| sink.any_members(name.text, entries));
    }
}
