//! Digests of a bundle's files as OPA computes them: of a rego or other file its bytes, of data and manifest the
//! document in one fixed form (keys in order, no blanks), so that the layout of the text does not count. Numbers keep
//! the digits they are written with, for which `serde_json` is no help.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{self, Algorithm};
use serde_json::Value;

use super::super::{File, Kind, Purpose, data, kind};

/// The digest algorithm that a signature names; none where it is unknown, or broken as MD5 and SHA-1 are.
pub(super) fn algorithm(name: &str) -> Option<&'static Algorithm> {
    match name {
        "SHA-224" => Some(&digest::SHA224),
        "SHA-256" => Some(&digest::SHA256),
        "SHA-384" => Some(&digest::SHA384),
        "SHA-512" => Some(&digest::SHA512),
        "SHA-512-256" => Some(&digest::SHA512_256),
        _ => None,
    }
}

/// The digest of `file`; none when it is a document that does not parse.
pub(super) fn digest(file: &File, algorithm: &'static Algorithm) -> Option<digest::Digest> {
    if !is_document(file.name()) {
        return Some(digest::digest(algorithm, &file.bytes));
    }
    // A YAML file that is JSON counts as JSON. The parser also bounds the depth of what is walked here.
    let mut text = Vec::new();
    if serde_json::from_slice::<Value>(&file.bytes).is_ok() {
        Node::parse(&mut file.bytes.as_slice())?.write(&mut text)?;
    } else if kind(file.name(), Purpose::Serve) == Kind::Yaml {
        write_value(&data::parse_yaml(file).ok()?, &mut text)?;
    } else {
        return None;
    }
    Some(digest::digest(algorithm, &text))
}

fn is_document(name: &str) -> bool {
    matches!(name, ".manifest" | "data.json" | "data.yaml" | "data.yml")
}

/// JSON that knows how its numbers were written.
enum Node {
    Object(BTreeMap<String, Self>),
    List(Vec<Self>),
    Text(String),
    /// Number, boolean or null, as written.
    Plain(Vec<u8>),
}

impl Node {
    /// Takes one value from the front of `rest`, which is known to be JSON.
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        match next(rest)? {
            b'{' => {
                skip(rest);
                let mut members = BTreeMap::new();
                while next(rest)? != b'}' {
                    let key = text(rest)?;
                    skip_if(rest, b':');
                    // Of a key that stands twice the last one counts, as in every reader of this file.
                    members.insert(key, Self::parse(rest)?);
                    skip_if(rest, b',');
                }
                skip(rest);
                Some(Self::Object(members))
            }
            b'[' => {
                skip(rest);
                let mut items = Vec::new();
                while next(rest)? != b']' {
                    items.push(Self::parse(rest)?);
                    skip_if(rest, b',');
                }
                skip(rest);
                Some(Self::List(items))
            }
            b'"' => text(rest).map(Self::Text),
            _ => {
                let end = rest.iter().position(|byte| b",]} \t\r\n".contains(byte)).unwrap_or(rest.len());
                let (plain, after) = rest.split_at_checked(end)?;
                *rest = after;
                Some(Self::Plain(plain.to_vec()))
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Object(members) => {
                let members = members.iter().map(|(key, value)| (key.as_str(), value));
                write_object(members, out, Self::write)
            }
            Self::List(items) => write_list(items.iter(), out, Self::write),
            Self::Text(text) => write_text(text, out),
            Self::Plain(plain) => {
                out.extend_from_slice(plain);
                Some(())
            }
        }
    }
}

/// The next byte that is no blank, left in place.
fn next(rest: &mut &[u8]) -> Option<u8> {
    *rest = rest.trim_ascii_start();
    rest.first().copied()
}

fn skip(rest: &mut &[u8]) {
    *rest = rest.split_first().map_or(&[], |(_, after)| after);
}

fn skip_if(rest: &mut &[u8], byte: u8) {
    if next(rest) == Some(byte) {
        skip(rest);
    }
}

/// Takes a string from the front of `rest`.
fn text(rest: &mut &[u8]) -> Option<String> {
    if next(rest)? != b'"' {
        return None;
    }
    let mut escaped = false;
    let end = rest.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    let (text, after) = rest.split_at_checked(end + 2)?;
    *rest = after;
    serde_json::from_slice(text).ok()
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Object(members) => write_object(members.iter().map(|(key, value)| (key.as_str(), value)), out, write_value),
        Value::Array(items) => write_list(items.iter(), out, write_value),
        Value::String(text) => write_text(text, out),
        Value::Number(number) if number.is_f64() => {
            out.extend_from_slice(float(number.as_f64()?).as_bytes());
            Some(())
        }
        plain => {
            out.extend_from_slice(plain.to_string().as_bytes());
            Some(())
        }
    }
}

fn write_object<'a, T: 'a>(
    members: impl Iterator<Item = (&'a str, &'a T)>,
    out: &mut Vec<u8>,
    write: fn(&T, &mut Vec<u8>) -> Option<()>,
) -> Option<()> {
    out.push(b'{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(key, out)?;
        out.push(b':');
        write(value, out)?;
    }
    out.push(b'}');
    Some(())
}

fn write_list<'a, T: 'a>(
    items: impl Iterator<Item = &'a T>,
    out: &mut Vec<u8>,
    write: fn(&T, &mut Vec<u8>) -> Option<()>,
) -> Option<()> {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out)?;
    }
    out.push(b']');
    Some(())
}

/// The escapes of Go's encoder are those of `serde_json` and two more.
fn write_text(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let text = serde_json::to_string(text).ok()?;
    let text = text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// A float of a YAML file as Go writes it: the shortest digits, with an exponent below 1e-6 and from 1e21 on.
fn float(value: f64) -> String {
    if value == 0.0 || (1e-6..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(name: &str, text: &str) -> Option<String> {
        let file = File { label: name.to_owned(), path: vec![name.to_owned()], bytes: text.as_bytes().to_vec() };
        digest(&file, &digest::SHA256).map(hex::encode)
    }

    fn of(text: &str) -> Option<String> {
        Some(hex::encode(digest::digest(&digest::SHA256, text.as_bytes())))
    }

    #[test]
    fn documents_count_by_content_and_other_files_by_bytes() {
        for (name, text, expected) in [
            ("a.rego", "package a\n", Some("package a\n")),
            ("other.json", "{ }", Some("{ }")),
            (
                "data.json",
                " { \"b\" : [ 1.50 , 1e3,-0, {} ],\n\"a\":\"x<\\u2028\\u0041\\/\"}\n",
                Some(r#"{"a":"x<\u2028A/","b":[1.50,1e3,-0,{}]}"#),
            ),
            ("data.json", r#"{"a": 1, "a": {"c": [], "b": null}}"#, Some(r#"{"a":{"b":null,"c":[]}}"#)),
            ("data.json", r#"{"a,b": "}\\\"{", "é\u001f\t": true}"#, Some(r#"{"a,b":"}\\\"{","é\u001f\t":true}"#)),
            ("data.json", "7", Some("7")),
            (".manifest", "{\"revision\":\n\"r\"}", Some(r#"{"revision":"r"}"#)),
            ("data.yaml", "[1.5e3, 16]", Some("[1.5e3,16]")),
            (
                "data.yaml",
                "b: yes
",
                Some(r#"{"b":"yes"}"#),
            ),
            (
                "data.yaml",
                "a: [1500.0, 'on', null, 1.25]
",
                Some(r#"{"a":[1500,"on",null,1.25]}"#),
            ),
            (
                "data.yaml",
                "a: 1.5e3
",
                Some(r#"{"a":1500}"#),
            ),
            (
                "data.yaml",
                "a: 1.0e-7
",
                Some(r#"{"a":1e-7}"#),
            ),
            ("data.yaml", r#"{"x": 1e3}"#, Some(r#"{"x":1e3}"#)),
            ("data.json", "{", None),
            ("data.json", "a: 1", None),
            ("data.yml", "a: [", None),
        ] {
            assert_eq!(form(name, text), expected.and_then(of), "{name}: {text}");
        }
    }

    #[test]
    fn a_deep_document_has_no_digest_and_harms_nobody() {
        assert_eq!(form("data.json", &"[".repeat(1 << 20)), None);
        assert_eq!(form("data.json", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), None);
    }
}
