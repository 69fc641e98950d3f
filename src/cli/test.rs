//! `doorward test`: the tests of a policy. What they are and how they are judged is `policy/testing`'s; this prints.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use regex::Regex;

use super::{Exit, complain, print};
use crate::{
    config::{self, RegoVersion},
    policy::testing::{self, Coverage, Outcome, Plan, Report, TestResult},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A test is a rule whose name begins with `test_`; it passes when it is true. `todo_test_` is skipped.

Examples:
  doorward test policy/                             all tests below a folder
  doorward test policy/ --run 'authz.test_admin'    those whose full name matches
  doorward test policy/ --coverage --threshold 90   fail below 90 % of the lines
  doorward test policy/ --output junit > tests.xml

Exit codes: 0 all passed, 1 a test failed or too few lines are covered, 3 the policy cannot be used")]
pub(super) struct Args {
    /// Files, folders and bundles with Rego, tests and data
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tests whose full name (`data.package.test_name`) matches this regular expression
    #[arg(long, value_name = "REGEX")]
    run: Option<Regex>,
    /// Say which lines the tests came by
    #[arg(long)]
    coverage: bool,
    /// Fail when fewer percent of the lines are covered
    #[arg(long, value_name = "PERCENT", requires = "coverage")]
    threshold: Option<f64>,
    /// How to print the results
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Longest time for one test
    #[arg(long, value_name = "TIME", default_value = "5s")]
    timeout: humantime::Duration,
    /// How many tests run at once; by default one a processor
    #[arg(long, value_name = "COUNT")]
    parallel: Option<usize>,
    /// The sources are Rego v0
    #[arg(long)]
    v0_compatible: bool,
    /// Show what passed too
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Junit,
}

pub(super) fn run(args: &Args) -> Exit {
    let rego = if args.v0_compatible { RegoVersion::V0 } else { RegoVersion::V1 };
    let config = config::Policy::of_paths(&args.paths, rego);
    let plan = Plan {
        only: args.run.clone(),
        limit: Duration::from(args.timeout),
        threads: args.parallel.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
        coverage: args.coverage,
    };
    let report = match testing::run(&config, &plan, &progress()) {
        Ok(report) => report,
        Err(error) => {
            complain(error);
            return Exit::Invalid;
        }
    };
    let printed = match args.output {
        Output::Table => print(table(&report, args.verbose)),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(text),
            Err(error) => failed(error),
        },
        Output::Junit => match junit(&report).to_string() {
            Ok(text) => print(text.trim_end()),
            Err(error) => failed(error),
        },
    };
    let too_few = args.threshold.zip(report.coverage.as_ref()).filter(|(wanted, coverage)| coverage.percent < *wanted);
    if let Some((wanted, coverage)) = too_few {
        complain(format_args!("{} % of the lines are covered, {wanted} % are wanted", coverage.percent));
        return Exit::Failed;
    }
    let bad = report.results.iter().any(|result| matches!(result.outcome, Outcome::Fail | Outcome::Error));
    if bad { Exit::Failed } else { printed }
}

fn failed(error: impl std::fmt::Display) -> Exit {
    complain(error);
    Exit::Failed
}

/// On a terminal a line that counts, overwritten; elsewhere nothing.
fn progress() -> impl Fn(usize, usize) + Sync {
    let shown = std::io::stderr().is_terminal();
    move |done, all| {
        if shown && (done.is_multiple_of(50) || done == all) {
            let end = if done == all { "\r\x1b[K" } else { "" };
            let _ = write!(std::io::stderr().lock(), "\r{done}/{all} tests{end}");
        }
    }
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "PASS",
        Outcome::Fail => "FAIL",
        Outcome::Skip => "SKIPPED",
        Outcome::Error => "ERROR",
    }
}

fn table(report: &Report, verbose: bool) -> String {
    let colour = std::io::stdout().is_terminal();
    let mut text = String::new();
    for result in report.results.iter().filter(|result| verbose || result.outcome != Outcome::Pass) {
        let TestResult { package, name, outcome, file, line, duration, .. } = result;
        let (open, close) = match (colour, outcome) {
            (false, _) => ("", ""),
            (true, Outcome::Pass) => ("\x1b[32m", "\x1b[0m"),
            (true, Outcome::Skip) => ("\x1b[33m", "\x1b[0m"),
            (true, Outcome::Fail | Outcome::Error) => ("\x1b[1;31m", "\x1b[0m"),
        };
        text.push_str(&format!(
            "{open}{}{close} {package}.{name} ({file}:{line}, {duration:.1?})\n{}",
            word(*outcome),
            details(result)
        ));
    }
    if let Some(coverage) = &report.coverage {
        text.push_str(&covered(coverage));
    }
    let count = |outcome| report.results.iter().filter(|result| result.outcome == outcome).count();
    let all = report.results.len();
    let parts = [Outcome::Pass, Outcome::Fail, Outcome::Error, Outcome::Skip].map(|outcome| (word(outcome), count(outcome)));
    let parts: Vec<_> = parts
        .iter()
        .filter(|(word, count)| *word == "PASS" || *count > 0)
        .map(|(word, count)| format!("{word}: {count}/{all}"))
        .collect();
    text.push_str(&parts.join(", "));
    text
}

fn details(result: &TestResult) -> String {
    let mut text = String::new();
    if let Some(error) = &result.error {
        text.push_str(&format!("  {error}\n"));
    }
    for (case, outcome) in &result.cases {
        text.push_str(&format!("  {}: {}\n", word(*outcome), testing::shown(case)));
    }
    if let Some(probe) = &result.failed_at {
        text.push_str(&format!("  {}:{}: {}\n", probe.file, probe.line, probe.expression.replace('\n', "\n    ")));
        for (term, value) in &probe.values {
            text.push_str(&format!("    {term} = {value}\n"));
        }
    }
    for line in &result.prints {
        text.push_str(&format!("  printed: {line}\n"));
    }
    text
}

fn covered(coverage: &Coverage) -> String {
    let mut text = String::new();
    for (name, file) in &coverage.files {
        let missed: Vec<_> = file.not_covered.iter().map(u32::to_string).collect();
        let missed = if missed.is_empty() { String::new() } else { format!(", not lines {}", missed.join(" ")) };
        text.push_str(&format!("{name}: {} %{missed}\n", file.percent));
    }
    text + &format!("covered: {} %\n", coverage.percent)
}

fn junit(report: &Report) -> quick_junit::Report {
    let mut junit = quick_junit::Report::new("doorward test");
    let mut suites = std::collections::BTreeMap::<&str, TestSuite>::new();
    for result in &report.results {
        let status = match result.outcome {
            Outcome::Pass => TestCaseStatus::success(),
            Outcome::Skip => TestCaseStatus::skipped(),
            Outcome::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Outcome::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
        };
        let mut case = TestCase::new(result.name.as_str(), status);
        case.set_classname(result.package.as_str()).set_time(result.duration);
        if matches!(result.outcome, Outcome::Fail | Outcome::Error) {
            case.status.set_message(format!("{}:{}", result.file, result.line)).set_description(details(result));
        }
        suites.entry(&result.package).or_insert_with(|| TestSuite::new(result.package.as_str())).add_test_case(case);
    }
    junit.add_test_suites(suites.into_values());
    junit
}
