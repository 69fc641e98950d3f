//! Fields of a protobuf message as its YAML or JSON form writes them: names in `snake_case` or `camelCase`, `null` for a
//! field that is not set, numbers and enum words as text, `Any` with its type.

use std::{ptr, time::Duration};

use crate::config::{Node, Value};

/// A message of an `Any` field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typed<'a> {
    /// Full name, `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`.
    pub name: &'a str,
    pub body: &'a Node,
}

impl Node {
    /// The field `name`, written in `snake_case` here.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, node)| same_field(key, name) && node.value != Value::Null).map(|(_, node)| node)
    }

    /// The field at `path`, `common_tls_context.validation_context`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, name| node.get(name))
    }

    /// The elements of the repeated field at `path`.
    pub(super) fn list(&self, path: &str) -> &[Self] {
        match self.at(path).map(|node| &node.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// The entries of the map field `name`, whose keys are not names of fields.
    pub(super) fn entries(&self, name: &str) -> &[(String, Self)] {
        match self.get(name).map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> &str {
        match &self.value {
            Value::Scalar(text) => text,
            _ => "",
        }
    }

    /// The text of the field at `path`; empty when not set, as protobuf has it.
    pub(super) fn text_at(&self, path: &str) -> &str {
        self.at(path).map_or("", Self::text)
    }

    /// The boolean at `path`. Envoy reads YAML 1.1, where `yes` and `on` are true too.
    pub(super) fn is_set(&self, path: &str) -> bool {
        matches!(self.text_at(path).to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "y")
    }

    pub(super) fn number_at(&self, path: &str) -> Option<u64> {
        self.at(path)?.text().parse().ok()
    }

    /// A span of time, `0.25s`.
    pub(super) fn span(&self) -> Option<Duration> {
        let seconds: f64 = self.text().strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// An enum field at `path` is `word`, or its `number`.
    pub(super) fn is_word(&self, path: &str, word: &str, number: u32) -> bool {
        let text = self.text_at(path);
        text == word || text.parse() == Ok(number)
    }

    /// The message that the `Any` field `name` holds, a `TypedStruct` taken apart.
    pub(super) fn typed(&self, name: &str) -> Option<Typed<'_>> {
        self.get(name)?.as_typed()
    }

    pub(super) fn as_typed(&self) -> Option<Typed<'_>> {
        let of = |url: &'_ str| url.rsplit('/').next().map(str::len).unwrap_or_default();
        let url = self.text_at("@type");
        if url.ends_with(".TypedStruct") {
            let inner = self.text_at("type_url");
            return Some(Typed { name: inner.get(inner.len() - of(inner)..)?, body: self.get("value").unwrap_or(self) });
        }
        Some(Typed { name: url.get(url.len() - of(url)..)?, body: self })
    }

    /// Where `target` stands in this tree, `static_resources.listeners[0].name`; empty for the root.
    pub(super) fn path_to(&self, target: &Self) -> Option<String> {
        if ptr::eq(self, target) {
            return Some(String::new());
        }
        let (step, rest) = match &self.value {
            Value::Map(entries) => entries.iter().find_map(|(key, node)| Some((step(key), node.path_to(target)?)))?,
            Value::List(items) => {
                items.iter().enumerate().find_map(|(index, node)| Some((format!("[{index}]"), node.path_to(target)?)))?
            }
            Value::Scalar(_) | Value::Null => return None,
        };
        let dot = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
        Some(format!("{step}{dot}{rest}"))
    }
}

/// A key that would read as several steps is put in brackets.
fn step(key: &str) -> String {
    if key.contains(['.', '[']) { format!("[\"{key}\"]") } else { key.to_owned() }
}

/// `key` as a file writes it is the field `name`, in either spelling.
fn same_field(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            letter if upper => (upper, _) = (false, camel.push(letter.to_ascii_uppercase())),
            letter => camel.push(letter),
        }
    }
    key == camel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_either_spelling() {
        let node = Node::parse("failureModeAllow: yes\nmax_request_bytes: 5\nnothing: ~\ntimeout: 0.25s\nkind: 2\n").unwrap();
        assert!(node.is_set("failure_mode_allow"));
        assert_eq!(node.number_at("max_request_bytes"), Some(5));
        assert!(node.get("nothing").is_none());
        assert_eq!(node.get("timeout").and_then(Node::span), Some(Duration::from_millis(250)));
        assert!(node.is_word("kind", "OUTBOUND", 2) && !node.is_word("other", "UNSPECIFIED", 0));
    }

    #[test]
    fn a_typed_struct_is_taken_apart() {
        let plain = Node::parse("c: {\"@type\": type.googleapis.com/a.b.C, x: 1}").unwrap();
        let wrapped = "c: {\"@type\": type.googleapis.com/xds.type.v3.TypedStruct, type_url: t/a.b.C, value: {x: 1}}";
        for node in [plain, Node::parse(wrapped).unwrap()] {
            let typed = node.typed("c").unwrap();
            assert_eq!((typed.name, typed.body.number_at("x")), ("a.b.C", Some(1)));
        }
    }

    #[test]
    fn a_place_is_told_by_its_path() {
        let node = Node::parse("a:\n- b: {c.d: [1, {e: 2}]}\n").unwrap();
        let target = &node.list("a").first().unwrap().get("b").unwrap().get("c.d");
        assert_eq!(node.path_to(target.unwrap()).as_deref(), Some("a[0].b[\"c.d\"]"));
        assert_eq!(node.line, 1);
    }
}
