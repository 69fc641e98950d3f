//! The SPIFFE Workload API: follows its streams, and hands what they say to the store of bundles and to our own SVID. Each
//! message is the whole state, so what is not in it is withdrawn (SPIFFE Workload API §4.4). Nothing here is on the way
//! of a request. Who wants which stream, and tells of it, is `app`'s.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use spiffe::{JwtBundleSet, TrustDomain, WorkloadApiClient, WorkloadApiError, X509BundleSet, X509Context, transport::Endpoint};
use tokio::{net::UnixStream, sync::watch, time::sleep};

use super::{
    TrustStore,
    bundle::{Digest, Jwk, anchor, is_private, sha256},
    own::{OwnSvid, Svid},
};
use crate::{
    config::{OnStale, WorkloadEndpoint},
    verdict::Reason,
};

/// Wait after a failure: the first, and the longest it doubles to.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// How often an idle connection is asked whether it lives, so that a frozen agent is found out. gRPC servers in Go take
/// more than one such question in five minutes for an attack.
const KEEP_ALIVE: Duration = Duration::from_secs(330);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a stream brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Material {
    X509Bundles,
    JwtBundles,
    OwnSvid,
}

impl Material {
    pub const ALL: [Self; 3] = [Self::X509Bundles, Self::JwtBundles, Self::OwnSvid];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X509Bundles => "x509_bundles",
            Self::JwtBundles => "jwt_bundles",
            Self::OwnSvid => "own_svid",
        }
    }
}

/// How a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nobody wants it.
    #[default]
    Off,
    /// It has said nothing yet.
    Waiting,
    /// What it said last is what counts.
    Current,
    /// It is lost; what it said last still counts.
    Outage,
    /// It has been lost for longer than `trust.max_stale`.
    Stale,
    /// The Workload API has nothing for us, and what it had said does not count any more.
    Denied,
    /// The Workload API knows no such stream.
    Unsupported,
}

impl Phase {
    pub const ALL: [Self; 7] =
        [Self::Off, Self::Waiting, Self::Current, Self::Outage, Self::Stale, Self::Denied, Self::Unsupported];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Current => "current",
            Self::Outage => "outage",
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub phase: Phase,
    /// When it was last known to be current, for a stream that has been and is not.
    lost: Option<Instant>,
    /// What went wrong last; none while nothing is wrong.
    pub error: Option<String>,
}

impl State {
    /// How long nobody has confirmed what it said last; none where it has said nothing.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Current => Some(Duration::ZERO),
            Phase::Outage | Phase::Stale => self.lost.map(|lost| now.saturating_duration_since(lost)),
            Phase::Off | Phase::Waiting | Phase::Denied | Phase::Unsupported => None,
        }
    }

    /// Whether what it is for can be relied on.
    pub fn is_usable(&self, on_stale: OnStale) -> bool {
        match self.phase {
            Phase::Current | Phase::Outage => true,
            Phase::Stale => on_stale == OnStale::Keep,
            Phase::Off | Phase::Waiting | Phase::Denied | Phase::Unsupported => false,
        }
    }
}

/// The state of each stream, in the order of [`Material::ALL`].
pub type States = [State; 3];

/// What the Workload API gives, and how its streams stand.
#[derive(Debug)]
pub struct Workload {
    store: Arc<TrustStore>,
    own: Arc<OwnSvid>,
    states: watch::Sender<States>,
}

impl Workload {
    pub fn new(store: Arc<TrustStore>, own: Arc<OwnSvid>) -> Self {
        Self { store, own, states: watch::Sender::default() }
    }

    /// The states now and whenever they change.
    pub fn states(&self) -> watch::Receiver<States> {
        self.states.subscribe()
    }

    /// Follows one stream until the future is dropped.
    pub async fn follow(&self, material: Material, endpoint: WorkloadEndpoint) {
        self.change(material, |state| state.phase = Phase::Waiting);
        let mut failures = 0_u32;
        loop {
            let mut spoke = false;
            let error = match connect(&endpoint).await {
                Ok(client) => self.listen(material, &client, &mut spoke).await,
                Err(error) => Failure::Lost(error),
            };
            failures = if spoke { 0 } else { failures.saturating_add(1) };
            let lasting = matches!(error, Failure::Invalid(_));
            self.lost(material, error);
            if lasting {
                // Asking the same again would be answered the same (SPIFFE Workload Endpoint §6).
                return std::future::pending().await;
            }
            sleep(wait(failures, fraction())).await;
        }
    }

    /// Nobody wants the stream any more: what it said counts no more either.
    pub fn forget(&self, material: Material) {
        self.withdraw(material, Reason::TrustUnavailable);
        self.change(material, |state| *state = State::default());
    }

    /// Withdraws what has been lost for too long. Asked now and then.
    pub fn expire(&self, max_stale: Duration, on_stale: OnStale, now: Instant) {
        for material in [Material::X509Bundles, Material::JwtBundles] {
            let state = self.state(material);
            if state.phase == Phase::Outage && state.age(now).is_some_and(|age| age > max_stale) {
                tracing::error!(
                    source = material.as_str(),
                    denied = on_stale == OnStale::Deny,
                    "the Workload API has been away for longer than `trust.max_stale`"
                );
                self.change(material, |state| state.phase = Phase::Stale);
            }
            // The setting may have changed since.
            if self.state(material).phase == Phase::Stale {
                match on_stale {
                    OnStale::Deny => self.withhold(material, Reason::TrustStale),
                    OnStale::Keep => self.restore(material),
                }
            }
        }
    }

    async fn listen(&self, material: Material, client: &WorkloadApiClient, spoke: &mut bool) -> Failure {
        match material {
            Material::X509Bundles => {
                let take = |set| {
                    let (bundles, note) = roots(&set);
                    self.store.put_x509(bundles);
                    Ok(note)
                };
                self.take(material, client.stream_x509_bundles(), take, spoke).await
            }
            Material::JwtBundles => {
                let take = |set| {
                    self.store.put_jwt(jwt_keys(&set));
                    Ok(None)
                };
                self.take(material, client.stream_jwt_bundles(), take, spoke).await
            }
            Material::OwnSvid => {
                let take = |context| {
                    if self.own.set(own(&context)?) {
                        tracing::info!("took our own SVID from the Workload API");
                    }
                    Ok(None)
                };
                self.take(material, client.stream_x509_contexts(), take, spoke).await
            }
        }
    }

    /// Takes message after message. One that cannot be used changes nothing, but confirms nothing either.
    async fn take<T, S: Stream<Item = Result<T, WorkloadApiError>> + Unpin>(
        &self,
        material: Material,
        stream: impl Future<Output = Result<S, WorkloadApiError>>,
        mut take: impl FnMut(T) -> Result<Option<String>, String>,
        spoke: &mut bool,
    ) -> Failure {
        let mut stream = match stream.await {
            Ok(stream) => stream,
            Err(error) => return error.into(),
        };
        while let Some(message) = stream.next().await {
            let taken = match message {
                Ok(message) => take(message),
                Err(error) => match Failure::from(error) {
                    Failure::Unusable(text) => Err(text),
                    failure => return failure,
                },
            };
            match taken {
                Ok(note) => {
                    *spoke = true;
                    self.change(material, |state| *state = State { phase: Phase::Current, lost: None, error: note });
                }
                Err(text) => self.lost(material, Failure::Unusable(text)),
            }
        }
        Failure::Lost("the stream ended".to_owned())
    }

    fn lost(&self, material: Material, failure: Failure) {
        let (text, phase) = match failure {
            Failure::Denied(text) => {
                self.withdraw(material, Reason::TrustUnavailable);
                (text, Some(Phase::Denied))
            }
            Failure::Unsupported => ("it knows no such stream".to_owned(), Some(Phase::Unsupported)),
            Failure::Invalid(text) | Failure::Lost(text) | Failure::Unusable(text) => (text, None),
        };
        let mut news = false;
        self.change(material, |state| {
            news = state.error.as_ref() != Some(&text);
            let phase = phase.unwrap_or(if state.phase == Phase::Current { Phase::Outage } else { state.phase });
            let lost = if state.phase == Phase::Current { Some(Instant::now()) } else { state.lost };
            *state = State { phase, lost, error: Some(text.clone()) };
        });
        if news {
            tracing::warn!(source = material.as_str(), error = text, "the Workload API does not answer as it should");
        }
    }

    fn withdraw(&self, material: Material, reason: Reason) {
        match material {
            Material::X509Bundles => self.store.withdraw_x509(reason),
            Material::JwtBundles => self.store.withdraw_jwt(),
            Material::OwnSvid => self.own.withdraw(),
        }
    }

    fn withhold(&self, material: Material, reason: Reason) {
        match material {
            Material::X509Bundles => self.store.withhold_x509(Some(reason)),
            Material::JwtBundles => self.store.withhold_jwt(true),
            Material::OwnSvid => {}
        }
    }

    fn restore(&self, material: Material) {
        match material {
            Material::X509Bundles => self.store.withhold_x509(None),
            Material::JwtBundles => self.store.withhold_jwt(false),
            Material::OwnSvid => {}
        }
    }

    fn state(&self, material: Material) -> State {
        self.states.borrow().get(material as usize).cloned().unwrap_or_default()
    }

    fn change(&self, material: Material, change: impl FnOnce(&mut State)) {
        self.states.send_if_modified(|states| {
            let Some(state) = states.get_mut(material as usize) else { return false };
            let before = state.clone();
            change(state);
            *state != before
        });
    }
}

/// Why a stream has nothing more to say.
enum Failure {
    /// There is nothing for us (any more).
    Denied(String),
    /// The Workload API takes us for something else.
    Invalid(String),
    Unsupported,
    /// A message came that cannot be used.
    Unusable(String),
    Lost(String),
}

impl From<WorkloadApiError> for Failure {
    fn from(error: WorkloadApiError) -> Self {
        use spiffe::transport::{GrpcStatusCode, TransportError};
        let text = text(&error);
        match &error {
            WorkloadApiError::PermissionDenied(_) | WorkloadApiError::NoIdentityIssued => Self::Denied(text),
            WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
                GrpcStatusCode::InvalidArgument => Self::Invalid(text),
                GrpcStatusCode::Unimplemented => Self::Unsupported,
                _ => Self::Lost(text),
            },
            WorkloadApiError::Transport(_) => Self::Lost(text),
            _ => Self::Unusable(text),
        }
    }
}

/// An error with its causes, where its own text does not say them.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn connect(endpoint: &WorkloadEndpoint) -> Result<WorkloadApiClient, String> {
    let name = Endpoint::parse(&endpoint.to_string()).map_err(|error| error.to_string())?;
    let patient = |to: tonic::transport::Endpoint| {
        to.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_TIMEOUT).keep_alive_while_idle(true)
    };
    let channel = match endpoint.clone() {
        WorkloadEndpoint::Unix(path) => {
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            patient(tonic::transport::Endpoint::from_static("http://localhost")).connect_with_connector(connect).await
        }
        WorkloadEndpoint::Tcp(socket) => {
            let to = tonic::transport::Endpoint::from_shared(format!("http://{socket}")).map_err(|error| text(&error))?;
            patient(to).connect().await
        }
    };
    channel.map(|channel| WorkloadApiClient::new_with_channel(name, channel)).map_err(|error| text(&error))
}

/// The roots of one domain, as far as they can be used.
#[derive(Debug, Clone, Default)]
pub(super) struct Roots {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) contents: Digest,
}

/// A root that cannot be used is left out: its callers are refused, and no other domain's withdrawal waits for it.
fn roots(set: &X509BundleSet) -> (BTreeMap<TrustDomain, Roots>, Option<String>) {
    let mut unusable = Vec::new();
    let mut all = BTreeMap::new();
    for (domain, bundle) in set.iter() {
        let (mut anchors, mut contents) = (Vec::new(), Vec::new());
        for authority in bundle.authorities() {
            let der = authority.as_bytes();
            match anchor(&CertificateDer::from(der)) {
                Ok(anchor) => {
                    anchors.push(anchor);
                    contents.extend_from_slice(&sha256(der));
                }
                Err(_) => unusable.push(domain.to_string()),
            }
        }
        all.insert(domain.clone(), Roots { anchors, contents: sha256(&contents) });
    }
    let note = (!unusable.is_empty()).then(|| format!("roots that cannot be used were left out of {}", unusable.join(", ")));
    (all, note)
}

/// The Workload API gives JWT keys alone, and need not say `use`; what says another use, or says too much, is left out.
fn jwt_keys(set: &JwtBundleSet) -> BTreeMap<TrustDomain, Arc<[Jwk]>> {
    let keys = |bundle: &spiffe::JwtBundle| {
        let mut keys: Vec<Jwk> = bundle
            .jwt_authorities()
            .filter_map(|authority| serde_json::from_slice::<Jwk>(authority.jwk_json()).ok())
            .filter(|key| !is_private(key))
            .filter(|key| key.get("use").is_none_or(|used| used == "jwt-svid" || used == "sig"))
            .map(|mut key| {
                key.insert("use".to_owned(), "jwt-svid".into());
                key
            })
            .collect();
        keys.sort_by_key(|key| key.get("kid").and_then(|kid| kid.as_str()).unwrap_or_default().to_owned());
        keys.into()
    };
    set.iter().map(|(domain, bundle)| (domain.clone(), keys(bundle))).collect()
}

/// The first SVID is the default one (SPIFFE Workload API §5.3).
fn own(context: &X509Context) -> Result<Svid, String> {
    let svid = context.default_svid().ok_or("there is no SVID for us")?;
    let chain = svid.cert_chain().iter().map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
    Svid::new(chain, key).map_err(|error| format!("our SVID cannot be used: {error}"))
}

/// How long to wait after so many failures in a row; `fraction` lies between 0 and 1, so that processes that lost one
/// agent together do not come back together.
fn wait(failures: u32, fraction: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
    doubled.mul_f64(0.5 + fraction / 2.0)
}

fn fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody waits as long as everybody else, which is no reason not to wait.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
