//! One case of OPA's suite: read from YAML, loaded as a policy is loaded, and judged by what OPA wants of it.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use regorus::{Engine, QueryResults, Value, utils::limits::ExecutionTimerConfig};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    config::RegoVersion,
    policy::{
        builtins::Errors,
        engine::{self, CHECK_INTERVAL},
        load::{Module, Sources},
        problem::LoadError,
        rewrite::lexical,
    },
};

const LIMIT: Duration = Duration::from_secs(20);

/// A case as OPA writes it.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) note: String,
    query: String,
    #[serde(default)]
    modules: Vec<String>,
    data: Option<Json>,
    input: Option<Json>,
    input_term: Option<String>,
    want_result: Option<Vec<serde_json::Map<String, Json>>>,
    want_defined: Option<bool>,
    want_error: Option<String>,
    want_error_code: Option<String>,
    #[serde(default)]
    strict_error: bool,
    #[serde(default)]
    sort_bindings: bool,
    #[serde(default)]
    experimental_keywords: bool,
    /// `v0/negation`: the suite's folder.
    #[serde(skip)]
    pub(super) folder: String,
    #[serde(skip)]
    v0: bool,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// OPA's answer.
    Pass,
    /// OPA's error.
    Error,
    /// Refused at load, by the code of the finding, where OPA answers.
    Refused(String),
    /// Another answer.
    Wrong(String),
    /// An answer where OPA has an error.
    Missed(String),
    Panic(String),
}

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

pub(super) fn read(folder: &Path, version: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for path in super::files(folder) {
        let text = fs::read_to_string(&path).unwrap();
        let file: File = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let inner = path.parent().unwrap().strip_prefix(folder).unwrap().display().to_string();
        cases.extend(file.cases.into_iter().map(|case| Case {
            folder: format!("{version}/{inner}"),
            v0: version == "v0",
            ..case
        }));
    }
    cases
}

impl Case {
    fn wants_error(&self) -> bool {
        self.want_error.is_some() || self.want_error_code.is_some()
    }

    /// Whether the case is about what we leave out by intention: graphql, experimental keywords, keywords as roots.
    pub(super) fn is_left_out(&self) -> bool {
        self.folder.contains("graphql") || self.experimental_keywords || self.note.starts_with("keywordrefs/")
    }

    pub(super) fn run(&self) -> Outcome {
        match catch_unwind(AssertUnwindSafe(|| self.judge())) {
            Ok(outcome) => outcome,
            Err(panic) => Outcome::Panic(engine::panic_text(&*panic)),
        }
    }

    fn judge(&self) -> Outcome {
        let mut engine = match self.load() {
            Ok(engine) => engine,
            Err(_) if self.wants_error() => return Outcome::Error,
            Err(error) => {
                let first = error.problems.first().map(|problem| format!("{} {}", problem.code, problem.text));
                return Outcome::Refused(first.unwrap_or_default());
            }
        };
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: LIMIT, check_interval: CHECK_INTERVAL });
        match self.input() {
            Ok(Some(input)) => engine.set_input(input),
            Ok(None) => {}
            Err(text) => return Outcome::Refused(format!("input_term {text}")),
        }
        let Ok(query) = lexical::lower(&self.plain_query()) else { return Outcome::Refused("query".to_owned()) };
        let result = engine.eval_query(query.text, false);
        match (result, self.wants_error()) {
            (Err(_), true) => Outcome::Error,
            (Ok(results), true) => Outcome::Missed(format!("{results:?}").chars().take(200).collect()),
            (Err(error), false) => Outcome::Wrong(engine::one_line(&error)),
            (Ok(results), false) => self.compare(&results),
        }
    }

    /// `x = f(y)` of `f(y, x)`, which the rewriting makes of it in a module.
    fn plain_query(&self) -> String {
        let call = self.query.strip_suffix(", x)").filter(|call| call.contains('(') && !call.starts_with("data."));
        call.map_or_else(|| self.query.clone(), |call| format!("x = {call})"))
    }

    fn load(&self) -> Result<Engine, LoadError> {
        let module =
            |(index, text): (usize, &String)| Module { name: format!("module{index}.rego"), text: text.clone(), roots: None };
        let sources = Sources {
            modules: self.modules.iter().enumerate().map(module).collect(),
            data: self.data.clone().unwrap_or_else(|| Json::Object(serde_json::Map::new())),
            revision: None,
            revisions: Default::default(),
            digest: String::new(),
        };
        let rego = if self.v0 { RegoVersion::V0 } else { RegoVersion::V1 };
        let errors = if self.strict_error { Errors::Strict } else { Errors::Undefined };
        engine::prepare(sources, rego, errors)
    }

    fn input(&self) -> Result<Option<Value>, String> {
        match (&self.input_term, &self.input) {
            (Some(term), _) => {
                let results = Engine::new().eval_query(term.clone(), false).map_err(|error| error.to_string())?;
                Ok(results
                    .result
                    .first()
                    .and_then(|result| result.expressions.first())
                    .map(|expression| expression.value.clone()))
            }
            (None, Some(input)) => Ok(Some(Value::from(input.clone()))),
            (None, None) => Ok(None),
        }
    }

    fn compare(&self, results: &QueryResults) -> Outcome {
        let found: Vec<Value> = results.result.iter().map(|result| self.canonical(&as_json(&result.bindings))).collect();
        let defined = results.result.iter().any(|result| {
            result.expressions.iter().all(|expression| !matches!(expression.value, Value::Bool(false) | Value::Undefined))
        });
        if let Some(wanted) = &self.want_result {
            let wanted: Vec<Value> = wanted.iter().map(|one| self.canonical(&Value::from(Json::Object(one.clone())))).collect();
            let mut rest = if defined { found.clone() } else { Vec::new() };
            let all = wanted.iter().all(|one| rest.iter().position(|other| other == one).map(|at| rest.remove(at)).is_some());
            return match all && rest.is_empty() {
                true => Outcome::Pass,
                false => Outcome::Wrong(format!("wanted {wanted:?} found {found:?}").chars().take(600).collect()),
            };
        }
        match self.want_defined {
            Some(wanted) if wanted != defined => Outcome::Wrong(format!("defined: {defined}")),
            _ => Outcome::Pass,
        }
    }

    /// With the elements of each binding's arrays sorted where the suite says that their order means nothing.
    fn canonical(&self, bindings: &Value) -> Value {
        let Value::Object(fields) = bindings else { return bindings.clone() };
        let sorted = fields.iter().map(|(key, value)| match value {
            Value::Array(items) if self.sort_bindings => {
                let mut items = items.to_vec();
                items.sort();
                (key.clone(), Value::from(items))
            }
            other => (key.clone(), other.clone()),
        });
        Value::from(sorted.collect::<std::collections::BTreeMap<_, _>>())
    }
}

/// Through JSON, as OPA prints it: sets become arrays.
fn as_json(value: &Value) -> Value {
    value.to_json_str().ok().and_then(|text| Value::from_json_str(&text).ok()).unwrap_or_else(|| value.clone())
}
