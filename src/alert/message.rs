//! An alert in the words of Alertmanager's API v2: labels to tell it apart and to route it by, annotations for people.
//! Nothing in it was sent by a client but the name it has proved.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use url::Url;

use super::{Key, What, quoted, table::State};
use crate::{clock::Now, config};

/// What every alert says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    labels: BTreeMap<String, String>,
    generator: Option<Url>,
}

impl Wording {
    /// `place` says where this doorward stands, `pod` which one it is.
    pub fn new(config: &config::Alerts, place: &config::Place, pod: Option<&str>) -> Self {
        let place = place.pairs(None).into_iter().chain([("instance", pod)]);
        let place = place.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let labels = place.chain(config.labels.clone()).collect();
        Self { labels, generator: config.generator_url.clone() }
    }

    pub(super) fn message(&self, key: &Key, state: &State, ends: Now) -> Value {
        let Key { what, principal, owner, escalation } = key;
        let mut labels: Map<String, Value> = self.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut label = |name: &str, value: &str| drop(labels.insert(name.to_owned(), json!(value)));
        label("alertname", what.name());
        label("severity", what.severity().as_str());
        for (name, value) in [("principal", principal), ("owner", owner), ("escalation", escalation)] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                label(name, value);
            }
        }
        match what {
            What::CriticalDenial { action, enforced } => {
                label("action", action);
                if !enforced {
                    label("enforced", "false");
                }
            }
            What::RevokedUse { enforced: false } => label("enforced", "false"),
            What::Revocation(selected) => label("revoked", selected),
            _ => {}
        }
        let id = state.id.to_string();
        let is_decision = !matches!(what, What::Revocation(_));
        let annotations = json!({
            "summary": summary(key),
            "description": description(key, state, &id),
            "count": state.count.to_string(),
            (if is_decision { "decision_id" } else { "record_id" }): id,
        });
        let mut message = json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": state.starts.rfc3339(),
            "endsAt": ends.rfc3339(),
        });
        if let (Some(url), Value::Object(members)) = (&self.generator, &mut message) {
            members.insert("generatorURL".to_owned(), json!(url));
        }
        message
    }
}

/// How soon somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Critical,
    Warning,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

impl What {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::CriticalDenial { .. } => "DoorwardCriticalDenial",
            Self::HighRisk => "DoorwardHighRisk",
            Self::Unregistered => "DoorwardUnregistered",
            Self::Unowned => "DoorwardUnowned",
            Self::Overdue => "DoorwardOverdue",
            Self::Revocation(_) => "DoorwardRevocation",
            Self::RevokedUse { .. } => "DoorwardRevokedUse",
            Self::TooMany => "DoorwardTooManyAlerts",
        }
    }

    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::CriticalDenial { .. } | Self::HighRisk | Self::RevokedUse { .. } | Self::TooMany => Severity::Critical,
            Self::Unregistered | Self::Unowned | Self::Overdue | Self::Revocation(_) => Severity::Warning,
        }
    }
}

fn summary(key: &Key) -> String {
    let who = key.principal.as_deref().unwrap_or("a caller without an identity");
    let let_through = |enforced: &bool| if *enforced { "" } else { ", and let through: it is only observed" };
    match &key.what {
        What::CriticalDenial { action, enforced } => {
            format!("{who} was denied the critical action {action}{}", let_through(enforced))
        }
        What::HighRisk => format!("{who} acts at high risk"),
        What::Unregistered => format!("{who} acts and is not registered"),
        What::Unowned => format!("{who} acts and has no owner"),
        What::Overdue => format!("{who} acts past its time"),
        What::Revocation(selected) => format!("revoked: {selected}"),
        What::RevokedUse { enforced } => format!("{who} was revoked, and still calls{}", let_through(enforced)),
        What::TooMany => match &key.principal {
            Some(who) => format!("{who} brings about more alerts than one may have; the others are in this one"),
            None => "there are more alerts than there may be; the others are in this one".to_owned(),
        },
    }
}

fn description(key: &Key, state: &State, id: &str) -> String {
    let times = match state.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let (since, detail) = (state.starts.rfc3339(), quoted(&state.detail));
    let why = match &key.what {
        What::Revocation(_) => return format!("{detail}. The record {id} tells who did it."),
        What::CriticalDenial { .. } => format!(", the latest for the reason {detail}"),
        What::HighRisk => format!(", the latest for {detail}"),
        What::Overdue => format!(", the latest with the signal {detail}"),
        What::RevokedUse { .. } => format!(", the latest under revocation {detail}"),
        What::Unregistered | What::Unowned | What::TooMany => String::new(),
    };
    format!("{times} since {since}{why}. `doorward explain {id}` tells more.")
}
