//! One evaluation looked at from inside, for the author: by the interpreter, which says what it came by and hands over
//! what was printed. The answer is not taken from here.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use regorus::{Value, utils::limits::ExecutionTimerConfig};

use super::{CHECK_INTERVAL, PolicySet};
use crate::policy::{
    builtins::context::{self, Drawn},
    input::Input,
};

/// What one evaluation came by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Lines with an expression that was evaluated, by file.
    pub lines: BTreeMap<String, BTreeSet<u32>>,
    pub prints: Vec<String>,
}

impl PolicySet {
    /// Evaluates again what drew `drawn` before. A failure leaves what there was until then.
    pub(in crate::policy) fn trace(&self, input: &Input, drawn: &Drawn, limit: Duration) -> Trace {
        let traced = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = self.engine.clone();
            engine.set_enable_coverage(true);
            engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
            context::give(drawn);
            context::begin(input.now_ns);
            engine.set_input(input.value.clone());
            let _: Result<Value, _> = engine.eval_rule(self.rule.clone());
            context::take_limit();
            let report = engine.get_coverage_report();
            let files = report.map(|report| report.files).unwrap_or_default();
            let lines = files.into_iter().map(|file| (file.path, file.covered));
            Trace {
                lines: lines.filter(|(_, lines)| !lines.is_empty()).collect(),
                prints: engine.take_prints().unwrap_or_default(),
            }
        }));
        traced.unwrap_or_default()
    }
}
