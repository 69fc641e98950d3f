//! Why a test failed: its body is evaluated again statement by statement, by rules appended to its module, until one
//! does not hold; then the variables and references in that one are evaluated. The same shows the cases of `test_x[c]`
//! that never came to be true.

use std::time::Duration;

use regorus::{
    Value,
    unstable::{Expr, Literal, LiteralStmt, Rule},
};
use serde::Serialize;

use super::{Outcome, Purpose, Sources, Test, TestResult, evaluate};
use crate::{
    config,
    policy::{engine, engine::answer::to_json, tree::children},
};

/// Most values shown of one expression.
const MAX_VALUES: usize = 16;
/// Longest text of one value.
const MAX_TEXT: usize = 400;

/// The statement that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    pub file: String,
    pub line: u32,
    pub expression: String,
    /// What stood in it, as Rego text and JSON; `undefined` where there was no value.
    pub values: Vec<(String, String)>,
}

/// Fills in where a failed test failed, and the cases that are missing in its result.
pub(super) fn explain(test: &Test<'_>, result: &mut TestResult, sources: &Sources, config: &config::Policy, limit: Duration) {
    let Rule::Spec { bodies, .. } = test.rule else { return };
    // Of several bodies the last is what it came to.
    let Some(body) = bodies.last() else { return };
    let statements: Vec<(&LiteralStmt, String)> =
        body.query.stmts.iter().filter_map(|statement| Some((statement, text_of(statement)?))).collect();
    if statements.len() != body.query.stmts.len() {
        return;
    }
    let probes = Probes { test, sources, config, limit };
    if let Some(keys) = &test.keys {
        for name in probes.cases(&statements, keys) {
            result.cases.entry(name).or_insert(Outcome::Fail);
        }
        if result.cases.values().any(|outcome| *outcome != Outcome::Pass) {
            result.outcome = Outcome::Fail;
        }
        return;
    }
    result.failed_at = probes.failing(&statements);
}

struct Probes<'a> {
    test: &'a Test<'a>,
    sources: &'a Sources,
    config: &'a config::Policy,
    limit: Duration,
}

impl Probes<'_> {
    /// The values of rules `probe_0`, `probe_1` …, each `(term, body)`; none where they do not compile.
    fn ask(&self, rules: &[(String, String)]) -> Option<Vec<Vec<Value>>> {
        let mut sources = self.sources.clone();
        let module = sources.modules.iter_mut().find(|module| module.name == self.test.file)?;
        let v1 = self.config.rego == config::RegoVersion::V1 || module.text.contains("import rego.v1");
        for (index, (term, body)) in rules.iter().enumerate() {
            let head = if v1 { format!("contains {term} if") } else { format!("[{term}]") };
            module.text.push_str(&format!("\ndoorward_probe_{index} {head} {{\n{body}\n}}\n"));
        }
        let (mut engine, _) = engine::compile_for(Purpose::Test, sources, self.config).ok()?;
        let package: Vec<String> = self.test.package.split('.').skip(1).map(str::to_owned).collect();
        let (limit, count) = (self.limit, rules.len());
        let work = move || {
            let mut answers = Vec::new();
            for index in 0..count {
                let mut path = package.clone();
                path.push(format!("doorward_probe_{index}"));
                answers.push(match evaluate(&mut engine, &engine::rule_path(&path), limit) {
                    Ok(Value::Set(items)) => items.iter_sorted().cloned().collect(),
                    Ok(_) | Err(_) => Vec::new(),
                });
            }
            answers
        };
        std::thread::Builder::new().stack_size(super::STACK).spawn(work).ok()?.join().ok()
    }

    /// The names of all cases: the keys at the first statement after which each is bound.
    fn cases(&self, statements: &[(&LiteralStmt, String)], keys: &[&Expr]) -> Vec<String> {
        let key = match keys {
            [Expr::Var { span, .. }, ..] => span.text().to_owned(),
            _ => return Vec::new(),
        };
        for length in 1..statements.len() {
            let answers = self.ask(&[(key.clone(), prefix(statements, length))]);
            if let Some(values) = answers.and_then(|answers| answers.into_iter().next()).filter(|values| !values.is_empty()) {
                return values.iter().map(super::case_name).collect();
            }
        }
        Vec::new()
    }

    fn failing(&self, statements: &[(&LiteralStmt, String)]) -> Option<Probe> {
        let lengths: Vec<_> = (1..statements.len()).map(|length| ("true".to_owned(), prefix(statements, length))).collect();
        let held = if lengths.is_empty() { Vec::new() } else { self.ask(&lengths)? };
        let at = held.iter().take_while(|values| !values.is_empty()).count();
        let (statement, expression) = statements.get(at)?;
        let before = prefix(statements, at);
        let with = with_text(statement).unwrap_or_default();
        let mut terms = Vec::new();
        literal_terms(&statement.literal, &mut terms);
        terms.dedup();
        terms.truncate(MAX_VALUES);
        let rules: Vec<_> = terms
            .iter()
            .map(|term| ("doorward_value".to_owned(), format!("{before}\ndoorward_value := {term} {with}")))
            .collect();
        let one_by_one = || rules.iter().map(|rule| self.ask(std::slice::from_ref(rule))?.into_iter().next()).collect::<Vec<_>>();
        let answers: Vec<Option<Vec<Value>>> = match rules.is_empty() {
            true => Vec::new(),
            false => self.ask(&rules).map_or_else(one_by_one, |answers| answers.into_iter().map(Some).collect()),
        };
        let values = terms.into_iter().zip(answers).filter_map(|(term, values)| Some((term, shown(&values?)))).collect();
        let line = statement.span.line;
        Some(Probe { file: self.test.file.clone(), line, expression: expression.clone(), values })
    }
}

fn prefix(statements: &[(&LiteralStmt, String)], length: usize) -> String {
    statements.iter().take(length).map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n")
}

fn shown(values: &[Value]) -> String {
    let text = |value: &Value| to_json(value).map_or_else(|_| "?".to_owned(), |json| json.to_string());
    let mut all = match values {
        [] => "undefined".to_owned(),
        [value] => text(value),
        several => several.iter().take(MAX_VALUES).map(text).collect::<Vec<_>>().join(" | "),
    };
    if let Some((at, _)) = all.char_indices().nth(MAX_TEXT) {
        all.truncate(at);
        all.push('…');
    }
    all
}

/// The variables and references that a statement reads.
fn literal_terms(literal: &Literal, terms: &mut Vec<String>) {
    match literal {
        Literal::SomeVars { .. } => {}
        Literal::SomeIn { collection, .. } => collect(collection, terms),
        Literal::Every { domain, .. } => collect(domain, terms),
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => match expr.as_ref() {
            Expr::AssignExpr { rhs, lhs, .. } => {
                collect(rhs, terms);
                if matches!(lhs.as_ref(), Expr::RefDot { .. } | Expr::RefBrack { .. }) {
                    collect(lhs, terms);
                }
            }
            other => collect(other, terms),
        },
    }
}

fn collect(expr: &Expr, terms: &mut Vec<String>) {
    let text = match expr {
        Expr::Var { span, .. } if span.text() != "_" => span_text(span),
        Expr::RefDot { span, .. } | Expr::RefBrack { span, .. } | Expr::Call { span, .. } => span_text(span),
        _ => None,
    };
    if let Some(text) = text.filter(|text| !terms.contains(text)) {
        terms.push(text);
    }
    match expr {
        // Its beginning is no value of interest.
        Expr::RefDot { .. } => {}
        Expr::RefBrack { index, .. } => collect(index, terms),
        other => children(other).into_iter().for_each(|child| collect(child, terms)),
    }
}

fn span_text(span: &regorus::unstable::Span) -> Option<String> {
    let source = span.source.contents();
    slice(source, span.start as usize, span.end as usize)
}

fn text_of(statement: &LiteralStmt) -> Option<String> {
    let span = &statement.span;
    let end = statement.with_mods.iter().map(|with| with.r#as.span().end).max().unwrap_or(0).max(span.end);
    slice(span.source.contents(), span.start as usize, end as usize)
}

fn with_text(statement: &LiteralStmt) -> Option<String> {
    let (first, last) = (statement.with_mods.first()?, statement.with_mods.last()?);
    let text = slice(first.span.source.contents(), first.span.start as usize, last.r#as.span().end as usize)?;
    Some(if text.starts_with("with") { text } else { format!("with {text}") })
}

/// The text of a span of the engine with what it leaves out: quotes and parentheses at either end.
fn slice(source: &str, start: usize, end: usize) -> Option<String> {
    let mut start = start;
    while let Some(before) = source.get(..start)?.trim_end_matches(' ').chars().next_back().filter(|c| "(\"`".contains(*c)) {
        // A parenthesis that opens a call belongs to that.
        let outside = source.get(..start)?.trim_end_matches(' ');
        let at = outside.len() - before.len_utf8();
        if before == '(' && source.get(..at)?.chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_])".contains(c)) {
            break;
        }
        start = at;
    }
    let length = balanced(source.get(start..)?, end.checked_sub(start)?)?;
    source.get(start..start + length).map(str::to_owned)
}

/// Where the text has come to at least `least` bytes, outside strings and brackets.
fn balanced(text: &str, least: usize) -> Option<usize> {
    let (mut depth, mut quote, mut escaped, mut comment) = (0_i32, None, false, false);
    for (at, c) in text.char_indices() {
        if at >= least && depth <= 0 && quote.is_none() {
            return Some(at);
        }
        match (quote, c) {
            _ if comment => comment = c != '\n',
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(c),
            (None, '#') => comment = true,
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            (None, _) => {}
        }
        escaped = false;
    }
    (depth <= 0 && quote.is_none()).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_its_quotes_and_parentheses() {
        let source = "x if { (1 + a) == f(\"}\", [2]) # (\n }";
        let at = |text: &str| source.find(text).unwrap();
        assert_eq!(slice(source, at("1 + a"), at(", [2]")).unwrap(), "(1 + a) == f(\"}\", [2])");
        assert_eq!(slice(source, at("a)"), at("a)") + 1).unwrap(), "a");
        assert_eq!(slice("\"a\" == b", 1, 8).unwrap(), "\"a\" == b");
    }
}
