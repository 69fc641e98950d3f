//! Strings: what the engine answers otherwise than OPA, and what it lacks.

use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, bound, engine, integer_operand, operand, text_operand, within};

pub(super) const TEXT: &[Builtin] = &[
    Builtin {
        name: "lower",
        arity: 1,
        run: |args| Ok(Value::from(text_operand(args, 0)?.chars().map(lower).collect::<String>())),
    },
    Builtin { name: "strings.count", arity: 2, run: count },
    Builtin { name: "indexof", arity: 2, run: |args| Ok(found(args)?.next().map_or_else(|| Value::from(-1_i64), Value::from)) },
    Builtin { name: "indexof_n", arity: 2, run: all_found },
    Builtin { name: "strings.replace_n", arity: 2, run: replace_n },
    Builtin { name: "strings.split_n", arity: 3, run: split_n },
    Builtin {
        name: "upper",
        arity: 1,
        run: |args| Ok(Value::from(text_operand(args, 0)?.chars().map(upper).collect::<String>())),
    },
    Builtin { name: "uuid.parse", arity: 1, run: parse_uuid },
];

/// One character of each, as in Go: no final sigma of its own, and the dotted capital I becomes a plain i.
fn lower(letter: char) -> char {
    if letter == 'İ' { 'i' } else { letter.to_lowercase().next().unwrap_or(letter) }
}

/// One character of each, as in Go: what only several can stand for stays as it is.
fn upper(letter: char) -> char {
    let mut all = letter.to_uppercase();
    match (all.next(), all.next(), letter) {
        (Some(one), None, _) => one,
        // Greek with an iota below, whose capital has it beside.
        (_, _, 'ᾀ'..='ᾇ' | 'ᾐ'..='ᾗ' | 'ᾠ'..='ᾧ') => char::from_u32(u32::from(letter) + 8).unwrap_or(letter),
        (_, _, 'ᾳ' | 'ῃ' | 'ῳ') => char::from_u32(u32::from(letter) + 9).unwrap_or(letter),
        _ => letter,
    }
}

/// The empty text stands before, between and behind the characters, as Go's `strings.Count` has it.
fn count(args: &[Value]) -> Result<Value, Fault> {
    let (text, part) = (text_operand(args, 0)?, text_operand(args, 1)?);
    Ok(Value::from(if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() }))
}

/// The places, in characters, where a part of a text begins; they may overlap.
fn found<'v>(args: &'v [Value]) -> Result<impl Iterator<Item = usize> + 'v, Fault> {
    let (text, part) = (text_operand(args, 0)?, text_operand(args, 1)?);
    let Some(first) = part.chars().next() else { return Err("empty search character".into()) };
    let (mut characters, mut from) = (0, 0);
    Ok(std::iter::from_fn(move || {
        let at = from + text.get(from..)?.find(part)?;
        characters += text.get(from..at)?.chars().count();
        from = at + first.len_utf8();
        characters += 1;
        Some(characters - 1)
    }))
}

fn all_found(args: &[Value]) -> Result<Value, Fault> {
    let mut places = Vec::new();
    let length = text_operand(args, 1)?.len();
    for place in found(args)? {
        places.push(Value::from(place));
        // Places may overlap, and each search reads the part anew.
        within(places.len().saturating_mul(length) <= bound::MAX_WORK / 16, "the part is found too often")?;
    }
    Ok(Value::from(places))
}

/// One pass from left to right, as Go's `strings.Replacer` has it: at each place the first pattern (in order of the keys)
/// that fits is replaced, and what was put in is not looked at again.
fn replace_n(args: &[Value]) -> Result<Value, Fault> {
    let Some(Value::Object(patterns)) = args.first() else { return Err(operand(1, "object")) };
    let text = text_operand(args, 1)?;
    let mut pairs = Vec::with_capacity(patterns.len());
    for (pattern, new) in patterns.iter() {
        let (Value::String(pattern), Value::String(new)) = (pattern, new) else {
            return Err("operand 1 non-string key or value found in pattern object".into());
        };
        pairs.push((pattern.as_ref(), new.as_ref()));
    }
    pairs.sort_unstable();
    let letters = pairs.iter().map(|(pattern, _)| pattern.len() + 1).sum::<usize>();
    within(text.len().saturating_mul(letters) <= bound::MAX_WORK, "too many patterns for so long a text")?;
    let (mut out, mut rest, mut was_empty) = (String::with_capacity(text.len()), text, false);
    loop {
        // The empty pattern fits everywhere, once.
        let found = pairs.iter().find(|(pattern, _)| rest.starts_with(pattern) && !(pattern.is_empty() && was_empty));
        if let Some((pattern, new)) = found {
            out.push_str(new);
            rest = rest.strip_prefix(pattern).unwrap_or(rest);
            was_empty = pattern.is_empty();
        } else {
            let mut letters = rest.chars();
            let Some(letter) = letters.next() else { break };
            out.push(letter);
            rest = letters.as_str();
            was_empty = false;
        }
        if out.len() > MAX_TEXT {
            return Err(Fault::limit("the answer is too large"));
        }
    }
    Ok(Value::from(out))
}

/// The first `n` parts, or the last for a negative `n`.
fn split_n(args: &[Value]) -> Result<Value, Fault> {
    let (text, delimiter, wanted) = (text_operand(args, 0)?, text_operand(args, 1)?, integer_operand(args, 2)?);
    let parts = if delimiter.is_empty() { text.len() } else { text.matches(delimiter).count() };
    within(parts <= bound::MAX_PARTS, "the text has too many parts")?;
    let all: Vec<Value> = match delimiter {
        "" => text.chars().map(|letter| Value::from(letter.to_string())).collect(),
        delimiter => text.split(delimiter).map(Value::from).collect(),
    };
    let most = usize::try_from(wanted.unsigned_abs()).unwrap_or(usize::MAX).min(all.len());
    let from = if wanted < 0 { all.len() - most } else { 0 };
    Ok(Value::from(all.into_iter().skip(from).take(most).collect::<Vec<_>>()))
}

/// With something around it, whatever that is: the library that OPA uses looks at the length alone.
fn parse_uuid(args: &[Value]) -> Result<Value, Fault> {
    let text = text_operand(args, 0)?;
    match text.get(1..37) {
        Some(inner) if text.len() == 38 => engine("uuid.parse", &[Value::from(inner)]),
        _ => engine("uuid.parse", args),
    }
}
