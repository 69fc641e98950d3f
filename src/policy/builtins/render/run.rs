//! What a template makes of a document, as Go's `text/template` makes it of what OPA hands it: objects and arrays, texts,
//! booleans and nothing, and numbers that are texts to Go, of a type of their own.

use std::rc::Rc;

use regorus::Value;

use super::{
    function,
    parse::{Control, Node, Operand, Pipe},
};
use crate::policy::builtins::{Fault, MAX_TEXT, bound, context, within};

/// What a statement, an operand or an element costs beside the texts that it makes, in steps.
const STEP: usize = 64;
/// What a byte of text costs.
const BYTE: usize = 4;
/// Steps between two looks at the clock.
const CHECKED: usize = 1 << 20;

/// A value of Go's.
#[derive(Debug, Clone)]
pub(super) enum Go<'v> {
    /// No value, as a key that an object lacks has it.
    Missing,
    /// A `null` in the place where it stands; once it has been handed on it is `Missing`.
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// A number, text, array or object.
    Document(&'v Value),
}

impl<'v> Go<'v> {
    pub(super) fn of(value: &'v Value) -> Self {
        match value {
            Value::Null | Value::Undefined => Self::Null,
            Value::Bool(is_true) => Self::Bool(*is_true),
            other => Self::Document(other),
        }
    }

    fn handed_on(self) -> Self {
        if matches!(self, Self::Null) { Self::Missing } else { self }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Missing | Self::Null => false,
            Self::Bool(is_true) => *is_true,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Document(Value::String(text)) => !text.is_empty(),
            Self::Document(Value::Array(items)) => !items.is_empty(),
            Self::Document(Value::Object(fields)) => !fields.is_empty(),
            // A number is a text that is not empty.
            Self::Document(_) => true,
        }
    }
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(super) fn run<'v, 't: 'v>(nodes: &'v [Node<'t>], document: &'v Value) -> Result<String, Fault> {
    let dot = Go::of(document);
    let mut run = Run { out: String::new(), variables: vec![("$", dot.clone())], spent: 0, checked: 0 };
    run.list(nodes, &dot)?;
    Ok(run.out)
}

pub(super) struct Run<'v> {
    out: String,
    variables: Vec<(&'v str, Go<'v>)>,
    spent: usize,
    /// What was spent when the clock was looked at.
    checked: usize,
}

impl<'v> Run<'v> {
    /// A step that makes or reads so many bytes.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(STEP).saturating_add(bytes.saturating_mul(BYTE));
        within(self.spent <= bound::MAX_WORK, "the template takes too long")?;
        if self.spent - self.checked > CHECKED {
            self.checked = self.spent;
            context::check_time().map_err(|_| Fault::limit("the template takes too long"))?;
        }
        Ok(())
    }

    fn push(&mut self, text: &str) -> Result<(), Fault> {
        self.spend(text.len())?;
        within(self.out.len() + text.len() <= MAX_TEXT, "the text is too large")?;
        self.out.push_str(text);
        Ok(())
    }

    fn list<'t: 'v>(&mut self, nodes: &'v [Node<'t>], dot: &Go<'v>) -> Result<Flow, Fault> {
        for node in nodes {
            self.spend(0)?;
            let flow = match node {
                Node::Text(text) => {
                    self.push(text)?;
                    Flow::On
                }
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        let text = function::shown(&value, function::NO_VALUE)?;
                        self.push(&text)?;
                    }
                    Flow::On
                }
                Node::If(control) => self.condition(control, dot, false)?,
                Node::With(control) => self.condition(control, dot, true)?,
                Node::Range(control) => self.range(control, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn condition<'t: 'v>(&mut self, control: &'v Control<'t>, dot: &Go<'v>, moves: bool) -> Result<Flow, Fault> {
        let seen = self.variables.len();
        let value = self.pipe(&control.pipe, dot)?;
        let flow = match value.is_true() {
            true if moves => self.list(&control.then, &value)?,
            true => self.list(&control.then, dot)?,
            false => self.list(&control.otherwise, dot)?,
        };
        self.variables.truncate(seen);
        Ok(flow)
    }

    fn range<'t: 'v>(&mut self, control: &'v Control<'t>, dot: &Go<'v>) -> Result<Flow, Fault> {
        let seen = self.variables.len();
        let looped = match self.pipe(&control.pipe, dot)? {
            Go::Missing | Go::Null => None,
            Go::Document(Value::Array(items)) => {
                self.each(control, items.iter().enumerate().map(|(index, item)| (int(index), Go::of(item))))?
            }
            Go::Document(Value::Object(fields)) => {
                self.each(control, fields.iter().map(|(key, item)| (Go::of(key), Go::of(item))))?
            }
            Go::Int(_) if control.pipe.variables.len() > 1 => return Err("range over an integer has one variable".into()),
            Go::Int(count) => self.each(control, (0..count).map(|index| (Go::Int(index), Go::Int(index))))?,
            _ => return Err("range can't iterate over it".into()),
        };
        let flow = match looped {
            Some(()) => Flow::On,
            None => self.list(&control.otherwise, dot)?,
        };
        self.variables.truncate(seen);
        Ok(flow)
    }

    /// Loops; not when there is nothing to loop over.
    fn each<'t: 'v>(
        &mut self,
        control: &'v Control<'t>,
        items: impl Iterator<Item = (Go<'v>, Go<'v>)>,
    ) -> Result<Option<()>, Fault> {
        let mut looped = None;
        let seen = self.variables.len();
        let Pipe { variables, assigns, .. } = &control.pipe;
        for (index, item) in items {
            looped = Some(());
            self.spend(0)?;
            let values: &[&Go<'v>] = if variables.len() > 1 { &[&index, &item] } else { &[&item] };
            for (place, (name, value)) in variables.iter().zip(values).enumerate() {
                let declared = (seen + place).checked_sub(variables.len()).filter(|_| !assigns);
                match declared.and_then(|at| self.variables.get_mut(at)) {
                    Some(variable) => variable.1 = (*value).clone(),
                    None => self.assign(name, (*value).clone())?,
                }
            }
            let flow = self.list(&control.then, &item)?;
            self.variables.truncate(seen);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(looped)
    }

    fn assign(&mut self, name: &str, value: Go<'v>) -> Result<(), Fault> {
        let variable = self.variables.iter_mut().rev().find(|(known, _)| *known == name).ok_or("undefined variable")?;
        variable.1 = value;
        Ok(())
    }

    fn pipe<'t: 'v>(&mut self, pipe: &'v Pipe<'t>, dot: &Go<'v>) -> Result<Go<'v>, Fault> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?.handed_on());
        }
        let value = last.unwrap_or(Go::Missing);
        for name in &pipe.variables {
            if pipe.assigns {
                self.assign(name, value.clone())?;
            } else {
                self.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    fn command<'t: 'v>(&mut self, operands: &'v [Operand<'t>], dot: &Go<'v>, last: Option<Go<'v>>) -> Result<Go<'v>, Fault> {
        self.spend(0)?;
        let Some((first, rest)) = operands.split_first() else { return Ok(Go::Missing) };
        if let Operand::Function(name) = first {
            return self.call(name, rest, dot, last);
        }
        let has_arguments = !rest.is_empty() || last.is_some();
        match first {
            Operand::Nil => Err("nil is not a command".into()),
            Operand::Field(names) => fields(dot.clone(), names, has_arguments),
            Operand::Variable(name, names) if !names.is_empty() => fields(self.variable(name)?, names, has_arguments),
            Operand::Chain(inner, names) => fields(self.argument(inner, dot)?, names, has_arguments),
            _ if has_arguments => Err("can't give argument to non-function".into()),
            other => self.argument(other, dot),
        }
    }

    fn variable(&self, name: &str) -> Result<Go<'v>, Fault> {
        let known = self.variables.iter().rev().find(|(known, _)| *known == name);
        known.map(|(_, value)| value.clone()).ok_or_else(|| "undefined variable".into())
    }

    fn argument<'t: 'v>(&mut self, operand: &'v Operand<'t>, dot: &Go<'v>) -> Result<Go<'v>, Fault> {
        self.spend(0)?;
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Nil => Ok(Go::Missing),
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Function(name) => self.call(name, &[], dot, None),
            Operand::Variable(name, names) => fields(self.variable(name)?, names, false),
            Operand::Field(names) => fields(dot.clone(), names, false),
            Operand::Pipe(pipe) => self.pipe(pipe, dot),
            Operand::Chain(inner, names) => fields(self.argument(inner, dot)?, names, false),
        }
    }

    fn call<'t: 'v>(
        &mut self,
        name: &str,
        operands: &'v [Operand<'t>],
        dot: &Go<'v>,
        last: Option<Go<'v>>,
    ) -> Result<Go<'v>, Fault> {
        let count = operands.len() + usize::from(last.is_some());
        function::takes(name, count)?;
        let is_choice = matches!(name, "and" | "or");
        let mut arguments = Vec::with_capacity(count);
        for operand in operands {
            let value = self.argument(operand, dot)?;
            if is_choice && value.is_true() == (name == "or") {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(last);
        if is_choice {
            return Ok(arguments.pop().unwrap_or(Go::Missing));
        }
        let value = function::call(name, &arguments)?;
        let read: usize = arguments.iter().map(function::length).sum();
        self.spend(read + function::length(&value))?;
        Ok(value)
    }
}

fn int<'v>(number: usize) -> Go<'v> {
    Go::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The value at `.a.b` of another.
fn fields<'v>(mut value: Go<'v>, names: &[&str], has_arguments: bool) -> Result<Go<'v>, Fault> {
    for (place, name) in names.iter().enumerate() {
        value = match value {
            Go::Missing => return Ok(Go::Missing),
            Go::Document(Value::Object(_)) if has_arguments && place + 1 == names.len() => {
                return Err("a key is not a method but has arguments".into());
            }
            Go::Document(Value::Object(fields)) => fields.get(&Value::from(*name)).map_or(Go::Missing, Go::of),
            Go::Null => return Err("nil pointer evaluating interface {}".into()),
            _ => return Err("can't evaluate field".into()),
        };
    }
    Ok(value)
}
