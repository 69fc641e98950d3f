//! `strings.render_template`: Go's `text/template` over what OPA hands it, which is the variables as JSON. Carried out are
//! actions, pipes, variables, `if`, `with`, `range`, and the functions that need no other of Go's packages; what else a
//! template may hold ends the evaluation, so that no template is silently shown otherwise than by OPA.

mod constant;
mod function;
mod lex;
mod parse;
mod run;

use regorus::Value;

use super::{Builtin, Fault, MAX_TEXT, bound, operand, term, text_operand, within};

pub(super) const RENDER: &[Builtin] = &[Builtin { name: "strings.render_template", arity: 2, run: render_template }];

fn render_template(args: &[Value]) -> Result<Value, Fault> {
    let template = text_operand(args, 0)?;
    let Some(variables @ Value::Object(_)) = args.get(1) else { return Err(operand(2, "object")) };
    bound::is_walkable(variables)?;
    is_json(variables)?;
    let nodes = parse::parse(template)?;
    let text = run::run(&nodes, variables)?;
    // OPA replaces it in the text that is done, wherever it came from.
    let text = text.replace(function::NO_VALUE, "<undefined>");
    within(text.len() <= MAX_TEXT, "the text is too large")?;
    Ok(Value::from(text))
}

/// OPA reads the variables from how a term is printed, which is JSON only in part.
fn is_json(value: &Value) -> Result<(), Fault> {
    match value {
        Value::Set(_) => Err("a set is no JSON".into()),
        Value::Array(items) => items.iter().try_for_each(is_json),
        Value::Object(fields) => fields.iter().try_for_each(|(key, item)| {
            if !matches!(key, Value::String(_)) {
                return Err("a key that is no string is no JSON".into());
            }
            is_json(key)?;
            is_json(item)
        }),
        Value::String(text) => {
            let quoted = term::quote(text)?.replace("\\\\", "");
            let is_json = !["\\a", "\\v", "\\x", "\\U"].iter().any(|escape| quoted.contains(escape));
            if is_json { Ok(()) } else { Err("a text that JSON escapes otherwise".into()) }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
