//! What of the input an evaluation went by: the paths that are written out in the lines it came by, with what stands
//! there. A path ends where it is not written out, so a fact may be more than was read, and never less.

use serde::Serialize;
use serde_json::Value;

use super::wanted::{Wanted, is_word, step};

/// Facts of one evaluation, and bytes of a value.
const MAX_FACTS: usize = 64;
const MAX_VALUE: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Below `input`, joined by dots.
    pub path: String,
    /// As JSON, its end cut where it is long; absent where the input has nothing there.
    pub value: Option<String>,
}

/// Another name for a part of the input, which a module gave it: `import input.attributes.request.http as http_request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alias {
    name: String,
    path: String,
}

impl Alias {
    /// Those that a module gives.
    pub(super) fn of_module(text: &str) -> Vec<Self> {
        let alias = |line: &str| {
            let imported = line.trim().strip_prefix("import")?.trim_start().strip_prefix("input")?;
            let mut rest = imported;
            let mut last = None;
            while let Some((name, after)) = step(rest) {
                (last, rest) = (Some(name), after);
            }
            let (path, named) = imported.split_at_checked(imported.len() - rest.len())?;
            let named = named.trim_start().strip_prefix("as").and_then(|name| name.split_whitespace().next());
            Some(Self { name: named.or(last)?.to_owned(), path: format!("input{path}") })
        };
        text.lines().filter_map(alias).collect()
    }
}

/// The line with whole paths in the place of other names.
pub(super) fn spelled_out(line: &str, aliases: &[Alias]) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => rest.find(is_word).unwrap_or(rest.len()),
        };
        let Some((word, after)) = rest.split_at_checked(end) else { break };
        // What follows a dot is a member of something else.
        let alias = aliases.iter().find(|alias| alias.name == word && !text.ends_with('.'));
        text.push_str(alias.map_or(word, |alias| &alias.path));
        rest = after;
    }
    text
}

/// What `input` has at the paths in these lines, in the order of the alphabet.
pub(super) fn facts<'a>(lines: impl IntoIterator<Item = &'a str>, input: &Value) -> Vec<Fact> {
    let wanted = Wanted::by(lines);
    let fact = |path: Vec<&str>| {
        let value = path.iter().try_fold(input, |value, name| value.get(name));
        Fact { path: path.join("."), value: value.map(short) }
    };
    let mut facts: Vec<_> = wanted.ends().into_iter().map(fact).collect();
    facts.sort_by(|a, b| a.path.cmp(&b.path));
    facts.truncate(MAX_FACTS);
    facts
}

fn short(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > MAX_VALUE {
        text.truncate(text.floor_char_boundary(MAX_VALUE));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_names_for_the_input_are_found_and_spelled_out() {
        let module = "package a\n\nimport rego.v1\nimport input.attributes.request.http as http_request\nimport input.peer\n\
                      import data.input.x\nimport input[\"a b\"].c\nimport input as everything\n";
        let aliases = Alias::of_module(module);
        let found: Vec<_> = aliases.iter().map(|alias| (alias.name.as_str(), alias.path.as_str())).collect();
        assert_eq!(
            found,
            [
                ("http_request", "input.attributes.request.http"),
                ("peer", "input.peer"),
                ("c", "input[\"a b\"].c"),
                ("everything", "input")
            ]
        );
        for (line, expected) in [
            ("http_request.method == \"GET\"", "input.attributes.request.http.method == \"GET\""),
            ("x.peer; peer.path[0] == peers", "x.peer; input.peer.path[0] == peers"),
            ("été(c)", "été(input[\"a b\"].c)"),
        ] {
            assert_eq!(spelled_out(line, &aliases), expected);
        }
    }

    #[test]
    fn a_fact_is_what_the_input_has_at_a_path() {
        let lines =
            ["input.peer.spiffe_id == \"x\"; input.parsed_path[0]; not input.token", "some x in input.a; input.a.b", "input"];
        let input = json!({"peer": {"spiffe_id": "s", "x509": {}}, "parsed_path": ["p"], "a": {"b": "é".repeat(MAX_VALUE)}});
        let found = facts(lines, &input);
        let paths: Vec<_> = found.iter().map(|fact| fact.path.as_str()).collect();
        assert_eq!(paths, ["a", "parsed_path", "peer.spiffe_id", "token"]);
        let values: Vec<_> = found.iter().skip(1).map(|fact| fact.value.as_deref()).collect();
        assert_eq!(values, [Some("[\"p\"]"), Some("\"s\""), None]);
        assert!(found[0].value.as_ref().unwrap().ends_with("é…"));
    }
}
