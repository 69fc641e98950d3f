//! One event of OPA's decision log, made of the record of a decision. Our own mask has been over the input already and
//! goes over the result here; then the rules of the policy in force do. A mask that fails takes with it all that it might
//! have masked, and never the event.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tracing::warn;

use super::{
    super::{DecisionRecord, KeptInput, Mask, encode},
    Draft, rule,
};
use crate::{config, policy::PolicyStore, verdict::Reason};

/// Longest that the policy may take to say what to mask, and as long to say what to withhold.
const LIMIT: Duration = Duration::from_millis(250);

const MASK: &str = "system/log/mask";
const DROP: &str = "system/log/drop";

/// Makes events.
pub(super) struct Maker {
    labels: Value,
    mask: Arc<Mask>,
    policies: Arc<PolicyStore>,
    mask_rule: Option<String>,
    drop_rule: Option<String>,
    /// What was last said about a mask that fails, so that it is said once.
    told: Option<String>,
}

/// What became of a draft.
pub(super) enum Made {
    Event(Vec<u8>),
    /// The policy does not want it in the log.
    Withheld,
}

impl Maker {
    pub(super) fn new(config: &config::Upload, instance: &str, mask: Arc<Mask>, policies: Arc<PolicyStore>) -> Self {
        let own = [("id", instance), ("version", env!("CARGO_PKG_VERSION"))];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.into()));
        // As in OPA, the operator's labels win, but for the version.
        let labels = own.chain(
            config.labels.iter().filter(|(key, _)| *key != "version").map(|(key, value)| (key.clone(), value.as_str().into())),
        );
        let labels = Value::Object(labels.collect());
        Self { labels, mask, policies, mask_rule: config.mask.clone(), drop_rule: config.drop.clone(), told: None }
    }

    pub(super) fn make(&mut self, draft: &Draft) -> Made {
        let mut event = self.event(draft);
        match self.ask(draft, &mut event) {
            Ok(true) => return Made::Withheld,
            Ok(false) => self.told = None,
            Err(text) => {
                for part in rule::PARTS {
                    if event.remove(part).is_some() {
                        rule::note(&mut event, "erased", &format!("/{part}"));
                    }
                }
                event.insert("custom".to_owned(), json!({"doorward": custom(&draft.decision, true)}));
                if self.told.as_ref() != Some(&text) {
                    warn!(error = text, "a mask of uploaded decisions fails; their inputs and results are left out");
                    self.told = Some(text);
                }
            }
        }
        // Taken from the input, so that a mask that hides the address there hides it here.
        match requested_by(&event) {
            Some(address) => event.insert("requested_by".to_owned(), address.into()),
            None => event.remove("requested_by"),
        };
        Made::Event(serde_json::to_vec(&event).unwrap_or_default())
    }

    /// Lets the policy in force have its say; true when the event is to be withheld.
    fn ask(&self, draft: &Draft, event: &mut Map<String, Value>) -> Result<bool, String> {
        let Some(policy) = self.policies.current() else {
            let nothing = rule::PARTS.iter().all(|part| !event.contains_key(*part));
            return if nothing { Ok(false) } else { Err("no policy is in force that could mask".to_owned()) };
        };
        if let Some(named) = self.mask_rule.iter().chain(&self.drop_rule).find(|named| !policy.has(named)) {
            return Err(format!("the policy has no `{named}`; correct `records.upload` or the policy"));
        }
        let view = Value::Object(event.clone());
        let ask = |named: &Option<String>, default: &str| {
            let path = named.as_deref().unwrap_or(default);
            policy.ask(path, &view, draft.at, LIMIT).map_err(|failure| format!("`{path}`: {}", failure.detail))
        };
        if ask(&self.drop_rule, DROP)? == Some(Value::Bool(true)) {
            return Ok(true);
        }
        match ask(&self.mask_rule, MASK)? {
            Some(rules) => rule::apply(&rules, event).map(|()| false).map_err(|error| error.to_string()),
            None => Ok(false),
        }
    }

    fn event(&self, Draft { id, at, decision }: &Draft) -> Map<String, Value> {
        let mut event = Map::new();
        let mut put = |key: &str, value: Value| drop(event.insert(key.to_owned(), value));
        put("labels", self.labels.clone());
        put("decision_id", id.to_string().into());
        put("timestamp", at.rfc3339().into());
        put("metrics", json!({"timer_server_handler_ns": u64::try_from(decision.latency.as_nanos()).unwrap_or(u64::MAX)}));
        put("custom", json!({"doorward": custom(decision, false)}));
        if let Some(ids) = decision.trace {
            put("trace_id", ids.trace.to_string().into());
            put("span_id", ids.span.to_string().into());
        }
        if let Some(policy) = &decision.policy {
            put("path", policy.path.trim_matches('/').into());
            match policy.bundles.is_empty() {
                true => put("revision", policy.revision.as_deref().into()),
                false => {
                    let bundles = policy.bundles.iter().map(|(name, revision)| (name.clone(), json!({"revision": revision})));
                    put("bundles", Value::Object(bundles.collect()));
                }
            }
        }
        if !decision.drawn.is_empty() {
            put("nd_builtin_cache", serde_json::to_value(&decision.drawn).unwrap_or_default());
        }
        match decision.reason {
            Reason::Policy => {
                let mut result = decision.result.clone();
                result.iter_mut().for_each(|result| self.mask.json(result));
                result.into_iter().for_each(|result| put("result", result));
            }
            reason => {
                let message = encode::cut(decision.detail.as_deref(), encode::MAX_TEXT).unwrap_or_else(|| reason.as_str());
                put("error", json!({"code": reason.as_str(), "message": message}));
            }
        }
        match &decision.input {
            KeptInput::Json(text) => match serde_json::from_slice(text) {
                Ok(input) => put("input", input),
                Err(_) => put("erased", json!(["/input"])),
            },
            KeptInput::MaskFailed => put("erased", json!(["/input"])),
            KeptInput::Absent => {}
        }
        if let Some(address) = requested_by(&event) {
            event.insert("requested_by".to_owned(), address.into());
        }
        event
    }
}

/// What OPA has no field for.
fn custom(decision: &DecisionRecord, mask_failed: bool) -> Value {
    let mut custom = json!({"decision": decision.decision, "enforced": decision.enforced, "reason": decision.reason});
    if let (true, Some(members)) = (mask_failed, custom.as_object_mut()) {
        members.insert("mask_failed".to_owned(), true.into());
    }
    custom
}

/// Address and port of the caller, as Envoy saw them.
fn requested_by(event: &Map<String, Value>) -> Option<String> {
    let socket = event.get("input")?.pointer("/attributes/source/address/socketAddress")?;
    let address = socket.get("address")?.as_str()?;
    Some(match (socket.get("portValue").and_then(Value::as_u64), address.contains(':')) {
        (Some(port), true) => format!("[{address}]:{port}"),
        (Some(port), false) => format!("{address}:{port}"),
        (None, _) => address.to_owned(),
    })
}

/// The event without what may be left out next; none when nothing is left that may.
pub(super) fn shorten(json: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(mut event)) = serde_json::from_slice(json) else { return None };
    let inputs = encode::EXPENDABLE.iter().map(|group| group.iter().map(|path| format!("input.{path}")).collect());
    let whole = ["input", "result", "requested_by", "error.message"].map(|part| vec![part.to_owned()]);
    let mut groups = std::iter::once(vec!["nd_builtin_cache".to_owned()]).chain(inputs).chain(whole);
    groups.find_map(|group: Vec<String>| {
        let mut document = Value::Object(std::mem::take(&mut event));
        let removed: Vec<_> = group.iter().filter(|path| encode::remove(&mut document, path)).collect();
        let Value::Object(shorter) = document else { return None };
        event = shorter;
        if removed.is_empty() {
            return None;
        }
        removed.iter().for_each(|path| rule::note(&mut event, "erased", &format!("/{}", path.replace('.', "/"))));
        serde_json::to_vec(&event).ok()
    })
}
