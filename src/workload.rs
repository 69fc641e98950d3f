//! The registry of workloads (`data.doorward.workloads`): who owns a machine identity, what it is for, and what it may
//! do, by SPIFFE ID or pattern.

use std::sync::Arc;

use crate::verdict::{Class, Mode};

/// One entry of the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub owner: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
    pub purpose: Option<Arc<str>>,
    /// Where it may act; none of them named: everywhere.
    pub environments: Option<Vec<Arc<str>>>,
    pub third_party: bool,
    /// `active` unless the entry says otherwise.
    pub state: Arc<str>,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<i64>,
    pub allows: Vec<Allow>,
    pub schedule: Option<Schedule>,
    pub max_credential_lifetime_s: Option<i64>,
    pub max_credential_age_s: Option<i64>,
    /// Longest count of each action within a day.
    pub limits: Vec<(Arc<str>, u64)>,
    pub escalation: Option<Arc<str>>,
    /// `observe` lifts denials by policy, tier and risk.
    pub mode: Mode,
}

/// What a workload may do. Each of the lists that is there has to match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// Names of actions, or globs over them.
    pub actions: Vec<Arc<str>>,
    pub classes: Option<Vec<Class>>,
    pub resources: Option<Vec<Arc<str>>>,
    pub tenants: Option<Vec<Arc<str>>>,
    pub environments: Option<Vec<Arc<str>>>,
}

/// When a workload may act: `from` up to and without `to`, which may lie on the next day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// `HH:MM`.
    pub from: Arc<str>,
    pub to: Arc<str>,
    /// Name of the IANA database.
    pub zone: Arc<str>,
    /// Days that it begins on, by their English names; none named: all.
    pub days: Option<Vec<Arc<str>>>,
}
