//! Which policies the bytecode engine answers right: plain rules with one constant value each, functions of plain
//! arguments, conditions on references, comparisons and calls. No comprehension, no `every`, no `with`, no pattern, no
//! arithmetic, and no function that is overridden here, since overrides do not reach the bytecode. Found by comparison
//! with OPA on its own suite and on random policies; what is not listed here is not in the subset.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use regorus::{
    Source, Value,
    unstable::{AssignOp, BUILTINS, BoolOp, Expr, Import, Literal, LiteralStmt, Module, Parser, Query, Rule, RuleHead},
};

use crate::policy::{
    builtins,
    engine::{MAX_COLUMNS, compile::MAX_LINES},
};

/// Arguments of a function: beyond it the compiled call is wrong.
const MAX_ARGUMENTS: usize = 8;

/// One module, parsed.
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    text: &'a str,
    tree: Module,
}

impl<'a> Part<'a> {
    pub(super) fn parse(name: &'a str, text: &'a str) -> Option<Self> {
        let bytes = NonZeroUsize::new(text.len())?;
        let source = Source::from_contents_with_limits(name.to_owned(), text.to_owned(), bytes, MAX_LINES).ok()?;
        let mut parser = Parser::new(&source).ok()?;
        parser.set_max_col(MAX_COLUMNS);
        parser.enable_rego_v1().ok()?;
        Some(Self { name, text, tree: parser.parse().ok()? })
    }
}

/// Names that other rules go by, as `data` paths.
type Path = Vec<String>;

/// `None` unless everything that the decision needs is within the subset.
pub(super) fn check(modules: &[Part<'_>], decision: &[String]) -> Option<()> {
    let rules = rules(modules)?;
    let mut todo = vec![decision.to_vec()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let below = rules.range(path.clone()..).nth(1).is_some_and(|(next, _)| next.starts_with(&path));
        let definitions = rules.get(&path).filter(|_| !below)?;
        let mut shape = Shape::default();
        for (module, rule) in definitions {
            let mut scope = Scope { module, rules: &rules, needs: &mut todo, locals: BTreeSet::new() };
            scope.rule(rule, &mut shape)?;
        }
        (shape.kinds.len() <= 1 && shape.values.len() <= 1).then_some(())?;
    }
    Some(())
}

type Rules<'a> = BTreeMap<Path, Vec<(&'a Module, &'a Rule)>>;

fn rules<'a>(modules: &'a [Part<'_>]) -> Option<Rules<'a>> {
    let mut rules = Rules::new();
    for part in modules {
        let package = package(&part.tree)?;
        for rule in &part.tree.policy {
            let mut path = package.clone();
            path.extend(named(head(rule)).0);
            rules.entry(path).or_default().push((&part.tree, rule));
        }
    }
    Some(rules)
}

fn package(module: &Module) -> Option<Path> {
    let (mut path, whole) = named(&module.package.refr);
    if path.first().is_some_and(|root| root == "data") {
        path.remove(0);
    }
    whole.then_some(path)
}

fn head(rule: &Rule) -> &Expr {
    match rule {
        Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }, .. }
        | Rule::Default { refr, .. } => refr,
    }
}

/// What all definitions of one rule come to.
#[derive(Default)]
struct Shape {
    values: BTreeSet<String>,
    kinds: BTreeSet<u8>,
}

/// One definition of a rule, being checked.
struct Scope<'r, 'a> {
    module: &'a Module,
    rules: &'r Rules<'a>,
    /// Takes the rules that this one refers to.
    needs: &'r mut Vec<Path>,
    locals: BTreeSet<&'a str>,
}

impl<'a> Scope<'_, 'a> {
    fn rule(&mut self, rule: &'a Rule, shape: &mut Shape) -> Option<()> {
        let (head, bodies) = match rule {
            Rule::Spec { head, bodies, .. } => (head, bodies),
            Rule::Default { refr, args, value, .. } => {
                let plain = is_variable(refr) && args.is_empty() && constant(value).is_some();
                return plain.then_some(());
            }
        };
        let (name, assign, kind) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref(), 0),
            RuleHead::Set { refr, .. } => (refr, None, 1),
            RuleHead::Func { refr, args, assign, .. } => {
                (args.len() <= MAX_ARGUMENTS).then_some(())?;
                for arg in args {
                    let Expr::Var { span, .. } = arg.as_ref() else { return None };
                    self.locals.insert(span.text());
                }
                (refr, assign.as_ref(), 2)
            }
        };
        is_variable(name).then_some(())?;
        shape.kinds.insert(kind);
        for body in bodies {
            for statement in &body.query.stmts {
                self.declare(statement);
            }
        }
        if kind != 1 {
            let given = assign.is_some();
            for value in assign.into_iter().chain(bodies.iter().filter_map(|body| body.assign.as_ref())) {
                shape.values.insert(constant(&value.value)?);
            }
            if !given || bodies.iter().any(|body| body.is_else && body.assign.is_none()) {
                shape.values.insert("true".to_owned());
            }
        }
        if let RuleHead::Set { key, .. } = head {
            self.term(key.as_ref()?)?;
        }
        bodies.iter().flat_map(|body| &body.query.stmts).try_for_each(|statement| self.statement(statement))
    }

    fn declare(&mut self, statement: &'a LiteralStmt) {
        let names = match &statement.literal {
            Literal::SomeIn { key, value, .. } => key.iter().chain([value]).collect(),
            Literal::Expr { expr, .. } => match expr.as_ref() {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } => vec![lhs],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        for name in names {
            if let Expr::Var { span, .. } = name.as_ref() {
                self.locals.insert(span.text());
            }
        }
    }

    fn statement(&mut self, statement: &'a LiteralStmt) -> Option<()> {
        statement.with_mods.is_empty().then_some(())?;
        match &statement.literal {
            Literal::SomeVars { .. } | Literal::Every { .. } => None,
            Literal::SomeIn { key, value, collection, .. } => {
                let plain = is_variable(value) && key.as_ref().is_none_or(|key| is_variable(key));
                plain.then(|| self.term(collection)).flatten()
            }
            Literal::NotExpr { expr, .. } => self.negated(expr),
            Literal::Expr { expr, .. } => match expr.as_ref() {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } if is_variable(lhs) => self.term(rhs),
                Expr::AssignExpr { .. } => None,
                condition => self.condition(condition),
            },
        }
    }

    /// Only forms whose operands cannot be undefined, or where OPA keeps the reference under the negation.
    fn negated(&mut self, expr: &'a Expr) -> Option<()> {
        let defined = |expr: &Expr| self.is_defined(expr);
        let safe = match expr {
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } => is_simple(lhs) && is_simple(rhs),
            Expr::BoolExpr { lhs, rhs, .. } => defined(lhs) && defined(rhs),
            Expr::Membership { key: None, value, collection, .. } => defined(value) && defined(collection),
            Expr::Call { params, .. } => params.iter().all(|param| defined(param)),
            other => is_simple(other),
        };
        safe.then(|| self.condition(expr)).flatten()
    }

    fn condition(&mut self, expr: &'a Expr) -> Option<()> {
        match expr {
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                let ordered = !matches!(op, BoolOp::Eq | BoolOp::Ne);
                // Composites are ordered otherwise than in OPA.
                (!ordered || constant(lhs).is_some() || constant(rhs).is_some()).then_some(())?;
                self.term(lhs)?;
                self.term(rhs)
            }
            Expr::Membership { key: None, value, collection, .. } => {
                self.term(value)?;
                self.term(collection)
            }
            other => self.term(other),
        }
    }

    fn term(&mut self, expr: &'a Expr) -> Option<()> {
        match expr {
            _ if constant(expr).is_some() => Some(()),
            // Only of what is always defined: an undefined element does not fail the bytecode's literal.
            Expr::Array { .. } | Expr::Set { .. } => self.is_defined(expr).then_some(()),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Call { fcn, params, .. } => {
                self.function(fcn)?;
                params.iter().try_for_each(|param| self.term(param))
            }
            _ => None,
        }
    }

    /// A reference to the input, to data where no rules are, to a local name or to another rule.
    fn reference(&mut self, expr: &'a Expr) -> Option<()> {
        let mut rest = expr;
        while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = rest {
            if let Expr::RefBrack { index, .. } = rest {
                match index.as_ref() {
                    index if constant(index).is_some() => {}
                    index => {
                        matches!(index, Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. }).then_some(())?;
                        self.reference(index)?;
                    }
                }
            }
            rest = refr;
        }
        let Expr::Var { span, .. } = rest else { return None };
        let name = span.text();
        if name == "input" || name == "_" || self.locals.contains(name) {
            return Some(());
        }
        let path = self.path(expr)?;
        // A rule on the way is needed; rules further below would be reached by a computed name.
        match (1..=path.len()).find_map(|length| path.get(..length).filter(|rule| self.rules.contains_key(*rule))) {
            Some(rule) => self.needs.push(rule.to_vec()),
            None => {
                let next = self.rules.range(path.clone()..).next();
                (!next.is_some_and(|(rule, _)| rule.starts_with(&path))).then_some(())?;
            }
        }
        Some(())
    }

    fn function(&mut self, function: &'a Expr) -> Option<()> {
        let (name, whole) = named(function);
        whole.then_some(())?;
        let name = name.join(".");
        let path = self.path(function)?;
        if self.rules.contains_key(&path) {
            self.needs.push(path);
            return Some(());
        }
        (BUILTINS.contains_key(name.as_str()) && !builtins::overrides(&name)).then_some(())
    }

    /// The path below `data` that an expression begins with where its name is no local one.
    fn path(&self, expr: &Expr) -> Option<Path> {
        let (mut path, _) = constants(expr);
        let Expr::Var { span, .. } = base(expr) else { return None };
        let name = span.text();
        if name == "data" {
            return Some(path);
        }
        // What the engine makes of imported names is not believed.
        let imported = |import: &Import| {
            let (target, _) = constants(&import.refr);
            import.r#as.as_ref().map_or(target.last().map(String::as_str), |alias| Some(alias.text())) == Some(name)
        };
        if self.module.imports.iter().any(imported) {
            return None;
        }
        let mut own = package(self.module)?;
        own.push(name.to_owned());
        own.append(&mut path);
        Some(own)
    }

    fn is_defined(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Var { span, .. } => self.locals.contains(span.text()),
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().all(|item| self.is_defined(item)),
            other => constant(other).is_some(),
        }
    }
}

fn is_variable(expr: &Expr) -> bool {
    matches!(expr, Expr::Var { .. })
}

/// A constant, a variable, or a reference with constant indices.
fn is_simple(expr: &Expr) -> bool {
    match expr {
        Expr::RefDot { refr, .. } => is_simple(refr),
        Expr::RefBrack { refr, index, .. } => is_simple(refr) && constant(index).is_some(),
        Expr::Var { .. } => true,
        other => constant(other).is_some(),
    }
}

/// A scalar literal as JSON.
fn constant(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. }
        | Expr::Null { value, .. } => value.to_json_str().ok(),
        _ => None,
    }
}

fn base(expr: &Expr) -> &Expr {
    match expr {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => base(refr),
        other => other,
    }
}

/// A reference's constant beginning, its base included; whether that is all of it.
fn named(expr: &Expr) -> (Path, bool) {
    let (steps, whole) = constants(expr);
    match base(expr) {
        Expr::Var { span, .. } => (std::iter::once(span.text().to_owned()).chain(steps).collect(), whole),
        _ => (steps, false),
    }
}

/// The constant steps of a reference behind its base; whether those are all.
fn constants(expr: &Expr) -> (Path, bool) {
    let (mut path, whole) = match expr {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => constants(refr),
        Expr::Var { .. } => return (Path::new(), true),
        _ => return (Path::new(), false),
    };
    if !whole {
        return (path, false);
    }
    match expr {
        Expr::RefDot { field, .. } => path.push(field.0.text().to_owned()),
        Expr::RefBrack { index, .. } => match index.as_ref() {
            Expr::String { value: Value::String(name), .. } | Expr::RawString { value: Value::String(name), .. } => {
                path.push(name.to_string());
            }
            _ => return (path, false),
        },
        _ => {}
    }
    (path, true)
}

/// The module's text with `x == x` behind each `x := …`: the bytecode goes on with an undefined `x`, the comparison
/// does not. Nothing else is changed, which is made sure by parsing it again.
pub(super) fn guard_bindings(part: &Part<'_>) -> Option<String> {
    let mut inserts = Vec::new();
    for query in queries(&part.tree) {
        let mut bound = false;
        for statement in &query.stmts {
            if let Some(name) = binding(statement) {
                bound = true;
                inserts.push((end_of(part.text, statement)?, format!("; {name} == {name}")));
            }
        }
        // A body of one statement may stand without braces.
        if bound
            && let [only] = query.stmts.as_slice()
            && query.span.start == only.span.start
        {
            inserts.insert(inserts.len() - 1, (only.span.start as usize, "{ ".to_owned()));
            inserts.last_mut()?.1.push_str(" }");
        }
    }
    let mut text = String::with_capacity(part.text.len() + inserts.len() * 16);
    let mut from = 0;
    inserts.sort_by_key(|(at, _)| *at);
    for (at, insert) in &inserts {
        text.push_str(part.text.get(from..*at)?);
        text.push_str(insert);
        from = *at;
    }
    text.push_str(part.text.get(from..)?);
    (inserts.is_empty() || is_guarded(part, &text)?).then_some(text)
}

fn queries(module: &Module) -> impl Iterator<Item = &Query> {
    let bodies = module.policy.iter().filter_map(|rule| match rule.as_ref() {
        Rule::Spec { bodies, .. } => Some(bodies),
        Rule::Default { .. } => None,
    });
    bodies.flatten().map(|body| body.query.as_ref())
}

/// The name that a statement binds.
fn binding(statement: &LiteralStmt) -> Option<&str> {
    match &statement.literal {
        Literal::Expr { expr, .. } => match expr.as_ref() {
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } => match lhs.as_ref() {
                Expr::Var { span, .. } => Some(span.text()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Where a statement ends in the text: its span leaves out a closing quote and closing parentheses.
fn end_of(text: &str, statement: &LiteralStmt) -> Option<usize> {
    let mut end = statement.span.end as usize;
    if text.get(end..)?.starts_with(['"', '`']) {
        end += 1;
    }
    loop {
        let rest = text.get(end..)?;
        let inner = rest.trim_start();
        if !inner.starts_with(')') {
            return Some(end);
        }
        end += rest.len() - inner.len() + 1;
    }
}

/// Whether `text` is the module with exactly the guards added.
fn is_guarded(part: &Part<'_>, text: &str) -> Option<bool> {
    let tree = Part::parse(part.name, text)?.tree;
    let (before, after): (Vec<_>, Vec<_>) = (queries(&part.tree).collect(), queries(&tree).collect());
    let same = before.len() == after.len()
        && before.iter().zip(after).all(|(before, after)| {
            let mut rest = after.stmts.iter();
            let each = before.stmts.iter().all(|statement| {
                let kept = rest.next().is_some_and(|next| binding(next) == binding(statement));
                kept && binding(statement).is_none_or(|name| rest.next().is_some_and(|guard| is_guard(guard, name)))
            });
            each && rest.next().is_none()
        });
    Some(same)
}

fn is_guard(statement: &LiteralStmt, name: &str) -> bool {
    let is_name = |expr: &Expr| matches!(expr, Expr::Var { span, .. } if span.text() == name);
    matches!(&statement.literal, Literal::Expr { expr, .. }
        if matches!(expr.as_ref(), Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } if is_name(lhs) && is_name(rhs)))
}

#[cfg(test)]
mod tests;
