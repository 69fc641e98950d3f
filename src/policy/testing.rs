//! The tests of a policy: rules named `test_…` and `todo_test_…`, found, run and judged as `opa test` does. Why one
//! failed is `probe`'s; how results are printed is the command line's.

mod probe;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use regex::Regex;
use regorus::{
    Engine, Value,
    unstable::{Expr, Rule, RuleHead},
};
use serde::Serialize;

pub use self::probe::Probe;
use super::{
    builtins::context,
    check::Parsed,
    engine::{self, answer::to_json},
    library,
    load::{self, Purpose, Sources},
    mocks, names,
    problem::LoadError,
    tree::{Step, head, steps},
};
use crate::{clock, config};

/// The stack that the deepest policy needs which loads.
const STACK: usize = 16 << 20;
/// Of how many failed tests the reason is looked for: each costs a compilation.
const EXPLAINED: usize = 50;
/// What tells tests of one name apart, in place of OPA's `#`, which no identifier may have.
const AGAIN: &str = "__again_";

/// How to run tests.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Only tests whose full name (`data.package.test_name`) matches.
    pub only: Option<Regex>,
    /// Longest time for one test.
    pub limit: Duration,
    /// How many run at once.
    pub threads: usize,
    pub coverage: bool,
}

/// What all tests came to.
#[derive(Debug, Serialize)]
pub struct Report {
    pub results: Vec<TestResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TestResult {
    /// `data.a.b`.
    pub package: String,
    pub name: String,
    pub outcome: Outcome,
    pub file: String,
    pub line: u32,
    #[serde(rename = "duration_ns", serialize_with = "nanoseconds")]
    pub duration: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The cases of a test with names in brackets, `test_x[name]`, and whether each passed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "joined")]
    pub cases: BTreeMap<Case, Outcome>,
    /// Where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Probe>,
    /// What the policy printed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prints: Vec<String>,
}

/// What stands in the brackets, and in those of its value where that is an object.
pub type Case = Vec<String>;

/// The name of a case as it is shown.
pub fn shown(case: &[String]) -> String {
    case.join(" / ")
}

fn joined<S: serde::Serializer>(cases: &BTreeMap<Case, Outcome>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(cases.iter().map(|(case, outcome)| (shown(case), outcome)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Pass,
    Fail,
    Skip,
    Error,
}

/// The lines that tests came by, and those they did not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// Percent of the lines that could be evaluated.
    pub percent: f64,
    pub files: BTreeMap<String, FileCoverage>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct FileCoverage {
    pub percent: f64,
    pub covered: BTreeSet<u32>,
    pub not_covered: BTreeSet<u32>,
}

fn nanoseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Loads what `config` names with its tests, and runs them. `progress` is told how many are done, of how many.
pub fn run(config: &config::Policy, plan: &Plan, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Report, LoadError> {
    let mut sources = load::read_for(Purpose::Test, config)?;
    let (_, parsed) = engine::compile_for(Purpose::Test, sources.clone(), config)?;
    tell_apart(&mut sources, &parsed);
    let (engine, parsed) = engine::compile_for(Purpose::Test, sources.clone(), config)?;
    let mut tests: Vec<Test<'_>> =
        parsed.iter().flat_map(|parsed| parsed.module.policy.iter().filter_map(|rule| Test::of(parsed, rule))).collect();
    tests.retain(|test| plan.only.as_ref().is_none_or(|only| only.is_match(&format!("{}.{}", test.package, test.shown))));
    let (results, coverage) = run_all(&engine, &tests, plan, progress);
    let mut results = results;
    let mut explained = 0;
    for (test, result) in tests.iter().zip(&mut results) {
        // The cases belong to the verdict, so that they are looked for however many tests failed before.
        let has_cases = test.keys.is_some() && matches!(result.outcome, Outcome::Pass | Outcome::Fail);
        if has_cases || (result.outcome == Outcome::Fail && explained < EXPLAINED) {
            explained += usize::from(result.outcome == Outcome::Fail);
            probe::explain(test, result, &sources, config, plan.limit);
        }
    }
    Ok(Report { results, coverage: plan.coverage.then(|| total(coverage)) })
}

/// One test rule.
struct Test<'a> {
    rule: &'a Rule,
    package: String,
    /// Path below `data`.
    path: Vec<String>,
    /// The name as OPA shows it.
    shown: String,
    file: String,
    line: u32,
    skip: bool,
    is_function: bool,
    /// What follows the name in the head of a test with cases.
    keys: Option<Vec<Step<'a>>>,
}

impl<'a> Test<'a> {
    fn of(parsed: &'a Parsed, rule: &'a Rule) -> Option<Self> {
        let head = head(rule);
        let (base, steps) = steps(head);
        let Expr::Var { span, .. } = base else { return None };
        let parts: Vec<&str> = std::iter::once(span.text()).chain(steps.iter().map_while(Step::name)).collect();
        let at = parts.iter().position(|part| part.starts_with("test_") || part.starts_with("todo_test_"))?;
        let own: Vec<String> = parts.iter().take(at + 1).map(|part| (*part).to_owned()).collect();
        let package = names::package(&parsed.module);
        let is_object = steps.iter().any(is_open) && matches!(rule, Rule::Spec { head: RuleHead::Compr { .. }, .. });
        Some(Self {
            rule,
            package: std::iter::once("data").chain(package.iter().map(String::as_str)).collect::<Vec<_>>().join("."),
            shown: own.join(".").replace(AGAIN, "#"),
            skip: own.last().is_some_and(|name| name.starts_with("todo_test_")),
            path: package.into_iter().chain(own).collect(),
            file: span.source.get_path().clone(),
            line: span.line,
            is_function: names::rule_kind(rule) != names::RuleKind::Value,
            keys: is_object.then(|| steps.into_iter().skip(at).collect()),
        })
    }

    fn result(&self, outcome: Outcome) -> TestResult {
        TestResult {
            package: self.package.clone(),
            name: self.shown.clone(),
            outcome,
            file: self.file.clone(),
            line: self.line,
            duration: Duration::ZERO,
            error: None,
            cases: BTreeMap::new(),
            failed_at: None,
            prints: Vec::new(),
        }
    }

    fn run(&self, engine: &mut Engine, limit: Duration) -> TestResult {
        if self.skip {
            return self.result(Outcome::Skip);
        }
        let failed = |error: String| TestResult { error: Some(error), ..self.result(Outcome::Error) };
        if self.is_function {
            return failed("is a function; a test takes no arguments".to_owned());
        }
        let rule = engine::rule_path(&self.path);
        let start = Instant::now();
        let value = catch_unwind(AssertUnwindSafe(|| evaluate(engine, &rule, limit)));
        let duration = start.elapsed();
        let result = match value {
            Ok(Ok(value)) => self.judge(&value),
            Ok(Err(error)) if engine::is_timeout(&error) => {
                failed(format!("no answer within {}; raise --timeout", humantime::format_duration(limit)))
            }
            // Only parts of it are rules, so that it is an object, and no test with cases.
            Ok(Err(error)) if error.to_string().contains("not a valid rule path") => self.result(Outcome::Fail),
            Ok(Err(error)) => failed(engine::one_line(&error)),
            Err(panic) => failed(format!("the engine panicked: {}", engine::panic_text(&*panic))),
        };
        let prints = engine.take_prints().unwrap_or_default();
        TestResult { duration, prints, ..result }
    }

    /// As OPA: a test is the value `true`, and one with cases an object that holds nothing else.
    fn judge(&self, value: &Value) -> TestResult {
        let pass = |good: bool| if good { Outcome::Pass } else { Outcome::Fail };
        match (value, &self.keys) {
            (Value::Object(fields), Some(_)) => {
                let mut cases = BTreeMap::new();
                fields.iter().for_each(|(key, value)| leaves(vec![case_name(key)], value, &mut cases));
                let good = cases.values().all(|outcome| *outcome == Outcome::Pass);
                TestResult { cases, ..self.result(pass(good)) }
            }
            (value, _) => self.result(pass(*value == Value::Bool(true))),
        }
    }
}

fn is_open(step: &Step<'_>) -> bool {
    let is_constant = |index: &Expr| matches!(index, Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. });
    matches!(step, Step::Index(index) if step.name().is_none() && !is_constant(index))
}

fn case_name(key: &Value) -> String {
    match key {
        Value::String(text) => text.to_string(),
        other => to_json(other).map_or_else(|_| "?".to_owned(), |json| json.to_string()),
    }
}

/// The cases within an object: whatever is no object is one.
fn leaves(case: Case, value: &Value, cases: &mut BTreeMap<Case, Outcome>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(key, value)| leaves([&case[..], &[case_name(key)]].concat(), value, cases));
        }
        Value::Object(_) | Value::Bool(true) => drop(cases.insert(case, Outcome::Pass)),
        _ => drop(cases.insert(case, Outcome::Fail)),
    }
}

fn evaluate(engine: &mut Engine, rule: &str, limit: Duration) -> Result<Value, anyhow::Error> {
    engine.set_execution_timer_config(regorus::utils::limits::ExecutionTimerConfig {
        limit,
        check_interval: engine::CHECK_INTERVAL,
    });
    // A test without `with input` has none.
    engine.set_input(Value::Undefined);
    context::begin(i64::try_from(clock::now().ns).unwrap_or(i64::MAX));
    engine::limited(engine.eval_rule(rule.to_owned()))
}

/// Gives rules that repeat a test's name names of their own: to OPA each is a test, to the engine one rule.
fn tell_apart(sources: &mut Sources, parsed: &[Parsed]) {
    let mut seen: HashMap<Vec<String>, usize> = HashMap::new();
    let mut renames: Vec<(String, u32, u32, usize, String)> = Vec::new();
    for test in parsed.iter().flat_map(|parsed| parsed.module.policy.iter().filter_map(|rule| Test::of(parsed, rule))) {
        let count = seen.entry(test.path.clone()).or_insert(0);
        let (Expr::Var { span, .. }, false) = (steps(head(test.rule)).0, test.skip) else { continue };
        // Only plain names: what follows a dot is told apart by nobody.
        if *count > 0 && test.path.last().is_some_and(|name| name == span.text()) && !matches!(test.rule, Rule::Default { .. }) {
            let new = format!("{}{AGAIN}{count:02}", span.text());
            renames.push((test.file, span.line, span.col, span.text().len(), new));
        }
        *count += 1;
    }
    // From the end, so that places before stay where they are.
    for (file, line, _, length, new) in renames.into_iter().rev() {
        let Some(module) = sources.modules.iter_mut().find(|module| module.name == file) else { continue };
        let before: usize = module.text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
        let old = new.split(AGAIN).next().unwrap_or_default();
        let found = module.text.get(before..).and_then(|rest| rest.find(old)).map(|at| before + at);
        if let Some(at) = found {
            module.text.replace_range(at..at + length, &new);
        }
    }
}

type Lines = BTreeMap<String, (BTreeSet<u32>, BTreeSet<u32>)>;

fn run_all(
    engine: &Engine,
    tests: &[Test<'_>],
    plan: &Plan,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> (Vec<TestResult>, Lines) {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<BTreeMap<usize, TestResult>> = Mutex::default();
    let lines: Mutex<Lines> = Mutex::default();
    let work = || {
        let fresh = || {
            let mut engine = engine.clone();
            engine.set_enable_coverage(plan.coverage);
            engine
        };
        let mut own = fresh();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(test) = tests.get(index) else { break };
            let result = test.run(&mut own, plan.limit);
            let broken = result.outcome == Outcome::Error;
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
            if broken {
                // An engine that failed stands in the middle of a rule.
                note(&own, &lines, plan);
                own = fresh();
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, tests.len());
        }
        note(&own, &lines, plan);
    };
    thread::scope(|scope| {
        for _ in 0..plan.threads.clamp(1, tests.len().max(1)) {
            // Where no thread can be had, the others do its work.
            let _ = thread::Builder::new().name("policy-test".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all = tests.iter().enumerate().map(|(index, test)| {
        results
            .remove(&index)
            .unwrap_or_else(|| TestResult { error: Some("did not run".to_owned()), ..test.result(Outcome::Error) })
    });
    (all.collect(), lines.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn note(engine: &Engine, lines: &Mutex<Lines>, plan: &Plan) {
    if !plan.coverage {
        return;
    }
    let Ok(report) = engine.get_coverage_report() else { return };
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    for file in report.files.into_iter().filter(|file| file.path != mocks::PACKAGE) {
        let (covered, missed) = lines.entry(file.path).or_default();
        covered.extend(file.covered);
        missed.extend(file.not_covered);
    }
}

fn total(lines: Lines) -> Coverage {
    let percent = |covered: usize, missed: usize| match covered + missed {
        0 => 100.0,
        all => (covered as f64 * 10_000.0 / all as f64).round() / 100.0,
    };
    let files: BTreeMap<String, FileCoverage> = lines
        .into_iter()
        .filter(|(name, _)| !library::is_built_in(name))
        .map(|(name, (covered, missed))| {
            let not_covered: BTreeSet<u32> = missed.difference(&covered).copied().collect();
            (name, FileCoverage { percent: percent(covered.len(), not_covered.len()), covered, not_covered })
        })
        .collect();
    let (covered, missed) =
        files.values().fold((0, 0), |(covered, missed), file| (covered + file.covered.len(), missed + file.not_covered.len()));
    Coverage { percent: percent(covered, missed), files }
}

#[cfg(test)]
mod tests;
