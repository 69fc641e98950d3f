//! Policy sources: files, folders and `.tar.gz` bundles become modules and one data document, by the rules of `opa run`
//! and of OPA bundles, once their `signature` is verified and their `revision` is no older than it may be. Rego is only
//! read here; `engine` parses it. What was fetched comes from `downloads`.

mod archive;
mod data;
mod folder;
pub(super) mod origin;
mod revision;
mod signature;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    sync::Arc,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

pub(super) use self::{
    data::{has_private_key, private_key, read_yaml},
    revision::accept,
};
use super::problem::{Code, LoadError, Problem};
use crate::{
    clock::Now,
    config::{self, Bundle, PolicyLimits, RegoVersion, Source},
};

/// Everything that was read, before any Rego is parsed.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) modules: Vec<Module>,
    /// Always an object.
    pub(super) data: Value,
    /// Files that hold documents of ours, to say where in them something is wrong.
    pub(super) origins: Vec<origin::Origin>,
    /// Revisions of the bundles' manifests, joined by commas where there are several.
    pub(super) revision: Option<String>,
    /// SHA-256 in hex over the names and contents of all files used.
    pub(super) digest: String,
    /// Revision by name, of the bundles that have both.
    pub(super) revisions: BTreeMap<String, String>,
    /// Bytes that were read for it.
    pub(super) size: u64,
}

impl Sources {
    /// Nothing yet, from no file.
    pub(super) fn empty(digest: &str) -> Self {
        Self {
            modules: Vec::new(),
            data: Value::Object(serde_json::Map::new()),
            origins: Vec::new(),
            revision: None,
            digest: digest.to_owned(),
            revisions: BTreeMap::new(),
            size: 0,
        }
    }
}

/// One `.rego` file.
#[derive(Debug, Clone)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) text: String,
    /// Paths below `data` that its bundle owns; the module's package must lie within one of them.
    pub(super) roots: Option<Arc<[String]>>,
}

/// What was fetched of each bundle, by name.
pub(super) type Fetched = BTreeMap<String, Bytes>;

/// What a policy set is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To decide calls.
    Serve,
    /// To be tested: with the tests beside it, which may replace functions.
    Test,
}

/// Reads the bundles of a configuration that fetches none.
pub(super) fn read_for(purpose: Purpose, config: &config::Policy) -> Result<Sources, LoadError> {
    read_with(purpose, config, &Fetched::new(), crate::clock::now())
}

/// The same to decide calls.
#[cfg(test)]
pub(super) fn read(config: &config::Policy) -> Result<Sources, LoadError> {
    read_for(Purpose::Serve, config)
}

/// Reads every bundle of the configuration. All files that cannot be used are reported together.
pub(super) fn read_all(config: &config::Policy, fetched: &Fetched, now: Now) -> Result<Sources, LoadError> {
    read_with(Purpose::Serve, config, fetched, now)
}

fn read_with(purpose: Purpose, config: &config::Policy, fetched: &Fetched, now: Now) -> Result<Sources, LoadError> {
    let mut budget = Budget { purpose, ..Budget::new(&config.limits) };
    let mut found = Found { purpose, ..Found::default() };
    for (index, bundle) in config.bundles.iter().enumerate() {
        match files(config, bundle, fetched, now, &mut budget) {
            Ok(files) => found.add(index, bundle, files, config),
            Err(problem) => found.problems.push(problem),
        }
    }
    found.finish(budget.total - budget.left)
}

/// Whether `bytes` are a sound `bundle`, seen by itself: an archive that can be read, signed as it must be, of a revision
/// that may come into force, its data within its roots.
pub(super) fn verify(config: &config::Policy, bundle: &Bundle, bytes: &Bytes, now: Now) -> Result<(), LoadError> {
    let fetched = bundle.name.iter().map(|name| (name.clone(), bytes.clone())).collect();
    let alone = config::Policy { bundles: vec![bundle.clone()], ..config.clone() };
    read_all(&alone, &fetched, now).map(drop)
}

/// The files of one bundle that are used, once its signature is verified.
fn files(
    config: &config::Policy,
    bundle: &Bundle,
    fetched: &Fetched,
    now: Now,
    budget: &mut Budget,
) -> Result<Vec<File>, Problem> {
    let signing = config.signing_of(bundle);
    let reach = if signing.is_some() { Reach::All } else { Reach::Used };
    let label = label(bundle);
    let mut files = match &bundle.source {
        Source::Path(path) if folder::is_archive(path) => {
            let unreadable = |error| Problem::of_file(Code::Unreadable, &label, format!("cannot be read: {error}"));
            archive::read(&label, fs::File::open(path).map_err(unreadable)?, reach, budget)?
        }
        Source::Path(path) => folder::read(path, reach, budget)?,
        Source::Url(download) => {
            let bytes = fetched.get(&download.name).ok_or_else(|| {
                Problem::of_file(Code::NotFetched, &label, "has not been fetched yet, and `policy.cache` has no copy of it")
            })?;
            archive::read(&label, bytes.as_ref(), reach, budget)?
        }
    };
    let folder = bundle.path().filter(|path| !folder::is_archive(path));
    match signing {
        Some(signing) => signature::verify(&label, &files, folder, &signing, now)?,
        None if !bundle.unsigned && signature::is_signed(&files) => {
            let text =
                "is signed, and there is no key to verify it with; add one to `policy.signing.keys`, or write `unsigned: true`";
            return Err(Problem::of_file(Code::Signature, label, text));
        }
        None => {}
    }
    files.retain(|file| Reach::Used.covers(&file.path, budget.purpose));
    Ok(files)
}

/// What a bundle is called in messages.
fn label(bundle: &Bundle) -> String {
    match &bundle.source {
        Source::Path(path) => path.display().to_string(),
        Source::Url(download) => download.name.clone(),
    }
}

/// Which files of a bundle are read: a signature covers those too that mean nothing to us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Used,
    All,
}

impl Reach {
    fn covers(self, path: &[String], purpose: Purpose) -> bool {
        let Some((name, folders)) = path.split_last() else { return false };
        let hidden = folders.iter().any(|folder| folder.starts_with('.'));
        self == Self::All || (!hidden && kind(name, purpose) != Kind::Ignored)
    }
}

/// One file below an entry of `policy.bundles`.
struct File {
    /// What it is called in messages.
    label: String,
    /// Names from the root of the tree to the file, the file's own last; for a single file only that.
    path: Vec<String>,
    bytes: Vec<u8>,
}

impl File {
    fn name(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    fn folders(&self) -> &[String] {
        self.path.split_last().map_or(&[], |(_, folders)| folders)
    }
}

/// What a file name says about its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rego,
    Json,
    Yaml,
    Manifest,
    Signature,
    /// A compiled target of a bundle, or a delta: nothing that can be evaluated here.
    Compiled,
    Ignored,
}

fn kind(name: &str, purpose: Purpose) -> Kind {
    match name {
        ".manifest" => Kind::Manifest,
        signature::FILE => Kind::Signature,
        "policy.wasm" | "plan.json" | "plan.pb" | "patch.json" | ".manifest.pb" => Kind::Compiled,
        _ if name.starts_with('.') => Kind::Ignored,
        _ if name.ends_with("_test.rego") && purpose == Purpose::Serve => Kind::Ignored,
        _ if name.ends_with(".rego") => Kind::Rego,
        _ if name.ends_with(".json") => Kind::Json,
        _ if name.ends_with(".yaml") || name.ends_with(".yml") => Kind::Yaml,
        _ => Kind::Ignored,
    }
}

/// What may still be read, over all bundles.
struct Budget {
    purpose: Purpose,
    file: u64,
    total: u64,
    left: u64,
    files_left: u32,
}

impl Budget {
    /// More files than this are a mistake in the path, not a policy set.
    const MAX_FILES: u32 = 100_000;

    fn new(limits: &PolicyLimits) -> Self {
        let total = limits.total.bytes() as u64;
        Self { purpose: Purpose::Serve, file: limits.file.bytes() as u64, total, left: total, files_left: Self::MAX_FILES }
    }

    /// Reads a whole file, or says which limit it breaks.
    fn read(&mut self, name: &str, source: impl Read) -> Result<Vec<u8>, Problem> {
        let too_large = |text: String| Err(Problem::of_file(Code::TooLarge, name, text));
        if self.files_left == 0 {
            return too_large(format!("more than {} files; point `policy.bundles` at the policy alone", Self::MAX_FILES));
        }
        let allowed = self.file.min(self.left);
        let mut bytes = Vec::new();
        source
            .take(allowed.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| Problem::of_file(Code::Unreadable, name, format!("cannot be read: {error}")))?;
        let size = bytes.len() as u64;
        if size > self.file {
            return too_large(format!("larger than {} bytes; raise `policy.limits.file` or split it", self.file));
        }
        if size > self.left {
            return too_large(format!("the policy set exceeds {} bytes here; raise `policy.limits.total`", self.total));
        }
        self.left -= size;
        self.files_left -= 1;
        Ok(bytes)
    }
}

/// `.manifest` of an OPA bundle: what of it concerns us. Other keys belong to other consumers.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    revision: String,
    roots: Option<Vec<String>>,
    rego_version: Option<u8>,
    /// Versions of single files, by pattern.
    #[serde(default)]
    file_rego_versions: BTreeMap<String, u8>,
    #[serde(default)]
    wasm: Vec<Value>,
}

impl Manifest {
    /// The manifest of a bundle that has none: it owns everything and has no revision.
    const EMPTY: &[u8] = b"{}";

    /// Roots in the form that paths are compared in; by default the bundle owns everything.
    fn roots(&self) -> Option<Arc<[String]>> {
        let roots: Vec<_> = self.roots.as_ref()?.iter().map(|root| root.trim_matches('/').to_owned()).collect();
        (!roots.iter().any(String::is_empty)).then(|| roots.into())
    }
}

/// Whether `path` (parts joined by `/`) is one of `roots`, lies below one.
pub(super) fn within(roots: &[String], path: &str) -> bool {
    roots.iter().any(|root| path.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Whether one of two roots lies within the other.
fn overlaps(a: &str, b: &str) -> bool {
    let covers = |a: &str, b: &str| a.is_empty() || within(&[a.to_owned()], b);
    covers(a, b) || covers(b, a)
}

struct Found {
    purpose: Purpose,
    modules: Vec<Module>,
    documents: data::Documents,
    revisions: BTreeMap<String, String>,
    /// Every revision, of bundles without a name too.
    all_revisions: BTreeSet<String>,
    /// The bundles that own something, by what they are called, and what they own.
    owners: Vec<(String, Arc<[String]>)>,
    digest: digest::Context,
    problems: Vec<Problem>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            purpose: Purpose::Serve,
            modules: Vec::new(),
            documents: data::Documents::default(),
            revisions: BTreeMap::new(),
            all_revisions: BTreeSet::new(),
            owners: Vec::new(),
            digest: digest::Context::new(&digest::SHA256),
            problems: Vec::new(),
        }
    }
}

impl Found {
    /// Takes the files of one entry, sorted by path.
    fn add(&mut self, index: usize, bundle: &Bundle, files: Vec<File>, config: &config::Policy) {
        let purpose = self.purpose;
        let manifest = files.iter().find(|file| file.path.len() == 1 && kind(file.name(), purpose) == Kind::Manifest);
        let manifest = match manifest.map(|file| parse_manifest(file, config.rego)).transpose() {
            Ok(manifest) => manifest,
            Err(problem) => return self.problems.push(problem),
        };
        if let Some(manifest) = &manifest
            && let Err(problem) = self.own(bundle, manifest).and_then(|()| revision::check(bundle, &manifest.revision, config))
        {
            return self.problems.push(problem);
        }
        let roots = manifest.as_ref().and_then(Manifest::roots);
        for file in files {
            let kind = match kind(file.name(), self.purpose) {
                Kind::Compiled if manifest.is_none() && file.name().ends_with(".json") => Kind::Json,
                kind => kind,
            };
            let is_data = matches!(kind, Kind::Json | Kind::Yaml);
            if matches!(kind, Kind::Ignored | Kind::Signature) || (is_data && manifest.is_some() && !is_bundle_data(file.name()))
            {
                continue;
            }
            self.hash(index, &file);
            match kind {
                Kind::Rego => self.add_module(file.label, file.bytes, roots.clone()),
                Kind::Json | Kind::Yaml => {
                    if let Err(problem) = self.documents.add(file, kind, roots.as_deref()) {
                        self.problems.push(problem);
                    }
                }
                Kind::Compiled => self.problems.push(Problem::of_file(
                    Code::Bundle,
                    file.label,
                    "a compiled target or delta bundle cannot be evaluated here; build the bundle with `opa build --target rego`",
                )),
                Kind::Manifest | Kind::Signature | Kind::Ignored => {}
            }
        }
        if let Some(revision) = manifest.map(|manifest| manifest.revision).filter(|revision| !revision.is_empty()) {
            self.revisions.extend(bundle.name.iter().map(|name| (name.clone(), revision.clone())));
            self.all_revisions.insert(revision);
        }
    }

    /// Takes note of what a bundle owns; no two may own the same.
    fn own(&mut self, bundle: &Bundle, manifest: &Manifest) -> Result<(), Problem> {
        let label = label(bundle);
        let overlap = |text: String| Err(Problem::of_file(Code::Roots, &label, text));
        let roots = manifest.roots().unwrap_or_else(|| [String::new()].into());
        for (index, root) in roots.iter().enumerate() {
            if let Some(other) = roots.iter().skip(index + 1).find(|other| overlaps(root, other)) {
                return overlap(format!("its manifest has `{root}` and `{other}` in `roots`, one below the other; keep one"));
            }
            for (owner, owned) in &self.owners {
                if let Some(other) = owned.iter().find(|other| overlaps(root, other)) {
                    let text = "let the manifests of the two name `roots` apart from each other";
                    return overlap(format!("owns `data/{root}`, and bundle `{owner}` owns `data/{other}`; {text}"));
                }
            }
        }
        self.owners.push((label, roots));
        Ok(())
    }

    fn add_module(&mut self, name: String, bytes: Vec<u8>, roots: Option<Arc<[String]>>) {
        match String::from_utf8(bytes) {
            Ok(text) => self.modules.push(Module { name, text, roots }),
            Err(error) => {
                let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|byte| **byte == b'\n').count();
                let mut problem = Problem::of_file(Code::Parse, name, "is not UTF-8; save it as UTF-8");
                problem.line = u32::try_from(line + 1).unwrap_or(0);
                self.problems.push(problem);
            }
        }
    }

    /// Names and contents, each with its length in front, so that no two sets of files hash alike. The place of the
    /// bundle counts instead of its path: the same policy mounted elsewhere is the same policy.
    fn hash(&mut self, index: usize, file: &File) {
        self.digest.update(&(index as u64).to_be_bytes());
        self.digest.update(&(file.path.len() as u64).to_be_bytes());
        for part in file.path.iter().map(String::as_bytes).chain([file.bytes.as_slice()]) {
            self.digest.update(&(part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
    }

    fn finish(mut self, size: u64) -> Result<Sources, LoadError> {
        let (data, origins) = match self.documents.merge() {
            Ok(merged) => merged,
            Err(problem) => {
                self.problems.push(problem);
                (Value::Null, Vec::new())
            }
        };
        if !self.problems.is_empty() {
            return Err(LoadError { problems: self.problems });
        }
        let revision = self.all_revisions.into_iter().collect::<Vec<_>>().join(",");
        Ok(Sources {
            modules: self.modules,
            data,
            origins,
            revision: (!revision.is_empty()).then_some(revision),
            digest: hex::encode(self.digest.finish()),
            revisions: self.revisions,
            size,
        })
    }
}

fn is_bundle_data(name: &str) -> bool {
    matches!(name, "data.json" | "data.yaml" | "data.yml")
}

fn parse_manifest(file: &File, rego: RegoVersion) -> Result<Manifest, Problem> {
    let manifest: Manifest = serde_json::from_slice(&file.bytes).map_err(|error| Problem {
        line: u32::try_from(error.line()).unwrap_or(0),
        column: u32::try_from(error.column()).unwrap_or(0),
        ..Problem::of_file(Code::Parse, &file.label, format!("is no bundle manifest: {}", without_place(&error)))
    })?;
    if !manifest.wasm.is_empty() {
        let text = "the manifest names wasm modules, which are not run here; build the bundle with `opa build --target rego`";
        return Err(Problem::of_file(Code::Bundle, &file.label, text));
    }
    let configured = match rego {
        RegoVersion::V0 => 0,
        RegoVersion::V1 => 1,
    };
    let versions = manifest.rego_version.iter().chain(manifest.file_rego_versions.values());
    match versions.copied().find(|version| *version != configured) {
        Some(version) => {
            let text = format!("the bundle is written in Rego v{version}; set `policy.rego: v{version}`");
            Err(Problem::of_file(Code::Bundle, &file.label, text))
        }
        None => Ok(manifest),
    }
}

/// The text of a JSON error without its position, which `Problem` has already.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
