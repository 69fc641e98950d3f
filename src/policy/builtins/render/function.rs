//! The functions that templates call, as Go's `text/template` defines them.

use std::{borrow::Cow, cmp::Ordering, rc::Rc};

use regorus::Value;

use super::run::Go;
use crate::policy::builtins::{
    Fault, MAX_TEXT,
    format::{self, Argument},
    within,
};

/// How an action shows what has no value. OPA makes `<undefined>` of it.
pub(super) const NO_VALUE: &str = "<no value>";
const NIL: &str = "<nil>";

/// Whether a function may be called with so many arguments.
pub(super) fn takes(name: &str, count: usize) -> Result<(), Fault> {
    let fits = match name {
        "not" | "len" => count == 1,
        "ne" | "lt" | "le" | "gt" | "ge" => count == 2,
        "html" | "js" | "print" | "println" => true,
        _ => count >= 1,
    };
    if fits { Ok(()) } else { Err(Fault(format!("wrong number of args for {name}"))) }
}

pub(super) fn call<'v>(name: &str, arguments: &[Go<'v>]) -> Result<Go<'v>, Fault> {
    let text = |text: String| Ok(Go::Text(Rc::from(text)));
    match (name, arguments) {
        ("not", [value]) => Ok(Go::Bool(!value.is_true())),
        ("len", [value]) => len(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(value, key)),
        ("eq", [value, others @ ..]) => equals_any(value, others).map(Go::Bool),
        ("ne", [left, right]) => equal(left, right).map(|equal| Go::Bool(!equal)),
        ("lt" | "le" | "gt" | "ge", [left, right]) => {
            let order = order(left, right)?;
            Ok(Go::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        ("print", _) => text(joined(arguments, NIL)?),
        ("println", _) => {
            let shown = arguments.iter().map(|value| shown(value, NIL)).collect::<Result<Vec<_>, _>>()?;
            text(shown.join(" ") + "\n")
        }
        ("printf", [format, values @ ..]) => {
            let format = match format {
                Go::Text(text) => text.as_ref(),
                Go::Document(Value::String(text)) => text.as_ref(),
                _ => return Err("wrong type for value; expected string".into()),
            };
            let values = values.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
            text(format::format(format, &values)?)
        }
        ("html", _) => text(html(&joined(arguments, NO_VALUE)?)?),
        ("call", _) => Err("non-function".into()),
        _ => Err(Fault::limit(format!("`{name}` is not supported"))),
    }
}

/// The text that a value is to Go, which numbers of documents are too.
fn text<'a>(value: &'a Go<'_>) -> Option<Cow<'a, str>> {
    match value {
        Go::Text(text) => Some(Cow::Borrowed(text)),
        Go::Document(Value::String(text)) => Some(Cow::Borrowed(text)),
        Go::Document(number @ Value::Number(_)) => Some(Cow::Owned(serde_json::to_string(number).unwrap_or_default())),
        _ => None,
    }
}

/// About how many bytes it takes to read a value.
pub(super) fn length(value: &Go<'_>) -> usize {
    match value {
        Go::Text(text) => text.len(),
        Go::Document(Value::String(text)) => text.len(),
        _ => 8,
    }
}

fn len<'v>(value: &Go<'v>) -> Result<Go<'v>, Fault> {
    let length = match value {
        Go::Document(Value::Array(items)) => items.len(),
        Go::Document(Value::Object(fields)) => fields.len(),
        other => text(other).ok_or("it has no length")?.len(),
    };
    Ok(Go::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index<'v>(value: Go<'v>, key: &Go<'v>) -> Result<Go<'v>, Fault> {
    match (value, key) {
        (Go::Document(Value::Array(items)), Go::Int(at)) => {
            let item = usize::try_from(*at).ok().and_then(|at| items.get(at));
            item.map(Go::of).ok_or_else(|| "index out of range".into())
        }
        (Go::Document(Value::Array(_)), _) => Err("cannot index slice/array with it".into()),
        (Go::Document(Value::Object(fields)), Go::Text(_) | Go::Document(Value::String(_))) => {
            let key = Value::from(text(key).unwrap_or_default().as_ref());
            Ok(fields.get(&key).map_or(Go::Null, Go::of))
        }
        (Go::Document(Value::Object(_)), _) => Err("the key should be a string".into()),
        (value, Go::Int(at)) if text(&value).is_some_and(|text| usize::try_from(*at).is_ok_and(|at| at < text.len())) => {
            Err(Fault::limit("`index` of a text is not supported"))
        }
        _ => Err("can't index it".into()),
    }
}

fn equals_any(value: &Go<'_>, others: &[Go<'_>]) -> Result<bool, Fault> {
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if equal(value, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(left: &Go<'_>, right: &Go<'_>) -> Result<bool, Fault> {
    let is_nothing = |value: &Go<'_>| matches!(value, Go::Missing | Go::Null);
    if is_nothing(left) || is_nothing(right) {
        return Ok(is_nothing(left) && is_nothing(right));
    }
    if let (Some(left), Some(right)) = (text(left), text(right)) {
        return Ok(left == right);
    }
    match (left, right) {
        (Go::Bool(left), Go::Bool(right)) => Ok(left == right),
        (Go::Int(left), Go::Int(right)) => Ok(left == right),
        #[expect(clippy::float_cmp, reason = "Go compares them so")]
        (Go::Float(left), Go::Float(right)) => Ok(left == right),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn order(left: &Go<'_>, right: &Go<'_>) -> Result<Ordering, Fault> {
    if let (Some(left), Some(right)) = (text(left), text(right)) {
        return Ok(left.cmp(&right));
    }
    let order = match (left, right) {
        (Go::Int(left), Go::Int(right)) => Some(left.cmp(right)),
        (Go::Float(left), Go::Float(right)) => left.partial_cmp(right),
        _ => None,
    };
    order.ok_or_else(|| "invalid type for comparison".into())
}

/// Go's `fmt.Sprint`: a space between two values of which neither is a text.
fn joined(values: &[Go<'_>], nothing: &str) -> Result<String, Fault> {
    let mut joined = String::new();
    let mut was_text = true;
    for value in values {
        let is_text = text(value).is_some();
        if !is_text && !was_text {
            joined.push(' ');
        }
        joined.push_str(&shown(value, nothing)?);
        within(joined.len() <= MAX_TEXT, "the text is too large")?;
        was_text = is_text;
    }
    Ok(joined)
}

/// A value as Go's `%v` shows it.
pub(super) fn shown(value: &Go<'_>, nothing: &str) -> Result<String, Fault> {
    match value {
        Go::Missing | Go::Null => Ok(nothing.to_owned()),
        Go::Bool(is_true) => Ok(is_true.to_string()),
        Go::Int(number) => Ok(number.to_string()),
        Go::Float(number) => format::format("%v", &[Argument::Fraction(*number)]),
        Go::Text(text) => Ok(text.to_string()),
        Go::Document(value) => {
            let mut text = String::new();
            show(value, &mut text)?;
            Ok(text)
        }
    }
}

fn show(value: &Value, out: &mut String) -> Result<(), Fault> {
    match value {
        Value::Null | Value::Undefined => out.push_str(NIL),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place > 0 { " " } else { "" });
                show(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (place, (key, item)) in fields.iter().enumerate() {
                out.push_str(if place > 0 { " " } else { "" });
                show(key, out)?;
                out.push(':');
                show(item, out)?;
            }
            out.push(']');
        }
        other => out.push_str(&serde_json::to_string(other).unwrap_or_default()),
    }
    within(out.len() <= MAX_TEXT, "the text is too large")
}

fn argument(value: &Go<'_>) -> Result<Argument, Fault> {
    Ok(match value {
        Go::Int(number) => Argument::Integer((*number).into(), "int"),
        Go::Float(number) => Argument::Fraction(*number),
        Go::Document(Value::Number(_)) => Argument::Text(shown(value, NIL)?, "json.Number"),
        Go::Text(_) | Go::Document(Value::String(_)) => Argument::Text(shown(value, NIL)?, "string"),
        Go::Bool(_) => Argument::Shown(shown(value, NIL)?, "bool"),
        Go::Document(Value::Array(_)) => Argument::Shown(shown(value, NIL)?, "[]interface {}"),
        Go::Document(_) => Argument::Shown(shown(value, NIL)?, "map[string]interface {}"),
        Go::Missing | Go::Null => Argument::Shown(NIL.to_owned(), format::NO_TYPE),
    })
}

fn html(text: &str) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    within(out.len() <= MAX_TEXT, "the text is too large")?;
    Ok(out)
}
