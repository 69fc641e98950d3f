//! The line of a record: JSON with its members in a fixed order, at most 16 KiB. What is secret is decided in `mask`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::{
    ActionRecord, Body, Caller, ControlRecord, DecisionRecord, Gap, KeptInput, Mask, PeerRecord, PolicyRecord, PolicyRef, Record,
    ShadowAnswer, ShadowRecord, StreamEndRecord,
};
use crate::{clock::Now, policy::Drawn, state, verdict};

/// Longest line, its end included.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Longest texts that others wrote, in bytes. Six times their sum (a control byte becomes `\u0000`) fits in a line.
const MAX_NAME: usize = 256;
pub(super) const MAX_TEXT: usize = 512;
const MAX_ERROR: usize = 2048;

/// What is left out of the input, group by group, until a record is short enough.
pub(super) const EXPENDABLE: [&[&str]; 3] = [
    &["attributes.request.http.body", "attributes.request.http.rawBody"],
    &["parsed_body"],
    &["attributes.request.http.headers", "attributes.request.http.headerMap"],
];

/// Version of the envelope.
const VERSION: u8 = 1;

#[derive(Serialize)]
struct Envelope<'a, B> {
    v: u8,
    #[serde(serialize_with = "display")]
    id: Uuid,
    kind: &'static str,
    #[serde(serialize_with = "time")]
    at: Now,
    instance: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    body: B,
}

/// The control state that something was decided under.
#[derive(Serialize)]
struct Epoch {
    #[serde(serialize_with = "display")]
    log: Uuid,
    rev: u64,
}

#[derive(Serialize)]
struct DecisionBody<'a> {
    decision: verdict::Decision,
    enforced: bool,
    reason: verdict::Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Drawn::is_empty")]
    nd_builtin_cache: &'a Drawn,
    mode: verdict::Mode,
    protocol: verdict::Protocol,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_display")]
    revocation: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_display")]
    grant: Option<Uuid>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    input_truncated: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    input_error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u128>,
    latency_us: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

#[derive(Serialize)]
struct Peer<'a> {
    spiffe_id: &'a str,
    evidence: verdict::Evidence,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
}

#[derive(Serialize)]
struct Action<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    class: verdict::Class,
    tier: verdict::Tier,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    risk: Option<verdict::Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

#[derive(Serialize)]
struct Policy<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    digest: &'a str,
}

#[derive(Serialize)]
struct ShadowBody<'a> {
    #[serde(serialize_with = "display")]
    decision_id: Uuid,
    difference: &'static str,
    in_force: Said<'a>,
    shadow: Said<'a>,
}

#[derive(Serialize)]
struct Said<'a> {
    decision: verdict::Decision,
    reason: verdict::Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    policy: Policy<'a>,
}

#[derive(Serialize)]
struct PolicyBody<'a> {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ControlBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    caller: &'a Caller,
    decision: verdict::Decision,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Value>,
    /// It could not be masked, or is too long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    request_left_out: bool,
}

#[derive(Serialize)]
struct StreamEndBody<'a> {
    #[serde(serialize_with = "display")]
    decision_id: Uuid,
    reason: &'static str,
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    lasted_ms: u128,
}

#[derive(Serialize)]
struct GapBody {
    count: u64,
    dropped: u64,
    failed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    not_uploaded: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_time")]
    since: Option<Now>,
}

/// Makes lines for one start of one process.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) instance: String,
    pub(super) mask: Arc<Mask>,
}

impl Encoder {
    /// Appends the line of a record; false, and nothing appended, when it has no JSON form at all.
    pub(super) fn line(&self, record: &Record, seq: u64, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let written = match &record.body {
            Body::Decision(decision) => self.decision(record, decision, seq, out),
            Body::Shadow(shadow) => self.shadow(record, shadow, seq, out),
            Body::Policy(policy) => self.write(record, seq, policy_body(policy), out),
            Body::Control(control) => self.control(record, control, seq, out),
            Body::StreamEnd(end) => self.write(record, seq, stream_end_body(end), out),
            Body::Gap(gap) => self.write(record, seq, gap_body(gap), out),
        };
        if written {
            out.push(b'\n');
        } else {
            out.truncate(start);
        }
        written
    }

    /// The line of a decision. A mask that fails, or panics, drops what it was to mask and never the record.
    fn decision(&self, record: &Record, decision: &DecisionRecord, seq: u64, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let result = catch_unwind(AssertUnwindSafe(|| {
            decision.result.clone().map(|mut result| {
                self.mask.json(&mut result);
                result
            })
        }));
        let failed = (result.is_err() || matches!(decision.input, KeptInput::MaskFailed)).then_some("mask_failed");
        let result = result.unwrap_or_default();
        let body = decision_body(decision, result.as_ref(), &[], failed);
        if !self.write(record, seq, body, out) {
            return false;
        }
        let KeptInput::Json(input) = &decision.input else {
            return fits(out, start) || self.without(record, decision, &["result"], seq, out, start);
        };
        append_input(out, input);
        if fits(out, start) {
            return true;
        }
        out.truncate(start);
        let shortened =
            serde_json::from_slice(input).is_ok_and(|whole| self.shortened(record, decision, result.as_ref(), seq, whole, out));
        shortened
            || {
                out.truncate(start);
                let body = decision_body(decision, result.as_ref(), &["input"], failed);
                self.write(record, seq, body, out) && fits(out, start)
            }
            || self.without(record, decision, &["input", "result"], seq, out, start)
    }

    /// The line of a shadow: without the results where they cannot be masked, or are too long.
    fn shadow(&self, record: &Record, shadow: &ShadowRecord, seq: u64, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let masked = |answer: &ShadowAnswer| {
            let mut result = answer.result.clone();
            result.iter_mut().for_each(|result| self.mask.json(result));
            result
        };
        let results = catch_unwind(AssertUnwindSafe(|| (masked(&shadow.in_force), masked(&shadow.shadow))));
        let (in_force, candidate) = results.unwrap_or_default();
        let written = self.write(record, seq, shadow_body(shadow, in_force, candidate), out);
        if written && fits(out, start) {
            return true;
        }
        out.truncate(start);
        self.write(record, seq, shadow_body(shadow, None, None), out) && fits(out, start)
    }

    /// The line of a call of our own API: without the request where it cannot be masked, or is too long.
    fn control(&self, record: &Record, control: &ControlRecord, seq: u64, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let masked = catch_unwind(AssertUnwindSafe(|| {
            control.request.clone().map(|mut request| {
                self.mask.json(&mut request);
                request
            })
        }));
        if let Ok(request) = masked
            && self.write(record, seq, control_body(control, request, false), out)
            && fits(out, start)
        {
            return true;
        }
        out.truncate(start);
        self.write(record, seq, control_body(control, None, true), out) && fits(out, start)
    }

    /// The line without what is too long in it.
    fn without(
        &self,
        record: &Record,
        decision: &DecisionRecord,
        truncated: &[&'static str],
        seq: u64,
        out: &mut Vec<u8>,
        start: usize,
    ) -> bool {
        out.truncate(start);
        self.write(record, seq, decision_body(decision, None, truncated, None), out) && fits(out, start)
    }

    /// With so much left out of `input`, already masked, that the line is short enough; false when nothing helps.
    fn shortened(
        &self,
        record: &Record,
        decision: &DecisionRecord,
        result: Option<&Value>,
        seq: u64,
        mut input: Value,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let mut truncated = Vec::new();
        for group in EXPENDABLE {
            truncated.extend(group.iter().copied().filter(|path| remove(&mut input, path)));
            let body = decision_body(decision, result, &truncated, None);
            if self.write(record, seq, body, out)
                && let Ok(input) = serde_json::to_vec(&input)
            {
                append_input(out, &input);
                if fits(out, start) {
                    return true;
                }
            }
            out.truncate(start);
        }
        false
    }

    fn write(&self, record: &Record, seq: u64, body: impl Serialize, out: &mut Vec<u8>) -> bool {
        let kind = record.body.kind().as_str();
        let epoch = match &record.body {
            Body::Decision(decision) => decision.epoch.map(|state::Epoch { log, rev }| Epoch { log, rev }),
            _ => None,
        };
        let envelope = Envelope { v: VERSION, id: record.id, kind, at: record.at, instance: &self.instance, seq, epoch, body };
        serde_json::to_writer(out, &envelope).is_ok()
    }
}

fn decision_body<'a>(
    decision: &'a DecisionRecord,
    result: Option<&'a Value>,
    input_truncated: &'a [&'static str],
    input_error: Option<&'static str>,
) -> DecisionBody<'a> {
    DecisionBody {
        decision: decision.decision,
        enforced: decision.enforced,
        reason: decision.reason,
        rule: cut(decision.rule.as_deref(), MAX_NAME),
        policy_reason: cut(decision.policy_reason.as_deref(), MAX_TEXT),
        detail: cut(decision.detail.as_deref(), MAX_TEXT),
        result,
        nd_builtin_cache: &decision.drawn,
        mode: decision.mode,
        protocol: decision.protocol,
        listener: &decision.listener,
        peer: decision.peer.as_ref().map(peer),
        principal: cut(decision.principal.as_deref(), MAX_TEXT),
        action: decision.action.as_ref().map(action),
        revocation: decision.revocation,
        grant: decision.grant,
        input_truncated,
        input_error,
        policy: decision.policy.as_ref().map(policy),
        lease_ms: decision.lease.map(|lease| lease.as_millis()),
        latency_us: decision.latency.as_micros(),
        request_id: cut(decision.request_id.as_deref(), MAX_NAME),
        trace_id: decision.trace.map(|ids| ids.trace.to_string()),
        span_id: decision.trace.map(|ids| ids.span.to_string()),
    }
}

fn peer(peer: &PeerRecord) -> Peer<'_> {
    Peer { spiffe_id: &peer.spiffe_id, evidence: peer.evidence, sha256: peer.sha256.as_deref() }
}

fn action(action: &ActionRecord) -> Action<'_> {
    let ActionRecord { name, class, tier, degraded, args_digest, risk, session, .. } = action;
    Action {
        name: cut(name.as_deref(), MAX_NAME),
        class: *class,
        tier: *tier,
        degraded: *degraded,
        args_digest: args_digest.as_deref(),
        risk: *risk,
        session: session.map(session_name),
    }
}

fn policy(policy: &PolicyRef) -> Policy<'_> {
    Policy { path: &policy.path, revision: cut(policy.revision.as_deref(), MAX_NAME), digest: &policy.digest }
}

fn shadow_body(record: &ShadowRecord, in_force: Option<Value>, shadow: Option<Value>) -> ShadowBody<'_> {
    ShadowBody {
        decision_id: record.decision_id,
        difference: record.difference.as_str(),
        in_force: said(&record.in_force, in_force),
        shadow: said(&record.shadow, shadow),
    }
}

fn said(answer: &ShadowAnswer, result: Option<Value>) -> Said<'_> {
    Said {
        decision: answer.decision,
        reason: answer.reason,
        rule: cut(answer.rule.as_deref(), MAX_NAME),
        policy_reason: cut(answer.policy_reason.as_deref(), MAX_TEXT),
        detail: cut(answer.detail.as_deref(), MAX_TEXT),
        result,
        policy: policy(&answer.policy),
    }
}

fn policy_body(record: &PolicyRecord) -> PolicyBody<'_> {
    PolicyBody {
        outcome: record.outcome.as_str(),
        policy: record.policy.as_ref().map(policy),
        error: cut(record.error.as_deref(), MAX_ERROR),
    }
}

fn control_body(control: &ControlRecord, request: Option<Value>, request_left_out: bool) -> ControlBody<'_> {
    ControlBody {
        method: cut(control.method.as_deref(), MAX_NAME),
        caller: &control.caller,
        decision: control.decision,
        outcome: control.outcome,
        detail: cut(control.detail.as_deref(), MAX_TEXT),
        request,
        request_left_out,
    }
}

fn stream_end_body(record: &StreamEndRecord) -> StreamEndBody<'_> {
    let StreamEndRecord { decision_id, end, enforced, peer: held, principal, session, lasted } = record;
    StreamEndBody {
        decision_id: *decision_id,
        reason: end.as_str(),
        enforced: *enforced,
        peer: held.as_ref().map(peer),
        principal: cut(principal.as_deref(), MAX_TEXT),
        session: session.map(session_name),
        lasted_ms: lasted.as_millis(),
    }
}

fn session_name(id: u64) -> String {
    format!("{id:016x}")
}

/// Puts the input, which is JSON already, as the last member into the body that `out` ends with.
fn append_input(out: &mut Vec<u8>, input: &[u8]) {
    out.truncate(out.len().saturating_sub(b"}}".len()));
    out.extend_from_slice(b",\"input\":");
    out.extend_from_slice(input);
    out.extend_from_slice(b"}}");
}

const fn gap_body(gap: &Gap) -> GapBody {
    GapBody { count: gap.count(), dropped: gap.dropped, failed: gap.failed, not_uploaded: gap.not_uploaded, since: gap.since }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Room is left for the line's end.
const fn fits(out: &[u8], start: usize) -> bool {
    out.len() - start < MAX_LINE
}

pub(super) fn cut(text: Option<&str>, max: usize) -> Option<&str> {
    text.and_then(|text| text.get(..text.floor_char_boundary(max)))
}

/// Takes the member at a dotted path out of a document; true when it was there.
pub(super) fn remove(document: &mut Value, path: &str) -> bool {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.split('.').filter(|name| !name.is_empty()).try_fold(document, |value, name| value.get_mut(name));
    parent.and_then(Value::as_object_mut).is_some_and(|members| members.remove(last).is_some())
}

fn display<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn some_display<S: Serializer>(value: &Option<Uuid>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| value.to_string()).serialize(serializer)
}

fn time<S: Serializer>(at: &Now, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.rfc3339())
}

fn some_time<S: Serializer>(at: &Option<Now>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(Now::rfc3339).serialize(serializer)
}
