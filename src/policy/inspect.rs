//! A policy set as its author looks at it: loaded by the path that serving takes, with what was fetched before and is in
//! the cache, and put in force nowhere. What to say of the findings is the command line's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    Drawn, PolicySet,
    downloads::Downloads,
    engine::{self, Abandoned, trace::Trace},
    facts::{self, Alias, Fact},
    input::Input,
    library,
    load::{self, Module, Sources},
    problem::{Code, LoadError, Problem},
};
use crate::{
    clock::Now,
    config::{self, RegoVersion},
};

/// A set with the texts that it was made of.
#[derive(Debug)]
pub struct Opened {
    pub set: Arc<PolicySet>,
    modules: BTreeMap<String, Module>,
    rego: RegoVersion,
}

/// What took part in one evaluation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every line with an expression that was evaluated, whether it held or not, and the first line of its rule.
    pub lines: Vec<Line>,
    /// What of the input they read.
    pub facts: Vec<Fact>,
    /// What the policy printed.
    pub prints: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub file: String,
    pub line: u32,
    pub text: String,
}

/// Loads the set that `config` names, to be asked.
pub fn open(config: &config::Policy, now: Now) -> Result<Opened, LoadError> {
    let sources = read(config, now)?;
    let modules = sources.modules.clone();
    let set = PolicySet::compile(sources, config, &Abandoned::default())?;
    Ok(Opened::new(Arc::new(set), modules, config.rego))
}

impl Opened {
    /// The set with the texts that it was compiled from.
    pub(super) fn new(set: Arc<PolicySet>, modules: Vec<Module>, rego: RegoVersion) -> Self {
        let modules = modules.into_iter().chain(library::guard());
        Self { set, modules: modules.map(|module| (module.name.clone(), module)).collect(), rego }
    }

    /// What takes part when `input` is evaluated, with what was drawn before. `document` is the same input.
    pub fn explain(&self, input: &Input, document: &Value, drawn: &Drawn, limit: Duration) -> Explanation {
        let Trace { lines, prints } = self.set.trace(input, drawn, limit);
        let modules: Vec<_> = lines.iter().filter_map(|(file, lines)| Some((self.modules.get(file)?, lines))).collect();
        let spelled_out = modules.iter().flat_map(|(module, lines)| {
            let aliases = Alias::of_module(&module.text);
            let line = move |line: &u32| Some(facts::spelled_out(text(module, *line)?, &aliases));
            lines.iter().filter_map(line)
        });
        let spelled_out: Vec<String> = spelled_out.collect();
        Explanation {
            lines: modules.into_iter().flat_map(|(module, lines)| self.lines(module, lines)).collect(),
            facts: facts::facts(spelled_out.iter().map(String::as_str), document),
            prints,
        }
    }
}

/// What was found in a policy set, the gravest first.
#[derive(Debug)]
pub struct Inspection {
    pub findings: Vec<Problem>,
    /// False for a library, where there is no rule to decide, and no first evaluation either.
    pub decides: bool,
}

/// Whether the rule that decides must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Needed,
    /// Not where its whole package is missing: then it is a library.
    Assumed,
}

impl Opened {
    fn lines(&self, module: &Module, evaluated: &BTreeSet<u32>) -> Vec<Line> {
        let heads = engine::rule_lines(module.clone(), self.rego);
        let head = |line: &u32| heads.range(..=*line).next_back().copied();
        let all: BTreeSet<u32> = evaluated.iter().copied().chain(evaluated.iter().filter_map(head)).collect();
        let line = |line| Some(Line { file: module.name.clone(), line, text: text(module, line)?.to_owned() });
        all.into_iter().filter_map(line).collect()
    }
}

fn text(module: &Module, line: u32) -> Option<&str> {
    module.text.lines().nth(line.checked_sub(1)? as usize)
}

/// Finds what is wrong with the set that `config` names.
pub fn inspect(config: &config::Policy, decision: Decision, now: Now) -> Inspection {
    let found = |findings| Inspection { findings, decides: true };
    let sources = match read(config, now) {
        Ok(sources) => sources,
        Err(error) => return found(error.problems),
    };
    let library = (decision == Decision::Assumed).then(|| sources.clone());
    let error = match PolicySet::compile(sources, config, &Abandoned::default()) {
        Ok(set) => return found(set.findings().to_vec()),
        Err(error) => error,
    };
    let misses = error.problems.iter().any(|problem| problem.code == Code::NoDecision);
    match library.filter(|_| misses) {
        Some(library) => without_decision(library, config, error),
        None => found(error.problems),
    }
}

/// Looks again, as at a library, at what was refused with `error`.
fn without_decision(sources: Sources, config: &config::Policy, error: LoadError) -> Inspection {
    let path: Vec<_> = config.decision.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let package = path.split_last().map(|(_, package)| package.to_vec()).unwrap_or_default();
    let (problems, of_documents) = match engine::findings(sources, config) {
        Ok((_, packages)) if packages.contains(&package) => return Inspection { findings: error.problems, decides: true },
        Ok((findings, _)) => (findings, error.problems),
        Err(other) => (other.problems, error.problems),
    };
    let of_documents = of_documents.into_iter().filter(|problem| problem.code == Code::Document);
    Inspection { findings: of_documents.chain(problems).collect(), decides: false }
}

/// The sources as a start without network would have them.
pub(super) fn read(config: &config::Policy, now: Now) -> Result<Sources, LoadError> {
    let downloads = Downloads::default();
    downloads.prepare(config, now);
    let view = downloads.views().into_iter().next().unwrap_or_default();
    let fetched = view.into_iter().map(|(name, (delivery, _))| (name, delivery.bytes)).collect();
    load::read_all(config, &fetched, now).map_err(|mut error| {
        downloads.explain(&mut error);
        error
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn look(module: &str, decision: Decision) -> (Vec<Code>, bool) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.rego"), module).unwrap();
        let found = inspect(&config::Policy::at(folder.path()), decision, Now::from_seconds(0));
        (found.findings.iter().map(|problem| problem.code).collect(), found.decides)
    }

    #[test]
    fn a_library_needs_no_decision_and_a_misspelt_one_is_found() {
        let library = "package lib\nf(x) := x + 1\n";
        let misspelt = "package envoy.authz\ndefault alow := false\n";
        for (module, decision, codes, decides) in [
            (library, Decision::Assumed, vec![], false),
            (library, Decision::Needed, vec![Code::NoDecision], true),
            (misspelt, Decision::Assumed, vec![Code::NoDecision], true),
            ("package envoy.authz\ndefault allow := false\n", Decision::Assumed, vec![], true),
            ("package lib\nx if http.send({})\n", Decision::Assumed, vec![Code::IoBuiltin], false),
            ("package lib\nx if\n", Decision::Assumed, vec![Code::Parse], true),
        ] {
            assert_eq!(look(module, decision), (codes, decides), "{module}");
        }
    }
}
