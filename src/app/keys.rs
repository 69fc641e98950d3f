//! The keys of token issuers: read from files at each reload, fetched from addresses by a task each. A task asks at
//! regular times, and sooner when a token named a key that is not known, but never oftener than it may. How one request
//! is made is `download/request`'s; what a key set is, `identity/keys`'s.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    client::{chance, wait},
    download::request,
    reload::{Reloader, Told},
};
use crate::{
    clock,
    config::{Download, Issuer, Poll, Span},
    identity::keys::{KeyStore, MAX_BYTES},
    json,
    telemetry::metrics::Fetch,
    trust::own::OwnSvid,
};

/// Values of `use` that issuers' keys may have (RFC 7517 §4.2).
const USAGES: &[&str] = &["sig"];
/// However short the server takes its keys for fresh, they are not asked for oftener.
const SHORTEST: Duration = Duration::from_secs(60);
/// Deepest metadata document.
const MAX_DEPTH: usize = 16;

/// The tasks, as the configuration in force wants them.
pub(super) struct KeyTasks {
    reloader: Arc<Reloader>,
    tasks: BTreeMap<String, (Arc<KeyStore>, CancellationToken)>,
    stop: CancellationToken,
}

impl KeyTasks {
    pub(super) fn new(reloader: Arc<Reloader>, stop: CancellationToken) -> Self {
        Self { reloader, tasks: BTreeMap::new(), stop }
    }

    /// Starts and stops tasks until there is one for each issuer whose keys are fetched.
    pub(super) fn adjust(&mut self) {
        let wanted = self.reloader.key_stores();
        self.tasks.retain(|_, (running, stop)| {
            let stays = wanted.iter().any(|(_, store)| Arc::ptr_eq(store, running));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (issuer, store) in wanted {
            if issuer.keys.address(&issuer.issuer).is_none() || self.tasks.values().any(|(known, _)| Arc::ptr_eq(known, &store)) {
                continue;
            }
            let stop = self.stop.child_token();
            let task = follow(issuer.clone(), Arc::clone(&store), Arc::clone(&self.reloader));
            tokio::spawn(stop.clone().run_until_cancelled_owned(task));
            self.tasks.insert(format!("{:?} {}", issuer.kind, issuer.issuer), (store, stop));
        }
    }
}

/// Reads the key files of all issuers; why one cannot be used, so that its keys in force stay.
pub(super) fn read_files(reloader: &Reloader) -> Option<String> {
    let mut wrong = Vec::new();
    for (issuer, store) in reloader.key_stores() {
        let Some(path) = &issuer.keys.file else { continue };
        let read = std::fs::read(path).map_err(anyhow::Error::from);
        let put = read.and_then(|text| store.confirm(&text, USAGES, clock::now()).map_err(Into::into));
        if let Err(error) = put {
            wrong.push(format!("`{}` (keys of `{}`): {error:#}", path.display(), issuer.issuer));
        }
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// Asks for the keys of one issuer for ever.
async fn follow(issuer: Issuer, store: Arc<KeyStore>, reloader: Arc<Reloader>) {
    let least = issuer.keys.min_interval.duration();
    let refresh = issuer.keys.refresh.duration();
    let mut poll = around(refresh);
    let mut failures = 0_u32;
    let told = Told::default();
    loop {
        let asked = Instant::now();
        let error = match fetch(&issuer, &store, &reloader.own).await {
            Ok((result, max_age)) => {
                reloader.metrics.keys_fetched(result);
                poll = around(refresh.min(max_age.map_or(refresh, |max_age| max_age.max(SHORTEST))));
                failures = 0;
                reloader.keys_changed();
                None
            }
            Err(error) => {
                reloader.metrics.keys_fetched(Fetch::Failed);
                failures = failures.saturating_add(1);
                Some(format!("{error:#}"))
            }
        };
        if told.is_news(error.as_deref()) {
            tracing::warn!(issuer = issuer.issuer, error, "the keys of an issuer could not be fetched; those that are here stay");
        }
        tokio::select! {
            () = sleep_until(asked + wait(&poll, failures, chance()).max(least)) => {}
            () = async { sleep_until(asked + least).await; store.wanted().await } => {}
        }
    }
}

/// A tenth sooner or later than `refresh`.
fn around(refresh: Duration) -> Poll {
    let millis = |part: f64| Span::millis(u64::try_from(refresh.mul_f64(part).as_millis()).unwrap_or(u64::MAX).max(1));
    Poll { min: millis(0.9), max: millis(1.1), ..Poll::default() }
}

/// One request, or two where the issuer's metadata has to be asked for the address first.
async fn fetch(issuer: &Issuer, store: &KeyStore, own: &OwnSvid) -> anyhow::Result<(Fetch, Option<Duration>)> {
    let address = match (&issuer.keys.url, issuer.keys.discovery) {
        (Some(url), _) => url.clone(),
        (None, true) => discover(issuer, own).await.context("asking for the issuer's metadata")?,
        (None, false) => bail!("no address to ask"),
    };
    let (text, max_age) = get(issuer, own, address).await.context("asking for the keys")?;
    let before = store.revision();
    store.confirm(&text, USAGES, clock::now())?;
    Ok((if before == store.revision() { Fetch::Unchanged } else { Fetch::Fetched }, max_age))
}

/// OpenID Connect Discovery §4: the address below the issuer, whose document must name the issuer itself. Keys of
/// another server were never the issuer's to vouch for here.
async fn discover(issuer: &Issuer, svid: &OwnSvid) -> anyhow::Result<Url> {
    let own = Url::parse(&issuer.issuer).context("the issuer is no address")?;
    let metadata = Url::parse(&format!("{}/.well-known/openid-configuration", issuer.issuer.trim_end_matches('/')))?;
    let (text, _) = get(issuer, svid, metadata).await?;
    let document = json::strict_object(&text, MAX_DEPTH)?;
    let member = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
    if member("issuer") != Some(&issuer.issuer) {
        bail!("the document is not the issuer's: its `issuer` is another");
    }
    let keys = Url::parse(member("jwks_uri").context("the document has no `jwks_uri`")?)?;
    if keys.origin() != own.origin() {
        bail!("`jwks_uri` is of another server; write it into `keys.url` if that is right");
    }
    Ok(keys)
}

/// What is there, and how long the server takes it for fresh.
async fn get(issuer: &Issuer, own: &OwnSvid, url: Url) -> anyhow::Result<(bytes::Bytes, Option<Duration>)> {
    let keys = &issuer.keys;
    let download = Download {
        name: issuer.issuer.clone(),
        url,
        token_file: keys.token_file.clone(),
        tls: keys.tls.clone(),
        ca: keys.ca.clone(),
        poll: Poll { timeout: keys.timeout, ..Poll::default() },
    };
    match request::send(&download, own, None, MAX_BYTES).await? {
        request::Answer::Bundle { bytes, max_age, .. } => Ok((bytes, max_age)),
        request::Answer::Unchanged => bail!("the server says that nothing changed since nothing was asked"),
    }
}
