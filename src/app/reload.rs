//! Bringing what is on disk into force: configuration, policy, trust bundles and certificates. A bad new one never
//! displaces a good one, and the log, a metric, a record and `/readyz` say that it was refused and why.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use serde_json::{Value, json};
use spiffe::TrustDomain;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    download::Downloads,
    keys::{self, KeyTasks},
    state,
    workload::{self, Streams},
};
use crate::{
    authorizer::{Authorizer, Settings},
    clock::{self, Now},
    config::{self, Config, Own},
    control::{Condition, Health},
    envoy::descriptors::{Descriptors, Look},
    identity::{keys::KeyStore, people::People, tokens::Tokens},
    policy::{PolicyStore, Reload},
    readiness::Readiness,
    record::{Body, PolicyOutcome, PolicyRecord, PolicyRef, Record, Recorder},
    telemetry::metrics::{Metrics, Reload as Loaded},
    tls::{self, ServerTls},
    trust::{TrustStore, names, own::OwnSvid, workload::Workload},
    verdict::Mode,
};

/// An editor writes a file in several steps; what follows the first one within this time is one change.
const SETTLE: Duration = Duration::from_millis(100);
/// Condition at everything again, for changes that no event told of (a mount, a folder that was deleted and made anew).
const LOOK: Duration = Duration::from_secs(30);

/// Everything that can be reloaded.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    /// What was last brought into force.
    pub(super) config: ArcSwap<Config>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) policies: Arc<PolicyStore>,
    /// The second policy set.
    pub(super) shadow: Arc<PolicyStore>,
    pub(super) trust: Arc<TrustStore>,
    pub(super) tokens: Arc<Tokens>,
    /// Who verifies people's tokens; what it goes by needs a restart.
    pub(super) people: Option<Arc<People>>,
    pub(super) own: Arc<OwnSvid>,
    pub(super) workload: Arc<Workload>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) certificates: Vec<Arc<ServerTls>>,
    pub(super) readiness: Readiness,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    /// Why the last configuration was refused; none when the one on disk is in force.
    pub(super) refused: Told,
    /// Why the last policy was refused, so that the same refusal is told once.
    pub(super) policy_refused: Told,
    /// The same of the second policy set.
    pub(super) shadow_refused: Told,
    /// Why the last fetched bundle was refused by itself.
    pub(super) bundle_refused: Told,
    /// Why the last trust bundles were refused.
    pub(super) trust_refused: Told,
    /// Why the last keys of issuers, or API keys, were refused.
    pub(super) tokens_refused: Told,
    /// Why the last descriptors of gRPC messages were refused.
    pub(super) descriptors_refused: Told,
    /// Why the last certificates of our listeners were refused.
    pub(super) certificate_refused: Told,
    /// Parts of the configuration on disk that need a restart.
    pub(super) waiting: Told,
    pub(super) here: Vec<(&'static str, Option<String>)>,
}

impl Reloader {
    /// Condition at all files and brings into force what is new and good.
    pub(super) async fn reload(self: &Arc<Self>) {
        let reloader = Arc::clone(self);
        if tokio::task::spawn_blocking(move || reloader.reload_now()).await.is_err() {
            tracing::error!("a reload panicked; what was in force stays in force");
        }
    }

    fn reload_now(&self) {
        self.reload_config();
        let config = self.config.load();
        self.reload_trust(&config);
        self.reload_tokens(&config);
        self.reload_certificates(&config);
        self.reload_descriptors(&config);
        self.reload_policy(&config);
        self.reload_shadow(&config);
        self.settle(&config);
    }

    /// Brings the settings into force. What the configuration says about the policy counts once a policy is in force
    /// that was made by it: an old one that stays was not written for a new `compat` or `decision`.
    fn settle(&self, config: &Config) {
        let policy = self.policies.config().unwrap_or_else(|| config.policy.clone());
        let policy = config::Policy { shadow: config.policy.shadow.clone(), ..policy };
        let settings = Settings::new(&Config { policy, ..config.clone() });
        if *self.authorizer.settings() != settings {
            self.authorizer.set(settings);
        }
    }

    fn reload_config(&self) {
        let new = match config::load(&self.path) {
            Ok(new) => new,
            Err(error) => {
                let text = error.to_string();
                if self.refused.is_news(Some(&text)) {
                    tracing::error!(error = text, "refused a new configuration; the old one stays in force");
                    self.metrics.config_reloaded(Loaded::Refused);
                }
                return;
            }
        };
        self.refused.clear();
        let old = self.config.load();
        if **old == new {
            self.waiting.clear();
            return;
        }
        let applied = Config {
            mode: new.mode,
            trust: config::Trust {
                workload_api: old.trust.workload_api.clone(),
                own: old.trust.own.clone(),
                ..new.trust.clone()
            },
            tokens: new.tokens.clone(),
            policy: new.policy.clone(),
            answer: new.answer.clone(),
            ..Config::clone(&old)
        };
        let waiting = (applied != new).then(|| waiting_keys(&applied, &new));
        if self.waiting.is_news(waiting.as_deref()) {
            tracing::warn!(keys = waiting, "these parts of the new configuration need a restart");
        }
        if applied != **old {
            tracing::info!(mode = applied.mode.as_str(), "brought a new configuration into force");
            self.metrics.config_reloaded(Loaded::Loaded);
            self.config.store(Arc::new(applied));
        }
    }

    fn reload_certificates(&self, config: &Config) {
        let own = match &config.trust.own {
            Some(Own::Files(files)) => tls::load(files).map(|svid| self.own.set(svid)).err(),
            Some(Own::WorkloadApi) | None => None,
        };
        let errors = self.certificates.iter().filter_map(|certificate| certificate.reload().err()).chain(own);
        let text = errors.map(|error| error.to_string()).collect::<Vec<_>>().join("; ");
        let refused = (!text.is_empty()).then_some(text);
        if self.certificate_refused.is_news(refused.as_deref()) {
            tracing::error!(error = refused, "refused a new certificate; the old one stays in force");
        }
    }

    fn reload_trust(&self, config: &Config) {
        let change = self.trust.reload(&config.trust);
        if !change.is_empty() {
            let (added, removed, changed) = (names(&change.added), names(&change.removed), names(&change.changed));
            tracing::info!(added, removed, changed, "brought new trust bundles into force");
            self.metrics.trust_reloaded(Loaded::Loaded);
        }
        let errors = change.refused.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error)));
        let text = errors.collect::<Vec<_>>().join("; ");
        let refused = (!text.is_empty()).then_some(text);
        if self.trust_refused.is_news(refused.as_deref()) {
            tracing::error!(error = refused, "refused new trust bundles; the old ones of their domains stay in force");
            self.metrics.trust_reloaded(Loaded::Refused);
        }
    }

    /// Keys that are fetched come by tasks of their own.
    fn reload_tokens(&self, config: &Config) {
        self.tokens.set(&config.tokens);
        let api_keys = self.tokens.load_api_keys().err().map(|error| format!("{:#}", anyhow::Error::from(error)));
        let refused = [api_keys, keys::read_files(self)].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let refused = (!refused.is_empty()).then_some(refused);
        if self.tokens_refused.is_news(refused.as_deref()) {
            tracing::error!(error = refused, "refused new keys; those in force stay in force");
        }
        self.keys_changed();
    }

    /// The keys of all issuers, of machines and of people.
    pub(super) fn key_stores(&self) -> Vec<(config::Issuer, Arc<KeyStore>)> {
        let people = self.people.iter().flat_map(|people| people.key_stores());
        self.tokens.key_stores().into_iter().chain(people).collect()
    }

    /// Whether there are keys of every issuer that we may not do without.
    pub(super) fn keys_changed(&self) {
        let missing = self.tokens.key_stores().into_iter().find(|(issuer, store)| issuer.required && !store.has_keys());
        self.readiness.keys(missing.is_none());
    }

    fn reload_descriptors(&self, config: &Config) {
        match self.descriptors.reload(config.policy.proto_descriptor.as_deref()) {
            Ok(Look::Unchanged) => self.descriptors_refused.clear(),
            Ok(Look::Changed) => {
                self.descriptors_refused.clear();
                tracing::info!("brought new descriptors of gRPC messages into force");
            }
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::from(error));
                if self.descriptors_refused.is_news(Some(&text)) {
                    tracing::error!(error = text, "refused new descriptors of gRPC messages; the old ones stay in force");
                }
            }
        }
    }

    fn reload_policy(&self, config: &Config) {
        let now = clock::now();
        let path: Arc<str> = config.policy.decision.as_str().into();
        // Another shadow is no other policy.
        let policy = config::Policy { shadow: None, ..config.policy.clone() };
        match self.policies.reload(&policy, now) {
            Reload::Unchanged => self.policy_refused.clear(),
            Reload::Loaded { revision, .. } => {
                tracing::info!(revision, "brought a new policy into force");
                self.policy_refused.clear();
                self.metrics.policy_reloaded(Loaded::Loaded);
                self.metrics.policy_loaded(now);
                let policy = self.policies.current().map(|set| PolicyRef::new(&set, path));
                self.tell(PolicyRecord { outcome: PolicyOutcome::Loaded, policy, error: None }, now);
            }
            Reload::Refused { error } if error.is_waiting() => {
                if self.policy_refused.is_news(Some(&error.to_string())) {
                    tracing::info!(bundles = %error, "waiting for bundles to be fetched");
                }
            }
            Reload::Refused { error } => {
                let text = error.to_string();
                if self.policy_refused.is_news(Some(&text)) {
                    tracing::error!(error = text, "refused a new policy; what was in force stays in force");
                    self.metrics.policy_reloaded(Loaded::Refused);
                    let policy = self.policies.current().map(|set| PolicyRef::new(&set, path));
                    self.tell(PolicyRecord { outcome: PolicyOutcome::Refused, policy, error: Some(text) }, now);
                }
            }
        }
        self.readiness.policy(self.policies.current().is_some());
    }

    /// The second policy set is nobody's authority: a refusal is told and nothing else.
    fn reload_shadow(&self, config: &Config) {
        let Some(shadow) = config.policy.of_shadow() else {
            self.shadow_refused.clear();
            return self.shadow.clear();
        };
        match self.shadow.reload(&shadow, clock::now()) {
            Reload::Unchanged => self.shadow_refused.clear(),
            Reload::Loaded { revision, .. } => {
                tracing::info!(revision, "loaded a new shadow policy");
                self.shadow_refused.clear();
                self.metrics.shadow_reloaded(Loaded::Loaded);
            }
            Reload::Refused { error } => {
                let text = error.to_string();
                if self.shadow_refused.is_news(Some(&text)) {
                    tracing::error!(error = text, "refused a new shadow policy; the old one, if any, goes on");
                    self.metrics.shadow_reloaded(Loaded::Refused);
                }
            }
        }
    }

    /// A bundle that was fetched is refused before it gets as far as a reload.
    pub(super) fn refuse_bundle(&self, error: &str, now: Now) {
        if !self.bundle_refused.is_news(Some(error)) {
            return;
        }
        tracing::error!(error, "refused a fetched bundle; what was in force stays in force");
        self.metrics.policy_reloaded(Loaded::Refused);
        let path: Arc<str> = self.config.load().policy.decision.as_str().into();
        let policy = self.policies.current().map(|set| PolicyRef::new(&set, path));
        self.tell(PolicyRecord { outcome: PolicyOutcome::Refused, policy, error: Some(error.to_owned()) }, now);
    }

    fn tell(&self, record: PolicyRecord, at: Now) {
        self.recorder.offer(Record { id: Uuid::now_v7(), at, body: Body::Policy(Box::new(record)) });
    }

    fn trust_status(&self) -> Value {
        let bundles = self.trust.current();
        let count = |(domain, roots, keys): (&TrustDomain, _, _)| (domain.to_string(), json!({"roots": roots, "jwt_keys": keys}));
        json!({
            "revision": hex::encode(bundles.revision()),
            "domains": bundles.counts().map(count).collect::<serde_json::Map<_, _>>(),
            "refused": self.trust_refused.text(),
            "workload_api": workload::status(&self.config.load().trust, &self.workload),
            "self": self.authorizer.own_id(),
        })
    }

    fn issuers(&self) -> Vec<Value> {
        let now = clock::now();
        let status = |(issuer, store): (config::Issuer, Arc<KeyStore>)| {
            let age = store.age(now).map(|age| age.as_secs());
            json!({ "issuer": issuer.issuer, "kind": issuer.kind, "keys": store.count(), "age_s": age })
        };
        self.key_stores().into_iter().map(status).collect()
    }

    /// The body of `/readyz`.
    fn condition(&self) -> Condition {
        let config = self.config.load();
        let refused = |about: &'static str, told: &Told| told.text().map(|text| (about, text.to_string()));
        let insecure = config
            .listeners
            .iter()
            .filter(|part| part.insecure)
            .map(|part| ("insecure", format!("whoever reaches `{}` can speak for any workload", part.address)));
        let observe = (config.mode == Mode::Observe).then(|| ("mode", "nothing is enforced (`mode: observe`)".to_owned()));
        let alarms = [
            refused("policy", &self.policy_refused),
            refused("shadow", &self.shadow_refused).filter(|_| config.policy.shadow.is_some()),
            refused("policy", &self.bundle_refused),
            refused("trust", &self.trust_refused),
            refused("tokens", &self.tokens_refused),
            refused("descriptors", &self.descriptors_refused),
            refused("certificates", &self.certificate_refused),
            refused("config", &self.refused),
            self.waiting.text().map(|keys| ("config", format!("a restart is needed for {keys}"))),
            observe,
        ];
        let alarms = alarms.into_iter().flatten().chain(insecure).collect();
        Condition { mode: config.mode, obstacle: self.readiness.obstacle(), alarms }
    }

    pub(super) fn status(&self) -> Value {
        let config = self.config.load();
        json!({
            "ready": self.readiness.is_ready(),
            "obstacle": self.readiness.obstacle(),
            "mode": config.mode.as_str(),
            "version": env!("CARGO_PKG_VERSION"),
            "policy": self.policies.status(),
            "shadow": config.policy.shadow.as_ref().map(|_| self.shadow.status()),
            "trust": self.trust_status(),
            "state": state::status(self.authorizer.control()),
            "tokens": { "issuers": self.issuers(), "refused": self.tokens_refused.text() },
            "descriptors": { "refused": self.descriptors_refused.text() },
            "certificates": { "refused": self.certificate_refused.text() },
            "config": { "refused": self.refused.text(), "needs_restart": self.waiting.text() },
            "insecure": config.listeners.iter().filter(|part| part.insecure).map(|part| part.address.to_string()).collect::<Vec<_>>(),
        })
    }
}

/// How we are, for those who ask our own API.
pub(super) fn health(reloader: &Arc<Reloader>) -> Health {
    let reloader = Arc::clone(reloader);
    Box::new(move || reloader.condition())
}

/// A text that stays until it is settled, and is logged when it comes and not at each look.
#[derive(Default)]
pub(super) struct Told(ArcSwapOption<String>);

impl Told {
    /// Keeps the text; true when it is there and was not told before.
    pub(super) fn is_news(&self, text: Option<&str>) -> bool {
        let before = self.0.swap(text.map(|text| Arc::new(text.to_owned())));
        text.is_some() && before.as_ref().map(|before| before.as_str()) != text
    }

    fn clear(&self) {
        self.0.store(None);
    }

    fn text(&self) -> Option<Arc<String>> {
        self.0.load_full()
    }
}

/// The top-level keys in which two configurations differ.
fn waiting_keys(applied: &Config, new: &Config) -> String {
    let (Ok(Value::Object(applied)), Ok(Value::Object(new))) = (serde_json::to_value(applied), serde_json::to_value(new)) else {
        return String::new();
    };
    let changed = new.iter().filter(|(key, value)| applied.get(*key) != Some(value)).map(|(key, _)| key.as_str());
    changed.collect::<Vec<_>>().join(", ")
}

/// Loads, and reloads on SIGHUP, on a change of the files concerned, and every [`LOOK`], until `stop`.
pub(super) async fn watch(reloader: Arc<Reloader>, mut streams: Streams, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("cannot listen for SIGHUP");
        return;
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.reset();
    let (fetched, mut deliveries) = mpsc::channel(1);
    let mut downloads = Downloads::new(Arc::clone(&reloader), fetched, stop.clone());
    let mut key_tasks = KeyTasks::new(Arc::clone(&reloader), stop.clone());
    let mut watched = None;
    loop {
        // The watch stands before the files are read, so that no change falls between the two.
        while watched.as_ref().is_none_or(|watched: &Watched| watched.is_outdated(&reloader)) {
            watched = Watched::new(&reloader, changed.clone());
            reloader.reload().await;
            if watched.is_none() {
                break;
            }
        }
        downloads.adjust();
        key_tasks.adjust();
        streams.adjust(&reloader.config.load().trust);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reloading");
                downloads.hurry();
            }
            _ = deliveries.recv() => {}
            _ = changes.recv() => {
                sleep(SETTLE).await;
                let _ = changes.try_recv();
                // A folder that was deleted and made again may have its old inode number, but not its watch.
                watched = None;
                continue;
            }
            _ = look.tick() => {}
        }
        reloader.reload().await;
    }
}

/// The files concerned, as they stand in the configuration in force. Absolute, because the events are.
fn files(reloader: &Reloader) -> Vec<PathBuf> {
    let config = reloader.config.load();
    let mut files = vec![reloader.path.clone()];
    let shadow = config.policy.shadow.iter().flat_map(|shadow| &shadow.bundles);
    files.extend(config.policy.bundles.iter().chain(shadow).filter_map(|bundle| bundle.path().map(Path::to_owned)));
    files.extend(config.policy.proto_descriptor.clone());
    files.extend(config.tokens.files().cloned());
    files.extend(config.trust.files());
    files.extend(config.control.iter().flat_map(|control| control.files()).cloned());
    let keys = config.policy.bundles.iter().filter_map(|bundle| config.policy.signing_of(bundle));
    files.extend(keys.flat_map(|signing| signing.keys.into_values().map(|key| key.key_file)));
    let tls = config.listeners.iter().filter_map(|part| part.tls.as_ref()?.files());
    files.extend(tls.flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]));
    files.into_iter().map(|file| path::absolute(&file).unwrap_or(file)).collect()
}

/// The file of records, which may lie in a folder that is watched and changes with every call.
fn records(reloader: &Reloader) -> Option<PathBuf> {
    match &reloader.config.load().records.sink {
        config::Sink::File(file) => path::absolute(&file.path).ok(),
        config::Sink::Stdout | config::Sink::Off => None,
    }
}

/// A running watch. A folder is watched itself; a file through its folder, because an atomic rename and Kubernetes'
/// `..data` link replace the file that was watched.
struct Watched {
    files: Vec<PathBuf>,
    /// Watched folders with their inode numbers; none for one that was not there.
    folders: Vec<(PathBuf, Option<u64>)>,
    _watcher: RecommendedWatcher,
}

impl Watched {
    fn new(reloader: &Reloader, changed: mpsc::Sender<()>) -> Option<Self> {
        let files = files(reloader);
        let concerned = files.clone();
        let records = records(reloader);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = match event {
                Ok(event) => {
                    !matches!(event.kind, EventKind::Access(_))
                        && event.paths.iter().any(|path| concerns(&concerned, path) && !belongs(records.as_deref(), path))
                }
                Err(_) => true,
            };
            if relevant {
                // A full channel already says what there is to say.
                let _ = changed.try_send(());
            }
        });
        let mut watcher =
            watcher.map_err(|error| tracing::warn!(%error, "cannot watch files; changes are found every 30 s")).ok()?;
        let mut folders = Vec::new();
        for file in &files {
            let (folder, mode) = match file.is_dir() {
                true => (file.as_path(), RecursiveMode::Recursive),
                false => (
                    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
                    RecursiveMode::NonRecursive,
                ),
            };
            let inode = fs::metadata(folder).ok().map(|found| found.ino());
            if let Err(error) = watcher.watch(folder, mode) {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch a folder; its changes are found every 30 s");
            }
            folders.push((folder.to_owned(), inode));
        }
        Some(Self { files, folders, _watcher: watcher })
    }

    /// True when the configuration names other files by now, or a folder has gone or come, and its watch with it.
    fn is_outdated(&self, reloader: &Reloader) -> bool {
        self.files != files(reloader)
            || self.folders.iter().any(|(folder, inode)| *inode != fs::metadata(folder).ok().map(|it| it.ino()))
    }
}

/// Whether `path` is the file of records or what became of it by rotation.
fn belongs(records: Option<&Path>, path: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    records.is_some_and(|records| records.parent() == path.parent() && name(path).starts_with(&name(records)))
}

/// Whether a change of `path` may change one of `files`: it is one, lies in one, or is a link such as `..data` beside
/// one. Our own sockets may lie in the same folder and must not count.
fn concerns(files: &[PathBuf], path: &Path) -> bool {
    let link = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".."));
    files.iter().any(|file| path.starts_with(file) || (link && path.parent() == file.parent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_and_what_does_not() {
        let files = [PathBuf::from("/etc/d/doorward.yaml"), PathBuf::from("/etc/d/policy")];
        let records = Path::new("/etc/d/policy/r.jsonl");
        for (path, expected) in [
            ("/etc/d/doorward.yaml", true),
            ("/etc/d/./doorward.yaml", true),
            ("/etc/d/..data", true),
            ("/etc/d/policy", true),
            ("/etc/d/policy/x/a.rego", true),
            ("/etc/d/authz.sock", false),
            ("/etc/d/policy/r.jsonl", false),
            ("/etc/d/policy/r.jsonl.1", false),
            ("/etc/d/policy/r.json", true),
        ] {
            let path = Path::new(path);
            assert_eq!(concerns(&files, path) && !belongs(Some(records), path), expected, "{}", path.display());
        }
    }
}
