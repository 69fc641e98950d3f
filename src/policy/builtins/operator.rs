//! Operators as functions, for `rewrite` to put in their places: undefined on operands of the wrong kind, where the engine
//! ends the evaluation, and exact on decimals, as OPA is. Authors cannot call them: `check` knows none of these names.

use std::collections::BTreeSet;

use regorus::{Value, unstable::ArithOp, value::Set};

use super::{Builtin, Fault, bound, order, within};

pub(super) const OPERATORS: &[Builtin] = &[
    Builtin { name: "internal.add", arity: 2, run: |args| arithmetic(args, &ArithOp::Add) },
    Builtin { name: "internal.sub", arity: 2, run: difference },
    Builtin { name: "internal.mul", arity: 2, run: |args| arithmetic(args, &ArithOp::Mul) },
    Builtin { name: "internal.div", arity: 2, run: |args| arithmetic(args, &ArithOp::Div) },
    Builtin { name: "internal.rem", arity: 2, run: |args| arithmetic(args, &ArithOp::Mod) },
    Builtin { name: "internal.and", arity: 2, run: |args| sets(args, |a, b| set(a.iter().filter(|item| b.contains(item)))) },
    Builtin { name: "internal.or", arity: 2, run: |args| sets(args, |a, b| set(a.iter().chain(b.iter()))) },
    Builtin { name: "internal.lt", arity: 2, run: |args| pair(args).map(|(a, b)| Value::from(order::compare(a, b).is_lt())) },
    Builtin { name: "internal.le", arity: 2, run: |args| pair(args).map(|(a, b)| Value::from(order::compare(a, b).is_le())) },
    Builtin { name: "internal.gt", arity: 2, run: |args| pair(args).map(|(a, b)| Value::from(order::compare(a, b).is_gt())) },
    Builtin { name: "internal.ge", arity: 2, run: |args| pair(args).map(|(a, b)| Value::from(order::compare(a, b).is_ge())) },
    Builtin { name: "internal.member_2", arity: 2, run: member_2 },
    Builtin { name: "internal.member_3", arity: 3, run: member_3 },
    Builtin { name: "internal.collection", arity: 1, run: collection },
];

fn pair(args: &[Value]) -> Result<(&Value, &Value), Fault> {
    match args {
        [a, b] => Ok((a, b)),
        _ => Err("two operands are needed".into()),
    }
}

/// How OPA names the kind of a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Set(_) => "set",
        Value::Undefined => "undefined",
    }
}

/// The first operand that is not of the kind, in OPA's words.
fn wrong(args: &[Value], wanted: &str) -> Fault {
    let (at, found) = args.iter().map(kind).enumerate().find(|(_, kind)| *kind != wanted).unwrap_or((0, "nothing"));
    Fault(format!("operand {} must be {wanted} but got {found}", at + 1))
}

fn difference(args: &[Value]) -> Result<Value, Fault> {
    match args {
        [Value::Set(a), Value::Set(b)] => Ok(set(a.iter().filter(|item| !b.contains(item)))),
        [Value::Set(_), _] => Err(wrong(args, "set")),
        _ => arithmetic(args, &ArithOp::Sub),
    }
}

fn set<'v>(items: impl Iterator<Item = &'v Value>) -> Value {
    Value::from(items.cloned().collect::<BTreeSet<_>>())
}

fn sets(args: &[Value], combine: fn(&Set, &Set) -> Value) -> Result<Value, Fault> {
    match args {
        [Value::Set(a), Value::Set(b)] => Ok(combine(a, b)),
        _ => Err(wrong(args, "set")),
    }
}

fn arithmetic(args: &[Value], op: &ArithOp) -> Result<Value, Fault> {
    let [Value::Number(a), Value::Number(b)] = args else { return Err(wrong(args, "number")) };
    if matches!(op, ArithOp::Div | ArithOp::Mod) && args.get(1) == Some(&Value::from(0_u64)) {
        return Err(if matches!(op, ArithOp::Div) { "divide by zero".into() } else { "modulo by zero".into() });
    }
    if matches!(op, ArithOp::Mod) && !(a.is_integer() && b.is_integer()) {
        return Err("modulo on floating-point number".into());
    }
    let bits = args.iter().map(bound::bits).fold(0, u64::saturating_add);
    within(bits <= bound::MAX_BITS || matches!(op, ArithOp::Div | ArithOp::Mod), "the number is too large")?;
    if let Some(exact) = args.first().zip(args.get(1)).and_then(|(a, b)| decimal(a, b, op)) {
        return Ok(exact);
    }
    let result = match op {
        ArithOp::Add => a.add(b),
        ArithOp::Sub => a.sub(b),
        ArithOp::Mul => a.mul(b),
        ArithOp::Div => a.clone().divide(b),
        ArithOp::Mod => a.clone().modulo(b),
    };
    result.map(Value::from).map_err(|error| Fault(error.to_string()))
}

/// `0.1 + 0.2` is `0.3` in OPA, which computes with more digits than it prints. So do we, in decimals, where the numbers
/// are short; for integers and for the rest the engine's numbers will do.
fn decimal(a: &Value, b: &Value, op: &ArithOp) -> Option<Value> {
    let (a, b) = (Decimal::of(a)?, Decimal::of(b)?);
    if a.places == 0 && b.places == 0 {
        return None;
    }
    let places = a.places.max(b.places);
    let (x, y) = (a.scaled(places)?, b.scaled(places)?);
    let (digits, places) = match op {
        ArithOp::Add => (x.checked_add(y)?, places),
        ArithOp::Sub => (x.checked_sub(y)?, places),
        ArithOp::Mul => (a.digits.checked_mul(b.digits)?, a.places + b.places),
        ArithOp::Div if x % y == 0 => (x / y, 0),
        ArithOp::Div | ArithOp::Mod => return None,
    };
    Value::from_json_str(&format!("{digits}e-{places}")).ok().or(None)
}

/// A short number: `digits` divided by ten to the power of `places`.
struct Decimal {
    digits: i128,
    places: u32,
}

impl Decimal {
    /// Beyond these the scaled digits would not fit.
    const MAX_DIGITS: usize = 17;
    const MAX_PLACES: u32 = 17;

    fn of(value: &Value) -> Option<Self> {
        let text = value.to_json_str().ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        if whole.len() + fraction.len() > Self::MAX_DIGITS + 1 {
            return None;
        }
        // An exponent does not parse, and leaves the number to the engine.
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= Self::MAX_PLACES)?;
        Some(Self { digits, places })
    }

    fn scaled(&self, places: u32) -> Option<i128> {
        self.digits.checked_mul(10_i128.checked_pow(places.checked_sub(self.places)?)?)
    }
}

fn member_2(args: &[Value]) -> Result<Value, Fault> {
    let (value, collection) = pair(args)?;
    Ok(Value::from(match collection {
        Value::Array(items) => items.contains(value),
        Value::Set(items) => items.contains(value),
        Value::Object(fields) => fields.iter().any(|(_, item)| item == value),
        _ => false,
    }))
}

fn member_3(args: &[Value]) -> Result<Value, Fault> {
    let [key, value, collection] = args else { return Err("three operands are needed".into()) };
    Ok(Value::from(match collection {
        Value::Array(items) => {
            let index = key.as_i64().ok().and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| items.get(index)).is_some_and(|item| item == value)
        }
        Value::Object(fields) => fields.get(key).is_some_and(|item| item == value),
        Value::Set(items) => key == value && items.contains(key),
        _ => false,
    }))
}

/// What may be iterated over.
fn collection(args: &[Value]) -> Result<Value, Fault> {
    match args {
        [collection @ (Value::Array(_) | Value::Set(_) | Value::Object(_))] => Ok(collection.clone()),
        _ => Err("must be an array, a set or an object".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, args: &[&str]) -> Option<String> {
        let args: Vec<_> = args
            .iter()
            .map(|text| match text.strip_prefix("set") {
                Some(items) => set(Value::from_json_str(items).unwrap().as_array().unwrap().iter()),
                None => Value::from_json_str(text).unwrap(),
            })
            .collect();
        let builtin = OPERATORS.iter().find(|builtin| builtin.name == name).unwrap();
        assert_eq!(usize::from(builtin.arity), args.len(), "{name}");
        (builtin.run)(&args).ok().map(|value| serde_json::to_string(&value).unwrap())
    }

    #[test]
    fn operators_answer_as_in_opa() {
        for (name, args, answer) in [
            ("internal.add", vec!["1", "2"], Some("3")),
            ("internal.add", vec!["0.1", "0.2"], Some("0.3")),
            ("internal.add", vec!["1.5", "1.5"], Some("3")),
            ("internal.add", vec!["9223372036854775807", "1"], Some("9223372036854775808")),
            ("internal.add", vec!["1", "\"a\""], None),
            ("internal.sub", vec!["2", "0.1"], Some("1.9")),
            ("internal.sub", vec!["set[1, 2]", "set[1]"], Some("[2]")),
            ("internal.sub", vec!["set[1, 2]", "1"], None),
            ("internal.sub", vec!["1", "set[1, 2]"], None),
            ("internal.mul", vec!["0.1", "3"], Some("0.3")),
            ("internal.mul", vec!["100", "1.1"], Some("110")),
            ("internal.div", vec!["5", "0.5"], Some("10")),
            ("internal.div", vec!["3", "2"], Some("1.5")),
            ("internal.div", vec!["3", "0"], None),
            ("internal.rem", vec!["5", "-3"], Some("2")),
            ("internal.rem", vec!["7.5", "2"], None),
            ("internal.rem", vec!["5", "0"], None),
            ("internal.and", vec!["set[1, 2]", "set[2, 3]"], Some("[2]")),
            ("internal.or", vec!["set[1]", "set[2]"], Some("[1,2]")),
            ("internal.or", vec!["set[1]", "[2]"], None),
            ("internal.lt", vec!["{}", "set[]"], Some("true")),
            ("internal.le", vec!["1", "1"], Some("true")),
            ("internal.gt", vec!["\"a\"", "1"], Some("true")),
            ("internal.ge", vec!["null", "false"], Some("false")),
            ("internal.member_2", vec!["1", "{\"a\": 1}"], Some("true")),
            ("internal.member_2", vec!["1", "1"], Some("false")),
            ("internal.member_3", vec!["0", "5", "[5]"], Some("true")),
            ("internal.member_3", vec!["-1", "5", "[5]"], Some("false")),
            ("internal.member_3", vec!["\"a\"", "1", "{\"a\": 1}"], Some("true")),
            ("internal.member_3", vec!["5", "5", "set[5]"], Some("true")),
            ("internal.member_3", vec!["4", "5", "set[5]"], Some("false")),
            ("internal.collection", vec!["[1]"], Some("[1]")),
            ("internal.collection", vec!["\"abc\""], None),
        ] {
            assert_eq!(call(name, &args).as_deref(), answer, "{name} {args:?}");
        }
    }
}
