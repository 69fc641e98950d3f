//! How numbers are formatted: Go's integers, its large integers, and its fractions.

use num_bigint::{BigInt, Sign};

use super::{Flags, Printer, ascii};
use crate::policy::builtins::{Fault, term, within};

/// Most places of a fraction.
const MAX_PLACES: usize = 4_096;

/// The digits of a number for a verb, and what `#` puts before them.
fn digits(number: &BigInt, verb: char) -> Option<(String, &'static str)> {
    let magnitude = number.magnitude();
    Some(match verb {
        'd' | 'v' => (magnitude.to_str_radix(10), ""),
        'b' => (magnitude.to_str_radix(2), "0b"),
        'o' | 'O' => (magnitude.to_str_radix(8), "0"),
        'x' => (magnitude.to_str_radix(16), "0x"),
        'X' => (magnitude.to_str_radix(16).to_uppercase(), "0X"),
        _ => return None,
    })
}

/// The sign as the flags have it.
fn sign(is_negative: bool, plus: bool, space: bool) -> &'static str {
    match (is_negative, plus, space) {
        (true, _, _) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        (false, false, false) => "",
    }
}

impl Printer {
    /// Prints an integer of 64 bits, unless it does not go with the verb.
    pub(super) fn integer(&mut self, number: &BigInt, verb: char) -> Result<bool, Fault> {
        let letter = || u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        match verb {
            'c' => self.pad(letter().encode_utf8(&mut [0; 4])),
            'q' => {
                let quoted = quoted_letter(letter(), self.flags.plus)?;
                self.pad(&quoted);
            }
            'U' => self.code_point(number, letter()),
            _ => {
                let Some((digits, prefix)) = digits(number, verb) else { return Ok(false) };
                let Flags { sharp, zero, plus, minus, space, width, precision, .. } = self.flags;
                let sign = sign(number.sign() == Sign::Minus, plus, space);
                if precision == Some(0) && number.sign() == Sign::NoSign {
                    self.pad_with_spaces("");
                    return Ok(true);
                }
                let least = match (precision, width) {
                    (Some(precision), _) => precision,
                    (None, Some(width)) if zero && !minus => width.saturating_sub(sign.len()),
                    (None, _) => 0,
                };
                let digits = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
                let prefix = match verb {
                    'O' => "0o",
                    'o' if sharp && digits.starts_with('0') => "",
                    _ if sharp => prefix,
                    _ => "",
                };
                self.pad_with_spaces(&format!("{sign}{prefix}{digits}"));
            }
        }
        Ok(true)
    }

    fn code_point(&mut self, number: &BigInt, letter: char) {
        // Of a negative number Go shows the bits.
        let code = i64::try_from(number).map_or(0, i64::cast_unsigned);
        let least = self.flags.precision.unwrap_or(0).max(4);
        let mut text = format!("U+{code:0least$X}", least = least.min(MAX_PLACES));
        if self.flags.sharp && u64::from(u32::from(letter)) == code && !letter.is_control() {
            text.push_str(&format!(" '{letter}'"));
        }
        self.pad_with_spaces(&text);
    }

    /// Prints an integer beyond 64 bits.
    pub(super) fn large(&mut self, number: &BigInt, verb: char) {
        let Flags { sharp, zero, plus, minus, space, sharp_v, plus_v, width, precision } = self.flags;
        let Some((digits, prefix)) = digits(number, if verb == 's' { 'd' } else { verb }) else {
            return self.out.push_str(&format!("%!{verb}(big.Int={number})"));
        };
        let sign = sign(number.sign() == Sign::Minus, plus || plus_v, space);
        let prefix = match verb {
            'O' => "0o",
            _ if sharp || sharp_v => prefix,
            _ => "",
        };
        let zeros = match (precision, width) {
            (Some(precision), _) => precision.saturating_sub(digits.len()),
            (None, Some(width)) if zero && !minus => width.saturating_sub(sign.len() + prefix.len() + digits.len()),
            (None, _) => 0,
        };
        self.pad_with_spaces(&format!("{sign}{prefix}{}{digits}", "0".repeat(zeros)));
    }

    /// Prints a fraction, unless it does not go with the verb.
    pub(super) fn fraction(&mut self, number: f64, verb: char) -> Result<bool, Fault> {
        let Flags { sharp, zero, plus, minus, space, width, precision, .. } = self.flags;
        within(precision.unwrap_or(0) <= MAX_PLACES, "a precision is too large")?;
        let size = number.abs();
        let shown = match verb {
            'b' | 'x' | 'X' => return Err(Fault::limit(format!("`%{verb}` of a fraction is not supported"))),
            _ if sharp => return Err(Fault::limit("`#` with a fraction is not supported")),
            'v' | 'g' => general(size, precision),
            'G' => general(size, precision).to_uppercase(),
            'f' | 'F' => format!("{size:.places$}", places = precision.unwrap_or(6)),
            'e' => scientific(size, precision.unwrap_or(6)),
            'E' => scientific(size, precision.unwrap_or(6)).to_uppercase(),
            _ => return Ok(false),
        };
        let sign = sign(number.is_sign_negative(), plus, space);
        match width {
            Some(width) if zero && !minus && !sign.is_empty() => {
                let zeros = "0".repeat(width.saturating_sub(sign.len() + shown.len()));
                self.out.push_str(&format!("{sign}{zeros}{shown}"));
            }
            _ => self.pad(&format!("{sign}{shown}")),
        }
        Ok(true)
    }
}

/// A letter in single quotes, escaped as Go does.
fn quoted_letter(letter: char, is_ascii: bool) -> Result<String, Fault> {
    let inner = match letter {
        '\'' => "\\'".to_owned(),
        '"' => "\"".to_owned(),
        other => term::quote(other.encode_utf8(&mut [0; 4]))?.trim_matches('"').to_owned(),
    };
    Ok(format!("'{}'", if is_ascii { ascii(&inner) } else { inner }))
}

/// `1.5e+02`, of a number that is not negative.
fn scientific(number: f64, places: usize) -> String {
    let text = format!("{number:.places$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}

/// The shortest text that is the number, or one of so many digits, with an exponent where the number is large or small.
fn general(number: f64, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let text = match precision {
        Some(precision) => format!("{number:.places$e}", places = precision - 1),
        None => format!("{number:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.replace('.', "").trim_end_matches('0').len();
    let least = match precision {
        None => 6,
        Some(precision) => {
            let whole = usize::try_from(exponent + 1).unwrap_or(0);
            if precision > count && count >= whole { count } else { precision }
        }
    };
    if number != 0.0 && (exponent < -4 || exponent >= i32::try_from(least).unwrap_or(i32::MAX)) {
        return scientific(number, count.saturating_sub(1));
    }
    let places = i32::try_from(count).unwrap_or(i32::MAX).saturating_sub(exponent + 1);
    format!("{number:.places$}", places = usize::try_from(places).unwrap_or(0))
}
