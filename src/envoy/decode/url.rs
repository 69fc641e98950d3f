//! `input.url`: the path read strictly, with every way in which someone else could read it differently. It stands
//! beside the plugin's loose `parsed_path`; what an ambiguity leads to is decided by whoever reads it.
//!
//! Segments are split on `/` as sent, then decoded once, except for what would change the structure again: `%2F`,
//! `%5C` and `%25` stay encoded, in upper case. Then dot segments are resolved and empty ones dropped, so that `path`
//! is always `/` and the segments joined. `*` and the authority of a CONNECT become one segment.

use std::borrow::Cow;

use super::escape::{hex_pair, lossy};
use crate::request::{Ambiguity, UrlView};

/// Reads a path without its query.
pub fn view(method: &str, path: &str) -> UrlView {
    if is_plain(path) {
        let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
        let segments = path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
        return UrlView { path: path.to_owned(), segments, reasons: Vec::new() };
    }
    let mut reasons = Reasons::default();
    note_form(method, path, &mut reasons);
    let mut segments: Vec<String> = Vec::new();
    for raw in path.split('/').filter(|raw| !raw.is_empty()) {
        let segment = Segment::decode(raw, &mut reasons);
        match &*segment.decoded {
            b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment.text),
        }
    }
    UrlView { path: format!("/{}", segments.join("/")), segments, reasons: reasons.sorted() }
}

/// Whether nothing in the path needs a second look: the common case, answered in one pass.
fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    let plain = path.bytes().all(|byte| {
        let after_slash = previous == b'/' && matches!(byte, b'/' | b'.');
        previous = byte;
        !after_slash && !matches!(byte, b'%' | b'\\' | b';' | b'#') && !is_control(byte)
    });
    plain && path.starts_with('/')
}

/// Notes what can be seen without decoding.
fn note_form(method: &str, path: &str, reasons: &mut Reasons) {
    for byte in path.bytes() {
        match byte {
            b'\\' => reasons.note(Ambiguity::Backslash),
            b';' => reasons.note(Ambiguity::Parameter),
            b'#' => reasons.note(Ambiguity::Fragment),
            _ if is_control(byte) => reasons.note(Ambiguity::ControlByte),
            _ => {}
        }
    }
    if path.contains("//") {
        reasons.note(Ambiguity::EmptySegment);
    }
    // The target of CONNECT is an authority, and empty where Envoy sends no path.
    if !path.starts_with('/') && path != "*" && method != "CONNECT" {
        reasons.note(Ambiguity::NoLeadingSlash);
    }
    if path.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
        reasons.note(Ambiguity::AbsoluteForm);
    }
}

struct Segment<'a> {
    /// Every escape decoded once.
    decoded: Cow<'a, [u8]>,
    /// The same with `/`, `\` and `%` still encoded.
    text: String,
}

impl<'a> Segment<'a> {
    fn decode(raw: &'a str, reasons: &mut Reasons) -> Self {
        let segment = if raw.contains('%') {
            Self::decode_escapes(raw, reasons)
        } else {
            Self { decoded: Cow::Borrowed(raw.as_bytes()), text: raw.to_owned() }
        };
        if hides_dots(&segment.decoded) {
            reasons.note(Ambiguity::DotSegment);
        }
        segment
    }

    fn decode_escapes(raw: &str, reasons: &mut Reasons) -> Self {
        let mut decoded = Vec::with_capacity(raw.len());
        let mut text = Vec::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            // A `%` without two hex digits stands for itself; `parsed_path` refuses it.
            let escape = if byte == b'%' { hex_pair(tail) } else { None };
            let Some((value, tail)) = escape else {
                decoded.push(byte);
                text.push(byte);
                rest = tail;
                continue;
            };
            decoded.push(value);
            rest = tail;
            match value {
                b'/' => {
                    reasons.note(Ambiguity::EncodedSlash);
                    text.extend_from_slice(b"%2F");
                }
                b'\\' => {
                    reasons.note(Ambiguity::EncodedBackslash);
                    text.extend_from_slice(b"%5C");
                }
                b'%' => text.extend_from_slice(b"%25"),
                _ => text.push(value),
            }
            if is_control(value) {
                reasons.note(Ambiguity::ControlByte);
            }
        }
        if decoded.windows(3).any(|window| matches!(window, [b'%', pair @ ..] if hex_pair(pair).is_some())) {
            reasons.note(Ambiguity::DoubleEncoding);
        }
        if str::from_utf8(&decoded).is_err() {
            reasons.note(Ambiguity::NotUtf8);
        }
        Self { decoded: Cow::Owned(decoded), text: lossy(text) }
    }
}

/// Whether a segment is, or may become, `.` or `..`: also behind an encoded slash or a backslash, and before a
/// parameter (`..;x`), which some servers cut off first.
fn hides_dots(decoded: &[u8]) -> bool {
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|part| matches!(part.split(|&byte| byte == b';').next(), Some(b"." | b"..")))
}

const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// [RFC 3986, section 3.1](https://www.rfc-editor.org/rfc/rfc3986#section-3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Each reason once, so that a path of a thousand `%2F` costs no more than one.
#[derive(Default)]
struct Reasons(Vec<Ambiguity>);

impl Reasons {
    fn note(&mut self, reason: Ambiguity) {
        if !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }

    fn sorted(mut self) -> Vec<Ambiguity> {
        self.0.sort_unstable();
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Path, canonical path, reasons.
    type Row = (&'static str, &'static str, &'static [Ambiguity]);

    fn check(rows: &[Row]) {
        for (path, canonical, reasons) in rows {
            let view = view("GET", path);
            assert_eq!(view.path, *canonical, "{path}");
            assert_eq!(view.reasons, *reasons, "{path}");
            assert_eq!(view.path, format!("/{}", view.segments.join("/")), "{path}");
        }
    }

    #[test]
    fn plain_paths_are_taken_as_they_are() {
        check(&[
            ("/", "/", &[]),
            ("/a", "/a", &[]),
            ("/a/b.c/d..e", "/a/b.c/d..e", &[]),
            ("/a/", "/a", &[]),
            ("/é/~x/a+b,c=d:e@f!$&'()*", "/é/~x/a+b,c=d:e@f!$&'()*", &[]),
            ("/.well-known/x", "/.well-known/x", &[]),
            ("/...", "/...", &[]),
        ]);
        assert_eq!(view("GET", "/").segments, Vec::<String>::new());
    }

    #[test]
    fn harmless_escapes_are_decoded() {
        check(&[
            ("/a%20b", "/a b", &[]),
            ("/%61%C3%a9", "/aé", &[]),
            ("/a%3Bb%23c%3Fd", "/a;b#c?d", &[]),
            ("/100%25", "/100%25", &[]),
            ("/100%25/zz", "/100%25/zz", &[]),
            ("/a%zz", "/a%zz", &[]),
        ]);
    }

    #[test]
    fn d02_d03_encoded_slash_and_double_encoding_stay_one_segment() {
        use Ambiguity::{DoubleEncoding, EncodedBackslash, EncodedSlash};
        check(&[
            ("/a%2Fb", "/a%2Fb", &[EncodedSlash]),
            ("/a%2fb%5c", "/a%2Fb%5C", &[EncodedSlash, EncodedBackslash]),
            ("/a%252Fb", "/a%252Fb", &[DoubleEncoding]),
            ("/a%25%32%46b", "/a%252Fb", &[DoubleEncoding]),
            ("/%%34%31", "/%41", &[DoubleEncoding]),
        ]);
        assert_eq!(view("GET", "/a%2Fb").segments, ["a%2Fb"]);
    }

    #[test]
    fn d04_dot_segments_are_resolved_and_told() {
        use Ambiguity::{Backslash, DotSegment, EncodedBackslash, EncodedSlash, Parameter};
        check(&[
            ("/a/../b", "/b", &[DotSegment]),
            ("/a/%2e%2E/b", "/b", &[DotSegment]),
            ("/a/.%2e/b/.", "/b", &[DotSegment]),
            ("/../../a", "/a", &[DotSegment]),
            ("/a/..", "/", &[DotSegment]),
            ("/a/..%2Fb", "/a/..%2Fb", &[EncodedSlash, DotSegment]),
            ("/a/..%5Cb", "/a/..%5Cb", &[EncodedBackslash, DotSegment]),
            ("/a/b\\..", "/a/b\\..", &[Backslash, DotSegment]),
            ("/a/..;x=1/b", "/a/..;x=1/b", &[DotSegment, Parameter]),
        ]);
    }

    #[test]
    fn d01_d05_empty_segments_are_dropped_and_told() {
        check(&[
            ("//admin/x", "/admin/x", &[Ambiguity::EmptySegment]),
            ("/a//b", "/a/b", &[Ambiguity::EmptySegment]),
            ("/a//", "/a", &[Ambiguity::EmptySegment]),
            ("//", "/", &[Ambiguity::EmptySegment]),
        ]);
    }

    #[test]
    fn d09_bytes_that_are_no_utf8_or_control_are_told() {
        use Ambiguity::{ControlByte, NotUtf8};
        check(&[
            ("/%ff", "/\u{fffd}", &[NotUtf8]),
            ("/%c0%af", "/\u{fffd}\u{fffd}", &[NotUtf8]),
            ("/a%00", "/a\0", &[ControlByte]),
            ("/a%0d%0ab", "/a\r\nb", &[ControlByte]),
            ("/a\tb\x7f", "/a\tb\x7f", &[ControlByte]),
            ("/a%7F", "/a\x7f", &[ControlByte]),
        ]);
    }

    #[test]
    fn d10_other_forms_of_target_are_told() {
        use Ambiguity::{AbsoluteForm, Backslash, EmptySegment, Fragment, NoLeadingSlash, Parameter};
        check(&[
            ("Service/Method", "/Service/Method", &[NoLeadingSlash]),
            ("", "/", &[NoLeadingSlash]),
            ("http://h/x", "/http:/h/x", &[EmptySegment, NoLeadingSlash, AbsoluteForm]),
            ("/x://h", "/x:/h", &[EmptySegment]),
            ("/a#f", "/a#f", &[Fragment]),
            ("/a\\b", "/a\\b", &[Backslash]),
            ("/a;b=c/d", "/a;b=c/d", &[Parameter]),
            ("*", "/*", &[]),
        ]);
        assert_eq!(view("CONNECT", "h:443").reasons, []);
        assert_eq!(view("CONNECT", "h:443").segments, ["h:443"]);
        assert_eq!(view("CONNECT", "").reasons, []);
        assert_eq!(view("CONNECT", "/chat/../x").reasons, [Ambiguity::DotSegment]);
    }

    proptest! {
        #[test]
        fn a_view_is_always_canonical(method in "GET|CONNECT", path in "(/|%|\\.|%2[eEfF5]|%5[cC]|;|[a-f0-9]|\\\\|\\PC|%[0-9a-f]{2}){0,24}") {
            let view = view(&method, &path);
            prop_assert_eq!(&view.path, &format!("/{}", view.segments.join("/")));
            prop_assert!(view.segments.iter().all(|segment| !matches!(segment.as_str(), "" | "." | "..") && !segment.contains('/')));
            prop_assert!(view.reasons.is_sorted());
        }

        #[test]
        fn what_the_fast_way_takes_the_slow_way_reads_alike(path in "(/[a-z.é]{0,3}){1,5}/?") {
            if is_plain(&path) {
                let (fast, slow) = (view("GET", &path), view("GET", &format!("{path}#")));
                prop_assert_eq!(slow.reasons, [Ambiguity::Fragment]);
                prop_assert_eq!(slow.path.trim_end_matches('#').trim_end_matches('/'), fast.path.trim_end_matches('/'));
            }
        }
    }
}
