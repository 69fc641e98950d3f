//! Rego rewritten so that the engine answers it as OPA does. What the engine reads as OPA would stays as its author wrote
//! it; only the statements and heads that hold something else are printed anew, from the syntax tree, each in the lines
//! it had. What cannot be rewritten is told as a problem; what must be refused for other reasons is `check`'s.

mod collection;
pub(super) mod lexical;
mod negation;
mod operator;
mod pattern;
mod print;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write,
};

use regorus::unstable::{Expr, Literal, LiteralStmt, Module, Query, Rule, RuleAssign, RuleBody, RuleHead, Span};

use super::{
    engine::rule_path,
    load::Purpose,
    mocks::{Mocks, Replacement},
    names::{self, Callee, Names, Path, Rules, Scopes, declared},
    problem::Problem,
    tree::{children, comprehension, constant_path, is_open, pattern_names, steps},
};

/// What the rewrite of one module must know of all of them.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) mocks: Mocks,
    /// The constant beginnings of names that are computed in part.
    open: BTreeSet<Path>,
}

impl Whole {
    pub(super) fn of<'m>(modules: impl Iterator<Item = &'m Module> + Clone, rules: &Rules, purpose: Purpose) -> Self {
        let mut open = BTreeSet::new();
        for module in modules.clone() {
            let package = names::package(module);
            open.extend(module.policy.iter().filter(|rule| is_open(rule)).map(|rule| names::rule_path(&package, rule)));
        }
        let mocks = match purpose {
            Purpose::Serve => Mocks::default(),
            Purpose::Test => Mocks::of(modules, rules),
        };
        Self { mocks, open }
    }
}

/// The text of a module as the engine shall read it. `text` is what `module` was parsed from.
pub(super) fn rewrite<'a>(
    module: &'a Module,
    text: &'a str,
    names: &'a Names<'a>,
    whole: &'a Whole,
) -> Result<String, Vec<Problem>> {
    let mut rewriter = Rewriter::new(text, names, whole, module.rego_v1);
    for rule in &module.policy {
        rewriter.rule(rule);
    }
    if rewriter.problems.is_empty() { Ok(rewriter.apply()) } else { Err(rewriter.problems) }
}

/// One replacement in the text, in bytes.
struct Edit {
    start: usize,
    end: usize,
    text: String,
}

struct Rewriter<'a> {
    text: &'a str,
    names: &'a Names<'a>,
    whole: &'a Whole,
    rego_v1: bool,
    /// Names that are local where the rewriter stands, innermost scope last.
    locals: Vec<HashSet<&'a str>>,
    /// What begins the names of our variables; no name of the author does.
    prefix: String,
    /// How many variables of ours there are.
    variables: u32,
    /// How often something was printed other than its author wrote it.
    changes: u32,
    /// The line that printing has reached; `None` where everything goes on one line.
    line: Option<u32>,
    /// What the statement at hand needs bound before it.
    before: Vec<String>,
    /// The `with` of the statement at hand.
    with: String,
    /// The step of the head at hand that is computed by us, and its variable.
    opened: Option<(&'a Expr, String)>,
    /// Whether a body of the rule at hand may hold more than once.
    loops: bool,
    /// Whether what is printed is a term of a head or comprehension.
    in_term: bool,
    edits: Vec<Edit>,
    problems: Vec<Problem>,
}

impl<'a> Rewriter<'a> {
    fn new(text: &'a str, names: &'a Names<'a>, whole: &'a Whole, rego_v1: bool) -> Self {
        let mut prefix = "__v".to_owned();
        while text.contains(&prefix) {
            prefix.push('_');
        }
        Self {
            text,
            names,
            whole,
            rego_v1,
            locals: Vec::new(),
            prefix,
            variables: 0,
            changes: 0,
            line: None,
            before: Vec::new(),
            with: String::new(),
            opened: None,
            loops: false,
            in_term: false,
            edits: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn apply(mut self) -> String {
        self.edits.sort_by_key(|edit| edit.start);
        let mut done = String::with_capacity(self.text.len() + self.text.len() / 4);
        let mut at = 0;
        for Edit { start, end, text } in &self.edits {
            done.push_str(self.text.get(at..*start).unwrap_or_default());
            done.push_str(text);
            at = *end;
        }
        done.push_str(self.text.get(at..).unwrap_or_default());
        done
    }

    fn rule(&mut self, rule: &'a Rule) {
        let Rule::Spec { head, bodies, .. } = rule else { return };
        let mut names = HashSet::new();
        if let RuleHead::Func { args, .. } = head {
            args.iter().for_each(|arg| pattern_names(arg, &mut names));
        }
        self.locals.push(names);
        let (prologue, epilogue) = self.head(head, bodies);
        for body in bodies {
            self.body(body, bodies.len(), &prologue, if body.is_else { "" } else { &epilogue });
        }
        self.locals.pop();
    }

    /// Rewrites a head; the answers are what each body must begin with, where an argument was a pattern, and what the
    /// bodies must end with, where the head holds what is bound better there.
    fn head(&mut self, head: &'a RuleHead, bodies: &'a [RuleBody]) -> (String, String) {
        let (RuleHead::Compr { span, .. } | RuleHead::Set { span, .. } | RuleHead::Func { span, .. }) = head;
        let (mut prologue, mut epilogue) = (String::new(), String::new());
        self.locals.push(bodies.first().map(|body| declared(&body.query)).unwrap_or_default());
        let extent = self.extent(span, false);
        self.replace(extent, span.line, |this| {
            this.in_term = true;
            this.loops = bodies.iter().flat_map(|body| &body.query.stmts).any(may_loop);
            let (RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }) = head;
            this.opened = this.opened_step(refr).map(|step| (step, this.variable()));
            let mut text = match head {
                RuleHead::Compr { refr, assign, .. } => this.head_reference(refr) + &this.assign(assign.as_ref(), bodies.len()),
                RuleHead::Set { refr, key: None, .. } => this.head_reference(refr),
                RuleHead::Set { refr, key: Some(key), .. } => {
                    // Only before `import rego.v1` a set may be written as a name with its element in brackets.
                    let after = this.text.get(refr.span().end as usize..).unwrap_or_default().trim_start();
                    let bracketed = matches!(refr.as_ref(), Expr::Var { .. }) && after.starts_with('[');
                    let is_fixed = !print::is_scalar(key) || steps(refr).1.iter().all(|step| step.name().is_some());
                    let refr = if bracketed { this.head_reference(refr) } else { this.set_reference(refr) };
                    let mut key = this.head_term(key, this.loops);
                    if !is_fixed {
                        // The engine stops at the first element of a set whose members are the same for each name.
                        this.changes += 1;
                        key = format!("[{key}][0]");
                    }
                    if bracketed { format!("{refr}[{key}]") } else { format!("{refr} contains {key}") }
                }
                RuleHead::Func { refr, args, assign, .. } => {
                    let refr = this.head_reference(refr);
                    let (args, taken_apart) = this.arguments(args);
                    prologue = taken_apart;
                    format!("{refr}({}){}", args.join(", "), this.assign(assign.as_ref(), bodies.len()))
                }
            };
            this.in_term = false;
            if let Some((step, variable)) = this.opened.take() {
                this.changes += 1;
                let name = constant_path(step).pop().unwrap_or_default();
                prologue = format!("{variable} := {}", serde_json::Value::from(name));
            }
            epilogue = std::mem::take(&mut this.before).join("; ");
            if bodies.is_empty() && !(prologue.is_empty() && epilogue.is_empty()) {
                let _ = write!(text, "{} {{ {} }}", this.condition(), joined([&prologue, &epilogue]));
            }
            text
        });
        self.locals.pop();
        (prologue, epilogue)
    }

    /// The step of a rule's name that must be computed, since one beside it is: the engine passes over the rule with the
    /// computed name where it has one with the plain name.
    fn opened_step(&self, refr: &'a Expr) -> Option<&'a Expr> {
        let names: Vec<_> = constant_path(refr);
        let package = self.names.package();
        let mut path = package.to_vec();
        let mut at = None;
        for (index, name) in names.into_iter().enumerate() {
            if index > 0 && self.whole.open.contains(&path) {
                at = Some(index);
                break;
            }
            path.push(name);
        }
        // The step is the reference that ends with it.
        let mut refr = refr;
        for _ in at?..steps(refr).1.len() {
            refr = match refr {
                Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => refr,
                _ => return None,
            };
        }
        Some(refr)
    }

    /// The name of a rule; what is in its brackets is printed as the terms that they are.
    fn head_reference(&mut self, expr: &'a Expr) -> String {
        if let Some((step, variable)) = &self.opened
            && std::ptr::eq(*step, expr)
            && let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = expr
        {
            let variable = variable.clone();
            return format!("{}[{variable}]", self.head_reference(refr));
        }
        match expr {
            Expr::RefDot { refr, field, .. } => self.head_reference(refr) + "." + field.0.text(),
            Expr::RefBrack { refr, index, .. } => {
                let refr = self.head_reference(refr);
                format!("{refr}[{}]", self.head_term(index, self.loops))
            }
            _ => self.expr(expr),
        }
    }

    /// A key or value of a head. Where `bound`, it is bound in the body if it may be undefined: where a body holds more
    /// than once, the engine loses the values that it has when one is undefined.
    fn head_term(&mut self, expr: &'a Expr, bound: bool) -> String {
        let printed = self.top(expr);
        if bound && self.may_be_undefined(expr) { self.bind(&printed, "") } else { printed }
    }

    fn may_be_undefined(&self, expr: &Expr) -> bool {
        match expr {
            _ if print::is_scalar(expr) || comprehension(expr).is_some() => false,
            Expr::Var { span, .. } => self.is_global(span.text()),
            Expr::Array { .. } | Expr::Set { .. } | Expr::Object { .. } => {
                children(expr).into_iter().any(|child| self.may_be_undefined(child))
            }
            _ => true,
        }
    }

    /// The name of a set. In brackets that it ends with, the engine takes a constant for the key of an object.
    fn set_reference(&mut self, expr: &'a Expr) -> String {
        match expr {
            Expr::RefBrack { refr, index, .. } if matches!(index.as_ref(), Expr::String { .. }) => {
                let name = constant_path(expr).pop().unwrap_or_default();
                let path = rule_path(&[name]);
                self.changes += u32::from(path.starts_with("data."));
                self.head_reference(refr) + path.trim_start_matches("data")
            }
            _ => self.head_reference(expr),
        }
    }

    /// What stands before a body.
    fn condition(&self) -> &'static str {
        if self.rego_v1 { " if" } else { "" }
    }

    /// The value of a rule. Where an `else` may follow, it is bound in the body: OPA goes on to the `else` when the value
    /// is undefined, the engine leaves the rule undefined.
    fn assign(&mut self, assign: Option<&'a RuleAssign>, bodies: usize) -> String {
        let Some(RuleAssign { op, value, .. }) = assign else { return String::new() };
        let printed = self.head_term(value, bodies > 1 || self.loops);
        format!(" {} {printed}", print::assignment(op))
    }

    fn body(&mut self, body: &'a RuleBody, count: usize, prologue: &str, epilogue: &str) {
        let query = &body.query;
        self.locals.push(declared(query));
        let late = late_declarations(query);
        let prologue = &joined([&declaration(&late), prologue]);
        let mut of_assign = String::new();
        if let Some(assign) = &body.assign {
            let extent = self.extent(&assign.span, false);
            self.replace(extent, assign.span.line, |this| {
                this.in_term = true;
                let text = this.assign(Some(assign), count).trim_start().to_owned();
                this.in_term = false;
                of_assign = std::mem::take(&mut this.before).join("; ");
                text
            });
        }
        let epilogue = joined([epilogue, &of_assign]);
        let surrounded = !(prologue.is_empty() && epilogue.is_empty());
        let bare = query.stmts.first().is_some_and(|first| first.span.start == query.span.start);
        let insert = |at: usize, text: String| Edit { start: at, end: at, text };
        if query.stmts.is_empty() && surrounded {
            let text = format!("{} {{ {} }}", self.condition(), joined([prologue, &epilogue]));
            self.edits.push(insert(self.extent(&body.span, false).1, text));
        } else if surrounded && !bare {
            if !prologue.is_empty() {
                self.edits.push(insert(query.span.start as usize + 1, format!(" {prologue}; ")));
            }
            if !epilogue.is_empty() {
                self.edits.push(insert((query.span.end as usize).saturating_sub(1), format!("; {epilogue} ")));
            }
        }
        for statement in &query.stmts {
            let extent = self.extent(&statement.span, matches!(statement.literal, Literal::Expr { .. }));
            self.replace(extent, statement.span.line, |this| {
                let text = this.scheduled(statement, &late);
                if !bare {
                    return text;
                }
                this.changes += u32::from(surrounded);
                format!("{{ {} }}", joined([prologue, &text, &epilogue]))
            });
        }
        self.locals.pop();
    }

    /// Replaces a part of the text by what `print` makes of it, if that is anything else, and keeps its lines.
    fn replace(&mut self, (start, end): (usize, usize), line: u32, print: impl FnOnce(&mut Self) -> String) {
        let (variables, changes) = (self.variables, self.changes);
        let old = self.text.get(start..end).unwrap_or_default();
        self.line = Some(line);
        let mut text = print(self);
        if self.changes == changes {
            self.variables = variables;
            return;
        }
        text.push_str(&"\n".repeat((line_count(old).saturating_sub(line_count(&text))) as usize));
        self.edits.push(Edit { start, end, text });
    }

    /// Where a span lies in the text. The spans of strings leave their quotes out: the end is moved behind one, and the
    /// start before one where a string can be the first thing.
    fn extent(&self, span: &Span, starts_anyhow: bool) -> (usize, usize) {
        let bytes = self.text.as_bytes();
        let is_quote = |at: usize| matches!(bytes.get(at), Some(b'"' | b'`'));
        let (start, end) = (span.start as usize, span.end as usize);
        let before = start.checked_sub(1).filter(|before| starts_anyhow && is_quote(*before));
        (before.unwrap_or(start), if is_quote(end) { end + 1 } else { end })
    }

    /// A variable that no author has.
    fn variable(&mut self) -> String {
        self.variables += 1;
        format!("{}{}", self.prefix, self.variables)
    }

    /// Whether a bare name is a reference to the input, a rule or an import, which may be undefined.
    fn is_global(&self, name: &str) -> bool {
        !self.is_local(name) && self.names.leads_to_document(name)
    }

    /// The wrapper of a function that tests replace, and how many arguments the function takes.
    fn wrapper(&self, function: &Expr) -> Option<(String, usize)> {
        let is_local = matches!(steps(function).0, Expr::Var { span, .. } if self.is_local(span.text()));
        let callee = match self.names.callee(function, &Scopes::default()) {
            Callee::Rule(_) if is_local => return None,
            callee => callee,
        };
        self.whole.mocks.wrapper(callee, self.names)
    }

    fn replacement(&self, value: &Expr, arity: usize) -> Replacement {
        match steps(value).0 {
            Expr::Var { span, .. } if self.is_local(span.text()) => Replacement::Value,
            _ => self.whole.mocks.replacement(value, arity, self.names, &Scopes::default()),
        }
    }

    fn is_local(&self, name: &str) -> bool {
        self.locals.iter().any(|scope| scope.contains(name))
    }

    /// Prints on one line.
    fn flat<T>(&mut self, print: impl FnOnce(&mut Self) -> T) -> T {
        let line = self.line.take();
        let printed = print(self);
        self.line = line;
        printed
    }

    /// The statements of a query, with its own names in sight.
    fn query(&mut self, query: &'a Query) -> String {
        self.locals.push(declared(query));
        let text = self.statements(query);
        self.locals.pop();
        text
    }

    fn statements(&mut self, query: &'a Query) -> String {
        let late = late_declarations(query);
        let mut text = declaration(&late);
        for statement in &query.stmts {
            if !text.is_empty() {
                text.push_str("; ");
            }
            let lines = self.sync(&statement.span);
            text.push_str(&lines);
            text.push_str(&self.scheduled(statement, &late));
        }
        text
    }

    /// A statement of a query whose declarations in `late` stand at its beginning.
    fn scheduled(&mut self, statement: &'a LiteralStmt, late: &[&'a LiteralStmt]) -> String {
        if late.iter().any(|other| std::ptr::eq(*other, statement)) {
            self.changes += 1;
            return "true".to_owned();
        }
        self.statement(statement)
    }

    /// A statement, behind what it needs bound.
    fn statement(&mut self, statement: &'a LiteralStmt) -> String {
        let outer = std::mem::take(&mut self.before);
        let outer_term = std::mem::replace(&mut self.in_term, false);
        let with = self.with(statement);
        let outer_with = std::mem::replace(&mut self.with, with.clone());
        let text = match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                format!("some {}{with}", vars.iter().map(Span::text).collect::<Vec<_>>().join(", "))
            }
            Literal::SomeIn { key, value, collection, .. } => self.some_in(key.as_ref(), value, collection, &with),
            Literal::Every { key, value, domain, query, .. } => self.every(key.as_ref(), value, domain, query, &with),
            Literal::NotExpr { expr, .. } => self.not(expr, &with),
            Literal::Expr { expr, .. } => self.expression_statement(expr, &with),
        };
        self.with = outer_with;
        self.in_term = outer_term;
        let before = std::mem::replace(&mut self.before, outer);
        before.into_iter().chain([text]).collect::<Vec<_>>().join("; ")
    }

    /// The `with` of a statement. OPA computes the values before any of them is in force, and leaves the statement
    /// undefined when one is; the engine looks at the last one only.
    fn with(&mut self, statement: &'a LiteralStmt) -> String {
        let mut text = String::new();
        for with in &statement.with_mods {
            if let Some((wrapper, arity)) = self.wrapper(&with.refr) {
                self.changes += 1;
                let value = match self.replacement(&with.r#as, arity) {
                    Replacement::Wrapper(name) => name,
                    Replacement::Value => self.flat(|this| this.operand(&with.r#as, "")),
                };
                let _ = write!(text, " with {wrapper} as {value}");
                continue;
            }
            let target = self.flat(|this| this.expr(&with.refr));
            let value = if self.replaces_document(&with.refr) {
                self.flat(|this| this.operand(&with.r#as, ""))
            } else {
                self.flat(|this| this.expr(&with.r#as))
            };
            let _ = write!(text, " with {target} as {value}");
        }
        text
    }
}

/// The declarations that a loop would come by more than once, which to the engine is an error.
fn late_declarations(query: &Query) -> Vec<&LiteralStmt> {
    let mut looped = false;
    let late = query.stmts.iter().filter(|statement| {
        let is_late = looped && matches!(statement.literal, Literal::SomeVars { .. });
        looped |= may_loop(statement);
        is_late
    });
    late.collect()
}

fn declaration(late: &[&LiteralStmt]) -> String {
    let names = late.iter().flat_map(|statement| match &statement.literal {
        Literal::SomeVars { vars, .. } => vars.iter().map(Span::text).collect(),
        _ => Vec::new(),
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() { String::new() } else { format!("some {}", names.join(", ")) }
}

/// Whether a statement may hold more than once: it may bind what is in its brackets, or yields pairs.
fn may_loop(statement: &LiteralStmt) -> bool {
    fn loops(expr: &Expr) -> bool {
        match expr {
            Expr::RefBrack { index, .. } if !print::is_scalar(index) => true,
            Expr::Call { fcn, .. } if collection::is_walk(fcn) => true,
            _ => children(expr).into_iter().any(|child| loops(child)),
        }
    }
    match &statement.literal {
        Literal::SomeVars { .. } | Literal::NotExpr { .. } | Literal::Every { .. } => false,
        Literal::SomeIn { .. } => true,
        Literal::Expr { expr, .. } => loops(expr),
    }
}

/// Statements in a row, the empty ones left out.
fn joined<const N: usize>(statements: [&str; N]) -> String {
    statements.into_iter().filter(|statement| !statement.is_empty()).collect::<Vec<_>>().join("; ")
}

fn line_count(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
