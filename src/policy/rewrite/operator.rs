//! Operators. On operands of the wrong kind the engine ends the whole evaluation where OPA leaves the expression
//! undefined; it orders sets before objects; its `in` is false where OPA is undefined. Where that can matter the operator
//! becomes a call of `builtins/operator`.

use regorus::unstable::{ArithOp, BinOp, BoolOp, Expr, Ref};

use super::Rewriter;
use crate::policy::tree::constant_path;

/// Functions whose answer, where they have one, is an integer.
const COUNTS: [&str; 3] = ["count", "strings.count", "time.now_ns"];

/// Functions whose answer, where they have one, is a scalar.
const SCALARS: [&str; 12] = [
    "abs",
    "ceil",
    "concat",
    "count",
    "floor",
    "lower",
    "round",
    "sprintf",
    "strings.count",
    "time.now_ns",
    "to_number",
    "upper",
];

impl<'a> Rewriter<'a> {
    /// OPA's minus before an expression, which the engine has only before numbers.
    pub(super) fn minus(&mut self, expr: &'a Expr) -> String {
        if matches!(expr, Expr::Number { .. }) {
            return format!("-{}", self.expr(expr));
        }
        self.changes += 1;
        format!("internal.sub(0, {})", self.expr(expr))
    }

    /// `in` where its value counts: OPA's is undefined when one of its operands is.
    pub(super) fn membership(&mut self, key: Option<&'a Ref<Expr>>, value: &'a Expr, collection: &'a Expr) -> String {
        self.changes += 1;
        let name = membership_function(key.is_some());
        let key = key.map(|key| self.expr(key) + ", ").unwrap_or_default();
        let value = self.expr(value);
        format!("{name}({key}{value}, {})", self.expr(collection))
    }
}

pub(super) const fn membership_function(has_key: bool) -> &'static str {
    if has_key { "internal.member_3" } else { "internal.member_2" }
}

pub(super) const fn number_function(op: &ArithOp) -> &'static str {
    match op {
        ArithOp::Add => "internal.add",
        ArithOp::Sub => "internal.sub",
        ArithOp::Mul => "internal.mul",
        ArithOp::Div => "internal.div",
        ArithOp::Mod => "internal.rem",
    }
}

pub(super) const fn set_function(op: &BinOp) -> &'static str {
    match op {
        BinOp::Intersection => "internal.and",
        BinOp::Union => "internal.or",
    }
}

pub(super) const fn sign(op: &BoolOp) -> &'static str {
    match op {
        BoolOp::Lt => "<",
        BoolOp::Le => "<=",
        BoolOp::Eq => "==",
        BoolOp::Ge => ">=",
        BoolOp::Gt => ">",
        BoolOp::Ne => "!=",
    }
}

/// The function in the place of an ordering, unless one side is a scalar, before which both orders agree.
pub(super) fn ordering_function(op: &BoolOp, lhs: &Expr, rhs: &Expr) -> Option<&'static str> {
    let name = match op {
        BoolOp::Eq | BoolOp::Ne => return None,
        BoolOp::Lt => "internal.lt",
        BoolOp::Le => "internal.le",
        BoolOp::Ge => "internal.ge",
        BoolOp::Gt => "internal.gt",
    };
    (!is_scalar(lhs) && !is_scalar(rhs)).then_some(name)
}

/// Whether the engine's own arithmetic will do: on integers that cannot be anything else.
pub(super) fn is_plain(op: &ArithOp, lhs: &Expr, rhs: &Expr) -> bool {
    !matches!(op, ArithOp::Div | ArithOp::Mod) && is_integer(lhs) && is_integer(rhs)
}

/// Whether both operands are sets, whatever is in them.
pub(super) fn are_sets(lhs: &Expr, rhs: &Expr) -> bool {
    let is_set = |expr: &Expr| matches!(expr, Expr::Set { .. } | Expr::SetCompr { .. });
    is_set(lhs) && is_set(rhs)
}

fn is_integer(expr: &Expr) -> bool {
    match expr {
        Expr::Number { span, .. } => !span.text().contains(['.', 'e', 'E']),
        Expr::Call { fcn, .. } => is_one_of(fcn, &COUNTS),
        Expr::ArithExpr { op, lhs, rhs, .. } => is_plain(op, lhs, rhs),
        _ => false,
    }
}

fn is_scalar(expr: &Expr) -> bool {
    match expr {
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => true,
        // A difference may be of sets.
        Expr::ArithExpr { op, lhs, rhs, .. } => !matches!(op, ArithOp::Sub) || is_integer(lhs) || is_integer(rhs),
        Expr::Call { fcn, .. } => is_one_of(fcn, &SCALARS),
        _ => false,
    }
}

fn is_one_of(function: &Expr, names: &[&str]) -> bool {
    names.contains(&constant_path(function).join(".").as_str())
}
