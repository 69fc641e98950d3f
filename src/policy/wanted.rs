//! Which parts of the input a policy can read, so that only those are built. Found in the text: after each word `input`
//! the path that follows it is noted, as far as it is written out. Whatever the path runs into (a variable, a space, the
//! end) makes everything below it wanted, and a bare `input` the whole document; so the answer may be too much, in
//! comments and strings too, and never too little: Rego has no other way to the input than this word.

use std::collections::HashMap;

/// A node of the tree of wanted paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// All that is below.
    all: bool,
    below: HashMap<Box<str>, Self>,
}

/// Everything is wanted.
pub(super) static EVERYTHING: std::sync::LazyLock<Wanted> =
    std::sync::LazyLock::new(|| Wanted { all: true, below: HashMap::new() });

impl Wanted {
    /// What the modules with these sources can read.
    pub(super) fn by<'a>(sources: impl IntoIterator<Item = &'a str>) -> Self {
        let mut wanted = Self::default();
        for source in sources {
            let mut rest = source;
            let mut before = None;
            while let Some(at) = rest.find("input") {
                let (head, found) = rest.split_at_checked(at).unwrap_or((rest, ""));
                let after = found.strip_prefix("input").unwrap_or_default();
                let starts = !head.chars().next_back().or(before).is_some_and(is_word);
                if starts && !after.starts_with(is_word) {
                    wanted.add(after);
                }
                (rest, before) = (after, Some('t'));
            }
        }
        wanted
    }

    /// The part of the tree below `name`; none when nothing there is wanted.
    pub(super) fn below(&self, name: &str) -> Option<&Self> {
        if self.all { Some(&EVERYTHING) } else { self.below.get(name) }
    }

    /// Notes the path that `text` begins with.
    fn add(&mut self, mut text: &str) {
        let mut node = self;
        while let Some((name, rest)) = step(text) {
            node = node.below.entry(name.into()).or_default();
            text = rest;
        }
        node.all = true;
    }
}

impl Wanted {
    /// The paths below which everything is wanted, the whole input aside.
    pub(super) fn ends(&self) -> Vec<Vec<&str>> {
        let mut ends = Vec::new();
        self.below.iter().for_each(|(name, node)| node.add_ends(&mut vec![name], &mut ends));
        ends
    }

    fn add_ends<'a>(&'a self, path: &mut Vec<&'a str>, ends: &mut Vec<Vec<&'a str>>) {
        if self.all {
            return ends.push(path.clone());
        }
        for (name, node) in &self.below {
            path.push(name);
            node.add_ends(path, ends);
            path.pop();
        }
    }
}

/// One written-out step, `.name` or `["name"]`, and what follows it.
pub(super) fn step(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("[\"") {
        let (name, rest) = rest.split_once("\"]")?;
        return (!name.contains(['\\', '"', '\n'])).then_some((name, rest));
    }
    let rest = text.strip_prefix('.')?;
    let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    rest.split_at_checked(end).filter(|(name, _)| !name.is_empty())
}

pub(super) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(source: &str, path: &[&str]) -> bool {
        let wanted = Wanted::by([source]);
        path.iter().try_fold(&wanted, |node, name| node.below(name)).is_some()
    }

    #[test]
    fn what_is_written_out_is_wanted_and_nothing_beside_it() {
        let source = r#"allow if { input.peer.spiffe_id == "x"; input.a["b-c"].d; startswith(input.x.y, "input.z") }"#;
        for path in [&["peer", "spiffe_id"][..], &["a", "b-c", "d", "below"], &["x", "y"], &["z"]] {
            assert!(wants(source, path), "{path:?}");
        }
        for path in [&["peer", "x509"][..], &["attributes"], &["a", "b"], &["x", "z"]] {
            assert!(!wants(source, path), "{path:?}");
        }
    }

    #[test]
    fn what_is_not_written_out_is_wanted_whole() {
        for source in [
            "x := input",
            "x := input[k]",
            "x := input[\"a\\u0062\"]",
            "x := object.get(input, [\"deep\", \"er\"], 1)",
            "import input as request",
            "x := input\n\t.a",
            "x := input . a",
            "walk(input,[p,v])",
            "x := (input).a",
        ] {
            assert!(wants(source, &["anything", "below"]), "{source}");
        }
        assert!(wants(
            "import input.attributes.request.http as http_request",
            &["attributes", "request", "http", "headers", "x"]
        ));
        assert!(wants("x := input.headers[name]", &["headers", "authorization"]));
        assert!(!wants("x := input.headers[name]", &["parsed_body"]));
    }

    #[test]
    fn other_words_are_not_the_input() {
        for source in ["inputs.a", "my_input.a", "no", "inputinput.a"] {
            assert_eq!(Wanted::by([source]), Wanted::default(), "{source}");
        }
    }
}
