//! `units.parse` and `units.parse_bytes`: an amount with a unit. Amounts are exact: a decimal number is an integer and a
//! power of ten.

use num_bigint::BigInt;
use regorus::Value;

use super::{Builtin, Fault, text_operand, within};

pub(super) const UNITS: &[Builtin] =
    &[Builtin { name: "units.parse", arity: 1, run: parse }, Builtin { name: "units.parse_bytes", arity: 1, run: parse_bytes }];

/// Most digits that an amount may come to.
const MAX_POWER: i32 = 2_000;
/// Longest amount with its unit, in bytes.
const MAX_LENGTH: usize = 4_096;
/// Digits behind the point of an amount that is no integer.
const FRACTION: u32 = 10;
/// Most digits of an exponent.
const MAX_EXPONENT: usize = 6;

/// An integer times a power of ten.
struct Amount {
    digits: BigInt,
    power: i32,
}

impl Amount {
    fn read(text: &str) -> Option<Self> {
        let (sign, text) = match text.strip_prefix(['+', '-']) {
            Some(rest) if text.starts_with('-') => (-1, rest),
            Some(rest) => (1, rest),
            None => (1, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let power = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Self { digits: digits.parse::<BigInt>().ok()? * sign, power })
    }

    /// Numerator and denominator, times `factor`.
    fn times(self, factor: &BigInt) -> Result<(BigInt, BigInt), Fault> {
        within(self.power.abs() <= MAX_POWER, "the exponent is too large")?;
        let ten = BigInt::from(10).pow(self.power.unsigned_abs());
        let product = self.digits * factor;
        Ok(if self.power < 0 { (product, ten) } else { (product * ten, BigInt::from(1)) })
    }
}

/// The amount and the unit of a text.
fn split(text: &str) -> Result<(&str, &str), Fault> {
    // Reading a number takes the square of its length.
    within(text.len() <= MAX_LENGTH, "the amount is too long")?;
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'e' | b'E' => {
                let signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
                if !digit(at + 1) && !signed {
                    break;
                }
                let from = at + 1 + usize::from(signed);
                if (from..).take_while(|at| digit(*at)).count() > MAX_EXPONENT {
                    return Err("exponent too large".into());
                }
                at = from;
            }
            b'0'..=b'9' | b'.' | b'+' | b'-' => at += 1,
            _ => break,
        }
    }
    Ok(text.split_at_checked(at).unwrap_or((text, "")))
}

fn power(base: u32, exponent: u32) -> BigInt {
    BigInt::from(base).pow(exponent)
}

/// 1000 or 1024 to the power that a letter stands for.
fn factor(letter: char, binary: bool) -> Option<BigInt> {
    let exponent = u32::try_from("kmgtpe".find(letter)?).ok()? + 1;
    Some(power(if binary { 1024 } else { 1000 }, exponent))
}

fn parse(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?.replace('"', "");
    if text.contains(' ') {
        return Err("spaces not allowed in resource strings".into());
    }
    let (amount, unit) = split(&text)?;
    if amount.is_empty() {
        return Err("no amount provided".into());
    }
    // Only the first letter has a case that counts: `m` is a thousandth, `M` a million.
    let mut letters = unit.chars();
    let (first, rest) = (letters.next(), letters.as_str().to_lowercase());
    let unknown = || Fault(format!("unit {unit} not recognized"));
    let (multiply, divide) = match (first, rest.as_str()) {
        (None, _) => (BigInt::from(1), 1),
        (Some('m'), "") => (BigInt::from(1), 1000),
        (Some(letter), "") => (factor(letter.to_ascii_lowercase(), false).ok_or_else(unknown)?, 1),
        (Some(letter), "i") => (factor(letter.to_ascii_lowercase(), true).ok_or_else(unknown)?, 1),
        _ => return Err(unknown()),
    };
    let amount = Amount::read(amount).ok_or("could not parse amount to a number")?;
    let (numerator, denominator) = amount.times(&multiply)?;
    let denominator = denominator * divide;
    if &numerator % &denominator == BigInt::ZERO {
        let whole: BigInt = numerator / denominator;
        return number(&whole.to_string());
    }
    number(&decimal(&numerator, &denominator))
}

fn parse_bytes(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?.to_lowercase().replace('"', "");
    if text.contains(' ') {
        return Err("spaces not allowed in resource strings".into());
    }
    let (amount, unit) = split(&text)?;
    if amount.is_empty() {
        return Err("no byte amount provided".into());
    }
    let unknown = || Fault(format!("byte unit {unit} not recognized"));
    let multiply = match unit.strip_suffix('b').unwrap_or(unit) {
        "" if unit.is_empty() => BigInt::from(1),
        stem => {
            let (letter, binary) = stem.strip_suffix('i').map_or((stem, false), |letter| (letter, true));
            let mut letters = letter.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => factor(letter, binary).ok_or_else(unknown)?,
                _ => return Err(unknown()),
            }
        }
    };
    let amount = Amount::read(amount).ok_or("could not parse byte amount to a number")?;
    let (numerator, denominator) = amount.times(&multiply)?;
    let whole: BigInt = numerator / denominator;
    number(&whole.to_string())
}

/// Rounded to [`FRACTION`] digits, halves away from zero.
fn decimal(numerator: &BigInt, denominator: &BigInt) -> String {
    let scaled = numerator * power(10, FRACTION);
    let half: BigInt = denominator / 2;
    let negative = scaled < BigInt::ZERO;
    let rounded = (if negative { -scaled } else { scaled } + half) / denominator;
    let digits = format!("{rounded:0>width$}", width = FRACTION as usize + 1);
    let (whole, fraction) = digits.split_at_checked(digits.len() - FRACTION as usize).unwrap_or((&digits, ""));
    format!("{}{whole}.{fraction}", if negative { "-" } else { "" })
}

fn number(text: &str) -> Result<Value, Fault> {
    Value::from_json_str(text).map_err(|_| "could not parse amount to a number".into())
}
