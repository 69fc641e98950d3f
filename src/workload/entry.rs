//! How one entry of the registry is written.

use std::{collections::BTreeMap, sync::Arc};

use chrono::DateTime;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{Allow, Workload};
use crate::json::{Fault, Members, Shown};

pub(super) fn read(document: &Value) -> Result<Workload, Vec<Fault>> {
    let mut members = Members::of(document);
    let workload = Workload {
        owner: members.read("owner"),
        team: members.read("team"),
        purpose: members.read("purpose"),
        environments: members.read("environments"),
        third_party: members.read("third_party").unwrap_or(false),
        state: members.read("state").unwrap_or_else(|| "active".into()),
        expires_at: members.read("expires_at").map(|Moment(seconds)| seconds),
        allows: members.read_by("allows", allows).unwrap_or_default(),
        schedule: members.read_by("schedule", super::schedule::read),
        max_credential_lifetime_s: members.read("max_credential_lifetime_s").map(|Seconds(most)| most),
        max_credential_age_s: members.read("max_credential_age_s").map(|Seconds(most)| most),
        limits: members.read("limits").map(|limits: BTreeMap<Arc<str>, u64>| limits.into_iter().collect()).unwrap_or_default(),
        escalation: members.read("escalation"),
        shown: Shown::default(),
        mode: members.read("mode").unwrap_or_default(),
    };
    let named = |key| document.get(key).is_some_and(|value| *value != "");
    if workload.third_party && !(named("owner") && named("expires_at")) {
        members.refuse_all("is a third party and needs `owner` and `expires_at`: somebody who answers for it, and an end");
    }
    members.finish(workload)
}

fn allows(document: &Value) -> Result<Vec<Allow>, Vec<Fault>> {
    let Some(items) = document.as_array() else {
        let text = "must be a list of actions, or of objects with `actions`".to_owned();
        return Err(vec![Fault { at: Vec::new(), text }]);
    };
    let (mut allows, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match allow(item) {
            Ok(allow) => allows.push(allow),
            Err(found) => faults.extend(found.into_iter().map(|fault| fault.below(&index.to_string()))),
        }
    }
    if faults.is_empty() { Ok(allows) } else { Err(faults) }
}

fn allow(document: &Value) -> Result<Allow, Vec<Fault>> {
    if let Some(action) = document.as_str() {
        return Ok(Allow { actions: vec![action.into()], ..Allow::default() });
    }
    let mut members = Members::of(document);
    let actions: Option<Vec<Arc<str>>> = members.read("actions");
    if actions.is_none() && document.get("actions").is_none() && document.is_object() {
        members.refuse_all("needs `actions`; write `[\"**\"]` for all of them");
    }
    let allow = Allow {
        actions: actions.unwrap_or_default(),
        classes: members.read("classes"),
        resources: members.read("resources"),
        tenants: members.read("tenants"),
        environments: members.read("environments"),
    };
    members.finish(allow)
}

/// Seconds since the Unix epoch, written as RFC 3339.
struct Moment(i64);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = DateTime::parse_from_rfc3339(&text);
        let moment = moment.map_err(|_| D::Error::custom(format!("`{text}` is no time such as `2027-06-30T00:00:00Z`")))?;
        Ok(Self(moment.timestamp()))
    }
}

/// A number of seconds above zero.
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = i64::deserialize(deserializer)?;
        if seconds > 0 { Ok(Self(seconds)) } else { Err(D::Error::custom("must be at least 1")) }
    }
}
