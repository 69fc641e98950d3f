//! The load generator: starts the floor and doorward side by side, asks both the same Checks in turns, over their
//! sockets and through Envoy, and reports what an answer cost. A wrong answer ends the run. `run.sh` builds what this
//! needs and starts it.

mod client;
mod compare;
mod control;
mod drive;
mod envoy;
mod ledger;
mod mesh;
mod plan;
mod policy;
mod report;
mod server;
mod token;
mod traffic;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    compare::Comparison,
    plan::{Binaries, Extent},
    policy::Policy,
};

#[derive(Parser)]
struct Args {
    /// The doorward binary. Without it there is nothing to do: `benches/run.sh` runs this.
    #[arg(long)]
    doorward: Option<PathBuf>,
    /// The binary of the floor.
    #[arg(long, default_value = "floor")]
    floor: PathBuf,
    /// The Envoy binary; without it nothing is measured through Envoy.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Print a list of rows as JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// A few seconds only: one policy, one row, one round.
    #[arg(long)]
    quick: bool,
    /// Instead, compare two doorwards that differ in one thing; may be given several times.
    #[arg(long)]
    compare: Vec<Comparison>,
    /// Only this policy; may be given several times.
    #[arg(long)]
    policy: Vec<Policy>,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

// One thread, so that the load leaves the other core to the servers.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = tokio::select! {
        outcome = run(args) => outcome,
        // What was started ends as `run` is dropped.
        outcome = interrupted() => outcome,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Some(doorward) = args.doorward else { return Ok(()) };
    let extent = if args.quick { Extent::quick() } else { Extent::whole() };
    let policies = if args.policy.is_empty() { extent.policies.to_vec() } else { args.policy };
    let binaries = Binaries { doorward, floor: args.floor, envoy: args.envoy };
    let report = match args.compare.as_slice() {
        [] => plan::run(&binaries, &policies, &extent).await?,
        comparisons => compare::run(&binaries, comparisons, &extent).await?,
    };
    let text = if args.json { report.json()? } else { report.markdown() };
    io::stdout().write_all(text.as_bytes()).context("print the report")
}

async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    anyhow::bail!("interrupted")
}
