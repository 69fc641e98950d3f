//! What a request does: found in the catalogue (`data.doorward.actions`) by method, authority and canonical path, gRPC
//! method or MCP tool. What the catalogue does not list, or what cannot be read, is not known, and an action that is
//! not known is taken for the worst where its tier says so.

mod canonical;
pub mod catalogue;
mod mcp;
pub mod tier;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    json::Shown,
    verdict::{Class, Mode, Protocol, Sensitivity, Tier},
};

/// What one request does.
#[derive(Debug, Clone)]
pub struct Action {
    pub protocol: Protocol,
    /// The entry of the catalogue; none where the action is not known.
    pub entry: Option<Arc<Entry>>,
    pub resource: Option<Resource>,
    /// The named segments of the path, in the order of the pattern.
    pub params: Vec<(Arc<str>, String)>,
    /// SHA-256 in hex of the arguments in canonical form (RFC 8785): MCP arguments, else the parsed JSON body.
    pub args_digest: Option<String>,
    /// False where the body was cut, or should be there and was not sent to us.
    pub body_complete: bool,
    /// Why the action is not known although the catalogue may list it: one of a few fixed words.
    pub error: Option<&'static str>,
    /// Of a call at an MCP endpoint whose body could be read.
    pub mcp: Option<Mcp>,
}

impl Action {
    pub fn is_known(&self) -> bool {
        self.entry.is_some()
    }

    pub fn class(&self) -> Class {
        self.entry.as_ref().map_or(Class::Unknown, |entry| entry.class)
    }
}

/// What an action is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub kind: Arc<str>,
    pub id: Option<String>,
    pub tenant: Option<String>,
    /// Of kind, id and tenant; stands for them in a session's path.
    pub hash: u64,
}

/// The call inside an MCP request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mcp {
    /// `MCP-Protocol-Version`.
    pub version: Option<String>,
    /// JSON-RPC method: `tools/call`.
    pub method: String,
    /// `params.name` of `tools/call` and `prompts/get`.
    pub tool: Option<String>,
    /// `params.uri` of `resources/read`.
    pub uri: Option<String>,
    /// JSON-RPC id as JSON text; none for a notification.
    pub request_id: Option<String>,
    /// Whether a refusal is told with status 200 and not 403, as the route says.
    pub refuse_with_200: bool,
}

/// One entry of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// As records show it.
    pub shown: Shown,
    pub name: Arc<str>,
    pub class: Class,
    pub sensitivity: Sensitivity,
    /// Absent where the entry names none: then the default of `data.doorward.tiers`, else `standard`.
    pub tier: Option<Tier>,
    /// Open to everybody: probes and public routes (`evidence: none`).
    pub is_public: bool,
    /// Labels that a session acquires by it, with the intent.
    pub adds: Vec<Adds>,
    /// Labels that the session must have.
    pub requires: Vec<Arc<str>>,
    /// Labels after which it is forbidden.
    pub forbid_after: Vec<Arc<str>>,
    pub grant: GrantRule,
    pub grant_limits: GrantLimits,
    /// `observe` lifts denials by policy, tier and risk.
    pub mode: Mode,
}

impl Entry {
    /// Whether it matters what the session did before, or what it leaves behind.
    pub fn is_path_relevant(&self) -> bool {
        !(self.adds.is_empty() && self.requires.is_empty() && self.forbid_after.is_empty())
    }
}

/// A label that an action adds to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adds {
    pub label: Arc<str>,
    /// How long it stays.
    pub ttl: Duration,
    /// Only for the session, where that comes from a verified transaction, task or run; by default for the principal.
    pub for_session: bool,
}

/// What a grant of an action may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantLimits {
    /// Absent: an hour.
    pub life: Option<Duration>,
    /// Absent: it may have any number of uses, or none.
    pub uses: Option<u32>,
    /// People who have to approve; two for a critical action whatever stands here.
    pub approvals: Option<u32>,
}

/// When an action needs a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantRule {
    /// No grant lifts `forbid_after`.
    #[default]
    Never,
    /// A grant lifts `forbid_after`.
    AfterLabel,
    /// Every call needs one.
    Always,
}

impl GrantRule {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::AfterLabel => "after_label",
            Self::Always => "always",
        }
    }
}
