//! Why a test failed: its body is evaluated again statement by statement, by rules appended to its module, until one
//! does not hold; then the variables and references in that one are evaluated. The same shows the cases of `test_x[c]`
//! that never came to be true.

use std::{collections::HashSet, time::Duration};

use regorus::{
    Value,
    unstable::{AssignOp, Expr, Literal, LiteralStmt, Query, Rule},
};
use serde::Serialize;

use super::{Case, Outcome, Purpose, Sources, Test, TestResult, evaluate};
use crate::{
    config,
    policy::{
        engine,
        engine::answer::to_json,
        tree::{Step, children},
    },
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
    let probes = Probes { test, sources, config, limit };
    if let Some(keys) = &test.keys {
        if let (Outcome::Fail, true, Some(value)) = (result.outcome, result.cases.is_empty(), probes.document()) {
            let judged = test.judge(&value);
            (result.outcome, result.cases) = (judged.outcome, judged.cases);
        }
        let found: Option<Vec<_>> = bodies.iter().map(|body| probes.cases(&texts(&body.query)?, keys)).collect();
        let Some(found) = found else {
            // To pass it would be to guess.
            result.outcome = Outcome::Error;
            result.error = Some("its cases cannot be told; bind what is in the brackets in the body".to_owned());
            return;
        };
        for case in found.into_iter().flatten() {
            // What holds others came to a value.
            if !result.cases.keys().any(|known| known.starts_with(&case)) {
                result.cases.insert(case, Outcome::Fail);
            }
        }
        if result.cases.values().any(|outcome| *outcome != Outcome::Pass) {
            result.outcome = Outcome::Fail;
        }
        return;
    }
    // Of several bodies the last is what it came to.
    result.failed_at = bodies.last().and_then(|body| probes.failing(&texts(&body.query)?));
}

/// The statements of a body with their texts.
fn texts(query: &Query) -> Option<Vec<(&LiteralStmt, String)>> {
    query.stmts.iter().map(|statement| Some((statement, text_of(statement)?))).collect()
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

    /// What all rules below the test's name come to, which no name of a rule leads to where several keys follow it.
    fn document(&self) -> Option<Value> {
        let path: String = self.test.path.iter().map(|part| format!("[{}]", serde_json::Value::from(part.as_str()))).collect();
        self.ask(&[(format!("data{path}"), "true".to_owned())])?.pop()?.pop()
    }

    /// All cases, as OPA finds them: what the keys come to once each variable in them has been named.
    fn cases(&self, statements: &[(&LiteralStmt, String)], keys: &[Step<'_>]) -> Option<Vec<Case>> {
        let texts: Option<Vec<String>> = keys.iter().map(key_text).collect();
        let term = format!("[{}]", texts?.join(", "));
        let named = keys.iter().flat_map(|key| bound_in(key, statements));
        let least = named.filter_map(|name| statements.iter().position(|statement| names(statement, name))).max();
        // Where one of them is named before it is bound, the rule does not compile.
        let values = (least.map_or(0, |at| at + 1)..=statements.len())
            .find_map(|length| self.ask(&[(term.clone(), prefix(statements, length))]))?
            .pop()?;
        let case = |value: &Value| match value {
            Value::Array(keys) => Some(keys.iter().map(super::case_name).collect()),
            _ => None,
        };
        values.iter().map(case).collect()
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

fn key_text(key: &Step<'_>) -> Option<String> {
    match (key, key.name()) {
        (_, Some(name)) => Some(serde_json::Value::from(name).to_string()),
        (Step::Index(index), None) => span_text(index.span()),
        (Step::Name(_), None) => None,
    }
}

/// The variables of a key that the body binds: one that stands alone, and those that are declared there.
fn bound_in<'a>(key: &Step<'a>, statements: &[(&LiteralStmt, String)]) -> Vec<&'a str> {
    let Step::Index(index) = key else { return Vec::new() };
    let mut names = HashSet::new();
    variables(index, &mut names);
    let mut declared = HashSet::new();
    for (statement, _) in statements {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => declared.extend(vars.iter().map(|var| var.text())),
            Literal::SomeIn { key, value, .. } => {
                key.iter().chain([value]).for_each(|pattern| variables(pattern, &mut declared));
            }
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    variables(lhs, &mut declared);
                }
            }
            _ => {}
        }
    }
    let alone = matches!(index, Expr::Var { .. });
    names.into_iter().filter(|name| alone || declared.contains(name)).collect()
}

fn variables<'a>(expr: &'a Expr, names: &mut HashSet<&'a str>) {
    if let Expr::Var { span, .. } = expr {
        names.insert(span.text());
    }
    children(expr).into_iter().for_each(|child| variables(child, names));
}

/// Whether a statement that does more than declare it has a name in it.
fn names((statement, text): &(&LiteralStmt, String), name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    !matches!(statement.literal, Literal::SomeVars { .. }) && text.split(|c| !is_word(c)).any(|word| word == name)
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
