//! Functions that tests replace: `with f as g`, `with count as 1`. The engine tells functions apart by how they are
//! spelled where they are called, does not know those that `builtins` adds, and leaves rules half evaluated. So each
//! function that is replaced, or replaces one, has a wrapper in a package of ours, and `rewrite` calls that everywhere.

use std::{collections::BTreeMap, fmt::Write};

use regorus::unstable::{Expr, Module, WithModifier};

use super::{
    builtins,
    engine::rule_path,
    names::{self, Callee, Names, Path, RuleKind, Rules, Scopes, Seen},
};

/// The package of the wrappers.
pub(super) const PACKAGE: &str = "doorward_mocks";

/// Functions that would let a policy talk to the world outside while a call waits, each with one argument.
pub(super) const IO_BUILTINS: [&str; 2] = ["http.send", "net.lookup_ip_addr"];

/// Functions that OPA does not let `with` replace, or that the engine does not evaluate as functions.
const FIXED: [&str; 5] = ["walk", "print", "eq", "rego.metadata.chain", "rego.metadata.rule"];

/// What stands behind a wrapper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wrapped {
    Function(Callee, usize),
    /// A rule in the place of a function of so many arguments.
    Rule(Path, usize),
}

/// The functions that the tests of a set replace, and their replacements.
#[derive(Debug, Default)]
pub(super) struct Mocks(BTreeMap<Wrapped, usize>);

/// What a function is replaced by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// The wrapper of this name.
    Wrapper(String),
    /// What the expression is worth.
    Value,
}

impl Mocks {
    pub(super) fn of<'m>(modules: impl Iterator<Item = &'m Module>, rules: &Rules) -> Self {
        let mut mocks = Self::default();
        for module in modules {
            let names = Names::of(module, rules);
            for rule in &module.policy {
                names::walk_rule(rule, &mut |seen, scopes| {
                    if let Seen::Statement(statement) = seen {
                        statement.with_mods.iter().for_each(|with| mocks.add(with, &names, scopes));
                    }
                });
            }
        }
        mocks
    }

    fn add(&mut self, with: &WithModifier, names: &Names<'_>, scopes: &Scopes<'_>) {
        let callee = names.callee(&with.refr, scopes);
        let Some(arity) = arity(&callee, names) else { return };
        self.insert(Wrapped::Function(callee, arity));
        if let Some(wrapped) = replacement(&with.r#as, arity, names, scopes) {
            self.insert(wrapped);
        }
    }

    fn insert(&mut self, wrapped: Wrapped) {
        let next = self.0.len();
        self.0.entry(wrapped).or_insert(next);
    }

    fn name(&self, wrapped: &Wrapped) -> Option<String> {
        self.0.get(wrapped).map(|number| format!("data.{PACKAGE}.f{number}"))
    }

    /// Whether the built-in function is replaced somewhere, so that calling it need not be what it does else.
    pub(super) fn replaces(&self, builtin: &str) -> bool {
        self.0.keys().any(|wrapped| matches!(wrapped, Wrapped::Function(Callee::Builtin(name), _) if name == builtin))
    }

    /// The wrapper of a function, and how many arguments the function takes.
    pub(super) fn wrapper(&self, callee: Callee, names: &Names<'_>) -> Option<(String, usize)> {
        if self.0.is_empty() {
            return None;
        }
        let arity = arity(&callee, names)?;
        Some((self.name(&Wrapped::Function(callee, arity))?, arity))
    }

    /// What stands in the place of a function of `arity` arguments.
    pub(super) fn replacement(&self, value: &Expr, arity: usize, names: &Names<'_>, scopes: &Scopes<'_>) -> Replacement {
        let wrapper = replacement(value, arity, names, scopes).and_then(|wrapped| self.name(&wrapped));
        wrapper.map_or(Replacement::Value, Replacement::Wrapper)
    }

    /// The module of the wrappers, if there are any.
    pub(super) fn module(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut text = format!("package {PACKAGE}\n");
        for (wrapped, number) in &self.0 {
            let (Wrapped::Function(_, arity) | Wrapped::Rule(_, arity)) = wrapped;
            let arguments = (0..*arity).map(|index| format!("a{index}")).collect::<Vec<_>>().join(", ");
            let parameters = if *arity == 0 { "_" } else { &arguments };
            let body = match wrapped {
                Wrapped::Rule(path, _) => rule_path(path),
                Wrapped::Function(Callee::Rule(path), _) => format!("{}({arguments})", rule_path(path)),
                Wrapped::Function(Callee::Builtin(name), _) if IO_BUILTINS.contains(&name.as_str()) => {
                    format!("{}(\"{name}\")", builtins::UNREPLACED)
                }
                Wrapped::Function(Callee::Builtin(name), _) => format!("{name}({arguments})"),
            };
            let _ = writeln!(text, "f{number}({parameters}) := {body}");
        }
        Some(text)
    }
}

/// How many arguments a function takes that `with` may replace.
pub(super) fn arity(callee: &Callee, names: &Names<'_>) -> Option<usize> {
    match callee {
        Callee::Rule(path) => names.arity(path),
        Callee::Builtin(name) if FIXED.contains(&name.as_str()) => None,
        Callee::Builtin(name) if IO_BUILTINS.contains(&name.as_str()) => Some(1),
        Callee::Builtin(name) => builtins::arity(name).map(usize::from),
    }
}

/// The function or rule that an expression names; none where it is a value.
fn replacement(value: &Expr, arity_of_target: usize, names: &Names<'_>, scopes: &Scopes<'_>) -> Option<Wrapped> {
    if !matches!(value, Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. }) {
        return None;
    }
    let callee = names.named(value, scopes)?;
    if let Some(arity) = arity(&callee, names) {
        return Some(Wrapped::Function(callee, arity));
    }
    match callee {
        Callee::Rule(path) if names.kind(&path) == Some(RuleKind::Value) => Some(Wrapped::Rule(path, arity_of_target)),
        Callee::Rule(_) | Callee::Builtin(_) => None,
    }
}
