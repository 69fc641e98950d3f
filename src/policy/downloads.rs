//! What was fetched of each bundle: the copy whose policy is in force, the newest one, and why the latest request came
//! to nothing. The good copy is kept in `policy.cache` and verified again when it is read from there. Who fetches, and
//! when, is `app`'s business.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    load,
    problem::{Code, LoadError, Problem},
    store,
};
use crate::{
    clock::Now,
    config::{self, Bundle, Download},
};

/// An answer with a bundle in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub bytes: Bytes,
    /// What to ask with next time, so that nothing is sent when nothing has changed.
    pub etag: Option<String>,
    pub at: Now,
}

/// Where a copy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Network,
    Cache,
}

/// How a fetched bundle stands, for `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BundleStatus {
    pub name: String,
    /// Of the manifest in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Where the copy in force came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When the copy in force was fetched, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// A newer copy has come and is not in force; `policy.last_error` says why.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Why the latest request came to nothing; absent once one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Downloads(Mutex<BTreeMap<String, Slot>>);

#[derive(Debug)]
struct Slot {
    /// Digest of the address: a copy from elsewhere is another bundle.
    address: String,
    good: Option<(Delivery, Origin)>,
    new: Option<(Delivery, Origin)>,
    error: Option<String>,
    /// Why the cached copy is not used.
    cache_error: Option<String>,
}

/// A choice among the copies there are: one of each bundle.
pub(super) type View = BTreeMap<String, (Delivery, Origin)>;

impl Downloads {
    /// Makes a slot for each bundle to fetch, filled from the cache, and forgets the others.
    pub(super) fn prepare(&self, config: &config::Policy, now: Now) {
        let mut slots = self.lock();
        slots.retain(|name, slot| config.downloads().any(|download| download.name == *name && address(download) == slot.address));
        for bundle in &config.bundles {
            let Some(download) = bundle.download() else { continue };
            slots.entry(download.name.clone()).or_insert_with(|| Slot::restore(config, bundle, download, now));
        }
    }

    /// Takes what a request for `name` brought, if it is sound by itself. Returns whether it is new.
    pub(super) fn offer(&self, config: &config::Policy, name: &str, copy: Delivery, now: Now) -> Result<bool, LoadError> {
        let gone = || Problem::of_file(Code::NotFetched, name, "is no bundle of the configuration any more");
        let bundle = config.bundles.iter().find(|bundle| bundle.download().is_some_and(|download| download.name == name));
        let bundle = bundle.ok_or_else(gone)?;
        let verified = load::verify(config, bundle, &copy.bytes, now);
        let mut slots = self.lock();
        let slot = slots.get_mut(name).filter(|slot| bundle.download().is_some_and(|download| address(download) == slot.address));
        let slot = slot.ok_or_else(gone)?;
        if let Err(error) = verified {
            slot.error = Some(error.to_string());
            return Err(error);
        }
        slot.error = None;
        let held = slot.new.as_ref().or(slot.good.as_ref());
        let is_new = held.is_none_or(|(held, origin)| held.bytes != copy.bytes || *origin == Origin::Cache);
        match &mut slot.good {
            // Under another name for the same bytes: the name counts.
            Some(good) if good.0.bytes == copy.bytes && good.1 == Origin::Network => {
                good.0.etag = copy.etag;
                slot.new = None;
            }
            _ => slot.new = Some((copy, Origin::Network)),
        }
        Ok(is_new)
    }

    /// Takes note of a request that brought nothing new, or failed with `error`.
    pub(super) fn asked(&self, name: &str, error: Option<String>) {
        if let Some(slot) = self.lock().get_mut(name) {
            slot.error = error;
        }
    }

    /// What to ask with for the newest copy there is.
    pub(super) fn etag(&self, download: &Download) -> Option<String> {
        let slots = self.lock();
        let slot = slots.get(&download.name).filter(|slot| slot.address == address(download))?;
        slot.new.as_ref().or(slot.good.as_ref())?.0.etag.clone()
    }

    /// What to try, best first: every newest copy; each newest one with the good ones of the others; the good ones.
    pub(super) fn views(&self) -> Vec<View> {
        let slots = self.lock();
        let choose = |wants_new: &dyn Fn(&str) -> bool| -> View {
            let chosen = slots.iter().filter_map(|(name, slot)| {
                let new = slot.new.as_ref().filter(|_| wants_new(name) || slot.good.is_none());
                Some((name.clone(), new.or(slot.good.as_ref())?.clone()))
            });
            chosen.collect()
        };
        let pending: Vec<_> = slots.iter().filter(|(_, slot)| slot.new.is_some()).map(|(name, _)| name.as_str()).collect();
        let mut views = vec![choose(&|_| true)];
        if pending.len() > 1 {
            views.extend(pending.iter().map(|one| choose(&|name| name == *one)));
        }
        if !pending.is_empty() {
            views.push(choose(&|_| false));
        }
        views.dedup();
        views
    }

    /// The policy of `view` is in force: its copies are the good ones, and go to the cache.
    pub(super) fn accept(&self, config: &config::Policy, view: &View) {
        let mut slots = self.lock();
        for download in config.downloads() {
            let (Some(slot), Some((copy, origin))) = (slots.get_mut(&download.name), view.get(&download.name)) else { continue };
            if slot.new.as_ref().is_some_and(|(new, _)| new == copy) {
                slot.new = None;
            }
            if slot.good.as_ref().is_some_and(|good| *good == (copy.clone(), *origin)) {
                continue;
            }
            slot.good = Some((copy.clone(), *origin));
            slot.cache_error = match &config.cache {
                Some(folder) if *origin == Origin::Network => keep(folder, download, copy).err().map(|error| {
                    format!("cannot be kept in `policy.cache`: {error}; without it there is no start without network")
                }),
                _ => None,
            };
        }
    }

    /// Why a bundle has no copy, where the cache knows more than that.
    pub(super) fn explain(&self, error: &mut LoadError) {
        let slots = self.lock();
        for problem in error.problems.iter_mut().filter(|problem| problem.code == Code::NotFetched) {
            let Some(slot) = slots.get(&problem.file) else { continue };
            if let Some(text) = &slot.cache_error {
                problem.code = Code::Cache;
                problem.text = format!("has not been fetched yet, and its copy in `policy.cache` is refused: {text}");
            }
        }
    }

    pub(super) fn status(&self, revisions: &BTreeMap<String, String>) -> Vec<BundleStatus> {
        let slots = self.lock();
        let of_slot = |(name, slot): (&String, &Slot)| BundleStatus {
            name: name.clone(),
            revision: revisions.get(name).cloned(),
            origin: slot.good.as_ref().map(|(_, origin)| *origin),
            fetched_at: slot.good.as_ref().map(|(copy, _)| copy.at.rfc3339()),
            etag: slot.good.as_ref().and_then(|(copy, _)| copy.etag.clone()),
            pending: slot.new.is_some(),
            error: slot.error.clone().or_else(|| slot.cache_error.clone()),
        };
        let others = revisions.iter().filter(|(name, _)| !slots.contains_key(*name));
        let others = others.map(|(name, revision)| BundleStatus {
            name: name.clone(),
            revision: Some(revision.clone()),
            ..BundleStatus::default()
        });
        slots.iter().map(of_slot).chain(others).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn restore(config: &config::Policy, bundle: &Bundle, download: &Download, now: Now) -> Self {
        let mut slot = Self { address: address(download), good: None, new: None, error: None, cache_error: None };
        let Some(folder) = &config.cache else { return slot };
        // One byte more than may be says that it is too much.
        let limit = (config.limits.total.bytes() as u64).saturating_add(MAX_HEAD as u64).saturating_add(1);
        let restored = match read(folder, download, limit) {
            Ok(None) => return slot,
            Ok(Some(copy)) => load::verify(config, bundle, &copy.bytes, now).map(|()| copy).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{error}; delete the file, it is made again")),
        };
        match restored {
            Ok(copy) => slot.new = Some((copy, Origin::Cache)),
            Err(text) => slot.cache_error = Some(text),
        }
        slot
    }
}

/// First line of a cached copy; the bundle follows.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Digest of the address, which may hold what is not for the disk.
    address: String,
    /// SHA-256 of the bundle in hex.
    sha256: String,
    etag: Option<String>,
    at: u64,
}

/// Longest first line.
const MAX_HEAD: usize = 16 * 1024;

fn address(download: &Download) -> String {
    sha256(download.url.as_str().as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn file(download: &Download) -> String {
    format!("{}.bundle", download.name)
}

fn keep(folder: &Path, download: &Download, copy: &Delivery) -> io::Result<()> {
    let head = Head { address: address(download), sha256: sha256(&copy.bytes), etag: copy.etag.clone(), at: copy.at.ns };
    let head = serde_json::to_vec(&head)?;
    store::write(folder, &file(download), &[&head, b"\n", &copy.bytes])
}

/// The cached copy of this very address, whole.
fn read(folder: &Path, download: &Download, limit: u64) -> io::Result<Option<Delivery>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("`{}` has been damaged", file(download)));
    let source = match fs::File::open(folder.join(file(download))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        source => source?,
    };
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == limit {
        return Err(broken());
    }
    let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n').ok_or_else(broken)?;
    let bytes = Bytes::from(bytes);
    let (head, bytes) = (bytes.slice(..end), bytes.slice(end + 1..));
    let head: Head = serde_json::from_slice(&head).map_err(|_| broken())?;
    if head.sha256 != sha256(&bytes) {
        return Err(broken());
    }
    if head.address != address(download) {
        // Of another address, and so of another bundle; what comes from this one takes its place.
        return Ok(None);
    }
    Ok(Some(Delivery { bytes, etag: head.etag, at: Now { ns: head.at } }))
}
