//! One case of OPA's suite: its file, and how it is run through the load path.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use regex::Regex;
use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::Outcome;
use crate::{
    clock,
    config::RegoVersion,
    policy::{
        builtins::{Errors, context},
        engine::{self, CHECK_INTERVAL},
        load::Purpose,
        oracle::{canonical, sources},
        problem::{Code, LoadError},
    },
};

/// The time that one case may take; in a debug build some take a second.
const LIMIT: Duration = Duration::from_secs(10);
/// The package of the rule that stands for the query.
const PACKAGE: &str = "doorward_query";

/// A case as the suite's files hold it.
#[derive(Deserialize)]
struct Written {
    note: String,
    #[serde(default)]
    query: String,
    #[serde(default)]
    modules: Vec<String>,
    data: Option<Json>,
    input: Option<Json>,
    input_term: Option<String>,
    want_result: Option<Vec<Map<String, Json>>>,
    want_error: Option<String>,
    want_error_code: Option<String>,
    #[serde(default)]
    sort_bindings: bool,
    #[serde(default)]
    strict_error: bool,
    #[serde(default)]
    experimental_keywords: bool,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    cases: Vec<Written>,
}

pub(super) struct Case {
    /// Its note, behind the version of its Rego: `v1/…`.
    pub(super) name: String,
    /// The folder that holds it, which says what it is about.
    pub(super) folder: String,
    rego: RegoVersion,
    written: Written,
}

/// Every case below `folder`, in an order that does not change.
pub(super) fn read(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for (version, rego) in [("v0", RegoVersion::V0), ("v1", RegoVersion::V1)] {
        for path in files(&folder.join(version)) {
            let text = fs::read_to_string(&path).unwrap();
            let file: File = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let about = super::folder(path.strip_prefix(folder).unwrap()).display().to_string();
            cases.extend(file.cases.into_iter().map(|written| Case {
                name: format!("{version}/{}", written.note),
                folder: about.clone(),
                rego,
                written,
            }));
        }
    }
    cases
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

impl Case {
    /// Whether it is about what this engine room leaves out on purpose: GraphQL, experimental keywords, and keywords as
    /// names within references.
    pub(super) fn left_out(&self) -> bool {
        self.written.experimental_keywords || matches!(self.folder.as_str(), "graphql" | "keywordrefs" | "logic_operators")
    }

    pub(super) fn run(&self) -> Outcome {
        match catch_unwind(AssertUnwindSafe(|| self.load_and_evaluate())) {
            Ok(outcome) => outcome,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                Outcome::Panic(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
            }
        }
    }

    fn wants_error(&self) -> bool {
        self.written.want_error.is_some() || self.written.want_error_code.is_some()
    }

    fn load_and_evaluate(&self) -> Outcome {
        let written = &self.written;
        let data = written.data.clone().unwrap_or_else(|| Json::Object(Map::new()));
        let modules = written.modules.iter().enumerate().map(|(index, text)| (format!("test-{index}.rego"), text.clone()));
        let modules: Vec<_> = modules.chain([("query.rego".to_owned(), self.wrapper())]).collect();
        let errors = if written.strict_error { Errors::Strict } else { Errors::Undefined };
        let prepare = |purpose| engine::prepare(sources(modules.clone(), data.clone()), self.rego, errors, purpose);
        // What replaces functions is for tests, and loads as they do.
        let replaces = |error: &LoadError| error.problems.iter().any(|problem| problem.code == Code::FunctionMock);
        let loaded = match prepare(Purpose::Serve) {
            Err(error) if replaces(&error) => prepare(Purpose::Test),
            loaded => loaded,
        };
        let mut engine = match loaded {
            Ok(engine) => engine,
            Err(error) => {
                let Some(problem) = error.problems.into_iter().next() else { return Outcome::Panic("no problem".to_owned()) };
                if problem.code == Code::Internal {
                    return Outcome::Panic(problem.text);
                }
                return Outcome::Refused { code: problem.code.to_string(), text: problem.text };
            }
        };
        let input = match &written.input_term {
            Some(term) => match Engine::new().eval_query(term.clone(), false) {
                Ok(results) => results.result[0].expressions[0].value.clone(),
                Err(error) => return Outcome::Wrong(format!("input_term: {error}")),
            },
            None => written.input.clone().map_or(Value::Undefined, Value::from),
        };
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: LIMIT, check_interval: CHECK_INTERVAL });
        engine.set_input(input);
        context::begin(i64::try_from(clock::now().ns).unwrap_or(i64::MAX));
        let answer = engine::limited(engine.eval_rule(format!("data.{PACKAGE}.answer")));
        self.judge(answer.map_err(|error| engine::one_line(&error)))
    }

    fn judge(&self, answer: Result<Value, String>) -> Outcome {
        match answer {
            Err(_) if self.wants_error() => Outcome::ExpectedError,
            Err(error) => Outcome::Wrong(format!("error: {error}")),
            Ok(value) if self.wants_error() => Outcome::Missed(value.to_string()),
            Ok(value) => {
                let mut got: Vec<_> = match &value {
                    Value::Set(rows) => rows.iter_sorted().map(json).collect(),
                    _ => Vec::new(),
                };
                let wanted = self.written.want_result.iter().flatten().map(|row| Json::Object(row.clone()));
                let mut wanted: Vec<_> = wanted.collect();
                for rows in [&mut got, &mut wanted] {
                    if self.written.sort_bindings {
                        rows.iter_mut().for_each(sort_bindings);
                    }
                    rows.sort_by_key(canonical);
                    rows.dedup_by_key(|row| canonical(row));
                }
                let equal =
                    got.len() == wanted.len() && got.iter().zip(&wanted).all(|(got, wanted)| canonical(got) == canonical(wanted));
                if equal { Outcome::Pass } else { Outcome::Wrong(format!("got {} want {}", Json::from(got), Json::from(wanted))) }
            }
        }
    }

    /// The query, where it is about all of `data` without the package of ours.
    fn query(&self) -> String {
        static PACKAGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^package ([A-Za-z_]\w*)").unwrap());
        let Written { query, modules, data, .. } = &self.written;
        if query != "data = x" {
            return query.clone();
        }
        let packages = modules.iter().filter_map(|module| PACKAGE.captures(module)).map(|found| found[1].to_owned());
        let documents = data.iter().filter_map(Json::as_object).flat_map(Map::keys).cloned();
        let names: BTreeSet<_> = packages.chain(documents).collect();
        let fields: Vec<_> = names.iter().map(|name| format!("\"{name}\": data.{name}")).collect();
        format!("x = {{{}}}", fields.join(", "))
    }

    /// The query as a rule whose elements are the bindings of its variables.
    fn wrapper(&self) -> String {
        static WORD: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r#""(?:\\.|[^"\\])*"|`[^`]*`|[.\]]?\s*[A-Za-z_][A-Za-z0-9_.]*\s*\(?"#).unwrap());
        const NO_VARIABLES: [&str; 14] =
            ["data", "input", "true", "false", "null", "with", "as", "in", "not", "some", "every", "if", "contains", "_"];
        let query = self.query();
        let query = query.trim();
        // What a template string reads is bound before it.
        let names: BTreeSet<_> = WORD
            .find_iter(query.split("$\"").next().unwrap_or_default())
            .map(|word| word.as_str().trim())
            .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !word.ends_with('('))
            .map(|word| word.split('.').next().unwrap_or_default())
            .filter(|word| !NO_VARIABLES.contains(word))
            .collect();
        let fields: Vec<_> = names.iter().map(|name| format!("\"{name}\": {name}")).collect();
        let import = if self.rego == RegoVersion::V0 { "import rego.v1\n" } else { "" };
        format!("package {PACKAGE}\n{import}\nanswer contains {{{}}} if {{\n{query}\n}}\n", fields.join(", "))
    }
}

/// A value as OPA prints it: sets are arrays, keys are text.
fn json(value: &Value) -> Json {
    match value {
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Set(items) => items.iter_sorted().map(json).collect(),
        Value::Object(fields) => Json::Object(
            fields
                .iter_sorted()
                .map(|(key, value)| {
                    let key = match key {
                        Value::String(text) => text.to_string(),
                        key => json(key).to_string(),
                    };
                    (key, json(value))
                })
                .collect(),
        ),
        scalar => serde_json::from_str(&scalar.to_json_str().unwrap_or_default()).unwrap_or(Json::Null),
    }
}

fn sort_bindings(row: &mut Json) {
    for value in row.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Json::Array(items) = value {
            items.sort_by_key(canonical);
        }
    }
}
