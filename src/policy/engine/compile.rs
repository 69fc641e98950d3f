//! From sources to an engine that is ready to evaluate.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    thread,
    time::Duration,
};

use regorus::{
    Engine, PolicyLengthConfig, Rc, Source, Value,
    unstable::{Module, Parser},
};

use super::{
    bytecode::{Bytecode, Part},
    run,
};
use crate::{
    config::{self, RegoVersion},
    policy::{
        builtins::{self, Errors},
        check,
        load::{self, Sources},
        problem::{Code, LoadError, Problem},
    },
};

/// Longest line of a module in characters.
pub(in crate::policy) const MAX_COLUMNS: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();
pub(super) const MAX_LINES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();
/// The stack that the deepest policy needs which passes the checks; decisions run on as much.
const STACK: usize = 16 << 20;
/// The first evaluation warms up and may share its processor with a start-up.
const SMOKE_LIMIT: Duration = Duration::from_secs(2);

/// Parses, checks and compiles `sources`. Works on a thread of its own: on the caller's stack a deep policy could end the process.
pub(super) fn compile(sources: Sources, config: &config::Policy) -> Result<Compiled, LoadError> {
    let internal = |text: String| LoadError::from(Problem::of_file(Code::Internal, "policy", text));
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("policy-load".to_owned()).stack_size(STACK);
        let worker = worker.spawn_scoped(scope, || compile_here(sources, config));
        let worker = worker.map_err(|error| internal(format!("no thread to compile on: {error}")))?;
        worker.join().unwrap_or_else(|panic| Err(internal(format!("the compiler panicked: {}", super::panic_text(&*panic)))))
    })
}

/// What a set is evaluated with.
pub(super) struct Compiled {
    pub(super) engine: Engine,
    /// The rule that decides, as the engine spells it.
    pub(super) rule: String,
    pub(super) bytecode: Option<Bytecode>,
}

fn compile_here(sources: Sources, config: &config::Policy) -> Result<Compiled, LoadError> {
    let decision: Vec<_> = config.decision.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let mut problems = Vec::new();
    let mut parsed = Vec::with_capacity(sources.modules.len());
    for module in &sources.modules {
        match parse(module, config.rego) {
            Ok(tree) => parsed.push(check::Parsed { module: tree, roots: module.roots.as_deref() }),
            Err(problem) => problems.push(problem),
        }
    }
    // With a module missing, the others would seem to call functions and rules that do not exist.
    if problems.is_empty() {
        problems = check::check(&parsed, &sources.data, &decision, config.limits.depth);
    }
    if !problems.is_empty() {
        return Err(LoadError { problems });
    }
    let rule = rule_path(&decision);
    let bytecode = (config.rego == RegoVersion::V1)
        .then(|| {
            let data = Value::from(sources.data.clone());
            let parts: Vec<_> = parsed
                .iter()
                .zip(&sources.modules)
                .map(|(parsed, module)| Part { name: &module.name, text: &module.text, tree: &parsed.module })
                .collect();
            Bytecode::compile(&parts, &data, &rule, &decision)
        })
        .flatten();
    drop(parsed);
    let mut engine = build(sources, config.rego)?;
    engine
        .compile_with_entrypoint(&Rc::from(rule.as_str()))
        .map_err(|error| LoadError::from(from_engine(Code::Compile, &error, "policy")))?;
    run(&mut engine, &rule, &Value::new_object(), SMOKE_LIMIT).map_err(|error| {
        let mut problem = from_engine(Code::Smoke, &error, "policy");
        problem.text = format!("fails even for an empty input: {}", problem.text);
        LoadError::from(problem)
    })?;
    Ok(Compiled { engine, rule, bytecode })
}

fn parse(module: &load::Module, rego: RegoVersion) -> Result<Module, Problem> {
    let wrong = |error: anyhow::Error| from_engine(Code::Parse, &error, &module.name);
    let bytes = NonZeroUsize::new(module.text.len()).unwrap_or(NonZeroUsize::MIN);
    let source = Source::from_contents_with_limits(module.name.clone(), module.text.clone(), bytes, MAX_LINES).map_err(wrong)?;
    if let Some(problem) = check::check_text(&source) {
        return Err(problem);
    }
    let mut parser = Parser::new(&source).map_err(wrong)?;
    parser.set_max_col(MAX_COLUMNS);
    if rego == RegoVersion::V1 {
        parser.enable_rego_v1().map_err(wrong)?;
    }
    parser.parse().map_err(wrong)
}

fn build(sources: Sources, rego: RegoVersion) -> Result<Engine, LoadError> {
    let largest = sources.modules.iter().map(|module| module.text.len()).max().unwrap_or(0);
    let mut engine = Engine::new();
    engine.set_rego_v0(rego == RegoVersion::V0);
    engine.set_policy_length_config(PolicyLengthConfig {
        max_col: MAX_COLUMNS,
        max_file_bytes: NonZeroUsize::new(largest).unwrap_or(NonZeroUsize::MIN),
        max_lines: MAX_LINES,
    });
    // As in OPA, a function that fails is undefined.
    engine.set_strict_builtin_errors(false);
    // Otherwise `print` would write to standard error at each call.
    engine.set_gather_prints(true);
    builtins::install(&mut engine, Errors::Undefined)
        .map_err(|text| LoadError::from(Problem::of_file(Code::Internal, "policy", text)))?;
    for module in sources.modules {
        let name = module.name.clone();
        engine.add_policy(module.name, module.text).map_err(|error| LoadError::from(from_engine(Code::Parse, &error, &name)))?;
    }
    // The conversion turns what it cannot hold into `undefined`, which is no object and refused.
    engine.add_data(Value::from(sources.data)).map_err(|error| LoadError::from(from_engine(Code::Conflict, &error, "data")))?;
    Ok(engine)
}

/// `data.a["b-c"]`: the engine wants brackets around all that is no plain name.
fn rule_path(parts: &[String]) -> String {
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
    Problem { code, file, line, column, text: message(&text) }
}

/// An error of the engine as one line with its place.
pub(super) fn one_line(error: &anyhow::Error) -> String {
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
    fn an_engine_error_becomes_a_place_and_one_line() {
        let error = anyhow::anyhow!("\n--> a:b.rego:3:7\n  |\n3 | x := 1\n  |       ^\nerror: something is wrong");
        let problem = from_engine(Code::Compile, &error, "policy");
        assert_eq!(problem.to_string(), "a:b.rego:3:7: something is wrong [compile]");
        assert_eq!(one_line(&anyhow::anyhow!("plain")), "plain");
    }
}
