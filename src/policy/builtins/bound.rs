//! What a call may take and make. The engine looks at the clock between its steps and not within a function, so a function
//! whose answer may be much larger than its arguments, or that may run for long, is looked at before it runs; and all that
//! the functions of one evaluation make is added up in `context`.

use regorus::Value;

use super::{Fault, MAX_TEXT, integer_operand, json, range_length, replaced_length, text_operand, within};

/// Looks at the arguments of a call, as many as the function takes, before it runs.
type Guard = fn(&[Value]) -> Result<(), Fault>;

/// Most elements that a call may make.
pub(super) const MAX_ITEMS: usize = 1_000_000;
/// Most texts that a call may make of one.
pub(super) const MAX_PARTS: usize = 250_000;
/// Longest number in bits that arithmetic may make. OPA reads none above two to the power of 100,000.
pub(super) const MAX_BITS: u64 = 1 << 17;
/// Steps of a few nanoseconds that a call may take.
pub(super) const MAX_WORK: usize = 1 << 27;
/// Longest layout of a time, and longest version.
pub(super) const MAX_LAYOUT: usize = 4_096;
/// Deepest document that a patch may make: what goes through it recurses.
const MAX_DEPTH: usize = 1_000;
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
    ("array.concat", |args| {
        let length = (0..2).filter_map(|index| items(args, index)).map(|items| items.len()).sum::<usize>();
        within(length <= MAX_ITEMS, "the array is too long")
    }),
    ("base64.encode", |args| encodes(args, 2)),
    ("base64url.encode", |args| encodes(args, 2)),
    ("base64url.encode_no_pad", |args| encodes(args, 2)),
    ("hex.encode", |args| encodes(args, 2)),
    ("json.marshal_with_options", |args| {
        let longest = args.get(1).map_or(0, |options| weight(options, MAX_TEXT));
        prints(args, longest.saturating_mul(args.first().map_or(0, |value| weight(value, MAX_TEXT))))
    }),
    ("object.union", |args| prints(args, 0)),
    ("object.union_n", |args| prints(args, 0)),
    ("walk", |args| within(args.first().is_none_or(|value| walked(value) < MAX_ITEMS), "the document has too many places")),
    ("format_int", |args| within(args.first().map_or(0, bits) <= MAX_BITS, "the number is too large")),
    ("trim", cut),
    ("trim_left", cut),
    ("trim_right", cut),
    ("strings.any_prefix_match", affixes),
    ("strings.any_suffix_match", affixes),
    ("json.remove", |args| args.first().map_or(Ok(()), is_walkable)),
    ("time.format", |args| match args.first() {
        // The engine cuts the layout between bytes, and panics inside of a character.
        Some(Value::Array(given)) => given.iter().try_for_each(|part| {
            is_short(part)?;
            within(part.as_string().map_or(true, |text| text.is_ascii()), "a layout that is not ASCII is not supported")
        }),
        _ => Ok(()),
    }),
    ("semver.compare", |args| args.iter().try_for_each(is_short)),
    ("semver.is_valid", |args| args.iter().try_for_each(is_short)),
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

/// How large a value is when it is walked.
#[derive(Default)]
pub(super) struct Size {
    nodes: usize,
    pub(super) bytes: usize,
    depth: usize,
}

impl Size {
    /// Measures a value that has at most `left` parts.
    pub(super) fn of(value: &Value, left: &mut usize) -> Result<Self, Fault> {
        let mut size = Self::default();
        size.add(value, 0, left)?;
        Ok(size)
    }

    fn add(&mut self, value: &Value, depth: usize, left: &mut usize) -> Result<(), Fault> {
        *left = left.checked_sub(1).ok_or_else(|| Fault::limit("the document is too large"))?;
        self.nodes += 1;
        self.depth = self.depth.max(depth);
        self.bytes += 4;
        match value {
            Value::String(text) => self.bytes += text.len(),
            Value::Number(_) => self.bytes += usize::try_from(bits(value) / 3).unwrap_or(usize::MAX),
            Value::Array(items) => items.iter().try_for_each(|item| self.add(item, depth + 1, left))?,
            Value::Set(items) => items.iter().try_for_each(|item| self.add(item, depth + 1, left))?,
            Value::Object(fields) => {
                for (key, item) in fields.iter() {
                    self.add(key, depth + 1, left)?;
                    self.add(item, depth + 1, left)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Undefined => {}
        }
        Ok(())
    }
}

/// Whether going through a value comes to an end.
pub(super) fn is_walkable(value: &Value) -> Result<(), Fault> {
    Size::of(value, &mut { MAX_ITEMS }).map(drop)
}

fn is_short(value: &Value) -> Result<(), Fault> {
    let length = if let Value::String(text) = value { text.len() } else { 0 };
    within(length <= MAX_LAYOUT, "the text is too long")
}

/// Whether the engine can hold all numbers of a text, and reads them in good time.
pub(super) fn numbers_are_short(text: &str) -> Result<(), Fault> {
    let longest = text.split(|letter: char| !letter.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    within(longest <= MAX_DIGITS, "a number has too many digits")?;
    json::exponents_are_small(text)
}

/// Each letter at an end is sought among those that are cut.
fn cut(args: &[Value]) -> Result<(), Fault> {
    let (text, letters) = (text_operand(args, 0)?, text_operand(args, 1)?);
    within(text.len().saturating_mul(letters.len()) <= MAX_WORK, "too many letters to cut")
}

/// Each text is compared with each affix.
fn affixes(args: &[Value]) -> Result<(), Fault> {
    let measure = |index: usize| -> (usize, usize) {
        let length = |value: &Value| value.as_string().map_or(0, |text| text.len());
        match args.get(index) {
            Some(Value::Array(items)) => (items.len(), items.iter().map(length).sum()),
            Some(Value::Set(items)) => (items.len(), items.iter().map(length).sum()),
            Some(other) => (1, length(other)),
            None => (0, 0),
        }
    };
    let ((texts, bytes), (affixes, affix_bytes)) = (measure(0), measure(1));
    let work = texts.saturating_mul(affix_bytes).min(affixes.saturating_mul(bytes));
    within(work.saturating_add(texts.saturating_mul(affixes)) <= MAX_WORK, "too many texts to compare")
}

/// A patch that copies parts of a document into it may double it with each operation. Whether it does is told without
/// applying it: `operations` of it make at most so many parts, and so deep.
pub(super) fn patch(document: &Value, operations: &[Value]) -> Result<(), Fault> {
    let mut left = MAX_ITEMS;
    let Size { mut nodes, mut depth, .. } = Size::of(document, &mut left)?;
    let mut work = nodes;
    for operation in operations {
        let Ok(operation) = operation.as_object() else { continue };
        let field = |name: &str| operation.get(&Value::from(name));
        let path = match field("path") {
            Some(Value::String(path)) => path.matches('/').count() + 1,
            Some(Value::Array(path)) => path.len(),
            _ => 0,
        };
        let is = |names: &[&str]| matches!(field("op"), Some(Value::String(op)) if names.contains(&op.as_ref()));
        if let Some(value) = field("value") {
            let added = Size::of(value, &mut left)?;
            nodes += added.nodes;
            depth = depth.max(path + added.depth);
        }
        if is(&["copy", "move"]) {
            depth += path;
        }
        if is(&["copy"]) {
            nodes *= 2;
        }
        // What is copied, tested, or stands in a set is made anew.
        work += if is(&["copy", "test"]) { nodes } else { path + 1 };
        within(nodes <= MAX_ITEMS && depth <= MAX_DEPTH && work <= MAX_WORK / 16, "the patch may make too much")?;
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
}
