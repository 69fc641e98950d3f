//! `not`, as OPA's compiler has it: the operands are bound first, so that one that is undefined leaves the body undefined;
//! the engine negates the undefined whole, and is true. References stay in place where OPA leaves them: as a side of an
//! equality, or as the whole of what is negated.

use regorus::unstable::{BoolOp, Expr, Ref};

use super::{Rewriter, operator, print};
use crate::policy::{
    problem::{Code, problem_at},
    tree::{children, comprehension},
};

impl<'a> Rewriter<'a> {
    pub(super) fn not(&mut self, expr: &'a Expr, with: &str) -> String {
        let text = self.flat(|this| this.negated(expr, with));
        let lines = self.sync(expr.span());
        format!("{lines}not {text}{with}")
    }

    /// The whole of what is negated.
    fn negated(&mut self, expr: &'a Expr, with: &str) -> String {
        match expr {
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } => {
                let lhs = self.term(lhs, with);
                format!("{lhs} == {}", self.term(rhs, with))
            }
            Expr::AssignExpr { op, lhs, rhs, .. } => {
                let lhs = self.term(lhs, with);
                format!("{lhs} {} {}", print::assignment(op), self.term(rhs, with))
            }
            Expr::Call { fcn, params, .. } => {
                if super::collection::is_walk(fcn) {
                    let text = "a negated `walk` is answered wrongly by the engine; negate a rule that has the walk in it";
                    self.problems.push(problem_at(Code::Unsupported, expr.span(), text));
                }
                self.applied(fcn, params, with)
            }
            _ => self.infix(expr, with).unwrap_or_else(|| self.term(expr, with)),
        }
    }

    fn applied(&mut self, function: &'a Expr, params: &'a [Ref<Expr>], with: &str) -> String {
        let (name, first) = self.function(function, params.is_empty());
        format!("{name}({first}{})", self.operands(params, with))
    }

    fn operands(&mut self, exprs: &'a [Ref<Expr>], with: &str) -> String {
        exprs.iter().map(|expr| self.operand(expr, with)).collect::<Vec<_>>().join(", ")
    }

    /// An infix operator other than equality, with its operands bound.
    fn infix(&mut self, expr: &'a Expr, with: &str) -> Option<String> {
        let name = match expr {
            Expr::BoolExpr { op, lhs, rhs, .. } => match operator::ordering_function(op, lhs, rhs) {
                Some(name) => name,
                None => {
                    let lhs = self.operand(lhs, with);
                    return Some(format!("{lhs} {} {}", operator::sign(op), self.operand(rhs, with)));
                }
            },
            Expr::ArithExpr { op, .. } => operator::number_function(op),
            Expr::BinExpr { op, .. } => operator::set_function(op),
            Expr::Membership { key, .. } => operator::membership_function(key.is_some()),
            Expr::UnaryExpr { expr, .. } if matches!(expr.as_ref(), Expr::Number { .. }) => return Some(self.minus(expr)),
            Expr::UnaryExpr { expr, .. } => return Some(format!("internal.sub(0, {})", self.operand(expr, with))),
            _ => return None,
        };
        self.changes += 1;
        let operands: Vec<_> = children(expr).into_iter().map(|operand| self.operand(operand, with)).collect();
        Some(format!("{name}({})", operands.join(", ")))
    }

    /// A side of an equality, or all that is negated: a reference stays, what is in its brackets does not.
    fn term(&mut self, expr: &'a Expr, with: &str) -> String {
        match expr {
            Expr::Var { span, .. } => self.name(span.text()),
            Expr::RefDot { refr, field, .. } => self.term(refr, with) + "." + field.0.text(),
            Expr::RefBrack { refr, index, .. } => {
                let refr = self.term(refr, with);
                let index = match index.as_ref() {
                    // A bare variable in brackets the engine may take for one that the brackets bind.
                    Expr::Var { span, .. } if !self.is_global(span.text()) => self.alias(span.text()),
                    index => self.operand(index, with),
                };
                format!("{refr}[{index}]")
            }
            _ => self.operand(expr, with),
        }
    }

    /// An argument, an element or an index: whatever of it may be undefined is bound before, under the same `with`.
    pub(super) fn operand(&mut self, expr: &'a Expr, with: &str) -> String {
        match expr {
            Expr::Var { span, .. } if self.is_global(span.text()) => {
                let name = self.name(span.text());
                self.bind(&name, with)
            }
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let term = self.term(expr, with);
                self.bind(&term, with)
            }
            Expr::Call { fcn, params, .. } => {
                let call = match params.as_slice() {
                    [whole] if super::collection::is_walk(fcn) => {
                        let whole = self.operand(whole, with);
                        return self.walked(&whole);
                    }
                    _ => self.applied(fcn, params, with),
                };
                self.bind(&call, with)
            }
            Expr::Array { items, .. } => format!("[{}]", self.operands(items, with)),
            Expr::Set { items, .. } if !items.is_empty() => format!("{{{}}}", self.operands(items, with)),
            Expr::Object { fields, .. } => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(_, key, value)| {
                        let key = self.operand(key, with);
                        format!("{key}: {}", self.operand(value, with))
                    })
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
            Expr::UnaryExpr { expr: inner, .. } if matches!(inner.as_ref(), Expr::Number { .. }) => self.expr(expr),
            _ if comprehension(expr).is_some() => self.expr(expr),
            _ => match self.infix(expr, with) {
                Some(text) => {
                    let text = if matches!(expr, Expr::BoolExpr { .. }) { format!("({text})") } else { text };
                    self.bind(&text, with)
                }
                None => self.expr(expr),
            },
        }
    }

    pub(super) fn bind(&mut self, text: &str, with: &str) -> String {
        self.changes += 1;
        let variable = self.variable();
        self.before.push(format!("{variable} := {text}{with}"));
        variable
    }
}
