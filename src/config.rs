//! The configuration file: its types, how it is read, and what is said about a mistake in it. If a value deserialises
//! it is valid; what spans several keys is checked in `config/check.rs`. Each component gets its own part of it.

pub mod opa;

mod alerts;
mod bundle;
mod check;
mod control;
mod file;
mod inventory;
mod node;
mod place;
mod sessions;
mod state;
mod tokens;
mod trusted;
mod units;
mod upload;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};
use spiffe::SpiffeId;
use url::Url;

pub use self::{
    alerts::{AlertRule, Alertmanager, Alerts},
    bundle::{Bundle, Download, Poll, Signing, SigningAlgorithm, SigningKey, Source},
    control::{Control, Oidc},
    file::{ConfigError, Environment, load},
    inventory::Inventory,
    node::{Node, Value},
    place::Place,
    sessions::{Incomplete, Sessions},
    state::{MemoryState, State},
    tokens::{ApiKeys, Dpop, Foreign, Issuer, IssuerKind, JwtSvid, TokenAlgorithm, Tokens},
    trusted::{BundleSource, Domain, OnStale, Own, Shown, Tls, Trust},
    units::{Address, FileMode, PlaceName, Size, Span, WorkloadEndpoint},
    upload::Upload,
};
use crate::verdict::Mode;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this layout.
    pub version: Version,
    /// `observe` lets everything through and records what would have been decided.
    #[serde(default)]
    pub mode: Mode,
    #[serde(default, rename = "self")]
    pub place: Place,
    /// Where Envoy asks.
    pub listeners: Vec<Listener>,
    #[serde(default)]
    pub trust: Trust,
    #[serde(default)]
    pub tokens: Tokens,
    pub policy: Policy,
    #[serde(default)]
    pub sessions: Sessions,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub inventory: Inventory,
    #[serde(default)]
    pub answer: Answer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    #[serde(default)]
    pub records: Records,
    /// Who is told of what cannot wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Alerts>,
    #[serde(default)]
    pub telemetry: Telemetry,
    #[serde(default)]
    pub operations: Operations,
    #[serde(default)]
    pub limits: Limits,
}

/// The only layout so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schemars(with = "u32")]
pub struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        match number {
            1 => Ok(Self),
            other => Err(format!("version {other} is not known to this build, which reads version 1")),
        }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

/// One gRPC listener for Envoy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `unix:///path`, `unix://@abstract-name` or `tcp://127.0.0.1:9191`.
    #[serde(default)]
    pub address: Address,
    /// Permission bits of the socket file.
    #[serde(default)]
    pub socket_mode: FileMode,
    /// Where this Envoy sits.
    #[serde(default)]
    pub placement: Placement,
    /// The zone that calls to this listener are in, where that is not `self.zone`: a gateway may face several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<PlaceName>,
    #[serde(default)]
    pub callers: Callers,
    /// Serve TCP without client authentication: whoever reaches the address can speak for any workload.
    #[serde(default)]
    pub insecure: bool,
    /// TLS for a TCP listener: our certificate and key from files, or `workload_api` for our own SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Shown>,
    /// Serve gRPC reflection.
    #[serde(default)]
    pub reflection: bool,
    #[serde(default)]
    pub peer: PeerTrust,
    /// `with_request_body.max_request_bytes` as Envoy was told: a body of exactly this size may be cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
    /// Take no body apart: `parsed_body` and `truncated_body` are absent from the input, and no body is malformed.
    #[serde(default)]
    pub skip_body_parse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In front of the workload that is called.
    #[default]
    #[value(help = "In front of the workload that is called")]
    Inbound,
    /// At the edge, for many workloads.
    #[value(help = "At the edge, for many workloads")]
    Gateway,
    /// On the way out of the workload that this Envoy belongs to: it is the caller, whoever the certificate in a request
    /// speaks of. Who it is stands under `trust.self`.
    #[value(help = "Beside the workload that calls")]
    Egress,
}

impl Placement {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Gateway => "gateway",
            Self::Egress => "egress",
        }
    }
}

/// Who may call a listener.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// Unix listeners: user ids besides our own whose processes may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// TLS listeners: SPIFFE IDs that may call, proved by client certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde_as(as = "Vec<DisplayFromStr>")]
    #[schemars(with = "Vec<String>")]
    pub spiffe_ids: Vec<SpiffeId>,
}

/// What counts as proof of who the peer is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerTrust {
    #[serde(default)]
    pub trust: PeerProof,
    /// Refuse certificates that leave out BasicConstraints instead of reading them as no CA (RFC 5280 §4.2.1.9).
    #[serde(default)]
    pub strict_basic_constraints: bool,
    /// Take the certificates between leaf and root from `x-forwarded-client-cert`. Envoy has to set that header itself:
    /// `forward_client_cert_details: SANITIZE_SET` with `set_current_client_cert_details: {chain: true}`.
    #[serde(default)]
    pub xfcc: Xfcc,
    /// Leave `x-forwarded-client-cert` in what goes to the workload. Where it is read here, it is taken away otherwise: it
    /// has done what it was sent for.
    #[serde(default)]
    pub forward_xfcc: bool,
}

/// What is read of `x-forwarded-client-cert`. Never an identity: only what Envoy proved on this connection is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Xfcc {
    #[default]
    Off,
    /// Intermediates, from the last element, which must be about the peer's certificate.
    LastElement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerProof {
    /// Leaf rules and chain are checked here, against `trust.domains`.
    #[default]
    Sidecar,
    /// Leaf rules are checked here; Envoy is believed to have checked the chain.
    Certificate,
    /// `source.principal` is believed: for hosts that send no certificate.
    Principal,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Rego and data: files, folders and bundles (`.tar.gz`, from a path or an address), loaded together.
    pub bundles: Vec<Bundle>,
    /// The rule that decides, as a path below `data`.
    #[serde(default = "Policy::default_decision")]
    pub decision: String,
    /// Which Rego the sources are written in.
    #[serde(default)]
    pub rego: RegoVersion,
    /// Behave as opa-envoy-plugin where our safe default differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
    /// FileDescriptorSet of the gRPC services behind Envoy (`protoc --include_imports --descriptor_set_out`), so that
    /// `input.parsed_body` shows their messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto_descriptor: Option<PathBuf>,
    #[serde(default)]
    pub limits: PolicyLimits,
    /// A second policy set, asked about the same calls after they are answered. It changes no answer; where its own
    /// differs, a record says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// Keys that verify the `.signatures.json` of every bundle. With them, what is not signed is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
    /// Folder that keeps the last good download of each bundle, for a start without network, and the newest revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Its Rego and data, as `policy.bundles`.
    pub bundles: Vec<Bundle>,
    /// Its rule that decides; by default the same as `policy.decision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Share of calls that it is asked about, from 0 to 1.
    #[serde(default = "Shadow::every_call")]
    pub sample: f64,
}

impl Shadow {
    fn every_call() -> f64 {
        1.0
    }
}

impl Policy {
    /// The default settings for sources that a command line names. Whoever names a bundle there need not have its key.
    pub fn of_paths(paths: &[PathBuf], rego: RegoVersion) -> Self {
        Self {
            bundles: paths.iter().map(|path| Bundle { unsigned: true, ..Bundle::at(path) }).collect(),
            decision: Self::default_decision(),
            rego,
            compat: None,
            proto_descriptor: None,
            limits: PolicyLimits::default(),
            signing: None,
            cache: None,
            shadow: None,
        }
    }

    /// The second policy set, loaded and evaluated under the same settings.
    pub fn of_shadow(&self) -> Option<Self> {
        let Shadow { bundles, decision, sample: _ } = self.shadow.clone()?;
        Some(Self { bundles, decision: decision.unwrap_or_else(|| self.decision.clone()), shadow: None, ..self.clone() })
    }

    /// One file, folder or archive, and everything else by default.
    #[cfg(test)]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let mut policy = Self::of_paths(&[path.into()], RegoVersion::default());
        policy.bundles.iter_mut().for_each(|bundle| bundle.unsigned = false);
        policy
    }

    fn default_decision() -> String {
        "envoy/authz/allow".to_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RegoVersion {
    V0,
    #[default]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    OpaEnvoy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLimits {
    /// Longest evaluation of one call.
    pub evaluation: Span,
    /// Largest single source or data file.
    pub file: Size,
    /// Largest policy set: all files together.
    pub total: Size,
    /// Deepest chain of rules calling rules.
    pub depth: u32,
    /// Longest time to parse, check and compile the set.
    pub compile: Span,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self {
            evaluation: Span::millis(50),
            file: Size::mib(16),
            total: Size::mib(256),
            depth: 128,
            compile: Span::millis(10_000),
        }
    }
}

/// What callers are told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// Send `x-doorward-decision-id` upstream on allows too; denials always carry it.
    pub decision_id_on_allow: bool,
    /// Send the policy's `reason` text to the caller as the body of a denial that has none.
    pub reason: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Where records go.
    pub sink: Sink,
    /// `commit` waits until the record is on disk before the call is answered; a record that cannot be written denies.
    pub write: RecordWrite,
    pub mask: Mask,
    /// Records that may wait for the writer; beyond it they are dropped and counted.
    pub queue: usize,
    /// Decisions are sent to a log service too, as OPA sends its decision log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<Upload>,
}

impl Default for Records {
    fn default() -> Self {
        Self { sink: Sink::Stdout, write: RecordWrite::Offer, mask: Mask::default(), queue: 16 * 1024, upload: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Sink {
    /// JSON lines on standard output. It cannot promise durability, so `write: commit` is refused with it.
    Stdout,
    /// JSON lines in a file.
    File(FileSink),
    /// Records are made and counted, and go to telemetry only; with `control`, the latest stay in memory.
    Off,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    pub path: PathBuf,
    /// The file is rotated to `path.1` when it would grow beyond this.
    #[serde(default = "FileSink::default_max_size")]
    pub max_size: Size,
    /// Rotated files kept besides the current one.
    #[serde(default = "FileSink::default_keep")]
    pub keep: u32,
}

impl FileSink {
    fn default_max_size() -> Size {
        Size::mib(64)
    }

    fn default_keep() -> u32 {
        4
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordWrite {
    #[default]
    Offer,
    Commit,
}

/// Which parts of a record are replaced by keyed digests, besides the built-in list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mask {
    /// Header names, besides `authorization`, `cookie` and the other built-in ones.
    pub headers: Vec<String>,
    /// Names of JSON members and query parameters anywhere in the input, besides `password`, `access_token` and the
    /// other built-in ones.
    pub names: Vec<String>,
    /// File with the key of the digests (at least 32 bytes), so that they compare across restarts; without it a
    /// random key is made at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Record the built-in list in plain text. For debugging only: credentials end up in the records.
    pub off: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Off unless configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
    pub log: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// OTLP over gRPC, `http://127.0.0.1:4317`.
    pub endpoint: Url,
    #[serde(default = "Otlp::on")]
    pub traces: bool,
    #[serde(default = "Otlp::on")]
    pub metrics: bool,
    #[serde(default = "Otlp::on")]
    pub logs: bool,
    /// Share of traces to sample when the caller sent no decision, 0 to 1.
    #[serde(default = "Otlp::all")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// How often metrics are pushed.
    #[serde(default = "Otlp::default_interval")]
    pub interval: Span,
}

impl Otlp {
    const fn on() -> bool {
        true
    }

    const fn all() -> f64 {
        1.0
    }

    const fn default_interval() -> Span {
        Span::millis(15_000)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `/livez`, `/readyz` and `/metrics` over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    pub address: SocketAddr,
}

impl Default for Operations {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9919)) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest CheckRequest. A larger one is denied; one of more than four times this ends the call with an error.
    pub message: Size,
    /// Checks that may wait for a permit, all listeners together; the next one is denied at once.
    pub queue: usize,
    /// Longest time from decoding to answer when the caller set no shorter deadline.
    pub decision: Span,
    /// Time between NOT_SERVING and GOAWAY at shutdown, for callers to look elsewhere.
    pub grace: Span,
    /// Longest time for calls in flight to finish after GOAWAY.
    pub drain: Span,
    /// Live streams that Envoy has us hold at a time (`doorward gen envoy --streams`), those included that were allowed a
    /// moment ago; the next one is denied.
    pub streams: usize,
    /// The same, of one principal.
    pub streams_per_principal: usize,
    /// Evaluations at a time; one thread more reads and refuses. One less than the cores by default, and at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluators: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: Size::mib(4),
            queue: 1024,
            decision: Span::millis(150),
            grace: Span::millis(2_000),
            drain: Span::millis(10_000),
            streams: 10_000,
            streams_per_principal: 1_000,
            evaluators: None,
        }
    }
}

impl Config {
    /// Makes relative paths relative to the folder of the configuration file.
    fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        let shadow = self.policy.shadow.iter_mut().flat_map(|shadow| &mut shadow.bundles);
        self.policy.bundles.iter_mut().chain(shadow).flat_map(Bundle::paths_mut).for_each(resolve);
        self.policy.signing.iter_mut().flat_map(Signing::paths_mut).for_each(resolve);
        self.policy.cache.iter_mut().for_each(resolve);
        self.trust.paths_mut().for_each(resolve);
        self.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()).flat_map(Shown::paths_mut).for_each(resolve);
        self.tokens.paths_mut().for_each(resolve);
        self.policy.proto_descriptor.iter_mut().for_each(resolve);
        if let Sink::File(file) = &mut self.records.sink {
            resolve(&mut file.path);
        }
        if let Some(key) = &mut self.records.mask.key_file {
            resolve(key);
        }
        self.sessions.snapshot.iter_mut().for_each(resolve);
        self.inventory.file.iter_mut().for_each(resolve);
        self.state.path_mut().into_iter().for_each(resolve);
        self.control.iter_mut().flat_map(Control::paths_mut).for_each(resolve);
        self.records.upload.iter_mut().flat_map(Upload::paths_mut).for_each(resolve);
        self.alerts.iter_mut().flat_map(Alerts::paths_mut).for_each(resolve);
    }
}
