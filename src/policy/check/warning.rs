//! What is no mistake for sure: names that are not used or hide others, and a decision that may have no answer.

use std::collections::HashSet;

use regorus::unstable::{AssignOp, Expr, Literal, Module, Query, Rule, RuleHead, Span};

use super::assignment::{mentions, query_mentions};
use crate::policy::{
    names::{self, Names, Seen},
    problem::{Code, Problem, problem_at},
    tree::{children, comprehension, constant_path, head, pattern_names},
};

/// Imports whose name stands nowhere in the module.
pub(super) fn unused_imports(module: &Module) -> Vec<Problem> {
    let mut used = HashSet::new();
    for rule in &module.policy {
        names::walk_rule(rule, &mut |seen, _| match seen {
            Seen::Reference { root, .. } => drop(used.insert(root.text().to_owned())),
            Seen::Call { function, .. } => used.extend(constant_path(function).into_iter().take(1)),
            Seen::Statement(statement) => {
                let targets = statement.with_mods.iter().filter_map(|with| constant_path(&with.refr).into_iter().next());
                used.extend(targets);
            }
        });
    }
    let unused = module.imports.iter().filter_map(|import| {
        let path = constant_path(&import.refr);
        if !matches!(path.first().map(String::as_str), Some("data" | "input")) {
            return None;
        }
        let name = import.r#as.as_ref().map(|alias| alias.text().to_owned()).or_else(|| path.last().cloned())?;
        let text = format!("import `{name}` is not used; remove it, or correct a name");
        (!used.contains(&name)).then(|| problem_at(Code::UnusedImport, &import.span, text))
    });
    unused.collect()
}

/// Variables of a rule that are assigned and not read, or that hide a rule or an import.
pub(super) fn of_rule(rule: &Rule, names: &Names<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    let Rule::Spec { head: rule_head, bodies, .. } = rule else { return found };
    let mut terms: Vec<&Expr> = vec![head(rule)];
    match rule_head {
        RuleHead::Compr { assign, .. } => terms.extend(assign.iter().map(|assign| assign.value.as_ref())),
        RuleHead::Set { key, .. } => terms.extend(key.iter().map(AsRef::as_ref)),
        RuleHead::Func { assign, args, .. } => {
            terms.extend(assign.iter().map(|assign| assign.value.as_ref()));
            args.iter().for_each(|arg| shadows(arg, names, &mut found));
        }
    }
    for body in bodies {
        let terms: Vec<_> = terms.iter().copied().chain(body.assign.iter().map(|assign| assign.value.as_ref())).collect();
        in_query(&body.query, &terms, names, &mut found);
    }
    found
}

fn in_query(query: &Query, terms: &[&Expr], names: &Names<'_>, found: &mut Vec<Problem>) {
    for (index, statement) in query.stmts.iter().enumerate() {
        match &statement.literal {
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    shadows(lhs, names, found);
                    let is_read = |name: &str| {
                        let others = query.stmts.iter().enumerate().filter(|(other, _)| *other != index);
                        others.into_iter().any(|(_, statement)| statement_mentions(statement, name))
                            || terms.iter().any(|term| mentions(term, name))
                    };
                    if let Expr::Var { span, .. } = lhs.as_ref()
                        && span.text() != "_"
                        && !is_read(span.text())
                    {
                        let text = format!("`{}` is assigned and not read; remove it, or name it `_`", span.text());
                        found.push(problem_at(Code::UnusedVariable, span, text));
                    }
                }
                nested(expr, names, found);
            }
            Literal::NotExpr { expr, .. } => nested(expr, names, found),
            Literal::SomeVars { vars, .. } => vars.iter().for_each(|span| shadow(span, names, found)),
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().chain([value]).for_each(|pattern| shadows(pattern, names, found));
                nested(collection, names, found);
            }
            Literal::Every { key, value, domain, query, .. } => {
                key.iter().chain([value]).for_each(|span| shadow(span, names, found));
                nested(domain, names, found);
                in_query(query, &[], names, found);
            }
        }
    }
}

fn statement_mentions(statement: &regorus::unstable::LiteralStmt, name: &str) -> bool {
    let literal = match &statement.literal {
        Literal::SomeVars { .. } => false,
        Literal::SomeIn { key, value, collection, .. } => key.iter().chain([value, collection]).any(|expr| mentions(expr, name)),
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => mentions(expr, name),
        Literal::Every { domain, query, .. } => mentions(domain, name) || query_mentions(query, name),
    };
    literal || statement.with_mods.iter().any(|with| mentions(&with.r#as, name))
}

fn nested(expr: &Expr, names: &Names<'_>, found: &mut Vec<Problem>) {
    if let Some(query) = comprehension(expr) {
        let terms: Vec<_> = children(expr).into_iter().map(AsRef::as_ref).collect();
        in_query(query, &terms, names, found);
    }
    children(expr).into_iter().for_each(|child| nested(child, names, found));
}

fn shadows(pattern: &Expr, names: &Names<'_>, found: &mut Vec<Problem>) {
    match pattern {
        Expr::Var { span, .. } => shadow(span, names, found),
        _ => {
            let mut variables = HashSet::new();
            pattern_names(pattern, &mut variables);
            if let Some(name) = variables.into_iter().filter(|name| names.declares(name)).min() {
                found.push(shadowed(pattern.span(), name));
            }
        }
    }
}

fn shadow(span: &Span, names: &Names<'_>, found: &mut Vec<Problem>) {
    if names.declares(span.text()) {
        found.push(shadowed(span, span.text()));
    }
}

fn shadowed(span: &Span, name: &str) -> Problem {
    problem_at(Code::Shadowed, span, format!("`{name}` is also a rule or an import, which it hides here; use another name"))
}

/// A decision whose rules all have bodies, and none a default.
pub(super) fn undefined_decision<'m>(modules: impl Iterator<Item = &'m Module>, decision: &[String]) -> Option<Problem> {
    let mut place = None;
    for module in modules {
        let package = names::package(module);
        for rule in &module.policy {
            if names::rule_path(&package, rule) != decision {
                continue;
            }
            match rule.as_ref() {
                Rule::Default { .. } | Rule::Spec { head: RuleHead::Set { .. }, .. } => return None,
                Rule::Spec { bodies, .. } if bodies.is_empty() => return None,
                Rule::Spec { span, .. } => place = place.or(Some(span)),
            }
        }
    }
    let text = "this rule decides, and has no answer where no body holds; write `default` for it".to_owned();
    place.map(|span| problem_at(Code::UndefinedDecision, span, text))
}
