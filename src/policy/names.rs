//! What a name in a module means: the input, a path below `data`, or something local; and a walk over a module's
//! expressions that knows the local names of each place.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleHead, Span};

use super::tree::{Step, children, constant_path, head, pattern_names, steps};

/// A path below `data`, its parts unquoted.
pub(super) type Path = Vec<String>;

/// The rules of the whole set: `data` path to whether it is a function.
pub(super) type Rules = BTreeMap<Path, RuleKind>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleKind {
    Value,
    /// With so many arguments.
    Function(usize),
}

/// The path of a module's package.
pub(super) fn package(module: &Module) -> Path {
    let mut path = constant_path(&module.package.refr);
    if path.first().is_some_and(|root| root == "data") {
        path.remove(0);
    }
    path
}

/// Path of a rule: its package and the constant beginning of its head.
pub(super) fn rule_path(package: &[String], rule: &Rule) -> Path {
    let mut path = package.to_vec();
    path.extend(constant_path(head(rule)));
    path
}

pub(super) fn rule_kind(rule: &Rule) -> RuleKind {
    match rule {
        Rule::Spec { head: RuleHead::Func { args, .. }, .. } => RuleKind::Function(args.len()),
        Rule::Default { args, .. } if !args.is_empty() => RuleKind::Function(args.len()),
        _ => RuleKind::Value,
    }
}

/// What the names of one module lead to.
pub(super) struct Names<'r> {
    rules: &'r Rules,
    package: Path,
    imports: BTreeMap<String, Root>,
    /// First parts of the rule heads of the whole package, of all its modules.
    own: BTreeSet<String>,
}

/// What the beginning of a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    Input,
    Data(Path),
    Local,
}

/// What a call calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Callee {
    /// A function of the set, by its path below `data`.
    Rule(Path),
    Builtin(String),
}

impl<'r> Names<'r> {
    pub(super) fn of(module: &Module, rules: &'r Rules) -> Self {
        let package = package(module);
        let mut imports = BTreeMap::new();
        for import in &module.imports {
            let mut path = constant_path(&import.refr);
            let Some(last) = path.last().cloned() else { continue };
            let name = import.r#as.as_ref().map_or(last, |alias| alias.text().to_owned());
            match path.first().map(String::as_str) {
                Some("input") => drop(imports.insert(name, Root::Input)),
                Some("data") => {
                    path.remove(0);
                    imports.insert(name, Root::Data(path));
                }
                _ => {}
            }
        }
        let own = rules
            .range(package.clone()..)
            .take_while(|(path, _)| path.starts_with(&package))
            .filter_map(|(path, _)| path.get(package.len()).cloned())
            .collect();
        Self { rules, package, imports, own }
    }

    /// The path of the module's package.
    pub(super) fn package(&self) -> &[String] {
        &self.package
    }

    /// Whether the package has a rule of this name, or the module an import.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.imports.contains_key(name) || self.own.contains(name)
    }

    /// The path below `data` that an import of this name stands for.
    pub(super) fn imported(&self, name: &str) -> Option<&[String]> {
        match self.imports.get(name)? {
            Root::Data(path) if !path.is_empty() => Some(path),
            _ => None,
        }
    }

    /// Whether `name`, where it is not local, is the input, a document, a rule or an import.
    pub(super) fn leads_to_document(&self, name: &str) -> bool {
        matches!(name, "input" | "data") || self.imports.contains_key(name) || self.own.contains(name)
    }

    /// Whether what `with` may replace here is the input or a document, and not a function.
    pub(super) fn is_document(&self, target: &Expr) -> bool {
        let path = constant_path(target);
        let Some((first, rest)) = path.split_first() else { return false };
        match self.root(first, &Scopes::default()) {
            Root::Input => true,
            Root::Local => false,
            Root::Data(mut to) => {
                to.extend_from_slice(rest);
                !matches!(self.rules.get(&to), Some(RuleKind::Function(_)))
            }
        }
    }

    /// How many arguments the function of the set takes that is called so.
    pub(super) fn function(&self, function: &Expr) -> Option<usize> {
        match self.callee(function, &Scopes::default()) {
            Callee::Rule(path) => self.arity(&path),
            Callee::Builtin(_) => None,
        }
    }

    /// What is called by this name where `scopes` are the local names.
    pub(super) fn callee(&self, function: &Expr, scopes: &Scopes<'_>) -> Callee {
        let path = constant_path(function);
        let (first, rest) = path.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        match self.root(first, scopes) {
            Root::Data(mut to) => {
                to.extend_from_slice(rest);
                Callee::Rule(to)
            }
            Root::Input | Root::Local => Callee::Builtin(path.join(".")),
        }
    }

    /// The function or rule that an expression names, if it is not computed, local, or part of the input.
    pub(super) fn named(&self, expr: &Expr, scopes: &Scopes<'_>) -> Option<Callee> {
        let (base, steps) = steps(expr);
        let Expr::Var { span, .. } = base else { return None };
        let is_document = !scopes.declares(span.text()) && self.root(span.text(), scopes) != Root::Input;
        (is_document && steps.iter().all(|step| step.name().is_some())).then(|| self.callee(expr, scopes))
    }

    /// Whether there is a rule at the path below `data`, and which.
    pub(super) fn kind(&self, path: &[String]) -> Option<RuleKind> {
        self.rules.get(path).copied()
    }

    /// How many arguments the function at the path below `data` takes.
    pub(super) fn arity(&self, path: &[String]) -> Option<usize> {
        match self.kind(path) {
            Some(RuleKind::Function(arity)) => Some(arity),
            Some(RuleKind::Value) | None => None,
        }
    }

    /// What `name` means where `scopes` are the local names.
    pub(super) fn root(&self, name: &str, scopes: &Scopes<'_>) -> Root {
        match name {
            _ if scopes.declares(name) => Root::Local,
            "input" => Root::Input,
            "data" => Root::Data(Path::new()),
            _ => match self.imports.get(name) {
                Some(root) => root.clone(),
                None if self.own.contains(name) => {
                    let mut path = self.package.clone();
                    path.push(name.to_owned());
                    Root::Data(path)
                }
                None => Root::Local,
            },
        }
    }
}

/// The local names around a place, innermost last.
#[derive(Default)]
pub(super) struct Scopes<'a> {
    names: Vec<HashSet<&'a str>>,
}

impl Scopes<'_> {
    pub(super) fn declares(&self, name: &str) -> bool {
        self.names.iter().any(|scope| scope.contains(name))
    }
}

/// What a walk comes across. A reference or call is told before what it contains.
pub(super) enum Seen<'a> {
    /// A variable or reference; `tail` holds its constant parts up to the first computed one.
    Reference {
        root: &'a Span,
        tail: Vec<&'a str>,
    },
    Call {
        function: &'a Expr,
        arguments: usize,
        /// The call is a statement, where one argument more takes the answer.
        takes_answer: bool,
    },
    Statement(&'a LiteralStmt),
}

/// Tells `see` everything in the rule, in order, with the local names of the place.
pub(super) fn walk_rule<'a>(rule: &'a Rule, see: &mut dyn FnMut(Seen<'a>, &Scopes<'a>)) {
    let mut walk = Walk { scopes: Scopes::default(), see };
    match rule {
        Rule::Spec { head, bodies, .. } => {
            let (parts, args) = head_parts(head);
            let mut names = HashSet::new();
            args.iter().for_each(|arg| pattern_names(arg, &mut names));
            walk.scopes.names.push(names);
            if bodies.is_empty() {
                parts.iter().for_each(|part| walk.expr(part));
            }
            for body in bodies {
                walk.within(&body.query, |walk| {
                    parts
                        .iter()
                        .copied()
                        .chain(body.assign.as_ref().map(|assign| &assign.value))
                        .for_each(|part| walk.expr(part));
                });
            }
        }
        Rule::Default { value, .. } => walk.expr(value),
    }
}

/// The computed parts of a head (keys, value), and the arguments of a function.
fn head_parts(head: &RuleHead) -> (Vec<&Ref<Expr>>, &[Ref<Expr>]) {
    let (refr, value, args): (_, _, &[Ref<Expr>]) = match head {
        RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref().map(|assign| &assign.value), &[]),
        RuleHead::Set { refr, key, .. } => (refr, key.as_ref(), &[]),
        RuleHead::Func { refr, assign, args, .. } => (refr, assign.as_ref().map(|assign| &assign.value), args),
    };
    let mut parts: Vec<_> = value.into_iter().collect();
    let mut rest = refr;
    while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = rest.as_ref() {
        if let Expr::RefBrack { index, .. } = rest.as_ref() {
            parts.push(index);
        }
        rest = refr;
    }
    (parts, args)
}

struct Walk<'a, 's> {
    scopes: Scopes<'a>,
    see: &'s mut dyn FnMut(Seen<'a>, &Scopes<'a>),
}

impl<'a> Walk<'a, '_> {
    /// Walks a query, then `rest` with the query's names still in sight.
    fn within(&mut self, query: &'a Query, rest: impl FnOnce(&mut Self)) {
        self.scopes.names.push(declared(query));
        query.stmts.iter().for_each(|statement| self.statement(statement));
        rest(self);
        self.scopes.names.pop();
    }

    fn statement(&mut self, statement: &'a LiteralStmt) {
        (self.see)(Seen::Statement(statement), &self.scopes);
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().chain([value, collection]).for_each(|expr| self.expr(expr));
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => match expr.as_ref() {
                Expr::Call { fcn, params, .. } => self.call(fcn, params, true),
                expr => self.expr(expr),
            },
            Literal::Every { key, value, domain, query, .. } => {
                self.expr(domain);
                self.scopes.names.push(key.iter().chain([value]).map(Span::text).collect());
                self.within(query, |_| ());
                self.scopes.names.pop();
            }
        }
        statement.with_mods.iter().for_each(|with| self.expr(&with.r#as));
    }

    fn call(&mut self, function: &'a Expr, params: &'a [Ref<Expr>], takes_answer: bool) {
        (self.see)(Seen::Call { function, arguments: params.len(), takes_answer }, &self.scopes);
        params.iter().for_each(|param| self.expr(param));
    }

    fn expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Call { fcn, params, .. } => {
                self.call(fcn, params, false);
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.within(query, |walk| walk.expr(term));
            }
            Expr::ObjectCompr { key, value, query, .. } => self.within(query, |walk| {
                walk.expr(key);
                walk.expr(value);
            }),
            _ => children(expr).into_iter().for_each(|child| self.expr(child)),
        }
    }

    fn reference(&mut self, expr: &'a Expr) {
        let (base, steps) = steps(expr);
        if let Expr::Var { span, .. } = base {
            let tail = steps.iter().map_while(|step| step.name()).collect();
            (self.see)(Seen::Reference { root: span, tail }, &self.scopes);
        } else {
            self.expr(base);
        }
        for step in steps {
            if let Step::Index(index) = step {
                self.expr(index);
            }
        }
    }
}

/// Names that a query declares for itself, by `some` or `:=`. They hide rules and imports of the same name in the whole
/// query.
pub(super) fn declared(query: &Query) -> HashSet<&str> {
    let mut names = HashSet::new();
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(Span::text)),
            Literal::SomeIn { key, value, .. } => key.iter().chain([value]).for_each(|expr| pattern_names(expr, &mut names)),
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    pattern_names(lhs, &mut names);
                }
            }
            Literal::NotExpr { .. } | Literal::Every { .. } => {}
        }
    }
    names
}
