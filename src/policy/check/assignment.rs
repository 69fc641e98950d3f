//! Declarations, as OPA's compiler checks them: what `:=`, `some`, `every` and arguments declare is declared once, before
//! its first use in the query, and can be declared at all.

use std::collections::{HashMap, HashSet};

use regorus::unstable::{AssignOp, Expr, Literal, Query, Rule, RuleHead, Span};

use crate::policy::{
    problem::{Code, Problem, problem_at},
    tree::{children, comprehension, pattern_names},
};

/// What a name is so far in a query.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Argument,
    Declared,
    Seen,
}

type Scope<'a> = HashMap<&'a str, Known>;

pub(super) fn problems(rule: &Rule) -> Vec<Problem> {
    let mut found = Vec::new();
    let Rule::Spec { head, bodies, .. } = rule else { return found };
    let mut arguments = Scope::new();
    let (refr, mut terms): (_, Vec<&Expr>) = match head {
        RuleHead::Compr { refr, assign, .. } => (refr, assign.iter().map(|assign| assign.value.as_ref()).collect()),
        RuleHead::Set { refr, key, .. } => (refr, key.iter().map(AsRef::as_ref).collect()),
        RuleHead::Func { refr, args, assign, .. } => {
            let mut names = HashSet::new();
            args.iter().for_each(|arg| pattern_names(arg, &mut names));
            for arg in args {
                reserved(arg, &mut found);
            }
            arguments.extend(names.into_iter().filter(|name| *name != "_").map(|name| (name, Known::Argument)));
            (refr, assign.iter().map(|assign| assign.value.as_ref()).collect())
        }
    };
    terms.push(refr);
    for body in bodies {
        let terms: Vec<_> = terms.iter().copied().chain(body.assign.iter().map(|assign| assign.value.as_ref())).collect();
        query(&body.query, &terms, arguments.clone(), &mut found);
    }
    terms.into_iter().for_each(|term| nested(term, &mut found));
    found
}

/// `input` and `data` as names of arguments.
fn reserved(pattern: &Expr, found: &mut Vec<Problem>) {
    match pattern {
        Expr::Var { span, .. } if is_reserved(span.text()) => {
            found.push(problem_at(Code::ReservedName, span, format!("`{}` is reserved; use another name", span.text())));
        }
        Expr::Array { .. } | Expr::Object { .. } => children(pattern).into_iter().for_each(|child| reserved(child, found)),
        _ => {}
    }
}

fn is_reserved(name: &str) -> bool {
    matches!(name, "input" | "data")
}

fn query<'a>(query: &'a Query, terms: &[&'a Expr], mut scope: Scope<'a>, found: &mut Vec<Problem>) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                for span in vars {
                    declare(span, &mut scope, found);
                    unused(span, query, terms, found);
                }
            }
            Literal::SomeIn { key, value, collection, .. } => {
                see(collection, &mut scope);
                nested(collection, found);
                key.iter().chain([value]).for_each(|pattern| declare_all(pattern, &mut scope, found));
            }
            Literal::Every { key, value, domain, query: body, .. } => {
                see(domain, &mut scope);
                nested(domain, found);
                let mut own = Scope::new();
                key.iter().chain([value]).for_each(|span| declare(span, &mut own, found));
                self::query(body, &[], own, found);
            }
            Literal::NotExpr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, .. } = expr.as_ref() {
                    let text = "`:=` under `not` binds nothing; assign before, and negate a comparison";
                    found.push(problem_at(Code::NegatedAssignment, expr.span(), text));
                }
                see(expr, &mut scope);
                nested(expr, found);
            }
            Literal::Expr { expr, .. } => match expr.as_ref() {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => {
                    see(rhs, &mut scope);
                    nested(rhs, found);
                    target(lhs, found);
                    declare_all(lhs, &mut scope, found);
                }
                expr => {
                    see(expr, &mut scope);
                    nested(expr, found);
                }
            },
        }
        for with in &statement.with_mods {
            see(&with.r#as, &mut scope);
            nested(&with.r#as, found);
        }
    }
}

/// Whether `:=` can assign to this.
fn target(pattern: &Expr, found: &mut Vec<Problem>) {
    let what = match pattern {
        Expr::Var { span, .. } if is_reserved(span.text()) => return reserved(pattern, found),
        Expr::Var { .. } => return,
        Expr::Array { items, .. } => return items.iter().for_each(|item| target(item, found)),
        Expr::Object { fields, .. } => return fields.iter().for_each(|(_, _, value)| target(value, found)),
        Expr::RefDot { .. } | Expr::RefBrack { .. } => "a reference",
        Expr::Call { .. } => "a call",
        Expr::Set { .. } => "a set",
        _ => "a value",
    };
    let text = format!("`:=` cannot assign to {what}; assign to a variable, or compare with `==`");
    found.push(problem_at(Code::AssignmentTarget, pattern.span(), text));
}

fn declare_all<'a>(pattern: &'a Expr, scope: &mut Scope<'a>, found: &mut Vec<Problem>) {
    match pattern {
        Expr::Var { span, .. } => declare(span, scope, found),
        Expr::Array { items, .. } => items.iter().for_each(|item| declare_all(item, scope, found)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| declare_all(value, scope, found)),
        _ => {}
    }
}

fn declare<'a>(span: &'a Span, scope: &mut Scope<'a>, found: &mut Vec<Problem>) {
    let name = span.text();
    if name == "_" {
        return;
    }
    let (code, text) = match scope.insert(name, Known::Declared) {
        None => return,
        Some(Known::Argument) => (Code::ArgumentRedeclared, format!("`{name}` is an argument; give the variable another name")),
        Some(Known::Declared) => {
            (Code::Redeclared, format!("`{name}` is declared above; use another name, or compare with `==`"))
        }
        Some(Known::Seen) => (Code::ReferencedAbove, format!("`{name}` is read above; declare it before its first use")),
    };
    found.push(problem_at(code, span, text));
}

/// Notes the variables of an expression, those of its comprehensions aside.
fn see<'a>(expr: &'a Expr, scope: &mut Scope<'a>) {
    match expr {
        Expr::Var { span, .. } => drop(scope.entry(span.text()).or_insert(Known::Seen)),
        _ if comprehension(expr).is_some() => {}
        _ => children(expr).into_iter().for_each(|child| see(child, scope)),
    }
}

/// The queries inside of an expression.
fn nested(expr: &Expr, found: &mut Vec<Problem>) {
    if let Some(query) = comprehension(expr) {
        let terms: Vec<_> = children(expr).into_iter().map(AsRef::as_ref).collect();
        self::query(query, &terms, Scope::new(), found);
    }
    children(expr).into_iter().for_each(|child| nested(child, found));
}

fn unused(span: &Span, query: &Query, terms: &[&Expr], found: &mut Vec<Problem>) {
    let is_used = query_mentions(query, span.text()) || terms.iter().any(|term| mentions(term, span.text()));
    if !is_used && span.text() != "_" {
        let text = format!("`{}` is declared and not used; remove it, or correct a name", span.text());
        found.push(problem_at(Code::UnusedDeclaration, span, text));
    }
}

/// Whether a query reads or binds a name anywhere.
pub(super) fn query_mentions(query: &Query, name: &str) -> bool {
    query.stmts.iter().any(|statement| {
        let literal = match &statement.literal {
            Literal::SomeVars { .. } => false,
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().chain([value, collection]).any(|expr| mentions(expr, name))
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => mentions(expr, name),
            Literal::Every { domain, query, .. } => mentions(domain, name) || query_mentions(query, name),
        };
        literal || statement.with_mods.iter().any(|with| mentions(&with.r#as, name))
    })
}

pub(super) fn mentions(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Var { span, .. } if span.text() == name)
        || comprehension(expr).is_some_and(|query| query_mentions(query, name))
        || children(expr).into_iter().any(|child| mentions(child, name))
}
