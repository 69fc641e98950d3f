//! The control log with those who make something of it: one place that appends, and tells each module of facts of every
//! entry in the order of the log, whether it was read at the start, appended here, or appended by another process.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Appended, Entry, Epoch, Log, StateError};
use crate::{clock::Now, config::State};

/// How often an append is tried while another process appends too.
const TRIES: usize = 16;

/// What is made of entries.
pub trait Fact: Send + Sync + fmt::Debug {
    /// Takes in those of the entries that are its own, and `epoch`, that of the last one. Told by one thread at a time.
    ///
    /// # Errors
    /// The first of its own entries that it cannot read; the others are taken in.
    fn take(&self, entries: &[Entry], epoch: Option<Epoch>, now: Now) -> Result<(), Unread>;

    /// Whether entries of this kind are its own.
    fn takes(&self, kind: &str) -> bool;

    /// Forgets what has ended.
    fn sweep(&self, now: Now);
}

/// Why an entry means nothing here.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("entry {rev} of the control log is of a kind (`{kind}`) that this build does not know; start a newer one")]
    UnknownKind { rev: u64, kind: String },
    #[error("entry {rev} of the control log cannot be read by this build; start a newer one")]
    Unreadable { rev: u64, source: serde_json::Error },
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Unread(#[from] Unread),
}

/// The log and its readers.
#[derive(Debug)]
pub struct Journal {
    log: Log,
    facts: Vec<Arc<dyn Fact>>,
    /// Held while facts are told, so that each hears of the entries in their order. Always taken before their own locks.
    turn: Mutex<()>,
}

impl Journal {
    /// Reads all of the log. `signing_key` is `control.signing_key`.
    ///
    /// # Errors
    /// When the log is not whole, or says what this build does not understand.
    pub fn open(
        config: &State,
        signing_key: Option<&PathBuf>,
        facts: Vec<Arc<dyn Fact>>,
        now: Now,
    ) -> Result<Self, JournalError> {
        let (log, entries) = Log::open(config, signing_key)?;
        let journal = Self { log, facts, turn: Mutex::default() };
        journal.tell(&entries, now)?;
        Ok(journal)
    }

    /// Absent where nothing can be appended.
    pub fn epoch(&self) -> Option<Epoch> {
        self.log.epoch()
    }

    /// Whether what is appended survives a restart.
    pub const fn is_durable(&self) -> bool {
        self.log.is_durable()
    }

    /// Appends what `decide` says: it is on the disk, and each fact has been told, when this returns. `decide` is asked with
    /// all entries taken in that are there, and again where another process was first. Where it says nothing, nothing is
    /// appended. It blocks.
    ///
    /// # Errors
    /// Those of `decide`; when the log cannot be written. Nothing has changed then.
    pub fn append<E: From<StateError>>(
        &self,
        kind: &str,
        now: Now,
        mut decide: impl FnMut() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Epoch>, E> {
        let _turn = self.turn();
        for _ in 0..TRIES {
            let Some(body) = decide()? else { return Ok(None) };
            match self.log.append(kind, &body)? {
                Appended::Behind(entries) => self.put(&entries, now),
                Appended::Done(epoch) => {
                    self.put(&[Entry { rev: epoch.rev, kind: kind.to_owned(), body }], now);
                    return Ok(Some(epoch));
                }
            }
        }
        Err(StateError::Busy.into())
    }

    /// Takes in what another process has appended, and forgets what has ended; whether there was anything new. It blocks.
    ///
    /// # Errors
    /// When the log cannot be read any more; what was read stays in force.
    pub fn follow(&self, now: Now) -> Result<bool, StateError> {
        let _turn = self.turn();
        let missed = self.log.catch_up();
        if let Ok(missed) = &missed
            && !missed.is_empty()
        {
            self.put(missed, now);
        }
        self.facts.iter().for_each(|fact| fact.sweep(now));
        missed.map(|missed| !missed.is_empty())
    }

    /// Brings into force what was appended while we run. What of it cannot be understood is told of: another process is a
    /// newer build, and this one is to end.
    fn put(&self, entries: &[Entry], now: Now) {
        if let Err(error) = self.tell(entries, now) {
            tracing::error!(%error, "what another process has written to the control log is not understood");
        }
    }

    /// Tells all, and of the first entry that nobody understood.
    fn tell(&self, entries: &[Entry], now: Now) -> Result<(), Unread> {
        let epoch = self.log.epoch();
        let mut told = Ok(());
        for fact in &self.facts {
            told = told.and(fact.take(entries, epoch, now));
        }
        let nobodys = entries.iter().find(|entry| !self.facts.iter().any(|fact| fact.takes(&entry.kind)));
        match nobodys {
            Some(Entry { rev, kind, .. }) => told.and(Err(Unread::UnknownKind { rev: *rev, kind: kind.clone() })),
            None => told,
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
