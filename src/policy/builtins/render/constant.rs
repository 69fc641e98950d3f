//! The constants of a template: Go's numbers, letters and quoted texts.

use std::str::Chars;

use super::run::Go;
use crate::policy::builtins::Fault;

/// A number is of the type that its text shows.
pub(super) fn number<'v>(text: &str) -> Result<Go<'v>, Fault> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_negative = text.starts_with('-');
    if unsigned.contains('_') || unsigned.ends_with('i') {
        return Err(Fault::limit("numbers with `_` or `i` are not supported"));
    }
    let (digits, radix) = match unsigned.get(..2) {
        Some("0x" | "0X") => (unsigned.get(2..), 16),
        Some("0b" | "0B") => (unsigned.get(2..), 2),
        Some("0o" | "0O") => (unsigned.get(2..), 8),
        _ if unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.contains(['.', 'e', 'E']) => (unsigned.get(1..), 8),
        _ => (Some(unsigned), 10),
    };
    let digits = digits.unwrap_or_default();
    if radix == 16 && digits.contains(['.', 'p', 'P']) {
        return Err(Fault::limit("hexadecimal fractions are not supported"));
    }
    if radix == 10 && digits.contains(['.', 'e', 'E']) {
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
        let number = digits.parse::<f64>().ok().filter(|number| is_plain && number.is_finite()).ok_or("illegal number syntax")?;
        return Ok(Go::Float(if is_negative { -number } else { number }));
    }
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("illegal number syntax".into());
    }
    let number = i128::from_str_radix(digits, radix).map(|number| if is_negative { -number } else { number });
    // Beyond 64 bits Go fails, for some only where the number is come by.
    let number = number.ok().and_then(|number| i64::try_from(number).ok());
    number.map(Go::Int).ok_or_else(|| Fault::limit("a number has too many digits"))
}

pub(super) fn letter<'v>(inner: &str) -> Result<Go<'v>, Fault> {
    let mut letters = inner.chars();
    let letter = match letters.next().ok_or("malformed character constant")? {
        '\\' => escape(&mut letters, '\'')?.0,
        letter => u32::from(letter),
    };
    if letters.next().is_some() {
        return Err("malformed character constant".into());
    }
    Ok(Go::Int(letter.into()))
}

pub(super) fn quoted(inner: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        let (code, is_byte) = if letter == '\\' { escape(&mut letters, '"')? } else { (u32::from(letter), false) };
        match u8::try_from(code) {
            Ok(byte) if is_byte => bytes.push(byte),
            _ => {
                let letter = char::from_u32(code).ok_or("invalid syntax")?;
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| Fault::limit("a text that is not UTF-8 is not supported"))
}

/// What an escape stands for, behind its backslash, and whether that is a byte and no letter.
fn escape(letters: &mut Chars<'_>, quote: char) -> Result<(u32, bool), Fault> {
    Ok(match letters.next().ok_or("invalid syntax")? {
        'a' => (7, false),
        'b' => (8, false),
        't' => (9, false),
        'n' => (10, false),
        'v' => (11, false),
        'f' => (12, false),
        'r' => (13, false),
        '\\' => (u32::from('\\'), false),
        letter if letter == quote => (u32::from(quote), false),
        'x' => (digits(letters, 2, 16, 0)?, true),
        'u' => (digits(letters, 4, 16, 0)?, false),
        'U' => (digits(letters, 8, 16, 0)?, false),
        letter => {
            let first = letter.to_digit(8).ok_or("invalid syntax")?;
            let code = digits(letters, 2, 8, first)?;
            if code > 255 {
                return Err("invalid syntax".into());
            }
            (code, true)
        }
    })
}

fn digits(letters: &mut Chars<'_>, count: usize, radix: u32, first: u32) -> Result<u32, Fault> {
    (0..count).try_fold(first, |sum, _| {
        let digit = letters.next().and_then(|digit| digit.to_digit(radix)).ok_or("invalid syntax")?;
        Ok(sum.wrapping_mul(radix).wrapping_add(digit))
    })
}
