//! Consecutive behaviour of one principal: the labels it has acquired, the path of its actions, and how often it did
//! each. Labels and counts live at the principal too, so that a new token or certificate sheds nothing.
//!
//! An intent is appended *before* the policy is asked, and only an enforced denial takes it back, once its record has
//! been handed over: of two racing actions that forbid each other's labels, at most one passes.

use std::sync::Arc;

use crate::{
    clock::Now,
    verdict::{Class, Decision, SignalName},
};

/// What a session is told apart by, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `txn` of a verified transaction token, with its issuer.
    Transaction,
    /// The task that a verified claim or a grant names.
    Task,
    /// `sid` or run id of a verified token, with its issuer.
    Run,
    /// SHA-256 of the peer's certificate.
    Certificate,
    /// Nothing: all the principal does.
    Ambient,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "txn",
            Self::Task => "task",
            Self::Run => "run",
            Self::Certificate => "certificate",
            Self::Ambient => "ambient",
        }
    }

    /// Whether somebody other than the caller vouches for where it begins and ends.
    pub const fn is_vouched(self) -> bool {
        matches!(self, Self::Transaction | Self::Task | Self::Run)
    }
}

/// Which session of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub source: Source,
    /// Empty for an ambient session.
    pub id: Arc<str>,
}

/// What policy sees of a session, the call's own intent left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Stable name of the session for people and the control API.
    pub id: String,
    pub source: &'static str,
    pub age_s: u64,
    /// Number of this call's intent in the session.
    pub seq: u64,
    /// Whether nothing can be missing from it.
    pub complete: bool,
    /// Of the session alone.
    pub session: Part,
    /// Of all that the principal did.
    pub principal: Part,
}

/// Labels, counts and path, of a session or of its principal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// In the order of the alphabet.
    pub labels: Vec<Arc<str>>,
    pub counts: Vec<(Arc<str>, Count)>,
    /// The oldest first.
    pub path: Vec<Past>,
}

/// How often an action was done within a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub n: u64,
    pub first: Now,
    pub last: Now,
}

/// One action of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub n: u64,
    pub action: Arc<str>,
    pub class: Class,
    pub resource_hash: u64,
    pub at: Now,
    /// Absent while nobody has decided.
    pub decision: Option<Decision>,
}

/// What is known of a caller's behaviour before its call is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Glance {
    /// Whether the principal was known before and never did this action within a day.
    pub first_use: bool,
    /// Denials one after the other, up to now.
    pub denials: u32,
    /// Calls in the running window.
    pub calls: u32,
    /// What of environment, zone and issuer has changed since the session began.
    pub changed: Vec<SignalName>,
}
