//! Consecutive behaviour of one principal: the labels it has acquired, the path of its actions, and how often it did
//! each. Labels and counts live at the principal too, so that a new token or certificate sheds nothing.
//!
//! An intent is appended *before* the policy is asked, and only an enforced denial takes it back, once its record has
//! been handed over: of two racing actions that forbid each other's labels, at most one passes.

mod file;
mod memory;
mod principal;
mod tally;

use std::{sync::Arc, time::Duration};

use self::{file::File, memory::Memory};
pub use self::{
    file::FileError,
    memory::{Intent, id},
};
use crate::{
    action::Entry,
    clock::Now,
    config,
    verdict::{Class, Decision, Reason, SignalName},
};

/// What a session is told apart by, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `txn` of a verified transaction token, with its issuer.
    Transaction,
    /// A task that was opened by a grant, and that the principal is in.
    Task,
    /// `sid` or run id of a verified token, with its issuer.
    Run,
    /// SHA-256 of the peer's certificate.
    Certificate,
    /// Nothing: all the principal does.
    Ambient,
}

impl Source {
    const ALL: [Self; 5] = [Self::Transaction, Self::Task, Self::Run, Self::Certificate, Self::Ambient];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "txn",
            Self::Task => "task",
            Self::Run => "run",
            Self::Certificate => "certificate",
            Self::Ambient => "ambient",
        }
    }

    /// Whether somebody other than the caller vouches for where it begins and ends.
    pub const fn is_vouched(self) -> bool {
        matches!(self, Self::Transaction | Self::Task | Self::Run)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == text)
    }
}

/// Which session of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub source: Source,
    /// Empty for an ambient session.
    pub id: Arc<str>,
}

/// What policy sees of a session, the call's own intent left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Stable name of the session for people and the control API.
    pub id: String,
    pub source: &'static str,
    pub age_s: u64,
    /// Number of this call's intent in the session, from 0.
    pub seq: u64,
    /// Whether nothing can be missing from it.
    pub complete: bool,
    /// Of the session alone.
    pub session: Part,
    /// Of all that the principal did.
    pub principal: Part,
}

/// Labels, counts and path, of a session or of its principal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// In the order of the alphabet.
    pub labels: Vec<Arc<str>>,
    /// Of known actions, in the order of the alphabet.
    pub counts: Vec<(Arc<str>, Count)>,
    /// The oldest first.
    pub path: Vec<Past>,
}

/// How often an action was done within a day. It may be too much, by what was done in the three hours before, and never too
/// little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub n: u64,
    pub first: Now,
    pub last: Now,
}

/// One action of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub n: u64,
    /// Empty where the action is not known.
    pub action: Arc<str>,
    pub class: Class,
    pub resource_hash: u64,
    pub at: Now,
    /// Absent while nobody has decided.
    pub decision: Option<Decision>,
}

/// A signal that was noted about a principal: which, when first and when last.
pub type Noted = (SignalName, Now, Now);

/// What is known of a caller's behaviour before its call is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Glance {
    /// Whether the principal did other things before and never this known action within a day.
    pub first_use: bool,
    /// Denials one after the other, up to now.
    pub denials: u32,
    /// Calls in the running window.
    pub calls: u32,
    /// What of environment, zone and issuer has changed since the session began.
    pub changed: Vec<SignalName>,
    pub noted: Vec<Noted>,
}

/// Whose session, and where and by whose word the caller is now.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub principal: &'a Arc<str>,
    pub key: &'a Key,
    /// [`id`] of both, made once a call.
    pub id: u64,
    pub environment: Option<&'a str>,
    pub zone: Option<&'a str>,
    /// Of the caller's certificate.
    pub issuer: Option<&'a str>,
}

/// One action on its way into a session.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    pub who: Who<'a>,
    /// Absent where the action is not known.
    pub entry: Option<&'a Arc<Entry>>,
    pub class: Class,
    pub resource_hash: u64,
    /// Whether the policy asks about the session.
    pub wants_view: bool,
    /// Whether all calls of the principal come through here.
    pub sole: bool,
    pub now: Now,
}

/// What was there before the step.
#[derive(Debug)]
pub struct Stepped {
    /// Those of the session and its principal that live, without what this step adds.
    pub labels: Vec<Arc<str>>,
    /// Whether nothing can be missing from them.
    pub complete: bool,
    pub view: Option<View>,
    /// Name of the session, as in [`View::id`].
    pub session: u64,
    /// To be handed to [`Sessions::outcome`]; dropped, it stands.
    pub intent: Intent,
}

/// One session as the control API lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub id: u64,
    pub principal: Arc<str>,
    pub key: Key,
    pub began: Now,
    pub last: Now,
    pub seq: u64,
    pub ended: bool,
    /// Of the session and its principal.
    pub labels: Vec<Arc<str>>,
}

/// How full the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    pub sessions: usize,
    pub principals: usize,
}

/// How long things live, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    idle: Duration,
    absolute: Duration,
    max: usize,
}

/// All sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    /// When nothing that was forgotten at the start can live any more.
    complete_from: Now,
}

/// Where sessions are kept. A store that several processes share has the same methods, and its step is awaited.
#[derive(Debug)]
enum Store {
    Memory(Box<Memory>),
}

impl Sessions {
    /// Reads `sessions.snapshot` where there is one.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is none of ours.
    pub fn open(config: &config::Sessions, now: Now) -> Result<Self, FileError> {
        let bounds = Bounds { idle: config.idle.duration(), absolute: config.absolute.duration(), max: config.max };
        let mut memory = Memory::new(bounds, config.label_ttl.duration());
        let complete_from = match &config.snapshot {
            Some(path) => {
                memory.keep_in(File::open(path)?, now)?;
                now
            }
            None => Now { ns: now.ns.saturating_add(nanos(config.label_ttl.duration())) },
        };
        Ok(Self { store: Store::Memory(Box::new(memory)), complete_from })
    }

    /// What is known of the caller, before anything is counted. `window` is the time that calls are counted in.
    pub fn look(&self, who: &Who<'_>, action: Option<&Arc<str>>, window: Duration, now: Now) -> Glance {
        let Store::Memory(memory) = &self.store;
        memory.look(who, action, window, now)
    }

    /// Appends an intent, and says what was there before: both at once.
    ///
    /// # Errors
    /// `SessionEnded`; `SessionLimit` where the principal or the table has no room left; `SessionUnavailable` where what
    /// must survive could not be written.
    #[expect(clippy::unused_async, reason = "a shared store is waited for")]
    pub async fn step(&self, step: &Step<'_>) -> Result<Stepped, Reason> {
        let Store::Memory(memory) = &self.store;
        let mut stepped = memory.step(step)?;
        stepped.complete = step.sole && step.now >= self.complete_from;
        if let Some(view) = &mut stepped.view {
            view.complete = stepped.complete;
        }
        Ok(stepped)
    }

    /// What became of an intent. A denial takes back what nobody else added; call it only once the denial is enforced and
    /// its record handed over.
    pub fn outcome(&self, intent: Intent, decision: Decision, now: Now) {
        let Store::Memory(memory) = &self.store;
        memory.outcome(intent, decision, now);
    }

    /// A call was denied before it came to an intent.
    pub fn denied(&self, principal: &Arc<str>) {
        let Store::Memory(memory) = &self.store;
        memory.denied(principal);
    }

    /// Adds labels to a principal that is known.
    pub fn label(&self, principal: &Arc<str>, labels: &[Arc<str>], now: Now) {
        let Store::Memory(memory) = &self.store;
        memory.label(principal, labels, now);
    }

    /// Remembers that signals were noticed about a principal that is known.
    pub fn note(&self, principal: &Arc<str>, signals: impl Iterator<Item = SignalName>, now: Now) {
        let Store::Memory(memory) = &self.store;
        memory.note(principal, signals, now);
    }

    /// Ends a session: what comes in it is refused for as long as a session may last. An ambient one, which nobody could
    /// begin anew, only loses what it alone has.
    pub fn end(&self, principal: &Arc<str>, key: &Key, now: Now) -> bool {
        let Store::Memory(memory) = &self.store;
        memory.end(principal, key, now)
    }

    /// Whether a session of a principal was ended.
    pub fn has_ended(&self, principal: &Arc<str>, id: u64) -> bool {
        let Store::Memory(memory) = &self.store;
        memory.has_ended(principal, id)
    }

    /// The sessions that `wanted` takes, at most `limit`, in the order of their ids after `after`.
    pub fn list(&self, after: Option<u64>, limit: usize, now: Now, wanted: impl Fn(&Listed) -> bool) -> Vec<Listed> {
        let Store::Memory(memory) = &self.store;
        memory.list(after, limit, now, wanted)
    }

    /// Principals with a session that lives, of those that `wanted` takes.
    pub fn principals(&self, now: Now, wanted: impl Fn(&str) -> bool) -> usize {
        let Store::Memory(memory) = &self.store;
        memory.count(now, wanted)
    }

    /// One session with its path.
    pub fn show(&self, id: u64, now: Now) -> Option<(Listed, View)> {
        let Store::Memory(memory) = &self.store;
        memory.show(id, now)
    }

    /// Forgets what has expired.
    pub fn sweep(&self, now: Now) {
        let Store::Memory(memory) = &self.store;
        memory.sweep(now);
    }

    /// Writes all to the file, where there is one.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn save(&self, now: Now) -> Result<(), FileError> {
        let Store::Memory(memory) = &self.store;
        memory.save(now)
    }

    pub fn census(&self) -> Census {
        let Store::Memory(memory) = &self.store;
        memory.census()
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
