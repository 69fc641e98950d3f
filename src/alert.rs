//! Which finished records become alerts: denials of critical actions, high risk, callers nobody answers for, and what was
//! revoked. `table` folds what repeats into one alert and knows when it is over, `message` is what Alertmanager is told.
//! Sending it is the work of `app`.

mod message;
mod table;

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::{
    message::Wording,
    table::{Limits, Receipt, Table, Taken},
};
use crate::{
    clock::Now,
    config::{self, AlertRule},
    policy::PolicyStore,
    record::{Body, ControlRecord, DecisionRecord, Observer, Record},
    revocation::DEFAULT_LIFE,
    telemetry::metrics::{Alert, Metrics},
    verdict::{Decision, Level, Reason, Sensitivity, SignalName},
    workload::Workload,
};

/// What has happened and nobody has looked at yet; the next one is dropped.
pub const QUEUE: usize = 1024;

/// Longest text of a label, and of what an annotation quotes, in bytes.
const MAX_LABEL: usize = 512;
const MAX_QUOTE: usize = 1024;

/// The method whose calls revoke, and what a call is told that went well.
const REVOKE: &str = "doorward.v1.RevocationService/Revoke";
const OK: &str = "OK";

/// Use that is overdue, by what is noticed about the caller.
const OVERDUE: [SignalName; 3] = [SignalName::RegistrationEnded, SignalName::CredentialAge, SignalName::CredentialLifetime];

/// What an alert is about, and told apart from others by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    what: What,
    /// Who did it, or whom it concerns.
    principal: Option<Arc<str>>,
    /// By the registry.
    owner: Option<Arc<str>>,
    escalation: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    CriticalDenial {
        action: Arc<str>,
        enforced: bool,
    },
    HighRisk,
    Unregistered,
    Unowned,
    Overdue,
    /// Kind of the selector, and what it selects.
    Revocation(Arc<str>),
    RevokedUse {
        enforced: bool,
    },
    /// There are more alerts than may be.
    TooMany,
}

/// Something that makes an alert, or makes one last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    key: Key,
    at: Now,
    /// Of the record.
    id: Uuid,
    /// Of the latest occurrence, for people.
    detail: Cow<'static, str>,
    /// How long the alert lasts by this alone, where that is not the same for all.
    life: Option<Duration>,
}

/// Turns records into occurrences.
#[derive(Debug, Clone)]
pub struct Rules {
    except: Vec<AlertRule>,
    /// How long a revocation is an alert.
    revocation: Duration,
}

impl Rules {
    pub fn new(config: &config::Alerts) -> Self {
        Self { except: config.except.clone(), revocation: config.revocation.duration() }
    }

    /// Sees every record on the thread of the writer, and hands on what matters; what finds no room is counted.
    pub fn observer(self, policies: Arc<PolicyStore>, queue: mpsc::Sender<Occurrence>, metrics: Arc<Metrics>) -> Observer {
        Box::new(move |record| {
            let registered = |id: &str| policies.current()?.documents().registry.find(id).cloned();
            self.see(record, registered, &mut |occurrence| {
                if queue.try_send(occurrence).is_err() {
                    metrics.alerted(Alert::Dropped, 1);
                }
            });
        })
    }

    /// Tells what of a record matters; `registered` is asked for the entry of who was revoked.
    fn see(&self, record: &Record, registered: impl Fn(&str) -> Option<Arc<Workload>>, tell: &mut dyn FnMut(Occurrence)) {
        let (at, id) = (record.at, record.id);
        match &record.body {
            Body::Decision(decision) => {
                self.decided(decision, &mut |key, detail| tell(Occurrence { key, at, id, detail, life: None }))
            }
            Body::Control(control) if self.has(AlertRule::Revocation) => {
                if let Some((key, detail, lifetime)) = revoked(control, registered) {
                    tell(Occurrence { key, at, id, detail, life: Some(lifetime.min(self.revocation)) });
                }
            }
            Body::Control(_) | Body::Shadow(_) | Body::Policy(_) | Body::StreamEnd(_) | Body::Gap(_) => {}
        }
    }

    fn decided(&self, decision: &DecisionRecord, tell: &mut dyn FnMut(Key, Cow<'static, str>)) {
        let DecisionRecord { reason, enforced, action, .. } = decision;
        let refused = decision.decision == Decision::Deny;
        let workload = action.as_ref().and_then(|action| action.workload.as_deref());
        let mut found = |what, detail| tell(Key::of(what, decision.principal.as_ref(), workload), detail);
        if refused && *reason == Reason::Revoked && self.has(AlertRule::RevokedUse) {
            let detail = decision.revocation.map_or_else(String::new, |id| id.to_string());
            found(What::RevokedUse { enforced: *enforced }, detail.into());
        }
        let Some(action) = action else { return };
        if refused
            && action.sensitivity == Some(Sensitivity::Critical)
            && let Some(name) = &action.name
            && self.has(AlertRule::CriticalDenial)
        {
            found(What::CriticalDenial { action: bounded(name), enforced: *enforced }, reason.as_str().into());
        }
        if action.risk == Some(Level::High) && self.has(AlertRule::HighRisk) {
            found(What::HighRisk, action.high_risk.clone().unwrap_or_default().into());
        }
        for (signal, rule, what) in [
            (SignalName::Unregistered, AlertRule::Unregistered, What::Unregistered),
            (SignalName::Unowned, AlertRule::Unowned, What::Unowned),
        ] {
            if action.signals.contains(signal) && self.has(rule) {
                found(what, signal.as_str().into());
            }
        }
        if let Some(signal) = OVERDUE.iter().find(|signal| action.signals.contains(**signal))
            && self.has(AlertRule::Overdue)
        {
            found(What::Overdue, signal.as_str().into());
        }
    }

    fn has(&self, rule: AlertRule) -> bool {
        !self.except.contains(&rule)
    }
}

impl Key {
    fn of(what: What, principal: Option<&Arc<str>>, workload: Option<&Workload>) -> Self {
        let of_entry = |member: fn(&Workload) -> &Option<Arc<str>>| workload.and_then(|workload| member(workload).as_ref());
        Self {
            what,
            principal: principal.map(bounded),
            owner: of_entry(|workload| &workload.owner).map(bounded),
            escalation: of_entry(|workload| &workload.escalation).map(bounded),
        }
    }
}

/// The revocation that a call of our own API made: what it is about, what came of it, and how long it counts.
fn revoked(
    control: &ControlRecord,
    registered: impl Fn(&str) -> Option<Arc<Workload>>,
) -> Option<(Key, Cow<'static, str>, Duration)> {
    let ControlRecord { method, request, decision, outcome, detail, .. } = control;
    if method.as_deref() != Some(REVOKE) || *decision != Decision::Allow || *outcome != OK {
        return None;
    }
    let request = request.as_ref()?;
    let (kind, selected) = request["selector"].as_object()?.iter().next()?;
    let selected = text(selected);
    let principal: Option<Arc<str>> = (kind == "spiffe_id").then(|| selected.as_str().into());
    let workload = principal.as_deref().and_then(registered);
    let what = What::Revocation(bounded(&format!("{kind} {selected}").into()));
    let mut key = Key::of(what, principal.as_ref(), workload.as_deref());
    if kind == "owner" {
        key.owner = Some(bounded(&selected.into()));
    }
    let lifetime = request["lifetime"].as_str().and_then(|text| text.strip_suffix('s')?.parse().ok());
    let lifetime = lifetime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(DEFAULT_LIFE);
    Some((key, quoted(detail.as_deref().unwrap_or_default()).to_owned().into(), lifetime))
}

/// A selector in words: a text, or the members of an object one after the other.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) => members.values().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// As it is, or as much of it as a label holds.
fn bounded(text: &Arc<str>) -> Arc<str> {
    match text.len() {
        0..=MAX_LABEL => Arc::clone(text),
        _ => cut(text, MAX_LABEL).into(),
    }
}

fn quoted(text: &str) -> &str {
    cut(text, MAX_QUOTE)
}

fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
