//! `time.*` where the engine answers otherwise than OPA.

use regorus::Value;

use super::{Builtin, Fault, bound::MAX_LAYOUT, context, engine, text_operand, within};

pub(super) const TIME: &[Builtin] = &[
    Builtin { name: "time.parse_duration_ns", arity: 1, run: parse_duration },
    Builtin { name: "time.now_ns", arity: 0, run: |_| Ok(Value::from(context::now_ns())) },
    Builtin { name: "time.parse_ns", arity: 2, run: parse },
];

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 24 * 3600 * SECOND;

/// A Go duration (`1h30m`, `1.5s`) with days, weeks and years of 365 days besides.
fn parse_duration(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    let invalid = || Fault(format!("time: invalid duration {text:?}"));
    let (sign, mut rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) if text.starts_with('-') => (-1, rest),
        Some(rest) => (1, rest),
        None => (1, text),
    };
    if rest == "0" {
        return Ok(Value::from(0));
    }
    let mut total = 0_i128;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).ok_or_else(invalid)?;
        let (number, after) = rest.split_at_checked(end).ok_or_else(invalid)?;
        let end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, behind) = after.split_at_checked(end).ok_or_else(invalid)?;
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => DAY,
            "w" => 7 * DAY,
            "y" => 365 * DAY,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(invalid());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(unit).and_then(|ns| total.checked_add(ns)).ok_or_else(invalid)?;
        // What is beyond a nanosecond of the largest unit is cut, as in Go.
        let digits: String = fraction.chars().take(18).collect();
        if !digits.is_empty() {
            let scale = 10_i128.pow(u32::try_from(digits.len()).unwrap_or(18));
            total += digits.parse::<i128>().map_err(|_| invalid())? * unit / scale;
        }
        rest = behind;
    }
    let total = i64::try_from(total * sign).map_err(|_| invalid())?;
    Ok(Value::from(total))
}

/// The engine cuts the layout between bytes and panics inside a character.
fn parse(args: &[Value]) -> Result<Value, Fault> {
    let (layout, text) = (text_operand(args, 0)?, text_operand(args, 1)?);
    within(layout.is_ascii(), "a layout that is not ASCII is not supported")?;
    within(layout.len() <= MAX_LAYOUT, "the layout is too long")?;
    if !text.is_ascii() || text.len() > MAX_LAYOUT {
        return Err("the text is none of the layout".into());
    }
    engine("time.parse_ns", args)
}
