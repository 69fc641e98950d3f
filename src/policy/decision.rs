//! What the decision rule said: its JSON value read into a typed [`Answer`], or refused by name, and the [`Outcome`] of
//! a call that the answer becomes part of. How an outcome is put to Envoy is `envoy/encode`.
//!
//! The contract is opa-envoy-plugin's (facts A.4) with optional fields of our own: `reason`, `rule`, `lease_s`,
//! `scope`, `labels`, `end_session`, `grant` and `requestable`.
//! Unknown fields are ignored. Fields that only an allow uses are not looked at on a denial, and the other way round.

mod fields;

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use uuid::Uuid;

use self::fields::{ENTRIES, Fields, kind};
use crate::{
    config::Compat,
    grant::request_token::RequestToken,
    verdict::{Decision, Mode, Reason},
};

/// Deepest nesting of `dynamic_metadata`, the object itself counted. A level costs three protobuf messages on the wire,
/// and Envoy refuses a response of more than 100: as an error, which `failure_mode_allow` would turn into an allow.
pub const METADATA_DEPTH: usize = 30;

/// What the decision rule said. Every field but `decision` may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub decision: Decision,
    /// `headers`: request headers for the upstream on an allow, response headers for the client on a denial. Values of
    /// one name stand in the policy's order.
    pub headers: Vec<Header>,
    /// `response_headers_to_add`, allow only: for the client.
    pub response_headers: Vec<Header>,
    /// `request_headers_to_remove`, allow only.
    pub remove_headers: Vec<String>,
    /// `query_parameters_to_set`, allow only: key and value as the policy gave them, one entry a value.
    pub query_set: Vec<(String, String)>,
    /// `query_parameters_to_remove`, allow only.
    pub query_remove: Vec<String>,
    /// `body`, deny only.
    pub body: Option<String>,
    /// `http_status`, deny only: a status that Envoy can send.
    pub status: Option<u16>,
    /// `scope`, deny only: what a token would have to be good for.
    pub scope: Option<String>,
    /// `dynamic_metadata`, at most [`METADATA_DEPTH`] deep.
    pub metadata: Map<String, Value>,
    /// `reason`: for the record and, by setting, the caller.
    pub reason: Option<String>,
    /// `rule`: the author's name for what decided.
    pub rule: Option<String>,
    /// `lease_s`, allow only: how long a stream may live. At least a millisecond.
    pub lease: Option<Duration>,
    /// `labels`: what the session acquires once the call is answered. Not free of races: the catalogue's `adds` is.
    pub labels: Vec<Arc<str>>,
    /// `end_session`: nothing more is taken in this session.
    pub end_session: bool,
    /// `grant`, allow only: id of the grant that the policy relies on.
    pub grant: Option<Uuid>,
    /// `requestable`, deny only: a grant may be asked for.
    pub requestable: bool,
    /// What is carried out otherwise than the author may expect.
    pub warnings: Vec<Warning>,
}

impl Answer {
    /// The answer of a boolean decision.
    pub fn new(decision: Decision) -> Self {
        Self {
            decision,
            headers: Vec::new(),
            response_headers: Vec::new(),
            remove_headers: Vec::new(),
            query_set: Vec::new(),
            query_remove: Vec::new(),
            body: None,
            status: None,
            scope: None,
            metadata: Map::new(),
            reason: None,
            rule: None,
            lease: None,
            labels: Vec::new(),
            end_session: false,
            grant: None,
            requestable: false,
            warnings: Vec::new(),
        }
    }
}

/// One header line, the name spelled as the policy spells it. Neither part has CR, LF or NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: String,
}

/// A part of an answer that Envoy will not carry out as written. It changes no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Envoy never removes pseudo-headers or `host`; the entry was dropped.
    Unremovable { name: String },
    /// Envoy removes after it sets, so the header will be gone.
    SetAndRemoved { name: String },
    /// Envoy overwrites a query parameter with each value, so the last one stays.
    QueryValues { key: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unremovable { name } => write!(f, "header `{name}` cannot be removed"),
            Self::SetAndRemoved { name } => write!(f, "header `{name}` is both set and removed: it will be removed"),
            Self::QueryValues { key } => write!(f, "query parameter `{key}` has several values: only the last is kept"),
        }
    }
}

/// Why the value of the decision rule cannot be carried out. Names in it are escaped, so the text is safe to log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("undefined decision")]
    Undefined,
    #[error("decision is {found}, not a boolean or an object")]
    NotADecision { found: &'static str },
    /// The same under compat, in the plugin's words.
    #[error("failed to get response status: illegal value for policy evaluation result: {go_type}")]
    IllegalValue { go_type: &'static str },
    #[error("field `allowed` is missing")]
    NoAllowed,
    #[error("field `allowed` is {found}, not a boolean")]
    AllowedType { found: &'static str },
    #[error("field `{field}` is {found}, not {wanted}")]
    FieldType { field: &'static str, found: &'static str, wanted: &'static str },
    #[error("field `{field}`: a value of `{name}` is {found}, not a string")]
    ValueType { field: &'static str, name: String, found: &'static str },
    #[error("field `http_status`: `{status}` is no status that can be sent")]
    Status { status: String },
    /// A field of our own with a wrong type or value.
    #[error("field `{field}` is not {wanted}")]
    OwnField { field: &'static str, wanted: &'static str },
    #[error("field `{field}`: `{name}` is no header name")]
    HeaderName { field: &'static str, name: String },
    #[error("field `{field}`: header `{name}` may not be set")]
    ReservedHeader { field: &'static str, name: String },
    #[error("field `{field}`: the value of `{name}` has a control character")]
    ControlCharacter { field: &'static str, name: String },
    #[error("field `{field}` has more than {ENTRIES} entries")]
    TooMany { field: &'static str },
    #[error("field `dynamic_metadata` is nested deeper than {METADATA_DEPTH} levels")]
    MetadataDepth,
    #[error("field `dynamic_metadata` has a number that is too large")]
    MetadataNumber,
}

impl Refusal {
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Undefined => Reason::UndefinedDecision,
            Self::NotADecision { .. } | Self::IllegalValue { .. } | Self::NoAllowed | Self::AllowedType { .. } => {
                Reason::InvalidDecision
            }
            _ => Reason::InvalidResult,
        }
    }

    /// Whether opa-envoy-plugin answers a gRPC error here (facts D 40-43, 47, 49, 51). What only we refuse, such as a
    /// line break in a header, stays a denial even under compat: the bytes may be the client's.
    const fn fails_in_plugin(&self) -> bool {
        match self {
            Self::Undefined
            | Self::NotADecision { .. }
            | Self::IllegalValue { .. }
            | Self::NoAllowed
            | Self::AllowedType { .. }
            | Self::FieldType { .. }
            | Self::ValueType { .. }
            | Self::Status { .. } => true,
            Self::OwnField { .. }
            | Self::HeaderName { .. }
            | Self::ReservedHeader { .. }
            | Self::ControlCharacter { .. }
            | Self::TooMany { .. }
            | Self::MetadataDepth
            | Self::MetadataNumber => false,
        }
    }
}

/// How a call was decided: what the authorizer returns, the record keeps and the encoder answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The decision id, also the id of the record.
    pub id: Uuid,
    pub decision: Decision,
    pub mode: Mode,
    pub reason: Reason,
    /// For the record and the log; never sent to the caller, except the text of a request that cannot be parsed.
    pub detail: Option<String>,
    /// Absent when no policy was asked, or its answer was refused. It may say allow under a denial, when something after
    /// the policy denied: use [`Outcome::carried`].
    pub answer: Option<Answer>,
    /// The shortest of all leases, on an allow.
    pub lease: Option<Duration>,
    /// What a grant may be asked for with, on a denial.
    pub request: Option<Box<RequestToken>>,
    /// opa-envoy-plugin answers this failure with a gRPC error; heeded only under compat, in `enforce`.
    pub fails_in_plugin: bool,
}

impl Outcome {
    /// The policy's answer as it stands. `lease` is what bounds an allow beside the policy, such as the credential.
    pub fn answered(id: Uuid, mode: Mode, answer: Answer, lease: Option<Duration>) -> Self {
        let lease = match answer.decision {
            Decision::Allow => [lease, answer.lease].into_iter().flatten().min(),
            Decision::Deny => None,
        };
        Self {
            id,
            decision: answer.decision,
            mode,
            reason: Reason::Policy,
            detail: None,
            answer: Some(answer),
            lease,
            request: None,
            fails_in_plugin: false,
        }
    }

    /// A denial that is not the policy's.
    pub fn denied(id: Uuid, mode: Mode, reason: Reason, detail: Option<String>) -> Self {
        Self {
            id,
            decision: Decision::Deny,
            mode,
            reason,
            detail,
            answer: None,
            lease: None,
            request: None,
            // Facts D 55.
            fails_in_plugin: matches!(reason, Reason::DeadlineExceeded),
        }
    }

    /// A denial because the policy's answer cannot be carried out.
    pub fn refused(id: Uuid, mode: Mode, refusal: &Refusal) -> Self {
        Self { fails_in_plugin: refusal.fails_in_plugin(), ..Self::denied(id, mode, refusal.reason(), Some(refusal.to_string())) }
    }

    /// A denial that is only recorded, where the action, its tier or the caller is observed: what the policy, the tier or
    /// the path says is lifted, and never that a credential is bad or that something failed.
    pub fn observed(mut self) -> Self {
        if self.decision == Decision::Deny && self.reason.is_lifted_by_observing() {
            self.mode = Mode::Observe;
        }
        self
    }

    /// The answer, if the outcome is what it says. What a policy adds to an allow was meant for the upstream, and must
    /// not reach the client with a later denial.
    pub fn carried(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| answer.decision == self.decision)
    }

    /// Whether the call goes on: it is allowed, or its denial is only recorded.
    pub fn goes_through(&self) -> bool {
        self.decision == Decision::Allow || self.mode == Mode::Observe
    }

    /// True only if a policy's answer says so and nothing denied after it.
    pub fn is_allow(&self) -> bool {
        self.decision == Decision::Allow && self.carried().is_some()
    }
}

/// Reads the value of the decision rule; `None` is undefined.
pub fn read(value: Option<&Value>, compat: Option<Compat>) -> Result<Answer, Refusal> {
    match value {
        None => Err(Refusal::Undefined),
        Some(Value::Bool(true)) => Ok(Answer::new(Decision::Allow)),
        Some(Value::Bool(false)) => Ok(Answer::new(Decision::Deny)),
        Some(Value::Object(fields)) => Fields { fields, compat }.read(),
        Some(other) if compat.is_some() => Err(Refusal::IllegalValue { go_type: go_type(other) }),
        Some(other) => Err(Refusal::NotADecision { found: kind(other) }),
    }
}

/// The type that opa-envoy-plugin names for a value that is no decision.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "json.Number",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests;
