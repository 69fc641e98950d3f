//! One decision's line, looked for where it may still be: in memory, then in the record files from the newest line
//! backwards. An id tells when it was made, so the search ends where older lines begin.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::recent::Recent;
use crate::config::FileSink;

/// Bytes that are read at a time, and for one search.
const BLOCK: u64 = 1024 * 1024;
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// What is longer is no line of ours.
const MAX_LINE: usize = 64 * 1024;
/// Lines may stand in another order than their ids were made by this many seconds: a decision takes its time.
const DISORDER_S: u64 = 60;

/// Knows where lines are kept.
#[derive(Debug)]
pub struct Finder {
    recent: Arc<Recent>,
    /// None where records go to no file.
    file: Option<FileSink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Memory,
    File,
}

impl Place {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
        }
    }
}

impl Finder {
    pub const fn new(recent: Arc<Recent>, file: Option<FileSink>) -> Self {
        Self { recent, file }
    }

    /// The line of the decision with this id, and where it was. May read for seconds.
    pub fn find(&self, id: Uuid) -> io::Result<Option<(Bytes, Place)>> {
        if let Some(line) = self.recent.find(id) {
            return Ok(Some((line, Place::Memory)));
        }
        let Some(file) = &self.file else { return Ok(None) };
        let Some(made_s) = second(id) else { return Ok(None) };
        let wanted = Wanted { start: format!("{{\"v\":1,\"id\":\"{id}\",\"kind\":\"decision\","), oldest_s: made_s - DISORDER_S };
        let mut left = MAX_BYTES;
        for number in 0..=file.keep {
            let mut path = file.path.as_os_str().to_owned();
            if number > 0 {
                path.push(format!(".{number}"));
            }
            let file = match File::open(PathBuf::from(path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match wanted.look(file, &mut left)? {
                Looked::Found(line) => return Ok(Some((line, Place::File))),
                Looked::Passed => return Ok(None),
                Looked::End => {}
            }
        }
        Ok(None)
    }
}

/// When an id was made; only a decision's can be one.
fn second(id: Uuid) -> Option<u64> {
    let timestamp = (id.get_version_num() == 7).then(|| id.get_timestamp()).flatten()?;
    Some(timestamp.to_unix().0.max(DISORDER_S))
}

struct Wanted {
    /// How its line begins.
    start: String,
    /// Its line does not stand before one that is older than this.
    oldest_s: u64,
}

enum Looked {
    Found(Bytes),
    /// It would have been here.
    Passed,
    End,
}

impl Wanted {
    /// Looks through a file from its end.
    fn look(&self, mut file: File, left: &mut u64) -> io::Result<Looked> {
        let mut position = file.seek(SeekFrom::End(0))?;
        // The end of a line whose beginning has not been read yet.
        let mut rest = Vec::new();
        while position > 0 {
            let size = BLOCK.min(position);
            if size > *left {
                return Ok(Looked::Passed);
            }
            *left -= size;
            position -= size;
            file.seek(SeekFrom::Start(position))?;
            let mut block = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + rest.len());
            (&file).take(size).read_to_end(&mut block)?;
            block.append(&mut rest);
            let whole = match position {
                0 => 0,
                _ => block.iter().position(|byte| *byte == b'\n').map_or(block.len(), |end| end + 1),
            };
            let lines = block.get(whole..).unwrap_or_default();
            if let Some(line) = self.among(lines) {
                return Ok(Looked::Found(Bytes::copy_from_slice(line)));
            }
            if lines.split(|byte| *byte == b'\n').find_map(made_s).is_some_and(|made_s| made_s < self.oldest_s) {
                return Ok(Looked::Passed);
            }
            block.truncate(whole);
            rest = if block.len() > MAX_LINE { Vec::new() } else { block };
        }
        Ok(Looked::End)
    }

    fn among<'a>(&self, lines: &'a [u8]) -> Option<&'a [u8]> {
        lines.split(|byte| *byte == b'\n').find(|line| line.starts_with(self.start.as_bytes()))
    }
}

/// When the id of a line was made.
fn made_s(line: &[u8]) -> Option<u64> {
    let id = line.strip_prefix(b"{\"v\":1,\"id\":\"")?.get(..36)?;
    second(Uuid::try_parse_ascii(id).ok()?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use uuid::{NoContext, Timestamp};

    use super::*;

    fn id(second: u64) -> Uuid {
        Uuid::new_v7(Timestamp::from_unix(NoContext, second, 0))
    }

    fn line(id: Uuid, more: &str) -> String {
        format!("{{\"v\":1,\"id\":\"{id}\",\"kind\":\"decision\",\"more\":\"{more}\"}}\n")
    }

    fn finder(folder: &std::path::Path) -> Finder {
        let sink = serde_json::json!({"path": folder.join("r.jsonl"), "keep": 2});
        Finder::new(Arc::default(), Some(serde_json::from_value(sink).unwrap()))
    }

    #[test]
    fn a_line_is_found_in_memory_and_wherever_it_stands_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (0..6000).map(|number| id(1_800_000_000 + number)).collect();
        let filler = "x".repeat(900);
        let text = |ids: &[Uuid]| ids.iter().map(|id| line(*id, &filler)).collect::<String>();
        fs::write(folder.path().join("r.jsonl.2"), text(&ids[..2000])).unwrap();
        fs::write(folder.path().join("r.jsonl"), text(&ids[2000..])).unwrap();
        let finder = finder(folder.path());
        for at in [0, 1, 1999, 2000, 3456, 5999] {
            let (found, place) = finder.find(ids[at]).unwrap().unwrap();
            assert_eq!((found, place), (Bytes::from(line(ids[at], &filler).trim_end().to_owned()), Place::File));
        }
        assert_eq!(finder.find(id(1_800_003_000)).unwrap(), None);
        assert_eq!(finder.find(Uuid::nil()).unwrap(), None);
        finder.recent.push(ids[1], b"{}\n");
        assert_eq!(finder.find(ids[1]).unwrap(), Some((Bytes::from_static(b"{}"), Place::Memory)));
    }

    #[test]
    fn the_search_ends_where_older_lines_begin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.jsonl");
        let wanted = id(1_800_000_000);
        let text = |age: u64| format!("{}{}", line(id(1_800_000_000 - age), ""), line(id(1_800_000_100), ""));
        fs::write(folder.path().join("r.jsonl.1"), line(wanted, "")).unwrap();
        for (age, found) in [(DISORDER_S + 1, false), (DISORDER_S - 1, true)] {
            fs::write(&file, text(age)).unwrap();
            assert_eq!(finder(folder.path()).find(wanted).unwrap().is_some(), found, "{age}");
        }
    }

    #[test]
    fn what_is_no_line_is_passed_over_and_shadows_are_not_decisions() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = id(1_800_000_000);
        let shadow = line(wanted, "").replace("decision", "shadow");
        let long = "y".repeat(3 * usize::try_from(BLOCK).unwrap());
        fs::write(folder.path().join("r.jsonl"), format!("{}{long}\n{shadow}{{\"v\":1,\"id\":", line(wanted, ""))).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(finder(folder.path()).find(wanted).unwrap().unwrap().0, line(wanted, "").trim_end().as_bytes());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
