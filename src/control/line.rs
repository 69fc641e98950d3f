//! A decision's line as this API tells it: all but the input.

use serde::Deserialize;

use super::proto::v1::Decision;

#[derive(Deserialize)]
pub struct Line {
    id: String,
    at: String,
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    decision: String,
    enforced: bool,
    reason: String,
    rule: Option<String>,
    policy_reason: Option<String>,
    detail: Option<String>,
    principal: Option<String>,
    action: Option<Action>,
    listener: String,
    policy: Option<Policy>,
    request_id: Option<String>,
    grant: Option<String>,
    revocation: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Action {
    name: Option<String>,
    tier: Option<String>,
    session: Option<String>,
}

#[derive(Deserialize)]
struct Policy {
    revision: Option<String>,
}

impl Line {
    /// None of what is no decision.
    pub fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub fn decision(&self) -> &str {
        &self.body.decision
    }

    pub fn principal(&self) -> Option<&str> {
        self.body.principal.as_deref()
    }

    pub fn action(&self) -> Option<&str> {
        self.body.action.as_ref()?.name.as_deref()
    }
}

impl From<Line> for Decision {
    fn from(line: Line) -> Self {
        let Line { id, at, body } = line;
        let action = body.action.unwrap_or_default();
        Self {
            id,
            at: at.parse().ok(),
            decision: body.decision,
            enforced: body.enforced,
            reason: body.reason,
            rule: body.rule.unwrap_or_default(),
            policy_reason: body.policy_reason.unwrap_or_default(),
            detail: body.detail.unwrap_or_default(),
            principal: body.principal.unwrap_or_default(),
            action: action.name.unwrap_or_default(),
            tier: action.tier.unwrap_or_default(),
            session: action.session.unwrap_or_default(),
            listener: body.listener,
            revision: body.policy.and_then(|policy| policy.revision).unwrap_or_default(),
            request_id: body.request_id.unwrap_or_default(),
            grant: body.grant.unwrap_or_default(),
            revocation: body.revocation.unwrap_or_default(),
        }
    }
}
