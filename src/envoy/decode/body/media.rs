//! Media types and dispositions with their parameters (`form-data; name="a"`), as Go's `mime.ParseMediaType` reads them.
//! What the parameters mean is left to `multipart`.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::envoy::decode::escape::{Plus, unescape};

/// Why a header cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum MediaError {
    #[error("no media type")]
    NoType,
    #[error("invalid parameter")]
    Parameter,
    #[error("parameter `{0}` twice")]
    Twice(String),
}

/// The parameters behind a media type, their names in lower case.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, MediaError> {
    let (kind, mut rest) = match text.find(';').and_then(|at| text.split_at_checked(at)) {
        Some(parts) => parts,
        None => (text, ""),
    };
    check_type(kind.trim())?;
    let mut plain = BTreeMap::new();
    let mut pieces: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    while !rest.trim_start().is_empty() {
        let Some((name, value, tail)) = parameter(rest) else {
            // A semicolon at the end is harmless.
            if rest.trim() == ";" {
                break;
            }
            return Err(MediaError::Parameter);
        };
        rest = tail;
        let (map, key) = match name.split_once('*') {
            Some((base, _)) => (pieces.entry(base.to_owned()).or_default(), name),
            None => (&mut plain, name),
        };
        if map.get(&key).is_some_and(|known| *known != value) {
            return Err(MediaError::Twice(key));
        }
        map.insert(key, value);
    }
    for (base, pieces) in pieces {
        if let Some(value) = joined(&base, &pieces) {
            plain.insert(base, value);
        }
    }
    Ok(plain)
}

fn check_type(kind: &str) -> Result<(), MediaError> {
    let valid = match kind.split_once('/') {
        None => is_token(kind),
        Some((major, minor)) => is_token(major) && is_token(minor),
    };
    if valid { Ok(()) } else { Err(MediaError::NoType) }
}

/// `; name=value`: the name in lower case, the value without quotes, and what follows.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let text = text.trim_start().strip_prefix(';')?.trim_start();
    let (name, rest) = token(text)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => token(rest).map(|(value, rest)| (value.to_owned(), rest))?,
    };
    Some((name.to_ascii_lowercase(), value, rest))
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|character: char| !is_token_char(character)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(token, _)| !token.is_empty())
}

/// A backslash escapes special characters only, because some browsers send `filename="C:\dev\a.txt"`.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\r' | '\n' => return None,
            '\\' => match characters.next_if(|(_, next)| is_special(*next)) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            _ => value.push(character),
        }
    }
    None
}

/// A value in pieces (RFC 2231): `name*=utf-8''a%20b`, or `name*0=…`, `name*1*=…` up to the first that is missing.
fn joined(base: &str, pieces: &BTreeMap<String, String>) -> Option<String> {
    if let Some(value) = pieces.get(&format!("{base}*")) {
        return decoded(value, true);
    }
    let mut whole = String::new();
    for number in 0.. {
        let plain = pieces.get(&format!("{base}*{number}"));
        let encoded = pieces.get(&format!("{base}*{number}*"));
        match (plain, encoded) {
            (Some(piece), _) => whole.push_str(piece),
            (None, Some(piece)) => whole.push_str(&decoded(piece, number == 0)?),
            (None, None) if number == 0 => return None,
            (None, None) => break,
        }
    }
    Some(whole)
}

/// Percent-decoded; `prefixed` has its character set and language in front, of which two sets are known.
fn decoded(text: &str, prefixed: bool) -> Option<String> {
    let value = match prefixed {
        false => text,
        true => {
            let mut parts = text.splitn(3, '\'');
            let set = parts.next()?;
            let _language = parts.next()?;
            if !["us-ascii", "utf-8"].iter().any(|known| set.eq_ignore_ascii_case(known)) {
                return None;
            }
            parts.next()?
        }
    };
    unescape(value, Plus::Literal).ok().map(std::borrow::Cow::into_owned)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

const fn is_token_char(character: char) -> bool {
    character.is_ascii_graphic() && !is_special(character)
}

/// The `tspecials` of RFC 2045 §5.1.
const fn is_special(character: char) -> bool {
    matches!(character, '(' | ')' | '<' | '>' | '@' | ',' | ';' | ':' | '\\' | '"' | '/' | '[' | ']' | '?' | '=')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("multipart/form-data", json!({})),
            ("multipart/form-data;", json!({})),
            (" Multipart/Form-Data ; Boundary = x ", json!({"boundary": "x"})),
            ("form-data; name=\"a b\"; filename=\"C:\\dev\\t.txt\"", json!({"name": "a b", "filename": "C:\\dev\\t.txt"})),
            ("a/b; x=1; x=1", json!({"x": "1"})),
            ("a/b; x*=utf-8''a%20b", json!({"x": "a b"})),
            ("a/b; x*=UTF-8'en'a%20b", json!({"x": "a b"})),
            ("a/b; x*=latin1''a", json!({})),
            ("a/b; x*0=a; x*1=b; x*3=d", json!({"x": "ab"})),
            ("a/b; x*0*=utf-8''a%2f; x*1*=b%20", json!({"x": "a/b "})),
            ("a/b; x*1=b", json!({})),
        ] {
            assert_eq!(serde_json::to_value(parse(text).unwrap()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_broken_is_an_error() {
        for text in
            ["", ";a=b", "a/b/c", "a b", "a/b; x", "a/b; x=", "a/b; =x", "a/b; x=\"a", "a/b; x=a y", "a/b; x=1; x=2", "/b", "a/"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
