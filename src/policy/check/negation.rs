//! Negations that regorus answers with *true* where OPA leaves them undefined, which in an authorizer is an allow too
//! many. OPA binds the operands before it negates, so that an undefined operand fails the body; regorus negates the
//! undefined result. `not ref`, `not a == b` and undefined values after `with` agree in both. What differs is refused here.

use std::collections::BTreeSet;

use regorus::unstable::{AssignOp, BoolOp, Expr, Literal, Rule, Span};

use super::{
    names::{Names, Root, Scopes, Seen, Step, children, comprehension, steps, walk_rule},
    problem_at,
};
use crate::policy::problem::{Code, Problem};

/// The unsafe negations of a rule.
pub(super) fn problems(rule: &Rule, names: &Names) -> Vec<Problem> {
    let mut bound = BTreeSet::new();
    walk_rule(rule, &mut |seen, scopes| {
        if let Seen::Reference { root, .. } = seen
            && !scopes.is_negated()
        {
            bound.insert(root.text());
        }
    });
    let mut problems = Vec::new();
    walk_rule(rule, &mut |seen, scopes| {
        if let Seen::Statement(statement) = seen
            && let Literal::NotExpr { expr, span } = &statement.literal
        {
            problems.extend(Negation { names, scopes, bound: &bound }.problem(expr, span));
        }
    });
    problems
}

struct Negation<'n, 's, 'a> {
    names: &'n Names,
    scopes: &'n Scopes<'s>,
    /// Names that occur outside of negations.
    bound: &'n BTreeSet<&'a str>,
}

impl Negation<'_, '_, '_> {
    fn problem(&self, expr: &Expr, span: &Span) -> Option<Problem> {
        if let Some(name) = self.unbound(expr) {
            let text = format!("`{name}` is unbound under `not`; bind it before, or negate a rule that has the loop in it");
            return Some(problem_at(Code::UnsafeNegation, span, text));
        }
        let operand = self.operand(expr)?.span().text();
        let text = format!(
            "the negation would be true when `{operand}` is undefined, where OPA's is not; bind it first: `x := {operand}`, then `not` with `x` in its place"
        );
        Some(problem_at(Code::UnsafeNegation, span, text))
    }

    /// A part of a negated expression that must be bound before the negation.
    fn operand<'e>(&self, expr: &'e Expr) -> Option<&'e Expr> {
        match expr {
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } | Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => {
                self.term(lhs).or_else(|| self.term(rhs))
            }
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.term(expr),
            _ if comprehension(expr).is_some() => None,
            _ => children(expr).into_iter().find_map(|child| self.bindable(child)),
        }
    }

    /// A side of an equality, or the whole of what is negated: a reference may be undefined here, its indices may not.
    fn term<'e>(&self, expr: &'e Expr) -> Option<&'e Expr> {
        let (base, steps) = steps(expr);
        let base = if matches!(base, Expr::Var { .. }) { None } else { self.bindable(base) };
        let index = |step| match step {
            Step::Index(index) => self.bindable(index),
            Step::Name(_) => None,
        };
        base.or_else(|| steps.into_iter().find_map(index))
    }

    /// `expr`, or what of it may be undefined.
    fn bindable<'e>(&self, expr: &'e Expr) -> Option<&'e Expr> {
        match expr {
            Expr::Var { span, .. } => {
                let defined = matches!(span.text(), "input" | "data") || self.names.root(span.text(), self.scopes) == Root::Local;
                (!defined).then_some(expr)
            }
            Expr::RefDot { .. }
            | Expr::RefBrack { .. }
            | Expr::Call { .. }
            | Expr::ArithExpr { .. }
            | Expr::BinExpr { .. }
            | Expr::UnaryExpr { .. } => Some(expr),
            _ if comprehension(expr).is_some() => None,
            _ => children(expr).into_iter().find_map(|child| self.bindable(child)),
        }
    }

    /// A wildcard or a variable that nothing outside of negations binds. OPA refuses it; regorus would loop inside the
    /// negation and be true as soon as one element is not.
    fn unbound<'e>(&self, expr: &'e Expr) -> Option<&'e str> {
        match expr {
            Expr::Var { span, .. } => {
                let name = span.text();
                let local = self.names.root(name, self.scopes) == Root::Local;
                (local && (name == "_" || !(self.scopes.binds(name) || self.bound.contains(name)))).then_some(name)
            }
            _ if comprehension(expr).is_some() => None,
            _ => children(expr).into_iter().find_map(|child| self.unbound(child)),
        }
    }
}
