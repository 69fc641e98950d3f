//! A file or a folder as a list of files. Symbolic links are followed, which is how Kubernetes shows a ConfigMap:
//! `policy.rego -> ..data/policy.rego`, `..data -> ..2026_11_22`. Names that start with a dot are skipped.

use std::{fs, io, path::Path};

use super::{Budget, File, Kind, Reach, kind};
use crate::policy::problem::{Code, Problem};

/// Folders below folders; beyond it a symbolic link leads back up.
const MAX_DEPTH: usize = 32;

/// By the name alone, so that what is not there yet has the right error.
pub(super) fn is_archive(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(".tar.gz") || name.ends_with(".tgz"))
}

/// Reads `path`, sorted by the path of each file.
pub(super) fn read(path: &Path, reach: Reach, budget: &mut Budget) -> Result<Vec<File>, Problem> {
    let mut files = Vec::new();
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        walk(path, &mut Vec::new(), reach, budget, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        return Ok(files);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !metadata.is_file()
        || matches!(kind(&name, budget.purpose), Kind::Ignored | Kind::Manifest | Kind::Signature | Kind::Compiled)
    {
        let text = "is no policy source; name a folder, a `.rego`, `.json` or `.yaml` file, or a `.tar.gz` bundle";
        return Err(Problem::of_file(Code::UnknownSource, path.display().to_string(), text));
    }
    files.push(file(path, vec![name], budget)?);
    Ok(files)
}

fn walk(folder: &Path, inner: &mut Vec<String>, reach: Reach, budget: &mut Budget, files: &mut Vec<File>) -> Result<(), Problem> {
    if inner.len() > MAX_DEPTH {
        let text = format!("more than {MAX_DEPTH} folders deep; does a symbolic link lead back up?");
        return Err(Problem::of_file(Code::Unreadable, folder.display().to_string(), text));
    }
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let name = path.file_name().unwrap_or_default();
        let Some(name) = name.to_str().map(str::to_owned) else {
            return Err(Problem::of_file(Code::Unreadable, path.display().to_string(), "its name is not UTF-8; rename it"));
        };
        let named = inner.is_empty() && matches!(kind(&name, budget.purpose), Kind::Manifest | Kind::Signature | Kind::Compiled);
        // What Kubernetes keeps behind the links of a ConfigMap starts with two dots.
        if name.starts_with("..") || (name.starts_with('.') && !named && reach == Reach::Used) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
        inner.push(name);
        if metadata.is_dir() && !inner.last().is_some_and(|name| name.starts_with('.')) {
            walk(&path, inner, reach, budget, files)?;
        } else if metadata.is_file() && reach.covers(inner, budget.purpose) {
            files.push(file(&path, inner.clone(), budget)?);
        }
        inner.pop();
    }
    Ok(())
}

fn file(path: &Path, inner: Vec<String>, budget: &mut Budget) -> Result<File, Problem> {
    let label = path.display().to_string();
    let source = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let bytes = budget.read(&label, source)?;
    Ok(File { label, path: inner, bytes })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::of_file(Code::Unreadable, path.display().to_string(), format!("cannot be read: {error}"))
}
