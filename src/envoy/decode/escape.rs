//! Percent-decoding as Go's `net/url` does it: a `%` without two hex digits is an error, and bytes that are no UTF-8
//! are kept until the text is shown. The tolerant decoding of `input.url` is in `url`.

use std::borrow::Cow;

use thiserror::Error;

/// A `%` that two hex digits do not follow; shows at most three characters of the text.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("invalid percent-escape `{0}`")]
pub struct BadEscape(String);

/// What `+` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    /// Itself, in a path.
    Literal,
    /// A space, in a query or a form.
    Space,
}

/// Decodes every escape once. Borrows where there is nothing to decode.
pub fn unescape(text: &str, plus: Plus) -> Result<Cow<'_, str>, BadEscape> {
    let changes = |byte: u8| byte == b'%' || (byte == b'+' && plus == Plus::Space);
    if !text.bytes().any(changes) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let Some((value, tail)) = hex_pair(tail) else {
                    let shown = tail.get(..2).unwrap_or(tail);
                    return Err(BadEscape(format!("%{}", String::from_utf8_lossy(shown))));
                };
                decoded.push(value);
                rest = tail;
            }
            b'+' if plus == Plus::Space => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    Ok(Cow::Owned(lossy(decoded)))
}

/// The byte that two hex digits stand for, and what follows them.
pub fn hex_pair(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], tail) = text.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? << 4 | digit(low)?, tail))
}

/// Text of bytes, with one U+FFFD for **each** byte that is no UTF-8: what Go's JSON shows. `from_utf8_lossy` gives
/// one for a whole cut sequence.
pub fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut text = String::with_capacity(error.as_bytes().len());
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once_and_plus_by_place() {
        for (text, path, form) in [
            ("", "", ""),
            ("a+b%20c", "a+b c", "a b c"),
            ("%252F", "%2F", "%2F"),
            ("%c3%A9+%2B", "é++", "é +"),
            ("%e2%82", "\u{fffd}\u{fffd}", "\u{fffd}\u{fffd}"),
            ("%ff%00", "\u{fffd}\0", "\u{fffd}\0"),
        ] {
            assert_eq!(unescape(text, Plus::Literal).unwrap(), path, "{text}");
            assert_eq!(unescape(text, Plus::Space).unwrap(), form, "{text}");
        }
    }

    #[test]
    fn a_bad_escape_is_named() {
        for (text, shown) in [("a%zz", "%zz"), ("%", "%"), ("%4", "%4"), ("%4g0", "%4g"), ("%%41", "%%4"), ("%+1", "%+1")] {
            let error = unescape(text, Plus::Literal).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid percent-escape `{shown}`"));
        }
    }
}
