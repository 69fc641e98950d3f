//! `input.parsed_path`, as opa-envoy-plugin gives it: decoded *before* it is split, so an encoded slash splits too.
//! Policies written for the plugin rely on it; the strict reading beside it is `url`.

use super::escape::{BadEscape, Plus, unescape};

/// The segments of a path without its query: decoded once, all leading slashes gone, dot and empty segments kept. An
/// empty path is one empty segment.
pub fn parse(path: &str) -> Result<Vec<String>, BadEscape> {
    let decoded = unescape(path, Plus::Literal)?;
    Ok(decoded.trim_start_matches('/').split('/').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_plugins_table() {
        let rows: &[(&str, &[&str])] = &[
            ("/", &[""]),
            ("", &[""]),
            ("/a/", &["a", ""]),
            ("/a//b", &["a", "", "b"]),
            ("//admin/x", &["admin", "x"]),
            ("/a%2Fb", &["a", "b"]),
            ("%2Fmy%2Ftest", &["my", "test"]),
            ("/a%252Fb", &["a%2Fb"]),
            ("/a;b=c/d", &["a;b=c", "d"]),
            ("/a/../b", &["a", "..", "b"]),
            ("/a/%2e%2e/b", &["a", "..", "b"]),
            ("/a+b%20c", &["a+b c"]),
            ("/a\\b%5Cc", &["a\\b\\c"]),
            ("/new%0aline", &["new\nline"]),
            ("/%ff", &["\u{fffd}"]),
            ("/a#frag", &["a#frag"]),
            ("a/b", &["a", "b"]),
            ("http://h/x", &["http:", "", "h", "x"]),
        ];
        for (path, expected) in rows {
            assert_eq!(parse(path).unwrap(), *expected, "{path}");
        }
    }

    #[test]
    fn a_bad_escape_is_an_error() {
        for path in ["/a%zz", "/a%", "/a%2"] {
            assert!(parse(path).is_err(), "{path}");
        }
    }
}
