//! `doorward bench`: what one evaluation costs. How it is measured is `policy/bench`'s; this prints.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use serde::Serialize;

use super::{Exit, Output, chain, complain, print, question, source};
use crate::{
    authorizer::trial::build,
    clock,
    policy::bench::{self, AnsweredBy, Plan, Times, bench},
};

/// Shortest limit of one evaluation.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only the evaluation is measured: not the wire, identity and record of a call. Numbers of one run compare with each other,
not with those of another machine or another day.

Examples:
  doorward bench --policy policy/ --path '/orders?id=7' --peer spiffe://example.org/ns/shop/sa/reader
  doorward bench --config doorward.yaml --input check.pb --duration 10s --threads 2
  doorward bench --policy policy/ --input input.json --output json | jq .served.median_ns

Exit codes: 0 measured, 1 an evaluation failed, 3 the question or the policy cannot be used")]
pub(super) struct Args {
    #[command(flatten)]
    source: source::Args,
    /// How long to measure, all ways together
    #[arg(long, value_name = "TIME", default_value = "3s")]
    duration: humantime::Duration,
    /// How many threads evaluate at once
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    question: question::Args,
}

pub(super) fn run(args: &Args) -> Exit {
    match measure(args) {
        Ok(report) => match args.output {
            Output::Table => print(report.table()),
            Output::Json => match serde_json::to_string_pretty(&report) {
                Ok(text) => print(text),
                Err(error) => {
                    complain(error);
                    Exit::Failed
                }
            },
        },
        Err(exit) => exit,
    }
}

fn measure(args: &Args) -> Result<Report, Exit> {
    let invalid = |error: anyhow::Error| {
        complain(chain(error));
        Exit::Invalid
    };
    let (given, now) = args.question.read(clock::now()).map_err(invalid)?;
    let sidecar = args.source.open(now)?;
    let prepared = args.question.prepare(given, &sidecar, now, &mut Vec::new()).map_err(invalid)?;
    let input = build(&prepared.asked(&sidecar), &sidecar.policy, &sidecar.settings, now).input.map_err(|(reason, _)| {
        complain(format_args!("the call is denied before any policy is asked ({reason}); `doorward eval` says more"));
        Exit::Invalid
    })?;
    let plan = Plan {
        duration: Duration::from(args.duration),
        threads: usize::from(args.threads),
        // Where a busy machine makes one evaluation wait, that is no reason to stop.
        limit: sidecar.settings.evaluation.max(PATIENCE),
    };
    let set = &sidecar.policy.set;
    let measured = bench(set, &input, &plan, &progress()).map_err(|failure| {
        complain(format_args!("an evaluation failed: {} ({})", failure.detail, failure.reason));
        Exit::Failed
    })?;
    Ok(Report { measured, threads: args.threads, revision: set.revision().to_string() })
}

/// On a terminal a line that counts, overwritten; elsewhere nothing.
fn progress() -> impl Fn(u32, u32) + Sync {
    let shown = std::io::stderr().is_terminal();
    move |done, all| {
        if shown {
            let end = if done == all { "\r\x1b[K" } else { "" };
            let _ = write!(std::io::stderr().lock(), "\r{} %{end}", done * 100 / all.max(1));
        }
    }
}

/// The JSON form. Members are added, never renamed.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    measured: bench::Report,
    threads: u16,
    revision: String,
}

impl Report {
    fn table(&self) -> String {
        let Self { measured: bench::Report { answered_by, served, interpreter, ratio }, threads, revision } = self;
        let time = |ns: u64| format!("{:.1?}", Duration::from_nanos(ns));
        let row = |name: &str, times: &Times| {
            let Times { evaluations, min_ns, median_ns, p99_ns } = *times;
            format!("{name:<14}{:>10}{:>10}{:>10}{evaluations:>14}\n", time(min_ns), time(median_ns), time(p99_ns))
        };
        let by = match answered_by {
            AnsweredBy::Bytecode => format!("the bytecode, whose median is {ratio:.2} times as fast as the interpreter's"),
            AnsweredBy::Interpreter => "the interpreter: the policy is outside of what the bytecode can do".to_owned(),
            AnsweredBy::Both => "the bytecode, and the interpreter where that gives up".to_owned(),
        };
        format!(
            "{:<14}{:>10}{:>10}{:>10}{:>14}\n{}{}\nanswered by {by}\nthreads {threads}, revision {revision}",
            "",
            "min",
            "median",
            "p99",
            "evaluations",
            row("as served", served),
            row("interpreter", interpreter),
        )
    }
}
