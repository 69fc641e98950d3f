//! The documents below `data.doorward`, compiled into what their modules make of them, with the policy set they belong to
//! and never apart from it. What is wrong in one is a problem at its place in a file, and refuses the whole set.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    builtins::glob,
    load::{Sources, origin},
    problem::{Code, LoadError, Problem},
};
use crate::{
    action::{Entry, catalogue::Catalogue, tier::Tiers},
    context,
    json::Fault,
    risk::Weights,
    workload::{Allow, Registry, Workload},
};

/// Where they lie below `data`.
pub(super) const ROOT: &str = "doorward";
/// Documents that a set may have; what else lies beside them was meant to be one.
const NAMES: [&str; 4] = ["actions", "workloads", "tiers", "signals"];

/// What the documents of one set say. An absent one says nothing.
#[derive(Debug, Default)]
pub(super) struct Documents {
    catalogue: Catalogue,
    registry: Registry,
    tiers: Tiers,
    signals: Weights,
}

impl Documents {
    pub(super) fn compile(sources: &Sources) -> Result<Self, LoadError> {
        let Some(root) = sources.data.get(ROOT) else { return Ok(Self::default()) };
        let mut faults = Vec::new();
        let documents = Self {
            catalogue: read(root, "actions", Catalogue::compile, &mut faults),
            registry: read(root, "workloads", Registry::compile, &mut faults),
            tiers: read(root, "tiers", Tiers::compile, &mut faults),
            signals: read(root, "signals", Weights::compile, &mut faults),
        };
        match root.as_object() {
            None => faults.push(Fault { at: Vec::new(), text: "must be an object".to_owned() }),
            Some(root) => faults.extend(root.keys().filter(|name| !NAMES.contains(&name.as_str())).map(|name| Fault {
                at: vec![name.clone()],
                text: format!("no document of this name is known here; they are {}", NAMES.join(", ")),
            })),
        }
        if faults.is_empty() {
            return Ok(documents);
        }
        let faults: Vec<_> = faults.into_iter().map(|fault| fault.below(ROOT)).collect();
        let places = origin::places(&sources.origins, &faults);
        let mut problems: Vec<_> = faults.iter().zip(places).map(|(fault, place)| problem(fault, place)).collect();
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        Err(LoadError { problems })
    }
}

impl Documents {
    /// For those who decide by them.
    pub(super) const fn view(&self) -> context::Documents<'_> {
        let Self { catalogue, registry, tiers, signals } = self;
        context::Documents { catalogue, registry, tiers, weights: signals }
    }
}

impl Documents {
    /// The actions that an entry of the registry lets its workload do, as far as names and classes say so: those of the
    /// catalogue, and names that it has not.
    pub(super) fn allowed(&self, workload: &Workload) -> Vec<Arc<str>> {
        let may = |entry: &Entry| {
            let of_class = |allow: &&Allow| allow.classes.as_ref().is_none_or(|classes| classes.contains(&entry.class));
            let mut patterns = workload.allows.iter().filter(of_class).flat_map(|allow| &allow.actions);
            patterns.any(|pattern| glob::names(pattern, &entry.name))
        };
        let known: BTreeSet<_> = self.catalogue.entries().map(|entry| &entry.name).collect();
        let allowed = self.catalogue.entries().filter(|entry| may(entry)).map(|entry| &entry.name);
        let patterns = workload.allows.iter().flat_map(|allow| &allow.actions);
        let unknown = patterns.filter(|name| !name.contains(['*', '?', '[', '{', '\\']) && !known.contains(name));
        allowed.chain(unknown).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// One of the documents; nothing in it where it is absent or wrong.
fn read<T: Default>(
    root: &Value,
    name: &str,
    compile: impl FnOnce(&Value) -> Result<T, Vec<Fault>>,
    faults: &mut Vec<Fault>,
) -> T {
    let compiled = root.get(name).map(compile).unwrap_or_else(|| Ok(T::default()));
    compiled.unwrap_or_else(|found| {
        faults.extend(found.into_iter().map(|fault| fault.below(name)));
        T::default()
    })
}

fn problem(fault: &Fault, place: Option<origin::Place>) -> Problem {
    let text = format!("`data.{}`: {}", fault.at.join("."), fault.text);
    let origin::Place { file, line, column, source } = place.unwrap_or_default();
    Problem { line, column, source, ..Problem::of_file(Code::Document, file, text) }
}

#[cfg(test)]
mod tests;
