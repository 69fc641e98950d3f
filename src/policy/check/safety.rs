//! Variables that nothing binds, as OPA's compiler finds them: it orders the statements of a body so that each finds its
//! variables bound by those before, and refuses what cannot be ordered. The engine takes a variable that only a negation
//! has for a loop inside of it, and is true as soon as one element is not what is denied.

use std::collections::HashSet;

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Query, Ref, Rule, RuleHead, Span};

use crate::policy::{
    builtins,
    names::{Names, declared},
    problem::{Code, Problem, problem_at},
    rewrite::lexical::TEMPLATE_VARIABLE,
    tree::{Step, children, comprehension, constant_path, pattern_names, steps},
};

type Set<'a> = HashSet<&'a str>;

/// The unbound variables of a rule, one problem for each body that has some.
pub(super) fn problems(rule: &Rule, names: &Names<'_>) -> Vec<Problem> {
    let mut safety = Safety { names, locals: Vec::new(), problems: Vec::new() };
    match rule {
        Rule::Default { .. } => {}
        Rule::Spec { head, bodies, .. } => {
            let mut bound = Set::new();
            if let RuleHead::Func { args, .. } = head {
                args.iter().for_each(|arg| pattern_names(arg, &mut bound));
            }
            safety.locals.push(bound.clone());
            let (keys, value) = head_terms(head);
            if bodies.is_empty() {
                let terms: Vec<_> = keys.iter().copied().chain(value).collect();
                safety.terms(&terms, &bound, &mut bound.clone());
            }
            for (index, body) in bodies.iter().enumerate() {
                let value =
                    body.assign.as_ref().map(|assign| assign.value.as_ref()).or(value.filter(|_| index == 0 || !body.is_else));
                let terms: Vec<_> = keys.iter().copied().filter(|_| !body.is_else).chain(value).collect();
                safety.body(&body.query, &terms, &bound);
            }
        }
    }
    safety.problems
}

/// The computed keys and the value of a head.
fn head_terms(head: &RuleHead) -> (Vec<&Expr>, Option<&Expr>) {
    let (refr, value) = match head {
        RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => {
            (refr, assign.as_ref().map(|assign| assign.value.as_ref()))
        }
        RuleHead::Set { refr, key, .. } => (refr, key.as_ref().map(Ref::as_ref)),
    };
    let keys = steps(refr).1.into_iter().filter_map(|step| match step {
        Step::Index(index) => Some(index),
        Step::Name(_) => None,
    });
    (keys.collect(), value)
}

struct Safety<'a, 'n> {
    names: &'n Names<'n>,
    /// Names that the queries around declare, and the arguments.
    locals: Vec<Set<'a>>,
    problems: Vec<Problem>,
}

/// Whether brackets may bind the variable in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    Bind,
    /// Under `not`, and in template strings.
    Read,
}

impl<'a> Safety<'a, '_> {
    /// Checks a query and the terms that are computed from it; `outer` is bound around it.
    fn body(&mut self, query: &'a Query, terms: &[&'a Expr], outer: &Set<'a>) {
        let declared = declared(query);
        let mut safe: Set<'a> = outer.difference(&declared).copied().collect();
        self.locals.push(declared);
        let known = self.known(query, terms, &safe);
        let mut waiting: Vec<&'a LiteralStmt> = query.stmts.iter().collect();
        loop {
            let before = waiting.len();
            waiting.retain(|statement| {
                let mut grown = safe.clone();
                let ready = self.statement(statement, &known, &mut grown).is_ok();
                if ready {
                    safe = grown;
                }
                !ready
            });
            let bound = safe.len();
            for term in terms {
                // OPA moves what a head or term iterates over into the body.
                let _ = self.value(term, &known, Brackets::Bind, &mut safe);
            }
            if waiting.len() == before && safe.len() == bound {
                break;
            }
        }
        if let Some((statement, missing)) = waiting
            .iter()
            .find_map(|statement| self.statement(statement, &known, &mut safe.clone()).err().map(|missing| (*statement, missing)))
        {
            self.problems.push(unbound(statement, missing));
        } else {
            self.terms(terms, &known, &mut safe);
            for statement in &query.stmts {
                self.nested(statement, &safe);
            }
        }
        self.locals.pop();
    }

    /// The terms of a head or comprehension, whose brackets bind like those of a statement.
    fn terms(&mut self, terms: &[&'a Expr], known: &Set<'a>, safe: &mut Set<'a>) {
        loop {
            let bound = safe.len();
            for term in terms {
                // One term may bind what another reads.
                let _ = self.value(term, known, Brackets::Bind, safe);
            }
            if safe.len() == bound {
                break;
            }
        }
        if let Err(missing) = terms.iter().try_for_each(|term| self.value(term, known, Brackets::Bind, safe)) {
            let text = format!("`{}` is bound nowhere; bind it in the body: OPA refuses it as unsafe", missing.text());
            self.problems.push(problem_at(Code::UnsafeVariable, missing, text));
        } else {
            for term in terms {
                self.nested_in(term, safe);
            }
        }
    }

    /// The names that mean the same inside the comprehensions of a query as around them.
    fn known(&self, query: &'a Query, terms: &[&'a Expr], safe: &Set<'a>) -> Set<'a> {
        let mut known = safe.clone();
        for statement in &query.stmts {
            for expr in expressions(statement) {
                self.variables(expr, &mut known);
            }
            if let Literal::SomeVars { vars, .. } = &statement.literal {
                known.extend(vars.iter().map(Span::text));
            }
        }
        terms.iter().for_each(|term| self.variables(term, &mut known));
        known.remove("_");
        known
    }

    /// The variables of an expression outside of its comprehensions.
    fn variables(&self, expr: &'a Expr, found: &mut Set<'a>) {
        match expr {
            Expr::Var { span, .. } if self.is_variable(span.text()) => drop(found.insert(span.text())),
            _ if comprehension(expr).is_some() => {}
            _ => children(expr).into_iter().for_each(|child| self.variables(child, found)),
        }
    }

    fn is_variable(&self, name: &str) -> bool {
        self.locals.iter().any(|scope| scope.contains(name)) || !self.names.leads_to_document(name)
    }

    /// Whether a statement finds its variables in `safe`, which takes those that it binds; else the first it misses.
    fn statement(&self, statement: &'a LiteralStmt, known: &Set<'a>, safe: &mut Set<'a>) -> Result<(), &'a Span> {
        for value in with_values(statement) {
            self.value(value, known, Brackets::Bind, safe)?;
        }
        match &statement.literal {
            Literal::SomeVars { .. } => Ok(()),
            Literal::SomeIn { key, value, collection, .. } => {
                self.value(collection, known, Brackets::Bind, safe)?;
                for pattern in key.iter().chain([value]) {
                    self.bind(pattern, safe);
                    self.value(pattern, known, Brackets::Bind, safe)?;
                }
                Ok(())
            }
            Literal::NotExpr { expr, .. } => self.value(expr, known, Brackets::Read, safe),
            Literal::Every { key, value, domain, query, .. } => {
                self.value(domain, known, Brackets::Bind, safe)?;
                let own: Set<'a> = key.iter().chain([value]).map(Span::text).collect();
                self.closure(query, &[], &own, known, safe)
            }
            Literal::Expr { expr, .. } => self.condition(expr, known, safe),
        }
    }

    fn condition(&self, expr: &'a Expr, known: &Set<'a>, safe: &mut Set<'a>) -> Result<(), &'a Span> {
        match expr {
            Expr::AssignExpr { lhs, rhs, op, .. } => {
                for _ in 0..2 {
                    // What a side misses now the other may bind.
                    let _ = self.value(rhs, known, Brackets::Bind, safe);
                    if matches!(op, AssignOp::Eq) {
                        let _ = self.value(lhs, known, Brackets::Bind, safe);
                    }
                    self.unify(lhs, rhs, known, safe);
                }
                self.value(lhs, known, Brackets::Bind, safe)?;
                self.value(rhs, known, Brackets::Bind, safe)
            }
            // One argument more than the function takes is what its answer is bound to.
            Expr::Call { fcn, params, .. } if self.arity(fcn).is_some_and(|arity| params.len() == arity + 1) => {
                let (answer, arguments) = params.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
                for argument in arguments {
                    let _ = self.value(argument, known, Brackets::Bind, safe);
                }
                arguments.iter().try_for_each(|argument| self.value(argument, known, Brackets::Bind, safe))?;
                answer.map_or(Ok(()), |answer| {
                    self.bind(answer, safe);
                    self.value(answer, known, Brackets::Bind, safe)
                })
            }
            _ => {
                let _ = self.value(expr, known, Brackets::Bind, safe);
                self.value(expr, known, Brackets::Bind, safe)
            }
        }
    }

    fn arity(&self, function: &Expr) -> Option<usize> {
        self.names.function(function).or_else(|| builtins::arity(&constant_path(function).join(".")).map(usize::from))
    }

    fn unify(&self, lhs: &'a Expr, rhs: &'a Expr, known: &Set<'a>, safe: &mut Set<'a>) {
        match (lhs, rhs) {
            (Expr::Array { items: lhs, .. }, Expr::Array { items: rhs, .. }) => {
                lhs.iter().zip(rhs).for_each(|(lhs, rhs)| self.unify(lhs, rhs, known, safe));
            }
            (Expr::Object { fields: lhs, .. }, Expr::Object { fields: rhs, .. }) => {
                for (_, key, value) in lhs {
                    let same = |other: &&(Span, Ref<Expr>, Ref<Expr>)| other.1.span().text() == key.span().text();
                    if let Some((_, _, other)) = rhs.iter().find(same) {
                        self.unify(value, other, known, safe);
                    }
                }
            }
            _ => {
                if self.value(rhs, known, Brackets::Read, &mut safe.clone()).is_ok()
                    || self.value(rhs, known, Brackets::Bind, &mut safe.clone()).is_ok()
                {
                    self.bind(lhs, safe);
                }
                if self.value(lhs, known, Brackets::Bind, &mut safe.clone()).is_ok() {
                    self.bind(rhs, safe);
                }
            }
        }
    }

    /// Binds the variables of a pattern.
    fn bind(&self, pattern: &'a Expr, safe: &mut Set<'a>) {
        match pattern {
            Expr::Var { span, .. } if self.is_variable(span.text()) => drop(safe.insert(span.text())),
            Expr::Array { items, .. } => items.iter().for_each(|item| self.bind(item, safe)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| self.bind(value, safe)),
            _ => {}
        }
    }

    /// Whether the variables of a value are bound; brackets bind those that stand in them.
    fn value(&self, expr: &'a Expr, known: &Set<'a>, brackets: Brackets, safe: &mut Set<'a>) -> Result<(), &'a Span> {
        match expr {
            Expr::Var { span, .. } => {
                let name = span.text();
                if !self.is_variable(name) || safe.contains(name) { Ok(()) } else { Err(span) }
            }
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let (base, steps) = steps(expr);
                let mut result = self.value(base, known, brackets, safe);
                for step in steps {
                    let Step::Index(index) = step else { continue };
                    if brackets == Brackets::Bind && result.is_ok() {
                        self.bind(index, safe);
                    }
                    let index = match index {
                        Expr::Var { span, .. } if span.text() == "_" && brackets == Brackets::Bind => Ok(()),
                        _ => self.value(index, known, brackets, safe),
                    };
                    result = result.and(index);
                }
                result
            }
            Expr::ArrayCompr { term, query, .. } => self.closure(query, &[term], &Set::new(), known, safe),
            Expr::SetCompr { term, query, .. } => match template(term, query) {
                Some(statement) => {
                    expressions(statement).into_iter().skip(1).try_for_each(|expr| self.value(expr, known, Brackets::Read, safe))
                }
                None => self.closure(query, &[term], &Set::new(), known, safe),
            },
            Expr::ObjectCompr { key, value, query, .. } => self.closure(query, &[key, value], &Set::new(), known, safe),
            Expr::Call { params, .. } => all(params.iter().map(|param| self.value(param, known, brackets, safe))),
            _ => all(children(expr).into_iter().map(|child| self.value(child, known, brackets, safe))),
        }
    }

    /// What a query inside of a statement shares with the outside must be bound before; the rest is its own.
    fn closure(
        &self,
        query: &'a Query,
        terms: &[&'a Ref<Expr>],
        own: &Set<'a>,
        known: &Set<'a>,
        safe: &Set<'a>,
    ) -> Result<(), &'a Span> {
        let mut hidden = declared(query);
        hidden.extend(own);
        let shared = |span: &'a Span| {
            let name = span.text();
            known.contains(name) && !hidden.contains(name) && self.is_variable(name) && !safe.contains(name)
        };
        let mut missing = None;
        let mut look = |expr: &'a Expr| {
            if missing.is_none() {
                missing = first_variable(expr, &hidden, &shared);
            }
        };
        terms.iter().for_each(|term| look(term));
        for statement in &query.stmts {
            expressions(statement).into_iter().for_each(&mut look);
            if let Literal::Every { query, key, value, .. } = &statement.literal {
                let own = hidden.iter().copied().chain(key.iter().chain([value]).map(Span::text)).collect();
                self.closure(query, &[], &own, known, safe)?;
            }
        }
        missing.map_or(Ok(()), Err)
    }

    /// Checks the queries inside of a statement.
    fn nested(&mut self, statement: &'a LiteralStmt, safe: &Set<'a>) {
        expressions(statement).into_iter().for_each(|expr| self.nested_in(expr, safe));
        if let Literal::Every { key, value, query, .. } = &statement.literal {
            let own: Set<'a> = key.iter().chain([value]).map(Span::text).filter(|name| *name != "_").collect();
            let safe = safe.union(&own).copied().collect();
            self.locals.push(own);
            self.body(query, &[], &safe);
            self.locals.pop();
        }
    }

    fn nested_in(&mut self, expr: &'a Expr, safe: &Set<'a>) {
        match expr {
            Expr::SetCompr { term, query, .. } if template(term, query).is_some() => {
                for statement in &query.stmts {
                    expressions(statement).into_iter().for_each(|expr| self.nested_in(expr, safe));
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => self.body(query, &[term], safe),
            Expr::ObjectCompr { key, value, query, .. } => self.body(query, &[key, value], safe),
            _ => children(expr).into_iter().for_each(|child| self.nested_in(child, safe)),
        }
    }
}

/// Looks at all, so that each may bind, and answers with the first failure.
fn all<'a>(results: impl Iterator<Item = Result<(), &'a Span>>) -> Result<(), &'a Span> {
    results.fold(Ok(()), Result::and)
}

/// The statement of a comprehension that stands for an expression of a template string.
fn template<'a>(term: &Expr, query: &'a Query) -> Option<&'a LiteralStmt> {
    match term {
        Expr::Var { span, .. } if span.text().starts_with(TEMPLATE_VARIABLE) => query.stmts.first(),
        _ => None,
    }
}

/// The expressions of a statement, without the body of an `every`; of an assignment its two sides.
fn expressions(statement: &LiteralStmt) -> Vec<&Expr> {
    let mut found: Vec<&Expr> = match &statement.literal {
        Literal::SomeVars { .. } => Vec::new(),
        Literal::SomeIn { key, value, collection, .. } => key.iter().chain([value, collection]).map(Ref::as_ref).collect(),
        Literal::NotExpr { expr, .. } | Literal::Expr { expr, .. } => match expr.as_ref() {
            Expr::AssignExpr { lhs, rhs, .. } => vec![lhs, rhs],
            expr => vec![expr],
        },
        Literal::Every { domain, .. } => vec![domain],
    };
    found.extend(with_values(statement));
    found
}

/// What a statement's `with` put in place, without the built-in functions that replace others.
fn with_values(statement: &LiteralStmt) -> impl Iterator<Item = &Expr> {
    statement.with_mods.iter().map(|with| with.r#as.as_ref()).filter(|value| {
        let is_name = matches!(value, Expr::Var { .. } | Expr::RefDot { .. });
        !is_name || builtins::arity(&constant_path(value).join(".")).is_none()
    })
}

/// The first variable that `wanted` finds, comprehensions included.
fn first_variable<'a>(expr: &'a Expr, hidden: &Set<'a>, wanted: &impl Fn(&'a Span) -> bool) -> Option<&'a Span> {
    if let Expr::Var { span, .. } = expr {
        return (!hidden.contains(span.text()) && wanted(span)).then_some(span);
    }
    if let Some(query) = comprehension(expr) {
        let mut hidden = hidden.clone();
        hidden.extend(declared(query));
        let in_query = query.stmts.iter().flat_map(expressions).find_map(|expr| first_variable(expr, &hidden, wanted));
        return in_query.or_else(|| children(expr).into_iter().find_map(|child| first_variable(child, &hidden, wanted)));
    }
    children(expr).into_iter().find_map(|child| first_variable(child, hidden, wanted))
}

fn unbound(statement: &LiteralStmt, missing: &Span) -> Problem {
    let name = missing.text();
    if matches!(statement.literal, Literal::NotExpr { .. }) {
        let text = format!("`{name}` is unbound under `not`; bind it before, or negate a rule that has the loop in it");
        return problem_at(Code::UnsafeNegation, missing, text);
    }
    let text = format!("`{name}` is bound nowhere, which OPA refuses as unsafe; bind it before it is read: `{name} := …`");
    problem_at(Code::UnsafeVariable, missing, text)
}
