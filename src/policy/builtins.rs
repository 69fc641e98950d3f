//! Built-in functions as OPA has them, where regorus lacks them, answers otherwise, or lets them hang the process, take
//! its memory or panic. A function of ours overrides the engine's of the same name. Those that need only a bound are
//! looked at first (`bound`) and then answered by the engine.

mod aws;
mod bound;
mod cache;
mod collection;
pub(super) mod context;
mod crypto;
mod filter;
mod format;
pub(super) mod glob;
mod graph;
mod json;
mod jwt;
mod net;
mod operator;
pub(super) mod order;
mod pem;
mod query;
mod regex;
mod render;
mod template;
mod term;
mod text;
mod time;
mod units;
mod uri;
mod x509;
mod yaml;

use std::sync::Arc;

use regorus::{
    Engine, Source, Value,
    unstable::{BUILTINS, Expr, Ref, Span},
};

/// A function that ends the evaluation: its argument names a function that a test should have replaced.
pub(super) const UNREPLACED: &str = "internal.unreplaced";
/// Longest array that a range may make.
const MAX_RANGE: i128 = bound::MAX_ITEMS as i128;
/// Longest text in bytes that one call may make.
const MAX_TEXT: usize = 16 << 20;

/// What answers a call.
type Run = dyn Fn(&[Value]) -> Result<Value, Fault> + Send + Sync;

/// A function of ours under OPA's name.
struct Builtin {
    name: &'static str,
    /// How many arguments it takes, which is how many `run` is handed.
    arity: u8,
    run: fn(&[Value]) -> Result<Value, Fault>,
}

/// Why a call has no answer, in OPA's words where a case of its suite holds them. The call is undefined, as in OPA,
/// and an error only where errors of built-in functions are strict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault(String);

impl Fault {
    /// The call would take or make too much. That is no failure to OPA, which would have an answer, so it must not become
    /// undefined, which `not` turns around: it ends the evaluation, whatever becomes of this value.
    fn limit(text: impl Into<String>) -> Self {
        let text = text.into();
        context::note_limit(&text);
        Self(text)
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Every function of ours; none stands twice.
const TABLES: &[&[Builtin]] = &[
    SAFE,
    aws::AWS,
    collection::COLLECTION,
    context::CONTEXT,
    crypto::CRYPTO,
    filter::FILTER,
    format::FORMAT,
    glob::GLOB,
    graph::GRAPH,
    json::JSON,
    jwt::JWT,
    net::NET,
    operator::OPERATORS,
    query::QUERY,
    regex::REGEX,
    render::RENDER,
    template::TEMPLATE,
    text::TEXT,
    time::TIME,
    units::UNITS,
    uri::URI,
    x509::X509,
    yaml::YAML,
];

/// These panic in regorus on ordinary values.
const SAFE: &[Builtin] = &[
    Builtin { name: "numbers.range_step", arity: 3, run: range_step },
    Builtin {
        name: "object.subset",
        arity: 2,
        run: |args| {
            args.iter().try_for_each(bound::is_walkable)?;
            let answer = args.first().zip(args.get(1)).map(|(whole, part)| subset(whole, part)).transpose()?.flatten();
            answer.map(Value::from).ok_or_else(|| "both arguments must be of one kind".into())
        },
    },
];

/// Whether a call that fails is undefined, as in OPA by default, or ends the evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    Undefined,
    #[cfg(test)]
    Strict,
}

/// How many arguments the function takes that authors may call by this name, if there is one.
pub(super) fn arity(name: &str) -> Option<u8> {
    let of_ours = TABLES.iter().copied().flatten().find(|builtin| builtin.name == name).map(|builtin| builtin.arity);
    let is_operator = operator::OPERATORS.iter().any(|builtin| builtin.name == name);
    of_ours.or_else(|| BUILTINS.get(name).map(|(_, arity)| *arity)).filter(|_| !is_operator)
}

/// Whether a call of `name` is answered by this module, and not by the engine alone.
pub(super) fn overrides(name: &str) -> bool {
    TABLES.iter().copied().flatten().any(|builtin| builtin.name == name)
        || bound::GUARDED.iter().any(|(guarded, _)| *guarded == name)
}

/// Adds the functions of this module to an engine.
pub(super) fn install(engine: &mut Engine, errors: Errors) -> Result<(), String> {
    let strict = errors != Errors::Undefined;
    let place = Arc::new(Place::new()?);
    let mut add = |name: &'static str, arity, run: Arc<Run>| {
        let call = move |args: Vec<Value>| {
            context::check_time()?;
            let answer = run(&args);
            if let Ok(value) = &answer {
                context::grow(bound::size(value));
            }
            if let Some(limit) = context::limit_of(name) {
                return Err(anyhow::anyhow!(limit));
            }
            match answer {
                Err(Fault(text)) if strict => Err(anyhow::anyhow!("{name}: {text}")),
                answer => Ok(answer.unwrap_or(Value::Undefined)),
            }
        };
        engine.add_extension(name.to_owned(), arity, Box::new(call)).map_err(|error| format!("`{name}`: {error}"))
    };
    for &(name, guard) in bound::GUARDED {
        let Some(&(builtin, arity)) = BUILTINS.get(name) else { return Err(format!("the engine has no `{name}`")) };
        let place = Arc::clone(&place);
        let run = move |args: &[Value]| {
            guard(args)?;
            builtin(&place.span, &place.params, args, strict).map_err(|error| Fault(error.to_string()))
        };
        add(name, arity, Arc::new(run))?;
    }
    TABLES.iter().copied().flatten().try_for_each(|builtin| add(builtin.name, builtin.arity, Arc::new(builtin.run)))?;
    let unreplaced = |args: Vec<Value>| -> anyhow::Result<Value> {
        anyhow::bail!("{} is not answered here; replace it: `with … as …`", text(&args, 0).unwrap_or_default())
    };
    engine.add_extension(UNREPLACED.to_owned(), 1, Box::new(unreplaced)).map_err(|error| format!("`{UNREPLACED}`: {error}"))
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

/// An argument that has to be a string.
fn text_operand(args: &[Value], index: usize) -> Result<&str, Fault> {
    text(args, index).ok_or_else(|| operand(index + 1, "string"))
}

fn integer_operand(args: &[Value], index: usize) -> Result<i128, Fault> {
    integer(args, index).ok_or_else(|| operand(index + 1, "integer number"))
}

/// An operand, counted from 1, that is of another kind.
fn operand(number: usize, kinds: &str) -> Fault {
    Fault(format!("operand {number} must be {kinds}"))
}

/// The engine's own answer.
fn engine(name: &str, args: &[Value]) -> Result<Value, Fault> {
    let Some((builtin, _)) = BUILTINS.get(name) else { return Err(Fault(format!("the engine has no `{name}`"))) };
    let place = Place::new().map_err(Fault)?;
    builtin(&place.span, &place.params, args, true).map_err(|error| Fault(error.to_string()))
}

/// Whether a call stays within its limits.
fn within(is_within: bool, otherwise: &str) -> Result<(), Fault> {
    if is_within { Ok(()) } else { Err(Fault::limit(otherwise)) }
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

fn replaced_length(text: &str, old: &str, new: &str) -> Option<usize> {
    let at_most = text.len().checked_div(old.len()).unwrap_or(text.len()) + 1;
    let bound = at_most.checked_mul(new.len())?.checked_add(text.len())?;
    if bound <= MAX_TEXT {
        return Some(bound);
    }
    text.matches(old).count().checked_mul(new.len())?.checked_add(text.len())
}

fn joined_length(delimiter: usize, items: &Value) -> Result<usize, Fault> {
    let add = |sum: usize, item: &Value| match item {
        Value::String(text) => Ok(sum.saturating_add(text.len()).saturating_add(delimiter)),
        _ => Err(operand(2, "array of strings, set of strings")),
    };
    match items {
        Value::Array(items) => items.iter().try_fold(0, add),
        Value::Set(items) => items.iter().try_fold(0, add),
        _ => Err(operand(2, "array, set")),
    }
}

/// A step beyond the range leaves its beginning.
fn range_step(args: &[Value]) -> Result<Value, Fault> {
    let (from, to, step) = (integer_operand(args, 0)?, integer_operand(args, 1)?, integer_operand(args, 2)?);
    if step <= 0 {
        return Err("step must be a positive integer".into());
    }
    let length = range_length(from, to, step).ok_or_else(|| Fault::limit("the range is too long"))?;
    within(length <= MAX_RANGE, "the range is too long")?;
    let step = if from <= to { step } else { -step };
    // A step may lead beyond the largest integer, but only behind the last element.
    let elements = (0..length).map(|index| Value::from(from.saturating_add(step.saturating_mul(index))));
    Ok(Value::from(elements.collect::<Vec<_>>()))
}

/// `object.subset` as OPA answers it: undefined for kinds that do not compare, which inside an object are merely unequal.
fn subset(whole: &Value, part: &Value) -> Result<Option<bool>, Fault> {
    Ok(match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, part) in part.iter() {
                let is_in = match (whole.get(key), part) {
                    (None, _) | (Some(Value::Array(_)), Value::Set(_)) => false,
                    (Some(whole), part) => subset(whole, part)?.unwrap_or(whole == part),
                };
                if !is_in {
                    return Ok(Some(false));
                }
            }
            Some(true)
        }
        (Value::Set(whole), Value::Set(part)) => Some(part.is_subset(whole)),
        (Value::Array(whole), Value::Array(part)) if part.is_empty() => Some(true),
        (Value::Array(whole), Value::Array(part)) => {
            within(whole.len().saturating_mul(part.len()) <= bound::MAX_WORK / 4, "the arrays are too long")?;
            let part = part.to_vec();
            Some(whole.to_vec().windows(part.len()).any(|window| window == part))
        }
        (Value::Array(whole), Value::Set(part)) => {
            within(whole.len().saturating_mul(part.len()) <= bound::MAX_WORK / 4, "the collections are too large")?;
            Some(part.iter().all(|item| whole.contains(item)))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
