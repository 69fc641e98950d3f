//! The log in a redb file: one transaction an append, so that what a crash tears is never half there. What redb does not
//! see, the chain of the entries does.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::Duration,
};

use redb::{Database, DatabaseError, ReadableDatabase as _, TableDefinition, TableError, backends::FileBackend};
use uuid::Uuid;

use super::{
    Appended, Entry, Epoch, StateError,
    entry::{BEGIN, Fault, Head, sha256},
    key::{self, SigningKey},
};

/// Rev to entry.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Memory that redb may use while the file is open, in bytes.
const CACHE: usize = 4 * 1024 * 1024;
/// How often, and how long between, the file is tried while another process holds it.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    key: SigningKey,
    position: Mutex<Position>,
}

/// How far the file was read.
#[derive(Debug)]
struct Position {
    head: Head,
    /// What the file looked like then.
    stamp: Option<Stamp>,
}

/// Tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl File {
    pub(super) fn open(path: &Path, signing_key: Option<&PathBuf>) -> Result<(Self, Vec<Entry>), StateError> {
        let (made, draft) = (beside(path, "key"), beside(path, "new"));
        if !exists(path)? && signing_key.is_none() && exists(&made)? {
            // A crash has come between the key and the log; else somebody has taken the log away.
            if !exists(&draft)? {
                return Err(StateError::LogGone { path: path.to_owned(), key: made });
            }
            Self::read(&draft, SigningKey::read(&made)?)?;
            put(&draft, path)?;
        }
        if !exists(path)? {
            return Self::create(path, &draft, signing_key, &made);
        }
        let key = match signing_key {
            Some(key) => SigningKey::read(key)?,
            None if exists(&made)? => SigningKey::read(&made)?,
            None => return Err(StateError::KeyGone { key: made }),
        };
        Self::read(path, key)
    }

    /// Begins a log. It gets its name last, so that there is a whole one with its key, or none.
    fn create(path: &Path, draft: &Path, signing_key: Option<&PathBuf>, made: &Path) -> Result<(Self, Vec<Entry>), StateError> {
        let (key, pem) = match signing_key {
            Some(key) => (SigningKey::read(key)?, None),
            None => {
                let (key, pem) = SigningKey::make(made)?;
                (key, Some(pem))
            }
        };
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        match fs::remove_file(draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(draft)(error)),
            _ => {}
        }
        let (first, head) = Head::new(Uuid::now_v7()).next(BEGIN, b"", &key);
        whole(draft, || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(draft).map_err(at(draft))?;
            let failed = |error: redb::Error| failed(draft, error);
            let database = Database::builder()
                .set_cache_size(CACHE)
                .create_with_backend(FileBackend::new(file).map_err(|error| failed(error.into()))?)
                .map_err(|error| failed(error.into()))?;
            write(&database, head.epoch.rev, &first).map_err(failed)
        })?;
        if let Some(pem) = pem {
            key::keep(made, &pem).map_err(at(made))?;
        }
        put(draft, path)?;
        tracing::info!(file = %path.display(), log = %head.epoch.log, "began a new control log");
        Self::read(path, key)
    }

    /// Reads and verifies the whole log.
    fn read(path: &Path, key: SigningKey) -> Result<(Self, Vec<Entry>), StateError> {
        let mut head = Head::new(Uuid::nil());
        let entries = with(path, |database| chain(path, database, &mut head, &key))?;
        if head.epoch.rev == 0 {
            return Err(StateError::Broken { path: path.to_owned(), rev: 1, what: "it is not there" });
        }
        let position = Mutex::new(Position { head, stamp: Stamp::of(path) });
        Ok((Self { path: path.to_owned(), key, position }, entries))
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.position().head.epoch
    }

    pub(super) fn append(&self, kind: &str, body: &[u8]) -> Result<Appended, StateError> {
        let mut position = self.position();
        let (head, appended) = with(&self.path, |database| {
            let mut head = position.head;
            let missed = chain(&self.path, database, &mut head, &self.key)?;
            if !missed.is_empty() {
                return Ok((head, Appended::Behind(missed)));
            }
            let (bytes, head) = head.next(kind, body, &self.key);
            write(database, head.epoch.rev, &bytes).map_err(|error| failed(&self.path, error))?;
            Ok((head, Appended::Done(head.epoch)))
        })?;
        *position = Position { head, stamp: Stamp::of(&self.path) };
        Ok(appended)
    }

    pub(super) fn catch_up(&self) -> Result<Vec<Entry>, StateError> {
        let mut position = self.position();
        let stamp = Stamp::of(&self.path);
        if stamp == position.stamp {
            return Ok(Vec::new());
        }
        let mut head = position.head;
        let missed = with(&self.path, |database| chain(&self.path, database, &mut head, &self.key))?;
        *position = Position { head, stamp: Stamp::of(&self.path) };
        Ok(missed)
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { inode: found.ino(), length: found.len(), modified: (found.mtime(), found.mtime_nsec()) })
    }
}

/// Works on the file, held while `work` does.
fn with<T>(path: &Path, work: impl FnOnce(&Database) -> Result<T, StateError>) -> Result<T, StateError> {
    let length = fs::metadata(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?.len();
    // redb would take an empty file for a new one.
    if length == 0 {
        return Err(StateError::Broken { path: path.to_owned(), rev: 1, what: "the file is empty" });
    }
    whole(path, || {
        let mut tries = 0;
        let database = loop {
            match Database::builder().set_cache_size(CACHE).open(path) {
                Err(DatabaseError::DatabaseAlreadyOpen) if tries < TRIES => {
                    tries += 1;
                    sleep(PAUSE);
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StateError::Held { path: path.to_owned() }),
                other => break other.map_err(|error| failed(path, error.into()))?,
            }
        };
        work(&database)
    })
}

/// redb may panic on a file that something else has written.
fn whole<T>(path: &Path, work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    let broken = |_| Err(StateError::Broken { path: path.to_owned(), rev: 0, what: "its pages are damaged" });
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(broken)
}

fn write(database: &Database, rev: u64, bytes: &[u8]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // What is committed is on the disk in either case; so too if the machine stops in the middle of it.
    transaction.set_two_phase_commit(true);
    transaction.open_table(ENTRIES)?.insert(rev, bytes)?;
    transaction.commit()?;
    Ok(())
}

/// The entries after `head`, which moves to the last of them.
fn chain(path: &Path, database: &Database, head: &mut Head, key: &SigningKey) -> Result<Vec<Entry>, StateError> {
    let broken = |rev, what| StateError::Broken { path: path.to_owned(), rev, what };
    let failed = |error: redb::Error| failed(path, error);
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    let table = match transaction.open_table(ENTRIES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Err(broken(1, "it is not there")),
        Err(error) => return Err(failed(error.into())),
    };
    // What was read before has to be there still.
    let read = head.epoch.rev;
    if read > 0 {
        let last = table.get(read).map_err(|error| failed(error.into()))?;
        match last.map(|last| sha256(last.value()) == head.hash) {
            Some(true) => {}
            Some(false) => return Err(broken(read, "it is another one than before")),
            None => return Err(StateError::RolledBack { path: path.to_owned() }),
        }
    }
    let mut entries = Vec::new();
    for row in table.range(read + 1..).map_err(|error| failed(error.into()))? {
        let (rev, bytes) = row.map_err(|error| failed(error.into()))?;
        let next = head.epoch.rev + 1;
        if rev.value() != next {
            return Err(broken(next, "it is not there"));
        }
        let entry = head.follow(bytes.value(), key).map_err(|fault| match fault {
            Fault::OtherKey => StateError::OtherKey { path: path.to_owned(), key: key.path.clone() },
            Fault::Broken(what) => broken(next, what),
        })?;
        if entry.kind != BEGIN {
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn failed(path: &Path, error: redb::Error) -> StateError {
    StateError::Database { path: path.to_owned(), source: Box::new(error) }
}

/// Gives a draft its name, on the disk when this returns.
fn put(draft: &Path, path: &Path) -> Result<(), StateError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = fs::rename(draft, path).and_then(|()| fs::File::open(folder)?.sync_all());
    named.map_err(|source| StateError::Io { path: path.to_owned(), source })
}

fn exists(path: &Path) -> Result<bool, StateError> {
    path.try_exists().map_err(|source| StateError::Io { path: path.to_owned(), source })
}

/// `path` with an ending more.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
