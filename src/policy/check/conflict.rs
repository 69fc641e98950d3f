//! Rules and packages that claim one path in ways that do not go together, as OPA's compiler finds them. The engine lets
//! one of them hide the other.

use std::collections::BTreeMap;

use regorus::unstable::{Module, Rule, RuleHead, Span};

use crate::policy::{
    names::{self, Path},
    problem::{Code, Problem, problem_at},
    tree,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    Set,
    Function(usize),
}

struct Entry<'a> {
    kind: Kind,
    is_default: bool,
    /// The head ends in a computed step, so that the rule is one of several values below its path.
    is_open: bool,
    /// How many parts of its path are the package's.
    package: usize,
    place: &'a Span,
}

pub(super) fn problems<'a>(modules: impl Iterator<Item = &'a Module> + Clone) -> Vec<Problem> {
    let mut rules: BTreeMap<Path, Vec<Entry<'a>>> = BTreeMap::new();
    for module in modules.clone() {
        let package = names::package(module);
        for rule in &module.policy {
            rules.entry(names::rule_path(&package, rule)).or_default().push(entry(rule, package.len()));
        }
    }
    let packages: BTreeMap<Path, &Span> = modules.map(|module| (names::package(module), module.package.refr.span())).collect();
    let mut problems = Vec::new();
    for (path, entries) in &rules {
        problems.extend(within(path, entries));
        if entries.iter().any(|entry| entry.is_open) {
            problems.extend(passed_over(&rules, path));
        }
        let Some(closed) = entries.iter().find(|entry| !entry.is_open) else { continue };
        let name = format!("data.{}", path.join("."));
        if let Some((below, others)) = below(&rules, path).find(|(below, _)| below.len() > path.len()) {
            let place = others.first().map_or(closed.place, |other| other.place);
            let text = format!("rule `data.{}` lies below rule `{name}`; give one of them another name", below.join("."));
            problems.push(problem_at(Code::RuleConflict, place, text));
        }
        if let Some((package, place)) = below(&packages, path).next() {
            let text = format!("package `{}` lies at or below rule `{name}`; rename one of them", package.join("."));
            problems.push(problem_at(Code::PackageConflict, place, text));
        }
    }
    problems
}

/// A rule with a plain name below one with a computed name. Whoever reads the plain name gets its rule alone from the
/// engine, and in OPA what both of them say. `rewrite` computes the plain name too, where that can be done.
fn passed_over(rules: &BTreeMap<Path, Vec<Entry<'_>>>, path: &Path) -> Option<Problem> {
    let is_fixed =
        |entry: &&Entry<'_>| entry.is_default || matches!(entry.kind, Kind::Function(_)) || entry.package >= path.len();
    let mut others = below(rules, path).filter(|(name, _)| name.len() > path.len());
    let (name, other) = others.find_map(|(name, entries)| Some((name, entries.iter().find(is_fixed)?)))?;
    let text = format!(
        "`data.{}` stands beside a rule whose name is computed, which the engine passes over; give one of them another name",
        name.join(".")
    );
    Some(problem_at(Code::Unsupported, other.place, text))
}

/// What a map has at a path and below.
fn below<'m, T>(map: &'m BTreeMap<Path, T>, path: &'m Path) -> impl Iterator<Item = (&'m Path, &'m T)> {
    map.range(path.clone()..).take_while(move |(other, _)| other.starts_with(path))
}

fn entry(rule: &Rule, package: usize) -> Entry<'_> {
    let place = rule.span();
    let is_open = tree::is_open(rule);
    match rule {
        Rule::Default { args, .. } => {
            let kind = if args.is_empty() { Kind::Value } else { Kind::Function(args.len()) };
            Entry { kind, is_default: true, is_open, package, place }
        }
        Rule::Spec { head, .. } => {
            let kind = match head {
                RuleHead::Compr { .. } => Kind::Value,
                RuleHead::Set { .. } => Kind::Set,
                RuleHead::Func { args, .. } => Kind::Function(args.len()),
            };
            Entry { kind, is_default: false, is_open, package, place }
        }
    }
}

/// The conflicts of rules with one path.
fn within(path: &Path, entries: &[Entry<'_>]) -> Vec<Problem> {
    let name = format!("data.{}", path.join("."));
    let mut problems = Vec::new();
    let closed = || entries.iter().filter(|entry| !entry.is_open);
    if let Some(first) = closed().next() {
        let other = entries.iter().find(|entry| entry.is_open || entry.kind != first.kind);
        if let Some(other) = other {
            let text = format!(
                "`{name}` is {} in one place and {} in another; give one of them another name",
                described(first),
                described(other)
            );
            problems.push(problem_at(Code::RuleConflict, other.place, text));
        }
    }
    if let Some(second) = closed().filter(|entry| entry.is_default).nth(1) {
        problems.push(problem_at(
            Code::MultipleDefaults,
            second.place,
            format!("`{name}` has another default already; keep one"),
        ));
    }
    problems
}

fn described(entry: &Entry<'_>) -> String {
    match entry.kind {
        _ if entry.is_open => "an object of values".to_owned(),
        Kind::Value => "one value".to_owned(),
        Kind::Set => "a set".to_owned(),
        Kind::Function(1) => "a function of 1 argument".to_owned(),
        Kind::Function(arity) => format!("a function of {arity} arguments"),
    }
}
