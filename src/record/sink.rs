//! Where lines go: a file that is rotated by size, standard output, or nowhere. A sink never leaves half a line in the
//! middle of others, says how much it wrote when it fails, and can be opened again after a failure. What to do about a
//! failure is left to `writer`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::config;

/// An open sink.
#[derive(Debug)]
pub(super) enum Sink {
    Off,
    Stdout(Output),
    File(RotatedFile),
}

/// A write that failed after `written` bytes of what was to be written.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) written: usize,
    pub(super) error: io::Error,
}

impl Sink {
    pub(super) fn open(config: &config::Sink) -> io::Result<Self> {
        Ok(match config {
            config::Sink::Off => Self::Off,
            // A handle of our own: the library's buffer would hide how much was written.
            config::Sink::Stdout => Self::Stdout(Output { file: io::stdout().as_fd().try_clone_to_owned()?.into(), torn: false }),
            config::Sink::File(file) => {
                let limit = u64::try_from(file.max_size.bytes()).unwrap_or(u64::MAX);
                Self::File(RotatedFile::open(&file.path, limit, file.keep)?)
            }
        })
    }

    /// True where a `commit` can be promised.
    pub(super) const fn is_durable(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Off => Ok(()),
            Self::Stdout(output) => output.write(lines),
            Self::File(file) => file.write(lines),
        }
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.output.file.sync_data(),
            Self::Off | Self::Stdout(_) => Ok(()),
        }
    }

    /// Opens the file again after a failure: it may have been moved, or its folder made again.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Off | Self::Stdout(_) => Ok(()),
        }
    }
}

/// An open file, and whether it ends in the middle of a line.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    torn: bool,
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        self.end_torn_line().map_err(|error| Failure { written: 0, error })?;
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(self.failure(lines, written, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(lines, written, error)),
            }
        }
        Ok(())
    }

    /// Ends the line that a crash or a failure has torn; says how many bytes that took.
    fn end_torn_line(&mut self) -> io::Result<u64> {
        if !self.torn {
            return Ok(0);
        }
        self.file.write_all(b"\n")?;
        self.torn = false;
        Ok(1)
    }

    fn failure(&mut self, lines: &[u8], written: usize, error: io::Error) -> Failure {
        self.torn = written.checked_sub(1).and_then(|last| lines.get(last)).is_some_and(|byte| *byte != b'\n');
        Failure { written, error }
    }
}

/// `path`, and `path.1` (the youngest) to `path.keep`.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    limit: u64,
    keep: u32,
    output: Output,
    size: u64,
    /// Rotation failed, was told of, and is not tried again before the file is reopened.
    stuck: bool,
}

impl RotatedFile {
    fn open(path: &Path, limit: u64, keep: u32) -> io::Result<Self> {
        let (output, size) = append_to(path)?;
        Ok(Self { path: path.to_owned(), limit, keep, output, size, stuck: false })
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.output, self.size) = append_to(&self.path)?;
        self.stuck = false;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        self.size += self.output.end_torn_line().map_err(|error| Failure { written: 0, error })?;
        let mut done = 0;
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            let mut part = self.fitting(rest);
            if part.is_empty() && self.rotate().map_err(|error| Failure { written: done, error })? {
                part = self.fitting(rest);
            }
            if part.is_empty() {
                // A line longer than the limit has a file of its own; a file that cannot be rotated grows.
                part = rest.split_inclusive(|byte| *byte == b'\n').next().unwrap_or(rest);
            }
            let length = part.len();
            self.output.write(part).map_err(|failure| self.cut(part, failure, done))?;
            self.size += u64::try_from(length).unwrap_or(0);
            done += length;
        }
        Ok(())
    }

    /// The whole lines at the start of `lines` that the file still takes.
    fn fitting<'a>(&self, lines: &'a [u8]) -> &'a [u8] {
        let room = usize::try_from(self.limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let within = lines.get(..room).unwrap_or(lines);
        let end = within.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        lines.get(..end).unwrap_or_default()
    }

    /// After a failed write of `part`: takes the torn line at the end away again, where the file lets us.
    fn cut(&mut self, part: &[u8], failure: Failure, before: usize) -> Failure {
        let whole =
            part.get(..failure.written).and_then(|bytes| bytes.iter().rposition(|byte| *byte == b'\n')).map_or(0, |at| at + 1);
        self.size += u64::try_from(whole).unwrap_or(0);
        if self.output.torn && self.output.file.set_len(self.size).is_ok() {
            self.output.torn = false;
        }
        Failure { written: before + whole, error: failure.error }
    }

    /// Starts a new file; false when the old one must be used further.
    fn rotate(&mut self) -> io::Result<bool> {
        if self.size == 0 || self.stuck {
            return Ok(false);
        }
        // A `commit` waits for lines in the old file too.
        self.output.file.sync_data()?;
        if let Err(error) = shift(&self.path, self.keep) {
            warn!(%error, path = %self.path.display(), "the record file cannot be rotated and grows");
            self.stuck = true;
            return Ok(false);
        }
        (self.output, self.size) = append_to(&self.path)?;
        Ok(true)
    }
}

/// Opens a file for appending, readable by its owner only, and says how long it is. Its folder is synced, so that a
/// new file is still there after a crash.
fn append_to(path: &Path) -> io::Result<(Output, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::Start(size - 1))?;
        file.read_exact(&mut last)?;
    } else if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Not every filesystem can sync a folder, and its records are worth keeping all the same.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok((Output { file, torn: last != *b"\n" }, size))
}

/// `path` becomes `path.1`, `path.1` becomes `path.2`, and so on; what would become `path.(keep + 1)` is removed.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("the file is there")
    }

    #[test]
    fn a_file_is_rotated_before_it_grows_beyond_its_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.jsonl");
        let mut file = RotatedFile::open(&path, 10, 2).expect("opened");
        file.write(b"aaaa\nbbbb\ncccc\n").expect("written");
        file.write(b"a line longer than the limit\n").expect("written");
        file.write(b"d\ne\n").expect("written");
        assert_eq!(read(&path), "d\ne\n");
        assert_eq!(read(&folder.path().join("r.jsonl.1")), "a line longer than the limit\n");
        assert_eq!(read(&folder.path().join("r.jsonl.2")), "cccc\n");
        assert!(!folder.path().join("r.jsonl.3").exists());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_kept_when_nothing_is_to_be_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.jsonl");
        let mut file = RotatedFile::open(&path, 4, 0).expect("opened");
        file.write(b"aaa\nbbb\n").expect("written");
        assert_eq!(read(&path), "bbb\n");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_torn_last_line_is_ended_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.jsonl");
        fs::write(&path, "{\"v\":1}\n{\"v\":").expect("written");
        let mut file = RotatedFile::open(&path, 1000, 1).expect("opened");
        file.write(b"{}\n").expect("written");
        assert_eq!(read(&path), "{\"v\":1}\n{\"v\":\n{}\n");
    }

    #[test]
    fn a_full_disk_says_how_much_was_written() {
        let mut full = RotatedFile::open(Path::new("/dev/full"), 1000, 1).expect("opened");
        let failure = full.write(b"{}\n").expect_err("no room");
        assert_eq!((failure.written, failure.error.kind()), (0, io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_reader_that_went_away_is_an_error_and_no_end() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let file = std::os::fd::OwnedFd::from(writer).into();
        let mut output = Output { file, torn: false };
        let failure = output.write(b"{}\n").expect_err("nobody reads");
        assert_eq!(failure.error.kind(), io::ErrorKind::BrokenPipe);
    }
}
