//! Form decoding as Go's `url.ParseQuery` does it, for `input.parsed_query` and for form bodies.

use std::collections::BTreeMap;

use thiserror::Error;

use super::escape::{BadEscape, Plus, unescape};

/// Why a query or form cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// Some servers split on `;` and some do not, so Go refuses it.
    #[error("semicolon where `&` separates parameters")]
    Semicolon,
    /// Go's own limit, counted before anything is decoded.
    #[error("more than {MAX_PARAMETERS} parameters")]
    TooMany,
    #[error(transparent)]
    Escape(#[from] BadEscape),
}

/// Keys to their values in the order they came. A parameter without `=` has the value `""`; keys keep their case.
pub fn parse(query: &str) -> Result<BTreeMap<String, Vec<String>>, QueryError> {
    let mut parsed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if query.bytes().filter(|&byte| byte == b'&').count() >= MAX_PARAMETERS {
        return Err(QueryError::TooMany);
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        if parameter.contains(';') {
            return Err(QueryError::Semicolon);
        }
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let key = unescape(key, Plus::Space)?.into_owned();
        let value = unescape(value, Plus::Space)?.into_owned();
        parsed.entry(key).or_default().push(value);
    }
    Ok(parsed)
}

/// Go counts separators, so empty parameters (`&&`) count as well.
const MAX_PARAMETERS: usize = 10_000;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(query: &str) -> Value {
        serde_json::to_value(parse(query).unwrap()).unwrap()
    }

    #[test]
    fn every_row_of_the_plugins_table() {
        for (query, expected) in [
            ("", json!({})),
            ("a", json!({"a": [""]})),
            ("a=", json!({"a": [""]})),
            ("=b", json!({"": ["b"]})),
            ("a=1&a=2", json!({"a": ["1", "2"]})),
            ("a=b+c%2B", json!({"a": ["b c+"]})),
            ("%61=1&a=2", json!({"a": ["1", "2"]})),
            ("&&a=1&", json!({"a": ["1"]})),
            ("a=%ff", json!({"a": ["\u{fffd}"]})),
            ("a[]=1&a[]=2", json!({"a[]": ["1", "2"]})),
            ("a=x=y", json!({"a": ["x=y"]})),
            ("a=1&A=2", json!({"a": ["1"], "A": ["2"]})),
            ("a=1%3Bb=2", json!({"a": ["1;b=2"]})),
        ] {
            assert_eq!(parsed(query), expected, "{query}");
        }
    }

    #[test]
    fn semicolons_and_bad_escapes_are_errors() {
        assert_eq!(parse("a=1;b=2"), Err(QueryError::Semicolon));
        assert!(matches!(parse("a=%zz"), Err(QueryError::Escape(_))));
        assert!(matches!(parse("%=1"), Err(QueryError::Escape(_))));
    }

    #[test]
    fn the_limit_is_ten_thousand_parameters() {
        assert_eq!(parse(&"a&".repeat(9_999)).unwrap()["a"].len(), 9_999);
        assert_eq!(parse(&["a"; 10_000].join("&")).unwrap()["a"].len(), 10_000);
        assert_eq!(parse(&["a"; 10_001].join("&")), Err(QueryError::TooMany));
        assert_eq!(parse(&"&".repeat(10_000)), Err(QueryError::TooMany));
    }
}
