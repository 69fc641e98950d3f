//! Base64 and PEM as Go reads them: line ends count for nothing, nor do the bits behind the last byte, but padding has to
//! be there, and what stands between blocks is passed over.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::Fault;

const PADDED: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDED);
const URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDED);

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// A block, and what stands behind it.
pub(super) struct Block<'a> {
    pub(super) label: &'a str,
    pub(super) bytes: Vec<u8>,
    pub(super) rest: &'a str,
}

pub(super) fn base64(text: &str) -> Result<Vec<u8>, Fault> {
    decode(&STANDARD, text)
}

/// Padding may be left out.
pub(super) fn base64url(text: &str) -> Result<Vec<u8>, Fault> {
    match (text.ends_with('='), text.len() % 4) {
        (false, 2) => decode(&URL, &format!("{text}==")),
        (false, 3) => decode(&URL, &format!("{text}=")),
        _ => decode(&URL, text),
    }
}

fn decode(engine: &GeneralPurpose, text: &str) -> Result<Vec<u8>, Fault> {
    let illegal = |error: base64::DecodeError| Fault(format!("illegal base64 data: {error}"));
    if text.contains(['\r', '\n']) {
        return engine.decode(text.replace(['\r', '\n'], "")).map_err(illegal);
    }
    engine.decode(text).map_err(illegal)
}

/// Whether it begins as PEM does, so that it is not Base64 of something else.
pub(super) fn is_pem(text: &str) -> bool {
    text.starts_with("-----BEGIN")
}

/// The first block.
pub(super) fn next(text: &str) -> Option<Block<'_>> {
    let mut rest = text;
    loop {
        rest = match rest.strip_prefix(BEGIN) {
            Some(after) => after,
            None => rest.split_once("\n-----BEGIN ").map(|(_, after)| after)?,
        };
        let (title, after) = line(rest);
        rest = after;
        if let Some(block) = title.strip_suffix(DASHES).and_then(|label| body(label, after)) {
            return Some(block);
        }
    }
}

/// What follows the first line of a block, if it is one.
fn body<'a>(label: &'a str, text: &'a str) -> Option<Block<'a>> {
    let mut content = text;
    // Headers, which nothing here needs.
    while let (header, after) = line(content)
        && header.contains(':')
    {
        content = after;
    }
    let (content, tail) = match content.strip_prefix(END) {
        Some(tail) => ("", tail),
        None => content.split_once("\n-----END ")?,
    };
    let (left, rest) = line(tail.strip_prefix(label)?.strip_prefix(DASHES)?);
    let bytes = base64(&content.replace([' ', '\t'], "")).ok().filter(|_| left.is_empty())?;
    Some(Block { label, bytes, rest })
}

/// The first line without what ends it, and the others.
fn line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t']), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_in_go() {
        for (text, expected) in [
            ("YQ==", Some("a")),
            ("YR==", Some("a")),
            ("Y\nQ=\r\n=", Some("a")),
            ("", Some("")),
            ("YQ", None),
            ("YQ=", None),
            ("Y Q==", None),
            ("Y-==", None),
        ] {
            assert_eq!(base64(text).ok().as_deref(), expected.map(str::as_bytes), "{text:?}");
        }
        for (text, expected) in
            [("YQ", Some("a")), ("YQ==", Some("a")), ("-_8", Some("\u{fb}\u{ff}")), ("Y", None), ("+/8", None)]
        {
            let expected =
                expected.map(|text| text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect::<Vec<_>>());
            assert_eq!(base64url(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn blocks_are_found_between_other_text() {
        let read = |text: &str| next(text).map(|block| (block.label.to_owned(), block.bytes, block.rest.to_owned()));
        let found = |rest: &str| Some(("A B".to_owned(), b"a".to_vec(), rest.to_owned()));
        for (text, expected) in [
            ("-----BEGIN A B-----\nYQ==\n-----END A B-----", found("")),
            ("-----BEGIN A B-----\r\nYQ==\r\n-----END A B-----\r\n", found("")),
            ("-----BEGIN A B-----\nYQ==\n-----END A B----- \n\n", found("\n")),
            ("x\n-----BEGIN A B-----\nK: v\n\nY Q=\t=\n-----END A B-----\ny", found("y")),
            ("-----BEGIN A-----\n?\n-----END A-----\n-----BEGIN A B-----\nYQ==\n-----END A B-----\n", found("")),
            ("x-----BEGIN A B-----\nYQ==\n-----END A B-----\n", None),
            ("-----BEGIN A B-----\nYQ==\n-----END A-----\n", None),
            ("-----BEGIN A B-----\nYQ==\n-----END A B-----x\n", None),
            ("-----BEGIN A B-----\nYQ==\n", None),
            ("{}", None),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }
}
