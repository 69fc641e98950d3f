//! A policy set in force: parsed, checked, compiled once, and evaluated on many threads. What is read is `load`'s, what
//! is refused `check`'s, and what an answer means `decision`'s.

pub(super) mod answer;
mod bytecode;
mod compile;
pub(super) mod trace;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    fmt,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use regorus::{Engine, LimitError, Value, utils::limits::ExecutionTimerConfig};
use tracing::debug;

#[cfg(test)]
pub(super) use self::compile::prepare;
pub(super) use self::compile::{Abandoned, MAX_COLUMNS, compile_for, findings, one_line, place, rule_lines, rule_path};
use self::{
    bytecode::{Bytecode, Verdict},
    compile::Compiled,
};
use super::{
    builtins::context::{self as draws, Drawn},
    documents::Documents,
    input::Input,
    library,
    load::Sources,
    problem::{LoadError, Problem},
    wanted::Wanted,
};
use crate::{clock::Now, config, context, verdict::Reason, workload::Workload};

/// Work units of the interpreter between two looks at the clock; at 100 the timer cannot be measured.
pub(super) const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// One revision of the policy, never changed.
pub struct PolicySet {
    /// Tells sets apart for the engines that threads keep.
    generation: u64,
    /// Compiled; each thread evaluates on its own clone.
    engine: Engine,
    /// The rule that decides, as the engine spells it.
    rule: String,
    /// The same in the faster form, where that is right.
    bytecode: Option<Bytecode>,
    /// Every rule that is no function, as the engine spells it.
    rules: HashSet<String>,
    /// What of the input it can read.
    wanted: Wanted,
    /// What its documents say.
    documents: Documents,
    /// Warnings and notes about it.
    findings: Vec<Problem>,
    revision: Arc<str>,
    /// Of the bundles that have a name and a revision.
    revisions: Arc<BTreeMap<String, String>>,
    digest: Arc<str>,
}

impl PolicySet {
    /// Reads, parses, checks and compiles what `config` names, and evaluates it once for an empty input.
    #[cfg(test)]
    pub fn load(config: &config::Policy) -> Result<Self, LoadError> {
        Self::compile(super::load::read(config)?, config, &Abandoned::default())
    }

    /// A compilation that is left behind, because it takes too long, is told to `abandoned`.
    pub(super) fn compile(sources: Sources, config: &config::Policy, abandoned: &Abandoned) -> Result<Self, LoadError> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let revision = sources.revision.clone().unwrap_or_else(|| sources.digest.chars().take(12).collect());
        let digest = sources.digest.clone();
        let revisions = Arc::new(sources.revisions.clone());
        let documents = Documents::compile(&sources);
        let compiled = compile::compile(sources, config, abandoned);
        let (documents, compiled) = match (documents, compiled) {
            (Ok(documents), Ok(compiled)) => (documents, compiled),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
            (Err(mut error), Err(other)) => {
                error.problems.extend(other.problems);
                return Err(error);
            }
        };
        let Compiled { engine, rule, bytecode, rules, wanted, findings } = compiled;
        Ok(Self {
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            engine,
            rule,
            bytecode,
            rules,
            wanted,
            documents,
            findings,
            revision: revision.into(),
            revisions,
            digest: digest.into(),
        })
    }

    /// What the authors call it: the revision of the bundle's manifest, else the beginning of the digest.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// Revision by name of the bundles that have both.
    pub fn revisions(&self) -> &Arc<BTreeMap<String, String>> {
        &self.revisions
    }

    /// Warnings and notes that its author should know, the gravest first.
    pub fn findings(&self) -> &[Problem] {
        &self.findings
    }

    /// What its documents below `data.doorward` say.
    pub const fn documents(&self) -> context::Documents<'_> {
        self.documents.view()
    }

    /// The actions that an entry of the registry lets its workload do, as far as their names say so.
    pub fn allowed(&self, workload: &Workload) -> Vec<Arc<str>> {
        self.documents.allowed(workload)
    }

    /// The same where no set is in force.
    pub fn no_documents() -> context::Documents<'static> {
        static NONE: LazyLock<Documents> = LazyLock::new(Documents::default);
        NONE.view()
    }

    /// Whether it can read `input.session`.
    pub fn wants_session(&self) -> bool {
        self.wanted.below("session").is_some()
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// SHA-256 in hex over the names and contents of all files.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// The answer of the rule that decides, `None` when it is undefined. Nothing is answered after `limit`. The thread
    /// needs a stack of 16 MiB for the deepest policies that load.
    pub fn evaluate(&self, input: &Input, limit: Duration) -> Result<Option<serde_json::Value>, Failure> {
        self.answer(self.bytecode.as_ref(), input, limit)
    }

    /// The same by the interpreter alone, to compare with.
    pub(super) fn interpret(&self, input: &Input, limit: Duration) -> Result<Option<serde_json::Value>, Failure> {
        self.answer(None, input, limit)
    }

    /// How often the bytecode had an answer; none where there is none, or it was wrong once.
    pub(super) fn bytecode_answers(&self) -> Option<u64> {
        self.bytecode.as_ref().and_then(Bytecode::answers)
    }

    fn answer(&self, bytecode: Option<&Bytecode>, input: &Input, limit: Duration) -> Result<Option<serde_json::Value>, Failure> {
        let start = Instant::now();
        draws::begin(input.now_ns);
        // The engine is out of its slot while it works: after a panic or an error, which leave it in the middle of a
        // rule, it is gone, and the next call takes a fresh one.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let claimed = match bytecode.map(|bytecode| (bytecode, bytecode.evaluate(self.generation, &input.value, limit))) {
                Some((_, Verdict::Answer(value))) => return Ok(value),
                Some((bytecode, Verdict::Unconfirmed(value))) => Some((bytecode, value)),
                Some((_, Verdict::None)) | None => None,
            };
            let mut engine = self.take_engine();
            let result = run(&mut engine, &self.rule, &input.value, limit);
            if result.is_ok() {
                ENGINE.with_borrow_mut(|slot| *slot = Some((self.generation, engine)));
            }
            if let Some((bytecode, claimed)) = claimed {
                match &result {
                    Ok(value) if claimed == *value => {}
                    Err(error) if is_timeout(error) => {}
                    Ok(_) | Err(_) => bytecode.disagree(),
                }
            }
            result
        }));
        match told(result, start, limit)? {
            Value::Undefined => Ok(None),
            Value::Bool(answer) => Ok(Some(serde_json::Value::Bool(answer))),
            value => answer::to_json(&value).map(Some),
        }
    }

    /// What the last evaluation on this thread got from functions whose answer their arguments do not determine, and
    /// forgets it.
    pub fn take_drawn() -> Drawn {
        draws::end()
    }

    /// Makes the next evaluation on this thread get `drawn` from those functions.
    pub fn give_drawn(drawn: &Drawn) {
        draws::give(drawn);
    }

    /// Whether there is a rule, or a document of the data, at a path below `data`.
    pub fn has(&self, path: &str) -> bool {
        let parts = parts(path);
        self.rules.contains(&rule_path(&parts)) || self.document(&parts).is_some()
    }

    fn document(&self, parts: &[String]) -> Option<Value> {
        let below = |value: Value, part: &String| value.as_object().ok()?.get(&Value::from(part.as_str())).cloned();
        parts.iter().try_fold(self.engine.get_data(), below)
    }

    /// What another rule, or a document of the data, says to `input`; `path` is a path below `data`. It is `None` where
    /// that is undefined, and where there is neither.
    pub fn ask(
        &self,
        path: &str,
        input: &serde_json::Value,
        now: Now,
        limit: Duration,
    ) -> Result<Option<serde_json::Value>, Failure> {
        let start = Instant::now();
        let parts = parts(path);
        let rule = rule_path(&parts);
        if !self.rules.contains(&rule) {
            return self.document(&parts).as_ref().map(answer::to_json).transpose();
        }
        draws::begin(now.nanoseconds());
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = self.take_engine();
            let result = run(&mut engine, &rule, &super::input::from_json(input), limit);
            if result.is_ok() {
                ENGINE.with_borrow_mut(|slot| *slot = Some((self.generation, engine)));
            }
            result
        }));
        match told(result, start, limit)? {
            Value::Undefined => Ok(None),
            value => answer::to_json(&value).map(Some),
        }
    }

    /// What the policy of our own API says: the set's own, where it has anything at that place, else the one built in.
    pub fn control(&self, input: &serde_json::Value, now: Now, limit: Duration) -> Result<Option<serde_json::Value>, Failure> {
        let package = library::CONTROL_RULE.rsplit_once('/').map_or("", |(package, _)| package);
        if self.document(&parts(package)).is_some() {
            return self.ask(library::CONTROL_RULE, input, now, limit);
        }
        match library::control() {
            Ok(set) => set.ask(library::CONTROL_RULE, input, now, limit),
            Err(error) => Err(Failure::new(Reason::PolicyError, error.to_string())),
        }
    }

    fn take_engine(&self) -> Engine {
        match ENGINE.take() {
            Some((generation, engine)) if generation == self.generation => engine,
            // Left by another set: that one has been replaced, or takes turns with this one.
            Some(_) | None => self.engine.clone(),
        }
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, rule, revision, digest, .. } = self;
        let mut debug = f.debug_struct("PolicySet");
        debug.field("generation", generation).field("rule", rule).field("revision", revision).field("digest", digest).finish()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `policy_error`, `policy_timeout`, `policy_limit` or `policy_panic`.
    pub reason: Reason,
    /// For operators, not for callers. It shows no value: it stands in records, where the input is masked.
    pub detail: String,
    /// File and line of the policy where it stood, if that is known.
    pub place: Option<String>,
}

impl Failure {
    fn new(reason: Reason, detail: String) -> Self {
        Self { reason, detail, place: None }
    }

    fn timeout(limit: Duration, place: Option<String>) -> Self {
        let limit = humantime::format_duration(limit);
        let detail = match &place {
            Some(place) => format!("no answer within {limit}; it stood at {place}"),
            None => format!("no answer within {limit}"),
        };
        Self { place, ..Self::new(Reason::PolicyTimeout, detail) }
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// What became of an evaluation that began at `start`.
fn told(result: thread::Result<Result<Value, anyhow::Error>>, start: Instant, limit: Duration) -> Result<Value, Failure> {
    match result {
        Err(panic) => Err(Failure::new(Reason::PolicyPanic, without_values(&panic_text(&*panic)))),
        Ok(Err(error)) if is_timeout(&error) => Err(Failure::timeout(limit, place(&error))),
        // An answer that comes late may rest on a loop that was cut short.
        Ok(_) if start.elapsed() > limit => Err(Failure::timeout(limit, None)),
        Ok(Err(error)) => Err(match error.downcast::<LimitReached>() {
            Ok(LimitReached { detail, place }) => Failure { place, ..Failure::new(Reason::PolicyLimit, detail) },
            Err(error) => {
                Failure { place: place(&error), ..Failure::new(Reason::PolicyError, without_values(&one_line(&error))) }
            }
        }),
        Ok(Ok(value)) => Ok(value),
    }
}

thread_local! {
    /// The engine that this thread used last, with the generation of its set. Evaluating on a fresh clone costs more
    /// than twice as much as on an engine that has run before.
    static ENGINE: RefCell<Option<(u64, Engine)>> = const { RefCell::new(None) };
}

/// One evaluation on an engine of this thread; how the engine fails is told apart by the caller.
pub(super) fn run(engine: &mut Engine, rule: &str, input: &Value, limit: Duration) -> Result<Value, anyhow::Error> {
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
    engine.set_input(input.clone());
    draws::limit_time(limit);
    let value = engine.eval_rule(rule.to_owned());
    // The engine is kept, what it was asked about is not.
    engine.set_input(Value::Undefined);
    for line in engine.take_prints()? {
        debug!(line, "policy printed");
    }
    limited(value)
}

/// An evaluation came to a limit of the functions it calls. It has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct LimitReached {
    /// Shows no value.
    detail: String,
    /// File and line, where the engine told them.
    place: Option<String>,
}

/// The answer, unless a limit was noted while it was made.
pub(super) fn limited(answer: Result<Value, anyhow::Error>) -> Result<Value, anyhow::Error> {
    let Some(limit) = draws::take_limit() else { return answer };
    let placed = answer.err().and_then(|error| Some((one_line(&error), place(&error)?)));
    let (detail, place) = match placed {
        Some((detail, place)) if detail.ends_with(&limit) => (detail, Some(place)),
        _ => (limit, None),
    };
    Err(LimitReached { detail, place }.into())
}

/// Errors that pass through a rule or function keep only their text.
pub(super) fn is_timeout(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }))
        || error.chain().any(|cause| cause.to_string().contains("execution exceeded time limit"))
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the engine panicked").to_owned()
}

/// An error of an evaluation without what it quotes: engine and library quote the values at hand, between backticks or
/// at the end, and those are the request's.
fn without_values(text: &str) -> String {
    const QUOTES: [&str; 3] = ["`", "multiple outputs ", "value: "];
    let end = QUOTES.iter().filter_map(|quote| text.find(quote)).min();
    end.and_then(|end| text.split_at_checked(end)).map_or_else(|| text.to_owned(), |(said, _)| format!("{said}…"))
}

#[cfg(test)]
pub(super) mod tests;
