//! A second way to evaluate: the engine's bytecode, four to five times as fast as its interpreter and wrong on common
//! Rego. Only policies within the `subset` on which it is right are compiled to it. Everything it cannot do, and every
//! error of it, goes to the interpreter, which remains the authority: now and then, and at first always, it decides
//! beside the bytecode, and once they disagree the bytecode of this policy set is never used again.

mod subset;

use std::{
    cell::RefCell,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use regorus::{
    Engine, PolicyLengthConfig, Rc, Value,
    languages::rego::compiler::Compiler,
    rvm::{Program, RegoVM},
    utils::limits::ExecutionTimerConfig,
};
use tracing::error;

use super::{CHECK_INTERVAL, MAX_COLUMNS};

/// Evaluations of a set that the interpreter repeats before the bytecode answers alone.
const FIRST: u64 = 64;
/// After those it repeats one in so many; a power of two.
const SAMPLE: u64 = 1024;
/// Instructions of one evaluation. Beyond them the interpreter goes on, whose limit is time.
const MAX_INSTRUCTIONS: usize = 25_000;

/// A policy set as bytecode.
pub(super) struct Bytecode {
    program: Arc<Program>,
    data: Value,
    evaluations: AtomicU64,
    disagreed: AtomicBool,
}

/// What the bytecode says.
pub(super) enum Verdict {
    /// The answer.
    Answer(Value),
    /// The answer, if the interpreter gives the same.
    Unconfirmed(Value),
    /// Nothing: the interpreter decides alone.
    None,
}

impl Bytecode {
    /// Compiles what `rule` needs of the modules (name and text), if all of that is within the subset. `data` is the
    /// engine's whole document.
    pub(super) fn compile(modules: &[(&str, &str)], data: &Value, rule: &str, decision: &[String]) -> Option<Self> {
        let modules: Vec<_> = modules.iter().map(|(name, text)| subset::Part::parse(name, text)).collect::<Option<_>>()?;
        subset::check(&modules, decision)?;
        let mut engine = Engine::new();
        for module in &modules {
            let text = subset::guard_bindings(module)?;
            engine.set_policy_length_config(PolicyLengthConfig {
                max_col: MAX_COLUMNS,
                max_file_bytes: NonZeroUsize::new(text.len())?,
                max_lines: super::compile::MAX_LINES,
            });
            engine.add_policy(module.name.to_owned(), text).ok()?;
        }
        engine.add_data(data.clone()).ok()?;
        let policy = engine.compile_with_entrypoint(&Rc::from(rule)).ok()?;
        let program = Compiler::compile_from_policy(&policy, &[rule]).ok()?;
        let bytecode = Self { program, data: data.clone(), evaluations: AtomicU64::new(0), disagreed: AtomicBool::new(false) };
        // A conflict of rules and data shows here.
        bytecode.machine().map(|_| bytecode)
    }

    /// Evaluates on a machine of this thread; `generation` tells sets apart.
    pub(super) fn evaluate(&self, generation: u64, input: &Value, limit: Duration) -> Verdict {
        if self.disagreed.load(Ordering::Relaxed) {
            return Verdict::None;
        }
        // A machine that failed, or panicked, is not put back.
        let mut machine = match MACHINE.take() {
            Some((of, machine)) if of == generation => machine,
            _ => match self.machine() {
                Some(machine) => machine,
                None => return Verdict::None,
            },
        };
        machine.set_execution_timer_config(Some(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL }));
        machine.set_input(input.clone());
        let Ok(value) = machine.execute_entry_point_by_index(0) else { return Verdict::None };
        // The machine is kept, what it was asked about is not.
        machine.set_input(Value::Undefined);
        MACHINE.with_borrow_mut(|slot| *slot = Some((generation, machine)));
        let count = self.evaluations.fetch_add(1, Ordering::Relaxed);
        match count < FIRST || count.is_multiple_of(SAMPLE) {
            true => Verdict::Unconfirmed(value),
            false => Verdict::Answer(value),
        }
    }

    /// How often it had an answer; none once it was wrong.
    pub(super) fn answers(&self) -> Option<u64> {
        (!self.disagreed.load(Ordering::Relaxed)).then(|| self.evaluations.load(Ordering::Relaxed))
    }

    /// The interpreter answered otherwise.
    pub(super) fn disagree(&self) {
        if !self.disagreed.swap(true, Ordering::Relaxed) {
            error!("bytecode and interpreter disagree about this policy set; it is interpreted from now on");
        }
    }

    fn machine(&self) -> Option<RegoVM> {
        let mut machine = RegoVM::new();
        machine.set_max_instructions(MAX_INSTRUCTIONS);
        machine.load_program(Arc::clone(&self.program));
        machine.set_data(self.data.clone()).ok()?;
        Some(machine)
    }
}

thread_local! {
    /// The machine that this thread used last, with the generation of its set.
    static MACHINE: RefCell<Option<(u64, RegoVM)>> = const { RefCell::new(None) };
}
