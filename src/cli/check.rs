//! `doorward check`: everything that is wrong with a policy set. What is looked for, and the words for it, are `policy`'s;
//! this prints. `envoy` is the same for an Envoy configuration.

mod envoy;

use std::{io::IsTerminal as _, path::PathBuf};

use serde::Serialize;

use super::{Exit, Output, complain, print};
use crate::{
    clock::{self, Now},
    config::{self, RegoVersion},
    policy::{
        inspect::{Decision, Inspection, inspect},
        problem::{Problem, Severity},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Sources are loaded as `doorward serve` loads them, all together. Tests beside them (`*_test.rego`) are not looked at.
Without --decision a set that has nothing in the package `envoy.authz` is taken for a library.

Examples:
  doorward check policy/                               a folder
  doorward check policy/ --decision authz/allow        the rule that decides, by name
  doorward check bundle.tar.gz --strict                warnings count too
  doorward check --config doorward.yaml                its bundles, signatures, limits and shadow
  doorward check policy/ --output json | jq .findings
  doorward check --envoy envoy.yaml                    what weakens doorward in an Envoy configuration
  doorward check --envoy dump.json --config doorward.yaml    the answer of /config_dump, and where the two disagree

Exit codes: 0 nothing is wrong, 1 there are warnings and --strict, 3 the policy would be refused; with --envoy: 0 no error,
1 there are errors, or warnings and --strict, 3 the file cannot be read")]
pub(super) struct Args {
    /// Files, folders and bundles with Rego and data
    #[arg(required_unless_present_any = ["config", "envoy"], conflicts_with_all = ["config", "envoy"], value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Check the policy of this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check this Envoy configuration instead: a bootstrap, or the answer of the admin's `/config_dump`; with --config
    /// also against ours
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The rule that decides, as a path below `data`
    #[arg(long, value_name = "PATH", conflicts_with = "envoy")]
    decision: Option<String>,
    /// The sources are Rego v0
    #[arg(long, conflicts_with_all = ["config", "envoy"])]
    v0_compatible: bool,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Exit {
    if let Some(file) = &args.envoy {
        return envoy::run(file, args.config.as_deref(), args.strict, args.output);
    }
    let looked = match look(args, clock::now()) {
        Ok(looked) => looked,
        Err(error) => {
            complain(super::chain(error));
            return Exit::Invalid;
        }
    };
    let report = Report::new(looked);
    let printed = match args.output {
        Output::Table => print(report.table()),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(text),
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        },
    };
    match report.counts {
        Counts { errors: 1.., .. } => Exit::Invalid,
        Counts { warnings: 1.., .. } if args.strict => Exit::Failed,
        Counts { .. } => printed,
    }
}

/// Each policy set that is checked, with the path of its rule that decides.
fn look(args: &Args, now: Now) -> Result<Vec<(String, Inspection)>, config::ConfigError> {
    let (policies, decision) = match &args.config {
        Some(file) => {
            let policy = config::load(file)?.policy;
            let shadow = policy.of_shadow();
            (std::iter::once(policy).chain(shadow).collect(), Decision::Needed)
        }
        None => {
            let rego = if args.v0_compatible { RegoVersion::V0 } else { RegoVersion::V1 };
            let needed = if args.decision.is_some() { Decision::Needed } else { Decision::Assumed };
            (vec![config::Policy::of_paths(&args.paths, rego)], needed)
        }
    };
    let look = |mut policy: config::Policy| {
        if let Some(path) = &args.decision {
            policy.decision.clone_from(path);
        }
        let found = inspect(&policy, decision, now);
        (policy.decision, found)
    };
    Ok(policies.into_iter().map(look).collect())
}

/// The JSON form. Members are added, never renamed.
#[derive(Serialize)]
struct Report {
    findings: Vec<Problem>,
    counts: Counts,
    /// The rule that was taken to decide; null for a library.
    decision: Option<String>,
}

#[derive(Serialize, Clone, Copy)]
struct Counts {
    errors: usize,
    warnings: usize,
    notes: usize,
}

impl Counts {
    fn of(severities: impl Iterator<Item = Severity>) -> Self {
        let mut counts = Self { errors: 0, warnings: 0, notes: 0 };
        for severity in severities {
            match severity {
                Severity::Error => counts.errors += 1,
                Severity::Warning => counts.warnings += 1,
                Severity::Note => counts.notes += 1,
            }
        }
        counts
    }
}

impl Report {
    fn new(looked: Vec<(String, Inspection)>) -> Self {
        let decision = looked.first().and_then(|(path, found)| found.decides.then(|| path.clone()));
        let mut findings: Vec<Problem> = Vec::new();
        for problem in looked.into_iter().flat_map(|(_, found)| found.findings) {
            // The shadow may share files with the set in force.
            if !findings.contains(&problem) {
                findings.push(problem);
            }
        }
        findings.sort_by_key(Problem::severity);
        let counts = Counts::of(findings.iter().map(Problem::severity));
        Self { findings, counts, decision }
    }

    fn table(&self) -> String {
        let colour = std::io::stdout().is_terminal();
        let mut text = String::new();
        for problem in &self.findings {
            text.push_str(&problem.report(colour));
            text.push_str("\n\n");
        }
        if self.decision.is_none() {
            text.push_str("no rule decides here, so this was checked as a library; `--decision` names one\n");
        }
        text + &self.counts.to_string()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.errors, "error"), (self.warnings, "warning"), (self.notes, "note")];
        let said: Vec<_> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
            .collect();
        if said.is_empty() { f.write_str("nothing is wrong") } else { f.write_str(&said.join(", ")) }
    }
}
