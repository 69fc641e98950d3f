//! The shape of the engine's syntax tree: what an expression is made of. What its names mean is `names`'.

use std::collections::HashSet;

use regorus::{
    Value,
    unstable::{Expr, Query, Ref, Rule, RuleHead},
};

pub(super) fn head(rule: &Rule) -> &Expr {
    match rule {
        Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }, .. }
        | Rule::Default { refr, .. } => refr,
    }
}

/// Whether the name of a rule is computed in part.
pub(super) fn is_open(rule: &Rule) -> bool {
    steps(head(rule)).1.iter().any(|step| step.name().is_none())
}

/// One step of a reference, `.name` or `[index]`.
pub(super) enum Step<'a> {
    Name(&'a str),
    Index(&'a Expr),
}

impl<'a> Step<'a> {
    pub(super) fn name(&self) -> Option<&'a str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Index(Expr::String { value: Value::String(name), .. } | Expr::RawString { value: Value::String(name), .. }) => {
                Some(name)
            }
            Self::Index(_) => None,
        }
    }
}

/// The base of a reference and its steps from left to right.
pub(super) fn steps(expr: &Expr) -> (&Expr, Vec<Step<'_>>) {
    let mut steps = Vec::new();
    let mut base = expr;
    loop {
        base = match base {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Step::Name(field.0.text()));
                refr
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(Step::Index(index));
                refr
            }
            _ => break,
        };
    }
    steps.reverse();
    (base, steps)
}

/// `["a", "b"]` of `a.b`, `a["b"]` or `a.b[x].c`.
pub(super) fn constant_path(expr: &Expr) -> Vec<String> {
    let (base, steps) = steps(expr);
    let root = match base {
        Expr::Var { span, .. } => Some(span.text()),
        _ => None,
    };
    root.into_iter().chain(steps.iter().map_while(|step| step.name())).map(str::to_owned).collect()
}

/// What an expression is made of, without the queries of comprehensions and without a call's function.
pub(super) fn children(expr: &Expr) -> Vec<&Ref<Expr>> {
    match expr {
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().collect(),
        Expr::Object { fields, .. } => fields.iter().flat_map(|(_, key, value)| [key, value]).collect(),
        Expr::Call { params, .. } => params.iter().collect(),
        Expr::UnaryExpr { expr, .. } => vec![expr],
        Expr::RefDot { refr, .. } => vec![refr],
        Expr::RefBrack { refr, index, .. } => vec![refr, index],
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => vec![lhs, rhs],
        Expr::Membership { key, value, collection, .. } => key.iter().chain([value, collection]).collect(),
        Expr::ArrayCompr { term, .. } | Expr::SetCompr { term, .. } => vec![term],
        Expr::ObjectCompr { key, value, .. } => vec![key, value],
        Expr::String { .. }
        | Expr::RawString { .. }
        | Expr::Number { .. }
        | Expr::Bool { .. }
        | Expr::Null { .. }
        | Expr::Var { .. } => Vec::new(),
    }
}

/// The query of a comprehension.
pub(super) fn comprehension(expr: &Expr) -> Option<&Query> {
    match expr {
        Expr::ArrayCompr { query, .. } | Expr::SetCompr { query, .. } | Expr::ObjectCompr { query, .. } => Some(query),
        _ => None,
    }
}

/// The variables of a pattern such as `[x, {"a": y}]`.
pub(super) fn pattern_names<'a>(expr: &'a Expr, names: &mut HashSet<&'a str>) {
    match expr {
        Expr::Var { span, .. } => drop(names.insert(span.text())),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| pattern_names(item, names)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| pattern_names(value, names)),
        _ => {}
    }
}
