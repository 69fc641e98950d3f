//! How long evaluations take: as calls are answered, and by the interpreter alone beside it, in turns, so that whatever
//! else the machine does falls on both. What is printed of it is the command line's.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{PolicySet, engine::Failure, input::Input};
use crate::verdict::Reason;

/// The stack that the deepest policy needs which loads; decisions run on as much.
const STACK: usize = 16 * 1024 * 1024;
/// Turns that both ways have together.
const TURNS: u32 = 20;
/// Evaluations before the first turn, on each thread: the bytecode answers alone only after the first 64.
const WARM_UP: u32 = 200;
/// Times that a thread keeps of each way; beyond it every second one is dropped, and so on.
const KEPT: usize = 1 << 18;

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// For both ways together.
    pub duration: Duration,
    pub threads: usize,
    /// Longest evaluation.
    pub limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub answered_by: AnsweredBy,
    /// As calls are answered.
    pub served: Times,
    pub interpreter: Times,
    /// Median of the interpreter to median as served.
    pub ratio: f64,
}

/// What answers calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnsweredBy {
    Bytecode,
    Interpreter,
    /// The bytecode gave some up to the interpreter.
    Both,
}

/// Times of single evaluations, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    pub evaluations: u64,
    pub min_ns: u64,
    pub median_ns: u64,
    pub p99_ns: u64,
}

/// Measures; `progress` is told how many turns are over, of how many. The first evaluation that fails ends it.
pub fn bench(set: &PolicySet, input: &Input, plan: &Plan, progress: &(dyn Fn(u32, u32) + Sync)) -> Result<Report, Failure> {
    let before = set.bytecode_answers();
    let work = |shown: bool| {
        move || {
            let mut both = [Samples::new(), Samples::new()];
            for _ in 0..WARM_UP {
                set.evaluate(input, plan.limit)?;
                set.interpret(input, plan.limit)?;
            }
            let (start, slice) = (Instant::now(), plan.duration / TURNS);
            for turn in 0..TURNS {
                let [served, interpreter] = &mut both;
                match turn % 2 {
                    0 => served.take(start + slice * (turn + 1), || set.evaluate(input, plan.limit).map(drop))?,
                    _ => interpreter.take(start + slice * (turn + 1), || set.interpret(input, plan.limit).map(drop))?,
                }
                if shown {
                    progress(turn + 1, TURNS);
                }
            }
            Ok(both)
        }
    };
    let all: Vec<Result<[Samples; 2], Failure>> = thread::scope(|scope| {
        let begin = |number| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work(number == 0));
        let threads: Vec<_> = (0..plan.threads.max(1)).map(begin).collect();
        threads.into_iter().map(|thread| thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(lost)).collect()
    });
    let mut both = [Samples::new(), Samples::new()];
    for samples in all {
        both.iter_mut().zip(samples?).for_each(|(all, one)| all.append(one));
    }
    let [served, interpreter] = both;
    let warm_up = u64::from(WARM_UP) * plan.threads.max(1) as u64;
    let by_bytecode = set.bytecode_answers().unwrap_or(0).saturating_sub(before.unwrap_or(0));
    let answered_by = match by_bytecode {
        0 => AnsweredBy::Interpreter,
        count if count >= served.count + warm_up => AnsweredBy::Bytecode,
        _ => AnsweredBy::Both,
    };
    let (served, interpreter) = (served.times(), interpreter.times());
    let ratio = interpreter.median_ns as f64 / served.median_ns.max(1) as f64;
    Ok(Report { answered_by, served, interpreter, ratio: (ratio * 100.0).round() / 100.0 })
}

fn lost() -> Result<[Samples; 2], Failure> {
    Err(Failure { reason: Reason::InternalError, detail: "a thread broke off".to_owned(), place: None })
}

/// A bounded choice of times, evenly spread.
#[derive(Debug, Clone)]
struct Samples {
    kept: Vec<u64>,
    /// Each one kept stands for so many.
    stride: u64,
    count: u64,
}

impl Samples {
    const fn new() -> Self {
        Self { kept: Vec::new(), stride: 1, count: 0 }
    }

    /// Times `one` until `end`, at least once.
    fn take(&mut self, end: Instant, one: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
        loop {
            let began = Instant::now();
            one()?;
            let over = Instant::now();
            self.add(over - began);
            if over >= end {
                return Ok(());
            }
        }
    }

    fn add(&mut self, took: Duration) {
        if self.count.is_multiple_of(self.stride) {
            self.kept.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
        self.count += 1;
        if self.kept.len() >= KEPT {
            let mut index = 0_usize;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }

    fn append(&mut self, other: Self) {
        self.kept.extend(other.kept);
        self.count += other.count;
    }

    fn times(mut self) -> Times {
        self.kept.sort_unstable();
        let at = |percent: usize| self.kept.get(self.kept.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
        Times { evaluations: self.count, min_ns: at(0), median_ns: at(50), p99_ns: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::engine::tests::{input, load};

    #[test]
    fn samples_are_bounded_and_spread() {
        let mut samples = Samples::new();
        let all = 3 * KEPT as u64;
        (0..all).for_each(|ns| samples.add(Duration::from_nanos(ns)));
        assert!(samples.kept.len() < KEPT && samples.stride == 4);
        let Times { evaluations, min_ns, median_ns, p99_ns } = samples.times();
        assert_eq!((evaluations, min_ns), (all, 0));
        assert!(median_ns.abs_diff(all / 2) <= 8 && p99_ns.abs_diff(all * 99 / 100) <= 8, "{median_ns} {p99_ns}");
        assert_eq!(Samples::new().times(), Times::default());
    }

    #[test]
    fn both_ways_are_measured_and_the_one_that_answers_is_told() {
        let plan = Plan { duration: Duration::from_millis(40), threads: 2, limit: Duration::from_secs(5) };
        for (policy, expected) in [
            ("package authz\ndefault allow := false\nallow if input.user == \"a\"\n", AnsweredBy::Bytecode),
            ("package authz\ndefault allow := false\nallow if sprintf(\"%v\", [input.user]) == \"a\"\n", AnsweredBy::Interpreter),
        ] {
            let set = load(&[("a.rego", policy)], "authz/allow").unwrap();
            let report = bench(&set, &input(r#"{"user": "a"}"#), &plan, &|_, _| ()).unwrap();
            assert_eq!(report.answered_by, expected, "{report:?}");
            for times in [report.served, report.interpreter] {
                assert!(times.evaluations > 0 && 0 < times.min_ns && times.min_ns <= times.median_ns, "{report:?}");
                assert!(times.median_ns <= times.p99_ns, "{report:?}");
            }
        }
        let failing = load(&[("a.rego", "package authz\nallow := input.x\nallow := input.y\n")], "authz/allow").unwrap();
        let failed = bench(&failing, &input(r#"{"x": 1, "y": 2}"#), &plan, &|_, _| ()).unwrap_err();
        assert_eq!(failed.reason, Reason::PolicyError);
    }
}
