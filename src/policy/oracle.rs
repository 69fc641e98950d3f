//! OPA as the oracle: its own suite of cases, run through our way of loading and evaluating. Tests only; what differs
//! is mended elsewhere in this module's parent, or refused there at load.

mod report;
mod suite;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use self::{
    report::Report,
    suite::{Case, Outcome},
};

const STACK: usize = 64 << 20;

/// The folder of OPA's cases, from `tests/peers.sh path opa-cases`, which `tests/conformance.sh` hands over.
fn cases() -> Option<PathBuf> {
    let folder = env::var_os("OPA_CASES").map(PathBuf::from);
    if folder.is_none() && env::var_os("REQUIRE_PEERS").is_some() {
        panic!("OPA_CASES is not set: run `bash tests/conformance.sh`");
    }
    folder
}

#[test]
fn opas_suite_is_answered_as_by_opa_or_refused() {
    let Some(folder) = cases() else {
        return eprintln!("SKIPPED: OPA's suite; run `bash tests/conformance.sh`");
    };
    let only = env::var("OPA_CASE").ok();
    let mut cases: Vec<Case> = Vec::new();
    for version in ["v0", "v1"] {
        cases.extend(suite::read(&folder.join(version), version));
    }
    cases.retain(|case| only.as_ref().is_none_or(|only| case.note.contains(only.as_str())));
    let outcomes = run(&cases);
    let report = Report::of(&cases, &outcomes);
    if only.is_some() {
        return report.print_all();
    }
    report.check_against(Path::new("tests/conformance.md"));
}

/// Runs all cases on as many threads as there are cores; the outcomes are in the order of the cases.
fn run(cases: &[Case]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; cases.len()]);
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            let work = || {
                while let Some((index, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cases.get(at)?)))
                {
                    let outcome = case.run();
                    outcomes.lock().unwrap()[index] = Some(outcome);
                }
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).unwrap();
        }
    });
    outcomes.into_inner().unwrap().into_iter().map(|outcome| outcome.expect("every case has run")).collect()
}

/// Every `.yaml` file below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "yaml") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}
