//! `yaml.*`. YAML is read as data files are, and written as OPA's library lays it out; it quotes some strings otherwise.

use regorus::Value;
use serde_json::Value as Json;

use super::{Builtin, Fault, MAX_TEXT, bound, bound::Size, json, order, text_operand, within};
use crate::policy::load::{has_private_key, read_yaml};

pub(super) const YAML: &[Builtin] = &[
    Builtin { name: "yaml.is_valid", arity: 1, run: |args| Ok(Value::Bool(text_operand(args, 0).is_ok_and(is_yaml))) },
    Builtin { name: "yaml.unmarshal", arity: 1, run: unmarshal },
    Builtin { name: "yaml.marshal", arity: 1, run: marshal },
];

/// Largest document in bytes.
const MAX_DOCUMENT: usize = 1 << 20;
/// Most values of a document that is written.
const MAX_NODES: usize = 500_000;
/// What YAML of some version takes for something other than a string.
const RESERVED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Whether all documents of the text are YAML.
fn is_yaml(text: &str) -> bool {
    // YAML 1.2 §6.1: a tab does not indent, which the parser lets pass in documents behind the first.
    let indented_by_tab = text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t') && !line.trim().is_empty());
    !indented_by_tab && serde_saphyr::from_multiple::<Json>(text).map_err(|error| not_yaml(&error)).is_ok()
}

/// Why a text is no YAML; where it is, but too large or a bomb of aliases, that is a limit.
fn not_yaml(error: &serde_saphyr::Error) -> Fault {
    if is_too_much(error) { Fault::limit("the document is too large") } else { "the text is no YAML".into() }
}

fn is_too_much(error: &serde_saphyr::Error) -> bool {
    use serde_saphyr::Error;
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => is_too_much(error),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => true,
        _ => false,
    }
}

fn unmarshal(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    within(text.len() <= MAX_DOCUMENT, "the document is too large")?;
    bound::numbers_are_short(text)?;
    within(!has_private_key(text), json::RESERVED)?;
    read_yaml(text).map(Value::from).map_err(|error| not_yaml(&error))
}

fn marshal(args: &[Value]) -> Result<Value, Fault> {
    let Some(value) = args.first() else { return Err("an operand is missing".into()) };
    Size::of(value, &mut { MAX_NODES })?;
    let mut out = String::new();
    write(value, 0, &mut out)?;
    out.push('\n');
    Ok(Value::from(out))
}

/// Writes a value where the text stands, with its further lines behind so many spaces.
fn write(value: &Value, column: usize, out: &mut String) -> Result<(), Fault> {
    within(out.len() <= MAX_TEXT, "the answer is too large")?;
    let line = |column: usize, out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', column));
    };
    match value {
        Value::Array(_) | Value::Set(_) => {
            let items: Vec<&Value> = match value {
                Value::Array(items) => items.iter().collect(),
                Value::Set(items) => order::sorted(items.iter()),
                _ => Vec::new(),
            };
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    line(column, out);
                }
                out.push_str("- ");
                write(item, column + 2, out)?;
            }
            if items.is_empty() {
                out.push_str("[]");
            }
        }
        Value::Object(fields) if fields.is_empty() => out.push_str("{}"),
        Value::Object(fields) => {
            let text = |key: &Value| match key {
                Value::String(text) => text.to_string(),
                other => serde_json::to_string(other).unwrap_or_default(),
            };
            let mut fields: Vec<(String, &Value)> = fields.iter().map(|(key, value)| (text(key), value)).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    line(column, out);
                }
                out.push_str(&scalar(&key));
                out.push(':');
                match value {
                    Value::Array(items) if !items.is_empty() => line(column + 2, out),
                    Value::Set(items) if !items.is_empty() => line(column + 2, out),
                    Value::Object(inner) if !inner.is_empty() => line(column + 2, out),
                    _ => out.push(' '),
                }
                write(value, column + 2, out)?;
            }
        }
        Value::String(text) if column > 0 && is_block(text) => {
            out.push_str("|-");
            for part in text.split('\n') {
                line(column, out);
                out.push_str(part);
            }
        }
        Value::String(text) => out.push_str(&scalar(text)),
        other => out.push_str(&serde_json::to_string(other).unwrap_or_default()),
    }
    Ok(())
}

/// Whether a string of several lines is written as it is.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && text.split('\n').all(|line| !line.is_empty() && !line.starts_with(' ') && !line.contains(char::is_control))
}

/// A string, in quotes where it could be taken for anything else.
fn scalar(text: &str) -> String {
    let first = text.chars().next();
    let is_other = first.is_none_or(|first| first.is_ascii_digit() || "+-.~=<".contains(first))
        || RESERVED.contains(&text.to_ascii_lowercase().as_str())
        || text.contains(char::is_control);
    let is_plain = text.chars().all(|letter| letter.is_alphanumeric() || "_./@ -".contains(letter))
        && first.is_some_and(|first| first.is_alphabetic() || first == '/')
        && !text.ends_with(' ');
    match (is_other, is_plain) {
        (true, _) => serde_json::to_string(text).unwrap_or_default(),
        (false, true) => text.to_owned(),
        (false, false) => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_laid_out_as_in_opa_and_read_back() {
        for (json, yaml) in [
            (r#"[{"foo":[1,2],"bar":{"a b":null}}]"#, "- bar:\n    a b: null\n  foo:\n    - 1\n    - 2\n"),
            (
                r#"{"a":[],"b":{},"c":"true","d":"x: y","e":1.5,"f":[[1],{"g":"h"}]}"#,
                "a: []\nb: {}\nc: \"true\"\nd: 'x: y'\ne: 1.5\nf:\n  - - 1\n  - g: h\n",
            ),
            ("\"yes\"", "\"yes\"\n"),
            (r#"{"a":["x\ny","é",""]}"#, "a:\n  - |-\n    x\n    y\n  - é\n  - \"\"\n"),
            ("\"a\\nb\"", "\"a\\nb\"\n"),
            ("12345678901234567890123", "12345678901234567890123\n"),
        ] {
            let value = Value::from_json_str(json).unwrap();
            let written = marshal(std::slice::from_ref(&value)).unwrap();
            assert_eq!(written, Value::from(yaml), "{json}");
            if !json.starts_with('1') {
                assert_eq!(unmarshal(&[written]).unwrap(), value, "{json}");
            }
        }
        assert_eq!(unmarshal(&[Value::from("1: a\nyes: b")]).unwrap().to_string(), r#"{"1":"a","yes":"b"}"#);
        assert!(unmarshal(&[Value::from("a: [")]).is_err());
    }
}
