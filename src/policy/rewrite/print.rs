//! Expressions as text that parses to the same tree, each leaf on the line its author put it; operators and calls in the
//! form that the engine answers as OPA does.

use regorus::unstable::{AssignOp, BoolOp, Expr, Query, Ref, Span};

use super::{Rewriter, collection, operator};
use crate::policy::{
    engine::rule_path,
    tree::{Step, steps},
};

impl<'a> Rewriter<'a> {
    /// The line breaks up to the line of `span`.
    pub(super) fn sync(&mut self, span: &Span) -> String {
        match &mut self.line {
            Some(line) if *line < span.line => {
                let breaks = (span.line - *line) as usize;
                *line = span.line;
                "\n".repeat(breaks)
            }
            _ => String::new(),
        }
    }

    /// An expression where nothing stands beside it: without parentheses around it.
    pub(super) fn top(&mut self, expr: &'a Expr) -> String {
        match expr {
            Expr::BoolExpr { op, lhs, rhs, .. } => self.comparison(op, lhs, rhs),
            Expr::AssignExpr { op, lhs, rhs, .. } => {
                let lhs = self.expr(lhs);
                format!("{lhs} {} {}", assignment(op), self.top(rhs))
            }
            _ => self.expr(expr),
        }
    }

    /// An expression inside of others.
    pub(super) fn expr(&mut self, expr: &'a Expr) -> String {
        match expr {
            Expr::String { span, .. } => self.sync(span) + "\"" + span.text() + "\"",
            Expr::RawString { span, value, .. } => match &mut self.line {
                None => value.to_json_str().unwrap_or_default(),
                Some(_) => {
                    let text = self.sync(span) + "`" + span.text() + "`";
                    if let Some(line) = &mut self.line {
                        *line += super::line_count(span.text());
                    }
                    text
                }
            },
            Expr::Number { span, .. } => {
                let fraction = whole_fraction(span.text());
                self.changes += u32::from(fraction.is_some());
                self.sync(span) + fraction.as_deref().unwrap_or(span.text())
            }
            Expr::Bool { span, .. } | Expr::Null { span, .. } => self.sync(span) + span.text(),
            Expr::Var { span, .. } => {
                let lines = self.sync(span);
                lines + &self.name(span.text())
            }
            Expr::Array { items, .. } => format!("[{}]", self.list(items)),
            Expr::Set { items, .. } if items.is_empty() => "set()".to_owned(),
            Expr::Set { items, .. } => format!("{{{}}}", self.list(items)),
            Expr::Object { fields, .. } => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(_, key, value)| {
                        let key = self.expr(key);
                        format!("{key}: {}", self.expr(value))
                    })
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
            Expr::ArrayCompr { term, query, .. } => format!("[{}]", self.comprehension(None, term, query)),
            Expr::SetCompr { term, query, .. } => format!("{{{}}}", self.comprehension(None, term, query)),
            Expr::ObjectCompr { key, value, query, .. } => format!("{{{}}}", self.comprehension(Some(key), value, query)),
            Expr::Call { fcn, params, .. } => self.call(fcn, params),
            Expr::UnaryExpr { expr: inner, .. } => self.minus(inner),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                if self.in_term && self.iterates(expr) {
                    let reference = self.flat(|this| this.reference(expr));
                    return self.bind(&reference, "");
                }
                self.reference(expr)
            }
            Expr::BinExpr { op, lhs, rhs, .. } => {
                self.operation(operator::set_function(op), lhs, rhs, !operator::are_sets(lhs, rhs))
            }
            Expr::ArithExpr { op, lhs, rhs, .. } => {
                self.operation(operator::number_function(op), lhs, rhs, !operator::is_plain(op, lhs, rhs))
            }
            Expr::BoolExpr { op, lhs, rhs, .. } => match operator::ordering_function(op, lhs, rhs) {
                Some(_) => self.comparison(op, lhs, rhs),
                None => format!("({})", self.comparison(op, lhs, rhs)),
            },
            // The parser makes none inside of others.
            Expr::AssignExpr { .. } => self.top(expr),
            Expr::Membership { key, value, collection, .. } => self.membership(key.as_ref(), value, collection),
        }
    }

    /// A name, or the path that an import of it stands for: by the import's name the engine misses rules of a package that
    /// several modules make.
    pub(super) fn name(&mut self, name: &str) -> String {
        match self.names.imported(name).filter(|_| self.is_global(name)) {
            Some(path) => {
                self.changes += 1;
                rule_path(path)
            }
            None => name.to_owned(),
        }
    }

    fn reference(&mut self, expr: &'a Expr) -> String {
        match expr {
            Expr::RefDot { refr, field, .. } => self.reference(refr) + "." + field.0.text(),
            Expr::RefBrack { refr, index, .. } => {
                let refr = self.reference(refr);
                format!("{refr}[{}]", self.expr(index))
            }
            _ => self.expr(expr),
        }
    }

    /// Whether brackets of the reference hold a variable that may be bound by them. In a head or as the term of a
    /// comprehension such a loop ends the evaluation over what is no collection; in a body it is undefined, as in OPA.
    fn iterates(&self, expr: &Expr) -> bool {
        steps(expr).1.into_iter().any(|step| match step {
            Step::Index(Expr::Var { span, .. }) => {
                let is_argument = self.locals.first().is_some_and(|arguments| arguments.contains(span.text()));
                !is_argument && !self.is_global(span.text())
            }
            Step::Index(Expr::Array { .. } | Expr::Object { .. }) => true,
            Step::Index(_) | Step::Name(_) => false,
        })
    }

    pub(super) fn list(&mut self, items: &'a [Ref<Expr>]) -> String {
        items.iter().map(|item| self.expr(item)).collect::<Vec<_>>().join(", ")
    }

    /// A call of ours in the place of an operator; it counts as a change where the engine's operator would not do.
    pub(super) fn operation(&mut self, name: &str, lhs: &'a Expr, rhs: &'a Expr, differs: bool) -> String {
        self.changes += u32::from(differs);
        let lhs = self.expr(lhs);
        // The call belongs on the line of its first operand.
        let operand = lhs.trim_start_matches('\n');
        let breaks = "\n".repeat(lhs.len() - operand.len());
        format!("{breaks}{name}({operand}, {})", self.expr(rhs))
    }

    fn comparison(&mut self, op: &BoolOp, lhs: &'a Expr, rhs: &'a Expr) -> String {
        match operator::ordering_function(op, lhs, rhs) {
            Some(name) => self.operation(name, lhs, rhs, true),
            None => {
                let lhs = self.expr(lhs);
                format!("{lhs} {} {}", operator::sign(op), self.expr(rhs))
            }
        }
    }

    fn call(&mut self, function: &'a Expr, params: &'a [Ref<Expr>]) -> String {
        match params {
            [whole] if collection::is_walk(function) => {
                let whole = self.flat(|this| this.expr(whole));
                self.walked(&whole)
            }
            _ => {
                let (name, first) = self.function(function, params.is_empty());
                format!("{name}({first}{})", self.list(params))
            }
        }
    }

    /// What is called, and the argument that is put before the others: a wrapper takes one even where its function
    /// takes none.
    pub(super) fn function(&mut self, function: &'a Expr, is_last: bool) -> (String, &'static str) {
        match self.wrapper(function) {
            Some((wrapper, arity)) => {
                self.changes += 1;
                (
                    self.sync(function.span()) + &wrapper,
                    if arity > 0 {
                        ""
                    } else if is_last {
                        "0"
                    } else {
                        "0, "
                    },
                )
            }
            None => (self.expr(function), ""),
        }
    }

    fn comprehension(&mut self, key: Option<&'a Ref<Expr>>, term: &'a Expr, query: &'a Query) -> String {
        self.locals.push(super::declared(query));
        let outer = std::mem::take(&mut self.before);
        let outer_term = std::mem::replace(&mut self.in_term, true);
        let key = key.map(|key| self.expr(key) + ": ").unwrap_or_default();
        let term = self.expr(term);
        self.in_term = outer_term;
        let hoisted = std::mem::replace(&mut self.before, outer).join("; ");
        let statements = self.statements(query);
        self.locals.pop();
        format!("{key}{term} | {}", super::joined([&statements, &hoisted]))
    }
}

pub(super) const fn is_scalar(expr: &Expr) -> bool {
    matches!(expr, Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. })
}

pub(super) const fn assignment(op: &AssignOp) -> &'static str {
    match op {
        AssignOp::Eq => "=",
        AssignOp::ColEq => ":=",
    }
}

/// `1e2` as `100.0`: the engine takes it for an integer, and OPA for none, which `sprintf` shows.
fn whole_fraction(number: &str) -> Option<String> {
    /// Beyond it not every whole number is one of a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let value: f64 = number.contains(['e', 'E']).then(|| number.parse().ok())??;
    (value.abs() <= EXACT && value.fract() == 0.0).then(|| format!("{value:.1}"))
}
