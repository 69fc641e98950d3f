//! What weakens doorward in an Envoy configuration: each finding has a code, the place, what it costs, and the lines that
//! mend it. Only what is known to be weak is told; an unknown field is nobody's mistake. One file looks at one part:
//! `listener`, `manager`, `route`, `filter`, `stream`, `cluster`.

mod cluster;
mod code;
mod filter;
mod listener;
mod manager;
mod route;
mod stream;
#[cfg(test)]
mod tests;

use std::ptr;

use serde::Serialize;

pub use self::code::Code;
use super::{document::Document, scene::Scene};
use crate::{
    config::{Compat, Config, Listener, Node},
    policy::problem::Severity,
};

/// One weakness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    /// Line in the file, from 1; absent for JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Where it stands, `static_resources.listeners[0]`.
    pub path: String,
    pub reason: String,
    /// The lines to write instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub corrected: String,
}

/// All weaknesses of `document`, in the order of its lines. With `config`, also where the two disagree.
pub fn lint(document: &Document, config: Option<&Config>) -> Vec<Finding> {
    let scene = Scene::of(document);
    let mut report = Report { scene: &scene, config, found: Vec::new() };
    if let Some(filters) = scene.piece {
        manager::lint_piece(&mut report, filters);
    }
    for listener in &scene.listeners {
        listener::lint(&mut report, listener);
    }
    if let Some(bootstrap) = scene.bootstrap {
        lint_bootstrap(&mut report, bootstrap);
    }
    report.finish(&document.root)
}

fn lint_bootstrap<'a>(report: &mut Report<'a, '_>, bootstrap: &'a Node) {
    if let Some(address) = bootstrap.at("admin.address").filter(|address| !cluster::is_local(address)) {
        report.add(Code::AdminExposed, address);
    }
    if let Some(prefix) = bootstrap.get("header_prefix").filter(|prefix| !["", "x-envoy"].contains(&prefix.text())) {
        report.add(Code::HeaderPrefix, prefix);
    }
    if let Some(lds) = bootstrap.at("dynamic_resources.lds_config").filter(|_| !report.scene.dump) {
        report.add(Code::ListenersUnseen, lds);
    }
}

/// What was found so far, and what is needed to judge.
struct Report<'a, 's> {
    scene: &'s Scene<'a>,
    config: Option<&'s Config>,
    found: Vec<(Code, &'a Node, Option<String>, Option<String>)>,
}

impl<'a, 's> Report<'a, 's> {
    fn add(&mut self, code: Code, at: &'a Node) {
        self.push(code, at, None, None);
    }

    /// With a reason and lines of its own in place of the code's.
    fn add_saying(&mut self, code: Code, at: &'a Node, reason: String, corrected: String) {
        self.push(code, at, Some(reason), Some(corrected));
    }

    /// What several listeners share is told once.
    fn push(&mut self, code: Code, at: &'a Node, reason: Option<String>, corrected: Option<String>) {
        if !self.found.iter().any(|(known, place, ..)| *known == code && ptr::eq(*place, at)) {
            self.found.push((code, at, reason, corrected));
        }
    }

    /// `path` of `message` is weak: at the field where it is written, else where it should be.
    fn add_field(&mut self, code: Code, message: &'a Node, path: &str) {
        self.add(code, message.at(path).unwrap_or(message));
    }

    /// The listener of our configuration that `cluster` leads to, or the only one there is.
    fn listener(&self, cluster: Option<&'a Node>) -> Option<&'s Listener> {
        let listeners = &self.config?.listeners;
        let known = cluster.and_then(|cluster| {
            let endpoints: Vec<_> = self.scene.endpoints(cluster).filter_map(cluster::address).collect();
            listeners.iter().find(|listener| endpoints.contains(&listener.address))
        });
        known.or(match listeners.as_slice() {
            [only] => Some(only),
            _ => None,
        })
    }

    fn compat(&self) -> bool {
        self.config.is_some_and(|config| config.policy.compat == Some(Compat::OpaEnvoy))
    }

    fn finish(self, root: &Node) -> Vec<Finding> {
        let mut findings: Vec<_> = self
            .found
            .into_iter()
            .map(|(code, at, reason, corrected)| Finding {
                code,
                severity: code.severity(),
                line: Some(at.line).filter(|line| *line > 0),
                path: root.path_to(at).unwrap_or_default(),
                reason: reason.unwrap_or_else(|| code.reason().to_owned()),
                corrected: corrected.unwrap_or_else(|| code.corrected().to_owned()),
            })
            .collect();
        findings.sort_by_key(|finding| finding.line);
        findings
    }
}
