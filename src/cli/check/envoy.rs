//! `doorward check --envoy`: what weakens doorward in an Envoy configuration. What is looked for is `wiring/lint`'s; this
//! prints.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::Counts;
use crate::{
    cli::{Exit, Output, chain, complain, print},
    config,
    policy::problem::Severity,
    wiring::{
        Document,
        lint::{Finding, lint},
    },
};

/// The JSON form. Members are added, never renamed.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    findings: Vec<Finding>,
    counts: Counts,
}

pub(super) fn run(file: &Path, config: Option<&Path>, strict: bool, output: Output) -> Exit {
    let config = match config.map(config::load).transpose() {
        Ok(config) => config,
        Err(error) => return invalid(error),
    };
    let document = match Document::load(file) {
        Ok(document) => document,
        Err(error) => return invalid(error),
    };
    let findings = lint(&document, config.as_ref());
    let counts = Counts::of(findings.iter().map(|finding| finding.severity));
    let report = Report { file: file.to_owned(), findings, counts };
    let printed = match output {
        Output::Table => print(report.table(&document)),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(text),
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        },
    };
    if counts.errors > 0 || (strict && counts.warnings > 0) { Exit::Failed } else { printed }
}

fn invalid(error: impl Into<anyhow::Error>) -> Exit {
    complain(chain(error));
    Exit::Invalid
}

impl Report {
    fn table(&self, document: &Document) -> String {
        let colour = std::io::stdout().is_terminal();
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&self.shown(finding, document, colour));
            text.push_str("\n\n");
        }
        text + &self.counts.to_string()
    }

    /// One finding for people: its line, what it costs, and the lines to write.
    fn shown(&self, finding: &Finding, document: &Document, colour: bool) -> String {
        let Finding { code, severity, line, path, reason, corrected } = finding;
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level.primary_title(reason.as_str()).id(code.as_str());
        let file = self.file.to_string_lossy();
        let at = line.and_then(|line| Some((line, document.line(line)?)));
        let group: Group<'_> = match at {
            Some((line, source)) => {
                let span = source.len() - source.trim_start().len()..source.len();
                let line = usize::try_from(line).unwrap_or_default();
                let snippet = Snippet::source(source).line_start(line).path(file.as_ref());
                title.element(snippet.annotation(AnnotationKind::Primary.span(span)))
            }
            None => title.element(Origin::path(file.as_ref())),
        };
        let mut group = group.element(Level::NOTE.message(format!("at {path}")));
        if !corrected.is_empty() {
            group = group.element(Level::HELP.message(format!("write\n{corrected}")));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}
