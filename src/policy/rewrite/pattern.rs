//! Object patterns. OPA's match an object that has just their keys, the engine's one that has more besides. They are
//! taken apart into statements: the keys compared as a set, and each value for itself.

use std::{collections::HashSet, fmt::Write};

use regorus::unstable::{AssignOp, Expr, Ref};

use super::{Rewriter, collection};
use crate::policy::{builtins, tree::constant_path};

impl<'a> Rewriter<'a> {
    /// A statement that is an expression: an assignment, a unification or a condition.
    pub(super) fn expression_statement(&mut self, expr: &'a Expr, with: &str) -> String {
        match expr {
            Expr::AssignExpr { op, lhs, rhs, .. } => self.assignment_statement(op, lhs, rhs, with),
            // As a condition `in` is false where OPA's is undefined, which comes to the same.
            Expr::Membership { key: None, value, collection, .. } => {
                let value = self.expr(value);
                format!("{value} in {}{with}", self.expr(collection))
            }
            Expr::Call { fcn, params, .. } => match self.output(fcn, params) {
                Some((output, inputs)) => {
                    self.changes += 1;
                    let ((function, first), output) = (self.function(fcn, inputs.is_empty()), self.expr(output));
                    format!("{output} = {function}({first}{}){with}", self.list(inputs))
                }
                None => self.top(expr) + with,
            },
            _ => self.top(expr) + with,
        }
    }

    /// The last argument of a call where it takes the answer. The engine knows that of its own functions only, and not
    /// that an `every` behind the call reads what it binds.
    fn output(&self, function: &Expr, params: &'a [Ref<Expr>]) -> Option<(&'a Expr, &'a [Ref<Expr>])> {
        if collection::is_walk(function) {
            return None;
        }
        let path = constant_path(function);
        let arity = match path.first().is_some_and(|root| self.is_global(root)) {
            true => self.names.function(function)?,
            false => {
                builtins::arity(&path.join(".")).map(usize::from).or_else(|| self.wrapper(function).map(|(_, arity)| arity))?
            }
        };
        let (output, inputs) = params.split_last()?;
        (inputs.len() == arity).then_some((output.as_ref(), inputs))
    }

    fn assignment_statement(&mut self, op: &AssignOp, lhs: &'a Expr, rhs: &'a Expr, with: &str) -> String {
        if let Expr::Call { fcn, params, .. } = rhs
            && let [whole] = params.as_slice()
            && collection::is_walk(fcn)
            && !holds_object(lhs)
        {
            self.changes += 1;
            let lhs = self.expr(lhs);
            return format!("walk({}, {lhs}){with}", self.expr(whole));
        }
        match op {
            AssignOp::ColEq if holds_object(lhs) => {
                let variable = self.variable();
                let parts = self.take_apart(lhs, &variable);
                format!("{variable} := {}{with}; {parts}", self.top(rhs))
            }
            AssignOp::Eq if self.binds_in_object(lhs) || self.binds_in_object(rhs) => self.unification(lhs, rhs, with),
            AssignOp::ColEq => {
                let lhs = self.expr(lhs);
                format!("{lhs} := {}{with}", self.assigned(rhs))
            }
            AssignOp::Eq => {
                let lhs = self.expr(lhs);
                format!("{lhs} = {}{with}", self.top(rhs))
            }
        }
    }

    /// What `:=` assigns. Where it is a variable of the same query the engine orders the two both ways, and refuses what
    /// is in order.
    fn assigned(&mut self, expr: &'a Expr) -> String {
        match expr {
            Expr::Var { span, .. } if !self.is_global(span.text()) => self.sync(span) + &self.alias(span.text()),
            Expr::Array { items, .. } => {
                format!("[{}]", items.iter().map(|item| self.assigned(item)).collect::<Vec<_>>().join(", "))
            }
            _ => self.top(expr),
        }
    }

    /// The value of a local variable, in a form that the engine does not take for a place to bind it. Arguments of
    /// functions need none: they are never bound in a body.
    pub(super) fn alias(&mut self, name: &str) -> String {
        if self.locals.first().is_some_and(|arguments| arguments.contains(name)) {
            return name.to_owned();
        }
        self.changes += 1;
        format!("[{name}][0]")
    }

    /// The statements that bind the variables of a pattern whose whole is in `at`. All its variables are new.
    pub(super) fn take_apart(&mut self, pattern: &'a Expr, at: &str) -> String {
        self.changes += 1;
        let mut parts = Vec::new();
        self.flat(|this| this.part(pattern, at, &mut HashSet::new(), &mut parts));
        parts.join("; ")
    }

    fn part(&mut self, pattern: &'a Expr, at: &str, bound: &mut HashSet<&'a str>, parts: &mut Vec<String>) {
        match pattern {
            Expr::Var { span, .. } if span.text() == "_" => {}
            Expr::Var { span, .. } => {
                let op = if bound.insert(span.text()) { ":=" } else { "==" };
                parts.push(format!("{} {op} {at}", span.text()));
            }
            Expr::Object { fields, .. } => {
                let keys: Vec<_> = fields.iter().map(|(_, key, _)| self.expr(key)).collect();
                parts.push(has_keys(at, &keys));
                for ((_, _, value), key) in fields.iter().zip(keys) {
                    self.part(value, &format!("{at}[{key}]"), bound, parts);
                }
            }
            Expr::Array { items, .. } => {
                parts.push(format!("is_array({at}); count({at}) == {}", items.len()));
                for (index, item) in items.iter().enumerate() {
                    self.part(item, &format!("{at}[{index}]"), bound, parts);
                }
            }
            _ => {
                let value = self.expr(pattern);
                parts.push(format!("{at} == {value}"));
            }
        }
    }

    /// The arguments of a function's head, and the statements that take the patterns among them apart.
    pub(super) fn arguments(&mut self, args: &'a [Ref<Expr>]) -> (Vec<String>, String) {
        let (mut texts, mut parts, mut bound) = (Vec::new(), Vec::new(), HashSet::new());
        for arg in args {
            // An argument that is computed is compared in the body, where what it reads is bound.
            if holds_object(arg) || matches!(arg.as_ref(), Expr::Call { .. }) {
                self.changes += 1;
                let variable = self.variable();
                self.flat(|this| this.part(arg, &variable, &mut bound, &mut parts));
                texts.push(variable);
            } else {
                super::pattern_names(arg, &mut bound);
                texts.push(self.expr(arg));
            }
        }
        (texts, parts.join("; "))
    }

    /// `=`: it stays, for it may bind on both sides, and the keys of its patterns are compared behind it.
    fn unification(&mut self, lhs: &'a Expr, rhs: &'a Expr, with: &str) -> String {
        let mut guards = Vec::new();
        let (mut left, mut right) = (None, None);
        // A pattern against what is computed is taken apart from a variable that holds it.
        if holds_object(lhs) && !is_pattern(rhs) {
            right = Some(self.variable());
        } else if holds_object(rhs) && !is_pattern(lhs) {
            left = Some(self.variable());
        }
        self.changes += 1;
        let lhs_text = self.expr(lhs);
        let rhs_text = self.expr(rhs);
        let first = match (&left, &right) {
            (Some(name), _) => format!("{name} := {lhs_text}{with}; {name} = {rhs_text}"),
            (_, Some(name)) => format!("{name} := {rhs_text}{with}; {lhs_text} = {name}"),
            _ => format!("{lhs_text} = {rhs_text}{with}"),
        };
        self.flat(|this| match (&left, &right) {
            (Some(name), _) => this.key_guards(rhs, name, &mut guards),
            (_, Some(name)) => this.key_guards(lhs, name, &mut guards),
            _ => this.pair_guards(lhs, rhs, &mut guards),
        });
        [vec![first], guards].concat().join("; ")
    }

    /// Both sides are patterns: where one has an object, the other must have its keys.
    fn pair_guards(&mut self, lhs: &'a Expr, rhs: &'a Expr, guards: &mut Vec<String>) {
        match (lhs, rhs) {
            (Expr::Array { items: lhs, .. }, Expr::Array { items: rhs, .. }) => {
                lhs.iter().zip(rhs).for_each(|(lhs, rhs)| self.pair_guards(lhs, rhs, guards));
            }
            (Expr::Object { fields: lhs, .. }, Expr::Object { fields: rhs, .. }) => {
                let keys = |this: &mut Self, fields: &'a [_]| -> Vec<String> {
                    fields.iter().map(|(_, key, _): &'a (_, Ref<Expr>, Ref<Expr>)| this.expr(key)).collect()
                };
                let (left, right) = (keys(self, lhs), keys(self, rhs));
                guards.push(format!("{} == {}", key_set(&left), key_set(&right)));
                for ((_, _, value), key) in lhs.iter().zip(&left) {
                    if let Some(at) = right.iter().position(|other| other == key)
                        && let Some((_, _, other)) = rhs.get(at)
                    {
                        self.pair_guards(value, other, guards);
                    }
                }
            }
            (Expr::Object { .. } | Expr::Array { .. }, other) if holds_object(lhs) => {
                let at = self.expr(other);
                self.key_guards(lhs, &at, guards);
            }
            (other, Expr::Object { .. } | Expr::Array { .. }) if holds_object(rhs) => {
                let at = self.expr(other);
                self.key_guards(rhs, &at, guards);
            }
            _ => {}
        }
    }

    fn key_guards(&mut self, pattern: &'a Expr, at: &str, guards: &mut Vec<String>) {
        match pattern {
            Expr::Object { fields, .. } => {
                let keys: Vec<_> = fields.iter().map(|(_, key, _)| self.expr(key)).collect();
                guards.push(has_keys(at, &keys));
                for ((_, _, value), key) in fields.iter().zip(keys) {
                    self.key_guards(value, &format!("{at}[{key}]"), guards);
                }
            }
            Expr::Array { items, .. } => {
                for (index, item) in items.iter().enumerate() {
                    self.key_guards(item, &format!("{at}[{index}]"), guards);
                }
            }
            _ => {}
        }
    }

    /// Whether an object in the pattern holds a variable that is no rule, input or import: then it can bind, where a
    /// plain object is compared as a whole.
    fn binds_in_object(&self, pattern: &Expr) -> bool {
        self.binds(pattern, false)
    }

    fn binds(&self, pattern: &Expr, in_object: bool) -> bool {
        match pattern {
            Expr::Var { span, .. } => in_object && !self.is_global(span.text()),
            Expr::Object { fields, .. } => fields.iter().any(|(_, _, value)| self.binds(value, true)),
            Expr::Array { items, .. } => items.iter().any(|item| self.binds(item, in_object)),
            _ => false,
        }
    }

    /// Whether `with` here replaces the input or a document, and not a function.
    pub(super) fn replaces_document(&self, target: &Expr) -> bool {
        self.names.is_document(target)
    }
}

fn key_set(keys: &[String]) -> String {
    if keys.is_empty() { "set()".to_owned() } else { format!("{{{}}}", keys.join(", ")) }
}

fn has_keys(at: &str, keys: &[String]) -> String {
    let mut text = String::new();
    let _ = write!(text, "object.keys({at}) == {}", key_set(keys));
    text
}

/// Whether the pattern is an object, or an array with one in it.
pub(super) fn holds_object(pattern: &Expr) -> bool {
    match pattern {
        Expr::Object { .. } => true,
        Expr::Array { items, .. } => items.iter().any(|item| holds_object(item)),
        _ => false,
    }
}

fn is_pattern(expr: &Expr) -> bool {
    matches!(expr, Expr::Object { .. } | Expr::Array { .. } | Expr::Var { .. })
}
