//! Refuses at load what regorus accepts and must not run: what takes the process down or hangs it, what reaches out of
//! the process, and what is answered otherwise than by OPA. It only looks at parsed modules and data; parsing and
//! compiling are `engine`'s.

mod assignment;
mod conflict;
mod graph;
mod overlap;
mod safety;
mod text;
mod warning;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use regorus::unstable::{Expr, Module, Rule, WithModifier};
use serde_json::Value;

use self::graph::{Graph, MAX_NESTING};
pub(super) use self::text::check_text;
use super::{
    builtins,
    load::{Purpose, within},
    mocks::{self, IO_BUILTINS, Mocks},
    names::{self, Callee, Names, Root, RuleKind, Rules, Scopes, Seen},
    problem::{Code, Problem, problem_at},
    tree::{children, comprehension, constant_path, head, steps},
};

/// Imports that change what the language means, in ways the engine does not know.
const EXPERIMENTAL: [&str; 4] = ["future.keywords.not", "future.keywords.and", "future.keywords.or", "rego.v2"];

/// Functions of OPA's that are not carried out, by how their names begin, with the reason and what to do instead.
const NOT_CARRIED_OUT: [(&str, &str); 3] = [
    (
        "rego.parse_module",
        "needs a second reader of Rego in each call; parse the module in the build, and put what is asked of it into the data",
    ),
    (
        "rego.metadata.",
        "reads annotations, which are comments to the engine; write what it would give as a rule or into the data",
    ),
    (
        "graphql.",
        "needs a reader of GraphQL; allow known operations by the digest of their text, or leave the query to the service",
    ),
];

/// Where the functions stand that the rewrite puts in the place of operators.
const OURS: &str = "internal";

/// One parsed module.
pub(super) struct Parsed {
    pub(super) module: Module,
    /// The `roots` of its bundle.
    pub(super) roots: Option<Arc<[String]>>,
}

/// What the checks know besides the modules.
pub(super) struct Set<'a> {
    pub(super) data: &'a Value,
    /// The path of the rule that decides, where one must.
    pub(super) decision: Option<&'a [String]>,
    /// Longest chain of rules.
    pub(super) depth: u32,
    pub(super) purpose: Purpose,
}

/// Everything that is wrong with the set, and what should be known of it.
pub(super) fn check<'m>(modules: impl Iterator<Item = &'m Parsed> + Clone, set: &Set<'_>) -> Vec<Problem> {
    let too_deep: Vec<_> = modules
        .clone()
        .flat_map(|parsed| &parsed.module.policy)
        .filter(|rule| graph::nesting(rule) > MAX_NESTING)
        .map(|rule| problem_at(Code::TooDeep, rule.span(), format!("expressions nest deeper than {MAX_NESTING}; break them up")))
        .collect();
    if !too_deep.is_empty() {
        // The other checks walk the expressions.
        return too_deep;
    }
    let rules = rules(modules.clone());
    let mut problems = Vec::new();
    let mut graph = Graph::default();
    let mocks = match set.purpose {
        Purpose::Serve => Mocks::default(),
        Purpose::Test => Mocks::of(modules.clone().map(|parsed| &parsed.module), &rules),
    };
    for parsed in modules.clone() {
        check_module(parsed, &mut graph, &mut problems);
    }
    for parsed in modules.clone() {
        check_rules(&parsed.module, &rules, (set.purpose, &mocks), &mut graph, &mut problems);
    }
    problems.extend(overlap::problems(modules.clone().map(|parsed| &parsed.module), set.data));
    problems.extend(conflict::problems(modules.clone().map(|parsed| &parsed.module)));
    problems.extend(graph.problems(set.depth));
    if let Some(decision) = set.decision {
        problems.extend(check_decision(&rules, decision));
        problems.extend(warning::undefined_decision(modules.map(|parsed| &parsed.module), decision));
    }
    problems
}

pub(super) fn rules<'m>(modules: impl Iterator<Item = &'m Parsed>) -> Rules {
    let mut rules = Rules::new();
    for module in modules.map(|parsed| &parsed.module) {
        let package = names::package(module);
        for rule in &module.policy {
            let kind = names::rule_kind(rule);
            let entry = rules.entry(names::rule_path(&package, rule)).or_insert(kind);
            if matches!(kind, RuleKind::Function(_)) {
                *entry = kind;
            }
        }
    }
    rules
}

/// What concerns a module as a whole: its package, its imports, and its place in the graph.
fn check_module<'a>(parsed: &'a Parsed, graph: &mut Graph<'a>, problems: &mut Vec<Problem>) {
    let module = &parsed.module;
    let package = names::package(module);
    let place = module.package.refr.span();
    if let Some(roots) = &parsed.roots
        && !within(roots, &package.join("/"))
    {
        let text =
            format!("package `{}` lies outside the `roots` of the bundle's manifest; add it there or move it", package.join("."));
        problems.push(problem_at(Code::Roots, place, text));
    }
    for import in &module.imports {
        let path = constant_path(&import.refr).join(".");
        if EXPERIMENTAL.contains(&path.as_str()) {
            let text = format!("`import {path}` changes the language in a way the engine does not know; remove it");
            problems.push(problem_at(Code::Experimental, &import.span, text));
        }
    }
    check_imports(module, problems);
    problems.extend(warning::unused_imports(module));
    for rule in &module.policy {
        graph.add_rule(names::rule_path(&package, rule), rule);
        if let Rule::Default { refr, .. } = rule.as_ref()
            && matches!(refr.as_ref(), Expr::RefBrack { .. })
        {
            let text = "a default for a bracketed name is answered wrongly by the engine; give the rule a plain name".to_owned();
            problems.push(problem_at(Code::DefaultReference, refr.span(), text));
        }
        if let Rule::Default { value, .. } = rule.as_ref()
            && let Some(computed) = computed(value)
        {
            let text = "a default must be a constant; compute in a rule".to_owned();
            problems.push(problem_at(Code::DefaultValue, computed.span(), text));
        }
        if let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = head(rule)
            && steps(refr).0.span().text() == OURS
        {
            let text = format!("`{OURS}` is where functions of the engine room stand; give the rule another name");
            problems.push(problem_at(Code::ReservedName, rule.span(), text));
        }
    }
}

/// A part of a default that is no constant. Comprehensions have scopes of their own, and OPA lets them be.
fn computed(value: &Expr) -> Option<&Expr> {
    match value {
        Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } | Expr::Call { .. } => Some(value),
        Expr::BinExpr { .. } | Expr::BoolExpr { .. } | Expr::ArithExpr { .. } | Expr::Membership { .. } => Some(value),
        _ if comprehension(value).is_some() => None,
        _ => children(value).into_iter().find_map(|child| computed(child)),
    }
}

/// Names of imports: two may not be one, and some are reserved.
fn check_imports(module: &Module, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for import in &module.imports {
        let path = constant_path(&import.refr);
        if !matches!(path.first().map(String::as_str), Some("data" | "input")) {
            continue;
        }
        let Some(name) = import.r#as.as_ref().map(|alias| alias.text().to_owned()).or_else(|| path.last().cloned()) else {
            continue;
        };
        let is_reserved = import.r#as.is_some() && matches!(name.as_str(), "data" | "input");
        if is_reserved || name == OURS {
            let text = format!("`{name}` is reserved; import under another name: `as …`");
            problems.push(problem_at(Code::ReservedName, &import.span, text));
        }
        if seen.insert(name.clone(), ()).is_some() {
            let text = format!("`{name}` is imported already; give one of the two an alias: `as …`");
            problems.push(problem_at(Code::ImportConflict, &import.span, text));
        }
    }
}

/// What concerns single rules: what they refer to, what they call, what they negate.
fn check_rules(
    module: &Module,
    rules: &Rules,
    (purpose, mocks): (Purpose, &Mocks),
    graph: &mut Graph<'_>,
    problems: &mut Vec<Problem>,
) {
    let package = names::package(module);
    let names = Names::of(module, rules);
    for rule in &module.policy {
        let path = names::rule_path(&package, rule);
        names::walk_rule(rule, &mut |seen, scopes| match seen {
            Seen::Reference { root, tail } => {
                if let Root::Data(mut to) = names.root(root.text(), scopes) {
                    to.extend(tail.into_iter().map(str::to_owned));
                    if purpose == Purpose::Serve && matches!(rules.get(&to), Some(RuleKind::Function(_))) {
                        let text = format!("function `data.{}` is named and not called; call it", to.join("."));
                        problems.push(problem_at(Code::FunctionReference, root, text));
                    }
                    graph.add_need(rules, &path, &to);
                }
            }
            Seen::Call { function, arguments, takes_answer } => {
                let arity = match names.callee(function, scopes) {
                    Callee::Rule(to) => match rules.get(&to) {
                        Some(RuleKind::Function(arity)) => {
                            graph.add_need(rules, &path, &to);
                            Some(*arity)
                        }
                        _ => {
                            problems.push(unknown_function(function, &format!("data.{}", to.join("."))));
                            None
                        }
                    },
                    Callee::Builtin(name) => {
                        problems.extend(check_builtin(function, &name, mocks));
                        builtins::arity(&name).map(usize::from)
                    }
                };
                let fits = |arity| arguments == arity || (takes_answer && arguments == arity + 1);
                if let Some(arity) = arity.filter(|arity| !fits(*arity)) {
                    let name = constant_path(function).join(".");
                    let text = format!("`{name}` takes {arity} arguments and gets {arguments}; pass as many as it takes");
                    problems.push(problem_at(Code::Arity, function.span(), text));
                }
            }
            Seen::Statement(statement) => {
                for with in &statement.with_mods {
                    problems.extend(check_with(with, &names, scopes, purpose));
                }
            }
        });
        let declarations = assignment::problems(rule);
        // What is declared wrongly is not bound either; saying so twice would bury the first.
        if declarations.is_empty() {
            problems.extend(safety::problems(rule, &names));
        }
        problems.extend(declarations);
        problems.extend(warning::of_rule(rule, &names));
    }
}

fn check_builtin(function: &Expr, name: &str, mocks: &Mocks) -> Option<Problem> {
    if IO_BUILTINS.contains(&name) {
        if mocks.replaces(name) {
            return None;
        }
        let text = format!("`{name}` would make calls wait for the network; put what it fetches into the data instead");
        return Some(problem_at(Code::IoBuiltin, function.span(), text));
    }
    if let Some((_, reason)) = NOT_CARRIED_OUT.iter().find(|(begins, _)| name.starts_with(begins)) {
        return Some(problem_at(Code::UnsupportedFunction, function.span(), format!("`{name}` {reason}")));
    }
    let known = name == "print" || builtins::arity(name).is_some();
    (!known).then(|| unknown_function(function, name))
}

fn unknown_function(function: &Expr, name: &str) -> Problem {
    let text = format!("function `{name}` does not exist here; define it, or do without it");
    problem_at(Code::UnknownFunction, function.span(), text)
}

/// `with` may replace the input and documents, and in tests functions too.
fn check_with(with: &WithModifier, names: &Names<'_>, scopes: &Scopes<'_>, purpose: Purpose) -> Option<Problem> {
    let target = &with.refr;
    let name = constant_path(target).join(".");
    let callee = names.callee(target, scopes);
    let wrong = |code, text| Some(problem_at(code, target.span(), text));
    match (mocks::arity(&callee, names), &callee) {
        (Some(_), _) if purpose == Purpose::Serve => wrong(
            Code::FunctionMock,
            format!("`with {name}` replaces a function, which only tests may do; pass what differs as an argument"),
        ),
        (Some(arity), _) => {
            let other = mocks::arity(&names.named(&with.r#as, scopes)?, names).filter(|other| *other != arity)?;
            wrong(
                Code::Arity,
                format!("`{name}` takes {arity} arguments and its replacement {other}; replace it by one that takes as many"),
            )
        }
        (None, Callee::Rule(_)) => None,
        (None, Callee::Builtin(_)) if names.root(name.split('.').next().unwrap_or_default(), scopes) == Root::Input => None,
        (None, Callee::Builtin(_)) => {
            wrong(Code::WithTarget, format!("`with {name}` replaces nothing; name a path below `input` or `data`"))
        }
    }
}

fn check_decision(rules: &Rules, decision: &[String]) -> Option<Problem> {
    let name = format!("data.{}", decision.join("."));
    let text = match rules.get(decision) {
        Some(RuleKind::Value) => return None,
        Some(RuleKind::Function(_)) => format!("`{name}` is a function; name a rule in `policy.decision`"),
        None => {
            let packages: BTreeSet<_> = rules.keys().filter(|path| path.len() > 1).map(|path| path.join("/")).collect();
            let mut known: Vec<_> = packages.into_iter().take(20).collect();
            if rules.len() > known.len() {
                known.push("…".to_owned());
            }
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("no rule `{name}`; name one of these in `policy.decision`: {known}")
        }
    };
    Some(Problem::of_file(Code::NoDecision, "policy.decision", text))
}

#[cfg(test)]
mod known_bad;
#[cfg(test)]
mod tests;
