//! OPA's own suite through our load path. Each case ends as one [`Outcome`]; the table of them is
//! `tests/conformance.md`, which this run checks, and writes when `UPDATE=1`. `case` reads and runs single cases,
//! `report` makes the table, `exception` lists the cases that may differ.

mod case;
mod exception;
mod report;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::case::Case;
use super::peer;

/// Which cases a worker takes: `FIRST/STEP`, every `STEP`th from `FIRST` on.
const WORKER: &str = "DOORWARD_CONFORMANCE_WORKER";
const WORKERS: usize = 2;
/// A worker that says nothing for so long hangs in a built-in function.
const PATIENCE: Duration = Duration::from_secs(60);
/// What begins the lines in which a worker tells its outcomes; the rest is the test runner's.
const MARK: &str = "@@";

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    /// OPA's answer.
    Pass,
    /// An error where OPA has one.
    ExpectedError,
    /// Refused at load.
    Refused { code: String, text: String },
    /// Another answer than OPA's, or an error where OPA has an answer.
    Wrong(String),
    /// An answer where OPA has an error.
    Missed(String),
    /// The engine panicked, ended the process or did not come back.
    Panic(String),
}

fn cases() -> Option<Vec<Case>> {
    peer("opa-cases", "CONFORMANCE").map(|folder| case::read(&folder))
}

/// Runs the whole suite in processes of its own, so that a case that overflows the stack ends only itself.
#[test]
fn opas_own_cases_are_answered_as_by_opa_or_refused() {
    let Some(cases) = cases() else { return };
    let outcomes: BTreeMap<usize, Outcome> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|first| scope.spawn(move || supervise(first))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(outcomes.len(), cases.len(), "some cases have no outcome");
    let results: Vec<_> = cases.iter().zip(outcomes.into_values()).collect();
    if let Some(path) = env::var_os("CONFORMANCE_DETAIL") {
        let lines = results.iter().map(|(case, outcome)| format!("{}\t{outcome:?}\n", case.name));
        std::fs::write(path, lines.collect::<String>()).unwrap();
    }
    let report = report::report(&results);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance.md");
    if env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &report.text).unwrap();
    }
    assert!(report.failures.is_empty(), "{} cases fail:\n{}", report.failures.len(), report.failures.join("\n"));
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == report.text, "tests/conformance.md is out of date: run `bash tests/conformance.sh --update`");
}

/// Runs every `WORKERS`th case from `first` on, with a new process after each that is lost.
fn supervise(first: usize) -> BTreeMap<usize, Outcome> {
    let mut outcomes = BTreeMap::new();
    let mut next = first;
    loop {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "policy::oracle::conformance::worker", "--nocapture"])
            .env(WORKER, format!("{next}/{WORKERS}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut started = None;
        let end = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let Some((_, said)) = line.split_once(MARK) else { continue };
                    let (index, outcome): (usize, Option<Outcome>) = serde_json::from_str(said).unwrap();
                    started = outcome.is_none().then_some(index);
                    outcomes.extend(outcome.map(|outcome| (index, outcome)));
                }
                Err(RecvTimeoutError::Timeout) => break "did not come back",
                Err(RecvTimeoutError::Disconnected) => break "ended the process",
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        let _ = reader.join().unwrap();
        let Some(lost) = started else { return outcomes };
        outcomes.insert(lost, Outcome::Panic(end.to_owned()));
        next = lost + WORKERS;
    }
}

/// Not a test by itself: what [`supervise`] starts.
#[test]
fn worker() {
    let Ok(part) = env::var(WORKER) else { return };
    let (first, step) = part.split_once('/').map(|(first, step)| (first.parse().unwrap(), step.parse().unwrap())).unwrap();
    let cases = cases().unwrap();
    let work = move || {
        for (index, case) in cases.iter().enumerate().skip(first).step_by(step) {
            tell(index, None);
            tell(index, Some(case.run()));
        }
    };
    thread::Builder::new().stack_size(16 << 20).spawn(work).unwrap().join().unwrap();
}

fn tell(index: usize, outcome: Option<Outcome>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{}", serde_json::to_string(&(index, outcome)).unwrap()).unwrap();
    out.flush().unwrap();
}

/// The folder that holds a case, without what says its Rego version.
fn folder(file: &Path) -> PathBuf {
    file.parent().map(|folder| folder.iter().skip(1).collect()).unwrap_or_default()
}
