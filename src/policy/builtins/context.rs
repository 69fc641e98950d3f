//! What belongs to one evaluation: the time it takes for now, and the answers of functions that are not determined by their
//! arguments. As in OPA, the same call has the same answer throughout an evaluation, and all of them are kept for the
//! record, so that the decision can be made again.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use regorus::{LimitError, Value};

use super::{Builtin, Fault, integer_operand, text_operand};

pub(super) const CONTEXT: &[Builtin] = &[
    Builtin { name: "rand.intn", arity: 2, run: random_integer },
    Builtin { name: "uuid.rfc4122", arity: 1, run: random_uuid },
    Builtin { name: "opa.runtime", arity: 0, run: |_| Ok(runtime()) },
];

/// Bytes that all calls of one evaluation may make.
const MAX_GROWN: usize = 64 << 20;
/// Answers that one evaluation may keep.
const KEPT: usize = 1_000;

/// By function, and by its arguments as JSON.
pub type Drawn = BTreeMap<&'static str, BTreeMap<String, serde_json::Value>>;

struct Context {
    now_ns: i64,
    drawn: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// What the next evaluation is to draw.
    given: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// The limit that this evaluation came to, as an error's text.
    limit: Option<String>,
    /// When it must be over, and the time that it has in all.
    until: Option<(Instant, Duration)>,
    /// Bytes that its calls have made.
    grown: usize,
}

thread_local! {
    static CONTEXT_HERE: RefCell<Context> =
        const { RefCell::new(Context { now_ns: 0, drawn: BTreeMap::new(), given: BTreeMap::new(), limit: None, until: None, grown: 0 }) };
}

/// Begins an evaluation on this thread, which takes `now_ns` for the time.
pub(in crate::policy) fn begin(now_ns: i64) {
    CONTEXT_HERE.with_borrow_mut(|context| {
        context.now_ns = now_ns;
        context.drawn = std::mem::take(&mut context.given);
        // Left by an evaluation that panicked.
        context.limit = None;
        context.until = None;
        context.grown = 0;
    });
}

/// Makes the next evaluation on this thread draw again what was drawn before.
pub(in crate::policy) fn give(drawn: &Drawn) {
    let values = |calls: &BTreeMap<String, serde_json::Value>| {
        calls.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
    };
    CONTEXT_HERE.with_borrow_mut(|context| context.given = drawn.iter().map(|(name, calls)| (*name, values(calls))).collect());
}

/// What a record kept of an evaluation. Functions that draw nothing here are left out.
pub fn drawn_of(kept: &serde_json::Value) -> Drawn {
    let calls = |name| {
        let calls = kept.get(name)?.as_object()?;
        Some((name, calls.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    };
    ["rand.intn", "uuid.rfc4122"].into_iter().filter_map(calls).collect()
}

/// The evaluation has so much time from now on.
pub(in crate::policy) fn limit_time(limit: Duration) {
    CONTEXT_HERE.with_borrow_mut(|context| context.until = Instant::now().checked_add(limit).map(|until| (until, limit)));
}

/// Whether there is time for another call: the engine looks at the clock every so many steps, and a call may be a long one.
/// Its own error, too, tells the place only where it comes out of a call.
pub(super) fn check_time() -> Result<(), LimitError> {
    let Some((until, limit)) = CONTEXT_HERE.with_borrow(|context| context.until) else { return Ok(()) };
    let over = Instant::now().checked_duration_since(until);
    over.map_or(Ok(()), |over| Err(LimitError::TimeLimitExceeded { elapsed: limit + over, limit }))
}

/// A call has made so many bytes.
pub(super) fn grow(bytes: usize) {
    let grown = CONTEXT_HERE.with_borrow_mut(|context| {
        context.grown = context.grown.saturating_add(bytes);
        context.grown
    });
    if grown > MAX_GROWN {
        note_limit("the calls of this evaluation make too much");
    }
}

/// What the evaluation drew, for its record.
pub(in crate::policy) fn end() -> Drawn {
    CONTEXT_HERE.with_borrow_mut(|context| {
        let json = |value: &Value| serde_json::to_value(value).unwrap_or_default();
        let drawn = std::mem::take(&mut context.drawn);
        drawn
            .into_iter()
            .map(|(name, calls)| (name, calls.into_iter().map(|(key, value)| (key, json(&value))).collect()))
            .collect()
    })
}

/// Notes that the evaluation came to a limit. An error alone would not do: functions that ask whether something is valid
/// drop it, and so does the engine where another body of a function has an answer.
pub(super) fn note_limit(text: &str) {
    CONTEXT_HERE.with_borrow_mut(|context| context.limit = Some(text.to_owned()));
}

/// The limit that was noted, with the name of the function that came to it.
pub(super) fn limit_of(name: &str) -> Option<String> {
    CONTEXT_HERE.with_borrow_mut(|context| {
        let text = context.limit.as_mut()?;
        if !text.starts_with('`') {
            text.insert_str(0, &format!("`{name}`: "));
        }
        Some(text.clone())
    })
}

/// The limit that the evaluation came to, which is forgotten.
pub(in crate::policy) fn take_limit() -> Option<String> {
    CONTEXT_HERE.with_borrow_mut(|context| context.limit.take())
}

pub(super) fn now_ns() -> i64 {
    CONTEXT_HERE.with_borrow(|context| context.now_ns)
}

/// The answer that this call had before in this evaluation, or a new one.
fn drawn(name: &'static str, args: &[Value], draw: impl FnOnce() -> Result<Value, Fault>) -> Result<Value, Fault> {
    let key = serde_json::to_string(args).unwrap_or_default();
    let known = CONTEXT_HERE.with_borrow(|context| context.drawn.get(name)?.get(&key).cloned());
    if let Some(known) = known {
        return Ok(known);
    }
    let value = draw()?;
    CONTEXT_HERE.with_borrow_mut(|context| {
        let calls = context.drawn.entry(name).or_default();
        if calls.len() >= KEPT {
            return Err(Fault::limit("too many different calls in one evaluation"));
        }
        calls.insert(key, value.clone());
        Ok(value)
    })
}

fn random_integer(args: &[Value]) -> Result<Value, Fault> {
    let name = text_operand(args, 0)?;
    let bound = integer_operand(args, 1)?.unsigned_abs();
    if bound == 0 {
        return Ok(Value::from(0));
    }
    // A bound and its negative are one call.
    drawn("rand.intn", &[Value::from(name), Value::from(bound)], || {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| Fault::from("no random bytes"))?;
        let drawn = u128::from_le_bytes(bytes) % bound;
        Ok(Value::from(u64::try_from(drawn).unwrap_or(0)))
    })
}

fn random_uuid(args: &[Value]) -> Result<Value, Fault> {
    text_operand(args, 0)?;
    drawn("uuid.rfc4122", args, || {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| Fault::from("no random bytes"))?;
        Ok(Value::from(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()))
    })
}

/// What we are. The environment is nobody's business: secrets stand in it.
fn runtime() -> Value {
    let text = |key: &str, value: &str| (Value::from(key), Value::from(value));
    let empty = |key: &str| (Value::from(key), Value::new_object());
    let known = [text("version", env!("CARGO_PKG_VERSION")), text("commit", ""), empty("env"), empty("config")];
    Value::from(BTreeMap::from(known))
}
