//! What one evaluation costs, without a server around it: doorward's engine room, plain regorus (`Engine::eval_rule`,
//! nothing of ours) and `opa bench`, for the same policies and the same input, in turns in one run.

#[path = "load/policy.rs"]
mod policy;

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use doorward::Measured;
use nix::time::{ClockId, clock_gettime};
use regorus::{Engine, Value};
use serde::Serialize;
use serde_json::json;

use crate::policy::Policy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Those whose Rego differs.
const POLICIES: [Policy; 4] = [Policy::Rbac10, Policy::Lookup1000, Policy::Glob50, Policy::Regex50];

/// What the policies know of the traffic.
mod traffic {
    pub(crate) const CALLER: &str = "spiffe://bench.example/ns/shop/sa/checkout";
}

const INPUT: &str = include_str!("policies/input.json");
const RULE: &str = "data.envoy.authz.allow";
/// As decisions have it.
const STACK: usize = 16 << 20;

#[derive(Parser)]
struct Args {
    /// The opa binary; without it only doorward and plain regorus are measured.
    #[arg(long)]
    opa: Option<PathBuf>,
    /// Measure. Without it there is nothing to do: `benches/run.sh` runs this.
    #[arg(long)]
    run: bool,
    /// Print a list of rows as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// One round of a few milliseconds, and no opa.
    #[arg(long)]
    quick: bool,
    /// Only this policy; may be given several times.
    #[arg(long)]
    policy: Vec<Policy>,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The JSON form is for scripts, so its keys stay.
#[derive(Debug, Clone, Serialize)]
struct Row {
    /// `doorward`, `regorus` or `opa`.
    engine: &'static str,
    policy: &'static str,
    /// Of the thread that evaluates; of opa, elapsed.
    ns_per_evaluation: f64,
    /// Against plain regorus.
    of_plain: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.run {
        return Ok(());
    }
    let json = args.json;
    let thread = thread::Builder::new().stack_size(STACK).spawn(move || measure(&args)).context("start a thread")?;
    let rows = thread.join().map_err(|_| anyhow!("the thread that measures panicked"))??;
    let text = if json { serde_json::to_string_pretty(&rows).context("write JSON")? + "\n" } else { table(&rows) };
    io::stdout().write_all(text.as_bytes()).context("print the report")
}

fn measure(args: &Args) -> anyhow::Result<Vec<Row>> {
    let (rounds, span) = if args.quick { (1, Duration::from_millis(5)) } else { (15, Duration::from_millis(100)) };
    let policies = if args.policy.is_empty() { POLICIES.to_vec() } else { args.policy.clone() };
    let folder = tempfile::Builder::new().prefix("doorward-bench-").tempdir().context("make a folder")?;
    let input = folder.path().join("input.json");
    fs::write(&input, INPUT).context("write the input")?;
    let mut rows = Vec::new();
    for policy in policies {
        let own = folder.path().join(policy.name());
        policy.write(&own)?;
        let ours = Measured::load(&own, INPUT).map_err(|error| anyhow!("{}: {error}", policy.name()))?;
        let mut plain = Plain::load(&own)?;
        let (mut of_ours, mut of_plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            of_ours.push(round(span, || Ok(ours.evaluate().map_err(|error| anyhow!(error))? == Some(json!(true))))?);
            of_plain.push(round(span, || plain.evaluate())?);
        }
        let plain = median(of_plain);
        let mut row = |engine, ns: f64| {
            rows.push(Row {
                engine,
                policy: policy.name(),
                ns_per_evaluation: ns.round(),
                of_plain: (ns / plain * 100.0).round() / 100.0,
            });
        };
        row("doorward", median(of_ours));
        row("regorus", plain);
        if let Some(opa) = args.opa.as_ref().filter(|_| !args.quick) {
            row("opa", opa_bench(opa, &own, &input)?);
        }
    }
    Ok(rows)
}

/// The engine as its documentation shows it.
struct Plain {
    engine: Engine,
    input: Value,
}

impl Plain {
    fn load(folder: &Path) -> anyhow::Result<Self> {
        let mut engine = Engine::new();
        engine.add_policy_from_file(folder.join("policy.rego")).context("load the policy")?;
        let data = folder.join("data.json");
        if data.exists() {
            engine.add_data(Value::from_json_file(data).context("read the data")?).context("load the data")?;
        }
        Ok(Self { engine, input: Value::from_json_str(INPUT).context("read the input")? })
    }

    fn evaluate(&mut self) -> anyhow::Result<bool> {
        self.engine.set_input(self.input.clone());
        Ok(self.engine.eval_rule(RULE.to_owned())? == Value::from(true))
    }
}

/// Processor time of one evaluation in nanoseconds, over as many as fit into `span`.
fn round(span: Duration, mut evaluate: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<f64> {
    let clock = || -> anyhow::Result<Duration> {
        Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock of a thread")?.into())
    };
    // Warms up, and bytecode answers alone only once the interpreter has agreed often enough.
    for _ in 0..100 {
        if !evaluate()? {
            bail!("the call must be allowed and is not");
        }
    }
    let (mut count, began) = (0_u32, clock()?);
    loop {
        for _ in 0..50 {
            evaluate()?;
        }
        count += 50;
        let elapsed = clock()? - began;
        if elapsed >= span {
            return Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count));
        }
    }
}

/// What `opa bench` says of a prepared query, in nanoseconds.
fn opa_bench(opa: &Path, folder: &Path, input: &Path) -> anyhow::Result<f64> {
    let output = Command::new(opa)
        .args(["bench", "--format", "json", "--optimize-store-for-read-speed", "--data"])
        .arg(folder)
        .arg("--input")
        .arg(input)
        .arg(RULE)
        .output()
        .context("run opa")?;
    if !output.status.success() {
        bail!("opa bench failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).context("read what opa bench says")?;
    let field = |key: &str| result.get(key).and_then(serde_json::Value::as_f64).with_context(|| format!("opa says no `{key}`"));
    Ok(field("T")? / field("N")?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(rows: &[Row]) -> String {
    let mut text = "| policy | engine | µs/evaluation | × plain regorus |\n|---|---|--:|--:|\n".to_owned();
    for row in rows {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "| {} | {} | {:.1} | {:.2} |", row.policy, row.engine, row.ns_per_evaluation / 1e3, row.of_plain);
    }
    text
}
