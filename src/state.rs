//! The control log: what operators decide, in the order in which they did, each entry signed and chained to the one before.
//! It knows bytes alone; what they mean is for the modules of the facts to say (`grant`, `revocation`), which `journal` tells.
//!
//! The file is opened for each append and closed again, and whoever appends first reads what another process has appended
//! meanwhile: in a restart that loses no call (`--take-over`) two processes share it for a while.

mod entry;
mod file;
mod journal;
mod key;

use std::{io, path::PathBuf, sync::Mutex};

use aws_lc_rs::error::Unspecified;
use uuid::Uuid;

use self::file::File;
pub use self::journal::{Fact, Journal, JournalError, Unread};
use crate::config::{MemoryState, State};

/// Longest body of an entry, in bytes.
pub const MAX_BODY: usize = 16 * 1024;

/// How far the control log has come: which log, and the number of its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    pub log: Uuid,
    /// Counted from 1; the first entry of a log in a file says that it has begun.
    pub rev: u64,
}

/// One entry, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub rev: u64,
    /// Whose entry it is, `revoke`.
    pub kind: String,
    pub body: Vec<u8>,
}

/// What became of an append.
#[derive(Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is on the disk.
    Done(Epoch),
    /// Nothing was appended, because another process had been first: these are its entries. Whoever takes them in may
    /// append then.
    Behind(Vec<Entry>),
}

/// Why the log cannot be read, or nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("not_durable: the next restart would forget it; set `state.memory.file`, or `state.memory.volatile: true`")]
    NotDurable,
    #[error("`{}` cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the control log `{}` (`state.memory.file`) cannot be read or written", path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
    #[error("another process holds the control log `{}` (`state.memory.file`); try again", path.display())]
    Held { path: PathBuf },
    #[error(
        "the control log `{}` (`state.memory.file`) is broken at entry {rev}: {what}; restore a copy that is whole, or move it \
         away together with its key, which forgets every revocation",
        path.display()
    )]
    Broken { path: PathBuf, rev: u64, what: &'static str },
    #[error(
        "the control log `{}` (`state.memory.file`) was signed by another key than `{}`; put the key back that signed it",
        path.display(), key.display()
    )]
    OtherKey { path: PathBuf, key: PathBuf },
    #[error(
        "the control log `{}` (`state.memory.file`) is gone, and its key `{}` is there; restore the log, or move the key away \
         too, which forgets every revocation",
        path.display(), key.display()
    )]
    LogGone { path: PathBuf, key: PathBuf },
    #[error(
        "the key `{}` of the control log is gone; restore it, or name the key that signed the log in `control.signing_key`",
        key.display()
    )]
    KeyGone { key: PathBuf },
    #[error("`{}` is no Ed25519 key in PEM; make one with `openssl genpkey -algorithm ed25519`", path.display())]
    Key { path: PathBuf },
    #[error(
        "the control log `{}` (`state.memory.file`) lacks entries that were in it before; restore it, and start again",
        path.display()
    )]
    RolledBack { path: PathBuf },
    #[error("other processes write to the control log all the time; try again")]
    Busy,
    #[error("an entry has at most {MAX_BODY} bytes")]
    TooLarge,
    #[error("the system gives no random key")]
    NoRandom(#[from] Unspecified),
}

/// The log of this process.
#[derive(Debug)]
pub struct Log(Store);

#[derive(Debug)]
enum Store {
    /// Nothing can be appended.
    Absent,
    /// Nothing survives.
    Volatile(Mutex<Epoch>),
    File(Box<File>),
}

impl Log {
    /// Opens the log, or begins one, and verifies all of it. `signing_key` is `control.signing_key`.
    ///
    /// # Errors
    /// When an entry is not what was signed, or not where it was; when there is a log and no key or a key and no log; when
    /// one of the two cannot be read or made.
    pub fn open(config: &State, signing_key: Option<&PathBuf>) -> Result<(Self, Vec<Entry>), StateError> {
        let State::Memory(MemoryState { file, volatile }) = config;
        match (file, volatile) {
            (Some(path), _) => {
                let (file, entries) = File::open(path, signing_key)?;
                Ok((Self(Store::File(Box::new(file))), entries))
            }
            (None, true) => Ok((Self(Store::Volatile(Mutex::new(Epoch { log: Uuid::now_v7(), rev: 0 }))), Vec::new())),
            (None, false) => Ok((Self(Store::Absent), Vec::new())),
        }
    }

    /// Absent where nothing can be appended. Waits for an append that is on its way.
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.0 {
            Store::Absent => None,
            Store::Volatile(epoch) => Some(*epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)),
            Store::File(file) => Some(file.epoch()),
        }
    }

    /// Whether what is appended survives a restart.
    pub const fn is_durable(&self) -> bool {
        matches!(self.0, Store::File(_))
    }

    /// Appends an entry, which is on the disk when this returns. It blocks.
    ///
    /// # Errors
    /// `NotDurable` without a file; when the file cannot be written, as when the disk is full. Nothing has changed then.
    pub fn append(&self, kind: &str, body: &[u8]) -> Result<Appended, StateError> {
        if body.len() > MAX_BODY {
            return Err(StateError::TooLarge);
        }
        match &self.0 {
            Store::Absent => Err(StateError::NotDurable),
            Store::Volatile(epoch) => {
                let mut epoch = epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                epoch.rev += 1;
                Ok(Appended::Done(*epoch))
            }
            Store::File(file) => file.append(kind, body),
        }
    }

    /// What another process has appended since this one looked last. Cheap where the file has not changed.
    ///
    /// # Errors
    /// As [`Log::open`]; what was read before stands.
    pub fn catch_up(&self) -> Result<Vec<Entry>, StateError> {
        match &self.0 {
            Store::Absent | Store::Volatile(_) => Ok(Vec::new()),
            Store::File(file) => file.catch_up(),
        }
    }
}

#[cfg(test)]
mod tests;
