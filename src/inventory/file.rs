//! The file that what was seen survives a restart in: JSON lines, one a principal, the whole of it written now and then and at
//! the end. What came since is lost with a crash: it is an observation, and nothing is decided by it.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};
use uuid::Uuid;

use super::seen::{Late, Overdue, Rank, Seen, Sighting, Used};
use crate::{clock::Now, identity::lifetime::Lifetimes};

/// The first line.
const HEADER: &str = r#"{"doorward":"inventory","v":1}"#;
/// Principals that are copied at a time.
const CHUNK: usize = 256;

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("line {line} is none of ours: {text}; restore the file, or move it away, which forgets what was seen")]
    Line { line: usize, text: String },
}

/// One principal. Times are in seconds since the Unix epoch.
#[serde_as]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    p: Arc<str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    registered: bool,
    first: u64,
    last: u64,
    allowed: u64,
    denied: u64,
    #[serde_as(as = "DisplayFromStr")]
    decision: Uuid,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<(String, Option<u32>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    actions: Vec<(Arc<str>, u64, u64, u64)>,
    #[serde(default)]
    others: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<(Vec<String>, u64, u64, u64)>,
}

/// Reads what was written; nothing where there is no file yet.
///
/// # Errors
/// Where it cannot be read, or is none of ours.
pub(super) fn read(path: &Path, seen: &Seen) -> Result<(), FileError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        if number == 0 && line == HEADER {
            continue;
        }
        let parsed: Line =
            serde_json::from_str(&line).map_err(|error| FileError::Line { line: number + 1, text: error.to_string() })?;
        seen.restore(&parsed.into());
    }
    Ok(())
}

/// Replaces the file. After a crash there is the old one or the new one.
pub(super) fn write(path: &Path, seen: &Seen) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut writer = BufWriter::with_capacity(1 << 18, file);
    writeln!(writer, "{HEADER}")?;
    let mut last: Option<Arc<str>> = None;
    loop {
        let chunk = seen.after(last.as_deref(), "", CHUNK);
        let Some(end) = chunk.last() else { break };
        last = Some(Arc::clone(&end.principal));
        for sighting in chunk {
            serde_json::to_writer(&mut writer, &Line::from(sighting))?;
            writer.write_all(b"\n")?;
        }
    }
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&draft, path)
}

impl From<Sighting> for Line {
    fn from(sighting: Sighting) -> Self {
        let Sighting { principal, rank, first, last, allowed, denied, decision, lifetimes, actions, others, late } = sighting;
        let second = |at: Now| u64::try_from(at.seconds()).unwrap_or_default();
        let used = |used: Used| (used.action, second(used.first), second(used.last), used.count);
        let late = late.map(|Late { reasons, first, last, count }| {
            (reasons.iter().map(|why| why.as_str().to_owned()).collect(), second(first), second(last), count)
        });
        Self {
            p: principal,
            registered: rank == Rank::Registered,
            first: second(first),
            last: second(last),
            allowed,
            denied,
            decision,
            credentials: lifetimes.seen().map(|(credential, longest)| (credential.as_str().to_owned(), longest)).collect(),
            actions: actions.into_iter().map(used).collect(),
            others,
            late,
        }
    }
}

impl From<Line> for Sighting {
    fn from(line: Line) -> Self {
        let Line { p, registered, first, last, allowed, denied, decision, credentials, actions, others, late } = line;
        let mut lifetimes = Lifetimes::default();
        credentials.iter().for_each(|(credential, longest)| lifetimes.restore(credential, *longest));
        let at = Now::from_seconds;
        Self {
            rank: Rank::of(&p, registered),
            principal: p,
            first: at(first),
            last: at(last),
            allowed,
            denied,
            decision,
            lifetimes,
            actions: actions
                .into_iter()
                .map(|(action, first, last, count)| Used { action, first: at(first), last: at(last), count })
                .collect(),
            others,
            late: late.map(|(reasons, first, last, count)| Late {
                reasons: Overdue::ALL.into_iter().filter(|why| reasons.iter().any(|text| text == why.as_str())).collect(),
                first: at(first),
                last: at(last),
                count,
            }),
        }
    }
}
