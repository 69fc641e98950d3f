//! From sources to an engine that is ready to evaluate.

use std::{
    collections::{BTreeSet, HashSet},
    num::{NonZeroU32, NonZeroUsize},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
    time::Duration,
};

use regorus::{
    Engine, PolicyLengthConfig, Rc, Source, Value,
    unstable::{Module, Parser, Rule, RuleHead},
};

use super::{bytecode::Bytecode, run};
use crate::{
    config::{self, RegoVersion},
    policy::{
        builtins::{self, Errors},
        check::{self, Parsed},
        library,
        load::{self, Purpose, Sources},
        mocks,
        names::{self, Names, RuleKind, Rules},
        problem::{Code, LoadError, Problem, Severity},
        rewrite::{
            self, Whole,
            lexical::{self, Lowered},
        },
        tree::is_open,
        wanted::Wanted,
    },
};

/// Longest line of a module in characters.
pub(in crate::policy) const MAX_COLUMNS: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();
pub(super) const MAX_LINES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();
/// What the engine must take as one text in any case: OPA's suite asks with queries of its own.
const MIN_FILE_BYTES: usize = 1 << 16;
/// The stack that the deepest policy needs which passes the checks; decisions run on as much.
const STACK: usize = 16 << 20;
/// The first evaluation warms up and may share its processor with a start-up.
const SMOKE_LIMIT: Duration = Duration::from_secs(2);

/// Parses, checks, rewrites and compiles `sources`. Works on a thread of its own: on the caller's stack a deep policy
/// could end the process, and there it can be left behind when it takes too long.
pub(super) fn compile(sources: Sources, config: &config::Policy, abandoned: &Abandoned) -> Result<Compiled, LoadError> {
    aside(config, abandoned, move |config| compile_here(sources, config))
}

/// The compilation that took too long and was left behind, while it runs on: nothing can stop it.
#[derive(Debug, Default)]
pub(in crate::policy) struct Abandoned(Mutex<Weak<()>>);

impl Abandoned {
    /// Whether one still runs. Another that would have to be left behind must not begin before it ends.
    pub(in crate::policy) fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    fn leave(&self, running: &Weak<()>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(running);
    }
}

/// The same without a rule that decides: everything that tests and their author ask about.
pub(in crate::policy) fn compile_for(
    purpose: Purpose,
    sources: Sources,
    config: &config::Policy,
) -> Result<(Engine, Vec<Parsed>), LoadError> {
    aside(config, &Abandoned::default(), move |config| {
        let (engine, parsed, _) = library(purpose, sources, config)?;
        Ok((engine, parsed))
    })
}

/// What is found in sources without a rule that decides, and the packages that they make.
pub(in crate::policy) fn findings(
    sources: Sources,
    config: &config::Policy,
) -> Result<(Vec<Problem>, BTreeSet<Vec<String>>), LoadError> {
    aside(config, &Abandoned::default(), move |config| {
        let (_, parsed, findings) = library(Purpose::Serve, sources, config)?;
        Ok((findings, parsed.iter().map(|parsed| names::package(&parsed.module)).collect()))
    })
}

fn library(
    purpose: Purpose,
    sources: Sources,
    config: &config::Policy,
) -> Result<(Engine, Vec<Parsed>, Vec<Problem>), LoadError> {
    let Front { units, modules, data, findings, decision: _ } = front(sources, config.rego, None, config.limits.depth, purpose)?;
    let rules = check::rules(units.iter().map(|unit| &unit.parsed));
    let mut engine = build(modules, data, config.rego, Errors::Undefined)?;
    force(&mut engine, &rules)
        .map_err(|error| LoadError::from(led_back(from_engine(Code::Compile, &error, "policy"), &units)))?;
    Ok((engine, units.into_iter().map(|unit| unit.parsed).collect(), findings))
}

/// Makes the engine look at everything: any rule that it knows by its path will do.
fn force(engine: &mut Engine, rules: &Rules) -> Result<(), anyhow::Error> {
    for path in rules.iter().filter(|(_, kind)| **kind == RuleKind::Value).map(|(path, _)| rule_path(path)) {
        match engine.compile_with_entrypoint(&Rc::from(path.as_str())) {
            // Names that are no paths of rules to the engine are OPA's too, as parts of others.
            Err(error) if error.to_string().contains("not a valid rule path") => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Runs `work` on a thread with the stack it needs, for as long as it may take.
fn aside<T: Send + 'static>(
    config: &config::Policy,
    abandoned: &Abandoned,
    work: impl FnOnce(&config::Policy) -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let internal = |text: String| LoadError::from(Problem::of_file(Code::Internal, "policy", text));
    let limit = config.limits.compile.duration();
    let config = config.clone();
    let (done, result) = mpsc::sync_channel(1);
    let runs = Arc::new(());
    let running = Arc::downgrade(&runs);
    let run = move || {
        let _runs = runs;
        let result = catch_unwind(AssertUnwindSafe(|| work(&config)));
        // Nobody waits for what took too long.
        let _ = done.send(result);
    };
    let worker = thread::Builder::new().name("policy-load".to_owned()).stack_size(STACK).spawn(run);
    drop(worker.map_err(|error| internal(format!("no thread to compile on: {error}")))?);
    match result.recv_timeout(limit) {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(internal(format!("the compiler panicked: {}", super::panic_text(&*panic)))),
        Err(_) => {
            abandoned.leave(&running);
            let limit = humantime::format_duration(limit);
            let text = format!("not compiled within {limit}; split what is largest, or raise `policy.limits.compile`");
            Err(Problem::of_file(Code::TooSlow, "policy", text).into())
        }
    }
}

/// A module on its way to the engine.
struct Unit {
    name: String,
    /// What its author wrote.
    source: String,
    /// What was parsed.
    lowered: Lowered,
    parsed: Parsed,
}

/// What a set is evaluated with.
pub(super) struct Compiled {
    pub(super) engine: Engine,
    /// The rule that decides, as the engine spells it.
    pub(super) rule: String,
    pub(super) bytecode: Option<Bytecode>,
    /// Every rule that is no function, as the engine spells it.
    pub(super) rules: HashSet<String>,
    /// What of the input its modules can read.
    pub(super) wanted: Wanted,
    /// Warnings and notes.
    pub(super) findings: Vec<Problem>,
}

fn compile_here(sources: Sources, config: &config::Policy) -> Result<Compiled, LoadError> {
    let decision: Vec<_> = config.decision.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let Front { units, modules, data, findings, decision } =
        front(sources, config.rego, Some(decision), config.limits.depth, Purpose::Serve)?;
    let rule = rule_path(&decision);
    let bytecode = match config.rego {
        RegoVersion::V1 if decision != whole_path() => {
            // What is within its subset needs no rewriting, and what was rewritten is not within it.
            let plain: Vec<_> = units.iter().map(|unit| (unit.name.as_str(), unit.lowered.text.as_str())).collect();
            Bytecode::compile(&plain, &Value::from(data.clone()), &rule, &decision)
        }
        RegoVersion::V0 | RegoVersion::V1 => None,
    };
    let mut engine = build(modules, data, config.rego, Errors::Undefined)?;
    let wanted = Wanted::by(units.iter().map(|unit| unit.source.as_str()));
    let rules = check::rules(units.iter().map(|unit| &unit.parsed));
    let rules = rules.iter().filter(|(_, kind)| **kind == RuleKind::Value).map(|(path, _)| rule_path(path)).collect();
    let wrong = |code, error: &anyhow::Error| led_back(from_engine(code, error, "policy"), &units);
    engine.compile_with_entrypoint(&Rc::from(rule.as_str())).map_err(|error| LoadError::from(wrong(Code::Compile, &error)))?;
    run(&mut engine, &rule, &Value::new_object(), SMOKE_LIMIT).map_err(|error| {
        let mut problem = wrong(Code::Smoke, &error);
        problem.text = format!("fails even for an empty input: {}", problem.text);
        LoadError::from(problem)
    })?;
    Ok(Compiled { engine, rule, bytecode, rules, wanted, findings })
}

/// What has been parsed, checked and rewritten.
struct Front {
    units: Vec<Unit>,
    /// Name and text of each module as the engine shall read it.
    modules: Vec<(String, String)>,
    data: serde_json::Value,
    findings: Vec<Problem>,
    /// The path of the rule that decides; empty where none must.
    decision: Vec<String>,
}

/// Where the rule stands that is made for a decision of several rules.
fn whole_path() -> Vec<String> {
    ["doorward_decision", "whole"].map(str::to_owned).to_vec()
}

/// `result["allowed"]`, `result.headers` and their like make up one document, which OPA can be asked for. To the engine it
/// is no rule, so one is made that is the same.
fn whole(units: &[Unit], decision: &[String], rego: RegoVersion) -> Option<Unit> {
    let rules = check::rules(units.iter().map(|unit| &unit.parsed));
    let part = [decision, &["allowed".to_owned()]].concat();
    if rules.contains_key(decision) || rules.get(&part) != Some(&RuleKind::Value) {
        return None;
    }
    let text = format!("package doorward_decision\n\nwhole := {}\n", rule_path(decision));
    parse(load::Module { name: "policy.decision".to_owned(), text, roots: None }, rego).ok()
}

fn front(
    sources: Sources,
    rego: RegoVersion,
    decision: Option<Vec<String>>,
    depth: u32,
    purpose: Purpose,
) -> Result<Front, LoadError> {
    let Sources { modules, mut data, .. } = sources;
    let mut problems = Vec::new();
    let mut units = Vec::with_capacity(modules.len());
    for module in modules {
        match parse(module, rego) {
            Ok(unit) => units.push(unit),
            Err(problem) => problems.push(problem),
        }
    }
    // With a module missing, the others would seem to call functions and rules that do not exist.
    if !problems.is_empty() {
        return Err(LoadError { problems });
    }
    units.extend(guard(&units, rego)?);
    let made = decision.as_ref().and_then(|decision| whole(&units, decision, rego));
    let decision = if made.is_some() { Some(whole_path()) } else { decision };
    units.extend(made);
    let set = check::Set { data: &data, decision: decision.as_deref(), depth, purpose };
    let found = check::check(units.iter().map(|unit| &unit.parsed), &set);
    let mut findings: Vec<_> = found.into_iter().map(|problem| led_back(problem, &units)).collect();
    findings.sort_by(|a, b| (a.severity(), &a.file, a.line, a.column).cmp(&(b.severity(), &b.file, b.line, b.column)));
    findings.dedup();
    if findings.iter().any(|problem| problem.severity() == Severity::Error) {
        return Err(LoadError { problems: findings });
    }
    let modules = rewrite_all(&units, purpose)?;
    units.iter().for_each(|unit| define_packages(&unit.parsed.module, &mut data));
    Ok(Front { units, modules, data, findings, decision: decision.unwrap_or_default() })
}

/// The library `guard`, where a module names it and none is of its package. It is written in Rego v1.
fn guard(units: &[Unit], rego: RegoVersion) -> Result<Vec<Unit>, Problem> {
    let is_own = |unit: &Unit| names::package(&unit.parsed.module) == [library::PACKAGE];
    let is_asked_for = rego == RegoVersion::V1 && units.iter().any(|unit| library::is_named(&unit.source));
    match is_asked_for && !units.iter().any(is_own) {
        true => library::guard().map(|module| parse(module, rego)).collect(),
        false => Ok(Vec::new()),
    }
}

/// Puts an empty object where OPA has one whether or not a rule below it is defined: at the path of the package, and above
/// each rule. Nothing else is there; the checks made sure.
fn define_packages(module: &Module, data: &mut serde_json::Value) {
    let package = names::package(module);
    define(data, &package);
    for rule in &module.policy {
        let path = names::rule_path(&package, rule);
        // To the engine, a rule with more computed names than one is undefined where it has no values.
        let is_object = is_open(rule) && !matches!(rule.as_ref(), Rule::Spec { head: RuleHead::Set { key: None, .. }, .. });
        match path.split_last() {
            _ if is_object => define(data, &path),
            Some((_, above)) => define(data, above),
            None => {}
        }
    }
}

fn define(data: &mut serde_json::Value, path: &[String]) {
    let mut here = data;
    for part in path {
        let serde_json::Value::Object(fields) = here else { return };
        here = fields.entry(part.as_str()).or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
    }
}

/// An engine with all that a policy set goes through, for queries of OPA's suite.
#[cfg(test)]
pub(in crate::policy) fn prepare(
    sources: Sources,
    rego: RegoVersion,
    errors: Errors,
    purpose: Purpose,
) -> Result<Engine, LoadError> {
    let Front { units, modules, data, .. } = front(sources, rego, None, 200, purpose)?;
    let rules = check::rules(units.iter().map(|unit| &unit.parsed));
    let mut engine = build(modules, data, rego, errors)?;
    if let Some(path) = rules.keys().next() {
        let rule = rule_path(path);
        let error = engine.compile_with_entrypoint(&Rc::from(rule.as_str())).err();
        // Names that are no paths of rules to the engine are OPA's too, as parts of others.
        if let Some(error) = error.filter(|error| !error.to_string().contains("not a valid rule path")) {
            return Err(from_engine(Code::Compile, &error, "policy").into());
        }
    }
    Ok(engine)
}

/// Every module as the engine shall read it: its name and its text.
fn rewrite_all(units: &[Unit], purpose: Purpose) -> Result<Vec<(String, String)>, LoadError> {
    let rules = check::rules(units.iter().map(|unit| &unit.parsed));
    let whole = Whole::of(units.iter().map(|unit| &unit.parsed.module), &rules, purpose);
    let (mut modules, mut problems) = (Vec::with_capacity(units.len()), Vec::new());
    for Unit { name, lowered, parsed, .. } in units {
        let names = Names::of(&parsed.module, &rules);
        match rewrite::rewrite(&parsed.module, &lowered.text, &names, &whole) {
            // What was printed is as safe to parse as what was written, but that is cheap to make sure of.
            Ok(text) => match source(name, &text) {
                Ok(_) => modules.push((name.clone(), text)),
                Err(problem) => problems.push(problem),
            },
            Err(found) => problems.extend(found),
        }
    }
    modules.extend(whole.mocks.module().map(|text| (mocks::PACKAGE.to_owned(), text)));
    if problems.is_empty() {
        return Ok(modules);
    }
    Err(LoadError { problems: problems.into_iter().map(|problem| led_back(problem, units)).collect() })
}

/// The problem at the place where the author wrote what it is about.
fn led_back(mut problem: Problem, units: &[Unit]) -> Problem {
    if let Some(unit) = units.iter().find(|unit| unit.name == problem.file) {
        lead_back(&mut problem, &unit.lowered, &unit.source);
    }
    problem
}

fn lead_back(problem: &mut Problem, lowered: &Lowered, source: &str) {
    let column = in_characters(&lowered.text, problem.line, problem.column);
    (problem.line, problem.column) = lowered.original(source, problem.line, column);
    problem.source = line_of(source, problem.line);
}

/// A column of the engine, to which a tab is four wide and any other character as many as it has bytes.
fn in_characters(text: &str, line: u32, column: u32) -> u32 {
    let mut engine = 1;
    let before = line.checked_sub(1).and_then(|above| text.lines().nth(above as usize)).into_iter().flat_map(str::chars);
    let passed = before.take_while(|c| {
        let here = engine;
        engine += if *c == '\t' { 4 } else { c.len_utf8() };
        here < column as usize
    });
    if column == 0 { 0 } else { u32::try_from(passed.count()).unwrap_or(0) + 1 }
}

fn line_of(text: &str, line: u32) -> Option<String> {
    text.lines().nth(line.checked_sub(1)? as usize).map(str::to_owned)
}

fn parse(module: load::Module, rego: RegoVersion) -> Result<Unit, Problem> {
    let load::Module { name, text, roots } = module;
    let lowered = lexical::lower(&text).map_err(|unreadable| {
        let (line, column) = lexical::place(&text, unreadable.at);
        Problem { line, column, source: line_of(&text, line), ..Problem::of_file(Code::Parse, &name, unreadable.text) }
    })?;
    let wrong = |error: anyhow::Error| {
        let mut problem = from_engine(Code::Parse, &error, &name);
        lead_back(&mut problem, &lowered, &text);
        problem
    };
    let source = source(&name, &lowered.text).map_err(|problem| Problem { source: line_of(&text, problem.line), ..problem })?;
    let mut parser = Parser::new(&source).map_err(wrong)?;
    parser.set_max_col(MAX_COLUMNS);
    if rego == RegoVersion::V1 {
        parser.enable_rego_v1().map_err(wrong)?;
    }
    let module = parser.parse().map_err(wrong)?;
    Ok(Unit { parsed: Parsed { module, roots }, name, source: text, lowered })
}

/// The lines that rules begin in; none where the module cannot be parsed. Needs a stack as compiling does.
pub(in crate::policy) fn rule_lines(module: load::Module, rego: RegoVersion) -> BTreeSet<u32> {
    let unit = parse(module, rego).ok();
    unit.into_iter().flat_map(|unit| unit.parsed.module.policy).map(|rule| rule.span().line).collect()
}

/// Text that is safe to parse.
fn source(name: &str, text: &str) -> Result<Source, Problem> {
    let wrong = |error: anyhow::Error| from_engine(Code::Parse, &error, name);
    let bytes = NonZeroUsize::new(text.len()).unwrap_or(NonZeroUsize::MIN);
    let source = Source::from_contents_with_limits(name.to_owned(), text.to_owned(), bytes, MAX_LINES).map_err(wrong)?;
    check::check_text(&source).map_or(Ok(source), Err)
}

fn build(
    modules: Vec<(String, String)>,
    data: serde_json::Value,
    rego: RegoVersion,
    errors: Errors,
) -> Result<Engine, LoadError> {
    let largest = modules.iter().map(|(_, text)| text.len()).max().unwrap_or(0).max(MIN_FILE_BYTES);
    let mut engine = Engine::new();
    engine.set_rego_v0(rego == RegoVersion::V0);
    engine.set_policy_length_config(PolicyLengthConfig {
        max_col: MAX_COLUMNS,
        max_file_bytes: NonZeroUsize::new(largest).unwrap_or(NonZeroUsize::MIN),
        max_lines: MAX_LINES,
    });
    // As in OPA, a function that fails is undefined.
    engine.set_strict_builtin_errors(errors != Errors::Undefined);
    // Otherwise `print` would write to standard error at each call.
    engine.set_gather_prints(true);
    builtins::install(&mut engine, errors).map_err(|text| LoadError::from(Problem::of_file(Code::Internal, "policy", text)))?;
    for (name, text) in modules {
        engine.add_policy(name.clone(), text).map_err(|error| LoadError::from(from_engine(Code::Parse, &error, &name)))?;
    }
    // The conversion turns what it cannot hold into `undefined`, which is no object and refused.
    engine.add_data(Value::from(data)).map_err(|error| LoadError::from(from_engine(Code::Conflict, &error, "data")))?;
    Ok(engine)
}

/// `data.a["b-c"]`: the engine wants brackets around all that is no plain name.
pub(in crate::policy) fn rule_path(parts: &[String]) -> String {
    let mut path = "data".to_owned();
    for part in parts {
        let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && part.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if plain {
            path.push('.');
            path.push_str(part);
        } else {
            path.push_str(&format!("[{}]", serde_json::Value::from(part.as_str())));
        }
    }
    path
}

/// The engine words its errors as `\n--> file:line:column\n … excerpt …\nerror: text`.
fn from_engine(code: Code, error: &anyhow::Error, file: &str) -> Problem {
    let text = format!("{error:#}");
    let place = text.lines().find_map(|line| line.strip_prefix("--> ")).and_then(|place| {
        let mut parts = place.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((parts.next()?.to_owned(), line, column))
    });
    let (file, line, column) = place.unwrap_or_else(|| (file.to_owned(), 0, 0));
    Problem { line, column, ..Problem::of_file(code, file, message(&text)) }
}

/// File and line that an error of the engine names.
pub(in crate::policy) fn place(error: &anyhow::Error) -> Option<String> {
    let Problem { file, line, .. } = from_engine(Code::Internal, error, "");
    (line != 0).then(|| format!("{file}:{line}"))
}

/// An error of the engine as one line with its place.
pub(in crate::policy) fn one_line(error: &anyhow::Error) -> String {
    let Problem { file, line, text, .. } = from_engine(Code::Internal, error, "");
    if line == 0 { text } else { format!("{file}:{line}: {text}") }
}

fn message(text: &str) -> String {
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("the engine gave no reason");
    let said = text.lines().find_map(|line| line.trim_start().strip_prefix("error: ")).unwrap_or(last);
    said.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_name_is_bracketed() {
        for (parts, path) in [
            (vec!["envoy", "authz", "allow"], "data.envoy.authz.allow"),
            (vec!["a", "com.foo", "b"], r#"data.a["com.foo"].b"#),
            (vec!["a-b", "1x", "_y"], r#"data["a-b"]["1x"]._y"#),
            (vec!["a\"b"], r#"data["a\"b"]"#),
        ] {
            assert_eq!(rule_path(&parts.into_iter().map(str::to_owned).collect::<Vec<_>>()), path);
        }
    }

    #[test]
    fn columns_are_those_of_the_author() {
        for (text, column, expected) in
            [("\t\tx := 1", 9, 3), ("x", 1, 1), ("\"ä\" == y", 9, 8), ("a\tb", 6, 3), ("", 5, 1), ("x", 0, 0)]
        {
            assert_eq!(in_characters(&format!("first\n{text}"), 2, column), expected, "{text}");
        }
    }

    #[test]
    fn an_engine_error_becomes_a_place_and_one_line() {
        let error = anyhow::anyhow!("\n--> a:b.rego:3:7\n  |\n3 | x := 1\n  |       ^\nerror: something is wrong");
        let problem = from_engine(Code::Compile, &error, "policy");
        assert_eq!(problem.to_string(), "a:b.rego:3:7: something is wrong [compile]");
        assert_eq!(one_line(&anyhow::anyhow!("plain")), "plain");
    }
}
