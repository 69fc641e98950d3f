//! `multipart/form-data` as Go's `mime/multipart` takes it apart, and as opa-envoy-plugin shows it: each named part in a
//! list by its name, JSON parts decoded, all others as text, files included. Content types and dispositions are read
//! by `media`.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use super::media::{self, MediaError};
use crate::envoy::decode::{
    escape::{hex_pair, lossy},
    json::{self, JsonError},
};

/// Most header lines of one part, and of bytes in them, as many as Go takes of the first.
const MAX_HEADERS: usize = 10_000;

/// Why a multipart body cannot be read.
#[derive(Debug, Error)]
pub enum MultipartError {
    #[error("content type: {0}")]
    Media(#[from] MediaError),
    #[error("the boundary is empty")]
    EmptyBoundary,
    #[error("no boundary where a part should begin")]
    NoPart,
    #[error("a part has no end")]
    Unfinished,
    #[error("header of a part")]
    Header,
    #[error("quoted-printable part")]
    QuotedPrintable,
    #[error("json part: {0}")]
    Json(JsonError),
}

/// Names to the values of the parts that have them, in their order. None when `content_type` names no boundary.
pub fn parse(content_type: &str, body: &[u8]) -> Result<Option<Value>, MultipartError> {
    let parameters = media::parse(content_type)?;
    let Some(boundary) = parameters.get("boundary") else { return Ok(None) };
    if boundary.is_empty() {
        return Err(MultipartError::EmptyBoundary);
    }
    let mut reader = Reader { delimiter: format!("--{boundary}").into_bytes(), newline: b"\r\n", rest: body, parts: 0 };
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    while reader.next_part()? {
        let headers = reader.headers()?;
        let content = reader.content()?;
        let Some(name) = headers.form_name() else { continue };
        values.entry(name).or_default().push(headers.value(content)?);
    }
    Ok(Some(Value::Object(values.into_iter().map(|(name, values)| (name, Value::from(values))).collect())))
}

struct Reader<'a> {
    /// `--` and the boundary.
    delimiter: Vec<u8>,
    /// Turns to `\n` where the first delimiter ends with it.
    newline: &'static [u8],
    rest: &'a [u8],
    parts: usize,
}

impl<'a> Reader<'a> {
    /// Moves behind the next delimiter; false behind the last one.
    fn next_part(&mut self) -> Result<bool, MultipartError> {
        let mut after_content = false;
        loop {
            let Some(line) = self.line() else {
                // A last line without an end may still be the final delimiter.
                return if self.is_final(self.rest) { Ok(false) } else { Err(MultipartError::NoPart) };
            };
            if self.is_delimiter(line) {
                self.parts += 1;
                return Ok(true);
            }
            if self.is_final(line) {
                return Ok(false);
            }
            // What stands before the first part is skipped; between parts there is one line's end and nothing else.
            if self.parts > 0 && (after_content || line != self.newline) {
                return Err(MultipartError::NoPart);
            }
            after_content = self.parts > 0;
        }
    }

    /// The next line with its end; none when no line ends any more.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.rest.split_at_checked(end + 1)?;
        self.rest = rest;
        Some(line)
    }

    fn is_delimiter(&mut self, line: &[u8]) -> bool {
        let Some(tail) = line.strip_prefix(self.delimiter.as_slice()) else { return false };
        let tail = trim_start(tail);
        if self.parts == 0 && tail == b"\n" {
            self.newline = b"\n";
        }
        tail == self.newline
    }

    fn is_final(&self, line: &[u8]) -> bool {
        let tail = line.strip_prefix(self.delimiter.as_slice()).and_then(|tail| tail.strip_prefix(b"--")).map(trim_start);
        tail.is_some_and(|tail| tail.is_empty() || tail == self.newline)
    }

    fn headers(&mut self) -> Result<Headers, MultipartError> {
        let mut headers = Headers::default();
        let mut unfolded: Vec<u8> = Vec::new();
        for count in 0.. {
            let line = self.line().ok_or(MultipartError::Unfinished)?;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if count > MAX_HEADERS {
                return Err(MultipartError::Header);
            }
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                if unfolded.is_empty() {
                    return Err(MultipartError::Header);
                }
                unfolded.push(b' ');
                unfolded.extend_from_slice(line.trim_ascii());
                continue;
            }
            if !unfolded.is_empty() {
                headers.add(&std::mem::take(&mut unfolded))?;
            }
            if line.is_empty() {
                break;
            }
            unfolded.extend_from_slice(line.trim_ascii_end());
        }
        Ok(headers)
    }

    /// What stands before the next delimiter, which is left for [`Self::next_part`] with the line's end before it.
    fn content(&mut self) -> Result<&'a [u8], MultipartError> {
        if self.ends_at(self.rest) {
            return Ok(&[]);
        }
        let mut from = 0;
        loop {
            let tail = self.rest.get(from..).unwrap_or_default();
            let at = from + tail.iter().position(|byte| *byte == b'\n').ok_or(MultipartError::Unfinished)?;
            let (before, after) = self.rest.split_at_checked(at + 1).ok_or(MultipartError::Unfinished)?;
            if let Some(content) = before.strip_suffix(self.newline)
                && self.ends_at(after)
            {
                self.rest = self.rest.get(content.len()..).unwrap_or_default();
                return Ok(content);
            }
            from = at + 1;
        }
    }

    /// Whether a delimiter stands here: behind it comes white space, a line's end or `--`.
    fn ends_at(&self, text: &[u8]) -> bool {
        let tail = text.strip_prefix(self.delimiter.as_slice());
        tail.is_some_and(|tail| matches!(tail, [] | [b' ' | b'\t' | b'\r' | b'\n', ..] | [b'-', b'-', ..]))
    }
}

/// The headers of a part that matter; of several with one name the first.
#[derive(Default)]
struct Headers {
    disposition: Option<String>,
    content_type: Option<String>,
    encoding: Option<String>,
}

impl Headers {
    fn add(&mut self, line: &[u8]) -> Result<(), MultipartError> {
        let at = line.iter().position(|byte| *byte == b':').ok_or(MultipartError::Header)?;
        let (name, value) = line.split_at_checked(at).ok_or(MultipartError::Header)?;
        let sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(sound) {
            return Err(MultipartError::Header);
        }
        let value = lossy(value.get(1..).unwrap_or_default().trim_ascii().to_vec());
        let slot = match name.to_ascii_lowercase().as_slice() {
            b"content-disposition" => &mut self.disposition,
            b"content-type" => &mut self.content_type,
            b"content-transfer-encoding" => &mut self.encoding,
            _ => return Ok(()),
        };
        slot.get_or_insert(value);
        Ok(())
    }

    /// None for a part that no form field made.
    fn form_name(&self) -> Option<String> {
        let disposition = self.disposition.as_deref()?;
        let kind = disposition.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("form-data") {
            return None;
        }
        media::parse(disposition).ok()?.remove("name").filter(|name| !name.is_empty())
    }

    fn value(&self, content: &[u8]) -> Result<Value, MultipartError> {
        let quoted = self.encoding.as_deref().is_some_and(|encoding| encoding.eq_ignore_ascii_case("quoted-printable"));
        let content = if quoted { unquote(content)? } else { content.to_vec() };
        match self.content_type.as_deref() {
            Some(kind) if kind.contains("application/json") => json::parse(&content).map_err(MultipartError::Json),
            _ => Ok(Value::String(lossy(content))),
        }
    }
}

/// Quoted-printable (RFC 2045 §6.7), as leniently as Go reads it.
fn unquote(text: &[u8]) -> Result<Vec<u8>, MultipartError> {
    let mut plain = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let ending: &[u8] = match line {
            [.., b'\r', b'\n'] => b"\r\n",
            [.., b'\n'] => b"\n",
            _ => b"",
        };
        let mut rest = line.trim_ascii_end();
        let soft = rest.strip_suffix(b"=");
        rest = soft.unwrap_or(rest);
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            match byte {
                b'=' => {
                    let (value, tail) = hex_pair(tail).ok_or(MultipartError::QuotedPrintable)?;
                    plain.push(value);
                    rest = tail;
                }
                b'\t' | b' '..=b'~' | 0x80.. => plain.push(byte),
                _ => return Err(MultipartError::QuotedPrintable),
            }
        }
        if soft.is_none() {
            plain.extend_from_slice(ending);
        }
    }
    Ok(plain)
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KIND: &str = "multipart/form-data; boundary=x";

    fn read(body: &str) -> Result<Option<Value>, String> {
        parse(KIND, body.as_bytes()).map_err(|error| error.to_string())
    }

    fn part(head: &str, content: &str) -> String {
        format!("--x\r\n{head}\r\n\r\n{content}\r\n")
    }

    const A: &str = "Content-Disposition: form-data; name=\"a\"";

    #[test]
    fn d25_parts_by_name_json_decoded_files_as_text() {
        let json = format!("{A}\r\nContent-Type: application/json; charset=utf-8");
        let file = "content-disposition: form-data; name=f; filename=\"t.txt\"\r\ncontent-type: text/plain";
        for (what, body, expected) in [
            ("text", part(A, "1") + "--x--\r\n", json!({"a": ["1"]})),
            ("a list by name, in order", part(A, "1") + &part(A, "2") + "--x--", json!({"a": ["1", "2"]})),
            ("json", part(&json, r#"{"b":[1]}"#) + "--x--", json!({"a": [{"b": [1]}]})),
            ("a file", part(file, "x\r\ny\n") + "--x--", json!({"f": ["x\r\ny\n"]})),
            ("empty", part(A, "") + "--x--", json!({"a": [""]})),
            ("nothing but the end of headers", format!("--x\r\n{A}\r\n\r\n--x--"), json!({"a": [""]})),
            ("nameless", part("Content-Disposition: form-data", "1") + "--x--", json!({})),
            ("empty name", part("Content-Disposition: form-data; name=\"\"", "1") + "--x--", json!({})),
            ("no form field", part("Content-Disposition: attachment; name=a", "1") + "--x--", json!({})),
            ("no disposition", part("X-A: 1", "1") + "--x--", json!({})),
            ("no headers", "--x\r\n\r\n1\r\n--x--".to_owned(), json!({})),
            ("no parts", "--x--\r\n".to_owned(), json!({})),
            ("preamble and epilogue", format!("hello\r\n{}--x--\r\nbye", part(A, "1")), json!({"a": ["1"]})),
            ("plain newlines", format!("--x\n{A}\n\n1\n--x--\n"), json!({"a": ["1"]})),
            ("spaces behind a delimiter", format!("--x \t\r\n{A}\r\n\r\n1\r\n--x--"), json!({"a": ["1"]})),
            ("the boundary inside", part(A, "--xy\r\n--xy\r\nz") + "--x--", json!({"a": ["--xy\r\n--xy\r\nz"]})),
            ("folded header", part("Content-Disposition: form-data;\r\n name=\"a\"", "1") + "--x--", json!({"a": ["1"]})),
            ("escaped quote", part("Content-Disposition: form-data; name=\"a\\\"b\"", "1") + "--x--", json!({"a\"b": ["1"]})),
            (
                "a name in pieces",
                part("Content-Disposition: form-data; name*0=\"a\"; name*1=b", "1") + "--x--",
                json!({"ab": ["1"]}),
            ),
            (
                "quoted-printable",
                part(&format!("{A}\r\nContent-Transfer-Encoding: Quoted-Printable"), "a=3Db=\r\nc") + "--x--",
                json!({"a": ["a=bc"]}),
            ),
        ] {
            assert_eq!(read(&body), Ok(Some(expected)), "{what}");
        }
    }

    #[test]
    fn d25_without_a_boundary_there_is_nothing() {
        assert!(matches!(parse("multipart/form-data", b"--x--"), Ok(None)));
        assert!(matches!(
            parse("multipart/form-data; boundary=", b"--x--"),
            Err(MultipartError::Media(_) | MultipartError::EmptyBoundary)
        ));
        assert!(matches!(parse("multipart/form-data; boundary=\"\"", b"--x--"), Err(MultipartError::EmptyBoundary)));
        assert!(matches!(parse("multipart/form-data; boundary", b"--x--"), Err(MultipartError::Media(_))));
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let json = format!("{A}\r\nContent-Type: application/json");
        for body in [
            String::new(),
            "hello".to_owned(),
            "--x".to_owned(),
            "--x\r\n".to_owned(),
            part(A, "1"),
            format!("--x\r\n{A}\r\n\r\n1"),
            part(&json, "{") + "--x--",
            part(&json, "{} 1") + "--x--",
            part("no colon", "1") + "--x--",
            part(": 1", "1") + "--x--",
            part(" folded first", "1") + "--x--",
            format!("--x\r\n{A}\r\n\r\n1\r\n--x rubbish\r\n--x--"),
        ] {
            assert!(read(&body).is_err(), "{body:?}: {:?}", read(&body));
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        let body = [b"--x\r\n", A.as_bytes(), b"\r\n\r\n\xff\xfe\r\n--x--"].concat();
        assert_eq!(parse(KIND, &body).unwrap(), Some(json!({"a": ["\u{fffd}\u{fffd}"]})));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in ".{0,40}", pieces in proptest::collection::vec(0usize..9, 0..30)) {
            const PIECES: [&[u8]; 9] = [b"--x", b"\r\n", b"--", b"\n", b"a: b", b"Content-Disposition: form-data; name=a", b"=", b" ", b"\xff"];
            let body: Vec<u8> = pieces.iter().flat_map(|at| PIECES[*at]).copied().collect();
            let _ = parse(KIND, &body);
            let _ = parse(&kind, &body);
            let _ = parse(&format!("multipart/form-data; {kind}"), &body);
        }
    }
}
