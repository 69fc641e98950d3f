//! The one document that a decision, or a change of policy, leaves. This file has its content and the two ways to hand
//! it over; `mask` knows what must not be shown, `encode` makes the line, `writer` is the thread that writes lines to
//! the `sink`, `event` sends a copy to OTLP, `upload` makes one for a log service, and `recent` keeps the latest in memory.

mod encode;
mod event;
pub mod find;
pub mod kept;
mod mask;
pub mod recent;
mod sink;
mod upload;
mod writer;

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_sdk::logs::SdkLogger;
use serde::Serialize;
use tokio::sync::oneshot;
use uuid::Uuid;

pub use self::upload::{Chunk, Outbox};
use self::{
    mask::{Mask, MaskError},
    recent::Recent,
    sink::Sink,
    writer::{Queue, Writer},
};
use crate::{
    clock::Now,
    config,
    context::Context,
    identity::{Peer, author::Person, lifetime::Lifetimes},
    policy::{Drawn, PolicySet, PolicyStore, input::Facts},
    state::Epoch,
    stream::End,
    telemetry::{
        metrics::{Compared, Metrics, RecordKind},
        trace::TraceIds,
    },
    verdict::{Class, Decision, Evidence, Level, Mode, Protocol, Reason, Sensitivity, SignalNames, Tier},
    workload::Workload,
};

/// What is left of the time to end for the last `gap` record to be written.
const AFTER_UPLOAD: Duration = Duration::from_secs(2);

/// Stack of the writer, which walks documents as deep as a parser lets them in.
const STACK: usize = 4 * 1024 * 1024;

/// Why records cannot be kept, or one was not.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the record sink cannot be opened")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error("the record writer, or the thread that makes what is uploaded, cannot be started")]
    Thread(#[source] io::Error),
    /// `commit` to a sink that cannot promise anything.
    #[error("the record sink cannot say when a record is on the disk")]
    NotDurable,
    #[error("too many records are waiting")]
    Full,
    /// The sink failed, now or less than a second ago.
    #[error("the record cannot be written")]
    Write,
    #[error("the record writer has stopped")]
    Stopped,
    /// At shutdown: records that the sink did not take.
    #[error("{lost} records were not written")]
    Unwritten { lost: u64 },
    #[error("the records were not written in time")]
    Timeout,
}

/// Sees each record once, on the thread of the writer: it must not wait.
pub type Observer = Box<dyn Fn(&Record) + Send>;

/// Who is told of records, besides the sink.
#[derive(Default)]
pub struct Copies {
    /// Sends them by OTLP.
    pub logs: Option<SdkLogger>,
    /// Keeps the latest decisions, where somebody may ask for them.
    pub recent: Option<Arc<Recent>>,
    pub observers: Vec<Observer>,
}

/// One record, before it is masked and written.
#[derive(Debug)]
pub struct Record {
    /// Version 7, the decision id of a decision.
    pub id: Uuid,
    pub at: Now,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    Decision(Arc<DecisionRecord>),
    Shadow(Box<ShadowRecord>),
    Policy(Box<PolicyRecord>),
    Control(Box<ControlRecord>),
    StreamEnd(Box<StreamEndRecord>),
    /// Written by the writer itself.
    Gap(Gap),
}

impl Record {
    /// What it holds on to while it waits, roughly, in bytes.
    fn weight(&self) -> usize {
        match &self.body {
            Body::Decision(decision) => decision.input.weight(),
            Body::Control(control) => control.request.as_ref().map_or(0, size),
            Body::Shadow(_) | Body::Policy(_) | Body::StreamEnd(_) | Body::Gap(_) => 0,
        }
    }
}

/// Of a document in memory: a message of many small parts is much larger there than on its way.
fn size(value: &serde_json::Value) -> usize {
    use serde_json::Value::{Array, Object, String};
    let within = match value {
        String(text) => text.len(),
        Array(elements) => elements.iter().map(size).sum(),
        Object(members) => members.iter().map(|(key, value)| size_of_val(key) + key.len() + size(value)).sum(),
        _ => 0,
    };
    size_of::<serde_json::Value>() + within
}

impl Body {
    const fn kind(&self) -> RecordKind {
        match self {
            Self::Decision(_) => RecordKind::Decision,
            Self::Shadow(_) => RecordKind::Shadow,
            Self::Policy(_) => RecordKind::Policy,
            Self::Control(_) => RecordKind::Control,
            Self::StreamEnd(_) => RecordKind::StreamEnd,
            Self::Gap(_) => RecordKind::Gap,
        }
    }
}

/// What a decision leaves: enough to decide again, and the answer.
#[derive(Debug, Clone)]
pub struct DecisionRecord {
    pub decision: Decision,
    /// False where the answer was let through in spite of the decision.
    pub enforced: bool,
    pub reason: Reason,
    /// The policy author's name for the rule that decided.
    pub rule: Option<String>,
    /// The policy's own text.
    pub policy_reason: Option<String>,
    /// What went wrong, for operators.
    pub detail: Option<String>,
    /// The policy's whole answer.
    pub result: Option<serde_json::Value>,
    /// What the policy got from `rand.intn` and the like, by function and arguments: with it the decision can be made
    /// again.
    pub drawn: Drawn,
    pub mode: Mode,
    pub protocol: Protocol,
    /// Address of the listener that was asked.
    pub listener: Arc<str>,
    pub peer: Option<PeerRecord>,
    pub principal: Option<Arc<str>>,
    /// Absent where the request was not even looked at.
    pub action: Option<ActionRecord>,
    /// What it came with, for those who see records and not in the line: the input has it.
    pub lifetimes: Lifetimes,
    pub input: KeptInput,
    /// Absent when no policy was in force.
    pub policy: Option<PolicyRef>,
    pub lease: Option<Duration>,
    pub latency: Duration,
    /// `x-request-id` of the request.
    pub request_id: Option<String>,
    /// The control state that the call was decided under.
    pub epoch: Option<Epoch>,
    /// What the call fell under.
    pub revocation: Option<Uuid>,
    /// What an allow relies on.
    pub grant: Option<Uuid>,
    pub trace: Option<TraceIds>,
}

/// What a call was to do, and how hard that was enforced: to search by. The rest stands in the input.
#[derive(Debug, Clone)]
pub struct ActionRecord {
    /// Of the catalogue's entry; none where the action is not known.
    pub name: Option<Arc<str>>,
    pub class: Class,
    pub tier: Tier,
    /// Whether something was done without that could not be had.
    pub degraded: bool,
    /// SHA-256 of the arguments, of what changes state.
    pub args_digest: Option<String>,
    pub risk: Option<Level>,
    /// Name of the session.
    pub session: Option<u64>,
    /// Of the catalogue's entry. This and what follows is for those who see records; their lines have it in the input.
    pub sensitivity: Option<Sensitivity>,
    /// The caller's entry in the registry, where it has one.
    pub workload: Option<Arc<Workload>>,
    /// A verified token names a task that was ended.
    pub task_ended: bool,
    /// What was noticed about the caller.
    pub signals: SignalNames,
    /// Why the risk is high, where it is.
    pub high_risk: Option<String>,
}

impl ActionRecord {
    pub fn new(context: &Context, session: Option<u64>) -> Self {
        let Context { action, tier, degraded, risk, workload, signals, .. } = context;
        let high = risk.as_ref().filter(|risk| risk.level == Level::High);
        Self {
            name: action.entry.as_ref().map(|entry| Arc::clone(&entry.name)),
            class: action.class(),
            tier: *tier,
            degraded: *degraded,
            args_digest: action.args_digest.clone(),
            risk: risk.as_ref().map(|risk| risk.level),
            session,
            sensitivity: action.entry.as_ref().map(|entry| entry.sensitivity),
            workload: workload.iter().flatten().next().cloned(),
            task_ended: context.task_ended,
            signals: signals.iter().map(|signal| signal.name).collect(),
            high_risk: high.map(|risk| risk.reasons.join(", ")),
        }
    }
}

/// The input, masked: the JSON of the whole document.
#[derive(Debug, Clone, Default)]
pub enum KeptInput {
    /// There was none, or nobody keeps records.
    #[default]
    Absent,
    Json(Vec<u8>),
    /// It could not be masked, so it is not kept.
    MaskFailed,
}

impl KeptInput {
    fn made_by(mask: impl FnOnce() -> Vec<u8>) -> Self {
        catch_unwind(AssertUnwindSafe(mask)).map_or(Self::MaskFailed, Self::Json)
    }

    const fn weight(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Absent | Self::MaskFailed => 0,
        }
    }
}

/// The calling workload, as proved.
#[derive(Debug, Clone)]
pub struct PeerRecord {
    pub spiffe_id: Arc<str>,
    pub evidence: Evidence,
    /// Of the certificate, in hex.
    pub sha256: Option<Arc<str>>,
}

impl From<&Peer> for PeerRecord {
    fn from(peer: &Peer) -> Self {
        let sha256 = peer.x509.as_ref().map(|x509| Arc::clone(&x509.sha256));
        Self { spiffe_id: Arc::clone(&peer.text), evidence: peer.evidence, sha256 }
    }
}

/// Which policy decided.
#[derive(Debug, Clone)]
pub struct PolicyRef {
    /// The rule that decides, as a path below `data`.
    pub path: Arc<str>,
    pub revision: Option<Arc<str>>,
    /// Revision by name of the bundles that have both.
    pub bundles: Arc<BTreeMap<String, String>>,
    /// SHA-256 of all sources and data, in hex.
    pub digest: Arc<str>,
}

impl PolicyRef {
    /// The set, asked by the rule at `path`.
    pub fn new(policy: &PolicySet, path: Arc<str>) -> Self {
        let (revision, digest) = (Some(Arc::clone(policy.revision())), Arc::clone(policy.digest()));
        Self { path, revision, bundles: Arc::clone(policy.revisions()), digest }
    }
}

/// A second policy set said otherwise than the one in force.
#[derive(Debug)]
pub struct ShadowRecord {
    /// The decision that was made, whose record has the input.
    pub decision_id: Uuid,
    pub difference: Compared,
    pub in_force: ShadowAnswer,
    pub shadow: ShadowAnswer,
}

/// What one of two policy sets said.
#[derive(Debug)]
pub struct ShadowAnswer {
    pub decision: Decision,
    pub reason: Reason,
    /// The policy author's name for the rule that decided.
    pub rule: Option<String>,
    /// The policy's own text.
    pub policy_reason: Option<String>,
    /// What went wrong, for operators.
    pub detail: Option<String>,
    /// The policy's whole answer.
    pub result: Option<serde_json::Value>,
    pub policy: PolicyRef,
}

/// A policy set was put in force, or refused while the former one stayed.
#[derive(Debug)]
pub struct PolicyRecord {
    pub outcome: PolicyOutcome,
    /// The set that was put in force, or the one that stayed.
    pub policy: Option<PolicyRef>,
    /// Why the set was refused.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyOutcome {
    Loaded,
    Refused,
}

impl PolicyOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Refused => "refused",
        }
    }
}

/// Somebody called our own API, or tried to.
#[derive(Debug)]
pub struct ControlRecord {
    /// `doorward.v1.SessionService/End`; absent where the caller was turned away before it could say.
    pub method: Option<String>,
    pub caller: Caller,
    /// What was asked for, unmasked; absent where it could not be read.
    pub request: Option<serde_json::Value>,
    /// Whether the caller was let do it.
    pub decision: Decision,
    /// The status that the call ended with, or for a stream began with, by its gRPC name.
    pub outcome: &'static str,
    /// Why not.
    pub detail: Option<String>,
}

/// A live stream is over, or is no longer held. Its bytes are not known: none of them passes here.
#[derive(Debug)]
pub struct StreamEndRecord {
    /// The decision that it rested on.
    pub decision_id: Uuid,
    pub end: End,
    /// False where it went on in spite of that.
    pub enforced: bool,
    pub peer: Option<PeerRecord>,
    pub principal: Option<Arc<str>>,
    /// Name of the session.
    pub session: Option<u64>,
    /// How long it was held.
    pub lasted: Duration,
}

/// Who called our own API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    #[serde(flatten)]
    pub from: Origin,
    /// Who it is, by a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
}

/// What the connection of a caller tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Origin {
    /// A process on this host, as the kernel knows it.
    Process {
        uid: u32,
        gid: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    Workload {
        spiffe_id: Arc<str>,
    },
    Unknown {},
}

/// How many records are missing since the last one that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gap {
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Lost to a sink that failed.
    pub failed: u64,
    /// Decisions that were recorded and not sent to the log service.
    pub not_uploaded: u64,
    /// Time of the first that is missing.
    pub since: Option<Now>,
}

impl Gap {
    /// Records that are missing.
    const fn count(&self) -> u64 {
        self.dropped + self.failed
    }

    const fn is_empty(&self) -> bool {
        self.count() == 0 && self.not_uploaded == 0
    }

    fn begin(&mut self, at: Now) {
        self.since.get_or_insert(at);
    }
}

/// Takes records; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    mask: Arc<Mask>,
    durable: bool,
    /// Whether anybody keeps inputs at all.
    keeps: bool,
}

impl Recorder {
    /// Opens the sink and starts the writer. `instance` names this start of this process. What is uploaded is masked by the
    /// policy that `policies` has in force.
    pub fn start(
        config: &config::Records,
        instance: &str,
        metrics: Arc<Metrics>,
        policies: &Arc<PolicyStore>,
        copies: Copies,
    ) -> Result<(Self, Handle), RecordError> {
        let mask = Arc::new(Mask::new(&config.mask)?);
        let keeps = config.sink != config::Sink::Off || config.upload.is_some() || copies.recent.is_some();
        let sink = Sink::open(&config.sink).map_err(RecordError::Open)?;
        let durable = sink.is_durable();
        if config.write == config::RecordWrite::Commit && !durable {
            return Err(RecordError::NotDurable);
        }
        let queue = Arc::new(Queue::new(config.queue));
        let start = |upload| {
            let (mask, policies, queue) = (Arc::clone(&mask), Arc::clone(policies), Arc::clone(&queue));
            Outbox::start(upload, instance, mask, policies, queue, Arc::clone(&metrics))
        };
        let outbox = config.upload.as_ref().map(start).transpose().map_err(RecordError::Thread)?;
        let writer = Writer::new(writer::Parts {
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&metrics),
            sink,
            mask: Arc::clone(&mask),
            instance: instance.to_owned(),
            outbox: outbox.clone(),
            copies,
        });
        let (done, finished) = oneshot::channel();
        std::thread::Builder::new()
            .name("records".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // The handle may be gone; then nobody asks.
                let _ = done.send(writer.run());
            })
            .map_err(RecordError::Thread)?;
        Ok((Self { queue: Arc::clone(&queue), metrics, mask, durable, keeps }, Handle { queue, outbox, finished }))
    }

    /// The input as a record keeps it. `certificate` is the SHA-256 of the peer's certificate, where it is known. A mask
    /// that fails, or panics, drops the input and never the record.
    pub fn keep(&self, facts: &Facts<'_>, certificate: Option<&str>) -> KeptInput {
        match self.keeps {
            true => KeptInput::made_by(|| facts.masked(&self.mask.replacer(certificate))),
            false => KeptInput::Absent,
        }
    }

    /// Hands a record over without waiting. When the queue is full the record is dropped and counted, and a `gap`
    /// record tells of it later.
    pub fn offer(&self, record: Record) {
        self.queue.offer(record, &self.metrics);
    }

    /// Records that wait for the writer.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns when the record is on the disk, together with all that waited beside it. A caller that stops waiting
    /// withdraws its record, as far as it is not being written yet, because it then answers otherwise.
    pub async fn commit(&self, record: Record) -> Result<(), RecordError> {
        if !self.durable {
            return Err(RecordError::NotDurable);
        }
        let (reply, written) = oneshot::channel();
        self.queue.commit(record, reply, &self.metrics)?;
        written.await.unwrap_or(Err(RecordError::Stopped))
    }
}

/// Stops the writer.
#[derive(Debug)]
#[must_use = "records that wait are written at shutdown"]
pub struct Handle {
    queue: Arc<Queue>,
    outbox: Option<Arc<Outbox>>,
    finished: oneshot::Receiver<u64>,
}

impl Handle {
    /// What waits to be sent to a log service, where there is one.
    pub const fn outbox(&self) -> Option<&Arc<Outbox>> {
        self.outbox.as_ref()
    }

    /// Refuses further records, writes those that wait and syncs the sink, then waits for the last of them to be uploaded,
    /// all in `timeout`.
    pub async fn shutdown(self, timeout: Duration) -> Result<(), RecordError> {
        if let Some(outbox) = &self.outbox {
            outbox.end_by(Instant::now() + timeout.saturating_sub(AFTER_UPLOAD));
        }
        self.queue.close();
        match tokio::time::timeout(timeout, self.finished).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(lost)) => Err(RecordError::Unwritten { lost }),
            Ok(Err(_)) => Err(RecordError::Stopped),
            Err(_) => Err(RecordError::Timeout),
        }
    }
}

#[cfg(test)]
pub mod tests;
