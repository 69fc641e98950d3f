//! What grants leave in the control log. What stands in a log is read for ever: add to it, and change nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};
use uuid::Uuid;

use super::{Approval, Asked, Closed, Denied, Fate, Grant, Scope};
use crate::{
    clock::Now,
    identity::author::{Author, Person},
};

pub(super) const REQUEST: &str = "grant_request";
pub(super) const APPROVE: &str = "grant_approve";
pub(super) const CLOSE: &str = "grant_close";
pub(super) const USE: &str = "grant_use";
pub(super) const TASK_END: &str = "task_end";

/// Somebody has asked.
#[serde_as]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requested {
    #[serde_as(as = "DisplayFromStr")]
    id: Uuid,
    subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    actions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resources: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_uses: Option<u32>,
    life_ns: u64,
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ticket: String,
    by: Author,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denied: Option<Denied>,
    needed: u32,
    at_ns: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    request_id: String,
}

impl Requested {
    pub(super) fn new(asked: &Asked, life: Duration, needed: u32, now: Now) -> Self {
        let Asked { request_id, subject, owner, scope, life: _, reason, ticket, by, denied } = asked.clone();
        let Scope { actions, resources, tenant, task, max_uses } = scope;
        let texts = |texts: Vec<std::sync::Arc<str>>| texts.iter().map(|text| (**text).to_owned()).collect();
        Self {
            id: Uuid::now_v7(),
            subject,
            owner,
            actions: texts(actions),
            resources: texts(resources),
            tenant: tenant.map(|text| (*text).to_owned()),
            task: task.map(|text| (*text).to_owned()),
            max_uses,
            life_ns: u64::try_from(life.as_nanos()).unwrap_or(u64::MAX),
            reason,
            ticket,
            by,
            denied,
            needed,
            at_ns: now.ns,
            request_id,
        }
    }

    pub(super) const fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    pub(super) fn grant(self, rev: u64) -> Grant {
        let Self { id, subject, owner, actions, resources, tenant, task, max_uses, life_ns, .. } = self;
        let Self { reason, ticket, by, denied, needed, at_ns, request_id, .. } = self;
        let texts = |texts: Vec<String>| texts.into_iter().map(Into::into).collect();
        let scope = Scope {
            actions: texts(actions),
            resources: texts(resources),
            tenant: tenant.map(Into::into),
            task: task.map(Into::into),
            max_uses,
        };
        Grant {
            id,
            rev,
            subject: subject.into(),
            owner,
            scope,
            life: Duration::from_nanos(life_ns),
            reason,
            ticket,
            requested_by: by,
            denied,
            at: Now { ns: at_ns },
            request_id,
            needed,
            approvals: Vec::new(),
            fate: Fate::Open,
            used: std::sync::Arc::default(),
        }
    }
}

/// A person has approved, and `until_ns` is there where nothing more is needed.
#[serde_as]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approve {
    #[serde_as(as = "DisplayFromStr")]
    pub(super) grant: Uuid,
    by: Person,
    pub(super) at_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ns: Option<u64>,
}

impl Approve {
    pub(super) fn new(grant: Uuid, by: &Person, until: Option<Now>, now: Now) -> Self {
        Self { grant, by: by.clone(), at_ns: now.ns, until_ns: until.map(|until| until.ns) }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    pub(super) fn apply(self, grant: &mut Grant) {
        let Self { grant: _, by, at_ns, until_ns } = self;
        grant.approvals.push(Approval { by, at: Now { ns: at_ns } });
        if let Some(until) = until_ns {
            grant.fate = Fate::Granted { until: Now { ns: until } };
        }
    }
}

/// Somebody has denied a request or ended a grant.
#[serde_as]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    #[serde_as(as = "DisplayFromStr")]
    pub(super) grant: Uuid,
    by: Author,
    pub(super) at_ns: u64,
    reason: String,
    denied: bool,
}

impl Close {
    pub(super) fn new(grant: Uuid, closed: &Closed, denied: bool) -> Self {
        let Closed { by, at, reason } = closed.clone();
        Self { grant, by, at_ns: at.ns, reason, denied }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    pub(super) fn apply(self, grant: &mut Grant) {
        let Self { grant: _, by, at_ns, reason, denied } = self;
        let closed = Closed { by, at: Now { ns: at_ns }, reason };
        grant.fate = if denied { Fate::Denied(closed) } else { Fate::Ended(closed) };
    }
}

/// A call was let through by it.
#[serde_as]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Use {
    #[serde_as(as = "DisplayFromStr")]
    pub(super) grant: Uuid,
    #[serde_as(as = "DisplayFromStr")]
    decision: Uuid,
    pub(super) at_ns: u64,
}

impl Use {
    pub(super) const fn new(grant: Uuid, decision: Uuid, now: Now) -> Self {
        Self { grant, decision, at_ns: now.ns }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }
}

/// A task is over, and all that was granted for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskEnd {
    pub(super) task: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    by: Author,
    pub(super) at_ns: u64,
    reason: String,
}

impl TaskEnd {
    pub(super) fn new(task: &str, subject: Option<&str>, closed: &Closed) -> Self {
        let Closed { by, at, reason } = closed.clone();
        Self { task: task.to_owned(), subject: subject.map(str::to_owned), by, at_ns: at.ns, reason }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    pub(super) fn closed(&self) -> Closed {
        Closed { by: self.by.clone(), at: Now { ns: self.at_ns }, reason: self.reason.clone() }
    }
}

fn bytes(entry: &impl Serialize) -> Vec<u8> {
    // Texts and numbers alone: there is nothing that could fail.
    serde_json::to_vec(entry).unwrap_or_default()
}
