//! The file that sessions survive in: JSON lines, the whole of them written now and then and at the end, and beside it
//! what was acquired since. A crash of this process loses neither labels nor the counts of what paths are asked about; what
//! the machine had not put on its disk yet is lost with the machine.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    Bounds, Key, Source,
    memory::id,
    principal::{Principal, SESSIONS, Session},
    tally::Tally,
};

/// The first line of each file.
const HEADER: &str = r#"{"doorward":"sessions","v":1}"#;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("`{}` (`sessions.snapshot`) cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "line {line} of `{}` (`sessions.snapshot`) is none of ours: {text}; restore the file, or move it away, which forgets \
         what sessions did",
        path.display()
    )]
    Line { path: PathBuf, line: usize, text: String },
}

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// Where lines go until all is written anew.
    journal: Mutex<fs::File>,
    /// Held while all is written.
    replacing: Mutex<()>,
}

/// One fact about one principal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Line {
    Label {
        p: Arc<str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<Of>,
        label: Arc<str>,
        until: u64,
    },
    /// So many more.
    Count {
        p: Arc<str>,
        action: Arc<str>,
        n: u64,
        first: u64,
        last: u64,
    },
    Session {
        p: Arc<str>,
        session: Of,
        began: u64,
        last: u64,
        ended: bool,
    },
}

/// Which session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Of {
    source: String,
    id: Arc<str>,
}

impl From<&Key> for Of {
    fn from(key: &Key) -> Self {
        Self { source: key.source.as_str().to_owned(), id: Arc::clone(&key.id) }
    }
}

impl Of {
    fn key(&self) -> Option<Key> {
        Some(Key { source: Source::parse(&self.source)?, id: Arc::clone(&self.id) })
    }
}

impl Line {
    pub(super) fn label(p: &Arc<str>, session: Option<&Key>, label: &Arc<str>, until: u64) -> Self {
        Self::Label { p: Arc::clone(p), session: session.map(Of::from), label: Arc::clone(label), until }
    }

    /// Once more.
    pub(super) fn count(p: &Arc<str>, action: &Arc<str>, now: u64) -> Self {
        Self::Count { p: Arc::clone(p), action: Arc::clone(action), n: 1, first: now, last: now }
    }

    pub(super) fn ended(p: &Arc<str>, key: &Key, now: u64) -> Self {
        Self::Session { p: Arc::clone(p), session: key.into(), began: now, last: now, ended: true }
    }

    /// All that is kept of a principal.
    pub(super) fn all(p: &Arc<str>, principal: &Principal, names: &[Arc<str>], now: u64) -> Vec<Self> {
        let mut lines = Vec::new();
        let labels = |session: Option<&Key>, behaviour: &super::principal::Behaviour, lines: &mut Vec<Self>| {
            let live = behaviour.labels.iter().filter(|label| label.end() > now);
            lines.extend(live.map(|label| Self::label(p, session, &label.name, label.end())));
        };
        for session in &principal.sessions {
            let Session { key, began, last, ended, own, .. } = session;
            lines.push(Self::Session { p: Arc::clone(p), session: key.into(), began: *began, last: *last, ended: *ended });
            labels(Some(key), own, &mut lines);
        }
        labels(None, &principal.own, &mut lines);
        lines.extend(principal.own.counts.iter().filter_map(|(number, tally)| {
            let action = names.get(usize::try_from(*number).ok()?)?;
            let count = tally.at(now)?;
            Some(Self::Count {
                p: Arc::clone(p),
                action: Arc::clone(action),
                n: count.n,
                first: count.first.ns,
                last: count.last.ns,
            })
        }));
        lines
    }

    pub(super) fn principal(&self) -> &Arc<str> {
        match self {
            Self::Label { p, .. } | Self::Count { p, .. } | Self::Session { p, .. } => p,
        }
    }

    /// Brings the fact back. What is told twice counts twice: never too little.
    pub(super) fn restore(&self, principal: &mut Principal, bounds: &Bounds, now: u64, number: impl Fn(&str) -> u32) {
        let id = |key: &Key| id(self.principal(), key);
        match self {
            Self::Label { session: None, label, until, .. } => {
                principal.overflowed |= !principal.own.add(label, *until, None, now);
            }
            Self::Label { session: Some(of), label, until, .. } => {
                if let Some(key) = of.key() {
                    let _ = principal.session(&key, id(&key), bounds, now).own.add(label, *until, None, now);
                }
            }
            Self::Count { action, n, first, last, .. } => {
                let (action, more) = (number(action), Tally::of(*n, *first, *last));
                let counts = &mut principal.own.counts;
                match counts.binary_search_by_key(&action, |(action, _)| *action) {
                    Ok(at) => {
                        if let Some((_, tally)) = counts.get_mut(at) {
                            tally.add(&more);
                        }
                    }
                    Err(at) => counts.insert(at, (action, more)),
                }
            }
            Self::Session { session, began, last, ended, .. } => {
                let Some(key) = session.key().filter(|_| principal.sessions.len() < SESSIONS) else { return };
                let session = principal.session(&key, id(&key), bounds, *began);
                // An end stands for as long as a session may last, counted from itself.
                session.began = if *ended { session.began.max(*began) } else { session.began.min(*began) };
                session.last = session.last.max(*last);
                session.ended |= ended;
            }
        }
    }
}

impl File {
    /// Opens the file for what will be acquired. Its folder has to be there.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "is no regular file");
            return Err(FileError::Io { path: path.to_owned(), source });
        }
        let journal = beside(path, "new");
        let file = append_to(&journal).map_err(|source| FileError::Io { path: journal, source })?;
        Ok(Self { path: path.to_owned(), journal: Mutex::new(file), replacing: Mutex::default() })
    }

    /// Every line of what was written whole, and of what came after.
    pub(super) fn read(&self) -> Result<impl Iterator<Item = Result<Line, FileError>>, FileError> {
        let mut readers = Vec::new();
        for path in [self.path.clone(), beside(&self.path, "old"), beside(&self.path, "new")] {
            match fs::File::open(&path) {
                Ok(file) => readers.push((path, BufReader::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(FileError::Io { path, source }),
            }
        }
        Ok(readers.into_iter().flat_map(|(path, reader)| {
            let is_appended = path != self.path;
            reader.lines().enumerate().filter_map(move |(index, line)| match line {
                Ok(line) if line == HEADER || line.is_empty() => None,
                // A crash or a full disk may have cut what was appended; nothing was answered on the strength of it.
                Ok(line) => match serde_json::from_str(&line) {
                    Ok(line) => Some(Ok(line)),
                    Err(error) if error.is_eof() && is_appended => None,
                    Err(error) => Some(Err(FileError::Line { path: path.clone(), line: index + 1, text: error.to_string() })),
                },
                Err(source) => Some(Err(FileError::Io { path: path.clone(), source })),
            })
        }))
    }

    /// From now on nothing can be written.
    #[cfg(test)]
    pub(super) fn fill_up(&self) {
        *self.journal.lock().unwrap() = OpenOptions::new().write(true).open("/dev/full").unwrap();
    }

    /// With the kernel when this returns, so that nothing of it is lost if this process dies.
    pub(super) fn append(&self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(256);
        // Each begins with an end of line: what was cut before it stays a line of its own.
        for line in lines {
            text.push(b'\n');
            serde_json::to_writer(&mut text, line)?;
        }
        text.push(b'\n');
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
    }

    /// Writes the whole anew by `fill`. Lines that come meanwhile go to a new file; what they were in before is deleted
    /// once the whole is there.
    pub(super) fn replace(
        &self,
        fill: impl FnOnce(&mut dyn FnMut(&[Line]) -> io::Result<()>) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new, draft) = (beside(&self.path, "old"), beside(&self.path, "new"), beside(&self.path, "draft"));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| FileError::Io { path, source }
        };
        {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            // What an attempt that failed has left is still needed: then the present lines stay where they are, too.
            if !old.exists() {
                fs::rename(&new, &old).map_err(at(&old))?;
                *journal = append_to(&new).map_err(at(&new))?;
            }
        }
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            writeln!(writer, "{HEADER}")?;
            fill(&mut |lines: &[Line]| {
                lines.iter().try_for_each(|line| {
                    serde_json::to_writer(&mut writer, line)?;
                    writer.write_all(b"\n")
                })
            })?;
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&draft, &self.path)?;
            fs::remove_file(&old)
        };
        write().map_err(at(&self.path))
    }
}

fn append_to(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
