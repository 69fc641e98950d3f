//! `internal.template_string`, which stands for OPA's template strings: see `rewrite/lexical`.

use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, term, within};

pub(super) const TEMPLATE: &[Builtin] = &[Builtin { name: "internal.template_string", arity: 1, run: template_string }];

/// Each part is a string, or the set of the values that an expression has: none where it is undefined.
fn template_string(args: &[Value]) -> Result<Value, Fault> {
    let [Value::Array(parts)] = args else { return Err("operand 1 must be array".into()) };
    let mut text = String::new();
    for part in parts.iter() {
        let value = match part {
            Value::Set(values) => {
                let mut values = values.iter();
                match (values.next(), values.next()) {
                    (None, _) => {
                        text.push_str("<undefined>");
                        continue;
                    }
                    (Some(value), None) => value,
                    _ => return Err("template-strings must not produce multiple outputs".into()),
                }
            }
            value => value,
        };
        match value {
            Value::String(plain) => text.push_str(plain),
            value => term::print(value, &mut text)?,
        }
        within(text.len() <= MAX_TEXT, "the text is too large")?;
    }
    Ok(Value::from(text))
}
