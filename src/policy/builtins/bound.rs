//! What a call may take and make. The engine looks at the clock between its steps and not within a function, so a function
//! whose answer may be much larger than its arguments, or that may run for long, is looked at before it runs; and all that
//! the functions of one evaluation make is added up in `context`.

use std::collections::BTreeSet;

use regorus::{Value, value::Object};

use super::{Fault, Guard, MAX_TEXT, integer_operand, json, range_length, replaced_length, text_operand, within};
use crate::policy::load;

/// Most elements that a call may make.
pub(super) const MAX_ITEMS: usize = 1_000_000;
/// Most texts that a call may make of one.
pub(super) const MAX_PARTS: usize = 250_000;
/// Longest number in bits that arithmetic may make. OPA reads none above two to the power of 100,000.
pub(super) const MAX_BITS: u64 = 1 << 17;
/// Steps of a call that follows paths.
const MAX_STEPS: usize = 100_000;
/// Widest field that a format may ask for.
const MAX_WIDTH: usize = 4096;
/// Longest text that stands for a number.
const MAX_DIGITS: usize = 40_000;
/// What an element of a collection takes, and what a text takes beside its bytes.
const ITEM: usize = 16;
const TEXT: usize = 32;

/// Functions of the engine's own that are looked at before they run. None of them is within the bytecode.
pub(super) const GUARDED: &[(&str, Guard)] = &[
    ("numbers.range", |args| {
        let length = range_length(integer_operand(args, 0)?, integer_operand(args, 1)?, 1);
        within(length.is_some_and(|length| length <= MAX_ITEMS as i128), "the range is too long")
    }),
    ("bits.lsh", |args| {
        let shift = integer_operand(args, 1)?;
        if shift < 0 {
            return Err("negative shift amount".into());
        }
        let shift = u64::try_from(shift).unwrap_or(u64::MAX);
        within(args.first().map_or(0, bits).saturating_add(shift) <= MAX_BITS, "the number is shifted too far")
    }),
    ("product", |args| {
        let bits = items(args, 0).map(|items| items.iter().map(|item| bits(item)).fold(0, u64::saturating_add));
        within(bits.unwrap_or(0) <= MAX_BITS, "the product is too large")
    }),
    ("to_number", number),
    ("sprintf", |args| {
        let widths = widths(text_operand(args, 0)?).ok_or_else(|| Fault::limit("a width is too large"))?;
        prints(args, widths)
    }),
    ("replace", |args| {
        let length = replaced_length(text_operand(args, 0)?, text_operand(args, 1)?, text_operand(args, 2)?);
        within(length.is_some_and(|length| length <= MAX_TEXT), "the answer is too large")
    }),
    ("concat", |args| {
        let length = super::joined_length(text_operand(args, 0)?.len(), args.get(1).unwrap_or(&Value::Undefined))?;
        within(length <= MAX_TEXT, "the answer is too large")
    }),
    ("split", |args| {
        let (text, delimiter) = (text_operand(args, 0)?, text_operand(args, 1)?);
        let parts = if delimiter.is_empty() { text.len() } else { text.matches(delimiter).count() };
        within(parts <= MAX_PARTS, "the text has too many parts")
    }),
    ("indexof_n", |args| within(text_operand(args, 0)?.len() <= MAX_ITEMS, "the text is too long")),
    ("array.concat", |args| {
        let length = (0..2).filter_map(|index| items(args, index)).map(|items| items.len()).sum::<usize>();
        within(length <= MAX_ITEMS, "the array is too long")
    }),
    ("base64.encode", |args| encodes(args, 2)),
    ("base64url.encode", |args| encodes(args, 2)),
    ("base64url.encode_no_pad", |args| encodes(args, 2)),
    ("hex.encode", |args| encodes(args, 2)),
    ("urlquery.encode", |args| encodes(args, 3)),
    ("urlquery.encode_object", |args| prints(args, 0)),
    ("json.marshal_with_options", |args| {
        let longest = args.get(1).map_or(0, |options| weight(options, MAX_TEXT));
        prints(args, longest.saturating_mul(args.first().map_or(0, |value| weight(value, MAX_TEXT))))
    }),
    ("yaml.unmarshal", |args| within(!load::has_private_key(text_operand(args, 0)?), json::RESERVED)),
    ("object.union", |args| prints(args, 0)),
    ("object.union_n", |args| prints(args, 0)),
    ("walk", |args| within(args.first().is_none_or(|value| walked(value) < MAX_ITEMS), "the document has too many places")),
    ("graph.reachable_paths", paths),
];

/// Memory that a value takes that a call has made, as far as it can be new: what lies deeper was there before.
pub(super) fn size(value: &Value) -> usize {
    let of = |item: &Value| match item {
        Value::String(text) => ITEM + TEXT + text.len(),
        _ => ITEM,
    };
    match value {
        Value::Array(items) => items.iter().map(of).sum(),
        Value::Set(items) => items.iter().map(of).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| of(key) + of(value)).sum(),
        value => of(value),
    }
}

/// Bits of a number; of what is no number, none.
pub(super) fn bits(value: &Value) -> u64 {
    match value {
        Value::Number(number) if number.as_i128().is_none() && number.is_integer() => {
            number.as_big().map_or(64, |big| big.bits())
        }
        Value::Number(_) => 64,
        _ => 0,
    }
}

/// Most bits that a text stands for as a number.
fn number(args: &[Value]) -> Result<(), Fault> {
    let Some(Value::String(text)) = args.first() else { return Ok(()) };
    json::exponents_are_small(text)?;
    within(text.len() <= MAX_DIGITS, "the number is too long")
}

fn items(args: &[Value], index: usize) -> Option<Vec<&Value>> {
    match args.get(index)? {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Set(items) => Some(items.iter().collect()),
        _ => None,
    }
}

/// Whether a text that becomes `factor` times as long is short enough.
fn encodes(args: &[Value], factor: usize) -> Result<(), Fault> {
    within(text_operand(args, 0)?.len().saturating_mul(factor) <= MAX_TEXT, "the answer is too large")
}

/// Whether the arguments, written out with `more` bytes between, are short enough. A value that is shared a thousand times
/// is written a thousand times.
pub(super) fn prints(args: &[Value], more: usize) -> Result<(), Fault> {
    let mut length = more;
    for arg in args {
        length = length.saturating_add(weight(arg, MAX_TEXT));
    }
    within(length <= MAX_TEXT, "the answer is too large")
}

/// About how many bytes a value takes when it is written out; more than `most` once it is more.
pub(super) fn weight(value: &Value, most: usize) -> usize {
    let mut sum = 0_usize;
    let mut left = vec![(value, 1_usize)];
    while let Some((value, depth)) = left.pop() {
        // What surrounds it, and its indentation.
        sum = sum.saturating_add(2 * depth);
        sum = sum.saturating_add(match value {
            Value::String(text) => text.len(),
            Value::Number(_) => usize::try_from(bits(value) / 3).unwrap_or(usize::MAX),
            _ => 4,
        });
        if sum > most {
            break;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Set(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => left.extend(fields.iter().flat_map(|(key, value)| [(key, depth + 1), (value, depth + 1)])),
            _ => {}
        }
    }
    sum
}

/// The elements of all paths within a value, up to a few more than may be.
fn walked(value: &Value) -> usize {
    let mut sum = 0_usize;
    let mut left = vec![(value, 1_usize)];
    while let Some((value, depth)) = left.pop() {
        sum = sum.saturating_add(depth);
        if sum > MAX_ITEMS {
            break;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Set(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => left.extend(fields.iter().map(|(_, value)| (value, depth + 1))),
            _ => {}
        }
    }
    sum
}

/// The widths that a format asks for, together; none where one is too large or is taken from an argument.
fn widths(format: &str) -> Option<usize> {
    format.split('%').skip(1).try_fold(0_usize, |sum, verb| {
        let end = verb.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(verb.len());
        let (width, _) = verb.split_at_checked(end).unwrap_or((verb, ""));
        let digits = width.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let mut widths = digits.map(|digits| digits.parse::<usize>().ok().filter(|width| *width <= MAX_WIDTH));
        let widest = widths.try_fold(0, |widest, width| Some(width?.max(widest)))?;
        (!width.contains('*')).then(|| sum.saturating_add(widest))
    })
}

/// Goes the ways that the engine will go, and counts the elements of the paths it will make.
fn paths(args: &[Value]) -> Result<(), Fault> {
    let (Some(Value::Object(graph)), Some(starts)) = (args.first(), items(args, 1)) else { return Ok(()) };
    let neighbours = |node: &Value| -> Vec<&Value> {
        match Object::get(graph, node) {
            Some(Value::Array(nodes)) => nodes.iter().collect(),
            Some(Value::Set(nodes)) => nodes.iter().collect(),
            _ => Vec::new(),
        }
    };
    let mut steps = 0;
    for start in starts {
        let (mut on_path, mut ways) = (BTreeSet::from([start]), vec![(start, neighbours(start))]);
        while let Some((node, left)) = ways.last_mut() {
            match left.pop() {
                None => {
                    on_path.remove(*node);
                    ways.pop();
                }
                Some(next) => {
                    steps += ways.len();
                    within(steps <= MAX_STEPS, "the graph has too many paths")?;
                    if on_path.insert(next) {
                        ways.push((next, neighbours(next)));
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_weighs_as_often_as_it_is_written() {
        let nested = (0..60).fold(Value::from("x"), |inner, _| Value::from(vec![inner.clone(), inner]));
        assert!(weight(&nested, MAX_TEXT) > MAX_TEXT);
        assert!(walked(&nested) > MAX_ITEMS);
        assert!(weight(&Value::from_json_str(r#"{"a": [1, "bc"]}"#).unwrap(), MAX_TEXT) < 200);
    }

    #[test]
    fn widths_add_up() {
        for (format, sum) in
            [("%d", Some(0)), ("%5d|%-6.3f%%", Some(11)), ("%5000d", None), ("%*d", None), ("%.9999999999999999999999f", None)]
        {
            assert_eq!(widths(format), sum, "{format}");
        }
    }

    #[test]
    fn paths_are_counted_before_they_are_made() {
        let graph = |nodes: u64| {
            let all = Value::from((0..nodes).map(Value::from).collect::<Vec<_>>());
            let mut graph = Value::new_object();
            (0..nodes).for_each(|node| drop(graph.as_object_mut().unwrap().insert(Value::from(node), all.clone())));
            graph
        };
        let start = Value::from(vec![Value::from(0_u64)]);
        assert_eq!(paths(&[graph(5), start.clone()]), Ok(()));
        assert!(paths(&[graph(16), start.clone()]).is_err());
        let mut chain = Value::new_object();
        for node in 0..10_000_u64 {
            chain.as_object_mut().unwrap().insert(Value::from(node), Value::from(vec![Value::from(node + 1)]));
        }
        assert!(paths(&[chain, start]).is_err(), "the engine follows a path on its stack");
    }
}
