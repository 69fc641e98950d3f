//! Built-in functions that can hang the process, take its memory or panic, made safe: each call is looked at first,
//! and is undefined where OPA's would fail or where the answer would be unreasonably large. The rest of the answer is
//! regorus's own. Functions that regorus lacks, and its other differences to OPA, are not the business of this file.

use std::sync::Arc;

use regorus::{
    Engine, Source, Value,
    unstable::{BUILTINS, Expr, Ref, Span},
};

/// Longest array that a range may make.
const MAX_RANGE: i128 = 1_000_000;
/// Largest CIDR block that may be expanded: 2^16 addresses.
const MAX_HOST_BITS: u32 = 16;
/// Most bits that a number may be shifted by.
const MAX_SHIFT: i128 = 4096;
/// Longest text in bytes that one call may make.
const MAX_TEXT: usize = 16 << 20;
/// Widest field that a format may ask for.
const MAX_WIDTH: usize = 4096;

/// Whether a call with these arguments may run; the arguments are as many as the function takes.
type Guard = fn(&[Value]) -> Option<bool>;
/// The answer to a call, or `None` where OPA's function fails.
type Function = fn(&[Value]) -> Option<Value>;

const GUARDED: &[(&str, Guard)] = &[
    ("numbers.range", |args| Some(range_length(integer(args, 0)?, integer(args, 1)?, 1)? <= MAX_RANGE)),
    ("numbers.range_step", |args| Some(range_length(integer(args, 0)?, integer(args, 1)?, integer(args, 2)?)? <= MAX_RANGE)),
    ("net.cidr_expand", |args| Some(host_bits(text(args, 0)?)? <= MAX_HOST_BITS)),
    ("bits.lsh", |args| Some((0..=MAX_SHIFT).contains(&integer(args, 1)?))),
    ("sprintf", |args| Some(widths_are_small(text(args, 0)?))),
    ("replace", |args| Some(replaced_length(text(args, 0)?, text(args, 1)?, text(args, 2)?)? <= MAX_TEXT)),
    ("concat", |args| Some(joined_length(text(args, 0)?.len(), args.get(1)?)? <= MAX_TEXT)),
    // regorus cuts the layout between bytes and panics inside a character.
    ("time.parse_ns", |args| Some(text(args, 0)?.is_ascii() && text(args, 1)?.is_ascii())),
];

/// These panic in regorus on ordinary values.
const REPLACED: &[(&str, u8, Function)] = &[
    ("strings.count", 2, |args| {
        let (text, part) = (text(args, 0)?, text(args, 1)?);
        // The empty text stands before, between and behind the characters, as Go's `strings.Count` has it.
        Some(Value::from(if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() }))
    }),
    ("object.subset", 2, |args| subset(args.first()?, args.get(1)?).map(Value::from)),
];

/// Adds the safe forms to an engine.
pub(super) fn install(engine: &mut Engine) -> Result<(), String> {
    let place = Arc::new(Place::new()?);
    for &(name, guard) in GUARDED {
        let Some(&(builtin, arity)) = BUILTINS.get(name) else { return Err(format!("the engine has no `{name}`")) };
        let place = Arc::clone(&place);
        let call = move |args: Vec<Value>| {
            Ok(match guard(&args) {
                // Not strict, as in OPA: a call that fails is undefined.
                Some(true) => builtin(&place.span, &place.params, &args, false).unwrap_or(Value::Undefined),
                Some(false) | None => Value::Undefined,
            })
        };
        engine.add_extension(name.to_owned(), arity, Box::new(call)).map_err(|error| format!("`{name}`: {error}"))?;
    }
    for &(name, arity, function) in REPLACED {
        let call = move |args: Vec<Value>| Ok(function(&args).unwrap_or(Value::Undefined));
        engine.add_extension(name.to_owned(), arity, Box::new(call)).map_err(|error| format!("`{name}`: {error}"))?;
    }
    Ok(())
}

/// Where a guarded function believes it is called from. It needs that to word errors, which are dropped here.
struct Place {
    span: Span,
    params: Vec<Ref<Expr>>,
}

impl Place {
    /// No guarded function takes more arguments.
    const PARAMS: usize = 4;

    fn new() -> Result<Self, String> {
        let source = Source::from_contents("builtin".to_owned(), String::new()).map_err(|error| error.to_string())?;
        let span = Span { source, line: 1, col: 1, start: 0, end: 0 };
        let param = || Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 });
        Ok(Self { params: (0..Self::PARAMS).map(|_| param()).collect(), span })
    }
}

fn text(args: &[Value], index: usize) -> Option<&str> {
    match args.get(index)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn integer(args: &[Value], index: usize) -> Option<i128> {
    args.get(index)?.as_i128().ok()
}

fn range_length(from: i128, to: i128, step: i128) -> Option<i128> {
    let length = to.checked_sub(from)?.checked_abs()?;
    (step > 0).then(|| length / step + 1)
}

/// Bits of an address that a CIDR block leaves open.
fn host_bits(block: &str) -> Option<u32> {
    let (address, prefix) = block.split_once('/')?;
    let bits: u32 = if address.contains(':') { 128 } else { 32 };
    bits.checked_sub(prefix.parse().ok()?)
}

/// Whether no verb of the format asks for a width or precision above the limit, or takes it from an argument.
fn widths_are_small(format: &str) -> bool {
    format.split('%').skip(1).all(|verb| {
        let end = verb.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(verb.len());
        let (width, _) = verb.split_at_checked(end).unwrap_or((verb, ""));
        !width.contains('*')
            && width
                .split(|c: char| !c.is_ascii_digit())
                .filter(|digits| !digits.is_empty())
                .all(|digits| digits.parse::<usize>().is_ok_and(|width| width <= MAX_WIDTH))
    })
}

fn replaced_length(text: &str, old: &str, new: &str) -> Option<usize> {
    let at_most = text.len().checked_div(old.len()).unwrap_or(text.len()) + 1;
    let bound = at_most.checked_mul(new.len())?.checked_add(text.len())?;
    if bound <= MAX_TEXT {
        return Some(bound);
    }
    text.matches(old).count().checked_mul(new.len())?.checked_add(text.len())
}

fn joined_length(delimiter: usize, items: &Value) -> Option<usize> {
    let add = |sum: usize, item: &Value| match item {
        Value::String(text) => sum.checked_add(text.len())?.checked_add(delimiter),
        _ => None,
    };
    match items {
        Value::Array(items) => items.iter().try_fold(0, add),
        Value::Set(items) => items.iter().try_fold(0, add),
        _ => None,
    }
}

/// `object.subset` as OPA answers it: undefined for kinds that do not compare, which inside an object are merely unequal.
fn subset(whole: &Value, part: &Value) -> Option<bool> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => Some(part.iter().all(|(key, part)| {
            whole.get(key).is_some_and(|whole| match (whole, part) {
                (Value::Array(_), Value::Set(_)) => false,
                _ => subset(whole, part).unwrap_or(whole == part),
            })
        })),
        (Value::Set(whole), Value::Set(part)) => Some(part.is_subset(whole)),
        (Value::Array(whole), Value::Array(part)) if part.is_empty() => Some(!whole.is_empty()),
        (Value::Array(whole), Value::Array(part)) => {
            let part = part.to_vec();
            Some(whole.to_vec().windows(part.len()).any(|window| window == part))
        }
        (Value::Array(whole), Value::Set(part)) => Some(part.iter().all(|item| whole.contains(item))),
        _ => None,
    }
}
