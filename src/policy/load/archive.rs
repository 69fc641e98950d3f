//! A `.tar.gz` bundle as a list of files, nothing of it ever written to disk. What an archive says is not believed:
//! names that leave it are refused, links and devices are skipped, and the unpacked size counts against the limits.

use std::{
    io::{self, Read},
    path::{Component, Path},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::{Budget, File, Kind, Manifest, Reach, kind};
use crate::policy::problem::{Code, Problem};

/// Reads a bundle, sorted by the path of each file.
pub(super) fn read(label: &str, source: impl Read, reach: Reach, budget: &mut Budget) -> Result<Vec<File>, Problem> {
    let broken = |error: &io::Error| {
        let text = format!("is no readable `.tar.gz`: {error}; build it with `opa build -b`");
        Problem::of_file(Code::Bundle, label, text)
    };
    // Skipped entries cost time too, so the stream as a whole is bounded: headers and padding at most double the files.
    let stream = MultiGzDecoder::new(source).take(budget.left.saturating_mul(2).saturating_add(1 << 20));
    let mut files: Vec<File> = Vec::new();
    for entry in Archive::new(stream).entries().map_err(|error| broken(&error))? {
        let entry = entry.map_err(|error| broken(&error))?;
        if let Some(file) = file(label, entry, reach, budget)? {
            files.push(file);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(twice) = files.array_windows().find(|[a, b]| a.path == b.path) {
        let [file, _] = twice;
        return Err(Problem::of_file(Code::Bundle, &file.label, "stands twice in the archive; build it again"));
    }
    // Unlike a folder, an archive is a bundle even without a manifest.
    if !files.iter().any(|file| file.path.len() == 1 && kind(file.name(), budget.purpose) == Kind::Manifest) {
        let bytes = Manifest::EMPTY.to_vec();
        files.insert(0, File { label: format!("{label}/.manifest"), path: vec![".manifest".to_owned()], bytes });
    }
    Ok(files)
}

fn file(label: &str, entry: Entry<'_, impl Read>, reach: Reach, budget: &mut Budget) -> Result<Option<File>, Problem> {
    let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let inner_label = format!("{label}/{}", raw.trim_start_matches(['.', '/']));
    let mut path = Vec::new();
    for component in Path::new(&raw).components() {
        match component {
            Component::Normal(part) => path.push(part.to_string_lossy().into_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let text = format!("`{raw}` leads out of the archive; build the bundle with `opa build -b`");
                return Err(Problem::of_file(Code::Bundle, label, text));
            }
        }
    }
    let plain = matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous);
    if path.is_empty() || !plain || !reach.covers(&path, budget.purpose) {
        return Ok(None);
    }
    let bytes = budget.read(&inner_label, entry)?;
    Ok(Some(File { label: inner_label, path, bytes }))
}
